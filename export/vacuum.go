package export

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tablexport/tablexport/export/delta"
)

// MinRetention is the least time for which a vacuum keeps removed files: a reader that has just opened a version can finish.
const MinRetention = time.Hour

// VacuumSpec is what a vacuum deletes.
type VacuumSpec struct {
	Engine string        // "tablexport/1.2.3"
	Retain time.Duration // removed files stay that long. 0 = the table's delta.deletedFileRetentionDuration, or a week; an hour at least
	DryRun bool          // only count
	// Hold names versions whose files stay however old they are, given the time before which files were removed that are deleted: a set's
	// pointer may need them. nil = none.
	Hold func(before time.Time) ([]int64, error)
}

// VacuumReport says what a vacuum found.
type VacuumReport struct {
	Version int64         `json:"version"` // the newest version; files of older ones were looked at
	Retain  time.Duration `json:"retain"`
	Found   int           `json:"found"`   // files whose retention has ended
	Removed int           `json:"removed"` // of those; none in a dry run
	Bytes   int64         `json:"bytes"`   // of what was found
	Kept    int           `json:"kept"`    // removed files that are still retained, or held
}

// Vacuum deletes the files of older versions that were removed from the table longer than the retention ago: the versions before that can no
// longer be read then.
//
// Only files that the log says were removed are touched; what no entry names is [Dataset.Sweep]'s, and other files are nobody's. A
// reader that holds an old version keeps working until its retention ends. The files of the versions that Hold names stay however old they are: those that
// the pointer of a set names, say. A version that the log does not know any more holds nothing. A crash at any point leaves files that the next vacuum deletes.
// The error is *delta.Conflict when a rollback came in between.
func (d *Dataset) Vacuum(ctx context.Context, spec VacuumSpec) (VacuumReport, error) {
	retain := spec.Retain
	if retain != 0 && retain < MinRetention {
		return VacuumReport{}, fmt.Errorf("export: removed files must be kept for an hour at least, because readers may be using them; %s is less", retain)
	}
	s, err := d.table(ctx)
	if err != nil {
		return VacuumReport{}, err
	}
	if retain == 0 {
		retain = max(s.DeletedFileRetention(), MinRetention)
	}
	report := VacuumReport{Version: s.Version, Retain: retain}
	before := time.Now().Add(-retain)
	var held []int64
	if spec.Hold != nil {
		if held, err = spec.Hold(before); err != nil {
			return report, err
		}
	}
	keys, err := d.expired(ctx, s, before, held, &report)
	if err != nil || spec.DryRun || len(keys) == 0 {
		return report, err
	}
	// First the log, then the files: from here on no rollback brings them back.
	if err := d.announce(ctx, s, before, keys, spec.Engine); err != nil {
		return report, err
	}
	for _, key := range keys {
		if err := d.b.Delete(ctx, key); err != nil {
			return report, fmt.Errorf("export: vacuum: %w", err)
		}
		report.Removed++
	}
	return report, nil
}

// heldFiles are the keys of the files of some versions. A version that the log cannot tell any more has no reader.
func (d *Dataset) heldFiles(ctx context.Context, versions []int64) (map[string]bool, error) {
	out := map[string]bool{}
	for _, v := range versions {
		s, err := d.log.SnapshotAt(ctx, v)
		if errors.Is(err, delta.ErrNoVersion) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, f := range s.Files {
			if key, err := f.Key(); err == nil {
				out[key] = true
			}
		}
	}
	return out, nil
}

// expired are the keys of the files in the store that were removed before a time and that no held version needs.
func (d *Dataset) expired(ctx context.Context, s *delta.Snapshot, before time.Time, versions []int64, report *VacuumReport) ([]string, error) {
	gone, err := d.removed(ctx, s)
	if err != nil {
		return nil, err
	}
	held, err := d.heldFiles(ctx, versions)
	if err != nil {
		return nil, err
	}
	var keys []string
	for f, err := range d.b.List(ctx, "", "") {
		if err != nil {
			return nil, fmt.Errorf("export: vacuum: %w", err)
		}
		when, removed := gone[f.Key]
		switch {
		case !removed || strings.HasPrefix(f.Key, "_delta_log/"):
		case when >= before.UnixMilli() || held[f.Key]:
			report.Kept++
		default:
			keys = append(keys, f.Key)
			report.Found, report.Bytes = report.Found+1, report.Bytes+f.Size
		}
	}
	return keys, nil
}

// removed are the files that the log says were removed and that are not live, with the time in ms of the last removal. Tombstones that a
// checkpoint has dropped are in the entries as long as those are there.
func (d *Dataset) removed(ctx context.Context, s *delta.Snapshot) (map[string]int64, error) {
	out := map[string]int64{}
	note := func(r delta.Remove, ms int64) {
		if key, err := r.Key(); err == nil { // else it lies outside of the table, and is not ours to delete
			out[key] = max(out[key], ms)
		}
	}
	entries, err := d.log.History(ctx, 0)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		for _, a := range e.Actions {
			if a.Remove == nil {
				continue
			}
			ms := a.Remove.DeletionTimestamp
			if ms == 0 { // it may be left out
				ms = e.Timestamp.UnixMilli()
			}
			note(*a.Remove, ms)
		}
	}
	for _, r := range s.Tombstones {
		note(r, r.DeletionTimestamp)
	}
	for _, f := range s.Files {
		key, err := f.Key()
		if err != nil {
			return nil, err
		}
		delete(out, key)
	}
	return out, nil
}

// announce publishes what is about to be deleted. A rollback that came first is a conflict by the txn; what another engine has brought back
// is seen here.
func (d *Dataset) announce(ctx context.Context, s *delta.Snapshot, before time.Time, keys []string, engine string) error {
	doomed := make(map[string]bool, len(keys))
	for _, key := range keys {
		doomed[key] = true
	}
	_, err := d.log.Apply(ctx, s, delta.Change{
		Touches: func(map[string]*string) bool { return false },
		Build: func(base *delta.Snapshot) ([]delta.Action, error) {
			for _, f := range base.Files {
				if key, err := f.Key(); err == nil && doomed[key] {
					return nil, &delta.Conflict{Version: base.Version, Reason: "it brings back files that were about to be vacuumed; try again"}
				}
			}
			parameters := map[string]string{"retentionCheckEnabled": "true", "specifiedRetentionMillis": strconv.FormatInt(time.Since(before).Milliseconds(), 10)}
			care := fmt.Sprintf("vacuum: %d files", len(keys))
			txn := &delta.Txn{AppID: vacuumApp, Version: max(before.UnixMilli(), base.Txns[vacuumApp].Version), LastUpdated: time.Now().UnixMilli()}
			return []delta.Action{{CommitInfo: careInfo(base, base, "VACUUM START", engine, care, parameters, 0, 0)}, {Txn: txn}}, nil
		},
	})
	return err
}
