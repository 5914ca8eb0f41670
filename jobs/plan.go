package jobs

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/filter"
	"github.com/tablexport/tablexport/odata/scope"
)

// Job is one export, as configured: a table, under a scope, into a dataset.
type Job struct {
	Name           string
	Description    string
	Instance       string
	Table          string
	Select         []string // nil = every column that holds no secret
	Filter         string
	ScopeName      string
	Where          string          // the scope's rule
	Unrestricted   bool            // the scope admits everything
	Delegated      bool            // scope rules on owner paths are accepted
	VerifyOwner    bool            // scope rules on owner paths are proven by the owners' keys
	Schema         export.Contract // what may become of the dataset's columns
	MaxQuarantined int64           // rows in the quarantine at most (export.DefaultQuarantined and DefaultQuarantinedPercent)
	MaxOwnerKeys   int             // owner keys in memory at most (scope.DefaultMaxOwnerKeys)
	Paging         odata.Paging
	PageSize       int
	Store          string
	Path           string // of the dataset, in its store
	Refresh        Refresh
}

// Plan is what a run of a job will ask and publish. It is made without asking anyone.
type Plan struct {
	Job      Job
	Table    *edm.Table
	Publish  []string      // the columns of the dataset
	Fetch    []string      // the columns that are asked for: Publish, then what only the scope or the windows need
	Filter   filter.Bound  // the job's filter and the scope's rule, as the server is asked
	Scope    *scope.Scope  //
	Fetched  *arrow.Schema // of fetched records
	Tested   []string      // columns that rows are tested by: the scope's, and the window's
	Windowed *Windowed     // how the table is read by period; nil: whole
	Compared *Compared     // how changed rows are found; nil: not at all
	Owners   []*OwnerPlan  // owner tables that are read first, since the scope is proven by them
	Notes    []string      // what a person should know before running it
}

// FieldProblem is one thing to change in a job's configuration.
type FieldProblem struct {
	Field  string // "instance", "table", "select", "select[2]", "filter", "scope", "where" (of the scope), "paging", "path", "refresh.by"
	Offset int    // byte offset inside the field's text; other than 0 for "filter" and "where" only
	Text   string
	Hint   string
}

// PlanError is everything that is wrong with a job, seen against a table model.
type PlanError struct {
	Job      string
	Problems []FieldProblem
}

// Error implements error.
func (e *PlanError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = fmt.Sprintf("job %s: %s: %s", e.Job, p.Field, p.Text)
		if p.Hint != "" {
			lines[i] += "; " + p.Hint
		}
	}
	return strings.Join(lines, "\n")
}

// NewPlan plans job against a model. The error is a *PlanError with every problem at once.
func NewPlan(job Job, model *edm.Model) (*Plan, error) {
	b := planner{Plan: Plan{Job: job}, model: model}
	b.path()
	b.table()
	if b.Table != nil {
		b.columns()
		b.filters()
		b.refresh()
	}
	if len(b.problems) == 0 {
		b.bind()
	}
	if len(b.problems) > 0 {
		return nil, &PlanError{Job: job.Name, Problems: b.problems}
	}
	return &b.Plan, nil
}

type planner struct {
	Plan
	model      *edm.Model
	own, where filter.Bound
	problems   []FieldProblem
}

func (b *planner) problem(field, text, hint string) {
	b.problems = append(b.problems, FieldProblem{Field: field, Text: text, Hint: hint})
}

func (b *planner) problemAt(field string, offset int, text, hint string) {
	b.problems = append(b.problems, FieldProblem{Field: field, Offset: offset, Text: text, Hint: hint})
}

func (b *planner) note(format string, args ...any) {
	b.Notes = append(b.Notes, fmt.Sprintf(format, args...))
}

// path checks where the dataset goes; "" is the root of the store.
func (b *planner) path() {
	if m := b.Job.Refresh.Mode; b.Job.Schema == export.Quarantined && m != Whole && m != Windows {
		b.problem("schema", "rows are quarantined where the whole table or windows of it are read, not by "+string(m), "write schema: freeze or evolve")
	}
	if b.Job.Path == "" {
		return
	}
	if err := store.ValidKey(strings.TrimSuffix(b.Job.Path, "/")); err != nil {
		b.problem("path", fmt.Sprintf("%q cannot be the path of a dataset: %v", b.Job.Path, err), "write one such as sales/order_lines")
	}
}

func (b *planner) table() {
	t, ok := b.model.Table(b.Job.Table)
	if !ok {
		b.problem("table", fmt.Sprintf("the instance has no table %s", b.Job.Table), didYouMean(b.model.Suggest(b.Job.Table)))
		return
	}
	b.Table = t
}

func didYouMean(names []string) string {
	if len(names) == 0 {
		return "tablexport tables lists them"
	}
	return "did you mean " + strings.Join(names, " or ") + "?"
}

func (b *planner) columns() {
	if b.Job.Select == nil {
		b.Publish = b.Table.DefaultSelect()
		if left := len(b.Table.Columns) - len(b.Publish); left > 0 {
			b.note("%d of %d columns hold secrets or have types that cannot be read, and are left out", left, len(b.Table.Columns))
		}
		if len(b.Publish) == 0 {
			b.problem("table", fmt.Sprintf("table %s has no column that can be exported", b.Table.Name), "choose another table")
		}
		return
	}
	if len(b.Job.Select) == 0 {
		b.problem("select", "it names no column", "name at least one, or leave select out for all")
	}
	for i, name := range b.Job.Select {
		b.column(fmt.Sprintf("select[%d]", i), name)
	}
}

// column adds a selected column.
func (b *planner) column(field, name string) {
	t := b.Table
	c, ok := t.Column(name)
	same := slices.IndexFunc(b.Publish, func(p string) bool { return strings.EqualFold(p, name) })
	switch {
	case !ok:
		b.problem(field, fmt.Sprintf("table %s has no column %s", t.Name, name), didYouMean(t.Suggest(name)))
	case c.Secret:
		b.problem(field, fmt.Sprintf("column %s of %s holds secrets and is never exported", name, t.Name), "remove it")
	case c.Type.Kind == edm.Invalid:
		b.problem(field, fmt.Sprintf("column %s of %s has a type that cannot be read", name, t.Name), "remove it")
	case same >= 0:
		b.problem(field, fmt.Sprintf("column %s is selected already, as %s (readers of the dataset do not tell upper from lower case)", name, b.Publish[same]), "remove it")
	default:
		b.Publish = append(b.Publish, name)
	}
}

// filters reads the job's filter and the scope's rules. What is wrong with one does not hide what is wrong with the other.
func (b *planner) filters() {
	var ok bool
	if b.own, ok = b.compile("filter", b.Job.Filter); ok {
		b.noteAll("filter", b.own)
	}
	if b.where, ok = b.compile("where", b.Job.Where); !ok {
		return
	}
	b.noteAll("scope "+b.Job.ScopeName, b.where)
	b.rulesProblems(b.rules().Validate())
}

func (b *planner) noteAll(what string, bound filter.Bound) {
	for _, n := range bound.Notes() {
		text := n.Text
		if n.Hint != "" {
			text += "; " + n.Hint
		}
		b.note("%s, character %d: %s", what, n.Offset+1, text)
	}
}

func (b *planner) rules() scope.Rules {
	return scope.Rules{Name: b.Job.ScopeName, Where: b.where, Unrestricted: b.Job.Unrestricted, Delegated: b.Job.Delegated, VerifyOwner: b.Job.VerifyOwner}
}

// rulesProblems places what is wrong with the scope's rules: at its term in the rule's text, or at the job's scope.
func (b *planner) rulesProblems(err error) {
	var one *scope.RulesError
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range many.Unwrap() {
			b.rulesProblems(err)
		}
		return
	}
	switch {
	case err == nil:
	case errors.As(err, &one) && one.Term != "":
		b.problemAt("where", b.offset(one.Term), fmt.Sprintf("rule %s: %s", one.Term, one.Text), "")
	case errors.As(err, &one):
		b.problem("scope", fmt.Sprintf("scope %s: %s", b.Job.ScopeName, one.Text), "")
	default:
		b.problem("scope", err.Error(), "")
	}
}

// offset finds a rule in the scope's text. Of equal outlines the first one is meant.
func (b *planner) offset(outline string) int {
	for _, t := range b.where.Terms() {
		if t.Outline() == outline {
			return t.Offset
		}
	}
	return 0
}

// bind joins the parts, which are sound each on its own.
func (b *planner) bind() {
	b.Fetch = slices.Clone(b.Publish)
	needed := b.rules().Columns()
	if b.Windowed != nil && b.Windowed.Checked != "" {
		needed = append(needed, b.Windowed.Checked)
	}
	b.Tested = needed
	for _, name := range needed {
		if !slices.Contains(b.Fetch, name) {
			b.Fetch = append(b.Fetch, name)
		}
	}
	fetched, err := odata.ArrowSchema(b.Table, b.Fetch)
	if err != nil {
		b.problem("select", err.Error(), "select the columns that are needed, without it")
		return
	}
	s, err := scope.New(b.rules(), fetched, b.Publish)
	if err != nil {
		b.rulesProblems(err)
		return
	}
	b.Fetched, b.Scope, b.Filter = fetched, s, filter.And(b.own, b.where)
	if b.Owners = b.owners(b.rules(), b.Table); len(b.problems) > 0 {
		return
	}
	// A scan that is only made asks nothing, and needs no instance: it says whether the query can be scanned.
	if _, err := new(odata.Session).Scan(b.Query()); err != nil {
		b.problem("paging", strings.TrimPrefix(err.Error(), "odata: "), "")
		return
	}
	if b.Compared != nil {
		b.bindChanges()
	}
	if len(b.Table.Key) == 0 {
		b.note("%s is a view without a key: it is read twice, and published only if both passes agree", b.Table.Name)
	}
	if stamp := s.Stamp(); stamp.Enforcement == scope.Delegated {
		b.note("the scope is enforced by the server alone for: %s", strings.Join(stamp.Delegated, ", "))
	}
}

// compile binds a filter's text to the table; ok is false if there are problems with it.
func (b *planner) compile(field, text string) (bound filter.Bound, ok bool) {
	bound, err := filter.Compile(text, b.model, b.Table)
	var problems filter.Problems
	switch {
	case err == nil:
		return bound, true
	case errors.As(err, &problems):
		for _, p := range problems {
			b.problemAt(field, p.Offset, p.Text, p.Hint)
		}
	default:
		b.problem(field, err.Error(), "")
	}
	return filter.Bound{}, false
}

// Query is the query of one scan of the plan.
func (p *Plan) Query() odata.Query {
	return odata.Query{Table: p.Table, Select: p.Fetch, Filter: p.Filter, Paging: p.Job.Paging, PageSize: p.Job.PageSize}
}

// Text is the query for people and for the dataset's provenance: no host, no credential, no paging.
func (p *Plan) Text() string { return queryText(p.Table, p.Fetch, p.Filter) }

func queryText(table *edm.Table, fetch []string, where filter.Bound) string {
	text := table.Name + "?$select=" + strings.Join(fetch, ",")
	if !where.Empty() {
		text += "&$filter=" + where.Render()
	}
	return text
}

// PublishedKey is the table's key, if every column of it is published, and nil otherwise.
func (p *Plan) PublishedKey() []string {
	for _, k := range p.Table.Key {
		if !slices.Contains(p.Publish, k) {
			return nil
		}
	}
	return p.Table.Key
}
