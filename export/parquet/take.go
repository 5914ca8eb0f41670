package parquet

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/decimal128"
)

// take returns the values among n rows of arr from row from on that are not null, of which nulls are. row is their position
// in the file. What it returns may be arr's own memory, and is valid until the next call.
type take[T any] func(arr arrow.Array, from, n, nulls int, row int64) ([]T, error)

// direct takes the array's own memory where there are no nulls.
func direct[T any](values func(arrow.Array) []T) take[T] {
	var kept []T
	return func(arr arrow.Array, from, n, nulls int, _ int64) ([]T, error) {
		src := values(arr)[from : from+n]
		if nulls == 0 {
			return src, nil
		}
		bitmap, off := validBits(arr, from)
		kept = slices.Grow(kept[:0], n)
		for i, v := range src {
			if bitSet(bitmap, off+i) {
				kept = append(kept, v)
			}
		}
		return kept, nil
	}
}

// converted takes values of another Go type.
func converted[S ~int8 | ~int16 | ~int32 | ~int64, T int32 | int64](values func(arrow.Array) []S) take[T] {
	var kept []T
	return func(arr arrow.Array, from, n, nulls int, _ int64) ([]T, error) {
		src := values(arr)[from : from+n]
		bitmap, off := validBits(arr, from)
		kept = slices.Grow(kept[:0], n)
		for i, v := range src {
			if nulls == 0 || bitSet(bitmap, off+i) {
				kept = append(kept, T(v))
			}
		}
		return kept, nil
	}
}

func takeBool() take[bool] {
	var kept []bool
	return func(arr arrow.Array, from, n, _ int, _ int64) ([]bool, error) {
		kept = slices.Grow(kept[:0], n)
		b := arr.(*array.Boolean)
		for i := from; i < from+n; i++ {
			if b.IsValid(i) {
				kept = append(kept, b.Value(i))
			}
		}
		return kept, nil
	}
}

// takeShort takes decimals of up to 18 digits. Values of more digits than the precision are refused: the library would
// write them as they are, or cut.
func takeShort[T int32 | int64](name string, precision int32) take[T] {
	limit := int64(1)
	for range precision {
		limit *= 10
	}
	var kept []T
	return func(arr arrow.Array, from, n, nulls int, row int64) ([]T, error) {
		bitmap, off := validBits(arr, from)
		kept = slices.Grow(kept[:0], n)
		for i, d := range arr.(*array.Decimal128).Values()[from : from+n] {
			if nulls > 0 && !bitSet(bitmap, off+i) {
				continue
			}
			v := int64(d.LowBits())
			if d.HighBits() != v>>63 || v >= limit || v <= -limit {
				return nil, &CellError{Column: name, Row: row + int64(i), Err: ErrRange}
			}
			kept = append(kept, T(v))
		}
		return kept, nil
	}
}

// takeWide takes decimals of more than 18 digits, with the same check.
func takeWide(name string, precision int32) take[decimal128.Num] {
	limit := decimal128.GetScaleMultiplier(int(precision)) // 10^precision
	low := limit.Negate()
	all := direct(func(a arrow.Array) []decimal128.Num { return a.(*array.Decimal128).Values() })
	return func(arr arrow.Array, from, n, nulls int, row int64) ([]decimal128.Num, error) {
		vals, err := all(arr, from, n, nulls, row)
		for _, v := range vals {
			if !v.Less(limit) || !low.Less(v) {
				return nil, &CellError{Column: name, Row: row + int64(whereWide(arr, from, n, v)), Err: ErrRange}
			}
		}
		return vals, err
	}
}

// whereWide finds the row that holds v.
func whereWide(arr arrow.Array, from, n int, v decimal128.Num) int {
	d := arr.(*array.Decimal128)
	for i := range n {
		if d.IsValid(from+i) && d.Value(from+i) == v {
			return i
		}
	}
	return 0
}

// --- PLAIN (Encodings.md, "Plain") ---

func plain32(dst []byte, vals []int32) []byte {
	dst = slices.Grow(dst, 4*len(vals))
	for _, v := range vals {
		dst = binary.LittleEndian.AppendUint32(dst, uint32(v))
	}
	return dst
}

func plain64(dst []byte, vals []int64) []byte {
	dst = slices.Grow(dst, 8*len(vals))
	for _, v := range vals {
		dst = binary.LittleEndian.AppendUint64(dst, uint64(v))
	}
	return dst
}

func plainFloats(dst []byte, vals []float32) []byte {
	dst = slices.Grow(dst, 4*len(vals))
	for _, v := range vals {
		dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(v))
	}
	return dst
}

func plainDoubles(dst []byte, vals []float64) []byte {
	dst = slices.Grow(dst, 8*len(vals))
	for _, v := range vals {
		dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(v))
	}
	return dst
}

// plainBools packs them, least significant bit first.
func plainBools(dst []byte, vals []bool) []byte {
	for i, v := range vals {
		if i&7 == 0 {
			dst = append(dst, 0)
		}
		if v {
			dst[len(dst)-1] |= 1 << (i & 7)
		}
	}
	return dst
}
