package status

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tablexport/tablexport/jobs/gate"
)

const maxHeader = 16 << 10

// Handler answers with pages, the JSON API, health, readiness and metrics, to whom the source's gate lets in.
func Handler(s Source, m *Metrics, log *slog.Logger) http.Handler {
	g := s.Gate
	if g == nil {
		g = gate.New(gate.Options{})
	}
	return g.Guard(s.mux(m, log))
}

func (s Source) mux(m *Metrics, log *slog.Logger) *gate.Mux {
	mux := gate.NewMux()
	mux.HandleFunc(gate.Open, "GET /healthz", func(w http.ResponseWriter, r *http.Request) { s.health(w, r, false) })
	mux.HandleFunc(gate.Open, "GET /readyz", func(w http.ResponseWriter, r *http.Request) { s.health(w, r, true) })
	mux.Handle(gate.View, "GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError),
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4, Timeout: 15 * time.Second}))
	if s.Events != nil {
		mux.Handle(gate.Signed, "POST /events/lifecycle", s.Events)
	}
	shown := newStores(s)
	(&pages{s, log, shown}).routes(mux)
	(&api{s, log, shown}).routes(mux)
	return mux
}

// Server is an http.Server with limits for a handler.
func Server(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
}

// check is one thing that health depends on.
type check struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	Text string `json:"text,omitempty"`
}

// health answers 200 or 503. Healthy is a program whose clock turns: a restart may help if it does not. Ready is one that also can
// write its ledger and is not ending.
func (s Source) health(w http.ResponseWriter, r *http.Request, ready bool) {
	ctx := r.Context()
	var checks []check
	add := func(name string, err error, text string) {
		c := check{Name: name, OK: err == nil}
		if err != nil {
			c.Text = text // an error's own text may name paths, which are not for everybody
		}
		checks = append(checks, c)
	}
	_, _, err := s.Now(ctx)
	closing := s.Closing()
	if !closing {
		add("clock", err, "the clock does not answer")
	}
	if ready {
		_, lerr := s.Ledger.Clocks(ctx)
		add("ledger", lerr, "the ledger cannot be read; see the log")
		if closing {
			checks = append(checks, check{Name: "program", Text: "the program is ending"})
		}
	}
	status := http.StatusOK
	for _, c := range checks {
		if !c.OK {
			status = http.StatusServiceUnavailable
		}
	}
	answer(w, status, map[string]any{"ok": status == http.StatusOK, "checks": checks})
}

// answer writes v as JSON.
func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the reader is gone, or it has got it
}
