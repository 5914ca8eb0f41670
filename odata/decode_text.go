package odata

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
)

// The functions of this file read the text of a value, the quotes and escapes of JSON removed. Those that
// judge return "" or the problem, in the words of an error message.

// lowerHex8 checks that the eight bytes of w are hexadecimal digits, and returns them in lower case.
func lowerHex8(w uint64) (lower uint64, ok bool) {
	lower, digits := hexDigits(w)
	return lower, digits == highBits
}

// hexDigits returns the bytes of w in lower case, and highBits if all of them are hexadecimal digits.
func hexDigits(w uint64) (lower, digits uint64) {
	lower = w | 0x20*eachByte // digits have that bit already, letters get it
	// With no high bit set, adding 0x80-n to a byte sets its high bit exactly if it is n or more. With one set, bytes
	// above it may be misjudged, but that one is seen.
	digit := (w + (0x80-'0')*eachByte) &^ (w + (0x80-'9'-1)*eachByte)
	letter := (lower + (0x80-'a')*eachByte) &^ (lower + (0x80-'f'-1)*eachByte)
	return lower, (digit | letter) &^ w & highBits
}

// lowerGUID writes the 36 characters of a GUID in lower case to to[:36]. It takes no other form than
// 8-4-4-4-12: no braces, no bare 32 digits. Where it returns false, to holds nothing of use.
func lowerGUID(to, s []byte) bool {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return false
	}
	le := binary.LittleEndian
	a, ok1 := lowerHex8(le.Uint64(s))
	b, ok2 := lowerHex8(uint64(le.Uint32(s[9:])) | uint64(le.Uint32(s[14:]))<<32)
	c, ok3 := lowerHex8(uint64(le.Uint32(s[19:])) | uint64(le.Uint32(s[24:]))<<32)
	e, ok4 := lowerHex8(le.Uint64(s[28:]))
	to = to[:36]
	le.PutUint64(to, a)
	le.PutUint32(to[9:], uint32(b))
	le.PutUint32(to[14:], uint32(b>>32))
	le.PutUint32(to[19:], uint32(c))
	le.PutUint32(to[24:], uint32(c>>32))
	le.PutUint64(to[28:], e)
	to[8], to[13], to[18], to[23] = '-', '-', '-', '-'
	return ok1 && ok2 && ok3 && ok4
}

// two reads two decimal digits, or something above 99.
func two(s []byte, i int) int {
	tens, ones := s[i]-'0', s[i+1]-'0'
	if tens > 9 || ones > 9 {
		return 100
	}
	return int(tens)*10 + int(ones)
}

var monthDays = [13]int{0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}

// epochDays reads YYYY-MM-DD, 0001-01-01 to 9999-12-31, as days since 1970-01-01 in the proleptic Gregorian calendar.
func epochDays(s []byte) (days int64, ok bool) {
	if len(s) != 10 || s[4] != '-' || s[7] != '-' {
		return 0, false
	}
	return dayNumber(two(s, 0), two(s, 2), two(s, 5), two(s, 8))
}

// dayNumber are the days from 1970-01-01 to a date. It refuses what is none, and numbers of more than two digits.
func dayNumber(century, year, month, day int) (days int64, ok bool) {
	if century > 99 || year > 99 || month < 1 || month > 12 || day < 1 || day > monthDays[month] {
		return 0, false
	}
	y := 100*century + year
	if y == 0 || month == 2 && day == 29 && (y%4 != 0 || y%100 == 0 && y%400 != 0) {
		return 0, false
	}
	// Years that begin in March put the leap day last.
	m := month - 3
	if m < 0 {
		m += 12
		y--
	}
	return int64(y*365+y/4-y/100+y/400+(153*m+2)/5+day-1) - 719468, true
}

// clock is a time of day as it was written.
type clock struct {
	seconds int64 // since midnight
	micros  int64 // whole ones of the fraction, the rest cut off
	zero    bool  // midnight, exactly
}

// readClock reads hh:mm[:ss[.f…]] at the beginning of s, with up to 12 digits of a fraction (OData ABNF 4.01:
// timeOfDayValue). There is no 24:00 and no leap second.
func readClock(s []byte) (c clock, rest []byte, ok bool) {
	if len(s) < 5 || s[2] != ':' {
		return c, nil, false
	}
	hour, minute, second := two(s, 0), two(s, 3), 0
	rest = s[5:]
	var fraction []byte
	if len(rest) >= 3 && rest[0] == ':' {
		second = two(rest, 1)
		rest = rest[3:]
		if len(rest) > 0 && rest[0] == '.' {
			n := 1
			for n < len(rest) && rest[n]-'0' <= 9 {
				n++
			}
			if fraction, rest = rest[1:n], rest[n:]; len(fraction) == 0 || len(fraction) > 12 {
				return c, nil, false
			}
		}
	}
	if hour > 23 || minute > 59 || second > 59 {
		return c, nil, false
	}
	c.seconds = int64(hour*3600 + minute*60 + second)
	c.zero = c.seconds == 0
	for i := range max(6, len(fraction)) {
		digit := byte('0')
		if i < len(fraction) {
			digit = fraction[i]
		}
		c.zero = c.zero && digit == '0'
		if i < 6 {
			c.micros = c.micros*10 + int64(digit-'0')
		}
	}
	return c, rest, true
}

// readZone reads what follows a date and time: Z, an offset of up to ±14:00 (XML Schema, dateTime), or
// nothing, which counts as UTC.
func readZone(s []byte) (seconds int64, ok bool) {
	switch {
	case len(s) == 0, len(s) == 1 && s[0] == 'Z':
		return 0, true
	case len(s) != 6 || s[3] != ':' || s[0] != '+' && s[0] != '-':
		return 0, false
	}
	hour, minute := two(s, 1), two(s, 4)
	if hour > 14 || minute > 59 || hour == 14 && minute > 0 {
		return 0, false
	}
	seconds = int64(hour*3600 + minute*60)
	if s[0] == '-' {
		seconds = -seconds
	}
	return seconds, true
}

const (
	firstSecond = -62135596800 // 0001-01-01T00:00:00Z
	lastSecond  = 253402300799 // 9999-12-31T23:59:59Z
)

// readTimestamp reads a date and time as microseconds since 1970 in UTC. Digits beyond the microsecond are
// cut off, which is towards the past for every date.
func readTimestamp(s []byte) (micros int64, problem string) {
	const expected = "expected a date and time like 2006-01-02T15:04:05.123Z between the years 0001 and 9999"
	if len(s) < 16 || s[10] != 'T' {
		return 0, expected
	}
	days, ok1 := epochDays(s[:10])
	c, rest, ok2 := readClock(s[11:])
	zone, ok3 := readZone(rest)
	if !ok1 || !ok2 || !ok3 {
		return 0, expected
	}
	seconds := days*86400 + c.seconds - zone
	if seconds < firstSecond || seconds > lastSecond {
		return 0, "the offset puts the date outside of the years 0001 to 9999 in UTC"
	}
	return seconds*1e6 + c.micros, ""
}

// readDate reads a date, or a date and time that is midnight in UTC, as days since 1970.
func readDate(s []byte) (days int64, problem string) {
	const expected = "expected a date like 2006-01-02 between the years 0001 and 9999"
	if len(s) > 10 && s[10] == 'T' {
		days, ok1 := epochDays(s[:10])
		c, rest, ok2 := readClock(s[11:])
		zone, ok3 := readZone(rest)
		switch {
		case !ok1 || !ok2 || !ok3:
			return 0, expected
		case !c.zero:
			return 0, "expected a date, found one with a time of day"
		case zone != 0:
			return 0, "expected a date, found a midnight with an offset, which is another date in UTC"
		}
		return days, ""
	}
	days, ok := epochDays(s)
	if !ok {
		return 0, expected
	}
	return days, ""
}

// isTimeOfDay accepts what OData writes for a time of day: hh:mm[:ss[.f…]] (version 4), or a duration of
// less than a day like PT13H20M (version 3).
func isTimeOfDay(s []byte) bool {
	if len(s) > 1 && s[0] == 'P' && s[1] == 'T' {
		return isShortDuration(s[2:])
	}
	_, rest, ok := readClock(s)
	return ok && len(rest) == 0
}

// isShortDuration accepts [nH][nM][n[.f…]S], at least one of them, less than 24 hours in all.
func isShortDuration(s []byte) bool {
	total, units := 0, "HMS"
	for len(s) > 0 {
		i, n := 0, 0
		for i < len(s) && s[i]-'0' <= 9 && i < 6 {
			n = n*10 + int(s[i]-'0')
			i++
		}
		whole := i
		if i > 0 && i < len(s) && s[i] == '.' {
			for i++; i < len(s) && s[i]-'0' <= 9 && i-whole <= 12; i++ {
			}
			if i == whole+1 {
				return false
			}
		}
		if whole == 0 || i == len(s) {
			return false
		}
		u := bytes.IndexByte([]byte(units), s[i])
		if u < 0 || i > whole && s[i] != 'S' {
			return false
		}
		switch s[i] {
		case 'H':
			n *= 3600
		case 'M':
			n *= 60
		}
		total += n
		units = units[u+1:]
		if s = s[i+1:]; len(s) == 0 {
			return total < 86400
		}
	}
	return false
}

// base64Of chooses the alphabet (base64 or base64url; never both in one value) and the padding that s is
// written with. Bits that belong to no byte must be zero, so that a value has one spelling per form.
func base64Of(s []byte) *base64.Encoding {
	url := bytes.IndexByte(s, '-') >= 0 || bytes.IndexByte(s, '_') >= 0
	padded := len(s) > 0 && s[len(s)-1] == '='
	switch {
	case url && padded:
		return base64URLPadded
	case url:
		return base64URL
	case padded:
		return base64Padded
	}
	return base64Plain
}

var (
	base64Padded    = base64.StdEncoding.Strict()
	base64Plain     = base64.RawStdEncoding.Strict()
	base64URLPadded = base64.URLEncoding.Strict()
	base64URL       = base64.RawURLEncoding.Strict()
)
