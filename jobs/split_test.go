package jobs_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/window"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/simulator"
)

// A window that is too large for one scan is read in pieces, which changes nothing of the dataset: same rows, same partitions, and each
// piece with evidence of its own.
func TestLargeWindowsAreSplit(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		behavior simulator.Behavior
		by       string
		period   window.Period
		rows     int64
		pieces   int // at least, of some window
	}{
		"years of dates":                {simulator.Behavior{Count: simulator.InlineCount}, "Required_Delivery_Date", window.PeriodYear, 20, 3},
		"down to ranges of keys":        {simulator.Behavior{Count: simulator.PathCount}, "Required_Delivery_Date", window.PeriodYear, 1, 20},
		"hours of times":                {simulator.Behavior{Count: simulator.InlineCount}, "Intrastat_Apply_Date", window.PeriodYear, 2, 10},
		"a server that counts no rows":  {simulator.Behavior{}, "Required_Delivery_Date", window.PeriodYear, 20, 1},
		"a server without $orderby too": {simulator.Behavior{Count: simulator.InlineCount, OrderBy: simulator.RefuseOrderBy}, "Required_Delivery_Date", window.PeriodYear, 20, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, simulator.Options{Behavior: c.behavior})
			j := windowed(t, c.by, c.period, "2022-01-01", "2023-12-31", 2)
			j.Refresh.Split.Rows = c.rows
			where := fmt.Sprintf("%s ge %s and %s le %s", c.by, "2022-01-01T00:00:00Z", c.by, "2023-12-31T23:59:59Z")
			for _, now := range []string{"2024-01-10", "2024-01-11"} { // the second run knows the first one's evidence
				_, err := r.runAt(j, now)
				must(t, err)
				r.holds(j, where)
				most := 0
				held := r.held(j)
				for _, w := range held {
					most = max(most, len(w.Evidence))
				}
				if len(held) != 2 || most < c.pieces {
					t.Errorf("%d windows, %d pieces at most", len(held), most)
				}
			}
		})
	}
}

// Windows are read side by side and in pieces, and again and again, and the dataset still has one file for each of them: pieces go on where the one before
// has ended, and what is read again takes the old file's place.
func TestManyWindowsAreFewFiles(t *testing.T) {
	t.Parallel()
	for name, separate := range map[string]bool{"one version": false, "a version for each window": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, simulator.Options{Rows: map[string]int64{lines: 4000}, Behavior: simulator.Behavior{Count: simulator.PathCount}})
			j := windowed(t, "Required_Delivery_Date", window.PeriodMonth, "2022-01-01", "2023-12-31", 3)
			j.Refresh.Split.Rows, j.Refresh.PerWindow, j.PageSize = 5, separate, 10
			for _, now := range []string{"2023-12-10", "2023-12-11", "2023-12-12"} {
				_, err := r.runAt(j, now)
				must(t, err)
				d := export.Open(r.files, j.Path)
				s, err := d.Snapshot(t.Context())
				must(t, err)
				files, err := d.FilesAt(t.Context(), s.Version)
				must(t, err)
				rows, pieces := int64(0), 0
				for _, w := range r.held(j) {
					rows, pieces = rows+w.Rows, pieces+len(w.Evidence)
				}
				if len(files) != 24 || pieces < 3*24 || rows < 400 {
					t.Errorf("%s: %d files of 24 windows, which were read in %d pieces of %d rows", now, len(files), pieces, rows)
				}
			}
		})
	}
}

// Without $count, the keys that the earlier scan saw say where to cut a day.
func TestSplitByEarlierKeys(t *testing.T) {
	t.Parallel()
	r := newRig(t, simulator.Options{Rows: map[string]int64{lines: 3000}})
	j := windowed(t, "Required_Delivery_Date", window.PeriodYear, "2022-01-01", "2022-12-31", 1)
	_, err := r.runAt(j, "2023-01-10")
	must(t, err)
	j.Refresh.Split.Rows = 1
	_, err = r.runAt(j, "2022-12-30")
	must(t, err)
	r.holds(j, "Required_Delivery_Date ge 2022-01-01 and Required_Delivery_Date le 2022-12-31")
	if n := len(r.held(j)[0].Evidence); n < 365 {
		t.Errorf("%d pieces", n)
	}
}

// A scan that ran long and broke is tried again in smaller ones.
func TestSlowScansAreSplit(t *testing.T) {
	t.Parallel()
	var refused atomic.Int64
	r := newRig(t, simulator.Options{Behavior: simulator.Behavior{Count: simulator.PathCount}}, client(func(o *odata.Options) { o.Retry.Attempts = 1 }),
		behind(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				// The whole year is too much for this server.
				whole := strings.Contains(req.URL.RawQuery, "ge%202022-01-01") && strings.Contains(req.URL.RawQuery, "le%202022-12-31")
				if whole && !strings.HasSuffix(req.URL.Path, "$count") {
					refused.Add(1)
					time.Sleep(20 * time.Millisecond)
					w.WriteHeader(http.StatusGatewayTimeout)
					return
				}
				next.ServeHTTP(w, req)
			})
		}))
	j := windowed(t, "Required_Delivery_Date", window.PeriodYear, "2022-01-01", "2022-12-31", 1)
	j.Refresh.Split = jobs.Split{Rows: 80, After: 10 * time.Millisecond}
	_, err := r.runAt(j, "2023-01-10")
	must(t, err)
	r.holds(j, "Required_Delivery_Date ge 2022-01-01 and Required_Delivery_Date le 2022-12-31")
	if refused.Load() == 0 || len(r.held(j)[0].Evidence) < 2 {
		t.Errorf("%d refused, %d pieces", refused.Load(), len(r.held(j)[0].Evidence))
	}
}

// Bounds of windows by an owner's date-time need a fraction of a second. Where the server does not take one, nothing is published.
func TestWindowsByAnOwnersTime(t *testing.T) {
	t.Parallel()
	by := "Sales_Order_Reference/Document_Reference/Creation_Time"
	for _, fractions := range []bool{false, true} {
		r := newRig(t, simulator.Options{Behavior: simulator.Behavior{Fractions: fractions}})
		j := windowed(t, by, window.PeriodYear, "2018-01-01", "2022-12-31", 1)
		_, err := r.runAt(j, "2023-01-10")
		if fractions {
			must(t, err)
			r.holds(j, by+" ge 2018-01-01T00:00:00Z and "+by+" le 2022-12-31T23:59:59.997Z")
			continue
		}
		var bounds *jobs.BoundsError
		if !errors.As(err, &bounds) || bounds.Column != "Creation_Time" {
			t.Fatal(err)
		}
		if got := r.held(j); len(got) != 0 {
			t.Errorf("published: %v", got)
		}
	}
}
