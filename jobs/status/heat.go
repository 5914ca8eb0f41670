package status

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tablexport/tablexport/export"
)

// heatMap is a dataset's windows as squares: a line for each year (of days: for each month; of years: for ten), darker for more rows. The table beside it
// says the same in words.
type heatMap struct {
	Width, Height int
	Lines         []heatLine
	Squares       []square
	Windows       []export.Window // newest first
	Every         string
	Bad, Missing  int
	Trouble       string
}

type heatLine struct {
	Text string
	Y    int
}

type square struct {
	X, Y        int
	Class, Text string // Class: "h0" (no rows) to "h4" (the most), "bad", "none"
}

// The measures of a square, with its gap, and of what stands before a line.
const (
	heatStep  = 22
	heatLabel = 76
)

const (
	storeWait = 15 * time.Second // bounds how long a page waits for the store
	storeKeep = 10 * time.Second // how old what a page shows of a store may be
)

// windows reads the dataset's log for the windows of a job that goes by periods; nil for others.
func (p *pages) windows(ctx context.Context, j Job) *heatMap {
	if j.Every == "" || p.Dataset == nil {
		return nil
	}
	windows, err := p.stores.windows.get(ctx, j.Name, func(ctx context.Context) ([]export.Window, error) {
		d, err := p.Dataset(ctx, j.Name)
		if err != nil {
			return nil, err
		}
		return d.Windows(ctx)
	})
	if err != nil {
		p.log.Warn("the windows could not be shown", "job", j.Name, "error", err)
		return &heatMap{Every: j.Every, Trouble: "The store cannot be read at the moment; the log says why."}
	}
	return heatOf(j.Every, windows)
}

// heatOf lays windows out. Values that are of no period (rows without a date, a period that was changed) are in the table only.
func heatOf(every string, windows []export.Window) *heatMap {
	h := &heatMap{Every: every}
	most := int64(0)
	at := map[[2]int]export.Window{}
	var first, last [2]int
	for _, w := range windows {
		most = max(most, w.Rows)
		if w.Problem != "" {
			h.Bad++
		}
		line, column, ok := heatPlace(every, w.Value)
		if !ok {
			continue
		}
		place := [2]int{line, column}
		if len(at) == 0 || slices.Compare(place[:], first[:]) < 0 {
			first = place
		}
		if len(at) == 0 || slices.Compare(place[:], last[:]) > 0 {
			last = place
		}
		at[place] = w
	}
	columns := 1
	for line := first[0]; len(at) > 0 && line <= last[0]; line++ {
		y := 2 + (line-first[0])*heatStep
		h.Lines = append(h.Lines, heatLine{lineText(every, line), y + heatStep - 8})
		for column := range columnsOf(every, line) {
			place := [2]int{line, column}
			if slices.Compare(place[:], first[:]) < 0 || slices.Compare(place[:], last[:]) > 0 {
				continue
			}
			columns = max(columns, column+1)
			s := square{X: heatLabel + column*heatStep, Y: y, Class: "none", Text: "a window that was never read"}
			if w, there := at[place]; there {
				s.Class, s.Text = heatClass(w, most), fmt.Sprintf("%s: %s rows", w.Value, grouped(w.Rows))
				if !w.Loaded.IsZero() {
					s.Text += ", read " + w.Loaded.UTC().Format("2006-01-02 15:04")
				}
				if w.Problem != "" {
					s.Text += "; " + w.Problem
				}
			} else {
				h.Missing++
			}
			h.Squares = append(h.Squares, s)
		}
	}
	h.Width, h.Height = heatLabel+columns*heatStep, 4+len(h.Lines)*heatStep
	h.Windows = slices.Clone(windows)
	slices.Reverse(h.Windows)
	return h
}

func heatClass(w export.Window, most int64) string {
	switch {
	case w.Problem != "":
		return "bad"
	case w.Rows == 0 || most == 0:
		return "h0"
	}
	return fmt.Sprintf("h%d", 1+min(3, int(4*float64(w.Rows)/float64(most+1))))
}

// heatPlace is where a window's value stands: the line is a year, of days a month counted since year 0, of years a decade.
func heatPlace(every, value string) (line, column int, ok bool) {
	year, rest, _ := strings.Cut(value, "-")
	y, err := strconv.Atoi(year)
	if err != nil || len(year) != 4 {
		return 0, 0, false
	}
	number := func(text, prefix string, most int) (int, bool) {
		text, has := strings.CutPrefix(text, prefix)
		n, err := strconv.Atoi(text)
		return n - 1, has && err == nil && n >= 1 && n <= most
	}
	switch every {
	case "year":
		return y / 10, y % 10, rest == ""
	case "quarter":
		column, ok = number(rest, "Q", 4)
	case "month":
		column, ok = number(rest, "", 12)
	case "week":
		column, ok = number(rest, "W", 53)
	case "day":
		day, err := time.Parse(time.DateOnly, value)
		return y*12 + int(day.Month()) - 1, day.Day() - 1, err == nil
	}
	return y, column, ok
}

// columnsOf is how many windows a line may have.
func columnsOf(every string, line int) int {
	switch every {
	case "year":
		return 10
	case "quarter":
		return 4
	case "month":
		return 12
	case "week": // the 28th of December is always in the last week of its year (ISO 8601)
		_, week := time.Date(line, time.December, 28, 0, 0, 0, 0, time.UTC).ISOWeek()
		return week
	}
	return time.Date(line/12, time.Month(line%12+2), 0, 0, 0, 0, 0, time.UTC).Day()
}

func lineText(every string, line int) string {
	switch every {
	case "year":
		return fmt.Sprintf("%d…", 10*line)
	case "day":
		return fmt.Sprintf("%04d-%02d", line/12, line%12+1)
	}
	return strconv.Itoa(line)
}
