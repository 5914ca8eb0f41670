// Package scope proves that rows are inside what a job may see.
//
// [Scope.Check] is the only maker of [Checked], and the dataset writer takes nothing else: a row that
// the scope does not admit cannot be written. The scope's filter is also sent to the server as part of
// $filter; Check does not trust that it was honoured.
//
// A scope without rules refuses everything. Seeing everything must be typed: [Unrestricted].
// Rules on a reference path are over an owner's column, which rows do not carry. With [Rules].VerifyOwner they are proven by the
// owners' keys (owners.go); without, they are delegated to the server: allowed only where the job says so, and stamped on the dataset.
//
// NULL is inside no scope: a row whose rule column is NULL is foreign, and a rule "eq null" is refused.
package scope

import (
	"errors"
	"fmt"
	"slices"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"github.com/tablexport/tablexport/odata/filter"
)

// Enforcement says who enforces a scope.
type Enforcement string

// The enforcements, strongest first. Mixed scopes have the weakest of their terms.
const (
	Verified     Enforcement = "verified"     // every row was re-tested here
	Delegated    Enforcement = "delegated"    // at least one rule is enforced by the server alone
	Unrestricted Enforcement = "unrestricted" // the scope admits every row, by explicit configuration
)

// Rules is what a scope says, before it is bound to what a job publishes.
type Rules struct {
	Name         string
	Where        filter.Bound
	Unrestricted bool // must be typed; with Where set as well, New refuses
	Delegated    bool // the job accepts rules that only the server enforces
	VerifyOwner  bool // rules on reference paths are proven by the owners' keys: see [Rules.Owners] and [Scope.Bind]
}

// Columns returns the columns that the rules read, each once, and the references whose owners are tested: a job must fetch
// them, published or not.
func (r Rules) Columns() []string {
	columns := r.Where.Columns()
	if r.VerifyOwner {
		for _, ref := range references(r.Where) {
			if !slices.Contains(columns, ref.column) {
				columns = append(columns, ref.column)
			}
		}
	}
	return columns
}

// RulesError says why rules cannot be enforced. It is a mistake in the configuration.
type RulesError struct {
	Scope string
	Term  string // the rule without its values, "" if the rules as a whole are meant
	Text  string // what is wrong, and what to change
}

// Error implements error.
func (e *RulesError) Error() string {
	if e.Term == "" {
		return fmt.Sprintf("scope %q: %s", e.Scope, e.Text)
	}
	return fmt.Sprintf("scope %q, rule %s: %s", e.Scope, e.Term, e.Text)
}

// ErrSchema is the fact that a record has another schema than the scope was bound to. Nothing of it was
// checked.
var ErrSchema = errors.New("the record has another schema than the scope was bound to")

// Scope checks records. It is immutable and safe for concurrent use.
type Scope struct {
	stamp   Stamp
	matcher *filter.Matcher
	owned   []owned
	fetch   *arrow.Schema
	publish *arrow.Schema
	keep    []int // publish column → fetch column
}

// New binds rules to a job: fetch is the schema of the records that will be checked, publish the
// names of the columns that a checked record keeps, in order. It refuses empty rules, rules on
// columns that fetch lacks, rules that cannot be re-tested (kinds other than Guid, integer, Boolean,
// Date; like; eq null), and path rules without Delegated or VerifyOwner; and a publish list that is empty, names a
// column that fetch lacks, or names one twice. Errors about rules are *RulesError, all of them joined.
func New(rules Rules, fetch *arrow.Schema, publish []string) (*Scope, error) {
	own, paths := rules.Where.Split()
	if err := check(rules, own, paths); err != nil {
		return nil, err
	}
	matcher, err := own.Matcher(fetch)
	if err != nil {
		return nil, &RulesError{Scope: rules.Name, Text: err.Error()}
	}
	s := &Scope{matcher: matcher, fetch: fetch}
	if err := s.project(publish); err != nil {
		return nil, fmt.Errorf("scope %q: %w", rules.Name, err)
	}
	s.stamp = Stamp{Name: rules.Name, Where: rules.Where.Render(), Enforcement: Verified}
	switch {
	case rules.Unrestricted:
		s.stamp.Enforcement = Unrestricted
	case paths.Empty():
	case rules.VerifyOwner:
		if s.owned, err = newOwned(paths, fetch); err != nil {
			return nil, &RulesError{Scope: rules.Name, Text: err.Error()}
		}
		for _, o := range s.owned {
			s.stamp.Owners = append(s.stamp.Owners, o.written()...)
		}
	default:
		s.stamp.Enforcement = Delegated
		for _, t := range paths.Terms() {
			s.stamp.Delegated = append(s.stamp.Delegated, t.String())
		}
	}
	return s, nil
}

// Validate reports what New would refuse in the rules themselves, before any schema is known: for plan.
func (r Rules) Validate() error {
	own, paths := r.Where.Split()
	return check(r, own, paths)
}

func check(rules Rules, own, paths filter.Bound) error {
	refuse := func(term, text string) error { return &RulesError{Scope: rules.Name, Term: term, Text: text} }
	switch {
	case rules.Unrestricted && !rules.Where.Empty():
		return refuse("", "it has rules and is unrestricted: remove one of the two")
	case rules.Unrestricted:
		return nil
	case rules.Where.Empty():
		return refuse("", "it has no rules, so it admits nothing: write `where: …`, or `unrestricted: true` if every row may be seen")
	}
	var errs []error
	table := ""
	for _, t := range own.Terms() {
		switch err := t.Verifiable(); {
		case err != nil:
			errs = append(errs, refuse(t.Outline(), err.Error()))
		case t.Values[0].IsNull():
			errs = append(errs, refuse(t.Outline(), "NULL is inside no scope: name the values that are inside it"))
		case table != "" && table != t.To.Table.Name:
			errs = append(errs, refuse(t.Outline(), fmt.Sprintf("it is over table %s, another rule over %s", t.To.Table.Name, table)))
		}
		table = t.To.Table.Name
	}
	for _, t := range paths.Terms() {
		switch {
		case t.Values[0].IsNull():
			errs = append(errs, refuse(t.Outline(), "NULL is inside no scope: name the values that are inside it"))
		case rules.VerifyOwner:
			last := t
			last.Path = t.Path[len(t.Path)-1:] // as the owner's own scope tests it
			if err := last.Verifiable(); err != nil {
				errs = append(errs, refuse(t.Outline(), err.Error()+"; a rule that cannot be proven is left to the server by a scope without `verify: owner`, in a job with `delegated: true`"))
			}
		case !rules.Delegated:
			errs = append(errs, refuse(t.Outline(),
				"it is over a reference, which rows do not carry, so the server alone would enforce it: write `verify: owner` in the scope to have the owners' keys read and every row tested against them, `delegated: true` in the job to leave it to the server, or use a column of the table itself"))
		}
	}
	return errors.Join(errs...)
}

// project finds the published columns in fetch.
func (s *Scope) project(publish []string) error {
	if len(publish) == 0 {
		return errors.New("no column is to be published")
	}
	fields := make([]arrow.Field, 0, len(publish))
	for i, name := range publish {
		at := s.fetch.FieldIndices(name)
		if len(at) != 1 {
			return fmt.Errorf("column %s is to be published, but it is %d times among the columns that are fetched", name, len(at))
		}
		if slices.Contains(publish[:i], name) {
			return fmt.Errorf("column %s is to be published twice", name)
		}
		s.keep = append(s.keep, at[0])
		fields = append(fields, s.fetch.Field(at[0]))
	}
	metadata := s.fetch.Metadata()
	s.publish = arrow.NewSchema(fields, &metadata)
	return nil
}

// Check proves that every row of rec is inside the scope and returns it with the published columns
// only, without copying. The error is a *Violation for a foreign row; *UnknownOwner if there is none, but a row whose owner is not known;
// [ErrSchema], or [ErrOwners] where [Scope.Bind] was forgotten. rec stays owned
// by the caller; the Checked holds its own reference until Release.
func (s *Scope) Check(rec arrow.Record) (Checked, error) {
	if rec == nil || !sameColumns(rec.Schema(), s.fetch) {
		return Checked{}, fmt.Errorf("scope %q: %w", s.stamp.Name, ErrSchema)
	}
	row, term := s.matcher.FirstForeign(rec)
	if len(s.owned) > 0 {
		if err := s.checkOwners(rec, row, term); err != nil {
			return Checked{}, err
		}
	}
	if row >= 0 {
		return Checked{}, s.violation(row, term)
	}
	columns := make([]arrow.Array, len(s.keep))
	for i, at := range s.keep {
		columns[i] = rec.Column(at)
	}
	return Checked{rec: array.NewRecord(s.publish, columns, rec.NumRows()), by: s}, nil
}

func (s *Scope) violation(row int, term filter.Term) *Violation {
	return &Violation{Scope: s.stamp.Name, Column: term.Path[len(term.Path)-1], Rule: term.Outline(), Row: int64(row)}
}

// checkOwners tests the references; row is the first one that an own rule refused, by term, or -1. What is foreign for certain comes before what
// is only unknown, wherever in the record it stands.
func (s *Scope) checkOwners(rec arrow.Record, row int, term filter.Term) error {
	n := int(rec.NumRows())
	var foreign *Violation
	if row >= 0 {
		n, foreign = row, s.violation(row, term)
	}
	var unknown *UnknownOwner
	for i := range s.owned {
		o := &s.owned[i]
		if o.keys == nil {
			return fmt.Errorf("scope %q, column %s: %w", s.stamp.Name, o.column, ErrOwners)
		}
		none, strange := o.firstUnowned(rec.Column(o.index), n)
		if none >= 0 {
			n, foreign = none, &Violation{Scope: s.stamp.Name, Column: o.column, Rule: o.outline(), Row: int64(none)}
		}
		if strange >= 0 && (unknown == nil || int64(strange) < unknown.Row) {
			unknown = &UnknownOwner{Scope: s.stamp.Name, Column: o.column, Rule: o.outline(), Row: int64(strange)}
		}
	}
	switch {
	case foreign != nil:
		return foreign
	case unknown != nil:
		return unknown
	}
	return nil
}

// sameColumns compares names and types; what the schemas say beside that does not change what a row is.
func sameColumns(got, want *arrow.Schema) bool {
	if got == want {
		return true
	}
	if got.NumFields() != want.NumFields() {
		return false
	}
	for i, w := range want.Fields() {
		if g := got.Field(i); g.Name != w.Name || !arrow.TypeEqual(g.Type, w.Type) {
			return false
		}
	}
	return true
}

// Schema is the schema of checked records: the published columns.
func (s *Scope) Schema() *arrow.Schema { return s.publish }

// Stamp describes the scope for the dataset's metadata and the audit log.
func (s *Scope) Stamp() Stamp {
	stamp := s.stamp
	stamp.Delegated = slices.Clone(stamp.Delegated)
	stamp.Owners = slices.Clone(stamp.Owners)
	return stamp
}

// Stamp is how a scope is recorded.
type Stamp struct {
	Name        string      `json:"name"`
	Where       string      `json:"where,omitempty"`
	Enforcement Enforcement `json:"enforcement"`
	Delegated   []string    `json:"delegated,omitempty"`        // the terms that the server alone enforces
	Owners      []string    `json:"verifiedViaOwner,omitempty"` // the terms that were proven by the owners' keys
}

// Checked is a record that lies inside a scope. The zero Checked holds nothing and is refused by
// writers: ask OK.
type Checked struct {
	rec arrow.Record
	by  *Scope
}

// OK reports whether c came from Check.
func (c Checked) OK() bool { return c.rec != nil && c.by != nil }

// Record returns the record, valid until Release; nil for the zero Checked.
func (c Checked) Record() arrow.Record { return c.rec }

// Scope returns the scope that checked the record; nil for the zero Checked.
func (c Checked) Scope() *Scope { return c.by }

// Release gives the record back. It must be called once per successful Check.
func (c Checked) Release() {
	if c.rec != nil {
		c.rec.Release()
	}
}

// Violation is a row outside the scope. It names the rule and the row's position, never a value.
type Violation struct {
	Scope  string
	Column string
	Rule   string // the term without its values: "Line_Store_Id in (2 values)"; of an owner's rules all that go over the reference
	Row    int64  // position in the checked record, from 0; the runner adds the rows before it
	Table  string // the owner table that the row is of; "" for the table that is published. The runner knows
}

// Error implements error.
func (v *Violation) Error() string {
	of := ""
	if v.Table != "" {
		of = " of owner table " + v.Table
	}
	return fmt.Sprintf("row %d%s is outside scope %q: it fails the rule %s on column %s; nothing of this run may be published",
		v.Row, of, v.Scope, v.Rule, v.Column)
}
