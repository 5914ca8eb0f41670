package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/lease"
)

func datasetsCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "datasets",
		Short: "List, show, open, verify and look after what was published",
		Example: `  tablexport datasets list
  tablexport datasets show order-lines`,
	}
	list := &cobra.Command{
		Use:     "list",
		Short:   "List the datasets of the configuration's jobs",
		Example: "  tablexport datasets list",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return g.listDatasets(c.Context()) },
	}
	var limit int
	show := &cobra.Command{
		Use:               "show JOB",
		Short:             "Show a dataset: columns, files, versions and the evidence of each",
		Example:           "  tablexport datasets show order-lines\n  tablexport datasets show order-lines --json | jq .versions[0].evidence",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: g.completeJobs,
		RunE:              func(c *cobra.Command, args []string) error { return g.showDataset(c.Context(), args[0], limit) },
	}
	show.Flags().IntVarP(&limit, "versions", "n", 10, "how many `versions`; 0 = all that the log has")
	c.AddCommand(list, show, diffCommand(g), vacuumCommand(g), rollbackCommand(g), compactCommand(g), unlockCommand(g), &cobra.Command{
		Use:               "sql JOB",
		Short:             "Print ready-to-paste text that opens the dataset in DuckDB, Spark, Power BI and pandas",
		Example:           "  tablexport datasets sql order-lines",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: g.completeJobs,
		RunE:              func(c *cobra.Command, args []string) error { return g.snippets(c.Context(), args[0]) },
	}, &cobra.Command{
		Use:   "verify [JOB...]",
		Short: "Read every file again and hold it against the log",
		Long: `Read every live file of the datasets again and hold it against the log: size, rows, schema, every page, statistics. Without
arguments all datasets of the configuration are verified. Exit code 8 when something is not as the log says.`,
		Example:           "  tablexport datasets verify\n  tablexport datasets verify order-lines",
		ValidArgsFunction: g.completeJobs,
		RunE:              func(c *cobra.Command, args []string) error { return g.verifyDatasets(c.Context(), args) },
	})
	return c
}

// datasetView is a dataset in a list.
type datasetView struct {
	Job      string `json:"job"`
	Location string `json:"location"`
	Version  int64  `json:"version"` // -1: nothing was published yet
	Rows     int64  `json:"rows"`
	Files    int    `json:"files"`
	Bytes    int64  `json:"bytes"`
	Updated  string `json:"updated,omitempty"`
	Scope    string `json:"scope,omitempty"`
}

func (g *globals) listDatasets(ctx context.Context) error {
	a, err := g.open()
	if err != nil {
		return err
	}
	defer a.close()
	rows := [][]string{{"JOB", "VERSION", "ROWS", "SIZE", "AGE", "SCOPE", "LOCATION"}}
	var failed []error
	for _, name := range a.cfg.JobNames() {
		view, updated, err := a.viewDataset(ctx, name)
		if err != nil {
			failed = append(failed, fmt.Errorf("dataset of %s: %w", name, err))
			continue
		}
		if g.json {
			if err := g.emit(view, nil); err != nil {
				return err
			}
			continue
		}
		if view.Version < 0 {
			rows = append(rows, []string{name, "-", "-", "-", "never", "-", view.Location})
			continue
		}
		rows = append(rows, []string{name, fmt.Sprint(view.Version), count(view.Rows), size(view.Bytes), updated, view.Scope, view.Location})
	}
	if !g.json {
		g.table(rows)
	}
	return firstOf(failed)
}

func (a *app) viewDataset(ctx context.Context, name string) (view datasetView, updated string, err error) {
	d, err := a.dataset(ctx, name)
	if err != nil {
		return view, "", err
	}
	view = datasetView{Job: name, Location: d.Location(), Version: -1}
	s, err := d.Snapshot(ctx)
	if err != nil || s.Version < 0 {
		return view, "", err
	}
	files, err := d.Files(ctx)
	if err != nil {
		return view, "", err
	}
	view.Version, view.Files, view.Updated = s.Version, len(files), s.Timestamp.UTC().Format("2006-01-02T15:04:05Z")
	for _, f := range files {
		view.Rows += max(f.Rows, 0)
		view.Bytes += f.Size
	}
	if history, err := d.History(ctx, 1); err == nil && len(history) == 1 {
		view.Scope = strings.TrimSpace(history[0].Scope.Name + " (" + string(history[0].Scope.Enforcement) + ")")
	}
	return view, age(s.Timestamp), nil
}

func (g *globals) showDataset(ctx context.Context, name string, limit int) error {
	if err := atLeastNone("versions", limit); err != nil {
		return err
	}
	a, d, err := g.openDataset(ctx, name)
	if err != nil {
		return err
	}
	defer a.close()
	fields, err := publishedFields(ctx, d)
	if err != nil {
		return notPublished(err, name)
	}
	files, err := d.Files(ctx)
	if err != nil {
		return err
	}
	history, err := d.History(ctx, limit)
	if err != nil {
		return err
	}
	columns := make([]map[string]string, len(fields))
	head := [][]string{{"COLUMN", "TYPE", "MEANING"}}
	for i, f := range fields {
		columns[i] = map[string]string{"name": f.Name, "type": f.Type, "comment": f.Comment()}
		head = append(head, []string{f.Name, f.Type, f.Comment()})
	}
	windows, err := d.Windows(ctx)
	if err != nil {
		return err
	}
	care, err := a.careOf(ctx, name, d, history)
	if err != nil {
		return err
	}
	holders, err := d.LeaseHolders(ctx)
	if err != nil {
		return err
	}
	all := map[string]any{"leases": slices.Concat([]lease.Claim{}, holders), "care": care, "job": name, "location": d.Location(), "columns": columns, "files": files, "windows": slices.Concat([]export.Window{}, windows), "versions": history}
	return g.emit(all, func() {
		g.printf("%s at %s\n\n", name, d.Location())
		g.printHolders(holders)
		g.table(head)
		g.printf("\n")
		rows := [][]string{{"FILE", "ROWS", "SIZE"}}
		for _, f := range files {
			rows = append(rows, []string{f.Key, count(f.Rows), size(f.Size)})
		}
		g.table(rows)
		g.printf("\n")
		if len(windows) > 0 {
			g.printHeld(windows)
		}
		g.printVersions(history)
		g.printCare(care)
	})
}

// printHeld lists the windows that a dataset holds, newest first.
func (g *globals) printHeld(windows []export.Window) {
	rows := [][]string{{"WINDOW", "ROWS", "SIZE", "READ", "STATE"}}
	for _, w := range slices.Backward(windows) {
		read, state := "-", "proven complete"
		if !w.Loaded.IsZero() {
			read = stamp(w.Loaded)
		}
		if w.Problem != "" {
			state = w.Problem
		}
		value := w.Value
		if value == "" {
			value = "(no date)"
		}
		rows = append(rows, []string{value, count(w.Rows), size(w.Bytes), read, state})
	}
	g.table(rows)
	g.printf("\n")
}

// publishedFields are the columns as the Delta log describes them, types in its words.
func publishedFields(ctx context.Context, d *export.Dataset) ([]delta.Field, error) {
	s, err := d.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	if s.Version < 0 {
		return nil, delta.ErrNoVersion
	}
	return delta.ParseSchema(s.Metadata.SchemaString)
}

func (g *globals) printVersions(history []export.Version) {
	rows := [][]string{{"VERSION", "PUBLISHED", "ROWS", "FILES", "SCOPE", "EVIDENCE"}}
	for _, v := range history {
		evidence := "by another engine: " + v.Operation
		if v.Care != "" {
			evidence = v.Care
		} else if len(v.Windows)+len(v.Expired) > 0 {
			evidence = windowsChanged(v)
		} else if ev := v.Evidence; ev != nil {
			evidence = fmt.Sprintf("%s, order %s, %d pages, %d requests, end by %s", ev.Paging, ev.Order, ev.Pages, ev.Requests, ev.End)
			if ev.CountAfter != nil {
				evidence += fmt.Sprintf(", count %s", count(*ev.CountAfter))
			}
		}
		if m := v.Merge; m != nil {
			evidence = fmt.Sprintf("merge: %s read anew, %s replaced, %s deleted, %s in all; %s", count(m.Written), count(m.Dropped-m.Deleted), count(m.Deleted), count(m.After), evidence)
		}
		rows = append(rows, []string{fmt.Sprint(v.Version), stamp(v.Timestamp), count(v.Rows), fmt.Sprint(v.Files),
			fmt.Sprintf("%s (%s)", v.Scope.Name, v.Scope.Enforcement), evidence})
		if v.Quarantined > 0 {
			rows = append(rows, []string{"", "", "", "", "", count(v.Quarantined) + " row(s) that did not fit are in the quarantine"})
		}
		for _, rule := range v.Scope.Owners {
			rows = append(rows, []string{"", "", "", "", "", "verified via owner: " + rule})
		}
		for _, line := range v.SchemaDiff {
			rows = append(rows, []string{"", "", "", "", "", "schema " + line})
		}
	}
	g.table(rows)
}

// windowsChanged says which windows a version has read anew, the first few of them.
func windowsChanged(v export.Version) string {
	var parts []string
	if n := len(v.Windows); n > 0 {
		first, dots := v.Windows, ""
		if n > 3 {
			first, dots = first[:3], " …"
		}
		var names []string
		for _, w := range first {
			names = append(names, w.Value)
		}
		parts = append(parts, fmt.Sprintf("%d windows read: %s%s", n, strings.Join(names, " "), dots))
	}
	if n := len(v.Expired); n > 0 {
		parts = append(parts, fmt.Sprintf("%d expired", n))
	}
	return strings.Join(parts, "; ")
}

// notPublished says what to do about a dataset without a version.
func notPublished(err error, job string) error {
	if errors.Is(err, delta.ErrNoVersion) {
		return fmt.Errorf("the dataset of %s has no version yet; publish one with: tablexport run %s (%w)", job, job, err)
	}
	return err
}

func (g *globals) snippets(ctx context.Context, name string) error {
	a, d, err := g.openDataset(ctx, name)
	if err != nil {
		return err
	}
	defer a.close()
	all, err := d.Snippets(ctx)
	if err != nil {
		return notPublished(err, name)
	}
	for _, s := range all {
		if err := g.emit(s, func() {
			g.printf("── %s\n", s.Tool)
			if s.Note != "" {
				g.printf("   (%s)\n", s.Note)
			}
			g.printf("\n%s\n\n", strings.TrimRight(s.Text, "\n"))
		}); err != nil {
			return err
		}
	}
	return nil
}

// damagedError says that published files are not what the log says.
type damagedError struct{ jobs []string }

func (e *damagedError) Error() string {
	return "not as the log says: " + strings.Join(e.jobs, ", ") + "; publish anew with: tablexport run " + strings.Join(e.jobs, " ")
}

func (g *globals) verifyDatasets(ctx context.Context, args []string) error {
	a, err := g.open()
	if err != nil {
		return err
	}
	defer a.close()
	names, err := a.jobNames(args, len(args) == 0)
	if err != nil {
		return err
	}
	var failed []error
	damaged := &damagedError{}
	for _, name := range names {
		d, err := a.dataset(ctx, name)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		report, err := d.Verify(ctx)
		if errors.Is(err, delta.ErrNoVersion) && len(args) == 0 {
			g.printf("%s: nothing was published yet\n", name)
			continue
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("dataset of %s: %w", name, notPublished(err, name)))
			continue
		}
		if len(report.Problems) > 0 {
			damaged.jobs = append(damaged.jobs, name)
		}
		if err := g.emit(map[string]any{"job": name, "version": report.Version, "files": report.Files, "rows": report.Rows, "bytes": report.Bytes, "problems": slices.Concat([]string{}, report.Problems)}, func() {
			verdict := "as the log says"
			if n := len(report.Problems); n > 0 {
				verdict = fmt.Sprintf("%d PROBLEM(S)\n  %s", n, strings.Join(report.Problems, "\n  "))
			}
			g.printf("%s: version %d, %d file(s), %s rows, %s read again: %s\n", name, report.Version, report.Files, count(report.Rows), size(report.Bytes), verdict)
		}); err != nil {
			return err
		}
	}
	if len(damaged.jobs) > 0 {
		failed = append(failed, damaged)
	}
	return firstOf(failed)
}
