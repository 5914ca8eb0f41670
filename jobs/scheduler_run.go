package jobs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tablexport/tablexport/export/lease"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/jobs/schedule"
	"github.com/tablexport/tablexport/odata"
)

const (
	parkLeast = 30 * time.Second // a run that could not be carried out now waits at least this long
	parkMost  = 10 * time.Minute
	// fastTries is how often a run is tried again that failed for a reason that may pass by itself, other than an instance that is away.
	fastTries = 3
)

func (b Budget) runs() int {
	if b.Runs <= 0 {
		return 2
	}
	return b.Runs
}

// dispatch starts what waits and may start, in the order of the queue. Live runs come before backfills.
func (s *Scheduler) dispatch(runs context.Context, now time.Time) error {
	var over []ledger.Tick
	kept := s.waiting[:0:0]
	for i, o := range s.waiting {
		ready, why, skip := s.mayStart(o, now)
		switch {
		case skip != "":
			over = append(over, o.end(ledger.Skipped, skip, now))
			o.tell(Result{Job: o.entry.Job.Name, Version: -1}, errors.New("jobs: not run: "+skip))
			continue
		case !ready:
			o.why = why
			kept = append(kept, o)
			continue
		}
		if err := s.start(runs, o, now); err != nil {
			s.waiting = append(kept, s.waiting[i:]...)
			return errors.Join(err, s.settled(runs, over...))
		}
	}
	s.waiting = kept
	return s.settled(runs, over...)
}

// mayStart says whether an order's run may begin, or why it waits or is not run at all.
func (s *Scheduler) mayStart(o *order, now time.Time) (ready bool, why, skip string) {
	e := o.entry
	budget := s.agenda.Budgets[e.Job.Instance]
	scheduled := !o.tick.At.IsZero()
	if scheduled && o.attempts > 0 && now.Sub(o.tick.At) > e.Within {
		return false, "", fmt.Sprintf("given up after %d tries: %s", o.attempts, o.why)
	}
	if scheduled && e.Schedule != nil {
		if why, skip := s.before(e, o.tick.At); why != "" || skip != "" {
			return false, why, skip
		}
	}
	switch p := s.parked[e.Job.Instance]; {
	case e.run != nil:
		return false, "the job's run is still under way", ""
	case o.notYet.After(now):
		return false, o.why, ""
	case p.until.After(now):
		return false, "instance " + e.Job.Instance + " is left alone until " + p.until.Format(time.RFC3339) + ": " + p.why, ""
	case (scheduled || o.priority == Backfill) && (budget.Quiet || o.priority == Backfill) && budget.Hours.Contains(now):
		o.notYet = budget.Hours.End(now)
		return false, "it waits for the end of the working hours at " + o.notYet.Format(time.RFC3339), ""
	case s.running[e.Job.Instance] >= budget.runs():
		return false, "the runs of instance " + e.Job.Instance + " take its whole budget", ""
	}
	return true, "", ""
}

// before says whether a tick waits for the jobs that its job comes after, or is skipped because of them.
func (s *Scheduler) before(e *entry, tick time.Time) (why, skip string) {
	for _, name := range e.After {
		b, ok := s.jobs[name]
		if !ok {
			continue
		}
		waits := b.run != nil || b.Schedule != nil && !b.next.IsZero() && !b.next.After(tick)
		for _, o := range s.waiting {
			waits = waits || o.entry == b
		}
		switch {
		case waits:
			return "it comes after " + name + ", which has not ended", ""
		case b.failed:
			return "", "it comes after " + name + ", whose last run did not succeed"
		}
	}
	return "", ""
}

// start begins a run. Its tick's line comes first: a crash right behind it leaves a tick that the next start takes for a missed one.
func (s *Scheduler) start(runs context.Context, o *order, now time.Time) error {
	e := o.entry
	if !o.tick.At.IsZero() {
		t := o.tick
		t.Outcome, t.Reason, t.Process, t.Decided = ledger.Ticking, "", Process(), now
		if err := s.Ledger.Settle(runs, s.lock, t); err != nil {
			return err
		}
		o.tick = t
		o.late = o.late || o.attempts == 0 && now.Sub(o.tick.At)-e.Jitter > schedule.Grace
	}
	ctx, cancel := context.WithCancelCause(runs)
	o.cancel, o.began, o.why, o.runID, o.instance = cancel, now, "", "", e.Job.Instance
	o.attempts++
	e.run, e.started = o, now
	s.running[e.Job.Instance]++
	req := Request{Job: e.Job}
	if o.request != nil {
		req = *o.request
		req.Job = e.Job
	}
	req.Nominal = o.tick.At
	shown, first := req.Progress, sync.Once{}
	req.Progress = func(p Progress) {
		first.Do(func() { s.named(ctx, o, p.RunID) })
		if shown != nil {
			shown(p)
		}
	}
	s.observe(Event{Kind: RunBegan, At: now, Job: e.Job, Instance: e.Job.Instance, Tick: o.tick})
	run := s.agenda.Run
	go func() {
		result, err := carry(ctx, run, req)
		s.ended <- ended{o, ctx, result, err}
	}()
	return nil
}

// carry is a run whose panic is an error.
func carry(ctx context.Context, run func(context.Context, Request) (Result, error), req Request) (result Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			result, err = Result{Job: req.Job.Name, Version: -1}, &PanicError{Where: panicSite()}
		}
	}()
	return run(ctx, req)
}

// named gives a tick its run's name while it is under way, so that a crash leaves the two together. It is called in the run's
// goroutine; if the clock is busy or ending, the name comes with the run's end.
func (s *Scheduler) named(ctx context.Context, o *order, id string) {
	name := func() {
		o.runID = id
		if o.tick.At.IsZero() {
			return
		}
		o.tick.Run = id
		if err := s.Ledger.Settle(ctx, s.lock, o.tick); err != nil {
			s.log.Warn("a tick's run could not be recorded", "job", o.tick.Job, "run", id, "error", err)
		}
	}
	select {
	case s.calls <- name:
	case <-ctx.Done():
	}
}

// finish is the end of a run: its tick ends, or waits for another try, and the jobs after it may begin.
func (s *Scheduler) finish(e ended) error {
	now := time.Now().Round(0)
	o, job := e.order, e.order.entry
	cause := context.Cause(e.ctx)
	o.cancel(nil)
	if s.running[o.instance]--; s.running[o.instance] <= 0 {
		delete(s.running, o.instance)
	}
	job.run = nil
	ctx := context.WithoutCancel(e.ctx)
	var published *PublishedError
	ok := e.err == nil || errors.As(e.err, &published)
	class := Class("")
	if e.err != nil {
		class = Classify(e.err)
	}
	if o.tick.Run = e.result.RunID; o.tick.Run == "" {
		o.tick.Run = o.runID
	}
	job.failed = !ok
	if ok {
		job.published = now
		delete(s.parked, o.instance)
	}
	again := false
	switch {
	case ok:
	case errors.Is(cause, errDrain), errors.Is(cause, errLost):
		o.why, again = errDrain.Error(), true
	case cause == nil:
		again = s.again(o, e.err, class, now)
	}
	again = again && s.jobs[job.Job.Name] == job // a job that is gone is not tried again
	s.observe(Event{Kind: RunEnded, At: now, Job: job.Job, Instance: job.Job.Instance, Tick: o.tick, Result: e.result, Err: e.err, Class: class, Retry: again})
	if again {
		o.tick.Outcome, o.tick.Reason, o.tick.Decided = ledger.Waiting, o.why, now
		s.queue(o)
		return s.settled(ctx, o.tick)
	}
	o.tell(e.result, e.err)
	outcome, reason := o.outcome(e.err, cause)
	if err := s.settled(ctx, o.end(outcome, reason, now)); err != nil {
		return err
	}
	if ok && !s.closing {
		return s.follow(ctx, job.Job.Name, now)
	}
	return nil
}

// outcome is how an order's tick ends when it is not tried again.
func (o *order) outcome(err error, cause error) (ledger.Outcome, string) {
	outcome, reason := ledger.Ran, ""
	if o.late {
		outcome = ledger.Late
	}
	var by *canceledBy
	var held *lease.HeldError
	switch {
	case errors.As(err, &held):
		return ledger.Skipped, held.Error()
	case errors.Is(cause, errOverlaps), errors.As(cause, &by):
		reason = cause.Error()
	case o.attempts > 1:
		reason = fmt.Sprintf("tried %d times", o.attempts)
	}
	return outcome, reason
}

// again says whether a failed run is tried again, and when. An instance that is away is left alone by all its jobs; they
// continue from their last commit when it is back.
func (s *Scheduler) again(o *order, err error, class Class, now time.Time) bool {
	if class != Later && class != Transient || s.closing {
		return false
	}
	scheduled := !o.tick.At.IsZero()
	if !scheduled {
		return false // whoever has asked sees the error, and asks again
	}
	var away *odata.UnavailableError
	if errors.As(err, &away) {
		p := s.parked[o.instance]
		wait := max(backoff(p.tries), away.RetryAfter)
		if now.Add(wait).Sub(o.tick.At) > o.entry.Within {
			return false
		}
		p.tries++
		p.until, p.why = now.Add(wait), "it does not answer, or not now"
		s.parked[o.instance] = p
		o.why = "parked until " + p.until.Format(time.RFC3339) + ": instance " + o.instance + " does not answer, or not now"
		s.log.Warn("instance is left alone", "instance", o.instance, "until", p.until)
		s.observe(Event{Kind: Parked, At: now, Instance: o.instance, Err: err, Class: class})
		return true
	}
	if class == Transient && o.attempts > fastTries {
		return false
	}
	wait := backoff(o.attempts - 1)
	if now.Add(wait).Sub(o.tick.At) > o.entry.Within {
		return false
	}
	o.notYet = now.Add(wait)
	o.why = "tried again at " + o.notYet.Format(time.RFC3339) + " (" + string(class) + ")"
	return true
}

// backoff is how long to wait after so many tries.
func backoff(tries int) time.Duration {
	wait := parkLeast
	for range tries {
		if wait *= 2; wait >= parkMost {
			return parkMost
		}
	}
	return wait
}
