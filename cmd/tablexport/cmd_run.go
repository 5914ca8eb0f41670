package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/jobs"
)

// runOptions are the flags of `run`.
type runOptions struct {
	all          bool
	acceptSchema bool
	lowMemory    bool
	parallel     int
	set          string
}

func runCommand(g *globals) *cobra.Command {
	var o runOptions
	c := &cobra.Command{
		Use:   "run JOB...",
		Short: "Refresh the datasets of jobs, now",
		Long: `Refresh the datasets of jobs, now.

Each job borrows its token from the vault (audited), reads its table, proves that no row was lost and that every row is
inside its scope, and publishes the new version at once. If anything is wrong, the previous version stands.

When several jobs are named, one that fails does not stop the others; the exit code is that of the first failure.`,
		Example: `  tablexport run order-lines
  tablexport run --all --json
  tablexport run order-lines --accept-schema    # publish although columns went or changed type
  tablexport run --set sales                    # the jobs of a set, published together`,
		ValidArgsFunction: g.completeJobs,
		RunE: func(c *cobra.Command, args []string) error {
			return g.run(c.Context(), args, o)
		},
	}
	c.Flags().BoolVar(&o.all, "all", false, "run every job of the configuration")
	c.Flags().BoolVar(&o.acceptSchema, "accept-schema", false, "publish although columns went, changed type or became stricter")
	c.Flags().BoolVar(&o.lowMemory, "low-memory", false, "smaller row groups, and nothing is read ahead: slower, for small machines")
	c.Flags().StringVar(&o.set, "set", "", "run the jobs of a `set` and publish them together: see tablexport sets --help")
	c.Flags().IntVar(&o.parallel, "parallel", 1, "`jobs` at the same time; the instance's own limits hold all the same")
	return c
}

func (g *globals) run(ctx context.Context, args []string, o runOptions) error {
	defer sparing(o.lowMemory)()
	a, err := g.open()
	if err != nil {
		return err
	}
	defer a.close()
	if o.set != "" {
		if len(args) > 0 || o.all {
			return usagef("--set runs the jobs of a set, one by one: name no jobs beside it")
		}
		return a.runSet(ctx, o.set, o)
	}
	names, err := a.jobNames(args, o.all)
	if err != nil {
		return err
	}
	if o.parallel < 1 || o.parallel > 64 {
		return usagef("--parallel takes a whole number from 1 to 64")
	}
	runner, err := a.runner(ctx, names)
	if err != nil {
		return err
	}
	errs := make([]error, len(names))
	show := g.newProgress(len(names) == 1 || o.parallel == 1)
	var group errgroup.Group
	group.SetLimit(o.parallel)
	for i, name := range names {
		group.Go(func() error {
			errs[i] = a.runOne(ctx, runner, name, o, show)
			return nil
		})
	}
	_ = group.Wait() // the functions return no error: one job must not stop another
	return firstOf(errs)
}

func (a *app) runOne(ctx context.Context, runner *jobs.Runner, name string, o runOptions, show *progress) error {
	job, err := a.job(name)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("job %s was not started: %w", name, err)
	}
	result, err := runner.Run(ctx, jobs.Request{Job: job, AcceptSchema: o.acceptSchema, LowMemory: o.lowMemory, Progress: show.update})
	show.end()
	var published *jobs.PublishedError
	var some *jobs.WindowsError
	if err != nil && !errors.As(err, &published) && !errors.As(err, &some) {
		return a.located(err)
	}
	// What was published is shown even if something failed behind it, or other windows did.
	return errors.Join(err, a.emit(result, func() { a.printResult(result) }))
}

func (g *globals) printResult(r jobs.Result) {
	ev := r.Evidence
	if r.Version < 0 && len(r.Windows) == 0 {
		g.printf("%s: no window is due, nothing was read (%.1fs)\n", r.Job, r.Seconds)
		return
	}
	g.printf("%s: version %d, %s rows in %d file(s), %s, %.1fs\n", r.Job, r.Version, count(r.Rows), r.Files, size(r.Bytes), r.Seconds)
	g.printf("  table     %s\n  dataset   %s\n", r.Table, r.Dataset)
	scope := r.Scope.Name + ", " + string(r.Scope.Enforcement)
	if len(r.Scope.Delegated) > 0 {
		scope += " (by the server alone: " + strings.Join(r.Scope.Delegated, ", ") + ")"
	}
	g.printf("  scope     %s\n", scope)
	for i, rule := range r.Scope.Owners {
		what := "          "
		if i == 0 {
			what = "  via owner "
		}
		g.printf("%s%s\n", what, rule)
	}
	for _, o := range r.Owners {
		g.printf("  owners    %s keys of %s in scope, for %s (%s, %d requests)\n", count(int64(o.Keys)), o.Table, o.Column, size(o.Bytes), o.Evidence.Requests)
	}
	proof := fmt.Sprintf("%s paging, order %s, end seen by %s", ev.Paging, ev.Order, ev.End)
	if n := len(r.Windows); n > 0 {
		proof = fmt.Sprintf("%d windows, %s", n, proof)
	}
	if ev.CountBefore != nil && ev.CountAfter != nil {
		proof += fmt.Sprintf(", count %s before and %s after", count(*ev.CountBefore), count(*ev.CountAfter))
	}
	if ev.Confirmed {
		proof += ", confirmed by a second pass"
	}
	if ev.Attempts > 1 {
		proof += fmt.Sprintf(", scan %d", ev.Attempts)
	}
	g.printf("  complete  %s (%d requests)\n", proof, ev.Requests)
	if r.Quarantined > 0 {
		g.printf("  misfits   %s row(s) that do not fit are in %s\n", count(r.Quarantined), r.Dataset+export.QuarantineSuffix)
	}
	for _, kept := range r.Contract {
		g.printf("  contract  %s\n", kept)
	}
	for _, change := range r.Schema {
		g.printf("  schema    %s\n", change)
	}
	if len(r.Windows) > 0 {
		g.printWindows(r)
	}
	g.printMerge(r)
}

// printMerge says what a refresh by changes has found, or why it has read everything.
func (g *globals) printMerge(r jobs.Result) {
	if r.Whole != "" {
		g.printf("  whole     %s\n", r.Whole)
	}
	m := r.Merge
	if m == nil {
		return
	}
	g.printf("  changes   %s rows read anew (%d request(s)), %s replaced, %s deleted, %s copied; the dataset has %s rows\n", count(m.Written), m.Fetch.Requests,
		count(m.Dropped-m.Deleted), count(m.Deleted), count(m.Copied), count(m.After))
	if m.Partial {
		g.printf("  note      by time of change: rows that are deleted, or leave the filter or the scope, are seen when everything is compared\n")
	}
}

// printWindows lists what was read and why, a line for each window.
func (g *globals) printWindows(r jobs.Result) {
	rows := [][]string{{"  WINDOW", "ROWS", "REQUESTS", "SECONDS", "WHY"}}
	for _, w := range r.Windows {
		why := w.Reason.Text()
		if w.Attempts > 1 {
			why += fmt.Sprintf(" (scan %d)", w.Attempts)
		}
		if w.Error != "" {
			why = "NOT PUBLISHED: " + w.Error
		}
		rows = append(rows, []string{"  " + w.Window, count(w.Rows), count(w.Requests), fmt.Sprintf("%.1f", w.Seconds), why})
	}
	g.table(rows)
	if len(r.Expired) > 0 {
		g.printf("  expired   %s\n", strings.Join(r.Expired, ", "))
	}
}

// firstOf joins the errors of several jobs; the first decides the exit code.
func firstOf(errs []error) error {
	errs = slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err == nil })
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	return &several{errs: errs}
}
