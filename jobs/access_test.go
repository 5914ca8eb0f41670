package jobs_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/simulator"
	"github.com/tablexport/tablexport/secrets"
)

// as is a session with a token that need not be the active one.
func (r *rig) as(value string) *odata.Session {
	r.t.Helper()
	token, err := secrets.NewToken([]byte(value))
	must(r.t, err)
	client := r.runner.Instances["acme"].Client
	lease, err := r.keeper.Trial(r.t.Context(), secrets.LeaseRequest{Name: tokenName, Instance: "acme", Host: client.Host(), Purpose: "verify"}, token)
	must(r.t, err)
	r.t.Cleanup(func() { _ = lease.Close(context.Background()) })
	return client.Open(lease)
}

// What a new token reaches is compared with what the current one does, whatever the server can: with and without counting, in any
// order, and in a table without a key.
func TestCompareAccess(t *testing.T) {
	t.Parallel()
	const orders, balances = "Crm_Sales_Orders", "Inv_Current_Balances"
	r := newRig(t, simulator.Options{Rows: map[string]int64{orders: 300, balances: 120}})
	stores := map[string]int{}
	rows, err := r.oracle.Rows(orders, "", []string{"Store_Id"})
	must(t, err)
	for row := range rows {
		if row[0] != simulator.Null {
			stores[row[0]]++
		}
	}
	var ids []string
	for id := range stores {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	one, other := ids[0], ids[1]
	scoped := jobs.Job{Name: "shop", Instance: "acme", Table: orders, Select: []string{"Sales_Order_Id"}, ScopeName: "one", Where: "Store_Id eq " + one, Store: "lake", Path: "x"}
	filter := func(where string) map[string]string { return map[string]string{orders: where} }
	for name, token := range map[string]simulator.Token{
		"enrt_same": {}, "enrt_one": {RowFilter: filter("Store_Id eq " + one)}, "enrt_other": {RowFilter: filter("Store_Id eq " + other)},
		"enrt_denied": {Deny: []string{orders}}, "enrt_fewbalances": {RowFilter: map[string]string{balances: "Store_Id eq " + one}},
	} {
		token.Value = name
		must(t, r.server.Issue(token))
	}
	for name, behavior := range map[string]simulator.Behavior{
		"keys only":        {},
		"counting":         {Count: simulator.PathCount},
		"shuffled":         {Natural: simulator.Shuffled, OrderBy: simulator.IgnoreOrderBy, Count: simulator.InlineCount},
		"shuffled, no sum": {Natural: simulator.Shuffled, OrderBy: simulator.RefuseOrderBy},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, r.server.SetBehavior("", behavior))
			for _, c := range []struct {
				next, current string
				job           jobs.Job
				want          string // "" = good
			}{
				{"enrt_same", simulator.DemoToken, scoped, ""},
				{"enrt_same", simulator.DemoToken, job(balances), ""},
				{"enrt_one", "enrt_one", scoped, ""},
				{"enrt_same", "enrt_one", scoped, "of the table that the current token is not shown"},
				{"enrt_one", "enrt_same", scoped, "the current token is shown"},
				{"enrt_other", "enrt_one", scoped, "of the scope that the current token is shown"},
				{"enrt_denied", "enrt_same", scoped, "it may not read the table (403)"},
				{"enrt_same", "enrt_denied", scoped, "one of the two tokens may not (403)"},
				{"enrt_fewbalances", "enrt_same", job(balances), "fewer rows"},
				{"enrt_same", "enrt_fewbalances", job(balances), "more rows"},
				{"enrt_one", "", scoped, ""},
				{"enrt_denied", "", scoped, "it may not read"},
			} {
				r.anew()
				var current *odata.Session
				if c.current != "" {
					current = r.as(c.current)
				}
				a, err := jobs.Compare(t.Context(), c.job, r.as(c.next), current)
				got := strings.Join(a.Problems, "; ")
				if err != nil || (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
					t.Errorf("%s beside %q for %s: %q, %v; want %q", c.next, c.current, c.job.Name, got, err, c.want)
				}
				if c.want == "" && c.current != "" && len(a.Compared) == 0 {
					t.Errorf("%s beside %q: nothing was compared", c.next, c.current)
				}
				if strings.Contains(got, one) || strings.Contains(got, other) {
					t.Errorf("a value of a row: %s", got)
				}
			}
		})
	}
}

// A table that changes all the while is no reason to reject a token, and a server that is away is none either.
func TestCompareAccessUnderChange(t *testing.T) {
	t.Parallel()
	var r *rig
	var asked atomic.Int64
	r = newRig(t, simulator.Options{Behavior: simulator.Behavior{Count: simulator.PathCount}, OnRequest: func(i simulator.RequestInfo) {
		if n := asked.Add(1); i.Table == lines && n%4 == 0 {
			_, _ = r.server.Insert(lines, 2)
			_, _ = r.server.Delete(lines, 1)
		}
	}})
	must(t, r.server.Issue(simulator.Token{Value: "enrt_next"}))
	a, err := jobs.Compare(t.Context(), job(lines), r.as("enrt_next"), r.as(simulator.DemoToken))
	if err != nil || len(a.Problems) > 0 {
		t.Errorf("%+v, %v", a, err)
	}
	r.server.Inject(simulator.Fault{Times: -1, Effect: simulator.ServerError()})
	if _, err := jobs.Compare(t.Context(), job(lines), r.as("enrt_next"), r.as(simulator.DemoToken)); err == nil {
		t.Error("a server that is away was taken for an answer")
	}
	r.server.ClearFaults()
	if _, err := jobs.Compare(t.Context(), job(lines), r.as("enrt_unknown"), nil); err == nil || errors.Is(err, odata.ErrForbidden) {
		t.Errorf("an unknown token: %v", err)
	}
}
