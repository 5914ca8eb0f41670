package jobs

import (
	"fmt"
	"slices"
	"time"

	"github.com/tablexport/tablexport/odata/edm"
)

// Undated says what becomes of rows that have no date, and so are in no window.
type Undated string

// The choices.
const (
	UndatedAuto Undated = ""          // they are read where the column can be empty; where they cannot be asked for, the job is refused
	ReadUndated Undated = "read"      // they are read at every run, into a partition of their own
	LeaveOut    Undated = "leave_out" // they are missing in the dataset, and that is accepted
)

// undated decides about rows without a date: they are never lost without somebody having said so. A row has none if the column is
// empty, or if a reference on the way to it is.
func (b *planner) undated() {
	by, path := b.Windowed.By, b.Job.Refresh.By
	empty := by.Column.Nullable || slices.ContainsFunc(by.Hops, func(hop *edm.Column) bool { return hop.Nullable })
	policy := &b.Job.Refresh.Policy
	policy.Undated = false
	switch {
	case b.Job.Refresh.Undated == LeaveOut:
		if empty {
			b.note("rows whose %s is empty are not in the dataset, as undated: leave_out says", path)
		}
		return
	case !empty && b.Job.Refresh.Undated != ReadUndated:
		return
	}
	if _, err := b.Windowed.Undated(b.Table); err != nil {
		b.problem("refresh.by", fmt.Sprintf("%s can be empty, and the server cannot be asked for rows where it is: they would be in no window", path),
			"go by another column, or accept that they are missing with undated: leave_out")
		return
	}
	policy.Undated = true
	b.note("rows whose %s is empty are read at every run, into the partition of rows without a %s", path, b.Windowed.Partition)
}

// fewEnough refuses a policy with more windows than a dataset can sensibly have.
func (b *planner) fewEnough() {
	policy := b.Job.Refresh.Policy
	oldest, newest := policy.Current(time.Now())
	if n := policy.Calendar.Distance(oldest, newest) + 1; n > maxWindows {
		b.problem("refresh.every", fmt.Sprintf("the dataset would have %d windows, and %d are too many", n, maxWindows), "write a later from, or longer windows")
	}
}
