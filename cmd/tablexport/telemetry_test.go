package main

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	v1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/odata/simulator"
)

// listener is a collector of spans and a catalog of lineage, in one.
type listener struct {
	t      *testing.T
	server *httptest.Server
	mu     sync.Mutex
	spans  []*v1.Span
	events []map[string]any
	raw    strings.Builder
	broken bool // nothing is taken
}

func newListener(t *testing.T) *listener {
	l := &listener{t: t}
	l.server = httptest.NewServer(l)
	t.Cleanup(l.server.Close)
	return l
}

func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if r.URL.Path != "/v1/traces" {
		body, _ := io.ReadAll(r.Body)
		event := map[string]any{}
		if err := json.Unmarshal(body, &event); err != nil {
			l.t.Error(err)
		}
		l.events = append(l.events, event)
		l.raw.Write(body)
		return
	}
	plain, err := gzip.NewReader(r.Body)
	if err != nil {
		l.t.Error(err)
		return
	}
	body, _ := io.ReadAll(plain)
	var m collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(body, &m); err != nil {
		l.t.Error(err)
	}
	l.raw.Write(body)
	for _, rs := range m.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			l.spans = append(l.spans, ss.Spans...)
		}
	}
}

// config is what makes the program tell the listener.
func (l *listener) config() string {
	return fmt.Sprintf("telemetry:\n  traces: {url: %q}\n  lineage: {url: %q, namespace: acme}\n", l.server.URL+"/v1/traces", l.server.URL+"/api/v1/lineage")
}

// take returns what has come since the last time.
func (l *listener) take() (spans []*v1.Span, events []map[string]any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	spans, events = l.spans, l.events
	l.spans, l.events = nil, nil
	return spans, events
}

func kinds(events []map[string]any) (list []string) {
	for _, e := range events {
		list = append(list, fmt.Sprint(e["eventType"]))
	}
	return list
}

func attributes(s *v1.Span) map[string]string {
	all := map[string]string{}
	for _, a := range s.Attributes {
		all[a.Key] = strings.Trim(fmt.Sprint(a.Value.GetValue()), "&{}")
	}
	return all
}

// A run is one trace, from its lease to its sweep, with its requests; a catalog learns of its start and its end. Neither holds a token, a filter's value, a key or a row.
func TestTelemetry(t *testing.T) {
	l := newListener(t)
	w := newWorld(t, simulator.Options{Tokens: []simulator.Token{{Value: canaryToken}}})
	w.append(l.config())
	w.mustWith(exitOK, canaryToken, "tokens", "stage", "bi/reader", "--activate")
	l.take()
	w.must(exitOK, "run", "shop")
	spans, events := l.take()
	names := map[string]int{}
	var root *v1.Span
	ids := map[string]bool{}
	for _, s := range spans {
		names[s.Name]++
		ids[string(s.TraceId)] = true
		if s.Name == "run shop" {
			root = s
		}
	}
	if root == nil || len(root.ParentSpanId) > 0 || len(ids) != 1 {
		t.Fatalf("%v in %d traces", names, len(ids))
	}
	for _, want := range []string{"lease dataset", "borrow token", "plan", "scan Crm_Sales_Orders", "commit", "sweep", "GET"} {
		if names[want] == 0 {
			t.Errorf("there is no span %q: %v", want, names)
		}
	}
	at := attributes(root)
	if at["tablexport.job"] != "shop" || !strings.Contains(at["tablexport.version"], "0") || at["tablexport.rows"] == "" || at["tablexport.run"] == "" || root.Status.GetCode() == v1.Status_STATUS_CODE_ERROR {
		t.Errorf("%v %v", at, root.Status)
	}
	if got := kinds(events); !slices.Equal(got, []string{"START", "COMPLETE"}) {
		t.Fatalf("%v", got)
	}
	run := events[1]["run"].(map[string]any)
	out := fmt.Sprint(events[1]["outputs"])
	if run["runId"] != events[0]["run"].(map[string]any)["runId"] || !strings.Contains(out, "rowCount") || !strings.Contains(out, "Sales_Order_Id") || !strings.Contains(out, filepath.Join(w.dir, "lake/shop")) {
		t.Errorf("%v", events)
	}

	// A foreign row, an instance that is away, and a revoked token.
	w.server.Inject(simulator.Fault{Nth: 1, Times: -1, Effect: simulator.ForeignRow(5)})
	w.must(exitScope, "run", "shop")
	w.server.ClearFaults()
	w.server.Revoke(canaryToken)
	w.must(exitCredential, "run", "shop")
	spans, events = l.take()
	if got := kinds(events); !slices.Equal(got, []string{"START", "FAIL", "START", "FAIL"}) {
		t.Errorf("%v", got)
	}
	failed := 0
	for _, s := range spans {
		if s.Name == "run shop" && s.Status.GetCode() == v1.Status_STATUS_CODE_ERROR && attributes(s)["error.type"] != "" {
			failed++
		}
	}
	if failed != 2 {
		t.Errorf("%d of 2 failures are seen", failed)
	}
	all := l.raw.String()
	rows, err := w.server.Oracle().Rows("Crm_Sales_Orders", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	for row := range rows {
		for _, cell := range row {
			if len(cell) >= 12 && strings.Contains(all, cell) {
				t.Fatalf("a value of a row was sent: %s", cell)
			}
		}
	}
	for _, secret := range []string{canaryToken, "enrt_", "Bearer", "$filter", w.aStore()} {
		if strings.Contains(all, secret) {
			t.Errorf("%q was sent", secret)
		}
	}
	w.holdsNo(canaryToken)
}

// Whoever cannot be told holds nothing up: the run is as it was, and the log says what was lost.
func TestTelemetryAway(t *testing.T) {
	l := newListener(t)
	w := newWorld(t, simulator.Options{})
	w.append(l.config())
	w.mustWith(exitOK, testToken, "tokens", "stage", "bi/reader", "--activate")
	l.take()
	l.mu.Lock()
	l.broken = true
	l.mu.Unlock()
	contains(t, w.must(exitOK, "run", "shop").err, "could not be sent; --verbose says why")
	contains(t, w.must(exitOK, "run", "shop", "--verbose").err, "lineage event", "not delivered", "spans were not sent")
	l.server.CloseClientConnections()
	l.server.Close()
	w.must(exitOK, "run", "shop")
	if spans, events := l.take(); len(spans)+len(events) > 0 {
		t.Errorf("%d spans, %d events", len(spans), len(events))
	}
}

// A run whose process died is told of when it is found.
func TestLineageOfTheDead(t *testing.T) {
	l := newListener(t)
	w := newWorld(t, simulator.Options{})
	w.append(l.config())
	w.mustWith(exitOK, testToken, "tokens", "stage", "bi/reader", "--activate")
	runs, err := ledger.Open(t.Context(), filepath.Join(w.dir, ".tablexport", "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	dead := ledger.Run{ID: "0199f0aa-0000-7000-8000-000000000009", Job: "shop", Table: "Crm_Sales_Orders", Dataset: "/x/shop", Process: hostOfThis() + ":2147483646:gone", Started: time.Now()}
	if err := runs.Start(t.Context(), dead); err != nil {
		t.Fatal(err)
	}
	if err := runs.Close(); err != nil {
		t.Fatal(err)
	}
	w.must(exitOK, "runs")
	_, events := l.take()
	if got := kinds(events); !slices.Equal(got, []string{"ABORT"}) || !strings.Contains(fmt.Sprint(events[0]), dead.ID) || !strings.Contains(fmt.Sprint(events[0]), "erpnet://127.0.0.1") {
		t.Errorf("%v", events)
	}
	w.must(exitOK, "runs")
	if _, events := l.take(); len(events) > 0 {
		t.Errorf("told twice: %v", events)
	}
}

// Bad addresses and files are refused with their keys.
func TestTelemetryConfig(t *testing.T) {
	for text, want := range map[string]string{
		"telemetry: {traces: {url: \"http://otel.example/v1/traces\"}}":                "telemetry.traces.url: plain http",
		"telemetry: {lineage: {url: \"https://u:p@catalog.example/\"}}":                "telemetry.lineage.url: the address carries a user name",
		"telemetry: {lineage: {namespace: x}}":                                         "telemetry.lineage",
		"telemetry: {traces: {url: \"https://otel.example/v1/traces\", percent: 101}}": "telemetry.traces.percent",
	} {
		w := newWorld(t, simulator.Options{})
		w.append(text + "\n")
		got := w.must(exitConfig, "check").err
		if !strings.Contains(got, want) {
			t.Errorf("%s: %s", text, got)
		}
	}
	w := newWorld(t, simulator.Options{})
	w.append("telemetry: {traces: {url: \"https://otel.example/v1/traces\", ca_file: ./none.pem}}\n")
	contains(t, w.must(exitConfig, "run", "shop").err, "telemetry.traces.ca_file", "none.pem")
}

// append adds to the configuration.
func (w *world) append(text string) {
	w.t.Helper()
	f, err := os.OpenFile(w.config, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// hostOfThis is this machine as the ledger names it.
func hostOfThis() string {
	host, _, _ := strings.Cut(jobs.Process(), ":")
	return host
}
