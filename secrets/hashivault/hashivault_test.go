package hashivault

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/secretstest"
	"github.com/tablexport/tablexport/secrets/secretstest/vaultserver"
)

// policy is a part of the documented policies, for another mount.
func policy(t testing.TB, name, mount string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/vault-policy.hcl")
	if err != nil {
		t.Fatal(err)
	}
	_, part, found := strings.Cut(string(text), "# ---- "+name+":")
	if !found {
		t.Fatalf("docs/vault-policy.hcl has no part %s", name)
	}
	part, _, _ = strings.Cut(part, "# ---- ")
	_, part, _ = strings.Cut(part, "\n")
	return strings.ReplaceAll(part, `"secret/`, `"`+mount+"/")
}

func writeFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "credential")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// appRole is options to log in to server with one of the documented policies.
func appRole(t testing.TB, server vaultserver.Server, mount, policyName string, settings map[string]any) Options {
	t.Helper()
	roleID, secretID := server.NewAppRole(t, policy(t, policyName, mount), settings)
	return Options{
		Address: server.Address, Mount: mount, CAFile: server.CACertFile,
		Auth: Auth{AppRole: &AppRole{RoleIDFile: writeFile(t, roleID), SecretIDFile: writeFile(t, secretID)}},
	}
}

func rootOptions(t testing.TB, server vaultserver.Server, mount string) Options {
	t.Helper()
	return Options{Address: server.Address, Mount: mount, CAFile: server.CACertFile, Auth: Auth{TokenFile: writeFile(t, server.RootToken)}}
}

func open(t testing.TB, opts Options) *Vault {
	t.Helper()
	v, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	return v
}

func stage(t testing.TB, v *Vault, name string) secretstest.Canary {
	t.Helper()
	c := secretstest.NewCanary(t)
	if _, err := v.Stage(t.Context(), name, c.Token, "fp:0", secretstest.Binding); err != nil {
		t.Fatal(err)
	}
	return c
}

// The real thing: TLS with an authority of its own, AppRole, and no more rights than the documented policy gives.
// Namespaces exist in Vault Enterprise only; TestNamespaceHeader covers what we send.
func TestConformanceAppRoleTLS(t *testing.T) {
	server := vaultserver.Start(t, vaultserver.TLS())
	secretstest.Run(t, func(t *testing.T) func(*testing.T) secrets.Vault {
		opts := appRole(t, server, server.NewMount(t), "tablexport-rotate", nil)
		return func(t *testing.T) secrets.Vault { return open(t, opts) }
	})
}

func TestConformanceTokenFile(t *testing.T) {
	server := vaultserver.Start(t)
	secretstest.Run(t, func(t *testing.T) func(*testing.T) secrets.Vault {
		opts := rootOptions(t, server, server.NewMount(t))
		opts.Prefix = "teams/bi/tablexport"
		return func(t *testing.T) secrets.Vault { return open(t, opts) }
	})
}

// The service's policy lends and lists, and is told what it lacks for anything else.
func TestRunPolicy(t *testing.T) {
	server := vaultserver.Start(t)
	mount := server.NewMount(t)
	rotate := open(t, appRole(t, server, mount, "tablexport-rotate", nil))
	run := open(t, appRole(t, server, mount, "tablexport-run", nil))
	c := stage(t, rotate, "bi/x")
	wantKey, err := rotate.FingerprintKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := rotate.Activate(t.Context(), "bi/x", 1, 0); err != nil {
		t.Fatal(err)
	}
	if token, _, err := run.Read(t.Context(), "bi/x", 0); err != nil || !token.Equal(c.Token) {
		t.Errorf("read: %v", err)
	}
	if list, err := run.List(t.Context()); err != nil || len(list) != 1 || list[0].Active != 1 {
		t.Errorf("list: %v %v", list, err)
	}
	if key, err := run.FingerprintKey(t.Context()); err != nil || !slices.Equal(key, wantKey) {
		t.Errorf("key: %v", err)
	}
	_, err = run.Stage(t.Context(), "bi/x", c.Token, "fp:1", secretstest.Binding)
	for what, err := range map[string]error{
		`path "` + mount + `/data/tablexport/tokens/bi/x" { capabilities = ["update"] }`: err,
		`path "` + mount + `/data/tablexport/state/bi/x" { capabilities = ["update"] }`:  run.Activate(t.Context(), "bi/x", 1, 1),
	} {
		if !errors.Is(err, secrets.ErrPermission) || !strings.Contains(fmt.Sprint(err), what) {
			t.Errorf("err = %v, want %s", err, what)
		}
		c.AbsentFromError(t, "error", err)
	}
	if n, _ := run.Versions(t.Context(), "bi/x"); len(n.Versions) != 1 {
		t.Errorf("%+v", n)
	}
}

// Vault's own token ends in the middle of the work (here: after two uses): the driver logs in anew and goes on.
func TestLoginEnds(t *testing.T) {
	server := vaultserver.Start(t)
	mount := server.NewMount(t)
	v := open(t, appRole(t, server, mount, "tablexport-rotate", map[string]any{"token_num_uses": 2}))
	c := stage(t, v, "bi/x")
	for range 5 {
		if token, _, err := v.Read(t.Context(), "bi/x", 1); err != nil || !token.Equal(c.Token) {
			t.Fatal(err)
		}
	}
	if v.session.generation < 4 {
		t.Errorf("%d logins: the token did not end", v.session.generation)
	}
}

// An agent replaces the token in the file.
func TestTokenFileIsReadAgain(t *testing.T) {
	server := vaultserver.Start(t)
	mount := server.NewMount(t)
	newToken := func() string {
		role, secret := server.NewAppRole(t, policy(t, "tablexport-rotate", mount), nil)
		probe := open(t, Options{Address: server.Address, Auth: Auth{AppRole: &AppRole{RoleIDFile: writeFile(t, role), SecretIDFile: writeFile(t, secret)}}})
		g, err := probe.authenticate(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return g.token
	}
	one, two := newToken(), newToken()
	opts := rootOptions(t, server, mount)
	path := opts.Auth.TokenFile
	_ = os.WriteFile(path, []byte(one), 0o600)
	v := open(t, opts)
	stage(t, v, "bi/x")
	server.Call(t, http.MethodPost, "auth/token/revoke", map[string]any{"token": one})
	if _, err := v.Versions(t.Context(), "bi/x"); !errors.Is(err, secrets.ErrPermission) {
		t.Errorf("with a revoked token: %v", err)
	}
	_ = os.WriteFile(path, []byte(two), 0o600)
	if _, err := v.Versions(t.Context(), "bi/x"); err != nil {
		t.Errorf("with the new one: %v", err)
	}
}

// Close gives the AppRole login back.
func TestCloseRevokes(t *testing.T) {
	server := vaultserver.Start(t)
	mount := server.NewMount(t)
	v := open(t, appRole(t, server, mount, "tablexport-rotate", nil))
	stage(t, v, "bi/x")
	token := v.client.Token()
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := v.List(t.Context()); !errors.Is(err, secrets.ErrUnavailable) {
		t.Errorf("after Close: %v", err)
	}
	again := open(t, Options{Address: server.Address, Mount: mount, Auth: Auth{TokenFile: writeFile(t, token)}})
	if _, err := again.List(t.Context()); !errors.Is(err, secrets.ErrPermission) {
		t.Errorf("the token still works: %v", err)
	}
}

func TestLoginRefused(t *testing.T) {
	server := vaultserver.Start(t)
	mount := server.NewMount(t)
	good := appRole(t, server, mount, "tablexport-rotate", nil)
	const canary = "0b0c7a2e-canary-secret-id"
	with := func(change func(*AppRole)) Options {
		opts, role := good, *good.Auth.AppRole
		change(&role)
		opts.Auth.AppRole = &role
		return opts
	}
	cases := map[string]struct {
		opts Options
		want error
		text string
	}{
		"wrong secret id":   {with(func(r *AppRole) { r.SecretIDFile = writeFile(t, canary) }), secrets.ErrPermission, "does not accept the login"},
		"wrong role id":     {with(func(r *AppRole) { r.RoleIDFile = writeFile(t, canary) }), secrets.ErrPermission, "check the role id in"},
		"no secret id":      {with(func(r *AppRole) { r.SecretIDFile = "/nonexistent/secret" }), secrets.ErrSetup, "/nonexistent/secret"},
		"empty secret id":   {with(func(r *AppRole) { r.SecretIDFile = writeFile(t, "") }), secrets.ErrSetup, "and nothing else"},
		"two secret ids":    {with(func(r *AppRole) { r.SecretIDFile = writeFile(t, canary+"\n"+canary) }), secrets.ErrSetup, "and nothing else"},
		"wrong auth mount":  {with(func(r *AppRole) { r.Mount = "elsewhere" }), secrets.ErrPermission, "auth/elsewhere/login"},
		"wrong Vault token": {Options{Address: server.Address, Mount: mount, Auth: Auth{TokenFile: writeFile(t, canary)}}, secrets.ErrPermission, "capabilities"},
		"no token file":     {Options{Address: server.Address, Mount: mount, Auth: Auth{TokenFile: "/nonexistent/token"}}, secrets.ErrSetup, "/nonexistent/token"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := open(t, c.opts).Versions(t.Context(), "bi/x")
			if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.text) {
				t.Errorf("err = %v, want %v with %q", err, c.want, c.text)
			}
			if strings.Contains(fmt.Sprintf("%+v %#v", err, err), "canary") {
				t.Errorf("the error quotes a credential: %v", err)
			}
		})
	}
}

func TestMountMissingOrOfVersionOne(t *testing.T) {
	server := vaultserver.Start(t)
	one := server.NewMount(t) + "-v1"
	server.Call(t, http.MethodPost, "sys/mounts/"+one, map[string]any{"type": "kv", "options": map[string]any{"version": "1"}})
	for _, mount := range []string{"nowhere", one} {
		v := open(t, rootOptions(t, server, mount))
		c := secretstest.NewCanary(t)
		_, err := v.Stage(t.Context(), "bi/x", c.Token, "fp:x", secretstest.Binding)
		if !errors.Is(err, secrets.ErrSetup) || !strings.Contains(fmt.Sprint(err), "KV version 2") {
			t.Errorf("%s: %v", mount, err)
		}
		c.AbsentFromError(t, "error", err)
	}
	// Nothing secret was put into the unversioned store.
	if keys := server.Call(t, "LIST", one, nil)["keys"]; fmt.Sprint(keys) != "[metadata/]" {
		t.Errorf("keys in the version 1 mount: %v", keys)
	}
}

func TestSealedStoppedUnsealed(t *testing.T) {
	server := vaultserver.Start(t, vaultserver.Private())
	v := open(t, rootOptions(t, server, "secret"))
	c := stage(t, v, "bi/x")
	server.Call(t, http.MethodPut, "sys/seal", nil)
	_, _, err := v.Read(t.Context(), "bi/x", 1)
	if !errors.Is(err, secrets.ErrUnavailable) || !strings.Contains(fmt.Sprint(err), "is sealed") {
		t.Errorf("sealed: %v", err)
	}
	_, err = v.Stage(t.Context(), "bi/x", c.Token, "fp:x", secretstest.Binding)
	if !errors.Is(err, secrets.ErrUnavailable) || errors.Is(err, secrets.ErrUnknown) {
		t.Errorf("sealed: %v", err)
	}
	server.Stop(t)
	for op, err := range map[string]error{
		"activate": v.Activate(t.Context(), "bi/x", 1, 0),
		"login":    func() error { _, err := open(t, rootOptions(t, server, "secret")).List(t.Context()); return err }(),
	} {
		if !errors.Is(err, secrets.ErrUnavailable) || !strings.Contains(fmt.Sprint(err), "cannot be reached") {
			t.Errorf("stopped: %s: %v", op, err)
		}
	}
}

// What people do in Vault by hand.
func TestDeletedDestroyedUndeleted(t *testing.T) {
	server := vaultserver.Start(t)
	mount := server.NewMount(t)
	v := open(t, rootOptions(t, server, mount))
	stage(t, v, "bi/x")
	two := stage(t, v, "bi/x")
	stage(t, v, "bi/x")
	if err := v.Activate(t.Context(), "bi/x", 2, 0); err != nil {
		t.Fatal(err)
	}
	server.Call(t, http.MethodPost, mount+"/delete/tablexport/tokens/bi/x", map[string]any{"versions": []int{2, 3}})
	server.Call(t, http.MethodPut, mount+"/destroy/tablexport/tokens/bi/x", map[string]any{"versions": []int{1}})
	n, err := v.Versions(t.Context(), "bi/x")
	if err != nil || n.Active != 2 || len(n.Versions) != 3 {
		t.Fatalf("%+v %v", n, err)
	}
	for _, version := range n.Versions {
		if version.State != secrets.Deleted || version.Fingerprint == "" || version.Binding != secretstest.Binding {
			t.Errorf("%+v", version)
		}
	}
	for number, text := range map[int]string{0: "undelete", 1: "destroyed", 2: "undelete", 3: "undelete"} {
		if _, _, err := v.Read(t.Context(), "bi/x", number); !errors.Is(err, secrets.ErrDeleted) || !strings.Contains(err.Error(), text) {
			t.Errorf("read %d: %v", number, err)
		}
	}
	if err := v.Activate(t.Context(), "bi/x", 1, 2); !errors.Is(err, secrets.ErrDeleted) {
		t.Errorf("activate: %v", err)
	}
	server.Call(t, http.MethodPost, mount+"/undelete/tablexport/tokens/bi/x", map[string]any{"versions": []int{2}})
	if token, _, err := v.Read(t.Context(), "bi/x", 0); err != nil || !token.Equal(two.Token) {
		t.Errorf("undeleted: %v", err)
	}
	// A deleted state means that nothing is active; the next activation makes a new one.
	server.Call(t, http.MethodDelete, mount+"/data/tablexport/state/bi/x", nil)
	if _, _, err := v.Read(t.Context(), "bi/x", 0); !errors.Is(err, secrets.ErrNoActive) {
		t.Errorf("without state: %v", err)
	}
	if n, err := v.Versions(t.Context(), "bi/x"); err != nil || n.Active != 0 {
		t.Errorf("without state: %+v %v", n, err)
	}
	if err := v.Activate(t.Context(), "bi/x", 2, 0); err != nil {
		t.Error(err)
	}
	// A deleted key for fingerprints is not silently replaced.
	if _, err := v.FingerprintKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.Call(t, http.MethodDelete, mount+"/data/tablexport/fingerprint-key", nil)
	if _, err := open(t, rootOptions(t, server, mount)).FingerprintKey(t.Context()); !errors.Is(err, secrets.ErrDeleted) {
		t.Errorf("key: %v", err)
	}
}

// Somebody removes the secret with all its versions; the new one counts from 1 again. What was known and active of the old
// one does not pass to the new one.
func TestRemovedAndMadeAnew(t *testing.T) {
	server := vaultserver.Start(t)
	mount := server.NewMount(t)
	v := open(t, rootOptions(t, server, mount))
	stage(t, v, "bi/x")
	stage(t, v, "bi/x")
	if err := v.Activate(t.Context(), "bi/x", 2, 0); err != nil {
		t.Fatal(err)
	}
	server.Call(t, http.MethodDelete, mount+"/metadata/tablexport/tokens/bi/x", nil)
	if _, _, err := v.Read(t.Context(), "bi/x", 0); !errors.Is(err, secrets.ErrNotFound) {
		t.Errorf("removed: %v", err)
	}
	other := secrets.Binding{Instance: "other", Host: "other.example", Environment: secrets.Sandbox}
	for i := range 2 {
		c := secretstest.NewCanary(t)
		if _, err := v.Stage(t.Context(), "bi/x", c.Token, "fp:new", other); err != nil {
			t.Fatal(err)
		}
		n, err := v.Versions(t.Context(), "bi/x")
		if err != nil || n.Active != 0 || len(n.Versions) != i+1 || n.Versions[0].State != secrets.Staged || n.Versions[0].Binding != other {
			t.Errorf("anew: %+v %v", n, err)
		}
		if _, _, err := v.Read(t.Context(), "bi/x", 0); !errors.Is(err, secrets.ErrNoActive) && !errors.Is(err, secrets.ErrNotFound) {
			t.Errorf("anew: %v", err)
		}
	}
	if err := v.Activate(t.Context(), "bi/x", 1, 0); err != nil {
		t.Error(err)
	}
}

// A secret that keeps two versions: staging would push the active one out.
func TestHistory(t *testing.T) {
	server := vaultserver.Start(t)
	mount := server.NewMount(t)
	v := open(t, rootOptions(t, server, mount))
	one := stage(t, v, "bi/x")
	if err := v.Activate(t.Context(), "bi/x", 1, 0); err != nil {
		t.Fatal(err)
	}
	server.Call(t, http.MethodPost, mount+"/metadata/tablexport/tokens/bi/x", map[string]any{"max_versions": 2, "cas_required": true})
	stage(t, v, "bi/x")
	c := secretstest.NewCanary(t)
	_, err := v.Stage(t.Context(), "bi/x", c.Token, "fp:3", secretstest.Binding)
	if !errors.Is(err, secrets.ErrHistory) || !strings.Contains(fmt.Sprint(err), "max_versions") {
		t.Errorf("err = %v", err)
	}
	if token, _, err := v.Read(t.Context(), "bi/x", 0); err != nil || !token.Equal(one.Token) {
		t.Errorf("the active one: %v", err)
	}
	if err := v.Activate(t.Context(), "bi/x", 2, 1); err != nil {
		t.Fatal(err)
	}
	if err := v.Activate(t.Context(), "bi/x", 1, 2); !errors.Is(err, secrets.ErrHistory) {
		t.Errorf("activating the oldest: %v", err)
	}
	stage(t, v, "bi/x")
	n, err := v.Versions(t.Context(), "bi/x")
	if err != nil || len(n.Versions) != 2 || n.Active != 2 {
		t.Errorf("%+v %v", n, err)
	}
}

// What is no token of ours in our place is named, not guessed at, and never quoted.
func TestForeignContent(t *testing.T) {
	server := vaultserver.Start(t)
	good := map[string]any{"format": 1, "token": "enrt_canary", "fingerprint": "fp:1", "instance": "a", "host": "h", "environment": "sandbox"}
	without := func(key string, value any) map[string]any {
		m := maps.Clone(good)
		if m[key] = value; value == nil {
			delete(m, key)
		}
		return m
	}
	for name, data := range map[string]map[string]any{
		"by hand":       {"token": "enrt_canary"},
		"other types":   {"format": "enrt_canary", "token": []string{"enrt_canary"}},
		"newer format":  without("format", 2),
		"no token":      without("token", nil),
		"bad token":     without("token", "enrt canary"),
		"no binding":    {"format": 1, "token": "enrt_canary", "fingerprint": "fp:1"},
		"big number":    without("format", json.Number("123456789012345678901234567890")),
		"nothing in it": {},
	} {
		t.Run(name, func(t *testing.T) {
			mount := server.NewMount(t)
			server.Call(t, http.MethodPost, mount+"/data/tablexport/tokens/bi/x", map[string]any{"data": data})
			v := open(t, rootOptions(t, server, mount))
			_, _, err := v.Read(t.Context(), "bi/x", 1)
			if !errors.Is(err, secrets.ErrCorrupt) || strings.Contains(err.Error(), "canary") {
				t.Errorf("err = %v", err)
			}
			if _, err := v.List(t.Context()); name != "bad token" && !errors.Is(err, secrets.ErrCorrupt) {
				t.Errorf("list: %v", err)
			}
		})
	}
	// A good one without state, as a crash between the two writes of Stage leaves it, is described from its content.
	mount := server.NewMount(t)
	server.Call(t, http.MethodPost, mount+"/data/tablexport/tokens/bi/x", map[string]any{"data": good})
	n, err := open(t, rootOptions(t, server, mount)).Versions(t.Context(), "bi/x")
	if err != nil || len(n.Versions) != 1 || n.Versions[0].Fingerprint != "fp:1" || n.Versions[0].Binding.Host != "h" {
		t.Errorf("%+v %v", n, err)
	}
}

// Listing and describing do not fetch values: a policy without the right to read them is enough.
func TestListReadsNoValue(t *testing.T) {
	server := vaultserver.Start(t)
	mount := server.NewMount(t)
	stage(t, open(t, rootOptions(t, server, mount)), "bi/x")
	role, secret := server.NewAppRole(t, strings.Replace(policy(t, "tablexport-run", mount), `["read"]`, `["deny"]`, 1), nil)
	v := open(t, Options{Address: server.Address, Mount: mount, Auth: Auth{AppRole: &AppRole{RoleIDFile: writeFile(t, role), SecretIDFile: writeFile(t, secret)}}})
	if list, err := v.List(t.Context()); err != nil || len(list) != 1 || list[0].Versions[0].Fingerprint != "fp:0" {
		t.Errorf("%+v %v", list, err)
	}
	if _, _, err := v.Read(t.Context(), "bi/x", 1); !errors.Is(err, secrets.ErrPermission) {
		t.Errorf("read: %v", err)
	}
}
