package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/jobs/window"
	"github.com/tablexport/tablexport/odata/evidence"
)

// BackfillSpec asks for windows of the past.
type BackfillSpec struct {
	From, To   *window.Day // the windows that hold these days, and all between them; nil: as far as the job's dataset goes
	Gaps       bool        // only windows that are missing, or that cannot be relied on
	LoadedTill time.Time   // windows that were read before this are read again, whatever is known of them; zero: none
}

// Fill is one window that a backfill reads.
type Fill struct {
	window.Item
	Problem  string // what is wrong with what the dataset holds; "" where it holds nothing, or nothing is wrong
	Expected int64  // rows, as far as can be told from what was read before; -1 = not known
}

// BackfillError says why a backfill cannot be done as it was asked for.
type BackfillError struct {
	Text, Hint string
}

// Error implements error.
func (e *BackfillError) Error() string { return e.Text + "; " + e.Hint }

// Backfill decides which windows a backfill reads at now, of a dataset that holds have: newest first. What is there and can be relied on is
// left alone, so the same question asked after an interruption gives what is still to be done. held are the windows of the range that are left.
func (p *Plan) Backfill(now time.Time, have []export.Window, b BackfillSpec) (fills []Fill, held int, err error) {
	if p.Windowed == nil {
		return nil, 0, &BackfillError{fmt.Sprintf("job %s does not go by windows", p.Job.Name), "give it refresh: {by: …, every: month, keep: …}, or run it"}
	}
	policy := p.Job.Refresh.Policy
	first, last, err := p.backfillRange(now, b)
	if err != nil {
		return nil, 0, err
	}
	known := map[string]export.Window{}
	for _, w := range have {
		known[w.Value] = w
	}
	for _, w := range slices.Backward(policy.Calendar.Range(first, last)) {
		if _, ok, err := p.SpanQuery(w.Span); err != nil || !ok {
			if err != nil {
				return nil, 0, err
			}
			continue // a day that the zone leaves out
		}
		if f, needed := p.fill(w, known, b); needed {
			fills = append(fills, f)
		} else {
			held++
		}
	}
	if undated := (window.Window{Value: window.Null}); policy.Undated && b.Gaps {
		if f, needed := p.fill(undated, known, b); needed {
			fills = append(fills, f)
		}
	}
	p.expected(fills, have)
	return fills, held, p.oneQuery(fills, have)
}

// backfillRange are the first and the last window that are asked for.
func (p *Plan) backfillRange(now time.Time, b BackfillSpec) (first, last window.Window, err error) {
	policy := p.Job.Refresh.Policy
	oldest, newest := policy.Current(now)
	first, last = oldest, newest
	if b.To != nil {
		if to := policy.Calendar.On(*b.To); policy.Calendar.Distance(to, newest) > 0 {
			last = to // what lies beyond the newest does not exist yet
		}
	}
	if b.From != nil {
		first = policy.Calendar.On(*b.From)
	}
	span := fmt.Sprintf("the dataset holds %s to %s", oldest, newest)
	switch {
	case policy.Calendar.Distance(first, oldest) > 0:
		return first, last, &BackfillError{fmt.Sprintf("%s is older than what the job keeps: %s, and its next run would remove it again", first, span),
			fmt.Sprintf("begin with %s, or raise keep", oldest)}
	case policy.Calendar.Distance(newest, first) > 0, policy.Calendar.Distance(first, last) < 0:
		return first, last, &BackfillError{"there is no window between the two dates: " + span, "give an earlier --from, or a later --to"}
	case policy.Calendar.Distance(first, last) >= maxWindows:
		return first, last, &BackfillError{fmt.Sprintf("that would be %d windows, and %d are too many for one backfill", policy.Calendar.Distance(first, last)+1, maxWindows),
			"give a shorter range, or the job longer windows"}
	}
	return first, last, nil
}

// maxWindows bounds what one run or backfill looks at: 54 years of days.
const maxWindows = 20_000

// fill says whether a window is to be read, and why.
func (p *Plan) fill(w window.Window, known map[string]export.Window, b BackfillSpec) (Fill, bool) {
	f := Fill{Item: window.Item{Window: w}, Expected: -1}
	have, ok := known[partition(w.Value)]
	switch {
	case !ok:
		f.Reason = window.Missing
	case have.Problem != "":
		f.Reason, f.Problem = window.Unknown, have.Problem
	case have.Query != p.QueryID():
		f.Reason, f.Problem = window.Query, window.Query.Text()
	case w.Value == window.Null || b.Gaps:
		return f, false // rows without a date are every run's
	case have.Loaded.Before(b.LoadedTill):
		f.Reason = window.Again
	case have.Loaded.Before(p.Job.Refresh.Policy.Settles(w)) && have.Loaded.Before(w.End):
		f.Reason = window.Unsettled
	default:
		return f, false
	}
	return f, true
}

// oneQuery refuses a backfill that would leave rows of two queries in one dataset: those of the windows that it reads, and those of
// the others.
func (p *Plan) oneQuery(fills []Fill, have []export.Window) error {
	id, others := p.QueryID(), 0
	for _, w := range have {
		if w.Problem == "" && w.Query != id {
			others++
		}
	}
	for _, f := range fills {
		if f.Reason == window.Query {
			others--
		}
	}
	if others <= 0 || len(fills) == 0 {
		return nil
	}
	return &BackfillError{fmt.Sprintf("%d more windows of the dataset were read with other columns, another filter or another scope, and it must not hold rows of both", others),
		fmt.Sprintf("read them all: tablexport run %s", p.Job.Name)}
}

// expected estimates the rows of windows by what was read before: of the window itself, or of its nearest neighbours, two on either side.
func (p *Plan) expected(fills []Fill, have []export.Window) {
	type seen struct {
		at   window.Window
		rows int64
	}
	var near []seen
	own := map[string]int64{}
	for _, h := range have {
		if w, err := p.Job.Refresh.Policy.Calendar.Parse(h.Value); err == nil && h.Problem == "" {
			near, own[h.Value] = append(near, seen{w, h.Rows}), h.Rows
		}
	}
	for i := range fills {
		f := &fills[i]
		if rows, ok := own[f.Value]; ok {
			f.Expected = rows
			continue
		}
		if len(near) == 0 || f.Value == window.Null {
			continue
		}
		distance := func(s seen) int {
			d := p.Job.Refresh.Policy.Calendar.Distance(f.Window, s.at)
			return max(d, -d)
		}
		slices.SortFunc(near, func(a, b seen) int { return distance(a) - distance(b) })
		sum, n := int64(0), min(4, len(near))
		for _, s := range near[:n] {
			sum += s.rows
		}
		f.Expected = sum / int64(n)
	}
}

// Rate is what earlier scans took.
type Rate struct {
	Scans, Rows, Requests, Pages, Bytes int64
	Busy                                time.Duration // all scans, one after the other
}

// Add counts a scan.
func (r *Rate) Add(ev evidence.Evidence) {
	if ev.Requests <= 0 || !ev.Ended.After(ev.Started) {
		return
	}
	r.Scans++
	r.Rows, r.Requests, r.Pages, r.Bytes = r.Rows+ev.Rows, r.Requests+ev.Requests, r.Pages+ev.Pages, r.Bytes+ev.Bytes
	r.Busy += ev.Ended.Sub(ev.Started)
}

// Observed is the rate of the newest windows of a dataset, 50 of them at most: how a server was years ago says little.
func Observed(have []export.Window) Rate {
	have = slices.Clone(have)
	slices.SortFunc(have, func(a, b export.Window) int { return b.Loaded.Compare(a.Loaded) })
	var r Rate
	for _, w := range have[:min(50, len(have))] {
		for _, ev := range w.Evidence {
			r.Add(ev)
		}
	}
	return r
}

// Estimate is what a backfill will take. What is not known is -1, and a Duration of 0.
type Estimate struct {
	Windows  int           `json:"windows"`
	Rows     int64         `json:"rows"`
	Requests int64         `json:"requests"`
	Bytes    int64         `json:"bytes"` // of JSON
	Busy     time.Duration `json:"-"`     // parallelism taken into account
	Seconds  int64         `json:"seconds"`
	License  int64         `json:"licenseMinutes"` // how long a license slot is held: the session ends 20 minutes behind its last request
}

// sessionIdle is how long a session holds its license behind the last request (ERP.net's licensing documentation).
const sessionIdle = 20 * time.Minute

// Estimate adds up what fills will take at a rate. Rows and requests are known as soon as the rows of every window are; bytes and time need a rate
// as well.
func (p *Plan) Estimate(fills []Fill, r Rate, parallel int) Estimate {
	e := Estimate{Windows: len(fills), Bytes: -1}
	pageSize := int64(max(p.Job.PageSize, 1))
	besides := int64(3) // the count before, the count behind, the empty page
	if r.Scans > 0 {
		besides = max(1, (r.Requests-r.Rows/pageSize)/r.Scans)
	}
	for _, f := range fills {
		if f.Expected < 0 {
			e.Rows, e.Requests = -1, -1
			break
		}
		e.Rows += f.Expected
		e.Requests += f.Expected/pageSize + besides
	}
	if e.Rows < 0 || r.Scans == 0 {
		return e
	}
	// Small windows take as long as their requests, large ones as long as their rows.
	seconds := float64(e.Requests) * r.Busy.Seconds() / float64(r.Requests)
	if r.Rows > 0 {
		e.Bytes = int64(float64(e.Rows) * float64(r.Bytes) / float64(r.Rows))
		seconds = max(seconds, float64(e.Rows)*r.Busy.Seconds()/float64(r.Rows))
	}
	seconds /= float64(max(1, min(parallel, len(fills))))
	e.Seconds = int64(math.Ceil(seconds))
	e.Busy = time.Duration(seconds * float64(time.Second))
	e.License = int64(math.Ceil((e.Busy + sessionIdle).Minutes()))
	return e
}

// Items are the windows of fills, for [Request].Only.
func Items(fills []Fill) []window.Item {
	items := make([]window.Item, len(fills))
	for i, f := range fills {
		items[i] = f.Item
	}
	return items
}

// FailedWindow is a window that a run could not publish, and why.
type FailedWindow struct {
	window.Item
	Err error
}

// Unfinished are the windows of a run that failed each for itself, for another try; all says that there are no others: every other
// window was published. Of a run that failed as a whole it gives none.
func Unfinished(err error, of []window.Item) (failed []FailedWindow, all bool) {
	var windows *WindowsError
	if !errors.As(err, &windows) {
		return nil, false
	}
	for _, err := range windows.Failed {
		var one *WindowError
		if !errors.As(err, &one) {
			return failed, false
		}
		if i := slices.IndexFunc(of, func(i window.Item) bool { return i.Value == one.Window }); i >= 0 {
			failed = append(failed, FailedWindow{of[i], one.Err})
		}
	}
	return failed, len(windows.NotBegun) == 0 && windows.Stopped == nil
}

// ObservedRuns is the rate of the newest runs that succeeded, 20 of them at most, of jobs that of admits.
func ObservedRuns(ctx context.Context, runs *ledger.Ledger, of func(job string) bool) (Rate, error) {
	list, err := runs.List(ctx, ledger.Query{State: ledger.Succeeded, Limit: 200})
	if err != nil {
		return Rate{}, err
	}
	var r Rate
	for _, run := range list {
		var ev evidence.Evidence
		if r.Scans >= 20 || !of(run.Job) || json.Unmarshal([]byte(run.Evidence), &ev) != nil {
			continue
		}
		r.Add(ev)
	}
	return r, nil
}
