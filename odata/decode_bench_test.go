package odata

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/tablexport/tablexport/odata/edm"
)

// benchTable and benchPage resemble order lines: 20 columns, 800 bytes of JSON a row.
func benchTable(tb testing.TB) *edm.Table {
	c := func(name string, k edm.Kind) edm.Column {
		return edm.Column{Name: name, Type: edm.Type{Kind: k}, Nullable: true}
	}
	dec := func(name string, p, s int32) edm.Column {
		return edm.Column{Name: name, Type: edm.Type{Kind: edm.Decimal, Precision: p, Scale: s}, Nullable: true}
	}
	return tableOf(tb,
		edm.Column{Name: "Sales_Order_Line_Id", Type: edm.Type{Kind: edm.Guid}, Key: true},
		c("Sales_Order_Id", edm.Guid), c("Product_Id", edm.Guid), c("Line_Store_Id", edm.Guid), c("Quantity_Unit_Id", edm.Guid),
		c("Line_No", edm.Int32), c("Line_Order", edm.Int64), c("Is_Promotional", edm.Boolean), c("Bonus_Program", edm.Guid),
		dec("Quantity", 18, 3), dec("Quantity_Base", 18, 3), dec("Unit_Price", 18, 5), dec("Line_Amount", 18, 2),
		dec("Line_Custom_Discount_Percent", 9, 4), dec("Line_Standard_Discount_Percent", 9, 4),
		c("Requested_Quantity_Confirm_Time", edm.DateTime), c("Update_Time", edm.DateTime), c("Line_From_Date", edm.Date),
		c("Notes", edm.String), c("Product_Description", edm.String),
	)
}

func benchPage(rows int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	guid := func() string {
		return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", r.Uint32(), r.UintN(1<<16), r.UintN(1<<16), r.UintN(1<<16), r.Uint64N(1<<48))
	}
	texts := []string{"standard delivery", "срочно, обади се преди доставка", `leave at \"gate 3\"`, "", "fragile"}
	var b bytes.Buffer
	b.WriteString(`{"@odata.context":"https://acme.my.erp.net/tableapi/odata/$metadata#Crm_Sales_Order_Lines","value":[`)
	for i := range rows {
		if i > 0 {
			b.WriteByte(',')
		}
		notes := `"` + texts[r.IntN(len(texts))] + `"`
		if r.IntN(3) == 0 {
			notes = "null"
		}
		fmt.Fprintf(&b, `{"Sales_Order_Line_Id":"%s","Sales_Order_Id":"%s","Product_Id":"%s","Line_Store_Id":"%s","Quantity_Unit_Id":"%s",`, guid(), guid(), guid(), guid(), guid())
		fmt.Fprintf(&b, `"Line_No":%d,"Line_Order":%d,"Is_Promotional":%t,"Bonus_Program":null,`, r.IntN(100), r.Int64N(1e9), r.IntN(2) == 0)
		fmt.Fprintf(&b, `"Quantity":%d.%03d,"Quantity_Base":%d.%03d,"Unit_Price":%d.%05d,"Line_Amount":%d.%02d,"Line_Custom_Discount_Percent":0.0000,"Line_Standard_Discount_Percent":0.%04d,`,
			r.IntN(1000), r.IntN(1000), r.IntN(1000), r.IntN(1000), r.IntN(1000), r.IntN(100000), r.IntN(100000), r.IntN(100), r.IntN(10000))
		fmt.Fprintf(&b, `"Requested_Quantity_Confirm_Time":"2024-%02d-%02dT%02d:%02d:%02d.%03dZ","Update_Time":"2025-%02d-%02dT%02d:%02d:%02dZ","Line_From_Date":"2024-%02d-%02d",`,
			r.IntN(12)+1, r.IntN(28)+1, r.IntN(24), r.IntN(60), r.IntN(60), r.IntN(1000), r.IntN(12)+1, r.IntN(28)+1, r.IntN(24), r.IntN(60), r.IntN(60), r.IntN(12)+1, r.IntN(28)+1)
		fmt.Fprintf(&b, `"Notes":%s,"Product_Description":"Product %d, standard packaging"}`, notes, r.IntN(5000))
	}
	b.WriteString(`]}`)
	return b.Bytes()
}

// BenchmarkDecode reports MB of JSON per CPU second, and how many times that is what encoding/json needs to say no more
// of the same bytes than that they are JSON: rounds of both by turns, of each the one that took the least.
func BenchmarkDecode(b *testing.B) {
	data := benchPage(10_000)
	d, err := newDecoder(benchTable(b), columnNames(benchTable(b)), 2048, new(recycler)) // as a scan has it
	if err != nil {
		b.Fatal(err)
	}
	decode := func() {
		a, err := d.decode(bytes.NewReader(data), 0, func(arrow.Record) error { return nil })
		if err != nil || a.rows != 10_000 {
			b.Fatal(a, err)
		}
	}
	valid := func() {
		if !json.Valid(data) {
			b.Fatal("not JSON")
		}
	}
	b.ReportAllocs()
	const passes = 5 // of the decoder for one of the other
	var decoded, least, leastValid time.Duration
	for b.Loop() {
		t0 := cpuTime()
		for range passes {
			decode()
		}
		t1 := cpuTime()
		valid()
		t2 := cpuTime()
		decoded += t1 - t0
		if least == 0 || t1-t0 < least {
			least = t1 - t0
		}
		if leastValid == 0 || t2-t1 < leastValid {
			leastValid = t2 - t1
		}
	}
	b.ReportMetric(passes*float64(leastValid)/float64(least), "xValid") // what disturbs one of them makes it longer, never shorter
	b.ReportMetric(passes*float64(len(data))*float64(b.N)/decoded.Seconds()/1e6, "MB/CPU-s")
}
