package status

import (
	"context"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/jobs/gate"
	"github.com/tablexport/tablexport/jobs/ledger"
)

// Job is a configured job as it is shown.
type Job struct {
	Name        string        `json:"job"`
	Description string        `json:"description,omitempty"`
	Owner       string        `json:"owner,omitempty"`
	Instance    string        `json:"instance"`
	Table       string        `json:"table"`
	FreshWithin time.Duration `json:"-"`
	Cron        string        `json:"cron,omitempty"`
	Zone        string        `json:"zone,omitempty"`
	Next        time.Time     `json:"next,omitzero"` // its next tick, in its zone
	Run         string        `json:"run,omitempty"` // under way
	Since       time.Time     `json:"since,omitzero"`
	Waiting     int           `json:"waiting"`
	Why         string        `json:"why,omitempty"` // it waits
	After       []string      `json:"after,omitempty"`
	Every       string        `json:"windows,omitempty"` // the period of a job that goes by windows: "day" … "year"
}

// Instance is an ERP instance as it is shown.
type Instance struct {
	Name     string        `json:"instance"`
	Running  int           `json:"running"` // runs
	Runs     int           `json:"runs"`    // at most
	Parked   time.Time     `json:"parkedUntil,omitzero"`
	Why      string        `json:"why,omitempty"`
	Working  bool          `json:"workingHours"`
	Breaker  string        `json:"breaker"` // "closed", "half-open", "open"
	InFlight int           `json:"requestsInFlight"`
	Requests map[int]int64 `json:"requests"` // answers by status since the program began; 0 = there was none
	Waited   time.Duration `json:"-"`        // for the limits
}

// Source is what the program knows beside the ledger. Its functions are safe for concurrent use.
type Source struct {
	Ledger  *ledger.Ledger
	Version string
	// Now tells where every job and instance is, by name; it fails when the clock does not answer.
	Now func(ctx context.Context) (map[string]Job, map[string]Instance, error)
	// Closing reports whether the program is ending.
	Closing func() bool

	// What follows may be nil: then there is nothing of it to show.

	Alerts  func() []Alert                                                 // that are not over
	Dataset func(ctx context.Context, job string) (*export.Dataset, error) // an unknown job is an error
	Tokens  func(ctx context.Context) ([]Token, error)

	// Told counts spans (ended, sent, lost) and lineage events (delivered, lost) since the program began.
	Told func() (spans, events map[string]int64)

	// Gate decides who may; nil: everybody on this machine may read.
	Gate *gate.Gate
	// Act does what a caller may ask for, and audits it; nil: nothing can be asked for. Its errors are ErrUnknown, ErrBusy, or of the
	// program's own trouble.
	Act func(ctx context.Context, o Order) error
	// Events receives the signed events of the Marketplace.
	Events http.Handler
}

// Metrics are the program's numbers, named as Prometheus wants them. Counters begin with the process; what is known of datasets
// and instances is read when it is asked for. The labels are export (a job's name) and erp (an instance's), since job and instance are
// what Prometheus calls the target itself.
type Metrics struct {
	registry *prometheus.Registry
	runs     *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	rows     *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	ticks    *prometheus.CounterVec
	alerts   *prometheus.CounterVec
	reloads  *prometheus.CounterVec
	refused  *prometheus.CounterVec
	reloaded prometheus.Gauge
	tokens   *prometheus.GaugeVec
	expiries *prometheus.GaugeVec
}

// NewMetrics returns the metrics of a source.
func NewMetrics(s Source) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "tablexport", Name: name, Help: help}, labels)
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		runs:     counter("runs_total", "Runs that have ended, by job, end (succeeded, failed, canceled) and class of the error.", "export", "state", "class"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "tablexport", Name: "run_duration_seconds",
			Help: "How long runs took, by end.", Buckets: []float64{1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600}}, []string{"state"}),
		rows:    counter("published_rows_total", "Rows that runs have published.", "export"),
		bytes:   counter("published_bytes_total", "Bytes of the files that runs have published.", "export"),
		ticks:   counter("ticks_total", "Ticks that have ended, by outcome (ran, late, coalesced, skipped).", "outcome"),
		alerts:  counter("alerts_sent_total", "Alerts that were sent, by channel and result (ok, failed).", "channel", "result"),
		reloads: counter("config_reloads_total", "Configurations that were read again, by result (ok, refused).", "result"),
		refused: counter("http_requests_refused_total", "Requests to this program that were refused before they were looked at, by reason.", "reason"),
		reloaded: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "tablexport", Name: "config_last_reload_success_timestamp_seconds",
			Help: "When the configuration in use was read."}),
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "tablexport", Name: name, Help: help}, []string{"token"})
	}
	m.tokens = gauge("token_staged_timestamp_seconds", "When the active version of a token was staged: its age is time() minus this. Looked up every hour.")
	m.expiries = gauge("token_expiry_timestamp_seconds", "When the active version of a token expires, where that is known.")
	for _, why := range gate.Reasons { // a counter that is not there yet hides the first increase
		m.refused.WithLabelValues(string(why))
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "tablexport", Name: "build_info", Help: "The program's version; always 1.",
		ConstLabels: prometheus.Labels{"version": s.Version, "goversion": runtime.Version()}})
	info.Set(1)
	m.registry.MustRegister(m.runs, m.seconds, m.rows, m.bytes, m.ticks, m.alerts, m.reloads, m.refused, m.tokens, m.expiries, m.reloaded, info, &now{source: s},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// RunEnded counts a run. version is -1 if nothing was published.
func (m *Metrics) RunEnded(job string, state ledger.State, class string, took time.Duration, version, rows, bytes int64) {
	m.runs.WithLabelValues(job, string(state), class).Inc()
	m.seconds.WithLabelValues(string(state)).Observe(took.Seconds())
	if version >= 0 {
		m.rows.WithLabelValues(job).Add(float64(rows))
		m.bytes.WithLabelValues(job).Add(float64(bytes))
	}
}

// TickEnded counts ticks.
func (m *Metrics) TickEnded(o ledger.Outcome, count int64) {
	m.ticks.WithLabelValues(string(o)).Add(float64(count))
}

// AlertSent counts an alert.
func (m *Metrics) AlertSent(channel string, ok bool) {
	m.alerts.WithLabelValues(channel, result(ok, "failed")).Inc()
}

// Refused counts a request that the gate has not let in.
func (m *Metrics) Refused(why gate.Reason) { m.refused.WithLabelValues(string(why)).Inc() }

// TokenSeen tells of the active version of a token; expires may be zero.
func (m *Metrics) TokenSeen(name string, staged, expires time.Time) {
	m.tokens.WithLabelValues(name).Set(float64(staged.Unix()))
	if expires.IsZero() {
		m.expiries.DeleteLabelValues(name)
	} else {
		m.expiries.WithLabelValues(name).Set(float64(expires.Unix()))
	}
}

// Reloaded counts a configuration that was read.
func (m *Metrics) Reloaded(ok bool) {
	m.reloads.WithLabelValues(result(ok, "refused")).Inc()
	if ok {
		m.reloaded.SetToCurrentTime()
	}
}

func result(ok bool, not string) string {
	if ok {
		return "ok"
	}
	return not
}

// now is what is read when it is asked for.
type now struct{ source Source }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("tablexport_"+name, help, labels, nil)
}

var (
	descPublished = desc("dataset_published_timestamp_seconds", "When the run began that made a job's newest version: what the data is as of.", "export")
	descFresh     = desc("dataset_fresh_within_seconds", "How old a job's dataset may become (fresh_within).", "export")
	descRows      = desc("dataset_rows", "Rows that the newest version's run has written.", "export")
	descFailed    = desc("job_last_run_failed", "1 if a job's newest run that ended did not succeed.", "export")
	descNext      = desc("job_next_tick_timestamp_seconds", "When a job is due next.", "export")
	descPaused    = desc("job_paused", "1 if a job's ticks are skipped until someone resumes it.", "export")
	descWaiting   = desc("runs_waiting", "Runs that wait for their turn, by instance.", "erp")
	descRunning   = desc("runs_running", "Runs under way, by instance.", "erp")
	descParked    = desc("instance_parked", "1 if an instance is left alone for a while.", "erp")
	descBreaker   = desc("breaker_state", "An instance's circuit breaker: 1 for the state that it is in (closed, half-open, open).", "erp", "state")
	descRequests  = desc("requests_total", "Answers of an instance by status; code 0 = there was none.", "erp", "code")
	descWaited    = desc("request_wait_seconds_total", "How long requests have waited for the limits of an instance.", "erp")
	descInFlight  = desc("requests_in_flight", "Requests under way, by instance.", "erp")
	descSpans     = desc("trace_spans_total", "Spans of runs and requests by what became of them (ended, sent, lost).", "state")
	descLineage   = desc("lineage_events_total", "OpenLineage events by what became of them (delivered, lost).", "result")
	descLedger    = desc("ledger_size_bytes", "What the ledger takes on disk.")
	descUp        = desc("clock_up", "1 if the clock answers.")
)

// Describe implements prometheus.Collector.
func (n *now) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descPublished, descFresh, descRows, descFailed, descNext, descPaused, descWaiting, descRunning, descParked,
		descBreaker, descRequests, descWaited, descInFlight, descLedger, descSpans, descLineage, descUp} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. What cannot be read is left out, and clock_up says so.
func (n *now) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	jobs, instances, err := n.source.Now(ctx)
	gauge(descUp, truth(err == nil))
	if err != nil {
		return
	}
	if n.source.Told != nil {
		spans, events := n.source.Told()
		for state, count := range spans {
			ch <- prometheus.MustNewConstMetric(descSpans, prometheus.CounterValue, float64(count), state)
		}
		for result, count := range events {
			ch <- prometheus.MustNewConstMetric(descLineage, prometheus.CounterValue, float64(count), result)
		}
	}
	gauge(descLedger, float64(n.source.Ledger.Size()))
	latest, lerr := n.source.Ledger.Latest(ctx)
	clocks, cerr := n.source.Ledger.Clocks(ctx)
	waiting := map[string]int{}
	for name, j := range jobs {
		waiting[j.Instance] += j.Waiting
		if j.FreshWithin > 0 {
			gauge(descFresh, j.FreshWithin.Seconds(), name)
		}
		if !j.Next.IsZero() {
			gauge(descNext, seconds(j.Next), name)
		}
		if cerr == nil {
			gauge(descPaused, truth(!clocks[name].Paused.IsZero()), name)
		}
		l, ran := latest[name]
		if lerr != nil || !ran {
			continue
		}
		if l.Published != "" {
			gauge(descPublished, seconds(l.PublishedStarted), name)
			gauge(descRows, float64(l.Rows), name)
		}
		if l.State != ledger.Running {
			gauge(descFailed, truth(l.State != ledger.Succeeded), name)
		}
	}
	for name, i := range instances {
		gauge(descWaiting, float64(waiting[name]), name)
		gauge(descRunning, float64(i.Running), name)
		gauge(descParked, truth(!i.Parked.IsZero()), name)
		for _, state := range []string{"closed", "half-open", "open"} {
			gauge(descBreaker, truth(i.Breaker == state), name, state)
		}
		for code, count := range i.Requests {
			ch <- prometheus.MustNewConstMetric(descRequests, prometheus.CounterValue, float64(count), name, strconv.Itoa(code))
		}
		ch <- prometheus.MustNewConstMetric(descWaited, prometheus.CounterValue, i.Waited.Seconds(), name)
		gauge(descInFlight, float64(i.InFlight), name)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }
