package configs

import "time"

// Telemetry is what other systems are told of runs, while they go on. Nothing is sent where nothing is written.
type Telemetry struct {
	Traces  *Traces  `yaml:"traces" jsonschema_description:"Spans of runs and requests for an OpenTelemetry collector, by OTLP over HTTP."`
	Lineage *Lineage `yaml:"lineage" jsonschema_description:"OpenLineage events of runs, for a data catalog."`
}

// Traces says where spans go.
type Traces struct {
	URL        string   `yaml:"url" jsonschema:"required,format=uri" jsonschema_description:"https://otel.acme.example/v1/traces; plain http only for loopback addresses."`
	HeaderFile string   `yaml:"header_file" jsonschema_description:"File with one line, Name: value, that is sent along, such as Authorization: Bearer …"`
	CAFile     string   `yaml:"ca_file" jsonschema_description:"PEM file of the collector's certificate authority, instead of the system's."`
	Percent    int      `yaml:"percent" jsonschema:"minimum=1,maximum=100,default=100" jsonschema_description:"The share of runs that are traced."`
	Timeout    Duration `yaml:"timeout" jsonschema:"default=10s" jsonschema_description:"For one try to send; runs do not wait for it."`
}

// Lineage says where events go.
type Lineage struct {
	URL       string   `yaml:"url" jsonschema:"required,format=uri" jsonschema_description:"https://catalog.acme.example/api/v1/lineage; plain http only for loopback addresses."`
	Namespace string   `yaml:"namespace" jsonschema:"default=tablexport" jsonschema_description:"Of the jobs, in the catalog."`
	KeyFile   string   `yaml:"key_file" jsonschema_description:"File with the key that is sent as a bearer token."`
	CAFile    string   `yaml:"ca_file" jsonschema_description:"PEM file of the catalog's certificate authority, instead of the system's."`
	Timeout   Duration `yaml:"timeout" jsonschema:"default=10s" jsonschema_description:"For one try to send; runs do not wait for it."`
}

func (t *Telemetry) defaults() {
	if t.Traces != nil {
		setDefault(&t.Traces.Percent, 100)
		setDefault(&t.Traces.Timeout, Duration(10*time.Second))
	}
	if t.Lineage != nil {
		setDefault(&t.Lineage.Namespace, "tablexport")
		setDefault(&t.Lineage.Timeout, Duration(10*time.Second))
	}
}

func (v *validator) telemetry() {
	if t := v.Telemetry.Traces; t != nil && t.URL != "" {
		v.address("telemetry.traces.url", t.URL, "https://otel.acme.example/v1/traces", true)
	}
	if l := v.Telemetry.Lineage; l != nil && l.URL != "" {
		v.address("telemetry.lineage.url", l.URL, "https://catalog.acme.example/api/v1/lineage", true)
	}
}
