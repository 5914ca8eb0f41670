//go:build linux || darwin

package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tablexport/tablexport/jobs/ledger"
)

// TestFullDisk: a full disk, as a limit on the size of files in a process of its own. It is said to be what it is, nobody is told to
// throw the history away, and the history is whole when there is room again.
func TestFullDisk(t *testing.T) {
	if mode := os.Getenv("LEDGER_FULL"); mode != "" {
		childFullDisk(t, mode, os.Getenv("LEDGER_PATH"))
		return
	}
	for _, mode := range []string{"while running", "from the beginning", "on opening"} {
		t.Run(mode, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ledger.db")
			if mode != "from the beginning" {
				if err := open(t, path).Start(t.Context(), ledger.Run{ID: "before", Job: "j", Process: "p", Started: time.Now()}); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFullDisk$", "-test.v")
			cmd.Env = append(os.Environ(), "LEDGER_FULL="+mode, "LEDGER_PATH="+path)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			l := open(t, path) // there is room again
			if err := l.Start(t.Context(), ledger.Run{ID: "after", Job: "j", Process: "p", Started: time.Now()}); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Get(t.Context(), "before"); (err == nil) == (mode == "from the beginning") {
				t.Errorf("the run that was there before: %v", err)
			}
		})
	}
}

func childFullDisk(t *testing.T, mode, path string) {
	signal.Ignore(unix.SIGXFSZ)
	limit := func(n uint64) {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: n, Max: n}); err != nil {
			t.Fatal(err)
		}
	}
	if mode != "while running" {
		limit(512)
	}
	l, err := ledger.Open(context.Background(), path)
	for i := 0; err == nil && i < 1000; i++ {
		if i == 5 {
			limit(64 << 10) // the log has some pages by now, and the index beside it 32 KiB
		}
		err = l.Start(context.Background(), ledger.Run{ID: fmt.Sprint(mode, i), Job: strings.Repeat("j", 2000), Process: "p", Started: time.Now()})
	}
	if !errors.Is(err, ledger.ErrDisk) && !errors.Is(err, ledger.ErrFull) || strings.Contains(err.Error(), "move") || errors.Is(err, ledger.ErrCorrupt) {
		t.Fatalf("the error of a full disk: %v", err)
	}
}
