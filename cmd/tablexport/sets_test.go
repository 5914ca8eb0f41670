package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tablexport/tablexport/export/sets"
	"github.com/tablexport/tablexport/odata/simulator"
)

// setWorld has a set of orders, their lines and nothing else; all documents are recent ones.
func setWorld(t *testing.T) *world {
	w := newWorld(t, simulator.Options{First: time.Date(2026, 9, 10, 0, 0, 0, 0, time.UTC),
		Rows: map[string]int64{"Gen_Documents": 120, "Crm_Sales_Orders": 100, "Crm_Sales_Order_Lines": 400, "Inv_Current_Balances": 10}},
		`  order-lines: {instance: sim, table: Crm_Sales_Order_Lines, select: [Sales_Order_Line_Id, Sales_Order_Id, Quantity], scope: all, store: lake, path: order_lines, paging: {page_size: 100}}`,
		`sets: {sales: [orders, order-lines]}`)
	w.mustWith(exitOK, testToken, "tokens", "stage", "bi/reader", "--activate")
	return w
}

func (w *world) pointer(name string) sets.Pointer {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.dir, "lake", "_sets", "sales", name))
	if err != nil {
		w.t.Fatal(err)
	}
	var p sets.Pointer
	if err := json.Unmarshal(data, &p); err != nil {
		w.t.Fatal(err)
	}
	return p
}

func TestSets(t *testing.T) {
	t.Parallel()
	w := setWorld(t)
	contains(t, w.must(exitOK, "sets", "list").out, "sales", "orders, order-lines", "never")
	contains(t, w.must(exitConfig, "sets", "show", "sales").err, "tablexport run --set sales")
	contains(t, w.must(exitOK, "run", "--set", "sales").out, "order-lines: version 0", "sales: version 0 of the set", "order-lines.Sales_Order_Id")
	if _, err := w.server.Evolve(simulator.Day{New: 5, Updated: 5, Deleted: 5}); err != nil {
		t.Fatal(err)
	}
	contains(t, w.must(exitOK, "run", "--set", "sales", "--json").out, `"set":"sales"`, `"version":1`)
	w.must(exitOK, "run", "order-lines") // moves on alone
	contains(t, w.must(exitOK, "sets", "show", "sales").out, "sales: version 1", "orders@0 order-lines@0", "orders@1 order-lines@1", "MISSING")
	contains(t, w.must(exitOK, "sets", "verify", "sales").out, "version 1, every file of 2 members is there")
	contains(t, w.must(exitOK, "sets", "list", "--json").out, `"version":1`)

	contains(t, w.must(exitOK, "sets", "rollback", "sales", "0").out, "version 2 has the datasets of version 0 again")
	if p := w.pointer("current.json"); p.Version != 2 || *p.Restores != 0 || p.Members[1].Version != 0 {
		t.Errorf("%+v", p)
	}
	contains(t, w.must(exitOK, "sets", "show", "sales").out, "(version 0 again)")
	w.must(exitConfig, "sets", "rollback", "sales", "0")
	w.must(exitUsage, "sets", "rollback", "sales", "x")
	w.must(exitConfig, "sets", "rollback", "sales", "9")
	contains(t, w.must(exitOK, "audit", "tail").out, "publish-set", "rollback-set")
	w.must(exitOK, "audit", "verify")

	contains(t, w.must(exitUsage, "run", "--set", "nope").err, "there is no set", "sales")
	contains(t, w.must(exitUsage, "run", "--set", "sales", "orders").err, "name no jobs beside it")

	// What the set of now needs is held, whatever the datasets have published since.
	a, _, err := (&globals{stdio: stdio{strings.NewReader(""), &buffer{}, &buffer{}}, config: w.config}).openSet(t.Context(), "sales")
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	held, err := a.heldVersions(t.Context(), "order-lines", time.Now().Add(time.Hour))
	if err != nil || len(held) != 1 || held[0] != 0 {
		t.Errorf("%v %v", held, err)
	}
	if held, err = a.heldVersions(t.Context(), "order-lines", time.Now().Add(-time.Hour)); err != nil || len(held) != 2 {
		t.Errorf("%v %v", held, err)
	}
	if held, err = a.heldVersions(t.Context(), "balances", time.Time{}); err != nil || len(held) != 0 {
		t.Errorf("%v %v", held, err)
	}
	// A lost file is found.
	p := w.pointer("00000000000000000001.json")
	parts, err := filepath.Glob(filepath.Join(w.dir, "lake", "orders", "part-"+runOf(t, w, "orders", p.Members[0].Version)+"*"))
	if err != nil || len(parts) == 0 {
		t.Fatal(parts, err)
	}
	if err := os.Remove(parts[0]); err != nil {
		t.Fatal(err)
	}
	contains(t, w.must(exitConfig, "sets", "rollback", "sales", "1").err, "orders are gone")
	w.must(exitConfig, "sets", "verify", "sales", "--version", "1")
}

func runOf(t *testing.T, w *world, job string, version int64) string {
	t.Helper()
	var shown struct {
		Versions []struct {
			Version int64
			Run     string
		}
	}
	if err := json.Unmarshal([]byte(w.must(exitOK, "datasets", "show", job, "--json").out), &shown); err != nil {
		t.Fatal(err)
	}
	for _, v := range shown.Versions {
		if v.Version == version {
			return v.Run
		}
	}
	t.Fatalf("no version %d", version)
	return ""
}

// The text that is printed for pandas opens the set, read by a Python that is not ours.
func TestSetSnippets(t *testing.T) {
	t.Parallel()
	w := setWorld(t)
	w.must(exitOK, "run", "--set", "sales")
	w.must(exitOK, "run", "orders")
	out := w.must(exitOK, "sets", "sql", "sales").out
	contains(t, out, "version=m[\"version\"]", `option("versionAsOf", 0)`, "read_parquet([", "VIEW order_lines")
	if strings.Count(out, ".zstd.parquet'") != 2 {
		t.Errorf("the files of one version each: %s", out)
	}
	contains(t, w.must(exitOK, "sets", "sql", "sales", "--version", "0").out, "00000000000000000000.json")
	python := regexp.MustCompile(`(?s)import json.*?\]\}`).FindString(out)
	cache := os.Getenv("TABLEXPORT_CACHE")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			t.Skip(err)
		}
		cache = filepath.Join(home, ".cache", "tablexport")
	}
	interpreters, _ := filepath.Glob(filepath.Join(cache, "venv", "bin", "python"))
	if len(interpreters) == 0 {
		t.Skip("the readers are not installed: make servers")
	}
	program := python + `
orders = set(tables["orders"]["Sales_Order_Id"])
print("rows", len(tables["order-lines"]), "without", sum(1 for o in tables["order-lines"]["Sales_Order_Id"] if o not in orders), flush=True)
import os
os._exit(0) # threads of delta-rs and Arrow may still run, and would abort the interpreter's own end
`
	program = strings.Replace(program, ".to_pandas()", ".to_pyarrow_table().to_pydict()", 1) // the readers have no pandas
	got, err := exec.CommandContext(t.Context(), interpreters[0], "-c", program).CombinedOutput()
	if err != nil || !strings.Contains(string(got), "without 0") {
		t.Errorf("%v\n%s\n%s", err, program, got)
	}
}

// A set whose process is killed at any moment is as it was, or as it should be, and the next run goes on.
func TestSetKilled(t *testing.T) {
	t.Parallel()
	w := setWorld(t)
	w.must(exitOK, "run", "--set", "sales")
	began := time.Now()
	w.must(exitOK, "run", "--set", "sales")
	long := time.Since(began)
	const kills = 6
	for i := range kills {
		if _, err := w.server.Evolve(simulator.Day{New: 4, Updated: 5, Deleted: 3}); err != nil {
			t.Fatal(err)
		}
		c := program(t, "-c", w.config, "run", "--set", "sales", "-q")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(long * time.Duration(2*i+3) / kills / 2) // the process takes a while to begin
		_ = c.Process.Kill()                                // it may have ended
		_ = c.Wait()
		contains(t, w.must(exitOK, "sets", "verify", "sales").out, "every file of 2 members is there")
		current, newest := w.pointer("current.json"), w.must(exitOK, "sets", "show", "sales", "--json").out
		if current.Version < 0 || !strings.Contains(newest, `"set":"sales"`) {
			t.Errorf("%+v %s", current, newest)
		}
	}
	w.must(exitOK, "run", "--set", "sales")
	n, err := w.server.Oracle().Count("Crm_Sales_Order_Lines", "")
	if p := w.pointer("current.json"); err != nil || p.Members[1].Rows != n {
		t.Errorf("%+v, %d lines (%v)", p, n, err)
	}
}
