package odata

import (
	"maps"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
)

// Stats is what a client has done since it was made.
type Stats struct {
	Requests map[int]int64 // answers by status; 0 = there was none
	Waited   time.Duration // for a turn: for the limits of requests at once and per minute
	Latency  time.Duration // of all answers together: from the request to the first byte of its answer
	InFlight int           // requests under way, at most Options.Concurrency
	Breaker  BreakerState
}

// BreakerState is whether an instance is asked.
type BreakerState string

// The states of a breaker.
const (
	BreakerClosed   BreakerState = "closed"    // it is asked
	BreakerHalfOpen BreakerState = "half-open" // one trial
	BreakerOpen     BreakerState = "open"      // it is left alone
)

// counters are what Stats is made of.
type counters struct {
	mu       sync.Mutex
	requests map[int]int64
	waited   time.Duration
	latency  time.Duration
}

func (c *counters) answered(status int, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.requests == nil {
		c.requests = map[int]int64{}
	}
	c.requests[status]++
	if status != 0 {
		c.latency += took
	}
}

func (c *counters) wait(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waited += d
}

// Stats returns the client's counters.
func (c *Client) Stats() Stats {
	c.counters.mu.Lock()
	defer c.counters.mu.Unlock()
	s := Stats{Requests: maps.Clone(c.counters.requests), Waited: c.counters.waited, Latency: c.counters.latency, InFlight: len(c.slots), Breaker: BreakerClosed}
	switch c.breaker.State() {
	case gobreaker.StateOpen:
		s.Breaker = BreakerOpen
	case gobreaker.StateHalfOpen:
		s.Breaker = BreakerHalfOpen
	}
	return s
}
