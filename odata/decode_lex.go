package odata

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"unicode/utf8"

	"github.com/tablexport/tablexport/odata/utf"
)

const (
	eachByte = 0x0101010101010101
	highBits = 0x8080808080808080

	mostNested = 64 // levels of arrays and objects inside of a value
)

func skipSpace(b []byte, pos int) int {
	for b[pos] == ' ' || b[pos] == '\n' || b[pos] == '\r' || b[pos] == '\t' {
		pos++
	}
	return pos
}

func startsNumber(c byte) bool { return c == '-' || c-'0' <= 9 }

// literal reads one of the three words of JSON.
func (d *decoder) literal(b []byte, pos int, word string) int {
	if string(b[pos:pos+len(word)]) == word {
		return pos + len(word)
	}
	for i := range len(word) {
		if b[pos+i] != word[i] {
			return d.fail(pos+i, "expected "+word)
		}
	}
	panic("odata: two equal texts differ nowhere")
}

// wrongType refuses a value of another kind than the column's; problem ends in "found ".
func (d *decoder) wrongType(c *column, b []byte, pos int, problem string) int {
	var kind string
	switch ch := b[pos]; {
	case ch == '"':
		kind = "a string"
	case ch == '{':
		kind = "an object"
	case ch == '[':
		kind = "an array"
	case ch == 't' || ch == 'f':
		kind = "a boolean"
	case ch == 'n':
		kind = "null"
	case startsNumber(ch):
		kind = "a number"
	default:
		return d.fail(pos, "expected a value")
	}
	return d.refuse(c, problem+kind)
}

// scan finds the first byte at or after i that is no plain character of a string: a quote, a backslash or a
// control character, at the latest the padding. high is not zero if a byte before it is outside of ASCII.
func scan(b []byte, i int) (end int, high uint64) {
	for ; ; i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		if special := specialBytes(w); special != 0 {
			n := bits.TrailingZeros64(special) &^ 7
			return i + n/8, high | w&(1<<n-1)&highBits
		}
		high |= w & highBits
	}
}

// specialBytes marks, by its high bit, the lowest byte of w that is a quote, a backslash or a control character; what it
// marks above that means nothing.
func specialBytes(w uint64) uint64 {
	quote := w ^ '"'*eachByte
	slash := w ^ '\\'*eachByte
	// The classic tests for a zero byte and for a byte below 0x20.
	return ((quote-eachByte)&^quote | (slash-eachByte)&^slash | (w-' '*eachByte)&^w) & highBits
}

// str reads a string; b[pos] is its opening quote. The text is valid until the next call or the next refill.
func (d *decoder) str(b []byte, pos int) (text []byte, next int) {
	end, high := scan(b, pos+1)
	if end-pos-1 > d.limits.str {
		return nil, d.refuse(nil, d.stringTooLong())
	}
	if b[end] == '"' {
		text = b[pos+1 : end]
		if high != 0 && !utf.Valid8(text) {
			return nil, d.fail(pos, "a string is not UTF-8")
		}
		return text, end + 1
	}
	return d.escaped(b, pos, end)
}

func (d *decoder) stringTooLong() string {
	return fmt.Sprintf("a string has more than %d bytes", d.limits.str)
}

// escaped reads on in a string whose first special byte is at i, into d.text.
func (d *decoder) escaped(b []byte, pos, i int) (text []byte, next int) {
	d.text = append(d.text[:0], b[pos+1:i]...)
	for {
		if i-pos-1 > d.limits.str {
			return nil, d.refuse(nil, d.stringTooLong())
		}
		switch b[i] {
		case '"':
			if !utf.Valid8(d.text) {
				return nil, d.fail(pos, "a string is not UTF-8")
			}
			return d.text, i + 1
		case '\\':
			if i = d.escape(b, i+1); i < 0 {
				return nil, i
			}
		default:
			return nil, d.fail(i, "a control character in a string")
		}
		end, _ := scan(b, i)
		d.text = append(d.text, b[i:end]...)
		i = end
	}
}

// escape appends the character of an escape sequence to d.text; b[i] is what follows the backslash.
func (d *decoder) escape(b []byte, i int) int {
	c := b[i]
	switch c {
	case '"', '\\', '/':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case 'u':
		r, next := d.codePoint(b, i+1)
		if next >= 0 {
			d.text = utf8.AppendRune(d.text, r)
		}
		return next
	default:
		return d.fail(i, "an unknown escape sequence in a string")
	}
	d.text = append(d.text, c)
	return i + 1
}

// codePoint reads the four digits of a \u escape, and a second escape if they are the first half of a pair.
func (d *decoder) codePoint(b []byte, i int) (rune, int) {
	const lone = `a \u escape that is half of a surrogate pair; no text can hold it, correct the value at its source`
	r, i := d.hex4(b, i)
	switch {
	case i < 0 || r < 0xD800 || r > 0xDFFF:
		return r, i
	case r >= 0xDC00 && d.skimming:
		return 0xFFFD, i
	case r >= 0xDC00:
		return 0, d.refuse(nil, lone)
	}
	for k, c := range []byte(`\u`) {
		if b[i+k] != c {
			if i+k >= d.w.end {
				return 0, d.fail(i+k, "a surrogate pair ends")
			}
			if d.skimming {
				return 0xFFFD, i
			}
			return 0, d.refuse(nil, lone)
		}
	}
	low, i := d.hex4(b, i+2)
	if i >= 0 && (low < 0xDC00 || low > 0xDFFF) && !d.skimming {
		return 0, d.refuse(nil, lone)
	}
	return 0x10000 + (r-0xD800)<<10 + (low - 0xDC00), i
}

func (d *decoder) hex4(b []byte, i int) (rune, int) {
	var r rune
	for range 4 {
		c := b[i]
		switch {
		case c-'0' <= 9:
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, d.fail(i, `a \u escape needs four hexadecimal digits`)
		}
		r = r<<4 | rune(c)
		i++
	}
	return r, i
}

// skip reads any value, checking it as strictly as one that is kept. With keep its text is left in d.kept
// without the white space between its tokens; numbers and strings stay as they were written.
func (d *decoder) skip(b []byte, pos int, keep bool) int {
	d.kept = d.kept[:0]
	var objects uint64 // one bit per level, the lowest is the innermost: 1 = object
	for depth := 0; ; {
		// Here a value begins.
		from := pos
		switch c := b[pos]; {
		case c == '{' || c == '[':
			if depth == mostNested {
				return d.refuse(nil, fmt.Sprintf("a value is nested deeper than %d levels", mostNested))
			}
			depth++
			objects = objects<<1 | uint64(c>>5&1) // '{' is 0x7B, '[' is 0x5B
			pos++
			d.keep(b[from:pos], keep)
			pos = skipSpace(b, pos)
			if b[pos] != c+2 { // the closing bracket stands two places after the opening one
				if c == '{' {
					if pos = d.skipKey(b, pos, keep); pos < 0 {
						return pos
					}
				}
				continue
			}
		case c == '"':
			_, pos = d.str(b, pos)
		case c == 't':
			pos = d.literal(b, pos, "true")
		case c == 'f':
			pos = d.literal(b, pos, "false")
		case c == 'n':
			pos = d.literal(b, pos, "null")
		default:
			if _, pos = d.number(b, pos); pos >= d.w.end {
				d.err = needMore // it may go on
				return -1
			}
		}
		if pos < 0 {
			return pos
		}
		if b[from] != '{' && b[from] != '[' {
			d.keep(b[from:pos], keep)
		}
		// Here a value, or an opening bracket that is closed at once, has ended.
		if pos, objects, depth = d.skipEnds(b, pos, objects, depth, keep); pos < 0 || depth == 0 {
			return pos
		}
	}
}

// skipEnds reads the closing brackets after a value, and the comma and key before the next one if it is inside of another.
func (d *decoder) skipEnds(b []byte, pos int, objects uint64, depth int, keep bool) (int, uint64, int) {
	for depth > 0 {
		pos = skipSpace(b, pos)
		closing := byte(']') + byte(objects&1)<<5
		switch b[pos] {
		case closing:
			d.keep(b[pos:pos+1], keep)
			pos++
			objects >>= 1
			depth--
		case ',':
			d.keep(b[pos:pos+1], keep)
			pos = skipSpace(b, pos+1)
			if objects&1 == 1 {
				pos = d.skipKey(b, pos, keep)
			}
			return pos, objects, depth
		default:
			return d.fail(pos, "expected a comma or "+string(closing)), objects, depth
		}
	}
	return pos, objects, depth
}

// skipKey reads a key and its colon, and the white space after it.
func (d *decoder) skipKey(b []byte, pos int, keep bool) int {
	if b[pos] != '"' {
		return d.fail(pos, "expected the name of a property")
	}
	from := pos
	if _, pos = d.str(b, pos); pos < 0 {
		return pos
	}
	d.keep(b[from:pos], keep)
	pos = skipSpace(b, pos)
	if b[pos] != ':' {
		return d.fail(pos, "expected a colon")
	}
	d.keep(b[pos:pos+1], keep)
	return skipSpace(b, pos+1)
}

func (d *decoder) keep(token []byte, keep bool) {
	if keep {
		d.kept = append(d.kept, token...)
	}
}
