package main

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/tablexport/tablexport/secrets/lifecycle"
)

// signEvery is how often a program that goes on signs its audit log.
const signEvery = 10 * time.Minute

// events hands lifecycle events to the receiver of the configuration in use.
type events struct {
	current     func() *app
	marketplace string                               // "" = ERP.net's
	told        func(e lifecycle.Event, staged bool) // called behind each event

	mu      sync.Mutex
	app     *app // whose receiver it is
	handler http.Handler
}

// receiver is the handler of events.
func (d *daemon) receiver(marketplace string) http.Handler {
	return &events{current: d.current, marketplace: marketplace, told: d.told}
}

// ServeHTTP implements http.Handler. 404: no instance expects events. 503: they cannot be received now; whoever sends one may try again.
func (e *events) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	handler, err := e.inUse()
	switch {
	case err != nil:
		http.Error(w, http.StatusText(http.StatusServiceUnavailable), http.StatusServiceUnavailable)
	case handler == nil:
		http.NotFound(w, r)
	default:
		handler.ServeHTTP(w, r)
	}
}

// inUse is made anew when the configuration was read again: what was received before is in its file.
func (e *events) inUse() (http.Handler, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := e.current()
	if e.app == a {
		return e.handler, nil
	}
	handler, err := a.eventReceiver(e.marketplace, e.told)
	if err != nil {
		a.logger().Error("lifecycle events cannot be received", "error", err)
		return nil, err
	}
	e.app, e.handler = a, handler
	return handler, nil
}

// signing signs the audit log now and then, as long as the program goes on; its end is signed when it closes the log.
func (d *daemon) signing(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		a := d.current()
		if a.cfg.Audit.Checkpoints == nil {
			continue
		}
		log, err := a.audit()
		if err == nil {
			signing, cancel := context.WithTimeout(ctx, checkpointPatience)
			_, _, err = a.signLog(signing, log)
			cancel()
		}
		if err != nil && ctx.Err() == nil {
			d.log.Error("the audit log has no signed checkpoint of its end", "error", err)
		}
	}
}
