package configs

import _ "embed"

// Example is a commented configuration, as `tablexport init` writes it.
//
//go:embed example.yaml
var Example []byte
