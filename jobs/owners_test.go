package jobs_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/scope"
	"github.com/tablexport/tablexport/odata/simulator"
	"github.com/tablexport/tablexport/secrets"
)

const (
	orders    = "Crm_Sales_Orders"
	documents = "Gen_Documents"
)

// commonest is the value that most rows of a column have.
func (r *rig) commonest(table, column string) string {
	r.t.Helper()
	rows, err := r.oracle.Rows(table, "", []string{column})
	must(r.t, err)
	count, best := map[string]int{}, ""
	for row := range rows {
		if count[row[0]]++; row[0] != simulator.Null && count[row[0]] > count[best] {
			best = row[0]
		}
	}
	if len(count) < 3 {
		r.t.Fatalf("too tame for a test of scopes: %d values in %s.%s", len(count), table, column)
	}
	return best
}

// owned is a job on lines whose scope sits on the order (one hop) or on its document (two).
func (r *rig) owned(hops int) jobs.Job {
	j := job(lines)
	j.ScopeName, j.Unrestricted, j.VerifyOwner = "owned", false, true
	switch hops {
	case 1:
		j.Where = "Sales_Order_Reference/Store_Id eq " + r.commonest(orders, "Store_Id")
	case 2:
		j.Where = "Sales_Order_Reference/Document_Reference/Enterprise_Company_Id eq " + r.commonest(documents, "Enterprise_Company_Id")
	}
	return j
}

// Rules on owners over one hop, two, and both with one of the table's own: proven, stamped, told, and exactly what the oracle says.
func TestVerifiedViaOwner(t *testing.T) {
	for _, paging := range pagings() {
		t.Run(string(paging), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, simulator.Options{})
			one, two := r.owned(1), r.owned(2)
			three := r.owned(1)
			three.Where += " and " + two.Where + " and Sales_Order_Reference/Document_Reference/Void eq false and " + r.shops(job(lines)).Where
			for i, j := range []jobs.Job{one, two, three} {
				j.Paging, j.Path, j.Name = paging, fmt.Sprintf("erp/%d", i), fmt.Sprintf("job%d", i)
				j.Select = without(lineColumns, "Line_Store_Id")
				res := r.exact(j)
				rules := len(strings.Split(j.Where, "Reference/")) // not a rule of its own table
				if res.Rows == 0 || res.Rows == 700 || res.Scope.Enforcement != scope.Verified || len(res.Scope.Owners) == 0 || len(res.Scope.Owners) >= rules || res.Scope.Delegated != nil {
					t.Errorf("%+v", res.Scope)
				}
				columns, _ := r.read(j)
				if slices.Contains(columns, "Sales_Order_Id") {
					t.Errorf("the reference was read for the scope only, and published: %v", columns)
				}
				want := []string{orders}
				if i > 0 {
					want = []string{documents, orders}
				}
				var got []string
				for _, o := range res.Owners {
					got = append(got, o.Table)
					if o.Keys == 0 || int64(o.Keys) != o.Evidence.Rows || o.Evidence.Judge() != nil || o.Bytes < int64(16*o.Keys) {
						t.Errorf("%+v", o)
					}
				}
				if !slices.Equal(got, want) {
					t.Errorf("owners read: %v, not %v", got, want)
				}
				history, err := r.dataset(j).History(t.Context(), 1)
				must(t, err)
				if got := history[0].Scope; got.Enforcement != scope.Verified || !slices.Equal(got.Owners, res.Scope.Owners) {
					t.Errorf("in the commit: %+v", got)
				}
				if e := r.entries(res.RunID); e[len(e)-2].Action != "publish" || e[len(e)-2].Detail["verifiedViaOwner"] != strings.Join(res.Scope.Owners, "; ") {
					t.Errorf("audit: %+v", e)
				}
			}
		})
	}
}

// deaf leaves terms that begin with prefix out of the filters of a table's requests, once it is switched on.
type deaf struct {
	on            atomic.Bool
	table, prefix string
}

func (d *deaf) behind() part {
	return behind(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if d.on.Load() && strings.Contains(q.URL.Path, "/"+d.table) {
				var terms []string
				v := q.URL.Query()
				for term := range strings.SplitSeq(v.Get("$filter"), " and ") {
					if !strings.HasPrefix(term, d.prefix) {
						terms = append(terms, term)
					}
				}
				if v.Del("$filter"); len(terms) > 0 && terms[0] != "" {
					v.Set("$filter", strings.Join(terms, " and "))
				}
				q = q.Clone(q.Context())
				q.URL.RawQuery = strings.ReplaceAll(v.Encode(), "+", "%20")
			}
			next.ServeHTTP(w, q)
		})
	})
}

// A server that does not heed the path in the filter of the table, of the owners, or of the owners' owners: the run ends with a violation, and nothing is published.
func TestOwnerFilterNotHeeded(t *testing.T) {
	for name, c := range map[string]struct {
		hops          int
		table, prefix string
		column, owner string
	}{
		"row":             {1, lines, "Sales_Order_Reference", "Sales_Order_Id", ""},
		"row, two hops":   {2, lines, "Sales_Order_Reference", "Sales_Order_Id", ""},
		"owner":           {1, orders, "Store_Id", "Store_Id", orders},
		"owner, two hops": {2, orders, "Document_Reference", "Document_Id", orders},
		"owner's owner":   {2, documents, "Enterprise_Company_Id", "Enterprise_Company_Id", documents},
	} {
		for _, paging := range []odata.Paging{odata.Auto, odata.Stream} {
			t.Run(name+"/"+string(paging), func(t *testing.T) {
				t.Parallel()
				d := &deaf{table: c.table, prefix: c.prefix}
				r := newRig(t, simulator.Options{Concurrency: 1}, d.behind(), client(func(o *odata.Options) { o.Concurrency = 1 }))
				j := r.owned(c.hops)
				j.Paging, j.PageSize = paging, 60
				r.exact(j)
				d.on.Store(true)
				stands := r.standing(j)
				_, err := r.run(j)
				var v *scope.Violation
				if !errors.As(err, &v) || v.Column != c.column || v.Table != c.owner || v.Scope != "owned" || v.Rule == "" {
					t.Fatalf("got %v, want a violation of %s", err, c.column)
				}
				line := r.failed(j, err, jobs.Scope)
				stands()
				if got := r.actions(line.ID); !slices.Equal(got, []string{"lease ok", "scope-violation refused", "release ok"}) {
					t.Fatalf("audit: %v", got)
				}
				if e := r.entries(line.ID)[1]; e.Detail["ownerTable"] != c.owner {
					t.Errorf("%+v", e)
				}
				d.on.Store(false)
				r.exact(j)
			})
		}
	}
}

// One foreign row, by a fault of the server: of the table, and of its owners.
func TestForeignRowByOwner(t *testing.T) {
	for _, table := range []string{lines, orders, documents} {
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, simulator.Options{})
			j := r.owned(2)
			r.exact(j)
			stands := r.standing(j)
			r.server.Inject(simulator.Fault{Table: table, Match: fullRows, Effect: simulator.ForeignRow(3)})
			_, err := r.run(j)
			r.failed(j, err, jobs.Scope)
			stands()
			r.exact(j)
		})
	}
}

// during calls do once, before the n-th request for rows of the lines.
func during(n int, do func(*simulator.Server)) (simulator.Options, func(*simulator.Server)) {
	var server atomic.Pointer[simulator.Server]
	var seen atomic.Int64
	var once sync.Once
	return simulator.Options{OnRequest: func(q simulator.RequestInfo) {
		if s := server.Load(); s != nil && q.Table == lines && q.Endpoint == simulator.Data && seen.Add(1) == int64(n) {
			once.Do(func() { do(s) })
		}
	}}, func(s *simulator.Server) { server.Store(s) }
}

// Owners that come into the scope while rows are read are asked for by their keys, and their rows are published; rows of owners that left it are not sent.
// Both over one hop and two, and at whatever moment.
func TestOwnersMoveDuringRun(t *testing.T) {
	for _, hops := range []int{1, 2} {
		for _, n := range []int{1, 3, 5} {
			for _, low := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d hops, request %d, %v", hops, n, low), func(t *testing.T) {
					t.Parallel()
					moved := map[int]string{1: orders, 2: documents}[hops]
					o, armed := during(n, func(s *simulator.Server) {
						if _, err := s.Move(moved, 60); err != nil {
							t.Error(err)
						}
					})
					r := newRig(t, o, client(func(o *odata.Options) { o.Concurrency = 1 }))
					j := r.owned(hops)
					r.exact(j)
					armed(r.server)
					mark := r.oracle.Mark()
					res, err := r.runner.Run(t.Context(), jobs.Request{Job: j, LowMemory: low})
					must(t, err)
					r.correct(j, mark, res)
					if n < 5 && !strings.Contains(r.logged.String(), "owners that came late") {
						t.Error("no owner came late: the test proves nothing")
					}
				})
			}
		}
	}
}

// A row whose owner is gone when it is asked for says that the table has changed, not that the row is foreign: the scan is made again.
func TestOwnerGone(t *testing.T) {
	var gone atomic.Bool
	o, armed := during(1, func(s *simulator.Server) {
		if _, err := s.Move(orders, 120); err != nil {
			t.Error(err)
		}
		gone.Store(true)
	})
	r := newRig(t, o, behind(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if gone.Load() && strings.Contains(q.URL.Path, orders) && strings.Contains(q.URL.Query().Get("$filter"), "Sales_Order_Id in") {
				v := q.URL.Query()
				v.Set("$filter", "Sales_Order_Id eq 00000000-0000-0000-0000-000000000000")
				q = q.Clone(q.Context())
				q.URL.RawQuery = strings.ReplaceAll(v.Encode(), "+", "%20")
			}
			next.ServeHTTP(w, q)
		})
	}))
	j := r.owned(1)
	r.exact(j)
	armed(r.server)
	mark := r.oracle.Mark()
	res, err := r.run(j)
	must(t, err)
	r.correct(j, mark, res)
	if res.Evidence.Attempts != 2 {
		t.Errorf("scan %d, not 2", res.Evidence.Attempts)
	}
}

// More owners than may be kept: an error of the configuration, before any row is read.
func TestTooManyOwners(t *testing.T) {
	r := newRig(t, simulator.Options{})
	j := r.owned(1)
	res := r.exact(j)
	keys := res.Owners[0].Keys
	j.MaxOwnerKeys = keys
	r.exact(j)
	j.MaxOwnerKeys = keys - 1
	stands := r.standing(j)
	_, err := r.run(j)
	r.failed(j, err, jobs.Config)
	var many *jobs.TooManyOwners
	if !errors.As(err, &many) || many.Table != orders || many.Limit != keys-1 || !strings.Contains(err.Error(), "max_owner_keys") {
		t.Fatal(err)
	}
	stands()
}

// A new token is tried on a job whose scope is proven by owners, too: a few rows are read, and their owners asked for by key. One that is shown rows outside the
// scope is found out.
func TestCompareByOwner(t *testing.T) {
	for _, hops := range []int{1, 2} {
		d := &deaf{table: lines, prefix: "Sales_Order_Reference"}
		r := newRig(t, simulator.Options{}, d.behind())
		j := r.owned(hops)
		token, err := r.keeper.Lease(t.Context(), secrets.LeaseRequest{Name: tokenName, Instance: "acme", Host: r.runner.Instances["acme"].Client.Host(), Purpose: "test", Job: j.Name})
		must(t, err)
		session := r.runner.Instances["acme"].Client.Open(token)
		a, err := jobs.Compare(t.Context(), j, session, session)
		if err != nil || len(a.Problems) > 0 || a.Sampled == 0 {
			t.Errorf("%v %+v", err, a)
		}
		d.on.Store(true)
		a, err = jobs.Compare(t.Context(), j, session, session)
		if err != nil || len(a.Problems) != 1 || !strings.Contains(a.Problems[0], "outside the scope") {
			t.Errorf("%v %+v", err, a)
		}
		must(t, token.Close(t.Context()))
	}
}
