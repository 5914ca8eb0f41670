package odata

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"
)

// isAnnotation tells control information and annotations (OData JSON Format 4.01, "Control Information") from
// properties: names with an @ ("@odata.etag", "Name@odata.type"), and the legacy names without ("odata.etag").
func isAnnotation(name []byte) bool {
	return bytes.IndexByte(name, '@') >= 0 || bytes.HasPrefix(name, []byte("odata."))
}

// withoutPrefix gives the three spellings of an annotation one name: "@odata.count" (OData 4.0), "@count" (4.01) and
// "odata.count" (3.0) are all "@count".
func withoutPrefix(name string) string {
	if short, ok := strings.CutPrefix(strings.TrimPrefix(name, "@"), "odata."); ok {
		return "@" + short
	}
	return name
}

// mostMembers bounds what is remembered of the members around the rows. OData knows a dozen.
const mostMembers = 256

// envelope parses a whole answer. Its members may come in any order; annotations that do not matter here are
// skipped, anything else but "value" and "error" is refused, because it could mean that the rows are not all.
func (d *decoder) envelope(a *answer, emit func(arrow.Record) error) error {
	if err := d.token('{', "the answer is no JSON object"); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for first := true; ; first = false {
		more, err := d.separator(first, '}')
		if err != nil {
			return err
		}
		if !more {
			break
		}
		name, err := d.member()
		if err != nil {
			return err
		}
		name = withoutPrefix(name)
		if seen[name] {
			return d.stop(d.w.start, "the member "+printable([]byte(name))+" comes twice around the rows")
		}
		if len(seen) == mostMembers {
			return &DataError{Table: d.table, Problem: fmt.Sprintf("there are more than %d members around the rows", mostMembers)}
		}
		seen[name] = true
		if err := d.memberValue(name, a, emit); err != nil {
			return err
		}
	}
	if err := d.atEnd(); err != nil {
		return err
	}
	if !seen["value"] {
		return d.stop(d.w.start, `the answer has no rows: "value" is missing`)
	}
	return d.flush(emit)
}

// stop is a MalformedError for what is known to be in the window.
func (d *decoder) stop(pos int, problem string) error {
	return &MalformedError{Table: d.table, Row: d.row(), Offset: d.w.offset(pos), Problem: problem}
}

// space skips white space and returns the byte after it.
func (d *decoder) space() (byte, error) {
	from := d.w.offset(d.w.start)
	for {
		b := d.w.data()
		d.w.start = skipSpace(b, d.w.start)
		if err := d.blank(from); err != nil {
			return 0, err
		}
		if d.w.start < d.w.end {
			return b[d.w.start], nil
		}
		d.err = needMore
		if err := d.proceed(math.MaxInt); err != nil {
			return 0, err
		}
	}
}

// blank refuses white space without an end, which began at from.
func (d *decoder) blank(from int64) error {
	if d.w.offset(d.w.start)-from > int64(d.limits.blank) {
		return &MalformedError{Table: d.table, Row: d.row(), Offset: from, Problem: fmt.Sprintf("more than %d bytes of white space", d.limits.blank)}
	}
	return nil
}

// token reads one structural byte.
func (d *decoder) token(want byte, problem string) error {
	c, err := d.space()
	if err != nil {
		return err
	}
	if c != want {
		return d.stop(d.w.start, problem)
	}
	d.w.start++
	return nil
}

// separator reads what stands before an element: nothing before the first, a comma before another one, or
// the closing byte, after which there is none (more is false).
func (d *decoder) separator(first bool, closing byte) (more bool, err error) {
	c, err := d.space()
	switch {
	case err != nil:
		return false, err
	case c == closing:
		d.w.start++
		return false, nil
	case first:
		return true, nil
	case c != ',':
		return false, d.stop(d.w.start, "expected a comma or "+string(closing))
	}
	d.w.start++
	if c, err = d.space(); err == nil && c == closing {
		err = d.stop(d.w.start, "a comma before "+string(closing))
	}
	return err == nil, err
}

// member reads the name of a member around the rows, and its colon.
func (d *decoder) member() (name string, err error) {
	err = d.try(d.limits.envelope, func(b []byte, pos int) int {
		if b[pos] != '"' {
			return d.fail(pos, "expected the name of a member")
		}
		text, pos := d.str(b, pos)
		if pos < 0 {
			return pos
		}
		name = string(text)
		return pos
	})
	if err != nil {
		return "", err
	}
	if err := d.token(':', "expected a colon"); err != nil {
		return "", err
	}
	_, err = d.space()
	return name, err
}

// memberValue reads the value of a member around the rows.
func (d *decoder) memberValue(name string, a *answer, emit func(arrow.Record) error) error {
	switch {
	case name == "value":
		return d.array(emit)
	case name == "error":
		return d.serverError()
	case !isAnnotation([]byte(name)):
		return &DataError{Table: d.table, Problem: "unexpected member " + printable([]byte(name)) + "; expected value and annotations"}
	}
	switch name {
	case "@nextLink":
		return d.try(d.limits.envelope, func(b []byte, pos int) int { return d.link(b, pos, &a.nextLink) })
	case "@count":
		return d.try(d.limits.envelope, func(b []byte, pos int) int { return d.count(b, pos, &a.count) })
	}
	return d.try(d.limits.envelope, func(b []byte, pos int) int { return d.skip(b, pos, false) })
}

// array reads the rows and hands them out; a last record that is not full is left for the end.
func (d *decoder) array(emit func(arrow.Record) error) error {
	if err := d.token('[', `"value" is no array`); err != nil {
		return err
	}
	d.mark = d.w.offset(d.w.start)
	for first := true; ; first = false {
		more, err := d.separator(first, ']')
		if err != nil || !more {
			return err
		}
		if err := d.element(); err != nil {
			return err
		}
		d.hurry()
		if d.n == d.batch || d.w.offset(d.w.start)-d.mark >= d.limits.record {
			if err := d.flush(emit); err != nil {
				return err
			}
		}
	}
}

// element reads one row.
func (d *decoder) element() error {
	d.inRow = true
	if d.rest > 0 {
		d.rest--
	}
	if d.n == d.room {
		d.grow()
	}
	for {
		start := d.w.start
		pos := d.object(d.w.data(), start)
		if pos < 0 && d.aside != nil {
			pos = d.salvage(d.w.data(), start)
		}
		if pos >= 0 {
			if pos-start > d.limits.row {
				return d.tooLong(d.limits.row)
			}
			d.w.start = pos
			d.n++
			d.rows++
			d.inRow = false
			return nil
		}
		if err := d.proceed(d.limits.row); err != nil {
			return err
		}
	}
}

// link reads a nextLink: a string, or null for none.
func (d *decoder) link(b []byte, pos int, to *string) int {
	if b[pos] == 'n' {
		return d.literal(b, pos, "null")
	}
	if b[pos] != '"' {
		return d.wrongType(nil, b, pos, "nextLink is to be a string, found ")
	}
	text, pos := d.str(b, pos)
	if pos >= 0 {
		*to = string(text)
	}
	return pos
}

// count reads a count of rows: an integer, as a string too where the server is IEEE754Compatible or of
// OData 3, or null for none.
func (d *decoder) count(b []byte, pos int, to *int64) int {
	if b[pos] == 'n' {
		return d.literal(b, pos, "null")
	}
	if b[pos] != '"' && !startsNumber(b[pos]) {
		return d.wrongType(nil, b, pos, "count is to be a number, found ")
	}
	v, pos := d.integer(nil, b, pos, true)
	if pos >= 0 && v < 0 {
		return d.refuse(nil, "the count of rows is negative")
	}
	if pos >= 0 {
		*to = v
	}
	return pos
}

// serverError reads the value of "error" and returns it as an *InStreamError.
func (d *decoder) serverError() error {
	if err := d.try(d.limits.envelope, d.reported); err != nil {
		return err
	}
	return d.err
}

// reported reads the value of an "error" member and leaves an *InStreamError in d.err.
func (d *decoder) reported(b []byte, pos int) int {
	if pos = d.skip(b, pos, true); pos < 0 {
		return pos
	}
	var body struct{ Code json.RawMessage }
	var code string
	if json.Unmarshal(d.kept, &body) == nil && json.Unmarshal(body.Code, &code) != nil &&
		len(body.Code) > 0 && startsNumber(body.Code[0]) {
		code = string(body.Code) // some servers number their errors
	}
	d.err = &InStreamError{Table: d.table, Row: d.row(), Code: printable([]byte(code))}
	return pos
}

// atEnd makes sure that nothing but white space follows.
func (d *decoder) atEnd() error {
	from := d.w.offset(d.w.start)
	for {
		b := d.w.data()
		d.w.start = skipSpace(b, d.w.start)
		if err := d.blank(from); err != nil {
			return err
		}
		if d.w.start < d.w.end {
			return d.stop(d.w.start, "something follows the end of the answer")
		}
		if err := d.w.more(); err == io.EOF { //nolint:errorlint // the proper end of a reader is io.EOF itself (io.Reader); a wrapped one is a failure
			return nil
		} else if err != nil {
			return d.broken(err)
		}
	}
}
