package parquet

import (
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/decimal128"
	"github.com/apache/arrow/go/v17/arrow/memory"
)

// orderLines is the shape of a table of sales order lines: an identifier, references to other tables, numbers, dates and texts.
// More columns than 20 repeat these.
func orderLines(columns int) *arrow.Schema {
	guid := func(name string) arrow.Field {
		return arrow.Field{Name: name, Type: arrow.BinaryTypes.String, Nullable: true}
	}
	dec := func(name string, p, s int32) arrow.Field {
		return arrow.Field{Name: name, Type: &arrow.Decimal128Type{Precision: p, Scale: s}, Nullable: true}
	}
	of := func(name string, t arrow.DataType) arrow.Field {
		return arrow.Field{Name: name, Type: t, Nullable: true}
	}
	one := []arrow.Field{
		guid("Id"), guid("Order"), guid("Product"), guid("Unit"), guid("Store"), guid("ParentLine"), guid("Lot"),
		of("Line", arrow.PrimitiveTypes.Int32), dec("Quantity", 12, 3), dec("Price", 15, 5), dec("Discount", 7, 6), dec("Amount", 18, 2), dec("Cost", 28, 5),
		of("Required", arrow.FixedWidthTypes.Date32), of("Created", arrow.FixedWidthTypes.Timestamp_us), of("Closed", arrow.FixedWidthTypes.Boolean),
		of("Description", arrow.BinaryTypes.String), of("Notes", arrow.BinaryTypes.String), of("Version", arrow.PrimitiveTypes.Int64), of("State", arrow.BinaryTypes.String),
	}
	one[0].Nullable = false
	var fields []arrow.Field
	for i := 0; len(fields) < columns; i++ {
		f := one[i%len(one)]
		if i >= len(one) {
			f.Name = fmt.Sprint(f.Name, i/len(one))
			f.Nullable = true
		}
		fields = append(fields, f)
	}
	return arrow.NewSchema(fields, nil)
}

func guidText(hi, lo uint64) string {
	return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", hi>>32, hi>>16&0xffff, hi&0xffff, lo>>48, lo&(1<<48-1))
}

// orderLine draws the values of one row after another.
type orderLine struct {
	r                             *rand.Rand
	order                         string
	line, product                 int
	at                            int64
	products, units, stores, lots []string
	words, states                 []string
}

func newOrderLine() *orderLine {
	r := rand.New(rand.NewPCG(4, 2))
	pool := func(n int) (list []string) {
		for range n {
			list = append(list, guidText(r.Uint64(), r.Uint64()))
		}
		return list
	}
	return &orderLine{
		r: r, order: guidText(r.Uint64(), r.Uint64()), at: 1_700_000_000_000_000,
		products: pool(3000), units: pool(12), stores: pool(40), lots: pool(20_000),
		words:  []string{"steel", "bolt", "стол дъбов", "Größe", "spare part", "delivery", "M8x40", "DIN 933", "blue", "230V"},
		states: []string{"New", "Planned", "Released", "Completed", "Void"},
	}
}

// next goes to the next line: of the same order, or the first of another.
func (o *orderLine) next() {
	if o.line++; o.r.IntN(6) == 0 {
		o.order, o.line, o.at = guidText(o.r.Uint64(), o.r.Uint64()), 1, o.at+o.r.Int64N(90_000_000)
	}
	o.product = o.r.IntN(len(o.products))
}

// orderLineBatches draws rows in batches: orders of a few lines, thousands of products, a few units and stores.
func orderLineBatches(columns, rows, batch int) []arrow.Record {
	s, o := orderLines(columns), newOrderLine()
	b := array.NewRecordBuilder(memory.DefaultAllocator, s)
	var recs []arrow.Record
	for range rows / batch {
		for range batch {
			o.next()
			for i, f := range s.Fields() {
				o.append(b.Field(i), i%20, f.Nullable)
			}
		}
		recs = append(recs, b.NewRecord())
	}
	return recs
}

func (o *orderLine) append(b array.Builder, column int, nullable bool) {
	r := o.r
	text := func(v string) { b.(*array.StringBuilder).Append(v) }
	dec := func(v int64) { b.(*array.Decimal128Builder).Append(decimal128.FromI64(v)) }
	if nullable && (column == 5 && r.IntN(10) > 0 || (column == 6 || column == 17) && r.IntN(2) == 0 || r.IntN(50) == 0) {
		b.AppendNull()
		return
	}
	switch column {
	case 0:
		text(guidText(r.Uint64(), r.Uint64()))
	case 1, 5:
		text(o.order)
	case 2:
		text(o.products[o.product])
	case 3:
		text(o.units[o.product%len(o.units)])
	case 4:
		text(o.stores[r.IntN(len(o.stores))])
	case 6:
		text(o.lots[r.IntN(len(o.lots))])
	case 7:
		b.(*array.Int32Builder).Append(int32(o.line))
	case 8:
		dec(int64(1+r.IntN(100)) * 1000)
	case 9:
		dec(int64(o.product*7919%90000) * 1000)
	case 10:
		dec(int64(r.IntN(5)) * 50_000)
	case 11:
		dec(int64(r.IntN(1_000_000)))
	case 12:
		dec(int64(o.product*104729%1_000_000) * 100)
	case 13:
		b.(*array.Date32Builder).Append(arrow.Date32(o.at/86_400_000_000 + int64(r.IntN(30))))
	case 14:
		b.(*array.TimestampBuilder).Append(arrow.Timestamp(o.at + int64(o.line)*1000))
	case 15:
		b.(*array.BooleanBuilder).Append(r.IntN(4) == 0)
	case 16:
		text(o.words[o.product%len(o.words)] + " " + o.words[o.product/10%len(o.words)] + fmt.Sprint(" ", o.product))
	case 17:
		text(o.words[r.IntN(len(o.words))] + " " + o.words[r.IntN(len(o.words))] + " " + o.words[r.IntN(len(o.words))])
	case 18:
		b.(*array.Int64Builder).Append(o.at<<10 + int64(r.IntN(1024)))
	case 19:
		text(o.states[r.IntN(len(o.states))])
	}
}

// BenchmarkOrderLines writes files of two row groups and reports time a row and the size of a million rows.
func BenchmarkOrderLines(b *testing.B) {
	for _, columns := range []int{20, 60} {
		const rows = 131_072
		recs := orderLineBatches(columns, rows, 2048)
		for _, c := range benchOptions() {
			b.Run(fmt.Sprintf("columns=%d/%s", columns, c.name), func(b *testing.B) {
				c.opts.Key = []string{"Id"}
				b.ReportAllocs()
				size, written := int64(0), 0
				for b.Loop() {
					w, err := NewWriter(io.Discard, orderLines(columns), c.opts)
					if err != nil {
						b.Fatal(err)
					}
					for range 2 {
						for _, rec := range recs {
							if err := w.Write(rec); err != nil {
								b.Fatal(err)
							}
						}
					}
					f, err := w.Close()
					if err != nil {
						b.Fatal(err)
					}
					size, written = size+f.Size, written+int(f.Rows)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(written), "ns/row")
				b.ReportMetric(float64(size)/float64(written), "MB/Mrow")
			})
		}
	}
}

type benchOption struct {
	name string
	opts Options
}

func benchOptions() []benchOption {
	return []benchOption{{"default", Options{}}, {"low memory", Options{LowMemory: true}}}
}
