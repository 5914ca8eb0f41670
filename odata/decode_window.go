package odata

import (
	"io"
)

// pad is how many zero bytes stand behind the data of a window. A zero byte is no part of any JSON token,
// so every loop of the decoder stops at it without asking for the length, and loads of eight bytes (and the
// 38 of a quoted GUID) need no check of their own.
const pad = 64

const (
	windowSize = 256 << 10 // of a fresh window: enough that a row cut in two costs nothing
	windowKeep = 4 << 20   // a window that one huge row made larger than this is not kept for the next answer
)

// window is the part of an answer that is in memory: the bytes start to end of buf. Positions are indexes
// of buf and stay valid until more is called.
//
// Nothing here remembers a half-read token. What does not fit is read again from its start once more of it
// is there (see decoder.try): that keeps every parsing function a plain function of bytes, whatever the
// chunks of the network. Doubling what must be there before the next attempt keeps that linear.
type window struct {
	r          io.Reader
	buf        []byte // the last pad bytes are never data
	start, end int
	base       int64 // offset in the answer of buf[0]
	err        error // of r, once it has ended or failed
	size       int   // of a fresh buffer
}

func (w *window) reset(r io.Reader) {
	if len(w.buf) == 0 || len(w.buf) > windowKeep {
		w.buf = make([]byte, w.size)
	}
	*w = window{r: r, buf: w.buf, size: w.size}
	clear(w.buf[:pad])
}

// offset is the place of pos in the answer.
func (w *window) offset(pos int) int64 { return w.base + int64(pos) }

// bytes is how much of the answer has been read.
func (w *window) bytes() int64 { return w.base + int64(w.end) }

// data is what the parsing functions see: up to end, and the padding.
func (w *window) data() []byte { return w.buf[:w.end+pad] }

// more reads until there are at least twice as many unread bytes as now, or the reader has no more. It
// fails, with what the reader said (io.EOF for its end), only if it got nothing: what has come before an
// error is still worth decoding.
func (w *window) more() error {
	have := w.end - w.start
	if w.err == nil {
		w.makeRoom()
		w.fill(max(1, 2*have))
	}
	if w.end-w.start > have {
		return nil
	}
	return w.err
}

// makeRoom moves the unread bytes to the front, and into a larger buffer once they fill half of this one.
func (w *window) makeRoom() {
	buf := w.buf
	if have := w.end - w.start; 2*have+pad > len(buf) {
		buf = make([]byte, 2*len(buf))
	}
	if w.start > 0 || len(buf) != len(w.buf) {
		n := copy(buf, w.buf[w.start:w.end])
		w.base += int64(w.start)
		w.buf, w.start, w.end = buf, 0, n
	}
}

// fill reads until want bytes are unread or the reader ends.
func (w *window) fill(want int) {
	idle := 0
	for w.err == nil && w.end-w.start < want {
		n, err := w.r.Read(w.buf[w.end : len(w.buf)-pad])
		w.end += n
		w.err = err
		if idle++; n > 0 {
			idle = 0
		} else if idle == 100 && err == nil {
			w.err = io.ErrNoProgress
		}
	}
	clear(w.buf[w.end : w.end+pad])
}
