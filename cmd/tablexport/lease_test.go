package main

import (
	"strings"
	"testing"
	"time"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/lease"
	"github.com/tablexport/tablexport/export/store/filestore"
	"github.com/tablexport/tablexport/odata/simulator"
)

// A dataset that another state directory is refreshing: run says who does and what to do, show names the holder, unlock takes it, once a
// person says so, and is on record.
func TestUnlock(t *testing.T) {
	w := newWorld(t, simulator.Options{})
	w.mustWith(exitOK, testToken, "tokens", "stage", "bi/reader", "--activate")
	w.must(exitOK, "run", "orders")
	contains(t, w.must(exitOK, "datasets", "unlock", "orders").out, "nobody holds a lease")

	b, err := filestore.Open(w.dir + "/lake")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	d := export.Open(b, "orders")
	theirs, err := d.Lease(t.Context(), lease.Options{Owner: "elsewhere", Process: "otherhost:7:abc", Job: "orders", Run: "r-7", TTL: 4 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	refused := w.must(exitConflict, "run", "orders")
	contains(t, refused.err, "being refreshed from another state directory (host otherhost, job orders, run r-7", "tablexport datasets unlock")
	contains(t, w.must(exitOK, "runs", "--json").out, `"class":"conflict"`)
	contains(t, w.must(exitOK, "datasets", "show", "orders").out, "held by: host otherhost (otherhost:7:abc), job orders, run r-7", "last heard of")
	contains(t, w.must(exitOK, "datasets", "show", "orders", "--json").out, `"leases":[{"number":`)
	contains(t, w.must(exitUsage, "datasets", "unlock", "orders").err, "say --yes to start, or look with: tablexport datasets show orders")
	if err := theirs.Check(t.Context()); err != nil {
		t.Errorf("taken without a yes: %v", err)
	}
	contains(t, w.must(exitOK, "datasets", "unlock", "orders", "--yes").out, "held by: host otherhost", "its dataset is free")
	if err := theirs.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "taken over") {
		t.Errorf("%v", err)
	}
	w.must(exitOK, "run", "orders")
	contains(t, w.must(exitOK, "audit", "tail", "--json", "-n", "30").out, `"action":"unlock"`, `"holder":"otherhost:7:abc"`)
	if err := theirs.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if got := w.must(exitOK, "datasets", "show", "orders").out; strings.Contains(got, "held by") {
		t.Errorf("still held: %s", got)
	}
}
