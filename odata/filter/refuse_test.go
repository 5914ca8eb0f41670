package filter

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// Every refusal names the column and the operator, stands at its place, and says what would work.
func TestRefusals(t *testing.T) {
	m, lines := embedded(t, "Crm_Sales_Order_Lines")
	for _, tt := range []struct {
		text string
		at   string // the text at the offset
		want string // in Text
		hint string // in Hint
	}{
		{"Line_Store_Id eq " + g1 + " or Product_Id eq " + g2, "or", "between Line_Store_Id and Product_Id", "one query per alternative"},
		{"Persist_Lot eq true and Line_No eq 1 or Line_No eq 2", "or", "`or`", "one query per alternative"},
		{"Quantity ge 5 or Quantity le 1", "or", "equalities of one column", "one query per alternative"},
		{"Line_Store_Id eq " + g1 + " or Line_Store_Id eq null", "null", "`in` does not take null", "Line_Store_Id eq null in a query of its own"},
		{"Persist_Lot ne true", "Persist_Lot", "no `ne` (column Persist_Lot)", "Persist_Lot eq false"},
		{"Delivery_Terms_Code ne 'EXW'", "Delivery", "`ne`", "what the rows must be"},
		{"Sales_Order_Reference/Document_Reference/State ne 30", "Sales", "`ne` (column State)", "State in (0,5,10,20,40,50)"},
		{"Sales_Order_Line_Id ne null", "Sales", "`ne`", "Sales_Order_Line_Id ge 00000000-"},
		{"Line_No ne null", "Line_No", "`ne`", "no filter for values that are not null"},
		{"Sales_Order_Reference/Document_Reference/State gt 29", "Sales", "`gt`", "State ge 30"},
		{"Sales_Order_Reference/Document_Reference/State lt 30", "Sales", "`lt`", "State le 29"},
		{"Quantity gt 1.5", "Quantity", "`gt`", "Quantity ge 1.501"},
		{"Quantity lt 0", "Quantity", "`lt`", "Quantity le -0.001"},
		{"Line_From_Date gt 2023-12-31", "Line", "`gt`", "Line_From_Date ge 2024-01-01T00:00:00Z"},
		{"Line_From_Date lt 2023-01-01", "Line", "`lt`", "Line_From_Date le 2022-12-31T00:00:00Z"},
		{"Intrastat_Apply_Date lt 2023-01-01T00:00:00Z", "Intrastat", "`lt`", "le 2022-12-31T23:59:59.997Z"},
		{"Sales_Order_Reference/Document_Reference/State gt 32767", "Sales", "`gt`", "no value lies beyond"},
		{"Line_No gt 3", "Line_No", "`gt`", "Line_No takes eq"},
		{"not (Persist_Lot eq true)", "not", "no `not`", "Persist_Lot eq false"},
		{"not Persist_Lot", "not", "no `not`", "Persist_Lot eq false"},
		{"Persist_Lot not eq true", "not", "no `not`", "what the rows must be"},
		{"contains(Notes,'x')", "contains", "`contains`", "like '%x%'"},
		{"startswith(Notes,'x') eq true", "startswith", "`startswith`", "like 'x%'"},
		{"endswith(Notes,'x')", "endswith", "`endswith`", "like '%x'"},
		{"year(Line_From_Date) eq 2023", "year", "`year`", "ge 2023-01-01T00:00:00Z and"},
		{"Line_From_Date ge now()", "now", "`now`", "refresh windows"},
		{"Lines/any(l: l/Quantity gt 5)", "Lines", "`Lines/any`", "owner path"},
		{"tolower(Notes) eq 'x'", "tolower", "`tolower`", "column itself"},
		{"Quantity add 5 ge 10", "Quantity", "`add`", "column itself"},
		{"Quantity ge 10 mul (2 add 3)", "10", "`mul`", "write the result"},
		{"Line_No has 3", "Line_No", "`has`", "in (…)"},
		{"Persist_Lot", "Persist", "stands alone", "Persist_Lot eq true"},
		{"'x'", "'x'", "stands alone", "comparison"},
		{"30 le Line_No", "30", "left of `le`", "write Line_No ge …"},
		{"Line_Num eq 3", "Line_Num", `no column "Line_Num"`, "Line_No"},
		{"Qwerty eq 3", "Qwerty", `no column "Qwerty"`, "tablexport tables Crm_Sales_Order_Lines"},
		{"Sales_Order_Id/Store_Id eq " + g1, "Sales", `no reference "Sales_Order_Id"`, "Sales_Order_Reference"},
		{"Product_Reference/Id eq " + g1, "Product", "does not stay in the Owner Tables Hierarchy", "Sales_Order_Reference/Document_Reference/… (Gen_Documents)"},
		{"Product_Reference/Id eq " + g1, "Product", "Product_Reference/Id", "compare Product_Id itself"},
		{"Notes eq 'x'", "Notes", "column Notes cannot be filtered on", "leave the comparison out"},
		{"Notes like 'x%'", "Notes", "`like` is asked", "leave the comparison out"},
		{"Row_Version ge 0x00", "0x00", "Edm.Binary cannot be filtered", "leave the comparison out"},
		{"Line_No in (1,2)", "Line_No", "column Line_No does not take `in`", "one query per value: Line_No eq 1"},
		{"Line_No ge 1", "Line_No", "column Line_No does not take `ge`", "Line_No takes eq"},
		{"Product_Id ge " + g1, "Product", "does not take `ge`", "Product_Id in (…)"},
		{"Quantity eq 5", "Quantity", "does not take `eq`", "Quantity ge 5 and Quantity le 5"},
		{"Product_Description eq 'Bike'", "Product", "does not take `eq`", "Product_Description like 'Bike'"},
		{"Product_Description eq '50%'", "Product", "does not take `eq`", "Product_Description takes like"},
		{"Quantity eq null", "Quantity", "does not take `eq`", "Quantity takes ge, le"},
		{"Line_Store_Id like '5a%'", "'5a%'", "not a GUID", "36 characters"},
		{"Line_Store_Id like " + g1, "Line", "`like` compares texts, and column Line_Store_Id is Edm.Guid", "takes eq, in"},
		{"Line_Store_Id eq 5a", "5a", "column Line_Store_Id (Edm.Guid) `eq`", "36 characters"},
		{"Line_No eq '1'", "'1'", "quoted", "write 1 without quotes"},
		{"Line_No eq one", "one", "not a whole number", "digits"},
		{"Line_No eq 3000000000", "3000000000", "beyond what Edm.Int32 holds", "from -2147483648"},
		{"Quantity ge 1.2345", "1.2345", "beyond what Edm.Decimal(12,3) holds", "3 after"},
		{"Quantity ge 12345678901", "1234", "beyond", "9 digits before"},
		{"Quantity ge 1_000", "1_000", "not a decimal", "12.5"},
		{"Persist_Lot eq 1", "1", "neither true nor false", "true or false"},
		{"Product_Description like x", "x", "not a quoted text", "'x'"},
		{"Line_From_Date ge 2023-02-30", "2023", "not a date", "2023-01-31"},
		{"Line_From_Date ge '2023-01-31'", "'2023", "quoted", "without quotes"},
		{"Intrastat_Apply_Date le 2023-01-31", "2023", "is a date, but", "23:59:59.997Z to include that day"},
		{"Intrastat_Apply_Date ge 2023-01-31T00:00:00", "2023", "time zone", "00:00:00Z"},
		{"Intrastat_Apply_Date ge yesterday", "yesterday", "not a date and time", "zone"},
		{"Quantity ge null", "null", "`ge` does not take null", "eq null"},
		{"Product_Id in (null)", "null", "`in` does not take null", "eq null"},
	} {
		_, err := Compile(tt.text, m, lines)
		var all Problems
		if !errors.As(err, &all) || len(all) == 0 {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		found := slices.ContainsFunc(all, func(p *Problem) bool {
			return strings.HasPrefix(tt.text[p.Offset:], tt.at) && strings.Contains(p.Text, tt.want) && strings.Contains(p.Hint, tt.hint)
		})
		if !found {
			t.Errorf("%s:\n got %v\nwant at %q: %q; %q", tt.text, err, tt.at, tt.want, tt.hint)
		}
	}
}

// What a hint says to write is itself accepted.
func TestHintsWork(t *testing.T) {
	m, lines := embedded(t, "Crm_Sales_Order_Lines")
	for _, text := range []string{
		"Persist_Lot ne true", "Quantity gt 1.5", "Quantity lt 0", "Line_From_Date lt 2023-01-01", "Quantity eq 5",
		"Intrastat_Apply_Date gt 2023-01-01T00:00:00Z", "Product_Description eq 'Bike'", "not (Persist_Lot eq true)", "Persist_Lot",
		"Sales_Order_Reference/Document_Reference/State ne 30", "Sales_Order_Reference/Document_Reference/State lt 30", "Sales_Order_Line_Id ne null",
	} {
		_, err := Compile(text, m, lines)
		var all Problems
		if !errors.As(err, &all) {
			t.Fatalf("%s: %v", text, err)
		}
		hint := strings.TrimPrefix(all[0].Hint, "write ")
		if _, err := Compile(hint, m, lines); err != nil {
			t.Errorf("%s: the hint %q is refused too: %v", text, hint, err)
		}
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	m, lines := embedded(t, "Crm_Sales_Order_Lines")
	_, err := Compile("Line_Num eq 3 and Quantity gt 5 and (Line_No eq x or Notes eq 'x') and contains(Notes,'a') and Line_No eq 1", m, lines)
	var all Problems
	if !errors.As(err, &all) || len(all) != 6 {
		t.Fatalf("%d problems: %v", len(all), err)
	}
	if !slices.IsSortedFunc(all, func(a, b *Problem) int { return a.Offset - b.Offset }) {
		t.Error("not in the order of the text")
	}
	var one *Problem
	if !errors.As(err, &one) || one != all[0] || strings.Count(err.Error(), "\n") != 5 {
		t.Errorf("%v", err)
	}
}

func TestSecretColumnsAreNoFilter(t *testing.T) {
	m, tokens := embedded(t, "Sec_Access_Tokens")
	if _, err := Compile("Access_Token_Key ge 'a'", m, tokens); err == nil || !strings.Contains(err.Error(), "secret material") {
		t.Error(err)
	}
}

func TestSyntaxErrors(t *testing.T) {
	for _, tt := range []struct{ text, at, want, hint string }{
		{"A eq", "", "the filter ends where the value of `eq`", ""},
		{"A", "A", "stands alone", ""},
		{"and A eq 1", "and", "where a column is expected", ""},
		{"A eq 1 and", "", "ends where a column is expected", ""},
		{"A eq 1 or or B eq 1", "or B", "where a column is expected", ""},
		{"A eq 1 B eq 2", "B", "after a comparison", "and"},
		{"A eq 1)", ")", "never opened", "remove"},
		{"(A eq 1", "", "must be closed", ")"},
		{"A eq 'x", "'x", "never ends", "doubled"},
		{`A eq "x"`, `"x"`, "does not quote", "single quotes"},
		{"A eq “x”", "“x”", "does not quote", "single quotes"},
		{"A = 1", "= 1", "`=` is no operator", "write eq"},
		{"A <> 1", "<>", "`<>` is no operator", "eq with another"},
		{"A >= 1", ">=", "`>=`", "write ge"},
		{"A eq 1 && B eq 1", "&&", "`&&`", "write and"},
		{"A eq 1 || B eq 1", "||", "`||`", "one query"},
		{"A is null", "is", "`is`", "eq null"},
		{"A between 1 and 2", "between", "`between`", "A ge … and A le …"},
		{"A startswith 'x'", "startswith", "`startswith`", "A like 'x%'"},
		{"A in 1", "1", "list of `in`", "in (value"},
		{"A in (1", "", "ends within the list", ")"},
		{"A in ()", ")", "value of the list", ""},
		{"A in (1 2)", "2", "within the list", "commas"},
		{"A eq datetime'2023-01-01'", "datetime", "older OData", "without quotes"},
		{"A eq guid'" + g1 + "'", "guid", "older OData", "without quotes"},
		{"(A add 1) eq 2", "eq", "", ""},
		{"(A eq 1) eq true", "eq true", "follows a parenthesis", "without arithmetic"},
		{"f(A", "(A", "never closed", ")"},
		{"A eq \xff", "\xff", "UTF-8", ""},
		{"A eq \x00", "\x00", "no meaning", ""},
		{"A ~ 1", "~", "no meaning", ""},
		{"A eq 1 or B eq 2", "or", "not between A and B", "one query"},
		{"A ne 1", "A", "no `ne` (A)", "eq false"},
		{"A gt 1 and not B eq 1", "A", "no `gt`", "next greater"},
		{"A mod 2 eq 0", "A", "`mod`", ""},
	} {
		err := CheckSyntax(tt.text)
		var all Problems
		if !errors.As(err, &all) {
			t.Errorf("%q: %v", tt.text, err)
			continue
		}
		if tt.want == "" {
			continue
		}
		p := all[0]
		if !strings.HasPrefix(tt.text[p.Offset:], tt.at) || tt.at == "" && p.Offset != len(tt.text) || !strings.Contains(p.Text, tt.want) || !strings.Contains(p.Hint, tt.hint) {
			t.Errorf("%q: %v, want at %q: %q; %q", tt.text, err, tt.at, tt.want, tt.hint)
		}
	}
}

func TestLimits(t *testing.T) {
	deep := strings.Repeat("(", 100) + "A eq 1" + strings.Repeat(")", 100)
	if err := CheckSyntax(deep); err == nil || !strings.Contains(err.Error(), "nested more than 64") {
		t.Error(err)
	}
	if err := CheckSyntax(strings.Repeat("not ", 100_000/4) + "A eq 1"); err == nil || !strings.Contains(err.Error(), "nested") {
		t.Error(err)
	}
	if err := CheckSyntax(strings.Repeat(" ", maxText+1)); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Error(err)
	}
	// What is wide but flat is fine, and quick.
	wide := "A eq 1" + strings.Repeat(" and A eq 1", 20_000)
	if err := CheckSyntax(wide); err != nil {
		t.Error(err)
	}
	m, table := everyKind(t)
	for column, want := range map[string]string{"Int": "more than 1000 comparisons", "Unt": "no column"} {
		_, err := Compile(strings.ReplaceAll(wide, "A", column), m, table)
		var all Problems
		if !errors.As(err, &all) || len(all) != maxProblems || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %.200v", column, err)
		}
	}
	if err := CheckSyntax("f" + strings.Repeat("(", 200_000)); err == nil {
		t.Error("an endless call is accepted")
	}
}
