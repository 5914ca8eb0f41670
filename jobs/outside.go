package jobs

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/edm"
)

// outsideTables bounds how many tables are asked for beyond those of the jobs: each costs a request or two with each token.
const outsideTables = 12

// Reach is what a new token reaches outside of the jobs' tables.
type Reach struct {
	Asked    []string `json:"asked"`    // tables
	Readable []string `json:"read"`     // of those, what it may read
	Problems []string `json:"problems"` // what it reaches and the current token does not
}

// Outside asks for tables that no job uses with a new token, and, beside the current one (nil: there is none to compare with), with that: a table that the
// new one may read and the current one may not, or where the new one is shown rows and the current one none, makes it over-privileged. Asked are the tables that
// security is about (Sec_…) and others spread over the model, a dozen in all: a sample, not a proof. Tables that the server does not answer for are passed over.
func Outside(ctx context.Context, used []string, next, current *odata.Session) (Reach, error) {
	r := Reach{Asked: []string{}, Readable: []string{}, Problems: []string{}}
	model, err := next.Metadata(ctx)
	if err != nil {
		return r, err
	}
	for _, t := range sample(model, used) {
		mine, err := shows(ctx, next, t)
		if as[*odata.UnavailableError](err) && ctx.Err() == nil {
			break // the table's fault or the instance's: it is no proof either way, and is not asked for more
		}
		if err != nil {
			return r, err
		}
		if mine == unanswered {
			continue
		}
		r.Asked = append(r.Asked, t.Name)
		if mine == refused {
			continue
		}
		r.Readable = append(r.Readable, t.Name)
		if current == nil {
			continue
		}
		theirs, err := shows(ctx, current, t)
		if err != nil {
			return r, err
		}
		switch {
		case theirs == refused:
			r.Problems = append(r.Problems, fmt.Sprintf("it reads %s, which no job uses and which the current token may not read (403)", t.Name))
		case theirs == empty && mine == rows:
			// Rows may have come in between: then they are shown by now.
			if theirs, err = shows(ctx, current, t); err != nil {
				return r, err
			}
			if theirs == empty {
				r.Problems = append(r.Problems, fmt.Sprintf("it is shown rows of %s, which no job uses and of which the current token is shown none", t.Name))
			}
		}
	}
	return r, nil
}

// sample chooses the tables to ask for.
func sample(model *edm.Model, used []string) (chosen []*edm.Table) {
	taken := map[string]bool{}
	for _, name := range used {
		taken[strings.ToLower(name)] = true
	}
	var security, others []*edm.Table
	for _, name := range model.Tables() {
		t, ok := model.Table(name)
		if !ok || taken[strings.ToLower(name)] || len(probe(t)) == 0 {
			continue
		}
		if strings.HasPrefix(name, "Sec_") {
			security = append(security, t)
		} else {
			others = append(others, t)
		}
	}
	chosen = spread(security, outsideTables/2)
	return append(chosen, spread(others, outsideTables-len(chosen))...)
}

// spread takes n of all, evenly.
func spread(all []*edm.Table, n int) (some []*edm.Table) {
	n = min(n, len(all))
	for i := range n {
		some = append(some, all[i*len(all)/n])
	}
	return some
}

// probe is the columns to ask for: none that holds a secret.
func probe(t *edm.Table) []string {
	for _, k := range t.Key {
		if c, ok := t.Column(k); !ok || c.Secret {
			return nil
		}
	}
	if len(t.Key) > 0 {
		return t.Key
	}
	return t.DefaultSelect()[:min(1, len(t.DefaultSelect()))]
}

// shown is what a token is shown of a table.
type shown int

const (
	unanswered shown = iota
	refused
	empty
	rows
)

func shows(ctx context.Context, s *odata.Session, t *edm.Table) (shown, error) {
	got := empty
	err := some(ctx, s, odata.Query{Table: t, Select: probe(t)}, 1, func(rec arrow.Record) error {
		if rec.NumRows() > 0 {
			got = rows
		}
		return nil
	})
	var status *odata.StatusError
	switch {
	case err == nil:
		return got, nil
	case errors.Is(err, odata.ErrForbidden):
		return refused, nil
	case errors.As(err, &status) && status.Status >= 400 && status.Status < 500 && status.Status != 401 && status.Status != 429:
		return unanswered, nil
	}
	return unanswered, fmt.Errorf("%s: %w", t.Name, err)
}
