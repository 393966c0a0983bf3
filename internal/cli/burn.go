package cli

import (
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/supervise"
)

// burnCmd is what an instance with run.faults runs as: see supervise.Burn.
func (a *app) burnCmd() *cobra.Command {
	var cores float64
	var memory int64
	c := &cobra.Command{
		Use:    "burn -- PROGRAM [ARG...]",
		Short:  "Run a program and use processor time and memory in vain beside it",
		Args:   cobra.MinimumNArgs(1),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			program := exec.Command(args[0], args[1:]...)
			program.Stdin, program.Stdout, program.Stderr = os.Stdin, os.Stdout, os.Stderr
			code, err := supervise.Burn(cmd.Context(), cores, memory, program)
			if err == nil && code != 0 {
				os.Exit(code) // the program's own code, which is none of fairlead's
			}
			return err
		},
	}
	c.Flags().Float64Var(&cores, "cpu", 0, "cores")
	c.Flags().Int64Var(&memory, "memory", 0, "bytes")
	return c
}
