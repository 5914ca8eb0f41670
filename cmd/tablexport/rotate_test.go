package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tablexport/tablexport/odata/simulator"
	"github.com/tablexport/tablexport/secrets/audit"
	"github.com/tablexport/tablexport/secrets/secretstest/vaultserver"
)

const nextToken = "enrt_CANARYnext0123456789NEXT"

// states are the states of the token's versions, oldest first.
func (w *world) states() string {
	w.t.Helper()
	var states []string
	for _, line := range objects(w.t, w.must(exitOK, "tokens", "list", "--json").out) {
		states = append([]string{line["state"].(string)}, states...)
	}
	return strings.Join(states, " ")
}

// The whole walk by single steps, each refused where it is not due.
func TestTokenLifeStepByStep(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{Behavior: simulator.Behavior{Count: simulator.PathCount}}).stage()
	if err := w.server.Issue(simulator.Token{Value: nextToken}); err != nil {
		t.Fatal(err)
	}
	w.must(exitOK, "run", "shop")
	contains(t, w.mustWith(exitOK, nextToken, "tokens", "stage", "bi/reader").out, "version 2 is staged", "tokens verify bi/reader 2")
	contains(t, w.must(exitConflict, "tokens", "activate", "bi/reader", "2").err, "is staged; prove it first", "tokens verify")
	got := w.must(exitOK, "tokens", "verify", "bi/reader")
	contains(t, got.out, "ok      balances", "ok      shop", "number of rows of the scope", "sampled keys of the table", "version 2 is verified")
	if w.states() != "active verified" {
		t.Error(w.states())
	}
	contains(t, w.must(exitConflict, "tokens", "retire", "bi/reader", "1").err, "is active; only what was replaced")
	w.must(exitOK, "tokens", "activate", "bi/reader", "2")
	w.must(exitOK, "run", "shop")
	contains(t, w.must(exitUnavailable, "tokens", "retire", "bi/reader").err, "was used at", "grace period is 1h")
	contains(t, w.must(exitUnavailable, "tokens", "retire", "bi/reader", "--grace", "1ns").err, "still takes version 1", "revokes it in the Instance Manager")
	w.server.Revoke(testToken)
	contains(t, w.must(exitOK, "tokens", "retire", "bi/reader", "--grace", "1ns").out, "version 1 is retired")
	contains(t, w.must(exitConflict, "tokens", "activate", "bi/reader", "1").err, "is retired")
	w.must(exitOK, "run", "shop")
	if w.states() != "retired active" {
		t.Error(w.states())
	}
	w.mustWith(exitConflict, testToken, "tokens", "rotate", "bi/reader", "--stage-from", "stdin")
	w.must(exitCredential, "tokens", "verify", "bi/reader")
	w.must(exitUsage, "tokens", "verify", "bi/reader", "x")
	w.must(exitUsage, "tokens", "rotate", "bi/reader", "--stage-from", "file:x")
	w.must(exitUsage, "tokens", "rotate", "bi/reader", "--stage-from", "vault:x#y")
	w.must(exitUsage, "tokens", "rotate", "bi/none")
	w.holdsNo(testToken, nextToken)
}

// A token that reaches more, or less, than the current one is not verified, and stays staged until somebody rejects it.
func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{})
	store := w.aStore()
	narrow := simulator.Token{Value: canaryToken, RowFilter: map[string]string{"Crm_Sales_Orders": "Store_Id eq " + store}}
	for _, token := range []simulator.Token{narrow, {Value: nextToken, Deny: []string{"Inv_Current_Balances"}}} {
		if err := w.server.Issue(token); err != nil {
			t.Fatal(err)
		}
	}
	w.stage()
	w.mustWith(exitOK, canaryToken, "tokens", "stage", "bi/reader")
	got := w.must(exitCredential, "tokens", "verify", "bi/reader", "2")
	contains(t, got.out, "FAILED  orders")
	contains(t, got.err, "job orders: it is not shown", "tokens reject")
	contains(t, w.must(exitOK, "tokens", "reject", "bi/reader", "2", "--reason", "too narrow").out, "is rejected")
	w.mustWith(exitConflict, canaryToken, "tokens", "stage", "bi/reader")
	got = w.mustWith(exitCredential, nextToken, "tokens", "rotate", "bi/reader", "--stage-from", "stdin", "--json")
	contains(t, got.err, "job balances: it may not read the table (403)")
	if w.states() != "active rejected staged" {
		t.Error(w.states())
	}
	w.must(exitOK, "run", "shop") // nothing has changed for the jobs
	w.holdsNo(testToken, nextToken, canaryToken)
}

// One command for the whole walk, and the same again for what could not be done yet.
func TestRotateCommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}).stage()
	if err := w.server.Issue(simulator.Token{Value: nextToken}); err != nil {
		t.Fatal(err)
	}
	got := w.mustWith(exitOK, nextToken, "tokens", "rotate", "bi/reader", "--stage-from", "stdin")
	contains(t, got.out, "version 2 is staged", "version 2 is verified", "version 2 is active", "version 1 is left retiring", "still takes version 1", "tokens retire bi/reader")
	w.must(exitOK, "run", "shop")
	w.server.Revoke(testToken)
	contains(t, w.must(exitOK, "tokens", "rotate", "bi/reader").out, "version 1 is retired")
	line := objects(t, w.must(exitOK, "tokens", "rotate", "bi/reader", "--json").out)[0]
	if line["active"] != 2.0 || line["previous"] != 0.0 {
		t.Errorf("again: %v", line)
	}
	if w.states() != "retired active" {
		t.Error(w.states())
	}
}

// A token is not retired while a loan of it has no end, and an old token that the instance refuses together with the new
// one is not taken for revoked.
func TestRetireWhileInUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}).stage()
	if err := w.server.Issue(simulator.Token{Value: nextToken}); err != nil {
		t.Fatal(err)
	}
	w.must(exitOK, "run", "orders")
	w.mustWith(exitOK, nextToken, "tokens", "stage", "bi/reader")
	// As another run has it that goes on: a loan without an end.
	log, err := audit.Open(filepath.Join(w.dir, ".tablexport", "audit"))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := audit.Tail(filepath.Join(w.dir, ".tablexport", "audit"), 100)
	if err != nil {
		t.Fatal(err)
	}
	var loan audit.Entry
	for _, e := range entries {
		if e.Action == "lease" {
			loan = e
		}
	}
	loan.Run = ""
	if _, err := log.Append(t.Context(), loan); err != nil {
		t.Fatal(err)
	}
	_ = log.Close()
	w.must(exitOK, "tokens", "rotate", "bi/reader", "--grace", "1ns")
	contains(t, w.must(exitUnavailable, "tokens", "retire", "bi/reader", "--grace", "1ns").err, "is lent since")

	other := newWorld(t, simulator.Options{}).stage()
	if err := other.server.Issue(simulator.Token{Value: nextToken}); err != nil {
		t.Fatal(err)
	}
	other.mustWith(exitOK, nextToken, "tokens", "rotate", "bi/reader", "--stage-from", "stdin")
	other.server.Revoke(testToken)
	other.server.Revoke(nextToken)
	contains(t, other.must(exitCredential, "tokens", "retire", "bi/reader").err, "this proves nothing")
}

// The real Vault: the token is handed over in a secret of its own, and rotated with the policy of the documentation.
func TestRotateFromVault(t *testing.T) {
	t.Parallel()
	server := vaultserver.Start(t, vaultserver.TLS())
	mount := server.NewMount(t)
	w := newWorld(t, simulator.Options{})
	if err := w.server.Issue(simulator.Token{Value: nextToken}); err != nil {
		t.Fatal(err)
	}
	policy, err := os.ReadFile(filepath.Join(moduleRoot(t), "docs", "vault-policy.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	_, rotate, _ := strings.Cut(string(policy), "# ---- tablexport-rotate")
	rotate = "# " + strings.ReplaceAll(rotate, `"secret/`, `"`+mount+`/`) + fmt.Sprintf("\npath %q { capabilities = [\"read\"] }\n", mount+"/data/handover/*")
	roleID, secretID := server.NewAppRole(t, rotate, nil)
	w.write("role", roleID)
	w.write("secret", secretID)
	w.edit("secrets: {file: {path: ./secrets.age}}", fmt.Sprintf("secrets: {vault: {address: %q, mount: %s, ca_file: %q, auth: {approle: {role_id_file: ./role, secret_id_file: ./secret}}}}",
		server.Address, mount, server.CACertFile))
	w.stage()
	server.Call(t, http.MethodPost, mount+"/data/handover/acme", map[string]any{"data": map[string]string{"token": nextToken}})
	w.must(exitCredential, "tokens", "rotate", "bi/reader", "--stage-from", "vault:handover/acme#none")
	w.must(exitCredential, "tokens", "rotate", "bi/reader", "--stage-from", "vault:handover/none#token")
	w.server.Revoke(testToken) // in an emergency it is revoked first: then there is nothing to compare with
	got := w.must(exitOK, "tokens", "rotate", "bi/reader", "--stage-from", "vault:handover/acme#token")
	contains(t, got.out, "nothing to compare with", "version 2 is active", "version 1 is retired")
	w.must(exitOK, "run", "shop")
	w.must(exitOK, "audit", "verify")
	logins := 0
	for _, e := range objects(t, w.must(exitOK, "audit", "tail", "-n", "1000", "--json").out) {
		if e["action"] == "login" && e["outcome"] == "ok" && e["detail"].(map[string]any)["accessor"] != nil {
			logins++
		}
	}
	if logins < 4 {
		t.Errorf("%d logins are in the audit log", logins)
	}
	w.holdsNo(testToken, nextToken)
}

// A client secret has the same life as a token: staged, proven beside the current one, and retired when the identity server refuses it. The
// instance sees access tokens alone.
func TestClientCredentials(t *testing.T) {
	t.Parallel()
	const secret = "CANARY-client-secret-0123456789"
	w := newWorld(t, simulator.Options{Apps: []simulator.App{{URI: "my.app/bi", Secret: secret, Scopes: []string{"read", "update"}}}})
	w.edit("token: bi/reader,", "token: bi/reader, auth: {client_credentials: {client_id: my.app/bi}},")
	contains(t, w.mustWith(exitCredential, "wrong-secret", "tokens", "stage", "bi/reader").err, "invalid_client", "stage the current client secret")
	w.mustWith(exitOK, secret, "tokens", "stage", "bi/reader", "--activate")
	w.must(exitOK, "run", "--all")
	w.must(exitOK, "check", "--online")
	contains(t, w.must(exitOK, "audit", "tail", "-n", "100").out, "exchange", "granted=read")
	w.edit("{client_id: my.app/bi}", "{client_id: my.app/bi, scopes: [read, update]}")
	contains(t, w.must(exitConfig, "run", "shop").err, "can write", "allow_update")
	w.edit("scopes: [read, update]", "scopes: [read, update], allow_update: true")
	contains(t, w.must(exitCredential, "run", "shop").err, "scopes: it carries read update; allowed: read", "policy check")
	w.edit("stores:", "policy: {scopes: [read, update]}\nstores:")
	w.must(exitOK, "run", "shop")
	w.holdsNo(secret, "wrong-secret")

	h := newWorld(t, simulator.Options{})
	h.edit("token: bi/reader,", "token: bi/reader, auth: {header: X-Api-Key},")
	h.stage()
	h.must(exitOK, "run", "shop")
	h.holdsNo(testToken)
}
