package hashivault

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/secretstest"
	"github.com/tablexport/tablexport/secrets/secretstest/vaultserver"
)

// fault is what happens to one request between us and Vault.
type fault int

const (
	pass      fault = iota
	refuse          // 502; Vault never saw it
	lose            // Vault did it; the answer is 502
	cut             // Vault did it; the connection breaks
	cutBefore       // the connection breaks; Vault never saw it
	garble          // Vault did it; the answer is 200 and nonsense
)

// proxy stands before a real Vault. choose decides on each request.
func proxy(t testing.TB, server vaultserver.Server, choose func(*http.Request) fault) string {
	t.Helper()
	target, err := url.Parse(server.Address)
	if err != nil {
		t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(target)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := choose(r)
		if f == pass {
			forward.ServeHTTP(w, r)
			return
		}
		if f == lose || f == cut || f == garble {
			forward.ServeHTTP(httptest.NewRecorder(), r)
		}
		switch f {
		case cut, cutBefore:
			panic(http.ErrAbortHandler)
		case garble:
			_, _ = io.WriteString(w, "<html>")
		default:
			http.Error(w, "bad gateway", http.StatusBadGateway)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// Every write of every operation fails once, in every way. The operation succeeds, and was done once.
func TestOneFaultIsSurvived(t *testing.T) {
	server := vaultserver.Start(t)
	for name, f := range map[string]fault{"refuse": refuse, "lose": lose, "cut": cut, "cut before": cutBefore, "garble": garble} {
		for nth := int64(1); nth <= 7; nth++ { // metadata, value, state, key, state of the activation, custom metadata, uses
			t.Run(fmt.Sprint(name, " write ", nth), func(t *testing.T) {
				mount := server.NewMount(t)
				opts := rootOptions(t, server, mount)
				var writes, hit atomic.Int64
				opts.Address = proxy(t, server, func(r *http.Request) fault {
					if (r.Method == http.MethodPut || r.Method == http.MethodPatch) && writes.Add(1) == nth {
						hit.Add(1)
						return f
					}
					return pass
				})
				v := open(t, opts)
				c := secretstest.NewCanary(t)
				made, err := v.Stage(t.Context(), "bi/x", c.Token, "fp:1", secretstest.Binding)
				if err != nil || made.Number != 1 {
					t.Fatalf("stage: %+v %v", made, err)
				}
				key, err := v.FingerprintKey(t.Context())
				if err != nil {
					t.Fatalf("key: %v", err)
				}
				if err := v.Activate(t.Context(), "bi/x", 1, 0); err != nil {
					t.Fatalf("activate: %v", err)
				}
				known := secrets.Attributes{Expires: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC), Scopes: "read", Owner: "Ada"}
				if err := v.Describe(t.Context(), "bi/x", 1, known); err != nil {
					t.Fatalf("describe: %v", err)
				}
				use := secrets.PlaceUse{Place: "ada@one:/state", Fingerprint: "fp:1", Last: known.Expires}
				if err := v.Used(t.Context(), "bi/x", use); err != nil {
					t.Fatalf("used: %v", err)
				}
				direct := open(t, rootOptions(t, server, mount))
				n, err := direct.Versions(t.Context(), "bi/x")
				if err != nil || len(n.Versions) != 1 || n.Active != 1 || n.Versions[0].Fingerprint != "fp:1" || n.Versions[0].Attributes != known {
					t.Errorf("%+v %v", n, err)
				}
				if uses, err := direct.Uses(t.Context(), "bi/x"); err != nil || len(uses) != 1 || uses[0] != use {
					t.Errorf("uses: %+v %v", uses, err)
				}
				if token, _, err := direct.Read(t.Context(), "bi/x", 0); err != nil || !token.Equal(c.Token) {
					t.Error(err)
				}
				if again, err := direct.FingerprintKey(t.Context()); err != nil || !slices.Equal(key, again) {
					t.Errorf("another key: %v", err)
				}
				if hit.Load() != 1 {
					t.Errorf("%d faults, %d writes", hit.Load(), writes.Load())
				}
			})
		}
	}
}

// Vault does it and is gone before anyone can look: the caller is told that it is not known.
func TestDoneButNobodyKnows(t *testing.T) {
	server := vaultserver.Start(t)
	for _, op := range []string{"stage", "activate"} {
		t.Run(op, func(t *testing.T) {
			mount := server.NewMount(t)
			direct := open(t, rootOptions(t, server, mount))
			stage(t, direct, "bi/x")
			opts := rootOptions(t, server, mount)
			var gone atomic.Bool
			opts.Address = proxy(t, server, func(r *http.Request) fault {
				switch {
				case gone.Load():
					return cutBefore
				case r.Method == http.MethodPut:
					gone.Store(true)
					return cut
				}
				return pass
			})
			v := open(t, opts)
			c := secretstest.NewCanary(t)
			var err error
			if op == "stage" {
				_, err = v.Stage(t.Context(), "bi/x", c.Token, "fp:2", secretstest.Binding)
			} else {
				err = v.Activate(t.Context(), "bi/x", 1, 0)
			}
			if !errors.Is(err, secrets.ErrUnknown) || !errors.Is(err, secrets.ErrUnavailable) {
				t.Errorf("err = %v", err)
			}
			c.AbsentFromError(t, "error", err)
			n, err := direct.Versions(t.Context(), "bi/x")
			if err != nil || op == "stage" && len(n.Versions) != 2 || op == "activate" && n.Active != 1 {
				t.Errorf("it was not done: %+v %v", n, err)
			}
		})
	}
}

// A conflict is told from the look after a lost answer: someone else activated, and our write never arrived.
func TestLostWriteAndAConflict(t *testing.T) {
	server := vaultserver.Start(t)
	mount := server.NewMount(t)
	direct := open(t, rootOptions(t, server, mount))
	stage(t, direct, "bi/x")
	stage(t, direct, "bi/x")
	opts := rootOptions(t, server, mount)
	var once atomic.Bool
	opts.Address = proxy(t, server, func(r *http.Request) fault {
		if r.Method == http.MethodPut && once.CompareAndSwap(false, true) {
			if err := direct.Activate(context.Background(), "bi/x", 2, 0); err != nil {
				t.Error(err)
			}
			return cutBefore
		}
		return pass
	})
	if err := open(t, opts).Activate(t.Context(), "bi/x", 1, 0); !errors.Is(err, secrets.ErrConflict) || errors.Is(err, secrets.ErrUnknown) {
		t.Errorf("err = %v", err)
	}
	if n, _ := direct.Versions(t.Context(), "bi/x"); n.Active != 2 {
		t.Errorf("active %d", n.Active)
	}
}

// fake is a server that is no Vault, with the options to reach it.
func fake(t testing.TB, handler http.HandlerFunc) Options {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return Options{Address: s.URL, Auth: Auth{TokenFile: writeFile(t, "hvs.canary-vault-token")}}
}

// Something between us and Vault echoes what we sent, in the body of every answer: it gets into no error.
func TestEchoedSecretsStayOut(t *testing.T) {
	c := secretstest.NewCanary(t)
	for _, status := range []int{200, 204, 301, 307, 400, 403, 404, 405, 412, 413, 429, 472, 500, 502, 503} {
		opts := fake(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			echo, _ := json.Marshal(map[string]any{"errors": []string{string(body), fmt.Sprint(r.Header)}, "data": string(body)})
			w.Header().Set("Location", "https://elsewhere.example/"+url.QueryEscape(string(body)))
			w.WriteHeader(status)
			_, _ = w.Write(echo)
		})
		ctx, cancel := context.WithTimeout(t.Context(), 120*time.Millisecond)
		v := open(t, opts)
		_, stageErr := v.Stage(ctx, "bi/x", c.Token, "fp:1", secretstest.Binding)
		a, putErr := v.put(ctx, "tokens/bi/x", tokenData{Token: c.Value()}, 0)
		_, listErr := v.List(ctx)
		_, _, readErr := v.Read(ctx, "bi/x", 1)
		cancel()
		errs := []error{stageErr, putErr, listErr, readErr, v.fault(t.Context(), a, "update", "secret/data/x")}
		if stageErr == nil {
			t.Errorf("%d: staged", status)
		}
		for _, err := range errs {
			c.AbsentFromError(t, fmt.Sprint(status), err)
			if strings.Contains(fmt.Sprintf("%+v", err), "canary-vault-token") {
				t.Errorf("%d: the error holds the Vault token: %v", status, err)
			}
		}
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	var followed atomic.Bool
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Store(true) }))
	defer elsewhere.Close()
	opts := fake(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
	})
	_, err := open(t, opts).Versions(t.Context(), "bi/x")
	if !errors.Is(err, secrets.ErrUnavailable) || !strings.Contains(fmt.Sprint(err), "redirect") {
		t.Errorf("err = %v", err)
	}
	if followed.Load() {
		t.Error("the Vault token went to another server")
	}
}

// The open-source Vault has no namespaces: what can be shown is that each request, login included, names it.
func TestNamespaceHeader(t *testing.T) {
	var seen atomic.Int64
	opts := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Vault-Namespace") != "teams/bi" || r.Header.Get("X-Vault-Request") != "true" {
			t.Errorf("%s %s: %v", r.Method, r.URL, r.Header)
		}
		seen.Add(1)
		if strings.HasSuffix(r.URL.Path, "/login") {
			if r.Header.Get("X-Vault-Token") != "" {
				t.Error("a token goes with the login")
			}
			_, _ = io.WriteString(w, `{"auth":{"client_token":"hvs.x"}}`)
			return
		}
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"errors":[]}`)
	})
	opts.Namespace = "teams/bi"
	opts.Auth = Auth{AppRole: &AppRole{RoleIDFile: writeFile(t, "r"), SecretIDFile: writeFile(t, "s")}}
	if _, err := open(t, opts).List(t.Context()); err != nil || seen.Load() != 2 {
		t.Errorf("%d requests, %v", seen.Load(), err)
	}
}

// The environment of the process chooses neither the Vault, nor the credential, nor weaker TLS.
func TestEnvironmentIsIgnored(t *testing.T) {
	server := vaultserver.Start(t, vaultserver.TLS())
	opts := rootOptions(t, server, server.NewMount(t))
	for name, value := range map[string]string{
		"VAULT_ADDR": "http://127.0.0.1:1", "VAULT_AGENT_ADDR": "http://127.0.0.1:1", "VAULT_TOKEN": "hvs.other",
		"VAULT_NAMESPACE": "other", "VAULT_WRAP_TTL": "60s", "VAULT_HEADERS": `{"X-Other":"1"}`,
		"VAULT_PROXY_ADDR": "http://127.0.0.1:1", "VAULT_HTTP_PROXY": "http://127.0.0.1:1", "VAULT_RATE_LIMIT": "0.001:1",
	} {
		t.Setenv(name, value)
	}
	stage(t, open(t, opts), "bi/x")
	t.Setenv("VAULT_SKIP_VERIFY", "true")
	opts.CAFile = ""
	if _, err := open(t, opts).List(t.Context()); !errors.Is(err, secrets.ErrUnavailable) || !strings.Contains(fmt.Sprint(err), "certificate") {
		t.Errorf("an unknown authority: %v", err)
	}
	t.Setenv("VAULT_MAX_RETRIES", "canary")
	if _, err := Open(opts); !errors.Is(err, secrets.ErrSetup) || !strings.Contains(fmt.Sprint(err), "VAULT_MAX_RETRIES") || strings.Contains(fmt.Sprint(err), "canary") {
		t.Errorf("a malformed variable: %v", err)
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	s.Config.ErrorLog = nil
	s.StartTLS()
	defer s.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	v := open(t, Options{Address: s.URL, CAFile: writeFile(t, string(ca)), Auth: Auth{TokenFile: writeFile(t, "x")}})
	if _, err := v.List(t.Context()); !errors.Is(err, secrets.ErrUnavailable) || !strings.Contains(fmt.Sprint(err), "protocol version") {
		t.Errorf("err = %v", err)
	}
}

func TestOptions(t *testing.T) {
	auth := Auth{TokenFile: "token"}
	role := func(r AppRole) Auth { return Auth{AppRole: &r} }
	bad := map[string]Options{
		"not a URL":          {Address: "vault", Auth: auth},
		"is not a URL":       {Address: "", Auth: auth},
		"in the clear":       {Address: "http://vault.acme.example:8200", Auth: auth},
		"start with https":   {Address: "ftp://vault.acme.example", Auth: auth},
		"must not hold":      {Address: "https://user:canary@vault.acme.example", Auth: auth},
		"or parameters":      {Address: "https://vault.acme.example/?x=canary", Auth: auth},
		"mount":              {Address: "https://v", Mount: "../sys", Auth: auth},
		"prefix":             {Address: "https://v", Prefix: "a b", Auth: auth},
		"namespace":          {Address: "https://v", Namespace: "a\nb", Auth: auth},
		"exactly one way":    {Address: "https://v"},
		"one way to log in":  {Address: "https://v", Auth: Auth{TokenFile: "x", AppRole: &AppRole{RoleIDFile: "a", SecretIDFile: "b"}}},
		"secret_id_file":     {Address: "https://v", Auth: role(AppRole{RoleIDFile: "x"})},
		"AppRole mount":      {Address: "https://v", Auth: role(AppRole{RoleIDFile: "x", SecretIDFile: "y", Mount: "a//b"})},
		"authority of Vault": {Address: "https://v", CAFile: "/nonexistent", Auth: auth},
		"no certificate in":  {Address: "https://v", CAFile: writeFile(t, "nothing"), Auth: auth},
	}
	for text, opts := range bad {
		_, err := Open(opts)
		if !errors.Is(err, secrets.ErrSetup) || !strings.Contains(fmt.Sprint(err), text) || strings.Contains(fmt.Sprint(err), "canary") {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, address := range []string{"https://vault.acme.example:8200/", "https://v/under/a/path", "http://127.0.0.1:8200", "http://localhost:8200", "http://[::1]:8200"} {
		if _, err := Open(Options{Address: address, Mount: "/kv/team/", Prefix: "tablexport/", Auth: auth}); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
}
