package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/configs"
	"github.com/tablexport/tablexport/jobs/ledger"
)

func runsCommand(g *globals) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use:               "runs [JOB]",
		Short:             "Show the history of runs, newest first",
		Long:              "Show the history of runs, newest first, as the ledger keeps it. The datasets' own logs are the truth about what is published.",
		Example:           "  tablexport runs order-lines -n 5\n  tablexport runs --json",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: g.completeJobs,
		RunE: func(c *cobra.Command, args []string) error {
			job := ""
			if len(args) == 1 {
				job = args[0]
			}
			return g.history(c.Context(), job, limit)
		},
	}
	c.Flags().IntVarP(&limit, "lines", "n", 20, "how many `runs`; 0 = all")
	return c
}

func pruneCommand(g *globals) *cobra.Command {
	var older string
	var dryRun bool
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove old runs and ticks from the ledger",
		Long: `Remove runs and ticks from the ledger that began longer ago than a time, 35 days at least. The newest 20 of each job stay, and so does its last run that
published. serve does this by itself, every day, for what is older than serve.history. Datasets and the audit log are not touched.`,
		Example: "  tablexport schedule prune --dry-run\n  tablexport schedule prune --older-than 90d",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return g.prune(c.Context(), older, dryRun)
		},
	}
	c.Flags().StringVar(&older, "older-than", "", "such as 90d; default: serve.history, 400d where it is not written")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only count")
	return c
}

func (g *globals) prune(ctx context.Context, older string, dryRun bool) error {
	a, err := g.open()
	if err != nil {
		return err
	}
	defer a.close()
	keep := time.Duration(a.cfg.Serve.History)
	if older != "" {
		if keep, err = configs.ParseDuration(older); err != nil {
			return usagef("--older-than %q: write it like 90d", older)
		}
	}
	if keep < ledger.MinHistory {
		return usagef("--older-than %s: 35d is the least", older)
	}
	l, err := a.ledger(ctx)
	if err != nil {
		return err
	}
	before := time.Now().Add(-keep)
	pruned, err := l.Prune(ctx, before, dryRun)
	if err != nil {
		return err
	}
	return g.emit(map[string]any{"before": before.UTC().Truncate(time.Second), "dryRun": dryRun, "runs": pruned.Runs, "ticks": pruned.Ticks, "bytes": l.Size()}, func() {
		what := "removed"
		if dryRun {
			what = "would be removed"
		}
		g.printf("%s run(s) and %s tick(s) from before %s %s; the ledger takes %s\n", count(pruned.Runs), count(pruned.Ticks), before.UTC().Format(time.DateOnly), what, size(l.Size()))
	})
}

func (g *globals) history(ctx context.Context, job string, limit int) error {
	if err := atLeastNone("lines", limit); err != nil {
		return err
	}
	a, err := g.open()
	if err != nil {
		return err
	}
	defer a.close()
	if _, ok := a.cfg.Jobs[job]; job != "" && !ok {
		return a.noJob(job)
	}
	l, err := a.ledger(ctx)
	if err != nil {
		return err
	}
	runs, err := l.List(ctx, ledger.Query{Job: job, Limit: limit})
	if err != nil {
		return err
	}
	rows := [][]string{{"STARTED", "JOB", "STATE", "VERSION", "ROWS", "SECONDS", "RUN", "WHAT WENT WRONG"}}
	for _, r := range runs {
		if g.json {
			if err := g.emit(viewRun(r), nil); err != nil {
				return err
			}
			continue
		}
		version, seconds, what := "-", "-", ""
		if r.Version >= 0 {
			version = fmt.Sprint(r.Version)
		}
		if !r.Ended.IsZero() {
			seconds = fmt.Sprintf("%.1f", r.Ended.Sub(r.Started).Seconds())
		}
		if r.Error != "" {
			what = strings.ReplaceAll(r.Error, "\n", "; ")
			if r.Class != "" { // an interrupted run has none: nobody saw its end
				what = r.Class + ": " + what
			}
		}
		rows = append(rows, []string{stamp(r.Started), r.Job, string(r.State), version, count(r.Rows), seconds, r.ID, what})
	}
	if !g.json {
		if len(rows) == 1 {
			g.printf("no runs yet\n")
			return nil
		}
		g.table(rows)
	}
	return nil
}

// runView is a run as --json prints it: its evidence as an object, not as text.
type runView struct {
	ledger.Run
	Evidence json.RawMessage `json:"evidence,omitempty"`
}

func viewRun(r ledger.Run) runView {
	v := runView{Run: r}
	if json.Valid([]byte(r.Evidence)) {
		v.Evidence = json.RawMessage(r.Evidence)
	}
	return v
}
