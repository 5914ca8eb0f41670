package jobs

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/jobs/schedule"
)

// Overlap is what happens to a tick while the run of an earlier one is under way.
type Overlap string

// The ways with overlapping ticks.
const (
	OverlapSkip   Overlap = "skip"   // the tick is skipped
	OverlapQueue  Overlap = "queue"  // it runs afterwards
	OverlapCancel Overlap = "cancel" // the run is canceled, and the tick runs
)

// Priority is what goes first where runs wait for one another.
type Priority int

// The priorities.
const (
	Live     Priority = iota // due now
	Backfill                 // history; it waits for everything that is due
)

// Entry is a job as the clock knows it.
type Entry struct {
	Job      Job
	Schedule *schedule.Schedule // nil: the job runs after others, or when asked to
	Late     schedule.Late
	Within   time.Duration // missed ticks older than this are skipped, and a tick is tried for this long at most (24 h)
	Jitter   time.Duration
	Overlap  Overlap
	After    []string // jobs
}

// Budget is what one instance is given.
type Budget struct {
	Runs  int             // at once (2)
	Hours *schedule.Hours // working hours; nil = none
	Quiet bool            // nothing starts in them; else live runs do
}

// Agenda is what a Scheduler carries out. It is replaced as a whole.
type Agenda struct {
	Entries []Entry
	Budgets map[string]Budget // by instance
	Run     func(ctx context.Context, req Request) (Result, error)
}

// Scheduler starts runs when they are due, and accounts for every tick in the ledger:
//
//	            ┌──────────────── parked: the instance is away, or asks to come back later ────────────────┐
//	            ▼                                                                                          │
//	due ─► waiting ─► running ─► ran | late ◄──────────────────────────────────────────────────────────────┴─ tried for too long
//	  │        └────► coalesced: a later tick of the job came before its turn
//	  └─────────────► skipped: missed, paused, overlapping, a job before it failed, someone else writes the dataset, …
//
// A line is written before a run begins: a crash leaves the tick waiting or running, and the next start finds it and treats it
// as a missed one. The lines are written under a lock with a fence, so that two processes on one state directory do not
// both act.
//
// A clock on the wall that is set back makes no tick run twice (each has its line already), and one that is set forward, or a machine
// that slept, makes missed ticks. At least every Wake the clock is looked at, since a timer does not see either.
//
// All state belongs to the goroutine of Serve; other goroutines hand it functions.
type Scheduler struct {
	Ledger  *ledger.Ledger
	Logger  *slog.Logger  // may be nil
	Observe func(Event)   // called from Serve's goroutine, which waits for it; may be nil
	Drain   time.Duration // how long runs may go on when Serve is told to end (2 min); then they are stopped

	calls   chan func()
	ended   chan ended
	over    chan struct{} // closed when Serve has ended
	lock    ledger.Lock
	log     *slog.Logger
	agenda  Agenda
	jobs    map[string]*entry
	due     dueHeap
	waiting []*order
	running map[string]int     // runs by instance
	parked  map[string]parking // instances
	closing bool
}

const (
	// Wake is how often the clock on the wall is looked at, at least.
	Wake = 30 * time.Second
	// lockFor is how long a silent process keeps its lock; it is renewed three times in this time.
	lockFor   = time.Minute
	clockLock = "the clock of this state directory"
)

// What a run's context can be ended with.
var (
	errDrain    = errors.New("the program is ending; the run is continued at its next start")
	errOverlaps = errors.New("the job's next tick came while it ran (overlap: cancel)")
	errLost     = errors.New("another process has taken over this state directory")
)

// entry is a job's state.
type entry struct {
	Entry
	upto      time.Time // every tick up to here has its line
	next      time.Time // the next tick; zero = none
	wake      time.Time // when it is started: next and its jitter
	at        int       // in the heap; -1 = not in it
	run       *order    // the one under way
	started   time.Time // of the newest run
	published time.Time // end of the newest one that published
	failed    bool      // the newest run did not succeed
}

// order is a run that is to be carried out, or is.
type order struct {
	entry    *entry
	tick     ledger.Tick // At is zero if nobody's tick but a person asked
	priority Priority
	request  *Request // of a person's own making
	done     func(Result, error)
	attempts int
	notYet   time.Time // it is not tried again before this
	why      string    // it waits
	late     bool
	cancel   context.CancelCauseFunc
	runID    string
	instance string // as the run began
	began    time.Time
}

// ended is a run that is over.
type ended struct {
	order  *order
	ctx    context.Context
	result Result
	err    error
}

// parking says until when an instance is left alone.
type parking struct {
	until time.Time
	tries int
	why   string
}

// EventKind says what happened.
type EventKind string

// The kinds of events.
const (
	RunBegan  EventKind = "run began"
	RunEnded  EventKind = "run ended"
	TickEnded EventKind = "tick ended"
	Parked    EventKind = "instance parked"
	Unparked  EventKind = "instance back"
	Reconfig  EventKind = "configuration loaded"
)

// Event is something that others may want to count or to tell someone.
type Event struct {
	Kind     EventKind
	At       time.Time
	Job      Job         // zero for Parked and Unparked
	Instance string      //
	Tick     ledger.Tick // of TickEnded, and of runs that have one
	Result   Result      // of RunEnded
	Err      error       // of RunEnded and Parked
	Class    Class       // of Err
	Retry    bool        // RunEnded: the tick is tried again
}

// dueHeap has the jobs with a schedule, soonest first.
type dueHeap []*entry

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].wake.Before(h[j].wake) }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i]; h[i].at, h[j].at = i, j }
func (h *dueHeap) Push(x any)        { e := x.(*entry); e.at = len(*h); *h = append(*h, e) }
func (h *dueHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	e.at = -1
	return e
}

// NewScheduler returns a scheduler for an agenda. Nothing happens before Serve.
func NewScheduler(l *ledger.Ledger, log *slog.Logger, agenda Agenda) *Scheduler {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Scheduler{Ledger: l, Logger: log, log: log, agenda: agenda, Drain: 2 * time.Minute, calls: make(chan func()), ended: make(chan ended), over: make(chan struct{}),
		jobs: map[string]*entry{}, running: map[string]int{}, parked: map[string]parking{}}
}

// Serve runs the clock until ctx ends; then it starts nothing more, gives the runs under way Drain to end, stops those that do
// not, waits for them, and returns nil. It fails with a *ledger.HeldError if another process runs the clock of this ledger, and
// with ledger.ErrFenced when one has taken over. It can be called once.
func (s *Scheduler) Serve(ctx context.Context) (err error) {
	defer close(s.over)
	steady := context.WithoutCancel(ctx) // told to end while it starts, it ends behind that
	if s.lock, err = s.Ledger.Lock(steady, clockLock, Process(), lockFor, Alive); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Ledger.Unlock(steady, s.lock)) }()
	if _, err := s.Ledger.Interrupt(steady, Alive); err != nil {
		return err
	}
	runs, stop := context.WithCancelCause(steady)
	defer stop(nil)
	if err := s.install(steady, s.agenda); err != nil {
		return err
	}
	if err := s.recover(steady, time.Now().Round(0)); err != nil {
		return err
	}
	err = s.loop(ctx, runs)
	s.closing = true
	if err != nil {
		stop(errLost)
	}
	s.drain(stop)
	return err
}

// loop is the clock. Times lose their monotonic reading, which stands still while a machine sleeps.
func (s *Scheduler) loop(ctx, runs context.Context) error {
	renewed := time.Now().Round(0)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now().Round(0)
		if now.Sub(renewed).Abs() >= lockFor/3 {
			if err := s.Ledger.Renew(runs, s.lock, lockFor); errors.Is(err, ledger.ErrFenced) {
				return err
			} else if err != nil {
				s.log.Error("the clock's lock could not be renewed; trying again", "error", err)
			} else {
				renewed = now
			}
		}
		if err := s.step(runs, now); errors.Is(err, ledger.ErrFenced) {
			return err
		} else if err != nil {
			s.log.Error("the clock could not write its lines; trying again", "error", err)
		}
		timer.Reset(s.pause(time.Now().Round(0)))
		select {
		case <-ctx.Done():
			return nil
		case f := <-s.calls:
			f()
		case e := <-s.ended:
			if err := s.finish(e); errors.Is(err, ledger.ErrFenced) {
				return err
			} else if err != nil { // the next start finds the tick open, and treats it as a missed one
				s.log.Error("the end of a tick could not be recorded", "job", e.order.tick.Job, "error", err)
			}
		case <-timer.C:
		}
	}
}

// pause is how long nothing is to be done.
func (s *Scheduler) pause(now time.Time) time.Duration {
	until := now.Add(min(Wake, lockFor/3))
	soonest := func(t time.Time) {
		if t.After(now) && t.Before(until) {
			until = t
		}
	}
	if len(s.due) > 0 {
		soonest(s.due[0].wake)
	}
	for _, o := range s.waiting {
		soonest(o.notYet)
	}
	for _, p := range s.parked {
		soonest(p.until)
	}
	return max(until.Sub(now), 10*time.Millisecond)
}

// drain waits for the runs under way, and stops those that take too long.
func (s *Scheduler) drain(stop context.CancelCauseFunc) {
	timer := time.NewTimer(s.Drain)
	defer timer.Stop()
	for s.underway() > 0 {
		select {
		case e := <-s.ended:
			if err := s.finish(e); err != nil {
				s.log.Error("the end of a run's tick could not be recorded", "error", err)
			}
		case f := <-s.calls:
			f()
		case <-timer.C:
			s.log.Warn("runs are stopped, because the program ends", "runs", s.underway())
			stop(errDrain)
		}
	}
}

func (s *Scheduler) underway() int {
	n := 0
	for _, r := range s.running {
		n += r
	}
	return n
}

// call has f done by Serve's goroutine, and waits for it.
func (s *Scheduler) call(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case s.calls <- func() { f(); close(done) }:
		<-done
		return nil
	case <-s.over:
		return errors.New("jobs: the clock is not running")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Load replaces the agenda. Runs under way go on as they began; what waits goes on under the new one. Check it before: it is
// taken as it is, or, if the ledger cannot be written, not at all.
func (s *Scheduler) Load(ctx context.Context, agenda Agenda) error {
	var err error
	if cerr := s.call(ctx, func() { err = s.install(context.WithoutCancel(ctx), agenda) }); cerr != nil {
		return cerr
	}
	return err
}

// install puts an agenda into place: every job with a schedule gets its place on the time line.
func (s *Scheduler) install(ctx context.Context, agenda Agenda) error {
	clocks, err := s.Ledger.Clocks(ctx)
	if err != nil {
		return err
	}
	latest, err := s.Ledger.Latest(ctx)
	if err != nil {
		return err
	}
	now := time.Now().Round(0)
	jobs := make(map[string]*entry, len(agenda.Entries))
	var moves []ledger.Move
	for _, e := range agenda.Entries {
		n := &entry{Entry: e, at: -1}
		if n.Within <= 0 {
			n.Within = 24 * time.Hour
		}
		if l, ok := latest[e.Job.Name]; ok {
			n.started, n.published, n.failed = l.Started, l.PublishedEnded, l.State != ledger.Succeeded && l.State != ledger.Running
		}
		if old, ok := s.jobs[e.Job.Name]; ok {
			n.run = old.run
		}
		if e.Schedule != nil {
			if m, moved := n.place(clocks[e.Job.Name], now); moved {
				moves = append(moves, m)
			}
		}
		jobs[e.Job.Name] = n
	}
	// Here the new agenda is known to be good: the ledger takes it, or nothing has changed.
	if _, err := s.Ledger.Advance(ctx, s.lock, moves...); err != nil {
		return err
	}
	s.agenda, s.jobs, s.due = agenda, jobs, nil
	for _, e := range jobs {
		if e.Schedule != nil {
			s.settle(e)
		}
		if e.run != nil {
			e.run.entry = e
		}
	}
	s.observe(Event{Kind: Reconfig, At: now})
	if err := s.adopt(ctx, now); err != nil {
		s.log.Error("ticks of jobs that are gone could not be settled; the next start does it", "error", err)
	}
	return nil
}

// place finds where a job stands on the time line. A job that is new, or has a new schedule, begins now.
func (e *entry) place(c ledger.Clock, now time.Time) (ledger.Move, bool) {
	name, spec := e.Job.Name, e.spec()
	e.upto = c.Upto
	move := ledger.Move{Clock: ledger.Clock{Job: name, Upto: now, Spec: spec}}
	switch {
	case c.Upto.IsZero():
	case c.Spec != spec:
		move.Ticks = changed(name, c, now)
	case c.Upto.Sub(now) > e.Within:
		// The clock on the wall was far ahead, and is right again: without this the job would wait for that day.
	default:
		return move, false
	}
	e.upto = now
	return move, true
}

// changed are the ticks that a schedule had before it was changed.
func changed(job string, c ledger.Clock, now time.Time) []ledger.Tick {
	zone, cron, _ := strings.Cut(c.Spec, " ")
	old, err := schedule.Parse(cron, zone)
	if err != nil {
		return nil // an older version took what this one does not
	}
	var out []ledger.Tick
	for _, d := range old.Catch(c.Upto, now, schedule.Skip, now.Sub(c.Upto)) {
		out = append(out, ledger.Tick{Job: job, At: d.At, Until: d.Until, Count: d.Count, Outcome: ledger.Skipped, Reason: "the schedule was changed before it ran", Process: Process(), Decided: now})
	}
	return out
}

// spec is a schedule as the ledger knows it.
func (e *entry) spec() string { return e.Schedule.Zone().String() + " " + e.Schedule.String() }

// settle gives a job its place in the heap.
func (s *Scheduler) settle(e *entry) {
	if e.at >= 0 {
		heap.Remove(&s.due, e.at)
	}
	if e.next = e.Schedule.Next(e.upto); e.next.IsZero() {
		return
	}
	e.wake = e.next.Add(schedule.Jitter(e.Job.Name, e.next, e.Jitter))
	heap.Push(&s.due, e)
}

// adopt gives what waits its entry of the new agenda, and skips what has none any more.
func (s *Scheduler) adopt(ctx context.Context, now time.Time) error {
	var gone []ledger.Tick
	s.waiting = slices.DeleteFunc(s.waiting, func(o *order) bool {
		e, ok := s.jobs[o.entry.Job.Name]
		if ok {
			o.entry = e
			return false
		}
		gone = append(gone, o.end(ledger.Skipped, "the job is not in the configuration any more", now))
		o.tell(Result{Job: o.entry.Job.Name, Version: -1}, errors.New("jobs: the job is not in the configuration any more"))
		return true
	})
	return s.settled(ctx, gone...)
}

// recover finds the ticks that a process before this one has left, and treats them as missed ones.
func (s *Scheduler) recover(ctx context.Context, now time.Time) error {
	open, err := s.Ledger.Ticks(ctx, ledger.TickQuery{Open: true}) // newest first, job by job
	if err != nil {
		return err
	}
	slices.Reverse(open)
	var over []ledger.Tick
	for i, t := range open {
		e, known := s.jobs[t.Job]
		o := &order{entry: e, tick: t, late: true}
		newest := i == len(open)-1 || open[i+1].Job != t.Job
		switch {
		case !known:
			over = append(over, o.end(ledger.Skipped, "the job is not in the configuration any more", now))
		case e.Late == schedule.Skip:
			over = append(over, o.end(ledger.Skipped, "the program ended before its run did; late: skip", now))
		case now.Sub(t.At) > e.Within:
			over = append(over, o.end(ledger.Skipped, fmt.Sprintf("the program ended before its run did; missed by more than %s", e.Within), now))
		case e.Late != schedule.All && !newest:
			over = append(over, o.end(ledger.Coalesced, "a later tick runs for it: "+open[i+1].At.Format(time.RFC3339), now))
		default:
			o.tick.Outcome, o.tick.Reason = ledger.Waiting, "the program ended before its run did"
			s.waiting = append(s.waiting, o)
		}
	}
	return s.settled(ctx, over...)
}

// end is an order's tick at its end.
func (o *order) end(outcome ledger.Outcome, reason string, now time.Time) ledger.Tick {
	t := o.tick
	t.Outcome, t.Reason, t.Process, t.Decided = outcome, reason, Process(), now
	return t
}

// tell says to whoever has asked for the run how it ended.
func (o *order) tell(r Result, err error) {
	if o.done != nil {
		o.done(r, err)
	}
}

// settled records ticks' ends and tells of them.
func (s *Scheduler) settled(ctx context.Context, ticks ...ledger.Tick) error {
	ticks = slices.DeleteFunc(ticks, func(t ledger.Tick) bool { return t.At.IsZero() }) // nobody's tick
	if len(ticks) == 0 {
		return nil
	}
	if err := s.Ledger.Settle(ctx, s.lock, ticks...); err != nil {
		return err
	}
	for _, t := range ticks {
		s.told(t)
	}
	return nil
}

// told tells of a tick, if it has ended.
func (s *Scheduler) told(t ledger.Tick) {
	if !t.Outcome.Over() {
		return
	}
	var job Job
	if e, ok := s.jobs[t.Job]; ok {
		job = e.Job
	}
	if t.Outcome == ledger.Skipped {
		s.log.Warn("tick skipped", "job", t.Job, "tick", t.At, "ticks", t.Count, "reason", t.Reason)
	}
	s.observe(Event{Kind: TickEnded, At: t.Decided, Job: job, Instance: job.Instance, Tick: t})
}

func (s *Scheduler) observe(e Event) {
	if s.Observe != nil {
		s.Observe(e)
	}
}
