package odata

import (
	"sync"
	"time"
)

// Encoding says how answers may be compressed on the wire.
type Encoding string

// The encodings.
//
// Identity costs neither side any work and five to seven times the bytes. Inflating gzip takes a core of the
// client some 300 MB/s of JSON at most, and compressing takes the server more; so gzip pays where the link carries
// less than that, and costs where it carries more. Auto measures which it is (see codings).
const (
	EncodingAuto     Encoding = "auto"
	EncodingIdentity Encoding = "identity"
	EncodingGzip     Encoding = "gzip"
	EncodingZstd     Encoding = "zstd"
)

// acceptCompressed offers what is cheapest to inflate first. A server that does not know zstd takes gzip.
const acceptCompressed = "zstd, gzip"

// codings chooses between compressed and plain answers, for one instance.
//
// It begins with what is safe: plain on a loopback, compressed elsewhere, where a link that is slow for plain answers
// costs more time than inflation can. Then it goes by what is seen. Now and then, if that has a prospect, one
// answer is asked for in the other coding; if it brings JSON at 1.25 times the rate of the answers before it, of the
// same scan, the choice changes for all. The prospect:
//
//	plain        more than half the time went by waiting for the wire, at less than 200 MB/s
//	compressed   JSON came at 25 MB/s or more. Below that the link is what limits, or nothing that a coding could change,
//	             and a plain answer would take several times as long
//
// The first trial is made after 8 answers; every trial that changes nothing makes the next 16 times rarer.
// Small answers count for nothing, nor do those that had to wait for the loop body.
type codings struct {
	mu       sync.Mutex
	accept   string // forced, "" = choose
	plain    bool
	noZstd   bool // it came, and could not be inflated
	trying   bool // a scan is
	seen     int  // answers since the last trial
	patience int  // answers before the next one
}

const (
	trialAfter   = 8
	trialRarer   = 16
	trialNever   = 1 << 24
	trialGain    = 1.25
	trialMeasure = 256 << 10 // bytes of JSON in an answer that says anything
	trialBefore  = 3         // answers of the same scan to compare with
	plainFast    = 200e6     // bytes of JSON per second
	packedFast   = 25e6
)

func newCodings(e Encoding, local bool) *codings {
	c := &codings{plain: local, patience: trialAfter}
	switch e {
	case EncodingIdentity:
		c.accept = "identity"
	case EncodingGzip, EncodingZstd:
		c.accept = string(e)
	}
	return c
}

// header is what Accept-Encoding says; other asks for the coding that is not the chosen one.
func (c *codings) header(other bool) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.accept != "":
		return c.accept
	case c.plain != other:
		return "identity"
	case c.noZstd:
		return "gzip"
	}
	return acceptCompressed
}

// dropZstd stops offering zstd, after an answer that could not be inflated: gzip may do better.
func (c *codings) dropZstd() {
	c.mu.Lock()
	c.noZstd = true
	c.mu.Unlock()
}

// transfer is how one answer came.
type transfer struct {
	packed bool
	json   int64         // bytes
	took   time.Duration // from asking to the last byte
	waited time.Duration // of this, for the wire
}

func (t transfer) rate() float64 { return float64(t.json) / max(t.took, time.Microsecond).Seconds() }

// pace is how fast the answers of one pass came lately, in one coding.
type pace struct {
	packed bool
	rate   float64 // bytes of JSON per second
	wire   bool    // the last one's time went by waiting for the wire
	n      int
}

func (p *pace) add(t transfer) {
	if p.n == 0 || p.packed != t.packed {
		*p = pace{packed: t.packed, rate: t.rate()}
	}
	p.rate += (t.rate() - p.rate) / 4
	p.wire = t.waited > t.took/2
	p.n++
}

// begin reports whether the next answer of a pass is to be asked for in the other coding. Then note must follow.
func (c *codings) begin(p *pace) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.accept != "" || c.trying || c.seen < c.patience || p.n < trialBefore {
		return false
	}
	if p.packed == c.plain { // the server does as it likes
		return false
	}
	c.trying = p.rate >= packedFast
	if c.plain {
		c.trying = p.rate < plainFast && p.wire
	}
	return c.trying
}

// note takes in how an answer came, {} if that says nothing, and reports whether the choice has changed.
func (c *codings) note(p *pace, t transfer, trial bool) (changed bool) {
	if !trial {
		if t.json > 0 {
			p.add(t)
			c.mu.Lock()
			c.seen++
			c.mu.Unlock()
		}
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trying, c.seen = false, 0
	if t.json > 0 && t.packed != p.packed && t.rate() >= trialGain*p.rate {
		c.plain = !t.packed
		c.patience = trialAfter
		return true
	}
	c.patience = min(c.patience*trialRarer, trialNever)
	return false
}
