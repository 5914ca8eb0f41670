package jobs

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/jobs/window"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/filter"
)

// Mode is how a job's dataset is kept fresh.
type Mode string

// The modes.
const (
	Whole   Mode = ""        // the whole table is read at every run
	Windows Mode = "windows" // by period: the newest windows are read again, older ones are kept

	Changes   Mode = "changes"   // keys and row versions are compared with the dataset, and what differs is merged
	Watermark Mode = "watermark" // as Changes, of the rows that were changed since the run before
)

// Refresh is how a job's dataset is kept fresh. The zero Refresh reads the whole table at every run.
type Refresh struct {
	Mode      Mode
	By        string        // the date or date-time column that windows go by, of the table or of an owner: "Document_Reference/Document_Date"; of a watermark, the table's own time of change
	Policy    window.Policy // which windows there are, and when they are read again
	PerWindow bool          // publish each window as soon as it is done, not all windows of a run together
	Undated   Undated       // what becomes of rows whose By is empty
	Split     Split         // when a window is read in pieces
	Overlap   time.Duration // of a watermark: rows changed so long before the last run began are looked at again (DefaultOverlap)
	Sweep     time.Duration // of a watermark: everything is compared so often; 0 = never
}

// Windowed says how a plan reads its table by period.
type Windowed struct {
	By        edm.Resolution // what Refresh.By leads to
	Partition string         // the column of the dataset that holds the window's value
	Checked   string         // the own column that rows are held against their window by; "" where rows do not carry it
	path      string
	model     *edm.Model
}

// refresh checks how the job's dataset is to be kept fresh.
func (b *planner) refresh() {
	switch b.Job.Refresh.Mode {
	case Whole:
		return
	case Changes, Watermark:
		b.changes()
		return
	}
	to, err := b.model.Resolve(b.Table, strings.Split(b.Job.Refresh.By, "/"))
	var path *edm.PathError
	if errors.As(err, &path) {
		b.problem("refresh.by", path.Error(), "")
		return
	}
	c := to.Column
	if c.Type.Kind != edm.Date && c.Type.Kind != edm.DateTime {
		b.problem("refresh.by", fmt.Sprintf("column %s of table %s is %s", c.Name, to.Table.Name, c.Type), "windows go by a date or date-time column")
		return
	}
	w := &Windowed{By: to, path: b.Job.Refresh.By, model: b.model}
	w.Partition = partitionColumn(b.Job.Refresh.Policy.Calendar.Period(), b.Table)
	if len(to.Hops) == 0 {
		w.Checked = c.Name
	}
	// Any window will do: what the column does not take, it takes of none.
	probe := b.Job.Refresh.Policy.Calendar.At(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC))
	if _, _, err := w.Filter(b.Table, probe.Span); err != nil {
		b.windowProblems(err)
		return
	}
	b.Windowed = w
	b.undated()
	b.fewEnough()
}

func (b *planner) windowProblems(err error) {
	var problems filter.Problems
	if !errors.As(err, &problems) {
		b.problem("refresh.by", err.Error(), "")
		return
	}
	for _, p := range problems {
		b.problem("refresh.by", p.Text, p.Hint)
	}
}

// partitionColumn is the period's name; with an underscore behind it where the table has a column of that name, in any case.
func partitionColumn(period window.Period, t *edm.Table) string {
	name := string(period)
	for slices.ContainsFunc(t.Columns, func(c edm.Column) bool { return strings.EqualFold(c.Name, name) }) {
		name += "_"
	}
	return name
}

// Filter is what a span asks of the server, "ge its first instant and le its last one":
//
//   - of a date column, its first and last day: exact;
//   - of a date-time column of the table itself, up to the first instant of the next span, in whole seconds, as the vendor documents them
//     (no fraction has to be understood, and none rounded); the rows of that very instant come too, and are left out by [Windowed.Belongs];
//   - of a date-time column of an owner, which rows do not carry, up to the last instant of SQL Server's datetime, ….997. ERP.net's
//     columns are of that type, and a later bound would be rounded up into the next span.
//
// ok is false where the span holds nothing that could be asked for.
func (w *Windowed) Filter(table *edm.Table, s window.Span) (bound filter.Bound, ok bool, err error) {
	var low, high string
	if w.By.Column.Type.Kind == edm.Date {
		first, last := s.Days()
		low, high = first.String(), last.String()
	} else {
		first, last, some := s.Instants(window.Datetime)
		if !some {
			return bound, false, nil
		}
		if w.Checked != "" && s.End.Year() < 10_000 {
			last = s.End.UTC()
		}
		low, high = first.Format(instant), last.Format(instant)
	}
	bound, err = filter.Compile(w.path+" ge "+low+" and "+w.path+" le "+high, w.model, table)
	return bound, err == nil, err
}

// Undated is what asks for the rows without a date, which are in no window.
func (w *Windowed) Undated(table *edm.Table) (filter.Bound, error) {
	return filter.Compile(w.path+" eq null", w.model, table)
}

// instant is the form of date-time bounds: a fraction only if it is not zero.
const instant = "2006-01-02T15:04:05.999Z"

// place says where a row stands to a span.
type place int8

const (
	inside  place = iota
	atEnd         // the first instant of the next span: asked for, and not of this one
	outside       // not asked for
)

// locate places a row by the column that windows go by, where rows carry it.
func (w *Windowed) locate(column arrow.Array, row int, item window.Item) place {
	if item.Value == window.Null || column.IsNull(row) {
		return map[bool]place{true: inside, false: outside}[column.IsNull(row) == (item.Value == window.Null)]
	}
	switch a := column.(type) {
	case *array.Date32:
		if !item.HoldsDay(window.Day(a.Value(row))) {
			return outside
		}
	case *array.Timestamp:
		t := time.UnixMicro(int64(a.Value(row)))
		switch {
		case t.Equal(item.End):
			return atEnd
		case !item.Holds(t):
			return outside
		}
	}
	return inside
}

// column is the column that windows go by in a record, nil where rows do not carry it.
func (w *Windowed) column(rec arrow.Record) arrow.Array {
	at := rec.Schema().FieldIndices(w.Checked)
	if w.Checked == "" || len(at) != 1 {
		return nil
	}
	return rec.Column(at[0])
}

// firstOutside finds the first row that was not asked for, -1 if there is none: a server that does not keep to the bounds would put
// rows into two windows, or into none.
func (w *Windowed) firstOutside(rec arrow.Record, item window.Item) int {
	column := w.column(rec)
	if column == nil {
		return -1
	}
	for row := range int(rec.NumRows()) {
		if w.locate(column, row, item) == outside {
			return row
		}
	}
	return -1
}

// Belongs says of rows whether they are in the window, for [odata.Query].Belongs; nil where all that come are.
func (w *Windowed) Belongs(item window.Item) func(rec arrow.Record, row int) bool {
	if w.Checked == "" || w.By.Column.Type.Kind != edm.DateTime || item.Value == window.Null {
		return nil
	}
	return func(rec arrow.Record, row int) bool { return w.locate(w.column(rec), row, item) == inside }
}

// OutsideWindow is a row that is not in the window that was asked for.
type OutsideWindow struct {
	Window, Column string
	Row            int64
}

// Error implements error.
func (e *OutsideWindow) Error() string {
	return fmt.Sprintf("row %d of window %s is not in it by column %s, although the window's bounds were asked for: the server does not keep to them, so windows by this column cannot be relied on",
		e.Row, e.Window, e.Column)
}

// QueryID is the fingerprint of what makes rows of two scans belong into one dataset: table, columns with their types, filter and
// scope; windows not included. A window that was read under another one is read again.
func (p *Plan) QueryID() string {
	stamp := p.Scope.Stamp()
	var columns []string
	for _, name := range p.Publish {
		c, _ := p.Table.Column(name)
		columns = append(columns, fmt.Sprintf("%s %s %t", c.Name, c.Type, c.Nullable))
	}
	// Names are the scope's own business; what it admits, and who enforces it, is not.
	text, err := json.Marshal([]any{p.Table.Name, columns, p.Filter.Render(), stamp.Where, stamp.Enforcement})
	if err != nil {
		panic(err) // texts alone
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// Due is what a run at now does with the windows of a dataset that holds have.
func (p *Plan) Due(now time.Time, have []export.Window) window.Decision {
	states := map[string]window.State{}
	for _, w := range have {
		value := w.Value
		if value == "" {
			value = window.Null
		}
		states[value] = window.State{Loaded: w.Loaded, Query: w.Query}
	}
	return p.Job.Refresh.Policy.Due(now, states, p.QueryID())
}

// WindowQuery is the query of one window. ok is false where the window holds nothing that could be asked for.
func (p *Plan) WindowQuery(item window.Item) (q odata.Query, ok bool, err error) {
	if item.Value != window.Null {
		q, ok, err = p.SpanQuery(item.Span)
		q.Belongs = p.Windowed.Belongs(item)
		return q, ok, err
	}
	q = p.Query()
	bound, err := p.Windowed.Undated(p.Table)
	q.Filter = filter.And(q.Filter, bound)
	return q, err == nil, err
}

// SpanQuery is the query of a piece of a window, or of several windows in a row. Of a date-time column of the table itself its answer
// also has the rows of the first instant behind the span: see [Windowed.Filter].
func (p *Plan) SpanQuery(s window.Span) (q odata.Query, ok bool, err error) {
	q = p.Query()
	bound, ok, err := p.Windowed.Filter(p.Table, s)
	q.Filter = filter.And(q.Filter, bound)
	return q, ok, err
}
