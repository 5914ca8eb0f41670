package export

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/odata/evidence"
)

// Window is what a dataset knows of one of its windows, by the tags of the window's files.
type Window struct {
	Value    string              `json:"window"`          // of the partition column; "" = rows without a value
	Loaded   time.Time           `json:"loaded,omitzero"` // when its scan began; zero: not known, or not to be relied on
	Query    string              `json:"query,omitempty"` // fingerprint of what was asked: see [Spec].QueryID
	Run      string              `json:"run,omitempty"`
	Rows     int64               `json:"rows"`     // of the files, by the log
	Recorded int64               `json:"recorded"` // rows that its scan counted; -1: not known
	Files    int                 `json:"files"`
	Bytes    int64               `json:"bytes"`
	Evidence []evidence.Evidence `json:"evidence,omitempty"` // of its scan, or of the scans of its pieces
	Problem  string              `json:"problem,omitempty"`  // why the window cannot be relied on, in one sentence; "" = nothing is wrong
}

// Windows are the windows of the newest version, by value. A table that is not partitioned, or not there, has none.
func (d *Dataset) Windows(ctx context.Context) ([]Window, error) {
	s, err := d.log.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	return WindowsOf(s), nil
}

// WindowsOf are the windows of a snapshot.
//
// A window whose files do not agree, or have no tags (another engine has rewritten them), is known by its rows alone: it counts as never
// read, which costs a request and cannot lose a row.
func WindowsOf(s *delta.Snapshot) []Window {
	if s.Version < 0 || len(s.Metadata.PartitionColumns) != 1 {
		return nil
	}
	column := s.Metadata.PartitionColumns[0]
	byValue := map[string]*Window{}
	for _, f := range s.Files {
		value := partitionValue(f.PartitionValues, column)
		w := byValue[value]
		if w == nil {
			w = windowOf(f, value)
			byValue[value] = w
		} else {
			w.agree(f)
		}
		w.Files++
		w.Bytes += f.Size
		st, err := delta.ParseStats(f.Stats)
		if err != nil {
			w.distrust("the log does not say how many rows its files have")
			continue
		}
		w.Rows += st.NumRecords
	}
	out := make([]Window, 0, len(byValue))
	for _, w := range byValue {
		w.judge()
		out = append(out, *w)
	}
	slices.SortFunc(out, func(a, b Window) int { return cmp.Compare(a.Value, b.Value) })
	return out
}

// windowOf reads the tags of a window's first file.
func windowOf(f delta.Add, value string) *Window {
	w := &Window{Value: value, Recorded: -1, Run: f.Tags[tagRun], Query: f.Tags[tagQuery]}
	loaded, err := time.Parse(time.RFC3339Nano, f.Tags[tagLoaded])
	if err != nil {
		w.distrust("its files do not say when it was read: another engine has rewritten them")
		return w
	}
	w.Loaded = loaded.UTC()
	if err := json.Unmarshal([]byte(f.Tags[tagEvidence]), &w.Evidence); err != nil || len(w.Evidence) == 0 {
		w.Evidence = nil
		w.distrust("its files carry no evidence")
		return w
	}
	w.Recorded = 0
	for _, ev := range w.Evidence {
		w.Recorded += ev.Rows
	}
	return w
}

// agree sees that a further file comes from the same scan.
func (w *Window) agree(f delta.Add) {
	if f.Tags[tagRun] != w.Run || f.Tags[tagQuery] != w.Query || f.Tags[tagLoaded] == "" {
		w.distrust("its files come from different scans")
	}
}

func (w *Window) distrust(why string) {
	if w.Problem == "" {
		w.Problem = why
	}
	w.Loaded = time.Time{}
}

func (w *Window) judge() {
	for _, ev := range w.Evidence {
		if err := ev.Judge(); err != nil {
			w.distrust(err.Error())
		}
	}
	if w.Evidence != nil && w.Rows != w.Recorded {
		w.distrust(fmt.Sprintf("its files hold %d rows, and its scan read %d", w.Rows, w.Recorded))
	}
}
