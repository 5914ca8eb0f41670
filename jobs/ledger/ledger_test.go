package ledger_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tablexport/tablexport/jobs/ledger"
)

func open(t *testing.T, path string) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestRunLife(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state with space", "ledger.db")
	l := open(t, path)
	start := time.Date(2026, 11, 21, 5, 15, 0, 1000, time.UTC)
	r := ledger.Run{ID: "r1", Job: "order-lines", Table: "Crm_Sales_Order_Lines", Dataset: "/lake/x", Process: "h:1:1", Started: start}
	if err := l.Start(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	r.State, r.Rows, r.Version, r.Ended, r.Evidence = ledger.Succeeded, 42, 3, start.Add(time.Minute), `{"rows":42}`
	if err := l.Finish(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	got, err := l.Get(t.Context(), "r1")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(r, got); d != "" {
		t.Error(d)
	}
	if err := l.Finish(t.Context(), r); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("a finished run was finished again: %v", err)
	}
	if _, err := l.Get(t.Context(), "none"); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the file: %v %v", info.Mode(), err)
	}
	// Opened again, everything is there.
	if runs, err := open(t, path).List(t.Context(), ledger.Query{Job: "order-lines"}); err != nil || len(runs) != 1 {
		t.Errorf("%v %v", runs, err)
	}
}

func TestInterrupt(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "ledger.db"))
	for i, process := range []string{"dead", "alive"} {
		if err := l.Start(t.Context(), ledger.Run{ID: fmt.Sprint(i), Process: process, Started: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	dead, err := l.Interrupt(t.Context(), func(p string) bool { return p == "alive" })
	if err != nil || len(dead) != 1 || dead[0].ID != "0" {
		t.Fatalf("%v %v", dead, err)
	}
	if r, _ := l.Get(t.Context(), "0"); r.State != ledger.Interrupted || r.Error == "" {
		t.Errorf("%+v", r)
	}
	if r, _ := l.Get(t.Context(), "1"); r.State != ledger.Running {
		t.Errorf("%+v", r)
	}
}

func TestConcurrentWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	var wg sync.WaitGroup
	for w := range 4 {
		l := open(t, path)
		wg.Go(func() {
			for i := range 25 {
				r := ledger.Run{ID: fmt.Sprintf("%d-%d", w, i), Job: "j", Process: "p", Started: time.Now()}
				if err := l.Start(t.Context(), r); err != nil {
					t.Error(err)
				}
				r.State, r.Ended = ledger.Succeeded, time.Now()
				if err := l.Finish(t.Context(), r); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if runs, err := open(t, path).List(t.Context(), ledger.Query{State: ledger.Succeeded}); err != nil || len(runs) != 100 {
		t.Errorf("%d runs, %v", len(runs), err)
	}
}

// TestKill: a process that is killed in the middle of writing leaves a ledger that opens, with every finished write in it.
func TestKill(t *testing.T) {
	if path := os.Getenv("LEDGER_KILL"); path != "" {
		l, err := ledger.Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; ; i++ {
			if err := l.Start(t.Context(), ledger.Run{ID: fmt.Sprint(i), Job: "j", Process: "p", Started: time.Now()}); err != nil {
				t.Fatal(err)
			}
			fmt.Println("wrote", i)
		}
	}
	path := filepath.Join(t.TempDir(), "ledger.db")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKill$")
	cmd.Env = append(os.Environ(), "LEDGER_KILL="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last := -1
	for last < 20 {
		var n int
		if _, err := fmt.Fscanf(out, "wrote %d\n", &n); err != nil {
			t.Fatal(err)
		}
		last = n
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	l := open(t, path)
	for i := range last + 1 {
		if _, err := l.Get(t.Context(), fmt.Sprint(i)); err != nil {
			t.Errorf("run %d is lost: %v", i, err)
		}
	}
}

// A file that is no ledger, or a damaged one, says that it can be moved away; nothing else says so.
func TestCorruptFileSaysWhatToDo(t *testing.T) {
	text := filepath.Join(t.TempDir(), "ledger.db")
	if err := os.WriteFile(text, []byte("this is not a database, it is a text file of some length"), 0o600); err != nil {
		t.Fatal(err)
	}
	torn := filepath.Join(t.TempDir(), "ledger.db")
	if l, err := ledger.Open(t.Context(), torn); err != nil || l.Close() != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(torn)
	if err != nil {
		t.Fatal(err)
	}
	for i := 4096; i < len(whole); i++ {
		whole[i] = 0xa5
	}
	if err := os.WriteFile(torn, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{text, torn} {
		l, err := ledger.Open(t.Context(), path)
		if err == nil {
			_, err = l.List(t.Context(), ledger.Query{})
			l.Close()
		}
		if !errors.Is(err, ledger.ErrCorrupt) || !strings.Contains(err.Error(), "move it away") || !strings.Contains(err.Error(), path) {
			t.Errorf("%v", err)
		}
	}
}

func TestNoDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(file, "ledger.db"), filepath.Dir(file)} {
		if _, err := ledger.Open(t.Context(), path); !errors.Is(err, ledger.ErrAccess) || strings.Contains(err.Error(), "move it away") {
			t.Errorf("%s: %v", path, err)
		}
	}
}
