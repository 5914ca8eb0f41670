package odata

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"testing"
	"unsafe"

	"github.com/apache/arrow/go/v17/arrow"
)

func TestRecyclerClasses(t *testing.T) {
	last := 0
	for size := 1; size <= recycleMost; size += 1 + size/64 {
		class, room := classOf(size)
		if room < size || size > recycleLeast && room-size > size/3 || class < last {
			t.Fatalf("%d bytes: class %d of %d bytes, after class %d", size, class, room, last)
		}
		if again, same := classOf(room); again != class || same != room {
			t.Fatalf("%d bytes are of class %d, its %d bytes of class %d with %d", size, class, room, again, same)
		}
		last = class
		if roomOf(class) != room {
			t.Fatalf("class %d holds %d bytes, roomOf says %d", class, room, roomOf(class))
		}
	}
	if most := len(new(recycler).idle); last != most-1 {
		t.Fatalf("the last class is %d of %d", last, most)
	}
}

// TestRecycler allocates and frees at random: no two pieces overlap, each begins where arrow wants it, what is kept is bounded.
func TestRecycler(t *testing.T) {
	r, rng := new(recycler), rand.New(rand.NewPCG(1, 2))
	type held struct {
		b    []byte
		mark byte
	}
	var all []held
	for i := range 20_000 {
		switch {
		case len(all) > 0 && rng.IntN(2) == 0:
			k := rng.IntN(len(all))
			h := all[k]
			if !bytes.Equal(h.b, bytes.Repeat([]byte{h.mark}, len(h.b))) {
				t.Fatal("memory was handed out twice")
			}
			all[k] = all[len(all)-1]
			all = all[:len(all)-1]
			r.Free(h.b)
		case len(all) > 0 && rng.IntN(3) == 0:
			h := &all[rng.IntN(len(all))]
			from := len(h.b)
			h.b = r.Reallocate(from+rng.IntN(4*from+1), h.b)
			for k := from; k < len(h.b); k++ {
				h.b[k] = h.mark
			}
		case len(all) < 50:
			h := held{r.Allocate(1 + rng.IntN(1<<rng.IntN(18))), byte(i)}
			for k := range h.b {
				h.b[k] = h.mark
			}
			all = append(all, h)
		}
		for _, h := range all {
			if uintptr(unsafe.Pointer(unsafe.SliceData(h.b)))%64 != 0 {
				t.Fatal("a piece does not begin at a multiple of 64")
			}
		}
		if r.held < 0 || r.held > recycleIdle {
			t.Fatalf("%d bytes are kept", r.held)
		}
	}
}

// What came once and never again is let go, and what is used all the time is kept.
func TestRecyclerTrims(t *testing.T) {
	r := new(recycler)
	var once [][]byte
	for size := 8 << 10; size <= 1<<20; size += size / 8 {
		once = append(once, r.Allocate(size))
	}
	for _, b := range once {
		r.Free(b)
	}
	held := r.held
	const used = 300 << 10
	for range 3 * recycleTrim / used {
		r.Free(r.Allocate(used))
	}
	class, room := classOf(used)
	if held < 8<<20 || r.held != room || len(r.idle[class]) != 1 {
		t.Errorf("%d bytes were kept, and %d are, for what needs %d", held, r.held, room)
	}
	fresh := testing.AllocsPerRun(10, func() { r.Free(r.Allocate(used)) })
	if fresh != 0 {
		t.Errorf("what is used all the time takes new memory")
	}
}

// TestRecyclerIsUsed decodes a page over and over: only the first times take new memory.
func TestRecyclerIsUsed(t *testing.T) {
	d, err := newDecoder(benchTable(t), columnNames(benchTable(t)), 512, new(recycler))
	if err != nil {
		t.Fatal(err)
	}
	data := benchPage(2_000)
	decode := func() {
		if _, err := d.decode(bytes.NewReader(data), 0, func(arrow.Record) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		decode()
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 10 {
		decode()
	}
	runtime.ReadMemStats(&after)
	if grown := (after.TotalAlloc - before.TotalAlloc) / 10; grown > uint64(len(data)/8) {
		t.Fatalf("a page of %d bytes of JSON takes %d bytes of new memory", len(data), grown)
	}
}
