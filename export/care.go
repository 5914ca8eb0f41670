package export

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/store"
)

// vacuumApp is the txn by which vacuum and rollback know of each other. Its version is a time in ms since 1970: files that were removed before
// it are deleted, or about to be. A vacuum publishes it before it deletes anything; a rollback brings back no older file, and
// names the txn too, so that of the two at once one is a conflict.
const vacuumApp = "tablexport/vacuum"

// careInfo is the commitInfo of a commit that reads nothing from the source: the origin of the rows stays what it was.
func careInfo(from *delta.Snapshot, base *delta.Snapshot, operation, engine, care string, parameters map[string]string, added, removed int) delta.CommitInfo {
	origin := info{Care: care}
	for _, e := range from.Recent {
		if v := versionOf(e); v.Scope.Enforcement != "" {
			origin.Job, origin.Table, origin.Source, origin.Scope, origin.Query = v.Job, v.Table, v.Source, v.Scope, v.Query
			break
		}
	}
	return delta.CommitInfo{
		"timestamp":           time.Now().UnixMilli(),
		"operation":           operation,
		"operationParameters": parameters,
		"operationMetrics":    map[string]string{"numFiles": strconv.Itoa(added), "numRemovedFiles": strconv.Itoa(removed)},
		"isolationLevel":      "Serializable",
		"isBlindAppend":       false,
		"engineInfo":          engine,
		"readVersion":         base.Version,
		infoKey:               origin,
	}
}

// FilesGone says that an old version cannot be brought back.
type FilesGone struct {
	Version int64
	Missing int // files that are gone, or that a vacuum is deleting
	Files   int // of the version
}

// Error implements error.
func (e *FilesGone) Error() string {
	return fmt.Sprintf("export: version %d cannot be brought back: %d of its %d files are gone or about to be vacuumed; choose a newer version", e.Version, e.Missing, e.Files)
}

// Rollback publishes a version that holds what an older version held: its files and its columns, partitions and stamps. Nothing is copied, and what
// was published since stays readable as any older version does. engine is "tablexport/1.2.3".
//
// Where the newest version holds the very same nothing is published, and the Commit says Repeated. The errors: *FilesGone,
// delta.ErrNoVersion, *delta.Conflict when somebody else published meanwhile, and those of [delta.Log.Commit].
func (d *Dataset) Rollback(ctx context.Context, version int64, engine string) (Commit, error) {
	base, err := d.table(ctx)
	if err != nil {
		return Commit{}, err
	}
	target, err := d.log.SnapshotAt(ctx, version)
	if err != nil {
		return Commit{}, err
	}
	var c Commit
	c.Version, err = d.log.Apply(ctx, base, delta.Change{Build: func(base *delta.Snapshot) ([]delta.Action, error) {
		c = Commit{}
		actions, err := d.restore(ctx, base, target, &c)
		if err != nil || len(actions) == 0 {
			c.Repeated = err == nil
			return nil, err
		}
		care := fmt.Sprintf("rolled back to version %d", version)
		info := careInfo(target, base, "RESTORE", engine, care, map[string]string{"version": strconv.FormatInt(version, 10)}, c.Files, c.Removed)
		return append(actions, delta.Action{CommitInfo: info}), nil
	}})
	return c, err
}

// restore are the actions that lead from base to target.
func (d *Dataset) restore(ctx context.Context, base, target *delta.Snapshot, c *Commit) (out []delta.Action, err error) {
	now := time.Now().UnixMilli()
	live, wanted := map[string]bool{}, map[string]bool{}
	for _, f := range base.Files {
		live[f.Path] = true
	}
	gone := map[string]int64{}
	for _, r := range base.Tombstones {
		gone[r.Path] = r.DeletionTimestamp
	}
	vacuumed := base.Txns[vacuumApp].Version
	missing := 0
	for _, f := range target.Files {
		if wanted[f.Path] = true; live[f.Path] {
			continue
		}
		if vacuumed > 0 && gone[f.Path] < vacuumed { // the tombstone may have expired: then it is older than anything
			missing++
			continue
		}
		there, err := d.holds(ctx, f)
		if err != nil {
			return nil, err
		}
		if !there {
			missing++
			continue
		}
		f.DataChange = true
		out = append(out, delta.Action{Add: &f})
		c.Files, c.Bytes = c.Files+1, c.Bytes+f.Size
		if st, err := delta.ParseStats(f.Stats); err == nil {
			c.Rows += st.NumRecords
		}
	}
	if missing > 0 {
		return nil, &FilesGone{Version: target.Version, Missing: missing, Files: len(target.Files)}
	}
	for _, f := range base.Files {
		if !wanted[f.Path] {
			out = append(out, removal(f, now, true))
			c.Removed++
		}
	}
	if meta := target.Metadata; !meta.Equal(base.Metadata) {
		out = append(out, delta.Action{Metadata: &meta})
	}
	if len(out) == 0 {
		return nil, nil
	}
	out = append(out, restoreMarks(base, target, now)...)
	return append(out, delta.Action{Txn: &delta.Txn{AppID: vacuumApp, Version: vacuumed, LastUpdated: now}}), nil
}

// restoreMarks takes the progress of our jobs back with their rows: a watermark that stayed would make the next run pass over what the
// rollback took away. A txn cannot be removed; what the old version did not have begins at 0, which reads everything.
func restoreMarks(base, target *delta.Snapshot, now int64) (out []delta.Action) {
	for _, app := range slices.Sorted(maps.Keys(base.Txns)) {
		if was := target.Txns[app].Version; strings.HasPrefix(app, "tablexport/") && app != vacuumApp && was != base.Txns[app].Version {
			out = append(out, delta.Action{Txn: &delta.Txn{AppID: app, Version: was, LastUpdated: now}})
		}
	}
	return out
}

// holds says whether a file of the log is in the store, with the size that the log says.
func (d *Dataset) holds(ctx context.Context, f delta.Add) (bool, error) {
	key, err := f.Key()
	if err != nil {
		return false, err
	}
	info, err := d.b.Stat(ctx, key)
	if err != nil && store.CodeOf(err) == store.NotFound {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("export: %w", err)
	}
	return info.Size == f.Size, nil
}

// removal is the remove action of a live file.
func removal(f delta.Add, ms int64, dataChange bool) delta.Action {
	return delta.Action{Remove: &delta.Remove{
		Path: f.Path, DeletionTimestamp: ms, DataChange: dataChange, ExtendedFileMetadata: true, PartitionValues: maps.Clone(f.PartitionValues), Size: f.Size,
	}}
}
