package main

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/configs"
)

func configCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "config", Short: "About the configuration file",
		Example: "  tablexport config schema > tablexport.schema.json",
	}
	c.AddCommand(&cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of tablexport.yaml, for editors",
		Long: `Print the JSON Schema (draft 2020-12) of tablexport.yaml.

Editors with YAML support then complete keys and show their meaning, given this first line of the file:
  # yaml-language-server: $schema=tablexport.schema.json`,
		Example: "  tablexport config schema > tablexport.schema.json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			schema := configs.Schema()
			if g.json { // one object per line
				var line bytes.Buffer
				if err := json.Compact(&line, schema); err != nil {
					return fmt.Errorf("config schema: %w", err)
				}
				schema = append(line.Bytes(), '\n')
			}
			_, err := g.out.Write(schema)
			return err
		},
	})
	return c
}
