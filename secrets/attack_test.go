package secrets_test

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"sync"
	"testing"

	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/audit"
	"github.com/tablexport/tablexport/secrets/secretstest"
	"github.com/tablexport/tablexport/secrets/secretstest/vaultserver"
)

// Somebody who may write in Vault puts the token of another instance, of another host or of the other environment in the place of ours, whole, and makes it the active
// one, with a description that says it is ours and one that says the truth. It is lent to nobody.
func TestVaultWithAnotherInstancesToken(t *testing.T) {
	t.Parallel()
	server := vaultserver.Start(t)
	for what, other := range map[string]secrets.Binding{
		"another instance":    {Instance: "other", Host: host, Environment: secrets.Production},
		"another host":        {Instance: "acme", Host: "other.my.erp.example", Environment: secrets.Production},
		"another environment": {Instance: "acme", Host: host, Environment: secrets.Sandbox},
	} {
		for _, honest := range []bool{false, true} {
			mount := server.NewMount(t)
			v := openHashi(t, server.Address, mount, server.RootToken)()
			dir := filepath.Join(t.TempDir(), "audit")
			log, err := audit.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			k := secrets.NewKeeper(v, log, secrets.Production, "alice")
			_, ours := activate(t, k, 0)
			foreign := secretstest.NewCanary(t)
			if _, err := secrets.NewKeeper(v, log, other.Environment, "bob").Stage(t.Context(), "bi/other", foreign.Token, other); err != nil {
				t.Fatal(err)
			}
			read := func(path string) (data, meta map[string]any) {
				a := server.Call(t, http.MethodGet, mount+"/data/tablexport/"+path, nil)
				return a["data"].(map[string]any), a["metadata"].(map[string]any)
			}
			write := func(path string, data any, cas any) map[string]any {
				return server.Call(t, http.MethodPost, mount+"/data/tablexport/"+path, map[string]any{"data": data, "options": map[string]any{"cas": cas}})
			}
			theirs, _ := read("tokens/bi/other")
			_, at := read("tokens/" + request.Name)
			made := write("tokens/"+request.Name, theirs, at["version"])
			state, at := read("state/" + request.Name)
			described := map[string]any{"created": made["created_time"], "verified": map[string]any{"at": made["created_time"], "change": "x"},
				"fingerprint": theirs["fingerprint"], "instance": "acme", "host": host, "environment": secrets.Production}
			if honest {
				described["instance"], described["host"], described["environment"] = other.Instance, other.Host, other.Environment
			}
			state["active"], state["active_created"] = made["version"], made["created_time"]
			state["versions"].(map[string]any)["2"] = described
			write("state/"+request.Name, state, at["version"])

			n, err := v.Versions(t.Context(), request.Name)
			if err != nil || n.Active != 2 || ours.Number != 1 {
				t.Fatalf("%s: the attack does not work any more: %+v %v", what, n, err)
			}
			lease, err := k.Lease(t.Context(), request)
			if lease != nil || !errors.Is(err, secrets.ErrBinding) {
				t.Errorf("%s, honest=%v: %v", what, honest, err)
			}
			foreign.AbsentFromError(t, what, err)
			if _, err := k.LeaseVersion(t.Context(), request, 2); !errors.Is(err, secrets.ErrBinding) {
				t.Errorf("%s, honest=%v: proven: %v", what, honest, err)
			}
			entries, err := audit.Tail(dir, 1)
			if err != nil || len(entries) != 1 || entries[0].Outcome != audit.Refused {
				t.Errorf("%s: audited as %+v, %v", what, entries, err)
			}
			_, _ = v.Close(), log.Close()
		}
	}
}

// Operators who rotate to different tokens at once: one of those is active in the end, none is lost, and whoever begins again ends at the newest.
func TestRotateToDifferentTokensAtOnce(t *testing.T) {
	t.Parallel()
	for name, fresh := range drivers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRotator(t, fresh(t))
			tokens := []secretstest.Canary{secretstest.NewCanary(t), secretstest.NewCanary(t), secretstest.NewCanary(t)}
			var wg sync.WaitGroup
			for _, c := range tokens {
				v := r.open()
				wg.Go(func() {
					if _, err := r.rotate(t.Context(), v, c.Token); err != nil && !errors.Is(err, secrets.ErrConflict) && !errors.Is(err, secrets.ErrState) {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			n, err := r.open().Versions(t.Context(), request.Name)
			if err != nil || len(n.Versions) != 4 || n.Active == 0 || n.Active == 1 {
				t.Fatalf("%+v %v", n, err)
			}
			for range 2 {
				if _, err := r.rotate(t.Context(), r.open(), secrets.Token{}); err != nil {
					t.Fatal(err)
				}
			}
			if n, err = r.open().Versions(t.Context(), request.Name); err != nil {
				t.Fatal(err)
			}
			active := 0
			for _, v := range n.Versions {
				if v.State == secrets.Active {
					active++
				}
				if token, _, err := r.open().Read(t.Context(), request.Name, v.Number); err != nil || token.IsZero() {
					t.Errorf("version %d is lost: %v", v.Number, err)
				}
			}
			if active != 1 || n.Versions[3].State != secrets.Retired {
				t.Errorf("%+v", n)
			}
		})
	}
}

// A token that was staged twice at once is two versions. Going from one to the other does not ask for the revocation of the active token, and staging it once more
// finds the active one.
func TestSameTokenTwice(t *testing.T) {
	t.Parallel()
	k, f := keeper(t, secrets.Production)
	c, one := activate(t, k, 0)
	two, err := f.vault.Stage(t.Context(), request.Name, c.Token, one.Fingerprint, one.Binding)
	if err != nil {
		t.Fatal(err)
	}
	rotation := secrets.Rotation{Name: request.Name, Binding: binding(secrets.Production), Verify: good, Retire: func(context.Context, secrets.Version) (map[string]string, error) {
		t.Error("the instance was asked")
		return nil, secrets.ErrInUse
	}}
	done, err := k.Rotate(t.Context(), rotation)
	if err != nil || done.Active != two.Number || len(done.Retired) != 1 || len(done.Retiring) != 0 {
		t.Errorf("%+v %v", done, err)
	}
	if v, err := k.Stage(t.Context(), request.Name, c.Token, binding(secrets.Production)); err != nil || v.Number != two.Number || v.State != secrets.Active {
		t.Errorf("staged again: %+v %v", v, err)
	}
	if e := f.entries(t); e[len(e)-2].Detail["same_token_as"] != "2" {
		t.Errorf("audited as %+v", e[len(e)-2])
	}
}
