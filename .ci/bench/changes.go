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
	mostOfBytes   = 0.10 // of the JSON that is read
	mostOfCPU     = 0.70 // of the program's CPU seconds, where the rows lie side by side: else every file is copied
	mostMemory    = 300  // MiB at the peak: a row group, and what is sorted of swept keys, held keys and rows to replace
	mostMoreAsked = 0.50 // of the requests: the sweep's pages are ten times as long, and the fetch is to be few
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
	report          struct {
		Rows  int64
		Whole string
		Merge *struct{ Written, Copied, After int64 }
	}
}

// changes measures a refresh by changes against a refresh of the whole table: the same job, first over an empty directory, then after one row in a
// thousand was updated. Rows that
// are updated anywhere lie in all files, which are all copied; those side by side in one. The simulator runs in this process, the program in one of its own.
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
	anywhere, err := changeRun(ctx, binary, dir, server)
	if err != nil {
		return err
	}
	newest, err := keyAt(server, rows-int64(n))
	if err != nil {
		return err
	}
	if _, err := server.UpdateWhere("Crm_Sales_Order_Lines", "Sales_Order_Line_Id ge "+newest); err != nil {
		return err
	}
	together, err := changeRun(ctx, binary, dir, server)
	if err != nil {
		return err
	}
	for _, c := range []changeCost{anywhere, together} {
		if whole.report.Whole == "" || c.report.Merge == nil || c.report.Merge.Written != int64(n) || c.report.Merge.After != rows {
			return fmt.Errorf("changes: %d of %d rows were changed, and the runs say %+v and %+v", n, rows, whole.report, c.report)
		}
	}
	fmt.Printf("\nrefresh by changes: all columns of Crm_Sales_Order_Lines, %d rows, %d of them (0.1 %%) updated, anywhere or side by side; in brackets against the whole\n\n", rows, n)
	fmt.Printf("%-14s %16s %20s %16s %10s %12s\n", "", "requests", "MiB of JSON", "CPU s", "peak MiB", "rows copied")
	asked, read, worked := 0.0, 0.0, 0.0
	for i, c := range []changeCost{whole, anywhere, together} {
		asked, read, worked = float64(c.requests)/float64(whole.requests), float64(c.bytes)/float64(whole.bytes), c.cpu.Seconds()/whole.cpu.Seconds()
		copied := int64(0)
		if c.report.Merge != nil {
			copied = c.report.Merge.Copied
		}
		fmt.Printf("%-14s %9d (%.2f) %12.1f (%.3f) %9.2f (%.2f) %10.0f %12d\n", []string{"whole", "anywhere", "side by side"}[i], c.requests, asked, float64(c.bytes)/(1<<20), read,
			c.cpu.Seconds(), worked, c.peak, copied)
		if i > 0 && (read > mostOfBytes || asked > mostMoreAsked) || c.peak > mostMemory {
			return fmt.Errorf("a refresh by changes costs more than it may: %.3f of the bytes (%.2f), %.2f of the requests (%.2f), %.0f MiB of memory (%d)",
				read, mostOfBytes, asked, mostMoreAsked, c.peak, mostMemory)
		}
	}
	if worked > mostOfCPU {
		return fmt.Errorf("a refresh of rows side by side takes %.2f of the CPU seconds of the whole, above %.2f", worked, mostOfCPU)
	}
	return nil
}

// keyAt is the key of the row at a place in the order of the keys.
func keyAt(server *sim.Server, at int64) (string, error) {
	rows, err := server.Oracle().Rows("Crm_Sales_Order_Lines", "", []string{"Sales_Order_Line_Id"})
	if err != nil {
		return "", err
	}
	for row := range rows {
		if at--; at < 0 {
			return row[0], nil
		}
	}
	return "", errors.New("the table has too few rows")
}

// changeRun is one run.
func changeRun(ctx context.Context, binary, dir string, server *sim.Server) (c changeCost, err error) {
	before := server.Stats()
	run := exec.CommandContext(ctx, binary, "-c", filepath.Join(dir, "tablexport.yaml"), "run", "lines", "--json")
	run.Stderr = os.Stderr
	text, err := run.Output()
	if err != nil {
		return c, fmt.Errorf("run: %w", err)
	}
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
