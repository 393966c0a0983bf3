package cli

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Version is what the linker stamped; empty parts are taken from the build information.
type Version struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`
	Date     string `json:"date"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// resolve fills in what was not stamped.
func (v Version) resolve() Version {
	v.Go, v.Platform = runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH
	bi, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if v.Version == "" {
		v.Version = bi.Main.Version
	}
	modified := false
	for _, s := range bi.Settings {
		switch {
		case s.Key == "vcs.revision" && v.Commit == "":
			v.Commit = s.Value
		case s.Key == "vcs.time" && v.Date == "":
			v.Date = s.Value
		case s.Key == "vcs.modified":
			modified = s.Value == "true"
		}
	}
	if v.Version == "" {
		v.Version = "(devel)"
	}
	if v.Commit == "" {
		v.Commit = "unknown"
	} else if modified {
		v.Commit += " (modified)"
	}
	if v.Date == "" {
		v.Date = "unknown"
	}
	return v
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print version, commit, date, Go and platform",
		Example: "  fairlead version --json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := a.Version.resolve()
			return a.print(v, func(w io.Writer) {
				fmt.Fprintf(w, "fairlead %s\ncommit   %s\ndate     %s\ngo       %s\nplatform %s\n", v.Version, v.Commit, v.Date, v.Go, v.Platform)
			})
		},
	}
}
