package odata

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
)

// intake takes the rows of one answer. It holds them until the answer has ended properly, so that an
// answer that breaks off can be asked for again without any row being there twice; beyond limit rows
// (from a server that sends more than it was asked for, or in a stream) they are handed on as they come.
type intake struct {
	p         *pass
	ctx       context.Context // of the question
	seam      []byte          // identity of the last row before this answer, nil if there was none
	overlap   bool            // the first row must be the seam row
	limit     int64           // rows held at most
	link      bool            // asked for by a next link, whose text is the server's
	resumable bool            // what came before a cut can be used, since the pass can go on from any row

	hangup  func()      // ends the answer; nil behind its end
	stalled atomic.Bool // it was ended by us

	answer   answer
	cut      bool // ended by a failure, but what came can be used
	seamSeen bool
	rows     int64 // in the answer
	fresh    int64 // of these, accepted
	handed   bool  // some have left

	// Not yet part of the pass:
	held       []arrow.Record
	heldRows   int64
	heldBytes  int64
	digests    []digest
	bag        bag
	sequence   digest
	aside      []AsideRow
	asideBytes int
	outside    int64 // stand-ins that belong elsewhere
	accepted   int64
	duplicates int64
	last       []byte
	firstText  string
	lastText   string

	whole bag    // of the whole answer
	tail  []byte // canonical bytes of the last row of the record before
	key   []byte // scratch
}

// ask sends one question of the pass and takes its answer.
func (p *pass) ask(ctx context.Context, u *url.URL, pg *intake) error {
	pg.p, pg.ctx = p, ctx
	defer pg.drop()
	codings, came := p.scan.s.c.codings, transfer{}
	c := call{table: p.scan.q.Table.Name, url: u, want: wantJSON, link: pg.link, traffic: &p.scan.traffic, transfer: &came}
	c.other = codings.begin(&p.pace)
	c.start = pg.reset
	c.answered = func(hangup func()) { pg.hangup = hangup }
	c.read = func(r io.Reader) (err error) {
		defer func() { pg.hangup = nil }()
		pg.answer, err = p.dec.decode(r, p.position(), pg.take)
		return err
	}
	c.spent = func(cut bool) bool { return pg.handed || cut && pg.resumable && pg.fresh > 0 }
	err := p.scan.s.do(ctx, c)
	if err != nil || pg.handed || came.json < trialMeasure {
		came = transfer{}
	}
	if codings.note(&p.pace, came, c.other) {
		p.scan.s.c.log.Info("content coding", "plain", !came.packed, "bytes_per_second", int64(came.rate()))
	}
	var broken *bodyError
	switch {
	case err == nil:
		if err := pg.flush(); err != nil {
			return err
		}
		p.scan.ev.Pages++
		if pg.fresh > 0 {
			p.answers++
		}
		p.patience.reset()
	case errors.As(err, &broken) && broken.used && pg.resumable:
		if err := p.resume(ctx, pg, err); err != nil {
			return err
		}
	case errors.As(err, &broken) && broken.used:
		return p.rescan("the one answer broke off after rows had been handed on ("+broken.reason+"), and without an order it cannot be continued", true, err)
	default:
		return err
	}
	p.scan.progress(ctx)
	return nil
}

// resume uses what came before a cut, and waits before the pass goes on behind it.
func (p *pass) resume(ctx context.Context, pg *intake, cause error) error {
	if err := pg.flush(); err != nil {
		return err
	}
	pg.cut = true
	p.scan.ev.Pages++
	if pg.stalled.Load() {
		p.patience.reset()
		return nil // nothing is wrong with the server: the rows behind are asked for when there is room for them
	}
	p.scan.traffic.retries++
	if pg.fresh >= int64(p.scan.q.PageSize) {
		p.patience.reset()
	}
	err := p.patience.wait(ctx, cause)
	var long *tooLong
	if errors.As(err, &long) {
		c := call{table: p.scan.q.Table.Name, url: p.scan.asks.base}
		return p.scan.s.unavailable(&c, "its answers keep breaking off: "+shortCause(cause), 0, cause)
	}
	return err
}

// reset begins the answer anew.
func (pg *intake) reset() {
	pg.drop()
	pg.stalled.Store(false)
	pg.answer, pg.cut, pg.seamSeen, pg.rows, pg.fresh, pg.handed = answer{}, false, false, 0, 0, false
	pg.held, pg.heldRows, pg.heldBytes, pg.digests, pg.bag, pg.sequence = nil, 0, 0, nil, bag{}, pg.p.sequence
	pg.aside, pg.asideBytes, pg.outside, pg.accepted, pg.duplicates = nil, 0, 0, 0, 0
	pg.last, pg.firstText, pg.lastText, pg.whole, pg.tail = bytes.Clone(pg.seam), "", "", bag{}, nil
}

func (pg *intake) drop() {
	for _, rec := range pg.held {
		rec.Release()
	}
	pg.held = nil
}

// take sorts the rows of a record into those to keep and those that are known already.
func (pg *intake) take(rec arrow.Record) error {
	if err := pg.inspect(rec); err != nil {
		return err
	}
	keys := pg.p.enc.bind(rec)
	n := int(rec.NumRows())
	from := 0
	marks := pg.p.dec.marks // of the stand-ins in the record
	for row := range n {
		stands := len(marks) > 0 && marks[0].at == row
		if stands {
			marks = marks[1:]
		}
		pg.key = keys.append(pg.key[:0], row)
		keep, err := pg.admit(rec, row)
		if err != nil {
			return err
		}
		if !keep {
			pg.keep(rec, from, row)
			from = row + 1
			continue
		}
		if pg.p.position() == 0 && pg.accepted == 0 && pg.firstText == "" {
			pg.firstText = pg.text(keys, row)
		}
		pg.accepted++
		pg.fresh++
		pg.last = append(pg.last[:0:cap(pg.last)], pg.key...)
		if stands {
			pg.keep(rec, from, row)
			from = row + 1
			if err := pg.stood(rec, keys, row, pg.p.dec.marks[len(pg.p.dec.marks)-len(marks)-1]); err != nil {
				return err
			}
		}
	}
	pg.keep(rec, from, n)
	if n > 0 {
		pg.lastText = pg.text(keys, n-1)
		if pg.p.checked {
			pg.tail = appendRow(pg.tail[:0], rec, n-1)
		}
	}
	if !pg.p.hands {
		return nil
	}
	if pg.heldBytes += recordSize(rec); pg.heldRows > pg.limit || pg.heldBytes > pg.p.scan.q.mayHold() {
		return pg.flush()
	}
	return nil
}

// How many bytes of decoded rows are held back until their answer has ended: a page of 10,000 rows of sixty columns. Wider
// rows are handed on before that, as in a stream, so that memory is bounded in bytes too. A record is bounded likewise, by the JSON
// that it was made of. Where nothing is read ahead, memory is scarce.
const (
	maxHeld       = 20 << 20
	maxHeldScarce = 4 << 20
	recordScarce  = 1 << 20 // bytes of JSON
)

func (q *Query) scarce() bool { return q.Ahead < 0 }

// mayHold is how many bytes of decoded rows may be held back.
func (q *Query) mayHold() int64 {
	if q.scarce() {
		return maxHeldScarce
	}
	return maxHeld
}

// inspect shows a record to the query's Inspect as it came, before anything else is made of it: a row that nobody may
// see is not less foreign for standing out of order, or in an answer that breaks off behind it.
func (pg *intake) inspect(rec arrow.Record) error {
	inspect := pg.p.scan.q.Inspect
	if inspect == nil || !pg.p.hands {
		return nil
	}
	shown := pg.p.project(rec)
	defer shown.Release()
	if err := inspect(shown, pg.p.position()+pg.accepted+pg.duplicates); err != nil {
		return &inspectedError{err}
	}
	return nil
}

// inspectedError is what Query.Inspect said: final, whatever else is wrong with the answer.
type inspectedError struct{ err error }

func (e *inspectedError) Error() string { return e.err.Error() }
func (e *inspectedError) Unwrap() error { return e.err }

// text is the key of a row for the evidence; a view without a key has none.
func (pg *intake) text(keys boundKeys, row int) string {
	if len(pg.p.scan.q.Table.Key) == 0 {
		return ""
	}
	return keys.text(row)
}

// admit decides on the row whose identity is in pg.key.
func (pg *intake) admit(rec arrow.Record, row int) (keep bool, err error) {
	p := pg.p
	pg.rows++
	if pg.rows == 1 && pg.seam != nil {
		if bytes.Equal(pg.key, pg.seam) {
			pg.seamSeen = true
			return false, nil
		}
		if pg.overlap {
			return false, p.shifted()
		}
	}
	if !p.checked {
		d := p.scan.hash.digest(pg.key)
		if p.set != nil {
			pg.digests = append(pg.digests, d)
		}
		pg.bag.add(d)
		pg.whole.add(d)
		if len(p.scan.q.Table.Key) == 0 {
			pg.sequence = p.scan.hash.behind(pg.sequence, d)
		}
		return true, nil
	}
	if pg.last == nil {
		return true, nil
	}
	switch bytes.Compare(pg.key, pg.last) {
	case 1:
		return true, nil
	case -1:
		return false, p.shuffled("rows came out of key order")
	}
	if row > 0 {
		pg.tail = appendRow(pg.tail[:0], rec, row-1)
	}
	if pg.rows == 1 || !bytes.Equal(appendRow(nil, rec, row), pg.tail) {
		return false, p.rescan("two different rows came with one key: the column is not unique, or the row was changed while it was sent", true, nil)
	}
	pg.duplicates++
	return false, nil
}

// keep holds the rows from ≤ row < to of a record.
func (pg *intake) keep(rec arrow.Record, from, to int) {
	if from < to && pg.p.hands {
		pg.held = append(pg.held, rec.NewSlice(int64(from), int64(to)))
		pg.heldRows += int64(to - from)
	}
}

// flush makes what came so far part of the pass and hands it on.
func (pg *intake) flush() error {
	p := pg.p
	for _, d := range pg.digests {
		repeated, err := p.set.add(d)
		if err != nil {
			return err
		}
		if repeated && len(p.scan.q.Table.Key) > 0 {
			return p.repeated()
		}
	}
	p.bag.merge(pg.bag)
	p.sequence = pg.sequence
	if p.rows == 0 && pg.accepted > 0 {
		p.firstText = pg.firstText
	}
	p.rows += pg.accepted
	p.duplicates += pg.duplicates
	if pg.rows > 0 {
		p.lastText = pg.lastText
	}
	if pg.last != nil {
		p.last = append([]byte(nil), pg.last...)
	}
	pg.digests, pg.bag, pg.accepted, pg.duplicates = pg.digests[:0], bag{}, 0, 0
	pg.heldBytes = 0
	pg.putAside()
	for len(pg.held) > 0 {
		rec := pg.held[0]
		pg.held = pg.held[1:]
		pg.heldRows -= rec.NumRows()
		if err := pg.hand(rec); err != nil {
			return err
		}
	}
	return nil
}

// stallTime is how long an answer may wait for room for its rows. Servers end connections on which nobody reads, after a minute or more, and hold a license slot until
// then; so we end it first, and go on behind the last row when there is room.
const stallTime = 20 * time.Second

func (pg *intake) hand(rec arrow.Record) error {
	defer rec.Release()
	pg.handed = true
	if hangup := pg.hangup; hangup != nil && pg.resumable {
		stall := time.AfterFunc(stallTime, func() {
			pg.stalled.Store(true)
			hangup()
		})
		defer stall.Stop()
	}
	belongs := pg.p.scan.q.Belongs
	if belongs == nil {
		return pg.give(rec)
	}
	shown := pg.p.project(rec)
	defer shown.Release()
	from, rows := 0, int(rec.NumRows())
	for row := 0; row <= rows; row++ {
		if row < rows && belongs(shown, row) {
			continue
		}
		if from < row {
			if err := pg.givePart(rec, from, row); err != nil {
				return err
			}
		}
		if from = row + 1; row < rows {
			pg.p.scan.ev.Outside++
		}
	}
	return nil
}

// givePart hands on the rows from ≤ row < to of a record.
func (pg *intake) givePart(rec arrow.Record, from, to int) error {
	part := rec.NewSlice(int64(from), int64(to))
	defer part.Release()
	return pg.give(part)
}

// give hands on a record as it is.
func (pg *intake) give(rec arrow.Record) error {
	if s := pg.p.scan; s.q.Keys != nil {
		if err := s.q.Keys.add(s.keyed, pg.p.enc.bind(rec), rec.NumRows()); err != nil {
			return err
		}
	}
	out := pg.p.project(rec)
	defer out.Release()
	return pg.p.scan.out(pg.ctx, out)
}

// repeated says that a row came twice. Where rows have no order, that is a sign of paging that cannot be relied on.
func (p *pass) repeated() error {
	return p.rescan("a row came twice: the server's order changes between requests, or the table does", true, nil)
}

// shifted says that the row at the seam of two answers is not where it was. By an order that holds, the
// table has changed; without one, positions mean nothing here.
func (p *pass) shifted() error {
	const reason = "rows have moved between two requests"
	if !p.checked {
		p.scan.traits.learn(func(v *traitValues) { v.unsteadily = reason })
	}
	return p.rescan(reason, true, nil)
}
