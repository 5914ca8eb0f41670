package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// idleServe is `tablexport serve` with many scheduled jobs of which none is due.
type idleServe struct {
	Jobs        int     `json:"jobs"`
	Seconds     float64 `json:"seconds"` // watched
	CorePercent float64 `json:"corePercent"`
	RSSMiB      float64 `json:"rssMiB"`
	PeakMiB     float64 `json:"peakMiB"` // its start included
}

const (
	idleJobs    = 1000
	idleCore    = 1.0 // percent
	idleMiB     = 100
	idleWatched = time.Minute
)

// idle starts the program with 1,000 jobs, waits until it is ready, and watches it for a minute.
func (t tools) idle(ctx context.Context, r *report) error {
	dir := filepath.Join(t.dir, "idle")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var text strings.Builder
	text.WriteString("environment: sandbox\nsecrets: {file: {path: ./secrets.age}}\ninstances: {sim: {url: \"http://127.0.0.1:9\", token: bench/reader}}\nstores: {lake: {file: {path: ./lake}}}\nscopes: {all: {unrestricted: true}}\nserve: {listen: \"127.0.0.1:0\"}\njobs:\n")
	hour := (time.Now().UTC().Hour() + 8) % 24 // nothing is due for hours
	for i := range idleJobs {
		fmt.Fprintf(&text, "  job-%04d: {instance: sim, table: Crm_Sales_Order_Lines, scope: all, store: lake, path: lines/%d, schedule: {cron: \"%d %d * * *\", zone: UTC}, fresh_within: 26h}\n", i, i, i%60, (hour+i%8)%24)
	}
	config := filepath.Join(dir, "tablexport.yaml")
	if err := os.WriteFile(config, []byte(text.String()), 0o640); err != nil {
		return err
	}
	stage := exec.CommandContext(ctx, t.tablexport, "-c", config, "tokens", "stage", "bench/reader")
	stage.Stdin, stage.Stderr = strings.NewReader("enrt_bench_bench_bench_bench"), nil
	_ = stage.Run() // nobody answers at that address, so the token cannot be proven; it is staged all the same

	serve := exec.CommandContext(ctx, t.tablexport, "-c", config, "serve")
	said, err := serve.StderrPipe()
	if err != nil {
		return err
	}
	if err := serve.Start(); err != nil {
		return err
	}
	defer func() {
		_ = serve.Process.Signal(syscall.SIGTERM)
		_ = serve.Wait()
	}()
	address, err := ready(ctx, bufio.NewScanner(said))
	if err != nil {
		return err
	}
	sleep(ctx, 10*time.Second) // its start ends
	from, began := cpuOf(serve.Process.Pid), time.Now()
	sleep(ctx, idleWatched)
	took, watched := cpuOf(serve.Process.Pid)-from, time.Since(began).Seconds()
	if err := ctx.Err(); err != nil {
		return err
	}
	i := idleServe{Jobs: idleJobs, Seconds: watched, CorePercent: took / watched * 100, RSSMiB: memoryOf(serve.Process.Pid, "VmRSS:"), PeakMiB: memoryOf(serve.Process.Pid, "VmHWM:")}
	page := time.Now()
	resp, err := http.Get(address + "/")
	if err != nil {
		return err
	}
	resp.Body.Close()
	if i.RSSMiB == 0 || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("serve: status %d, %v MiB", resp.StatusCode, i.RSSMiB)
	}
	r.Idle = &i
	fmt.Printf("\nserve with %d scheduled jobs, idle: %.2f %% of a core over %.0f s, %.0f MiB resident (peak %.0f); its overview page in %.0f ms\n", i.Jobs, i.CorePercent, i.Seconds, i.RSSMiB, i.PeakMiB, time.Since(page).Seconds()*1e3)
	var m missed
	if i.CorePercent >= idleCore {
		m = append(m, fmt.Sprintf("serve takes %.2f %% of a core when idle, the bar is %.0f", i.CorePercent, idleCore))
	}
	if i.RSSMiB >= idleMiB {
		m = append(m, fmt.Sprintf("serve takes %.0f MiB when idle, the bar is %d", i.RSSMiB, idleMiB))
	}
	if len(m) > 0 {
		return m
	}
	return nil
}

// ready reads the program's log until it says where it serves; what follows is read and dropped.
func ready(ctx context.Context, log *bufio.Scanner) (string, error) {
	for log.Scan() {
		var line struct{ Msg, Address string }
		if json.Unmarshal(log.Bytes(), &line) == nil && line.Msg == "serving" {
			go func() {
				for log.Scan() {
				}
			}()
			return line.Address, ctx.Err()
		}
	}
	return "", errors.New("serve ended before it served")
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// cpuOf is the processor time of another process, in seconds (proc(5), fields utime and stime, in ticks of 10 ms).
func cpuOf(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100
}

// memoryOf is a line of a process's status, in MiB.
func memoryOf(pid int, name string) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			kib, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib / 1024
		}
	}
	return 0
}
