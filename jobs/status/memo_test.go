package status

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tablexport/tablexport/export"
)

// A storm of readers is one reading; what was read lasts for its time; an error is not kept; a reader who leaves ends nothing; memory is bounded.
func TestMemo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memo[int]{keep: 10 * time.Second, wait: time.Minute, most: 3}
		var reads atomic.Int64
		slow := func(ctx context.Context) (int, error) {
			reads.Add(1)
			select {
			case <-time.After(time.Second):
				return 7, nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		gone, leave := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, leave)
		if _, err := m.get(gone, "a", slow); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		var storm sync.WaitGroup
		for range 100 {
			storm.Go(func() {
				if v, err := m.get(t.Context(), "a", slow); v != 7 || err != nil {
					t.Error(v, err)
				}
			})
		}
		storm.Wait()
		if n := reads.Load(); n != 1 {
			t.Errorf("%d readings", n)
		}
		time.Sleep(11 * time.Second)
		if _, err := m.get(t.Context(), "a", slow); err != nil || reads.Load() != 2 {
			t.Error(err, reads.Load())
		}
		wrong := errors.New("away")
		for range 2 {
			if _, err := m.get(t.Context(), "b", func(context.Context) (int, error) { reads.Add(1); return 0, wrong }); !errors.Is(err, wrong) {
				t.Error(err)
			}
		}
		if reads.Load() != 4 {
			t.Errorf("an error was kept: %d", reads.Load())
		}
		for i := range 50 {
			if _, err := m.get(t.Context(), fmt.Sprint(i), func(context.Context) (int, error) { return i, nil }); err != nil {
				t.Error(err)
			}
		}
		if len(m.entries) > 3 {
			t.Errorf("%d entries", len(m.entries))
		}
		// A store that hangs holds a page for its time only.
		if _, err := m.get(t.Context(), "hangs", func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// A page that many reload asks the store once.
func TestReloadStorm(t *testing.T) {
	s, _ := staged(t)
	var asked atomic.Int64
	open := s.Dataset
	s.Dataset = func(ctx context.Context, job string) (*export.Dataset, error) {
		asked.Add(1)
		return open(ctx, job)
	}
	h := Handler(s.Source, NewMetrics(s.Source), slog.New(slog.DiscardHandler))
	for range 20 {
		for _, path := range []string{"/jobs/orders/dataset", "/api/v1/jobs/orders/dataset"} {
			if code, _ := get(t, h, path); code != 200 {
				t.Errorf("%s: %d", path, code)
			}
		}
	}
	if n := asked.Load(); n > 5 { // a machine that takes ten seconds for this is allowed some
		t.Errorf("the store was asked %d times for 40 views", n)
	}
}

// A client that dribbles its headers or its body holds its own connection, for a bounded time, and nobody else up.
func TestSlowClients(t *testing.T) {
	s, h := staged(t)
	_ = s
	server := Server(h, slog.New(slog.DiscardHandler))
	if server.ReadHeaderTimeout <= 0 || server.ReadTimeout <= 0 || server.WriteTimeout <= 0 || server.IdleTimeout <= 0 || server.MaxHeaderBytes <= 0 || server.MaxHeaderBytes > 64<<10 {
		t.Errorf("%+v", server)
	}
	server.ReadHeaderTimeout, server.ReadTimeout = 200*time.Millisecond, 400*time.Millisecond // for the test's sake
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	at := "http://" + listener.Addr().String()
	var slow sync.WaitGroup
	for i := range 60 {
		begin := "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
		if i%2 == 1 {
			begin = "POST /api/v1/jobs/orders/run HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n"
		}
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, begin); err != nil {
			t.Fatal(err)
		}
		slow.Go(func() {
			defer conn.Close()
			done := make(chan struct{})
			go func() { // until the other side ends it
				defer close(done)
				_, _ = io.Copy(io.Discard, conn)
			}()
			for {
				select {
				case <-done:
					return
				case <-time.After(20 * time.Millisecond):
					_, _ = io.WriteString(conn, "x")
				}
			}
		})
	}
	resp, err := http.Get(at + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	slow.Wait() // or the test never ends
}
