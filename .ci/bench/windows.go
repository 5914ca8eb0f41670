package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	sim "github.com/tablexport/tablexport/odata/simulator"
)

// A server is not a loopback: it thinks before it answers. So long, for each page.
const think = 250 * time.Millisecond

const (
	windowRows   = 500_000
	windowMonths = 58 // that the simulator's documents lie in
	mostOfWall   = 0.7
)

const windowsConfig = `environment: sandbox
secrets: {file: {path: ./secrets.age}}
instances: {sim: {url: %q, token: bench/reader, requests_per_minute: 100000, concurrency: %d}}
stores: {lake: {file: {path: ./lake}}}
scopes: {all: {unrestricted: true}}
jobs:
  lines:
    instance: sim
    table: Crm_Sales_Order_Lines
    select: [%s]
    scope: all
    store: lake
    path: lines
    paging: {page_size: 10000}
    refresh: {by: Sales_Order_Reference/Document_Reference/Document_Date, every: month, from: "2022-01", to: "2026-10"}
`

// windowed is what a run of many windows took.
type windowed struct {
	AtOnce  int     `json:"windowsAtOnce"`
	Seconds float64 `json:"seconds"`
	CPUPerM float64 `json:"cpuSecondsPerMillionRows"`
	PeakMiB float64 `json:"peakMiB"`
	Files   int     `json:"files"`
}

// windows reads a table by months from a server that thinks: a window at a time, two as an instance allows by default, and four.
func (t tools) windows(ctx context.Context, r *report) error {
	server, err := sim.New(sim.Options{Seed: 1, Concurrency: 8, Rows: map[string]int64{table: windowRows}, Behavior: sim.Behavior{Count: sim.PathCount}})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	slow := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/"+table) {
			time.Sleep(think)
		}
		server.ServeHTTP(w, r)
	})}
	go func() { _ = slow.Serve(l) }() // ends with Close
	defer slow.Close()
	fmt.Printf("\n%d rows of %d columns in %d months, from a server that thinks %v before every page\n\n%16s %9s %13s %9s %6s\n", windowRows, len(twenty), windowMonths, think, "windows at once", "seconds", "CPU s/M rows", "peak MiB", "files")
	for _, atOnce := range []int{1, 2, 4} {
		w, err := t.windowRun(ctx, "http://"+l.Addr().String(), atOnce)
		if err != nil {
			return err
		}
		r.Windows = append(r.Windows, w)
		fmt.Printf("%16d %9.1f %13.2f %9.0f %6d\n", w.AtOnce, w.Seconds, w.CPUPerM, w.PeakMiB, w.Files)
	}
	one, two := r.Windows[0], r.Windows[1]
	var m missed
	if share := two.Seconds / one.Seconds; share > mostOfWall {
		m = append(m, fmt.Sprintf("two windows at once take %.2f of the time of one after the other, the bar is %.1f", share, mostOfWall))
	}
	for _, w := range r.Windows {
		if w.PeakMiB > maxRSS {
			m = append(m, fmt.Sprintf("%d windows at once peak at %.0f MiB, the bar is %d", w.AtOnce, w.PeakMiB, maxRSS))
		}
		if w.Files > windowMonths+1 { // rows without a date have a file, too
			m = append(m, fmt.Sprintf("%d windows are %d files", windowMonths, w.Files))
		}
	}
	if len(m) > 0 {
		return m
	}
	return nil
}

func (t tools) windowRun(ctx context.Context, address string, atOnce int) (w windowed, err error) {
	dir := filepath.Join(t.dir, fmt.Sprintf("windows-%d", atOnce))
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return w, err
	}
	config := filepath.Join(dir, "tablexport.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, windowsConfig, address, atOnce, strings.Join(twenty, ", ")), 0o640); err != nil {
		return w, err
	}
	stage := exec.CommandContext(ctx, t.tablexport, "-c", config, "tokens", "stage", "bench/reader", "--activate")
	stage.Stdin, stage.Stderr = strings.NewReader(sim.DemoToken), os.Stderr
	if err := stage.Run(); err != nil {
		return w, fmt.Errorf("stage: %w", err)
	}
	c, err := t.process(ctx, t.tablexport, "-c", config, "run", "lines", "--json")
	if err != nil {
		return w, err
	}
	var said struct {
		Rows  int64
		Files int
	}
	if err := json.Unmarshal(c.out, &said); err != nil {
		return w, err
	}
	if said.Rows != windowRows {
		return w, fmt.Errorf("%d rows were published, %d are there", said.Rows, windowRows)
	}
	return windowed{AtOnce: atOnce, Seconds: c.Wall, CPUPerM: c.CPU / windowRows * 1e6, PeakMiB: c.PeakMiB, Files: said.Files}, nil
}
