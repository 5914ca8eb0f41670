package sets_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tablexport/tablexport/export/sets"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/memstore"
	"github.com/tablexport/tablexport/export/store/storetest"
)

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func open(t *testing.T, b store.Bucket) *sets.Set { return must(sets.Open(b, "sales"))(t) }

// pointer is one that a run would publish.
func pointer(run string, version int64) sets.Pointer {
	return sets.Pointer{Run: run, Cut: time.Date(2024, 3, 1, 5, 0, 0, 0, time.UTC), Published: time.Now().UTC(), References: []sets.Reference{},
		Members: []sets.Member{{Job: "orders", Store: "lake", Path: "orders", Version: version, Rows: 3}}}
}

func TestPointers(t *testing.T) {
	ctx, b := t.Context(), memstore.New()
	s := open(t, b)
	if _, err := s.Newest(ctx); !errors.Is(err, sets.ErrNone) {
		t.Fatal(err)
	}
	if err := s.Copy(ctx); err != nil {
		t.Fatal("nothing to copy is no error:", err)
	}
	for i := range int64(12) {
		p := must(s.Publish(ctx, i-1, pointer(fmt.Sprint("run", i), 10+i)))(t)
		if p.Version != i || p.Set != "sales" {
			t.Fatal(p)
		}
		if i%3 == 0 { // the copy lags most of the time
			if err := s.Copy(ctx); err != nil {
				t.Fatal(err)
			}
		}
		newest := must(s.Newest(ctx))(t)
		if m, ok := newest.Member("orders"); newest.Version != i || !ok || m.Version != 10+i {
			t.Fatal(newest)
		}
	}
	all := must(s.List(ctx, 0))(t)
	if len(all) != 12 || all[0].Version != 11 || all[11].Version != 0 {
		t.Error(len(all))
	}
	if two := must(s.List(ctx, 2))(t); len(two) != 2 || two[1].Version != 10 {
		t.Error(two)
	}
	var conflict *sets.Conflict
	if _, err := s.Publish(ctx, 5, pointer("late", 1)); !errors.As(err, &conflict) || conflict.Version != 6 {
		t.Error(err)
	}
	if _, err := s.Version(ctx, 99); !errors.Is(err, sets.ErrNone) {
		t.Error(err)
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"", "a/b", "..", ".x", "a b", "_x", strings.Repeat("a", 101)} {
		if _, err := sets.Open(memstore.New(), name); err == nil {
			t.Errorf("%q is taken for a name", name)
		}
	}
}

// TestOneOfManyWins: of runs that publish at once, each version is one's alone.
func TestOneOfManyWins(t *testing.T) {
	ctx, s := t.Context(), open(t, memstore.New())
	var group sync.WaitGroup
	var mu sync.Mutex
	won := map[int64]string{}
	for i := range 8 {
		group.Go(func() {
			for base := int64(-1); base < 5; base++ {
				run := fmt.Sprint(i, "-", base)
				if p, err := s.Publish(ctx, base, pointer(run, 1)); err == nil {
					mu.Lock()
					if won[p.Version] != "" {
						t.Errorf("version %d was won twice", p.Version)
					}
					won[p.Version] = run
					mu.Unlock()
				}
				_ = s.Copy(ctx)
			}
		})
	}
	group.Wait()
	for _, p := range must(s.List(ctx, 0))(t) {
		if won[p.Version] != p.Run {
			t.Errorf("version %d is of run %s, but %s was told so", p.Version, p.Run, won[p.Version])
		}
	}
}

// TestFaults fails every operation of a publication once, on either side of its effect.
func TestFaults(t *testing.T) {
	for _, when := range []storetest.When{storetest.Before, storetest.After} {
		for n := 1; ; n++ {
			b := memstore.New()
			clean := open(t, b)
			must(clean.Publish(t.Context(), -1, pointer("first", 1)))(t)
			if n%2 == 0 {
				if err := clean.Copy(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			faulty := storetest.Faulty(b, storetest.Fault{Nth: n, When: when})
			s := open(t, faulty)
			published, err := s.Publish(t.Context(), 0, pointer("second", 2))
			var unresolved *sets.Unresolved
			if newest := must(clean.Newest(t.Context()))(t); err == nil && newest.Run != "second" || err != nil && newest.Run == "second" && !errors.As(err, &unresolved) {
				t.Fatalf("fault %d (%v): %v, and the newest is of run %s", n, when, err, newest.Run)
			}
			copyErr := s.Copy(t.Context())
			if err == nil && published.Version != 1 {
				t.Fatal(published)
			}
			if copyErr != nil { // mended by the next
				if err := clean.Copy(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if faulty.Fired() == 0 {
				break
			}
		}
	}
}

// TestALostAnswerIsFoundOut: the pointer is there although the store said that it failed.
func TestALostAnswerIsFoundOut(t *testing.T) {
	b := memstore.New()
	s := open(t, storetest.Faulty(b, storetest.Fault{Op: "put-if-absent", Nth: 1, When: storetest.After}))
	p, err := s.Publish(t.Context(), -1, pointer("only", 1))
	if err != nil || p.Version != 0 {
		t.Fatal(p, err)
	}
	if n := len(must(s.List(t.Context(), 0))(t)); n != 1 {
		t.Errorf("%d versions", n)
	}
}

// TestNotKnown: a store that is away for good leaves it open.
func TestNotKnown(t *testing.T) {
	s := open(t, storetest.Faulty(memstore.New(), storetest.Fault{Op: "put-if-absent"}, storetest.Fault{Op: "open"}))
	var unresolved *sets.Unresolved
	if _, err := s.Publish(t.Context(), -1, pointer("only", 1)); !errors.As(err, &unresolved) {
		t.Error(err)
	}
	refused := open(t, storetest.Faulty(memstore.New(), storetest.Fault{Op: "put-if-absent", Err: store.Errorf(store.Permission, "put-if-absent", "x", "no")}))
	if _, err := refused.Publish(t.Context(), -1, pointer("only", 1)); err == nil || errors.As(err, &unresolved) {
		t.Error("a refusal is known:", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := open(t, memstore.New()).Publish(ctx, -1, pointer("only", 1)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestTheCopyIsNotTrusted: whatever stands in current.json, the numbered pointers count.
func TestTheCopyIsNotTrusted(t *testing.T) {
	ctx, b := t.Context(), memstore.New()
	s := open(t, b)
	for i := range int64(3) {
		must(s.Publish(ctx, i-1, pointer(fmt.Sprint(i), i)))(t)
	}
	for _, text := range []string{"", "{", `{"set":"other","members":[{}]}`, `{"set":"sales","version":700,"members":[{"job":"x"}]}`, `{"set":"sales","version":-4,"members":[{"job":"x"}]}`} {
		if err := b.Put(ctx, "_sets/sales/current.json", []byte(text)); err != nil {
			t.Fatal(err)
		}
		if p, err := s.Newest(ctx); err != nil || p.Version != 2 {
			t.Errorf("with %q: %v %v", text, p, err)
		}
		if err := s.Copy(ctx); err != nil {
			t.Error(err)
		}
	}
	if err := b.Put(ctx, "_sets/sales/00000000000000000002.json", []byte(`{"set":"sales","version":1,"secret":"CANARY","members":[{"job":"x"}]}`)); err != nil {
		t.Fatal(err)
	}
	var corrupt *sets.Corrupt
	if _, err := s.Newest(ctx); !errors.As(err, &corrupt) || strings.Contains(err.Error(), "CANARY") {
		t.Error(err)
	}
}

func TestHeld(t *testing.T) {
	ctx, s := t.Context(), open(t, memstore.New())
	if held := must(s.Held(ctx, time.Now()))(t); len(held) != 0 {
		t.Error(held)
	}
	day := time.Date(2024, 3, 1, 0, 0, 0, 0, time.UTC)
	for i := range int64(6) {
		p := pointer(fmt.Sprint(i), i)
		p.Published = day.AddDate(0, 0, int(i))
		must(s.Publish(ctx, i-1, p))(t)
	}
	for since, want := range map[time.Time]int{
		day.AddDate(0, 0, 30):                 1, // the newest always
		day.AddDate(0, 0, 5):                  2, // replaced at that very instant
		day.AddDate(0, 0, 4).Add(time.Second): 2,
		day.AddDate(0, 0, 3).Add(time.Second): 3,
		day.AddDate(0, 0, -9):                 6,
	} {
		if held := must(s.Held(ctx, since))(t); len(held) != want {
			t.Errorf("since %v: %d, not %d", since, len(held), want)
		}
	}
}
