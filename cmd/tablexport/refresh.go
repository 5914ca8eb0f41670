package main

import (
	"time"

	"github.com/tablexport/tablexport/configs"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/window"
)

// refreshOf turns a job's refresh key, which the configuration has checked, into what package jobs takes. nil is the whole table.
func refreshOf(r *configs.Refresh) (jobs.Refresh, error) {
	if r == nil {
		return jobs.Refresh{}, nil
	}
	switch {
	case r.By == configs.ByChanges:
		return jobs.Refresh{Mode: jobs.Changes}, nil
	case r.Every == "":
		return jobs.Refresh{Mode: jobs.Watermark, By: r.By, Overlap: time.Duration(r.Overlap), Sweep: time.Duration(r.Sweep)}, nil
	}
	calendar, err := window.New(window.Period(r.Every), r.Zone)
	if err != nil {
		return jobs.Refresh{}, err
	}
	from, to, err := bounds(string(r.From), string(r.To))
	if err != nil {
		return jobs.Refresh{}, err
	}
	return jobs.Refresh{
		Mode: jobs.Windows, By: r.By, PerWindow: r.Commit == "window", Undated: jobs.Undated(r.Undated),
		Policy: window.Policy{Calendar: calendar, Keep: r.Keep, Reload: r.Reload, Ahead: r.Ahead, LateDays: r.LateDays, From: from, To: to},
		Split:  jobs.Split{Rows: int64(r.Split.Rows), Bytes: int64(r.Split.Megabytes) << 20, After: time.Duration(r.Split.After)},
	}, nil
}

// bounds reads dates or periods as the first and the last day of a range; nil where a text is empty.
func bounds(from, to string) (first, last *window.Day, err error) {
	if from != "" {
		day, _, err := window.ParseDays(from)
		if err != nil {
			return nil, nil, err
		}
		first = &day
	}
	if to != "" {
		_, next, err := window.ParseDays(to)
		if err != nil {
			return nil, nil, err
		}
		day := next - 1
		last = &day
	}
	return first, last, nil
}
