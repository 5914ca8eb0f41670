package odata

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/tablexport/tablexport/odata/edm"
)

// answer3 is yes, no, or not known yet.
type answer3 uint8

const (
	unknown answer3 = iota
	yes
	no
)

// traits are what a server was found to do with one table, under filters of one shape. Each is asked once
// per client and remembered, since none of them is documented.
type traits struct {
	mu sync.Mutex
	traitValues
}

type traitValues struct {
	order      answer3 // takes $orderby on the key
	honoured   answer3 // … and sorts by it: descending rows came when they were asked for
	ge         answer3 // takes ge on the key
	count      countWay
	shuffled   string // why the key order cannot be relied on, "" while it can
	unsteadily string // why rows cannot be found again by their position, "" while they can
}

// countWay is the way to a $count.
type countWay uint8

const (
	countUnknown countWay = iota
	countNone
	countPath   // <table>/$count
	countInline // $count=true
)

func (c *Client) traitsOf(q *Query) *traits {
	c.mu.Lock()
	defer c.mu.Unlock()
	shape := q.shape()
	t := c.traits[shape]
	if t == nil {
		t = new(traits)
		c.traits[shape] = t
	}
	return t
}

func (t *traits) snapshot() traitValues {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.traitValues
}

func (t *traits) learn(set func(*traitValues)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	set(&t.traitValues)
}

// Choose says which paging a scan of q would take, and why. It changes with what scans learn. This is
// the whole rule:
//
//	asked for in the query                     as asked
//	a view without a key                       stream, and a second whole pass must agree
//	rows were seen out of key order, or come
//	  one at a time                            stream, and a second pass over the keys must agree
//	one key column: GUID, integer or date,
//	  which takes ge                           key
//	another key, $orderby taken or untried,
//	  rows stay at their positions             offset
//	otherwise                                  stream, and a second pass over the keys must agree
func (s *Session) Choose(q Query) (Paging, string) {
	if q.Paging != "" && q.Paging != Auto {
		return q.Paging, "as configured"
	}
	t := s.c.traitsOf(&q).snapshot()
	if len(q.Table.Key) == 0 {
		return Stream, "the view has no key; two passes over all of it must agree"
	}
	if t.shuffled != "" {
		return Stream, t.shuffled + "; a second pass over the keys must agree"
	}
	column, why := pageableKey(q.Table)
	if column != nil && t.ge != no {
		return Key, "the key " + column.Name + " takes ge and its order can be checked row by row"
	}
	if column != nil {
		why = "the server takes no ge on the key"
	}
	switch {
	case t.order == no:
		return Stream, why + ", and the server takes no $orderby; a second pass over the keys must agree"
	case t.unsteadily != "":
		return Stream, why + ", and " + t.unsteadily + "; a second pass over the keys must agree"
	}
	return Offset, why + "; $orderby gives the rows their positions"
}

// asks is what probes need of a scan.
type asks struct {
	s       *Session
	q       *Query
	base    *url.URL
	traffic *traffic
}

// keys reads the key columns of a few rows.
func (a asks) keys(ctx context.Context, filter, orderby string, skip, top int64) (keys [][]byte, err error) {
	columns := a.q.Table.Key
	if len(columns) == 0 {
		columns = a.q.Select[:1]
	}
	dec, err := newDecoder(a.q.Table, columns, int(top), a.q.Memory)
	if err != nil {
		return nil, err
	}
	enc := newKeyEncoder(a.q.Table, columns, columns)
	c := call{table: a.q.Table.Name, want: wantJSON, traffic: a.traffic}
	c.url = tableURL(a.base, a.q.Table.Name, params{columns: columns, filter: filter, orderby: orderby, skip: skip, top: top})
	c.read = func(r io.Reader) error {
		keys = keys[:0]
		_, err := dec.decode(r, 0, func(rec arrow.Record) error {
			cols := enc.bind(rec)
			for row := range int(rec.NumRows()) {
				if len(keys) < int(top) { // whoever sends more ignores $top
					keys = append(keys, cols.append(nil, row))
				}
			}
			return nil
		})
		return err
	}
	return keys, a.s.do(ctx, c)
}

// learnOrder finds out whether the server takes $orderby on the key, and whether it keeps to it. Taking
// it proves nothing: a server that ignores $orderby may well send rows in key order by chance, page by
// page, and leave out those that come elsewhere. So the order is asked for backwards, once.
func (a asks) learnOrder(ctx context.Context, t *traits) error {
	if t.snapshot().order != unknown || len(a.q.Table.Key) == 0 {
		return nil
	}
	const sample = 8
	filter, key := a.q.Filter.Render(), a.q.Table.Key
	backwards, err := a.keys(ctx, filter, orderBy(key, " desc"), -1, sample)
	if err == nil {
		t.learn(func(v *traitValues) {
			v.order = yes
			if len(backwards) > 1 && newKeyEncoder(a.q.Table, key, key).ordered {
				v.honoured = no
				if descending(backwards) {
					v.honoured = yes
				}
			} else if len(backwards) <= 1 {
				v.order = unknown // too few rows to tell; asked again next time
			}
		})
		return nil
	}
	if !badRequest(err) {
		return err
	}
	taken := yes
	if _, err = a.keys(ctx, filter, orderBy(key, ""), -1, 1); badRequest(err) {
		taken = no
		_, err = a.keys(ctx, filter, "", -1, 1) // refused because of $orderby, or because of the filter?
	}
	if err != nil {
		return err
	}
	t.learn(func(v *traitValues) { v.order = taken })
	return nil
}

func descending(keys [][]byte) bool {
	for i := 1; i < len(keys); i++ {
		if bytes.Compare(keys[i-1], keys[i]) <= 0 {
			return false
		}
	}
	return true
}

// learnGe finds out whether the key takes ge where no documentation says so, with the lowest value there is.
func (a asks) learnGe(ctx context.Context, t *traits) error {
	column, _ := pageableKey(a.q.Table)
	if column == nil || column.OpsKnown || t.snapshot().ge != unknown {
		return nil
	}
	lowest := map[edm.Kind]string{
		edm.Guid: "00000000-0000-0000-0000-000000000000", edm.Byte: "0", edm.Int16: "-32768", edm.Int32: "-2147483648",
		edm.Int64: "-9223372036854775807", edm.Date: "0001-01-01T00:00:00Z",
	}[column.Type.Kind]
	_, err := a.keys(ctx, and(a.q.Filter.Render(), column.Name+" ge "+lowest), "", -1, 1)
	if err != nil && !badRequest(err) {
		return err
	}
	t.learn(func(v *traitValues) {
		v.ge = yes
		if err != nil {
			v.ge = no
		}
	})
	return nil
}

func badRequest(err error) bool {
	var status *StatusError
	return errors.As(err, &status) && status.Status == http.StatusBadRequest
}

// count asks for $count in the way that works for the table, and finds out which that is.
func (s *Session) count(ctx context.Context, q *Query, base *url.URL, t *traits, tr *traffic) (n int64, ok bool, err error) {
	switch t.snapshot().count {
	case countNone:
		return 0, false, nil
	case countPath:
		n, err = s.countPath(ctx, q, base, 0, tr)
		return n, err == nil, err
	case countInline:
		n, err = s.countInline(ctx, q, base, 0, tr)
		return n, err == nil && n >= 0, err
	}
	// Few tries: some servers answer 500 to what they do not know.
	remember := true
	for _, way := range []struct {
		way countWay
		ask func(context.Context, *Query, *url.URL, int, *traffic) (int64, error)
	}{{countPath, s.countPath}, {countInline, s.countInline}} {
		n, err = way.ask(ctx, q, base, 2, tr)
		var status *StatusError
		switch {
		case err == nil && n >= 0:
			t.learn(func(v *traitValues) { v.count = way.way })
			return n, true, nil
		case err == nil, errors.Is(err, errNoCount):
		case errors.As(err, &status) && (status.Status == 500 || status.Status == 501):
			remember = remember && status.Status == 501
		case errors.As(err, &status) && status.Status >= 400 && status.Status < 500 && status.Status != 401 && status.Status != 403 && status.Status != 429:
		default:
			return 0, false, err
		}
	}
	if remember {
		t.learn(func(v *traitValues) { v.count = countNone })
	}
	return 0, false, nil
}

// errNoCount is an answer to $count that is no count.
var errNoCount = errors.New("odata: the answer to $count is not a number")

// countPath asks <table>/$count (OData URL Conventions 4.01, section 4.8), which answers a bare number.
func (s *Session) countPath(ctx context.Context, q *Query, base *url.URL, tries int, tr *traffic) (int64, error) {
	u := tableURL(base, q.Table.Name, params{})
	u.Path += "/$count"
	u.RawQuery = ""
	if f := q.Filter.Render(); f != "" {
		var b strings.Builder
		b.WriteString("$filter=")
		escape(&b, f)
		u.RawQuery = b.String()
	}
	var n int64
	c := call{table: q.Table.Name, url: u, want: wantText, tries: tries, traffic: tr}
	c.read = func(r io.Reader) error {
		text, err := io.ReadAll(io.LimitReader(r, 64))
		if err != nil {
			return err
		}
		n, err = strconv.ParseInt(strings.TrimSpace(strings.TrimPrefix(string(text), "\ufeff")), 10, 64)
		if err != nil || n < 0 {
			return errNoCount
		}
		return nil
	}
	return n, s.do(ctx, c)
}

// countInline asks for @odata.count with one row; -1 if the server ignores the question.
func (s *Session) countInline(ctx context.Context, q *Query, base *url.URL, tries int, tr *traffic) (int64, error) {
	columns := q.Table.Key
	if len(columns) == 0 {
		columns = q.Select[:1]
	}
	dec, err := newDecoder(q.Table, columns, 16, q.Memory)
	if err != nil {
		return 0, err
	}
	n := int64(-1)
	c := call{table: q.Table.Name, want: wantJSON, tries: tries, traffic: tr}
	c.url = tableURL(base, q.Table.Name, params{columns: columns, filter: q.Filter.Render(), skip: -1, top: 1, count: true})
	c.read = func(r io.Reader) error {
		a, err := dec.decode(r, 0, func(arrow.Record) error { return nil })
		n = a.count
		return err
	}
	return n, s.do(ctx, c)
}
