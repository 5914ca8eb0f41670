package parquet

import (
	"encoding/binary"
	"math/bits"
)

// A run of bit-packed values is cut after 63 groups of eight, as parquet-mr does: its header is one byte then.
const maxPacked = 63 * 8

// appendUvarint is ULEB128, the form of every length inside a page (Encodings.md, "RLE").
func appendUvarint(dst []byte, v uint64) []byte { return binary.AppendUvarint(dst, v) }

// appendHybrid appends codes in the RLE/bit-packing hybrid of the given width, 1..32 (Encodings.md, "RLE = 3"): eight
// equal values or more are a run, everything else is packed in groups of eight, of which the last is filled up with zeros.
func appendHybrid(dst []byte, codes []uint32, width int) []byte {
	packed := 0 // codes from here on are not written yet
	for i := 0; i < len(codes); {
		v, end := codes[i], i+1
		for end < len(codes) && codes[end] == v {
			end++
		}
		if end-i < 8 {
			i = end
			continue
		}
		fill := (packed - i) & 7 // the packed values in front of a run must be whole groups
		if end-i-fill < 8 {
			i = end
			continue
		}
		dst = appendPackedRuns(dst, codes[packed:i+fill], width)
		dst = appendRun(dst, v, end-i-fill, width)
		i, packed = end, end
	}
	return appendPackedRuns(dst, codes[packed:], width)
}

func appendRun(dst []byte, v uint32, n, width int) []byte {
	dst = appendUvarint(dst, uint64(n)<<1)
	for ; width > 0; width -= 8 {
		dst = append(dst, byte(v))
		v >>= 8
	}
	return dst
}

func appendPackedRuns(dst []byte, codes []uint32, width int) []byte {
	for len(codes) > 0 {
		n := min(len(codes), maxPacked)
		dst = appendUvarint(dst, uint64(n+7)/8<<1|1)
		dst = appendPacked(dst, codes[:n], width)
		codes = codes[n:]
	}
	return dst
}

// appendPacked appends codes of the given width, least significant bit first, filled up to a multiple of eight values.
func appendPacked(dst []byte, codes []uint32, width int) []byte {
	var word uint64
	used := 0
	for _, c := range codes {
		word |= uint64(c) << used
		used += width
		if used >= 32 {
			dst = binary.LittleEndian.AppendUint32(dst, uint32(word))
			word >>= 32
			used -= 32
		}
	}
	used += (-len(codes) & 7) * width
	for ; used > 0; used -= 8 {
		dst = append(dst, byte(word))
		word >>= 8
	}
	return dst
}

// codeWidth is the number of bits of a dictionary code, at least one.
func codeWidth(entries int) int { return max(1, bits.Len(uint(max(entries, 1)-1))) }

// validity are the definition levels of a page: one bit a row, set for a value. While no null came it holds no bits.
type validity struct {
	rows, nulls int
	bits        []byte // empty while nulls is 0
}

func (v *validity) reset() { v.rows, v.nulls, v.bits = 0, 0, v.bits[:0] }

// add takes n rows, whose bits begin at off in bitmap (least significant first, as Arrow has them). With nulls 0 the
// bitmap is not looked at.
func (v *validity) add(bitmap []byte, off, n, nulls int) {
	if nulls == 0 && v.nulls == 0 {
		v.rows += n
		return
	}
	if v.nulls == 0 {
		v.bits = appendOnes(v.bits[:0], 0, v.rows)
	}
	if nulls == 0 {
		v.bits = appendOnes(v.bits, v.rows, n)
	} else {
		v.bits = appendBits(v.bits, v.rows, bitmap, off, n)
	}
	v.rows += n
	v.nulls += nulls
}

// appendOnes appends n set bits to the first have bits of dst.
func appendOnes(dst []byte, have, n int) []byte {
	for ; n > 0 && have&7 != 0; n-- {
		dst[have>>3] |= 1 << (have & 7)
		have++
	}
	for ; n >= 8; n -= 8 {
		dst = append(dst, 0xff)
	}
	if n > 0 {
		dst = append(dst, 1<<n-1)
	}
	return dst
}

// appendBits appends n bits of src from bit off on to the first have bits of dst. Unused bits of the last byte are zero.
func appendBits(dst []byte, have int, src []byte, off, n int) []byte {
	for n > 0 {
		if have&7 == 0 {
			dst = append(dst, 0)
		}
		take := min(n, 8-have&7)
		b := src[off>>3] >> (off & 7)
		if off&7+take > 8 {
			b |= src[off>>3+1] << (8 - off&7)
		}
		dst[have>>3] |= b & (1<<take - 1) << (have & 7)
		have, off, n = have+take, off+take, n-take
	}
	return dst
}

// appendLevels appends the definition levels of a version 1 data page: the hybrid of width 1 with its length in front.
// The bitmap is the bit-packed form already; what is all nulls or all values for 64 rows or more becomes a run.
func (v *validity) appendLevels(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	if v.nulls == 0 {
		dst = appendRun(dst, 1, v.rows, 1)
	} else {
		dst = v.appendRuns(dst)
	}
	binary.LittleEndian.PutUint32(dst[start:], uint32(len(dst)-start-4))
	return dst
}

func (v *validity) appendRuns(dst []byte) []byte {
	const long = 8 // bytes
	packed, full := 0, v.rows/8
	for i := 0; i < full; {
		b, end := v.bits[i], i+1
		if b != 0 && b != 0xff {
			i = end
			continue
		}
		for end < full && v.bits[end] == b {
			end++
		}
		if end-i >= long {
			dst = appendPackedBits(dst, v.bits[packed:i])
			dst = appendRun(dst, uint32(b&1), (end-i)*8, 1)
			packed = end
		}
		i = end
	}
	return appendPackedBits(dst, v.bits[packed:])
}

func appendPackedBits(dst, groups []byte) []byte {
	for len(groups) > 0 {
		n := min(len(groups), maxPacked/8)
		dst = append(appendUvarint(dst, uint64(n)<<1|1), groups[:n]...)
		groups = groups[n:]
	}
	return dst
}
