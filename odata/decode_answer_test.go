package odata

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/google/go-cmp/cmp"

	"github.com/tablexport/tablexport/odata/edm"
)

// smallTable has two columns, the first of which may not be null.
func smallTable(tb testing.TB) *edm.Table {
	return tableOf(tb,
		edm.Column{Name: "A", Type: edm.Type{Kind: edm.Int32}},
		edm.Column{Name: "B", Type: edm.Type{Kind: edm.String}, Nullable: true},
	)
}

// splitter answers reads with random small pieces.
type splitter struct {
	data []byte
	rand *rand.Rand
	most int
}

func (s *splitter) Read(p []byte) (int, error) {
	if len(s.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.data[:min(len(s.data), s.rand.IntN(s.most+1))])
	s.data = s.data[n:]
	return n, nil
}

// arrivals are ways in which the same bytes can come. The last ones have a window so small that it moves
// and grows all the time.
func arrivals(data []byte) map[string]func(d *decoder) io.Reader {
	pieces := func(seed uint64, most, window int) func(*decoder) io.Reader {
		return func(d *decoder) io.Reader {
			d.w = smallWindow(window)
			return &splitter{data, rand.New(rand.NewPCG(seed, 1)), most}
		}
	}
	return map[string]func(d *decoder) io.Reader{
		"single bytes":       func(*decoder) io.Reader { return iotest.OneByteReader(bytes.NewReader(data)) },
		"end with last byte": func(*decoder) io.Reader { return iotest.DataErrReader(bytes.NewReader(data)) },
		"halves": func(d *decoder) io.Reader {
			d.w = smallWindow(2 * pad)
			return iotest.HalfReader(bytes.NewReader(data))
		},
		"single, small": func(d *decoder) io.Reader {
			d.w = smallWindow(2 * pad)
			return iotest.OneByteReader(bytes.NewReader(data))
		},
		"pieces":       pieces(1, 50, 4<<10),
		"small pieces": pieces(2, 7, 2*pad),
		"large pieces": pieces(3, 500, 3*pad),
	}
}

func smallWindow(size int) window { return window{size: size} }

// sameHowever fails if the arrival of the bytes makes a difference, and returns the outcome. How many bytes
// had been read when an error was found is the one thing that may differ.
func sameHowever(t testing.TB, newDecoder func() *decoder, data []byte) (outcome, error) {
	t.Helper()
	want, err := runDecode(newDecoder(), bytes.NewReader(data), 0)
	for name, arrive := range arrivals(data) {
		d := newDecoder()
		got, _ := runDecode(d, arrive(d), 0)
		if err != nil {
			got.Answer.bytes = want.Answer.bytes
		}
		if diff := cmp.Diff(want, got, equalOutcomes); diff != "" {
			t.Fatalf("%s: %s", name, diff)
		}
	}
	return want, err
}

func TestDecodeEnvelope(t *testing.T) {
	two := `[{"A":1,"B":"x"},{"A":2,"B":null}]`
	rows := [][]string{{"1", "x"}, {"2", "null"}}
	for body, want := range map[string]answer{
		`{"value":` + two + `}`: {rows: 2, count: -1},
		`{"@odata.context":"c","@odata.count":7,"value":` + two + `,"@odata.nextLink":"https://h/T?$skip=2"}`:  {rows: 2, count: 7, nextLink: "https://h/T?$skip=2"},
		`{"@odata.nextLink":"n\u0031","value":` + two + `,"@odata.count":7}`:                                   {rows: 2, count: 7, nextLink: "n1"},
		`{"odata.metadata":"c","odata.count":"7","value":` + two + `,"odata.nextLink":"n"}`:                    {rows: 2, count: 7, nextLink: "n"},
		`{"@context":"c","@count":7,"value":` + two + `,"@nextLink":"n"}`:                                      {rows: 2, count: 7, nextLink: "n"},
		`{"@odata.nextLink":null,"@odata.count":null,"value":` + two + `}`:                                     {rows: 2, count: -1},
		" \r\n\t{ \"value\" : " + two + " , \"@odata.nextLink\" : \"n\" } \n":                                  {rows: 2, count: -1, nextLink: "n"},
		`{"@my.ext":{"a":[1,{"b":null}],"c":"d"},"value@odata.type":"#T","value":` + two + `,"@x":[],"@y":{}}`: {rows: 2, count: -1},
		`{"@a":1234567890,"@b":-12.5e10,"@c":[1234567890],"value":` + two + `}`:                                {rows: 2, count: -1},
		`{"@odata.count":9223372036854775807,"value":` + two + `}`:                                             {rows: 2, count: 9223372036854775807},
	} {
		got, err := sameHowever(t, func() *decoder { return decoderOf(t, smallTable(t), 0) }, []byte(body))
		want.bytes = int64(len(body))
		if err != nil || got.Answer != want {
			t.Errorf("%s: %+v, %v", body, got.Answer, err)
		}
		if diff := cmp.Diff(rows, got.Rows); diff != "" {
			t.Errorf("%s: %s", body, diff)
		}
	}
}

func TestDecodeNoRows(t *testing.T) {
	got, err := sameHowever(t, func() *decoder { return decoderOf(t, smallTable(t), 0) }, []byte(`{"value": [ ] }`))
	if err != nil || got.Rows != nil || got.Sizes != nil {
		t.Errorf("%+v, %v; want no record at all", got, err)
	}
}

func TestDecodeMalformed(t *testing.T) {
	for _, body := range []string{
		`[]`, `5`, `null`, `"x"`, `<html>`, "\xef\xbb\xbf{\"value\":[]}", `{]`, `{,}`, `{"value"}`, `{"value":}`, `{"value":[}`, `{"value":[]]`,
		`{}`, `{"@odata.count":1}`, `{"value":null}`, `{"value":{}}`, `{"value":"x"}`, `{"value":[],}`, `{"value":[],"value":[]}`,
		`{"@odata.count":1,"odata.count":2,"value":[]}`, `{"value":[]}{}`, `{"value":[]} x`, "{\"value\":[]}\x00", `{value:[]}`, `{'value':[]}`,
		`{"value":[,]}`, `{"value":[{"A":1,"B":"x"},]}`, `{"value":[{"A":1,"B":"x"}{"A":1,"B":"x"}]}`, `{"value":[{"A":1,"B":"x"},,{"A":1,"B":"x"}]}`,
		`{"value":[{"A":1,"B":"x",}]}`, `{"value":[{,"A":1,"B":"x"}]}`, `{"value":[{"A":1 "B":"x"}]}`, `{"value":[{"A" 1,"B":"x"}]}`, `{"value":[{"A":,"B":"x"}]}`,
		`{"value":[{A:1,"B":"x"}]}`, `{"value":[{"A":01,"B":"x"}]}`, `{"value":[{"A":-,"B":"x"}]}`, `{"value":[{"A":+1,"B":"x"}]}`, `{"value":[{"A":1.,"B":"x"}]}`,
		`{"value":[{"A":.1,"B":"x"}]}`, `{"value":[{"A":1e,"B":"x"}]}`, `{"value":[{"A":1e+,"B":"x"}]}`, `{"value":[{"A":0x1,"B":"x"}]}`, `{"value":[{"A":1_0,"B":"x"}]}`,
		`{"value":[{"A":NaN,"B":"x"}]}`, `{"value":[{"A":Infinity,"B":"x"}]}`, `{"value":[{"A":1,"B":nul}]}`, `{"value":[{"A":1,"B":nulL}]}`, `{"value":[{"A":1,"B":nullx}]}`,
		"{\"value\":[{\"A\":1,\"B\":\"a\nb\"}]}", "{\"value\":[{\"A\":1,\"B\":\"a\x00b\"}]}", `{"value":[{"A":1,"B":"\x"}]}`, `{"value":[{"A":1,"B":"\u12g4"}]}`, `{"value":[{"A":1,"B":"\u 123"}]}`,
		"{\"value\":[{\"A\":1,\"B\":\"\xff\"}]}", "{\"value\":[{\"A\":1,\"B\":\"\xc0\x80\"}]}", "{\"value\":[{\"A\":1,\"B\":\"\xed\xa0\x80\"}]}", "{\"value\":[{\"A\":1,\"B\":\"\xc3\\u0041\xa9\"}]}",
		"{\"value\":[{\"A\":1,\"B\":\"longer than eight \xe2\x82 bytes\"}]}", "{\"value\":[\xa0{\"A\":1,\"B\":\"x\"}]}", "{\"value\":[{\"A\":1,\v\"B\":\"x\"}]}",
		`{"@x":[1,],"value":[]}`, `{"@x":{"a"},"value":[]}`, `{"@x":{"a":1,},"value":[]}`, `{"@x":[1}},"value":[]}`, `{"@x":{1:2},"value":[]}`, `{"@x":tru,"value":[]}`,
		"{\"@x\":\"\x01\",\"value\":[]}", `{"value":[{"@odata.etag":W/"1","A":1,"B":"x"}]}`, `{"value":[{"A":1,"B":"x"}],"@odata.nextLink":"` + "\x1f" + `"}`,
	} {
		_, err := sameHowever(t, func() *decoder { return decoderOf(t, smallTable(t), 0) }, []byte(body))
		var bad *MalformedError
		if !errors.As(err, &bad) || bad.Table != "T" || bad.Offset < 0 || bad.Offset > int64(len(body)) {
			t.Errorf("%q: %v; want a *MalformedError", body, err)
		}
	}
}

func TestDecodeMalformedSaysWhere(t *testing.T) {
	body := `{"value":[{"A":1,"B":"x"},{"A":2;"B":"y"}]}`
	_, err := runDecode(decoderOf(t, smallTable(t), 0), strings.NewReader(body), 10)
	var bad *MalformedError
	if !errors.As(err, &bad) || bad.Row != 12 || bad.Offset != int64(strings.IndexByte(body, ';')) {
		t.Errorf("%v", err)
	}
}

func TestDecodeRefusesRows(t *testing.T) {
	good := `{"A":1,"B":"x"}`
	for _, v := range []struct {
		row, column, problem string
	}{
		{`{"A":1}`, "B", "the property is missing"},
		{`{"B":"x"}`, "A", "the property is missing"},
		{`{}`, "A", "missing, as are all others"},
		{`{"A":1,"B":"x","A":1}`, "A", "comes twice"},
		{`{"A":1,"A":1}`, "A", "comes twice"},
		{`{"A":1,"B":"x","\u0042":"x"}`, "B", "comes twice"},
		{`{"A":1,"B":"x","C":null}`, "", "unexpected property C"},
		{`{"a":1,"B":"x"}`, "", "unexpected property a:"},
		{`{"A":1,"B":"x","error":"text"}`, "", "unexpected property error"},
		{`{"A":1,"B":"x","\u0007` + strings.Repeat("é", 100) + `":1}`, "", "unexpected property ?" + strings.Repeat("é", 63) + "…"},
		{`{"A":null,"B":"x"}`, "A", "null, where the model allows none"},
		{`5`, "", "a row is to be an object, found a number"},
		{`null`, "", "a row is to be an object, found null"},
		{`[]`, "", "a row is to be an object, found an array"},
		{`{"A":1,"B":"x","@x":` + strings.Repeat(`{"a":`, 65) + "1" + strings.Repeat("}", 65) + `}`, "", "nested deeper than 64"},
		{`{"A":1,"B":"x","@x":"\udfff"}`, "", "surrogate"},
	} {
		_, err := sameHowever(t, func() *decoder { return decoderOf(t, smallTable(t), 0) }, []byte(answerOf(good, good, v.row, good)))
		var bad *DataError
		if !errors.As(err, &bad) || bad.Row != 3 || bad.Column != v.column || !strings.Contains(bad.Problem, v.problem) {
			t.Errorf("%s: %v", v.row, err)
		}
	}
}

func TestDecodeRefusesEnvelopes(t *testing.T) {
	many := `{"value":[]`
	for i := range mostMembers + 1 {
		many += fmt.Sprintf(`,"@x%d":1`, i)
	}
	for body, problem := range map[string]string{
		`{"d":{"results":[]}}`:                 "unexpected member d",
		`{"value":[],"truncated":true}`:        "unexpected member truncated",
		`{"value":[],"@odata.nextLink":5}`:     "nextLink is to be a string, found a number",
		`{"value":[],"@odata.count":-1}`:       "negative",
		`{"value":[],"@odata.count":1.5}`:      "fraction",
		`{"value":[],"@odata.count":true}`:     "found a boolean",
		`{"value":[],"@odata.count":"x"}`:      "none",
		`{"value":[],"@odata.count":1e30}`:     "64 bits",
		`{"value":[],"@x":"\ud800"}`:           "surrogate",
		`{"value":[],"@odata.nextLink":"\ud8"`: "",
		many + "}":                             "more than 256 members",
	} {
		_, err := sameHowever(t, func() *decoder { return decoderOf(t, smallTable(t), 0) }, []byte(body))
		var bad *DataError
		if is := errors.As(err, &bad); problem == "" {
			if err == nil || is {
				t.Errorf("%s: %v", body, err)
			}
		} else if !is || bad.Row != 0 || bad.Column != "" || !strings.Contains(err.Error(), problem) {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// Rows may come with other orders of keys, and annotations anywhere.
func TestDecodeLearnsTheOrder(t *testing.T) {
	d := decoderOf(t, tableOf(t,
		edm.Column{Name: "A", Type: edm.Type{Kind: edm.Int32}}, edm.Column{Name: "B", Type: edm.Type{Kind: edm.Int32}},
		edm.Column{Name: "C", Type: edm.Type{Kind: edm.Int32}}), 2)
	rows := []string{
		`{"A":1,"B":2,"C":3}`, `{"C":3,"B":2,"A":1}`, `{"C":3,"B":2,"A":1}`, `{"B":2,"A":1,"C":3}`, `{"A":1,"B":2,"C":3}`,
		`{"@odata.etag":"W/\"1\"","A":1,"B@odata.type":"#Int32","B":2,"odata.x":{"A":5},"C":3,"@z":[1]}`, `{"\u0041":1, "B":2 ,"C" : 3}`,
	}
	for range 2 { // the second time the decoder has learnt from the first
		got, err := runDecode(d, strings.NewReader(answerOf(rows...)), 0)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]int64{2, 2, 2, 1}, got.Sizes); diff != "" {
			t.Error(diff)
		}
		for i, row := range got.Rows {
			if diff := cmp.Diff([]string{"1", "2", "3"}, row); diff != "" {
				t.Errorf("row %d: %s", i, diff)
			}
		}
	}
}

func TestDecodeNamesThatJSONEscapes(t *testing.T) {
	table := tableOf(t, edm.Column{Name: `Ime "х" \`, Type: edm.Type{Kind: edm.Int32}}, edm.Column{Name: "<B>", Type: edm.Type{Kind: edm.Int32}})
	got, err := sameHowever(t, func() *decoder { return decoderOf(t, table, 0) }, []byte(answerOf(`{"Ime \"х\" \\":1,"<B>":2}`, `{"Ime \u0022х\" \\":1,"\u003cB>":2}`)))
	if diff := cmp.Diff([][]string{{"1", "2"}, {"1", "2"}}, got.Rows); diff != "" || err != nil {
		t.Error(err, diff)
	}
}

// Every beginning of an answer is truncated, never malformed, never complete.
func TestDecodeTruncated(t *testing.T) {
	full := `{"odata.count":"12","@x":{"a":[true,null,"\ud83d\ude00"]},"value":[` +
		`{"Id":"01234567-89ab-cdef-0123-456789abcdef","Name":"Ærø \n\ud83d\ude00","Label":{"EN":["a",1.5e3,{}]},"Void":true,"B":25,"I16":-1.0e0,"I32":2147483647,"I64":"922","Price":-12.5,
		"Big":1E+2,"F":1.5e-3,"Day":"1969-12-31","At":"1970-01-01T02:00:00.1234567+02:00","Clock":"23:59","Bin":"3q2-7w==","@odata.etag":"1"},` +
		`{"Id":"01234567-89ab-cdef-0123-456789abcdef","Name":null,"Label":null,"Void":false,"B":null,"I16":null,"I32":null,"I64":null,"Price":null,"Big":null,"F":"INF","Day":null,"At":null,"Clock":null,"Bin":null}` +
		`],"@odata.nextLink":"https://h/"}`
	table := decodeTable(t)
	mem := checkedMemory(t)
	d, err := newDecoder(table, columnNames(table), 1, mem)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(full) {
		for _, r := range []io.Reader{strings.NewReader(full[:n]), iotest.OneByteReader(strings.NewReader(full[:n])),
			io.MultiReader(strings.NewReader(full[:n]), iotest.ErrReader(io.ErrUnexpectedEOF))} {
			got, err := runDecode(d, r, 0)
			if !errors.Is(err, ErrTruncated) || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%q: %v", full[:n], err)
			}
			if got.Answer.rows != int64(len(got.Rows)) {
				t.Fatalf("%q: %+v", full[:n], got)
			}
		}
	}
	if got, err := runDecode(d, strings.NewReader(full), 0); err != nil || got.Answer.rows != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	// An answer that is complete, but for which the transport says that something was cut off.
	_, err = runDecode(d, io.MultiReader(strings.NewReader(full), iotest.ErrReader(io.ErrUnexpectedEOF)), 0)
	if !errors.Is(err, ErrTruncated) {
		t.Errorf("%v", err)
	}
}

// What the reader says is found in the error, and what came before it is not lost.
func TestDecodeReaderFails(t *testing.T) {
	d := decoderOf(t, smallTable(t), 1)
	for _, cause := range []error{context.Canceled, context.DeadlineExceeded, errors.New("connection reset"), io.ErrClosedPipe} {
		got, err := runDecode(d, io.MultiReader(strings.NewReader(`{"value":[{"A":1,"B":"x"},{"A":2,"B":"y"},{"A":3`), iotest.ErrReader(cause)), 0)
		if !errors.Is(err, cause) || errors.Is(err, ErrTruncated) {
			t.Errorf("%v", err)
		}
		if len(got.Rows) != 2 || got.Answer.rows != 2 {
			t.Errorf("%+v", got)
		}
		_, err = runDecode(d, io.MultiReader(strings.NewReader(`{"value":[]}`), iotest.ErrReader(cause)), 0)
		if !errors.Is(err, cause) {
			t.Errorf("behind the end: %v", err)
		}
	}
	if _, err := runDecode(d, iotest.ErrReader(nil), 0); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("%v", err)
	}
}

func TestDecodeInStreamError(t *testing.T) {
	for body, want := range map[string]InStreamError{
		`{"error":{"code":"E1","message":"secret"}}`:                                      {Code: "E1"},
		`{"error":{"message":"secret"}}`:                                                  {},
		`{"error":{"code":null}}`:                                                         {},
		`{"error":{"code":500}}`:                                                          {Code: "500"},
		`{"error":{"code":{"secret":1}}}`:                                                 {},
		`{"error":"secret"}`:                                                              {},
		`{"error":{"code":"a\u0007` + strings.Repeat("b", 99) + `"}}`:                     {Code: "a?" + strings.Repeat("b", 62) + "…"},
		`{"value":[{"A":1,"B":"x"}],"error":{"code":"E2","message":"secret"}}`:            {Code: "E2"},
		`{"value":[{"A":1,"B":"x"},{"error":{"code":"E3","message":"secret"}}]}`:          {Code: "E3", Row: 2},
		`{"value":[{"A":1,"B":"x"},{"A":2,"error":{"code":"E4","innererror":"secret"}}`:   {Code: "E4", Row: 2},
		`{"@odata.context":"c","error":{"code":"E5","details":[{"message":"secret"}]}} x`: {Code: "E5"},
	} {
		want.Table = "T"
		got, err := sameHowever(t, func() *decoder { return decoderOf(t, smallTable(t), 0) }, []byte(body))
		var is *InStreamError
		if !errors.As(err, &is) || *is != want || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %+v, %v", body, is, err)
		}
		if got.Rows != nil {
			t.Errorf("%s: an incomplete record was emitted", body)
		}
	}
	for _, cut := range []string{`{"error":{"code":"E1"`, `{"value":[{"error":{"code":"E1"`} {
		if _, err := runDecode(decoderOf(t, smallTable(t), 0), strings.NewReader(cut), 0); !errors.Is(err, ErrTruncated) {
			t.Errorf("%s: %v", cut, err)
		}
	}
	// A table may have a column of that name.
	own := tableOf(t, edm.Column{Name: "error", Type: edm.Type{Kind: edm.MultiLanguage}})
	if got, err := runDecode(decoderOf(t, own, 0), strings.NewReader(answerOf(`{"error":{"code":1}}`)), 0); err != nil || got.Rows[0][0] != `{"code":1}` {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestDecodeLimits(t *testing.T) {
	lowered := func() *decoder {
		d := decoderOf(t, smallTable(t), 0)
		d.limits = decodeLimits{str: 100, row: 400, envelope: 300, blank: 8 << 10, record: 1 << 20}
		return d
	}
	x := func(n int) string { return strings.Repeat("x", n) }
	for body, problem := range map[string]string{
		answerOf(`{"A":1,"B":"` + x(100) + `"}`):                                                         "",
		answerOf(`{"A":1,"B":"` + x(101) + `"}`):                                                         "a string has more than 100 bytes",
		answerOf(`{"A":1,"B":"\n` + x(98) + `"}`):                                                        "",
		answerOf(`{"A":1,"B":"\n` + x(99) + `"}`):                                                        "a string has more than 100 bytes",
		answerOf(`{"A":1,"B":"\n` + x(5000) + `"}`):                                                      "a string has more than 100 bytes",
		answerOf(`{"A":1,"B":"x","` + x(101) + `":1}`):                                                   "a string has more than 100 bytes",
		answerOf(`{"A":1,` + strings.Repeat(" ", 390) + `"B":"x"}`):                                      "the row has more than 400 bytes",
		answerOf(`{"A":1,"B":"x","@a":[` + strings.Repeat("1,", 3000) + `1]}`):                           "the row has more than 400 bytes",
		answerOf(`{"A":1` + strings.Repeat("0", 5000) + `e-5000,"B":"x"}`):                               "the row has more than 400 bytes",
		`{"@x":[` + strings.Repeat("1,", 100) + `1],"value":[]}`:                                         "",
		`{"@x":[` + strings.Repeat("1,", 200) + `1],"value":[]}`:                                         "a value has more than 300 bytes",
		`{"` + x(101) + `":1,"value":[]}`:                                                                "a string has more than 100 bytes",
		`{"value":[]` + strings.Repeat(" ", 5000) + `,"@x":` + strings.Repeat(" ", 5000) + `1}`:          "",
		`{"value":[` + strings.Repeat(" ", 5000) + `{"A":1,"B":"x"}` + strings.Repeat("\n", 5000) + `]}`: "",
	} {
		_, err := sameHowever(t, lowered, []byte(body))
		var bad *DataError
		if problem == "" && err != nil || problem != "" && (!errors.As(err, &bad) || !strings.Contains(bad.Problem, problem)) {
			t.Errorf("%.40s…: %v, want %q", body, err, problem)
		}
	}
}

func TestDecodeRecords(t *testing.T) {
	var rows []string
	for i := range 1000 {
		rows = append(rows, fmt.Sprintf(`{"A":%d,"B":"%s"}`, i, strings.Repeat("y", i)))
	}
	sizes := func(batch int, record int64) []int64 {
		d := decoderOf(t, smallTable(t), batch)
		d.limits.record = record
		got, err := runDecode(d, strings.NewReader(answerOf(rows...)), 0)
		if err != nil || len(got.Rows) != 1000 || got.Answer.rows != 1000 {
			t.Fatal(got.Answer, err)
		}
		for i, row := range got.Rows {
			if row[0] != fmt.Sprint(i) || len(row[1]) != i {
				t.Fatal(i, row)
			}
		}
		return got.Sizes
	}
	if diff := cmp.Diff([]int64{400, 400, 200}, sizes(400, 1<<30)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]int64{500, 500}, sizes(500, 1<<30)); diff != "" {
		t.Error(diff)
	}
	if got := sizes(1, 1<<30); len(got) != 1000 {
		t.Error(got)
	}
	if diff := cmp.Diff([]int64{1000}, sizes(0, 1<<30)); diff != "" {
		t.Error(diff)
	}
	if got := sizes(400, 100_000); len(got) < 5 || got[0] != 400 || got[len(got)-2] > 150 {
		t.Errorf("%v: large rows do not make shorter records", got)
	}
}

// A record that was retained is never written to again, whatever the decoder does next.
func TestDecodeRetainedRecords(t *testing.T) {
	mem := checkedMemory(t)
	table := decodeTable(t)
	d, err := newDecoder(table, columnNames(table), 16, mem)
	if err != nil {
		t.Fatal(err)
	}
	var kept []arrow.Record
	var want [][][]string
	for p := range 5 {
		_, err := d.decode(strings.NewReader(randomPage(uint64(p), 100)), 0, func(r arrow.Record) error {
			r.Retain()
			kept = append(kept, r)
			want = append(want, cellsOf(r))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for i, r := range kept {
		if diff := cmp.Diff(want[i], cellsOf(r)); diff != "" {
			t.Fatalf("record %d has changed: %s", i, diff)
		}
		for j, c := range r.Columns() {
			if nulls := strings.Count(strings.Join(column0(want[i], j), " "), "null"); c.NullN() != nulls {
				t.Errorf("record %d, column %d counts %d nulls, has %d", i, j, c.NullN(), nulls)
			}
		}
		r.Release()
	}
}

func column0(rows [][]string, j int) (cells []string) {
	for _, r := range rows {
		cells = append(cells, r[j])
	}
	return cells
}

// randomPage has rows of decodeTable with many nulls.
func randomPage(seed uint64, n int) string {
	r := rand.New(rand.NewPCG(seed, 7))
	maybe := func(s string) string {
		if r.IntN(3) == 0 {
			return "null"
		}
		return s
	}
	rows := make([]string, n)
	for i := range rows {
		rows[i] = fmt.Sprintf(`{"Id":"%08x-0000-0000-0000-000000000000","Name":%s,"Label":%s,"Void":%s,"B":%s,"I16":%s,"I32":%s,"I64":%s,"Price":%s,"Big":%s,"F":%s,"Day":%s,"At":%s,"Clock":%s,"Bin":%s}`,
			r.Uint32(), maybe(`"`+strings.Repeat("ж", r.IntN(20))+`"`), maybe(`{"EN":"x"}`), maybe(fmt.Sprint(r.IntN(2) == 0)), maybe(fmt.Sprint(r.IntN(256))), maybe("-7"), maybe(fmt.Sprint(r.Int32())),
			maybe(fmt.Sprint(r.Int64())), maybe(fmt.Sprintf("%d.%02d", r.IntN(1000), r.IntN(100))), maybe("1e5"), maybe("2.5"), maybe(`"2024-01-01"`), maybe(`"2024-01-01T00:00:00Z"`), maybe(`"10:00"`), maybe(`"AAAA"`))
	}
	return answerOf(rows...)
}

// Nothing is left in memory when decoding fails, at whatever point; and the decoder can be used again.
func TestDecodeFailuresLeaveNothing(t *testing.T) {
	mem := checkedMemory(t)
	table := decodeTable(t)
	d, err := newDecoder(table, columnNames(table), 16, mem)
	if err != nil {
		t.Fatal(err)
	}
	data := randomPage(3, 50)
	full := errors.New("the disk is full")
	for fail := range 4 {
		calls := 0
		a, err := d.decode(strings.NewReader(data), 0, func(arrow.Record) error {
			if calls++; calls > fail {
				return full
			}
			return nil
		})
		if err != full || calls != fail+1 || a.rows != int64(min(50, 16*(fail+1))) {
			t.Errorf("%v after %d calls and %d rows", err, calls, a.rows)
		}
	}
	r := rand.New(rand.NewPCG(5, 5))
	for range 300 {
		bad := []byte(data)
		bad[r.IntN(len(bad))] = byte(r.Uint32())
		runDecode(d, bytes.NewReader(bad), 0)
		runDecode(d, bytes.NewReader(bad[:r.IntN(len(bad))]), 0)
		if n := mem.CurrentAlloc(); n != 0 {
			t.Fatalf("%d bytes are left", n)
		}
	}
	if got, err := runDecode(d, strings.NewReader(data), 0); err != nil || got.Answer.rows != 50 {
		t.Errorf("%+v, %v", got.Answer, err)
	}
}

// endless is an answer of n rows of which only one is ever in memory.
type endless struct {
	head, row, tail string
	n               int
	now             string
}

func (e *endless) Read(p []byte) (int, error) {
	if e.now == "" {
		switch e.n--; {
		case e.head != "":
			e.now, e.head = e.head, ""
		case e.n > 0:
			e.now = e.row
		case e.tail != "":
			e.now, e.tail = e.tail, ""
		default:
			return 0, io.EOF
		}
	}
	n := copy(p, e.now)
	e.now = e.now[n:]
	return n, nil
}

func TestDecodeMemoryIsThatOfOneRecord(t *testing.T) {
	mem := checkedMemory(t)
	d, err := newDecoder(smallTable(t), []string{"A", "B"}, 2048, mem)
	if err != nil {
		t.Fatal(err)
	}
	row := `{"A":1,"B":"` + strings.Repeat("x", 100) + `"}`
	most := 0
	a, err := d.decode(&endless{head: `{"value":[` + row, row: "," + row, tail: "]}", n: 200_000}, 0, func(arrow.Record) error {
		most = max(most, mem.CurrentAlloc())
		return nil
	})
	if err != nil || a.rows < 199_000 {
		t.Fatal(a, err)
	}
	if most > 1<<20 || len(d.w.buf) != windowSize {
		t.Errorf("%d bytes of columns, a window of %d for an answer of %d", most, len(d.w.buf), a.bytes)
	}
}

func TestDecodeDoesNotAllocatePerRow(t *testing.T) {
	data := benchPage(2000)
	d := decoderOf(t, benchTable(t), 2048)
	allocs := testing.AllocsPerRun(5, func() {
		if _, err := d.decode(bytes.NewReader(data), 0, func(arrow.Record) error { return nil }); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 500 {
		t.Errorf("%.0f allocations for a record of 20 columns and 2,000 rows", allocs)
	}
}

// A window that one row made huge is given back after the answer.
func TestDecodeWindowShrinks(t *testing.T) {
	d := decoderOf(t, smallTable(t), 0)
	huge := answerOf(`{"A":1,"B":"` + strings.Repeat("x", 5<<20) + `"}`)
	for _, body := range []string{huge, answerOf(`{"A":1,"B":"\n` + strings.Repeat("x", 5<<20) + `"}`), answerOf()} {
		if _, err := runDecode(d, strings.NewReader(body), 0); err != nil {
			t.Fatal(err)
		}
	}
	if len(d.w.buf) > windowKeep || cap(d.text) > windowKeep {
		t.Errorf("%d bytes of window, %d of text are kept", len(d.w.buf), cap(d.text))
	}
}
