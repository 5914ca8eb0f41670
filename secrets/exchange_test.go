package secrets_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tablexport/tablexport/odata/simulator"
	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/secretstest"
)

// inside is an HTTP client that reaches a handler without a network, so that it works under synctest.
type inside struct {
	handler   http.Handler
	exchanges atomic.Int64
	down      atomic.Bool
}

func (i *inside) RoundTrip(r *http.Request) (*http.Response, error) {
	if i.down.Load() {
		return nil, errors.New("no route to host")
	}
	if r.Method == http.MethodPost {
		i.exchanges.Add(1)
	}
	r = r.Clone(r.Context())
	r.RequestURI = r.URL.RequestURI()
	w := httptest.NewRecorder()
	i.handler.ServeHTTP(w, r)
	return w.Result(), nil
}

// identity is the simulator's identity server with one application, and a lease on its client secret.
func identity(t testing.TB, granted []string, change func(*secrets.ClientCredentials)) (*inside, *secrets.Lease, *fixture, secretstest.Canary) {
	t.Helper()
	secret := secretstest.NewCanary(t)
	server, err := simulator.New(simulator.Options{Rows: map[string]int64{"Inv_Stores": 1}, Apps: []simulator.App{{URI: "my.app/bi", Secret: secret.Value(), Scopes: granted}}})
	if err != nil {
		t.Fatal(err)
	}
	in := &inside{handler: server}
	k, f := keeper(t, secrets.Sandbox)
	bound := secrets.Binding{Instance: "acme", Host: "localhost:80", Environment: secrets.Sandbox}
	if _, err := k.Stage(t.Context(), request.Name, secret.Token, bound); err != nil {
		t.Fatal(err)
	}
	if err := k.Verified(t.Context(), request.Name, 1, nil); err != nil {
		t.Fatal(err)
	}
	if err := k.Activate(t.Context(), request.Name, 1, 0); err != nil {
		t.Fatal(err)
	}
	c := &secrets.ClientCredentials{Issuer: "http://localhost/id", ClientID: "my.app/bi", Client: &http.Client{Transport: in}}
	if change != nil {
		change(c)
	}
	req := request
	req.Host, req.Use = bound.Host, secrets.Kind{Client: c}
	l, err := k.Lease(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return in, l, f, secret
}

func bearer(l *secrets.Lease) (string, error) {
	req := get("http://localhost/tableapi/odata/")
	err := l.Authorize(context.Background(), req)
	return req.Header.Get("Authorization"), err
}

// Twenty requests at once make one exchange; over five hours the token is renewed ahead of its end, each time at another point of its life.
func TestAccessTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, l, f, secret := identity(t, []string{"read"}, nil)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if value, err := bearer(l); err != nil || strings.Contains(value, secret.Value()) || strings.Count(value, ".") != 2 {
					t.Errorf("%.20s…, %v", value, err)
				}
			})
		}
		wg.Wait()
		if n := in.exchanges.Load(); n != 1 {
			t.Fatalf("%d exchanges", n)
		}
		var points []time.Duration
		last, had := time.Now(), int64(1)
		for range 5 * 60 {
			time.Sleep(time.Minute)
			if _, err := bearer(l); err != nil {
				t.Fatal(err)
			}
			if n := in.exchanges.Load(); n != had {
				points = append(points, time.Since(last))
				last, had = time.Now(), n
			}
		}
		different := map[time.Duration]bool{}
		for _, p := range points {
			different[p] = true
			if p < 41*time.Minute || p > 52*time.Minute {
				t.Errorf("renewed after %v of an hour", p)
			}
		}
		if len(points) < 5 || len(different) < 2 {
			t.Errorf("renewed after %v", points)
		}
		// The identity server goes away: what there is serves to its end, and then there is a clear error.
		in.down.Store(true)
		time.Sleep(7 * time.Minute)
		if _, err := bearer(l); err != nil {
			t.Errorf("a token that is still good: %v", err)
		}
		time.Sleep(time.Hour)
		if _, err := bearer(l); !errors.Is(err, secrets.ErrUnavailable) || !strings.Contains(err.Error(), "localhost") {
			t.Errorf("nothing good left: %v", err)
		}
		in.down.Store(false)
		if _, err := bearer(l); err != nil {
			t.Errorf("it is back: %v", err)
		}
		if acts := f.acts(t); strings.Count(acts, "exchange ok") != int(had)+1 || !strings.Contains(acts, "exchange failed") {
			t.Errorf("audit: %s", acts)
		}
		secret.AbsentFromDir(t, f.dir)
	})
}

// After a 401 the secret is exchanged again, once for all; a secret that is refused is looked for anew in the vault.
func TestAccessTokenIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, l, _, _ := identity(t, []string{"read"}, nil)
		one, err := bearer(l)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if err := l.Renew(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		two, err := bearer(l)
		if err != nil || one == two || in.exchanges.Load() != 2 {
			t.Errorf("%v, %d exchanges", err, in.exchanges.Load())
		}
	})
}

func TestGrantedScopes(t *testing.T) {
	for name, c := range map[string]struct {
		granted []string
		change  func(*secrets.ClientCredentials)
		want    error
	}{
		"read":               {[]string{"read"}, nil, nil},
		"update, asked":      {[]string{"read", "update"}, func(c *secrets.ClientCredentials) { c.Scopes = []string{"read", "update"} }, secrets.ErrScopes},
		"update, allowed":    {[]string{"read", "update"}, func(c *secrets.ClientCredentials) { c.Scopes, c.AllowUpdate = []string{"read", "update"}, true }, nil},
		"what it cannot":     {[]string{"read"}, func(c *secrets.ClientCredentials) { c.Scopes = []string{"sec"} }, secrets.ErrClient},
		"another client":     {[]string{"read"}, func(c *secrets.ClientCredentials) { c.ClientID = "my.app/other" }, secrets.ErrClient},
		"another host":       {[]string{"read"}, func(c *secrets.ClientCredentials) { c.Issuer = "http://127.0.0.1/id" }, secrets.ErrBinding},
		"plain http":         {[]string{"read"}, func(c *secrets.ClientCredentials) { c.Issuer = "http://acme.example/id" }, secrets.ErrBinding},
		"nothing there":      {[]string{"read"}, func(c *secrets.ClientCredentials) { c.Issuer = "http://localhost/elsewhere" }, secrets.ErrSetup},
		"no address":         {[]string{"read"}, func(c *secrets.ClientCredentials) { c.Issuer = "id" }, secrets.ErrSetup},
		"redirect":           {[]string{"read"}, answers(http.StatusFound, ""), secrets.ErrSetup},
		"endpoint elsewhere": {[]string{"read"}, answers(200, `{"issuer":"http://localhost/id","token_endpoint":"http://evil.example/token"}`), secrets.ErrBinding},
		"another issuer":     {[]string{"read"}, answers(200, `{"issuer":"http://localhost/other","token_endpoint":"http://localhost/id/token"}`), secrets.ErrBinding},
		"more than asked":    {[]string{"read"}, answers(200, `{"issuer":"http://localhost/id","token_endpoint":"http://localhost/id/t","access_token":"opaque","token_type":"Bearer","expires_in":3600,"scope":"read sec"}`), secrets.ErrScopes},
		"not a bearer":       {[]string{"read"}, answers(200, `{"issuer":"http://localhost/id","token_endpoint":"http://localhost/id/t","access_token":"opaque","token_type":"mac"}`), secrets.ErrUnavailable},
		"broken":             {[]string{"read"}, answers(503, ``), secrets.ErrSetup},
	} {
		t.Run(name, func(t *testing.T) {
			_, l, f, secret := identity(t, c.granted, c.change)
			value, err := bearer(l)
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) || (value == "") != (err != nil) {
				t.Errorf("%v, want %v", err, c.want)
			}
			secret.AbsentFromError(t, name, err)
			secret.AbsentFromDir(t, f.dir)
		})
	}
}

// answers makes an identity server that says the same to everything, and repeats what it was sent.
func answers(status int, body string) func(*secrets.ClientCredentials) {
	return func(c *secrets.ClientCredentials) {
		c.Client = &http.Client{
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &inside{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_ = r.ParseForm()
				w.Header().Set("Location", "http://evil.example/?"+r.PostForm.Encode())
				w.WriteHeader(status)
				if body == "" {
					body = fmt.Sprintf(`{"error":%q}`, r.PostForm.Get("client_secret"))
				}
				_, _ = fmt.Fprint(w, body)
			})},
		}
	}
}

func TestStaticHeader(t *testing.T) {
	k, _ := keeper(t, secrets.Production)
	c, _ := activate(t, k, 0)
	req := request
	req.Use.Header = "X-Api-Key"
	l, err := k.Lease(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	sent := get("https://" + host)
	if err := l.Authorize(t.Context(), sent); err != nil || sent.Header.Get("X-Api-Key") != c.Value() || sent.Header.Get("Authorization") != "" {
		t.Errorf("%v", err)
	}
}

// An exchange that cannot be audited is of no use to anybody: no request goes out with what it brought.
func TestExchangeIsAudited(t *testing.T) {
	_, lease, f, _ := identity(t, []string{"read"}, nil)
	_ = f.log.Close()
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost/x", nil)
	if err := lease.Authorize(t.Context(), req); !errors.Is(err, secrets.ErrAudit) || len(req.Header) > 0 {
		t.Errorf("%v, %d headers", err, len(req.Header))
	}
}
