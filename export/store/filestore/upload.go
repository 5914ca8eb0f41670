package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/tablexport/tablexport/export/store"
)

// upload is a temporary file that is to become the object. Its directory stays open, so that all steps happen in the same
// directory whatever becomes of the path that led to it.
type upload struct {
	b    *Bucket
	ctx  context.Context
	key  string
	name string // of the object in dir
	temp string // of the temporary file in dir
	dir  *os.Root
	file *os.File
	done bool
}

// Write implements io.Writer.
func (u *upload) Write(p []byte) (int, error) {
	if u.done {
		return 0, &store.Error{Code: store.Invalid, Op: "write", Key: u.key, Err: errEnded}
	}
	if err := u.b.usable(u.ctx, "write", u.key); err != nil {
		return 0, err
	}
	n, err := u.file.Write(p)
	if err != nil {
		return n, u.b.wrap("write", u.key, err)
	}
	return n, nil
}

// Commit implements store.Upload.
func (u *upload) Commit(ctx context.Context) (store.Info, error) {
	if u.done {
		return store.Info{}, &store.Error{Code: store.Invalid, Op: "commit", Key: u.key, Err: errEnded}
	}
	defer func() { _ = u.end() }() // what stays is the sweeper's
	if err := u.b.usable(u.ctx, "commit", u.key); err != nil {
		return store.Info{}, err
	}
	if err := u.b.usable(ctx, "commit", u.key); err != nil {
		return store.Info{}, err
	}
	return u.finish(ctx, "commit", false)
}

// finish makes the temporary file the object: its content durable, then its name, then the name durable.
func (u *upload) finish(ctx context.Context, op string, replace bool) (store.Info, error) {
	if err := u.file.Sync(); err != nil {
		return store.Info{}, u.b.wrap(op, u.key, err)
	}
	fi, err := u.file.Stat()
	if err != nil {
		return store.Info{}, u.b.wrap(op, u.key, err)
	}
	if err := u.file.Close(); err != nil { // some file systems tell only now that the disk was full
		return store.Info{}, u.b.wrap(op, u.key, err)
	}
	if err := u.b.usable(ctx, op, u.key); err != nil { // the last moment at which it can be stopped
		return store.Info{}, err
	}
	if err := u.publish(replace); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return store.Info{}, u.taken(op, replace)
		}
		return store.Info{}, u.b.wrap(op, u.key, err)
	}
	// From here the object is visible. When this sync fails nobody can say whether it is durable, and that is what the caller hears.
	if err := syncDir(u.dir); err != nil {
		return store.Info{}, u.b.wrap(op, u.key, fmt.Errorf("the object was written, but its directory could not be synced: %w", err))
	}
	return describe(u.key, fi), nil
}

// publish gives the temporary file the object's name.
func (u *upload) publish(replace bool) error {
	if replace {
		return u.dir.Rename(u.temp, u.name)
	}
	err := u.b.link(u.dir, u.temp, u.name)
	if err == nil || errors.Is(err, fs.ErrExist) || !noHardLinks(err) {
		return err
	}
	return u.b.rename(u.dir, u.temp, u.name)
}

// taken says what already has the name: an object, or a directory that holds others.
func (u *upload) taken(op string, replace bool) error {
	if fi, err := u.dir.Lstat(u.name); replace || (err == nil && fi.IsDir()) {
		return store.Errorf(store.Invalid, op, u.key, "the key is the directory of another one")
	}
	return &store.Error{Code: store.AlreadyExists, Op: op, Key: u.key}
}

// Abort implements store.Upload. It works after the bucket's Close and with a context that has ended.
func (u *upload) Abort(context.Context) error {
	if u.done {
		return nil
	}
	return u.end()
}

// end drops the temporary name, which after a link is the second one of the object. If it cannot, SweepUploads will.
func (u *upload) end() error {
	if u.done {
		return nil
	}
	u.done = true
	_ = u.file.Close() // closed already after finish
	err := u.dir.Remove(u.temp)
	if errors.Is(err, fs.ErrNotExist) { // renamed
		err = nil
	}
	_ = u.dir.Close()
	if err != nil {
		return wrap("abort", u.key, err)
	}
	return nil
}
