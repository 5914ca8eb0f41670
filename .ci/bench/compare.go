package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/tablexport/tablexport/odata/edm"
)

// comparison is one table, copied by several programs by turns.
type comparison struct {
	Columns  int                 `json:"columns"`
	Rows     int64               `json:"rows"`
	Page     int                 `json:"page"`
	JSONMiB  float64             `json:"jsonMiB"`
	Rounds   int                 `json:"rounds"`
	Programs map[string]*program `json:"programs"`
	Ratios   map[string]float64  `json:"ratios"` // smaller is better
}

// program is the median of a program's rounds.
type program struct {
	CPUPerM float64 `json:"cpuSecondsPerMillionRows"`
	Wall    float64 `json:"wallSeconds"`
	PeakMiB float64 `json:"peakMiB"`
	OutMiB  float64 `json:"writtenMiB,omitempty"`
	Rows    int64   `json:"rows"` // DuckDB has the seams of the pages twice

	cpu, wall, peak []float64
}

// programs, in the order of a round. What stands before "run" is a part of it.
// "duckdb" reads as the bars were set, "fastduck" in the way that takes DuckDB the least (peer.py); the number is that of its threads.
var programs = []string{"drain", "scan", "scope", "encode", "upload", "run", "low-memory", "naive", "duckdb-1", "duckdb-2", "fastduck-1", "fastduck-2"}

func isDuckDB(name string) bool { return strings.Contains(name, "duck") }

// compare measures the named programs.
func (t tools) compare(ctx context.Context, columns int, rows int64, page, rounds int, names []string) (comparison, error) {
	c := comparison{Columns: columns, Rows: rows, Page: page, Rounds: rounds, Programs: map[string]*program{}}
	w, err := t.newWorld(ctx, fmt.Sprintf("compare-%d", columns), rows, columns, page, true)
	if err != nil {
		return c, err
	}
	defer w.close()
	if _, err := w.copy(ctx); err != nil { // fills the tape
		return c, err
	}
	p, err := t.peersOf(w)
	if err != nil {
		return c, err
	}
	c.JSONMiB = float64(p.bytes) / (1 << 20)
	for range rounds {
		for _, name := range names {
			m := c.Programs[name]
			if m == nil {
				m = &program{}
				c.Programs[name] = m
			}
			if err := p.measure(ctx, name, m); err != nil {
				return c, err
			}
		}
	}
	c.Ratios = c.ratios()
	for _, m := range c.Programs {
		m.CPUPerM, m.Wall, m.PeakMiB = median(m.cpu), median(m.wall), median(m.peak)
	}
	return c, nil
}

// peers knows how each program is started on one world.
type peers struct {
	t     tools
	w     *world
	table *edm.Table
	files []string
	bytes int64
	list  string // of all pages' addresses
	last  string // a published file
}

func (t tools) peersOf(w *world) (*peers, error) {
	p := &peers{t: t, w: w, list: w.path("pages.txt")}
	var urls []string
	var err error
	if p.table, err = modelTable(); err != nil {
		return nil, err
	}
	urls, p.files, p.bytes = w.tape.pages(w.page)
	if want := (w.rows + int64(w.page) - 1) / int64(w.page); int64(len(urls)) < want {
		return nil, fmt.Errorf("%d pages were recorded, %d are there", len(urls), want)
	}
	return p, os.WriteFile(p.list, []byte(strings.Join(urls, "\n")), 0o640)
}

// measure runs a program once, on all pages: what a program takes at its start is then spread over as many rows as for the others.
func (p *peers) measure(ctx context.Context, name string, m *program) error {
	w := p.w
	m.Rows = w.rows
	var c cost
	var err error
	switch name {
	case "drain":
		c, err = reported(p.t.process(ctx, p.t.self, "station", "drain", p.list))
	case "scan", "scope", "encode":
		args := slices.Concat([]string{"station", name, w.tape.url, w.token, fmt.Sprint(w.page)}, w.names)
		c, err = reported(p.t.process(ctx, p.t.self, args...))
	case "upload":
		if p.last, err = newest(w.path("lake/lines")); err != nil {
			return err
		}
		c, err = reported(p.t.process(ctx, p.t.self, "station", "upload", p.last))
	case "run", "low-memory":
		var flags []string
		if name == "low-memory" {
			flags = append(flags, "--low-memory")
		}
		var done copied
		done, err = w.copy(ctx, flags...)
		c, m.OutMiB = done.cost, done.OutMiB
	case "naive":
		c, err = p.t.process(ctx, p.t.naive, slices.Concat([]string{p.list, w.path("naive.parquet")}, naiveColumns(p.table, w.names))...)
		m.OutMiB = mebibytes(w.path("naive.parquet"))
	case "duckdb-1", "duckdb-2":
		c, err = p.duckdb(ctx, "read_json", name, m)
	case "fastduck-1", "fastduck-2":
		c, err = p.duckdb(ctx, "from_json", name, m)
	default:
		err = fmt.Errorf("there is no program %s", name)
	}
	if err != nil {
		return err
	}
	m.cpu = append(m.cpu, c.CPU*1e6/float64(m.Rows))
	m.wall, m.peak = append(m.wall, c.Wall), append(m.peak, c.PeakMiB)
	return nil
}

func (p *peers) duckdb(ctx context.Context, way, name string, m *program) (cost, error) {
	columns, err := duckColumns(p.table, p.w.names)
	if err != nil {
		return cost{}, err
	}
	list := p.w.path("files.txt")
	if err := os.WriteFile(list, []byte(strings.Join(p.files, "\n")), 0o640); err != nil {
		return cost{}, err
	}
	out := p.w.path("duckdb.parquet")
	_, threads, _ := strings.Cut(name, "-")
	c, err := reported(p.t.process(ctx, p.t.python, ".ci/bench/peer.py", way, out, threads, columns, list))
	if err != nil {
		return c, err
	}
	var said struct{ Rows int64 }
	if err := json.Unmarshal(c.out, &said); err != nil {
		return c, err
	}
	// Every page but the first begins with the last row of the one before.
	want, seams := p.w.rows, int64(len(p.files))-1
	if said.Rows < want-seams-1 || said.Rows > want+seams+1 {
		return c, fmt.Errorf("DuckDB has %d rows, its pages %d", said.Rows, want)
	}
	m.Rows = said.Rows
	m.OutMiB = mebibytes(out)
	return c, nil
}

func mebibytes(file string) float64 {
	info, err := os.Stat(file)
	if err != nil {
		return math.NaN()
	}
	return float64(info.Size()) / (1 << 20)
}

// newest is the largest Parquet file below dir.
func newest(dir string) (file string, err error) {
	var most int64
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".parquet") {
			return err
		}
		if info, err := d.Info(); err == nil && info.Size() > most {
			file, most = path, info.Size()
		}
		return nil
	})
	return file, err
}

func naiveColumns(t *edm.Table, names []string) (args []string) {
	for _, name := range names {
		c, _ := t.Column(name)
		args = append(args, name+"="+c.Type.Arrow().String())
	}
	return args
}

// duckColumns are the columns with DuckDB's types: the same that are published, so that both write the same file. GUIDs are texts.
func duckColumns(t *edm.Table, names []string) (string, error) {
	columns := make([]string, len(names))
	for i, name := range names {
		c, _ := t.Column(name)
		kind := ""
		switch a := c.Type.Arrow().(type) {
		case *arrow.StringType:
			kind = "VARCHAR"
		case *arrow.BinaryType:
			kind = "BLOB"
		case *arrow.BooleanType:
			kind = "BOOLEAN"
		case *arrow.Int16Type:
			kind = "SMALLINT"
		case *arrow.Int32Type:
			kind = "INTEGER"
		case *arrow.Int64Type:
			kind = "BIGINT"
		case *arrow.Float64Type:
			kind = "DOUBLE"
		case *arrow.Date32Type:
			kind = "DATE"
		case *arrow.TimestampType:
			kind = "TIMESTAMP"
		case *arrow.Decimal128Type:
			kind = fmt.Sprintf("DECIMAL(%d,%d)", a.Precision, a.Scale)
		default:
			return "", fmt.Errorf("column %s: DuckDB has no type for %s", name, a)
		}
		columns[i] = fmt.Sprintf("%q: %q", name, kind)
	}
	return "{" + strings.Join(columns, ", ") + "}", nil
}

// ratios are those of the programs' least: a round that was disturbed costs more, and none costs less than the work takes. DuckDB counts
// with the number of threads that suits it better.
func (c *comparison) ratios() map[string]float64 {
	r := map[string]float64{}
	least := func(names ...string) (cpu float64) {
		for _, name := range names {
			if p := c.Programs[name]; p != nil && len(p.cpu) > 0 && (cpu == 0 || slices.Min(p.cpu) < cpu) {
				cpu = slices.Min(p.cpu)
			}
		}
		return cpu
	}
	set := func(name string, over, under float64) {
		if over > 0 && under > 0 {
			r[name] = over / under
		}
	}
	run, scanned := least("run"), least("scan")
	set("run/scan", run, scanned)
	set("scope/scan", least("scope"), scanned)
	set("encode/scan", least("encode"), scanned)
	set("run/naive", run, least("naive"))
	set("scan/naive", scanned, least("naive"))
	set("encode/naive", least("encode"), least("naive"))
	set("run/duckdb", run, least("duckdb-1", "duckdb-2"))
	set("run/fastduck", run, least("fastduck-1", "fastduck-2"))
	set("low-memory/run", least("low-memory"), run)
	if p, d := c.Programs["run"], c.Programs["fastduck-1"]; p != nil && d != nil && d.OutMiB > 0 {
		r["size/duckdb"] = p.OutMiB / d.OutMiB
	}
	return r
}

func (c *comparison) print() {
	fmt.Printf("\n%d columns, %d rows, pages of %d rows, %.0f MiB of JSON; medians of %d rounds; ratios of the least\n\n", c.Columns, c.Rows, c.Page, c.JSONMiB, c.Rounds)
	fmt.Printf("%-12s %14s %14s %10s %12s\n", "program", "CPU s/M rows", "MB/s per CPU", "peak MiB", "written MiB")
	for _, name := range programs {
		if p := c.Programs[name]; p != nil {
			perRow := c.JSONMiB * (1 << 20) / float64(c.Rows)
			fmt.Printf("%-12s %14.2f %14.0f %10.0f %12.1f\n", name, p.CPUPerM, perRow/p.CPUPerM, p.PeakMiB, p.OutMiB)
		}
	}
	fmt.Println()
	for _, name := range slices.Sorted(maps.Keys(c.Ratios)) {
		fmt.Printf("%-16s %7.3f\n", name, c.Ratios[name])
	}
}

// bars are what the ratios must not exceed.
var bars = map[int]map[string]float64{
	20: {"run/duckdb": 1. / 4, "run/naive": 1. / 9, "run/scan": 3, "size/duckdb": 1.05},
	60: {"run/duckdb": 1. / 6, "size/duckdb": 1.05},
}

func (c *comparison) judge() (m missed) {
	for name, most := range bars[c.Columns] {
		if v, ok := c.Ratios[name]; ok && v > most {
			m = append(m, fmt.Sprintf("%d columns: %s is %.3f, the bar %.3f", c.Columns, name, v, most))
		}
	}
	if p := c.Programs["low-memory"]; p != nil && p.PeakMiB > lowMemoryMiB {
		m = append(m, fmt.Sprintf("%d columns: --low-memory peaks at %.0f MiB, the bar is %d", c.Columns, p.PeakMiB, lowMemoryMiB))
	}
	slices.Sort(m)
	return m
}

const (
	lowMemoryMiB = 80
	decodeBar    = 4
)

func (t tools) compareAll(ctx context.Context, o options, r *report) error {
	names := programs
	if o.programs != "" {
		names = strings.Split(o.programs, ",")
	}
	if t.python == "" {
		fmt.Println("DuckDB is left out: it is not installed (.ci/tools.sh peer)")
		names = slices.DeleteFunc(slices.Clone(names), isDuckDB)
	}
	var m missed
	var err error
	if r.Decode, err = decodeRatio(ctx, 3*o.rounds); err != nil {
		return err
	}
	fmt.Printf("\ndecode alone: %.2f times the throughput of encoding/json.Valid\n", r.Decode)
	if r.Decode < decodeBar {
		m = append(m, fmt.Sprintf("decode is %.2f times encoding/json.Valid, the bar %d", r.Decode, decodeBar))
	}
	for _, shape := range []struct {
		columns int
		rows    int64
	}{{20, o.rows}, {60, o.wide}} {
		c, err := t.compare(ctx, shape.columns, shape.rows, o.page, o.rounds, names)
		if err != nil {
			return err
		}
		c.print()
		m = append(m, c.judge()...)
		r.Comparisons = append(r.Comparisons, c)
	}
	if len(m) > 0 {
		return m
	}
	fmt.Println("\nall bars hold")
	return nil
}
