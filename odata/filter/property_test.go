package filter

import (
	"errors"
	"flag"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/tablexport/tablexport/odata/edm"
)

// TestMain lets the properties see more than rapid's hundred cases, unless the command line says otherwise.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		if err := flag.Set("rapid.checks", "1000"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

func drawGUID(t *rapid.T, label string) string {
	return rapid.StringMatching(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`).Draw(t, label)
}

// nasty draws texts that try to end the literal, the query or the URL.
func nasty() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.String().Filter(func(s string) bool { return !strings.ContainsRune(s, 0) }),
		rapid.StringMatching(`['%&=?#/+() ,;a-z"\\]{0,20}`),
		rapid.SampledFrom([]string{"'", "''", "' or Id ne null or Text eq '", "') or (1 eq 1", "x'&$select=*", "%27", "\n", "’", "null", "true"}),
	)
}

// drawValue draws the bare text of a value of the column.
func drawValue(t *rapid.T, c *edm.Column) string {
	switch c.Type.Kind {
	case edm.Guid:
		return drawGUID(t, "guid")
	case edm.String, edm.MultiLanguage:
		return nasty().Draw(t, "text")
	case edm.Boolean:
		return strconv.FormatBool(rapid.Bool().Draw(t, "bool"))
	case edm.Byte:
		return strconv.Itoa(rapid.IntRange(0, 255).Draw(t, "byte"))
	case edm.Int16:
		return strconv.Itoa(int(rapid.Int16().Draw(t, "int16")))
	case edm.Int32:
		return strconv.Itoa(int(rapid.Int32().Draw(t, "int32")))
	case edm.Int64:
		return strconv.FormatInt(rapid.Int64().Draw(t, "int64"), 10)
	case edm.Decimal:
		pattern := `-?[0-9]{1,5}`
		if c.Type.Scale > 0 {
			pattern = `-?[0-9]{0,9}\.[0-9]{1,3}`
		}
		return rapid.StringMatching(pattern).Draw(t, "decimal")
	case edm.Double:
		return strconv.FormatFloat(rapid.Float64().Draw(t, "double"), 'g', -1, 64)
	case edm.Date:
		return drawTime(t).Format("2006-01-02")
	case edm.DateTime:
		return drawTime(t).Format(instant)
	case edm.TimeOfDay:
		return drawTime(t).Format("15:04:05.9999999")
	}
	return ""
}

func drawTime(t *rapid.T) time.Time {
	const first, last = -62135596800, 253402300799 // 0001-01-01, 9999-12-31
	return time.Unix(rapid.Int64Range(first, last).Draw(t, "s"), 100*rapid.Int64Range(0, 9999999).Draw(t, "100ns")).UTC()
}

// drawBound draws a filter over everyKind's table, made by code.
func drawBound(t *rapid.T, table *edm.Table) Bound {
	var all []Bound
	for range rapid.IntRange(0, 5).Draw(t, "terms") {
		c := &table.Columns[rapid.IntRange(0, len(table.Columns)-1).Draw(t, "column")]
		if c.Type.Kind == edm.Binary || c.Type.Kind == edm.Invalid {
			continue
		}
		ops := []Op{Eq, In}
		if c.Type.Kind != edm.Boolean {
			ops = append(ops, Ge, Le)
		}
		if c.Type.Kind == edm.String || c.Type.Kind == edm.MultiLanguage {
			ops = append(ops, Like)
		}
		op := rapid.SampledFrom(ops).Draw(t, "op")
		values := []string{drawValue(t, c)}
		if op == In {
			for range rapid.IntRange(0, 3).Draw(t, "more") {
				values = append(values, drawValue(t, c))
			}
		}
		b, err := keyTerm(table, c.Name, op, values...)
		if err != nil {
			t.Fatalf("%s %s %q: %v", c.Name, op, values, err)
		}
		if rapid.Bool().Draw(t, "path") {
			b.terms[0].Path = append([]string{"Order_Reference"}, b.terms[0].Path...)
			b.terms[0].To.Hops = []*edm.Column{{}}
		}
		all = append(all, b)
	}
	return And(all...)
}

func TestParsingWhatWasRenderedGivesTheSame(t *testing.T) {
	m, table := everyKind(t)
	rapid.Check(t, func(t *rapid.T) {
		b := drawBound(t, table)
		text := b.Render()
		again, err := Compile(text, m, table)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if !again.Equal(b) || again.Render() != text {
			t.Fatalf("%s became %s", text, again.Render())
		}
		// Percent-encoded once and decoded once, it is the same text: nothing breaks out of the query.
		values, err := url.ParseQuery("$filter=" + url.QueryEscape(text) + "&$top=1")
		if err != nil || len(values) != 2 || values.Get("$filter") != text {
			t.Fatalf("%s in a URL: %v", text, err)
		}
	})
}

// Whatever a text holds, it stays one value of one comparison.
func TestNoTextBreaksOut(t *testing.T) {
	m, table := everyKind(t)
	rapid.Check(t, func(t *rapid.T) {
		value := nasty().Draw(t, "value")
		b, err := KeyIn(table, "Text", []string{value})
		if err != nil {
			t.Fatalf("%q: %v", value, err)
		}
		again, err := Compile(b.Render(), m, table)
		if err != nil {
			t.Fatalf("%q: %v", value, err)
		}
		terms := again.Terms()
		if len(terms) != 1 || terms[0].Op != Eq || len(terms[0].Values) != 1 || terms[0].Values[0].Text() != value || terms[0].Values[0].IsNull() {
			t.Fatalf("%q became %s", value, again)
		}
		// As a value of any other type, it is either refused or holds no character that could end it.
		for i := range table.Columns {
			c := &table.Columns[i]
			b, err := KeyFrom(table, c.Name, value)
			if err == nil && c.Type.Kind != edm.String && c.Type.Kind != edm.MultiLanguage &&
				strings.ContainsAny(b.terms[0].Values[0].String(), "'\"()&=?#, \n") {
				t.Fatalf("%q became %s", value, b)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	m, table := everyKind(f)
	for _, text := range []string{
		"", "Id eq " + g1, "(Id eq '" + g1 + "' or Id eq " + g2 + ")", "Text eq 'O''Neill' and Free like '%x'", "Int ge 1 and Int le 2 or Int eq 3",
		"not (Flag eq true)", "contains(Text,'x') and Lines/any(l: l/Int gt 5)", "Dec ge -12.5e1", "Day le 2023-01-31T23:59:59Z", "Time ge 2023-01-31T00:00:00.1234567+02:00",
		"Clock ge 08:30", "Order_Reference/Int in (1,2,3)", "Float eq 1e308", "Text in ('','''')", "Flag", "30 le Int", "Int add 1 ge 2", "Text eq null", "datetime'2023'",
		"\xff", "((((((", "'", "A = \"b\"", "Whole gt 9 and Big lt -9223372036854775808", "Multi ne 'x'", "Day gt 9999-12-31", "Day ge 9999-12-31T23:00:00Z",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		syntax := CheckSyntax(text)
		b, err := Compile(text, m, table)
		if err != nil {
			var all Problems
			if !errors.As(err, &all) || len(all) == 0 {
				t.Fatalf("%q: the error is %T", text, err)
			}
			for _, p := range all {
				if p.Offset < 0 || p.Offset > len(text) || p.Text == "" {
					t.Fatalf("%q: problem %+v", text, p)
				}
			}
			return
		}
		if syntax != nil {
			t.Fatalf("%q compiles, but CheckSyntax says %v", text, syntax)
		}
		rendered := b.Render()
		again, err := Compile(rendered, m, table)
		if err != nil || !again.Equal(b) || again.Render() != rendered || !utf8.ValidString(rendered) {
			t.Fatalf("%q renders as %q, which compiles to %q, %v", text, rendered, again.Render(), err)
		}
		b.Notes()
		b.Split()
	})
}
