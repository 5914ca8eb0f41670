package delta

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/apache/arrow/go/v17/arrow"
)

// Stats are the statistics of an add action: PROTOCOL.md, "Per-file Statistics".
type Stats struct {
	NumRecords int64            `json:"numRecords"`
	MinValues  map[string]any   `json:"minValues"`
	MaxValues  map[string]any   `json:"maxValues"`
	NullCount  map[string]int64 `json:"nullCount"`
}

// prefixRunes is how much of a text goes into the statistics, as in delta.dataSkippingStringPrefixLength.
const prefixRunes = 32

// NewStats begins the statistics of a file of that many rows.
func NewStats(rows int64) *Stats {
	return &Stats{NumRecords: rows, MinValues: map[string]any{}, MaxValues: map[string]any{}, NullCount: map[string]int64{}}
}

// Column adds a column. lo and hi are its smallest and largest value or nil: int64, float64, string, json.Number (decimals),
// arrow.Date32 or arrow.Timestamp (µs). Values that statistics cannot hold exactly are widened, never narrowed: texts are cut
// to 32 characters (the maximum's last one is raised), timestamps go to ms (the maximum's up). What cannot be
// widened is left out, and so are booleans, NaN and infinities.
func (s *Stats) Column(name string, nulls int64, lo, hi any) {
	s.NullCount[name] = nulls
	if lo == nil || hi == nil {
		return
	}
	low, ok := statMin(lo)
	if !ok {
		return
	}
	high, ok := statMax(hi)
	if !ok {
		return
	}
	s.MinValues[name], s.MaxValues[name] = low, high
}

func statMin(v any) (any, bool) {
	switch v := v.(type) {
	case string:
		return cut(v), utf8.ValidString(v)
	case arrow.Timestamp:
		return stamp(floorMilli(int64(v)))
	}
	return statExact(v)
}

func statMax(v any) (any, bool) {
	switch v := v.(type) {
	case string:
		if !utf8.ValidString(v) {
			return nil, false
		}
		return above(v)
	case arrow.Timestamp:
		return stamp(-floorMilli(-int64(v)))
	}
	return statExact(v)
}

func statExact(v any) (any, bool) {
	switch v := v.(type) {
	case int64, json.Number:
		return v, true
	case float64:
		return v, !math.IsNaN(v) && !math.IsInf(v, 0)
	case arrow.Date32:
		t := time.Unix(int64(v)*86400, 0).UTC()
		return t.Format(time.DateOnly), t.Year() >= 1 && t.Year() <= 9999
	}
	return nil, false
}

// floorMilli is ms of µs, rounded towards the past.
func floorMilli(us int64) int64 {
	ms := us / 1000
	if us%1000 < 0 {
		ms--
	}
	return ms
}

func stamp(ms int64) (any, bool) {
	t := time.UnixMilli(ms).UTC()
	return t.Format("2006-01-02T15:04:05.000Z"), t.Year() >= 1 && t.Year() <= 9999
}

// cut is the first prefixRunes characters of v.
func cut(v string) string {
	n := 0
	for i := range v {
		if n == prefixRunes {
			return v[:i]
		}
		n++
	}
	return v
}

// above is v, or if it is long a short text that sorts (by code point, which is by bytes) after everything that begins as v does.
func above(v string) (any, bool) {
	p := cut(v)
	if len(p) == len(v) {
		return v, true
	}
	for len(p) > 0 {
		r, size := utf8.DecodeLastRuneInString(p)
		p = p[:len(p)-size]
		if r++; r == 0xD800 {
			r = 0xE000 // over the surrogates, which are no characters
		}
		if r <= utf8.MaxRune {
			return p + string(r), true
		}
	}
	return nil, false
}

// JSON is the text for [Add].Stats.
func (s *Stats) JSON() (string, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return "", fmt.Errorf("delta: the statistics cannot be written: %w", err)
	}
	return strings.TrimSuffix(buf.String(), "\n"), nil
}

// ParseStats reads the text of [Add].Stats. Numbers are json.Number; the null counts of nested columns are left out.
func ParseStats(text string) (*Stats, error) {
	var raw struct {
		NumRecords *int64         `json:"numRecords"`
		MinValues  map[string]any `json:"minValues"`
		MaxValues  map[string]any `json:"maxValues"`
		NullCount  map[string]any `json:"nullCount"`
	}
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&raw); err != nil {
		return nil, fmt.Errorf("delta: the statistics of a file cannot be read: %w", plain(err))
	}
	if raw.NumRecords == nil || *raw.NumRecords < 0 {
		return nil, errors.New("delta: the statistics of a file have no number of rows")
	}
	s := NewStats(*raw.NumRecords)
	s.MinValues, s.MaxValues = notNilMap(raw.MinValues), notNilMap(raw.MaxValues)
	for name, v := range raw.NullCount {
		if n, ok := v.(json.Number); ok {
			if count, err := n.Int64(); err == nil {
				s.NullCount[name] = count
			}
		}
	}
	return s, nil
}
