package delta

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tablexport/tablexport/export/parquet"
	"github.com/tablexport/tablexport/export/store"
)

const (
	lastCheckpointKey  = logDir + "_last_checkpoint"
	checkpointInterval = 10 // versions, unless delta.checkpointInterval says otherwise
	maxHint            = 1 << 20
)

// The configuration keys of a table that checkpoints heed.
const (
	confInterval  = "delta.checkpointInterval"
	confRetention = "delta.deletedFileRetentionDuration"
)

func checkpointKey(version int64) string {
	return fmt.Sprintf("%s%020d.checkpoint.parquet", logDir, version)
}

// actionStructs are the columns of a V1 checkpoint: PROTOCOL.md, "Checkpoint Schema". Other engines' have more; those are passed over.
var actionStructs = []parquet.Struct{
	{Name: "txn", Fields: []parquet.StructField{{Name: "appId", Kind: parquet.Text}, {Name: "version", Kind: parquet.Long}, {Name: "lastUpdated", Kind: parquet.Long}}},
	{Name: "add", Fields: []parquet.StructField{
		{Name: "path", Kind: parquet.Text}, {Name: "partitionValues", Kind: parquet.Map}, {Name: "size", Kind: parquet.Long},
		{Name: "modificationTime", Kind: parquet.Long}, {Name: "dataChange", Kind: parquet.Bool}, {Name: "tags", Kind: parquet.Map}, {Name: "stats", Kind: parquet.Text}}},
	{Name: "remove", Fields: []parquet.StructField{
		{Name: "path", Kind: parquet.Text}, {Name: "deletionTimestamp", Kind: parquet.Long}, {Name: "dataChange", Kind: parquet.Bool},
		{Name: "extendedFileMetadata", Kind: parquet.Bool}, {Name: "partitionValues", Kind: parquet.Map}, {Name: "size", Kind: parquet.Long}}},
	{Name: "metaData", Fields: []parquet.StructField{
		{Name: "id", Kind: parquet.Text}, {Name: "name", Kind: parquet.Text}, {Name: "description", Kind: parquet.Text},
		{Name: "format.provider", Kind: parquet.Text}, {Name: "format.options", Kind: parquet.Map}, {Name: "schemaString", Kind: parquet.Text},
		{Name: "partitionColumns", Kind: parquet.Texts}, {Name: "configuration", Kind: parquet.Map}, {Name: "createdTime", Kind: parquet.Long}}},
	{Name: "protocol", Fields: []parquet.StructField{
		{Name: "minReaderVersion", Kind: parquet.Int}, {Name: "minWriterVersion", Kind: parquet.Int},
		{Name: "readerFeatures", Kind: parquet.Texts}, {Name: "writerFeatures", Kind: parquet.Texts}}},
}

// The numbers of actionStructs.
const (
	txnStruct = iota
	addStruct
	removeStruct
	metadataStruct
	protocolStruct
)

// rows are the actions of a checkpoint of s. Tombstones older than keep have expired and are left out.
func (s *Snapshot) rows(keep time.Time) iter.Seq[parquet.StructRow] {
	return func(yield func(parquet.StructRow) bool) {
		row := func(n int, values ...any) bool { return yield(parquet.StructRow{Struct: n, Values: values}) }
		p, m := s.Protocol, s.Metadata
		if !row(protocolStruct, int32(p.MinReaderVersion), int32(p.MinWriterVersion), texts(p.ReaderFeatures), texts(p.WriterFeatures)) ||
			!row(metadataStruct, m.ID, notEmpty(m.Name), notEmpty(m.Description), m.Format.Provider, pointers(notNilMap(m.Format.Options)), m.SchemaString,
				notNil(m.PartitionColumns), pointers(notNilMap(m.Configuration)), m.CreatedTime) {
			return
		}
		for _, app := range slices.Sorted(maps.Keys(s.Txns)) {
			if t := s.Txns[app]; !row(txnStruct, t.AppID, t.Version, positive(t.LastUpdated)) {
				return
			}
		}
		for _, f := range s.Files {
			if !row(addStruct, f.Path, notNilMap(f.PartitionValues), f.Size, f.ModificationTime, f.DataChange, optional(f.Tags), notEmpty(f.Stats)) {
				return
			}
		}
		for _, r := range s.Tombstones {
			if r.DeletionTimestamp < keep.UnixMilli() {
				continue
			}
			var values any
			if r.PartitionValues != nil {
				values = r.PartitionValues
			}
			if !row(removeStruct, r.Path, r.DeletionTimestamp, r.DataChange, r.ExtendedFileMetadata, values, positive(r.Size)) {
				return
			}
		}
	}
}

func notEmpty(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func positive(n int64) any {
	if n == 0 {
		return nil
	}
	return n
}

func texts(list []string) any {
	if list == nil {
		return nil
	}
	return list
}

func optional(m map[string]string) any {
	if m == nil {
		return nil
	}
	return pointers(m)
}

func pointers(m map[string]string) map[string]*string {
	out := make(map[string]*string, len(m))
	for k, v := range m {
		out[k] = &v
	}
	return out
}

func values(v any) map[string]string {
	m, _ := v.(map[string]*string)
	if m == nil {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, p := range m {
		if p != nil {
			out[k] = *p
		}
	}
	return out
}

// get is the value of a field, or the zero value where it is null.
func get[T any](row parquet.StructRow, i int) T {
	v, _ := row.Values[i].(T)
	return v
}

// actionOf turns a row of a checkpoint into an action.
func actionOf(row parquet.StructRow) (Action, error) {
	str := func(i int) string { return get[string](row, i) }
	num := func(i int) int64 { return get[int64](row, i) }
	switch row.Struct {
	case txnStruct:
		return Action{Txn: &Txn{AppID: str(0), Version: num(1), LastUpdated: num(2)}}, nil
	case addStruct:
		a := &Add{Path: str(0), PartitionValues: get[map[string]*string](row, 1), Size: num(2), ModificationTime: num(3), DataChange: get[bool](row, 4), Tags: values(row.Values[5]), Stats: str(6)}
		return Action{Add: a}, needPath(a.Path)
	case removeStruct:
		r := &Remove{Path: str(0), DeletionTimestamp: num(1), DataChange: get[bool](row, 2), ExtendedFileMetadata: get[bool](row, 3), PartitionValues: get[map[string]*string](row, 4), Size: num(5)}
		return Action{Remove: r}, needPath(r.Path)
	case metadataStruct:
		return Action{Metadata: &Metadata{
			ID: str(0), Name: str(1), Description: str(2), Format: Format{Provider: str(3), Options: values(row.Values[4])}, SchemaString: str(5),
			PartitionColumns: get[[]string](row, 6), Configuration: values(row.Values[7]), CreatedTime: num(8),
		}}, nil
	}
	return Action{Protocol: &Protocol{
		MinReaderVersion: int(get[int32](row, 0)), MinWriterVersion: int(get[int32](row, 1)), ReaderFeatures: get[[]string](row, 2), WriterFeatures: get[[]string](row, 3),
	}}, nil
}

// checkpoint is one that a listing shows with all its parts.
type checkpoint struct {
	version int64
	parts   []store.Info
}

// readCheckpoint begins a replay with a checkpoint.
func (l *Log) readCheckpoint(ctx context.Context, c checkpoint) (*state, error) {
	parts := make([][]Action, len(c.parts))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readAtOnce)
	for i, part := range c.parts {
		g.Go(func() (err error) {
			parts[i], err = l.readPart(ctx, part)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		if code := store.CodeOf(err); ctx.Err() != nil && code == store.Canceled || code == store.Unavailable || code == store.Permission {
			return nil, fmt.Errorf("delta: reading the checkpoint of version %d: %w", c.version, err)
		}
		return nil, &Corrupt{Version: c.version, Checkpoint: true, Err: err}
	}
	s := newState()
	if err := s.apply(Entry{Version: c.version, Timestamp: c.parts[0].Modified, Actions: slices.Concat(parts...)}); err != nil {
		return nil, err
	}
	if s.protocol == nil || s.metadata == nil {
		return nil, &Corrupt{Version: c.version, Checkpoint: true, Err: errors.New("it has no protocol or no metaData action")}
	}
	s.checkpoint = c.version
	return s, nil
}

// readPart reads one file of a checkpoint, at once: it becomes the snapshot anyway.
func (l *Log) readPart(ctx context.Context, part store.Info) ([]Action, error) {
	r, _, err := l.b.Open(ctx, part.Key)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	return decodeCheckpoint(data)
}

func decodeCheckpoint(data []byte) (actions []Action, err error) {
	for row, err := range parquet.Structs(bytes.NewReader(data), int64(len(data)), actionStructs) {
		if err != nil {
			return nil, err
		}
		a, err := actionOf(row)
		if err != nil {
			return nil, err
		}
		actions = append(actions, a)
	}
	return actions, nil
}

// hint is what _last_checkpoint says.
type hint struct {
	Version       int64 `json:"version"`
	Size          int64 `json:"size"` // actions
	SizeInBytes   int64 `json:"sizeInBytes,omitempty"`
	NumOfAddFiles int64 `json:"numOfAddFiles,omitempty"`
}

// lastCheckpoint is the version that the hint names, or -1. It only saves listing old entries: whatever is wrong with it means that
// all are listed.
func (l *Log) lastCheckpoint(ctx context.Context) (int64, error) {
	r, info, err := l.b.Open(ctx, lastCheckpointKey)
	switch {
	case err != nil && store.CodeOf(err) == store.NotFound:
		return -1, nil
	case err != nil:
		return -1, fmt.Errorf("delta: reading the log: %w", err)
	}
	defer func() { _ = r.Close() }()
	if info.Size > maxHint {
		return -1, nil
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return -1, fmt.Errorf("delta: reading the log: %w", err)
	}
	h := hint{Version: -1}
	if json.Unmarshal(data, &h) != nil {
		return -1, nil
	}
	return max(h.Version, -1), nil
}

// interval is after how many versions the table wants a checkpoint.
func (s *Snapshot) interval() int64 {
	if n, err := strconv.ParseInt(s.Metadata.Configuration[confInterval], 10, 64); err == nil && n > 0 {
		return n
	}
	return checkpointInterval
}

// checkpointAfter writes a checkpoint of the version that was just published on top of base, if one is due. Whether it succeeds does not
// matter to the commit, and the next commit tries again: so its error is nobody's.
func (l *Log) checkpointAfter(ctx context.Context, base *Snapshot, version int64, actions []Action) {
	s := stateOf(base)
	if err := s.apply(Entry{Version: version, Timestamp: time.Now(), Actions: actions}); err != nil {
		return
	}
	now, err := s.snapshot(version)
	if err != nil || version-max(base.Checkpoint, 0) < now.interval() {
		return
	}
	_ = l.Checkpoint(ctx, now)
}

// Checkpoint writes a V1 checkpoint of a snapshot, and the hint to it. Tombstones older than the table's
// delta.deletedFileRetentionDuration are left out. The log's entries stay.
//
// A crash in here leaves an unfinished upload, a checkpoint without a hint, or both whole: readers need neither. The checkpoint counts only
// after it was read back.
func (l *Log) Checkpoint(ctx context.Context, s *Snapshot) error {
	if s.Version < 0 {
		return invalid("there is no table")
	}
	keep := time.Now().Add(-s.DeletedFileRetention())
	key := checkpointKey(s.Version)
	up, err := l.b.Create(ctx, key)
	if err != nil {
		return fmt.Errorf("delta: writing a checkpoint: %w", err)
	}
	n, err := parquet.WriteStructs(up, actionStructs, s.rows(keep))
	if err != nil {
		_ = up.Abort(context.WithoutCancel(ctx)) // what stays is the sweeper's
		return fmt.Errorf("delta: writing a checkpoint: %w", err)
	}
	info, err := up.Commit(ctx)
	if err != nil {
		_ = up.Abort(context.WithoutCancel(ctx))
		if store.CodeOf(err) != store.AlreadyExists { // else another writer was as quick
			return fmt.Errorf("delta: writing a checkpoint: %w", err)
		}
	} else {
		back, err := l.readPart(ctx, info)
		if err != nil || int64(len(back)) != n {
			// Bad bytes in a new file: readers would fall back to the entries, but those may go one day.
			return errors.Join(&Corrupt{Version: s.Version, Checkpoint: true, Err: cmp.Or(err, fmt.Errorf("%d of %d actions could be read back", len(back), n))}, l.b.Delete(context.WithoutCancel(ctx), key))
		}
	}
	data, err := json.Marshal(hint{Version: s.Version, Size: n, SizeInBytes: info.Size, NumOfAddFiles: int64(len(s.Files))})
	if err == nil {
		err = l.b.Put(ctx, lastCheckpointKey, data)
	}
	if err != nil {
		return fmt.Errorf("delta: writing the hint to a checkpoint: %w", err)
	}
	return nil
}
