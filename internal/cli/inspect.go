package cli

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/deploy"
	"github.com/fairlead-dev/fairlead/internal/inspect"
)

func (a *app) inspectCmd() *cobra.Command {
	var o inspect.Options
	var all bool
	c := &cobra.Command{
		Use:   "inspect FILE|REF|LAYOUT",
		Short: "Tell what a program or an image is, and whether it runs here",
		Long: "inspect reads an executable file (ELF, Mach-O, PE), also one that fairlead did not build, and answers first whether it runs on\n" +
			"this machine, or on the one whose files lie in --root, without installing Go. Of an image, in a registry or in a layout, it\n" +
			"tells what is in it and what vouches for it.\n" + exitCodes,
		Example: "  fairlead inspect ./shop\n  fairlead inspect --root /mnt/server /usr/bin/psql --json\n  fairlead inspect registry.example.com/team/shop:v1.2.3",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if fi, err := os.Stat(args[0]); err == nil && !fi.IsDir() {
				o.Packages = true
				r, err := inspect.File(args[0], o)
				if err != nil {
					return err
				}
				return a.print(r, func(w io.Writer) { writeReport(w, r, all, newStyles(isTerminal(w), a.Getenv)) })
			}
			d, err := a.deploy(".")
			if err != nil {
				return err
			}
			i, err := d.Inspect(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(i, func(w io.Writer) { writeImages(w, i) })
		},
	}
	c.Flags().StringVar(&o.Root, "root", "", "a folder that is the / of the machine asked about")
	c.Flags().BoolVar(&all, "all", false, "also every section, module and build setting")
	return a.withRegistry(c)
}

func writeReport(w io.Writer, r *inspect.Report, all bool, s styles) {
	ok, text := r.Answer()
	if ok {
		fmt.Fprintln(w, s.good(printable(text)))
	} else {
		fmt.Fprintln(w, s.bad(printable(text)))
	}
	row := func(name, format string, args ...any) {
		if v := printable(fmt.Sprintf(format, args...)); v != "" {
			fmt.Fprintf(w, "  %-12s  %s\n", name, v)
		}
	}
	row("file", "%s %s for %s/%s, %.1f MB%s", r.Format, r.Kind, r.OS, r.Arch, float64(r.Size)/1e6, traits(r))
	row("needs", "%s", r.MinOS)
	row("loader", "%s", r.Interpreter)
	for _, l := range r.Found {
		row("library", "%s  %s  %s", l.Name, l.Path, l.Package)
	}
	for _, l := range r.Missing {
		row("missing", "%s  needed by %s", l.Name, l.NeededBy)
	}
	for _, l := range r.TooOld {
		row("too old", "%s has %s, %s needs %s", l.Library, l.Has, l.NeededBy, l.Needs)
	}
	if g := r.Go; g != nil {
		row("go", "%s, %s %s", g.Version, g.Path, g.Main.Version)
		row("source", "%s", strings.TrimSpace(g.VCS.Revision+" "+g.VCS.Time+map[bool]string{true: " with changes that were not committed"}[g.VCS.Modified]))
		row("level", "%s", r.CPULevel)
		row("build id", "%s", g.BuildID)
		row("modules", "%d", len(g.Deps))
	}
	for _, x := range r.Damage {
		row("damaged", "%s", x)
	}
	if !all {
		return
	}
	if r.Go != nil {
		for _, m := range r.Go.Deps {
			row("module", "%s %s", m.Path, m.Version)
		}
		for _, k := range slices.Sorted(maps.Keys(r.Go.Settings)) {
			row("setting", "%s=%s", k, r.Go.Settings[k])
		}
	}
	for _, x := range r.Sections {
		row("section", "%-24s %d", x.Name, x.Size)
	}
}

// traits are what a file is and is not, behind a comma each.
func traits(r *inspect.Report) string {
	var t []string
	for _, x := range []struct {
		is   bool
		text string
	}{
		{r.Static(), "static"}, {!r.Static(), "dynamic"}, {r.PIE, "PIE"}, {r.Stripped(), "stripped"}, {r.SymbolTable, "with symbols"}, {r.DWARF, "with DWARF"},
		{r.Packed != "", "packed with " + r.Packed}, {r.Go != nil && r.Go.Race, "with the race detector"}, {r.Go != nil && r.Go.Cgo, "cgo enabled"},
	} {
		if x.is {
			t = append(t, x.text)
		}
	}
	return ", " + strings.Join(t, ", ")
}

func writeImages(w io.Writer, i *deploy.Inspected) {
	fmt.Fprintf(w, "%s\n", i.Digest)
	row := func(name, text string) {
		if text != "" {
			fmt.Fprintf(w, "  %-12s  %s\n", name, printable(text))
		}
	}
	row("name", strings.TrimSpace(i.Name+" "+i.Version))
	row("commit", i.Commit)
	if !i.Created.IsZero() {
		row("created", i.Created.Format(time.RFC3339))
	}
	row("go", i.Go)
	for _, m := range i.Images {
		row("image", fmt.Sprintf("%-16s %s  %6.1f MB  starts %s as %s", m.Platform, m.Digest[:19], float64(m.Size)/1e6, strings.Join(m.Entrypoint, " "), m.User))
	}
	for _, r := range i.Referrers {
		row("vouched by", fmt.Sprintf("%s  %s", r.Digest[:19], r.Kind))
	}
}
