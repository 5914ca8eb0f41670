package filter

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"github.com/tablexport/tablexport/odata/edm"
)

// Matcher is a filter compiled against a record schema. It keeps no state between records and is safe
// for concurrent use.
type Matcher struct {
	terms []matchTerm
}

// matchTerm is a term against column index of a record.
type matchTerm struct {
	term  Term
	index int
	null  bool            // eq null
	set   map[string]bool // Guid eq and in: lowercase texts
	ints  []int64         // integers, Boolean, Date: sorted for eq and in, one for ge and le
	guid  [16]byte        // Guid ge and le: edm.GUIDKey of the bound
}

// Matcher re-tests b on the rows of a record whose columns are typed as package edm says. It fails for
// terms that cannot be re-tested: reference paths, like, columns of other kinds than Guid, integers,
// Boolean and Date, columns that schema lacks or has with another type.
func (b Bound) Matcher(schema *arrow.Schema) (*Matcher, error) {
	m := &Matcher{terms: make([]matchTerm, 0, len(b.terms))}
	for _, t := range b.terms {
		mt, err := newMatchTerm(t, schema)
		if err != nil {
			return nil, err
		}
		m.terms = append(m.terms, mt)
	}
	return m, nil
}

// Verifiable reports whether rows can be re-tested against the term: an own column of kind Guid,
// integer, Boolean or Date, compared with anything but like. The error says why not.
func (t Term) Verifiable() error {
	path, c := strings.Join(t.Path, "/"), t.To.Column
	switch {
	case !t.Own():
		return fmt.Errorf("%s is over a reference, which rows do not carry: only the server can judge it", path)
	case t.Op == Like:
		return fmt.Errorf("%s is compared with `like`, which only the server can judge", path)
	}
	switch c.Type.Kind {
	case edm.Guid, edm.Boolean, edm.Byte, edm.Int16, edm.Int32, edm.Int64, edm.Date:
		return nil
	}
	return fmt.Errorf("%s is of type %s: rows are re-tested on Edm.Guid, integer, Edm.Boolean and Edm.Date columns only", path, c.Type)
}

func newMatchTerm(t Term, schema *arrow.Schema) (matchTerm, error) {
	mt := matchTerm{term: t}
	if err := t.Verifiable(); err != nil {
		return mt, err
	}
	name, typ := t.Path[0], t.To.Column.Type
	found := schema.FieldIndices(name)
	switch len(found) {
	case 1:
	case 0:
		return mt, fmt.Errorf("column %s is not among the columns that are fetched, so %s cannot be tested", name, t.Outline())
	default:
		return mt, fmt.Errorf("column %s is %d times among the columns that are fetched, so %s cannot be tested", name, len(found), t.Outline())
	}
	if got := schema.Field(found[0]).Type; !arrow.TypeEqual(got, typ.Arrow()) {
		return mt, fmt.Errorf("column %s has Arrow type %s in the rows, but %s is decoded to %s", name, got, typ, typ.Arrow())
	}
	mt.index, mt.null = found[0], t.Values[0].null
	switch {
	case mt.null:
	case typ.Kind != edm.Guid:
		for _, v := range t.Values {
			mt.ints = append(mt.ints, v.n)
		}
		slices.Sort(mt.ints)
	case t.Op == Ge || t.Op == Le:
		mt.guid, _ = edm.GUIDKey(t.Values[0].text)
	default:
		mt.set = make(map[string]bool, len(t.Values))
		for _, v := range t.Values {
			mt.set[v.text] = true
		}
	}
	return mt, nil
}

// FirstForeign returns the index of the first row of rec that the filter does not admit, and the
// term that refused it, or -1. NULL satisfies no term, except "eq null". rec must have the schema that
// the Matcher was made for; it panics otherwise.
func (m *Matcher) FirstForeign(rec arrow.Record) (row int, term Term) {
	first, by := int(rec.NumRows()), -1
	for i := range m.terms {
		// Later terms need only look at the rows before the first foreign one.
		if at := m.terms[i].first(rec.Column(m.terms[i].index), first); at < first {
			first, by = at, i
		}
	}
	if by < 0 {
		return -1, Term{}
	}
	return first, m.terms[by].term
}

// first returns the index of the first of the first n rows that the term does not admit, or n.
func (t *matchTerm) first(column arrow.Array, n int) int {
	if t.null {
		for i := range n {
			if column.IsValid(i) {
				return i
			}
		}
		return n
	}
	switch a := column.(type) {
	case *array.String:
		return t.firstGUID(a, n)
	case *array.Int16:
		return firstInt(t, a, a.Int16Values(), n)
	case *array.Int32:
		return firstInt(t, a, a.Int32Values(), n)
	case *array.Int64:
		return firstInt(t, a, a.Int64Values(), n)
	case *array.Date32:
		return firstInt(t, a, a.Date32Values(), n)
	case *array.Boolean:
		for i := range n {
			v := int64(0)
			if a.IsValid(i) && a.Value(i) {
				v = 1
			}
			if a.IsNull(i) || !t.admits(v) {
				return i
			}
		}
		return n
	}
	panic(fmt.Sprintf("filter: a record with %s where the matcher was made for %s",
		column.DataType(), t.term.To.Column.Type.Arrow()))
}

func firstInt[T ~int16 | ~int32 | ~int64](t *matchTerm, a arrow.Array, values []T, n int) int {
	for i, v := range values[:n] {
		if a.IsNull(i) || !t.admits(int64(v)) {
			return i
		}
	}
	return n
}

func (t *matchTerm) admits(v int64) bool {
	switch t.term.Op {
	case Ge:
		return v >= t.ints[0]
	case Le:
		return v <= t.ints[0]
	}
	_, found := slices.BinarySearch(t.ints, v)
	return found
}

// firstGUID compares GUIDs for equality as lowercase text, which is what the decoder yields, and for
// order as SQL Server does. Text that is no GUID is not admitted.
func (t *matchTerm) firstGUID(a *array.String, n int) int {
	if t.set != nil {
		for i := range n {
			if a.IsNull(i) || !t.set[a.Value(i)] {
				return i
			}
		}
		return n
	}
	for i := range n {
		if a.IsNull(i) {
			return i
		}
		key, ok := edm.GUIDKey(a.Value(i))
		order := bytes.Compare(key[:], t.guid[:])
		if !ok || t.term.Op == Ge && order < 0 || t.term.Op == Le && order > 0 {
			return i
		}
	}
	return n
}
