package filter

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tablexport/tablexport/odata/edm"
)

// Literal is a value typed by the column it is compared with. Only this package makes one, from a
// column's type, so whatever text went in, what [Literal.String] gives is one OData literal and nothing
// else. Literals are comparable with ==. The zero Literal is in no Bound.
type Literal struct {
	kind edm.Kind
	null bool
	n    int64  // Boolean 0 or 1, the integers, Date in days since 1970-01-01
	text string // canonical
}

// IsNull reports whether the literal is null.
func (l Literal) IsNull() bool { return l.null }

// Kind returns the kind of the column that the literal is compared with.
func (l Literal) Kind() edm.Kind { return l.kind }

// Text returns the value in its canonical form, without quotes: GUIDs lowercase, dates YYYY-MM-DD,
// times in UTC with as much of a fraction as there is, numbers without leading or trailing zeros. It is
// "null" for null.
func (l Literal) Text() string {
	if l.null {
		return "null"
	}
	return l.text
}

// String returns the literal as the Table API takes it, not percent-encoded: texts in single quotes
// with quotes doubled, GUIDs bare and lowercase, dates and times unquoted as YYYY-MM-DDThh:mm:ssZ (with
// a fraction only if it is not zero), times of day bare, numbers plain, true and false, null.
func (l Literal) String() string {
	switch {
	case l.null:
		return "null"
	case l.kind == edm.String || l.kind == edm.MultiLanguage:
		return "'" + strings.ReplaceAll(l.text, "'", "''") + "'"
	case l.kind == edm.Date:
		return l.text + "T00:00:00Z"
	}
	return l.text
}

// fault is why a text is no value of a type: what is wrong, and what would work.
type fault struct{ text, hint string }

// newLiteral reads text, the bare value without quotes, as a value of typ. op matters for a Date that is
// given with a time of day: "le 2023-01-31T23:59:59Z" admits the same dates as "le 2023-01-31", and "ge"
// begins with the next day.
func newLiteral(typ edm.Type, op Op, text string) (Literal, *fault) {
	l := Literal{kind: typ.Kind}
	switch typ.Kind {
	case edm.Guid:
		if _, ok := edm.GUIDKey(text); !ok {
			return l, &fault{fmt.Sprintf("%s is not a GUID", show(text)), "write all 36 characters: 00000000-0000-0000-0000-000000000000"}
		}
		l.text = strings.ToLower(text)
	case edm.String, edm.MultiLanguage:
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return l, &fault{"the text is not valid UTF-8 or holds a NUL character", "write the text in UTF-8"}
		}
		l.text = text
	case edm.Boolean:
		switch text {
		case "true":
			l.n = 1
		case "false":
		default:
			return l, &fault{fmt.Sprintf("%s is neither true nor false", show(text)), "write true or false"}
		}
		l.text = text
	case edm.Byte:
		return integer(l, text, 0, math.MaxUint8)
	case edm.Int16:
		return integer(l, text, math.MinInt16, math.MaxInt16)
	case edm.Int32:
		return integer(l, text, math.MinInt32, math.MaxInt32)
	case edm.Int64:
		return integer(l, text, math.MinInt64, math.MaxInt64)
	case edm.Decimal:
		return decimal(l, typ, text)
	case edm.Double:
		return double(l, text)
	case edm.Date:
		return date(l, op, text)
	case edm.DateTime:
		return dateTime(l, op, text)
	case edm.TimeOfDay:
		return timeOfDay(l, text)
	default:
		return l, &fault{fmt.Sprintf("a column of type %s cannot be filtered on", typ), "leave the comparison out"}
	}
	return l, nil
}

func integer(l Literal, text string, low, high int64) (Literal, *fault) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return l, &fault{fmt.Sprintf("%s is not a whole number of 64 bits", show(text)), "write digits only"}
	}
	if n < low || n > high {
		return l, &fault{fmt.Sprintf("%d is beyond what %s holds", n, l.kind),
			fmt.Sprintf("write a number from %d to %d", low, high)}
	}
	l.n, l.text = n, strconv.FormatInt(n, 10)
	return l, nil
}

// maxExponent bounds the exponent of a decimal literal, so that a short text cannot ask for a long one.
const maxExponent = 100

// decimal normalises digits exactly; no float is involved. A value that the column cannot hold is
// refused rather than rounded: nothing could be equal to it.
func decimal(l Literal, typ edm.Type, text string) (Literal, *fault) {
	bad := &fault{fmt.Sprintf("%s is not a decimal number", show(text)), "write digits with a point: 12.5"}
	mantissa, exponent, hasExponent := cutExponent(text)
	shift := 0
	if hasExponent {
		n, err := strconv.Atoi(exponent)
		if err != nil || n < -maxExponent || n > maxExponent {
			return l, bad
		}
		shift = n
	}
	sign := ""
	if strings.HasPrefix(mantissa, "-") {
		sign, mantissa = "-", mantissa[1:]
	} else {
		mantissa = strings.TrimPrefix(mantissa, "+")
	}
	whole, fraction, hasPoint := strings.Cut(mantissa, ".")
	if whole == "" && fraction == "" || hasPoint && fraction == "" || !allDigits(whole) || !allDigits(fraction) {
		return l, bad
	}
	for ; shift > 0; shift-- {
		next := "0"
		if fraction != "" {
			next, fraction = fraction[:1], fraction[1:]
		}
		whole += next
	}
	for ; shift < 0; shift++ {
		next := "0"
		if whole != "" {
			next, whole = whole[len(whole)-1:], whole[:len(whole)-1]
		}
		fraction = next + fraction
	}
	whole, fraction = strings.TrimLeft(whole, "0"), strings.TrimRight(fraction, "0")
	if len(whole) > int(typ.Precision-typ.Scale) || len(fraction) > int(typ.Scale) {
		return l, &fault{fmt.Sprintf("%s is beyond what %s holds", show(text), typ),
			fmt.Sprintf("write at most %d digits before the point and %d after it", typ.Precision-typ.Scale, typ.Scale)}
	}
	if whole == "" {
		whole = "0"
	}
	l.text = whole
	if fraction != "" {
		l.text += "." + fraction
	}
	if l.text != "0" {
		l.text = sign + l.text
	}
	return l, nil
}

func cutExponent(text string) (mantissa, exponent string, has bool) {
	i := strings.IndexAny(text, "eE")
	if i < 0 {
		return text, "", false
	}
	return text[:i], text[i+1:], true
}

func allDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

func double(l Literal, text string) (Literal, *fault) {
	for i := range len(text) {
		if !strings.ContainsRune("0123456789+-.eE", rune(text[i])) { // no hex, no underscores, no Inf, no NaN
			return l, &fault{fmt.Sprintf("%s is not a number", show(text)), "write digits with a point: 12.5"}
		}
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return l, &fault{fmt.Sprintf("%s is not a number of 64 bits", show(text)), "write digits with a point: 12.5"}
	}
	if f == 0 {
		f = 0 // no negative zero
	}
	l.text = strings.Replace(strconv.FormatFloat(f, 'g', -1, 64), "e+", "e", 1)
	return l, nil
}

// moment is a parsed date or date-time text, in UTC.
type moment struct {
	t        time.Time
	dateOnly bool
	zoned    bool
}

// parseMoment reads YYYY-MM-DD, or YYYY-MM-DDThh:mm[:ss[.fffffff]] with Z, ±hh:mm or no zone. Years 0001
// to 9999, before and after the zone is taken off; no leap seconds (SQL Server has none).
func parseMoment(s string) (m moment, ok bool) {
	year, ok1 := number(s, 0, 4)
	month, ok2 := number(s, 5, 2)
	day, ok3 := number(s, 8, 2)
	if !ok1 || !ok2 || !ok3 || s[4] != '-' || s[7] != '-' || year == 0 || month < 1 || month > 12 {
		return m, false
	}
	m.t = time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC)
	if m.t.Day() != day || m.t.Month() != time.Month(month) {
		return m, false
	}
	if len(s) == 10 {
		m.dateOnly = true
		return m, true
	}
	if s[10] != 'T' && s[10] != 't' {
		return m, false
	}
	clock, rest, ok := parseClock(s[11:])
	if !ok {
		return m, false
	}
	m.t = m.t.Add(clock)
	offset, zoned, ok := parseZone(rest)
	if !ok {
		return m, false
	}
	m.t, m.zoned = m.t.Add(-offset), zoned
	return m, m.t.Year() >= 1 && m.t.Year() <= 9999
}

// parseClock reads hh:mm[:ss[.f…]] from the start of s, fractions of at most seven digits (100 ns, which
// is all that SQL Server and .NET keep).
func parseClock(s string) (d time.Duration, rest string, ok bool) {
	hour, ok1 := number(s, 0, 2)
	minute, ok2 := number(s, 3, 2)
	if !ok1 || !ok2 || s[2] != ':' || hour > 23 || minute > 59 {
		return 0, "", false
	}
	d, s = time.Duration(hour)*time.Hour+time.Duration(minute)*time.Minute, s[5:]
	if !strings.HasPrefix(s, ":") {
		return d, s, true
	}
	second, ok := number(s, 1, 2)
	if !ok || second > 59 {
		return 0, "", false
	}
	d, s = d+time.Duration(second)*time.Second, s[3:]
	if !strings.HasPrefix(s, ".") {
		return d, s, true
	}
	digits := 0
	for digits < len(s)-1 && s[1+digits] >= '0' && s[1+digits] <= '9' {
		digits++
	}
	if digits == 0 || digits > 7 {
		return 0, "", false
	}
	fraction, _ := strconv.Atoi((s[1:1+digits] + "000000000")[:9])
	return d + time.Duration(fraction), s[1+digits:], true
}

func parseZone(s string) (offset time.Duration, zoned, ok bool) {
	switch {
	case s == "":
		return 0, false, true
	case s == "Z" || s == "z":
		return 0, true, true
	case len(s) != 6 || s[0] != '+' && s[0] != '-' || s[3] != ':':
		return 0, false, false
	}
	hour, ok1 := number(s, 1, 2)
	minute, ok2 := number(s, 4, 2)
	if !ok1 || !ok2 || hour > 14 || minute > 59 {
		return 0, false, false
	}
	offset = time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute
	if s[0] == '-' {
		offset = -offset
	}
	return offset, true, true
}

// number reads the n digits of s from i on.
func number(s string, i, n int) (int, bool) {
	if len(s) < i+n || !allDigits(s[i:i+n]) {
		return 0, false
	}
	v, err := strconv.Atoi(s[i : i+n])
	return v, err == nil
}

const (
	dateHint     = "write a date: 2023-01-31"
	dateTimeHint = "write date, time and zone, without quotes: 2023-01-31T00:00:00Z"
)

func date(l Literal, op Op, text string) (Literal, *fault) {
	m, ok := parseMoment(text)
	if !ok {
		return l, &fault{fmt.Sprintf("%s is not a date", show(text)), dateHint}
	}
	midnight := m.t.Truncate(24 * time.Hour)
	if !midnight.Equal(m.t) {
		switch op {
		case Le:
			m.t = midnight
		case Ge:
			m.t = midnight.AddDate(0, 0, 1)
		default:
			return l, &fault{fmt.Sprintf("%s has a time of day, which no date is equal to", show(text)), dateHint}
		}
	}
	if m.t.Year() > 9999 {
		return l, &fault{fmt.Sprintf("no date lies at or after %s", show(text)), dateHint}
	}
	l.n = m.t.Unix() / (24 * 60 * 60) // exact: midnight
	l.text = m.t.Format("2006-01-02")
	return l, nil
}

// dateTime wants a whole instant: a bare date would silently lose most of the last day under le, and a
// time without a zone would be read in the server's.
func dateTime(l Literal, op Op, text string) (Literal, *fault) {
	m, ok := parseMoment(text)
	switch {
	case !ok:
		return l, &fault{fmt.Sprintf("%s is not a date and time", show(text)), dateTimeHint}
	case m.dateOnly:
		f := &fault{fmt.Sprintf("%s is a date, but the column holds date and time", text),
			fmt.Sprintf("write %sT00:00:00Z", text)}
		if op == Le {
			f.hint = fmt.Sprintf("write %sT23:59:59.997Z to include that day, or %sT00:00:00Z for its first instant", text, text)
		}
		return l, f
	case !m.zoned:
		return l, &fault{fmt.Sprintf("%s does not say its time zone", show(text)), fmt.Sprintf("write %sZ for UTC", text)}
	}
	l.text = m.t.Format(instant)
	return l, nil
}

// instant is the form of date-time literals: a fraction only if it is not zero.
const instant = "2006-01-02T15:04:05.9999999Z"

func timeOfDay(l Literal, text string) (Literal, *fault) {
	d, rest, ok := parseClock(text)
	if !ok || rest != "" {
		return l, &fault{fmt.Sprintf("%s is not a time of day", show(text)), "write hours, minutes and seconds: 08:30:00"}
	}
	l.text = time.Time{}.Add(d).Format("15:04:05.9999999")
	return l, nil
}

// show quotes what the user wrote for a message, at most 40 characters of it.
func show(text string) string {
	if r := []rune(text); len(r) > 40 {
		text = string(r[:40]) + "…"
	}
	return strconv.Quote(text)
}
