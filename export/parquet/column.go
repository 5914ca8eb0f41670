package parquet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/decimal128"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/file"
)

// ErrNull is in the error for a null in a column that must not have any.
var ErrNull = errors.New("a null in a column that must not be null")

// ErrRange is in the error for a decimal that has more digits than its type.
var ErrRange = errors.New("a value has more digits than the column's type")

// ErrText is in the error for a string that is not UTF-8.
var ErrText = errors.New("a text is not valid UTF-8")

// CellError says which value cannot be written. It never carries the value.
type CellError struct {
	Column string
	Row    int64 // position in the file, from 0
	Err    error // ErrNull, ErrRange or ErrText
}

// Error implements error.
func (e *CellError) Error() string {
	return fmt.Sprintf("parquet: column %q, row %d: %v", e.Column, e.Row, e.Err)
}

// Unwrap gives the reason.
func (e *CellError) Unwrap() error { return e.Err }

// column reads the values of one column of a finished file, and keeps their statistics.
type column interface {
	// read reads a whole column chunk and checks its footer against what was read. It returns the number of rows.
	read(cr file.ColumnChunkReader, chunk chunkStats) (int64, error)
	// mergeChunk takes the footer's statistics of a row group; whole is false when its minimum and maximum are not known.
	mergeChunk(chunkStats) (whole bool)
	// stats are those of everything that was read so far.
	stats() ColumnStats
}

// tally counts the values of a page or a file, and keeps the smallest and the largest.
type tally[T any] struct {
	nulls, values int64
	has           bool // min and max are set
	vague         bool // a NaN was seen: min and max leave it out
	min, max      T
}

// typed is the column of one physical type: how its values are ordered, and what was counted. Writer and Verify count with
// it, each its own values, so that the two can be compared.
type typed[T any] struct {
	nullable bool
	// extent finds the smallest and largest of vals. ok is false when there is none (only NaN).
	extent func(vals []T) (lo, hi T, ok, vague bool)
	less   func(a, b T) bool
	keep   func(T) T                  // a copy that outlives the batch; nil when T refers to nothing
	public func(T) any                // the value in ColumnStats; nil: this type has no minimum and maximum
	footer func(lo, hi T) (low, up T) // what the footer says instead; nil: the same
	file   tally[T]
}

// newColumn makes the column for a field whose type node accepted.
func newColumn(f arrow.Field) (column, error) {
	switch t := f.Type.(type) {
	case *arrow.BooleanType:
		return boolColumn(f), nil
	case *arrow.Int8Type, *arrow.Int16Type, *arrow.Int32Type:
		return intColumn[int32](f), nil
	case *arrow.Int64Type:
		return intColumn[int64](f), nil
	case *arrow.Float32Type:
		return floatColumn[float32](f), nil
	case *arrow.Float64Type:
		return floatColumn[float64](f), nil
	case *arrow.Date32Type:
		return dateColumn(f), nil
	case *arrow.TimestampType:
		return timestampColumn(f), nil
	case *arrow.StringType:
		return byteColumn(f, func(v parquet.ByteArray) any { return string(v) }), nil
	case *arrow.BinaryType:
		return byteColumn(f, nil), nil
	case *arrow.Decimal128Type:
		return decimalColumn(f, t), nil
	}
	return nil, fmt.Errorf("parquet: column %q: the type %s cannot be published", f.Name, f.Type)
}

func newTyped[T any](f arrow.Field, public func(T) any) *typed[T] {
	return &typed[T]{nullable: f.Nullable, public: public}
}

func ordered[T int32 | int64](f arrow.Field, public func(T) any) *typed[T] {
	c := newTyped(f, public)
	c.less = func(a, b T) bool { return a < b }
	c.extent = extentInts[T]
	return c
}

func boolColumn(f arrow.Field) *typed[bool] {
	c := newTyped(f, func(v bool) any { return v })
	c.less = func(a, b bool) bool { return !a && b }
	c.extent = extentBy(c.less)
	return c
}

func intColumn[T int32 | int64](f arrow.Field) *typed[T] {
	return ordered(f, func(v T) any { return int64(v) })
}

func dateColumn(f arrow.Field) *typed[int32] {
	return ordered(f, func(v int32) any { return arrow.Date32(v) })
}

func timestampColumn(f arrow.Field) *typed[int64] {
	return ordered(f, func(v int64) any { return arrow.Timestamp(v) })
}

// floatColumn: a minimum of +0 is written as -0 and a maximum of -0 as +0, because readers may order the zeros
// (parquet.thrift, "ColumnOrder").
func floatColumn[T float32 | float64](f arrow.Field) *typed[T] {
	c := newTyped(f, func(v T) any { return float64(v) })
	c.less = func(a, b T) bool { return a < b }
	c.extent = extentFloats[T]
	c.footer = func(lo, hi T) (T, T) {
		if lo == 0 {
			lo = T(math.Copysign(0, -1))
		}
		if hi == 0 {
			hi = 0
		}
		return lo, hi
	}
	return c
}

func byteColumn(f arrow.Field, public func(parquet.ByteArray) any) *typed[parquet.ByteArray] {
	c := newTyped(f, public)
	c.less = func(a, b parquet.ByteArray) bool { return bytes.Compare(a, b) < 0 }
	c.extent = extentBy(c.less)
	// Never nil: the library takes a nil minimum for a missing one, and the empty text is a value.
	c.keep = func(v parquet.ByteArray) parquet.ByteArray { return append(make([]byte, 0, len(v)), v...) }
	return c
}

func decimalColumn(f arrow.Field, t *arrow.Decimal128Type) column {
	switch {
	case t.Precision <= 9:
		return shortDecimal[int32](f, t)
	case t.Precision <= 18:
		return shortDecimal[int64](f, t)
	}
	c := newTyped(f, func(v parquet.FixedLenByteArray) any { return decimalText(fromBigEndian(v), t.Scale) })
	c.less = func(a, b parquet.FixedLenByteArray) bool {
		if a[0] != b[0] {
			return int8(a[0]) < int8(b[0])
		}
		return bytes.Compare(a, b) < 0
	}
	c.extent = extentBy(c.less)
	c.keep = func(v parquet.FixedLenByteArray) parquet.FixedLenByteArray { return bytes.Clone(v) }
	return c
}

func shortDecimal[T int32 | int64](f arrow.Field, t *arrow.Decimal128Type) *typed[T] {
	return ordered(f, func(v T) any { return decimalText(decimal128.FromI64(int64(v)), t.Scale) })
}

// --- decimals ---

func fromBigEndian(v []byte) decimal128.Num {
	var b [16]byte
	if len(v) > 0 && v[0]&0x80 != 0 {
		for i := range b {
			b[i] = 0xff
		}
	}
	copy(b[16-min(len(v), 16):], v)
	return decimal128.New(int64(binary.BigEndian.Uint64(b[:8])), binary.BigEndian.Uint64(b[8:]))
}

// decimalText writes a decimal exactly. (The library's ToString goes through a binary float.)
func decimalText(n decimal128.Num, scale int32) Decimal {
	abs := n.BigInt()
	neg := abs.Sign() < 0
	s := new(big.Int).Abs(abs).String()
	if scale > 0 {
		for len(s) <= int(scale) {
			s = "0" + s
		}
		s = s[:len(s)-int(scale)] + "." + s[len(s)-int(scale):]
	}
	if neg {
		s = "-" + s
	}
	return Decimal(s)
}

// --- the smallest and the largest ---

func extentInts[T int32 | int64](vals []T) (lo, hi T, ok, vague bool) {
	if len(vals) == 0 {
		return 0, 0, false, false
	}
	lo, hi = vals[0], vals[0]
	for _, v := range vals {
		lo, hi = min(lo, v), max(hi, v)
	}
	return lo, hi, true, false
}

func extentFloats[T float32 | float64](vals []T) (lo, hi T, ok, vague bool) {
	for _, v := range vals {
		switch {
		case v != v: // NaN
			vague = true
		case !ok:
			lo, hi, ok = v, v, true
		case v < lo:
			lo = v
		case v > hi:
			hi = v
		}
	}
	return lo, hi, ok, vague
}

func extentBy[T any](less func(a, b T) bool) func([]T) (lo, hi T, ok, vague bool) {
	return func(vals []T) (lo, hi T, ok, vague bool) {
		if len(vals) == 0 {
			return lo, hi, false, false
		}
		lo, hi = vals[0], vals[0]
		for _, v := range vals[1:] {
			if less(v, lo) {
				lo = v
			} else if less(hi, v) {
				hi = v
			}
		}
		return lo, hi, true, false
	}
}

// widenTo takes another minimum and maximum into t.
func (t *tally[T]) widenTo(lo, hi T, less func(a, b T) bool, keep func(T) T) {
	if keep == nil {
		keep = func(v T) T { return v }
	}
	if !t.has {
		t.has, t.min, t.max = true, keep(lo), keep(hi)
		return
	}
	if less(lo, t.min) {
		t.min = keep(lo)
	}
	if less(t.max, hi) {
		t.max = keep(hi)
	}
}

func (c *typed[T]) count(t *tally[T], vals []T, nulls int64) {
	t.nulls += nulls
	t.values += int64(len(vals))
	if c.public == nil {
		return
	}
	lo, hi, ok, vague := c.extent(vals)
	t.vague = t.vague || vague
	if ok {
		t.widenTo(lo, hi, c.less, c.keep)
	}
}

// merge adds t, and keeps nothing of its memory.
func (c *typed[T]) merge(into *tally[T], t *tally[T]) {
	into.nulls += t.nulls
	into.values += t.values
	into.vague = into.vague || t.vague
	if t.has {
		into.widenTo(t.min, t.max, c.less, c.keep)
	}
}

func (c *typed[T]) stats() ColumnStats {
	s := ColumnStats{NullCount: c.file.nulls}
	if c.file.has && !c.file.vague {
		s.Min, s.Max = c.public(c.file.min), c.public(c.file.max)
	}
	return s
}
