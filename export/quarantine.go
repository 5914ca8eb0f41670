package export

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/google/uuid"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/parquet"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/odata/evidence"
	"github.com/tablexport/tablexport/odata/scope"
)

// Rows that do not fit the columns of a dataset go to a Delta table of their own beside it, <path>.quarantine, which only grows: one row for each, with
// its key as text, what does not fit and why, its text, and the run that met it. The rows that version V of the dataset lacks are those
// whose run is that of V.
//
// The two tables are two logs, and there is no commit over both. The quarantine is committed first:
//
//	quarantine committed ─► dataset committed
//
// A crash between the two leaves rows in the quarantine that belong to a run which no version of the dataset names: they say what a run met that
// published nothing, which is true, and nobody who goes by runs takes them for anything else. The other way round a version could lack rows
// that are nowhere. What a run puts there replaces what an earlier attempt of the same run has put there, so that a commit that is tried again, its answer
// lost, changes nothing; the txn of the job (and window) keeps two processes from doing so at once.

// QuarantineSuffix makes of a dataset's path that of its quarantine.
const QuarantineSuffix = ".quarantine"

// Bounds of a quarantine where the job sets none: both hold.
const (
	DefaultQuarantined        = 1000 // rows of a run
	DefaultQuarantinedPercent = 1    // of the rows read, rounded up
)

// Quarantine says that rows that do not fit may be set aside.
type Quarantine struct {
	Key  []string // the columns of the source's key
	Most int64    // rows of one commit; 0 = DefaultQuarantined and DefaultQuarantinedPercent
}

// Misfit is a row that does not fit.
type Misfit struct {
	Key     []string // the values of Quarantine.Key
	Column  string   // whose value does not fit
	Reason  string
	Row     string // the row as JSON
	Window  string // of the slice
	Instant time.Time
}

// QuarantineLimit refuses a refresh in which too many rows do not fit.
type QuarantineLimit struct {
	Dataset string
	Rows    int64 // that do not fit
	Read    int64
	Most    int64
	Column  string // of the first of them
	Reason  string
}

// Error implements error.
func (e *QuarantineLimit) Error() string {
	return fmt.Sprintf("export: %d of %d rows for %q do not fit its columns, at most %d may be quarantined (the first one: column %s, %s): nothing was published; look at the source, "+
		"raise max_quarantined, or publish the columns as they are now with schema: evolve and --accept-schema", e.Rows, e.Read, e.Dataset, e.Most, e.Column, e.Reason)
}

// Quarantine is the table of the rows that did not fit, or nil where there can be none (a dataset at the root of its store).
func (d *Dataset) Quarantine() *Dataset {
	if d.path == "" {
		return nil
	}
	return Open(d.root, strings.TrimSuffix(d.path, "/")+QuarantineSuffix)
}

// SetAside takes a row that does not fit, for the quarantine. proof is the row's own record from its scope, one row: what the scope reads was
// decoded, and is inside. The row is counted by the evidence of the slice, and published with it.
func (s *Slice) SetAside(proof scope.Checked, m Misfit) error {
	if s.err != nil {
		return s.err
	}
	switch {
	case s.r.spec.Quarantine == nil:
		return s.fail(errors.New("export: the refresh has no quarantine"))
	case !proof.OK() || proof.Record().NumRows() != 1:
		return s.fail(fmt.Errorf("export: %w: a row for the quarantine has no proof", ErrRefused))
	case len(m.Key) != len(s.r.spec.Quarantine.Key):
		return s.fail(fmt.Errorf("export: a row for the quarantine has %d key values, not %d", len(m.Key), len(s.r.spec.Quarantine.Key)))
	}
	if err := s.r.sameScope(proof.Scope()); err != nil {
		return s.fail(err)
	}
	m.Window, m.Instant = s.spec.Value, s.spec.Loaded
	s.misfits = append(s.misfits, m)
	return nil
}

// balanced holds what was written and set aside against the evidence.
func (s *Slice) balanced(proof []evidence.Evidence) error {
	read, aside := int64(0), int64(0)
	for _, ev := range proof {
		read, aside = read+ev.Rows, aside+ev.Quarantined
	}
	if read != s.rows || aside != int64(len(s.misfits)) {
		return &RowMismatch{Evidence: read, Written: s.rows, EvidenceAside: aside, Aside: int64(len(s.misfits))}
	}
	return nil
}

// quarantine publishes the rows of the slices that do not fit, before anything else is published.
func (r *Refresh) quarantine(ctx context.Context) error {
	if r.spec.Quarantine == nil {
		return nil
	}
	misfits, read := r.misfits()
	if err := r.tooMany(misfits, read); err != nil {
		return err
	}
	side := r.d.Quarantine()
	if side == nil {
		return errors.New("export: a dataset at the root of its store has no place for a quarantine beside it: give it a path")
	}
	for try := 0; ; try++ {
		err := side.replace(ctx, &r.spec, misfits)
		var conflict *delta.Conflict
		// Windows of a run that are published one by one may make the table at the same time.
		if !errors.As(err, &conflict) || try == 3 {
			return err
		}
	}
}

func (r *Refresh) misfits() (misfits []Misfit, read int64) {
	for _, s := range r.slices {
		misfits = append(misfits, s.misfits...)
		read += s.rows + int64(len(s.misfits))
	}
	return misfits, read
}

func (r *Refresh) tooMany(misfits []Misfit, read int64) error {
	n, most := int64(len(misfits)), r.spec.Quarantine.Most
	if most == 0 {
		most = min(DefaultQuarantined, (read*DefaultQuarantinedPercent+99)/100)
	}
	if n <= most {
		return nil
	}
	return &QuarantineLimit{Dataset: r.d.name(), Rows: n, Read: read, Most: most, Column: misfits[0].Column, Reason: misfits[0].Reason}
}

// The tag that tells the files of one commit of a run from those of its others.
const tagUnit = "tablexport.unit"

// replace puts the rows of one commit of a run into the quarantine, in place of what an earlier attempt at that commit has put there. Without rows, and
// without such an attempt, it does nothing, so that a job whose rows all fit never makes the table.
func (d *Dataset) replace(ctx context.Context, spec *Spec, misfits []Misfit) error {
	base, err := d.log.Snapshot(ctx)
	if err != nil {
		return err
	}
	if len(misfits) == 0 && len(earlier(base, spec)) == 0 {
		return nil
	}
	schema := quarantineSchema(spec.Quarantine.Key)
	var add *delta.Add
	if len(misfits) > 0 {
		if add, err = d.stageMisfits(ctx, spec, schema, misfits); err != nil {
			return err
		}
	}
	_, err = d.log.Apply(ctx, base, delta.Change{
		Touches: func(map[string]*string) bool { return false }, // rows of other runs are left alone
		Build: func(base *delta.Snapshot) ([]delta.Action, error) {
			return d.quarantineActions(base, spec, schema, add, len(misfits))
		},
	})
	var unresolved *delta.Unresolved
	if err != nil && add != nil && !errors.As(err, &unresolved) {
		if key, kerr := add.Key(); kerr == nil {
			_ = d.b.Delete(ctx, key) // best effort: what stays is the sweeper's
		}
	}
	return err
}

// earlier are the files of an earlier attempt.
func earlier(base *delta.Snapshot, spec *Spec) (files []delta.Add) {
	for _, f := range base.Files {
		if f.Tags[tagRun] == spec.RunID && f.Tags[tagUnit] == spec.Unit {
			files = append(files, f)
		}
	}
	return files
}

// replacing are the actions by which files go, behind those that begin a table that is not there yet or change its metadata.
func replacing(base *delta.Snapshot, meta *delta.Metadata, files []delta.Add, now time.Time) (out []delta.Action) {
	if base.Version < 0 {
		out = append(out, delta.Action{Protocol: &delta.Protocol{MinReaderVersion: 1, MinWriterVersion: 2}})
	}
	if base.Version < 0 || !meta.Equal(base.Metadata) {
		out = append(out, delta.Action{Metadata: meta})
	}
	for _, f := range files {
		out = append(out, removal(f, now.UnixMilli(), true))
	}
	return out
}

func (d *Dataset) quarantineActions(base *delta.Snapshot, spec *Spec, schema *arrow.Schema, add *delta.Add, rows int) ([]delta.Action, error) {
	now := spec.Now()
	files := earlier(base, spec)
	info := delta.CommitInfo{
		"timestamp": now.UnixMilli(), "operation": "WRITE", "isolationLevel": "Serializable", "isBlindAppend": false, "engineInfo": spec.Engine,
		"operationParameters": map[string]string{"mode": "Append", "partitionBy": "[]"},
		"operationMetrics":    map[string]string{"numFiles": fmt.Sprint(min(rows, 1)), "numOutputRows": fmt.Sprint(rows), "numRemovedFiles": fmt.Sprint(len(files))},
		infoKey:               info{Job: spec.Job, Run: spec.RunID, Unit: spec.Unit, Table: spec.Table, Source: spec.Source, Scope: spec.Scope, Query: spec.Query},
	}
	app := spec.appID(spec.Unit)
	out := []delta.Action{{CommitInfo: info}, {Txn: &delta.Txn{AppID: app, Version: base.Txns[app].Version + 1, LastUpdated: now.UnixMilli()}}}
	meta, err := quarantineMetadata(base, spec, schema)
	if err != nil {
		return nil, err
	}
	out = append(out, replacing(base, &meta, files, now)...)
	if add != nil {
		out = append(out, delta.Action{Add: add})
	}
	return out, nil
}

// quarantineMetadata is made once. A key that has got other columns since adds them; those that were there stay.
func quarantineMetadata(base *delta.Snapshot, spec *Spec, schema *arrow.Schema) (delta.Metadata, error) {
	fields, err := delta.FieldsOf(schema)
	if err != nil {
		return delta.Metadata{}, err
	}
	meta := base.Metadata
	if base.Version < 0 {
		meta = delta.Metadata{ID: uuid.NewString(), CreatedTime: spec.Now().UnixMilli(), Format: delta.Format{Provider: "parquet"}, PartitionColumns: []string{}}
	} else {
		old, err := delta.ParseSchema(base.Metadata.SchemaString)
		if err != nil {
			return meta, err
		}
		for _, f := range old {
			if !slices.ContainsFunc(fields, func(g delta.Field) bool { return g.Name == f.Name }) {
				f.Nullable = true
				fields = append(fields, f)
			}
		}
	}
	meta.Name = spec.Table + QuarantineSuffix
	meta.Description = "Rows that did not fit the columns of the dataset beside this one, and are not in it."
	meta.Configuration = map[string]string{confJob: spec.Job, confTable: spec.Table, confSource: spec.Source}
	meta.SchemaString, err = delta.SchemaString(fields)
	return meta, err
}

// quarantineSchema is the key's columns as text, and what is known of the row. The key's columns have their own names unless those are taken.
func quarantineSchema(key []string) *arrow.Schema {
	text := func(name, comment string) arrow.Field {
		return arrow.Field{Name: name, Type: arrow.BinaryTypes.String, Nullable: true, Metadata: arrow.NewMetadata([]string{"comment"}, []string{comment})}
	}
	rest := []arrow.Field{
		text("quarantine_column", "The first column whose value does not fit."),
		text("quarantine_reason", "Why it does not fit."),
		text("quarantine_row", "The row as JSON, its values as they were sent."),
		text("quarantine_window", "The window of the refresh, empty for a whole table."),
		text("quarantine_run", "The run that met the row. The rows that a version of the dataset lacks are those of its run."),
	}
	at := text("quarantine_instant", "When the scan began that met the row.")
	at.Type = &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"}
	fields := make([]arrow.Field, 0, len(key)+len(rest)+1)
	for _, k := range key {
		fields = append(fields, text(k, "Key of the row, as text."))
	}
	return arrow.NewSchema(append(append(fields, rest...), at), nil)
}

// stageMisfits writes the rows into one file.
func (d *Dataset) stageMisfits(ctx context.Context, spec *Spec, schema *arrow.Schema, misfits []Misfit) (*delta.Add, error) {
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	for _, m := range misfits {
		for i, text := range slices.Concat(m.Key, []string{m.Column, m.Reason, m.Row, m.Window, spec.RunID}) {
			b.Field(i).(*array.StringBuilder).Append(text)
		}
		b.Field(schema.NumFields() - 1).(*array.TimestampBuilder).Append(arrow.Timestamp(m.Instant.UnixMicro()))
	}
	rec := b.NewRecord()
	defer rec.Release()
	add, err := d.stageRecord(ctx, spec.RunID, spec.Unit, schema, rec)
	if err != nil {
		return nil, fmt.Errorf("export: quarantine: %w", err)
	}
	return add, nil
}

// stageRecord writes one record into one file, which no log entry names yet: a crash leaves it to the sweeper.
func (d *Dataset) stageRecord(ctx context.Context, run, unit string, schema *arrow.Schema, rec arrow.Record) (*delta.Add, error) {
	var id [4]byte
	_, _ = rand.Read(id[:]) // never fails
	key := fmt.Sprintf("part-%s-%s-00000.zstd.parquet", run, hex.EncodeToString(id[:]))
	upload, err := d.b.Create(ctx, key)
	if err != nil {
		return nil, err
	}
	footer, info, err := writeOne(ctx, upload, schema, rec)
	if err != nil {
		return nil, errors.Join(err, upload.Abort(ctx))
	}
	stats, err := statsOf(schema, footer).JSON()
	if err != nil {
		return nil, err
	}
	return &delta.Add{Path: delta.EncodePath(key), Size: footer.Size, ModificationTime: info.Modified.UnixMilli(), DataChange: true, Stats: stats,
		Tags: map[string]string{tagRun: run, tagUnit: unit}}, nil
}

func writeOne(ctx context.Context, upload store.Upload, schema *arrow.Schema, rec arrow.Record) (footer parquet.Footer, at store.Info, err error) {
	w, err := parquet.NewWriter(upload, schema, parquet.Options{LowMemory: true})
	if err != nil {
		return footer, at, err
	}
	if err := w.Write(rec); err != nil {
		return footer, at, err
	}
	if footer, err = w.Close(); err != nil {
		return footer, at, err
	}
	at, err = upload.Commit(ctx)
	if err == nil && at.Size != footer.Size {
		err = fmt.Errorf("%d bytes in the store, %d were written", at.Size, footer.Size)
	}
	return footer, at, err
}
