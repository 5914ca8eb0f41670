package odata

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
)

// repeating reads as text over and over, without an end, with a pause before each read.
type repeating struct {
	text  []byte
	pause time.Duration
	most  int // bytes of a read, 0 = any
	at    int
	total int
}

func (r *repeating) Read(p []byte) (int, error) {
	time.Sleep(r.pause)
	if r.most > 0 {
		p = p[:min(len(p), r.most)]
	}
	for i := range p {
		p[i] = r.text[r.at]
		r.at = (r.at + 1) % len(r.text)
	}
	r.total += len(p)
	return len(p), nil
}

func (r *repeating) Close() error { return nil }

// White space has an end before, between and behind the rows.
func TestEndlessWhiteSpace(t *testing.T) {
	for name, head := range map[string]string{
		"before all": ``, "before a member": `{`, "before the rows": `{"value":`, "before a row": `{"value":[`, "behind a row": `{"value":[{"A":1,"B":"x"}`,
		"behind a comma": `{"value":[{"A":1,"B":"x"},`, "behind the rows": `{"value":[]`, "behind all": `{"value":[]}`,
	} {
		space := &repeating{text: []byte(" \n\t\r")}
		_, err := decoderOf(t, smallTable(t), 0).decode(io.MultiReader(strings.NewReader(head), space), 0, func(arrow.Record) error { return nil })
		var bad *MalformedError
		if !errors.As(err, &bad) || space.total > 4<<20 {
			t.Errorf("%s: %v after %d bytes", name, err, space.total)
		}
	}
}

// Members of gzip that hold nothing have an end.
func TestEndlessEmptyMembers(t *testing.T) {
	var member bytes.Buffer
	if err := gzip.NewWriter(&member).Close(); err != nil {
		t.Fatal(err)
	}
	wire := &repeating{text: member.Bytes()}
	b, err := newBody(&http.Response{Header: http.Header{"Content-Encoding": {"gzip"}}, Body: wire}, new(inflaters), time.Minute, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	if _, err := io.ReadAll(b); !errors.Is(err, errDry) || describe(err) != errDry.Error() || wire.total > 2*mostDry {
		t.Errorf("%v after %d bytes", err, wire.total)
	}
}

// A byte a second is no answer; one that is merely slow is.
func TestCrawl(t *testing.T) {
	for _, tt := range []struct {
		most    int
		crawls  bool
		minutes int
	}{{1, true, 11}, {50, true, 11}, {200, false, 60}} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			wire := &repeating{text: []byte("x"), pause: time.Second, most: tt.most}
			b, err := newBody(&http.Response{Header: http.Header{}, Body: wire}, new(inflaters), time.Minute, cancel)
			if err != nil {
				t.Fatal(err)
			}
			defer b.close()
			start := time.Now()
			_, err = io.CopyN(io.Discard, b, int64(tt.minutes)*60*int64(tt.most))
			if ctx.Err() != nil || errors.Is(err, errCrawls) != tt.crawls || time.Since(start) > time.Duration(tt.minutes)*time.Minute+time.Second {
				t.Errorf("%d bytes a second: %v after %v", tt.most, err, time.Since(start))
			}
		})
	}
}
