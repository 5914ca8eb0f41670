// Package filestore keeps objects as files under one local directory.
//
// An object is written to a temporary file beside its place, synced, hard-linked to its name (which fails when the name is
// taken: that is put-if-absent), and its directory is synced. So a name either has the whole object or is not there. What a
// crash leaves: before the link, a temporary file that List never shows and SweepUploads removes; after it, the
// object and at worst the temporary name of the same file; before the last sync, either.
//
// Where the file system has no hard links, renameat2 with RENAME_NOREPLACE does the same on Linux; where it has neither,
// nothing is written and the error says so. Symbolic links that lead out of the directory are never followed, and none
// is ever listed. The file system must keep the promises of a local one: several machines that share it through NFS must
// not write the same dataset.
package filestore

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/tablexport/tablexport/export/store"
)

const (
	fileMode = 0o640
	dirMode  = 0o750
)

var (
	errClosed       = errors.New("the bucket is closed")
	errEnded        = errors.New("the upload has been committed or aborted")
	errNotRegular   = errors.New("it is not a regular file")
	errNotDirectory = errors.New("not a directory")
)

// Bucket is a store.Bucket and a store.Sweeper over a local directory.
type Bucket struct {
	dir    string // absolute
	mu     sync.Mutex
	root   *os.Root // nil until the directory is there; see at
	closed atomic.Bool

	// link gives a file a second name and rename gives it another one; both fail with fs.ErrExist when that is taken.
	// Tests replace them to be a file system that lacks them.
	link, rename func(dir *os.Root, from, to string) error
}

// Open returns the bucket of a directory. If that is not there, the bucket is empty, and the first write creates it (mode 0750;
// objects are 0640, both less the umask): looking changes nothing. The errors are *store.Error, with the code Invalid
// for what is no directory and cannot become one.
func Open(dir string) (*Bucket, error) {
	if dir == "" {
		return nil, store.Errorf(store.Invalid, "open", "", "the directory of a file store must be named: set path")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, wrap("open", "", err)
	}
	b := &Bucket{dir: abs, link: (*os.Root).Link, rename: renameNoReplace}
	if _, err := b.at(false); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, wrap("open", "", err)
	}
	return b, nil
}

// at opens the directory, once. While it is not there it fails with fs.ErrNotExist, or creates it.
func (b *Bucket) at(create bool) (*os.Root, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed.Load():
		return nil, errClosed
	case b.root != nil:
		return b.root, nil
	}
	root, err := os.OpenRoot(b.dir)
	if create && errors.Is(err, fs.ErrNotExist) {
		if err = makeAll(b.dir); err == nil {
			root, err = os.OpenRoot(b.dir)
		}
		if err != nil {
			return nil, notUsable(b.dir, err)
		}
	}
	if err != nil {
		if fi, statErr := os.Stat(b.dir); isNotDirectory(err) || isNotDirectory(statErr) || statErr == nil && !fi.IsDir() {
			return nil, notUsable(b.dir, err)
		}
		return nil, err
	}
	b.root = root
	return root, nil
}

// notUsable is the error for a path that is no directory and cannot become one: the path must be changed, or its
// surroundings. A full or failing disk stays what it is.
func notUsable(dir string, err error) error {
	code := store.Invalid
	if c, ok := systemCode(err); ok && (c == store.Full || c == store.Unavailable) {
		code = c
	}
	return store.Errorf(code, "open", "", "the directory of the file store, %s, is not there and cannot be made: %w", dir, err)
}

// makeAll is os.MkdirAll, with every directory that it makes durable: see makeDir.
func makeAll(dir string) error {
	err := os.Mkdir(dir, dirMode)
	parent := filepath.Dir(dir)
	if errors.Is(err, fs.ErrNotExist) && parent != dir {
		if err := makeAll(parent); err != nil {
			return err
		}
		err = os.Mkdir(dir, dirMode)
	}
	if errors.Is(err, fs.ErrExist) { // another process was faster, or it is a file: opening it will tell
		return nil
	}
	if err != nil {
		return err
	}
	p, err := os.OpenRoot(parent)
	if errors.Is(err, fs.ErrPermission) {
		return nil // it may be written and not read: it cannot be synced then
	}
	if err != nil {
		return err
	}
	return errors.Join(syncDir(p), p.Close())
}

// enter is what every operation begins with.
func (b *Bucket) enter(ctx context.Context, op, key string) error {
	if err := store.CheckKey(op, key); err != nil {
		return err
	}
	return b.usable(ctx, op, key)
}

func (b *Bucket) usable(ctx context.Context, op, key string) error {
	if ctx.Err() != nil {
		return &store.Error{Code: store.Canceled, Op: op, Key: key, Err: context.Cause(ctx)}
	}
	if b.closed.Load() {
		return &store.Error{Code: store.Invalid, Op: op, Key: key, Err: errClosed}
	}
	return nil
}

// Create implements store.Bucket. What is written goes straight to the temporary file; nothing is held in memory.
func (b *Bucket) Create(ctx context.Context, key string) (store.Upload, error) {
	u, err := b.create(ctx, "create", key)
	if err != nil {
		return nil, err
	}
	return u, nil
}

func (b *Bucket) create(ctx context.Context, op, key string) (*upload, error) {
	if err := b.enter(ctx, op, key); err != nil {
		return nil, err
	}
	dirName, name := path.Split(key)
	root, err := b.at(true)
	if err != nil {
		return nil, b.wrap(op, key, err)
	}
	dir, err := makeDir(root, path.Clean(dirName))
	if err != nil {
		if errors.Is(err, errNotDirectory) || isNotDirectory(err) {
			return nil, store.Errorf(store.Invalid, op, key, "a part of the key is an object, it cannot be a directory: %w", err)
		}
		return nil, b.wrap(op, key, err)
	}
	temp := store.Unfinished + rand.Text()
	f, err := dir.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		_ = dir.Close()
		return nil, b.wrap(op, key, err)
	}
	return &upload{b: b, ctx: ctx, key: key, name: name, temp: temp, dir: dir, file: f}, nil
}

// makeDir opens a directory under root and makes what is missing of it. Each directory that it makes is durable
// before anything is put into it: otherwise a power failure could lose a whole dataset whose files had all been synced.
func makeDir(root *os.Root, dir string) (*os.Root, error) {
	d, err := root.OpenRoot(dir)
	if err == nil {
		return d, nil
	}
	if fi, statErr := root.Lstat(dir); statErr == nil && fi.Mode().IsRegular() {
		return nil, errNotDirectory // OpenRoot says so with an error that cannot be told from others
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	parent, err := makeDir(root, path.Dir(dir))
	if err != nil {
		return nil, err
	}
	defer func() { _ = parent.Close() }()
	if err := parent.Mkdir(path.Base(dir), dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := syncDir(parent); err != nil {
		return nil, err
	}
	return parent.OpenRoot(path.Base(dir))
}

// PutIfAbsent implements store.Bucket.
func (b *Bucket) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	return b.put(ctx, "put-if-absent", key, data, false)
}

// Put implements store.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, data []byte) error {
	return b.put(ctx, "put", key, data, true)
}

func (b *Bucket) put(ctx context.Context, op, key string, data []byte, replace bool) error {
	u, err := b.create(ctx, op, key)
	if err != nil {
		return err
	}
	defer func() { _ = u.end() }() // what stays is the sweeper's
	if _, err := u.file.Write(data); err != nil {
		return b.wrap(op, key, err)
	}
	_, err = u.finish(ctx, op, replace)
	return err
}

// open opens a regular file for reading. It looks before it opens, since opening a pipe would wait for its writer.
func (b *Bucket) open(ctx context.Context, op, key string) (*os.File, store.Info, error) {
	if err := b.enter(ctx, op, key); err != nil {
		return nil, store.Info{}, err
	}
	if _, err := b.lstat(op, key); err != nil {
		return nil, store.Info{}, err
	}
	root, err := b.at(false)
	if err != nil {
		return nil, store.Info{}, b.wrap(op, key, err)
	}
	f, err := root.Open(filepath.FromSlash(key))
	if err != nil {
		return nil, store.Info{}, b.wrap(op, key, err)
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errNotRegular
	}
	if err != nil {
		_ = f.Close()
		return nil, store.Info{}, b.wrap(op, key, err)
	}
	return f, describe(key, fi), nil
}

func (b *Bucket) lstat(op, key string) (store.Info, error) {
	root, err := b.at(false)
	if err != nil {
		return store.Info{}, b.wrap(op, key, err)
	}
	fi, err := root.Lstat(filepath.FromSlash(key))
	switch {
	case err != nil:
		return store.Info{}, b.wrap(op, key, err)
	case fi.IsDir():
		return store.Info{}, &store.Error{Code: store.NotFound, Op: op, Key: key}
	case !fi.Mode().IsRegular():
		return store.Info{}, &store.Error{Code: store.Invalid, Op: op, Key: key, Err: errNotRegular}
	}
	return describe(key, fi), nil
}

func describe(key string, fi fs.FileInfo) store.Info {
	return store.Info{Key: key, Size: fi.Size(), Modified: fi.ModTime()}
}

// Open implements store.Bucket.
func (b *Bucket) Open(ctx context.Context, key string) (io.ReadCloser, store.Info, error) {
	f, info, err := b.open(ctx, "open", key)
	if err != nil {
		return nil, store.Info{}, err
	}
	return &reader{ctx: ctx, b: b, key: key, f: f, r: f}, info, nil
}

// OpenRange implements store.Bucket.
func (b *Bucket) OpenRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	const op = "open-range"
	f, info, err := b.open(ctx, op, key)
	if err != nil {
		return nil, err
	}
	if offset < 0 || offset > info.Size || length < -1 {
		_ = f.Close()
		return nil, store.Errorf(store.Invalid, op, key, "offset %d, length %d do not fit an object of %d bytes", offset, length, info.Size)
	}
	if length < 0 || length > info.Size-offset {
		length = info.Size - offset
	}
	return &reader{ctx: ctx, b: b, key: key, f: f, r: io.NewSectionReader(f, offset, length)}, nil
}

// Stat implements store.Bucket.
func (b *Bucket) Stat(ctx context.Context, key string) (store.Info, error) {
	if err := b.enter(ctx, "stat", key); err != nil {
		return store.Info{}, err
	}
	return b.lstat("stat", key)
}

// Delete implements store.Bucket. The directory stays, so that nobody who is about to write into it loses it. The removal
// is not synced: a power failure may bring the object back, as if it had never been deleted.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := b.enter(ctx, "delete", key); err != nil {
		return err
	}
	_, err := b.lstat("delete", key)
	if err == nil {
		var root *os.Root
		if root, err = b.at(false); err == nil {
			err = root.Remove(filepath.FromSlash(key))
		}
		err = b.wrap("delete", key, err)
	}
	if store.CodeOf(err) == store.NotFound {
		return nil
	}
	return err
}

// Location implements store.Bucket: the absolute path.
func (b *Bucket) Location(key string) string { return filepath.Join(b.dir, filepath.FromSlash(key)) }

// Close implements store.Bucket.
func (b *Bucket) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed.Swap(true) || b.root == nil {
		return nil
	}
	return b.root.Close()
}

// wrap makes a *store.Error of an error of the file system; after Close it says that, and not what a closed handle says.
func (b *Bucket) wrap(op, key string, err error) error {
	if err != nil && b.closed.Load() {
		return &store.Error{Code: store.Invalid, Op: op, Key: key, Err: errClosed}
	}
	return wrap(op, key, err)
}

type reader struct {
	ctx context.Context
	b   *Bucket
	key string
	f   *os.File
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, &store.Error{Code: store.Canceled, Op: "read", Key: r.key, Err: context.Cause(r.ctx)}
	}
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = wrap("read", r.key, err)
	}
	return n, err
}

func (r *reader) Close() error {
	if err := r.f.Close(); err != nil {
		return wrap("read", r.key, err)
	}
	return nil
}
