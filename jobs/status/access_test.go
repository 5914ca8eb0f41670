package status

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/tablexport/tablexport/jobs/gate"
	"github.com/tablexport/tablexport/jobs/gate/gatetest"
)

// matrix is who may what, written down a second time: docs/serve.md has it too.
var matrix = map[gate.Access]map[gate.Role]bool{
	gate.Open:    {gate.Viewer: true, gate.Operator: true, gate.Auditor: true, gate.Admin: true, "": true},
	gate.Signed:  {gate.Viewer: true, gate.Operator: true, gate.Auditor: true, gate.Admin: true, "": true},
	gate.View:    {gate.Viewer: true, gate.Operator: true, gate.Auditor: true, gate.Admin: true},
	gate.Audit:   {gate.Auditor: true, gate.Admin: true},
	gate.Operate: {gate.Operator: true, gate.Admin: true},
}

// routesWanted is every route and what it takes. A new route must be added here on purpose.
var routesWanted = map[string]gate.Access{
	"GET /healthz": gate.Open, "GET /readyz": gate.Open, "GET /style.css": gate.View, "GET /icon.svg": gate.View, "POST /events/lifecycle": gate.Signed,
	"GET /{$}": gate.View, "GET /jobs/{job}": gate.View, "GET /jobs/{job}/dataset": gate.View, "GET /runs": gate.View, "GET /runs/{run}": gate.View, "GET /instances": gate.View,
	"GET /": gate.View, "GET /metrics": gate.View, "GET /tokens": gate.Audit,
	"GET /api/": gate.View, "GET /api/v1/openapi.json": gate.View, "GET /api/v1/jobs": gate.View, "GET /api/v1/jobs/{job}": gate.View, "GET /api/v1/runs": gate.View,
	"GET /api/v1/runs/{run}": gate.View, "GET /api/v1/ticks": gate.View, "GET /api/v1/instances": gate.View, "GET /api/v1/alerts": gate.View, "GET /api/v1/jobs/{job}/dataset": gate.View, "GET /api/v1/tokens": gate.Audit,
	"POST /api/v1/jobs/{job}/pause": gate.Operate, "POST /api/v1/jobs/{job}/resume": gate.Operate, "POST /api/v1/jobs/{job}/run": gate.Operate, "POST /api/v1/jobs/{job}/cancel": gate.Operate,
}

// behindTLS serves everything over TLS to the subjects of an issuer and the holders of certificates.
func behindTLS(t *testing.T) (s *stage, at string, issuer *gatetest.Issuer, authority *gatetest.Authority, orders *[]Order) {
	t.Helper()
	s, _ = staged(t)
	orders = &[]Order{}
	s.Act = func(_ context.Context, o Order) error { *orders = append(*orders, o); return nil }
	s.Events = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	issuer, authority = gatetest.NewIssuer(t), gatetest.NewAuthority(t, "acme")
	m := NewMetrics(s.Source)
	roles := map[string][]gate.Role{"bi-viewer": {gate.Viewer}, "bi-operator": {gate.Operator}, "bi-auditor": {gate.Auditor}, "bi-admin": {gate.Admin}}
	s.Gate = gate.New(gate.Options{Secure: true, Certificates: roles, Refused: m.Refused,
		Bearer: &gate.OIDC{Issuer: issuer.URL, Audience: gatetest.Audience, Claim: "roles", Roles: roles, Skew: time.Minute, Client: issuer.Client()}})
	dir := t.TempDir()
	certFile, keyFile := gatetest.Write(t, dir, "server", authority.Issue(t, "serve", time.Now().Add(time.Hour), x509.ExtKeyUsageServerAuth))
	config, err := (&gate.Files{CertFile: certFile, KeyFile: keyFile, ClientCAFile: authority.WriteCA(t, filepath.Join(dir, "ca.crt"))}).Config()
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(Handler(s.Source, m, slog.New(slog.DiscardHandler)))
	server.Config = Server(server.Config.Handler, slog.New(slog.DiscardHandler))
	server.Listener = tls.NewListener(server.Listener, config)
	server.Start()
	t.Cleanup(server.Close)
	return s, "https" + strings.TrimPrefix(server.URL, "http"), issuer, authority, orders
}

// Every route, with every role, by token and by certificate, with every broken token, and with none.
func TestEveryRouteWithEveryRole(t *testing.T) {
	t.Parallel()
	s, at, issuer, authority, orders := behindTLS(t)
	routes := s.mux(NewMetrics(s.Source), slog.New(slog.DiscardHandler)).Routes()
	for pattern := range routesWanted {
		if routes[pattern] != routesWanted[pattern] {
			t.Errorf("%s takes %v, want %v", pattern, routes[pattern], routesWanted[pattern])
		}
	}
	pool := x509.NewCertPool()
	pool.AddCert(authority.Cert)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	now := time.Now()
	broken := issuer.Broken(t, now, "bi-admin")
	for pattern, access := range routes {
		if _, known := routesWanted[pattern]; !known {
			t.Errorf("%s is new: say who may", pattern)
		}
		method, path, _ := strings.Cut(pattern, " ")
		path = at + strings.NewReplacer("{$}", "", "{job}", "orders", "{run}", "r1").Replace(path)
		ask := func(transport http.RoundTripper, token string) (int, string, http.Header) {
			t.Helper()
			r, err := http.NewRequestWithContext(t.Context(), method, path, strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			if token != "" {
				r.Header.Set("Authorization", "Bearer "+token)
			}
			w, err := transport.RoundTrip(r)
			if err != nil {
				t.Fatal(pattern, err)
			}
			defer w.Body.Close()
			body, err := io.ReadAll(w.Body)
			if err != nil {
				t.Fatal(err)
			}
			if w.Header.Get("Strict-Transport-Security") == "" || !strings.Contains(w.Header.Get("Content-Security-Policy"), "default-src 'none'") {
				t.Errorf("%s: %v", pattern, w.Header)
			}
			return w.StatusCode, string(body), w.Header
		}
		for _, role := range append([]gate.Role{""}, gate.Roles...) {
			token := issuer.Sign(t, issuer.Claims(now, "bi-"+string(role), "another"))
			holder := transport.Clone()
			cert := authority.Issue(t, "bi-"+string(role), now.Add(time.Hour), x509.ExtKeyUsageClientAuth)
			holder.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
			for how, try := range map[string]func() (int, string, http.Header){
				"token":       func() (int, string, http.Header) { return ask(transport, token) },
				"certificate": func() (int, string, http.Header) { return ask(holder, "") },
			} {
				before := len(*orders)
				code, body, _ := try()
				if may := matrix[access][role]; may != (code < 400 || code == 404 && (pattern == "GET /" || pattern == "GET /api/")) || !may && code != http.StatusForbidden {
					t.Errorf("%s for %q by %s: %d %.100s", pattern, role, how, code, body)
				}
				if did := len(*orders) > before; did != (access == gate.Operate && matrix[access][role]) {
					t.Errorf("%s for %q by %s: done: %v", pattern, role, how, did)
				}
			}
			holder.CloseIdleConnections()
		}
		for what, token := range broken {
			before := len(*orders)
			code, body, header := ask(transport, token)
			open := access == gate.Open || access == gate.Signed
			if open != (code < 300) || !open && (code != http.StatusUnauthorized || !strings.Contains(header.Get("WWW-Authenticate"), "invalid_token")) || len(*orders) > before {
				t.Errorf("%s with a token that is %s: %d %.100s", pattern, what, code, body)
			}
		}
		if code, _, _ := ask(transport, ""); (code < 300) != (access == gate.Open || access == gate.Signed) || code >= 300 && code != http.StatusUnauthorized {
			t.Errorf("%s without anything: %d", pattern, code)
		}
	}
	transport.CloseIdleConnections()
	if len(*orders) == 0 || (*orders)[0].Job != "orders" || (*orders)[0].Who == "" {
		t.Error(*orders)
	}
}

// Orders are JSON of a certain form, say what became of them, and answer as the OpenAPI document says.
func TestOrders(t *testing.T) {
	t.Parallel()
	s, m := full(t)
	var got []Order
	var become error
	s.Act = func(_ context.Context, o Order) error { got = append(got, o); return become }
	s.Gate = gate.New(gate.Options{Bearer: operator{}})
	h := Handler(s.Source, m, slog.New(slog.DiscardHandler))
	tree, err := jsonschema.UnmarshalJSON(strings.NewReader(string(openAPI())))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("openapi.json", tree); err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths map[string]map[string]struct {
			Responses map[string]any `json:"responses"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(openAPI(), &doc); err != nil {
		t.Fatal(err)
	}
	send := func(do, kind, body string) (int, string) {
		t.Helper()
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1/api/v1/jobs/orders/"+do, strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer x")
		if kind != "" {
			r.Header.Set("Content-Type", kind)
		}
		h.ServeHTTP(w, r)
		code := w.Code
		declared := doc.Paths["/jobs/{job}/"+do]["post"].Responses
		name := "Error"
		if code < 300 {
			name = "Order"
		}
		schema, err := compiler.Compile("openapi.json#/components/schemas/" + name)
		if err != nil {
			t.Fatal(err)
		}
		text := w.Body.String()
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err == nil {
			err = schema.Validate(v)
		}
		if declared[strconv.Itoa(code)] == nil || err != nil {
			t.Errorf("%s: %d %s: not as the document says: %v", do, code, text, err)
		}
		return code, text
	}
	for do := range Orders {
		want := 200
		if do == "run" {
			want = 202
		}
		if code, body := send(do, "application/json; charset=utf-8", `{"why":"stocktaking"}`); code != want {
			t.Error(do, code, body)
		}
		if last := got[len(got)-1]; last != (Order{do, "orders", "stocktaking", "oidc:x"}) {
			t.Error(last)
		}
	}
	n := len(got)
	for _, bad := range []struct {
		kind, body string
		code       int
	}{
		{"", "{}", 415}, {"text/plain", "{}", 415}, {"application/x-www-form-urlencoded", "why=x", 415}, {"application/json", "", 400}, {"application/json", `{"who":"me"}`, 400},
		{"application/json", `{}{}`, 400}, {"application/json", `{"why":"a\nb"}`, 400}, {"application/json", `{"why":"` + strings.Repeat("x", 201) + `"}`, 400},
		{"application/json", `{"why":"` + strings.Repeat("x", 100_000) + `"}`, 400},
	} {
		if code, body := send("run", bad.kind, bad.body); code != bad.code {
			t.Errorf("%s %.40s: %d %s", bad.kind, bad.body, code, body)
		}
	}
	if len(got) != n {
		t.Error("a bad order was taken")
	}
	become = Busy("a run is under way")
	if code, body := send("run", "application/json", "{}"); code != 409 || !strings.Contains(body, "under way") {
		t.Error(code, body)
	}
	become = errors.Join(become, errors.New("/secret/path is full"))
	if code, body := send("run", "application/json", "{}"); code != 409 || strings.Contains(body, "/secret") {
		t.Error(code, body)
	}
	become = ErrUnknown
	if code, body := send("run", "application/json", "{}"); code != 404 {
		t.Error(code, body)
	}
	become = errors.New("/secret/path is full")
	if code, body := send("pause", "application/json", "{}"); code != 503 || strings.Contains(body, "/secret") {
		t.Error(code, body)
	}
}

type operator struct{}

func (operator) Verify(context.Context, string) (gate.Caller, error) {
	return gate.Caller{Name: "oidc:x", Roles: []gate.Role{gate.Operator}}, nil
}
