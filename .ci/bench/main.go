// Command bench measures a whole `tablexport run` as a process of its own, against a simulator in another process:
// rows per second, CPU seconds per million rows, and peak memory, at several table sizes in one run.
//
// The memory bars are part of it: at 1,000,000 rows of 20 columns the peak must be below 300 MiB, and at the largest size
// not above 1.3 times that. Times are printed, never judged: they depend on the machine.
//
// Then, at the smallest size, a refresh by changes against one of the whole table, as ratios of requests, bytes and CPU seconds.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	maxRSS      = 300 << 20 // bytes at the smallest size
	maxRSSRatio = 1.3       // largest size against the smallest
)

// result is one measured run.
type result struct {
	Rows       int64   `json:"rows"`
	Seconds    float64 `json:"seconds"`
	RowsPerSec float64 `json:"rowsPerSecond"`
	CPUPerM    float64 `json:"cpuSecondsPerMillionRows"`
	PeakMiB    float64 `json:"peakMiB"`
	OutMiB     float64 `json:"publishedMiB"`
	RSSRatio   float64 `json:"peakRatio"` // against the first size
}

func main() {
	sizes := flag.String("rows", "1000000,10000000", "table sizes, comma-separated")
	page := flag.Int("page", 10_000, "rows of a page")
	out := flag.String("json", "", "write the results to this file too")
	flag.Parse()
	if err := bench(*sizes, *page, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(sizes string, page int, out string) error {
	dir, err := os.MkdirTemp("", "tablexport-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "tablexport")
	build := exec.Command("go", "build", "-o", binary, "./cmd/tablexport")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build: %w", err)
	}
	fmt.Printf("machine: %s/%s, %d CPUs, %s; simulator in a process of its own, loopback HTTP, local directory\n", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
	fmt.Printf("table: 20 columns of Crm_Sales_Order_Lines, pages of %d rows, scope checked on every row, one Delta commit\n\n", page)
	fmt.Printf("%12s %10s %12s %14s %10s %12s %10s\n", "rows", "seconds", "rows/s", "CPU s/M rows", "peak MiB", "written MiB", "peak ratio")
	var results []result
	for text := range strings.SplitSeq(sizes, ",") {
		rows, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		if err != nil {
			return fmt.Errorf("-rows: %w", err)
		}
		r, err := one(binary, filepath.Join(dir, text), rows, page)
		if err != nil {
			return err
		}
		results = append(results, r)
		last := &results[len(results)-1]
		last.RSSRatio = last.PeakMiB / results[0].PeakMiB
		fmt.Printf("%12d %10.1f %12.0f %14.2f %10.0f %12.1f %10.2f\n", r.Rows, r.Seconds, r.RowsPerSec, r.CPUPerM, r.PeakMiB, r.OutMiB, last.RSSRatio)
	}
	if out != "" {
		text, err := json.MarshalIndent(results, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(out, append(text, '\n'), 0o644); err != nil {
			return err
		}
	}
	if err := judge(results); err != nil {
		return err
	}
	rows, err := strconv.ParseInt(strings.TrimSpace(strings.Split(sizes, ",")[0]), 10, 64)
	if err != nil {
		return fmt.Errorf("-rows: %w", err)
	}
	return changes(binary, filepath.Join(dir, "changes"), rows, page)
}

func judge(results []result) error {
	first, last := results[0], results[len(results)-1]
	if first.PeakMiB > maxRSS>>20 {
		return fmt.Errorf("peak memory at %d rows is %.0f MiB, above %d", first.Rows, first.PeakMiB, maxRSS>>20)
	}
	if last.RSSRatio > maxRSSRatio {
		return fmt.Errorf("peak memory at %d rows is %.2f times that at %d rows, above %.1f", last.Rows, last.RSSRatio, first.Rows, maxRSSRatio)
	}
	fmt.Printf("\nmemory bars hold: %.0f MiB ≤ %d MiB, ratio %.2f ≤ %.1f\n", first.PeakMiB, maxRSS>>20, last.RSSRatio, maxRSSRatio)
	return nil
}

const config = `environment: sandbox
secrets: {file: {path: ./secrets.age}}
instances: {sim: {url: %q, token: bench/reader, requests_per_minute: 100000}}
stores: {lake: {file: {path: ./lake}}}
scopes: {lines: {where: "Sales_Order_Line_Id ge 00000000-0000-0000-0000-000000000000"}}
jobs:
  lines:
    instance: sim
    table: Crm_Sales_Order_Lines
    select: [Sales_Order_Line_Id, Sales_Order_Id, Line_No, Product_Id, Product_Description, Quantity, Quantity_Base, Quantity_Unit_Id, Unit_Price,
      Line_Amount, Line_Store_Id, Line_Deal_Type_Id, Line_Discount_Id, Line_Standard_Discount_Percent, Line_Custom_Discount_Percent,
      Required_Delivery_Date, Lot_Id, Notes, Tax_Amount, Intrastat_Apply_Date]
    scope: lines
    store: lake
    path: lines
    paging: {page_size: %d}
`

// one measures one run at one size.
func one(binary, dir string, rows int64, page int) (result, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return result{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	url, token, stop, err := simulator(ctx, binary, rows)
	if err != nil {
		return result{}, err
	}
	defer stop()
	if err := os.WriteFile(filepath.Join(dir, "tablexport.yaml"), fmt.Appendf(nil, config, url, page), 0o640); err != nil {
		return result{}, err
	}
	stage := exec.CommandContext(ctx, binary, "-c", filepath.Join(dir, "tablexport.yaml"), "tokens", "stage", "bench/reader", "--activate")
	stage.Stdin, stage.Stderr = strings.NewReader(token), os.Stderr
	if err := stage.Run(); err != nil {
		return result{}, fmt.Errorf("stage: %w", err)
	}
	run := exec.CommandContext(ctx, binary, "-c", filepath.Join(dir, "tablexport.yaml"), "run", "lines", "--json")
	run.Stderr = os.Stderr
	started := time.Now()
	text, err := run.Output()
	if err != nil {
		return result{}, fmt.Errorf("run: %w", err)
	}
	seconds := time.Since(started).Seconds()
	var report struct{ Rows, Bytes int64 }
	if err := json.Unmarshal(text, &report); err != nil {
		return result{}, err
	}
	if report.Rows != rows {
		return result{}, fmt.Errorf("%d rows were published, %d are there", report.Rows, rows)
	}
	usage, ok := run.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return result{}, errors.New("this system does not tell a process's memory")
	}
	cpu := run.ProcessState.UserTime() + run.ProcessState.SystemTime()
	return result{Rows: rows, Seconds: seconds, RowsPerSec: float64(rows) / seconds, CPUPerM: cpu.Seconds() / float64(rows) * 1e6,
		PeakMiB: float64(usage.Maxrss) / 1024, OutMiB: float64(report.Bytes) / (1 << 20)}, nil
}

// simulator starts the simulator as a process and waits until it answers.
func simulator(ctx context.Context, binary string, rows int64) (url, token string, stop func(), err error) {
	cmd := exec.CommandContext(ctx, binary, "simulate", "--json", "--listen", "127.0.0.1:0", "--rows", fmt.Sprintf("Crm_Sales_Order_Lines=%d", rows))
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return "", "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", "", nil, err
	}
	stop = func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	}
	line, err := bufio.NewReader(pipe).ReadBytes('\n')
	if err != nil {
		stop()
		return "", "", nil, fmt.Errorf("simulator: %w", err)
	}
	var said struct{ URL, Token string }
	if err := json.Unmarshal(line, &said); err != nil {
		stop()
		return "", "", nil, fmt.Errorf("simulator: %w", err)
	}
	return said.URL, said.Token, stop, nil
}
