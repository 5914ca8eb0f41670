package simulator

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// newServer starts a server for a test.
func newServer(tb testing.TB, opts Options) (*Server, string) {
	tb.Helper()
	s, err := New(opts)
	if err != nil {
		tb.Fatal(err)
	}
	ts := httptest.NewServer(s)
	tb.Cleanup(ts.Close)
	return s, ts.URL
}

// request builds a request with the demo token. options are pairs of name and value.
func request(tb testing.TB, base, path string, options ...string) *http.Request {
	tb.Helper()
	values := url.Values{}
	for i := 0; i+1 < len(options); i += 2 {
		values.Set(options[i], options[i+1])
	}
	address := base + tableAPI + path
	if len(values) > 0 {
		address += "?" + values.Encode()
	}
	r, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, address, nil)
	if err != nil {
		tb.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+DemoToken)
	return r
}

// get answers status and body.
func get(tb testing.TB, base, path string, options ...string) (int, string) {
	tb.Helper()
	resp, err := http.DefaultClient.Do(request(tb, base, path, options...))
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// page is an answer as encoding/json reads it.
type page struct {
	Context string                       `json:"@odata.context"`
	Count   *int64                       `json:"@odata.count"`
	Value   []map[string]json.RawMessage `json:"value"`
	Next    string                       `json:"@odata.nextLink"`
}

// rows answers a page, which must be valid.
func rows(tb testing.TB, base, table string, options ...string) page {
	tb.Helper()
	status, body := get(tb, base, table, options...)
	if status != http.StatusOK {
		tb.Fatalf("%s: status %d: %s", table, status, body)
	}
	return parsePage(tb, body)
}

func parsePage(tb testing.TB, body string) page {
	tb.Helper()
	var p page
	d := json.NewDecoder(strings.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		tb.Fatalf("the answer is not valid: %v\n%.400s", err, body)
	}
	if p.Context == "" || p.Value == nil {
		tb.Fatalf("the answer lacks context or value: %.400s", body)
	}
	return p
}

func (p page) column(tb testing.TB, name string) []string {
	tb.Helper()
	out := make([]string, len(p.Value))
	for i, row := range p.Value {
		raw, ok := row[name]
		if !ok {
			tb.Fatalf("row %d lacks %s", i, name)
		}
		out[i] = string(raw)
		var s string
		if json.Unmarshal(raw, &s) == nil {
			out[i] = s
		}
	}
	return out
}

var n20 = []string{
	"Sales_Order_Line_Id", "Sales_Order_Id", "Line_No", "Product_Id", "Quantity", "Unit_Price", "Line_Amount", "Line_Store_Id",
	"Product_Description", "Notes", "Required_Delivery_Date", "Quantity_Unit_Id", "Line_Custom_Discount_Percent", "Tax_Amount",
	"Row_Version", "Delivery_Terms_Code", "Persist_Lot", "Intrastat_Apply_Date", "Standard_Unit_Price", "Lot_Id",
}

func BenchmarkStream(b *testing.B) {
	s, err := New(Options{Rows: map[string]int64{"Crm_Sales_Order_Lines": 100_000_000}})
	if err != nil {
		b.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, fmt.Sprintf("%sCrm_Sales_Order_Lines?$select=%s&$top=%d", tableAPI, strings.Join(n20, ","), b.N), nil)
	r.Header.Set("X-Api-Key", DemoToken)
	w := &discard{header: http.Header{}}
	b.ResetTimer()
	s.ServeHTTP(w, r)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64(w.n)/float64(b.N), "B/row")
}

// discard is a client that throws the answer away.
type discard struct {
	header http.Header
	status int
	n      int64
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(code int)        { d.status = code }
func (d *discard) Write(p []byte) (int, error) { d.n += int64(len(p)); return len(p), nil }
