package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// wholeRun is one `tablexport run`, straight from the simulator.
type wholeRun struct {
	Rows     int64   `json:"rows"`
	Columns  int     `json:"columns"`
	Page     int     `json:"page"`
	Flags    string  `json:"flags,omitempty"`
	Seconds  float64 `json:"seconds"`
	CPUPerM  float64 `json:"cpuSecondsPerMillionRows"`
	PeakMiB  float64 `json:"peakMiB"`
	OutMiB   float64 `json:"publishedMiB"`
	Files    int     `json:"files"`
	RSSRatio float64 `json:"peakRatio,omitempty"` // against the first size
}

const (
	maxRSS      = 200 // MiB
	maxRSSRatio = 1.1 // the largest size against the smallest
	hugeMiB     = 256 // with rows of a megabyte
)

func (t tools) wholeRuns(ctx context.Context, o options, r *report) error {
	fmt.Printf("\n%12s %8s %9s %-14s %9s %10s %13s %9s %12s %6s\n", "rows", "columns", "page", "", "seconds", "rows/s", "CPU s/M rows", "peak MiB", "written MiB", "files")
	var m missed
	first := 0.0
	for text := range strings.SplitSeq(o.sizes, ",") {
		rows, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		if err != nil {
			return fmt.Errorf("-rows: %w", err)
		}
		run, err := t.wholeRun(ctx, rows, 20, o.page)
		if err != nil {
			return err
		}
		if first == 0 {
			first = run.PeakMiB
		}
		run.RSSRatio = run.PeakMiB / first
		r.Runs = append(r.Runs, run)
		if run.PeakMiB > maxRSS {
			m = append(m, fmt.Sprintf("%d rows peak at %.0f MiB, the bar is %d", rows, run.PeakMiB, maxRSS))
		}
		if run.RSSRatio > maxRSSRatio {
			m = append(m, fmt.Sprintf("%d rows peak at %.2f times the smallest table's memory, the bar is %.1f", rows, run.RSSRatio, maxRSSRatio))
		}
	}
	low, err := t.wholeRun(ctx, 1_000_000, 20, o.page, "--low-memory")
	if err != nil {
		return err
	}
	if r.Runs = append(r.Runs, low); low.PeakMiB > lowMemoryMiB {
		m = append(m, fmt.Sprintf("--low-memory peaks at %.0f MiB, the bar is %d", low.PeakMiB, lowMemoryMiB))
	}
	for _, page := range []int{1_000, 100_000, 1_000_000} {
		run, err := t.wholeRun(ctx, 1_000_000, 20, page)
		if err != nil {
			return err
		}
		if r.Runs = append(r.Runs, run); run.PeakMiB > maxRSS {
			m = append(m, fmt.Sprintf("pages of %d rows peak at %.0f MiB, the bar is %d", page, run.PeakMiB, maxRSS))
		}
	}
	wide, err := t.wholeRun(ctx, 300_000, 60, o.page)
	if err != nil {
		return err
	}
	r.Runs = append(r.Runs, wide)
	for _, flags := range [][]string{nil, {"--low-memory"}} {
		run, err := t.huge(ctx, flags...)
		if err != nil {
			return err
		}
		if r.Runs = append(r.Runs, run); run.PeakMiB > hugeMiB {
			m = append(m, fmt.Sprintf("rows of a megabyte peak at %.0f MiB, the bar is %d", run.PeakMiB, hugeMiB))
		}
	}
	if err := t.small(ctx, r); err != nil {
		return err
	}
	if len(m) > 0 {
		return m
	}
	fmt.Printf("\nmemory bars hold: at most %d MiB and %.1f times the smallest table's, %d MiB with --low-memory, %d MiB with rows of a megabyte\n", maxRSS, maxRSSRatio, lowMemoryMiB, hugeMiB)
	return nil
}

func (t tools) wholeRun(ctx context.Context, rows int64, columns, page int, flags ...string) (wholeRun, error) {
	w, err := t.newWorld(ctx, "whole", rows, columns, page, false)
	if err != nil {
		return wholeRun{}, err
	}
	defer w.close()
	c, err := w.copy(ctx, flags...)
	if err != nil {
		return wholeRun{}, err
	}
	r := wholeRun{
		Rows: rows, Columns: columns, Page: page, Flags: strings.Join(flags, " "), Seconds: c.Wall, CPUPerM: c.CPU / float64(rows) * 1e6,
		PeakMiB: c.PeakMiB, OutMiB: c.OutMiB, Files: c.Files,
	}
	r.print()
	return r, nil
}

func (r wholeRun) print() {
	fmt.Printf("%12d %8d %9d %-14s %9.1f %10.0f %13.2f %9.0f %12.1f %6d\n", r.Rows, r.Columns, r.Page, r.Flags, r.Seconds, float64(r.Rows)/r.Seconds, r.CPUPerM, r.PeakMiB, r.OutMiB, r.Files)
}

// small measures what costs the same for every table.
func (t tools) small(ctx context.Context, r *report) error {
	w, err := t.newWorld(ctx, "small", 1_000, 20, 1_000, false)
	if err != nil {
		return err
	}
	defer w.close()
	r.Small = map[string]cost{}
	fmt.Println()
	for _, args := range [][]string{{"version"}, {"plan", "lines"}, {"run", "lines"}} {
		var wall, cpu, peak []float64
		for range 5 {
			c, err := process(ctx, w.binary, append([]string{"-c", w.path("tablexport.yaml")}, args...)...)
			if err != nil {
				return err
			}
			wall, cpu, peak = append(wall, c.Wall), append(cpu, c.CPU), append(peak, c.PeakMiB)
		}
		c := cost{CPU: median(cpu), Wall: median(wall), PeakMiB: median(peak)}
		r.Small[args[0]] = c
		fmt.Printf("%-24s %6.0f ms, %6.0f ms of CPU, %4.0f MiB\n", strings.Join(args, " ")+" (1,000 rows)", c.Wall*1e3, c.CPU*1e3, c.PeakMiB)
	}
	return nil
}
