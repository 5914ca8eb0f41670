package lease_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tablexport/tablexport/export/lease"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/filestore"
	"github.com/tablexport/tablexport/export/store/memstore"
	"github.com/tablexport/tablexport/export/store/storetest"
)

func of(owner string) lease.Options {
	return lease.Options{Owner: owner, Process: owner + "-host:1:x", Job: "job-" + owner, Run: "run-" + owner, TTL: time.Minute}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func take(t testing.TB, b store.Bucket, o lease.Options) *lease.Lease {
	t.Helper()
	l, err := lease.Acquire(t.Context(), b, "sales/lines", o)
	must(t, err)
	return l
}

func keys(t testing.TB, b store.Bucket) (list []string) {
	t.Helper()
	for f, err := range b.List(context.Background(), "", "") {
		must(t, err)
		list = append(list, f.Key)
	}
	return list
}

// One holds, the other is told by whom; after the release it is the other's turn, with a higher fence, and one object is left.
func TestOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memstore.New()
		first := take(t, b, of("a"))
		began := time.Now()
		_, err := lease.Acquire(t.Context(), b, "sales/lines", of("b"))
		var held *lease.HeldError
		if !errors.As(err, &held) || held.Claim.Owner != "a" || !strings.Contains(err.Error(), "host a-host, job job-a, run run-a") {
			t.Fatalf("%v", err)
		}
		if waited := time.Since(began); waited > 20*time.Second {
			t.Errorf("a live holder was recognized after %s", waited)
		}
		holders, err := lease.Holders(t.Context(), b)
		must(t, err)
		if len(holders) != 1 || holders[0].Owner != "a" || holders[0].Renewed.IsZero() {
			t.Errorf("holders: %+v", holders)
		}
		must(t, first.Check(t.Context()))
		must(t, first.Release(t.Context()))
		must(t, first.Release(t.Context()))
		second := take(t, b, of("b"))
		if second.Fence() <= first.Fence() {
			t.Errorf("fence %d after %d", second.Fence(), first.Fence())
		}
		must(t, second.Release(t.Context()))
		if left := keys(t, b); len(left) != 1 {
			t.Errorf("left behind: %v", left)
		}
		if holders, err := lease.Holders(t.Context(), b); err != nil || len(holders) != 0 {
			t.Errorf("holders %v, %v", holders, err)
		}
	})
}

// Processes of one owner share a dataset, with one fence, in any order of coming and going; a stranger waits for the last.
func TestOneOwnerShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memstore.New()
		long, short := take(t, b, of("a")), take(t, b, of("a"))
		if long.Fence() != short.Fence() {
			t.Fatalf("fences %d, %d", long.Fence(), short.Fence())
		}
		must(t, short.Release(t.Context()))
		for range 3 {
			again := take(t, b, of("a"))
			time.Sleep(2 * time.Minute)
			if again.Fence() != long.Fence() || again.Check(t.Context()) != nil || long.Check(t.Context()) != nil {
				t.Fatal("the owner lost it to itself")
			}
			must(t, again.Release(t.Context()))
		}
		var held *lease.HeldError
		if _, err := lease.Acquire(t.Context(), b, "x", of("b")); !errors.As(err, &held) {
			t.Fatalf("%v", err)
		}
		must(t, long.Release(t.Context()))
		must(t, take(t, b, of("b")).Release(t.Context()))
	})
}

// A holder that has died keeps strangers out for its time, its own owner not at all.
func TestDeadHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memstore.New()
		dying, die := context.WithCancel(t.Context())
		dead, err := lease.Acquire(dying, b, "x", of("a"))
		must(t, err)
		die()
		synctest.Wait()

		began := time.Now()
		kin := take(t, b, of("a"))
		if time.Since(began) > 0 {
			t.Error("the owner waited for itself")
		}
		must(t, kin.Release(t.Context()))
		told := 0
		waits := of("b")
		waits.Waiting = func(c lease.Claim) {
			if told++; c.Owner != "a" {
				t.Errorf("waiting for %+v", c)
			}
		}
		stranger := take(t, b, waits)
		if told != 1 {
			t.Errorf("told %d times", told)
		}
		if waited := time.Since(began); waited < time.Minute || waited > 70*time.Second {
			t.Errorf("waited %s", waited)
		}
		if stranger.Fence() <= dead.Fence() {
			t.Error("the fence has not moved")
		}
		must(t, stranger.Release(t.Context()))
		if left := keys(t, b); len(left) != 1 {
			t.Errorf("left behind: %v", left)
		}

		// With word of its end, the next run of the owner clears away what it left.
		gone, end := context.WithCancel(t.Context())
		_, err = lease.Acquire(gone, b, "x", of("a"))
		must(t, err)
		end()
		o := of("a")
		o.Gone = func(process string) bool { return process == "a-host:1:x" }
		o.Process = "a-host:2:y"
		must(t, take(t, b, o).Release(t.Context()))
		began = time.Now()
		must(t, take(t, b, of("b")).Release(t.Context()))
		if time.Since(began) > 0 {
			t.Error("a cleared claim was in the way")
		}
	})
}

// slept is a bucket whose holder's machine can sleep: nothing is written while it does.
type slept struct {
	store.Bucket
	asleep atomic.Bool
}

func (s *slept) Put(ctx context.Context, key string, data []byte) error {
	if s.asleep.Load() {
		return errors.New("asleep")
	}
	return s.Bucket.Put(ctx, key, data)
}

// A holder whose renewals do not arrive stops by itself before anyone else may begin; one that slept finds out at its check.
func TestSilentHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := memstore.New()
		b := &slept{Bucket: inner}
		silent := take(t, b, of("a"))
		b.asleep.Store(true)
		time.Sleep(59 * time.Second)
		var lost *lease.LostError
		if !errors.As(context.Cause(silent.Context()), &lost) || lost.By != nil || !errors.As(silent.Check(t.Context()), &lost) {
			t.Fatalf("%v", context.Cause(silent.Context()))
		}
		must(t, silent.Release(t.Context()))
		must(t, take(t, inner, of("b")).Release(t.Context()))
	})
	// One that believes itself alive is told by the store.
	for _, back := range []bool{false, true} { // true: its owner has taken the dataset back meanwhile, in another process
		synctest.Test(t, func(t *testing.T) {
			b := memstore.New()
			o := of("a")
			o.TTL = time.Hour // its next renewal is far away
			sleeper := take(t, b, o)
			broken, err := lease.Break(t.Context(), b, "x", of("person"))
			must(t, err)
			if len(broken) != 1 || broken[0].Run != "run-a" {
				t.Errorf("broken: %v", broken)
			}
			other := take(t, b, of("b"))
			if back {
				must(t, other.Release(t.Context()))
				defer take(t, b, of("a")).Release(t.Context())
			}
			var lost *lease.LostError
			if err := sleeper.Check(t.Context()); !errors.As(err, &lost) || lost.By == nil {
				t.Fatalf("%v", err)
			}
			if !errors.As(sleeper.Lost(), &lost) || sleeper.Context().Err() == nil {
				t.Error("its work goes on")
			}
			must(t, sleeper.Release(t.Context()))
			if !back {
				must(t, other.Check(t.Context()))
				must(t, other.Release(t.Context()))
			}
		})
	}
}

func TestBreakOfNothing(t *testing.T) {
	b := memstore.New()
	if broken, err := lease.Break(t.Context(), b, "x", of("person")); err != nil || len(broken) != 0 || len(keys(t, b)) != 0 {
		t.Errorf("%v, %v, %v", broken, err, keys(t, b))
	}
}

// Somebody who deletes the claims does not set the fences back: the log's is asked for.
func TestFloor(t *testing.T) {
	b := memstore.New()
	o := of("a")
	o.Floor = func(context.Context) (int64, error) { return 41, nil }
	l := take(t, b, o)
	if l.Fence() != 42 {
		t.Errorf("fence %d", l.Fence())
	}
	must(t, l.Release(t.Context()))
	o.Floor = func(context.Context) (int64, error) { return 0, errors.New("asked without need") }
	must(t, take(t, b, o).Release(t.Context()))
}

// What is no claim is in the way like a dead one's, and foreign objects are let alone.
func TestDamagedClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memstore.New()
		must(t, b.Put(t.Context(), "_lease/00000000000000000009.json", []byte("{")))
		must(t, b.Put(t.Context(), "_lease/notes.txt", []byte("mine")))
		began := time.Now()
		l := take(t, b, of("a"))
		if waited := time.Since(began); waited < time.Minute || waited > 70*time.Second || l.Fence() != 10 {
			t.Errorf("after %s with fence %d", waited, l.Fence())
		}
		must(t, l.Release(t.Context()))
		if left := keys(t, b); !slices.Contains(left, "_lease/notes.txt") || len(left) != 2 {
			t.Errorf("left %v", left)
		}
	})
}

// Every operation fails, before and after its effect, for good and once: at no time are there two holders, and nobody is locked out for
// longer than a claim's time.
func TestEveryOperationFails(t *testing.T) {
	for _, when := range []storetest.When{storetest.Before, storetest.After} {
		for _, crash := range []bool{false, true} {
			for n := 1; ; n++ {
				fired := false
				synctest.Test(t, func(t *testing.T) {
					fired = faultRound(t, storetest.Fault{Nth: n, When: when, Crash: crash})
				})
				if !fired {
					if n < 6 {
						t.Fatalf("only %d operations", n)
					}
					break
				}
			}
		}
	}
}

func faultRound(t *testing.T, fault storetest.Fault) (fired bool) {
	inner := memstore.New()
	faulty := storetest.Faulty(inner, fault)
	dying, die := context.WithCancel(t.Context())
	defer die()
	first, err := lease.Acquire(dying, faulty, "x", of("a"))
	if err == nil {
		time.Sleep(40 * time.Second) // two renewals
		if first.Check(t.Context()) == nil && first.Lost() == nil {
			var held *lease.HeldError
			if second, err := lease.Acquire(t.Context(), inner, "x", of("b")); !errors.As(err, &held) {
				// It may only have come in because the first is out.
				if err != nil || first.Lost() == nil && first.Check(t.Context()) == nil {
					t.Errorf("%+v: two holders (%v)", fault, err)
				}
				if err == nil {
					must(t, second.Release(t.Context()))
				}
			}
		}
		_ = first.Release(t.Context())
	}
	die()
	began := time.Now()
	third, err := lease.Acquire(t.Context(), inner, "x", of("c"))
	must(t, err)
	if waited := time.Since(began); waited > 70*time.Second {
		t.Errorf("%+v: locked out for %s", fault, waited)
	}
	if first != nil && third.Fence() <= first.Fence() {
		t.Errorf("%+v: fence %d after %d", fault, third.Fence(), first.Fence())
	}
	must(t, third.Release(t.Context()))
	for _, c := range faulty.Calls() {
		fired = fired || c.Faulted
	}
	return fired
}

// Many owners with many processes come, go, die and sleep at random: never do two owners hold at once, fences never go back from one owner to the next, and
// whoever is told that somebody holds is told of one who does.
func TestManyOwners(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) { crowd(t, memstore.New(), seed, 5) })
	}
}

// The same on a real file system, in real time, in short.
func TestManyOwnersInFiles(t *testing.T) {
	b, err := filestore.Open(t.TempDir())
	must(t, err)
	defer b.Close()
	var wg sync.WaitGroup
	var holding atomic.Int64 // the owner who holds, and how many of its processes
	for i := range 4 {
		wg.Go(func() {
			o := of(fmt.Sprint("o", i))
			o.TTL = 10 * time.Second // far longer than the test's own pauses, however busy the machine
			for range 5 {
				l, err := lease.Acquire(t.Context(), b, "x", o)
				var held *lease.HeldError
				if errors.As(err, &held) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if !holding.CompareAndSwap(0, int64(i)+1) {
					t.Error("two owners hold")
				}
				time.Sleep(time.Millisecond)
				if l.Lost() == nil && !holding.CompareAndSwap(int64(i)+1, 0) {
					t.Error("two owners held")
				}
				if err := l.Release(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func crowd(t *testing.T, b store.Bucket, seed uint64, owners int) {
	var mu sync.Mutex
	now, count, fence := -1, 0, int64(0) // the owner who holds, by how many leases, and the highest fence
	var held, taken, lost, died int
	var wg sync.WaitGroup
	for i := range owners * 2 {
		owner := i / 2
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		wg.Go(func() {
			bucket := &slept{Bucket: b}
			for range 15 {
				ctx, end := context.WithCancel(t.Context())
				o := of(fmt.Sprint("o", owner))
				l, err := lease.Acquire(ctx, bucket, "x", o)
				var other *lease.HeldError
				if err != nil {
					if !errors.As(err, &other) {
						t.Error(err)
					}
					mu.Lock()
					held++
					mu.Unlock()
					end()
					time.Sleep(time.Duration(r.Int64N(int64(time.Minute))))
					continue
				}
				mu.Lock()
				if taken++; now >= 0 && now != owner {
					t.Errorf("owner %d came in while %d was there", owner, now)
				}
				if l.Fence() < fence {
					t.Errorf("fence %d after %d", l.Fence(), fence)
				}
				now, count, fence = owner, count+1, l.Fence()
				mu.Unlock()
				leave := func() {
					mu.Lock()
					if count--; count == 0 {
						now = -1
					}
					mu.Unlock()
				}
				switch what := r.IntN(6); what {
				case 0: // dies: what it would have done next is never done
					leave()
					end()
					mu.Lock()
					died++
					mu.Unlock()
				case 1: // cannot write for a while
					bucket.asleep.Store(true)
					select {
					case <-l.Context().Done():
						mu.Lock()
						lost++
						mu.Unlock()
					case <-time.After(time.Duration(r.Int64N(int64(2 * time.Minute)))):
					}
					leave()
					bucket.asleep.Store(false)
					_ = l.Release(t.Context())
				default:
					select {
					case <-l.Context().Done():
						t.Errorf("lost by a live holder: %v", context.Cause(l.Context()))
					case <-time.After(time.Duration(r.Int64N(int64(3 * time.Minute)))):
					}
					leave()
					if err := l.Release(t.Context()); err != nil {
						t.Error(err)
					}
				}
				end()
			}
		})
	}
	wg.Wait()
	if taken < 20 || held == 0 {
		t.Errorf("seed %d: taken %d times, refused %d times, lost %d times: nothing was tried", seed, taken, held, lost)
	}
	if left := keys(t, b); len(left) > died+owners*2+1 { // of a process that died its owner cannot know: there is no Gone here
		t.Errorf("%d objects are left", len(left))
	}
}
