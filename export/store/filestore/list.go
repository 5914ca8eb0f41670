package filestore

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tablexport/tablexport/export/store"
)

// errStop ends a walk that the reader has left.
var errStop = errors.New("stop")

// List implements store.Bucket. Files whose names are no valid keys, symbolic links, devices and pipes are not
// listed. It holds the names of the directories on the way in memory, not those of the whole tree.
func (b *Bucket) List(ctx context.Context, prefix, startAfter string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		err := store.CheckPrefix("list", prefix)
		if err == nil {
			err = b.usable(ctx, "list", prefix)
		}
		if err == nil {
			dir := prefix[:strings.LastIndexByte(prefix, '/')+1]
			w := walk{b: b, ctx: ctx, op: "list", prefix: prefix, after: startAfter}
			w.visit = func(key string, fi fs.FileInfo) error {
				if !yield(describe(key, fi), nil) {
					return errStop
				}
				return nil
			}
			err = w.dir(dir)
		}
		if err != nil && !errors.Is(err, errStop) {
			yield(store.Info{}, err)
		}
	}
}

// walk visits the regular files under a directory in the byte order of their keys.
type walk struct {
	b             *Bucket
	ctx           context.Context
	op            string
	prefix, after string
	unfinished    bool // visit temporary files, and only those
	visit         func(key string, fi fs.FileInfo) error
}

// dir walks the directory whose keys begin with base ("" or "a/b/").
func (w *walk) dir(base string) error {
	entries, err := w.read(base)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := w.b.usable(w.ctx, w.op, w.prefix); err != nil {
			return err
		}
		key := base + e.Name()
		switch {
		case e.IsDir():
			err = w.enterDir(key + "/")
		case e.Type().IsRegular():
			err = w.file(key, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// enterDir walks dir unless none of its keys can be wanted.
func (w *walk) enterDir(dir string) error {
	if !strings.HasPrefix(dir, w.prefix) && !strings.HasPrefix(w.prefix, dir) {
		return nil
	}
	if dir < w.after && !strings.HasPrefix(w.after, dir) {
		return nil // all its keys sort before after
	}
	if addressable := store.ValidKey(strings.TrimSuffix(dir, "/")) == nil; !addressable {
		return nil
	}
	return w.dir(dir)
}

func (w *walk) file(key string, e fs.DirEntry) error {
	if strings.HasPrefix(e.Name(), store.Unfinished) != w.unfinished {
		return nil
	}
	wanted := w.unfinished || strings.HasPrefix(key, w.prefix) && key > w.after && store.ValidKey(key) == nil
	if !wanted {
		return nil
	}
	fi, err := e.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // deleted since
	}
	if err != nil {
		return w.b.wrap(w.op, key, err)
	}
	return w.visit(key, fi)
}

// read gives the entries of a directory in the order of the keys: a directory sorts as if its name ended with the
// slash ("a-b" before "a/…" before "a0").
func (w *walk) read(base string) ([]fs.DirEntry, error) {
	name := path.Clean(base)
	root, err := w.b.at(false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // nothing was ever written
	}
	if err != nil {
		return nil, w.b.wrap(w.op, base, err)
	}
	if fi, err := root.Lstat(filepath.FromSlash(name)); err == nil && !fi.IsDir() {
		return nil, nil // a file or a symbolic link
	}
	d, err := root.Open(filepath.FromSlash(name))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || isNotDirectory(err) {
			return nil, nil
		}
		return nil, w.b.wrap(w.op, base, err)
	}
	entries, err := d.ReadDir(-1)
	_ = d.Close()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, w.b.wrap(w.op, base, err)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(sortName(a), sortName(b)) })
	return entries, nil
}

func sortName(e fs.DirEntry) string {
	if e.IsDir() {
		return e.Name() + "/"
	}
	return e.Name()
}

// SweepUploads implements store.Sweeper: it removes the temporary files in directories under prefix that have not been
// written for olderThan. A temporary file does not carry its key, so all those in a directory that prefix reaches
// into go. The name that a crash has left beside a published object is one of them; the object stays.
func (b *Bucket) SweepUploads(ctx context.Context, prefix string, olderThan time.Duration) (store.Swept, error) {
	var swept store.Swept
	if err := store.CheckPrefix("sweep", prefix); err != nil {
		return swept, err
	}
	if err := b.usable(ctx, "sweep", prefix); err != nil {
		return swept, err
	}
	limit := time.Now().Add(-olderThan)
	w := walk{b: b, ctx: ctx, op: "sweep", prefix: prefix, unfinished: true}
	w.visit = func(key string, fi fs.FileInfo) error {
		if !fi.ModTime().Before(limit) {
			return nil
		}
		root, err := b.at(false)
		if err == nil {
			err = root.Remove(filepath.FromSlash(key))
		}
		if err != nil {
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			return b.wrap("sweep", key, err)
		}
		swept.Uploads++
		swept.Bytes += fi.Size()
		return nil
	}
	err := w.dir(prefix[:strings.LastIndexByte(prefix, '/')+1])
	return swept, err
}
