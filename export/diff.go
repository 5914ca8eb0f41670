package export

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/parquet"
	"github.com/tablexport/tablexport/export/store"
)

// Diff is how two versions of a dataset differ, row by row.
type Diff struct {
	From      int64    `json:"from"`
	To        int64    `json:"to"`
	Key       []string `json:"key"`
	Added     int64    `json:"added"`   // rows with a key that the older version does not have
	Removed   int64    `json:"removed"` // rows with a key that the newer version does not have
	Changed   int64    `json:"changed"` // rows of both with another value in some column
	Unchanged int64    `json:"unchanged"`
	Columns   []string `json:"columns,omitempty"` // that only one version has, or that changed type: not compared
}

// ErrNotKey is in the error of Diff for columns that do not identify a row.
var ErrNotKey = errors.New("the columns do not identify a row")

// diffRows is how many rows of one version are held at once, 32 bytes each. Larger versions are read more than once, each time for
// another share of the keys, so that the memory stays below 2 × 64 MiB whatever their size.
const diffRows = 2 << 20

// Diff compares two versions by the columns of key. It reads the files that the log names for them, older ones too, which stay where
// they are after a refresh. The error is delta.ErrNoVersion for a version that is not there, and ErrNotKey for a key that is none.
func (d *Dataset) Diff(ctx context.Context, from, to int64, key []string) (Diff, error) {
	return d.diff(ctx, from, to, key, diffRows)
}

func (d *Dataset) diff(ctx context.Context, from, to int64, key []string, atOnce int64) (Diff, error) {
	out := Diff{From: from, To: to, Key: key}
	if len(key) == 0 {
		return out, fmt.Errorf("export: %w: there are none", ErrNotKey)
	}
	var sides [2]*delta.Snapshot
	var schemas [2]*arrow.Schema
	rows := int64(0)
	for i, version := range []int64{from, to} {
		s, err := d.log.SnapshotAt(ctx, version)
		if err != nil {
			return out, err
		}
		if sides[i] = s; s.Version < 0 {
			return out, &noTable{d.name()}
		}
		if schemas[i], err = fileSchema(s); err != nil {
			return out, err
		}
		files, err := d.files(s)
		if err != nil {
			return out, err
		}
		n := int64(0)
		for _, f := range files {
			n += max(f.Rows, 0)
		}
		rows = max(rows, n)
	}
	rest, others := commonColumns(schemas, key)
	out.Columns = others
	for _, k := range key {
		if slices.Contains(others, k) || !schemas[0].HasField(k) {
			return out, fmt.Errorf("export: %w: %s is not a column of both versions, with one type", ErrNotKey, k)
		}
	}
	passes := uint64(rows/atOnce + 1)
	for pass := range passes {
		var shares [2][]digested
		for i := range sides {
			var err error
			if shares[i], err = d.share(ctx, sides[i], key, rest, pass, passes); err != nil {
				return out, err
			}
		}
		out.merge(shares[0], shares[1])
	}
	return out, nil
}

// commonColumns are the columns beside the key that both versions have with one type, and those that they have not.
func commonColumns(schemas [2]*arrow.Schema, key []string) (common, others []string) {
	for _, f := range schemas[0].Fields() {
		at := schemas[1].FieldIndices(f.Name)
		switch {
		case len(at) != 1 || !arrow.TypeEqual(schemas[1].Field(at[0]).Type, f.Type):
			others = append(others, f.Name)
		case !slices.Contains(key, f.Name):
			common = append(common, f.Name)
		}
	}
	for _, f := range schemas[1].Fields() {
		if !schemas[0].HasField(f.Name) {
			others = append(others, f.Name)
		}
	}
	return common, others
}

type digested struct{ key, rest parquet.Digest }

// share reads the rows of a version whose keys fall to a pass, sorted by key.
func (d *Dataset) share(ctx context.Context, s *delta.Snapshot, key, rest []string, pass, passes uint64) ([]digested, error) {
	var out []digested
	for _, f := range s.Files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		name, err := f.Key()
		if err != nil {
			return nil, err
		}
		info, err := d.b.Stat(ctx, name)
		if store.CodeOf(err) == store.NotFound {
			return nil, fmt.Errorf("export: the file %s of version %d is gone: versions whose files were removed cannot be compared", name, s.Version)
		}
		if err != nil {
			return nil, fmt.Errorf("export: %w", err)
		}
		file, err := parquet.Open(d.readerAt(ctx, name), info.Size)
		if err != nil {
			return nil, fmt.Errorf("export: %s: %w", name, err)
		}
		for group, err := range file.Digests(key, rest) {
			if err != nil {
				return nil, fmt.Errorf("export: %s: %w", name, err)
			}
			for i, k := range group.Key {
				if binary.BigEndian.Uint64(k[:])%passes == pass {
					out = append(out, digested{k, group.Rest[i]})
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b digested) int { return slices.Compare(a.key[:], b.key[:]) })
	for i := 1; i < len(out); i++ {
		if out[i].key == out[i-1].key {
			return nil, fmt.Errorf("export: %w: version %d has two rows with the same %s", ErrNotKey, s.Version, strings.Join(key, ", "))
		}
	}
	return out, nil
}

// merge counts what two sorted shares say.
func (out *Diff) merge(from, to []digested) {
	for len(from) > 0 && len(to) > 0 {
		switch order := slices.Compare(from[0].key[:], to[0].key[:]); {
		case order < 0:
			out.Removed++
			from = from[1:]
		case order > 0:
			out.Added++
			to = to[1:]
		default:
			if from[0].rest == to[0].rest {
				out.Unchanged++
			} else {
				out.Changed++
			}
			from, to = from[1:], to[1:]
		}
	}
	out.Removed += int64(len(from))
	out.Added += int64(len(to))
}
