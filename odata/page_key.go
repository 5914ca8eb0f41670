package odata

import (
	"bytes"
	"context"

	"github.com/tablexport/tablexport/odata/evidence"
	"github.com/tablexport/tablexport/odata/filter"
)

// byKeys pages by "key ge <the last key>". Each row must come strictly after the one before; the first of
// an answer may be the last of the answer before (the seam row, which is dropped). What the server inserts, deletes or
// updates meanwhile moves no row across the seam, so every row that is there throughout is met once.
//
// The end is an answer with nothing but the seam row, or with nothing because that was deleted, and even
// then what lies behind is asked for once more: a server that sends one row at a time, by a limit of its
// own, would look the same.
func (p *pass) byKeys(ctx context.Context, top, limit int64) (evidence.End, error) {
	stuck, streams := 0, 0
	for {
		asked, err := p.from()
		if err != nil {
			return "", err
		}
		pg := &intake{seam: p.last, limit: limit, resumable: true}
		err = p.ask(ctx, p.url(p.params(asked, -1, top)), pg)
		if badRequest(err) && p.last != nil {
			p.scan.traits.learn(func(v *traitValues) { v.ge = no })
			return "", p.rescan("the server does not take ge on the key", p.scan.q.Paging == Auto, err)
		}
		if err != nil {
			return "", err
		}
		if pg.fresh > 0 || pg.cut {
			stuck = 0
			streams++
			continue
		}
		more, err := p.behind(ctx, asked, pg.seamSeen)
		if err != nil {
			return "", err
		}
		if !more {
			break
		}
		if stuck++; stuck == 3 {
			return "", p.shuffled("the server sends one row at a time, so that key paging cannot go on")
		}
	}
	end := evidence.EndSeam
	switch {
	case p.rows == 0:
		end = evidence.EndEmpty
	case p.paging == Stream && streams == 1:
		end = evidence.EndStream
	}
	if p.order == evidence.OrderObserved && p.rows > 0 {
		return p.total(ctx, end)
	}
	return end, nil
}

// from is the filter that begins with the last row.
func (p *pass) from() (string, error) {
	q := &p.scan.q
	if p.last == nil {
		return q.Filter.Render(), nil
	}
	behind, err := filter.KeyFrom(q.Table, q.Table.Key[0], p.lastText)
	if err != nil {
		return "", err
	}
	return filter.And(q.Filter, behind).Render(), nil
}

// behind asks whether there is another row than the last one among those asked for.
func (p *pass) behind(ctx context.Context, asked string, seam bool) (bool, error) {
	skip := int64(-1)
	if seam {
		skip = 1
	}
	keys, err := p.scan.asks.keys(ctx, asked, p.orderby, skip, 1)
	if err != nil {
		return false, err
	}
	for _, k := range keys {
		if !bytes.Equal(k, p.last) {
			return true, nil
		}
	}
	return false, nil
}

// total proves that there are no more rows than were seen. An order that was only seen, not promised,
// proves nothing of the rows that were not sent: with keys in ascending order, page by page, a server can
// still leave out rows in between.
func (p *pass) total(ctx context.Context, end evidence.End) (evidence.End, error) {
	s := p.scan
	var err error
	if s.ev.CountAfter, err = s.count(ctx); err != nil {
		return "", err
	}
	if before, after := s.ev.CountBefore, s.ev.CountAfter; before != nil && after != nil && *before == p.rows && *after == p.rows {
		return end, nil
	}
	rest, err := s.asks.keys(ctx, s.q.Filter.Render(), "", p.position(), 1)
	if err != nil {
		return "", err
	}
	if len(rest) > 0 {
		const reason = "the server has more rows than it showed in key order"
		s.traits.learn(func(v *traitValues) { v.shuffled = reason })
		return "", p.rescan(reason, true, nil)
	}
	return evidence.EndEmpty, nil
}
