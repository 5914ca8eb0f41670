package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/configs"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/secrets/audit"
)

func checkCommand(g *globals) *cobra.Command {
	var online bool
	c := &cobra.Command{
		Use:   "check",
		Short: "Check the configuration; with --online, also everyone it names",
		Long: `Check the configuration: every key, reference, filter, scope and schedule, all problems at once.

With --online also everyone it names: the vault lends each token, each instance answers and its metadata has the tables
and columns of the jobs, each store can be written to, and the audit log is sound.`,
		Example: "  tablexport check\n  tablexport check --online",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return g.check(c.Context(), online) },
	}
	c.Flags().BoolVar(&online, "online", false, "also ask the vault, the instances and the stores")
	return c
}

// checklist prints what was checked, and remembers what failed.
type checklist struct {
	*globals
	names  []string // of what failed
	failed []error
	n      int
}

func (l *checklist) said(what string, err error, detail string) {
	l.n++
	mark := "ok    "
	if err != nil {
		l.names, l.failed = append(l.names, what), append(l.failed, err)
		mark, detail = "FAILED", err.Error()
	}
	_ = l.emit(map[string]any{"check": what, "ok": err == nil, "detail": detail}, func() {
		l.printf("%s  %-28s %s\n", mark, what, strings.ReplaceAll(detail, "\n", "\n"+strings.Repeat(" ", 37)))
	})
}

// result is short: what is wrong has been said above.
func (l *checklist) result() error {
	if len(l.failed) == 0 {
		return nil
	}
	return &several{fmt.Sprintf("%d of %d checks failed: %s", len(l.failed), l.n, strings.Join(l.names, ", ")), l.failed}
}

func (g *globals) check(ctx context.Context, online bool) error {
	cfg, problems := configs.LoadDraft(g.config, configChecks)
	if len(problems) > 0 {
		return g.allProblems(cfg, problems)
	}
	a := g.app(cfg)
	defer a.close()
	list := &checklist{globals: g}
	list.said("configuration", nil, fmt.Sprintf("%d instance(s), %d store(s), %d scope(s), %d job(s)", len(cfg.Instances), len(cfg.Stores), len(cfg.Scopes), len(cfg.Jobs)))
	if !online {
		embedded := edm.Embedded()
		for _, name := range cfg.JobNames() {
			a.checkJob(name, embedded, list.said)
		}
		return list.result()
	}
	a.checkAudit(list.said)
	for _, name := range sorted(cfg.Instances) {
		model, detail, err := a.checkInstance(ctx, name)
		list.said("instance "+name, err, detail)
		if err != nil {
			model = edm.Embedded() // what it would have said about its jobs, the built-in model may say as well
		}
		for _, job := range cfg.JobNames() {
			if cfg.Jobs[job].Instance == name {
				a.checkJob(job, model, list.said)
			}
		}
	}
	for _, name := range sorted(cfg.Stores) {
		detail, err := a.checkStore(ctx, name)
		list.said("store "+name, err, detail)
	}
	return list.result()
}

// allProblems adds to the problems of a file what a plan of its jobs would still find, so that a person corrects them in one
// go. A nil cfg could not be read at all.
func (g *globals) allProblems(cfg *configs.Config, problems configs.Problems) error {
	if cfg == nil || slices.ContainsFunc(problems, func(p *configs.Problem) bool { return p.Secret }) {
		return problems // with a secret in the file, a plan could quote it
	}
	a := g.app(cfg)
	known := map[configs.Position]bool{}
	for _, p := range problems {
		known[p.Position] = true
	}
	for _, name := range cfg.JobNames() {
		if _, ok := cfg.Scopes[cfg.Jobs[name].Scope]; !ok || cfg.Jobs[name].Table == "" {
			continue // reported already
		}
		job, err := a.job(name)
		if err == nil {
			_, err = jobs.NewPlan(job, edm.Embedded())
		}
		var more configs.Problems
		if !errors.As(a.located(err), &more) {
			continue
		}
		for _, p := range more { // two jobs may share a scope
			if !known[p.Position] { // one problem a place: the second is most often the first in other words
				problems = append(problems, p)
			}
		}
		for _, p := range more {
			known[p.Position] = true
		}
	}
	return problems.Sorted()
}

func (a *app) checkStore(ctx context.Context, name string) (string, error) {
	b, err := a.bucket(ctx, name)
	if err != nil {
		return "", err
	}
	return b.Location(""), store.Probe(ctx, b)
}

func (a *app) checkJob(name string, model *edm.Model, said func(string, error, string)) {
	job, err := a.job(name)
	if err == nil {
		var plan *jobs.Plan
		if plan, err = jobs.NewPlan(job, model); err == nil {
			stamp := plan.Scope.Stamp()
			said("job "+name, nil, fmt.Sprintf("%s, %d columns, scope %s (%s), %s", plan.Table.Name, len(plan.Publish), stamp.Name, stamp.Enforcement, refreshText(a.cfg.Jobs[name].Refresh)))
			return
		}
	}
	said("job "+name, a.located(err), "")
}

func (a *app) checkAudit(said func(string, error, string)) {
	if _, err := a.audit(); err != nil {
		said("audit log", err, "")
		return
	}
	report, err := audit.Verify(a.auditDir())
	if err == nil && len(report.Problems) > 0 {
		err = fmt.Errorf("%w; the first: %s; see: tablexport audit verify", &brokenAuditError{len(report.Problems)}, report.Problems[0])
	}
	said("audit log", err, fmt.Sprintf("%s entries in %s", count(report.Entries), a.auditDir()))
}

// checkInstance borrows the token, proves it, and reads the metadata.
func (a *app) checkInstance(ctx context.Context, name string) (*edm.Model, string, error) {
	session, done, err := a.session(ctx, name, "check")
	if err != nil {
		return nil, "", err
	}
	defer done()
	started := time.Now()
	site, err := session.Site(ctx)
	if err != nil {
		return nil, "", err
	}
	if err := session.Ping(ctx); err != nil {
		return nil, "", err
	}
	model, err := session.Metadata(ctx)
	if err != nil {
		return nil, "", err
	}
	detail := fmt.Sprintf("%s, token accepted, %d tables, %d ms", site.TableAPI, len(model.Tables()), time.Since(started).Milliseconds())
	if site.Version != "" {
		detail += ", version " + site.Version
	}
	return model, detail, nil
}

func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
