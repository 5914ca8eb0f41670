package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/jobs/schedule"
	"github.com/tablexport/tablexport/secrets/audit"
)

func scheduleCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:     "schedule",
		Short:   "Show and steer when jobs run",
		Example: "  tablexport schedule next --count 20\n  tablexport schedule pause order-lines --why stocktaking",
	}
	c.AddCommand(pruneCommand(g), scheduleNextCommand(g), scheduleTicksCommand(g), schedulePauseCommand(g), scheduleResumeCommand(g))
	return c
}

func scheduleNextCommand(g *globals) *cobra.Command {
	var count int
	c := &cobra.Command{
		Use:   "next [JOB]...",
		Short: "Show the coming ticks of jobs, each in its job's zone",
		Long: `Show the coming ticks of jobs, each in its job's zone, soonest first.

A local time that does not exist on the spring day is due right after the gap. One that is there twice on the autumn
day is due once, at its first occurrence; where the hour is * it is due at both.`,
		Example:           "  tablexport schedule next order-lines --count 20\n  tablexport schedule next --json",
		ValidArgsFunction: g.completeJobs,
		RunE:              func(c *cobra.Command, args []string) error { return g.scheduleNext(args, count, time.Now()) },
	}
	c.Flags().IntVarP(&count, "count", "n", 5, "how many `ticks` of each job, 1 to 1000")
	return c
}

// nextView is a coming tick as --json prints it.
type nextView struct {
	Job  string    `json:"job"`
	At   time.Time `json:"at"`
	Zone string    `json:"zone"`
	Cron string    `json:"cron"`
}

func (g *globals) scheduleNext(args []string, count int, now time.Time) error {
	if count < 1 || count > 1000 {
		return usagef("--count takes a whole number from 1 to 1000")
	}
	a, err := g.open()
	if err != nil {
		return err
	}
	defer a.close()
	names, err := a.jobNames(args, len(args) == 0)
	if err != nil {
		return err
	}
	var coming []nextView
	for _, name := range names {
		s := a.cfg.Jobs[name].Schedule
		if s == nil {
			if len(args) > 0 {
				return usagef("job %s has no schedule: it runs when asked to, or after other jobs", name)
			}
			continue
		}
		parsed, err := schedule.Parse(s.Cron, s.Zone)
		if err != nil {
			return err
		}
		for _, at := range parsed.Upcoming(now, count) {
			coming = append(coming, nextView{Job: name, At: at, Zone: s.Zone, Cron: s.Cron})
		}
	}
	slices.SortStableFunc(coming, func(x, y nextView) int { return x.At.Compare(y.At) })
	rows := [][]string{{"AT", "ZONE", "JOB", "IN"}}
	for _, n := range coming {
		if g.json {
			if err := g.emit(n, nil); err != nil {
				return err
			}
			continue
		}
		rows = append(rows, []string{n.At.Format("Mon 2006-01-02 15:04 -07:00"), n.Zone, n.Job, n.At.Sub(now).Round(time.Second).String()})
	}
	switch {
	case g.json:
	case len(rows) == 1:
		g.printf("no job has a schedule\n")
	default:
		g.table(rows)
	}
	return nil
}

func scheduleTicksCommand(g *globals) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use:   "ticks [JOB]",
		Short: "Show what became of every tick, newest first",
		Long: `Show what became of every tick, newest first: ran, late, coalesced (a later one ran for it), or skipped, with the reason.
One that is waiting or running has not ended yet. Missed ticks with the same end share a line.`,
		Example:           "  tablexport schedule ticks order-lines -n 50",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: g.completeJobs,
		RunE: func(c *cobra.Command, args []string) error {
			return g.scheduleTicks(c.Context(), strings.Join(args, ""), limit)
		},
	}
	c.Flags().IntVarP(&limit, "lines", "n", 20, "how many `lines`; 0 = all")
	return c
}

func (g *globals) scheduleTicks(ctx context.Context, job string, limit int) error {
	if err := atLeastNone("lines", limit); err != nil {
		return err
	}
	a, l, err := g.openLedger(ctx, job)
	if err != nil {
		return err
	}
	defer a.close()
	ticks, err := l.Ticks(ctx, ledger.TickQuery{Job: job, Limit: limit})
	if err != nil {
		return err
	}
	rows := [][]string{{"TICK", "TICKS", "JOB", "OUTCOME", "RUN", "REASON"}}
	for _, t := range ticks {
		if g.json {
			if err := g.emit(t, nil); err != nil {
				return err
			}
			continue
		}
		rows = append(rows, []string{a.local(t.Job, t.At), fmt.Sprint(t.Count), t.Job, string(t.Outcome), t.Run, t.Reason})
	}
	switch {
	case g.json:
	case len(rows) == 1:
		g.printf("no ticks yet: the clock has not run\n")
	default:
		g.table(rows)
	}
	return nil
}

// local writes an instant in the zone of a job's schedule.
func (a *app) local(job string, at time.Time) string {
	if s := a.cfg.Jobs[job].Schedule; s != nil {
		if zone, err := time.LoadLocation(s.Zone); err == nil {
			at = at.In(zone)
		}
	}
	return at.Format("2006-01-02 15:04:05 -07:00")
}

// openLedger opens the configuration and the ledger, for a job that must be there unless it is "". Close the app when done,
// unless there is an error.
func (g *globals) openLedger(ctx context.Context, job string) (*app, *ledger.Ledger, error) {
	a, err := g.open()
	if err != nil {
		return nil, nil, err
	}
	l, err := a.ledger(ctx)
	if _, ok := a.cfg.Jobs[job]; err == nil && job != "" && !ok {
		err = a.noJob(job)
	}
	if err != nil {
		a.close()
		return nil, nil, err
	}
	return a, l, nil
}

func schedulePauseCommand(g *globals) *cobra.Command {
	var why string
	c := &cobra.Command{
		Use:   "pause JOB",
		Short: "Skip a job's ticks until it is resumed",
		Long: `Skip a job's ticks until it is resumed. A run under way goes on, and the job can still be run by hand.
It holds at once, for a serve process under way too, and over restarts; it is audited.`,
		Example:           "  tablexport schedule pause order-lines --why stocktaking",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: g.completeJobs,
		RunE:              func(c *cobra.Command, args []string) error { return g.pause(c.Context(), args[0], true, why) },
	}
	c.Flags().StringVar(&why, "why", "", "the `reason`, for others to read")
	return c
}

func scheduleResumeCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:               "resume JOB",
		Short:             "Let a paused job tick again",
		Long:              "Let a paused job tick again, from its next tick on: those it has missed meanwhile were skipped. It is audited.",
		Example:           "  tablexport schedule resume order-lines",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: g.completeJobs,
		RunE:              func(c *cobra.Command, args []string) error { return g.pause(c.Context(), args[0], false, "") },
	}
}

func (g *globals) pause(ctx context.Context, job string, pause bool, why string) error {
	a, l, err := g.openLedger(ctx, job)
	if err != nil {
		return err
	}
	defer a.close()
	log, err := a.audit()
	if err != nil {
		return err
	}
	action, said := "pause", "paused"
	if !pause {
		action, said = "resume", "resumed"
	}
	entry := audit.Entry{Action: action, Subject: job, Job: job, Actor: actor(), Outcome: audit.OK}
	if why != "" {
		entry.Detail = map[string]string{"why": why}
	}
	// First the audit log: what is not audited does not happen.
	if _, err := log.Append(ctx, entry); err != nil {
		return err
	}
	if pause {
		err = l.Pause(ctx, job, actor(), why, time.Now())
	} else {
		_, err = l.Resume(ctx, job)
	}
	if err != nil {
		return err
	}
	return g.emit(map[string]any{"job": job, "paused": pause}, func() { g.printf("%s is %s\n", job, said) })
}
