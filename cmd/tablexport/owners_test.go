package main

import (
	"os"
	"strings"
	"testing"

	"github.com/tablexport/tablexport/odata/simulator"
)

// A scope with verify: owner, as a person sees it: planned with what is read first and its memory, run, shown, audited; and refused with its place in the file
// where the owners are too many.
func TestVerifyOwner(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}, `  proven: {instance: sim, table: Crm_Sales_Order_Lines, select: [Sales_Order_Line_Id, Line_No], scope: proven, store: lake, path: proven}`)
	text, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	const rule = "Sales_Order_Reference/Document_Reference/Void eq false"
	scoped := strings.Replace(string(text), "jobs:\n", "  proven: {where: \""+rule+"\", verify: owner}\njobs:\n", 1)
	w.write("tablexport.yaml", scoped)
	w.mustWith(exitOK, testToken, "tokens", "stage", "bi/reader", "--activate")
	contains(t, w.must(exitOK, "plan", "proven").out, "proven, verified\n", "via owner: "+rule, "and read, for the scope only: Sales_Order_Id",
		"owners    Gen_Documents?$select=Id,Void&$filter=Void eq false; rows are tested by Document_Id",
		"owners    Crm_Sales_Orders?$select=Sales_Order_Id,Document_Id&$filter=Document_Reference/Void eq false; rows are tested by Sales_Order_Id",
		"5,000,000 keys at most, in 85.8 MiB of memory (18 MB per million)")
	contains(t, w.must(exitOK, "plan", "proven", "--json").out, `"ownerKeyLimit":5000000`, `"verifiedViaOwner":["`+rule+`"]`)
	contains(t, w.must(exitOK, "run", "proven").out, "scope     proven, verified\n", "via owner "+rule, "owners    ", " keys of Gen_Documents in scope, for Document_Id", " keys of Crm_Sales_Orders in scope, for Sales_Order_Id")
	contains(t, w.must(exitOK, "datasets", "show", "proven").out, "proven (verified)", "verified via owner: "+rule)
	contains(t, w.must(exitOK, "audit", "tail", "--json").out, `"verifiedViaOwner":"`+rule+`"`)

	w.write("tablexport.yaml", strings.Replace(scoped, "verify: owner}", "verify: owner, max_owner_keys: 20}", 1))
	contains(t, w.must(exitConfig, "run", "proven").err, "more than 20 owners", "max_owner_keys")
	w.write("tablexport.yaml", strings.Replace(scoped, rule+`", verify: owner`, `Sales_Order_Reference/Document_Reference/Document_No like 'A%'", verify: owner`, 1))
	contains(t, w.must(exitConfig, "check").out, "tablexport.yaml:9:20: scopes.proven.where", "like", "delegated: true")
}
