package gate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tablexport/tablexport/jobs/gate/gatetest"
)

func provider(t *testing.T) (*gatetest.Issuer, *OIDC) {
	t.Helper()
	i := gatetest.NewIssuer(t)
	return i, &OIDC{Issuer: i.URL, Audience: gatetest.Audience, Claim: "roles", Skew: time.Minute, Client: i.Client(),
		Roles: map[string][]Role{"bi": {Viewer}, "boss": {Viewer, Admin}}}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	i, o := provider(t)
	now := time.Now()
	c, err := o.Verify(t.Context(), i.Sign(t, i.Claims(now, "bi", "someone-else's")))
	if err != nil || c.Name != "oidc:olga" || len(c.Roles) != 1 || c.Roles[0] != Viewer {
		t.Fatal(c, err)
	}
	for what, token := range i.Broken(t, now, "boss") {
		if c, err := o.Verify(t.Context(), token); err == nil || len(c.Roles) > 0 || c.Name != "" {
			t.Errorf("%s: %v", what, c)
		} else if strings.Contains(err.Error(), token) || len(token) > 40 && strings.Contains(err.Error(), token[len(token)-20:]) {
			t.Errorf("%s: the error holds the token: %v", what, err)
		}
	}
	// Roles stand where the provider puts them.
	for claim, value := range map[string]any{"roles": "bi other", "realm.access": []string{"bi"}, "nested": map[string]any{"roles": []any{"bi", 7, nil}}} {
		claims := i.Claims(now)
		delete(claims, "roles")
		claims[claim] = value
		o.Claim = map[string]string{"roles": "roles", "realm.access": "realm.access", "nested": "nested.roles"}[claim]
		if c, err := o.Verify(t.Context(), i.Sign(t, claims)); err != nil || len(c.Roles) != 1 {
			t.Error(claim, c, err)
		}
	}
	o.Claim = "nested.deeper.roles"
	if c, err := o.Verify(t.Context(), i.Sign(t, i.Claims(now, "bi"))); err != nil || len(c.Roles) != 0 {
		t.Error("a claim that is not there gives roles:", c, err)
	}
}

// A clock that is off by less than the skew is forgiven, at both ends, and one second more is not.
func TestClockSkew(t *testing.T) {
	t.Parallel()
	i, o := provider(t)
	issued := time.Unix(time.Now().Unix(), 0)
	token := i.Sign(t, i.Claims(issued, "bi"))
	for _, c := range []struct {
		at time.Duration
		ok bool
	}{
		{-10 * time.Minute, false}, {-time.Minute - time.Second, false}, {-time.Minute, true}, {0, true}, {time.Hour - time.Second, true},
		{time.Hour + time.Minute - time.Second, true}, {time.Hour + time.Minute, false}, {time.Hour + 10*time.Minute, false},
	} {
		o.Now = func() time.Time { return issued.Add(c.at) }
		if _, err := o.Verify(t.Context(), token); (err == nil) != c.ok {
			t.Errorf("%v after it was issued: %v", c.at, err)
		}
	}
	o.Skew = time.Hour // more than is allowed counts as what is allowed
	o.Now = func() time.Time { return issued.Add(time.Hour + MaxSkew) }
	if _, err := o.Verify(t.Context(), token); err == nil {
		t.Error("the skew is not bounded")
	}
}

// A new key is fetched when a token names it; tokens of keys that are published on stay good; keys are not fetched for everybody who
// makes one up; a provider that is away is no reason to believe, nor to be refused for good.
func TestKeysRotate(t *testing.T) {
	t.Parallel()
	i, o := provider(t)
	i.Down.Store(true)
	now := time.Now()
	first := i.Sign(t, i.Claims(now, "bi"))
	if _, err := o.Verify(t.Context(), first); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	i.Down.Store(false)
	if _, err := o.Verify(t.Context(), first); !errors.Is(err, ErrUnavailable) {
		t.Error("it is asked again at once:", err)
	}
	o.tried = time.Time{}
	if _, err := o.Verify(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	i.Rotate(t, "key-2", true)
	second := i.Sign(t, i.Claims(now, "bi"))
	for _, token := range []string{second, first} {
		if _, err := o.Verify(t.Context(), token); err != nil {
			t.Error(err)
		}
	}
	i.Rotate(t, "key-3", false)
	third := i.Sign(t, i.Claims(now, "bi"))
	if _, err := o.Verify(t.Context(), third); err != nil {
		t.Error(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) { // the library keeps the keys just behind the answer
		if _, err := o.Verify(t.Context(), second); err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a key that is published no more is believed")
		}
	}
	for n := range 50 {
		unknown := &gatetest.Issuer{Server: i.Server}
		if n < 2 {
			unknown.Rotate(t, fmt.Sprint("made-up-", n), false)
			first = unknown.Sign(t, i.Claims(now, "bi"))
		}
		if _, err := o.Verify(t.Context(), first); err == nil {
			t.Fatal("an unknown key is believed")
		}
	}
	if n := i.Fetched.Load(); n > 8 {
		t.Errorf("the keys were fetched %d times", n)
	}
	if _, err := o.Verify(t.Context(), third); err != nil {
		t.Error("known keys need no fetch:", err)
	}
}

// A token whose key is not known, while the provider is away, is neither believed nor called bad: its owner may try again.
func TestKeysAway(t *testing.T) {
	t.Parallel()
	i, o := provider(t)
	now := time.Now()
	known := i.Sign(t, i.Claims(now, "bi"))
	if _, err := o.Verify(t.Context(), known); err != nil {
		t.Fatal(err)
	}
	i.Rotate(t, "key-2", true)
	i.Down.Store(true)
	next := i.Sign(t, i.Claims(now, "bi"))
	if _, err := o.Verify(t.Context(), next); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	if _, err := o.Verify(t.Context(), known); err != nil {
		t.Error("known keys need no provider:", err)
	}
	i.Down.Store(false)
	if _, err := o.Verify(t.Context(), next); err != nil {
		t.Error(err)
	}
}

// guarded is a server behind a gate, over TLS, with a route of each kind.
func guarded(t *testing.T, o Options, files *Files) *httptest.Server {
	t.Helper()
	m := NewMux()
	for pattern, a := range map[string]Access{"GET /open": Open, "POST /signed": Signed, "GET /view": View, "GET /audit": Audit, "POST /operate": Operate, "GET /closed": Closed, "GET /api/view": View} {
		m.HandleFunc(a, pattern, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, From(r.Context()).Name) })
	}
	s := httptest.NewUnstartedServer(New(o).Guard(m))
	if files == nil {
		s.Start()
	} else {
		config, err := files.Config()
		if err != nil {
			t.Fatal(err)
		}
		s.TLS = config
		s.Listener = tls.NewListener(s.Listener, config)
		s.Start()
		s.URL = "https" + strings.TrimPrefix(s.URL, "http")
	}
	t.Cleanup(s.Close)
	return s
}

func ask(t *testing.T, c *http.Client, method, url string, change func(*http.Request)) (int, string, http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(r)
	}
	w, err := c.Do(r)
	if err != nil {
		return 0, err.Error(), nil
	}
	defer w.Body.Close()
	b, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.StatusCode, string(b), w.Header
}

func client(pool *x509.CertPool, certs ...tls.Certificate) *http.Client {
	config := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	if len(certs) > 0 { // sent whatever the server says it would believe
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certs[0], nil }
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
}

// Certificates of the authority in use get in with the roles of their names; expired ones, those of other authorities, for other names,
// and for servers do not. Files that change are read again; new ones that do not fit leave the old ones in use.
func TestCertificates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ours, other := gatetest.NewAuthority(t, "ours"), gatetest.NewAuthority(t, "other")
	pool := x509.NewCertPool()
	pool.AddCert(ours.Cert)
	soon := time.Now().Add(time.Hour)
	certFile, keyFile := gatetest.Write(t, dir, "server", ours.Issue(t, "first", soon, x509.ExtKeyUsageServerAuth))
	failed := make(chan error, 100)
	files := &Files{CertFile: certFile, KeyFile: keyFile, ClientCAFile: ours.WriteCA(t, filepath.Join(dir, "ca.crt")), Every: time.Nanosecond, Failed: func(err error) { failed <- err }}
	s := guarded(t, Options{Secure: true, Believed: files.Believed, Certificates: map[string][]Role{"grafana.acme.example": {Viewer}, "spiffe://acme/ops": {Operator}, "CN=olga": {Admin}}}, files)
	issue := func(a *gatetest.Authority, name string, until time.Time, usage x509.ExtKeyUsage) *http.Client {
		return client(pool, a.Issue(t, name, until, usage))
	}
	for what, c := range map[string]struct {
		client             *http.Client
		view, operate, who any
	}{
		"viewer":       {issue(ours, "grafana.acme.example", soon, x509.ExtKeyUsageClientAuth), 200, 403, "cert:grafana.acme.example"},
		"operator":     {issue(ours, "spiffe://acme/ops", soon, x509.ExtKeyUsageClientAuth), 200, 200, "cert:spiffe://acme/ops"},
		"common name":  {issue(ours, "olga", soon, x509.ExtKeyUsageClientAuth), 200, 200, "cert:olga"},
		"unknown":      {issue(ours, "nobody.acme.example", soon, x509.ExtKeyUsageClientAuth), 403, 403, nil},
		"none":         {client(pool), 401, 401, nil},
		"expired":      {issue(ours, "grafana.acme.example", time.Now().Add(-time.Minute), x509.ExtKeyUsageClientAuth), 0, 0, nil},
		"foreign":      {issue(other, "grafana.acme.example", soon, x509.ExtKeyUsageClientAuth), 0, 0, nil},
		"for a server": {issue(ours, "grafana.acme.example", soon, x509.ExtKeyUsageServerAuth), 0, 0, nil},
	} {
		code, body, header := ask(t, c.client, http.MethodGet, s.URL+"/view", nil)
		if code != c.view || c.who != nil && body != c.who || code != 0 && header.Get("Strict-Transport-Security") == "" {
			t.Errorf("%s: %d %s", what, code, body)
		}
		if code, body, _ = ask(t, c.client, http.MethodPost, s.URL+"/operate", nil); code != c.operate {
			t.Errorf("%s: POST: %d %s", what, code, body)
		}
	}
	serial := func() string {
		t.Helper()
		c, err := tls.Dial("tcp", strings.TrimPrefix(s.URL, "https://"), &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := serial()
	gatetest.Write(t, dir, "server", ours.Issue(t, "second", soon, x509.ExtKeyUsageServerAuth))
	after := serial()
	if before == after {
		t.Error("a new certificate is not read")
	}
	if err := os.WriteFile(certFile, []byte("half a certif"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != after {
		t.Error("a broken file takes the certificate away:", got)
	}
	if err := <-failed; !strings.Contains(err.Error(), certFile) {
		t.Error(err)
	}
	// An authority that is believed no more.
	gatetest.Write(t, dir, "server", ours.Issue(t, "third", soon, x509.ExtKeyUsageServerAuth))
	open := issue(ours, "grafana.acme.example", soon, x509.ExtKeyUsageClientAuth)
	kept, ok := open.Transport.(*http.Transport)
	if !ok {
		t.Fatal(open.Transport)
	}
	kept.DisableKeepAlives, kept.MaxConnsPerHost = false, 1
	defer kept.CloseIdleConnections()
	if code, body, _ := ask(t, open, http.MethodGet, s.URL+"/view", nil); code != 200 {
		t.Fatal(code, body)
	}
	other.WriteCA(t, files.ClientCAFile)
	if code, body, _ := ask(t, open, http.MethodGet, s.URL+"/view", nil); code != 401 { // 0 would be another connection
		t.Error("the old authority is believed on a connection that is open:", code, body)
	}
	if code, _, _ := ask(t, issue(ours, "grafana.acme.example", soon, x509.ExtKeyUsageClientAuth), http.MethodGet, s.URL+"/view", nil); code != 0 {
		t.Error("the old authority is still believed:", code)
	}
	for _, broken := range []*Files{{CertFile: filepath.Join(dir, "none"), KeyFile: keyFile}, {CertFile: certFile, KeyFile: keyFile, ClientCAFile: keyFile}} {
		if _, err := broken.Config(); err == nil {
			t.Error("files that cannot be used")
		}
	}
	// A connection may be older than the end of a certificate.
	g := New(Options{Certificates: map[string][]Role{"x": {Viewer}}, Now: func() time.Time { return time.Now().Add(2 * time.Hour) }})
	leaf, err := x509.ParseCertificate(ours.Issue(t, "x", soon, x509.ExtKeyUsageClientAuth).Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if c, err := g.certificate(&tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}}); err == nil {
		t.Error(c)
	}
}

// constant believes one token.
type constant struct{ token string }

func (c constant) Verify(_ context.Context, token string) (Caller, error) {
	switch token {
	case c.token:
		return Caller{"oidc:olga", []Role{Operator}}, nil
	case "away":
		return Caller{}, ErrUnavailable
	}
	return Caller{}, errors.New("no")
}

// Pages of other sites, odd headers, too many requests: each is refused for its own reason, and counted.
func TestRefusals(t *testing.T) {
	t.Parallel()
	now := time.Now()
	counted := map[Reason]int{}
	var recorded []string
	o := Options{Bearer: constant{"good"}, PerMinute: 30, Strangers: 6, Refused: func(r Reason) { counted[r]++ }, Now: func() time.Time { return now },
		Record: func(_ context.Context, c Caller, _, route string, why Reason) {
			recorded = append(recorded, c.Name+" "+route+" "+string(why))
		}}
	s := guarded(t, o, nil)
	with := func(h ...string) func(*http.Request) {
		return func(r *http.Request) {
			for i := 0; i < len(h); i += 2 {
				r.Header.Add(h[i], h[i+1])
			}
		}
	}
	c := s.Client()
	for _, x := range []struct {
		method, path string
		headers      []string
		code         int
		reason       Reason
	}{
		{"GET", "/view", []string{"Authorization", "Bearer good"}, 200, ""},
		{"GET", "/view", []string{"Authorization", "bearer good"}, 200, ""},
		{"POST", "/operate", []string{"Authorization", "Bearer good"}, 200, ""},
		{"POST", "/operate", []string{"Authorization", "Bearer good", "Sec-Fetch-Site", "same-origin"}, 200, ""},
		{"POST", "/operate", []string{"Authorization", "Bearer good", "Sec-Fetch-Site", "cross-site"}, 403, CrossSite},
		{"POST", "/operate", []string{"Authorization", "Bearer good", "Sec-Fetch-Site", "same-site"}, 403, CrossSite},
		{"POST", "/operate", []string{"Authorization", "Bearer good", "Origin", "https://evil.example"}, 403, CrossSite},
		{"POST", "/signed", []string{"Origin", "https://marketplace.example"}, 200, ""},
		{"GET", "/audit", []string{"Authorization", "Bearer good"}, 403, Forbidden},
		{"GET", "/closed", []string{"Authorization", "Bearer good"}, 403, Forbidden},
		{"GET", "/nothing", []string{"Authorization", "Bearer good"}, 404, ""},
		{"GET", "/view", []string{"Authorization", "Bearer bad"}, 401, BadToken},
		{"GET", "/view", []string{"Authorization", "Bearer good", "Authorization", "Bearer good"}, 401, BadToken},
		{"GET", "/view", []string{"Authorization", "Basic good"}, 401, BadToken},
		{"GET", "/view", []string{"Authorization", "Bearer away"}, 503, NoVerdict},
		{"GET", "/nothing", nil, 401, Anonymous},
		{"GET", "/view", nil, 429, TooOften}, // the sixth of a stranger was the one before
		{"GET", "/open", nil, 429, TooOften},
		{"GET", "/view", []string{"Authorization", "Bearer good"}, 200, ""}, // who has shown who it is has a bucket of its own
	} {
		was := counted[x.reason]
		code, body, header := ask(t, c, x.method, s.URL+x.path, with(x.headers...))
		if code != x.code || x.reason != "" && counted[x.reason] != was+1 {
			t.Errorf("%s %s %v: %d %s, counted %v", x.method, x.path, x.headers, code, body, counted)
		}
		if code == 401 && !strings.HasPrefix(header.Get("WWW-Authenticate"), "Bearer ") || (code == 429 || code == 503) && header.Get("Retry-After") != "10" {
			t.Errorf("%s %s: %v", x.method, x.path, header)
		}
		if header.Get("Content-Security-Policy") == "" || header.Get("X-Content-Type-Options") != "nosniff" || header.Get("Strict-Transport-Security") != "" {
			t.Errorf("%s: %v", x.path, header)
		}
	}
	// Orders from pages of other sites are on record; so are those of others than operators, but not without end.
	if len(recorded) != 3 || recorded[0] != "oidc:olga POST /operate cross_site" {
		t.Error(recorded)
	}
	recorded = nil
	now = now.Add(10 * time.Second) // one request of a stranger in ten seconds
	if code, _, _ := ask(t, c, "GET", s.URL+"/open", nil); code != 200 {
		t.Error(code)
	}
	viewer := guarded(t, Options{Bearer: roleOnly{Viewer}, Record: o.Record, Strangers: 6, PerMinute: 1000, Now: o.Now}, nil)
	if code, body, h := ask(t, viewer.Client(), "POST", viewer.URL+"/operate", with("Authorization", "Bearer x")); code != 403 || len(recorded) != 1 || recorded[0] != "oidc:x POST /operate forbidden" {
		t.Error(code, body, h, recorded)
	}
	for range 20 {
		if code, _, _ := ask(t, viewer.Client(), "POST", viewer.URL+"/operate", with("Authorization", "Bearer x")); code != 403 && code != 429 {
			t.Error(code)
		}
	}
	if len(recorded) != 6 {
		t.Errorf("%d refused orders are on record", len(recorded))
	}
	if code, _, _ := ask(t, viewer.Client(), "GET", viewer.URL+"/view", with("Authorization", "Bearer x")); code != 200 {
		t.Error("what they may see they still see:", code)
	}
	if code, body, h := ask(t, viewer.Client(), "GET", viewer.URL+"/api/view", nil); code != 401 || body != `{"error":"log in: send a bearer token or a client certificate"}`+"\n" || !strings.HasPrefix(h.Get("Content-Type"), "application/json") {
		t.Error(code, body, h)
	}
}

type roleOnly struct{ role Role }

func (r roleOnly) Verify(context.Context, string) (Caller, error) {
	return Caller{"oidc:x", []Role{r.role}}, nil
}

// Without authentication this machine may read, and nobody may change anything.
func TestLocal(t *testing.T) {
	t.Parallel()
	s := guarded(t, Options{}, nil)
	for path, want := range map[string]int{"GET /open": 200, "GET /view": 200, "GET /audit": 200, "POST /operate": 403, "GET /closed": 403, "POST /signed": 200} {
		method, path, _ := strings.Cut(path, " ")
		if code, body, _ := ask(t, s.Client(), method, s.URL+path, nil); code != want {
			t.Errorf("%s %s: %d %s", method, path, code, body)
		}
		misled := 421
		if path == "/signed" {
			misled = 200
		}
		if code, _, _ := ask(t, s.Client(), method, s.URL+path, func(r *http.Request) { r.Host = "evil.example" }); code != misled {
			t.Errorf("%s %s under another name: %d", method, path, code)
		}
	}
}

// However many clients there are, only so many are remembered.
func TestBucketsAreBounded(t *testing.T) {
	t.Parallel()
	b := newBuckets(2)
	now := time.Now()
	for n := range 5 * clients {
		b.take(fmt.Sprint(n), now)
		b.take("busy", now)
	}
	if len(b.new)+len(b.old) > 2*clients {
		t.Error(len(b.new), len(b.old))
	}
	if b.take("busy", now) == 0 {
		t.Error("who asks on and on is forgotten")
	}
	for address, want := range map[string]string{"10.1.2.3:99": "10.1.2.3", "[2001:db8:1:2:3:4:5:6]:99": "2001:db8:1:2::/64", "odd": "odd"} {
		if got := addressOf(address); got != want {
			t.Error(address, got)
		}
	}
}
