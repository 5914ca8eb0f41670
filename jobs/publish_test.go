package jobs_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/storetest"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/odata/simulator"
	"github.com/tablexport/tablexport/secrets"
)

// A second run replaces the first, whose files stay for those who still read them; a third that finds nothing publishes
// an empty table.
func TestRefreshes(t *testing.T) {
	r := newRig(t, simulator.Options{})
	j := job(lines)
	first := r.exact(j)
	_, old := r.read(j)
	for _, do := range []func(string, int) (int, error){r.server.Insert, r.server.Update, r.server.Delete} {
		must(t, errOf(do(lines, 40)))
	}
	second := r.exact(j)
	if first.Version != 0 || second.Version != 1 || second.Files != 1 || second.Bytes == 0 || first.RunID == second.RunID || second.Seconds <= 0 {
		t.Errorf("%+v, then %+v", first, second)
	}
	if got := r.actions(second.RunID); !slices.Equal(got, []string{"lease ok", "publish started", "publish ok", "release ok"}) {
		t.Errorf("audit: %v", got)
	}
	e := r.entries(second.RunID)[2]
	if e.Detail["version"] != "1" || e.Detail["dataset"] != second.Dataset || e.Detail["scope"] != "all" || e.Rows != second.Rows || e.Subject != j.Name {
		t.Errorf("%+v", e)
	}
	s, err := r.dataset(j).SnapshotAt(t.Context(), 0)
	must(t, err)
	if len(s.Files) != 1 || !slices.ContainsFunc(r.keys(), func(k string) bool { return strings.HasSuffix(k, s.Files[0].Path) }) {
		t.Error("the first version's file is gone")
	}
	must(t, errOf(r.server.DeleteWhere(lines, "")))
	third := r.exact(j)
	if third.Version != 2 || third.Rows != 0 || third.Files != 0 {
		t.Errorf("%+v", third)
	}
	must(t, errOf(r.server.Insert(lines, 5)))
	if fourth := r.exact(j); fourth.Rows != 5 {
		t.Errorf("%+v (%d rows at first)", fourth, len(old))
	}
}

// New nullable columns are added; anything else is refused with a diff, until a person accepts it.
func TestSchemaChange(t *testing.T) {
	r := newRig(t, simulator.Options{})
	j := job(lines)
	j.Select = without(lineColumns, "Notes")
	r.exact(j)
	j.Select = lineColumns
	res := r.exact(j)
	if !slices.Equal(res.Schema, []string{"+ Notes string"}) {
		t.Errorf("%v", res.Schema)
	}
	stands := r.standing(j)
	requests := r.server.Stats().DataRequests
	j.Select = without(lineColumns, "Quantity")
	_, err := r.run(j)
	var change *export.SchemaChange
	if r.failed(j, err, jobs.Data); !errors.As(err, &change) || !strings.HasPrefix(change.Diff[0], "- Quantity decimal(12,3)") {
		t.Errorf("%v", err)
	}
	if r.server.Stats().DataRequests != requests {
		t.Error("rows were read for a refresh that was refused before")
	}
	stands()
	mark := r.oracle.Mark()
	res, err = r.runner.Run(t.Context(), jobs.Request{Job: j, AcceptSchema: true})
	must(t, err)
	r.correct(j, mark, res)
	if columns, _ := r.read(j); slices.Contains(columns, "Quantity") || len(res.Schema) != 1 {
		t.Errorf("%v, %v", columns, res.Schema)
	}
}

// What a crashed run left behind is swept by the next one that succeeds, when it is old enough; nothing else is.
func TestLeftoversAreSwept(t *testing.T) {
	r := newRig(t, simulator.Options{})
	j := job(lines)
	r.exact(j)
	dir := filepath.Join(r.dir, "lake", j.Path)
	old, young := filepath.Join(dir, "part-dead-0123abcd-00000.zstd.parquet"), filepath.Join(dir, "part-alive-0123abcd-00000.zstd.parquet")
	theirs := filepath.Join(dir, "part-00000-of-another-engine.snappy.parquet")
	for _, name := range []string{old, young, theirs} {
		must(t, os.WriteFile(name, []byte("PAR1"), 0o600))
	}
	long := time.Now().Add(-48 * time.Hour)
	must(t, os.Chtimes(old, long, long))
	must(t, os.Chtimes(theirs, long, long))
	for _, e := range r.keys() {
		if strings.HasSuffix(e, ".parquet") && !strings.Contains(e, "0123abcd") { // the published ones are old too
			must(t, os.Chtimes(filepath.Join(r.dir, "lake", e), long, long))
		}
	}
	r.exact(j)
	for name, want := range map[string]bool{old: false, young: true, theirs: true} {
		if _, err := os.Stat(name); (err == nil) != want {
			t.Errorf("%s: %v", filepath.Base(name), err)
		}
	}
	if n := len(r.keys()); n != 6 { // two parts, two log entries, and the two that are not ours to remove
		t.Errorf("%v", r.keys())
	}
}

// breakAudit makes the audit log unwritable, and mend writable again.
func (r *rig) breakAudit() (mend func()) {
	dir := filepath.Join(r.dir, "audit")
	must(r.t, os.Rename(dir, dir+".away"))
	must(r.t, os.WriteFile(dir, nil, 0o600))
	return func() {
		must(r.t, os.Remove(dir))
		must(r.t, os.Rename(dir+".away", dir))
	}
}

// Without an audit log no token is lent, and nothing is published.
func TestAuditFails(t *testing.T) {
	r := newRig(t, simulator.Options{})
	j := job(lines)
	r.exact(j)
	stands := r.standing(j)
	for _, phase := range []jobs.Phase{jobs.Preparing, jobs.Publishing} {
		var mend func()
		requests := r.server.Stats().Requests
		_, err := r.runner.Run(t.Context(), jobs.Request{Job: j, Progress: func(p jobs.Progress) {
			if p.Phase == phase {
				mend = r.breakAudit()
			}
		}})
		mend()
		var at *jobs.RunError
		if !errors.As(err, &at) || !errors.Is(err, secrets.ErrAudit) || jobs.Classify(err) != jobs.Later {
			t.Fatalf("%s: %s: %v", phase, jobs.Classify(err), err)
		}
		if phase == jobs.Preparing && r.server.Stats().Requests != requests {
			t.Error("a token was used whose loan could not be audited")
		}
		if line := r.line(at.RunID); line.State != ledger.Failed || line.Version != -1 {
			t.Errorf("%+v", line)
		}
		stands()
	}
	r.exact(j)
}

// hooked calls after when a log entry was put.
type hooked struct {
	store.Bucket
	after func()
}

func (h *hooked) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	err := h.Bucket.PutIfAbsent(ctx, key, data)
	if err == nil && h.after != nil {
		h.after()
	}
	return err
}

// What fails behind the commit does not take it back: the run is published, and says what failed.
func TestFailuresBehindTheCommit(t *testing.T) {
	h := &hooked{}
	r := newRig(t, simulator.Options{}, into(func(b store.Bucket) store.Bucket { h.Bucket = b; return h }))
	j := job(lines)
	r.exact(j)
	var mend func()
	h.after = func() { mend = r.breakAudit() }
	mark := r.oracle.Mark()
	res, err := r.run(j)
	h.after = nil
	mend()
	var published *jobs.PublishedError
	if !errors.As(err, &published) || published.Version != 1 || jobs.Classify(err) != jobs.Other || !errors.Is(err, secrets.ErrAudit) {
		t.Fatalf("%v", err)
	}
	line := r.line(res.RunID)
	if line.State != ledger.Succeeded || line.Version != 1 || line.Rows != 700 || line.Class != "other" || line.Error == "" {
		t.Errorf("%+v", line)
	}
	columns, rows := r.read(j)
	must(t, r.oracle.Check(mark, lines, "", columns, slices.Values(rows)))

	// The ledger: history, not truth.
	h.after = func() { must(t, r.ledger.Close()) }
	res, err = r.run(j)
	if !errors.As(err, &published) || res.Version != 2 || r.version(j) != 2 || jobs.Classify(err) != jobs.Other {
		t.Errorf("%+v %v", res, err)
	}
	// And without it no run begins.
	h.after = nil
	requests := r.server.Stats().Requests
	_, err = r.run(j)
	if err == nil || r.version(j) != 2 || r.server.Stats().Requests != requests {
		t.Errorf("%v", err)
	}
}

// A person's Ctrl-C behind the commit comes too late: the run has succeeded.
func TestCanceledBehindTheCommit(t *testing.T) {
	h := &hooked{}
	r := newRig(t, simulator.Options{}, into(func(b store.Bucket) store.Bucket { h.Bucket = b; return h }))
	ctx, stop := context.WithCancel(t.Context())
	h.after = stop
	mark := r.oracle.Mark()
	res, err := r.runner.Run(ctx, jobs.Request{Job: job(lines)})
	must(t, err)
	r.correct(job(lines), mark, res)
	if got := r.actions(res.RunID); got[len(got)-1] != "release ok" {
		t.Errorf("%v", got)
	}
}

// What the store refuses or loses, on both sides of the effect.
func TestFaultsOfTheStore(t *testing.T) {
	commit := func(f storetest.Fault) storetest.Fault { f.Op, f.Key = "put-if-absent", "*.json"; return f }
	denied := &store.Error{Code: store.Permission, Op: "x"}
	full := &store.Error{Code: store.Full, Op: "x"}
	for name, tt := range map[string]struct {
		faults []storetest.Fault
		want   jobs.Class // "" = published all the same
	}{
		"commit, answer lost":         {[]storetest.Fault{commit(storetest.Fault{Nth: 1, When: storetest.After})}, ""},
		"commit, did not arrive":      {[]storetest.Fault{commit(storetest.Fault{Nth: 1})}, ""},
		"commit, never arrives":       {[]storetest.Fault{commit(storetest.Fault{})}, jobs.Transient},
		"commit, refused":             {[]storetest.Fault{commit(storetest.Fault{Err: denied})}, jobs.Credential},
		"upload cannot be begun":      {[]storetest.Fault{{Op: "create"}}, jobs.Transient},
		"upload, disk full":           {[]storetest.Fault{{Op: "write", Err: full}}, jobs.Later},
		"upload, not finished":        {[]storetest.Fault{{Op: "commit"}}, jobs.Transient},
		"upload, finished, says no":   {[]storetest.Fault{{Op: "commit", When: storetest.After}}, jobs.Transient},
		"log cannot be read":          {[]storetest.Fault{{Op: "list"}}, jobs.Transient},
		"sweep fails":                 {[]storetest.Fault{{Op: "list", Key: "erp/Crm_Sales_Order_Lines/"}}, ""},
		"nothing can be dropped":      {[]storetest.Fault{{Op: "commit"}, {Op: "abort"}, {Op: "delete"}}, jobs.Transient},
		"reading back is not allowed": {[]storetest.Fault{{Op: "open-range", Err: denied}}, jobs.Credential},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var faulty *storetest.FaultyBucket
			r := newRig(t, simulator.Options{Rows: map[string]int64{lines: 200}}, into(func(b store.Bucket) store.Bucket {
				faulty = storetest.Faulty(b, tt.faults...)
				return faulty
			}))
			good := r.runner.Bucket
			r.runner.Bucket = func(context.Context, string) (store.Bucket, error) { return r.files, nil }
			j := job(lines)
			r.exact(j)
			must(t, errOf(r.server.Update(lines, 20)))
			r.runner.Bucket = good
			before := r.version(j)
			columns, rows := r.read(j)
			if tt.want == "" {
				r.exact(j)
			} else {
				_, err := r.run(j)
				line := r.failed(j, err, tt.want)
				gotColumns, got := r.read(j)
				if r.version(j) != before || !slices.Equal(columns, gotColumns) || !slices.EqualFunc(rows, got, slices.Equal[simulator.Row]) {
					t.Error("the previous version does not stand")
				}
				var unknown *delta.Unresolved
				for _, e := range r.entries(line.ID) {
					if e.Action == "publish" && e.Outcome == "failed" && errors.As(err, &unknown) != (e.Detail["published"] == "not known") {
						t.Errorf("audit: %+v", e)
					}
				}
			}
			if faulty.Fired() == 0 {
				t.Error("the fault was never met")
			}
			r.runner.Bucket = func(context.Context, string) (store.Bucket, error) { return r.files, nil }
			r.exact(j)
		})
	}
}

// Two runs of one job at once: one version for each winner, and the loser knows why.
func TestTwoRunsAtOnce(t *testing.T) {
	r := newRig(t, simulator.Options{})
	j := job(lines)
	r.exact(j)
	mark := r.oracle.Mark()
	var meet, done sync.WaitGroup
	meet.Add(2)
	errs := make([]error, 2)
	for i := range errs {
		done.Go(func() {
			_, errs[i] = r.runner.Run(t.Context(), jobs.Request{Job: j, Progress: func(p jobs.Progress) {
				if p.Phase == jobs.Publishing { // both have read the same version
					meet.Done()
					meet.Wait()
				}
			}})
		})
	}
	done.Wait()
	slices.SortFunc(errs, func(a, b error) int { // the winner first
		if a == nil {
			return -1
		}
		return 1
	})
	must(t, errs[0])
	var conflict *delta.Conflict
	if !errors.As(errs[1], &conflict) {
		t.Fatalf("the loser says %v", errs[1])
	}
	r.failed(j, errs[1], jobs.Conflict)
	if v := r.version(j); v != 1 {
		t.Errorf("version %d", v)
	}
	columns, rows := r.read(j)
	must(t, r.oracle.Check(mark, lines, "", columns, slices.Values(rows)))
	if n := len(r.keys()); n != 4 { // two parts, two log entries
		t.Errorf("left: %v", r.keys())
	}
	r.exact(j)
}

// Jobs of one instance share its limiter, however many run at once.
func TestJobsShareTheInstance(t *testing.T) {
	tables := map[string]int64{lines: 600, products: 600, "Crm_Customers": 600, "Gen_Documents": 600}
	r := newRig(t, simulator.Options{Rows: tables, Concurrency: 32, Behavior: simulator.Behavior{RowsPerSecond: 8000}})
	var all sync.WaitGroup
	for table := range tables {
		all.Go(func() {
			j := job(table)
			j.PageSize = 100
			mark := r.oracle.Mark()
			res, err := r.run(j)
			if err != nil {
				t.Error(err)
				return
			}
			columns, rows := r.read(j)
			if err := r.oracle.Check(mark, table, "", columns, slices.Values(rows)); err != nil {
				t.Error(err, res)
			}
		})
	}
	all.Wait()
	if st := r.server.Stats(); st.MaxInFlight != 2 || st.TooMany > 0 {
		t.Errorf("%d requests at once, %d refused", st.MaxInFlight, st.TooMany)
	}
}

// Progress tells every phase, in order, and ends at what was published.
func TestProgress(t *testing.T) {
	r := newRig(t, simulator.Options{Behavior: simulator.Behavior{Count: simulator.PathCount}})
	var phases []jobs.Phase
	var last jobs.Progress
	res, err := r.runner.Run(t.Context(), jobs.Request{Job: job(lines), Progress: func(p jobs.Progress) {
		if len(phases) == 0 || phases[len(phases)-1] != p.Phase {
			phases = append(phases, p.Phase)
		}
		if p.Phase == jobs.Scanning && (p.Scan.Expected != 700 || p.Attempt != 1 || p.Scan.Rows < last.Scan.Rows) {
			t.Errorf("%+v", p)
		}
		last = p
	}})
	must(t, err)
	if !slices.Equal(phases, []jobs.Phase{jobs.Preparing, jobs.Scanning, jobs.Publishing, jobs.Done}) || last.Scan.Rows != 700 || last.RunID != res.RunID || last.Job != res.Job {
		t.Errorf("%v, at last %+v", phases, last)
	}
}

// The ledger tells what a run has gone through, whoever has asked for it; a run that fails ends in the step that it was in.
func TestStepsAreRecorded(t *testing.T) {
	r := newRig(t, simulator.Options{})
	names := func(id string) (out []string) {
		steps, err := r.ledger.Steps(t.Context(), id)
		must(t, err)
		for i, s := range steps {
			if s.N != i+1 || s.Ended.IsZero() || s.Ended.Before(s.Started) || i > 0 && !s.Started.Equal(steps[i-1].Ended) {
				t.Errorf("%+v", s)
			}
			out = append(out, s.Name)
		}
		return out
	}
	res := r.exact(job(lines))
	if got := names(res.RunID); !slices.Equal(got, []string{"preparing", "reading", "publishing"}) {
		t.Errorf("%v", got)
	}
	r.server.Inject(simulator.Fault{Times: -1, Effect: simulator.Status(403, "")})
	res, err := r.run(job(lines))
	if err == nil {
		t.Fatal("it was to fail")
	}
	if got := names(res.RunID); len(got) == 0 || got[0] != "preparing" || slices.Contains(got, "publishing") {
		t.Errorf("%v", got)
	}
}
