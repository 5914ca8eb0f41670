package jobs_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/window"
	"github.com/tablexport/tablexport/odata/simulator"
)

// BenchmarkRefresh is what one refresh of a table of 200,000 order lines over 58 months costs in each mode, by the server's count of requests and
// bytes of JSON. What it takes in time says more of this machine than of the modes.
func BenchmarkRefresh(b *testing.B) {
	var asked atomic.Int64
	r := newRig(b, simulator.Options{Rows: map[string]int64{lines: 200_000}, Behavior: simulator.Behavior{Count: simulator.PathCount}},
		behind(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if strings.Contains(req.URL.Path, lines) {
					asked.Add(1)
				}
				next.ServeHTTP(w, req)
			})
		}))
	whole := job(lines)
	whole.PageSize, whole.Path = 10_000, "whole"
	months := func(path string, change func(*jobs.Refresh)) jobs.Job {
		j := windowed(b, "Sales_Order_Reference/Document_Reference/Document_Date", window.PeriodMonth, "2022-01-01", "2026-10-31", 2)
		j.PageSize, j.Path = 10_000, path
		if change != nil {
			change(&j.Refresh)
		}
		return j
	}
	for _, c := range []struct {
		name  string
		job   jobs.Job
		first bool // measure the first load, not the one after it
	}{
		{"whole", whole, false},
		{"months/first", months("first", nil), true},
		{"months/newest-2", months("newest", nil), false},
		{"months/first-in-pieces-of-1000", months("split", func(r *jobs.Refresh) { r.Split.Rows = 1000 }), true},
	} {
		b.Run(c.name, func(b *testing.B) {
			j := c.job
			if !c.first {
				_, err := r.runAt(j, "2026-10-30")
				must(b, err)
			}
			var bytes, rows, n float64
			asked.Store(0)
			for b.Loop() {
				if c.first {
					j.Path += "+"
				}
				res, err := r.runAt(j, "2026-10-31")
				must(b, err)
				bytes, rows = bytes+float64(res.Evidence.Bytes), rows+float64(res.Evidence.Rows)
				n++
			}
			b.ReportMetric(float64(asked.Load())/n, "requests/op")
			b.ReportMetric(bytes/n/1e6, "MB/op")
			b.ReportMetric(rows/n, "rows/op")
		})
	}
}
