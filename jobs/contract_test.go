package jobs_test

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/exporttest/judge"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/scope"
	"github.com/tablexport/tablexport/odata/simulator"
)

// quarantined is a job on lines whose misfits go to the quarantine.
func quarantined(most int64) jobs.Job {
	j := job(lines)
	j.Schema, j.MaxQuarantined, j.PageSize = export.Quarantined, most, 60
	return j
}

// wholeRows matches the requests for whole rows.
func wholeRows(q *http.Request) bool {
	return strings.Contains(q.URL.Query().Get("$select"), "Quantity")
}

// aside reads the quarantine of a job: rows by run, each as key and column.
func (r *rig) aside(j jobs.Job) map[string][][2]string {
	r.t.Helper()
	columns, rows, err := readBack(r.t.Context(), r.files, j.Path+export.QuarantineSuffix)
	must(r.t, err)
	at := func(name string) int { return slices.Index(columns, name) }
	out := map[string][][2]string{}
	for _, row := range rows {
		if row[at("quarantine_reason")] == "" || !strings.HasPrefix(row[at("quarantine_row")], "{") || row[at("quarantine_instant")] == simulator.Null {
			r.t.Errorf("%q", row)
		}
		run := row[at("quarantine_run")]
		out[run] = append(out[run], [2]string{row[at("Sales_Order_Line_Id")], row[at("quarantine_column")]})
	}
	return out
}

// Rows that do not fit are published beside the dataset, and everything else in it: none is lost, none is in both. Counted in result, commit, evidence and audit log.
func TestQuarantine(t *testing.T) {
	for _, paging := range pagings() {
		t.Run(string(paging), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, simulator.Options{})
			j := quarantined(100)
			j.Paging = paging
			if res := r.exact(j); res.Quarantined != 0 || len(r.keys()) != 2 {
				t.Errorf("%d rows, and %v: a quarantine was made for nothing", res.Quarantined, r.keys())
			}
			r.server.Inject(simulator.Fault{Table: lines, Match: wholeRows, Times: -1, Effect: simulator.OutOfRange(3, "Quantity")})
			res, err := r.run(j)
			must(t, err)
			aside := r.aside(j)[res.RunID]
			columns, rows := r.read(j)
			at := slices.Index(columns, "Sales_Order_Line_Id")
			var got []string
			for _, row := range rows {
				got = append(got, row[at])
			}
			for _, row := range aside {
				if got = append(got, row[0]); row[1] != "Quantity" {
					t.Errorf("%q does not fit, says the quarantine", row[1])
				}
			}
			want, err := r.oracle.Keys(lines, "")
			must(t, err)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) || len(aside) == 0 {
				t.Fatalf("%d rows and %d beside them, not the %d of the table", len(rows), len(aside), len(want))
			}
			history, err := r.dataset(j).History(t.Context(), 1)
			must(t, err)
			n := int64(len(aside))
			if res.Quarantined != n || res.Evidence.Quarantined != n || res.Rows+n != int64(len(want)) || history[0].Quarantined != n || history[0].Evidence.Quarantined != n {
				t.Errorf("%d rows: result %+v, commit %+v", n, res, history[0])
			}
			e := r.entries(res.RunID)
			if d := e[len(e)-2].Detail; d["quarantined"] == "" || !strings.HasSuffix(d["quarantine"], j.Path+export.QuarantineSuffix) {
				t.Errorf("audit: %+v", d)
			}
			r.server.ClearFaults()
			r.exact(j) // the rows fit again
		})
	}
}

// The quarantine is a Delta table that readers of others take.
func TestQuarantineIsReadByOthers(t *testing.T) {
	r := newRig(t, simulator.Options{})
	j := quarantined(100)
	r.server.Inject(simulator.Fault{Table: lines, Match: wholeRows, Times: -1, Effect: simulator.OutOfRange(3, "Quantity")})
	for range 2 {
		if _, err := r.run(j); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(r.dir, "lake", j.Path+export.QuarantineSuffix)
	judge.Check(t, dir)
	if n := 0; len(judge.Rows(t, dir)) == n {
		t.Error("it is empty")
	}
}

// The scope comes first: a misfit that is foreign is a violation, and one whose scope cannot be tested ends the run.
func TestQuarantineIsInsideTheScope(t *testing.T) {
	var deaf atomic.Bool
	r := newRig(t, simulator.Options{}, behind(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if deaf.Load() {
				q = q.Clone(q.Context())
				q.URL.RawQuery = reworded(q.URL.Query(), "Line_Store_Id eq null")
			}
			next.ServeHTTP(w, q)
		})
	}))
	j := r.shops(quarantined(100))
	r.exact(j)
	stands := r.standing(j)
	for range 3 {
		r.server.Inject(simulator.Fault{Table: lines, Match: wholeRows, Times: -1, Effect: simulator.OutOfRange(0, "Quantity")})
	}
	deaf.Store(true)
	_, err := r.run(j)
	var v *scope.Violation
	if r.failed(j, err, jobs.Scope); !errors.As(err, &v) || v.Row != 0 {
		t.Fatal(err)
	}
	stands()
	deaf.Store(false)
	r.server.Inject(simulator.Fault{Table: lines, Match: wholeRows, Times: -1, Effect: simulator.WrongType(0, "Line_Store_Id")})
	_, err = r.run(j)
	var data *odata.DataError
	if r.failed(j, err, jobs.Data); !errors.As(err, &data) || data.Column != "Line_Store_Id" {
		t.Fatal(err)
	}
	stands()
}

// Too many misfits are a sign of another kind: nothing is published, the quarantine included.
func TestQuarantineIsBounded(t *testing.T) {
	r := newRig(t, simulator.Options{})
	j := quarantined(0)
	r.exact(j)
	stands := r.standing(j)
	r.server.Inject(simulator.Fault{Table: lines, Match: wholeRows, Times: -1, Effect: simulator.OutOfRange(3, "Quantity")})
	_, err := r.run(j) // twelve pages, and one percent of 700 rows is seven
	var limit *export.QuarantineLimit
	if r.failed(j, err, jobs.Data); !errors.As(err, &limit) || limit.Most != 7 || limit.Rows <= 7 || limit.Column != "Quantity" || !strings.Contains(err.Error(), "max_quarantined") {
		t.Fatal(err)
	}
	stands()
	j.MaxQuarantined = 3
	_, err = r.run(j)
	var many *odata.AsideLimitError
	if r.failed(j, err, jobs.Data); !errors.As(err, &many) || many.Limit != 3 {
		t.Fatal(err)
	}
	stands()
	j.Schema, j.MaxQuarantined = export.Evolve, 0
	_, err = r.run(j)
	r.failed(j, err, jobs.Data)
	stands()
}

// metadata serves a $metadata document in which from is written as to, once it is switched on.
func metadata(on *atomic.Bool, from, to string) part {
	return behind(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if !on.Load() || !strings.HasSuffix(q.URL.Path, "$metadata") {
				next.ServeHTTP(w, q)
				return
			}
			q = q.Clone(q.Context())
			q.Header.Del("Accept-Encoding")
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, q)
			body := bytes.ReplaceAll(rec.Body.Bytes(), []byte(from), []byte(to))
			w.Header().Set("Content-Type", rec.Header().Get("Content-Type"))
			_, _ = w.Write(body)
		})
	})
}

// The source widens a column: evolve takes it over, since every file is replaced; freeze refuses it with the difference; quarantine holds on to what is published, and the rows that
// fit are published as before.
func TestSchemaContracts(t *testing.T) {
	const narrow, wide = `Name="Line_No" Type="Edm.Int32"`, `Name="Line_No" Type="Edm.Int64"`
	for _, c := range []export.Contract{export.Evolve, export.Freeze, export.Quarantined} {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			var on atomic.Bool
			r := newRig(t, simulator.Options{}, metadata(&on, narrow, wide))
			j := job(lines)
			j.Schema = c
			r.exact(j)
			on.Store(true)
			r.anew()
			switch c {
			case export.Evolve:
				if res := r.exact(j); !slices.Equal(res.Schema, []string{"~ Line_No integer not null → long not null"}) {
					t.Errorf("%v", res.Schema)
				}
			case export.Freeze:
				stands := r.standing(j)
				_, err := r.run(j)
				if r.failed(j, err, jobs.Data); !strings.Contains(err.Error(), "frozen") || !strings.Contains(err.Error(), "~ Line_No integer not null → long not null") {
					t.Fatal(err)
				}
				stands()
				res, err := r.runner.Run(t.Context(), jobs.Request{Job: j, AcceptSchema: true})
				if err != nil || len(res.Schema) != 1 {
					t.Fatalf("%v %v", err, res.Schema)
				}
				r.exact(j)
			case export.Quarantined:
				res := r.exact(j)
				if len(res.Contract) != 1 || !strings.Contains(res.Contract[0], "Line_No: integer not null, where the source has long not null") || res.Schema != nil {
					t.Errorf("%v, %v", res.Contract, res.Schema)
				}
			}
		})
	}
}
