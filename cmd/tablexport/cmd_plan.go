package main

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/schedule"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/scope"
)

func planCommand(g *globals) *cobra.Command {
	var online bool
	c := &cobra.Command{
		Use:   "plan JOB",
		Short: "Show what a run would ask, of whom, under which scope",
		Long: `Show what a run would ask, of whom, under which scope, and into which columns. Nothing is read or published.

The job is checked against the built-in table model, or with --online against the instance's own $metadata. What the
Table API's filter dialect does not take is refused here, with the column, the operator and what would work.`,
		Example:           "  tablexport plan order-lines\n  tablexport plan order-lines --online   # with the row count, if the server gives one",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: g.completeJobs,
		RunE:              func(c *cobra.Command, args []string) error { return g.plan(c.Context(), args[0], online) },
	}
	c.Flags().BoolVar(&online, "online", false, "ask the instance: its own metadata, row count, way of paging")
	return c
}

// planView is a plan as --json prints it.
type planView struct {
	Job      string   `json:"job"`
	Instance string   `json:"instance"`
	Host     string   `json:"host"`
	Token    string   `json:"token"`
	Table    string   `json:"table"`
	Key      []string `json:"key"`
	Publish  []string `json:"publish"`
	Fetch    []string `json:"fetch"`
	Query    string   `json:"query"`
	Scope    any      `json:"scope"`
	Owners   []string `json:"owners,omitempty"`        // what is read first, to prove the scope by owners
	KeyLimit int      `json:"ownerKeyLimit,omitempty"` // owner keys in memory at most
	Paging   string   `json:"paging"`
	Why      string   `json:"pagingReason"`
	PageSize int      `json:"pageSize"`
	Dataset  string   `json:"dataset"`
	First    string   `json:"first"`          // the first request, as people read it: path below the host, not percent-encoded
	Then     string   `json:"then,omitempty"` // what the next ones look like
	Rows     *int64   `json:"rows,omitempty"`
	Next     string   `json:"next,omitempty"`
	Notes    []string `json:"notes,omitempty"`

	Windows *windowsView `json:"windows,omitempty"` // of a job that goes by periods
	Compare string       `json:"compare,omitempty"` // of a job that goes by changes: the first request of the sweep
}

func (g *globals) plan(ctx context.Context, name string, online bool) error {
	a, err := g.open()
	if err != nil {
		return err
	}
	defer a.close()
	job, err := a.job(name)
	if err != nil {
		return err
	}
	i, err := a.instance(job.Instance)
	if err != nil {
		return err
	}
	model := edm.Embedded()
	session := i.Client.Open(nil) // without a credential: it can choose and describe, not ask
	if online {
		var done func()
		if session, done, err = a.session(ctx, job.Instance, "plan"); err != nil {
			return err
		}
		defer done()
		if model, err = session.Metadata(ctx); err != nil {
			return err
		}
	}
	plan, err := jobs.NewPlan(job, model)
	if err != nil {
		return a.located(err)
	}
	bucket, err := a.bucket(ctx, job.Store)
	if err != nil {
		return err
	}
	paging, why := session.Choose(plan.Query())
	view := planView{Job: name, Instance: job.Instance, Host: i.Client.Host(), Token: i.Token, Table: plan.Table.Name, Key: plan.Table.Key,
		Publish: plan.Publish, Fetch: plan.Fetch, Query: plan.Text(), Scope: plan.Scope.Stamp(), Paging: string(paging), Why: why,
		PageSize: job.PageSize, Dataset: bucket.Location(job.Path), Notes: plan.Notes}
	for _, o := range plan.AllOwners() {
		view.Owners, view.KeyLimit = append(view.Owners, o.Text()), plan.OwnerKeyLimit()
	}
	if view.First, view.Then, err = described(session, plan.Query()); err != nil {
		return err
	}
	if plan.Windowed != nil {
		if view.Windows, err = a.planWindows(ctx, plan, session); err != nil {
			return err
		}
	}
	if plan.Compared != nil {
		q, err := plan.SweepQuery(time.Time{})
		if err != nil {
			return err
		}
		if view.Compare, _, err = described(session, q); err != nil {
			return err
		}
	}
	if online {
		if n, ok, err := session.Count(ctx, plan.Query()); err != nil {
			return err
		} else if ok {
			view.Rows = &n
		}
	}
	if s := a.cfg.Jobs[name].Schedule; s != nil {
		sched, err := schedule.Parse(s.Cron, s.Zone)
		if err != nil {
			return err
		}
		view.Next = sched.Next(time.Now()).Format(time.RFC3339)
	}
	return g.emit(view, func() { g.printPlan(view, plan) })
}

// described gives the first request of a scan and what the next ones look like. What follows one answer, or a page with a link to the
// next, depends on what came: there is no "then" for these.
func described(session *odata.Session, q odata.Query) (first, then string, err error) {
	lines, err := session.Describe(q)
	if err != nil {
		return "", "", err
	}
	if paging, _ := session.Choose(q); paging == odata.Key || paging == odata.Offset {
		then = strings.TrimPrefix(lines[2], "then ")
	}
	return lines[1], then, nil
}

// selected is the part of a request that names the columns.
var selected = regexp.MustCompile(`\$select=[^&]*`)

// short leaves out of a request what a plan says above it: the columns and the job's filter.
func short(request string, plan *jobs.Plan) string {
	request = selected.ReplaceAllLiteralString(request, "$select=…")
	if !plan.Filter.Empty() {
		request = strings.Replace(request, "$filter="+plan.Filter.Render(), "$filter=…", 1)
	}
	return request
}

func (g *globals) printPlan(v planView, plan *jobs.Plan) {
	g.printf("job       %s\nask       %s (%s), token %s\ntable     %s", v.Job, v.Instance, v.Host, v.Token, v.Table)
	if len(v.Key) > 0 {
		g.printf(", key %s", strings.Join(v.Key, ", "))
	}
	g.printf("\npublish   %d columns: %s\n", len(v.Publish), strings.Join(v.Publish, ", "))
	if extra := v.Fetch[len(v.Publish):]; len(extra) > 0 {
		g.printf("          and read, for the scope only: %s\n", strings.Join(extra, ", "))
	}
	if !plan.Filter.Empty() {
		g.printf("filter    %s\n", plan.Filter.Render())
	}
	stamp := plan.Scope.Stamp()
	g.printf("scope     %s, %s\n", stamp.Name, stamp.Enforcement)
	if len(plan.Owners) > 0 {
		g.printf("          via owner: %s\n", strings.Join(stamp.Owners, "; "))
		for _, o := range plan.AllOwners() {
			g.printf("owners    %s; rows are tested by %s\n", o.Text(), o.Column.Name)
		}
		g.printf("          %s keys at most, in %s of memory (%d MB per million)\n", count(int64(v.KeyLimit)), size(int64(v.KeyLimit)*scope.KeyBytes), scope.KeyBytes)
	}
	size := count(int64(v.PageSize)) + " rows a page"
	if v.Paging == string(odata.Stream) {
		size = "all rows in one answer"
	}
	g.printf("paging    %s, %s: %s\n", v.Paging, size, v.Why)
	if v.Windows != nil {
		g.printWindowsPlan(v.Windows, plan)
	} else {
		g.printf("first     %s\n", short(v.First, plan))
	}
	if v.Then != "" && v.Windows == nil {
		g.printf("then      %s\n", short(v.Then, plan))
	}
	if v.Compare != "" {
		g.printf("refresh   %s: the first run reads everything, as above; later ones compare %s with the dataset, and read what differs by key\n",
			refreshMode(plan), strings.Join(plan.Compared.Columns, ", "))
		g.printf("compare   %s\n", v.Compare)
	}
	g.printf("into      %s\n", v.Dataset)
	if plan.Job.Schema == export.Quarantined {
		most := fmt.Sprintf("%s rows and %d %% of those read", count(export.DefaultQuarantined), export.DefaultQuarantinedPercent)
		if n := plan.Job.MaxQuarantined; n > 0 {
			most = count(n) + " rows"
		}
		g.printf("misfits   %s, at most %s\n", v.Dataset+export.QuarantineSuffix, most)
	}
	if v.Rows != nil {
		g.printf("rows      %s now\n", count(*v.Rows))
	}
	if v.Next != "" {
		g.printf("next      %s\n", v.Next)
	}
	for _, n := range v.Notes {
		g.printf("note      %s\n", n)
	}
}

// refreshMode names how changed rows are found.
func refreshMode(plan *jobs.Plan) string {
	if plan.Compared.Time != "" {
		return "by " + plan.Compared.Time
	}
	return "by changes"
}
