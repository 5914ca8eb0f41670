package export

import (
	"errors"
	"testing"

	"github.com/tablexport/tablexport/export/lease"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/filestore"
)

// A refresh under an old lease publishes until a newer one has; then never again, though it touches other windows. One under no lease is
// held to none.
func TestFence(t *testing.T) {
	t.Parallel()
	b, err := filestore.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d := Open(b, "t")
	under := func(run string, fence int64) Spec {
		sp := windowSpec(t, run)
		sp.Fence = fence
		return sp
	}
	publish := func(run string, fence int64, window string) error {
		_, err := months(t.Context(), t, d, under(run, fence), 0, map[string]int{window: 5})
		return err
	}
	for i, step := range []struct {
		fence int64
		want  bool
	}{{3, true}, {3, true}, {5, true}, {5, true}, {3, false}, {4, false}, {0, true}, {5, true}} {
		err := publish("r"+string(rune('a'+i)), step.fence, "2024-0"+string(rune('1'+i)))
		var fenced *Fenced
		if step.want != (err == nil) || !step.want && (!errors.As(err, &fenced) || fenced.Newer != 5 || fenced.Ours != step.fence) {
			t.Errorf("step %d: %v", i, err)
		}
	}

	// It has begun before, and touches a window that the newer one does not.
	r, err := d.Begin(t.Context(), under("late", 5))
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Slice(SliceSpec{Value: "2024-09"})
	if err != nil {
		t.Fatal(err)
	}
	sp := under("late", 5)
	if err := errors.Join(fill(t.Context(), t, &refreshing{r, s}, sp.Schema, 1, 4), s.Done(t.Context(), proof(4)), publish("newer", 6, "2024-01")); err != nil {
		t.Fatal(err)
	}
	var fenced *Fenced
	if _, err := r.Commit(t.Context()); !errors.As(err, &fenced) {
		t.Errorf("%v", err)
	}
	if err := r.Abort(t.Context()); err != nil {
		t.Error(err)
	}
	report, err := d.Verify(t.Context())
	if err != nil || len(report.Problems) > 0 || report.Rows != 6*5 {
		t.Errorf("%+v %v", report, err)
	}

	// Claims that somebody has deleted do not set the fence back, and a sweep lets claims alone.
	l, err := d.Lease(t.Context(), lease.Options{Owner: "o", Process: "h:1:x"})
	if err != nil || l.Fence() != 7 {
		t.Fatalf("%v %v", l, err)
	}
	if _, err := d.Sweep(t.Context(), 0, false); err != nil {
		t.Error(err)
	}
	if holders, err := d.LeaseHolders(t.Context()); err != nil || len(holders) != 1 {
		t.Errorf("%v %v", holders, err)
	}
	if err := l.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := store.Prefixed(b, "t").Stat(t.Context(), "_lease/00000000000000000007.json"); err != nil {
		t.Error(err)
	}
}
