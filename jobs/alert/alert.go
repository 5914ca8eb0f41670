// Package alert tells people what they should know: once when it begins, again when it lasts, and once when it is over.
//
// A [Desk] keeps what is wrong under a key, so that the same trouble is told once however often it is seen, and over restarts: what is
// open is kept in the ledger. Sending is tried again with growing pauses, in its own goroutine: no channel that hangs keeps a run
// waiting, and no alert is told to be sent that was not.
//
// It is a leaf. Texts carry names, numbers and what to do; never row values or secrets.
package alert

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Severity is how soon someone should look.
type Severity string

// The severities.
const (
	Info     Severity = "info"
	Warning  Severity = "warning"
	Critical Severity = "critical"
)

// Alert is one thing to know.
type Alert struct {
	Key      string    `json:"key"`  // what is the same trouble: "failure/order-lines"
	Kind     string    `json:"kind"` // failure, scope, credential, stale, schema, away, threshold, token, rotation, event, test
	Severity Severity  `json:"severity"`
	Job      string    `json:"job,omitempty"`
	Instance string    `json:"instance,omitempty"`
	Owner    string    `json:"owner,omitempty"`
	Run      string    `json:"run,omitempty"`
	Title    string    `json:"title"`
	Text     string    `json:"text,omitempty"`
	Do       string    `json:"do,omitempty"` // what to do
	Since    time.Time `json:"since"`
	Over     bool      `json:"over"`            // it is over: the recovery of what was told before
	Again    bool      `json:"again,omitempty"` // it was told before, and lasts
}

// Channel is one way to tell people.
type Channel interface {
	// Send tells one alert, within ctx. An error may hold the channel's address, but no secret.
	Send(ctx context.Context, a Alert) error
}

// Open is an alert as it is kept.
type Open struct {
	Alert
	Told time.Time // last; zero = not yet
}

// Store keeps what is open.
type Store struct {
	Load   func(ctx context.Context) ([]Open, error)
	Save   func(ctx context.Context, o Open) error
	Remove func(ctx context.Context, key string) error
}

// Desk keeps what is open, and tells it. Its fields must not change after Run. It is safe for concurrent use.
type Desk struct {
	Channels map[string]Channel
	Store    Store
	Repeat   time.Duration // how often what lasts is told again (24 h)
	Log      *slog.Logger
	Sent     func(channel string, ok bool) // counted; may be nil

	mu    sync.Mutex
	open  map[string]Open
	queue map[string]chan Alert
	wait  sync.WaitGroup
}

const (
	queued  = 200              // alerts that wait for a channel
	tries   = 6                // of one alert
	pause   = 5 * time.Second  // before the second try; doubled for each further one
	timeout = 20 * time.Second // of one try
)

// Run starts the desk's channels, until ctx ends; what waits for them then is given a last try. Call the returned function to wait for that.
func (d *Desk) Run(ctx context.Context) (stop func(), err error) {
	kept, err := d.Store.Load(ctx)
	if err != nil {
		return nil, err
	}
	d.open, d.queue = map[string]Open{}, map[string]chan Alert{}
	for _, o := range kept {
		d.open[o.Key] = o
	}
	for name, c := range d.Channels {
		q := make(chan Alert, queued)
		d.queue[name] = q
		d.wait.Go(func() { d.deliver(ctx, name, c, q) })
	}
	return func() {
		d.mu.Lock()
		for _, q := range d.queue {
			close(q)
		}
		d.queue = nil
		d.mu.Unlock()
		d.wait.Wait()
	}, nil
}

// Raise tells a trouble that has begun, or lasts: once, and again after Repeat.
func (d *Desk) Raise(ctx context.Context, a Alert) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if a.Since.IsZero() {
		a.Since = now
	}
	old, known := d.open[a.Key]
	repeat := d.Repeat
	if repeat <= 0 {
		repeat = 24 * time.Hour
	}
	if known {
		if now.Sub(old.Told) < repeat {
			return
		}
		a.Since, a.Again = old.Since, true
	}
	// First it is kept: a crash behind that tells it once too little rather than at every start.
	o := Open{Alert: a, Told: now}
	if err := d.Store.Save(ctx, o); err != nil {
		d.Log.Error("an alert could not be recorded; it is told all the same", "alert", a.Key, "error", err)
	}
	d.open[a.Key] = o
	d.tell(a)
}

// Once tells something that does not last: a change of schema, say.
func (d *Desk) Once(a Alert) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if a.Since.IsZero() {
		a.Since = time.Now()
	}
	d.tell(a)
}

// Resolve tells that a trouble is over, if it was told.
func (d *Desk) Resolve(ctx context.Context, key, text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	o, known := d.open[key]
	if !known {
		return
	}
	if err := d.Store.Remove(ctx, key); err != nil {
		d.Log.Error("the end of an alert could not be recorded", "alert", key, "error", err)
	}
	delete(d.open, key)
	a := o.Alert
	a.Over, a.Again, a.Severity, a.Do, a.Text = true, false, Info, "", text
	d.tell(a)
}

// Standing returns what is open.
func (d *Desk) Standing() []Open {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []Open
	for _, o := range d.open {
		out = append(out, o)
	}
	return out
}

// tell hands an alert to every channel. A channel that is so far behind that its queue is full loses it, and the log says so.
func (d *Desk) tell(a Alert) {
	d.Log.Warn("alert", "alert", a.Key, "severity", a.Severity, "over", a.Over, "title", a.Title)
	for name, q := range d.queue {
		select {
		case q <- a:
		default:
			d.Log.Error("an alert is lost: too many wait for the channel", "channel", name, "alert", a.Key)
			d.sent(name, false)
		}
	}
}

func (d *Desk) sent(channel string, ok bool) {
	if d.Sent != nil {
		d.Sent(channel, ok)
	}
}

// deliver sends a channel's alerts one after the other.
func (d *Desk) deliver(ctx context.Context, name string, c Channel, q <-chan Alert) {
	for a := range q {
		err := d.send(ctx, c, a)
		d.sent(name, err == nil)
		if err != nil {
			d.Log.Error("an alert could not be sent", "channel", name, "alert", a.Key, "error", err)
		}
	}
}

// send tries to send an alert; once ctx has ended, only once.
func (d *Desk) send(ctx context.Context, c Channel, a Alert) error {
	wait := pause
	for try := 1; ; try++ {
		err := Send(context.WithoutCancel(ctx), c, a)
		if err == nil || try == tries || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(wait):
			wait *= 2
		case <-ctx.Done():
		}
	}
}

// Send sends one alert, once, in bounded time.
func Send(ctx context.Context, c Channel, a Alert) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return c.Send(ctx, a)
}
