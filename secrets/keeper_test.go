package secrets_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/audit"
	"github.com/tablexport/tablexport/secrets/memvault"
	"github.com/tablexport/tablexport/secrets/secretstest"
)

type fixture struct {
	vault *memvault.Vault
	log   *audit.Log
	dir   string
}

func keeper(t testing.TB, environment string) (*secrets.Keeper, *fixture) {
	t.Helper()
	f := &fixture{vault: memvault.New(), dir: filepath.Join(t.TempDir(), "audit")}
	var err error
	if f.log, err = audit.Open(f.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.log.Close() })
	return secrets.NewKeeper(f.vault, f.log, environment, "alice"), f
}

func (f *fixture) entries(t testing.TB) []audit.Entry {
	t.Helper()
	if r, err := audit.Verify(f.dir); err != nil || len(r.Problems) > 0 {
		t.Errorf("audit log: %v %v", err, r.Problems)
	}
	entries, err := audit.Tail(f.dir, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// acts are the entries in short: "action outcome".
func (f *fixture) acts(t testing.TB) string {
	t.Helper()
	var acts []string
	for _, e := range f.entries(t) {
		acts = append(acts, e.Action+" "+e.Outcome)
	}
	return strings.Join(acts, ", ")
}

const host = "acme.my.erp.example"

func binding(environment string) secrets.Binding {
	return secrets.Binding{Instance: "acme", Host: host, Environment: environment}
}

var request = secrets.LeaseRequest{Name: "bi/acme-reader", Instance: "acme", Host: host, Purpose: "run", Job: "lines", RunID: "r1"}

// activate stages and activates a new token.
func activate(t testing.TB, k *secrets.Keeper, expected int) (secretstest.Canary, secrets.Version) {
	t.Helper()
	c := secretstest.NewCanary(t)
	v, err := k.Stage(t.Context(), request.Name, c.Token, binding(secrets.Production))
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Verified(t.Context(), request.Name, v.Number, nil); err != nil {
		t.Fatal(err)
	}
	if err := k.Activate(t.Context(), request.Name, v.Number, expected); err != nil {
		t.Fatal(err)
	}
	return c, v
}

func get(rawURL string) *http.Request {
	req, err := http.NewRequest(http.MethodGet, rawURL, nil)
	if err != nil {
		panic(err)
	}
	return req
}

func TestLeaseLife(t *testing.T) {
	k, f := keeper(t, secrets.Production)
	c, v := activate(t, k, 0)
	l, err := k.Lease(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"https://" + host + "/api/domain/odata/", "https://ACME.MY.ERP.EXAMPLE:443/", "https://" + host + "./x?$filter=a"} {
		req := get(address)
		req.Header.Set("Authorization", "Basic old")
		if err := l.Authorize(t.Context(), req); err != nil {
			t.Errorf("%s: %v", address, err)
		}
		if got := req.Header["Authorization"]; len(got) != 1 || got[0] != "Bearer "+c.Value() {
			t.Errorf("%s: the header is not the token alone", address)
		}
	}
	if l.Fingerprint() != v.Fingerprint || !strings.HasPrefix(v.Fingerprint, "fp:") || len(v.Fingerprint) != 15 || l.Requests() != 3 {
		t.Errorf("fingerprint %q, %d requests", l.Fingerprint(), l.Requests())
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Authorize(canceled, get("https://"+host)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := l.Close(canceled); err != nil { // a canceled run still gives its token back
		t.Fatal(err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := l.Authorize(t.Context(), get("https://"+host)); !errors.Is(err, secrets.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if err := l.Renew(t.Context()); !errors.Is(err, secrets.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if got, want := f.acts(t), "stage started, stage ok, verify started, verify ok, activate started, activate ok, lease ok, release ok"; got != want {
		t.Errorf("audit: %s, want %s", got, want)
	}
	for _, e := range f.entries(t) {
		if e.Actor != "alice" || e.Subject != request.Name || e.Fingerprint != v.Fingerprint {
			t.Errorf("%+v", e)
		}
	}
	last := f.entries(t)[7]
	if last.Job != "lines" || last.Run != "r1" || last.Detail["requests"] != "3" || last.Detail["lease"] != "7" || last.Detail["purpose"] != "run" {
		t.Errorf("%+v", last)
	}
	c.AbsentFromDir(t, f.dir)
	// The vault's token is not the lease's: closing one does not spoil the other.
	if token, _, err := f.vault.Read(t.Context(), request.Name, 0); err != nil || !token.Equal(c.Token) {
		t.Errorf("after Close: %v", err)
	}
}

// The token goes to the host that it is bound to, and nowhere else; whatever is refused, nothing is set.
func TestAuthorizeRefuses(t *testing.T) {
	production, pf := keeper(t, secrets.Production)
	c, _ := activate(t, production, 0)
	sandbox, _ := keeper(t, secrets.Sandbox)
	lease := func(k *secrets.Keeper, host string) *secrets.Lease {
		l, err := k.Trial(t.Context(), secrets.LeaseRequest{Name: "bi/x", Instance: "acme", Host: host}, c.Token)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	real, err := production.Lease(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	local, localProduction := lease(sandbox, "127.0.0.1:8080"), lease(production, "127.0.0.1:8080")
	remote := lease(sandbox, host)
	refused := map[string]struct {
		lease *secrets.Lease
		req   *http.Request
	}{
		"another host":           {real, get("https://evil.example/")},
		"a longer host":          {real, get("https://" + host + ".evil.example/")},
		"a host below":           {real, get("https://sub." + host + "/")},
		"another port":           {real, get("https://" + host + ":8443/")},
		"http":                   {real, get("http://" + host + "/")},
		"http on port 443":       {real, get("http://" + host + ":443/")},
		"a user":                 {real, get("https://user:pw@" + host + "/")},
		"the host as user":       {real, get("https://" + host + "@evil.example/")},
		"another scheme":         {real, get("ftp://" + host + "/")},
		"no scheme":              {real, get("//" + host + "/")},
		"no host":                {real, get("https:///x")},
		"opaque":                 {real, &http.Request{URL: &url.URL{Scheme: "https", Host: host, Opaque: "//evil.example/x"}}},
		"another Host header":    {real, func() *http.Request { r := get("https://" + host); r.Host = "evil.example"; return r }()},
		"no URL":                 {real, &http.Request{}},
		"no request":             {real, nil},
		"http in production":     {localProduction, get("http://127.0.0.1:8080/")},
		"http not on loopback":   {remote, get("http://" + host + "/")},
		"another loopback port":  {local, get("http://127.0.0.1:8081/")},
		"another loopback name":  {local, get("http://localhost:8080/")},
		"another loopback https": {local, get("https://127.0.0.1/")},
	}
	for name, r := range refused {
		if err := r.lease.Authorize(t.Context(), r.req); !errors.Is(err, secrets.ErrBinding) {
			t.Errorf("%s: err = %v", name, err)
		} else {
			c.AbsentFromError(t, name, err)
			if strings.Contains(err.Error(), "pw") {
				t.Errorf("%s: the password is in the error", name)
			}
		}
		if r.req != nil && r.req.Header.Get("Authorization") != "" {
			t.Errorf("%s: the header is set", name)
		}
	}
	if err := local.Authorize(t.Context(), get("http://127.0.0.1:8080/")); err != nil {
		t.Errorf("http to loopback in a sandbox: %v", err)
	}
	if real.Requests() != 0 {
		t.Errorf("%d requests were counted", real.Requests())
	}
	if err := real.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	entries := pf.entries(t)
	count := 0
	for _, e := range entries {
		if e.Action == "refuse" && e.Detail["act"] == "authorize" && e.Subject == request.Name {
			count++
		}
	}
	if last := entries[len(entries)-1]; count != 1 || last.Action != "release" || last.Detail["refused"] == "" {
		t.Errorf("%d refusals of that lease in the audit log, and %+v", count, last)
	}
}

func TestLeaseRefuses(t *testing.T) {
	k, f := keeper(t, secrets.Production)
	c, _ := activate(t, k, 0)
	if _, err := f.vault.Stage(t.Context(), "bi/staged", c.Token, "fp:x", binding(secrets.Production)); err != nil {
		t.Fatal(err)
	}
	reads := 0
	f.vault.Before = func(op string) error {
		if op == "Read" {
			reads++
		}
		return nil
	}
	with := func(change func(*secrets.LeaseRequest)) secrets.LeaseRequest {
		r := request
		change(&r)
		return r
	}
	cases := map[string]struct {
		request secrets.LeaseRequest
		want    error
		part    string
	}{
		"another instance": {with(func(r *secrets.LeaseRequest) { r.Instance = "other" }), secrets.ErrBinding, "instance"},
		"no instance":      {with(func(r *secrets.LeaseRequest) { r.Instance = "" }), secrets.ErrBinding, "instance"},
		"another host":     {with(func(r *secrets.LeaseRequest) { r.Host = "evil.example" }), secrets.ErrBinding, "host"},
		"no host":          {with(func(r *secrets.LeaseRequest) { r.Host = "" }), secrets.ErrBinding, "host"},
		"unknown name":     {with(func(r *secrets.LeaseRequest) { r.Name = "bi/none" }), secrets.ErrNotFound, ""},
		"bad name":         {with(func(r *secrets.LeaseRequest) { r.Name = "../x" }), secrets.ErrBadName, ""},
		"not active":       {with(func(r *secrets.LeaseRequest) { r.Name = "bi/staged" }), secrets.ErrNoActive, ""},
	}
	for name, test := range cases {
		before := len(f.entries(t))
		l, err := k.Lease(t.Context(), test.request)
		var bound *secrets.BindingError
		if l != nil || !errors.Is(err, test.want) || test.part != "" && (!errors.As(err, &bound) || bound.Part != test.part) {
			t.Errorf("%s: %v", name, err)
		}
		if e := f.entries(t)[before:]; len(e) != 1 || e[0].Action != "refuse" || e[0].Outcome != audit.Refused || e[0].Detail["act"] != "lease" || e[0].Detail["reason"] == "" {
			t.Errorf("%s: audit %+v", name, e)
		}
	}
	// Another environment, the same vault and log.
	for _, environment := range []string{secrets.Sandbox, "", "prod"} {
		if _, err := secrets.NewKeeper(f.vault, f.log, environment, "alice").Lease(t.Context(), request); !errors.Is(err, secrets.ErrBinding) {
			t.Errorf("environment %q: %v", environment, err)
		}
	}
	if reads != 0 {
		t.Errorf("a token was read %d times for refused loans", reads)
	}
}

// liar is a vault that gives something else than it described.
type liar struct {
	secrets.Vault
	read func(secrets.Token, secrets.Version) (secrets.Token, secrets.Version)
}

func (l liar) Read(ctx context.Context, name string, version int) (secrets.Token, secrets.Version, error) {
	token, v, err := l.Vault.Read(ctx, name, version)
	token, v = l.read(token, v)
	return token, v, err
}

func TestLyingVault(t *testing.T) {
	k, f := keeper(t, secrets.Production)
	activate(t, k, 0)
	other := secretstest.NewCanary(t)
	for name, test := range map[string]struct {
		read func(secrets.Token, secrets.Version) (secrets.Token, secrets.Version)
		want error
	}{
		"another instance's token": {func(tok secrets.Token, v secrets.Version) (secrets.Token, secrets.Version) {
			v.Binding.Instance = "other"
			return tok, v
		}, secrets.ErrBinding},
		"another host's": {func(tok secrets.Token, v secrets.Version) (secrets.Token, secrets.Version) {
			v.Binding.Host = "other.example"
			return tok, v
		}, secrets.ErrBinding},
		"another environment's": {func(tok secrets.Token, v secrets.Version) (secrets.Token, secrets.Version) {
			v.Binding.Environment = secrets.Sandbox
			return tok, v
		}, secrets.ErrBinding},
		"another version": {func(tok secrets.Token, v secrets.Version) (secrets.Token, secrets.Version) {
			v.Number = 9
			return tok, v
		}, secrets.ErrCorrupt},
		"another value": {func(_ secrets.Token, v secrets.Version) (secrets.Token, secrets.Version) { return other.Token, v }, secrets.ErrCorrupt},
		"no value":      {func(_ secrets.Token, v secrets.Version) (secrets.Token, secrets.Version) { return secrets.Token{}, v }, secrets.ErrCorrupt},
	} {
		l, err := secrets.NewKeeper(liar{f.vault, test.read}, f.log, secrets.Production, "alice").Lease(t.Context(), request)
		if l != nil || !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
		other.AbsentFromError(t, name, err)
		if e := f.entries(t); e[len(e)-1].Outcome != audit.Refused {
			t.Errorf("%s: audit %+v", name, e[len(e)-1])
		}
	}
}

// The order is audit, then vault, then lease: without the audit entry nothing happens.
func TestFailingAuditBlocks(t *testing.T) {
	k, f := keeper(t, secrets.Production)
	c, v := activate(t, k, 0)
	l, err := k.Lease(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.log.Close()
	did := map[string]int{}
	f.vault.Before = func(op string) error { did[op]++; return nil }
	_, leaseErr := k.Lease(t.Context(), request)
	_, trialErr := k.Trial(t.Context(), request, c.Token)
	_, stageErr := k.Stage(t.Context(), request.Name, c.Token, binding(secrets.Production))
	for act, err := range map[string]error{
		"lease": leaseErr, "trial": trialErr, "stage": stageErr, "activate": k.Activate(t.Context(), request.Name, v.Number, v.Number),
		"renew": l.Renew(t.Context()), "close": l.Close(t.Context()),
	} {
		if !errors.Is(err, secrets.ErrAudit) && !errors.Is(err, audit.ErrClosed) {
			t.Errorf("%s: %v", act, err)
		}
	}
	if did["Read"]+did["Stage"]+did["Activate"] > 0 {
		t.Errorf("without an audit log the vault did: %v", did)
	}
	if err := l.Authorize(t.Context(), get("https://"+host)); !errors.Is(err, secrets.ErrClosed) {
		t.Errorf("a lease that could not be recorded as closed is open: %v", err)
	}
	// A refusal stays a refusal, and no log at all is no way around it.
	bad := request
	bad.Host = "evil.example"
	if _, err := k.Lease(t.Context(), bad); !errors.Is(err, secrets.ErrBinding) || !errors.Is(err, secrets.ErrAudit) {
		t.Errorf("refusal: %v", err)
	}
	if _, err := secrets.NewKeeper(f.vault, nil, secrets.Production, "alice").Lease(t.Context(), request); !errors.Is(err, secrets.ErrAudit) {
		t.Errorf("no log: %v", err)
	}
}

func TestRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, f := keeper(t, secrets.Production)
		one, _ := activate(t, k, 0)
		l, err := k.Lease(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		header := func() string {
			req := get("https://" + host)
			if err := l.Authorize(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			return strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
		}
		if err := l.Renew(t.Context()); !errors.Is(err, secrets.ErrNoNewer) {
			t.Errorf("nothing newer: %v", err)
		}
		two, v := activate(t, k, 1)
		if header() != one.Value() {
			t.Error("the lease changed without Renew")
		}
		if err := l.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		if header() != two.Value() || l.Fingerprint() != v.Fingerprint {
			t.Error("the rotated token is not used")
		}
		// The other requests that got their 401 for the old token.
		if err := l.Renew(t.Context()); err != nil {
			t.Errorf("a late one: %v", err)
		}
		time.Sleep(time.Minute)
		if err := l.Renew(t.Context()); !errors.Is(err, secrets.ErrNoNewer) {
			t.Errorf("the new one is refused too: %v", err)
		}
		// The same value staged again is no newer token.
		if v, err := k.Stage(t.Context(), request.Name, two.Token, binding(secrets.Production)); err != nil || v.Number != 2 || v.State != secrets.Active {
			t.Fatal(v, err)
		}
		if err := k.Activate(t.Context(), request.Name, 2, 2); err != nil {
			t.Fatal(err)
		}
		if err := l.Renew(t.Context()); !errors.Is(err, secrets.ErrNoNewer) {
			t.Errorf("the same value: %v", err)
		}
		// A vault that is away: the lease goes on with what it has.
		f.vault.Before = func(string) error { return fmt.Errorf("%w: away", secrets.ErrUnavailable) }
		if err := l.Renew(t.Context()); !errors.Is(err, secrets.ErrUnavailable) || header() != two.Value() {
			t.Errorf("vault away: %v", err)
		}
		f.vault.Before = nil
		// The token of another instance got activated under this name.
		c := secretstest.NewCanary(t)
		if _, err := k.Stage(t.Context(), request.Name, c.Token, secrets.Binding{Instance: "other", Host: "other.example", Environment: secrets.Production}); err != nil {
			t.Fatal(err)
		}
		if err := k.Verified(t.Context(), request.Name, 3, nil); err != nil {
			t.Fatal(err)
		}
		if err := k.Activate(t.Context(), request.Name, 3, 2); err != nil {
			t.Fatal(err)
		}
		if err := l.Renew(t.Context()); !errors.Is(err, secrets.ErrBinding) || header() != two.Value() {
			t.Errorf("rebound: %v", err)
		}
		if acts := f.acts(t); strings.Count(acts, "renew ok") != 1 || strings.Count(acts, "renew failed") != 1 || strings.Count(acts, "refuse refused") != 4 {
			t.Error(acts)
		}
		one.AbsentFromDir(t, f.dir)
		two.AbsentFromDir(t, f.dir)
	})
}

// Many requests at once, the token rotated under them, some renewing: each gets one of the two tokens, none is lost.
func TestConcurrentUse(t *testing.T) {
	k, _ := keeper(t, secrets.Production)
	one, _ := activate(t, k, 0)
	l, err := k.Lease(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	two, _ := activate(t, k, 1)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				req := get("https://" + host)
				if err := l.Authorize(t.Context(), req); err != nil {
					t.Error(err)
				}
				if got := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer "); got != one.Value() && got != two.Value() {
					t.Error("neither of the tokens")
				} else if got == one.Value() {
					if err := l.Renew(t.Context()); err != nil {
						t.Errorf("renew: %v", err)
					}
				}
				_ = l.Fingerprint()
			}
		})
	}
	wg.Wait()
	if l.Requests() != 400 {
		t.Errorf("%d requests", l.Requests())
	}
	for range 3 {
		wg.Go(func() { _ = l.Close(t.Context()) })
		wg.Go(func() { _ = l.Authorize(t.Context(), get("https://"+host)) })
	}
	wg.Wait()
}

func TestTrial(t *testing.T) {
	k, f := keeper(t, secrets.Production)
	c := secretstest.NewCanary(t)
	l, err := k.Trial(t.Context(), request, c.Token)
	if err != nil {
		t.Fatal(err)
	}
	req := get("https://" + host)
	if err := l.Authorize(t.Context(), req); err != nil || req.Header.Get("Authorization") != "Bearer "+c.Value() {
		t.Error(err)
	}
	if err := l.Renew(t.Context()); !errors.Is(err, secrets.ErrNoNewer) {
		t.Error(err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
	v, err := k.Stage(t.Context(), request.Name, c.Token, binding(secrets.Production)) // Close did not take the caller's token
	if err != nil || v.Fingerprint != l.Fingerprint() {
		t.Errorf("%+v %v, tried as %s", v, err, l.Fingerprint())
	}
	if acts := f.acts(t); acts != "trial ok, refuse refused, release ok, stage started, stage ok" {
		t.Error(acts)
	}
	for name, r := range map[string]secrets.LeaseRequest{
		"no host": {Name: "bi/x", Instance: "acme"}, "bad host": {Name: "bi/x", Instance: "acme", Host: "a/b"},
		"no instance": {Name: "bi/x", Host: host}, "no name": {Instance: "acme", Host: host},
	} {
		if _, err := k.Trial(t.Context(), r, c.Token); err == nil {
			t.Errorf("%s: lent", name)
		}
	}
	if _, err := k.Trial(t.Context(), request, secrets.Token{}); !errors.Is(err, secrets.ErrBadToken) {
		t.Error(err)
	}
	c.AbsentFromDir(t, f.dir)
}

func TestStageRefuses(t *testing.T) {
	k, f := keeper(t, secrets.Production)
	c := secretstest.NewCanary(t)
	good := binding(secrets.Production)
	with := func(change func(*secrets.Binding)) secrets.Binding {
		b := good
		change(&b)
		return b
	}
	for name, b := range map[string]secrets.Binding{
		"another environment": with(func(b *secrets.Binding) { b.Environment = secrets.Sandbox }),
		"no environment":      with(func(b *secrets.Binding) { b.Environment = "" }),
		"no instance":         with(func(b *secrets.Binding) { b.Instance = "" }),
		"no host":             with(func(b *secrets.Binding) { b.Host = "" }),
		"a URL for a host":    with(func(b *secrets.Binding) { b.Host = "https://acme.example" }),
		"a user in the host":  with(func(b *secrets.Binding) { b.Host = "user:canary@acme.example" }),
	} {
		_, err := k.Stage(t.Context(), "bi/x", c.Token, b)
		if !errors.Is(err, secrets.ErrBinding) || strings.Contains(err.Error(), "canary") && name == "a user in the host" {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A name whose versions belong to the other environment.
	if _, err := f.vault.Stage(t.Context(), "bi/x", c.Token, "fp:x", binding(secrets.Sandbox)); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Stage(t.Context(), "bi/x", c.Token, good); !errors.Is(err, secrets.ErrBinding) {
		t.Errorf("beside a sandbox token: %v", err)
	}
	if err := k.Activate(t.Context(), "bi/x", 1, 0); !errors.Is(err, secrets.ErrBinding) {
		t.Errorf("activating a sandbox token: %v", err)
	}
	if err := k.Activate(t.Context(), "bi/x", 2, 0); !errors.Is(err, secrets.ErrNotFound) {
		t.Errorf("activating nothing: %v", err)
	}
	if list, err := k.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("the sandbox's tokens are listed: %v %v", list, err)
	}
	for _, e := range f.entries(t) {
		if e.Action != "refuse" || e.Outcome != audit.Refused {
			t.Errorf("%+v", e)
		}
	}
	v, err := k.Stage(t.Context(), "bi/y", c.Token, with(func(b *secrets.Binding) { b.Host = "ACME.example.:443" }))
	if err != nil || v.Binding.Host != "acme.example" {
		t.Errorf("%+v %v", v, err)
	}
}

// The vault fails, in every operation, before and after it did what was asked: no token in any error or audit entry, no
// lease, and the log says that it failed.
func TestVaultFaults(t *testing.T) {
	for _, op := range []string{"Versions", "Read", "Stage", "Activate", "FingerprintKey", "List"} {
		for _, after := range []bool{false, true} {
			for kind, cause := range map[string]error{"unavailable": secrets.ErrUnavailable, "unknown": secrets.ErrUnknown, "permission": secrets.ErrPermission, "corrupt": secrets.ErrCorrupt} {
				t.Run(fmt.Sprint(op, " ", after, " ", kind), func(t *testing.T) {
					_, f := keeper(t, secrets.Production)
					prepared := secrets.NewKeeper(f.vault, f.log, secrets.Production, "alice")
					c, v := activate(t, prepared, 0)
					fault := func(name string) error {
						if name == op {
							return fmt.Errorf("%w: injected", cause)
						}
						return nil
					}
					if after {
						f.vault.After = fault
					} else {
						f.vault.Before = fault
					}
					k := secrets.NewKeeper(f.vault, f.log, secrets.Production, "alice")
					next := secretstest.NewCanary(t)
					lease, leaseErr := k.Lease(t.Context(), request)
					if lease != nil && leaseErr != nil {
						t.Error("a lease and an error")
					}
					_, stageErr := k.Stage(t.Context(), request.Name, next.Token, binding(secrets.Production))
					activateErr := k.Activate(t.Context(), request.Name, v.Number, v.Number)
					_, listErr := k.List(t.Context())
					_, trialErr := k.Trial(t.Context(), request, next.Token)
					failed := 0
					for _, err := range []error{leaseErr, stageErr, activateErr, listErr, trialErr} {
						c.AbsentFromError(t, op, err)
						next.AbsentFromError(t, op, err)
						if err != nil {
							failed++
							if !errors.Is(err, cause) {
								t.Errorf("err = %v", err)
							}
						}
					}
					if failed == 0 {
						t.Error("nothing failed")
					}
					c.AbsentFromDir(t, f.dir)
					next.AbsentFromDir(t, f.dir)
					if acts := f.acts(t); op != "List" && !strings.Contains(acts, "failed") && !strings.Contains(acts, "refused") {
						t.Errorf("not recorded: %s", acts)
					}
				})
			}
		}
	}
}

func TestListOfThisEnvironment(t *testing.T) {
	k, f := keeper(t, secrets.Production)
	activate(t, k, 0)
	c := secretstest.NewCanary(t)
	for i, environment := range []string{secrets.Sandbox, secrets.Production} {
		if _, err := f.vault.Stage(t.Context(), "bi/mixed", c.Token, fmt.Sprint("fp:", i), binding(environment)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.vault.Activate(t.Context(), "bi/mixed", 1, 0); err != nil { // the sandbox's
		t.Fatal(err)
	}
	list, err := k.List(t.Context())
	if err != nil || len(list) != 2 || list[0].Name != request.Name || list[0].Active != 1 {
		t.Fatalf("%+v %v", list, err)
	}
	if mixed := list[1]; len(mixed.Versions) != 1 || mixed.Versions[0].Number != 2 || mixed.Active != 0 {
		t.Errorf("%+v", mixed)
	}
	if entries := f.entries(t); len(entries) != 6 {
		t.Errorf("listing wrote to the audit log: %d", len(entries))
	}
}

// At the moment in which the vault is asked for a value, the loan is in the log already, with the fingerprint.
func TestAuditComesBeforeTheRead(t *testing.T) {
	k, f := keeper(t, secrets.Production)
	_, v := activate(t, k, 0)
	reads := 0
	want := "lease"
	f.vault.Before = func(op string) error {
		if op == "Read" {
			reads++
			entries := f.entries(t)
			if e := entries[len(entries)-1]; e.Action != want || e.Outcome != audit.OK || e.Fingerprint != v.Fingerprint || e.Job != request.Job || e.Run != request.RunID {
				t.Errorf("at the read the log ends in %+v", e)
			}
		}
		return nil
	}
	l, err := k.Lease(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	_, v = activate(t, k, 1)
	want = "renew"
	if err := l.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if reads != 2 {
		t.Errorf("%d reads", reads)
	}
}
