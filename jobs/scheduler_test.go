package jobs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/jobs/schedule"
	"github.com/tablexport/tablexport/odata"
)

// bench is a clock with runs that a test has in hand. It lives in a synctest bubble, whose time begins at midnight UTC, 2000-01-01, a
// Saturday.
type bench struct {
	t      *testing.T
	path   string
	ledger *ledger.Ledger
	s      *Scheduler
	stop   context.CancelFunc
	served chan error

	mu      sync.Mutex
	log     []string                 // "HH:MM:SS job began", "… ended"
	takes   map[string]time.Duration // how long a job's runs take (a minute)
	fails   map[string][]error       // how a job's runs end, one after the other; then well
	now     map[string]int           // runs under way by instance
	most    map[string]int
	n       int
	events  []Event
	started map[string]int
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, path: filepath.Join(volatileDir(t), "ledger.db"), takes: map[string]time.Duration{}, fails: map[string][]error{}, now: map[string]int{}, most: map[string]int{}, started: map[string]int{}}
	b.reopen()
	return b
}

// volatileDir is a directory in memory where there is one: what a disk does at a power cut is not tested here, and its syncs take long.
func volatileDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "tablexport")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (b *bench) reopen() {
	b.t.Helper()
	l, err := ledger.Open(context.Background(), b.path)
	if err != nil {
		b.t.Fatal(err)
	}
	b.ledger = l
}

// each is an entry that is due at the minute of every hour.
func each(name, cron string, change ...func(*Entry)) Entry {
	e := Entry{Job: Job{Name: name, Instance: "acme"}, Late: schedule.Once, Overlap: OverlapSkip}
	if cron != "" {
		s, err := schedule.Parse(cron, "UTC")
		if err != nil {
			panic(err)
		}
		e.Schedule = s
	}
	for _, c := range change {
		c(&e)
	}
	return e
}

func after(names ...string) func(*Entry)    { return func(e *Entry) { e.After = names } }
func overlap(o Overlap) func(*Entry)        { return func(e *Entry) { e.Overlap = o } }
func late(l schedule.Late) func(*Entry)     { return func(e *Entry) { e.Late = l } }
func on(instance string) func(*Entry)       { return func(e *Entry) { e.Job.Instance = instance } }
func within(d time.Duration) func(*Entry)   { return func(e *Entry) { e.Within = d } }
func jittered(d time.Duration) func(*Entry) { return func(e *Entry) { e.Jitter = d } }
func (b *bench) agenda(entries ...Entry) Agenda {
	return Agenda{Entries: entries, Budgets: map[string]Budget{"acme": {Runs: 2}}, Run: b.run}
}

// run is a run that a test has in hand.
func (b *bench) run(ctx context.Context, req Request) (Result, error) {
	name := req.Job.Name
	b.mu.Lock()
	b.n++
	id := fmt.Sprintf("run-%03d", b.n)
	took, ok := b.takes[name]
	if !ok {
		took = time.Minute
	}
	var err error
	if errs := b.fails[name]; len(errs) > 0 {
		err, b.fails[name] = errs[0], errs[1:]
	}
	b.started[name]++
	b.now[req.Job.Instance]++
	b.most[req.Job.Instance] = max(b.most[req.Job.Instance], b.now[req.Job.Instance])
	b.say(name + " began")
	b.mu.Unlock()
	line := ledger.Run{ID: id, Job: name, Process: Process(), Started: time.Now(), Version: -1}
	if lerr := b.ledger.Start(context.WithoutCancel(ctx), line); lerr != nil {
		b.t.Error(lerr)
	}
	if req.Progress != nil {
		req.Progress(Progress{Job: name, RunID: id, Phase: Preparing})
	}
	select {
	case <-time.After(took):
	case <-ctx.Done():
		err = &StoppedError{Reason: ctx.Err(), Err: ctx.Err()}
	}
	line.Ended, line.State, line.Version = time.Now(), ledger.Succeeded, 1
	if err != nil {
		line.State, line.Version = ledger.Failed, -1
	}
	if lerr := b.ledger.Finish(context.WithoutCancel(ctx), line); lerr != nil {
		b.t.Error(lerr)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now[req.Job.Instance]--
	end := " ended"
	if err != nil {
		end = " failed"
	}
	b.say(name + end)
	return Result{Job: name, RunID: id, Version: line.Version}, err
}

func (b *bench) say(what string) { b.log = append(b.log, time.Now().UTC().Format("15:04:05 ")+what) }

// serve starts the clock on an agenda.
func (b *bench) serve(a Agenda) {
	b.t.Helper()
	b.s = NewScheduler(b.ledger, nil, a)
	b.s.Observe = func(e Event) { b.mu.Lock(); b.events = append(b.events, e); b.mu.Unlock() }
	ctx, stop := context.WithCancel(context.Background())
	b.stop, b.served = stop, make(chan error, 1)
	go func() { b.served <- b.s.Serve(ctx) }()
}

// end ends the clock in good order, and the ledger.
func (b *bench) end() {
	b.t.Helper()
	b.stop()
	if err := <-b.served; err != nil {
		b.t.Error(err)
	}
}

func (b *bench) close() {
	b.t.Helper()
	if err := b.ledger.Close(); err != nil {
		b.t.Error(err)
	}
}

// until lets time pass to a wall time of the first day.
func until(text string) {
	at, err := time.Parse("15:04:05", text)
	if err != nil {
		panic(err)
	}
	day := time.Date(2000, 1, 1, at.Hour(), at.Minute(), at.Second(), 0, time.UTC)
	time.Sleep(time.Until(day))
	synctest.Wait()
}

// ticks are a job's lines, oldest first: "HH:MM outcome reason".
func (b *bench) ticks(job string) []string {
	b.t.Helper()
	all, err := b.ledger.Ticks(context.Background(), ledger.TickQuery{Job: job})
	if err != nil {
		b.t.Fatal(err)
	}
	slices.Reverse(all)
	var out []string
	for _, t := range all {
		text := t.At.Format("15:04 ") + string(t.Outcome)
		if t.Count > 1 {
			text += fmt.Sprintf(" x%d", t.Count)
		}
		if t.Reason != "" {
			text += ": " + t.Reason
		}
		if (t.Outcome == ledger.Ran || t.Outcome == ledger.Late || t.Outcome == ledger.Ticking) && t.Run == "" {
			text += " (no run)"
		}
		out = append(out, text)
	}
	return out
}

func (b *bench) wantTicks(job string, want ...string) {
	b.t.Helper()
	got := b.ticks(job)
	ok := len(got) == len(want)
	for i := 0; ok && i < len(want); i++ {
		ok = strings.HasPrefix(got[i], want[i]) && !strings.Contains(got[i], "no run")
	}
	if !ok {
		b.t.Errorf("ticks of %s:\n  %s\nwant\n  %s", job, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func (b *bench) wantLog(want ...string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	slices.Sort(b.log) // what happens at one instant has no order
	slices.Sort(want)
	if !slices.Equal(b.log, want) {
		b.t.Errorf("it went\n  %s\nwant\n  %s", strings.Join(b.log, "\n  "), strings.Join(want, "\n  "))
	}
	b.log = nil
}

// in runs a test in a bubble.
func in(t *testing.T, test func(*testing.T, *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.close()
		test(t, b)
	})
}

func TestTicksRun(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.serve(b.agenda(each("a", "30 * * * *"), each("b", "", on("other"))))
		until("02:00:00")
		b.end()
		b.wantLog("00:30:00 a began", "00:31:00 a ended", "01:30:00 a began", "01:31:00 a ended")
		b.wantTicks("a", "00:30 ran", "01:30 ran")
		b.wantTicks("b")
	})
}

func TestOverlap(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.takes["skip"], b.takes["queue"], b.takes["cancel"] = 70*time.Minute, 70*time.Minute, 70*time.Minute
		a := b.agenda(each("skip", "0 1,2,3 * * *"), each("queue", "0 1,2,3 * * *", overlap(OverlapQueue), on("q")), each("cancel", "0 1,2,3 * * *", overlap(OverlapCancel), on("c")))
		b.serve(a)
		until("06:00:00")
		b.end()
		b.wantTicks("skip", "01:00 ran", "02:00 skipped: its run of 2000-01-01T01:00:00Z is still under way", "03:00 ran")
		b.wantTicks("queue", "01:00 ran", "02:00 late", "03:00 late")
		b.wantTicks("cancel", "01:00 ran: the job's next tick came", "02:00 ran: the job's next tick came", "03:00 ran")
	})
}

// A job without a schedule runs when all that it comes after have published anew; one with a schedule waits for them.
func TestAfter(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.takes["b"] = 5 * time.Minute
		b.fails["a"] = []error{nil, &odata.DataError{}}
		b.serve(b.agenda(each("a", "0 * * * *"), each("b", "0 * * * *"), each("both", "", after("a", "b")), each("last", "", after("both")),
			each("timed", "0 * * * *", after("a"), jittered(0), on("t"))))
		until("01:59:00")
		b.wantLog("01:00:00 a began", "01:00:00 b began", "01:01:00 a ended", "01:01:00 timed began", "01:02:00 timed ended",
			"01:05:00 b ended", "01:05:00 both began", "01:06:00 both ended", "01:06:00 last began", "01:07:00 last ended")
		until("02:59:00") // a fails: nothing that needs both runs
		b.wantLog("02:00:00 a began", "02:00:00 b began", "02:01:00 a failed", "02:05:00 b ended")
		until("03:59:00")
		b.end()
		b.wantTicks("timed", "01:00 ran", "02:00 skipped: it comes after a, whose last run did not succeed", "03:00 ran")
		b.wantTicks("both", "01:05 ran", "03:01 ran")
		b.wantTicks("last", "01:06 ran", "03:02 ran")
	})
}

func TestPauseResume(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.serve(b.agenda(each("a", "0 * * * *"), each("next", "", after("a"))))
		until("01:30:00")
		if err := b.ledger.Pause(t.Context(), "a", "olga", "stocktaking", time.Now()); err != nil {
			t.Error(err)
		}
		until("02:30:00")
		b.end()
		b.serve(b.s.agenda) // a pause outlives the program
		until("03:30:00")
		if ok, err := b.ledger.Resume(t.Context(), "a"); !ok || err != nil {
			t.Error(ok, err)
		}
		if err := b.ledger.Pause(t.Context(), "next", "ivan", "", time.Now()); err != nil {
			t.Error(err)
		}
		until("04:30:00")
		b.end()
		b.wantTicks("a", "01:00 ran", "02:00 skipped: the job is paused by olga: stocktaking", "03:00 skipped: the job is paused by olga: stocktaking", "04:00 ran")
		b.wantTicks("next", "01:01 ran", "04:01 skipped: the job is paused by ivan")
	})
}

// Live runs come before backfills, and an instance never has more runs than its budget, whoever asks.
func TestBudget(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		for _, n := range []string{"a", "b", "c"} {
			b.takes[n] = 10 * time.Minute
		}
		b.takes["history"] = 30 * time.Minute
		b.serve(b.agenda(each("a", "5 1 * * *"), each("b", "5 1 * * *"), each("c", "6 1 * * *"), each("history", ""), each("more", ""), each("else", "6 1 * * *", on("other"))))
		until("01:05:30")
		for _, name := range []string{"history", "more"} {
			if err := b.s.Submit(t.Context(), Request{Job: Job{Name: name}}, Backfill, nil); err != nil {
				t.Error(err)
			}
		}
		for _, name := range []string{"a", "history"} {
			if err := b.s.Submit(t.Context(), Request{Job: Job{Name: name}}, Live, nil); !errors.Is(err, ErrUnderWay) {
				t.Error(err)
			}
		}
		if err := b.s.Submit(t.Context(), Request{Job: Job{Name: "nope"}}, Live, nil); !errors.Is(err, ErrNoJob) {
			t.Error(err)
		}
		jobs, instances, err := b.s.Standing(t.Context())
		if err != nil || jobs["history"].Waiting != 1 || !strings.Contains(jobs["history"].Why, "budget") && jobs["history"].Why != "" || jobs["a"].Run == "" || instances["acme"].Running != 2 {
			t.Errorf("%+v %+v %v", jobs, instances, err)
		}
		until("02:30:00")
		b.end()
		if b.most["acme"] != 2 {
			t.Errorf("%d runs at once", b.most["acme"])
		}
		b.wantLog("01:05:00 a began", "01:05:00 b began", "01:06:00 else began", "01:07:00 else ended", "01:15:00 a ended", "01:15:00 b ended", "01:15:00 c began", "01:15:00 history began",
			"01:25:00 c ended", "01:25:00 more began", "01:26:00 more ended", "01:45:00 history ended")
		b.wantTicks("c", "01:06 late")
	})
}

// An instance that is away parks its runs, all of them, and only its own; they go on when it is back.
func TestParked(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		away := &odata.UnavailableError{RetryAfter: 3 * time.Minute}
		b.fails["a"] = []error{&RunError{Err: away}, away}
		b.takes["b"] = 10 * time.Second
		b.serve(b.agenda(each("a", "0 1 * * *"), each("b", "2 1 * * *"), each("c", "2 1 * * *", on("other"))))
		until("01:02:30")
		jobs, instances, err := b.s.Standing(t.Context())
		if err != nil || !strings.Contains(jobs["a"].Why, "left alone until 2000-01-01T01:04:00Z") || !strings.Contains(jobs["b"].Why, "left alone") || instances["acme"].Parked.IsZero() {
			t.Errorf("%+v %+v %v", jobs, instances, err)
		}
		until("02:00:00")
		b.end()
		b.wantLog("01:00:00 a began", "01:01:00 a failed", "01:02:00 c began", "01:03:00 c ended", "01:04:00 a began", "01:04:00 b began", "01:04:10 b ended", "01:05:00 a failed",
			"01:08:00 a began", "01:09:00 a ended")
		b.wantTicks("a", "01:00 ran: tried 3 times")
		b.wantTicks("b", "01:02 late")
	})
}

// A tick is tried again for what may pass, not for ever, and not at all for what does not pass by itself.
func TestTries(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		busy, lasting := ledger.ErrBusy, context.DeadlineExceeded // Later, Transient
		b.fails["data"] = []error{&odata.DataError{}, nil}
		b.fails["later"] = slices.Repeat([]error{busy}, 100)
		b.fails["brief"] = slices.Repeat([]error{lasting}, 100)
		b.serve(b.agenda(each("data", "0 1 * * *"), each("later", "0 1 * * *", within(time.Hour), on("l")), each("brief", "0 1 * * *", on("b"))))
		until("03:00:00")
		b.end()
		b.wantTicks("data", "01:00 ran")
		b.wantTicks("brief", "01:00 ran: tried 4 times")
		b.wantTicks("later", "01:00 ran: tried")
		if b.started["data"] != 1 || b.started["brief"] != 4 || b.started["later"] < 5 || b.started["later"] > 10 {
			t.Errorf("%v", b.started)
		}
	})
}

// A program that is told to end lets runs end, stops those that take too long, and continues them at its next start.
func TestDrain(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.takes["long"] = 20 * time.Minute
		a := b.agenda(each("short", "0 1 * * *"), each("long", "0 1 * * *"), each("third", "0 1 * * *"))
		b.serve(a)
		until("01:00:30")
		b.end()
		b.wantLog("01:00:00 short began", "01:00:00 long began", "01:01:00 short ended", "01:02:30 long failed")
		b.wantTicks("long", "01:00 waiting: the program is ending")
		b.wantTicks("third", "01:00 waiting")
		b.serve(a)
		until("02:00:00")
		b.end()
		b.wantLog("01:02:30 third began", "01:02:30 long began", "01:03:30 third ended", "01:22:30 long ended")
		b.wantTicks("long", "01:00 late")
		b.wantTicks("third", "01:00 late")
	})
}

// What a process that was killed has left is found, whatever it was doing.
func TestRestart(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		entries := []Entry{each("once", "0 * * * *"), each("all", "0 * * * *", late(schedule.All), on("x")), each("skip", "0 * * * *", late(schedule.Skip)), each("old", "0 * * * *", within(time.Hour)), each("gone", "0 * * * *")}
		b.serve(b.agenda(entries...))
		until("00:30:00")
		b.end()
		// The dead process had claimed the ticks of 1 and 2, and was in the middle of the run of 1.
		lock, err := b.ledger.Lock(t.Context(), clockLock, "h:1:dead", time.Minute, Alive)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			m := ledger.Move{Clock: ledger.Clock{Job: e.Job.Name, Upto: time.Date(2000, 1, 1, 2, 0, 0, 0, time.UTC), Spec: (&entry{Entry: e}).spec()}}
			for h, o := range map[int]ledger.Outcome{1: ledger.Ticking, 2: ledger.Waiting} {
				at := time.Date(2000, 1, 1, h, 0, 0, 0, time.UTC)
				m.Ticks = append(m.Ticks, ledger.Tick{Job: e.Job.Name, At: at, Until: at, Count: 1, Outcome: o, Run: fmt.Sprintf("dead-%d", h), Process: "h:1:dead", Decided: at})
			}
			if _, err := b.ledger.Advance(t.Context(), lock, m); err != nil {
				t.Fatal(err)
			}
		}
		until("02:10:00") // the lock has expired
		b.serve(b.agenda(entries[:4]...))
		until("02:50:00")
		b.end()
		b.wantTicks("once", "01:00 coalesced: a later tick runs for it", "02:00 late")
		b.wantTicks("all", "01:00 late", "02:00 late")
		b.wantTicks("skip", "01:00 skipped: the program ended", "02:00 skipped: the program ended")
		b.wantTicks("old", "01:00 skipped: the program ended before its run did; missed by more than 1h0m0s", "02:00 late")
		b.wantTicks("gone", "01:00 skipped: the job is not in the configuration", "02:00 skipped: the job is not in the configuration")
	})
}

// A machine that slept, and a clock on the wall that is set forward and back again: every tick has one end, none runs twice.
func TestClockJumps(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.serve(b.agenda(each("once", "0 * * * *"), each("all", "0 * * * *", late(schedule.All), on("x"))))
		until("01:30:00")
		jump := func(to time.Time) {
			t.Helper()
			var err error
			if cerr := b.s.call(t.Context(), func() { err = b.s.step(context.Background(), to) }); cerr != nil || err != nil {
				t.Error(cerr, err)
			}
		}
		jump(time.Date(2000, 1, 1, 4, 30, 0, 0, time.UTC))
		until("03:50:00") // the wall's clock is right again, and behind what was accounted for
		b.wantLog("01:00:00 once began", "01:00:00 all began", "01:01:00 once ended", "01:01:00 all ended",
			"01:30:00 all began", "01:30:00 once began", "01:31:00 all ended", "01:31:00 all began", "01:31:00 once ended", "01:32:00 all ended", "01:32:00 all began", "01:33:00 all ended")
		until("05:50:00")
		b.end()
		b.wantTicks("once", "01:00 ran", "02:00 coalesced x2: a later tick runs for it", "04:00 late", "05:00 ran")
		b.wantTicks("all", "01:00 ran", "02:00 late", "03:00 late", "04:00 late", "05:00 ran")
		// It was years ahead, and a program starts after it was set right: the job does not wait for those years.
		lock, err := b.ledger.Lock(t.Context(), clockLock, "h:1:dead", time.Second, Alive)
		if err == nil {
			_, err = b.ledger.Advance(t.Context(), lock, ledger.Move{Clock: ledger.Clock{Job: "once", Upto: time.Date(2035, 1, 1, 0, 0, 0, 0, time.UTC), Spec: "UTC 0 * * * *"}})
		}
		if err != nil {
			t.Fatal(err)
		}
		until("05:55:00")
		b.serve(b.agenda(each("once", "0 * * * *")))
		until("06:30:00")
		b.end()
		b.wantTicks("once", "01:00 ran", "02:00 coalesced", "04:00 late", "05:00 ran", "06:00 ran")
	})
}

// Of two processes on one state directory one runs the clock; whoever has lost it stops what it does and writes nothing more.
func TestTwoClocks(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.takes["a"] = time.Hour
		b.serve(b.agenda(each("a", "0 1 * * *")))
		until("00:30:00")
		var held *ledger.HeldError
		if _, err := b.ledger.Lock(t.Context(), clockLock, "h:2:other", time.Minute, Alive); !errors.As(err, &held) || held.Holder != Process() || Classify(err) != Conflict {
			t.Errorf("%v", err)
		}
		until("01:10:00")
		// It slept, say, and another one found its lock expired.
		if _, err := b.ledger.Lock(t.Context(), clockLock, "h:2:other", time.Hour, func(string) bool { return false }); err != nil {
			t.Error(err)
		}
		if err := <-b.served; !errors.Is(err, ledger.ErrFenced) || Classify(err) != Conflict {
			t.Errorf("%v", err)
		}
		b.wantLog("01:00:00 a began", "01:10:20 a failed")
		b.wantTicks("a", "01:00 running") // the other's to settle
		if err := b.s.Submit(t.Context(), Request{Job: Job{Name: "a"}}, Live, nil); err == nil {
			t.Error("a clock that has ended took an order")
		}
		other := NewScheduler(b.ledger, nil, b.agenda())
		if err := other.Serve(t.Context()); !errors.As(err, &held) {
			t.Errorf("%v", err)
		}
	})
}

// A new configuration leaves runs under way alone, moves what waits, and accounts for what is gone.
func TestLoad(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.takes["a"], b.takes["gone"] = 90*time.Minute, 90*time.Minute
		b.serve(b.agenda(each("a", "0 * * * *"), each("gone", "0 * * * *"), each("third", "0 * * * *"), each("waits", "0 * * * *")))
		until("01:10:00")
		if err := b.s.Load(t.Context(), Agenda{Budgets: map[string]Budget{"acme": {Runs: 4}}, Run: b.run, Entries: []Entry{each("a", "45 * * * *"), each("waits", "0 * * * *"), each("new", "30 * * * *", on("n"))}}); err != nil {
			t.Error(err)
		}
		until("02:40:00")
		b.end()
		b.wantTicks("a", "01:00 ran", "01:45 skipped: its run of")
		b.wantTicks("gone", "01:00 ran")
		b.wantTicks("third", "01:00 skipped: the job is not in the configuration any more")
		b.wantTicks("waits", "01:00 late", "02:00 ran")
		b.wantTicks("new", "01:30 ran", "02:30 ran")
		// Ticks of the old schedule that were missed before the change are accounted for as well.
		until("04:10:00")
		b.serve(b.agenda(each("new", "15 * * * *", on("n"))))
		until("04:20:00")
		b.end()
		b.wantTicks("new", "01:30 ran", "02:30 ran", "03:30 skipped: the schedule was changed before it ran", "04:15 ran")
	})
}

// In working hours backfills wait; where nothing is to start, live runs wait too, but for those that a person asks for.
func TestWorkingHours(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		hours, err := schedule.ParseHours([]string{"sat"}, "00:30", "02:00", "UTC")
		if err != nil {
			t.Fatal(err)
		}
		a := b.agenda(each("live", "0 1 * * *"), each("history", ""), each("quiet", "0 1 * * *", on("q")), each("hand", "", on("q")))
		a.Budgets = map[string]Budget{"acme": {Hours: hours}, "q": {Hours: hours, Quiet: true}}
		b.serve(a)
		until("00:40:00")
		if err := b.s.Submit(t.Context(), Request{Job: Job{Name: "history"}}, Backfill, nil); err != nil {
			t.Error(err)
		}
		if err := b.s.Submit(t.Context(), Request{Job: Job{Name: "hand"}}, Live, nil); err != nil {
			t.Error(err)
		}
		until("02:30:00")
		b.end()
		b.wantLog("00:40:00 hand began", "00:41:00 hand ended", "01:00:00 live began", "01:01:00 live ended", "02:00:00 quiet began", "02:00:00 history began", "02:01:00 quiet ended", "02:01:00 history ended")
		b.wantTicks("quiet", "01:00 late")
	})
}

func TestJitterAndCancel(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		b.serve(b.agenda(each("a", "0 1 * * *", jittered(20*time.Minute))))
		until("01:30:00")
		start := schedule.Jitter("a", time.Date(2000, 1, 1, 1, 0, 0, 0, time.UTC), 20*time.Minute)
		at := time.Date(2000, 1, 1, 1, 0, 0, 0, time.UTC).Add(start)
		b.wantLog(at.Format("15:04:05 ")+"a began", at.Add(time.Minute).Format("15:04:05 ")+"a ended")
		b.wantTicks("a", "01:00 ran")
		b.takes["a"] = time.Hour
		var got error
		if err := b.s.Submit(t.Context(), Request{Job: Job{Name: "a"}}, Live, func(_ Result, err error) { got = err }); err != nil {
			t.Error(err)
		}
		until("01:40:00")
		if ok, err := b.s.Cancel(t.Context(), "a", "olga"); !ok || err != nil {
			t.Error(ok, err)
		}
		synctest.Wait()
		if Classify(got) != Canceled {
			t.Errorf("%v", got)
		}
		if ok, _ := b.s.Cancel(t.Context(), "a", "olga"); ok {
			t.Error("there was nothing to cancel")
		}
		b.end()
	})
}

// A panic in a run is its own.
func TestPanickingRun(t *testing.T) {
	in(t, func(t *testing.T, b *bench) {
		a := b.agenda(each("a", "0 * * * *"))
		n := 0
		a.Run = func(context.Context, Request) (Result, error) {
			if n++; n == 1 {
				panic("a secret")
			}
			return Result{RunID: "r2"}, nil
		}
		b.serve(a)
		until("02:30:00")
		b.end()
		if got := b.ticks("a"); len(got) != 2 || n != 2 {
			t.Error(got, n)
		}
		for _, e := range b.events {
			if e.Kind == RunEnded && e.Err != nil && (e.Class != Bug || strings.Contains(e.Err.Error(), "secret")) {
				t.Errorf("%+v", e)
			}
		}
	})
}
