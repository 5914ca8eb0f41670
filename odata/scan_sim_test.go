package odata_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"pgregory.net/rapid"

	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/evidence"
	"github.com/tablexport/tablexport/odata/simulator"
)

// peak counts the most memory that was in use at once.
type peak struct {
	memory.GoAllocator
	mu        sync.Mutex
	now, most int
}

func (p *peak) count(n int) {
	p.mu.Lock()
	p.now += n
	p.most = max(p.most, p.now)
	p.mu.Unlock()
}

func (p *peak) Allocate(n int) []byte { p.count(n); return p.GoAllocator.Allocate(n) }
func (p *peak) Reallocate(n int, b []byte) []byte {
	p.count(n - len(b))
	return p.GoAllocator.Reallocate(n, b)
}
func (p *peak) Free(b []byte) { p.count(-len(b)); p.GoAllocator.Free(b) }

// most makes a scan of two narrow columns in pages of 5,000 rows and returns the most memory that it held at once.
func most(t *testing.T, rows int64, paging odata.Paging, b simulator.Behavior, ahead int64, body func(n int64)) int {
	t.Helper()
	s := startSim(t, simulator.Options{Rows: map[string]int64{lines: rows}, Behavior: b})
	q := s.query(lines)
	q.Select, q.Paging, q.PageSize, q.Batch = []string{"Line_No", "Sales_Order_Line_Id"}, paging, 5000, 1000
	p := &peak{}
	q.Memory, q.Ahead = p, ahead
	scan, err := s.session.Scan(q)
	if err != nil {
		t.Fatal(err)
	}
	n := int64(0)
	for rec, err := range scan.Records(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n += rec.NumRows()
		body(n)
	}
	if n != rows || p.now != 0 {
		t.Errorf("%d rows, %d bytes not given back", n, p.now)
	}
	return p.most
}

// A scan holds a page and what may wait for the loop, however many rows there are, however slow the loop
// is, and also when the server sends all of them at once.
func TestMemoryIsFlat(t *testing.T) {
	idle := func(int64) {}
	slow := func(n int64) {
		if n%5000 == 0 {
			time.Sleep(2 * time.Millisecond)
		}
	}
	page := most(t, 8_000, odata.Key, simulator.Behavior{}, -1, idle)
	// Bytes beside the page: none, and a little more than another page.
	for ahead, many := range map[int64]int64{-1: 200_000, 300_000: 60_000} {
		for name, got := range map[string]int{
			"key, many rows":             most(t, many, odata.Key, simulator.Behavior{}, ahead, idle),
			"key, slow":                  most(t, 30_000, odata.Key, simulator.Behavior{}, ahead, slow),
			"key, $top ignored":          most(t, 30_000, odata.Key, simulator.Behavior{IgnoreTop: true}, ahead, idle),
			"offset":                     most(t, 30_000, odata.Offset, simulator.Behavior{}, ahead, idle),
			"stream":                     most(t, 60_000, odata.Stream, simulator.Behavior{}, ahead, idle),
			"stream, slow":               most(t, 30_000, odata.Stream, simulator.Behavior{}, ahead, slow),
			"stream, no order":           most(t, 60_000, odata.Stream, simulator.Behavior{OrderBy: simulator.RefuseOrderBy}, ahead, idle),
			"next, everything in a page": most(t, 30_000, odata.NextLink, simulator.Behavior{IgnoreTop: true}, ahead, slow),
		} {
			if got > page+page/2+max(0, int(ahead)) {
				t.Errorf("%s: %d bytes at once, a page is %d, and %d may wait", name, got, page, ahead)
			}
		}
	}
}

// Leaving the loop gives everything back, and no error is made of it.
func TestLeavingTheLoop(t *testing.T) {
	for _, paging := range pagings() {
		s := startSim(t, simulator.Options{})
		mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
		q := s.query(lines)
		q.Paging, q.Memory = paging, mem
		scan, err := s.session.Scan(q)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, err := range scan.Records(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if n++; n == 2 {
				break
			}
		}
		mem.AssertSize(t, 0)
		if ev := scan.Evidence(); ev.Judge() == nil {
			t.Errorf("%s: the evidence of half a scan is believed: %+v", paging, ev)
		}
		s.exact(s.query(lines)) // slots and breaker are as they were
	}
}

// What the server takes is asked once for a table, and remembered.
func TestProbeOnce(t *testing.T) {
	var probes atomic.Int32
	s := startSim(t, simulator.Options{Behavior: simulator.Behavior{OrderBy: simulator.RefuseOrderBy}, OnRequest: func(r simulator.RequestInfo) {
		if r.Query.Has("$orderby") || r.Query.Has("$count") || r.Endpoint == simulator.CountPath {
			probes.Add(1)
		}
	}})
	s.exact(s.query(lines))
	if probes.Load() != 4 { // $orderby backwards, $orderby, two ways of $count
		t.Errorf("%d probes", probes.Load())
	}
	s.exact(s.query(lines))
	if probes.Load() != 4 {
		t.Errorf("%d probes after two scans", probes.Load())
	}
}

func TestEvidenceNamesTheKeys(t *testing.T) {
	s := startSim(t, simulator.Options{Behavior: simulator.Behavior{Count: simulator.InlineCount}})
	keys, err := s.oracle.Keys(lines, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, paging := range pagings()[:3] {
		q := s.query(lines)
		q.Paging = paging
		var seen []odata.Progress
		q.Progress = func(p odata.Progress) { seen = append(seen, p) }
		ev := s.exact(q)
		if ev.FirstKey != keys[0] || ev.LastKey != keys[len(keys)-1] || *ev.CountBefore != 1300 || *ev.CountAfter != 1300 {
			t.Errorf("%s: %+v", paging, ev)
		}
		if ev.Order != evidence.OrderRequested || ev.Confirmed || ev.Passes != 1 || ev.Attempts != 1 || ev.Retries != 0 || ev.Bytes == 0 || ev.Ended.Before(ev.Started) {
			t.Errorf("%s: %+v", paging, ev)
		}
		if st := s.server.Stats(); ev.Requests > st.Requests || ev.Pages < 6 {
			t.Errorf("%+v, server %+v", ev, st)
		}
		if len(seen) < 6 || seen[len(seen)-1].Rows != 1300 || seen[0].Expected != 1300 || !slices.IsSortedFunc(seen, func(a, b odata.Progress) int { return int(a.Rows - b.Rows) }) {
			t.Errorf("progress %v", seen)
		}
	}
}

func TestChoose(t *testing.T) {
	s := startSim(t, simulator.Options{})
	for table, want := range map[string]odata.Paging{lines: odata.Key, view: odata.Stream, links: odata.Offset, "Gen_Calendar": odata.Offset, "Sys_Numbers": odata.Key} {
		tbl, ok := s.model.Table(table)
		if !ok {
			t.Fatal(table)
		}
		q := odata.Query{Table: tbl, Select: tbl.DefaultSelect()}
		if got, why := s.session.Choose(q); got != want || why == "" {
			t.Errorf("%s: %s because %s, want %s", table, got, why, want)
		}
		q.Paging = odata.NextLink
		if got, _ := s.session.Choose(q); got != odata.NextLink {
			t.Errorf("%s: %s", table, got)
		}
	}
}

// No documentation of the key's operators: ge is probed, and where it is refused another paging is taken.
func TestUndocumentedKey(t *testing.T) {
	embedded, _ := edm.Embedded().Table(lines)
	columns := slices.Clone(embedded.Columns)
	for i := range columns {
		if columns[i].Key {
			columns[i].Ops, columns[i].OpsKnown = 0, false
		}
	}
	m, err := edm.New(edm.Table{Name: lines, Columns: columns})
	if err != nil {
		t.Fatal(err)
	}
	table, _ := m.Table(lines)
	for _, refuse := range []bool{false, true} {
		s := startSim(t, simulator.Options{})
		if refuse {
			s.server.Inject(simulator.Fault{Match: geOnKey, Times: -1, Effect: simulator.Status(400, "{}")})
		}
		q := s.query(lines)
		q.Table = table
		want := "key"
		if refuse {
			want = "offset"
		}
		if ev := s.exact(q); ev.Paging != want {
			t.Errorf("%+v, want %s", ev, want)
		}
	}
	// Documented, and refused all the same: noticed on the second page, and remembered.
	s := startSim(t, simulator.Options{})
	s.server.Inject(simulator.Fault{Match: geOnKey, Times: -1, Effect: simulator.Status(400, "{}")})
	if ev := s.exact(s.query(lines)); ev.Paging != "offset" {
		t.Errorf("%+v", ev)
	}
}

// Any server, any paging, any changes and faults: what is believed is right.
func TestAnythingThatIsBelievedIsRight(t *testing.T) {
	believed, refused := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		b := simulator.Behavior{
			OrderBy: rapid.SampledFrom([]simulator.OrderBy{simulator.AcceptOrderBy, simulator.RefuseOrderBy, simulator.IgnoreOrderBy}).Draw(rt, "orderby"),
			Natural: rapid.SampledFrom([]simulator.Natural{simulator.ByKey, simulator.Shuffled}).Draw(rt, "natural"),
			MaxRows: rapid.SampledFrom([]int64{0, 0, 1, 2, 7, 40}).Draw(rt, "cap"),
			// A row that an ordered answer leaves out can only be missed by the count, so there always is one here.
			Count:     rapid.SampledFrom([]simulator.Count{simulator.InlineCount, simulator.PathCount}).Draw(rt, "count"),
			IgnoreTop: rapid.Bool().Draw(rt, "ignoreTop"),
		}
		if rapid.Bool().Draw(rt, "links") {
			b.NextLink = simulator.NextLink{
				PageSize: rapid.Int64Range(1, 30).Draw(rt, "linkPage"), BySkip: rapid.Bool().Draw(rt, "bySkip"), TopIsTotal: rapid.Bool().Draw(rt, "topIsTotal"),
			}
		}
		table := rapid.SampledFrom([]string{lines, view, links}).Draw(rt, "table")
		n := rapid.Int64Range(0, 90).Draw(rt, "rows")
		encoding := rapid.SampledFrom([]odata.Encoding{odata.EncodingGzip, odata.EncodingZstd, odata.EncodingIdentity}).Draw(rt, "encoding")
		s := startSim(t, simulator.Options{Rows: map[string]int64{table: max(n, 1)}, Behavior: b, Zstd: true}, func(o *odata.Options) { o.Encoding = encoding })
		at := rapid.IntRange(0, 12).Draw(rt, "change")
		for range rapid.IntRange(0, 2).Draw(rt, "faults") {
			row := rapid.Int64Range(0, 20).Draw(rt, "row")
			effects := []simulator.Effect{
				simulator.CutRows(row), simulator.EndEarly(row), simulator.ServerError(), simulator.RepeatRow(), simulator.TooMany(0), simulator.MalformedJSON(row),
				simulator.TruncatedGzip(40 * row), simulator.CutBytes(40 * row),
			}
			if at == 0 { // a lost row and a new one look like none of both
				effects = append(effects, simulator.DropRow(row))
			}
			s.server.Inject(simulator.Fault{
				Nth: rapid.IntRange(1, 9).Draw(rt, "nth"), Times: rapid.IntRange(1, 3).Draw(rt, "times"), Table: table,
				Effect: rapid.SampledFrom(effects).Draw(rt, "effect"),
			})
		}
		if at > 0 {
			s.server.Before(table, at, func() {
				s.server.Insert(table, 2)
				s.server.Delete(table, 2)
				s.server.Update(table, 2)
			})
		}
		q := s.query(table)
		q.PageSize = rapid.IntRange(1, 50).Draw(rt, "page")
		q.Batch = rapid.IntRange(1, 20).Draw(rt, "batch")
		q.Paging = rapid.SampledFrom(pagings()).Draw(rt, "paging")
		q.Ahead = rapid.SampledFrom([]int64{-1, 10_000, 1 << 20}).Draw(rt, "ahead")
		if table != lines && q.Paging == odata.Key {
			q.Paging = odata.Auto
		}
		mark := s.oracle.Mark()
		rows, ev, err := s.scan(q)
		if err != nil {
			refused++
			if strings.Contains(err.Error(), "CANARY") {
				rt.Fatal(err)
			}
			return
		}
		believed++
		if err := s.oracle.Check(mark, table, "", q.Select, slices.Values(rows)); err != nil {
			rt.Fatalf("believed, but wrong: %v; evidence %+v", err, ev)
		}
	})
	t.Logf("%d believed, %d refused", believed, refused)
	if believed < refused/4 {
		t.Errorf("only %d of %d scans were believed", believed, believed+refused)
	}
}

// Two scans of one session meet a 401 at the same time: one renewal serves both.
func TestOneRenewalForAll(t *testing.T) {
	const old, fresh = "enrt_old-token", "enrt_the-new-token"
	s := startSim(t, simulator.Options{Tokens: []simulator.Token{{Value: fresh, Name: "new", Scopes: []string{"read"}}}})
	auth := newBearer(old)
	auth.next = fresh
	s.session = s.client.Open(auth)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := s.session.Ping(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := auth.renewed.Load(); n != 1 {
		t.Errorf("%d renewals", n)
	}
	s.server.Revoke(fresh)
	_, _, err := s.scan(s.query(lines))
	var cred *odata.CredentialError
	if !errors.As(err, &cred) {
		t.Error(err)
	}
	clean(t, err, "")
}

// geOnKey matches requests that begin at a key.
func geOnKey(r *http.Request) bool {
	return strings.Contains(r.URL.Query().Get("$filter"), "Sales_Order_Line_Id ge ")
}
