//go:build unix

package filestore

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/storetest"
)

func TestPermissions(t *testing.T) {
	b := open(t)
	ctx := t.Context()
	must(t, b.Put(ctx, "d/put", nil))
	must(t, b.PutIfAbsent(ctx, "d/absent", nil))
	u, err := b.Create(ctx, "d/created")
	must(t, err)
	_, err = u.Commit(ctx)
	must(t, err)
	for _, name := range []string{"d/put", "d/absent", "d/created", "d"} {
		fi, err := os.Stat(filepath.Join(b.dir, name))
		must(t, err)
		want := fs.FileMode(fileMode)
		if fi.IsDir() {
			want = dirMode
		}
		if got := fi.Mode().Perm(); got&^want != 0 || got&0o600 != 0o600 {
			t.Errorf("%s has mode %v, want %v less the umask", name, got, want)
		}
	}
}

func noLinks(*os.Root, string, string) error { return &os.LinkError{Op: "link", Err: unix.EPERM} }

// A file system without hard links: the whole contract holds through renameat2, or nothing is written.
func TestWithoutHardLinks(t *testing.T) {
	if runtime.GOOS == "linux" {
		t.Run("renameat2", func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) store.Bucket {
				b := open(t)
				b.link = noLinks
				return b
			})
		})
	}
	b := open(t)
	b.link = noLinks
	b.rename = func(*os.Root, string, string) error {
		return &store.Error{Code: store.Refused, Op: "commit", Err: errNoAtomicCreate}
	}
	err := b.PutIfAbsent(t.Context(), "x", nil)
	if store.CodeOf(err) != store.Refused || !strings.Contains(err.Error(), "hard links") {
		t.Errorf("PutIfAbsent = %v, want refused and why", err)
	}
	if got := files(t, b); len(got) != 0 {
		t.Errorf("left are %q", got)
	}
}

func TestErrorCodes(t *testing.T) {
	for _, c := range []struct {
		errno unix.Errno
		want  store.Code
	}{
		{unix.ENOSPC, store.Full}, {unix.EDQUOT, store.Full}, {unix.EFBIG, store.Full}, {unix.EACCES, store.Permission},
		{unix.EPERM, store.Permission}, {unix.EROFS, store.Permission}, {unix.ENOENT, store.NotFound}, {unix.ENOTDIR, store.NotFound},
		{unix.EEXIST, store.AlreadyExists}, {unix.EIO, store.Unavailable}, {unix.ESTALE, store.Unavailable}, {unix.EMFILE, store.Unavailable},
		{unix.ENAMETOOLONG, store.Invalid}, {unix.EISDIR, store.Invalid}, {unix.ECHILD, store.Unknown},
	} {
		err := wrap("write", "k", &fs.PathError{Op: "write", Path: "k", Err: c.errno})
		if store.CodeOf(err) != c.want {
			t.Errorf("%v: code %v, want %v", c.errno, store.CodeOf(err), c.want)
		}
	}
	if wrap("write", "k", nil) != nil {
		t.Error("wrap makes an error of nil")
	}
}

// child runs a test of this binary in another process, with the environment variable FILESTORE_DIR.
func child(t *testing.T, test, dir string) *exec.Cmd {
	t.Helper()
	c := exec.Command(os.Args[0], "-test.run=^"+test+"$", "-test.v") // #nosec G204 -- this test itself
	c.Env = append(os.Environ(), "FILESTORE_DIR="+dir)
	return c
}

// TestFull writes until the system refuses: in a process whose files may not grow beyond 64 KiB, which the kernel reports as it does
// a full disk.
func TestFull(t *testing.T) {
	dir := os.Getenv("FILESTORE_DIR")
	if dir == "" {
		if out, err := child(t, "TestFull", t.TempDir()).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	signal.Ignore(unix.SIGXFSZ)
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 64 << 10, Max: 64 << 10}))
	b, err := Open(dir)
	must(t, err)
	must(t, b.Put(t.Context(), "old", []byte("old")))
	big := make([]byte, 100<<10)
	for what, err := range map[string]error{
		"Put":         b.Put(t.Context(), "old", big),
		"PutIfAbsent": b.PutIfAbsent(t.Context(), "new", big),
	} {
		if store.CodeOf(err) != store.Full {
			t.Errorf("%s = %v, want full", what, err)
		}
	}
	u, err := b.Create(t.Context(), "new")
	must(t, err)
	n, err := u.Write(big)
	if store.CodeOf(err) != store.Full || n != 64<<10 {
		t.Errorf("Write = %d, %v; want 64 KiB and full", n, err)
	}
	must(t, u.Abort(t.Context()))
	if got := files(t, b); !slices.Equal(got, []string{"old"}) {
		t.Errorf("left are %q, want the old object alone", got)
	}
}

// TestKilled kills a process that writes, again and again. Whatever is visible is whole: each object's key is the hash of its
// content. Then the sweeper removes everything else.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("FILESTORE_DIR"); dir != "" {
		writeForever(t, dir)
	}
	dir := t.TempDir()
	for round := range 8 {
		c := child(t, "TestKilled", dir)
		out, err := c.StdoutPipe()
		must(t, err)
		must(t, c.Start())
		_, _ = io.ReadFull(out, make([]byte, 1)) // it runs
		time.Sleep(time.Duration(20+17*round) * time.Millisecond)
		must(t, c.Process.Signal(syscall.SIGKILL))
		_ = c.Wait()
	}
	b, err := Open(dir)
	must(t, err)
	t.Cleanup(func() { _ = b.Close() })
	seen := keys(t, b)
	if len(seen) == 0 {
		t.Fatal("the processes have not written anything")
	}
	for _, key := range seen {
		p, err := b.root.ReadFile(key)
		must(t, err)
		if sum := sha256.Sum256(p); filepath.Base(key) != hex.EncodeToString(sum[:]) && key != "latest" {
			t.Errorf("%s is visible with %d bytes and not whole", key, len(p))
		}
		if key == "latest" && !bytes.HasSuffix(p, []byte("end")) {
			t.Errorf("%s is a torn replacement of %d bytes", key, len(p))
		}
	}
	left := len(files(t, b)) - len(seen)
	swept, err := b.SweepUploads(t.Context(), "", 0)
	must(t, err)
	if swept.Uploads != left || !slices.Equal(files(t, b), slices.Sorted(slices.Values(seen))) {
		t.Errorf("%d leftovers, swept %+v, now there are %d files for %d objects", left, swept, len(files(t, b)), len(seen))
	}
	t.Logf("%d objects, %d leftovers", len(seen), left)
}

func writeForever(t *testing.T, dir string) {
	b, err := Open(dir)
	must(t, err)
	fmt.Println("running")
	for i := 0; ; i++ {
		p := bytes.Repeat([]byte(fmt.Sprint(os.Getpid(), " ", i, "\n")), 5_000)
		sum := sha256.Sum256(p)
		name := hex.EncodeToString(sum[:])
		must(t, b.PutIfAbsent(t.Context(), "log/"+name, p))
		u, err := b.Create(t.Context(), fmt.Sprintf("parts/%d/%s", i%3, name))
		must(t, err)
		for chunk := range slices.Chunk(p, 8_000) {
			_, err := u.Write(chunk)
			must(t, err)
		}
		_, err = u.Commit(t.Context())
		must(t, err)
		must(t, b.Put(t.Context(), "latest", append(p, "end"...)))
	}
}

// A pipe in the store's directory does not make a reader wait for ever.
func TestPipe(t *testing.T) {
	b := open(t)
	must(t, unix.Mkfifo(filepath.Join(b.dir, "pipe"), 0o600))
	if _, _, err := b.Open(t.Context(), "pipe"); store.CodeOf(err) != store.Invalid || !errors.Is(err, errNotRegular) {
		t.Errorf("Open of a pipe = %v", err)
	}
	if got := keys(t, b); len(got) != 0 {
		t.Errorf("List shows %q", got)
	}
}
