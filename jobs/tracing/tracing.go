// Package tracing sends the spans of runs to an OpenTelemetry collector, by OTLP over HTTP, with OpenTelemetry's own SDK. Runs and requests only know
// its API, which does nothing by itself.
//
// Nothing waits for the collector: spans that have ended wait in a bounded queue, are sent in batches, tried again for a bounded time, and are lost then,
// which is counted and logged.
//
// It is a leaf.
package tracing

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Options say where spans go. Zero values mean the defaults in parentheses.
type Options struct {
	URL        string        // of the collector, with its path: https://otel.acme.example/v1/traces
	HeaderFile string        // with one line "Name: value" that is sent along; read once
	TLS        *tls.Config   // nil: the system's authorities
	Sample     float64       // the share of runs that have spans (1)
	Timeout    time.Duration // of one try (10 s)
	Patience   time.Duration // for one batch, all tries (1 min)
	Version    string        // of this program
	Log        *slog.Logger
	Count      func(state string, n int) // "ended", "sent" and "lost" spans; may be nil
}

const (
	queueSpans = 4096
	batchSpans = 256
)

// Tracing is a running exporter.
type Tracing struct {
	provider *sdk.TracerProvider
	o        Options

	mu     sync.Mutex
	closed bool // what still comes back has been counted as lost
	ended  int
	told   int // of those ended, as sent or as lost
}

// New starts an exporter. It dials nothing before there are spans.
func New(ctx context.Context, o Options) (*Tracing, error) {
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Patience <= 0 {
		o.Patience = time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Count == nil {
		o.Count = func(string, int) {}
	}
	if o.Sample == 0 {
		o.Sample = 1
	}
	headers := map[string]string{}
	if o.HeaderFile != "" {
		name, value, err := readHeader(o.HeaderFile)
		if err != nil {
			return nil, err
		}
		headers[name] = value
	}
	options := []otlptracehttp.Option{
		otlptracehttp.WithEndpointURL(o.URL), otlptracehttp.WithHeaders(headers), otlptracehttp.WithTimeout(o.Timeout), otlptracehttp.WithCompression(otlptracehttp.GzipCompression),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: true, InitialInterval: time.Second, MaxInterval: 15 * time.Second, MaxElapsedTime: o.Patience}),
	}
	if o.TLS != nil {
		options = append(options, otlptracehttp.WithTLSClientConfig(o.TLS))
	}
	t := &Tracing{o: o}
	exporter, err := otlptrace.New(ctx, otlptracehttp.NewClient(options...))
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", t.discreet(err))
	}
	t.provider = sdk.NewTracerProvider(
		sdk.WithSampler(sdk.ParentBased(sdk.TraceIDRatioBased(o.Sample))),
		sdk.WithSpanProcessor(&counting{SpanProcessor: sdk.NewBatchSpanProcessor(&watched{SpanExporter: exporter, t: t},
			sdk.WithMaxQueueSize(queueSpans), sdk.WithMaxExportBatchSize(batchSpans), sdk.WithBatchTimeout(5*time.Second), sdk.WithExportTimeout(o.Patience)), t: t}),
		sdk.WithResource(resource.NewSchemaless(attribute.String("service.name", "tablexport"), attribute.String("service.version", o.Version))),
		sdk.WithRawSpanLimits(sdk.SpanLimits{AttributeCountLimit: 32, AttributeValueLengthLimit: 1024, EventCountLimit: 8, LinkCountLimit: 1}),
	)
	return t, nil
}

// Tracer makes spans.
func (t *Tracing) Tracer() trace.Tracer {
	return t.provider.Tracer("github.com/tablexport/tablexport", trace.WithInstrumentationVersion(t.o.Version))
}

// Close sends what waits, until ctx ends; the rest is lost, and said to be.
func (t *Tracing) Close(ctx context.Context) {
	_ = t.provider.Shutdown(ctx) // what it could not send is missing in the count
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	if lost := t.ended - t.told; lost > 0 {
		t.told = t.ended
		t.o.Count("lost", lost)
		t.o.Log.Warn("spans were not sent", "spans", lost)
	}
}

// counting counts the spans that end.
type counting struct {
	sdk.SpanProcessor
	t *Tracing
}

func (c *counting) OnEnd(s sdk.ReadOnlySpan) {
	if s.SpanContext().IsSampled() {
		c.t.mu.Lock()
		c.t.ended++
		c.t.mu.Unlock()
		c.t.o.Count("ended", 1)
	}
	c.SpanProcessor.OnEnd(s)
}

// watched counts what arrives. An error is told here, and not to OpenTelemetry's global handler, which prints the whole address.
type watched struct {
	sdk.SpanExporter
	t *Tracing
}

func (w *watched) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := w.SpanExporter.ExportSpans(ctx, spans)
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	if w.t.closed { // Shutdown does not wait for a request that is on its way when its time is up
		return nil
	}
	w.t.told += len(spans)
	if err != nil {
		w.t.o.Count("lost", len(spans))
		w.t.o.Log.Warn("spans were not sent", "spans", len(spans), "error", w.t.discreet(err))
		return nil
	}
	w.t.o.Count("sent", len(spans))
	return nil
}

// discreet leaves the address out of the exporter's error, whose path may hold a key, and what the collector has answered, which may be anything.
func (t *Tracing) discreet(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	text, _, _ := strings.Cut(err.Error(), " (body: ")
	host := "the collector"
	if at, perr := url.Parse(t.o.URL); perr == nil && at.Host != "" {
		host = at.Host
	}
	return errors.New(strings.ReplaceAll(text, t.o.URL, host))
}

func readHeader(file string) (name, value string, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", "", fmt.Errorf("tracing: %w", err)
	}
	line := strings.TrimSpace(string(text))
	name, value, ok := strings.Cut(line, ":")
	name, value = strings.TrimSpace(name), strings.TrimSpace(value)
	if !ok || name == "" || value == "" || strings.ContainsAny(line, "\r\n") {
		return "", "", fmt.Errorf("tracing: %s must hold one line: Name: value", file)
	}
	return name, value, nil
}
