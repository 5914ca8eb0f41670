package simulator

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// ask sends a request with a token past the network, so that synctest's clock rules.
func ask(s *Server, token, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, tableAPI+path, nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	s.ServeHTTP(w, r)
	return w
}

func TestTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Options{Tokens: []Token{
			{Value: "enrt_reader"},
			{Value: "enrt_short", Expires: time.Now().Add(time.Minute)},
			{Value: "enrt_writer", Scopes: []string{"update"}},
			{Value: "enrt_narrow", Allow: []string{"Inv_Stores"}},
			{Value: "enrt_denied", Deny: []string{"Sec_Access_Tokens"}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		status := func(token, path string, want int) {
			t.Helper()
			if got := ask(s, token, path).Code; got != want {
				t.Errorf("%s, %s: %d, not %d", token, path, got, want)
			}
		}
		status("", "Inv_Stores", 401)
		status("", "", 401)
		status("", "$metadata", 401)
		status("enrt_unknown", "Inv_Stores", 401)
		status(DemoToken, "Inv_Stores", 401) // only where no other token is set
		status("enrt_reader", "Inv_Stores", 200)
		status("enrt_reader", "", 200)
		status("enrt_writer", "Inv_Stores", 403)
		status("enrt_narrow", "Inv_Stores", 200)
		status("enrt_narrow", "Gen_Products", 403)
		status("enrt_denied", "Sec_Access_Tokens", 403)
		status("enrt_denied", "Inv_Stores", 200)
		status("enrt_short", "Inv_Stores", 200)
		time.Sleep(time.Minute)
		status("enrt_short", "Inv_Stores", 401)
		s.Revoke("enrt_reader")
		status("enrt_reader", "Inv_Stores", 401)
		if err := s.Issue(Token{Value: "enrt_new"}); err != nil {
			t.Fatal(err)
		}
		status("enrt_new", "Inv_Stores", 200)
		if s.Issue(Token{Value: "secret"}) == nil {
			t.Error("a token without enrt_ is accepted")
		}

		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, tableAPI+"Inv_Stores", nil)
		r.Header.Set("X-Api-Key", "enrt_new")
		s.ServeHTTP(w, r)
		if w.Code != 200 {
			t.Errorf("X-Api-Key: %d", w.Code)
		}
		w = httptest.NewRecorder()
		r.Header.Set("Authorization", "Bearer enrt_new")
		s.ServeHTTP(w, r)
		if w.Code != 400 {
			t.Errorf("two methods at once: %d", w.Code)
		}
		if ask(s, "", "Inv_Stores").Header().Get("WWW-Authenticate") == "" {
			t.Error("401 without WWW-Authenticate")
		}
		if got := s.Stats().Unauthorized; got != 8 {
			t.Errorf("%d times 401", got)
		}
	})
}

func TestRowFilterOfAToken(t *testing.T) {
	s, err := New(Options{Tokens: []Token{{Value: "enrt_all"}}, Rows: map[string]int64{lines: 2000, "Inv_Stores": 4}})
	if err != nil {
		t.Fatal(err)
	}
	store := someStore(t, s, 2)
	where := "Line_Store_Id eq " + store
	if err := s.Issue(Token{Value: "enrt_some", RowFilter: map[string]string{lines: where}}); err != nil {
		t.Fatal(err)
	}
	count := func(token string) int64 {
		return int64(len(parsePage(t, ask(s, token, lines+"?$select=Line_Store_Id").Body.String()).Value))
	}
	want, err := s.Oracle().Count(lines, where)
	if err != nil || want == 0 || want == 2000 {
		t.Fatal(want, err)
	}
	if all, some := count("enrt_all"), count("enrt_some"); all != 2000 || some != want {
		t.Errorf("%d and %d rows, not 2000 and %d", all, some, want)
	}
	if s.Issue(Token{Value: "enrt_bad", RowFilter: map[string]string{lines: "Nothing eq 1"}}) == nil {
		t.Error("a bad row filter is accepted")
	}
}

func TestSessionsAndLicenses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Options{Licenses: 1, Tokens: []Token{{Value: "enrt_a"}, {Value: "enrt_b"}}})
		if err != nil {
			t.Fatal(err)
		}
		want := func(token string, code int) {
			t.Helper()
			if got := ask(s, token, "").Code; got != code {
				t.Fatalf("%s: %d, not %d", token, got, code)
			}
		}
		want("enrt_a", 200)
		want("enrt_b", 503) // the token is valid, but no license is free
		time.Sleep(19 * time.Minute)
		want("enrt_a", 200) // keeps the session
		time.Sleep(19 * time.Minute)
		want("enrt_b", 503)
		time.Sleep(time.Minute) // twenty minutes idle
		want("enrt_b", 200)
		want("enrt_a", 503)
		for range 6 { // never idle, but one hour is the limit: the license is free again
			time.Sleep(10 * time.Minute)
			if ask(s, "enrt_a", "").Code == 200 {
				break
			}
			want("enrt_b", 200)
		}
		want("enrt_a", 200)
		want("enrt_b", 503)
		s.Revoke("enrt_a") // ends the session
		want("enrt_b", 200)
		st := s.Stats()
		if st.Sessions != 1 || st.SessionsOpened != 4 || st.NoLicense == 0 {
			t.Errorf("%+v", st)
		}
	})
	s, err := New(Options{Licenses: 1, NoLicenseStatus: 403, Tokens: []Token{{Value: "enrt_a"}, {Value: "enrt_b"}}})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := ask(s, "enrt_a", "").Code, ask(s, "enrt_b", "").Code; a != 200 || b != 403 {
		t.Errorf("%d, %d", a, b)
	}
}

// TestGate opens more requests than the server takes: two run, five wait, the eighth is answered 429.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		s, err := New(Options{RetryAfter: 1500 * time.Millisecond, OnRequest: func(RequestInfo) { <-hold }})
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var codes []int
		var wg sync.WaitGroup
		for range 7 {
			wg.Go(func() {
				code := ask(s, DemoToken, "Inv_Stores").Code
				mu.Lock()
				defer mu.Unlock()
				codes = append(codes, code)
			})
		}
		synctest.Wait()
		w := ask(s, DemoToken, "Inv_Stores")
		if w.Code != 429 || w.Header().Get("Retry-After") != "2" {
			t.Errorf("the eighth: %d, Retry-After %q", w.Code, w.Header().Get("Retry-After"))
		}
		// One of the waiting gives up: its place is free again.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := newGate(1, 1).enter(ctx); err != nil {
			t.Error(err)
		}
		close(hold)
		wg.Wait()
		if !slices.Equal(codes, []int{200, 200, 200, 200, 200, 200, 200}) {
			t.Error(codes)
		}
		if st := s.Stats(); st.MaxInFlight != 2 || st.TooMany != 1 {
			t.Errorf("%+v", st)
		}
	})
	g := newGate(1, 1)
	leave, err := g.enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := g.enter(ctx)
		gone <- err
	}()
	cancel()
	if err := <-gone; err == nil {
		t.Error("who gives up waiting gets in")
	}
	leave()
	if _, err := g.enter(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestClientCredentials(t *testing.T) {
	s, base := newServer(t, Options{Apps: []App{{URI: "my.app/bi", Secret: "s3cret", Scopes: []string{"read", "update"}, User: Token{Deny: []string{"Gen_Products"}}}}})
	post := func(form url.Values) (int, map[string]any) {
		t.Helper()
		resp, err := http.PostForm(base+"/id/connect/token", form)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var m map[string]any
		if err := json.NewDecoder(resp.Body).Decode(&m); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, m
	}
	form := func(pairs ...string) url.Values {
		v := url.Values{"grant_type": {"client_credentials"}, "client_id": {"my.app/bi"}, "client_secret": {"s3cret"}, "scope": {"read"}}
		for i := 0; i < len(pairs); i += 2 {
			v.Set(pairs[i], pairs[i+1])
		}
		return v
	}
	for _, c := range []struct {
		form url.Values
		want string
	}{
		{form("client_secret", "wrong"), "invalid_client"},
		{form("client_id", "other"), "invalid_client"},
		{form("scope", "read sec"), "invalid_scope"},
		{form("grant_type", "password"), "unsupported_grant_type"},
		{form("grant_type", "refresh_token"), "unauthorized_client"},
		{form("grant_type", ""), "invalid_request"},
	} {
		if status, m := post(c.form); m["error"] != c.want || status < 400 || status > 401 {
			t.Errorf("%d %v, not %s", status, m, c.want)
		}
	}
	if _, m := post(form("scope", "")); m["scope"] != "read update" {
		t.Errorf("no scope asked: %v", m)
	}
	status, m := post(form())
	token, _ := m["access_token"].(string)
	if status != 200 || m["expires_in"] != 3600.0 || m["token_type"] != "Bearer" || m["scope"] != "read" {
		t.Fatalf("%d %v", status, m)
	}
	checkJWT(t, base, token)
	if w := ask(s, token, "Inv_Stores"); w.Code != 200 {
		t.Errorf("the access token is not accepted: %d", w.Code)
	}
	if w := ask(s, token, "Gen_Products"); w.Code != 403 {
		t.Errorf("the system user's rights are not heeded: %d", w.Code)
	}
	if w := ask(s, token[:len(token)-4]+"AAAA", "Inv_Stores"); w.Code != 401 {
		t.Errorf("a forged access token: %d", w.Code)
	}
	s.Revoke(token)
	if w := ask(s, token, "Inv_Stores"); w.Code != 401 {
		t.Errorf("a revoked access token: %d", w.Code)
	}
}

// checkJWT verifies the token with what the identity site publishes.
func checkJWT(t *testing.T, base, token string) {
	t.Helper()
	var jwks struct {
		Keys []struct{ Kid, N, E, Alg string }
	}
	resp, err := http.Get(base + "/id/.well-known/openid-configuration/jwks")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&jwks); err != nil || len(jwks.Keys) != 1 {
		t.Fatal(err, jwks)
	}
	decode := func(s string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	parts := strings.Split(token, ".")
	var header map[string]string
	var c map[string]any
	if json.Unmarshal(decode(parts[0]), &header) != nil || json.Unmarshal(decode(parts[1]), &c) != nil {
		t.Fatal("not a JWT")
	}
	if header["alg"] != "RS256" || header["typ"] != "at+jwt" || header["kid"] != jwks.Keys[0].Kid {
		t.Error(header)
	}
	key := &rsa.PublicKey{N: new(big.Int).SetBytes(decode(jwks.Keys[0].N)), E: int(new(big.Int).SetBytes(decode(jwks.Keys[0].E)).Int64())}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], decode(parts[2])); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"iss", "aud", "exp", "nbf", "iat", "jti", "scope", "client_id", "client_system_user", "client_system_user_type", "client_db"} {
		if c[name] == nil {
			t.Errorf("the claim %s is missing", name)
		}
	}
	if _, ok := c["scope"].([]any); !ok || c["iss"] != base+"/id" {
		t.Error(c)
	}
}
