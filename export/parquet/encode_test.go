package parquet

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math"
	"math/big"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/decimal128"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/klauspost/compress/huff0"
	pq "github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"
	"pgregory.net/rapid"
)

// The ways a column's values come: each leads the encoders another way.
var shapes = []string{"nulls", "equal", "few", "many", "distinct", "runs", "ramp", "steps back", "extremes", "empty", "long"}

// shaped is value i of a column in a shape.
func shaped(r *rand.Rand, t arrow.DataType, shape string, i int) any {
	var n int64
	switch shape {
	case "nulls":
		return nil
	case "equal":
		n = 7
	case "few":
		n = int64(r.IntN(5))
	case "many":
		n = int64(r.IntN(300)) * 1_000_003
	case "distinct":
		n = r.Int64N(math.MaxInt64)
	case "runs":
		n = int64(i / 13)
	case "ramp":
		n = int64(i) * 3
	case "steps back":
		n = -int64(i)*100_000 + int64(r.IntN(1000))
	case "extremes":
		return extreme(t, r.IntN(4))
	case "empty", "long":
		switch t.ID() {
		case arrow.STRING:
			return strings.Repeat("ж", map[string]int{"empty": 0, "long": 100 + r.IntN(400)}[shape])
		case arrow.BINARY:
			return make([]byte, map[string]int{"empty": 0, "long": r.IntN(900)}[shape])
		}
		n = int64(i & 1)
	}
	return ofNumber(t, n)
}

func extreme(t arrow.DataType, pick int) any {
	switch t := t.(type) {
	case *arrow.Int8Type:
		return []int8{math.MinInt8, math.MaxInt8, 0, -1}[pick]
	case *arrow.Int16Type:
		return []int16{math.MinInt16, math.MaxInt16, 0, -1}[pick]
	case *arrow.Int32Type:
		return []int32{math.MinInt32, math.MaxInt32, 0, -1}[pick]
	case *arrow.Int64Type:
		return []int64{math.MinInt64, math.MaxInt64, 0, -1}[pick]
	case *arrow.Date32Type:
		return []arrow.Date32{math.MinInt32, math.MaxInt32, 0, -1}[pick]
	case *arrow.TimestampType:
		return []arrow.Timestamp{math.MinInt64, math.MaxInt64, 0, -1}[pick]
	case *arrow.Float32Type:
		return []float32{-math.MaxFloat32, math.MaxFloat32, math.SmallestNonzeroFloat32, float32(math.Inf(-1))}[pick]
	case *arrow.Float64Type:
		return []float64{-math.MaxFloat64, math.MaxFloat64, math.SmallestNonzeroFloat64, math.Inf(1)}[pick]
	case *arrow.Decimal128Type:
		most := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(t.Precision)), nil)
		most.Sub(most, big.NewInt(1))
		return []decimal128.Num{decimal128.FromBigInt(most), decimal128.FromBigInt(new(big.Int).Neg(most)), decimal128.FromI64(0), decimal128.FromI64(-1)}[pick]
	case *arrow.StringType:
		return []string{"", "\x00", "\U0010ffff", strings.Repeat("z", maxStatsBytes)}[pick]
	case *arrow.BinaryType:
		return [][]byte{{}, {0}, {0xff, 0xff}, bytes.Repeat([]byte{0xfe}, 300)}[pick]
	}
	return pick&1 == 0
}

func ofNumber(t arrow.DataType, n int64) any {
	switch t := t.(type) {
	case *arrow.Int8Type:
		return int8(n)
	case *arrow.Int16Type:
		return int16(n)
	case *arrow.Int32Type:
		return int32(n)
	case *arrow.Int64Type:
		return n
	case *arrow.Date32Type:
		return arrow.Date32(n)
	case *arrow.TimestampType:
		return arrow.Timestamp(n)
	case *arrow.Float32Type:
		return float32(n)
	case *arrow.Float64Type:
		return float64(n)
	case *arrow.Decimal128Type:
		limit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(t.Precision)), nil)
		v := big.NewInt(n)
		if t.Precision > 19 {
			v.Mul(v, v).Mul(v, big.NewInt(n|1)) // both halves of the number are used
		}
		return decimal128.FromBigInt(v.Rem(v, limit))
	case *arrow.StringType:
		return guidText(uint64(n)*0x9e3779b97f4a7c15, uint64(n))
	case *arrow.BinaryType:
		return fmt.Appendf(nil, "%x", n)
	}
	return n&1 == 0
}

// shapedTable draws columns whose shape changes every few hundred rows, in batches of random length.
func shapedTable(r *rand.Rand, s *arrow.Schema, segments, longest int) (cells [][]any, recs []arrow.Record) {
	b := array.NewRecordBuilder(memory.DefaultAllocator, s)
	cells = make([][]any, s.NumFields())
	nullShare := make([]float64, s.NumFields())
	for range segments {
		rows := 1 + r.IntN(longest)
		for i, f := range s.Fields() {
			shape := shapes[r.IntN(len(shapes))]
			if !f.Nullable && shape == "nulls" {
				shape = "equal"
			}
			nullShare[i] = []float64{0, 0, 0.1, 0.9}[r.IntN(4)]
			for j := range rows {
				v := shaped(r, f.Type, shape, j)
				if f.Nullable && r.Float64() < nullShare[i] {
					v = nil
				}
				cells[i] = append(cells[i], v)
				if v == nil {
					b.Field(i).AppendNull()
				} else {
					appendCell(b.Field(i), v)
				}
			}
		}
		recs = append(recs, b.NewRecord())
	}
	return cells, recs
}

// encodings counts what a file's data pages say.
func encodings(t require, data []byte) map[string]int {
	f, err := pq.OpenFile(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatalf("%v", err)
	}
	seen := map[string]int{}
	for _, rg := range f.Metadata().RowGroups {
		for _, c := range rg.Columns {
			kinds := map[format.Encoding]bool{}
			for _, s := range c.MetaData.EncodingStats {
				if s.PageType == format.DataPage {
					kinds[s.Encoding] = true
					seen[s.Encoding.String()] += int(s.Count)
				}
				if !slices.Contains(c.MetaData.Encoding, s.Encoding) {
					t.Fatalf("%v: a page is %s, which the chunk does not list", c.MetaData.PathInSchema, s.Encoding)
				}
			}
			if kinds[format.RLEDictionary] && len(kinds) > 1 {
				seen["mixed"]++
			}
		}
	}
	return seen
}

// Whatever the order of shapes in a column, and however soon pages end and dictionaries are given up: parquet-go reads the
// cells and statistics that were written, and so does the library's reader.
func TestEveryEncodingReadsBack(t *testing.T) {
	s := everyType()
	seen := map[string]int{}
	steps := uint64(60)
	if raced {
		steps = 3
	}
	for seed := range steps {
		r := rand.New(rand.NewPCG(seed, 11))
		checkEncodings(t, r, s, seen)
	}
	for _, want := range []string{"PLAIN", "RLE_DICTIONARY", "DELTA_BINARY_PACKED", "mixed", "stored"} {
		if seen[want] == 0 && !raced {
			t.Errorf("no column was %s: %v", want, seen)
		}
	}
}

func TestEncodingProperty(t *testing.T) {
	all := everyType()
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 12))
		i := rapid.IntRange(0, all.NumFields()-1).Draw(t, "column")
		checkEncodings(t, r, arrow.NewSchema(all.Fields()[i:i+1], nil), map[string]int{})
	})
}

func checkEncodings(t require, r *rand.Rand, s *arrow.Schema, seen map[string]int) {
	t.Helper()
	want, recs := shapedTable(r, s, 1+r.IntN(6), 500)
	opts := Options{RowGroupRows: int64(50 + r.IntN(2000)), LowMemory: r.IntN(2) == 0, ZstdLevel: 1 + r.IntN(4)}.withDefaults()
	cfg := opts.encoderConfig()
	cfg.pageRows, cfg.pageBytes = 1+r.IntN(600), 100+r.IntN(10_000)
	cfg.dictTrial, cfg.dictBytes, cfg.dicts.left = 1+r.IntN(400), 5000+r.IntN(60_000), 5000+r.IntN(500_000)
	budget := cfg.dicts.left
	var buf bytes.Buffer
	w, err := newWriter(&buf, s, opts, cfg)
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, rec := range recs {
		for from := int64(0); from < rec.NumRows(); {
			to := min(from+1+r.Int64N(200), rec.NumRows())
			if err := w.Write(rec.NewSlice(from, to)); err != nil {
				t.Fatalf("%v", err)
			}
			from = to
		}
		scribble(rec)
		if cfg.dicts.left < 0 || cfg.dicts.left > budget {
			t.Fatalf("%d of %d bytes are left for dictionaries", cfg.dicts.left, budget)
		}
	}
	stored := 0
	for _, e := range w.encoders {
		if p, ok := e.(interface{ stores() bool }); ok && p.stores() {
			stored++
		}
	}
	footer, err := w.Close()
	if err != nil {
		t.Fatalf("%v", err)
	}
	sameCells(t, s, foreign(t, buf.Bytes(), s), want)
	checkStats(t, s, want, footer.Columns)
	if _, err := Verify(bytes.NewReader(buf.Bytes()), footer.Size); err != nil {
		t.Fatalf("%v", err)
	}
	for k, n := range encodings(t, buf.Bytes()) {
		seen[k] += n
	}
	seen["stored"] += stored
}

func (p *pages) stores() bool {
	for _, s := range p.saved {
		if s.store > 0 {
			return true
		}
	}
	return false
}

// Codes that zstd cannot shrink say nothing of the texts that come without a dictionary in the next chunk.
func TestStoringIsJudgedByEncoding(t *testing.T) {
	w, err := NewWriter(io.Discard, arrow.NewSchema([]arrow.Field{{Name: "a", Type: arrow.BinaryTypes.String}}, nil), Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := &w.encoders[0].(*textColumn).pages
	noise, texts := make([]byte, 64<<10), make([]byte, 64<<10)
	random := rand.New(rand.NewPCG(3, 4))
	for i := range noise {
		noise[i] = byte(random.Uint32())
		texts[i] = "0123456789abcdef"[noise[i]&15]
	}
	size := func(body []byte, enc parquet.Encoding) int {
		p.levels.rows = 1
		p.end(append(p.begin(), body...), enc)
		return len(p.chunk().pages[0].data)
	}
	for chunk := range retryAfter + 2 {
		if got := size(noise, parquet.Encodings.RLEDict); got < len(noise) {
			t.Errorf("chunk %d: codes take %d", chunk, got)
		}
		if got := size(texts, parquet.Encodings.Plain); got > len(texts)*6/10 {
			t.Errorf("chunk %d: texts take %d of %d", chunk, got, len(texts))
		}
	}
}

// With the limits as they are: a dictionary that proves itself and then overflows in the middle of the row group, one that
// fails its trial, sorted numbers, and a column that zstd cannot shrink.
func TestFullRowGroups(t *testing.T) {
	if raced {
		t.Skip("too many rows for the race detector")
	}
	s := arrow.NewSchema([]arrow.Field{
		{Name: "overflow", Type: arrow.BinaryTypes.String, Nullable: true},
		{Name: "wide", Type: &arrow.Decimal128Type{Precision: 38}},
		{Name: "distinct", Type: arrow.BinaryTypes.String},
		{Name: "sorted", Type: arrow.FixedWidthTypes.Timestamp_us, Nullable: true},
		{Name: "noise", Type: arrow.PrimitiveTypes.Int64},
		{Name: "few", Type: arrow.BinaryTypes.String},
	}, nil)
	r := rand.New(rand.NewPCG(1, 8))
	const rows = DefaultRowGroupRows + 20_077
	want := make([][]any, s.NumFields())
	var recs []arrow.Record
	b := array.NewRecordBuilder(memory.DefaultAllocator, s)
	for i := range rows {
		n := int64(i % 100)
		if i%DefaultRowGroupRows > 30_000 {
			n = r.Int64N(1 << 40)
		}
		row := []any{ofNumber(s.Field(0).Type, n), ofNumber(s.Field(1).Type, n), guidText(r.Uint64(), r.Uint64()),
			arrow.Timestamp(1_700_000_000_000_000 + int64(i)*1000), int64(r.Uint64()), shaped(r, s.Field(5).Type, "few", i)}
		if i%10 == 3 {
			row[0], row[3] = nil, nil
		}
		for j, v := range row {
			want[j] = append(want[j], v)
			if v == nil {
				b.Field(j).AppendNull()
			} else {
				appendCell(b.Field(j), v)
			}
		}
		if i%5000 == 4999 || i == rows-1 {
			recs = append(recs, b.NewRecord())
		}
	}
	data, footer := write(t, s, Options{}, recs...)
	sameCells(t, s, foreign(t, data, s), want)
	checkStats(t, s, want, footer.Columns)
	if _, err := Verify(bytes.NewReader(data), footer.Size); err != nil {
		t.Fatal(err)
	}
	f, err := pq.OpenFile(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	first := f.Metadata().RowGroups[0].Columns
	for i, want := range [][]format.Encoding{{format.Plain, format.RLEDictionary}, {format.RLEDictionary}, {format.Plain},
		{format.DeltaBinaryPacked}, {format.Plain}, {format.RLEDictionary}} {
		got := map[format.Encoding]bool{}
		for _, s := range first[i].MetaData.EncodingStats {
			if s.PageType == format.DataPage {
				got[s.Encoding] = true
			}
		}
		if list := slices.Sorted(maps.Keys(got)); !slices.Equal(list, want) {
			t.Errorf("%s: pages are %v, want %v", s.Field(i).Name, list, want)
		}
	}
	noise := f.Metadata().RowGroups[1].Columns[4].MetaData
	if over := noise.TotalCompressedSize - 8*(rows-DefaultRowGroupRows); over > 1000 {
		t.Errorf("the column that cannot be compressed takes %d bytes too many", over)
	}
}

// Row groups of the same rows are coded the same way: the memory that a dictionary took in one that outgrew it says nothing of the next one.
func TestRowGroupsAreCodedAlike(t *testing.T) {
	s := arrow.NewSchema([]arrow.Field{
		{Name: "text", Type: arrow.BinaryTypes.String},
		{Name: "wide", Type: &arrow.Decimal128Type{Precision: 38}},
	}, nil)
	const rows, distinct, groups = 6000, 2500, 5
	r := rand.New(rand.NewPCG(5, 8))
	b := array.NewRecordBuilder(memory.DefaultAllocator, s)
	for range rows {
		n := r.Int64N(distinct)
		appendCell(b.Field(0), fmt.Sprintf("a text of a few words, of which there are many: %d", n))
		appendCell(b.Field(1), ofNumber(s.Field(1).Type, n))
	}
	rec := b.NewRecord()
	opts := Options{RowGroupRows: rows}.withDefaults()
	cfg := opts.encoderConfig()
	cfg.pageRows, cfg.dictTrial, cfg.dictBytes = 500, 400, 44_000 // less than 2,500 entries take
	var buf bytes.Buffer
	w, err := newWriter(&buf, s, opts, cfg)
	if err != nil {
		t.Fatal(err)
	}
	for row := range int64(groups * rows / 100) {
		from := row * 100 % rows
		if err := w.Write(rec.NewSlice(from, from+100)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := pq.OpenFile(bytes.NewReader(buf.Bytes()), int64(buf.Len()))
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range f.Metadata().RowGroups[0].Columns {
		first := c.MetaData.EncodingStats
		if len(first) != 3 {
			t.Errorf("%s: %v, want a dictionary page, pages with it and pages without", s.Field(i).Name, first)
		}
		for g, group := range f.Metadata().RowGroups {
			if got := group.Columns[i].MetaData.EncodingStats; !slices.Equal(got, first) {
				t.Errorf("%s: row group %d has %v, the first one %v", s.Field(i).Name, g, got, first)
			}
		}
	}
}

// Long texts are not held until the file ends, however many row groups there are.
func TestLongTextsAreNotHeld(t *testing.T) {
	s := arrow.NewSchema([]arrow.Field{{Name: "c", Type: arrow.BinaryTypes.String}}, nil)
	r := rand.New(rand.NewPCG(6, 8))
	const rows, groups, long = 8, 300, 64 << 10
	w, err := NewWriter(io.Discard, s, Options{RowGroupRows: rows})
	if err != nil {
		t.Fatal(err)
	}
	held := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var after uint64
	for g := range groups {
		b := array.NewRecordBuilder(memory.DefaultAllocator, s)
		for range rows {
			appendCell(b.Field(0), guidText(r.Uint64(), r.Uint64())+strings.Repeat("x", long))
		}
		if err := w.Write(b.NewRecord()); err != nil {
			t.Fatal(err)
		}
		if g == groups/10 {
			after = held()
		}
	}
	if now := held(); now > after+groups*long/8 {
		t.Errorf("%d KiB were held after %d row groups, and %d KiB after %d", after>>10, groups/10, now>>10, groups)
	}
	f, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if c := f.Columns["c"]; len(c.Min.(string)) <= long || len(c.Max.(string)) <= long {
		t.Errorf("the file's least and greatest texts are not known: %d and %d bytes", len(c.Min.(string)), len(c.Max.(string)))
	}
}

// A text longer than any dictionary may be makes its column give the dictionary up, and is read back.
func TestGiantText(t *testing.T) {
	s := arrow.NewSchema([]arrow.Field{{Name: "c", Type: arrow.BinaryTypes.String, Nullable: true}}, nil)
	b := array.NewRecordBuilder(memory.DefaultAllocator, s)
	var want []any
	for i := range 60 {
		v := []string{"a", "b"}[i%2]
		if i == 40 {
			v = strings.Repeat("g", chunkBytes+1)
		}
		appendCell(b.Field(0), v)
		want = append(want, v)
	}
	data, _ := write(t, s, Options{}, b.NewRecord())
	sameCells(t, s, foreign(t, data, s), [][]any{want})
}

// A zstd frame that we make ourselves is one that a decoder takes, and whose checksum it checks.
func TestStoredFrames(t *testing.T) {
	for in, want := range map[string]uint64{"": 0xEF46DB3751D8E999, "a": 0xD24EC4F1A98C6E5B, "abc": 0x44BC2CF5AD770999} {
		if got := xxh64([]byte(in)); got != want {
			t.Errorf("xxh64(%q) = %x, want %x", in, got, want)
		}
	}
	r := rand.New(rand.NewPCG(2, 2))
	var scratch huff0.Scratch
	stored := func(src []byte) []byte { return appendStored([]byte("before"), src)[6:] }
	entropy := func(src []byte) []byte { return appendEntropy([]byte("before"), src, &scratch)[6:] }
	noise := func() byte { return byte(r.Uint32()) }
	hex := func() byte { return "0123456789abcdef-"[r.IntN(17)] }
	same := func() byte { return 'x' }
	skewed := func() byte { return byte(r.IntN(256) * r.IntN(2) * r.IntN(2) * r.IntN(2)) }
	for _, c := range []struct {
		name  string
		frame func([]byte) []byte
		draw  func() byte
	}{{"stored", stored, noise}, {"entropy", entropy, noise}, {"entropy", entropy, hex}, {"entropy", entropy, same}, {"entropy", entropy, skewed}} {
		for _, n := range []int{0, 1, 7, 8, 31, 32, 33, 63, 100, 1023, 1024, 1025, 4095, 128 << 10, 128<<10 + 1, 300_001} {
			src := make([]byte, n)
			for i := range src {
				src[i] = c.draw()
			}
			frame := c.frame(src)
			got, err := decoder.DecodeAll(frame, nil)
			if err != nil || !bytes.Equal(got, src) {
				t.Fatalf("%s, %d bytes: %v", c.name, n, err)
			}
			if len(frame) > n+4*(n/zstdMaxBlock+1)+20 {
				t.Fatalf("%s, %d bytes: the frame has %d", c.name, n, len(frame))
			}
			frame[len(frame)-1] ^= 1 // the checksum
			if _, err := decoder.DecodeAll(frame, nil); n > 0 && err == nil {
				t.Fatalf("%s, %d bytes: a flipped bit was not found", c.name, n)
			}
		}
	}
}

// Identifiers that hardly repeat are compressed without a search for repeats, and are no larger for it; texts that repeat are not.
func TestEntropyChosen(t *testing.T) {
	s := arrow.NewSchema([]arrow.Field{{Name: "id", Type: arrow.BinaryTypes.String}, {Name: "phrase", Type: arrow.BinaryTypes.String}}, nil)
	r := rand.New(rand.NewPCG(3, 3))
	b := array.NewRecordBuilder(memory.DefaultAllocator, s)
	want := make([][]any, 2)
	for range 50_000 {
		row := []any{guidText(r.Uint64(), r.Uint64()), fmt.Sprintf("a phrase that is always the same %d", r.Uint32())}
		for i, v := range row {
			appendCell(b.Field(i), v)
			want[i] = append(want[i], v)
		}
	}
	var buf bytes.Buffer
	w, err := NewWriter(&buf, s, Options{Key: []string{"id", "phrase"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(b.NewRecord()); err != nil {
		t.Fatal(err)
	}
	for i, enough := range []bool{true, false} {
		if got := w.encoders[i].(*textColumn).entropy[parquet.Encodings.Plain].enough; got != enough {
			t.Errorf("%s: %v", s.Field(i).Name, got)
		}
	}
	if _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sameCells(t, s, foreign(t, buf.Bytes(), s), want)
}

// A dictionary of identifiers is compressed without a search for repeats, one of phrases is searched, and both can be read.
func TestDictionaryCompression(t *testing.T) {
	s := arrow.NewSchema([]arrow.Field{{Name: "id", Type: arrow.BinaryTypes.String}, {Name: "phrase", Type: arrow.BinaryTypes.String}}, nil)
	r := rand.New(rand.NewPCG(5, 5))
	pool := make([][2]string, 2_000)
	for i := range pool {
		pool[i] = [2]string{guidText(r.Uint64(), r.Uint64()), fmt.Sprintf("a phrase that is always the same %d", r.Uint32())}
	}
	b := array.NewRecordBuilder(memory.DefaultAllocator, s)
	want := make([][]any, 2)
	for range 30_000 {
		for i, v := range pool[r.IntN(len(pool))] {
			appendCell(b.Field(i), v)
			want[i] = append(want[i], v)
		}
	}
	rec := b.NewRecord()
	enc := make([]chunk, 2)
	for i := range enc {
		cfg := Options{}.withDefaults().encoderConfig()
		e, err := newEncoder(cfg, s.Field(i), true)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.add(rec.Column(i), 0, int(rec.NumRows()), 0, 0); err != nil {
			t.Fatal(err)
		}
		enc[i] = e.finish()
	}
	for i, level := range []int{zstdEntropy, DefaultZstdLevel} {
		if enc[i].entries != len(pool) || enc[i].level != level {
			t.Errorf("%s: %d entries at level %d, want %d at %d", s.Field(i).Name, enc[i].entries, enc[i].level, len(pool), level)
		}
		frame := zstdCodec{}.EncodeLevel(nil, enc[i].dict, enc[i].level)
		if got, err := decoder.DecodeAll(frame, nil); err != nil || !bytes.Equal(got, enc[i].dict) {
			t.Errorf("%s: the dictionary page cannot be read: %v", s.Field(i).Name, err)
		}
	}
	data, _ := write(t, s, Options{}, rec)
	sameCells(t, s, foreign(t, data, s), want)
}

// Bits are appended to bits wherever they begin and end.
func TestValidityProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		src := rapid.SliceOfN(rapid.Byte(), 1, 60).Draw(t, "bitmap")
		var v validity
		var want []bool
		for range rapid.IntRange(1, 6).Draw(t, "batches") {
			off := rapid.IntRange(0, 8*len(src)-1).Draw(t, "from")
			n := rapid.IntRange(0, 8*len(src)-off).Draw(t, "rows")
			nulls := 0
			for i := range n {
				if !bitSet(src, off+i) {
					nulls++
				}
				want = append(want, bitSet(src, off+i))
			}
			v.add(src, off, n, nulls)
		}
		if v.rows != len(want) {
			t.Fatalf("%d rows, want %d", v.rows, len(want))
		}
		for i, set := range want {
			if v.nulls > 0 && bitSet(v.bits, i) != set {
				t.Fatalf("bit %d", i)
			}
		}
	})
}

// The order of texts by their first bytes is their order.
func TestTextExtentProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.SliceOfN(rapid.Map(rapid.SliceOfN(rapid.SampledFrom([]byte("\x00ab\xff")), 0, 12), func(b []byte) string { return string(b) }), 1, 30).Draw(t, "texts")
		var e textExtent
		for _, v := range texts {
			e.add([]byte(v))
		}
		if string(e.min) != slices.Min(texts) || string(e.max) != slices.Max(texts) {
			t.Fatalf("%q … %q, want %q … %q", e.min, e.max, slices.Min(texts), slices.Max(texts))
		}
	})
}

// The low-memory mode ends row groups early and is read back.
func TestLowMemory(t *testing.T) {
	recs := orderLineBatches(20, 2*LowMemoryRowGroupRows, 2048)
	var buf bytes.Buffer
	w, err := NewWriter(&buf, orderLines(20), Options{LowMemory: true, Key: []string{"Id"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range recs {
		if err := w.Write(rec); err != nil {
			t.Fatal(err)
		}
	}
	footer, err := w.Close()
	if err != nil || footer.RowGroups != 2 {
		t.Fatalf("%v, %d row groups", err, footer.RowGroups)
	}
	if _, err := Verify(bytes.NewReader(buf.Bytes()), footer.Size); err != nil {
		t.Fatal(err)
	}
}

// A batch costs no allocation per value or row: what is left is a few per page and chunk.
func TestAllocations(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	const rows = 2 * 65_536
	recs := orderLineBatches(20, rows, 2048)
	w, err := NewWriter(io.Discard, orderLines(20), Options{Key: []string{"Id"}, RowGroupRows: 32_768})
	if err != nil {
		t.Fatal(err)
	}
	round := func() {
		for _, rec := range recs {
			if err := w.Write(rec); err != nil {
				t.Fatal(err)
			}
		}
	}
	round() // buffers grow
	if got := testing.AllocsPerRun(1, round); got > rows/5 {
		t.Fatalf("%.0f allocations for %d rows", got, rows)
	} else {
		t.Logf("%.3f allocations a row", got/rows)
	}
}
