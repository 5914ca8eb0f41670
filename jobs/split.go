package jobs

import (
	"context"
	"fmt"
	"math/big"
	"time"

	"github.com/tablexport/tablexport/jobs/window"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/evidence"
	"github.com/tablexport/tablexport/odata/filter"
)

// Split says what one scan of a window may be at most, as far as can be told beforehand. A larger window is read in pieces: quarters,
// months, weeks, days, hours of it, and where those are too large as well, ranges of its key. The dataset's partitions stay as they are.
// Zero values are the defaults.
type Split struct {
	Rows  int64         // of one scan (5,000,000)
	Bytes int64         // of JSON of one scan (8 GiB), by the bytes of earlier rows
	After time.Duration // how long one scan may take (30 minutes), by the speed of earlier ones
}

const (
	splitRows  = 5_000_000
	splitBytes = 8 << 30
	splitAfter = 30 * time.Minute
	// timedRows is how many rows a scan must have for its time to say anything about a row: of a small scan it is the server's latency.
	timedRows = 10_000
	// maxCounts bounds how often the server is asked for a number of rows to cut one window.
	maxCounts = 400
	// maxPieces bounds the pieces of one window.
	maxPieces = 10_000
)

// limit is how many rows a scan may have at a rate, tries being how often the window was begun: each one that failed halves it.
func (s Split) limit(r Rate, tries int) int64 {
	rows, bytes, after := s.Rows, s.Bytes, s.After
	if rows <= 0 {
		rows = splitRows
	}
	if bytes <= 0 {
		bytes = splitBytes
	}
	if after <= 0 {
		after = splitAfter
	}
	if r.Rows > 0 {
		rows = min(rows, int64(float64(bytes)/(float64(r.Bytes)/float64(r.Rows)+1)))
	}
	if r.Scans > 0 && r.Rows/r.Scans >= timedRows {
		rows = min(rows, int64(after.Seconds()*float64(r.Rows)/max(r.Busy.Seconds(), 0.001)))
	}
	return max(1, rows>>min(max(tries-1, 0), 40))
}

// cutter cuts one window into queries that tile it.
type cutter struct {
	*gathering
	item   window.Item
	limit  int64 // rows of a piece
	counts int   // asked so far
	known  []evidence.Evidence
}

// queries are the scans of a window, in the order in which they are to be read. Most windows have one.
func (g *gathering) queries(ctx context.Context, item window.Item, whole odata.Query, tries int) ([]odata.Query, error) {
	rate, rows := Rate{}, int64(-1)
	c := &cutter{gathering: g, item: item}
	have := g.refresh.Windows()
	for _, w := range have {
		if w.Value == partition(item.Value) && w.Problem == "" {
			rows, c.known = w.Rows, w.Evidence
			for _, ev := range w.Evidence {
				rate.Add(ev)
			}
		}
	}
	if rate.Rows == 0 {
		rate = Observed(have)
	}
	c.limit = g.Job.Refresh.Split.limit(rate, tries)
	if rows < 0 && g.most > 0 && g.most <= c.limit {
		return []odata.Query{whole}, nil // all windows together are small enough
	}
	if rows < 0 || rows > c.limit/2 { // a window that was small is small; of others the server is asked
		n, ok, err := c.count(ctx, whole)
		if err != nil {
			return nil, err
		}
		if ok {
			rows = n
		}
	}
	if rows <= c.limit {
		return []odata.Query{whole}, nil
	}
	if item.Value == window.Null {
		return c.byKey(ctx, whole, rows)
	}
	cut, err := c.bySpan(ctx, item.Span, rows)
	if err != nil {
		return nil, err
	}
	if len(cut) > maxPieces {
		return nil, fmt.Errorf("the window would be read in %d pieces, and %d are too many; raise the limits of refresh.split, or choose a shorter period", len(cut), maxPieces)
	}
	return cut, nil
}

// ceiling counts the rows of all windows that are read for the first time at once: where they are few, no window needs to be counted.
func (x *run) ceiling(ctx context.Context, session *odata.Session, d window.Decision) error {
	x.most = 0
	var span window.Span
	n := 0
	for _, item := range d.Read { // newest first
		switch {
		case item.Reason != window.Missing:
		case n == 0:
			span, n = item.Span, 1
		default:
			span, n = item.Join(span), n+1
		}
	}
	if n < 3 {
		return nil
	}
	q, ok, err := x.plan.SpanQuery(span)
	if err != nil || !ok {
		return err
	}
	rows, ok, err := session.Count(ctx, q)
	if ok {
		x.most = max(1, rows)
	}
	return err
}

// count asks for the number of rows of a query; ok is false where the server does not count, or was asked often enough.
func (c *cutter) count(ctx context.Context, q odata.Query) (n int64, ok bool, err error) {
	if c.counts >= maxCounts {
		return 0, false, nil
	}
	c.counts++
	return c.session.Count(ctx, q)
}

// part is a stretch of a window, with its rows as far as they are known.
type part struct {
	span window.Span
	rows int64
}

// bySpan cuts a stretch of time that holds about so many rows.
func (c *cutter) bySpan(ctx context.Context, s window.Span, rows int64) ([]odata.Query, error) {
	whole, ok, err := c.stretch(s)
	if err != nil || !ok {
		return nil, err // a stretch that holds nothing that could be asked for
	}
	if rows <= c.limit {
		return []odata.Query{whole}, nil
	}
	pieces := s.Split(c.plan.Windowed.By.Column.Type.Kind == edm.DateTime)
	if pieces == nil {
		return c.byKey(ctx, whole, rows)
	}
	parts, err := c.weigh(ctx, pieces, rows)
	if err != nil {
		return nil, err
	}
	var out []odata.Query
	for _, p := range c.joined(parts) {
		more, err := c.bySpan(ctx, p.span, p.rows)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}

// stretch is the query of a stretch of the window.
func (c *cutter) stretch(s window.Span) (odata.Query, bool, error) {
	q, ok, err := c.plan.SpanQuery(s)
	q.Belongs = c.plan.Windowed.Belongs(window.Item{Window: window.Window{Value: c.item.Value, Span: s}})
	return q, ok, err
}

// weigh finds the rows of pieces; where the server does not count, they are taken for alike.
func (c *cutter) weigh(ctx context.Context, pieces []window.Span, rows int64) ([]part, error) {
	parts := make([]part, len(pieces))
	for i, s := range pieces {
		parts[i] = part{s, (rows + int64(len(pieces)) - 1) / int64(len(pieces))}
		q, ok, err := c.stretch(s)
		if err != nil {
			return nil, err
		}
		if !ok {
			parts[i].rows = 0
			continue
		}
		n, ok, err := c.count(ctx, q)
		if err != nil {
			return nil, err
		}
		if ok {
			parts[i].rows = n
		}
	}
	return parts, nil
}

// joined puts neighbours together again that fit into one scan.
func (c *cutter) joined(parts []part) []part {
	var out []part
	for _, p := range parts {
		if n := len(out); n > 0 && out[n-1].rows+p.rows <= c.limit {
			out[n-1].span, out[n-1].rows = out[n-1].span.Join(p.span), out[n-1].rows+p.rows
			continue
		}
		out = append(out, p)
	}
	return out
}

// byKey cuts a query by ranges of the table's key, where that is one GUID that takes ge and le. Where the keys are is told by the earlier scan of
// the window, or found by counting; without either the query stays whole.
func (c *cutter) byKey(ctx context.Context, q odata.Query, rows int64) ([]odata.Query, error) {
	key := rangeKey(q.Table)
	if key == nil {
		return []odata.Query{q}, nil
	}
	ranges, err := c.counted(ctx, q, key, keyRange{new(big.Int), lastKey, rows}, 0)
	if err != nil {
		return nil, err
	}
	if len(ranges) == 1 {
		ranges = interpolated(c.known, (rows+c.limit-1)/c.limit)
	}
	ranges = c.packed(ranges)
	if len(ranges) == 1 {
		return []odata.Query{q}, nil
	}
	out := make([]odata.Query, len(ranges))
	for i, r := range ranges {
		bound, err := filter.KeyRange(q.Table, key.Name, guidText(r.low), guidText(r.high))
		if err != nil {
			return nil, err
		}
		out[i] = q
		out[i].Filter = filter.And(q.Filter, bound)
	}
	return out, nil
}

// packed joins neighbours that fit into one scan.
func (c *cutter) packed(ranges []keyRange) []keyRange {
	var out []keyRange
	for _, r := range ranges {
		if n := len(out); n > 0 && r.rows >= 0 && out[n-1].rows >= 0 && out[n-1].rows+r.rows <= c.limit {
			out[n-1].high, out[n-1].rows = r.high, out[n-1].rows+r.rows
			continue
		}
		out = append(out, r)
	}
	return out
}

// rangeKey is the key that ranges can be asked of, or nil.
func rangeKey(t *edm.Table) *edm.Column {
	if len(t.Key) != 1 {
		return nil
	}
	c, ok := t.Column(t.Key[0])
	if !ok || c.Type.Kind != edm.Guid || c.OpsKnown && !c.Ops.Has(edm.OpRange) {
		return nil
	}
	return c
}

// keyRange is a range of GUIDs, both ends included, as numbers of 128 bits that are in the order of SQL Server; rows is -1 where it is not known.
type keyRange struct {
	low, high *big.Int
	rows      int64
}

var lastKey = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 128), big.NewInt(1))

// counted halves a range until its parts are small enough, asking the server for the rows of one half each time. Keys are often
// in sequence, with most bits alike: halving finds where they are in at most 128 steps. The ranges tile r; empty ones are
// joined to their neighbours later.
func (c *cutter) counted(ctx context.Context, q odata.Query, key *edm.Column, r keyRange, depth int) ([]keyRange, error) {
	if r.rows <= c.limit || depth > 128 || r.low.Cmp(r.high) == 0 {
		return []keyRange{r}, nil
	}
	middle := new(big.Int).Rsh(new(big.Int).Add(r.low, r.high), 1)
	bound, err := filter.KeyRange(q.Table, key.Name, guidText(r.low), guidText(middle))
	if err != nil {
		return nil, err
	}
	half := q
	half.Filter = filter.And(q.Filter, bound)
	n, ok, err := c.count(ctx, half)
	if err != nil {
		return nil, err
	}
	if !ok {
		return []keyRange{r}, nil
	}
	n = min(n, r.rows)
	lower, err := c.counted(ctx, q, key, keyRange{r.low, middle, n}, depth+1)
	if err != nil {
		return nil, err
	}
	upper, err := c.counted(ctx, q, key, keyRange{new(big.Int).Add(middle, big.NewInt(1)), r.high, r.rows - n}, depth+1)
	return append(lower, upper...), err
}

// interpolated are n ranges that tile all GUIDs, their seams laid evenly between the first and the last key of an earlier scan. New keys beyond
// these fall into the first and the last range.
func interpolated(known []evidence.Evidence, n int64) []keyRange {
	all := []keyRange{{new(big.Int), lastKey, -1}}
	if len(known) == 0 || n < 2 {
		return all
	}
	var first, last *big.Int
	for _, ev := range known {
		a, ok1 := edm.GUIDKey(ev.FirstKey)
		b, ok2 := edm.GUIDKey(ev.LastKey)
		if !ok1 || !ok2 || ev.Order == evidence.OrderNone {
			return all
		}
		low, high := new(big.Int).SetBytes(a[:]), new(big.Int).SetBytes(b[:])
		if first == nil || low.Cmp(first) < 0 {
			first = low
		}
		if last == nil || high.Cmp(last) > 0 {
			last = high
		}
	}
	width := new(big.Int).Sub(last, first)
	if width.Cmp(big.NewInt(n)) <= 0 {
		return all
	}
	var out []keyRange
	low := new(big.Int)
	for i := int64(1); i < n; i++ {
		high := new(big.Int).Div(new(big.Int).Mul(width, big.NewInt(i)), big.NewInt(n))
		high.Add(high, first)
		out = append(out, keyRange{low, high, -1})
		low = new(big.Int).Add(high, big.NewInt(1))
	}
	return append(out, keyRange{low, lastKey, -1})
}

// guidText is the GUID at a place in SQL Server's order.
func guidText(n *big.Int) string {
	var key [16]byte
	n.FillBytes(key[:])
	return edm.GUIDText(key)
}

// joined holds the scans of a window's pieces together: what was read must be at least what the window had before or behind them, and no row may
// have come twice, as one does whose date is changed meanwhile.
func (g *gathering) joined(ctx context.Context, l *load, before int64, counted bool, keys *odata.KeySet) error {
	if counted {
		after, ok, err := g.session.Count(ctx, l.query)
		if err != nil {
			return err
		}
		if low := min(before, after); ok && l.came() < low {
			return &evidence.Incomplete{Reason: fmt.Sprintf("the window was read in %d pieces, which hold %d rows, and it had %d before and %d behind them",
				len(l.proof), l.came(), before, after)}
		}
	}
	if keys == nil {
		return nil
	}
	repeated, err := keys.Repeated()
	if err == nil && repeated > 0 {
		err = &MovedError{Rows: repeated}
	}
	return err
}

// slow says whether a window failed in a way that smaller scans may mend: the connection or the server gave up on something long.
func (s Split) slow(err error, took time.Duration) bool {
	after := s.After
	if after <= 0 {
		after = splitAfter
	}
	class := Classify(err)
	return took > after/2 && (class == Transient || class == Later)
}
