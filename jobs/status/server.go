package status

import (
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Limits of a request.
const (
	maxHeader = 16 << 10
	maxBody   = 64 << 10
)

// Handler answers with pages, the JSON API, health, readiness and metrics. Nothing of it changes anything.
func Handler(s Source, m *Metrics, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { s.health(w, r, false) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { s.health(w, r, true) })
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError),
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4, Timeout: 15 * time.Second}))
	(&pages{s, log}).routes(mux)
	(&api{s, log}).routes(mux)
	return guarded(mux)
}

// guarded bounds what a request may bring, and sets the headers that every answer has.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A page of another site whose name was made to point here (DNS rebinding) still sends that name.
		if !local(r.Host) {
			http.Error(w, "this address is for this machine only", http.StatusMisdirectedRequest)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// local reports whether a request was sent to a loopback address by its number, or to localhost.
func local(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
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
