//go:build unix

package main

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tablexport/tablexport/odata/simulator"
)

// The serving program tells the same: the tick that a run is for, its trace in the log, and what became of a run that was stopped.
func TestTelemetryOfServe(t *testing.T) {
	t.Parallel()
	l := newListener(t)
	w := newWorld(t, simulator.Options{Behavior: simulator.Behavior{RowsPerSecond: 20}}).stage()
	w.edit("paging: {page_size: 50}, description: Orders of one shop", "paging: {page_size: 50}, description: Orders of one shop, schedule: {cron: \"0 5 * * *\", zone: UTC, late_within: 48h}")
	w.append(l.config() + "serve: {listen: \"127.0.0.1:0\", drain: 1s}\n")
	w.missed("shop", "UTC 0 5 * * *", time.Now().Add(-24*time.Hour))
	before := w.server.Stats().Rows // of the token's proof
	s := w.serve()
	until(t, "the start", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.events) > 0 && w.server.Stats().Rows > before
	})
	if code := s.end(syscall.SIGTERM); code != exitOK {
		t.Errorf("exit %d", code)
	}
	spans, events := l.take()
	if got := kinds(events); !slices.Equal(got, []string{"START", "ABORT"}) {
		t.Fatalf("%v", got)
	}
	facets := fmt.Sprint(events[0]["run"])
	if !strings.Contains(facets, "nominalStartTime:") || !strings.Contains(facets, "T05:00:00Z") {
		t.Errorf("the tick is missing: %s", facets)
	}
	traced := false
	for _, span := range spans {
		if span.Name == "run shop" {
			traced = strings.Contains(s.log.String(), fmt.Sprintf(`"trace":"%x"`, span.TraceId))
		}
	}
	if !traced {
		t.Errorf("the run's trace is not in the log, or not sent: %d spans\n%s", len(spans), s.log)
	}
}

// Nothing is sent, and nothing waits to be sent, where the configuration does not ask for it.
func TestTelemetryIsOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}).stage()
	var out, said buffer
	a, err := (&globals{stdio: stdio{strings.NewReader(""), &out, &said}, config: w.config}).open()
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	r, err := a.runner(t.Context(), []string{"shop"})
	if err != nil {
		t.Fatal(err)
	}
	if a.tells.spans != nil || a.tells.events != nil || r.Observe != nil || r.Tracer != nil {
		t.Errorf("%+v, %v", a.tells, r.Tracer)
	}
}
