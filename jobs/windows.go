package jobs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"golang.org/x/sync/errgroup"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/parquet"
	"github.com/tablexport/tablexport/jobs/window"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/evidence"
)

// WindowResult is what a run did with one window.
type WindowResult struct {
	Window   string        `json:"window"`
	Reason   window.Reason `json:"reason"` // why it was read
	Rows     int64         `json:"rows"`
	Requests int64         `json:"requests"`
	Attempts int           `json:"attempts"` // scans of it
	Seconds  float64       `json:"seconds"`
	Error    string        `json:"error,omitempty"` // why it was not published
}

// WindowError is a window that could not be read or published.
type WindowError struct {
	Window string
	Err    error
}

// Error implements error.
func (e *WindowError) Error() string { return "window " + e.Window + ": " + e.Err.Error() }

// Unwrap gives the cause.
func (e *WindowError) Unwrap() error { return e.Err }

// WindowsError says which windows of a run that publishes them one by one are missing. The others are published; running the job again
// reads those that are missing.
type WindowsError struct {
	Failed    []error  // *WindowError each
	NotBegun  []string // windows that were left when the run stopped
	Stopped   error    // why, if it was not one of the failures
	Published int      // windows
}

// shownFailures bounds a message: what fails one window mostly fails all.
const shownFailures = 5

// Error implements error.
func (e *WindowsError) Error() string {
	var lines []string
	for i, err := range e.Failed {
		if i == shownFailures {
			lines = append(lines, fmt.Sprintf("and %d more", len(e.Failed)-i))
			break
		}
		lines = append(lines, err.Error())
	}
	if n := len(e.NotBegun); n > 0 {
		lines = append(lines, fmt.Sprintf("%d were not begun", n))
	}
	return fmt.Sprintf("%d of %d windows were not published; run the job again for them: %s", len(e.Failed)+len(e.NotBegun),
		len(e.Failed)+len(e.NotBegun)+e.Published, strings.Join(lines, "; "))
}

// Unwrap gives the causes.
func (e *WindowsError) Unwrap() []error {
	if e.Stopped == nil {
		return e.Failed
	}
	return append(slices.Clone(e.Failed), e.Stopped)
}

// windows reads the windows that are due. All of them become one version, or each its own. A crash leaves the windows that were not
// published as they were: what is known of them stands in the dataset, and the next run decides anew.
func (x *run) windows(ctx context.Context, session *odata.Session) error {
	have, err := x.dataset.Windows(ctx)
	if err != nil {
		return err
	}
	decision, err := x.decide(have)
	if err != nil {
		return err
	}
	if len(decision.Read)+len(decision.Expire) == 0 {
		x.log.Info("no window is due")
		return nil
	}
	if err := x.ceiling(ctx, session, decision); err != nil {
		return err
	}
	if x.separate(decision) {
		return x.oneByOne(ctx, session, decision)
	}
	return x.attempts(ctx, "the windows", orOvertaken, func(int) error { return x.together(ctx, session) })
}

// decide says which windows are to be read and which expire.
func (x *run) decide(have []export.Window) (window.Decision, error) {
	now := x.Cut
	if now.IsZero() {
		now = x.started
	}
	d := x.plan.Due(now, have)
	if x.Only != nil {
		d = window.Decision{Read: slices.Clone(x.Only)}
	}
	var err error
	d.Read = slices.DeleteFunc(d.Read, func(item window.Item) bool {
		_, ok, qerr := x.plan.WindowQuery(item)
		err = errors.Join(err, qerr)
		return !ok // a day that the zone leaves out, of a date-time column
	})
	return d, err
}

// separate says whether each window becomes a version of its own. Not where windows were read under another query: until the last one
// was read anew, the dataset would hold rows of two scopes under the stamp of one.
func (x *run) separate(d window.Decision) bool {
	mixed := slices.ContainsFunc(d.Read, func(item window.Item) bool { return item.Reason == window.Query })
	return (x.Separate || x.Job.Refresh.PerWindow) && !mixed
}

// How many windows are read side by side without being told, and how many bytes of rows all of them together may be ahead of their files: a window
// needs a page and a row group for itself, and more windows than the server answers at once only wait.
const (
	windowsAtOnce = 4
	windowsAhead  = 32 << 20
)

// parallel is how many windows are read side by side: as many as the instance allows requests in flight, within limits.
func (x *run) parallel() int {
	most := x.Instances[x.Job.Instance].Client.Concurrency()
	switch {
	case x.LowMemory:
		return 1
	case x.Parallel > 0:
		return min(x.Parallel, most)
	}
	return min(windowsAtOnce, most)
}

// windowSpec is spec for windows that are written side by side: they share the memory of one row group.
func (x *run) windowSpec(unit string, atOnce int) export.Spec {
	s := x.spec(unit)
	if atOnce > 1 {
		s.Parquet.RowGroupRows, s.Parquet.RowGroupBytes = parquet.DefaultRowGroupRows/int64(atOnce), parquet.DefaultRowGroupBytes/int64(atOnce)
	}
	return s
}

// together reads all windows that are due and publishes them as one version.
func (x *run) together(ctx context.Context, session *odata.Session) error {
	atOnce := x.parallel()
	refresh, err := x.dataset.Begin(ctx, x.windowSpec("", atOnce))
	if err != nil {
		return err
	}
	defer x.abort(ctx, refresh)
	// Decided anew, on the version that this commit builds upon.
	decision, err := x.decide(refresh.Windows())
	if err != nil {
		return err
	}
	for _, item := range decision.Expire {
		refresh.Expire(partition(item.Value))
	}
	g := &gathering{run: x, session: session, refresh: refresh, loads: make([]*load, len(decision.Read))}
	if len(x.plan.Table.Key) > 0 && len(decision.Read) > 1 {
		g.keys = odata.NewKeySet()
		defer g.keys.Close()
	}
	x.expect(len(decision.Read))
	var group *errgroup.Group
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, item := range decision.Read {
		group.Go(func() (err error) {
			g.loads[i], err = g.load(within, item)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := g.agree(ctx); err != nil {
		return err
	}
	x.report(g.loads...)
	return x.publish(ctx, refresh, g.evidence())
}

// partition is the value of the partition column as package export takes it.
func partition(value string) string {
	if value == window.Null {
		return ""
	}
	return value
}

// expect says how many windows the run is about to read.
func (x *run) expect(n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.todo, x.done = n, 0
}

// report puts windows into the result, in place of what an earlier attempt has put there.
func (x *run) report(loads ...*load) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, l := range loads {
		x.result.Windows = slices.DeleteFunc(x.result.Windows, func(r WindowResult) bool { return r.Window == l.item.Value })
		x.result.Windows = append(x.result.Windows, l.result())
		x.proofs = append(x.proofs, l.proof...)
	}
	x.result.Evidence = evidence.Sum(x.proofs)
}

// gathering is the windows of one commit on their way into it.
type gathering struct {
	*run
	session *odata.Session
	refresh *export.Refresh
	keys    *odata.KeySet // of the rows of all windows; nil where there is but one window, or no key
	loads   []*load
}

// load is one window that was read.
type load struct {
	item    window.Item
	query   odata.Query
	slice   *export.Slice
	scans   []*odata.Scan
	proof   []evidence.Evidence
	tries   int
	halved  int       // how often the limits of a scan were halved, because one broke
	began   time.Time // the try under way
	seconds float64
}

// came is how many rows came, those that belong to the next window included: what the server counts.
func (l *load) came() (n int64) {
	for _, ev := range l.proof {
		n += ev.Came()
	}
	return n
}

func (l *load) result() WindowResult {
	sum := evidence.Sum(l.proof)
	return WindowResult{Window: l.item.Value, Reason: l.item.Reason, Rows: sum.Rows, Requests: sum.Requests, Attempts: l.tries, Seconds: l.seconds}
}

// load reads one window into a slice, until its scan is proven complete.
func (g *gathering) load(ctx context.Context, item window.Item) (*load, error) {
	l := &load{item: item}
	began := time.Now()
	if g.Before != nil {
		if err := g.Before(ctx, g.id); ctx.Err() != nil {
			return l, errNotBegun
		} else if err != nil {
			return l, &WindowError{Window: item.Value, Err: err}
		}
	}
	// A scan that ran long and then broke is tried again in pieces, half as large each time.
	smaller := func(err error) bool {
		slow := g.Job.Refresh.Split.slow(err, time.Since(l.began))
		if slow {
			l.halved++
		}
		return slow || again(err)
	}
	err := g.attempts(ctx, "window "+item.Value, smaller, func(attempt int) error {
		l.tries++
		l.began = time.Now()
		return g.fill(ctx, l, attempt)
	})
	l.seconds = time.Since(began).Seconds()
	if err != nil {
		return l, &WindowError{Window: item.Value, Err: err}
	}
	g.mu.Lock()
	g.done++
	g.mu.Unlock()
	return l, nil
}

// fill is one attempt at a window. What it has staged is dropped again unless all went well.
func (g *gathering) fill(ctx context.Context, l *load, attempt int) (err error) {
	q, ok, err := g.plan.WindowQuery(l.item)
	if err != nil || !ok {
		return errors.Join(err, errNothingToAsk(ok))
	}
	slice, err := g.refresh.Slice(export.SliceSpec{Value: partition(l.item.Value), Loaded: time.Now()})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			g.drop(ctx, l)
		}
	}()
	l.query, l.slice, l.scans, l.proof = q, slice, nil, nil
	if err := g.read(ctx, l, attempt); err != nil {
		return err
	}
	return slice.Done(ctx, l.proof...)
}

// read scans a window: in one query, or in pieces if it is too large for one.
func (g *gathering) read(ctx context.Context, l *load, attempt int) error {
	queries, err := g.queries(ctx, l.item, l.query, l.halved+1)
	if err != nil {
		return err
	}
	keys, before, counted := g.keys, int64(0), false
	if len(queries) > 1 {
		g.log.Info("window is read in pieces", "window", l.item.Value, "pieces", len(queries))
		if before, counted, err = g.session.Count(ctx, l.query); err != nil {
			return err
		}
		if keys == nil && len(g.plan.Table.Key) > 0 {
			keys = odata.NewKeySet()
			defer keys.Close()
		}
	}
	for _, q := range queries {
		if err := g.piece(ctx, l, q, attempt, keys); err != nil {
			return err
		}
	}
	if len(queries) == 1 {
		return nil
	}
	if g.keys != nil {
		keys = nil // they are looked at when all windows have been read
	}
	return g.joined(ctx, l, before, counted, keys)
}

// piece scans one query of a window.
func (g *gathering) piece(ctx context.Context, l *load, q odata.Query, attempt int, keys *odata.KeySet) error {
	sum := evidence.Sum(l.proof)
	q.Attempt, q.Keys = attempt, keys
	if n := g.parallel(); n > 2 {
		q.Ahead = windowsAhead / int64(n)
	}
	q.Progress = func(p odata.Progress) {
		p.Rows, p.Pages, p.Requests, p.Bytes = p.Rows+sum.Rows, p.Pages+sum.Pages, p.Requests+sum.Requests, p.Bytes+sum.Bytes
		if p.Expected >= 0 {
			p.Expected += sum.Rows
		}
		g.progress(Progress{Phase: Scanning, Attempt: attempt, Scan: p, Window: l.item.Value})
	}
	scan, err := g.scan(ctx, g.session, q, l.slice, g.inside(l.item))
	if scan != nil {
		l.scans, l.proof = append(l.scans, scan), append(l.proof, scan.Evidence())
	}
	var refused *odata.StatusError
	if errors.As(err, &refused) && refused.Status == http.StatusBadRequest && g.plan.Windowed.needsFraction() && l.item.Value != window.Null {
		return &BoundsError{Column: g.plan.Windowed.By.Column.Name, Err: err}
	}
	return err
}

// needsFraction says whether windows end in a fraction of a second: see [Windowed.Filter].
func (w *Windowed) needsFraction() bool {
	return w.Checked == "" && w.By.Column.Type.Kind == edm.DateTime
}

// BoundsError says that the server does not take the bounds of windows by a date-time column of an owner.
type BoundsError struct {
	Column string
	Err    error
}

// Error implements error.
func (e *BoundsError) Error() string {
	return fmt.Sprintf("windows by %s end in a fraction of a second, which this server seems not to take in a filter; without it they would lose rows: go by a column that holds dates, or by one of the table itself: %v", e.Column, e.Err)
}

// Unwrap gives the cause.
func (e *BoundsError) Unwrap() error { return e.Err }

// errNothingToAsk is for a window that decide has let through all the same.
func errNothingToAsk(ok bool) error {
	if ok {
		return nil
	}
	return errors.New("the window holds nothing that could be asked for")
}

// drop takes back what a window has staged, and its keys.
func (g *gathering) drop(ctx context.Context, l *load) {
	for _, scan := range l.scans {
		scan.Withdraw()
	}
	if err := l.slice.Discard(ctx); err != nil {
		g.log.Warn("staged files were left behind", "window", l.item.Value, "error", err)
	}
}

// inside holds rows against their window, where they carry the column that windows go by.
func (g *gathering) inside(item window.Item) func(rec arrow.Record, before int64) error {
	w := g.plan.Windowed
	return func(rec arrow.Record, before int64) error {
		if row := w.firstOutside(rec, item); row >= 0 {
			return &OutsideWindow{Window: item.Value, Column: w.Checked, Row: before + int64(row)}
		}
		return nil
	}
}

func (g *gathering) evidence() evidence.Evidence {
	var all []evidence.Evidence
	for _, l := range g.loads {
		all = append(all, l.proof...)
	}
	return evidence.Sum(all)
}

// MovedError says that rows moved between windows while these were read, and would be published twice.
type MovedError struct{ Rows int64 }

// Error implements error.
func (e *MovedError) Error() string {
	return fmt.Sprintf("%d rows came in two windows: their dates were changed while the windows were read", e.Rows)
}

// GapError says that the server has rows between the windows.
type GapError struct {
	Column string
	Rows   int64
}

// Error implements error.
func (e *GapError) Error() string {
	return fmt.Sprintf("the server counts %d rows more over a range of windows than in the windows themselves: column %s holds instants between one window's last and the next one's first, so windows by it would lose rows",
		e.Rows, e.Column)
}

// agree sees that the windows, which were read one after the other, fit together. A document whose date is changed meanwhile can
// be missed by both of its windows, or be met in both. So where the server counts, each window is counted once more behind the last scan, and one
// that has changed is read again; twice at most, because a busy one changes all the time, and its own scan was proven
// complete all the same. Keys that came twice are refused in any case.
func (g *gathering) agree(ctx context.Context) error {
	if len(g.loads) < 2 {
		return nil
	}
	counted := true
	for round := 0; counted && round < 2; round++ {
		changed, ok, err := g.changed(ctx)
		if err != nil {
			return err
		}
		for _, i := range changed {
			g.log.Info("window has changed while others were read, reading it again", "window", g.loads[i].item.Value)
			g.drop(ctx, g.loads[i])
			if g.loads[i], err = g.load(ctx, g.loads[i].item); err != nil {
				return err
			}
		}
		counted = ok && len(changed) > 0
		if ok && len(changed) == 0 {
			if err := g.gaps(ctx); err != nil {
				return err
			}
		}
	}
	if g.keys == nil {
		return nil
	}
	repeated, err := g.keys.Repeated()
	if err != nil {
		return err
	}
	if repeated > 0 {
		return &MovedError{Rows: repeated}
	}
	return nil
}

// changed are the windows that have another number of rows now than were read; ok is false where the server does not count.
func (g *gathering) changed(ctx context.Context) (at []int, ok bool, err error) {
	for i, l := range g.loads {
		n, ok, err := g.session.Count(ctx, l.query)
		if err != nil || !ok {
			return nil, false, err
		}
		if n != l.came() {
			at = append(at, i)
		}
	}
	return at, true, nil
}

// gaps counts each stretch of windows without a gap between them as a whole. If the windows have not changed meanwhile, the
// numbers must be equal. It is asked where a window's last instant is ….997 by what is known of the column's type alone.
func (g *gathering) gaps(ctx context.Context) error {
	if g.plan.Windowed.By.Column.Type.Kind != edm.DateTime || g.plan.Windowed.Checked != "" {
		return nil
	}
	for _, stretch := range g.stretches() {
		newest, oldest := stretch[0], stretch[len(stretch)-1]
		span := oldest.item.Span
		span.Next, span.End = newest.item.Next, newest.item.End
		q, ok, err := g.plan.SpanQuery(span)
		if err != nil || !ok {
			return err
		}
		n, ok, err := g.session.Count(ctx, q)
		if err != nil || !ok {
			return err
		}
		sum := int64(0)
		for _, l := range stretch {
			sum += l.came()
		}
		if n <= sum {
			continue
		}
		if changed, ok, err := g.changed(ctx); err != nil || !ok || len(changed) > 0 {
			return err // rows have come in meanwhile
		}
		return &GapError{Column: g.plan.Windowed.By.Column.Name, Rows: n - sum}
	}
	return nil
}

// stretches are the windows that follow one another, newest first, two at least.
func (g *gathering) stretches() (all [][]*load) {
	var at []*load
	for _, l := range g.loads {
		if l.item.Value == window.Null {
			continue
		}
		if len(at) > 0 && !at[len(at)-1].item.Start.Equal(l.item.End) {
			all = append(all, at)
			at = nil
		}
		at = append(at, l)
	}
	return slices.DeleteFunc(append(all, at), func(s []*load) bool { return len(s) < 2 })
}

// oneByOne publishes each window as soon as it is done. One that fails does not stop the others, unless it fails in a way that they would too:
// a token that is refused, a row outside the scope, a job that does not fit.
func (x *run) oneByOne(ctx context.Context, session *odata.Session, decision window.Decision) error {
	atOnce := x.parallel()
	x.expect(len(decision.Read))
	errs := make([]error, len(decision.Read))
	within, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, item := range decision.Read {
		group.Go(func() error {
			errs[i] = errNotBegun
			if within.Err() == nil {
				errs[i] = x.guarded(func() error { return x.one(ctx, session, item, atOnce) })
			}
			switch Classify(errs[i]) {
			case Credential, Scope, Config, Bug:
				stop(errs[i])
			}
			return nil
		})
	}
	_ = group.Wait() // the functions return no error: one window must not stop another
	missing := &WindowsError{}
	for i, err := range errs {
		switch {
		case err == nil:
			missing.Published++
		case errors.Is(err, errNotBegun):
			missing.NotBegun = append(missing.NotBegun, decision.Read[i].Value)
		default:
			missing.Failed = append(missing.Failed, err)
		}
	}
	switch {
	case len(missing.Failed)+len(missing.NotBegun) > 0:
		missing.Stopped = context.Cause(ctx)
		return missing
	case len(decision.Expire) > 0:
		return x.expire(ctx, decision.Expire)
	}
	return nil
}

// errNotBegun is for windows that were left when a run stopped.
var errNotBegun = errors.New("not begun")

// one reads and publishes one window. When another writer has published it meanwhile, it is read again: what was read
// before that is older.
func (x *run) one(ctx context.Context, session *odata.Session, item window.Item, atOnce int) error {
	var l *load
	err := x.attempts(ctx, "window "+item.Value, overtaken, func(int) error {
		refresh, err := x.dataset.Begin(ctx, x.windowSpec(item.Value, atOnce))
		if err != nil {
			return err
		}
		defer x.abort(ctx, refresh)
		g := &gathering{run: x, session: session, refresh: refresh}
		if l, err = g.load(ctx, item); err != nil {
			return err
		}
		return x.publish(ctx, refresh, evidence.Sum(l.proof))
	})
	if l == nil {
		l = &load{item: item}
	}
	if err == nil {
		x.report(l)
		return nil
	}
	if errors.Is(err, errNotBegun) {
		return err
	}
	failed := &WindowError{Window: item.Value, Err: err}
	if !errors.As(err, &failed) {
		failed = &WindowError{Window: item.Value, Err: err}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	r := l.result()
	r.Error = failed.Err.Error()
	x.result.Windows = append(x.result.Windows, r)
	return failed
}

// expire removes windows in a commit of their own.
func (x *run) expire(ctx context.Context, items []window.Item) error {
	refresh, err := x.dataset.Begin(ctx, x.spec("expire"))
	if err != nil {
		return err
	}
	defer x.abort(ctx, refresh)
	for _, item := range items {
		refresh.Expire(partition(item.Value))
	}
	return x.publish(ctx, refresh, evidence.Evidence{})
}

// overtaken says that another writer was first, which for windows is no reason to give up: a backfill and a live run meet.
func overtaken(err error) bool { return as[*delta.Conflict](err) }

func orOvertaken(err error) bool { return again(err) || overtaken(err) }
