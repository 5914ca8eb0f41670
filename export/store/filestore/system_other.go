//go:build !unix

package filestore

import (
	"errors"
	"os"
	"syscall"

	"github.com/tablexport/tablexport/export/store"
)

// syncDir does nothing: directories cannot be synced here.
func syncDir(*os.Root) error { return nil }

// noHardLinks says whether linking failed because the file system has no hard links. On Windows that is
// ERROR_INVALID_FUNCTION (1) or ERROR_NOT_SUPPORTED (50).
func noHardLinks(err error) bool {
	var n syscall.Errno
	return errors.As(err, &n) && (n == 1 || n == 50)
}

// isNotDirectory says that a directory was expected where there is a file.
func isNotDirectory(err error) bool { return errors.Is(err, syscall.ENOTDIR) }

// systemCode translates what the portable errors of io/fs do not tell apart. On Windows ERROR_HANDLE_DISK_FULL is 39 and
// ERROR_DISK_FULL 112.
func systemCode(err error) (store.Code, bool) {
	var n syscall.Errno
	switch {
	case errors.As(err, &n) && (n == 39 || n == 112):
		return store.Full, true
	case isNotDirectory(err):
		return store.NotFound, true
	}
	return store.Unknown, false
}
