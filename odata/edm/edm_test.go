package edm

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/google/go-cmp/cmp"
)

func TestEmbeddedHasTheWholeDocumentedModel(t *testing.T) {
	m := Embedded()
	columns := 0
	for _, name := range m.Tables() {
		table, ok := m.Table(name)
		if !ok || table.Name != name || len(table.Columns) == 0 || table.Key == nil {
			t.Fatalf("table %q is broken: %+v", name, table)
		}
		for i := range table.Columns {
			c := &table.Columns[i]
			columns++
			if c.Type.Kind == Invalid || c.Comment == "" || strings.Contains(c.Comment, "\n") || !c.OpsKnown {
				t.Errorf("%s.%s: kind %s, comment %q, ops known %v", name, c.Name, c.Type, c.Comment, c.OpsKnown)
			}
			if c.Key && (c.Nullable || !slices.Contains(table.Key, c.Name)) {
				t.Errorf("%s.%s is a key column, but nullable or not in Key", name, c.Name)
			}
			if got, ok := table.Column(c.Name); !ok || got != c {
				t.Errorf("%s.%s is not found by its name", name, c.Name)
			}
		}
	}
	if len(m.Tables()) != 693 || columns != 7063 {
		t.Errorf("%d tables, %d columns; the documentation has 693 and 7063", len(m.Tables()), columns)
	}
	if !slices.IsSorted(m.Tables()) {
		t.Error("Tables is not sorted")
	}
}

func TestEmbeddedColumns(t *testing.T) {
	for _, tt := range []struct {
		table, column string
		want          Column
	}{
		{"Crm_Sales_Order_Lines", "Line_Amount", Column{Type: Type{Kind: Decimal, Precision: 14, Scale: 2}}},
		{"Crm_Sales_Order_Lines", "Notes", Column{Type: Type{Kind: String}, Nullable: true}},
		{"Crm_Sales_Order_Lines", "Product_Description", Column{Type: Type{Kind: MultiLanguage, MaxLength: 254}, Ops: OpLike}},
		{"Crm_Sales_Order_Lines", "Row_Version", Column{Type: Type{Kind: Binary, MaxLength: 8}}},
		{"Crm_Sales_Order_Lines", "Sales_Order_Line_Id", Column{Type: Type{Kind: Guid}, Key: true, Ops: OpEq | OpIn | OpRange}},
		{"Crm_Sales_Order_Lines", "Line_No", Column{Type: Type{Kind: Int32}, Sortable: true, Ops: OpEq}},
		{"Crm_Sales_Order_Lines", "Sales_Order_Id", Column{Type: Type{Kind: Guid}, OwnerRef: true, References: "Crm_Sales_Orders", Navigation: "Sales_Order_Reference", Ops: OpEq | OpIn}},
		{"Gen_Documents", "Document_Date", Column{Type: Type{Kind: Date}, Sortable: true, Ops: OpEq | OpRange}},
		{"Gen_Documents", "Void", Column{Type: Type{Kind: Boolean}, Ops: OpEq}},
		{"Gen_Documents", "State", Column{Type: Type{Kind: Int16}, Ops: OpEq | OpIn | OpRange}},
		{"Cm_Persons", "Nationality", Column{}}, // a reference that does not end in _Id
	} {
		table, ok := Embedded().Table(tt.table)
		if !ok {
			t.Fatalf("no table %s", tt.table)
		}
		c, ok := table.Column(tt.column)
		if !ok {
			t.Fatalf("no column %s.%s", tt.table, tt.column)
		}
		if tt.column == "Nationality" {
			if c.References == "" || c.Navigation != "" {
				t.Errorf("Nationality: references %q by %q; the naming rule must not be stretched", c.References, c.Navigation)
			}
			continue
		}
		got := Column{Type: c.Type, Nullable: c.Nullable, Key: c.Key, OwnerRef: c.OwnerRef, References: c.References,
			Navigation: c.Navigation, Ops: c.Ops, Sortable: c.Sortable}
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(Column{})); diff != "" {
			t.Errorf("%s.%s: %s", tt.table, tt.column, diff)
		}
	}
}

// Every column of the model whose name smells of a secret is either secret, or was looked at and is not.
func TestEverySuspiciousColumnIsDecided(t *testing.T) {
	suspicious := regexp.MustCompile(`(?i)pass|secret|hash|token|salt|private|credential|certif|api_key|pin_code|recovery|_key$|fingerprint`)
	harmless := strings.Fields(`
		Acc_Account_Statement.Item_Key Acc_Current_Balances.Item_Key Acc_Historical_Balances.Item_Key
		Acc_Trial_Balance_Detailed.Item_Key Acc_Voucher_Lines.Item_Key Saft_Account_Balances.Item_Key
		Bpm_Process_Node_Events.Event_Key Llm_Compilation_Assets.Asset_Key
		Cm_Activities.Private Sys_Web_Sites.Is_Private Cm_Persons.Passport_Issuing_Date Cm_Persons.Passport_Number
		Ext_Public_Users.Password_Algorithm Ext_Public_Users.Password_Recovery_Creation_Time Sec_Users.Password_Format
		Inv_Lots.Certificate_Document_Id Sys_Web_Hosts.Certificate_Expiry_Date
		Sys_Web_Hosts.Certificate_Original_Filename Sys_Web_Hosts.Certificate_Type
		Sec_Access_Tokens.Access_Token_Id Sec_Trusted_Applications.Reference_Tokens Sec_User_Devices.Device_Fingerprint
		Sec_User_Provider_Logins.Provider_Key Sec_User_Provider_Tokens.Token_Name
		Sec_User_Provider_Tokens.User_Provider_Token_Id`)
	m := Embedded()
	for _, name := range m.Tables() {
		table, _ := m.Table(name)
		for _, c := range table.Columns {
			if suspicious.MatchString(c.Name) && !c.Secret && !slices.Contains(harmless, name+"."+c.Name) {
				t.Errorf("%s.%s may be secret: decide, and write it into one of the two lists", name, c.Name)
			}
		}
	}
	for name, columns := range secretColumns {
		table, ok := m.Table(name)
		if !ok {
			t.Errorf("secretColumns names table %s, which is not in the model", name)
			continue
		}
		for _, column := range columns {
			c, ok := table.Column(column)
			if !ok || !c.Secret {
				t.Errorf("%s.%s is not marked secret", name, column)
			}
			if slices.Contains(table.DefaultSelect(), column) {
				t.Errorf("%s.%s is selected by default", name, column)
			}
		}
	}
}

func TestSQLTypes(t *testing.T) {
	for text, want := range map[string]Type{
		"uniqueidentifier": {Kind: Guid}, "nvarchar(254)": {Kind: String, MaxLength: 254}, "nvarchar(max)": {Kind: String},
		"char(3)": {Kind: String, MaxLength: 3}, "timestamp": {Kind: Binary, MaxLength: 8}, "decimal(14, 2)": {Kind: Decimal, Precision: 14, Scale: 2},
		"decimal": {Kind: Decimal, Precision: 18}, "numeric(5)": {Kind: Decimal, Precision: 5}, "money": {Kind: Decimal, Precision: 19, Scale: 4},
		"smallmoney": {Kind: Decimal, Precision: 10, Scale: 4}, "bit": {Kind: Boolean}, "tinyint": {Kind: Byte}, "smallint": {Kind: Int16},
		"int": {Kind: Int32}, "bigint": {Kind: Int64}, "float": {Kind: Double}, "date": {Kind: Date}, "datetime": {Kind: DateTime},
		"time": {Kind: TimeOfDay}, "varbinary": {Kind: Binary}, "VARBINARY(16)": {Kind: Binary, MaxLength: 16},
	} {
		if got, err := sqlType(text); err != nil || got != want {
			t.Errorf("sqlType(%q) = %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "geography", "decimal(", "decimal(a)", "decimal(5", "nvarchar(-1)"} {
		if got, err := sqlType(text); err == nil {
			t.Errorf("sqlType(%q) = %+v, want an error", text, got)
		}
	}
}

func TestBrokenTableModelsAreRefused(t *testing.T) {
	for _, text := range []string{
		`[`, `{"columns":[{"name":"A","type":"blob"}]}`,
		`{"columns":[{"name":"A","type":"int","filters":["Near"]}]}`,
		`{"columns":[{"name":"A","type":"int"},{"name":"A","type":"int"}]}`,
		`{"columns":[{"name":"A","type":"decimal(39, 2)"}]}`,
		`{"columns":[{"name":"","type":"int"}]}`,
	} {
		if _, err := decodeTable("T", text); err == nil {
			t.Errorf("%s is accepted", text)
		}
	}
	if _, err := decodeTable("", `{"columns":[]}`); err == nil {
		t.Error("a table without a name is accepted")
	}
	for _, text := range []string{"", "{", "{}", "[\n]", "{\n{}\n}", "{\n\"A\"\n}", "{\n\"A\":{},\n\"A\":{}\n}"} {
		if _, err := documented(text); err == nil {
			t.Errorf("%s is accepted", text)
		}
	}
}

func TestNew(t *testing.T) {
	a := Table{Name: "T", Columns: []Column{{Name: "Id", Nullable: true}, {Name: "id"}}, Key: []string{"Id"}}
	m, err := New(a)
	if err != nil {
		t.Fatal(err)
	}
	table, _ := m.Table("T")
	if c, ok := table.Column("Id"); !ok || !c.Key || c.Nullable {
		t.Errorf("key column: %+v, %v", c, ok)
	}
	if c, ok := table.Column("id"); !ok || c.Name != "id" {
		t.Error("names are not exact")
	}
	if _, ok := table.Column("ID"); ok {
		t.Error("names are not exact")
	}
	if a.Columns[0].Key {
		t.Error("New changed its argument")
	}
	if _, err := New(a, a); err == nil {
		t.Error("a table twice is accepted")
	}
	if _, err := New(Table{Name: "T", Key: []string{"X"}}); err == nil {
		t.Error("a key without its column is accepted")
	}
}

func TestTypes(t *testing.T) {
	for typ, want := range map[Type]struct {
		text  string
		arrow string
	}{
		{Kind: Guid}:                             {"Edm.Guid", "utf8"},
		{Kind: String, MaxLength: 5}:             {"Edm.String", "utf8"},
		{Kind: MultiLanguage}:                    {"Edm.String(multi-language)", "utf8"},
		{Kind: Boolean}:                          {"Edm.Boolean", "bool"},
		{Kind: Byte}:                             {"Edm.Byte", "int16"},
		{Kind: Int16}:                            {"Edm.Int16", "int16"},
		{Kind: Int32}:                            {"Edm.Int32", "int32"},
		{Kind: Int64}:                            {"Edm.Int64", "int64"},
		{Kind: Decimal, Precision: 14, Scale: 2}: {"Edm.Decimal(14,2)", "decimal(14, 2)"},
		{Kind: Double}:                           {"Edm.Double", "float64"},
		{Kind: Date}:                             {"Edm.Date", "date32"},
		{Kind: DateTime}:                         {"Edm.DateTimeOffset", "timestamp[us, tz=UTC]"},
		{Kind: TimeOfDay}:                        {"Edm.TimeOfDay", "utf8"},
		{Kind: Binary}:                           {"Edm.Binary", "binary"},
		{}:                                       {"unsupported", "null"},
	} {
		if typ.String() != want.text || typ.Arrow().String() != want.arrow {
			t.Errorf("%+v is %q, %q; want %q, %q", typ, typ, typ.Arrow(), want.text, want.arrow)
		}
	}
	if !arrow.TypeEqual(Type{Kind: Decimal, Precision: 38, Scale: 18}.Arrow(), &arrow.Decimal128Type{Precision: 38, Scale: 18}) {
		t.Error("decimal(38,18)")
	}
	if got := (OpEq | OpIn | OpRange | OpLike).String(); got != "eq, in, ge, le, like" {
		t.Error(got)
	}
	if got := Ops(0).String(); got != "none" {
		t.Error(got)
	}
}

func TestSuggest(t *testing.T) {
	m := Embedded()
	for name, want := range map[string]string{
		"crm_sales_order_lines": "Crm_Sales_Order_Lines", "Crm_Sale_Order_Lines": "Crm_Sales_Order_Lines", "Documents": "Gen_Documents",
	} {
		if got := m.Suggest(name); !slices.Contains(got, want) || len(got) > 3 {
			t.Errorf("Suggest(%q) = %q, want %s among them", name, got, want)
		}
	}
	for _, name := range []string{"", "Qwertyuiop", strings.Repeat("x", 10_000)} {
		if got := m.Suggest(name); got != nil {
			t.Errorf("Suggest(%.20q) = %q", name, got)
		}
	}
	if got := distance("kitten", "sitting", 5); got != 3 {
		t.Errorf("distance = %d", got)
	}
	if got := distance("kitten", "sitting", 2); got != 3 {
		t.Errorf("bounded distance = %d", got)
	}
}

// What a run takes of the embedded model: a table, and the names of all.
func BenchmarkEmbedded(b *testing.B) {
	for b.Loop() {
		m, err := documented(tablesJSON)
		if err != nil {
			b.Fatal(err)
		}
		if _, ok := m.Table("Crm_Sales_Order_Lines"); !ok {
			b.Fatal("the table is not there")
		}
	}
}

// The file is JSON, and has the tables that its lines say. Every one can be decoded: a broken one would otherwise be found by whoever asks for it.
func TestTablesFile(t *testing.T) {
	var whole map[string]json.RawMessage
	if err := json.Unmarshal([]byte(tablesJSON), &whole); err != nil {
		t.Fatal(err)
	}
	m, err := documented(tablesJSON)
	if err != nil {
		t.Fatal(err)
	}
	if len(whole) != len(m.Tables()) {
		t.Errorf("%d tables, and lines for %d", len(whole), len(m.Tables()))
	}
	for name, text := range whole {
		if _, err := decodeTable(name, string(text)); err != nil {
			t.Error(err)
		}
		if table, ok := m.Table(name); !ok || table.Name != name {
			t.Errorf("table %s is not found", name)
		}
	}
}
