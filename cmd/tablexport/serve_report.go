package main

import (
	"context"
	"time"

	"github.com/tablexport/tablexport/jobs/alert"
	"github.com/tablexport/tablexport/jobs/schedule"
)

// reporting makes the reports that are due as long as the program goes on.
func (d *daemon) reporting(ctx context.Context) {
	minutes := time.NewTicker(time.Minute)
	defer minutes.Stop()
	tried := d.begun
	for {
		// Of several processes on a state directory the one that runs the clock reports.
		if _, _, err := d.scheduler.Standing(ctx); err == nil {
			tried = d.reportDue(ctx, time.Now().Round(0), tried)
		}
		select {
		case <-ctx.Done():
			return
		case <-minutes.C:
		}
	}
}

// reportDue makes the report if a tick has come since the last one, which may have been made before the program was started: ticks that were missed are one
// report. tried is when one was begun last; a report that fails waits for the next tick.
func (d *daemon) reportDue(ctx context.Context, now, tried time.Time) time.Time {
	a, release := d.hold()
	defer release()
	c := a.cfg.Reports.Tokens
	if c == nil {
		return tried
	}
	ticks, err := schedule.Parse(c.Cron, c.Zone)
	if err != nil {
		d.log.Error("the times of reports.tokens cannot be read", "error", err) // it was checked when the configuration was read
		return tried
	}
	since := tried
	if last, err := a.lastReport(ctx); err != nil {
		d.log.Error("it is not known when the last report on tokens was made", "error", err)
		return tried
	} else if !last.IsZero() && (tried.Equal(d.begun) || last.After(since)) {
		since = last
	}
	if next := ticks.Next(since); next.IsZero() || next.After(now) {
		return tried
	}
	report, err := a.reportTokens(ctx)
	version := int64(-1)
	if report != nil {
		var perr error
		if version, perr = a.publishReport(ctx, report); err == nil {
			err = perr
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			return tried // the program is ending: the next start makes it
		}
		d.log.Error("the report on tokens is not whole", "version", version, "error", err)
		d.watcher.desk.Raise(ctx, alert.Alert{Key: "report/tokens", Kind: "failure", Severity: alert.Warning, Title: "the scheduled report on tokens is not whole", Text: err.Error(), Do: hintFor(err)})
		return now
	}
	d.log.Info("the report on tokens is published", "version", version, "findings", len(report.findings))
	d.watcher.desk.Resolve(ctx, "report/tokens", "The report is whole again.")
	return now
}

// lastReport is when the instances were looked at last, by whomever; zero if never.
func (a *app) lastReport(ctx context.Context) (last time.Time, err error) {
	runs, err := a.ledger(ctx)
	if err != nil {
		return last, err
	}
	figures, err := runs.Figures(ctx)
	for _, f := range figures {
		if f.Taken.After(last) {
			last = f.Taken
		}
	}
	return last, err
}
