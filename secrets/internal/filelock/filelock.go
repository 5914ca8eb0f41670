// Package filelock takes advisory locks on files, between goroutines and between processes.
//
// The lock belongs to an open file, so the kernel releases it when the process dies: a crash never leaves a stale lock
// behind. It is advisory (only who asks respects it) and it is local: do not count on it on a network file system.
package filelock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// errBusy is what the platform's try function returns while somebody else holds the lock.
var errBusy = errors.New("filelock: held by another process")

// Lock is a held lock.
type Lock struct{ file *os.File }

// Exclusive locks path for one holder. It creates the file with mode 0600 if it is missing and never removes it
// (removing a lock file lets two holders in). It waits until the lock is free or ctx ends.
func Exclusive(ctx context.Context, path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return wait(ctx, f, true)
}

// Shared locks path together with other readers. The file must exist; reading permission is enough.
func Shared(ctx context.Context, path string) (*Lock, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return wait(ctx, f, false)
}

// wait polls: a blocking flock cannot be woken by a context.
func wait(ctx context.Context, f *os.File, exclusive bool) (*Lock, error) {
	pause := 200 * time.Microsecond
	for {
		err := try(f, exclusive)
		if err == nil {
			return &Lock{f}, nil
		}
		if !errors.Is(err, errBusy) {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: another process holds it: %w", f.Name(), ctx.Err())
		case <-time.After(pause):
			pause = min(pause*2, 10*time.Millisecond)
		}
	}
}

// Unlock releases the lock.
func (l *Lock) Unlock() { _ = l.file.Close() } // nothing was written: there is nothing that could be lost
