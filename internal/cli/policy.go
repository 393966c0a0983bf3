package cli

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/fairlead-dev/fairlead/internal/depot"
	"github.com/fairlead-dev/fairlead/internal/fail"
)

func (a *app) agentPolicyCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "policy [FILE]",
		Short: "Show or set what this machine asks of artifacts before it starts them",
		Long: "policy without FILE shows what is asked of artifacts. With FILE it replaces that; what runs keeps running. The file has\n" +
			"`require: signed` (or digest), `keys:` (files of public keys, or their text), `max_age:` (since it was signed, as 720h) and\n" +
			"`forbid:` (modules, as PATH, PATH/... or PATH@<VERSION). An artifact that was accepted once can be gone back to although\n" +
			"it or its key got old, as long as its key is allowed.\n" + exitCodes,
		Example: "  fairlead agent policy\n  fairlead agent policy policy.yaml",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			if len(args) > 0 {
				b, err := os.ReadFile(args[0])
				if err != nil {
					return fail.New(fail.Usage, "", "%w", err)
				}
				p, err := depot.ParsePolicy(b, args[0])
				if err != nil {
					return err
				}
				if c, err = a.running(cmd.Context()); err != nil {
					return err
				}
				if err := c.SetPolicy(cmd.Context(), p); err != nil {
					return err
				}
			}
			p, err := c.Policy(cmd.Context())
			if err != nil {
				return err
			}
			compiled, err := p.Compile()
			if err != nil {
				return err
			}
			return a.print(p, func(w io.Writer) {
				fmt.Fprintln(w, compiled.Describe())
				for _, k := range compiled.Keys {
					fmt.Fprintln(w, "  key", k.ID)
				}
			})
		},
	}
}
