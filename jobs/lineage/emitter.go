package lineage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Options say where events go. Zero values mean the defaults in parentheses.
type Options struct {
	URL       string // of the endpoint
	Namespace string // of jobs
	KeyFile   string // with the key that is sent as a bearer token; read at every event, so that it can be replaced; "": none is sent
	Transport http.RoundTripper
	Timeout   time.Duration // of one try (10 s)
	Patience  time.Duration // for one event, all tries (2 min)
	Queue     int           // events that may wait (1,000)
	Log       *slog.Logger
	Done      func(delivered bool) // counts; called from the emitter's goroutine, and from Emit for what finds no room; may be nil
}

// Emitter delivers events. It is safe for concurrent use.
type Emitter struct {
	o      Options
	client *http.Client
	queue  chan Event
	hurry  chan struct{} // closed when the end has come: nothing is tried again
	over   chan struct{}
	once   sync.Once
	mu     sync.RWMutex // Emit against Close
	closed bool
	lost   atomic.Int64
	left   atomic.Bool // Close has given up: what is still to come is counted
}

// New starts an emitter.
func New(o Options) *Emitter {
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Patience <= 0 {
		o.Patience = 2 * time.Minute
	}
	if o.Queue <= 0 {
		o.Queue = 1000
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Done == nil {
		o.Done = func(bool) {}
	}
	e := &Emitter{o: o, queue: make(chan Event, o.Queue), hurry: make(chan struct{}), over: make(chan struct{}),
		// No redirects: the key belongs to one address.
		client: &http.Client{Transport: o.Transport, Timeout: o.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	go e.deliver()
	return e
}

// Emit hands an event over. It never waits: where there is no room, the event is lost, which is counted and logged.
func (e *Emitter) Emit(event Event) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if !e.closed {
		select {
		case e.queue <- event:
			return
		default:
		}
	}
	e.lose(event, errors.New("too many events wait already"))
}

// Lost is how many events were not delivered.
func (e *Emitter) Lost() int64 { return e.lost.Load() }

func (e *Emitter) lose(event Event, err error) {
	e.lost.Add(1)
	e.o.Done(false)
	e.o.Log.Warn("a lineage event was not delivered", "event", event.Type, "job", event.Job, "run", event.Run, "error", err)
}

// Close delivers what waits, each event once more at most, until ctx ends; then the rest is lost.
func (e *Emitter) Close(ctx context.Context) {
	e.once.Do(func() {
		e.mu.Lock()
		e.closed = true
		close(e.queue)
		e.mu.Unlock()
		close(e.hurry)
	})
	select {
	case <-e.over:
	case <-ctx.Done():
		e.client.CloseIdleConnections()
		e.left.Store(true)
		for range len(e.queue) + 1 { // and the one that is on its way
			e.lost.Add(1)
			e.o.Done(false)
		}
		e.o.Log.Warn("lineage events were not delivered before the program's end")
	}
}

func (e *Emitter) deliver() {
	defer close(e.over)
	for event := range e.queue {
		body, err := event.encode(e.o.Namespace)
		if err == nil {
			err = e.send(body)
		}
		if e.left.Load() {
			return
		}
		if err != nil {
			e.lose(event, err)
			continue
		}
		e.o.Done(true)
	}
}

// send tries until the event is there, the answer says that it never will be, or patience is at its end.
func (e *Emitter) send(body []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), e.o.Patience)
	defer cancel()
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval = 250 * time.Millisecond
	for {
		err := e.post(ctx, body)
		var final *backoff.PermanentError
		if err == nil || errors.As(err, &final) {
			return err
		}
		select {
		case <-e.hurry:
			return err
		default:
		}
		pause := time.NewTimer(wait.NextBackOff())
		select {
		case <-pause.C:
		case <-e.hurry:
			pause.Stop()
			return e.post(ctx, body)
		case <-ctx.Done():
			pause.Stop()
			return err
		}
	}
}

func (e *Emitter) post(ctx context.Context, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.o.URL, bytes.NewReader(body))
	if err != nil {
		return backoff.Permanent(errors.New("the endpoint's address cannot be used"))
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "tablexport")
	if e.o.KeyFile != "" {
		key, err := readKey(e.o.KeyFile)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := e.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) { // its text holds the whole address
			err = u.Err
		}
		return fmt.Errorf("%s was not reached: %w", req.URL.Host, err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection is used again
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		return nil
	case code >= 500 || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout || code == http.StatusUnauthorized || code == http.StatusForbidden:
		return fmt.Errorf("%s answered %d %s", req.URL.Host, code, http.StatusText(code)) // a key may be replaced
	default:
		return backoff.Permanent(fmt.Errorf("%s answered %d %s", req.URL.Host, code, http.StatusText(code)))
	}
}

func readKey(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	key := strings.TrimSpace(string(text))
	if key == "" || strings.ContainsAny(key, "\r\n") {
		return "", fmt.Errorf("%s must hold one line", file)
	}
	return key, nil
}
