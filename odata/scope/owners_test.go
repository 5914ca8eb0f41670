package scope

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"pgregory.net/rapid"

	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/filter"
)

// chain is lines → orders → documents, keys of three types: a number, a text and a GUID.
func chain(t testing.TB) *edm.Model {
	t.Helper()
	id := func(name string, k edm.Kind) edm.Column {
		return edm.Column{Name: name, Type: edm.Type{Kind: k}, Key: true}
	}
	m, err := edm.New(
		edm.Table{Name: "Documents", Columns: []edm.Column{id("Id", edm.Guid), {Name: "Company", Type: edm.Type{Kind: edm.Int32}, Nullable: true}, {Name: "Made", Type: edm.Type{Kind: edm.DateTime}}}},
		edm.Table{Name: "Orders", Columns: []edm.Column{id("Id", edm.String), {Name: "Void", Type: edm.Type{Kind: edm.Boolean}},
			{Name: "Document_Id", Type: edm.Type{Kind: edm.Guid}, Nullable: true, OwnerRef: true, References: "Documents", Navigation: "Document_Reference"}}},
		edm.Table{Name: "Stores", Columns: []edm.Column{id("Id", edm.Int64), {Name: "City", Type: edm.Type{Kind: edm.Int32}}}},
		edm.Table{Name: "Pairs", Columns: []edm.Column{id("A", edm.Guid), id("B", edm.Guid), {Name: "City", Type: edm.Type{Kind: edm.Int32}}}},
		edm.Table{Name: "Lines", Columns: []edm.Column{id("Id", edm.Int64), {Name: "Line_No", Type: edm.Type{Kind: edm.Int32}, Nullable: true},
			{Name: "Order_Id", Type: edm.Type{Kind: edm.String}, Nullable: true, OwnerRef: true, References: "Orders", Navigation: "Order_Reference"},
			{Name: "Store_Id", Type: edm.Type{Kind: edm.Int64}, Nullable: true, References: "Stores", Navigation: "Store_Reference"},
			{Name: "Pair_Id", Type: edm.Type{Kind: edm.Guid}, Nullable: true, References: "Pairs", Navigation: "Pair_Reference"}}},
	)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// world is what the naive evaluator knows: rows by their key, as plain Go values. nil is NULL.
type naiveWorld map[string]map[any]map[string]any

// admits follows every rule by itself, from the row: nothing of key sets.
func (w naiveWorld) admits(table string, row map[string]any, rules []naiveRule) bool {
	for _, r := range rules {
		at, now := table, row
		for _, hop := range r.hops {
			next := w[hop[1]][now[hop[0]]]
			if now[hop[0]] == nil || next == nil {
				return false
			}
			at, now = hop[1], next
		}
		_ = at
		if v := now[r.column]; v == nil || !slices.Contains(r.values, v) {
			return false
		}
	}
	return true
}

type naiveRule struct {
	path   string
	hops   [][2]string // column, table
	column string
	values []any
}

func (r naiveRule) text() string {
	var values []string
	for _, v := range r.values {
		values = append(values, fmt.Sprint(v))
	}
	return r.path + " in (" + strings.Join(values, ",") + ")"
}

func recordOf(t rapid.TB, table *edm.Table, columns []string, rows []map[string]any) arrow.Record {
	var fields []arrow.Field
	for _, name := range columns {
		c, ok := table.Column(name)
		if !ok {
			t.Fatalf("no column %s", name)
		}
		fields = append(fields, arrow.Field{Name: name, Type: c.Type.Arrow(), Nullable: true})
	}
	return build(memory.DefaultAllocator, arrow.NewSchema(fields, nil), rows)
}

// bound reads the owners of table in the naive world, as a run does, and binds the scope. behind is told every refused owner row.
func bound(t rapid.TB, m *edm.Model, w naiveWorld, rules Rules, table *edm.Table, fetch, publish []string) *Scope {
	s, err := New(rules, recordOf(t, table, fetch, nil).Schema(), publish)
	if err != nil {
		t.Fatal(err)
	}
	owners, err := rules.Owners(m, table)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]*Keys{}
	for _, o := range owners {
		columns := append([]string{o.Key.Name}, o.Scope("p").Columns()...)
		own := bound(t, m, w, o.Scope("p"), o.Table, columns, columns[:1])
		k, err := NewKeys(o.Table, own)
		if err != nil {
			t.Fatal(err)
		}
		for key, row := range w[o.Table.Name] { // every row, in scope or not: what is not must be refused
			row = mapWith(row, o.Key.Name, key)
			checked, err := own.Check(recordOf(t, o.Table, columns, []map[string]any{row}))
			if err == nil {
				err = k.Add(checked)
				checked.Release()
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		k.Seal()
		keys[o.Column.Name] = k
	}
	s, err = s.Bind(keys)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mapWith(row map[string]any, name string, v any) map[string]any {
	out := map[string]any{name: v}
	for k, v := range row {
		if v != nil {
			out[k] = v
		}
	}
	return out
}

// A record passes if and only if an evaluator that walks from each row to its owners says that every row is inside. NULL references, dangling
// ones, two hops, two references, and rules of the table's own are among them.
func TestOwnersAgreeWithANaiveEvaluator(t *testing.T) {
	m := chain(t)
	table, _ := m.Table("Lines")
	passed, refused, unknown := 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		maybe := func(v any) any {
			if rapid.IntRange(0, 9).Draw(t, "null") == 0 {
				return nil
			}
			return v
		}
		num := func(n int64) int64 { return rapid.Int64Range(0, n).Draw(t, "n") }
		w := naiveWorld{"Documents": {}, "Orders": {}, "Stores": {}}
		for i := range num(4) {
			w["Documents"][guids[i]] = map[string]any{"Company": maybe(num(2))}
		}
		for i := range num(5) {
			w["Orders"][fmt.Sprintf("SO-%d", i)] = map[string]any{"Void": num(3) == 0, "Document_Id": maybe(guids[num(4)])}
		}
		for i := range num(4) {
			w["Stores"][i] = map[string]any{"City": num(2)}
		}
		all := []naiveRule{
			{path: "Line_No", column: "Line_No", values: []any{int64(0), int64(1), num(3)}},
			{path: "Order_Reference/Void", hops: [][2]string{{"Order_Id", "Orders"}}, column: "Void", values: []any{false}},
			{path: "Order_Reference/Document_Reference/Company", hops: [][2]string{{"Order_Id", "Orders"}, {"Document_Id", "Documents"}}, column: "Company", values: []any{num(2), int64(1)}},
			{path: "Store_Reference/City", hops: [][2]string{{"Store_Id", "Stores"}}, column: "City", values: []any{int64(0), num(2)}},
		}
		var rules []naiveRule
		var texts []string
		for _, r := range all {
			if rapid.Bool().Draw(t, "rule") {
				rules, texts = append(rules, r), append(texts, r.text())
			}
		}
		if rules == nil {
			rules, texts = all[1:2], []string{all[1].text()}
		}
		where, err := filter.Compile(strings.Join(texts, " and "), m, table)
		if err != nil {
			t.Fatal(err)
		}
		fetch := []string{"Id", "Line_No", "Order_Id", "Store_Id"}
		s := bound(t, m, w, Rules{Name: "p", Where: where, VerifyOwner: true}, table, fetch, fetch[:1])
		lucky := rapid.IntRange(0, 3).Draw(t, "lucky")
		var rows []map[string]any
		for i := range num(8) {
			row := map[string]any{"Id": i, "Line_No": num(int64(3 - lucky)), "Order_Id": fmt.Sprintf("SO-%d", num(5)), "Store_Id": num(4)}
			if lucky == 0 {
				row["Order_Id"], row["Store_Id"] = maybe(row["Order_Id"]), maybe(row["Store_Id"])
			}
			if lucky < 2 || w.admits("Lines", row, rules) {
				rows = append(rows, row)
			}
		}
		for _, row := range rows {
			for name, v := range row {
				if v == nil {
					delete(row, name)
				}
			}
		}
		rec := recordOf(t, table, fetch, rows)
		defer rec.Release()
		bad := slices.IndexFunc(rows, func(row map[string]any) bool { return !w.admits("Lines", row, rules) })
		checked, err := s.Check(rec)
		defer checked.Release()
		var v *Violation
		var u *UnknownOwner
		switch {
		case bad < 0:
			passed++
			if err != nil || checked.Record().NumRows() != int64(len(rows)) {
				t.Fatalf("%v: every row is inside, Check says %v", texts, err)
			}
		case errors.As(err, &v):
			refused++
			if w.admits("Lines", rows[v.Row], rules) {
				t.Fatalf("%v: row %d is inside, Check says %v", texts, v.Row, err)
			}
		case errors.As(err, &u):
			unknown++
			if w.admits("Lines", rows[u.Row], rules) || int(u.Row) != bad || len(s.Unknown(rec)) == 0 || s.Unknown(rec)[0].Row != bad {
				t.Fatalf("%v: row %d is the first foreign one, Check says %v, Unknown %v", texts, bad, err, s.Unknown(rec))
			}
		default:
			t.Fatalf("%v: row %d is foreign, Check says %v", texts, bad, err)
		}
	})
	t.Logf("%d passed, %d refused, %d unknown", passed, refused, unknown)
	if passed == 0 || refused == 0 || unknown == 0 {
		t.Error("the property was not tested every way")
	}
}

func ownerRules(t testing.TB, text string) (Rules, *edm.Model, *edm.Table) {
	t.Helper()
	m := chain(t)
	table, _ := m.Table("Lines")
	b, err := filter.Compile(text, m, table)
	if err != nil {
		t.Fatal(err)
	}
	return Rules{Name: "o", Where: b, VerifyOwner: true}, m, table
}

// What cannot be proven is refused, with what to write instead.
func TestOwnersThatCannotBeVerified(t *testing.T) {
	for text, want := range map[string]string{
		"Order_Reference/Document_Reference/Made ge 2024-01-01T00:00:00Z": "delegated: true",
		"Order_Reference/Document_Reference/Company eq null":              "NULL is inside no scope",
		"Pair_Reference/City eq 1":                                        "2 key columns",
	} {
		r, m, table := ownerRules(t, text)
		err := r.Validate()
		if err == nil {
			_, err = r.Owners(m, table)
		}
		var re *RulesError
		if !errors.As(err, &re) || re.Term == "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	r, _, _ := ownerRules(t, "Order_Reference/Void eq false")
	if r.VerifyOwner = false; r.Validate() == nil || !strings.Contains(r.Validate().Error(), "verify: owner") {
		t.Errorf("%v", r.Validate())
	}
}

// Nothing is admitted before the owners are known, nor by other owners than those that the rules mean.
func TestBind(t *testing.T) {
	r, m, table := ownerRules(t, "Order_Reference/Void eq false and Store_Reference/City eq 1")
	fetch := []string{"Id", "Order_Id", "Store_Id"}
	schema := recordOf(t, table, fetch, nil).Schema()
	if got := r.Columns(); !slices.Equal(got, []string{"Order_Id", "Store_Id"}) {
		t.Errorf("columns %v", got)
	}
	if _, err := New(r, recordOf(t, table, fetch[:2], nil).Schema(), fetch[:1]); err == nil {
		t.Error("a scope without a reference that it tests")
	}
	s, err := New(r, schema, fetch[:1])
	if err != nil {
		t.Fatal(err)
	}
	rec := recordOf(t, table, fetch, []map[string]any{{"Id": int64(1), "Order_Id": "SO-1", "Store_Id": int64(1)}})
	if c, err := s.Check(rec); !errors.Is(err, ErrOwners) || c.OK() || s.Unknown(rec) != nil {
		t.Errorf("%v", err)
	}
	w := naiveWorld{"Orders": {"SO-1": {"Void": false}}, "Stores": {int64(1): {"City": int64(1)}}}
	good := bound(t, m, w, r, table, fetch, fetch[:1])
	keys := map[string]*Keys{"Order_Id": good.owned[0].keys, "Store_Id": good.owned[1].keys}
	if c, err := good.Check(rec); err != nil {
		t.Error(err)
	} else {
		c.Release()
	}
	other, _, _ := ownerRules(t, "Order_Reference/Void eq true and Store_Reference/City eq 1")
	wrong := bound(t, m, w, other, table, fetch, fetch[:1])
	orders, _ := m.Table("Orders")
	open, err := NewKeys(orders, good.owned[0].keys.by)
	if err != nil {
		t.Fatal(err)
	}
	for name, set := range map[string]map[string]*Keys{
		"none": nil, "one": {"Order_Id": keys["Order_Id"]}, "swapped": {"Order_Id": keys["Store_Id"], "Store_Id": keys["Order_Id"]},
		"other rules": {"Order_Id": wrong.owned[0].keys, "Store_Id": keys["Store_Id"]}, "not sealed": {"Order_Id": open, "Store_Id": keys["Store_Id"]},
	} {
		if _, err := s.Bind(set); err == nil {
			t.Errorf("%s: bound", name)
		}
	}
	// Keys come from rows that the owner's own scope has checked.
	if err := open.Add(Checked{}); err == nil {
		t.Error("keys of rows that nobody checked")
	}
	checked, err := good.Check(rec)
	if err != nil {
		t.Fatal(err)
	}
	defer checked.Release()
	if err := open.Add(checked); err == nil {
		t.Error("keys of another table's rows")
	}
	if _, err := NewKeys(orders, good); err == nil {
		t.Error("keys by a scope that keeps other columns")
	}
	all, err := New(Rules{Name: "all", Unrestricted: true}, recordOf(t, orders, []string{"Id"}, nil).Schema(), []string{"Id"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewKeys(orders, all); err == nil {
		t.Error("keys by a scope that proves nothing")
	}
}

// numbers are the keys of n stores in scope.
func numbers(t testing.TB, n int) (*Keys, *Scope, *edm.Table) {
	t.Helper()
	m := chain(t)
	stores, _ := m.Table("Stores")
	b, err := filter.Compile("City eq 1", m, stores)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Rules{Name: "o", Where: b, VerifyOwner: true}, recordOf(t, stores, []string{"Id", "City"}, nil).Schema(), []string{"Id"})
	if err != nil {
		t.Fatal(err)
	}
	k, err := NewKeys(stores, s)
	if err != nil {
		t.Fatal(err)
	}
	addNumbers(t, k, s, stores, 0, n)
	return k, s, stores
}

func addNumbers(t testing.TB, k *Keys, s *Scope, stores *edm.Table, from, to int) {
	t.Helper()
	for from < to {
		var rows []map[string]any
		for ; from < to && len(rows) < 4096; from++ {
			rows = append(rows, map[string]any{"Id": int64(from) * 3, "City": int64(1)})
		}
		rec := recordOf(t, stores, []string{"Id", "City"}, rows)
		c, err := s.Check(rec)
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Add(c); err != nil {
			t.Fatal(err)
		}
		c.Release()
		rec.Release()
	}
}

// Every key that was put in is found, and no other, whatever the size; late ones too, while others look.
func TestKeys(t *testing.T) {
	for _, n := range []int{0, 1, 2, 5, 1000, chunkKeys, 3*chunkKeys + 7} {
		k, s, stores := numbers(t, n)
		k.Seal()
		k.Seal()
		for i := range n {
			if !k.has(key{uint64(3 * i)}) || k.has(key{uint64(3*i + 1)}) {
				t.Fatalf("%d keys: key %d is not told from %d", n, 3*i, 3*i+1)
			}
		}
		if k.has(key{uint64(3 * n)}) || k.Len() != n {
			t.Fatalf("%d keys, len %d", n, k.Len())
		}
		if most := int64(KeyBytes*n) + chunkKeys*16; k.Bytes() > most {
			t.Errorf("%d keys take %d bytes, %d were promised", n, k.Bytes(), most)
		}
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for i := range min(n, 2000) {
					if !k.has(key{uint64(3 * i)}) {
						t.Errorf("key %d was lost", 3*i)
					}
				}
			})
		}
		addNumbers(t, k, s, stores, n, n+10)
		addNumbers(t, k, s, stores, n+5, n+15)
		all.Wait()
		if !k.has(key{uint64(3 * (n + 14))}) || k.has(key{uint64(3 * (n + 15))}) || k.Len() != n+15 {
			t.Errorf("%d keys and 15 late: len %d", n, k.Len())
		}
	}
}

// BenchmarkCheckOwner is the cost of proving rows by their owners: records of 2,048 rows, a million owners, GUIDs.
func BenchmarkCheckOwner(b *testing.B) {
	m, err := edm.New(
		edm.Table{Name: "Orders", Columns: []edm.Column{{Name: "Id", Type: edm.Type{Kind: edm.Guid}, Key: true}, {Name: "Void", Type: edm.Type{Kind: edm.Boolean}}}},
		edm.Table{Name: "Lines", Columns: []edm.Column{{Name: "Id", Type: edm.Type{Kind: edm.Int64}, Key: true},
			{Name: "Order_Id", Type: edm.Type{Kind: edm.Guid}, OwnerRef: true, References: "Orders", Navigation: "Order_Reference"}}},
	)
	if err != nil {
		b.Fatal(err)
	}
	orders, _ := m.Table("Orders")
	lines, _ := m.Table("Lines")
	where, err := filter.Compile("Order_Reference/Void eq false", m, lines)
	if err != nil {
		b.Fatal(err)
	}
	rules := Rules{Name: "o", Where: where, VerifyOwner: true}
	owners, err := rules.Owners(m, lines)
	if err != nil {
		b.Fatal(err)
	}
	own, err := New(owners[0].Scope("o"), recordOf(b, orders, []string{"Id", "Void"}, nil).Schema(), []string{"Id"})
	if err != nil {
		b.Fatal(err)
	}
	guid := func(i int) string { return fmt.Sprintf("%08x-1111-4c5e-9f55-0123456789ab", i*2654435761&0xffffffff) }
	keys, err := NewKeys(orders, own)
	if err != nil {
		b.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const million = 1_000_000
	for from := 0; from < million; from += 2000 {
		rows := make([]map[string]any, 2000)
		for i := range rows {
			rows[i] = map[string]any{"Id": guid(from + i), "Void": false}
		}
		rec := recordOf(b, orders, []string{"Id", "Void"}, rows)
		c, err := own.Check(rec)
		if err == nil {
			err = keys.Add(c)
		}
		if err != nil {
			b.Fatal(err)
		}
		c.Release()
		rec.Release()
	}
	keys.Seal()
	runtime.GC()
	runtime.ReadMemStats(&after)
	lineRows := make([]map[string]any, 2048)
	for i := range lineRows {
		lineRows[i] = map[string]any{"Id": int64(i), "Order_Id": guid(i * 487 % million)}
	}
	rec := recordOf(b, lines, []string{"Id", "Order_Id"}, lineRows)
	s, err := New(rules, rec.Schema(), []string{"Id"})
	if err == nil {
		s, err = s.Bind(map[string]*Keys{"Order_Id": keys})
	}
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		checked, err := s.Check(rec)
		if err != nil {
			b.Fatal(err)
		}
		checked.Release()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/2048, "ns/row")
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/million, "B/key")
}
