//go:build unix

package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tablexport/tablexport/jobs/gate/gatetest"
	"github.com/tablexport/tablexport/odata/simulator"
)

// The program listens for everybody, over TLS, to an issuer's subjects: orders of operators are carried out and audited with who gave
// them, those of others are refused and audited too, a log that cannot be written blocks them, and no token is anywhere.
func TestServeForOthers(t *testing.T) {
	t.Parallel()
	issuer, authority := gatetest.NewIssuer(t), gatetest.NewAuthority(t, "acme")
	dir := t.TempDir()
	certFile, keyFile := gatetest.Write(t, dir, "server", authority.Issue(t, "serve", time.Now().Add(time.Hour), x509.ExtKeyUsageServerAuth))
	issuerCA := filepath.Join(dir, "issuer.crt")
	if err := os.WriteFile(issuerCA, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issuer.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, simulator.Options{}, `serve:
  listen: "0.0.0.0:0"
  tls: {cert_file: `+certFile+`, key_file: `+keyFile+`}
  oidc: {issuer: "`+issuer.URL+`", audience: tablexport, ca_file: `+issuerCA+`, roles: {viewer: [bi], operator: [ops]}}
  limits: {requests_per_minute: 100}`).stage()
	s := w.serve()
	_, port, _ := strings.Cut(s.address, "]:")
	if port == "" {
		port = s.address[strings.LastIndex(s.address, ":")+1:]
	}
	pool := x509.NewCertPool()
	pool.AddCert(authority.Cert)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true}}
	now := time.Now()
	viewer, ops := issuer.Sign(t, issuer.Claims(now, "bi")), issuer.Sign(t, issuer.Claims(now, "ops"))
	ask := func(token, method, path string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "https://127.0.0.1:"+port+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	for _, c := range []struct {
		token, method, path string
		code                int
	}{
		{"", "GET", "/healthz", 200}, {"", "GET", "/", 401}, {"", "GET", "/metrics", 401}, {viewer, "GET", "/", 200}, {viewer, "GET", "/metrics", 200}, {viewer, "GET", "/tokens", 403},
		{viewer, "POST", "/api/v1/jobs/lines/run", 403}, {ops, "POST", "/api/v1/jobs/nope/run", 404}, {ops, "POST", "/api/v1/jobs/lines/cancel", 409},
		{ops, "POST", "/api/v1/jobs/lines/pause", 200}, {ops, "POST", "/api/v1/jobs/lines/resume", 200}, {ops, "POST", "/api/v1/jobs/lines/run", 202}, {ops[:len(ops)-4], "GET", "/", 401},
	} {
		if code, body := ask(c.token, c.method, c.path); code != c.code {
			t.Errorf("%s %s: %d %.200s, want %d", c.method, c.path, code, body, c.code)
		}
	}
	if got := s.line("run succeeded"); got["job"] != "lines" {
		t.Error(got)
	}
	// What cannot be audited is not done; the one who asked is not told why.
	place := filepath.Join(w.dir, ".tablexport", "audit")
	if err := errors.Join(os.Rename(place, place+".away"), os.WriteFile(place, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	runs := func() int { return len(objects(t, w.must(exitOK, "runs", "--json").out)) }
	before := runs()
	for _, do := range []string{"pause", "resume", "run", "cancel"} {
		if code, body := ask(ops, "POST", "/api/v1/jobs/lines/"+do); code != 503 || strings.Contains(body, w.dir) {
			t.Errorf("%s without an audit log: %d %s", do, code, body)
		}
	}
	if _, body := ask(ops, "GET", "/api/v1/jobs/lines"); strings.Contains(body, `"paused"`) || !strings.Contains(body, `"waiting":0`) || runs() != before {
		t.Errorf("an order was carried out: %s, %d runs, were %d", body, runs(), before)
	}
	if err := errors.Join(os.Remove(place), os.Rename(place+".away", place)); err != nil {
		t.Fatal(err)
	}
	if code, body := ask(ops, "POST", "/api/v1/jobs/lines/pause"); code != 200 {
		t.Error(code, body)
	}
	log := w.must(exitOK, "audit", "tail", "-n", "100", "--json").out
	contains(t, log, `"actor":"oidc:olga","action":"run","subject":"lines"`, `"action":"pause","subject":"lines"`, `"action":"resume","subject":"lines"`,
		`"actor":"oidc:olga","action":"refuse","subject":"POST /api/v1/jobs/{job}/run"`, `"action":"cancel","subject":"lines","job":"lines","outcome":"failed"`,
		`"action":"run","subject":"nope","outcome":"refused"`, `"action":"run","subject":"lines","job":"lines","outcome":"started"`, `"action":"run","subject":"lines","job":"lines","outcome":"ok"`)
	w.must(exitOK, "audit", "verify")
	if code := s.end(syscall.SIGTERM); code != exitOK {
		t.Errorf("exit code %d: %s", code, s.log)
	}
	for _, token := range []string{viewer, ops} {
		if strings.Contains(s.log.String()+log, token[len(token)-30:]) {
			t.Error("a token is in the log")
		}
	}
}
