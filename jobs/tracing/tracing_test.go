package tracing_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/tablexport/tablexport/jobs/tracing"
)

// counter counts spans by state.
type counter struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *counter) count(state string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[state] += n
}

func (c *counter) of(state string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[state]
}

// Spans arrive with their attributes and the header, as OTLP.
func TestSpansArrive(t *testing.T) {
	header := filepath.Join(t.TempDir(), "header")
	if err := os.WriteFile(header, []byte("Authorization: Bearer k\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var names []string
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := gzip.NewReader(r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		text, _ := io.ReadAll(body)
		var m collector.ExportTraceServiceRequest
		if err := proto.Unmarshal(text, &m); err != nil {
			t.Error(err)
		}
		if r.Header.Get("Authorization") != "Bearer k" || r.URL.Path != "/v1/traces" {
			t.Errorf("%s %v", r.URL.Path, r.Header)
		}
		for _, span := range m.ResourceSpans[0].ScopeSpans[0].Spans {
			names = append(names, span.Name)
		}
	}))
	defer s.Close()
	var c counter
	tr, err := tracing.New(t.Context(), tracing.Options{URL: s.URL + "/v1/traces", HeaderFile: header, Version: "1", Count: c.count})
	if err != nil {
		t.Fatal(err)
	}
	ctx, outer := tr.Tracer().Start(t.Context(), "outer")
	_, inner := tr.Tracer().Start(ctx, "inner")
	inner.End()
	outer.End()
	tr.Close(t.Context())
	if len(names) != 2 || c.of("ended") != 2 || c.of("sent") != 2 || c.of("lost") != 0 {
		t.Errorf("%v, %v", names, c.n)
	}
}

// A collector that hangs, refuses or is away holds nobody up: what does not arrive is counted and said, without the address' path.
func TestNobodyWaits(t *testing.T) {
	hang := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer hanging.Close()
	defer close(hang)
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "CANARY", http.StatusForbidden) }))
	defer refusing.Close()
	away := httptest.NewServer(nil)
	away.Close()
	for name, url := range map[string]string{"hanging": hanging.URL, "refusing": refusing.URL, "away": away.URL} {
		var c counter
		var log bytes.Buffer
		tr, err := tracing.New(t.Context(), tracing.Options{URL: url + "/CANARY", Patience: 100 * time.Millisecond, Timeout: 50 * time.Millisecond, Count: c.count, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		for range 10_000 { // more than any queue holds
			_, span := tr.Tracer().Start(t.Context(), "x")
			span.End()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		tr.Close(ctx)
		cancel()
		_, late := tr.Tracer().Start(t.Context(), "x")
		late.End() // the SDK makes none any more
		if c.of("ended") != 10_000 || c.of("sent") != 0 || c.of("lost") != 10_000 {
			t.Errorf("%s: %d ended, %d sent, %d lost", name, c.of("ended"), c.of("sent"), c.of("lost"))
		}
		if text := log.String(); !strings.Contains(text, "spans were not sent") || strings.Contains(text, "CANARY") {
			t.Errorf("%s: %s", name, text)
		}
	}
}

func TestBadHeader(t *testing.T) {
	for _, text := range []string{"", "no colon", "a: b\nc: d", ": x", "x:"} {
		file := filepath.Join(t.TempDir(), "header")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := tracing.New(t.Context(), tracing.Options{URL: "http://127.0.0.1:1/v1/traces", HeaderFile: file}); err == nil || !strings.Contains(err.Error(), "must hold one line") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
