package export

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/decimal128"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/google/go-cmp/cmp"

	"github.com/tablexport/tablexport/export/exporttest/judge"
	"github.com/tablexport/tablexport/export/store/filestore"
	"github.com/tablexport/tablexport/odata/scope"
)

// kinds has a column of every type that can be published.
var kinds = arrow.NewSchema([]arrow.Field{
	{Name: "Id", Type: arrow.PrimitiveTypes.Int64},
	{Name: "Flag", Type: arrow.FixedWidthTypes.Boolean, Nullable: true},
	{Name: "Tiny", Type: arrow.PrimitiveTypes.Int8, Nullable: true},
	{Name: "Small", Type: arrow.PrimitiveTypes.Int16, Nullable: true},
	{Name: "Whole", Type: arrow.PrimitiveTypes.Int32, Nullable: true},
	{Name: "Measure", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
	{Name: "Text", Type: arrow.BinaryTypes.String, Nullable: true, Metadata: comment("Größe in ☃")},
	{Name: "Raw", Type: arrow.BinaryTypes.Binary, Nullable: true},
	{Name: "Day", Type: arrow.FixedWidthTypes.Date32, Nullable: true},
	{Name: "At", Type: arrow.FixedWidthTypes.Timestamp_us, Nullable: true},
	{Name: "Dec9", Type: &arrow.Decimal128Type{Precision: 9, Scale: 2}, Nullable: true},
	{Name: "Dec18", Type: &arrow.Decimal128Type{Precision: 18, Scale: 6}, Nullable: true},
	{Name: "Dec38", Type: &arrow.Decimal128Type{Precision: 38, Scale: 10}, Nullable: true},
}, nil)

// appendKind appends the value of row i and returns it in the judge's form.
func appendKind(b array.Builder, f arrow.Field, i int) any {
	if f.Nullable && i%5 == 4 {
		b.AppendNull()
		return nil
	}
	number := func(n int64) any { return json.Number(fmt.Sprint(n)) }
	switch b := b.(type) {
	case *array.Int64Builder:
		b.Append(int64(i) - 3 + math.MaxInt64/1000*int64(i%2))
		return number(int64(i) - 3 + math.MaxInt64/1000*int64(i%2))
	case *array.BooleanBuilder:
		b.Append(i%3 == 0)
		return i%3 == 0
	case *array.Int8Builder:
		b.Append(int8(i%256 - 128))
		return number(int64(i%256 - 128))
	case *array.Int16Builder:
		b.Append(int16(i*300 - 32768))
		return number(int64(int16(i*300 - 32768)))
	case *array.Int32Builder:
		v := []int32{math.MinInt32, math.MaxInt32, int32(i)}[i%3]
		b.Append(v)
		return number(int64(v))
	case *array.Float64Builder:
		b.Append(float64(i) - 0.25)
		return json.Number(fmt.Sprint(float64(i) - 0.25))
	case *array.StringBuilder:
		v := []string{"", "Größe ☃ \U0001F600", "tab\tquote\"", strings.Repeat("я", 40) + fmt.Sprint(i)}[i%4]
		b.Append(v)
		return v
	case *array.BinaryBuilder:
		v := []byte{0, byte(i), 0xff}[:i%4%4]
		b.Append(v)
		return hex.EncodeToString(v)
	case *array.Date32Builder:
		v := []int32{-719162, 2932896, int32(i)}[i%3]
		b.Append(arrow.Date32(v))
		return time.Unix(int64(v)*86400, 0).UTC().Format(time.DateOnly)
	case *array.TimestampBuilder:
		v := []int64{-62135596800000000, 253402300799999999, int64(i)*1_000_001 - 5}[i%3]
		b.Append(arrow.Timestamp(v))
		return time.UnixMicro(v).UTC().Format("2006-01-02T15:04:05.000000Z")
	case *array.Decimal128Builder:
		dt := f.Type.(*arrow.Decimal128Type)
		n := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(dt.Precision)), nil)
		n.Sub(n, big.NewInt(int64(i+1)))
		if i%2 == 1 {
			n.Neg(n)
		}
		if i%3 == 2 {
			n.SetInt64(int64(5 - i))
		}
		b.Append(decimal128.FromBigInt(n))
		return new(big.Rat).SetFrac(n, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(dt.Scale)), nil)).FloatString(int(dt.Scale))
	}
	panic(fmt.Sprintf("%T", b))
}

// delta-rs and DuckDB read every version cell by cell as it was written: created, replaced, emptied, with a column more.
func TestForeignReaders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b, err := filestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	d := Open(b, "lake/kinds")
	wider := arrow.NewSchema(append(kinds.Fields(), arrow.Field{Name: "Extra", Type: arrow.BinaryTypes.String, Nullable: true}), nil)
	var want [][]judge.Row
	for run, c := range []struct {
		schema *arrow.Schema
		rows   int
	}{{kinds, 60}, {kinds, 31}, {kinds, 0}, {wider, 45}} {
		want = append(want, publishKinds(t, d, fmt.Sprint("run-", run), c.schema, c.rows))
	}
	root := filepath.Join(dir, "lake", "kinds")
	for version, rows := range want {
		at := judge.AtVersion(int64(version))
		for reader, got := range map[string][]judge.Row{"delta-rs": judge.Rows(t, root, at), "DuckDB": judge.DuckDBRows(t, root, at)} {
			if diff := cmp.Diff(sortedRows(rows), sortedRows(got)); diff != "" {
				t.Errorf("version %d, %s:\n%s", version, reader, diff)
			}
		}
		if r := judge.Check(t, root, at); r.Rows != len(rows) || r.Statistics.Missing > r.Files { // of each file only the binary column has none

			t.Errorf("version %d: %+v", version, r)
		}
	}
	if report, err := d.Verify(t.Context()); err != nil || len(report.Problems) > 0 {
		t.Fatalf("%v %+v", err, report)
	}
}

func publishKinds(t *testing.T, d *Dataset, run string, s *arrow.Schema, rows int) []judge.Row {
	t.Helper()
	sc := everything(t, s)
	sp := spec(t, run)
	sp.Schema, sp.Scope, sp.FileBytes = s, sc.Stamp(), 3000
	r, err := begin(t.Context(), d, sp)
	if err != nil {
		t.Fatal(err)
	}
	var out []judge.Row
	for from := 0; from < rows; from += 20 {
		rb := array.NewRecordBuilder(memory.DefaultAllocator, s)
		for i := from; i < min(from+20, rows); i++ {
			row := judge.Row{}
			for c, f := range s.Fields() {
				row[f.Name] = appendKind(rb.Field(c), f, i)
			}
			out = append(out, row)
		}
		writeRecord(t, r, sc, rb.NewRecord())
	}
	if _, err := r.Commit(context.WithoutCancel(t.Context()), proof(rows)); err != nil {
		t.Fatal(err)
	}
	return out
}

func writeRecord(t *testing.T, r *refreshing, sc *scope.Scope, rec arrow.Record) {
	t.Helper()
	checked, err := sc.Check(rec)
	if err != nil {
		t.Fatal(err)
	}
	defer checked.Release()
	if err := r.Write(t.Context(), checked); err != nil {
		t.Fatal(err)
	}
}

func sortedRows(rows []judge.Row) []judge.Row {
	rows = slices.Clone(rows)
	slices.SortFunc(rows, func(a, b judge.Row) int { return strings.Compare(fmt.Sprint(a["Id"]), fmt.Sprint(b["Id"])) })
	return rows
}
