package filter

import (
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/tablexport/tablexport/odata/edm"
)

func schemaOf(table *edm.Table, names ...string) *arrow.Schema {
	var fields []arrow.Field
	for _, n := range names {
		c, _ := table.Column(n)
		fields = append(fields, arrow.Field{Name: n, Type: c.Type.Arrow(), Nullable: c.Nullable})
	}
	return arrow.NewSchema(fields, nil)
}

func recordOf(t testing.TB, schema *arrow.Schema, json string) arrow.Record {
	t.Helper()
	rec, _, err := array.RecordFromJSON(memory.DefaultAllocator, schema, strings.NewReader(json), array.WithUseNumber())
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func TestFirstForeign(t *testing.T) {
	m, table := everyKind(t)
	names := []string{"Id", "Flag", "Tiny", "Small", "Int", "Big", "Day"}
	schema := schemaOf(table, names...)
	rec := recordOf(t, schema, `[
		{"Id":"`+g1+`","Flag":true,"Tiny":1,"Small":-3,"Int":10,"Big":9007199254740993,"Day":"2023-01-01"},
		{"Id":"`+g2+`","Flag":true,"Tiny":2,"Small":0,"Int":20,"Big":9007199254740992,"Day":"2023-01-31"},
		{"Id":"00000000-0000-0000-0000-000000000000","Flag":false,"Tiny":255,"Small":7,"Int":-5,"Big":1,"Day":"0001-01-01"},
		{"Id":null,"Flag":null,"Tiny":null,"Small":null,"Int":null,"Big":null,"Day":null}]`)
	defer rec.Release()
	for _, tt := range []struct {
		text string
		row  int
		by   string
	}{
		{"", -1, ""},
		{"Id eq " + g1, 1, "Id eq (1 value)"},
		{"Id in (" + g1 + "," + g2 + ")", 2, "Id in (2 values)"},
		{"Id in (" + g1 + "," + g2 + ",00000000-0000-0000-0000-000000000000)", 3, "Id in (3 values)"},
		{"Id ge 00000000-0000-0000-0000-000000000000", 3, "Id ge (1 value)"},
		{"Id ge " + g2, 0, "Id ge (1 value)"}, // a1 sorts before a2
		{"Id le " + g1, 1, "Id le (1 value)"},
		{"Id eq null", 0, "Id eq null"},
		{"Flag eq true", 2, "Flag eq (1 value)"},
		{"Flag in (true,false)", 3, "Flag in (2 values)"},
		{"Tiny ge 1", 3, "Tiny ge (1 value)"},
		{"Tiny le 2", 2, "Tiny le (1 value)"},
		{"Small in (-3,0)", 2, "Small in (2 values)"},
		{"Int ge 11", 0, "Int ge (1 value)"},
		{"Int in (10,20,-5)", 3, "Int in (3 values)"},
		{"Big eq 9007199254740993", 1, "Big eq (1 value)"}, // a float would not tell the two apart
		{"Day ge 2023-01-01 and Day le 2023-01-31T23:59:59Z", 2, "Day ge (1 value)"},
		{"Day in (2023-01-01,2023-01-31,0001-01-01)", 3, "Day in (3 values)"},
		{"Int le 15 and Id eq " + g1, 1, "Int le (1 value)"}, // on one row, the first term
		{"Small le 0 and Tiny le 1", 1, "Tiny le (1 value)"}, // the first row, whatever the term
	} {
		b, err := Compile(tt.text, m, table)
		if err != nil {
			t.Fatal(err)
		}
		matcher, err := b.Matcher(schema)
		if err != nil {
			t.Fatal(err)
		}
		row, term := matcher.FirstForeign(rec)
		by := ""
		if row >= 0 {
			by = term.Outline()
		}
		if row != tt.row || by != tt.by {
			t.Errorf("%s: row %d by %q, want %d by %q", tt.text, row, by, tt.row, tt.by)
		}
		// A slice has its own row numbers, and an empty one no foreign rows.
		if tt.row > 0 {
			part := rec.NewSlice(int64(tt.row), 4)
			if row, _ := matcher.FirstForeign(part); row != 0 {
				t.Errorf("%s: row %d of the slice", tt.text, row)
			}
			part.Release()
		}
		none := rec.NewSlice(2, 2)
		if row, _ := matcher.FirstForeign(none); row != -1 {
			t.Errorf("%s: row %d of no rows", tt.text, row)
		}
		none.Release()
	}
}

func TestMatcherTakesNoGUIDForAnother(t *testing.T) {
	m, table := everyKind(t)
	schema := schemaOf(table, "Id")
	for _, bad := range []string{strings.ToUpper(g1), "{" + g1 + "}", g1 + " ", "", "x"} {
		rec := recordOf(t, schema, `[{"Id":"`+bad+`"}]`)
		for _, text := range []string{"Id eq " + g1, "Id in (" + g1 + "," + g2 + ")"} {
			b, _ := Compile(text, m, table)
			matcher, err := b.Matcher(schema)
			if err != nil {
				t.Fatal(err)
			}
			if row, _ := matcher.FirstForeign(rec); row != 0 {
				t.Errorf("%s admits %q", text, bad)
			}
		}
		rec.Release()
	}
	rec := recordOf(t, schema, `[{"Id":"zzzzzzzz-1111-4c5e-9f55-0000000000a1"}]`)
	defer rec.Release()
	for _, text := range []string{"Id ge 00000000-0000-0000-0000-000000000000", "Id le ffffffff-ffff-ffff-ffff-ffffffffffff"} {
		b, _ := Compile(text, m, table)
		matcher, _ := b.Matcher(schema)
		if row, _ := matcher.FirstForeign(rec); row != 0 {
			t.Errorf("%s admits text that is no GUID", text)
		}
	}
}

func TestWhatCannotBeRetested(t *testing.T) {
	m, table := everyKind(t)
	schema := schemaOf(table, "Id", "Text", "Multi", "Dec", "Float", "Time", "Clock")
	for text, want := range map[string]string{
		"Order_Reference/Int eq 1":         "only the server can judge",
		"Text like 'x%'":                   "`like`",
		"Text eq 'x'":                      "Edm.String",
		"Multi eq 'x'":                     "multi-language",
		"Dec eq 1":                         "Edm.Decimal(12,3)",
		"Float eq 1":                       "Edm.Double",
		"Time ge 2023-01-31T00:00:00Z":     "Edm.DateTimeOffset",
		"Clock ge 08:00:00":                "Edm.TimeOfDay",
		"Int eq 1":                         "not among the columns that are fetched",
		"Id eq " + g1 + " and Text eq 'x'": "Edm.String",
	} {
		b, err := Compile(text, m, table)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Matcher(schema); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	b, _ := Compile("Int eq 1", m, table)
	wrong := arrow.NewSchema([]arrow.Field{{Name: "Int", Type: arrow.PrimitiveTypes.Int64}}, nil)
	if _, err := b.Matcher(wrong); err == nil || !strings.Contains(err.Error(), "int64") {
		t.Error(err)
	}
	twice := arrow.NewSchema([]arrow.Field{{Name: "Int", Type: arrow.PrimitiveTypes.Int32}, {Name: "Int", Type: arrow.PrimitiveTypes.Int32}}, nil)
	if _, err := b.Matcher(twice); err == nil || !strings.Contains(err.Error(), "2 times") {
		t.Error(err)
	}
}

func bigRecord(t testing.TB) (Bound, *arrow.Schema, arrow.Record) {
	m, table := everyKind(t)
	schema := schemaOf(table, "Id", "Int", "Flag", "Day")
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	for range 2048 {
		b.Field(0).(*array.StringBuilder).Append(g1)
		b.Field(1).(*array.Int32Builder).Append(5)
		b.Field(2).(*array.BooleanBuilder).Append(true)
		b.Field(3).(*array.Date32Builder).Append(19000)
	}
	bound, err := Compile("Id in ("+g1+","+g2+") and Id ge 00000000-0000-0000-0000-000000000000 and Int in (5,6,7) and Flag eq true and Day le 2023-01-01", m, table)
	if err != nil {
		t.Fatal(err)
	}
	return bound, schema, b.NewRecord()
}

func TestMatchingAllocatesNothing(t *testing.T) {
	bound, schema, rec := bigRecord(t)
	defer rec.Release()
	matcher, err := bound.Matcher(schema)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(20, func() {
		if row, term := matcher.FirstForeign(rec); row >= 0 {
			t.Fatal(term)
		}
	}); n > 0 {
		t.Errorf("%v allocations for 2048 rows", n)
	}
}

func BenchmarkFirstForeign(b *testing.B) {
	bound, schema, rec := bigRecord(b)
	defer rec.Release()
	matcher, err := bound.Matcher(schema)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		matcher.FirstForeign(rec)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/2048, "ns/row")
}
