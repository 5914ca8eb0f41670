package simulator

import (
	"testing"

	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/filter"
)

// TestServerTakesWhatTheClientRenders sends filters through package filter to this server's own reader: two
// independent readings of the documented dialect must agree, on what is taken and on what is refused.
func TestServerTakesWhatTheClientRenders(t *testing.T) {
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	model := edm.Embedded()
	store := someStore(t, s, 0)
	for _, c := range []struct {
		table, filter string
		taken         bool
	}{
		{lines, "Line_Store_Id eq " + store, true},
		{lines, "Line_Store_Id eq '" + store + "'", true},
		{lines, "Line_Store_Id in (" + store + ",'" + store + "')", true},
		{lines, "(Line_Store_Id eq " + store + " or Line_Store_Id eq " + someStore(t, s, 1) + ")", true},
		{lines, "Line_Store_Id eq null", true},
		{lines, "Line_No eq 10 and Persist_Lot eq true", true},
		{lines, "Required_Delivery_Date ge 2024-01-01 and Required_Delivery_Date le 2024-01-31T23:59:59Z", true},
		{lines, "Intrastat_Apply_Date ge 2024-01-01T00:00:00Z", true},
		{lines, "Historical_Unit_Cost le -12.5", true},
		{lines, "Product_Description like '%O''Neil%'", true},
		{lines, "Sales_Order_Reference/Document_Reference/Void eq false and Sales_Order_Reference/Document_Reference/State ge 30", true},
		{lines, "Sales_Order_Reference/Document_Reference/Document_Date ge 2024-01-01T00:00:00Z", true},
		{docs, "State in (30,40,50)", true},
		{docs, "Document_No eq 'A-1'", true},
		{docs, "Id ge " + store + " and Id le " + store, true},
		{lines, "Line_No ne 10", false},
		{lines, "Line_No gt 10", false},
		{lines, "Line_No ge 10", false},
		{lines, "Notes eq 'x'", false},
		{lines, "Row_Version eq 'x'", false},
		{lines, "Line_No eq 10 or Persist_Lot eq true", false},
		{lines, "not Line_No eq 10", false},
		{lines, "contains(Product_Description,'x')", false},
		{lines, "Line_Store_Id ge " + store, false},
	} {
		table, _ := model.Table(c.table)
		text := c.filter
		bound, err := filter.Compile(c.filter, model, table)
		if (err == nil) != c.taken {
			t.Errorf("%s: the client says %v", c.filter, err)
		}
		if err == nil {
			text = bound.Render()
		}
		if _, err := s.catalog.parseFilter(text, s.catalog.tables[c.table], true); (err == nil) != c.taken {
			t.Errorf("%s, sent as %s: the server says %v", c.filter, text, err)
		}
	}
}

// TestKeysAgreeWithTheModel compares this package's reading of a GUID with package edm's.
func TestKeysAgreeWithTheModel(t *testing.T) {
	s := newSpace(42, 1000)
	for i := range s.n {
		hi, lo := s.key(s.base(i))
		text := string(appendGUID(nil, hi, lo))
		key, ok := edm.GUIDKey(text)
		if !ok {
			t.Fatalf("%s is not a GUID", text)
		}
		for k := range 8 {
			if key[k] != byte(hi>>(56-8*k)) || key[8+k] != byte(lo>>(56-8*k)) {
				t.Fatalf("%s: byte %d differs", text, k)
			}
		}
		if h, l, ok := parseGUID(text); !ok || h != hi || l != lo {
			t.Fatalf("%s is read back differently", text)
		}
	}
	for _, bad := range []string{"", "x", "00000000-0000-0000-0000-00000000000g", "00000000x0000-0000-0000-000000000000", "{0000000-0000-0000-0000-000000000000"} {
		if _, _, ok := parseGUID(bad); ok {
			t.Errorf("%q is taken for a GUID", bad)
		}
	}
}
