package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What the system says, as os wraps it.
func TestMeaning(t *testing.T) {
	l := &Ledger{path: "/state/ledger.db"}
	for _, c := range []struct {
		err  error
		want error
	}{
		{syscall.ENOSPC, ErrFull}, {syscall.EDQUOT, ErrFull}, {syscall.EFBIG, ErrFull}, {syscall.EROFS, ErrAccess}, {syscall.EACCES, ErrAccess},
		{syscall.ENOTDIR, ErrAccess}, {syscall.EIO, nil},
	} {
		err := l.fail("open", &fs.PathError{Op: "open", Path: "x", Err: c.err})
		if !errors.Is(err, c.err) || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), l.path) || errors.Is(err, ErrCorrupt) {
			t.Errorf("%v: %v", c.err, err)
		}
	}
}

// SQLite's own limit on the size of a file is reported as a full disk is.
func TestSQLiteFull(t *testing.T) {
	l, err := Open(t.Context(), filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	l.db.SetMaxOpenConns(1)
	if _, err := l.db.ExecContext(t.Context(), "PRAGMA max_page_count = 12"); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if err = l.Start(t.Context(), Run{ID: fmt.Sprint(i), Job: strings.Repeat("j", 2000), Process: "p", Started: time.Now()}); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "make room") || strings.Contains(err.Error(), "move it away") {
		t.Errorf("%v", err)
	}
}

// A ledger that is open to read only is not one that can be thrown away.
func TestSQLiteReadOnly(t *testing.T) {
	l, err := Open(t.Context(), filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	l.db.SetMaxOpenConns(1)
	if _, err := l.db.ExecContext(t.Context(), "PRAGMA query_only = 1"); err != nil {
		t.Fatal(err)
	}
	if err := l.Start(t.Context(), Run{ID: "1", Job: "j", Process: "p", Started: time.Now()}); !errors.Is(err, ErrAccess) || errors.Is(err, ErrCorrupt) {
		t.Errorf("%v", err)
	}
}
