package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/odata/edm"
)

// diffFlags are the options of `datasets diff`; a version of -1 was not given.
type diffFlags struct {
	from, to int64
	key      []string
}

func diffCommand(g *globals) *cobra.Command {
	f := &diffFlags{}
	c := &cobra.Command{
		Use:   "diff JOB",
		Short: "Count the rows that were added, removed and changed between two versions",
		Long: `Count the rows that were added, removed and changed between two versions, by key. The published files of both are
read, and nobody is asked. By default the newest version is held against the one before it, by the table's key.`,
		Example: `  tablexport datasets diff order-lines
  tablexport datasets diff order-lines --from 3 --to 7`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: g.completeJobs,
		RunE:              func(c *cobra.Command, args []string) error { return g.diffDataset(c.Context(), args[0], f) },
	}
	c.Flags().Int64Var(&f.from, "from", -1, "the older `version` (default: the one before --to)")
	c.Flags().Int64Var(&f.to, "to", -1, "the newer `version` (default: the newest)")
	c.Flags().StringSliceVar(&f.key, "key", nil, "`columns` that identify a row (default: the table's key)")
	return c
}

func (g *globals) diffDataset(ctx context.Context, name string, f *diffFlags) error {
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
	from, to := f.from, f.to
	if to < 0 {
		to = s.Version
	}
	if from < 0 {
		from = to - 1
	}
	if from < 0 || to > s.Version || from >= to {
		return usagef("the dataset of %s has the versions 0 to %d; choose two of them, the older one with --from", name, s.Version)
	}
	key := f.key
	if len(key) == 0 {
		if key, err = a.publishedKey(name); err != nil {
			return err
		}
	}
	diff, err := d.Diff(ctx, from, to, key)
	if errors.Is(err, export.ErrNotKey) {
		return usagef("%w; choose columns with --key", err)
	}
	if err != nil {
		return err
	}
	view := struct {
		Job string `json:"job"`
		export.Diff
	}{name, diff}
	return g.emit(view, func() {
		g.printf("%s, from version %d to %d by %s: %s added, %s removed, %s changed, %s unchanged\n", name, from, to, strings.Join(key, ", "),
			count(diff.Added), count(diff.Removed), count(diff.Changed), count(diff.Unchanged))
		if len(diff.Columns) > 0 {
			g.printf("  not compared, because only one version has them or their type changed: %s\n", strings.Join(diff.Columns, ", "))
		}
	})
}

// publishedKey is the key of a job's table, as the built-in model knows it.
func (a *app) publishedKey(name string) ([]string, error) {
	job, err := a.job(name)
	if err != nil {
		return nil, err
	}
	if plan, err := jobs.NewPlan(job, edm.Embedded()); err == nil && len(plan.PublishedKey()) > 0 {
		return plan.PublishedKey(), nil
	}
	return nil, usagef("the key of %s is not published or not known; name the columns that identify a row with --key", job.Table)
}
