package parquet

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"math/rand/v2"
)

// valueTable gives each distinct value of a fixed size its code, in the order of first appearance. Open addressing, at most
// three quarters full. Callers hash, so that no call through a function value is made per value.
type valueTable[T comparable] struct {
	keys  []T
	slots []uint32 // code+1; 0 is free
	shift uint     // the upper bits of a hash choose the slot
}

const tableSlots = 1 << 10 // at first

// spread makes multiplicative hashes differ from process to process, so that no data can be made to collide. It is odd.
var spread = rand.Uint64() | 1

func (t *valueTable[T]) reset() {
	if len(t.slots) > 4*tableSlots && len(t.keys) < len(t.slots)/8 {
		t.slots = nil // much larger than it was of use for
	}
	if t.slots == nil {
		t.slots, t.shift = make([]uint32, tableSlots), 64-10
	} else {
		clear(t.slots)
	}
	t.keys = t.keys[:0]
}

// code returns the code of v whose hash is h.
func (t *valueTable[T]) code(v T, h uint64) (code uint32, fresh bool) {
	mask := uint64(len(t.slots) - 1)
	for i := h >> t.shift; ; i++ {
		s := t.slots[i&mask]
		if s == 0 {
			t.slots[i&mask] = uint32(len(t.keys) + 1)
			t.keys = append(t.keys, v)
			return uint32(len(t.keys) - 1), true
		}
		if t.keys[s-1] == v {
			return s - 1, false
		}
	}
}

func (t *valueTable[T]) full() bool { return len(t.keys) >= len(t.slots)/4*3 }

// grow doubles the table. hash is that of every key.
func (t *valueTable[T]) grow(hash func(T) uint64) {
	t.slots = make([]uint32, 2*len(t.slots))
	t.shift--
	mask := uint64(len(t.slots) - 1)
	for c, v := range t.keys {
		i := hash(v) >> t.shift
		for t.slots[i&mask] != 0 {
			i++
		}
		t.slots[i&mask] = uint32(c + 1)
	}
}

// textTable is the same for texts. It keeps them as a dictionary page has them: length, bytes, length, bytes.
type textTable struct {
	plain  []byte
	ends   []int32  // of each entry in plain
	slots  []uint64 // upper half of the hash, code+1; 0 is free
	varied bool     // not all entries are as long as a GUID
}

// guidSize is the length of a GUID's text. Identifiers are most of what has a dictionary, so they have a way of their own: read as five words, the last
// two of which overlap, they are hashed and compared without a call.
const guidSize = 36

// guidSpread makes their hashes differ from process to process.
var guidSpread = [5]uint64{rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64() | 1}

func hashWords(a, b, c, d, e uint64) uint64 {
	h1, l1 := bits.Mul64(a^guidSpread[0], b^guidSpread[1])
	h2, l2 := bits.Mul64(c^guidSpread[2], d^guidSpread[3])
	h3, l3 := bits.Mul64(h1^l1^e, h2^l2^guidSpread[4])
	return h3 ^ l3
}

var textSeed = maphash.MakeSeed()

func hashText(v []byte) uint64 {
	if len(v) == guidSize {
		g, le := (*[guidSize]byte)(v), binary.LittleEndian
		return hashWords(le.Uint64(g[0:]), le.Uint64(g[8:]), le.Uint64(g[16:]), le.Uint64(g[24:]), le.Uint64(g[28:]))
	}
	return maphash.Bytes(textSeed, v)
}

func (t *textTable) reset() {
	if len(t.slots) > 4*tableSlots && len(t.ends) < len(t.slots)/8 {
		t.slots, t.plain = nil, nil
	}
	if t.slots == nil {
		t.slots = make([]uint64, tableSlots)
	} else {
		clear(t.slots)
	}
	t.plain, t.ends, t.varied = t.plain[:0], t.ends[:0], false
}

// entry is the text of a code.
func (t *textTable) entry(code uint32) []byte { return t.prefixed(code)[4:] }

// prefixed is the text of a code with its length in front.
func (t *textTable) prefixed(code uint32) []byte {
	from := int32(0)
	if code > 0 {
		from = t.ends[code-1]
	}
	return t.plain[from:t.ends[code]]
}

const tagBits = ^uint64(1<<32 - 1)

func (t *textTable) code(v []byte) (code uint32, fresh bool) {
	if len(v) == guidSize && !t.varied {
		return t.guid(v)
	}
	h := hashText(v)
	mask := uint64(len(t.slots) - 1)
	tag := h & tagBits
	for i := h; ; i++ {
		s := t.slots[i&mask]
		if s == 0 {
			return t.put(v, i&mask, tag), true
		}
		if s&tagBits == tag {
			if c := uint32(s) - 1; bytes.Equal(t.entry(c), v) {
				return c, false
			}
		}
	}
}

// guid is code for a text of guidSize, while there are no others.
func (t *textTable) guid(v []byte) (code uint32, fresh bool) {
	g, le := (*[guidSize]byte)(v), binary.LittleEndian
	w0, w1, w2, w3, w4 := le.Uint64(g[0:]), le.Uint64(g[8:]), le.Uint64(g[16:]), le.Uint64(g[24:]), le.Uint64(g[28:])
	h := hashWords(w0, w1, w2, w3, w4)
	mask := uint64(len(t.slots) - 1)
	tag := h & tagBits
	for i := h; ; i++ {
		s := t.slots[i&mask]
		if s == 0 {
			return t.put(v, i&mask, tag), true
		}
		if s&tagBits == tag {
			c := uint32(s) - 1
			e := (*[guidSize]byte)(t.plain[int(c)*(guidSize+4)+4:])
			if (le.Uint64(e[0:])^w0)|(le.Uint64(e[8:])^w1)|(le.Uint64(e[16:])^w2)|(le.Uint64(e[24:])^w3)|(le.Uint64(e[28:])^w4) == 0 {
				return c, false
			}
		}
	}
}

// put adds a new text, whose slot is free.
func (t *textTable) put(v []byte, slot, tag uint64) (code uint32) {
	t.plain = append(binary.LittleEndian.AppendUint32(t.plain, uint32(len(v))), v...)
	t.ends = append(t.ends, int32(len(t.plain)))
	t.slots[slot] = tag | uint64(len(t.ends))
	t.varied = t.varied || len(v) != guidSize
	code = uint32(len(t.ends) - 1)
	if len(t.ends) >= len(t.slots)/4*3 {
		t.grow()
	}
	return code
}

func (t *textTable) grow() {
	t.slots = make([]uint64, 2*len(t.slots))
	mask := uint64(len(t.slots) - 1)
	for c := range t.ends {
		h := hashText(t.entry(uint32(c)))
		i := h
		for t.slots[i&mask] != 0 {
			i++
		}
		t.slots[i&mask] = h&tagBits | uint64(c+1)
	}
}

// memory is what the table holds, whether in use or not.
func (t *textTable) memory() int { return cap(t.plain) + 4*cap(t.ends) + 8*len(t.slots) }

// used is what its entries take. What it holds says nothing of them: it may come from an earlier row group.
func (t *textTable) used() int { return len(t.plain) + 4*len(t.ends) + 8*len(t.slots) }
