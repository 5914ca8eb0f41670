//go:build unix

package odata

import (
	"syscall"
	"time"
)

// cpuTime is what this process has used of the processors so far: unlike the wall clock, it means the same on a busy machine.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
