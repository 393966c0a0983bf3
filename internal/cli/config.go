package cli

import (
	"encoding/json"
	"io"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/fairlead-dev/fairlead/internal/spec"
)

func (a *app) configCmd() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Look at the configuration"}
	c.AddCommand(a.withEnv(&cobra.Command{
		Use:   "show [FOLDER]",
		Short: "Print the resolved spec: overlay applied, defaults filled in, secrets as references",
		Long: "show prints what would be deployed for an environment. Secrets stand as the references the file holds, never as values.\n" +
			exitCodes,
		Example: "  fairlead config show\n  fairlead config show --env production --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := spec.Load(folder(args), a.env)
			if err != nil {
				return err
			}
			s.Environments = nil
			var out string
			return a.print(s, func(w io.Writer) {
				if out, err = asYAML(s); err == nil {
					_, err = io.WriteString(w, out)
				}
			})
		},
	}))
	return c
}

// asYAML writes v in the order of its Go fields: through JSON, so that there is one set of names.
func asYAML(v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	var n yaml.Node
	if err := yaml.Unmarshal(b, &n); err != nil {
		return "", err
	}
	plainStyle(&n)
	out, err := yaml.Marshal(&n)
	return string(out), err
}

// plainStyle drops JSON's braces and quotes.
func plainStyle(n *yaml.Node) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!str" {
		n.Style = 0
	}
	for _, c := range n.Content {
		plainStyle(c)
	}
}

func (a *app) schemaCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		Short:   "Print the JSON Schema of fairlead.yaml",
		Long:    "schema prints the JSON Schema that editors use for completion and checks. It is made from the types that read the file.\n" + exitCodes,
		Example: "  fairlead schema > fairlead.schema.json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b, err := spec.Schema()
			if err != nil {
				return err
			}
			_, err = a.Stdout.Write(append(b, '\n'))
			return err
		},
	}
}
