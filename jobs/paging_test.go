package jobs_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/evidence"
	"github.com/tablexport/tablexport/odata/simulator"
)

func pagings() []odata.Paging {
	return []odata.Paging{odata.Auto, odata.Key, odata.Offset, odata.NextLink, odata.Stream}
}

// Every behaviour of a server by every paging: the published table is exactly right, or the run refuses with a reason and
// the previous version stands. Where refuse has no entry for a paging, it must be right.
func TestEveryBehaviourIsRightOrRefused(t *testing.T) {
	type b = simulator.Behavior
	tests := []struct {
		name     string
		behavior b
		refuse   map[odata.Paging]string
	}{
		{"rows in key order", b{}, nil},
		{"$count in the answer", b{Count: simulator.InlineCount}, nil},
		{"$count by path", b{Count: simulator.PathCount}, nil},
		{"$orderby refused", b{OrderBy: simulator.RefuseOrderBy}, nil},
		{"$orderby refused, $count", b{OrderBy: simulator.RefuseOrderBy, Count: simulator.PathCount}, nil},
		{"$orderby ignored", b{OrderBy: simulator.IgnoreOrderBy}, nil},
		{"another order at every request", b{Natural: simulator.Shuffled}, map[odata.Paging]string{odata.NextLink: "came twice"}},
		{"another order at every request, $orderby refused", b{OrderBy: simulator.RefuseOrderBy, Natural: simulator.Shuffled}, map[odata.Paging]string{
			odata.Key: "key order", odata.Offset: "moved", odata.NextLink: "came twice",
		}},
		{"cut at 90 rows", b{MaxRows: 90}, nil},
		{"cut at 90 rows, $orderby refused", b{MaxRows: 90, OrderBy: simulator.RefuseOrderBy}, nil},
		{"cut at 90 rows, $orderby refused, another order", b{MaxRows: 90, OrderBy: simulator.RefuseOrderBy, Natural: simulator.Shuffled}, map[odata.Paging]string{
			odata.Auto: "came twice", odata.Key: "key order", odata.Offset: "moved", odata.NextLink: "came twice", odata.Stream: "came twice",
		}},
		{"next links by token", b{NextLink: simulator.NextLink{PageSize: 80}}, nil},
		{"next links by $skip", b{NextLink: simulator.NextLink{PageSize: 80, BySkip: true}}, nil},
		{"next links, relative", b{NextLink: simulator.NextLink{PageSize: 80, Relative: true}}, nil},
		{"next links, $top is a total", b{NextLink: simulator.NextLink{PageSize: 80, TopIsTotal: true}}, nil},
		{"next links, $top is a total, $orderby refused", b{OrderBy: simulator.RefuseOrderBy, NextLink: simulator.NextLink{PageSize: 80, TopIsTotal: true}}, nil},
		{"$top ignored", b{IgnoreTop: true}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, simulator.Options{Rows: map[string]int64{lines: 500}})
			j := job(lines)
			r.exact(j)
			must(t, r.server.SetBehavior("", tt.behavior))
			for _, paging := range pagings() {
				if _, err := r.server.Update(lines, 30); err != nil {
					t.Fatal(err)
				}
				r.anew() // what another paging taught the client shall not help
				j.Paging = paging
				stands, mark := r.standing(j), r.oracle.Mark()
				res, err := r.run(j)
				if tt.refuse[paging] == "" {
					if err != nil {
						t.Fatalf("%s: %v", paging, err)
					}
					r.correct(j, mark, res)
					continue
				}
				if err == nil || !strings.Contains(err.Error(), tt.refuse[paging]) {
					t.Fatalf("%s: got %v, want a refusal with %q", paging, err, tt.refuse[paging])
				}
				r.failed(j, err, jobs.Data)
				stands()
			}
		})
	}
}

// Every column of tables with every type, and every way to write their values down.
func TestEveryType(t *testing.T) {
	for name, b := range map[string]simulator.Behavior{
		"plain": {}, "odd": {Offsets: true, TrimZeros: true, ShuffleProperties: true, Whitespace: true}, "odder": {Exponents: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tables := map[string]int64{lines: 200, products: 200, "Gen_Documents": 150, "Crm_Customers": 150, "Gen_Property_Values": 150}
			r := newRig(t, simulator.Options{Rows: tables, Behavior: b})
			for table := range tables {
				j := job(table)
				j.Select = nil
				if res := r.exact(j); res.Rows != tables[table] {
					t.Errorf("%s: %d rows, want %d", table, res.Rows, tables[table])
				}
			}
		})
	}
}

// Keys of every kind: none, of several columns, a text, a number.
func TestKeysOfEveryKind(t *testing.T) {
	for _, tt := range []struct {
		table  string
		rows   int64
		refuse []odata.Paging // cannot be planned
	}{
		{balances, 400, []odata.Paging{odata.Key}},
		{links, 400, []odata.Paging{odata.Key}},
		{linkTypes, 150, []odata.Paging{odata.Key}},
		{"Sys_Numbers", 400, nil},
	} {
		t.Run(tt.table, func(t *testing.T) {
			t.Parallel()
			for _, b := range []simulator.Behavior{{}, {MaxRows: 70}, {OrderBy: simulator.RefuseOrderBy, Count: simulator.PathCount}} {
				r := newRig(t, simulator.Options{Rows: map[string]int64{tt.table: tt.rows}, Behavior: b})
				j := job(tt.table)
				for _, paging := range pagings() {
					r.anew()
					j.Paging = paging
					if slices.Contains(tt.refuse, paging) {
						_, err := r.run(j)
						var plan *jobs.PlanError
						if !errors.As(err, &plan) || plan.Problems[0].Field != "paging" {
							t.Fatalf("%s: got %v, want a problem of paging", paging, err)
						}
						r.failed(j, err, jobs.Config)
						continue
					}
					res := r.exact(j)
					if res.Rows != tt.rows || tt.table == balances && (!res.Evidence.Confirmed || res.Evidence.Passes < 2) {
						t.Errorf("%s: %+v", paging, res.Evidence)
					}
				}
			}
		})
	}
}

// A view without a key whose passes do not agree is read again, and refused if they never do.
func TestViewThatChanges(t *testing.T) {
	r := newRig(t, simulator.Options{Rows: map[string]int64{balances: 300}})
	j := job(balances)
	r.exact(j)
	r.anew()
	r.server.Before(balances, 6, func() { r.server.Update(balances, 5) })
	if res := r.exact(j); res.Evidence.Attempts > 2 {
		t.Errorf("%+v", res.Evidence)
	}
	r.anew()
	must(t, r.server.SetBehavior("", simulator.Behavior{MaxRows: 70, Natural: simulator.Shuffled}))
	stands := r.standing(j)
	_, err := r.run(j)
	if line := r.failed(j, err, jobs.Data); line.Attempts != 3 || !strings.Contains(line.Error, "two passes") || line.Requests < 12 {
		t.Errorf("%+v", line)
	}
	stands()
}

// fullRows matches the requests of a first pass, not probes or confirming passes.
func fullRows(r *http.Request) bool {
	v := r.URL.Query()
	return strings.Contains(v.Get("$select"), ",") && v.Get("$top") != "1"
}

// A row is left out of an answer, and there is a $count: the next scan is right, and if the row never comes nothing
// is published.
func TestRowMissingFromAPage(t *testing.T) {
	for name, b := range map[string]simulator.Behavior{
		"by path": {Count: simulator.PathCount}, "inline": {Count: simulator.InlineCount}, "no orderby": {Count: simulator.PathCount, OrderBy: simulator.RefuseOrderBy},
	} {
		for _, paging := range pagings() {
			t.Run(name+"/"+string(paging), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, simulator.Options{Rows: map[string]int64{lines: 400}, Behavior: b})
				j := job(lines)
				j.Paging = paging
				r.exact(j)
				must(t, errOf(r.server.Update(lines, 20)))
				fault := simulator.Fault{Match: fullRows, Effect: simulator.DropRow(57)}
				r.server.Inject(fault)
				if res := r.exact(j); res.Evidence.Attempts != 2 {
					t.Errorf("%+v", res.Evidence)
				}
				fault.Times = -1
				r.server.Inject(fault)
				stands := r.standing(j)
				_, err := r.run(j)
				r.failed(j, err, jobs.Data)
				var reason *evidence.Incomplete
				var rescan *odata.RescanError
				if !errors.As(err, &reason) && !errors.As(err, &rescan) {
					t.Errorf("no reason in %v", err)
				}
				stands()
			})
		}
	}
}

// The same row comes on two pages: it is published once, or the run is refused.
func TestRepeatedRow(t *testing.T) {
	for name, b := range map[string]simulator.Behavior{"in order": {}, "no orderby": {OrderBy: simulator.RefuseOrderBy}, "next links": {NextLink: simulator.NextLink{PageSize: 80}}} {
		for _, paging := range pagings() {
			t.Run(name+"/"+string(paging), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, simulator.Options{Rows: map[string]int64{lines: 400}, Behavior: b})
				j := job(lines)
				j.Paging = paging
				r.exact(j)
				r.server.Inject(simulator.Fault{Match: fullRows, Nth: 2, Times: 3, Effect: simulator.RepeatRow()})
				stands, mark := r.standing(j), r.oracle.Mark()
				res, err := r.run(j)
				if err == nil {
					r.correct(j, mark, res)
					return
				}
				r.failed(j, err, jobs.Data)
				stands()
			})
		}
	}
}

// Rows are inserted, updated, deleted and moved before every request: every row that existed throughout is published
// once, or the run is refused. Key paging in a promised order stands any change.
func TestChangesDuringTheScan(t *testing.T) {
	for name, b := range map[string]simulator.Behavior{
		"in order": {}, "counted": {Count: simulator.PathCount}, "cut": {MaxRows: 60}, "no orderby": {OrderBy: simulator.RefuseOrderBy},
		"next links": {NextLink: simulator.NextLink{PageSize: 70, BySkip: true}},
		"no order":   {OrderBy: simulator.RefuseOrderBy, Natural: simulator.Shuffled},
	} {
		for _, paging := range pagings() {
			t.Run(name+"/"+string(paging), func(t *testing.T) {
				t.Parallel()
				var server *simulator.Server
				var busy atomic.Bool
				r := newRig(t, simulator.Options{Rows: map[string]int64{lines: 500}, OnRequest: func(q simulator.RequestInfo) {
					if !busy.Load() || q.Endpoint != simulator.Data {
						return
					}
					for _, do := range []func(string, int) (int, error){server.Insert, server.Update, server.Delete, server.Move} {
						_, _ = do(lines, 2)
					}
				}})
				server = r.server
				j := job(lines)
				r.exact(j)
				must(t, r.server.SetBehavior("", b))
				r.anew()
				j.Paging = paging
				stands, mark := r.standing(j), r.oracle.Mark()
				busy.Store(true)
				res, err := r.run(j)
				busy.Store(false)
				if err == nil {
					r.correct(j, mark, res)
					return
				}
				if paging == odata.Key && b.OrderBy == simulator.AcceptOrderBy && b.Count == 0 {
					t.Fatalf("key paging in a promised order stands any change: %v", err)
				}
				r.failed(j, err, jobs.Data)
				stands()
			})
		}
	}
}

// The evidence is in the commit, for whoever reads the dataset later.
func TestEvidenceIsPublished(t *testing.T) {
	r := newRig(t, simulator.Options{Behavior: simulator.Behavior{Count: simulator.PathCount}})
	j := job(lines)
	res := r.exact(j)
	history, err := r.dataset(j).History(t.Context(), 1)
	must(t, err)
	v := history[0]
	keys, err := r.oracle.Keys(lines, "")
	must(t, err)
	ev := v.Evidence
	if ev == nil || v.Run != res.RunID || v.Job != j.Name || v.Table != lines || !strings.HasPrefix(v.Source, "acme (127.0.0.1:") {
		t.Fatalf("%+v", v)
	}
	if ev.Requests == 0 || ev.Pages == 0 || ev.Rows != 700 || ev.DistinctKeys != 700 || ev.FirstKey != keys[0] || ev.LastKey != keys[699] ||
		ev.End != evidence.EndSeam || *ev.CountBefore != 700 || *ev.CountAfter != 700 || ev.Attempts != 1 {
		t.Errorf("%+v", ev)
	}
	if strings.Contains(v.Query, "http") || !strings.HasPrefix(v.Query, lines+"?$select=") {
		t.Errorf("query %q", v.Query)
	}
	report, err := r.dataset(j).Verify(t.Context())
	if err != nil || len(report.Problems) > 0 || report.Rows != 700 {
		t.Errorf("%+v %v", report, err)
	}
}

func errOf(_ int, err error) error { return err }
