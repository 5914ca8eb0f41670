package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/tablexport/tablexport/odata/simulator"
)

// stranger is a server that a token must never get to. It keeps what it was sent.
type stranger struct {
	*httptest.Server
	mu   sync.Mutex
	sent []string
}

func newStranger(t *testing.T, tls bool) *stranger {
	t.Helper()
	s := &stranger{}
	handler := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sent = append(s.sent, fmt.Sprint(r.Method, r.URL, r.Header))
		rw.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprint(rw, `{"value":[]}`)
	})
	if tls {
		s.Server = httptest.NewTLSServer(handler)
	} else {
		s.Server = httptest.NewServer(handler)
	}
	t.Cleanup(s.Close)
	return s
}

// sawNo fails the test if a token, or the header of one, got here.
func (s *stranger) sawNo(t *testing.T, what string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.sent {
		if strings.Contains(r, testToken) || strings.Contains(strings.ToLower(r), "authorization") {
			t.Errorf("%s: a token was sent: %s", what, strings.ReplaceAll(r, testToken, "TOKEN"))
		}
	}
}

// An instance that sends elsewhere, by redirect or by discovery, to another host, another port or from https to http; and a configuration that names another host
// for the same token: the token is not sent there, nothing is published, and the audit log names the refusal.
func TestTokenGoesNowhereElse(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"redirect", "discovery"} {
		for _, tls := range []bool{false, true} {
			other := newStranger(t, tls)
			w := newWorld(t, simulator.Options{}).stage()
			front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				switch {
				case way == "redirect" && !strings.HasPrefix(r.URL.Path, "/tools/"):
					http.Redirect(rw, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
				case way == "discovery" && strings.HasPrefix(r.URL.Path, "/tools/auto-discovery"):
					rw.Header().Set("Content-Type", "application/json")
					_, _ = fmt.Fprintf(rw, `{"Host":"x","DbName":"x","WebSites":[{"Type":"TableApi","Status":"Working","Url":%q}]}`, other.URL+"/tableapi/odata/")
				default:
					w.server.ServeHTTP(rw, r)
				}
			}))
			// The token of the simulator's own address is not that of the front's: each is bound to its own.
			if got := w.edited(w.address, front.URL).do("run", "shop"); got.code != exitCredential || !strings.Contains(got.err, "is bound to host") {
				t.Errorf("%s: another host for the token: %s", way, got)
			}
			if got := w.doWith(t.Context(), testToken, "tokens", "stage", "bi/reader"); got.code == exitOK {
				t.Errorf("%s: staged: %s", way, got)
			}
			for _, args := range [][]string{{"run", "shop"}, {"check", "--online"}, {"tokens", "report"}, {"tokens", "verify", "bi/reader", "1"}} {
				if got := w.do(args...); got.code == exitOK {
					t.Errorf("%s: %v went well: %s", way, args, got)
				}
			}
			other.sawNo(t, way)
			if w.version("shop") != -1 {
				t.Errorf("%s: something was published", way)
			}
			refused := false
			for _, e := range objects(t, w.must(exitOK, "audit", "tail", "-n", "1000", "--json").out) {
				refused = refused || e["action"] == "refuse" && strings.Contains(fmt.Sprint(e["detail"]), "bound to host")
			}
			if !refused {
				t.Errorf("%s: the refusal is not in the audit log", way)
			}
			w.holdsNo(testToken)
			front.Close()
		}
	}
}

// edited is edit in a chain.
func (w *world) edited(old, new string) *world {
	w.t.Helper()
	w.edit(old, new)
	return w
}

// From https down to http: a production environment refuses it before anything is asked, by every command that could send a token.
func TestNoDowngrade(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}).stage()
	w.edit("environment: sandbox", "environment: production")
	for _, args := range [][]string{{"run", "shop"}, {"check", "--online"}, {"tokens", "rotate", "bi/reader"}, {"tokens", "report"}, {"policy", "check"}, {"serve"}} {
		contains(t, w.must(exitConfig, args...).err, "plain http in a production environment")
	}
	// And the sandbox's token is not one of production, wherever production is.
	w.edit(w.address, "https://127.0.0.1:1")
	for _, args := range [][]string{{"run", "shop"}, {"tokens", "rotate", "bi/reader"}, {"tokens", "show", "bi/reader"}} {
		contains(t, w.must(exitCredential, args...).err, "environment")
	}
	w.holdsNo(testToken)
}
