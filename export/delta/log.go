package delta

import (
	"cmp"
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
	Recent     []Entry        // the newest entries (20 at least, as far as they are there, and 200 at most), newest first, with nothing but their commitInfo
	Checkpoint int64          // the version of the checkpoint that the reading began with, -1 if with none
}

// recentEntries bounds Snapshot.Recent; leastRecent are read even where a checkpoint makes them unnecessary.
const (
	recentEntries = 200
	leastRecent   = 20
)

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
	versions    []int64      // of the JSON entries, ascending
	checkpoints []checkpoint // those that have all their parts, ascending
	foreign     int64        // the newest checkpoint of a form that is not V1, -1 if there is none
}

// last is the newest version, -1 if there is none.
func (d *directory) last() int64 {
	last := int64(-1)
	if n := len(d.versions); n > 0 {
		last = d.versions[n-1]
	}
	if n := len(d.checkpoints); n > 0 {
		last = max(last, d.checkpoints[n-1].version)
	}
	return last
}

// missing is the newest version up to last whose entry is not there, -1 if all are.
func (d *directory) missing(last int64) int64 {
	at, found := slices.BinarySearch(d.versions, last)
	if !found {
		return last
	}
	for v := last; v >= 0; v, at = v-1, at-1 {
		if at < 0 || d.versions[at] != v {
			return v
		}
	}
	return -1
}

// list lists the log, or what belongs to the versions from first on.
func (l *Log) list(ctx context.Context, first int64) (*directory, error) {
	d := &directory{foreign: -1}
	after := ""
	if first > 0 {
		after = fmt.Sprintf("%s%020d.", logDir, first)
	}
	parts := map[int64][]store.Info{}
	for info, err := range l.b.List(ctx, logDir, after) {
		if err != nil {
			return nil, fmt.Errorf("delta: listing the log: %w", err)
		}
		head, kind, _ := strings.Cut(strings.TrimPrefix(info.Key, logDir), ".")
		version, err := strconv.ParseInt(head, 10, 64)
		if len(head) != 20 || err != nil || version < 0 {
			continue // _last_checkpoint, .crc and temporary files, directories of other engines
		}
		switch {
		case kind == "json":
			d.versions = append(d.versions, version)
		case kind == "checkpoint.parquet":
			d.checkpoints = append(d.checkpoints, checkpoint{version, []store.Info{info}})
		case partOf(kind) > 0:
			// The listing is in order, so that the parts of one checkpoint follow each other: 1 of n, 2 of n, …
			if parts[version] = append(parts[version], info); len(parts[version]) == partOf(kind) {
				d.checkpoints = append(d.checkpoints, checkpoint{version, parts[version]})
			}
		case strings.HasPrefix(kind, "checkpoint."):
			d.foreign = max(d.foreign, version)
		}
	}
	slices.SortStableFunc(d.checkpoints, func(a, b checkpoint) int { return cmp.Compare(a.version, b.version) })
	return d, nil
}

// partOf is n in the name "checkpoint.<i>.<n>.parquet" of a part of a checkpoint, or 0.
func partOf(kind string) int {
	rest, checkpoint := strings.CutPrefix(kind, "checkpoint.")
	rest, isParquet := strings.CutSuffix(rest, ".parquet")
	i, n, two := strings.Cut(rest, ".")
	if !checkpoint || !isParquet || !two || len(i) != 10 || len(n) != 10 {
		return 0
	}
	count, err := strconv.Atoi(n)
	if err != nil {
		return 0
	}
	return count
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
func (l *Log) Snapshot(ctx context.Context) (*Snapshot, error) { return l.at(ctx, -1) }

// SnapshotAt reads one version. The error is ErrNoVersion when there is none, or none any more.
func (l *Log) SnapshotAt(ctx context.Context, version int64) (*Snapshot, error) {
	if version < 0 {
		return nil, fmt.Errorf("delta: version %d: %w", version, ErrNoVersion)
	}
	return l.at(ctx, version)
}

// at reads a version, -1 for the newest: the newest checkpoint up to it, and the entries after that. The hint saves listing what lies before; if
// it leads nowhere the whole log is listed, and what an older checkpoint and more entries say is the same.
func (l *Log) at(ctx context.Context, version int64) (*Snapshot, error) {
	first, err := l.lastCheckpoint(ctx)
	if err != nil {
		return nil, err
	}
	if version >= 0 && version < first {
		first = -1
	}
	if first > 0 {
		s, err := l.listed(ctx, first, version)
		var corrupt *Corrupt
		if err == nil && s.Version >= first || err != nil && !errors.As(err, &corrupt) {
			return s, err
		}
	}
	return l.listed(ctx, -1, version)
}

func (l *Log) listed(ctx context.Context, first, version int64) (*Snapshot, error) {
	d, err := l.list(ctx, first)
	if err != nil {
		return nil, err
	}
	last := d.last()
	if version > last {
		return nil, fmt.Errorf("delta: version %d: %w (the newest is %d)", version, ErrNoVersion, last)
	}
	if version < 0 {
		version = last
	}
	return l.replay(ctx, d, version)
}

// replay reads a version of a listing.
func (l *Log) replay(ctx context.Context, d *directory, version int64) (*Snapshot, error) {
	missing := d.missing(version)
	var bad error // the newest checkpoint that could not be read
	for _, c := range slices.Backward(d.checkpoints) {
		if c.version > version || c.version < missing {
			continue
		}
		s, err := l.readCheckpoint(ctx, c)
		var corrupt *Corrupt
		if errors.As(err, &corrupt) {
			bad = cmp.Or(bad, err)
			continue
		}
		if err != nil {
			return nil, err
		}
		return l.tail(ctx, s, c.version+1, version)
	}
	if missing < 0 {
		return l.tail(ctx, newState(), 0, version)
	}
	return nil, d.unreadable(version, missing, bad)
}

// unreadable says why a version cannot be put together.
func (d *directory) unreadable(version, missing int64, bad error) error {
	switch {
	case version < d.last() && bad == nil:
		return fmt.Errorf("delta: version %d: %w any more: its log entries were removed", version, ErrNoVersion)
	case bad != nil:
		return bad
	case d.foreign >= missing:
		return &Unsupported{Version: d.foreign, Reason: fmt.Sprintf("entries up to version %d are gone, and its checkpoint is of a form newer than V1: publish to another path, "+
			"or copy the table there with the engine that made the checkpoint", missing)}
	case len(d.versions) > 0 && missing > d.versions[0]:
		return &Corrupt{Version: missing, Err: errors.New("the entry is missing, and later ones are there")}
	}
	return &Corrupt{Version: missing, Err: errors.New("the entry is missing: the log does not begin at version 0, and no checkpoint stands in for it")}
}

// tail goes on from s with the entries first to last. Some more are read for Recent, if they are there.
func (l *Log) tail(ctx context.Context, s *state, first, last int64) (*Snapshot, error) {
	entries, err := l.entries(ctx, first, last)
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
	if lack := leastRecent - int64(len(entries)); lack > 0 && first > 0 {
		more, err := l.newest(ctx, max(0, first-lack), first-1)
		if err != nil {
			return nil, err
		}
		entries = slices.Concat(more, entries)
	}
	for i := len(entries) - 1; i >= 0 && len(out.Recent) < recentEntries; i-- {
		out.Recent = append(out.Recent, brief(entries[i]))
	}
	return out, nil
}

// newest are those of the entries first to last that are there, without those before a gap.
func (l *Log) newest(ctx context.Context, first, last int64) ([]Entry, error) {
	out := make([]Entry, last-first+1)
	there := make([]bool, len(out))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readAtOnce)
	for i := range out {
		g.Go(func() (err error) {
			out[i], err = l.read(ctx, first+int64(i))
			if there[i] = err == nil; err != nil && store.CodeOf(err) == store.NotFound {
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i := len(out) - 1; i >= 0; i-- {
		if !there[i] {
			return out[i+1:], nil
		}
	}
	return out, nil
}

// Readable are the first and the last version that can still be read, -1 and -1 where there is no table. Older ones have lost their log
// entries; whether their data files are still there is another matter.
func (l *Log) Readable(ctx context.Context) (first, last int64, err error) {
	d, err := l.list(ctx, -1)
	if err != nil {
		return 0, 0, err
	}
	last = d.last()
	missing := d.missing(last)
	if missing < 0 {
		return min(last, 0), last, nil
	}
	for _, c := range d.checkpoints {
		if c.version >= missing {
			return c.version, last, nil
		}
	}
	return 0, 0, d.unreadable(last, missing, nil)
}

// state is a replay under way. Files are known by their decoded path: engines differ in what they encode.
type state struct {
	protocol *Protocol
	metadata *Metadata
	live     map[string]Add
	gone     map[string]Remove
	txns     map[string]Txn
	when     time.Time

	checkpoint int64
}

func newState() *state {
	return &state{live: map[string]Add{}, gone: map[string]Remove{}, txns: map[string]Txn{}, checkpoint: -1}
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
	out := &Snapshot{Version: version, Timestamp: s.when, Txns: s.txns, Checkpoint: s.checkpoint}
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
	d, err := l.list(ctx, -1)
	if err != nil || len(d.versions) == 0 {
		return nil, err
	}
	last := d.versions[len(d.versions)-1]
	first := d.missing(last) + 1
	if limit > 0 {
		first = max(first, last-int64(limit)+1)
	}
	out, err := l.entries(ctx, first, last)
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
