package simulator

import (
	"math/bits"
	"strconv"
	"strings"
)

// decimal is an exact number of up to 38 digits: its digits without the point, and the sign. The scale
// belongs to the column. Zero is never negative.
type decimal struct {
	neg    bool
	hi, lo uint64
}

const e19 = 10_000_000_000_000_000_000

// pow10 holds 10^0 … 10^38 as (hi, lo).
var pow10 = func() (t [39][2]uint64) {
	t[0] = [2]uint64{0, 1}
	for i := 1; i < len(t); i++ {
		h, l := bits.Mul64(t[i-1][1], 10)
		t[i] = [2]uint64{t[i-1][0]*10 + h, l}
	}
	return t
}()

// appendDecimal appends the exact text of d with scale digits behind the point.
func appendDecimal(dst []byte, d decimal, scale int) []byte {
	if d.neg {
		dst = append(dst, '-')
	}
	if d.hi == 0 && d.lo < 1<<63 && scale <= 18 {
		if scale == 0 {
			return strconv.AppendUint(dst, d.lo, 10)
		}
		unit := pow10[scale][1]
		dst = strconv.AppendUint(dst, d.lo/unit, 10)
		dst = append(dst, '.')
		return appendPadded(dst, d.lo%unit, scale)
	}
	var digits [48]byte
	text := digits[:0]
	q1, r := bits.Div64(d.hi%e19, d.lo, e19) // hi < 10^38 / 2^64 < 10^19, so hi % e19 is hi
	if q1 > 0 {
		text = strconv.AppendUint(text, q1, 10)
		text = appendPadded(text, r, 19)
	} else {
		text = strconv.AppendUint(text, r, 10)
	}
	if missing := scale + 1 - len(text); missing > 0 {
		pad := make([]byte, missing, missing+len(text))
		for i := range pad {
			pad[i] = '0'
		}
		text = append(pad, text...)
	}
	dst = append(dst, text[:len(text)-scale]...)
	if scale > 0 {
		dst = append(dst, '.')
		dst = append(dst, text[len(text)-scale:]...)
	}
	return dst
}

// appendPadded appends v with leading zeros to width digits.
func appendPadded(dst []byte, v uint64, width int) []byte {
	start := len(dst)
	for range width {
		dst = append(dst, '0')
	}
	for i := len(dst) - 1; i >= start && v > 0; i-- {
		dst[i] = byte('0' + v%10)
		v /= 10
	}
	return dst
}

// parseDecimal reads [-]digits[.digits] to the given scale, rounding toward negative infinity. exact tells whether
// nothing was rounded away, ok whether s is a number of at most 38 digits at that scale.
func parseDecimal(s string, scale int) (d decimal, exact, ok bool) {
	body, neg := strings.CutPrefix(s, "-")
	whole, frac, point := strings.Cut(body, ".")
	if whole == "" || (point && frac == "") || strings.Trim(whole+frac, "0123456789") != "" {
		return decimal{}, false, false
	}
	exact = true
	if len(frac) > scale {
		exact = strings.Trim(frac[scale:], "0") == ""
		frac = frac[:scale]
	}
	digits := strings.TrimLeft(whole+frac+strings.Repeat("0", scale-len(frac)), "0")
	if len(digits) > 38 {
		return decimal{}, false, false
	}
	for i := range len(digits) {
		h, l := bits.Mul64(d.lo, 10)
		var carry uint64
		d.lo, carry = bits.Add64(l, uint64(digits[i]-'0'), 0)
		d.hi = d.hi*10 + h + carry
	}
	if neg && !exact { // toward negative infinity: one unit further from zero
		var carry uint64
		d.lo, carry = bits.Add64(d.lo, 1, 0)
		d.hi += carry
	}
	d.neg = neg && (d.hi|d.lo) != 0
	return d, exact, true
}

// compare returns -1, 0 or 1 for numbers of the same scale.
func (d decimal) compare(o decimal) int {
	if d.neg != o.neg {
		if d.neg {
			return -1
		}
		return 1
	}
	c := compareWords(d.hi, d.lo, o.hi, o.lo)
	if d.neg {
		return -c
	}
	return c
}

// compareWords compares two 128-bit numbers.
func compareWords(ah, al, bh, bl uint64) int {
	switch {
	case ah < bh || (ah == bh && al < bl):
		return -1
	case ah == bh && al == bl:
		return 0
	}
	return 1
}
