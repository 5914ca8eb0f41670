package parquet

import (
	"encoding/binary"
	"math/bits"

	"github.com/klauspost/compress/huff0"
)

// Two kinds of page need no search for repeats, which is most of what zstd costs. We write their frames ourselves
// (RFC 8878, 3.1.1); every reader takes them, and they keep the content checksum that a page without a codec would not have:
//
//   - stored: raw blocks, for what zstd cannot make smaller;
//   - entropy-coded: blocks of Huffman-coded literals without sequences, for texts that hardly repeat, such as identifiers.

const (
	zstdMagic    = 0xFD2FB528
	zstdMaxBlock = 128 << 10
	zstdHeader   = 2<<6 | 1<<5 | 1<<2 // content size of four bytes, single segment, checksum
)

// appendStored appends src as a zstd frame of raw blocks.
func appendStored(dst, src []byte) []byte { return appendFrame(dst, src, appendRawBlock) }

// appendEntropy appends src as a zstd frame without sequences.
func appendEntropy(dst, src []byte, scratch *huff0.Scratch) []byte {
	return appendFrame(dst, src, func(dst, block []byte, last uint32) []byte {
		return appendLiteralsBlock(dst, block, last, scratch)
	})
}

func appendFrame(dst, src []byte, block func(dst, block []byte, last uint32) []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, zstdMagic)
	dst = append(dst, zstdHeader)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(src)))
	for rest := src; ; {
		n, last := min(len(rest), zstdMaxBlock), uint32(0)
		if n == len(rest) {
			last = 1
		}
		dst = block(dst, rest[:n], last)
		if rest = rest[n:]; len(rest) == 0 {
			break
		}
	}
	return binary.LittleEndian.AppendUint32(dst, uint32(xxh64(src)))
}

func appendBlockHeader(dst []byte, size int, kind, last uint32) []byte {
	h := uint32(size)<<3 | kind<<1 | last
	return append(dst, byte(h), byte(h>>8), byte(h>>16))
}

func appendRawBlock(dst, block []byte, last uint32) []byte {
	return append(appendBlockHeader(dst, len(block), 0, last), block...)
}

// appendLiteralsBlock makes a compressed block of four Huffman streams (RFC 8878, 3.1.1.3.1) and no sequences, or a raw one
// where that is not smaller.
func appendLiteralsBlock(dst, block []byte, last uint32, scratch *huff0.Scratch) []byte {
	const (
		leastForStreams = 1024
		compressed      = 2
		fourStreams18   = 3 // sizes of 18 bits
		headerSize      = 5
		noSequences     = 0
	)
	if len(block) < leastForStreams {
		return appendRawBlock(dst, block, last)
	}
	scratch.Reuse = huff0.ReusePolicyNone // every block carries its own table
	lits, _, err := huff0.Compress4X(block, scratch)
	if size := headerSize + len(lits) + 1; err == nil && size < len(block) {
		dst = appendBlockHeader(dst, size, compressed, last)
		h := uint64(compressed) | fourStreams18<<2 | uint64(len(block))<<4 | uint64(len(lits))<<22
		dst = append(dst, byte(h), byte(h>>8), byte(h>>16), byte(h>>24), byte(h>>32))
		return append(append(dst, lits...), noSequences)
	}
	return appendRawBlock(dst, block, last)
}

// xxh64 is XXH64 with seed 0 (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md), the checksum of RFC 8878.
func xxh64(b []byte) uint64 {
	const (
		p1 uint64 = 0x9E3779B185EBCA87
		p2 uint64 = 0xC2B2AE3D27D4EB4F
		p3 uint64 = 0x165667B19E3779F9
		p4 uint64 = 0x85EBCA77C2B2AE63
		p5 uint64 = 0x27D4EB2F165667C5
	)
	round := func(acc, v uint64) uint64 { return bits.RotateLeft64(acc+v*p2, 31) * p1 }
	n := uint64(len(b))
	h := p5
	if len(b) >= 32 {
		seed := p1 // a variable: constants may not overflow
		v1, v2, v3, v4 := seed+p2, p2, uint64(0), -seed
		for ; len(b) >= 32; b = b[32:] {
			v1 = round(v1, binary.LittleEndian.Uint64(b))
			v2 = round(v2, binary.LittleEndian.Uint64(b[8:]))
			v3 = round(v3, binary.LittleEndian.Uint64(b[16:]))
			v4 = round(v4, binary.LittleEndian.Uint64(b[24:]))
		}
		h = bits.RotateLeft64(v1, 1) + bits.RotateLeft64(v2, 7) + bits.RotateLeft64(v3, 12) + bits.RotateLeft64(v4, 18)
		for _, v := range [...]uint64{v1, v2, v3, v4} {
			h = (h^round(0, v))*p1 + p4
		}
	}
	h += n
	for ; len(b) >= 8; b = b[8:] {
		h = bits.RotateLeft64(h^round(0, binary.LittleEndian.Uint64(b)), 27)*p1 + p4
	}
	if len(b) >= 4 {
		h = bits.RotateLeft64(h^uint64(binary.LittleEndian.Uint32(b))*p1, 23)*p2 + p3
		b = b[4:]
	}
	for _, c := range b {
		h = bits.RotateLeft64(h^uint64(c)*p5, 11) * p1
	}
	h ^= h >> 33
	h *= p2
	h ^= h >> 29
	h *= p3
	return h ^ h>>32
}
