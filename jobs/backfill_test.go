package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/window"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/evidence"
	"github.com/tablexport/tablexport/odata/simulator"
)

func backfillPlan(t testing.TB) *jobs.Plan {
	j := windowed(t, "Required_Delivery_Date", window.PeriodMonth, "2023-01-01", "2023-12-31", 2)
	j.PageSize = 100
	p, err := jobs.NewPlan(j, edm.Embedded())
	must(t, err)
	return p
}

// heldWindow is a window as a dataset knows it, settled and proven.
func heldWindow(p *jobs.Plan, value string, rows int64) export.Window {
	began := at("2024-03-01")
	ev := evidence.Evidence{Rows: rows, Requests: rows/100 + 3, Bytes: rows * 50, Started: began, Ended: began.Add(time.Duration(rows) * 10 * time.Millisecond)}
	return export.Window{Value: value, Loaded: began, Query: p.QueryID(), Rows: rows, Recorded: rows, Evidence: []evidence.Evidence{ev}}
}

func values(fills []jobs.Fill) string {
	var all []string
	for _, f := range fills {
		all = append(all, f.Value+":"+string(f.Reason))
	}
	return strings.Join(all, " ")
}

func TestBackfillPlan(t *testing.T) {
	t.Parallel()
	p := backfillPlan(t)
	bad, other, early := heldWindow(p, "2023-03", 10), heldWindow(p, "2023-04", 10), heldWindow(p, "2023-05", 10)
	bad.Problem, bad.Loaded = "its files carry no evidence", time.Time{}
	other.Query = "other"
	early.Loaded = at("2023-05-20")
	good := heldWindow(p, "2023-02", 400)
	now := at("2024-06-01")
	for name, x := range map[string]struct {
		have []export.Window
		ask  jobs.BackfillSpec
		want string
		held int
		err  string
	}{
		"all of a range":               {nil, jobs.BackfillSpec{From: day(t, "2023-02-11"), To: day(t, "2023-04-30")}, "2023-04:missing 2023-03:missing 2023-02:missing", 0, ""},
		"what is there stays":          {[]export.Window{good}, jobs.BackfillSpec{From: day(t, "2023-02-01"), To: day(t, "2023-03-31")}, "2023-03:missing", 1, ""},
		"what is bad is read":          {[]export.Window{good, bad}, jobs.BackfillSpec{From: day(t, "2023-02-01"), To: day(t, "2023-03-31")}, "2023-03:unknown", 1, ""},
		"read in its middle":           {[]export.Window{early}, jobs.BackfillSpec{From: day(t, "2023-05-01"), To: day(t, "2023-05-31")}, "2023-05:unsettled", 0, ""},
		"again":                        {[]export.Window{good}, jobs.BackfillSpec{From: day(t, "2023-02-01"), To: day(t, "2023-02-01"), LoadedTill: at("2024-03-02")}, "2023-02:again", 0, ""},
		"again, and done":              {[]export.Window{good}, jobs.BackfillSpec{From: day(t, "2023-02-01"), To: day(t, "2023-02-01"), LoadedTill: at("2024-02-20")}, "", 1, ""},
		"gaps":                         {[]export.Window{good, bad, early}, jobs.BackfillSpec{Gaps: true, From: day(t, "2023-02-01"), To: day(t, "2023-05-31")}, "2023-04:missing 2023-03:unknown", 2, ""},
		"another query, all of them":   {[]export.Window{other}, jobs.BackfillSpec{From: day(t, "2023-03-01"), To: day(t, "2023-04-01")}, "2023-04:query 2023-03:missing", 0, ""},
		"another query, some of them":  {[]export.Window{other}, jobs.BackfillSpec{From: day(t, "2023-03-01"), To: day(t, "2023-03-01")}, "", 0, "must not hold rows of both"},
		"older than what is kept":      {nil, jobs.BackfillSpec{From: day(t, "2022-12-01"), To: day(t, "2023-03-01")}, "", 0, "older than what the job keeps"},
		"an end in the future":         {nil, jobs.BackfillSpec{From: day(t, "2023-12-01"), To: day(t, "2099-01-01")}, "2023-12:missing", 0, ""},
		"backwards":                    {nil, jobs.BackfillSpec{From: day(t, "2023-06-01"), To: day(t, "2023-05-01")}, "", 0, "no window between"},
		"before all":                   {nil, jobs.BackfillSpec{To: day(t, "2022-05-01"), Gaps: true}, "", 0, "no window between"},
		"beyond all":                   {nil, jobs.BackfillSpec{From: day(t, "2030-05-01"), Gaps: true}, "", 0, "no window between"},
		"gaps of everything when none": {nil, jobs.BackfillSpec{Gaps: true, From: day(t, "2023-11-01")}, "2023-12:missing 2023-11:missing", 0, ""},
	} {
		fills, held, err := p.Backfill(now, x.have, x.ask)
		if x.err != "" {
			var refused *jobs.BackfillError
			if !errors.As(err, &refused) || !strings.Contains(refused.Text, x.err) || refused.Hint == "" {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || values(fills) != x.want || held != x.held {
			t.Errorf("%s: %s, %d held, %v; want %s, %d", name, values(fills), held, err, x.want, x.held)
		}
	}
	whole := job(lines)
	plan, err := jobs.NewPlan(whole, edm.Embedded())
	must(t, err)
	if _, _, err := plan.Backfill(now, nil, jobs.BackfillSpec{Gaps: true}); err == nil {
		t.Error("a whole table can be backfilled")
	}
}

func TestBackfillEstimate(t *testing.T) {
	t.Parallel()
	p := backfillPlan(t)
	have := []export.Window{heldWindow(p, "2023-02", 400), heldWindow(p, "2023-04", 600)}
	fills, _, err := p.Backfill(at("2024-06-01"), have, jobs.BackfillSpec{From: day(t, "2023-02-01"), To: day(t, "2023-05-31")})
	must(t, err)
	for _, f := range fills { // 2023-05 and 2023-03: the mean of their neighbours
		if f.Expected != 500 {
			t.Errorf("%s: %d rows expected", f.Value, f.Expected)
		}
	}
	rate := jobs.Observed(have)
	e := p.Estimate(fills, rate, 1)
	// 1000 rows at 100 a page and 3 requests besides for each window, 50 bytes and 10 ms a row.
	if e.Windows != 2 || e.Rows != 1000 || e.Requests != 16 || e.Bytes != 50_000 || e.Busy != 10*time.Second || e.License != 21 {
		t.Errorf("%+v", e)
	}
	if e := p.Estimate(fills, rate, 8); e.Busy != 5*time.Second {
		t.Errorf("two windows side by side: %v", e.Busy)
	}
	if e := p.Estimate(fills, jobs.Rate{}, 1); e.Rows != 1000 || e.Requests != 16 || e.Bytes != -1 || e.Busy != 0 {
		t.Errorf("without a rate: %+v", e)
	}
	fills[0].Expected = -1
	if e := p.Estimate(fills, rate, 1); e.Rows != -1 || e.Bytes != -1 {
		t.Errorf("without a number of rows: %+v", e)
	}
}

// A backfill goes on where it was stopped, and a window that fails does not stop the others.
func TestBackfillResumes(t *testing.T) {
	t.Parallel()
	var down atomic.Bool
	down.Store(true)
	r := newRig(t, simulator.Options{}, behind(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if down.Load() && strings.Contains(req.URL.RawQuery, "ge%202023-03-01") {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			next.ServeHTTP(w, req)
		})
	}))
	j := windowed(t, "Required_Delivery_Date", window.PeriodMonth, "2023-01-01", "2023-06-30", 1)
	plan, err := jobs.NewPlan(j, edm.Embedded())
	must(t, err)
	now := at("2023-07-15")
	todo := func() []window.Item {
		fills, _, err := plan.Backfill(now, r.held(j), jobs.BackfillSpec{From: day(t, "2023-01-01"), To: day(t, "2023-06-30")})
		must(t, err)
		return jobs.Items(fills)
	}
	request := jobs.Request{Job: j, Only: todo(), Separate: true, Cut: now}

	// Stopped before the third window is begun.
	ctx, stop := context.WithCancel(t.Context())
	begun := 0
	request.Before = func(ctx context.Context, run string) error {
		if begun++; begun == 3 {
			stop()
		}
		if run == "" {
			t.Error("no run")
		}
		return context.Cause(ctx)
	}
	request.Parallel = 1
	if _, err = r.runner.Run(ctx, request); jobs.Classify(err) != jobs.Canceled {
		t.Fatalf("class %s: %v", jobs.Classify(err), err)
	}
	if got := len(r.held(j)); got != 2 {
		t.Fatalf("%d windows are published", got)
	}

	// March fails, the others come.
	request.Before, request.Only = nil, todo()
	if len(request.Only) != 4 {
		t.Fatalf("%d windows are left", len(request.Only))
	}
	_, err = r.runner.Run(t.Context(), request)
	failed, all := jobs.Unfinished(err, request.Only)
	if len(failed) != 1 || !all || jobs.Classify(failed[0].Err) != jobs.Later || failed[0].Value != "2023-03" || len(r.held(j)) != 5 {
		t.Fatalf("failed: %v, %v", failed, err)
	}

	down.Store(false)
	request.Only = todo()
	if len(request.Only) != 1 {
		t.Fatalf("left: %v", request.Only)
	}
	_, err = r.runner.Run(t.Context(), request)
	must(t, err)
	r.holds(j, "Required_Delivery_Date ge 2023-01-01 and Required_Delivery_Date le 2023-06-30")
	if left := todo(); len(left) != 0 {
		t.Errorf("still to do: %v", left)
	}
}

// What fails one window in a way that it would fail all of them stops the run: a server that says no is not asked sixty times.
func TestRefusalStopsWindows(t *testing.T) {
	t.Parallel()
	refused := 0
	r := newRig(t, simulator.Options{}, behind(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.URL.RawQuery, "ge%202023-11-01") {
				refused++
				w.WriteHeader(http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, req)
		})
	}))
	j := windowed(t, "Required_Delivery_Date", window.PeriodMonth, "2023-01-01", "2023-12-31", 1)
	_, err := r.runner.Run(t.Context(), jobs.Request{Job: j, Separate: true, Parallel: 1, Cut: at("2024-06-01")})
	var some *jobs.WindowsError
	if !errors.As(err, &some) || some.Published != 1 || len(some.Failed) != 1 || len(some.NotBegun) != 10 || jobs.Classify(err) != jobs.Credential {
		t.Fatalf("%+v", err)
	}
	if refused == 0 || !strings.Contains(err.Error(), "10 were not begun") {
		t.Errorf("%d refused: %v", refused, err)
	}
}

// A live run and a backfill work on one dataset at once, while the table changes: what is there in the end is what the table has, and no
// version in between had half a window.
func TestLiveRunsAndBackfillAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, simulator.Options{Rows: map[string]int64{lines: 2000}})
	j := windowed(t, "Required_Delivery_Date", window.PeriodMonth, "2022-01-01", "2023-12-31", 3)
	now := at("2023-12-20")
	plan, err := jobs.NewPlan(j, edm.Embedded())
	must(t, err)
	fills, _, err := plan.Backfill(now, nil, jobs.BackfillSpec{From: day(t, "2022-01-01"), To: day(t, "2023-12-31")})
	must(t, err)
	backfill := make(chan error, 1)
	go func() {
		_, err := r.runner.Run(t.Context(), jobs.Request{Job: j, Only: jobs.Items(fills), Separate: true, Parallel: 2, Cut: now})
		backfill <- err
	}()
	for range 4 {
		_, err := r.server.Update(lines, 50)
		must(t, err)
		_, err = r.runner.Run(t.Context(), jobs.Request{Job: j, Only: jobs.Items(fills[:3]), Cut: now}) // the newest, in one version
		must(t, err)
	}
	must(t, <-backfill)
	// Windows may hold what was there before the last changes; all of them are sound, and one more run of everything shows the table.
	for _, w := range r.held(j) {
		if w.Problem != "" || w.Rows != w.Recorded {
			t.Errorf("window %+v", w)
		}
	}
	if n := len(r.held(j)); n != 24 {
		t.Errorf("%d windows", n)
	}
	_, err = r.runner.Run(t.Context(), jobs.Request{Job: j, Only: jobs.Items(fills), Cut: now})
	must(t, err)
	r.holds(j, "Required_Delivery_Date ge 2022-01-01 and Required_Delivery_Date le 2023-12-31")
}

// Nobody goes by windows of which rows would be lost without somebody having said so.
func TestUndated(t *testing.T) {
	t.Parallel()
	j := windowed(t, "Required_Delivery_Date", window.PeriodMonth, "2023-01-01", "2023-12-31", 1)
	j.Refresh.Undated = jobs.UndatedAuto
	_, err := jobs.NewPlan(j, edm.Embedded())
	if err == nil || !strings.Contains(err.Error(), "undated: leave_out") {
		t.Errorf("a column that may be empty and takes no eq null: %v", err)
	}
	// Loyalty cards have a nullable date that takes eq.
	table, column := nullableDate(t)
	j = job(table)
	j.Refresh = windowed(t, column, window.PeriodYear, "2010-01-01", "2030-12-31", 1).Refresh
	j.Refresh.Undated = jobs.UndatedAuto
	j.Refresh.Policy.To = nil
	r := newRig(t, simulator.Options{Rows: map[string]int64{table: 400}})
	_, err = r.runAt(j, "2029-06-01")
	must(t, err)
	r.holds(j, "")
	undated := int64(0)
	for _, w := range r.held(j) {
		if w.Value == "" {
			undated = w.Rows
		}
	}
	if undated == 0 {
		t.Error("no row is without a date: the test shows nothing")
	}
	j.Refresh.Undated = jobs.LeaveOut
	_, err = r.runAt(j, "2029-06-02")
	must(t, err)
	r.holds(j, fmt.Sprintf("%s ge 2010-01-01", column))
}

// nullableDate is a table with a date that may be empty and takes eq, and a key.
func nullableDate(t testing.TB) (table, column string) {
	t.Helper()
	model := edm.Embedded()
	for _, name := range model.Tables() {
		tb, _ := model.Table(name)
		if len(tb.Key) != 1 {
			continue
		}
		for _, c := range tb.Columns {
			if c.Type.Kind == edm.Date && c.Nullable && c.Ops.Has(edm.OpEq|edm.OpRange) {
				return name, c.Name
			}
		}
	}
	t.Fatal("the model has no such table")
	return "", ""
}
