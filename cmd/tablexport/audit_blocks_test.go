package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/lease"
	"github.com/tablexport/tablexport/export/store/filestore"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/jobs/status"
	"github.com/tablexport/tablexport/odata/simulator"
	"github.com/tablexport/tablexport/secrets"
)

// auditedActs are all actions that the audit log knows, and where it is shown that a failing write blocks the act: here by a command, or by a test of the package
// that does it. What only records that something is over, or was refused, has nothing to block: a dash and the reason.
var auditedActs = map[string]string{
	"lease": "here", "refuse": "— nothing was done; secrets.TestFailingAuditBlocks shows that the refusal stays one", "renew": "secrets.TestFailingAuditBlocks",
	"release": "— a lease that cannot be recorded as closed is closed: secrets.TestFailingAuditBlocks", "trial": "secrets.TestFailingAuditBlocks", "stage": "here", "activate": "here", "verify": "here",
	"reject": "here", "retire": "here", "exchange": "secrets.TestExchangeIsAudited", "describe": "here", "use": "— seen afterwards, in the vault: secrets.TestUsesElsewhere",
	"publish": "jobs.TestAuditFails", "publish-set": "jobs.TestSetUnaudited", "rollback-set": "here", "scope-violation": "— the run has failed already: jobs.TestForeignRow",
	"config": "here", "policy": "here", "login": "hashivault.TestLoginsAreTold", "event": "main.TestEventIsAudited", "pause": "here", "resume": "here", "run": "main.TestServeForOthers", "cancel": "main.TestServeForOthers",
	"vacuum": "here", "rollback": "here", "compact": "here", "unlock": "here",
}

// actions finds the names of actions in the source.
func actions(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	literal := regexp.MustCompile(`Action: +"([a-z-]+)"|cared\(ctx, "([a-z-]+)"|entry\("([a-z-]+)"|\bact[A-Z][A-Za-z]+ += "([a-z-]+)"|"((?:publish|rollback)-set)"`)
	for _, dir := range []string{"cmd", "jobs", "secrets"} {
		err := filepath.WalkDir(filepath.Join(moduleRoot(t), dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "secretstest") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, m := range literal.FindAllStringSubmatch(string(text), -1) {
				found[strings.Join(m[1:], "")] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for do := range status.Orders {
		found[do] = true
	}
	return found
}

// Each action of the audit log is in the table, and each test that the table names is there.
func TestEveryActIsBlockedByTheAuditLog(t *testing.T) {
	t.Parallel()
	found := actions(t)
	for action := range found {
		if auditedActs[action] == "" {
			t.Errorf("the action %q is new: show that a failing audit write blocks it", action)
		}
	}
	tests := map[string]bool{}
	name := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err := filepath.WalkDir(moduleRoot(t), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range name.FindAllStringSubmatch(string(text), -1) {
			tests[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for action, where := range auditedActs {
		if !found[action] {
			t.Errorf("there is no action %q", action)
		}
		if test := regexp.MustCompile(`Test\w+`).FindString(where); test != "" && !tests[test] {
			t.Errorf("%s: there is no %s", action, test)
		}
	}
}

// broken takes the audit log away, as a lost mount does; mend brings it back.
func (w *world) broken() (mend func()) {
	w.t.Helper()
	dir := filepath.Join(w.dir, ".tablexport", "audit")
	if err := errors.Join(os.Rename(dir, dir+".away"), os.WriteFile(dir, nil, 0o600)); err != nil {
		w.t.Fatal(err)
	}
	return func() {
		w.t.Helper()
		if err := errors.Join(os.Remove(dir), os.Rename(dir+".away", dir)); err != nil {
			w.t.Fatal(err)
		}
	}
}

// standing is all that an act could change: the vault, the store, and what the ledger knows of schedules and finished runs.
func (w *world) standing() string {
	w.t.Helper()
	h := sha256.New()
	vault, err := os.ReadFile(filepath.Join(w.dir, "secrets.age"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Fatal(err)
	}
	h.Write(vault)
	err = filepath.WalkDir(filepath.Join(w.dir, "lake"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		fmt.Fprintf(h, "%s %x\n", path, sha256.Sum256(text))
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := ledger.Open(w.t.Context(), filepath.Join(w.dir, ".tablexport", "ledger.db"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer l.Close()
	clocks, err := l.Clocks(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	runs, err := l.List(w.t.Context(), ledger.Query{State: ledger.Succeeded})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, job := range sorted(clocks) {
		fmt.Fprintln(h, job, clocks[job].Paused)
	}
	fmt.Fprintln(h, len(runs))
	return fmt.Sprintf("%x", h.Sum(nil))
}

// Without an audit log nothing that is audited is done, whatever command asks for it: vault, store and schedules stay as they are, byte for byte.
func TestNothingIsDoneUnaudited(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{Tokens: []simulator.Token{{Value: testToken}, {Value: nextToken}}}, historyJob)
	w.append("sets: {both: [orders, shop]}\n")
	w.stage()
	w.must(exitOK, "run", "--all")
	w.must(exitOK, "run", "--all")
	w.must(exitOK, "run", "--set", "both")
	w.must(exitOK, "run", "--set", "both")
	w.mustWith(exitOK, nextToken, "tokens", "stage", "bi/reader")
	w.must(exitOK, "schedule", "pause", "lines")
	// A dataset that somebody holds stays with them.
	b, err := filestore.Open(filepath.Join(w.dir, "lake"))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	held, err := export.Open(b, "shop").Lease(t.Context(), lease.Options{Owner: "elsewhere", Process: "h:1:x", TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	before := w.standing()
	mend := w.broken()
	for _, way := range []way{
		{args: []string{"run", "shop"}}, {args: []string{"run", "--set", "both"}}, {args: []string{"backfill", "history", "--gaps", "--yes"}}, {args: []string{"sets", "rollback", "both", "0"}},
		{args: []string{"datasets", "rollback", "shop", "0"}}, {args: []string{"datasets", "vacuum", "shop", "--retain", "1h"}}, {args: []string{"datasets", "compact", "history"}}, {args: []string{"datasets", "unlock", "shop", "--yes"}},
		{[]string{"tokens", "stage", "bi/reader"}, canaryOther}, {args: []string{"tokens", "verify", "bi/reader", "2"}}, {args: []string{"tokens", "activate", "bi/reader", "2"}}, {args: []string{"tokens", "reject", "bi/reader", "2"}},
		{args: []string{"tokens", "retire", "bi/reader", "1"}}, {args: []string{"tokens", "rotate", "bi/reader"}}, {args: []string{"tokens", "rotate", "--due"}}, {args: []string{"tokens", "describe", "bi/reader", "--owner", "me"}},
		{args: []string{"schedule", "pause", "shop"}}, {args: []string{"schedule", "resume", "lines"}}, {args: []string{"check", "--online"}}, {args: []string{"tables", "--online"}},
	} {
		asked := w.server.Stats().Requests
		if got := w.doWith(t.Context(), way.in, way.args...); got.code == exitOK || !strings.Contains(got.err, "audit") {
			t.Errorf("%v: %s", way.args, got)
		}
		if got := w.server.Stats().Requests; got != asked {
			t.Errorf("%v: %d requests went to the instance", way.args, got-asked)
		}
		if after := w.standing(); after != before {
			t.Fatalf("%v has changed something without an entry", way.args)
		}
	}
	// A changed configuration and policy, which are entries of their own, are not put to use either.
	text, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	w.append("policy: {max_age_days: 30}\n")
	if got := w.do("run", "shop"); got.code == exitOK {
		t.Errorf("%s", got)
	}
	w.write("tablexport.yaml", string(text))
	mend()
	if err := errors.Join(held.Check(t.Context()), held.Release(t.Context())); err != nil {
		t.Error(err)
	}
	w.must(exitOK, "audit", "verify")
	w.must(exitOK, "run", "shop")
}

// An event that cannot be audited stages nothing, and the Marketplace is told to send it again.
func TestEventIsAudited(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}).stage()
	w.edit("token: bi/reader,", "token: bi/reader, application: {uri: my.app/bi, redirect_uri: \"https://bi.acme.example/events\"},")
	var out, said buffer
	a, err := (&globals{stdio: stdio{strings.NewReader(""), &out, &said}, config: w.config}).open()
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	market, body := signedMarket(t, w.address, nextToken)
	d := &daemon{app: a, log: a.logger()}
	handler := d.receiver(market)
	if log, err := a.audit(); err != nil || log.Close() != nil {
		t.Fatal(err)
	}
	if code := post(handler, body); code < 500 {
		t.Errorf("answer %d", code)
	}
	if got := w.states(); got != "active" {
		t.Errorf("states %q", got)
	}
	if errors.Is(err, secrets.ErrAudit) {
		t.Error(err)
	}
}
