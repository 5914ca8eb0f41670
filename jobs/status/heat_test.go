package status

import (
	"fmt"
	"testing"
	"time"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/jobs/window"
)

// Every window of every period has a square of its own; what lies between and was never read shows as such; what cannot be relied on too.
func TestHeatMap(t *testing.T) {
	t.Parallel()
	for every, want := range map[string]int{"day": 1127, "week": 162, "month": 37, "quarter": 13, "year": 4} {
		calendar, err := window.New(window.Period(every), "UTC")
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		var windows []export.Window
		for day := time.Date(2021, 12, 1, 0, 0, 0, 0, time.UTC); day.Before(time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)); day = day.AddDate(0, 0, 1) {
			value := calendar.On(window.DayOf(day.Year(), day.Month(), day.Day())).Value
			if !seen[value] {
				seen[value] = true
				windows = append(windows, export.Window{Value: value, Rows: int64(len(windows))})
			}
		}
		h := heatOf(every, append([]export.Window{{Rows: 7}}, windows...))
		if len(h.Squares) != len(windows) || h.Missing != 0 || len(windows) != want {
			t.Errorf("%s: %d squares for %d windows (want %d), %d missing", every, len(h.Squares), len(windows), want, h.Missing)
		}
		places := map[[2]int]bool{}
		for _, s := range h.Squares {
			if places[[2]int{s.X, s.Y}] || s.X+heatStep > h.Width || s.Y+heatStep-2 > h.Height {
				t.Errorf("%s: %+v in %d × %d", every, s, h.Width, h.Height)
			}
			places[[2]int{s.X, s.Y}] = true
		}
		if first, last := h.Squares[0], h.Squares[len(h.Squares)-1]; first.Class != "h0" || last.Class != "h4" && every != "year" {
			t.Errorf("%s: %+v … %+v", every, first, last)
		}
		if len(windows) < 5 {
			continue
		}
		windows[2].Problem = "its files do not agree"
		h = heatOf(every, append(windows[:3:3], windows[4:]...))
		if h.Missing != 1 || h.Bad != 1 || h.Squares[2].Class != "bad" || h.Squares[3].Class != "none" {
			t.Errorf("%s: %d missing, %d bad, %+v", every, h.Missing, h.Bad, h.Squares[2:4])
		}
	}
	if h := heatOf("month", nil); len(h.Squares) != 0 || len(h.Lines) != 0 {
		t.Error(h)
	}
	for _, odd := range []string{"", "x", "2024-13", "2024-Q1", "2024", "20240-01", "2024-01-01"} {
		if h := heatOf("month", []export.Window{{Value: odd}}); len(h.Squares) != 0 || len(h.Windows) != 1 {
			t.Error(odd, fmt.Sprint(h.Squares))
		}
	}
}
