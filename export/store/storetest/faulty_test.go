package storetest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"os/exec"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/memstore"
	"github.com/tablexport/tablexport/export/store/storetest"
)

func TestFaultlessConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Bucket { return storetest.Faulty(memstore.New()) })
}

// operations are all that can be asked of a bucket that has "old"; effect says whether the operation has happened.
var operations = map[string]struct {
	do     func(ctx context.Context, b store.Bucket) error
	effect func(b store.Bucket) bool // nil: it has none
}{
	"put": {
		func(ctx context.Context, b store.Bucket) error { return b.Put(ctx, "new", []byte("x")) },
		func(b store.Bucket) bool { return has(b, "new") },
	},
	"put-if-absent": {
		func(ctx context.Context, b store.Bucket) error { return b.PutIfAbsent(ctx, "new", []byte("x")) },
		func(b store.Bucket) bool { return has(b, "new") },
	},
	"commit": {upload, func(b store.Bucket) bool { return has(b, "new") }},
	"delete": {
		func(ctx context.Context, b store.Bucket) error { return b.Delete(ctx, "old") },
		func(b store.Bucket) bool { return !has(b, "old") },
	},
	"create": {upload, nil},
	"write":  {upload, nil},
	"abort": {func(ctx context.Context, b store.Bucket) error {
		u, err := b.Create(ctx, "new")
		if err != nil {
			return err
		}
		return u.Abort(ctx)
	}, nil},
	"open": {read, nil},
	"read": {read, nil},
	"open-range": {func(ctx context.Context, b store.Bucket) error {
		_, err := b.OpenRange(ctx, "old", 0, 1)
		return err
	}, nil},
	"stat": {func(ctx context.Context, b store.Bucket) error {
		_, err := b.Stat(ctx, "old")
		return err
	}, nil},
	"list": {func(ctx context.Context, b store.Bucket) (last error) {
		for _, err := range b.List(ctx, "", "") {
			last = err
		}
		return last
	}, nil},
	"sweep": {func(ctx context.Context, b store.Bucket) error {
		_, err := store.SweepUploads(ctx, b, "", time.Hour)
		return err
	}, nil},
}

func upload(ctx context.Context, b store.Bucket) error {
	u, err := b.Create(ctx, "new")
	if err != nil {
		return err
	}
	if _, err := u.Write([]byte("x")); err != nil {
		return err
	}
	_, err = u.Commit(ctx)
	return err
}

func read(ctx context.Context, b store.Bucket) error {
	r, _, err := b.Open(ctx, "old")
	if err != nil {
		return err
	}
	_, err = io.ReadAll(r)
	return errors.Join(err, r.Close())
}

func has(b store.Bucket, key string) bool {
	_, err := b.Stat(context.Background(), key)
	return err == nil
}

func TestFaults(t *testing.T) {
	for op, o := range operations {
		for _, when := range []storetest.When{storetest.Before, storetest.After} {
			for _, crash := range []bool{false, true} {
				b := memstore.New()
				if err := b.Put(t.Context(), "old", []byte("old")); err != nil {
					t.Fatal(err)
				}
				f := storetest.Faulty(b, storetest.Fault{Op: op, Nth: 1, When: when, Crash: crash})
				err := o.do(t.Context(), f)
				if !errors.Is(err, storetest.ErrInjected) || store.CodeOf(err) != store.Unavailable || errors.Is(err, storetest.ErrCrashed) != crash {
					t.Errorf("%s, %d, crash %v: the error is %v", op, when, crash, err)
				}
				if o.effect != nil && o.effect(b) != (when == storetest.After) {
					t.Errorf("%s, %d, crash %v: the operation happened: %v", op, when, crash, o.effect(b))
				}
				if f.Fired() != 1 || f.Crashed() != crash {
					t.Errorf("%s: fired %d, crashed %v", op, f.Fired(), f.Crashed())
				}
				again := o.do(t.Context(), f)
				if crash && !errors.Is(again, storetest.ErrCrashed) {
					t.Errorf("%s works after the crash: %v", op, again)
				}
				if !crash && errors.Is(again, storetest.ErrInjected) {
					t.Errorf("%s fails the second time as well: %v", op, again)
				}
			}
		}
	}
}

func TestFaultSelection(t *testing.T) {
	f := storetest.Faulty(memstore.New(),
		storetest.Fault{Op: "put", Key: "*.json", Nth: 2, Err: &store.Error{Code: store.Full, Err: errors.New("disk")}},
		storetest.Fault{Key: "log/?", Err: context.Canceled},
	)
	put := func(key string) error { return f.Put(t.Context(), key, nil) }
	for i, c := range []struct {
		key  string
		want store.Code
		ok   bool
	}{
		{key: "a/1.json", ok: true}, {key: "a/1.parquet", ok: true}, {key: "2.json", want: store.Full}, {key: "3.json", ok: true},
		{key: "log/1", want: store.Canceled}, {key: "log/11", ok: true}, {key: "log/1/1", ok: true}, {key: "log/2", want: store.Canceled},
	} {
		if err := put(c.key); (err == nil) != c.ok || (!c.ok && store.CodeOf(err) != c.want) {
			t.Errorf("%d: Put(%q) = %v, want %v", i, c.key, err, c.want)
		}
	}
	if f.Count("put") != 8 || f.Count("") != 8 || f.Fired() != 3 {
		t.Errorf("%d puts, %d calls, %d fired", f.Count("put"), f.Count(""), f.Fired())
	}
}

func TestShortAndSlow(t *testing.T) {
	b := memstore.New()
	f := storetest.Faulty(b, storetest.Fault{Op: "write", Nth: 2, Short: 3}, storetest.Fault{Op: "read", Nth: 1, Short: 2},
		storetest.Fault{Op: "list", Nth: 1, Short: 1})
	u, err := f.Create(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := u.Write([]byte("hello ")); n != 6 || err != nil {
		t.Fatalf("Write = %d, %v", n, err)
	}
	if n, err := u.Write([]byte("world")); n != 3 || !errors.Is(err, storetest.ErrInjected) {
		t.Errorf("a short write = %d, %v; want 3 and an error", n, err)
	}
	if _, err := u.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, info, err := f.Open(t.Context(), "x")
	if err != nil || info.Size != 9 {
		t.Fatalf("Open: %+v, %v", info, err)
	}
	if got, err := io.ReadAll(r); !bytes.Equal(got, []byte("he")) || !errors.Is(err, storetest.ErrInjected) {
		t.Errorf("a short read gives %q, %v", got, err)
	}
	if err := b.Put(t.Context(), "y", nil); err != nil {
		t.Fatal(err)
	}
	var keys []string
	var last error
	for info, err := range f.List(t.Context(), "", "") {
		keys = append(keys, info.Key)
		last = err
	}
	if len(keys) != 2 || keys[0] != "x" || !errors.Is(last, storetest.ErrInjected) {
		t.Errorf("a short list gives %q, %v", keys, last)
	}

	synctest.Test(t, func(t *testing.T) {
		f := storetest.Faulty(memstore.New(), storetest.Fault{Op: "put", Delay: time.Minute})
		start := time.Now()
		if err := f.Put(t.Context(), "x", nil); err != nil || time.Since(start) != time.Minute {
			t.Errorf("a slow put: %v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := f.Put(ctx, "y", nil); store.CodeOf(err) != store.Canceled {
			t.Errorf("a slow put whose context ends: %v", err)
		}
	})
}

// Counting up n tries every point at which a process can die.
func TestCrashAt(t *testing.T) {
	for _, when := range []storetest.When{storetest.Before, storetest.After} {
		n := 1
		for ; ; n++ {
			b := memstore.New()
			f := storetest.Faulty(b, storetest.CrashAt(n, when))
			err := upload(t.Context(), f)
			if f.Fired() == 0 {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
			if err == nil {
				t.Fatalf("crash at %d: no error", n)
			}
			if want := when == storetest.After && n == 3; has(b, "new") != want {
				t.Errorf("crash at %d, %d: the object is there: %v", n, when, !want)
			}
		}
		if n != 4 { // create, write, commit
			t.Errorf("an upload has %d points at which it can die, want 3", n-1)
		}
	}
}

type iterSeq = iter.Seq2[store.Info, error]

// mutants are buckets that break the contract in one point each.
var mutants = map[string]func(b store.Bucket) store.Bucket{
	"put-if-absent overwrites": func(b store.Bucket) store.Bucket { return overwriting{b} },
	"visible before commit":    func(b store.Bucket) store.Bucket { return eager{b} },
	"lists backwards":          func(b store.Bucket) store.Bucket { return backwards{b} },
	"list ignores startAfter":  func(b store.Bucket) store.Bucket { return restarting{b} },
	"delete insists":           func(b store.Bucket) store.Bucket { return insisting{b} },
	"foreign errors":           func(b store.Bucket) store.Bucket { return foreign{b} },
	"wrong size":               func(b store.Bucket) store.Bucket { return lying{b} },
	"accepts any key":          func(b store.Bucket) store.Bucket { return trusting{b} },
	"ignores the context":      func(b store.Bucket) store.Bucket { return deaf{b} },
	"close is forgotten":       func(b store.Bucket) store.Bucket { return immortal{b} },
}

type overwriting struct{ store.Bucket }

func (m overwriting) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	return m.Put(ctx, key, data)
}

type eager struct{ store.Bucket }

func (m eager) Create(ctx context.Context, key string) (store.Upload, error) {
	if err := m.Put(ctx, key, nil); err != nil {
		return nil, err
	}
	return m.Bucket.Create(ctx, key)
}

type backwards struct{ store.Bucket }

func (m backwards) List(ctx context.Context, prefix, startAfter string) iterSeq {
	return func(yield func(store.Info, error) bool) {
		var all []store.Info
		for info, err := range m.Bucket.List(ctx, prefix, startAfter) {
			if err != nil {
				yield(info, err)
				return
			}
			all = append([]store.Info{info}, all...)
		}
		for _, info := range all {
			if !yield(info, nil) {
				return
			}
		}
	}
}

type restarting struct{ store.Bucket }

func (m restarting) List(ctx context.Context, prefix, _ string) iterSeq {
	return m.Bucket.List(ctx, prefix, "")
}

type insisting struct{ store.Bucket }

func (m insisting) Delete(ctx context.Context, key string) error {
	if _, err := m.Stat(ctx, key); err != nil {
		return err
	}
	return m.Bucket.Delete(ctx, key)
}

type foreign struct{ store.Bucket }

func (m foreign) Stat(ctx context.Context, key string) (store.Info, error) {
	info, err := m.Bucket.Stat(ctx, key)
	if err != nil {
		return info, os.ErrNotExist
	}
	return info, nil
}

type lying struct{ store.Bucket }

func (m lying) Stat(ctx context.Context, key string) (store.Info, error) {
	info, err := m.Bucket.Stat(ctx, key)
	info.Size++
	return info, err
}

type trusting struct{ store.Bucket }

func (m trusting) Delete(ctx context.Context, key string) error {
	if valid := store.ValidKey(key) == nil; !valid {
		return nil
	}
	return m.Bucket.Delete(ctx, key)
}

type deaf struct{ store.Bucket }

func (m deaf) Put(ctx context.Context, key string, data []byte) error {
	return m.Bucket.Put(context.WithoutCancel(ctx), key, data)
}

type immortal struct{ store.Bucket }

func (immortal) Close() error { return nil }

// TestMutants runs the conformance suite on buckets that break the contract, each in a process of its own, and wants it to fail.
func TestMutants(t *testing.T) {
	if name := os.Getenv("STORETEST_MUTANT"); name != "" {
		storetest.Run(t, func(*testing.T) store.Bucket { return mutants[name](memstore.New()) })
		return
	}
	for name := range mutants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := exec.Command(os.Args[0], "-test.run=^TestMutants$", "-test.failfast") // #nosec G204 -- this test itself
			c.Env = append(os.Environ(), "STORETEST_MUTANT="+name)
			out, err := c.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || !bytes.Contains(out, []byte("--- FAIL: TestMutants/")) {
				t.Errorf("the suite accepts it (%v)\n%.2000s", err, out)
			}
		})
	}
}
