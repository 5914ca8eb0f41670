package main

import (
	"os"
	"runtime/debug"
)

// How much garbage may lie about before it is collected, in percent of what is in use. Records are used again, so little of it is
// made: collecting it early costs next to nothing, and the default of 100 would cost memory. GOGC, where it is set, counts more.
const (
	gcPercent          = 50
	gcPercentLowMemory = 10
)

// sparing sets how early garbage is collected, and returns what sets it back.
func sparing(lowMemory bool) (restore func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	percent := gcPercent
	if lowMemory {
		percent = gcPercentLowMemory
	}
	before := debug.SetGCPercent(percent)
	return func() { debug.SetGCPercent(before) }
}
