// Package edm is the model of an instance's tables: which tables there are, which columns they
// have, of which type, and what the server's filter accepts on each of them.
//
// A model has two sources. The instance's own $metadata (CSDL 4.0/4.01 XML, read by [ParseCSDL])
// is the truth about names, types and nullability. The embedded table model ([Embedded], made from
// the vendor's published documentation) knows what CSDL does not say: owner hierarchy, the filter
// operators of a column, sort support, allowed values. [Merge] lays the second under the first.
//
// The embedded model (tables.json) is derived from the ERP.net table documentation,
// https://github.com/ErpNetDocs/model, © ERP.net, licensed CC BY 4.0; see the NOTICE file beside it.
//
// edm is a leaf: it imports nothing else of this module.
package edm

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"
)

// Kind is the primitive kind of a column.
type Kind uint8

// The kinds. Beside each stand the Arrow type a column of the kind is decoded into and the Delta
// type it is published as.
const (
	Invalid       Kind = iota
	Guid               // utf8, lowercase 36 characters; Delta string
	String             // utf8; Delta string
	MultiLanguage      // utf8, the JSON text of the language map; Delta string
	Boolean            // bool; Delta boolean
	Byte               // int16 (Arrow's unsigned statistics are wrong in Parquet, so never uint8); Delta short
	Int16              // int16; Delta short
	Int32              // int32; Delta integer
	Int64              // int64; Delta long
	Decimal            // decimal128(Precision, Scale); Delta decimal(p,s)
	Double             // float64; Delta double
	Date               // date32; Delta date
	DateTime           // timestamp[us, UTC]; Delta timestamp
	TimeOfDay          // utf8, as sent; Delta string (Delta has no time of day)
	Binary             // binary; Delta binary
)

// Type is the type of a column. Precision and Scale are set for Decimal (1..38, 0..Precision) only,
// MaxLength (0 = unknown or unlimited, in characters or bytes) for String and Binary only.
type Type struct {
	Kind      Kind
	Precision int32
	Scale     int32
	MaxLength int32
}

// Arrow returns the Arrow type that values of t are decoded into. The Invalid kind gives arrow.Null:
// no value of such a column is ever decoded.
func (t Type) Arrow() arrow.DataType {
	switch t.Kind {
	case Guid, String, MultiLanguage, TimeOfDay:
		return arrow.BinaryTypes.String
	case Boolean:
		return arrow.FixedWidthTypes.Boolean
	case Byte, Int16:
		return arrow.PrimitiveTypes.Int16
	case Int32:
		return arrow.PrimitiveTypes.Int32
	case Int64:
		return arrow.PrimitiveTypes.Int64
	case Decimal:
		return &arrow.Decimal128Type{Precision: t.Precision, Scale: t.Scale}
	case Double:
		return arrow.PrimitiveTypes.Float64
	case Date:
		return arrow.FixedWidthTypes.Date32
	case DateTime:
		return &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"}
	case Binary:
		return arrow.BinaryTypes.Binary
	}
	return arrow.Null
}

// String returns the type as people know it from OData: "Edm.Guid", "Edm.Decimal(14,2)". Two types
// with the same text are stored alike, so MaxLength, which nothing downstream depends on, is left out.
func (t Type) String() string {
	if t.Kind == Decimal {
		return fmt.Sprintf("Edm.Decimal(%d,%d)", t.Precision, t.Scale)
	}
	return t.Kind.String()
}

// String returns the OData name of the kind: "Edm.DateTimeOffset". A multi-language text is
// "Edm.String(multi-language)"; Invalid is "unsupported".
func (k Kind) String() string {
	switch k {
	case Guid:
		return "Edm.Guid"
	case String:
		return "Edm.String"
	case MultiLanguage:
		return "Edm.String(multi-language)"
	case Boolean:
		return "Edm.Boolean"
	case Byte:
		return "Edm.Byte"
	case Int16:
		return "Edm.Int16"
	case Int32:
		return "Edm.Int32"
	case Int64:
		return "Edm.Int64"
	case Decimal:
		return "Edm.Decimal"
	case Double:
		return "Edm.Double"
	case Date:
		return "Edm.Date"
	case DateTime:
		return "Edm.DateTimeOffset"
	case TimeOfDay:
		return "Edm.TimeOfDay"
	case Binary:
		return "Edm.Binary"
	}
	return "unsupported"
}

// Ops is the set of filter operators that a column takes.
type Ops uint8

// The operators of the Table API's filter dialect, as the vendor's model documents them per column.
const (
	OpEq    Ops = 1 << iota // eq, also "eq null"
	OpRange                 // ge and le
	OpLike                  // like
	OpIn                    // in (…), and the same-field or-chain that means the same
)

// Has reports whether every operator of want is in o.
func (o Ops) Has(want Ops) bool { return o&want == want }

// String lists the operators as they are written in a filter: "eq, in, ge, le". Without any it is "none".
func (o Ops) String() string {
	var names []string
	for _, n := range [...]struct {
		op   Ops
		name string
	}{{OpEq, "eq"}, {OpIn, "in"}, {OpRange, "ge, le"}, {OpLike, "like"}} {
		if o.Has(n.op) {
			names = append(names, n.name)
		}
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, ", ")
}

// Column is one column of a table.
type Column struct {
	Name       string
	Type       Type
	Nullable   bool
	Key        bool     // part of the primary key
	OwnerRef   bool     // points at the owner of the row (line → header → document)
	References string   // the table whose key this column holds; "" if none
	Navigation string   // the reference path segment that follows this column ("Document_Reference"); "" if none
	Ops        Ops      // what the server's filter takes on this column; 0 = not filterable
	OpsKnown   bool     // false when neither source documents the operators: probe, don't assume
	Sortable   bool     // documented as sortable
	Allowed    []string // documented values of an enumeration, nil if free
	Comment    string   // one line for the data dictionary; never empty in a merged model
	Secret     bool     // holds secret material (hashes, tokens): never selectable
	Source     string   // the type as the source names it: "decimal(14, 2)", "Edm.GeographyPoint"

	openDecimal bool // CSDL states no usable precision and scale: Type is the fallback, Merge may know better
	described   bool // Comment is the finished line; before, it is the bare description of the source
}

// Table is one table or view. Name, Columns and Key are never nil in a model that was built by this
// package; Key is empty for views without a key.
type Table struct {
	Name    string
	Entity  string   // the vendor's entity name ("Crm.Sales.SalesOrderLines"), "" if unknown
	Owners  []string // the Owner Tables Hierarchy, nearest first
	Columns []Column // in the order of the source
	Key     []string // names of the key columns, in order

	byName map[string]int // exact name → index
}

// Column finds a column by its exact name.
func (t *Table) Column(name string) (*Column, bool) {
	i, ok := t.byName[name]
	if !ok {
		return nil, false
	}
	return &t.Columns[i], true
}

// DefaultSelect returns the columns that a job gets when it names none: all but those that hold secret
// material and those of a type that cannot be decoded, in the order of the table.
func (t *Table) DefaultSelect() []string {
	names := make([]string, 0, len(t.Columns))
	for i := range t.Columns {
		if c := &t.Columns[i]; !c.Secret && c.Type.Kind != Invalid {
			names = append(names, c.Name)
		}
	}
	return names
}

// Model is an immutable set of tables.
type Model struct {
	tables map[string]func() *Table // made when they are first asked for
	names  []string                 // sorted
}

// made is a table that is there already.
func made(t *Table) func() *Table { return func() *Table { return t } }

// New makes a model of tables. The tables are copied; Key lists that are nil are filled from
// Column.Key, and Column.Key is set from Key lists. It fails on a name that is empty or occurs twice,
// on a key column that the table lacks, and on a decimal whose precision or scale cannot be stored.
func New(tables ...Table) (*Model, error) {
	m := &Model{tables: make(map[string]func() *Table, len(tables))}
	for _, t := range tables {
		t.Columns = append(make([]Column, 0, len(t.Columns)), t.Columns...)
		if err := t.index(); err != nil {
			return nil, err
		}
		if _, dup := m.tables[t.Name]; dup {
			return nil, fmt.Errorf("edm: table %q is there twice", t.Name)
		}
		m.tables[t.Name] = made(&t)
		m.names = append(m.names, t.Name)
	}
	slices.Sort(m.names)
	return m, nil
}

// index checks t and fills what is derived: the name index, Key and Column.Key.
func (t *Table) index() error {
	if t.Name == "" {
		return fmt.Errorf("edm: a table without a name")
	}
	t.byName = make(map[string]int, len(t.Columns))
	collect := t.Key == nil
	key := append(make([]string, 0, len(t.Key)), t.Key...)
	for i := range t.Columns {
		c := &t.Columns[i]
		if c.Name == "" {
			return fmt.Errorf("edm: table %s has a column without a name", t.Name)
		}
		if _, dup := t.byName[c.Name]; dup {
			return fmt.Errorf("edm: table %s has column %q twice", t.Name, c.Name)
		}
		if p, s := c.Type.Precision, c.Type.Scale; c.Type.Kind == Decimal && (p < 1 || p > 38 || s < 0 || s > p) {
			return fmt.Errorf("edm: table %s, column %s: a decimal(%d,%d) cannot be stored", t.Name, c.Name, p, s)
		}
		t.byName[c.Name] = i
		if collect && c.Key {
			key = append(key, c.Name)
		}
	}
	t.Key = key
	for _, name := range key {
		i, ok := t.byName[name]
		if !ok {
			return fmt.Errorf("edm: table %s names %q as its key, but has no such column", t.Name, name)
		}
		t.Columns[i].Key, t.Columns[i].Nullable = true, false
	}
	return nil
}

// With returns a model in which t stands in place of the table of its name; the others are shared. t is copied, and checked as [New] does.
func (m *Model) With(t Table) (*Model, error) {
	if _, ok := m.tables[t.Name]; !ok {
		return nil, fmt.Errorf("edm: there is no table %q to replace", t.Name)
	}
	t.Columns = append(make([]Column, 0, len(t.Columns)), t.Columns...)
	if err := t.index(); err != nil {
		return nil, err
	}
	tables := maps.Clone(m.tables)
	tables[t.Name] = made(&t)
	return &Model{tables: tables, names: m.names}, nil
}

// Table finds a table by its exact name.
func (m *Model) Table(name string) (*Table, bool) {
	table, ok := m.tables[name]
	if !ok {
		return nil, false
	}
	return table(), true
}

// Tables returns the names of all tables, sorted.
func (m *Model) Tables() []string { return slices.Clone(m.names) }

// Suggest returns up to three names of tables that a misspelt name may have meant, best first.
func (m *Model) Suggest(name string) []string { return closest(name, m.names) }

// Suggest returns up to three names of columns that a misspelt name may have meant, best first.
func (t *Table) Suggest(name string) []string {
	names := make([]string, len(t.Columns))
	for i := range t.Columns {
		names[i] = t.Columns[i].Name
	}
	return closest(name, names)
}

// Resolution is where a filter path ends: Column of Table, reached over Owner hops only (which the
// server always accepts) or over another reference.
type Resolution struct {
	Table  *Table
	Column *Column
	Hops   []*Column // the reference columns that were followed, nil for an own column
	Owner  bool      // every hop stays in the Owner Tables Hierarchy of the start table
}
