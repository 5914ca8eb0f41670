package filestore

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tablexport/tablexport/export/store"
)

// renameNoReplace renames within dir and fails with fs.ErrExist when the new name is taken: renameat2(2) with
// RENAME_NOREPLACE, which exFAT, FAT and several FUSE file systems have while they lack hard links.
func renameNoReplace(dir *os.Root, from, to string) error {
	d, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	raw, err := d.SyscallConn()
	if err != nil {
		return err
	}
	var renamed error
	if err := raw.Control(func(fd uintptr) {
		renamed = unix.Renameat2(int(fd), from, int(fd), to, unix.RENAME_NOREPLACE)
	}); err != nil {
		return err
	}
	if is(renamed, unix.EINVAL, unix.ENOSYS, unix.ENOTSUP, unix.EOPNOTSUPP) {
		return &store.Error{Code: store.Refused, Op: "commit", Key: to, Err: errNoAtomicCreate}
	}
	if renamed != nil {
		return &os.LinkError{Op: "renameat2", Old: from, New: to, Err: renamed}
	}
	return nil
}

var errNoAtomicCreate = errors.New("the file system has neither hard links nor renameat2 with RENAME_NOREPLACE, " +
	"so two writers could not be kept apart: put the store on a local file system (ext4, xfs, btrfs, zfs)")
