package main

import (
	"testing"

	"github.com/tablexport/tablexport/odata/simulator"
)

// A dataset is rolled back, compacted and vacuumed from the command line, and the audit log names who did it.
func TestDatasetCare(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}).stage()
	contains(t, w.must(exitConfig, "datasets", "vacuum", "orders").err, "no version yet")
	contains(t, w.must(exitConfig, "datasets", "rollback", "orders", "0").err, "no version yet")
	contains(t, w.must(exitConfig, "datasets", "compact", "orders").err, "no version yet")
	w.must(exitOK, "run", "orders")
	if _, err := w.server.Delete("Crm_Sales_Orders", 30); err != nil {
		t.Fatal(err)
	}
	w.must(exitOK, "run", "orders")
	contains(t, w.must(exitOK, "datasets", "show", "orders").out, "older versions that can be read, of those above: 0\n", "would free 0 B now, and keep 1 replaced")
	contains(t, w.must(exitUsage, "datasets", "vacuum", "orders", "--retain", "10m").err, "an hour at least")
	contains(t, w.must(exitOK, "datasets", "vacuum", "orders", "--dry-run").out, "0 file(s)", "would be deleted", "1 replaced file(s) are younger than 168h0m0s")
	contains(t, w.must(exitOK, "datasets", "vacuum", "orders").out, "0 file(s)", "deleted")
	contains(t, w.must(exitUsage, "datasets", "rollback", "orders", "7").err, "versions 0 to 1")
	contains(t, w.must(exitUsage, "datasets", "rollback", "orders", "x").err, "no version")
	contains(t, w.must(exitOK, "datasets", "rollback", "orders", "0").out, "version 2 holds what version 0 held: 1 file(s) are back, 1 went")
	contains(t, w.must(exitOK, "datasets", "rollback", "orders", "0").out, "nothing to do")
	contains(t, w.must(exitOK, "datasets", "verify", "orders").out, "400 rows")
	contains(t, w.must(exitOK, "datasets", "compact", "orders").out, "0 file(s) merged into 0")
	contains(t, w.must(exitOK, "datasets", "show", "orders").out, "rolled back to version 0", "of those above: 1–0")
	contains(t, w.must(exitOK, "audit", "tail", "--json", "-n", "30").out, `"action":"rollback"`, `"action":"vacuum"`, `"action":"compact"`, `"outcome":"started"`, `"actor":"`)
	w.must(exitOK, "audit", "verify")
	w.must(exitOK, "run", "orders")
	contains(t, w.must(exitOK, "datasets", "verify", "orders").out, "370 rows")
}

func TestVersionRanges(t *testing.T) {
	for want, versions := range map[string][]int64{"": nil, "3": {3}, "9–7, 3": {9, 8, 7, 3}, "2, 0": {2, 0}} {
		if got := versionRanges(versions); got != want {
			t.Errorf("%v: %q, want %q", versions, got, want)
		}
	}
}
