package parquet

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"unicode/utf8"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/decimal128"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/file"
)

// DefaultBatchRows is the number of rows of a record if the caller of [File.Records] says 0.
const DefaultBatchRows = 8192

// The bounds of a record beside its rows: it ends once its values have this many bytes. What goes to one column at once is
// adapted to the rows seen so far, so that a record exceeds the bound by little.
const (
	batchBytes = 8 << 20
	stepBytes  = 1 << 20
	leastStep  = 16
	firstStep  = 128
	mostStep   = 1024
)

// Records yields the rows of the file in its order, as records of the chosen columns (nil: all) in that order, with batch rows at
// most (0: 8192). A record is the caller's until the next one is asked for; Retain it to keep it. Values have the types of
// f.Schema and are exact: decimals may be stored as any physical type that the format allows, and one that has more
// digits than its type, a text that is not UTF-8, a null in a required column or a damaged page is an error that names row group
// and column, never a value. An error is yielded once, as the last pair.
//
// The memory is that of the compressed pages of the chosen columns in one row group, a page of each decoded, and one record of
// about 8 MiB (or of 16 rows, if those are larger).
func (f *File) Records(columns []string, batch int) iter.Seq2[arrow.Record, error] {
	return func(yield func(arrow.Record, error) bool) {
		at, schema, err := f.choose(columns)
		if err != nil {
			yield(nil, err)
			return
		}
		if batch <= 0 {
			batch = DefaultBatchRows
		}
		b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
		defer b.Release()
		first := int64(0) // the row group's first row
		for g := range f.RowGroups {
			var group *groupReader
			err := guard(func() (err error) {
				group, err = f.openGroup(g, at, b)
				return err
			})
			for err == nil && group.left > 0 {
				var rec arrow.Record
				err = guard(func() (err error) {
					rec, err = group.next(b, int64(batch), first)
					return err
				})
				if err != nil {
					break
				}
				more := yield(rec, nil)
				rec.Release()
				if !more {
					return
				}
			}
			if err == nil {
				err = guard(group.end)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			first += group.rows
		}
	}
}

// choose finds the columns in the file.
func (f *File) choose(columns []string) (at []int, _ *arrow.Schema, err error) {
	if columns == nil {
		for _, fd := range f.Schema.Fields() {
			columns = append(columns, fd.Name)
		}
	}
	if len(columns) == 0 {
		return nil, nil, errors.New("parquet: no column is asked for")
	}
	fields := make([]arrow.Field, 0, len(columns))
	seen := map[string]bool{}
	for _, name := range columns {
		found := f.Schema.FieldIndices(name)
		switch {
		case len(found) != 1:
			return nil, nil, fmt.Errorf("parquet: the file has no column %q", name)
		case seen[name]:
			return nil, nil, fmt.Errorf("parquet: the column %q is asked for twice", name)
		}
		seen[name] = true
		at, fields = append(at, found[0]), append(fields, f.Schema.Field(found[0]))
	}
	return at, arrow.NewSchema(fields, nil), nil
}

// groupReader reads one row group.
type groupReader struct {
	number  int
	columns []valueReader
	fields  []arrow.Field
	rows    int64
	left    int64
	step    int64
}

func (f *File) openGroup(g int, at []int, b *array.RecordBuilder) (*groupReader, error) {
	rg := f.reader.RowGroup(g)
	out := &groupReader{number: g, rows: rg.NumRows(), left: rg.NumRows(), step: firstStep, fields: b.Schema().Fields()}
	for i, column := range at {
		fd := out.fields[i]
		cr, err := columnReader(f.reader, g, column)
		if err == nil {
			var v valueReader
			v, err = newValueReader(cr, fd, b.Field(i))
			out.columns = append(out.columns, v)
		}
		if err != nil {
			return nil, out.failed(fd.Name, err)
		}
	}
	return out, nil
}

func (r *groupReader) failed(column string, err error) error {
	return fmt.Errorf("parquet: row group %d, column %q: %w", r.number, column, err)
}

// next fills one record.
func (r *groupReader) next(b *array.RecordBuilder, batch, first int64) (arrow.Record, error) {
	var rows, size int64
	for rows < batch && r.left > 0 && size < batchBytes {
		n := min(r.step, r.left, batch-rows)
		var bytes int64
		for i, c := range r.columns {
			got, err := c.read(n)
			if err != nil {
				var at *rowError
				if errors.As(err, &at) {
					return nil, r.failed(r.fields[i].Name, fmt.Errorf("row %d of the file: %w", first+r.rows-r.left+at.row, at.err))
				}
				return nil, r.failed(r.fields[i].Name, err)
			}
			bytes += got
		}
		rows, size, r.left = rows+n, size+bytes, r.left-n
		r.step = min(max(stepBytes*n/max(bytes, 1), leastStep), mostStep)
	}
	return b.NewRecord(), nil
}

// end: a column with more values than the row group has rows is damaged.
func (r *groupReader) end() error {
	for i, c := range r.columns {
		if err := c.end(); err != nil {
			return r.failed(r.fields[i].Name, err)
		}
	}
	return nil
}

// rowError says at which row of a step a value was refused.
type rowError struct {
	row int64
	err error
}

func (e *rowError) Error() string { return e.err.Error() }

// valueReader moves the values of one column chunk into an Arrow builder.
type valueReader interface {
	read(rows int64) (bytes int64, err error)
	end() error
}

// moving reads values of the physical type T.
type moving[T any] struct {
	cr     file.ColumnChunkReader
	values batchReader[T]
	into   array.Builder
	put    func(T) error
	size   func(T) int // bytes of a value
	fixed  int         // the same, when size is nil
	vals   []T
	levels []int16 // nil: the column has no nulls
}

func newMoving[T any](cr file.ColumnChunkReader, fd arrow.Field, into array.Builder, fixed int, put func(T) error) (valueReader, error) {
	values, ok := cr.(batchReader[T])
	if !ok {
		return nil, fmt.Errorf("the pages hold %s, which cannot be read as %s", cr.Type(), fd.Type)
	}
	m := &moving[T]{cr: cr, values: values, into: into, put: put, fixed: fixed, vals: make([]T, mostStep)}
	if fd.Nullable {
		m.levels = make([]int16, mostStep)
	}
	return m, nil
}

func (m *moving[T]) read(rows int64) (int64, error) {
	m.into.Reserve(int(rows))
	var size int64
	for done := int64(0); done < rows; {
		// HasNext moves to the next page, and without it the library takes a damaged page for the end.
		if !m.cr.HasNext() {
			if err := m.cr.Err(); err != nil {
				return size, err
			}
			return size, fmt.Errorf("its pages end before the row group does")
		}
		n, got, err := m.values.ReadBatch(rows-done, m.vals, m.levels, nil)
		if err != nil {
			return size, err
		}
		// At once: the next HasNext would forget that a page is damaged, and go on with the page behind it.
		if err := m.cr.Err(); err != nil {
			return size, err
		}
		if n <= 0 || n > rows-done || m.levels == nil && int64(got) != n {
			return size, fmt.Errorf("its pages do not hold as many values as they say")
		}
		k := 0
		for i := range n {
			if m.levels != nil && m.levels[i] == 0 {
				m.into.AppendNull()
				continue
			}
			if k == got {
				return size, fmt.Errorf("its pages do not hold as many values as they say")
			}
			v := m.vals[k]
			k++
			if err := m.put(v); err != nil {
				return size, &rowError{row: done + i, err: err}
			}
			if m.size != nil {
				size += int64(m.size(v))
			}
		}
		if k != got {
			return size, fmt.Errorf("its pages do not hold as many values as they say")
		}
		size += n * int64(m.fixed)
		done += n
	}
	return size, nil
}

func (m *moving[T]) end() error {
	if m.cr.HasNext() {
		return fmt.Errorf("its pages hold more values than the row group has rows")
	}
	return m.cr.Err()
}

// newValueReader chooses by the column's type, which field has found, and by how the file stores it.
func newValueReader(cr file.ColumnChunkReader, fd arrow.Field, into array.Builder) (valueReader, error) {
	switch b := into.(type) {
	case *array.BooleanBuilder:
		return newMoving(cr, fd, into, 1, func(v bool) error { b.UnsafeAppend(v); return nil })
	case *array.Int8Builder:
		return newMoving(cr, fd, into, 1, func(v int32) error {
			b.UnsafeAppend(int8(v))
			return inRange(v, math.MinInt8, math.MaxInt8)
		})
	case *array.Int16Builder:
		return newMoving(cr, fd, into, 2, func(v int32) error {
			b.UnsafeAppend(int16(v))
			return inRange(v, math.MinInt16, math.MaxInt16)
		})
	case *array.Int32Builder:
		return newMoving(cr, fd, into, 4, func(v int32) error { b.UnsafeAppend(v); return nil })
	case *array.Int64Builder:
		return newMoving(cr, fd, into, 8, func(v int64) error { b.UnsafeAppend(v); return nil })
	case *array.Float32Builder:
		return newMoving(cr, fd, into, 4, func(v float32) error { b.UnsafeAppend(v); return nil })
	case *array.Float64Builder:
		return newMoving(cr, fd, into, 8, func(v float64) error { b.UnsafeAppend(v); return nil })
	case *array.Date32Builder:
		return newMoving(cr, fd, into, 4, func(v int32) error { b.UnsafeAppend(arrow.Date32(v)); return nil })
	case *array.TimestampBuilder:
		return newMoving(cr, fd, into, 8, func(v int64) error { b.UnsafeAppend(arrow.Timestamp(v)); return nil })
	case *array.StringBuilder:
		return newTexts(cr, fd, into, func(v parquet.ByteArray) error {
			if !utf8.Valid(v) {
				return ErrText
			}
			b.BinaryBuilder.Append(v)
			return nil
		})
	case *array.BinaryBuilder:
		return newTexts(cr, fd, into, func(v parquet.ByteArray) error { b.Append(v); return nil })
	case *array.Decimal128Builder:
		return newDecimals(cr, fd, b)
	}
	return nil, fmt.Errorf("the type %s cannot be read", fd.Type)
}

func inRange(v, lo, hi int32) error {
	if v < lo || v > hi {
		return ErrRange
	}
	return nil
}

func newTexts(cr file.ColumnChunkReader, fd arrow.Field, into array.Builder, put func(parquet.ByteArray) error) (valueReader, error) {
	r, err := newMoving(cr, fd, into, 4, put)
	if err != nil {
		return nil, err
	}
	r.(*moving[parquet.ByteArray]).size = func(v parquet.ByteArray) int { return len(v) }
	return r, nil
}

// newDecimals reads the four ways in which a decimal can be stored (LogicalTypes.md, "DECIMAL"): we choose the shortest that fits, Arrow's
// C++ writer a fixed length, and Spark and Java may take either.
func newDecimals(cr file.ColumnChunkReader, fd arrow.Field, b *array.Decimal128Builder) (valueReader, error) {
	limit := decimal128.GetScaleMultiplier(int(fd.Type.(*arrow.Decimal128Type).Precision)) // 10^precision
	low := limit.Negate()
	put := func(v decimal128.Num) error {
		if !v.Less(limit) || !low.Less(v) {
			return ErrRange
		}
		b.UnsafeAppend(v)
		return nil
	}
	bigEndian := func(v []byte) error {
		if len(v) == 0 || len(v) > decimal128Bytes {
			return fmt.Errorf("a decimal of %d bytes", len(v))
		}
		return put(fromBigEndian(v))
	}
	switch cr.(type) {
	case *file.Int32ColumnChunkReader:
		return newMoving(cr, fd, b, decimal128Bytes, func(v int32) error { return put(decimal128.FromI64(int64(v))) })
	case *file.Int64ColumnChunkReader:
		return newMoving(cr, fd, b, decimal128Bytes, func(v int64) error { return put(decimal128.FromI64(v)) })
	case *file.ByteArrayColumnChunkReader:
		return newMoving(cr, fd, b, decimal128Bytes, func(v parquet.ByteArray) error { return bigEndian(v) })
	}
	return newMoving(cr, fd, b, decimal128Bytes, func(v parquet.FixedLenByteArray) error { return bigEndian(v) })
}

const decimal128Bytes = 16
