package odata

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tablexport/tablexport/odata/edm"
)

// Session asks with one credential. It is safe for concurrent use.
type Session struct {
	c        *Client
	auth     Authorizer
	renewing sync.Mutex
	spans    atomic.Int64 // that were begun
	memory   recycler     // of the records of its scans: with one for each, a run of many windows held one for each until its end
}

// complete checks q and fills in the defaults.
func (s *Session) complete(q *Query) error {
	if q.Memory == nil {
		q.Memory = &s.memory
	}
	return q.complete()
}

// Sizes beyond which small answers are refused.
const (
	maxDocument = 4 << 20 // discovery, service document
)

// Ping proves the credential with the cheapest authenticated request (the service document).
func (s *Session) Ping(ctx context.Context) error {
	base, err := s.base(ctx)
	if err != nil {
		return err
	}
	return s.serviceDocument(ctx, base)
}

// serviceDocument reads {"value": [{"name": …}, …]} and drops it.
func (s *Session) serviceDocument(ctx context.Context, base *url.URL) error {
	var doc struct {
		Value *[]json.RawMessage `json:"value"`
	}
	c := call{url: base, want: wantJSON}
	if err := s.do(ctx, c.document(&doc)); err != nil {
		return err
	}
	if doc.Value == nil {
		return &ProtocolError{Asked: s.asked(&c), Reason: "this is no OData service document; check `table_api`"}
	}
	return nil
}

// document makes c read a small JSON document into to.
func (c call) document(to any) call {
	c.read = func(r io.Reader) error {
		text, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
		if err != nil {
			return err
		}
		if len(text) > maxDocument {
			return &ProtocolError{Asked: Asked{Method: "GET", Path: c.url.Path}, Reason: "the answer is too large for what was asked"}
		}
		if !json.Valid(text) {
			return ErrTruncated
		}
		if err := json.Unmarshal(text, to); err != nil {
			return &ProtocolError{Asked: Asked{Method: "GET", Path: c.url.Path}, Reason: "the answer is JSON of another shape than documented"}
		}
		return nil
	}
	return c
}

// Metadata reads $metadata, once per client, merged with the embedded model.
func (s *Session) Metadata(ctx context.Context) (*edm.Model, error) {
	return s.c.model.get(ctx, func() (*edm.Model, error) {
		base, err := s.base(ctx)
		if err != nil {
			return nil, err
		}
		u := *base
		u.Path += "$metadata"
		var live *edm.Model
		c := call{url: &u, want: wantXML, secret: new(string)}
		c.read = func(r io.Reader) error {
			// Read whole before it is parsed: a cut document and one that breaks the rules are different things.
			text, err := io.ReadAll(io.LimitReader(r, edm.MaxCSDL+1))
			if err != nil {
				return err
			}
			if len(text) > edm.MaxCSDL {
				return &ProtocolError{Asked: s.asked(&c), Reason: fmt.Sprintf("the $metadata document is larger than %d MiB", edm.MaxCSDL>>20)}
			}
			live, err = edm.ParseCSDL(bytes.NewReader(text))
			if err != nil {
				return &ProtocolError{Asked: s.asked(&c), Reason: "the $metadata document cannot be used: " + err.Error(), Err: err}
			}
			return nil
		}
		if err := s.do(ctx, c); err != nil {
			return nil, err
		}
		if at := secretIn(live, *c.secret); at != "" {
			return nil, &ProtocolError{Asked: s.asked(&c), Reason: "the $metadata document repeats the token " + at + ", from where it would get into datasets; revoke the token"}
		}
		return edm.Merge(live, edm.Embedded()), nil
	})
}

// Count asks how many rows q would give; ok is false where the server has no $count.
func (s *Session) Count(ctx context.Context, q Query) (n int64, ok bool, err error) {
	if err := s.complete(&q); err != nil {
		return 0, false, err
	}
	base, err := s.base(ctx)
	if err != nil {
		return 0, false, err
	}
	return s.count(ctx, &q, base, s.c.traitsOf(&q), nil)
}

// Scan starts nothing until Records is ranged over.
func (s *Session) Scan(q Query) (*Scan, error) {
	if err := s.complete(&q); err != nil {
		return nil, err
	}
	return newScan(s, q)
}

// Request returns method-less URL text of the first request that a scan of q would send, for `plan`:
// percent-encoded, with the path below the host. See Describe for what people read.
func (s *Session) Request(q Query) (string, error) {
	first, _, base, err := s.planned(q)
	if err != nil {
		return "", err
	}
	return tableURL(base, q.Table.Name, first).RequestURI(), nil
}

// Describe tells what a scan of q would ask, for `plan`: the paging with its reason, the first request and
// what the next ones look like, not percent-encoded.
func (s *Session) Describe(q Query) ([]string, error) {
	first, next, base, err := s.planned(q)
	if err != nil {
		return nil, err
	}
	paging, why := s.Choose(q)
	path := base.Path + q.Table.Name + "?"
	return []string{
		"paging " + string(paging) + ": " + why,
		path + first.readable(),
		"then " + path + next.readable(),
	}, nil
}

func (s *Session) planned(q Query) (first, next params, base *url.URL, err error) {
	if err = s.complete(&q); err != nil {
		return
	}
	base = s.c.tableAPI
	if base == nil {
		base = s.c.instance.JoinPath("tableapi/odata/")
	} else {
		base = tableAPIBases(base)[0]
	}
	paging, _ := s.Choose(q)
	t := s.c.traitsOf(&q).snapshot()
	first = params{columns: q.fetched(), filter: q.Filter.Render(), top: int64(q.PageSize), skip: -1}
	if t.order != no && paging != NextLink && len(q.Table.Key) > 0 {
		first.orderby = orderBy(q.Table.Key, "")
	}
	next = first
	switch paging {
	case Key:
		next.filter = and(next.filter, q.Table.Key[0]+" ge <the last key>")
	case Stream:
		first.top, next.top = everything, everything
		fallthrough
	case NextLink:
		first.orderby, next.orderby = "", ""
		next.skip = 1
	case Offset:
		next.skip = 1
	}
	if next.skip > 0 {
		next.skip = int64(q.PageSize) - 1
	}
	return first, next, base, nil
}

// secretIn says where a model holds the secret that was sent for it, "" if nowhere.
func secretIn(m *edm.Model, secret string) string {
	for _, name := range m.Tables() {
		t, _ := m.Table(name)
		if holdsSecret(strings.Join(append([]string{name, t.Entity}, t.Owners...), " "), secret) {
			return "in a table's name"
		}
		for i := range t.Columns {
			c := &t.Columns[i]
			said := append([]string{c.Name, c.Navigation, c.References, c.Comment, c.Source}, c.Allowed...)
			if holdsSecret(strings.Join(said, " "), secret) {
				return "in what it says of a column"
			}
		}
	}
	return ""
}
