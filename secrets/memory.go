package secrets

import (
	"bytes"
	"runtime"
)

// place is where a token's bytes are. Where the system lets us, that is a page of its own, outside of Go's heap: it is not swapped (mlock), it is not in a core
// dump (MADV_DONTDUMP) and not in a child (MADV_DONTFORK), the garbage collector never copies it, and it is overwritten and given back as soon as the token is wiped, or
// nobody has it any more.
//
// What that does not cover: an HTTP header is a Go string, which cannot be overwritten; one is made for each request, and lives until the garbage collector
// takes its memory again. So do the forms in which a vault's client and an identity provider take a secret. The units in configs/deploy forbid swap and
// core dumps for all of the process.
type place struct{ value []byte }

// keep moves a value there. The caller's is overwritten.
func keep(value []byte) *place {
	p := &place{value: page(len(value))}
	if p.value == nil {
		p.value = bytes.Clone(value) // the heap is better than nothing
		clear(value)
		return p
	}
	copy(p.value, value)
	clear(value)
	runtime.AddCleanup(p, giveBack, p.value)
	return p
}

// wipe overwrites the value. The page itself goes when nobody has p any more: a second wipe must not meet it gone.
func (p *place) wipe() {
	clear(p.value)
	p.value = p.value[:0]
}

// giveBack overwrites a page, and returns it.
func giveBack(value []byte) {
	clear(value[:cap(value)])
	release(value)
}
