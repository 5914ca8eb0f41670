package edm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

const oneSet = `<EntityContainer Name="C"><EntitySet Name="S" EntityType="N.A"/></EntityContainer>`

// repeated is n copies of format, each with its number.
func repeated(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// allocated is how many bytes f allocates in all, freed again or not.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// described is a document with one column whose description comes in n pieces.
func described(n int) string {
	return document(`<EntityType Name="A"><Property Name="P" Type="Edm.Int32"><Annotation Term="Org.OData.Core.V1.Description"><String>` +
		strings.Repeat("a<!---->", n) + `</String></Annotation></Property></EntityType>` + oneSet)
}

// Twice the document is twice the work, whatever is in it: all that is allocated is counted.
func TestCSDLCostIsLinear(t *testing.T) {
	if raced {
		t.Skip("allocations cannot be counted under the race detector")
	}
	comments := func(n int) string { return document(strings.Repeat("<!--x-->", n)) }
	for name, text := range map[string]func(n int) string{
		"a description in pieces": described,
		"comments":                comments,
		"properties": func(n int) string {
			return document(`<EntityType Name="A">` + repeated(n, `<Property Name="P%d" Type="Edm.Int32"/>`) + `</EntityType>` + oneSet)
		},
		"properties of a type that no set has": func(n int) string {
			return document(`<EntityType Name="X">` + repeated(n, `<Property Name="P%d" Type="Edm.Int32"/>`) + `</EntityType>`)
		},
		"members": func(n int) string {
			return document(`<EnumType Name="E">` + repeated(n, `<Member Name="M%d"/>`) + `</EnumType>`)
		},
		"columns of a large enumeration": func(n int) string {
			return document(`<EnumType Name="E">` + repeated(n, `<Member Name="M%d"/>`) + `</EnumType><EntityType Name="A">` +
				repeated(n, `<Property Name="P%d" Type="N.E"/>`) + `</EntityType>` + oneSet)
		},
		"columns of a large complex type": func(n int) string {
			return document(`<ComplexType Name="X">` + repeated(n, `<Property Name="P%d" Type="Edm.String"/>`) + `</ComplexType><EntityType Name="A">` +
				repeated(n, `<Property Name="P%d" Type="N.X"/>`) + `</EntityType>` + oneSet)
		},
		"attributes": func(n int) string { return document(`<EntityType` + repeated(n, ` a%d=""`) + ` Name="A"/>` + oneSet) },
		"annotations": func(n int) string {
			return document(`<EntityType Name="A"><Property Name="P" Type="Edm.Int32"/></EntityType>` + oneSet +
				repeated(n, `<Annotations Target="N.A/P%d"><Annotation Term="Org.OData.Core.V1.Description" String="text"/></Annotations>`))
		},
	} {
		parse := func(text string) uint64 {
			return allocated(func() {
				m, err := ParseCSDL(strings.NewReader(text))
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				Merge(m, nil)
			})
		}
		small, large := text(4_000), text(16_000)
		a, b := parse(small), parse(large)
		if float64(b) > 6*float64(a) { // four times the text; slices and maps grow in steps
			t.Errorf("%s: %d bytes are allocated for %d bytes of text, %d for %d", name, a, len(small), b, len(large))
		}
		if per := float64(b) / float64(len(large)); per > 200 {
			t.Errorf("%s: %.0f bytes are allocated per byte of text", name, per)
		}
	}
}

// What a document of the greatest length makes us allocate, mostly to be freed at once, before it is refused.
func TestCSDLAmplificationIsRefused(t *testing.T) {
	if raced {
		t.Skip("allocations cannot be counted under the race detector")
	}
	const description = `<Annotation Term="Org.OData.Core.V1.Description" String="%s"/>`
	long := strings.Repeat("x", 1000)
	manySets := `<EntityContainer Name="C">` + repeated(1000, `<EntitySet Name="S%d" EntityType="N.A"/>`) + `</EntityContainer>`
	for _, tt := range []struct{ name, head, part, want string }{
		{"properties of types that no set has", `<EntityType Name="T">`, `<Property Name="P" Type="Edm.Int32"/></EntityType><EntityType Name="T%d">`, "more than 50000 types"},
		{"properties of one type that no set has", `<EntityType Name="T">`, `<Property Name="P%d" Type="Edm.Int32"/>`, "more than 200000 properties"},
		{"properties of a complex type", `<ComplexType Name="T">`, `<Property Name="P%d" Type="Edm.Int32"/>`, "more than 200000 properties"},
		{"navigation properties", `<EntityType Name="T">`, `<NavigationProperty Name="P%d" Type="N.A"/>`, "more than 200000 properties"},
		{"types", "", `<ComplexType Name="T%d"/>`, "more than 50000 types"},
		{"enumerations", "", `<EnumType Name="T%d"/>`, "more than 50000 types"},
		{"type definitions", "", `<TypeDefinition Name="T%d" UnderlyingType="Edm.Int32"/>`, "more than 50000 types"},
		{"members", `<EnumType Name="T">`, `<Member Name="M%d"/>`, "more than 200000 members"},
		{"key", `<EntityType Name="T"><Key>`, `<PropertyRef Name="P%d"/>`, "key of type N.T has more than 64"},
		{"sets", `<EntityContainer Name="C">`, `<EntitySet Name="S%d" EntityType="N.A"/>`, "more than 20000 entity sets"},
		{"bindings", `<EntityContainer Name="C"><EntitySet Name="S" EntityType="N.A">`, `<NavigationPropertyBinding Path="P%d" Target="S"/>`, "more than 200000 navigation"},
		{"annotations", "", `<Annotations Target="N.T/P%d">` + strings.ReplaceAll(description, "%s", "x") + `</Annotations>`, "more than 200000 descriptions"},
		{"descriptions", `<EntityType Name="T">`, `<Property Name="P%d" Type="Edm.Int32">` + strings.ReplaceAll(description, "%s", long) + `</Property>`, "bytes of descriptions"},
		{"a comment", "<!--", strings.Repeat("x", 100), "longer than 1048576 bytes"},
		{"a text", "", strings.Repeat("x", 100), "longer than 1048576 bytes"},
		{"attributes", "<EntityType", ` a%d=""`, "longer than 1048576 bytes"},
		{"one attribute", `<EntityType a="`, strings.Repeat("x", 100), "longer than 1048576 bytes"},
		{"elements", "", "<a/>", "more than 1048576 elements"},
		{"aliases", "", `</Schema><Schema Namespace="N" Alias="A%d" xmlns="` + edmNamespace + `">`, "more than 1000 aliases"},
		{"inherited columns", `<EntityType Name="A">` + repeated(500, `<Property Name="P%d" Type="Edm.Int32"/>`) + `</EntityType>` + manySets, "", "tables have more than 200000 properties"},
		{"inherited navigation", `<EntityType Name="A">` + repeated(500, `<NavigationProperty Name="P%d" Type="N.A"/>`) + `</EntityType>` + manySets, "", "tables have more than 200000 properties"},
		{"inherited descriptions", `<EntityType Name="A">` + repeated(20, `<Property Name="P%d" Type="Edm.Int32">`+strings.ReplaceAll(description, "%s", long)+`</Property>`) +
			`</EntityType>` + manySets, "", "bytes of descriptions in all"},
	} {
		whole := document(tt.head)
		if tt.part != "" {
			whole = whole[:strings.LastIndex(whole, "\n</Schema>")]
		}
		src := &numbered{part: tt.part, head: whole}
		var err error
		bytes := allocated(func() { _, err = ParseCSDL(src) })
		if bad := (*CSDLError)(nil); !errors.As(err, &bad) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if bytes > 1<<30 || src.read > MaxCSDL+8192 {
			t.Errorf("%s: %d MiB were allocated, %d bytes read", tt.name, bytes>>20, src.read)
		}
	}
}

// numbered is a document without end: head, and then part again and again, with its number for %d.
type numbered struct {
	head, part string
	rest       string
	n, read    int
}

func (s *numbered) Read(p []byte) (int, error) {
	if s.head != "" {
		s.rest, s.head = s.head, ""
	}
	if s.rest == "" {
		if s.part == "" {
			return 0, io.EOF
		}
		var b strings.Builder
		for b.Len() < 4096 {
			b.WriteString(strings.ReplaceAll(s.part, "%d", fmt.Sprint(s.n)))
			s.n++
		}
		s.rest = b.String()
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	s.read += n
	return n, nil
}

// What is kept of the largest documents that are accepted.
func TestCSDLMemoryIsBounded(t *testing.T) {
	text := document(`<EntityType Name="A">` + repeated(maxCSDLColumns/2, `<Property Name="P%d" Type="Edm.Int32"/>`) + `</EntityType>` + oneSet +
		`<EnumType Name="E">` + repeated(maxCSDLMembers, `<Member Name="M%d"/>`) + `</EnumType>`)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	m, err := ParseCSDL(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	m = Merge(m, Embedded())
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 100<<20 {
		t.Errorf("a model of %d columns takes %d MiB", maxCSDLColumns/2, grown>>20)
	}
	runtime.KeepAlive(m)
}

// A context that ends is noticed in every kind of document: whatever comes, the parser asks for more within two buffers' worth.
func TestCSDLCanBeInterrupted(t *testing.T) {
	for _, part := range []string{"<!-- x -->", "<a/>", "\n", `<Property Name="P%d" Type="Edm.Int32"/>`, `<Annotation Term="Org.OData.Core.V1.Description"><String>a<!---->a</String></Annotation>`} {
		ctx, cancel := context.WithCancel(t.Context())
		src := &numbered{head: document(`<EntityType Name="A">`), part: part}
		src.head = src.head[:strings.Index(src.head, `Name="A">`)+len(`Name="A">`)]
		reads := 0
		_, err := ParseCSDL(readerFunc(func(p []byte) (int, error) {
			if reads++; reads == 20 {
				cancel()
			}
			if ctx.Err() != nil {
				return 0, ctx.Err()
			}
			return src.Read(p)
		}))
		if !errors.Is(err, context.Canceled) || reads != 20 {
			t.Errorf("%q: %v after %d reads", part, err, reads)
		}
		cancel()
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestCSDLDescriptions(t *testing.T) {
	m, err := ParseCSDL(strings.NewReader(described(100_000)))
	if err != nil {
		t.Fatal(err)
	}
	c, _ := mustTable(t, m, "S").Column("P")
	if n := utf8.RuneCountInString(c.Comment); n != maxComment || !strings.HasPrefix(c.Comment, "aaaa") || !strings.HasSuffix(c.Comment, "a…") {
		t.Errorf("%d characters, %.20q", n, c.Comment)
	}
	c, _ = mustTable(t, Merge(m, nil), "S").Column("P")
	if n := utf8.RuneCountInString(c.Comment); n != maxComment || !strings.HasSuffix(c.Comment, "a…; whole number, 32 bits") {
		t.Errorf("%d characters, %q", n, c.Comment)
	}
	const hostile = "One&#10;two&#9;three\u0085four\u2028five \u202esix\u2066  seven\u009b31m."
	m, err = ParseCSDL(strings.NewReader(document(`<EntityType Name="A"><Property Name="P" Type="Edm.Int32"><Annotation Term="Org.OData.Core.V1.Description" String="` +
		hostile + `"/></Property></EntityType>` + oneSet + `<Annotations Target="N.A/Q"/>`)))
	if err != nil {
		t.Fatal(err)
	}
	c, _ = mustTable(t, Merge(m, nil), "S").Column("P")
	if c.Comment != "One two three four five six seven 31m; whole number, 32 bits" {
		t.Errorf("%q", c.Comment)
	}
}

// An enumeration of very many members fills no comment with them.
func TestCSDLManyAllowedValues(t *testing.T) {
	m, err := ParseCSDL(strings.NewReader(document(`<EnumType Name="E">` + repeated(5000, `<Member Name="Member%d"/>`) + `</EnumType>` +
		`<EntityType Name="A"><Property Name="P" Type="N.E"/></EntityType>` + oneSet)))
	if err != nil {
		t.Fatal(err)
	}
	c, _ := mustTable(t, Merge(m, nil), "S").Column("P")
	if len(c.Allowed) != 5000 || !strings.HasSuffix(c.Comment, ", … (5000 in all)") || len(c.Comment) > maxComment {
		t.Errorf("%d, %q", len(c.Allowed), c.Comment)
	}
}

func TestCSDLNames(t *testing.T) {
	for _, body := range []string{
		`<EnumType Name="E"><Member Name="a' or 1"/></EnumType>`,
		`<EntityType Name="A"><Property Name="P" Type="Edm.Int32&#10;x"/></EntityType>`,
		`<EntityType Name="A"><Property Name="P" Type="` + strings.Repeat("x", 600) + `"/></EntityType>`,
	} {
		if _, err := ParseCSDL(strings.NewReader(document(body + oneSet))); err == nil || !strings.Contains(err.Error(), "no valid name") || len(err.Error()) > 300 {
			t.Errorf("%.80s: %v", body, err)
		}
	}
}

func FuzzOneLine(f *testing.F) {
	f.Add("a  b\n\tc", 3)
	f.Add("\u202e€€€", 2)
	f.Add("abc", 0)
	f.Fuzz(func(t *testing.T, text string, most int) {
		got := oneLine(text, most)
		if n := utf8.RuneCountInString(got); n > max(0, most) {
			t.Fatalf("%q has %d characters, %d are allowed", got, n, most)
		}
		if !utf8.ValidString(got) || strings.Contains(got, "  ") || strings.TrimSpace(got) != got || strings.ContainsFunc(got, unicode.IsControl) {
			t.Fatalf("%q", got)
		}
		if again := oneLine(got, most); again != got {
			t.Fatalf("%q, then %q", got, again)
		}
	})
}
