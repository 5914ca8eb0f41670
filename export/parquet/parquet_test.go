package parquet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/decimal128"
	"github.com/apache/arrow/go/v17/arrow/memory"
	pq "github.com/parquet-go/parquet-go"
	"pgregory.net/rapid"
)

// everyType is a schema with each type that can be published, nullable and not.
func everyType() *arrow.Schema {
	types := []struct {
		name string
		t    arrow.DataType
	}{
		{"bool", arrow.FixedWidthTypes.Boolean}, {"int8", arrow.PrimitiveTypes.Int8}, {"int16", arrow.PrimitiveTypes.Int16},
		{"int32", arrow.PrimitiveTypes.Int32}, {"int64", arrow.PrimitiveTypes.Int64},
		{"float32", arrow.PrimitiveTypes.Float32}, {"float64", arrow.PrimitiveTypes.Float64},
		{"string", arrow.BinaryTypes.String}, {"binary", arrow.BinaryTypes.Binary}, {"date", arrow.FixedWidthTypes.Date32},
		{"timestamp", arrow.FixedWidthTypes.Timestamp_us},
		{"dec9", &arrow.Decimal128Type{Precision: 9, Scale: 2}}, {"dec18", &arrow.Decimal128Type{Precision: 18, Scale: 6}},
		{"dec19", &arrow.Decimal128Type{Precision: 19, Scale: 0}}, {"dec38", &arrow.Decimal128Type{Precision: 38, Scale: 10}},
	}
	var fields []arrow.Field
	for _, nullable := range []bool{false, true} {
		for _, t := range types {
			name := t.name
			if nullable {
				name += "_null"
			}
			fields = append(fields, arrow.Field{Name: name, Type: t.t, Nullable: nullable})
		}
	}
	return arrow.NewSchema(fields, nil)
}

// cell draws a value of a type; the shapes change between many repeats, extremes and free values.
func cell(r *rand.Rand, t arrow.DataType, repeats bool) any {
	pick := r.IntN(10)
	small := int64(r.IntN(20)) - 10
	switch t := t.(type) {
	case *arrow.BooleanType:
		return r.IntN(2) == 0
	case *arrow.Int8Type:
		return int8(r.IntN(256) - 128)
	case *arrow.Int16Type:
		return int16(r.IntN(65536) - 32768)
	case *arrow.Int32Type:
		if repeats {
			return int32(small)
		}
		return int32(r.Uint32())
	case *arrow.Int64Type:
		if repeats {
			return small
		}
		return int64(r.Uint64())
	case *arrow.Float32Type:
		return float32(r.NormFloat64())
	case *arrow.Float64Type:
		return r.NormFloat64() * 1e9
	case *arrow.StringType:
		if repeats {
			return []string{"", "Oslo", "Sofia ☃", "Ærø", "日本", strings.Repeat("long", 100)}[r.IntN(6)]
		}
		return fmt.Sprintf("%x-%d", r.Uint64(), r.IntN(10))
	case *arrow.BinaryType:
		b := make([]byte, r.IntN(20))
		for i := range b {
			b[i] = byte(r.IntN(256))
		}
		return b
	case *arrow.Date32Type:
		return arrow.Date32(r.IntN(3652059) - 719162) // 0001-01-01 … 9999-12-31
	case *arrow.TimestampType:
		return arrow.Timestamp(r.Int64N(315537897600000000) - 62135596800000000)
	case *arrow.Decimal128Type:
		limit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(t.Precision)), nil)
		switch {
		case pick == 0:
			return decimal128.FromBigInt(new(big.Int).Sub(limit, big.NewInt(1)))
		case pick == 1:
			return decimal128.FromBigInt(new(big.Int).Sub(big.NewInt(1), limit))
		case repeats:
			return decimal128.FromI64(small)
		}
		v := new(big.Int).SetUint64(r.Uint64())
		v.Mul(v, new(big.Int).SetUint64(r.Uint64())).Mod(v, limit)
		if r.IntN(2) == 0 {
			v.Neg(v)
		}
		return decimal128.FromBigInt(v)
	}
	panic(t)
}

func appendCell(b array.Builder, v any) {
	switch b := b.(type) {
	case *array.BooleanBuilder:
		b.Append(v.(bool))
	case *array.Int8Builder:
		b.Append(v.(int8))
	case *array.Int16Builder:
		b.Append(v.(int16))
	case *array.Int32Builder:
		b.Append(v.(int32))
	case *array.Int64Builder:
		b.Append(v.(int64))
	case *array.Float32Builder:
		b.Append(v.(float32))
	case *array.Float64Builder:
		b.Append(v.(float64))
	case *array.StringBuilder:
		b.Append(v.(string))
	case *array.BinaryBuilder:
		b.Append(v.([]byte))
	case *array.Date32Builder:
		b.Append(v.(arrow.Date32))
	case *array.TimestampBuilder:
		b.Append(v.(arrow.Timestamp))
	case *array.Decimal128Builder:
		b.Append(v.(decimal128.Num))
	default:
		panic(fmt.Sprintf("%T", b))
	}
}

// table draws rows and returns them both as cells (nil = null) and as a record.
func table(mem memory.Allocator, r *rand.Rand, s *arrow.Schema, rows int, nulls float64, repeats bool) ([][]any, arrow.Record) {
	b := array.NewRecordBuilder(mem, s)
	defer b.Release()
	cells := make([][]any, s.NumFields())
	for i, f := range s.Fields() {
		for range rows {
			if f.Nullable && r.Float64() < nulls {
				b.Field(i).AppendNull()
				cells[i] = append(cells[i], nil)
				continue
			}
			v := cell(r, f.Type, repeats)
			appendCell(b.Field(i), v)
			cells[i] = append(cells[i], v)
		}
	}
	return cells, b.NewRecord()
}

// foreign reads a file with parquet-go into cells, in the types that cell draws.
func foreign(t require, data []byte, s *arrow.Schema) [][]any {
	f, err := pq.OpenFile(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatalf("parquet-go: %v", err)
	}
	cells := make([][]any, s.NumFields())
	for g, rg := range f.RowGroups() {
		for i, chunk := range rg.ColumnChunks() {
			from := len(cells[i])
			pages := chunk.Pages()
			for {
				p, err := pages.ReadPage()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatalf("parquet-go: %v", err)
				}
				vals := make([]pq.Value, p.NumValues())
				if n, err := p.Values().ReadValues(vals); n != len(vals) || err != nil && err != io.EOF {
					t.Fatalf("parquet-go: %d of %d values: %v", n, len(vals), err)
				}
				for _, v := range vals {
					cells[i] = append(cells[i], fromValue(v, s.Field(i).Type))
				}
			}
			pages.Close()
			checkChunk(t, f, g, i, s.Field(i), cells[i][from:])
		}
	}
	return cells
}

type require interface {
	Helper()
	Fatalf(string, ...any)
}

func fromValue(v pq.Value, t arrow.DataType) any {
	if v.IsNull() {
		return nil
	}
	return fromRaw(v, t)
}

func fromRaw(v pq.Value, t arrow.DataType) any {
	switch t := t.(type) {
	case *arrow.BooleanType:
		return v.Boolean()
	case *arrow.Int8Type:
		return int8(v.Int32())
	case *arrow.Int16Type:
		return int16(v.Int32())
	case *arrow.Int32Type:
		return v.Int32()
	case *arrow.Int64Type:
		return v.Int64()
	case *arrow.Float32Type:
		return v.Float()
	case *arrow.Float64Type:
		return v.Double()
	case *arrow.StringType:
		return string(v.ByteArray())
	case *arrow.BinaryType:
		return append([]byte{}, v.ByteArray()...)
	case *arrow.Date32Type:
		return arrow.Date32(v.Int32())
	case *arrow.TimestampType:
		return arrow.Timestamp(v.Int64())
	case *arrow.Decimal128Type:
		switch {
		case t.Precision <= 9:
			return decimal128.FromI64(int64(v.Int32()))
		case t.Precision <= 18:
			return decimal128.FromI64(v.Int64())
		}
		b := v.ByteArray()
		n := new(big.Int).SetBytes(b)
		if b[0]&0x80 != 0 {
			n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
		}
		return decimal128.FromBigInt(n)
	}
	panic(t)
}

func compareCells(a, b any) int {
	switch a := a.(type) {
	case bool:
		return b2i(a) - b2i(b.(bool))
	case int8:
		return int(a) - int(b.(int8))
	case int16:
		return int(a) - int(b.(int16))
	case int32:
		return cmpOrdered(a, b.(int32))
	case int64:
		return cmpOrdered(a, b.(int64))
	case float32:
		return cmpOrdered(a, b.(float32))
	case float64:
		return cmpOrdered(a, b.(float64))
	case string:
		return strings.Compare(a, b.(string))
	case []byte:
		return bytes.Compare(a, b.([]byte))
	case arrow.Date32:
		return cmpOrdered(a, b.(arrow.Date32))
	case arrow.Timestamp:
		return cmpOrdered(a, b.(arrow.Timestamp))
	case decimal128.Num:
		return a.BigInt().Cmp(b.(decimal128.Num).BigInt())
	}
	panic(fmt.Sprintf("%T", a))
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func cmpOrdered[T int32 | int64 | float32 | float64 | arrow.Date32 | arrow.Timestamp](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// truth are the statistics of cells, the slow and obvious way.
func truth(cells []any) (nulls int64, lo, hi any) {
	for _, v := range cells {
		if v == nil {
			nulls++
			continue
		}
		if lo == nil || compareCells(v, lo) < 0 {
			lo = v
		}
		if hi == nil || compareCells(v, hi) > 0 {
			hi = v
		}
	}
	return nulls, lo, hi
}

// checkChunk compares the statistics in the footer, as parquet-go reads them, with the truth.
func checkChunk(t require, f *pq.File, g, i int, fd arrow.Field, cells []any) {
	t.Helper()
	md := f.Metadata().RowGroups[g].Columns[i].MetaData
	nulls, lo, hi := truth(cells)
	if md.NumValues != int64(len(cells)) {
		t.Fatalf("%s: the chunk has %d values, truth is %d", fd.Name, md.NumValues, len(cells))
	}
	if got := md.Statistics.NullCount; got != nulls {
		t.Fatalf("%s: the chunk's null count is %d, truth is %d", fd.Name, got, nulls)
	}
	if fd.Type.ID() == arrow.BINARY || lo == nil {
		if md.Statistics.MinValue != nil || md.Statistics.MaxValue != nil {
			t.Fatalf("%s: a minimum or maximum where none belongs", fd.Name)
		}
		return
	}
	kind := f.Root().Columns()[i].Type().Kind()
	for _, c := range []struct {
		what  string
		raw   []byte
		truth any
	}{{"minimum", md.Statistics.MinValue, lo}, {"maximum", md.Statistics.MaxValue, hi}} {
		if s, ok := c.truth.(string); ok && len(s) > maxStatsBytes {
			if c.raw != nil {
				t.Fatalf("%s: a %s of %d bytes is in the footer", fd.Name, c.what, len(c.raw))
			}
			continue
		}
		if got := fromRaw(kind.Value(c.raw), fd.Type); compareCells(got, c.truth) != 0 {
			t.Fatalf("%s: the footer's %s is %v, truth is %v", fd.Name, c.what, got, c.truth)
		}
	}
}

func checkStats(t require, s *arrow.Schema, cells [][]any, got map[string]ColumnStats) {
	t.Helper()
	for i, fd := range s.Fields() {
		nulls, lo, hi := truth(cells[i])
		st := got[fd.Name]
		if st.NullCount != nulls {
			t.Fatalf("%s: %d nulls, truth is %d", fd.Name, st.NullCount, nulls)
		}
		if fd.Type.ID() == arrow.BINARY {
			lo, hi = nil, nil
		}
		if st.Min != public(lo, fd.Type) || st.Max != public(hi, fd.Type) {
			t.Fatalf("%s: the statistics are %v … %v, truth is %v … %v", fd.Name, st.Min, st.Max, public(lo, fd.Type), public(hi, fd.Type))
		}
	}
}

func public(v any, t arrow.DataType) any {
	switch v := v.(type) {
	case int8:
		return int64(v)
	case int16:
		return int64(v)
	case int32:
		return int64(v)
	case float32:
		return float64(v)
	case decimal128.Num:
		return decimalText(v, t.(*arrow.Decimal128Type).Scale)
	}
	return v
}

func sameCells(t require, s *arrow.Schema, got, want [][]any) {
	t.Helper()
	for i, fd := range s.Fields() {
		if len(got[i]) != len(want[i]) {
			t.Fatalf("%s: %d rows were read, %d written", fd.Name, len(got[i]), len(want[i]))
		}
		for j := range got[i] {
			g, w := got[i][j], want[i][j]
			if (g == nil) != (w == nil) || g != nil && compareCells(g, w) != 0 {
				t.Fatalf("%s, row %d: read %v, written %v", fd.Name, j, g, w)
			}
		}
	}
}

// write writes records, then scribbles over their memory, as a caller with recycled buffers would.
func write(t require, s *arrow.Schema, opts Options, recs ...arrow.Record) ([]byte, Footer) {
	t.Helper()
	var buf bytes.Buffer
	w, err := NewWriter(&buf, s, opts)
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, rec := range recs {
		if err := w.Write(rec); err != nil {
			t.Fatalf("%v", err)
		}
		scribble(rec)
	}
	footer, err := w.Close()
	if err != nil {
		t.Fatalf("%v", err)
	}
	return buf.Bytes(), footer
}

func scribble(rec arrow.Record) {
	for _, c := range rec.Columns() {
		for _, b := range c.Data().Buffers() {
			if b != nil {
				raw := b.Bytes()
				for i := range raw {
					raw[i] = 0xff
				}
			}
		}
	}
}

// Every type, nulls from none to all, dictionaries kept and given up, several row groups and pages: the cells and the
// statistics that a foreign reader finds are those that were written, even though the records' memory is overwritten
// as soon as Write returns.
func TestReadBackByForeignReader(t *testing.T) {
	s := everyType()
	for _, c := range []struct {
		name    string
		rows    int
		nulls   float64
		repeats bool
		opts    Options
	}{
		{"one row", 1, 0.5, false, Options{}},
		{"no nulls", 5000, 0, false, Options{}},
		{"only nulls", 3000, 1, false, Options{}},
		{"repeats", 9000, 0.1, true, Options{ZstdLevel: 4}},
		{"row groups by rows", 9000, 0.3, true, Options{RowGroupRows: 1000}},
		{"row groups by bytes", 9000, 0.3, false, Options{RowGroupBytes: 200_000, Key: []string{"int64", "string"}}},
		{"pages", 25_000, 0.2, true, Options{}},
		{"dictionaries given up", 20_000, 0.2, false, Options{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if raced && c.rows > 9000 {
				t.Skip("too many rows for the race detector")
			}
			r := rand.New(rand.NewPCG(1, uint64(c.rows)))
			want := make([][]any, s.NumFields())
			var recs []arrow.Record
			for left := c.rows; left > 0; {
				n := min(left, 1+r.IntN(7000))
				cells, rec := table(memory.DefaultAllocator, r, s, n, c.nulls, c.repeats)
				for i := range want {
					want[i] = append(want[i], cells[i]...)
				}
				recs = append(recs, rec)
				left -= n
			}
			data, footer := write(t, s, c.opts, recs...)
			if footer.Rows != int64(c.rows) || footer.Size != int64(len(data)) {
				t.Fatalf("footer %d rows, %d bytes; want %d, %d", footer.Rows, footer.Size, c.rows, len(data))
			}
			sameCells(t, s, foreign(t, data, s), want)
			checkStats(t, s, want, footer.Columns)
			f, err := Open(bytes.NewReader(data), footer.Size)
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Check(footer); err != nil {
				t.Fatal(err)
			}
			for _, rg := range f.reader.MetaData().RowGroups {
				for i, c := range rg.Columns {
					if c.MetaData.Statistics.IsSetDistinctCount() {
						t.Fatalf("%s: the footer has a count of distinct values, which nobody made", s.Field(i).Name)
					}
				}
			}
			if !f.Schema.Equal(s) {
				t.Fatalf("schema %v", f.Schema)
			}
			v, err := Verify(bytes.NewReader(data), footer.Size)
			if err != nil {
				t.Fatal(err)
			}
			checkStats(t, s, want, v.Columns)
			if c.opts.RowGroupRows == 1000 && footer.RowGroups != 9 {
				t.Fatalf("%d row groups", footer.RowGroups)
			}
			if c.opts.RowGroupBytes > 0 && footer.RowGroups < 3 {
				t.Fatalf("%d row groups", footer.RowGroups)
			}
		})
	}
}

func TestReadBackProperty(t *testing.T) {
	all := everyType()
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		fields := rapid.SliceOfNDistinct(rapid.IntRange(0, all.NumFields()-1), 1, 5, rapid.ID[int]).Draw(t, "columns")
		var picked []arrow.Field
		for _, i := range fields {
			picked = append(picked, all.Field(i))
		}
		s := arrow.NewSchema(picked, nil)
		opts := Options{
			RowGroupRows: rapid.Int64Range(1, 400).Draw(t, "group rows"),
			ZstdLevel:    rapid.IntRange(0, 4).Draw(t, "level"),
		}
		want := make([][]any, s.NumFields())
		var recs []arrow.Record
		for range rapid.IntRange(0, 4).Draw(t, "records") {
			cells, rec := table(memory.DefaultAllocator, r, s, rapid.IntRange(0, 500).Draw(t, "rows"), rapid.Float64Range(0, 1).Draw(t, "nulls"), rapid.Bool().Draw(t, "repeats"))
			for i := range want {
				want[i] = append(want[i], cells[i]...)
			}
			// A slice of a record has offsets: they must be honoured.
			recs = append(recs, rec)
		}
		var parts []arrow.Record
		for _, rec := range recs {
			cut := rapid.Int64Range(0, rec.NumRows()).Draw(t, "cut")
			parts = append(parts, rec.NewSlice(0, cut), rec.NewSlice(cut, rec.NumRows()))
		}
		var buf bytes.Buffer
		w, err := NewWriter(&buf, s, opts)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range parts {
			if err := w.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		footer, err := w.Close()
		if err != nil {
			t.Fatal(err)
		}
		sameCells(t, s, foreign(t, buf.Bytes(), s), want)
		checkStats(t, s, want, footer.Columns)
		if _, err := Verify(bytes.NewReader(buf.Bytes()), footer.Size); err != nil {
			t.Fatal(err)
		}
	})
}

func TestNoMemoryIsKept(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	defer mem.AssertSize(t, 0)
	s := everyType()
	_, rec := table(mem, rand.New(rand.NewPCG(1, 2)), s, 6000, 0.2, false)
	w, err := NewWriter(io.Discard, s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(rec); err != nil {
		t.Fatal(err)
	}
	rec.Release()
	if _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFloats(t *testing.T) {
	s := arrow.NewSchema([]arrow.Field{{Name: "x", Type: arrow.PrimitiveTypes.Float64}}, nil)
	for _, c := range []struct {
		name     string
		in       []float64
		min, max any
	}{
		{"NaN among others", []float64{1, math.NaN(), 3}, nil, nil},
		{"only NaN", []float64{math.NaN()}, nil, nil},
		{"infinities", []float64{math.Inf(1), math.Inf(-1)}, math.Inf(-1), math.Inf(1)},
		{"only +Inf", []float64{math.Inf(1)}, math.Inf(1), math.Inf(1)},
		{"zeros", []float64{0, math.Copysign(0, -1)}, 0.0, 0.0},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := array.NewRecordBuilder(memory.DefaultAllocator, s)
			b.Field(0).(*array.Float64Builder).AppendValues(c.in, nil)
			data, footer := write(t, s, Options{}, b.NewRecord())
			if got := footer.Columns["x"]; got.Min != c.min || got.Max != c.max {
				t.Fatalf("%v … %v, want %v … %v", got.Min, got.Max, c.min, c.max)
			}
			if _, err := Verify(bytes.NewReader(data), footer.Size); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestRefusedValues(t *testing.T) {
	dec := func(p, s int32) *arrow.Decimal128Type { return &arrow.Decimal128Type{Precision: p, Scale: s} }
	pow := func(p int64) decimal128.Num {
		return decimal128.FromBigInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(p), nil))
	}
	for _, c := range []struct {
		name string
		f    arrow.Field
		v    any
		want error
	}{
		{"null in a required column", arrow.Field{Name: "c", Type: arrow.PrimitiveTypes.Int64}, nil, ErrNull},
		{"null in a required text", arrow.Field{Name: "c", Type: arrow.BinaryTypes.String}, nil, ErrNull},
		{"decimal(5) too large", arrow.Field{Name: "c", Type: dec(5, 2)}, pow(5), ErrRange},
		{"decimal(5) too small", arrow.Field{Name: "c", Type: dec(5, 2)}, pow(5).Negate(), ErrRange},
		{"decimal(9) beyond int32", arrow.Field{Name: "c", Type: dec(9, 2)}, pow(20), ErrRange},
		{"decimal(18) beyond int64", arrow.Field{Name: "c", Type: dec(18, 0)}, pow(25), ErrRange},
		{"decimal(38)", arrow.Field{Name: "c", Type: dec(38, 0)}, pow(38), ErrRange},
		{"smallest int128", arrow.Field{Name: "c", Type: dec(38, 0)}, decimal128.New(math.MinInt64, 0), ErrRange},
		{"not UTF-8", arrow.Field{Name: "c", Type: arrow.BinaryTypes.String}, "a\xffb", ErrText},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := arrow.NewSchema([]arrow.Field{c.f}, nil)
			b := array.NewRecordBuilder(memory.DefaultAllocator, s)
			first := cell(rand.New(rand.NewPCG(1, 1)), c.f.Type, true)
			appendCell(b.Field(0), first)
			appendCell(b.Field(0), first)
			if c.v == nil {
				b.Field(0).AppendNull()
			} else {
				appendCell(b.Field(0), c.v)
			}
			w, err := NewWriter(io.Discard, s, Options{})
			if err != nil {
				t.Fatal(err)
			}
			err = w.Write(b.NewRecord())
			var ce *CellError
			if !errors.Is(err, c.want) || !errors.As(err, &ce) || ce.Column != "c" || ce.Row != 2 {
				t.Fatalf("%v", err)
			}
			if _, again := w.Close(); again == nil {
				t.Fatal("a file with a refused value could be finished")
			}
		})
	}
}

// A text that ends inside a character is refused although the column's bytes as a whole are valid UTF-8: with a dictionary, which
// looks at new entries alone, and without one.
func TestTextCutInsideCharacter(t *testing.T) {
	s := arrow.NewSchema([]arrow.Field{{Name: "c", Type: arrow.BinaryTypes.String, Nullable: true}}, nil)
	for _, key := range [][]string{nil, {"c"}} {
		for name, texts := range map[string][]string{
			"two halves": {"\xc3", "\xa9"}, "half before null": {"\xc3"}, "after one that is known": {"é", "é", "\xc3", "\xa9"},
		} {
			t.Run(fmt.Sprint(name, key), func(t *testing.T) {
				b := array.NewRecordBuilder(memory.DefaultAllocator, s)
				for _, v := range texts {
					appendCell(b.Field(0), v)
				}
				w, _ := NewWriter(io.Discard, s, Options{Key: key})
				var ce *CellError
				if err := w.Write(b.NewRecord()); !errors.Is(err, ErrText) || !errors.As(err, &ce) || texts[ce.Row] != "\xc3" {
					t.Fatalf("%v", err)
				}
				if _, err := w.Close(); err == nil {
					t.Fatal("a file with a refused text could be finished")
				}
			})
		}
	}
}

func TestRefusedSchemas(t *testing.T) {
	one := func(t arrow.DataType) *arrow.Schema {
		return arrow.NewSchema([]arrow.Field{{Name: "c", Type: t}}, nil)
	}
	for name, s := range map[string]*arrow.Schema{
		"no columns":        arrow.NewSchema(nil, nil),
		"unsigned":          one(arrow.PrimitiveTypes.Uint32),
		"nanoseconds":       one(arrow.FixedWidthTypes.Timestamp_ns),
		"no zone":           one(&arrow.TimestampType{Unit: arrow.Microsecond}),
		"time":              one(arrow.FixedWidthTypes.Time64us),
		"list":              one(arrow.ListOf(arrow.PrimitiveTypes.Int32)),
		"dictionary":        one(&arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.String}),
		"decimal 39":        one(&arrow.Decimal128Type{Precision: 39}),
		"negative scale":    one(&arrow.Decimal128Type{Precision: 3, Scale: -1}),
		"scale > precision": one(&arrow.Decimal128Type{Precision: 3, Scale: 4}),
		"no name":           arrow.NewSchema([]arrow.Field{{Type: arrow.PrimitiveTypes.Int32}}, nil),
		"twice":             arrow.NewSchema([]arrow.Field{{Name: "c", Type: arrow.PrimitiveTypes.Int32}, {Name: "c", Type: arrow.PrimitiveTypes.Int32}}, nil),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := NewWriter(io.Discard, s, Options{}); err == nil {
				t.Fatal("taken")
			}
		})
	}
	if _, err := NewWriter(io.Discard, one(arrow.PrimitiveTypes.Int32), Options{Key: []string{"d"}}); err == nil {
		t.Fatal("an unknown key column was taken")
	}
	if _, err := NewWriter(io.Discard, one(arrow.PrimitiveTypes.Int32), Options{ZstdLevel: 9}); err == nil {
		t.Fatal("level 9 was taken")
	}
	w, _ := NewWriter(io.Discard, one(arrow.PrimitiveTypes.Int32), Options{})
	_, rec := table(memory.DefaultAllocator, rand.New(rand.NewPCG(1, 1)), one(arrow.PrimitiveTypes.Int64), 1, 0, false)
	if err := w.Write(rec); err == nil {
		t.Fatal("a record of another schema was taken")
	}
}

// failing takes limit bytes and then fails; it also counts Close, which must never be called.
type failing struct {
	limit  int
	n      int
	closed int
}

var errDisk = errors.New("no space left")

func (f *failing) Write(p []byte) (int, error) {
	if f.n+len(p) > f.limit {
		n := f.limit - f.n
		f.n = f.limit
		return n, errDisk
	}
	f.n += len(p)
	return len(p), nil
}

func (f *failing) Close() error { f.closed++; return nil }

// Wherever the sink fails, the writer says so with the sink's own error, and never finishes the file.
func TestSinkFails(t *testing.T) {
	s := everyType()
	file := func(sink io.Writer) error {
		w, err := NewWriter(sink, s, Options{RowGroupRows: 200})
		if err != nil {
			return err
		}
		r := rand.New(rand.NewPCG(7, 7))
		for range 3 {
			_, rec := table(memory.DefaultAllocator, r, s, 150, 0.3, true)
			if err := w.Write(rec); err != nil {
				if _, again := w.Close(); again == nil {
					return nil
				}
				return err
			}
		}
		_, err = w.Close()
		return err
	}
	whole := &failing{limit: math.MaxInt}
	if err := file(whole); err != nil || whole.closed != 0 {
		t.Fatalf("%v, closed %d times", err, whole.closed)
	}
	steps := 300
	if raced {
		steps = 40
	}
	for limit := 0; limit < whole.n; limit += 1 + whole.n/steps {
		if err := file(&failing{limit: limit}); !errors.Is(err, errDisk) {
			t.Fatalf("after %d bytes: %v", limit, err)
		}
	}
	if err := file(&failing{limit: whole.n - 1}); !errors.Is(err, errDisk) {
		t.Fatalf("at the last byte: %v", err)
	}
}

// A flipped bit anywhere in the file, or a cut, is found by Verify: by the pages' checksums, the footer's counts or
// the statistics. (Bits of the footer that describe nothing we read, such as the writer's name, may flip unseen.)
func TestVerifyFindsDamage(t *testing.T) {
	s := everyType()
	_, rec := table(memory.DefaultAllocator, rand.New(rand.NewPCG(3, 3)), s, 800, 0.3, true)
	data, footer := write(t, s, Options{RowGroupRows: 300}, rec)
	f, err := Open(bytes.NewReader(data), footer.Size)
	if err != nil {
		t.Fatal(err)
	}
	pages := int64(0)
	md := f.reader.MetaData()
	for g := range f.RowGroups {
		pages += md.RowGroup(g).TotalCompressedSize()
	}
	for n := int64(0); n < footer.Size; n += 1 + footer.Size/40 {
		if _, err := Verify(bytes.NewReader(data[:n]), n); err == nil {
			t.Fatalf("cut at %d of %d: not found", n, footer.Size)
		}
	}
	found, missed := 0, 0
	r := rand.New(rand.NewPCG(5, 5))
	flips := 300
	if raced {
		flips = 60
	}
	for range flips {
		at := 4 + r.Int64N(pages)
		bad := bytes.Clone(data)
		bad[at] ^= 1 << r.IntN(8)
		if got, err := Verify(bytes.NewReader(bad), footer.Size); err != nil || got.Check(footer) != nil {
			found++
		} else {
			missed++
		}
	}
	// Page headers hold optional statistics and byte counts that nothing depends on.
	if missed > found/5 {
		t.Fatalf("%d of %d flipped bits were not found", missed, found+missed)
	}
}

func TestEmptyFileAndMetadata(t *testing.T) {
	s := everyType()
	data, footer := write(t, s, Options{Metadata: map[string]string{"tablexport.job": "order-lines", "a": "æ"}})
	f, err := Verify(bytes.NewReader(data), footer.Size)
	if err != nil || f.Rows != 0 || f.Metadata["tablexport.job"] != "order-lines" || f.Metadata["a"] != "æ" {
		t.Fatalf("%v %+v", err, f)
	}
	if _, err := NewWriter(io.Discard, s, Options{Metadata: map[string]string{"a": "\xff"}}); err == nil {
		t.Fatal("metadata that is not UTF-8 was taken")
	}
	pf, err := pq.OpenFile(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	root := pf.Metadata().Schema[0]
	if root.RepetitionType.Valid && root.RepetitionType.V.String() != "REQUIRED" {
		t.Fatalf("the root is %v", root.RepetitionType)
	}
}

func TestPhysicalTypes(t *testing.T) {
	data, _ := write(t, everyType(), Options{})
	f, err := pq.OpenFile(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"bool": "BOOLEAN", "int8": "INT(8,true)", "int16": "INT(16,true)", "int32": "INT32", "int64": "INT64",
		"float32": "FLOAT", "float64": "DOUBLE", "string": "STRING", "binary": "BYTE_ARRAY", "date": "DATE",
		"timestamp": "TIMESTAMP(isAdjustedToUTC=true,unit=MICROS)", "dec9": "DECIMAL(9,2)", "dec18": "DECIMAL(18,6)",
		"dec19": "DECIMAL(19,0)", "dec38": "DECIMAL(38,10)",
	}
	kinds := map[string]string{"dec9": "INT32", "dec18": "INT64", "dec19": "FIXED_LEN_BYTE_ARRAY(9)", "dec38": "FIXED_LEN_BYTE_ARRAY(16)", "date": "INT32", "timestamp": "INT64", "int16": "INT32"}
	for _, c := range f.Root().Columns() {
		base, null := strings.CutSuffix(c.Name(), "_null")
		if c.Optional() != null {
			t.Errorf("%s: optional is %v", c.Name(), c.Optional())
		}
		if got := c.Type().String(); got != want[base] {
			t.Errorf("%s: %s, want %s", c.Name(), got, want[base])
		}
		if k, ok := kinds[base]; ok {
			got := c.Type().Kind().String()
			if c.Type().Kind() == pq.FixedLenByteArray {
				got = fmt.Sprintf("%s(%d)", got, c.Type().Length())
			}
			if got != k {
				t.Errorf("%s: %s, want %s", c.Name(), got, k)
			}
		}
	}
}

// Two million rows cost no more memory than one row group.
func TestMemoryStaysFlat(t *testing.T) {
	if testing.Short() || raced {
		t.Skip("two million rows: run without -short and -race")
	}
	s := arrow.NewSchema([]arrow.Field{
		{Name: "id", Type: arrow.BinaryTypes.String},
		{Name: "n", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
		{Name: "text", Type: arrow.BinaryTypes.String, Nullable: true},
		{Name: "amount", Type: &arrow.Decimal128Type{Precision: 18, Scale: 2}, Nullable: true},
	}, nil)
	r := rand.New(rand.NewPCG(9, 9))
	_, rec := table(memory.DefaultAllocator, r, s, 20_000, 0.1, false)
	w, err := NewWriter(io.Discard, s, Options{Key: []string{"id"}})
	if err != nil {
		t.Fatal(err)
	}
	var early, late uint64
	for i := range 100 {
		if err := w.Write(rec); err != nil {
			t.Fatal(err)
		}
		if i%10 == 9 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			if i < 30 {
				early = max(early, m.HeapAlloc)
			} else {
				late = max(late, m.HeapAlloc)
			}
		}
	}
	if f, err := w.Close(); err != nil || f.Rows != 2_000_000 {
		t.Fatalf("%v, %d rows", err, f.Rows)
	}
	t.Logf("heap after 10–30 %%: %d MiB, later: %d MiB", early>>20, late>>20)
	if late > early+early/4+8<<20 {
		t.Fatalf("the heap grew from %d to %d bytes", early, late)
	}
}

func BenchmarkWrite(b *testing.B) {
	s := arrow.NewSchema([]arrow.Field{
		{Name: "id", Type: arrow.BinaryTypes.String},
		{Name: "order", Type: arrow.BinaryTypes.String, Nullable: true},
		{Name: "line", Type: arrow.PrimitiveTypes.Int32, Nullable: true},
		{Name: "n", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
		{Name: "day", Type: arrow.FixedWidthTypes.Date32, Nullable: true},
		{Name: "at", Type: arrow.FixedWidthTypes.Timestamp_us, Nullable: true},
		{Name: "void", Type: arrow.FixedWidthTypes.Boolean, Nullable: true},
		{Name: "quantity", Type: &arrow.Decimal128Type{Precision: 12, Scale: 3}, Nullable: true},
		{Name: "price", Type: &arrow.Decimal128Type{Precision: 19, Scale: 5}, Nullable: true},
		{Name: "text", Type: arrow.BinaryTypes.String, Nullable: true},
	}, nil)
	r := rand.New(rand.NewPCG(9, 9))
	_, rec := table(memory.DefaultAllocator, r, s, 2000, 0.1, true)
	w, err := NewWriter(io.Discard, s, Options{Key: []string{"id"}})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	rows := 0
	for b.Loop() {
		if err := w.Write(rec); err != nil {
			b.Fatal(err)
		}
		rows += 2000
	}
	if _, err := w.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(rows), "ns/row")
}
