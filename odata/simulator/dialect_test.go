package simulator

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	lines = "Crm_Sales_Order_Lines"
	docs  = "Gen_Documents"
)

func someStore(tb testing.TB, s *Server, n int) string {
	tb.Helper()
	keys, err := s.Oracle().Keys("Inv_Stores", "")
	if err != nil {
		tb.Fatal(err)
	}
	return keys[n]
}

// refusals are requests beyond the documented dialect.
func refusals(store string) []struct{ table, option, value string } {
	return []struct{ table, option, value string }{
		{lines, "$filter", "Line_No ne 10"},
		{lines, "$filter", "Line_No lt 10"},
		{lines, "$filter", "Line_No gt 10"},
		{lines, "$filter", "not (Line_No eq 10)"},
		{lines, "$filter", "Line_No eq 10 or Line_No eq 20"},
		{lines, "$filter", "(Line_No eq 10 or Persist_Lot eq true)"},
		{lines, "$filter", "(Line_No eq 10 and Persist_Lot eq true)"},
		{lines, "$filter", "((Line_No eq 10))"},
		{lines, "$filter", "contains(Notes,'x')"},
		{lines, "$filter", "year(Required_Delivery_Date) eq 2024"},
		{lines, "$filter", "Notes like 'a%'"},       // not filterable
		{lines, "$filter", "Notes eq 'a'"},          // not filterable
		{lines, "$filter", "Row_Version eq 'AAAA'"}, // never filterable
		{lines, "$filter", "Line_No ge 10"},         // eq only
		{lines, "$filter", "Line_No in (10,20)"},    // not equals_in
		{lines, "$filter", "(Line_No eq 10 or Line_No eq 20)"},
		{lines, "$filter", "Line_Store_Id ge " + store},
		{lines, "$filter", "Line_Store_Id in (null)"},
		{lines, "$filter", "Line_Store_Id in ()"},
		{lines, "$filter", "Line_Store_Id eq 'x'"},
		{lines, "$filter", "Line_Store_Id"},
		{lines, "$filter", "Line_Store_Id eq"},
		{lines, "$filter", "Line_Store_Id eq " + store + " and"},
		{lines, "$filter", "Line_Store_Id eq " + store + " Line_No eq 1"},
		{lines, "$filter", "line_store_id eq " + store},
		{lines, "$filter", "Nothing eq 1"},
		{lines, "$filter", "Line_No eq '10'"},
		{lines, "$filter", "Line_No eq 1.5"},
		{lines, "$filter", "Persist_Lot eq 1"},
		{lines, "$filter", "Required_Delivery_Date ge 2024-01-01"},
		{lines, "$filter", "Required_Delivery_Date ge '2024-01-01T00:00:00Z'"},
		{lines, "$filter", "Required_Delivery_Date ge 2024-02-30T00:00:00Z"},
		{lines, "$filter", "Required_Delivery_Date ge 2024-01-01T00:00:00+02:00"},
		{lines, "$filter", "Required_Delivery_Date ge 2024-01-01T00:00:00.5Z"},
		{lines, "$filter", "Product_Description like stol"},
		{lines, "$filter", "Product_Description like 'stol"},
		{lines, "$filter", "Product_Reference/Part_Number eq 'x'"}, // no owner
		{lines, "$filter", "Sales_Order_Reference/Store_Reference/Store_Code eq 'x'"},
		{lines, "$filter", "Sales_Order_Id/Notes eq 'x'"},
		{lines, "$filter", "Sales_Order_Reference/Nothing eq 'x'"},
		{docs, "$filter", "State in (10,'20')"},
		{lines, "$select", "Nothing"},
		{lines, "$select", ""},
		{lines, "$select", "Line_No,"},
		{lines, "$top", "-1"},
		{lines, "$top", "ten"},
		{lines, "$top", "2147483648"},
		{lines, "$skip", "-1"},
		{lines, "$skip", "1.5"},
		{lines, "$orderby", "Nothing"},
		{lines, "$orderby", "Notes"}, // not sortable
		{lines, "$orderby", "Line_No sideways"},
		{lines, "$count", "true"},
		{lines, "$expand", "Product_Reference"},
		{lines, "$apply", "aggregate(Line_No)"},
		{lines, "$search", "x"},
		{lines, "$skiptoken", "x"},
		{lines, "filter", "Line_No eq 1"},
	}
}

// TestDialectRefusals asks for what the Table API does not document: each is a 400 with an error object, never rows.
func TestDialectRefusals(t *testing.T) {
	s, base := newServer(t, Options{})
	store := someStore(t, s, 0)
	for _, c := range refusals(store) {
		status, body := get(t, base, c.table, c.option, c.value)
		if status != http.StatusBadRequest || !strings.Contains(body, `"error"`) || strings.Contains(body, `"value"`) {
			t.Errorf("%s=%s: %d %.200s", c.option, c.value, status, body)
		}
	}
	if status, _ := get(t, base, "Crm_Nothing"); status != http.StatusNotFound {
		t.Errorf("an unknown table: %d", status)
	}
	if status, _ := get(t, base, "Crm_Sales_Order_Lines/x"); status != http.StatusNotFound {
		t.Errorf("an unknown path: %d", status)
	}
	if status, _ := get(t, base, lines+"/$count"); status != http.StatusNotFound {
		t.Errorf("$count where there is none: %d", status)
	}
	r := request(t, base, lines)
	r.URL.RawQuery = "$filter=Line_No+eq+1&$filter=Line_No+eq+2"
	if resp, err := http.DefaultClient.Do(r); err != nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("an option given twice: %v %v", resp, err)
	}
	r = request(t, base, lines)
	r.Method = http.MethodPost
	if resp, err := http.DefaultClient.Do(r); err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %v %v", resp, err)
	}
}

// A server that takes fractions of a second reads them exactly.
func TestFractionsOfASecond(t *testing.T) {
	_, base := newServer(t, Options{Behavior: Behavior{Fractions: true}})
	for value, want := range map[string]int{
		"2024-01-31T23:59:59.997Z": http.StatusOK, "2024-01-31T23:59:59.9999999Z": http.StatusOK, "2024-01-31T23:59:59Z": http.StatusOK,
		"2024-01-31T23:59:59.Z": http.StatusBadRequest, "2024-01-31T23:59:59.99999999Z": http.StatusBadRequest, "2024-01-31T23:59:59.9x7Z": http.StatusBadRequest,
	} {
		if status, body := get(t, base, lines, "$filter", "Intrastat_Apply_Date le "+value); status != want {
			t.Errorf("%s: %d %.100s", value, status, body)
		}
	}
	for text, want := range map[string]int64{"1970-01-01T00:00:00.5Z": 5_000_000, "1970-01-01T00:00:00.0000001Z": 1, "1970-01-01T00:00:01.25Z": 12_500_000} {
		got, ok := parseInstant(text, false, true)
		if got -= daysOf(1970, 1, 1) * ticksPerDay; !ok || got != want {
			t.Errorf("%s: %d", text, got)
		}
	}
}

// TestDialectAgainstRows filters in the test, over the rows that came without a filter.
func TestDialectAgainstRows(t *testing.T) {
	s, base := newServer(t, Options{Rows: map[string]int64{lines: 1500, "Crm_Sales_Orders": 400, docs: 900, "Inv_Stores": 5, "Gen_Products": 50}})
	a, b := someStore(t, s, 0), someStore(t, s, 1)
	type row = map[string]string
	key := map[string]string{lines: "Sales_Order_Line_Id", docs: "Id"}
	all := map[string][]row{}
	for name := range key {
		for _, r := range rows(t, base, name).Value {
			plain := row{}
			for column, raw := range r {
				plain[column] = strings.Trim(string(raw), `"`)
			}
			all[name] = append(all[name], plain)
		}
	}
	is := func(name, value string) func(row) bool { return func(r row) bool { return r[name] == value } }
	for _, c := range []struct {
		table, filter string
		match         func(row) bool
	}{
		{lines, "", func(row) bool { return true }},
		{lines, "Line_No eq 10", is("Line_No", "10")},
		{lines, "Line_Store_Id eq null", is("Line_Store_Id", "null")},
		{lines, "Line_Store_Id eq " + a, is("Line_Store_Id", a)},
		{lines, "Line_Store_Id eq '" + strings.ToUpper(a) + "'", is("Line_Store_Id", a)},
		{lines, "Line_Store_Id in ('" + a + "'," + b + ")", func(r row) bool { return r["Line_Store_Id"] == a || r["Line_Store_Id"] == b }},
		{lines, "(Line_Store_Id eq " + a + " or Line_Store_Id eq '" + b + "')", func(r row) bool { return r["Line_Store_Id"] == a || r["Line_Store_Id"] == b }},
		{lines, "Persist_Lot eq true and Line_No eq 20", func(r row) bool { return r["Persist_Lot"] == "true" && r["Line_No"] == "20" }},
		{lines, "Required_Delivery_Date ge 2020-01-01T00:00:00Z and Required_Delivery_Date le 2020-12-31T23:59:59Z", func(r row) bool {
			return strings.HasPrefix(r["Required_Delivery_Date"], "2020-")
		}},
		{lines, "Product_Description like '%лампа%'", func(r row) bool { return strings.Contains(r["Product_Description"], "лампа") }},
		{lines, "Line_Custom_Discount_Percent le -0.5", func(r row) bool {
			f, err := strconv.ParseFloat(r["Line_Custom_Discount_Percent"], 64)
			return err == nil && f <= -0.5
		}},
		{lines, "Historical_Unit_Cost ge 12.3456789", func(r row) bool {
			f, err := strconv.ParseFloat(r["Historical_Unit_Cost"], 64)
			return err == nil && f > 12.3456789
		}},
		{docs, "State ge 30 and Void eq false", func(r row) bool {
			n, _ := strconv.Atoi(r["State"])
			return n >= 30 && r["Void"] == "false"
		}},
		{docs, "State in (10,20)", func(r row) bool { return r["State"] == "10" || r["State"] == "20" }},
		{docs, "Document_No like '1%'", func(r row) bool { return strings.HasPrefix(r["Document_No"], "1") }},
		{docs, "Document_No eq 'it''s'", func(row) bool { return false }},
	} {
		var want, got []string
		key := key[c.table]
		for _, r := range all[c.table] {
			if c.match(r) {
				want = append(want, r[key])
			}
		}
		options := []string{"$select", key}
		if c.filter != "" {
			options = append(options, "$filter", c.filter)
		}
		got = rows(t, base, c.table, options...).column(t, key)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %d rows, not %d", c.filter, len(got), len(want))
		}
		if n, err := s.Oracle().Count(c.table, c.filter); err != nil || int(n) != len(want) {
			t.Errorf("%s: the oracle counts %d (%v), not %d", c.filter, n, err, len(want))
		}
		if len(want) == 0 && !strings.Contains(c.filter, "it''s") {
			t.Errorf("%s: nothing matches, the case proves nothing", c.filter)
		}
	}
}

// TestOwnerPaths joins lines, orders and documents in the test.
func TestOwnerPaths(t *testing.T) {
	s, base := newServer(t, Options{})
	if _, err := s.Delete(docs, 40); err != nil { // lines of deleted documents match nothing but "eq null"
		t.Fatal(err)
	}
	if _, err := s.Move(docs, 300); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Insert(lines, 50); err != nil {
		t.Fatal(err)
	}
	type doc struct {
		date, void string
		state      int
	}
	byID, docOf := map[string]doc{}, map[string]string{}
	for _, r := range rows(t, base, docs, "$select", "Id,Document_Date,Void,State").Value {
		state, _ := strconv.Atoi(string(r["State"]))
		byID[string(r["Id"])] = doc{strings.Trim(string(r["Document_Date"]), `"`), string(r["Void"]), state}
	}
	for _, r := range rows(t, base, "Crm_Sales_Orders", "$select", "Sales_Order_Id,Document_Id").Value {
		docOf[string(r["Sales_Order_Id"])] = string(r["Document_Id"])
	}
	want := 0
	linesOf := rows(t, base, lines, "$select", "Sales_Order_Id").Value
	for _, r := range linesOf {
		if d, ok := byID[docOf[string(r["Sales_Order_Id"])]]; ok && d.date >= "2024-03-01" && d.date <= "2024-03-31" && d.void == "false" && d.state >= 30 {
			want++
		}
	}
	const path = "Sales_Order_Reference/Document_Reference/"
	filter := path + "Document_Date ge 2024-03-01T00:00:00Z and " + path + "Document_Date le 2024-03-31T23:59:59Z and " +
		path + "Void eq false and " + path + "State ge 30"
	got := len(rows(t, base, lines, "$select", "Line_No", "$filter", filter).Value)
	if got != want || want < 50 || want > len(linesOf)/10 {
		t.Errorf("%d lines, not %d, of %d", got, want, len(linesOf))
	}
	if n := len(rows(t, base, lines, "$select", "Line_No", "$filter", path+"Void eq null").Value); n == 0 {
		t.Error("no line has lost its document")
	}
}

func TestKeyRanges(t *testing.T) {
	for table, key := range map[string]string{lines: "Sales_Order_Line_Id", "Gen_Document_Links": "From_Document_Id"} {
		s, base := newServer(t, Options{Rows: map[string]int64{table: 800}})
		if _, err := s.Insert(table, 30); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Delete(table, 30); err != nil {
			t.Fatal(err)
		}
		keys := rows(t, base, table, "$select", key).column(t, key)
		for _, i := range []int{0, 1, 500, len(keys) - 1} {
			first := slices.Index(keys, keys[i])
			behind := first
			for behind < len(keys) && keys[behind] == keys[i] {
				behind++
			}
			for filter, want := range map[string][]string{
				key + " ge " + keys[i]: keys[first:],
				key + " le " + keys[i]: keys[:behind],
				key + " eq " + keys[i]: keys[first:behind],
				key + " ge " + keys[i] + " and " + key + " le " + keys[min(i+5, len(keys)-1)]: nil,
			} {
				got := rows(t, base, table, "$select", key, "$filter", filter).column(t, key)
				if want != nil && !slices.Equal(got, want) {
					t.Errorf("%s: %d rows, not %d", filter, len(got), len(want))
				}
				if len(got) == 0 {
					t.Errorf("%s: nothing", filter)
				}
			}
		}
		// Ranges on keys that no row has.
		if got := rows(t, base, table, "$filter", key+" ge 00000000-0000-0000-0000-000000000000"); len(got.Value) != len(keys) {
			t.Errorf("from the least GUID on: %d rows", len(got.Value))
		}
		if got := rows(t, base, table, "$filter", key+" ge ffffffff-ffff-ffff-ffff-ffffffffffff"); len(got.Value) != 0 {
			t.Errorf("from the greatest GUID on: %d rows", len(got.Value))
		}
	}
}

func FuzzFilter(f *testing.F) {
	for _, seed := range []string{
		"", "Line_No eq 10", "(Line_No eq 1 or Line_No eq 2)", "Line_Store_Id in ('a','b')", "Product_Description like '%x%'",
		"Sales_Order_Reference/Document_Reference/Void eq false", "Required_Delivery_Date ge 2024-01-01T00:00:00Z", "a eq 'it''s'", "((", "' ",
		"Historical_Unit_Cost le -1.5", "Line_Store_Id eq null",
	} {
		f.Add(seed)
	}
	s, err := New(Options{})
	if err != nil {
		f.Fatal(err)
	}
	tb := s.catalog.tables[lines]
	f.Fuzz(func(t *testing.T, text string) {
		strict, errStrict := s.catalog.parseFilter(text, tb, true)
		if _, err := s.catalog.parseFilter(text, tb, false); errStrict == nil && err != nil {
			t.Fatalf("the strict reader takes what the lenient refuses: %v", err)
		}
		if errStrict != nil {
			return
		}
		plan := tb.plan(s.now, strict)
		if plan.lo < 0 || plan.lo > plan.hi || plan.hi > 20_000 {
			t.Fatalf("range %d to %d", plan.lo, plan.hi)
		}
		c := new(cell)
		for pos := plan.lo; pos < min(plan.hi, plan.lo+20); pos++ {
			plan.match(s.now, s.now.states[tb.id].at(tb.space, pos), c)
		}
	})
}
