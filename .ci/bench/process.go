package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// cost is what a process has taken.
type cost struct {
	CPU     float64 `json:"cpuSeconds"`
	Wall    float64 `json:"wallSeconds"`
	PeakMiB float64 `json:"peakMiB"`
	out     []byte
}

// process runs a program to its end and says what it took. A program that reports its own cost (as JSON with the fields of cost)
// knows better: it leaves out its start.
func process(ctx context.Context, name string, args ...string) (cost, error) {
	return processWith(ctx, nil, name, args...)
}

// processWith is process with more in the environment.
func processWith(ctx context.Context, env []string, name string, args ...string) (cost, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	started := time.Now()
	out, err := cmd.Output()
	if err != nil {
		return cost{}, fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args[:min(2, len(args))], " "), err, stderr.String())
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return cost{}, errors.New("this system does not tell what a process has used")
	}
	c := cost{
		CPU: (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(), Wall: time.Since(started).Seconds(),
		PeakMiB: float64(usage.Maxrss) / 1024, out: out,
	}
	return c, nil
}

// reported is what a program says of itself.
func reported(c cost, err error) (cost, error) {
	if err != nil {
		return c, err
	}
	own := cost{out: c.out, PeakMiB: c.PeakMiB}
	if err := json.Unmarshal(c.out, &own); err != nil {
		return c, fmt.Errorf("a program reports %q: %w", c.out, err)
	}
	return own, nil
}

// cpuNow is the processor time that this process has used.
func cpuNow() float64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// build makes a binary of a package of this module.
func build(to, pkg string) error {
	cmd := exec.Command("go", "build", "-o", to, pkg)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build %s: %w", pkg, err)
	}
	return nil
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}
