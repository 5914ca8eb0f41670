package configs

import (
	"encoding/json"

	"github.com/invopop/jsonschema"
)

// Schema is the JSON Schema (draft 2020-12) of the file, generated from the types, for editors.
func Schema() []byte {
	r := jsonschema.Reflector{FieldNameTag: "yaml", DoNotReference: true, RequiredFromJSONSchemaTags: true}
	s := r.Reflect(&Config{})
	s.Title = "tablexport.yaml"
	s.ID = ""
	visit(s)
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // the types are ours: a test covers it
	}
	return append(text, '\n')
}

// visit adds what the reflector does not know: names of map entries, durations.
func visit(s *jsonschema.Schema) {
	if s == nil {
		return
	}
	if s.Properties != nil {
		for p := s.Properties.Oldest(); p != nil; p = p.Next() {
			visit(p.Value)
		}
	}
	if s.Type == "object" && s.Properties.Len() == 0 && s.AdditionalProperties != nil {
		s.PropertyNames = &jsonschema.Schema{Pattern: "^[a-z0-9][a-z0-9_-]{0,63}$"}
	}
	visit(s.AdditionalProperties)
	visit(s.Items)
}

// JSONSchema describes a duration as the text that it is written as.
func (Duration) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Pattern: `^([0-9]+d|([0-9]+d)?([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+)$`, Examples: []any{"30s", "5m"}}
}
