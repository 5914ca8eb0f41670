//go:build linux || darwin

package extsort

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A full disk, as a limit on the size of files in a process of its own: the error says what to change, comes again,
// and no records are given that are not all of them.
func TestFullDisk(t *testing.T) {
	if os.Getenv("EXTSORT_FULL") == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFullDisk$", "-test.v")
		cmd.Env = append(os.Environ(), "EXTSORT_FULL=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	signal.Ignore(unix.SIGXFSZ)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 100_000, Max: 100_000}); err != nil {
		t.Fatal(err)
	}
	s := New(Options{Memory: 64 << 10, Dir: t.TempDir()})
	defer s.Close()
	var first error
	for i := 0; i < 100_000 && first == nil; i++ {
		first = s.Add([]byte{byte(i), byte(i >> 8), byte(i >> 16)}, []byte("value"))
	}
	if first == nil || !errors.Is(first, syscall.EFBIG) || !strings.Contains(first.Error(), "TMPDIR") {
		t.Fatal(first)
	}
	if err := s.Add([]byte("more"), nil); err != first {
		t.Errorf("then: %v", err)
	}
	for rec, err := range s.Sorted() {
		if err != first {
			t.Errorf("%q, %v", rec.Key, err)
		}
	}
}

// Without a directory to write to, the error names TMPDIR.
func TestNoDirectory(t *testing.T) {
	s := New(Options{Memory: 64 << 10, Dir: "/nowhere/at/all"})
	defer s.Close()
	var err error
	for i := 0; i < 10_000 && err == nil; i++ {
		err = s.Add([]byte("0123456789abcdef"), nil)
	}
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "TMPDIR") {
		t.Error(err)
	}
}
