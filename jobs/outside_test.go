package jobs_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/simulator"
)

// A token that reaches a table which no job uses, and which the current one does not reach, is found; one that reaches less, or the same, is not.
func TestOutside(t *testing.T) {
	t.Parallel()
	const orders, tokens, none = "Crm_Sales_Orders", "Sec_Access_Tokens", "Access_Token_Id eq 00000000-0000-0000-0000-000000000000"
	r := newRig(t, simulator.Options{Rows: map[string]int64{orders: 10, tokens: 5}})
	for _, token := range []simulator.Token{
		{Value: "enrt_all"}, {Value: "enrt_narrow", Deny: []string{tokens}}, {Value: "enrt_blind", RowFilter: map[string]string{tokens: none}},
		{Value: "enrt_jobs", Allow: []string{orders}},
	} {
		must(t, r.server.Issue(token))
	}
	for _, c := range []struct {
		next, current, problem string
		readable               bool
	}{
		{"enrt_all", "enrt_all", "", true},
		{"enrt_all", "", "", true},
		{"enrt_all", "enrt_narrow", "it reads Sec_Access_Tokens, which no job uses and which the current token may not read", true},
		{"enrt_all", "enrt_blind", "it is shown rows of Sec_Access_Tokens", true},
		{"enrt_narrow", "enrt_all", "", false},
		{"enrt_blind", "enrt_all", "", true},
		{"enrt_jobs", "enrt_all", "", false},
	} {
		next := r.as(c.next)
		var current *odata.Session
		if c.current != "" {
			current = r.as(c.current)
		}
		reach, err := jobs.Outside(t.Context(), []string{orders}, next, current)
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		if found := strings.Join(reach.Problems, "; "); (c.problem == "") != (found == "") || !strings.Contains(found, c.problem) {
			t.Errorf("%+v: %q", c, found)
		}
		if slices.Contains(reach.Readable, tokens) != c.readable || slices.Contains(reach.Asked, orders) || len(reach.Asked) > 12 || len(reach.Asked) < 2 {
			t.Errorf("%+v: %+v", c, reach)
		}
	}
}
