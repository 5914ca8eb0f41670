package simulator

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"regexp"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/tablexport/tablexport/odata/edm"
)

func TestSameSeedSameRows(t *testing.T) {
	_, a := newServer(t, Options{Seed: 7})
	_, b := newServer(t, Options{Seed: 7})
	_, c := newServer(t, Options{Seed: 8})
	for _, table := range []string{"Crm_Sales_Order_Lines", "Inv_Current_Balances", "Gen_Document_Links"} {
		_, bodyA := get(t, a, table, "$top", "200")
		_, bodyB := get(t, b, table, "$top", "200")
		_, bodyC := get(t, c, table, "$top", "200")
		strip := func(s string) string { return s[strings.Index(s, `"value"`):] }
		if strip(bodyA) != strip(bodyB) {
			t.Errorf("%s: two servers with one seed differ", table)
		}
		if strip(bodyA) == strip(bodyC) {
			t.Errorf("%s: two seeds give the same rows", table)
		}
	}
	// A row does not depend on the page it stands on, nor on what else was selected.
	whole := rows(t, a, "Crm_Sales_Order_Lines", "$top", "20").column(t, "Unit_Price")
	part := rows(t, a, "Crm_Sales_Order_Lines", "$top", "5", "$skip", "10", "$select", "Unit_Price").column(t, "Unit_Price")
	if !slices.Equal(whole[10:15], part) {
		t.Errorf("rows 10 to 14: %v, then %v", whole[10:15], part)
	}
}

func TestKeysAscendInSQLServerOrderNotAsText(t *testing.T) {
	s, base := newServer(t, Options{Rows: map[string]int64{"Crm_Sales_Order_Lines": 3000}})
	if _, err := s.Insert("Crm_Sales_Order_Lines", 200); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Delete("Crm_Sales_Order_Lines", 150); err != nil {
		t.Fatal(err)
	}
	keys := rows(t, base, "Crm_Sales_Order_Lines", "$select", "Sales_Order_Line_Id").column(t, "Sales_Order_Line_Id")
	if len(keys) != 3050 {
		t.Fatalf("%d keys", len(keys))
	}
	for i := 1; i < len(keys); i++ {
		if edm.CompareGUID(keys[i-1], keys[i]) >= 0 {
			t.Fatalf("keys %d and %d do not ascend: %s, %s", i-1, i, keys[i-1], keys[i])
		}
	}
	if sort.StringsAreSorted(keys) {
		t.Error("the keys ascend as text, too")
	}
	inversions := 0
	for i := 1; i < len(keys); i++ {
		if keys[i-1] > keys[i] {
			inversions++
		}
	}
	if inversions < len(keys)/3 {
		t.Errorf("only %d of %d neighbours are out of order as text", inversions, len(keys))
	}
}

// TestEveryTableOfTheModel serves all tables and reads every answer with encoding/json against the oracle, value by value.
func TestEveryTableOfTheModel(t *testing.T) {
	counts := map[string]int64{}
	for _, name := range edm.Embedded().Tables() {
		counts[name] = 20
	}
	s, err := New(Options{Rows: counts})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range s.Tables() {
		if _, err := s.Insert(name, 5); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Delete(name, 3); err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, tableAPI+name, nil)
		r.Header.Set("X-Api-Key", DemoToken)
		s.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			t.Fatalf("%s: %d", name, w.Code)
		}
		p := parsePage(t, w.Body.String())
		if len(p.Value) != 22 {
			t.Fatalf("%s: %d rows", name, len(p.Value))
		}
		table := s.catalog.tables[name]
		checkRows(t, s, table, p)
		checkKeyOrder(t, s, table)
	}
}

func checkRows(t *testing.T, s *Server, table *table, p page) {
	t.Helper()
	want, err := s.Oracle().Rows(table.Name, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	for row := range want {
		if len(p.Value[i]) != len(table.columns) {
			t.Fatalf("%s: row %d has %d properties, the table %d columns", table.Name, i, len(p.Value[i]), len(table.columns))
		}
		for k := range table.columns {
			col := &table.columns[k]
			got := canonicalJSON(t, col, p.Value[i][col.Name])
			if got != row[k] {
				t.Fatalf("%s.%s row %d: the answer says %q, the oracle %q", table.Name, col.Name, i, got, row[k])
			}
			checkRange(t, table, col, got)
		}
		i++
	}
	if i != len(p.Value) {
		t.Fatalf("%s: the oracle has %d rows, the answer %d", table.Name, i, len(p.Value))
	}
}

var clock = regexp.MustCompile(`^\d\d:\d\d:\d\d(\.\d{1,7})?$`)

// canonicalJSON makes a canonical cell out of JSON with the standard library alone.
func canonicalJSON(t *testing.T, col *column, raw json.RawMessage) string {
	t.Helper()
	if string(raw) == "null" {
		return Null
	}
	text := ""
	if raw[0] == '"' {
		if err := json.Unmarshal(raw, &text); err != nil {
			t.Fatal(err)
		}
	}
	switch col.Type.Kind {
	case edm.Decimal:
		if text == "" {
			text = string(raw)
		}
		r, ok := new(big.Rat).SetString(text)
		if !ok {
			t.Fatalf("%s: %q is not a number", col.Name, raw)
		}
		return r.FloatString(int(col.Type.Scale))
	case edm.Double:
		f, err := strconv.ParseFloat(string(raw), 64)
		if err != nil {
			t.Fatal(err)
		}
		return strconv.FormatFloat(f, 'g', -1, 64)
	case edm.DateTime:
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			t.Fatal(err)
		}
		return at.UTC().Truncate(time.Microsecond).Format("2006-01-02T15:04:05.000000Z")
	case edm.Binary:
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(b)
	case edm.MultiLanguage:
		var m map[string]string
		if err := json.Unmarshal(raw, &m); err != nil || len(m) == 0 {
			t.Fatalf("%s: %q is not a language map: %v", col.Name, raw, err)
		}
		return string(raw)
	case edm.Boolean, edm.Byte, edm.Int16, edm.Int32:
		return string(raw)
	case edm.Int64:
		if text != "" {
			return text
		}
		return string(raw)
	}
	return text
}

// checkRange checks that a value is one of the column's type.
func checkRange(t *testing.T, table *table, col *column, v string) {
	t.Helper()
	bad := func(why string) { t.Fatalf("%s.%s: %q %s", table.Name, col.Name, v, why) }
	if v == Null {
		if !col.Nullable {
			bad("though it is not nullable")
		}
		return
	}
	bits := map[edm.Kind]int{edm.Int16: 16, edm.Int32: 32, edm.Int64: 64}
	switch kind := col.Type.Kind; kind {
	case edm.String:
		if n := len(utf16.Encode([]rune(v))); col.Type.MaxLength > 0 && n > int(col.Type.MaxLength) {
			bad("is too long")
		}
		if !utf8.ValidString(v) {
			bad("is not UTF-8")
		}
		if len(col.Allowed) > 0 && !slices.Contains(col.Allowed, v) {
			bad("is not allowed")
		}
	case edm.Byte:
		if _, err := strconv.ParseUint(v, 10, 8); err != nil {
			bad("is out of range")
		}
	case edm.Int16, edm.Int32, edm.Int64:
		if _, err := strconv.ParseInt(v, 10, bits[kind]); err != nil {
			bad("is out of range")
		}
		if len(col.Allowed) > 0 && !slices.Contains(col.Allowed, v) {
			bad("is not allowed")
		}
	case edm.Decimal:
		digits := strings.TrimLeft(strings.NewReplacer("-", "", ".", "").Replace(v), "0")
		if len(digits) > int(col.Type.Precision) {
			bad("has too many digits")
		}
	case edm.Date:
		if _, err := time.Parse(time.DateOnly, v); err != nil {
			bad("is not a date")
		}
	case edm.TimeOfDay:
		if _, err := time.Parse("15:04:05", v); err != nil || !clock.MatchString(v) {
			bad("is not a time of day")
		}
	case edm.Guid:
		if _, ok := edm.GUIDKey(v); !ok || strings.ToLower(v) != v {
			bad("is not a GUID")
		}
	}
}

// checkKeyOrder checks that the rows ascend by their key columns, compared one after the other, and are distinct.
func checkKeyOrder(t *testing.T, s *Server, table *table) {
	t.Helper()
	if len(table.Key) == 0 {
		return
	}
	var before Row
	seq, err := s.Oracle().Rows(table.Name, "", table.Key)
	if err != nil {
		t.Fatal(err)
	}
	for row := range seq {
		if before != nil && compareKeys(table, before, row) >= 0 {
			t.Fatalf("%s: the keys %v and %v do not ascend", table.Name, before, row)
		}
		before = row
	}
}

func compareKeys(table *table, a, b Row) int {
	for i, name := range table.Key {
		c := strings.Compare(a[i], b[i])
		switch table.column(name).Type.Kind {
		case edm.Guid:
			c = edm.CompareGUID(a[i], b[i])
		case edm.Int32:
			x, _ := strconv.Atoi(a[i])
			y, _ := strconv.Atoi(b[i])
			c = x - y
		}
		if c != 0 {
			return c
		}
	}
	return 0
}

// TestDataIsNasty checks that what breaks careless readers is in the data.
func TestDataIsNasty(t *testing.T) {
	s, err := New(Options{Rows: map[string]int64{"Crm_Sales_Order_Lines": 20_000, "Inv_Current_Balances": 5000, "Gen_Documents": 6000}})
	if err != nil {
		t.Fatal(err)
	}
	all := func(table, column string) (list []string) {
		seq, err := s.Oracle().Rows(table, "", []string{column})
		if err != nil {
			t.Fatal(err)
		}
		for r := range seq {
			list = append(list, r[0])
		}
		return list
	}
	has := func(what string, list []string, pattern string) {
		t.Helper()
		re := regexp.MustCompile(pattern)
		if !slices.ContainsFunc(list, re.MatchString) {
			t.Errorf("no %s", what)
		}
	}
	notes := all("Crm_Sales_Order_Lines", "Notes")
	has("Cyrillic", notes, `\p{Cyrillic}`)
	has("Arabic", notes, `\p{Arabic}`)
	has("Han", notes, `\p{Han}`)
	has("text beyond the basic plane", notes, `[\x{10000}-\x{10ffff}]`)
	has("control character", notes, `\x01`)
	has("quote", notes, `"`)
	has("backslash", notes, `\\`)
	has("empty text", notes, `^$`)
	if !slices.ContainsFunc(notes, func(s string) bool { return len(s) > 15_000 }) {
		t.Error("no long text")
	}
	cost := all("Inv_Current_Balances", "Base_Cost")
	has("38-digit number", cost, `^-?[1-9]\d{35}\.\d\d$`)
	has("limit", cost, `^-?9{36}\.99$`)
	has("negative number", cost, `^-`)
	has("zero", cost, `^0\.00$`)
	has("NULL", notes, "^"+Null+"$")
	at := all("Crm_Sales_Order_Lines", "Intrastat_Apply_Date")
	has("year 1753", at, `^1753-01-01`)
	has("year 1", at, `^0001-01-01`)
	has("year 9999", at, `^9999-12-31`)
	has("microseconds", at, `\.\d{5}[1-9]Z`)
	stores := map[string]int{}
	for _, v := range all("Crm_Sales_Order_Lines", "Line_Store_Id") {
		stores[v]++
	}
	if len(stores) != 9 || stores[Null] == 0 || stores[Null] > 1500 {
		t.Errorf("%d different stores, %d lines without", len(stores), stores[Null])
	}
	most := 0
	for _, n := range stores {
		most = max(most, n)
	}
	if most < 20_000/4 {
		t.Errorf("the favourite store has only %d lines", most)
	}
	if _, body := getDirect(t, s, "Crm_Sales_Order_Lines?$select=Notes"); !strings.Contains(body, `\ud8`) || !strings.Contains(body, `\u0001`) || !strings.Contains(body, `\/`) {
		t.Error("the texts are not escaped in several ways")
	}
}

// getDirect asks without a network.
func getDirect(t *testing.T, s *Server, pathAndQuery string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, tableAPI+pathAndQuery, nil)
	r.Header.Set("Authorization", "Bearer "+DemoToken)
	s.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// TestStreamingHoldsNoRows streams a table in every order that needs no sorting and looks at the heap.
func TestStreamingHoldsNoRows(t *testing.T) {
	const n = 200_000
	s, err := New(Options{Rows: map[string]int64{"Crm_Sales_Order_Lines": n}})
	if err != nil {
		t.Fatal(err)
	}
	for _, natural := range []Natural{ByKey, Shuffled} {
		if err := s.SetBehavior("", Behavior{Natural: natural}); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		r := httptest.NewRequest(http.MethodGet, tableAPI+"Crm_Sales_Order_Lines?$select=Sales_Order_Line_Id,Quantity,Notes", nil)
		r.Header.Set("X-Api-Key", DemoToken)
		w := &discard{header: http.Header{}}
		s.ServeHTTP(w, r)
		runtime.ReadMemStats(&after)
		if w.n < n*100 {
			t.Fatalf("only %d bytes", w.n)
		}
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 8<<20 {
			t.Errorf("order %d: %d bytes were allocated for one answer", natural, grown)
		}
	}
}

func TestShuffleIsAPermutation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(1, 3000).Draw(t, "n")
		p := newShuffle(n, rapid.Uint64().Draw(t, "seed"))
		seen := make([]bool, n)
		for i := range n {
			at := p.at(i)
			if at < 0 || at >= n || seen[at] {
				t.Fatalf("place %d leads to %d", i, at)
			}
			seen[at] = true
		}
	})
}

// TestStateAgainstSlice runs random mutations on a state and on a plain slice of keys.
func TestStateAgainstSlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, err := New(Options{Rows: map[string]int64{"Gen_Products": rapid.Int64Range(0, 60).Draw(t, "rows")}})
		if err != nil {
			t.Fatal(err)
		}
		tb := s.catalog.tables["Gen_Products"]
		live := map[uint64]bool{}
		for i := range tb.space.n {
			live[tb.space.base(i)] = true
		}
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			old := s.now
			n := rapid.IntRange(0, 20).Draw(t, "n")
			if rapid.Bool().Draw(t, "insert") {
				_, err = s.Insert(tb.Name, n)
			} else {
				_, err = s.Delete(tb.Name, n)
			}
			if err != nil {
				t.Fatal(err)
			}
			st := s.now.states[tb.id]
			was := old.states[tb.id]
			now := map[uint64]bool{}
			last := uint64(0)
			for pos := range st.live() {
				r := st.at(tb.space, pos)
				if r.ord <= last {
					t.Fatalf("position %d does not ascend", pos)
				}
				last = r.ord
				now[r.ord] = true
				if _, ok := st.find(tb.space, r.ord); !ok {
					t.Fatalf("row at %d is not found", pos)
				}
			}
			if len(now) != int(st.live()) {
				t.Fatal("rows are repeated")
			}
			for ord := range live {
				if _, ok := st.find(tb.space, ord); ok != now[ord] {
					t.Fatal("find and at disagree")
				}
				if _, ok := was.find(tb.space, ord); !ok {
					t.Fatal("the state before the mutation has changed")
				}
			}
			live = now
		}
	})
}

func TestDecimalText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		scale := rapid.IntRange(0, 38).Draw(t, "scale")
		digits := rapid.StringMatching(`[0-9]{1,38}`).Draw(t, "digits")
		want, _ := new(big.Int).SetString(digits, 10)
		neg := rapid.Bool().Draw(t, "neg") && want.Sign() != 0
		mask := new(big.Int).SetUint64(^uint64(0))
		d := decimal{neg: neg, lo: new(big.Int).And(want, mask).Uint64(), hi: new(big.Int).Rsh(want, 64).Uint64()}
		text := string(appendDecimal(nil, d, scale))
		r, ok := new(big.Rat).SetString(text)
		if neg {
			want.Neg(want)
		}
		if !ok || r.Cmp(new(big.Rat).SetFrac(want, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil))) != 0 {
			t.Fatalf("%s at scale %d is written %q", want, scale, text)
		}
		back, exact, ok := parseDecimal(text, scale)
		if !ok || !exact || back != d {
			t.Fatalf("%q is read back as %v (%v, %v)", text, back, exact, ok)
		}
	})
}

func TestDates(t *testing.T) {
	for _, days := range []int64{0, 1, 58, 59, 365, 36_523, 36_524, 146_096, 146_097, 693_595, 730_119, maxDay - 1, maxDay} {
		want := time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, int(days))
		if y, m, d := civil(days); y != want.Year() || m != int(want.Month()) || d != want.Day() || daysOf(y, m, d) != days {
			t.Errorf("day %d is %v, not %d-%d-%d", days, want, y, m, d)
		}
	}
}
