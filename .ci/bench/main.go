// Command bench measures `tablexport run` as a process of its own, beside others that get the same bytes.
//
//	go run ./.ci/bench             whole runs: memory by table size, page size and columns; start-up and plan; a refresh by changes
//	go run ./.ci/bench -compare    the same work by DuckDB and by a naive program, and the stations of the road
//	go run ./.ci/bench -windows    many windows, one after the other and side by side
//	go run ./.ci/bench -links      slow and fast links, plain and compressed answers
//	go run ./.ci/bench -idle       `serve` with 1,000 scheduled jobs of which none is due
//	go run ./.ci/bench -check      the short form: ratios against the recorded ones, as CI does it
//	go run ./.ci/bench -record     all of it, and 50 million rows; writes recorded.json
//
// What is judged is never a time. Processor seconds (user and system) of whole processes are set in proportion to those of other
// processes in the same round, programs take turns, and the median of the rounds counts: that holds on a busy machine, too. Peak memory is
// what the system says of a process.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// options are the flags.
type options struct {
	compare, check, record, idle, windows, links bool
	sizes                                        string
	page, rounds                                 int
	rows, wide                                   int64
	out, recorded                                string
	programs                                     string
	keep                                         string
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "station" {
		exit(station(os.Args[2:]))
	}
	var o options
	flag.BoolVar(&o.compare, "compare", false, "compare with DuckDB and the naive program")
	flag.BoolVar(&o.check, "check", false, "the short form: fail when a ratio is more than 15 % worse than the recorded one")
	flag.BoolVar(&o.record, "record", false, "measure everything and write the file of recorded ratios")
	flag.BoolVar(&o.windows, "windows", false, "only read a table by months, one window at a time and two")
	flag.BoolVar(&o.links, "links", false, "only read a table over links of several speeds, plain and compressed")
	flag.BoolVar(&o.idle, "idle", false, "only watch the serving program with 1,000 jobs")
	flag.StringVar(&o.sizes, "rows", "1000000,10000000", "table sizes of the whole runs, comma-separated")
	flag.IntVar(&o.page, "page", 10_000, "rows of a page")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of a comparison")
	flag.Int64Var(&o.rows, "compare-rows", 1_000_000, "rows of a comparison with 20 columns")
	flag.Int64Var(&o.wide, "compare-wide", 400_000, "rows of a comparison with 60 columns")
	flag.StringVar(&o.programs, "programs", "", "of a comparison, comma-separated: "+strings.Join(programs, ", ")+" (default: all)")
	flag.StringVar(&o.out, "json", "", "write the results to this file too")
	flag.StringVar(&o.recorded, "recorded", ".ci/bench/recorded.json", "the recorded ratios")
	flag.StringVar(&o.keep, "dir", "", "work in this directory (default: a temporary one)")
	flag.Parse()
	exit(bench(o))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// report is what is written as JSON.
type report struct {
	Machine     machine            `json:"machine"`
	Decode      float64            `json:"decodeTimesValid,omitempty"` // throughput of the decoder, in that of encoding/json.Valid
	Short       map[string]float64 `json:"short,omitempty"`            // the ratios that CI compares with; smaller is better
	Comparisons []comparison       `json:"comparisons,omitempty"`
	Runs        []wholeRun         `json:"runs,omitempty"`
	Small       map[string]cost    `json:"small,omitempty"` // start-up and plan
	Windows     []windowed         `json:"windows,omitempty"`
	Links       []linked           `json:"links,omitempty"`
	Idle        *idleServe         `json:"idle,omitempty"`
}

// tools are the programs that were built.
type tools struct {
	dir, tablexport, self, naive, python string
	single                               bool // programs have one processor
}

// process is [process], with one processor if that is wanted.
func (t tools) process(ctx context.Context, name string, args ...string) (cost, error) {
	if t.single {
		return processWith(ctx, []string{"GOMAXPROCS=1"}, name, args...)
	}
	return process(ctx, name, args...)
}

func bench(o options) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	dir, err := os.MkdirTemp(o.keep, "tablexport-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	t, err := newTools(dir)
	if err != nil {
		return err
	}
	r := report{Machine: describe()}
	fmt.Printf("machine: %s\n", r.Machine)
	switch {
	case o.check:
		return t.checkShort(ctx, o.recorded)
	case o.idle:
		err = t.idle(ctx, &r)
	case o.windows:
		err = t.windows(ctx, &r)
	case o.links:
		err = t.overLinks(ctx, &r)
	case o.compare:
		err = t.compareAll(ctx, o, &r)
	case o.record:
		err = t.recordAll(ctx, o, &r)
		if o.out == "" {
			o.out = o.recorded
		}
	default:
		if err = t.wholeRuns(ctx, o, &r); err == nil {
			err = changes(t.tablexport, filepath.Join(dir, "changes"), 1_000_000, o.page)
		}
		if err == nil {
			err = t.windows(ctx, &r)
		}
		if err == nil {
			err = t.overLinks(ctx, &r)
		}
		if err == nil {
			err = t.idle(ctx, &r)
		}
	}
	if o.out != "" && (err == nil || as[missed](err)) {
		text, merr := json.MarshalIndent(r, "", "  ")
		if merr == nil {
			merr = os.WriteFile(o.out, append(text, '\n'), 0o640)
		}
		err = errors.Join(err, merr)
	}
	return err
}

// recordAll goes on where a bar does not hold: what was measured is recorded all the same.
func (t tools) recordAll(ctx context.Context, o options, r *report) (err error) {
	if r.Short, err = t.recordShort(ctx); err != nil {
		return err
	}
	o.sizes += ",50000000"
	var all missed
	plain := func(part func(context.Context, *report) error) func(context.Context, options, *report) error {
		return func(ctx context.Context, _ options, r *report) error { return part(ctx, r) }
	}
	for _, part := range []func(context.Context, options, *report) error{t.compareAll, t.wholeRuns, plain(t.windows), plain(t.overLinks), plain(t.idle)} {
		var m missed
		if err := part(ctx, o, r); errors.As(err, &m) {
			all = append(all, m...)
		} else if err != nil {
			return err
		}
	}
	if len(all) > 0 {
		return all
	}
	return nil
}

// missed are bars that do not hold.
type missed []string

func as[T error](err error) bool {
	var t T
	return errors.As(err, &t)
}

func (m missed) Error() string { return "bars that do not hold:\n  " + strings.Join(m, "\n  ") }

func newTools(dir string) (tools, error) {
	t := tools{dir: dir, tablexport: filepath.Join(dir, "tablexport"), naive: filepath.Join(dir, "naive")}
	var err error
	if t.self, err = os.Executable(); err != nil {
		return t, err
	}
	if err := build(t.tablexport, "./cmd/tablexport"); err != nil {
		return t, err
	}
	cmd := exec.Command("go", "build", "-o", t.naive, ".")
	cmd.Dir, cmd.Stderr = ".ci/bench/naive", os.Stderr
	if err := cmd.Run(); err != nil {
		return t, fmt.Errorf("build the naive program: %w", err)
	}
	cache, err := exec.Command(".ci/tools.sh", "--dir").Output()
	if err != nil {
		return t, err
	}
	t.python = filepath.Join(strings.TrimSpace(string(cache)), "peer/bin/python")
	if _, err := os.Stat(t.python); err != nil {
		t.python = ""
	}
	return t, nil
}

// machine is where it was measured.
type machine struct {
	OS, Arch, CPU string
	Model         string // family, model and stepping: many processors have one name
	CPUs          int
	Go            string
	Load          string `json:"loadAverage"`
}

func (m machine) String() string {
	return fmt.Sprintf("%s/%s, %d × %s, %s, load %s; loopback HTTP, local directory", m.OS, m.Arch, m.CPUs, m.CPU, m.Go, m.Load)
}

func describe() machine {
	m := machine{OS: runtime.GOOS, Arch: runtime.GOARCH, CPUs: runtime.NumCPU(), CPU: "?", Go: runtime.Version(), Load: "?"}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		first, _, _ := strings.Cut(string(text), "\n\n")
		said := map[string]string{}
		for line := range strings.Lines(first) {
			if name, value, ok := strings.Cut(line, ":"); ok {
				said[strings.TrimSpace(name)] = strings.TrimSpace(value)
			}
		}
		if said["model name"] != "" {
			m.CPU, m.Model = said["model name"], said["cpu family"]+"/"+said["model"]+"/"+said["stepping"]
		}
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load, _, _ = strings.Cut(string(text), " ")
	}
	return m
}

// decodeRatio is what BenchmarkDecode of package odata says: how many times the throughput of encoding/json.Valid the decoder has.
func decodeRatio(ctx context.Context, rounds int) (float64, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkDecode$", "-benchtime", strconv.Itoa(3*rounds)+"x", "./odata")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("BenchmarkDecode: %w\n%s", err, out)
	}
	fields := strings.Fields(string(out))
	for i, f := range fields {
		if f == "xValid" && i > 0 {
			return strconv.ParseFloat(fields[i-1], 64)
		}
	}
	return 0, fmt.Errorf("BenchmarkDecode reports no xValid:\n%s", out)
}
