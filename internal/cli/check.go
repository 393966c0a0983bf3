package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/deploy"
	"github.com/fairlead-dev/fairlead/internal/preflight"
)

func (a *app) checkCmd() *cobra.Command {
	var o deploy.CheckOptions
	c := &cobra.Command{
		Use:   "check [FOLDER]",
		Short: "Look at everything that could make a deploy fail",
		Long: "check looks at the Go toolchain, the module, the source tree, the machine, the port and the agent. Each finding says what was\n" +
			"found, what is needed and what to type. It changes nothing, unless --fix is given: then it does what is safe.\n\n" +
			"--vulns also asks the Go vulnerability database. What the program can reach is a warning, and an error where build.vulns.refuse\n" +
			"says so; then every deploy asks, too.\n" + exitCodes,
		Example: "  fairlead check\n  fairlead check --fix\n  fairlead check --vulns --vuln-db ./vulndb\n  fairlead check --json | jq 'select(.severity==\"error\")'",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deploy(folder(args))
			if err != nil {
				return err
			}
			d.Events = nil // the findings are the answer itself, not its progress
			found, err := d.Check(cmd.Context(), o)
			if err != nil {
				return err
			}
			s := newStyles(isTerminal(a.Stdout), a.Getenv)
			for _, f := range found {
				if err := a.print(f, func(w io.Writer) { writeFinding(w, f, s) }); err != nil {
					return err
				}
			}
			return preflight.Refuses(found)
		},
	}
	c.Flags().BoolVar(&o.Fix, "fix", false, "do what is safe to do about the findings, then look again")
	c.Flags().BoolVar(&o.Vulns, "vulns", false, "look for known vulnerabilities, and which of them the program can reach")
	c.Flags().StringVar(&o.VulnDB, "vuln-db", "", "with --vulns: the `ADDRESS` or folder of the database, in place of the spec's or Go's own")
	return a.withEnv(c)
}

func writeFinding(w io.Writer, f preflight.Finding, s styles) {
	mark := s.good("ok     ")
	switch f.Severity {
	case preflight.Info:
		mark = s.dim("info   ")
	case preflight.Warning:
		mark = s.warn("warning")
	case preflight.Error:
		mark = s.bad("error  ")
	}
	fmt.Fprintf(w, "%s  %-16s  %s\n", mark, f.ID, f.Found)
	if f.Severity == preflight.OK {
		return
	}
	if f.Need != "" {
		fmt.Fprintf(w, "%27sneeds %s\n", "", f.Need)
	}
	if f.Fix != "" {
		fmt.Fprintf(w, "%27s%s\n", "", s.good(f.Fix))
	}
}
