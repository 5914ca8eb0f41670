package main

import (
	"math"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/odata/simulator"
)

// A run sets a limit that follows what is in use, and leaves everything as it was; what the environment says counts more.
func TestSparing(t *testing.T) {
	limit := func() int64 { return debug.SetMemoryLimit(-1) }
	percent := func() int {
		p := debug.SetGCPercent(100)
		debug.SetGCPercent(p)
		return p
	}
	before, share := limit(), percent()
	if before != math.MaxInt64 || share != 100 {
		t.Skipf("a limit of %d and %d percent are set already", before, share)
	}
	restore := sparing(false)
	if limit() < leastLimit || limit() > 2<<30 || percent() != gcPercent {
		t.Errorf("a limit of %d and %d percent", limit(), percent())
	}
	held := make([]byte, 300<<20)
	for i := range held {
		held[i] = 1
	}
	runtime.GC()
	for end := time.Now().Add(20 * time.Second); limit() < 300<<20; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("300 MiB are in use, and the limit is %d", limit())
		}
	}
	runtime.KeepAlive(held)
	restore()
	if limit() != before || percent() != share {
		t.Errorf("afterwards a limit of %d and %d percent", limit(), percent())
	}
	first, second := sparing(false), sparing(false)
	first()
	if limit() == before {
		t.Error("the first run to end took the limit from the other one")
	}
	second()
	restore = sparing(true)
	if limit() != before || percent() != gcPercentLowMemory {
		t.Errorf("--low-memory: a limit of %d and %d percent", limit(), percent())
	}
	restore()
	t.Setenv("GOMEMLIMIT", "1GiB")
	restore = sparing(false)
	if limit() != before || percent() != gcPercentOwnLimit {
		t.Errorf("beside GOMEMLIMIT: a limit of %d and %d percent", limit(), percent())
	}
	restore()
	t.Setenv("GOGC", "70")
	restore = sparing(false)
	if limit() != before || percent() != share {
		t.Errorf("against the environment: a limit of %d and %d percent", limit(), percent())
	}
	restore()
	if limit() != before || percent() != share {
		t.Errorf("in the end a limit of %d and %d percent", limit(), percent())
	}
}

// A run that the clock starts is as sparing as one of `run`, and the serving program is as it was when no run is under way.
func TestServedRunsAreSparing(t *testing.T) {
	w := newWorld(t, simulator.Options{}).stage()
	var said buffer
	a, err := (&globals{stdio: stdio{strings.NewReader(""), &said, &said}, config: w.config}).open()
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	agenda, err := a.agenda(t.Context(), &sync.WaitGroup{})
	if err != nil {
		t.Fatal(err)
	}
	job, err := a.job("orders")
	if err != nil {
		t.Fatal(err)
	}
	before, most := debug.SetMemoryLimit(-1), int64(math.MaxInt64)
	req := jobs.Request{Job: job, Progress: func(jobs.Progress) { most = min(most, debug.SetMemoryLimit(-1)) }}
	if _, err := agenda.Run(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if most > 2<<30 || debug.SetMemoryLimit(-1) != before {
		t.Errorf("the limit was %d during the run, and is %d where it was %d", most, debug.SetMemoryLimit(-1), before)
	}
}

func TestLimit(t *testing.T) {
	for live, want := range map[uint64]int64{0: leastLimit, 60 << 20: leastLimit, 80 << 20: 120 << 20, 400 << 20: 600 << 20} {
		if got := limitFor(live); got != want {
			t.Errorf("%d MiB in use: a limit of %d MiB, want %d", live>>20, got>>20, want>>20)
		}
	}
}
