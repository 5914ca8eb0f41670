package export

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/memstore"
	"github.com/tablexport/tablexport/export/store/storetest"
	"github.com/tablexport/tablexport/odata/evidence"
)

func mergeSpec(t testing.TB, run string) Spec {
	s := spec(t, run)
	s.QueryID, s.FileBytes = "q1", 1<<10
	return s
}

// state is which generation each row of a dataset must be of.
type state map[int]int

// stands demands that a dataset holds exactly the rows of a state, each whole, by a foreign reader.
func (want state) stands(t testing.TB, b store.Bucket) *delta.Snapshot {
	t.Helper()
	s, err := Open(b, "t").Snapshot(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := want.check(b, s); err != nil {
		t.Fatal(err)
	}
	return s
}

func (want state) check(b store.Bucket, s *delta.Snapshot) error {
	cells, err := readAll(context.Background(), store.Prefixed(b, "t"), s)
	if err != nil {
		return err
	}
	have := state{}
	for row, id := range cells["Id"] {
		n, _ := strconv.Atoi(id)
		gen, _ := strconv.Atoi(cells["Generation"][row])
		if _, twice := have[n]; twice {
			return fmt.Errorf("row %d is there twice", n)
		}
		have[n] = gen
		for name, column := range cells {
			text, ok := oracle(gen, n, name)
			if name == "Notes" && ok != (column[row] != "\x00") || ok && name == "Notes" && column[row] != text {
				return fmt.Errorf("row %d, column %s: %q", n, name, column[row])
			}
		}
	}
	if !maps.Equal(want, have) {
		return fmt.Errorf("%d rows, want %d: %v, want %v", len(have), len(want), have, want)
	}
	return nil
}

// change is what a merge is to do: rows to write in a generation, and rows to delete.
type change struct {
	gen    int
	write  []int
	delete []int
}

func (c change) apply(s state) state {
	s = maps.Clone(s)
	for _, id := range c.delete {
		delete(s, id)
	}
	for _, id := range c.write {
		s[id] = c.gen
	}
	return s
}

// merge does what a runner does: finds the rows, drops them, writes others.
func merge(ctx context.Context, t testing.TB, d *Dataset, sp Spec, c change, rows int64) (Commit, error) {
	t.Helper()
	m, err := d.Merge(ctx, sp)
	if err != nil {
		return Commit{}, err
	}
	defer m.Close(ctx)
	drop := map[string]bool{}
	for _, id := range slices.Concat(c.write, c.delete) {
		drop[fmt.Sprintf("%08d", id)] = true
	}
	deleted := int64(0)
	for at, err := range m.Rows(ctx, []string{"Id"}) {
		if err != nil {
			return Commit{}, err
		}
		ids := at.Record.Column(0).(*array.String)
		for row := range ids.Len() {
			if drop[ids.Value(row)] {
				if err := m.Drop(at.At(row)); err != nil {
					return Commit{}, err
				}
			}
		}
	}
	sc := everything(t, sp.Schema)
	for _, id := range c.write {
		rec := batch(sp.Schema, c.gen, id, id+1)
		checked, err := sc.Check(rec)
		if err != nil {
			t.Fatal(err)
		}
		err = m.Write(ctx, checked)
		checked.Release()
		rec.Release()
		if err != nil {
			return Commit{}, err
		}
	}
	n := int64(len(c.write))
	err = m.Done(ctx, MergeProof{Sweep: proof(int(max(rows, 0))), Fetch: evidence.Fetch{Asked: n, Found: n}, Rows: rows, Deleted: deleted})
	if err != nil {
		return Commit{}, err
	}
	return m.Refresh().Commit(ctx)
}

func loaded(t testing.TB, b store.Bucket, rows int) state {
	t.Helper()
	if _, err := refresh(t.Context(), t, Open(b, "t"), mergeSpec(t, "first"), 0, rows); err != nil {
		t.Fatal(err)
	}
	s := state{}
	for i := range rows {
		s[i] = 0
	}
	return s
}

func withoutLast(s *arrow.Schema) *arrow.Schema {
	return arrow.NewSchema(s.Fields()[:s.NumFields()-1], nil)
}

// some are n of a state's rows.
func (want state) some(rng *rand.Rand, n int) []int {
	ids := slices.Sorted(maps.Keys(want))
	rng.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	return ids[:min(n, len(ids))]
}

// Many merges, one behind the other: the dataset is always exactly what it must be, old versions stay readable, files stay few, and the
// history says what was done.
func TestMerges(t *testing.T) {
	b := memstore.New()
	d := Open(b, "t")
	s := loaded(t, b, 400)
	states := []state{s}
	rng := rand.New(rand.NewPCG(3, 4))
	for round := 1; round <= 40; round++ {
		c := change{gen: round}
		touched := s.some(rng, rng.IntN(12))
		cut := rng.IntN(len(touched) + 1)
		c.write, c.delete = touched[:cut], touched[cut:]
		for range rng.IntN(6) {
			c.write = append(c.write, 1000+round*10+len(c.write))
		}
		if round == 20 { // everything goes
			c = change{gen: round, delete: s.some(rng, len(s))}
		}
		s = c.apply(s)
		before := d
		got, err := merge(t.Context(), t, before, mergeSpec(t, fmt.Sprint("run", round)), c, int64(len(s)))
		if err != nil {
			t.Fatal(err)
		}
		states = append(states, s)
		snap := s.stands(t, b)
		if got.Merge.After != int64(len(s)) || got.Merge.Written != int64(len(c.write)) || snap.Version != int64(round) {
			t.Errorf("round %d: %+v", round, got.Merge)
		}
		if len(snap.Files) > 40 {
			t.Errorf("round %d: %d files", round, len(snap.Files))
		}
	}
	for version, want := range states {
		snap, err := d.SnapshotAt(t.Context(), int64(version))
		if err != nil {
			t.Fatal(err)
		}
		if err := want.check(b, snap); err != nil {
			t.Errorf("version %d: %v", version, err)
		}
	}
	report, err := d.Verify(t.Context())
	if err != nil || len(report.Problems) > 0 {
		t.Errorf("%v %v", report.Problems, err)
	}
	versions, err := d.History(t.Context(), 1)
	if err != nil || versions[0].Operation != "MERGE" || versions[0].Merge == nil || versions[0].Merge.After != int64(len(s)) {
		t.Errorf("%+v %v", versions, err)
	}
}

// Files without a dropped row are not touched, however many rows the others lose.
func TestMergeLeavesOtherFilesAlone(t *testing.T) {
	b := memstore.New()
	s := loaded(t, b, 600)
	before := s.stands(t, b)
	if len(before.Files) < 5 {
		t.Fatalf("%d files", len(before.Files))
	}
	c := change{gen: 1, write: []int{3, 4}, delete: []int{0, 1, 9}}
	if _, err := merge(t.Context(), t, Open(b, "t"), mergeSpec(t, "second"), c, 597); err != nil {
		t.Fatal(err)
	}
	after := c.apply(s).stands(t, b)
	stayed := 0
	for _, f := range before.Files {
		if slices.ContainsFunc(after.Files, func(o delta.Add) bool { return o.Path == f.Path }) {
			stayed++
		}
	}
	if stayed < len(before.Files)-2 {
		t.Errorf("of %d files %d stayed", len(before.Files), stayed)
	}
}

// What is not proven, does not add up, or was dropped twice, is not published.
func TestMergeRefuses(t *testing.T) {
	for name, spoil := range map[string]func(m *Merge, p *MergeProof){
		"no end of the sweep": func(_ *Merge, p *MergeProof) { p.Sweep.End = evidence.EndNotSeen },
		"a key unanswered":    func(_ *Merge, p *MergeProof) { p.Fetch.Asked++ },
		"a row not written":   func(_ *Merge, p *MergeProof) { p.Fetch.Asked, p.Fetch.Found = 1, 1 },
		"another row count":   func(_ *Merge, p *MergeProof) { p.Rows++ },
		"dropped twice":       func(m *Merge, _ *MergeProof) { _ = m.Drop(Located{}.At(7)) },
		"no such row":         func(m *Merge, _ *MergeProof) { _ = m.Drop(Located{}.At(1 << 40)) },
		"wrong row count":     func(m *Merge, _ *MergeProof) { m.rows[0]++; m.before++ },
	} {
		b := memstore.New()
		s := loaded(t, b, 50)
		m, err := Open(b, "t").Merge(t.Context(), mergeSpec(t, "second"))
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Drop(Located{}.At(7)); err != nil {
			t.Fatal(err)
		}
		p := MergeProof{Sweep: proof(49), Rows: 49}
		spoil(m, &p)
		if err := m.Done(t.Context(), p); err == nil {
			t.Errorf("%s: taken", name)
		}
		if _, err := m.Refresh().Commit(t.Context()); err == nil {
			t.Errorf("%s: published", name)
		}
		if err := m.Close(t.Context()); err != nil {
			t.Error(err)
		}
		s.stands(t, b)
		sweepClean(t, b)
	}
}

// A dataset that a merge cannot build on says why.
func TestNotMergeable(t *testing.T) {
	b := memstore.New()
	var no *NotMergeable
	if _, err := Open(b, "t").Merge(t.Context(), mergeSpec(t, "r")); !errors.As(err, &no) {
		t.Errorf("nothing there: %v", err)
	}
	loaded(t, b, 20)
	for name, change := range map[string]func(*Spec){
		"query":  func(s *Spec) { s.QueryID = "q2" },
		"column": func(s *Spec) { s.Schema = withoutLast(lines); s.AcceptSchema = true },
	} {
		sp := mergeSpec(t, "second")
		change(&sp)
		if _, err := Open(b, "t").Merge(t.Context(), sp); !errors.As(err, &no) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A run that comes twice is published once; two merges at once are a conflict for one of them.
func TestMergesAtOnce(t *testing.T) {
	b := memstore.New()
	s := loaded(t, b, 60)
	d := Open(b, "t")
	first, err := d.Merge(t.Context(), mergeSpec(t, "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close(t.Context())
	c := change{gen: 1, write: []int{5}, delete: []int{6}}
	if _, err := merge(t.Context(), t, d, mergeSpec(t, "b"), c, 59); err != nil {
		t.Fatal(err)
	}
	if err := first.Drop(Located{}.At(9)); err != nil {
		t.Fatal(err)
	}
	if err := first.Done(t.Context(), MergeProof{Sweep: proof(59), Rows: 59}); err != nil {
		t.Fatal(err)
	}
	var conflict *delta.Conflict
	if _, err := first.Refresh().Commit(t.Context()); !errors.As(err, &conflict) {
		t.Errorf("%v", err)
	}
	c.apply(s).stands(t, b)
	if again, err := merge(t.Context(), t, d, mergeSpec(t, "b"), c, 59); err != nil || !again.Repeated {
		t.Errorf("%+v, %v", again, err)
	}
	c.apply(s).stands(t, b)
}

// Marks are published with the rows, and found by later runs.
func TestMarks(t *testing.T) {
	b := memstore.New()
	s := loaded(t, b, 20)
	at := time.UnixMilli(1_700_000_000_123).UTC()
	sp := mergeSpec(t, "second")
	sp.Marks = map[string]time.Time{"watermark": at}
	if _, err := merge(t.Context(), t, Open(b, "t"), sp, change{}, 20); err != nil {
		t.Fatal(err)
	}
	s.stands(t, b)
	r, err := Open(b, "t").Begin(t.Context(), mergeSpec(t, "third"))
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := r.Mark("watermark"); !ok || !got.Equal(at) {
		t.Errorf("%v %v", got, ok)
	}
	if _, ok := r.Mark("sweep"); ok {
		t.Error("a mark that nobody made")
	}

	// Who rearranges files leaves the rows as they are; whoever else commits does not.
	for operation, want := range map[string]bool{"OPTIMIZE": true, "RESTORE": false, "DELETE": false} {
		b := memstore.New()
		loaded(t, b, 20)
		d := Open(b, "t")
		base, err := d.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.log.Commit(t.Context(), base, []delta.Action{{CommitInfo: delta.CommitInfo{"operation": operation}}}); err != nil {
			t.Fatal(err)
		}
		r, err := d.Begin(t.Context(), mergeSpec(t, "third"))
		if err != nil {
			t.Fatal(err)
		}
		if r.Continues() != want {
			t.Errorf("%s: %v", operation, !want)
		}
	}
}

// Whatever operation of the store fails, and whether or not it took effect: the dataset is as before or as it must become, the run can
// be repeated, and nothing stays behind.
func TestMergeWhenEveryOperationFails(t *testing.T) {
	for _, crash := range []bool{true, false} {
		for _, when := range []storetest.When{storetest.Before, storetest.After} {
			t.Run(fmt.Sprintf("crash=%v when=%d", crash, when), func(t *testing.T) {
				t.Parallel()
				n := 1
				for mergeFailingAt(t, storetest.Fault{Nth: n, When: when, Crash: crash}) > 0 && !t.Failed() {
					if n++; raced {
						n += 8
					}
				}
				if n < 20 {
					t.Errorf("only %d operations", n)
				}
			})
		}
	}
}

func mergeFailingAt(t *testing.T, fault storetest.Fault) (fired int) {
	inner := memstore.New()
	s := loaded(t, inner, 40)
	c := change{gen: 1, write: []int{5, 30, 500}, delete: []int{6, 20}}
	next := c.apply(s)
	b := storetest.Faulty(inner, fault)
	_, err := merge(t.Context(), t, Open(b, "t"), mergeSpec(t, "second"), c, int64(len(next)))
	snap, serr := Open(inner, "t").Snapshot(t.Context())
	if serr != nil {
		t.Fatal(serr)
	}
	want := s
	if snap.Version == 1 {
		want = next
	}
	if cerr := want.check(inner, snap); cerr != nil {
		t.Fatalf("operation %d (%v): %v", fault.Nth, err, cerr)
	}
	var un *delta.Unresolved
	if err == nil && snap.Version != 1 || err != nil && !errors.As(err, &un) && snap.Version != 0 {
		t.Fatalf("operation %d: version %d, %v", fault.Nth, snap.Version, err)
	}
	if _, err := merge(t.Context(), t, Open(inner, "t"), mergeSpec(t, "second"), c, int64(len(next))); err != nil {
		t.Fatalf("operation %d: again: %v", fault.Nth, err)
	}
	next.stands(t, inner)
	sweepClean(t, inner)
	return b.Fired()
}
