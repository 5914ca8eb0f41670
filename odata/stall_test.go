package odata_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tablexport/tablexport/odata"
)

// openBody is an answer that fails when its request has ended, as one from the network does, and knows when that, or its own end, was.
type openBody struct {
	ctx    context.Context
	r      io.Reader
	opened time.Time
	mu     sync.Mutex
	closed time.Time
}

func (b *openBody) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	return b.r.Read(p)
}

func (b *openBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed.IsZero() {
		b.closed = time.Now()
	}
	return nil
}

// A writer that stands still for minutes, again and again, holds no connection of the ERP open meanwhile: the answer is ended after twenty seconds, and the scan goes on behind
// the last row. Every row comes once, in order, and the scan is proven complete.
func TestSlowStoreHoldsNoConnection(t *testing.T) {
	for _, paging := range []odata.Paging{odata.Stream, odata.Key} {
		synctest.Test(t, func(t *testing.T) {
			const n = 20_000
			var mu sync.Mutex
			var bodies []*openBody
			rt := small(n, func(r *http.Request, text string) *http.Response {
				b := &openBody{ctx: r.Context(), r: strings.NewReader(text), opened: time.Now()}
				mu.Lock()
				bodies = append(bodies, b)
				mu.Unlock()
				context.AfterFunc(r.Context(), func() { _ = b.Close() }) // net/http ends the connection then
				resp := reply(200, "application/json", "")
				resp.Body = b
				return resp
			})
			q := query(t, nil)
			q.Paging, q.Ahead = paging, 1
			scan := scanOf(t, client(t, rt), q)
			rows, next := 0, int32(1)
			for rec, err := range scan.Records(t.Context()) {
				if err != nil {
					t.Fatal(paging, err)
				}
				for _, id := range ids(rec) {
					if id != next {
						t.Fatalf("%s: row %d where %d is next", paging, id, next)
					}
					next++
				}
				if rows += int(rec.NumRows()); rows%4000 == 0 {
					time.Sleep(5 * time.Minute) // the store
				}
			}
			ev := scan.Evidence()
			if err := ev.Judge(); err != nil || rows != n {
				t.Errorf("%s: %d rows, %v", paging, rows, err)
			}
			stalled := 0
			for _, b := range bodies {
				synctest.Wait()
				b.mu.Lock()
				defer b.mu.Unlock()
				if b.closed.IsZero() {
					t.Errorf("%s: an answer was left open", paging)
				}
				open := b.closed.Sub(b.opened)
				if open > 30*time.Second {
					t.Errorf("%s: an answer was held open for %s", paging, open)
				}
				if open >= 20*time.Second {
					stalled++
				}
			}
			if paging == odata.Stream && stalled == 0 {
				t.Errorf("%d answers were ended: nothing was tried", stalled)
			}
			if r := ev.Retries; r != 0 {
				t.Errorf("%s: %d retries: the server has done nothing wrong", paging, r)
			}
		})
	}
}
