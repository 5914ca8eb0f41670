package hashivault

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/secretstest"
	"github.com/tablexport/tablexport/secrets/secretstest/vaultserver"
)

// logins collects what OnLogin is told.
type logins struct {
	mu  sync.Mutex
	all []LoginEvent
	err error
}

func (l *logins) on(_ context.Context, e LoginEvent) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, e)
	return l.err
}

func (l *logins) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.all)
}

// Every login is told, failed ones too, and one that cannot be recorded is not used.
func TestLoginsAreTold(t *testing.T) {
	server := vaultserver.Start(t)
	mount := server.NewMount(t)
	opts := appRole(t, server, mount, "tablexport-rotate", nil)
	told := &logins{}
	opts.OnLogin = told.on
	v := open(t, opts)
	stage(t, v, "bi/x")
	stage(t, v, "bi/x")
	if len(told.all) != 1 || told.all[0].Method != "approle" || told.all[0].Path != "auth/approle/login" || told.all[0].Accessor == "" || told.all[0].Err != nil {
		t.Errorf("%+v", told.all)
	}
	told.err = errors.New("the disk is full")
	if _, err := open(t, opts).List(t.Context()); !errors.Is(err, told.err) {
		t.Errorf("a login that could not be recorded: %v", err)
	}
	told.err = nil
	opts.Auth.AppRole = &AppRole{RoleIDFile: opts.Auth.AppRole.RoleIDFile, SecretIDFile: writeFile(t, "nonsense")}
	if _, err := open(t, opts).List(t.Context()); !errors.Is(err, secrets.ErrPermission) {
		t.Error(err)
	}
	if last := told.all[len(told.all)-1]; last.Err == nil || last.Accessor != "" || strings.Contains(last.Err.Error(), "nonsense") {
		t.Errorf("a failed login: %+v", last)
	}
}

// A short-lived token is renewed, and when it cannot be any more the next operation logs in anew: nothing fails on the way.
func TestRenewalAndLoginAgain(t *testing.T) {
	server := vaultserver.Start(t)
	mount := server.NewMount(t)
	opts := appRole(t, server, mount, "tablexport-rotate", map[string]any{"token_ttl": "2s", "token_max_ttl": "5s"})
	told := &logins{}
	opts.OnLogin = told.on
	v := open(t, opts)
	c := stage(t, v, "bi/x")
	first := v.client.Token()
	renewed := false
	for start := time.Now(); time.Since(start) < 8*time.Second; time.Sleep(200 * time.Millisecond) {
		if token, _, err := v.Read(t.Context(), "bi/x", 1); err != nil || !token.Equal(c.Token) {
			t.Fatalf("after %v: %v", time.Since(start), err)
		}
		if time.Since(start) > 3*time.Second && v.client.Token() == first {
			renewed = true // its two seconds are over
		}
	}
	if !renewed {
		t.Error("the token was not renewed")
	}
	if n := told.count(); n < 2 || n > 5 {
		t.Errorf("%d logins in eight seconds with tokens of two, five at most", n)
	}
}

// A secret id that came wrapped: it serves many logins though its wrapping serves one, and a wrapping that was used or made elsewhere is an alarm.
func TestWrappedSecretID(t *testing.T) {
	server := vaultserver.Start(t)
	mount := server.NewMount(t)
	name := "wrapped-" + strings.ToLower(rand.Text()[:8])
	policyName := server.NewPolicy(t, policy(t, "tablexport-rotate", mount))
	server.Call(t, http.MethodPost, "auth/approle/role/"+name, map[string]any{"token_policies": []string{policyName}, "token_num_uses": 3})
	roleID, _ := server.Call(t, http.MethodGet, "auth/approle/role/"+name+"/role-id", nil)["role_id"].(string)
	wrap := func(path string, body string) string {
		req, _ := http.NewRequest(http.MethodPost, server.Address+"/v1/"+path, strings.NewReader(body))
		req.Header.Set("X-Vault-Token", server.RootToken)
		req.Header.Set("X-Vault-Wrap-TTL", "5m")
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var reply struct {
			Wrap struct {
				Token string `json:"token"`
			} `json:"wrap_info"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&reply); err != nil || reply.Wrap.Token == "" {
			t.Fatalf("wrap %s: %v", path, err)
		}
		return reply.Wrap.Token
	}
	with := func(wrapping string) Options {
		return Options{Address: server.Address, Mount: mount, Auth: Auth{AppRole: &AppRole{RoleIDFile: writeFile(t, roleID), SecretIDFile: writeFile(t, wrapping), Wrapped: true}}}
	}
	wrapping := wrap("auth/approle/role/"+name+"/secret-id", "{}")
	v := open(t, with(wrapping))
	c := stage(t, v, "bi/x")
	for range 6 {
		if token, _, err := v.Read(t.Context(), "bi/x", 1); err != nil || !token.Equal(c.Token) {
			t.Fatal(err)
		}
	}
	if v.session.generation < 3 {
		t.Errorf("%d logins", v.session.generation)
	}
	for what, other := range map[string]string{
		"used":      wrapping,
		"nonsense":  "hvs.nonsense",
		"elsewhere": wrap("sys/wrapping/wrap", `{"secret_id":"planted"}`),
	} {
		_, err := open(t, with(other)).List(t.Context())
		want := "somebody"
		if !errors.Is(err, secrets.ErrPermission) || !strings.Contains(fmt.Sprint(err), want) || strings.Contains(fmt.Sprint(err), other) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// signJWT makes an RS256 token, as a platform would.
func signJWT(t testing.TB, key *rsa.PrivateKey, claims map[string]any) string {
	t.Helper()
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(body)
	sum := sha256.Sum256([]byte(signed))
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// The real JWT method: the platform replaces the file, and the next login takes the new one.
func TestJWTLogin(t *testing.T) {
	server := vaultserver.Start(t)
	mount, auth := server.NewMount(t), server.NewAuth(t, "jwt")
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, _ := x509.MarshalPKIXPublicKey(&key.PublicKey)
	server.Call(t, http.MethodPost, "auth/"+auth+"/config", map[string]any{
		"jwt_validation_pubkeys": []string{string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}, "bound_issuer": "ci"})
	server.Call(t, http.MethodPost, "auth/"+auth+"/role/bi", map[string]any{"role_type": "jwt", "user_claim": "sub", "bound_audiences": []string{"vault"},
		"token_policies": []string{server.NewPolicy(t, policy(t, "tablexport-rotate", mount))}, "token_num_uses": 4})
	claims := func(life time.Duration) map[string]any {
		now := time.Now()
		return map[string]any{"iss": "ci", "sub": "job-1", "aud": "vault", "iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(life).Unix()}
	}
	file := writeFile(t, signJWT(t, key, claims(time.Hour)))
	opts := Options{Address: server.Address, Mount: mount, Auth: Auth{JWT: &JWT{File: file, Role: "bi", Mount: auth}}}
	v := open(t, opts)
	stage(t, v, "bi/x")
	expired := signJWT(t, key, claims(-time.Hour))
	if err := os.WriteFile(file, []byte(expired), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, opts).List(t.Context()); !errors.Is(err, secrets.ErrPermission) || !strings.Contains(err.Error(), "it may have expired") || strings.Contains(err.Error(), expired) {
		t.Errorf("an expired JWT: %v", err)
	}
	if err := os.WriteFile(file, []byte(signJWT(t, key, claims(time.Hour))), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 6 { // its uses end
		if _, err := v.Versions(t.Context(), "bi/x"); err != nil {
			t.Fatalf("with the new file: %v", err)
		}
	}
}

// newClientCertificate makes a certificate that signs itself.
func newClientCertificate(t testing.TB, until time.Time) (certPEM, keyPEM string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tablexport"}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, _ := x509.MarshalPKCS8PrivateKey(key)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

// The real TLS certificate method.
func TestCertificateLogin(t *testing.T) {
	server := vaultserver.Start(t, vaultserver.TLS())
	mount, auth := server.NewMount(t), server.NewAuth(t, "cert")
	cert, key := newClientCertificate(t, time.Now().Add(time.Hour))
	server.Call(t, http.MethodPost, "auth/"+auth+"/certs/bi", map[string]any{"certificate": cert, "token_policies": server.NewPolicy(t, policy(t, "tablexport-rotate", mount))})
	with := func(cert, key string) Options {
		return Options{Address: server.Address, CAFile: server.CACertFile, Mount: mount,
			Auth: Auth{Certificate: &Certificate{CertFile: writeFile(t, cert), KeyFile: writeFile(t, key), Role: "bi", Mount: auth}}}
	}
	c := stage(t, open(t, with(cert, key)), "bi/x")
	if token, _, err := open(t, with(cert, key)).Read(t.Context(), "bi/x", 1); err != nil || !token.Equal(c.Token) {
		t.Error(err)
	}
	other, otherKey := newClientCertificate(t, time.Now().Add(time.Hour))
	if _, err := open(t, with(other, otherKey)).List(t.Context()); !errors.Is(err, secrets.ErrPermission) {
		t.Errorf("another certificate: %v", err)
	}
	if _, err := open(t, with(cert, otherKey)).List(t.Context()); err == nil || strings.Contains(err.Error(), "PRIVATE KEY") {
		t.Errorf("a key that does not fit: %v", err)
	}
	expired, expiredKey := newClientCertificate(t, time.Now().Add(-time.Hour))
	if _, err := open(t, with(expired, expiredKey)).List(t.Context()); err == nil {
		t.Error("an expired certificate was accepted")
	}
}

// cluster is the API server of a Kubernetes cluster, as far as Vault asks it: whose token is this (TokenReview)?
type cluster struct {
	*httptest.Server
	mu       sync.Mutex
	accounts map[string]string // token → "namespace:name"
	reviewer string            // whose token may ask
}

func newCluster(t testing.TB) *cluster {
	c := &cluster{accounts: map[string]string{}, reviewer: "reviewer"}
	c.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review struct {
			Spec struct {
				Token     string   `json:"token"`
				Audiences []string `json:"audiences"`
			} `json:"spec"`
		}
		if r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews" || r.Header.Get("Authorization") != "Bearer "+c.reviewer || json.NewDecoder(r.Body).Decode(&review) != nil {
			http.Error(w, `{"kind":"Status","status":"Failure","reason":"Forbidden","code":403}`, http.StatusForbidden)
			return
		}
		c.mu.Lock()
		account, known := c.accounts[review.Spec.Token]
		c.mu.Unlock()
		status := map[string]any{"authenticated": known}
		if known {
			status["user"] = map[string]any{"username": "system:serviceaccount:" + account, "uid": "uid-" + account, "groups": []string{"system:serviceaccounts"}}
			status["audiences"] = review.Spec.Audiences
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status})
	}))
	t.Cleanup(c.Close)
	return c
}

// project makes a service account's token, as the kubelet projects it into a pod.
func (c *cluster) project(t testing.TB, key *rsa.PrivateKey, namespace, name string, life time.Duration) string {
	t.Helper()
	now := time.Now()
	token := signJWT(t, key, map[string]any{"iss": "https://kubernetes.default.svc", "sub": "system:serviceaccount:" + namespace + ":" + name, "aud": []string{"vault"},
		"iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(life).Unix(), "jti": fmt.Sprint(now.UnixNano()),
		"kubernetes.io": map[string]any{"namespace": namespace, "serviceaccount": map[string]any{"name": name, "uid": "uid-" + namespace + ":" + name}}})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.accounts[token] = namespace + ":" + name
	return token
}

// The real Kubernetes method, in front of an API server that reviews tokens: the pod's account is let in, the kubelet replaces the token and the next login
// takes the new one, and an account of another name or namespace, a token that the cluster does not know, one that has expired and an unknown role are refused, without
// a word of the token.
func TestKubernetesLogin(t *testing.T) {
	server := vaultserver.Start(t)
	mount, auth := server.NewMount(t), server.NewAuth(t, "kubernetes")
	c := newCluster(t)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate().Raw})
	server.Call(t, http.MethodPost, "auth/"+auth+"/config", map[string]any{"kubernetes_host": c.URL, "kubernetes_ca_cert": string(ca), "token_reviewer_jwt": c.reviewer, "disable_local_ca_jwt": true})
	server.Call(t, http.MethodPost, "auth/"+auth+"/role/bi", map[string]any{"bound_service_account_names": "tablexport", "bound_service_account_namespaces": "bi", "audience": "vault",
		"token_policies": []string{server.NewPolicy(t, policy(t, "tablexport-rotate", mount))}, "token_num_uses": 4})
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	file := writeFile(t, c.project(t, key, "bi", "tablexport", time.Hour))
	opts := Options{Address: server.Address, Mount: mount, Auth: Auth{Kubernetes: &Kubernetes{Role: "bi", File: file, Mount: auth}}}
	v := open(t, opts)
	stage(t, v, "bi/x")

	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for what, token := range map[string]string{
		"another account":   c.project(t, key, "bi", "other", time.Hour),
		"another namespace": c.project(t, key, "default", "tablexport", time.Hour),
		"expired":           c.project(t, key, "bi", "tablexport", -time.Hour),
		"unknown": signJWT(t, stranger, map[string]any{"iss": "https://kubernetes.default.svc", "sub": "system:serviceaccount:bi:tablexport", "aud": []string{"vault"}, "exp": now.Add(time.Hour).Unix(),
			"iat": now.Unix(), "kubernetes.io": map[string]any{"namespace": "bi", "serviceaccount": map[string]any{"name": "tablexport", "uid": "u"}}}),
		"no token": "not-a-jwt",
	} {
		refused := opts
		refused.Auth.Kubernetes = &Kubernetes{Role: "bi", File: writeFile(t, token), Mount: auth}
		if _, err := open(t, refused).List(t.Context()); !errors.Is(err, secrets.ErrPermission) && !errors.Is(err, secrets.ErrUnavailable) || strings.Contains(fmt.Sprint(err), token) {
			t.Errorf("%s: %v", what, err)
		}
	}
	norole := opts
	norole.Auth.Kubernetes = &Kubernetes{Role: "other", File: file, Mount: auth}
	if _, err := open(t, norole).List(t.Context()); err == nil {
		t.Error("an unknown role was accepted")
	}

	if err := os.WriteFile(file, []byte(c.project(t, key, "bi", "tablexport", time.Hour)), 0o600); err != nil { // the kubelet's rotation
		t.Fatal(err)
	}
	for range 6 { // its uses end
		if _, err := v.Versions(t.Context(), "bi/x"); err != nil {
			t.Fatalf("with the new file: %v", err)
		}
	}
}

func TestAuthIsOneOf(t *testing.T) {
	for want, auth := range map[string]Auth{
		"exactly one way":             {},
		"exactly one way to log in":   {TokenFile: "x", JWT: &JWT{File: "x", Role: "y"}},
		"a JWT login needs":           {JWT: &JWT{File: "x"}},
		"a Kubernetes login needs":    {Kubernetes: &Kubernetes{}},
		"a certificate login needs":   {Certificate: &Certificate{CertFile: "x"}},
		"write a path such as jwt":    {JWT: &JWT{File: "x", Role: "y", Mount: "a b"}},
		"an AppRole login needs role": {AppRole: &AppRole{}},
	} {
		if _, err := Open(Options{Address: "https://vault.example", Auth: auth}); !errors.Is(err, secrets.ErrSetup) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// A value that was rotated by another process is what the next read gives, without a new login.
func TestRotatedValueIsSeenAtOnce(t *testing.T) {
	server := vaultserver.Start(t)
	mount := server.NewMount(t)
	service, operator := open(t, rootOptions(t, server, mount)), open(t, rootOptions(t, server, mount))
	var canaries []secretstest.Canary
	for i := range 3 {
		canaries = append(canaries, stage(t, operator, "bi/x"))
		if err := operator.Activate(t.Context(), "bi/x", i+1, i); err != nil {
			t.Fatal(err)
		}
		if token, _, err := service.Read(t.Context(), "bi/x", 0); err != nil || !token.Equal(canaries[i].Token) {
			t.Errorf("version %d: %v", i+1, err)
		}
	}
	if service.session.generation != 1 {
		t.Errorf("%d logins", service.session.generation)
	}
	text := bytes.Join([][]byte{[]byte(fmt.Sprintf("%+v", service.session))}, nil)
	canaries[0].Absent(t, "the session", text)
}

// Whoever looks at the secret in Vault sees what it is for, without the right to read it.
func TestCustomMetadata(t *testing.T) {
	server := vaultserver.Start(t)
	mount := server.NewMount(t)
	c := stage(t, open(t, appRole(t, server, mount, "tablexport-rotate", nil)), "bi/x")
	meta := server.Call(t, http.MethodGet, mount+"/metadata/tablexport/tokens/bi/x", nil)
	custom, _ := meta["custom_metadata"].(map[string]any)
	want := map[string]any{"managed_by": "tablexport", "instance": "acme", "host": secretstest.Binding.Host, "environment": secrets.Production}
	if fmt.Sprint(custom) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", custom, want)
	}
	c.Absent(t, "the metadata", []byte(fmt.Sprint(meta)))
}

// What is described is seen in Vault by people and other tools, follows the active version, and leaves their own keys alone; what they write where we read
// is not believed if it makes no sense. A secret that has no custom metadata yet gets it.
func TestCustomMetadataOfVersions(t *testing.T) {
	t.Parallel()
	server := vaultserver.Start(t)
	mount := server.NewMount(t)
	v := open(t, rootOptions(t, server, mount))
	stage(t, v, "bi/x")
	stage(t, v, "bi/x")
	path := mount + "/metadata/tablexport/tokens/bi/x"
	shown := func() map[string]any {
		t.Helper()
		custom, _ := server.Call(t, http.MethodGet, path, nil)["custom_metadata"].(map[string]any)
		return custom
	}
	server.Call(t, http.MethodPost, path, map[string]any{"custom_metadata": nil, "cas_required": true})
	if len(shown()) != 0 {
		t.Fatalf("%v", shown())
	}
	expires := time.Date(2027, 6, 30, 0, 0, 0, 0, time.UTC)
	for number, a := range map[int]secrets.Attributes{1: {Expires: expires, Scopes: "read", Owner: "BI team"}, 2: {Scopes: "read sec"}} {
		if err := v.Describe(t.Context(), "bi/x", number, a); err != nil {
			t.Fatal(err)
		}
	}
	server.Call(t, http.MethodPost, path, map[string]any{"custom_metadata": map[string]string{"owner": "BI team", "v1_expires": "2027-06-30T00:00:00Z", "v1_scopes": "read", "v2_scopes": "read sec", "ticket": "SEC-7"}})
	if c := shown(); c["owner"] != "BI team" || c["v1_expires"] != "2027-06-30T00:00:00Z" || c["expires"] != nil {
		t.Errorf("%v", c)
	}
	for version, want := range map[int][2]any{1: {"2027-06-30T00:00:00Z", "read"}, 2: {nil, "read sec"}} {
		n, err := v.Versions(t.Context(), "bi/x")
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Activate(t.Context(), "bi/x", version, n.Active); err != nil {
			t.Fatal(err)
		}
		if c := shown(); c["expires"] != want[0] || c["scopes"] != want[1] || c["ticket"] != "SEC-7" {
			t.Errorf("version %d is active: %v", version, c)
		}
	}
	server.Call(t, http.MethodPost, path, map[string]any{"custom_metadata": map[string]string{"owner": "BI team", "v1_expires": "soon", "v1_scopes": "read"}})
	n, err := v.Versions(t.Context(), "bi/x")
	if err != nil || n.Versions[1].Expires != (time.Time{}) || n.Versions[1].Scopes != "read" || n.Versions[1].Owner != "BI team" {
		t.Errorf("%+v %v", n, err)
	}
}
