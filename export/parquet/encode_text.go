package parquet

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unicode/utf8"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/parquet"

	"github.com/tablexport/tablexport/odata/utf"
)

// textColumn encodes texts and binaries: a dictionary while it pays, then PLAIN.
type textColumn struct {
	pages
	name   string
	binary bool // no check for UTF-8, no minimum and maximum
	dict   bool // may have a dictionary

	stat    *typed[parquet.ByteArray]
	nulls   int64 // of the chunk under way
	values  int64
	bytes   int64 // of texts
	extent  textExtent
	open    bool
	trial   trial
	coding  bool
	table   textTable
	coded   []uint32 // the page under way, while coding
	plain   []byte   // the page under way, while not
	indexed int      // pages of this chunk that need the dictionary
	taken   int      // memory taken from the budget
}

// texts are n values of an array: data[offsets[i]-offsets[0]:offsets[i+1]-offsets[0]].
type texts struct {
	data    []byte
	offsets []int32
	bitmap  []byte // nil: no nulls
	off     int
}

func textsOf(arr arrow.Array, from, n, nulls int) texts {
	var t texts
	switch a := arr.(type) {
	case *array.String:
		t.offsets, t.data = a.ValueOffsets(), a.ValueBytes()
	case *array.Binary:
		t.offsets, t.data = a.ValueOffsets(), a.ValueBytes()
	}
	if n == 0 {
		return texts{}
	}
	first := t.offsets[0]
	t.offsets = t.offsets[from : from+n+1]
	t.data = t.data[t.offsets[0]-first : t.offsets[n]-first]
	if nulls > 0 {
		t.bitmap, t.off = validBits(arr, from)
	}
	return t
}

func (t texts) valid(i int) bool { return t.bitmap == nil || bitSet(t.bitmap, t.off+i) }

func (c *textColumn) add(arr arrow.Array, from, n, nulls int, row int64) error {
	t := textsOf(arr, from, n, nulls)
	if !c.open {
		c.begin()
	}
	if c.coding && len(t.data) > chunkBytes { // one row longer than any dictionary
		c.giveUp()
	}
	invalid := -1
	switch { // before anything is counted, and the dictionary notices by itself
	case c.coding:
		invalid = c.code(t)
	case !c.binary:
		invalid = t.invalid()
	}
	if invalid >= 0 {
		return &CellError{Column: c.name, Row: row + int64(invalid), Err: ErrText}
	}
	bitmap, off := validBits(arr, from)
	c.levels.add(bitmap, off, n, nulls)
	c.nulls += int64(nulls)
	c.values += int64(n - nulls)
	c.bytes += int64(len(t.data))
	c.trial.rows += n
	switch {
	case c.coding:
		c.judge()
	case c.binary:
		c.append(t)
	default:
		c.appendText(t)
	}
	if c.pageFull(c.pending()) {
		c.endPage()
	}
	return nil
}

func (c *textColumn) begin() {
	c.open = true
	c.trial.group, c.bytes = c.groupRows, 0
	c.coding = c.dict && c.trial.begins()
	if c.coding {
		c.table.reset()
		c.dicts.release(&c.taken)
		c.dicts.grow(&c.taken, c.table.memory())
	} else {
		c.drop()
	}
}

// drop gives the dictionary's memory back.
func (c *textColumn) drop() {
	c.table = textTable{}
	c.dicts.release(&c.taken)
}

// code puts texts into the dictionary. Only new entries can be the smallest or the largest, and only they are checked: what is
// equal to a valid text is valid. It returns the position of the first that is not UTF-8, or -1; after that the column is of no more use.
func (c *textColumn) code(t texts) (invalid int) {
	var last []byte
	var lastCode uint32
	some := false
	base := t.offset(0)
	for i := range t.len() {
		if !t.valid(i) {
			continue
		}
		v := t.data[t.offsets[i]-base : t.offsets[i+1]-base]
		if some && len(v) != guidSize && bytes.Equal(v, last) { // an identifier is as quickly found
			c.coded = append(c.coded, lastCode)
			continue
		}
		code, fresh := c.table.code(v)
		if fresh {
			if !utf.Valid8(v) {
				return i
			}
			c.extent.add(v)
		}
		c.coded = append(c.coded, code)
		last, lastCode, some = v, code, true
	}
	return -1
}

func (t texts) len() int { return max(len(t.offsets)-1, 0) }

func (t texts) offset(i int) int32 {
	if i >= len(t.offsets) {
		return 0
	}
	return t.offsets[i]
}

func (c *textColumn) append(t texts) {
	base := t.offset(0)
	for i := range t.len() {
		if t.valid(i) {
			v := t.data[t.offsets[i]-base : t.offsets[i+1]-base]
			c.plain = append(binary.LittleEndian.AppendUint32(c.plain, uint32(len(v))), v...)
		}
	}
}

func (c *textColumn) appendText(t texts) {
	base := t.offset(0)
	for i := range t.len() {
		if t.valid(i) {
			v := t.data[t.offsets[i]-base : t.offsets[i+1]-base]
			c.extent.add(v)
			c.plain = append(binary.LittleEndian.AppendUint32(c.plain, uint32(len(v))), v...)
		}
	}
}

func (c *textColumn) pending() int {
	return len(c.plain) + len(c.coded)*codeWidth(len(c.table.ends))/8
}

// judge gives up the dictionary where it is too large, and after a trial where it does not pay.
func (c *textColumn) judge() {
	if c.table.used() > c.dictBytes || !c.dicts.grow(&c.taken, c.table.memory()) {
		if !c.pays() {
			c.trial.lost()
		}
		c.giveUp()
		return
	}
	if c.trial.pending && c.values >= int64(c.dictTrial) {
		c.prove()
	}
}

// prove ends the trial. It comes before the first page that would need the dictionary.
func (c *textColumn) prove() {
	c.trial.pending = false
	if !c.pays() {
		c.trial.lost()
		c.giveUp()
	}
}

// pays: dictionary and codes take a fifth less than the texts. Both shrink alike when they are compressed.
func (c *textColumn) pays() bool {
	distinct, all := c.trial.foresee(len(c.table.ends), int(c.values))
	long := float64(c.bytes)/float64(max(c.values, 1)) + 4
	return distinct*long+all*float64(codeWidth(int(distinct)))/8 <= 0.8*all*long
}

// giveUp leaves the dictionary to the pages that have used it already; the page under way does without if it is the first.
func (c *textColumn) giveUp() {
	if c.indexed > 0 {
		c.endPage()
	} else {
		for _, code := range c.coded {
			c.plain = append(c.plain, c.table.prefixed(code)...)
		}
		c.coded = c.coded[:0]
		c.drop()
	}
	c.coding = false
}

func (c *textColumn) endPage() {
	if c.coding && c.trial.pending && c.indexed == 0 && len(c.coded) > 0 {
		c.prove()
	}
	if c.levels.rows == 0 {
		return
	}
	body, enc := c.pages.begin(), parquet.Encodings.Plain
	if len(c.coded) > 0 {
		c.indexed++
		width := codeWidth(len(c.table.ends))
		body, enc = appendHybrid(append(body, byte(width)), c.coded, width), parquet.Encodings.RLEDict
	} else {
		body = append(body, c.plain...)
	}
	c.end(body, enc)
	c.coded, c.plain = c.coded[:0], c.plain[:0]
}

func (c *textColumn) finish() chunk {
	c.trial.group = c.trial.rows // that was all
	c.endPage()
	if c.coding && !c.pays() {
		c.trial.lost() // too late for this chunk
	}
	out := c.pages.chunk()
	if c.indexed > 0 {
		out.dict, out.entries, out.level = c.table.plain, len(c.table.ends), c.dictLevel(c.table.plain)
	}
	out.stats.HasNullCount, out.stats.NullCount = true, c.nulls
	group := tally[parquet.ByteArray]{nulls: c.nulls, values: c.values}
	if c.extent.has {
		group.has, group.min, group.max = true, c.extent.min, c.extent.max
		// The footer holds copies until the file ends: none of what it will leave out.
		if len(group.min) <= maxStatsBytes {
			out.stats.SetMin(c.stat.keep(group.min))
		}
		if len(group.max) <= maxStatsBytes {
			out.stats.SetMax(c.stat.keep(group.max))
		}
	}
	c.stat.merge(&c.stat.file, &group)
	c.extent.has = false
	c.open, c.indexed, c.nulls, c.values = false, 0, 0, 0
	return out
}

func (c *textColumn) buffered() int64 { return c.pages.buffered() + int64(c.pending()/2) }

func (c *textColumn) stats() ColumnStats { return c.stat.stats() }

func (c *textColumn) forget() {
	c.stat.file = tally[parquet.ByteArray]{}
	c.letGo()
	if cap(c.plain) > keptPage {
		c.plain = nil
	}
}

// textExtent is the smallest and the largest text, in unsigned byte order.
type textExtent struct {
	has         bool
	least, most uint64 // the first eight bytes of min and max, big-endian, filled up with zeros
	min, max    []byte
}

func (e *textExtent) add(v []byte) {
	p := prefix(v)
	if e.has && p > e.least && p < e.most {
		return // the usual case
	}
	if !e.has || bytes.Compare(v, e.min) < 0 {
		e.min, e.least = append(e.min[:0], v...), p
	}
	if !e.has || bytes.Compare(v, e.max) > 0 {
		e.max, e.most = append(e.max[:0], v...), p
	}
	e.has = true
}

// prefix orders as the texts do, but for those that it cannot tell apart.
func prefix(v []byte) uint64 {
	if len(v) >= 8 {
		return binary.BigEndian.Uint64(v)
	}
	var p uint64
	for _, b := range v {
		p = p<<8 | uint64(b)
	}
	return p << (8 * (8 - len(v)) & 63) // nothing to shift where v is empty
}

// invalid is the first value that is not UTF-8, or -1.
func (t texts) invalid() int {
	if ascii(t.data) {
		return -1
	}
	whole := utf.Valid8(t.data) // the usual case in one sweep; a text may still end inside a character
	base := t.offset(0)
	for i := range t.len() {
		if !t.valid(i) {
			continue
		}
		from, to := int(t.offsets[i]-base), int(t.offsets[i+1]-base)
		if whole && !(runeStart(t.data, from) && runeStart(t.data, to)) || !whole && !utf.Valid8(t.data[from:to]) {
			return i
		}
	}
	return -1
}

func runeStart(all []byte, at int) bool { return at >= len(all) || utf8.RuneStart(all[at]) }

// ascii says whether no byte has its high bit set.
func ascii(b []byte) bool {
	const high = 0x8080808080808080
	for ; len(b) >= 32; b = b[32:] {
		w := binary.LittleEndian.Uint64(b) | binary.LittleEndian.Uint64(b[8:]) |
			binary.LittleEndian.Uint64(b[16:]) | binary.LittleEndian.Uint64(b[24:])
		if w&high != 0 {
			return false
		}
	}
	var rest byte
	for _, c := range b {
		rest |= c
	}
	return bits.LeadingZeros8(rest) > 0
}
