package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/lease"
	"github.com/tablexport/tablexport/export/parquet"
	"github.com/tablexport/tablexport/export/sets"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/jobs/window"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/evidence"
	"github.com/tablexport/tablexport/odata/scope"
	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/audit"
)

// Instance is one ERP instance as the runner needs it.
type Instance struct {
	Name   string
	Client *odata.Client // one per instance and process: limiter and breaker are shared by all its jobs
	Token  string        // name of the token in the vault
	Use    secrets.Kind  // how it is used
}

// Runner carries out runs. It is safe for concurrent use; runs of one instance share its budget. Its fields must not
// change once it runs. Logger may be nil.
type Runner struct {
	Keeper    *secrets.Keeper
	Audit     *audit.Log
	Ledger    *ledger.Ledger
	Instances map[string]Instance
	Bucket    func(ctx context.Context, name string) (store.Bucket, error) // of a store; the runner does not close it
	Logger    *slog.Logger
	Actor     string        // who runs this, for the audit log
	Engine    string        // "tablexport/1.2.3"
	Attempts  int           // scans of one run at most, when one cannot be proven complete (3)
	SweepAge  time.Duration // leftovers older than this are removed after a successful run (24 h)

	// Owner names the state directory in the leases on datasets, which keep two of them from refreshing one dataset at once. "": runs take no lease.
	Owner string
	Lease time.Duration // how long this process may be silent before another takes a dataset from it (lease.DefaultTTL)

	Tracer  trace.Tracer // of the runs' spans; nil: there are none
	Observe func(News)   // is told of the begin and the end of every run, in the run's goroutine, which waits for it; may be nil
}

// Request asks for one run.
type Request struct {
	Job          Job
	AcceptSchema bool
	LowMemory    bool           // smaller row groups, and nothing is read ahead: slower, for small machines
	Progress     func(Progress) // called from the run's goroutines, one at a time, which wait for it; may be nil
	Nominal      time.Time      // the tick that the run is for, for observers; zero: somebody has asked

	// Of a job that goes by windows:
	Cut      time.Time     // the instant that counts as now for which windows there are; zero: when the run begins
	Only     []window.Item // read these windows in place of those that are due, and expire none
	Parallel int           // windows at the same time (0: as many as the instance takes requests, 2 at most)
	Separate bool          // publish each window as soon as it is done, whatever the job says

	// Before is called before each window is begun, and may wait; a backfill lets live runs pass here. Its error fails the window. May be nil.
	Before func(ctx context.Context, runID string) error
}

// Phase is what a run is doing.
type Phase string

// The phases.
const (
	Waiting       Phase = "waiting to see whether another state directory still refreshes the dataset" // a minute at most
	Preparing     Phase = "preparing"
	ReadingOwners Phase = "reading owners"
	Scanning      Phase = "reading"
	Fetching      Phase = "fetching" // the rows that a sweep has found changed
	Publishing    Phase = "publishing"
	Done          Phase = "done"
)

// Progress is how far a run is.
type Progress struct {
	Job     string
	RunID   string
	Phase   Phase
	Attempt int
	Scan    odata.Progress
	Window  string // the window that the news is of, "" of a whole table; Scan is of this window
	Done    int    // windows that are done, of Windows that are to be read
	Windows int
}

// Result is what a run did. Of a run that failed it holds what was known by then, and Version is -1 unless the error
// is a *PublishedError.
type Result struct {
	Job      string            `json:"job"`
	RunID    string            `json:"run"`
	Table    string            `json:"table"`
	Dataset  string            `json:"dataset"`
	Version  int64             `json:"version"`
	Rows     int64             `json:"rows"`
	Files    int               `json:"files"`
	Bytes    int64             `json:"bytes"`
	Schema   []string          `json:"schemaChanges,omitempty"`
	Scope    scope.Stamp       `json:"scope"`
	Owners   []OwnerKeys       `json:"owners,omitempty"` // that the scope was proven by
	Evidence evidence.Evidence `json:"evidence"`         // of windows: added up, see evidence.Sum
	Windows  []WindowResult    `json:"windows,omitempty"`
	Expired  []string          `json:"expired,omitempty"` // windows that were removed
	Merge    *export.MergeInfo `json:"merge,omitempty"`   // what changed, of a refresh by changes
	Whole    string            `json:"whole,omitempty"`   // why such a refresh has read the whole table
	Seconds  float64           `json:"seconds"`

	Quarantined int64    `json:"quarantined,omitempty"` // rows that do not fit, and are in the quarantine
	Contract    []string `json:"contract,omitempty"`    // columns whose published types hold against the source's
}

// run is one run under way.
type run struct {
	*Runner
	Request
	owners  ownership
	id      string
	started time.Time
	hold    *lease.Lease // on the dataset; nil without an owner
	lease   *secrets.Lease
	plan    *Plan
	dataset *export.Dataset
	target  string // address of the dataset
	log     *slog.Logger
	spans   *spans

	encoders parquet.Encoders // of the files that the run has written, for those to come

	mu     sync.Mutex // windows are read side by side
	result Result
	proofs []evidence.Evidence // of the windows in the result
	done   int                 // windows
	todo   int
	at     stepAt
	read   int64 // rows, in the step under way
	most   int64 // rows of the windows that are read for the first time, all together; 0: not known
}

// Run carries out one run. The error is a *RunError; the dataset then is at its previous version, with two exceptions
// that name themselves: *PublishedError says that the refresh is published and something failed behind it, and
// *delta.Unresolved that the answer to the commit was lost for good, so that it is not known.
//
// When ctx ends the run stops: what was staged is dropped, the token is given back, and both logs say so.
func (r *Runner) Run(ctx context.Context, req Request) (Result, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Result{Job: req.Job.Name, Table: req.Job.Table, Version: -1}, &RunError{Job: req.Job.Name, Err: err}
	}
	x := &run{Runner: r, Request: req, id: id.String(), started: time.Now(), log: r.Logger, spans: newSpans(r.Tracer)}
	if x.log == nil {
		x.log = slog.New(slog.DiscardHandler)
	}
	x.log = x.log.With("job", req.Job.Name, "run", x.id)
	x.result = Result{Job: req.Job.Name, RunID: x.id, Table: req.Job.Table, Version: -1}
	ctx, end := x.begin(ctx)
	err = x.all(ctx)
	end(err)
	x.result.Seconds = time.Since(x.started).Seconds()
	if err != nil {
		return x.result, &RunError{Job: req.Job.Name, RunID: x.id, Err: err}
	}
	return x.result, nil
}

// all is the run between its two lines in the ledger. A crash between the two leaves the first, which the next
// start of the program marks as interrupted.
func (x *run) all(ctx context.Context) error {
	openErr := x.guarded(func() error { return x.open(ctx) })
	line := ledger.Run{ID: x.id, Job: x.Job.Name, Table: x.Job.Table, Dataset: x.target, Process: Process(), Started: x.started}
	if err := x.Ledger.Start(ctx, line); err != nil {
		return errors.Join(openErr, stopped(ctx, err))
	}
	x.tell(News{Began: true, At: x.started})
	err := openErr
	if err == nil {
		err = x.guarded(func() error { return x.holding(ctx, x.leased) })
	}
	err = stopped(ctx, err)
	if err != nil && x.result.Version >= 0 && !as[*WindowsError](err) {
		err = &PublishedError{Version: x.result.Version, Err: err}
	}
	x.conclude(&line, err)
	// The run's end is written even if the context has ended; the ledger is history, so its failure does not undo a commit.
	if ferr := x.Ledger.Finish(context.WithoutCancel(ctx), line); ferr != nil {
		x.log.Error("the run's end could not be recorded", "error", ferr)
		if err == nil {
			err = &PublishedError{Version: line.Version, Err: ferr}
		}
	}
	x.tell(x.ended(line.Ended, err))
	return err
}

// open finds the dataset. Where the store cannot be opened, the ledger knows it by the store's name.
func (x *run) open(ctx context.Context) error {
	x.target = x.Job.Store + ":" + x.Job.Path
	x.result.Dataset = x.target
	bucket, err := x.Bucket(ctx, x.Job.Store)
	if err != nil {
		return err
	}
	x.dataset = export.Open(bucket, x.Job.Path)
	x.target = x.dataset.Location()
	x.result.Dataset = x.target
	return nil
}

// conclude fills in a run's second line.
func (x *run) conclude(line *ledger.Run, err error) {
	line.Rows, line.Bytes, line.Files, line.Version = x.result.Rows, x.result.Bytes, x.result.Files, x.result.Version
	line.Attempts, line.Requests = x.result.Evidence.Attempts, x.result.Evidence.Requests
	if x.lease != nil {
		// Of all scans of the run, and of what was asked around them.
		line.Fingerprint, line.Requests = x.lease.Fingerprint(), max(x.lease.Requests(), line.Requests)
	}
	if text, merr := json.Marshal(x.result.Evidence); merr == nil && x.result.Evidence.Attempts > 0 {
		line.Evidence = string(text)
	}
	line.Ended, line.State = time.Now(), ledger.Succeeded
	if err == nil {
		x.log.Info("run succeeded", "version", line.Version, "rows", line.Rows, "requests", line.Requests)
		return
	}
	line.Class, line.Error = string(Classify(err)), err.Error()
	switch {
	case line.Version >= 0 && !as[*WindowsError](err): // published, whatever came after it
	case line.Class == string(Canceled):
		line.State = ledger.Canceled
	default:
		line.State = ledger.Failed
	}
	x.log.Error("run failed", "class", line.Class, "published", line.Version >= 0, "error", err)
}

// stopped makes an error that came of ctx's end say so: whatever cause the context was given, and whatever a library has
// made of it. What a run has found before it was stopped stays what it is, and so does a commit whose fate is not known.
func stopped(ctx context.Context, err error) error {
	reason := ctx.Err()
	if err == nil || reason == nil || errors.Is(err, reason) || as[*delta.Unresolved](err) || as[*sets.Unresolved](err) {
		return err
	}
	vague := slices.Contains([]Class{Transient, Later, Other}, Classify(err))
	if vague || errors.Is(err, context.Cause(ctx)) {
		return &StoppedError{Reason: reason, Err: err}
	}
	return err
}

// guarded turns a panic into an error of class bug: one job's fault must not end the others.
func (x *run) guarded(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &PanicError{Where: panicSite()}
		}
	}()
	return do()
}

// holding does something while no other state directory refreshes the dataset. It comes before the token is borrowed: a run that may not
// begin asks the ERP nothing. Losing the lease ends what is done; that is why it failed then.
func (x *run) holding(ctx context.Context, do func(context.Context) error) (err error) {
	if x.Owner == "" {
		return do(ctx)
	}
	gone := func(process string) bool { return !Alive(process) }
	_, end := x.spans.span(ctx, "lease dataset") // the lease outlives its span
	x.hold, err = x.dataset.Lease(ctx, lease.Options{Owner: x.Owner, Process: Process(), Job: x.Job.Name, Run: x.id, TTL: x.Lease, Gone: gone, Logger: x.log,
		Waiting: func(lease.Claim) {
			x.progress(Progress{Phase: Waiting, Attempt: 1, Scan: odata.Progress{Expected: -1}})
		}})
	end(err)
	if err != nil {
		return err
	}
	defer func() {
		lost := x.hold.Lost()
		if rerr := x.hold.Release(ctx); rerr != nil {
			x.log.Warn("the lease on the dataset could not be given back; another state directory has to wait for its time", "error", rerr)
		}
		if err != nil && lost != nil && !errors.Is(err, lost) {
			err = errors.Join(lost, err)
		}
	}()
	return do(x.hold.Context())
}

// leased is what happens while the token is borrowed.
func (x *run) leased(ctx context.Context) (err error) {
	x.progress(Progress{Phase: Preparing, Attempt: 1, Scan: odata.Progress{Expected: -1}})
	instance, ok := x.Instances[x.Job.Instance]
	if !ok {
		return &PlanError{Job: x.Job.Name, Problems: []FieldProblem{{Field: "instance", Text: "there is no instance " + x.Job.Instance}}}
	}
	borrowing, end := x.spans.span(ctx, "borrow token")
	x.lease, err = x.Keeper.Lease(borrowing, secrets.LeaseRequest{Name: instance.Token, Instance: instance.Name, Host: instance.Client.Host(),
		Purpose: "run", Job: x.Job.Name, RunID: x.id, Use: instance.Use})
	end(err)
	if err != nil {
		return err
	}
	defer func() {
		cerr := x.lease.Close(context.WithoutCancel(ctx))
		switch {
		case cerr == nil:
		case err == nil:
			err = cerr
		default:
			x.log.Warn("the end of the loan could not be audited", "error", cerr)
		}
	}()
	session := instance.Client.Open(x.lease)
	if err := x.planned(ctx, session); err != nil {
		return err
	}
	if x.plan.Windowed != nil {
		return x.windows(ctx, session)
	}
	if x.plan.Compared != nil {
		return x.changes(ctx, session)
	}
	return x.whole(ctx, session)
}

// planned asks the instance for its tables, and plans.
func (x *run) planned(ctx context.Context, session *odata.Session) (err error) {
	ctx, end := x.spans.span(ctx, "plan")
	defer func() { end(err) }()
	model, err := session.Metadata(ctx)
	if err != nil {
		return err
	}
	if x.plan, err = NewPlan(x.Job, model); err != nil {
		return err
	}
	return x.underContract(ctx, model)
}

// whole reads the whole table, until a scan is proven complete.
func (x *run) whole(ctx context.Context, session *odata.Session) error {
	return x.attempts(ctx, "the table", again, func(attempt int) error { return x.attempt(ctx, session, attempt) })
}

// attempts scans until a scan is proven complete, at most Attempts times. A scan that cannot be proven may have met
// a change in the middle, or taught the client what the server does not keep; the next one starts from nothing.
func (x *run) attempts(ctx context.Context, what string, again func(error) bool, try func(attempt int) error) error {
	most := x.Attempts
	if most <= 0 {
		most = 3
	}
	for attempt := 1; ; attempt++ {
		err := try(attempt)
		switch {
		case err == nil || !again(err):
			return err
		case ctx.Err() != nil:
			return &StoppedError{Reason: ctx.Err(), Err: err}
		case attempt == most:
			return fmt.Errorf("refused after %d scans, the previous version stands: %w", attempt, err)
		}
		x.log.Warn("scan not proven complete, starting over", "what", what, "attempt", attempt, "reason", err)
	}
}

// again reports whether another scan may succeed where one was not proven complete.
func again(err error) bool {
	var rescan *odata.RescanError
	if errors.As(err, &rescan) {
		return rescan.Retry
	}
	return as[*evidence.Incomplete](err) || as[*OwnersChanged](err) || as[*MovedError](err)
}

// spec is what the dataset learns of this run; unit is which of its commits this is.
func (x *run) spec(unit string) export.Spec {
	stamp := x.plan.Scope.Stamp()
	s := export.Spec{
		Job: x.Job.Name, RunID: x.id, Unit: unit, Table: x.plan.Table.Name, Source: x.Job.Instance + " (" + x.Instances[x.Job.Instance].Client.Host() + ")",
		Query: x.plan.Text(), QueryID: x.plan.QueryID(), Scope: stamp, Description: x.Job.Description, Schema: x.plan.Scope.Schema(),
		Key: x.plan.PublishedKey(), Contract: x.Job.Schema, Quarantine: x.plan.quarantine(), AcceptSchema: x.AcceptSchema, Engine: x.Engine,
		Parquet: parquet.Options{LowMemory: x.LowMemory, Encoders: &x.encoders},
	}
	if x.hold != nil {
		s.Fence = x.hold.Fence()
	}
	if x.plan.Windowed != nil {
		s.Partition = x.plan.Windowed.Partition
	}
	if x.plan.Compared != nil {
		s.FileBytes, s.Marks = export.DefaultMergeBytes, x.plan.marks(time.Now())
	}
	return s
}

// abort drops what a refresh has staged; behind a commit it does nothing. It is for every way out, a panic included. The context may have
// ended; parts that stay behind all the same are the sweeper's.
func (x *run) abort(ctx context.Context, refresh *export.Refresh) {
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := refresh.Abort(clean); err != nil {
		x.log.Warn("staged files were left behind", "error", err)
	}
}

// attempt is one scan into one staged refresh. Every way out but the last leaves the previous version standing.
func (x *run) attempt(ctx context.Context, session *odata.Session, attempt int) error {
	refresh, err := x.dataset.Begin(ctx, x.spec(""))
	if err != nil {
		return err
	}
	defer x.abort(ctx, refresh)
	slice, err := refresh.Slice(export.SliceSpec{})
	if err != nil {
		return err
	}
	q := x.plan.Query()
	q.Attempt = attempt
	q.Progress = func(p odata.Progress) { x.progress(Progress{Phase: Scanning, Attempt: attempt, Scan: p}) }
	scan, err := x.scan(ctx, session, q, slice, nil)
	if scan != nil {
		x.result.Evidence = scan.Evidence()
	}
	if err != nil {
		return err
	}
	if err := slice.Done(ctx, x.result.Evidence); err != nil {
		return err
	}
	return x.publish(ctx, refresh, x.result.Evidence)
}

// scan moves the rows of a query into a slice: read, check, write. The scan is nil if it could not be started. further, if it is not nil, is
// asked of every record that came in; before is the number of rows that came before it.
func (x *run) scan(ctx context.Context, session *odata.Session, q odata.Query, slice *export.Slice, further func(rec arrow.Record, before int64) error) (*odata.Scan, error) {
	p, err := x.prover(ctx, session)
	if err != nil {
		return nil, x.violated(ctx, err)
	}
	q.Inspect, q.Aside = further, x.plan.aside()
	scan, err := x.provenScan(ctx, session, q, p, func(rows scope.Checked) error { return slice.Write(ctx, rows) })
	if err == nil {
		err = x.setAside(p, scan, slice)
	}
	return scan, x.violated(ctx, err)
}

// violated audits a foreign row. The run has failed either way, so a failing audit write only joins the error.
func (x *run) violated(ctx context.Context, err error) error {
	var v *scope.Violation
	if !errors.As(err, &v) {
		return err
	}
	detail := map[string]string{"dataset": x.target, "scope": v.Scope, "column": v.Column, "rule": v.Rule, "row": strconv.FormatInt(v.Row, 10)}
	if v.Table != "" {
		detail["ownerTable"] = v.Table
	}
	_, aerr := x.Audit.Append(context.WithoutCancel(ctx), x.entry("scope-violation", audit.Refused, 0, detail))
	return errors.Join(err, unaudited(aerr))
}

// unaudited makes a failing audit write known as such.
func unaudited(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", secrets.ErrAudit, err)
}

// publish audits what is about to be published, commits, and audits how it ended. A failing audit write blocks the commit.
// A crash between the two lines leaves "started" alone in the audit log; the dataset's log says whether the version exists.
func (x *run) publish(ctx context.Context, refresh *export.Refresh, ev evidence.Evidence) error {
	so := odata.Progress{Rows: ev.Rows, Pages: ev.Pages, Requests: ev.Requests, Bytes: ev.Bytes, Expected: ev.Rows}
	x.progress(Progress{Phase: Publishing, Attempt: ev.Attempts, Scan: so})
	stamp := x.plan.Scope.Stamp()
	detail := map[string]string{"dataset": x.target, "scope": stamp.Name, "enforcement": string(stamp.Enforcement)}
	if len(stamp.Owners) > 0 {
		detail["verifiedViaOwner"] = strings.Join(stamp.Owners, "; ")
	}
	if x.hold != nil { // a machine that slept believes itself in possession
		if err := x.hold.Check(ctx); err != nil {
			return fmt.Errorf("not published: %w", err)
		}
	}
	if _, err := x.Audit.Append(ctx, x.entry("publish", audit.Started, ev.Rows, detail)); err != nil {
		return fmt.Errorf("not published: %w", unaudited(err))
	}
	committing, end := x.spans.span(ctx, "commit", attribute.Int64("tablexport.rows", ev.Rows))
	commit, err := refresh.Commit(committing)
	end(err, attribute.Int64("tablexport.version", commit.Version))
	if err != nil {
		detail["class"] = string(Classify(stopped(ctx, err)))
		if as[*delta.Unresolved](err) {
			detail["published"] = "not known"
		}
		_, aerr := x.Audit.Append(context.WithoutCancel(ctx), x.entry("publish", audit.Failed, ev.Rows, detail))
		return errors.Join(err, unaudited(aerr))
	}
	x.committed(commit, stamp)
	if commit.Quarantined > 0 {
		detail["quarantined"], detail["quarantine"] = strconv.FormatInt(commit.Quarantined, 10), x.dataset.Quarantine().Location()
	}
	detail["version"] = strconv.FormatInt(commit.Version, 10)
	_, aerr := x.Audit.Append(context.WithoutCancel(ctx), x.entry("publish", audit.OK, ev.Rows, detail))
	x.sweep(ctx)
	x.progress(Progress{Phase: Done, Attempt: ev.Attempts, Scan: so})
	return unaudited(aerr)
}

// committed adds a commit to the result: a run whose windows are published one by one has many.
func (x *run) committed(c export.Commit, stamp scope.Stamp) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.result.Version = max(x.result.Version, c.Version)
	x.result.Rows, x.result.Files, x.result.Bytes = x.result.Rows+c.Rows, x.result.Files+c.Files, x.result.Bytes+c.Bytes
	if x.result.Merge = c.Merge; c.Merge != nil {
		x.result.Rows = c.Merge.Written // and not what had to be copied
	}
	x.result.Quarantined += c.Quarantined
	x.result.Scope, x.result.Expired = stamp, append(x.result.Expired, c.Expired...)
	for _, change := range c.SchemaDiff {
		if !slices.Contains(x.result.Schema, change) {
			x.result.Schema = append(x.result.Schema, change)
		}
	}
}

// sweep removes what crashed runs left behind. It never fails a run.
func (x *run) sweep(ctx context.Context) {
	ctx, end := x.spans.span(ctx, "sweep")
	defer end(nil)
	age := x.SweepAge
	if age <= 0 {
		age = 24 * time.Hour
	}
	x.sweepOne(ctx, x.dataset, age)
	if side := x.dataset.Quarantine(); side != nil && x.Job.Schema == export.Quarantined {
		x.sweepOne(ctx, side, age)
	}
}

func (x *run) sweepOne(ctx context.Context, d *export.Dataset, age time.Duration) {
	report, err := d.Sweep(ctx, age, false)
	if err != nil {
		x.log.Warn("leftovers could not be swept", "dataset", d.Location(), "error", err)
	} else if report.Removed+report.Uploads > 0 {
		x.log.Info("leftovers of interrupted runs were removed", "files", report.Removed, "uploads", report.Uploads, "bytes", report.Bytes)
	}
}

func (x *run) entry(action, outcome string, rows int64, detail map[string]string) audit.Entry {
	return audit.Entry{Action: action, Subject: x.Job.Name, Fingerprint: x.lease.Fingerprint(), Job: x.Job.Name, Run: x.id,
		Table: x.plan.Table.Name, Rows: rows, Outcome: outcome, Detail: detail, Actor: x.Actor}
}

// progress passes news on, one at a time, and records when the run goes over to another step.
func (x *run) progress(p Progress) {
	x.mu.Lock()
	defer x.mu.Unlock()
	p.Job, p.RunID, p.Done, p.Windows = x.Job.Name, x.id, x.done, x.todo
	x.step(p)
	if x.Progress != nil {
		x.Progress(p)
	}
}

// step records a step of the run in the ledger, which is history: a step that cannot be written fails nothing. Windows that are read side by
// side are one step. The last one, done, ends with the run.
func (x *run) step(p Progress) {
	at := stepAt{p.Phase, p.Attempt}
	if at == x.at || p.Phase == Done {
		x.read = p.Scan.Rows
		return
	}
	s := ledger.Step{Run: x.id, Name: string(p.Phase), Attempt: p.Attempt, Started: time.Now()}
	// The context may have ended: that is when a person wants to know how far the run has come.
	if err := x.Ledger.Step(context.Background(), s, x.read); err != nil {
		x.log.Warn("a step of the run could not be recorded", "step", p.Phase, "error", err)
	}
	x.at, x.read = at, p.Scan.Rows
}

// stepAt is where a run is.
type stepAt struct {
	phase   Phase
	attempt int
}
