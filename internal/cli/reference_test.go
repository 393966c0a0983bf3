package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/fairlead-dev/fairlead/internal/spec"
)

// The reference pages are made from the code. `UPDATE=1 go test ./internal/cli -run Reference` writes them anew.
func TestReferenceIsUpToDate(t *testing.T) {
	schema, err := spec.Schema()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"cli.md": commands(t), "fairlead.yaml.md": fields(t, schema), "fairlead.schema.json": string(schema) + "\n",
	} {
		path := filepath.Join("..", "..", "docs", "reference", name)
		if os.Getenv("UPDATE") != "" {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		have, err := os.ReadFile(path)
		if err != nil || string(have) != text {
			t.Errorf("docs/reference/%s is not what the code says (%v): run `UPDATE=1 go test ./internal/cli -run Reference`", name, err)
		}
	}
}

// commands writes every command's help. Each must have an example, or be a group of others.
func commands(t *testing.T) string {
	var b strings.Builder
	b.WriteString("# Commands\n\n*Made from the code; `fairlead COMMAND --help` says the same.*\n")
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			return
		}
		if c.Runnable() {
			if c.Example == "" || c.Short == "" {
				t.Errorf("%s has no example or no short help", c.CommandPath())
			}
			fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", c.UseLine(), c.Short)
			if long := strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(c.Long), strings.TrimSpace(exitCodes))); long != "" {
				fmt.Fprintf(&b, "%s\n\n", long)
			}
			fmt.Fprintf(&b, "```\n%s\n```\n", c.Example)
			c.LocalFlags().VisitAll(func(f *pflag.Flag) {
				if f.Name != "help" {
					fmt.Fprintf(&b, "\n- `--%s`: %s", f.Name, f.Usage)
				}
			})
			b.WriteString("\n")
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk((&app{}).root())
	b.WriteString("\n## Everywhere\n\n- `--json`: one event or object a line on standard output\n" + exitCodes + "\n")
	return b.String()
}

// fields writes every key of fairlead.yaml with its description.
func fields(t *testing.T, schema []byte) string {
	var root jsonschema.Schema
	if err := json.Unmarshal(schema, &root); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("# fairlead.yaml\n\n*Made from the code, as is [the JSON Schema](fairlead.schema.json), which `fairlead schema` prints.*\n\n| key | |\n|---|---|\n")
	var walk func(path string, s *jsonschema.Schema)
	walk = func(path string, s *jsonschema.Schema) {
		keys := make([]string, 0, len(s.Properties))
		for k := range s.Properties {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for _, k := range keys {
			p := s.Properties[k]
			full := strings.TrimPrefix(path+"."+k, ".")
			if strings.HasPrefix(full, "environments.") {
				continue // the same keys again
			}
			fmt.Fprintf(&b, "| `%s` | %s |\n", full, strings.ReplaceAll(p.Description, "|", "\\|"))
			walk(full, p)
			if p.Items != nil {
				walk(full+"[]", p.Items)
			}
		}
	}
	walk("", &root)
	return b.String()
}
