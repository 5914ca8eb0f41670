package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/tablexport/tablexport/odata/edm"
)

const table = "Crm_Sales_Order_Lines"

// twenty are the columns that a report on order lines wants.
var twenty = []string{
	"Sales_Order_Line_Id", "Sales_Order_Id", "Line_No", "Product_Id", "Product_Description", "Quantity", "Quantity_Base", "Quantity_Unit_Id", "Unit_Price",
	"Line_Amount", "Line_Store_Id", "Line_Deal_Type_Id", "Line_Discount_Id", "Line_Standard_Discount_Percent", "Line_Custom_Discount_Percent",
	"Required_Delivery_Date", "Lot_Id", "Notes", "Tax_Amount", "Intrastat_Apply_Date",
}

// wide are columns that no table of the model has: with them, the table has sixty.
var wide = []edm.Column{
	{Name: "Extra_Agent_Id", Type: edm.Type{Kind: edm.Guid}, Nullable: true}, {Name: "Extra_Amount", Type: edm.Type{Kind: edm.Decimal, Precision: 18, Scale: 2}, Nullable: true},
	{Name: "Extra_Code", Type: edm.Type{Kind: edm.String}, Nullable: true}, {Name: "Extra_Date", Type: edm.Type{Kind: edm.Date}, Nullable: true},
	{Name: "Extra_Time", Type: edm.Type{Kind: edm.DateTime}, Nullable: true}, {Name: "Extra_Count", Type: edm.Type{Kind: edm.Int32}, Nullable: true},
	{Name: "Extra_Flag", Type: edm.Type{Kind: edm.Boolean}, Nullable: true},
}

// model is the embedded one, with those columns.
var model = sync.OnceValues(func() (*edm.Model, error) {
	var tables []edm.Table
	for _, name := range edm.Embedded().Tables() {
		t, _ := edm.Embedded().Table(name)
		tables = append(tables, *t)
		if name == table {
			tables[len(tables)-1].Columns = slices.Concat(t.Columns, wide)
		}
	}
	return edm.New(tables...)
})

func modelTable() (*edm.Table, error) {
	m, err := model()
	if err != nil {
		return nil, err
	}
	t, _ := m.Table(table)
	return t, nil
}

// columnsOf are n columns: the twenty, and then those that the table has beside them.
func columnsOf(n int) ([]string, error) {
	t, err := modelTable()
	if err != nil {
		return nil, err
	}
	columns := slices.Clone(twenty)
	for _, name := range t.DefaultSelect() {
		if !slices.Contains(columns, name) {
			columns = append(columns, name)
		}
	}
	if n > len(columns) {
		return nil, fmt.Errorf("%s has %d columns, %d are asked for", table, len(columns), n)
	}
	return columns[:n], nil
}

const config = `environment: sandbox
secrets: {file: {path: ./secrets.age}}
instances: {sim: {url: %q, token: bench/reader, requests_per_minute: 100000}}
stores: {lake: {file: {path: ./lake}}}
scopes: {lines: {where: "Sales_Order_Line_Id ge 00000000-0000-0000-0000-000000000000"}}
jobs:
  lines:
    instance: sim
    table: %s
    select: [%s]
    scope: lines
    store: lake
    path: lines
    paging: {page_size: %d}
`

// world is a simulator in a process of its own, with what is needed to copy its table.
type world struct {
	process func(ctx context.Context, name string, args ...string) (cost, error)

	binary string // tablexport
	self   string // this program
	dir    string
	rows   int64
	page   int
	names  []string
	token  string
	tape   *tape // nil: the programs ask the simulator itself
	stop   func()
}

// newWorld starts a simulator. With taped set, its answers are kept and sent again.
func (t tools) newWorld(ctx context.Context, dir string, rows int64, columns, page int, taped bool) (w *world, err error) {
	w = &world{process: t.process, binary: t.tablexport, self: t.self, dir: filepath.Join(t.dir, dir), rows: rows, page: page}
	if w.names, err = columnsOf(columns); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(w.dir, 0o750); err != nil {
		return nil, err
	}
	address, err := w.simulate(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if taped {
		if w.tape, err = newTape(w.dir, address); err != nil {
			return nil, err
		}
		address = w.tape.url
	}
	text := fmt.Appendf(nil, config, address, table, strings.Join(w.names, ", "), page)
	if err := os.WriteFile(w.path("tablexport.yaml"), text, 0o640); err != nil {
		return nil, err
	}
	stage := exec.CommandContext(ctx, w.binary, "-c", w.path("tablexport.yaml"), "tokens", "stage", "bench/reader", "--activate")
	stage.Stdin, stage.Stderr = strings.NewReader(w.token), os.Stderr
	if err := stage.Run(); err != nil {
		return nil, fmt.Errorf("stage: %w", err)
	}
	return w, nil
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) close() {
	if w.tape != nil {
		w.tape.close()
	}
	w.stop()
	_ = os.RemoveAll(w.dir)
}

// simulate starts the simulator and waits until it answers.
func (w *world) simulate(ctx context.Context) (address string, err error) {
	cmd := exec.CommandContext(ctx, w.self, "station", "simulate", strconv.FormatInt(w.rows, 10))
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	w.stop = func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	}
	line, err := bufio.NewReader(pipe).ReadBytes('\n')
	var said struct{ URL, Token string }
	if err == nil {
		err = json.Unmarshal(line, &said)
	}
	if err != nil {
		w.stop()
		return "", fmt.Errorf("simulator: %w", err)
	}
	w.token = said.Token
	return said.URL, nil
}

// copied is one `tablexport run`.
type copied struct {
	cost
	OutMiB float64 `json:"publishedMiB"`
	Files  int     `json:"files"`
}

func (w *world) copy(ctx context.Context, flags ...string) (copied, error) {
	c, err := w.process(ctx, w.binary, slices.Concat([]string{"-c", w.path("tablexport.yaml"), "run", "lines", "--json"}, flags)...)
	if err != nil {
		return copied{}, err
	}
	var report struct {
		Rows, Bytes int64
		Files       int
	}
	if err := json.Unmarshal(c.out, &report); err != nil {
		return copied{}, err
	}
	if report.Rows != w.rows {
		return copied{}, fmt.Errorf("%d rows were published, %d are there", report.Rows, w.rows)
	}
	return copied{cost: c, OutMiB: float64(report.Bytes) / (1 << 20), Files: report.Files}, nil
}

// topOf is the number of rows that an address asks for, 0 if it does not say.
func topOf(uri string) int {
	u, err := url.Parse(uri)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(u.Query().Get("$top"))
	return n
}
