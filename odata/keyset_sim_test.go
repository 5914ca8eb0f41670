package odata_test

import (
	"net/http"
	"sync"
	"testing"

	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/filter"
	"github.com/tablexport/tablexport/odata/simulator"
)

// window is a query of the lines whose number is within bounds.
func (s *sim) window(where string, keys *odata.KeySet) odata.Query {
	s.tb.Helper()
	q := s.query(lines)
	var err error
	if q.Filter, err = filter.Compile(where, s.model, q.Table); err != nil {
		s.tb.Fatal(err)
	}
	q.Keys, q.Select = keys, []string{"Line_No", "Quantity"} // the key is not among the columns
	return q
}

func repeated(t *testing.T, keys *odata.KeySet, want int64) {
	t.Helper()
	if n, err := keys.Repeated(); err != nil || n != want {
		t.Errorf("%d keys are there twice, %v; want %d", n, err, want)
	}
}

// Windows that are disjoint share no key; a row that moves from a window that is still to come into one that is done is not met
// twice, and one that moves the other way is.
func TestAKeyInTwoWindows(t *testing.T) {
	for _, paging := range []odata.Paging{odata.Key, odata.Offset, odata.Stream} {
		for _, again := range []bool{false, true} {
			s := startSim(t, simulator.Options{})
			keys := odata.NewKeySet()
			defer keys.Close()
			first := s.window("Sales_Order_Line_Id ge 00000000-0000-0000-0000-000000000000", keys)
			first.Paging = paging
			rows, _, err := s.scan(first)
			if err != nil {
				t.Fatal(err)
			}
			want := int64(0)
			if again { // the second window holds every row of the first one
				want = int64(len(rows))
				if _, _, err := s.scan(first); err != nil {
					t.Fatal(err)
				}
			}
			repeated(t, keys, want)
		}
	}
}

// The keys of a scan that fails, that is left, or that is thrown away are taken back; scans of several windows add at once.
func TestKeysAreTakenBack(t *testing.T) {
	s := startSim(t, simulator.Options{})
	keys := odata.NewKeySet()
	defer keys.Close()
	q := s.query(lines)
	q.Keys = keys
	open := func() *odata.Scan {
		scan, err := s.session.Scan(q)
		if err != nil {
			t.Fatal(err)
		}
		return scan
	}
	s.server.Inject(simulator.Fault{Match: fullRows, Nth: 3, Effect: simulator.Status(http.StatusForbidden, "")})
	var last error
	came := int64(0)
	for rec, err := range open().Records(t.Context()) {
		if last = err; err == nil {
			came += rec.NumRows()
		}
	}
	if last == nil || came == 0 {
		t.Fatalf("%d rows, then %v", came, last)
	}
	s.server.ClearFaults()
	for range open().Records(t.Context()) {
		break
	}
	unwritten := open()
	for _, err := range unwritten.Records(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
	}
	unwritten.Withdraw()

	var wg sync.WaitGroup
	for range 3 {
		scan := open()
		wg.Go(func() {
			for _, err := range scan.Records(t.Context()) {
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	repeated(t, keys, 2*1300)
}

// A view has no key to compare.
func TestNoKeysOfAView(t *testing.T) {
	s := startSim(t, simulator.Options{})
	keys := odata.NewKeySet()
	defer keys.Close()
	q := s.query(view)
	q.Keys = keys
	if _, err := s.session.Scan(q); err == nil {
		t.Error("a key set was taken for a view without a key")
	}
}
