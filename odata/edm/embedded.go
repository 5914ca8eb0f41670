package edm

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
)

//go:embed tables.json
var tablesJSON string // its tables refer to it: nothing is copied

// Embedded returns the vendor's documented tables (ERP.net, ErpNetDocs/model, CC BY 4.0). A table is decoded when it is first
// asked for: a run asks for one or two of seven hundred, and all of them take longer than copying a small table.
func Embedded() *Model { return embedded() }

var embedded = sync.OnceValue(func() *Model {
	m, err := documented(tablesJSON)
	if err != nil {
		panic("edm: the embedded table model is broken: " + err.Error()) // a build fault: tests decode it
	}
	return m
})

// documented reads the form of tables.json: an object with a line for each table, its name first.
func documented(text string) (*Model, error) {
	m := &Model{tables: map[string]func() *Table{}}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) < 2 || lines[0] != "{" || lines[len(lines)-1] != "}" {
		return nil, errors.New("it is no object with a line for each table")
	}
	for _, line := range lines[1 : len(lines)-1] {
		name, ok := strings.CutPrefix(line, `"`)
		name, rest, ok2 := strings.Cut(name, `":`)
		if !ok || !ok2 {
			return nil, fmt.Errorf("a line begins with %.20q, and not with the name of a table", line)
		}
		if m.tables[name] != nil {
			return nil, fmt.Errorf("table %s is there twice", name)
		}
		m.names = append(m.names, name)
		m.tables[name] = sync.OnceValue(func() *Table {
			t, err := decodeTable(name, strings.TrimSuffix(rest, ","))
			if err != nil {
				panic("edm: the embedded table model is broken: " + err.Error()) // as above
			}
			return t
		})
	}
	slices.Sort(m.names)
	return m, nil
}

// documentedTable is a table in tables.json.
type documentedTable struct {
	Entity  string   `json:"entity"`
	Owners  []string `json:"owners"`
	Columns []struct {
		Name          string   `json:"name"`
		Type          string   `json:"type"`
		Nullable      bool     `json:"nullable"`
		PrimaryKey    bool     `json:"primary_key"`
		OwnerRef      bool     `json:"owner_ref"`
		References    string   `json:"references"`
		MultiLanguage bool     `json:"multi_language"`
		EqualsIn      bool     `json:"equals_in"`
		Sortable      bool     `json:"sortable"`
		Allowed       []string `json:"allowed"`
		Filters       []string `json:"filters"`
	} `json:"columns"`
}

// decodeTable makes a table of its documentedTable as JSON.
func decodeTable(name, text string) (*Table, error) {
	var d documentedTable
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		return nil, fmt.Errorf("table %s: %w", name, err)
	}
	t := &Table{Name: name, Entity: d.Entity, Owners: d.Owners, Columns: make([]Column, 0, len(d.Columns))}
	for _, dc := range d.Columns {
		typ, err := sqlType(dc.Type)
		if err != nil {
			return nil, fmt.Errorf("table %s, column %s: %w", name, dc.Name, err)
		}
		if dc.MultiLanguage && typ.Kind == String {
			typ.Kind = MultiLanguage
		}
		ops, err := documentedOps(dc.Filters, dc.EqualsIn)
		if err != nil {
			return nil, fmt.Errorf("table %s, column %s: %w", name, dc.Name, err)
		}
		c := Column{
			Name: dc.Name, Type: typ, Source: dc.Type, Nullable: dc.Nullable, Key: dc.PrimaryKey,
			OwnerRef: dc.OwnerRef, References: dc.References, Ops: ops, OpsKnown: true,
			Sortable: dc.Sortable, Allowed: dc.Allowed, Secret: secret(name, dc.Name),
		}
		if c.References != "" {
			c.Navigation = navigation(c.Name)
		}
		c.Comment, c.described = comment(&c, ""), true
		t.Columns = append(t.Columns, c)
	}
	return t, t.index()
}

// navigation is the vendor's rule for the path segment that follows a reference column:
// Sales_Order_Id is followed as Sales_Order_Reference. For a column that does not end in _Id the rule
// says nothing, and only the instance's $metadata can name the segment.
func navigation(column string) string {
	stem, ok := strings.CutSuffix(column, "_Id")
	if !ok || stem == "" {
		return ""
	}
	return stem + "_Reference"
}

func documentedOps(filters []string, in bool) (ops Ops, err error) {
	for _, f := range filters {
		switch f {
		case "Equals":
			ops |= OpEq
		case "GreaterThanOrLessThan":
			ops |= OpRange
		case "Like":
			ops |= OpLike
		default:
			return 0, fmt.Errorf("unknown filter kind %q", f)
		}
	}
	if in {
		ops |= OpIn
	}
	return ops, nil
}

// sqlType maps a SQL Server type, as the vendor's documentation writes it, to the type that the Table
// API serves: "decimal(14, 2)", "nvarchar(max)"; "timestamp" is the 8-byte row version, not a time.
func sqlType(text string) (Type, error) {
	name, args, err := sqlTypeArgs(text)
	if err != nil {
		return Type{}, err
	}
	switch name {
	case "uniqueidentifier":
		return Type{Kind: Guid}, nil
	case "nvarchar", "varchar", "nchar", "char", "ntext", "text", "xml":
		return Type{Kind: String, MaxLength: first(args)}, nil
	case "bit":
		return Type{Kind: Boolean}, nil
	case "tinyint":
		return Type{Kind: Byte}, nil
	case "smallint":
		return Type{Kind: Int16}, nil
	case "int":
		return Type{Kind: Int32}, nil
	case "bigint":
		return Type{Kind: Int64}, nil
	case "decimal", "numeric":
		t := Type{Kind: Decimal, Precision: 18} // SQL Server's default is decimal(18, 0)
		if len(args) > 0 {
			t.Precision = args[0]
		}
		if len(args) > 1 {
			t.Scale = args[1]
		}
		return t, nil
	case "money":
		return Type{Kind: Decimal, Precision: 19, Scale: 4}, nil
	case "smallmoney":
		return Type{Kind: Decimal, Precision: 10, Scale: 4}, nil
	case "float", "real":
		return Type{Kind: Double}, nil
	case "date":
		return Type{Kind: Date}, nil
	case "datetime", "datetime2", "smalldatetime", "datetimeoffset":
		return Type{Kind: DateTime}, nil
	case "time":
		return Type{Kind: TimeOfDay}, nil
	case "varbinary", "binary", "image":
		return Type{Kind: Binary, MaxLength: first(args)}, nil
	case "timestamp", "rowversion":
		return Type{Kind: Binary, MaxLength: 8}, nil
	}
	return Type{}, fmt.Errorf("unknown SQL type %q", text)
}

// sqlTypeArgs splits "decimal(14, 2)" into its lower-case name and numbers; max is 0.
func sqlTypeArgs(text string) (name string, args []int32, err error) {
	name, rest, has := strings.Cut(strings.ToLower(strings.TrimSpace(text)), "(")
	if !has {
		return name, nil, nil
	}
	inner, ok := strings.CutSuffix(rest, ")")
	if !ok {
		return "", nil, fmt.Errorf("unknown SQL type %q", text)
	}
	for part := range strings.SplitSeq(inner, ",") {
		part = strings.TrimSpace(part)
		if part == "max" {
			args = append(args, 0)
			continue
		}
		n, err := strconv.ParseUint(part, 10, 31)
		if err != nil {
			return "", nil, fmt.Errorf("unknown SQL type %q", text)
		}
		args = append(args, int32(n))
	}
	return strings.TrimSpace(name), args, nil
}

func first(args []int32) int32 {
	if len(args) == 0 {
		return 0
	}
	return args[0]
}

// words names a kind for people who never heard of Edm.
func (k Kind) words() string {
	return [...]string{
		Invalid: "unsupported type", Guid: "GUID as lowercase text", String: "text",
		MultiLanguage: "multi-language text as JSON", Boolean: "true or false", Byte: "whole number 0 to 255",
		Int16: "whole number, 16 bits", Int32: "whole number, 32 bits", Int64: "whole number, 64 bits",
		Decimal: "decimal", Double: "floating-point number", Date: "date", DateTime: "date and time in UTC",
		TimeOfDay: "time of day as text", Binary: "binary",
	}[k]
}

// secretColumns are the columns of the documented model that hold secret material: what opens a
// session, decrypts a password or proves an identity. They are never selected and never filtered on (a
// filter on a secret is an oracle for it). The test beside this list makes every new suspicious column
// of the model a decision.
var secretColumns = map[string][]string{
	"Ext_Public_Users":         {"Password_Hash", "Password_Recovery_Code"},
	"Llm_Providers":            {"Provider_Api_Key"},
	"Mail_Boxes":               {"Sync_Password"},
	"Pos_Operators":            {"Pin_Code"},
	"Sec_Access_Tokens":        {"Access_Token_Key", "Data"},
	"Sec_Domain_Providers":     {"Client_Secret"},
	"Sec_Trusted_Applications": {"Application_Secret_Hash"},
	"Sec_User_Devices":         {"Notifications_Token"},
	"Sec_User_Provider_Tokens": {"Token_Value"},
	"Sec_Users":                {"Password"},
	"Sys_Web_Hosts":            {"Certificate_Contents", "Certificate_Password"},
}

// secret reports whether a documented column holds secret material.
func secret(table, column string) bool { return slices.Contains(secretColumns[table], column) }
