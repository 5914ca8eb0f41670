package secrets

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// The facts about client credentials that callers can tell apart.
var (
	// ErrClient means that the identity server does not accept the client, its secret or what it asks for.
	ErrClient = errors.New("secrets: the identity server refuses the client")
	// ErrScopes means that a token carries other scopes than are allowed.
	ErrScopes = errors.New("secrets: the token carries scopes that are not allowed")
)

// Limits of the identity server's answers and of a token's life.
const (
	maxIdentityAnswer = 256 << 10
	identityTimeout   = 30 * time.Second
	shortestLife      = 30 * time.Second
	renewFrom         = 0.70 // of its life, from where a token is renewed ahead of its end,
	renewTo           = 0.85 // at a point in between that is drawn anew each time: a fleet must not ask as one
	retryRenewal      = 20 * time.Second
)

// ClientCredentials turns a client secret, which is what the vault keeps then, into access tokens of an identity server (OAuth 2.0, RFC 6749
// section 4.4; discovery by OpenID Connect). One is made for each instance and process, and shared by all leases: it holds one access token at a
// time, asks for it once however many want it, and renews it ahead of its end. It is safe for concurrent use.
//
// The secret goes to the host of the token's binding and nowhere else: identity server and instance share it. Lives are measured
// by this machine's clock from the answer on, so that the two clocks need not agree.
type ClientCredentials struct {
	Issuer   string   // address of the identity server, such as https://acme.my.erp.net/id; plain http only for loopback addresses in a sandbox
	ClientID string   // of the trusted application
	Scopes   []string // to ask for ("read"); what is granted must be among these, and hold all of them
	// AllowUpdate accepts the scope "update", which lets a token write. Without it a token that carries it is refused, asked for or not.
	AllowUpdate bool
	Client      *http.Client // nil = one of its own, which follows no redirect

	mu       sync.Mutex // held while a token is fetched: whoever else wants it waits for that one
	endpoint string     // of tokens, once discovered
	access   Token
	secret   string // fingerprint of the client secret that gave access
	renewAt  time.Time
	endAt    time.Time
}

// Fresh is c without the access token that it holds: to prove another client secret beside the one in use.
func (c *ClientCredentials) Fresh() *ClientCredentials {
	return &ClientCredentials{Issuer: c.Issuer, ClientID: c.ClientID, Scopes: c.Scopes, AllowUpdate: c.AllowUpdate, Client: c.Client}
}

// identityAnswer is what the token endpoint says.
type identityAnswer struct {
	AccessToken string  `json:"access_token"`
	TokenType   string  `json:"token_type"`
	ExpiresIn   float64 `json:"expires_in"`
	Scope       string  `json:"scope"`
	Error       string  `json:"error"`
}

// current gives the access token, a new one if it is time or if stale is the one that there is (the zero Token: any will do). record is
// called around each exchange; its error ends it.
func (c *ClientCredentials) current(ctx context.Context, host, environment string, secret Token, fingerprint string, stale Token,
	record func(outcome string, detail map[string]string) error) (Token, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	good := !c.access.IsZero() && c.secret == fingerprint && now.Before(c.endAt) && (stale.IsZero() || !c.access.Equal(stale))
	if good && now.Before(c.renewAt) {
		return c.access, nil
	}
	if err := record("started", map[string]string{"client": c.ClientID, "scopes": strings.Join(c.scopes(), " ")}); err != nil {
		return Token{}, err
	}
	got, granted, life, err := c.exchange(ctx, host, environment, secret)
	if err != nil {
		err = errors.Join(err, record("failed", map[string]string{"reason": err.Error()}))
		if good && !errors.Is(err, ErrAudit) && !errors.Is(err, ErrScopes) { // it is still good for a while
			c.renewAt = now.Add(retryRenewal)
			return c.access, nil
		}
		return Token{}, err
	}
	if err := record("ok", map[string]string{"granted": strings.Join(granted, " "), "seconds": fmt.Sprint(int(life.Seconds()))}); err != nil {
		got.wipe()
		return Token{}, err
	}
	// The one before is not wiped: a request may be carrying it just now. It ends by itself.
	c.access, c.secret, c.endAt = got, fingerprint, now.Add(life)
	c.renewAt = now.Add(time.Duration(float64(life) * (renewFrom + rand.Float64()*(renewTo-renewFrom)))) // #nosec G404 -- jitter is no secret
	return c.access, nil
}

func (c *ClientCredentials) scopes() []string {
	if len(c.Scopes) == 0 {
		return []string{"read"}
	}
	return c.Scopes
}

// exchange fetches one access token.
func (c *ClientCredentials) exchange(ctx context.Context, host, environment string, secret Token) (got Token, granted []string, life time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, identityTimeout)
	defer cancel()
	issuer, err := c.issuer(host, environment)
	if err != nil {
		return got, nil, 0, err
	}
	if c.endpoint == "" {
		if c.endpoint, err = c.discover(ctx, issuer); err != nil {
			return got, nil, 0, err
		}
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {c.ClientID}, "scope": {strings.Join(c.scopes(), " ")}}
	Reveal(secret, func(value []byte) { form.Set("client_secret", string(value)) })
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return got, nil, 0, fmt.Errorf("%w: the token endpoint of %s is no address", ErrSetup, issuer.Host)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer, err := c.ask(req, issuer)
	if err != nil {
		c.endpoint = "" // it may have moved
		return got, nil, 0, err
	}
	if answer.Error != "" || answer.AccessToken == "" {
		return got, nil, 0, c.refusal(answer.Error, issuer.Host)
	}
	if got, err = NewToken([]byte(answer.AccessToken)); err != nil || !strings.EqualFold(answer.TokenType, "Bearer") {
		return Token{}, nil, 0, fmt.Errorf("%w: %s gave something that is no bearer token", ErrUnavailable, issuer.Host)
	}
	if granted, err = c.allowed(answer, got); err != nil {
		got.wipe()
		return Token{}, nil, 0, err
	}
	life = max(time.Duration(answer.ExpiresIn*float64(time.Second)), shortestLife)
	return got, granted, min(life, 24*time.Hour), nil
}

// issuer checks the address of the identity server against what the secret is bound to.
func (c *ClientCredentials) issuer(host, environment string) (*url.URL, error) {
	u, err := url.Parse(c.Issuer)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%w: the address of the identity server must be like https://acme.my.erp.net/id", ErrSetup)
	case u.Scheme != "https" && (u.Scheme != "http" || environment != Sandbox || !Loopback(u.Host)):
		return nil, fmt.Errorf("%w: the identity server must be asked by https (plain http is for loopback addresses in a sandbox)", ErrBinding)
	case !sameHost(u.Host, host, u.Scheme):
		return nil, &BindingError{Name: c.ClientID, Part: "host", Bound: host, Asked: u.Host}
	}
	return u, nil
}

// discover finds the token endpoint. One on another host, or by another scheme, is refused: the secret would go there.
func (c *ClientCredentials) discover(ctx context.Context, issuer *url.URL) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, issuer.JoinPath(".well-known/openid-configuration").String(), nil)
	if err != nil {
		return "", fmt.Errorf("%w: the address of the identity server cannot be asked", ErrSetup)
	}
	var document struct {
		Issuer   string `json:"issuer"`
		Endpoint string `json:"token_endpoint"`
	}
	status, err := c.json(req, issuer, &document)
	if err != nil {
		return "", err
	}
	if status != http.StatusOK || document.Endpoint == "" {
		return "", fmt.Errorf("%w: %s has no discovery document (%d); check the address of the identity server", ErrSetup, issuer.Host, status)
	}
	u, err := url.Parse(document.Endpoint)
	if err != nil || u.User != nil || u.Scheme != issuer.Scheme || !sameHost(u.Host, issuer.Host, issuer.Scheme) {
		return "", fmt.Errorf("%w: %s names a token endpoint on another host or by another scheme; the client secret is not sent there", ErrBinding, issuer.Host)
	}
	if strings.TrimSuffix(document.Issuer, "/") != strings.TrimSuffix(issuer.String(), "/") {
		return "", fmt.Errorf("%w: the discovery document of %s speaks for another issuer", ErrBinding, issuer.Host)
	}
	return document.Endpoint, nil
}

// ask sends the exchange.
func (c *ClientCredentials) ask(req *http.Request, issuer *url.URL) (identityAnswer, error) {
	var answer identityAnswer
	status, err := c.json(req, issuer, &answer)
	switch {
	case err != nil:
		return answer, err
	case status == http.StatusTooManyRequests || status >= 500:
		return answer, fmt.Errorf("%w: the identity server %s answers %d; try again later", ErrUnavailable, issuer.Host, status)
	case status != http.StatusOK && answer.Error == "":
		return answer, fmt.Errorf("%w: the identity server %s answers %d", ErrClient, issuer.Host, status)
	}
	return answer, nil
}

// json sends req and reads a small JSON answer. No message holds any of it: the server may repeat what it was sent.
func (c *ClientCredentials) json(req *http.Request, issuer *url.URL, into any) (status int, err error) {
	client := c.Client
	if client == nil {
		client = identityClient
	}
	resp, err := client.Do(req)
	if err != nil {
		if req.Context().Err() != nil {
			return 0, fmt.Errorf("%w: the identity server %s was not asked to the end: %w", ErrUnavailable, issuer.Host, req.Context().Err())
		}
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return 0, fmt.Errorf("%w: the identity server %s cannot be reached: %w", ErrUnavailable, issuer.Host, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxIdentityAnswer))
	defer clear(body)
	if err != nil {
		return 0, fmt.Errorf("%w: the answer of the identity server %s broke off", ErrUnavailable, issuer.Host)
	}
	if json.Unmarshal(body, into) != nil && resp.StatusCode == http.StatusOK {
		return 0, fmt.Errorf("%w: the identity server %s answers with something else than JSON", ErrUnavailable, issuer.Host)
	}
	return resp.StatusCode, nil
}

// identityClient follows no redirect: a secret would go with it.
var identityClient = &http.Client{
	Timeout:       identityTimeout,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// refusal turns an error code of RFC 6749 section 5.2 into what to do. Other codes are not repeated.
func (c *ClientCredentials) refusal(code, host string) error {
	advice := map[string]string{
		"invalid_client":         "check client_id, and stage the current client secret",
		"unauthorized_client":    "the application may not use client credentials; an administrator allows it (System User, Confidential client)",
		"invalid_scope":          "the application does not have the scopes that are asked for",
		"invalid_grant":          "the application is not installed or not enabled in this instance",
		"unsupported_grant_type": "the identity server does not know client credentials",
		"invalid_request":        "the identity server does not understand the request",
	}[code]
	if advice == "" {
		code, advice = "an unknown reason", "look at the identity server's log"
	}
	return fmt.Errorf("%w: %s says %s to %s: %s", ErrClient, host, code, c.ClientID, advice)
}

// allowed holds what was granted, by the answer and by the token itself where it is a JWT, to what is allowed.
func (c *ClientCredentials) allowed(answer identityAnswer, token Token) ([]string, error) {
	granted := strings.Fields(answer.Scope)
	for _, s := range jwtScopes(token) {
		if !slices.Contains(granted, s) {
			granted = append(granted, s)
		}
	}
	if len(granted) == 0 {
		granted = c.scopes() // RFC 6749 section 5.1: left out if it is what was asked for
	}
	for _, s := range granted {
		if s == "update" && !c.AllowUpdate {
			return nil, fmt.Errorf("%w: it may write (update); give the application the scope read alone, or set allow_update", ErrScopes)
		}
		if !slices.Contains(c.scopes(), s) {
			return nil, fmt.Errorf("%w: more was granted than was asked for; give the application no other scopes than %s", ErrScopes, strings.Join(c.scopes(), " "))
		}
	}
	for _, s := range c.scopes() {
		if !slices.Contains(granted, s) {
			return nil, fmt.Errorf("%w: %s was asked for and not granted", ErrScopes, s)
		}
	}
	return granted, nil
}

// jwtScopes reads the claim "scope" of a JWT, a list or a text; nil for what is no JWT. The signature is not looked at: the token came straight
// from its issuer, and this only makes the judgement stricter.
func jwtScopes(token Token) (scopes []string) {
	Reveal(token, func(value []byte) {
		parts := strings.Split(string(value), ".")
		if len(parts) != 3 {
			return
		}
		body, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			return
		}
		var claims struct {
			Scope json.RawMessage `json:"scope"`
		}
		if json.Unmarshal(body, &claims) != nil {
			return
		}
		var text string
		if json.Unmarshal(claims.Scope, &scopes) != nil && json.Unmarshal(claims.Scope, &text) == nil {
			scopes = strings.Fields(text)
		}
	})
	return scopes
}
