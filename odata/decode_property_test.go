package odata

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// spelled draws a value of a column: its JSON in one of the many spellings it has, and the cell it is.
type spelled func(t *rapid.T) (text, cell string)

// TestDecodeRoundTrip writes random rows with random white space, order, annotations and spellings, and reads
// them back.
func TestDecodeRoundTrip(t *testing.T) {
	table := decodeTable(t)
	all := columnNames(table)
	rapid.Check(t, func(t *rapid.T) {
		var rows []string
		var want [][]string
		for range rapid.IntRange(0, 8).Draw(t, "rows") {
			text := make(map[string]string)
			var cells []string
			for _, c := range all {
				value, cell := "null", "null"
				if c == "Id" || rapid.IntRange(0, 4).Draw(t, "null") > 0 {
					value, cell = spellings[c](t)
				}
				text[c] = value
				cells = append(cells, cell)
			}
			want = append(want, cells)
			rows = append(rows, writeRow(t, all, text))
		}
		w := drawSpace(t)
		body := w + `{` + w + `"value"` + w + `:` + w + `[` + w + strings.Join(rows, w+","+w) + w + `]` + w + `}` + w
		d, err := newDecoder(table, all, rapid.IntRange(1, 5).Draw(t, "batch"), nil)
		if err != nil {
			t.Fatal(err)
		}
		d.w = window{size: rapid.SampledFrom([]int{2 * pad, 1 << 10, windowSize}).Draw(t, "window")}
		got, err := runDecode(d, strings.NewReader(body), 0)
		if err != nil {
			t.Fatalf("%v\n%s", err, body)
		}
		if diff := cmp.Diff(want, got.Rows); diff != "" {
			t.Fatalf("%s\n%s", diff, body)
		}
	})
}

func drawSpace(t *rapid.T) string {
	return rapid.SampledFrom([]string{"", "", "", " ", "\n", "\r\n\t ", "          "}).Draw(t, "space")
}

func writeRow(t *rapid.T, columns []string, text map[string]string) string {
	if rapid.Bool().Draw(t, "shuffle") {
		columns = rapid.Permutation(columns).Draw(t, "order")
	}
	var members []string
	for _, c := range columns {
		if rapid.IntRange(0, 9).Draw(t, "annotation") == 0 {
			members = append(members, `"`+c+`@odata.type" : {"`+c+`":[1,"}"]}`)
		}
		members = append(members, drawSpace(t)+quoteJSON(t, c)+drawSpace(t)+":"+drawSpace(t)+text[c]+drawSpace(t))
	}
	return "{" + strings.Join(members, ",") + "}"
}

// quote writes a string, each character as itself or in one of its escapes.
func quoteJSON(t *rapid.T, s string) string {
	var b strings.Builder
	b.WriteByte('"')
	how := rapid.IntRange(0, 2).Draw(t, "escapes") // none that is not needed, some, all
	for i, r := range s {
		short, isShort := map[rune]string{'"': `\"`, '\\': `\\`, '/': `\/`, '\b': `\b`, '\f': `\f`, '\n': `\n`, '\r': `\r`, '\t': `\t`}[r]
		switch must := r < ' ' || r == '"' || r == '\\'; {
		case !must && (how == 0 || how == 1 && i%3 > 0):
			b.WriteRune(r)
		case isShort && i%2 == 0:
			b.WriteString(short)
		case r > 0xFFFF:
			fmt.Fprintf(&b, `\u%04x\u%04X`, 0xD800+(r-0x10000)>>10, 0xDC00+(r-0x10000)&0x3FF)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String() + `"`
}

// spellNumber writes digits·10^-scale with the point moved by an exponent, and with zeros that say nothing.
func spellNumber(t *rapid.T, digits *big.Int, scale int) string {
	text := digits.String()
	sign := ""
	if text[0] == '-' {
		sign, text = "-", text[1:]
	}
	shift := rapid.IntRange(-45, 45).Draw(t, "exponent")
	point := rapid.IntRange(0, 3).Draw(t, "plain")
	if point > 0 {
		shift = 0
	}
	// digits · 10^-scale = (digits · 10^-places) · 10^shift
	places := scale + shift
	if places < 0 {
		text += strings.Repeat("0", -places)
		places = 0
	}
	if len(text) <= places {
		text = strings.Repeat("0", places-len(text)+1) + text
	}
	whole, fraction := text[:len(text)-places], text[len(text)-places:]
	if trimmed := strings.TrimLeft(whole, "0"); trimmed != "" {
		whole = trimmed
	} else {
		whole = "0"
	}
	if rapid.Bool().Draw(t, "zeros") {
		fraction += strings.Repeat("0", rapid.IntRange(0, 30).Draw(t, "how many"))
	}
	if fraction != "" {
		fraction = "." + fraction
	}
	exponent := ""
	if shift != 0 {
		exponent = rapid.SampledFrom([]string{"e", "E"}).Draw(t, "e")
		if shift > 0 {
			exponent += rapid.SampledFrom([]string{"", "+", "+00"}).Draw(t, "sign")
		}
		exponent += strconv.Itoa(shift)
	}
	return sign + whole + fraction + exponent
}

func integers(low, high int64, quoted bool) spelled {
	return func(t *rapid.T) (string, string) {
		v := rapid.Int64Range(low, high).Draw(t, "integer")
		text := strconv.FormatInt(v, 10)
		if rapid.IntRange(0, 3).Draw(t, "spelling") == 0 {
			text = spellNumber(t, big.NewInt(v), 0)
		}
		if quoted && rapid.Bool().Draw(t, "quoted") {
			text = quoteJSON(t, text)
		}
		return text, strconv.FormatInt(v, 10)
	}
}

func decimals(precision, scale int) spelled {
	return func(t *rapid.T) (string, string) {
		digits := rapid.StringMatching(fmt.Sprintf(`-?[0-9]{1,%d}`, precision)).Draw(t, "decimal")
		v, _ := new(big.Int).SetString(digits, 10)
		text := spellNumber(t, v, scale)
		if rapid.Bool().Draw(t, "quoted") {
			text = quoteJSON(t, text)
		}
		return text, new(big.Rat).SetFrac(v, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil)).FloatString(scale)
	}
}

func mixedCase(t *rapid.T, s string) string {
	b := []byte(s)
	for i := range b {
		if rapid.Bool().Draw(t, "upper") {
			b[i] = strings.ToUpper(s)[i]
		}
	}
	return string(b)
}

func drawTimestamp(t *rapid.T) (string, string) {
	micros := rapid.Int64Range(firstSecond*1e6+14*3600e6, lastSecond*1e6-14*3600e6).Draw(t, "micros")
	zone := rapid.IntRange(-14*60, 14*60).Draw(t, "zone")
	local := time.UnixMicro(micros).In(time.FixedZone("", zone*60))
	fraction := fmt.Sprintf("%06d", local.Nanosecond()/1000) + rapid.StringMatching(`[0-9]{0,6}`).Draw(t, "cut off")
	suffix := local.Format("-07:00")
	if zone == 0 {
		suffix = rapid.SampledFrom([]string{"Z", "", "+00:00", "-00:00"}).Draw(t, "utc")
	}
	return quoteJSON(t, local.Format("2006-01-02T15:04:05.")+fraction+suffix), strconv.FormatInt(micros, 10)
}

func drawDate(t *rapid.T) (string, string) {
	days := rapid.Int64Range(-719162, 2932896).Draw(t, "days")
	text := time.Unix(days*86400, 0).UTC().Format("2006-01-02")
	text += rapid.SampledFrom([]string{"", "T00:00:00", "T00:00:00.000Z", "T00:00Z"}).Draw(t, "time")
	return quoteJSON(t, text), strconv.FormatInt(days, 10)
}

func anyString(t *rapid.T) (string, string) {
	s := rapid.String().Draw(t, "text")
	return quoteJSON(t, s), s
}

var spellings = map[string]spelled{
	"Id": func(t *rapid.T) (string, string) {
		s := rapid.StringMatching(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`).Draw(t, "guid")
		return quoteJSON(t, mixedCase(t, s)), s
	},
	"Name": anyString,
	"Label": func(t *rapid.T) (string, string) {
		if rapid.Bool().Draw(t, "plain") {
			return anyString(t)
		}
		v := rapid.MapOf(rapid.StringMatching(`[A-Z]{2}`), rapid.String()).Draw(t, "languages")
		compact, _ := json.Marshal(v)
		indented, _ := json.MarshalIndent(v, " ", rapid.SampledFrom([]string{"", "\t"}).Draw(t, "indent"))
		return string(indented), string(compact)
	},
	"Void": func(t *rapid.T) (string, string) {
		s := strconv.FormatBool(rapid.Bool().Draw(t, "bool"))
		return s, s
	},
	"B":     integers(0, 255, false),
	"I16":   integers(-1<<15, 1<<15-1, false),
	"I32":   integers(-1<<31, 1<<31-1, false),
	"I64":   integers(-1<<63, 1<<63-1, true),
	"Price": decimals(14, 2),
	"Big":   decimals(38, 10),
	"F": func(t *rapid.T) (string, string) {
		s := strconv.FormatFloat(rapid.Float64Range(-1e300, 1e300).Draw(t, "float"), 'g', -1, 64)
		return s, s
	},
	"Day": drawDate,
	"At":  drawTimestamp,
	"Clock": func(t *rapid.T) (string, string) {
		s := rapid.StringMatching(`([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,7})?)?`).Draw(t, "clock")
		return quoteJSON(t, s), s
	},
	"Bin": func(t *rapid.T) (string, string) {
		v := rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")
		form := rapid.SampledFrom([]*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding}).Draw(t, "form")
		return quoteJSON(t, form.EncodeToString(v)), fmt.Sprintf("%x", v)
	},
}
