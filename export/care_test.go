package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/exporttest/judge"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/filestore"
	"github.com/tablexport/tablexport/export/store/memstore"
	"github.com/tablexport/tablexport/export/store/storetest"
)

func mustAt(t testing.TB, d *Dataset, version int64) *delta.Snapshot {
	t.Helper()
	s, err := d.Snapshot(t.Context())
	if version >= 0 {
		s, err = d.SnapshotAt(t.Context(), version)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func missing(t testing.TB, d *Dataset, version int64) int {
	t.Helper()
	gone, err := d.MissingFiles(t.Context(), version)
	if err != nil {
		t.Fatal(err)
	}
	return len(gone)
}

// ours says whether the newest version holds the rows of one generation, as we read them: the decoders of the foreign reader do not outlive a
// synctest bubble.
func ours(t testing.TB, d *Dataset, gen, rows int) {
	t.Helper()
	got := texts(t, d, mustAt(t, d, -1), []string{"Generation", "Id"})
	slices.Sort(got)
	for i, line := range got {
		if want := fmt.Sprintf("%d|%08d", gen, i); line != want {
			t.Fatalf("%s, want %s", line, want)
		}
	}
	if len(got) != rows {
		t.Fatalf("%d rows, want %d", len(got), rows)
	}
}

// A vacuum deletes what was removed before the retention, and nothing else: not what is live, not what was removed since, not what no entry
// names, not files of others.
func TestVacuum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memstore.New()
		d := Open(b, "t")
		mustRefresh(t, d, "run-0", 0, 25)
		mustRefresh(t, d, "run-1", 1, 15) // removes generation 0
		time.Sleep(5 * 24 * time.Hour)
		mustRefresh(t, d, "run-2", 2, 15)
		for _, key := range []string{"t/part-lost-0badc0de-00000.zstd.parquet", "t/notes.parquet", "t/_delta_log/x.parquet"} {
			if err := b.Put(t.Context(), key, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(3 * 24 * time.Hour)
		if _, err := d.Vacuum(t.Context(), VacuumSpec{Engine: "tablexport/test", Retain: 59 * time.Minute}); err == nil || !strings.Contains(err.Error(), "an hour at least") {
			t.Fatal(err)
		}
		dry, err := d.Vacuum(t.Context(), VacuumSpec{Engine: "tablexport/test", DryRun: true})
		if err != nil || dry.Found != 3 || dry.Removed != 0 || dry.Kept != 2 || dry.Bytes == 0 || dry.Retain != 7*24*time.Hour || missing(t, d, 0) != 0 {
			t.Fatalf("%+v %v", dry, err)
		}
		got, err := d.Vacuum(t.Context(), VacuumSpec{Engine: "tablexport/test"})
		if err != nil || got.Removed != 3 || got.Bytes != dry.Bytes {
			t.Fatalf("%+v %v", got, err)
		}
		if missing(t, d, 0) != 3 || missing(t, d, 1) != 0 || missing(t, d, -1+3) != 0 {
			t.Fatal("other files than those of version 0 are gone")
		}
		for _, key := range []string{"t/part-lost-0badc0de-00000.zstd.parquet", "t/notes.parquet", "t/_delta_log/x.parquet"} {
			if _, err := b.Stat(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		// Nothing to do is no version.
		before := mustAt(t, d, -1).Version
		if got, err := d.Vacuum(t.Context(), VacuumSpec{Engine: "tablexport/test"}); err != nil || got.Found != 0 || mustAt(t, d, -1).Version != before {
			t.Fatalf("%+v %v", got, err)
		}
		hold := func(before time.Time) ([]int64, error) {
			if age := time.Since(before); age != 48*time.Hour {
				t.Errorf("held since %s ago", age)
			}
			return []int64{1, 77}, nil
		}
		if got, err := d.Vacuum(t.Context(), VacuumSpec{Engine: "tablexport/test", Retain: 48 * time.Hour, Hold: hold}); err != nil || got.Found != 0 || got.Kept != 2 {
			t.Fatalf("%+v %v", got, err)
		}
		if got, err := d.Vacuum(t.Context(), VacuumSpec{Engine: "tablexport/test", Retain: 48 * time.Hour}); err != nil || got.Removed != 2 {
			t.Fatalf("%+v %v", got, err)
		}
		ours(t, d, 2, 15)
	})
}

// Tombstones that a checkpoint has dropped are still in the entries; the table's own retention is heeded.
func TestVacuumBehindCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memstore.New()
		d := Open(b, "t")
		mustRefresh(t, d, "run-0", 0, 15)
		s := mustAt(t, d, -1)
		meta := s.Metadata
		meta.Configuration = map[string]string{"delta.deletedFileRetentionDuration": "interval 2 days", "delta.checkpointInterval": "3"}
		if _, err := d.log.Commit(t.Context(), s, []delta.Action{{Metadata: &meta}}); err != nil {
			t.Fatal(err)
		}
		mustRefresh(t, d, "run-1", 1, 15)
		time.Sleep(49 * time.Hour)
		mustRefresh(t, d, "run-2", 2, 15)
		if s := mustAt(t, d, -1); s.Checkpoint != 3 || len(s.Tombstones) != 2 {
			t.Fatalf("%+v", s)
		}
		got, err := d.Vacuum(t.Context(), VacuumSpec{Engine: "tablexport/test"})
		if err != nil || got.Removed != 2 || got.Retain != 48*time.Hour {
			t.Fatalf("%+v %v", got, err)
		}
		ours(t, d, 2, 15)
	})
}

func TestRollback(t *testing.T) {
	b := memstore.New()
	d := Open(b, "t")
	ctx := t.Context()
	mustRefresh(t, d, "run-0", 0, 25)
	sp := spec(t, "run-1")
	sp.Marks = map[string]time.Time{"watermark": time.UnixMilli(1000)}
	if _, err := refresh(ctx, t, d, sp, 1, 15); err != nil {
		t.Fatal(err)
	}
	sp = spec(t, "run-2")
	sp.Marks = map[string]time.Time{"watermark": time.UnixMilli(9000)}
	sp.Description = "Another text."
	if _, err := refresh(ctx, t, d, sp, 2, 15); err != nil {
		t.Fatal(err)
	}
	c, err := d.Rollback(ctx, 1, "tablexport/test")
	if err != nil || c.Version != 3 || c.Files != 2 || c.Removed != 2 || c.Rows != 15 {
		t.Fatalf("%+v %v", c, err)
	}
	s := mustWhole(t, b, 1, 15)
	if s.Metadata.Description != "Lines of sales orders." || s.Txns["tablexport/order-lines/watermark"].Version != 1000 {
		t.Fatalf("%+v", s)
	}
	h, err := d.History(ctx, 1)
	if err != nil || h[0].Operation != "RESTORE" || h[0].Care != "rolled back to version 1" || h[0].Run != "" || h[0].Scope.Name != "all" || h[0].Job != "order-lines" {
		t.Fatalf("%+v %v", h, err)
	}
	if c, err := d.Rollback(ctx, 1, "tablexport/test"); err != nil || !c.Repeated || c.Version != 3 {
		t.Fatalf("%+v %v", c, err)
	}
	if _, err := d.Rollback(ctx, 9, "tablexport/test"); !errors.Is(err, delta.ErrNoVersion) {
		t.Fatal(err)
	}
	// Forward again, and on from there.
	if _, err := d.Rollback(ctx, 2, "tablexport/test"); err != nil {
		t.Fatal(err)
	}
	mustWhole(t, b, 2, 15)
	mustRefresh(t, d, "run-3", 3, 12)
	mustWhole(t, b, 3, 12)
	if report, err := d.Verify(ctx); err != nil || len(report.Problems) > 0 {
		t.Fatalf("%+v %v", report, err)
	}
	// With a file gone it is refused, and nothing changes.
	if err := b.Delete(ctx, "t/"+mustAt(t, d, 0).Files[0].Path); err != nil {
		t.Fatal(err)
	}
	var gone *FilesGone
	if _, err := d.Rollback(ctx, 0, "tablexport/test"); !errors.As(err, &gone) || gone.Missing != 1 || gone.Files != 3 {
		t.Fatal(err)
	}
	mustWhole(t, b, 3, 12)
}

// What a vacuum has announced no rollback brings back, though the files are not deleted yet; and of the two at once one is a conflict.
func TestRollbackAgainstVacuum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memstore.New()
		d := Open(b, "t")
		mustRefresh(t, d, "run-0", 0, 15)
		mustRefresh(t, d, "run-1", 1, 15)
		time.Sleep(8 * 24 * time.Hour)
		// The vacuum dies with its first deletion.
		bad := storetest.Faulty(b, storetest.Fault{Op: "delete", Crash: true})
		if _, err := Open(bad, "t").Vacuum(t.Context(), VacuumSpec{Engine: "tablexport/test"}); err == nil {
			t.Fatal("it succeeded")
		}
		var gone *FilesGone
		if _, err := d.Rollback(t.Context(), 0, "tablexport/test"); !errors.As(err, &gone) || gone.Missing != 2 {
			t.Fatal(err)
		}
		if got, err := d.Vacuum(t.Context(), VacuumSpec{Engine: "tablexport/test"}); err != nil || got.Removed != 2 {
			t.Fatalf("%+v %v", got, err)
		}
		ours(t, d, 1, 15)

		// A rollback that is published while the vacuum looks at the files.
		mustRefresh(t, d, "run-2", 2, 12)
		time.Sleep(8 * 24 * time.Hour)
		racing := &between{Bucket: b, at: "t/_delta_log/", do: func() {
			if _, err := d.Rollback(context.Background(), 1, "tablexport/test"); err != nil {
				t.Error(err)
			}
		}}
		var conflict *delta.Conflict
		if _, err := Open(racing, "t").Vacuum(t.Context(), VacuumSpec{Engine: "tablexport/test"}); !errors.As(err, &conflict) {
			t.Fatal(err)
		}
		ours(t, d, 1, 15)
	})
}

// between does something just before the first entry is put.
type between struct {
	store.Bucket
	at   string
	do   func()
	once sync.Once
}

func (b *between) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	if strings.HasPrefix(key, b.at) {
		b.once.Do(b.do)
	}
	return b.Bucket.PutIfAbsent(ctx, key, data)
}

// A reader that holds an old version reads it to the end while vacuums run, until its retention ends.
func TestReaderOutlivesVacuum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memstore.New()
		d := Open(b, "t")
		mustRefresh(t, d, "run-0", 0, 45)
		held := mustAt(t, d, -1)
		mustRefresh(t, d, "run-1", 1, 15)
		rows := 0
		for _, f := range held.Files {
			for rec, err := range d.Records(t.Context(), held, f, nil, 4) {
				if err != nil {
					t.Fatal(err)
				}
				rows += int(rec.NumRows())
				time.Sleep(10 * time.Hour)
				if _, err := d.Vacuum(t.Context(), VacuumSpec{Engine: "tablexport/test"}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if rows != 45 {
			t.Fatalf("%d rows", rows)
		}
		time.Sleep(48 * time.Hour)
		if got, err := d.Vacuum(t.Context(), VacuumSpec{Engine: "tablexport/test"}); err != nil || got.Removed != 5 {
			t.Fatalf("%+v %v", got, err)
		}
	})
}

// Small files of a window become one, with rows, order, tags and statistics kept; other windows, and large files, stay.
func TestCompact(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b, err := filestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	d := Open(b, "")
	ctx := t.Context()
	mustMonths(t, d, "run-1", 1, map[string]int{"2024-01": 45, "2024-02": 5, "2024-03": 0})
	mustMonths(t, d, "run-2", 2, map[string]int{"2024-04": 25})
	before := mustAt(t, d, -1)
	windows := WindowsOf(before)
	rows, order := judge.Rows(t, dir), texts(t, d, before, nil)
	if len(before.Files) != 5+1+1+3 {
		t.Fatalf("%d files", len(before.Files))
	}
	got, err := d.Compact(ctx, CompactSpec{Engine: "tablexport/test"})
	if err != nil || got.Partitions != 2 || got.Merged != 8 || got.Into != 2 || got.Rows != 70 || got.Skipped != 0 || got.Version != 3 {
		t.Fatalf("%+v %v", got, err)
	}
	after := mustAt(t, d, -1)
	if len(after.Files) != 4 || !slices.Equal(texts(t, d, after, nil), order) {
		t.Fatalf("%d files, or the order is another", len(after.Files))
	}
	for i, w := range WindowsOf(after) {
		w.Files, w.Bytes, windows[i].Files, windows[i].Bytes = 0, 0, 0, 0
		if diff := cmp.Diff(windows[i], w); diff != "" {
			t.Fatal(diff)
		}
	}
	same := func(rows []judge.Row) (out []string) {
		for _, r := range rows {
			out = append(out, fmt.Sprint(r))
		}
		slices.Sort(out)
		return out
	}
	if diff := cmp.Diff(same(rows), same(judge.Rows(t, dir))); diff != "" {
		t.Fatal(diff)
	}
	judge.Check(t, dir)
	if report, err := d.Verify(ctx); err != nil || len(report.Problems) > 0 {
		t.Fatalf("%+v %v", report, err)
	}
	// There is nothing left to merge, and the next refresh finds its window.
	if got, err := d.Compact(ctx, CompactSpec{}); err != nil || got.Into != 0 || got.Version != 3 {
		t.Fatalf("%+v %v", got, err)
	}
	mustMonths(t, d, "run-3", 3, map[string]int{"2024-01": 15})
	if s := mustAt(t, d, -1); len(s.Files) != 5 {
		t.Fatalf("%d files", len(s.Files))
	}
}

// delta-rs has compacted its own table: we compact what is left, and delta-rs reads the same rows.
func TestCompactForeignTable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	judge.Engine(t, "create", dir)
	b, err := filestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	d := Open(b, "")
	rows := judge.Rows(t, dir)
	got, err := d.Compact(t.Context(), CompactSpec{Engine: "tablexport/test"})
	if err != nil || got.Partitions != 2 || got.Into != 2 || got.Rows != int64(len(rows)) {
		t.Fatalf("%+v %v", got, err)
	}
	if again := judge.Rows(t, dir); len(again) != len(rows) {
		t.Fatalf("%d rows, they were %d", len(again), len(rows))
	}
	judge.Check(t, dir)
}

// Which files are merged with which.
func TestMergeable(t *testing.T) {
	jan, feb := "2024-01", "2024-02"
	file := func(path, month string, size int64, query string) delta.Add {
		return delta.Add{Path: path, Size: size, PartitionValues: map[string]*string{"month": &month}, Tags: map[string]string{tagQuery: query, tagWindow: month}}
	}
	s := &delta.Snapshot{Files: []delta.Add{
		file("a", jan, 10, "q"), file("b", jan, 90, "q"), file("c", jan, 10, "q"), file("d", jan, 20, "q"), file("e", jan, 30, "old"),
		file("f", feb, 60, "q"), file("g", feb, 60, "q"), file("h", feb, 30, "q"), file("i", feb, 10, "q"),
	}}
	var got []string
	for _, p := range mergeable(s, 100) {
		for _, bin := range p.bins {
			var names []string
			for _, f := range bin {
				names = append(names, f.Path)
			}
			got = append(got, *p.values["month"]+" "+strings.Join(names, ""))
		}
	}
	if want := []string{"2024-01 cd", "2024-02 ghi"}; !slices.Equal(got, want) {
		t.Fatalf("%q, want %q", got, want)
	}
	tags := commonTags([]delta.Add{
		{Tags: map[string]string{tagRun: "r1", tagQuery: "q", tagLoaded: "2024-03-01T00:00:00.5Z"}},
		{Tags: map[string]string{tagRun: "r2", tagQuery: "q", tagLoaded: "2024-03-01T00:00:00Z"}},
	})
	if diff := cmp.Diff(map[string]string{tagQuery: "q", tagLoaded: "2024-03-01T00:00:00Z"}, tags); diff != "" {
		t.Fatal(diff)
	}
}

// A refresh of the same window wins against a compaction under way, which leaves nothing behind; one of another window does not disturb it.
func TestCompactLoses(t *testing.T) {
	for name, tt := range map[string]struct {
		window  string
		skipped int
	}{"same window": {"2024-01", 1}, "another window": {"2024-02", 0}} {
		t.Run(name, func(t *testing.T) {
			b := memstore.New()
			d := Open(b, "t")
			mustMonths(t, d, "run-1", 1, map[string]int{"2024-01": 45, "2024-02": 5})
			racing := &between{Bucket: b, at: "t/_delta_log/", do: func() { mustMonths(t, d, "run-2", 2, map[string]int{tt.window: 15}) }}
			got, err := Open(racing, "t").Compact(t.Context(), CompactSpec{Engine: "tablexport/test"})
			if err != nil || got.Skipped != tt.skipped || got.Into != 1-tt.skipped {
				t.Fatalf("%+v %v", got, err)
			}
			s := mustAt(t, d, -1)
			want := map[bool]int{true: 1 + 2, false: 2 + 1}[tt.skipped == 1]
			if len(s.Files) != want {
				t.Fatalf("%d files", len(s.Files))
			}
			named, err := d.named(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for f, err := range b.List(t.Context(), "t/", "") {
				if err != nil || strings.HasSuffix(f.Key, ".parquet") && !named[strings.TrimPrefix(f.Key, "t/")] {
					t.Fatalf("%s was left behind: %v", f.Key, err)
				}
			}
		})
	}
}

// At every operation of compaction, rollback and vacuum, before and after its effect, the process dies, or the operation alone fails: the
// newest version can be read whole, holds one generation of every window, and a second attempt does the rest.
func TestCareFaults(t *testing.T) {
	cares := map[string]func(*Dataset) error{
		"compact": func(d *Dataset) error {
			_, err := d.Compact(context.Background(), CompactSpec{Engine: "tablexport/test"})
			return err
		},
		"rollback": func(d *Dataset) error { _, err := d.Rollback(context.Background(), 1, "tablexport/test"); return err },
		"vacuum": func(d *Dataset) error {
			_, err := d.Vacuum(context.Background(), VacuumSpec{Engine: "tablexport/test"})
			return err
		},
	}
	step := 1
	if raced {
		step = 7
	}
	for name, care := range cares {
		for _, crash := range []bool{true, false} {
			for _, when := range []storetest.When{storetest.Before, storetest.After} {
				t.Run(fmt.Sprintf("%s crash=%v when=%d", name, crash, when), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						from := memstore.New()
						d := Open(from, "t")
						mustMonths(t, d, "run-0", 0, map[string]int{"2024-01": 15})
						time.Sleep(3 * 24 * time.Hour)
						mustMonths(t, d, "run-1", 1, map[string]int{"2024-01": 15, "2024-02": 5})
						time.Sleep(8 * 24 * time.Hour)
						mustMonths(t, d, "run-2", 2, map[string]int{"2024-01": 15})
						fired, n := 1, 1
						for ; fired > 0; n += step {
							fired = careWith(t, copied(t, from), name, care, storetest.Fault{Nth: n, When: when, Crash: crash})
							if t.Failed() {
								t.Fatalf("at operation %d", n)
							}
						}
						if n < 8 {
							t.Fatalf("only %d operations", n)
						}
					})
				})
			}
		}
	}
}

// copied is a bucket with the same objects.
func copied(t testing.TB, from store.Bucket) store.Bucket {
	t.Helper()
	to := memstore.New()
	for info, err := range from.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		r, _, err := from.Open(t.Context(), info.Key)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close(), to.Put(t.Context(), info.Key, data)); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

func careWith(t *testing.T, b store.Bucket, name string, care func(*Dataset) error, fault storetest.Fault) int {
	d := Open(b, "t")
	bad := storetest.Faulty(b, fault)
	_ = care(Open(bad, "t"))
	if !readable(t, d, -1) {
		t.Error("the newest version cannot be read")
	}
	for range 2 { // the second does nothing
		if err := care(d); err != nil {
			t.Error(err)
		}
	}
	s := mustAt(t, d, -1)
	rows, err := d.RowsOf(s)
	if err != nil || rows != 20 || !readable(t, d, -1) {
		t.Errorf("%d rows, %v", rows, err)
	}
	switch name {
	case "compact":
		if len(s.Files) != 2 {
			t.Errorf("%d files", len(s.Files))
		}
	case "rollback":
		if got := texts(t, d, s, []string{"Generation"}); slices.Contains(got, "2") {
			t.Error("it was not rolled back")
		}
	case "vacuum":
		if gone, _ := d.MissingFiles(t.Context(), 0); len(gone) != 2 {
			t.Errorf("%d files are gone", len(gone))
		}
		if !readable(t, d, 1) {
			t.Error("version 1 cannot be read")
		}
	}
	return bad.Fired()
}

// readable says whether every file of a version can be read to its end.
func readable(t testing.TB, d *Dataset, version int64) bool {
	t.Helper()
	s := mustAt(t, d, version)
	for _, f := range s.Files {
		for _, err := range d.Records(context.Background(), s, f, []string{"Id"}, 0) {
			if err != nil {
				t.Log(err)
				return false
			}
		}
	}
	return true
}

// Refreshes of windows, compactions, vacuums and rollbacks at once, and readers: every version that a reader sees is whole.
func TestEverythingAtOnce(t *testing.T) {
	for _, kind := range []string{"memory", "files"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			var b store.Bucket = memstore.New()
			if kind == "files" {
				var err error
				if b, err = filestore.Open(t.TempDir()); err != nil {
					t.Fatal(err)
				}
			}
			d := Open(b, "t")
			windows := []string{"2024-01", "2024-02", "2024-03"}
			mustMonths(t, d, "run-0", 0, map[string]int{windows[0]: 25, windows[1]: 25, windows[2]: 25})
			var writers, readers sync.WaitGroup
			var stop atomic.Bool
			var seen atomic.Int64
			ctx := t.Context()
			for w, value := range windows {
				writers.Go(func() {
					for i := range 6 {
						if _, err := months(ctx, t, d, windowSpec(t, fmt.Sprintf("run-%d-%d", w, i)), i+1, map[string]int{value: 25}); err != nil && !isConflict(err) {
							t.Error(err)
						}
					}
				})
			}
			for range 2 {
				writers.Go(func() {
					for range 5 {
						if _, err := d.Compact(ctx, CompactSpec{Engine: "tablexport/test"}); err != nil && store.CodeOf(err) != store.NotFound {
							t.Error(err)
						}
						if _, err := d.Vacuum(ctx, VacuumSpec{Engine: "tablexport/test", Retain: MinRetention}); err != nil && !isConflict(err) {
							t.Error(err)
						}
					}
				})
			}
			for range 2 {
				readers.Go(func() {
					for !stop.Load() {
						s, err := d.Snapshot(ctx)
						if err == nil {
							err = wholeWindows(ctx, d, s)
						}
						if err != nil {
							t.Error(err)
							return
						}
						seen.Add(1)
					}
				})
			}
			writers.Wait()
			stop.Store(true)
			readers.Wait()
			s := mustAt(t, d, -1)
			if err := wholeWindows(ctx, d, s); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d versions, %d reads", s.Version+1, seen.Load())
		})
	}
}

func isConflict(err error) bool {
	var c *delta.Conflict
	return errors.As(err, &c)
}

// wholeWindows says whether every window of a snapshot has the 25 rows of one generation.
func wholeWindows(ctx context.Context, d *Dataset, s *delta.Snapshot) error {
	rows := map[string]map[string]bool{}
	generation := map[string]string{}
	for _, f := range s.Files {
		for rec, err := range d.Records(ctx, s, f, []string{"Id", "Generation", "month"}, 0) {
			if err != nil {
				return err
			}
			for i := range int(rec.NumRows()) {
				month, gen, id := rec.Column(2).ValueStr(i), rec.Column(1).ValueStr(i), rec.Column(0).ValueStr(i)
				if rows[month] == nil {
					rows[month], generation[month] = map[string]bool{}, gen
				}
				if generation[month] != gen || rows[month][id] {
					return fmt.Errorf("version %d, window %s: generations %s and %s, row %s", s.Version, month, generation[month], gen, id)
				}
				rows[month][id] = true
			}
		}
	}
	for month, ids := range rows {
		if len(ids) != 25 {
			return fmt.Errorf("version %d, window %s: %d rows", s.Version, month, len(ids))
		}
	}
	if len(rows) != 3 {
		return fmt.Errorf("version %d: %d windows", s.Version, len(rows))
	}
	return nil
}
