// Package vaultserver gives tests a real HashiCorp Vault.
//
// The server is Vault's own core in memory (see .ci/vaultserver), with KV version 2 mounted at secret/ and AppRole
// enabled at approle/; more of both can be made for one test with [Server.NewMount] and [Server.NewAppRole]. All tests
// of one process share a server, one without and one with TLS, unless they ask for a private one. There are no
// namespaces: those are an Enterprise feature.
//
// The program is installed by "make servers". A test that does not find it is skipped and says so; where
// TABLEXPORT_REQUIRE_SERVERS=1, as in "make check", it fails.
package vaultserver

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Server is a running Vault.
type Server struct {
	Address    string // http://127.0.0.1:PORT, or https:// with TLS
	RootToken  string
	CACertFile string // PEM, of the authority that signed the server's certificate; empty without TLS
	Version    string // of Vault, such as 1.21.1

	authority []byte // what CACertFile holds
	stop      func()
}

// trusted returns the server with its authority in a file that lives as long as the test.
func (s Server) trusted(t testing.TB) Server {
	t.Helper()
	if s.authority == nil {
		return s
	}
	s.CACertFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(s.CACertFile, s.authority, 0o600); err != nil {
		t.Fatalf("vaultserver: %v", err)
	}
	return s
}

// Option is a choice about the server that Start returns.
type Option func(*options)

type options struct{ tls, private bool }

// TLS asks for a server that speaks TLS only, with a certificate for 127.0.0.1 and localhost that an authority made for
// this server signed.
func TLS() Option { return func(o *options) { o.tls = true } }

// Private asks for a server that no other test shares, which can be stopped with [Server.Stop] or sealed. It ends with
// the test.
func Private() Option { return func(o *options) { o.private = true } }

// Start returns a server of this test process, starting it on first use. It ends with the process.
func Start(t testing.TB, choices ...Option) Server {
	t.Helper()
	var o options
	for _, choose := range choices {
		choose(&o)
	}
	path := find(t)
	if o.private {
		server, err := start(path, o.tls, t.TempDir())
		if err != nil {
			t.Fatalf("vaultserver: %v", err)
		}
		t.Cleanup(server.stop)
		return server.trusted(t)
	}

	shared.Lock()
	defer shared.Unlock()
	server, running := shared.servers[o.tls]
	if !running {
		var err error
		if server, err = start(path, o.tls, t.TempDir()); err != nil {
			t.Fatalf("vaultserver: %v", err)
		}
		shared.servers[o.tls] = server
	}
	return server.trusted(t)
}

// shared holds the servers of this process, by whether they speak TLS.
var shared = struct {
	sync.Mutex
	servers map[bool]Server
}{servers: map[bool]Server{}}

// Stop ends a private server as an outage would. It waits until the server is gone and may be called more than once.
func (s Server) Stop(t testing.TB) {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	for _, other := range shared.servers {
		if s.Address == other.Address {
			t.Fatal("vaultserver: Stop is for a private server; this one belongs to other tests too")
		}
	}
	s.stop()
}

// Client returns an HTTP client that trusts the server's certificate and no other.
func (s Server) Client() *http.Client {
	transport := &http.Transport{DisableKeepAlives: true}
	if s.authority != nil {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(s.authority)
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

// Call sends one request with the root token and returns the data of the answer, nil where there is none: for
// arranging what a test needs and for looking past the driver. The path is the one below /v1/, such as "sys/health".
func (s Server) Call(t testing.TB, method, path string, body any) map[string]any {
	t.Helper()
	data, err := s.call(method, path, body)
	if err != nil {
		t.Fatalf("vaultserver: %s %s: %v", method, path, err)
	}
	return data
}

func (s Server) call(method, path string, body any) (map[string]any, error) {
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(context.Background(), method, s.Address+"/v1/"+path, content)
	if err != nil {
		return nil, err
	}
	request.Header.Set("X-Vault-Token", s.RootToken)
	response, err := s.Client().Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 16<<20))
	if err != nil {
		return nil, err
	}
	if response.StatusCode >= 300 {
		return nil, fmt.Errorf("%s: %s", response.Status, bytes.TrimSpace(answer))
	}
	if len(answer) == 0 {
		return nil, nil
	}
	var decoded struct {
		Data map[string]any `json:"data"`
	}
	decoder := json.NewDecoder(bytes.NewReader(answer))
	decoder.UseNumber()
	if err := decoder.Decode(&decoded); err != nil {
		return nil, err
	}
	return decoded.Data, nil
}

// NewMount mounts an empty KV version 2 store that no other test has, waits until it answers, and returns its path.
func (s Server) NewMount(t testing.TB) string {
	t.Helper()
	mount := "kv-" + strings.ToLower(rand.Text()[:12])
	s.Call(t, http.MethodPost, "sys/mounts/"+mount, map[string]any{"type": "kv", "options": map[string]any{"version": "2"}})
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, err := s.call(http.MethodGet, mount+"/config", nil) // refused until the mount has upgraded itself
		if err == nil {
			return mount
		}
		if time.Now().After(deadline) {
			t.Fatalf("vaultserver: mount %s: %v", mount, err)
		}
	}
}

// NewAppRole makes a role at approle/ whose tokens have the given policy (in Vault's language, such as
// `path "secret/*" { capabilities = ["read"] }`), and returns what is needed to log in. Settings are those of the role:
// "token_ttl", "token_num_uses", "secret_id_num_uses" and so on.
func (s Server) NewAppRole(t testing.TB, policy string, settings map[string]any) (roleID, secretID string) {
	t.Helper()
	name := "test-" + strings.ToLower(rand.Text()[:12])
	s.Call(t, http.MethodPut, "sys/policies/acl/"+name, map[string]any{"policy": policy})
	role := map[string]any{"token_policies": []string{name}}
	for key, value := range settings {
		role[key] = value
	}
	path := "auth/approle/role/" + name
	s.Call(t, http.MethodPost, path, role)
	roleID, _ = s.Call(t, http.MethodGet, path+"/role-id", nil)["role_id"].(string)
	secretID, _ = s.Call(t, http.MethodPost, path+"/secret-id", map[string]any{})["secret_id"].(string)
	if roleID == "" || secretID == "" {
		t.Fatalf("vaultserver: role %s has no role id or no secret id", name)
	}
	return roleID, secretID
}

// NewPolicy makes a policy (in Vault's language) and returns its name.
func (s Server) NewPolicy(t testing.TB, policy string) string {
	t.Helper()
	name := "test-" + strings.ToLower(rand.Text()[:12])
	s.Call(t, http.MethodPut, "sys/policies/acl/"+name, map[string]any{"policy": policy})
	return name
}

// NewAuth enables an auth method (approle, jwt, cert) at a path of its own, and returns that. A server that was built before the method was
// added skips the test, or fails it where servers are required: make servers builds it anew.
func (s Server) NewAuth(t testing.TB, kind string) string {
	t.Helper()
	path := kind + "-" + strings.ToLower(rand.Text()[:12])
	if _, err := s.call(http.MethodPost, "sys/auth/"+path, map[string]any{"type": kind}); err != nil {
		missing := t.Skipf
		if os.Getenv("TABLEXPORT_REQUIRE_SERVERS") == "1" {
			missing = t.Fatalf
		}
		missing("the installed Vault server does not have the auth method %s (%v): run `make servers`", kind, err)
	}
	return path
}

// find returns the path of the installed program, or ends the test saying how to install it.
func find(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("TABLEXPORT_CACHE")
	if dir == "" {
		if base, err := os.UserCacheDir(); err == nil {
			dir = filepath.Join(base, "tablexport")
		}
	}
	path := filepath.Join(dir, "bin", "vaultserver")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	missing := t.Skipf
	if os.Getenv("TABLEXPORT_REQUIRE_SERVERS") == "1" {
		missing = t.Fatalf
	}
	missing("the Vault server is not installed at %s: run `make servers`", path)
	return ""
}

// start runs a server that ends when stop is called or when this process ends, because its standard input closes then.
// It needs the directory until it returns.
func start(path string, withTLS bool, dir string) (Server, error) {
	command := exec.Command(path)
	var server Server
	if withTLS {
		certificate, key := filepath.Join(dir, "server.pem"), filepath.Join(dir, "server-key.pem")
		var err error
		if server.authority, err = newCertificate(certificate, key); err != nil {
			return Server{}, err
		}
		command.Args = append(command.Args, "-tls-cert", certificate, "-tls-key", key)
	}
	log := &tail{}
	command.Stderr = log
	alive, err := command.StdinPipe()
	if err != nil {
		return Server{}, err
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return Server{}, err
	}
	if err := command.Start(); err != nil {
		return Server{}, err
	}
	server.stop = sync.OnceFunc(func() {
		_ = alive.Close()
		_ = command.Process.Kill()
		_ = command.Wait()
	})

	late := time.AfterFunc(60*time.Second, server.stop)
	defer late.Stop()
	var ready struct {
		Address   string `json:"address"`
		RootToken string `json:"root_token"`
		Version   string `json:"version"`
	}
	if err := json.NewDecoder(stdout).Decode(&ready); err != nil {
		server.stop()
		return Server{}, fmt.Errorf("%s did not start: %w\n%s", path, err, log)
	}
	server.Address, server.RootToken, server.Version = ready.Address, ready.RootToken, ready.Version
	return server, nil
}

// tail keeps the first part of what a server has to say, which is where the reason of a failed start stands.
type tail struct {
	sync.Mutex
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.Lock()
	defer t.Unlock()
	if room := 16<<10 - len(t.text); room > 0 {
		t.text = append(t.text, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.Lock()
	defer t.Unlock()
	return string(t.text)
}
