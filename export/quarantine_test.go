package export

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/memstore"
	"github.com/tablexport/tablexport/export/store/storetest"
	"github.com/tablexport/tablexport/odata/scope"
)

func quarantineSpec(t testing.TB, run string) Spec {
	sp := spec(t, run)
	sp.Contract, sp.Quarantine = Quarantined, &Quarantine{Key: []string{"Id"}, Most: 100}
	return sp
}

// one is the proof of one row.
func one(t testing.TB) scope.Checked {
	t.Helper()
	rec := batch(lines, 0, 0, 1)
	checked, err := everything(t, lines).Check(rec)
	if err != nil {
		t.Fatal(err)
	}
	return checked
}

func misfit(n int) Misfit {
	return Misfit{Key: []string{fmt.Sprint("bad-", n)}, Column: "Quantity", Reason: "too many decimals", Row: `{"Quantity":1.2345}`}
}

// refreshAside is a run with rows that fit, and some that do not.
func refreshAside(ctx context.Context, t testing.TB, d *Dataset, sp Spec, gen, rows, aside int) (Commit, error) {
	t.Helper()
	r, err := begin(ctx, d, sp)
	if err != nil {
		return Commit{}, err
	}
	defer func() { _ = r.Abort(ctx) }()
	if err := fill(ctx, t, r, sp.Schema, gen, rows); err != nil {
		return Commit{}, err
	}
	for i := range aside {
		if err := r.SetAside(one(t), misfit(i)); err != nil {
			return Commit{}, err
		}
	}
	ev := proof(rows)
	ev.Quarantined, ev.DistinctKeys = int64(aside), ev.DistinctKeys+int64(aside)
	return r.Commit(ctx, ev)
}

// asideOf reads the quarantine of the dataset t: keys by run, as a foreign reader sees them.
func asideOf(t testing.TB, b store.Bucket) map[string][]string {
	t.Helper()
	d := Open(b, "t").Quarantine()
	s, err := d.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cells, err := readAll(t.Context(), d.b, s)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	for i, run := range cells["quarantine_run"] {
		out[run] = append(out[run], cells["Id"][i])
	}
	for _, keys := range out {
		slices.Sort(keys)
	}
	return out
}

// A process that dies at any operation, before or after its effect, leaves the previous version, or the new one with all of its misfits beside it. Whatever it left, the
// next run publishes both, and its rows are there once.
func TestQuarantineSurvivesCrashes(t *testing.T) {
	t.Parallel()
	published := 0
	for n := 1; ; n++ {
		fired := false
		for _, when := range []storetest.When{storetest.Before, storetest.After} {
			b := memstore.New()
			if _, err := refreshAside(t.Context(), t, Open(b, "t"), quarantineSpec(t, "run-0"), 0, 15, 1); err != nil {
				t.Fatal(err)
			}
			bad := storetest.Faulty(b, storetest.CrashAt(n, when))
			_, err := refreshAside(t.Context(), t, Open(bad, "t"), quarantineSpec(t, "run-1"), 1, 25, 2)
			fired = fired || bad.Fired() > 0
			s, serr := Open(b, "t").Snapshot(t.Context())
			if serr != nil {
				t.Fatal(serr)
			}
			gen, werr := whole(t.Context(), store.Prefixed(b, "t"), s, map[int]int{0: 15, 1: 25})
			if werr != nil {
				t.Fatalf("operation %d: %v", n, werr)
			}
			aside := asideOf(t, b)
			if !slices.Equal(aside["run-0"], []string{"bad-0"}) {
				t.Fatalf("operation %d: the previous version's rows are gone: %v", n, aside)
			}
			if gen == 1 {
				published++
				if !slices.Equal(aside["run-1"], []string{"bad-0", "bad-1"}) {
					t.Fatalf("operation %d: a version lacks rows that are nowhere: %v (%v)", n, aside, err)
				}
			}
			// The same run once more, as a caller that never heard the answer would try it, and another run.
			if _, err := refreshAside(t.Context(), t, Open(b, "t"), quarantineSpec(t, "run-1"), 1, 25, 2); err != nil {
				t.Fatalf("operation %d: %v", n, err)
			}
			if _, err := refreshAside(t.Context(), t, Open(b, "t"), quarantineSpec(t, "run-2"), 1, 25, 3); err != nil {
				t.Fatalf("operation %d: %v", n, err)
			}
			aside = asideOf(t, b)
			if len(aside) != 3 || len(aside["run-1"]) != 2 || len(aside["run-2"]) != 3 {
				t.Fatalf("operation %d: %v", n, aside)
			}
		}
		if !fired {
			break
		}
	}
	if published == 0 {
		t.Error("no crash left the new version: the test proves nothing")
	}
}

// A run that is tried again replaces what it has put into the quarantine, also if nothing is left to put there.
func TestQuarantineOfARunIsReplaced(t *testing.T) {
	b := memstore.New()
	lost := storetest.Faulty(b, storetest.Fault{Op: "put-if-absent", Key: "t/_delta_log/*"})
	if _, err := refreshAside(t.Context(), t, Open(lost, "t"), quarantineSpec(t, "run-1"), 0, 15, 4); err == nil {
		t.Fatal("published")
	}
	if got := asideOf(t, b); len(got["run-1"]) != 4 {
		t.Fatalf("the quarantine comes first: %v", got)
	}
	c, err := refreshAside(t.Context(), t, Open(b, "t"), quarantineSpec(t, "run-1"), 0, 15, 2)
	if got := asideOf(t, b); err != nil || c.Quarantined != 2 || len(got["run-1"]) != 2 {
		t.Fatalf("%v %+v %v", err, c, got)
	}
	lost = storetest.Faulty(b, storetest.Fault{Op: "put-if-absent", Key: "t/_delta_log/*"})
	if _, err := refreshAside(t.Context(), t, Open(lost, "t"), quarantineSpec(t, "run-2"), 0, 15, 4); err == nil {
		t.Fatal("published")
	}
	if _, err := refreshAside(t.Context(), t, Open(b, "t"), quarantineSpec(t, "run-2"), 0, 15, 0); err != nil {
		t.Fatal(err)
	}
	if got := asideOf(t, b); len(got) != 1 || len(got["run-1"]) != 2 {
		t.Fatalf("%v", got)
	}
}

// Windows that are published side by side make one quarantine, each with its own rows.
func TestQuarantineOfWindows(t *testing.T) {
	b := memstore.New()
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			sp := quarantineSpec(t, "run-1")
			sp.Partition, sp.QueryID, sp.Unit = "month", "q", fmt.Sprintf("2024-0%d", i+1)
			for try := 0; ; try++ {
				err := func() error {
					r, err := Open(b, "t").Begin(t.Context(), sp)
					if err != nil {
						return err
					}
					defer func() { _ = r.Abort(t.Context()) }()
					s, err := r.Slice(SliceSpec{Value: sp.Unit})
					if err != nil {
						return err
					}
					if err := s.SetAside(one(t), misfit(i)); err != nil {
						return err
					}
					ev := proof(0)
					ev.Quarantined, ev.DistinctKeys = 1, 1
					if err := s.Done(t.Context(), ev); err != nil {
						return err
					}
					_, err = r.Commit(t.Context())
					return err
				}()
				if err == nil {
					return
				}
				if try == 5 { // the first version of the dataset itself is made by one only
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if got := asideOf(t, b); !slices.Equal(got["run-1"], []string{"bad-0", "bad-1", "bad-2", "bad-3"}) {
		t.Errorf("%v", got)
	}
}

func TestQuarantineRefusals(t *testing.T) {
	d := Open(memstore.New(), "t")
	var mismatch *RowMismatch
	r, err := begin(t.Context(), d, quarantineSpec(t, "r"))
	if err != nil {
		t.Fatal(err)
	}
	ev := proof(0)
	ev.Quarantined, ev.DistinctKeys = 1, 1
	if err := r.Done(t.Context(), ev); !errors.As(err, &mismatch) || mismatch.EvidenceAside != 1 || mismatch.Aside != 0 {
		t.Errorf("a row that is in neither table: %v", err)
	}
	for name, try := range map[string]func(s *Slice) error{
		"no proof": func(s *Slice) error { return s.SetAside(scope.Checked{}, misfit(0)) },
		"no key":   func(s *Slice) error { m := misfit(0); m.Key = nil; return s.SetAside(one(t), m) },
		"another scope": func(s *Slice) error {
			rec := batch(lines, 0, 0, 1)
			sc, err := scope.New(scope.Rules{Name: "other", Unrestricted: true}, lines, []string{"Id"})
			if err != nil {
				t.Fatal(err)
			}
			checked, err := sc.Check(rec)
			if err != nil {
				t.Fatal(err)
			}
			return s.SetAside(checked, misfit(0))
		},
	} {
		r, err := begin(t.Context(), d, quarantineSpec(t, "r"))
		if err != nil {
			t.Fatal(err)
		}
		if err := try(r.Slice); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	r, err = begin(t.Context(), d, spec(t, "r"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.SetAside(one(t), misfit(0)); err == nil {
		t.Error("a refresh without a quarantine has taken a row for it")
	}
	sp := quarantineSpec(t, "r")
	sp.Quarantine.Most = 0
	var limit *QuarantineLimit
	if _, err := refreshAside(t.Context(), t, d, sp, 0, 100, 3); !errors.As(err, &limit) || limit.Most != 2 || limit.Rows != 3 {
		t.Errorf("%v", err)
	}
	if got := keys(t, d.root, ""); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
	if _, err := refreshAside(t.Context(), t, Open(memstore.New(), ""), quarantineSpec(t, "r"), 0, 1, 1); err == nil || !strings.Contains(err.Error(), "give it a path") {
		t.Errorf("%v", err)
	}
}

func TestWiderTypes(t *testing.T) {
	for _, c := range []struct {
		wide, narrow string
		want         bool
	}{
		{"long", "integer", true}, {"integer", "short", true}, {"integer", "long", false}, {"string", "integer", false}, {"double", "integer", false},
		{"decimal(14,2)", "decimal(12,2)", true}, {"decimal(14,4)", "decimal(12,2)", true}, {"decimal(13,4)", "decimal(12,2)", false},
		{"decimal(14,1)", "decimal(12,2)", false}, {"decimal(38,0)", "long", false}, {"string", "string", true},
	} {
		if got := holds(c.wide, c.narrow); got != c.want {
			t.Errorf("%s holds %s: %v", c.wide, c.narrow, got)
		}
	}
}

// A frozen dataset takes over nothing, not even a new nullable column. A window's files would hold the narrower type, so a wider one needs all windows.
func TestContracts(t *testing.T) {
	d := Open(memstore.New(), "t")
	mustRefresh(t, d, "r0", 0, 5)
	sp := spec(t, "r1")
	sp.Contract = Freeze
	sp.Schema = arrow.NewSchema(append(slices.Clone(lines.Fields()), arrow.Field{Name: "Extra", Type: arrow.PrimitiveTypes.Float64, Nullable: true}), nil)
	var change *SchemaChange
	if _, err := begin(t.Context(), d, sp); !errors.As(err, &change) || !change.Frozen || !slices.Equal(change.Diff, []string{"+ Extra double"}) {
		t.Errorf("%v", err)
	}
	sp.Schema = lines
	if _, err := refresh(t.Context(), t, d, sp, 1, 5); err != nil {
		t.Errorf("nothing has changed: %v", err)
	}

	w := Open(memstore.New(), "t")
	mustMonths(t, w, "r0", 0, map[string]int{"2024-01": 5, "2024-02": 5})
	wide := windowSpec(t, "r1")
	fields := slices.Clone(lines.Fields())
	fields[2].Type = arrow.PrimitiveTypes.Int64
	wide.Schema = arrow.NewSchema(fields, nil)
	wide.Scope = everything(t, wide.Schema).Stamp()
	if _, err := months(t.Context(), t, w, wide, 1, map[string]int{"2024-02": 5}); !errors.As(err, &change) || !strings.Contains(err.Error(), "2024-01") {
		t.Errorf("%v", err)
	}
	if _, err := months(t.Context(), t, w, wide, 1, map[string]int{"2024-02": 5, "2024-01": 3}); err != nil {
		t.Error(err)
	}
}
