package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

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
