package jobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/sets"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/secrets/audit"
)

// Set is jobs that are published together.
type Set struct {
	Name  string
	Jobs  []Job // in the order of the configuration
	Store string
}

// SetPlan is how the members of a set depend on each other.
type SetPlan struct {
	Order []string    // jobs, children before what they belong to
	Edges []sets.Edge // columns between members
	Notes []string    // what a person should know: what cannot be proven
}

// NewSetPlan plans a set against a model. The error is a *PlanError of the member that must change, for the first one
// that has to.
//
// Children are read before their parents: whatever a child's scan has seen, the parent that it belongs to was there by then, and
// is seen by the parent's later scan unless both are deleted in between.
//
// A reference to the owner must lead to a row; so must any other reference to a member that publishes its whole table. What refers
// to a member with a filter or a scope may well lead outside of it: it is counted only.
func NewSetPlan(set Set, model *edm.Model) (*SetPlan, error) {
	b := setPlanner{set: set, plans: map[string]*Plan{}, holders: map[string][]*Plan{}}
	for _, j := range set.Jobs {
		p, err := NewPlan(j, model)
		if err != nil {
			return nil, err
		}
		b.plans[j.Name] = p
		b.holders[p.Table.Name] = append(b.holders[p.Table.Name], p)
	}
	for _, j := range set.Jobs {
		if err := b.references(b.plans[j.Name]); err != nil {
			return nil, err
		}
	}
	b.order()
	if len(b.Edges) == 0 && len(set.Jobs) > 1 {
		b.Notes = append(b.Notes, fmt.Sprintf("set %s: no published column of a member refers to another member, so nothing but the common cut holds them together", set.Name))
	}
	return &b.SetPlan, nil
}

type setPlanner struct {
	SetPlan
	set     Set
	plans   map[string]*Plan
	holders map[string][]*Plan // by table
}

// references finds the columns of a member that refer to others.
func (b *setPlanner) references(p *Plan) error {
	for i := range p.Table.Columns {
		c := &p.Table.Columns[i]
		to := b.holders[c.References]
		if len(to) == 0 || c.References == p.Table.Name {
			continue
		}
		key := to[0].Table.Key
		published := slices.Contains(p.Publish, c.Name)
		if len(key) != 1 || (!published && !c.OwnerRef) {
			continue
		}
		if !published {
			return &PlanError{Job: p.Job.Name, Problems: []FieldProblem{{Field: "select",
				Text: fmt.Sprintf("set %s: the column %s, by which rows belong to those of job %s, is not published, so that it cannot be proven that none lacks its owner", b.set.Name, c.Name, to[0].Job.Name),
				Hint: "select it, or take one of the two jobs out of the set"}}}
		}
		e := sets.Edge{Job: p.Job.Name, Column: c.Name, Key: key[0], Enforced: c.OwnerRef || slices.ContainsFunc(to, whole)}
		for _, t := range to {
			if !slices.Contains(t.Publish, key[0]) {
				return &PlanError{Job: t.Job.Name, Problems: []FieldProblem{{Field: "select",
					Text: fmt.Sprintf("set %s: the key %s, to which rows of job %s refer, is not published", b.set.Name, key[0], p.Job.Name),
					Hint: "select it, or take one of the two jobs out of the set"}}}
			}
			e.To = append(e.To, t.Job.Name)
		}
		b.Edges = append(b.Edges, e)
	}
	return nil
}

// whole reports whether a job publishes every row of its table.
func whole(p *Plan) bool { return p.Filter.Empty() && p.Job.Unrestricted }

// order sorts children before parents. Of references in a circle one is left out of account: the proof sees what came of it.
func (b *setPlanner) order() {
	state := map[string]int{} // 1 = under way, 2 = done
	var visit func(job string)
	visit = func(job string) {
		if state[job] != 0 {
			return
		}
		state[job] = 1
		for _, enforced := range []bool{true, false} { // of a circle, what must hold counts
			for _, e := range b.Edges {
				if e.Job == job && e.Enforced == enforced {
					for _, to := range e.To {
						visit(to)
					}
				}
			}
		}
		state[job] = 2
		b.Order = append(b.Order, job)
	}
	for _, j := range slices.Backward(b.set.Jobs) {
		visit(j.Name)
	}
	slices.Reverse(b.Order) // visited were parents before children
}

// SetRequest asks for one run of a set.
type SetRequest struct {
	Set          Set
	AcceptSchema bool
	LowMemory    bool
	Progress     func(Progress)
}

// SetResult is what a run of a set did. Version is -1 if the pointer was not moved.
type SetResult struct {
	Set        string           `json:"set"`
	RunID      string           `json:"run"`
	Version    int64            `json:"version"`
	Cut        time.Time        `json:"cut"`
	Location   string           `json:"location"` // of the pointer's copy
	Members    []sets.Member    `json:"members"`
	References []sets.Reference `json:"references"`
	Results    []Result         `json:"runs"` // of the members, in the order in which they were read
	Seconds    float64          `json:"seconds"`
}

// SetError is an error with its place: the run of a set.
type SetError struct {
	Set   string
	RunID string
	Err   error
}

// Error implements error.
func (e *SetError) Error() string { return fmt.Sprintf("set %s, run %s: %v", e.Set, e.RunID, e.Err) }

// Unwrap gives the cause.
func (e *SetError) Unwrap() error { return e.Err }

// setRounds is how often members are refreshed at most until they fit together: once all of them, then those that do not.
const setRounds = 3

// setRun is one run of a set under way.
type setRun struct {
	*Runner
	SetRequest
	plan     *SetPlan
	set      *sets.Set
	base     int64 // version of the set before
	versions map[string]int64
	result   SetResult
	log      *slog.Logger
}

// RunSet refreshes the members of a set against one common cut, proves that their references hold, and moves the set's pointer to
// the new versions. The error is a *SetError; then the pointer stands where it stood, with two exceptions: *PublishedError says
// that it was moved and something failed behind it, *sets.Unresolved that this is not known. A member that was refreshed before
// another one failed keeps its new version: readers of the pointer do not see it.
func (r *Runner) RunSet(ctx context.Context, req SetRequest) (SetResult, error) {
	started := time.Now()
	x := &setRun{Runner: r, SetRequest: req, versions: map[string]int64{}, log: r.Logger,
		result: SetResult{Set: req.Set.Name, Version: -1, Cut: started.UTC().Truncate(time.Microsecond)}}
	id, err := uuid.NewV7()
	if err == nil {
		x.result.RunID = id.String()
		if x.log == nil {
			x.log = slog.New(slog.DiscardHandler)
		}
		x.log = x.log.With("set", req.Set.Name, "run", x.result.RunID)
		err = stopped(ctx, x.all(ctx))
	}
	x.result.Seconds = time.Since(started).Seconds()
	if err != nil && x.result.Version >= 0 {
		err = &PublishedError{Version: x.result.Version, Err: err}
	}
	if err != nil {
		x.log.Error("the set was not published", "class", Classify(err), "error", err)
		return x.result, &SetError{Set: req.Set.Name, RunID: x.result.RunID, Err: err}
	}
	x.log.Info("the set was published", "version", x.result.Version)
	return x.result, nil
}

func (x *setRun) all(ctx context.Context) error {
	var err error
	if x.plan, err = NewSetPlan(x.Set, edm.Embedded()); err != nil {
		return err
	}
	for _, note := range x.plan.Notes {
		x.log.Warn(note)
	}
	if err := x.open(ctx); err != nil {
		return err
	}
	again := x.plan.Order
	for round := 1; ; round++ {
		for _, job := range again {
			if err := x.member(ctx, job); err != nil {
				return err
			}
		}
		if err := x.prove(ctx); err != nil {
			return err
		}
		missing := sets.Missing(x.result.References)
		if len(missing) == 0 {
			return x.publish(ctx)
		}
		dangling := &sets.Dangling{Set: x.Set.Name, References: missing}
		if round == setRounds {
			return fmt.Errorf("refused after %d rounds: %w", round, dangling)
		}
		if again = x.lagging(missing); len(again) == 0 {
			return dangling
		}
		x.log.Warn("members do not fit together, refreshing those that lag", "jobs", again, "round", round+1, "reason", dangling)
	}
}

// open finds the pointer and mends its copy, which a crash may have left behind.
func (x *setRun) open(ctx context.Context) error {
	set, err := x.openSet(ctx, x.Set)
	if err != nil {
		return err
	}
	x.set, x.base, x.result.Location = set, -1, set.Location()
	newest, err := set.Newest(ctx)
	switch {
	case errors.Is(err, sets.ErrNone):
		return nil
	case err != nil:
		return err
	}
	x.base = newest.Version
	return set.Copy(ctx)
}

// openSet opens a set in its store.
func (r *Runner) openSet(ctx context.Context, set Set) (*sets.Set, error) {
	bucket, err := r.Bucket(ctx, set.Store)
	if err != nil {
		return nil, err
	}
	return sets.Open(bucket, set.Name)
}

func (x *setRun) job(name string) Job {
	return x.Set.Jobs[slices.IndexFunc(x.Set.Jobs, func(j Job) bool { return j.Name == name })]
}

// member refreshes one member, and remembers its version.
func (x *setRun) member(ctx context.Context, name string) error {
	res, err := x.Run(ctx, Request{Job: x.job(name), AcceptSchema: x.AcceptSchema, LowMemory: x.LowMemory, Progress: x.Progress, Cut: x.result.Cut})
	x.result.Results = append(x.result.Results, res)
	if err != nil {
		return err
	}
	if x.versions[name] = res.Version; res.Version >= 0 {
		return nil
	}
	// No window was due: the dataset is up to date as it stands.
	d, err := x.dataset(ctx, x.job(name))
	if err != nil {
		return err
	}
	s, err := d.Snapshot(ctx)
	if err != nil {
		return err
	}
	x.versions[name] = s.Version
	return nil
}

func (x *setRun) dataset(ctx context.Context, j Job) (*export.Dataset, error) {
	bucket, err := x.Bucket(ctx, j.Store)
	if err != nil {
		return nil, err
	}
	return export.Open(bucket, j.Path), nil
}

// prove holds the references between the new versions against each other.
func (x *setRun) prove(ctx context.Context) error {
	var opened []sets.Opened
	x.result.Members = nil
	for _, j := range x.Set.Jobs {
		d, err := x.dataset(ctx, j)
		if err != nil {
			return err
		}
		version := x.versions[j.Name]
		s, err := d.SnapshotAt(ctx, version)
		if err != nil {
			return err
		}
		rows, err := d.RowsOf(s)
		if err != nil {
			return err
		}
		opened = append(opened, sets.Opened{Job: j.Name, Dataset: d, Version: version})
		x.result.Members = append(x.result.Members, sets.Member{Job: j.Name, Table: j.Table, Store: j.Store, Path: j.Path, Location: d.Location(),
			Version: version, Rows: rows})
	}
	var err error
	x.result.References, err = sets.Prove(ctx, opened, x.plan.Edges)
	return err
}

// lagging are the members that are to be read again: those whose rows refer to nothing, which were read before their owners were
// deleted, and what they refer to, which must be read after them.
func (x *setRun) lagging(missing []sets.Reference) []string {
	var out []string
	for _, job := range x.plan.Order {
		if slices.ContainsFunc(missing, func(r sets.Reference) bool { return r.Job == job || slices.Contains(r.To, job) }) {
			out = append(out, job)
		}
	}
	return out
}

// publish moves the pointer, audited before and behind. A crash in between leaves "started" alone in the audit log; whether the
// pointer is there says the store.
func (x *setRun) publish(ctx context.Context) error {
	rows := int64(0)
	for _, m := range x.result.Members {
		rows += m.Rows
	}
	p := sets.Pointer{Cut: x.result.Cut, Published: time.Now().UTC(), Run: x.result.RunID, Engine: x.Engine, Members: x.result.Members, References: x.result.References}
	published, err := x.movePointer(ctx, x.set, x.base, p, "publish-set")
	if published != nil {
		x.result.Version = published.Version
	}
	return err
}

// movePointer publishes a pointer of a set between two lines of the audit log, and copies it for readers. The pointer is returned if it
// was published, whatever failed behind it.
func (r *Runner) movePointer(ctx context.Context, set *sets.Set, base int64, p sets.Pointer, action string) (*sets.Pointer, error) {
	names, rows := make([]string, len(p.Members)), int64(0)
	for i, m := range p.Members {
		names[i] = m.Job + "@" + strconv.FormatInt(m.Version, 10)
		rows += m.Rows
	}
	detail := map[string]string{"location": set.Folder(), "members": strings.Join(names, " "), "before": strconv.FormatInt(base, 10)}
	if p.Restores != nil {
		detail["restores"] = strconv.FormatInt(*p.Restores, 10)
	}
	entry := func(outcome string) audit.Entry {
		return audit.Entry{Action: action, Subject: set.Name(), Run: p.Run, Rows: rows, Outcome: outcome, Detail: detail, Actor: r.Actor}
	}
	if _, err := r.Audit.Append(ctx, entry(audit.Started)); err != nil {
		return nil, fmt.Errorf("the pointer was not moved: %w", unaudited(err))
	}
	published, err := set.Publish(ctx, base, p)
	if err != nil {
		detail["class"] = string(Classify(stopped(ctx, err)))
		if as[*sets.Unresolved](err) {
			detail["published"] = "not known"
		}
		_, aerr := r.Audit.Append(context.WithoutCancel(ctx), entry(audit.Failed))
		return nil, errors.Join(err, unaudited(aerr))
	}
	detail["version"] = strconv.FormatInt(published.Version, 10)
	_, aerr := r.Audit.Append(context.WithoutCancel(ctx), entry(audit.OK))
	// A copy that could not be made is older, and right in itself: the next run makes it.
	return published, errors.Join(unaudited(aerr), set.Copy(context.WithoutCancel(ctx)))
}

// RollbackSet makes the members' versions of an older pointer those of the set again, by publishing a new pointer. It is refused with
// *sets.Gone when files of them are gone, and for a version that counts already. The members' own logs stay as they are: the
// next run of the set moves on from their newest versions.
func (r *Runner) RollbackSet(ctx context.Context, set Set, version int64) (*sets.Pointer, error) {
	s, err := r.openSet(ctx, set)
	if err != nil {
		return nil, err
	}
	newest, err := s.Newest(ctx)
	if err != nil {
		return nil, err
	}
	old, err := s.Version(ctx, version)
	if err != nil {
		return nil, err
	}
	if version == newest.Version || slices.Equal(old.Members, newest.Members) {
		return nil, fmt.Errorf("the set %s has the datasets of its version %d already: %w", set.Name, version, ErrSameVersion)
	}
	err = sets.Readable(ctx, old, func(ctx context.Context, m sets.Member) (*export.Dataset, error) {
		b, err := r.Bucket(ctx, m.Store)
		if err != nil {
			return nil, err
		}
		return export.Open(b, m.Path), nil
	})
	if err != nil {
		return nil, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	restores := cmp.Or(old.Restores, &old.Version)
	return r.movePointer(ctx, s, newest.Version, sets.Pointer{Cut: old.Cut, Published: time.Now().UTC(), Run: id.String(), Engine: r.Engine,
		Restores: restores, Members: old.Members, References: old.References}, "rollback-set")
}

// ErrSameVersion is in the error of a rollback that would change nothing.
var ErrSameVersion = errors.New("there is nothing to roll back to")
