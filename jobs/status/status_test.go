package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tablexport/tablexport/jobs/ledger"
)

// stage is a source that a test has in hand.
type stage struct {
	Source
	jobs      map[string]Job
	instances map[string]Instance
	dead      error
	closing   bool
}

func newStage(t testing.TB) *stage {
	t.Helper()
	l, err := ledger.Open(context.Background(), filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	s := &stage{jobs: map[string]Job{}, instances: map[string]Instance{}}
	s.Source = Source{Ledger: l, Version: "test", Closing: func() bool { return s.closing },
		Now: func(context.Context) (map[string]Job, map[string]Instance, error) { return s.jobs, s.instances, s.dead }}
	return s
}

func (s *stage) run(t testing.TB, job string, began time.Time, version int64) {
	t.Helper()
	r := ledger.Run{ID: job + began.Format(time.RFC3339Nano), Job: job, Table: "T", Process: "p", Started: began}
	if err := s.Ledger.Start(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	r.State, r.Version, r.Rows, r.Ended = ledger.Succeeded, version, 42, began.Add(time.Minute)
	if version < 0 {
		r.State, r.Class, r.Error, r.Rows = ledger.Failed, "data", "the data is not what it must be", 0
	}
	if err := s.Ledger.Finish(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, h http.Handler, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:8750"+path, nil))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy"} {
		if w.Result().Header.Get(name) == "" {
			t.Errorf("%s: no header %s", path, name)
		}
	}
	return w.Code, string(body)
}

func TestHealth(t *testing.T) {
	s := newStage(t)
	h := Handler(s.Source, NewMetrics(s.Source), slog.New(slog.DiscardHandler))
	want := func(path string, code int, text string) {
		t.Helper()
		got, body := get(t, h, path)
		var v struct {
			OK     bool `json:"ok"`
			Checks []struct {
				Name string `json:"name"`
				OK   bool   `json:"ok"`
			} `json:"checks"`
		}
		if err := json.Unmarshal([]byte(body), &v); err != nil || got != code || v.OK != (code == 200) || !strings.Contains(body, text) || strings.Contains(body, "/secret/path") {
			t.Errorf("%s: %d %s, want %d", path, got, body, code)
		}
	}
	want("/healthz", 200, "clock")
	want("/readyz", 200, "ledger")
	s.closing = true
	want("/healthz", 200, "") // it ends in good order: not to be killed
	want("/readyz", 503, "ending")
	s.closing, s.dead = false, errors.New("/secret/path is gone")
	want("/healthz", 503, "does not answer")
	want("/readyz", 503, "does not answer")
	s.dead = nil
	_ = s.Ledger.Close()
	want("/healthz", 200, "")
	want("/readyz", 503, "cannot be read")
	for _, path := range []string{"/nope", "/healthz/x", "/debug/pprof/", "/../etc/passwd", "/pages/style.css", "/api/v2/jobs"} {
		if code, _ := get(t, h, path); code == 200 {
			t.Errorf("%s is answered", path)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1/healthz", strings.NewReader("x")))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", w.Code)
	}
}

// full is a stage on which every metric has a value.
func full(t testing.TB) (*stage, *Metrics) {
	t.Helper()
	s := newStage(t)
	at := time.Date(2026, 11, 25, 5, 15, 0, 0, time.UTC)
	s.run(t, "orders", at, 7)
	s.run(t, "orders", at.Add(time.Hour), -1)
	s.jobs["orders"] = Job{Name: "orders", Instance: "acme", FreshWithin: 26 * time.Hour, Next: at.AddDate(0, 0, 1), Waiting: 1}
	s.instances["acme"] = Instance{Name: "acme", Running: 1, Runs: 2, Breaker: "half-open", InFlight: 1, Requests: map[int]int64{200: 9, 0: 1}, Waited: 1500 * time.Millisecond, Parked: at}
	s.Told = func() (spans, events map[string]int64) {
		return map[string]int64{"ended": 3, "sent": 2, "lost": 1}, map[string]int64{"delivered": 4, "lost": 0}
	}
	m := NewMetrics(s.Source)
	m.RunEnded("orders", ledger.Succeeded, "", time.Minute, 7, 42, 4200)
	m.RunEnded("orders", ledger.Failed, "data", time.Second, -1, 10, 0)
	m.TickEnded(ledger.Skipped, 3)
	m.AlertSent("ops", true)
	m.Reloaded(true)
	m.Reloaded(false)
	m.TokenSeen("bi/reader", at, at.AddDate(1, 0, 0))
	m.TokenSeen("bi/other", at, at.AddDate(1, 0, 0))
	m.TokenSeen("bi/other", at.Add(time.Hour), time.Time{})
	if err := s.Ledger.Pause(t.Context(), "orders", "olga", "", at); err != nil {
		t.Fatal(err)
	}
	return s, m
}

// The names are what Prometheus' own lint wants, and the numbers are those of the source.
func TestMetrics(t *testing.T) {
	s, m := full(t)
	problems, err := testutil.GatherAndLint(m.registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	code, text := get(t, Handler(s.Source, m, slog.New(slog.DiscardHandler)), "/metrics")
	if code != 200 {
		t.Fatal(code, text)
	}
	for _, want := range []string{
		`tablexport_runs_total{class="",export="orders",state="succeeded"} 1`, `tablexport_runs_total{class="data",export="orders",state="failed"} 1`,
		`tablexport_published_rows_total{export="orders"} 42`, `tablexport_ticks_total{outcome="skipped"} 3`,
		fmt.Sprint(`tablexport_dataset_published_timestamp_seconds{export="orders"} `, float64(time.Date(2026, 11, 25, 5, 15, 0, 0, time.UTC).Unix())), `tablexport_dataset_fresh_within_seconds{export="orders"} 93600`,
		`tablexport_job_last_run_failed{export="orders"} 1`, `tablexport_job_paused{export="orders"} 1`, `tablexport_runs_waiting{erp="acme"} 1`,
		`tablexport_breaker_state{erp="acme",state="half-open"} 1`, `tablexport_breaker_state{erp="acme",state="open"} 0`,
		`tablexport_requests_total{code="200",erp="acme"} 9`, `tablexport_request_wait_seconds_total{erp="acme"} 1.5`,
		fmt.Sprint(`tablexport_token_staged_timestamp_seconds{token="bi/reader"} `, float64(time.Date(2026, 11, 25, 5, 15, 0, 0, time.UTC).Unix())),
		fmt.Sprint(`tablexport_token_expiry_timestamp_seconds{token="bi/reader"} `, float64(time.Date(2027, 11, 25, 5, 15, 0, 0, time.UTC).Unix())),
		`tablexport_http_requests_refused_total{reason="invalid_token"} 0`, `tablexport_clock_up 1`, `tablexport_config_reloads_total{result="refused"} 1`, `tablexport_build_info{goversion="`, "go_memstats_", "process_resident_memory_bytes",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if strings.Contains(text, `tablexport_token_expiry_timestamp_seconds{token="bi/other"}`) {
		t.Error("an expiry that is known no more is told")
	}
	s.dead = errors.New("gone")
	if _, text := get(t, Handler(s.Source, m, slog.New(slog.DiscardHandler)), "/metrics"); !strings.Contains(text, "tablexport_clock_up 0") || strings.Contains(text, "tablexport_job_paused") {
		t.Error("a clock that does not answer:", text)
	}
}
