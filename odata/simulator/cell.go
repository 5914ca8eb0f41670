package simulator

import (
	"encoding/base64"
	"encoding/hex"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/tablexport/tablexport/odata/edm"
)

// cell is one generated value. Which fields are set depends on the kind of the column. A cell is reused from
// value to value: b keeps its memory.
type cell struct {
	null  bool
	style uint8   // how the value is written: fraction digits of a time, escapes of a string
	zone  int16   // minutes east of UTC that a datetime is shown in, where the behaviour shows offsets
	dec   decimal // Decimal
	hi    uint64  // Guid: sort key
	lo    uint64
	ord   uint64  // Guid of a reference: the row that is referred to
	i     int64   // integers, Boolean (0, 1), Date (days since 0001-01-01), DateTime and TimeOfDay (ticks of 100 ns)
	f     float64 // Double
	b     []byte  // String, Binary (the bytes), MultiLanguage (JSON text)
}

const (
	ticksPerSecond = int64(10_000_000)
	ticksPerDay    = 86_400 * ticksPerSecond
	maxDay         = 3_652_058 // 9999-12-31
)

// daysOf returns the days from 0001-01-01 to the date, in the proleptic Gregorian calendar.
func daysOf(y, m, d int) int64 {
	if m <= 2 {
		y--
		m += 12
	}
	return int64(365*y+y/4-y/100+y/400+(153*(m-3)+2)/5+d) - 307
}

// civil is the inverse of daysOf (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
func civil(days int64) (y, m, d int) {
	z := days + 306 // days since 0000-03-01
	era := z / 146_097
	doe := z - era*146_097
	yoe := (doe - doe/1460 + doe/36_524 - doe/146_096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	d = int(doy - (153*mp+2)/5 + 1)
	y = int(yoe + era*400)
	m = int(mp + 3)
	if m > 12 {
		m -= 12
		y++
	}
	return y, m, d
}

func appendDate(dst []byte, days int64) []byte {
	y, m, d := civil(days)
	dst = appendPadded(dst, uint64(y), 4)
	dst = append(dst, '-')
	dst = appendPadded(dst, uint64(m), 2)
	dst = append(dst, '-')
	return appendPadded(dst, uint64(d), 2)
}

// appendClock appends hh:mm:ss and, if digits > 0, a point and that many digits of the fraction (cut, not rounded).
func appendClock(dst []byte, ticks int64, digits int) []byte {
	s := ticks / ticksPerSecond
	dst = appendPadded(dst, uint64(s/3600), 2)
	dst = append(dst, ':')
	dst = appendPadded(dst, uint64(s/60%60), 2)
	dst = append(dst, ':')
	dst = appendPadded(dst, uint64(s%60), 2)
	if digits > 0 {
		dst = append(dst, '.')
		frac := uint64(ticks % ticksPerSecond)
		dst = appendPadded(dst, frac/pow10[7-digits][1], digits)
	}
	return dst
}

// appendDateTime appends an instant as it looks in the zone, with Z for zone 0.
func appendDateTime(dst []byte, ticks int64, digits int, zone int16) []byte {
	if local := ticks + int64(zone)*60*ticksPerSecond; local < 0 || local >= (maxDay+1)*ticksPerDay {
		zone = 0 // the years 0000 and 10000 cannot be written
	}
	ticks += int64(zone) * 60 * ticksPerSecond
	dst = appendDate(dst, ticks/ticksPerDay)
	dst = append(dst, 'T')
	dst = appendClock(dst, ticks%ticksPerDay, digits)
	switch {
	case zone == 0:
		return append(dst, 'Z')
	case zone < 0:
		dst, zone = append(dst, '-'), -zone
	default:
		dst = append(dst, '+')
	}
	dst = appendPadded(dst, uint64(zone/60), 2)
	dst = append(dst, ':')
	return appendPadded(dst, uint64(zone%60), 2)
}

// canonical returns the cell in the canonical form that the package comment describes.
func (col *column) canonical(c *cell) string {
	if c.null {
		return Null
	}
	switch col.Type.Kind {
	case edm.Guid:
		return string(appendGUID(nil, c.hi, c.lo))
	case edm.String, edm.MultiLanguage:
		return string(c.b)
	case edm.Boolean:
		return strconv.FormatBool(c.i != 0)
	case edm.Byte, edm.Int16, edm.Int32, edm.Int64:
		return strconv.FormatInt(c.i, 10)
	case edm.Decimal:
		return string(appendDecimal(nil, c.dec, int(col.Type.Scale)))
	case edm.Double:
		return strconv.FormatFloat(c.f, 'g', -1, 64)
	case edm.Date:
		return string(appendDate(nil, c.i))
	case edm.DateTime:
		return string(appendDateTime(nil, c.i, 6, 0))
	case edm.TimeOfDay:
		return string(appendClock(nil, c.i, int(c.style)))
	case edm.Binary:
		return hex.EncodeToString(c.b)
	}
	return Null
}

// appendJSON appends the cell as the server writes it.
func (col *column) appendJSON(dst []byte, c *cell, how *Behavior) []byte {
	if c.null {
		return append(dst, "null"...)
	}
	switch col.Type.Kind {
	case edm.Guid:
		dst = append(dst, '"')
		dst = appendGUID(dst, c.hi, c.lo)
		return append(dst, '"')
	case edm.String:
		return appendQuoted(dst, c.b, c.style)
	case edm.MultiLanguage:
		return append(dst, c.b...)
	case edm.Boolean:
		return strconv.AppendBool(dst, c.i != 0)
	case edm.Byte, edm.Int16, edm.Int32:
		return strconv.AppendInt(dst, c.i, 10)
	case edm.Int64:
		if how.NumbersAsStrings {
			dst = strconv.AppendInt(append(dst, '"'), c.i, 10)
			return append(dst, '"')
		}
		return strconv.AppendInt(dst, c.i, 10)
	case edm.Decimal:
		return col.appendDecimalJSON(dst, c, how)
	case edm.Double:
		return strconv.AppendFloat(dst, c.f, 'g', -1, 64)
	case edm.Date:
		dst = appendDate(append(dst, '"'), c.i)
		return append(dst, '"')
	case edm.DateTime:
		zone := int16(0)
		if how.Offsets {
			zone = c.zone
		}
		dst = appendDateTime(append(dst, '"'), c.i, int(c.style), zone)
		return append(dst, '"')
	case edm.TimeOfDay:
		dst = appendClock(append(dst, '"'), c.i, int(c.style))
		return append(dst, '"')
	case edm.Binary:
		dst = base64.StdEncoding.AppendEncode(append(dst, '"'), c.b)
		return append(dst, '"')
	}
	return append(dst, "null"...)
}

func (col *column) appendDecimalJSON(dst []byte, c *cell, how *Behavior) []byte {
	scale := int(col.Type.Scale)
	if how.NumbersAsStrings {
		dst = appendDecimal(append(dst, '"'), c.dec, scale)
		return append(dst, '"')
	}
	if how.Exponents && (c.dec.hi|c.dec.lo) != 0 {
		dst = appendDecimal(dst, c.dec, 0)
		dst = append(dst, 'e', '-')
		return strconv.AppendInt(dst, int64(scale), 10)
	}
	dst = appendDecimal(dst, c.dec, scale)
	if how.TrimZeros && scale > 0 {
		for dst[len(dst)-1] == '0' {
			dst = dst[:len(dst)-1]
		}
		if dst[len(dst)-1] == '.' {
			dst = dst[:len(dst)-1]
		}
	}
	return dst
}

// The styles of a quoted string.
const (
	plainText  = 0 // what need not be escaped is not
	asciiText  = 1 // everything beyond ASCII as \uXXXX, as System.Text.Json does unless told otherwise
	solidusEsc = 2 // "/" as "\/"
)

// appendQuoted appends b, which is UTF-8, as a JSON string.
func appendQuoted(dst, b []byte, style uint8) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(b); {
		c := b[i]
		if c < utf8.RuneSelf {
			i++
			switch {
			case c == '"' || c == '\\':
				dst = append(dst, '\\', c)
			case c == '/' && style == solidusEsc:
				dst = append(dst, '\\', '/')
			case c >= 0x20:
				dst = append(dst, c)
			case c == '\n':
				dst = append(dst, '\\', 'n')
			case c == '\t':
				dst = append(dst, '\\', 't')
			case c == '\r':
				dst = append(dst, '\\', 'r')
			default:
				dst = appendUnicodeEscape(dst, uint16(c))
			}
			continue
		}
		if style != asciiText {
			dst = append(dst, c)
			i++
			continue
		}
		r, n := utf8.DecodeRune(b[i:])
		i += n
		if r >= 0x10000 {
			r -= 0x10000
			dst = appendUnicodeEscape(dst, uint16(0xd800+r>>10))
			dst = appendUnicodeEscape(dst, uint16(0xdc00+r&0x3ff))
			continue
		}
		dst = appendUnicodeEscape(dst, uint16(r))
	}
	return append(dst, '"')
}

func appendUnicodeEscape(dst []byte, u uint16) []byte {
	return append(dst, '\\', 'u', hexDigits[u>>12], hexDigits[u>>8&15], hexDigits[u>>4&15], hexDigits[u&15])
}

// finite keeps generated doubles inside what JSON can say.
func finite(f float64) float64 {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return 0
	}
	return f
}
