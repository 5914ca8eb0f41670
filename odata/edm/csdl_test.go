package edm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func parseFile(t *testing.T) *Model {
	t.Helper()
	text, err := os.ReadFile("testdata/metadata.xml")
	if err != nil {
		t.Fatal(err)
	}
	m, err := ParseCSDL(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestParseCSDL(t *testing.T) {
	m := parseFile(t)
	if got := m.Tables(); !slices.Equal(got, []string{"Documents", "Lines", "View"}) {
		t.Fatalf("tables %q", got)
	}
	documents := mustTable(t, m, "Documents")
	got := map[string]string{}
	var order []string
	for _, c := range documents.Columns {
		null := " null"
		if !c.Nullable {
			null = ""
		}
		got[c.Name] = c.Type.String() + null
		order = append(order, c.Name)
	}
	want := map[string]string{
		"Id": "Edm.Guid", "Row_Version": "Edm.Binary", "Document_Date": "Edm.Date null", "Void": "Edm.Boolean",
		"Kind": "Edm.String null", "Total": "Edm.Decimal(14,2) null", "Title": "Edm.String(multi-language) null",
		"At": "unsupported null", "Tags": "unsupported null", "Open_Decimal": "Edm.Decimal(38,18) null",
		"Variable_Decimal": "Edm.Decimal(38,18) null", "Whole_Decimal": "Edm.Decimal(9,0) null", "Wide_Decimal": "Edm.Decimal(38,4) null",
		"Text": "Edm.String null", "Code": "Edm.String null", "Created": "Edm.DateTimeOffset null", "Opens": "Edm.TimeOfDay null",
		"Small": "Edm.Int16 null", "Tiny": "Edm.Byte null", "Rate": "Edm.Double null", "Place": "unsupported null", "Strange": "unsupported null",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if order[0] != "Id" || order[2] != "Document_Date" || order[len(order)-1] != "Strange" {
		t.Errorf("order %q", order)
	}
	if !slices.Equal(documents.Key, []string{"Id"}) || len(mustTable(t, m, "View").Key) != 0 {
		t.Errorf("keys %q, %q", documents.Key, mustTable(t, m, "View").Key)
	}
	if c, _ := documents.Column("Kind"); !slices.Equal(c.Allowed, []string{"Sale", "Return"}) {
		t.Errorf("enumeration %q", c.Allowed)
	}
	if c, _ := documents.Column("Code"); c.Type.MaxLength != 16 || c.OpsKnown {
		t.Errorf("Code %+v", c)
	}
	if selected := documents.DefaultSelect(); slices.Contains(selected, "Place") || slices.Contains(selected, "Tags") || !slices.Contains(selected, "Void") {
		t.Errorf("default select %q", selected)
	}
}

func TestCSDLReferencesAndComments(t *testing.T) {
	m := Merge(parseFile(t), Embedded())
	lines := mustTable(t, m, "Lines")
	for column, navigation := range map[string]string{"Document_Id": "Document_Reference", "Other_Id": "TheOther"} {
		c, _ := lines.Column(column)
		if c.Navigation != navigation || c.References != "Documents" {
			t.Errorf("%s is followed by %q to %q", column, c.Navigation, c.References)
		}
		r, err := m.Resolve(lines, []string{navigation, "Void"})
		if err != nil || r.Table.Name != "Documents" || r.Owner {
			t.Errorf("%s: %+v, %v", navigation, r, err)
		}
	}
	for _, tt := range [][3]string{
		{"Documents", "Void", "Whether the document was cancelled; true or false"},
		{"Lines", "Document_Id", "The document that owns it; GUID as lowercase text; refers to Documents"},
		{"Documents", "Kind", "text; one of Sale, Return"},
		{"Documents", "Place", "unsupported type Edm.GeographyPoint"},
	} {
		if c, _ := mustTable(t, m, tt[0]).Column(tt[1]); c.Comment != tt[2] {
			t.Errorf("%s.%s: comment %q, want %q", tt[0], tt[1], c.Comment, tt[2])
		}
	}
	// Merging again changes nothing.
	again := Merge(m, Embedded())
	c1, _ := lines.Column("Document_Id")
	c2, _ := mustTable(t, again, "Lines").Column("Document_Id")
	if diff := cmp.Diff(*c1, *c2, cmp.AllowUnexported(Column{})); diff != "" {
		t.Error(diff)
	}
}

func document(body string) string {
	return `<edmx:Edmx Version="4.01" xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx"><edmx:DataServices>` +
		"\n" + `<Schema Namespace="N" xmlns="http://docs.oasis-open.org/odata/ns/edm">` + "\n" + body + "\n</Schema></edmx:DataServices></edmx:Edmx>"
}

func TestCSDLFaults(t *testing.T) {
	type fault struct {
		name, text, want string
		line             int
	}
	set := `<EntityContainer Name="C"><EntitySet Name="S" EntityType="N.A"/></EntityContainer>`
	for _, tt := range []fault{
		{"empty", "", "ends too early", 1},
		{"html", "<html><body>Sign in</body></html>", `"html", not Edmx`, 1},
		{"json", `{"value": []}`, "no XML document", 1},
		{"old", `<edmx:Edmx Version="1.0" xmlns:edmx="http://schemas.microsoft.com/ado/2007/06/edmx"></edmx:Edmx>`, "not Edmx of OData 4", 1},
		{"version", `<Edmx Version="5.0" xmlns="http://docs.oasis-open.org/odata/ns/edmx"/>`, `"5.0" is not supported`, 1},
		{"cut", document(set)[:200], "not well-formed", 3},
		{"dtd", `<!DOCTYPE Edmx [<!ENTITY a "aaaa">]>` + document(set), "document type declaration", 1},
		{"external", `<!DOCTYPE Edmx SYSTEM "file:///etc/passwd">` + document(set), "document type declaration", 1},
		{"entity", strings.Replace(document(set), `"N.A"`, `"&xxe;"`, 1), "entity", 3},
		{"encoding", `<?xml version="1.0" encoding="utf-7"?>` + document(set), "UTF-8 is expected", 1},
		{"xml 1.1", `<?xml version="1.1"?>` + document(set), "version", 1},
		{"missing type", document(set), `"N.A", which is not defined`, 3},
		{"complex set", document("<ComplexType Name=\"A\"/>\n" + set), "not defined", 4},
		{"cycle", document(`<EntityType Name="A" BaseType="N.B"/>` + "\n" + `<EntityType Name="B" BaseType="N.A"/>` + set), "own base type", 3},
		{"own base", document(`<EntityType Name="A" BaseType="N.A"/>` + set), "own base type", 3},
		{"missing base", document(`<EntityType Name="A" BaseType="N.B"/>` + set), `"N.B", which is not defined`, 3},
		{"two types", document(`<EntityType Name="A"/><EntityType Name="A"/>` + set), "defined twice", 3},
		{"two sets", document(`<EntityType Name="A"/>` + set + set), "defined twice", 3},
		{"two properties", document(`<EntityType Name="A"><Property Name="P" Type="Edm.Guid"/><Property Name="P" Type="Edm.Guid"/></EntityType>` + set), "twice", 3},
		{"key", document(`<EntityType Name="A"><Key><PropertyRef Name="X"/></Key></EntityType>` + set), "no property of it", 3},
		{"injection", document(`<EntityType Name="A"><Property Name="X eq 1 or Y" Type="Edm.Guid"/></EntityType>` + set), "no valid name", 3},
		{"injected set", document(`<EntityType Name="A"/>` + strings.Replace(set, `"S"`, `"S?x="`, 1)), "no valid name", 3},
		{"no type", document(`<EntityType Name="A"><Property Name="X"/></EntityType>` + set), "has no Type", 3},
		{"nullable", document(`<EntityType Name="A"><Property Name="X" Type="Edm.Guid" Nullable="maybe"/></EntityType>` + set), "not true or false", 3},
		{"precision", document(`<EntityType Name="A"><Property Name="X" Type="Edm.Decimal" Precision="-1"/></EntityType>` + set), "Precision", 3},
		{"scale", document(`<EntityType Name="A"><Property Name="X" Type="Edm.Decimal" Precision="9" Scale="many"/></EntityType>` + set), "Scale", 3},
		{"length", document(`<EntityType Name="A"><Property Name="X" Type="Edm.String" MaxLength="long"/></EntityType>` + set), "MaxLength", 3},
		{"deep", document(strings.Repeat("<Annotation>", 200)), "nested more than", 3},
	} {
		m, err := ParseCSDL(strings.NewReader(tt.text))
		var bad *CSDLError
		if m != nil || !errors.As(err, &bad) || !strings.Contains(err.Error(), tt.want) || bad.Line != tt.line {
			t.Errorf("%s: %v, want line %d and %q", tt.name, err, tt.line, tt.want)
		}
	}
}

func TestCSDLReaderErrorsPass(t *testing.T) {
	want := errors.New("connection reset")
	_, err := ParseCSDL(io.MultiReader(strings.NewReader(document("")[:150]), iotest.ErrReader(want)))
	if !errors.Is(err, want) {
		t.Error(err)
	}
}

// endless is a document that never ends.
type endless struct{ part []byte }

func (e endless) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		n += copy(p[n:], e.part)
	}
	return n, nil
}

func TestCSDLIsBounded(t *testing.T) {
	const head = `<Edmx Version="4.0" xmlns="http://docs.oasis-open.org/odata/ns/edmx">`
	for _, tt := range [][2]string{{"<!--", "x"}, {"", "<a/>"}, {"", "<!-- -->"}, {"", "\n"}, {`<a b="`, "x"}, {"<", "a"}} {
		_, err := parseCSDL(io.MultiReader(strings.NewReader(head+tt[0]), endless{[]byte(tt[1])}), 100_000)
		if err == nil || !strings.Contains(err.Error(), "longer than 100000 bytes") {
			t.Errorf("%q, then %q without end: %v", tt[0], tt[1], err)
		}
	}
	whole := head + "</Edmx>"
	if _, err := parseCSDL(strings.NewReader(whole), int64(len(whole))); err != nil {
		t.Errorf("a document of the greatest length: %v", err)
	}
	if _, err := parseCSDL(strings.NewReader(whole+" "), int64(len(whole))-1); err == nil {
		t.Error("one byte more is accepted")
	}
}

// Twenty thousand sets of one type with many properties are a small document and a huge model.
func TestCSDLAmplificationIsBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString(`<EntityType Name="A">`)
	for i := range 1000 {
		fmt.Fprintf(&b, `<Property Name="P%d" Type="Edm.Int32"/>`, i)
	}
	b.WriteString(`</EntityType><EntityContainer Name="C">`)
	for i := range 600 {
		fmt.Fprintf(&b, `<EntitySet Name="S%d" EntityType="N.A"/>`, i)
	}
	b.WriteString(`</EntityContainer>`)
	if _, err := ParseCSDL(strings.NewReader(document(b.String()))); err == nil || !strings.Contains(err.Error(), "more than 200000 properties") {
		t.Error(err)
	}
}

func TestCSDLScaleBeyondPrecisionIsUnsupported(t *testing.T) {
	m, err := ParseCSDL(strings.NewReader(document(`<EntityType Name="A"><Property Name="X" Type="Edm.Decimal" Precision="3" Scale="9"/></EntityType>` +
		`<EntityContainer Name="C"><EntitySet Name="S" EntityType="N.A"/></EntityContainer>`)))
	if err != nil {
		t.Fatal(err)
	}
	if c, _ := mustTable(t, m, "S").Column("X"); c.Type.Kind != Invalid {
		t.Errorf("%v", c.Type)
	}
}

func TestMerge(t *testing.T) {
	live, err := ParseCSDL(strings.NewReader(document(`
<EntityType Name="L"><Key><PropertyRef Name="Sales_Order_Line_Id"/></Key>
<Property Name="Sales_Order_Line_Id" Type="Edm.Guid" Nullable="false"/>
<Property Name="Sales_Order_Id" Type="Edm.Guid" Nullable="false"/>
<Property Name="Line_Amount" Type="Edm.Decimal" Scale="variable" Nullable="false"/>
<Property Name="Quantity" Type="Edm.Decimal" Precision="20" Scale="5"/>
<Property Name="Unit_Price" Type="Edm.Decimal" Precision="14"/>
<Property Name="Product_Description" Type="Edm.String"/>
<Property Name="Line_From_Date" Type="Edm.DateTimeOffset"/>
<Property Name="Delivery_Terms_Code" Type="Edm.String"/>
<Property Name="New_Column" Type="Edm.String"/>
<Property Name="New_Api_Key" Type="Edm.String"/>
</EntityType>
<EntityType Name="T"><Property Name="Data" Type="Edm.String"/><Property Name="Access_Token_Key" Type="Edm.String"/></EntityType>
<EntityContainer Name="C"><EntitySet Name="Crm_Sales_Order_Lines" EntityType="N.L"/><EntitySet Name="Sec_Access_Tokens" EntityType="N.T"/>
<EntitySet Name="Own_Table" EntityType="N.L"/></EntityContainer>`)))
	if err != nil {
		t.Fatal(err)
	}
	m := Merge(live, Embedded())
	if len(m.Tables()) != 3 {
		t.Fatalf("tables %q: only the instance's own count", m.Tables())
	}
	lines := mustTable(t, m, "Crm_Sales_Order_Lines")
	if len(lines.Columns) != 10 || !slices.Equal(lines.Owners, []string{"Crm_Sales_Orders", "Gen_Documents"}) || lines.Entity == "" {
		t.Errorf("%d columns, owners %q, entity %q", len(lines.Columns), lines.Owners, lines.Entity)
	}
	for name, want := range map[string]struct {
		typ      string
		ops      Ops
		known    bool
		nullable bool
	}{
		"Sales_Order_Line_Id": {"Edm.Guid", OpEq | OpIn | OpRange, true, false},
		"Sales_Order_Id":      {"Edm.Guid", OpEq | OpIn, true, false},
		"Line_Amount":         {"Edm.Decimal(14,2)", 0, true, false},              // live leaves it open: documented
		"Quantity":            {"Edm.Decimal(20,5)", OpRange, true, true},         // live wins
		"Unit_Price":          {"Edm.Decimal(14,5)", 0, true, true},               // live leaves the scale open
		"Product_Description": {"Edm.String(multi-language)", OpLike, true, true}, // CSDL cannot say it
		"Line_From_Date":      {"Edm.DateTimeOffset", OpRange, true, true},        // live wins
		"New_Column":          {"Edm.String", 0, false, true},                     // unknown: probe
		"Delivery_Terms_Code": {"Edm.String", 0, true, true},
	} {
		c, _ := lines.Column(name)
		if c.Type.String() != want.typ || c.Ops != want.ops || c.OpsKnown != want.known || c.Nullable != want.nullable || c.Comment == "" {
			t.Errorf("%s: %s, %s, known %v, nullable %v, %q", name, c.Type, c.Ops, c.OpsKnown, c.Nullable, c.Comment)
		}
	}
	if c, _ := lines.Column("Sales_Order_Id"); !c.OwnerRef || c.Navigation != "Sales_Order_Reference" || c.References != "Crm_Sales_Orders" {
		t.Errorf("owner reference %+v", c)
	}
	if c, _ := lines.Column("Delivery_Terms_Code"); len(c.Allowed) != 12 || !strings.Contains(c.Comment, "one of EXW") {
		t.Errorf("allowed %q, %q", c.Allowed, c.Comment)
	}
	if got := mustTable(t, m, "Sec_Access_Tokens").DefaultSelect(); len(got) != 0 {
		t.Errorf("secret columns are selected: %q", got)
	}
	if c, _ := lines.Column("New_Api_Key"); !c.Secret || !strings.Contains(c.Comment, "secret") {
		t.Error("an undocumented column that is named like a secret is not secret")
	}
	if c, _ := mustTable(t, m, "Own_Table").Column("Line_Amount"); c.OpsKnown || c.Type.String() != "Edm.Decimal(38,18)" {
		t.Errorf("%+v", c)
	}
	if c, _ := mustTable(t, live, "Crm_Sales_Order_Lines").Column("Line_Amount"); c.OpsKnown || c.Type.Precision != 38 {
		t.Error("Merge changed its argument")
	}
}

func TestMergeWithoutOneOfThem(t *testing.T) {
	if got := Merge(nil, Embedded()); len(got.Tables()) != 693 {
		t.Errorf("%d tables", len(got.Tables()))
	}
	if got := Merge(nil, nil); len(got.Tables()) != 0 {
		t.Errorf("%d tables", len(got.Tables()))
	}
	got := Merge(parseFile(t), nil)
	for _, c := range mustTable(t, got, "Documents").Columns {
		if c.Comment == "" {
			t.Errorf("%s has no comment", c.Name)
		}
	}
}

func FuzzCSDL(f *testing.F) {
	text, err := os.ReadFile("testdata/metadata.xml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Add(document(`<EntityType Name="A" BaseType="N.A"/><EntityContainer Name="C"><EntitySet Name="S" EntityType="N.A"/></EntityContainer>`))
	f.Add(document(`<EntityType Name="A"><Property Name="X" Type="Edm.Decimal" Precision="3" Scale="9"/></EntityType><EntityContainer Name="C"><EntitySet Name="S" EntityType="N.A"/></EntityContainer>`))
	f.Add(`<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>`)
	f.Add("\ufeff<?xml version=\"1.0\"?>" + document(""))
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseCSDL(strings.NewReader(text))
		if err != nil {
			if bad := (*CSDLError)(nil); !errors.As(err, &bad) || m != nil {
				t.Fatalf("%v", err)
			}
			return
		}
		merged := Merge(m, Embedded())
		for _, name := range merged.Tables() {
			table, ok := merged.Table(name)
			if !ok || !simpleIdentifier(name) || table.Key == nil || table.Columns == nil {
				t.Fatalf("table %q is broken", name)
			}
			for i := range table.Columns {
				c := &table.Columns[i]
				_, _, _ = c.Type.Arrow(), c.Type.String(), c.Ops.String()
				if !simpleIdentifier(c.Name) || c.Comment == "" || strings.ContainsAny(c.Comment, "\n\r") {
					t.Fatalf("column %q of %q: comment %q", c.Name, name, c.Comment)
				}
				if k := c.Type; k.Kind == Decimal && (k.Precision < 1 || k.Precision > 38 || k.Scale < 0 || k.Scale > k.Precision) {
					t.Fatalf("%v cannot be stored", k)
				}
				if c.Navigation != "" {
					_, _ = merged.Resolve(table, []string{c.Navigation, "X"})
				}
			}
			merged.OwnerPaths(table)
		}
	})
}
