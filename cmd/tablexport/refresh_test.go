package main

import (
	"testing"

	"github.com/tablexport/tablexport/odata/simulator"
)

// Every way to refresh that the configuration knows reaches the runner: the dataset follows the table, and reads what it must.
func TestRefreshModes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}, `  whole: {instance: sim, table: Gen_Products, scope: all, store: lake, path: whole}
  changed: {instance: sim, table: Gen_Products, scope: all, store: lake, path: changed, refresh: {by: changes}}
  stamped: {instance: sim, table: Gen_Products, scope: all, store: lake, path: stamped, refresh: {by: Update_Time, overlap: 10m, sweep: 168h}}
  dated:
    instance: sim
    table: Gen_Products
    scope: all
    store: lake
    path: dated
    refresh: {by: Creation_Time, every: year, from: 2000, undated: leave_out, split: {rows: 1000}}
`).stage()
	modes := []string{"whole", "changed", "stamped"}
	rows := func(job string) int {
		for _, line := range objects(t, w.must(exitOK, "datasets", "list", "--json").out) {
			if line["job"] == job {
				return int(line["rows"].(float64))
			}
		}
		return -1
	}
	for round := range 2 {
		for _, job := range modes {
			w.must(exitOK, "run", job)
			// The simulator's new rows bear times of change of the past, which no watermark sees.
			if got, want := rows(job), 100+7*round; got != want && (round == 0 || job != "stamped") {
				t.Errorf("%s: %d rows, want %d", job, got, want)
			}
		}
		if _, err := w.server.Insert("Gen_Products", 7); err != nil {
			t.Fatal(err)
		}
	}
	contains(t, w.must(exitOK, "check").out, "whole table", "by changes", "by Update_Time, 10m0s overlap", "by year, from 2000")
	contains(t, w.must(exitOK, "plan", "dated").out, "every year (UTC)")
}
