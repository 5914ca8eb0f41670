package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/tablexport/tablexport/odata/simulator"
)

// schema: quarantine as a person sees it: planned with its bound, told by run and datasets show, and refused beyond it. schema: freeze is taken.
func TestSchemaContract(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}, `  mended: {instance: sim, table: Crm_Sales_Order_Lines, select: [Sales_Order_Line_Id, Line_No, Quantity], scope: all, store: lake, path: mended, schema: quarantine}
  frozen: {instance: sim, table: Crm_Sales_Orders, scope: all, store: lake, path: frozen, schema: freeze}`)
	w.mustWith(exitOK, testToken, "tokens", "stage", "bi/reader", "--activate")
	w.must(exitOK, "run", "frozen")
	w.must(exitOK, "run", "frozen")
	contains(t, w.must(exitOK, "plan", "mended").out, "misfits   ", "mended.quarantine, at most 1,000 rows and 1 % of those read")
	rows := func(r *http.Request) bool { return strings.Contains(r.URL.Query().Get("$select"), "Quantity") }
	w.server.Inject(simulator.Fault{Table: "Crm_Sales_Order_Lines", Match: rows, Effect: simulator.OutOfRange(2, "Quantity")})
	contains(t, w.must(exitOK, "run", "mended").out, "mended: version 0, 1,999 rows", "misfits   1 row(s) that do not fit are in ", "mended.quarantine")
	contains(t, w.must(exitOK, "datasets", "show", "mended").out, "1 row(s) that did not fit are in the quarantine")
	contains(t, w.must(exitOK, "run", "mended", "--json").out, `"version":1`)
	contains(t, w.must(exitOK, "audit", "tail", "--json").out, `"quarantined":"1"`)
}
