package export

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/store"
)

// MinSweepAge is the least age at which something is swept.
const MinSweepAge = time.Hour

// SweepReport says what a sweep found.
type SweepReport struct {
	Found, Removed int
	Bytes          int64 // of what was found
	Uploads        int   // unfinished uploads that were dropped (temporary files, multipart uploads)
}

// partName matches what Slice.partKey makes, and gives the run and the attempt: a scan into a slice, whose parts are published
// together or not at all.
var partName = regexp.MustCompile(`^(?:[^/=]+=[^/]+/)?part-(.+)-([0-9a-f]{8})-[0-9]{5,}\.zstd\.parquet$`)

// Sweep removes data files that no log entry names and that are older than age (at least an hour, so that a
// running refresh is never robbed), and uploads that were never finished.
//
// Only files that this package has named are touched: what another engine is about to publish is its own to clean up. A file
// that any entry of the log names stays, live or replaced. The age of a run is that of its newest part; a run that goes on
// writing is safe however long it takes, and one that sleeps longer than age is refused by its own Commit, not published in part.
// A dry run only counts.
func (d *Dataset) Sweep(ctx context.Context, age time.Duration, dryRun bool) (SweepReport, error) {
	return d.sweep(ctx, time.Now(), max(age, MinSweepAge), dryRun)
}

func (d *Dataset) sweep(ctx context.Context, now time.Time, age time.Duration, dryRun bool) (SweepReport, error) {
	// First the files, then the log: what is published in between is seen in the log.
	runs, err := d.staged(ctx)
	if err != nil {
		return SweepReport{}, err
	}
	var report SweepReport
	if len(runs) > 0 {
		named, err := d.named(ctx)
		if err != nil {
			return report, err
		}
		limit := now.Add(-age)
		for _, run := range runs {
			if run.newest.After(limit) {
				continue // still at work
			}
			for _, parts := range run.attempts {
				if err := d.sweepParts(ctx, parts, named, dryRun, &report); err != nil {
					return report, err
				}
			}
		}
	}
	if dryRun {
		return report, nil
	}
	swept, err := store.SweepUploads(ctx, d.b, "", age)
	report.Uploads = swept.Uploads
	if err != nil {
		return report, fmt.Errorf("export: sweeping unfinished uploads: %w", err)
	}
	return report, nil
}

func (d *Dataset) sweepParts(ctx context.Context, parts []store.Info, named map[string]bool, dryRun bool, report *SweepReport) error {
	if slices.ContainsFunc(parts, func(f store.Info) bool { return named[f.Key] }) {
		return nil // published
	}
	for _, f := range parts {
		report.Found++
		report.Bytes += f.Size
		if dryRun {
			continue
		}
		if err := d.b.Delete(ctx, f.Key); err != nil {
			return fmt.Errorf("export: sweeping: %w", err)
		}
		report.Removed++
	}
	return nil
}

// stagedRun are the parts of one run, by attempt. A run of many windows is at work for long, and publishes its first parts with its last:
// its newest part says how old it is.
type stagedRun struct {
	newest   time.Time
	attempts map[string][]store.Info
}

// staged are the parts in the dataset's directory, and in those of its windows, by run.
func (d *Dataset) staged(ctx context.Context) (map[string]*stagedRun, error) {
	runs := map[string]*stagedRun{}
	for f, err := range d.b.List(ctx, "", "") {
		if err != nil {
			return nil, fmt.Errorf("export: looking for leftovers: %w", err)
		}
		m := partName.FindStringSubmatch(f.Key)
		if m == nil {
			continue
		}
		run := runs[m[1]]
		if run == nil {
			run = &stagedRun{attempts: map[string][]store.Info{}}
			runs[m[1]] = run
		}
		if f.Modified.After(run.newest) {
			run.newest = f.Modified
		}
		run.attempts[m[2]] = append(run.attempts[m[2]], f)
	}
	return runs, nil
}

// named are the keys that anything of the log names: the oldest version that can still be read, and every entry after it. An entry
// that is gone was covered by a checkpoint; what it named and no later version needs was a tombstone there until its retention ended.
func (d *Dataset) named(ctx context.Context) (map[string]bool, error) {
	first, _, err := d.log.Readable(ctx)
	if err != nil || first < 0 {
		return nil, err
	}
	// The snapshot refuses a log that we do not understand: then nothing is swept.
	newest, err := d.log.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	oldest, err := d.log.SnapshotAt(ctx, first)
	if err != nil {
		return nil, err
	}
	entries, err := d.log.History(ctx, 0)
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	add := func(version int64, key func() (string, error)) error {
		name, err := key()
		if err != nil {
			return errors.Join(fmt.Errorf("export: version %d names a file that we cannot place: nothing is swept", version), err)
		}
		out[name] = true
		return nil
	}
	for _, s := range []*delta.Snapshot{oldest, newest} {
		for _, f := range s.Files {
			err = errors.Join(err, add(s.Version, f.Key))
		}
		for _, r := range s.Tombstones {
			err = errors.Join(err, add(s.Version, r.Key))
		}
	}
	for _, e := range entries {
		for _, a := range e.Actions {
			switch {
			case a.Add != nil:
				err = errors.Join(err, add(e.Version, a.Add.Key))
			case a.Remove != nil:
				err = errors.Join(err, add(e.Version, a.Remove.Key))
			}
		}
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}
