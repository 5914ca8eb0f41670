package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/window"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/edm"
)

// backfillOptions are the flags of `backfill`.
type backfillOptions struct {
	from, to     string
	gaps, dryRun bool
	loadedBefore string
	parallel     int
	commit       string
	yes          bool
	lowMemory    bool
}

func backfillCommand(g *globals) *cobra.Command {
	var o backfillOptions
	c := &cobra.Command{
		Use:   "backfill JOB",
		Short: "Read windows of the past into a dataset that goes by periods",
		Long: `Read windows of the past into the dataset of a job that goes by periods (refresh: {by: …, every: …}).

First comes the plan: the windows, and what they will take at the speed of earlier scans. Windows that the dataset holds already, and that
can be relied on, are left alone, so the same command goes on where it was stopped: by Ctrl-C, kill -9, or a failure. Each window is published
as soon as it is done; one that fails does not stop the others, is tried again alone, and is listed at the end.

Live runs of this machine go first: no window is begun while one is under way. Where both read one window, the younger reading stands.

--gaps looks at everything that the job keeps, for windows that are missing or cannot be relied on: files without tags, evidence that proves nothing,
another number of rows than was read, other columns, filter or scope than the job has now.`,
		Example: `  tablexport backfill order-lines --from 2023-01 --to 2024-12 --dry-run
  tablexport backfill order-lines --from 2023-01 --to 2024-12 --parallel 2 --yes
  tablexport backfill order-lines --from 2024-03 --to 2024-03 --loaded-before 2026-11-01    # read it again
  tablexport backfill order-lines --gaps --dry-run`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: g.completeJobs,
		RunE:              func(c *cobra.Command, args []string) error { return g.backfill(c.Context(), args[0], o) },
	}
	f := c.Flags()
	f.StringVar(&o.from, "from", "", "first `date` or period: 2023-04-01, 2023-04, 2023")
	f.StringVar(&o.to, "to", "", "last `date` or period, included")
	f.BoolVar(&o.gaps, "gaps", false, "only windows that are missing or cannot be relied on; without --from and --to, of all that the job keeps")
	f.BoolVar(&o.dryRun, "dry-run", false, "show the plan and read nothing but row counts")
	f.StringVar(&o.loadedBefore, "loaded-before", "", "read windows again that were read before this `time`: 2026-11-01, or 2026-11-01T12:00:00Z")
	f.IntVar(&o.parallel, "parallel", 1, "`windows` at the same time; the instance's own limits hold all the same")
	f.StringVar(&o.commit, "commit", "window", "window: publish each window as soon as it is done; run: all at once")
	f.BoolVar(&o.yes, "yes", false, "do not ask before it starts")
	f.BoolVar(&o.lowMemory, "low-memory", false, "smaller row groups, and nothing is read ahead: slower, for small machines")
	return c
}

// request reads the flags.
func (o backfillOptions) request(now time.Time) (b jobs.BackfillSpec, err error) {
	b.Gaps = o.gaps
	switch {
	case o.parallel < 1 || o.parallel > 64:
		return b, usagef("--parallel takes a whole number from 1 to 64")
	case o.commit != "window" && o.commit != "run":
		return b, usagef("--commit takes window or run")
	case !o.gaps && (o.from == "" || o.to == ""):
		return b, usagef("say which windows: --from 2023-01 --to 2023-12, or --gaps")
	case o.gaps && o.loadedBefore != "":
		return b, usagef("--loaded-before reads sound windows again, --gaps leaves them alone: name one of the two")
	}
	if b.From, b.To, err = bounds(o.from, o.to); err != nil {
		return b, usagef("--from, --to: %v", err)
	}
	if o.loadedBefore == "" {
		return b, nil
	}
	if b.LoadedTill, err = time.Parse(time.RFC3339, o.loadedBefore); err != nil {
		if b.LoadedTill, err = time.ParseInLocation(time.DateOnly, o.loadedBefore, time.Local); err != nil {
			return b, usagef("--loaded-before takes 2026-11-01 or 2026-11-01T12:00:00Z")
		}
	}
	if b.LoadedTill.After(now) {
		return b, usagef("--loaded-before is in the future: the same windows would be read for ever")
	}
	return b, nil
}

// backfillPlan is what a backfill will do, as --json prints it.
type backfillPlan struct {
	Job      string        `json:"job"`
	Dataset  string        `json:"dataset"`
	Windows  []fillView    `json:"windows"`
	Held     int           `json:"held"` // windows of the range that are there and are left alone
	Estimate jobs.Estimate `json:"estimate"`
	Rate     string        `json:"rate"`    // whose earlier scans the estimate goes by
	Counted  bool          `json:"counted"` // rows are the server's own count
	DryRun   bool          `json:"dryRun"`

	fills []jobs.Fill
}

type fillView struct {
	Window   string        `json:"window"`
	Reason   window.Reason `json:"reason"`
	Problem  string        `json:"problem,omitempty"`
	Expected int64         `json:"expectedRows"` // -1 = not known
}

func (g *globals) backfill(ctx context.Context, name string, o backfillOptions) error {
	request, err := o.request(time.Now())
	if err != nil {
		return err
	}
	defer sparing(o.lowMemory)()
	a, err := g.open()
	if err != nil {
		return err
	}
	defer a.close()
	job, err := a.job(name)
	if err != nil {
		return err
	}
	plan, err := a.planBackfill(ctx, job, request, o)
	if err != nil {
		return err
	}
	if err := g.emit(plan, func() { g.printBackfill(plan) }); err != nil {
		return err
	}
	if o.dryRun || len(plan.fills) == 0 {
		return nil
	}
	if err := g.confirm(ctx, o.yes, fmt.Sprintf("Read %d windows now?", len(plan.fills)), "--dry-run to look"); err != nil {
		return err
	}
	return a.fill(ctx, job, plan, o)
}

// planBackfill asks the dataset what it holds, and the server how many rows the windows have.
func (a *app) planBackfill(ctx context.Context, job jobs.Job, request jobs.BackfillSpec, o backfillOptions) (*backfillPlan, error) {
	plan, err := jobs.NewPlan(job, edm.Embedded())
	if err != nil {
		return nil, a.located(err)
	}
	if plan.Windowed == nil { // before anyone is asked
		_, _, err := plan.Backfill(time.Now(), nil, request)
		return nil, usage(err)
	}
	session, done, err := a.session(ctx, job.Instance, "backfill plan")
	if err != nil {
		return nil, err
	}
	defer done()
	model, err := session.Metadata(ctx)
	if err != nil {
		return nil, err
	}
	if plan, err = jobs.NewPlan(job, model); err != nil {
		return nil, a.located(err)
	}
	dataset, err := a.dataset(ctx, job.Name)
	if err != nil {
		return nil, err
	}
	have, err := dataset.Windows(ctx)
	if err != nil {
		return nil, err
	}
	view := &backfillPlan{Job: job.Name, Dataset: dataset.Location(), DryRun: o.dryRun, Windows: []fillView{}}
	if view.fills, view.Held, err = plan.Backfill(time.Now(), have, request); err != nil {
		return nil, usage(err)
	}
	if view.Counted, err = countFills(ctx, session, plan, view.fills); err != nil {
		return nil, err
	}
	rate, whose, err := a.rate(ctx, job, have)
	if err != nil {
		return nil, err
	}
	view.Rate, view.Estimate = whose, plan.Estimate(view.fills, rate, o.parallel)
	for _, f := range view.fills {
		view.Windows = append(view.Windows, fillView{f.Value, f.Reason, f.Problem, f.Expected})
	}
	return view, nil
}

// usage makes what a person asked wrongly a usage error.
func usage(err error) error {
	var backfill *jobs.BackfillError
	if errors.As(err, &backfill) {
		return usagef("%s; %s", backfill.Text, backfill.Hint)
	}
	return err
}

// mostCounts bounds how many windows are counted one by one before a backfill: each count is a request, and may be a long one.
const mostCounts = 60

// countFills puts the server's own numbers in place of what was guessed. Of many windows, the guesses stay.
func countFills(ctx context.Context, session *odata.Session, plan *jobs.Plan, fills []jobs.Fill) (counted bool, err error) {
	if len(fills) == 0 || len(fills) > mostCounts {
		return false, nil
	}
	for i, f := range fills {
		q, ok, err := plan.WindowQuery(f.Item)
		if err != nil || !ok {
			return false, err
		}
		n, ok, err := session.Count(ctx, q)
		if err != nil || !ok {
			return false, err
		}
		fills[i].Expected = n
	}
	return true, nil
}

// rate is the speed of earlier scans: of this dataset, or else of what else was read from the instance.
func (a *app) rate(ctx context.Context, job jobs.Job, have []export.Window) (jobs.Rate, string, error) {
	if r := jobs.Observed(have); r.Scans > 0 && r.Rows > 0 {
		return r, "earlier windows of this dataset", nil
	}
	runs, err := a.ledger(ctx)
	if err != nil {
		return jobs.Rate{}, "", err
	}
	r, err := jobs.ObservedRuns(ctx, runs, func(name string) bool { return a.cfg.Jobs[name].Instance == job.Instance })
	if err != nil || r.Scans == 0 || r.Rows == 0 {
		return jobs.Rate{}, "", err
	}
	return r, "earlier runs of other tables of the instance", nil
}

func (g *globals) printBackfill(p *backfillPlan) {
	g.printf("backfill  %s into %s\n", p.Job, p.Dataset)
	if len(p.fills) == 0 {
		g.printf("nothing to do: %d windows of the range are there and can be relied on\n", p.Held)
		return
	}
	rows := [][]string{{"WINDOW", "ROWS", "WHY"}}
	const most = 40
	for i, f := range p.Windows {
		if len(p.Windows) > most && i >= most/2 && i < len(p.Windows)-most/2 {
			if i == most/2 {
				rows = append(rows, []string{"…", "", fmt.Sprintf("%d more", len(p.Windows)-most)})
			}
			continue
		}
		why := f.Reason.Text()
		if f.Problem != "" {
			why = f.Problem
		}
		rows = append(rows, []string{f.Window, known(f.Expected), why})
	}
	g.table(rows)
	e := p.Estimate
	about := "about "
	if p.Counted {
		about = ""
	}
	g.printf("windows   %d to read, %d left as they are\n", e.Windows, p.Held)
	if e.Rows < 0 {
		g.printf("rows      not known: the server does not count them, and none have been read yet\n")
		return
	}
	g.printf("rows      %s%s\nrequests  about %s\n", about, count(e.Rows), count(e.Requests))
	if e.Bytes < 0 {
		g.printf("time      not known: nothing has been read from this instance yet\n")
		return
	}
	g.printf("read      about %s of JSON\ntime      about %s, by the speed of %s\nlicense   about %d minutes of one slot, the 20 behind the last request included\n",
		size(e.Bytes), roughly(e.Busy), p.Rate, e.License)
}

func known(n int64) string {
	if n < 0 {
		return "?"
	}
	return count(n)
}

// roughly is a duration for people: 40s, 12m, 3h20m.
func roughly(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return d.Round(time.Second).String()
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()+0.5))
	}
	d = d.Round(10 * time.Minute)
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

// confirm asks on a terminal. Where nobody can answer, --yes must have been said; otherwise is what else there is to say.
func (g *globals) confirm(ctx context.Context, yes bool, question, otherwise string) error {
	if yes {
		return nil
	}
	in, ok := g.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return usagef("nobody can be asked here; say --yes to start, or %s", otherwise)
	}
	fmt.Fprintf(g.err, "%s [y/N] ", question)
	got := make(chan string, 1)
	go func() { // a read cannot be interrupted: when ctx ends it is left to itself, and ends with the process
		line, _ := bufio.NewReader(in).ReadString('\n') // no answer is no
		got <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case answer := <-got:
		if answer == "y" || answer == "yes" {
			return nil
		}
		return fmt.Errorf("not started: %w", context.Canceled)
	case <-ctx.Done():
		fmt.Fprintln(g.err)
		return fmt.Errorf("not started: %w", ctx.Err())
	}
}

// backfillRounds is how often a window that failed is tried again alone.
const backfillRounds = 2

// fill reads the windows of a plan, and those that failed once more, each alone.
func (a *app) fill(ctx context.Context, job jobs.Job, plan *backfillPlan, o backfillOptions) error {
	runner, err := a.runner(ctx, []string{job.Name})
	if err != nil {
		return err
	}
	show := &fillProgress{progress: a.newProgress(true), plan: plan, started: time.Now()}
	base := jobs.Request{Job: job, LowMemory: o.lowMemory, Progress: show.update, Separate: o.commit == "window", Before: a.letLiveRunsPass(runner.Instances[job.Instance].Name)}
	first := base
	first.Only, first.Parallel = jobs.Items(plan.fills), o.parallel
	result, err := runner.Run(ctx, first)
	results := []jobs.Result{result}
	failed, all := jobs.Unfinished(err, first.Only)
	for round := 0; round < backfillRounds; round++ {
		for i, f := range failed {
			if f.Err == nil || ctx.Err() != nil || !mayPass(f.Err) {
				continue
			}
			alone := base
			alone.Only, alone.Parallel, alone.Separate = []window.Item{f.Item}, 1, true
			result, failed[i].Err = runner.Run(ctx, alone)
			results = append(results, result)
		}
	}
	show.end()
	if all && !slices.ContainsFunc(failed, func(f jobs.FailedWindow) bool { return f.Err != nil }) {
		err = nil // all that failed came in a later round
	}
	summary := summed(job.Name, results, plan)
	eerr := a.emit(summary, func() { a.printFilled(summary) })
	if err != nil {
		err = a.located(err)
		if ctx.Err() != nil {
			err = &hintedError{err: err, hint: fmt.Sprintf("%d windows are published; the same command goes on with the rest", len(summary.Published))}
		}
	}
	return errors.Join(err, eerr)
}

// mayPass says whether a window failed in a way that another try may mend.
func mayPass(err error) bool {
	return slices.Contains([]jobs.Class{jobs.Transient, jobs.Later, jobs.Conflict, jobs.Data}, jobs.Classify(err))
}

// filled is what a backfill did, as --json prints it.
type filled struct {
	Job       string              `json:"job"`
	Dataset   string              `json:"dataset"`
	Published []jobs.WindowResult `json:"published"`
	Failed    []jobs.WindowResult `json:"failed"`
	Left      []string            `json:"left"` // windows that were not begun
	Rows      int64               `json:"rows"`
	Version   int64               `json:"version"` // -1: nothing was published
	Seconds   float64             `json:"seconds"`
}

// summed adds up the runs of a backfill: of a window that was tried several times, the last try counts.
func summed(job string, results []jobs.Result, plan *backfillPlan) filled {
	f := filled{Job: job, Dataset: plan.Dataset, Published: []jobs.WindowResult{}, Failed: []jobs.WindowResult{}, Left: []string{}, Version: -1}
	last := map[string]jobs.WindowResult{}
	for _, r := range results {
		f.Seconds, f.Version = f.Seconds+r.Seconds, max(f.Version, r.Version)
		for _, w := range r.Windows {
			last[w.Window] = w
		}
	}
	for _, p := range plan.fills {
		switch w, ok := last[p.Value]; {
		case !ok:
			f.Left = append(f.Left, p.Value)
		case w.Error != "" || f.Version < 0:
			f.Failed = append(f.Failed, w)
		default:
			f.Published = append(f.Published, w)
			f.Rows += w.Rows
		}
	}
	return f
}

func (g *globals) printFilled(f filled) {
	g.printf("%s: %d windows published with %s rows, %.1fs\n", f.Job, len(f.Published), count(f.Rows), f.Seconds)
	if f.Version >= 0 {
		g.printf("  dataset   %s, version %d\n", f.Dataset, f.Version)
	}
	for _, w := range f.Failed {
		g.printf("  FAILED    %s: %s\n", w.Window, w.Error)
	}
	if len(f.Left) > 0 {
		slices.Sort(f.Left)
		g.printf("  left      %d windows, %s to %s: the same command goes on with them\n", len(f.Left), f.Left[0], f.Left[len(f.Left)-1])
	}
}
