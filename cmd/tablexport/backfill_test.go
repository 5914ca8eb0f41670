package main

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/odata/simulator"
)

const historyJob = `  history:
    instance: sim
    table: Crm_Sales_Order_Lines
    select: [Sales_Order_Line_Id, Line_No, Quantity, Required_Delivery_Date]
    scope: all
    store: lake
    path: history
    refresh: {by: Required_Delivery_Date, every: month, from: 2023, to: 2023-12, undated: leave_out}
`

// published are the windows that the dataset of a job holds.
func (w *world) published(job string) int {
	w.t.Helper()
	entries, err := filepath.Glob(filepath.Join(w.dir, "lake", job, "month=*", "*.parquet"))
	if err != nil {
		w.t.Fatal(err)
	}
	return len(entries)
}

// exact demands that the dataset of the history job is what the simulator has.
func (w *world) exactHistory() {
	w.t.Helper()
	var got float64
	for _, line := range objects(w.t, w.must(exitOK, "datasets", "list", "--json").out) {
		if line["job"] == "history" {
			got = line["rows"].(float64)
		}
	}
	rows, err := w.server.Oracle().Rows("Crm_Sales_Order_Lines", "Required_Delivery_Date ge 2023-01-01 and Required_Delivery_Date le 2023-12-31", []string{"Sales_Order_Line_Id"})
	if err != nil {
		w.t.Fatal(err)
	}
	want := 0
	for range rows {
		want++
	}
	if int(got) != want {
		w.t.Errorf("the dataset has %v rows, want %d", got, want)
	}
	if more := objects(w.t, w.must(exitOK, "backfill", "history", "--gaps", "--dry-run", "--json").out); len(more[0]["windows"].([]any)) != 0 {
		w.t.Errorf("gaps: %v", more)
	}
}

func TestBackfillCommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{Behavior: simulator.Behavior{Count: simulator.PathCount}}, historyJob).stage()
	contains(t, w.must(exitUsage, "backfill", "orders", "--gaps").err, "job orders does not go by windows", "refresh:")
	contains(t, w.must(exitUsage, "backfill", "history").err, "say which windows: --from 2023-01 --to 2023-12")
	contains(t, w.must(exitUsage, "backfill", "history", "--from", "soon", "--to", "2023").err, "write it like 2024-03-05, 2024-03 or 2024")
	contains(t, w.must(exitUsage, "backfill", "history", "--from", "2022-11", "--to", "2023").err, "2022-11 is older than what the job keeps", "begin with 2023-01")

	dry := w.must(exitOK, "backfill", "history", "--from", "2023-02", "--to", "2023-04", "--dry-run").out
	contains(t, dry, "2023-04", "2023-02", "not in the dataset yet", "windows   3 to read, 0 left", "rows      ", "requests  about ", "time      not known")
	contains(t, w.must(exitUsage, "backfill", "history", "--from", "2023-02", "--to", "2023-04").err, "say --yes to start")
	if n := w.published("history"); n != 0 {
		t.Fatalf("%d windows were published by a plan", n)
	}

	contains(t, w.must(exitOK, "backfill", "history", "--from", "2023-02", "--to", "2023-04", "--yes").out, "history: 3 windows published with ")
	contains(t, w.must(exitOK, "backfill", "history", "--from", "2023-02", "--to", "2023-04", "--yes").out, "nothing to do: 3 windows of the range")

	// The rest, planned by the speed of what was read; all at once.
	before := w.version("history")
	done := objects(t, w.must(exitOK, "backfill", "history", "--gaps", "--yes", "--commit", "run", "--parallel", "2", "--json").out)
	estimate := done[0]["estimate"].(map[string]any)
	if done[0]["counted"] != true || done[0]["rate"] != "earlier windows of this dataset" || estimate["bytes"].(float64) <= 0 || estimate["licenseMinutes"].(float64) < 21 {
		t.Errorf("plan: %v", done[0])
	}
	if n := len(done[1]["published"].([]any)); n != 9 || w.version("history") != before+1 {
		t.Errorf("%d windows published up to version %d", n, w.version("history"))
	}
	w.exactHistory()

	// Read one again; the plan says what a live run would do.
	contains(t, w.must(exitOK, "backfill", "history", "--from", "2023-05", "--to", "2023-05", "--loaded-before", "2026-01-01", "--dry-run").out, "nothing to do")
	now := time.Now().UTC().Format(time.RFC3339Nano)
	contains(t, w.must(exitOK, "backfill", "history", "--from", "2023-05", "--to", "2023-05", "--loaded-before", now, "--yes").out, "asked for again", "1 windows published")
	contains(t, w.must(exitOK, "plan", "history").out, "by Required_Delivery_Date, every month (UTC), partition column month", "0 to read, 12 stay as they are")
	contains(t, w.must(exitOK, "check").out, "by month, from 2023, 1 read again")

	// Another filter: rows of two queries do not stand beside each other.
	w.edit("undated: leave_out}", "undated: leave_out}\n    filter: \"Persist_Lot eq true\"")
	contains(t, w.must(exitUsage, "backfill", "history", "--from", "2023-05", "--to", "2023-05", "--yes").err, "must not hold rows of both", "tablexport run history")
	contains(t, w.must(exitOK, "backfill", "history", "--gaps", "--dry-run").out, "windows   12 to read", "have changed since it was read")
}

// What was published stands when the process is killed, and the same command goes on with the rest.
func TestBackfillIsKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{Behavior: simulator.Behavior{RowsPerSecond: 400}}, historyJob).stage()
	args := []string{"-c", w.config, "backfill", "history", "--from", "2023", "--to", "2023", "--yes"}
	for _, kill := range []func(*exec.Cmd){func(c *exec.Cmd) { _ = c.Process.Kill() }, func(c *exec.Cmd) { _ = c.Process.Signal(os.Interrupt) }} {
		c := program(t, args...)
		var out buffer
		c.Stdout, c.Stderr = &out, &out
		before := w.published("history")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		until(t, "two more windows", func() bool { return w.published("history") >= before+2 })
		kill(c)
		_ = c.Wait()
		if n := w.published("history"); n >= 12 {
			t.Fatalf("it was done already: %s", out.String())
		}
	}
	if err := w.server.SetBehavior("", simulator.Behavior{}); err != nil {
		t.Fatal(err)
	}
	contains(t, w.must(exitOK, "backfill", "history", "--from", "2023", "--to", "2023", "--yes").out, "left as they are")
	w.exactHistory()
}

// A backfill begins no window while a live run of the instance is under way that is younger than itself.
func TestBackfillLetsLiveRunsPass(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}, historyJob)
	g := &globals{stdio: stdio{strings.NewReader(""), &buffer{}, &buffer{}}, config: w.config}
	a, err := g.open()
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	runs, err := a.ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id := func() string { return uuid.Must(uuid.NewV7()).String() }
	older, own := id(), id()
	host, _, _ := strings.Cut(jobs.Process(), ":")
	process := host + ":1:init" // there always is a process 1
	start := func(run, job string) ledger.Run {
		r := ledger.Run{ID: run, Job: job, Table: "T", Process: process, Started: time.Now()}
		if err := runs.Start(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	pass := a.letLiveRunsPass("sim")
	start(older, "orders")
	if err := pass(t.Context(), own); err != nil {
		t.Fatalf("an older run is waited for: %v", err)
	}
	younger := start(id(), "orders")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := pass(ctx, own); err == nil {
		t.Fatal("the younger run is not waited for")
	}
	younger.State, younger.Ended = ledger.Succeeded, time.Now()
	if err := runs.Finish(t.Context(), younger); err != nil {
		t.Fatal(err)
	}
	if err := pass(t.Context(), own); err != nil {
		t.Fatal(err)
	}
}

func TestRemaining(t *testing.T) {
	for _, x := range []struct {
		took        time.Duration
		done, whole int64
		want        time.Duration
	}{
		{time.Minute, 25, 100, 3 * time.Minute}, {time.Minute, 0, 100, 0}, {time.Minute, 100, 100, 0}, {time.Second, 50, 100, 0},
	} {
		if got := remaining(x.took, x.done, x.whole); got != x.want {
			t.Errorf("%v for %d of %d: %v", x.took, x.done, x.whole, got)
		}
	}
	for d, want := range map[time.Duration]string{4 * time.Second: "4s", 12 * time.Minute: "12m", 200 * time.Minute: "3h20m", 26 * time.Hour: "26h00m"} {
		if got := roughly(d); got != want {
			t.Errorf("%v: %s", d, got)
		}
	}
}

// A window that fails in the first round is tried again alone, and the command ends as if nothing had been.
func TestBackfillTriesAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{Behavior: simulator.Behavior{Count: simulator.PathCount}}, historyJob).stage()
	// The first page of each of the window's three scans lacks a row that the server has counted.
	w.server.Inject(simulator.Fault{Times: 3, Effect: simulator.DropRow(1), Match: func(r *http.Request) bool {
		q := r.URL.Query()
		return q.Get("$top") == "10000" && strings.Contains(q.Get("$filter"), "ge 2023-03-01") && !strings.Contains(q.Get("$filter"), "Sales_Order_Line_Id")
	}})
	w.must(exitOK, "backfill", "history", "--from", "2023-02", "--to", "2023-04", "--yes", "--json")
	if n := w.published("history"); n != 3 {
		t.Fatalf("%d windows were published", n)
	}
	runs := objects(t, w.must(exitOK, "runs", "--json").out)
	if len(runs) != 2 || runs[1]["state"] != "failed" || runs[1]["class"] != "data" || runs[0]["state"] != "succeeded" {
		t.Errorf("the fault was not met, or not mended by a run of its own: %v", runs)
	}
}
