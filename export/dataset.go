package export

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/parquet"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/odata/evidence"
	"github.com/tablexport/tablexport/odata/scope"
)

// infoKey is our part of a commitInfo, and info what is in it.
const infoKey = "tablexport"

type info struct {
	Job        string             `json:"job"`
	Run        string             `json:"run"`
	Table      string             `json:"table"`
	Source     string             `json:"source"`
	Scope      scope.Stamp        `json:"scope"`
	Query      string             `json:"query"`
	SchemaDiff []string           `json:"schemaDiff,omitempty"`
	Evidence   *evidence.Evidence `json:"evidence,omitempty"` // of a whole table
	Unit       string             `json:"unit,omitempty"`
	Windows    []WindowChange     `json:"windows,omitempty"` // that were read; their evidence is in their files' tags
	Expired    []string           `json:"expired,omitempty"` // windows that were removed
	Merge      *MergeInfo         `json:"merge,omitempty"`
	Care       string             `json:"care,omitempty"` // what dataset care did, in one sentence

	Quarantined int64 `json:"quarantined,omitempty"` // rows that did not fit
}

// WindowChange is a window that a version has read anew.
type WindowChange struct {
	Value string `json:"value"`
	Rows  int64  `json:"rows"`
	Files int    `json:"files"`
	Bytes int64  `json:"bytes"`
}

// Version is one version of a dataset and where it comes from. Job and what follows it are empty for versions that another
// engine has published.
type Version struct {
	Version   int64     `json:"version"`
	Timestamp time.Time `json:"timestamp"`
	Operation string    `json:"operation"`
	Engine    string    `json:"engine"`
	Rows      int64     `json:"rows"`  // written by this version
	Files     int       `json:"files"` // written by this version
	Bytes     int64     `json:"bytes"`
	Removed   int       `json:"removed"` // files of the version before

	Job        string             `json:"job,omitempty"`
	Run        string             `json:"run,omitempty"`
	Table      string             `json:"table,omitempty"`
	Source     string             `json:"source,omitempty"`
	Scope      scope.Stamp        `json:"scope"`
	Query      string             `json:"query,omitempty"`
	SchemaDiff []string           `json:"schemaDiff,omitempty"`
	Evidence   *evidence.Evidence `json:"evidence,omitempty"` // of a whole table
	Unit       string             `json:"unit,omitempty"`     // which of the run's commits
	Windows    []WindowChange     `json:"windows,omitempty"`
	Expired    []string           `json:"expired,omitempty"`
	Merge      *MergeInfo         `json:"merge,omitempty"` // of a merge: changed rows were written, the others left or copied
	Care       string             `json:"care,omitempty"`  // "12 files merged into 1", of a version that has read nothing

	Quarantined int64 `json:"quarantined,omitempty"` // rows that did not fit, and are in the quarantine
}

// versionOf decodes an entry's provenance. What cannot be decoded stays empty: commitInfo is free-form, and
// whoever wrote it owes us nothing.
func versionOf(e delta.Entry) Version {
	ci := e.CommitInfo()
	v := Version{Version: e.Version, Timestamp: e.Timestamp}
	v.Operation, _ = ci["operation"].(string)
	v.Engine, _ = ci["engineInfo"].(string)
	metrics, _ := ci["operationMetrics"].(map[string]any)
	v.Rows = metric(metrics["numOutputRows"])
	v.Files = int(metric(metrics["numFiles"]))
	v.Bytes = metric(metrics["numOutputBytes"])
	v.Removed = int(metric(metrics["numRemovedFiles"]))
	if raw, err := json.Marshal(ci[infoKey]); err == nil {
		var i info
		if json.Unmarshal(raw, &i) == nil {
			v.Job, v.Run, v.Table, v.Source, v.Scope, v.Query, v.SchemaDiff, v.Evidence = i.Job, i.Run, i.Table, i.Source, i.Scope, i.Query, i.SchemaDiff, i.Evidence
			v.Unit, v.Windows, v.Expired, v.Merge, v.Care, v.Quarantined = i.Unit, i.Windows, i.Expired, i.Merge, i.Care, i.Quarantined
		}
	}
	return v
}

// metric reads a number that engines write as text or as a number.
func metric(v any) int64 {
	var text string
	switch v := v.(type) {
	case string:
		text = v
	case json.Number:
		text = v.String()
	}
	n, _ := strconv.ParseInt(text, 10, 64)
	return n
}

// History returns the newest limit versions (0 = all that the log still has), newest first.
func (d *Dataset) History(ctx context.Context, limit int) ([]Version, error) {
	entries, err := d.log.History(ctx, limit)
	if err != nil {
		return nil, err
	}
	out := make([]Version, len(entries))
	for i, e := range entries {
		out[i] = versionOf(e)
	}
	return out, nil
}

// noTable is the error of what needs a published table where there is none; it is a delta.ErrNoVersion.
type noTable struct{ path string }

// Error implements error.
func (e *noTable) Error() string {
	return fmt.Sprintf("export: nothing has been published at %q yet", e.path)
}

// Is makes errors.Is(err, ErrNoVersion) true as well: there is no version at all.
func (e *noTable) Is(target error) bool { return target == delta.ErrNoVersion }

// name is the dataset's path, for messages.
func (d *Dataset) name() string {
	if d.path == "" {
		return d.Location()
	}
	return d.path
}

// table is the snapshot of a table that exists.
func (d *Dataset) table(ctx context.Context) (*delta.Snapshot, error) {
	s, err := d.log.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	if s.Version < 0 {
		return nil, &noTable{d.name()}
	}
	return s, nil
}

// Schema returns the published columns, comments in the field metadata ("comment").
func (d *Dataset) Schema(ctx context.Context) (*arrow.Schema, error) {
	s, err := d.table(ctx)
	if err != nil {
		return nil, err
	}
	return schemaOf(s)
}

func schemaOf(s *delta.Snapshot) (*arrow.Schema, error) {
	fields, err := delta.ParseSchema(s.Metadata.SchemaString)
	if err != nil {
		return nil, err
	}
	return delta.ArrowSchema(fields)
}

// fileSchema is the schema of the table's files: the partition columns are in the log alone.
func fileSchema(s *delta.Snapshot) (*arrow.Schema, error) {
	fields, err := delta.ParseSchema(s.Metadata.SchemaString)
	if err != nil {
		return nil, err
	}
	return delta.ArrowSchema(withoutPartitions(fields, s.Metadata.PartitionColumns))
}

// LiveFile is a file of the current version.
type LiveFile struct {
	Key      string    `json:"key"`      // relative to the dataset
	Location string    `json:"location"` // for other tools
	Size     int64     `json:"size"`
	Rows     int64     `json:"rows"` // -1: the log does not say
	Modified time.Time `json:"modified"`
	Run      string    `json:"run,omitempty"`
	Window   string    `json:"window,omitempty"` // of a table that is partitioned by window
}

// Files returns the files of the current version, sorted by key.
func (d *Dataset) Files(ctx context.Context) ([]LiveFile, error) {
	s, err := d.table(ctx)
	if err != nil {
		return nil, err
	}
	return d.files(s)
}

func (d *Dataset) files(s *delta.Snapshot) ([]LiveFile, error) {
	out := make([]LiveFile, len(s.Files))
	for i, f := range s.Files {
		key, err := f.Key()
		if err != nil {
			return nil, err
		}
		out[i] = LiveFile{Key: key, Location: d.b.Location(key), Size: f.Size, Rows: -1, Modified: time.UnixMilli(f.ModificationTime).UTC(), Run: f.Tags[tagRun], Window: f.Tags[tagWindow]}
		if f.Stats != "" {
			if st, err := delta.ParseStats(f.Stats); err == nil {
				out[i].Rows = st.NumRecords
			}
		}
	}
	return out, nil
}

// Location is the address of the table for other tools: a directory or an s3:// URL, without a slash at the end.
func (d *Dataset) Location() string {
	loc := d.b.Location("_delta_log")
	return loc[:len(loc)-len("/_delta_log")]
}

// readerAt reads ranges of an object: the Parquet reader asks for the footer, and for one column chunk at a time.
func (d *Dataset) readerAt(ctx context.Context, key string) io.ReaderAt {
	return &rangeReader{ctx: ctx, b: d.b, key: key}
}

type rangeReader struct {
	ctx context.Context
	b   store.Bucket
	key string
}

func (r *rangeReader) ReadAt(p []byte, off int64) (int, error) {
	body, err := r.b.OpenRange(r.ctx, r.key, off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	defer func() { _ = body.Close() }()
	n, err := io.ReadFull(body, p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

// jsonNumber writes a decimal into JSON as it is: a float in between would change it.
func jsonNumber(d parquet.Decimal) json.Number { return json.Number(d) }
