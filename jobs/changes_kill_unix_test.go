//go:build unix

package jobs_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/odata/simulator"
)

// Whenever a process is killed while it merges, a reader finds the whole of one version, and the next run makes the dataset right: its state is the
// dataset itself.
func TestChangesKilled(t *testing.T) {
	t.Setenv(childMode, string(jobs.Changes))
	r := newRig(t, simulator.Options{})
	r.onDisk()
	j := byChanges(lines)
	r.merged(j)
	begun := time.Now()
	if said, killed := r.child("").wait(); said != "" || killed {
		t.Fatalf("a child that nobody kills says %q", said)
	}
	run := time.Since(begun)
	ends := []string{string(jobs.Scanning), string(jobs.Fetching), string(jobs.Publishing), "behind the commit", "", "", "", ""}
	_, last := r.read(j)
	killed := 0
	for _, end := range ends {
		must(t, errOf(r.server.Update(lines, 15)))
		must(t, errOf(r.server.Insert(lines, 2)))
		must(t, errOf(r.server.Delete(lines, 2)))
		mark, version := r.oracle.Mark(), r.version(j)
		l := r.child(end)
		if end == "" {
			time.Sleep(rand.N(run))
			_ = l.cmd.Process.Kill()
		}
		if _, k := l.wait(); k {
			killed++
		}
		_, rows := r.read(j)
		switch got := r.version(j); {
		case got == version:
			if !slices.EqualFunc(rows, last, slices.Equal[simulator.Row]) || end == "behind the commit" {
				t.Fatalf("killed %s: the previous version has changed, or nothing was published", end)
			}
		case got == version+1:
			r.copies(j, mark)
		default:
			t.Fatalf("version %d became %d", version, got)
		}
		_, last = rows, rows
	}
	_, err := r.ledger.Interrupt(t.Context(), jobs.Alive)
	must(t, err)
	res := r.merged(j)
	if res.Merge == nil || killed < 4 {
		t.Errorf("%d killed, then read whole: %s", killed, res.Whole)
	}
	running, err := r.ledger.List(t.Context(), ledger.Query{State: ledger.Running})
	if err != nil || len(running) > 0 {
		t.Errorf("%v %v", running, err)
	}
	report, err := r.dataset(j).Verify(t.Context())
	if err != nil || len(report.Problems) > 0 {
		t.Errorf("%v %v", report.Problems, err)
	}
}
