package odata

import (
	"context"
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/tablexport/tablexport/odata/evidence"
)

// relay carries what a scan brings to the loop that ranges over it, so that the next page is on the wire and
// is decoded while the loop body works on this one. The scan runs on a goroutine of its own and is ahead of the loop by
// what fits in here, and by the one answer that it holds back until that has ended properly.
//
// Everything comes out in the order in which it went in. One goroutine pushes, another takes.
type relay struct {
	limit int64 // bytes; what exceeds it alone passes when there is nothing else

	mu    sync.Mutex
	queue []delivery
	load  int64 // bytes in the queue and in the loop body's hands
	ended bool

	room  chan struct{} // something was given back
	ready chan struct{} // something was pushed, or the scan has ended

	// Set before ended.
	err      error
	panicked any
	exited   bool // by runtime.Goexit
}

// delivery is a record or, where that is nil, word of progress.
type delivery struct {
	rec      arrow.Record
	progress Progress
	evidence evidence.Evidence // as it was when this was pushed
	cost     int64
}

// ahead is how much of what was decoded may wait for the loop body unless the query says otherwise: a page
// of 10,000 rows of sixty columns.
const ahead = 16 << 20

// deliveryCost is what a delivery costs beside its record. It bounds the number of those that bring none, for
// which there always is room of their own: word of progress must not keep the next page from being asked for.
const (
	deliveryCost = 1 << 10
	progressRoom = 64 * deliveryCost
)

func newRelay(limit int64) *relay {
	return &relay{limit: max(limit, 0), room: make(chan struct{}, 1), ready: make(chan struct{}, 1)}
}

// produce runs the scan to its end. A panic is kept for whoever ranges over the records: it is theirs to recover.
func (r *relay) produce(scan func() error, trace func(stack []byte)) {
	whole := false
	defer func() {
		if !whole {
			r.panicked = recover()
			r.exited = r.panicked == nil
			if r.panicked != nil {
				trace(debug.Stack())
			}
		}
		r.mu.Lock()
		r.ended = true
		r.mu.Unlock()
		signal(r.ready)
	}()
	r.err = scan()
	whole = true
}

// push waits until there is room. It takes over one reference to the record, also when it fails.
func (r *relay) push(ctx context.Context, d delivery) error {
	limit := r.limit
	if d.rec == nil {
		limit += progressRoom
	}
	d.cost = deliveryCost + recordSize(d.rec)
	for {
		if ctx.Err() != nil {
			d.release()
			return canceled(ctx)
		}
		r.mu.Lock()
		fits := r.load == 0 || r.load+d.cost <= limit
		if fits {
			r.load += d.cost
			r.queue = append(r.queue, d)
		}
		r.mu.Unlock()
		if fits {
			signal(r.ready)
			return nil
		}
		select {
		case <-r.room:
		case <-ctx.Done():
		}
	}
}

// next waits for the next delivery; false means that the scan has ended and everything was taken. What it
// returns is to be given back.
func (r *relay) next() (delivery, bool) {
	for {
		r.mu.Lock()
		if len(r.queue) > 0 {
			d := r.queue[0]
			r.queue[0] = delivery{}
			r.queue = r.queue[1:]
			r.mu.Unlock()
			return d, true
		}
		ended := r.ended
		r.mu.Unlock()
		if ended {
			return delivery{}, false
		}
		<-r.ready
	}
}

// giveBack releases a record and makes room.
func (r *relay) giveBack(d delivery) {
	d.release()
	r.mu.Lock()
	r.load -= d.cost
	r.mu.Unlock()
	signal(r.room)
}

// drain waits for the end of the scan and releases what nobody has taken.
func (r *relay) drain() {
	for {
		d, ok := r.next()
		if !ok {
			return
		}
		r.giveBack(d)
	}
}

// rethrow lets the loop's goroutine end as the scan's did.
func (r *relay) rethrow() {
	if r.panicked != nil {
		panic(r.panicked)
	}
	if r.exited {
		runtime.Goexit()
	}
}

func (d delivery) release() {
	if d.rec != nil {
		d.rec.Release()
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// recordSize is the memory that a record keeps alive.
func recordSize(rec arrow.Record) (size int64) {
	if rec == nil {
		return 0
	}
	for _, col := range rec.Columns() {
		for _, b := range col.Data().Buffers() {
			if b != nil {
				size += int64(b.Cap())
			}
		}
	}
	return size
}
