// Package lineage tells a catalog what runs do, as OpenLineage run events (https://openlineage.io/spec/2-0-2/OpenLineage.json): which
// table of which instance went into which dataset, when, with which columns and how many rows.
//
// An [Emitter] delivers them, in their order, by POST to an endpoint such as Marquez' /api/v1/lineage. Runs never wait for it: its queue is bounded, an event
// is tried for a bounded time, and what is lost is counted and logged. Events hold names, counts and our own errors; never values of rows, filters or credentials.
//
// It is a leaf.
package lineage

import (
	"encoding/json"
	"net/url"
	"strings"
	"time"
)

// Type is the transition that an event tells of.
type Type string

// The transitions. Each run has a Start, and one of the others, unless it dies: then its Abort is sent when it is found.
const (
	Start    Type = "START"
	Complete Type = "COMPLETE"
	Fail     Type = "FAIL"
	Abort    Type = "ABORT" // by a person, or the process died
)

// Event is one transition of one run.
type Event struct {
	Type     Type
	At       time.Time
	Run      string // a UUID
	Job      string
	About    string    // the job's description
	Nominal  time.Time // the tick that the run is for; zero: it was asked for
	Instance string    // host of the ERP
	Table    string    // there
	Dataset  string    // its address: a directory or an s3:// URL
	Engine   string    // "tablexport/1.2.3"

	// Of a run that has published:
	Version int64 // -1: none
	Rows    int64
	Bytes   int64
	Columns []Column

	// Of a run that has failed:
	Class string
	Error string
}

// Column is one of the dataset's.
type Column struct {
	Name string `json:"name"`
	Type string `json:"type,omitempty"`
	Text string `json:"description,omitempty"`
}

const (
	producer = "https://github.com/tablexport/tablexport"
	spec     = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
	facets   = "https://openlineage.io/spec/facets/"
)

// facet is what every facet begins with (BaseFacet).
type facet struct {
	Producer string `json:"_producer"`
	Schema   string `json:"_schemaURL"`
}

// of names a facet's schema by its version and name: of("1-0-1", "SchemaDatasetFacet").
func of(version, name string) facet {
	return facet{Producer: producer, Schema: facets + version + "/" + name + ".json#/$defs/" + name}
}

type (
	runEvent struct {
		Type     Type            `json:"eventType"`
		At       time.Time       `json:"eventTime"`
		Run      runPart         `json:"run"`
		Job      jobPart         `json:"job"`
		Inputs   []inputDataset  `json:"inputs"`
		Outputs  []outputDataset `json:"outputs"`
		Producer string          `json:"producer"`
		Schema   string          `json:"schemaURL"`
	}
	runPart struct {
		ID     string    `json:"runId"`
		Facets runFacets `json:"facets"`
	}
	runFacets struct {
		Nominal *nominalTime     `json:"nominalTime,omitempty"`
		Error   *errorMessage    `json:"errorMessage,omitempty"`
		Engine  processingEngine `json:"processing_engine"`
	}
	nominalTime struct {
		facet
		Start time.Time `json:"nominalStartTime"`
	}
	errorMessage struct {
		facet
		Message  string `json:"message"`
		Language string `json:"programmingLanguage"`
		Class    string `json:"class,omitempty"` // ours
	}
	processingEngine struct {
		facet
		Version string `json:"version"`
		Name    string `json:"name"`
	}
	jobPart struct {
		Namespace string    `json:"namespace"`
		Name      string    `json:"name"`
		Facets    jobFacets `json:"facets"`
	}
	jobFacets struct {
		Type  jobType        `json:"jobType"`
		About *documentation `json:"documentation,omitempty"`
	}
	jobType struct {
		facet
		Processing  string `json:"processingType"`
		Integration string `json:"integration"`
		Type        string `json:"jobType"`
	}
	documentation struct {
		facet
		Description string `json:"description"`
	}
	inputDataset struct {
		Namespace string        `json:"namespace"`
		Name      string        `json:"name"`
		Facets    datasetFacets `json:"facets"`
	}
	outputDataset struct {
		Namespace string         `json:"namespace"`
		Name      string         `json:"name"`
		Facets    datasetFacets  `json:"facets"`
		Output    *outputsFacets `json:"outputFacets,omitempty"`
	}
	datasetFacets struct {
		Source  *dataSource     `json:"dataSource,omitempty"`
		Schema  *schema         `json:"schema,omitempty"`
		Version *datasetVersion `json:"version,omitempty"`
	}
	dataSource struct {
		facet
		Name string `json:"name"`
		URI  string `json:"uri"`
	}
	schema struct {
		facet
		Fields []Column `json:"fields"`
	}
	datasetVersion struct {
		facet
		Version string `json:"datasetVersion"`
	}
	outputsFacets struct {
		Statistics outputStatistics `json:"outputStatistics"`
	}
	outputStatistics struct {
		facet
		Rows  int64 `json:"rowCount"`
		Bytes int64 `json:"size"`
	}
)

// Place is a dataset's name as OpenLineage forms it (spec/Naming.md): the namespace is what comes before the path.
func Place(address string) (namespace, name string) {
	if u, err := url.Parse(address); err == nil && u.Scheme != "" && u.Host != "" {
		return u.Scheme + "://" + u.Host, strings.Trim(u.Path, "/")
	}
	return "file", address
}

// encode is the event as it is sent.
func (e *Event) encode(namespace string) ([]byte, error) {
	name, version, _ := strings.Cut(e.Engine, "/")
	r := runEvent{
		Type: e.Type, At: e.At.UTC(), Producer: producer, Schema: spec,
		Run: runPart{ID: e.Run, Facets: runFacets{Engine: processingEngine{of("1-1-1", "ProcessingEngineRunFacet"), version, name}}},
		Job: jobPart{Namespace: namespace, Name: e.Job, Facets: jobFacets{Type: jobType{of("2-0-3", "JobTypeJobFacet"), "BATCH", "TABLEXPORT", "JOB"}}},
		// The instance is a data source of its own; there is no naming rule for its kind, so the general one holds: scheme, authority, path.
		Inputs: []inputDataset{{Namespace: "erpnet://" + e.Instance, Name: e.Table,
			Facets: datasetFacets{Source: &dataSource{of("1-0-1", "DatasourceDatasetFacet"), e.Instance, "erpnet://" + e.Instance}}}},
	}
	if e.About != "" {
		r.Job.Facets.About = &documentation{of("1-0-1", "DocumentationJobFacet"), e.About}
	}
	if !e.Nominal.IsZero() {
		r.Run.Facets.Nominal = &nominalTime{of("1-0-1", "NominalTimeRunFacet"), e.Nominal.UTC()}
	}
	if e.Error != "" {
		r.Run.Facets.Error = &errorMessage{of("1-0-1", "ErrorMessageRunFacet"), e.Error, "GO", e.Class}
	}
	out := outputDataset{}
	out.Namespace, out.Name = Place(e.Dataset)
	if e.Version >= 0 && e.Type != Start {
		out.Facets.Version = &datasetVersion{of("1-0-1", "DatasetVersionDatasetFacet"), jsonInt(e.Version)}
		out.Output = &outputsFacets{outputStatistics{of("1-0-2", "OutputStatisticsOutputDatasetFacet"), e.Rows, e.Bytes}}
	}
	if len(e.Columns) > 0 {
		out.Facets.Schema = &schema{of("1-1-1", "SchemaDatasetFacet"), e.Columns}
	}
	r.Outputs = []outputDataset{out}
	return json.Marshal(r)
}

func jsonInt(n int64) string {
	text, _ := json.Marshal(n) // a number always has a text
	return string(text)
}
