package parquet

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"unicode/utf8"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
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

// column moves the values of one column between Arrow and Parquet, and keeps their statistics. One kind of
// code counts on the way out (Writer) and on the way back (Verify), so that the two can be compared.
type column interface {
	// write appends arr, which begins at the given row of the file.
	write(cw file.ColumnChunkWriter, arr arrow.Array, row int64) error
	// seal puts the statistics of the page under way into the column writer, which is about to end it.
	seal(cw file.ColumnChunkWriter)
	// read reads a whole column chunk and checks its footer against what was read. It returns the number of rows.
	read(cr file.ColumnChunkReader, chunk chunkStats) (int64, error)
	// stats are those of everything that was written or read so far.
	stats() ColumnStats
}

// tally counts the values of a page or a file, and keeps the smallest and the largest.
type tally[T any] struct {
	nulls, values int64
	has           bool // min and max are set
	vague         bool // a NaN was seen: min and max leave it out
	min, max      T
}

// typed is the column of one physical type.
type typed[T any] struct {
	name     string
	nullable bool
	// extract appends the values of arr that are not null to dst. The values may refer to arr's memory.
	extract func(dst []T, arr arrow.Array, row int64) ([]T, error)
	// extent finds the smallest and largest of vals. ok is false when there is none (only NaN).
	extent func(vals []T) (lo, hi T, ok, vague bool)
	less   func(a, b T) bool
	keep   func(T) T   // a copy that outlives the batch; nil when T refers to nothing
	public func(T) any // the value in ColumnStats; nil: this type has no minimum and maximum

	vals       []T
	levels     []int16
	page, file tally[T]
}

// newColumn makes the column for a field whose type node accepted.
func newColumn(f arrow.Field) (column, error) {
	switch t := f.Type.(type) {
	case *arrow.BooleanType:
		c := newTyped(f, takeBool, func(v bool) any { return v })
		c.less = func(a, b bool) bool { return !a && b }
		c.extent = extentBy(c.less)
		return c, nil
	case *arrow.Int8Type:
		return ordered(f, widen(func(a arrow.Array) []int8 { return a.(*array.Int8).Int8Values() }), func(v int32) any { return int64(v) }), nil
	case *arrow.Int16Type:
		return ordered(f, widen(func(a arrow.Array) []int16 { return a.(*array.Int16).Int16Values() }), func(v int32) any { return int64(v) }), nil
	case *arrow.Int32Type:
		return ordered(f, widen(func(a arrow.Array) []int32 { return a.(*array.Int32).Int32Values() }), func(v int32) any { return int64(v) }), nil
	case *arrow.Int64Type:
		return ordered(f, as(func(a arrow.Array) []int64 { return a.(*array.Int64).Int64Values() }), func(v int64) any { return v }), nil
	case *arrow.Float32Type:
		return ordered(f, as(func(a arrow.Array) []float32 { return a.(*array.Float32).Float32Values() }), func(v float32) any { return float64(v) }), nil
	case *arrow.Float64Type:
		return ordered(f, as(func(a arrow.Array) []float64 { return a.(*array.Float64).Float64Values() }), func(v float64) any { return v }), nil
	case *arrow.Date32Type:
		return ordered(f, widen(func(a arrow.Array) []arrow.Date32 { return a.(*array.Date32).Date32Values() }), func(v int32) any { return arrow.Date32(v) }), nil
	case *arrow.TimestampType:
		return ordered(f, takeTimestamp, func(v int64) any { return arrow.Timestamp(v) }), nil
	case *arrow.StringType:
		return byteColumn(f, takeString, func(v parquet.ByteArray) any { return string(v) }), nil
	case *arrow.BinaryType:
		return byteColumn(f, takeBinary, nil), nil
	case *arrow.Decimal128Type:
		return decimalColumn(f, t), nil
	}
	return nil, fmt.Errorf("parquet: column %q: the type %s cannot be published", f.Name, f.Type)
}

func newTyped[T any](f arrow.Field, extract func([]T, arrow.Array, int64) ([]T, error), public func(T) any) *typed[T] {
	return &typed[T]{name: f.Name, nullable: f.Nullable, extract: extract, public: public}
}

func ordered[T cmp.Ordered](f arrow.Field, extract func([]T, arrow.Array, int64) ([]T, error), public func(T) any) *typed[T] {
	c := newTyped(f, extract, public)
	c.less = func(a, b T) bool { return a < b }
	c.extent = extentOrdered[T]
	return c
}

func byteColumn(f arrow.Field, extract func([]parquet.ByteArray, arrow.Array, int64) ([]parquet.ByteArray, error), public func(parquet.ByteArray) any) *typed[parquet.ByteArray] {
	c := newTyped(f, extract, public)
	c.less = func(a, b parquet.ByteArray) bool { return bytes.Compare(a, b) < 0 }
	c.extent = extentBy(c.less)
	// Never nil: the library takes a nil minimum for a missing one, and the empty text is a value.
	c.keep = func(v parquet.ByteArray) parquet.ByteArray { return append(make([]byte, 0, len(v)), v...) }
	return c
}

func decimalColumn(f arrow.Field, t *arrow.Decimal128Type) column {
	check := decimalCheck(f.Name, t.Precision)
	switch {
	case t.Precision <= 9:
		return ordered(f, takeDecimal(check, func(n decimal128.Num) int32 { return int32(n.LowBits()) }),
			func(v int32) any { return decimalText(decimal128.FromI64(int64(v)), t.Scale) })
	case t.Precision <= 18:
		return ordered(f, takeDecimal(check, func(n decimal128.Num) int64 { return int64(n.LowBits()) }),
			func(v int64) any { return decimalText(decimal128.FromI64(v), t.Scale) })
	}
	length := decimalBytes(t.Precision)
	c := newTyped(f, takeWideDecimal(check, length),
		func(v parquet.FixedLenByteArray) any { return decimalText(fromBigEndian(v), t.Scale) })
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

// --- taking values out of Arrow arrays ---

func compact[S, T any](dst []T, arr arrow.Array, src []S, conv func(S) T) []T {
	if arr.NullN() == 0 {
		for _, v := range src {
			dst = append(dst, conv(v))
		}
		return dst
	}
	for i, v := range src {
		if arr.IsValid(i) {
			dst = append(dst, conv(v))
		}
	}
	return dst
}

func as[T any](values func(arrow.Array) []T) func([]T, arrow.Array, int64) ([]T, error) {
	return func(dst []T, arr arrow.Array, _ int64) ([]T, error) {
		src := values(arr)
		if arr.NullN() == 0 {
			return append(dst, src...), nil
		}
		return compact(dst, arr, src, func(v T) T { return v }), nil
	}
}

func widen[S ~int8 | ~int16 | ~int32](values func(arrow.Array) []S) func([]int32, arrow.Array, int64) ([]int32, error) {
	return func(dst []int32, arr arrow.Array, _ int64) ([]int32, error) {
		return compact(dst, arr, values(arr), func(v S) int32 { return int32(v) }), nil
	}
}

func takeTimestamp(dst []int64, arr arrow.Array, _ int64) ([]int64, error) {
	return compact(dst, arr, arr.(*array.Timestamp).TimestampValues(), func(v arrow.Timestamp) int64 { return int64(v) }), nil
}

func takeBool(dst []bool, arr arrow.Array, _ int64) ([]bool, error) {
	b := arr.(*array.Boolean)
	for i := range b.Len() {
		if b.IsValid(i) {
			dst = append(dst, b.Value(i))
		}
	}
	return dst, nil
}

func takeString(dst []parquet.ByteArray, arr arrow.Array, row int64) ([]parquet.ByteArray, error) {
	s := arr.(*array.String)
	all := s.ValueBytes()
	whole := utf8.Valid(all) // the usual case in one sweep; a text may still end inside a character
	offsets, first := s.ValueOffsets(), 0
	for i := range s.Len() {
		from, to := int(offsets[i]), int(offsets[i+1])
		if i == 0 {
			first = from
		}
		if s.IsNull(i) {
			continue
		}
		v := all[from-first : to-first : to-first]
		if whole && !(runeStart(all, from-first) && runeStart(all, to-first)) || !whole && !utf8.Valid(v) {
			return nil, &CellError{Row: row + int64(i), Err: ErrText}
		}
		dst = append(dst, parquet.ByteArray(notNil(v)))
	}
	return dst, nil
}

func runeStart(all []byte, at int) bool { return at >= len(all) || utf8.RuneStart(all[at]) }

func takeBinary(dst []parquet.ByteArray, arr arrow.Array, _ int64) ([]parquet.ByteArray, error) {
	b := arr.(*array.Binary)
	for i := range b.Len() {
		if b.IsValid(i) {
			dst = append(dst, notNil(b.Value(i)))
		}
	}
	return dst, nil
}

func notNil(v []byte) []byte {
	if v == nil {
		return []byte{}
	}
	return v
}

func takeDecimal[T any](check func(decimal128.Num, int64) error, conv func(decimal128.Num) T) func([]T, arrow.Array, int64) ([]T, error) {
	return func(dst []T, arr arrow.Array, row int64) ([]T, error) {
		d := arr.(*array.Decimal128)
		for i, v := range d.Values() {
			if d.IsNull(i) {
				continue
			}
			if err := check(v, row+int64(i)); err != nil {
				return nil, err
			}
			dst = append(dst, conv(v))
		}
		return dst, nil
	}
}

// decimalCheck refuses values of more digits than the precision: the library writes them as they are, or cut.
func decimalCheck(name string, precision int32) func(decimal128.Num, int64) error {
	limit := decimal128.GetScaleMultiplier(int(precision)) // 10^precision
	low := limit.Negate()
	return func(v decimal128.Num, row int64) error {
		if v.Less(limit) && low.Less(v) {
			return nil
		}
		return &CellError{Column: name, Row: row, Err: ErrRange}
	}
}

// takeWideDecimal packs decimals into big-endian bytes of the given length, in a buffer that the next batch reuses.
func takeWideDecimal(check func(decimal128.Num, int64) error, length int) func([]parquet.FixedLenByteArray, arrow.Array, int64) ([]parquet.FixedLenByteArray, error) {
	var packed []byte
	numbers := takeDecimal(check, func(n decimal128.Num) decimal128.Num { return n })
	var nums []decimal128.Num
	return func(dst []parquet.FixedLenByteArray, arr arrow.Array, row int64) ([]parquet.FixedLenByteArray, error) {
		var err error
		if nums, err = numbers(nums[:0], arr, row); err != nil {
			return nil, err
		}
		packed = slices.Grow(packed[:0], len(nums)*length)
		for _, n := range nums {
			var b [16]byte
			binary.BigEndian.PutUint64(b[:8], uint64(n.HighBits()))
			binary.BigEndian.PutUint64(b[8:], n.LowBits())
			at := len(packed)
			packed = append(packed, b[16-length:]...)
			dst = append(dst, packed[at:at+length:at+length])
		}
		return dst, nil
	}
}

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

func extentOrdered[T cmp.Ordered](vals []T) (lo, hi T, ok, vague bool) {
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

func (c *typed[T]) merge(into *tally[T], t *tally[T]) {
	into.nulls += t.nulls
	into.values += t.values
	into.vague = into.vague || t.vague
	if t.has {
		into.widenTo(t.min, t.max, c.less, nil)
	}
}

func (c *typed[T]) stats() ColumnStats {
	all := c.file
	c.merge(&all, &c.page)
	s := ColumnStats{NullCount: all.nulls}
	if all.has && !all.vague {
		s.Min, s.Max = c.public(all.min), c.public(all.max)
	}
	return s
}

// --- writing ---

type batchWriter[T any] interface {
	WriteBatch(values []T, defLevels, repLevels []int16) (int64, error)
}

type minMaxSetter[T any] interface{ SetMinMax(lo, hi T) }

func (c *typed[T]) write(cw file.ColumnChunkWriter, arr arrow.Array, row int64) error {
	n := arr.Len()
	nulls := arr.NullN()
	if !c.nullable && nulls > 0 {
		return &CellError{Column: c.name, Row: row + int64(firstNull(arr)), Err: ErrNull}
	}
	vals, err := c.extract(c.vals[:0], arr, row)
	if err != nil {
		var cell *CellError
		if errors.As(err, &cell) {
			cell.Column = c.name
		}
		return err
	}
	c.vals = vals
	var levels []int16
	if c.nullable {
		levels = c.definition(arr, n, nulls)
	}
	bw, ok := cw.(batchWriter[T])
	if !ok {
		return fmt.Errorf("parquet: column %q: the library's writer is a %T", c.name, cw)
	}
	written, err := bw.WriteBatch(vals, levels, nil)
	// The library's own page statistics refer to the memory of arr, which the caller may reuse from here on: drop them.
	if st := cw.PageStatistics(); st != nil {
		st.Reset()
	}
	if err != nil {
		return fmt.Errorf("parquet: column %q: %w", c.name, err)
	}
	if written != int64(len(vals)) {
		return fmt.Errorf("parquet: column %q: %d of %d values were written", c.name, written, len(vals))
	}
	c.count(&c.page, vals, int64(nulls))
	if c.keep != nil {
		clear(vals) // no references into arr are kept
	}
	return nil
}

func firstNull(arr arrow.Array) int {
	for i := range arr.Len() {
		if arr.IsNull(i) {
			return i
		}
	}
	return 0
}

// definition are the definition levels: 1 for a value, 0 for a null.
func (c *typed[T]) definition(arr arrow.Array, n, nulls int) []int16 {
	if cap(c.levels) < n {
		c.levels = make([]int16, n)
	}
	levels := c.levels[:n]
	for i := range levels {
		levels[i] = 1
		if nulls > 0 && arr.IsNull(i) {
			levels[i] = 0
		}
	}
	return levels
}

func (c *typed[T]) seal(cw file.ColumnChunkWriter) {
	if st := cw.PageStatistics(); st != nil {
		st.Reset()
		st.IncNulls(c.page.nulls)
		st.IncNumValues(c.page.values)
		if c.page.has {
			if s, ok := st.(minMaxSetter[T]); ok {
				s.SetMinMax(c.page.min, c.page.max)
			}
		}
	}
	c.merge(&c.file, &c.page)
	c.page = tally[T]{}
}
