// Package filter is one filter tree with two readings: [Bound.Render] is what we ask the server,
// [Matcher.FirstForeign] is what we check on the rows that come back.
//
// A filter is text in the Table API's dialect of OData. [Compile] reads the whole of the OData
// comparison grammar (so that an error can say what was meant), binds it to a table and refuses what
// the Table API does not take, naming column, operator and what would work instead.
//
//	bound, err := filter.Compile("Line_Store_Id in (5a…,6b…) and Void eq false", model, table)
//
// Code builds filters with [KeyFrom], [KeyRange], [KeyIn] and [And].
//
// Literals are typed by the column they are compared with, never by their looks. A [Literal] can only be
// made by this package from a column's type, so text cannot be injected into a query.
package filter

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tablexport/tablexport/odata/edm"
)

// Bound is a compiled filter: a conjunction of terms, each bound to a column and its type. The zero
// Bound is the empty conjunction (no filter). Bound is immutable.
type Bound struct {
	terms []Term
}

// Term is one comparison, "<path> <op> <values>".
type Term struct {
	Path   []string       // reference segments and the column, e.g. Document_Reference, Void
	To     edm.Resolution // what the path leads to
	Op     Op             //
	Values []Literal      // one value, or for In one or more; a null literal only with Eq
	Offset int            // byte offset in the source text, for messages; 0 for terms made by code
}

// Op is an operator that the Table API takes.
type Op uint8

// The operators.
const (
	Eq Op = iota + 1
	Ge
	Le
	Like
	In
)

// String returns the operator as it is written.
func (o Op) String() string {
	switch o {
	case Eq:
		return "eq"
	case Ge:
		return "ge"
	case Le:
		return "le"
	case Like:
		return "like"
	case In:
		return "in"
	}
	return "?"
}

// needs is what a column must take for the operator to be usable on it.
func (o Op) needs() edm.Ops {
	switch o {
	case Eq:
		return edm.OpEq
	case Ge, Le:
		return edm.OpRange
	case Like:
		return edm.OpLike
	}
	return edm.OpIn
}

// Own reports whether the term is over a column of the table itself, which rows carry.
func (t Term) Own() bool { return len(t.Path) == 1 }

// String returns the term as OData text, as [Bound.Render] writes it.
func (t Term) String() string {
	var b strings.Builder
	t.write(&b)
	return b.String()
}

func (t Term) write(b *strings.Builder) {
	for i, segment := range t.Path {
		if i > 0 {
			b.WriteByte('/')
		}
		b.WriteString(segment)
	}
	b.WriteByte(' ')
	b.WriteString(t.Op.String())
	b.WriteByte(' ')
	if t.Op != In {
		b.WriteString(t.Values[0].String())
		return
	}
	for i, v := range t.Values {
		b.WriteByte("(,"[min(i, 1)])
		b.WriteString(v.String())
	}
	b.WriteByte(')')
}

// Outline returns the term without its values, for messages: "Line_Store_Id in (2 values)",
// "Line_No ge (1 value)", "Line_Store_Id eq null".
func (t Term) Outline() string {
	values := fmt.Sprintf("(%d values)", len(t.Values))
	switch {
	case len(t.Values) == 1 && t.Values[0].null:
		values = "null"
	case len(t.Values) == 1:
		values = "(1 value)"
	}
	return strings.Join(t.Path, "/") + " " + t.Op.String() + " " + values
}

// equal compares terms but for their offsets.
func (t Term) equal(o Term) bool {
	return t.Op == o.Op && slices.Equal(t.Path, o.Path) && slices.Equal(t.Values, o.Values)
}

// And joins filters. The order of the terms is kept; a term that an earlier one repeats is left out.
func And(all ...Bound) Bound {
	var b Bound
	for _, one := range all {
		for _, t := range one.terms {
			if !slices.ContainsFunc(b.terms, t.equal) {
				b.terms = append(b.terms, t)
			}
		}
	}
	return b
}

// Empty reports whether b has no terms.
func (b Bound) Empty() bool { return len(b.terms) == 0 }

// Terms returns the terms.
func (b Bound) Terms() []Term { return slices.Clone(b.terms) }

// Equal reports whether b and o are the same terms in the same order, wherever they were written.
func (b Bound) Equal(o Bound) bool { return slices.EqualFunc(b.terms, o.terms, Term.equal) }

// Render returns the filter as OData text, literals encoded for their types, NOT percent-encoded
// (the query builder of package odata does that, once, for the whole query). Compiling what Render
// returned gives an equal Bound.
func (b Bound) Render() string {
	var text strings.Builder
	for i, t := range b.terms {
		if i > 0 {
			text.WriteString(" and ")
		}
		t.write(&text)
	}
	return text.String()
}

// String is Render.
func (b Bound) String() string { return b.Render() }

// Columns returns the names of the table's own columns that b reads, each once, in the order of the terms.
func (b Bound) Columns() []string {
	var names []string
	for _, t := range b.terms {
		if t.Own() && !slices.Contains(names, t.Path[0]) {
			names = append(names, t.Path[0])
		}
	}
	return names
}

// Split parts b into the terms over the table's own columns (which rows carry, so a [Matcher] can
// re-test them) and the terms over reference paths (which only the server can judge).
func (b Bound) Split() (own, paths Bound) {
	for _, t := range b.terms {
		if t.Own() {
			own.terms = append(own.terms, t)
		} else {
			paths.terms = append(paths.terms, t)
		}
	}
	return own, paths
}

// Notes returns what is odd, but not refused, in b: values that the documentation does not list for an
// enumeration (it may be incomplete), and "eq null" on a column that is never null.
func (b Bound) Notes() []*Problem {
	var notes []*Problem
	for _, t := range b.terms {
		c := t.To.Column
		for _, v := range t.Values {
			switch {
			case v.null && !c.Nullable:
				notes = append(notes, &Problem{Offset: t.Offset,
					Text: fmt.Sprintf("column %s is never null, so no row can match", c.Name), Hint: "leave the comparison out"})
			case !v.null && t.Op != Like && len(c.Allowed) > 0 && !slices.Contains(c.Allowed, v.text):
				notes = append(notes, &Problem{Offset: t.Offset,
					Text: fmt.Sprintf("%s is not among the documented values of column %s", show(v.text), c.Name),
					Hint: "documented are " + strings.Join(c.Allowed, ", ")})
			}
		}
	}
	return notes
}
