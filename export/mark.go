package export

import (
	"slices"
	"time"

	"github.com/tablexport/tablexport/export/delta"
)

// A mark is a point in time that a commit leaves for the runs after it, such as a watermark. It is the version of a txn action, in
// milliseconds, so it is published with the rows or not at all, and outlives the log entries that a checkpoint replaces.
func (s *Spec) markID(name string) string { return "tablexport/" + s.Job + "/" + name }

// Mark is the mark that the newest commit of the job that had one has left; ok is false without one.
func (r *Refresh) Mark(name string) (at time.Time, ok bool) {
	txn, ok := r.base.Txns[r.spec.markID(name)]
	return time.UnixMilli(txn.Version).UTC(), ok
}

// marks are the txn actions of the marks.
func (r *Refresh) marks(now time.Time) (out []delta.Action) {
	for name, at := range r.spec.Marks {
		out = append(out, delta.Action{Txn: &delta.Txn{AppID: r.spec.markID(name), Version: at.UnixMilli(), LastUpdated: now.UnixMilli()}})
	}
	return out
}

// Continues reports whether the dataset's rows are still those of the job's newest commit: others have rearranged files at most. After a
// rollback, say, rows are older than a mark, which nobody takes back. Where the history is too short to tell, it is false.
func (r *Refresh) Continues() bool {
	for _, e := range r.base.Recent {
		v := versionOf(e)
		switch {
		case v.Job == r.spec.Job && v.Run != "" && v.Operation != "RESTORE":
			return true
		case !slices.Contains([]string{"OPTIMIZE", "VACUUM START", "VACUUM END"}, v.Operation):
			return false
		}
	}
	return false
}
