package odata

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tablexport/tablexport/odata/edm"
)

// withoutQuick makes a decoder that reads every row by object, which is what the quick way must agree with.
func withoutQuick(d *decoder) *decoder {
	d.rest = 1 << 62
	return d
}

// sameQuickly fails if the quick way makes a difference to data, in one piece or in any arrival.
func sameQuickly(t testing.TB, fresh func() *decoder, data []byte) (outcome, error) {
	t.Helper()
	want, err := runDecode(withoutQuick(fresh()), bytes.NewReader(data), 0)
	got, _ := sameHowever(t, fresh, data)
	if err != nil {
		got.Answer.bytes = want.Answer.bytes
	}
	if diff := cmp.Diff(want, got, equalOutcomes); diff != "" {
		t.Fatalf("the quick way makes a difference: %s\n%q", diff, data)
	}
	return want, err
}

// goodRow is a row of decodeTable in the plainest form, with one value replaced.
func goodRow(column, value string) string {
	plain := []string{
		"Id", `"01234567-89ab-cdef-0123-456789abcdef"`, "Name", `"Ærø"`, "Label", `"x"`, "Void", `true`, "B", `7`, "I16", `-12`, "I32", `123456`,
		"I64", `123456789`, "Price", `12.5`, "Big", `-0.25`, "F", `1.5`, "Day", `"2024-02-29"`, "At", `"2024-02-29T12:34:56.789Z"`, "Clock", `"10:00"`, "Bin", `"AAAA"`,
	}
	var members []string
	for i := 0; i < len(plain); i += 2 {
		v := plain[i+1]
		if plain[i] == column {
			v = value
		}
		members = append(members, `"`+plain[i]+`":`+v)
	}
	return "{" + strings.Join(members, ",") + "}"
}

// quickRules are values at the edges of what the quick way reads by itself.
var quickRules = []struct{ column, json string }{
	{"I32", "0"}, {"I32", "-0"}, {"I32", "1234567"}, {"I32", "12345678"}, {"I32", "123456789"}, {"I32", "2147483648"}, {"I32", "01"}, {"I32", "00"}, {"I32", "-"}, {"I32", "1.0"},
	{"I32", "1e2"}, {"I32", "1 "}, {"I32", "1x"}, {"I32", "99999999"}, {"I32", "-99999999"}, {"I32", ""}, {"I32", "+1"}, {"I32", "1/"}, {"I32", "1:"}, {"I32", "\u0661"}, {"I32", "1\x00"}, {"I32", `"1"`},
	{"B", "255"}, {"B", "256"}, {"B", "-1"}, {"B", "-0"}, {"I16", "32767"}, {"I16", "32768"}, {"I16", "-32768"}, {"I16", "-32769"},
	{"I64", "12345678901234567"}, {"I64", "-9223372036854775808"}, {"I64", "9223372036854775808"}, {"I64", "12345678x"}, {"I64", "1234567890123456"}, {"I64", "123456789012345678"},
	{"Price", "0"}, {"Price", "-0"}, {"Price", "0.0"}, {"Price", "0.00"}, {"Price", "0.001"}, {"Price", "0.010"}, {"Price", "12345678"}, {"Price", "12345678.12"}, {"Price", "123456789.12"}, {"Price", "999999999999.99"},
	{"Price", "1000000000000"}, {"Price", "1."}, {"Price", ".5"}, {"Price", "01.5"}, {"Price", "1.5e1"}, {"Price", "1.5E-1"}, {"Price", "1.5-"}, {"Price", "1.00000000"}, {"Price", "1.000000000"}, {"Price", "1.1.1"}, {"Price", "--1"}, {"Price", `"1.5"`},
	{"Big", "12345678.12345678"}, {"Big", "12345678.0123456789"}, {"Big", "1.0123456789"}, {"Big", "99999999"}, {"Big", "123456789"}, {"Big", "0.00000000001"},
	{"Void", "false"}, {"Void", "tru"}, {"Void", "fals"}, {"Void", "falsx"}, {"Void", "trueo"}, {"Void", "nulll"}, {"Void", "nul"}, {"Void", "nule"}, {"Id", "null"},
	{"Id", `"0123456789-ab-cdef-0123-456789abcdef"`}, {"Id", `"01234567-89ab-cdef-0123-456789ABCDEF"`}, {"Id", `"01234567-89ab-cdef-0123\r456789abcdef"`}, {"Id", "\"01234567-89ab-cdef-0123\r456789abcdef\""},
	{"Id", "\"\x101234567-89ab-cdef-0123-456789abcdef\""}, {"Id", "\"0123456\x19-89ab-cdef-0123-456789abcdef\""}, {"Id", "\"01234567-\x39\xb9ab-cdef-0123-456789abcdef\""}, {"Id", `"01234567-89ab-cdef-0123-456789abcdef0"`}, {"Id", `"01234567-89ab-cdef-0123-456789abcde"`},
	{"Id", `"G1234567-89ab-cdef-0123-456789abcdef"`}, {"Id", "\"`1234567-89ab-cdef-0123-456789abcdef\""}, {"Id", `"@1234567-89ab-cdef-0123-456789abcdef"`}, {"Id", `"/1234567-89ab-cdef-0123-456789abcde:"`},
	{"Name", `"1234567"`}, {"Name", `"12345678"`}, {"Name", `"123456789"`}, {"Name", `"12345\t67"`}, {"Name", "\"a\tb\""}, {"Name", "\"a\x7fb\""}, {"Name", "\"a\x00b\""}, {"Name", "\"\xff\""}, {"Name", "\"abcdefgh\xe2\x82\""}, {"Name", `"€uro и още"`}, {"Name", `"` + strings.Repeat("ж", 300) + `"`}, {"Name", `"` + strings.Repeat("y", 3000) + `"`},
	{"Day", `"2024-02-30"`}, {"Day", `"2023-02-29"`}, {"Day", `"0000-01-01"`}, {"Day", `"0001-01-01"`}, {"Day", `"9999-12-31"`}, {"Day", `"2024-13-01"`}, {"Day", `"2024-00-01"`}, {"Day", `"2024-01-00"`}, {"Day", `"2024-01-0:"`}, {"Day", `"20:4-01-01"`}, {"Day", `"2024/01-01"`}, {"Day", `"2024-01-01T00:00:00Z"`}, {"Day", `"2024-01-1 "`},
	{"At", `"2024-02-29T23:59:59Z"`}, {"At", `"2024-02-29T24:00:00Z"`}, {"At", `"2024-02-29T23:60:00Z"`}, {"At", `"2024-02-29T23:59:60Z"`}, {"At", `"2024-02-29T23:59:5:Z"`}, {"At", `"2024-02-29t23:59:59Z"`}, {"At", `"2024-02-29T23-59:59Z"`}, {"At", `"2024-02-29T23:59-59Z"`}, {"At", `"2024-02-29T23:59:59"`},
	{"At", `"2024-02-29T23:59:59.Z"`}, {"At", `"2024-02-29T23:59:59.1Z"`}, {"At", `"2024-02-29T23:59:59.123456Z"`}, {"At", `"2024-02-29T23:59:59.1234567Z"`}, {"At", `"2024-02-29T23:59:59.12345678Z"`}, {"At", `"2024-02-29T23:59:59.9999999z"`}, {"At", `"2024-02-29T23:59:59.5+02:00"`}, {"At", `"2024-02-29T23:59:59Z "`}, {"At", `"0001-01-01T00:00:00Z"`}, {"At", `"9999-12-31T23:59:59.999Z"`}, {"At", `"2024-02-30T00:00:00Z"`}, {"At", `"2024-02-29T23:59Z"`},
	{"Label", `{"EN":"a"}`}, {"Label", `{"EN":"a","BG":"стол"}`}, {"Label", `{"EN":""}`}, {"Label", `{"":""}`}, {"Label", `{}`}, {"Label", `{"EN":"a",}`}, {"Label", `{"EN":"a"`}, {"Label", `{"EN"}`}, {"Label", `{"EN","BG":"a"}`}, {"Label", `{"EN":"a":"b"}`}, {"Label", `{,"EN":"a"}`}, {"Label", `{"EN":"a"]`},
	{"Label", `{"EN":"a" ,"BG":"b"}`}, {"Label", `{ "EN":"a"}`}, {"Label", `{"EN": "a"}`}, {"Label", `{"EN":"a\"b"}`}, {"Label", `{"E\nN":"a"}`}, {"Label", `{"EN":1}`}, {"Label", `{"EN":null}`}, {"Label", `{"EN":{"x":"y"}}`}, {"Label", `{"EN":["a"]}`}, {"Label", "{\"EN\":\"a\tb\"}"}, {"Label", "{\"EN\":\"\xff\"}"}, {"Label", "{\"\xd0\":\"\xb0\"}"},
	{"Label", `{"EN":"` + strings.Repeat("y", 3000) + `"}`}, {"Label", `{"EN":"` + strings.Repeat("ж", 300) + `","BG":"` + strings.Repeat("y", 700) + `"}`}, {"Label", `{"EN":"a","EN":"b"}`}, {"Label", `{'EN':'a'}`},
	{"Bin", `""`}, {"Bin", `"A"`}, {"Bin", `"AA"`}, {"Bin", `"AAA"`}, {"Bin", `"AAAA"`}, {"Bin", `"AA=="`}, {"Bin", `"AAA="`}, {"Bin", `"AB=="`}, {"Bin", `"AAB="`}, {"Bin", `"/+09azAZ"`}, {"Bin", `"_-09azAZ"`}, {"Bin", `"AAAAAfvEJD0="`}, {"Bin", `"AAAAAfvEJD0"`}, {"Bin", `"AAAA===="`}, {"Bin", `"A==="`}, {"Bin", `"===="`}, {"Bin", `"AA==AAAA"`}, {"Bin", `"AAA=AAAA"`}, {"Bin", `"AA=A"`}, {"Bin", `"AA==="`},
	{"Bin", `"AAA\u0041"`}, {"Bin", "\"AAAA\n\""}, {"Bin", `"AA A"`}, {"Bin", `"AAAж"`}, {"Bin", `"AAAA`}, {"Bin", `"AA`}, {"Bin", `AAAA`}, {"Bin", `"` + strings.Repeat("AbC/", 500) + `"`}, {"Bin", `"` + strings.Repeat("AbC/", 1<<10) + `BA=="`},
}

// TestQuickValues puts every value rule, and those at the edges, into a row that looks like the one before it.
func TestQuickValues(t *testing.T) {
	table := decodeTable(t)
	fresh := func() *decoder { return decoderOf(t, table, 0) }
	rules := quickRules
	for _, v := range valueRules {
		rules = append(rules, struct{ column, json string }{v.column, v.json})
	}
	for _, r := range rules {
		plain := goodRow("", "")
		data := []byte(answerOf(plain, goodRow(r.column, r.json), plain))
		want, err := runDecode(withoutQuick(fresh()), bytes.NewReader(data), 0)
		for _, cut := range []int{len(data), len(data) / 2, len(data)/2 + 3} {
			got, _ := runDecode(fresh(), io.MultiReader(bytes.NewReader(data[:cut]), bytes.NewReader(data[cut:])), 0)
			if err != nil {
				got.Answer.bytes = want.Answer.bytes
			}
			if diff := cmp.Diff(want, got, equalOutcomes); diff != "" {
				t.Fatalf("%s %s, cut at %d: %s", r.column, r.json, cut, diff)
			}
		}
	}
}

// TestQuickIsTaken makes sure that the other tests test something: the plainest rows are read the quick way, all but the first.
func TestQuickIsTaken(t *testing.T) {
	d := decoderOf(t, decodeTable(t), 1000)
	rows := make([]string, 50)
	for i := range rows {
		rows[i] = goodRow("", "")
	}
	d.rowID = 0
	if _, err := runDecode(d, strings.NewReader(answerOf(rows...)), 0); err != nil || d.rowID != 1 {
		t.Fatalf("%v; object was asked %d times", err, d.rowID)
	}
}

// Language maps and base64 in their usual form are not left to the columns' operations.
func TestQuickNeedsNoOperation(t *testing.T) {
	table := tableOf(t, edm.Column{Name: "Label", Type: edm.Type{Kind: edm.MultiLanguage}}, edm.Column{Name: "Bin", Type: edm.Type{Kind: edm.Binary}})
	d := decoderOf(t, table, 1000)
	asked := 0
	for i := range d.cols {
		operation := d.cols[i].op
		d.cols[i].op = func(d *decoder, c *column, b []byte, pos int) int { asked++; return operation(d, c, b, pos) }
	}
	rows := []string{`{"Label":{"EN":"oak table","BG":"дъбова маса"},"Bin":"AAAAAfvEJD0="}`, `{"Label":{"EN":"chair"},"Bin":"AAEC"}`, `{"Label":{"EN":""},"Bin":"/w=="}`, `{"Label":{"DE":"Stühle"},"Bin":""}`}
	got, err := runDecode(d, strings.NewReader(answerOf(rows...)), 0)
	if err != nil || len(got.Rows) != len(rows) || asked != len(d.cols) { // for the first row
		t.Errorf("%v; %d rows, operations were asked %d times", err, len(got.Rows), asked)
	}
}

// TestQuickKeys reads keys of every length in words and between, and of each every byte changed, one too many and one too few.
func TestQuickKeys(t *testing.T) {
	var columns []edm.Column
	for _, n := range []int{1, 4, 5, 6, 12, 13, 14, 28, 29, 30, 36, 37, 38, 61, 90} { // with its quotes and the colon a key has three more
		columns = append(columns, edm.Column{Name: strings.Repeat("Abcdefgh_", 10)[:n], Type: edm.Type{Kind: edm.Int32}})
	}
	table := tableOf(t, columns...)
	row := func(at int, key string) string {
		var members []string
		for i, c := range columns {
			if i != at {
				members = append(members, fmt.Sprintf("%q:%d", c.Name, i))
				continue
			}
			members = append(members, fmt.Sprintf("%s%d", key, i))
		}
		return "{" + strings.Join(members, ",") + "}"
	}
	plain := row(-1, "")
	d := decoderOf(t, table, 1000)
	d.rowID = 0
	got, err := runDecode(d, strings.NewReader(answerOf(plain, plain, plain)), 0)
	if err != nil || d.rowID != 1 || len(got.Rows) != 3 {
		t.Fatalf("%v; object was asked %d times", err, d.rowID)
	}
	for i := range columns {
		if got.Rows[2][i] != fmt.Sprint(i) {
			t.Errorf("column %d has %s", i, got.Rows[2][i])
		}
	}
	for i, c := range columns {
		key := fmt.Sprintf("%q:", c.Name)
		keys := []string{key[:len(key)-2] + `x":`, key[:len(key)-3] + `":`, key[:len(key)-1], key + ":", key + " "}
		for at := range len(key) {
			for _, flip := range []byte{1, 0x20, 0x80} {
				changed := []byte(key)
				changed[at] ^= flip
				keys = append(keys, string(changed))
			}
		}
		for _, k := range keys {
			data := []byte(answerOf(plain, row(i, k), plain))
			want, err := runDecode(withoutQuick(decoderOf(t, table, 0)), bytes.NewReader(data), 0)
			if (err == nil) != (k == key+" ") {
				t.Fatalf("%q: %v", k, err)
			}
			got, _ := runDecode(decoderOf(t, table, 0), bytes.NewReader(data), 0)
			if err != nil {
				got.Answer.bytes = want.Answer.bytes
			}
			if diff := cmp.Diff(want, got, equalOutcomes); diff != "" {
				t.Fatalf("%q for %q: %s", k, key, diff)
			}
		}
	}
}

// TestQuickSplits cuts an answer at every byte, with windows of several sizes.
func TestQuickSplits(t *testing.T) {
	table := decodeTable(t)
	plain := goodRow("", "")
	data := []byte(answerOf(plain, goodRow("Name", `"`+strings.Repeat("ж\\n", 20)+`"`), plain, goodRow("Price", "1e3"), plain))
	want, err := runDecode(withoutQuick(decoderOf(t, table, 2)), bytes.NewReader(data), 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, window := range []int{2 * pad, 1 << 10, 4 << 10} {
		for at := i; at < len(data); at++ {
			if poisoned && at%8 != i { // under the race detector, one byte in eight is enough
				continue
			}
			d := decoderOf(t, table, 2)
			d.w = smallWindow(window)
			got, _ := runDecode(d, io.MultiReader(bytes.NewReader(data[:at]), bytes.NewReader(data[at:])), 0)
			if diff := cmp.Diff(want, got, equalOutcomes); diff != "" {
				t.Fatalf("cut at %d, window of %d: %s", at, window, diff)
			}
		}
	}
	for at := 0; at < len(data); at += 3 {
		if _, err := runDecode(decoderOf(t, table, 2), bytes.NewReader(data[:at]), 0); !errors.Is(err, ErrTruncated) {
			t.Fatalf("cut at %d: %v", at, err)
		}
	}
}

// TestQuickShapes changes what stands around the values of a row that should look like the one before.
func TestQuickShapes(t *testing.T) {
	table := decodeTable(t)
	fresh := func() *decoder { return decoderOf(t, table, 2) }
	plain := goodRow("", "")
	for _, row := range []string{
		strings.Replace(plain, `"Name":`, `"Nam":`, 1), strings.Replace(plain, `"Name":`, `"Name" :`, 1), strings.Replace(plain, `"Name":`, `"name":`, 1), strings.Replace(plain, `"Name":`, `"N\u0061me":`, 1),
		strings.Replace(plain, `,"Name"`, `, "Name"`, 1), strings.Replace(plain, `,"Name"`, `;"Name"`, 1), strings.Replace(plain, `,"Name"`, `,,"Name"`, 1), strings.Replace(plain, `,"Name"`, ``, 1),
		strings.Replace(plain, `"Name":"Ærø",`, ``, 1), strings.Replace(plain, `"Name":"Ærø",`, `"Name":"Ærø","Name":"Ærø",`, 1), strings.Replace(plain, `,"Bin":"AAAA"`, ``, 1),
		strings.Replace(plain, `"AAAA"}`, `"AAAA"} `, 1), strings.Replace(plain, `"AAAA"}`, `"AAAA" }`, 1), strings.Replace(plain, `"AAAA"}`, `"AAAA",}`, 1), strings.Replace(plain, `"AAAA"}`, `"AAAA"]`, 1), strings.Replace(plain, `"AAAA"}`, `"AAAA","Id":null}`, 1),
		strings.Replace(plain, `"AAAA"}`, `"AAAA","@odata.etag":"W/\"1\"","Bin@odata.type":[{"x":1}]}`, 1), strings.Replace(plain, `{"Id"`, `{"@odata.etag":"x","Id"`, 1), strings.Replace(plain, `,"Name"`, `,"Name@x":{},"@y":1,"Name"`, 1),
		strings.Replace(plain, `"AAAA"}`, `"AAAA","@x":1,}`, 1), strings.Replace(plain, `"AAAA"}`, `"AAAA","@x":01}`, 1), strings.Replace(plain, `"AAAA"}`, `"AAAA","error":{"code":"E1"}}`, 1), strings.Replace(plain, `"AAAA"}`, `"AAAA","x":1}`, 1),
		`{}`, `null`, ` ` + plain, `[` + plain + `]`, plain + plain,
	} {
		_, _ = sameQuickly(t, fresh, []byte(answerOf(plain, row, plain, plain)))
	}
}

// TestQuickGivesWay feeds rows that are never plain: the quick way is tried now and then, and the rows are right.
func TestQuickGivesWay(t *testing.T) {
	table := decodeTable(t)
	var rows []string
	for i := range 2_000 {
		row := strings.ReplaceAll(goodRow("I32", fmt.Sprint(i)), `":`, `": `)
		if i > 1_000 {
			row = goodRow("I32", fmt.Sprint(i))
		}
		rows = append(rows, row)
	}
	d := decoderOf(t, table, 300)
	got, err := runDecode(d, strings.NewReader(answerOf(rows...)), 0)
	if err != nil || len(got.Rows) != len(rows) {
		t.Fatal(len(got.Rows), err)
	}
	for i, r := range got.Rows {
		if r[6] != fmt.Sprint(i) {
			t.Fatalf("row %d has %s", i, r[6])
		}
	}
	// 1,001 spaced rows cost no more than 4 more attempts for every 256, and at most 256 plain ones are read slowly.
	if d.rowID > 1_001+256+50 {
		t.Errorf("object was asked %d times", d.rowID)
	}
}

// TestQuickRoundTrip writes random plain rows and reads them back.
func TestQuickRoundTrip(t *testing.T) {
	table := decodeTable(t)
	all := columnNames(table)
	rapid.Check(t, func(t *rapid.T) {
		columns := rapid.Permutation(all).Draw(t, "order")
		var rows []string
		for range rapid.IntRange(2, 12).Draw(t, "rows") {
			members := make([]string, len(columns))
			for i, c := range columns {
				value := "null"
				if c == "Id" || rapid.IntRange(0, 4).Draw(t, "null") > 0 {
					value, _ = spellings[c](t)
				}
				members[i] = `"` + c + `":` + value
			}
			rows = append(rows, "{"+strings.Join(members, ",")+"}")
		}
		data := []byte(answerOf(rows...))
		fresh := func() *decoder {
			d, err := newDecoder(table, all, 4, nil)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		want, err := runDecode(withoutQuick(fresh()), bytes.NewReader(data), 0)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := runDecode(fresh(), bytes.NewReader(data), 0)
		if diff := cmp.Diff(want, got, equalOutcomes); diff != "" {
			t.Fatalf("%s\n%s", diff, data)
		}
	})
}

// FuzzQuick puts anything in the place of a row, between two plain ones.
func FuzzQuick(f *testing.F) {
	table := decodeTable(f)
	plain := goodRow("", "")
	for i, r := range quickRules {
		if i%16 == 0 { // all of them are in TestQuickValues
			f.Add([]byte(goodRow(r.column, r.json)))
		}
	}
	f.Add([]byte(strings.Replace(plain, `,"Name"`, `,"Name@x":{},"@y":1,"Name"`, 1)))
	f.Fuzz(func(t *testing.T, row []byte) {
		fresh := func() *decoder {
			d := decoderOf(t, table, 2)
			d.limits = decodeLimits{str: 1 << 10, row: 4 << 10, envelope: 1 << 10, blank: 8 << 10, record: 2 << 10}
			return d
		}
		_, err := sameQuickly(t, fresh, []byte(answerOf(plain, string(row), plain, string(row))))
		checkErrorType(t, err)
	})
}

// FuzzLeadingDigits compares with the obvious.
func FuzzLeadingDigits(f *testing.F) {
	f.Add([]byte("12345678"))
	f.Add([]byte("1234567:"))
	f.Add([]byte("\xff0000000"))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = append(b, make([]byte, 8)...)[:8]
		var w, want uint64
		count := 0
		for i, c := range b {
			w |= uint64(c) << (8 * i)
			if count == i && c-'0' <= 9 {
				want = want*10 + uint64(c-'0')
				count++
			}
		}
		if v, n := leadingDigits(w); v != want || n != count {
			t.Fatalf("%q: %d of %d digits, want %d of %d", b, v, n, want, count)
		}
	})
}

func TestKeysOfEveryLength(t *testing.T) {
	for _, size := range []int{1, 4, 5, 6, 7, 12, 13, 14, 20, 21, 22, 60, 61, 62, 79} {
		name := strings.Repeat("n", size)
		table := tableOf(t, edm.Column{Name: name, Type: edm.Type{Kind: edm.Int32}}, edm.Column{Name: name + "x", Type: edm.Type{Kind: edm.Int32}})
		fresh := func() *decoder { return decoderOf(t, table, 0) }
		row := func(a, b string) string { return `{"` + a + `":1,"` + b + `":2}` }
		good := row(name, name+"x")
		if got, err := runDecode(fresh(), strings.NewReader(answerOf(good, good, row(name+"x", name), good)), 0); err != nil || len(got.Rows) != 4 {
			t.Fatal(size, err)
		}
		for i := range name {
			wrong := name[:i] + "m" + name[i+1:]
			if _, err := runDecode(fresh(), strings.NewReader(answerOf(good, row(wrong, name+"x"))), 0); err == nil {
				t.Fatalf("a key of %d bytes that differs at %d was taken", size, i)
			}
		}
	}
}
