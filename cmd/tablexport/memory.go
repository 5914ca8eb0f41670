package main

import (
	"os"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

// How much garbage may lie about before it is collected, in percent of what is in use. A run has a limit instead: collecting any earlier took a
// twentieth of its processor time. With --low-memory it is collected early. GOGC, where it is set, counts more.
const (
	gcPercent          = -1 // whatever lies about, up to the limit
	gcPercentOwnLimit  = 50 // where GOMEMLIMIT sets another limit, or none
	gcPercentLowMemory = 10
)

// leastLimit is what a run may take from the system before garbage is collected and unused memory given back: twice what a run of twenty
// columns has in use. Every run of some length comes up to it, so a run of an hour does not peak above one of a second. GOMEMLIMIT,
// where it is set, counts more.
const leastLimit = 112 << 20

// limitFor is the limit where so much is in use: never so little that the collector would have no end of work.
func limitFor(live uint64) int64 {
	return max(leastLimit, int64(live+live/2))
}

// spared counts who wants it: settings of the whole process come back when the last one ends.
var spared struct {
	mu    sync.Mutex
	users int
	back  func()
}

// sparing sets how early garbage is collected, and returns what sets it back.
func sparing(lowMemory bool) (restore func()) {
	spared.mu.Lock()
	defer spared.mu.Unlock()
	if spared.users++; spared.users == 1 {
		spared.back = spare(lowMemory)
	}
	return func() {
		spared.mu.Lock()
		defer spared.mu.Unlock()
		if spared.users--; spared.users == 0 {
			spared.back()
		}
	}
}

func spare(lowMemory bool) (back func()) {
	back = func() {}
	limited := os.Getenv("GOMEMLIMIT") != ""
	if os.Getenv("GOGC") == "" {
		percent := gcPercent
		switch {
		case lowMemory:
			percent = gcPercentLowMemory
		case limited:
			percent = gcPercentOwnLimit
		}
		before := debug.SetGCPercent(percent)
		back = func() { debug.SetGCPercent(before) }
	}
	if lowMemory || limited {
		return back
	}
	before := debug.SetMemoryLimit(leastLimit)
	done, percent := make(chan struct{}), back
	var watching sync.WaitGroup
	watching.Go(func() { watchLimit(done) })
	return func() {
		close(done)
		watching.Wait()
		debug.SetMemoryLimit(before)
		percent()
	}
}

// watchLimit lets the limit follow what is in use, until done is closed.
func watchLimit(done <-chan struct{}) {
	const (
		often = 200 * time.Millisecond
		step  = 4 << 20 // setting it stops the world for a moment
	)
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	limit := int64(leastLimit)
	ticks := time.NewTicker(often)
	defer ticks.Stop()
	for {
		select {
		case <-done:
			return
		case <-ticks.C:
		}
		metrics.Read(live)
		if want := limitFor(live[0].Value.Uint64()); want > limit || want < limit-step {
			limit = want
			debug.SetMemoryLimit(limit)
		}
	}
}
