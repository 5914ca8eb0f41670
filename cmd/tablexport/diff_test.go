package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tablexport/tablexport/odata/simulator"
)

// What changed between two versions is counted from the published files.
func TestDiff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}).stage()
	contains(t, w.must(exitConfig, "datasets", "diff", "orders").err, "no version yet")
	w.must(exitOK, "run", "orders")
	contains(t, w.must(exitUsage, "datasets", "diff", "orders").err, "has the versions 0 to 0")
	for _, change := range []func(string, int) (int, error){w.server.Update, w.server.Delete, w.server.Insert} {
		if _, err := change("Crm_Sales_Orders", 30); err != nil {
			t.Fatal(err)
		}
	}
	w.must(exitOK, "run", "orders")
	w.must(exitOK, "run", "orders")
	got := objects(t, w.must(exitOK, "datasets", "diff", "orders", "--from", "0", "--json").out)[0]
	added, removed, changed, same := got["added"].(float64), got["removed"].(float64), got["changed"].(float64), got["unchanged"].(float64)
	if added != 30 || removed != 30 || changed < 1 || changed > 30 || removed+changed+same != 400 {
		t.Errorf("%v", got)
	}
	contains(t, w.must(exitOK, "datasets", "diff", "orders").out, "from version 1 to 2 by Sales_Order_Id: 0 added, 0 removed, 0 changed, 400 unchanged")
	contains(t, w.must(exitUsage, "datasets", "diff", "orders", "--key", "Store_Id").err, "do not identify a row", "choose columns with --key")
	contains(t, w.must(exitUsage, "datasets", "diff", "orders", "--key", "Nope").err, "Nope")
	contains(t, w.must(exitUsage, "datasets", "diff", "orders", "--from", "2", "--to", "1").err, "has the versions 0 to 2")

	w.edit("{instance: sim, table: Crm_Sales_Orders, scope: all,", "{instance: sim, table: Crm_Sales_Orders, select: [Sales_Order_Id, Store_Id], scope: all,")
	w.must(exitOK, "run", "orders", "--accept-schema")
	contains(t, w.must(exitOK, "datasets", "diff", "orders").out, "400 unchanged", "not compared", "Notes")

	files, err := filepath.Glob(filepath.Join(w.dir, "lake", "orders", "*.parquet"))
	if err != nil || len(files) != 4 {
		t.Fatalf("%v %v", files, err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	contains(t, w.must(exitOther, "datasets", "diff", "orders").err, "is gone")
}
