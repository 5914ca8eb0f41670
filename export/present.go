package export

import (
	"context"
	"fmt"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/store"
)

// MissingFiles returns the keys of a version's files that the store does not have any more: none if the version can be read.
// The error is a delta.ErrNoVersion for a version that the log does not have.
func (d *Dataset) MissingFiles(ctx context.Context, version int64) ([]string, error) {
	s, err := d.log.SnapshotAt(ctx, version)
	if err != nil {
		return nil, err
	}
	var missing []string
	for _, f := range s.Files {
		key, err := f.Key()
		if err != nil {
			return nil, err
		}
		_, err = d.b.Stat(ctx, key)
		if store.CodeOf(err) == store.NotFound {
			missing = append(missing, key)
		} else if err != nil {
			return nil, fmt.Errorf("export: %w", err)
		}
	}
	return missing, nil
}

// FilesAt returns the files of a version, sorted by key.
func (d *Dataset) FilesAt(ctx context.Context, version int64) ([]LiveFile, error) {
	s, err := d.log.SnapshotAt(ctx, version)
	if err != nil {
		return nil, err
	}
	return d.files(s)
}

// RowsOf is how many rows the files of a snapshot hold, as its log says.
func (d *Dataset) RowsOf(s *delta.Snapshot) (int64, error) {
	files, err := d.files(s)
	if err != nil {
		return 0, err
	}
	rows := int64(0)
	for _, f := range files {
		if f.Rows < 0 {
			return 0, fmt.Errorf("export: the log of %s does not say how many rows %s has", d.name(), f.Key)
		}
		rows += f.Rows
	}
	return rows, nil
}
