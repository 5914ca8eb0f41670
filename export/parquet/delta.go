package parquet

import (
	"encoding/binary"
	"math/bits"
)

// The shape of DELTA_BINARY_PACKED that every writer uses: blocks of 128 deltas in four groups of 32.
const (
	deltaBlock = 128
	deltaGroup = 32
)

// appendDelta appends vals as DELTA_BINARY_PACKED (Encodings.md, "Delta Encoding"). ok is false, and dst as it was,
// where vals is empty, where a difference would leave the type (readers disagree on how it wraps), or where the outcome
// would be longer than limit bytes.
func appendDelta[T int32 | int64](dst []byte, vals []T, limit int) (_ []byte, ok bool) {
	if len(vals) == 0 {
		return dst, false
	}
	lo, hi := vals[0], vals[0]
	for _, v := range vals {
		lo, hi = min(lo, v), max(hi, v)
	}
	// With hi-lo inside the type every difference is; for int64 two differences may lie 2·(hi-lo) apart as well.
	if span := uint64(int64(hi)) - uint64(int64(lo)); span >= 1<<62 || int64(T(span)) != int64(span) {
		return dst, false
	}
	start := len(dst)
	out := appendUvarint(dst, deltaBlock)
	out = appendUvarint(out, deltaBlock/deltaGroup)
	out = appendUvarint(out, uint64(len(vals)))
	out = binary.AppendVarint(out, int64(vals[0]))
	last := int64(vals[0])
	var deltas [deltaBlock]uint64
	for rest := vals[1:]; len(rest) > 0; {
		n := min(len(rest), deltaBlock)
		least := int64(rest[0]) - last
		for i, v := range rest[:n] {
			d := int64(v) - last
			last = int64(v)
			deltas[i] = uint64(d)
			least = min(least, d)
		}
		clear(deltas[n:])
		out = appendDeltaBlock(out, &deltas, n, least)
		rest = rest[n:]
		if len(out)-start > limit {
			return dst, false
		}
	}
	return out, true
}

func appendDeltaBlock(out []byte, deltas *[deltaBlock]uint64, n int, least int64) []byte {
	out = binary.AppendVarint(out, least)
	widths := len(out)
	out = append(out, 0, 0, 0, 0)
	for i := range deltas[:n] {
		deltas[i] -= uint64(least)
	}
	for g := 0; g*deltaGroup < n; g++ {
		group := (*[deltaGroup]uint64)(deltas[g*deltaGroup:])
		var all uint64
		for _, d := range group {
			all |= d
		}
		width := bits.Len64(all)
		out[widths+g] = byte(width)
		out = appendPacked64(out, group, width)
	}
	return out
}

// appendPacked64 packs a group of 32 values, least significant bit first: 4·width bytes.
func appendPacked64(dst []byte, group *[deltaGroup]uint64, width int) []byte {
	if width == 0 {
		return dst
	}
	var word uint64
	used := 0
	for _, v := range group {
		word |= v << used
		if used += width; used >= 64 {
			dst = binary.LittleEndian.AppendUint64(dst, word)
			used -= 64
			word = v >> (width - used) // a shift by 64 gives zero
		}
	}
	for ; used > 0; used -= 8 { // 32·width is a multiple of eight
		dst = append(dst, byte(word))
		word >>= 8
	}
	return dst
}
