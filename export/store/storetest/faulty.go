package storetest

import (
	"context"
	"errors"
	"io"
	"iter"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tablexport/tablexport/export/store"
)

// ErrInjected is in every error that a Faulty bucket makes up.
var ErrInjected = errors.New("injected fault")

// ErrCrashed is in the error of every operation after a crash. It is an ErrInjected too.
var ErrCrashed error = crashed{}

type crashed struct{}

func (crashed) Error() string        { return "the process has died (injected)" }
func (crashed) Is(target error) bool { return target == ErrInjected }

// When says on which side of its effect an operation fails.
type When uint8

// The sides.
const (
	Before When = iota // nothing happened, and that is what the caller hears
	After              // it happened, and the caller hears that it failed: a lost answer
)

// Fault is one thing that goes wrong.
type Fault struct {
	// Op is the operation: "create", "write", "commit", "abort", "put-if-absent", "put", "open", "open-range", "read",
	// "stat", "list", "delete", "sweep". "" is every operation.
	Op string
	// Key is a pattern of path.Match for the key, or for its last segment if the pattern has no slash: "*.parquet",
	// "_delta_log/*". "" is every key. The key of a list or sweep is its prefix.
	Key string
	// Nth is which call that Op and Key match fails: 1 the first. 0 is every one.
	Nth int
	// When says whether the operation happens all the same. A write that fails After has been written whole, a list that
	// fails After has yielded everything.
	When When
	// Err is the cause, put into a *store.Error with its code; nil is ErrInjected with code Unavailable.
	Err error
	// Short is how many bytes of a write or read, or keys of a list, get through before the failure. 0 is none.
	Short int
	// Delay is waited before the operation. A fault with nothing but a Delay only slows down.
	Delay time.Duration
	// Crash ends the process, as far as the bucket can tell: from here every operation fails with ErrCrashed and does
	// nothing, Abort included, so that what was staged stays.
	Crash bool
}

// CrashAt is the fault in which the process dies at the n-th operation of any kind, before or after its effect. Count up n
// until the test's work succeeds and Fired is 0: then every point has been tried.
func CrashAt(n int, when When) Fault { return Fault{Nth: n, When: when, Crash: true} }

// Call is an operation that was asked of a Faulty bucket.
type Call struct {
	Op, Key string
	Faulted bool
}

// Faulty returns a view of b in which the faults happen. Where several match a call the first one counts.
func Faulty(b store.Bucket, faults ...Fault) *FaultyBucket {
	f := &FaultyBucket{b: b}
	for _, one := range faults {
		f.plan = append(f.plan, planned{Fault: one})
	}
	return f
}

// FaultyBucket is a store.Bucket that fails on demand.
type FaultyBucket struct {
	b store.Bucket

	mu      sync.Mutex
	plan    []planned
	calls   []Call
	crashed bool
}

type planned struct {
	Fault
	seen, fired int
}

func (p *planned) matches(op, key string) bool {
	if p.Op != "" && p.Op != op {
		return false
	}
	if p.Key == "" {
		return true
	}
	if !strings.Contains(p.Key, "/") {
		key = path.Base(key)
	}
	ok, err := path.Match(p.Key, key)
	if err != nil {
		panic("storetest: the pattern of a Fault is malformed: " + p.Key)
	}
	return ok
}

// Calls returns the operations so far, in the order of their beginning.
func (f *FaultyBucket) Calls() []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// Count returns how many calls of op there have been ("" = of all).
func (f *FaultyBucket) Count(op string) int {
	n := 0
	for _, c := range f.Calls() {
		if op == "" || c.Op == op {
			n++
		}
	}
	return n
}

// Fired returns how many calls have met a fault.
func (f *FaultyBucket) Fired() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, p := range f.plan {
		n += p.fired
	}
	return n
}

// Crash ends the process now, as Fault.Crash does.
func (f *FaultyBucket) Crash() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.crashed = true
}

// Crashed says whether the process has died.
func (f *FaultyBucket) Crashed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.crashed
}

// outcome is what is to become of one call.
type outcome struct {
	err   error // nil: nothing goes wrong
	when  When
	short int
}

// fails says that the call fails before it had its whole effect.
func (o outcome) fails() bool { return o.err != nil && o.when == Before }

// decide counts a call and finds what is to become of it.
func (f *FaultyBucket) decide(ctx context.Context, op, key string) outcome {
	f.mu.Lock()
	if f.crashed {
		f.mu.Unlock()
		return outcome{err: &store.Error{Code: store.Unavailable, Op: op, Key: key, Err: ErrCrashed}}
	}
	var hit *planned
	for i := range f.plan {
		p := &f.plan[i]
		if !p.matches(op, key) {
			continue
		}
		p.seen++
		if hit == nil && (p.Nth == 0 || p.Nth == p.seen) {
			hit = p
			p.fired++
		}
	}
	f.calls = append(f.calls, Call{Op: op, Key: key, Faulted: hit != nil})
	if hit == nil {
		f.mu.Unlock()
		return outcome{}
	}
	fault := hit.Fault
	f.mu.Unlock()
	wait(ctx, fault.Delay)
	return f.outcome(fault, op, key)
}

func (f *FaultyBucket) outcome(fault Fault, op, key string) outcome {
	o := outcome{when: fault.When, short: fault.Short}
	switch {
	case fault.Crash:
		o.err = &store.Error{Code: store.Unavailable, Op: op, Key: key, Err: ErrCrashed}
		if fault.When == Before {
			f.Crash()
		}
	case fault.Err != nil:
		code := store.CodeOf(fault.Err)
		if code == store.Unknown {
			code = store.Unavailable
		}
		o.err = &store.Error{Code: code, Op: op, Key: key, Err: errors.Join(ErrInjected, fault.Err)}
	case fault.Delay == 0 || fault.Short != 0 || fault.When == After:
		o.err = &store.Error{Code: store.Unavailable, Op: op, Key: key, Err: ErrInjected}
	}
	return o
}

// finish is called when an operation has had its effect: it tells the lie of an After.
func (f *FaultyBucket) finish(o outcome, err error) error {
	if o.err == nil {
		return err
	}
	if errors.Is(o.err, ErrCrashed) {
		f.Crash()
	}
	return o.err
}

func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// Create implements store.Bucket. After a fault After the upload exists and nobody can end it.
func (f *FaultyBucket) Create(ctx context.Context, key string) (store.Upload, error) {
	o := f.decide(ctx, "create", key)
	if o.fails() {
		return nil, o.err
	}
	u, err := f.b.Create(ctx, key)
	if err := f.finish(o, err); err != nil {
		return nil, err
	}
	return &faultyUpload{f: f, u: u, ctx: ctx, key: key}, nil
}

// PutIfAbsent implements store.Bucket.
func (f *FaultyBucket) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	o := f.decide(ctx, "put-if-absent", key)
	if o.fails() {
		return o.err
	}
	return f.finish(o, f.b.PutIfAbsent(ctx, key, data))
}

// Put implements store.Bucket.
func (f *FaultyBucket) Put(ctx context.Context, key string, data []byte) error {
	o := f.decide(ctx, "put", key)
	if o.fails() {
		return o.err
	}
	return f.finish(o, f.b.Put(ctx, key, data))
}

// Open implements store.Bucket.
func (f *FaultyBucket) Open(ctx context.Context, key string) (io.ReadCloser, store.Info, error) {
	o := f.decide(ctx, "open", key)
	if o.fails() {
		return nil, store.Info{}, o.err
	}
	r, info, err := f.b.Open(ctx, key)
	if r, err = f.reader(ctx, o, key, r, err); err != nil {
		return nil, store.Info{}, err
	}
	return r, info, nil
}

// OpenRange implements store.Bucket.
func (f *FaultyBucket) OpenRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	o := f.decide(ctx, "open-range", key)
	if o.fails() {
		return nil, o.err
	}
	r, err := f.b.OpenRange(ctx, key, offset, length)
	return f.reader(ctx, o, key, r, err)
}

func (f *FaultyBucket) reader(ctx context.Context, o outcome, key string, r io.ReadCloser, err error) (io.ReadCloser, error) {
	if told := f.finish(o, err); told != nil {
		if err == nil {
			_ = r.Close()
		}
		return nil, told
	}
	return &faultyReader{f: f, ctx: ctx, key: key, r: r}, nil
}

// Stat implements store.Bucket.
func (f *FaultyBucket) Stat(ctx context.Context, key string) (store.Info, error) {
	o := f.decide(ctx, "stat", key)
	if o.fails() {
		return store.Info{}, o.err
	}
	info, err := f.b.Stat(ctx, key)
	if err := f.finish(o, err); err != nil {
		return store.Info{}, err
	}
	return info, nil
}

// List implements store.Bucket.
func (f *FaultyBucket) List(ctx context.Context, prefix, startAfter string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		o := f.decide(ctx, "list", prefix)
		left := o.short
		if o.fails() && left == 0 {
			yield(store.Info{}, o.err)
			return
		}
		for info, err := range f.b.List(ctx, prefix, startAfter) {
			if o.fails() && left == 0 {
				break
			}
			left--
			if !yield(info, err) || err != nil {
				return
			}
		}
		if err := f.finish(o, nil); err != nil {
			yield(store.Info{}, err)
		}
	}
}

// Delete implements store.Bucket.
func (f *FaultyBucket) Delete(ctx context.Context, key string) error {
	o := f.decide(ctx, "delete", key)
	if o.fails() {
		return o.err
	}
	return f.finish(o, f.b.Delete(ctx, key))
}

// SweepUploads implements store.Sweeper.
func (f *FaultyBucket) SweepUploads(ctx context.Context, prefix string, olderThan time.Duration) (store.Swept, error) {
	o := f.decide(ctx, "sweep", prefix)
	if o.fails() {
		return store.Swept{}, o.err
	}
	swept, err := store.SweepUploads(ctx, f.b, prefix, olderThan)
	return swept, f.finish(o, err)
}

// Location implements store.Bucket.
func (f *FaultyBucket) Location(key string) string { return f.b.Location(key) }

// Close implements store.Bucket. After a crash it does nothing: the bucket below stays for the next process.
func (f *FaultyBucket) Close() error {
	if f.Crashed() {
		return nil
	}
	return f.b.Close()
}

type faultyUpload struct {
	f   *FaultyBucket
	u   store.Upload
	ctx context.Context
	key string
}

func (u *faultyUpload) Write(p []byte) (int, error) {
	o := u.f.decide(u.ctx, "write", u.key)
	if o.fails() {
		n := min(o.short, len(p))
		if n == 0 {
			return 0, o.err
		}
		n, err := u.u.Write(p[:n])
		return n, errors.Join(o.err, err)
	}
	n, err := u.u.Write(p)
	if told := u.f.finish(o, err); told != nil {
		if o.err != nil {
			n = 0
		}
		return n, told
	}
	return n, nil
}

func (u *faultyUpload) Commit(ctx context.Context) (store.Info, error) {
	o := u.f.decide(ctx, "commit", u.key)
	if o.fails() {
		return store.Info{}, o.err
	}
	info, err := u.u.Commit(ctx)
	if err := u.f.finish(o, err); err != nil {
		return store.Info{}, err
	}
	return info, nil
}

func (u *faultyUpload) Abort(ctx context.Context) error {
	o := u.f.decide(ctx, "abort", u.key)
	if o.fails() {
		return o.err
	}
	return u.f.finish(o, u.u.Abort(ctx))
}

type faultyReader struct {
	f   *FaultyBucket
	ctx context.Context
	key string
	r   io.ReadCloser
}

func (r *faultyReader) Read(p []byte) (int, error) {
	o := r.f.decide(r.ctx, "read", r.key)
	if o.fails() {
		if n := min(o.short, len(p)); n > 0 {
			n, _ := r.r.Read(p[:n])
			return n, o.err
		}
		return 0, o.err
	}
	n, err := r.r.Read(p)
	return n, r.f.finish(o, err)
}

func (r *faultyReader) Close() error { return r.r.Close() }
