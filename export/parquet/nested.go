package parquet

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/compress"
	"github.com/apache/arrow/go/v17/parquet/file"
	"github.com/apache/arrow/go/v17/parquet/schema"
)

// Kind is the type of a field of a [Struct].
type Kind uint8

// The kinds, with the Go type of their values and the Parquet column.
const (
	Text  Kind = iota // string; BYTE_ARRAY, logical STRING
	Int               // int32; INT32
	Long              // int64; INT64
	Bool              // bool; BOOLEAN
	Texts             // []string; a LIST of STRING
	Map               // map[string]*string; a MAP of STRING to STRING, whose values may be null
)

// StructField is a field of a struct. The name may be a path: in "format.provider" the field provider lies in the struct format.
type StructField struct {
	Name string
	Kind Kind
}

// Struct is a column of a nested file. The column, and each of its fields, may be null.
type Struct struct {
	Name   string
	Fields []StructField
}

// StructRow is a row of a nested file in which one column is set: that with the number Struct. Values are those of its fields, in
// order; nil is null.
type StructRow struct {
	Struct int
	Values []any
}

// structGroupRows is the number of rows of a row group of a nested file: bounds the memory of writing.
const structGroupRows = 20_000

// WriteStructs writes a file of rows of which each sets one of several struct columns, as Delta's checkpoints are. It is
// compressed with Snappy, as theirs usually are, and has no statistics, because nobody filters it. It returns the number of rows. The memory is
// that of 20,000 rows.
func WriteStructs(w io.Writer, structs []Struct, rows iter.Seq[StructRow]) (n int64, err error) {
	out := &sink{w: w}
	err = guard(func() error {
		root, err := structSchema(structs)
		if err != nil {
			return err
		}
		fw := file.NewParquetWriter(out, root, file.WithWriterProps(parquet.NewWriterProperties(
			parquet.WithRootRepetition(parquet.Repetitions.Required), parquet.WithVersion(parquet.V2_LATEST), parquet.WithCreatedBy(createdBy),
			parquet.WithCompression(compress.Codecs.Snappy), parquet.WithStats(false))))
		var batch []StructRow
		flush := func() error {
			n += int64(len(batch))
			defer func() { batch = batch[:0] }()
			return writeStructGroup(fw, structs, batch)
		}
		for row := range rows {
			if batch = append(batch, row); len(batch) == structGroupRows {
				if err := flush(); err != nil {
					return err
				}
			}
		}
		if len(batch) > 0 || n == 0 {
			if err := flush(); err != nil {
				return err
			}
		}
		return fw.Close()
	})
	if out.err != nil {
		return n, fmt.Errorf("parquet: writing the file: %w", out.err)
	}
	if err != nil {
		return n, fmt.Errorf("parquet: a nested file: %w", err)
	}
	return n, nil
}

func structSchema(structs []Struct) (*schema.GroupNode, error) {
	var columns schema.FieldList
	for _, s := range structs {
		n, err := structNode(s.Name, s.Fields)
		if err != nil {
			return nil, err
		}
		columns = append(columns, n)
	}
	return schema.NewGroupNode("schema", parquet.Repetitions.Required, columns, -1)
}

// structNode is an optional struct; fields whose names share a first part, and follow each other, are in one struct below it.
func structNode(name string, fields []StructField) (schema.Node, error) {
	var nodes schema.FieldList
	for i := 0; i < len(fields); {
		head, _, below := strings.Cut(fields[i].Name, ".")
		if !below {
			n, err := leafNode(fields[i])
			if err != nil {
				return nil, err
			}
			nodes = append(nodes, n)
			i++
			continue
		}
		var inner []StructField
		for ; i < len(fields); i++ {
			rest, ok := strings.CutPrefix(fields[i].Name, head+".")
			if !ok {
				break
			}
			inner = append(inner, StructField{Name: rest, Kind: fields[i].Kind})
		}
		n, err := structNode(head, inner)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
	return schema.NewGroupNode(name, parquet.Repetitions.Optional, nodes, -1)
}

func leafNode(f StructField) (schema.Node, error) {
	optional := parquet.Repetitions.Optional
	text := func(name string, rep parquet.Repetition) (schema.Node, error) {
		return schema.NewPrimitiveNodeLogical(name, rep, schema.StringLogicalType{}, parquet.Types.ByteArray, 0, -1)
	}
	switch f.Kind {
	case Text:
		return text(f.Name, optional)
	case Int:
		return schema.NewInt32Node(f.Name, optional, -1), nil
	case Long:
		return schema.NewInt64Node(f.Name, optional, -1), nil
	case Bool:
		return schema.NewBooleanNode(f.Name, optional, -1), nil
	case Texts:
		element, err := text("element", optional)
		if err != nil {
			return nil, err
		}
		list, err := schema.NewGroupNode("list", parquet.Repetitions.Repeated, schema.FieldList{element}, -1)
		if err != nil {
			return nil, err
		}
		return schema.NewGroupNodeLogical(f.Name, optional, schema.FieldList{list}, schema.ListLogicalType{}, -1)
	case Map:
		key, err := text("key", parquet.Repetitions.Required)
		if err != nil {
			return nil, err
		}
		value, err := text("value", optional)
		if err != nil {
			return nil, err
		}
		return schema.MapOf(f.Name, key, value, optional, -1)
	}
	return nil, fmt.Errorf("the field %q has no kind", f.Name)
}

// shredded are the values of a leaf with their levels (Dremel: an entry for each value, and one for each null or empty list).
type shredded[T any] struct {
	values   []T
	def, rep []int16
}

func (s *shredded[T]) add(v T, def, rep int16) {
	s.values = append(s.values, v)
	s.null(def, rep)
}

func (s *shredded[T]) null(def, rep int16) {
	s.def, s.rep = append(s.def, def), append(s.rep, rep)
}

func writeStructGroup(fw *file.Writer, structs []Struct, rows []StructRow) error {
	group := fw.AppendRowGroup()
	for s, st := range structs {
		for i, f := range st.Fields {
			column := make([]any, len(rows)) // nil: another struct's row, or a null
			set := make([]bool, len(rows))   // the row is this struct's
			for r, row := range rows {
				if set[r] = row.Struct == s; set[r] {
					column[r] = row.Values[i]
				}
			}
			if err := writeField(group, f, column, set); err != nil {
				return fmt.Errorf("column %q: %w", st.Name+"."+f.Name, err)
			}
		}
	}
	return group.Close()
}

func writeField(group file.SerialRowGroupWriter, f StructField, column []any, set []bool) error {
	depth := int16(2 + strings.Count(f.Name, ".")) // the level of a value that is not null: its struct's, those between, its own
	absent := func(r int) int16 {                  // the level of a null
		if !set[r] {
			return 0
		}
		return depth - 1
	}
	switch f.Kind {
	case Text:
		return writeScalars(group, column, depth, absent, func(v string) parquet.ByteArray { return parquet.ByteArray(v) })
	case Int:
		return writeScalars(group, column, depth, absent, func(v int32) int32 { return v })
	case Long:
		return writeScalars(group, column, depth, absent, func(v int64) int64 { return v })
	case Bool:
		return writeScalars(group, column, depth, absent, func(v bool) bool { return v })
	case Texts:
		var items shredded[parquet.ByteArray]
		for r, v := range column {
			list, ok := v.([]string)
			switch {
			case !ok:
				items.null(absent(r), 0)
			case len(list) == 0:
				items.null(depth, 0)
			}
			for i, item := range list {
				items.add(parquet.ByteArray(item), depth+2, int16(min(i, 1)))
			}
		}
		return writeLeaf(group, items)
	}
	var keys, values shredded[parquet.ByteArray]
	for r, v := range column {
		m, ok := v.(map[string]*string)
		if !ok || len(m) == 0 {
			level := depth
			if !ok {
				level = absent(r)
			}
			keys.null(level, 0)
			values.null(level, 0)
		}
		for i, k := range slices.Sorted(maps.Keys(m)) {
			rep := int16(min(i, 1))
			keys.add(parquet.ByteArray(k), depth+1, rep)
			if v := m[k]; v != nil {
				values.add(parquet.ByteArray(*v), depth+2, rep)
			} else {
				values.null(depth+1, rep)
			}
		}
	}
	if err := writeLeaf(group, keys); err != nil {
		return err
	}
	return writeLeaf(group, values)
}

func writeScalars[V, T any](group file.SerialRowGroupWriter, column []any, depth int16, absent func(int) int16, convert func(V) T) error {
	var s shredded[T]
	for r, v := range column {
		switch v := v.(type) {
		case nil:
			s.null(absent(r), 0)
		case V:
			s.add(convert(v), depth, 0)
		default:
			return fmt.Errorf("a value of type %T", v)
		}
	}
	s.rep = nil
	return writeLeaf(group, s)
}

func writeLeaf[T any](group file.SerialRowGroupWriter, s shredded[T]) error {
	cw, err := group.NextColumn()
	if err != nil {
		return err
	}
	w, ok := cw.(interface {
		WriteBatch(values []T, defLevels, repLevels []int16) (int64, error)
	})
	if !ok {
		return fmt.Errorf("the column is a %s", cw.Type())
	}
	if _, err := w.WriteBatch(s.values, s.def, s.rep); err != nil {
		return err
	}
	return cw.Close()
}

// Structs yields the rows of a nested file, of this package or another writer's, in its order. Columns and fields that the file has and
// structs does not are passed over, fields that it does not have are null, and so are rows without any of the structs: those are passed over
// too. An error is yielded once, as the last pair; it names row group and column and carries no value. The memory is that of one row
// group's chosen columns.
func Structs(r io.ReaderAt, size int64, structs []Struct) iter.Seq2[StructRow, error] {
	return func(yield func(StructRow, error) bool) {
		var rd *file.Reader
		err := guard(func() (err error) {
			rd, err = file.NewParquetReader(io.NewSectionReader(r, 0, size))
			return err
		})
		if err != nil {
			yield(StructRow{}, fmt.Errorf("parquet: cannot read the footer: %w", err))
			return
		}
		for g := range rd.NumRowGroups() {
			var rows []StructRow
			err := guard(func() (err error) {
				rows, err = readStructGroup(rd, g, structs)
				return err
			})
			if err != nil {
				yield(StructRow{}, fmt.Errorf("parquet: row group %d: %w", g, err))
				return
			}
			for _, row := range rows {
				if !yield(row, nil) {
					return
				}
			}
		}
	}
}

// readStructGroup assembles the rows of a row group that set one of the structs.
func readStructGroup(rd *file.Reader, g int, structs []Struct) ([]StructRow, error) {
	n := int(rd.RowGroup(g).NumRows())
	rows := make([]StructRow, n)
	owner := make([]int, n) // number of the struct, from 1
	for s, st := range structs {
		for i, f := range st.Fields {
			column, set, err := readField(rd, g, st.Name, f)
			if err != nil {
				return nil, fmt.Errorf("column %q: %w", st.Name+"."+f.Name, err)
			}
			if column == nil {
				continue
			}
			if len(column) != n {
				return nil, fmt.Errorf("column %q: %d rows of %d", st.Name+"."+f.Name, len(column), n)
			}
			for r, v := range column {
				if !set[r] {
					continue
				}
				if owner[r] == 0 {
					owner[r], rows[r] = s+1, StructRow{Struct: s, Values: make([]any, len(st.Fields))}
				} else if owner[r] != s+1 {
					return nil, fmt.Errorf("row %d sets both %s and %s", r, structs[owner[r]-1].Name, st.Name)
				}
				rows[r].Values[i] = v
			}
		}
	}
	kept := rows[:0]
	for r, row := range rows {
		if owner[r] != 0 {
			kept = append(kept, row)
		}
	}
	return kept, nil
}

// leavesBelow are the columns of the file whose path begins with path.
func leavesBelow(s *schema.Schema, path string) (out []int) {
	for i := range s.NumColumns() {
		if p := s.Column(i).Path(); p == path || strings.HasPrefix(p, path+".") {
			out = append(out, i)
		}
	}
	return out
}

// readField reads the values of a field: a value or nil for each row, and whether the struct is set. Both are nil if the file does not have
// the field.
func readField(rd *file.Reader, g int, name string, f StructField) (column []any, set []bool, err error) {
	s := rd.MetaData().Schema
	leaves := leavesBelow(s, name+"."+f.Name)
	if len(leaves) == 0 {
		return nil, nil, nil
	}
	if want := map[Kind]int{Map: 2}[f.Kind]; len(leaves) != max(want, 1) {
		return nil, nil, fmt.Errorf("it is not what Delta says it is: %d columns", len(leaves))
	}
	switch f.Kind {
	case Text:
		return readScalars(rd, g, leaves[0], text)
	case Int:
		return readScalars(rd, g, leaves[0], func(v int32) (any, error) { return v, nil })
	case Long:
		return readScalars(rd, g, leaves[0], func(v int64) (any, error) { return v, nil })
	case Bool:
		return readScalars(rd, g, leaves[0], func(v bool) (any, error) { return v, nil })
	case Texts:
		err = readLists(rd, g, leaves[0], func(row int, null bool) {
			column, set = append(column, any(nil)), append(set, !null)
		}, func(row int) { column[row] = []string{} }, func(row int, v any) {
			item, _ := v.(string)
			column[row] = append(column[row].([]string), item)
		})
		return column, set, err
	}
	return readMap(rd, g, leaves)
}

func text(v parquet.ByteArray) (any, error) {
	if !utf8.Valid(v) {
		return nil, ErrText
	}
	return string(v), nil
}

func readMap(rd *file.Reader, g int, leaves []int) (column []any, set []bool, err error) {
	var keys [][]string
	err = readLists(rd, g, leaves[0], func(row int, null bool) {
		column, set, keys = append(column, any(nil)), append(set, !null), append(keys, nil)
	}, func(row int) { column[row] = map[string]*string{} }, func(row int, v any) {
		k, _ := v.(string)
		keys[row] = append(keys[row], k)
	})
	if err != nil {
		return nil, nil, err
	}
	values := 0
	err = readLists(rd, g, leaves[1], func(int, bool) {}, func(int) {}, func(row int, v any) {
		if row >= len(keys) || len(keys[row]) == 0 {
			values = -1 << 60
			return
		}
		var p *string
		if s, ok := v.(string); ok {
			p = &s
		}
		column[row].(map[string]*string)[keys[row][0]] = p
		keys[row] = keys[row][1:]
	})
	if err == nil && (values < 0 || slices.ContainsFunc(keys, func(k []string) bool { return len(k) > 0 })) {
		err = errors.New("a map has not as many values as keys")
	}
	return column, set, err
}

// levels are where in the definition levels of a leaf its outermost struct, its list and its value begin.
func levels(c *schema.Column) (outer, list int16) {
	var path []schema.Node
	for n := c.SchemaNode(); n != nil && n.Parent() != nil; n = n.Parent() {
		path = append(path, n)
	}
	slices.Reverse(path)
	def := int16(0)
	for i, n := range path {
		if n.RepetitionType() != parquet.Repetitions.Required {
			def++
		}
		if i == 0 {
			outer = def
		}
		if n.RepetitionType() == parquet.Repetitions.Repeated {
			list = def
		}
	}
	return outer, list
}

// readScalars reads a leaf that is not in a list.
func readScalars[T any](rd *file.Reader, g, leaf int, convert func(T) (any, error)) (column []any, set []bool, err error) {
	c := rd.MetaData().Schema.Column(leaf)
	if c.MaxRepetitionLevel() != 0 {
		return nil, nil, errors.New("it is a list, which Delta does not know here")
	}
	outer, _ := levels(c)
	err = readLeaf(rd, g, leaf, func(def, _ int16, v *T) error {
		set = append(set, def >= outer)
		if v == nil {
			column = append(column, nil)
			return nil
		}
		x, err := convert(*v)
		column = append(column, x)
		return err
	})
	return column, set, err
}

// readLists reads a leaf of texts in a list. begin is called for each row, with null where its struct is null; empty where there is a list,
// and then item for each of its items; nil is null.
func readLists(rd *file.Reader, g, leaf int, begin func(row int, null bool), empty func(row int), item func(row int, v any)) error {
	c := rd.MetaData().Schema.Column(leaf)
	outer, list := levels(c)
	if c.MaxRepetitionLevel() != 1 {
		return errors.New("it is not a list of scalars")
	}
	row := -1
	return readLeaf(rd, g, leaf, func(def, rep int16, v *parquet.ByteArray) error {
		if rep == 0 {
			row++
			begin(row, def < outer)
			if def >= list-1 {
				empty(row)
			}
		}
		if row < 0 {
			return errors.New("its first value belongs to no row")
		}
		if def < list {
			return nil
		}
		if v == nil {
			item(row, nil)
			return nil
		}
		x, err := text(*v)
		item(row, x)
		return err
	})
}

// readLeaf calls each for every entry of a column chunk; v is nil for a null.
func readLeaf[T any](rd *file.Reader, g, leaf int, each func(def, rep int16, v *T) error) error {
	cr, err := columnReader(rd, g, leaf)
	if err != nil {
		return err
	}
	br, ok := cr.(batchReader[T])
	if !ok {
		return fmt.Errorf("it is a %s, which Delta does not know here", cr.Type())
	}
	most := cr.Descriptor().MaxDefinitionLevel()
	vals, def, rep := make([]T, mostStep), make([]int16, mostStep), make([]int16, mostStep)
	if cr.Descriptor().MaxRepetitionLevel() == 0 {
		rep = nil
	}
	for cr.HasNext() {
		n, got, err := br.ReadBatch(mostStep, vals, def, rep)
		if err == nil {
			err = cr.Err()
		}
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		k := 0
		for i := range n {
			d, r := most, int16(0)
			if most > 0 {
				d = def[i]
			}
			if rep != nil {
				r = rep[i]
			}
			var v *T
			if d == most && k < got {
				v = &vals[k]
				k++
			}
			if err := each(d, r, v); err != nil {
				return err
			}
		}
		if k != got {
			return errors.New("its pages do not hold as many values as they say")
		}
	}
	return cr.Err()
}
