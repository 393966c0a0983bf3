package spec

import (
	"encoding/json"
	"reflect"

	"github.com/google/jsonschema-go/jsonschema"
)

// Schema returns the JSON Schema of fairlead.yaml, made from the Go types, indented.
func Schema() ([]byte, error) {
	text := func(pattern, example string) *jsonschema.Schema {
		return &jsonschema.Schema{Type: "string", Pattern: pattern, Examples: []any{example}}
	}
	s, err := jsonschema.For[Spec](&jsonschema.ForOptions{TypeSchemas: map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[Duration](): text(`^([0-9]+d|([0-9.]+(ns|us|µs|ms|s|m|h))+)$`, "30s"),
		reflect.TypeFor[Bytes]():    text(`^[0-9.]+ ?([KMGT]i?)?B$`, "512MiB"),
		reflect.TypeFor[Percent]():  text(`^[0-9.]+%$`, "5%"),
		reflect.TypeFor[Secret]():   text(`^(env|file|sops)://.+$`, "file://db-password.txt"),
		reflect.TypeFor[CPU]():      {Types: []string{"number", "string"}, Examples: []any{1.5}},
		reflect.TypeFor[Limit]():    {Types: []string{"integer", "string"}, Pattern: `^([0-9]+|auto)$`, Examples: []any{200, "auto"}},
		reflect.TypeFor[Amount]():   {Types: []string{"integer", "string"}, Pattern: `^[0-9]+%?$`, Examples: []any{1, "25%"}},
	}})
	if err != nil {
		return nil, err
	}
	s.Schema = "https://json-schema.org/draft/2020-12/schema"
	s.Title = FileName
	s.Required = []string{"service"}
	s.Properties["service"].Pattern, s.Properties["service"].MaxLength = nameForm.String(), jsonschema.Ptr(maxNameLength)
	plain(s)
	for path, allowed := range map[[2]string][]any{
		{"route", "tls"}: {"off", "auto", "own", "local", passthrough}, {"route", "protocol"}: {"http", tcp, udp}, {"route", "send_proxy"}: {"v1", "v2"},
		{"route", "mode"}:       {ModeProxy, ModeKernel, ModeAdaptive},
		{"release", "strategy"}: {"recreate", "rolling", "blue-green", "canary"},
	} {
		s.Properties[path[0]].Properties[path[1]].Enum = allowed
	}
	return json.MarshalIndent(s, "", "  ")
}

// plain takes "null" out of the types: the generator allows it for pointers, lists and maps, the reader does not.
func plain(s *jsonschema.Schema) {
	if s == nil {
		return
	}
	if len(s.Types) == 2 && s.Types[0] == "null" {
		s.Type, s.Types = s.Types[1], nil
	}
	for _, p := range s.Properties {
		plain(p)
	}
	plain(s.Items)
	plain(s.AdditionalProperties)
}
