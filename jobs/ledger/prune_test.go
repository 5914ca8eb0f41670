package ledger_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tablexport/tablexport/jobs/ledger"
)

const day = 24 * time.Hour

// history fills a ledger: a run and a tick of each job each day, the newest today, days of them.
func history(t testing.TB, l *ledger.Ledger, days int, names ...string) {
	t.Helper()
	lock, err := l.Lock(t.Context(), "clock", "p", time.Hour, always)
	must(t, err)
	for _, job := range names {
		for i := range days {
			at := time.Now().Add(-time.Duration(days-1-i) * day).Round(0)
			id := fmt.Sprintf("%s-%04d", job, i)
			r := ledger.Run{ID: id, Job: job, Process: "p", Started: at}
			must(t, l.Start(t.Context(), r))
			must(t, l.Step(t.Context(), ledger.Step{Run: id, Name: "reading", Started: at}, 0))
			if job == "stuck" && i == 0 {
				continue // under way for a year: a process of another host that nobody can see
			}
			r.State, r.Ended, r.Version = ledger.Failed, at.Add(time.Minute), -1
			if i == 3 {
				r.State, r.Version = ledger.Succeeded, 7 // the last one that published
			}
			must(t, l.Finish(t.Context(), r))
			outcome := ledger.Ran
			if i == 1 {
				outcome = ledger.Waiting
			}
			_, err := l.Advance(t.Context(), lock, ledger.Move{Clock: ledger.Clock{Job: job, Upto: at}, Ticks: []ledger.Tick{tick(job, at, outcome)}})
			must(t, err)
		}
	}
}

// What is old goes with its steps; what a page, an alert or the clock needs stays.
func TestPrune(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "ledger.db"))
	history(t, l, 300, "daily", "stuck")
	history(t, l, 15, "yearly")
	latest, err := l.Latest(t.Context())
	must(t, err)
	clocks, err := l.Clocks(t.Context())
	must(t, err)
	if _, err := l.Prune(t.Context(), time.Now().Add(-34*day), false); err == nil {
		t.Error("weeks that alerts need were removed")
	}
	before := time.Now().Add(-100 * day)
	dry, err := l.Prune(t.Context(), before, true)
	must(t, err)
	pruned, err := l.Prune(t.Context(), before, false)
	must(t, err)
	// 200 days of two jobs are old, two runs that published and one under way stay, and so do two ticks that wait.
	if want := (ledger.Pruned{Runs: 2*200 - 2 - 1, Ticks: 2*200 - 2 - 1}); pruned != want || dry != want {
		t.Errorf("%+v, counted before %+v, want %+v", pruned, dry, want)
	}
	after, err := l.Latest(t.Context())
	must(t, err)
	same(t, latest, after)
	behind, err := l.Clocks(t.Context())
	must(t, err)
	same(t, clocks, behind)
	for id, want := range map[string]bool{"daily-0003": true, "stuck-0000": true, "daily-0004": false, "daily-0150": false, "daily-0250": true, "yearly-0000": true} {
		_, err := l.Get(t.Context(), id)
		steps, serr := l.Steps(t.Context(), id)
		must(t, serr)
		if (err == nil) != want || (len(steps) > 0) != want {
			t.Errorf("%s: %v, %d steps", id, err, len(steps))
		}
	}
	if again, err := l.Prune(t.Context(), before, false); err != nil || again != (ledger.Pruned{}) {
		t.Errorf("%+v %v", again, err)
	}
	// A job of which all is old keeps its newest.
	if _, err := l.Prune(t.Context(), time.Now().Add(-ledger.MinHistory), false); err != nil {
		t.Error(err)
	}
	if runs, err := l.List(t.Context(), ledger.Query{Job: "yearly"}); err != nil || len(runs) != 15 {
		t.Errorf("%d %v", len(runs), err)
	}
	// A clock that is set back runs no tick that was removed: it stands behind it.
	if clock := behind["daily"]; clock.Upto.Before(time.Now().Add(-time.Hour)) {
		t.Errorf("the clock went back to %v", clock.Upto)
	}
	if l.Size() == 0 {
		t.Error("no size")
	}
}

func same[V comparable](t *testing.T, a, b map[string]V) {
	t.Helper()
	if len(a) != len(b) {
		t.Errorf("%v became %v", a, b)
	}
	for k, v := range a {
		if b[k] != v {
			t.Errorf("%v became %v", v, b[k])
		}
	}
}

// While it goes on, runs begin and end and pages are read; what ends it leaves the rest.
func TestPruneBesideOthers(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "ledger.db"))
	history(t, l, 700, "a")
	ctx, stop := context.WithCancel(t.Context())
	var others sync.WaitGroup
	begun := 0
	others.Go(func() {
		for ctx.Err() == nil {
			r := ledger.Run{ID: fmt.Sprint("new-", begun), Job: "b", Process: "p", Started: time.Now()}
			if err := l.Start(t.Context(), r); err != nil {
				t.Error(err)
			}
			r.State, r.Ended = ledger.Succeeded, time.Now()
			if err := l.Finish(t.Context(), r); err != nil {
				t.Error(err)
			}
			if _, err := l.List(t.Context(), ledger.Query{Limit: 50}); err != nil {
				t.Error(err)
			}
			begun++
		}
	})
	cut, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Prune(cut, time.Now().Add(-100*day), false); err == nil {
		t.Error("an ended context ends nothing")
	}
	pruned, err := l.Prune(t.Context(), time.Now().Add(-100*day), false)
	stop()
	others.Wait()
	if err != nil || pruned.Runs != 599 || begun == 0 {
		t.Errorf("%+v %v, beside %d runs", pruned, err, begun)
	}
	if runs, err := l.List(t.Context(), ledger.Query{Job: "b"}); err != nil || len(runs) != begun {
		t.Errorf("%d of %d: %v", len(runs), begun, err)
	}
}

// A process that is killed in the middle leaves runs with their steps, or neither; the next one goes on.
func TestKillPrune(t *testing.T) {
	if path := os.Getenv("LEDGER_KILL_PRUNE"); path != "" {
		l, err := ledger.Open(t.Context(), path)
		must(t, err)
		fmt.Println("begin")
		_, err = l.Prune(t.Context(), time.Now().Add(-100*day), false)
		must(t, err)
		fmt.Println("end")
		return
	}
	path := filepath.Join(t.TempDir(), "ledger.db")
	l := open(t, path)
	history(t, l, 1500, "a")
	for round := range 4 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKillPrune$")
		cmd.Env = append(os.Environ(), "LEDGER_KILL_PRUNE="+path)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		var said string
		if _, err := fmt.Fscan(out, &said); err != nil || said != "begin" {
			t.Fatalf("%q %v", said, err)
		}
		time.Sleep(time.Duration(round*8) * time.Millisecond)
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
	}
	whole := func() (runs int) {
		t.Helper()
		list, err := l.List(t.Context(), ledger.Query{})
		must(t, err)
		for _, r := range list {
			if steps, err := l.Steps(t.Context(), r.ID); err != nil || len(steps) != 1 {
				t.Fatalf("%s has %d steps: %v", r.ID, len(steps), err)
			}
		}
		for i := range 1500 {
			id := fmt.Sprintf("a-%04d", i)
			if _, err := l.Get(t.Context(), id); err == nil {
				continue
			}
			if steps, err := l.Steps(t.Context(), id); err != nil || len(steps) > 0 {
				t.Fatalf("steps of %s are left: %v", id, err)
			}
		}
		return len(list)
	}
	left := whole()
	pruned, err := l.Prune(t.Context(), time.Now().Add(-100*day), false)
	must(t, err)
	if got := whole(); got != 101 || pruned.Runs != int64(left-got) {
		t.Errorf("%d left, %+v of %d removed", got, pruned, left)
	}
}
