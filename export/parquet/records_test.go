package parquet

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"pgregory.net/rapid"

	"github.com/tablexport/tablexport/export/exporttest/judge"
)

// cellsOf are the values of an array in the types that cell draws.
func cellsOf(a arrow.Array) (out []any) {
	for i := range a.Len() {
		if a.IsNull(i) {
			out = append(out, nil)
			continue
		}
		switch a := a.(type) {
		case *array.Boolean:
			out = append(out, a.Value(i))
		case *array.Int8:
			out = append(out, a.Value(i))
		case *array.Int16:
			out = append(out, a.Value(i))
		case *array.Int32:
			out = append(out, a.Value(i))
		case *array.Int64:
			out = append(out, a.Value(i))
		case *array.Float32:
			out = append(out, a.Value(i))
		case *array.Float64:
			out = append(out, a.Value(i))
		case *array.String:
			out = append(out, strings.Clone(a.Value(i)))
		case *array.Binary:
			out = append(out, bytes.Clone(a.Value(i)))
		case *array.Date32:
			out = append(out, a.Value(i))
		case *array.Timestamp:
			out = append(out, a.Value(i))
		case *array.Decimal128:
			out = append(out, a.Value(i))
		default:
			panic(fmt.Sprintf("%T", a))
		}
	}
	return out
}

func readCells(f *File, columns []string, batch int) (cells [][]any, err error) {
	for rec, err := range f.Records(columns, batch) {
		if err != nil {
			return cells, err
		}
		if rec.NumRows() == 0 || batch > 0 && rec.NumRows() > int64(batch) {
			return cells, fmt.Errorf("a record of %d rows", rec.NumRows())
		}
		if cells == nil {
			cells = make([][]any, rec.NumCols())
		}
		for i, c := range rec.Columns() {
			cells[i] = append(cells[i], cellsOf(c)...)
		}
	}
	return cells, nil
}

// What was written comes back, whatever the row groups, the batches and the columns asked for.
func TestRecordsProperty(t *testing.T) {
	all := everyType()
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		fields := rapid.SliceOfNDistinct(rapid.IntRange(0, all.NumFields()-1), 1, 6, rapid.ID[int]).Draw(t, "columns")
		var picked []arrow.Field
		for _, i := range fields {
			picked = append(picked, all.Field(i))
		}
		s := arrow.NewSchema(picked, nil)
		rows := rapid.IntRange(0, 2000).Draw(t, "rows")
		want, rec := table(memory.DefaultAllocator, r, s, rows, rapid.Float64Range(0, 1).Draw(t, "nulls"), rapid.Bool().Draw(t, "repeats"))
		data, footer := write(t, s, Options{RowGroupRows: rapid.Int64Range(50, 3000).Draw(t, "group rows")}, rec)
		f, err := Open(bytes.NewReader(data), footer.Size)
		if err != nil {
			t.Fatal(err)
		}
		columns := rapid.Permutation(picked).Draw(t, "order")[:rapid.IntRange(1, len(picked)).Draw(t, "chosen")]
		var names []string
		var expect [][]any
		for _, c := range columns {
			names = append(names, c.Name)
			expect = append(expect, want[s.FieldIndices(c.Name)[0]])
		}
		got, err := readCells(f, names, rapid.IntRange(0, 700).Draw(t, "batch"))
		if err != nil {
			t.Fatal(err)
		}
		if rows == 0 {
			got = make([][]any, len(columns))
		}
		sameCells(t, arrow.NewSchema(columns, nil), got, expect)
	})
}

func TestRecordsRefusals(t *testing.T) {
	s := everyType()
	_, rec := table(memory.DefaultAllocator, rand.New(rand.NewPCG(1, 1)), s, 10, 0, true)
	data, footer := write(t, s, Options{}, rec)
	f, err := Open(bytes.NewReader(data), footer.Size)
	if err != nil {
		t.Fatal(err)
	}
	for name, columns := range map[string][]string{"none": {}, "unknown": {"nothing"}, "twice": {"int8", "int8"}} {
		if _, err := readCells(f, columns, 0); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	// A consumer's panic is its own: it is not taken for one of the library.
	defer func() {
		if recover() != "mine" {
			t.Error("the panic of the loop's body did not come through")
		}
	}()
	for range f.Records(nil, 0) {
		panic("mine")
	}
}

// A flipped bit or a cut file never gives other rows without an error.
func TestRecordsOfDamagedFile(t *testing.T) {
	s := everyType()
	want, rec := table(memory.DefaultAllocator, rand.New(rand.NewPCG(3, 4)), s, 300, 0.3, true)
	data, footer := write(t, s, Options{RowGroupRows: 100}, rec)
	r := rand.New(rand.NewPCG(5, 6))
	flips, found := 120, 0
	if raced {
		flips = 60
	}
	for range flips {
		bad := bytes.Clone(data)
		bad[4+r.Int64N(footer.Size-4)] ^= 1 << r.IntN(8)
		f, err := Open(bytes.NewReader(bad), footer.Size)
		if err != nil {
			found++
			continue
		}
		got, err := readCells(f, nil, 100)
		if err == nil && f.Schema.Equal(s) {
			sameCells(t, s, got, want) // the bit was one that nothing depends on
			continue
		}
		found++
	}
	if found < flips/2 {
		t.Fatalf("%d of %d flipped bits were found", found, flips)
	}
}

// Text that is not UTF-8 is refused with row group, column and row, and without the text.
func TestRecordsOfBadText(t *testing.T) {
	s := arrow.NewSchema([]arrow.Field{{Name: "raw", Type: arrow.BinaryTypes.Binary}}, nil)
	b := array.NewRecordBuilder(memory.DefaultAllocator, s)
	for i := range 700 {
		v := []byte("secret")
		if i == 650 {
			v = []byte("secret\xff")
		}
		b.Field(0).(*array.BinaryBuilder).Append(v)
	}
	data, footer := write(t, s, Options{RowGroupRows: 300}, b.NewRecord())
	f, err := Open(bytes.NewReader(data), footer.Size)
	if err != nil {
		t.Fatal(err)
	}
	f.Schema = arrow.NewSchema([]arrow.Field{{Name: "raw", Type: arrow.BinaryTypes.String}}, nil)
	if _, err = readCells(f, nil, 0); err == nil || err.Error() != `parquet: row group 2, column "raw": row 650 of the file: a text is not valid UTF-8` {
		t.Fatal(err)
	}
}

// Large values make small records: the memory is bounded by bytes as well as by rows.
func TestRecordsAreBounded(t *testing.T) {
	s := arrow.NewSchema([]arrow.Field{{Name: "text", Type: arrow.BinaryTypes.String}}, nil)
	var buf bytes.Buffer
	w, err := NewWriter(&buf, s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 10 {
		b := array.NewRecordBuilder(memory.DefaultAllocator, s)
		for range 20 {
			v := make([]byte, 50<<10)
			for i := 0; i < len(v); i += 8 {
				copy(v[i:], hex.EncodeToString(binary.BigEndian.AppendUint32(nil, r.Uint32())))
			}
			b.Field(0).(*array.StringBuilder).Append(string(v))
		}
		if err := w.Write(b.NewRecord()); err != nil {
			t.Fatal(err)
		}
	}
	footer, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	f, err := Open(bytes.NewReader(buf.Bytes()), footer.Size)
	if err != nil {
		t.Fatal(err)
	}
	rows := int64(0)
	for rec, err := range f.Records(nil, 1<<20) {
		if err != nil {
			t.Fatal(err)
		}
		if n := decodedBytes(rec, 0, rec.NumRows()); n > batchBytes+firstStep*(50<<10) {
			t.Fatalf("a record of %d bytes", n)
		}
		rows += rec.NumRows()
		runtime.GC()
	}
	if rows != 200 {
		t.Fatalf("%d rows", rows)
	}
}

// judged is a value in the judge's form.
func judged(v any, t arrow.DataType) any {
	switch v := v.(type) {
	case int8, int16, int32, int64:
		return json.Number(fmt.Sprint(v))
	case float64:
		return v
	case []byte:
		return hex.EncodeToString(v)
	case arrow.Date32:
		return time.Unix(int64(v)*86400, 0).UTC().Format(time.DateOnly)
	case arrow.Timestamp:
		return time.UnixMicro(int64(v)).UTC().Format("2006-01-02T15:04:05.000000Z")
	}
	if d, ok := t.(*arrow.Decimal128Type); ok && v != nil {
		return public(v, d).(Decimal)
	}
	return v
}

// Files of pyarrow and DuckDB, in the encodings, page versions and codecs that they have: the rows are those that DuckDB reads, or
// the file is refused.
func TestRecordsOfOtherEngines(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	files := judge.Files(t, dir)
	want := judge.ParquetRows(t, filepath.Join(dir, "snappy.parquet")) // all files hold the same rows
	for name, good := range files {
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			var cells [][]any
			f, err := Open(bytes.NewReader(data), int64(len(data)))
			if err == nil {
				cells, err = readCells(f, nil, 0)
			}
			switch {
			case err != nil && good != nil && *good:
				t.Fatal(err)
			case err == nil && good != nil && !*good:
				t.Fatal("it was taken")
			case err != nil:
				return
			}
			if len(want) == 0 || len(cells[0]) != len(want) {
				t.Fatalf("%d rows of %d", len(cells[0]), len(want))
			}
			for i, row := range want {
				for c, fd := range f.Schema.Fields() {
					got, w := judged(cells[c][i], fd.Type), row[fd.Name]
					if n, ok := w.(json.Number); ok && fd.Type.ID() == arrow.FLOAT64 {
						w, _ = n.Float64()
					}
					if fmt.Sprint(got) != fmt.Sprint(w) {
						t.Fatalf("row %d, column %s: %v, DuckDB reads %v", i, fd.Name, got, w)
					}
				}
			}
		})
	}
}

// A reader that stops early is not asked for more.
func TestRecordsStop(t *testing.T) {
	s := everyType()
	_, rec := table(memory.DefaultAllocator, rand.New(rand.NewPCG(1, 1)), s, 1000, 0, true)
	data, footer := write(t, s, Options{RowGroupRows: 100}, rec)
	f, err := Open(bytes.NewReader(data), footer.Size)
	if err != nil {
		t.Fatal(err)
	}
	var got []int64
	for rec := range f.Records([]string{"int64"}, 60) {
		if got = append(got, rec.NumRows()); len(got) == 3 {
			break
		}
	}
	if !slices.Equal(got, []int64{60, 40, 60}) {
		t.Fatal(got)
	}
}
