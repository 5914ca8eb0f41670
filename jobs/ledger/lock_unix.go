//go:build unix

package ledger

import (
	"errors"
	"os"
	"syscall"
)

// lock keeps other processes out while the file is set up. The kernel releases it when the process dies.
func lock(f *os.File) error {
	for {
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
