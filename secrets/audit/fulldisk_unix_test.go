//go:build linux || darwin

package audit

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A full disk, as a limit on the size of files in a process of its own: the kernel writes what fits and refuses the rest.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	appendN(t, l, 3)
	before, _ := os.ReadFile(filePath(dir, 1))
	cmd := exec.Command(os.Args[0], "-test.run=^TestMain$")
	cmd.Env = append(os.Environ(), "AUDIT_TEST_CHILD=full", "AUDIT_TEST_DIR="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "could not be written to disk") {
		t.Fatalf("child: %v\n%s", err, out)
	}
	after, _ := os.ReadFile(filePath(dir, 1))
	if !bytes.Equal(before, after) {
		t.Errorf("the file is not as before: %d bytes, were %d", len(after), len(before))
	}
	appendN(t, l, 1)
	wantSound(t, dir, 4)
}

func childFullDisk(dir string) int {
	l, err := Open(dir)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	info, err := os.Stat(filePath(dir, 1))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	signal.Ignore(unix.SIGXFSZ)
	limit := unix.Rlimit{Cur: uint64(info.Size()) + 100, Max: uint64(info.Size()) + 100}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		fmt.Println(err)
		return 1
	}
	if _, err = l.Append(context.Background(), Entry{Actor: "child", Action: "lease", Outcome: OK}); err == nil {
		fmt.Println("appended to a full disk")
		return 1
	}
	fmt.Println(err)
	return 0
}
