package odata

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/google/go-cmp/cmp"

	"github.com/tablexport/tablexport/odata/edm"
)

// decodeTable has a column of every kind.
func decodeTable(tb testing.TB) *edm.Table {
	tb.Helper()
	null := func(name string, t edm.Type) edm.Column { return edm.Column{Name: name, Type: t, Nullable: true} }
	return tableOf(tb,
		edm.Column{Name: "Id", Type: edm.Type{Kind: edm.Guid}, Key: true, Comment: "the key"},
		null("Name", edm.Type{Kind: edm.String}),
		null("Label", edm.Type{Kind: edm.MultiLanguage}),
		null("Void", edm.Type{Kind: edm.Boolean}),
		null("B", edm.Type{Kind: edm.Byte}),
		null("I16", edm.Type{Kind: edm.Int16}),
		null("I32", edm.Type{Kind: edm.Int32}),
		null("I64", edm.Type{Kind: edm.Int64}),
		null("Price", edm.Type{Kind: edm.Decimal, Precision: 14, Scale: 2}),
		null("Big", edm.Type{Kind: edm.Decimal, Precision: 38, Scale: 10}),
		null("F", edm.Type{Kind: edm.Double}),
		null("Day", edm.Type{Kind: edm.Date}),
		null("At", edm.Type{Kind: edm.DateTime}),
		null("Clock", edm.Type{Kind: edm.TimeOfDay}),
		null("Bin", edm.Type{Kind: edm.Binary}),
	)
}

func tableOf(tb testing.TB, columns ...edm.Column) *edm.Table {
	tb.Helper()
	m, err := edm.New(edm.Table{Name: "T", Columns: columns})
	if err != nil {
		tb.Fatal(err)
	}
	t, _ := m.Table("T")
	return t
}

func columnNames(t *edm.Table) []string {
	var s []string
	for _, c := range t.Columns {
		s = append(s, c.Name)
	}
	return s
}

func decoderOf(tb testing.TB, t *edm.Table, batch int, columns ...string) *decoder {
	tb.Helper()
	if len(columns) == 0 {
		columns = columnNames(t)
	}
	d, err := newDecoder(t, columns, batch, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// cells renders a record, a row per line of cells.
func cellsOf(r arrow.Record) [][]string {
	rows := make([][]string, r.NumRows())
	for i := range rows {
		for _, c := range r.Columns() {
			rows[i] = append(rows[i], cellOf(c, i))
		}
	}
	return rows
}

func cellOf(c arrow.Array, i int) string {
	if c.IsNull(i) {
		return "null"
	}
	switch c := c.(type) {
	case *array.String:
		return c.Value(i)
	case *array.Binary:
		return fmt.Sprintf("%x", c.Value(i))
	case *array.Timestamp:
		return fmt.Sprint(int64(c.Value(i)))
	case *array.Date32:
		return fmt.Sprint(int32(c.Value(i)))
	case *array.Decimal128:
		// The integer and the scale, with nothing of arrow's own formatting in between.
		text := c.Value(i).BigInt().String()
		scale := int(c.DataType().(*arrow.Decimal128Type).Scale)
		sign := ""
		if text[0] == '-' {
			sign, text = "-", text[1:]
		}
		if len(text) <= scale {
			text = strings.Repeat("0", scale-len(text)+1) + text
		}
		return sign + text[:len(text)-scale] + "." + text[len(text)-scale:]
	}
	return c.ValueStr(i)
}

// outcome is all that decode lets a caller see.
type outcome struct {
	Rows   [][]string
	Sizes  []int64 // rows per record
	Answer answer
	Err    string
}

func runDecode(d *decoder, r io.Reader, base int64) (outcome, error) {
	var o outcome
	a, err := d.decode(r, base, func(rec arrow.Record) error {
		o.Rows = append(o.Rows, cellsOf(rec)...)
		o.Sizes = append(o.Sizes, rec.NumRows())
		return nil
	})
	o.Answer = a
	if err != nil {
		o.Err = err.Error()
	}
	return o, err
}

// page is an answer of the given rows.
func answerOf(rows ...string) string {
	return `{"@odata.context":"$metadata#T","value":[` + strings.Join(rows, ",") + `]}`
}

var equalOutcomes = cmp.AllowUnexported(answer{})

func TestDecodeEveryKind(t *testing.T) {
	d := decoderOf(t, decodeTable(t), 0)
	full := `{"Id":"01234567-89AB-cdef-0123-456789abcdef","Name":"Ærø \"x\"","Label":{ "EN" : "a b", "BG":"\u0431" },
		"Void":true,"B":255,"I16":-32768,"I32":2147483647,"I64":9223372036854775807,"Price":-12.5,
		"Big":"1234567890123456789012345678.0123456789","F":1.5e-3,"Day":"1969-12-31","At":"1970-01-01T02:00:00.1234567+02:00",
		"Clock":"23:59:59.9999999","Bin":"3q2-7w=="}`
	nulls := `{"Id":"00000000-0000-0000-0000-000000000000","Name":null,"Label":null,"Void":null,"B":null,"I16":null,"I32":null,
		"I64":null,"Price":null,"Big":null,"F":null,"Day":null,"At":null,"Clock":null,"Bin":null}`
	got, err := runDecode(d, strings.NewReader(answerOf(full, nulls, full)), 0)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"01234567-89ab-cdef-0123-456789abcdef", `Ærø "x"`, `{"EN":"a b","BG":"\u0431"}`, "true", "255", "-32768", "2147483647",
		"9223372036854775807", "-12.50", "1234567890123456789012345678.0123456789", "0.0015", "-1", "123456", "23:59:59.9999999", "deadbeef"}
	null := append([]string{"00000000-0000-0000-0000-000000000000"}, strings.Split(strings.Repeat("null ", 14), " ")[:14]...)
	if diff := cmp.Diff([][]string{want, null, want}, got.Rows); diff != "" {
		t.Error(diff)
	}
	if a := got.Answer; a.rows != 3 || a.count != -1 || a.nextLink != "" || a.bytes == 0 {
		t.Errorf("answer = %+v", a)
	}
}

// Every value rule: a column, the value in JSON, and the cell it becomes or a piece of the error.
var valueRules = []struct {
	column, json, want string
	refused            bool
}{
	// GUIDs
	{"Id", `"01234567-89ab-cdef-0123-456789abcdef"`, "01234567-89ab-cdef-0123-456789abcdef", false},
	{"Id", `"FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"`, "ffffffff-ffff-ffff-ffff-ffffffffffff", false},
	{"Id", `"\u0030123456\u0037-89AB-cdef-0123-456789abcde\u0046"`, "01234567-89ab-cdef-0123-456789abcdef", false},
	{"Id", `"{01234567-89ab-cdef-0123-456789abcdef}"`, "expected a GUID", true},
	{"Id", `"0123456789abcdef0123456789abcdef"`, "expected a GUID", true},
	{"Id", `"01234567-89ab-cdef-0123-456789abcdeg"`, "expected a GUID", true},
	{"Id", `"01234567-89ab-cdef-0123-456789abcde"`, "expected a GUID", true},
	{"Id", `"01234567-89ab-cdef-0123-456789abcdef0"`, "expected a GUID", true},
	{"Id", `"01234567-89ab-cdef-0123_456789abcdef"`, "expected a GUID", true},
	{"Id", `"0123456à-89ab-cdef-0123-456789abcdef"`, "expected a GUID", true},
	{"Id", `""`, "expected a GUID", true},
	{"Id", `null`, "null, where the model allows none", true},
	{"Id", `5`, "expected a string, found a number", true},
	// strings
	{"Name", `""`, "", false},
	{"Name", `"a"`, "a", false},
	{"Name", `"\"\\\/\b\f\n\r\t\u0000é\ud83d\ude00😀"`, "\"\\/\b\f\n\r\t\x00é😀😀", false},
	{"Name", `"\uD83D\uDE00 and \u00e9 \uFFFF"`, "😀 and é \uffff", false},
	{"Name", `"\ud800"`, "half of a surrogate pair", true},
	{"Name", `"\ud800x"`, "half of a surrogate pair", true},
	{"Name", `"\ud800\n"`, "half of a surrogate pair", true},
	{"Name", `"\ud800\ud800"`, "half of a surrogate pair", true},
	{"Name", `"\ud800\u0041"`, "half of a surrogate pair", true},
	{"Name", `"\udc00"`, "half of a surrogate pair", true},
	{"Name", `1`, "expected a string, found a number", true},
	{"Name", `-1`, "expected a string, found a number", true},
	{"Name", `true`, "expected a string, found a boolean", true},
	{"Name", `{}`, "expected a string, found an object", true},
	{"Name", `[]`, "expected a string, found an array", true},
	// multi-language text
	{"Label", `"plain \"text\""`, `plain "text"`, false},
	{"Label", "{\n \"EN\" : \"a  b\" ,\t\"BG\": null, \"n\":[ 1.50 , true,false , {} , [ ] ] }", `{"EN":"a  b","BG":null,"n":[1.50,true,false,{},[]]}`, false},
	{"Label", `[ {"Language":"en", "Value":"x"} ]`, `[{"Language":"en","Value":"x"}]`, false},
	{"Label", `{}`, `{}`, false},
	{"Label", `{"a":"\ud800"}`, "half of a surrogate pair", true},
	{"Label", strings.Repeat("[", 64) + strings.Repeat("]", 64), strings.Repeat("[", 64) + strings.Repeat("]", 64), false},
	{"Label", strings.Repeat("[", 65) + strings.Repeat("]", 65), "nested deeper than 64", true},
	{"Label", `7`, "expected a language map or a string, found a number", true},
	// booleans
	{"Void", `true`, "true", false},
	{"Void", `false`, "false", false},
	{"Void", `1`, "expected a boolean, found a number", true},
	{"Void", `"true"`, "expected a boolean, found a string", true},
	// integers
	{"B", `0`, "0", false},
	{"B", `-0`, "0", false},
	{"B", `256`, "not between 0 and 255", true},
	{"B", `-1`, "not between 0 and 255", true},
	{"B", `25.5e1`, "255", false},
	{"I16", `32767`, "32767", false},
	{"I16", `32768`, "does not fit into 16 bits", true},
	{"I16", `-32769`, "does not fit into 16 bits", true},
	{"I32", `-2147483648`, "-2147483648", false},
	{"I32", `2147483648`, "does not fit into 32 bits", true},
	{"I32", `1.0`, "1", false},
	{"I32", `1e3`, "1000", false},
	{"I32", `1200e-2`, "12", false},
	{"I32", `0e999999999999999999999`, "0", false},
	{"I32", `1.5`, "expected an integer, found a number with a fraction", true},
	{"I32", `1e-1`, "expected an integer, found a number with a fraction", true},
	{"I32", `1e999999999999999999999`, "does not fit into 64 bits", true},
	{"I32", `1e-999999999999999999999`, "a number with a fraction", true},
	{"I32", `"5"`, "expected a number, found a string", true},
	{"I64", `-9223372036854775808`, "-9223372036854775808", false},
	{"I64", `9007199254740993`, "9007199254740993", false},
	{"I64", `9223372036854775808`, "does not fit into 64 bits", true},
	{"I64", `-9223372036854775809`, "does not fit into 64 bits", true},
	{"I64", `100000000000000000000`, "does not fit into 64 bits", true},
	{"I64", `922337203685477580.7e1`, "9223372036854775807", false},
	{"I64", `"9223372036854775807"`, "9223372036854775807", false},
	{"I64", `"-5"`, "-5", false},
	{"I64", `"\u0035"`, "5", false},
	{"I64", `" 5"`, "found a string that is none", true},
	{"I64", `"5 "`, "found a string that is none", true},
	{"I64", `"+5"`, "found a string that is none", true},
	{"I64", `"05"`, "found a string that is none", true},
	{"I64", `"5."`, "found a string that is none", true},
	{"I64", `"5\u0000"`, "found a string that is none", true},
	{"I64", `""`, "found a string that is none", true},
	{"I64", `true`, "expected a number, found a boolean", true},
	// decimals
	{"Price", `0`, "0.00", false},
	{"Price", `-0.00`, "0.00", false},
	{"Price", `1.5`, "1.50", false},
	{"Price", `1.500`, "1.50", false},
	{"Price", `1.5E2`, "150.00", false},
	{"Price", `1.5e+2`, "150.00", false},
	{"Price", `150e-2`, "1.50", false},
	{"Price", `0.0000000000000000000000000000000000000000000000000001e52`, "1.00", false},
	{"Price", `10000000000000000000000000000000000000000000000000000e-52`, "1.00", false},
	{"Price", `999999999999.99`, "999999999999.99", false},
	{"Price", `-999999999999.99`, "-999999999999.99", false},
	{"Price", `1000000000000`, "does not fit into Edm.Decimal(14,2)", true},
	{"Price", `1e12`, "does not fit into Edm.Decimal(14,2)", true},
	{"Price", `1e99999999999999999999`, "does not fit into Edm.Decimal(14,2)", true},
	{"Price", `0e99999999999999999999`, "0.00", false},
	{"Price", `1.005`, "more decimal places than the 2", true},
	{"Price", `1e-3`, "more decimal places than the 2", true},
	{"Price", `1e-99999999999999999999`, "more decimal places than the 2", true},
	{"Price", `"12.30"`, "12.30", false},
	{"Price", `"1.5E2"`, "150.00", false},
	{"Price", `"twelve"`, "found a string that is none", true},
	{"Price", `"INF"`, "found a string that is none", true},
	{"Price", `{}`, "expected a number, found an object", true},
	{"Big", `9999999999999999999999999999.9999999999`, "9999999999999999999999999999.9999999999", false},
	{"Big", `-9999999999999999999999999999.9999999999`, "-9999999999999999999999999999.9999999999", false},
	{"Big", `10000000000000000000000000000`, "does not fit into Edm.Decimal(38,10)", true},
	{"Big", `0.1`, "0.1000000000", false},
	{"Big", `0.3`, "0.3000000000", false},
	{"Big", `9007199254740993.1`, "9007199254740993.1000000000", false},
	// doubles
	{"F", `0.1`, "0.1", false},
	{"F", `-0.0`, "-0", false},
	{"F", `1e308`, "1e+308", false},
	{"F", `1e-400`, "0", false},
	{"F", `1e309`, "does not fit into a float64", true},
	{"F", `"INF"`, "+Inf", false},
	{"F", `"-INF"`, "-Inf", false},
	{"F", `"NaN"`, "NaN", false},
	{"F", `"1.5"`, "not INF, -INF or NaN", true},
	{"F", `false`, "expected a number, found a boolean", true},
	// dates
	{"Day", `"0001-01-01"`, "-719162", false},
	{"Day", `"9999-12-31"`, "2932896", false},
	{"Day", `"2000-02-29"`, "11016", false},
	{"Day", `"2024-02-29T00:00:00"`, "19782", false},
	{"Day", `"2024-02-29T00:00:00.0000000Z"`, "19782", false},
	{"Day", `"2024-02-29T00:00:00+00:00"`, "19782", false},
	{"Day", `"2024-02-29T00:00:00.0000001Z"`, "found one with a time of day", true},
	{"Day", `"2024-02-29T01:00:00Z"`, "found one with a time of day", true},
	{"Day", `"2024-02-29T00:00:00+02:00"`, "midnight with an offset", true},
	{"Day", `"2023-02-29T00:00:00Z"`, "expected a date", true},
	{"Day", `"2023-02-28T00:00:00?"`, "expected a date", true},
	{"Day", `"1900-02-29"`, "expected a date", true},
	{"Day", `"2023-02-29"`, "expected a date", true},
	{"Day", `"2023-04-31"`, "expected a date", true},
	{"Day", `"2023-13-01"`, "expected a date", true},
	{"Day", `"2023-00-01"`, "expected a date", true},
	{"Day", `"2023-01-00"`, "expected a date", true},
	{"Day", `"0000-12-31"`, "expected a date", true},
	{"Day", `"10000-01-01"`, "expected a date", true},
	{"Day", `"-001-01-01"`, "expected a date", true},
	{"Day", `"2023-1-1"`, "expected a date", true},
	{"Day", `"20230101"`, "expected a date", true},
	{"Day", `20230101`, "expected a string, found a number", true},
	// date and time
	{"At", `"1970-01-01T00:00:00Z"`, "0", false},
	{"At", `"1970-01-01T00:00:00"`, "0", false},
	{"At", `"1970-01-01T00:00Z"`, "0", false},
	{"At", `"1970-01-01T05:30:00+05:30"`, "0", false},
	{"At", `"1969-12-31T20:00:00.000001-04:00"`, "1", false},
	{"At", `"1970-01-01T00:00:00.1Z"`, "100000", false},
	{"At", `"1970-01-01T00:00:00.1234567Z"`, "123456", false},
	{"At", `"1970-01-01T00:00:00.1234569Z"`, "123456", false},
	{"At", `"1970-01-01T00:00:00.123456999999Z"`, "123456", false},
	{"At", `"1969-12-31T23:59:59.9999999Z"`, "-1", false},
	{"At", `"0001-01-01T00:00:00Z"`, "-62135596800000000", false},
	{"At", `"9999-12-31T23:59:59.9999999Z"`, "253402300799999999", false},
	{"At", `"0001-01-01T00:00:00+00:01"`, "outside of the years", true},
	{"At", `"9999-12-31T23:59:59-00:01"`, "outside of the years", true},
	{"At", `"2023-01-01T24:00:00Z"`, "expected a date and time", true},
	{"At", `"2023-01-01T23:60:00Z"`, "expected a date and time", true},
	{"At", `"2016-12-31T23:59:60Z"`, "expected a date and time", true},
	{"At", `"2023-01-01T00:00:00.Z"`, "expected a date and time", true},
	{"At", `"2023-01-01T00:00:00.1234567890123Z"`, "expected a date and time", true},
	{"At", `"2023-01-01T00:00:00+15:00"`, "expected a date and time", true},
	{"At", `"2023-01-01T00:00:00+14:00"`, "1672480800000000", false},
	{"At", `"2023-01-01T00:00:00+14:01"`, "expected a date and time", true},
	{"At", `"2023-01-01T00:00:00+0200"`, "expected a date and time", true},
	{"At", `"2023-01-01T00:00:00 Z"`, "expected a date and time", true},
	{"At", `"2023-01-01T00:00:00z"`, "expected a date and time", true},
	{"At", `"2023-01-01 00:00:00Z"`, "expected a date and time", true},
	{"At", `"2023-01-01T00Z"`, "expected a date and time", true},
	{"At", `"2023-01-01"`, "expected a date and time", true},
	{"At", `"/Date(1672531200000)/"`, "expected a date and time", true},
	{"At", `"2023-02-30T00:00:00Z"`, "expected a date and time", true},
	{"At", `0`, "expected a string, found a number", true},
	// times of day
	{"Clock", `"00:00:00"`, "00:00:00", false},
	{"Clock", `"23:59"`, "23:59", false},
	{"Clock", `"12:30:15.1234567"`, "12:30:15.1234567", false},
	{"Clock", `"PT12H30M15.5S"`, "PT12H30M15.5S", false},
	{"Clock", `"PT0S"`, "PT0S", false},
	{"Clock", `"PT90M"`, "PT90M", false},
	{"Clock", `"PT23H59M59.999999999999S"`, "PT23H59M59.999999999999S", false},
	{"Clock", `"PT24H"`, "expected a time of day", true},
	{"Clock", `"PT"`, "expected a time of day", true},
	{"Clock", `"PT1M1H"`, "expected a time of day", true},
	{"Clock", `"PT1.5H"`, "expected a time of day", true},
	{"Clock", `"PT1H1"`, "expected a time of day", true},
	{"Clock", `"PT.5S"`, "expected a time of day", true},
	{"Clock", `"PT5.S"`, "expected a time of day", true},
	{"Clock", `"PT99999999H"`, "expected a time of day", true},
	{"Clock", `"P1D"`, "expected a time of day", true},
	{"Clock", `"24:00:00"`, "expected a time of day", true},
	{"Clock", `"12:30:15Z"`, "expected a time of day", true},
	{"Clock", `"1:30"`, "expected a time of day", true},
	{"Clock", `""`, "expected a time of day", true},
	{"Clock", `1`, "expected a string, found a number", true},
	// binaries
	{"Bin", `""`, "", false},
	{"Bin", `"AAAAAAAAB9E="`, "00000000000007d1", false},
	{"Bin", `"AAAAAAAAB9E"`, "00000000000007d1", false},
	{"Bin", `"-_-_"`, "fbffbf", false},
	{"Bin", `"+/+/"`, "fbffbf", false},
	{"Bin", `"\u002b\/+/"`, "fbffbf", false},
	{"Bin", `"-/-_"`, "expected base64", true},
	{"Bin", `"AAAA="`, "expected base64", true},
	{"Bin", `"A"`, "expected base64", true},
	{"Bin", `"AB"`, "expected base64", true},
	{"Bin", `"AA==="`, "expected base64", true},
	{"Bin", `"AA=="`, "00", false},
	{"Bin", `"AAAA\nAAAA"`, "expected base64", true},
	{"Bin", `"AA A"`, "expected base64", true},
	{"Bin", `[1,2]`, "expected a string, found an array", true},
}

func TestDecodeValues(t *testing.T) {
	table := decodeTable(t)
	for _, v := range valueRules {
		t.Run(v.column+"="+v.json[:min(40, len(v.json))], func(t *testing.T) {
			d := decoderOf(t, table, 0, v.column)
			body := answerOf(`{"` + v.column + `":` + v.json + `}`)
			got, err := runDecode(d, strings.NewReader(body), 41)
			// Each rule holds whatever stands behind the value, and however the bytes arrive.
			spaced, _ := runDecode(d, iotest.OneByteReader(strings.NewReader(answerOf(`{ "`+v.column+`" : `+v.json+` }`))), 41)
			if diff := cmp.Diff(got.Rows, spaced.Rows); diff != "" || got.Err != spaced.Err {
				t.Errorf("with white space and in single bytes: %s\n%q\n%q", diff, got.Err, spaced.Err)
			}
			if !v.refused {
				if diff := cmp.Diff([][]string{{v.want}}, got.Rows); diff != "" || err != nil {
					t.Fatalf("%v\n%s", err, diff)
				}
				return
			}
			var bad *DataError
			if !errors.As(err, &bad) {
				t.Fatalf("got %v, %v; want a *DataError", got.Rows, err)
			}
			if bad.Table != "T" || bad.Column != v.column || bad.Row != 42 || !strings.Contains(bad.Problem, v.want) {
				t.Errorf("%+v does not tell %q", bad, v.want)
			}
			if len(got.Rows) != 0 {
				t.Errorf("rows were emitted: %v", got.Rows)
			}
		})
	}
}

func TestDecodeNeverTellsValues(t *testing.T) {
	const secret = "hunter2-topsecret"
	table := decodeTable(t)
	for _, c := range columnNames(table) {
		if c == "Name" || c == "Label" {
			continue
		}
		d := decoderOf(t, table, 0, c)
		for _, value := range []string{`"` + secret + `"`, `{"` + secret + `":1}`, `["` + secret + `"]`} {
			_, err := runDecode(d, strings.NewReader(answerOf(`{"`+c+`":`+value+`}`)), 0)
			if err == nil || strings.Contains(err.Error(), secret) {
				t.Errorf("%s: %v", c, err)
			}
		}
	}
}

// Memory that is checked: nothing is left on any path.
func checkedMemory(t *testing.T) *memory.CheckedAllocator {
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	t.Cleanup(func() { mem.AssertSize(t, 0) })
	return mem
}
