package jobs_test

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/exporttest/judge"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/window"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/simulator"
)

// windowed is a job on lines by a column of theirs, in the months of a range.
func windowed(t testing.TB, by string, period window.Period, from, to string, reload int) jobs.Job {
	t.Helper()
	c, err := window.New(period, "UTC")
	must(t, err)
	policy := window.Policy{Calendar: c, Reload: reload, From: day(t, from), To: day(t, to)}
	j := job(lines)
	j.Refresh = jobs.Refresh{Mode: jobs.Windows, By: by, Policy: policy, Undated: jobs.LeaveOut}
	return j
}

func day(t testing.TB, text string) *window.Day {
	t.Helper()
	d, err := window.ParseDay(text)
	must(t, err)
	return &d
}

func at(text string) time.Time {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		panic(err)
	}
	return t
}

// run runs j as if it were another time.
func (r *rig) runAt(j jobs.Job, now string) (jobs.Result, error) {
	return r.runner.Run(r.t.Context(), jobs.Request{Job: j, Cut: at(now)})
}

func read(res jobs.Result) (values []string) {
	for _, w := range res.Windows {
		values = append(values, w.Window)
	}
	slices.Sort(values)
	return values
}

// holds demands that the dataset is the rows of the table that where admits, each in its window.
func (r *rig) holds(j jobs.Job, where string) {
	r.t.Helper()
	columns, rows := r.read(j)
	must(r.t, r.oracle.Check(r.oracle.Mark(), j.Table, where, columns, slices.Values(rows)))
	for _, w := range r.held(j) {
		if w.Problem != "" || w.Rows != w.Recorded {
			r.t.Errorf("window %s: %s (%d rows, %d recorded)", w.Value, w.Problem, w.Rows, w.Recorded)
		}
	}
}

// between demands that the dataset is the rows of the table whose column, as text, is from ≤ … < to, and that each lies in its month.
func (r *rig) between(j jobs.Job, column, from, to string) {
	r.t.Helper()
	columns, rows := r.read(j)
	all, err := r.oracle.Rows(j.Table, "", columns)
	must(r.t, err)
	key, by := slices.Index(columns, "Sales_Order_Line_Id"), slices.Index(columns, column)
	want := map[string]simulator.Row{}
	months := map[string]int64{}
	for row := range all {
		if row[by] != simulator.Null && row[by] >= from && row[by] < to {
			want[row[key]] = row
			months[row[by][:7]]++
		}
	}
	if len(want) != len(rows) {
		r.t.Errorf("%d rows, want %d", len(rows), len(want))
	}
	for _, row := range rows {
		if !slices.Equal(row, want[row[key]]) {
			r.t.Fatalf("row %v, want %v", row, want[row[key]])
		}
	}
	for _, w := range r.held(j) {
		if w.Problem != "" || w.Rows != months[w.Value] {
			r.t.Errorf("window %s: %d rows, want %d (%s)", w.Value, w.Rows, months[w.Value], w.Problem)
		}
	}
}

func TestWindows(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"Required_Delivery_Date", "Intrastat_Apply_Date"} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, simulator.Options{Rows: map[string]int64{lines: 2000}})
			j := windowed(t, by, window.PeriodMonth, "2023-01-01", "2024-06-30", 2)
			res, err := r.runAt(j, "2024-06-15")
			must(t, err)
			if len(res.Windows) != 18 || res.Version != 0 || res.Rows == 0 {
				t.Fatalf("version %d of %d rows in windows %v", res.Version, res.Rows, read(res))
			}
			r.between(j, by, "2023-01", "2024-07")

			// What changes in the two newest windows is seen, and only these are read.
			_, err = r.server.UpdateWhere(lines, by+" ge 2024-05-01T00:00:00Z and "+by+" le 2024-06-30T23:59:59Z")
			must(t, err)
			if res, err = r.runAt(j, "2024-06-16"); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(read(res), " "); got != "2024-05 2024-06" || res.Version != 1 {
				t.Fatalf("windows %s were read into version %d", got, res.Version)
			}
			judge.Check(t, filepath.Join(r.dir, "lake", filepath.FromSlash(j.Path)))
		})
	}
}

// Windows are read side by side: as many as the instance takes requests at once, and never more than four.
func TestWindowsUseTheInstance(t *testing.T) {
	t.Parallel()
	for allowed, want := range map[int]int{1: 1, 2: 2, 3: 3, 8: 4} {
		t.Run(fmt.Sprint(allowed), func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			now, most := 0, 0
			r := newRig(t, simulator.Options{Concurrency: 32}, client(func(o *odata.Options) { o.Concurrency = allowed }),
				behind(func(next http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
						mu.Lock()
						now++
						most = max(most, now)
						mu.Unlock()
						time.Sleep(20 * time.Millisecond)
						mu.Lock()
						now-- // before the answer: behind it, the client may ask again sooner than we get here
						mu.Unlock()
						next.ServeHTTP(w, req)
					})
				}))
			j := windowed(t, "Intrastat_Apply_Date", window.PeriodMonth, "2023-01-01", "2024-06-30", 2)
			_, err := r.runAt(j, "2024-06-15")
			must(t, err)
			r.between(j, "Intrastat_Apply_Date", "2023-01", "2024-07")
			if most != want {
				t.Errorf("%d requests were in flight at once, want %d", most, want)
			}
		})
	}
}

func TestWindowsWidenAndExpire(t *testing.T) {
	t.Parallel()
	r := newRig(t, simulator.Options{})
	j := windowed(t, "Required_Delivery_Date", window.PeriodMonth, "2020-01-01", "2030-12-31", 1)
	j.Refresh.Policy.From, j.Refresh.Policy.To, j.Refresh.Policy.Keep = nil, nil, 6
	// The scans' own instants decide what has settled, and they are now: so a run in the past leaves windows that are still open.
	now := time.Now().UTC()
	months := func(n int) string { return now.AddDate(0, -n, 1-now.Day()).Format(time.DateOnly) }
	res, err := r.runAt(j, months(0))
	must(t, err)
	if len(res.Windows) != 6 {
		t.Fatalf("%v were read", read(res))
	}
	if res, err = r.runAt(j, months(-3)); err != nil {
		t.Fatal(err)
	}
	// Today's month had not settled when it was read; the three after it are new; three have expired.
	if len(res.Windows) != 4 || len(res.Expired) != 3 {
		t.Fatalf("read %v, expired %v", read(res), res.Expired)
	}
	if got := r.held(j); len(got) != 6 {
		t.Fatalf("held: %v", got)
	}
}

func TestWindowsAfterAnotherQuery(t *testing.T) {
	t.Parallel()
	r := newRig(t, simulator.Options{})
	j := windowed(t, "Required_Delivery_Date", window.PeriodQuarter, "2023-01-01", "2023-12-31", 1)
	_, err := r.runAt(j, "2024-06-01")
	must(t, err)
	if res, err := r.runAt(j, "2024-06-02"); err != nil || len(res.Windows) != 0 || res.Version != -1 {
		t.Fatalf("nothing was due, and yet: %v %v, version %d", err, read(res), res.Version)
	}
	j.Filter, j.Refresh.PerWindow = "Line_No eq 40", true
	res, err := r.runAt(j, "2024-06-03")
	must(t, err)
	if len(res.Windows) != 4 || r.version(j) != 1 {
		t.Fatalf("%v were read into version %d: rows of two queries must never stand side by side", read(res), r.version(j))
	}
	r.holds(j, "Required_Delivery_Date ge 2023-01-01 and Required_Delivery_Date le 2023-12-31 and Line_No eq 40")
}

func TestWindowsOneByOne(t *testing.T) {
	t.Parallel()
	broken := ""
	r := newRig(t, simulator.Options{}, behind(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if broken != "" && strings.Contains(req.URL.Query().Get("$filter"), broken) {
				http.Error(w, "the table is being rebuilt", http.StatusInternalServerError)
				return
			}
			h.ServeHTTP(w, req)
		})
	}))
	j := windowed(t, "Required_Delivery_Date", window.PeriodQuarter, "2023-01-01", "2023-12-31", 1)
	j.Refresh.PerWindow = true
	broken = "2023-04-01"
	res, err := r.runAt(j, "2024-06-01")
	var some *jobs.WindowsError
	if !errors.As(err, &some) || some.Published != 3 || jobs.Classify(err) != jobs.Later || !strings.Contains(err.Error(), "2023-Q2") {
		t.Fatalf("class %s: %v", jobs.Classify(err), err)
	}
	if len(res.Windows) != 4 || res.Version != 2 {
		t.Fatalf("%+v", res)
	}
	for _, w := range r.held(j) {
		if w.Value == "2023-Q2" || w.Problem != "" {
			t.Errorf("window %+v", w)
		}
	}
	broken = ""
	if res, err = r.runAt(j, "2024-06-01"); err != nil || len(res.Windows) != 1 || res.Windows[0].Window != "2023-Q2" {
		t.Fatalf("%v: %v", err, read(res))
	}
	r.holds(j, "Required_Delivery_Date ge 2023-01-01 and Required_Delivery_Date le 2023-12-31")
}

// A server that answers rows of other windows is found out, and nothing is published.
func TestRowsOutsideTheirWindow(t *testing.T) {
	t.Parallel()
	r := newRig(t, simulator.Options{}, behind(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			q := req.URL.Query()
			q.Set("$filter", strings.ReplaceAll(q.Get("$filter"), "le 2023-06-30", "le 2023-07-01"))
			if q.Get("$filter") != "" {
				req.URL.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
			}
			h.ServeHTTP(w, req)
		})
	}))
	j := windowed(t, "Required_Delivery_Date", window.PeriodMonth, "2023-01-01", "2023-12-31", 1)
	_, err := r.runAt(j, "2024-06-01")
	var outside *jobs.OutsideWindow
	if !errors.As(err, &outside) || outside.Window != "2023-06" {
		t.Fatal(err)
	}
	if jobs.Classify(err) != jobs.Data || r.version(j) != -1 {
		t.Fatal("it was published all the same")
	}
}

// What is moved from one window to another while both are read is neither lost nor published twice.
func TestMovesWhileWindowsAreRead(t *testing.T) {
	t.Parallel()
	for after := range 12 {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, simulator.Options{}, client(func(o *odata.Options) { o.Concurrency = 1 }))
			j := windowed(t, "Required_Delivery_Date", window.PeriodQuarter, "2023-01-01", "2024-12-31", 1)
			r.server.Before(lines, 3+after*2, func() {
				if _, err := r.server.UpdateWhere(lines, "Required_Delivery_Date ge 2023-01-01 and Required_Delivery_Date le 2024-12-31"); err != nil {
					t.Error(err)
				}
			})
			_, err := r.runAt(j, "2025-06-01")
			must(t, err)
			r.distinct(j)
			for _, w := range r.held(j) {
				if w.Problem != "" {
					t.Error(w.Problem)
				}
			}
		})
	}
}

// distinct demands that no key is in the dataset twice.
func (r *rig) distinct(j jobs.Job) {
	r.t.Helper()
	columns, rows := r.read(j)
	key := slices.Index(columns, "Sales_Order_Line_Id")
	seen := map[string]bool{}
	for _, row := range rows {
		if seen[row[key]] {
			r.t.Fatal("a row was published twice")
		}
		seen[row[key]] = true
	}
}

func TestWindowProblems(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ by, want string }{
		{"Quantity", "windows go by a date or date-time column"},
		{"Nothing", "has no column"},
		{"Sales_Order_Reference/Nothing", "has no column"},
	} {
		j := windowed(t, c.by, window.PeriodMonth, "2023-01-01", "2023-12-31", 1)
		_, err := jobs.NewPlan(j, edm.Embedded())
		var problems *jobs.PlanError
		if !errors.As(err, &problems) || problems.Problems[0].Field != "refresh.by" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.by, err)
		}
	}
}

func (r *rig) held(j jobs.Job) []export.Window {
	r.t.Helper()
	w, err := r.dataset(j).Windows(r.t.Context())
	must(r.t, err)
	return w
}

// Small windows are not counted in order to be cut: each costs the proof of its scan (a count, a page, two looks behind the last row, a count) and
// one count more behind the last scan, by which a row that moved meanwhile is found.
func TestSmallWindowsAreNotOverRequested(t *testing.T) {
	t.Parallel()
	r := newRig(t, simulator.Options{Behavior: simulator.Behavior{Count: simulator.PathCount}})
	j := windowed(t, "Required_Delivery_Date", window.PeriodMonth, "2022-01-01", "2024-12-31", 2)
	j.PageSize = 10_000
	before := r.server.Stats().Requests
	res, err := r.runAt(j, "2024-12-15")
	must(t, err)
	const once = 12 // discovery, metadata, and what the server was found to take
	if asked, n := r.server.Stats().Requests-before, int64(len(res.Windows)); n != 36 || asked > 6*n+once {
		t.Errorf("%d requests for %d small windows", asked, n)
	}
	before = r.server.Stats().Requests
	if res, err = r.runAt(j, "2024-12-16"); err != nil || len(res.Windows) != 2 {
		t.Fatal(err, read(res))
	}
	if asked := r.server.Stats().Requests - before; asked > 2*6 {
		t.Errorf("%d requests for two small windows that were read before", asked)
	}
}
