package jobs

import (
	"context"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/tablexport/tablexport/export/delta"
)

// News is what an observer is told of a run: that it began, and how it ended.
type News struct {
	Began   bool
	At      time.Time
	Job     Job
	Run     string
	Nominal time.Time // the tick that it is for; zero: it was asked for
	Host    string    // of the instance; "" if there is none of that name
	Dataset string    // its address

	// Of the end:
	Result  Result
	Columns []delta.Field // as they were to be published; nil if it did not come so far
	Err     error
	Class   Class // of Err
}

// tell tells the observer, if there is one.
func (x *run) tell(n News) {
	if x.Observe == nil {
		return
	}
	n.Job, n.Run, n.Nominal, n.Dataset = x.Job, x.id, x.Nominal, x.target
	if i, ok := x.Instances[x.Job.Instance]; ok {
		n.Host = i.Client.Host()
	}
	x.Observe(n)
}

// ended is the news of a run's end.
func (x *run) ended(at time.Time, err error) News {
	n := News{At: at, Result: x.result, Err: err}
	if err != nil {
		n.Class = Classify(err)
	}
	if x.plan != nil {
		n.Columns, _ = delta.FieldsOf(x.plan.Scope.Schema()) // a type that has none would have failed the run
	}
	return n
}

// mostSpans bounds the spans of a run, beside those of its requests: a backfill reads thousands of windows.
const mostSpans = 300

// spans are those of one run, as OpenTelemetry has them. They hold names, counts and classes; never a filter, a key, a value of a row or a credential.
type spans struct {
	tracer trace.Tracer
	left   atomic.Int64
}

func newSpans(t trace.Tracer) *spans {
	if t == nil {
		t = noop.NewTracerProvider().Tracer("")
	}
	s := &spans{tracer: t}
	s.left.Store(mostSpans)
	return s
}

// span begins a part of the run; end takes how it went. Beyond mostSpans there are no more parts, and what happens in them belongs to the
// part around them.
func (s *spans) span(ctx context.Context, name string, attrs ...attribute.KeyValue) (within context.Context, end func(error, ...attribute.KeyValue)) {
	if s.left.Add(-1) < 0 {
		return ctx, func(error, ...attribute.KeyValue) {}
	}
	within, span := s.tracer.Start(ctx, name, trace.WithAttributes(attrs...))
	return within, func(err error, attrs ...attribute.KeyValue) {
		span.SetAttributes(attrs...)
		failed(span, err)
		span.End()
	}
}

// failed marks a span. The text of our errors names places, never values.
func failed(span trace.Span, err error) {
	if err == nil {
		return
	}
	class := string(Classify(err))
	span.SetAttributes(attribute.String("error.type", class))
	span.SetStatus(codes.Error, class)
}

// whole is the span around all of a run.
func (x *run) begin(ctx context.Context) (within context.Context, end func(error)) {
	within, span := x.spans.tracer.Start(ctx, "run "+x.Job.Name, trace.WithNewRoot(), trace.WithAttributes(
		attribute.String("tablexport.job", x.Job.Name), attribute.String("tablexport.run", x.id),
		attribute.String("tablexport.instance", x.Job.Instance), attribute.String("tablexport.table", x.Job.Table)))
	if id := span.SpanContext(); id.IsSampled() {
		x.log = x.log.With("trace", id.TraceID().String())
	}
	return within, func(err error) {
		r := &x.result
		span.SetAttributes(attribute.String("tablexport.dataset", x.target), attribute.Int64("tablexport.version", r.Version), attribute.Int64("tablexport.rows", r.Rows),
			attribute.Int64("tablexport.bytes", r.Bytes), attribute.Int("tablexport.files", r.Files), attribute.Int("tablexport.attempts", r.Evidence.Attempts))
		if x.lease != nil {
			span.SetAttributes(attribute.Int64("tablexport.requests", x.lease.Requests()))
		}
		if left := x.spans.left.Load(); left < 0 {
			span.SetAttributes(attribute.Int64("tablexport.spans_left_out", -left))
		}
		failed(span, err)
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
}
