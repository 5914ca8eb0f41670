package jobs_test

import (
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/odata/simulator"
)

// A run's memory is that of a page and a row group, however many rows there are. The bound is coarse: the simulator is in
// the same process, and the heap is what the collector has not yet taken away.
func TestMemoryDoesNotGrowWithRows(t *testing.T) {
	if testing.Short() {
		t.Skip("reads two hundred thousand rows")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	most := func(rows int64) uint64 {
		r := newRig(t, simulator.Options{Rows: map[string]int64{lines: rows}})
		j := job(lines)
		j.PageSize = 5000
		var peak uint64
		var m runtime.MemStats
		res, err := r.runner.Run(t.Context(), jobs.Request{Job: j, Progress: func(jobs.Progress) {
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapInuse)
		}})
		must(t, err)
		if res.Rows != rows {
			t.Errorf("%d rows", res.Rows)
		}
		return peak
	}
	few, many := most(40_000), most(160_000)
	t.Logf("%d MiB for 40,000 rows, %d MiB for 160,000", few>>20, many>>20)
	// One row group is being filled in both; statistics, keys and the log grow by nothing that counts.
	if many > 2*few+32<<20 {
		t.Errorf("%d MiB for 40,000 rows, but %d MiB for 160,000", few>>20, many>>20)
	}
}
