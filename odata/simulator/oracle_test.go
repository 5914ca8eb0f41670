package simulator

import (
	"encoding/json"
	"iter"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func oracleRows(t *testing.T, s *Server, table, where string, columns []string) []Row {
	t.Helper()
	seq, err := s.Oracle().Rows(table, where, columns)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Collect(seq)
}

func TestMutations(t *testing.T) {
	columns := []string{"Id", "Product_Name", "Active", "Product_Group_Id", "Row_Version", "Standard_Cost_Per_Lot"}
	s, err := New(Options{Rows: map[string]int64{product: 200}})
	if err != nil {
		t.Fatal(err)
	}
	twin, err := New(Options{Rows: map[string]int64{product: 200}})
	if err != nil {
		t.Fatal(err)
	}
	byKey := func() map[string]Row {
		m := map[string]Row{}
		for _, r := range oracleRows(t, s, product, "", columns) {
			m[r[0]] = r
		}
		return m
	}
	before := byKey()
	apply := func(what func(*Server) (int, error), want int) {
		t.Helper()
		for _, srv := range []*Server{s, twin} {
			if n, err := what(srv); err != nil || n != want {
				t.Fatalf("%d, %v", n, err)
			}
		}
		a, b := oracleRows(t, s, product, "", nil), oracleRows(t, twin, product, "", nil)
		if !slices.EqualFunc(a, b, func(x, y Row) bool { return slices.Equal(x, y) }) {
			t.Fatal("the same mutations give different rows")
		}
	}

	apply(func(s *Server) (int, error) { return s.Update(product, 30) }, 30)
	after := byKey()
	changed := 0
	for k, r := range before {
		now := after[k]
		if now == nil {
			t.Fatal("an update loses a row")
		}
		if now[2] != r[2] || now[3] != r[3] {
			t.Error("an update moves a row")
		}
		if now[1] != r[1] || now[5] != r[5] || now[4] != r[4] {
			changed++
			if now[4] <= r[4] {
				t.Error("the row version does not grow")
			}
		}
	}
	if changed != 30 {
		t.Errorf("%d rows changed", changed)
	}

	apply(func(s *Server) (int, error) { return s.Move(product, 100) }, 100)
	moved := 0
	for k, r := range byKey() {
		if r[3] != after[k][3] {
			moved++
		}
	}
	if moved < 50 || moved > 100 {
		t.Errorf("%d rows moved", moved)
	}

	apply(func(s *Server) (int, error) { return s.Insert(product, 40) }, 40)
	keys, err := s.Oracle().Keys(product, "")
	if err != nil || len(keys) != 240 {
		t.Fatal(len(keys), err)
	}
	between := 0
	for i, k := range keys {
		if before[k] == nil && i > 0 && i < len(keys)-1 {
			between++
		}
	}
	if between < 30 {
		t.Errorf("only %d new keys lie between old ones", between)
	}

	apply(func(s *Server) (int, error) { return s.Delete(product, 60) }, 60)
	if n, _ := s.Oracle().Count(product, ""); n != 180 {
		t.Error(n)
	}
}

func TestMutationsWhere(t *testing.T) {
	s, err := New(Options{Rows: map[string]int64{product: 200}})
	if err != nil {
		t.Fatal(err)
	}
	inactive, _ := s.Oracle().Count(product, "Active eq false")
	for _, do := range []func(string, string) (int, error){s.UpdateWhere, s.DeleteWhere} {
		if n, err := do(product, "Active eq false"); err != nil || n != int(inactive) {
			t.Errorf("%d rows, not %d: %v", n, inactive, err)
		}
	}
	if n, _ := s.Oracle().Count(product, "Active eq false"); n != 0 || inactive == 0 {
		t.Error(n, inactive)
	}
	if n, err := s.Delete(product, 1000); err != nil || n != 200-int(inactive) {
		t.Error(n, err)
	}
	refused := func(_ int, err error) {
		if err == nil {
			t.Error("an impossible mutation is accepted")
		}
	}
	refused(s.Insert("Nothing", 1))
	refused(s.UpdateWhere(product, "Nothing eq 1"))
	refused(s.MoveWhere(product, "Nothing eq 1"))
}

// TestBetweenPages changes rows between two pages and asks the oracle about the pages' sum.
func TestBetweenPages(t *testing.T) {
	var seen []string
	s, base := newServer(t, Options{
		Rows:      map[string]int64{product: 300},
		OnRequest: func(i RequestInfo) { seen = append(seen, i.Table+i.Query.Get("$skip")) },
	})
	mark := s.Oracle().Mark()
	s.Before(product, 2, func() {
		for _, do := range []func(string, int) (int, error){s.Insert, s.Update, s.Move, s.Delete} {
			if _, err := do(product, 25); err != nil {
				t.Error(err)
			}
		}
	})
	columns := []string{"Id", "Part_Number", "Active"}
	read := func(options ...string) iter.Seq[Row] {
		p := rows(t, base, product, append(options, "$select", strings.Join(columns, ","))...)
		return func(yield func(Row) bool) {
			for _, r := range p.Value {
				row := Row{}
				for _, name := range columns {
					row = append(row, canonicalJSON(t, s.catalog.tables[product].column(name), r[name]))
				}
				if !yield(row) {
					return
				}
			}
		}
	}
	first := slices.Collect(read("$top", "150"))
	// Key paging: the second page begins behind the last key, so that nothing is lost.
	second := slices.Collect(read("$filter", "Id ge "+first[149][0]))
	copied := slices.Concat(first, second[1:])
	if second[0][0] != first[149][0] {
		copied = slices.Concat(first, second) // the seam row is one of the deleted
	}
	if err := s.Oracle().Check(mark, product, "", columns, slices.Values(copied)); err != nil {
		t.Error(err)
	}
	if !slices.Equal(seen, []string{product, product}) {
		t.Error(seen)
	}
	// What must not pass.
	bad := map[string][]Row{
		"a missing row":  copied[:len(copied)-40],
		"a repeated row": slices.Concat(copied, copied[5:6]),
		"a foreign row":  slices.Concat(copied, []Row{{"00000000-0000-0000-0000-000000000000", "1", "true"}}),
		"a changed cell": slices.Concat([]Row{{copied[0][0], copied[0][1] + "x", copied[0][2]}}, copied[1:]),
		"a short row":    slices.Concat(copied[:5], []Row{{"x"}}),
	}
	for name, got := range bad {
		if s.Oracle().Check(mark, product, "", columns, slices.Values(got)) == nil {
			t.Errorf("%s passes", name)
		}
	}
	if s.Oracle().Check(mark, product, "", []string{"Part_Number"}, slices.Values([]Row{})) == nil {
		t.Error("a copy without the key passes")
	}
	s.Oracle().Forget()
	if s.Oracle().Check(mark, product, "", columns, slices.Values(copied)) == nil {
		t.Error("a forgotten marker is taken")
	}
}

func TestThroughoutKnowsMoves(t *testing.T) {
	s, err := New(Options{Rows: map[string]int64{lines: 400, "Inv_Stores": 3, docs: 100}})
	if err != nil {
		t.Fatal(err)
	}
	where := "Line_Store_Id eq " + someStore(t, s, 0) + " and Sales_Order_Reference/Document_Reference/Void eq false"
	start, _ := s.Oracle().Keys(lines, where)
	mark := s.Oracle().Mark()
	if _, err := s.Move(lines, 200); err != nil {
		t.Fatal(err)
	}
	middle, _ := s.Oracle().Keys(lines, where)
	if _, err := s.Move(docs, 60); err != nil { // lines move because their document does
		t.Fatal(err)
	}
	if _, err := s.Delete(lines, 50); err != nil {
		t.Fatal(err)
	}
	end, _ := s.Oracle().Keys(lines, where)
	witnesses, err := s.Oracle().Throughout(mark, lines, where, []string{"Sales_Order_Line_Id", "Line_Store_Id"})
	if err != nil {
		t.Fatal(err)
	}
	must, may := 0, 0
	for _, w := range witnesses {
		inAll := slices.Contains(start, w.Key) && slices.Contains(middle, w.Key) && slices.Contains(end, w.Key)
		if w.Must && !inAll {
			t.Errorf("%s must be there, but was not always", w.Key)
		}
		if w.Must {
			must++
		} else {
			may++
		}
		for _, v := range w.Versions {
			if len(v) != 2 || v[1] == Null {
				t.Error(v)
			}
		}
	}
	if must == 0 || may == 0 || must == len(start) {
		t.Errorf("%d must, %d may, %d at the start", must, may, len(start))
	}
}

func TestCheckViewWithoutKey(t *testing.T) {
	s, err := New(Options{Rows: map[string]int64{"Inv_Current_Balances": 200}})
	if err != nil {
		t.Fatal(err)
	}
	mark := s.Oracle().Mark()
	columns := []string{"Store_Id", "Quantity_Base"}
	copied := oracleRows(t, s, "Inv_Current_Balances", "", columns)
	if err := s.Oracle().Check(mark, "Inv_Current_Balances", "", columns, slices.Values(copied)); err != nil {
		t.Error(err)
	}
	if s.Oracle().Check(mark, "Inv_Current_Balances", "", columns, slices.Values(copied[1:])) == nil {
		t.Error("a missing row passes")
	}
	if s.Oracle().Check(mark, "Inv_Current_Balances", "", columns, slices.Values(slices.Concat(copied, copied[:1]))) == nil {
		t.Error("a repeated row passes")
	}
	keys, err := s.Oracle().Keys("Inv_Current_Balances", "")
	if err != nil || len(keys) != 200 {
		t.Error(len(keys), err)
	}
}

func TestOracleQuestionsThatCannotBe(t *testing.T) {
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	o := s.Oracle()
	if _, err := o.Rows("Nothing", "", nil); err == nil {
		t.Error("an unknown table")
	}
	if _, err := o.Rows(product, "", []string{"Nothing"}); err == nil {
		t.Error("an unknown column")
	}
	if _, err := o.Count(product, "x"); err == nil {
		t.Error("a bad filter")
	}
	if _, err := o.Keys("Nothing", ""); err == nil {
		t.Error("an unknown table")
	}
	if _, err := o.Throughout(Marker{epoch: 99}, product, "", nil); err == nil {
		t.Error("an unknown marker")
	}
	// The oracle takes every operator on every column, the server does not.
	if n, err := o.Count(lines, "Notes like '%a%' and Quantity ge 0"); err != nil || n == 0 {
		t.Error(n, err)
	}
	for row := range must(o.Rows(product, "", nil)) { // a broken-off loop
		if len(row) == 0 {
			t.Error("no cells")
		}
		break
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestQuotedText checks the escaper against encoding/json.
func TestQuotedText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := strings.ToValidUTF8(rapid.String().Draw(t, "text"), "\ufffd")
		style := uint8(rapid.IntRange(0, 2).Draw(t, "style"))
		var back string
		if err := json.Unmarshal(appendQuoted(nil, []byte(text), style), &back); err != nil || back != text {
			t.Fatalf("%q is read back as %q: %v", text, back, err)
		}
	})
}
