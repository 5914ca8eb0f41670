package odata

import (
	"math"
	"math/bits"
	"strconv"

	"github.com/apache/arrow/go/v17/arrow/decimal128"
)

// number is the text of a JSON number, taken apart. digits is what stands between sign and exponent: the
// integer part, and, if there is one, the point at place point and the fraction.
type number struct {
	negative bool
	digits   []byte
	point    int   // index of the point in digits, len(digits) without one
	exponent int64 // cut at ±maxExponent, far beyond anything that has a use
}

const maxExponent = 1 << 40

// number reads a JSON number at pos, up to the first byte that is no part of it. The number may go on
// behind the window if next is its end: callers that judge the value ask wholeNumber first.
func (d *decoder) number(b []byte, pos int) (n number, next int) {
	i := pos
	if b[i] == '-' {
		n.negative = true
		i++
	}
	from := i
	switch {
	case b[i] == '0':
		if i++; b[i]-'0' <= 9 {
			return n, d.fail(i, "a number with a leading zero")
		}
	case b[i]-'0' <= 9:
		for b[i]-'0' <= 9 {
			i++
		}
	default:
		return n, d.fail(i, "expected a value")
	}
	n.point = i - from
	if b[i] == '.' {
		i++
		if b[i]-'0' > 9 {
			return n, d.fail(i, "a number with no digit after its point")
		}
		for b[i]-'0' <= 9 {
			i++
		}
	}
	n.digits = b[from:i]
	if b[i] != 'e' && b[i] != 'E' {
		return n, i
	}
	i++
	minus := b[i] == '-'
	if minus || b[i] == '+' {
		i++
	}
	if b[i]-'0' > 9 {
		return n, d.fail(i, "a number with no digit in its exponent")
	}
	for ; b[i]-'0' <= 9; i++ {
		n.exponent = min(n.exponent*10+int64(b[i]-'0'), maxExponent)
	}
	if minus {
		n.exponent = -n.exponent
	}
	return n, i
}

// numeral reads a number that may, with quoted, also be written as a string (IEEE754Compatible: OData JSON
// Format 4.01, "Controlling the Representation of Numbers"). Within the quotes the same grammar holds. It is whole when it returns.
func (d *decoder) numeral(c *column, b []byte, pos int, quoted bool) (n number, next int) {
	if !quoted || b[pos] != '"' {
		if !startsNumber(b[pos]) {
			return n, d.wrongType(c, b, pos, "expected a number, found ")
		}
		if n, next = d.number(b, pos); next >= d.w.end {
			d.err = needMore
			return n, -1
		}
		return n, next
	}
	text, next := d.str(b, pos)
	if next < 0 {
		return n, next
	}
	d.quoted = append(append(d.quoted[:0], text...), 0) // ends in what no number holds
	n, end := d.number(d.quoted, 0)
	if end != len(text) {
		return n, d.refuse(c, "expected a number, found a string that is none")
	}
	return n, next
}

// A 128-bit magnitude.
type magnitude struct{ hi, lo uint64 }

func (m magnitude) less(o magnitude) bool {
	return m.hi < o.hi || m.hi == o.hi && m.lo < o.lo
}

// timesTen is 10·m + digit. Callers keep m below 10^38.
func (m magnitude) timesTen(digit byte) magnitude {
	hi, lo := bits.Mul64(m.lo, 10)
	lo, carry := bits.Add64(lo, uint64(digit), 0)
	return magnitude{m.hi*10 + hi + carry, lo}
}

// powersOfTen[k] is 10^k, k = 0..38 (10^38 < 2^127).
var powersOfTen = func() (p [39]magnitude) {
	p[0].lo = 1
	for k := 1; k < len(p); k++ {
		p[k] = p[k-1].timesTen(0)
	}
	return p
}()

// fit is what scaled found.
type fit uint8

const (
	fits fit = iota
	tooFine
	tooLarge
)

// scaled is |n|·10^scale, exactly: tooFine if that is no integer, tooLarge if it has more than precision
// (at most 38) digits.
func (n *number) scaled(precision, scale int32) (magnitude, fit) {
	// The value is 0.d1d2d3… · 10^place with d1 the first digit that counts; last is the place of the last.
	first, last, place := -1, -1, int64(0)
	seen := 0
	for i, c := range n.digits {
		if c == '.' {
			continue
		}
		if c != '0' {
			if first < 0 {
				first = i
				place = int64(n.point-seen) + n.exponent
			}
			last = i
		}
		seen++
	}
	if first < 0 {
		return magnitude{}, fits
	}
	counting := last - first + 1
	if first < n.point && n.point < last {
		counting-- // the point stands among them
	}
	whole := place + int64(scale) // digits of the result
	switch {
	case whole < int64(counting):
		return magnitude{}, tooFine
	case whole > int64(precision):
		return magnitude{}, tooLarge
	}
	var m magnitude
	for _, c := range n.digits[first : last+1] {
		if c != '.' {
			m = m.timesTen(c - '0')
		}
	}
	for range whole - int64(counting) {
		m = m.timesTen(0)
	}
	return m, fits
}

// integer reads an integer of 64 bits. 1.0 and 1e3 are integers, too; 1.5 is none.
func (d *decoder) integer(c *column, b []byte, pos int, quoted bool) (int64, int) {
	i := pos
	negative := b[i] == '-'
	if negative {
		i++
	}
	from, v := i, int64(0)
	for b[i]-'0' <= 9 {
		v = v*10 + int64(b[i]-'0') // may overflow, in which case it is not used
		i++
	}
	// The plain case: up to 18 digits, no leading zero, a comma or a brace behind.
	if n := i - from; n-1 < 18 && n > 0 && (n == 1 || b[from] != '0') && (b[i] == ',' || b[i] == '}') {
		if negative {
			v = -v
		}
		return v, i
	}
	n, next := d.numeral(c, b, pos, quoted)
	if next < 0 {
		return 0, next
	}
	m, how := n.scaled(19, 0)
	switch {
	case how == tooFine:
		return 0, d.refuse(c, "expected an integer, found a number with a fraction")
	case how == tooLarge, n.negative && m.lo > 1<<63, !n.negative && m.lo > math.MaxInt64:
		return 0, d.refuse(c, "the number does not fit into 64 bits")
	case n.negative:
		return -int64(m.lo), next
	}
	return int64(m.lo), next
}

// decimal reads a number of the column's precision and scale.
func (d *decoder) decimal(c *column, b []byte, pos int) (decimal128.Num, int) {
	i := pos
	negative := b[i] == '-'
	if negative {
		i++
	}
	from, fraction, v := i, 0, uint64(0)
	for b[i]-'0' <= 9 {
		v = v*10 + uint64(b[i]-'0') // may overflow, in which case it is not used
		i++
	}
	n := i - from
	if n > 0 && b[i] == '.' {
		i++
		point := i
		for b[i]-'0' <= 9 {
			v = v*10 + uint64(b[i]-'0')
			i++
		}
		fraction = i - point
		if fraction == 0 {
			n = 0
		}
	}
	// The plain case: up to 18 digits once scaled, no more of a fraction than the scale, no leading zero.
	up := int(c.scale) - fraction
	if n > 0 && n+int(c.scale) <= 18 && up >= 0 && (b[from] != '0' || n == 1) && (b[i] == ',' || b[i] == '}') {
		v *= powersOfTen[up].lo
		if (magnitude{0, v}).less(c.limit) {
			return signed(magnitude{0, v}, negative), i
		}
	}
	text, next := d.numeral(c, b, pos, true)
	if next < 0 {
		return decimal128.Num{}, next
	}
	m, how := text.scaled(c.precision, c.scale)
	switch how {
	case tooFine:
		return decimal128.Num{}, d.refuse(c, "the number has more decimal places than the "+strconv.Itoa(int(c.scale))+" of "+c.typeName)
	case tooLarge:
		return decimal128.Num{}, d.refuse(c, "the number does not fit into "+c.typeName)
	}
	return signed(m, text.negative), next
}

func signed(m magnitude, negative bool) decimal128.Num {
	n := decimal128.New(int64(m.hi), m.lo)
	if negative {
		return n.Negate()
	}
	return n
}

// double reads a number as the nearest float64, or one of the three strings that OData writes for what JSON
// has no number for (OData JSON Format 4.01, "Primitive Value").
func (d *decoder) double(c *column, b []byte, pos int) (float64, int) {
	if b[pos] == '"' {
		text, next := d.str(b, pos)
		if next < 0 {
			return 0, next
		}
		switch string(text) {
		case "INF":
			return math.Inf(1), next
		case "-INF":
			return math.Inf(-1), next
		case "NaN":
			return math.NaN(), next
		}
		return 0, d.refuse(c, "expected a number, found a string that is not INF, -INF or NaN")
	}
	_, next := d.numeral(c, b, pos, false)
	if next < 0 {
		return 0, next
	}
	v, err := strconv.ParseFloat(string(b[pos:next]), 64)
	if err != nil { // the grammar of JSON is within Go's: only the range can be wrong
		return 0, d.refuse(c, "the number does not fit into a float64")
	}
	return v, next
}
