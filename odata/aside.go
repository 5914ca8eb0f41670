package odata

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
)

// Rows that do not fit the table's model can be set aside instead of ending the scan. Such a row still is a row of the table: it was sent, it has a
// key and a place in the order, and it counts in the evidence (Evidence.Quarantined). It is not handed on, but kept as its text, with what is wrong with it.
//
// What must be right in every row are the columns that something is proven by: the key, and the anchors, which the scope reads. A row in which one of
// these cannot be decoded ends the scan, and so does one that is no JSON object, has a property twice or one that was not asked for: then not
// a value is wrong, but the answer.
//
// How it is done: the decoder meets the row's first fault on its usual way. It then skips the row as JSON, and decodes once more, in place of
// the row, an object that has the key and the anchors as they were sent and null for every other column. This stand-in goes through
// the pages like a row (Inspect sees it, the order is checked by it), and is left out where rows are handed on.

// Aside says how rows that do not fit are set aside.
type Aside struct {
	Anchors []string // columns that must be right in every row, beside the key: all that Inspect and Belongs read
	Keep    []string // columns whose values the row's text may hold; nil = all
	Most    int64    // rows; with more the scan ends with *AsideLimitError
}

// The bounds of what is set aside, beside Aside.Most: it is kept in memory until the scan has ended.
const (
	mostAsideText  = 1 << 20   // bytes of one row's text; a larger one ends the scan as if nothing were set aside
	mostAsideBytes = 128 << 20 // of all rows
)

// AsideRow is a row that was set aside.
type AsideRow struct {
	Row     int64    // of the scan, from 1
	Key     []string // the values of the key columns as text; empty in a view without a key
	Column  string   // the first column whose value does not fit
	Problem string   // what is wrong with it; never holds a value
	Text    string   // the row as JSON, its values as they were sent, Aside.Keep only
	// Record is one row: the key and the anchors as they are, null in every other column of Query.Select.
	Record arrow.Record
}

// AsideLimitError says that too many rows do not fit the table's model to set them aside.
type AsideLimitError struct {
	Table   string
	Limit   int64
	Column  string // of the last row
	Problem string
}

// Error implements error.
func (e *AsideLimitError) Error() string {
	return fmt.Sprintf("odata: table %s: more than %d rows do not fit (the last one by column %s: %s)", e.Table, e.Limit, e.Column, e.Problem)
}

// mark is a stand-in among the rows of the record that is being filled.
type mark struct {
	at int // row of the record
	AsideRow
}

// aside makes the decoder set rows aside.
func (d *decoder) setAside(a *Aside, key []string) {
	d.aside = a
	for i := range d.cols {
		c := &d.cols[i]
		c.anchor = slices.Contains(a.Anchors, c.name) || slices.Contains(key, c.name)
	}
}

// salvage is called when a row could not be parsed, with the position where it begins. It puts a stand-in into the columns and returns the
// position behind the row, or a negative one where d.err says why the row stays what it was.
func (d *decoder) salvage(b []byte, start int) int {
	cause, ok := d.err.(*DataError)
	if !ok || cause.Column == "" {
		return -1
	}
	d.skimming = true
	end := d.skip(b, start, false)
	d.skimming = false
	if end < 0 {
		if _, unfit := d.err.(*DataError); unfit {
			d.err = cause
		}
		return -1 // needMore, or no JSON
	}
	text, stand := d.standIn(b[start:end])
	if stand == nil {
		d.err = cause
		return -1
	}
	window, next := d.w, slices.Clone(d.next)
	d.w, d.lenient = window.around(stand), true
	pos := d.object(d.w.data(), 0)
	d.w, d.lenient = window, false
	copy(d.next, next)
	if pos < 0 {
		return -1 // by an anchor, which d.err names
	}
	d.marks = append(d.marks, mark{at: d.n, AsideRow: AsideRow{Row: cause.Row, Column: cause.Column, Problem: cause.Problem, Text: text}})
	return end
}

// around is a window that holds text alone.
func (w *window) around(text []byte) window {
	return window{buf: append(text, make([]byte, pad)...), end: len(text), size: w.size, err: io.EOF}
}

// standIn makes of a row's text the one to keep and the stand-in's. It is nil if the row is not one that can be set aside.
func (d *decoder) standIn(row []byte) (text string, stand []byte) {
	if len(row) > mostAsideText {
		return "", nil
	}
	values := make([]json.RawMessage, len(d.cols))
	var kept []byte
	dec := json.NewDecoder(bytes.NewReader(row))
	if _, err := dec.Token(); err != nil {
		return "", nil
	}
	for dec.More() {
		name, err := dec.Token()
		var raw json.RawMessage
		if err == nil {
			err = dec.Decode(&raw)
		}
		property, ok := name.(string)
		if err != nil || !ok {
			return "", nil
		}
		i, known := d.index[property]
		switch {
		case !known && isAnnotation([]byte(property)):
			continue
		case !known || values[i] != nil:
			return "", nil
		}
		values[i] = raw
		if d.aside.Keep == nil || slices.Contains(d.aside.Keep, property) {
			kept = appendProperty(kept, d.cols[i].key, raw)
		}
	}
	for i := range d.cols {
		c, value := &d.cols[i], json.RawMessage("null")
		if c.anchor {
			value = values[i]
		}
		if value == nil {
			return "", nil
		}
		stand = appendProperty(stand, c.key, value)
	}
	return "{" + string(kept) + "}", slices.Concat([]byte{'{'}, stand, []byte{'}'})
}

func appendProperty(dst []byte, key string, value []byte) []byte {
	if len(dst) > 0 {
		dst = append(dst, ',')
	}
	return append(append(dst, key...), value...)
}

// stood takes a stand-in that the pass has accepted out of the rows that are handed on.
func (pg *intake) stood(rec arrow.Record, keys boundKeys, row int, m mark) error {
	s := pg.p.scan
	if !pg.p.hands {
		return nil
	}
	shown := pg.p.project(rec)
	defer shown.Release()
	if s.q.Belongs != nil && !s.q.Belongs(shown, row) {
		pg.outside++
		return nil
	}
	var err error
	if m.Record, err = copyRow(shown, row); err != nil {
		return err
	}
	for i := range keys.cols {
		if len(s.q.Table.Key) > 0 {
			m.Key = append(m.Key, strings.Clone(boundKeys{keys.e, keys.cols[i : i+1]}.text(row))) // the record's memory may be used again
		}
	}
	pg.asideBytes += len(m.Text)
	pg.aside = append(pg.aside, m.AsideRow)
	if n := int64(len(s.aside) + len(pg.aside)); n > s.q.Aside.Most || s.asideBytes+pg.asideBytes > mostAsideBytes {
		return &AsideLimitError{Table: s.q.Table.Name, Limit: n - 1, Column: m.Column, Problem: m.Problem}
	}
	return nil
}

// copyRow is one row of a record, in memory of its own: nobody needs to release it.
func copyRow(rec arrow.Record, row int) (arrow.Record, error) {
	columns := make([]arrow.Array, rec.NumCols())
	for i, c := range rec.Columns() {
		slice := array.NewSlice(c, int64(row), int64(row)+1)
		defer slice.Release()
		var err error
		if columns[i], err = array.Concatenate([]arrow.Array{slice}, memory.DefaultAllocator); err != nil {
			return nil, err
		}
	}
	return array.NewRecord(rec.Schema(), columns, 1), nil
}

// putAside makes rows that were set aside part of the scan.
func (pg *intake) putAside() {
	s := pg.p.scan
	s.aside, s.asideBytes = append(s.aside, pg.aside...), s.asideBytes+pg.asideBytes
	s.ev.Quarantined = int64(len(s.aside))
	s.ev.Outside += pg.outside
	pg.aside, pg.asideBytes, pg.outside = nil, 0, 0
}

// Aside returns the rows that were set aside, once Records has ended without error.
func (s *Scan) Aside() []AsideRow { return s.aside }
