package secrets

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tablexport/tablexport/secrets/audit"
)

// renewGrace is how long after a renewal a further 401 is taken to be an answer to the token before it.
const renewGrace = 10 * time.Second

// Lease is a borrowed token. It satisfies odata.Authorizer. It is safe for concurrent use.
type Lease struct {
	keeper  *Keeper
	request LeaseRequest
	entry   int64 // sequence number of the loan in the audit log
	own     bool  // the token was read for this lease: Close wipes it
	trial   bool

	requests atomic.Int64
	refusals atomic.Int64
	renewing sync.Mutex

	exchanged atomic.Int64 // when renewAccess last gave a new access token, in Unix nanoseconds

	mu      sync.RWMutex
	token   Token
	version Version
	renewed time.Time
	closed  bool
	beat    *time.Timer // tells others now and then that the token is in use; nil = nobody is told
}

// Authorize sets "Authorization: Bearer …" on req if req goes, over https (or http to a loopback
// address in a sandbox), to the host that the token is bound to; otherwise it fails (ErrBinding) and sets nothing.
// The first refusal of a lease is audited at once, their number when it is closed.
//
// With client credentials it is an access token that goes, fetched first where it is time. If the identity server refuses the client secret, the
// vault is asked for a newer one, once.
func (l *Lease) Authorize(ctx context.Context, req *http.Request) error {
	err := l.authorize(ctx, req)
	if errors.Is(err, ErrClient) && l.Renew(ctx) == nil {
		err = l.authorize(ctx, req)
	}
	return err
}

func (l *Lease) authorize(ctx context.Context, req *http.Request) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return ErrClosed
	}
	if err := l.admits(req); err != nil {
		if l.refusals.Add(1) > 1 {
			return err
		}
		return l.keeper.refuse(ctx, l.request, "authorize", l.version.Fingerprint, err)
	}
	token := l.token
	if l.request.Use.Client != nil {
		var err error
		if token, err = l.accessToken(ctx, Token{}); err != nil {
			return err
		}
	}
	if req.Header == nil {
		req.Header = make(http.Header)
	}
	Reveal(token, func(value []byte) {
		if header := l.request.Use.Header; header != "" {
			req.Header.Set(header, string(value))
			return
		}
		req.Header.Set("Authorization", "Bearer "+string(value))
	})
	l.requests.Add(1)
	return nil
}

// show tells others that the token is in use, now and again as long as the lease lasts: one answer that is streamed for an hour is a use of an hour.
func (l *Lease) show(ctx context.Context) {
	k := l.keeper
	if k.place == "" {
		return
	}
	k.note(ctx, l.request, l.version.Fingerprint)
	ctx = context.WithoutCancel(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.beat = time.AfterFunc(noteEvery, func() {
		l.mu.RLock()
		closed, fingerprint := l.closed, l.version.Fingerprint
		l.mu.RUnlock()
		if closed {
			return
		}
		k.note(ctx, l.request, fingerprint)
		l.mu.Lock()
		defer l.mu.Unlock()
		if !l.closed {
			l.beat.Reset(noteEvery)
		}
	})
}

// accessToken exchanges the client secret, unless there is an access token that is good and not stale. Every exchange is audited. l.mu is
// held for reading.
func (l *Lease) accessToken(ctx context.Context, stale Token) (Token, error) {
	return l.request.Use.Client.current(ctx, l.version.Binding.Host, l.version.Binding.Environment, l.token, l.version.Fingerprint, stale,
		func(outcome string, detail map[string]string) error {
			_, err := l.keeper.record(context.WithoutCancel(ctx), l.keeper.entry(l.request, actExchange, outcome, l.version.Fingerprint, detail))
			return err
		})
}

// renewAccess exchanges the client secret anew after a 401; the error is that of the exchange.
func (l *Lease) renewAccess(ctx context.Context) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return ErrClosed
	}
	c := l.request.Use.Client
	c.mu.Lock()
	stale := c.access
	fresh := time.Since(l.renewedAccess()) < renewGrace
	c.mu.Unlock()
	if fresh {
		return nil // another request has done it: the 401 was an answer to the token before
	}
	_, err := l.accessToken(ctx, stale)
	if err == nil {
		l.exchanged.Store(time.Now().UnixNano())
	}
	return err
}

func (l *Lease) renewedAccess() time.Time { return time.Unix(0, l.exchanged.Load()) }

// admits decides whether the token may go where req goes. Messages hold scheme and host of the URL and nothing else of it.
func (l *Lease) admits(req *http.Request) error {
	no := func(why string, args ...any) error {
		return fmt.Errorf("%w: %s: %s", ErrBinding, l.request.Name, fmt.Sprintf(why, args...))
	}
	if req == nil || req.URL == nil {
		return no("the request has no address")
	}
	u := req.URL
	bound := l.version.Binding
	switch {
	case u.User != nil:
		return no("the address must not hold a user or a password")
	case u.Opaque != "":
		return no("the address must be scheme://host/path")
	case u.Scheme != "https" && u.Scheme != "http":
		return no("the scheme must be https")
	case u.Scheme == "http" && (bound.Environment != Sandbox || !Loopback(u.Host)):
		return no("http sends the token in the clear; use https (plain http is for loopback addresses in a sandbox)")
	case !sameHost(bound.Host, u.Host, u.Scheme):
		return &BindingError{Name: l.request.Name, Version: l.version.Number, Part: "host", Bound: bound.Host, Asked: u.Host}
	case req.Host != "" && !sameHost(bound.Host, req.Host, u.Scheme):
		// The server behind a shared address chooses the site by this header.
		return &BindingError{Name: l.request.Name, Version: l.version.Number, Part: "host", Bound: bound.Host, Asked: req.Host}
	}
	return nil
}

// Renew reads the active version again after a 401 (audited), so that a rotated token is used from the next request on.
// ErrNoNewer if it is the same token still, or if the lease is a trial.
//
// Several requests can get their 401 at once. A call that overlaps a successful renewal, or follows it within ten seconds,
// is taken to be about the token before it and returns nil. So repeat a request once after a Renew, not for ever.
func (l *Lease) Renew(ctx context.Context) error {
	l.mu.RLock()
	before := l.version.Number
	l.mu.RUnlock()
	l.renewing.Lock()
	defer l.renewing.Unlock()
	if l.request.Use.Client != nil {
		// An access token ends, or is revoked, long before the secret: exchange again. Only a secret that is refused is looked for anew.
		if err := l.renewAccess(ctx); !errors.Is(err, ErrClient) {
			return err
		}
	}
	l.mu.RLock()
	current, closed, renewed := l.version, l.closed, l.renewed
	l.mu.RUnlock()
	switch {
	case closed:
		return ErrClosed
	case current.Number != before, !renewed.IsZero() && time.Since(renewed) < renewGrace:
		return nil
	}
	next, token, err := l.newer(ctx, current)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		token.wipe()
		return ErrClosed
	}
	l.token.wipe()
	l.token, l.version, l.renewed = token, next, time.Now()
	return nil
}

// newer authorises, audits and reads the active version if it is another token than current.
func (l *Lease) newer(ctx context.Context, current Version) (Version, Token, error) {
	k := l.keeper
	v, err := current, error(nil)
	if !l.trial {
		v, err = k.authorise(ctx, l.request)
	}
	if err == nil && v.Fingerprint == current.Fingerprint {
		err = fmt.Errorf("%w: %s (%s) is still the active one; stage and activate a new one: tablexport tokens stage %s --activate",
			ErrNoNewer, l.request.Name, v.Fingerprint, l.request.Name)
	}
	if err != nil {
		return Version{}, Token{}, k.refuse(ctx, l.request, actRenew, current.Fingerprint, err)
	}
	_, err = k.record(ctx, k.entry(l.request, actRenew, audit.OK, v.Fingerprint, map[string]string{
		"version": strconv.Itoa(v.Number), "instead_of": strconv.Itoa(current.Number), "lease": strconv.FormatInt(l.entry, 10),
	}))
	if err != nil {
		return Version{}, Token{}, err
	}
	token, err := k.read(ctx, l.request, v)
	if err != nil {
		return Version{}, Token{}, k.refuse(ctx, l.request, actRenew, v.Fingerprint, err)
	}
	return v, token, nil
}

// Fingerprint identifies the token for people. It stays known after Close.
func (l *Lease) Fingerprint() string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.version.Fingerprint
}

// Requests is how many requests the lease has authorised.
func (l *Lease) Requests() int64 { return l.requests.Load() }

// Close ends the lease, audited with the number of requests that it authorised, even when ctx has ended. The lease is
// closed whatever Close returns; closing it again does nothing.
func (l *Lease) Close(ctx context.Context) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	if l.beat != nil {
		l.beat.Stop()
	}
	fingerprint := l.version.Fingerprint
	if l.own {
		l.token.wipe()
	}
	l.token = Token{}
	l.mu.Unlock()
	detail := map[string]string{
		"requests": strconv.FormatInt(l.requests.Load(), 10),
		"lease":    strconv.FormatInt(l.entry, 10),
	}
	if n := l.refusals.Load(); n > 0 {
		detail["refused"] = strconv.FormatInt(n, 10)
	}
	_, err := l.keeper.record(context.WithoutCancel(ctx), l.keeper.entry(l.request, actRelease, audit.OK, fingerprint, detail))
	if errors.Is(err, audit.ErrClosed) {
		return fmt.Errorf("secrets: the audit log was closed before the lease: %w", err)
	}
	return err
}
