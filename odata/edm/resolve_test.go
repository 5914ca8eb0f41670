package edm

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func mustTable(t *testing.T, m *Model, name string) *Table {
	t.Helper()
	table, ok := m.Table(name)
	if !ok {
		t.Fatalf("no table %s", name)
	}
	return table
}

func TestResolve(t *testing.T) {
	m := Embedded()
	lines := mustTable(t, m, "Crm_Sales_Order_Lines")
	for _, tt := range []struct {
		path  string
		table string
		hops  int
		owner bool
	}{
		{"Line_No", "Crm_Sales_Order_Lines", 0, true},
		{"Sales_Order_Reference/Store_Id", "Crm_Sales_Orders", 1, true},
		{"Sales_Order_Reference/Document_Reference/Document_Date", "Gen_Documents", 2, true},
		{"Product_Reference/Id", "Gen_Products", 1, false},
		{"Parent_Document_Reference/Void", "Gen_Documents", 1, false}, // an owner's table, but not by the owner reference
		{"Sales_Order_Reference/Customer_Reference/Row_Version", "Crm_Customers", 2, false},
	} {
		r, err := m.Resolve(lines, strings.Split(tt.path, "/"))
		if err != nil {
			t.Errorf("%s: %v", tt.path, err)
			continue
		}
		if r.Table.Name != tt.table || len(r.Hops) != tt.hops || r.Owner != tt.owner || !strings.HasSuffix(tt.path, r.Column.Name) {
			t.Errorf("%s leads to %s.%s over %d hops, owner %v", tt.path, r.Table.Name, r.Column.Name, len(r.Hops), r.Owner)
		}
	}
}

func TestResolveErrorsNameTheSegment(t *testing.T) {
	m := Embedded()
	lines := mustTable(t, m, "Crm_Sales_Order_Lines")
	for _, tt := range []struct {
		path    string
		index   int
		suggest string
		text    string
	}{
		{"Line_Num", 0, "Line_No", "has no column"},
		{"line_no", 0, "Line_No", "has no column"},
		{"Sales_Order_Id/Store_Id", 0, "Sales_Order_Reference", "has no reference"},
		{"Sales_Order_Ref/Store_Id", 0, "", "has no reference"},
		{"Sales_Order_Reference/Document_Reference/Viod", 2, "Void", "has no column"},
		{"Sales_Order_Reference", 0, "", "is a reference of table"},
		{"", 0, "", "has no column"},
		{strings.Repeat("Return_For_Sales_Order_Line_Reference/", 20) + "Line_No", 16, "", "more than"},
	} {
		path := strings.Split(tt.path, "/")
		_, err := m.Resolve(lines, path)
		var bad *PathError
		if !errors.As(err, &bad) {
			t.Errorf("%s: %v", tt.path, err)
			continue
		}
		if bad.Index != tt.index || bad.Segment != path[tt.index] || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v at %d (%q)", tt.path, err, bad.Index, bad.Segment)
		}
		if tt.suggest != "" && (!slices.Contains(bad.Suggest, tt.suggest) || !strings.Contains(err.Error(), tt.suggest)) {
			t.Errorf("%s: %v does not suggest %s", tt.path, err, tt.suggest)
		}
	}
	if _, err := m.Resolve(lines, nil); err == nil {
		t.Error("an empty path is resolved")
	}
}

// Every owner that the documentation lists can be reached by following owner references, in that order.
func TestEveryOwnerIsReachable(t *testing.T) {
	m, owned := Embedded(), 0
	for _, name := range m.Tables() {
		table := mustTable(t, m, name)
		paths := m.OwnerPaths(table)
		if len(paths) != len(table.Owners) {
			t.Errorf("%s: %d owner paths for owners %q", name, len(paths), table.Owners)
			continue
		}
		for i, p := range paths {
			owned++
			if p.Table.Name != table.Owners[i] {
				t.Errorf("%s: path %v leads to %s, not to %s", name, p.Path, p.Table.Name, table.Owners[i])
			}
			r, err := m.Resolve(table, append(slices.Clone(p.Path), p.Table.Columns[0].Name))
			if err != nil || !r.Owner || r.Table != p.Table {
				t.Errorf("%s: path %v: %+v, %v", name, p.Path, r, err)
			}
		}
	}
	if owned == 0 {
		t.Error("no table has owners")
	}
}

func TestOwnerCyclesEnd(t *testing.T) {
	reference := func(to string) []Column {
		return []Column{{Name: "X_Id", OwnerRef: true, References: to, Navigation: "X_Reference"}}
	}
	m, err := New(Table{Name: "A", Columns: reference("B")}, Table{Name: "B", Columns: reference("C")}, Table{Name: "C", Columns: reference("B")})
	if err != nil {
		t.Fatal(err)
	}
	if got := m.OwnerPaths(mustTable(t, m, "A")); len(got) > maxHops {
		t.Errorf("%d owner paths in a cycle", len(got))
	}
}

func TestResolveIntoAMissingTable(t *testing.T) {
	m, err := New(Table{Name: "A", Columns: []Column{{Name: "B_Id", References: "B", Navigation: "B_Reference"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Resolve(mustTable(t, m, "A"), []string{"B_Reference", "X"}); err == nil || !strings.Contains(err.Error(), "table B") {
		t.Error(err)
	}
}
