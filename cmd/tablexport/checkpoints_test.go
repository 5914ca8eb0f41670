package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"

	"github.com/tablexport/tablexport/odata/simulator"
)

// signedWorld is a world whose audit log is signed into its store.
func signedWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, simulator.Options{})
	w.must(exitOK, "audit", "keygen", filepath.Join(w.dir, "audit.key"))
	w.edit("jobs:\n", "audit: {checkpoints: {store: lake, path: evidence/audit, key_file: ./audit.key}, keep_days: 400}\njobs:\n")
	return w.stage()
}

// Every command that adds to the log signs it; somebody else verifies a copy with the public key, and finds a cut tail.
func TestAuditFromTheOutside(t *testing.T) {
	t.Parallel()
	w := signedWorld(t)
	w.must(exitOK, "run", "shop")
	got := w.must(exitOK, "audit", "verify")
	contains(t, got.out, "2 checkpoint(s) vouch for it", "; 0 entries behind that", "the chain is sound")
	report := objects(t, w.must(exitOK, "audit", "verify", "--json").out)[0]
	if a, ok := report["attestation"].(map[string]any); !ok || a["checkpoints"] != 2.0 || a["unsigned"] != 0.0 {
		t.Errorf("--json: %v", report)
	}
	outside := []string{"audit", "verify", "--state", filepath.Join(w.dir, ".tablexport"), "--checkpoints", filepath.Join(w.dir, "lake", "evidence"),
		"--public-key", filepath.Join(w.dir, "audit.key.pub")}
	got = invoke(t.Context(), "", append([]string{"-c", "none.yaml"}, outside...)...)
	if got.code != exitOK {
		t.Fatalf("from the outside: %s", got)
	}
	contains(t, got.out, "2 checkpoint(s) vouch for it")

	log := filepath.Join(w.dir, ".tablexport", "audit", "audit-000001.jsonl")
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	w.write(".tablexport/audit/audit-000001.jsonl", strings.Join(lines[:len(lines)-2], ""))
	contains(t, w.must(exitOK, "audit", "verify", "--state", filepath.Join(w.dir, ".tablexport")).out, "the chain is sound") // which is why
	got = invoke(t.Context(), "", append([]string{"-c", "none.yaml"}, outside...)...)
	if got.code != exitData || !strings.Contains(got.out, "its tail was cut off") {
		t.Errorf("a cut tail: %s", got)
	}
	contains(t, w.must(exitData, "audit", "verify").out, "its tail was cut off")
	contains(t, w.must(exitOK, "run", "shop").err, "warning", "no signed checkpoint", "not the one that was signed")
	if err := os.RemoveAll(filepath.Join(w.dir, ".tablexport", "audit")); err != nil {
		t.Fatal(err)
	}
	contains(t, w.must(exitData, "audit", "verify").out, "there is no log in", "checkpoints say that there was one")
}

// A store that is away, or a key that is not there, is told; the next command signs what this one could not.
func TestCheckpointsThatCannotBe(t *testing.T) {
	t.Parallel()
	w := signedWorld(t)
	if err := os.Rename(filepath.Join(w.dir, "audit.key"), filepath.Join(w.dir, "away.key")); err != nil {
		t.Fatal(err)
	}
	contains(t, w.must(exitOK, "run", "shop").err, "warning", "audit keygen")
	if got := objects(t, w.must(exitOK, "run", "shop", "--json").err); len(got) != 1 || got[0]["warning"] == nil {
		t.Errorf("--json: %v", got)
	}
	w.must(exitConfig, "audit", "checkpoint")
	if err := os.Rename(filepath.Join(w.dir, "away.key"), filepath.Join(w.dir, "audit.key")); err != nil {
		t.Fatal(err)
	}
	contains(t, w.must(exitOK, "audit", "verify").out, "1 checkpoint(s) vouch")
	contains(t, w.must(exitOK, "audit", "checkpoint").out, "is signed")
	contains(t, w.must(exitOK, "audit", "verify").out, "2 checkpoint(s) vouch", "; 0 entries behind")
	contains(t, w.must(exitOK, "audit", "expire").out, "0 file(s) removed")

	plain := newWorld(t, simulator.Options{}).stage()
	contains(t, plain.must(exitUsage, "audit", "checkpoint").err, "audit.checkpoints", "audit keygen")
	plain.must(exitUsage, "audit", "verify", "--checkpoints", plain.dir)
	plain.must(exitConfig, "audit", "verify", "--checkpoints", plain.dir, "--public-key", plain.config)
}

// The export is read by an implementation of Parquet that is not ours, and holds what the log holds.
func TestAuditExport(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}).stage()
	w.must(exitOK, "run", "shop")
	file := filepath.Join(w.dir, "all.parquet")
	contains(t, w.must(exitOK, "audit", "export", file).out, "entries in "+file)
	type row struct {
		Seq         int64  `parquet:"seq"`
		Action      string `parquet:"action"`
		Fingerprint string `parquet:"fingerprint,optional"`
		Hash        string `parquet:"hash"`
	}
	rows, err := parquet.ReadFile[row](file)
	if err != nil {
		t.Fatal(err)
	}
	entries := objects(t, w.must(exitOK, "audit", "tail", "-n", "1000", "--json").out)
	if len(rows) != len(entries) {
		t.Fatalf("%d rows, %d entries", len(rows), len(entries))
	}
	for i, r := range rows {
		if r.Seq != int64(i+1) || r.Action != entries[i]["action"] || r.Hash != entries[i]["hash"] {
			t.Errorf("row %d: %+v", i, r)
		}
	}
	w.must(exitUsage, "audit", "export", file) // nothing is replaced
	contains(t, w.must(exitOK, "audit", "export", filepath.Join(w.dir, "none.parquet"), "--to", "2020-01-01").out, "0 entries")
	w.must(exitUsage, "audit", "export", filepath.Join(w.dir, "x.parquet"), "--from", "yesterday")
	w.must(exitUsage, "audit", "export", filepath.Join(w.dir, "x.parquet"), "--from", "2026-01-02", "--to", "2026-01-01")

	log := filepath.Join(w.dir, ".tablexport", "audit", "audit-000001.jsonl")
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	w.write(".tablexport/audit/audit-000001.jsonl", strings.Replace(string(text), "sim", "sum", 1))
	w.must(exitData, "audit", "export", filepath.Join(w.dir, "unsound.parquet"))
	if left, _ := filepath.Glob(filepath.Join(w.dir, "*unsound*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// A configuration that has changed is an entry before the first act under it, with the keys that changed and no values but of policy.
func TestConfigurationChangesAreAudited(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}).stage()
	configured := func() (all []map[string]any) {
		for _, e := range objects(t, w.must(exitOK, "audit", "tail", "-n", "1000", "--json").out) {
			if e["action"] == "config" {
				all = append(all, e["detail"].(map[string]any))
			}
		}
		return all
	}
	w.must(exitOK, "run", "shop")
	if all := configured(); len(all) != 1 || all[0]["before"] != "not known" {
		t.Errorf("an unchanged configuration: %v", all)
	}
	w.edit("page_size: 50", "page_size: 40")
	w.must(exitOK, "run", "shop")
	all := configured()
	if len(all) != 2 || all[1]["changed"] != "jobs.shop.paging.page_size" || all[1]["before"] != all[0]["sha256"] {
		t.Errorf("a changed one: %v", all)
	}
}
