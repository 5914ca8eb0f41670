package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tablexport/tablexport/jobs/gate/gatetest"
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

// A certificate that has expired, is not yet good, is of another host or of an authority nobody knows, of the instance and of the vault: no token is sent, nothing is
// published, and the error says what is wrong with it.
func TestBadCertificates(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, c := range map[string]struct {
		from, to time.Time
		host     string
		known    bool
		want     string
	}{
		"expired":           {now.Add(-48 * time.Hour), now.Add(-time.Hour), "127.0.0.1", true, "certificate has expired or is not yet valid"},
		"not yet good":      {now.Add(time.Hour), now.Add(48 * time.Hour), "127.0.0.1", true, "certificate has expired or is not yet valid"},
		"another host":      {now.Add(-time.Hour), now.Add(time.Hour), "erp.elsewhere.example", true, "certificate"},
		"another authority": {now.Add(-time.Hour), now.Add(time.Hour), "127.0.0.1", false, "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			authority, other := gatetest.NewAuthority(t, "acme"), gatetest.NewAuthority(t, "other")
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			template := &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: c.from, NotAfter: c.to, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
			if ip := net.ParseIP(c.host); ip != nil {
				template.IPAddresses = []net.IP{ip}
			} else {
				template.DNSNames = []string{c.host}
			}
			der, err := x509.CreateCertificate(rand.Reader, template, authority.Cert, &key.PublicKey, authority.Signer())
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t, simulator.Options{})
			var asked atomic.Int64 // over connections that began with the bad certificate
			var bad atomic.Bool
			type began struct{}
			front := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.Context().Value(began{}) == true {
					asked.Add(1)
				}
				w.server.ServeHTTP(rw, r)
			}))
			front.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
				return context.WithValue(ctx, began{}, bad.Load())
			}
			good := authority.Issue(t, "127.0.0.1", now.Add(time.Hour), x509.ExtKeyUsageServerAuth)
			shown := atomic.Pointer[tls.Certificate]{}
			shown.Store(&good)
			front.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
				return &tls.Config{Certificates: []tls.Certificate{*shown.Load()}, MinVersion: tls.VersionTLS12}, nil
			}}
			front.Config.ErrorLog = log.New(io.Discard, "", 0)
			front.StartTLS()
			defer front.Close()
			ca := authority.WriteCA(t, filepath.Join(w.dir, "ca.crt"))
			w.edit(fmt.Sprintf("url: %q,", w.address), fmt.Sprintf("url: %q, ca_file: %s,", front.URL, ca))
			w.mustWith(exitOK, testToken, "tokens", "stage", "bi/reader", "--activate")
			shown.Store(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
			if !c.known {
				other.WriteCA(t, ca)
			}
			bad.Store(true)
			front.CloseClientConnections()
			for _, args := range [][]string{{"run", "shop"}, {"check", "--online"}, {"tokens", "verify", "bi/reader", "1"}, {"tokens", "report"}} {
				got := w.do(append(args, "-v")...)
				if got.code == exitOK || !strings.Contains(got.out+got.err, c.want) {
					t.Errorf("%v: %s", args, got)
				}
			}
			contains(t, w.doWith(t.Context(), nextToken, "tokens", "stage", "bi/reader").err, "was not staged", c.want)
			if asked.Load() > 0 {
				t.Errorf("%d requests came through", asked.Load())
			}
			// The vault too.
			w.edit("secrets: {file: {path: ./secrets.age}}", fmt.Sprintf("secrets: {vault: {address: %q, ca_file: %s, auth: {token_file: ./token}}}", front.URL, ca))
			w.write("token", canaryVaultToken)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if got := w.doWith(ctx, "", "tokens", "list"); got.code == exitOK || asked.Load() > 0 {
				t.Errorf("%s, %d requests", got, asked.Load())
			}
			if err := os.Remove(filepath.Join(w.dir, "token")); err != nil {
				t.Fatal(err)
			}
			w.holdsNo(testToken, canaryVaultToken)
		})
	}
}

const canaryVaultToken = "hvs.CANARY0123456789abcdefVAULT"
