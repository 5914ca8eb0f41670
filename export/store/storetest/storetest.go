// Package storetest is the conformance suite of store.Bucket, which every driver passes, and a bucket that fails on
// demand (Faulty), with which those who use a bucket prove that they survive it.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tablexport/tablexport/export/store"
)

// Run checks every sentence of the contract on buckets that open returns: each time a new, empty one, which the suite closes.
func Run(t *testing.T, open func(t *testing.T) store.Bucket) {
	s := &suite{open: open}
	for _, c := range []struct {
		name string
		run  func(t *testing.T, b store.Bucket)
	}{
		{"create commits", s.createCommits},
		{"create is invisible before commit", s.invisible},
		{"abort leaves nothing", s.abort},
		{"an upload ends once", s.endsOnce},
		{"commit never overwrites", s.commitNeverOverwrites},
		{"sixteen commits race", s.commitsRace},
		{"big object", s.bigObject},
		{"upload sizes", s.uploadSizes},
		{"put-if-absent", s.putIfAbsent},
		{"sixteen put-if-absent race", s.putIfAbsentRace},
		{"put replaces", s.put},
		{"put is atomic", s.putAtomic},
		{"open", s.openReads},
		{"open range", s.openRange},
		{"stat", s.stat},
		{"list order", s.listOrder},
		{"list prefix and start", s.listPrefix},
		{"list many", s.listMany},
		{"delete", s.deletes},
		{"odd keys", s.oddKeys},
		{"invalid keys", s.invalidKeys},
		{"canceled context", s.canceled},
		{"context ends during upload", s.canceledUpload},
		{"context ends during listing", s.canceledList},
		{"concurrent use", s.concurrent},
		{"location", s.location},
		{"prefixed", s.prefixed},
		{"probe", s.probe},
		{"close", s.closes},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := open(t)
			t.Cleanup(func() { _ = b.Close() })
			c.run(t, b)
		})
	}
}

type suite struct {
	open func(t *testing.T) store.Bucket
}

// data is n bytes that no compressor and no off-by-one survives, the same for the same n.
func data(n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)})
	_, _ = r.Read(p)
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantCode checks that err is an *Error of one of the codes.
func wantCode(t *testing.T, what string, err error, codes ...store.Code) {
	t.Helper()
	var e *store.Error
	if !errors.As(err, &e) {
		t.Errorf("%s: the error is %v (%T), want a *store.Error of code %v", what, err, err, codes)
		return
	}
	if !slices.Contains(codes, e.Code) {
		t.Errorf("%s: code %v, want %v: %v", what, e.Code, codes, err)
	}
}

func upload(t *testing.T, b store.Bucket, key string, p []byte) store.Info {
	t.Helper()
	u, err := b.Create(t.Context(), key)
	must(t, err)
	n, err := u.Write(p)
	must(t, err)
	if n != len(p) {
		t.Fatalf("Write took %d of %d bytes without an error", n, len(p))
	}
	info, err := u.Commit(t.Context())
	must(t, err)
	return info
}

func read(t *testing.T, b store.Bucket, key string) []byte {
	t.Helper()
	r, info, err := b.Open(t.Context(), key)
	must(t, err)
	p, err := io.ReadAll(r)
	must(t, err)
	must(t, r.Close())
	if info.Key != key || info.Size != int64(len(p)) {
		t.Errorf("Open(%q) says key %q and size %d, it has %d bytes", key, info.Key, info.Size, len(p))
	}
	return p
}

func list(t *testing.T, b store.Bucket, prefix, startAfter string) []string {
	t.Helper()
	var keys []string
	for info, err := range b.List(t.Context(), prefix, startAfter) {
		must(t, err)
		keys = append(keys, info.Key)
	}
	return keys
}

func wantList(t *testing.T, b store.Bucket, prefix, startAfter string, want ...string) {
	t.Helper()
	if got := list(t, b, prefix, startAfter); !slices.Equal(got, want) {
		t.Errorf("List(%q, %q) = %q, want %q", prefix, startAfter, got, want)
	}
}

// wantAbsent checks that key is not there, in all the ways of looking.
func wantAbsent(t *testing.T, b store.Bucket, key string) {
	t.Helper()
	_, err := b.Stat(t.Context(), key)
	wantCode(t, "Stat of what is not there", err, store.NotFound)
	_, _, err = b.Open(t.Context(), key)
	wantCode(t, "Open of what is not there", err, store.NotFound)
	_, err = b.OpenRange(t.Context(), key, 0, 1)
	wantCode(t, "OpenRange of what is not there", err, store.NotFound)
	if keys := list(t, b, "", ""); slices.Contains(keys, key) {
		t.Errorf("List shows %q, which must not be visible", key)
	}
}

func wantObject(t *testing.T, b store.Bucket, key string, want []byte) {
	t.Helper()
	if got := read(t, b, key); !bytes.Equal(got, want) {
		t.Errorf("%q has %d bytes (%.20x…), want %d (%.20x…)", key, len(got), got, len(want), want)
	}
	info, err := b.Stat(t.Context(), key)
	must(t, err)
	if info.Key != key || info.Size != int64(len(want)) {
		t.Errorf("Stat says key %q, size %d; want %q, %d", info.Key, info.Size, key, len(want))
	}
	if d := time.Since(info.Modified); d < -time.Hour || d > time.Hour {
		t.Errorf("Stat says modified %v, that is %v ago", info.Modified, d)
	}
}

func (s *suite) createCommits(t *testing.T, b store.Bucket) {
	u, err := b.Create(t.Context(), "dir/part-0.parquet")
	must(t, err)
	want := data(100_000)
	for p := range slices.Chunk(want, 7_001) {
		q := bytes.Clone(p)
		n, err := u.Write(q)
		if err != nil || n != len(q) {
			t.Fatalf("Write = %d, %v; want %d, nil", n, err, len(q))
		}
		clear(q) // a Writer must not keep what it was given
	}
	_, err = u.Write(nil)
	must(t, err)
	info, err := u.Commit(t.Context())
	must(t, err)
	if info.Key != "dir/part-0.parquet" || info.Size != int64(len(want)) {
		t.Errorf("Commit says key %q, size %d; want %q, %d", info.Key, info.Size, "dir/part-0.parquet", len(want))
	}
	if d := time.Since(info.Modified); d < -time.Hour || d > time.Hour {
		t.Errorf("Commit says modified %v, that is %v ago", info.Modified, d)
	}
	must(t, u.Abort(t.Context())) // does nothing now
	wantObject(t, b, "dir/part-0.parquet", want)
	seen, err := b.Stat(t.Context(), "dir/part-0.parquet")
	must(t, err)
	if seen.ETag != info.ETag {
		t.Errorf("Commit says ETag %q, Stat %q", info.ETag, seen.ETag)
	}
	if strings.Contains(info.ETag, `"`) {
		t.Errorf("the ETag %q carries its quotes", info.ETag)
	}
}

func (s *suite) invisible(t *testing.T, b store.Bucket) {
	u, err := b.Create(t.Context(), "dir/x")
	must(t, err)
	wantAbsent(t, b, "dir/x")
	_, err = u.Write(data(50_000))
	must(t, err)
	wantAbsent(t, b, "dir/x")
	wantList(t, b, "", "")
	wantList(t, b, "dir/", "")
	_, err = u.Commit(t.Context())
	must(t, err)
	wantList(t, b, "", "", "dir/x")
}

func (s *suite) abort(t *testing.T, b store.Bucket) {
	for _, n := range []int{0, 10, 1 << 20} {
		u, err := b.Create(t.Context(), "dir/x")
		must(t, err)
		_, err = u.Write(data(n))
		must(t, err)
		must(t, u.Abort(t.Context()))
		must(t, u.Abort(t.Context()))
		wantAbsent(t, b, "dir/x")
		wantList(t, b, "", "")
	}
	// An abort is often the answer to a context that has ended: it works all the same.
	u, err := b.Create(t.Context(), "dir/y")
	must(t, err)
	_, err = u.Write([]byte("y"))
	must(t, err)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	must(t, u.Abort(ended))
	wantAbsent(t, b, "dir/y")
	// An aborted upload does not stand in the way of the next one.
	upload(t, b, "dir/x", []byte("next"))
	wantObject(t, b, "dir/x", []byte("next"))
}

func (s *suite) endsOnce(t *testing.T, b store.Bucket) {
	u, err := b.Create(t.Context(), "committed")
	must(t, err)
	_, err = u.Write([]byte("a"))
	must(t, err)
	_, err = u.Commit(t.Context())
	must(t, err)
	_, err = u.Write([]byte("b"))
	wantCode(t, "Write after Commit", err, store.Invalid)
	_, err = u.Commit(t.Context())
	wantCode(t, "Commit after Commit", err, store.Invalid)
	must(t, u.Abort(t.Context()))
	wantObject(t, b, "committed", []byte("a"))

	u, err = b.Create(t.Context(), "aborted")
	must(t, err)
	must(t, u.Abort(t.Context()))
	_, err = u.Write([]byte("b"))
	wantCode(t, "Write after Abort", err, store.Invalid)
	_, err = u.Commit(t.Context())
	wantCode(t, "Commit after Abort", err, store.Invalid)
	wantAbsent(t, b, "aborted")
}

func (s *suite) commitNeverOverwrites(t *testing.T, b store.Bucket) {
	upload(t, b, "x", []byte("first"))
	u, err := b.Create(t.Context(), "x")
	if err == nil {
		_, err = u.Write([]byte("second"))
		must(t, err)
		_, err = u.Commit(t.Context())
		must(t, u.Abort(t.Context()))
	}
	wantCode(t, "Commit over an object", err, store.AlreadyExists)
	wantObject(t, b, "x", []byte("first"))
	wantList(t, b, "", "", "x")
}

// race runs sixteen writers that want the same key at the same moment and checks that one has won and the others know.
func race(t *testing.T, b store.Bucket, key string, write func(i int, ready func()) error) {
	t.Helper()
	const writers = 16
	var (
		start, ready sync.WaitGroup
		errs         [writers]error
	)
	ready.Add(writers)
	for i := range writers {
		start.Go(func() {
			var once sync.Once
			arrive := func() { once.Do(func() { ready.Done(); ready.Wait() }) }
			defer arrive()
			errs[i] = write(i, arrive)
		})
	}
	start.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner >= 0:
			t.Fatalf("writers %d and %d have both won", winner, i)
		case err == nil:
			winner = i
		default:
			wantCode(t, fmt.Sprintf("writer %d", i), err, store.AlreadyExists)
		}
	}
	if winner < 0 {
		t.Fatal("none of the writers has won")
	}
	wantObject(t, b, key, fmt.Appendf(nil, "writer %d", winner))
	wantList(t, b, "", "", key)
}

func (s *suite) commitsRace(t *testing.T, b store.Bucket) {
	race(t, b, "dir/x", func(i int, ready func()) error {
		u, err := b.Create(t.Context(), "dir/x")
		if err != nil {
			return err
		}
		defer func() { _ = u.Abort(t.Context()) }()
		if _, err := fmt.Fprintf(u, "writer %d", i); err != nil {
			return err
		}
		ready()
		_, err = u.Commit(t.Context())
		return err
	})
}

func (s *suite) putIfAbsentRace(t *testing.T, b store.Bucket) {
	race(t, b, "_delta_log/00000000000000000007.json", func(i int, ready func()) error {
		ready()
		return b.PutIfAbsent(t.Context(), "_delta_log/00000000000000000007.json", fmt.Appendf(nil, "writer %d", i))
	})
}

func (s *suite) bigObject(t *testing.T, b store.Bucket) {
	want := data(20<<20 + 12_345)
	u, err := b.Create(t.Context(), "big")
	must(t, err)
	for p := range slices.Chunk(want, 1<<20+17) {
		_, err := u.Write(p)
		must(t, err)
	}
	wantAbsent(t, b, "big")
	info, err := u.Commit(t.Context())
	must(t, err)
	if info.Size != int64(len(want)) {
		t.Errorf("Commit says %d bytes, want %d", info.Size, len(want))
	}
	wantObject(t, b, "big", want)
	for _, at := range []int64{0, 8<<20 - 3, 20 << 20} {
		r, err := b.OpenRange(t.Context(), "big", at, 6)
		must(t, err)
		got, err := io.ReadAll(r)
		must(t, err)
		must(t, r.Close())
		if !bytes.Equal(got, want[at:at+6]) {
			t.Errorf("range at %d: %x, want %x", at, got, want[at:at+6])
		}
	}
}

// uploadSizes covers the edges of 8 MiB parts: none, one, exactly full, one byte more.
func (s *suite) uploadSizes(t *testing.T, b store.Bucket) {
	for _, n := range []int{0, 1, 8<<20 - 1, 8 << 20, 8<<20 + 1, 16 << 20} {
		key := fmt.Sprintf("size-%d", n)
		if info := upload(t, b, key, data(n)); info.Size != int64(n) {
			t.Errorf("Commit says %d bytes, want %d", info.Size, n)
		}
		wantObject(t, b, key, data(n))
	}
}

func (s *suite) putIfAbsent(t *testing.T, b store.Bucket) {
	p := []byte("first")
	must(t, b.PutIfAbsent(t.Context(), "log/0.json", p))
	copy(p, "xxxxx") // the bucket must not keep what it was given
	wantObject(t, b, "log/0.json", []byte("first"))
	wantCode(t, "PutIfAbsent again", b.PutIfAbsent(t.Context(), "log/0.json", []byte("second")), store.AlreadyExists)
	wantCode(t, "PutIfAbsent of the same bytes", b.PutIfAbsent(t.Context(), "log/0.json", []byte("first")), store.AlreadyExists)
	wantObject(t, b, "log/0.json", []byte("first"))
	must(t, b.PutIfAbsent(t.Context(), "log/empty", nil))
	wantObject(t, b, "log/empty", nil)
	wantCode(t, "PutIfAbsent over an empty object", b.PutIfAbsent(t.Context(), "log/empty", []byte("x")), store.AlreadyExists)
	upload(t, b, "log/1.json", []byte("by upload"))
	wantCode(t, "PutIfAbsent over an upload", b.PutIfAbsent(t.Context(), "log/1.json", []byte("x")), store.AlreadyExists)
	must(t, b.Delete(t.Context(), "log/0.json"))
	must(t, b.PutIfAbsent(t.Context(), "log/0.json", []byte("third")))
	wantObject(t, b, "log/0.json", []byte("third"))
}

func (s *suite) put(t *testing.T, b store.Bucket) {
	must(t, b.Put(t.Context(), "_last_checkpoint", []byte("first, the longer one")))
	wantObject(t, b, "_last_checkpoint", []byte("first, the longer one"))
	must(t, b.Put(t.Context(), "_last_checkpoint", []byte("second")))
	wantObject(t, b, "_last_checkpoint", []byte("second"))
	must(t, b.Put(t.Context(), "_last_checkpoint", nil))
	wantObject(t, b, "_last_checkpoint", nil)
	must(t, b.PutIfAbsent(t.Context(), "log", []byte("first")))
	must(t, b.Put(t.Context(), "log", []byte("second")))
	wantObject(t, b, "log", []byte("second"))
	wantList(t, b, "", "", "_last_checkpoint", "log")
}

// putAtomic reads while one writer replaces: every reader sees one of the two whole.
func (s *suite) putAtomic(t *testing.T, b store.Bucket) {
	texts := [][]byte{bytes.Repeat([]byte("a"), 40_000), bytes.Repeat([]byte("b"), 70_000)}
	must(t, b.Put(t.Context(), "x", texts[0]))
	g, ctx := errgroup.WithContext(t.Context())
	g.Go(func() error {
		for i := range 20 {
			if err := b.Put(ctx, "x", texts[i%2]); err != nil {
				return err
			}
		}
		return nil
	})
	for range 4 {
		g.Go(func() error {
			for range 20 {
				r, _, err := b.Open(ctx, "x")
				if err != nil {
					return err
				}
				got, err := io.ReadAll(r)
				if err := errors.Join(err, r.Close()); err != nil {
					return err
				}
				if !bytes.Equal(got, texts[0]) && !bytes.Equal(got, texts[1]) {
					return fmt.Errorf("a reader saw %d bytes, a mixture", len(got))
				}
			}
			return nil
		})
	}
	must(t, g.Wait())
}

func (s *suite) openReads(t *testing.T, b store.Bucket) {
	wantAbsent(t, b, "nothing")
	wantAbsent(t, b, "no/such/directory")
	want := data(300_000)
	upload(t, b, "a/b/c", want)
	wantObject(t, b, "a/b/c", want)
	wantAbsent(t, b, "a")       // a directory is not an object
	wantAbsent(t, b, "a/b")     //
	wantAbsent(t, b, "a/b/c/d") // and an object is not a directory
	// Closing early is allowed, and leaves the object alone.
	r, _, err := b.Open(t.Context(), "a/b/c")
	must(t, err)
	_, err = io.ReadFull(r, make([]byte, 10))
	must(t, err)
	must(t, r.Close())
	wantObject(t, b, "a/b/c", want)
}

func (s *suite) openRange(t *testing.T, b store.Bucket) {
	want := data(1000)
	upload(t, b, "x", want)
	upload(t, b, "empty", nil)
	for _, c := range []struct {
		key            string
		offset, length int64
		from, to       int // of want
		code           store.Code
	}{
		{key: "x", offset: 0, length: 1000, from: 0, to: 1000},
		{key: "x", offset: 0, length: -1, from: 0, to: 1000},
		{key: "x", offset: 0, length: 1, from: 0, to: 1},
		{key: "x", offset: 999, length: 1, from: 999, to: 1000},
		{key: "x", offset: 992, length: 8, from: 992, to: 1000},
		{key: "x", offset: 500, length: -1, from: 500, to: 1000},
		{key: "x", offset: 500, length: 0},
		{key: "x", offset: 990, length: 100, from: 990, to: 1000},
		{key: "x", offset: 10, length: 1 << 62, from: 10, to: 1000},
		{key: "x", offset: 1000, length: -1},
		{key: "x", offset: 1000, length: 5},
		{key: "x", offset: 1000, length: 0},
		{key: "empty", offset: 0, length: -1},
		{key: "empty", offset: 0, length: 5},
		{key: "x", offset: 1001, length: -1, code: store.Invalid},
		{key: "x", offset: 1001, length: 0, code: store.Invalid},
		{key: "x", offset: 1001, length: 1, code: store.Invalid},
		{key: "x", offset: -1, length: 1, code: store.Invalid},
		{key: "x", offset: 0, length: -2, code: store.Invalid},
		{key: "absent", offset: 0, length: 0, code: store.NotFound},
	} {
		what := fmt.Sprintf("OpenRange(%q, %d, %d)", c.key, c.offset, c.length)
		r, err := b.OpenRange(t.Context(), c.key, c.offset, c.length)
		if c.code != store.Unknown {
			wantCode(t, what, err, c.code)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		got, err := io.ReadAll(r)
		must(t, err)
		must(t, r.Close())
		if !bytes.Equal(got, want[c.from:c.to]) {
			t.Errorf("%s gives %d bytes, want [%d:%d]", what, len(got), c.from, c.to)
		}
	}
}

func (s *suite) stat(t *testing.T, b store.Bucket) {
	before := time.Now().Add(-2 * time.Second) // S3 cuts to whole seconds
	must(t, b.Put(t.Context(), "x", []byte("12345")))
	info, err := b.Stat(t.Context(), "x")
	must(t, err)
	if info.Key != "x" || info.Size != 5 || info.Modified.Before(before) || info.Modified.After(time.Now().Add(2*time.Second)) {
		t.Errorf("Stat = %+v, want key x, size 5, modified now", info)
	}
	for listed, err := range b.List(t.Context(), "", "") {
		must(t, err)
		if listed.Key != info.Key || listed.Size != info.Size || listed.ETag != info.ETag ||
			!listed.Modified.Truncate(time.Second).Equal(info.Modified.Truncate(time.Second)) {
			t.Errorf("List says %+v, Stat %+v", listed, info)
		}
	}
	r, opened, err := b.Open(t.Context(), "x")
	must(t, err)
	must(t, r.Close())
	if opened.Key != info.Key || opened.Size != info.Size || opened.ETag != info.ETag {
		t.Errorf("Open says %+v, Stat %+v", opened, info)
	}
}

// listOrder uses the keys whose byte order differs from the order of a directory walk: "-" and "." sort before "/".
func (s *suite) listOrder(t *testing.T, b store.Bucket) {
	want := []string{
		"A", "Z/1", "_delta_log/00000000000000000009.json", "_delta_log/00000000000000000010.json", "a-b", "a.c/1", "a/1",
		"a/b-1", "a/b.1", "a/b/c", "a/b/d", "a/b0", "a0", "b", "ä", "日本/1", "𝒳",
	}
	if !slices.IsSorted(want) {
		t.Fatal("the test's keys are not in byte order")
	}
	for _, i := range rand.Perm(len(want)) {
		must(t, b.Put(t.Context(), want[i], []byte{1}))
	}
	wantList(t, b, "", "", want...)
	for i := range want { // startAfter at every key, and just before and after it
		wantList(t, b, "", want[i], want[i+1:]...)
		wantList(t, b, "", want[i]+"!", slices.DeleteFunc(slices.Clone(want), func(k string) bool { return k <= want[i]+"!" })...)
	}
}

func (s *suite) listPrefix(t *testing.T, b store.Bucket) {
	wantList(t, b, "", "")
	wantList(t, b, "nothing/", "")
	for _, k := range []string{"t/_delta_log/0.json", "t/_delta_log/1.json", "t/_delta_log/2.json", "t/p/1", "t2/x", "u"} {
		must(t, b.Put(t.Context(), k, []byte{1}))
	}
	wantList(t, b, "t/_delta_log/", "", "t/_delta_log/0.json", "t/_delta_log/1.json", "t/_delta_log/2.json")
	wantList(t, b, "t/_delta_log/", "t/_delta_log/0.json", "t/_delta_log/1.json", "t/_delta_log/2.json")
	wantList(t, b, "t/_delta_log/", "t/_delta_log/2.json")
	wantList(t, b, "t/_delta_log/", "z")
	wantList(t, b, "t/_delta_log/", "a", "t/_delta_log/0.json", "t/_delta_log/1.json", "t/_delta_log/2.json")
	wantList(t, b, "t/_delta_log/", "t/_delta_log/0.", "t/_delta_log/0.json", "t/_delta_log/1.json", "t/_delta_log/2.json")
	wantList(t, b, "t", "", "t/_delta_log/0.json", "t/_delta_log/1.json", "t/_delta_log/2.json", "t/p/1", "t2/x")
	wantList(t, b, "t", "t/p/", "t/p/1", "t2/x")
	wantList(t, b, "t/_del", "", "t/_delta_log/0.json", "t/_delta_log/1.json", "t/_delta_log/2.json")
	wantList(t, b, "t/p", "", "t/p/1")
	wantList(t, b, "t/p/1", "", "t/p/1")
	wantList(t, b, "t/p/1/", "")
	wantList(t, b, "t/p/1", "t/p/1")
	for _, prefix := range []string{"/", "../", "a/../", "a//", "a\x00", "\xff", "./"} {
		var errs []error
		for _, err := range b.List(t.Context(), prefix, "") {
			errs = append(errs, err)
		}
		if len(errs) != 1 {
			t.Fatalf("List(%q) yields %d pairs, want one error", prefix, len(errs))
		}
		wantCode(t, fmt.Sprintf("List(%q)", prefix), errs[0], store.Invalid)
	}
	// The sequence stops when the reader does, and starts anew when it is asked again.
	seq := b.List(t.Context(), "t/", "")
	for range 2 {
		for info, err := range seq {
			must(t, err)
			if info.Key != "t/_delta_log/0.json" {
				t.Errorf("first key %q", info.Key)
			}
			break
		}
	}
}

// listMany has more keys than an S3 server gives in one answer (1,000).
func (s *suite) listMany(t *testing.T, b store.Bucket) {
	const n = 2_101
	var g errgroup.Group
	g.SetLimit(16)
	want := make([]string, n)
	for i := range n {
		want[i] = fmt.Sprintf("many/%05d.json", i)
		g.Go(func() error { return b.Put(t.Context(), want[i], []byte{byte(i)}) })
	}
	must(t, g.Wait())
	must(t, b.Put(t.Context(), "aside", []byte{1}))
	wantList(t, b, "many/", "", want...)
	wantList(t, b, "many/", want[999], want[1000:]...)
	wantList(t, b, "many/", want[n-2], want[n-1])
}

func (s *suite) deletes(t *testing.T, b store.Bucket) {
	must(t, b.Delete(t.Context(), "never/was/there"))
	must(t, b.Put(t.Context(), "a/x", []byte("1")))
	must(t, b.Put(t.Context(), "a/y", []byte("2")))
	must(t, b.Delete(t.Context(), "a")) // a directory is not an object
	must(t, b.Delete(t.Context(), "a/x/z"))
	wantList(t, b, "", "", "a/x", "a/y")
	must(t, b.Delete(t.Context(), "a/x"))
	wantAbsent(t, b, "a/x")
	must(t, b.Delete(t.Context(), "a/x"))
	wantObject(t, b, "a/y", []byte("2"))
	must(t, b.Delete(t.Context(), "a/y"))
	wantList(t, b, "", "")
	upload(t, b, "a/x", []byte("again"))
	wantObject(t, b, "a/x", []byte("again"))
}

// OddKeys are valid keys that break drivers which forget to encode, or encode twice.
var OddKeys = []string{
	"with space", " leading", "trailing ", "a b/c d", "100%", "%41", "%2F", "a%2Fb", "a+b", "a=b&c=d", "q?x=1#y", "semi;colon", "colon:x",
	"comma,", "at@x", "dollar$", "ex!", "star*", "(paren)", "quote'", `double"quote`, "<xml>&amp;</xml>", "[brackets]", "{braces}", "pipe|", "tilde~",
	"caret^", "back`tick", "…", "ä", "a\u0308", "日本語/ファイル", "emoji-🦦", "zero\u200bwidth", "line\u2028sep", "...", "..a", "a..", ".hidden", "dir/.hidden",
	"date=2026-11-21/part-0.parquet", "-dash", "$folder$", "CON", "ends.", "AbC",
	strings.Repeat("k", store.MaxSegment),
	strings.Repeat(strings.Repeat("d", 99)+"/", 8) + strings.Repeat("e", 100), // MaxKey bytes
}

func (s *suite) oddKeys(t *testing.T, b store.Bucket) {
	for i, key := range OddKeys {
		must(t, store.ValidKey(key))
		if i%2 == 0 {
			upload(t, b, key, []byte(key))
		} else {
			must(t, b.PutIfAbsent(t.Context(), key, []byte(key)))
		}
	}
	for _, key := range OddKeys {
		wantObject(t, b, key, []byte(key))
		wantList(t, b, key, "", slices.Sorted(func(yield func(string) bool) {
			for _, k := range OddKeys {
				if strings.HasPrefix(k, key) && !yield(k) {
					return
				}
			}
		})...)
	}
	sorted := slices.Sorted(slices.Values(OddKeys))
	wantList(t, b, "", "", sorted...)
	for i, key := range sorted {
		wantList(t, b, "", key, sorted[i+1:]...)
	}
	for _, key := range OddKeys {
		must(t, b.Delete(t.Context(), key))
	}
	wantList(t, b, "", "")
}

// InvalidKeys are keys that every driver refuses.
var InvalidKeys = []string{
	"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", "./a", "a/./b", "a/.", "a\x00b", "\x00", "a\nb", "a\x7fb", `a\b`, `..\a`,
	"\xff", "a/\xc3", "\ufffe", "\uffff", ".tmp-x", "a/.tmp-", strings.Repeat("k", store.MaxSegment+1), strings.Repeat("k/", store.MaxKey/2) + "k",
	"a/" + strings.Repeat("é", 128),
}

func (s *suite) invalidKeys(t *testing.T, b store.Bucket) {
	for _, key := range InvalidKeys {
		if store.ValidKey(key) == nil {
			t.Errorf("ValidKey(%q) accepts it", key)
		}
		_, err := b.Create(t.Context(), key)
		wantCode(t, fmt.Sprintf("Create(%q)", key), err, store.Invalid)
		wantCode(t, fmt.Sprintf("PutIfAbsent(%q)", key), b.PutIfAbsent(t.Context(), key, nil), store.Invalid)
		wantCode(t, fmt.Sprintf("Put(%q)", key), b.Put(t.Context(), key, nil), store.Invalid)
		_, _, err = b.Open(t.Context(), key)
		wantCode(t, fmt.Sprintf("Open(%q)", key), err, store.Invalid)
		_, err = b.OpenRange(t.Context(), key, 0, -1)
		wantCode(t, fmt.Sprintf("OpenRange(%q)", key), err, store.Invalid)
		_, err = b.Stat(t.Context(), key)
		wantCode(t, fmt.Sprintf("Stat(%q)", key), err, store.Invalid)
		wantCode(t, fmt.Sprintf("Delete(%q)", key), b.Delete(t.Context(), key), store.Invalid)
	}
	wantList(t, b, "", "")
}

func (s *suite) canceled(t *testing.T, b store.Bucket) {
	must(t, b.Put(t.Context(), "x", []byte("old")))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.Create(ctx, "new")
	wantCode(t, "Create", err, store.Canceled)
	wantCode(t, "PutIfAbsent", b.PutIfAbsent(ctx, "new", nil), store.Canceled)
	wantCode(t, "Put", b.Put(ctx, "x", []byte("new")), store.Canceled)
	_, _, err = b.Open(ctx, "x")
	wantCode(t, "Open", err, store.Canceled)
	_, err = b.OpenRange(ctx, "x", 0, 1)
	wantCode(t, "OpenRange", err, store.Canceled)
	_, err = b.Stat(ctx, "x")
	wantCode(t, "Stat", err, store.Canceled)
	wantCode(t, "Delete", b.Delete(ctx, "x"), store.Canceled)
	for _, err := range b.List(ctx, "", "") {
		wantCode(t, "List", err, store.Canceled)
	}
	wantObject(t, b, "x", []byte("old"))
	wantList(t, b, "", "", "x")

	// A reader whose context ends stops; it does not pretend that the object was shorter.
	big := data(4 << 20)
	upload(t, b, "big", big)
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	r, _, err := b.Open(ctx, "big")
	must(t, err)
	_, err = io.ReadFull(r, make([]byte, 100))
	must(t, err)
	cancel()
	rest, err := io.ReadAll(r)
	if err == nil && len(rest) != len(big)-100 {
		t.Errorf("the reader ended after %d of %d bytes without an error", len(rest)+100, len(big))
	} else if err != nil {
		wantCode(t, "Read", err, store.Canceled)
	}
	_ = r.Close()
}

func (s *suite) canceledUpload(t *testing.T, b store.Bucket) {
	for _, n := range []int{1, 9 << 20} { // in S3's terms: before and after a multipart upload has begun
		ctx, cancel := context.WithCancel(t.Context())
		u, err := b.Create(ctx, "x")
		must(t, err)
		_, err = u.Write(data(n))
		must(t, err)
		cancel()
		_, err = u.Write([]byte("more"))
		wantCode(t, "Write after the context has ended", err, store.Canceled)
		_, err = u.Commit(t.Context())
		wantCode(t, "Commit after the context has ended", err, store.Canceled)
		must(t, u.Abort(t.Context()))
		wantAbsent(t, b, "x")
		wantList(t, b, "", "")

		// The context of Commit counts as well.
		u, err = b.Create(t.Context(), "x")
		must(t, err)
		_, err = u.Write(data(n))
		must(t, err)
		_, err = u.Commit(ctx)
		wantCode(t, "Commit with a context that has ended", err, store.Canceled)
		must(t, u.Abort(t.Context()))
		wantAbsent(t, b, "x")
	}
}

func (s *suite) canceledList(t *testing.T, b store.Bucket) {
	for i := range 20 {
		must(t, b.Put(t.Context(), fmt.Sprintf("k%02d", i), nil))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	n := 0
	for _, err := range b.List(ctx, "", "") {
		if last != nil {
			t.Fatal("List goes on after an error")
		}
		last = err
		n++
		cancel()
	}
	if last == nil && n < 20 {
		t.Errorf("List ended after %d of 20 keys without an error", n)
	} else if last != nil {
		wantCode(t, "List", last, store.Canceled)
	}
}

func (s *suite) concurrent(t *testing.T, b store.Bucket) {
	g, ctx := errgroup.WithContext(t.Context())
	for w := range 8 {
		g.Go(func() error {
			for i := range 6 {
				key := fmt.Sprintf("w%d/shared/%d", w, i)
				want := data(1000*w + i)
				u, err := b.Create(ctx, key)
				if err != nil {
					return err
				}
				if _, err := u.Write(want); err != nil {
					return err
				}
				if _, err := u.Commit(ctx); err != nil {
					return err
				}
				r, _, err := b.Open(ctx, key)
				if err != nil {
					return err
				}
				got, err := io.ReadAll(r)
				if err := errors.Join(err, r.Close()); err != nil {
					return err
				}
				if !bytes.Equal(got, want) {
					return fmt.Errorf("%s is not what was written", key)
				}
				for _, err := range b.List(ctx, "", "") {
					if err != nil {
						return err
					}
				}
				if i%2 == 0 {
					if err := b.Delete(ctx, key); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	must(t, g.Wait())
	if n := len(list(t, b, "", "")); n != 8*3 {
		t.Errorf("%d objects are left, want 24", n)
	}
}

func (s *suite) location(t *testing.T, b store.Bucket) {
	if loc := b.Location("dir/x y.parquet"); !strings.HasSuffix(strings.ReplaceAll(loc, `\`, "/"), "/dir/x y.parquet") {
		t.Errorf("Location = %q, want it to end with the key", loc)
	}
}

func (s *suite) prefixed(t *testing.T, b store.Bucket) {
	if store.Prefixed(b, "") != b {
		t.Error(`Prefixed(b, "") is not b`)
	}
	must(t, b.Put(t.Context(), "sales/orders-old", []byte("not in the view")))
	must(t, b.Put(t.Context(), "sales/z", []byte("not in the view")))
	for _, v := range []store.Bucket{
		store.Prefixed(b, "sales/orders"), store.Prefixed(b, "sales/orders/"), store.Prefixed(store.Prefixed(b, "sales"), "orders"),
	} {
		if info := upload(t, v, "p/1", []byte("1")); info.Key != "p/1" {
			t.Errorf("Commit in a view says key %q", info.Key)
		}
		must(t, v.PutIfAbsent(t.Context(), "p/2", []byte("2")))
		wantCode(t, "PutIfAbsent in a view", v.PutIfAbsent(t.Context(), "p/2", []byte("3")), store.AlreadyExists)
		must(t, v.Put(t.Context(), "p/3", []byte("3")))
		wantObject(t, v, "p/1", []byte("1"))
		wantObject(t, b, "sales/orders/p/1", []byte("1"))
		wantList(t, v, "", "", "p/1", "p/2", "p/3")
		wantList(t, v, "p/", "p/1", "p/2", "p/3")
		r, err := v.OpenRange(t.Context(), "p/1", 0, 1)
		must(t, err)
		must(t, r.Close())
		if v.Location("p/1") != b.Location("sales/orders/p/1") {
			t.Errorf("Location in a view = %q, want %q", v.Location("p/1"), b.Location("sales/orders/p/1"))
		}
		for _, key := range InvalidKeys {
			_, err := v.Stat(t.Context(), key)
			wantCode(t, fmt.Sprintf("Stat(%q) in a view", key), err, store.Invalid)
		}
		for _, key := range []string{"p/1", "p/2", "p/3"} {
			must(t, v.Delete(t.Context(), key))
		}
		wantList(t, v, "", "")
		must(t, v.Close()) // closes nothing
	}
	wantList(t, b, "", "", "sales/orders-old", "sales/z")
	for _, bad := range []string{"..", "/", "a/../b", "//", "a//b"} {
		v := store.Prefixed(b, bad)
		wantCode(t, "Put under "+bad, v.Put(t.Context(), "x", nil), store.Invalid)
		_, err := v.Create(t.Context(), "x")
		wantCode(t, "Create under "+bad, err, store.Invalid)
		for _, err := range v.List(t.Context(), "", "") {
			wantCode(t, "List under "+bad, err, store.Invalid)
		}
	}
}

func (s *suite) probe(t *testing.T, b store.Bucket) {
	must(t, store.Probe(t.Context(), b))
	wantList(t, b, "", "")
}

func (s *suite) closes(t *testing.T, b store.Bucket) {
	must(t, b.Put(t.Context(), "x", []byte("x")))
	u, err := b.Create(t.Context(), "under way")
	must(t, err)
	_, err = u.Write([]byte("x"))
	must(t, err)
	must(t, b.Close())
	must(t, b.Close())
	_, err = u.Write([]byte("y"))
	wantCode(t, "Write after Close", err, store.Invalid)
	_, err = u.Commit(t.Context())
	wantCode(t, "Commit after Close", err, store.Invalid)
	must(t, u.Abort(t.Context()))
	_, err = b.Create(t.Context(), "new")
	wantCode(t, "Create after Close", err, store.Invalid)
	wantCode(t, "Put after Close", b.Put(t.Context(), "x", nil), store.Invalid)
	wantCode(t, "PutIfAbsent after Close", b.PutIfAbsent(t.Context(), "y", nil), store.Invalid)
	_, _, err = b.Open(t.Context(), "x")
	wantCode(t, "Open after Close", err, store.Invalid)
	_, err = b.OpenRange(t.Context(), "x", 0, 1)
	wantCode(t, "OpenRange after Close", err, store.Invalid)
	_, err = b.Stat(t.Context(), "x")
	wantCode(t, "Stat after Close", err, store.Invalid)
	wantCode(t, "Delete after Close", b.Delete(t.Context(), "x"), store.Invalid)
	n := 0
	for _, err := range b.List(t.Context(), "", "") {
		wantCode(t, "List after Close", err, store.Invalid)
		n++
	}
	if n != 1 {
		t.Errorf("List after Close yields %d pairs, want one error", n)
	}
}
