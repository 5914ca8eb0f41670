package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"
)

// What can be wrong with the file. They are in the errors of every function here, beside what SQLite or the system says.
var (
	// ErrNotFound says that there is no run of that id.
	ErrNotFound = errors.New("ledger: no such run")
	// ErrFull says that the disk is full, or that a quota is used up (SQLITE_FULL, ENOSPC, EDQUOT, EFBIG).
	ErrFull = errors.New("the disk is full or a quota is used up; make room")
	// ErrDisk says that the disk failed (SQLITE_IOERR). SQLite calls a limit on the size of files this, too.
	ErrDisk = errors.New("the disk could not be read or written; see that there is room, and that it is sound")
	// ErrAccess says that the file may not be opened or written (SQLITE_CANTOPEN, SQLITE_READONLY, SQLITE_PERM, EROFS, EACCES).
	ErrAccess = errors.New("the file cannot be opened or written; look at owner, mode and mount of its directory")
	// ErrBusy says that another process has kept the file locked for ten seconds.
	ErrBusy = errors.New("another process keeps the file locked; try again")
	// ErrCorrupt says that the file is damaged, or no SQLite database (SQLITE_CORRUPT, SQLITE_NOTADB).
	ErrCorrupt = errors.New("the file is damaged or no ledger; no data is lost with it: move it away, its -wal and -shm beside it too, and it is made anew")
)

// fail adds the place and what it means to err; doing is "start run".
func (l *Ledger) fail(doing string, err error) error {
	if fact := meaning(err); fact != nil {
		return fmt.Errorf("ledger: %s: %s: %w: %w", doing, l.path, fact, err)
	}
	return fmt.Errorf("ledger: %s: %s: %w", doing, l.path, err)
}

// meaning finds the fact in err, nil if it is none of ours. The numbers: https://sqlite.org/rescode.html; the low byte of
// an extended result code is the primary one.
func meaning(err error) error {
	var s *sqlite.Error
	if errors.Is(err, ErrCorrupt) {
		return nil // it is said already
	}
	if errors.As(err, &s) {
		switch s.Code() & 0xff {
		case lib.SQLITE_FULL:
			return ErrFull
		case lib.SQLITE_IOERR:
			return ErrDisk
		case lib.SQLITE_CANTOPEN, lib.SQLITE_READONLY, lib.SQLITE_PERM:
			return ErrAccess
		case lib.SQLITE_BUSY, lib.SQLITE_LOCKED:
			return ErrBusy
		case lib.SQLITE_CORRUPT, lib.SQLITE_NOTADB:
			return ErrCorrupt
		}
		return nil
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return ErrFull
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR):
		return ErrAccess
	}
	return nil
}
