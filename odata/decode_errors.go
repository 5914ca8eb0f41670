package odata

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrTruncated says that an answer's body ended before its JSON did: a cut connection, a server that
// gave up. The rows that came before it are whole, but the page is not: ask for it again.
var ErrTruncated = errors.New("the answer ends in the middle")

// MalformedError says that an answer is not the JSON (RFC 8259, in UTF-8) of an OData collection. A
// proxy or a server fault may have damaged it on the way, so the page may be asked for again.
type MalformedError struct {
	Table   string
	Row     int64  // 1-based row of the scan in which the damage was met, 0 outside the rows
	Offset  int64  // byte of the (uncompressed) answer, 0-based
	Problem string // never holds bytes of the answer
}

func (e *MalformedError) Error() string {
	return fmt.Sprintf("odata: table %s: the answer is malformed at byte %d%s: %s", e.Table, e.Offset, rowClause(e.Row), e.Problem)
}

// DataError says that an answer is sound JSON, but its content does not fit the table's model: a wrong
// type, a number out of range, a missing or unexpected property, a size beyond the limits. It is final:
// the same question gets the same data.
type DataError struct {
	Table   string
	Column  string // "" where the problem is not one column's
	Row     int64  // 1-based row of the scan, 0 outside the rows
	Problem string // names expected and found; never holds a value
}

func (e *DataError) Error() string {
	where := rowClause(e.Row)
	if e.Row == 0 {
		where = ", around the rows"
	}
	if e.Column != "" {
		where += ", column " + e.Column
	}
	return fmt.Sprintf("odata: table %s%s: %s", e.Table, where, e.Problem)
}

// InStreamError is an OData error object that came in an answer whose status had already promised
// success (OData Protocol 4.01, "In-Stream Errors": the whole answer then counts as failed). The server's
// message is left out on purpose: it may quote values or hold a stack trace.
type InStreamError struct {
	Table string
	Row   int64  // 1-based row of the scan in whose place it came, 0 outside the rows
	Code  string // the error's code, cut to 64 printable characters; "" if it has none
}

func (e *InStreamError) Error() string {
	code := "without a code"
	if e.Code != "" {
		code = "with code " + strconv.Quote(e.Code)
	}
	return fmt.Sprintf("odata: table %s%s: the server broke off its answer and reported an error %s", e.Table, rowClause(e.Row), code)
}

func rowClause(row int64) string {
	if row == 0 {
		return ""
	}
	return ", row " + strconv.FormatInt(row, 10)
}

// printable makes a name that the server chose fit for a message or a log line: at most 64 characters,
// each of them printable.
func printable(name []byte) string {
	const most = 64
	var s strings.Builder
	for n := 0; len(name) > 0; n++ {
		if n == most {
			s.WriteString("…")
			break
		}
		r, size := utf8.DecodeRune(name)
		if !unicode.IsPrint(r) {
			r = '?'
		}
		s.WriteRune(r)
		name = name[size:]
	}
	return s.String()
}
