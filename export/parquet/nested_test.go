package parquet

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var twoStructs = []Struct{
	{Name: "one", Fields: []StructField{{"name", Text}, {"tags", Map}, {"n", Long}}},
	{Name: "two", Fields: []StructField{{"in.text", Text}, {"in.options", Map}, {"list", Texts}, {"i", Int}, {"b", Bool}}},
}

func structRow(t *rapid.T) StructRow {
	text := rapid.StringN(0, 8, 30)
	maybe := func(v any) any {
		if rapid.IntRange(0, 3).Draw(t, "null") == 0 {
			return nil
		}
		return v
	}
	m := map[string]*string{}
	for range rapid.IntRange(0, 3).Draw(t, "entries") {
		var p *string
		if rapid.Bool().Draw(t, "set") {
			v := text.Draw(t, "value")
			p = &v
		}
		m[text.Draw(t, "key")] = p
	}
	if rapid.Bool().Draw(t, "one") {
		return StructRow{0, []any{maybe(text.Draw(t, "name")), maybe(m), maybe(rapid.Int64().Draw(t, "n"))}}
	}
	list := []string{}
	for range rapid.IntRange(0, 3).Draw(t, "items") {
		list = append(list, text.Draw(t, "item"))
	}
	return StructRow{1, []any{maybe(text.Draw(t, "text")), maybe(m), maybe(list), maybe(rapid.Int32().Draw(t, "i")), maybe(rapid.Bool().Draw(t, "b"))}}
}

// show writes a row so that null and empty, and every value, can be told apart.
func show(r StructRow) string {
	var b strings.Builder
	fmt.Fprint(&b, r.Struct)
	for _, v := range r.Values {
		if m, ok := v.(map[string]*string); ok {
			b.WriteString(" map")
			for _, k := range slices.Sorted(maps.Keys(m)) {
				if m[k] == nil {
					fmt.Fprintf(&b, " %q:nil", k)
				} else {
					fmt.Fprintf(&b, " %q:%q", k, *m[k])
				}
			}
			continue
		}
		fmt.Fprintf(&b, " %#v", v)
	}
	return b.String()
}

func readStructs(data []byte, structs []Struct) (out []string, err error) {
	for row, err := range Structs(bytes.NewReader(data), int64(len(data)), structs) {
		if err != nil {
			return out, err
		}
		out = append(out, show(row))
	}
	return out, nil
}

func TestStructsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := rapid.SliceOfN(rapid.Custom(structRow), 0, 60).Draw(t, "rows")
		var want []string
		for _, r := range rows {
			want = append(want, show(r))
		}
		var buf bytes.Buffer
		n, err := WriteStructs(&buf, twoStructs, slices.Values(rows))
		if err != nil || n != int64(len(rows)) {
			t.Fatal(n, err)
		}
		got, err := readStructs(buf.Bytes(), twoStructs)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("%v\n%q\nwant\n%q", err, got, want)
		}
		// A reader that knows one of them, and a field that is not there.
		fewer := []Struct{{Name: "one", Fields: []StructField{{"n", Long}, {"later", Text}}}}
		got, err = readStructs(buf.Bytes(), fewer)
		if err != nil {
			t.Fatal(err)
		}
		want = nil
		for _, r := range rows {
			if r.Struct == 0 {
				want = append(want, show(StructRow{0, []any{r.Values[2], nil}}))
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%q\nwant\n%q", got, want)
		}
	})
}

// More rows than a row group takes.
func TestStructsManyRows(t *testing.T) {
	const rows = 2*structGroupRows + 5
	var buf bytes.Buffer
	n, err := WriteStructs(&buf, twoStructs, func(yield func(StructRow) bool) {
		for i := range rows {
			if !yield(StructRow{0, []any{fmt.Sprint("file-", i), map[string]*string{}, int64(i)}}) {
				return
			}
		}
	})
	if err != nil || n != rows {
		t.Fatal(n, err)
	}
	at := 0
	for row, err := range Structs(bytes.NewReader(buf.Bytes()), int64(buf.Len()), twoStructs) {
		if err != nil || row.Values[2] != int64(at) {
			t.Fatal(at, row, err)
		}
		at++
	}
	if at != rows {
		t.Fatal(at)
	}
}

// Damage is an error or does not matter; it never panics.
func TestStructsDamaged(t *testing.T) {
	var buf bytes.Buffer
	key, value := "tablexport.run", "r1"
	rows := make([]StructRow, 200)
	for i := range rows {
		rows[i] = StructRow{0, []any{fmt.Sprint(i), map[string]*string{key: &value, "x": nil}, int64(i)}}
	}
	if _, err := WriteStructs(&buf, twoStructs, slices.Values(rows)); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		bad := bytes.Clone(buf.Bytes())
		bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
		_, _ = readStructs(bad, twoStructs)
		if _, err := readStructs(bad[:r.IntN(len(bad))], twoStructs); err == nil {
			t.Fatal("a cut file was read")
		}
	}
	if _, err := readStructs(buf.Bytes(), []Struct{{Name: "one", Fields: []StructField{{"name", Long}}}}); err == nil || !strings.Contains(err.Error(), `column "one.name"`) {
		t.Fatal(err)
	}
}
