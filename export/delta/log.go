package delta

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tablexport/tablexport/export/store"
)

const (
	logDir       = "_delta_log/"
	maxEntry     = 256 << 20 // bytes of one log entry; ours are a few KiB
	readAtOnce   = 8         // log entries read at the same time
	lookFor      = 30 * time.Second
	maxTries     = 32 // versions tried in one commit
	maxRepeats   = 3  // puts of one version whose outcome stays open
	repeatPause  = 200 * time.Millisecond
	commitIDName = "txnId" // the name that Spark uses for it in commitInfo
)

// Log is the transaction log of the table whose root is the bucket's root. It is safe for concurrent use and keeps nothing.
type Log struct {
	b store.Bucket
}

// Open returns the log of the table at the root of b (see store.Prefixed). It reads nothing.
func Open(b store.Bucket) *Log { return &Log{b: b} }

// Snapshot is a table at one version.
type Snapshot struct {
	Version    int64 // -1: there is no table
	Timestamp  time.Time
	Protocol   Protocol
	Metadata   Metadata
	Files      []Add // live files, sorted by path
	Tombstones []Remove
	Txns       map[string]Txn // by appId
	Recent     []Entry        // the newest entries (200 at most), newest first, with nothing but their commitInfo
}

// recentEntries bounds Snapshot.Recent.
const recentEntries = 200

// Entry is one version in the history.
type Entry struct {
	Version   int64
	Timestamp time.Time
	Actions   []Action
}

// CommitInfo is the entry's commitInfo action, nil if it has none.
func (e Entry) CommitInfo() CommitInfo {
	for _, a := range e.Actions {
		if a.CommitInfo != nil {
			return a.CommitInfo
		}
	}
	return nil
}

func entryKey(version int64) string { return fmt.Sprintf("%s%020d.json", logDir, version) }

// directory is what a listing of the log's directory shows.
type directory struct {
	entries    []store.Info // the JSON entries, ascending and without a gap
	first      int64        // the version of entries[0]
	checkpoint int64        // the newest checkpoint, -1 if there is none
}

func (d *directory) last() int64 { return d.first + int64(len(d.entries)) - 1 }

func (l *Log) list(ctx context.Context) (*directory, error) {
	d := &directory{checkpoint: -1}
	for info, err := range l.b.List(ctx, logDir, "") {
		if err != nil {
			return nil, fmt.Errorf("delta: listing the log: %w", err)
		}
		name := strings.TrimPrefix(info.Key, logDir)
		head, kind, _ := strings.Cut(name, ".")
		version, err := strconv.ParseInt(head, 10, 64)
		if len(head) != 20 || err != nil || version < 0 {
			continue // _last_checkpoint, .crc and temporary files, directories of other engines
		}
		switch {
		case strings.HasPrefix(kind, "checkpoint."):
			d.checkpoint = max(d.checkpoint, version)
		case kind == "json":
			if len(d.entries) == 0 {
				d.first = version
			} else if want := d.last() + 1; version != want {
				return nil, &Corrupt{Version: want, Err: errors.New("the entry is missing, and later ones are there")}
			}
			d.entries = append(d.entries, info)
		}
	}
	return d, d.complete()
}

// complete: replaying needs every entry from version 0 on.
func (d *directory) complete() error {
	switch {
	case len(d.entries) == 0 && d.checkpoint >= 0:
		return &Unsupported{Version: d.checkpoint, Reason: fmt.Sprintf("its log has a checkpoint at version %d, written by another engine, and no JSON entries; "+
			"checkpoints are not read: publish to another path, or copy the table there with the engine that made the checkpoint", d.checkpoint)}
	case len(d.entries) > 0 && d.first > 0 && d.checkpoint >= d.first-1:
		return &Unsupported{Version: d.last(), Reason: fmt.Sprintf("its log begins at version %d, because another engine made a checkpoint (version %d) and removed the entries before; "+
			"checkpoints are not read: publish to another path, or copy the table there with the engine that made the checkpoint", d.first, d.checkpoint)}
	case len(d.entries) > 0 && d.first > 0:
		return &Corrupt{Version: d.first - 1, Err: errors.New("the entry is missing: the log does not begin at version 0, and no checkpoint stands in for it")}
	}
	return nil
}

// read reads and decodes one entry.
func (l *Log) read(ctx context.Context, version int64) (Entry, error) {
	e := Entry{Version: version}
	r, info, err := l.b.Open(ctx, entryKey(version))
	if err != nil {
		return e, fmt.Errorf("delta: reading version %d: %w", version, err)
	}
	defer func() { _ = r.Close() }()
	data, err := io.ReadAll(io.LimitReader(r, maxEntry+1))
	if err != nil {
		return e, fmt.Errorf("delta: reading version %d: %w", version, err)
	}
	if len(data) > maxEntry {
		return e, &Corrupt{Version: version, Err: fmt.Errorf("the entry is longer than %d bytes", maxEntry)}
	}
	if int64(len(data)) < info.Size {
		return e, fmt.Errorf("delta: reading version %d: %d of %d bytes came", version, len(data), info.Size)
	}
	if e.Actions, err = decode(version, data); err != nil {
		return e, err
	}
	e.Timestamp = info.Modified
	if ms, ok := millis(e.CommitInfo()["timestamp"]); ok {
		e.Timestamp = time.UnixMilli(ms).UTC()
	}
	return e, nil
}

func millis(v any) (int64, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	ms, err := n.Int64()
	return ms, err == nil && ms > 0
}

// entries reads versions first to last, some at a time.
func (l *Log) entries(ctx context.Context, first, last int64) ([]Entry, error) {
	out := make([]Entry, last-first+1)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readAtOnce)
	for i := range out {
		g.Go(func() (err error) {
			out[i], err = l.read(ctx, first+int64(i))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return out, nil
}

// Snapshot reads the newest version. A bucket without a log gives Version -1 and no error.
func (l *Log) Snapshot(ctx context.Context) (*Snapshot, error) {
	d, err := l.list(ctx)
	if err != nil {
		return nil, err
	}
	return l.replay(ctx, d.last())
}

// SnapshotAt reads one version. The error is ErrNoVersion when there is none.
func (l *Log) SnapshotAt(ctx context.Context, version int64) (*Snapshot, error) {
	d, err := l.list(ctx)
	if err != nil {
		return nil, err
	}
	if version < 0 || version > d.last() {
		return nil, fmt.Errorf("delta: version %d: %w (the newest is %d)", version, ErrNoVersion, d.last())
	}
	return l.replay(ctx, version)
}

func (l *Log) replay(ctx context.Context, last int64) (*Snapshot, error) {
	s := newState()
	entries, err := l.entries(ctx, 0, last)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if err := s.apply(e); err != nil {
			return nil, err
		}
	}
	out, err := s.snapshot(last)
	if err != nil {
		return nil, err
	}
	for i := len(entries) - 1; i >= 0 && len(out.Recent) < recentEntries; i-- {
		out.Recent = append(out.Recent, brief(entries[i]))
	}
	return out, nil
}

// state is a replay under way. Files are known by their decoded path: engines differ in what they encode.
type state struct {
	protocol *Protocol
	metadata *Metadata
	live     map[string]Add
	gone     map[string]Remove
	txns     map[string]Txn
	when     time.Time
}

func newState() *state {
	return &state{live: map[string]Add{}, gone: map[string]Remove{}, txns: map[string]Txn{}}
}

func (s *state) apply(e Entry) error {
	s.when = e.Timestamp
	for _, a := range e.Actions {
		switch {
		case a.Protocol != nil:
			if err := readable(e.Version, a.Protocol); err != nil {
				return err
			}
			s.protocol = a.Protocol
		case a.Metadata != nil:
			if p := a.Metadata.Format.Provider; p != "parquet" {
				return &Unsupported{Version: e.Version, Reason: fmt.Sprintf("its files are of the format %q, not parquet", p)}
			}
			s.metadata = a.Metadata
		case a.Txn != nil:
			s.txns[a.Txn.AppID] = *a.Txn
		case a.Remove != nil:
			name := identity(a.Remove.Path)
			delete(s.live, name)
			s.gone[name] = *a.Remove
		}
	}
	// The actions of a commit have no order: what it adds is there afterwards.
	for _, a := range e.Actions {
		if a.Add != nil {
			name := identity(a.Add.Path)
			s.live[name] = *a.Add
			delete(s.gone, name)
		}
	}
	return nil
}

func identity(path string) string {
	if key, err := pathKey(path); err == nil {
		return key
	}
	return path
}

// readable refuses tables whose rows we could not tell right: PROTOCOL.md, "Protocol Evolution".
func readable(version int64, p *Protocol) error {
	if p.MinReaderVersion > 1 || len(p.ReaderFeatures) > 0 {
		return &Unsupported{Version: version, Reason: fmt.Sprintf("it needs a reader of version %d%s, and this one has version 1", p.MinReaderVersion, features(p.ReaderFeatures))}
	}
	return nil
}

// writable refuses tables that we would break by writing.
func writable(s *Snapshot) error {
	p := s.Protocol
	if p.MinWriterVersion > 2 || len(p.WriterFeatures) > 0 {
		return &Unsupported{Version: s.Version, Reason: fmt.Sprintf("it needs a writer of version %d%s, and this one has version 2", p.MinWriterVersion, features(p.WriterFeatures))}
	}
	return nil
}

func features(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return " with the features " + strings.Join(names, ", ")
}

func (s *state) snapshot(version int64) (*Snapshot, error) {
	out := &Snapshot{Version: version, Timestamp: s.when, Txns: s.txns}
	if version < 0 {
		return out, nil
	}
	if s.protocol == nil || s.metadata == nil {
		return nil, &Corrupt{Version: 0, Err: errors.New("the log has no protocol or no metaData action")}
	}
	out.Protocol, out.Metadata = *s.protocol, *s.metadata
	for _, name := range slices.Sorted(maps.Keys(s.live)) {
		out.Files = append(out.Files, s.live[name])
	}
	for _, name := range slices.Sorted(maps.Keys(s.gone)) {
		out.Tombstones = append(out.Tombstones, s.gone[name])
	}
	return out, nil
}

// History returns the newest limit entries (0 = all that are still there), newest first.
func (l *Log) History(ctx context.Context, limit int) ([]Entry, error) {
	d, err := l.list(ctx)
	if err != nil {
		return nil, err
	}
	first := int64(0)
	if limit > 0 {
		first = max(0, d.last()-int64(limit)+1)
	}
	out, err := l.entries(ctx, first, d.last())
	if err != nil {
		return nil, err
	}
	slices.Reverse(out)
	return out, nil
}

// Entry reads one version.
func (l *Log) Entry(ctx context.Context, version int64) (Entry, error) {
	e, err := l.read(ctx, version)
	if store.CodeOf(err) == store.NotFound && err != nil {
		return e, fmt.Errorf("delta: version %d: %w", version, ErrNoVersion)
	}
	return e, err
}
