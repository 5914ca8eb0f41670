// Package export publishes checked records as Delta Lake tables: a reader sees a whole refresh or
// the previous one, never half.
//
// The protocol, with what a crash leaves in each gap:
//
//  1. Begin     read the log's snapshot; check the schema against it.   [nothing]
//  2. Write     stream Parquet parts under names of this run, slice by slice: the whole table is one, or each window
//     (partition) that is read anew.                                    [parts that no log entry names]
//  3. Done      judge a slice's evidence; close and re-read its parts' footers. [the same]
//  4. Commit    one put-if-absent of the next log entry: remove the files that are replaced, add the new, txn, commitInfo.
//     [before: the previous version; after: the new one; an answer that was lost is resolved by looking]
//  5. Sweep     what no log entry names and is old enough goes.          [parts, again the sweeper's]
//
// What is known of a window (when it was read, by which query, its evidence) is in the tags of its files, and so in the same
// log entry as its rows: the two cannot disagree, and a rollback takes both back. A window without rows has one file without rows.
//
// Recovery is the same code: opening a dataset reads the log, and the sweeper removes leftovers. The files that a refresh
// replaces stay where they are, so that a reader of the old version can finish and older versions can be read.
package export

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"time"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/parquet"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/odata/scope"
)

// DefaultFileBytes is the size at which the next file is begun if [Spec].FileBytes is 0: 512 MiB.
const DefaultFileBytes = 512 << 20

// Dataset is one published table: a Delta table at the root of its bucket view. It is safe for concurrent use.
type Dataset struct {
	root store.Bucket
	b    store.Bucket // below path
	path string
	log  *delta.Log
}

// Open returns the dataset at path of b ("" = the root of b). It reads nothing.
func Open(b store.Bucket, path string) *Dataset {
	view := store.Prefixed(b, path)
	return &Dataset{root: b, b: view, path: path, log: delta.Open(view)}
}

// Spec is one refresh of a dataset.
type Spec struct {
	Job, RunID   string // letters, digits and . _ - ; the run id is what makes a repeated run recognisable
	Unit         string // which of the run's commits this is; "" if the run has one
	Table        string // the source table, "Crm_Sales_Order_Lines"
	Source       string // instance name and host
	Query        string // the request's text without host and credential
	QueryID      string // its fingerprint: rows of two refreshes belong together only if theirs are equal
	Partition    string // the column by which the table is partitioned, with the windows' values; "" = not partitioned
	Scope        scope.Stamp
	Description  string
	Schema       *arrow.Schema // of the checked records; column comments in the field metadata ("comment")
	Key          []string
	Contract     Contract
	Quarantine   *Quarantine // with the contract Quarantined: rows that do not fit may be set aside
	AcceptSchema bool        // publish even if columns went, changed type or became stricter, or another job has published before
	Engine       string      // "tablexport/1.2.3"
	FileBytes    int64       // size at which the next file is begun (512 MiB)
	Parquet      parquet.Options
	Marks        map[string]time.Time // points in time that the commit leaves for later runs, to the millisecond: see [Refresh.Mark]
	Fence        int64                // of the lease that the run holds (lease.Lease.Fence); 0: none is held
	Now          func() time.Time     // nil = time.Now
}

var (
	jobName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$`)
	runName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)
)

func (s *Spec) validate() error {
	switch {
	case !jobName.MatchString(s.Job):
		return fmt.Errorf("export: the job name %q: use letters, digits and . _ - (200 at most)", s.Job)
	case !runName.MatchString(s.RunID):
		return fmt.Errorf("export: the run id %q: use letters, digits and . _ - (100 at most)", s.RunID)
	case s.Schema == nil:
		return errors.New("export: there is no schema")
	case s.Scope.Enforcement == "":
		return errors.New("export: there is no scope stamp: a dataset always says under which scope it was published")
	case s.Partition != "" && s.Schema.HasField(s.Partition):
		return fmt.Errorf("export: the table has a column %s, so it cannot be partitioned by a column of that name", s.Partition)
	case s.FileBytes < 0:
		return fmt.Errorf("export: files of %d bytes cannot be made", s.FileBytes)
	}
	if err := s.Contract.validate(s.Quarantine); err != nil {
		return err
	}
	if s.FileBytes == 0 {
		s.FileBytes = DefaultFileBytes
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	return nil
}

// appID is the application of a txn action: one per job and window, so that two jobs on one dataset are seen too, and two
// commits of one job meet only where they replace the same rows.
func (s *Spec) appID(window string) string {
	if window == "" {
		return "tablexport/" + s.Job
	}
	return "tablexport/" + s.Job + "/" + window
}

// ErrRefused is in the error of Write for a record that no scope has checked, or another scope than the one that the dataset is stamped with.
var ErrRefused = errors.New("the record was not checked by this refresh's scope")

// ErrEnded is the error of a refresh that was committed or aborted, or of a slice that has ended.
var ErrEnded = errors.New("export: the refresh has ended")

// RowMismatch is the error of [Slice.Done] when the evidence speaks of another number of rows than was written.
type RowMismatch struct {
	Evidence, Written    int64
	EvidenceAside, Aside int64 // rows for the quarantine
}

// Error implements error.
func (e *RowMismatch) Error() string {
	text := fmt.Sprintf("export: the scan handed on %d rows, and %d were written", e.Evidence, e.Written)
	if e.EvidenceAside != e.Aside {
		text += fmt.Sprintf("; it set %d aside, and %d are for the quarantine", e.EvidenceAside, e.Aside)
	}
	return text + ": nothing was published"
}

// Commit is what was published.
type Commit struct {
	Version     int64
	Rows        int64 // written
	Files       int
	Bytes       int64
	Quarantined int64      // rows that did not fit, and are in the quarantine
	Removed     int        // files of the previous version that were replaced
	Expired     []string   // windows that were removed
	SchemaDiff  []string   // how columns, job and scope differ from the version before: see [SchemaChange].Diff; "scope: narrow (verified) → all (unrestricted)"
	Merge       *MergeInfo // of a merge
	Repeated    bool       // this run had been published before (txn): nothing new was written
}

// Snapshot is the dataset's log snapshot.
func (d *Dataset) Snapshot(ctx context.Context) (*delta.Snapshot, error) { return d.log.Snapshot(ctx) }

// SnapshotAt is the snapshot of one version.
func (d *Dataset) SnapshotAt(ctx context.Context, version int64) (*delta.Snapshot, error) {
	return d.log.SnapshotAt(ctx, version)
}

// sameStamp compares scopes; nil and empty lists are the same.
func sameStamp(a, b scope.Stamp) bool {
	if len(a.Delegated) == 0 && len(b.Delegated) == 0 {
		a.Delegated, b.Delegated = nil, nil
	}
	if len(a.Owners) == 0 && len(b.Owners) == 0 {
		a.Owners, b.Owners = nil, nil
	}
	return reflect.DeepEqual(a, b)
}
