package jobs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/exporttest/judge"
	"github.com/tablexport/tablexport/export/sets"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/storetest"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/simulator"
)

var salesRows = map[string]int64{documents: 150, orders: 120, lines: 500}

// lately makes all documents recent ones, which change and vanish.
var lately = time.Date(2026, 9, 10, 0, 0, 0, 0, time.UTC)

// sales is the set of orders and their lines, children named first or last.
func sales() jobs.Set {
	o, l := job(orders), job(lines)
	o.Select = []string{"Sales_Order_Id", "Document_Id", "Customer_Id", "Notes", "Row_Version"}
	l.Select = []string{"Sales_Order_Line_Id", "Sales_Order_Id", "Line_No", "Quantity", "Row_Version"}
	return jobs.Set{Name: "sales", Store: "lake", Jobs: []jobs.Job{o, l}}
}

func (r *rig) runSet() (jobs.SetResult, error) {
	return r.runner.RunSet(r.t.Context(), jobs.SetRequest{Set: sales()})
}

func (r *rig) pointers() *sets.Set {
	r.t.Helper()
	s, err := sets.Open(r.files, "sales")
	must(r.t, err)
	return s
}

// cells reads columns of a member at the pointer's version with parquet-go, as a reader of the set does.
func cells(ctx context.Context, b store.Bucket, m sets.Member, columns ...string) ([]simulator.Row, error) {
	d := export.Open(b, m.Path)
	s, err := d.SnapshotAt(ctx, m.Version)
	if err != nil {
		return nil, err
	}
	schema, err := d.Schema(ctx)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, f := range schema.Fields() {
		all = append(all, f.Name)
	}
	var out []simulator.Row
	for _, f := range s.Files {
		key, err := f.Key()
		if err != nil {
			return nil, err
		}
		body, _, err := b.Open(ctx, m.Path+"/"+key)
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(body)
		if err = errors.Join(err, body.Close()); err != nil {
			return nil, err
		}
		rows, err := readFile(data, all)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			picked := make(simulator.Row, len(columns))
			for i, name := range columns {
				picked[i] = row[slices.Index(all, name)]
			}
			out = append(out, picked)
		}
	}
	return out, nil
}

// follow reads the set as its readers do and reports lines without their orders.
func follow(ctx context.Context, b store.Bucket) (*sets.Pointer, error) {
	body, _, err := b.Open(ctx, "_sets/sales/current.json")
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(body)
	if err = errors.Join(err, body.Close()); err != nil {
		return nil, err
	}
	p := new(sets.Pointer)
	if err := json.Unmarshal(data, p); err != nil {
		return nil, err
	}
	return p, whole(ctx, b, p)
}

func whole(ctx context.Context, b store.Bucket, p *sets.Pointer) error {
	known := map[string]bool{}
	for _, m := range p.Members {
		if m.Table != orders {
			continue
		}
		rows, err := cells(ctx, b, m, "Sales_Order_Id")
		if err != nil {
			return err
		}
		if int64(len(rows)) != m.Rows {
			return fmt.Errorf("%d rows of %s, the pointer says %d", len(rows), m.Job, m.Rows)
		}
		for _, row := range rows {
			known[row[0]] = true
		}
	}
	for _, m := range p.Members {
		if m.Table != lines {
			continue
		}
		rows, err := cells(ctx, b, m, "Sales_Order_Id")
		if err != nil {
			return err
		}
		for _, row := range rows {
			if !known[row[0]] {
				return fmt.Errorf("a line of version %d of the set has no order", p.Version)
			}
		}
	}
	return nil
}

func TestSet(t *testing.T) {
	var asked []string
	r := newRig(t, simulator.Options{First: lately, Rows: salesRows, OnRequest: func(i simulator.RequestInfo) {
		if i.Endpoint == simulator.Data && (len(asked) == 0 || asked[len(asked)-1] != i.Table) {
			asked = append(asked, i.Table)
		}
	}})
	for version := range int64(3) {
		asked = nil
		before := time.Now()
		res, err := r.runSet()
		must(t, err)
		if !slices.Equal(asked, []string{lines, orders}) {
			t.Errorf("asked for %v: children come before their parents", asked)
		}
		if res.Version != version || len(res.Results) != 2 || len(res.References) != 1 || res.Cut.Before(before.Add(-time.Second)) {
			t.Fatalf("%+v", res)
		}
		if ref := res.References[0]; ref.Column != "Sales_Order_Id" || !ref.Enforced || ref.Missing != 0 || ref.Keys == 0 {
			t.Errorf("%+v", ref)
		}
		p, err := follow(t.Context(), r.files)
		must(t, err)
		if p.Version != version || p.Run != res.RunID || !slices.Equal(p.Members, res.Members) || p.Members[0].Table != orders {
			t.Errorf("%+v", p)
		}
		for _, m := range p.Members {
			n, err := r.oracle.Count(m.Table, "")
			must(t, err)
			if m.Rows != n || m.Version != version {
				t.Errorf("%+v, and the oracle has %d rows", m, n)
			}
		}
		if got := r.actions(res.RunID); !slices.Equal(got, []string{"publish-set started", "publish-set ok"}) {
			t.Error(got)
		}
		must(t, errOf2(r.server.Evolve(simulator.Day{New: 5, Updated: 10, Deleted: 3})))
	}
}

func errOf2[T any](_ T, err error) error { return err }

// TestSetReadByOthers opens a version of the set that is not the newest of its members with delta-rs.
func TestSetReadByOthers(t *testing.T) {
	r := newRig(t, simulator.Options{First: lately, Rows: salesRows})
	res, err := r.runSet()
	must(t, err)
	must(t, errOf2(r.server.Evolve(simulator.Day{New: 20, Deleted: 20})))
	r.exact(sales().Jobs[1]) // the lines alone move on
	p, err := follow(t.Context(), r.files)
	must(t, err)
	known := map[any]bool{}
	for _, m := range p.Members {
		for _, row := range judge.Rows(t, filepath.Join(r.dir, "lake", m.Path), judge.AtVersion(m.Version)) {
			if m.Table == orders {
				known[row["Sales_Order_Id"]] = true
			} else if !known[row["Sales_Order_Id"]] {
				t.Fatal("a line without its order")
			}
		}
	}
	if len(known) != int(res.Members[0].Rows) {
		t.Errorf("%d orders", len(known))
	}
}

// TestSetLagging deletes orders with their lines between the two scans: the lines that were read are refreshed once more.
func TestSetLagging(t *testing.T) {
	r := newRig(t, simulator.Options{First: lately, Rows: salesRows})
	deletes := func() { must(t, errOf2(r.server.Evolve(simulator.Day{Deleted: 4, New: 2}))) }
	r.server.Before(orders, 1, deletes)
	res, err := r.runSet()
	must(t, err)
	if len(res.Results) != 4 || res.Members[1].Version != 1 || !strings.Contains(r.logged.String(), "refreshing those that lag") {
		t.Errorf("%d runs, %+v", len(res.Results), res.Members)
	}
	must(t, errOf2(follow(t.Context(), r.files)))
}

// TestSetThatDoesNotFit moves orders away under every scan: the pointer stays, and the error names what is wrong and no value.
func TestSetThatDoesNotFit(t *testing.T) {
	var on atomic.Bool
	var r *rig
	r = newRig(t, simulator.Options{First: lately, Rows: salesRows, OnRequest: func(i simulator.RequestInfo) {
		if on.Load() && i.Endpoint == simulator.Data && i.Table == orders && i.Query.Get("$filter") == "" {
			must(t, errOf2(r.server.Evolve(simulator.Day{Deleted: 5, New: 8})))
		}
	}})
	first, err := r.runSet()
	must(t, err)
	on.Store(true)
	res, err := r.runSet()
	var dangling *sets.Dangling
	var at *jobs.SetError
	if !errors.As(err, &dangling) || !errors.As(err, &at) || jobs.Classify(err) != jobs.Data || res.Version != -1 {
		t.Fatal(err)
	}
	for _, want := range []string{"Sales_Order_Id of job crm_sales_order_lines", "of job crm_sales_orders", "after 3 rounds", "set sales"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	r.discreet(orders, err.Error()+r.logged.String())
	r.discreet(lines, err.Error())
	p, err := follow(t.Context(), r.files)
	if err != nil || p.Version != 0 || p.Run != first.RunID {
		t.Errorf("the pointer has moved: %v %v", p, err)
	}
	on.Store(false)
	res, err = r.runSet()
	if err != nil || res.Version != 1 {
		t.Errorf("the next run: %v", err)
	}
}

// TestSetMemberFails: a member that cannot be refreshed keeps the whole set where it is.
func TestSetMemberFails(t *testing.T) {
	r := newRig(t, simulator.Options{First: lately, Rows: salesRows})
	must(t, errOf2(r.runSet()))
	must(t, errOf2(r.server.Evolve(simulator.Day{New: 9, Deleted: 9})))
	r.server.Inject(simulator.Fault{Table: orders, Times: -1, Effect: simulator.Status(403, "")})
	if _, err := r.runSet(); jobs.Classify(err) != jobs.Credential {
		t.Fatal(err)
	}
	if v := r.version(sales().Jobs[1]); v != 1 {
		t.Errorf("the lines are at version %d", v)
	}
	if p, err := follow(t.Context(), r.files); err != nil || p.Version != 0 {
		t.Errorf("%v %v", p, err)
	}
}

// TestSetUnaudited: without an audit log no pointer moves.
func TestSetUnaudited(t *testing.T) {
	r := newRig(t, simulator.Options{First: lately, Rows: salesRows})
	must(t, errOf2(r.runSet()))
	s := r.pointers()
	must(t, r.audit.Close())
	if _, err := r.runner.RollbackSet(t.Context(), sales(), 0); !errors.Is(err, jobs.ErrSameVersion) {
		t.Error(err)
	}
	if _, err := r.runSet(); err == nil {
		t.Error("a set was published without a log")
	}
	if p, err := s.Newest(t.Context()); err != nil || p.Version != 0 {
		t.Error(p, err)
	}
}

// TestSetFaults fails each operation on the pointers on both sides of its effect, and the store dies at operations all over the run. What
// readers see is whole at any time, and the next run goes on.
func TestSetFaults(t *testing.T) {
	for _, when := range []storetest.When{storetest.Before, storetest.After} {
		t.Run(fmt.Sprint(when), func(t *testing.T) {
			t.Parallel()
			f := newFaults(t)
			for n := 1; f.try(storetest.Fault{Key: "_sets/sales/*", Nth: n, When: when}); n += 4 {
			}
			f = newFaults(t)
			all := f.clean()
			for n := 1; n < all+40; n += all/3 + 1 {
				f.try(storetest.CrashAt(n, when))
			}
			f.clean()
		})
	}
}

// faults is a set whose store fails.
type faults struct {
	*rig
	bucket atomic.Pointer[storetest.FaultyBucket]
}

func newFaults(t *testing.T) *faults {
	f := &faults{}
	f.rig = newRig(t, simulator.Options{First: lately, Rows: map[string]int64{documents: 60, orders: 50, lines: 150}}, into(func(b store.Bucket) store.Bucket {
		return &switched{Bucket: b, to: &f.bucket}
	}))
	f.clean()
	return f
}

// clean runs the set without a fault, and returns how many operations that took.
func (f *faults) clean() int {
	f.t.Helper()
	counting := storetest.Faulty(f.files)
	f.bucket.Store(counting)
	must(f.t, errOf2(f.runSet()))
	must(f.t, errOf2(follow(f.t.Context(), f.files)))
	return len(counting.Calls())
}

// try runs the set with a fault, and reports whether it struck.
func (f *faults) try(fault storetest.Fault) bool {
	f.t.Helper()
	faulty := storetest.Faulty(f.files, fault)
	must(f.t, errOf2(f.server.Evolve(simulator.Day{New: 3, Updated: 3, Deleted: 2})))
	before, err := f.pointers().Newest(f.t.Context())
	must(f.t, err)
	f.bucket.Store(faulty)
	res, err := f.runSet()
	newest, nerr := f.pointers().Newest(f.t.Context())
	must(f.t, nerr)
	if must(f.t, whole(f.t.Context(), f.files, newest)); err == nil && newest.Run != res.RunID {
		f.t.Errorf("%+v: published, and the pointer is of run %s", fault, newest.Run)
	}
	var published *jobs.PublishedError
	if err != nil && newest.Version != before.Version && !errors.As(err, &published) && jobs.Classify(err) != jobs.Transient {
		f.t.Errorf("%+v: the pointer moved, and the error is %v", fault, err)
	}
	if _, err := follow(f.t.Context(), f.files); err != nil {
		f.t.Errorf("%+v: a reader: %v", fault, err)
	}
	return faulty.Fired() > 0
}

// switched is a bucket whose faults change from run to run.
type switched struct {
	store.Bucket
	to *atomic.Pointer[storetest.FaultyBucket]
}

func (s *switched) now() store.Bucket {
	if f := s.to.Load(); f != nil {
		return f
	}
	return s.Bucket
}

func (s *switched) Create(ctx context.Context, key string) (store.Upload, error) {
	return s.now().Create(ctx, key)
}

func (s *switched) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	return s.now().PutIfAbsent(ctx, key, data)
}

func (s *switched) Put(ctx context.Context, key string, data []byte) error {
	return s.now().Put(ctx, key, data)
}

func (s *switched) Open(ctx context.Context, key string) (io.ReadCloser, store.Info, error) {
	return s.now().Open(ctx, key)
}

func (s *switched) OpenRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	return s.now().OpenRange(ctx, key, offset, length)
}

func (s *switched) Stat(ctx context.Context, key string) (store.Info, error) {
	return s.now().Stat(ctx, key)
}

func (s *switched) List(ctx context.Context, prefix, startAfter string) iter.Seq2[store.Info, error] {
	return s.now().List(ctx, prefix, startAfter)
}

func (s *switched) Delete(ctx context.Context, key string) error { return s.now().Delete(ctx, key) }

// TestSetReaders refreshes a set while days pass, and others read it all the time.
func TestSetReaders(t *testing.T) {
	var r *rig
	var asked, days atomic.Int64
	r = newRig(t, simulator.Options{First: lately, Rows: salesRows, OnRequest: func(i simulator.RequestInfo) {
		if i.Endpoint == simulator.Data && asked.Add(1)%20 == 0 { // in the middle of a scan, mostly
			days.Add(1)
			must(t, errOf2(r.server.Evolve(simulator.Day{New: 3, Updated: 5, Deleted: 2})))
		}
	}})
	must(t, errOf2(r.runSet()))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var group sync.WaitGroup
	var reads, seen atomic.Int64
	group.Go(func() {
		for ctx.Err() == nil {
			p, err := follow(context.WithoutCancel(ctx), r.files)
			if err != nil {
				t.Errorf("a reader: %v", err)
				return
			}
			seen.Store(p.Version)
			reads.Add(1)
			time.Sleep(10 * time.Millisecond)
		}
	})
	published := int64(0)
	for range 6 {
		if res, err := r.runSet(); err == nil {
			published = res.Version
		} else if c := jobs.Classify(err); c != jobs.Data { // it may be refused, rows come and go under it
			t.Error(err)
		}
	}
	if published > 0 { // the reader gets to see it
		for range 500 {
			if seen.Load() == published {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	stop()
	group.Wait()
	if published == 0 || reads.Load() < 2 || seen.Load() != published || days.Load() == 0 {
		t.Errorf("version %d published, %d reads up to version %d, %d days", published, reads.Load(), seen.Load(), days.Load())
	}
}

func TestRollbackSet(t *testing.T) {
	r := newRig(t, simulator.Options{First: lately, Rows: salesRows})
	var results []jobs.SetResult
	for range 3 {
		res, err := r.runSet()
		must(t, err)
		results = append(results, res)
		must(t, errOf2(r.server.Evolve(simulator.Day{New: 5, Updated: 10, Deleted: 3})))
	}
	p, err := r.runner.RollbackSet(t.Context(), sales(), 0)
	must(t, err)
	if p.Version != 3 || *p.Restores != 0 || !slices.Equal(p.Members, results[0].Members) || !p.Cut.Equal(results[0].Cut) {
		t.Errorf("%+v", p)
	}
	if got, err := follow(t.Context(), r.files); err != nil || got.Version != 3 || got.Members[0].Version != 0 {
		t.Errorf("%v %v", got, err)
	}
	if got := r.actions(p.Run); !slices.Equal(got, []string{"rollback-set started", "rollback-set ok"}) {
		t.Error(got)
	}
	for _, version := range []int64{3, 0} {
		if _, err := r.runner.RollbackSet(t.Context(), sales(), version); !errors.Is(err, jobs.ErrSameVersion) {
			t.Errorf("to %d again: %v", version, err)
		}
	}
	if _, err := r.runner.RollbackSet(t.Context(), sales(), 77); !errors.Is(err, sets.ErrNone) || jobs.Classify(err) != jobs.Config {
		t.Error(err)
	}
	// A file of version 1 is gone.
	s, err := r.dataset(sales().Jobs[1]).SnapshotAt(t.Context(), 1)
	must(t, err)
	key, err := s.Files[0].Key()
	must(t, err)
	must(t, r.files.Delete(t.Context(), sales().Jobs[1].Path+"/"+key))
	var gone *sets.Gone
	if _, err := r.runner.RollbackSet(t.Context(), sales(), 1); !errors.As(err, &gone) || !slices.Equal(gone.Jobs, []string{"crm_sales_order_lines"}) {
		t.Error(err)
	}
	// The next run moves on.
	res, err := r.runSet()
	if err != nil || res.Version != 4 || res.Members[0].Version != 3 {
		t.Errorf("%+v %v", res, err)
	}
}

func TestSetPlan(t *testing.T) {
	model := edm.Embedded()
	o, l, d, c := sales().Jobs[0], sales().Jobs[1], job(documents), job("Crm_Customers")
	d.Select, c.Select = []string{"Id", "Document_Date"}, []string{"Customer_Id"}
	plan := func(js ...jobs.Job) (*jobs.SetPlan, error) {
		return jobs.NewSetPlan(jobs.Set{Name: "s", Jobs: js}, model)
	}
	for _, js := range [][]jobs.Job{{d, c, o, l}, {l, o, d, c}, {o, d, l, c}, {c, l, d, o}} {
		p, err := plan(js...)
		must(t, err)
		at := func(j jobs.Job) int { return slices.Index(p.Order, j.Name) }
		if len(p.Order) != 4 || at(l) > at(o) || at(o) > at(d) || at(o) > at(c) {
			t.Errorf("%v", p.Order)
		}
		if len(p.Edges) != 3 || len(p.Notes) != 0 {
			t.Errorf("%+v", p.Edges)
		}
		for _, e := range p.Edges {
			if !e.Enforced {
				t.Errorf("%+v is not enforced", e)
			}
		}
	}
	// What refers to a part of a table is counted only; what belongs to it must be there.
	c.Filter, o.Filter = "Customer_Id ge 00000000-0000-0000-0000-000000000000", "Is_Released eq true"
	p, err := plan(o, l, c)
	must(t, err)
	for _, e := range p.Edges {
		if e.Enforced != (e.Column == "Sales_Order_Id") {
			t.Errorf("%+v", e)
		}
	}
	if p, err := plan(c, d); err != nil || len(p.Notes) != 1 {
		t.Errorf("%+v %v", p, err)
	}
	var bad *jobs.PlanError
	noOwner := l
	noOwner.Select = []string{"Sales_Order_Line_Id", "Line_No"}
	if _, err := plan(o, noOwner); !errors.As(err, &bad) || bad.Job != l.Name || !strings.Contains(err.Error(), "Sales_Order_Id") {
		t.Error(err)
	}
	noKey := o
	noKey.Select = []string{"Document_Id"}
	if _, err := plan(noKey, l); !errors.As(err, &bad) || bad.Job != o.Name {
		t.Error(err)
	}
	if _, err := plan(o, jobs.Job{Name: "x", Table: "Nope"}); !errors.As(err, &bad) || bad.Job != "x" {
		t.Error(err)
	}
	// Several jobs on one table: a key of any of them will do.
	other := o
	other.Name, other.Path = "other", "other"
	p, err = plan(o, other, l)
	must(t, err)
	if len(p.Edges) != 1 || !slices.Equal(p.Edges[0].To, []string{o.Name, "other"}) {
		t.Errorf("%+v", p.Edges)
	}
}
