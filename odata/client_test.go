package odata_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/filter"
	"github.com/tablexport/tablexport/odata/simulator"
)

const (
	token       = "enrt_CANARYtoken-0123456789abcdef"
	valueCanary = "CANARY-row-value"
	stackCanary = "at Erp.Secret.Stack()"
)

// inProcess answers without a network, so that tests can run in a synctest bubble.
type inProcess func(*http.Request) *http.Response

func (f inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	resp := f(r)
	if resp == nil {
		return nil, fmt.Errorf("net/http: HTTP/1.x transport connection broken: malformed HTTP status code %q: %w", token+valueCanary, io.ErrUnexpectedEOF)
	}
	resp.Request = r
	return resp, nil
}

func reply(status int, contentType, body string, headers ...string) *http.Response {
	h := http.Header{}
	if contentType != "" {
		h.Set("Content-Type", contentType)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		h.Set(headers[i], headers[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}
}

const service = `{"@odata.context":"x","value":[{"name":"T","kind":"table"}]}`

func client(tb testing.TB, rt http.RoundTripper, change ...func(*odata.Options)) *odata.Client {
	tb.Helper()
	o := odata.Options{Name: "acme", URL: "https://acme.example", TableAPI: "https://acme.example/tableapi", Transport: rt}
	for _, f := range change {
		f(&o)
	}
	c, err := odata.NewClient(o)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func tableT(tb testing.TB) *edm.Table {
	tb.Helper()
	m, err := edm.New(edm.Table{Name: "T", Columns: []edm.Column{
		{Name: "Id", Type: edm.Type{Kind: edm.Int32}, Key: true, Ops: edm.OpEq | edm.OpRange, OpsKnown: true, Comment: "key"},
		{Name: "Name", Type: edm.Type{Kind: edm.String}, Nullable: true, Ops: edm.OpEq | edm.OpLike, OpsKnown: true, Comment: "name"},
	}})
	if err != nil {
		tb.Fatal(err)
	}
	t, _ := m.Table("T")
	return t
}

func TestAddresses(t *testing.T) {
	for _, tt := range []struct {
		url, tableAPI string
		sandbox       bool
		want          string
		host          string
	}{
		{url: "https://acme.my.erp.net", host: "acme.my.erp.net"},
		{url: "https://ACME.my.erp.net:443/", host: "acme.my.erp.net"},
		{url: "https://acme.my.erp.net:8443", host: "acme.my.erp.net:8443"},
		{url: "http://127.0.0.1:8080", sandbox: true, host: "127.0.0.1:8080"},
		{url: "http://[::1]:80", sandbox: true, host: "[::1]"},
		{url: "http://localhost", sandbox: true, host: "localhost"},
		{url: "https://acme.my.erp.net", tableAPI: "https://data.acme.example/tableapi", host: "data.acme.example"},
		{url: "http://127.0.0.1:8080", want: "sandbox"},
		{url: "http://acme.my.erp.net", sandbox: true, want: "in the clear"},
		{url: "http://127.0.0.1.evil.example", sandbox: true, want: "in the clear"},
		{url: "ftp://acme", want: "https://"},
		{url: "acme.my.erp.net", want: "has no host"},
		{url: "", want: "not an address"},
		{url: "https://", want: "has no host"},
		{url: "https://user:pass@acme.example", want: "vault"},
		{url: "https://acme.example?x=1", want: "query"},
		{url: "https://acme.example", tableAPI: "http://acme.example", want: "in the clear"},
	} {
		c, err := odata.NewClient(odata.Options{URL: tt.url, TableAPI: tt.tableAPI, Sandbox: tt.sandbox})
		var address *odata.AddressError
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.url, err)
		case tt.want == "" && c.Host() != tt.host:
			t.Errorf("%s: host %s, want %s", tt.url, c.Host(), tt.host)
		case tt.want != "" && (!errors.As(err, &address) || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %q", tt.url, err, tt.want)
		}
	}
}

// The status rules, with what is asked how often, and how long is waited.
func TestStatusRules(t *testing.T) {
	stack := `{"message":"` + valueCanary + `","code":"E42","type":"Erp.Fault","info":"` + stackCanary + `"}`
	type script []func() *http.Response
	status := func(code int, headers ...string) func() *http.Response {
		return func() *http.Response { return reply(code, "application/json", stack, headers...) }
	}
	ok := func() *http.Response { return reply(200, "application/json", service) }
	reset := func() *http.Response { return nil }
	forever := func(f func() *http.Response) script {
		return script{f, f, f, f, f, f, f, f, f, f, f, f}
	}
	as := func(target any) func(error) bool { return func(err error) bool { return errors.As(err, target) } }
	var (
		cred  *odata.CredentialError
		page  *odata.AuthenticationPageError
		gone  *odata.UnavailableError
		proto *odata.ProtocolError
		state *odata.StatusError
	)
	for _, tt := range []struct {
		name     string
		script   script
		requests int
		is       func(error) bool // nil = no error
		text     string
		min, max time.Duration
	}{
		{name: "200", script: script{ok}, requests: 1},
		{name: "401, renewed", script: script{status(401), ok}, requests: 2},
		{name: "401 twice", script: script{status(401), status(401), ok}, requests: 2, is: as(&cred), text: "refused (401)"},
		{name: "403", script: script{status(403), ok}, requests: 1, is: func(err error) bool { return errors.Is(err, odata.ErrForbidden) }, text: "permission"},
		{name: "400", script: script{status(400), ok}, requests: 1, is: as(&state), text: "code E42, type Erp.Fault"},
		{name: "404", script: script{status(404), ok}, requests: 1, is: as(&state)},
		{name: "408", script: script{status(408), ok}, requests: 1, is: as(&state)},
		{name: "500 then well", script: script{status(500), status(502), ok}, requests: 3, max: 2 * time.Second},
		{name: "500 for ever", script: forever(status(500)), requests: 5, is: as(&gone), text: "the last: status 500"},
		{name: "reset then well", script: script{reset, reset, ok}, requests: 3, max: 2 * time.Second},
		{name: "429, seconds", script: script{status(429, "Retry-After", "7"), ok}, requests: 2, min: 7 * time.Second, max: 8 * time.Second},
		{name: "429, date", script: script{func() *http.Response {
			return reply(429, "", "", "Retry-After", time.Now().Add(20*time.Second).UTC().Format(http.TimeFormat))
		}, ok}, requests: 2, min: 18 * time.Second, max: 21 * time.Second},
		{name: "429 without advice, often", script: append(forever(status(429))[:10], ok), requests: 11, max: 3 * time.Minute},
		{name: "429, too long", script: script{status(429, "Retry-After", "3600"), ok}, requests: 1, is: as(&gone), text: "come back in 1h"},
		{name: "503 with advice", script: script{status(503, "Retry-After", "5"), ok}, requests: 2, min: 5 * time.Second, max: 6 * time.Second},
		{name: "redirect to login", script: script{func() *http.Response {
			return reply(302, "text/html", "", "Location", "https://acme.example/id/login?token="+token)
		}, ok}, requests: 1, is: as(&page), text: "login"},
		{name: "redirect elsewhere", script: script{func() *http.Response {
			return reply(307, "", "", "Location", "https://other.example/data")
		}, ok}, requests: 1, is: as(&state), text: "never followed"},
		{name: "HTML", script: script{func() *http.Response { return reply(200, "text/html; charset=utf-8", "<html>") }, ok}, requests: 1, is: as(&page)},
		{name: "HTML that says it is JSON", script: script{func() *http.Response {
			return reply(200, "application/json", "\n\n  <!DOCTYPE html><title>"+valueCanary)
		}, ok}, requests: 1, is: as(&page)},
		{name: "no content type, JSON", script: script{func() *http.Response { return reply(200, "", service) }}, requests: 1},
		{name: "no content type, HTML", script: script{func() *http.Response { return reply(200, "", "<p>") }}, requests: 1, is: as(&page)},
		{name: "text", script: script{func() *http.Response { return reply(200, "text/plain", service) }}, requests: 1, is: as(&page)},
		{name: "204", script: script{func() *http.Response { return reply(204, "", "") }}, requests: 1, is: as(&proto)},
		{name: "cut then well", script: script{func() *http.Response { return reply(200, "application/json", service[:20]) }, ok}, requests: 2, max: time.Second},
		{name: "not gzip", script: script{func() *http.Response { return reply(200, "application/json", "abc", "Content-Encoding", "gzip") }, ok}, requests: 2, max: time.Second},
		{name: "another coding", script: script{func() *http.Response { return reply(200, "application/json", "abc", "Content-Encoding", "br") }}, requests: 1, is: as(&proto)},
		{name: "no service document", script: script{func() *http.Response { return reply(200, "application/json", "{}") }}, requests: 1, is: as(&proto), text: "table_api"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				var log bytes.Buffer
				c := client(t, inProcess(func(r *http.Request) *http.Response {
					if strings.HasPrefix(r.URL.Path, "/tools/") {
						return reply(200, "text/plain", "26.1")
					}
					n++
					return tt.script[n-1]()
				}), func(o *odata.Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
				auth := newBearer(token)
				auth.next = token + "2"
				s := c.Open(auth)
				if _, err := s.Site(t.Context()); err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				err := s.Ping(t.Context())
				took := time.Since(start)
				if (tt.is == nil) != (err == nil) || tt.is != nil && !tt.is(err) {
					t.Fatalf("got %T %v", err, err)
				}
				if err != nil && !strings.Contains(err.Error(), tt.text) {
					t.Errorf("%q lacks %q", err, tt.text)
				}
				if n != tt.requests {
					t.Errorf("%d requests, want %d", n, tt.requests)
				}
				if tt.max == 0 {
					tt.max = time.Minute
				}
				if took < tt.min || took > tt.max {
					t.Errorf("took %v, want %v to %v", took, tt.min, tt.max)
				}
				clean(t, err, log.String())
				if err != nil && !strings.Contains(err.Error(), "GET /tableapi/odata/") {
					t.Errorf("%q does not name the request", err)
				}
			})
		})
	}
}

// clean fails if a canary is in what people see.
func clean(t *testing.T, err error, log string) {
	t.Helper()
	if err != nil {
		log += err.Error() + fmt.Sprintf("%v %+v", err, err)
	}
	for _, canary := range []string{token, "CANARY", stackCanary, simulator.StackCanary, simulator.DemoToken} {
		if strings.Contains(log, canary) {
			t.Errorf("%q is in %q", canary, log)
		}
	}
}

func TestAuthorizerThatRefuses(t *testing.T) {
	asked := 0
	c := client(t, inProcess(func(*http.Request) *http.Response { asked++; return reply(200, "application/json", service) }))
	auth := newBearer(token)
	auth.err = fmt.Errorf("bound to another host, not for %s", token)
	err := c.Open(auth).Ping(t.Context())
	var cred *odata.CredentialError
	if !errors.As(err, &cred) || !errors.Is(err, auth.err) {
		t.Fatal(err)
	}
	clean(t, err, "")
	if asked > 1 { // the version is asked without it
		t.Errorf("%d requests were sent", asked)
	}
}

// A 401 with no newer credential, whose Authorizer is talkative.
func TestRenewFails(t *testing.T) {
	c := client(t, inProcess(func(*http.Request) *http.Response { return reply(401, "", "") }))
	err := c.Open(newBearer(token)).Ping(t.Context())
	var cred *odata.CredentialError
	if !errors.As(err, &cred) || !strings.Contains(errors.Unwrap(cred).Error(), "no newer") {
		t.Fatal(err)
	}
	clean(t, err, "")
}

func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer, n := func() *http.Response { return reply(500, "", "") }, 0
		c := client(t, inProcess(func(r *http.Request) *http.Response {
			if strings.HasPrefix(r.URL.Path, "/tools/") {
				return reply(200, "text/plain", "26.1")
			}
			n++
			return answer()
		}), func(o *odata.Options) { o.Breaker = odata.BreakerPolicy{Failures: 3, OpenFor: time.Minute} })
		s := c.Open(newBearer(token))
		ping := func() error { return s.Ping(t.Context()) }
		var gone *odata.UnavailableError
		if err := ping(); !errors.As(err, &gone) || n != 3 {
			t.Fatalf("%v after %d requests", err, n)
		}
		start := time.Now()
		if err := ping(); !errors.As(err, &gone) || n != 3 || time.Since(start) > 0 || gone.RetryAfter != time.Minute || !strings.Contains(err.Error(), "the last: status 500") {
			t.Fatalf("an open breaker let something through: %v, %d requests", err, n)
		}
		if stats := c.Stats(); stats.Breaker != odata.BreakerOpen || stats.Requests[500] != 3 || stats.InFlight != 0 {
			t.Errorf("%+v", stats)
		}
		time.Sleep(time.Minute + time.Second)
		answer = func() *http.Response { return reply(429, "", "", "Retry-After", "9999") } // says nothing: still on trial
		if err := ping(); !errors.As(err, &gone) || n != 4 {
			t.Fatalf("%v, %d requests", err, n)
		}
		answer = func() *http.Response { return reply(200, "application/json", service) }
		if err := ping(); err != nil {
			t.Fatal(err)
		}
		answer = func() *http.Response { return reply(403, "", "") }
		for range 10 {
			if err := ping(); !errors.Is(err, odata.ErrForbidden) {
				t.Fatalf("a 403 counted against the instance: %v", err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for range 10 {
			answer = func() *http.Response { cancel(); return nil }
			if err := s.Ping(ctx); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		}
		answer = func() *http.Response { return reply(200, "application/json", service) }
		if err := ping(); err != nil {
			t.Fatalf("cancellations counted: %v", err)
		}
		answer = func() *http.Response { return reply(200, "application/json", service[:9]) }
		n = 0
		if err := ping(); !errors.As(err, &gone) || n != 3 {
			t.Fatalf("cut bodies must count: %v, %d requests", err, n)
		}
	})
}

func TestRateAndConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var inFlight, most atomic.Int32
		var times []time.Time
		lock := make(chan struct{}, 1)
		c := client(t, inProcess(func(*http.Request) *http.Response {
			most.Store(max(most.Load(), inFlight.Add(1)))
			lock <- struct{}{}
			times = append(times, time.Now())
			<-lock
			time.Sleep(50 * time.Millisecond)
			inFlight.Add(-1)
			return reply(200, "application/json", service)
		}), func(o *odata.Options) { o.RequestsPerMinute = 120; o.Concurrency = 3 })
		done := make(chan error)
		for range 20 {
			s := c.Open(newBearer(token))
			go func() {
				var err error
				for range 20 {
					err = errors.Join(err, s.Ping(t.Context()))
				}
				done <- err
			}()
		}
		for range 20 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if most.Load() > 3 {
			t.Errorf("%d requests at once", most.Load())
		}
		for i := range times {
			if j := i + 120; j < len(times) && times[j].Sub(times[i]) < time.Minute-time.Millisecond {
				t.Fatalf("121 requests within %v", times[j].Sub(times[i]))
			}
		}
	})
}

func TestCancelWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := client(t, inProcess(func(*http.Request) *http.Response { return reply(429, "", "", "Retry-After", "300") }))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		err := c.Open(newBearer(token)).Ping(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 10*time.Second {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
	})
}

// Headers that never come, and a body that falls silent, over a real connection.
func TestPhaseTimeouts(t *testing.T) {
	for name, effect := range map[string]simulator.Effect{"headers": simulator.SlowHeaders(20 * time.Second), "body": simulator.Stall(3, 20*time.Second)} {
		s := startSim(t, simulator.Options{}, func(o *odata.Options) {
			o.HeaderTimeout, o.IdleTimeout, o.Retry.Attempts = 60*time.Millisecond, 60*time.Millisecond, 2
		})
		s.server.Inject(simulator.Fault{Times: -1, Effect: effect})
		start := time.Now()
		_, _, err := s.scan(s.query(lines))
		var gone *odata.UnavailableError
		if !errors.As(err, &gone) || time.Since(start) > 5*time.Second {
			t.Errorf("%s: %v after %v", name, err, time.Since(start))
		}
		t.Log(err)
	}
}

// A slow reader of a stream is not a silent server.
func TestSlowReaderIsNotSilence(t *testing.T) {
	s := startSim(t, simulator.Options{}, func(o *odata.Options) { o.IdleTimeout = 60 * time.Millisecond })
	q := s.query(lines)
	q.Paging = odata.Stream
	scan, err := s.session.Scan(q)
	if err != nil {
		t.Fatal(err)
	}
	first := true
	for _, err := range scan.Records(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if first {
			time.Sleep(200 * time.Millisecond)
		}
		first = false
	}
	if ev := scan.Evidence(); ev.Retries != 0 || ev.Rows != 1300 {
		t.Errorf("%+v", ev)
	}
}

func TestTLS(t *testing.T) {
	ts := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, service)
	}))
	defer ts.Close()
	ts.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	open := func(ca string) error {
		c, err := odata.NewClient(odata.Options{URL: ts.URL, TableAPI: ts.URL + "/tableapi", CAFile: ca})
		if err != nil {
			return err
		}
		return c.Open(newBearer(token)).Ping(t.Context())
	}
	var address *odata.AddressError
	if err := open(""); !errors.As(err, &address) || !strings.Contains(err.Error(), "not trusted") {
		t.Errorf("an unknown certificate: %v", err)
	}
	old := httptest.NewUnstartedServer(ts.Config.Handler)
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
	old.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	old.StartTLS()
	defer old.Close()
	plain := httptest.NewServer(ts.Config.Handler)
	defer plain.Close()
	for _, url := range []string{old.URL, strings.Replace(plain.URL, "http:", "https:", 1)} {
		c, err := odata.NewClient(odata.Options{URL: url, TableAPI: url + "/tableapi"})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Open(newBearer(token)).Ping(t.Context()); !errors.As(err, &address) || !strings.Contains(err.Error(), "TLS") {
			t.Errorf("old or no TLS: %v", err)
		}
	}
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ts.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := open(ca); err != nil {
		t.Error(err)
	}
	if err := open(filepath.Join(dir, "missing.pem")); !errors.As(err, &address) {
		t.Error(err)
	}
	if err := os.WriteFile(ca, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := open(ca); !errors.As(err, &address) {
		t.Error(err)
	}
}

// A token goes to its host, and nowhere else; discovery is sent without it.
func TestTheTokenStaysHome(t *testing.T) {
	const discovery = `{"Host":"x","DbName":"ACME","WebSites":[{"Type":"Web","Status":"Working","Url":"https://acme.example"},{"Type":%q,"Status":%q,"Url":%q}]}`
	for _, tt := range []struct {
		name, discovery string
		want            string // base address, or a part of the error
		ok              bool
	}{
		{"documented", fmt.Sprintf(discovery, "TableApi", "Working", "https://acme.example/tableapi"), "https://acme.example/tableapi/odata/", true},
		{"upper case, port", fmt.Sprintf(discovery, "Table API", "Working", "https://ACME.example:443/tableapi/"), "tableapi/odata/", true},
		{"with odata", fmt.Sprintf(discovery, "TableApi", "Working", "https://acme.example/tableapi/odata"), "https://acme.example/tableapi/odata/", true},
		{"bare site", fmt.Sprintf(discovery, "TABLE", "Working", "https://acme.example"), "https://acme.example/odata/", true},
		{"none", `{"WebSites":[]}`, "https://acme.example/tableapi/odata/", true},
		{"not found", "404", "https://acme.example/tableapi/odata/", true},
		{"another host", fmt.Sprintf(discovery, "TableApi", "Working", "https://evil.example/tableapi"), "table_api: https://evil.example/tableapi", false},
		{"plain http", fmt.Sprintf(discovery, "TableApi", "Working", "http://acme.example/tableapi"), "in the clear", false},
		{"not working", fmt.Sprintf(discovery, "TableApi", "NotWorking", "https://acme.example/tableapi"), "NotWorking", false},
		{"login page", "<html>", "HTML", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := client(t, inProcess(func(r *http.Request) *http.Response {
				if r.URL.Host != "acme.example" && !strings.EqualFold(r.URL.Host, "acme.example:443") {
					t.Errorf("%s was asked", r.URL.Host)
				}
				if strings.HasPrefix(r.URL.Path, "/tools/") {
					if r.Header.Get("Authorization") != "" {
						t.Errorf("%s was asked with the token", r.URL.Path)
					}
					if tt.discovery == "404" {
						return reply(404, "", "")
					}
					if r.URL.Path == "/tools/ver" {
						return reply(200, "text/plain", "26.1.0.0\r\n")
					}
					return reply(200, "application/json", tt.discovery)
				}
				if r.Header.Get("Authorization") != "Bearer "+token {
					t.Error("asked without the token")
				}
				if tt.name == "bare site" && r.URL.Path != "/odata/" {
					return reply(404, "", "")
				}
				return reply(200, "application/json", service)
			}), func(o *odata.Options) { o.TableAPI = "" })
			s := c.Open(newBearer(token))
			site, err := s.Site(t.Context())
			if tt.ok && (err != nil || !strings.Contains(site.TableAPI, tt.want)) || !tt.ok && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Fatalf("%+v, %v; want %q", site, err, tt.want)
			}
			if tt.name == "documented" && (site.Version != "26.1.0.0" || site.Database != "ACME") {
				t.Errorf("%+v", site)
			}
			clean(t, err, "")
		})
	}
}

// Whatever a filter or a key holds, it comes out of the query string as it went in, and nothing else does.
func TestQueryIsEncodedOnce(t *testing.T) {
	m, err := edm.New(*tableT(t))
	if err != nil {
		t.Fatal(err)
	}
	table, _ := m.Table("T")
	c := client(t, inProcess(func(*http.Request) *http.Response { return nil }))
	s := c.Open(newBearer(token))
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[ -~äß€😀%&+#=?/']{0,40}`).Draw(t, "text")
		bound, err := filter.Compile("Name eq '"+strings.ReplaceAll(text, "'", "''")+"'", m, table)
		if err != nil {
			t.Skip(err)
		}
		q := odata.Query{Table: table, Select: []string{"Name"}, Filter: bound, PageSize: 10}
		request, err := s.Request(q)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(request)
		if err != nil {
			t.Fatal(err)
		}
		values, err := url.ParseQuery(u.RawQuery)
		if err != nil {
			t.Fatal(err)
		}
		if values.Get("$filter") != bound.Render() || len(values) != 4 || values.Get("$select") != "Name,Id" || values.Get("$top") != "10" || values.Get("$orderby") != "Id" {
			t.Fatalf("%q became %v", bound.Render(), values)
		}
		if strings.ContainsAny(u.RawQuery, "+ '()") {
			t.Fatalf("%q holds reserved bytes", u.RawQuery)
		}
	})
	lines, err := s.Describe(odata.Query{Table: table, Select: []string{"Name"}})
	if err != nil || len(lines) != 3 || !strings.Contains(lines[2], "Id ge <the last key>") {
		t.Errorf("%q, %v", lines, err)
	}
}

func TestQueriesThatAreRefused(t *testing.T) {
	c := client(t, inProcess(func(*http.Request) *http.Response { t.Error("something was asked"); return nil }))
	s := c.Open(newBearer(token))
	table := tableT(t)
	tokens, _ := edm.Embedded().Table("Sec_Access_Tokens")
	view, _ := edm.Embedded().Table(view)
	for want, q := range map[string]odata.Query{
		"at least one column": {Table: table},
		"no column":           {Table: table, Select: []string{"Nam"}},
		"no paging":           {Table: table, Select: []string{"Name"}, Paging: "fast"},
		"secret":              {Table: tokens, Select: []string{"Data"}},
		"has no key":          {Table: view, Select: view.DefaultSelect(), Paging: odata.Key},
		"twice":               {Table: table, Select: []string{"Name", "Name"}},
	} {
		if _, err := s.Scan(q); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestGzipIsCountedInflated(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	io.WriteString(z, `{"value":[{"Id":1,"Name":"`+strings.Repeat("x", 5000)+`"}]}`)
	z.Close()
	c := client(t, inProcess(func(r *http.Request) *http.Response {
		if r.Header.Get("Accept-Encoding") != "zstd, gzip" || r.Header.Get("User-Agent") != "tablexport" {
			t.Errorf("headers %v", r.Header)
		}
		q := r.URL.Query()
		switch {
		case strings.HasPrefix(r.URL.Path, "/tools/"):
			return reply(404, "", "")
		case strings.HasSuffix(r.URL.Path, "$count") || q.Get("$count") != "":
			return reply(400, "", "")
		case !strings.Contains(q.Get("$select"), "Name") && q.Get("$skip") == "":
			return reply(200, "application/json", `{"value":[{"Id":1}]}`)
		case q.Get("$skip") != "":
			return reply(200, "application/json", `{"value":[]}`)
		}
		return reply(200, "application/json", zipped.String(), "Content-Encoding", "gzip")
	}))
	scan, err := c.Open(newBearer(token)).Scan(odata.Query{Table: tableT(t), Select: []string{"Id", "Name"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range scan.Records(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if ev := scan.Evidence(); ev.Bytes < 10_000 || ev.Rows != 1 { // the page, and the page with the seam row
		t.Errorf("%+v", ev)
	}
	for _, err := range scan.Records(t.Context()) {
		if err == nil || !strings.Contains(err.Error(), "once") {
			t.Errorf("ranged twice: %v", err)
		}
	}
}

// Faults of the simulator never show its canaries: tokens, values, stack traces.
func TestErrorsAreClean(t *testing.T) {
	for name, effect := range map[string]simulator.Effect{
		"500": simulator.ServerError(), "403": simulator.Status(403, `{"message":"CANARY","info":"CANARY","code":"`+simulator.DemoToken+`"}`),
		"login": simulator.LoginPage(), "redirect": simulator.LoginRedirect(), "wrong type": simulator.WrongType(3, ""),
		"out of range": simulator.OutOfRange(3, "Line_No"), "missing": simulator.MissingProperty(3), "unexpected": simulator.UnexpectedProperty(3),
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			s := startSim(t, simulator.Options{}, func(o *odata.Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
			s.server.Inject(simulator.Fault{Match: fullRows, Times: -1, Effect: effect})
			_, _, err := s.scan(s.query(lines))
			if err == nil {
				t.Fatal("no error")
			}
			clean(t, err, log.String())
			var (
				data *odata.DataError
				auth *odata.AuthenticationPageError
				gone *odata.UnavailableError
			)
			switch name {
			case "500":
				if !errors.As(err, &gone) {
					t.Error(err)
				}
			case "403":
				if !errors.Is(err, odata.ErrForbidden) {
					t.Error(err)
				}
			case "login", "redirect":
				if !errors.As(err, &auth) {
					t.Error(err)
				}
			default:
				if !errors.As(err, &data) {
					t.Error(err)
				}
			}
		})
	}
}

func TestMetadata(t *testing.T) {
	s := startSim(t, simulator.Options{})
	m, err := s.session.Metadata(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	table, ok := m.Table(lines)
	if !ok || len(table.Key) != 1 {
		t.Fatalf("%v", table)
	}
	again, err := s.session.Metadata(t.Context())
	if err != nil || again != m {
		t.Errorf("asked twice: %v", err)
	}
	s.model = m
	s.exact(s.query(lines))
	if n, ok, err := s.session.Count(t.Context(), s.query(lines)); ok || err != nil {
		t.Errorf("%d, %v, %v", n, ok, err)
	}
}
