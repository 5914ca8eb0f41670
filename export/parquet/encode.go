package parquet

import (
	"fmt"
	"math"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/bitutil"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/metadata"
	"github.com/klauspost/compress/huff0"
)

// encoder turns the values of one column into column chunks, one per row group. It is the seam between the row groups
// ([Writer]) and the pages: another way of coding a column is another implementation of it.
//
// Ours code the pages themselves and leave page headers, offsets and the footer to the library. Its own column writers
// box every value on the way into their dictionaries, cannot end a dictionary that does not pay without writing it, and
// keep references into the caller's memory.
type encoder interface {
	// add appends n rows of arr from row from on, of which nulls are null. row is their position in the file. No reference to
	// arr is kept. The error is a *CellError.
	add(arr arrow.Array, from, n, nulls int, row int64) error
	// finish ends the column chunk. What it returns is valid until the next add, which begins another one.
	finish() chunk
	// buffered is the size of the chunk under way: pages as they are, and an estimate of the one being filled.
	buffered() int64
	// stats are those of everything that was added, over all chunks.
	stats() ColumnStats
	// forget ends the file: the next chunk is another one's. What was learned of the column stays.
	forget()
}

// chunk is one column of one row group, ready to be written.
type chunk struct {
	dict    []byte // the dictionary page's values, PLAIN; empty: no dictionary
	level   int    // of its compression: one of zstd's, or zstdEntropy
	entries int
	pages   []page
	values  int64 // rows, nulls included
	stats   metadata.EncodedStatistics
}

// page is a data page: levels and values, compressed.
type page struct {
	data     []byte
	rows     int
	size     int // before compression
	encoding parquet.Encoding
}

// encoderConfig is what the encoders of a file share.
type encoderConfig struct {
	level     int
	huff      *huff0.Scratch
	groupRows int // rows that a row group has, more or less
	pageRows  int // a page ends when it has as many rows
	pageBytes int // or as many bytes
	dictTrial int // values after which a dictionary must have paid
	dictBytes int // memory for the dictionary of one column
	dicts     *dictBudget
	*scratches
}

// scratches are used by one column at a time: with one set for each, those of a wide table took more memory than its pages.
type scratches struct {
	body  []byte // a page before compression
	other []byte // the same page in another encoding
	test  []byte // compressed to see its size
}

// dictBudget is the memory that the dictionaries of all columns may take together. It is not safe for concurrent use.
type dictBudget struct{ left int }

// grow takes as much more as *taken lacks to want. false: there is not that much.
func (b *dictBudget) grow(taken *int, want int) bool {
	more := max(want-*taken, 0)
	if more > b.left {
		return false
	}
	b.left -= more
	*taken += more
	return true
}

// release gives everything back.
func (b *dictBudget) release(taken *int) {
	b.left += *taken
	*taken = 0
}

// pages collects the pages of a column chunk. The memory is used again for the next chunk.
type pages struct {
	encoderConfig
	nullable bool
	levels   validity // of the page under way
	arena    [][]byte // the pages before it, in pieces: one that is full is not moved any more
	last     int      // the piece that grows; those behind it are empty
	at       []place  // of each page
	list     []page

	saved   map[parquet.Encoding]saving
	entropy map[parquet.Encoding]entropyTrial
}

// saving is what compression did for the pages of one encoding. Those of another are other bytes: the codes of a dictionary with hardly a repeat are noise, and
// the texts that come without it in the next chunk are not.
type saving struct {
	raw, packed int64 // of this chunk, before and after compression
	store       int   // chunks with such pages that are stored before compression is tried again
}

// place is where in the arena a page is.
type place struct{ piece, from, to int }

// arenaPiece is the size from which on a piece of the arena is full. One that grew with a row group of long texts would be moved over and over, with
// room for both.
const arenaPiece = 4 << 20

// piece is the piece that takes the next page.
func (p *pages) piece() *[]byte {
	if len(p.arena) > 0 && len(p.arena[p.last]) >= arenaPiece {
		p.last++
	}
	if p.last == len(p.arena) {
		p.arena = append(p.arena, nil)
	}
	return &p.arena[p.last]
}

// entropyTrial: whether pages of one encoding are as small without a search for repeats, and for how many pages that holds.
type entropyTrial struct {
	enough bool
	pages  int
}

// begin returns the page's body with the levels in it.
func (p *pages) begin() []byte {
	if !p.nullable {
		return p.body[:0]
	}
	return p.levels.appendLevels(p.body[:0])
}

// end compresses the body that begin returned and its caller completed.
func (p *pages) end(body []byte, enc parquet.Encoding) {
	into := p.piece()
	from, s := len(*into), p.saved[enc]
	if s.store > 0 {
		*into = appendStored(*into, body)
	} else {
		*into = p.compress(*into, body, enc)
	}
	s.raw += int64(len(body))
	s.packed += int64(len(*into) - from)
	p.saved[enc] = s
	p.list = append(p.list, page{rows: p.levels.rows, size: len(body), encoding: enc})
	p.at = append(p.at, place{p.last, from, len(*into)})
	p.body = body
	p.levels.reset()
}

// compress appends the body to dst: with a search for repeats or without, whatever the last trial was in favor of.
func (p *pages) compress(dst, body []byte, enc parquet.Encoding) []byte {
	t := p.entropy[enc]
	t.pages--
	from := len(dst)
	switch {
	case t.pages >= 0 && t.enough:
		dst = appendEntropy(dst, body, p.huff)
	case t.pages >= 0:
		dst = compressTo(dst, body, p.level)
	default:
		dst = compressTo(dst, body, p.level)
		searched := len(dst)
		dst = appendEntropy(dst, body, p.huff)
		size, plain := searched-from, len(dst)-searched
		t.enough, t.pages = plain*100 <= size*(100+entropyWorse), entropyPages
		if t.enough {
			copy(dst[from:], dst[searched:])
			dst = dst[:from+plain]
		} else {
			dst = dst[:searched]
		}
	}
	p.entropy[enc] = t
	return dst
}

// dictSample is how much of a dictionary is compressed to learn how it is best compressed: one block.
const dictSample = zstdMaxBlock

// dictLevel is the level at which the library, which compresses dictionary pages itself, is to do it. A dictionary's entries differ, so
// that it often has nothing that repeats: identifiers are nothing but digits.
func (p *pages) dictLevel(dict []byte) int {
	const encoding = parquet.Encoding(-1) // no data page has it
	t := p.entropy[encoding]
	if t.pages--; t.pages < 0 {
		sample := dict[:min(len(dict), dictSample)]
		p.body = compressTo(p.body[:0], sample, p.level)
		searched := len(p.body)
		p.body = appendEntropy(p.body[:0], sample, p.huff)
		t.enough, t.pages = len(p.body)*100 <= searched*(100+entropyWorse), retryAfter
	}
	p.entropy[encoding] = t
	if t.enough {
		return zstdEntropy
	}
	return p.level
}

// Pages are compressed without a search for repeats while that makes them at most so much longer, in percent; after so
// many pages it is looked at again.
const (
	entropyWorse = 5 // identifiers: what zstd finds in them are their hyphens, for three times the work
	entropyPages = 30
)

// The share of a chunk that zstd must save for the next one to be compressed too, and for how many chunks it is not.
const (
	leastSaved = 4 // percent
	retryAfter = 8
)

// chunk ends the chunk. The dictionary page is not in the reckoning: it is always compressed.
func (p *pages) chunk() chunk {
	c := chunk{pages: p.list}
	for i, at := range p.at {
		p.list[i].data = p.arena[at.piece][at.from:at.to:at.to]
		c.values += int64(p.list[i].rows)
	}
	for enc, s := range p.saved {
		switch {
		case s.raw == 0:
		case s.store > 0:
			s.store--
		case s.raw-s.packed < s.raw*leastSaved/100:
			s.store = retryAfter
		}
		s.raw, s.packed = 0, 0
		p.saved[enc] = s
	}
	for i := range p.arena {
		p.arena[i] = p.arena[i][:0]
	}
	p.last, p.at, p.list = 0, p.at[:0], p.list[:0]
	return c
}

// Buffers that only huge values needed are not kept for the next file.
const (
	keptArena = 16 << 20
	keptPage  = 4 << 20
)

func (p *pages) letGo() {
	held := 0
	for _, piece := range p.arena {
		held += cap(piece)
	}
	if held > keptArena {
		p.arena = nil
	}
	for _, b := range []*[]byte{&p.body, &p.other, &p.test} {
		if cap(*b) > keptPage {
			*b = nil
		}
	}
}

func (p *pages) buffered() (n int64) {
	for _, piece := range p.arena {
		n += int64(len(piece))
	}
	return n
}

// pageFull: a page ends by rows and by bytes.
func (p *pages) pageFull(bytes int) bool {
	return p.levels.rows >= p.pageRows || p.levels.rows > 0 && bytes >= p.pageBytes
}

// validBits is the bitmap of arr and the position of its row from in it; nil when there are no nulls.
func validBits(arr arrow.Array, from int) (bitmap []byte, off int) {
	return arr.NullBitmapBytes(), arr.Data().Offset() + from
}

func bitSet(bitmap []byte, i int) bool { return bitmap[i>>3]>>(i&7)&1 != 0 }

// nullsIn counts the nulls among n rows of arr.
func nullsIn(arr arrow.Array, from, n int) int {
	bitmap, off := validBits(arr, from)
	if len(bitmap) == 0 || arr.NullN() == 0 {
		return 0
	}
	return n - bitutil.CountSetBits(bitmap, off, n)
}

// trial is what a column learns about dictionaries within a row group, and from one to the next.
type trial struct {
	pending bool // the dictionary of this chunk has yet to prove itself
	rest    int  // chunks to go without a dictionary
	rows    int  // rows of this chunk so far
	group   int  // rows that a chunk has, more or less
}

// begins says whether a chunk begins with a dictionary.
func (t *trial) begins() bool {
	t.rows = 0
	if t.rest > 0 {
		t.rest--
	}
	t.pending = t.rest == 0
	return t.pending
}

// lost: the next chunks do without.
func (t *trial) lost() { t.rest = retryAfter }

// foresee says how many values the chunk will have, and how many of them will be distinct, after values with distinct
// different ones: as many as if all were drawn at random from one set. Where values come in clusters it says too few.
func (t *trial) foresee(distinct, values int) (allDistinct, all float64) {
	n, d := float64(values), float64(distinct)
	all = max(n, n*float64(t.group)/float64(max(t.rows, 1)))
	if distinct >= values || values == 0 {
		return all, all
	}
	// d = N·(1−exp(−n/N)) for the size N of the set; x is n/N. The left side falls as x grows.
	lo, hi := 1e-9, 1e3
	for range 50 {
		if x := (lo + hi) / 2; -math.Expm1(-x)/x > d/n {
			lo = x
		} else {
			hi = x
		}
	}
	size := max(n/hi, d)
	return min(-math.Expm1(-all/size)*size, all), all
}

// newEncoder makes the encoder of a field whose type node accepted. dict says whether it may use a dictionary.
func newEncoder(cfg encoderConfig, f arrow.Field, dict bool) (encoder, error) {
	switch t := f.Type.(type) {
	case *arrow.BooleanType:
		return boolEncoder(cfg, f), nil
	case *arrow.Int8Type:
		return intEncoder(cfg, f, 4, intColumn[int32](f), converted[int8, int32](func(a arrow.Array) []int8 { return a.(*array.Int8).Int8Values() }), plain32, dict), nil
	case *arrow.Int16Type:
		return intEncoder(cfg, f, 4, intColumn[int32](f), converted[int16, int32](func(a arrow.Array) []int16 { return a.(*array.Int16).Int16Values() }), plain32, dict), nil
	case *arrow.Int32Type:
		return intEncoder(cfg, f, 4, intColumn[int32](f), direct(func(a arrow.Array) []int32 { return a.(*array.Int32).Int32Values() }), plain32, dict), nil
	case *arrow.Int64Type:
		return intEncoder(cfg, f, 8, intColumn[int64](f), direct(func(a arrow.Array) []int64 { return a.(*array.Int64).Int64Values() }), plain64, dict), nil
	case *arrow.Float32Type:
		return floatEncoder(cfg, f, 4, direct(func(a arrow.Array) []float32 { return a.(*array.Float32).Float32Values() }), plainFloats), nil
	case *arrow.Float64Type:
		return floatEncoder(cfg, f, 8, direct(func(a arrow.Array) []float64 { return a.(*array.Float64).Float64Values() }), plainDoubles), nil
	case *arrow.Date32Type:
		return intEncoder(cfg, f, 4, dateColumn(f), converted[arrow.Date32, int32](func(a arrow.Array) []arrow.Date32 { return a.(*array.Date32).Date32Values() }), plain32, dict), nil
	case *arrow.TimestampType:
		return intEncoder(cfg, f, 8, timestampColumn(f), converted[arrow.Timestamp, int64](func(a arrow.Array) []arrow.Timestamp { return a.(*array.Timestamp).TimestampValues() }), plain64, dict), nil
	case *arrow.StringType:
		return &textColumn{pages: newPages(cfg, f), name: f.Name, dict: dict, stat: byteColumn(f, func(v parquet.ByteArray) any { return string(v) })}, nil
	case *arrow.BinaryType:
		return &textColumn{pages: newPages(cfg, f), name: f.Name, binary: true, stat: byteColumn(f, nil)}, nil
	case *arrow.Decimal128Type:
		switch {
		case t.Precision <= 9:
			return intEncoder(cfg, f, 4, shortDecimal[int32](f, t), takeShort[int32](f.Name, t.Precision), plain32, dict), nil
		case t.Precision <= 18:
			return intEncoder(cfg, f, 8, shortDecimal[int64](f, t), takeShort[int64](f.Name, t.Precision), plain64, dict), nil
		}
		return wideEncoder(cfg, f, t, dict), nil
	}
	return nil, fmt.Errorf("parquet: column %q: the type %s cannot be published", f.Name, f.Type)
}
