package status

import (
	"context"
	"sync"
	"time"
)

// memo keeps what was read from a store for a few seconds, so that a page that many people reload asks the store once. It is safe for concurrent
// use: whoever comes while it is read waits for the same answer. Errors are not kept.
type memo[T any] struct {
	keep time.Duration
	most int           // entries
	wait time.Duration // for one reading, whoever has asked for it

	mu      sync.Mutex
	entries map[string]*remembered[T]
}

type remembered[T any] struct {
	done  chan struct{} // closed when it was read
	value T
	err   error
	until time.Time
}

func (m *memo[T]) get(ctx context.Context, key string, read func(context.Context) (T, error)) (T, error) {
	m.mu.Lock()
	e, known := m.entries[key]
	if known {
		select {
		case <-e.done:
			known = e.err == nil && time.Now().Before(e.until)
		default: // it is being read
		}
	}
	if !known {
		e = &remembered[T]{done: make(chan struct{})}
		if m.entries == nil {
			m.entries = map[string]*remembered[T]{}
		}
		m.drop()
		m.entries[key] = e
		go func() { // not the caller's to end: others may wait for it
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.wait)
			defer cancel()
			defer close(e.done)
			e.value, e.err = read(ctx)
			e.until = time.Now().Add(m.keep)
		}()
	}
	m.mu.Unlock()
	select {
	case <-e.done:
		return e.value, e.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// drop makes room: what is over goes first, then anything. mu is held.
func (m *memo[T]) drop() {
	if len(m.entries) < m.most {
		return
	}
	for key, e := range m.entries {
		select {
		case <-e.done:
			if e.err != nil || time.Now().After(e.until) {
				delete(m.entries, key)
			}
		default:
		}
	}
	for key := range m.entries {
		if len(m.entries) < m.most {
			return
		}
		delete(m.entries, key) // whoever waits for it has it still
	}
}
