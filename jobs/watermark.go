package jobs

import (
	"fmt"
	"time"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/odata/edm"
)

// A watermark refresh sweeps only the rows whose time of change is not before the watermark less the overlap, and goes on as a refresh by
// changes does: what the dataset holds in the same version is not read again, so that the overlap costs a few bytes for a row. It
// does not see rows that were deleted, or that have left the job's filter or scope; a full sweep, from time to time, does.
//
// The watermark is our clock just before the sweep of a run that was published, never a time that was seen in the data: one row with a date in
// the future would else hide every change before it. So the overlap must be longer than two things together: how far the server's clock is
// behind ours, and how long a transaction of the ERP may stay open, since a row is stamped when it is written and seen when that commits.
//
// It is published in the commit of the rows that it speaks of, as a mark of the dataset. A clock that was set back (a watermark in the
// future) is answered with a full sweep, and so is a dataset that was rolled back or changed by others: its rows may be older than the mark.

// The marks.
const (
	markWatermark = "watermark" // the rows that were changed before it, less the overlap, are published
	markSweep     = "sweep"     // the last time that everything was compared
)

// DefaultOverlap is the overlap of a watermark if Refresh.Overlap is 0.
const DefaultOverlap = 5 * time.Minute

// watermark checks the column that holds the time of a row's last change.
func (b *planner) watermark(c *Compared) bool {
	by := b.Job.Refresh.By
	column, ok := b.Table.Column(by)
	switch {
	case !ok:
		b.problem("refresh.by", fmt.Sprintf("table %s has no column %s", b.Table.Name, by), didYouMean(b.Table.Suggest(by)))
	case column.Type.Kind != edm.DateTime:
		b.problem("refresh.by", fmt.Sprintf("column %s of %s is %s", by, b.Table.Name, column.Type), "a watermark goes by the date-time of a row's last change; for periods write every: month beside it")
	case column.OpsKnown && !column.Ops.Has(edm.OpRange):
		b.problem("refresh.by", fmt.Sprintf("the server takes no ge on column %s of %s", by, b.Table.Name), "write by: changes")
	default:
		c.Time = by
		if c.Version == "" {
			c.Version = by
		}
		if column.Nullable {
			b.note("rows whose %s is empty are seen by a full sweep only", by)
		}
		if b.Job.Refresh.Sweep <= 0 {
			b.note("rows that are deleted, or leave the filter or the scope, stay in the dataset: write sweep: 168h to compare everything once a week")
		}
		return true
	}
	return false
}

// since says from when on rows are swept, and notes what the commit will say. marks are those of the commit, as of now.
func (x *run) since(c *merging, r *export.Refresh, marks map[string]time.Time) error {
	if x.plan.Compared.Time == "" {
		return nil
	}
	now := marks[markWatermark]
	c.proof.Watermark = now
	at, ok := r.Mark(markWatermark)
	swept, _ := r.Mark(markSweep)
	every := x.Job.Refresh.Sweep
	switch {
	case !ok:
		return &errReadWhole{"the dataset has no watermark yet"}
	case at.After(now):
		x.log.Warn("the watermark is in the future: the clock was set back; everything is compared", "watermark", at)
		return nil
	case every > 0 && now.Sub(swept) >= every:
		return nil
	case !r.Continues():
		x.log.Warn("the dataset was changed by others since the watermark was published; everything is compared")
		return nil
	}
	delete(marks, markSweep) // not this time
	overlap := x.Job.Refresh.Overlap
	if overlap <= 0 {
		overlap = DefaultOverlap
	}
	c.since = at.Add(-overlap)
	return nil
}

// marks are what a commit of the plan leaves, if it holds everything as of now.
func (p *Plan) marks(now time.Time) map[string]time.Time {
	if p.Compared == nil || p.Compared.Time == "" {
		return nil
	}
	return map[string]time.Time{markWatermark: now, markSweep: now}
}
