package odata_test

import (
	"errors"
	"iter"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/evidence"
	"github.com/tablexport/tablexport/odata/filter"
	"github.com/tablexport/tablexport/odata/simulator"
)

// keysOf are the keys of all rows of a query, in the order of their bytes.
func (s *sim) keysOf(q odata.Query) (keys [][]byte) {
	s.tb.Helper()
	scan, err := s.session.Scan(q)
	if err != nil {
		s.tb.Fatal(err)
	}
	enc, err := odata.NewKeys(q.Table, q.Select)
	if err != nil {
		s.tb.Fatal(err)
	}
	for rec, err := range scan.Records(s.tb.Context()) {
		if err != nil {
			s.tb.Fatal(err)
		}
		of := enc.Of(rec)
		for row := range int(rec.NumRows()) {
			keys = append(keys, of(nil, row))
		}
	}
	slices.SortFunc(keys, slices.Compare)
	return keys
}

func given(keys [][]byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, k := range keys {
			if !yield(k, nil) {
				return
			}
		}
	}
}

// fetch asks for keys and collects the rows, and the keys that are gone.
func (s *sim) fetch(q odata.Query, keys [][]byte) (rows []simulator.Row, gone [][]byte, ev evidence.Fetch, err error) {
	s.tb.Helper()
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	q.Memory = mem
	f, err := s.session.Fetch(q)
	if err != nil {
		s.tb.Fatal(err)
	}
	for rec, err := range f.Records(s.tb.Context(), given(keys), func(k []byte) error { gone = append(gone, k); return nil }) {
		if err != nil {
			mem.AssertSize(s.tb, 0)
			return nil, nil, f.Evidence(), err
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
	ev = f.Evidence()
	if err := ev.Judge(); err != nil || ev.Found != int64(len(rows)) || ev.Missing != int64(len(gone)) {
		s.tb.Errorf("%d rows, %d gone, %+v, %v", len(rows), len(gone), ev, err)
	}
	return rows, gone, ev, nil
}

// addresses watches how long the addresses are, and refuses those beyond a limit.
type addresses struct {
	mu              sync.Mutex
	most, questions int
	limit, status   int
}

func (a *addresses) RoundTrip(r *http.Request) (*http.Response, error) {
	if !strings.Contains(r.URL.RawQuery, "%20in%20") {
		return http.DefaultTransport.RoundTrip(r)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.questions++
	a.most = max(a.most, len(r.URL.String()))
	if a.limit > 0 && len(r.URL.String()) > a.limit {
		return reply(a.status, "text/html", "<html>too long</html>"), nil
	}
	return http.DefaultTransport.RoundTrip(r)
}

// Rows of every kind of key come back exactly, for GUIDs, texts, numbers and several columns, from servers that cut their answers too.
func TestFetchByKeys(t *testing.T) {
	for _, table := range []string{lines, links, "Gen_Link_Types", "Sys_Numbers", "Cash_Payment_Types", "Prd_Workgroup_Calendar"} {
		for name, b := range map[string]simulator.Behavior{
			"plain": {}, "cut at 7 rows": {MaxRows: 7}, "shuffled": {OrderBy: simulator.RefuseOrderBy, Natural: simulator.Shuffled},
			"next links": {NextLink: simulator.NextLink{PageSize: 11}},
		} {
			t.Run(table+"/"+name, func(t *testing.T) {
				t.Parallel()
				n := 600
				if table != lines && table != links { // their keys are asked for one at a time
					n = 100
				}
				watch := &addresses{}
				s := startSim(t, simulator.Options{Rows: map[string]int64{table: int64(n)}}, func(o *odata.Options) { o.Transport = watch })
				q := s.query(table)
				keys := s.keysOf(q)
				if err := s.server.SetBehavior(table, b); err != nil {
					t.Fatal(err)
				}
				if _, err := s.server.Delete(table, n/15); err != nil {
					t.Fatal(err)
				}
				mark := s.oracle.Mark()
				rows, gone, ev, err := s.fetch(q, keys)
				if err != nil {
					t.Fatal(err)
				}
				if len(gone) != n/15 || ev.Asked != int64(n) || watch.most > 8000 {
					t.Errorf("%d gone, addresses of %d bytes, %+v", len(gone), watch.most, ev)
				}
				if err := s.oracle.Check(mark, table, "", q.Select, slices.Values(rows)); err != nil {
					t.Error(err)
				}
				if name == "plain" && ev.Requests > 40 && n == 600 {
					t.Errorf("%d requests", ev.Requests)
				}
			})
		}
	}
}

// A row that has left the filter is gone.
func TestFetchKeepsToTheFilter(t *testing.T) {
	s := startSim(t, simulator.Options{})
	q := s.query(lines)
	keys := s.keysOf(q)
	var err error
	if q.Filter, err = filter.Compile("Sales_Order_Reference/Document_Reference/Void eq false", s.model, q.Table); err != nil {
		t.Fatal(err)
	}
	mark := s.oracle.Mark()
	rows, gone, _, err := s.fetch(q, keys)
	if err != nil || len(gone) == 0 || len(rows) == 0 {
		t.Fatalf("%d rows, %d gone, %v", len(rows), len(gone), err)
	}
	if err := s.oracle.Check(mark, lines, q.Filter.Render(), q.Select, slices.Values(rows)); err != nil {
		t.Error(err)
	}
}

// A server that takes shorter addresses only gets shorter ones, whatever it answers, and is not asked for long ones again.
func TestFetchAdaptsToTheServer(t *testing.T) {
	for _, status := range []int{400, 404, 413, 414, 431} {
		watch := &addresses{limit: 2048, status: status}
		s := startSim(t, simulator.Options{}, func(o *odata.Options) { o.Transport = watch })
		q := s.query(lines)
		keys := s.keysOf(q)
		for range 2 {
			watch.most, watch.questions = 0, 0
			rows, gone, _, err := s.fetch(q, keys)
			if err != nil || len(rows) != len(keys) || len(gone) != 0 {
				t.Fatalf("status %d: %d rows, %d gone, %v", status, len(rows), len(gone), err)
			}
		}
		if watch.most > 2048 || watch.questions > 2*1300/20 {
			t.Errorf("status %d: %d questions, the longest of %d bytes", status, watch.questions, watch.most)
		}
	}
	// One key alone is refused too: that is the answer.
	s := startSim(t, simulator.Options{})
	q := s.query(lines)
	keys := s.keysOf(q)
	s.server.Inject(simulator.Fault{Times: -1, Match: func(r *http.Request) bool { return strings.Contains(r.URL.RawQuery, "$filter=") }, Effect: simulator.Status(400, "")})
	var status *odata.StatusError
	if _, _, _, err := s.fetch(q, keys[:9]); !errors.As(err, &status) || status.Status != 400 {
		t.Error(err)
	}
}

// Answers with a key twice, or with a row that nobody asked for, are refused; one that breaks off is asked for again.
func TestFetchRefuses(t *testing.T) {
	asks := func(r *http.Request) bool { return strings.Contains(r.URL.Query().Get("$filter"), " in (") }
	for _, tt := range []struct {
		name   string
		effect simulator.Effect
		right  bool
	}{
		{"foreign row", simulator.ForeignRow(3), false}, {"cut", simulator.CutRows(5), true}, {"server error", simulator.ServerError(), true},
		{"a row is left out", simulator.DropRow(5), true},
	} {
		s := startSim(t, simulator.Options{})
		q := s.query(lines)
		keys := s.keysOf(q)[:50]
		s.server.Inject(simulator.Fault{Match: asks, Effect: tt.effect})
		rows, gone, _, err := s.fetch(q, keys)
		var protocol *odata.ProtocolError
		if tt.right != (err == nil && len(rows) == 50 && len(gone) == 0) || !tt.right && !errors.As(err, &protocol) {
			t.Errorf("%s: %d rows, %d gone, %v", tt.name, len(rows), len(gone), err)
		}
	}
}

func TestFetchNeedsAKey(t *testing.T) {
	s := startSim(t, simulator.Options{})
	if _, err := s.session.Fetch(s.query(view)); err == nil {
		t.Error("rows of a view without a key can be asked for by key")
	}
	q := s.query(lines)
	table := *q.Table
	table.Columns = slices.Clone(table.Columns)
	for i := range table.Columns {
		if table.Columns[i].Key {
			table.Columns[i].Ops, table.Columns[i].OpsKnown = edm.OpLike, true
		}
	}
	q.Table = &table
	if _, err := s.session.Fetch(q); err == nil || !strings.Contains(err.Error(), "no filter") {
		t.Error(err)
	}
}
