package scope

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"pgregory.net/rapid"

	"github.com/tablexport/tablexport/odata/filter"
)

// rule is a rule as the naive evaluator knows it: plain Go values, nothing of package filter.
type rule struct {
	column, op string
	values     []any // string, int64, bool; dates as days since 1970
}

// guids are few, so that rules and rows meet; they differ in the groups that SQL Server compares first.
var guids = []string{
	"00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002", "ffffffff-0000-0000-0000-000000000001",
	"00000000-0000-0000-0100-000000000001", "00000000-0000-0000-0001-000000000001", "00000000-0001-0000-0000-000000000001",
}

// guidRank is the order of guids under SQL Server, worked out by hand.
var guidRank = map[string]int{guids[0]: 0, guids[2]: 1, guids[5]: 2, guids[4]: 3, guids[3]: 4, guids[1]: 5}

var columns = []string{"Id", "Store_Id", "Small", "Line_No", "Big", "Open", "Day"}

func drawValue(t *rapid.T, column string) any {
	switch column {
	case "Id", "Store_Id":
		return rapid.SampledFrom(guids).Draw(t, "guid")
	case "Open":
		return rapid.Bool().Draw(t, "bool")
	case "Big":
		return rapid.SampledFrom([]int64{-1 << 63, -1, 0, 1, 1 << 53, 1<<53 + 1, 1<<63 - 1}).Draw(t, "big")
	}
	return rapid.Int64Range(-3, 3).Draw(t, "n")
}

func (r rule) text() string {
	var values []string
	for _, v := range r.values {
		if r.column == "Day" {
			v = time.Unix(v.(int64)*86400, 0).UTC().Format("2006-01-02")
		}
		values = append(values, fmt.Sprint(v))
	}
	if r.op == "in" {
		return r.column + " in (" + strings.Join(values, ",") + ")"
	}
	return r.column + " " + r.op + " " + values[0]
}

// admits is the naive evaluator.
func (r rule) admits(v any) bool {
	if v == nil {
		return false
	}
	rank := func(v any) int64 {
		switch v := v.(type) {
		case string:
			return int64(guidRank[v])
		case int64:
			return v
		}
		return 0
	}
	switch r.op {
	case "ge":
		return rank(v) >= rank(r.values[0])
	case "le":
		return rank(v) <= rank(r.values[0])
	}
	return slices.Contains(r.values, v)
}

func drawRules(t *rapid.T) []rule {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) rule {
		r := rule{column: rapid.SampledFrom(columns).Draw(t, "column"), op: "eq"}
		if r.column == "Open" {
			r.op = rapid.SampledFrom([]string{"eq", "in"}).Draw(t, "op")
		} else {
			r.op = rapid.SampledFrom([]string{"eq", "in", "ge", "le"}).Draw(t, "op")
		}
		n := 1
		if r.op == "in" {
			n = rapid.IntRange(1, 5).Draw(t, "n")
		}
		for range n {
			r.values = append(r.values, drawValue(t, r.column))
		}
		return r
	}), 1, 3).Draw(t, "rules")
}

// drawRows draws rows that satisfy the rules more often than chance would have it.
func drawRows(t *rapid.T, fetch []string, rules []rule) []map[string]any {
	rows := make([]map[string]any, rapid.IntRange(0, 12).Draw(t, "rows"))
	lucky := rapid.IntRange(0, 9).Draw(t, "lucky")
	for i := range rows {
		rows[i] = map[string]any{}
		for _, c := range fetch {
			if c != "Id" && rapid.IntRange(0, 19+2*lucky).Draw(t, "null") == 0 {
				continue
			}
			rows[i][c] = drawValue(t, c)
		}
		for _, r := range rules {
			if rapid.IntRange(0, 9).Draw(t, "comply") < lucky || lucky == 9 {
				rows[i][r.column] = r.values[0]
			}
		}
	}
	return rows
}

func build(mem memory.Allocator, schema *arrow.Schema, rows []map[string]any) arrow.Record {
	b := array.NewRecordBuilder(mem, schema)
	defer b.Release()
	for _, row := range rows {
		for i, f := range schema.Fields() {
			v, ok := row[f.Name]
			if !ok {
				b.Field(i).AppendNull()
				continue
			}
			switch to := b.Field(i).(type) {
			case *array.StringBuilder:
				to.Append(v.(string))
			case *array.BooleanBuilder:
				to.Append(v.(bool))
			case *array.Int16Builder:
				to.Append(int16(v.(int64)))
			case *array.Int32Builder:
				to.Append(int32(v.(int64)))
			case *array.Int64Builder:
				to.Append(v.(int64))
			case *array.Date32Builder:
				to.Append(arrow.Date32(v.(int64)))
			}
		}
	}
	return b.NewRecord()
}

// read gives a cell back as the naive evaluator knows it.
func read(a arrow.Array, i int) any {
	if a.IsNull(i) {
		return nil
	}
	switch a := a.(type) {
	case *array.String:
		return a.Value(i)
	case *array.Boolean:
		return a.Value(i)
	case *array.Int16:
		return int64(a.Value(i))
	case *array.Int32:
		return int64(a.Value(i))
	case *array.Int64:
		return a.Value(i)
	case *array.Date32:
		return int64(a.Value(i))
	}
	return "unknown"
}

// Check passes if and only if an independent evaluator says that every row is inside; what it returns
// holds exactly the published columns of exactly those rows; and a violation names the first foreign row.
func TestCheckAgreesWithANaiveEvaluator(t *testing.T) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		if err := flag.Set("rapid.checks", "2000"); err != nil {
			t.Fatal(err)
		}
	}
	m, table := lines(t)
	passed, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
		rules := drawRules(t)
		var texts []string
		fetch := rapid.Permutation(columns).Draw(t, "fetch")
		for _, r := range rules {
			texts = append(texts, r.text())
		}
		bound, err := filter.Compile(strings.Join(texts, " and "), m, table)
		if err != nil {
			t.Fatal(err)
		}
		var fields []arrow.Field
		for _, name := range fetch {
			c, _ := table.Column(name)
			fields = append(fields, arrow.Field{Name: name, Type: c.Type.Arrow(), Nullable: true})
		}
		publish := fetch[:rapid.IntRange(1, len(fetch)).Draw(t, "publish")]
		schema := arrow.NewSchema(fields, nil)
		s, err := New(Rules{Name: "p", Where: bound}, schema, publish)
		if err != nil {
			t.Fatal(err)
		}
		rows := drawRows(t, fetch, rules)
		rec := build(mem, schema, rows)
		first := slices.IndexFunc(rows, func(row map[string]any) bool {
			return slices.ContainsFunc(rules, func(r rule) bool { return !r.admits(row[r.column]) })
		})
		checked, err := s.Check(rec)
		rec.Release()
		if first >= 0 {
			refused++
			var v *Violation
			if !errors.As(err, &v) || v.Row != int64(first) || checked.OK() {
				t.Fatalf("%s: row %d is foreign, Check says %v", bound, first, err)
			}
		} else {
			passed++
			if err != nil || !checked.OK() || int(checked.Record().NumRows()) != len(rows) || int(checked.Record().NumCols()) != len(publish) {
				t.Fatalf("%s: every row is inside, Check says %v", bound, err)
			}
			for c, name := range publish {
				if checked.Record().ColumnName(c) != name {
					t.Fatalf("column %d is %s, not %s", c, checked.Record().ColumnName(c), name)
				}
				for i, row := range rows {
					if got := read(checked.Record().Column(c), i); got != row[name] {
						t.Fatalf("row %d, %s: %v, not %v", i, name, got, row[name])
					}
				}
			}
		}
		checked.Release()
		if mem.CurrentAlloc() != 0 {
			t.Fatalf("%d bytes leaked", mem.CurrentAlloc())
		}
	})
	t.Logf("%d passed, %d refused", passed, refused)
	if passed == 0 || refused == 0 {
		t.Error("the property was not tested both ways")
	}
}

func TestScopesAreSafeForConcurrentUse(t *testing.T) {
	fetch := fetchSchema(t, "Id", "Store_Id")
	s, err := New(Rules{Name: "s", Where: where(t, "Store_Id in ("+oslo+","+bergen+")")}, fetch, []string{"Id"})
	if err != nil {
		t.Fatal(err)
	}
	inside := record(t, memory.DefaultAllocator, fetch, `[{"Id":"`+oslo+`","Store_Id":"`+oslo+`"}]`)
	foreign := record(t, memory.DefaultAllocator, fetch, `[{"Id":"`+oslo+`","Store_Id":"`+paris+`"}]`)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				if c, err := s.Check(inside); err != nil {
					t.Error(err)
				} else {
					c.Release()
				}
				if _, err := s.Check(foreign); err == nil {
					t.Error("a foreign row passed")
				}
			}
		})
	}
	all.Wait()
	inside.Release()
	foreign.Release()
}
