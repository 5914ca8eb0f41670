package odata

import (
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/tablexport/tablexport/odata/edm"
)

func TestArrowSchema(t *testing.T) {
	table := decodeTable(t)
	s, err := ArrowSchema(table, []string{"Price", "Id", "At"})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		name     string
		kind     arrow.DataType
		nullable bool
		edm      string
		comment  string
	}{
		{"Price", &arrow.Decimal128Type{Precision: 14, Scale: 2}, true, "Edm.Decimal(14,2)", ""},
		{"Id", arrow.BinaryTypes.String, false, "Edm.Guid", "the key"},
		{"At", &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"}, true, "Edm.DateTimeOffset", ""},
	} {
		f := s.Field(i)
		comment, _ := f.Metadata.GetValue("comment")
		kind, _ := f.Metadata.GetValue("edm")
		if f.Name != want.name || !arrow.TypeEqual(f.Type, want.kind) || f.Nullable != want.nullable || kind != want.edm || comment != want.comment {
			t.Errorf("field %d is %v", i, f)
		}
	}
	if s.NumFields() != 3 {
		t.Errorf("%d fields", s.NumFields())
	}
}

func TestArrowSchemaRefuses(t *testing.T) {
	table := tableOf(t, edm.Column{Name: "A", Type: edm.Type{Kind: edm.String}}, edm.Column{Name: "Geo"})
	broken := &edm.Table{Name: "T", Columns: table.Columns}
	for want, columns := range map[string][]string{
		"no column is selected": nil,
		`has no column "a"`:     {"a"},
		"A is selected twice":   {"A", "A"},
		"is not supported":      {"Geo"},
	} {
		_, err := ArrowSchema(table, columns)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", columns, err)
		}
		if _, err := newDecoder(table, columns, 0, nil); err == nil {
			t.Errorf("%v: a decoder was made", columns)
		}
	}
	if _, err := ArrowSchema(broken, []string{"A"}); err == nil {
		t.Error("a table that no model made has columns")
	}
	if _, err := ArrowSchema(nil, []string{"A"}); err == nil {
		t.Error("no table has columns")
	}
	if err := checkType(edm.Type{Kind: edm.Decimal, Precision: 39}); err == nil {
		t.Error("a decimal of 39 digits can be stored")
	}
}
