package jobs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/filter"
	"github.com/tablexport/tablexport/odata/scope"
)

// Access is what a new token reaches through one job, beside what the current one does.
type Access struct {
	Job      string   `json:"job"`
	Table    string   `json:"table"`
	Compared []string `json:"compared"`          // what of the two was compared: "rows of the scope", "keys of the scope", "rows of the table", …; none without a current token
	Sampled  int      `json:"sampled"`           // rows that the new token read as the job would, and that lie in the scope
	Skipped  string   `json:"skipped,omitempty"` // why the job could not be looked at: it does not fit the instance, whatever the token
	Problems []string `json:"problems"`          // why the new token must not take the place of the current one
}

// sampleRows is how many rows of a query are looked at, and how many keys are asked for by name (their list is part of a URL).
const sampleRows = 40

// countTries is how often counts are taken anew while the table changes under them.
const countTries = 3

// Compare proves what a new token reaches for a job: that it reads the table, that the rows which it reads lie in the job's scope, and,
// beside the current token (nil: there is none to compare with), that both see the same rows, in the scope and, where the job
// has a filter, in the whole table: a token that sees more is over-privileged for it. Rows that come and go meanwhile are told from rows
// that one of the two is not shown by asking again.
//
// Compared are the numbers of rows where the server counts, and a sample of keys, those of each token asked of the other; of a table that has
// neither, all rows are read. The error is for what kept Compare from finding out.
func Compare(ctx context.Context, job Job, next, current *odata.Session) (Access, error) {
	a := Access{Job: job.Name, Table: job.Table, Compared: []string{}, Problems: []string{}}
	model, err := next.Metadata(ctx)
	if err != nil {
		return a, err
	}
	plan, err := NewPlan(job, model)
	if err != nil {
		a.Skipped = err.Error()
		return a, nil //nolint:nilerr // it is said; a job that cannot run anyway must not keep a token from being replaced
	}
	a.Table = plan.Table.Name
	if err := a.sample(ctx, plan, next); err != nil || len(a.Problems) > 0 || current == nil {
		return a, err
	}
	c := comparison{Access: &a, next: next, current: current}
	c.query = plan.Query()
	c.query.Select = plan.Table.Key
	if len(plan.Table.Key) == 0 {
		c.query.Select = plan.Fetch
	}
	if err := c.compare(ctx, "the scope"); err != nil || plan.Filter.Empty() {
		return a, err
	}
	c.query.Filter = filter.Bound{}
	return a, c.compare(ctx, "the table")
}

// sample reads some rows as the job would, and holds them to the scope.
func (a *Access) sample(ctx context.Context, plan *Plan, s *odata.Session) error {
	t, err := newSampleTester(plan, s)
	if err != nil {
		return err
	}
	err = some(ctx, s, plan.Query(), sampleRows, func(rec arrow.Record) error {
		err := t.inspect(rec, int64(a.Sampled))
		a.Sampled += int(rec.NumRows())
		return err
	})
	err = t.settle(ctx, err)
	switch {
	case as[*scope.Violation](err):
		a.Problems = append(a.Problems, "it was given a row outside the scope: "+err.Error())
	case errors.Is(err, odata.ErrForbidden):
		a.Problems = append(a.Problems, "it may not read the table (403)")
	default:
		return err
	}
	return nil
}

// some hands on the first records of a query, n rows or a few more.
func some(ctx context.Context, s *odata.Session, q odata.Query, n int, yield func(arrow.Record) error) error {
	q.PageSize, q.Batch, q.Ahead = n, n, -1
	scan, err := s.Scan(q)
	if err != nil {
		return err
	}
	rows := 0
	for rec, err := range scan.Records(ctx) {
		if err == nil {
			err = yield(rec)
		}
		if err != nil {
			return err
		}
		if rows += int(rec.NumRows()); rows >= n {
			break
		}
	}
	return nil
}

// comparison asks two sessions the same.
type comparison struct {
	*Access
	next, current *odata.Session
	query         odata.Query // of the keys, or of all columns without one
}

func (c *comparison) problem(format string, args ...any) {
	c.Problems = append(c.Problems, fmt.Sprintf(format, args...))
}

// compare compares what the two see of the query.
func (c *comparison) compare(ctx context.Context, what string) error {
	counted, err := c.counts(ctx, what, false)
	if err != nil {
		return c.refused(what, err)
	}
	keyed, err := c.keys(ctx, what)
	if err != nil {
		return c.refused(what, err)
	}
	if !counted && !keyed {
		_, err = c.counts(ctx, what, true)
	}
	return c.refused(what, err)
}

// refused makes a table that the current token may not read a problem of the new one, which may.
func (c *comparison) refused(what string, err error) error {
	if !errors.Is(err, odata.ErrForbidden) {
		return err
	}
	c.problem("it reads %s, which one of the two tokens may not (403)", what)
	return nil
}

// counts compares numbers of rows; whole reads them all where the server does not count. ok is false if there is no number.
func (c *comparison) counts(ctx context.Context, what string, whole bool) (ok bool, err error) {
	count := func(s *odata.Session) (int64, bool, error) {
		if whole {
			n := int64(0)
			err := some(ctx, s, c.query, int(^uint(0)>>1), func(rec arrow.Record) error { n += rec.NumRows(); return nil })
			return n, true, err
		}
		return s.Count(ctx, c.query)
	}
	var before, mine, after int64
	for range countTries {
		for _, ask := range []struct {
			session *odata.Session
			into    *int64
		}{{c.current, &before}, {c.next, &mine}, {c.current, &after}} {
			if *ask.into, ok, err = count(ask.session); err != nil || !ok {
				return false, err
			}
		}
		if min(before, after) <= mine && mine <= max(before, after) {
			c.Compared = append(c.Compared, "number of rows of "+what)
			return true, nil
		}
	}
	c.Compared = append(c.Compared, "number of rows of "+what)
	if mine > after {
		c.problem("it sees more rows of %s than the current token: %d and %d", what, mine, after)
	} else {
		c.problem("it sees fewer rows of %s than the current token: %d and %d", what, mine, after)
	}
	return true, nil
}

// keys asks each for keys that the other sees. ok is false if the table has no key that can be asked for by name.
func (c *comparison) keys(ctx context.Context, what string) (ok bool, err error) {
	if len(c.query.Table.Key) != 1 {
		return false, nil
	}
	for _, way := range []struct {
		from, to *odata.Session
		problem  string
	}{
		{c.current, c.next, "it is not shown %d of %d sampled rows of %s that the current token is shown"},
		{c.next, c.current, "it is shown %d of %d sampled rows of %s that the current token is not shown"},
	} {
		sampled, can, err := c.visible(ctx, way.from, nil)
		if err != nil || !can {
			return false, err
		}
		hidden := sampled
		// What one sees and the other does not may have come or gone in between: then the same questions have other answers.
		for try := 0; try < 2 && len(hidden) > 0; try++ {
			seen, can, err := c.visible(ctx, way.to, hidden)
			if err != nil || !can {
				return false, err
			}
			hidden = slices.DeleteFunc(slices.Clone(hidden), func(k string) bool { return slices.Contains(seen, k) })
			if len(hidden) == 0 {
				break
			}
			still, _, err := c.visible(ctx, way.from, hidden)
			if err != nil {
				return false, err
			}
			hidden = slices.DeleteFunc(hidden, func(k string) bool { return !slices.Contains(still, k) })
		}
		if len(hidden) > 0 {
			c.problem(way.problem, len(hidden), len(sampled), what)
		}
	}
	c.Compared = append(c.Compared, "sampled keys of "+what)
	return true, nil
}

// visible gives those of the keys that s sees, or a sample of all where keys is nil. can is false where keys cannot be asked for.
func (c *comparison) visible(ctx context.Context, s *odata.Session, keys []string) (seen []string, can bool, err error) {
	q := c.query
	if keys != nil {
		named, err := filter.KeyIn(q.Table, q.Table.Key[0], keys)
		if err != nil {
			return nil, false, nil //nolint:nilerr // the column does not take in: the caller counts instead
		}
		q.Filter = filter.And(q.Filter, named)
	}
	can = true
	err = some(ctx, s, q, sampleRows, func(rec arrow.Record) error {
		for row := range int(rec.NumRows()) {
			text, ok := keyText(rec.Column(0), row)
			if can = can && ok; !ok {
				return nil
			}
			if len(seen) < sampleRows || keys != nil {
				seen = append(seen, text)
			}
		}
		return nil
	})
	return seen, can, err
}

// keyText is a key as filters read it; ok is false for kinds that are not asked for by name here.
func keyText(column arrow.Array, row int) (text string, ok bool) {
	switch a := column.(type) {
	case *array.String:
		return strings.Clone(a.Value(row)), !strings.ContainsAny(a.Value(row), ",'") // the record's memory may be used again
	case *array.Int16:
		return strconv.FormatInt(int64(a.Value(row)), 10), true
	case *array.Int32:
		return strconv.FormatInt(int64(a.Value(row)), 10), true
	case *array.Int64:
		return strconv.FormatInt(a.Value(row), 10), true
	}
	return "", false
}
