package secrets_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/audit"
	"github.com/tablexport/tablexport/secrets/secretstest"
)

const oneDay = 24 * time.Hour

// Every rule on its own, with clocks that are ten minutes apart either way.
func TestPolicyJudge(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	version := func(age time.Duration, a secrets.Attributes) secrets.Version {
		return secrets.Version{Number: 3, Created: now.Add(-age), Binding: binding(secrets.Production), Attributes: a}
	}
	client := secrets.Kind{Client: &secrets.ClientCredentials{Scopes: []string{"read", "sec"}}}
	skew := secrets.ClockSkew
	for name, c := range map[string]struct {
		policy secrets.Policy
		v      secrets.Version
		use    secrets.Kind
		broken string
	}{
		"nothing is demanded":         {secrets.Policy{}, version(9999*oneDay, secrets.Attributes{Scopes: "update"}), client, ""},
		"young":                       {secrets.Policy{MaxAge: 90 * oneDay}, version(90*oneDay, secrets.Attributes{}), secrets.Kind{}, ""},
		"old by a clock that is off":  {secrets.Policy{MaxAge: 90 * oneDay}, version(90*oneDay+skew, secrets.Attributes{}), secrets.Kind{}, ""},
		"old":                         {secrets.Policy{MaxAge: 90 * oneDay}, version(90*oneDay+skew+time.Second, secrets.Attributes{}), secrets.Kind{}, "max_age_days"},
		"staged in the future":        {secrets.Policy{MaxAge: 90 * oneDay}, version(-skew, secrets.Attributes{}), secrets.Kind{}, ""},
		"scopes not known":            {secrets.Policy{Scopes: []string{"read"}}, version(0, secrets.Attributes{}), secrets.Kind{}, ""},
		"scopes within":               {secrets.Policy{Scopes: []string{"read", "sec"}}, version(0, secrets.Attributes{Scopes: "read"}), secrets.Kind{}, ""},
		"scopes beyond":               {secrets.Policy{Scopes: []string{"read"}}, version(0, secrets.Attributes{Scopes: "read update"}), secrets.Kind{}, "scopes"},
		"asked for beyond":            {secrets.Policy{Scopes: []string{"read"}}, version(0, secrets.Attributes{}), client, "scopes"},
		"expiry not known":            {secrets.Policy{RequireExpiry: true}, version(0, secrets.Attributes{}), secrets.Kind{}, "require_expiry"},
		"expires later":               {secrets.Policy{RequireExpiry: true}, version(0, secrets.Attributes{Expires: now.Add(time.Second)}), secrets.Kind{}, ""},
		"over by a clock that is off": {secrets.Policy{RequireExpiry: true}, version(0, secrets.Attributes{Expires: now.Add(time.Second - skew)}), secrets.Kind{}, ""},
		"over":                        {secrets.Policy{RequireExpiry: true}, version(0, secrets.Attributes{Expires: now.Add(-skew)}), secrets.Kind{}, "require_expiry"},
		"hosts":                       {secrets.Policy{Allows: func(h string) bool { return h != host }}, version(0, secrets.Attributes{}), secrets.Kind{}, "hosts"},
	} {
		var broken []string
		for _, v := range c.policy.Judge(c.v, c.use, now) {
			if !v.Kept {
				broken = append(broken, v.Rule)
			}
			if v.Why == "" {
				t.Errorf("%s: %s without a reason", name, v.Rule)
			}
		}
		if got := strings.Join(broken, " "); got != c.broken {
			t.Errorf("%s: broken %q, want %q", name, got, c.broken)
		}
	}
}

// A loan that breaks the policy is refused and audited, a lease is not renewed to such a token, and none is activated. What proves and retires
// old tokens goes on.
func TestKeeperUnderPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, f := keeper(t, secrets.Production)
		k.Under(secrets.Policy{MaxAge: 90 * oneDay, Scopes: []string{"read"}})
		activate(t, k, 0)
		l, err := k.Lease(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(91 * oneDay)
		var policy *secrets.PolicyError
		if _, err := k.Lease(t.Context(), request); !errors.Is(err, secrets.ErrPolicy) || !errors.As(err, &policy) || policy.Broken[0].Rule != "max_age_days" {
			t.Errorf("an old token was lent: %v", err)
		}
		if e := f.entries(t); e[len(e)-1].Action != "refuse" || e[len(e)-1].Outcome != audit.Refused || e[len(e)-1].Fingerprint == "" {
			t.Errorf("the refusal: %+v", e[len(e)-1])
		}
		if err := l.Renew(t.Context()); !errors.Is(err, secrets.ErrPolicy) {
			t.Errorf("renewed: %v", err)
		}
		if trial, err := k.LeaseVersion(t.Context(), request, 1); err != nil {
			t.Errorf("it cannot be retired: %v", err)
		} else if err := trial.Close(t.Context()); err != nil {
			t.Error(err)
		}
		c := secretstest.NewCanary(t)
		v, err := k.Stage(t.Context(), request.Name, c.Token, binding(secrets.Production))
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Verified(t.Context(), request.Name, v.Number, nil); err != nil {
			t.Fatal(err)
		}
		if err := k.Describe(t.Context(), request.Name, v.Number, secrets.Attributes{Scopes: "update read"}); err != nil {
			t.Fatal(err)
		}
		if err := k.Activate(t.Context(), request.Name, v.Number, 1); !errors.Is(err, secrets.ErrPolicy) {
			t.Errorf("a token that may write was activated: %v", err)
		}
		if n, err := k.Versions(t.Context(), request.Name); err != nil || n.Active != 1 {
			t.Errorf("active: %+v %v", n, err)
		}
		k.Under(secrets.Policy{Scopes: []string{"read"}, WarnOnly: true})
		if err := k.Activate(t.Context(), request.Name, v.Number, 1); err != nil {
			t.Fatal(err)
		}
		warned, err := k.Lease(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		entries := f.entries(t)
		if d := entries[len(entries)-1].Detail["policy"]; !strings.Contains(d, "scopes: it carries read update") {
			t.Errorf("the loan says %q", d)
		}
		for _, l := range []*secrets.Lease{l, warned} {
			if err := l.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
		k.Under(secrets.Policy{Allows: func(string) bool { return false }})
		for what, err := range map[string]error{
			"lent":   func() error { _, err := k.Lease(t.Context(), request); return err }(),
			"proven": func() error { _, err := k.LeaseVersion(t.Context(), request, 1); return err }(),
			"tried":  func() error { _, err := k.Trial(t.Context(), request, c.Token); return err }(),
			"staged": func() error {
				_, err := k.Stage(t.Context(), request.Name, c.Token, binding(secrets.Production))
				return err
			}(),
		} {
			if !errors.Is(err, secrets.ErrPolicy) {
				t.Errorf("%s at a host that is not allowed: %v", what, err)
			}
		}
	})
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	k, f := keeper(t, secrets.Production)
	activate(t, k, 0)
	for what, a := range map[string]secrets.Attributes{"long": {Owner: strings.Repeat("x", 300)}, "control": {Owner: "a\x1b[31m"}, "old": {Expires: time.Unix(1, 0)}} {
		if err := k.Describe(t.Context(), request.Name, 1, a); !errors.Is(err, secrets.ErrBadAttributes) {
			t.Errorf("%s: %v", what, err)
		}
	}
	a := secrets.Attributes{Expires: time.Date(2027, 1, 1, 1, 0, 0, 5, time.FixedZone("", 3600)), Scopes: "sec, read  sec", Owner: " Ada "}
	for range 2 {
		if err := k.Describe(t.Context(), request.Name, 1, a); err != nil {
			t.Fatal(err)
		}
	}
	n, err := k.Versions(t.Context(), request.Name)
	if want := (secrets.Attributes{Expires: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC), Scopes: "read sec", Owner: "Ada"}); err != nil || n.Versions[0].Attributes != want {
		t.Errorf("%+v %v", n, err)
	}
	if acts := f.acts(t); strings.Count(acts, "describe ok") != 1 || strings.Count(acts, "refuse refused") != 3 {
		t.Errorf("audited: %s", acts)
	}
	if err := k.Describe(t.Context(), request.Name, 4, secrets.Attributes{Owner: "Ada"}); !errors.Is(err, secrets.ErrNotFound) {
		t.Errorf("no such version: %v", err)
	}
}

// What one place lends, others see, within five minutes; a vault that cannot be told does not keep the loan from being made.
func TestUsesElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, f := keeper(t, secrets.Production)
		_, v := activate(t, k, 0)
		k.Shared("ada@one:/state")
		other := secrets.NewKeeper(f.vault, f.log, secrets.Production, "bob").Shared("bob@two:/state")
		elsewhere := func(k *secrets.Keeper, within time.Duration) int {
			t.Helper()
			uses, err := k.Elsewhere(t.Context(), request.Name, v.Fingerprint, within)
			if err != nil {
				t.Fatal(err)
			}
			return len(uses)
		}
		if n := elsewhere(other, time.Hour); n != 0 {
			t.Errorf("%d uses before the first", n)
		}
		writes := 0
		f.vault.Before = func(op string) error {
			if op == "Used" {
				writes++
			}
			return nil
		}
		for range 20 {
			l, err := k.Lease(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Authorize(t.Context(), get("https://"+host+"/")); err != nil {
				t.Fatal(err)
			}
			if err := l.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if writes != 1 || elsewhere(other, time.Hour) != 1 || elsewhere(k, time.Hour) != 0 {
			t.Errorf("%d writes for twenty loans; seen from elsewhere %d, from itself %d", writes, elsewhere(other, time.Hour), elsewhere(k, time.Hour))
		}
		l, err := k.Lease(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		for range 12 { // an hour's scan goes on being seen, of one request or many
			time.Sleep(secrets.UseEvery)
			synctest.Wait()
			if elsewhere(other, time.Minute) != 1 {
				t.Error("a scan that goes on is not seen")
			}
		}
		if err := l.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour + secrets.UseEvery + secrets.ClockSkew)
		if elsewhere(other, time.Hour) != 0 {
			t.Error("a use is seen for too long")
		}
		// A place whose clock is ten minutes off either way.
		for at, seen := range map[time.Duration]int{-time.Hour - secrets.ClockSkew + time.Minute: 1, secrets.ClockSkew: 1, -2 * time.Hour: 0} {
			if err := f.vault.Used(t.Context(), request.Name, secrets.PlaceUse{Place: fmt.Sprint("eve@three", at), Fingerprint: "fp:" + fmt.Sprint(at), Last: time.Now().Add(at)}); err != nil {
				t.Fatal(err)
			}
			if uses, err := k.Elsewhere(t.Context(), request.Name, "fp:"+fmt.Sprint(at), time.Hour); err != nil || len(uses) != seen {
				t.Errorf("used %v ago by a clock: %v %v", -at, uses, err)
			}
		}
		refused := 0
		f.vault.Before = func(op string) error {
			if op == "Used" {
				refused++
				return secrets.ErrPermission
			}
			return nil
		}
		if l, err = k.Lease(t.Context(), request); err != nil {
			t.Fatalf("the use could not be told of: %v", err)
		}
		for range 3 {
			time.Sleep(secrets.UseEvery)
			if err := l.Authorize(t.Context(), get("https://"+host+"/")); err != nil {
				t.Errorf("the use could not be told of: %v", err)
			}
			synctest.Wait()
		}
		if err := l.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if acts := f.acts(t); strings.Count(acts, "use failed") != 1 || refused != 1 {
			t.Errorf("asked %d times, audited: %s", refused, acts)
		}
	})
}
