package jobs_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/scope"
	"github.com/tablexport/tablexport/odata/simulator"
)

// shops is a scope over the two stores with the most lines; the table has others, and lines of no store.
func (r *rig) shops(j jobs.Job) jobs.Job {
	r.t.Helper()
	rows, err := r.oracle.Rows(lines, "", []string{"Line_Store_Id"})
	must(r.t, err)
	count := map[string]int{}
	for row := range rows {
		count[row[0]]++
	}
	if count[simulator.Null] == 0 || len(count) < 4 {
		r.t.Fatalf("too tame for a test of scopes: %d stores, %d lines of none", len(count)-1, count[simulator.Null])
	}
	delete(count, simulator.Null)
	var stores []string
	for s := range count {
		stores = append(stores, s)
	}
	slices.SortFunc(stores, func(a, b string) int { return count[b] - count[a] })
	j.ScopeName, j.Unrestricted, j.Where = "shops", false, fmt.Sprintf("Line_Store_Id in (%s,%s)", stores[0], stores[1])
	return j
}

func without(columns []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(columns), func(c string) bool { return c == name })
}

// The rows inside the scope are published, and no other, NULL being inside no scope. A scope's column is fetched even where it
// is not selected, and then dropped.
func TestScope(t *testing.T) {
	r := newRig(t, simulator.Options{})
	j := r.shops(job(lines))
	res := r.exact(j)
	columns, rows := r.read(j)
	at := slices.Index(columns, "Line_Store_Id")
	for _, row := range rows {
		if !strings.Contains(j.Where, row[at]) {
			t.Fatalf("a row of store %q was published", row[at])
		}
	}
	if res.Rows == 0 || res.Rows >= 700 || res.Scope.Enforcement != scope.Verified || res.Scope.Name != "shops" || res.Scope.Where != j.Where {
		t.Errorf("%+v", res)
	}

	k := j
	k.Name, k.Path, k.Select = "narrow", "erp/narrow", without(lineColumns, "Line_Store_Id")
	narrow := r.exact(k)
	columns, _ = r.read(k)
	if slices.Contains(columns, "Line_Store_Id") || len(columns) != len(lineColumns)-1 || narrow.Rows != res.Rows {
		t.Errorf("columns %v, %d rows", columns, narrow.Rows)
	}
	k.Filter = "Persist_Lot eq true" // the job's own filter narrows further
	if narrower := r.exact(k); narrower.Rows == 0 || narrower.Rows >= narrow.Rows {
		t.Errorf("%d rows of %d", narrower.Rows, narrow.Rows)
	}
}

// A foreign row ends the run: nothing is published, and the audit log says where, without saying what.
func TestForeignRow(t *testing.T) {
	for _, paging := range []odata.Paging{odata.Auto, odata.Offset, odata.NextLink, odata.Stream} {
		t.Run(string(paging), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, simulator.Options{Behavior: simulator.Behavior{OrderBy: simulator.IgnoreOrderBy}})
			j := r.shops(job(lines))
			j.Paging, j.PageSize = paging, 60
			r.exact(j)
			r.server.Inject(simulator.Fault{Match: fullRows, Times: -1, Effect: simulator.ForeignRow(5)})
			r.violated(j, nil)
		})
	}
	// One that stands where its key does not belong is a foreign row all the same, before it is a row out of order.
	r := newRig(t, simulator.Options{})
	j := r.shops(job(lines))
	j.Paging = odata.Key
	r.exact(j)
	r.server.Inject(simulator.Fault{Match: fullRows, Effect: simulator.ForeignRow(5)})
	r.violated(j, nil)
	r.exact(j)
}

// violated runs j and demands that it ends with a violation, and that everybody who must know it does.
func (r *rig) violated(j jobs.Job, row func(int64) bool) {
	r.t.Helper()
	stands := r.standing(j)
	_, err := r.run(j)
	var v *scope.Violation
	if !errors.As(err, &v) || v.Scope != "shops" || v.Column != "Line_Store_Id" {
		r.t.Fatalf("got %v, want a violation", err)
	}
	line := r.failed(j, err, jobs.Scope)
	stands()
	if got := r.actions(line.ID); !slices.Equal(got, []string{"lease ok", "scope-violation refused", "release ok"}) {
		r.t.Fatalf("audit: %v", got)
	}
	e := r.entries(line.ID)[1]
	if e.Job != j.Name || e.Table != lines || e.Actor != "tester" || e.Fingerprint == "" || e.Detail["rule"] != "Line_Store_Id in (2 values)" || e.Detail["scope"] != "shops" {
		r.t.Errorf("%+v", e)
	}
	if row != nil && !row(v.Row) {
		r.t.Errorf("row %d cannot be the first foreign one", v.Row)
	}
}

// A server that does not heed the scope's part of $filter, from some request on, or sends rows without a value in the
// scope's column.
func TestFilterNotHeeded(t *testing.T) {
	for _, paging := range pagings() {
		for name, instead := range map[string]string{"left out": "", "null": "Line_Store_Id eq null"} {
			t.Run(string(paging)+"/"+name, func(t *testing.T) {
				t.Parallel()
				var deaf atomic.Bool
				r := newRig(t, simulator.Options{}, behind(func(next http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
						if deaf.Load() {
							q = q.Clone(q.Context())
							q.URL.RawQuery = reworded(q.URL.Query(), instead)
						}
						next.ServeHTTP(w, q)
					})
				}))
				j := r.shops(job(lines))
				j.Paging, j.PageSize = paging, 60
				r.exact(j)
				deaf.Store(true)
				r.violated(j, func(row int64) bool { return instead == "" || row == 0 })
			})
		}
	}
}

// reworded is a query whose terms on the store are replaced ("" = left out).
func reworded(v url.Values, instead string) string {
	var terms []string
	for term := range strings.SplitSeq(v.Get("$filter"), " and ") {
		if strings.HasPrefix(term, "Line_Store_Id in") {
			term = instead
		}
		if term != "" {
			terms = append(terms, term)
		}
	}
	v.Del("$filter")
	if len(terms) > 0 {
		v.Set("$filter", strings.Join(terms, " and "))
	}
	return strings.ReplaceAll(v.Encode(), "+", "%20")
}

// A rule on an owner path, which rows do not carry: only where the job accepts it, and stamped on the dataset.
func TestDelegated(t *testing.T) {
	r := newRig(t, simulator.Options{})
	rows, err := r.oracle.Rows("Gen_Documents", "", []string{"Enterprise_Company_Id"})
	must(t, err)
	var company string
	for row := range rows {
		company = row[0]
		break
	}
	j := job(lines)
	j.ScopeName, j.Unrestricted = "company", false
	j.Where = "Sales_Order_Reference/Document_Reference/Enterprise_Company_Id eq " + company
	_, err = r.run(j)
	var plan *jobs.PlanError
	if r.failed(j, err, jobs.Config); !errors.As(err, &plan) || plan.Problems[0].Field != "where" || !strings.Contains(plan.Error(), "delegated: true") {
		t.Fatal(err)
	}
	j.Delegated = true
	res := r.exact(j)
	if res.Rows == 0 || res.Rows == 700 || res.Scope.Enforcement != scope.Delegated || !slices.Equal(res.Scope.Delegated, []string{j.Where}) {
		t.Errorf("%+v", res)
	}
	history, err := r.dataset(j).History(t.Context(), 1)
	must(t, err)
	if got := history[0].Scope; got.Enforcement != scope.Delegated || got.Name != "company" || !slices.Equal(got.Delegated, []string{j.Where}) {
		t.Errorf("in the commit: %+v", got)
	}
	s, err := r.dataset(j).Snapshot(t.Context())
	must(t, err)
	if c := s.Metadata.Configuration; c["tablexport.scope.enforcement"] != "delegated" || c["tablexport.scope.delegated"] != j.Where {
		t.Errorf("on the table: %v", c)
	}
	if e := r.entries(res.RunID); e[len(e)-2].Action != "publish" || e[len(e)-2].Detail["enforcement"] != "delegated" {
		t.Errorf("audit: %+v", e)
	}
}

// Seeing everything must be typed, and is stamped too.
func TestUnrestricted(t *testing.T) {
	r := newRig(t, simulator.Options{})
	j := job(lines)
	if res := r.exact(j); res.Rows != 700 || res.Scope.Enforcement != scope.Unrestricted {
		t.Errorf("%+v", res)
	}
	history, err := r.dataset(j).History(t.Context(), 1)
	must(t, err)
	if history[0].Scope.Enforcement != scope.Unrestricted {
		t.Errorf("%+v", history[0].Scope)
	}
	j.Unrestricted = false
	_, err = r.run(j)
	r.failed(j, err, jobs.Config)
}
