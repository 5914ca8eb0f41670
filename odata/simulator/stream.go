package simulator

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/tablexport/tablexport/odata/edm"
)

// chunk is how many bytes of JSON are collected before they are written.
const chunk = 32 << 10

// answer writes one answer, row by row.
type answer struct {
	server *Server
	q      *query
	m      *mischief
	r      *http.Request
	w      http.ResponseWriter
	out    io.Writer // w, or a limiter or a compressor above it
	zip    packer    // nil: the answer is plain

	buf     []byte
	cell    cell
	order   []int // order of the properties, for ShuffleProperties
	rows    int64 // rows written, the false ones not counted
	first   bool  // no row is in the array yet
	bytes   int64
	started time.Time
	err     error // the client has gone, or the script ended the body
}

// stream writes the rows of q.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, q *query, m *mischief) {
	a := &answer{server: s, q: q, m: m, r: r, w: w, out: w, first: true, buf: make([]byte, 0, chunk+4096), started: time.Now()}
	ct := m.contentType
	if ct == "" {
		ct = "application/json;odata.metadata=minimal;odata.streaming=true;charset=utf-8"
		if q.behavior.NumbersAsStrings {
			ct += ";IEEE754Compatible=true"
		}
	}
	w.Header().Set("Content-Type", ct)
	w.Header().Set("OData-Version", "4.0")
	w.Header().Set("Vary", "Accept-Encoding")
	if m.cutBytes >= 0 {
		a.out = &limiter{to: a.out, left: m.cutBytes, abort: true, flush: a.flushWire}
	}
	if m.shortGzip >= 0 {
		a.out = &limiter{to: a.out, left: m.shortGzip}
	}
	// The fastest levels: the speed of tests is worth more than the bytes on a loopback.
	switch {
	case s.opts.Zstd && !s.opts.Plain && m.shortGzip < 0 && accepts(r, "zstd"):
		w.Header().Set("Content-Encoding", "zstd")
		z := zstdPool.Get().(*zstd.Encoder)
		defer func() {
			z.Reset(nil)
			zstdPool.Put(z)
		}()
		z.Reset(a.out)
		a.zip, a.out = z, z
	case m.shortGzip >= 0 || !s.opts.Plain && accepts(r, "gzip"):
		w.Header().Set("Content-Encoding", "gzip")
		a.zip, _ = gzip.NewWriterLevel(a.out, gzip.BestSpeed) // cannot fail with this level
		a.out = a.zip
	}
	if r.Method == http.MethodHead {
		return
	}
	defer s.count(func(st *Stats) { // an answer that a fault cuts is counted, too
		st.Rows += a.rows
		st.Bytes += a.bytes
	})
	a.write()
}

// packer compresses an answer.
type packer interface {
	io.WriteCloser
	Flush() error
}

// zstdPool holds *zstd.Encoder: each has megabytes of tables.
var zstdPool = sync.Pool{New: func() any {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		panic(err) // only options that exclude each other can do that
	}
	return z
}}

// accepts reports whether the client takes a content coding.
func accepts(r *http.Request, coding string) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, q, _ := strings.Cut(strings.TrimSpace(part), ";")
		if name == coding && strings.ReplaceAll(q, " ", "") != "q=0" {
			return true
		}
	}
	return false
}

// write writes the whole body.
func (a *answer) write() {
	q := a.q
	a.space()
	a.buf = append(a.buf, '{')
	a.text(`"@odata.context":`)
	a.buf = appendQuoted(a.buf, []byte(a.context()), plainText)
	a.buf = append(a.buf, ',')
	if q.inline {
		a.text(`"@odata.count":`)
		a.buf = strconv.AppendInt(a.buf, q.total(), 10)
		a.buf = append(a.buf, ',')
	}
	a.text(`"value":[`)
	link := a.array()
	if a.err != nil {
		return
	}
	a.space()
	a.buf = append(a.buf, ']')
	if a.m.nextLoop {
		link = a.q.base + strings.TrimPrefix(a.r.URL.RequestURI(), tableAPI)
	}
	if a.m.nextTo != "" {
		link = a.m.nextTo
	}
	if link != "" {
		a.text(`,"@odata.nextLink":`)
		a.buf = appendQuoted(a.buf, []byte(link), plainText)
	}
	a.space()
	a.buf = append(a.buf, '}')
	a.send()
	if a.zip != nil {
		_ = a.zip.Close() // the client has gone, or the script ended the body
	}
}

func (a *answer) context() string {
	if _, given := a.q.values["$select"]; !given {
		return a.q.base + "$metadata#" + a.q.table.Name
	}
	names := make([]string, len(a.q.columns))
	for i, col := range a.q.columns {
		names[i] = col.Name
	}
	return a.q.base + "$metadata#" + a.q.table.Name + "(" + strings.Join(names, ",") + ")"
}

// array writes the rows and returns the next link.
func (a *answer) array() (nextLink string) {
	q := a.q
	limit, page := int64(-1), false
	narrow := func(n int64, isPage bool) {
		if limit < 0 || n < limit {
			limit, page = n, isPage
		}
	}
	if q.top >= 0 {
		narrow(q.top, q.behavior.NextLink.PageSize > 0 && !q.behavior.NextLink.TopIsTotal)
	}
	if size := q.behavior.NextLink.PageSize; size > 0 {
		narrow(size, true)
	}
	if q.behavior.MaxRows > 0 {
		narrow(q.behavior.MaxRows, false)
	}
	if limit == 0 {
		return ""
	}
	if a.m.repeatLast {
		a.repeat()
	}
	st := q.world.states[q.table.id]
	scratch := new(cell)
	skip := q.skip
	place := q.start
	if len(q.plan.terms) == 0 { // every row matches: skip without looking
		place, skip = min(place+skip, q.order.n), 0
	}
	var last rowRef
	lastPlace := place
	for ; place < q.order.n; place++ {
		if place&255 == 0 && a.r.Context().Err() != nil {
			a.err = a.r.Context().Err()
			return ""
		}
		if limit >= 0 && a.rows >= limit && !page {
			break
		}
		row := st.at(q.table.space, q.order.at(place))
		if !q.plan.match(q.world, row, scratch) {
			continue
		}
		if skip > 0 {
			skip--
			continue
		}
		if limit >= 0 && a.rows >= limit {
			nextLink = q.nextLink(last, lastPlace, a.rows)
			break
		}
		if !a.eventful(row) {
			return ""
		}
		last, lastPlace = row, place+1
	}
	a.remember(last)
	return nextLink
}

// remember keeps the last row for RepeatRow.
func (a *answer) remember(last rowRef) {
	if a.rows == 0 {
		return
	}
	a.server.mu.Lock()
	a.server.last[a.q.table.Name] = last
	a.server.mu.Unlock()
}

func (a *answer) repeat() {
	a.server.mu.Lock()
	last, ok := a.server.last[a.q.table.Name]
	a.server.mu.Unlock()
	if ok {
		a.element(last, -1)
	}
}

// eventful writes a row and whatever the script has for it. It reports whether the answer goes on.
func (a *answer) eventful(row rowRef) bool {
	m, n := a.m, a.rows
	if n == m.doRows && m.do != nil {
		a.send()
		m.do()
	}
	if n == m.stallRows {
		a.send()
		a.flush()
		if !wait(a.r, m.stall) {
			a.err = a.r.Context().Err()
			return false
		}
	}
	if n == m.cutRows {
		a.send()
		a.flush()
		panic(http.ErrAbortHandler)
	}
	if n == m.foreign {
		if foreign, ok := a.outsider(); ok {
			a.element(foreign, -1)
		}
	}
	if n != m.drop {
		a.element(row, n)
	}
	if n == m.endRows {
		a.buf = a.buf[:len(a.buf)-min(len(a.buf)/2, 40)]
		a.send()
		if a.zip != nil {
			_ = a.zip.Close()
		}
		a.err = io.ErrUnexpectedEOF
		return false
	}
	a.rows++
	if len(a.buf) >= chunk {
		a.send()
		a.throttle()
	}
	return a.err == nil
}

// throttle keeps to RowsPerSecond.
func (a *answer) throttle() {
	rate := a.q.behavior.RowsPerSecond
	if rate <= 0 {
		return
	}
	due := time.Duration(float64(a.rows) / float64(rate) * float64(time.Second))
	if ahead := due - time.Since(a.started); ahead > 0 {
		a.flush()
		if !wait(a.r, ahead) {
			a.err = a.r.Context().Err()
		}
	}
}

// outsider finds a row that the filter does not admit.
func (a *answer) outsider() (rowRef, bool) {
	st := a.q.world.states[a.q.table.id]
	scratch := new(cell)
	for pos := range st.live() {
		row := st.at(a.q.table.space, pos)
		if pos < a.q.plan.lo || pos >= a.q.plan.hi || !a.q.plan.match(a.q.world, row, scratch) {
			return row, true
		}
	}
	return rowRef{}, false
}

// element writes a row as the next element of the array; n is its number for the script, -1 for false rows.
func (a *answer) element(row rowRef, n int64) {
	if !a.first {
		a.buf = append(a.buf, ',')
	}
	a.first = false
	a.space()
	if a.plain(n) {
		a.row(row)
		return
	}
	a.oddRow(row, n)
}

// plain reports whether row n can be written by the fast path.
func (a *answer) plain(n int64) bool {
	b, m := &a.q.behavior, a.m
	if b.ShuffleProperties || b.Whitespace || b.OmitNulls {
		return false
	}
	return n < 0 || (n != m.malformed && n != m.unexpected && n != m.missing && n != m.wrongType && n != m.outOfRange)
}

// row writes a row, the columns in the order of the query.
func (a *answer) row(row rowRef) {
	buf, sep := a.buf, byte('{')
	for _, col := range a.q.columns {
		buf = append(buf, sep)
		sep = ','
		buf = append(buf, col.name...)
		col.value(row, &a.cell)
		buf = col.appendJSON(buf, &a.cell, &a.q.behavior)
	}
	a.buf = append(buf, '}')
}

// oddRow writes a row with everything that can be different about it.
func (a *answer) oddRow(row rowRef, n int64) {
	b, m := &a.q.behavior, a.m
	a.buf = append(a.buf, '{')
	if n >= 0 && n == m.malformed {
		a.buf = append(a.buf, `"broken" "row":,]}`...)
		return
	}
	columns := a.propertyOrder(row)
	if n >= 0 && n == m.missing {
		columns = columns[:len(columns)-1]
	}
	sep := false
	property := func(name []byte) {
		if sep {
			a.buf = append(a.buf, ',')
		}
		sep = true
		a.space()
		a.buf = append(a.buf, name[:len(name)-1]...)
		a.space()
		a.buf = append(a.buf, ':')
		a.space()
	}
	for k, i := range columns {
		col := a.q.columns[i]
		target := m.column == col.Name || (m.column == "" && k == len(columns)-1)
		col.value(row, &a.cell)
		if b.OmitNulls && a.cell.null {
			continue
		}
		property(col.name)
		switch {
		case n >= 0 && n == m.wrongType && target:
			a.buf = append(a.buf, col.otherType()...)
		case n >= 0 && n == m.outOfRange && target:
			a.buf = append(a.buf, col.beyond()...)
		default:
			a.buf = col.appendJSON(a.buf, &a.cell, b)
		}
		a.space()
	}
	if n >= 0 && n == m.unexpected {
		property([]byte(`"Unexpected_Property":`))
		a.buf = append(a.buf, `"surprise"`...)
	}
	a.buf = append(a.buf, '}')
}

// otherType is a JSON value that cannot be one of the column.
func (col *column) otherType() string {
	switch col.Type.Kind {
	case edm.String, edm.Guid, edm.Date, edm.DateTime, edm.TimeOfDay, edm.Binary:
		return "12345"
	case edm.Boolean:
		return `"yes"`
	case edm.MultiLanguage:
		return "true"
	}
	return "[1]"
}

// beyond is a value of the right JSON type beyond the column's range.
func (col *column) beyond() string {
	switch col.Type.Kind {
	case edm.Byte, edm.Int16, edm.Int32, edm.Int64:
		return "99999999999999999999"
	case edm.Decimal:
		return "9" + strings.Repeat("9", int(col.Type.Precision-col.Type.Scale)) + ".0"
	case edm.Double:
		return "1e999"
	case edm.Date:
		return `"10000-01-01"`
	case edm.DateTime:
		return `"10000-01-01T00:00:00Z"`
	case edm.TimeOfDay:
		return `"25:00:00"`
	case edm.Guid:
		return `"zzzzzzzz-0000-0000-0000-000000000000"`
	case edm.Binary:
		return `"not base64!"`
	}
	return `"` + strings.Repeat("x", int(max(col.Type.MaxLength, 1))+1) + `"`
}

// propertyOrder returns the indexes of the columns in the order in which this row shows them.
func (a *answer) propertyOrder(row rowRef) []int {
	if a.order == nil {
		a.order = make([]int, len(a.q.columns))
	}
	for i := range a.order {
		a.order[i] = i
	}
	if a.q.behavior.ShuffleProperties {
		h := mix(row.ord ^ a.q.salt)
		for i := len(a.order) - 1; i > 0; i-- {
			h = mix(h)
			j := int(h % uint64(i+1))
			a.order[i], a.order[j] = a.order[j], a.order[i]
		}
	}
	return a.order
}

// text writes a property name and what follows it, with white space behind where it is wanted.
func (a *answer) text(s string) {
	a.space()
	a.buf = append(a.buf, s...)
	a.space()
}

// space writes white space, another kind each time, if the behaviour asks for it.
func (a *answer) space() {
	if a.q.behavior.Whitespace {
		kinds := [...]string{"", " ", "\n", "\t", "\r\n  ", "    "}
		a.buf = append(a.buf, kinds[mix(uint64(len(a.buf)))%uint64(len(kinds))]...)
	}
}

// send writes what is collected.
func (a *answer) send() {
	if a.err != nil {
		a.buf = a.buf[:0]
		return
	}
	a.bytes += int64(len(a.buf))
	_, a.err = a.out.Write(a.buf)
	a.buf = a.buf[:0]
}

// flush pushes everything that was sent onto the wire.
func (a *answer) flush() {
	if a.zip != nil && a.m.shortGzip < 0 {
		_ = a.zip.Flush() // the client has gone: the next write says so
	}
	a.flushWire()
}

func (a *answer) flushWire() {
	if f, ok := a.w.(http.Flusher); ok {
		f.Flush()
	}
}

// limiter lets so many bytes through. Then it cuts the connection, or swallows the rest.
type limiter struct {
	to    io.Writer
	left  int64
	abort bool
	flush func()
}

func (l *limiter) Write(p []byte) (int, error) {
	n := min(int64(len(p)), l.left)
	if n > 0 {
		if _, err := l.to.Write(p[:n]); err != nil {
			return 0, err
		}
		l.left -= n
	}
	if n < int64(len(p)) && l.abort {
		l.flush()
		panic(http.ErrAbortHandler)
	}
	return len(p), nil
}
