package simulator

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const (
	orders  = "Crm_Sales_Orders"
	toDoc   = "Sales_Order_Reference/Document_Reference/"
	balance = "Inv_Current_Balances"
)

func date(y int, m time.Month, d int) time.Time { return time.Date(y, m, d, 0, 0, 0, 0, time.UTC) }

func small(t testing.TB) (*Server, string) {
	return newServer(t, Options{
		Rows: map[string]int64{docs: 600, orders: 500, lines: 2000, product: 100, balance: 50},
		Last: date(2024, 3, 31), First: date(2023, 10, 1),
	})
}

var busy = Day{New: 20, Late: 3, Updated: 30, Deleted: 5, Redated: 4, Other: 3}

func evolve(t testing.TB, s *Server, from time.Time, days int, d Day) {
	t.Helper()
	for i := range days {
		d.Date = from.AddDate(0, 0, i)
		if _, err := s.Evolve(d); err != nil {
			t.Fatal(err)
		}
	}
}

func byKey(t testing.TB, rows iter.Seq[Row], err error) map[string]Row {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]Row{}
	for r := range rows {
		if m[r[0]] != nil {
			t.Fatalf("key %s is there twice", r[0])
		}
		m[r[0]] = r
	}
	return m
}

func present(t testing.TB, s *Server, table string, columns ...string) map[string]Row {
	t.Helper()
	rows, err := s.Oracle().Rows(table, "", columns)
	return byKey(t, rows, err)
}

func TestTheSameDaysGiveTheSameRows(t *testing.T) {
	a, _ := small(t)
	b, _ := small(t)
	for _, s := range []*Server{a, b} {
		evolve(t, s, date(2024, 4, 1), 20, busy)
	}
	for _, table := range a.Tables() {
		x, y := oracleRows(t, a, table, "", nil), oracleRows(t, b, table, "", nil)
		if !slices.EqualFunc(x, y, func(p, q Row) bool { return slices.Equal(p, q) }) {
			t.Errorf("%s: two servers with one seed and one history differ", table)
		}
	}
}

// TestADay compares the company before a day with that behind it, row by row.
func TestADay(t *testing.T) {
	s, _ := small(t)
	evolve(t, s, date(2024, 4, 1), 40, busy)
	columns := map[string][]string{
		docs:    {"Id", "Row_Version", "Document_Date", "State", "Notes", "Creation_Time"},
		orders:  {"Sales_Order_Id", "Row_Version", "Document_Id", "Notes"},
		lines:   {"Sales_Order_Line_Id", "Row_Version", "Sales_Order_Id", "Notes", "Quantity"},
		product: {"Id", "Row_Version", "Part_Number", "Standard_Cost_Per_Lot"},
	}
	before, mark := map[string]map[string]Row{}, s.Oracle().Mark()
	for table, names := range columns {
		before[table] = present(t, s, table, names...)
	}
	counts, err := s.Evolve(Day{Date: date(2024, 5, 11), New: 20, Late: 3, Updated: 30, Deleted: 5, Redated: 4, Other: 3})
	if err != nil {
		t.Fatal(err)
	}
	for table, names := range columns {
		after := present(t, s, table, names...)
		var got Changes
		for key, row := range after {
			old := before[table][key]
			switch {
			case old == nil:
				got.Inserted++
			case row[1] != old[1]:
				got.Updated++
				if row[1] < old[1] {
					t.Errorf("%s: a row version goes down", table)
				}
			case !slices.Equal(row, old):
				t.Errorf("%s: a row changes and its version does not", table)
			}
		}
		for key := range before[table] {
			if after[key] == nil {
				got.Deleted++
			}
		}
		if got != counts[table] {
			t.Errorf("%s: %+v, but Evolve says %+v", table, got, counts[table])
		}
		if got.Inserted == 0 || got.Updated == 0 || (got.Deleted == 0 && table != product) {
			t.Errorf("%s: %+v", table, got)
		}
		past, err := s.Oracle().RowsAt(mark, table, "", names)
		if was := byKey(t, past, err); len(was) != len(before[table]) {
			t.Errorf("%s: %d rows at the mark, not %d", table, len(was), len(before[table]))
		}
	}
	fresh, late := 0, 0
	for key, row := range present(t, s, docs, columns[docs]...) {
		if before[docs][key] != nil {
			continue
		}
		if row[2] >= "2024-05-09" && row[2] <= "2024-05-11" {
			fresh++
		} else if row[2] < "2024-05-09" && row[2] >= "2024-01-12" {
			late++
		}
		if row[5] < "2024-05-11T08:00" || row[5] > "2024-05-11T18:00" {
			t.Errorf("created %s", row[5])
		}
	}
	if fresh < 20 || fresh+late != 23 {
		t.Errorf("%d documents of the day, %d late ones", fresh, late)
	}
	noOrphans(t, s)
	if _, err := s.Evolve(Day{New: 1}); err != nil {
		t.Fatal(err)
	}
	if n, _ := s.Oracle().Count(docs, "Creation_Time ge 2024-05-12T08:00:00Z"); n != 1 {
		t.Error("a day without a date is not the next one")
	}
}

// noOrphans fails if a line has no order or an order no document.
func noOrphans(t testing.TB, s *Server) {
	t.Helper()
	parents, orderRows := present(t, s, docs, "Id"), present(t, s, orders, "Sales_Order_Id", "Document_Id")
	for _, o := range orderRows {
		if parents[o[1]] == nil {
			t.Fatal("an order has no document")
		}
	}
	for _, l := range present(t, s, lines, "Sales_Order_Line_Id", "Sales_Order_Id") {
		if orderRows[l[1]] == nil {
			t.Fatal("a line has no order")
		}
	}
}

// TestRedatedDocumentsTakeTheirLinesAlong is what defeats copies that look at changed rows only.
func TestRedatedDocumentsTakeTheirLinesAlong(t *testing.T) {
	s, _ := small(t)
	month := func() map[string]string {
		m := map[string]string{}
		for i := range 8 {
			first := date(2023, 9+time.Month(i), 1)
			where := fmt.Sprintf("%sDocument_Date ge %s and %sDocument_Date le %s", toDoc, first.Format(time.DateOnly), toDoc, first.AddDate(0, 1, -1).Format(time.DateOnly))
			keys, err := s.Oracle().Keys(lines, where)
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range keys {
				if m[k] != "" {
					t.Fatal("a line is in two months")
				}
				m[k] = first.Format("2006-01")
			}
		}
		return m
	}
	version := present(t, s, lines, "Sales_Order_Line_Id", "Row_Version")
	before := month()
	if len(before) != 2000 {
		t.Fatalf("%d of 2000 lines are in a month", len(before))
	}
	counts, err := s.Evolve(Day{Date: date(2024, 4, 10), Redated: 12})
	if err != nil || counts[docs] != (Changes{Updated: 12}) || len(counts) != 1 {
		t.Fatal(counts, err)
	}
	moved := 0
	for k, m := range month() {
		if before[k] != m {
			moved++
		}
	}
	if moved < 12 {
		t.Errorf("%d lines moved", moved)
	}
	for k, row := range present(t, s, lines, "Sales_Order_Line_Id", "Row_Version") {
		if version[k][1] != row[1] {
			t.Error("a line changed, only its document should")
		}
	}
}

// TestWindowsAtTheirBounds reads windows as a client does and puts each row where its own date says.
func TestWindowsAtTheirBounds(t *testing.T) {
	s, base := newServer(t, Options{Rows: map[string]int64{docs: 6000}, First: date(2024, 1, 1), Last: date(2024, 6, 30)})
	evolve(t, s, date(2024, 7, 1), 3, busy)
	all := present(t, s, docs, "Id", "Document_Date", "Reference_Date")
	edges := 0
	for i, column := range []string{"Document_Date", "Reference_Date"} {
		for first := date(2024, 1, 1); first.Before(date(2024, 9, 1)); first = first.AddDate(0, 1, 0) {
			last := first.AddDate(0, 1, 0).Add(-time.Second)
			want := map[string]bool{}
			for k, row := range all {
				text := row[i+1]
				if len(text) == 10 {
					text += "T00:00:00.000000Z"
				}
				if text >= first.Format("2006-01-02T15:04:05.000000Z") && text <= last.Format("2006-01-02T15:04:05.000000Z") {
					want[k] = true
				}
				if strings.HasSuffix(text, "-01T00:00:00.000000Z") && i == 1 || strings.HasSuffix(text, "23:59:59.997000Z") {
					edges++
				}
			}
			filter := fmt.Sprintf("%s ge %s and %s le %s", column, first.Format(time.RFC3339), column, last.Format(time.RFC3339))
			got := rows(t, base, docs, "$select", "Id", "$filter", filter).column(t, "Id")
			if len(got) != len(want) {
				t.Errorf("%s %s: %d rows, not %d", column, first.Format("2006-01"), len(got), len(want))
			}
			for _, k := range got {
				if !want[k] {
					t.Errorf("%s %s: a row that is not of the window", column, first.Format("2006-01"))
				}
			}
		}
	}
	if edges == 0 {
		t.Error("no instant lies at the edge of a month: the test proves little")
	}
}

// TestCalendarsChangeNothing compares what a plan selects with a test of every row.
func TestCalendarsChangeNothing(t *testing.T) {
	s, err := New(Options{Rows: map[string]int64{docs: 3000, orders: 2500, lines: 4600}, First: date(2024, 1, 1), Last: date(2024, 6, 30)})
	if err != nil {
		t.Fatal(err)
	}
	day := date(2024, 7, 1)
	narrowed := 0
	rapid.Check(t, func(r *rapid.T) {
		switch rapid.IntRange(0, 5).Draw(r, "what") {
		case 0:
			evolve(t, s, day, 1, busy)
			day = day.AddDate(0, 0, 1)
		case 1:
			_, _ = s.Move(docs, 50)
		}
		from := date(2023, 12, 1).Add(time.Duration(rapid.IntRange(0, 6000).Draw(r, "hours")) * time.Hour)
		to := from.Add(time.Duration(rapid.IntRange(-1, 2000).Draw(r, "long")) * time.Hour)
		path := rapid.SampledFrom([]string{toDoc + "Document_Date", "Required_Delivery_Date", toDoc + "Reference_Date"}).Draw(r, "path")
		where := fmt.Sprintf("%s ge %s and %s le %s and %sVoid eq false", path, from.Format(time.RFC3339), path, to.Format(time.RFC3339), toDoc)
		tb := s.catalog.tables[lines]
		terms, err := s.catalog.parseFilter(where, tb, true)
		if err != nil {
			r.Fatal(err)
		}
		plan, st, c := tb.plan(s.now, terms), s.now.states[tb.id], new(cell)
		var got, want []int64
		for k := range plan.size() {
			if p := plan.position(k); plan.match(s.now, st.at(tb.space, p), c) {
				got = append(got, p)
			}
		}
		for p := range st.live() {
			if plan.match(s.now, st.at(tb.space, p), c) {
				want = append(want, p)
			}
		}
		if !slices.Equal(got, want) {
			r.Fatalf("%s: %d rows, not %d", where, len(got), len(want))
		}
		if plan.list != nil {
			narrowed++
		}
	})
	if narrowed == 0 {
		t.Error("no plan was narrowed")
	}
}

func TestListsOfKeys(t *testing.T) {
	s, base := newServer(t, Options{Rows: map[string]int64{lines: 5000}})
	keys := present(t, s, lines, "Sales_Order_Line_Id")
	var list []string
	for k := range keys {
		if list = append(list, k); len(list) == 30 {
			break
		}
	}
	filter := "Sales_Order_Line_Id in (" + strings.Join(slices.Concat(list, list[:3], []string{"00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"}), ",") + ")"
	got := rows(t, base, lines, "$select", "Sales_Order_Line_Id", "$filter", filter).column(t, "Sales_Order_Line_Id")
	slices.Sort(got)
	slices.Sort(list)
	if !slices.Equal(got, list) {
		t.Errorf("%d rows, not %d", len(got), len(list))
	}
	terms, err := s.catalog.parseFilter(filter, s.catalog.tables[lines], true)
	if err != nil {
		t.Fatal(err)
	}
	if plan := s.catalog.tables[lines].plan(s.now, terms); plan.size() != 30 {
		t.Errorf("%d rows are tested", plan.size())
	}
}

// TestPagesOfAWindow pages through a window in every way a server can.
func TestPagesOfAWindow(t *testing.T) {
	for _, b := range []Behavior{
		{MaxRows: 100}, {NextLink: NextLink{PageSize: 70}}, {NextLink: NextLink{PageSize: 70, BySkip: true}}, {Natural: Shuffled, NextLink: NextLink{PageSize: 90}},
	} {
		s, base := newServer(t, Options{Rows: map[string]int64{docs: 5000}, First: date(2024, 1, 1), Last: date(2024, 12, 31), Behavior: b})
		evolve(t, s, date(2024, 6, 1), 2, busy)
		filter := "Document_Date ge 2024-05-01T00:00:00Z and Document_Date le 2024-05-31T23:59:59Z"
		want, err := s.Oracle().Keys(docs, filter)
		if err != nil || len(want) < 300 || len(want) > 700 {
			t.Fatal(len(want), err)
		}
		var got []string
		for skip, next := 0, ""; ; {
			p := page{}
			if next != "" {
				resp, body := get(t, base, next)
				if resp != 200 {
					t.Fatal(body)
				}
				p = parsePage(t, body)
			} else {
				p = rows(t, base, docs, "$select", "Id", "$filter", filter, "$skip", fmt.Sprint(skip))
			}
			got = append(got, p.column(t, "Id")...)
			next = strings.TrimPrefix(p.Next, base+tableAPI)
			skip += len(p.Value)
			if len(p.Value) == 0 || (next == "" && b.MaxRows == 0) {
				break
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%+v: %d rows, not %d", b, len(got), len(want))
		}
	}
}

func TestCheckAt(t *testing.T) {
	s, _ := small(t)
	at := s.Oracle().Mark()
	columns := []string{"Id", "Document_Date"}
	copied := oracleRows(t, s, docs, "", columns)
	evolve(t, s, date(2024, 4, 1), 1, busy)
	if err := s.Oracle().CheckAt(at, docs, "", columns, slices.Values(copied)); err != nil {
		t.Error(err)
	}
	if s.Oracle().CheckAt(at, docs, "", columns, slices.Values(oracleRows(t, s, docs, "", columns))) == nil {
		t.Error("the rows behind the day pass for those before it")
	}
	if s.Oracle().CheckAt(at, docs, "", columns, slices.Values(copied[1:])) == nil {
		t.Error("a missing row passes")
	}
}

// BenchmarkWindow asks for one month of sixty, of a million lines by the date of their documents.
func BenchmarkWindow(b *testing.B) {
	s, err := New(Options{Rows: map[string]int64{lines: 1_000_000}})
	if err != nil {
		b.Fatal(err)
	}
	tb := s.catalog.tables[lines]
	terms, err := s.catalog.parseFilter(toDoc+"Document_Date ge 2024-05-01T00:00:00Z and "+toDoc+"Document_Date le 2024-05-31T23:59:59Z", tb, true)
	if err != nil {
		b.Fatal(err)
	}
	tb.plan(s.now, terms) // makes the calendar
	for b.Loop() {
		if tb.plan(s.now, terms).size() == 0 {
			b.Fatal("nothing")
		}
	}
}
