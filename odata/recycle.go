package odata

import (
	"math/bits"
	"slices"
	"sync"

	"github.com/apache/arrow/go/v17/arrow/memory"
)

// recycler is the memory of a scan's records. What a released record gives back is used for the next one, without being
// cleared and without waiting for the garbage collector: the decoder writes every byte that anybody may read. It implements
// arrow's memory.Allocator and is safe for concurrent use.
//
// Memory that is never given back (a record that nobody releases) is the collector's, as always. What has been given back must
// not be looked at any more: a text that arrow's arrays return is a view into it. Under the race detector it is overwritten
// at once, so that a test notices.
//
// What it keeps is what is used again: pieces of a class that were idle throughout a while are let go. Otherwise sizes that came
// once would stay for good, until nothing but them was kept.
type recycler struct {
	mu    sync.Mutex
	idle  [recycleClasses][][]byte
	least [recycleClasses]int // that were idle since the last trim
	held  int                 // bytes in idle
	freed int                 // bytes since the last trim
}

const (
	recycleLeast   = 1 << 10  // smaller pieces are not worth keeping
	recycleMost    = 4 << 20  // nor is what only a huge value needs
	recycleIdle    = 16 << 20 // bytes kept at most: about what a page and what is read ahead give back
	recycleTrim    = 24 << 20 // bytes given back between two trims: some pages
	recycleClasses = 12*4 + 1
)

// fresh memory begins where arrow wants it to, and has no more capacity than what was asked for.
var fresh = memory.NewGoAllocator()

// classOf is the class that holds size bytes, and the bytes that it holds: four classes per power of two.
func classOf(size int) (class, room int) {
	if size <= recycleLeast {
		return 0, recycleLeast
	}
	exp := bits.Len(uint(size-1)) - 1 // 2^exp < size <= 2^(exp+1), 2^exp >= 1024
	quarter := 1 << (exp - 2)
	parts := (size - 1<<exp + quarter - 1) / quarter // 1 to 4
	return (exp-10)*4 + parts, 1<<exp + parts*quarter
}

// Allocate implements memory.Allocator.
func (r *recycler) Allocate(size int) []byte {
	if size < recycleLeast || size > recycleMost {
		return fresh.Allocate(size)
	}
	class, room := classOf(size)
	r.mu.Lock()
	if list := r.idle[class]; len(list) > 0 {
		b := list[len(list)-1]
		list[len(list)-1] = nil
		r.idle[class] = list[:len(list)-1]
		r.least[class] = min(r.least[class], len(list)-1)
		r.held -= room
		r.mu.Unlock()
		return b[:size]
	}
	r.mu.Unlock()
	return fresh.Allocate(room)[:size]
}

// Reallocate implements memory.Allocator.
func (r *recycler) Reallocate(size int, b []byte) []byte {
	if size <= cap(b) {
		return b[:size]
	}
	grown := r.Allocate(size)
	copy(grown, b)
	r.Free(b)
	return grown
}

// Free implements memory.Allocator.
func (r *recycler) Free(b []byte) {
	b = b[:cap(b)]
	if poisoned {
		for i := range b {
			b[i] = 0xDB
		}
	}
	if len(b) < recycleLeast || len(b) > recycleMost {
		return
	}
	class, room := classOf(len(b))
	if room != len(b) { // not ours
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.freed += room; r.freed >= recycleTrim {
		r.trim()
	}
	if r.held+room <= recycleIdle {
		r.idle[class] = append(r.idle[class], b)
		r.held += room
	}
}

// trim lets go what was not used since the last time.
func (r *recycler) trim() {
	r.freed = 0
	for class, list := range r.idle {
		if n := r.least[class]; n > 0 {
			r.held -= n * roomOf(class)
			r.idle[class] = slices.Delete(list, 0, n)
		}
		r.least[class] = len(r.idle[class])
	}
}

// roomOf are the bytes that a class holds.
func roomOf(class int) int {
	if class == 0 {
		return recycleLeast
	}
	exp, parts := 10+(class-1)/4, (class-1)%4+1
	return 1<<exp + parts<<(exp-2)
}
