package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tablexport/tablexport/configs"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/alert"
	"github.com/tablexport/tablexport/odata/simulator"
	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/audit"
	"github.com/tablexport/tablexport/secrets/lifecycle"
	"github.com/tablexport/tablexport/secrets/secretstest/vaultserver"
)

// needsOf are the needs that rotate --due printed, as "kind severity".
func needsOf(t testing.TB, i invocation) string {
	t.Helper()
	var all []string
	for _, line := range objects(t, i.out) {
		if kind, ok := line["need"].(string); ok {
			all = append(all, kind+" "+line["severity"].(string))
		}
	}
	return strings.Join(all, ", ")
}

// The scheduled rotation, call by call, in the file vault and in a real Vault: it does what needs no person, and says what needs one.
func TestRotateDue(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{"file", "vault"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, simulator.Options{})
			if driver == "vault" {
				w.useVault(vaultserver.Start(t))
			}
			if err := w.server.Issue(simulator.Token{Value: nextToken}); err != nil {
				t.Fatal(err)
			}
			contains(t, w.must(exitUsage, "tokens", "rotate", "--due").err, "rotations: {sim:")
			w.must(exitUsage, "tokens", "rotate")
			w.edit("stores:", "rotations: {sim: {max_age: 30d, warn_before: 7d, grace: 1ns}}\nstores:")
			w.must(exitUsage, "tokens", "rotate", "bi/reader", "--due")
			got := w.must(exitCredential, "tokens", "rotate", "--due", "--json")
			if needsOf(t, got) != "issue critical" {
				t.Errorf("without a token: %s", got)
			}
			w.stage()
			contains(t, w.must(exitOK, "tokens", "rotate", "--due").out, "nothing waits for a person")
			// Soon it expires: somebody must have a new one issued, and the link says how.
			w.edit("token: bi/reader,", "token: bi/reader, application: {uri: my.app/bi},")
			w.must(exitOK, "tokens", "describe", "bi/reader", "--expires", time.Now().AddDate(0, 0, 5).UTC().Format(time.RFC3339), "--owner", "BI team")
			got = w.must(exitCredential, "tokens", "rotate", "--due", "--json")
			if needsOf(t, got) != "issue warning" {
				t.Errorf("expiring: %s", got)
			}
			contains(t, got.out, "expires at", "/manage/apps/install?", "my.app", "BI team", "--stage-from stdin")
			// It is there: proven and activated without anybody.
			w.mustWith(exitOK, nextToken, "tokens", "stage", "bi/reader")
			got = w.must(exitCredential, "tokens", "rotate", "--due")
			contains(t, got.out, "version 2 is verified", "version 2 is active", "nobody has revoked it", "tokens retire bi/reader")
			if needs := needsOf(t, w.must(exitCredential, "tokens", "rotate", "--due", "--json")); needs != "revoke warning" {
				t.Errorf("not revoked: %s", needs)
			}
			w.server.Revoke(testToken)
			contains(t, w.must(exitOK, "tokens", "rotate", "--due").out, "version 1 is retired", "nothing waits for a person")
			// One that reaches less is not taken; the old one is retired all the same.
			narrow := simulator.Token{Value: canaryToken, Deny: []string{"Inv_Current_Balances"}}
			if err := w.server.Issue(narrow); err != nil {
				t.Fatal(err)
			}
			w.mustWith(exitOK, canaryToken, "tokens", "stage", "bi/reader")
			got = w.must(exitCredential, "tokens", "rotate", "--due", "--json")
			if needsOf(t, got) != "unproven critical" {
				t.Errorf("over-privileged or less: %s", got)
			}
			contains(t, got.out, "tokens reject bi/reader 3", "job balances: it may not read the table (403)")
			w.must(exitOK, "tokens", "reject", "bi/reader", "3")
			w.must(exitOK, "tokens", "rotate", "--due")
			w.must(exitOK, "run", "shop")
			if w.states() != "retired active rejected" {
				t.Error(w.states())
			}
			w.must(exitOK, "audit", "verify")
			w.holdsNo(testToken, nextToken, canaryToken)
		})
	}
}

// While the grace lasts, or another machine uses the old token, it is left, and the instance is not asked.
func TestRotateDueLeavesWhatIsInUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}).stage()
	if err := w.server.Issue(simulator.Token{Value: nextToken}); err != nil {
		t.Fatal(err)
	}
	w.must(exitOK, "--state", filepath.Join(w.dir, "elsewhere"), "run", "shop")
	w.edit("stores:", "rotations: {sim: {}}\nstores:")
	w.mustWith(exitOK, nextToken, "tokens", "stage", "bi/reader")
	contains(t, w.must(exitOK, "tokens", "rotate", "--due").out, "version 2 is active", "version 1 is left retiring", "the grace period is 1h")
	w.server.Revoke(testToken)
	contains(t, w.must(exitUnavailable, "tokens", "retire", "bi/reader").err, "was used at", filepath.Join(w.dir, "elsewhere"), "grace period is 1h0m0s")
	w.edit("sim: {}}", "sim: {grace: 1ns}}")
	contains(t, w.must(exitOK, "tokens", "rotate", "--due").out, "version 1 is retired")
	w.must(exitOK, "run", "shop")
}

// Several processes tend the same token at once, and operators rotate it by hand meanwhile: nobody fails for another reason than that somebody else was
// first, and the token ends rotated, whole, and audited.
func TestRotateDueAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{Behavior: simulator.Behavior{Count: simulator.PathCount}}).stage()
	if err := w.server.Issue(simulator.Token{Value: nextToken}); err != nil {
		t.Fatal(err)
	}
	w.edit("stores:", "rotations: {sim: {grace: 1ns}}\nstores:")
	w.mustWith(exitOK, nextToken, "tokens", "stage", "bi/reader")
	w.server.Revoke(testToken)
	var wg sync.WaitGroup
	for i := range 4 {
		state := filepath.Join(w.dir, fmt.Sprint("state", i%2)) // two on each state directory
		wg.Go(func() {
			args := []string{"--state", state, "tokens", "rotate", "--due"}
			if i == 3 {
				args = []string{"--state", state, "tokens", "rotate", "bi/reader"}
			}
			if got := w.do(args...); got.code != exitOK && got.code != exitConflict && got.code != exitUnavailable {
				t.Errorf("%d: %s", i, got)
			}
		})
	}
	wg.Wait()
	w.must(exitOK, "tokens", "rotate", "--due")
	if w.states() != "retired active" {
		t.Error(w.states())
	}
	for i := range 2 {
		if r, err := audit.Verify(filepath.Join(w.dir, fmt.Sprint("state", i), "audit")); err != nil || len(r.Problems) > 0 {
			t.Errorf("audit: %v %v", r.Problems, err)
		}
	}
	w.must(exitOK, "run", "shop")
}

// toldChannel is a channel that keeps what was sent.
type toldChannel struct {
	mu  sync.Mutex
	all []alert.Alert
}

func (c *toldChannel) Send(_ context.Context, a alert.Alert) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, a)
	return nil
}

func (c *toldChannel) keys() (all []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.all {
		all = append(all, fmt.Sprint(a.Key, " ", a.Severity, " ", a.Over))
	}
	return all
}

// Within serve what waits for people is an alert, told once, and over when it is done; what failed is not tried at every look.
func TestServeTends(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}).stage()
	for _, token := range []simulator.Token{{Value: nextToken, Deny: []string{"Inv_Current_Balances"}}, {Value: canaryToken}} {
		if err := w.server.Issue(token); err != nil {
			t.Fatal(err)
		}
	}
	w.edit("stores:", "rotations: {sim: {grace: 1ns}}\nstores:")
	w.mustWith(exitOK, nextToken, "tokens", "stage", "bi/reader")
	var out, said buffer
	a, err := (&globals{stdio: stdio{strings.NewReader(""), &out, &said}, config: w.config}).open()
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	l, err := a.ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	channel := &toldChannel{}
	desk := &alert.Desk{Channels: map[string]alert.Channel{"test": channel}, Store: alertStore(l), Log: a.logger()}
	stop, err := desk.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	d := &daemon{app: a, log: a.logger(), uses: &sync.WaitGroup{}}
	d.watcher = &watcher{desk: desk, ledger: l, app: d.current}
	p := newPace()
	trials := func() (n int) {
		for _, e := range objects(t, w.must(exitOK, "audit", "tail", "-n", "1000", "--json").out) {
			if e["action"] == "trial" && e["outcome"] == "ok" {
				n++
			}
		}
		return n
	}
	d.tend(t.Context(), p)
	first := trials()
	d.tend(t.Context(), p)
	d.tend(t.Context(), p)
	if again := trials(); first == 0 || again != first {
		t.Errorf("%d trials at the first look, %d after three", first, again)
	}
	until(t, "the alert", func() bool { return len(channel.keys()) > 0 })
	// Without the rotation there is nothing to tell any more.
	a.cfg.Rotations = map[string]configs.Rotation{}
	d.tend(t.Context(), p)
	until(t, "the end", func() bool { return len(channel.keys()) == 2 })
	a.cfg.Rotations["sim"] = configs.Rotation{MaxAge: configs.Duration(time.Hour * 2400), WarnBefore: configs.Duration(time.Hour), Grace: 1}
	d.tend(t.Context(), p)
	until(t, "the alert once more", func() bool { return len(channel.keys()) == 3 })
	w.must(exitOK, "tokens", "reject", "bi/reader", "2")
	w.mustWith(exitOK, canaryToken, "tokens", "stage", "bi/reader")
	d.tend(t.Context(), p)
	if w.states() != "retiring rejected active" {
		t.Fatal(w.states())
	}
	w.server.Revoke(testToken)
	d.tend(t.Context(), newPace()) // as six hours later
	want := []string{"rotation/unproven/bi/reader critical false", "rotation/unproven/bi/reader info true", "rotation/unproven/bi/reader critical false", "rotation/unproven/bi/reader info true", "rotation/revoke/bi/reader warning false", "rotation/revoke/bi/reader info true"}
	until(t, "the ends", func() bool { return len(channel.keys()) == len(want) })
	got := channel.keys()
	for _, k := range want {
		if !slices.Contains(got, k) {
			t.Errorf("told %v, want %v", got, want)
		}
	}
	if w.states() != "retired rejected active" {
		t.Error(w.states())
	}
	w.said.WriteString(out.String() + said.String())
	w.holdsNo(testToken, nextToken, canaryToken)
}

// An account whose Vault policy does not let it rotate says what it lacks, once.
func TestRotateDueNeedsItsPolicy(t *testing.T) {
	t.Parallel()
	server := vaultserver.Start(t)
	w := newWorld(t, simulator.Options{})
	w.useVault(server)
	if err := w.server.Issue(simulator.Token{Value: nextToken}); err != nil {
		t.Fatal(err)
	}
	w.stage()
	w.edit("stores:", "rotations: {sim: {grace: 1ns}}\nstores:")
	w.mustWith(exitOK, nextToken, "tokens", "stage", "bi/reader")
	policy, err := os.ReadFile(filepath.Join(moduleRoot(t), "docs", "vault-policy.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	_, mount, _ := strings.Cut(string(text), "mount: ")
	mount, _, _ = strings.Cut(mount, ",")
	run, _, _ := strings.Cut(string(policy), "# ---- tablexport-rotate")
	roleID, secretID := server.NewAppRole(t, strings.ReplaceAll(run, `"secret/`, `"`+mount+`/`), nil)
	rotate := map[string]string{}
	for name, id := range map[string]string{"role": roleID, "secret": secretID} {
		before, err := os.ReadFile(filepath.Join(w.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		rotate[name] = string(before)
		w.write(name, id)
	}
	got := w.must(exitCredential, "tokens", "rotate", "--due", "--json")
	if needsOf(t, got) != "failed critical" {
		t.Errorf("%s", got)
	}
	contains(t, got.out, "the policy of this login needs", "/state/bi/reader")
	w.must(exitOK, "run", "shop") // it lends, and tells others
	contains(t, w.must(exitOK, "tokens", "show", "bi/reader", "1").out, "used ")
	for name, id := range rotate {
		w.write(name, id)
	}
	contains(t, w.must(exitCredential, "tokens", "rotate", "--due").out, "version 2 is active")
	for _, e := range objects(t, w.must(exitOK, "audit", "tail", "-n", "1000", "--json").out) {
		if e["action"] == "use" {
			t.Errorf("a use could not be told of: %v", e)
		}
	}
	w.holdsNo(testToken, nextToken)
}

// rotate --stage-from event takes what the event has staged, and waits for it.
func TestRotateFromEvent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}).stage()
	if err := w.server.Issue(simulator.Token{Value: nextToken}); err != nil {
		t.Fatal(err)
	}
	contains(t, w.must(exitUsage, "tokens", "rotate", "bi/reader", "--stage-from", "event").err, "receives no events")
	w.edit("token: bi/reader,", "token: bi/reader, application: {uri: my.app/bi, redirect_uri: \"https://bi.acme.example/events\"},")
	contains(t, w.must(exitCredential, "tokens", "rotate", "bi/reader", "--stage-from", "event", "--stage-wait", "1ms").err, "no event has brought", "/manage/apps/install?")
	got := make(chan invocation, 1)
	go func() {
		got <- w.do("tokens", "rotate", "bi/reader", "--stage-from", "event", "--expires", "2027-01-31")
	}()
	a, err := (&globals{stdio: stdio{strings.NewReader(""), &buffer{}, &buffer{}}, config: w.config}).open()
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	market, event := signedMarket(t, w.address, nextToken)
	d := &daemon{app: a, log: a.logger()}
	handler := d.receiver(market)
	if code := post(handler, event); code != http.StatusOK {
		t.Fatalf("answer %d", code)
	}
	i := <-got
	contains(t, i.out, "version 2 is active")
	if i.code != exitOK {
		t.Error(i)
	}
	contains(t, w.must(exitOK, "tokens", "list").out, "2027-01-31")
	w.holdsNo(testToken, nextToken)
}

// A token that an event brings is taken at once where a rotation looks after it. What an event leaves to people is told.
func TestEventIsTakenAndTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}).stage()
	if err := w.server.Issue(simulator.Token{Value: nextToken}); err != nil {
		t.Fatal(err)
	}
	w.edit("token: bi/reader,", "token: bi/reader, application: {uri: my.app/bi, redirect_uri: \"https://bi.acme.example/events\"},")
	w.edit("stores:", "rotations: {sim: {}}\nstores:")
	var said buffer
	a, err := (&globals{stdio: stdio{strings.NewReader(""), &said, &said}, config: w.config}).open()
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	l, err := a.ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	channel := &toldChannel{}
	desk := &alert.Desk{Channels: map[string]alert.Channel{"test": channel}, Store: alertStore(l), Log: a.logger()}
	stop, err := desk.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	d := &daemon{app: a, log: a.logger(), uses: &sync.WaitGroup{}, staged: make(chan struct{}, 1)}
	d.watcher = &watcher{desk: desk, ledger: l, app: d.current}
	agenda, err := a.agenda(t.Context(), d.uses)
	if err != nil {
		t.Fatal(err)
	}
	d.scheduler = jobs.NewScheduler(l, a.logger(), agenda)
	ctx, cancel := context.WithCancel(t.Context())
	var over sync.WaitGroup
	over.Go(func() {
		if err := d.scheduler.Serve(ctx); err != nil {
			t.Error(err)
		}
	})
	over.Go(func() { d.tending(ctx, time.Hour) })
	market, event := signedMarket(t, w.address, nextToken)
	if code := post(d.receiver(market), event); code != http.StatusOK {
		t.Fatalf("answer %d", code)
	}
	until(t, "the activation", func() bool { return w.states() == "retiring active" })
	cancel()
	over.Wait()
	if got := channel.keys(); len(got) != 0 {
		t.Errorf("told %v", got)
	}
	d.told(lifecycle.Event{ID: "1", Kind: lifecycle.Uninstalled, Instance: "sim", User: "admin"}, false)
	d.told(lifecycle.Event{ID: "2", Kind: lifecycle.Installed, Instance: "sim", User: "admin"}, false)
	a.cfg.Rotations = nil
	d.told(lifecycle.Event{ID: "3", Kind: lifecycle.Installed, Instance: "sim", User: "admin"}, true)
	until(t, "what is left to people", func() bool { return len(channel.keys()) == 3 })
	got := channel.keys()
	for _, k := range []string{"event/1 critical false", "event/2 warning false", "event/3 info false"} {
		if !slices.Contains(got, k) {
			t.Errorf("told %v, not %s", got, k)
		}
	}
	w.said.WriteString(said.String())
	w.holdsNo(testToken, nextToken)
}

func TestCandidate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		states []secrets.State // newest first
		want   int             // index; -1 = none
	}{
		{nil, -1}, {[]secrets.State{secrets.Active}, -1}, {[]secrets.State{secrets.Staged}, 0}, {[]secrets.State{secrets.Rejected, secrets.Verified, secrets.Active}, 1},
		{[]secrets.State{secrets.Active, secrets.Staged}, -1}, {[]secrets.State{secrets.Deleted, secrets.Active}, -1}, {[]secrets.State{secrets.Retired, secrets.Staged}, 1},
	} {
		var named secrets.Named
		for i, s := range c.states {
			named.Versions = append(named.Versions, secrets.Version{Number: len(c.states) - i, State: s})
		}
		v, ok := candidate(named)
		if ok != (c.want >= 0) || ok && v.Number != len(c.states)-c.want {
			t.Errorf("%v: %d %v", c.states, v.Number, ok)
		}
	}
}
