package simulator

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/tablexport/tablexport/odata/edm"
)

const product = "Gen_Products"

// products serves 300 products with a behaviour.
func products(t *testing.T, b Behavior) (*Server, string) {
	t.Helper()
	return newServer(t, Options{Behavior: b, Rows: map[string]int64{product: 300}})
}

func ids(t *testing.T, base string, options ...string) []string {
	t.Helper()
	return rows(t, base, product, append(options, "$select", "Id")...).column(t, "Id")
}

func sortedKeys(keys []string) []string {
	return slices.SortedFunc(slices.Values(keys), edm.CompareGUID)
}

func TestOrderBy(t *testing.T) {
	s, base := products(t, Behavior{Natural: Shuffled})
	want, err := s.Oracle().Keys(product, "")
	if err != nil {
		t.Fatal(err)
	}
	down := slices.Clone(want)
	slices.Reverse(down)
	if got := ids(t, base, "$orderby", "Id"); !slices.Equal(got, want) {
		t.Error("accepted $orderby does not order")
	}
	if got := ids(t, base, "$orderby", "Id desc"); !slices.Equal(got, down) {
		t.Error("accepted $orderby desc does not order")
	}
	byNumber := rows(t, base, product, "$orderby", "Part_Number desc,Id", "$select", "Part_Number").column(t, "Part_Number")
	if !slices.IsSortedFunc(byNumber, func(a, b string) int { return strings.Compare(b, a) }) {
		t.Error("$orderby on another column does not order")
	}
	first, second := ids(t, base), ids(t, base)
	if slices.Equal(first, second) || slices.Equal(first, want) {
		t.Error("the natural order does not change")
	}
	if !slices.Equal(sortedKeys(first), want) || !slices.Equal(sortedKeys(second), want) {
		t.Error("a shuffled answer is not the table")
	}

	if err := s.SetBehavior("", Behavior{Natural: Shuffled, OrderBy: RefuseOrderBy}); err != nil {
		t.Fatal(err)
	}
	if status, _ := get(t, base, product, "$orderby", "Id"); status != 400 {
		t.Errorf("refused $orderby: %d", status)
	}
	if err := s.SetBehavior(product, Behavior{Natural: Shuffled, OrderBy: IgnoreOrderBy}); err != nil {
		t.Fatal(err)
	}
	if slices.Equal(ids(t, base, "$orderby", "Id"), want) {
		t.Error("ignored $orderby orders")
	}
	if err := s.SetBehavior(product, Behavior{Natural: ByColumn, NaturalColumn: "Part_Number"}); err != nil {
		t.Fatal(err)
	}
	numbers := rows(t, base, product, "$select", "Part_Number").column(t, "Part_Number")
	if !slices.IsSorted(numbers) || slices.Equal(ids(t, base), want) {
		t.Error("the natural order is not that of the column")
	}
	if s.SetBehavior(product, Behavior{Natural: ByColumn, NaturalColumn: "Nothing"}) == nil || s.SetBehavior("Nothing", Behavior{}) == nil {
		t.Error("an impossible behaviour is accepted")
	}
}

func TestTopAndSkip(t *testing.T) {
	_, base := products(t, Behavior{})
	all := ids(t, base)
	for _, c := range []struct{ top, skip, from, to int }{{10, 0, 0, 10}, {10, 295, 295, 300}, {0, 0, 0, 0}, {10, 300, 300, 300}, {2147483647, 100, 100, 300}} {
		got := ids(t, base, "$top", strconv.Itoa(c.top), "$skip", strconv.Itoa(c.skip))
		if !slices.Equal(got, all[c.from:c.to]) {
			t.Errorf("top %d skip %d: %d rows", c.top, c.skip, len(got))
		}
	}
	active := ids(t, base, "$filter", "Active eq true")
	if got := ids(t, base, "$filter", "Active eq true", "$skip", "7", "$top", "9"); !slices.Equal(got, active[7:16]) {
		t.Error("$skip does not count what the filter admits")
	}
	_, base = products(t, Behavior{IgnoreTop: true})
	if got := ids(t, base, "$top", "5"); len(got) != 300 {
		t.Errorf("ignored $top: %d rows", len(got))
	}
	_, base = products(t, Behavior{MaxRows: 70})
	if p := rows(t, base, product, "$top", "200"); len(p.Value) != 70 || p.Next != "" {
		t.Errorf("cut at 70: %d rows, next link %q", len(p.Value), p.Next)
	}
	if got := ids(t, base, "$top", "5"); len(got) != 5 {
		t.Errorf("a small page of a server that cuts: %d rows", len(got))
	}
}

func TestCount(t *testing.T) {
	s, base := products(t, Behavior{Count: InlineCount | PathCount, MaxRows: 20})
	want, err := s.Oracle().Count(product, "Active eq true")
	if err != nil {
		t.Fatal(err)
	}
	p := rows(t, base, product, "$count", "true", "$filter", "Active eq true", "$top", "3", "$skip", "2")
	if p.Count == nil || *p.Count != want || want == 0 || want == 300 {
		t.Errorf("@odata.count is %v, not %d", p.Count, want)
	}
	if p := rows(t, base, product, "$count", "false"); p.Count != nil {
		t.Error("a count that nobody asked for")
	}
	if status, body := get(t, base, product+"/$count", "$filter", "Active eq true"); status != 200 || body != strconv.FormatInt(want, 10) {
		t.Errorf("$count: %d %q", status, body)
	}
	if status, _ := get(t, base, product+"/$count", "$filter", "Active ne true"); status != 400 {
		t.Errorf("$count with a bad filter: %d", status)
	}
	_, base = products(t, Behavior{Count: PathCount})
	if status, _ := get(t, base, product, "$count", "true"); status != 400 {
		t.Errorf("$count=true where there is only the path: %d", status)
	}
}

// follow reads a chain of pages.
func follow(t *testing.T, base string, options ...string) (keys []string, pages int) {
	t.Helper()
	p := rows(t, base, product, append(options, "$select", "Id")...)
	for pages = 1; ; pages++ {
		keys = append(keys, p.column(t, "Id")...)
		if p.Next == "" || pages > 100 {
			return keys, pages
		}
		link, err := url.Parse(p.Next)
		if err != nil {
			t.Fatal(err)
		}
		root, _ := url.Parse(base + tableAPI)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, root.ResolveReference(link).String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Api-Key", DemoToken)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp.Status, string(body), err)
		}
		p = parsePage(t, string(body))
	}
}

func TestNextLink(t *testing.T) {
	for _, c := range []struct {
		name    string
		b       Behavior
		options []string
		rows    int
		pages   int
		ordered bool
	}{
		{"skiptoken", Behavior{NextLink: NextLink{PageSize: 70}}, nil, 300, 5, true},
		{"page is the rest", Behavior{NextLink: NextLink{PageSize: 100}}, nil, 300, 3, true},
		{"relative", Behavior{NextLink: NextLink{PageSize: 70, Relative: true}}, nil, 300, 5, true},
		{"by skip", Behavior{NextLink: NextLink{PageSize: 70, BySkip: true}}, nil, 300, 5, true},
		{"by skip from 50 on", Behavior{NextLink: NextLink{PageSize: 70, BySkip: true}}, []string{"$skip", "50"}, 250, 4, true},
		{"from 50 on", Behavior{NextLink: NextLink{PageSize: 70}}, []string{"$skip", "50"}, 250, 4, true},
		{"top is a page", Behavior{NextLink: NextLink{PageSize: 70}}, []string{"$top", "30"}, 300, 10, true},
		{"top is the total", Behavior{NextLink: NextLink{PageSize: 70, TopIsTotal: true}}, []string{"$top", "150"}, 150, 3, true},
		{"top is one page", Behavior{NextLink: NextLink{PageSize: 70, TopIsTotal: true}}, []string{"$top", "70"}, 70, 1, true},
		{"descending", Behavior{NextLink: NextLink{PageSize: 70}}, []string{"$orderby", "Id desc"}, 300, 5, false},
		{"another order", Behavior{NextLink: NextLink{PageSize: 70}}, []string{"$orderby", "Part_Number"}, 300, 5, false},
		{"shuffled", Behavior{Natural: Shuffled, NextLink: NextLink{PageSize: 70}}, nil, 300, 5, false},
		{"filtered", Behavior{NextLink: NextLink{PageSize: 30}}, []string{"$filter", "Active eq true"}, -1, -1, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, base := products(t, c.b)
			all, err := s.Oracle().Keys(product, "")
			if err != nil {
				t.Fatal(err)
			}
			if c.rows < 0 {
				all, _ = s.Oracle().Keys(product, c.options[1])
				c.rows, c.pages = len(all), (len(all)+29)/30
			}
			got, pages := follow(t, base, c.options...)
			distinct := slices.Compact(sortedKeys(got))
			if len(got) != c.rows || len(distinct) != c.rows || pages != c.pages {
				t.Errorf("%d rows, %d of them different, on %d pages; want %d on %d", len(got), len(distinct), pages, c.rows, c.pages)
			}
			if c.ordered && !slices.Equal(got, sortedKeys(got)) {
				t.Error("the rows are not in key order")
			}
			if len(got) == 300 && !slices.Equal(sortedKeys(got), all) {
				t.Error("the rows are not the table")
			}
		})
	}
	_, base := products(t, Behavior{NextLink: NextLink{PageSize: 70}})
	for _, token := range []string{"", "!", "eA", "ay4xLjIuLTM"} {
		if status, _ := get(t, base, product, "$skiptoken", token); status != 400 {
			t.Errorf("$skiptoken=%q: %d", token, status)
		}
	}
}

// TestNextLinkWhileRowsChange checks that a skiptoken does not lose or repeat rows that stay, while $skip does.
func TestNextLinkWhileRowsChange(t *testing.T) {
	lost := func(bySkip bool) (missing, twice int) {
		s, base := products(t, Behavior{NextLink: NextLink{PageSize: 50, BySkip: bySkip}})
		for n := 2; n < 6; n++ {
			s.Before(product, n, func() {
				if _, err := s.Delete(product, 15); err != nil {
					t.Error(err)
				}
			})
		}
		mark := s.Oracle().Mark()
		got, _ := follow(t, base)
		seen := map[string]int{}
		for _, k := range got {
			seen[k]++
		}
		witnesses, err := s.Oracle().Throughout(mark, product, "", []string{"Id"})
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range witnesses {
			if w.Must && seen[w.Key] == 0 {
				missing++
			}
			if seen[w.Key] > 1 {
				twice++
			}
		}
		return missing, twice
	}
	if m, d := lost(false); m != 0 || d != 0 {
		t.Errorf("by skiptoken: %d missing, %d twice", m, d)
	}
	if m, _ := lost(true); m == 0 {
		t.Error("by $skip nothing is lost: the simulator is too kind")
	}
}

// TestForms checks that every form of an answer says the same.
func TestForms(t *testing.T) {
	for name, b := range map[string]Behavior{
		"plain":      {},
		"offsets":    {Offsets: true},
		"trimmed":    {TrimZeros: true},
		"exponents":  {Exponents: true},
		"strings":    {NumbersAsStrings: true},
		"shuffled":   {ShuffleProperties: true},
		"whitespace": {Whitespace: true},
		"together":   {Offsets: true, TrimZeros: true, ShuffleProperties: true, Whitespace: true, NumbersAsStrings: true},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := New(Options{Behavior: b, Rows: map[string]int64{lines: 300, "Inv_Current_Balances": 300, "Mail_Boxes": 50}})
			if err != nil {
				t.Fatal(err)
			}
			for _, table := range []string{lines, "Inv_Current_Balances", "Mail_Boxes"} {
				_, body := getDirect(t, s, table)
				checkRows(t, s, s.catalog.tables[table], parsePage(t, body))
			}
		})
	}
	_, body := get2(t, Behavior{Offsets: true})
	if !strings.Contains(body, "+02:00") || !strings.Contains(body, "-05:00") {
		t.Error("no offsets")
	}
	_, body = get2(t, Behavior{Exponents: true})
	if !strings.Contains(body, "e-") {
		t.Error("no exponents")
	}
	_, body = get2(t, Behavior{Whitespace: true})
	if !strings.Contains(body, "\n") || !strings.Contains(body, "\t") {
		t.Error("no white space")
	}
	_, body = get2(t, Behavior{OmitNulls: true})
	if strings.Contains(body, ":null") {
		t.Error("nulls are not left out")
	}
	s1, _ := get2(t, Behavior{ShuffleProperties: true})
	orders := map[string]bool{}
	_, body = getDirect(t, s1, product+"?$select=Id,Active,Part_Number&$top=60")
	for _, row := range strings.Split(body[strings.Index(body, `"value"`):], "}") {
		if i := strings.Index(row, `{"`); i >= 0 {
			orders[row[i+2:i+4]] = true
		}
	}
	if len(orders) != 3 {
		t.Errorf("the properties come in the orders %v", orders)
	}
}

func get2(t *testing.T, b Behavior) (*Server, string) {
	t.Helper()
	s, err := New(Options{Behavior: b, Rows: map[string]int64{product: 300}})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, tableAPI+product+"?$select=Id,Creation_Time,Standard_Price_Per_Lot,Description", nil)
	r.Header.Set("X-Api-Key", DemoToken)
	s.ServeHTTP(w, r)
	return s, w.Body.String()
}

func TestCompression(t *testing.T) {
	for _, tt := range []struct {
		options      Options
		accept, want string
	}{
		{Options{}, "deflate, gzip;q=0.8", "gzip"},
		{Options{}, "zstd, gzip", "gzip"},
		{Options{}, "zstd, gzip;q=0", ""},
		{Options{}, "identity", ""},
		{Options{Plain: true}, "gzip", ""},
		{Options{Zstd: true}, "zstd, gzip", "zstd"},
		{Options{Zstd: true}, "gzip", "gzip"},
		{Options{Zstd: true}, "identity", ""},
		{Options{Zstd: true, Plain: true}, "zstd, gzip", ""},
	} {
		tt.options.Rows = map[string]int64{product: 300}
		s, err := New(tt.options)
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, tableAPI+product, nil)
		r.Header.Set("X-Api-Key", DemoToken)
		r.Header.Set("Accept-Encoding", tt.accept)
		s.ServeHTTP(w, r)
		if coding := w.Header().Get("Content-Encoding"); coding != tt.want {
			t.Fatalf("%+v, %q: the answer comes as %q", tt.options, tt.accept, coding)
		}
		body := io.Reader(w.Body)
		switch tt.want {
		case "gzip":
			body, err = gzip.NewReader(body)
		case "zstd":
			body, err = zstd.NewReader(body)
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(body)
		if err != nil {
			t.Fatal(err)
		}
		if p := parsePage(t, string(text)); len(p.Value) != 300 {
			t.Error(len(p.Value))
		}
	}
}

func TestDiscoveryAndServiceDocument(t *testing.T) {
	_, base := newServer(t, Options{Database: "ACME", Version: "26.2"})
	plain := func(path string) (int, []byte) {
		t.Helper()
		resp, err := http.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, body
	}
	var d struct {
		Host, DbName string
		WebSites     []struct{ Type, Status, URL string }
	}
	status, body := plain("/tools/auto-discovery")
	if err := json.Unmarshal(body, &d); err != nil || status != 200 || d.DbName != "ACME" || "http://"+d.Host != base {
		t.Fatalf("%d %s %v", status, body, err)
	}
	site := ""
	for _, w := range d.WebSites {
		if w.Type == "TableApi" && w.Status == "Working" {
			site = w.URL
		}
	}
	if site != base+"/tableapi" {
		t.Errorf("the Table API is at %q", site)
	}
	if status, body := plain("/tools/ver"); status != 200 || string(body) != "26.2" {
		t.Errorf("%d %s", status, body)
	}
	if status, _ := plain("/elsewhere"); status != 404 {
		t.Errorf("%d", status)
	}
	if status, body := plain("/id/.well-known/openid-configuration"); status != 200 || !strings.Contains(string(body), base+"/id/connect/token") {
		t.Errorf("%d %s", status, body)
	}
	var doc struct {
		Value []struct{ Name, Kind, URL string }
	}
	status, text := get(t, base, "")
	if err := json.Unmarshal([]byte(text), &doc); err != nil || status != 200 || len(doc.Value) < 12 {
		t.Fatalf("%d %s", status, text)
	}
	for _, e := range doc.Value {
		if e.Kind != "table" || e.Name == "" {
			t.Errorf("%+v", e)
		}
		if status, _ := get(t, base, e.URL, "$top", "1"); status != 200 {
			t.Errorf("%s: %d", e.Name, status)
		}
	}
}

// TestMetadataIsTheModel reads $metadata of all tables with package edm and compares it with the embedded model.
func TestMetadataIsTheModel(t *testing.T) {
	counts := map[string]int64{}
	for _, name := range edm.Embedded().Tables() {
		counts[name] = 1
	}
	s, err := New(Options{Rows: counts})
	if err != nil {
		t.Fatal(err)
	}
	status, body := getDirect(t, s, "$metadata")
	if status != 200 {
		t.Fatal(status)
	}
	live, err := edm.ParseCSDL(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	merged := edm.Merge(live, edm.Embedded())
	for _, name := range edm.Embedded().Tables() {
		want, _ := edm.Embedded().Table(name)
		got, ok := merged.Table(name)
		if !ok || len(got.Columns) != len(want.Columns) || !slices.Equal(got.Key, want.Key) {
			t.Fatalf("%s: %v", name, got)
		}
		for i := range want.Columns {
			w, g := &want.Columns[i], &got.Columns[i]
			if g.Name != w.Name || g.Type != w.Type || g.Nullable != w.Nullable || g.Ops != w.Ops || g.References != w.References {
				t.Errorf("%s.%s: %+v, not %+v", name, w.Name, g, w)
			}
		}
	}
	s, err = New(Options{NoMetadata: true})
	if err != nil {
		t.Fatal(err)
	}
	if status, _ := getDirect(t, s, "$metadata"); status != 404 {
		t.Error(status)
	}
}

func TestStart(t *testing.T) {
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"0.0.0.0:0", ":0", "192.0.2.1:80", "example.com:80", "127.0.0.1"} {
		if _, _, err := s.Start(addr); err == nil {
			t.Errorf("%s is accepted", addr)
		}
	}
	base, stop, err := s.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if p := rows(t, base, "Inv_Stores"); len(p.Value) != 8 {
		t.Error(len(p.Value))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := stop(ctx); err != nil {
		t.Error(err)
	}
	if _, err := http.Get(base); err == nil {
		t.Error("the server still answers")
	}
}

func TestOptionsThatCannotBe(t *testing.T) {
	for name, o := range map[string]Options{
		"unknown table":    {Rows: map[string]int64{"Nothing": 1}},
		"negative rows":    {Rows: map[string]int64{product: -1}},
		"behaviour":        {Tables: map[string]Behavior{"Crm_Deals": {}}},
		"token":            {Tokens: []Token{{Value: "x"}}},
		"row filter":       {Tokens: []Token{{Value: "enrt_x", RowFilter: map[string]string{product: "x y"}}}},
		"app's row filter": {Apps: []App{{User: Token{RowFilter: map[string]string{"Crm_Deals": ""}}}}},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	s, err := New(Options{Rows: map[string]int64{lines: 100}})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Tables(); !slices.Equal(got, []string{lines, "Crm_Sales_Orders", docs}) {
		t.Errorf("owners are served, too: %v", got)
	}
}
