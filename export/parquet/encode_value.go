package parquet

import (
	"encoding/binary"
	"math/bits"
	"slices"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/decimal128"
	"github.com/apache/arrow/go/v17/parquet"
)

// valueColumn encodes values of a fixed size: a dictionary while it pays, then DELTA_BINARY_PACKED or PLAIN by the page.
// Everything that depends on T happens a batch at a time.
type valueColumn[T comparable] struct {
	pages
	stat  *typed[T]
	size  int // bytes of a value, PLAIN
	take  take[T]
	plain func(dst []byte, vals []T) []byte
	hash  func(T) uint64                                            // nil: never a dictionary
	codes func(c *valueColumn[T], vals []T)                         // puts vals into the dictionary
	delta func(dst []byte, vals []T, limit int) (_ []byte, ok bool) // nil: never delta

	group   tally[T] // of the chunk under way
	open    bool     // a chunk is under way
	trial   trial
	coding  bool // values go to the dictionary
	table   valueTable[T]
	coded   []uint32 // the page under way, while coding
	vals    []T      // the page under way, while not
	dictBuf []byte
	indexed int // pages of this chunk that need the dictionary
	taken   int // memory taken from the budget

	wins     parquet.Encoding // of pages without the dictionary
	settled  int              // pages before that is looked at again
	accepted int              // chunks before a dictionary that paid has to prove itself against delta again
}

func (c *valueColumn[T]) add(arr arrow.Array, from, n, nulls int, row int64) error {
	vals, err := c.take(arr, from, n, nulls, row)
	if err != nil {
		return err
	}
	if !c.open {
		c.begin()
	}
	bitmap, off := validBits(arr, from)
	c.levels.add(bitmap, off, n, nulls)
	c.stat.count(&c.group, vals, int64(nulls))
	c.trial.rows += n
	if c.coding {
		c.codes(c, vals)
		c.judge()
	} else {
		c.vals = append(c.vals, vals...)
	}
	if c.pageFull(c.pending()) {
		c.endPage()
	}
	return nil
}

func (c *valueColumn[T]) begin() {
	c.open = true
	c.trial.group = c.groupRows
	c.coding = c.hash != nil && c.trial.begins()
	if c.coding {
		c.table.reset()
		c.dicts.release(&c.taken)
		c.dicts.grow(&c.taken, c.memory())
	} else {
		c.drop()
	}
}

// memory is what the dictionary holds, whether in use or not.
func (c *valueColumn[T]) memory() int { return cap(c.table.keys)*c.size + 4*len(c.table.slots) }

// used is what its entries take. What it holds says nothing of them: it may come from an earlier row group.
func (c *valueColumn[T]) used() int { return len(c.table.keys)*c.size + 4*len(c.table.slots) }

// drop gives the dictionary's memory back.
func (c *valueColumn[T]) drop() {
	c.table = valueTable[T]{}
	c.dicts.release(&c.taken)
}

// code puts one value into the dictionary. The callers hash: that is inlined there.
func (c *valueColumn[T]) code(v T, h uint64) {
	code, fresh := c.table.code(v, h)
	c.coded = append(c.coded, code)
	if fresh && c.table.full() {
		c.table.grow(c.hash)
	}
}

func (c *valueColumn[T]) pending() int {
	if c.coding {
		return len(c.coded) * codeWidth(len(c.table.keys)) / 8
	}
	return len(c.vals) * c.size
}

// judge gives up the dictionary where it is too large, and after a trial where it does not pay.
func (c *valueColumn[T]) judge() {
	if c.used() > c.dictBytes || !c.dicts.grow(&c.taken, c.memory()) {
		if !c.pays() {
			c.trial.lost()
		}
		c.giveUp()
		return
	}
	if c.trial.pending && c.group.values >= int64(c.dictTrial) {
		c.prove()
	}
}

// prove ends the trial. It comes before the first page that would need the dictionary.
func (c *valueColumn[T]) prove() {
	c.trial.pending = false
	if !c.pays() || !c.smallest() {
		c.trial.lost()
		c.giveUp()
	}
}

// pays: the dictionary leaves out every other value at least.
func (c *valueColumn[T]) pays() bool {
	distinct, all := c.trial.foresee(len(c.table.keys), int(c.group.values))
	return distinct <= all/2
}

// smallest compares what the codes of the page under way and their share of the dictionary take, compressed, with what
// the values themselves would.
func (c *valueColumn[T]) smallest() bool {
	if c.delta == nil || len(c.coded) == 0 {
		return true
	}
	if c.accepted > 0 {
		c.accepted--
		return true
	}
	width := codeWidth(len(c.table.keys))
	codes := c.compressed(appendHybrid(append(c.body[:0], byte(width)), c.coded, width))
	dict := c.compressed(c.plain(c.body[:0], c.table.keys))
	distinct, all := c.trial.foresee(len(c.table.keys), int(c.group.values))
	share := distinct / float64(max(len(c.table.keys), 1)) * float64(len(c.coded)) / all
	c.decode()
	_, _, values := c.choose(c.body[:0])
	c.vals = c.vals[:0]
	if float64(codes)+float64(dict)*share > float64(values) {
		return false
	}
	c.accepted = retryAfter
	return true
}

// compressed is the size of body after compression.
func (c *valueColumn[T]) compressed(body []byte) int {
	c.body = body[:0]
	c.test = compressTo(c.test[:0], body, c.level)
	return len(c.test)
}

// deltaWorse is by how much a page that is DELTA_BINARY_PACKED may be longer than the same PLAIN, in percent: it hardly needs zstd, whose
// search for repeats among plain numbers takes twenty times as long as packing them.
const deltaWorse = 20

// choose encodes the values of the page under way both ways, and settles for the smaller, or for delta while it is nearly as small. body holds the levels.
func (c *valueColumn[T]) choose(body []byte) ([]byte, parquet.Encoding, int) {
	levels := len(body)
	c.wins, c.settled = parquet.Encodings.Plain, 2*retryAfter
	body = c.plain(body, c.vals)
	c.test = compressTo(c.test[:0], body[levels:], c.level)
	size := len(c.test)
	other, ok := c.delta(c.other[:0], c.vals, len(body)-levels)
	c.other = other[:0]
	if ok {
		c.test = compressTo(c.test[:0], other, c.level)
		if len(c.test)*100 < size*(100+deltaWorse) {
			c.wins = parquet.Encodings.DeltaBinaryPacked
			return append(body[:levels], other...), c.wins, len(c.test)
		}
	}
	return body, c.wins, size
}

// decode turns the codes of the page under way back into values.
func (c *valueColumn[T]) decode() {
	for _, code := range c.coded {
		c.vals = append(c.vals, c.table.keys[code])
	}
}

// giveUp leaves the dictionary to the pages that have used it already; the page under way does without if it is the first.
func (c *valueColumn[T]) giveUp() {
	if c.indexed > 0 {
		c.endPage()
	} else {
		c.decode()
		c.coded = c.coded[:0]
		c.drop()
	}
	c.coding = false
}

func (c *valueColumn[T]) endPage() {
	if c.coding && c.trial.pending && c.indexed == 0 && len(c.coded) > 0 {
		c.prove()
	}
	if c.levels.rows == 0 {
		return
	}
	body, enc := c.compose()
	c.end(body, enc)
	c.coded, c.vals = c.coded[:0], c.vals[:0]
}

// compose makes the page's body, and says in which encoding. A page without values is PLAIN: it needs no dictionary.
func (c *valueColumn[T]) compose() ([]byte, parquet.Encoding) {
	body := c.pages.begin()
	if len(c.coded) > 0 {
		c.indexed++
		width := codeWidth(len(c.table.keys))
		return appendHybrid(append(body, byte(width)), c.coded, width), parquet.Encodings.RLEDict
	}
	if c.delta != nil && len(c.vals) > 0 {
		if c.settled == 0 {
			body, enc, _ := c.choose(body)
			return body, enc
		}
		c.settled--
		if c.wins == parquet.Encodings.DeltaBinaryPacked {
			if out, ok := c.delta(body, c.vals, len(c.vals)*c.size); ok {
				return out, c.wins
			}
		}
	}
	return c.plain(body, c.vals), parquet.Encodings.Plain
}

func (c *valueColumn[T]) finish() chunk {
	c.trial.group = c.trial.rows // that was all
	c.endPage()
	if c.coding && !c.pays() {
		c.trial.lost() // too late for this chunk
	}
	out := c.pages.chunk()
	if c.indexed > 0 {
		c.dictBuf = c.plain(c.dictBuf[:0], c.table.keys)
		out.dict, out.entries, out.level = c.dictBuf, len(c.table.keys), c.dictLevel(c.dictBuf)
	}
	out.stats.HasNullCount, out.stats.NullCount = true, c.group.nulls
	if c.group.has && c.stat.public != nil {
		lo, hi := c.group.min, c.group.max
		if c.stat.footer != nil {
			lo, hi = c.stat.footer(lo, hi)
		}
		out.stats.SetMin(c.plain(nil, []T{lo}))
		out.stats.SetMax(c.plain(nil, []T{hi}))
	}
	c.stat.merge(&c.stat.file, &c.group)
	c.group = tally[T]{}
	c.open, c.indexed = false, 0
	return out
}

func (c *valueColumn[T]) buffered() int64 { return c.pages.buffered() + int64(c.pending()/2) }

func (c *valueColumn[T]) stats() ColumnStats { return c.stat.stats() }

func (c *valueColumn[T]) forget() {
	c.stat.file = tally[T]{}
	c.letGo()
}

// --- one column for each kind of value ---

func boolEncoder(cfg encoderConfig, f arrow.Field) encoder {
	return &valueColumn[bool]{pages: newPages(cfg, f), size: 1, stat: boolColumn(f), take: takeBool(), plain: plainBools}
}

func floatEncoder[T float32 | float64](cfg encoderConfig, f arrow.Field, size int, take take[T], plain func([]byte, []T) []byte) encoder {
	return &valueColumn[T]{pages: newPages(cfg, f), size: size, stat: floatColumn[T](f), take: take, plain: plain}
}

func intEncoder[T int32 | int64](cfg encoderConfig, f arrow.Field, size int, stat *typed[T], take take[T], plain func([]byte, []T) []byte, dict bool) encoder {
	c := &valueColumn[T]{pages: newPages(cfg, f), size: size, stat: stat, take: take, plain: plain, delta: appendDelta[T]}
	if dict {
		c.hash = func(v T) uint64 { return uint64(v) * spread }
		c.codes = func(c *valueColumn[T], vals []T) {
			for _, v := range vals {
				c.code(v, uint64(v)*spread)
			}
		}
	}
	return c
}

func wideEncoder(cfg encoderConfig, f arrow.Field, t *arrow.Decimal128Type, dict bool) encoder {
	length := decimalBytes(t.Precision)
	c := &valueColumn[decimal128.Num]{pages: newPages(cfg, f), size: length, take: takeWide(f.Name, t.Precision)}
	c.stat = newTyped(f, func(v decimal128.Num) any { return decimalText(v, t.Scale) })
	c.stat.less = decimal128.Num.Less
	c.stat.extent = extentBy(c.stat.less)
	c.plain = func(dst []byte, vals []decimal128.Num) []byte {
		dst = slices.Grow(dst, len(vals)*length)
		for _, v := range vals {
			var b [16]byte
			binary.BigEndian.PutUint64(b[:8], uint64(v.HighBits()))
			binary.BigEndian.PutUint64(b[8:], v.LowBits())
			dst = append(dst, b[16-length:]...)
		}
		return dst
	}
	if dict {
		c.hash = hashWide
		c.codes = func(c *valueColumn[decimal128.Num], vals []decimal128.Num) {
			for _, v := range vals {
				c.code(v, hashWide(v))
			}
		}
	}
	return c
}

func hashWide(v decimal128.Num) uint64 {
	hi, lo := bits.Mul64(v.LowBits()^spread, uint64(v.HighBits())^bits.RotateLeft64(spread, 32))
	return (hi ^ lo ^ v.LowBits()) * spread
}

func newPages(cfg encoderConfig, f arrow.Field) pages {
	return pages{encoderConfig: cfg, nullable: f.Nullable, saved: map[parquet.Encoding]saving{}, entropy: map[parquet.Encoding]entropyTrial{}}
}
