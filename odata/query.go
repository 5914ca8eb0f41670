package odata

import (
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/filter"
)

// Paging is a way to get a table in several answers.
type Paging string

// The pagings. Auto chooses by key and by what the server was found to take.
const (
	Auto     Paging = "auto"
	Key      Paging = "key"    // ge the last key, inclusive, seam row dropped; $orderby where taken
	Offset   Paging = "offset" // $skip by rows received, overlapping by one row
	NextLink Paging = "next"   // @odata.nextLink, same host only
	Stream   Paging = "stream" // one answer
)

// Query is what a scan asks. Columns of Select are fetched in that order; key columns that Select lacks
// are fetched too (paging and evidence need them) and are not part of the records.
type Query struct {
	Table    *edm.Table
	Select   []string
	Filter   filter.Bound
	Paging   Paging           // "" = Auto
	PageSize int              // rows asked per request (10,000)
	Batch    int              // rows of a record at most (2,048)
	Attempt  int              // which scan of this query this is, for the evidence (1)
	Memory   memory.Allocator // of the records, used again once they are released (nil: the session's); safe for concurrent use, since they are made and released on two goroutines
	Ahead    int64            // bytes of decoded records that may wait for the loop body (16 MiB); negative: one record
	// Inspect, if set, is called with every record of the first pass as it came, columns of Select only, before its rows are judged or
	// dropped in any way; before is the number of rows that came before it. Its error is final and ends the scan. It is called from another
	// goroutine than the loop body's, one call at a time, and must not keep the record.
	Inspect func(rec arrow.Record, before int64) error
	// Belongs, if set, says whether a row of a record belongs to what was asked for. A row that does not is checked, counted and proven as every
	// other, and then left out (Evidence.Outside): a window whose last instant cannot be asked for exactly is asked for up to the next one's first.
	// It must say the same of a row whenever it is asked, and is called from the goroutine that calls Inspect.
	Belongs  func(rec arrow.Record, row int) bool
	Keys     *KeySet        // takes the keys of the rows that are handed on, of this scan and others; nil: none
	Aside    *Aside         // rows that do not fit the table's model are set aside; nil: they end the scan
	Progress func(Progress) // called after every page, from the loop's goroutine; may be nil
}

// Progress is how far a scan is. Rows are those handed on, confirming passes not counted.
type Progress struct {
	Rows, Pages, Requests, Bytes int64
	Expected                     int64 // rows by $count, -1 if unknown
}

// everything is the largest $top that the Table API takes.
const everything = math.MaxInt32

// complete checks q and fills in the defaults.
func (q *Query) complete() error {
	if q.Table == nil || len(q.Select) == 0 {
		return fmt.Errorf("odata: a query needs a table and at least one column; write what you want in `select`")
	}
	for _, name := range slices.Concat(q.Select, q.Table.Key) {
		c, ok := q.Table.Column(name)
		if !ok {
			return fmt.Errorf("odata: table %s has no column %q", q.Table.Name, name)
		}
		if c.Secret {
			return fmt.Errorf("odata: column %s of table %s holds secret material and is never read", name, q.Table.Name)
		}
	}
	if q.Keys != nil && len(q.Table.Key) == 0 {
		return errKeyless
	}
	switch q.Paging {
	case "":
		q.Paging = Auto
	case Auto, Key, Offset, NextLink, Stream:
	default:
		return fmt.Errorf("odata: there is no paging %q; write auto, key, offset, next or stream", q.Paging)
	}
	if q.Paging == Key {
		if _, why := pageableKey(q.Table); why != "" {
			return fmt.Errorf("odata: paging key does not work for table %s: %s; leave `paging` out", q.Table.Name, why)
		}
	}
	if q.PageSize <= 0 {
		q.PageSize = 10_000
	}
	q.PageSize = min(q.PageSize, everything-1)
	if q.Batch <= 0 {
		q.Batch = 2048
	}
	if q.Attempt <= 0 {
		q.Attempt = 1
	}
	if q.Ahead == 0 {
		q.Ahead = ahead
	}
	return nil
}

// fetched is Select and the key columns that it lacks.
func (q *Query) fetched() []string {
	columns := slices.Clone(q.Select)
	for _, k := range q.Table.Key {
		if !slices.Contains(columns, k) {
			columns = append(columns, k)
		}
	}
	return columns
}

// shape is what the answer to "does the server take $orderby (and so on) here" may depend on.
func (q *Query) shape() string {
	var b strings.Builder
	b.WriteString(q.Table.Name)
	for _, t := range q.Filter.Terms() {
		fmt.Fprintf(&b, "|%s %d", strings.Join(t.Path, "/"), t.Op)
	}
	return b.String()
}

// pageableKey returns the column by which key paging can go, or why it cannot.
func pageableKey(t *edm.Table) (*edm.Column, string) {
	switch len(t.Key) {
	case 0:
		return nil, "it has no key"
	case 1:
	default:
		return nil, "its key has several columns"
	}
	c, ok := t.Column(t.Key[0])
	if !ok {
		return nil, "its key is not among its columns"
	}
	switch c.Type.Kind {
	case edm.Guid, edm.Byte, edm.Int16, edm.Int32, edm.Int64, edm.Date:
	default:
		// Text is ordered by a collation that only the server knows; a datetime is exact to less than what the
		// server may hold, so "ge the last" could pass over a row.
		return nil, fmt.Sprintf("its key is %s, whose order cannot be checked here exactly", c.Type)
	}
	if c.OpsKnown && !c.Ops.Has(edm.OpRange) {
		return nil, "the server takes no ge on its key"
	}
	return c, ""
}

// params are the parameters of one request, in the order in which they are written.
type params struct {
	columns []string
	filter  string
	orderby string
	skip    int64 // -1 = none
	top     int64 // -1 = none
	count   bool
}

func (p params) pairs() [][2]string {
	out := [][2]string{{"$select", strings.Join(p.columns, ",")}}
	if p.filter != "" {
		out = append(out, [2]string{"$filter", p.filter})
	}
	if p.orderby != "" {
		out = append(out, [2]string{"$orderby", p.orderby})
	}
	if p.skip > 0 {
		out = append(out, [2]string{"$skip", strconv.FormatInt(p.skip, 10)})
	}
	if p.top >= 0 {
		out = append(out, [2]string{"$top", strconv.FormatInt(p.top, 10)})
	}
	if p.count {
		out = append(out, [2]string{"$count", "true"})
	}
	return out
}

// encode writes the query string. This is the one place where anything is percent-encoded.
func (p params) encode() string {
	var b strings.Builder
	for i, kv := range p.pairs() {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(kv[0]) // $ is a sub-delimiter, which a query may hold (RFC 3986, section 3.4)
		b.WriteByte('=')
		escape(&b, kv[1])
	}
	return b.String()
}

// readable is the query as people read it.
func (p params) readable() string {
	var parts []string
	for _, kv := range p.pairs() {
		parts = append(parts, kv[0]+"="+kv[1])
	}
	return strings.Join(parts, "&")
}

// escape percent-encodes every byte that is not unreserved (RFC 3986, section 2.3): a space becomes %20,
// a plus %2B, so that no reader of forms can take one for the other.
func escape(b *strings.Builder, text string) {
	const hex = "0123456789ABCDEF"
	for i := range len(text) {
		switch c := text[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-_.~", c) >= 0:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
}

// tableURL is the address of a table's rows below base.
func tableURL(base *url.URL, table string, p params) *url.URL {
	u := *base
	u.Path += table
	u.RawPath = ""
	u.RawQuery = p.encode()
	return &u
}

// and joins two filters in the Table API's dialect.
func and(a, b string) string {
	switch {
	case a == "":
		return b
	case b == "":
		return a
	}
	return a + " and " + b
}

func orderBy(key []string, suffix string) string {
	parts := make([]string, len(key))
	for i, k := range key {
		parts[i] = k + suffix
	}
	return strings.Join(parts, ",")
}
