package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/tablexport/tablexport/configs"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/window"
	"github.com/tablexport/tablexport/odata"
)

// windowsView is what a run does with the windows of a job that goes by periods, as --json prints it.
type windowsView struct {
	By        string       `json:"by"`
	Every     string       `json:"every"`
	Zone      string       `json:"zone"`
	Partition string       `json:"partition"`
	Commit    string       `json:"commit"` // run, window
	Read      []windowView `json:"read"`   // newest first
	Keep      int          `json:"keep"`   // windows that stay as they are
	Expire    []windowView `json:"expire"` // windows that are removed
	First     string       `json:"first,omitempty"`
	Last      string       `json:"last,omitempty"`
	Held      int64        `json:"heldRows"` // rows that the dataset has now
	Problem   string       `json:"problem,omitempty"`
}

type windowView struct {
	Window string        `json:"window"`
	Reason window.Reason `json:"reason"`
}

// planWindows decides as a run at this moment would. A dataset that cannot be read now is taken for an empty one, which is said.
func (a *app) planWindows(ctx context.Context, plan *jobs.Plan, session *odata.Session) (*windowsView, error) {
	r := plan.Job.Refresh
	calendar := r.Policy.Calendar
	v := &windowsView{By: r.By, Every: string(calendar.Period()), Zone: calendar.Zone().String(), Partition: plan.Windowed.Partition, Commit: "run",
		Read: []windowView{}, Expire: []windowView{}}
	if r.PerWindow {
		v.Commit = "window"
	}
	dataset, err := a.dataset(ctx, plan.Job.Name)
	if err != nil {
		return nil, err
	}
	have, err := dataset.Windows(ctx)
	if err != nil {
		v.Problem = "the dataset cannot be read now, so all windows count as missing: " + err.Error()
	}
	for _, w := range have {
		v.Held += w.Rows
	}
	decision := plan.Due(time.Now(), have)
	v.Keep = len(decision.Keep)
	for _, item := range decision.Expire {
		v.Expire = append(v.Expire, windowView{item.Value, item.Reason})
	}
	for _, item := range decision.Read {
		q, ok, err := plan.WindowQuery(item)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue // a day that the zone leaves out
		}
		first, _, err := described(session, q)
		if err != nil {
			return nil, err
		}
		if v.First == "" {
			v.First = first
		}
		v.Last = first
		v.Read = append(v.Read, windowView{item.Value, item.Reason})
	}
	return v, nil
}

// printWindowsPlan lists what is read and why, runs of one reason on one line.
func (g *globals) printWindowsPlan(v *windowsView, plan *jobs.Plan) {
	g.printf("refresh   by %s, every %s (%s), partition column %s, published %s\n", v.By, v.Every, v.Zone, v.Partition,
		map[string]string{"run": "all windows together", "window": "each window as it is done"}[v.Commit])
	g.printf("windows   %d to read, %d stay as they are (the dataset has %s rows), %d expire\n", len(v.Read), v.Keep, count(v.Held), len(v.Expire))
	for from := 0; from < len(v.Read); {
		to := from + 1
		for to < len(v.Read) && v.Read[to].Reason == v.Read[from].Reason {
			to++
		}
		g.printf("          %s: %s\n", stretch(v.Read[from:to]), v.Read[from].Reason.Text())
		from = to
	}
	if len(v.Expire) > 0 {
		g.printf("expire    %s\n", stretch(v.Expire))
	}
	if v.First != "" {
		g.printf("newest    %s\n", short(v.First, plan))
	}
	if v.Last != v.First {
		g.printf("oldest    %s\n", short(v.Last, plan))
	}
	if v.Problem != "" {
		g.printf("note      %s\n", v.Problem)
	}
}

// stretch names windows: all of a few, the ends of many.
func stretch(windows []windowView) string {
	if n := len(windows); n > 4 {
		return fmt.Sprintf("%s … %s (%d)", windows[0].Window, windows[n-1].Window, n)
	}
	names := make([]string, len(windows))
	for i, w := range windows {
		names[i] = w.Window
	}
	return strings.Join(names, ", ")
}

// refreshText is a refresh in a few words, for check.
func refreshText(r *configs.Refresh) string {
	switch {
	case r == nil:
		return "whole table"
	case r.By == configs.ByChanges:
		return "by changes"
	case r.Every == "":
		text := "by " + r.By + ", " + time.Duration(r.Overlap).String() + " overlap"
		if r.Sweep > 0 {
			text += ", everything compared every " + time.Duration(r.Sweep).String()
		}
		return text
	}
	text := "by " + r.Every
	if r.Keep > 0 {
		text += fmt.Sprintf(", %d kept", r.Keep)
	}
	if r.From != "" {
		text += ", from " + string(r.From)
	}
	return fmt.Sprintf("%s, %d read again", text, r.Reload)
}
