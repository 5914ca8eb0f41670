package odata

import (
	"testing"
	"time"
)

// came is an answer of 10 MB of JSON at so many bytes a second.
func came(packed bool, rate, waiting float64) transfer {
	took := time.Duration(10e6 / rate * float64(time.Second))
	return transfer{packed: packed, json: 10e6, took: took, waited: time.Duration(waiting * float64(took))}
}

// trials lets answers come as given and returns after how many of them trials were made.
func trials(c *codings, p *pace, n int, chosen, other transfer) (at []int) {
	for i := range n {
		trial := c.begin(p)
		t := chosen
		if trial {
			at = append(at, i)
			t = other
		}
		if c.note(p, t, trial) {
			return at
		}
	}
	return at
}

func TestTrials(t *testing.T) {
	const link, idle = 0.9, 0.1 // of the time went by waiting
	for _, tt := range []struct {
		name          string
		local         bool
		chosen, other transfer
		trials        int
		plain         bool // at the end
	}{
		{"slow link: no trial", false, came(true, 20e6, link), came(false, 4e6, link), 0, false},
		{"link in between: rare trials, all lost", false, came(true, 100e6, link), came(false, 30e6, link), 2, false},
		{"noise changes nothing", false, came(true, 100e6, idle), came(false, 120e6, idle), 2, false},
		{"fast link", false, came(true, 200e6, idle), came(false, 600e6, idle), 1, true},
		{"server that does not compress", false, came(false, 100e6, link), came(false, 200e6, link), 0, false},
		{"fast plain link: no trial", true, came(false, 300e6, link), came(true, 900e6, link), 0, true},
		{"plain, and not the wire is slow: no trial", true, came(false, 100e6, idle), came(true, 900e6, idle), 0, true},
		{"plain on a slow link", true, came(false, 20e6, link), came(true, 90e6, link), 1, false},
		{"plain, and compression does not help", true, came(false, 100e6, link), came(true, 90e6, link), 2, true},
		{"plain, and the server does not compress", true, came(false, 100e6, link), came(false, 200e6, link), 2, true},
	} {
		c, p := newCodings(EncodingAuto, tt.local), new(pace)
		at := trials(c, p, 1000, tt.chosen, tt.other)
		if len(at) != tt.trials || c.plain != tt.plain {
			t.Errorf("%s: trials at %v, plain %v", tt.name, at, c.plain)
		}
		if len(at) == 2 && (at[0] != 8 || at[1] != 8+1+128) {
			t.Errorf("%s: trials at %v", tt.name, at)
		}
	}
}

// One scan tries at a time, by what it has seen itself; answers that say nothing count for nothing.
func TestTrialsAreAlone(t *testing.T) {
	c, a, b := newCodings(EncodingAuto, false), new(pace), new(pace)
	for range 20 {
		c.note(b, transfer{}, false)
	}
	if c.begin(b) {
		t.Error("a trial with nothing to compare with")
	}
	for range 8 {
		c.note(a, came(true, 100e6, 0), false)
	}
	if c.begin(b) || !c.begin(a) || c.begin(a) {
		t.Error("want one trial, of the scan that has seen answers")
	}
	if c.note(a, transfer{}, true) || c.plain || c.begin(a) { // the request failed
		t.Error("a failed trial has changed something")
	}
	if c.header(false) != "zstd, gzip" || c.header(true) != "identity" {
		t.Error(c.header(false), c.header(true))
	}
	c.dropZstd()
	if c.header(false) != "gzip" {
		t.Error(c.header(false))
	}
}
