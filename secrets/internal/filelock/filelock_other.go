//go:build (!unix || solaris || illumos || aix) && !windows

package filelock

import (
	"errors"
	"os"
)

// try refuses: without a lock between processes two of them could write at once, which must not go unnoticed.
func try(*os.File, bool) error {
	return errors.New("this operating system has no file locks that tablexport knows")
}
