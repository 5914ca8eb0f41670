// Package hashivault keeps tokens in a HashiCorp Vault (or OpenBao), in a KV version 2 secrets engine.
//
// # Where things are
//
//	MOUNT/PREFIX/tokens/NAME       one KV version per token version: the value, what it is bound to, its fingerprint
//	MOUNT/PREFIX/state/NAME        which version is active, and what is known of each without its value
//	MOUNT/PREFIX/uses/NAME         which places have used which of its versions, and when
//	MOUNT/PREFIX/fingerprint-key   the key for fingerprints
//
// What is known of a version beside its value (expiry, scopes) and of the name (owner, instance, environment) is custom metadata of tokens/NAME,
// // so that a name never collides with anything else, and so that listing and authorising read no value. The policies that
// a service and an operator need are in docs/vault-policy.hcl.
//
// Every write is a check-and-set (https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2). Activation is one
// write of the state; its author and time are in the versions of that secret. A write whose answer got lost is looked
// for before it is repeated: each carries an id of its own.
//
// What stands in tokens/NAME is the truth about a version; what state/NAME says of it is a copy, believed only if it
// was made of that very version (a secret that was removed and made anew counts from 1 again).
//
// # What it does not do
//
// It reads no VAULT_… environment variable: only the configuration says which Vault is used. The proxy variables of
// the system (HTTPS_PROXY, NO_PROXY) hold. It follows no redirect: a standby node must forward, as Vault does by default.
package hashivault

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/tablexport/tablexport/secrets"
)

// Options says which Vault and how to log in. Zero values mean the defaults in parentheses.
type Options struct {
	Address   string // https://vault.acme.example:8200; plain http only for loopback addresses
	Mount     string // the KV version 2 mount ("secret")
	Prefix    string // the path under the mount ("tablexport")
	Namespace string // of Vault Enterprise (none)
	CAFile    string // PEM, in place of the system's authorities
	Auth      Auth

	// OnLogin, if set, is told of every login, failed ones included, before anything is done under it; its error ends the operation.
	OnLogin func(ctx context.Context, e LoginEvent) error
}

// Auth is how to log in: exactly one of its members.
type Auth struct {
	TokenFile string   // file with a Vault token; read again when Vault no longer accepts the one in use
	AppRole   *AppRole // https://developer.hashicorp.com/vault/docs/auth/approle

	JWT         *JWT
	Kubernetes  *Kubernetes
	Certificate *Certificate
}

// AppRole is an AppRole login. Both files are read at every login.
type AppRole struct {
	RoleIDFile   string
	SecretIDFile string
	Wrapped      bool   // the file holds a response-wrapping token, which gives the secret id once
	Mount        string // ("approle")
}

// Phases of a request to Vault, each with its own limit.
const (
	connectTimeout = 10 * time.Second // dial and TLS handshake, each
	headerTimeout  = 20 * time.Second
	requestTimeout = 30 * time.Second // in all
	revokeTimeout  = 3 * time.Second
	maxAnswer      = 4 << 20 // bytes of an answer
)

// Vault is a HashiCorp Vault. It is safe for concurrent use.
type Vault struct {
	opts      Options
	client    *api.Client // with the token of the current login
	anonymous *api.Client // for logging in
	transport *http.Transport

	loginMu   sync.Mutex
	session   session
	unwrapped unwrapped

	keyMu sync.Mutex
	key   []byte
}

var _ secrets.Vault = (*Vault)(nil)

// pathRule is what a mount or prefix may be: parts that need no escaping in a URL.
var pathRule = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$`)

// Open checks opts. It asks Vault nothing: the first operation logs in. Errors are ErrSetup.
func Open(opts Options) (*Vault, error) {
	opts.Mount = strings.Trim(cmp.Or(opts.Mount, "secret"), "/")
	opts.Prefix = strings.Trim(cmp.Or(opts.Prefix, "tablexport"), "/")
	if err := check(&opts); err != nil {
		return nil, fmt.Errorf("%w: %w", secrets.ErrSetup, err)
	}
	transport, err := newTransport(opts.CAFile, opts.Auth.Certificate)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", secrets.ErrSetup, err)
	}
	v := &Vault{opts: opts, transport: transport}
	for _, c := range []**api.Client{&v.client, &v.anonymous} {
		if *c, err = newClient(opts, transport); err != nil {
			return nil, fmt.Errorf("%w: %w", secrets.ErrSetup, err)
		}
	}
	return v, nil
}

func check(opts *Options) error {
	u, err := url.Parse(opts.Address)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "":
		return errors.New("the address of Vault is not a URL; write one such as https://vault.acme.example:8200")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("the address of Vault must not hold a user, a password or parameters")
	case u.Scheme == "http" && !secrets.Loopback(u.Host):
		return fmt.Errorf("%s: tokens would travel in the clear; use https (plain http is for loopback addresses)", opts.Address)
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("%s: the address of Vault must start with https://", opts.Address)
	case !pathRule.MatchString(opts.Mount):
		return fmt.Errorf("mount %q: write a path such as secret", opts.Mount)
	case !pathRule.MatchString(opts.Prefix):
		return fmt.Errorf("prefix %q: write a path such as tablexport", opts.Prefix)
	case strings.ContainsFunc(opts.Namespace, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return errors.New("the namespace holds white space or characters outside of ASCII")
	}
	opts.Address = strings.TrimSuffix(opts.Address, "/")
	return checkAuth(&opts.Auth)
}

func newTransport(caFile string, certificate *Certificate) (*http.Transport, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if certificate != nil {
		config.GetClientCertificate = certificate.clientCertificate
	}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("the file with the certificate authority of Vault: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM form", caFile)
		}
	}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       config,
		TLSHandshakeTimeout:   connectTimeout,
		ResponseHeaderTimeout: headerTimeout,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   4,
		IdleConnTimeout:       90 * time.Second,
	}, nil
}

// newClient makes a client of Vault's own library and takes back what the library read from the environment.
func newClient(opts Options, transport *http.Transport) (*api.Client, error) {
	client, err := api.NewClient(&api.Config{
		Address: opts.Address,
		HttpClient: &http.Client{
			Transport:     boundedTransport{transport},
			Timeout:       requestTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		MaxRetries:       0, // a repeated write must be looked for first, see write.go
		DisableRedirects: true,
	})
	if err != nil {
		return nil, fmt.Errorf("the client library of Vault does not start, because of an environment variable that it does not understand (tablexport uses none of them); unset: %s",
			strings.Join(vaultVariables(), ", "))
	}
	client.ClearToken()
	client.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})
	client.SetWrappingLookupFunc(func(string, string) string { return "" })
	if opts.Namespace != "" {
		client.SetNamespace(opts.Namespace)
	}
	return client, nil
}

// vaultVariables names what is set of Vault's environment variables.
func vaultVariables() []string {
	var names []string
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "VAULT_") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// boundedTransport cuts answers off: a broken server must not fill the memory.
type boundedTransport struct{ base *http.Transport }

func (t boundedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.base.RoundTrip(req)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}

// Close gives back the login (an AppRole token is revoked, if Vault answers at once) and forgets what the driver holds.
func (v *Vault) Close() error {
	v.loginMu.Lock()
	defer v.loginMu.Unlock()
	v.endRenewal()
	v.unwrapped = unwrapped{}
	if v.session.own {
		ctx, cancel := context.WithTimeout(context.Background(), revokeTimeout)
		defer cancel()
		// If this fails the token ends by itself, with its time to live.
		_ = v.send(ctx, v.client, http.MethodPut, "auth/token/revoke-self", nil, nil)
	}
	v.client.ClearToken()
	v.session = session{closed: true}
	v.keyMu.Lock()
	defer v.keyMu.Unlock()
	clear(v.key)
	v.key = nil
	v.transport.CloseIdleConnections()
	return nil
}
