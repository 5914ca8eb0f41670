//go:build unix

package filestore

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tablexport/tablexport/export/store"
)

// syncDir makes the names in a directory durable: fsync(2) of a file does not reach the directory that names it.
func syncDir(dir *os.Root) error {
	d, err := dir.Open(".")
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		err = nil // the file system has no such operation; what it promises about names is all there is
	}
	return errors.Join(err, d.Close())
}

// noHardLinks says whether link(2) failed because the file system (or a policy) has no hard links.
func noHardLinks(err error) bool {
	return is(err, unix.EPERM, unix.ENOTSUP, unix.EOPNOTSUPP, unix.ENOSYS, unix.EMLINK, unix.EXDEV)
}

// isNotDirectory says that a directory was expected where there is a file.
func isNotDirectory(err error) bool { return is(err, unix.ENOTDIR) }

// systemCode translates what the portable errors of io/fs do not tell apart.
func systemCode(err error) (store.Code, bool) {
	switch {
	case is(err, unix.ENOSPC, unix.EDQUOT, unix.EFBIG):
		return store.Full, true
	case is(err, unix.EROFS):
		return store.Permission, true
	case is(err, unix.ENOTDIR): // "a/b" where "a" is an object
		return store.NotFound, true
	case is(err, unix.EISDIR, unix.ENAMETOOLONG, unix.ELOOP, unix.ENOTEMPTY):
		return store.Invalid, true
	case is(err, unix.EIO, unix.ESTALE, unix.EMFILE, unix.ENFILE, unix.ETIMEDOUT, unix.EBUSY, unix.EAGAIN, unix.ENOMEM):
		return store.Unavailable, true
	}
	return store.Unknown, false
}

func is(err error, numbers ...unix.Errno) bool {
	for _, n := range numbers {
		if errors.Is(err, n) {
			return true
		}
	}
	return false
}
