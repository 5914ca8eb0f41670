package odata_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/evidence"
	"github.com/tablexport/tablexport/odata/filter"
	"github.com/tablexport/tablexport/odata/simulator"
)

// bearer is a credential for tests. It counts what is asked of it.
type bearer struct {
	token   atomic.Pointer[string]
	next    string // what Renew gives; "" = no newer one
	err     error  // what Authorize says
	renewed atomic.Int32
}

func newBearer(token string) *bearer {
	b := new(bearer)
	b.token.Store(&token)
	return b
}

func (b *bearer) Authorize(_ context.Context, req *http.Request) error {
	if b.err != nil {
		return b.err
	}
	req.Header.Set("Authorization", "Bearer "+*b.token.Load())
	return nil
}

func (b *bearer) Renew(context.Context) error {
	b.renewed.Add(1)
	if b.next == "" {
		return errors.New("no newer token than " + *b.token.Load())
	}
	b.token.Store(&b.next)
	return nil
}

func (b *bearer) Fingerprint() string {
	return "fp" + strconv.Itoa(len(*b.token.Load()))
}

// sim is a simulator that serves, with a client and a session on it.
type sim struct {
	tb      testing.TB
	server  *simulator.Server
	oracle  *simulator.Oracle
	client  *odata.Client
	session *odata.Session
	model   *edm.Model
}

const lines, view, links = "Crm_Sales_Order_Lines", "Inv_Current_Balances", "Gen_Document_Links"

var lineColumns = []string{"Line_No", "Quantity", "Product_Description", "Line_Amount", "Sales_Order_Line_Id", "Required_Delivery_Date", "Notes"}

func startSim(tb testing.TB, o simulator.Options, change ...func(*odata.Options)) *sim {
	tb.Helper()
	if o.Rows == nil {
		o.Rows = map[string]int64{lines: 1300, view: 700, links: 900}
	}
	o.Seed = 7
	server, err := simulator.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	ts := httptest.NewServer(server)
	tb.Cleanup(ts.Close)
	opts := odata.Options{
		Name: "acme", URL: ts.URL, Sandbox: true, RequestsPerMinute: 6_000_000, Encoding: odata.EncodingGzip,
		HeaderTimeout: 5 * time.Second, IdleTimeout: 5 * time.Second,
		Retry:   odata.RetryPolicy{Attempts: 4, Base: time.Millisecond, Max: 4 * time.Millisecond, MaxWait: 2 * time.Second},
		Breaker: odata.BreakerPolicy{Failures: 50, OpenFor: time.Minute},
	}
	for _, f := range change {
		f(&opts)
	}
	client, err := odata.NewClient(opts)
	if err != nil {
		tb.Fatal(err)
	}
	model := o.Model
	if model == nil {
		model = edm.Embedded()
	}
	return &sim{
		tb: tb, server: server, oracle: server.Oracle(), client: client, model: model,
		session: client.Open(newBearer(simulator.DemoToken)),
	}
}

func (s *sim) query(table string) odata.Query {
	s.tb.Helper()
	t, ok := s.model.Table(table)
	if !ok {
		s.tb.Fatalf("no table %s", table)
	}
	q := odata.Query{Table: t, PageSize: 240, Batch: 32}
	switch table {
	case lines:
		q.Select = lineColumns
	default:
		q.Select = t.DefaultSelect()
	}
	return q
}

// scan makes one scan and collects the rows.
func (s *sim) scan(q odata.Query) ([]simulator.Row, evidence.Evidence, error) {
	s.tb.Helper()
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	q.Memory = mem
	scan, err := s.session.Scan(q)
	if err != nil {
		s.tb.Fatal(err)
	}
	var rows []simulator.Row
	for rec, err := range scan.Records(s.tb.Context()) {
		if err != nil {
			mem.AssertSize(s.tb, 0)
			return nil, scan.Evidence(), err
		}
		if !rec.Schema().Equal(scan.Schema()) {
			s.tb.Fatalf("a record has another schema than the scan: %v", rec.Schema())
		}
		for i := range int(rec.NumRows()) {
			row := make(simulator.Row, rec.NumCols())
			for k, col := range rec.Columns() {
				c, _ := q.Table.Column(q.Select[k])
				row[k] = canonical(c, col, i)
			}
			rows = append(rows, row)
		}
	}
	mem.AssertSize(s.tb, 0)
	ev := scan.Evidence()
	if err := ev.Judge(); err != nil {
		s.tb.Errorf("the scan ended well, but its evidence is not believed: %v", err)
	}
	if ev.Rows != int64(len(rows)) {
		s.tb.Errorf("evidence of %d rows, %d came", ev.Rows, len(rows))
	}
	return rows, ev, nil
}

// refresh scans as a runner does: again while the error says so, three times at most.
func (s *sim) refresh(q odata.Query) (rows []simulator.Row, ev evidence.Evidence, err error) {
	s.tb.Helper()
	for q.Attempt = 1; q.Attempt <= 3; q.Attempt++ {
		rows, ev, err = s.scan(q)
		var again *odata.RescanError
		if !errors.As(err, &again) || !again.Retry {
			return rows, ev, err
		}
		s.tb.Logf("attempt %d: %v", q.Attempt, err)
	}
	return nil, ev, err
}

// exact refreshes and demands that the rows are what the oracle says.
func (s *sim) exact(q odata.Query) evidence.Evidence {
	s.tb.Helper()
	mark := s.oracle.Mark()
	rows, ev, err := s.refresh(q)
	if err != nil {
		s.tb.Fatal(err)
	}
	if err := s.oracle.Check(mark, q.Table.Name, q.Filter.Render(), q.Select, slices.Values(rows)); err != nil {
		s.tb.Fatal(err)
	}
	return ev
}

// refused refreshes and demands that it ends with a reason.
func (s *sim) refused(q odata.Query, reason string) error {
	s.tb.Helper()
	_, _, err := s.refresh(q)
	if err == nil {
		s.tb.Fatalf("the scan was believed; want a refusal with %q", reason)
	}
	if !strings.Contains(err.Error(), reason) {
		s.tb.Fatalf("refused with %q, want %q", err, reason)
	}
	return err
}

// canonical writes a cell as the oracle does.
func canonical(c *edm.Column, col arrow.Array, i int) string {
	if col.IsNull(i) {
		return simulator.Null
	}
	switch a := col.(type) {
	case *array.String:
		return a.Value(i)
	case *array.Boolean:
		return strconv.FormatBool(a.Value(i))
	case *array.Int16:
		return strconv.Itoa(int(a.Value(i)))
	case *array.Int32:
		return strconv.Itoa(int(a.Value(i)))
	case *array.Int64:
		return strconv.FormatInt(a.Value(i), 10)
	case *array.Float64:
		return strconv.FormatFloat(a.Value(i), 'g', -1, 64)
	case *array.Decimal128:
		return a.Value(i).ToString(c.Type.Scale)
	case *array.Date32:
		return a.Value(i).ToTime().Format(time.DateOnly)
	case *array.Timestamp:
		return time.UnixMicro(int64(a.Value(i))).UTC().Format("2006-01-02T15:04:05.000000Z")
	case *array.Binary:
		return hex.EncodeToString(a.Value(i))
	}
	return "?"
}

func pagings() []odata.Paging {
	return []odata.Paging{odata.Auto, odata.Key, odata.Offset, odata.NextLink, odata.Stream}
}

// Every behaviour of a server by every paging: the rows are exactly right, or the scan is refused. Where want
// has no entry for a paging, it must be right.
func TestEveryBehaviourByEveryPaging(t *testing.T) {
	type b = simulator.Behavior
	const right = ""
	tests := []struct {
		name     string
		behavior b
		want     map[odata.Paging]string // reason of the refusal
	}{
		{"in key order", b{}, nil},
		{"with $count", b{Count: simulator.InlineCount | simulator.PathCount}, nil},
		{"with inline $count", b{Count: simulator.InlineCount}, nil},
		{"$orderby refused", b{OrderBy: simulator.RefuseOrderBy}, nil},
		{"$orderby refused, $count", b{OrderBy: simulator.RefuseOrderBy, Count: simulator.PathCount}, nil},
		{"$orderby ignored, key order", b{OrderBy: simulator.IgnoreOrderBy}, nil},
		{"another order unless asked", b{Natural: simulator.Shuffled}, map[odata.Paging]string{
			odata.NextLink: "came twice",
		}},
		{"order changes between requests, $orderby refused", b{OrderBy: simulator.RefuseOrderBy, Natural: simulator.Shuffled}, map[odata.Paging]string{
			odata.Key: "key order", odata.Offset: "moved", odata.NextLink: "came twice",
		}},
		{"order changes between requests, $orderby ignored", b{OrderBy: simulator.IgnoreOrderBy, Natural: simulator.Shuffled}, map[odata.Paging]string{
			odata.Key: "key order", odata.Offset: "moved", odata.NextLink: "came twice",
		}},
		{"in the order of a column, $orderby refused", b{OrderBy: simulator.RefuseOrderBy, Natural: simulator.ByColumn, NaturalColumn: "Line_No"}, map[odata.Paging]string{
			odata.Key: "key order", odata.Offset: "moved", odata.NextLink: "came twice",
		}},
		{"cut at 100 rows", b{MaxRows: 100}, nil},
		{"cut at 100 rows, $orderby refused", b{MaxRows: 100, OrderBy: simulator.RefuseOrderBy}, nil},
		{"cut at 100 rows, order changes", b{MaxRows: 100, OrderBy: simulator.RefuseOrderBy, Natural: simulator.Shuffled}, map[odata.Paging]string{
			odata.Auto: "came twice", odata.Key: "key order", odata.Offset: "moved", odata.NextLink: "came twice", odata.Stream: "came twice",
		}},
		{"next links by token", b{NextLink: simulator.NextLink{PageSize: 120}}, nil},
		{"next links by $skip", b{NextLink: simulator.NextLink{PageSize: 120, BySkip: true}}, nil},
		{"next links, relative", b{NextLink: simulator.NextLink{PageSize: 120, Relative: true}}, nil},
		{"next links, $top is a total", b{NextLink: simulator.NextLink{PageSize: 120, TopIsTotal: true}}, nil},
		{"next links, $top is a total, $orderby refused", b{OrderBy: simulator.RefuseOrderBy, NextLink: simulator.NextLink{PageSize: 120, TopIsTotal: true}}, nil},
		{"next links by token in an order that stays", b{OrderBy: simulator.RefuseOrderBy, Natural: simulator.Shuffled, NextLink: simulator.NextLink{PageSize: 120}}, map[odata.Paging]string{
			odata.Key: "key order", odata.Offset: "moved",
		}},
		{"$top ignored", b{IgnoreTop: true}, nil},
		{"$top ignored, $orderby refused", b{IgnoreTop: true, OrderBy: simulator.RefuseOrderBy}, nil},
	}
	for _, tt := range tests {
		for _, paging := range pagings() {
			t.Run(tt.name+"/"+string(paging), func(t *testing.T) {
				t.Parallel()
				s := startSim(t, simulator.Options{Behavior: tt.behavior})
				q := s.query(lines)
				q.Paging = paging
				if why := tt.want[paging]; why != right {
					s.refused(q, why)
					return
				}
				ev := s.exact(q)
				if ev.Rows != 1300 || ev.DistinctKeys != 1300 {
					t.Errorf("evidence of %d rows, %d keys", ev.Rows, ev.DistinctKeys)
				}
				t.Logf("%+v", ev)
			})
		}
	}
}

// One row an answer: nothing that overlaps can go on, but what asks for the rows behind can.
func TestOneRowAtATime(t *testing.T) {
	s := startSim(t, simulator.Options{Rows: map[string]int64{lines: 60}, Behavior: simulator.Behavior{MaxRows: 1}})
	for _, paging := range pagings()[1:] {
		q := s.query(lines)
		q.Paging = paging
		if paging == odata.Key || paging == odata.Offset {
			s.refused(q, "one row at a time")
			continue
		}
		s.exact(q)
	}
	s = startSim(t, simulator.Options{Rows: map[string]int64{lines: 60}, Behavior: simulator.Behavior{MaxRows: 1}})
	if ev := s.exact(s.query(lines)); ev.Paging != "stream" || !ev.Confirmed {
		t.Errorf("%+v", ev)
	}
}

func TestFilterAndProjection(t *testing.T) {
	s := startSim(t, simulator.Options{Behavior: simulator.Behavior{Count: simulator.PathCount}})
	q := s.query(lines)
	var err error
	if q.Filter, err = filter.Compile("Sales_Order_Reference/Document_Reference/Void eq false", s.model, q.Table); err != nil {
		t.Fatal(err)
	}
	ev := s.exact(q)
	if n, _ := s.oracle.Count(lines, q.Filter.Render()); ev.Rows != n || n == 0 || n == 1300 || *ev.CountBefore != n {
		t.Errorf("%d rows of %d; evidence %+v", ev.Rows, n, ev)
	}
	q.Select = []string{"Line_No"} // the key is fetched, and not part of the records
	rows, ev, err := s.scan(q)
	if err != nil || len(rows[0]) != 1 || ev.DistinctKeys != ev.Rows || ev.FirstKey == "" {
		t.Errorf("%v, %v, %+v", err, rows[0], ev)
	}
}

func TestEmptyAndTinyTables(t *testing.T) {
	for n := range int64(4) {
		for _, paging := range pagings() {
			for _, b := range []simulator.Behavior{{}, {OrderBy: simulator.RefuseOrderBy}, {Count: simulator.InlineCount}, {NextLink: simulator.NextLink{PageSize: 1}}} {
				s := startSim(t, simulator.Options{Rows: map[string]int64{lines: 3}, Behavior: b})
				if _, err := s.server.Delete(lines, int(3-n)); err != nil {
					t.Fatal(err)
				}
				q := s.query(lines)
				q.Paging = paging
				if b.NextLink.PageSize == 1 && n > 1 && (paging == odata.Key || paging == odata.Offset) {
					s.refused(q, "one row at a time")
					continue
				}
				if ev := s.exact(q); ev.Rows != n {
					t.Errorf("%d rows by %s, want %d", ev.Rows, paging, n)
				}
			}
		}
	}
}

// A view without a key: two passes must agree.
func TestViewWithoutAKey(t *testing.T) {
	for _, tt := range []struct {
		name     string
		behavior simulator.Behavior
		refused  string
	}{
		{"quiet", simulator.Behavior{}, ""},
		{"counted", simulator.Behavior{Count: simulator.PathCount}, ""},
		{"another order each time, one answer", simulator.Behavior{Natural: simulator.Shuffled}, ""},
		{"cut, in a steady order", simulator.Behavior{MaxRows: 100}, ""},
		{"cut, another order each time", simulator.Behavior{MaxRows: 100, Natural: simulator.Shuffled}, "two passes"},
		{"next links", simulator.Behavior{NextLink: simulator.NextLink{PageSize: 90}}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := startSim(t, simulator.Options{Behavior: tt.behavior})
			q := s.query(view)
			if tt.refused != "" {
				s.refused(q, tt.refused)
				return
			}
			ev := s.exact(q)
			if !ev.Confirmed || ev.Passes != 2 || ev.DistinctKeys != -1 || ev.Paging != "stream" {
				t.Errorf("evidence %+v", ev)
			}
		})
	}
	t.Run("changed between the passes", func(t *testing.T) {
		s := startSim(t, simulator.Options{})
		q := s.query(view)
		var n atomic.Int32
		s.server.Before(view, 3, func() { n.Add(1); s.server.Update(view, 1) }) // 1 rows, 2 behind, 3 rows again
		_, _, err := s.scan(q)
		if err == nil || !strings.Contains(err.Error(), "two passes") || n.Load() != 1 {
			t.Fatalf("%v (%d changes)", err, n.Load())
		}
		s.exact(q)
	})
}

// A key of several columns goes by offset; its order can be checked, since all of them are GUIDs.
func TestCompositeKey(t *testing.T) {
	for _, b := range []simulator.Behavior{{}, {MaxRows: 70}, {Natural: simulator.Shuffled}, {OrderBy: simulator.RefuseOrderBy}} {
		s := startSim(t, simulator.Options{Behavior: b})
		q := s.query(links)
		ev := s.exact(q)
		want := evidence.OrderRequested
		if b.OrderBy == simulator.RefuseOrderBy {
			want = evidence.OrderNone
		} else if ev.Paging != "offset" {
			t.Errorf("paging %s", ev.Paging)
		}
		if ev.Order != want || ev.Rows != 900 || ev.Confirmed != (want == evidence.OrderNone) {
			t.Errorf("%+v: evidence %+v", b, ev)
		}
	}
}

// Rows are inserted, updated, moved and deleted before every request of the scan.
func TestChangesDuringTheScan(t *testing.T) {
	for _, b := range []simulator.Behavior{
		{}, {Count: simulator.PathCount}, {MaxRows: 50}, {OrderBy: simulator.RefuseOrderBy}, {OrderBy: simulator.RefuseOrderBy, Count: simulator.InlineCount},
		{NextLink: simulator.NextLink{PageSize: 70, BySkip: true}}, {OrderBy: simulator.RefuseOrderBy, Natural: simulator.Shuffled},
	} {
		for _, paging := range pagings() {
			t.Run(fmt.Sprintf("%+v/%s", b, paging), func(t *testing.T) {
				t.Parallel()
				var (
					server *simulator.Server
					busy   atomic.Bool
				)
				s := startSim(t, simulator.Options{Rows: map[string]int64{lines: 1200}, Behavior: b, OnRequest: func(r simulator.RequestInfo) {
					if !busy.Load() || r.Endpoint != simulator.Data {
						return
					}
					for _, do := range []func(string, int) (int, error){server.Insert, server.Update, server.Delete, server.Move} {
						if _, err := do(lines, 3); err != nil {
							t.Error(err)
						}
					}
				}})
				server = s.server
				q := s.query(lines)
				q.PageSize = 100
				q.Paging = paging
				busy.Store(true)
				mark := s.oracle.Mark()
				rows, ev, err := s.scan(q)
				if err != nil {
					var again *odata.RescanError
					if !errors.As(err, &again) {
						t.Fatal(err)
					}
					if paging == odata.Key && b.OrderBy == simulator.AcceptOrderBy && b.Count == 0 {
						t.Fatalf("key paging in a promised order stands any change: %v", err)
					}
					t.Logf("refused: %v", err)
					return
				}
				if err := s.oracle.Check(mark, lines, "", q.Select, slices.Values(rows)); err != nil {
					t.Fatalf("believed, but wrong: %v; evidence %+v", err, ev)
				}
			})
		}
	}
}

// A row that is left out of an answer is noticed by the count, where there is one; and the next scan is right.
func TestRowMissingFromAPage(t *testing.T) {
	for _, b := range []simulator.Behavior{{Count: simulator.PathCount}, {Count: simulator.InlineCount}, {Count: simulator.PathCount, OrderBy: simulator.RefuseOrderBy}} {
		for _, paging := range pagings() {
			once := startSim(t, simulator.Options{Behavior: b})
			q := once.query(lines)
			q.Paging = paging
			fault := simulator.Fault{Match: fullRows, Effect: simulator.DropRow(57)}
			once.server.Inject(fault)
			_, ev, err := once.scan(q)
			var (
				incomplete *evidence.Incomplete
				again      *odata.RescanError
			)
			if !errors.As(err, &again) || !again.Retry {
				t.Fatalf("%s: got %v (%+v), want a *RescanError", paging, err, ev)
			}
			if paging == odata.Key && b.OrderBy == simulator.AcceptOrderBy && !errors.As(err, &incomplete) {
				t.Errorf("%v holds no *Incomplete", err)
			}
			once.exact(q)

			always := startSim(t, simulator.Options{Behavior: b})
			fault.Times = -1
			always.server.Inject(fault)
			q = always.query(lines)
			q.Paging = paging
			if _, _, err := always.refresh(q); err == nil {
				t.Fatalf("%s: a row is missing from every answer, and nobody noticed", paging)
			}
		}
	}
}

// fullRows matches the requests of a first pass, not probes or confirming passes.
func fullRows(r *http.Request) bool {
	v := r.URL.Query()
	return strings.Contains(v.Get("$select"), ",") && v.Get("$top") != "1"
}

// Without $count a row that an ordered answer leaves out cannot be missed by anybody; in unordered pagings the
// second pass shows it.
func TestRowMissingWithoutCount(t *testing.T) {
	s := startSim(t, simulator.Options{Behavior: simulator.Behavior{OrderBy: simulator.RefuseOrderBy}})
	for _, paging := range pagings() {
		s.server.ClearFaults()
		s.server.Inject(simulator.Fault{Match: fullRows, Effect: simulator.DropRow(57)})
		q := s.query(lines)
		q.Paging = paging
		_, _, err := s.scan(q)
		var again *odata.RescanError
		if !errors.As(err, &again) {
			t.Errorf("%s: %v", paging, err)
		}
	}
}

// The same row on two pages.
func TestRepeatedRow(t *testing.T) {
	for _, b := range []simulator.Behavior{{}, {OrderBy: simulator.RefuseOrderBy}, {NextLink: simulator.NextLink{PageSize: 100}}} {
		for _, paging := range pagings() {
			s := startSim(t, simulator.Options{Behavior: b})
			s.server.Inject(simulator.Fault{Match: fullRows, Nth: 2, Times: 4, Effect: simulator.RepeatRow()})
			q := s.query(lines)
			q.Paging = paging
			mark := s.oracle.Mark()
			rows, ev, err := s.refresh(q)
			if err != nil {
				t.Logf("%s: refused: %v", paging, err)
				continue
			}
			if err := s.oracle.Check(mark, lines, "", q.Select, slices.Values(rows)); err != nil {
				t.Errorf("%s: %v, evidence %+v", paging, err, ev)
			}
			if paging == odata.Key && b.NextLink.PageSize == 0 && ev.Duplicates == 0 {
				t.Errorf("%s: the repeated rows were not counted: %+v", paging, ev)
			}
		}
	}
}

// Answers that break off are asked for again, and no row is there twice.
func TestCutAnswers(t *testing.T) {
	for name, effect := range map[string]simulator.Effect{
		"cut after rows": simulator.CutRows(150), "cut after bytes": simulator.CutBytes(3000), "ends early": simulator.EndEarly(130),
		"gzip cut": simulator.TruncatedGzip(2500), "malformed": simulator.MalformedJSON(140), "reset": simulator.Reset(),
		"500": simulator.ServerError(), "503": simulator.Status(503, "down"), "429": simulator.TooMany(0), "silent": simulator.Stall(100, 30*time.Second),
	} {
		for _, paging := range pagings() {
			for _, encoding := range []odata.Encoding{odata.EncodingGzip, odata.EncodingZstd, odata.EncodingIdentity} {
				t.Run(name+"/"+string(paging)+"/"+string(encoding), func(t *testing.T) {
					t.Parallel()
					s := startSim(t, simulator.Options{Zstd: encoding == odata.EncodingZstd}, func(o *odata.Options) {
						o.IdleTimeout, o.Encoding = 100*time.Millisecond, encoding
					})
					q := s.query(lines)
					q.Paging = paging
					s.server.Inject(simulator.Fault{Match: fullRows, Nth: 1, Times: 2, Effect: effect})
					s.server.Inject(simulator.Fault{Match: fullRows, Nth: 5, Effect: effect})
					ev := s.exact(q)
					if ev.Retries == 0 {
						t.Errorf("no retries in %+v", ev)
					}
				})
			}
		}
	}
}

// Every answer is cut after some rows, always: key paging goes on from what came.
func TestAlwaysCut(t *testing.T) {
	s := startSim(t, simulator.Options{})
	s.server.Inject(simulator.Fault{Match: fullRows, Times: -1, Effect: simulator.CutRows(200)})
	q := s.query(lines)
	if ev := s.exact(q); ev.Paging != "key" || ev.Retries < 5 {
		t.Errorf("%+v", ev)
	}
	s.server.ClearFaults()
	s.server.Inject(simulator.Fault{Match: fullRows, Times: -1, Effect: simulator.CutRows(20)}) // not even one record
	var gone *odata.UnavailableError
	if err := s.refused(q, "unavailable"); !errors.As(err, &gone) || !strings.Contains(err.Error(), "cut") {
		t.Error(err)
	}
	s.server.ClearFaults()
	s.server.Inject(simulator.Fault{Match: fullRows, Times: 12, Effect: simulator.CutRows(200)})
	for _, paging := range []odata.Paging{odata.Key, odata.Stream, odata.Offset} {
		q.Paging = paging
		if ev := s.exact(q); ev.Rows != 1300 {
			t.Errorf("%+v", ev)
		}
	}
}

// A stream in no order that breaks off after rows were handed on cannot be mended; another one is right.
func TestUnorderedStreamCut(t *testing.T) {
	s := startSim(t, simulator.Options{Behavior: simulator.Behavior{OrderBy: simulator.RefuseOrderBy, Natural: simulator.Shuffled}})
	s.server.Inject(simulator.Fault{Match: fullRows, Nth: 2, Effect: simulator.CutRows(1000)}) // 1 is key paging's try
	q := s.query(lines)
	_, _, err := s.scan(q)
	var again *odata.RescanError
	if !errors.As(err, &again) || !again.Retry || !strings.Contains(err.Error(), "broke off") {
		t.Fatal(err)
	}
	ev := s.exact(q)
	if ev.Paging != "stream" || !ev.Confirmed || ev.End != evidence.EndStream || ev.Order != evidence.OrderNone {
		t.Errorf("%+v", ev)
	}
}

// Next links are followed on the same host only, and not in circles.
func TestNextLinks(t *testing.T) {
	for name, tt := range map[string]struct {
		effect simulator.Effect
		want   string
	}{
		"circle":        {simulator.NextLinkLoop(), "in a circle"},
		"other host":    {simulator.NextLinkTo("https://evil.example/tableapi/odata/X"), "another host"},
		"other scheme":  {simulator.NextLinkTo("https://127.0.0.1/tableapi/odata/X"), "another host"},
		"user":          {simulator.NextLinkTo("//user@127.0.0.1/tableapi/odata/X"), "another host"},
		"out of it":     {simulator.NextLinkTo("/tools/ver"), "out of the Table API"},
		"out by dots":   {simulator.NextLinkTo("/tableapi/odata/../../tools/ver"), "out of the Table API"},
		"no address":    {simulator.NextLinkTo("http://[::bad"), "not an address"},
		"encoded dots":  {simulator.NextLinkTo("/tableapi/odata/%2e%2e/%2e%2e/id/"), "out of the Table API"},
		"two slashes":   {simulator.NextLinkTo("/tableapi//odata/Crm_Sales_Order_Lines"), "out of the Table API"},
		"slash encoded": {simulator.NextLinkTo("/tableapi%2fodata/Crm_Sales_Order_Lines"), "out of the Table API"},
		"back to start": {simulator.NextLinkTo("Crm_Sales_Order_Lines?$select=Line_No"), ""},
	} {
		s := startSim(t, simulator.Options{})
		s.server.Inject(simulator.Fault{Match: fullRows, Effect: tt.effect})
		q := s.query(lines)
		q.Paging = odata.NextLink
		_, _, err := s.scan(q)
		var proto *odata.ProtocolError
		if tt.want == "" {
			if err == nil {
				t.Errorf("%s: believed", name)
			}
		} else if !errors.As(err, &proto) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}
