package scope_test

import (
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/filter"
	"github.com/tablexport/tablexport/odata/scope"
)

// BenchmarkCheck is the cost of proving rows: one rule of two GUIDs over records of 2,048 rows.
func BenchmarkCheck(b *testing.B) {
	const stores = "Line_Store_Id in (744a53a4-1c04-0000-8344-66fd62ca0eb0,fdf3750b-1103-0000-8344-2cb54cf98610)"
	model := edm.Embedded()
	table, ok := model.Table("Crm_Sales_Order_Lines")
	if !ok {
		b.Fatal("no such table")
	}
	where, err := filter.Compile(stores, model, table)
	if err != nil {
		b.Fatal(err)
	}
	schema := arrow.NewSchema([]arrow.Field{{Name: "Line_No", Type: arrow.PrimitiveTypes.Int32}, {Name: "Line_Store_Id", Type: arrow.BinaryTypes.String, Nullable: true}}, nil)
	s, err := scope.New(scope.Rules{Name: "shops", Where: where}, schema, []string{"Line_No"})
	if err != nil {
		b.Fatal(err)
	}
	rows := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer rows.Release()
	const n = 2048
	for i := range n {
		rows.Field(0).(*array.Int32Builder).Append(int32(i))
		rows.Field(1).(*array.StringBuilder).Append([]string{"744a53a4-1c04-0000-8344-66fd62ca0eb0", "fdf3750b-1103-0000-8344-2cb54cf98610"}[i%2])
	}
	rec := rows.NewRecord()
	defer rec.Release()
	for b.Loop() {
		checked, err := s.Check(rec)
		if err != nil {
			b.Fatal(err)
		}
		checked.Release()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/row")
}
