//go:build unix

package main

import (
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/odata/simulator"
)

// Two serving programs with state directories of their own have the same job, due at the same time, on one dataset: never do two runs of it go on at once, and every tick
// is accounted for; the one that was refused says who holds the dataset.
func TestTwoServersOnOneDataset(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{Behavior: simulator.Behavior{RowsPerSecond: 10}}).stage()
	w.edit("paging: {page_size: 50}, description: Orders of one shop", "paging: {page_size: 50}, description: Orders of one shop, schedule: {cron: \"* * * * *\", zone: UTC, late: once}")
	w.append("serve: {listen: \"127.0.0.1:0\"}\n")
	states := []string{filepath.Join(w.dir, ".tablexport"), filepath.Join(w.dir, "other-state")}
	var servers []*served
	for _, state := range states {
		w.missedIn(state, "shop", "UTC * * * * *", time.Now().Add(-time.Hour))
		servers = append(servers, w.serve("--state", state))
	}
	ticksOf := func(state string) (over []ledger.Tick, runs []ledger.Run) {
		l, err := ledger.Open(t.Context(), filepath.Join(state, "ledger.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ticks, err := l.Ticks(t.Context(), ledger.TickQuery{Job: "shop"})
		if err != nil {
			t.Fatal(err)
		}
		runs, err = l.List(t.Context(), ledger.Query{Job: "shop"})
		if err != nil {
			t.Fatal(err)
		}
		for i := range runs { // its wait for the lease is not part of it
			steps, err := l.Steps(t.Context(), runs[i].ID)
			if err != nil {
				t.Fatal(err)
			}
			for _, step := range steps {
				if step.Name == "preparing" {
					runs[i].Started = step.Started
				}
			}
		}
		return slices.DeleteFunc(ticks, func(tick ledger.Tick) bool { return !tick.Outcome.Over() }), runs
	}
	for end := time.Now().Add(100 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		a, _ := ticksOf(states[0])
		b, _ := ticksOf(states[1])
		if len(a) > 0 && len(b) > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a tick is not over")
		}
	}
	for _, s := range servers {
		if code := s.end(syscall.SIGTERM); code != exitOK && code != exitInterrupted {
			t.Errorf("exit %d: %s", code, s.log)
		}
	}
	var read []ledger.Run // that went on
	refused, skipped := 0, 0
	for _, state := range states {
		ticks, runs := ticksOf(state)
		for _, r := range runs {
			switch {
			case r.Requests == 0 && strings.Contains(r.Error, "from another state directory"):
				refused++
			case r.Requests > 0:
				read = append(read, r)
			}
		}
		for _, tick := range ticks {
			if tick.Outcome == ledger.Skipped && strings.Contains(tick.Reason, "from another state directory") {
				skipped++
			}
		}
	}
	for i, a := range read {
		for _, b := range read[i+1:] {
			if a.Started.Before(b.Ended) && b.Started.Before(a.Ended) {
				t.Errorf("two runs at once: %s to %s, and %s to %s", a.Started, a.Ended, b.Started, b.Ended)
			}
		}
	}
	t.Logf("%d runs have read, %d were refused, %d ticks skipped", len(read), refused, skipped)
	// A run takes longer than the time in which a holder shows that it is alive, so that on all but the slowest machine one is refused.
	if len(read) == 0 || refused < skipped {
		t.Errorf("%d runs have read, %d were refused, %d ticks skipped", len(read), refused, skipped)
	}
}
