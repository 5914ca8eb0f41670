package odata

import (
	"context"

	"github.com/tablexport/tablexport/odata/evidence"
)

// byChain takes answers as the server cuts them: it follows next links until there is none, and then asks for
// what lies behind the rows received, since $top may have been taken for a total, and an answer may have
// been cut in silence. It ends when there is nothing behind. No order is relied on: repeated keys are
// found as they come, and a second pass must see the same rows.
func (p *pass) byChain(ctx context.Context, top, limit int64) (evidence.End, error) {
	s := p.scan
	filter := s.q.Filter.Render()
	next := p.url(p.params(filter, -1, top))
	followed := map[digest]bool{s.hash.digest([]byte(next.String())): true}
	var first bag
	barren, behind, linked := 0, false, false
	for {
		pg := &intake{limit: limit, link: linked}
		if err := p.ask(ctx, next, pg); err != nil {
			return "", err
		}
		if behind && pg.rows > 1 && pg.whole == first {
			return "", p.rescan("the server sends the first rows again when it is asked for those behind: it does not keep to $skip", false, nil)
		}
		if first.n == 0 {
			first = pg.whole
		}
		if link := pg.answer.nextLink; link != "" {
			u, why := followable(link, next, s.asks.base)
			if why == "" && followed[s.hash.digest([]byte(u.String()))] {
				why = "its next links go in a circle"
			}
			if barren++; pg.fresh > 0 {
				barren = 0
			}
			if why == "" && barren == 3 {
				why = "its next links lead from one empty answer to another"
			}
			if why != "" {
				c := call{table: s.q.Table.Name, url: next, link: linked}
				return "", &ProtocolError{Asked: s.s.asked(&c), Reason: "the server cannot be followed: " + why}
			}
			followed[s.hash.digest([]byte(u.String()))] = true
			next, behind, linked = u, false, true
			continue
		}
		if behind && pg.fresh == 0 {
			break
		}
		next, behind, linked = p.url(p.params(filter, p.position(), top)), true, false
	}
	if p.paging == Stream {
		return evidence.EndStream, nil
	}
	return evidence.EndNextLink, nil
}
