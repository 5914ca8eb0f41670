package jobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/jobs/schedule"
)

// step accounts for every tick that is due, and starts what can be started.
func (s *Scheduler) step(runs context.Context, now time.Time) error {
	if err := s.claim(runs, now); err != nil {
		return err
	}
	for instance, p := range s.parked {
		if p.why != "" && !p.until.After(now) {
			s.log.Info("instance is asked again", "instance", instance)
			p.why = ""
			s.parked[instance] = p // its tries count on until a run succeeds
			s.observe(Event{Kind: Unparked, At: now, Instance: instance})
		}
	}
	return s.dispatch(runs, now)
}

// claim writes the lines of all ticks that are due in one transaction, and queues those that run.
func (s *Scheduler) claim(ctx context.Context, now time.Time) error {
	var due []*entry
	for _, e := range s.due {
		// The heap is in order at its top only; it is small and looked through only when something is due.
		if len(due) == 0 && s.due[0].wake.After(now) {
			break
		}
		if !e.wake.After(now) {
			due = append(due, e)
		}
	}
	if len(due) == 0 {
		return nil
	}
	slices.SortFunc(due, func(a, b *entry) int {
		return cmp.Or(a.next.Compare(b.next), strings.Compare(a.Job.Name, b.Job.Name))
	})
	clocks, err := s.Ledger.Clocks(ctx) // pauses may have come from another process
	if err != nil {
		return err
	}
	var moves []ledger.Move
	var older []ledger.Tick // that a newer one runs for
	ends := map[*entry][]*order{}
	for _, e := range due {
		move, orders, replaced := s.claimOf(e, clocks[e.Job.Name], now)
		moves, older = append(moves, move), append(older, replaced...)
		ends[e] = orders
	}
	fresh, err := s.Ledger.Advance(ctx, s.lock, moves...)
	if err != nil {
		return err
	}
	is := map[string]map[int64]bool{}
	for _, t := range fresh {
		if is[t.Job] == nil {
			is[t.Job] = map[int64]bool{}
		}
		is[t.Job][t.At.UnixMicro()] = true
	}
	for i, e := range due {
		e.upto = moves[i].Clock.Upto
		s.settle(e)
		for _, o := range ends[e] {
			if is[e.Job.Name][o.tick.At.UnixMicro()] {
				s.queue(o)
			}
		}
	}
	for _, t := range fresh {
		s.told(t)
	}
	s.drop(older)
	return s.settled(ctx, older...)
}

// claimOf says what becomes of a job's due ticks: their lines, those that run, and older ones that wait and need not run any more.
func (s *Scheduler) claimOf(e *entry, c ledger.Clock, now time.Time) (move ledger.Move, runs []*order, replaced []ledger.Tick) {
	// Behind its jitter a tick is in time.
	effective := now.Add(-schedule.Jitter(e.Job.Name, e.next, e.Jitter))
	move.Clock = ledger.Clock{Job: e.Job.Name, Upto: e.upto, Spec: e.spec()}
	for _, d := range e.Schedule.Catch(e.upto, effective, e.Late, e.Within) {
		move.Clock.Upto = d.Until
		t := ledger.Tick{Job: e.Job.Name, At: d.At, Until: d.Until, Count: d.Count, Outcome: ledger.Skipped, Reason: d.Reason, Process: Process(), Decided: now}
		switch {
		case !c.Paused.IsZero() && !d.Until.Before(c.Paused):
			t.Reason = "the job is paused by " + c.PausedBy
			if c.Why != "" {
				t.Reason += ": " + c.Why
			}
		case d.Coalesced:
			t.Outcome = ledger.Coalesced
		case !d.Run:
		case e.run != nil && e.Overlap != OverlapQueue && e.Overlap != OverlapCancel:
			t.Reason = "its run of " + e.run.began.UTC().Format(time.RFC3339) + " is still under way (overlap: skip)"
		default:
			t.Outcome, t.Reason = ledger.Waiting, ""
			runs = append(runs, &order{entry: e, tick: t, late: d.Late})
		}
		move.Ticks = append(move.Ticks, t)
	}
	if len(runs) > 0 {
		replaced = s.replaced(e, runs[len(runs)-1].tick, now)
		if e.run != nil && e.Overlap == OverlapCancel {
			e.run.cancel(errOverlaps)
		}
	}
	return move, runs, replaced
}

// replaced are the ticks of a job that wait and that a newer one runs for: only the newest waits, unless late: all.
func (s *Scheduler) replaced(e *entry, newer ledger.Tick, now time.Time) []ledger.Tick {
	var out []ledger.Tick
	mine := 0
	for _, o := range s.waiting {
		if o.entry == e && !o.tick.At.IsZero() {
			mine++
		}
	}
	for _, o := range s.waiting {
		if o.entry != e || o.tick.At.IsZero() {
			continue
		}
		switch {
		case e.Late != schedule.All:
			out = append(out, o.end(ledger.Coalesced, "a later tick runs for it: "+newer.At.Format(time.RFC3339), now))
		case mine > schedule.MaxLate:
			mine--
			out = append(out, o.end(ledger.Skipped, fmt.Sprintf("more than %d ticks of the job wait", schedule.MaxLate), now))
		}
	}
	return out
}

// drop takes orders out of the queue by their ticks.
func (s *Scheduler) drop(ticks []ledger.Tick) {
	for _, t := range ticks {
		for i, o := range s.waiting {
			if o.tick.Job == t.Job && o.tick.At.Equal(t.At) {
				s.waiting = append(s.waiting[:i], s.waiting[i+1:]...)
				break
			}
		}
	}
}

// queue puts an order behind all of its priority that are due no later.
func (s *Scheduler) queue(o *order) {
	i := len(s.waiting)
	for i > 0 {
		before := s.waiting[i-1]
		if before.priority < o.priority || before.priority == o.priority && !before.tick.At.After(o.tick.At) {
			break
		}
		i--
	}
	s.waiting = append(s.waiting, nil)
	copy(s.waiting[i+1:], s.waiting[i:])
	s.waiting[i] = o
}

// follow queues the jobs without a schedule that come after the one that has ended, if all that they come after has published anew.
func (s *Scheduler) follow(ctx context.Context, ended string, now time.Time) error {
	for _, name := range slices.Sorted(maps.Keys(s.jobs)) {
		e := s.jobs[name]
		if e.Schedule != nil || e.run != nil || !s.readyAfter(e, ended) {
			continue
		}
		clocks, err := s.Ledger.Clocks(ctx)
		if err != nil {
			return err
		}
		t := ledger.Tick{Job: e.Job.Name, At: now, Until: now, Count: 1, Outcome: ledger.Waiting, Process: Process(), Decided: now}
		if c := clocks[e.Job.Name]; !c.Paused.IsZero() {
			t.Outcome, t.Reason = ledger.Skipped, "the job is paused by "+c.PausedBy
		}
		fresh, err := s.Ledger.Advance(ctx, s.lock, ledger.Move{Clock: ledger.Clock{Job: e.Job.Name, Upto: now}, Ticks: []ledger.Tick{t}})
		if err != nil {
			return err
		}
		if len(fresh) > 0 && t.Outcome == ledger.Waiting {
			s.queue(&order{entry: e, tick: t})
		} else if len(fresh) > 0 {
			s.told(t)
		}
	}
	return nil
}

// readyAfter reports whether e comes after name, and each job that it comes after has published since e's newest run began.
func (s *Scheduler) readyAfter(e *entry, name string) bool {
	after := false
	for _, before := range e.After {
		b, ok := s.jobs[before]
		if !ok || b.failed || b.published.IsZero() || !b.published.After(e.started) {
			return false
		}
		after = after || before == name
	}
	for _, o := range s.waiting {
		if o.entry == e {
			return false // it waits already
		}
	}
	return after
}

// ErrNoJob says that the clock knows no job of that name.
var ErrNoJob = errors.New("jobs: the configuration has no job of this name")

// ErrUnderWay says that a run of the job is under way, or waits.
var ErrUnderWay = errors.New("jobs: a run of this job is under way or waits already")

// Submit queues a run that a person has asked for, and returns at once; done, which may be nil, is called when it has ended. Its
// Job is that of the configuration, by name. It has no tick: it is not taken up again after a restart.
func (s *Scheduler) Submit(ctx context.Context, req Request, p Priority, done func(Result, error)) error {
	var err error
	cerr := s.call(ctx, func() {
		e, ok := s.jobs[req.Job.Name]
		switch {
		case s.closing:
			err = errDrain
			return
		case !ok:
			err = ErrNoJob
			return
		case e.run != nil:
			err = ErrUnderWay
			return
		}
		for _, o := range s.waiting {
			if o.entry == e {
				err = ErrUnderWay
				return
			}
		}
		s.queue(&order{entry: e, priority: p, request: &req, done: done})
	})
	return errors.Join(cerr, err)
}

// Cancel stops a job's run under way; who is named in its tick. It reports whether there was one.
func (s *Scheduler) Cancel(ctx context.Context, job, who string) (bool, error) {
	found := false
	err := s.call(ctx, func() {
		if e, ok := s.jobs[job]; ok && e.run != nil {
			found = true
			e.run.cancel(&canceledBy{who})
		}
	})
	return found, err
}

// canceledBy is the cause of a run that a person has stopped.
type canceledBy struct{ who string }

// Error implements error.
func (e *canceledBy) Error() string { return "canceled by " + e.who }

// Standing is where a job is.
type Standing struct {
	Job     Job           `json:"-"`
	Next    time.Time     `json:"next,omitzero"` // its next tick, in its zone
	Run     string        `json:"run,omitempty"` // under way
	Since   time.Time     `json:"since,omitzero"`
	Waiting int           `json:"waiting"` // runs
	Why     string        `json:"why,omitempty"`
	After   []string      `json:"after,omitempty"`
	Jitter  time.Duration `json:"-"`
}

// Place is where an instance is.
type Place struct {
	Running int       `json:"running"`
	Runs    int       `json:"runs"` // at once, at most
	Parked  time.Time `json:"parkedUntil,omitzero"`
	Why     string    `json:"why,omitempty"`
	Working bool      `json:"workingHours"`
}

// Standing tells where every job and instance is.
func (s *Scheduler) Standing(ctx context.Context) (jobs map[string]Standing, instances map[string]Place, err error) {
	err = s.call(ctx, func() {
		now := time.Now().Round(0)
		jobs, instances = make(map[string]Standing, len(s.jobs)), make(map[string]Place, len(s.agenda.Budgets))
		for name, e := range s.jobs {
			v := Standing{Job: e.Job, Next: e.next, After: e.After, Jitter: e.Jitter}
			if e.run != nil {
				v.Run, v.Since = e.run.runID, e.run.began
			}
			jobs[name] = v
		}
		for _, o := range s.waiting {
			v := jobs[o.entry.Job.Name]
			v.Waiting++
			v.Why = o.why
			jobs[o.entry.Job.Name] = v
		}
		for name, b := range s.agenda.Budgets {
			p := Place{Running: s.running[name], Runs: b.runs(), Working: b.Hours.Contains(now)}
			if k := s.parked[name]; k.why != "" {
				p.Parked, p.Why = k.until, k.why
			}
			instances[name] = p
		}
	})
	return jobs, instances, err
}
