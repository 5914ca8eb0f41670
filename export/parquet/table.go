package parquet

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
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
	plain []byte
	ends  []int32  // of each entry in plain
	slots []uint64 // upper half of the hash, code+1; 0 is free
}

var textSeed = maphash.MakeSeed()

func (t *textTable) reset() {
	if len(t.slots) > 4*tableSlots && len(t.ends) < len(t.slots)/8 {
		t.slots, t.plain = nil, nil
	}
	if t.slots == nil {
		t.slots = make([]uint64, tableSlots)
	} else {
		clear(t.slots)
	}
	t.plain, t.ends = t.plain[:0], t.ends[:0]
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

func (t *textTable) code(v []byte) (code uint32, fresh bool) {
	h := maphash.Bytes(textSeed, v)
	mask := uint64(len(t.slots) - 1)
	tag := h &^ (1<<32 - 1)
	for i := h; ; i++ {
		s := t.slots[i&mask]
		if s == 0 {
			t.ends = append(t.ends, int32(len(t.plain)+4+len(v)))
			t.slots[i&mask] = tag | uint64(len(t.ends))
			t.plain = append(binary.LittleEndian.AppendUint32(t.plain, uint32(len(v))), v...)
			code = uint32(len(t.ends) - 1)
			if len(t.ends) >= len(t.slots)/4*3 {
				t.grow()
			}
			return code, true
		}
		if s&^(1<<32-1) == tag {
			if c := uint32(s) - 1; bytes.Equal(t.entry(c), v) {
				return c, false
			}
		}
	}
}

func (t *textTable) grow() {
	t.slots = make([]uint64, 2*len(t.slots))
	mask := uint64(len(t.slots) - 1)
	for c := range t.ends {
		h := maphash.Bytes(textSeed, t.entry(uint32(c)))
		i := h
		for t.slots[i&mask] != 0 {
			i++
		}
		t.slots[i&mask] = h&^(1<<32-1) | uint64(c+1)
	}
}

// memory is what the table holds, whether in use or not.
func (t *textTable) memory() int { return cap(t.plain) + 4*cap(t.ends) + 8*len(t.slots) }

// used is what its entries take. What it holds says nothing of them: it may come from an earlier row group.
func (t *textTable) used() int { return len(t.plain) + 4*len(t.ends) + 8*len(t.slots) }
