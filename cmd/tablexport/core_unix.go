//go:build unix

package main

import "golang.org/x/sys/unix"

// noCore forbids core dumps of this process: tokens are kept out of them one by one (secrets), but headers and what a vault's client has
// read are on Go's heap. Whoever needs one raises the limit of the running process: prlimit --core=unlimited --pid PID.
func noCore() {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_CORE, &limit) == nil {
		limit.Cur = 0
		_ = unix.Setrlimit(unix.RLIMIT_CORE, &limit) // a system that does not let us has its own rules
	}
}
