package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tablexport/tablexport/odata/simulator"
	"github.com/tablexport/tablexport/secrets/secretstest/vaultserver"
)

// TestRunbook walks through docs/security-runbook.md, against the simulator, with the file vault and with a real Vault under the documented policy. Every command
// line of the page is run; a line that the walk does not know fails it.
func TestRunbook(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(moduleRoot(t), "docs", "security-runbook.md"))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		lines = append(lines, strings.Split(strings.TrimSpace(block[1]), "\n")...)
	}
	for _, driver := range []string{"file", "vault"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, simulator.Options{})
			if driver == "vault" {
				w.useVault(vaultserver.Start(t))
			}
			w.edit("token: bi/reader", "token: bi/acme-reader")
			w.mustWith(exitOK, testToken, "tokens", "stage", "bi/acme-reader", "--activate")
			walk := &runbook{world: w, lines: lines}
			walk.all()
			w.holdsNo(testToken, nextToken, canaryToken)
		})
	}
}

// useVault makes the world keep its tokens in a mount of a real Vault, with the policy for those who rotate.
func (w *world) useVault(server vaultserver.Server) {
	w.t.Helper()
	mount := server.NewMount(w.t)
	policy, err := os.ReadFile(filepath.Join(moduleRoot(w.t), "docs", "vault-policy.hcl"))
	if err != nil {
		w.t.Fatal(err)
	}
	_, rotate, _ := strings.Cut(string(policy), "# ---- tablexport-rotate")
	roleID, secretID := server.NewAppRole(w.t, "# "+strings.ReplaceAll(rotate, `"secret/`, `"`+mount+`/`), nil)
	w.write("role", roleID)
	w.write("secret", secretID)
	w.edit("secrets: {file: {path: ./secrets.age}}", fmt.Sprintf("secrets: {vault: {address: %q, mount: %s, auth: {approle: {role_id_file: ./role, secret_id_file: ./secret}}}}", server.Address, mount))
}

type runbook struct {
	*world
	lines []string
}

// next runs the page's next line, which must begin as said. Paths of the page are turned into the world's.
func (r *runbook) next(code int, in, begins string) invocation {
	r.t.Helper()
	if len(r.lines) == 0 || !strings.HasPrefix(r.lines[0], begins) {
		r.t.Fatalf("the page goes on with %q, the walk with %q", r.lines, begins)
	}
	line := strings.NewReplacer("2027-06-30", time.Now().AddDate(0, 6, 0).Format(time.DateOnly), "/etc/tablexport/", r.dir+"/", "./copy-of-state", filepath.Join(r.dir, ".tablexport"), "./copy-of-checkpoints", filepath.Join(r.dir, "lake", "audit-checkpoints"),
		"./audit.key.pub", filepath.Join(r.dir, "audit.key.pub"), " leaked.parquet", " "+filepath.Join(r.dir, "leaked.parquet"), " review.parquet", " "+filepath.Join(r.dir, "review.parquet")).Replace(r.lines[0])
	r.lines = r.lines[1:]
	return r.mustWith(code, in, strings.Fields(line)[1:]...)
}

func (r *runbook) issue(value string) {
	r.t.Helper()
	if err := r.server.Issue(simulator.Token{Value: value}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *runbook) all() {
	r.next(exitOK, "", "tablexport audit keygen")
	r.next(exitOK, "", "tablexport policy check")
	r.edit("jobs:\n", "audit: {checkpoints: {store: lake, key_file: ./audit.key}, keep_days: 400}\njobs:\n")

	r.issue(nextToken) // routine
	contains(r.t, r.next(exitOK, nextToken, "tablexport tokens rotate").out, "version 2 is active", "version 1 is left retiring")
	r.must(exitOK, "run", "shop")
	r.server.Revoke(testToken)
	r.next(exitOK, "", "tablexport tokens retire")
	contains(r.t, r.next(exitOK, "", "tablexport tokens list").out, "retired", "active")

	r.edit("jobs:\n", "rotations: {sim: {max_age: 90d, warn_before: 14d, grace: 1h}}\nreports: {tokens: {cron: \"0 6 * * 1-5\", zone: Europe/Sofia, store: lake}}\njobs:\n") // scheduled
	r.next(exitOK, "", "tablexport tokens describe")
	contains(r.t, r.next(exitOK, "", "tablexport tokens show").out, "owner      bi-team", "scopes     read", "used ")
	contains(r.t, r.next(exitOK, "", "tablexport tokens rotate --due").out, "nothing waits for a person")
	contains(r.t, r.next(exitOK, "", "tablexport tokens report").err, "published as version 0")

	r.server.Revoke(nextToken) // emergency
	r.must(exitCredential, "run", "shop")
	r.issue(canaryToken)
	contains(r.t, r.next(exitOK, canaryToken, "tablexport tokens rotate").out, "nothing to compare with", "version 3 is active", "version 2 is retired")
	r.must(exitOK, "run", "shop")
	r.next(exitOK, "", "tablexport tokens report")
	r.next(exitOK, "", "tablexport audit export")

	r.next(exitOK, canaryToken, "tablexport tokens stage") // lost vault: the same command, into what is left
	r.must(exitOK, "run", "shop")

	contains(r.t, r.next(exitOK, "", "tablexport audit verify").out, "the chain is sound", "vouch for it")
	contains(r.t, r.next(exitOK, "", "tablexport audit verify").out, "vouch for it")
	contains(r.t, r.next(exitOK, "", "tablexport audit tail").out, "activate")
	r.next(exitOK, "", "tablexport audit export")
	r.next(exitOK, "", "tablexport audit expire")
	if len(r.lines) > 0 {
		r.t.Errorf("the page has more: %v", r.lines)
	}
}
