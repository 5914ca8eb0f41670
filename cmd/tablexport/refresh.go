package main

import (
	"fmt"
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
	if r.Every == "" {
		return jobs.Refresh{}, fmt.Errorf("refresh by %s: not in this version", r.By)
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
