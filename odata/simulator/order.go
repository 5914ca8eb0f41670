package simulator

import (
	"bytes"
	"math/bits"
	"slices"
	"strings"

	"github.com/tablexport/tablexport/odata/edm"
)

// shuffle is a permutation of 0 … n-1 that needs no memory: a four-round Feistel network over the next even
// power of two, walked until it lands inside (cycle walking: at most four steps on average).
type shuffle struct {
	n    uint64
	half uint
	mask uint64
	keys [4]uint64
}

func newShuffle(n int64, seed uint64) *shuffle {
	s := &shuffle{n: uint64(n), half: max(uint(bits.Len64(uint64(max(n-1, 1)))+1)/2, 1)}
	s.mask = 1<<s.half - 1
	for i := range s.keys {
		s.keys[i] = mix(seed + uint64(i))
	}
	return s
}

func (s *shuffle) at(i int64) int64 {
	x := uint64(i)
	for {
		l, r := x>>s.half, x&s.mask
		for _, k := range s.keys {
			l, r = r, l^mix(r+k)&s.mask
		}
		x = l<<s.half | r
		if x < s.n {
			return int64(x)
		}
	}
}

// sequence is the order in which a request sees the rows of a range of positions: place k → position.
type sequence struct {
	n  int64
	at func(k int64) int64
}

func (f *filterPlan) ascending() sequence {
	return sequence{n: f.size(), at: f.position}
}

func (f *filterPlan) descending() sequence {
	n := f.size()
	return sequence{n: n, at: func(k int64) int64 { return f.position(n - 1 - k) }}
}

func (f *filterPlan) shuffled(seed uint64) sequence {
	p := newShuffle(f.size(), seed)
	return sequence{n: f.size(), at: func(k int64) int64 { return f.position(p.at(k)) }}
}

// sortKey is one column of an $orderby.
type sortKey struct {
	column *column
	down   bool
}

// sorted orders the rows of a range that f admits by keys. Equal rows come in an order that changes with salt, as
// a server is free to do. It holds eight bytes per row.
func sorted(w *world, t *table, f *filterPlan, keys []sortKey, salt uint64) sequence {
	st := w.states[t.id]
	var list []int64
	scratch := new(cell)
	for k := range f.size() {
		if pos := f.position(k); f.match(w, st.at(t.space, pos), scratch) {
			list = append(list, pos)
		}
	}
	var a, b cell
	slices.SortFunc(list, func(x, y int64) int {
		rx, ry := st.at(t.space, x), st.at(t.space, y)
		for _, k := range keys {
			k.column.value(rx, &a)
			k.column.value(ry, &b)
			c := k.column.compare(&a, &b)
			if k.down {
				c = -c
			}
			if c != 0 {
				return c
			}
		}
		return compareWords(0, mix(rx.ord^salt), 0, mix(ry.ord^salt))
	})
	return sequence{n: int64(len(list)), at: func(k int64) int64 { return list[k] }}
}

// compare orders two values of the column; NULL comes first, as in SQL Server.
func (col *column) compare(a, b *cell) int {
	switch {
	case a.null && b.null:
		return 0
	case a.null:
		return -1
	case b.null:
		return 1
	}
	switch col.Type.Kind {
	case edm.Guid:
		return compareWords(a.hi, a.lo, b.hi, b.lo)
	case edm.Decimal:
		return a.dec.compare(b.dec)
	case edm.Double:
		return compareFloats(a.f, b.f)
	case edm.String, edm.MultiLanguage:
		return strings.Compare(strings.ToLower(string(a.b)), strings.ToLower(string(b.b)))
	case edm.Binary:
		return bytes.Compare(a.b, b.b)
	}
	return compareInts(a.i, b.i)
}

func compareInts(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func compareFloats(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
