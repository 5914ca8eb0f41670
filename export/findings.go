package export

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/google/uuid"

	"github.com/tablexport/tablexport/export/delta"
)

// Finding is something that this program found out itself, for people: one row of a dataset of findings. It takes no record of a source, so that no row of
// one gets into a dataset by this way.
type Finding struct {
	Time                            time.Time
	Instance, Kind, Subject, Detail string
}

// FindingsSpec is one report.
type FindingsSpec struct {
	Report      string // its name; as a job's, it is the publisher of the dataset
	RunID       string // what makes a repeated report recognisable
	Description string
	Engine      string // "tablexport/1.2.3"
	Latest      bool   // the dataset holds the newest report alone; false: every report's rows are added
}

// findingColumns are the columns of a dataset of findings.
var findingColumns = arrow.NewSchema([]arrow.Field{
	findingColumn("report", "The report that found it: all rows of one belong together."),
	{Name: "time", Type: &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"}, Nullable: true, Metadata: findingComment("When the report was made.")},
	findingColumn("instance", "The instance that it is about."),
	findingColumn("kind", "What was found; report: the instance's figures, whatever was found."),
	findingColumn("subject", "The row of the instance, or the name, that it is about."),
	findingColumn("detail", "What was found, for people."),
}, nil)

func findingComment(text string) arrow.Metadata {
	return arrow.NewMetadata([]string{"comment"}, []string{text})
}

func findingColumn(name, text string) arrow.Field {
	return arrow.Field{Name: name, Type: arrow.BinaryTypes.String, Nullable: true, Metadata: findingComment(text)}
}

// findingsTries is how often a report is put on top of what others publish meanwhile.
const findingsTries = 8

// PublishFindings publishes the findings of one report as a version of the dataset, by the protocol of every other: staged under a name of the report, and
// made visible by one entry of the log. A report that is published again, its answer lost, takes its own place.
//
// The errors are those of a refresh: *OtherJob where a job or another report has published the dataset, *SchemaChange where it has other columns, *delta.Conflict,
// *delta.Unresolved, *delta.Unsupported, and those of the store.
func (d *Dataset) PublishFindings(ctx context.Context, spec FindingsSpec, all []Finding) (version int64, err error) {
	if !jobName.MatchString(spec.Report) || !runName.MatchString(spec.RunID) {
		return 0, fmt.Errorf("export: the report %q or its run %q: use letters, digits and . _ -", spec.Report, spec.RunID)
	}
	if len(all) == 0 {
		return 0, errors.New("export: a report without rows is not published: nobody could tell it from none")
	}
	base, err := d.log.Snapshot(ctx)
	if err != nil {
		return 0, err
	}
	if _, err := d.findingsMetadata(base, spec); err != nil {
		return 0, err
	}
	add, err := d.stageFindings(ctx, spec, all)
	if err != nil {
		return 0, err
	}
	change := delta.Change{Build: func(base *delta.Snapshot) ([]delta.Action, error) {
		return d.findingsActions(base, spec, *add, len(all))
	}}
	if !spec.Latest {
		change.Touches = func(map[string]*string) bool { return false } // rows of other reports are left alone
	}
	for try := 0; try < findingsTries; try++ { // two reports at once are no contradiction
		version, err = d.log.Apply(ctx, base, change)
		var conflict *delta.Conflict
		if !errors.As(err, &conflict) {
			break
		}
		if base, err = d.log.Snapshot(ctx); err != nil {
			break
		}
		err = conflict
	}
	var unresolved *delta.Unresolved
	if err != nil && !errors.As(err, &unresolved) {
		if key, kerr := add.Key(); kerr == nil {
			_ = d.b.Delete(ctx, key) // best effort: what stays is the sweeper's
		}
	}
	return version, err
}

func (d *Dataset) stageFindings(ctx context.Context, spec FindingsSpec, all []Finding) (*delta.Add, error) {
	b := array.NewRecordBuilder(memory.DefaultAllocator, findingColumns)
	defer b.Release()
	for _, f := range all {
		b.Field(1).(*array.TimestampBuilder).Append(arrow.Timestamp(f.Time.UnixMicro()))
		for i, text := range map[int]string{0: spec.RunID, 2: f.Instance, 3: f.Kind, 4: f.Subject, 5: f.Detail} {
			b.Field(i).(*array.StringBuilder).Append(text)
		}
	}
	rec := b.NewRecord()
	defer rec.Release()
	add, err := d.stageRecord(ctx, spec.RunID, "", findingColumns, rec)
	if err != nil {
		return nil, fmt.Errorf("export: findings: %w", err)
	}
	return add, nil
}

func (d *Dataset) findingsMetadata(base *delta.Snapshot, spec FindingsSpec) (delta.Metadata, error) {
	fields, err := delta.FieldsOf(findingColumns)
	if err != nil {
		return delta.Metadata{}, err
	}
	meta := base.Metadata
	if base.Version < 0 {
		meta = delta.Metadata{ID: uuid.NewString(), CreatedTime: time.Now().UnixMilli(), Format: delta.Format{Provider: "parquet"}, PartitionColumns: []string{}}
	} else {
		if job := meta.Configuration[confJob]; job != spec.Report {
			if job == "" {
				job = "another program"
			}
			return meta, &OtherJob{Dataset: d.name(), Published: job, Job: spec.Report}
		}
		old, err := delta.ParseSchema(meta.SchemaString)
		if err != nil {
			return meta, err
		}
		if _, diff, additive := reconcile(old, fields, meta.PartitionColumns, nil); len(diff) > 0 && !additive || len(meta.PartitionColumns) > 0 {
			return meta, &SchemaChange{Dataset: d.name(), Diff: diff}
		}
	}
	meta.Name, meta.Description = spec.Report, spec.Description
	meta.Configuration = maps.Clone(meta.Configuration)
	if meta.Configuration == nil {
		meta.Configuration = map[string]string{}
	}
	meta.Configuration[confJob] = spec.Report
	meta.SchemaString, err = delta.SchemaString(fields)
	return meta, err
}

func (d *Dataset) findingsActions(base *delta.Snapshot, spec FindingsSpec, add delta.Add, rows int) ([]delta.Action, error) {
	meta, err := d.findingsMetadata(base, spec)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	files := base.Files
	if !spec.Latest {
		files = earlier(base, &Spec{RunID: spec.RunID})
	}
	mode := map[bool]string{true: "Overwrite", false: "Append"}[spec.Latest]
	info := delta.CommitInfo{
		"timestamp": now.UnixMilli(), "operation": "WRITE", "isolationLevel": "Serializable", "isBlindAppend": false, "engineInfo": spec.Engine,
		"operationParameters": map[string]string{"mode": mode, "partitionBy": "[]"},
		"operationMetrics":    map[string]string{"numFiles": "1", "numOutputRows": fmt.Sprint(rows), "numRemovedFiles": fmt.Sprint(len(files))},
		infoKey:               info{Job: spec.Report, Run: spec.RunID},
	}
	app := (&Spec{Job: spec.Report}).appID("")
	out := []delta.Action{{CommitInfo: info}, {Txn: &delta.Txn{AppID: app, Version: base.Txns[app].Version + 1, LastUpdated: now.UnixMilli()}}}
	return append(append(out, replacing(base, &meta, files, now)...), delta.Action{Add: &add}), nil
}
