package odata

import (
	"encoding/json"
	"math"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/bitutil"
	"github.com/apache/arrow/go/v17/arrow/decimal128"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/tablexport/tablexport/odata/edm"
)

// column is one property of the rows, compiled, with the memory of the record that is being filled.
//
// A record takes its buffers with it, and other ones are filled for the next: whoever keeps a record must never see it
// change. Once it is released, the allocator may hand them out again.
type column struct {
	name      string
	key       string // as it stands in JSON: "Name":
	nullable  bool
	anchor    bool // must be right in every row: see Aside
	op        operation
	kind      arrow.DataType
	width     int    // bits of a value, of an offset where the width varies
	typeName  string // "Edm.Decimal(14,2)"
	precision int32
	scale     int32
	limit     magnitude // 10^precision
	bound     uint64    // the same, or the most that 64 bits hold
	form      form      // what the quick way can read

	seenIn uint64 // the rowID of the row it was last seen in

	values *memory.Buffer // of fixed width, or the offsets of a column of variable width
	data   *memory.Buffer // of variable width, else nil
	valid  *memory.Buffer // nil as long as there is no null
	hint   int            // bytes of data of the last record, to start the next one with

	// Views of values and data: those that fit the type, the others nil.
	i16     []int16
	i32     []int32
	i64     []int64
	f64     []float64
	dec     []decimal128.Num
	bits    []byte
	offsets []int32 // offsets[n] is where row n begins in bytes
	bytes   []byte

	validBits []byte // of valid
}

func newColumn(c *edm.Column) column {
	key, err := json.Marshal(c.Name)
	if err != nil {
		panic(err) // a string always has a JSON form
	}
	col := column{
		name:     c.Name,
		key:      string(key) + ":",
		nullable: c.Nullable,
		op:       operationOf(c.Type.Kind),
		form:     formOf(c.Type.Kind),
		kind:     c.Type.Arrow(),
		width:    arrow.Int32SizeBytes * 8,
		typeName: c.Type.String(),
	}
	if fixed, ok := col.kind.(arrow.FixedWidthDataType); ok {
		col.width = fixed.BitWidth()
	}
	if c.Type.Kind == edm.Decimal {
		col.precision, col.scale = c.Type.Precision, c.Type.Scale
		col.limit, col.bound = powersOfTen[c.Type.Precision], math.MaxUint64
		if col.limit.hi == 0 {
			col.bound = col.limit.lo
		}
	}
	return col
}

// grow makes room for the given number of rows; n rows are there.
func (c *column) grow(mem memory.Allocator, n, rows int) {
	if c.values == nil {
		c.values = memory.NewResizableBuffer(mem)
	}
	switch c.kind.ID() {
	case arrow.INT16:
		c.i16 = arrow.Int16Traits.CastFromBytes(resized(c.values, rows*arrow.Int16SizeBytes))
	case arrow.INT32, arrow.DATE32:
		c.i32 = arrow.Int32Traits.CastFromBytes(resized(c.values, rows*arrow.Int32SizeBytes))
	case arrow.INT64, arrow.TIMESTAMP:
		c.i64 = arrow.Int64Traits.CastFromBytes(resized(c.values, rows*arrow.Int64SizeBytes))
	case arrow.FLOAT64:
		c.f64 = arrow.Float64Traits.CastFromBytes(resized(c.values, rows*arrow.Float64SizeBytes))
	case arrow.DECIMAL128:
		c.dec = arrow.Decimal128Traits.CastFromBytes(resized(c.values, rows*arrow.Decimal128SizeBytes))
	case arrow.BOOL:
		c.bits = resized(c.values, int(bitutil.BytesForBits(int64(rows))))
		clear(c.bits[(n+7)/8:])
	default:
		c.offsets = arrow.Int32Traits.CastFromBytes(resized(c.values, (rows+1)*arrow.Int32SizeBytes))
		if n == 0 {
			c.offsets[0] = 0
		}
		if c.data == nil {
			c.data = memory.NewResizableBuffer(mem)
			c.bytes = resized(c.data, c.hint)
		}
	}
	if c.valid != nil {
		c.validBits = growValid(c.valid, n, rows)
	}
}

func resized(b *memory.Buffer, size int) []byte {
	b.Resize(size)
	return b.Bytes()
}

// growValid makes room in a bitmap; rows from n on are valid until set otherwise.
func growValid(valid *memory.Buffer, n, rows int) []byte {
	bits := resized(valid, int(bitutil.BytesForBits(int64(rows))))
	bitutil.SetBitsTo(bits, int64(n), int64(8*len(bits)-n), true)
	return bits
}

// setNull makes row n null; there is room for the given number of rows.
func (c *column) setNull(mem memory.Allocator, n, rows int) {
	if c.valid == nil {
		c.valid = memory.NewResizableBuffer(mem)
		c.validBits = growValid(c.valid, 0, rows)
	}
	c.validBits[n>>3] &^= 1 << (n & 7)
	switch c.width { // the value behind a null is defined, though nobody should look
	case 1:
		bitutil.ClearBit(c.bits, n)
	case 16:
		c.i16[n] = 0
	case 32:
		if c.offsets != nil {
			c.offsets[n+1] = c.offsets[n]
		} else {
			c.i32[n] = 0
		}
	case 64:
		if c.i64 != nil {
			c.i64[n] = 0
		} else {
			c.f64[n] = 0
		}
	case 128:
		c.dec[n] = decimal128.Num{}
	default:
		panic("odata: a column of an unknown width")
	}
}

// reserve returns size bytes for the value of row n; commit says how many of them were used.
func (c *column) reserve(n, size int) []byte {
	from := int(c.offsets[n])
	if from+size > len(c.bytes) {
		c.data.Resize(max(2*len(c.bytes), from+size, 1024))
		c.bytes = c.data.Bytes()
	}
	return c.bytes[from : from+size]
}

func (c *column) commit(n, size int) { c.offsets[n+1] = c.offsets[n] + int32(size) }

func (c *column) put(n int, text []byte) {
	copy(c.reserve(n, len(text)), text)
	c.commit(n, len(text))
}

// finish makes an array of the first n rows, which takes the memory with it.
func (c *column) finish(n int) arrow.Array {
	nulls := 0
	if c.valid != nil {
		bits := c.valid.Bytes()
		nulls = n - bitutil.CountSetBits(bits, 0, n)
		bitutil.SetBitsTo(bits, int64(n), int64(8*len(bits)-n), false)
	}
	buffers := []*memory.Buffer{c.valid, c.values}
	values := n
	if c.data != nil {
		size := int(c.offsets[n])
		c.hint = min(size+size/8, windowKeep) // one huge value must not make the next records large, too
		c.data.ResizeNoShrink(size)
		buffers = append(buffers, c.data)
		values++ // offsets are one more
	}
	c.values.ResizeNoShrink((values*c.width + 7) / 8)
	data := array.NewData(c.kind, n, buffers, nil, nulls, 0)
	defer data.Release()
	c.release()
	return array.MakeFromData(data)
}

// release lets go of the memory.
func (c *column) release() {
	for _, b := range []*memory.Buffer{c.values, c.data, c.valid} {
		if b != nil {
			b.Release()
		}
	}
	c.values, c.data, c.valid = nil, nil, nil
	c.i16, c.i32, c.i64, c.f64, c.dec, c.bits, c.offsets, c.bytes = nil, nil, nil, nil, nil, nil, nil, nil
	c.validBits = nil
}
