package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/lease"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/audit"
)

func vacuumCommand(g *globals) *cobra.Command {
	var retain time.Duration
	var dryRun bool
	c := &cobra.Command{
		Use:   "vacuum JOB",
		Short: "Delete the files of older versions whose retention has ended",
		Long: `Delete the files that refreshes have replaced longer ago than the retention. Versions that need them cannot be read any more, and the
newest version is left alone, and so are those that a set's pointer needs. The retention is the table's delta.deletedFileRetentionDuration, or a week; an hour is the least.`,
		Example: `  tablexport datasets vacuum order-lines --dry-run
  tablexport datasets vacuum order-lines --retain 720h`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: g.completeJobs,
		RunE: func(c *cobra.Command, args []string) error {
			return g.vacuumDataset(c.Context(), args[0], retain, dryRun)
		},
	}
	c.Flags().DurationVar(&retain, "retain", 0, "how long replaced files stay, 1h at least (default: the table's own, or 168h)")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only count")
	return c
}

func rollbackCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "rollback JOB VERSION",
		Short: "Publish an older version again, as a new one",
		Long: `Publish a version that holds what an older version held: rows, columns and the job's progress. Nothing is copied, and what was published
since stays readable as any older version does. The next run of the job refreshes the dataset as ever. A version whose files were
vacuumed is refused; datasets show lists those that can be brought back.`,
		Example:           "  tablexport datasets rollback order-lines 41",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: g.completeJobs,
		RunE:              func(c *cobra.Command, args []string) error { return g.rollbackDataset(c.Context(), args[0], args[1]) },
	}
}

func compactCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "compact JOB",
		Short: "Merge small files of a window, so that readers open fewer",
		Long: `Merge small files of the same window into files of 512 MiB. No row changes, and refreshes may go on meanwhile: where one replaces
the same window, it wins, and the window is left to the next compaction. The small files stay until a vacuum.`,
		Example:           "  tablexport datasets compact order-lines",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: g.completeJobs,
		RunE:              func(c *cobra.Command, args []string) error { return g.compactDataset(c.Context(), args[0]) },
	}
}

func unlockCommand(g *globals) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "unlock JOB",
		Short: "Free a dataset that a dead machine's lease keeps",
		Long: `While a job refreshes a dataset it holds a lease on it, so that another state directory, on another machine say, does not refresh it too. A lease
whose holder is dead runs out by itself within a minute. This command takes it at once, from a living holder too: that one stops at its next look at the
lease, and publishes nothing. Data is never harmed by it.`,
		Example: `  tablexport datasets unlock order-lines
  tablexport datasets unlock order-lines --yes`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: g.completeJobs,
		RunE:              func(c *cobra.Command, args []string) error { return g.unlockDataset(c.Context(), args[0], yes) },
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

func (g *globals) unlockDataset(ctx context.Context, name string, yes bool) error {
	a, d, err := g.openDataset(ctx, name)
	if err != nil {
		return err
	}
	defer a.close()
	holders, err := d.LeaseHolders(ctx)
	if err != nil {
		return err
	}
	if len(holders) > 0 {
		g.printHolders(holders)
		if err := g.confirm(ctx, yes, "Take the dataset of "+name+" from its holder now?", "look with: tablexport datasets show "+name); err != nil {
			return err
		}
		err = a.cared(ctx, "unlock", name, map[string]string{"dataset": d.Location()}, func(detail map[string]string) (err error) {
			for _, c := range holders {
				detail["holder"], detail["holderRun"] = c.Process, c.Run
			}
			holders, err = d.BreakLease(ctx, lease.Options{Owner: "unlock by " + actor(), Process: jobs.Process(), Job: name})
			return err
		})
		if err != nil {
			return err
		}
	}
	return g.emit(map[string]any{"job": name, "freed": len(holders)}, func() {
		if len(holders) == 0 {
			g.printf("%s: nobody holds a lease on its dataset\n", name)
			return
		}
		g.printf("%s: its dataset is free\n", name)
	})
}

// printHolders says who holds a dataset, and when they were last heard of.
func (g *globals) printHolders(holders []lease.Claim) {
	for _, c := range holders {
		host, _, _ := strings.Cut(c.Process, ":")
		g.printf("held by: host %s (%s), job %s, run %s, since %s, last heard of %s\n", host, c.Process, c.Job, c.Run, stamp(c.Since), stamp(c.Renewed))
	}
}

// engine is how this program signs its commits.
func engine() string { return "tablexport/" + buildVersion() }

// cared audits a change of a dataset that is not a refresh, as a refresh's publishing is audited: before, so that a failing audit write
// blocks it, and after. A crash between the two leaves "started" alone, and the dataset's log says what happened. do fills in detail.
func (a *app) cared(ctx context.Context, action, job string, detail map[string]string, do func(detail map[string]string) error) error {
	log, err := a.audit()
	if err != nil {
		return err
	}
	entry := func(outcome string) audit.Entry {
		return audit.Entry{Action: action, Subject: job, Job: job, Table: a.cfg.Jobs[job].Table, Outcome: outcome, Detail: detail, Actor: actor()}
	}
	unaudited := func(err error) error {
		if err == nil {
			return nil
		}
		return fmt.Errorf("%w: %w", secrets.ErrAudit, err)
	}
	if _, err := log.Append(ctx, entry(audit.Started)); err != nil {
		return fmt.Errorf("nothing was changed: %w", unaudited(err))
	}
	outcome := audit.OK
	err = do(detail)
	if err != nil {
		outcome, detail["class"] = audit.Failed, string(jobs.Classify(err))
	}
	_, aerr := log.Append(context.WithoutCancel(ctx), entry(outcome))
	return errors.Join(err, unaudited(aerr))
}

// held are the versions of a job's dataset that sets need.
func (a *app) held(ctx context.Context, job string) func(time.Time) ([]int64, error) {
	return func(before time.Time) ([]int64, error) { return a.heldVersions(ctx, job, before) }
}

func (g *globals) vacuumDataset(ctx context.Context, name string, retain time.Duration, dryRun bool) error {
	if retain != 0 && retain < export.MinRetention {
		return usagef("--retain %s: replaced files must stay for an hour at least, because readers may be using them", retain)
	}
	a, d, err := g.openDataset(ctx, name)
	if err != nil {
		return err
	}
	defer a.close()
	var report export.VacuumReport
	do := func(detail map[string]string) (err error) {
		report, err = d.Vacuum(ctx, export.VacuumSpec{Engine: engine(), Retain: retain, DryRun: dryRun, Hold: a.held(ctx, name)})
		detail["retain"], detail["files"], detail["bytes"] = report.Retain.String(), strconv.Itoa(report.Removed), strconv.FormatInt(report.Bytes, 10)
		return err
	}
	if dryRun {
		err = do(map[string]string{})
	} else {
		err = a.cared(ctx, "vacuum", name, map[string]string{"dataset": d.Location()}, do)
	}
	if err != nil {
		return notPublished(err, name)
	}
	view := map[string]any{"job": name, "version": report.Version, "retain": report.Retain.String(), "dryRun": dryRun,
		"found": report.Found, "removed": report.Removed, "bytes": report.Bytes, "kept": report.Kept}
	return g.emit(view, func() {
		what := "deleted"
		if dryRun {
			what = "would be deleted"
		}
		g.printf("%s: %d file(s), %s %s; %d replaced file(s) are younger than %s and stay\n", name, report.Found, size(report.Bytes), what, report.Kept, report.Retain)
	})
}

func (g *globals) rollbackDataset(ctx context.Context, name, text string) error {
	to, err := strconv.ParseInt(text, 10, 64)
	if err != nil || to < 0 {
		return usagef("%q is no version: give the number that datasets show lists", text)
	}
	a, d, err := g.openDataset(ctx, name)
	if err != nil {
		return err
	}
	defer a.close()
	s, err := d.Snapshot(ctx)
	if err != nil {
		return err
	}
	if s.Version < 0 {
		return notPublished(delta.ErrNoVersion, name)
	}
	if to > s.Version {
		return usagef("the dataset of %s has the versions 0 to %d", name, s.Version)
	}
	var c export.Commit
	err = a.cared(ctx, "rollback", name, map[string]string{"dataset": d.Location(), "to": text}, func(detail map[string]string) (err error) {
		c, err = d.Rollback(ctx, to, engine())
		detail["version"] = strconv.FormatInt(c.Version, 10)
		return err
	})
	if err != nil {
		return err
	}
	return g.emit(map[string]any{"job": name, "to": to, "version": c.Version, "added": c.Files, "removed": c.Removed, "unchanged": c.Repeated}, func() {
		if c.Repeated {
			g.printf("%s: version %d holds what version %d held; nothing to do\n", name, c.Version, to)
			return
		}
		g.printf("%s: version %d holds what version %d held: %d file(s) are back, %d went\n", name, c.Version, to, c.Files, c.Removed)
	})
}

func (g *globals) compactDataset(ctx context.Context, name string) error {
	a, d, err := g.openDataset(ctx, name)
	if err != nil {
		return err
	}
	defer a.close()
	var report export.CompactReport
	err = a.cared(ctx, "compact", name, map[string]string{"dataset": d.Location()}, func(detail map[string]string) (err error) {
		report, err = d.Compact(ctx, export.CompactSpec{Engine: engine()})
		detail["version"], detail["files"], detail["into"] = strconv.FormatInt(report.Version, 10), strconv.Itoa(report.Merged), strconv.Itoa(report.Into)
		return err
	})
	if err != nil {
		return notPublished(err, name)
	}
	return g.emit(map[string]any{"job": name, "report": report}, func() {
		g.printf("%s: %d file(s) merged into %d, %s into %s\n", name, report.Merged, report.Into, size(report.Before), size(report.After))
		if report.Skipped > 0 {
			g.printf("%d window(s) were refreshed meanwhile and left as they are\n", report.Skipped)
		}
	})
}

// careView is what can still be done with older versions.
type careView struct {
	Readable   []int64 `json:"readable"`   // older versions all of whose files are there, newest first
	Reclaim    int64   `json:"reclaim"`    // bytes that a vacuum would free now
	Retained   int     `json:"retained"`   // replaced files that a vacuum would keep
	Checkpoint int64   `json:"checkpoint"` // version of the newest checkpoint, -1 if there is none
}

// careOf looks which of the versions that are listed can be read, and what a vacuum would free.
func (a *app) careOf(ctx context.Context, job string, d *export.Dataset, history []export.Version) (careView, error) {
	view := careView{Readable: []int64{}}
	s, err := d.Snapshot(ctx)
	if err != nil {
		return view, err
	}
	view.Checkpoint = s.Checkpoint
	dry, err := d.Vacuum(ctx, export.VacuumSpec{Engine: engine(), DryRun: true, Hold: a.held(ctx, job)})
	if err != nil {
		return view, err
	}
	view.Reclaim, view.Retained = dry.Bytes, dry.Kept
	for _, v := range history {
		if v.Version == s.Version {
			continue
		}
		gone, err := d.MissingFiles(ctx, v.Version)
		if errors.Is(err, delta.ErrNoVersion) {
			continue
		}
		if err != nil {
			return view, err
		}
		if len(gone) == 0 {
			view.Readable = append(view.Readable, v.Version)
		}
	}
	return view, nil
}

func (g *globals) printCare(v careView) {
	g.printf("\nolder versions that can be read, of those above: %s\n", orNone(versionRanges(v.Readable)))
	g.printf("a vacuum would free %s now, and keep %d replaced file(s)\n", size(v.Reclaim), v.Retained)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// versionRanges writes versions that go down one by one as "9–7, 3".
func versionRanges(versions []int64) (out string) {
	for i := 0; i < len(versions); {
		j := i
		for j+1 < len(versions) && versions[j+1] == versions[j]-1 {
			j++
		}
		if out != "" {
			out += ", "
		}
		if out += strconv.FormatInt(versions[i], 10); j > i {
			out += "–" + strconv.FormatInt(versions[j], 10)
		}
		i = j + 1
	}
	return out
}
