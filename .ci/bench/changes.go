package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	sim "github.com/tablexport/tablexport/odata/simulator"
)

// The bars of a refresh by changes, as shares of reading the whole table, with 0.1 % of the rows changed.
const (
	changedShare  = 1000 // one row in so many
	mostOfBytes   = 0.25 // of the JSON that is read
	mostOfCPU     = 0.60 // of the program's CPU seconds
	mostMoreAsked = 1.25 // of the requests: the sweep has as many pages, and the fetch is to be few
)

const changesConfig = `environment: sandbox
secrets: {file: {path: ./secrets.age}}
instances: {sim: {url: %q, token: bench/reader, requests_per_minute: 100000}}
stores: {lake: {file: {path: ./lake}}}
scopes: {lines: {where: "Sales_Order_Line_Id ge 00000000-0000-0000-0000-000000000000"}}
jobs:
  lines:
    instance: sim
    table: Crm_Sales_Order_Lines
    scope: lines
    store: lake
    path: lines
    paging: {page_size: %d}
    refresh: {by: changes}
`

// changeCost is what a run has cost the instance and this machine.
type changeCost struct {
	requests, bytes int64
	cpu             time.Duration
	peak            float64 // MiB
	seconds         float64
	report          struct {
		Rows  int64
		Whole string
		Merge *struct{ Written, Copied, After int64 }
	}
}

// changes measures a refresh by changes against a refresh of the whole table: the same job, first over an empty directory, then after one row in a
// thousand was updated. The simulator runs in this process, the program in one of its own.
func changes(binary, dir string, rows int64, page int) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	server, err := sim.New(sim.Options{Rows: map[string]int64{"Crm_Sales_Order_Lines": rows}, Seed: 1})
	if err != nil {
		return err
	}
	address, stop, err := server.Start("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer func() { _ = stop(context.Background()) }()
	if err := os.WriteFile(filepath.Join(dir, "tablexport.yaml"), fmt.Appendf(nil, changesConfig, address, page), 0o640); err != nil {
		return err
	}
	stage := exec.CommandContext(ctx, binary, "-c", filepath.Join(dir, "tablexport.yaml"), "tokens", "stage", "bench/reader", "--activate")
	stage.Stdin, stage.Stderr = strings.NewReader(sim.DemoToken), os.Stderr
	if err := stage.Run(); err != nil {
		return fmt.Errorf("stage: %w", err)
	}
	whole, err := changeRun(ctx, binary, dir, server)
	if err != nil {
		return err
	}
	n := int(rows / changedShare)
	if _, err := server.Update("Crm_Sales_Order_Lines", n); err != nil {
		return err
	}
	merge, err := changeRun(ctx, binary, dir, server)
	if err != nil {
		return err
	}
	if whole.report.Whole == "" || merge.report.Merge == nil || merge.report.Merge.Written != int64(n) || merge.report.Merge.After != rows {
		return fmt.Errorf("changes: %d of %d rows were changed, and the runs say %+v and %+v", n, rows, whole.report, merge.report)
	}
	fmt.Printf("\nrefresh by changes: all columns of Crm_Sales_Order_Lines, %d rows, %d of them (0.1 %%) updated\n\n", rows, n)
	fmt.Printf("%-12s %10s %12s %10s %10s %10s\n", "", "requests", "MiB of JSON", "CPU s", "seconds", "peak MiB")
	for _, line := range []struct {
		name string
		c    changeCost
	}{{"whole", whole}, {"by changes", merge}} {
		c := line.c
		fmt.Printf("%-12s %10d %12.1f %10.2f %10.1f %10.0f\n", line.name, c.requests, float64(c.bytes)/(1<<20), c.cpu.Seconds(), c.seconds, c.peak)
	}
	asked, read, worked := float64(merge.requests)/float64(whole.requests), float64(merge.bytes)/float64(whole.bytes), merge.cpu.Seconds()/whole.cpu.Seconds()
	fmt.Printf("%-12s %10.2f %12.3f %10.2f\n", "ratio", asked, read, worked)
	if read > mostOfBytes || worked > mostOfCPU || asked > mostMoreAsked {
		return fmt.Errorf("a refresh by changes costs more than it may: %.2f of the bytes (%.2f), %.2f of the CPU (%.2f), %.2f of the requests (%.2f)",
			read, mostOfBytes, worked, mostOfCPU, asked, mostMoreAsked)
	}
	return nil
}

// measured is one run.
func changeRun(ctx context.Context, binary, dir string, server *sim.Server) (c changeCost, err error) {
	before := server.Stats()
	run := exec.CommandContext(ctx, binary, "-c", filepath.Join(dir, "tablexport.yaml"), "run", "lines", "--json")
	run.Stderr = os.Stderr
	started := time.Now()
	text, err := run.Output()
	if err != nil {
		return c, fmt.Errorf("run: %w", err)
	}
	c.seconds = time.Since(started).Seconds()
	if err := json.Unmarshal(text, &c.report); err != nil {
		return c, err
	}
	usage, ok := run.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return c, errors.New("this system does not tell a process's memory")
	}
	after := server.Stats()
	c.requests, c.bytes = after.Requests-before.Requests, after.Bytes-before.Bytes
	c.cpu, c.peak = run.ProcessState.UserTime()+run.ProcessState.SystemTime(), float64(usage.Maxrss)/1024
	return c, nil
}
