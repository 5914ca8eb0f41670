package filelock_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tablexport/tablexport/secrets/internal/filelock"
)

func TestExclusiveExcludes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	var holders, taken atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				lock, err := filelock.Exclusive(t.Context(), path)
				if err != nil {
					t.Error(err)
					return
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d holders at once", n)
				}
				taken.Add(1)
				time.Sleep(50 * time.Microsecond)
				holders.Add(-1)
				lock.Unlock()
			}
		})
	}
	wg.Wait()
	if n := taken.Load(); n != 160 {
		t.Fatalf("taken %d times, want 160", n)
	}
}

func TestWaitEndsWithContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	held, err := filelock.Exclusive(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	for name, take := range map[string]func(context.Context, string) (*filelock.Lock, error){
		"exclusive": filelock.Exclusive, "shared": filelock.Shared,
	} {
		if _, err := take(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: err = %v, want a deadline error", name, err)
		}
	}
	held.Unlock()
	a, err := filelock.Shared(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := filelock.Shared(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	a.Unlock()
	b.Unlock()
}
