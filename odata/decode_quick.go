package odata

import (
	"bytes"
	"encoding/binary"
	"math/bits"

	"github.com/apache/arrow/go/v17/arrow/decimal128"

	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/utf"
)

// The quick way through a row. Servers write the rows of an answer alike: the same keys in the same order, no white
// space, values in their plainest form. quick takes that for granted, and checks it as it goes, eight bytes at a time:
// keys against the ones of the row before, digits, GUIDs and dates as words. It holds no grammar of its own. Where a value
// is not in its plainest form, the column's operation reads it; where anything else is different, quick returns without
// a word, and object reads the row again from its start, learns the order, and finds out what is wrong if something is.

// step is a column at its place in the row before.
type step struct {
	c     *column
	size  int       // bytes of the key: "Name":
	words [4]uint64 // its first 32 bytes, filled up with zeros
	masks [4]uint64 // which bytes of the words are the key's
	rest  []byte    // of the key, behind them
	form  form
}

// form is what quick can read by itself.
type form uint8

const (
	formOther form = iota // nothing: the column's operation reads it
	formGUID
	formString
	formBoolean
	formByte
	formInt16
	formInt32
	formInt64
	formDecimal
	formDate
	formDateTime
	formMap
	formBinary
)

func formOf(k edm.Kind) form {
	switch k {
	case edm.Guid:
		return formGUID
	case edm.String:
		return formString
	case edm.Boolean:
		return formBoolean
	case edm.Byte:
		return formByte
	case edm.Int16:
		return formInt16
	case edm.Int32:
		return formInt32
	case edm.Int64:
		return formInt64
	case edm.Decimal:
		return formDecimal
	case edm.Date:
		return formDate
	case edm.DateTime:
		return formDateTime
	case edm.MultiLanguage:
		return formMap
	case edm.Binary:
		return formBinary
	}
	return formOther
}

func newStep(c *column) step {
	s := step{c: c, size: len(c.key), form: c.form, rest: []byte(c.key[min(32, len(c.key)):])}
	var key, mask [32]byte
	for i := range copy(key[:], c.key) {
		mask[i] = 0xFF
	}
	for i := range s.words {
		s.words[i], s.masks[i] = binary.LittleEndian.Uint64(key[8*i:]), binary.LittleEndian.Uint64(mask[8*i:])
	}
	return s
}

// Rows that quick could not read cost twice. After so many of them in a row, so many are read by object alone.
const (
	quickPatience = 4
	quickRest     = 256
)

// learn takes the order of the row that object has just read as that of the next one.
func (d *decoder) learn() {
	same := len(d.plan) == len(d.came)
	for i := 0; same && i < len(d.plan); i++ {
		same = d.plan[i].c == &d.cols[d.came[i]]
	}
	if same {
		return
	}
	d.plan = d.plan[:0]
	for _, i := range d.came {
		d.plan = append(d.plan, d.steps[i])
	}
}

// hurry reads as many rows as it can the quick way, each with the comma before it, until the record is full. It leaves the
// window's start behind the last of them.
func (d *decoder) hurry() {
	b, end := d.w.data(), d.w.end
	for d.n < d.batch && d.rest == 0 && len(d.plan) == len(d.cols) {
		start := d.w.start
		if start >= end || b[start] != ',' || d.w.offset(start)-d.mark >= d.limits.record {
			return
		}
		if d.n == d.room {
			d.grow()
		}
		pos := d.quick(b, start+1)
		if pos < 0 {
			// A row that is cut by the end of the window says nothing about the next ones.
			if end-start > d.longest {
				d.missed()
			}
			return
		}
		size := pos - start
		if size > d.limits.row {
			return
		}
		d.longest = max(d.longest, size)
		d.misses = 0
		d.w.start = pos
		d.n++
		d.rows++
	}
}

// missed counts a row that quick could not read.
func (d *decoder) missed() {
	if d.misses++; d.misses >= quickPatience {
		d.misses, d.rest, d.longest = 0, quickRest, 0
	}
}

// quick reads one row at d.n. It returns the position after it, or a negative one if object is to read it.
//
// Of each key it looks at 32 bytes, however long the key is: behind the data there are as many. Keys are compared and values
// told apart here and not by functions, because a call takes as long as either.
func (d *decoder) quick(b []byte, pos int) int {
	before := byte('{')
	le := binary.LittleEndian
	for i := range d.plan {
		s := &d.plan[i]
		for {
			if b[pos] != before {
				return -1
			}
			before = ','
			pos++
			k := (*[32]byte)(b[pos:])
			differ := (le.Uint64(k[0:])^s.words[0])&s.masks[0] | (le.Uint64(k[8:])^s.words[1])&s.masks[1] |
				(le.Uint64(k[16:])^s.words[2])&s.masks[2] | (le.Uint64(k[24:])^s.words[3])&s.masks[3]
			if differ == 0 && (len(s.rest) == 0 || bytes.HasPrefix(b[pos+32:], s.rest)) {
				break
			}
			if pos = d.annotation(b, pos); pos < 0 {
				return -1
			}
		}
		if pos += s.size; b[pos] == 'n' {
			if le.Uint32(b[pos:]) != wordNull || !s.c.nullable {
				return -1
			}
			s.c.setNull(d.mem, d.n, d.room)
			pos += 4
			continue
		}
		next := -1
		var v int64
		switch s.form {
		case formGUID:
			next = s.c.quickGUID(b, pos, d.n)
		case formString:
			next = d.quickString(s.c, b, pos)
		case formDecimal:
			next = s.c.quickDecimal(b, pos, d.n)
		case formDateTime:
			next = s.c.quickDateTime(b, pos, d.n)
		case formDate:
			next = s.c.quickDate(b, pos, d.n)
		case formBoolean:
			next = s.c.quickBoolean(b, pos, d.n)
		case formInt64:
			if v, next = quickInteger(b, pos, 15); next >= 0 {
				s.c.i64[d.n] = v
			}
		case formInt32:
			if v, next = quickInteger(b, pos, 8); next >= 0 {
				s.c.i32[d.n] = int32(v) // at most eight digits
			}
		case formInt16, formByte:
			next = s.c.quickShort(b, pos, d.n)
		case formMap:
			next = d.quickMap(s.c, b, pos)
		case formBinary:
			next = d.quickBinary(s.c, b, pos)
		}
		if next < 0 {
			next = s.c.op(d, s.c, b, pos)
		}
		if pos = next; pos < 0 {
			return -1
		}
	}
	for b[pos] == ',' {
		if pos = d.annotation(b, pos+1); pos < 0 {
			return -1
		}
	}
	if b[pos] != '}' {
		return -1
	}
	return pos + 1
}

// annotation reads a key and its value at pos if they are an annotation.
func (d *decoder) annotation(b []byte, pos int) int {
	if b[pos] != '"' {
		return -1
	}
	if col, next := d.otherKey(b, pos); col < 0 {
		return next
	}
	return -1
}

const wordNull = 'n' | 'u'<<8 | 'l'<<16 | 'l'<<24

// quickGUID reads the one form of a GUID, and writes it in lower case.
func (c *column) quickGUID(b []byte, pos, n int) int {
	q := b[pos:]
	if len(q) < 38 {
		return -1
	}
	q = q[:38]
	from := int(c.offsets[n])
	if from+36 > len(c.bytes) {
		c.reserve(n, 36)
	}
	to := c.bytes[from:]
	if len(to) < 36 {
		return -1
	}
	to = to[:36]
	const (
		dashes1 = '-' | '-'<<40                 // -xxxx-xx
		dashes2 = '-'<<16 | '-'<<56             // xx-xxxx-
		field1  = 0xFF | 0xFF<<40               // the bytes of the dashes
		field2  = 0xFF<<16 | 0xFF<<56           //
		zero1   = ('-' ^ '0') * (field1 / 0xFF) // makes a zero of a dash
		zero2   = ('-' ^ '0') * (field2 / 0xFF)
	)
	le := binary.LittleEndian
	w1, w2 := le.Uint64(q[9:]), le.Uint64(q[17:])
	shape := (w1^dashes1)&field1 | (w2^dashes2)&field2 | uint64(q[0]^'"') | uint64(q[37]^'"')
	a0, ok0 := hexDigits(le.Uint64(q[1:]))
	a1, ok1 := hexDigits(w1 ^ zero1)
	a2, ok2 := hexDigits(w2 ^ zero2)
	a3, ok3 := hexDigits(le.Uint64(q[25:]))
	a4, ok4 := hexDigits(le.Uint64(q[29:])) // half of it for the second time
	if ok0&ok1&ok2&ok3&ok4 != highBits || shape != 0 {
		return -1
	}
	le.PutUint64(to, a0)
	le.PutUint64(to[8:], a1^zero1)
	le.PutUint64(to[16:], a2^zero2)
	le.PutUint64(to[24:], a3)
	le.PutUint64(to[28:], a4)
	c.offsets[n+1] = int32(from) + 36
	return pos + 38
}

// quickString copies a text without escapes while it looks for its end.
func (d *decoder) quickString(c *column, b []byte, pos int) int {
	if b[pos] != '"' {
		return -1
	}
	from := int(c.offsets[d.n])
	to, q := c.bytes[from:], b[pos+1:]
	var high uint64
	for i := 0; len(to) >= 8 && len(q) >= 8; i += 8 {
		w := binary.LittleEndian.Uint64(q)
		binary.LittleEndian.PutUint64(to, w)
		special := specialBytes(w)
		if special == 0 {
			high |= w & highBits
			to, q = to[8:], q[8:]
			continue
		}
		n := bits.TrailingZeros64(special) / 8
		high |= w & (1<<(8*n) - 1) & highBits
		size := i + n
		if q[n] != '"' || size > d.limits.str || high != 0 && !utf.Valid8(b[pos+1:pos+1+size]) {
			return -1
		}
		c.offsets[d.n+1] = int32(from + size)
		return pos + size + 2
	}
	return -1
}

// quickMap keeps a language map as it was written: one without white space is compact already.
func (d *decoder) quickMap(c *column, b []byte, pos int) int {
	if b[pos] != '{' {
		return -1
	}
	var high, h uint64
	for i, colon := pos, false; ; colon = !colon { // b[i] is what stands before a key, or before its text
		if b[i+1] != '"' {
			return -1
		}
		if i, h = scan(b, i+2); b[i] != '"' {
			return -1
		}
		high |= h
		i++
		switch {
		case !colon && b[i] == ':', colon && b[i] == ',':
		case colon && b[i] == '}':
			text := b[pos : i+1]
			if len(text) > d.limits.str || high != 0 && !utf.Valid8(text) {
				return -1
			}
			c.put(d.n, text)
			return i + 1
		default:
			return -1
		}
	}
}

// sixBits is what a character of base64 stands for, notSix for one that it does not have.
var sixBits = func() (t [256]byte) {
	for i := range t {
		t[i] = notSix
	}
	for i, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") {
		t[c] = byte(i)
	}
	return t
}()

const notSix = 0xC0

// quickBinary reads base64 in groups of four characters, the last of which may be filled up.
func (d *decoder) quickBinary(c *column, b []byte, pos int) int {
	from := int(c.offsets[d.n])
	if b[pos] != '"' {
		return -1
	}
	for i, n := pos+1, 0; i-pos <= d.limits.str; i += 4 {
		q := (*[5]byte)(b[i:])
		if q[0] == '"' {
			c.offsets[d.n+1] = int32(from + n)
			return i + 1
		}
		if from+n+3 > len(c.bytes) {
			c.reserve(d.n, n+3)
		}
		to := (*[3]byte)(c.bytes[from+n:])
		v0, v1, v2, v3 := sixBits[q[0]], sixBits[q[1]], sixBits[q[2]], sixBits[q[3]]
		to[0], to[1], to[2] = v0<<2|v1>>4, v1<<4|v2>>2, v2<<6|v3
		if v0|v1|v2|v3 < notSix {
			n += 3
			continue
		}
		switch { // bits that belong to no byte must be zero
		case q[3] != '=' || q[4] != '"' || v0|v1 >= notSix:
			return -1
		case v2 < notSix && v2&3 == 0:
			n += 2
		case q[2] == '=' && v1&15 == 0:
			n++
		default:
			return -1
		}
		c.offsets[d.n+1] = int32(from + n)
		return i + 5
	}
	return -1
}

func (c *column) quickBoolean(b []byte, pos, n int) int {
	const wordTrue, wordFals = 't' | 'r'<<8 | 'u'<<16 | 'e'<<24, 'f' | 'a'<<8 | 'l'<<16 | 's'<<24
	switch binary.LittleEndian.Uint32(b[pos:]) {
	case wordTrue:
		c.bits[n>>3] |= 1 << (n & 7)
		return pos + 4
	case wordFals:
		if b[pos+4] == 'e' {
			c.bits[n>>3] &^= 1 << (n & 7)
			return pos + 5
		}
	}
	return -1
}

const zeros = '0' * eachByte

// leadingDigits counts the decimal digits that eight bytes begin with, and returns their value, 0 if there are none.
func leadingDigits(w uint64) (value uint64, count int) {
	t := w ^ zeros
	// A byte above 9 gets its high bit set, or has it. Only the lowest such byte counts, and below it nothing carries.
	count = bits.TrailingZeros64((t+(0x80-10)*eachByte|t)&highBits) / 8
	return eightDigits(t << (64 - 8*count)), count
}

// eightDigits is the number whose digits are the bytes of t, 0 to 9 each, the first in the lowest byte. It adds
// neighbors up to pairs, pairs to fours, fours to eight.
func eightDigits(t uint64) uint64 {
	const pairs = 0x000000FF000000FF
	t = t*10 + t>>8
	return (t&pairs*(100+1000000<<32) + t>>16&pairs*(1+10000<<32)) >> 32
}

func endsValue(c byte) bool { return c == ',' || c == '}' }

// quickInteger reads an integer of one to most (8 or 15) digits, with another value or the end of the row behind it.
func quickInteger(b []byte, pos, most int) (int64, int) {
	negative := b[pos] == '-'
	if negative {
		pos++
	}
	value, n := leadingDigits(binary.LittleEndian.Uint64(b[pos:]))
	if n == 8 && most > 8 {
		more, k := leadingDigits(binary.LittleEndian.Uint64(b[pos+8:]))
		if k == 8 {
			return 0, -1
		}
		value, n = value*tens[k&7]+more, n+k
	}
	if n == 0 || b[pos] == '0' && n > 1 || !endsValue(b[pos+n]) {
		return 0, -1
	}
	v := int64(value)
	if negative {
		v = -v
	}
	return v, pos + n
}

// quickShort reads an integer of 16 bits, or one of eight that is not negative.
func (c *column) quickShort(b []byte, pos, n int) int {
	v, next := quickInteger(b, pos, 8)
	if next < 0 || v != int64(int16(v)) || c.form == formByte && v != int64(uint8(v)) {
		return -1
	}
	c.i16[n] = int16(v)
	return next
}

// quickDecimal reads a number with up to eight digits before the point and up to eight behind it, if 18 digits hold it.
func (c *column) quickDecimal(b []byte, pos, row int) int {
	negative := b[pos] == '-'
	if negative {
		pos++
	}
	v, n := leadingDigits(binary.LittleEndian.Uint64(b[pos:]))
	if n == 0 || b[pos] == '0' && n > 1 || n+int(c.scale) > 18 {
		return -1
	}
	pos += n
	up := int(c.scale)
	if b[pos] == '.' {
		fraction, n := leadingDigits(binary.LittleEndian.Uint64(b[pos+1:]))
		if up -= n; n == 0 || up < 0 {
			return -1
		}
		v = v*tens[n&15] + fraction
		pos += n + 1
	}
	v *= tens[up&31]
	if !endsValue(b[pos]) || v >= c.bound {
		return -1
	}
	if negative {
		c.dec[row] = signed(magnitude{0, v}, true)
	} else {
		c.dec[row] = decimal128.New(0, v)
	}
	return pos
}

// tens are the powers of ten that 64 bits hold, and zeros that are not asked for.
var tens = func() (t [32]uint64) {
	for i := range 20 {
		t[i] = powersOfTen[i].lo
	}
	return t
}()

const (
	dateShape  = '0' | '0'<<8 | '0'<<16 | '0'<<24 | '-'<<32 | '0'<<40 | '0'<<48 | '-'<<56
	dateDashes = 0xFF<<32 | 0xFF<<56
	timeShape  = '0' | '0'<<8 | 'T'<<16 | '0'<<24 | '0'<<32 | ':'<<40 | '0'<<48 | '0'<<56
	timeMarks  = 0xFF<<16 | 0xFF<<40
)

// inShape compares eight bytes with a shape whose zeros stand for digits. It returns each pair of neighbors as a number;
// those of a digit and a mark mean nothing.
func inShape(w, shape, marks uint64) (pairs uint64, ok bool) {
	t := w ^ shape
	return t*10 + t>>8, (t+(0x80-10)*eachByte|t)&highBits|t&marks == 0
}

// quickDate reads a date without a time.
func (c *column) quickDate(b []byte, pos, n int) int {
	q := b[pos:]
	if len(q) < 12 || q[0] != '"' || q[11] != '"' {
		return -1
	}
	w, ok := inShape(binary.LittleEndian.Uint64(q[1:]), dateShape, dateDashes)
	if !ok {
		return -1
	}
	days, ok := dayNumber(int(w&0xFF), int(w>>16&0xFF), int(w>>40&0xFF), two(q, 9))
	if !ok {
		return -1
	}
	c.i32[n] = int32(days)
	return pos + 12
}

// quickDateTime reads a date and time in UTC with seconds and up to seven digits of a fraction.
func (c *column) quickDateTime(b []byte, pos, n int) int {
	q := b[pos:]
	if len(q) < 32 || q[0] != '"' || q[17] != ':' {
		return -1
	}
	date, ok1 := inShape(binary.LittleEndian.Uint64(q[1:]), dateShape, dateDashes)
	clock, ok2 := inShape(binary.LittleEndian.Uint64(q[9:]), timeShape, timeMarks)
	days, ok3 := dayNumber(int(date&0xFF), int(date>>16&0xFF), int(date>>40&0xFF), int(clock&0xFF))
	hour, minute, second := int(clock>>24&0xFF), int(clock>>48&0xFF), two(q, 18)
	if !ok1 || !ok2 || !ok3 || hour > 23 || minute > 59 || second > 59 {
		return -1
	}
	micros, end := uint64(0), 20
	if q[20] == '.' {
		v, digits := leadingDigits(binary.LittleEndian.Uint64(q[21:]))
		switch {
		case digits == 0 || digits > 7:
			return -1
		case digits == 7: // what is finer than a microsecond is cut off
			micros = v / 10
		default:
			micros = v * tens[6-digits]
		}
		end = 21 + digits
	}
	if q[end] != 'Z' || q[end+1] != '"' {
		return -1
	}
	c.i64[n] = (days*86400+int64(hour*3600+minute*60+second))*1e6 + int64(micros)
	return pos + end + 2
}
