//go:build unix

package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/exporttest/judge"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/window"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/simulator"
)

// childStep is what a child does of the months: mode and day, "windows 2024-06-30".
const childStep = "TABLEXPORT_TEST_STEP"

// longRun makes the tests over months and of many at once long: set it to a number of steps, such as 40.
const longRun = "TABLEXPORT_TEST_LONG"

func steps(t testing.TB, short int) int {
	text := os.Getenv(longRun)
	if text == "" {
		return short
	}
	n, err := strconv.Atoi(text)
	must(t, err)
	return n
}

const byDocument = "Sales_Order_Reference/Document_Reference/Document_Date"

// monthJob is the job of a mode. What changes lies in the last four months (see theDays), which windows read again.
func monthJob(mode string) jobs.Job {
	j := job(lines)
	j.Name, j.Path = mode, "months/"+mode
	j.Select = []string{"Sales_Order_Line_Id", "Sales_Order_Id", "Line_No", "Quantity", "Line_Amount", "Notes", "Row_Version"}
	switch mode {
	case "changes":
		j.Refresh.Mode = jobs.Changes
	default:
		c, err := window.New(window.PeriodMonth, "UTC")
		if err != nil {
			panic(err)
		}
		first, err := window.ParseDay("2023-07-01")
		if err != nil {
			panic(err)
		}
		j.Refresh = jobs.Refresh{Mode: jobs.Windows, By: byDocument, Policy: window.Policy{Calendar: c, Reload: 4, From: &first}, Undated: jobs.LeaveOut}
		j.Refresh.PerWindow = mode == "windows-one-by-one"
	}
	return j
}

// theDays are what happens between two refreshes: nothing reaches back further than 80 days.
var theDays = simulator.Day{New: 4, Late: 2, Updated: 6, Deleted: 1, Redated: 2, Back: 80}

// monthStep is what a process does in one life: a live refresh, or what is left of a backfill.
func monthStep(ctx context.Context, r *jobs.Runner, step string) error {
	mode, now, _ := strings.Cut(step, " ")
	req := jobs.Request{Job: monthJob(mode), Cut: at(now)}
	if mode == "backfill" {
		bucket, err := r.Bucket(ctx, req.Job.Store)
		if err != nil {
			return err
		}
		have, err := export.Open(bucket, req.Job.Path).Windows(ctx)
		if err != nil {
			return err
		}
		plan, err := jobs.NewPlan(req.Job, edm.Embedded())
		if err != nil {
			return err
		}
		fills, _, err := plan.Backfill(req.Cut, have, jobs.BackfillSpec{})
		if err != nil || len(fills) == 0 {
			return err
		}
		req.Only, req.Separate, req.Parallel = jobs.Items(fills), true, 2
	}
	_, err := r.Run(ctx, req)
	return err
}

// live starts a process that does a step.
func (r *rig) live(step string) *life {
	r.t.Helper()
	r.t.Setenv(childStep, step)
	return r.child("")
}

// killedOnce does a step in a process that is killed at some time of it, or behind it.
func (r *rig) killedOnce(step string, usual time.Duration, random *rand.Rand) bool {
	r.t.Helper()
	l := r.live(step)
	time.Sleep(time.Duration(random.Int64N(int64(usual))))
	_ = l.cmd.Process.Kill()
	_, killed := l.wait()
	return killed
}

// usual is how long a step takes that nobody kills.
func (r *rig) usual(step string) time.Duration {
	r.t.Helper()
	began := time.Now()
	if said, killed := r.live(step).wait(); said != "" || killed {
		r.t.Fatalf("%s: a child that nobody kills says %q", step, said)
	}
	return max(time.Since(began), 50*time.Millisecond)
}

// TestMonths lets months pass under refreshes by period, by period with a commit for each window, and by changes, each in a process of its own
// that is killed at any moment. After each death readers find a whole version, the one before or the new one; after each recovery
// the dataset is what the oracle says. At the end readers that are not ours agree.
func TestMonths(t *testing.T) {
	r := newRig(t, simulator.Options{First: at("2023-07-10"), Last: at("2024-02-29"), Rows: map[string]int64{documents: 160, orders: 150, lines: 500}})
	r.onDisk()
	random := rand.New(rand.NewPCG(7, 11))
	modes := []string{"windows", "windows-one-by-one", "changes"}
	now := at("2024-03-01")
	usual, last := map[string]time.Duration{}, map[string][]simulator.Row{}
	for _, mode := range modes {
		usual[mode] = r.usual(mode + " " + now.Format(time.DateOnly))
		_, last[mode] = r.read(monthJob(mode))
	}
	killed := 0
	n := steps(t, 3)
	for step := range n {
		for range 7 {
			d := theDays
			d.Date = now
			must(t, errOf2(r.server.Evolve(d)))
			now = now.AddDate(0, 0, 1)
		}
		today := now.AddDate(0, 0, -1).Format(time.DateOnly)
		for _, mode := range modes {
			j := monthJob(mode)
			version := r.version(j)
			if r.killedOnce(mode+" "+today, usual[mode], random) {
				killed++
			}
			r.oneVersion(j, version, last[mode])
			must(t, monthStep(t.Context(), r.runner, mode+" "+today))
			columns, rows := r.read(j)
			if err := r.oracle.Check(r.oracle.Mark(), lines, "", columns, slices.Values(rows)); err != nil {
				t.Fatalf("step %d, %s: %v", step, mode, err)
			}
			last[mode] = rows
		}
	}
	if killed < n {
		t.Errorf("%d of %d processes were killed", killed, n*len(modes))
	}
	for _, mode := range modes {
		r.judgedAs(monthJob(mode))
	}
	r.soundLogs()
}

// oneVersion demands that a dataset, after a death, is the version before or a whole newer one. Where each window is a version of its own, newer
// ones may hold some new windows and some old ones: then every window must be whole.
func (r *rig) oneVersion(j jobs.Job, version int64, last []simulator.Row) {
	r.t.Helper()
	columns, rows := r.read(j)
	switch got := r.version(j); {
	case got == version:
		if !slices.EqualFunc(rows, last, slices.Equal[simulator.Row]) {
			r.t.Fatalf("%s: the version before has changed", j.Name)
		}
	case j.Refresh.PerWindow:
		r.wholeWindows(j)
	default:
		if err := r.oracle.Check(r.oracle.Mark(), lines, "", columns, slices.Values(rows)); err != nil {
			r.t.Fatalf("%s, version %d became %d: %v", j.Name, version, got, err)
		}
	}
}

func (r *rig) wholeWindows(j jobs.Job) {
	r.t.Helper()
	for _, w := range r.held(j) {
		if w.Problem != "" || w.Rows != w.Recorded {
			r.t.Fatalf("%s, window %s: %s (%d rows, %d recorded)", j.Name, w.Value, w.Problem, w.Rows, w.Recorded)
		}
	}
}

// judgedAs demands that delta-rs and DuckDB find in a dataset what the oracle says.
func (r *rig) judgedAs(j jobs.Job) {
	r.t.Helper()
	t := r.t.(*testing.T)
	dir := filepath.Join(r.dir, "lake", filepath.FromSlash(j.Path))
	judge.Check(t, dir)
	var copied []simulator.Row
	for _, row := range judge.Rows(t, dir) {
		copied = append(copied, judged(t, j, j.Select, row))
	}
	if err := r.oracle.Check(r.oracle.Mark(), lines, "", j.Select, slices.Values(copied)); err != nil {
		t.Errorf("%s, read by delta-rs: %v", j.Name, err)
	}
}

// soundLogs demands that the ledger has no runs that nobody does any more, and that the audit log is whole.
func (r *rig) soundLogs() {
	r.t.Helper()
	must(r.t, errOf2(r.ledger.Interrupt(r.t.Context(), jobs.Alive)))
	r.returned("")
}

// TestBackfillKilled fills a dataset from its beginning in processes that are killed until it is done. Nothing that was published is lost, no window
// is there in part, and the live refresh goes on from it.
func TestBackfillKilled(t *testing.T) {
	r := newRig(t, simulator.Options{First: at("2023-07-10"), Last: at("2024-02-29"), Rows: map[string]int64{documents: 160, orders: 150, lines: 500}})
	r.onDisk()
	random := rand.New(rand.NewPCG(3, 5))
	const now = "2024-03-01"
	j := monthJob("backfill")
	published, killed := -1, 0
	for life := 0; published < 9; life++ {
		if life > 60 {
			t.Fatal("the backfill does not come to its end")
		}
		if r.killedOnce("backfill "+now, time.Duration(100+40*life)*time.Millisecond, random) {
			killed++
		}
		if r.version(j) < 0 {
			continue
		}
		r.wholeWindows(j)
		if n := len(r.held(j)); n < published {
			t.Fatalf("%d windows became %d", published, n)
		} else {
			published = n
		}
	}
	must(t, monthStep(t.Context(), r.runner, "backfill "+now)) // nothing is left to do
	for i := range 5 {
		d := theDays
		d.Date = at(now).AddDate(0, 0, i)
		must(t, errOf2(r.server.Evolve(d)))
	}
	must(t, errOf2(r.runAt(j, "2024-03-05")))
	r.holds(j, "")
	if killed == 0 {
		t.Error("no process was killed")
	}
	r.judgedAs(j)
	r.soundLogs()
}

// TestAllAtOnce refreshes, backfills, compacts, vacuums and reads one dataset at the same time: every version that a reader sees is whole, and in the
// end it is what the oracle says.
func TestAllAtOnce(t *testing.T) {
	r := newRig(t, simulator.Options{First: at("2023-07-10"), Last: at("2024-02-29"), Rows: map[string]int64{documents: 160, orders: 150, lines: 500}})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	j := monthJob("backfill")
	var group, readers sync.WaitGroup
	var versions, done atomic.Int64
	readers.Go(func() {
		seen := int64(-1)
		for ctx.Err() == nil {
			v, err := wholeVersion(context.WithoutCancel(ctx), r, j)
			if err != nil {
				t.Errorf("a reader of version %d: %v", v, err)
				return
			}
			if v > seen {
				seen = v
				versions.Add(1)
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	group.Go(func() { // the live job: its newest windows, again and again, while days pass
		defer done.Add(1)
		for i := range steps(t, 4) {
			d := theDays
			d.Date = at("2024-03-01").AddDate(0, 0, i)
			_, err := r.server.Evolve(d)
			if err == nil {
				_, err = r.runner.Run(t.Context(), jobs.Request{Job: j, Cut: d.Date, Only: newest(t, j, d.Date)})
			}
			if c := jobs.Classify(err); err != nil && c != jobs.Conflict {
				t.Errorf("live: %v", err)
			}
		}
	})
	group.Go(func() {
		defer done.Add(1)
		for range 20 {
			err := monthStep(t.Context(), r.runner, "backfill 2024-03-01")
			if err == nil {
				return
			}
			if c := jobs.Classify(err); c != jobs.Conflict && c != jobs.Data {
				t.Errorf("backfill: %v", err)
			}
		}
		t.Error("the backfill does not come to its end")
	})
	group.Go(func() { // its care: small files are merged, what was removed an hour ago goes
		d := export.Open(r.files, j.Path)
		for ctx.Err() == nil && versions.Load() < 12 {
			if _, err := d.Compact(t.Context(), export.CompactSpec{Engine: "tablexport/test"}); err != nil && !as[*delta.Conflict](err) && !errors.Is(err, delta.ErrNoVersion) {
				t.Errorf("compaction: %v", err)
			}
			if _, err := d.Vacuum(t.Context(), export.VacuumSpec{Engine: "tablexport/test", Retain: export.MinRetention}); err != nil && !as[*delta.Conflict](err) && !errors.Is(err, delta.ErrNoVersion) {
				t.Errorf("vacuum: %v", err)
			}
			if done.Load() == 2 {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	group.Wait()
	stop()
	readers.Wait()
	must(t, errOf2(r.runAt(j, "2024-03-20")))
	r.holds(j, "")
	if versions.Load() < 3 {
		t.Errorf("the reader saw %d versions", versions.Load())
	}
	r.judgedAs(j)
}

// newest are the four newest windows of a job.
func newest(t testing.TB, j jobs.Job, now time.Time) []window.Item {
	t.Helper()
	plan, err := jobs.NewPlan(j, edm.Embedded())
	must(t, err)
	first, err := window.ParseDay(now.AddDate(0, -3, 1-now.Day()).Format(time.DateOnly))
	must(t, err)
	fills, _, err := plan.Backfill(now, nil, jobs.BackfillSpec{From: &first})
	must(t, err)
	return jobs.Items(fills)
}

// wholeVersion reads the newest version as its readers do: every file is there and has the rows that its log says.
func wholeVersion(ctx context.Context, r *rig, j jobs.Job) (int64, error) {
	d := export.Open(r.files, j.Path)
	s, err := d.Snapshot(ctx)
	if err != nil || s.Version < 0 {
		return -1, err
	}
	files, err := d.FilesAt(ctx, s.Version)
	if err != nil {
		return s.Version, err
	}
	said := map[string]int64{}
	for _, f := range files {
		said[f.Key] = f.Rows
	}
	for _, f := range s.Files {
		key, err := f.Key()
		if err != nil {
			return s.Version, err
		}
		rows := int64(0)
		for rec, err := range d.Records(ctx, s, f, []string{"Sales_Order_Line_Id"}, 0) {
			if err != nil {
				return s.Version, err
			}
			rows += rec.NumRows()
		}
		if rows != said[key] {
			return s.Version, fmt.Errorf("%s has %d rows, the log says %d", key, rows, said[key])
		}
	}
	return s.Version, nil
}

func as[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}
