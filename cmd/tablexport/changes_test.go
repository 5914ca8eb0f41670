package main

import (
	"strings"
	"testing"

	"github.com/tablexport/tablexport/odata/simulator"
)

const changesJobs = `  changing:
    instance: sim
    table: Crm_Sales_Order_Lines
    select: [Line_No, Quantity]
    scope: all
    store: lake
    path: changing
    refresh: {by: changes}
  goods:
    instance: sim
    table: Gen_Products
    select: [Part_Number, Description]
    scope: all
    store: lake
    path: goods
    refresh: {by: Update_Time, overlap: 10m, sweep: 168h}
`

// A job that goes by changes, as people see it: what is planned, what was read, what stands in the history.
func TestJobsByChanges(t *testing.T) {
	w := newWorld(t, simulator.Options{}, changesJobs)
	w.stage()
	contains(t, w.must(exitOK, "check").out, "ok")
	contains(t, w.must(exitOK, "plan", "changing").out, "refresh   by changes: the first run reads everything", "compare   ", "$select=Sales_Order_Line_Id,Row_Version",
		"column Row_Version is published too")
	contains(t, w.must(exitOK, "plan", "goods").out, "refresh   by Update_Time")
	contains(t, w.must(exitOK, "run", "changing", "goods").out, "whole     nothing has been published yet", "changing: version 0, 2,000 rows", "goods: version 0, 100 rows")
	if _, err := w.server.Update("Crm_Sales_Order_Lines", 7); err != nil {
		t.Fatal(err)
	}
	if _, err := w.server.Delete("Crm_Sales_Order_Lines", 3); err != nil {
		t.Fatal(err)
	}
	again := w.must(exitOK, "run", "changing", "goods").out
	contains(t, again, "changing: version 1", "3 deleted", "goods: version 1, 0 rows", "by time of change: rows that are deleted")
	if strings.Contains(again, "whole ") {
		t.Error(again)
	}
	contains(t, w.must(exitOK, "datasets", "show", "changing").out, "merge: ")
	contains(t, w.must(exitOK, "datasets", "verify", "changing", "goods").out, "1,997 rows", "as the log says")
	one := objects(t, w.must(exitOK, "run", "changing", "--json").out)[0]
	if m, ok := one["merge"].(map[string]any); !ok || m["after"] != 1997.0 || m["written"] != 0.0 {
		t.Errorf("%v", one["merge"])
	}
}
