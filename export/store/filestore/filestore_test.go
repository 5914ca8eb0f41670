package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/storetest"
)

func open(t *testing.T) *Bucket {
	t.Helper()
	b, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func keys(t *testing.T, b *Bucket) []string {
	t.Helper()
	var all []string
	for info, err := range b.List(t.Context(), "", "") {
		must(t, err)
		all = append(all, info.Key)
	}
	return all
}

// files are the names of all files under the bucket's directory, temporary ones included.
func files(t *testing.T, b *Bucket) []string {
	t.Helper()
	var all []string
	must(t, filepath.WalkDir(b.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(b.dir, path)
			all = append(all, filepath.ToSlash(rel))
		}
		return err
	}))
	return all
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Bucket {
		b := open(t)
		t.Cleanup(func() {
			for _, name := range files(t, b) {
				if strings.Contains(name, store.Unfinished) {
					t.Errorf("the temporary file %s is left", name)
				}
			}
		})
		return b
	})
}

// The whole contract holds in a directory that is not there yet.
func TestConformanceUnmade(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Bucket {
		b, err := Open(filepath.Join(t.TempDir(), "not", "there"))
		must(t, err)
		t.Cleanup(func() { _ = b.Close() })
		return b
	})
}

func TestOpen(t *testing.T) {
	if _, err := Open(""); store.CodeOf(err) != store.Invalid {
		t.Errorf("no directory: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		if _, err := Open(dir); err == nil {
			t.Errorf("a file is opened as the directory of a store")
		} else if e := (*store.Error)(nil); !errors.As(err, &e) || e.Code != store.Invalid || !strings.Contains(err.Error(), dir) {
			t.Errorf("%v: it is to be of the code invalid, and name the directory", err)
		}
	}
	dir := filepath.Join(t.TempDir(), "a", "b")
	b, err := Open(dir) // made by the first write if it is not there
	must(t, err)
	must(t, b.Put(t.Context(), "x/y", []byte("1")))
	if want := filepath.Join(dir, "x", "y"); b.Location("x/y") != want {
		t.Errorf("Location = %q, want %q", b.Location("x/y"), want)
	}
	must(t, b.Close())
	again, err := Open(dir) // and what was written is there for the next process
	must(t, err)
	defer func() { _ = again.Close() }()
	if got := keys(t, again); !slices.Equal(got, []string{"x/y"}) {
		t.Errorf("after reopening: %q", got)
	}
}

// Looking at a store that was never written to makes nothing: not the directory, and none above it.
func TestLookingMakesNoDirectory(t *testing.T) {
	above := filepath.Join(t.TempDir(), "above")
	dir := filepath.Join(above, "lake")
	b, err := Open(dir)
	must(t, err)
	ctx := t.Context()
	if _, err := b.Stat(ctx, "x/y"); store.CodeOf(err) != store.NotFound {
		t.Errorf("Stat = %v", err)
	}
	if _, _, err := b.Open(ctx, "x/y"); store.CodeOf(err) != store.NotFound {
		t.Errorf("Open = %v", err)
	}
	if _, err := b.OpenRange(ctx, "x/y", 0, 1); store.CodeOf(err) != store.NotFound {
		t.Errorf("OpenRange = %v", err)
	}
	if got := keys(t, b); len(got) != 0 {
		t.Errorf("List shows %q", got)
	}
	must(t, b.Delete(ctx, "x/y"))
	swept, err := b.SweepUploads(ctx, "", 0)
	must(t, err)
	if swept != (store.Swept{}) || b.Location("x/y") != filepath.Join(dir, "x", "y") {
		t.Errorf("%+v, %s", swept, b.Location("x/y"))
	}
	if _, err := os.Lstat(above); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a directory was made: %v", err)
	}
	// Another process makes it, and is seen.
	other, err := Open(dir)
	must(t, err)
	must(t, other.PutIfAbsent(ctx, "x/y", []byte("1")))
	must(t, other.Close())
	if got := keys(t, b); !slices.Equal(got, []string{"x/y"}) {
		t.Errorf("List shows %q", got)
	}
	must(t, b.Close())
	never, err := Open(filepath.Join(above, "other"))
	must(t, err)
	must(t, never.Close())
	must(t, never.Close())
	if err := never.Put(ctx, "x", nil); store.CodeOf(err) != store.Invalid || !errors.Is(err, errClosed) {
		t.Errorf("Put after Close = %v", err)
	}
	if _, err := os.Lstat(filepath.Join(above, "other")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a closed store was made: %v", err)
	}
}

// Writers that come together all find the directory, whoever makes it.
func TestFirstWritersTogether(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b", "c")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			b, err := Open(dir)
			if err == nil {
				err = errors.Join(b.Put(t.Context(), fmt.Sprintf("d/%d", i), nil), b.Close())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	b, err := Open(dir)
	must(t, err)
	defer func() { _ = b.Close() }()
	if got := keys(t, b); len(got) != 8 {
		t.Errorf("%q", got)
	}
}

// A directory that becomes impossible after Open: the first write says that the configuration is at fault.
func TestDirectoryCannotBeMade(t *testing.T) {
	above := filepath.Join(t.TempDir(), "above")
	b, err := Open(filepath.Join(above, "lake"))
	must(t, err)
	must(t, os.WriteFile(above, nil, 0o600))
	for what, err := range map[string]error{
		"Put":         b.Put(t.Context(), "x", nil),
		"PutIfAbsent": b.PutIfAbsent(t.Context(), "d/x", nil),
		"Create":      func() error { _, err := b.Create(t.Context(), "x"); return err }(),
	} {
		if store.CodeOf(err) != store.Invalid || !strings.Contains(err.Error(), "cannot be made") || !strings.Contains(err.Error(), above) {
			t.Errorf("%s = %v", what, err)
		}
	}
}

func TestLeftovers(t *testing.T) {
	b := open(t)
	ctx := t.Context()
	must(t, b.Put(ctx, "t/p/1.parquet", []byte("one")))
	u, err := b.Create(ctx, "t/p/2.parquet") // under way
	must(t, err)
	_, err = u.Write([]byte("two"))
	must(t, err)
	// What a crash leaves: before the link, between the link and the removal of the temporary name, and in another directory.
	old := time.Now().Add(-48 * time.Hour)
	leave := func(name string) {
		path := filepath.Join(b.dir, filepath.FromSlash(name))
		must(t, os.MkdirAll(filepath.Dir(path), 0o750))
		must(t, os.WriteFile(path, []byte("12345"), 0o600))
		must(t, os.Chtimes(path, old, old))
	}
	leave("t/p/.tmp-old")
	leave("t/.tmp-old")
	leave("u/.tmp-old")
	must(t, os.Link(filepath.Join(b.dir, "t", "p", "1.parquet"), filepath.Join(b.dir, "t", "p", ".tmp-second")))
	must(t, os.Chtimes(filepath.Join(b.dir, "t", "p", ".tmp-second"), old, old))

	if got := keys(t, b); !slices.Equal(got, []string{"t/p/1.parquet"}) {
		t.Errorf("List shows %q", got)
	}
	swept, err := store.SweepUploads(ctx, store.Prefixed(b, "t"), "p/", 24*time.Hour)
	must(t, err)
	if swept.Uploads != 2 || swept.Bytes != 8 {
		t.Errorf("swept %+v, want 2 uploads of 8 bytes", swept)
	}
	_, err = u.Commit(ctx)
	must(t, err)
	swept, err = b.SweepUploads(ctx, "t/", 24*time.Hour)
	must(t, err)
	if swept.Uploads != 1 {
		t.Errorf("swept %+v, want the one directly in t", swept)
	}
	want := []string{"t/p/1.parquet", "t/p/2.parquet", "u/.tmp-old"}
	if got := files(t, b); !slices.Equal(got, want) {
		t.Errorf("left are %q, want %q", got, want)
	}
	_, err = b.SweepUploads(ctx, "../", 0)
	if store.CodeOf(err) != store.Invalid {
		t.Errorf("sweeping outside: %v", err)
	}
}

// Files that are no objects are neither listed nor touched.
func TestForeignFiles(t *testing.T) {
	b := open(t)
	must(t, b.Put(t.Context(), "a", nil))
	for _, name := range []string{"new\nline", `back\slash`, "bad\xff"} {
		if err := os.WriteFile(filepath.Join(b.dir, name), nil, 0o600); err != nil {
			t.Logf("this file system does not take %q: %v", name, err)
		}
	}
	if got := keys(t, b); !slices.Equal(got, []string{"a"}) {
		t.Errorf("List shows %q", got)
	}
	must(t, b.Put(t.Context(), "d/x", nil))
	for _, key := range []string{"d", "a/x"} { // a directory for a file, and a file for a directory
		if err := b.Put(t.Context(), key, nil); store.CodeOf(err) != store.Invalid {
			t.Errorf("Put(%q) = %v, want invalid", key, err)
		}
		if err := b.PutIfAbsent(t.Context(), key, nil); store.CodeOf(err) != store.Invalid {
			t.Errorf("PutIfAbsent(%q) = %v, want invalid", key, err)
		}
	}
}

func TestSymlinks(t *testing.T) {
	b := open(t)
	ctx := t.Context()
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600))
	must(t, b.Put(ctx, "real/x", []byte("x")))
	for name, target := range map[string]string{
		"dir": outside, "file": filepath.Join(outside, "secret"), "up": "../../", "inside": "real/x", "insidedir": "real", "loop": "loop",
	} {
		if err := os.Symlink(target, filepath.Join(b.dir, name)); err != nil {
			t.Skipf("this system makes no symbolic links: %v", err)
		}
	}
	if got := keys(t, b); !slices.Equal(got, []string{"real/x"}) {
		t.Errorf("List shows %q", got)
	}
	for _, prefix := range []string{"dir/", "up/", "insidedir/", "loop/"} {
		for info, err := range b.List(ctx, prefix, "") {
			t.Errorf("List(%q) yields %v, %v", prefix, info, err)
		}
	}
	for _, key := range []string{"dir/secret", "file", "up/etc/passwd", "inside", "loop", "loop/x"} {
		if r, _, err := b.Open(ctx, key); err == nil {
			_ = r.Close()
			t.Errorf("Open(%q) follows a symbolic link", key)
		}
		if _, err := b.OpenRange(ctx, key, 0, 1); err == nil {
			t.Errorf("OpenRange(%q) follows a symbolic link", key)
		}
		if err := b.PutIfAbsent(ctx, key, []byte("x")); err == nil {
			t.Errorf("PutIfAbsent(%q) writes through a symbolic link", key)
		}
	}
	for _, key := range []string{"dir/new", "up/new", "loop/new"} {
		if err := b.Put(ctx, key, []byte("x")); store.CodeOf(err) != store.Permission && store.CodeOf(err) != store.Invalid {
			t.Errorf("Put(%q) through a symbolic link: %v", key, err)
		}
		if err := b.Delete(ctx, key); store.CodeOf(err) != store.Permission && store.CodeOf(err) != store.Invalid {
			t.Errorf("Delete(%q) through a symbolic link: %v", key, err)
		}
	}
	must(t, b.Put(ctx, "file", []byte("replaced"))) // the link itself, not what it points to
	got, err := os.ReadFile(filepath.Join(outside, "secret"))
	must(t, err)
	if string(got) != "secret" {
		t.Errorf("a file outside the store is now %q", got)
	}
	entries, err := os.ReadDir(outside)
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("the directory outside has %d entries, want 1", len(entries))
	}
}

// The file system fails in the middle of a commit: the name is not there, and nothing is left behind.
func TestCommitFails(t *testing.T) {
	b := open(t)
	boom := errors.New("boom")
	b.link = func(*os.Root, string, string) error { return boom }
	err := b.PutIfAbsent(context.Background(), "x", []byte("x"))
	if !errors.Is(err, boom) || store.CodeOf(err) != store.Unknown {
		t.Errorf("PutIfAbsent = %v", err)
	}
	if got := files(t, b); len(got) != 0 {
		t.Errorf("left are %q", got)
	}
}
