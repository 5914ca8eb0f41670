package odata

import (
	"context"

	"github.com/tablexport/tablexport/odata/evidence"
)

// byOffset pages by $skip. Each answer begins with the last row of the one before, so that rows that
// move between two requests are noticed: by an order that holds, what comes behind that row is the rest,
// whatever was inserted or deleted before it. The step is what was received, never what was asked for.
func (p *pass) byOffset(ctx context.Context, top int64) (evidence.End, error) {
	filter := p.scan.q.Filter.Render()
	for stuck := 0; ; {
		pg := &intake{seam: p.last, overlap: p.last != nil, limit: top, resumable: p.checked}
		if err := p.ask(ctx, p.url(p.params(filter, p.position()-1, top)), pg); err != nil {
			return "", err
		}
		if pg.fresh > 0 || pg.cut {
			stuck = 0
			continue
		}
		if p.last != nil && !pg.seamSeen {
			return "", p.shifted()
		}
		rest, err := p.scan.asks.keys(ctx, filter, p.orderby, p.position(), 1)
		if err != nil {
			return "", err
		}
		if len(rest) == 0 {
			return evidence.EndEmpty, nil
		}
		if stuck++; stuck == 3 {
			return "", p.rescan("the server sends one row at a time, or does not keep to $skip, so that offset paging cannot go on", true, nil)
		}
	}
}
