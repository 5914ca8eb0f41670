package scope

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/filter"
)

// How a rule on an owner's column is proven. Rows do not carry the column, but they carry the key of the owner that does. So
//
//	a row is inside   ⇔ its own rules hold, and for every reference that rules go over: its owner is inside
//	an owner is inside ⇔ the same, of its row in its own table, by the rules behind the reference
//
// and the owners that are inside can be written down: the owner's table is scanned first, under the rules that lie behind the reference. To that
// scan the same rule applies, as a [Scope] of its own: its own rules are re-tested on every row, and where a rule goes
// further, the row's reference is tested against the keys of the next owner, which were read before. What passes becomes a member of
// a [Keys]. At the end of the chain there are own rules only, so that nothing at all is left to the server.

// Owner is one reference that rules go over.
type Owner struct {
	Column *edm.Column  // the reference, a column of the rows
	Table  *edm.Table   // where it leads
	Key    *edm.Column  // the key of Table, which Column holds
	Where  filter.Bound // the rules behind the reference, as Table is asked
	Rules  []string     // the same, as they were written
}

// Scope is the rules of the owner's table.
func (o *Owner) Scope(name string) Rules {
	return Rules{Name: name, Where: o.Where, VerifyOwner: true}
}

// Owners returns the references of table that the rules go over, in the order of the rules; none unless VerifyOwner is set. It refuses
// references that cannot be followed, and rules that the owner's table does not take. The errors are *RulesError, all of them joined.
func (r Rules) Owners(model *edm.Model, table *edm.Table) ([]*Owner, error) {
	if !r.VerifyOwner {
		return nil, nil
	}
	var owners []*Owner
	var errs []error
	for _, ref := range references(r.Where) {
		o, err := ref.owner(model, table)
		if err != nil {
			errs = append(errs, &RulesError{Scope: r.Name, Term: ref.terms[0].Outline(), Text: err.Error()})
			continue
		}
		owners = append(owners, o)
	}
	return owners, errors.Join(errs...)
}

// reference is the rules that go over one reference column.
type reference struct {
	column string
	to     string // the table that it leads to
	terms  []filter.Term
}

func references(where filter.Bound) (all []reference) {
	_, paths := where.Split()
	for _, t := range paths.Terms() {
		hop := t.To.Hops[0]
		i := slices.IndexFunc(all, func(r reference) bool { return r.column == hop.Name })
		if i < 0 {
			i, all = len(all), append(all, reference{column: hop.Name, to: hop.References})
		}
		all[i].terms = append(all[i].terms, t)
	}
	return all
}

// behind is the rules as the table behind the reference is asked.
func (r reference) behind() string {
	texts := make([]string, len(r.terms))
	for i, t := range r.terms {
		texts[i] = strings.TrimPrefix(t.String(), t.Path[0]+"/")
	}
	return strings.Join(texts, " and ")
}

func (r reference) written() []string {
	texts := make([]string, len(r.terms))
	for i, t := range r.terms {
		texts[i] = t.String()
	}
	return texts
}

// outline is the rules without their values, for messages.
func (r reference) outline() string {
	texts := make([]string, len(r.terms))
	for i, t := range r.terms {
		texts[i] = t.Outline()
	}
	return strings.Join(texts, " and ")
}

func (r reference) owner(model *edm.Model, table *edm.Table) (*Owner, error) {
	const instead = "write `delegated: true` in the job to leave the rule to the server, or use a column of the table itself"
	column, ok := table.Column(r.column)
	if !ok || column.Secret || column.Type.Kind == edm.Invalid {
		return nil, fmt.Errorf("the reference %s of table %s cannot be read, so that owners cannot be tested; %s", r.column, table.Name, instead)
	}
	to, ok := model.Table(r.to)
	if !ok {
		return nil, fmt.Errorf("it leads to table %s, which the instance does not have", r.to)
	}
	key, err := OwnerKey(to)
	if err != nil {
		return nil, fmt.Errorf("%w; %s", err, instead)
	}
	if !arrow.TypeEqual(key.Type.Arrow(), column.Type.Arrow()) || (key.Type.Kind == edm.Guid) != (column.Type.Kind == edm.Guid) {
		return nil, fmt.Errorf("the reference %s is %s, and the key %s of table %s is %s; %s", column.Name, column.Type, key.Name, to.Name, key.Type, instead)
	}
	where, err := filter.Compile(r.behind(), model, to)
	if err != nil {
		return nil, fmt.Errorf("table %s cannot be asked for the owners in scope: %w; %s", to.Name, err, instead)
	}
	// Owners that came while the rows were read are asked for by their key.
	if key.OpsKnown && key.Ops&(edm.OpIn|edm.OpEq) == 0 {
		return nil, fmt.Errorf("owners that come while rows are read cannot be asked for: the key %s of table %s takes neither `in` nor `eq`; %s", key.Name, to.Name, instead)
	}
	return &Owner{Column: column, Table: to, Key: key, Where: where, Rules: r.written()}, nil
}

// owned is a reference that rows are tested by.
type owned struct {
	reference
	index int // of the column in fetched records
	kind  edm.Kind
	keys  *Keys // nil until Bind
}

// newOwned finds the references in fetch.
func newOwned(where filter.Bound, fetch *arrow.Schema) ([]owned, error) {
	var all []owned
	for _, r := range references(where) {
		at := fetch.FieldIndices(r.column)
		if len(at) != 1 {
			return nil, fmt.Errorf("column %s, which holds the owner's key, is %d times among the columns that are fetched", r.column, len(at))
		}
		column := r.terms[0].To.Hops[0]
		if got := fetch.Field(at[0]).Type; !arrow.TypeEqual(got, column.Type.Arrow()) {
			return nil, fmt.Errorf("column %s has Arrow type %s in the rows, but %s is decoded to %s", r.column, got, column.Type, column.Type.Arrow())
		}
		all = append(all, owned{reference: r, index: at[0], kind: column.Type.Kind})
	}
	return all, nil
}

// ErrOwners is the fact that rows were to be checked before their owners' keys were known. Nothing was checked.
var ErrOwners = errors.New("the keys of the owners in scope have not been read")

// Bind gives the scope the keys of the owners that are inside, by reference column. It returns another scope, which checks; s itself
// stays as it was. Every reference needs a sealed set, made of the rows of the table that it leads to, by the very rules that
// stand behind it.
func (s *Scope) Bind(keys map[string]*Keys) (*Scope, error) {
	b := *s
	b.owned = slices.Clone(s.owned)
	for i := range b.owned {
		o := &b.owned[i]
		k := keys[o.column]
		switch {
		case k == nil || k.starts == nil:
			return nil, fmt.Errorf("scope %q, column %s: %w", s.stamp.Name, o.column, ErrOwners)
		case k.table.Name != o.to || k.by.stamp.Where != o.behind() || k.kind != o.kind:
			return nil, fmt.Errorf("scope %q, column %s: the keys are those of %s under %s, and not those that the rules mean", s.stamp.Name, o.column, k.table.Name, k.by.stamp.Where)
		}
		o.keys = k
	}
	return &b, nil
}

// same reports whether o proves what s proves: the same rules, over the same keys.
func (s *Scope) same(o *Scope) bool {
	return s == o || s.stamp.Name == o.stamp.Name && s.stamp.Where == o.stamp.Where && s.stamp.Enforcement == o.stamp.Enforcement &&
		s.publish == o.publish && slices.EqualFunc(s.owned, o.owned, func(a, b owned) bool { return a.column == b.column && a.keys == b.keys })
}

// UnknownOwner is a row whose owner is not among those that were in scope when they were read. The owner may be a new one: whoever
// can ask, asks again for the keys that [Scope.Unknown] gives, and adds them to the set. Until then the row is not checked,
// and cannot be written.
type UnknownOwner struct {
	Scope  string
	Column string // the reference
	Rule   string // the rules that go over it, without their values
	Row    int64  // position in the record, from 0
}

// Error implements error.
func (e *UnknownOwner) Error() string {
	return fmt.Sprintf("row %d: the owner that column %s refers to is not known to be inside scope %q (rule %s)", e.Row, e.Column, e.Scope, e.Rule)
}

// Outside is what a row is whose owner, by the reference column, exists and is not inside. row is its position in the scan.
func (s *Scope) Outside(column string, row int64) *Violation {
	v := &Violation{Scope: s.stamp.Name, Column: column, Row: row}
	for i := range s.owned {
		if o := &s.owned[i]; o.column == column {
			v.Rule = o.outline()
		}
	}
	return v
}

// Unknown returns the rows of rec whose owner is not known, one entry for each reference that fails, rows ascending. It is nil for a record with another
// schema than the scope's.
func (s *Scope) Unknown(rec arrow.Record) []Unknown {
	if rec == nil || !sameColumns(rec.Schema(), s.fetch) {
		return nil
	}
	var all []Unknown
	for i := range s.owned {
		o := &s.owned[i]
		if o.keys == nil {
			return nil
		}
		column := rec.Column(o.index)
		read := reader(o.kind, column)
		for row := range column.Len() {
			if v, ok := read(row); ok && !o.keys.has(v) {
				all = append(all, Unknown{Column: o.column, Row: row, Key: KeyText(column, row)})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Unknown) int { return a.Row - b.Row })
	return all
}

// Unknown is a row whose owner is not known.
type Unknown struct {
	Column string
	Row    int
	Key    string // of the owner, as filters take it
}

// firstUnowned tests the references of the first n rows. foreign is the first row without an owner, unknown the first one whose owner is not in its
// set, each -1 if there is none.
func (o *owned) firstUnowned(column arrow.Array, n int) (foreign, unknown int) {
	foreign, unknown = -1, -1
	read := reader(o.kind, column)
	for i := range n {
		v, ok := read(i)
		if !ok {
			return i, unknown
		}
		if unknown < 0 && !o.keys.has(v) {
			unknown = i
		}
	}
	return foreign, unknown
}
