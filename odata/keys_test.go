package odata

import (
	"bytes"
	"cmp"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"pgregory.net/rapid"

	"github.com/tablexport/tablexport/odata/edm"
)

func keyTable(tb interface{ Fatal(...any) }, kinds ...edm.Kind) *edm.Table {
	var columns []edm.Column
	for i, k := range kinds {
		columns = append(columns, edm.Column{Name: string(rune('A' + i)), Type: edm.Type{Kind: k}, Key: true, Nullable: true})
	}
	m, err := edm.New(edm.Table{Name: "T", Columns: columns})
	if err != nil {
		tb.Fatal(err)
	}
	t, _ := m.Table("T")
	return t
}

func oneRecord(schema *arrow.Schema, fill func(*array.RecordBuilder)) arrow.Record {
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	fill(b)
	return b.NewRecord()
}

// Encoded keys compare as the server compares the keys: GUIDs as SQL Server does, numbers as numbers,
// the first column first.
func TestKeysCompareAsTheServerDoes(t *testing.T) {
	table := keyTable(t, edm.Guid, edm.Int32, edm.Int64)
	columns := []string{"A", "B", "C"}
	schema, err := ArrowSchema(table, columns)
	if err != nil {
		t.Fatal(err)
	}
	enc := newKeyEncoder(table, columns, table.Key)
	if !enc.ordered {
		t.Fatal("not ordered")
	}
	type key struct {
		guid string
		n    int32
		m    int64
	}
	gen := rapid.Custom(func(t *rapid.T) key {
		return key{
			rapid.SampledFrom([]string{
				"00000000-0000-0000-0000-000000000000", "ff000000-0000-0000-0000-000000000000", "00000000-0000-0000-0000-000000000001",
				"00000000-0000-0000-0100-000000000000", "00000000-0000-00ff-0000-000000000000", "00000000-ff00-0000-0000-000000000000",
			}).Draw(t, "guid"),
			rapid.Int32().Draw(t, "n"), rapid.Int64().Draw(t, "m"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := gen.Draw(t, "a"), gen.Draw(t, "b")
		if rapid.Bool().Draw(t, "same") {
			b.guid, b.n = a.guid, a.n
		}
		rec := oneRecord(schema, func(rb *array.RecordBuilder) {
			for _, k := range []key{a, b} {
				rb.Field(0).(*array.StringBuilder).Append(k.guid)
				rb.Field(1).(*array.Int32Builder).Append(k.n)
				rb.Field(2).(*array.Int64Builder).Append(k.m)
			}
		})
		defer rec.Release()
		want := cmp.Or(edm.CompareGUID(a.guid, b.guid), cmp.Compare(a.n, b.n), cmp.Compare(a.m, b.m))
		keys := enc.bind(rec)
		if got := bytes.Compare(keys.append(nil, 0), keys.append(nil, 1)); got != want {
			t.Fatalf("%v and %v: %d, want %d", a, b, got, want)
		}
	})
}

// Rows of texts with different borders are different, and so is NULL from the empty text.
func TestRowsAreToldApart(t *testing.T) {
	table := keyTable(t, edm.String, edm.String)
	schema, err := ArrowSchema(table, []string{"A", "B"})
	if err != nil {
		t.Fatal(err)
	}
	if newKeyEncoder(table, []string{"A", "B"}, table.Key).ordered {
		t.Error("texts are ordered by a collation that nobody knows here")
	}
	rows := [][2]any{{"a", "bc"}, {"ab", "c"}, {"", "abc"}, {nil, "abc"}, {"abc", nil}, {"abc", ""}, {nil, nil}, {"", ""}}
	rec := oneRecord(schema, func(rb *array.RecordBuilder) {
		for _, r := range rows {
			for i, v := range r {
				if v == nil {
					rb.Field(i).AppendNull()
				} else {
					rb.Field(i).(*array.StringBuilder).Append(v.(string))
				}
			}
		}
	})
	defer rec.Release()
	seen := map[string]int{}
	for i := range rows {
		text := string(appendRow(nil, rec, i))
		if j, ok := seen[text]; ok {
			t.Errorf("rows %v and %v look the same", rows[i], rows[j])
		}
		seen[text] = i
	}
}

func TestBagIgnoresOrderAndCountsRepetitions(t *testing.T) {
	h := newHasher()
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(rapid.StringMatching(`[ab]{1,2}`), 0, 8).Draw(t, "words")
		var a, b, c bag
		for _, w := range words {
			a.add(h.digest([]byte(w)))
		}
		for _, w := range rapid.Permutation(words).Draw(t, "permuted") {
			b.add(h.digest([]byte(w)))
		}
		if a != b {
			t.Fatal("the order matters")
		}
		c.merge(b)
		c.add(h.digest([]byte("a")))
		c.add(h.digest([]byte("a")))
		if a == c {
			t.Fatal("two more of the same cancel out")
		}
	})
}

func nthDigest(i uint64) digest { return digest{hi: i * 0x9e3779b97f4a7c15, lo: i} }

func TestDistinct(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for _, tt := range []struct {
		n, limit uint64
		repeat   bool
	}{{0, 10, false}, {5, 10, false}, {5, 10, true}, {10, 10, true}, {5000, 10, false}, {5000, 10, true}, {5000, 4999, true}} {
		s := newDistinct(int(tt.limit))
		noticed := false
		for i := range tt.n {
			if r, err := s.add(nthDigest(i)); err != nil || r {
				t.Fatal(r, err)
			}
		}
		if tt.repeat {
			var err error
			if noticed, err = s.add(nthDigest(3)); err != nil {
				t.Fatal(err)
			}
		}
		n, err := s.count()
		if err != nil || n != int64(tt.n) {
			t.Errorf("%+v: counted %d, %v", tt, n, err)
		}
		if tt.repeat && tt.n <= tt.limit && !noticed {
			t.Errorf("%+v: the repetition was not noticed at once", tt)
		}
		s.close()
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDistinctWithoutRoom(t *testing.T) {
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "missing"))
	s := newDistinct(2)
	defer s.close()
	var err error
	for i := uint64(0); i < 1<<20 && err == nil; i++ {
		_, err = s.add(nthDigest(i))
	}
	if err == nil || !strings.Contains(err.Error(), "TMPDIR") {
		t.Error(err)
	}
}

// Whatever a server writes as next link: what is followed is on the host and below the Table API.
func FuzzNextLink(f *testing.F) {
	for _, s := range []string{
		"T?$skiptoken=x", "/tableapi/odata/T", "/tableapi/odata", "//evil.example/tableapi/odata/T", "https://acme.example@evil.example/", "..", "../../id", "%2e%2e/%2e%2e/x",
		"https://ACME.example:443/tableapi/odata/T", "http://acme.example/tableapi/odata/T", "?$skip=5", "#x", "\\\\evil.example\\x", "https:/tableapi/odata/",
		"https://acme.example/tableapi/odata/..%2f..%2fid", "https://acme.example/tableapi/odatax/T",
		"/tableapi//odata/T", "/tableapi/./odata/T", "/tableapi%2fodata/T", "/tableapi/odata%2fT", "/tableapi/odata/%252e%252e/T",
	} {
		f.Add(s)
	}
	base, _ := url.Parse("https://acme.example/tableapi/odata/")
	from, _ := url.Parse("https://acme.example/tableapi/odata/T?$top=5")
	f.Fuzz(func(t *testing.T, link string) {
		u, why := followable(link, from, base)
		if why != "" {
			return
		}
		again, err := url.Parse(u.String())
		if err != nil || again.Scheme != "https" || hostOf(again) != "acme.example" || again.User != nil ||
			!strings.HasPrefix(again.Path, base.Path) || !strings.HasPrefix(again.EscapedPath(), base.Path) || strings.Contains(again.Path, "..") {
			t.Errorf("%q leads to %s", link, u)
		}
	})
}

func TestSanitize(t *testing.T) {
	for in, want := range map[string]string{
		"E42": "E42", "a b\nc": "abc", "x'; DROP": "xDROP", "secret": "", "se cret": "", strings.Repeat("a", 99): strings.Repeat("a", 64), "Ünï": "n",
	} {
		if got := sanitize(in, "secret"); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
