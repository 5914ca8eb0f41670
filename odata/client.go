package odata

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"golang.org/x/time/rate"

	"github.com/tablexport/tablexport/odata/edm"
)

// Authorizer puts a credential on a request. The credential itself never passes through this package.
// secrets.Lease is the real one. It must be safe for concurrent use.
type Authorizer interface {
	// Authorize sets the credential on req, or refuses: a credential is bound to one host and goes
	// nowhere else. It is asked anew for every request, so that a rotated value is seen by the next one.
	Authorize(ctx context.Context, req *http.Request) error
	// Renew fetches the credential again after a 401. It returns an error if there is no newer one.
	Renew(ctx context.Context) error
	// Fingerprint identifies the credential for people; it reveals nothing of it.
	Fingerprint() string
}

// Options configures a Client. Zero values mean the defaults in parentheses.
type Options struct {
	Name              string // the instance's name in messages ("acme")
	URL               string // https://acme.my.erp.net; plain http only for loopback addresses with Sandbox
	TableAPI          string // base URL of the Table API site when discovery is not wanted ("" = auto-discovery)
	Sandbox           bool
	CAFile            string   // PEM bundle in place of the system's roots
	Concurrency       int      // requests in flight at once (2)
	RequestsPerMinute int      // (600)
	Encoding          Encoding // of answers on the wire (auto)
	UserAgent         string   // ("tablexport")
	Logger            *slog.Logger
	Tracer            trace.Tracer      // of the requests' spans; nil: there are none
	Transport         http.RoundTripper // tests only; nil = the real one

	ConnectTimeout time.Duration // dial and TLS handshake, each (10 s)
	HeaderTimeout  time.Duration // request sent → first header (5 min: the server may plan a query for long)
	IdleTimeout    time.Duration // longest silence inside a body (60 s)

	Retry   RetryPolicy
	Breaker BreakerPolicy
}

// RetryPolicy says how a page is repeated. Full-jitter exponential backoff.
type RetryPolicy struct {
	Attempts int           // tries of one page in all (5)
	Base     time.Duration // first backoff at most (500 ms)
	Max      time.Duration // later ones at most (30 s)
	MaxWait  time.Duration // all waiting for one page, 429 included, at most (10 min)
}

// BreakerPolicy says when an instance is left alone.
type BreakerPolicy struct {
	Failures uint32        // consecutive failures that open it (5)
	OpenFor  time.Duration // how long it stays open before one trial (30 s)
}

func (o *Options) setDefaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	if o.Concurrency <= 0 {
		o.Concurrency = 2
	}
	if o.RequestsPerMinute <= 0 {
		o.RequestsPerMinute = 600
	}
	if o.UserAgent == "" {
		o.UserAgent = "tablexport"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Tracer == nil {
		o.Tracer = noop.NewTracerProvider().Tracer("")
	}
	def(&o.ConnectTimeout, 10*time.Second)
	def(&o.HeaderTimeout, 5*time.Minute)
	def(&o.IdleTimeout, time.Minute)
	if o.Retry.Attempts <= 0 {
		o.Retry.Attempts = 5
	}
	def(&o.Retry.Base, 500*time.Millisecond)
	def(&o.Retry.Max, 30*time.Second)
	def(&o.Retry.MaxWait, 10*time.Minute)
	if o.Breaker.Failures == 0 {
		o.Breaker.Failures = 5
	}
	def(&o.Breaker.OpenFor, 30*time.Second)
}

// Client is one instance, shared by all jobs of the process: one limiter, one breaker, one transport, and
// what was learned about the instance. It is safe for concurrent use.
type Client struct {
	opts      Options
	instance  *url.URL // ends in "/"
	tableAPI  *url.URL // nil = to be discovered; ends in "/"
	host      string   // where credentials may go
	rt        http.RoundTripper
	slots     chan struct{}
	rate      *rate.Limiter
	codings   *codings
	inflaters inflaters
	breaker   *gobreaker.CircuitBreaker[struct{}]
	// lastFailure is the last one that counted against the instance: what an open breaker has to say.
	lastFailure atomic.Pointer[error]
	log         *slog.Logger
	counters    counters

	addressBytes atomic.Int64 // how long an address may be, as far as is known; 0 = nobody was refused yet

	site  once[Site]
	model once[*edm.Model]

	mu     sync.Mutex
	traits map[string]*traits // by table and shape of the filter
}

// NewClient checks opts (URL scheme and host rules included) and returns a client that has not yet asked
// anything. The error is an *AddressError.
func NewClient(opts Options) (*Client, error) {
	opts.setDefaults()
	instance, err := parseBase("url", opts.URL, opts.Sandbox)
	if err != nil {
		return nil, err
	}
	if opts.Name == "" {
		opts.Name = instance.Host
	}
	switch opts.Encoding {
	case "", EncodingAuto, EncodingIdentity, EncodingGzip, EncodingZstd:
	default:
		return nil, &AddressError{Setting: "encoding", Reason: "must be auto, identity, gzip or zstd"}
	}
	c := &Client{
		opts: opts, instance: instance, host: hostOf(instance),
		slots:  make(chan struct{}, opts.Concurrency),
		rate:   requestRate(opts.RequestsPerMinute),
		log:    opts.Logger.With("instance", opts.Name),
		site:   newOnce[Site](),
		model:  newOnce[*edm.Model](),
		traits: map[string]*traits{},
	}
	if opts.TableAPI != "" {
		if c.tableAPI, err = parseBase("table_api", opts.TableAPI, opts.Sandbox); err != nil {
			return nil, err
		}
		c.host = hostOf(c.tableAPI)
	}
	c.codings = newCodings(opts.Encoding, localhost(c.host))
	c.rt = opts.Transport
	if c.rt == nil {
		if c.rt, err = newTransport(&c.opts); err != nil {
			return nil, err
		}
	}
	c.breaker = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         opts.Name,
		MaxRequests:  1,
		Timeout:      opts.Breaker.OpenFor,
		ReadyToTrip:  func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= opts.Breaker.Failures },
		IsSuccessful: func(err error) bool { return fateOf(err) != fateRepeat },
		IsExcluded:   uncounted,
		OnStateChange: func(_ string, from, to gobreaker.State) {
			c.log.Warn("circuit breaker", "from", from.String(), "to", to.String())
		},
	})
	return c, nil
}

// requestRate is the limiter that lets no more than perMinute requests through in any minute. Short
// bursts (a second's worth) go through at once, and are taken off the steady rate.
func requestRate(perMinute int) *rate.Limiter {
	burst := max(1, perMinute/60)
	return rate.NewLimiter(rate.Limit(float64(perMinute-burst+1)/60), burst)
}

// Host is the host[:port] that credentials are bound to, lower case, without a default port: the
// instance's, or that of Options.TableAPI if that is set.
func (c *Client) Host() string { return c.host }

// Concurrency is how many requests may be in flight at once.
func (c *Client) Concurrency() int { return cap(c.slots) }

// Name is the instance's name in messages.
func (c *Client) Name() string { return c.opts.Name }

// Open returns a session with a credential. It sends nothing.
func (c *Client) Open(auth Authorizer) *Session { return &Session{c: c, auth: auth} }

// acquire waits for a slot and for the request rate. The slot is held until release.
func (c *Client) acquire(ctx context.Context) (release func(), err error) {
	began := time.Now()
	defer func() { c.counters.wait(time.Since(began)) }()
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, canceled(ctx)
	}
	if err := c.rate.Wait(ctx); err != nil {
		<-c.slots
		if ctx.Err() == nil { // the deadline lies before the next turn
			return nil, &canceledError{context.DeadlineExceeded}
		}
		return nil, canceled(ctx)
	}
	return func() { <-c.slots }, nil
}

// once is a value that is asked for at most once if asking succeeds, by one caller at a time.
type once[T any] struct {
	lock  chan struct{}
	value *T
}

func newOnce[T any]() once[T] { return once[T]{lock: make(chan struct{}, 1)} }

func (o *once[T]) get(ctx context.Context, ask func() (T, error)) (T, error) {
	var zero T
	select {
	case o.lock <- struct{}{}:
		defer func() { <-o.lock }()
	case <-ctx.Done():
		return zero, canceled(ctx)
	}
	if o.value != nil {
		return *o.value, nil
	}
	v, err := ask()
	if err != nil {
		return zero, err
	}
	o.value = &v
	return v, nil
}

// canceledError is the caller's context ending. It counts neither for nor against the instance.
type canceledError struct{ err error }

func (e *canceledError) Error() string { return fmt.Sprintf("odata: stopped: %v", e.err) }
func (e *canceledError) Unwrap() error { return e.err }

func canceled(ctx context.Context) error { return &canceledError{context.Cause(ctx)} }
