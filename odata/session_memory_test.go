package odata_test

import (
	"runtime"
	"testing"

	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/simulator"
)

// A run reads many windows, and keeps the scan of each until all are published. What a scan needed for its rows does not stay with it.
func TestEndedScansHoldNoRows(t *testing.T) {
	const rows, times = 3000, 30
	s := startSim(t, simulator.Options{Rows: map[string]int64{lines: rows}})
	var ended []*odata.Scan
	held := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	scan := func() {
		run, err := s.session.Scan(s.query(lines))
		if err != nil {
			t.Fatal(err)
		}
		n := int64(0)
		for rec, err := range run.Records(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			n += rec.NumRows()
		}
		if n != rows {
			t.Fatalf("%d rows", n)
		}
		ended = append(ended, run)
	}
	scan()
	scan()
	before := held()
	for range times {
		scan()
	}
	grown := int64(held()-before) / times
	t.Logf("%d bytes for each scan that has ended", grown)
	if grown > 64<<10 {
		t.Errorf("each of %d scans that have ended holds %d bytes", len(ended), grown)
	}
}
