package simulator

import (
	"math"
	"math/bits"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/tablexport/tablexport/odata/edm"
)

// word is a piece of generated text with its length as SQL Server counts it (UTF-16 units).
type word struct {
	text  string
	units int
}

// everyday words make most of the text; odd ones are what breaks careless readers.
var everyday, odd = words(
	"steel", "bolt", "oak", "chair", "table", "lamp", "blue", "large", "spare part", "delivery",
	"стол", "стол дъбов", "лампа", "доставка", "София", "склад", "жълт", "поръчка", "Ünal", "Århus",
	"garçon", "żółw", "M8x40", "230V", "IP65", "DIN 933", "Größe", "naïve", "Île-de-France", "customer", "invoice", "No. 7",
), words(
	"日本語の椅子", "椅子", "한국어", "مرحبا بالعالم", "שלום", "हिन्दी", "ไทย", "🚚", "👩‍👩‍👧‍👦", "🇧🇬", "e\u0301", "ﷺ",
	`say "hi"`, `C:\temp\new`, "tab\there", "two\nlines", "cr\r\nlf", "\u0001\u001f", "\u007f", "\u2028\u2029", "\ufeffbom", "\u00a0",
	"</script>", "O'Neil", "100%", "a/b", "{\"not\":\"json\"}", "[1,2]", "null", "  padded  ", "\U0010ffff", "\ufffd",
)

func words(texts ...string) []word {
	list := make([]word, len(texts))
	for i, s := range texts {
		list[i] = word{s, len(utf16.Encode([]rune(s)))}
	}
	return list
}

// generatorOf returns the generator for a column's type and name, and what its values depend on.
func generatorOf(col *column) (func(rowRef, uint64, *cell), uint32) {
	t := col.Type
	if len(col.Allowed) > 0 {
		if gen, ok := enumeration(t.Kind, col.Allowed); ok {
			return gen, onMoves
		}
	}
	switch t.Kind {
	case edm.Guid:
		free := newSpace(col.seed, 1<<20)
		return func(_ rowRef, h uint64, c *cell) {
			c.ord = 0
			c.hi, c.lo = free.key(free.base(int64(h >> 44)))
		}, onMoves
	case edm.String:
		return stringGenerator(col), onChanges
	case edm.MultiLanguage:
		return multiLanguage(int(t.MaxLength)), onChanges
	case edm.Boolean:
		often := 1 + mix(col.seed)%14 // of sixteen
		return func(_ rowRef, h uint64, c *cell) { c.i = b2i(h>>60 < often) }, onMoves
	case edm.Byte:
		return func(_ rowRef, h uint64, c *cell) { c.i = int64(h >> 56) }, onChanges
	case edm.Int16:
		return integers(math.MinInt16, math.MaxInt16), onChanges
	case edm.Int32:
		return integers(math.MinInt32, math.MaxInt32), onChanges
	case edm.Int64:
		return integers(math.MinInt64, math.MaxInt64), onChanges
	case edm.Decimal:
		return decimals(int(t.Precision), int(t.Scale)), onChanges
	case edm.Double:
		return doubles, onChanges
	case edm.Date:
		return func(_ rowRef, h uint64, c *cell) { c.i = day(h) }, onMoves
	case edm.DateTime:
		return instants, onChanges
	case edm.TimeOfDay:
		return times, onChanges
	case edm.Binary:
		if t.MaxLength == 8 || col.Name == "Row_Version" {
			return rowVersion, onChanges
		}
		return blob(int(t.MaxLength)), onChanges
	}
	return func(_ rowRef, _ uint64, c *cell) { c.null = true }, onNothing
}

func b2i(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// enumeration draws from the documented values, the later ones more often (in the model the late states of a
// document are the common ones).
func enumeration(kind edm.Kind, allowed []string) (func(rowRef, uint64, *cell), bool) {
	pick := func(h uint64) int {
		u := float64(h>>11) / (1 << 53)
		return min(int(float64(len(allowed))*math.Sqrt(u)), len(allowed)-1)
	}
	switch kind {
	case edm.String:
		return func(_ rowRef, h uint64, c *cell) {
			c.style, c.b = plainText, append(c.b[:0], allowed[pick(h)]...)
		}, true
	case edm.Byte, edm.Int16, edm.Int32, edm.Int64:
		values := make([]int64, len(allowed))
		for i, s := range allowed {
			v, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				return nil, false
			}
			values[i] = v
		}
		return func(_ rowRef, h uint64, c *cell) { c.i = values[pick(h)] }, true
	}
	return nil, false
}

// integers are small and positive most of the time, anything now and then, and rarely a limit.
func integers(low, high int64) func(rowRef, uint64, *cell) {
	return func(_ rowRef, h uint64, c *cell) {
		switch h & 63 {
		case 0:
			c.i = low
		case 1:
			c.i = high
		case 2, 3:
			c.i = int64(h)
			if high != math.MaxInt64 {
				c.i %= high
			}
		case 4:
			c.i = -int64(h >> 57)
		default:
			c.i = int64(h >> 8 % 1000)
		}
	}
}

// decimals are prices and quantities most of the time; one in sixteen is negative, one in sixty-four zero, and one in
// 128 has every digit that the precision allows.
func decimals(precision, scale int) func(rowRef, uint64, *cell) {
	usual := min(precision, scale+5)
	top := pow10[min(usual, 19)][1]
	whole := pow10[precision]
	return func(_ rowRef, h uint64, c *cell) {
		c.dec = decimal{}
		switch {
		case h&63 == 0:
			return
		case h&127 == 1:
			hi, lo := mix(h), mix(h+1)
			if h&128 != 0 { // the limit itself: nines only
				hi, lo = math.MaxUint64, math.MaxUint64
			}
			c.dec.hi, c.dec.lo = below(hi, lo, whole[0], whole[1])
		default:
			c.dec.lo = (h >> 12) % top
			if scale >= 2 && h&256 != 0 { // round amounts
				c.dec.lo -= c.dec.lo % pow10[scale-1][1]
			}
		}
		c.dec.neg = h>>8&15 == 0 && (c.dec.hi|c.dec.lo) != 0
	}
}

// below maps the 128-bit number (hi, lo) to the range from 0 to limit-1, keeping its proportion.
func below(hi, lo, limitHi, limitLo uint64) (uint64, uint64) {
	// (hi,lo) * limit >> 128
	a, _ := bits.Mul64(lo, limitLo)
	b1, b0 := bits.Mul64(hi, limitLo)
	c1, c0 := bits.Mul64(lo, limitHi)
	d1, d0 := bits.Mul64(hi, limitHi)
	s, carry1 := bits.Add64(a, b0, 0)
	_, carry2 := bits.Add64(s, c0, 0)
	r0, carry3 := bits.Add64(b1, c1, carry1)
	r0, carry4 := bits.Add64(r0, d0, carry2)
	return d1 + carry3 + carry4, r0
}

func doubles(_ rowRef, h uint64, c *cell) {
	switch h & 127 {
	case 0:
		c.f = math.MaxFloat64
	case 1:
		c.f = math.SmallestNonzeroFloat64
	case 2:
		c.f = finite(math.Float64frombits(mix(h)))
	case 3:
		c.f = 0
	default:
		c.f = float64(int64(h>>20)-1<<42) / 4096
	}
}

// day is a date of this century most of the time, and rarely a limit of a calendar or of a type.
func day(h uint64) int64 {
	if h&1023 == 0 {
		return [4]int64{0, daysOf(1753, 1, 1), maxDay, daysOf(1900, 2, 28)}[h>>10&3]
	}
	return daysOf(2015, 1, 1) + int64(h>>12%4700)
}

// fraction draws a fraction of a second with 0 to 7 digits, mostly none or three, as ticks.
func fraction(h uint64) (ticks int64, digits uint8) {
	digits = [16]uint8{0, 0, 0, 0, 0, 0, 3, 3, 3, 3, 1, 2, 4, 5, 6, 7}[h&15]
	unit := int64(pow10[7-digits][1])
	return int64(mix(h)%uint64(ticksPerSecond)) / unit * unit, digits
}

var zones = [8]int16{0, 60, 120, 180, -300, -480, 330, 840}

// instants are any time of day; one in 64 is the first instant of a month, one in 64 the last that SQL Server's datetime
// has before the next month (23:59:59.997): what windows that are cut wrongly lose or read twice.
func instants(_ rowRef, h uint64, c *cell) {
	ticks, digits := fraction(h)
	c.style, c.zone = digits, zones[h>>4&7]
	d := day(mix(h ^ 5))
	switch edge := h >> 10 & 63; {
	case edge < 2 && d > 31 && d < maxDay-31:
		y, m, _ := civil(d)
		c.style, c.i = 0, daysOf(y, m, 1)*ticksPerDay
		if edge == 1 {
			c.style, c.i = 3, c.i-3*ticksPerSecond/1000
		}
	default:
		c.i = d*ticksPerDay + int64(h>>32%86_400)*ticksPerSecond + ticks
	}
}

func times(_ rowRef, h uint64, c *cell) {
	ticks, digits := fraction(h)
	c.style = digits
	c.i = int64(h>>32%86_400)*ticksPerSecond + ticks
}

// rowVersion is SQL Server's eight-byte counter: it grows with every change.
func rowVersion(r rowRef, _ uint64, c *cell) {
	v := r.ord>>8 + uint64(r.ver&0xffff+r.ver>>16)<<48
	c.b = append(c.b[:0], byte(v>>56), byte(v>>48), byte(v>>40), byte(v>>32), byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

func blob(maxLength int) func(rowRef, uint64, *cell) {
	return func(_ rowRef, h uint64, c *cell) {
		n := int(h & 63)
		if h>>6&255 == 0 {
			n = int(h >> 50)
		}
		if maxLength > 0 {
			n = min(n, maxLength)
		}
		c.b = c.b[:0]
		for len(c.b) < n {
			h = mix(h + 1)
			c.b = append(c.b, byte(h), byte(h>>8), byte(h>>16), byte(h>>24))
		}
		c.b = c.b[:n]
	}
}

// appendText appends words up to max UTF-16 units, wanted words if there is room.
func appendText(dst []byte, h uint64, wanted, maxUnits int) []byte {
	units, start := 0, len(dst)
	for n := range wanted {
		h = mix(h + uint64(n))
		list := everyday
		if h&15 == 0 {
			list = odd
		}
		w := &list[h>>32%uint64(len(list))]
		gap := 0
		if len(dst) > start {
			gap = 1
		}
		if maxUnits > 0 && units+gap+w.units > maxUnits {
			break
		}
		if gap == 1 {
			dst = append(dst, ' ')
		}
		dst = append(dst, w.text...)
		units += gap + w.units
	}
	return dst
}

func stringGenerator(col *column) func(rowRef, uint64, *cell) {
	maxUnits := int(col.Type.MaxLength)
	name := col.Name
	switch {
	case maxUnits > 0 && maxUnits <= 8:
		return letters(maxUnits)
	case strings.HasSuffix(name, "_User") || strings.HasSuffix(name, "_Login"):
		return numbered("user", 40, maxUnits)
	case strings.HasSuffix(name, "_No") || strings.HasSuffix(name, "Code") || strings.HasSuffix(name, "Number"):
		return numbered("", 10_000_000, maxUnits)
	}
	return func(_ rowRef, h uint64, c *cell) {
		c.style = plainText
		if s := h >> 60; s < 2 {
			c.style = asciiText
		} else if s == 2 {
			c.style = solidusEsc
		}
		wanted := 1 + int(h&3)
		if maxUnits == 0 && h>>8&8191 == 0 {
			wanted = 3000 // tens of thousands of bytes: longer than any buffer is likely to be
		} else if h>>8&255 == 1 {
			wanted = 0 // the empty string is not NULL
		}
		c.b = appendText(c.b[:0], h, wanted, maxUnits)
	}
}

func letters(n int) func(rowRef, uint64, *cell) {
	return func(_ rowRef, h uint64, c *cell) {
		c.style, c.b = plainText, c.b[:0]
		for range n {
			c.b = append(c.b, byte('A'+h%26))
			h = h/26 + mix(h)>>40
		}
	}
}

func numbered(prefix string, kinds uint64, maxUnits int) func(rowRef, uint64, *cell) {
	return func(_ rowRef, h uint64, c *cell) {
		c.style, c.b = plainText, append(c.b[:0], prefix...)
		c.b = strconv.AppendUint(c.b, h%kinds, 10)
		if maxUnits > 0 && len(c.b) > maxUnits {
			c.b = c.b[:maxUnits]
		}
	}
}

// multiLanguage makes the JSON object of a text in one to three languages.
func multiLanguage(maxUnits int) func(rowRef, uint64, *cell) {
	if maxUnits == 0 {
		maxUnits = 200
	}
	return func(_ rowRef, h uint64, c *cell) {
		style := uint8(plainText)
		if h>>60 == 0 {
			style = asciiText
		}
		var scratch [512]byte
		c.b = append(c.b[:0], '{')
		for i, language := range [3]string{"EN", "BG", "DE"} {
			if i > 0 {
				if h>>(8*i)&3 != 0 {
					continue
				}
				c.b = append(c.b, ',')
			}
			c.b = appendQuoted(c.b, []byte(language), plainText)
			c.b = append(c.b, ':')
			text := appendText(scratch[:0], h+uint64(i), 1+int(h>>4&3), maxUnits/4)
			c.b = appendQuoted(c.b, text, style)
		}
		c.b = append(c.b, '}')
	}
}

// special makes the columns that filters of sales reports use look like those of a company: dates that advance with the
// documents, few drafts, few void documents, few lines without a store.
func (c *catalog) special(t *table, col *column) {
	c.clocked(col)
	switch t.Name + "." + col.Name {
	case "Gen_Documents.Document_Date":
		own := t.space
		col.gen = func(r rowRef, h uint64, v *cell) {
			i := max(own.index(r.ord), 0)
			d := c.firstDay + scaled(min(i, max(own.n-1, 0)), c.lastDay-c.firstDay+1, max(own.n, 1)) + int64(h%31) - 15
			v.i = min(max(d, c.firstDay), c.lastDay)
		}
		col.lived = func(l *life, _ uint64, v *cell) bool {
			v.i = l.day
			return l.day != 0
		}
	case "Gen_Documents.State":
		states := [16]int64{0, 5, 10, 20, 30, 30, 30, 40, 40, 40, 40, 50, 50, 50, 50, 50}
		col.gen = func(_ rowRef, h uint64, v *cell) { v.i = states[h>>60] }
		col.lived = func(l *life, _ uint64, v *cell) bool {
			v.i = l.state
			return l.state != 0
		}
	case "Gen_Documents.Void":
		col.gen = func(_ rowRef, h uint64, v *cell) { v.i = b2i(h%50 == 0) }
	case "Crm_Sales_Order_Lines.Line_Store_Id", "Crm_Sales_Orders.Store_Id":
		col.nullBelow = math.MaxUint32 / 32
	case "Crm_Sales_Order_Lines.Line_No":
		col.gen = func(_ rowRef, h uint64, v *cell) { v.i = 10 * (1 + int64(h%20)) }
		col.mask = onNothing
	}
}

// clocked makes the columns that tell when a row was made or changed tell just that, and the dates of rows with a day of
// their own lie at it. A server that ran for years has such times within the span of its documents.
func (c *catalog) clocked(col *column) {
	if col.Key {
		return
	}
	kind := col.Type.Kind
	switch {
	case kind == edm.DateTime && updateTime(col.Name):
		col.gen, col.mask = c.loaded, onNothing
		col.lived = func(l *life, _ uint64, v *cell) bool {
			v.i, v.style, v.zone = l.changed, 3, 0
			return l.changed != 0
		}
	case kind == edm.DateTime && creationTime(col.Name):
		col.gen, col.mask = c.loaded, onNothing
		col.lived = func(l *life, _ uint64, v *cell) bool {
			v.i, v.style, v.zone = l.created, 3, 0
			return l.created != 0
		}
	case kind == edm.Date || kind == edm.DateTime:
		drawn := col.gen
		col.lived = func(l *life, h uint64, v *cell) bool {
			if l.day == 0 || uint32(h) < col.nullBelow {
				return false
			}
			drawn(rowRef{}, mix(h+0x632be59bd9b4e019), v)
			if kind == edm.Date {
				v.i = l.day + int64(h>>32%14)
			} else {
				v.i = (l.day+int64(h>>32%14))*ticksPerDay + v.i%ticksPerDay
			}
			return true
		}
	}
}

// updateTime reports whether a datetime column of this name is when the row was last changed.
func updateTime(name string) bool {
	return name == "Update_Time" || name == "Last_Update_Time" || name == "Modification_Time"
}

func creationTime(name string) bool {
	return name == "Creation_Time" || name == "Creation_Timestamp" || name == "Creation_Date_Time"
}

// loaded is an instant within the span of the documents of the first load.
func (c *catalog) loaded(_ rowRef, h uint64, v *cell) {
	v.style, v.zone = 3, zones[h>>4&7]
	days := uint64(c.lastDay - c.firstDay + 1)
	v.i = (c.firstDay+int64(h>>8%days))*ticksPerDay + int64(mix(h)%uint64(ticksPerDay))/10_000*10_000
}
