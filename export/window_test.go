package export

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/exporttest/judge"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/filestore"
	"github.com/tablexport/tablexport/export/store/memstore"
	"github.com/tablexport/tablexport/export/store/storetest"
)

func windowSpec(t testing.TB, run string) Spec {
	sp := spec(t, run)
	sp.Partition, sp.QueryID = "month", "q1"
	return sp
}

// months refreshes windows of a dataset: value → rows of the generation.
func months(ctx context.Context, t testing.TB, d *Dataset, sp Spec, gen int, rows map[string]int, expire ...string) (Commit, error) {
	t.Helper()
	r, err := d.Begin(ctx, sp)
	if err != nil {
		return Commit{}, err
	}
	defer func() { _ = r.Abort(ctx) }() // behind a commit it does nothing
	for _, value := range slices.Sorted(maps.Keys(rows)) {
		s, err := r.Slice(SliceSpec{Value: value})
		if err != nil {
			return Commit{}, err
		}
		if err := fill(ctx, t, &refreshing{r, s}, sp.Schema, gen, rows[value]); err != nil {
			return Commit{}, err
		}
		if err := s.Done(ctx, proof(rows[value])); err != nil {
			return Commit{}, err
		}
	}
	r.Expire(expire...)
	return r.Commit(ctx)
}

func mustMonths(t testing.TB, d *Dataset, run string, gen int, rows map[string]int, expire ...string) Commit {
	t.Helper()
	c, err := months(t.Context(), t, d, windowSpec(t, run), gen, rows, expire...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// byWindow reads a version with a foreign reader and gives the generation and the rows of each window.
func byWindow(ctx context.Context, b store.Bucket, s *delta.Snapshot) (map[string][2]int, error) {
	out := map[string][2]int{}
	files := map[string][]delta.Add{}
	for _, f := range s.Files {
		value := partitionValue(f.PartitionValues, "month")
		files[value] = append(files[value], f)
	}
	for value, of := range files {
		part := &delta.Snapshot{Version: s.Version, Files: of}
		cells, err := readAll(ctx, b, part)
		if err != nil {
			return nil, err
		}
		n, gen := len(cells["Id"]), 0
		if n > 0 {
			if _, err := fmt.Sscan(cells["Generation"][0], &gen); err != nil {
				return nil, err
			}
			if _, err := whole(ctx, b, part, map[int]int{gen: n}); err != nil {
				return nil, fmt.Errorf("window %s: %w", value, err)
			}
		}
		out[value] = [2]int{gen, n}
	}
	return out, nil
}

func expectWindows(t testing.TB, b store.Bucket, d *Dataset, want map[string][2]int) {
	t.Helper()
	s, err := d.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := byWindow(t.Context(), b, s)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(got, want) {
		t.Fatalf("version %d holds %v, want %v", s.Version, got, want)
	}
	for _, w := range WindowsOf(s) {
		if w.Problem != "" || w.Recorded != int64(want[w.Value][1]) || w.Loaded.IsZero() || w.Query != "q1" {
			t.Errorf("window %+v", w)
		}
	}
}

func TestWindowsReplaceTheirOwn(t *testing.T) {
	t.Parallel()
	b, err := filestore.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d := Open(b, "t")
	view := store.Prefixed(b, "t")
	mustMonths(t, d, "r0", 0, map[string]int{"2024-01": 25, "2024-02": 12, "2024-03": 0})
	expectWindows(t, view, d, map[string][2]int{"2024-01": {0, 25}, "2024-02": {0, 12}, "2024-03": {0, 0}})
	c := mustMonths(t, d, "r1", 1, map[string]int{"2024-03": 7, "2024-04": 3, "": 2}, "2024-01", "2023-12")
	if !slices.Equal(c.Expired, []string{"2024-01"}) || c.Rows != 12 || c.Removed != 4 {
		t.Fatalf("%+v", c)
	}
	expectWindows(t, view, d, map[string][2]int{"2024-02": {0, 12}, "2024-03": {1, 7}, "2024-04": {1, 3}, "": {1, 2}})

	history, err := d.History(t.Context(), 1)
	if err != nil || len(history[0].Windows) != 3 || !slices.Equal(history[0].Expired, []string{"2024-01"}) {
		t.Fatalf("%+v %v", history, err)
	}
	report, err := d.Verify(t.Context())
	if err != nil || len(report.Problems) > 0 || report.Rows != 24 {
		t.Fatalf("%+v %v", report, err)
	}
	if _, err := d.Diff(t.Context(), 0, 1, []string{"Id", "Generation"}); err != nil && !errors.Is(err, ErrNotKey) {
		t.Fatal(err)
	}
	snippets, err := d.Snippets(t.Context())
	if err != nil || !strings.Contains(snippets[1].Text, "hive_partitioning = true") {
		t.Fatalf("%v %v", snippets, err)
	}
}

func TestWindowsForeignReaders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b, err := filestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	d := Open(b, "t")
	mustMonths(t, d, "r0", 0, map[string]int{"2024-01": 25, "2024-02": 0, "": 3})
	mustMonths(t, d, "r1", 1, map[string]int{"2024-01": 11})
	judge.Check(t, dir+"/t")
	count := map[string]int{}
	for _, row := range judge.Rows(t, dir+"/t") {
		value, _ := row["month"].(string)
		count[value]++
	}
	if !maps.Equal(count, map[string]int{"2024-01": 11, "": 3}) {
		t.Fatal(count)
	}
}

func TestSliceRefusals(t *testing.T) {
	t.Parallel()
	d := Open(memstore.New(), "t")
	mustMonths(t, d, "r0", 0, map[string]int{"2024-01": 5})
	r, err := d.Begin(t.Context(), windowSpec(t, "r1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Slice(SliceSpec{Value: "2024-01"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Slice(SliceSpec{Value: "2024-01"}); err == nil {
		t.Error("a window was begun twice")
	}
	if _, err := r.Commit(t.Context()); err == nil || !strings.Contains(err.Error(), "not done") {
		t.Errorf("a slice that was not done: %v", err)
	}
	if r, err = d.Begin(t.Context(), windowSpec(t, "r1")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Commit(t.Context()); err == nil {
		t.Error("nothing was published")
	}
	if r, err = d.Begin(t.Context(), windowSpec(t, "r1")); err != nil {
		t.Fatal(err)
	}
	s, err := r.Slice(SliceSpec{Value: "2024-01"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Done(t.Context()); err == nil {
		t.Error("done without evidence")
	}
	if err := s.Discard(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s, err = r.Slice(SliceSpec{Value: "2024-01"}); err != nil {
		t.Fatalf("a window cannot be read again: %v", err)
	}
	if err := s.Done(t.Context(), proof(1)); !errors.As(err, new(*RowMismatch)) {
		t.Errorf("rows that were not written: %v", err)
	}
	plain := spec(t, "r2")
	if _, err := d.Begin(t.Context(), plain); !errors.As(err, new(*SchemaChange)) {
		t.Errorf("partitions would be dropped: %v", err)
	}
	plain.AcceptSchema = true
	if _, err := refresh(t.Context(), t, d, plain, 3, 12); err != nil {
		t.Fatal(err)
	}
	if w, err := d.Windows(t.Context()); err != nil || w != nil {
		t.Fatalf("%v %v", w, err)
	}
	if sp := windowSpec(t, "r3"); true {
		sp.AcceptSchema = true
		if _, err := months(t.Context(), t, d, sp, 4, map[string]int{"2024-05": 9}); err != nil {
			t.Fatal(err)
		}
	}
	expectWindows(t, store.Prefixed(d.b, ""), d, map[string][2]int{"2024-05": {4, 9}})
}

// A window that would stay must fit the new columns.
func TestWindowsBreakingSchema(t *testing.T) {
	t.Parallel()
	d := Open(memstore.New(), "t")
	mustMonths(t, d, "r0", 0, map[string]int{"2024-01": 5, "2024-02": 5})
	sp := windowSpec(t, "r1")
	sp.AcceptSchema = true
	sp.Schema = arrow.NewSchema(slices.DeleteFunc(slices.Clone(lines.Fields()), func(f arrow.Field) bool { return f.Name == "Notes" }), nil)
	sp.Scope = everything(t, sp.Schema).Stamp()
	if _, err := months(t.Context(), t, d, sp, 1, map[string]int{"2024-02": 5}); !errors.As(err, new(*SchemaChange)) || !strings.Contains(err.Error(), "2024-01") {
		t.Fatal(err)
	}
	if _, err := months(t.Context(), t, d, sp, 1, map[string]int{"2024-02": 5, "2024-01": 3}); err != nil {
		t.Fatal(err)
	}
}

// Tags that another engine has dropped make a window one that must be read again.
func TestWindowsDistrust(t *testing.T) {
	t.Parallel()
	d := Open(memstore.New(), "t")
	mustMonths(t, d, "r0", 0, map[string]int{"2024-01": 5})
	s, err := d.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(f *delta.Add){
		"no tags":     func(f *delta.Add) { f.Tags = nil },
		"no evidence": func(f *delta.Add) { delete(f.Tags, tagEvidence) },
		"bad evidence": func(f *delta.Add) {
			f.Tags[tagEvidence] = strings.ReplaceAll(f.Tags[tagEvidence], `"end":"empty"`, `"end":""`)
		},
		"other rows": func(f *delta.Add) { f.Stats = strings.Replace(f.Stats, `"numRecords":5`, `"numRecords":4`, 1) },
		"no stats":   func(f *delta.Add) { f.Stats = "" },
	} {
		spoiled := *s
		spoiled.Files = slices.Clone(s.Files)
		spoiled.Files[0].Tags = maps.Clone(s.Files[0].Tags)
		spoil(&spoiled.Files[0])
		if w := WindowsOf(&spoiled); len(w) != 1 || w[0].Problem == "" || !w[0].Loaded.IsZero() {
			t.Errorf("%s: %+v", name, w)
		}
	}
}

// Refreshes of different windows go side by side; of one window, one wins.
func TestWindowWriters(t *testing.T) {
	t.Parallel()
	b := memstore.New()
	d := Open(b, "")
	mustMonths(t, d, "r0", 0, map[string]int{"2024-01": 5, "2024-02": 5})
	begin := func(run, value string, gen int) *Refresh {
		sp := windowSpec(t, run)
		r, err := d.Begin(t.Context(), sp)
		if err != nil {
			t.Fatal(err)
		}
		s, err := r.Slice(SliceSpec{Value: value})
		if err != nil {
			t.Fatal(err)
		}
		if err := fill(t.Context(), t, &refreshing{r, s}, sp.Schema, gen, 10); err != nil {
			t.Fatal(err)
		}
		if err := s.Done(t.Context(), proof(10)); err != nil {
			t.Fatal(err)
		}
		return r
	}
	one, other, late := begin("r1", "2024-01", 1), begin("r2", "2024-02", 2), begin("r3", "2024-01", 3)
	if _, err := one.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c, err := other.Commit(t.Context()); err != nil || c.Version != 2 || c.Removed != 1 {
		t.Fatalf("%+v %v", c, err)
	}
	if _, err := late.Commit(t.Context()); !errors.As(err, new(*delta.Conflict)) {
		t.Fatalf("what was read earlier has replaced what was read later: %v", err)
	}
	if err := late.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectWindows(t, b, d, map[string][2]int{"2024-01": {1, 10}, "2024-02": {2, 10}})
}

// A run of many windows publishes its first parts with its last: they must not be swept while it is at work.
func TestSweepSparesLongRuns(t *testing.T) {
	t.Parallel()
	b := memstore.New()
	d := Open(b, "")
	mustMonths(t, d, "r0", 0, map[string]int{"2024-01": 5})
	sp := windowSpec(t, "r1")
	r, err := d.Begin(t.Context(), sp)
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"2024-02", "2024-03"} {
		s, err := r.Slice(SliceSpec{Value: value})
		if err != nil {
			t.Fatal(err)
		}
		if err := fill(t.Context(), t, &refreshing{r, s}, sp.Schema, 1, 10); err != nil {
			t.Fatal(err)
		}
		if err := s.Done(t.Context(), proof(10)); err != nil {
			t.Fatal(err)
		}
		if value == "2024-03" { // a scan that was thrown away, and whose files could not be deleted
			s.parts = nil
			if err := s.Discard(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if report, err := d.sweep(t.Context(), time.Now(), 0, true); err != nil || report.Found != 2 {
		t.Fatalf("the test's own files are not found: %+v %v", report, err)
	}
	if report, err := d.sweep(t.Context(), time.Now(), time.Hour, false); err != nil || report.Found != 0 {
		t.Fatalf("%+v %v", report, err)
	}
	if _, err := r.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if report, err := d.sweep(t.Context(), time.Now().Add(2*time.Hour), time.Hour, false); err != nil || report.Removed != 1 {
		t.Fatalf("what was thrown away stays for ever: %+v %v", report, err)
	}
	expectWindows(t, b, d, map[string][2]int{"2024-01": {0, 5}, "2024-02": {1, 10}})
}

// Whatever operation of a commit of windows fails, in whatever way, a reader sees the windows before or the windows after.
func TestEveryWindowOperationFails(t *testing.T) {
	for _, crash := range []bool{true, false} {
		for _, when := range []storetest.When{storetest.Before, storetest.After} {
			t.Run(fmt.Sprintf("crash=%v when=%d", crash, when), func(t *testing.T) {
				t.Parallel()
				step := 1
				if raced {
					step = 7
				}
				for n := 1; ; n += step {
					if !windowsFailAt(t, storetest.Fault{Nth: n, When: when, Crash: crash}) {
						if n < 10 {
							t.Fatalf("only %d operations were tried", n)
						}
						return
					}
					if t.Failed() {
						t.Fatalf("at operation %d", n)
					}
				}
			})
		}
	}
}

func windowsFailAt(t *testing.T, fault storetest.Fault) (fired bool) {
	t.Helper()
	mem := memstore.New()
	mustMonths(t, Open(mem, ""), "r0", 0, map[string]int{"2024-01": 5, "2024-02": 12, "2024-03": 3})
	before := map[string][2]int{"2024-01": {0, 5}, "2024-02": {0, 12}, "2024-03": {0, 3}}
	after := map[string][2]int{"2024-02": {1, 15}, "2024-03": {0, 3}, "2024-04": {0, 0}}
	faulty := storetest.Faulty(mem, fault)
	_, err := months(t.Context(), t, Open(faulty, ""), windowSpec(t, "r1"), 1, map[string]int{"2024-02": 15, "2024-04": 0}, "2024-01")
	s, serr := Open(mem, "").Snapshot(t.Context())
	if serr != nil {
		t.Fatal(serr)
	}
	got, gerr := byWindow(t.Context(), mem, s)
	if gerr != nil {
		t.Fatal(gerr)
	}
	var unresolved *delta.Unresolved
	switch {
	case err == nil && !maps.Equal(got, after):
		t.Fatalf("published, and yet there is %v", got)
	case err != nil && !errors.As(err, &unresolved) && !fault.Crash && !maps.Equal(got, before):
		t.Fatalf("%v, and yet there is %v", err, got)
	case !maps.Equal(got, before) && !maps.Equal(got, after):
		t.Fatalf("half a refresh: %v (%v)", got, err)
	}
	// The same road once more: it recovers.
	if _, err := months(t.Context(), t, Open(mem, ""), windowSpec(t, "r2"), 1, map[string]int{"2024-02": 15, "2024-04": 0}, "2024-01"); err != nil {
		t.Fatal(err)
	}
	expectWindows(t, mem, Open(mem, ""), after)
	return faulty.Fired() > 0
}
