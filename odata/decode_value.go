package odata

import (
	"bytes"
	"math"

	"github.com/tablexport/tablexport/odata/edm"
)

// An operation parses one value that is not null at b[pos] and puts it into row d.n of its column. It
// returns the position after the value, or a negative one with d.err set. It may be called twice for one
// row, then with the same value (see decoder).
type operation func(d *decoder, c *column, b []byte, pos int) int

// operationOf is the operation of a kind, nil if it cannot be decoded.
func operationOf(k edm.Kind) operation {
	switch k {
	case edm.Guid:
		return decodeGUID
	case edm.String:
		return decodeString
	case edm.MultiLanguage:
		return decodeMultiLanguage
	case edm.Boolean:
		return decodeBoolean
	case edm.Byte:
		return decodeByte
	case edm.Int16:
		return decodeInt16
	case edm.Int32:
		return decodeInt32
	case edm.Int64:
		return decodeInt64
	case edm.Decimal:
		return decodeDecimal
	case edm.Double:
		return decodeDouble
	case edm.Date:
		return decodeDate
	case edm.DateTime:
		return decodeDateTime
	case edm.TimeOfDay:
		return decodeTimeOfDay
	case edm.Binary:
		return decodeBinary
	}
	return nil
}

func decodeGUID(d *decoder, c *column, b []byte, pos int) int {
	to := c.reserve(d.n, 36)
	// The 38 bytes are within b, because no quote stands in the padding.
	if b[pos] == '"' && pos+38 <= len(b) && b[pos+37] == '"' && lowerGUID(to, b[pos+1:pos+37]) {
		c.commit(d.n, 36)
		return pos + 38
	}
	text, next := d.quotedText(c, b, pos)
	if next < 0 {
		return next
	}
	if !lowerGUID(to, text) {
		return d.refuse(c, "expected a GUID like 01234567-89ab-cdef-0123-456789abcdef")
	}
	c.commit(d.n, 36)
	return next
}

func decodeString(d *decoder, c *column, b []byte, pos int) int {
	text, next := d.quotedText(c, b, pos)
	if next < 0 {
		return next
	}
	c.put(d.n, text)
	return next
}

// decodeMultiLanguage keeps the text of a language map as compact JSON; a plain string is kept as it is.
// The map's own names are not judged: they are kept, all of them.
func decodeMultiLanguage(d *decoder, c *column, b []byte, pos int) int {
	switch b[pos] {
	case '{', '[':
		next := d.skip(b, pos, true)
		if next >= 0 {
			c.put(d.n, d.kept)
		}
		return next
	case '"':
		return decodeString(d, c, b, pos)
	}
	return d.wrongType(c, b, pos, "expected a language map or a string, found ")
}

func decodeBoolean(d *decoder, c *column, b []byte, pos int) int {
	switch b[pos] {
	case 't':
		if pos = d.literal(b, pos, "true"); pos >= 0 {
			c.bits[d.n>>3] |= 1 << (d.n & 7)
		}
		return pos
	case 'f':
		if pos = d.literal(b, pos, "false"); pos >= 0 {
			c.bits[d.n>>3] &^= 1 << (d.n & 7)
		}
		return pos
	}
	return d.wrongType(c, b, pos, "expected a boolean, found ")
}

func decodeByte(d *decoder, c *column, b []byte, pos int) int {
	v, next := d.integer(c, b, pos, false)
	if next >= 0 && (v < 0 || v > math.MaxUint8) {
		return d.refuse(c, "the number is not between 0 and 255")
	}
	if next >= 0 {
		c.i16[d.n] = int16(v)
	}
	return next
}

func decodeInt16(d *decoder, c *column, b []byte, pos int) int {
	v, next := d.integer(c, b, pos, false)
	if next >= 0 && v != int64(int16(v)) {
		return d.refuse(c, "the number does not fit into 16 bits")
	}
	if next >= 0 {
		c.i16[d.n] = int16(v)
	}
	return next
}

func decodeInt32(d *decoder, c *column, b []byte, pos int) int {
	v, next := d.integer(c, b, pos, false)
	if next >= 0 && v != int64(int32(v)) {
		return d.refuse(c, "the number does not fit into 32 bits")
	}
	if next >= 0 {
		c.i32[d.n] = int32(v)
	}
	return next
}

func decodeInt64(d *decoder, c *column, b []byte, pos int) int {
	v, next := d.integer(c, b, pos, true)
	if next >= 0 {
		c.i64[d.n] = v
	}
	return next
}

func decodeDecimal(d *decoder, c *column, b []byte, pos int) int {
	v, next := d.decimal(c, b, pos)
	if next >= 0 {
		c.dec[d.n] = v
	}
	return next
}

func decodeDouble(d *decoder, c *column, b []byte, pos int) int {
	v, next := d.double(c, b, pos)
	if next >= 0 {
		c.f64[d.n] = v
	}
	return next
}

func decodeDate(d *decoder, c *column, b []byte, pos int) int {
	text, next := d.quotedText(c, b, pos)
	if next < 0 {
		return next
	}
	days, problem := readDate(text)
	if problem != "" {
		return d.refuse(c, problem)
	}
	c.i32[d.n] = int32(days)
	return next
}

func decodeDateTime(d *decoder, c *column, b []byte, pos int) int {
	text, next := d.quotedText(c, b, pos)
	if next < 0 {
		return next
	}
	micros, problem := readTimestamp(text)
	if problem != "" {
		return d.refuse(c, problem)
	}
	c.i64[d.n] = micros
	return next
}

func decodeTimeOfDay(d *decoder, c *column, b []byte, pos int) int {
	text, next := d.quotedText(c, b, pos)
	if next < 0 {
		return next
	}
	if !isTimeOfDay(text) {
		return d.refuse(c, "expected a time of day like 15:04:05 (or PT15H4M5S), less than 24 hours")
	}
	c.put(d.n, text)
	return next
}

// decodeBinary takes base64 and base64url, as OData JSON Format 4.01, "Primitive Value", and the practice of .NET have
// them. Hexadecimal text is not guessed at: "0x…" is made of characters that base64 has, too.
func decodeBinary(d *decoder, c *column, b []byte, pos int) int {
	text, next := d.quotedText(c, b, pos)
	if next < 0 {
		return next
	}
	form := base64Of(text)
	to := c.reserve(d.n, form.DecodedLen(len(text)))
	n, err := form.Decode(to, text)
	// The library passes over line breaks, which have no place in a JSON value.
	if err != nil || bytes.IndexByte(text, '\n') >= 0 || bytes.IndexByte(text, '\r') >= 0 {
		return d.refuse(c, "expected base64 or base64url")
	}
	c.commit(d.n, n)
	return next
}

// quotedText reads the string that a value is to be.
func (d *decoder) quotedText(c *column, b []byte, pos int) (text []byte, next int) {
	if b[pos] != '"' {
		return nil, d.wrongType(c, b, pos, "expected a string, found ")
	}
	return d.str(b, pos)
}
