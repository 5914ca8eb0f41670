package odata

import (
	"context"
	"errors"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// mostSpans bounds the requests of a session that have a span: a scan of millions of rows has thousands of requests that are alike.
const mostSpans = 200

// requestSpan is one try of a request, named and described by OpenTelemetry's semantic conventions for HTTP clients, with one exception: there is no url.full,
// because the query holds filter values and keys.
type requestSpan struct{ span trace.Span }

func (s *Session) span(ctx context.Context, c *call) (context.Context, requestSpan) {
	if s.spans.Add(1) > mostSpans {
		return ctx, requestSpan{}
	}
	ctx, span := s.c.opts.Tracer.Start(ctx, http.MethodGet, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("http.request.method", http.MethodGet), attribute.String("server.address", s.c.instance.Hostname()), attribute.String("tablexport.table", c.table)))
	return ctx, requestSpan{span}
}

func (r requestSpan) answered(status int) {
	if r.span != nil {
		r.span.SetAttributes(attribute.Int("http.response.status_code", status))
	}
}

// end says what kind of error it was, and not its text, which may hold what the server has sent.
func (r requestSpan) end(err error) {
	if r.span == nil {
		return
	}
	if err != nil {
		kind := "error"
		switch {
		case errors.Is(err, context.Canceled):
			kind = "canceled"
		case errors.Is(err, ErrTruncated):
			kind = "truncated"
		}
		r.span.SetAttributes(attribute.String("error.type", kind))
		r.span.SetStatus(codes.Error, kind)
	}
	r.span.End()
}
