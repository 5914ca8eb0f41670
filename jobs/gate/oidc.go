package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/time/rate"
)

// algorithms are those of public keys: with none of them can a token be made by whoever knows the key that verifies it. "none" and
// the HS family are not among them (RFC 8725, section 3.1).
var algorithms = []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA}

// MaxSkew bounds how far clocks may differ.
const MaxSkew = 5 * time.Minute

// OIDC proves bearer tokens that an OpenID provider has signed: access tokens in the form of JWTs (RFC 9068), or ID tokens. The
// provider's address of keys comes from its discovery document; keys are fetched when a token names one that is not known, at most
// once in ten seconds after a few. A token must be of the issuer, for the audience, and in its time, give or take Skew.
type OIDC struct {
	Issuer   string
	Audience string
	Claim    string            // where the roles stand, "roles" or "realm_access.roles": a text, or a list of texts
	Roles    map[string][]Role // by the claim's texts
	Skew     time.Duration     // at most MaxSkew
	Client   *http.Client      // nil: http.DefaultTransport, ten seconds
	Now      func() time.Time  // nil: time.Now

	mu       sync.Mutex
	verifier *oidc.IDTokenVerifier
	tried    time.Time // when discovery failed last
	failure  error
}

// discoverEvery is how long a provider that does not answer is left alone.
const discoverEvery = 5 * time.Second

func (o *OIDC) now() time.Time {
	if o.Now == nil {
		return time.Now()
	}
	return o.Now()
}

// discovered is the verifier. The program starts and serves health without the provider; a provider that was not there is asked again.
func (o *OIDC) discovered(ctx context.Context) (*oidc.IDTokenVerifier, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.verifier != nil {
		return o.verifier, nil
	}
	if o.failure != nil && time.Since(o.tried) < discoverEvery {
		return nil, o.failure
	}
	client := o.Client
	if client == nil {
		client = &http.Client{Timeout: 10 * time.Second}
	}
	bounded := *client
	bounded.Transport = &frugal{next: client.Transport, fetches: rate.NewLimiter(rate.Every(10*time.Second), 5)}
	bounded.CheckRedirect = func(*http.Request, []*http.Request) error {
		return errors.New("the issuer answers with a redirect, which is not followed")
	}
	// The verifier keeps the context for later fetches, so it must not be that of one request.
	provider, err := oidc.NewProvider(oidc.ClientContext(context.WithoutCancel(ctx), &bounded), o.Issuer)
	if err != nil {
		o.tried, o.failure = time.Now(), fmt.Errorf("%w: %w", ErrUnavailable, err)
		return nil, o.failure
	}
	o.verifier = provider.VerifierContext(oidc.ClientContext(context.WithoutCancel(ctx), &bounded), &oidc.Config{
		ClientID: o.Audience, SupportedSigningAlgs: algorithms, SkipExpiryCheck: true}) // times are looked at below, with the skew
	return o.verifier, nil
}

// frugal bounds what is asked of the provider, and what it may answer.
type frugal struct {
	next    http.RoundTripper
	fetches *rate.Limiter
}

// errFrugal is why keys are not fetched.
var errFrugal = errors.New("gate: the issuer's keys were fetched often enough for now")

// RoundTrip implements http.RoundTripper.
func (f *frugal) RoundTrip(r *http.Request) (*http.Response, error) {
	if !f.fetches.Allow() {
		return nil, errFrugal
	}
	next := f.next
	if next == nil {
		next = http.DefaultTransport
	}
	response, err := next.RoundTrip(r)
	if err == nil {
		response.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(response.Body, 1<<20), response.Body}
	}
	return response, err
}

// times are the claims that bound a token's life, in seconds since 1970; a fraction is allowed (RFC 7519, section 2).
type times struct {
	Expires   *float64 `json:"exp"`
	NotBefore *float64 `json:"nbf"`
	Issued    *float64 `json:"iat"`
}

func instant(seconds float64) time.Time { return time.UnixMilli(int64(seconds * 1000)) }

// Verify implements Verifier. Its errors name claims, never the token.
func (o *OIDC) Verify(ctx context.Context, token string) (Caller, error) {
	verifier, err := o.discovered(ctx)
	if err != nil {
		return Caller{}, err
	}
	proven, err := verifier.Verify(ctx, token)
	if err != nil {
		if strings.Contains(err.Error(), "fetching keys") && !strings.Contains(err.Error(), errFrugal.Error()) {
			return Caller{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return Caller{}, fmt.Errorf("gate: %w", err)
	}
	var life times
	claims := map[string]any{}
	if err := errors.Join(proven.Claims(&life), proven.Claims(&claims)); err != nil {
		return Caller{}, fmt.Errorf("gate: the token's claims: %w", err)
	}
	now, skew := o.now(), min(o.Skew, MaxSkew)
	switch {
	case life.Expires == nil:
		return Caller{}, errors.New("gate: the token has no expiry")
	case !now.Before(instant(*life.Expires).Add(skew)):
		return Caller{}, errors.New("gate: the token has expired")
	case life.NotBefore != nil && now.Before(instant(*life.NotBefore).Add(-skew)):
		return Caller{}, errors.New("gate: the token is not valid yet")
	case life.Issued != nil && now.Before(instant(*life.Issued).Add(-skew)):
		return Caller{}, errors.New("gate: the token was issued in the future")
	case proven.Subject == "":
		return Caller{}, errors.New("gate: the token has no subject")
	}
	c := Caller{Name: "oidc:" + proven.Subject}
	for _, text := range texts(claims, o.Claim) {
		c.Roles = append(c.Roles, o.Roles[text]...)
	}
	return c, nil
}

// texts are what a claim holds, by its path. A name with dots that is there as it is comes first.
func texts(claims map[string]any, path string) []string {
	v := claims[path]
	if v == nil {
		v = claims
		for name := range strings.SplitSeq(path, ".") {
			object, _ := v.(map[string]any)
			v = object[name]
		}
	}
	switch v := v.(type) {
	case string:
		return strings.Fields(v)
	case []any:
		var out []string
		for _, e := range v {
			if text, ok := e.(string); ok {
				out = append(out, text)
			}
		}
		return out
	}
	return nil
}
