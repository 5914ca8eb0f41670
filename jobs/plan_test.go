package jobs_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/scope"
)

const (
	storeA = "5a6b7c8d-0000-4000-8000-000000000001"
	storeB = "5a6b7c8d-0000-4000-8000-000000000002"
)

func TestPlan(t *testing.T) {
	where := "Line_Store_Id in (" + storeA + "," + storeB + ")"
	for _, tt := range []struct {
		name  string
		job   jobs.Job
		fetch []string // nil = what is published
		text  string   // behind $select
		stamp scope.Stamp
		key   []string
		notes []string // how they begin
	}{
		{
			name: "unrestricted", job: jobs.Job{Table: lines, Select: []string{"Sales_Order_Line_Id", "Quantity"}, ScopeName: "all", Unrestricted: true},
			stamp: scope.Stamp{Name: "all", Enforcement: scope.Unrestricted}, key: []string{"Sales_Order_Line_Id"},
		},
		{
			name: "the scope's column is published", job: jobs.Job{Table: lines, Select: []string{"Line_Store_Id", "Quantity"}, ScopeName: "oslo", Where: where},
			text: "&$filter=" + where, stamp: scope.Stamp{Name: "oslo", Where: where, Enforcement: scope.Verified},
		},
		{
			name:  "the scope's column is fetched and not published, and the filter goes first",
			job:   jobs.Job{Table: lines, Select: []string{"Quantity"}, Filter: "Persist_Lot eq true", ScopeName: "oslo", Where: where},
			fetch: []string{"Quantity", "Line_Store_Id"}, text: "&$filter=Persist_Lot eq true and " + where,
			stamp: scope.Stamp{Name: "oslo", Where: where, Enforcement: scope.Verified},
		},
		{
			name: "delegated, beside a rule that is verified",
			job: jobs.Job{Table: lines, Select: []string{"Quantity"}, ScopeName: "mixed", Delegated: true,
				Where: where + " and Sales_Order_Reference/Document_Reference/Void eq false"},
			fetch: []string{"Quantity", "Line_Store_Id"}, text: "&$filter=" + where + " and Sales_Order_Reference/Document_Reference/Void eq false",
			stamp: scope.Stamp{Name: "mixed", Where: where + " and Sales_Order_Reference/Document_Reference/Void eq false", Enforcement: scope.Delegated,
				Delegated: []string{"Sales_Order_Reference/Document_Reference/Void eq false"}},
			notes: []string{"the scope is enforced by the server alone for: Sales_Order_Reference/Document_Reference/Void eq false"},
		},
		{
			name: "a view", job: jobs.Job{Table: balances, Select: []string{"Product_Id", "Quantity_Base"}, ScopeName: "all", Unrestricted: true},
			stamp: scope.Stamp{Name: "all", Enforcement: scope.Unrestricted},
			notes: []string{"Inv_Current_Balances is a view without a key: it is read twice"},
		},
		{
			name: "notes of filter and scope", job: jobs.Job{Table: lines, Select: []string{"Quantity"}, Filter: "Persist_Lot eq null", ScopeName: "oslo",
				Where: where + " and Sales_Order_Reference/Document_Reference/State in (30,31)", Delegated: true},
			fetch: []string{"Quantity", "Line_Store_Id"},
			text:  "&$filter=Persist_Lot eq null and " + where + " and Sales_Order_Reference/Document_Reference/State in (30,31)",
			stamp: scope.Stamp{Name: "oslo", Where: where + " and Sales_Order_Reference/Document_Reference/State in (30,31)", Enforcement: scope.Delegated,
				Delegated: []string{"Sales_Order_Reference/Document_Reference/State in (30,31)"}},
			notes: []string{"filter, character 1: column Persist_Lot is never null", "scope oslo, character 98: \"31\" is not among the documented values", "the scope is enforced"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := jobs.NewPlan(tt.job, edm.Embedded())
			must(t, err)
			if tt.fetch == nil {
				tt.fetch = tt.job.Select
			}
			if !slices.Equal(p.Publish, tt.job.Select) || !slices.Equal(p.Fetch, tt.fetch) {
				t.Errorf("publish %v, fetch %v", p.Publish, p.Fetch)
			}
			if got, want := p.Text(), tt.job.Table+"?$select="+strings.Join(tt.fetch, ",")+tt.text; got != want {
				t.Errorf("asks %s\nwant %s", got, want)
			}
			if d := cmp.Diff(tt.stamp, p.Scope.Stamp()); d != "" {
				t.Error(d)
			}
			if !slices.Equal(p.PublishedKey(), tt.key) {
				t.Errorf("key %v", p.PublishedKey())
			}
			if !slices.EqualFunc(p.Notes, tt.notes, strings.HasPrefix) {
				t.Errorf("notes %q", p.Notes)
			}
			if p.Scope.Schema().NumFields() != len(p.Publish) || p.Fetched.NumFields() != len(p.Fetch) {
				t.Errorf("schemas %v, %v", p.Scope.Schema(), p.Fetched)
			}
			if q := p.Query(); q.Table != p.Table || !slices.Equal(q.Select, p.Fetch) || !q.Filter.Equal(p.Filter) {
				t.Errorf("query %+v", q)
			}
		})
	}
}

// Without select every column is published that holds no secret.
func TestPlanSelectsAll(t *testing.T) {
	p, err := jobs.NewPlan(jobs.Job{Table: "Sec_Access_Tokens", ScopeName: "all", Unrestricted: true}, edm.Embedded())
	must(t, err)
	if len(p.Publish) != len(p.Table.Columns)-2 || slices.Contains(p.Publish, "Access_Token_Key") || slices.Contains(p.Publish, "Data") {
		t.Errorf("%v", p.Publish)
	}
	if len(p.Notes) != 1 || !strings.HasPrefix(p.Notes[0], "2 of 16 columns hold secrets") {
		t.Errorf("%q", p.Notes)
	}
	p, err = jobs.NewPlan(jobs.Job{Table: lines, ScopeName: "all", Unrestricted: true}, edm.Embedded())
	must(t, err)
	if len(p.Publish) != len(p.Table.Columns) || len(p.Notes) != 0 {
		t.Errorf("%d of %d, %q", len(p.Publish), len(p.Table.Columns), p.Notes)
	}
}

// Every problem is told at once, with its field and its place in it.
func TestPlanProblems(t *testing.T) {
	good := jobs.Job{Name: "j", Table: lines, Select: []string{"Quantity"}, ScopeName: "oslo", Where: "Line_Store_Id eq " + storeA}
	for _, tt := range []struct {
		name   string
		change func(*jobs.Job)
		want   []string // "field+offset: beginning of the text; beginning of the hint"
	}{
		{"no such table", func(j *jobs.Job) { j.Table, j.Path = "Crm_Sales_Order_Line", "/x" }, []string{
			`path+0: "/x" cannot be the path of a dataset; write one such as`,
			"table+0: the instance has no table Crm_Sales_Order_Line; did you mean Crm_Sales_Order_Lines"}},
		{"columns", func(j *jobs.Job) { j.Select = []string{"Quantity", "Quantty", "Line_No", "Quantity", "quantity"} }, []string{
			"select[1]+0: table Crm_Sales_Order_Lines has no column Quantty; did you mean Quantity",
			"select[3]+0: column Quantity is selected already; remove it",
			"select[4]+0: table Crm_Sales_Order_Lines has no column quantity; did you mean"}},
		{"no columns", func(j *jobs.Job) { j.Select = []string{} }, []string{"select+0: it names no column; name at least one"}},
		{"secrets", func(j *jobs.Job) {
			j.Table, j.Where, j.Unrestricted = "Sec_Access_Tokens", "", true
			j.Select, j.Filter = []string{"Access_Token_Key", "Scopes"}, "Access_Token_Key eq 'x'"
		}, []string{
			"select[0]+0: column Access_Token_Key of Sec_Access_Tokens holds secrets and is never exported; remove it",
			"filter+0: column Access_Token_Key of table Sec_Access_Tokens holds secret material; leave"}},
		{"everything at once", func(j *jobs.Job) {
			j.Select, j.Filter, j.Where = []string{"Nope"}, "Line_No ge 3 and Nix eq 1", "Line_Store_Id eq 7"
		}, []string{
			"select[0]+0: table Crm_Sales_Order_Lines has no column Nope; ",
			"filter+0: ", "filter+17: ", "where+17: "}},
		{"wrong columns do not hide a wrong scope", func(j *jobs.Job) {
			j.Select, j.Where = []string{"Nope"}, "Line_Store_Id eq null and Sales_Order_Reference/Document_Reference/Void eq false"
		}, []string{
			"select[0]+0: table Crm_Sales_Order_Lines has no column Nope; ",
			"where+0: rule Line_Store_Id eq null: NULL is inside no scope",
			"where+26: rule Sales_Order_Reference/Document_Reference/Void eq (1 value): it is over a reference"}},
		{"a scope that cannot be re-tested", func(j *jobs.Job) { j.Table, j.Select, j.Where = products, []string{"Id"}, "Part_Number eq 'x'" }, []string{
			"where+0: rule Part_Number eq (1 value): "}},
		{"a scope that admits nothing", func(j *jobs.Job) { j.Where = "" }, []string{"scope+0: scope oslo: it has no rules, so it admits nothing"}},
		{"a scope that says both", func(j *jobs.Job) { j.Unrestricted = true }, []string{"scope+0: scope oslo: it has rules and is unrestricted"}},
		{"paging by a key that is not there", func(j *jobs.Job) {
			j.Table, j.Select, j.Where, j.Unrestricted, j.Paging = balances, []string{"Product_Id"}, "", true, odata.Key
		}, []string{"paging+0: paging key does not work for table Inv_Current_Balances"}},
		{"no such paging", func(j *jobs.Job) { j.Paging = "sideways" }, []string{`paging+0: there is no paging "sideways"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := good
			tt.change(&j)
			p, err := jobs.NewPlan(j, edm.Embedded())
			var problems *jobs.PlanError
			if p != nil || !errors.As(err, &problems) || problems.Job != "j" {
				t.Fatalf("got %v, %v", p, err)
			}
			for i, p := range problems.Problems {
				if i >= len(tt.want) {
					break
				}
				text, hint, _ := strings.Cut(tt.want[i], "; ")
				if got := fmt.Sprintf("%s+%d: %s", p.Field, p.Offset, p.Text); !strings.HasPrefix(got, text) || !strings.HasPrefix(p.Hint, hint) {
					t.Errorf("%s; %s\nwant %s", got, p.Hint, tt.want[i])
				}
			}
			if len(problems.Problems) != len(tt.want) {
				t.Errorf("%d problems, want %d:\n%v", len(problems.Problems), len(tt.want), err)
			}
			if lines := strings.Split(err.Error(), "\n"); len(lines) != len(problems.Problems) || !strings.HasPrefix(lines[0], "job j: ") {
				t.Errorf("%q", lines)
			}
		})
	}
}
