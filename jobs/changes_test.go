package jobs_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tablexport/tablexport/export/exporttest/judge"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/storetest"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/scope"
	"github.com/tablexport/tablexport/odata/simulator"
)

// byChanges is a job that keeps a table fresh by changes.
func byChanges(table string) jobs.Job {
	j := job(table)
	j.Refresh.Mode = jobs.Changes
	return j
}

// merged runs j and demands that what is published is what the oracle says.
func (r *rig) merged(j jobs.Job) jobs.Result {
	r.t.Helper()
	mark := r.oracle.Mark()
	res, err := r.run(j)
	if err != nil {
		r.t.Fatal(err)
	}
	r.copies(j, mark)
	return res
}

// copies demands that the dataset is a correct copy of what was there since mark.
func (r *rig) copies(j jobs.Job, mark simulator.Marker) {
	r.t.Helper()
	columns, rows := r.read(j)
	if err := r.oracle.Check(mark, j.Table, r.filter(j), columns, slices.Values(rows)); err != nil {
		r.t.Fatalf("published, but wrong: %v", err)
	}
}

// Rounds of change: inserts, updates, deletes, rows that move into and out of filter and scope, on tables with keys of every kind and on servers
// of every order. After each the dataset is what the oracle says, and only what has changed was written.
func TestChanges(t *testing.T) {
	scoped := byChanges(lines)
	scoped.Unrestricted, scoped.ScopeName = false, "stores"
	scoped.Where = "Line_Store_Id in (" + strings.Join(storesOf(t), ",") + ")"
	filtered := byChanges(lines)
	filtered.Filter = "Sales_Order_Reference/Document_Reference/Void eq false"
	thin := byChanges(lines)
	thin.Select = []string{"Line_No", "Quantity"} // neither key nor row version
	jobsOf := map[string]jobs.Job{"guid": byChanges(lines), "scope": scoped, "filter": filtered, "thin": thin,
		"composite": byChanges(links), "text": byChanges(linkTypes)}
	for name, j := range jobsOf {
		for order, b := range map[string]simulator.Behavior{
			"ordered": {Count: simulator.PathCount}, "unordered": {OrderBy: simulator.RefuseOrderBy, Natural: simulator.ByColumn, NaturalColumn: "Row_Version"},
		} {
			t.Run(name+"/"+order, func(t *testing.T) {
				t.Parallel()
				rows := int64(300)
				if name == "text" {
					rows = 60
				}
				if order == "unordered" && name == "composite" {
					b.NaturalColumn = ""
					b.Natural = simulator.ByKey
				}
				r := newRig(t, simulator.Options{Rows: map[string]int64{j.Table: rows}, Behavior: b})
				rounds(t, r, j)
			})
		}
	}
}

func rounds(t *testing.T, r *rig, j jobs.Job) {
	if first := r.merged(j); first.Whole == "" || first.Merge != nil {
		t.Fatalf("the first run: %+v", first)
	}
	if idle := r.merged(j); idle.Merge == nil || idle.Merge.Written+idle.Merge.Dropped+idle.Merge.Copied != 0 {
		t.Errorf("nothing has changed: %+v, %q", idle.Merge, idle.Whole)
	}
	rng := rand.New(rand.NewPCG(1, uint64(len(j.Name))))
	for round := range 4 {
		must(t, errOf(r.server.Insert(j.Table, rng.IntN(4))))
		must(t, errOf(r.server.Update(j.Table, rng.IntN(6))))
		must(t, errOf(r.server.Delete(j.Table, rng.IntN(4))))
		must(t, errOf(r.server.Move(j.Table, rng.IntN(8))))
		if j.Table == lines { // of the owner's state, too
			must(t, errOf(r.server.Move("Gen_Documents", 20)))
		}
		res := r.merged(j)
		if res.Merge == nil {
			t.Fatalf("round %d: read whole: %s", round, res.Whole)
		}
		if res.Rows != res.Merge.Written || res.Merge.After != res.Evidence.Rows-res.Merge.Fetch.Missing {
			t.Errorf("round %d: %+v", round, res)
		}
	}
	report, err := r.dataset(j).Verify(t.Context())
	if err != nil || len(report.Problems) > 0 {
		t.Errorf("%v %v", report.Problems, err)
	}
	must(t, errOf(r.server.Delete(j.Table, 1_000_000)))
	if res := r.merged(j); res.Merge == nil || res.Merge.After != 0 {
		t.Errorf("all is deleted: %+v", res.Merge)
	}
	must(t, errOf(r.server.Insert(j.Table, 5)))
	r.merged(j)
}

// storesOf are two stores that lines of the rig's table belong to.
func storesOf(t *testing.T) (ids []string) {
	t.Helper()
	r := newRig(t, simulator.Options{Rows: map[string]int64{lines: 300}})
	rows, err := r.oracle.Rows(lines, "", []string{"Line_Store_Id"})
	must(t, err)
	for row := range rows {
		if id := row[0]; id != simulator.Null && !slices.Contains(ids, id) && len(ids) < 2 {
			ids = append(ids, id)
		}
	}
	if len(ids) < 2 {
		t.Fatal("the table has no two stores")
	}
	return ids
}

// What cannot be compared is read whole, and the result says why.
func TestChangesReadWhole(t *testing.T) {
	r := newRig(t, simulator.Options{})
	j := byChanges(lines)
	r.merged(j)
	must(t, errOf(r.server.Update(lines, 5)))
	narrower := j
	narrower.Filter = "Sales_Order_Reference/Document_Reference/Void eq false"
	if res := r.merged(narrower); !strings.Contains(res.Whole, "another query") {
		t.Errorf("another filter: %q", res.Whole)
	}
	if res := r.merged(narrower); res.Whole != "" {
		t.Errorf("the same filter again: %q", res.Whole)
	}
	must(t, errOf(r.server.Insert(lines, 3000)))
	if res := r.merged(narrower); !strings.Contains(res.Whole, "have changed") {
		t.Errorf("most rows are new: %q", res.Whole)
	}
}

// Plans of jobs that cannot go by changes say so, and what to do.
func TestChangesPlan(t *testing.T) {
	plan := func(j jobs.Job) error { _, err := jobs.NewPlan(j, edm.Embedded()); return err }
	if err := plan(byChanges(balances)); err == nil || !strings.Contains(err.Error(), "without a key") {
		t.Errorf("a view: %v", err)
	}
	if err := plan(byChanges("Sys_Numbers")); err == nil || !strings.Contains(err.Error(), "no row version") {
		t.Errorf("no version: %v", err)
	}
	thin := byChanges(lines)
	thin.Select = []string{"Line_No"}
	p, err := jobs.NewPlan(thin, edm.Embedded())
	must(t, err)
	if !slices.Equal(p.Publish, []string{"Line_No", "Sales_Order_Line_Id", "Row_Version"}) || len(p.Notes) < 2 {
		t.Errorf("%v %q", p.Publish, p.Notes)
	}
}

// Rows that change while a run is under way, at any of its requests: what is published is right as of some moment of the run, and the next run
// settles it.
func TestChangesDuringARun(t *testing.T) {
	r := newRig(t, simulator.Options{})
	j := byChanges(lines)
	r.merged(j)
	for n := 1; n <= 8; n++ {
		must(t, errOf(r.server.Update(lines, 6)))
		must(t, errOf(r.server.Insert(lines, 2)))
		r.server.Inject(simulator.Fault{Table: lines, Nth: n, Effect: simulator.MidStream(0, func() {
			must(t, errOf(r.server.Update(lines, 30)))
			must(t, errOf(r.server.Delete(lines, 8)))
			must(t, errOf(r.server.Insert(lines, 3)))
		})})
		r.merged(j)
		r.server.ClearFaults()
		if res := r.merged(j); res.Whole != "" {
			t.Errorf("%d: read whole: %s", n, res.Whole)
		}
	}
}

// A foreign row among the fetched ones fails the run, however it comes; a fetch that loses a row is asked again.
func TestChangesFaults(t *testing.T) {
	r := newRig(t, simulator.Options{Rows: map[string]int64{lines: 300}})
	j := byChanges(lines)
	j.Unrestricted, j.ScopeName = false, "stores"
	j.Where = "Line_Store_Id in (" + strings.Join(storesOf(t), ",") + ")"
	r.merged(j)
	must(t, errOf(r.server.UpdateWhere(lines, j.Where)))
	stands := r.standing(j)
	r.server.Inject(simulator.Fault{Match: asksKeys, Effect: simulator.ForeignRow(2)})
	if _, err := r.run(j); err == nil {
		t.Error("a row that was not asked for was taken")
	}
	stands()
	r.server.ClearFaults()
	r.server.Inject(simulator.Fault{Match: asksKeys, Effect: simulator.DropRow(2)})
	r.merged(j)
}

// asksKeys matches the requests for rows by their keys.
func asksKeys(r *http.Request) bool {
	return strings.Contains(r.URL.Query().Get("$filter"), "Sales_Order_Line_Id in (")
}

// Whatever operation of the store fails, and whether or not it took effect: the dataset is as before or right, and the next run makes it right.
func TestChangesWhenTheStoreFails(t *testing.T) {
	for _, when := range []storetest.When{storetest.Before, storetest.After} {
		t.Run(fmt.Sprint(when), func(t *testing.T) {
			t.Parallel()
			n := 0
			for fired := 1; fired > 0; {
				n++
				fired = storeFailsAt(t, storetest.Fault{Nth: n, When: when})
			}
			if n < 15 {
				t.Errorf("only %d operations", n)
			}
		})
	}
}

func storeFailsAt(t *testing.T, fault storetest.Fault) (fired int) {
	r := newRig(t, simulator.Options{Rows: map[string]int64{lines: 40}})
	j := byChanges(lines)
	j.PageSize = 1000
	r.merged(j)
	must(t, errOf(r.server.Update(lines, 3)))
	must(t, errOf(r.server.Insert(lines, 1)))
	must(t, errOf(r.server.Delete(lines, 1)))
	mark, version := r.oracle.Mark(), r.version(j)
	_, before := r.read(j)
	bad := storetest.Faulty(r.files, fault)
	r.runner.Bucket = func(context.Context, string) (store.Bucket, error) { return bad, nil }
	_, err := r.run(j)
	switch {
	case r.version(j) > version:
		r.copies(j, mark)
	case err == nil:
		t.Fatalf("operation %d: no error, and nothing published", fault.Nth)
	default:
		if _, rows := r.read(j); !slices.EqualFunc(rows, before, slices.Equal[simulator.Row]) {
			t.Fatalf("operation %d: the version before has changed", fault.Nth)
		}
	}
	r.runner.Bucket = func(context.Context, string) (store.Bucket, error) { return r.files, nil }
	r.merged(j)
	return bad.Fired()
}

// The cost of a run is the thin sweep and the change: pages of keys and versions, and one request for some hundred changed rows.
func TestChangesCost(t *testing.T) {
	r := newRig(t, simulator.Options{Rows: map[string]int64{lines: 4000}})
	j := byChanges(lines)
	j.Select, j.PageSize = nil, 1000 // all columns
	full := r.merged(j)
	must(t, errOf(r.server.Update(lines, 4)))
	few := r.merged(j)
	must(t, errOf(r.server.Update(lines, 400)))
	many := r.merged(j)
	if few.Merge == nil || many.Merge == nil {
		t.Fatal(few.Whole, many.Whole)
	}
	t.Logf("whole: %d requests, %d bytes; sweep: %d, %d; 4 rows: %d, %d; 400 rows: %d, %d", full.Evidence.Requests, full.Evidence.Bytes, few.Evidence.Requests,
		few.Evidence.Bytes, few.Merge.Fetch.Requests, few.Merge.Fetch.Bytes, many.Merge.Fetch.Requests, many.Merge.Fetch.Bytes)
	if few.Evidence.Requests*2 > full.Evidence.Requests || few.Evidence.Bytes*8 > full.Evidence.Bytes {
		t.Error("the sweep is not thin")
	}
	if few.Merge.Fetch.Requests != 1 || few.Merge.Fetch.Bytes > 20_000 || many.Merge.Fetch.Requests > 8 || many.Merge.Fetch.Bytes > 110*few.Merge.Fetch.Bytes {
		t.Error("the fetch is not in proportion to the change")
	}
}

// Foreign readers find in a merged table what the oracle says.
func TestChangesJudged(t *testing.T) {
	r := newRig(t, simulator.Options{Rows: map[string]int64{lines: 300}})
	j := byChanges(lines)
	dir := filepath.Join(r.dir, "lake", j.Path)
	r.merged(j)
	for range 3 {
		must(t, errOf(r.server.Update(lines, 20)))
		must(t, errOf(r.server.Delete(lines, 5)))
		must(t, errOf(r.server.Insert(lines, 5)))
		mark := r.oracle.Mark()
		res := r.merged(j)
		report := judge.Check(t, dir)
		if report.Rows != int(res.Merge.After) || report.Version != res.Version {
			t.Errorf("%+v, but the run says %+v", report, res)
		}
		columns, _ := r.read(j)
		for reader, rows := range map[string][]judge.Row{"delta-rs": judge.Rows(t, dir), "DuckDB": judge.DuckDBRows(t, dir)} {
			copied := make([]simulator.Row, len(rows))
			for i, row := range rows {
				copied[i] = judged(t, j, columns, row)
			}
			if err := r.oracle.Check(mark, lines, "", columns, slices.Values(copied)); err != nil {
				t.Errorf("%s: %v", reader, err)
			}
		}
	}
}

// With a scope that is proven by owners, rows leave and enter it without changing themselves: both are merged. A server that hides nothing any more
// is found out by the sweep, although no row has changed.
func TestChangesByOwner(t *testing.T) {
	d := &deaf{table: lines, prefix: "Sales_Order_Reference/Store_Id"}
	r := newRig(t, simulator.Options{}, d.behind())
	j := r.owned(1)
	j.Refresh.Mode = jobs.Changes
	r.merged(j)
	left := int64(0)
	for range 3 {
		must(t, errOf(r.server.Update(lines, 5)))
		must(t, errOf(r.server.Move(orders, 150)))
		res := r.merged(j)
		if res.Merge == nil || res.Scope.Enforcement != scope.Verified {
			t.Fatalf("%q %+v", res.Whole, res.Scope)
		}
		left += res.Merge.Deleted
	}
	if left == 0 {
		t.Error("too tame: no row has left the scope")
	}
	stands := r.standing(j)
	d.on.Store(true)
	_, err := r.run(j)
	r.failed(j, err, jobs.Scope)
	stands()
}
