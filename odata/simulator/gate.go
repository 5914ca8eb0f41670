package simulator

import (
	"context"
	"errors"
	"sync"
)

// errTooMany says that the queue is full.
var errTooMany = errors.New("simulator: too many requests")

// gate is GlobalConcurrentRequests: so many requests at the same time, so many waiting behind them, 429 beyond.
type gate struct {
	slots chan struct{}
	queue int

	mu       sync.Mutex
	waiting  int
	inFlight int
	most     int
	tooMany  int64
}

func newGate(concurrency, queue int) *gate {
	return &gate{slots: make(chan struct{}, max(concurrency, 1)), queue: queue}
}

// enter waits for a slot. The returned function gives it back.
func (g *gate) enter(ctx context.Context) (leave func(), err error) {
	select {
	case g.slots <- struct{}{}:
		return g.entered(), nil
	default:
	}
	g.mu.Lock()
	if g.waiting >= g.queue {
		g.tooMany++
		g.mu.Unlock()
		return nil, errTooMany
	}
	g.waiting++
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		g.waiting--
		g.mu.Unlock()
	}()
	select {
	case g.slots <- struct{}{}:
		return g.entered(), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (g *gate) entered() func() {
	g.mu.Lock()
	g.inFlight++
	g.most = max(g.most, g.inFlight)
	g.mu.Unlock()
	return func() {
		g.mu.Lock()
		g.inFlight--
		g.mu.Unlock()
		<-g.slots
	}
}

func (g *gate) counts() (most int, tooMany int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.most, g.tooMany
}
