package simulator

import (
	"cmp"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Token is a service access token: what an administrator issued, once, for one trusted application.
type Token struct {
	Value   string    // starts with enrt_
	Name    string    // of the trusted application, for people
	Scopes  []string  // nil = read
	Expires time.Time // zero = never

	// RowFilter says which rows the system user is shown, by table: a filter as Oracle takes it. The server adds it
	// to every request, as row permissions do.
	RowFilter map[string]string
	// Allow names the tables that may be read, nil = all; Deny those that may not. Others answer 403.
	Allow, Deny []string

	rows map[string][]filterTerm
}

func (t *Token) mayRead(tableName string) bool {
	return slices.Contains(t.Scopes, "read") && !slices.Contains(t.Deny, tableName) &&
		(t.Allow == nil || slices.Contains(t.Allow, tableName))
}

// App is a trusted application that may ask for client credentials.
type App struct {
	URI    string // client_id
	Secret string // client_secret
	Scopes []string
	User   Token // what its access tokens may see; Value, Scopes and Expires are not used
}

// Sessions last this long, as documented.
const (
	sessionIdle     = 20 * time.Minute
	sessionAbsolute = time.Hour
	accessTokenLife = time.Hour
)

type session struct {
	opened, used time.Time
}

// authority knows tokens, applications and sessions.
type authority struct {
	server *Server
	apps   map[string]*App

	mu       sync.Mutex
	tokens   map[string]*Token
	revoked  map[string]bool
	sessions map[string]*session
	opened   int64

	signer func() *rsa.PrivateKey
}

func newAuthority(s *Server) (*authority, error) {
	a := &authority{
		server: s, apps: map[string]*App{}, tokens: map[string]*Token{}, revoked: map[string]bool{},
		sessions: map[string]*session{},
		signer: sync.OnceValue(func() *rsa.PrivateKey {
			k, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil { // the system has no randomness: nothing works
				panic(fmt.Sprintf("simulator: no signing key: %v", err))
			}
			return k
		}),
	}
	for _, t := range s.opts.Tokens {
		if err := a.add(t); err != nil {
			return nil, err
		}
	}
	for _, app := range s.opts.Apps {
		if err := a.compile(&app.User); err != nil {
			return nil, err
		}
		if len(app.Scopes) == 0 {
			app.Scopes = []string{"read"}
		}
		a.apps[app.URI] = &app
	}
	return a, nil
}

// compile reads the row filters of t.
func (a *authority) compile(t *Token) error {
	t.rows = map[string][]filterTerm{}
	for name, where := range t.RowFilter {
		tb, err := a.server.served(name)
		if err != nil {
			return err
		}
		if t.rows[name], err = a.server.catalog.parseFilter(where, tb, false); err != nil {
			return fmt.Errorf("simulator: row filter of table %s: %w", name, err)
		}
	}
	return nil
}

func (a *authority) add(t Token) error {
	if !strings.HasPrefix(t.Value, "enrt_") {
		return errors.New("simulator: a service access token starts with enrt_")
	}
	if t.Scopes == nil {
		t.Scopes = []string{"read"}
	}
	if err := a.compile(&t); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tokens[t.Value] = &t
	delete(a.revoked, t.Value)
	return nil
}

// Issue makes a token valid from now on.
func (s *Server) Issue(t Token) error { return s.auth.add(t) }

// Revoke makes a token (of either kind) invalid at once and ends its session.
func (s *Server) Revoke(token string) {
	s.auth.mu.Lock()
	defer s.auth.mu.Unlock()
	delete(s.auth.tokens, token)
	s.auth.revoked[token] = true
	delete(s.auth.sessions, token)
}

// admit checks the credential of a request and opens or continues its session. It has answered if ok is false.
func (a *authority) admit(w http.ResponseWriter, r *http.Request) (who *Token, ok bool) {
	bearer, hasBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	key := r.Header.Get("X-Api-Key")
	if r.Header.Get("Authorization") != "" && key != "" {
		writeError(w, http.StatusBadRequest, "send one method of authentication only")
		return nil, false
	}
	value := key
	if hasBearer {
		value = bearer
	}
	now := time.Now()
	who = a.find(value, now)
	if who == nil {
		a.server.count(func(st *Stats) { st.Unauthorized++ })
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		writeError(w, http.StatusUnauthorized, "the token is missing, unknown, expired or revoked")
		return nil, false
	}
	if !a.openSession(value, now) {
		a.server.count(func(st *Stats) { st.NoLicense++ })
		writeServiceError(w, a.server.opts.NoLicenseStatus, "There is no free license for a new session.", "LicenseLimitReached", "")
		return nil, false
	}
	return who, true
}

func (a *authority) find(value string, now time.Time) *Token {
	a.mu.Lock()
	t, revoked := a.tokens[value], a.revoked[value]
	a.mu.Unlock()
	switch {
	case value == "" || revoked:
		return nil
	case t != nil:
		if !t.Expires.IsZero() && !now.Before(t.Expires) {
			return nil
		}
		return t
	}
	return a.verifyJWT(value, now)
}

// openSession continues the token's session or opens one, if a license is free.
func (a *authority) openSession(token string, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, s := range a.sessions {
		if now.Sub(s.used) >= sessionIdle || now.Sub(s.opened) >= sessionAbsolute {
			delete(a.sessions, k)
		}
	}
	if s, ok := a.sessions[token]; ok {
		s.used = now
		return true
	}
	if limit := a.server.opts.Licenses; limit > 0 && len(a.sessions) >= limit {
		return false
	}
	a.sessions[token] = &session{opened: now, used: now}
	a.opened++
	return true
}

func (a *authority) sessionCounts() (open int, opened int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	for _, s := range a.sessions {
		if now.Sub(s.used) < sessionIdle && now.Sub(s.opened) < sessionAbsolute {
			open++
		}
	}
	return open, a.opened
}

// identity answers the identity site.
func (a *authority) identity(w http.ResponseWriter, r *http.Request) {
	base := baseURL(r) + "/id"
	switch r.URL.Path {
	case "/id/.well-known/openid-configuration":
		writeJSON(w, http.StatusOK, map[string]any{
			"issuer": base, "jwks_uri": base + "/.well-known/openid-configuration/jwks", "token_endpoint": base + "/connect/token",
			"grant_types_supported": []string{"client_credentials"}, "scopes_supported": []string{"read", "update"},
			"token_endpoint_auth_methods_supported": []string{"client_secret_post"},
		})
	case "/id/.well-known/openid-configuration/jwks":
		key := a.signer().PublicKey
		writeJSON(w, http.StatusOK, map[string]any{"keys": []any{map[string]any{
			"kty": "RSA", "use": "sig", "alg": "RS256", "kid": a.keyID(),
			"n": base64.RawURLEncoding.EncodeToString(key.N.Bytes()),
			"e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes()),
		}}})
	case "/id/connect/token":
		a.token(w, r, base)
	default:
		writeError(w, http.StatusNotFound, "there is nothing at this address")
	}
}

func (a *authority) keyID() string {
	sum := sha256.Sum256(a.signer().N.Bytes())
	return strings.ToUpper(fmt.Sprintf("%x", sum[:8]))
}

// token answers the token endpoint.
func (a *authority) token(w http.ResponseWriter, r *http.Request, issuer string) {
	fail := func(code string) {
		status := http.StatusBadRequest
		if code == "invalid_client" {
			status = http.StatusUnauthorized
		}
		writeJSON(w, status, map[string]string{"error": code})
	}
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	if r.Method != http.MethodPost || r.ParseForm() != nil {
		fail("invalid_request")
		return
	}
	switch grant := r.PostForm.Get("grant_type"); grant {
	case "client_credentials":
	case "":
		fail("invalid_request")
		return
	case "authorization_code", "refresh_token":
		fail("unauthorized_client")
		return
	default:
		fail("unsupported_grant_type")
		return
	}
	app := a.apps[r.PostForm.Get("client_id")]
	if app == nil || subtle.ConstantTimeCompare([]byte(app.Secret), []byte(r.PostForm.Get("client_secret"))) != 1 {
		fail("invalid_client")
		return
	}
	scopes := strings.Fields(r.PostForm.Get("scope"))
	if len(scopes) == 0 {
		scopes = app.Scopes
	}
	for _, sc := range scopes {
		if !slices.Contains(app.Scopes, sc) {
			fail("invalid_scope")
			return
		}
	}
	token, err := a.sign(app, scopes, issuer, time.Now())
	if err != nil {
		writeError(w, http.StatusInternalServerError, "the token could not be signed")
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusOK, map[string]any{
		"access_token": token, "expires_in": int(accessTokenLife / time.Second), "token_type": "Bearer",
		"scope": strings.Join(scopes, " "),
	})
}

type claims struct {
	Issuer    string   `json:"iss"`
	NotBefore int64    `json:"nbf"`
	IssuedAt  int64    `json:"iat"`
	Expires   int64    `json:"exp"`
	Audience  []string `json:"aud"`
	Scopes    []string `json:"scope"`
	Client    string   `json:"client_id"`
	User      string   `json:"client_system_user"`
	UserType  string   `json:"client_system_user_type"`
	Database  string   `json:"client_db"`
	ID        string   `json:"jti"`
}

// sign makes the access token: an RS256 JWT with the documented claims.
func (a *authority) sign(app *App, scopes []string, issuer string, now time.Time) (string, error) {
	header, err := json.Marshal(map[string]string{"alg": "RS256", "kid": a.keyID(), "typ": "at+jwt"})
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(claims{
		Issuer: issuer, NotBefore: now.Unix(), IssuedAt: now.Unix(), Expires: now.Add(accessTokenLife).Unix(),
		Audience: []string{"DomainAPI", "TableAPI"}, Scopes: scopes, Client: app.URI,
		User: cmp.Or(app.User.Name, "system"), UserType: "INT", Database: a.server.opts.Database, ID: rand.Text(),
	})
	if err != nil {
		return "", err
	}
	signed := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(body)
	sum := sha256.Sum256([]byte(signed))
	sig, err := rsa.SignPKCS1v15(rand.Reader, a.signer(), crypto.SHA256, sum[:])
	if err != nil {
		return "", err
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig), nil
}

// verifyJWT returns what the bearer of an access token may see, nil if the token is not one of ours or has expired.
func (a *authority) verifyJWT(value string, now time.Time) *Token {
	parts := strings.Split(value, ".")
	if len(parts) != 3 {
		return nil
	}
	sig, err1 := base64.RawURLEncoding.DecodeString(parts[2])
	body, err2 := base64.RawURLEncoding.DecodeString(parts[1])
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err1 != nil || err2 != nil || rsa.VerifyPKCS1v15(&a.signer().PublicKey, crypto.SHA256, sum[:], sig) != nil {
		return nil
	}
	var c claims
	if json.Unmarshal(body, &c) != nil || now.Unix() >= c.Expires || now.Unix() < c.NotBefore {
		return nil
	}
	app := a.apps[c.Client]
	if app == nil {
		return nil
	}
	who := app.User
	who.Scopes = c.Scopes
	return &who
}
