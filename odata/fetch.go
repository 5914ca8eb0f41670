package odata

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/evidence"
	"github.com/tablexport/tablexport/odata/filter"
)

// addressBytes is how long an address may be at first, its query percent-encoded: IIS, Kestrel and nginx take request lines of 8 KiB
// unless they are told otherwise. A server that refuses that is asked in shorter ones, and the client remembers.
const addressBytes = 8000

// Fetch asks for the rows of given keys: "<key> in (…)" beside the query's own filter, as many keys at once as fit into an address, or one
// at a time where the server takes no `in` on the key ("eq", or "ge … and le …"). A key of several columns is asked for as
// "A in (…) and B in (…)"; what answers to that and was not asked for is dropped.
//
// Every key that was asked for is answered, or known to be gone: two answers in a row did not have it. A row that
// does not fulfil the query's filter any more is gone in this sense. A server that cuts its answers is asked for the rest.
type Fetch struct {
	s       *Session
	q       Query
	keys    *Keys
	dec     *decoder
	schema  *arrow.Schema
	base    *url.URL
	limit   int         // bytes of an address
	ways    []filter.Op // how each key column is asked for: In, Eq, Ge (and Le), or 0 = not at all
	one     bool        // key at a time: a key column takes no in
	traffic traffic
	ev      evidence.Fetch
	ranged  bool
}

// Fetch begins to ask for rows by their keys. Of q it uses Table, Select, Filter, Batch, Memory and Inspect.
func (s *Session) Fetch(q Query) (*Fetch, error) {
	if err := s.complete(&q); err != nil {
		return nil, err
	}
	if len(q.Table.Key) == 0 {
		return nil, fmt.Errorf("odata: table %s is a view without a key, so rows cannot be asked for by key", q.Table.Name)
	}
	f := &Fetch{s: s, q: q, ways: make([]filter.Op, len(q.Table.Key))}
	asked := false
	for i, name := range q.Table.Key {
		switch c, _ := q.Table.Column(name); {
		case !c.OpsKnown || c.Ops.Has(edm.OpIn):
			f.ways[i] = filter.In
		case c.Ops.Has(edm.OpEq), c.Ops.Has(edm.OpRange):
			f.ways[i], f.one = filter.Eq, true
			if !c.Ops.Has(edm.OpEq) {
				f.ways[i] = filter.Ge
			}
		default:
			continue
		}
		asked = true
	}
	if !asked {
		return nil, fmt.Errorf("odata: table %s: the server takes no filter on its key, so rows cannot be asked for by key", q.Table.Name)
	}
	return f, f.complete()
}

func (f *Fetch) complete() (err error) {
	if f.schema, err = ArrowSchema(f.q.Table, f.q.Select); err != nil {
		return err
	}
	if f.keys, err = NewKeys(f.q.Table, f.q.fetched()); err != nil {
		return err
	}
	f.dec, err = newDecoder(f.q.Table, f.q.fetched(), f.q.Batch, f.q.Memory)
	return err
}

// Evidence is complete once Records has ended without error.
func (f *Fetch) Evidence() evidence.Fetch {
	ev := f.ev
	ev.Requests, ev.Retries, ev.Bytes = f.traffic.requests, f.traffic.retries, f.traffic.bytes
	return ev
}

// Records asks for the keys, which are in the form of [Keys] and must not repeat, and hands on the rows, those of one answer at a time.
// gone is called with each key that has no row any more. A record is valid until the loop body returns. The loop ends with one error or
// none; it can be ranged over once.
func (f *Fetch) Records(ctx context.Context, keys iter.Seq2[[]byte, error], gone func(key []byte) error) iter.Seq2[arrow.Record, error] {
	return func(yield func(arrow.Record, error) bool) {
		err := f.run(ctx, keys, gone, func(rec arrow.Record) bool { return yield(rec, nil) })
		if err != nil && err != errStop { //nolint:errorlint // it is never wrapped
			yield(nil, err)
		}
	}
}

func (f *Fetch) run(ctx context.Context, keys iter.Seq2[[]byte, error], gone func([]byte) error, hand func(arrow.Record) bool) (err error) {
	if f.ranged {
		return errors.New("odata: a fetch can be ranged over once; start another")
	}
	f.ranged = true
	f.ev.Started = time.Now()
	defer func() { f.ev.Ended = time.Now() }()
	if f.base, err = f.s.base(ctx); err != nil {
		return err
	}
	if f.limit = int(f.s.c.addressBytes.Load()); f.limit == 0 {
		f.limit = addressBytes
	}
	c := chunk{f: f, gone: gone, hand: hand}
	size := 0
	for key, err := range keys {
		if err != nil {
			return err
		}
		texts, cost, err := f.keys.texts(key)
		if err != nil {
			return err
		}
		if len(c.keys) > 0 && (f.one || f.fixed()+size+cost > f.limit) {
			if err := c.settle(ctx); err != nil {
				return err
			}
			c.keys, c.texts, size = nil, nil, 0
		}
		c.keys, c.texts = append(c.keys, string(key)), append(c.texts, texts)
		size += cost
	}
	if len(c.keys) == 0 {
		return nil
	}
	return c.settle(ctx)
}

// fixed is the length of an address beside its keys.
func (f *Fetch) fixed() int {
	n := len(f.url(f.q.Filter).String())
	for _, name := range f.q.Table.Key {
		n += len("%20and%20%20in%20%28%29") + len(name)
	}
	return n
}

func (f *Fetch) url(where filter.Bound) *url.URL {
	return tableURL(f.base, f.q.Table.Name, params{columns: f.q.fetched(), filter: where.Render(), skip: -1, top: -1})
}

// chunk is the keys of one question.
type chunk struct {
	f      *Fetch
	keys   []string
	texts  [][]string // of each key, column by column
	length int        // of the last address
	gone   func([]byte) error
	hand   func(arrow.Record) bool
}

// settle asks until every key is answered or known to be gone. A chunk that is too much for the server, or for us, is halved.
func (c *chunk) settle(ctx context.Context) error {
	c.f.ev.Asked += int64(len(c.keys))
	for round := 1; len(c.keys) > 0; round++ {
		got, err := c.ask(ctx)
		if len(c.keys) > 1 && (addressRefused(err) || errors.Is(err, errWide)) {
			if addressRefused(err) { // shorter addresses from here on
				c.f.limit = min(c.f.limit, c.length/2)
			}
			return c.halves(ctx)
		}
		if err != nil {
			return err
		}
		if c.f.limit < addressBytes {
			c.f.s.c.addressBytes.Store(int64(c.f.limit)) // what was taken
		}
		rows := got.rows
		if err := c.take(got); err != nil {
			return err
		}
		if rows == 0 && round > 1 {
			break
		}
	}
	for _, key := range c.keys {
		c.f.ev.Missing++
		if err := c.gone([]byte(key)); err != nil {
			return err
		}
	}
	return nil
}

func (c *chunk) halves(ctx context.Context) error {
	c.f.ev.Asked -= int64(len(c.keys)) // it counts in its halves
	mid := len(c.keys) / 2
	for _, half := range []chunk{{keys: c.keys[:mid], texts: c.texts[:mid]}, {keys: c.keys[mid:], texts: c.texts[mid:]}} {
		half.f, half.gone, half.hand = c.f, c.gone, c.hand
		if err := half.settle(ctx); err != nil {
			return err
		}
	}
	return nil
}

// addressRefused: what servers say to an address that is too long: 414 by the standard, 431 and 413 from some, 400 and 404 from IIS.
func addressRefused(err error) bool {
	var status *StatusError
	return errors.As(err, &status) && slices.Contains([]int{http.StatusRequestURITooLong, http.StatusBadRequest, http.StatusNotFound,
		http.StatusRequestHeaderFieldsTooLarge, http.StatusRequestEntityTooLarge}, status.Status)
}

// errWide says that the rows of an answer are too many bytes to be held until it has ended.
var errWide = errors.New("odata: the rows are too wide to be asked for together")

// found is one answer.
type found struct {
	held  []arrow.Record
	bytes int64
	rows  int64 // that were asked for
	seen  map[string]bool
}

func (g *found) drop() {
	for _, rec := range g.held {
		rec.Release()
	}
	*g = found{seen: map[string]bool{}}
}

// take hands the rows on and leaves the keys that have not been answered.
func (c *chunk) take(got *found) error {
	defer got.drop()
	c.f.ev.Found += got.rows
	for _, rec := range got.held {
		if !c.hand(rec) {
			return errStop
		}
	}
	keys, texts := c.keys[:0:0], c.texts[:0:0]
	for i, key := range c.keys {
		if !got.seen[key] {
			keys, texts = append(keys, key), append(texts, c.texts[i])
		}
	}
	c.keys, c.texts = keys, texts
	return nil
}

// ask sends one question.
func (c *chunk) ask(ctx context.Context) (*found, error) {
	f := c.f
	where, parts, err := c.where()
	if err != nil {
		return nil, err
	}
	asked := make(map[string]bool, len(c.keys))
	for _, key := range c.keys {
		asked[key] = true
	}
	got := &found{seen: map[string]bool{}}
	q := call{table: f.q.Table.Name, url: f.url(where), want: wantJSON, traffic: &f.traffic}
	c.length = len(q.url.String())
	q.start = got.drop
	q.read = func(r io.Reader) error {
		_, err := f.dec.decode(r, f.ev.Found, func(rec arrow.Record) error { return f.sort(rec, asked, parts, got, &q) })
		return err
	}
	if err := f.s.do(ctx, q); err != nil {
		got.drop()
		return nil, err
	}
	return got, nil
}

// where is the filter, and the values that each key column is asked for; nil where it is not.
func (c *chunk) where() (filter.Bound, []map[string]bool, error) {
	f := c.f
	where := f.q.Filter
	parts := make([]map[string]bool, len(f.q.Table.Key))
	for i, name := range f.q.Table.Key {
		if f.ways[i] == 0 {
			continue
		}
		var values []string
		parts[i] = map[string]bool{}
		for _, texts := range c.texts {
			if !parts[i][texts[i]] {
				parts[i][texts[i]], values = true, append(values, texts[i])
			}
		}
		var is filter.Bound
		var err error
		if f.ways[i] == filter.Ge {
			is, err = filter.KeyRange(f.q.Table, name, values[0], values[0])
		} else {
			is, err = filter.KeyIn(f.q.Table, name, values)
		}
		if err != nil {
			return where, nil, fmt.Errorf("odata: table %s: %w", f.q.Table.Name, err)
		}
		where = filter.And(where, is)
	}
	return where, parts, nil
}

// sort keeps the rows of a record that were asked for.
func (f *Fetch) sort(rec arrow.Record, asked map[string]bool, parts []map[string]bool, got *found, q *call) error {
	shown := array.NewRecord(f.schema, rec.Columns()[:len(f.q.Select)], rec.NumRows())
	defer shown.Release()
	if f.q.Inspect != nil {
		if err := f.q.Inspect(shown, f.ev.Found+got.rows); err != nil {
			return &inspectedError{err}
		}
	}
	keys := f.keys.Of(rec)
	from, n := 0, int(rec.NumRows())
	keep := func(to int) {
		if from < to {
			got.held = append(got.held, shown.NewSlice(int64(from), int64(to)))
			got.rows += int64(to - from)
		}
	}
	for row := range n {
		key := string(keys(nil, row))
		switch {
		case asked[key] && got.seen[key]:
			return &ProtocolError{Asked: f.s.asked(q), Reason: "a question for rows by their keys was answered with one key twice"}
		case asked[key]:
			got.seen[key] = true
			continue
		}
		texts, _, err := f.keys.texts([]byte(key))
		if err != nil {
			return err
		}
		outside := len(parts) == 1 // else it may be a mixture of keys that were asked for
		for i, values := range parts {
			outside = outside || values != nil && !values[texts[i]]
		}
		if outside {
			return &ProtocolError{Asked: f.s.asked(q), Reason: "a question for rows by their keys was answered with a row that was not asked for"}
		}
		keep(row)
		from = row + 1
	}
	keep(n)
	if got.bytes += recordSize(rec); got.bytes > maxHeld && len(asked) > 1 {
		return errWide
	}
	return nil
}

// Keys writes the keys of records as bytes: equal keys as equal bytes, and, unless a text or a float is among them, bytes that compare
// as SQL Server compares the keys. The records may come from the server or from a dataset: only the columns' types matter.
type Keys struct {
	enc   *keyEncoder
	kinds []edm.Kind
}

// NewKeys writes the keys of records whose columns are as listed; all key columns must be among them.
func NewKeys(table *edm.Table, columns []string) (*Keys, error) {
	k := &Keys{}
	if len(table.Key) == 0 {
		return nil, errKeyless
	}
	for _, name := range table.Key {
		c, ok := table.Column(name)
		if !ok || !slices.Contains(columns, name) {
			return nil, fmt.Errorf("odata: table %s: the key column %s is not among the columns", table.Name, name)
		}
		k.kinds = append(k.kinds, c.Type.Kind)
	}
	k.enc = newKeyEncoder(table, columns, table.Key)
	return k, nil
}

// Of gives what appends the key of a row of rec.
func (k *Keys) Of(rec arrow.Record) func(dst []byte, row int) []byte { return k.enc.bind(rec).append }

// AppendValue appends the bytes of any value, equal values as equal bytes: for comparing row versions.
func AppendValue(dst []byte, col arrow.Array, row int) []byte { return appendCell(dst, col, row) }

// texts are a key's values as filters write them, and how many bytes they take in an address at most.
func (k *Keys) texts(key []byte) (texts []string, cost int, err error) {
	rest := key
	for _, kind := range k.kinds {
		var text string
		if text, rest, err = decodeCell(kind, rest); err != nil {
			return nil, 0, err
		}
		var b strings.Builder
		escape(&b, strings.ReplaceAll(text, "'", "''"))
		texts, cost = append(texts, text), cost+b.Len()+len("%2C")
		if kind == edm.String || kind == edm.MultiLanguage || kind == edm.Binary {
			cost += len("%27%27")
		}
	}
	if len(rest) > 0 {
		return nil, 0, errKeyBytes
	}
	return texts, cost, nil
}
