package odata

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/google/go-cmp/cmp"

	"github.com/tablexport/tablexport/odata/edm"
)

// FuzzDecode feeds anything to a decoder of every kind of column. Whatever comes: the outcome does not
// depend on how the bytes arrive, an error is one of those that are documented, what is emitted is sound,
// and nothing is left in memory.
func FuzzDecode(f *testing.F) {
	table := decodeTable(f)
	for _, v := range valueRules {
		f.Add([]byte(answerOf(`{"` + v.column + `":` + v.json + `}`)))
	}
	f.Add([]byte(randomPage(1, 3)))
	f.Add([]byte(`{"@odata.count":1,"value":[{"error":{"code":"x"}}`))
	all := columnNames(table)
	f.Fuzz(func(t *testing.T, data []byte) {
		mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
		for _, columns := range [][]string{all, {"Id"}, {"Price"}, {"At", "Name"}} {
			fresh := func() *decoder {
				d, err := newDecoder(table, columns, 2, mem)
				if err != nil {
					t.Fatal(err)
				}
				d.limits = decodeLimits{str: 1 << 10, row: 4 << 10, envelope: 1 << 10, blank: 8 << 10, record: 2 << 10}
				d.w = smallWindow(2 << 10)
				return d
			}
			_, err := sameHowever(t, fresh, data)
			checkErrorType(t, err)
			_, _ = fresh().decode(bytes.NewReader(data), 0, func(r arrow.Record) error {
				checkRecord(t, r)
				return nil
			})
		}
		mem.AssertSize(t, 0)
	})
}

func checkErrorType(t *testing.T, err error) {
	var data *DataError
	var malformed *MalformedError
	var inStream *InStreamError
	if err == nil || errors.Is(err, ErrTruncated) || errors.As(err, &data) || errors.As(err, &malformed) || errors.As(err, &inStream) {
		return
	}
	t.Fatalf("an error of no documented type: %v", err)
}

func checkRecord(t *testing.T, r arrow.Record) {
	for i, c := range r.Columns() {
		f := r.Schema().Field(i)
		if c.Len() != int(r.NumRows()) || !f.Nullable && c.NullN() > 0 {
			t.Fatalf("column %s: %d values, %d nulls", f.Name, c.Len(), c.NullN())
		}
		nulls := 0
		for j := range c.Len() {
			if c.IsNull(j) {
				nulls++
			}
			if s, ok := c.(*array.String); ok && !utf8.ValidString(s.Value(j)) {
				t.Fatalf("column %s: no UTF-8", f.Name)
			}
			if d, ok := c.(*array.Decimal128); ok {
				kind := f.Type.(*arrow.Decimal128Type)
				if limit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(kind.Precision)), nil); d.Value(j).BigInt().CmpAbs(limit) >= 0 {
					t.Fatalf("column %s: more than %d digits", f.Name, kind.Precision)
				}
			}
		}
		if nulls != c.NullN() {
			t.Fatalf("column %s: %d nulls, counted %d", f.Name, nulls, c.NullN())
		}
	}
}

// oracleTable is the schema on which the decoder is compared with encoding/json.
func oracleTable(tb testing.TB) *edm.Table {
	return tableOf(tb,
		edm.Column{Name: "s", Type: edm.Type{Kind: edm.String}, Nullable: true},
		edm.Column{Name: "i", Type: edm.Type{Kind: edm.Int64}},
		edm.Column{Name: "d", Type: edm.Type{Kind: edm.Decimal, Precision: 20, Scale: 3}, Nullable: true},
		edm.Column{Name: "f", Type: edm.Type{Kind: edm.Double}, Nullable: true},
		edm.Column{Name: "b", Type: edm.Type{Kind: edm.Boolean}, Nullable: true},
		edm.Column{Name: "m", Type: edm.Type{Kind: edm.MultiLanguage}, Nullable: true},
	)
}

// FuzzDecodeAgainstEncodingJSON compares with a decoder that is slow, obvious, and built on encoding/json
// and math/big: both accept the same answers, and read the same from them.
func FuzzDecodeAgainstEncodingJSON(f *testing.F) {
	table := oracleTable(f)
	row := `{"s":"a\u00e9\n","i":-9223372036854775808,"d":1.5E2,"f":-0.1e-7,"b":true,"m":{"EN": ["x", 1.0, null]}}`
	for _, doc := range []string{
		answerOf(row, row), answerOf(`{"m":null,"b":null,"f":"NaN","d":null,"i":"1","s":null}`), answerOf(`{"@odata.etag":[{}],"s":"","i":1.0,"d":"0.000","f":0,"b":false,"m":"x"}`),
		`{"value":[],"@odata.nextLink":"n","@odata.count":3,"@z":{"a":[1,2,{"b":"\ud83d\ude00"}]}}`, `{"value":[],"value":[]}`, `{"error":{}}`, `[]`,
		answerOf(`{"s":"\ud800","i":0,"d":0,"f":0,"b":true,"m":[]}`), answerOf(`{"s":"","i":1e-3,"d":1e17,"f":1e999,"b":true,"m":[]}`), answerOf(`{"s":"","i":1,"d":0.0005,"f":1,"b":true,"m":7}`),
		answerOf(`{"s":"` + "\xff" + `","i":1,"d":1,"f":1,"b":true,"m":7}`), answerOf(`{"s":"","s":"","i":1,"d":1,"f":1,"b":true,"m":{}}`), answerOf(`{"x":1}`),
	} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d := decoderOf(t, table, 3)
		got, err := runDecode(d, bytes.NewReader(data), 0)
		want, problem := oracleDecode(data)
		if (err == nil) != (problem == "") {
			t.Fatalf("the decoder says %v, the oracle %q", err, problem)
		}
		if err != nil {
			// Sound JSON in the form of an answer is never called damaged.
			var bad *MalformedError
			if soundJSON(data) && (errors.Is(err, ErrTruncated) || errors.As(err, &bad) && !strings.HasPrefix(problem, "envelope")) {
				t.Fatalf("%v, but it is JSON (%s)", err, problem)
			}
			return
		}
		if diff := cmp.Diff(want.Rows, got.Rows); diff != "" {
			t.Fatal(diff)
		}
		if want.Answer.nextLink != got.Answer.nextLink || want.Answer.count != got.Answer.count || int(got.Answer.rows) != len(want.Rows) {
			t.Fatalf("%+v, want %+v", got.Answer, want.Answer)
		}
	})
}

func soundJSON(data []byte) bool { return json.Valid(data) && utf8.Valid(data) }

// node is a JSON value with the order and the repetitions of its members.
type node struct {
	token   json.Token // json.Delim for arrays and objects
	names   []string
	values  []node
	raw     string // as it was written
	nesting int
}

func parseNode(dec *json.Decoder, data []byte) (n node) {
	before := int(dec.InputOffset())
	n.token, _ = dec.Token()
	if open, ok := n.token.(json.Delim); ok {
		n.nesting = 1
		for dec.More() {
			if open == '{' {
				name, _ := dec.Token()
				n.names = append(n.names, name.(string))
			}
			v := parseNode(dec, data)
			n.nesting = max(n.nesting, v.nesting+1)
			n.values = append(n.values, v)
		}
		_, _ = dec.Token()
	}
	n.raw = strings.TrimLeft(string(data[before:dec.InputOffset()]), ",: \t\r\n")
	return n
}

// anyEscape finds each escape sequence; what is found at a surrogate tells whether it is half of a pair.
var anyEscape = regexp.MustCompile(`(?i)\\u(d[89ab]..)\\u(d[c-f]..)|\\u(d[89a-f]..)|\\.`)

func hasLoneSurrogate(data []byte) bool {
	for _, m := range anyEscape.FindAllSubmatch(data, -1) {
		if m[3] != nil {
			return true
		}
	}
	return false
}

var errorRefusal = "refused"

// oracle reads an answer of oracleTable. problem is "" if it is accepted.
func oracleDecode(data []byte) (o outcome, problem string) {
	if !soundJSON(data) {
		return o, "no JSON"
	}
	if hasLoneSurrogate(data) {
		return o, errorRefusal
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	root := parseNode(dec, data)
	if root.token != json.Delim('{') {
		return o, "envelope: no object"
	}
	o.Answer.count = -1
	seen := map[string]bool{}
	for i, name := range root.names {
		v := root.values[i]
		short := name
		for _, prefix := range []string{"@odata.", "odata."} {
			if strings.HasPrefix(name, prefix) {
				short = "@" + strings.TrimPrefix(name, prefix)
				break
			}
		}
		if seen[short] {
			return o, "envelope: twice"
		}
		seen[short] = true
		switch {
		case short == "value":
			if problem := o.rows(v); problem != "" {
				return o, problem
			}
		case short == "@nextLink" && v.token != nil:
			link, ok := v.token.(string)
			if !ok {
				return o, errorRefusal
			}
			o.Answer.nextLink = link
		case short == "@count" && v.token != nil:
			n, ok := exactInteger(v)
			if !ok || n < 0 {
				return o, errorRefusal
			}
			o.Answer.count = n
		case !strings.Contains(short, "@") || v.nesting > mostNested:
			return o, errorRefusal
		}
	}
	if !seen["value"] {
		return o, "envelope: no value"
	}
	return o, ""
}

func (o *outcome) rows(v node) (problem string) {
	if v.token != json.Delim('[') {
		return "envelope: value is no array"
	}
	for _, row := range v.values {
		cells := map[string]string{}
		if row.token != json.Delim('{') {
			return errorRefusal
		}
		for i, name := range row.names {
			if !strings.Contains("s i d f b m", name) || len(name) != 1 || name == " " {
				if !strings.Contains(name, "@") && !strings.HasPrefix(name, "odata.") || row.values[i].nesting > mostNested {
					return errorRefusal
				}
				continue
			}
			text, ok := oracleCell(name, row.values[i])
			if _, twice := cells[name]; twice || !ok {
				return errorRefusal
			}
			cells[name] = text
		}
		if len(cells) != 6 {
			return errorRefusal
		}
		o.Rows = append(o.Rows, []string{cells["s"], cells["i"], cells["d"], cells["f"], cells["b"], cells["m"]})
	}
	return ""
}

func oracleCell(column string, v node) (string, bool) {
	if v.token == nil {
		return "null", column != "i"
	}
	text, isString := v.token.(string)
	number, isNumber := v.token.(json.Number)
	switch column {
	case "s":
		return text, isString
	case "i":
		n, ok := exactInteger(v)
		return strconv.FormatInt(n, 10), ok
	case "d":
		r, ok := exactNumber(v)
		if !ok {
			return "", false
		}
		r.Mul(r, big.NewRat(1000, 1))
		if !r.IsInt() || r.Num().CmpAbs(new(big.Int).Exp(big.NewInt(10), big.NewInt(20), nil)) >= 0 {
			return "", false
		}
		return r.Quo(r, big.NewRat(1000, 1)).FloatString(3), true
	case "f":
		switch text {
		case "INF", "-INF", "NaN":
			f, _ := strconv.ParseFloat(strings.ToLower(text), 64)
			return fmt.Sprint(f), true
		}
		f, err := strconv.ParseFloat(string(number), 64)
		return strconv.FormatFloat(f, 'g', -1, 64), isNumber && err == nil
	case "b":
		b, ok := v.token.(bool)
		return strconv.FormatBool(b), ok
	}
	if isString {
		return text, true
	}
	var compact bytes.Buffer
	if _, ok := v.token.(json.Delim); !ok || v.nesting > mostNested || json.Compact(&compact, []byte(v.raw)) != nil {
		return "", false
	}
	return compact.String(), true
}

var jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

// exactNumber reads a number, or a string that holds one. Exponents too large for math/big are judged by hand.
func exactNumber(v node) (*big.Rat, bool) {
	text := fmt.Sprint(v.token)
	if _, isBool := v.token.(bool); isBool || !jsonNumber.MatchString(text) {
		return nil, false
	}
	mantissa, exponent, found := strings.Cut(strings.ToLower(text), "e")
	if found && strings.Trim(mantissa, "-0.") == "" {
		return new(big.Rat), true
	}
	if e, err := strconv.Atoi(exponent); found && (err != nil || e > 100_000 || e < -100_000) {
		return nil, false // no input is long enough to bring it back into range
	}
	return new(big.Rat).SetString(text)
}

func exactInteger(v node) (int64, bool) {
	r, ok := exactNumber(v)
	if !ok || !r.IsInt() || !r.Num().IsInt64() {
		return 0, false
	}
	return r.Num().Int64(), true
}
