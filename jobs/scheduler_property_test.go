//go:build unix

package jobs

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/jobs/schedule"
	"github.com/tablexport/tablexport/odata"
)

// Whatever happens in a day and a half (failures, an instance that is away, restarts, pauses, new configurations), in the end every tick is
// in exactly one line and over, no run of a job met another one of it, and no instance had more runs than its budget.
func TestSchedulerProperties(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			in(t, func(t *testing.T, b *bench) { turmoil(t, b, rand.New(rand.NewPCG(seed, 7))) })
		})
	}
}

func turmoil(t *testing.T, b *bench, r *rand.Rand) {
	crons := []string{"0 */3 * * *", "30 1,5,13 * * *", "15 */6 * * *", "0 4 * * *"}
	var entries []Entry
	for i := range 6 {
		name := fmt.Sprintf("j%d", i)
		e := each(name, crons[r.IntN(len(crons))], late([]schedule.Late{schedule.Once, schedule.All, schedule.Skip}[r.IntN(3)]),
			overlap([]Overlap{OverlapSkip, OverlapQueue, OverlapCancel}[r.IntN(3)]), on([]string{"acme", "other"}[r.IntN(2)]), jittered(time.Duration(r.IntN(3))*10*time.Minute))
		if i > 3 {
			e.After = []string{fmt.Sprintf("j%d", i-3)}
		}
		entries = append(entries, e)
		b.takes[name] = time.Duration(1+r.IntN(200)) * time.Minute
		for range 10 {
			b.fails[name] = append(b.fails[name], []error{nil, nil, nil, &odata.UnavailableError{}, ledger.ErrBusy, context.DeadlineExceeded, &odata.DataError{}}[r.IntN(7)])
		}
	}
	agenda := b.agenda(entries...)
	agenda.Budgets["other"] = Budget{Runs: 1}
	begin := time.Now()
	b.serve(agenda)
	for time.Since(begin) < 36*time.Hour {
		time.Sleep(time.Duration(r.IntN(400)) * time.Minute)
		name := entries[r.IntN(len(entries))].Job.Name
		var err error
		switch r.IntN(5) {
		case 0:
			b.end()
			time.Sleep(time.Duration(r.IntN(600)) * time.Minute)
			b.serve(agenda)
		case 1:
			err = b.ledger.Pause(t.Context(), name, "olga", "", time.Now())
		case 2:
			_, err = b.ledger.Resume(t.Context(), name)
		case 3:
			err = b.s.Load(t.Context(), agenda)
		case 4:
			_, err = b.s.Cancel(t.Context(), name, "ivan")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(26 * time.Hour) // everything is over or given up
	b.end()
	if b.most["acme"] > 2 || b.most["other"] > 1 {
		t.Errorf("runs at once: %v", b.most)
	}
	clocks, err := b.ledger.Clocks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		accounted(t, b, e, begin, clocks[e.Job.Name].Upto)
	}
}

// accounted demands that every tick of a job is in exactly one line, which has an end. Those of the last hours may still wait.
func accounted(t *testing.T, b *bench, e Entry, begin, upto time.Time) {
	t.Helper()
	lines, err := b.ledger.Ticks(t.Context(), ledger.TickQuery{Job: e.Job.Name})
	if err != nil {
		t.Fatal(err)
	}
	holds := 0
	next := e.Schedule.Next(begin)
	for i := len(lines) - 1; i >= 0; i-- {
		l := lines[i]
		if !l.At.Equal(next) {
			t.Fatalf("%s: the line %+v where the tick %v was next", e.Job.Name, l, next)
		}
		if !l.Outcome.Over() && time.Since(l.At) > 26*time.Hour || l.Outcome == ledger.Skipped && l.Reason == "" || l.Outcome == ledger.Coalesced && l.Reason == "" {
			t.Errorf("%s: %+v is not over, or has no reason", e.Job.Name, l)
		}
		for range l.Count {
			holds++
			next = e.Schedule.Next(next)
		}
	}
	if next.Before(upto) || upto.Before(time.Now().Add(-13*time.Hour)) && e.Schedule.Next(upto).Before(time.Now().Add(-time.Hour)) {
		t.Errorf("%s: accounted for up to %v only, the clock says %v", e.Job.Name, next, upto)
	}
	if holds == 0 {
		t.Errorf("%s: no ticks", e.Job.Name)
	}
}

// BenchmarkIdle is a clock with 1,000 scheduled jobs, none of which is due: the share of one core that it takes, and its memory.
func BenchmarkIdle(b *testing.B) {
	l, err := ledger.Open(b.Context(), filepath.Join(b.TempDir(), "ledger.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var entries []Entry
	for i := range 1000 {
		s, err := schedule.Parse(fmt.Sprintf("%d %d 29 2 *", i%60, i%24), "Europe/Sofia")
		if err != nil {
			b.Fatal(err)
		}
		entries = append(entries, Entry{Job: Job{Name: fmt.Sprintf("job-%04d", i), Instance: "acme", Table: "Crm_Sales_Order_Lines", Path: fmt.Sprintf("sales/%d", i)}, Schedule: s})
	}
	s := NewScheduler(l, nil, Agenda{Entries: entries})
	ctx, stop := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	if _, _, err := s.Standing(b.Context()); err != nil { // it is up
		b.Fatal(err)
	}
	used := cpu(b)
	began := time.Now()
	for b.Loop() {
		time.Sleep(50 * time.Millisecond)
	}
	b.ReportMetric((cpu(b)-used).Seconds()/time.Since(began).Seconds()*100, "%core")
	var after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric((float64(after.HeapAlloc)-float64(before.HeapAlloc))/(1<<20), "MiB")
	stop()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Skip("no rusage here", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Many jobs that are all due at one minute are claimed in one transaction and carried out within the budget.
func TestManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.close()
		var entries []Entry
		for i := range 100 {
			entries = append(entries, each(fmt.Sprintf("job-%04d", i), "0 1 * * *"))
			b.takes[entries[i].Job.Name] = time.Second
		}
		a := b.agenda(entries...)
		a.Run = func(context.Context, Request) (Result, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.n++
			return Result{RunID: fmt.Sprint(b.n)}, nil
		}
		b.serve(a)
		until("02:00:00")
		b.end()
		if b.n != 100 {
			t.Errorf("%d runs", b.n)
		}
		if info, err := os.Stat(b.path); err != nil || info.Size() > 4<<20 {
			t.Errorf("%v %v", info.Size(), err)
		}
	})
}
