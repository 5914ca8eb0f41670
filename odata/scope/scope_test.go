package scope

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/filter"
)

const (
	oslo   = "5a0e7a5c-1111-4c5e-9f55-0000000000a1"
	bergen = "5a0e7a5c-2222-4c5e-9f55-0000000000a2"
	paris  = "5a0e7a5c-3333-4c5e-9f55-0000000000a3"
)

// lines is a table whose own columns cover every kind that can be re-tested, and one that cannot.
func lines(t testing.TB) (*edm.Model, *edm.Table) {
	t.Helper()
	m, err := edm.New(edm.Table{Name: "Lines", Columns: []edm.Column{
		{Name: "Id", Type: edm.Type{Kind: edm.Guid}, Key: true},
		{Name: "Store_Id", Type: edm.Type{Kind: edm.Guid}, Nullable: true},
		{Name: "Small", Type: edm.Type{Kind: edm.Int16}, Nullable: true},
		{Name: "Line_No", Type: edm.Type{Kind: edm.Int32}, Nullable: true},
		{Name: "Big", Type: edm.Type{Kind: edm.Int64}, Nullable: true},
		{Name: "Open", Type: edm.Type{Kind: edm.Boolean}, Nullable: true},
		{Name: "Day", Type: edm.Type{Kind: edm.Date}, Nullable: true},
		{Name: "Notes", Type: edm.Type{Kind: edm.String}, Nullable: true},
		{Name: "Order_Id", Type: edm.Type{Kind: edm.Guid}, OwnerRef: true, References: "Lines", Navigation: "Order_Reference"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	table, _ := m.Table("Lines")
	return m, table
}

func where(t testing.TB, text string) filter.Bound {
	t.Helper()
	m, table := lines(t)
	b, err := filter.Compile(text, m, table)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func fetchSchema(t testing.TB, names ...string) *arrow.Schema {
	t.Helper()
	_, table := lines(t)
	fields := make([]arrow.Field, 0, len(names))
	for _, n := range names {
		c, _ := table.Column(n)
		fields = append(fields, arrow.Field{Name: n, Type: c.Type.Arrow(), Nullable: c.Nullable})
	}
	return arrow.NewSchema(fields, nil)
}

func record(t testing.TB, mem memory.Allocator, schema *arrow.Schema, rows string) arrow.Record {
	t.Helper()
	rec, _, err := array.RecordFromJSON(mem, schema, strings.NewReader(rows), array.WithUseNumber())
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func checkedMemory(t *testing.T) memory.Allocator {
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	t.Cleanup(func() { mem.AssertSize(t, 0) })
	return mem
}

func TestNewRefuses(t *testing.T) {
	fetch := fetchSchema(t, "Id", "Store_Id", "Line_No", "Notes")
	publish := []string{"Id", "Line_No"}
	inOslo := where(t, "Store_Id eq "+oslo)
	otherTable := func() filter.Bound {
		table, _ := edm.Embedded().Table("Gen_Documents")
		b, err := filter.Compile("Void eq false", edm.Embedded(), table)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}()
	for _, tt := range []struct {
		name    string
		rules   Rules
		publish []string
		want    string
	}{
		{"nothing typed", Rules{Name: "s"}, publish, "admits nothing"},
		{"delegated alone", Rules{Name: "s", Delegated: true}, publish, "admits nothing"},
		{"both", Rules{Name: "s", Where: inOslo, Unrestricted: true}, publish, "has rules and is unrestricted"},
		{"text", Rules{Name: "s", Where: where(t, "Notes eq 'x'")}, publish, "Edm.String"},
		{"text, delegated", Rules{Name: "s", Where: where(t, "Notes eq 'x'"), Delegated: true}, publish, "Edm.String"},
		{"like", Rules{Name: "s", Where: where(t, "Notes like 'x%'"), Delegated: true}, publish, "like"},
		{"path", Rules{Name: "s", Where: where(t, "Order_Reference/Store_Id eq "+oslo)}, publish, "delegated: true"},
		{"path beside own", Rules{Name: "s", Where: filter.And(inOslo, where(t, "Order_Reference/Open eq true"))}, publish, "delegated: true"},
		{"null", Rules{Name: "s", Where: where(t, "Store_Id eq null")}, publish, "NULL is inside no scope"},
		{"null on a path", Rules{Name: "s", Where: where(t, "Order_Reference/Store_Id eq null"), Delegated: true}, publish, "NULL is inside no scope"},
		{"not fetched", Rules{Name: "s", Where: where(t, "Open eq true")}, publish, "Open is not among the columns that are fetched"},
		{"two tables", Rules{Name: "s", Where: filter.And(inOslo, otherTable)}, publish, "over table Gen_Documents"},
		{"nothing published", Rules{Name: "s", Where: inOslo}, nil, "no column is to be published"},
		{"published, not fetched", Rules{Name: "s", Where: inOslo}, []string{"Id", "Day"}, "Day is to be published"},
		{"published twice", Rules{Name: "s", Where: inOslo}, []string{"Id", "Id"}, "twice"},
		{"unrestricted, nothing published", Rules{Name: "s", Unrestricted: true}, nil, "no column is to be published"},
	} {
		s, err := New(tt.rules, fetch, tt.publish)
		if s != nil || err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), `"s"`) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), oslo) {
			t.Errorf("%s: the error shows a value: %v", tt.name, err)
		}
	}
}

func TestValidateReportsEveryRule(t *testing.T) {
	r := Rules{Name: "s", Where: where(t, "Store_Id eq null and Notes eq 'x' and Order_Reference/Open eq true and Line_No ge 1")}
	err := r.Validate()
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("want three problems: %v", err)
	}
	var one *RulesError
	if !errors.As(err, &one) || one.Scope != "s" || one.Term != "Store_Id eq null" {
		t.Errorf("%+v", one)
	}
	for _, ok := range []Rules{
		{Unrestricted: true}, {Where: where(t, "Line_No ge 1")}, {Where: where(t, "Order_Reference/Notes like 'x%'"), Delegated: true},
	} {
		if err := ok.Validate(); err != nil {
			t.Error(err)
		}
	}
}

func TestCheck(t *testing.T) {
	mem := checkedMemory(t)
	fetch := fetchSchema(t, "Store_Id", "Id", "Line_No")
	rules := Rules{Name: "north", Where: where(t, "Store_Id in ("+oslo+","+bergen+") and Line_No le 5")}
	if got := rules.Columns(); !slices.Equal(got, []string{"Store_Id", "Line_No"}) {
		t.Errorf("columns to fetch: %q", got)
	}
	s, err := New(rules, fetch, []string{"Line_No", "Id"})
	if err != nil {
		t.Fatal(err)
	}
	inside := record(t, mem, fetch, `[{"Store_Id":"`+oslo+`","Id":"`+oslo+`","Line_No":1},{"Store_Id":"`+bergen+`","Id":"`+paris+`","Line_No":5}]`)
	checked, err := s.Check(inside)
	if err != nil || !checked.OK() || checked.Scope() != s {
		t.Fatalf("%v", err)
	}
	want := inside.Column(2)
	inside.Release()
	rec := checked.Record()
	if rec.NumRows() != 2 || rec.NumCols() != 2 || rec.ColumnName(0) != "Line_No" || rec.ColumnName(1) != "Id" || rec.Schema() != s.Schema() {
		t.Errorf("published %v", rec.Schema())
	}
	if rec.Column(0) != want {
		t.Error("the column was copied")
	}
	if got := rec.Column(1).(*array.String).Value(1); got != paris {
		t.Errorf("after the caller's release: %q", got)
	}
	checked.Release()

	for name, tt := range map[string]struct {
		rows, rule, column string
		row                int64
	}{
		"foreign":      {`[{"Id":"` + oslo + `","Store_Id":"` + oslo + `","Line_No":1},{"Id":"` + oslo + `","Store_Id":"` + paris + `","Line_No":1}]`, "Store_Id in (2 values)", "Store_Id", 1},
		"null":         {`[{"Id":"` + oslo + `","Store_Id":null,"Line_No":1}]`, "Store_Id in (2 values)", "Store_Id", 0},
		"another rule": {`[{"Id":"` + oslo + `","Store_Id":"` + oslo + `","Line_No":6}]`, "Line_No le (1 value)", "Line_No", 0},
		"the last":     {`[{"Id":"` + oslo + `","Store_Id":"` + oslo + `","Line_No":1},{"Id":"` + oslo + `","Store_Id":"` + oslo + `","Line_No":2},{"Id":"` + oslo + `","Store_Id":"` + oslo + `","Line_No":null}]`, "Line_No le (1 value)", "Line_No", 2},
	} {
		rec := record(t, mem, fetch, tt.rows)
		checked, err := s.Check(rec)
		var v *Violation
		if !errors.As(err, &v) || checked.OK() || checked.Record() != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if *v != (Violation{Scope: "north", Column: tt.column, Rule: tt.rule, Row: tt.row}) {
			t.Errorf("%s: %+v", name, v)
		}
		for _, value := range []string{oslo, bergen, paris} {
			if strings.Contains(err.Error(), value) {
				t.Errorf("%s: the error shows a value: %v", name, err)
			}
		}
		checked.Release() // of nothing: harmless
		rec.Release()
	}
}

func TestCheckRefusesOtherSchemas(t *testing.T) {
	mem := checkedMemory(t)
	s, err := New(Rules{Name: "s", Where: where(t, "Line_No ge 1")}, fetchSchema(t, "Id", "Line_No"), []string{"Id"})
	if err != nil {
		t.Fatal(err)
	}
	for _, names := range [][]string{{"Id"}, {"Line_No", "Id"}, {"Id", "Big"}, {"Id", "Line_No", "Big"}, {"Store_Id", "Line_No"}} {
		rec := record(t, mem, fetchSchema(t, names...), `[]`)
		if c, err := s.Check(rec); !errors.Is(err, ErrSchema) || c.OK() {
			t.Errorf("%q: %v", names, err)
		}
		rec.Release()
	}
	if c, err := s.Check(nil); !errors.Is(err, ErrSchema) || c.OK() {
		t.Errorf("nil: %v", err)
	}
	// What does not change what a row is: another schema value, its metadata, a field's nullability.
	fields := fetchSchema(t, "Id", "Line_No").Fields()
	fields[1].Nullable = false
	metadata := arrow.NewMetadata([]string{"k"}, []string{"v"})
	rec := record(t, mem, arrow.NewSchema(fields, &metadata), `[{"Id":"`+oslo+`","Line_No":1}]`)
	c, err := s.Check(rec)
	if err != nil || c.Record().Schema() != s.Schema() {
		t.Errorf("%v", err)
	}
	c.Release()
	rec.Release()
}

func TestUnrestricted(t *testing.T) {
	mem := checkedMemory(t)
	fetch := fetchSchema(t, "Id", "Store_Id")
	s, err := New(Rules{Name: "all", Unrestricted: true}, fetch, []string{"Store_Id"})
	if err != nil {
		t.Fatal(err)
	}
	rec := record(t, mem, fetch, `[{"Id":"`+oslo+`","Store_Id":null}]`)
	c, err := s.Check(rec)
	if err != nil || c.Record().NumRows() != 1 || c.Record().NumCols() != 1 {
		t.Errorf("%v", err)
	}
	if got := s.Stamp(); got.Enforcement != Unrestricted || got.Where != "" {
		t.Errorf("%+v", got)
	}
	c.Release()
	rec.Release()
}

func TestStamp(t *testing.T) {
	fetch := fetchSchema(t, "Id", "Store_Id")
	path := "Order_Reference/Open eq true"
	for _, tt := range []struct {
		rules Rules
		want  string
	}{
		{Rules{Name: "v", Where: where(t, "Store_Id eq "+oslo), Delegated: true}, `{"name":"v","where":"Store_Id eq ` + oslo + `","enforcement":"verified"}`},
		{Rules{Name: "d", Where: where(t, "Store_Id eq "+oslo+" and "+path), Delegated: true},
			`{"name":"d","where":"Store_Id eq ` + oslo + ` and ` + path + `","enforcement":"delegated","delegated":["` + path + `"]}`},
		{Rules{Name: "p", Where: where(t, path), Delegated: true}, `{"name":"p","where":"` + path + `","enforcement":"delegated","delegated":["` + path + `"]}`},
		{Rules{Name: "u", Unrestricted: true}, `{"name":"u","enforcement":"unrestricted"}`},
	} {
		s, err := New(tt.rules, fetch, []string{"Id"})
		if err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(s.Stamp())
		if err != nil || string(got) != tt.want {
			t.Errorf("%s, %v; want %s", got, err, tt.want)
		}
	}
}

// A scope whose every rule is delegated admits all rows here, but says so on the dataset; the own rules
// beside a delegated one are re-tested all the same.
func TestDelegatedScopesStillRetestWhatTheyCan(t *testing.T) {
	mem := checkedMemory(t)
	fetch := fetchSchema(t, "Id", "Store_Id")
	s, err := New(Rules{Name: "d", Where: where(t, "Order_Reference/Open eq true and Store_Id eq "+oslo), Delegated: true}, fetch, []string{"Id"})
	if err != nil {
		t.Fatal(err)
	}
	rec := record(t, mem, fetch, `[{"Id":"`+oslo+`","Store_Id":"`+paris+`"}]`)
	defer rec.Release()
	if c, err := s.Check(rec); err == nil || c.OK() {
		t.Error("a foreign row passes a partly delegated scope")
	}
}

func TestZeroChecked(t *testing.T) {
	var c Checked
	if c.OK() || c.Record() != nil || c.Scope() != nil {
		t.Error("the zero Checked is OK")
	}
	c.Release()
}
