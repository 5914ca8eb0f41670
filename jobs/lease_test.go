package jobs_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/lease"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/storetest"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/odata/simulator"
	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/audit"
)

// beside is a runner of another state directory on the same store.
func (r *rig) beside(owner string) *jobs.Runner {
	r.t.Helper()
	other, dir := *r.runner, r.t.TempDir()
	runs, err := ledger.Open(r.t.Context(), filepath.Join(dir, "ledger.db"))
	must(r.t, err)
	log, err := audit.Open(filepath.Join(dir, "audit"))
	must(r.t, err)
	r.t.Cleanup(func() {
		_ = runs.Close()
		_ = log.Close()
	})
	other.Ledger, other.Audit, other.Owner = runs, log, owner
	other.Keeper = secrets.NewKeeper(r.vault, log, secrets.Sandbox, "tester")
	return &other
}

// midway runs j, and does something once while it reads.
func (r *rig) midway(runner *jobs.Runner, j jobs.Job, do func()) (jobs.Result, error) {
	var once sync.Once
	return runner.Run(r.t.Context(), jobs.Request{Job: j, Progress: func(p jobs.Progress) {
		if p.Phase == jobs.Scanning && p.Scan.Rows > 0 {
			once.Do(do)
		}
	}})
}

// While one state directory refreshes a dataset another is refused, before it has asked the ERP for a row or borrowed the token; processes of the same one
// are not.
func TestTwoStateDirectories(t *testing.T) {
	r := newRig(t, simulator.Options{Rows: map[string]int64{lines: 700, products: 50}})
	r.runner.Owner, r.runner.Lease = "one", 4*time.Second
	other := r.beside("two")
	j := job(lines)
	mark := r.oracle.Mark()
	res, err := r.midway(r.runner, j, func() {
		_, err := other.Run(t.Context(), jobs.Request{Job: j})
		var held *lease.HeldError
		if !errors.As(err, &held) || jobs.Classify(err) != jobs.Conflict || held.Claim.Job != j.Name {
			t.Errorf("%v", err)
		}
		lines, err := other.Ledger.List(t.Context(), ledger.Query{})
		if err != nil || len(lines) != 1 || lines[0].Class != string(jobs.Conflict) || lines[0].Fingerprint != "" || lines[0].Requests > 0 || !strings.Contains(lines[0].Error, "another state directory") {
			t.Errorf("%+v, %v", lines, err)
		}
		kin := r.beside("one")
		if _, err := kin.Run(t.Context(), jobs.Request{Job: job(products)}); err != nil {
			t.Errorf("another dataset: %v", err)
		}
	})
	must(t, err)
	r.correct(j, mark, res)
	if _, err := other.Run(t.Context(), jobs.Request{Job: j}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	r.exact(j)
}

// A run that has lost its dataset publishes nothing, and says why.
func TestLostLease(t *testing.T) {
	r := newRig(t, simulator.Options{})
	r.runner.Owner = "one"
	j := job(lines)
	r.exact(j)
	var stands func()
	_, err := r.midway(r.runner, j, func() {
		broken, err := r.dataset(j).BreakLease(t.Context(), lease.Options{Owner: "person", Process: "h:1:x"})
		if err != nil || len(broken) != 1 {
			t.Errorf("%v %v", broken, err)
		}
		if _, err := r.beside("two").Run(t.Context(), jobs.Request{Job: j}); err != nil {
			t.Error(err)
		}
	})
	stands = r.standing(j)
	r.failed(j, err, jobs.Conflict)
	var lost *lease.LostError
	if !errors.As(err, &lost) {
		t.Errorf("%v", err)
	}
	stands()
	for _, key := range r.keys() {
		if run := errRun(err); strings.Contains(key, run) {
			t.Errorf("%s was left behind", key)
		}
	}
	r.exact(j) // of the new owner's state: this one comes again
}

func errRun(err error) string {
	var at *jobs.RunError
	if errors.As(err, &at) {
		return at.RunID
	}
	return ""
}

// Behind the last look a run can lose its lease unseen: the log refuses what comes too late.
func TestFence(t *testing.T) {
	h := &hookedBefore{}
	r := newRig(t, simulator.Options{}, into(func(b store.Bucket) store.Bucket { h.Bucket = b; return h }))
	r.runner.Owner = "one"
	j := job(lines)
	r.exact(j)
	other := r.beside("two")
	h.before = func() {
		if _, err := r.dataset(j).BreakLease(t.Context(), lease.Options{Owner: "person", Process: "h:1:x"}); err != nil {
			t.Error(err)
		}
		if _, err := other.Run(t.Context(), jobs.Request{Job: j}); err != nil {
			t.Error(err)
		}
	}
	_, err := r.run(j)
	stands := r.standing(j)
	if jobs.Classify(err) != jobs.Conflict {
		t.Fatalf("%v", err)
	}
	stands()
	snapshot, err := r.dataset(j).Snapshot(t.Context())
	must(t, err)
	if snapshot.Txns["tablexport/lease"].Version < 3 {
		t.Errorf("the log knows %+v", snapshot.Txns)
	}
}

// hookedBefore does something once, just before a commit.
type hookedBefore struct {
	store.Bucket
	before func()
}

func (h *hookedBefore) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	if do := h.before; do != nil && strings.Contains(key, "_delta_log/") {
		h.before = nil
		do()
	}
	return h.Bucket.PutIfAbsent(ctx, key, data)
}

// Whatever operation of the store fails, before or after its effect: the dataset is whole, and the next run of another owner is exact.
func TestLeaseFaults(t *testing.T) {
	r := newRig(t, simulator.Options{Rows: map[string]int64{lines: 60}})
	j := job(lines)
	for _, fault := range []storetest.Fault{
		{Op: "put-if-absent", Key: "*/_lease/*", Nth: 1, When: storetest.Before},
		{Op: "put-if-absent", Key: "*/_lease/*", Nth: 1, When: storetest.After},
		{Op: "put-if-absent", Key: "*/_lease/*", When: storetest.Before},
		{Op: "list", Key: "*/_lease/", When: storetest.Before},
		{Op: "list", Key: "*/_lease/", Nth: 2, When: storetest.Before},
		{Op: "list", Key: "*/_lease/", Nth: 3, When: storetest.Before}, // the look before the commit
		{Op: "put", Key: "*/_lease/*", When: storetest.Before},
		{Op: "put", Key: "*/_lease/*", When: storetest.After},
		{Op: "delete", Key: "*/_lease/*", When: storetest.Before},
		{Op: "open", Key: "*/_lease/*", When: storetest.Before},
	} {
		faulty := storetest.Faulty(r.files, fault)
		one := r.beside("one")
		one.Lease = 500 * time.Millisecond
		one.Bucket = func(context.Context, string) (store.Bucket, error) { return faulty, nil }
		version := r.version(j)
		_, err := one.Run(t.Context(), jobs.Request{Job: j})
		if got := r.version(j); err == nil != (got == version+1) {
			t.Errorf("%+v: version %d became %d with %v", fault, version, got, err)
		}
		if err != nil && !errors.Is(err, storetest.ErrInjected) {
			t.Errorf("%+v: %v", fault, err)
		}
		other := r.beside("two")
		other.Lease = 500 * time.Millisecond
		mark := r.oracle.Mark()
		res, err := other.Run(t.Context(), jobs.Request{Job: j})
		must(t, err)
		columns, rows := r.read(j)
		if err := r.oracle.Check(mark, j.Table, r.filter(j), columns, slices.Values(rows)); err != nil || res.Version != r.version(j) {
			t.Errorf("%+v: %v", fault, err)
		}
	}
	var report export.VerifyReport
	report, err := r.dataset(j).Verify(t.Context())
	if err != nil || len(report.Problems) > 0 {
		t.Errorf("%v %v", report.Problems, err)
	}
}
