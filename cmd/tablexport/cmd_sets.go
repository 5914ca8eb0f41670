package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/configs"
	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/sets"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/odata/edm"
)

func setsCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "sets",
		Short: "List, show, open, verify and roll back what is published together",
		Long: `A set is several jobs whose datasets are published together (sets: {sales: [orders, order-lines]}): tablexport run --set sales
refreshes them and then moves one pointer, which says which version of each dataset belongs to which. Who opens each dataset at the
pointer's version never sees a line without its order.`,
		Example: `  tablexport run --set sales
  tablexport sets show sales`,
	}
	list := &cobra.Command{
		Use: "list", Short: "List the sets of the configuration and where their pointers stand",
		Example: "  tablexport sets list", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return g.listSets(c.Context()) },
	}
	var limit int
	show := &cobra.Command{
		Use: "show SET", Short: "Show a set: its members' versions, what was proven between them, and the pointers before",
		Example: "  tablexport sets show sales\n  tablexport sets show sales --json | jq .versions[0].members",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: g.completeSets,
		RunE: func(c *cobra.Command, args []string) error { return g.showSet(c.Context(), args[0], limit) },
	}
	show.Flags().IntVarP(&limit, "versions", "n", 10, "how many `versions`; 0 = all")
	var at int64
	open := &cobra.Command{
		Use: "sql SET", Short: "Print ready-to-paste text that opens all members at the versions that belong together",
		Example: "  tablexport sets sql sales\n  tablexport sets sql sales --version 12",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: g.completeSets,
		RunE: func(c *cobra.Command, args []string) error { return g.setSnippets(c.Context(), args[0], at) },
	}
	verify := &cobra.Command{
		Use: "verify SET", Short: "Prove again, from the published files, that no row of a set lacks what it refers to",
		Long: `Prove again, from the published files, that no row of a set lacks what it refers to, and that every file of every member's version is
there. Exit code 8 when something is missing.`,
		Example: "  tablexport sets verify sales", Args: cobra.ExactArgs(1), ValidArgsFunction: g.completeSets,
		RunE: func(c *cobra.Command, args []string) error { return g.verifySet(c.Context(), args[0], at) },
	}
	for _, sub := range []*cobra.Command{open, verify} {
		sub.Flags().Int64Var(&at, "version", -1, "the set's `version` (default: the one that counts)")
	}
	c.AddCommand(list, show, open, verify, &cobra.Command{
		Use: "rollback SET VERSION", Short: "Make the members' versions of an older pointer those of the set again",
		Long: `Make the members' versions of an older pointer those of the set again, by publishing a new pointer that names them. Nothing is
copied, and the datasets' own logs stay as they are; the next run of the set moves on from their newest versions. It is
refused when files of a version are gone, and audited.`,
		Example: "  tablexport sets rollback sales 12", Args: cobra.ExactArgs(2), ValidArgsFunction: g.completeSets,
		RunE: func(c *cobra.Command, args []string) error { return g.rollbackSet(c.Context(), args[0], args[1]) },
	})
	return c
}

// completeSets offers the configuration's sets to a shell.
func (g *globals) completeSets(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	cfg, _ := configs.LoadDraft(g.config, configs.Checks{})
	if cfg == nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return slices.Sorted(maps.Keys(cfg.Sets)), cobra.ShellCompDirectiveNoFileComp
}

// set is a configured set as package jobs knows it. Its pointer lies in the store of its first member.
func (a *app) set(name string) (jobs.Set, error) {
	members, ok := a.cfg.Sets[name]
	if !ok {
		known := strings.Join(slices.Sorted(maps.Keys(a.cfg.Sets)), ", ")
		if known == "" {
			known = "none is written there; write sets: {NAME: [JOB, JOB]}"
		}
		return jobs.Set{}, usagef("there is no set %q in %s; it has: %s", name, a.config, known)
	}
	set := jobs.Set{Name: name}
	for _, member := range members {
		j, err := a.job(member)
		if err != nil {
			return set, err
		}
		set.Jobs = append(set.Jobs, j)
	}
	set.Store = set.Jobs[0].Store
	return set, nil
}

func (a *app) pointers(ctx context.Context, name string) (*sets.Set, error) {
	set, err := a.set(name)
	if err != nil {
		return nil, err
	}
	b, err := a.bucket(ctx, set.Store)
	if err != nil {
		return nil, err
	}
	return sets.Open(b, name)
}

// openSet opens the configuration and a set's pointers. Close the app when done, unless there is an error.
func (g *globals) openSet(ctx context.Context, name string) (*app, *sets.Set, error) {
	a, err := g.open()
	if err != nil {
		return nil, nil, err
	}
	s, err := a.pointers(ctx, name)
	if err != nil {
		a.close()
		return nil, nil, err
	}
	return a, s, nil
}

// pointer is a version of a set, the one that counts for -1.
func pointer(ctx context.Context, s *sets.Set, version int64) (*sets.Pointer, error) {
	if version >= 0 {
		return s.Version(ctx, version)
	}
	p, err := s.Newest(ctx)
	if errors.Is(err, sets.ErrNone) {
		return nil, fmt.Errorf("the set %s has no version yet; publish one with: tablexport run --set %s (%w)", s.Name(), s.Name(), err)
	}
	return p, err
}

// memberDataset opens a member where its pointer says it is.
func (a *app) memberDataset(ctx context.Context, m sets.Member) (*export.Dataset, error) {
	b, err := a.bucket(ctx, m.Store)
	if err != nil {
		return nil, err
	}
	return export.Open(b, m.Path), nil
}

// heldVersions are the versions of a job's dataset that pointers of sets need: the newest pointer, and those that counted at some time since an
// instant. A vacuum must keep their files.
func (a *app) heldVersions(ctx context.Context, job string, since time.Time) ([]int64, error) {
	held := map[int64]bool{}
	for name, members := range a.cfg.Sets {
		if !slices.Contains(members, job) {
			continue
		}
		s, err := a.pointers(ctx, name)
		if err != nil {
			return nil, err
		}
		pointers, err := s.Held(ctx, since)
		if err != nil {
			return nil, err
		}
		j := a.cfg.Jobs[job]
		for _, p := range pointers {
			if m, ok := p.Member(job); ok && m.Store == j.Store && m.Path == j.Path {
				held[m.Version] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(held)), nil
}

func (g *globals) listSets(ctx context.Context) error {
	a, err := g.open()
	if err != nil {
		return err
	}
	defer a.close()
	rows := [][]string{{"SET", "MEMBERS", "VERSION", "PUBLISHED", "POINTER"}}
	for _, name := range slices.Sorted(maps.Keys(a.cfg.Sets)) {
		s, err := a.pointers(ctx, name)
		if err != nil {
			return err
		}
		view := struct {
			Set       string        `json:"set"`
			Jobs      []string      `json:"jobs"`
			Location  string        `json:"location"`
			Published *sets.Pointer `json:"pointer"`
		}{Set: name, Jobs: a.cfg.Sets[name], Location: s.Location()}
		row := []string{name, strings.Join(view.Jobs, ", "), "-", "never", s.Location()}
		p, err := s.Newest(ctx)
		if err != nil && !errors.Is(err, sets.ErrNone) {
			return err
		}
		if err == nil {
			view.Published, row[2], row[3] = p, strconv.FormatInt(p.Version, 10), stamp(p.Published)
		}
		rows = append(rows, row)
		if g.json {
			if err := g.emit(view, nil); err != nil {
				return err
			}
		}
	}
	if !g.json {
		g.table(rows)
	}
	return nil
}

func (g *globals) showSet(ctx context.Context, name string, limit int) error {
	if err := atLeastNone("versions", limit); err != nil {
		return err
	}
	a, s, err := g.openSet(ctx, name)
	if err != nil {
		return err
	}
	defer a.close()
	newest, err := pointer(ctx, s, -1)
	if err != nil {
		return err
	}
	versions, err := s.List(ctx, limit)
	if err != nil {
		return err
	}
	return g.emit(map[string]any{"set": name, "location": s.Location(), "versions": versions}, func() {
		g.printf("%s: version %d, published %s, cut %s, pointer at %s\n\n", name, newest.Version, stamp(newest.Published), stamp(newest.Cut), s.Location())
		g.printMembers(newest.Members, newest.References)
		rows := [][]string{{"VERSION", "PUBLISHED", "CUT", "MEMBERS"}}
		for _, p := range versions {
			members := make([]string, len(p.Members))
			for i, m := range p.Members {
				members[i] = fmt.Sprintf("%s@%d", m.Job, m.Version)
			}
			text := strings.Join(members, " ")
			if p.Restores != nil {
				text += fmt.Sprintf(" (version %d again)", *p.Restores)
			}
			rows = append(rows, []string{fmt.Sprint(p.Version), stamp(p.Published), stamp(p.Cut), text})
		}
		g.table(rows)
	})
}

func (g *globals) printMembers(members []sets.Member, references []sets.Reference) {
	rows := [][]string{{"MEMBER", "TABLE", "VERSION", "ROWS", "DATASET"}}
	for _, m := range members {
		rows = append(rows, []string{m.Job, m.Table, fmt.Sprint(m.Version), count(m.Rows), m.Location})
	}
	g.table(rows)
	g.printf("\n")
	if len(references) == 0 {
		return
	}
	rows = [][]string{{"REFERENCE", "TO", "VALUES", "MISSING"}}
	for _, r := range references {
		missing := count(r.Missing)
		if !r.Enforced {
			missing += " (counted only)"
		}
		rows = append(rows, []string{r.Job + "." + r.Column, strings.Join(r.To, " or ") + "." + r.Key, count(r.Keys), missing})
	}
	g.table(rows)
	g.printf("\n")
}

func (g *globals) verifySet(ctx context.Context, name string, version int64) error {
	a, s, err := g.openSet(ctx, name)
	if err != nil {
		return err
	}
	defer a.close()
	p, err := pointer(ctx, s, version)
	if err != nil {
		return err
	}
	if err := sets.Readable(ctx, p, a.memberDataset); err != nil {
		return err
	}
	set, err := a.set(name)
	if err != nil {
		return err
	}
	plan, err := jobs.NewSetPlan(set, edm.Embedded())
	if err != nil {
		return a.located(err)
	}
	var opened []sets.Opened
	for _, m := range p.Members {
		d, err := a.memberDataset(ctx, m)
		if err != nil {
			return err
		}
		opened = append(opened, sets.Opened{Job: m.Job, Dataset: d, Version: m.Version})
	}
	edges := slices.DeleteFunc(slices.Clone(plan.Edges), func(e sets.Edge) bool { // the set had other members then
		_, from := p.Member(e.Job)
		return !from || slices.ContainsFunc(e.To, func(job string) bool { _, to := p.Member(job); return !to })
	})
	refs, err := sets.Prove(ctx, opened, edges)
	if err != nil {
		return err
	}
	verified := map[string]any{"set": name, "version": p.Version, "members": p.Members, "references": refs}
	if err := g.emit(verified, func() {
		g.printf("%s: version %d, every file of %d members is there\n\n", name, p.Version, len(p.Members))
		g.printMembers(p.Members, refs)
	}); err != nil {
		return err
	}
	if missing := sets.Missing(refs); len(missing) > 0 {
		return &sets.Dangling{Set: name, References: missing}
	}
	return nil
}

func (g *globals) rollbackSet(ctx context.Context, name, text string) error {
	version, err := strconv.ParseInt(text, 10, 64)
	if err != nil || version < 0 {
		return usagef("rollback takes a version of the set, a whole number; tablexport sets show %s lists them", name)
	}
	a, err := g.open()
	if err != nil {
		return err
	}
	defer a.close()
	set, err := a.set(name)
	if err != nil {
		return err
	}
	log, err := a.audit()
	if err != nil {
		return err
	}
	runner := &jobs.Runner{Audit: log, Bucket: a.bucket, Logger: a.logger(), Actor: actor(), Engine: "tablexport/" + buildVersion()}
	p, err := runner.RollbackSet(ctx, set, version)
	if p == nil {
		return err
	}
	// The pointer has moved, whatever failed behind it.
	return errors.Join(err, g.emit(p, func() {
		g.printf("%s: version %d has the datasets of version %d again\n\n", name, p.Version, *p.Restores)
		g.printMembers(p.Members, p.References)
	}))
}

// runSet is `run --set`.
func (a *app) runSet(ctx context.Context, name string, o runOptions) error {
	set, err := a.set(name)
	if err != nil {
		return err
	}
	runner, err := a.runner(ctx, a.cfg.Sets[name])
	if err != nil {
		return err
	}
	show := a.newProgress(true)
	res, err := runner.RunSet(ctx, jobs.SetRequest{Set: set, AcceptSchema: o.acceptSchema, LowMemory: o.lowMemory, Progress: show.update})
	show.end()
	if res.Version < 0 {
		for _, r := range res.Results { // what the members have published is theirs
			if r.Version >= 0 {
				err = errors.Join(err, a.emit(r, func() { a.printResult(r) }))
			}
		}
		return a.located(err)
	}
	return errors.Join(err, a.emit(res, func() {
		for _, r := range res.Results {
			a.printResult(r)
		}
		a.printf("\n%s: version %d of the set, pointer at %s, %.1fs\n\n", res.Set, res.Version, res.Location, res.Seconds)
		a.printMembers(res.Members, res.References)
	}))
}
