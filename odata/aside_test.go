package odata_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/simulator"
)

// strict is the table of lines by a stricter model than the server's: small integers, short decimals, and texts that are never null.
func strict(t *testing.T) *edm.Table {
	t.Helper()
	real, _ := edm.Embedded().Table(lines)
	narrow := *real
	narrow.Columns = slices.Clone(real.Columns)
	for i := range narrow.Columns {
		switch c := &narrow.Columns[i]; c.Name {
		case "Quantity":
			c.Type.Precision, c.Type.Scale = 6, 1
		case "Notes":
			c.Nullable = false
		}
	}
	m, err := edm.New(narrow)
	if err != nil {
		t.Fatal(err)
	}
	table, _ := m.Table(lines)
	return table
}

// fits is what a naive reader says of a row of the strict table.
func fits(quantity, notes string) bool {
	if notes == simulator.Null {
		return false
	}
	if quantity == simulator.Null {
		return true
	}
	q, ok := new(big.Rat).SetString(quantity)
	if !ok {
		return false
	}
	tenths := new(big.Rat).Mul(q, big.NewRat(10, 1))
	return tenths.IsInt() && new(big.Int).Abs(tenths.Num()).Cmp(big.NewInt(1_000_000)) < 0
}

// Every row that fits is handed on, every other is set aside with its key and its text, none twice, whatever the paging and however the server writes; the evidence counts them
// all; and whoever inspects sees a stand-in with the anchors as they were sent.
func TestAside(t *testing.T) {
	for _, paging := range pagings() {
		for name, b := range map[string]simulator.Behavior{
			"plain": {Count: simulator.PathCount}, "odd": {Whitespace: true, ShuffleProperties: true, Exponents: true, OrderBy: simulator.RefuseOrderBy},
		} {
			t.Run(string(paging)+"/"+name, func(t *testing.T) {
				t.Parallel()
				s := startSim(t, simulator.Options{Rows: map[string]int64{lines: 900}, Behavior: b})
				s.server.Inject(simulator.Fault{Table: lines, Nth: 3, Effect: simulator.CutRows(40)})
				want := map[string][]string{}
				rows, err := s.server.Oracle().Rows(lines, "", []string{"Sales_Order_Line_Id", "Quantity", "Notes", "Line_Store_Id"})
				if err != nil {
					t.Fatal(err)
				}
				for row := range rows {
					want[row[0]] = row[1:]
				}
				seen := 0
				q := odata.Query{Table: strict(t), Select: []string{"Quantity", "Line_No", "Notes", "Sales_Order_Line_Id", "Line_Store_Id"}, Paging: paging, PageSize: 100}
				q.Aside = &odata.Aside{Anchors: []string{"Line_Store_Id"}, Keep: []string{"Quantity", "Notes"}, Most: 900}
				q.Inspect = func(rec arrow.Record, _ int64) error {
					for i := range int(rec.NumRows()) {
						seen++
						stores := rec.Column(4).(*array.String)
						if cell := want[rec.Column(3).(*array.String).Value(i)]; cell == nil || cell[2] != simulator.Null && stores.Value(i) != cell[2] || stores.IsNull(i) != (cell[2] == simulator.Null) {
							return fmt.Errorf("a row was shown with another store than it has")
						}
					}
					return nil
				}
				scan, err := s.session.Scan(q)
				if err != nil {
					t.Fatal(err)
				}
				got := map[string]bool{}
				for rec, err := range scan.Records(t.Context()) {
					if err != nil {
						t.Fatal(err)
					}
					for i := range int(rec.NumRows()) {
						key := strings.Clone(rec.Column(3).(*array.String).Value(i)) // the memory of a record is used again
						if got[key] || !fits(want[key][0], want[key][1]) || rec.Column(2).IsNull(i) || rec.Column(1).IsNull(i) {
							t.Fatalf("row %s (%q) was handed on: again %v, fits %v, null %v %v", key, want[key], got[key], fits(want[key][0], want[key][1]), rec.Column(2).IsNull(i), rec.Column(1).IsNull(i))
						}
						got[key] = true
					}
				}
				handed := len(got)
				for _, a := range scan.Aside() {
					if len(a.Key) != 1 || got[a.Key[0]] || fits(want[a.Key[0]][0], want[a.Key[0]][1]) || a.Problem == "" || a.Row == 0 {
						t.Fatalf("%+v (%q)", a, want[a.Key[0]])
					}
					got[a.Key[0]] = true
					var text map[string]any
					if err := json.Unmarshal([]byte(a.Text), &text); err != nil || len(text) != 2 || (text["Notes"] == nil) != (want[a.Key[0]][1] == simulator.Null) {
						t.Fatalf("%s: %v", a.Text, err)
					}
				}
				ev := scan.Evidence()
				if len(got) != 900 || handed == 900 || handed == 0 || ev.Judge() != nil || ev.Rows != int64(handed) || ev.Quarantined != int64(900-handed) || ev.DistinctKeys != 900 || seen < 900 {
					t.Errorf("%d of 900 rows, %d handed on, %d seen, evidence %+v", len(got), handed, seen, ev)
				}
			})
		}
	}
}

// What is never set aside: a row whose key or anchor is wrong, answers that are wrong, more rows than allowed.
func TestNotAside(t *testing.T) {
	for name, c := range map[string]struct {
		effect  simulator.Effect
		most    int64
		column  string
		problem string
	}{
		"anchor":       {simulator.WrongType(3, "Line_Store_Id"), 10, "Line_Store_Id", ""},
		"key":          {simulator.WrongType(3, "Sales_Order_Line_Id"), 10, "Sales_Order_Line_Id", ""},
		"both":         {simulator.MissingProperty(3), 10, "Line_Store_Id", ""},
		"another one":  {simulator.UnexpectedProperty(3), 10, "", "unexpected"},
		"within":       {simulator.OutOfRange(3, "Quantity"), 1, "", "none"},
		"the last one": {simulator.MissingProperty(3), 1, "", "none"},
		"too many":     {simulator.OutOfRange(3, "Quantity"), 0, "Quantity", "more than 0 rows"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startSim(t, simulator.Options{Rows: map[string]int64{lines: 50}})
			whole := func(r *http.Request) bool { return strings.Contains(r.URL.Query().Get("$select"), "Quantity") }
			s.server.Inject(simulator.Fault{Table: lines, Match: whole, Times: -1, Effect: c.effect})
			if name == "both" {
				s.server.Inject(simulator.Fault{Table: lines, Match: whole, Times: -1, Effect: simulator.WrongType(3, "Line_Store_Id")})
			}
			q := s.query(lines)
			q.Select = []string{"Quantity", "Sales_Order_Line_Id", "Line_Store_Id", "Line_No"}
			q.Paging, q.PageSize = odata.Stream, 100
			q.Aside = &odata.Aside{Anchors: []string{"Line_Store_Id"}, Most: c.most}
			scan, err := s.session.Scan(q)
			if err != nil {
				t.Fatal(err)
			}
			for _, err = range scan.Records(t.Context()) {
				if err != nil {
					break
				}
			}
			var data *odata.DataError
			var many *odata.AsideLimitError
			switch {
			case c.problem == "none":
				if err != nil || len(scan.Aside()) != 1 {
					t.Fatalf("%v, %+v", err, scan.Aside())
				}
			case errors.As(err, &many):
				if !strings.Contains(err.Error(), c.problem) || many.Column != c.column {
					t.Fatal(err)
				}
			case !errors.As(err, &data) || data.Column != c.column || !strings.Contains(err.Error(), c.problem):
				t.Fatal(err)
			}
		})
	}
}
