package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/jobs/lineage"
	"github.com/tablexport/tablexport/jobs/tracing"
)

// telemetry is what tells other systems of runs. Both are nil where the configuration does not ask for them: then nothing is dialled and nothing runs.
type telemetry struct {
	spans  *tracing.Tracing
	events *lineage.Emitter
}

// counts are what has become of spans and events since the process began.
type counts struct{ ended, sent, lost, delivered, undelivered atomic.Int64 }

// bySort gives them to the metrics.
func (c *counts) bySort() (spans, events map[string]int64) {
	return map[string]int64{"ended": c.ended.Load(), "sent": c.sent.Load(), "lost": c.lost.Load()},
		map[string]int64{"delivered": c.delivered.Load(), "lost": c.undelivered.Load()}
}

func (c *counts) span(state string, n int) {
	switch state {
	case "ended":
		c.ended.Add(int64(n))
	case "sent":
		c.sent.Add(int64(n))
	default:
		c.lost.Add(int64(n))
	}
}

func (c *counts) event(delivered bool) {
	if delivered {
		c.delivered.Add(1)
		return
	}
	c.undelivered.Add(1)
}

// startTelemetry starts what the configuration asks for, once. a.mu is held.
func (a *app) startTelemetry() error {
	if a.tells != nil {
		return nil
	}
	t := &telemetry{}
	if c := a.cfg.Telemetry.Traces; c != nil {
		roots, err := tlsRoots(a.cfg.Resolve(c.CAFile))
		if err != nil {
			return a.cfg.ProblemAt("telemetry.traces.ca_file", err.Error(), "name a PEM file with the certificate of the collector's authority")
		}
		// Its context is not a command's: spans of a run that was stopped are sent, too.
		t.spans, err = tracing.New(context.Background(), tracing.Options{URL: c.URL, HeaderFile: a.cfg.Resolve(c.HeaderFile), TLS: roots, Sample: float64(c.Percent) / 100,
			Timeout: c.Timeout.Or(0), Version: buildVersion(), Log: a.logger(), Count: a.counts.span})
		if err != nil {
			return a.cfg.ProblemAt("telemetry.traces", err.Error(), "")
		}
	}
	if c := a.cfg.Telemetry.Lineage; c != nil {
		roots, err := tlsRoots(a.cfg.Resolve(c.CAFile))
		if err != nil {
			return a.cfg.ProblemAt("telemetry.lineage.ca_file", err.Error(), "name a PEM file with the certificate of the catalog's authority")
		}
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.TLSClientConfig = roots
		t.events = lineage.New(lineage.Options{URL: c.URL, Namespace: c.Namespace, KeyFile: a.cfg.Resolve(c.KeyFile), Transport: transport, Timeout: c.Timeout.Or(0),
			Log: a.logger(), Done: a.counts.event})
	}
	a.tells = t
	return nil
}

// tlsRoots is nil where no file is named: then the system's authorities count.
func tlsRoots(file string) (*tls.Config, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in PEM form", file)
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}

// telemetryTime bounds how long the program's end waits for a collector or a catalog.
const telemetryTime = 5 * time.Second

// end sends what waits.
func (t *telemetry) end() {
	ctx, cancel := context.WithTimeout(context.Background(), telemetryTime)
	defer cancel()
	if t.events != nil {
		t.events.Close(ctx)
	}
	if t.spans != nil {
		t.spans.Close(ctx)
	}
}

// tracer makes the spans of runs and requests; nil without traces. a.mu is held.
func (a *app) tracer() (trace.Tracer, error) {
	if err := a.startTelemetry(); err != nil || a.tells.spans == nil {
		return nil, err
	}
	return a.tells.spans.Tracer(), nil
}

// observer tells a data catalog of runs; nil without lineage.
func (a *app) observer() (func(jobs.News), error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.startTelemetry(); err != nil || a.tells.events == nil {
		return nil, err
	}
	events := a.tells.events
	return func(n jobs.News) { events.Emit(lineageOf(n)) }, nil
}

// lineageOf is what a catalog learns of a run.
func lineageOf(n jobs.News) lineage.Event {
	e := lineage.Event{Type: lineage.Start, At: n.At, Run: n.Run, Job: n.Job.Name, About: n.Job.Description, Nominal: n.Nominal, Instance: n.Host, Table: n.Job.Table,
		Dataset: n.Dataset, Engine: engine(), Version: -1}
	if n.Began {
		return e
	}
	for _, f := range n.Columns {
		e.Columns = append(e.Columns, lineage.Column{Name: f.Name, Type: f.Type, Text: f.Comment()})
	}
	e.Version, e.Rows, e.Bytes = n.Result.Version, n.Result.Rows, n.Result.Bytes
	switch {
	case n.Err == nil:
		e.Type = lineage.Complete
	case n.Class == jobs.Canceled:
		e.Type, e.Class, e.Error = lineage.Abort, string(n.Class), n.Err.Error()
	default: // what is published all the same has a version
		e.Type, e.Class, e.Error = lineage.Fail, string(n.Class), n.Err.Error()
		if n.Result.Version >= 0 {
			e.Type = lineage.Complete
		}
	}
	return e
}

// interrupted tells of runs whose process died: each has told of its start. a.mu is held.
func (a *app) interrupted(dead []ledger.Run) error {
	if len(dead) == 0 || a.cfg.Telemetry.Lineage == nil {
		return nil
	}
	if err := a.startTelemetry(); err != nil {
		return err
	}
	for _, r := range dead {
		e := lineage.Event{Type: lineage.Abort, At: r.Ended, Run: r.ID, Job: r.Job, Table: r.Table, Dataset: r.Dataset, Engine: engine(), Version: -1, Error: r.Error}
		if j, ok := a.cfg.Jobs[r.Job]; ok {
			e.About = j.Description
			if i, ok := a.cfg.Instances[j.Instance]; ok {
				e.Instance = hostOf(i.URL)
			}
		}
		a.tells.events.Emit(e)
	}
	return nil
}

// hostOf is the host of an instance's address, with its port where it has one.
func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Host
}
