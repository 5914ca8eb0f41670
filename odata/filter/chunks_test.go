package filter

import (
	"fmt"
	"net/url"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tablexport/tablexport/odata/edm"
)

func chunkTable(t testing.TB) *edm.Table {
	model, err := edm.New(edm.Table{Name: "T", Columns: []edm.Column{
		{Name: "Id", Type: edm.Type{Kind: edm.Guid}, Key: true, OpsKnown: true, Ops: edm.OpEq | edm.OpIn | edm.OpRange},
		{Name: "Code", Type: edm.Type{Kind: edm.String}, OpsKnown: true, Ops: edm.OpEq | edm.OpIn},
		{Name: "No", Type: edm.Type{Kind: edm.Int32}, OpsKnown: true, Ops: edm.OpEq},
		{Name: "Only_In", Type: edm.Type{Kind: edm.Int32}, OpsKnown: true, Ops: edm.OpIn},
		{Name: "Free", Type: edm.Type{Kind: edm.Int32}, OpsKnown: true},
	}})
	if err != nil {
		t.Fatal(err)
	}
	table, _ := model.Table("T")
	return table
}

// Every value is in one chunk, in order; no chunk is longer than its budget, and none could have taken the next one's first value.
func TestKeyChunks(t *testing.T) {
	table := chunkTable(t)
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-zA-Z0-9 '%&#ÄЩ,()-]{0,12}`), 0, 60, rapid.ID[string]).Draw(t, "values")
		budget := rapid.IntRange(1, 400).Draw(t, "budget")
		var got []string
		var chunks [][]string
		for b, err := range KeyChunks(table, "Code", values, budget) {
			if err != nil {
				t.Fatal(err)
			}
			term := b.Terms()[0]
			var part []string
			for _, l := range term.Values {
				part = append(part, l.Text())
			}
			if n := len(url.PathEscape(b.Render())); n > budget && len(part) > 1 {
				t.Fatalf("%d bytes for a budget of %d: %s", n, budget, b)
			}
			got, chunks = append(got, part...), append(chunks, part)
		}
		if !slices.Equal(got, values) {
			t.Fatalf("chunks hold %q, want %q", got, values)
		}
		for i := 1; i < len(chunks); i++ {
			if with := append(slices.Clone(chunks[i-1]), chunks[i][0]); fitting("Code", with, budget) == len(with) {
				t.Fatalf("%q would have fitted", with)
			}
		}
	})
}

func TestKeyChunksOfGUIDs(t *testing.T) {
	table := chunkTable(t)
	var values []string
	for i := range 1000 {
		values = append(values, fmt.Sprintf("00000000-0000-0000-0000-%012d", i))
	}
	n := 0
	for b, err := range KeyChunks(table, "Id", values, 4096) {
		if err != nil {
			t.Fatal(err)
		}
		if len(url.QueryEscape(b.Render())) > 4096 {
			t.Fatal("a chunk is too long")
		}
		n++
	}
	if n < 10 || n > 13 {
		t.Errorf("%d chunks of 4 KB for 1000 GUIDs", n)
	}
}

func TestKeyChunksWithoutIn(t *testing.T) {
	table := chunkTable(t)
	var got []string
	for b, err := range KeyChunks(table, "No", []string{"1", "2"}, 4096) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, b.Render())
	}
	if !slices.Equal(got, []string{"No eq 1", "No eq 2"}) {
		t.Errorf("%q", got)
	}
	for b, err := range KeyChunks(table, "Only_In", []string{"7"}, 4096) {
		if err != nil || b.Render() != "Only_In in (7)" {
			t.Errorf("%s, %v", b, err)
		}
	}
	for column, values := range map[string][]string{"Free": {"1"}, "Nope": {"1"}, "Id": {"no guid", "x"}} {
		n := 0
		for _, err := range KeyChunks(table, column, values, 4096) {
			n++
			if err == nil {
				t.Errorf("%s: no error", column)
			}
		}
		if n != 1 {
			t.Errorf("%s: %d chunks after an error", column, n)
		}
	}
	for range KeyChunks(table, "Id", nil, 4096) {
		t.Error("a chunk without values")
	}
}
