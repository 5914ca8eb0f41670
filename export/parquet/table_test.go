package parquet

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestTextTable gives texts to a dictionary, and to a map: identifiers alone, which it looks up in their own way, and among others of that length and of others.
func TestTextTable(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	guids := make([]string, 5_000)
	for i := range guids {
		guids[i] = fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", r.Uint32(), r.Uint32()&0xFFFF, r.Uint32()&0xFFFF, r.Uint32()&0xFFFF, r.Uint64()&(1<<48-1))
	}
	var near []string // one byte apart
	for at := range guidSize {
		near = append(near, guids[0][:at]+"_"+guids[0][at+1:])
	}
	others := []string{"", "x", strings.Repeat("y", guidSize), strings.Repeat("y", guidSize-1), strings.Repeat("y", guidSize+1)}
	for name, texts := range map[string][]string{
		"identifiers":         guids,
		"near":                append(near, near...),
		"another behind them": append(append(append([]string{}, guids...), others...), guids...),
		"another before them": append(append(append([]string{}, others...), guids...), near...),
	} {
		var table textTable
		for range 2 { // as it is, and after it was used
			table.reset()
			want := map[string]uint32{}
			for range 2 {
				for _, text := range texts {
					code, fresh := table.code([]byte(text))
					known, ok := want[text]
					if !ok {
						known = uint32(len(want))
						want[text] = known
					}
					if code != known || fresh == ok || string(table.entry(code)) != text {
						t.Fatalf("%s: code %d of %q, new: %v; it should be %d", name, code, text, fresh, known)
					}
				}
			}
		}
	}
}
