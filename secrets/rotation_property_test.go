package secrets_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/audit"
	"github.com/tablexport/tablexport/secrets/memvault"
	"github.com/tablexport/tablexport/secrets/secretstest"
)

// ways are the states that one step, or a whole walk, may take a version to.
var ways = map[secrets.State][]secrets.State{
	secrets.Staged:   {secrets.Verified, secrets.Active, secrets.Rejected},
	secrets.Verified: {secrets.Active, secrets.Rejected},
	secrets.Active:   {secrets.Retiring, secrets.Retired},
	secrets.Retiring: {secrets.Active, secrets.Retired},
}

// rotating is a token that two operators do all kinds of things with, in a vault that fails now and then, before it did something and after.
type rotating struct {
	t       *testing.T
	vault   *memvault.Vault
	dir     string
	keepers []*secrets.Keeper
	active  int  // as somebody saw it a while ago
	refused bool // what the instance says of old tokens
	before  secrets.Named
	entries int
}

// Whatever two operators do, in whatever order and through whatever faults: one version is active at most, states go their ways alone, retired and rejected are final, no version
// is lost or changed, every change was in the audit log before it was made, and what is lent is the active version.
func TestRotationProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "audit")
		if err != nil {
			rt.Fatal(err)
		}
		log, err := audit.Open(filepath.Join(dir, "audit"))
		if err != nil {
			rt.Fatal(err)
		}
		defer log.Close()
		r := &rotating{t: t, vault: memvault.New(), dir: filepath.Join(dir, "audit")}
		for _, name := range []string{"ada", "bob"} {
			r.keepers = append(r.keepers, secrets.NewKeeper(r.vault, log, secrets.Production, name))
		}
		if _, err := r.keepers[0].Stage(t.Context(), request.Name, secretstest.NewCanary(t).Token, binding(secrets.Production)); err != nil {
			rt.Fatal(err)
		}
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			r.step(rt)
			r.check(rt)
		}
		if report, err := audit.Verify(r.dir); err != nil || len(report.Problems) > 0 {
			rt.Fatalf("audit: %v %v", report.Problems, err)
		}
	})
}

// step does one thing, with a fault or without.
func (r *rotating) step(rt *rapid.T) {
	k := rapid.SampledFrom(r.keepers).Draw(rt, "who")
	fault := func(string) error {
		if rapid.IntRange(0, 7).Draw(rt, "fault") == 0 {
			return fmt.Errorf("%w: injected", secrets.ErrUnavailable)
		}
		return nil
	}
	r.vault.Before, r.vault.After = fault, fault
	defer func() { r.vault.Before, r.vault.After = nil, nil }()
	version := rapid.IntRange(1, len(r.before.Versions)+2).Draw(rt, "version")
	r.refused = rapid.Bool().Draw(rt, "revoked")
	var err error
	act := rapid.SampledFrom([]string{"stage", "verify", "activate", "reject", "retire", "rotate", "rotate", "describe", "lease", "look"}).Draw(rt, "act")
	switch ctx := r.t.Context(); act {
	case "stage":
		_, err = k.Stage(ctx, request.Name, secretstest.NewCanary(r.t).Token, binding(secrets.Production))
	case "verify":
		err = k.Verified(ctx, request.Name, version, nil)
	case "activate":
		err = k.Activate(ctx, request.Name, version, r.active)
	case "reject":
		err = k.Reject(ctx, request.Name, version, nil)
	case "retire":
		err = k.Retired(ctx, request.Name, version, nil)
	case "rotate":
		_, err = k.Rotate(ctx, secrets.Rotation{Name: request.Name, Binding: binding(secrets.Production), Verify: good, Retire: r.retire})
	case "describe":
		err = k.Describe(ctx, request.Name, version, secrets.Attributes{Scopes: "read"})
	case "lease":
		err = r.lease(rt, k)
	case "look":
		r.active = r.before.Active
	}
	for _, want := range []error{nil, secrets.ErrState, secrets.ErrConflict, secrets.ErrNotFound, secrets.ErrNoActive, secrets.ErrUnavailable} {
		if errors.Is(err, want) {
			return
		}
	}
	rt.Fatalf("%s: %v", act, err)
}

func (r *rotating) retire(context.Context, secrets.Version) (map[string]string, error) {
	if r.refused {
		return map[string]string{"status": "401"}, nil
	}
	return nil, secrets.ErrInUse
}

func (r *rotating) lease(rt *rapid.T, k *secrets.Keeper) error {
	l, err := k.Lease(r.t.Context(), request)
	if err != nil {
		return err
	}
	if v, ok := r.before.Version(r.before.Active); !ok || l.Fingerprint() != v.Fingerprint {
		rt.Fatalf("%s was lent, %+v is active", l.Fingerprint(), v)
	}
	return l.Close(r.t.Context())
}

// check compares what there is with what there was before the step.
func (r *rotating) check(rt *rapid.T) {
	now, err := r.vault.Versions(r.t.Context(), request.Name)
	if err != nil {
		rt.Fatal(err)
	}
	entries, err := audit.Tail(r.dir, 1_000_000)
	if err != nil {
		rt.Fatal(err)
	}
	recorded := map[string]bool{} // versions that an entry of this step speaks of
	for _, e := range entries[min(r.entries, len(entries)):] {
		recorded[e.Detail["version"]] = true
		recorded[e.Detail["instead_of"]] = true
		if e.Action == "stage" {
			recorded["staged"] = true
		}
	}
	active := 0
	for _, v := range now.Versions {
		if v.State == secrets.Active {
			active++
			if v.Number != now.Active || v.Verified.IsZero() {
				rt.Fatalf("version %d is active: %+v", v.Number, now)
			}
		}
		old, known := r.before.Version(v.Number)
		switch {
		case !known && len(r.before.Versions) > 0 && (v.State != secrets.Staged || !recorded["staged"]):
			rt.Fatalf("a new version: %+v", v)
		case !known || old.State == v.State:
		case !slices.Contains(ways[old.State], v.State):
			rt.Fatalf("version %d went from %s to %s", v.Number, old.State, v.State)
		case !recorded[fmt.Sprint(v.Number)]:
			rt.Fatalf("version %d went from %s to %s, and the audit log does not know", v.Number, old.State, v.State)
		}
		if known && (old.Fingerprint != v.Fingerprint || old.Binding != v.Binding || !old.Created.Equal(v.Created)) {
			rt.Fatalf("version %d was changed: %+v", v.Number, v)
		}
	}
	if active > 1 || (active == 1) != (now.Active > 0) || len(now.Versions) < len(r.before.Versions) {
		rt.Fatalf("%d active: %+v", active, now)
	}
	r.before, r.entries = now, len(entries)
}
