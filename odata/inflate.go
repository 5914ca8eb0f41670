package odata

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// zstdWindow is the largest window that a zstd answer may ask for: RFC 9659 forbids more in a content coding.
// It bounds the memory of a decoder, whatever a frame says.
const zstdWindow = 8 << 20

var errDamaged = errors.New("the compressed answer is damaged")

// inflater is a decompressor that can be used again.
type inflater struct {
	io.Reader
	free func() // to be used again
}

// inflaters are those that are idle, of one client.
type inflaters struct {
	gzip sync.Pool // *gzip.Reader
	zstd sync.Pool // *zstd.Decoder, which have no goroutines of their own
}

// newGzip reads the header of src.
func (i *inflaters) newGzip(src io.Reader) (inflater, error) {
	z, _ := i.gzip.Get().(*gzip.Reader)
	if z == nil {
		z = new(gzip.Reader)
	}
	if err := z.Reset(src); err != nil {
		return inflater{}, err
	}
	return inflater{z, func() { i.gzip.Put(z) }}, nil
}

func (i *inflaters) newZstd(src io.Reader) (inflater, error) {
	z, _ := i.zstd.Get().(*zstd.Decoder)
	var err error
	if z == nil {
		z, err = zstd.NewReader(src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
	} else {
		err = z.Reset(src)
	}
	if err != nil {
		return inflater{}, err
	}
	return inflater{z, func() {
		if z.Reset(nil) == nil {
			i.zstd.Put(z)
		}
	}}, nil
}

// inflation decompresses on a goroutine of its own, so that it overlaps with what is done with the content: it costs
// more than that. It is ahead by a few pieces.
type inflation struct {
	z     inflater
	full  chan piece
	empty chan []byte
	quit  chan struct{}
	done  chan struct{}
	bufs  *pieces

	now  piece  // being read
	rest []byte // of now

	panicked bool
}

// piece is some content and, behind it, the error that ended it.
type piece struct {
	buf []byte
	n   int
	err error
}

type pieces [4][64 << 10]byte

var piecePool = sync.Pool{New: func() any { return new(pieces) }}

func inflate(z inflater) *inflation {
	f := &inflation{
		z: z, full: make(chan piece, len(pieces{})), empty: make(chan []byte, len(pieces{})),
		quit: make(chan struct{}), done: make(chan struct{}), bufs: piecePool.Get().(*pieces),
	}
	for i := range f.bufs {
		f.empty <- f.bufs[i][:]
	}
	go f.run()
	return f
}

func (f *inflation) run() {
	defer close(f.done)
	for {
		var p piece
		select {
		case p.buf = <-f.empty:
		case <-f.quit:
			return
		}
		f.fill(&p)
		f.full <- p // there is room for all of them
		if p.err != nil {
			return
		}
	}
}

// fill reads until p is full, or something is there and the reader has nothing else.
func (f *inflation) fill(p *piece) {
	defer func() { // what a server sends must not be able to end the process
		if r := recover(); r != nil {
			f.panicked = true
			p.err = fmt.Errorf("%w (%T in the decompressor)", errDamaged, r)
		}
	}()
	for idle := 0; p.err == nil && p.n < len(p.buf) && (p.n == 0 || len(f.full) > 0); {
		var n int
		n, p.err = f.z.Read(p.buf[p.n:])
		p.n += n
		if idle++; n > 0 {
			idle = 0
		} else if idle == 100 && p.err == nil {
			p.err = io.ErrNoProgress
		}
	}
}

// Read implements io.Reader.
func (f *inflation) Read(to []byte) (int, error) {
	for len(f.rest) == 0 {
		if f.now.err != nil {
			return 0, f.now.err
		}
		if f.now.buf != nil {
			f.empty <- f.now.buf
		}
		f.now = <-f.full
		f.rest = f.now.buf[:f.now.n]
	}
	n := copy(to, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// close ends the goroutine. If the source may be waiting for the network, that wait must have been broken before.
func (f *inflation) close() {
	close(f.quit)
	<-f.done
	if !f.panicked {
		f.z.free()
	}
	piecePool.Put(f.bufs)
	f.bufs = nil
}
