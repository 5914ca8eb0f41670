package delta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"pgregory.net/rapid"

	"github.com/tablexport/tablexport/export/exporttest/judge"
	"github.com/tablexport/tablexport/export/parquet"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/filestore"
	"github.com/tablexport/tablexport/export/store/memstore"
	"github.com/tablexport/tablexport/export/store/storetest"
)

// told is what a snapshot says, without where it was read from and without Recent.
func told(s *Snapshot) string {
	c := *s
	c.Recent, c.Checkpoint = nil, 0
	c.Timestamp = time.Time{}
	c.Metadata.Format.Options = notNilMap(c.Metadata.Format.Options)
	var b strings.Builder
	for _, f := range c.Files {
		fmt.Fprintf(&b, "%s %d %d %v %s %v", f.Path, f.Size, f.ModificationTime, f.DataChange, f.Stats, f.Tags)
		partition(&b, f.PartitionValues)
	}
	for _, r := range c.Tombstones {
		fmt.Fprintf(&b, "- %s %d %d %v %v", r.Path, r.Size, r.DeletionTimestamp, r.DataChange, r.ExtendedFileMetadata)
		partition(&b, r.PartitionValues)
	}
	c.Files, c.Tombstones = nil, nil
	fmt.Fprintf(&b, "%+v", c)
	return b.String()
}

func partition(b *strings.Builder, m map[string]*string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if m[k] == nil {
			fmt.Fprintf(b, " %s=null", k)
		} else {
			fmt.Fprintf(b, " %s=%q", k, *m[k])
		}
	}
	b.WriteString("\n")
}

// forget deletes the log's entries up to a version.
func forget(t testing.TB, b store.Bucket, upTo int64) {
	t.Helper()
	for v := range upTo + 1 {
		if err := b.Delete(t.Context(), entryKey(v)); err != nil {
			t.Fatal(err)
		}
	}
}

func checkpointsOf(t testing.TB, b store.Bucket) (out []string) {
	t.Helper()
	for info, err := range b.List(t.Context(), logDir, "") {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(info.Key, "checkpoint") {
			out = append(out, strings.TrimPrefix(info.Key, logDir))
		}
	}
	return out
}

// A table that lives on: whatever its checkpoints and entries are, each version that can be read is the one that the entries tell.
func TestCheckpointProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := memstore.New()
		l := Open(b)
		ctx := context.Background()
		text := rapid.StringMatching(`[a-zé ="\\]{0,6}`)
		every := rapid.Int64Range(1, 4).Draw(t, "interval")
		meta := Metadata{
			ID: "id-1", Name: text.Draw(t, "name"), Format: Format{Provider: "parquet"}, SchemaString: schemaMonths, PartitionColumns: []string{"month"},
			Configuration: map[string]string{confInterval: fmt.Sprint(every), text.Draw(t, "key"): text.Draw(t, "value")}, CreatedTime: 7,
		}
		first := []Action{{Protocol: &Protocol{MinReaderVersion: 1, MinWriterVersion: 2}}, {Metadata: &meta}}
		if _, err := l.Commit(ctx, &Snapshot{Version: -1}, first); err != nil {
			t.Fatal(err)
		}
		now := time.Now().UnixMilli()
		for i := range rapid.IntRange(1, 8).Draw(t, "commits") {
			s, err := l.Snapshot(ctx)
			if err != nil {
				t.Fatal(err)
			}
			actions := []Action{{Txn: &Txn{AppID: "app" + text.Draw(t, "app"), Version: int64(i), LastUpdated: rapid.Int64Range(0, 2).Draw(t, "updated")}}}
			for _, f := range s.Files {
				if rapid.IntRange(0, 3).Draw(t, "remove") == 0 {
					actions = append(actions, Action{Remove: &Remove{Path: f.Path, DeletionTimestamp: now, DataChange: true, ExtendedFileMetadata: true, PartitionValues: f.PartitionValues, Size: f.Size}})
				}
			}
			for j := range rapid.IntRange(0, 3).Draw(t, "adds") {
				var month *string
				if m := text.Draw(t, "month"); m != "" {
					month = &m
				}
				add := &Add{Path: EncodePath(fmt.Sprintf("month=%d/f %d", i, j)), PartitionValues: map[string]*string{"month": month}, Size: int64(j), ModificationTime: now, DataChange: j != 1}
				if rapid.Bool().Draw(t, "tags") {
					add.Tags, add.Stats = map[string]string{"tablexport.run": text.Draw(t, "run")}, `{"numRecords":3}`
				}
				actions = append(actions, Action{Add: add})
			}
			if _, err := l.Commit(ctx, s, actions); err != nil {
				t.Fatal(err)
			}
		}
		// The truth is the entries alone.
		entries, err := l.list(ctx, -1)
		if err != nil {
			t.Fatal(err)
		}
		checkpoints := entries.checkpoints
		if last := entries.last(); last >= every != (len(checkpoints) > 0) {
			t.Fatalf("%d checkpoints at version %d", len(checkpoints), last)
		}
		entries.checkpoints = nil
		var truth []string
		for v := range entries.last() + 1 {
			s, err := l.replay(ctx, entries, v)
			if err != nil {
				t.Fatal(err)
			}
			truth = append(truth, told(s))
		}
		gone := rapid.Int64Range(-1, entries.last()).Draw(t, "entries gone")
		for v := range gone + 1 {
			if err := b.Delete(ctx, entryKey(v)); err != nil {
				t.Fatal(err)
			}
		}
		if rapid.Bool().Draw(t, "no hint") {
			if err := b.Delete(ctx, lastCheckpointKey); err != nil {
				t.Fatal(err)
			}
		}
		for v, want := range truth {
			at := slices.IndexFunc(checkpoints, func(c checkpoint) bool { return c.version <= int64(v) && (c.version >= gone || c.version == int64(v)) })
			s, err := l.SnapshotAt(ctx, int64(v))
			switch {
			case gone < 0 || at >= 0:
				if err != nil || told(s) != want {
					t.Fatalf("version %d: %v\n%s\nwant\n%s", v, err, told(s), want)
				}
			case err == nil:
				t.Fatalf("version %d was read", v)
			}
		}
	})
}

// Tombstones are in a checkpoint until the table's retention ends.
func TestCheckpointDropsExpiredTombstones(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memstore.New()
		l := Open(b)
		meta := &Metadata{ID: "id-1", Format: Format{Provider: "parquet"}, SchemaString: schemaOne, Configuration: map[string]string{confRetention: "interval 2 days"}}
		mustCommit(t, l, mustSnapshot(t, l), append([]Action{{Protocol: &Protocol{MinReaderVersion: 1, MinWriterVersion: 2}}, {Metadata: meta}}, adds("a", "b", "c")...))
		gone := func(name string) []Action {
			r := removes(name)
			r[0].Remove.DeletionTimestamp = time.Now().UnixMilli()
			return r
		}
		mustCommit(t, l, mustSnapshot(t, l), gone("a"))
		time.Sleep(47 * time.Hour)
		mustCommit(t, l, mustSnapshot(t, l), gone("b"))
		for _, want := range []int{2, 1} {
			if err := l.Checkpoint(t.Context(), mustSnapshot(t, l)); err != nil {
				t.Fatal(err)
			}
			if s := mustSnapshot(t, l); len(s.Tombstones) != want || s.Checkpoint != s.Version || len(s.Files) != 1 {
				t.Fatalf("%+v", s)
			}
			time.Sleep(2 * time.Hour)
			mustCommit(t, l, mustSnapshot(t, l), nil)
		}
	})
}

// grow publishes versions until there are n.
func grow(t testing.TB, b store.Bucket, n int64) {
	t.Helper()
	l := Open(b)
	for {
		s, err := l.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s.Version >= n {
			return
		}
		actions := create()
		if s.Version >= 0 {
			actions = adds(fmt.Sprintf("f%d", s.Version))
			for _, f := range s.Files {
				r := removes(f.Path)
				r[0].Remove.DeletionTimestamp = time.Now().UnixMilli()
				actions = append(actions, r...)
			}
		}
		if _, err := l.Commit(t.Context(), s, actions); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCheckpointIsReadFirst(t *testing.T) {
	b := memstore.New()
	grow(t, b, 43)
	if got := checkpointsOf(t, b); len(got) != 5 || got[4] != "_last_checkpoint" {
		t.Fatal(got)
	}
	counted := storetest.Faulty(b)
	s, err := Open(counted).Snapshot(t.Context())
	if err != nil || s.Version != 43 || s.Checkpoint != 40 || len(s.Recent) != leastRecent || s.Recent[19].Version != 24 {
		t.Fatalf("%v %+v", err, s)
	}
	if n := counted.Count("open") + counted.Count("list"); n > 1+1+1+leastRecent {
		t.Fatalf("%d requests", n)
	}
	want := told(s)
	// What is damaged or gone is passed over as long as something else tells the same.
	for _, c := range []struct {
		name string
		do   func()
	}{
		{"hint is nonsense", func() { put(t, b, lastCheckpointKey, "{") }},
		{"hint is ahead", func() { put(t, b, lastCheckpointKey, `{"version":77,"size":1}`) }},
		{"hint is behind", func() { put(t, b, lastCheckpointKey, `{"version":10,"size":1}`) }},
		{"hint to what is not there", func() { put(t, b, lastCheckpointKey, `{"version":41,"size":1}`) }},
		{"newest is damaged", func() { put(t, b, checkpointKey(40), "PAR1") }},
		{"newest is gone", func() { _ = b.Delete(t.Context(), checkpointKey(40)) }},
		{"entries before are gone", func() { forget(t, b, 29) }},
		{"no hint", func() { _ = b.Delete(t.Context(), lastCheckpointKey) }},
	} {
		c.do()
		s, err := Open(b).Snapshot(t.Context())
		if err != nil || told(s) != want {
			t.Fatalf("%s: %v", c.name, err)
		}
	}
	if first, last, err := Open(b).Readable(t.Context()); err != nil || first != 30 || last != 43 {
		t.Fatal(first, last, err)
	}
	if h, err := Open(b).History(t.Context(), 0); err != nil || len(h) != 14 || h[13].Version != 30 {
		t.Fatal(len(h), err)
	}
	if _, err := Open(b).SnapshotAt(t.Context(), 29); !errors.Is(err, ErrNoVersion) {
		t.Fatal(err)
	}
	// And where nothing else does, the error names it.
	put(t, b, checkpointKey(30), "PAR1")
	var corrupt *Corrupt
	if _, err := Open(b).Snapshot(t.Context()); !errors.As(err, &corrupt) || !corrupt.Checkpoint || !strings.Contains(err.Error(), "the checkpoint of version 30") {
		t.Fatal(err)
	}
}

// A checkpoint in parts, as other engines make of large tables: it counts once all are there.
func TestCheckpointInParts(t *testing.T) {
	b := memstore.New()
	grow(t, b, 12)
	want := told(mustSnapshot(t, Open(b)))
	s, err := Open(b).SnapshotAt(t.Context(), 11)
	if err != nil {
		t.Fatal(err)
	}
	rows := slices.Collect(s.rows(time.Time{}))
	for i := range 3 {
		var part []parquet.StructRow
		for j := i; j < len(rows); j += 3 {
			part = append(part, rows[j])
		}
		if i == 2 { // so far only two of three
			if s := mustSnapshot(t, Open(b)); s.Checkpoint != 10 || told(s) != want {
				t.Fatalf("%+v", s)
			}
		}
		var buf bytes.Buffer
		if _, err := parquet.WriteStructs(&buf, actionStructs, slices.Values(part)); err != nil {
			t.Fatal(err)
		}
		put(t, b, fmt.Sprintf("%s%020d.checkpoint.%010d.%010d.parquet", logDir, 11, i+1, 3), buf.String())
	}
	forget(t, b, 11)
	if s := mustSnapshot(t, Open(b)); s.Checkpoint != 11 || told(s) != want {
		t.Fatalf("%+v", s)
	}
}

// At every operation of a commit with a checkpoint, before and after its effect: the commit's answer is that of a commit without one, and
// whatever is left behind, every reader reads the same.
func TestFaultsWhileCheckpointing(t *testing.T) {
	for _, when := range []storetest.When{storetest.Before, storetest.After} {
		for _, crash := range []bool{false, true} {
			fired := 1
			for n := 1; fired > 0; n++ {
				synctest.Test(t, func(t *testing.T) {
					b := memstore.New()
					actions := create("a")
					actions[2].Metadata.Configuration = map[string]string{confInterval: "2"}
					mustCommit(t, Open(b), mustSnapshot(t, Open(b)), actions)
					mustCommit(t, Open(b), mustSnapshot(t, Open(b)), adds("b"))
					base := mustSnapshot(t, Open(b))
					bad := storetest.Faulty(b, storetest.Fault{Nth: n, When: when, Crash: crash})
					v, err := Open(bad).Commit(t.Context(), base, adds("x"))
					fired = bad.Fired()
					s := mustSnapshot(t, Open(b))
					if err == nil && (v != 2 || s.Version != 2) || err != nil && n > 2 {
						t.Errorf("operation %d, when %d, crash %v: version %d, %v", n, when, crash, v, err)
					}
					d, err := Open(b).list(t.Context(), -1)
					if err != nil {
						t.Fatal(err)
					}
					d.checkpoints = nil
					plain, err := Open(b).replay(t.Context(), d, s.Version)
					if err != nil || told(plain) != told(s) {
						t.Errorf("operation %d: the checkpoint tells something else: %v", n, err)
					}
					if fired == 0 && (len(checkpointsOf(t, b)) != 2 || n < 8) {
						t.Errorf("%v after %d operations", checkpointsOf(t, b), n)
					}
					// The next commit makes up for it.
					mustCommit(t, Open(b), mustSnapshot(t, Open(b)), adds("y"))
					if s := mustSnapshot(t, Open(b)); s.Version > 1 && s.Checkpoint < 2 {
						t.Errorf("operation %d: no checkpoint was made up for: %v", n, checkpointsOf(t, b))
					}
				})
			}
		}
	}
}

// dataFile writes a Parquet file of the column a.
func dataFile(t testing.TB, b store.Bucket, key string, values ...int64) Add {
	t.Helper()
	s := arrow.NewSchema([]arrow.Field{{Name: "a", Type: arrow.PrimitiveTypes.Int64, Nullable: true}}, nil)
	rb := array.NewRecordBuilder(memory.DefaultAllocator, s)
	rb.Field(0).(*array.Int64Builder).AppendValues(values, nil)
	var buf bytes.Buffer
	w, err := parquet.NewWriter(&buf, s, parquet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(rb.NewRecord()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
	put(t, b, key, buf.String())
	stats, _ := NewStats(int64(len(values))).JSON()
	return Add{Path: EncodePath(key), Size: int64(buf.Len()), ModificationTime: 1_700_000_000_000, DataChange: true, Stats: stats, Tags: map[string]string{"tablexport.run": "r"}}
}

// delta-rs and DuckDB read a table of which only our checkpoint and the entries after it are left, and write to it; we read what they
// wrote.
func TestForeignReadersOfOurCheckpoint(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b, err := filestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	l := Open(b)
	mustCommit(t, l, mustSnapshot(t, l), create())
	for i := range int64(14) {
		s := mustSnapshot(t, l)
		add := dataFile(t, b, fmt.Sprintf("part %d.parquet", i), i, i*10)
		actions := []Action{{Add: &add}, {Txn: &Txn{AppID: "tablexport/job", Version: i}}}
		if i%3 == 2 {
			r := Remove{Path: s.Files[0].Path, DeletionTimestamp: time.Now().UnixMilli(), DataChange: true, ExtendedFileMetadata: true, Size: s.Files[0].Size}
			actions = append(actions, Action{Remove: &r})
		}
		mustCommit(t, l, s, actions)
	}
	want := told(mustSnapshot(t, l))
	judge.Engine(t, "append", dir) // before: it has all entries
	forget(t, b, 10)
	s := mustSnapshot(t, l)
	before, err := l.SnapshotAt(t.Context(), 14)
	if err != nil || told(before) != want || s.Checkpoint != 10 || s.Version != 15 {
		t.Fatalf("%v %+v", err, before)
	}
	rows := len(s.Files) * 2
	if got := judge.Rows(t, dir); len(got) != rows {
		t.Fatalf("delta-rs reads %d rows, want %d", len(got), rows)
	}
	if got := judge.DuckDBRows(t, dir); len(got) != rows {
		t.Fatalf("DuckDB reads %d rows, want %d", len(got), rows)
	}
	judge.Check(t, dir)
	judge.Engine(t, "append", dir)
	if s := mustSnapshot(t, l); s.Version != 16 || len(s.Files)*2 != rows+2 || s.Txns["tablexport/job"].Version != 13 {
		t.Fatalf("%+v", s)
	}
}

// A table that delta-rs has made, partitioned and checkpointed reads the same with and without its entries.
func TestOurReadingOfForeignCheckpoint(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "table")
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	judge.Engine(t, "create", dir)
	b, err := filestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	l := Open(b)
	want := mustSnapshot(t, l)
	if want.Checkpoint >= 0 || len(want.Files) == 0 || len(want.Tombstones) == 0 || want.Txns["loader"].Version != 5 || !slices.Equal(want.Metadata.PartitionColumns, []string{"month"}) {
		t.Fatalf("%+v", want)
	}
	judge.Engine(t, "checkpoint", dir)
	forget(t, b, want.Version)
	got := mustSnapshot(t, l)
	if got.Checkpoint != want.Version || got.Version != want.Version {
		t.Fatalf("%+v", got)
	}
	plain := func(s *Snapshot) string { // delta-rs marks what a checkpoint holds as no change of data
		c := *s
		c.Files, c.Tombstones = slices.Clone(s.Files), slices.Clone(s.Tombstones)
		for i := range c.Files {
			c.Files[i].DataChange = false
		}
		for i := range c.Tombstones {
			c.Tombstones[i].DataChange = false
		}
		return told(&c)
	}
	if plain(got) != plain(want) {
		t.Fatalf("%s\nwant\n%s", plain(got), plain(want))
	}
	mustCommit(t, l, got, []Action{{Txn: &Txn{AppID: "tablexport/job", Version: 1}}})
	judge.Check(t, dir)
}

func TestParseInterval(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"interval 1 week": 7 * 24 * time.Hour, "interval 168 hours": 168 * time.Hour, "7 days": 168 * time.Hour, "INTERVAL 1 day 12 hours": 36 * time.Hour,
		"interval 0 seconds": 0, "interval 30 minutes": 30 * time.Minute,
	} {
		if got, err := ParseInterval(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "interval", "interval 1 month", "interval -1 day", "7d", "interval 9223372036854775807 weeks", "day 1"} {
		if got, err := ParseInterval(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// BenchmarkOpen opens a table of a thousand versions and a hundred files with a checkpoint every ten versions, and without any.
func BenchmarkOpen(b *testing.B) {
	bucket := memstore.New()
	l := Open(bucket)
	for v := range int64(1000) {
		s, err := l.Snapshot(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		actions := create()
		if v > 0 {
			actions = adds(fmt.Sprintf("f%04d", v))
			if len(s.Files) >= 100 {
				actions = append(actions, removes(s.Files[0].Path)...)
			}
		}
		if _, err := l.Commit(b.Context(), s, actions); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := l.Snapshot(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	with := b.Elapsed() / time.Duration(b.N)
	d, err := l.list(b.Context(), -1)
	if err != nil {
		b.Fatal(err)
	}
	d.checkpoints = nil
	const times = 5
	start := time.Now()
	for range times {
		if _, err := l.replay(b.Context(), d, d.last()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(time.Since(start)/times)/float64(with), "x-without")
	counted := storetest.Faulty(bucket)
	if _, err := Open(counted).Snapshot(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(counted.Count("open")+counted.Count("list")), "requests")
}
