package parquet

import (
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/apache/arrow/go/v17/parquet/compress"
	"github.com/klauspost/compress/huff0"
	"github.com/klauspost/compress/zstd"
)

// The library's own codec builds a new encoder for every page, and spends a third of the time in clearing its
// memory. Ours keeps one encoder per level (it is safe for concurrent use and holds one state per worker) and
// writes a content checksum into every frame, so that a flipped bit is found when the page is read.
//
// The default level's encoder and the decoder are made when the program starts, not at first use: they hold channels, and a
// channel that was made inside a testing/synctest bubble cannot be used outside of it.
func init() {
	encoders[DefaultZstdLevel-1]().EncodeAll([]byte{0}, nil)
	compress.RegisterCodec(compress.Codecs.Zstd, zstdCodec{})
}

type zstdCodec struct{}

const (
	zstdLevels  = 4
	zstdEntropy = zstdLevels + 1 // a level of ours: a frame without sequences, see stored.go
	zstdWorkers = 8              // at most; a state of level 1 is about 256 KiB
)

var encoders = func() (all [zstdLevels]func() *zstd.Encoder) {
	for i := range all {
		level := zstd.EncoderLevel(i + 1)
		all[i] = sync.OnceValue(func() *zstd.Encoder {
			enc, err := zstd.NewWriter(nil,
				zstd.WithEncoderLevel(level),
				zstd.WithEncoderConcurrency(min(runtime.GOMAXPROCS(0), zstdWorkers)),
				zstd.WithWindowSize(1<<20),              // a page is about that long
				zstd.WithAllLitEntropyCompression(true), // level 1 stores texts without repeats as they are otherwise, GUIDs above all: twice as large
				zstd.WithZeroFrames(true),
				zstd.WithEncoderCRC(true))
			if err != nil {
				panic(err) // the options are constants
			}
			return enc
		})
	}
	return all
}()

var decoder = func() *zstd.Decoder {
	dec, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(min(runtime.GOMAXPROCS(0), zstdWorkers)),
		zstd.WithDecoderMaxMemory(1<<31))
	if err != nil {
		panic(err) // the options are constants
	}
	return dec
}()

// huffs are what the level zstdEntropy needs beside the text.
var huffs = sync.Pool{New: func() any { return &huff0.Scratch{} }}

func (zstdCodec) EncodeLevel(dst, src []byte, level int) []byte {
	if level == zstdEntropy {
		huff := huffs.Get().(*huff0.Scratch)
		defer huffs.Put(huff)
		return appendEntropy(dst[:0], src, huff)
	}
	if level < 1 || level > zstdLevels {
		level = DefaultZstdLevel
	}
	return encoders[level-1]().EncodeAll(src, dst[:0])
}

// compressTo appends src, compressed, to dst.
func compressTo(dst, src []byte, level int) []byte { return encoders[level-1]().EncodeAll(src, dst) }

func (c zstdCodec) Encode(dst, src []byte) []byte { return c.EncodeLevel(dst, src, DefaultZstdLevel) }

// Decode panics over a damaged frame, because the interface has no error; every caller in this package recovers.
func (zstdCodec) Decode(dst, src []byte) []byte {
	out, err := decoder.DecodeAll(src, dst[:0])
	if err != nil {
		panic(fmt.Errorf("a zstd page is damaged: %w", err))
	}
	return out
}

// CompressBound is ZSTD_COMPRESSBOUND of zstd.h, and room for the frame's checksum.
func (zstdCodec) CompressBound(n int64) int64 {
	bound := n + n>>8 + 32
	if n < 128<<10 {
		bound += (128<<10 - n) >> 11
	}
	return bound
}

func (zstdCodec) NewReader(r io.Reader) io.ReadCloser {
	dec, err := zstd.NewReader(r)
	if err != nil {
		return failingReader{err}
	}
	return dec.IOReadCloser()
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }
func (f failingReader) Close() error             { return nil }

func (c zstdCodec) NewWriter(w io.Writer) io.WriteCloser {
	enc, err := c.NewWriterLevel(w, DefaultZstdLevel)
	if err != nil {
		panic(err)
	}
	return enc
}

func (zstdCodec) NewWriterLevel(w io.Writer, level int) (io.WriteCloser, error) {
	if level < 1 || level > zstdLevels {
		level = DefaultZstdLevel
	}
	return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.EncoderLevel(level)), zstd.WithEncoderCRC(true))
}
