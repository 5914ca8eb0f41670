package export

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/google/uuid"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/parquet"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/odata/evidence"
	"github.com/tablexport/tablexport/odata/scope"
)

// Refresh replaces the whole content of a dataset. It is not safe for concurrent use.
type Refresh struct {
	d       *Dataset
	spec    Spec
	ctx     context.Context // of Begin: it governs the uploads, which outlive one Write
	base    *delta.Snapshot
	plan    *plan
	attempt string // makes part names unique when a run is repeated
	by      *scope.Scope

	repeated *Commit // this run is published already
	rows     int64
	open     *part
	parts    []*part
	err      error // why the refresh has ended
	keep     bool  // a log entry may name the parts: they must not be deleted
}

// part is one Parquet file.
type part struct {
	key    string
	upload store.Upload
	w      *parquet.Writer
	info   store.Info
	footer parquet.Footer
}

// Begin reads the snapshot and checks the schema. The error is *SchemaChange when the schema is not an addition of
// nullable columns and AcceptSchema is not set, *OtherJob when another job has published the dataset and AcceptSchema is not set, and *delta.Unsupported when the table is one that other engines have made into something
// that we must not write to.
//
// When this run has been published before (its answer was lost, say), the refresh writes nothing, and Commit returns
// what was published; [Refresh.Published] tells at once. ctx governs the uploads of the refresh: it must not end
// before Commit or Abort.
func (d *Dataset) Begin(ctx context.Context, spec Spec) (*Refresh, error) {
	if err := spec.validate(); err != nil {
		return nil, err
	}
	base, err := d.log.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	r := &Refresh{d: d, spec: spec, ctx: ctx, base: base}
	if _, known := base.Txns[spec.appID()]; known {
		if r.repeated = published(base, &spec); r.repeated != nil {
			return r, nil
		}
	}
	if r.plan, err = d.plan(base, &spec, uuid.NewString); err != nil {
		return nil, err
	}
	// The writer refuses what it cannot write (a key column that is not there, say): better now than after the scan.
	if _, err := parquet.NewWriter(discard{}, spec.Schema, r.options()); err != nil {
		return nil, err
	}
	var id [4]byte
	_, _ = rand.Read(id[:]) // never fails
	r.attempt = hex.EncodeToString(id[:])
	return r, nil
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// published finds the entry of this very run among the recent ones: a repeat comes soon after.
func published(base *delta.Snapshot, spec *Spec) *Commit {
	for _, e := range base.Recent {
		if c := commitOf(e, spec); c != nil {
			return c
		}
	}
	return nil
}

// commitOf is what e published if e is by this very run.
func commitOf(e delta.Entry, spec *Spec) *Commit {
	v := versionOf(e)
	if v.Run != spec.RunID || v.Job != spec.Job {
		return nil
	}
	return &Commit{Version: e.Version, Rows: v.Rows, Files: v.Files, Bytes: v.Bytes, Removed: v.Removed, Repeated: true}
}

// Published returns what an earlier attempt of this run has published, if it has.
func (r *Refresh) Published() (Commit, bool) {
	if r.repeated == nil {
		return Commit{}, false
	}
	return *r.repeated, true
}

// SchemaDiff is how columns, job and scope differ from the published ones, in the form of [Commit].SchemaDiff.
func (r *Refresh) SchemaDiff() []string {
	if r.plan == nil {
		return nil
	}
	return r.plan.diff
}

// Rows is the number of rows written so far.
func (r *Refresh) Rows() int64 { return r.rows }

func (r *Refresh) options() parquet.Options {
	o := r.spec.Parquet
	o.Key = r.spec.Key
	o.Metadata = maps.Clone(o.Metadata)
	if o.Metadata == nil {
		o.Metadata = map[string]string{}
	}
	maps.Copy(o.Metadata, provenance(&r.spec))
	o.Metadata["tablexport.run"] = r.spec.RunID
	o.Metadata["tablexport.query"] = r.spec.Query
	o.Metadata["tablexport.engine"] = r.spec.Engine
	return o
}

// Write appends rows. It takes nothing but what a scope has checked, and only from the scope that the dataset is stamped with.
// The caller may release rows at once. After an error the refresh has ended.
func (r *Refresh) Write(ctx context.Context, rows scope.Checked) error {
	if r.err != nil {
		return r.err
	}
	if err := r.admit(rows); err != nil {
		return r.fail(err)
	}
	rec := rows.Record()
	if r.repeated != nil || rec.NumRows() == 0 {
		r.rows += rec.NumRows()
		return nil
	}
	if err := ctx.Err(); err != nil {
		return r.fail(fmt.Errorf("export: %w", context.Cause(ctx)))
	}
	if r.open == nil {
		if err := r.begin(); err != nil {
			return r.fail(err)
		}
	}
	if err := r.open.w.Write(rec); err != nil {
		return r.fail(err)
	}
	r.rows += rec.NumRows()
	if r.open.w.Written() < r.spec.FileBytes {
		return nil
	}
	if err := r.finish(ctx); err != nil {
		return r.fail(err)
	}
	return nil
}

// admit proves that rows are this refresh's: checked, by the scope of the stamp, with the columns of the schema.
func (r *Refresh) admit(rows scope.Checked) error {
	if !rows.OK() {
		return fmt.Errorf("export: %w: it is empty", ErrRefused)
	}
	if by := rows.Scope(); by != r.by {
		if !sameStamp(by.Stamp(), r.spec.Scope) {
			return fmt.Errorf("export: %w: it comes from the scope %q, the dataset's is %q", ErrRefused, by.Stamp().Name, r.spec.Scope.Name)
		}
		r.by = by
	}
	got, want := rows.Record().Schema(), r.spec.Schema
	if got.NumFields() != want.NumFields() {
		return fmt.Errorf("export: the record has %d columns, the refresh %d", got.NumFields(), want.NumFields())
	}
	for i, g := range got.Fields() {
		if w := want.Field(i); g.Name != w.Name || !arrow.TypeEqual(g.Type, w.Type) {
			return fmt.Errorf("export: column %d of the record is %s %s, the refresh's is %s %s", i, g.Name, g.Type, w.Name, w.Type)
		}
	}
	return nil
}

func (r *Refresh) fail(err error) error {
	r.err = err
	return err
}

// partKey names a part: the sweeper finds the run in it, and other engines' vacuum takes it for an ordinary data file.
func partKey(run, attempt string, n int) string {
	return fmt.Sprintf("part-%s-%s-%05d.zstd.parquet", run, attempt, n)
}

// begin starts a part. A crash from here to finish leaves an upload that no one sees (the driver's to sweep), and
// after finish a part that no log entry names.
func (r *Refresh) begin() error {
	p := &part{key: partKey(r.spec.RunID, r.attempt, len(r.parts))}
	var err error
	if p.upload, err = r.d.b.Create(r.ctx, p.key); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	r.open = p
	if p.w, err = parquet.NewWriter(p.upload, r.spec.Schema, r.options()); err != nil {
		return err
	}
	return nil
}

// finish ends the open part and reads its footer back: a file counts only when a reader can open it.
func (r *Refresh) finish(ctx context.Context) error {
	p := r.open
	var err error
	if p.footer, err = p.w.Close(); err != nil {
		return err
	}
	// From here on the part may be there, whatever the answer is.
	r.parts, r.open = append(r.parts, p), nil
	p.w = nil // its dictionaries and buffers are tens of megabytes, and the next file has its own
	if p.info, err = p.upload.Commit(ctx); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	p.upload = nil
	if p.info.Size != p.footer.Size {
		return fmt.Errorf("export: %s has %d bytes in the store, %d were written", p.key, p.info.Size, p.footer.Size)
	}
	f, err := parquet.Open(r.d.readerAt(ctx, p.key), p.info.Size)
	if err != nil {
		return fmt.Errorf("export: %s cannot be read back: %w", p.key, err)
	}
	if err := f.Check(p.footer); err != nil {
		return fmt.Errorf("export: %s: %w", p.key, err)
	}
	return nil
}

// Commit publishes what was written, if ev proves it complete and its row count is ours. After any error the previous
// version stands, with one exception that names itself: *delta.Unresolved says that it is not known (the store did not answer);
// a repeated run with the same RunID finds out.
//
// The other errors: *evidence.Incomplete, *RowMismatch, *delta.Conflict, store errors. An empty scan publishes a version without files.
func (r *Refresh) Commit(ctx context.Context, ev evidence.Evidence) (Commit, error) {
	if r.err != nil {
		return Commit{}, r.err
	}
	if r.repeated != nil {
		r.err = ErrEnded
		return *r.repeated, nil
	}
	if err := ev.Judge(); err != nil {
		return Commit{}, r.fail(err)
	}
	if ev.Rows != r.rows {
		return Commit{}, r.fail(&RowMismatch{Evidence: ev.Rows, Written: r.rows})
	}
	if err := r.settle(ctx); err != nil {
		return Commit{}, r.fail(err)
	}
	c, err := r.publish(ctx, ev)
	if err != nil {
		return Commit{}, r.fail(err)
	}
	r.err = ErrEnded
	return c, nil
}

// settle ends the last part and sees that all are still there: a sweeper with a clock of its own could have taken a
// part of a run that slept for days.
func (r *Refresh) settle(ctx context.Context) error {
	if r.open != nil {
		if err := r.finish(ctx); err != nil {
			return err
		}
	}
	for _, p := range r.parts {
		info, err := r.d.b.Stat(ctx, p.key)
		if err != nil {
			return fmt.Errorf("export: a part of this refresh cannot be found any more: %w", err)
		}
		if info.Size != p.footer.Size {
			return fmt.Errorf("export: %s has %d bytes in the store, %d were written", p.key, info.Size, p.footer.Size)
		}
	}
	return nil
}

func (r *Refresh) publish(ctx context.Context, ev evidence.Evidence) (Commit, error) {
	c := Commit{Rows: r.rows, Files: len(r.parts), Removed: len(r.base.Files), SchemaDiff: r.plan.diff}
	for _, p := range r.parts {
		c.Bytes += p.footer.Size
	}
	actions, err := r.actions(ev, &c)
	if err != nil {
		return c, err
	}
	c.Version, err = r.d.log.Commit(ctx, r.base, actions)
	if err == nil {
		r.keep = true
		return c, nil
	}
	var unresolved *delta.Unresolved
	if errors.As(err, &unresolved) {
		r.keep = true
		return c, err
	}
	var conflict *delta.Conflict
	if errors.As(err, &conflict) {
		// An earlier attempt of this run may have arrived late: then the run is published.
		if e, lookErr := r.d.log.Entry(ctx, conflict.Version); lookErr == nil {
			if earlier := commitOf(e, &r.spec); earlier != nil {
				_ = r.drop(ctx) // best effort: what stays is the sweeper's
				return *earlier, nil
			}
		}
	}
	return c, err
}

// actions is the log entry.
func (r *Refresh) actions(ev evidence.Evidence, c *Commit) ([]delta.Action, error) {
	now := r.spec.Now()
	ms := now.UnixMilli()
	out := []delta.Action{{CommitInfo: r.commitInfo(ev, c, now)}}
	if r.plan.protocol != nil {
		out = append(out, delta.Action{Protocol: r.plan.protocol})
	}
	if r.plan.metadata != nil {
		out = append(out, delta.Action{Metadata: r.plan.metadata})
	}
	app := r.spec.appID()
	out = append(out, delta.Action{Txn: &delta.Txn{AppID: app, Version: r.base.Txns[app].Version + 1, LastUpdated: ms}})
	for _, f := range r.base.Files {
		out = append(out, delta.Action{Remove: &delta.Remove{
			Path: f.Path, DeletionTimestamp: ms, DataChange: true,
			ExtendedFileMetadata: true, PartitionValues: f.PartitionValues, Size: f.Size,
		}})
	}
	for _, p := range r.parts {
		stats, err := statsOf(r.spec.Schema, p.footer).JSON()
		if err != nil {
			return nil, err
		}
		out = append(out, delta.Action{Add: &delta.Add{
			Path: delta.EncodePath(p.key), Size: p.footer.Size, ModificationTime: p.info.Modified.UnixMilli(),
			DataChange: true, Stats: stats, Tags: map[string]string{"tablexport.run": r.spec.RunID},
		}})
	}
	return out, nil
}

func (r *Refresh) commitInfo(ev evidence.Evidence, c *Commit, now time.Time) delta.CommitInfo {
	info := delta.CommitInfo{
		"timestamp":           now.UnixMilli(),
		"operation":           "WRITE",
		"operationParameters": map[string]string{"mode": "Overwrite", "partitionBy": "[]"},
		"isolationLevel":      "Serializable",
		"isBlindAppend":       false,
		"engineInfo":          r.spec.Engine,
		"operationMetrics": map[string]string{ // Spark keeps them as text, and so do its readers
			"numFiles":        strconv.Itoa(c.Files),
			"numOutputRows":   strconv.FormatInt(c.Rows, 10),
			"numOutputBytes":  strconv.FormatInt(c.Bytes, 10),
			"numRemovedFiles": strconv.Itoa(c.Removed),
		},
		infoKey: info{
			Job: r.spec.Job, Run: r.spec.RunID, Table: r.spec.Table, Source: r.spec.Source,
			Scope: r.spec.Scope, Query: r.spec.Query, Evidence: &ev, SchemaDiff: c.SchemaDiff,
		},
	}
	if r.base.Version >= 0 {
		info["readVersion"] = r.base.Version
	} else {
		info["operation"] = "CREATE TABLE AS SELECT"
	}
	return info
}

// statsOf are the statistics of a file for its add action.
func statsOf(schema *arrow.Schema, f parquet.Footer) *delta.Stats {
	s := delta.NewStats(f.Rows)
	for _, fd := range schema.Fields() {
		c := f.Columns[fd.Name]
		s.Column(fd.Name, c.NullCount, statValue(c.Min), statValue(c.Max))
	}
	return s
}

func statValue(v any) any {
	if d, ok := v.(parquet.Decimal); ok {
		return jsonNumber(d)
	}
	return v
}

// Abort drops the staged parts. It does nothing after Commit has published, and nothing where that is not known: then the
// sweeper settles it. It is safe to call after every error, and more than once. An ended ctx does not keep it from cleaning up, for
// half a minute at most.
func (r *Refresh) Abort(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
	defer cancel()
	if r.keep {
		return nil
	}
	if r.err == nil {
		r.err = ErrEnded
	}
	return r.drop(ctx)
}

// abortTime bounds the cleaning up: what is not done by then is the sweeper's.
const abortTime = 30 * time.Second

// drop removes what was staged, as far as it can. What it cannot is the sweeper's.
func (r *Refresh) drop(ctx context.Context) error {
	var errs []error
	if r.open != nil {
		errs = append(errs, r.open.upload.Abort(ctx))
		r.open = nil
	}
	var left []*part
	for _, p := range r.parts {
		if p.upload != nil { // its end is not known: committed, it does nothing
			errs = append(errs, p.upload.Abort(ctx))
		}
		if err := r.d.b.Delete(ctx, p.key); err != nil {
			errs, left = append(errs, err), append(left, p)
		}
	}
	r.parts = left
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("export: dropping the parts of run %s: %w", r.spec.RunID, err)
	}
	return nil
}
