package store

import (
	"context"
	"io"
	"iter"
	"strings"
	"time"
)

// Prefixed returns a view of b under prefix ("" = b itself). prefix is a directory, "sales/orders" or "sales/orders/";
// the view's keys are relative to it, in what List, Stat and Commit return too, while errors carry b's key. With a prefix that is no
// valid key every operation fails with Invalid. Closing the view does nothing: b belongs to whoever opened it.
func Prefixed(b Bucket, prefix string) Bucket {
	dir := strings.TrimSuffix(prefix, "/")
	if prefix == "" {
		return b
	}
	if outer, ok := b.(*view); ok && outer.bad == nil && ValidKey(dir) == nil {
		return &view{b: outer.b, dir: outer.dir + dir + "/"} // one step instead of two
	}
	return &view{b: b, dir: dir + "/", bad: ValidKey(dir)}
}

type view struct {
	b   Bucket
	dir string // ends with a slash
	bad error  // why dir cannot be used
}

// check refuses a bad view and a bad key before the two are joined, so that the message names what the caller gave.
func (v *view) check(op, key string) error {
	if v.bad != nil {
		return Errorf(Invalid, op, shown(v.dir), "the prefix cannot be used: %w", v.bad)
	}
	return CheckKey(op, key)
}

func (v *view) relative(i Info) Info {
	i.Key = strings.TrimPrefix(i.Key, v.dir)
	return i
}

func (v *view) Create(ctx context.Context, key string) (Upload, error) {
	if err := v.check("create", key); err != nil {
		return nil, err
	}
	u, err := v.b.Create(ctx, v.dir+key)
	if err != nil {
		return nil, err
	}
	return &viewUpload{Upload: u, v: v}, nil
}

func (v *view) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	if err := v.check("put-if-absent", key); err != nil {
		return err
	}
	return v.b.PutIfAbsent(ctx, v.dir+key, data)
}

func (v *view) Put(ctx context.Context, key string, data []byte) error {
	if err := v.check("put", key); err != nil {
		return err
	}
	return v.b.Put(ctx, v.dir+key, data)
}

func (v *view) Open(ctx context.Context, key string) (io.ReadCloser, Info, error) {
	if err := v.check("open", key); err != nil {
		return nil, Info{}, err
	}
	r, info, err := v.b.Open(ctx, v.dir+key)
	return r, v.relative(info), err
}

func (v *view) OpenRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := v.check("open-range", key); err != nil {
		return nil, err
	}
	return v.b.OpenRange(ctx, v.dir+key, offset, length)
}

func (v *view) Stat(ctx context.Context, key string) (Info, error) {
	if err := v.check("stat", key); err != nil {
		return Info{}, err
	}
	info, err := v.b.Stat(ctx, v.dir+key)
	return v.relative(info), err
}

func (v *view) List(ctx context.Context, prefix, startAfter string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if v.bad != nil {
			yield(Info{}, v.check("list", ""))
			return
		}
		if err := CheckPrefix("list", prefix); err != nil {
			yield(Info{}, err)
			return
		}
		after := ""
		if startAfter != "" {
			after = v.dir + startAfter
		}
		for info, err := range v.b.List(ctx, v.dir+prefix, after) {
			if !yield(v.relative(info), err) {
				return
			}
		}
	}
}

func (v *view) Delete(ctx context.Context, key string) error {
	if err := v.check("delete", key); err != nil {
		return err
	}
	return v.b.Delete(ctx, v.dir+key)
}

func (v *view) Location(key string) string { return v.b.Location(v.dir + key) }

func (v *view) Close() error { return nil }

func (v *view) SweepUploads(ctx context.Context, prefix string, olderThan time.Duration) (Swept, error) {
	if v.bad != nil {
		return Swept{}, v.check("sweep", "")
	}
	if err := CheckPrefix("sweep", prefix); err != nil {
		return Swept{}, err
	}
	return SweepUploads(ctx, v.b, v.dir+prefix, olderThan)
}

type viewUpload struct {
	Upload
	v *view
}

func (u *viewUpload) Commit(ctx context.Context) (Info, error) {
	info, err := u.Upload.Commit(ctx)
	return u.v.relative(info), err
}
