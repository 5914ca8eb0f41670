package jobs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/extsort"
	"github.com/tablexport/tablexport/odata/filter"
	"github.com/tablexport/tablexport/odata/scope"
)

// A refresh by changes reads the key and the row version of every row (the sweep), compares them with what the dataset holds, asks for
// the rows that differ, and publishes them by a merge:
//
//	sweep     a scan of two columns, with all the proofs of a scan: keys and versions go to a sorter
//	state     the same two columns of the dataset's own files: the dataset is the only state there is
//	compare   a merge join of the two: new, changed, vanished
//	fetch     the new and changed rows by their keys, tested by the scope like all rows
//	merge     drop the changed and vanished rows, write the fetched ones, in one commit that must add up: the dataset then has as many
//	          rows as the sweep saw, less those that were gone when they were asked for
//
// A row that changes between sweep and fetch is fetched as it is then, and its version is published with it: the next sweep finds it equal.
// One that vanishes in between is dropped. A crash anywhere leaves the version before, and with it the state.
//
// All is in bounded memory: three sorters of extsort.DefaultMemory, one answer, one Parquet row group.

// Compared says how a plan finds changed rows.
type Compared struct {
	Version string       // the column by which a row's versions are told apart
	Columns []string     // of the sweep: the key, Version, then what only the scope needs
	Time    string       // of a watermark: the column that holds the time of a row's last change; "" otherwise
	Scope   *scope.Scope // of the sweep's rows, where owners prove it: a row may leave it without changing; nil otherwise
	model   *edm.Model
}

// changes plans how changed rows are found, and publishes the columns that this needs.
func (b *planner) changes() {
	if len(b.Table.Key) == 0 {
		b.problem("refresh.by", fmt.Sprintf("%s is a view without a key, so its rows cannot be compared", b.Table.Name), "go by a date column and every: month, or leave refresh out")
		return
	}
	c := &Compared{Version: versionColumn(b.Table), model: b.model}
	if b.Job.Refresh.Mode == Watermark && !b.watermark(c) {
		return
	}
	if c.Version == "" {
		b.problem("refresh.by", fmt.Sprintf("table %s has no row version, so changed rows cannot be told", b.Table.Name), "go by a date column and every: month, or leave refresh out")
		return
	}
	c.Columns = append(slices.Clone(b.Table.Key), c.Version)
	for _, name := range c.Columns {
		if !slices.Contains(b.Publish, name) {
			b.Publish = append(b.Publish, name)
			b.note("column %s is published too: what the dataset holds is compared by it", name)
		}
	}
	b.Compared = c
}

// versionColumn is the table's SQL Server row version, which every change of a row changes.
func versionColumn(t *edm.Table) string {
	for i := range t.Columns {
		if c := &t.Columns[i]; c.Name == "Row_Version" && !c.Key && c.Type.Kind != edm.Invalid {
			return c.Name
		}
	}
	return ""
}

// bindChanges makes the sweep's scope, and sees that rows can be asked for by key.
func (b *planner) bindChanges() {
	c := b.Compared
	if _, err := new(odata.Session).Fetch(b.Query()); err != nil {
		b.problem("refresh.by", err.Error(), "go by a date column and every: month, or leave refresh out")
		return
	}
	if len(b.Owners) == 0 {
		return
	}
	published := slices.Clone(c.Columns)
	for _, name := range b.rules().Columns() {
		if !slices.Contains(c.Columns, name) {
			c.Columns = append(c.Columns, name)
		}
	}
	schema, err := odata.ArrowSchema(b.Table, c.Columns)
	if err == nil {
		c.Scope, err = scope.New(b.rules(), schema, published)
	}
	if err != nil {
		b.rulesProblems(err)
	}
}

// SweepQuery is the query of the sweep: of everything, or of a watermark's rows since a time.
func (p *Plan) SweepQuery(since time.Time) (odata.Query, error) {
	q := p.Query()
	q.Select = p.Compared.Columns
	q.PageSize = sweepPage(q.PageSize)
	if since.IsZero() {
		return q, nil
	}
	bound, err := filter.Compile(p.Compared.Time+" ge "+since.UTC().Truncate(time.Second).Format(instant), p.Compared.model, p.Table)
	q.Filter = filter.And(q.Filter, bound)
	return q, err
}

// sweepPage is how many rows the sweep asks for at once, where a full read asks for so many (0 = the default, 10,000): its rows are a tenth
// of the size at most, so ten pages' worth is one request. 100,000 at most.
func sweepPage(rows int) int {
	if rows <= 0 {
		rows = 10_000
	}
	return max(rows, min(10*rows, 100_000))
}

// mostChanged is the share of rows, as 1/n, beyond which a table is read whole: asking for rows by key takes one request for some 190.
const mostChanged = 4

// errReadWhole says that a merge is of no use now.
type errReadWhole struct{ reason string }

func (e *errReadWhole) Error() string { return "the table is to be read whole: " + e.reason }

// changes brings the dataset up to date by what has changed, or reads the table whole where nothing can be compared.
func (x *run) changes(ctx context.Context, session *odata.Session) error {
	err := x.attempts(ctx, "what has changed", again, func(attempt int) error { return x.compared(ctx, session, attempt) })
	var not *export.NotMergeable
	var whole *errReadWhole
	var repeated *extsort.RepeatedKeyError
	switch {
	case errors.As(err, &not):
		x.result.Whole = not.Reason
	case errors.As(err, &whole):
		x.result.Whole = whole.reason
	case errors.As(err, &repeated) && repeated.Right:
		x.result.Whole = "the dataset holds a key twice"
	default:
		return err
	}
	x.log.Info("the table is read whole", "why", x.result.Whole)
	return x.whole(ctx, session)
}

// compared is one attempt.
func (x *run) compared(ctx context.Context, session *odata.Session, attempt int) error {
	spec := x.spec("")
	merge, err := x.dataset.Merge(ctx, spec)
	if err != nil {
		return err
	}
	var memory extsort.Options
	if x.LowMemory {
		memory.Memory = extsort.DefaultMemory / 4
	}
	c := &merging{x: x, session: session, merge: merge, keys: extsort.New(memory), state: extsort.New(memory), proof: export.MergeProof{Rows: -1}}
	defer func() {
		c.keys.Close()
		c.state.Close()
		x.abort(ctx, merge.Refresh())
		_ = merge.Close(context.WithoutCancel(ctx)) // abort has said what there is to say
	}()
	if _, ok := merge.Refresh().Published(); ok {
		return x.publish(ctx, merge.Refresh(), x.result.Evidence)
	}
	if err := x.since(c, merge.Refresh(), spec.Marks); err != nil {
		return err
	}
	if err := c.sweep(ctx, attempt); err != nil {
		return err
	}
	if err := c.read(ctx); err != nil {
		return err
	}
	if err := c.count(); err != nil {
		return err
	}
	if err := c.fetch(ctx, attempt); err != nil {
		return err
	}
	if err := merge.Done(ctx, c.proof); err != nil {
		return err
	}
	return x.publish(ctx, merge.Refresh(), c.proof.Sweep)
}

// merging is what one attempt has found out.
type merging struct {
	x       *run
	session *odata.Session
	merge   *export.Merge
	since   time.Time       // zero: everything is swept, so that what is missing is gone
	keys    *extsort.Sorter // of the sweep: key → version
	state   *extsort.Sorter // of the dataset: key → position and version
	proof   export.MergeProof

	fresh, changed, vanished int64
}

// sweep reads keys and versions.
func (c *merging) sweep(ctx context.Context, attempt int) error {
	x := c.x
	q, err := x.plan.SweepQuery(c.since)
	if err != nil {
		return err
	}
	q.Attempt = attempt
	q.Progress = func(p odata.Progress) { x.progress(Progress{Phase: Scanning, Attempt: attempt, Scan: p}) }
	keys, err := odata.NewKeys(x.plan.Table, q.Select)
	if err != nil {
		return err
	}
	var key, value []byte
	take := func(rec arrow.Record) error {
		of, version := keys.Of(rec), rec.Column(len(x.plan.Table.Key))
		for row := range int(rec.NumRows()) {
			key, value = of(key[:0], row), odata.AppendValue(value[:0], version, row)
			if err := c.keys.Add(key, value); err != nil {
				return err
			}
		}
		return nil
	}
	scan, err := c.scan(ctx, q, take)
	if scan != nil {
		c.proof.Sweep = scan.Evidence()
		x.result.Evidence = c.proof.Sweep
	}
	if err != nil {
		return x.violated(ctx, err)
	}
	return c.proof.Sweep.Judge()
}

// scan is the sweep's scan. Where the scope is proven by owners, so is every swept row.
func (c *merging) scan(ctx context.Context, q odata.Query, take func(arrow.Record) error) (*odata.Scan, error) {
	x := c.x
	if x.plan.Compared.Scope != nil {
		p, err := x.sweepProver(ctx, c.session)
		if err != nil {
			return nil, err
		}
		return x.provenScan(ctx, c.session, q, p, func(rows scope.Checked) error { return take(rows.Record()) })
	}
	if x.LowMemory {
		q.Ahead = -1
	}
	scan, err := c.session.Scan(q)
	if err != nil {
		return nil, err
	}
	for rec, err := range scan.Records(ctx) {
		if err == nil {
			err = take(rec)
		}
		if err != nil {
			return scan, err
		}
	}
	return scan, nil
}

// sweepProver tests the sweep's rows by the owners that the run knows.
func (x *run) sweepProver(ctx context.Context, session *odata.Session) (*prover, error) {
	p, err := x.prover(ctx, session)
	if err != nil {
		return nil, err
	}
	bind := map[string]*scope.Keys{}
	for column, set := range p.owners {
		bind[column] = set.keys
	}
	s, err := x.plan.Compared.Scope.Bind(bind)
	return &prover{scope: s, owners: p.owners}, err
}

// read reads keys and versions of the dataset.
func (c *merging) read(ctx context.Context) error {
	plan := c.x.plan
	columns := append(slices.Clone(plan.Table.Key), plan.Compared.Version)
	keys, err := odata.NewKeys(plan.Table, columns)
	if err != nil {
		return err
	}
	var key, value []byte
	for at, err := range c.merge.Rows(ctx, columns) {
		if err != nil {
			return err
		}
		of, version := keys.Of(at.Record), at.Record.Column(len(plan.Table.Key))
		for row := range int(at.Record.NumRows()) {
			position := at.At(row)
			key = of(key[:0], row)
			value = odata.AppendValue(append(value[:0], position[:]...), version, row)
			if err := c.state.Add(key, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// differs says whether a row must be read anew: it is not in the dataset, or there in another version. What has no version cannot be told.
func differs(p extsort.Pair) bool {
	return !p.InRight || p.Left[0] == 0 || string(p.Left) != string(p.Right[len(export.Position{}):])
}

// count compares, and gives up where so much has changed that the whole is less.
func (c *merging) count() error {
	for p, err := range extsort.Join(c.keys, c.state) {
		switch {
		case err != nil:
			return err
		case !p.InLeft:
			if c.since.IsZero() {
				c.vanished++
			}
		case !p.InRight:
			c.fresh++
		case differs(p):
			c.changed++
		}
	}
	total := max(c.merge.Before(), c.keys.Len())
	if n := c.fresh + c.changed; n > 1000 && n > total/mostChanged {
		return &errReadWhole{fmt.Sprintf("%d of %d rows have changed", n, total)}
	}
	c.x.log.Info("compared", "rows", c.keys.Len(), "new", c.fresh, "changed", c.changed, "vanished", c.vanished)
	return nil
}

// wanted gives the keys of the rows to be read, and drops the rows that are replaced or gone.
func (c *merging) wanted() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for p, err := range extsort.Join(c.keys, c.state) {
			drop := p.InRight && (p.InLeft && differs(p) || !p.InLeft && c.since.IsZero())
			if err == nil && drop {
				err = c.merge.Drop(export.Position(p.Right[:len(export.Position{})]))
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if p.InLeft && differs(p) && !yield(p.Key, nil) {
				return
			}
		}
	}
}

// fetch reads the rows that differ, tests and writes them.
func (c *merging) fetch(ctx context.Context, attempt int) error {
	x := c.x
	p, err := x.prover(ctx, c.session)
	if err != nil {
		return x.violated(ctx, err)
	}
	t := x.newTester(c.session, p, func(rows scope.Checked) error { return c.merge.Write(ctx, rows) })
	defer t.release()
	q := x.plan.Query()
	q.Inspect = t.inspect
	fetch, err := c.session.Fetch(q)
	if err != nil {
		return err
	}
	read := int64(0)
	gone := func([]byte) error { return nil } // dropped, if it was there
	for rec, rerr := range fetch.Records(ctx, c.wanted(), gone) {
		if err = rerr; err == nil {
			err = t.take(rec, read)
		}
		if err != nil {
			break
		}
		read += rec.NumRows()
		x.progress(Progress{Phase: Fetching, Attempt: attempt, Scan: odata.Progress{Rows: read, Requests: fetch.Evidence().Requests, Bytes: fetch.Evidence().Bytes, Expected: c.fresh + c.changed}})
	}
	if err = t.settle(ctx, err); err != nil {
		return x.violated(ctx, err)
	}
	c.proof.Fetch = fetch.Evidence()
	if err := c.proof.Fetch.Judge(); err != nil {
		return err
	}
	c.proof.Deleted = c.vanished
	if c.since.IsZero() {
		c.proof.Rows = c.proof.Sweep.Rows - c.proof.Fetch.Missing
	}
	return nil
}
