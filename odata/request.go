package odata

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/sony/gobreaker/v2"
)

// content is what an answer must be.
type content uint8

const (
	wantJSON content = iota
	wantXML
	wantText // text/plain, or a JSON number
)

func (w content) accept() string {
	return [...]string{"application/json", "application/xml", "text/plain, application/json;q=0.5"}[w]
}

// admits reports whether a media type is what is wanted. A server that does not say is judged by what it sends.
func (w content) admits(contentType string) bool {
	if contentType == "" {
		return true
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	isJSON := media == "application/json" || media == "text/json" || strings.HasSuffix(media, "+json")
	switch w {
	case wantJSON:
		return isJSON
	case wantXML:
		return media == "application/xml" || media == "text/xml" ||
			strings.HasSuffix(media, "+xml") && media != "application/xhtml+xml"
	}
	return isJSON || media == "text/plain"
}

// traffic counts what was sent and read.
type traffic struct{ requests, retries, bytes int64 }

// call is one question to the instance, with everything that its repetition needs.
type call struct {
	table   string
	url     *url.URL
	want    content
	open    bool // sent without credential
	link    bool // the address is a next link: its text is the server's and is not shown
	tries   int  // 0 = RetryPolicy.Attempts
	traffic *traffic

	// read takes the body. It is called anew for every try, and must then begin anew. Errors of its
	// own are final, unless they are the decoder's for a damaged answer.
	read func(io.Reader) error
	// spent, if set, is asked after a failure: true means that the answer has been used in part, so
	// that its repetition is the caller's matter. The failure then does not count against the instance.
	// cut says that the answer ended too early, rather than being damaged.
	spent func(cut bool) bool
	// start, if set, is called before every try.
	start func()

	secret *string // what went out with the last try, to be kept out of what the server says; never nil inside do

	// answered, if set, is called when an answer begins. hangup ends that as a cut would, for a reader that cannot go on for now; any goroutine may call it.
	answered func(hangup func())

	other    bool      // ask for the content coding that is not the chosen one
	transfer *transfer // if set, how the answer came
}

func (s *Session) asked(c *call) Asked {
	a := Asked{Method: http.MethodGet, Path: c.path(), Table: c.table}
	if !c.open {
		a.Fingerprint = s.auth.Fingerprint()
	}
	return a
}

// path is the path of the address for messages and logs.
func (c *call) path() string {
	if c.link {
		return "next link of " + c.table
	}
	return c.url.Path
}

// bodyError is an answer that began well and is damaged or cut. It is also what is left of a request
// that got no answer at all.
type bodyError struct {
	Asked
	reason string
	cut    bool // ended too early (or never began), rather than damaged
	used   bool // call.spent
	err    error
}

func (e *bodyError) Error() string { return fmt.Sprintf("odata: %s: %s", e.Asked, e.reason) }
func (e *bodyError) Unwrap() error { return e.err }

// fate is what becomes of a request.
type fate uint8

const (
	fateDone fate = iota
	fateFinal
	fateRepeat // counts against the instance
	fateBusy   // 429
	fateRenew  // 401
)

func fateOf(err error) fate {
	var (
		gone   *UnavailableError
		status *StatusError
		body   *bodyError
	)
	switch {
	case err == nil:
		return fateDone
	case errors.As(err, &gone): // an open breaker; it wraps the failure that opened it
		return fateFinal
	case errors.As(err, &body):
		if body.used {
			return fateFinal
		}
		return fateRepeat
	case errors.As(err, &status):
		switch {
		case status.Status == http.StatusTooManyRequests:
			return fateBusy
		case status.Status == http.StatusUnauthorized:
			return fateRenew
		case status.Status >= 500:
			return fateRepeat
		}
	}
	return fateFinal
}

// uncounted reports what says nothing about the instance's health: a caller that stops, an instance that
// asks for patience, an answer that broke off after it had brought something.
func uncounted(err error) bool {
	var (
		stopped *canceledError
		body    *bodyError
	)
	return errors.As(err, &stopped) || fateOf(err) == fateBusy || errors.As(err, &body) && body.used
}

// do asks until there is an answer, or a reason why there will be none:
// retry( breaker( fetch + read )) over limit · credential · transport.
func (s *Session) do(ctx context.Context, c call) error {
	policy := s.c.opts.Retry
	if c.tries == 0 {
		c.tries = policy.Attempts
	}
	if c.traffic == nil {
		c.traffic = new(traffic)
	}
	if c.secret == nil {
		c.secret = new(string)
	}
	p := newPatience(policy)
	renewed, failures := false, 0
	for {
		used := s.fingerprint(&c)
		err := c.scrub(s, s.try(ctx, &c))
		switch fateOf(err) {
		case fateDone, fateFinal:
			return err
		case fateRenew:
			if err := s.renew(ctx, &c, used, renewed); err != nil {
				return err
			}
			renewed = true
			c.traffic.retries++
			continue
		case fateRepeat:
			if failures++; failures >= c.tries {
				return s.exhausted(&c, err)
			}
		}
		if err := p.wait(ctx, err); err != nil {
			var long *tooLong
			if errors.As(err, &long) {
				return s.unavailable(&c, long.text(), long.wait, long.cause)
			}
			return err
		}
		s.c.log.Info("asking again", "path", c.path(), "table", c.table, "why", shortCause(err))
		c.traffic.retries++
	}
}

// try asks once.
func (s *Session) try(ctx context.Context, c *call) error {
	if s.c.breaker.State() == gobreaker.StateOpen {
		return s.breakerOpen(c)
	}
	release, err := s.c.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	ran := false
	_, err = s.c.breaker.Execute(func() (struct{}, error) {
		ran = true
		return struct{}{}, s.exchange(ctx, c)
	})
	if !ran {
		return s.breakerOpen(c)
	}
	if fateOf(err) == fateRepeat && !uncounted(err) {
		kept := c.scrub(s, err)
		s.c.lastFailure.Store(&kept)
	}
	return err
}

func (s *Session) breakerOpen(c *call) error {
	reason, cause := "it failed too often in a row", error(nil)
	if last := s.c.lastFailure.Load(); last != nil {
		cause = *last
		reason += " (the last: " + shortCause(cause) + ")"
	}
	return s.unavailable(c, reason+" and is left alone for a while", s.c.opts.Breaker.OpenFor, cause)
}

func (s *Session) unavailable(c *call, reason string, after time.Duration, cause error) error {
	return &UnavailableError{Asked: s.asked(c), Instance: s.c.opts.Name, Reason: reason, RetryAfter: after, Err: cause}
}

// exhausted is the last failure of several. A server that keeps sending damaged JSON has a fault of its own.
func (s *Session) exhausted(c *call, err error) error {
	var body *bodyError
	if errors.As(err, &body) && !body.cut {
		return &ProtocolError{Asked: s.asked(c), Reason: fmt.Sprintf("%d answers in a row were damaged: %s", c.tries, body.reason), Err: body.err}
	}
	return s.unavailable(c, fmt.Sprintf("no good answer in %d tries, the last: %s", c.tries, shortCause(err)), 0, err)
}

func shortCause(err error) string {
	var (
		status *StatusError
		body   *bodyError
	)
	switch {
	case errors.As(err, &status):
		return fmt.Sprintf("status %d", status.Status)
	case errors.As(err, &body):
		return body.reason
	}
	return "failure"
}

// renew fetches the credential again after a 401, unless another scan of this session has done so since.
func (s *Session) renew(ctx context.Context, c *call, used string, renewed bool) error {
	refused := func(reason string, err error) error {
		return &CredentialError{Asked: s.asked(c), Reason: reason, Err: err}
	}
	if c.open {
		return refused("the server wants a credential where none is sent (401)", nil)
	}
	if renewed {
		return refused("the token was refused (401), and so was the one that was fetched after it: it has expired or was revoked; stage and activate a new one", nil)
	}
	s.renewing.Lock()
	defer s.renewing.Unlock()
	if s.auth.Fingerprint() != used {
		return nil
	}
	if err := s.auth.Renew(ctx); err != nil {
		if ctx.Err() != nil {
			return canceled(ctx)
		}
		return refused("the token was refused (401), and there is no newer one: it has expired or was revoked; stage and activate a new one", err)
	}
	return nil
}

func (s *Session) fingerprint(c *call) string {
	if c.open {
		return ""
	}
	return s.auth.Fingerprint()
}

// exchange is one request and its answer.
func (s *Session) exchange(outer context.Context, c *call) (err error) {
	outer, seen := s.span(outer, c)
	defer func() { seen.end(err) }()
	ctx, cancel := context.WithCancelCause(outer)
	defer cancel(nil)
	if c.start != nil {
		c.start()
	}
	req, secret, err := s.newRequest(ctx, c)
	if err != nil {
		return err
	}
	*c.secret = secret
	c.traffic.requests++
	s.c.log.Debug("ask", "path", c.path(), "table", c.table) // the query holds keys and filter values
	o := &s.c.opts
	asked := time.Now()
	header := time.AfterFunc(2*o.ConnectTimeout+o.HeaderTimeout, func() { cancel(errNoHeader) })
	resp, err := s.c.rt.RoundTrip(req)
	header.Stop()
	if err != nil {
		s.c.counters.answered(0, 0)
		return s.broken(outer, ctx, c, err)
	}
	s.c.counters.answered(resp.StatusCode, time.Since(asked))
	seen.answered(resp.StatusCode)
	if c.answered != nil {
		c.answered(func() { cancel(errStalled) })
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return s.refused(c, resp, secret, cancel)
	}
	if ct := resp.Header.Get("Content-Type"); !c.want.admits(ct) {
		return &AuthenticationPageError{Asked: s.asked(c), Status: resp.StatusCode, Reason: "a page of another type than data was sent"}
	}
	b, err := newBody(resp, &s.c.inflaters, o.IdleTimeout, cancel)
	if errors.Is(err, errCoding) {
		return &ProtocolError{Asked: s.asked(c), Reason: err.Error()}
	} else if err != nil {
		return s.broken(outer, ctx, c, err)
	}
	defer func() {
		cancel(nil) // breaks a read that still waits for the network, for which close waits
		b.close()
		c.traffic.bytes += b.bytes
	}()
	p := peek(b)
	if htmlPage(c.want, p.head) {
		return &AuthenticationPageError{Asked: s.asked(c), Status: resp.StatusCode, Reason: "an HTML page was sent in place of data"}
	}
	err = c.read(p)
	if err == nil {
		err = b.finish()
	}
	if err == nil && c.transfer != nil { // finish has seen the end, so nothing is read any more
		*c.transfer = transfer{packed: b.packed != nil, json: b.bytes, took: time.Since(asked), waited: b.wire.waited}
	}
	if b.err != nil && errors.Is(b.err, errDamaged) && resp.Header.Get("Content-Encoding") == "zstd" {
		s.c.codings.dropZstd()
	}
	return s.judgeBody(outer, ctx, c, b, err)
}

// htmlPage reports whether a body begins like an HTML page.
func htmlPage(want content, head []byte) bool {
	head = bytes.ToLower(bytes.TrimLeft(head, "\ufeff \t\r\n"))
	if want != wantXML {
		return bytes.HasPrefix(head, []byte("<"))
	}
	return bytes.HasPrefix(head, []byte("<!doctype html")) || bytes.HasPrefix(head, []byte("<html"))
}

// judgeBody tells what the reader of a body has found from what happened to the body.
func (s *Session) judgeBody(outer, ctx context.Context, c *call, b *body, err error) error {
	if err == nil {
		return nil
	}
	var (
		inspected *inspectedError
		malformed *MalformedError
		inStream  *InStreamError
	)
	switch {
	case errors.As(err, &inspected):
		return err
	case errors.Is(err, errStop):
		return err
	case b.err != nil:
		return s.broken(outer, ctx, c, b.err)
	case errors.Is(err, ErrTruncated):
		return s.damaged(c, true, "the answer ended in the middle", err)
	case errors.As(err, &malformed), errors.As(err, &inStream):
		return s.damaged(c, false, err.Error(), err)
	}
	return err
}

func (s *Session) damaged(c *call, cut bool, reason string, err error) error {
	return &bodyError{Asked: s.asked(c), reason: reason, cut: cut, used: c.spent != nil && c.spent(cut), err: err}
}

// broken is a request or a body that failed on the network.
func (s *Session) broken(outer, ctx context.Context, c *call, err error) error {
	if outer.Err() != nil {
		return canceled(outer)
	}
	if cause := context.Cause(ctx); errors.Is(cause, errSilent) || errors.Is(cause, errNoHeader) || errors.Is(cause, errStalled) {
		err = cause
	}
	if problem := certificateProblem(err); problem != "" {
		return &AddressError{Setting: "url of instance " + s.c.opts.Name + " (or ca_file)", Reason: problem, Err: err}
	}
	return s.damaged(c, true, describe(err), err)
}

// newRequest builds the request and puts the credential on it. The secret is returned so that it can be
// kept out of what the server says.
func (s *Session) newRequest(ctx context.Context, c *call) (req *http.Request, secret string, err error) {
	req, err = http.NewRequestWithContext(ctx, http.MethodGet, c.url.String(), nil)
	if err != nil {
		return nil, "", &AddressError{Setting: "url", Reason: "is not an address that can be asked"}
	}
	req.Header.Set("User-Agent", s.c.opts.UserAgent)
	req.Header.Set("Accept", c.want.accept())
	req.Header.Set("Accept-Encoding", s.c.codings.header(c.other))
	if c.want == wantJSON {
		req.Header.Set("OData-MaxVersion", "4.01")
	}
	if c.open {
		return req, "", nil
	}
	// A credential never leaves for another host, whatever the Authorizer thinks of it.
	if hostOf(c.url) != s.c.host || refuseAddress(c.url, s.c.opts.Sandbox) != "" {
		return nil, "", &AddressError{Setting: "url", Reason: "the token of " + s.c.host + " must not be sent to " + hostOf(c.url)}
	}
	before := req.Header.Clone()
	if err := s.auth.Authorize(ctx, req); err != nil {
		if ctx.Err() != nil {
			return nil, "", canceled(ctx)
		}
		return nil, "", &CredentialError{Asked: s.asked(c), Reason: "there is no token to send for this host", Err: err}
	}
	for name := range req.Header { // whatever header it is that carries the credential
		if value := req.Header.Get(name); value != before.Get(name) {
			if secret = value; name == "Authorization" {
				_, secret, _ = strings.Cut(value, " ")
			}
		}
	}
	return req, strings.TrimSpace(secret), nil
}

// refused reads an answer that is not 200.
func (s *Session) refused(c *call, resp *http.Response, secret string, cancel context.CancelCauseFunc) error {
	status := resp.StatusCode
	if status >= 300 && status < 400 && loginAddress(resp.Header.Get("Location"), c.url) {
		return &AuthenticationPageError{Asked: s.asked(c), Status: status, Reason: "the server redirects to a login page"}
	}
	if status >= 200 && status < 300 {
		return &ProtocolError{Asked: s.asked(c), Reason: fmt.Sprintf("the server answered %d where only 200 carries data", status)}
	}
	e := &StatusError{Asked: s.asked(c), Status: status, RetryAfter: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	if b, err := newBody(resp, &s.c.inflaters, s.c.opts.IdleTimeout, cancel); err == nil {
		defer func() { cancel(nil); b.close() }()
		text, _ := io.ReadAll(io.LimitReader(b, 64<<10))
		e.Code, e.Type = errorCode(text, secret)
	}
	return e
}

// errorCode reads the fields code and type of an error body: those of the instance ({message, code,
// type, info}, info may hold a stack trace) or OData's ({error: {code}}).
func errorCode(text []byte, secret string) (code, typ string) {
	var e struct {
		Code  json.RawMessage `json:"code"`
		Type  json.RawMessage `json:"type"`
		Error struct {
			Code json.RawMessage `json:"code"`
		} `json:"error"`
	}
	if json.Unmarshal(text, &e) != nil {
		return "", ""
	}
	word := func(raw json.RawMessage) string {
		var text string
		if json.Unmarshal(raw, &text) == nil {
			return sanitize(text, secret)
		}
		var n json.Number
		if json.Unmarshal(raw, &n) == nil {
			return sanitize(n.String(), secret)
		}
		return ""
	}
	code = word(e.Code)
	if code == "" {
		code = word(e.Error.Code)
	}
	return code, word(e.Type)
}

// retryAfter reads a Retry-After header: seconds, or a date (RFC 9110, section 10.2.3).
func retryAfter(text string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
}

// patience waits between the tries of one question.
type patience struct {
	policy RetryPolicy
	back   *backoff.ExponentialBackOff
	waited time.Duration
}

func newPatience(p RetryPolicy) *patience {
	// Full jitter is a wait anywhere between 0 and the cap: half the cap, give or take all of it.
	b := &backoff.ExponentialBackOff{InitialInterval: p.Base / 2, RandomizationFactor: 1, Multiplier: 2, MaxInterval: p.Max / 2}
	b.Reset()
	return &patience{policy: p, back: b}
}

func (p *patience) reset() { p.back.Reset(); p.waited = 0 }

// tooLong says that a wait would go beyond the policy.
type tooLong struct {
	wait  time.Duration
	most  time.Duration
	cause error
}

func (e *tooLong) Error() string { return e.text() }
func (e *tooLong) text() string {
	return fmt.Sprintf("waiting for it would take longer than %s (%s)", seconds(e.most), shortCause(e.cause))
}

// wait sleeps as the server asks, or as long as the backoff says, whichever is longer. What the server
// asks is lengthened by a little chance, so that many who were refused together do not return together.
func (p *patience) wait(ctx context.Context, cause error) error {
	wait := p.back.NextBackOff()
	var status *StatusError
	if errors.As(cause, &status) && status.RetryAfter > 0 {
		wait = max(wait, status.RetryAfter+rand.N(p.policy.Base))
	}
	if p.waited+wait > p.policy.MaxWait {
		return &tooLong{wait: wait, most: p.policy.MaxWait, cause: cause}
	}
	p.waited += wait
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return canceled(ctx)
	}
}

// scrub replaces an error whose text holds the credential, or a part of it: names that the server chose get into messages,
// and it may choose what it was sent.
func (c *call) scrub(s *Session, err error) error {
	if err == nil || !holdsSecret(err.Error(), *c.secret) {
		return err
	}
	a := s.asked(c)
	if holdsSecret(a.Path, *c.secret) {
		a.Path = "an address of the server's choice"
	}
	return &ProtocolError{Asked: a, Reason: "the server's answer repeats the token where it would be shown; nothing of the answer is kept. Revoke the token: it may have been logged on the way"}
}

// holdsSecret reports whether text holds secret, or twelve bytes of it in a row.
func holdsSecret(text, secret string) bool {
	const part = 12
	if secret == "" {
		return false
	}
	if len(secret) <= part {
		return strings.Contains(text, secret)
	}
	for i := 0; i+part <= len(secret); i++ {
		if strings.Contains(text, secret[i:i+part]) {
			return true
		}
	}
	return false
}
