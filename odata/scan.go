package odata

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"github.com/tablexport/tablexport/odata/evidence"
)

// Scan is one pass over one query. How it goes about it:
//
//	learn     what the server does with $orderby, ge and $count on this table, if nobody has asked before
//	count     $count before, where there is one
//	pages     key, offset or chain (page_*.go): rows are handed on, answer by answer
//	count     $count after
//	confirm   where no order could be relied on: a second, thin pass must see the same rows
//	judge     the evidence, by its own rules
//
// Whatever fails to be proven ends the scan with a *RescanError, and what was handed on must be thrown away.
// The client remembers what it has learned, so whoever starts another Scan of the same Query, as Retry says,
// may get another paging.
type Scan struct {
	s          *Session
	q          Query
	columns    []string // fetched: Select, then the key columns that it lacks
	schema     *arrow.Schema
	hash       hasher
	ranged     bool
	traffic    traffic
	asks       asks
	traits     *traits
	ev         evidence.Evidence
	handed     int64
	aside      []AsideRow // set aside so far, and the bytes of their texts
	asideBytes int
	relay      *relay
	keyed      uint32 // its number in Query.Keys, 0 without

	// The loop's:
	told  evidence.Evidence // what it may know
	taken int64             // rows that it had
}

func newScan(s *Session, q Query) (*Scan, error) {
	schema, err := ArrowSchema(q.Table, q.Select)
	if err != nil {
		return nil, err
	}
	if _, err := ArrowSchema(q.Table, q.fetched()); err != nil {
		return nil, err
	}
	return &Scan{s: s, q: q, columns: q.fetched(), schema: schema, hash: newHasher()}, nil
}

// Schema is the schema of the records: the columns of Query.Select.
func (s *Scan) Schema() *arrow.Schema { return s.schema }

// Evidence is complete once Records has ended without error. In the loop body it is what was known when the
// record was decoded.
func (s *Scan) Evidence() evidence.Evidence { return s.told }

// errStop is the loop body's break.
var errStop = errors.New("odata: the loop was left")

// Records pages through the query. A record is valid until the loop body returns (Retain to keep).
// The loop ends with one error or none, behind everything that was handed on; it can be ranged over once.
//
// Rows are held back until the answer that brought them has ended properly, one answer of PageSize rows at
// most; a stream is handed on as it comes. While the body works, the next page is fetched and decoded on
// another goroutine, which is ahead by Query.Ahead bytes of records beside the page that it holds back, and
// then waits. Only a stream keeps one of the client's request slots, and the connection, while it waits.
// Query.Progress is called from the loop's goroutine. Leaving the loop stops the other one and waits for it.
func (s *Scan) Records(ctx context.Context) iter.Seq2[arrow.Record, error] {
	return func(yield func(arrow.Record, error) bool) {
		if s.ranged {
			yield(nil, errors.New("odata: a scan can be ranged over once; start another"))
			return
		}
		s.ranged = true
		s.relay = newRelay(s.q.Ahead)
		if s.q.Keys != nil {
			s.keyed = s.q.Keys.begin()
		}
		ctx, cancel := context.WithCancelCause(ctx)
		go s.relay.produce(func() error { return s.run(ctx) }, func(stack []byte) {
			s.s.c.log.Error("a scan has panicked", "table", s.q.Table.Name, "stack", string(stack))
		})
		whole := false
		defer func() { // on every way out, a panic of the loop body included
			cancel(errStop)
			s.relay.drain()
			if !whole {
				s.left()
			}
			if !whole || s.relay.err != nil {
				s.Withdraw()
			}
		}()
		for {
			d, ok := s.relay.next()
			if !ok {
				break
			}
			if !s.deliver(d, yield) {
				return
			}
		}
		whole = true
		s.told = s.ev
		s.told.Rows = s.taken // the last record may have found no room
		s.relay.rethrow()
		if s.relay.err != nil {
			yield(nil, s.relay.err)
		}
	}
}

// deliver hands one delivery to the loop; false means that the loop was left.
func (s *Scan) deliver(d delivery, yield func(arrow.Record, error) bool) bool {
	defer s.relay.giveBack(d)
	s.told = d.evidence
	if d.rec == nil {
		s.q.Progress(d.progress)
		return true
	}
	s.taken += d.rec.NumRows()
	return yield(d.rec, nil)
}

// left is what the evidence says of a loop that was left: what it saw, and all that was asked for it.
func (s *Scan) left() {
	s.settle()
	s.told.Requests, s.told.Retries, s.told.Bytes, s.told.Ended = s.ev.Requests, s.ev.Retries, s.ev.Bytes, s.ev.Ended
	s.told.Rows = s.taken
}

// out hands a record on. It waits while the loop is too far behind.
func (s *Scan) out(ctx context.Context, rec arrow.Record) error {
	s.handed += rec.NumRows()
	s.settle()
	rec.Retain()
	return s.relay.push(ctx, delivery{rec: rec, evidence: s.ev})
}

func (s *Scan) run(ctx context.Context) error {
	s.ev = evidence.Evidence{
		Started: time.Now(), Attempts: s.q.Attempt, KeyColumns: slices.Clone(s.q.Table.Key), Order: evidence.OrderNone, DistinctKeys: -1,
	}
	defer s.settle()
	base, err := s.s.base(ctx)
	if err != nil {
		return err
	}
	s.traits = s.s.c.traitsOf(&s.q)
	s.asks = asks{s: s.s, q: &s.q, base: base, traffic: &s.traffic}
	if err := s.learn(ctx); err != nil {
		return err
	}
	if s.ev.CountBefore, err = s.count(ctx); err != nil {
		return err
	}
	first, err := s.pages(ctx)
	if first != nil {
		defer first.close()
	}
	if err != nil {
		return err
	}
	if s.ev.CountAfter == nil {
		if s.ev.CountAfter, err = s.count(ctx); err != nil {
			return err
		}
	}
	if s.ev.Order == evidence.OrderNone {
		if err := s.confirm(ctx, first); err != nil {
			return err
		}
	}
	s.settle()
	var incomplete *evidence.Incomplete
	if err := s.ev.Judge(); errors.As(err, &incomplete) {
		return s.rescan(first.paging, incomplete.Reason, true, err)
	} else if err != nil {
		return err
	}
	return nil
}

// learn asks what the pagings that are in question depend on.
func (s *Scan) learn(ctx context.Context) error {
	if s.q.Paging == NextLink || len(s.q.Table.Key) == 0 || s.traits.snapshot().shuffled != "" {
		return nil
	}
	if err := s.asks.learnOrder(ctx, s.traits); err != nil {
		return err
	}
	if s.q.Paging == Offset {
		return nil
	}
	return s.asks.learnGe(ctx, s.traits)
}

func (s *Scan) count(ctx context.Context) (*int64, error) {
	n, ok, err := s.s.count(ctx, &s.q, s.asks.base, s.traits, &s.traffic)
	if err != nil || !ok {
		return nil, err
	}
	return &n, nil
}

// pages makes the first pass. While nothing has been handed on, a paging that turns out not to work for
// the table is given up for the next one.
func (s *Scan) pages(ctx context.Context) (*pass, error) {
	for {
		paging, why := s.s.Choose(s.q)
		s.s.c.log.Info("scan", "table", s.q.Table.Name, "paging", string(paging), "why", why)
		p, err := s.newPass(paging, s.columns, true)
		if err != nil {
			return nil, err
		}
		s.ev.Passes++
		s.aside, s.asideBytes, s.ev.Quarantined, s.ev.Outside = nil, 0, 0, 0
		s.ev.Paging, s.ev.Order = string(paging), p.order
		end, err := p.run(ctx)
		if err == nil {
			s.ev.End, s.ev.Duplicates = end, p.duplicates
			s.ev.FirstKey, s.ev.LastKey = p.firstText, p.lastText
			s.ev.DistinctKeys, err = p.distinctKeys()
			return p, err
		}
		p.close()
		var again *RescanError
		if next, _ := s.s.Choose(s.q); errors.As(err, &again) && again.Retry && s.handed == 0 && next != paging {
			continue
		}
		return nil, err
	}
}

// confirm passes again, over the keys alone or over all of a view, and compares what it sees.
func (s *Scan) confirm(ctx context.Context, first *pass) error {
	columns := s.q.Table.Key
	if len(columns) == 0 {
		columns = s.columns
	}
	times, sequence, err := s.doubts(first)
	if err != nil {
		return err
	}
	for range times {
		p, err := s.newPass(first.paging, columns, false)
		if err != nil {
			return err
		}
		s.ev.Passes++
		_, err = p.run(ctx)
		p.close()
		if err != nil {
			return err
		}
		if p.bag != first.bag {
			return s.rescan(first.paging, fmt.Sprintf("two passes did not see the same rows (%d and %d): the table changes, or the server loses or repeats rows", first.bag.n, p.bag.n), true, nil)
		}
		if sequence && p.sequence != first.sequence {
			return s.rescan(first.paging, "two passes saw equal rows of a view without a key in different orders and in several answers, so that a row that came twice may stand for one that did not come", true, nil)
		}
	}
	s.ev.Confirmed = true
	return nil
}

// doubts says how often to confirm, and whether the rows must come in the same sequence.
//
// Once is enough where rows can be told apart: as many different rows as the table has are all of them.
// Equal rows of a view without a key cannot: if they come in several answers in changing order, one that was
// repeated and one that was left out may cancel out, in both passes. So then the order must be the same,
// and for a few rows, which fall into the same order by chance, more than once.
func (s *Scan) doubts(first *pass) (times int, sequence bool, err error) {
	if len(s.q.Table.Key) > 0 || first.answers <= 1 {
		return 1, false, nil
	}
	different, err := first.set.count()
	if err != nil || different == first.rows {
		return 1, false, err
	}
	if first.rows < 12 {
		return 6, true, nil
	}
	return 1, true, nil
}

// settle brings the counters of the evidence up to date.
func (s *Scan) settle() {
	s.ev.Requests, s.ev.Retries, s.ev.Bytes = s.traffic.requests, s.traffic.retries, s.traffic.bytes
	s.ev.Rows = s.handed
	s.ev.Ended = time.Now()
}

// progress leaves word for the loop. If there is no room until the end of ctx, the next request notices that, too.
func (s *Scan) progress(ctx context.Context) {
	if s.q.Progress == nil {
		return
	}
	p := Progress{Rows: s.handed, Pages: s.ev.Pages, Requests: s.traffic.requests, Bytes: s.traffic.bytes, Expected: -1}
	if s.ev.CountBefore != nil {
		p.Expected = *s.ev.CountBefore
	}
	s.settle()
	_ = s.relay.push(ctx, delivery{progress: p, evidence: s.ev})
}

func (s *Scan) rescan(paging Paging, reason string, retry bool, err error) error {
	return &RescanError{Table: s.q.Table.Name, Paging: paging, Reason: reason, Retry: retry, Err: err}
}

// pass is one way through all the rows: the first, whose rows are handed on, or a confirming one.
type pass struct {
	scan    *Scan
	paging  Paging
	columns []string
	dec     *decoder
	enc     *keyEncoder
	hands   bool // the rows on; not in a confirming pass

	order   evidence.Order
	orderby string    // sent with every request, "" if not taken
	checked bool      // every row must come after the one before it, by its key
	set     *distinct // finds repeated keys, or rows of a view; nil where checked does, and in a confirming pass

	rows       int64  // accepted
	duplicates int64  // dropped
	answers    int64  // that brought rows
	bag        bag    // of the keys, or of whole rows in a view; not kept where checked
	sequence   digest // of the rows of a view in their order
	last       []byte
	firstText  string
	lastText   string
	patience   *patience
	pace       pace
}

func (s *Scan) newPass(paging Paging, columns []string, hands bool) (*pass, error) {
	dec, err := newDecoder(s.q.Table, columns, s.q.Batch, s.q.Memory)
	if err != nil {
		return nil, err
	}
	if s.q.Aside != nil && len(columns) == len(s.columns) {
		dec.setAside(s.q.Aside, s.q.Table.Key)
	}
	if s.q.scarce() {
		dec.limits.record = recordScarce
	}
	identity := s.q.Table.Key
	if len(identity) == 0 {
		identity = columns
	}
	p := &pass{
		scan: s, paging: paging, columns: columns, dec: dec, hands: hands, order: evidence.OrderNone,
		enc: newKeyEncoder(s.q.Table, columns, identity), patience: newPatience(s.s.c.opts.Retry),
	}
	t := s.traits.snapshot()
	takes := len(s.q.Table.Key) > 0 && t.order != no && t.honoured != no && t.shuffled == ""
	switch {
	case paging == Key:
		p.checked, p.order = true, evidence.OrderObserved
		if takes && t.honoured == yes {
			p.order = evidence.OrderRequested
		}
	case paging == Offset, paging == Stream && p.byKey(t):
		if takes && t.honoured == yes {
			p.checked, p.order = true, evidence.OrderRequested
		}
	default:
		takes = false
	}
	if takes {
		p.orderby = orderBy(s.q.Table.Key, "")
	}
	if !p.checked && p.hands {
		p.set = newDistinct(distinctInMemory)
	}
	return p, nil
}

// byKey reports whether a stream can be continued by key where it is cut.
func (p *pass) byKey(t traitValues) bool {
	column, _ := pageableKey(p.scan.q.Table)
	return column != nil && t.ge != no && t.honoured == yes && t.shuffled == ""
}

func (p *pass) run(ctx context.Context) (evidence.End, error) {
	q := &p.scan.q
	switch p.paging {
	case Key:
		return p.byKeys(ctx, int64(q.PageSize), int64(q.PageSize))
	case Offset:
		return p.byOffset(ctx, int64(q.PageSize))
	case Stream:
		if p.checked {
			return p.byKeys(ctx, everything, 0)
		}
		return p.byChain(ctx, everything, 0)
	}
	return p.byChain(ctx, int64(q.PageSize), int64(q.PageSize))
}

func (p *pass) distinctKeys() (int64, error) {
	switch {
	case len(p.scan.q.Table.Key) == 0:
		return -1, nil
	case p.set != nil:
		return p.set.count()
	}
	return p.rows, nil
}

func (p *pass) close() {
	if p.set != nil {
		p.set.close()
	}
}

// position is how many rows the server has sent that are now behind us.
func (p *pass) position() int64 { return p.rows + p.duplicates }

func (p *pass) params(filter string, skip, top int64) params {
	return params{columns: p.columns, filter: filter, orderby: p.orderby, skip: skip, top: top}
}

func (p *pass) url(q params) *url.URL { return tableURL(p.scan.asks.base, p.scan.q.Table.Name, q) }

func (p *pass) rescan(reason string, retry bool, err error) error {
	return p.scan.rescan(p.paging, reason, retry, err)
}

// shuffled remembers that the key order does not hold, or cannot be followed, and ends the scan. A new
// one takes another paging, unless this one was configured.
func (p *pass) shuffled(reason string) error {
	p.scan.traits.learn(func(v *traitValues) { v.shuffled = reason })
	return p.rescan(reason, p.scan.q.Paging == Auto, nil)
}

// project leaves the selected columns, which are the first ones.
func (p *pass) project(rec arrow.Record) arrow.Record {
	return array.NewRecord(p.scan.schema, rec.Columns()[:len(p.scan.q.Select)], rec.NumRows())
}
