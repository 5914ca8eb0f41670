package export

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/google/go-cmp/cmp"

	"github.com/tablexport/tablexport/export/exporttest/judge"
	"github.com/tablexport/tablexport/export/store/filestore"
)

// Spark, Delta's own library and parquet-mr read cell by cell what was written: every type, versions before and after a checkpoint, a column that files
// lack, windows as partitions, and row groups with every encoding of a page.
func TestSparkReads(t *testing.T) {
	if raced {
		t.Skip("it is Spark that is slow, and no race of ours would show")
	}
	t.Parallel()
	dir := t.TempDir()
	b, err := filestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string, version int) judge.Table {
		return judge.Table{Dir: filepath.Join(dir, name), Version: int64(version)}
	}
	var tables []judge.Table
	var want [][]judge.Row
	wider := arrow.NewSchema(append(kinds.Fields(), arrow.Field{Name: "Extra", Type: arrow.BinaryTypes.String, Nullable: true}), nil)
	d := Open(b, "kinds")
	for version := range 13 { // a checkpoint is written at 10
		schema, rows := kinds, 7+version
		if version == 1 {
			rows = 0
		}
		if version > 5 {
			schema = wider
		}
		published := publishKinds(t, d, fmt.Sprint("run-", version), schema, rows)
		if version < 2 || version == 5 || version > 10 {
			tables, want = append(tables, at("kinds", version)), append(want, published)
		}
	}
	tables, want = append(tables, at("encodings", -1)), append(want, publishEncodings(t, Open(b, "encodings")))
	months := Open(b, "months")
	mustMonths(t, months, "r0", 0, map[string]int{"2024-01": 25, "2024-02": 0, "": 3})
	mustMonths(t, months, "r1", 1, map[string]int{"2024-01": 11})
	tables = append(tables, at("months", -1))
	for reader, found := range judge.Spark(t, tables...) {
		for i, rows := range want {
			sameByID(t, fmt.Sprintf("%s, %s, version %d", reader, filepath.Base(tables[i].Dir), tables[i].Version), rows, found[i])
		}
		if diff := cmp.Diff(sortedRows(judge.Rows(t, filepath.Join(dir, "months"))), sortedRows(found[len(want)])); diff != "" {
			t.Errorf("%s, windows:\n%s", reader, diff)
		}
	}
}

// sameByID compares many rows without a listing of all of them.
func sameByID(t *testing.T, what string, want, got []judge.Row) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d rows, want %d", what, len(got), len(want))
		return
	}
	byID := map[string]judge.Row{}
	for _, row := range got {
		byID[fmt.Sprint(row["Id"])] = row
	}
	bad := 0
	for _, row := range want {
		if diff := cmp.Diff(row, byID[fmt.Sprint(row["Id"])]); diff != "" && bad < 3 {
			bad++
			t.Errorf("%s, row %v:\n%s", what, row["Id"], diff)
		}
	}
}

// publishEncodings publishes two row groups whose columns are coded in every way that there is: by a dictionary, by one that is given up halfway, as
// differences, plain; compressed with a search for repeats, by their alphabet, and not at all.
func publishEncodings(t *testing.T, d *Dataset) []judge.Row {
	t.Helper()
	fields := []arrow.Field{{Name: "Id", Type: arrow.PrimitiveTypes.Int64}}
	for _, f := range []arrow.Field{
		{Name: "few", Type: arrow.BinaryTypes.String}, {Name: "many", Type: arrow.BinaryTypes.String}, {Name: "key", Type: arrow.BinaryTypes.String},
		{Name: "noise", Type: arrow.PrimitiveTypes.Int64}, {Name: "ramp", Type: arrow.FixedWidthTypes.Timestamp_us}, {Name: "amount", Type: &arrow.Decimal128Type{Precision: 12, Scale: 2}},
	} {
		f.Nullable = true
		fields = append(fields, f)
	}
	schema := arrow.NewSchema(fields, nil)
	sc, sp := everything(t, schema), spec(t, "run-0")
	sp.Schema, sp.Scope, sp.FileBytes = schema, sc.Stamp(), 1<<30
	r, err := begin(t.Context(), d, sp)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 9))
	const rows = 135_000
	var out []judge.Row
	rb := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	for i := range rows {
		row := judge.Row{"Id": json.Number(fmt.Sprint(i))}
		rb.Field(0).(*array.Int64Builder).Append(int64(i))
		text := func(column int, v string) {
			rb.Field(column).(*array.StringBuilder).Append(v)
			row[fields[column].Name] = v
		}
		text(1, []string{"New", "Erledigt ✓", "", "Отменена"}[i/100%4])
		text(2, fmt.Sprintf("%s %06d", strings.Repeat("many words ", 4), rng.IntN(90_000)))
		text(3, fmt.Sprintf("%08x-%04x-%012x", rng.Uint32(), rng.Uint32()&0xffff, rng.Uint64()>>16))
		noise := int64(rng.Uint64())
		rb.Field(4).(*array.Int64Builder).Append(noise)
		row["noise"] = json.Number(fmt.Sprint(noise))
		when := 1_700_000_000_000_000 + int64(i)*1_000_003
		rb.Field(5).(*array.TimestampBuilder).Append(arrow.Timestamp(when))
		row["ramp"] = time.UnixMicro(when).UTC().Format("2006-01-02T15:04:05.000000Z")
		if i%9 == 0 {
			rb.Field(6).AppendNull()
			row["amount"] = nil
		} else {
			cents := rng.IntN(1000)
			if err := rb.Field(6).(*array.Decimal128Builder).AppendValueFromString(fmt.Sprintf("%d.%02d", cents/100, cents%100)); err != nil {
				t.Fatal(err)
			}
			row["amount"] = fmt.Sprintf("%d.%02d", cents/100, cents%100)
		}
		out = append(out, row)
		if i%2000 == 1999 || i == rows-1 {
			writeRecord(t, r, sc, rb.NewRecord())
		}
	}
	if _, err := r.Commit(context.WithoutCancel(t.Context()), proof(rows)); err != nil {
		t.Fatal(err)
	}
	return out
}
