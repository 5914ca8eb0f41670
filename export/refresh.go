package export

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/parquet"
	"github.com/tablexport/tablexport/odata/scope"
)

// Refresh is one commit to be: the whole content of a dataset, or the windows that its slices name, and windows that expire. It is safe
// for concurrent use; each of its slices is not.
type Refresh struct {
	d    *Dataset
	spec Spec
	ctx  context.Context // of Begin: it governs the uploads, which outlive one Write
	base *delta.Snapshot
	plan *plan

	repeated *Commit // this run is published already
	merge    *Merge  // nil: what was there is replaced as a whole, window by window

	mu      sync.Mutex
	by      *scope.Scope
	slices  []*Slice // in the order in which they were begun; not those that were discarded
	expired []string
	err     error // why the refresh has ended
	keep    bool  // a log entry may name the parts: they must not be deleted
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
	if r.repeated = published(base, &spec); r.repeated != nil {
		return r, nil
	}
	if r.plan, err = d.plan(base, &spec, uuid.NewString); err != nil {
		return nil, err
	}
	// The writer refuses what it cannot write (a key column that is not there, say): better now than after the scan.
	probe := r.options()
	probe.Encoders = nil // of files that are written
	if _, err := parquet.NewWriter(discard{}, spec.Schema, probe); err != nil {
		return nil, err
	}
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
	if v.Run != spec.RunID || v.Job != spec.Job || v.Unit != spec.Unit {
		return nil
	}
	return &Commit{Version: e.Version, Rows: v.Rows, Files: v.Files, Bytes: v.Bytes, Removed: v.Removed, Expired: v.Expired, Quarantined: v.Quarantined, Repeated: true}
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

// Windows are the windows that the dataset holds at the version that the refresh builds on.
func (r *Refresh) Windows() []Window { return WindowsOf(r.base) }

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

// Expire removes windows with the commit. What is not there needs no removing.
func (r *Refresh) Expire(values ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expired = append(r.expired, values...)
}

// Commit publishes all slices, which must be done, and removes what has expired. After any error the previous version stands, with one
// exception that names itself: *delta.Unresolved says that it is not known (the store did not answer); a repeated run with the same
// RunID finds out.
//
// The other errors: *delta.Conflict, *SchemaChange, store errors. A scan without rows publishes all the same.
func (r *Refresh) Commit(ctx context.Context) (Commit, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return Commit{}, r.err
	}
	r.err = ErrEnded
	if r.repeated != nil {
		return *r.repeated, nil
	}
	if len(r.slices)+len(r.expired) == 0 {
		return Commit{}, errors.New("export: there is nothing to publish: no slice was begun")
	}
	for _, s := range r.slices {
		if !s.done {
			return Commit{}, fmt.Errorf("export: the slice %q is not done", s.spec.Value)
		}
		if err := s.settle(ctx); err != nil {
			return Commit{}, err
		}
	}
	if err := r.quarantine(ctx); err != nil {
		return Commit{}, err
	}
	return r.publish(ctx)
}

func (r *Refresh) publish(ctx context.Context) (c Commit, err error) {
	c.Version, err = r.d.log.Apply(ctx, r.base, delta.Change{
		Touches: r.touches(),
		Build: func(base *delta.Snapshot) (actions []delta.Action, err error) {
			actions, c, err = r.actions(base)
			return actions, err
		},
	})
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

// touches tells the partitions whose rows this commit replaces; nil where it is all of them.
func (r *Refresh) touches() func(values map[string]*string) bool {
	if r.spec.Partition == "" || r.base.Version < 0 || r.repartitions() {
		return nil
	}
	touched := map[string]bool{}
	for _, s := range r.slices {
		touched[s.spec.Value] = true
	}
	for _, value := range r.expired {
		touched[value] = true
	}
	return func(values map[string]*string) bool { return touched[partitionValue(values, r.spec.Partition)] }
}

// repartitions: the published files lie in other partitions than ours, or in none.
func (r *Refresh) repartitions() bool {
	was := r.base.Metadata.PartitionColumns
	return len(was) != 1 || was[0] != r.spec.Partition
}

// partitionValue is the value of the partition column; "" where it is null.
func partitionValue(values map[string]*string, column string) string {
	if v := values[column]; v != nil {
		return *v
	}
	return ""
}

// actions is the log entry on top of base.
func (r *Refresh) actions(base *delta.Snapshot) ([]delta.Action, Commit, error) {
	now := r.spec.Now()
	c := Commit{SchemaDiff: r.plan.diff}
	removes := r.removes
	if r.merge != nil {
		removes = r.merge.removes
	}
	files, err := removes(base, now, &c)
	if err != nil {
		return nil, c, err
	}
	txns := r.marks(now)
	fence, err := r.fence(base, now)
	if err != nil {
		return nil, c, err
	}
	txns = append(txns, fence...)
	for _, s := range r.slices {
		adds, err := s.adds()
		if err != nil {
			return nil, c, err
		}
		files = append(files, adds...)
		c.Quarantined += int64(len(s.misfits))
		c.Rows, c.Files, c.Bytes = c.Rows+s.rows, c.Files+len(s.parts), c.Bytes+s.bytes()
		app := r.spec.appID(s.spec.Value)
		if r.merge != nil && s == r.merge.copied {
			continue // one commit, one txn
		}
		txns = append(txns, delta.Action{Txn: &delta.Txn{AppID: app, Version: base.Txns[app].Version + 1, LastUpdated: now.UnixMilli()}})
	}
	out := []delta.Action{{CommitInfo: r.commitInfo(base, &c, now)}}
	if r.plan.protocol != nil {
		out = append(out, delta.Action{Protocol: r.plan.protocol})
	}
	if r.plan.metadata != nil {
		out = append(out, delta.Action{Metadata: r.plan.metadata})
	}
	return slices.Concat(out, txns, files), c, nil
}

// removes are the files that make room. Where the columns have changed in a way that old files do not fit, none may stay.
func (r *Refresh) removes(base *delta.Snapshot, now time.Time, c *Commit) (out []delta.Action, err error) {
	touched := r.touches()
	gone := map[string]bool{}
	for _, f := range base.Files {
		value := partitionValue(f.PartitionValues, r.spec.Partition)
		if touched != nil && !touched(f.PartitionValues) {
			if r.plan.breaks {
				return nil, fmt.Errorf("window %s would stay as it is: read all windows anew in one commit: %w", value, &SchemaChange{Dataset: r.d.name(), Diff: r.plan.diff})
			}
			continue
		}
		gone[value] = true
		out = append(out, removal(f, now.UnixMilli(), true))
	}
	c.Removed = len(out)
	for _, value := range r.expired {
		if gone[value] {
			c.Expired = append(c.Expired, value)
		}
	}
	return out, nil
}

func (r *Refresh) commitInfo(base *delta.Snapshot, c *Commit, now time.Time) delta.CommitInfo {
	origin := info{
		Job: r.spec.Job, Run: r.spec.RunID, Unit: r.spec.Unit, Table: r.spec.Table, Source: r.spec.Source,
		Scope: r.spec.Scope, Query: r.spec.Query, SchemaDiff: c.SchemaDiff, Expired: c.Expired, Quarantined: c.Quarantined,
	}
	parameters := map[string]string{"mode": "Overwrite", "partitionBy": "[]"}
	if r.spec.Partition == "" {
		origin.Evidence = &r.slices[0].evidence[0]
	} else {
		parameters["partitionBy"] = fmt.Sprintf("[%q]", r.spec.Partition)
		for _, s := range r.slices {
			origin.Windows = append(origin.Windows, WindowChange{Value: s.spec.Value, Rows: s.rows, Files: len(s.parts), Bytes: s.bytes()})
		}
	}
	out := delta.CommitInfo{
		"timestamp":           now.UnixMilli(),
		"operation":           "WRITE",
		"operationParameters": parameters,
		"isolationLevel":      "Serializable",
		"isBlindAppend":       false,
		"engineInfo":          r.spec.Engine,
		"operationMetrics": map[string]string{ // Spark keeps them as text, and so do its readers
			"numFiles":        strconv.Itoa(c.Files),
			"numOutputRows":   strconv.FormatInt(c.Rows, 10),
			"numOutputBytes":  strconv.FormatInt(c.Bytes, 10),
			"numRemovedFiles": strconv.Itoa(c.Removed),
			"numQuarantined":  strconv.FormatInt(c.Quarantined, 10),
		},
		infoKey: origin,
	}
	if r.merge != nil {
		origin.Merge = &r.merge.info
		out[infoKey] = origin
		r.merge.describe(out)
	}
	if base.Version >= 0 {
		out["readVersion"] = base.Version
	} else {
		out["operation"] = "CREATE TABLE AS SELECT"
	}
	return out
}

// Abort drops the staged parts. It does nothing after Commit has published, and nothing where that is not known: then the
// sweeper settles it. It is safe to call after every error, and more than once; slices must not be written any more. An ended ctx does not
// keep it from cleaning up, for half a minute at most.
func (r *Refresh) Abort(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
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
	for _, s := range r.slices {
		errs = append(errs, s.drop(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("export: dropping the parts of run %s: %w", r.spec.RunID, err)
	}
	return nil
}
