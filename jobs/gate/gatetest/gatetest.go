// Package gatetest is what tests of who may ask need: an OpenID provider whose tokens can be wrong in every way, and an authority of
// certificates.
package gatetest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Audience is that of the tokens.
const Audience = "tablexport"

// Issuer is an OpenID provider on loopback TLS.
type Issuer struct {
	*httptest.Server
	Fetched atomic.Int64 // times that the keys were asked for
	Down    atomic.Bool

	mu  sync.Mutex
	key *rsa.PrivateKey
	kid string
	old []any // public keys that are still published
}

// NewIssuer starts one; it ends with the test.
func NewIssuer(t testing.TB) *Issuer {
	t.Helper()
	i := &Issuer{}
	i.Rotate(t, "key-1", false)
	i.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case i.Down.Load():
			http.Error(w, "down", http.StatusBadGateway)
		case r.URL.Path == "/.well-known/openid-configuration":
			_ = json.NewEncoder(w).Encode(map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/keys", "authorization_endpoint": i.URL + "/auth",
				"token_endpoint": i.URL + "/token", "id_token_signing_alg_values_supported": []string{"RS256", "HS256", "none"}})
		case r.URL.Path == "/keys":
			i.Fetched.Add(1)
			i.mu.Lock()
			defer i.mu.Unlock()
			_ = json.NewEncoder(w).Encode(map[string]any{"keys": append([]any{jwk(i.kid, &i.key.PublicKey)}, i.old...)})
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(i.Close)
	return i
}

func jwk(kid string, key *rsa.PublicKey) any {
	return map[string]any{"kty": "RSA", "kid": kid, "alg": "RS256", "use": "sig", "n": encode(key.N.Bytes()), "e": encode(big.NewInt(int64(key.E)).Bytes())}
}

// Rotate makes a new key; the old one is published on, or not.
func (i *Issuer) Rotate(t testing.TB, kid string, keep bool) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.old = nil
	if keep && i.key != nil {
		i.old = []any{jwk(i.kid, &i.key.PublicKey)}
	}
	i.key, i.kid = key, kid
}

// Claims are a good token's, with the roles, for an hour from now; a test makes them worse.
func (i *Issuer) Claims(now time.Time, roles ...string) map[string]any {
	return map[string]any{"iss": i.URL, "aud": Audience, "sub": "olga", "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(), "roles": roles}
}

// Sign makes a token of claims.
func (i *Issuer) Sign(t testing.TB, claims map[string]any) string {
	t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	body := signed(map[string]any{"alg": "RS256", "typ": "at+jwt", "kid": i.kid}, claims)
	digest := sha256.Sum256([]byte(body))
	signature, err := rsa.SignPKCS1v15(rand.Reader, i.key, crypto.SHA256, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return body + "." + encode(signature)
}

func signed(header, claims map[string]any) string {
	h, _ := json.Marshal(header)
	c, _ := json.Marshal(claims)
	return encode(h) + "." + encode(c)
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// Broken are tokens that must not be believed, by what is wrong with them; each would be an admin's.
func (i *Issuer) Broken(t testing.TB, now time.Time, admin string) map[string]string {
	t.Helper()
	with := func(key string, value any) string {
		claims := i.Claims(now, admin)
		if claims[key] = value; value == nil {
			delete(claims, key)
		}
		return i.Sign(t, claims)
	}
	good := i.Sign(t, i.Claims(now, admin))
	parts := strings.Split(good, ".")
	stranger := &Issuer{Server: &httptest.Server{URL: i.URL}}
	stranger.Rotate(t, i.kid, false)
	unknown := &Issuer{Server: &httptest.Server{URL: i.URL}}
	unknown.Rotate(t, "no-such-key", false)
	public, err := x509.MarshalPKIXPublicKey(&i.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	// Key confusion: signed with the public key, as if it were a shared secret, in each form that somebody may take it for.
	confused := func(secret []byte) string {
		body := signed(map[string]any{"alg": "HS256", "typ": "JWT", "kid": i.kid}, i.Claims(now, admin))
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(body))
		return body + "." + encode(mac.Sum(nil))
	}
	none := func(alg string) string {
		return signed(map[string]any{"alg": alg, "typ": "JWT"}, i.Claims(now, admin)) + "."
	}
	other := i.Claims(now, admin)
	other["sub"] = "eve"
	return map[string]string{
		"expired":             with("exp", now.Add(-2*time.Minute).Unix()),
		"without expiry":      with("exp", nil),
		"not yet valid":       with("nbf", now.Add(2*time.Minute).Unix()),
		"of the future":       with("iat", now.Add(time.Hour).Unix()),
		"wrong audience":      with("aud", "somebody-else"),
		"no audience":         with("aud", nil),
		"wrong issuer":        with("iss", "https://evil.example"),
		"no subject":          with("sub", ""),
		"alg none":            none("none"),
		"alg None":            none("None"),
		"key confusion (PEM)": confused(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})),
		"key confusion (DER)": confused(public),
		"key confusion (n)":   confused(i.key.N.Bytes()),
		"another's key":       stranger.Sign(t, i.Claims(now, admin)),
		"unknown key":         unknown.Sign(t, i.Claims(now, admin)),
		"no signature":        parts[0] + "." + parts[1] + ".",
		"two parts":           parts[0] + "." + parts[1],
		"cut":                 good[:len(good)-9],
		"other claims":        parts[0] + "." + strings.Split(i.Sign(t, other), ".")[1] + "." + parts[2],
		"garbage":             "garbage",
		"five parts":          good + ".a.b",
		"a key of its own": func() string {
			body := signed(map[string]any{"alg": "RS256", "jwk": jwk("x", &stranger.key.PublicKey)}, i.Claims(now, admin))
			digest := sha256.Sum256([]byte(body))
			s, err := rsa.SignPKCS1v15(rand.Reader, stranger.key, crypto.SHA256, digest[:])
			if err != nil {
				t.Fatal(err)
			}
			return body + "." + encode(s)
		}(),
	}
}

// Authority signs certificates.
type Authority struct {
	Cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Signer signs what Issue does not make: certificates that are wrong in some other way.
func (a *Authority) Signer() crypto.Signer { return a.key }

// NewAuthority makes one.
func NewAuthority(t testing.TB, name string) *Authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &Authority{key: key, Cert: &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}}
	a.Cert = a.sign(t, a.Cert, &key.PublicKey) // by itself
	return a
}

func (a *Authority) sign(t testing.TB, template *x509.Certificate, key any) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.Cert, key, a.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Issue makes a certificate for a DNS name or a URI, good until then, for a client or for the server 127.0.0.1.
func (a *Authority) Issue(t testing.TB, name string, until time.Time, usage x509.ExtKeyUsage) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	if u, err := url.Parse(name); err == nil && u.Scheme != "" {
		template.DNSNames, template.URIs = nil, []*url.URL{u}
	}
	return tls.Certificate{Certificate: [][]byte{a.sign(t, template, &key.PublicKey).Raw}, PrivateKey: key}
}

// Write puts a certificate and its key into files.
func Write(t testing.TB, dir, name string, c tls.Certificate) (certFile, keyFile string) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: c.Certificate[0]}, keyFile: {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// WriteCA puts the authority's certificate into a file.
func (a *Authority) WriteCA(t testing.TB, path string) string {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
