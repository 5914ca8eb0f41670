// Package memstore keeps objects in memory: the bucket of tests, with the whole contract and no disk. It copies what it is
// given and what it hands out.
package memstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tablexport/tablexport/export/store"
)

var (
	errClosed = errors.New("the bucket is closed")
	errEnded  = errors.New("the upload has been committed or aborted")
)

// Bucket is a store.Bucket in memory.
type Bucket struct {
	mu      sync.RWMutex
	closed  bool
	objects map[string]object
	dirs    map[string]int // how many keys have this directory (with its slash) as an ancestor
}

type object struct {
	data     []byte // never changed once it is here
	modified time.Time
	etag     string
}

// New returns an empty bucket.
func New() *Bucket {
	return &Bucket{objects: map[string]object{}, dirs: map[string]int{}}
}

// enter is what every operation begins with.
func (b *Bucket) enter(ctx context.Context, op, key string) error {
	if err := store.CheckKey(op, key); err != nil {
		return err
	}
	return b.usable(ctx, op, key)
}

func (b *Bucket) usable(ctx context.Context, op, key string) error {
	if err := ctx.Err(); err != nil {
		return &store.Error{Code: store.Canceled, Op: op, Key: key, Err: context.Cause(ctx)}
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return &store.Error{Code: store.Invalid, Op: op, Key: key, Err: errClosed}
	}
	return nil
}

// ancestors yields the directories of key, each with its slash: "a/", "a/b/".
func ancestors(key string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i, c := range []byte(key) {
			if c == '/' && !yield(key[:i+1]) {
				return
			}
		}
	}
}

// put stores data, which must not be changed any more, under key.
func (b *Bucket) put(op, key string, data []byte, replace bool) (store.Info, error) {
	sum := sha256.Sum256(data)
	o := object{data: data, modified: time.Now(), etag: hex.EncodeToString(sum[:16])}

	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return store.Info{}, &store.Error{Code: store.Invalid, Op: op, Key: key, Err: errClosed}
	}
	_, exists := b.objects[key]
	if exists && !replace {
		return store.Info{}, &store.Error{Code: store.AlreadyExists, Op: op, Key: key}
	}
	if b.dirs[key+"/"] > 0 {
		return store.Info{}, store.Errorf(store.Invalid, op, key, "the key is the directory of another one")
	}
	for dir := range ancestors(key) {
		if _, taken := b.objects[dir[:len(dir)-1]]; taken {
			return store.Info{}, store.Errorf(store.Invalid, op, key, "%q is an object, it cannot be a directory", dir[:len(dir)-1])
		}
	}
	if !exists {
		for dir := range ancestors(key) {
			b.dirs[dir]++
		}
	}
	b.objects[key] = o
	return o.info(key), nil
}

func (o object) info(key string) store.Info {
	return store.Info{Key: key, Size: int64(len(o.data)), Modified: o.modified, ETag: o.etag}
}

func (b *Bucket) get(ctx context.Context, op, key string) (object, error) {
	if err := b.enter(ctx, op, key); err != nil {
		return object{}, err
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	o, ok := b.objects[key]
	if !ok {
		return object{}, &store.Error{Code: store.NotFound, Op: op, Key: key}
	}
	return o, nil
}

// Create implements store.Bucket.
func (b *Bucket) Create(ctx context.Context, key string) (store.Upload, error) {
	if err := b.enter(ctx, "create", key); err != nil {
		return nil, err
	}
	return &upload{b: b, ctx: ctx, key: key}, nil
}

// PutIfAbsent implements store.Bucket.
func (b *Bucket) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	const op = "put-if-absent"
	if err := b.enter(ctx, op, key); err != nil {
		return err
	}
	_, err := b.put(op, key, bytes.Clone(data), false)
	return err
}

// Put implements store.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, data []byte) error {
	if err := b.enter(ctx, "put", key); err != nil {
		return err
	}
	_, err := b.put("put", key, bytes.Clone(data), true)
	return err
}

// Open implements store.Bucket.
func (b *Bucket) Open(ctx context.Context, key string) (io.ReadCloser, store.Info, error) {
	o, err := b.get(ctx, "open", key)
	if err != nil {
		return nil, store.Info{}, err
	}
	return &reader{ctx: ctx, b: b, key: key, r: bytes.NewReader(o.data)}, o.info(key), nil
}

// OpenRange implements store.Bucket.
func (b *Bucket) OpenRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	const op = "open-range"
	o, err := b.get(ctx, op, key)
	if err != nil {
		return nil, err
	}
	size := int64(len(o.data))
	if offset < 0 || offset > size || length < -1 {
		return nil, store.Errorf(store.Invalid, op, key, "offset %d, length %d do not fit an object of %d bytes", offset, length, size)
	}
	if length < 0 || length > size-offset {
		length = size - offset
	}
	return &reader{ctx: ctx, b: b, key: key, r: bytes.NewReader(o.data[offset : offset+length])}, nil
}

// Stat implements store.Bucket.
func (b *Bucket) Stat(ctx context.Context, key string) (store.Info, error) {
	o, err := b.get(ctx, "stat", key)
	if err != nil {
		return store.Info{}, err
	}
	return o.info(key), nil
}

// List implements store.Bucket. It shows the keys that were there when it began, unless they have been deleted since.
func (b *Bucket) List(ctx context.Context, prefix, startAfter string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		if err := store.CheckPrefix("list", prefix); err != nil {
			yield(store.Info{}, err)
			return
		}
		b.mu.RLock()
		keys := slices.Sorted(maps.Keys(b.objects))
		b.mu.RUnlock()
		for i := -1; i < len(keys); i++ {
			if err := b.usable(ctx, "list", prefix); err != nil {
				yield(store.Info{}, err)
				return
			}
			if i < 0 || keys[i] <= startAfter || !strings.HasPrefix(keys[i], prefix) {
				continue
			}
			b.mu.RLock()
			o, ok := b.objects[keys[i]]
			b.mu.RUnlock()
			if ok && !yield(o.info(keys[i]), nil) {
				return
			}
		}
	}
}

// Delete implements store.Bucket.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := b.enter(ctx, "delete", key); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.objects[key]; !ok {
		return nil
	}
	delete(b.objects, key)
	for dir := range ancestors(key) {
		if b.dirs[dir]--; b.dirs[dir] == 0 {
			delete(b.dirs, dir)
		}
	}
	return nil
}

// Location implements store.Bucket: "mem://" and the key.
func (b *Bucket) Location(key string) string { return "mem://" + key }

// Close implements store.Bucket. The objects are gone with it.
func (b *Bucket) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.objects, b.dirs = nil, nil
	return nil
}

type reader struct {
	ctx context.Context
	b   *Bucket
	key string
	r   *bytes.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, &store.Error{Code: store.Canceled, Op: "read", Key: r.key, Err: context.Cause(r.ctx)}
	}
	if r.r == nil {
		return 0, store.Errorf(store.Invalid, "read", r.key, "the reader is closed")
	}
	return r.r.Read(p)
}

func (r *reader) Close() error {
	r.r = nil
	return nil
}

type upload struct {
	b    *Bucket
	ctx  context.Context
	key  string
	data []byte
	done bool
}

func (u *upload) usable(ctx context.Context, op string) error {
	if u.done {
		return &store.Error{Code: store.Invalid, Op: op, Key: u.key, Err: errEnded}
	}
	if err := u.b.usable(u.ctx, op, u.key); err != nil {
		return err
	}
	return u.b.usable(ctx, op, u.key)
}

// Write implements io.Writer.
func (u *upload) Write(p []byte) (int, error) {
	if err := u.usable(u.ctx, "write"); err != nil {
		return 0, err
	}
	u.data = append(u.data, p...)
	return len(p), nil
}

// Commit implements store.Upload.
func (u *upload) Commit(ctx context.Context) (store.Info, error) {
	err := u.usable(ctx, "commit")
	if u.done {
		return store.Info{}, err
	}
	data := u.data
	u.done, u.data = true, nil
	if err != nil {
		return store.Info{}, err
	}
	return u.b.put("commit", u.key, data, false)
}

// Abort implements store.Upload.
func (u *upload) Abort(context.Context) error {
	u.done, u.data = true, nil
	return nil
}
