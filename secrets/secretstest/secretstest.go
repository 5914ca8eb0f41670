// Package secretstest holds what every driver of secrets.Vault must do, as tests that run on each of them, and canaries
// that show where a token leaks.
package secretstest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tablexport/tablexport/secrets"
)

// Canary is a token that occurs nowhere else, to look for.
type Canary struct {
	Token secrets.Token
	value string
}

// NewCanary makes a canary that looks like a service access token.
func NewCanary(t testing.TB) Canary {
	t.Helper()
	value := "enrt_canary+" + rand.Text() + "/=%7e"
	token, err := secrets.NewToken([]byte(value))
	if err != nil {
		t.Fatal(err)
	}
	return Canary{Token: token, value: value}
}

// Value is the canary in the clear, for a fake server to compare with.
func (c Canary) Value() string { return c.value }

// forms are the shapes in which a value leaks: as it is, and as the usual encodings turn it.
func (c Canary) forms() []string {
	core := c.value[len("enrt_canary+") : len(c.value)-5] // survives whatever escapes the rest
	return []string{
		core, strings.ToLower(core), hex.EncodeToString([]byte(core)), strings.ToUpper(hex.EncodeToString([]byte(core))),
		base64.StdEncoding.EncodeToString([]byte(c.value)), base64.URLEncoding.EncodeToString([]byte(c.value)),
		base64.RawURLEncoding.EncodeToString([]byte(c.value)), url.QueryEscape(c.value),
		strings.Trim(fmt.Sprintf("%d", []byte(core)), "[]"), strings.Trim(fmt.Sprintf("%#v", []byte(core))[len("[]byte"):], "{}"),
	}
}

// Absent fails the test if the canary, in any usual encoding, is in text.
func (c Canary) Absent(t testing.TB, where string, text []byte) {
	t.Helper()
	for _, form := range c.forms() {
		if bytes.Contains(text, []byte(form)) {
			t.Errorf("%s holds the token", where)
			return
		}
	}
}

// AbsentFromError fails the test if the canary is in any printing of err or of what it wraps.
func (c Canary) AbsentFromError(t testing.TB, where string, err error) {
	t.Helper()
	if err == nil {
		return
	}
	c.Absent(t, where, fmt.Appendf(nil, "%s %v %+v %#v %q", err, err, err, err, err))
	c.AbsentFromError(t, where, errors.Unwrap(err))
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		for _, err := range joined.Unwrap() {
			c.AbsentFromError(t, where, err)
		}
	}
}

// AbsentFromDir fails the test if the canary is in any file under dir.
func (c Canary) AbsentFromDir(t testing.TB, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a temporary file that has gone
		}
		c.Absent(t, path, data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Binding is a binding for tests.
var Binding = secrets.Binding{Instance: "acme", Host: "acme.my.erp.example", Environment: secrets.Production}

// Run runs the conformance suite. fresh makes an empty vault and returns what opens it: every call of open is as another
// process would open it (a vault in memory may return the same one).
func Run(t *testing.T, fresh func(t *testing.T) (open func(t *testing.T) secrets.Vault)) {
	tests := []struct {
		name string
		run  func(t *testing.T, open func(t *testing.T) secrets.Vault)
	}{
		{"empty", testEmpty},
		{"life", testLife},
		{"names", testNames},
		{"list", testList},
		{"refusals", testRefusals},
		{"independence", testIndependence},
		{"fingerprint key", testFingerprintKey},
		{"activation race", testActivationRace},
		{"marks", testMarks},
		{"mark race", testMarkRace},
		{"staging race", testStagingRace},
		{"first use race", testFirstUseRace},
		{"attributes", testAttributes},
		{"uses", testUses},
		{"canceled", testCanceled},
		{"many versions", testManyVersions},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, fresh(t)) })
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: err = %v, want %v", what, err, want)
	}
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func stage(t testing.TB, v secrets.Vault, name string, c Canary) secrets.Version {
	t.Helper()
	return must[secrets.Version](t)(v.Stage(t.Context(), name, c.Token, "fp:"+c.value[12:18], Binding))
}

func testEmpty(t *testing.T, open func(*testing.T) secrets.Vault) {
	v := open(t)
	if list := must[[]secrets.Named](t)(v.List(t.Context())); len(list) != 0 {
		t.Errorf("list: %v", list)
	}
	_, err := v.Versions(t.Context(), "bi/none")
	wantErr(t, "versions", err, secrets.ErrNotFound)
	_, _, err = v.Read(t.Context(), "bi/none", 0)
	wantErr(t, "read active", err, secrets.ErrNotFound)
	_, _, err = v.Read(t.Context(), "bi/none", 1)
	wantErr(t, "read 1", err, secrets.ErrNotFound)
	wantErr(t, "activate", v.Activate(t.Context(), "bi/none", 1, 0), secrets.ErrNotFound)
}

// One token from staging over rotation back to the first version, seen by a second process at each step.
func testLife(t *testing.T, open func(*testing.T) secrets.Vault) {
	const name = "bi/acme-reader"
	ctx := t.Context()
	start := time.Now().Add(-2 * time.Second)
	v, other := open(t), open(t)
	one, two := NewCanary(t), NewCanary(t)

	v1 := stage(t, v, name, one)
	if v1.Number != 1 || v1.State != secrets.Staged || v1.Binding != Binding || v1.Fingerprint == "" || v1.Created.Before(start) || v1.Created.Location() != time.UTC {
		t.Errorf("staged: %+v", v1)
	}
	_, _, err := other.Read(ctx, name, 0)
	wantErr(t, "read before the first activation", err, secrets.ErrNoActive)
	wantErr(t, "activate with a wrong expectation", v.Activate(ctx, name, 1, 7), secrets.ErrConflict)
	wantErr(t, "activate what is not there", v.Activate(ctx, name, 2, 0), secrets.ErrNotFound)
	wantErr(t, "activate nothing", v.Activate(ctx, name, 0, 0), secrets.ErrNotFound)
	wantErr(t, "activate a negative version", v.Activate(ctx, name, -1, 0), secrets.ErrNotFound)
	expect := func(step string, active int, states ...secrets.State) secrets.Named {
		t.Helper()
		n := must[secrets.Named](t)(other.Versions(ctx, name))
		var got []secrets.State
		for i, v := range n.Versions {
			got = append(got, v.State)
			if v.Number != len(n.Versions)-i || v.Activated.IsZero() != (v.State == secrets.Staged) || v.Binding != Binding {
				t.Errorf("%s: version %+v", step, v)
			}
		}
		if n.Name != name || n.Active != active || !slices.Equal(got, states) {
			t.Errorf("%s: %+v, want active %d and states %v", step, n, active, states)
		}
		return n
	}
	expect("staged", 0, secrets.Staged)

	if err := v.Activate(ctx, name, 1, 0); err != nil {
		t.Fatal(err)
	}
	n := expect("activated", 1, secrets.Active)
	if at := n.Versions[0].Activated; at.Before(start) || at.After(time.Now().Add(2*time.Second)) {
		t.Errorf("activated at %v", at)
	}
	token, described, err := other.Read(ctx, name, 0)
	if err != nil || !token.Equal(one.Token) || described != n.Versions[0] {
		t.Errorf("read active: %v, %+v, want %+v", err, described, n.Versions[0])
	}
	if v2 := stage(t, other, name, two); v2.Number != 2 {
		t.Errorf("second: %+v", v2)
	}
	expect("staged the second", 1, secrets.Staged, secrets.Active)
	if token, _, err := v.Read(ctx, name, 0); err != nil || !token.Equal(one.Token) {
		t.Errorf("staging changed the active one: %v", err)
	}
	if token, d, err := v.Read(ctx, name, 2); err != nil || !token.Equal(two.Token) || d.State != secrets.Staged {
		t.Errorf("read staged: %v %+v", err, d)
	}
	wantErr(t, "activate with an old expectation", v.Activate(ctx, name, 2, 0), secrets.ErrConflict)
	expect("refused", 1, secrets.Staged, secrets.Active)
	if err := v.Activate(ctx, name, 2, 1); err != nil {
		t.Fatal(err)
	}
	expect("rotated", 2, secrets.Active, secrets.Retiring)
	if token, _, err := other.Read(ctx, name, 1); err != nil || !token.Equal(one.Token) {
		t.Errorf("the old version changed: %v", err)
	}
	if err := v.Activate(ctx, name, 1, 2); err != nil {
		t.Fatal(err)
	}
	expect("rolled back", 1, secrets.Retiring, secrets.Active)
}

func testNames(t *testing.T, open func(*testing.T) secrets.Vault) {
	ctx := t.Context()
	v := open(t)
	c := NewCanary(t)
	for _, name := range []string{"", "/", "a/", "/a", "a//b", "..", "a/../b", ".a", "A", "a b", "a%2fb", "a\x00b", "ä", "a?b", "a#b", strings.Repeat("x", 129)} {
		_, err := v.Stage(ctx, name, c.Token, "fp:x", Binding)
		wantErr(t, fmt.Sprintf("stage %q", name), err, secrets.ErrBadName)
		_, err = v.Versions(ctx, name)
		wantErr(t, fmt.Sprintf("versions %q", name), err, secrets.ErrBadName)
		_, _, err = v.Read(ctx, name, 0)
		wantErr(t, fmt.Sprintf("read %q", name), err, secrets.ErrBadName)
		wantErr(t, fmt.Sprintf("activate %q", name), v.Activate(ctx, name, 1, 0), secrets.ErrBadName)
	}
	if list := must[[]secrets.Named](t)(v.List(ctx)); len(list) != 0 {
		t.Errorf("list: %v", list)
	}
}

// A name may be the beginning of another one, and may be one that a driver could use itself.
func testList(t *testing.T, open func(*testing.T) secrets.Vault) {
	v := open(t)
	want := []string{"a", "a/b", "a/b/c", "active", "bi/acme-reader", "bi/acme-reader/active", "bi/acme-reader.active", "fingerprint-key", "state/a", "tokens/a", "z_9.x"}
	slices.Sort(want)
	canaries := map[string]Canary{}
	for _, name := range slices.Backward(want) {
		canaries[name] = NewCanary(t)
		stage(t, v, name, canaries[name])
	}
	stage(t, v, "a/b", NewCanary(t))
	if err := v.Activate(t.Context(), "a/b", 1, 0); err != nil {
		t.Fatal(err)
	}
	list := must[[]secrets.Named](t)(open(t).List(t.Context()))
	var got []string
	for _, n := range list {
		got = append(got, n.Name)
		one := must[secrets.Named](t)(v.Versions(t.Context(), n.Name))
		if diff := cmp.Diff(one, n); diff != "" {
			t.Errorf("%s: list and versions differ: %s", n.Name, diff)
		}
		if token, _, err := v.Read(t.Context(), n.Name, 1); err != nil || !token.Equal(canaries[n.Name].Token) {
			t.Errorf("%s: another token: %v", n.Name, err)
		}
		if wantActive := n.Name == "a/b"; (n.Active == 1) != wantActive {
			t.Errorf("%s: active %d", n.Name, n.Active)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func testRefusals(t *testing.T, open func(*testing.T) secrets.Vault) {
	v := open(t)
	_, err := v.Stage(t.Context(), "bi/x", secrets.Token{}, "fp:x", Binding)
	wantErr(t, "stage nothing", err, secrets.ErrBadToken)
	c := NewCanary(t)
	stage(t, v, "bi/x", c)
	for _, version := range []int{-1, 2, 1 << 30} {
		_, _, err := v.Read(t.Context(), "bi/x", version)
		wantErr(t, fmt.Sprint("read ", version), err, secrets.ErrNotFound)
		c.AbsentFromError(t, "read", err)
	}
}

// What is returned is the caller's: changing it changes nothing in the vault.
func testIndependence(t *testing.T, open func(*testing.T) secrets.Vault) {
	v := open(t)
	c := NewCanary(t)
	stage(t, v, "bi/x", c)
	token, _, err := v.Read(t.Context(), "bi/x", 1)
	if err != nil {
		t.Fatal(err)
	}
	secrets.Reveal(token, func(value []byte) { clear(value) })
	if again, _, err := v.Read(t.Context(), "bi/x", 1); err != nil || !again.Equal(c.Token) {
		t.Errorf("the vault's token changed: %v", err)
	}
	key := must[[]byte](t)(v.FingerprintKey(t.Context()))
	clear(key)
	if again := must[[]byte](t)(v.FingerprintKey(t.Context())); bytes.Equal(again, key) {
		t.Error("the vault's key changed")
	}
}

func testFingerprintKey(t *testing.T, open func(*testing.T) secrets.Vault) {
	key := must[[]byte](t)(open(t).FingerprintKey(t.Context()))
	if len(key) != secrets.FingerprintKeySize || bytes.Equal(key, make([]byte, len(key))) {
		t.Errorf("key of %d bytes", len(key))
	}
	v := open(t)
	stage(t, v, "bi/x", NewCanary(t))
	if again := must[[]byte](t)(v.FingerprintKey(t.Context())); !bytes.Equal(key, again) {
		t.Error("another key the second time")
	}
}

// Sixteen operators activate at once, each a version of their own: one wins, the others are told.
func testActivationRace(t *testing.T, open func(*testing.T) secrets.Vault) {
	const racers = 16
	v := open(t)
	for range racers {
		stage(t, v, "bi/race", NewCanary(t))
	}
	for expected, round := 0, 0; round < 2; round++ {
		errs := make([]error, racers)
		vaults := make([]secrets.Vault, racers)
		for i := range vaults {
			vaults[i] = open(t)
		}
		var wg sync.WaitGroup
		gate := make(chan struct{})
		for i := range racers {
			if i+1 == expected { // activating what is active already changes nothing
				errs[i] = secrets.ErrConflict
				continue
			}
			wg.Go(func() {
				<-gate
				errs[i] = vaults[i].Activate(t.Context(), "bi/race", i+1, expected)
			})
		}
		close(gate)
		wg.Wait()
		winner := 0
		for i, err := range errs {
			switch {
			case err == nil && winner == 0:
				winner = i + 1
			case err == nil:
				t.Errorf("versions %d and %d were both activated", winner, i+1)
			default:
				wantErr(t, fmt.Sprint("loser ", i+1), err, secrets.ErrConflict)
			}
		}
		if n := must[secrets.Named](t)(v.Versions(t.Context(), "bi/race")); winner == 0 || n.Active != winner {
			t.Fatalf("active is %d, the winner was %d", n.Active, winner)
		}
		expected = winner
	}
}

// The ways between the states, and no others, seen by a second process.
func testMarks(t *testing.T, open func(*testing.T) secrets.Vault) {
	const name = "bi/x"
	ctx := t.Context()
	v, other := open(t), open(t)
	for range 3 {
		stage(t, v, name, NewCanary(t))
	}
	expect := func(step string, states ...secrets.State) secrets.Named {
		t.Helper()
		n := must[secrets.Named](t)(other.Versions(ctx, name))
		var got []secrets.State
		for _, v := range slices.Backward(n.Versions) {
			got = append(got, v.State)
		}
		if !slices.Equal(got, states) {
			t.Errorf("%s: %v, want %v", step, got, states)
		}
		return n
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	wantErr(t, "mark what is not there", v.Mark(ctx, name, 4, secrets.Staged, secrets.Verified), secrets.ErrNotFound)
	wantErr(t, "mark no token", v.Mark(ctx, "bi/none", 1, secrets.Staged, secrets.Verified), secrets.ErrNotFound)
	wantErr(t, "mark a bad name", v.Mark(ctx, "B", 1, secrets.Staged, secrets.Verified), secrets.ErrBadName)
	for _, way := range [][2]secrets.State{{secrets.Staged, secrets.Active}, {secrets.Staged, secrets.Retired}, {secrets.Verified, secrets.Staged},
		{secrets.Active, secrets.Retired}, {secrets.Rejected, secrets.Staged}, {secrets.Retired, secrets.Active}, {"", secrets.Verified}} {
		wantErr(t, fmt.Sprint(way), v.Mark(ctx, name, 1, way[0], way[1]), secrets.ErrState)
	}
	wantErr(t, "not in that state", v.Mark(ctx, name, 1, secrets.Verified, secrets.Rejected), secrets.ErrConflict)
	ok(v.Mark(ctx, name, 1, secrets.Staged, secrets.Verified))
	n := expect("verified", secrets.Verified, secrets.Staged, secrets.Staged)
	if n.Versions[2].Verified.IsZero() || n.Versions[2].Binding != Binding {
		t.Errorf("verified: %+v", n.Versions[2])
	}
	wantErr(t, "verified twice", other.Mark(ctx, name, 1, secrets.Staged, secrets.Verified), secrets.ErrConflict)
	ok(v.Activate(ctx, name, 1, 0))
	wantErr(t, "retire what is active", other.Mark(ctx, name, 1, secrets.Retiring, secrets.Retired), secrets.ErrConflict)
	ok(v.Mark(ctx, name, 2, secrets.Staged, secrets.Verified))
	ok(v.Activate(ctx, name, 2, 1))
	n = expect("rotated", secrets.Retiring, secrets.Active, secrets.Staged)
	if n.Versions[2].Retiring.IsZero() || !n.Versions[1].Retiring.IsZero() {
		t.Errorf("rotated: %+v", n)
	}
	ok(v.Activate(ctx, name, 1, 2)) // back again
	if n = expect("rolled back", secrets.Active, secrets.Retiring, secrets.Staged); !n.Versions[2].Retiring.IsZero() {
		t.Errorf("rolled back: %+v", n)
	}
	ok(v.Mark(ctx, name, 2, secrets.Retiring, secrets.Retired))
	wantErr(t, "activate what is retired", other.Activate(ctx, name, 2, 1), secrets.ErrState)
	ok(v.Mark(ctx, name, 3, secrets.Staged, secrets.Rejected))
	wantErr(t, "activate what is rejected", other.Activate(ctx, name, 3, 1), secrets.ErrState)
	wantErr(t, "reject twice", v.Mark(ctx, name, 3, secrets.Staged, secrets.Rejected), secrets.ErrConflict)
	expect("at the end", secrets.Active, secrets.Retired, secrets.Rejected)
	if token, d, err := other.Read(ctx, name, 0); err != nil || token.IsZero() || d.Number != 1 {
		t.Errorf("the active one: %+v, %v", d, err)
	}
}

// One operator verifies and activates while others reject: the version ends either way, never as both, and never active and rejected.
func testMarkRace(t *testing.T, open func(*testing.T) secrets.Vault) {
	v := open(t)
	stage(t, v, "bi/x", NewCanary(t))
	var wg sync.WaitGroup
	var done [6]error
	for i := range done {
		mine := open(t)
		wg.Go(func() {
			if i%2 == 0 {
				done[i] = mine.Mark(t.Context(), "bi/x", 1, secrets.Staged, secrets.Rejected)
			} else {
				done[i] = mine.Mark(t.Context(), "bi/x", 1, secrets.Staged, secrets.Verified)
			}
		})
	}
	wg.Wait()
	winner := -1
	for i, err := range done {
		switch {
		case err == nil && winner < 0:
			winner = i
		case err == nil:
			t.Errorf("%d and %d both won", winner, i)
		default:
			wantErr(t, fmt.Sprint("loser ", i), err, secrets.ErrConflict)
		}
	}
	state := must[secrets.Named](t)(v.Versions(t.Context(), "bi/x")).Versions[0].State
	want := secrets.Rejected
	if winner%2 == 1 {
		want = secrets.Verified
	}
	if winner < 0 || state != want {
		t.Errorf("%s, and %d won", state, winner)
	}
}

// Versions staged at once are all kept, each with its own number.
func testStagingRace(t *testing.T, open func(*testing.T) secrets.Vault) {
	const racers = 8
	canaries := make([]Canary, racers)
	numbers := make([]int, racers)
	var wg sync.WaitGroup
	for i := range racers {
		canaries[i] = NewCanary(t)
		v := open(t)
		wg.Go(func() {
			made, err := v.Stage(t.Context(), "bi/race", canaries[i].Token, fmt.Sprint("fp:", i), Binding)
			if err != nil {
				t.Errorf("stage %d: %v", i, err)
			}
			numbers[i] = made.Number
		})
	}
	wg.Wait()
	v := open(t)
	for i, number := range numbers {
		token, d, err := v.Read(t.Context(), "bi/race", number)
		if err != nil || !token.Equal(canaries[i].Token) || d.Fingerprint != fmt.Sprint("fp:", i) {
			t.Errorf("version %d is not what was staged as such: %v", number, err)
		}
	}
	n := must[secrets.Named](t)(v.Versions(t.Context(), "bi/race"))
	if len(n.Versions) != racers {
		t.Fatalf("%d versions, want %d", len(n.Versions), racers)
	}
	for _, d := range n.Versions {
		if numbers[slices.Index(numbers, d.Number)] != d.Number || d.Fingerprint != fmt.Sprint("fp:", slices.Index(numbers, d.Number)) {
			t.Errorf("description %+v", d)
		}
	}
}

// Processes that use an empty vault for the first time, at once, agree on one key.
func testFirstUseRace(t *testing.T, open func(*testing.T) secrets.Vault) {
	keys := make([][]byte, 6)
	var wg sync.WaitGroup
	for i := range keys {
		v := open(t)
		wg.Go(func() {
			var err error
			if keys[i], err = v.FingerprintKey(t.Context()); err != nil {
				t.Errorf("key: %v", err)
			}
		})
	}
	wg.Wait()
	for _, key := range keys {
		if !bytes.Equal(key, keys[0]) {
			t.Fatal("two keys")
		}
	}
}

// What is known of versions is kept beside them, seen by a second process, and changes neither values nor states.
func testAttributes(t *testing.T, open func(*testing.T) secrets.Vault) {
	const name = "bi/x"
	ctx := t.Context()
	v, other := open(t), open(t)
	for range 3 {
		stage(t, v, name, NewCanary(t))
	}
	expires := time.Date(2027, 6, 1, 12, 0, 0, 0, time.UTC)
	expect := func(step string, want ...secrets.Attributes) {
		t.Helper()
		n := must[secrets.Named](t)(other.Versions(ctx, name))
		for i, a := range want {
			if got, _ := n.Version(i + 1); got.Attributes != a {
				t.Errorf("%s: version %d is %+v, want %+v", step, i+1, got.Attributes, a)
			}
		}
	}
	describe := func(version int, a secrets.Attributes) {
		t.Helper()
		if err := v.Describe(ctx, name, version, a); err != nil {
			t.Fatal(err)
		}
	}
	wantErr(t, "what is not there", v.Describe(ctx, name, 4, secrets.Attributes{Scopes: "read"}), secrets.ErrNotFound)
	wantErr(t, "no token", v.Describe(ctx, "bi/none", 1, secrets.Attributes{Scopes: "read"}), secrets.ErrNotFound)
	wantErr(t, "a bad name", v.Describe(ctx, "B", 1, secrets.Attributes{Scopes: "read"}), secrets.ErrBadName)
	expect("at first", secrets.Attributes{}, secrets.Attributes{}, secrets.Attributes{})
	describe(1, secrets.Attributes{Expires: expires, Owner: "Team BI <bi@acme.example>"})
	describe(2, secrets.Attributes{Scopes: "read update"})
	owner := "Team BI <bi@acme.example>"
	expect("described", secrets.Attributes{Expires: expires, Owner: owner}, secrets.Attributes{Scopes: "read update", Owner: owner}, secrets.Attributes{Owner: owner})
	describe(1, secrets.Attributes{Scopes: "read"})
	describe(1, secrets.Attributes{})
	if err := v.Activate(ctx, name, 1, 0); err != nil {
		t.Fatal(err)
	}
	describe(1, secrets.Attributes{Expires: expires.AddDate(1, 0, 0)})
	if err := v.Activate(ctx, name, 2, 1); err != nil {
		t.Fatal(err)
	}
	expect("added", secrets.Attributes{Expires: expires.AddDate(1, 0, 0), Scopes: "read", Owner: owner}, secrets.Attributes{Scopes: "read update", Owner: owner})
	n := must[secrets.Named](t)(v.Versions(ctx, name))
	if n.Active != 2 || n.Versions[0].State != secrets.Staged || n.Versions[2].State != secrets.Retiring {
		t.Errorf("states: %+v", n)
	}
	if _, d, err := other.Read(ctx, name, 1); err != nil || d.Attributes != (secrets.Attributes{}) {
		t.Errorf("read: %+v %v", d, err)
	}
	var wg sync.WaitGroup // each says something else: all of it stays
	for i, a := range []secrets.Attributes{{Expires: expires}, {Scopes: "sec"}, {Owner: "Ada"}} {
		mine := open(t)
		wg.Go(func() {
			if err := mine.Describe(ctx, name, 3, a); err != nil {
				t.Errorf("%d at once: %v", i, err)
			}
		})
	}
	wg.Wait()
	expect("at once", secrets.Attributes{Expires: expires.AddDate(1, 0, 0), Scopes: "read", Owner: "Ada"}, secrets.Attributes{Scopes: "read update", Owner: "Ada"},
		secrets.Attributes{Expires: expires, Scopes: "sec", Owner: "Ada"})
	for range 40 { // years of rotation: the room for attributes is bounded, and the newest have it
		made := stage(t, v, name, NewCanary(t))
		describe(made.Number, secrets.Attributes{Expires: expires, Scopes: "read"})
	}
	n = must[secrets.Named](t)(other.Versions(ctx, name))
	for _, version := range n.Versions {
		if known := version.Scopes != ""; !known && (version.Number > len(n.Versions)-20 || version.Number == n.Active) {
			t.Errorf("version %d of %d has lost its attributes", version.Number, len(n.Versions))
		}
	}
}

// Places that use a token at once are all seen, each with its newest time.
func testUses(t *testing.T, open func(*testing.T) secrets.Vault) {
	ctx := t.Context()
	v := open(t)
	wantErr(t, "no token", v.Used(ctx, "bi/none", secrets.PlaceUse{Place: "a", Fingerprint: "fp:1", Last: time.Now()}), secrets.ErrNotFound)
	_, err := v.Uses(ctx, "bi/none")
	wantErr(t, "of no token", err, secrets.ErrNotFound)
	stage(t, v, "bi/x", NewCanary(t))
	if uses, err := v.Uses(ctx, "bi/x"); err != nil || len(uses) != 0 {
		t.Errorf("at first: %v %v", uses, err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	const places = 6
	var wg sync.WaitGroup
	for i := range places {
		mine := open(t)
		wg.Go(func() {
			for _, at := range []time.Time{now.Add(-secrets.UseKept - time.Hour), now.Add(time.Hour), now, now.Add(-time.Minute)} {
				if err := mine.Used(ctx, "bi/x", secrets.PlaceUse{Place: fmt.Sprint("host", i), Fingerprint: fmt.Sprint("fp:", i/2), Last: at}); err != nil {
					t.Errorf("place %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	uses := must[[]secrets.PlaceUse](t)(open(t).Uses(ctx, "bi/x"))
	seen := map[string]bool{}
	for _, u := range uses {
		seen[u.Place] = true
		if !u.Last.Equal(now) || u.Fingerprint != fmt.Sprint("fp:", int(u.Place[len(u.Place)-1]-'0')/2) {
			t.Errorf("%+v", u)
		}
	}
	if len(uses) != places || len(seen) != places {
		t.Errorf("%d uses of %d places, want %d", len(uses), len(seen), places)
	}
	if n := must[secrets.Named](t)(v.Versions(ctx, "bi/x")); len(n.Versions) != 1 {
		t.Errorf("a use made versions: %+v", n)
	}
}

func testCanceled(t *testing.T, open func(*testing.T) secrets.Vault) {
	v := open(t)
	c := NewCanary(t)
	stage(t, v, "bi/x", c)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := v.Stage(ctx, "bi/x", c.Token, "fp:x", Binding)
	wantErr(t, "stage", err, context.Canceled)
	c.AbsentFromError(t, "stage", err)
	wantErr(t, "activate", v.Activate(ctx, "bi/x", 1, 0), context.Canceled)
	_, _, err = v.Read(ctx, "bi/x", 1)
	wantErr(t, "read", err, context.Canceled)
	_, err = v.Versions(ctx, "bi/x")
	wantErr(t, "versions", err, context.Canceled)
	_, err = v.List(ctx)
	wantErr(t, "list", err, context.Canceled)
	if n := must[secrets.Named](t)(v.Versions(t.Context(), "bi/x")); len(n.Versions) != 1 || n.Active != 0 {
		t.Errorf("a canceled call did something: %+v", n)
	}
}

// Years of rotation: more versions than a vault keeps by default (Vault: 10). The active one is never pushed out.
func testManyVersions(t *testing.T, open func(*testing.T) secrets.Vault) {
	const versions = 25
	v := open(t)
	first := NewCanary(t)
	stage(t, v, "bi/x", first)
	if err := v.Activate(t.Context(), "bi/x", 1, 0); err != nil {
		t.Fatal(err)
	}
	for range versions - 1 {
		stage(t, v, "bi/x", NewCanary(t))
	}
	if token, d, err := v.Read(t.Context(), "bi/x", 0); err != nil || d.Number != 1 || !token.Equal(first.Token) {
		t.Errorf("active: %+v %v", d, err)
	}
	if n := must[secrets.Named](t)(v.Versions(t.Context(), "bi/x")); len(n.Versions) != versions {
		t.Errorf("%d versions", len(n.Versions))
	}
}
