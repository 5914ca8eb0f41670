package status

import (
	"encoding/json"
	"maps"
	"sync"
	"time"

	"github.com/invopop/jsonschema"
)

// openAPI is the document of the API, OpenAPI 3.1. Its schemas are made from the types that the handlers answer with, so that the two
// cannot drift apart.
var openAPI = sync.OnceValue(func() []byte {
	type object = map[string]any
	r := jsonschema.Reflector{DoNotReference: true, AllowAdditionalProperties: true, Anonymous: true}
	schemas := object{}
	for name, v := range map[string]any{"Jobs": JobsAnswer{}, "Job": JobView{}, "Runs": RunsAnswer{}, "Run": RunView{}, "Ticks": TicksAnswer{},
		"Instances": InstancesAnswer{}, "Alerts": AlertsAnswer{}, "Tokens": TokensAnswer{}, "Dataset": DatasetView{}, "OrderBody": OrderBody{}, "Order": OrderAnswer{}, "Error": ErrorAnswer{}} {
		s := r.Reflect(v)
		s.Version = ""
		schemas[name] = s
	}
	param := func(in, name, text string, schema object) object {
		return object{"name": name, "in": in, "required": in == "path", "description": text, "schema": schema}
	}
	text := object{"type": "string"}
	job := param("query", "job", "Only of this job.", text)
	limit := param("query", "limit", "How many at most.", object{"type": "integer", "minimum": 1, "maximum": 1000, "default": 50})
	content := func(name string) object {
		return object{"application/json": object{"schema": object{"$ref": "#/components/schemas/" + name}}}
	}
	answer := func(name, what string) object { return object{"description": what, "content": content(name)} }
	// What every operation may answer, beside what it is for.
	responses := func(more object) object {
		later := answer("Error", "Too many requests of this client.")
		later["headers"] = object{"Retry-After": object{"description": "Seconds to wait.", "schema": object{"type": "integer", "minimum": 1}}}
		all := object{"400": answer("Error", "The request makes no sense."), "401": answer("Error", "Nobody, or a token or certificate that is not accepted."),
			"403": answer("Error", "The caller's roles are not enough, or the request comes from a page of another site."), "404": answer("Error", "There is no such thing."), "429": later,
			"503": answer("Error", "Not now; the program's log says why.")}
		maps.Copy(all, more)
		return all
	}
	get := func(id, what, schema string, params ...object) object {
		return object{"get": object{"operationId": id, "summary": what, "parameters": some(params), "responses": responses(object{"200": answer(schema, what)})}}
	}
	post := func(do string) object {
		status := "200"
		if do == "run" {
			status = "202"
		}
		return object{"post": object{"operationId": do, "summary": Orders[do], "description": "For the roles operator and admin. It is in the audit log before it is done.",
			"parameters":  []object{param("path", "job", "Its name.", text)},
			"requestBody": object{"required": true, "content": content("OrderBody")},
			"responses": responses(object{status: answer("Order", "It was taken."), "409": answer("Error", "The job is not in a state for that."),
				"415": answer("Error", "The body is not JSON.")})}}
	}
	doc, err := json.MarshalIndent(object{
		"openapi": "3.1.0",
		"info": object{"title": "tablexport", "version": "1", "license": object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
			"description": "What the clock of tablexport does and has done, and what can be asked of its jobs. Without authentication it can be read only, and over loopback only."},
		"servers": []object{{"url": "/api/v1"}},
		"paths": object{
			"/jobs":             get("jobs", "Every job, and where it is.", "Jobs"),
			"/jobs/{job}":       get("job", "One job.", "Job", param("path", "job", "Its name.", text)),
			"/jobs/{job}/pause": post("pause"), "/jobs/{job}/resume": post("resume"), "/jobs/{job}/run": post("run"), "/jobs/{job}/cancel": post("cancel"),
			"/runs": get("runs", "Runs, newest first.", "Runs", job, limit, param("query", "state", "Only in this state.", object{"type": "string", "enum": []string{"running", "succeeded", "failed", "canceled", "interrupted"}}),
				param("query", "before", "Only older than this run: the before of the page before.", text)),
			"/runs/{run}":         get("run", "One run, with its steps and evidence.", "Run", param("path", "run", "Its id.", text)),
			"/ticks":              get("ticks", "What became of ticks, newest first.", "Ticks", job, limit),
			"/instances":          get("instances", "Every instance, and where it is.", "Instances"),
			"/jobs/{job}/dataset": get("dataset", "What a job has published: columns, versions, and who refreshes it now. Some seconds old at most.", "Dataset", param("path", "job", "Its name.", text)),
			"/tokens":             get("tokens", "Every version of every token, with who uses it; nothing of its value. For the roles auditor and admin.", "Tokens"),
			"/alerts":             get("alerts", "Alerts that are not over.", "Alerts"),
		},
		"security": []object{{}, {"bearer": []string{}}, {"certificate": []string{}}},
		"components": object{"schemas": schemas, "securitySchemes": object{
			"bearer":      object{"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "An access token of the issuer that serve.oidc names, for its audience."},
			"certificate": object{"type": "mutualTLS", "description": "A client certificate that serve.mtls knows."}}},
	}, "", "  ")
	if err != nil {
		panic(err) // the types are ours: a test covers it
	}
	return append(doc, '\n')
})

// Alert is an open alert as it is shown.
type Alert struct {
	Key      string    `json:"key"`
	Kind     string    `json:"kind"`
	Severity string    `json:"severity"`
	Job      string    `json:"job,omitempty"`
	Instance string    `json:"instance,omitempty"`
	Title    string    `json:"title"`
	Since    time.Time `json:"since"`
}

// Token is a version of a token as it is shown; nothing of its value.
type Token struct {
	Name        string     `json:"token"`
	Version     int        `json:"version"`
	State       string     `json:"state"`
	Fingerprint string     `json:"fingerprint"`
	Bound       string     `json:"bound"` // instance, host and environment
	Created     time.Time  `json:"created"`
	Expires     time.Time  `json:"expires,omitzero"` // absent: not known
	Owner       string     `json:"owner,omitempty"`
	Scopes      string     `json:"scopes,omitempty"`
	Jobs        []string   `json:"jobs"` // of this configuration, that borrow it
	Uses        []TokenUse `json:"uses"` // of this version, newest first
}

// TokenUse is when a place (a state directory of an account on a machine) has used a token last.
type TokenUse struct {
	Place string    `json:"place"`
	Last  time.Time `json:"last"`
}
