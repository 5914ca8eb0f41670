package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/tablexport/tablexport/odata/simulator"
)

// Before anything was recorded there is nothing to show, which is no failure; and whoever has the log needs no configuration.
func TestAuditWithoutAnything(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{})
	for _, args := range [][]string{{}, {"--state", filepath.Join(w.dir, "elsewhere")}} {
		contains(t, w.must(exitOK, append(args, "audit", "tail")...).out, "no entries yet in "+w.dir)
		contains(t, w.must(exitOK, append(args, "audit", "verify")...).out, "no entries yet in "+w.dir, "nothing to verify")
		if got := w.must(exitOK, append(args, "audit", "tail", "--json")...); got.out != "" || got.err != "" {
			t.Errorf("tail --json: %s", got)
		}
		report := objects(t, w.must(exitOK, append(args, "audit", "verify", "--json")...).out)
		if len(report) != 1 || report[0]["entries"] != 0.0 {
			t.Errorf("verify --json: %v", report)
		}
	}
	if _, err := os.Stat(filepath.Join(w.dir, ".tablexport")); err == nil {
		t.Error("looking at a log has made its directory")
	}

	w.stage()
	state := filepath.Join(w.dir, ".tablexport")
	for _, config := range []string{filepath.Join(w.dir, "none.yaml"), w.write("bad.yaml", "environment: [")} {
		contains(t, invoke(t.Context(), "", "-c", config, "--state", state, "audit", "tail").out, "activate")
		contains(t, invoke(t.Context(), "", "-c", config, "--state", state, "audit", "verify").out, "the chain is sound")
		if got := invoke(t.Context(), "", "-c", config, "audit", "verify"); got.code != exitConfig {
			t.Errorf("without --state: %s", got)
		}
	}
}

// `audit tail -n 0 -f` shows what comes and nothing of what was there; a log that is not there yet is waited for, and shown from its start.
func TestAuditFollow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{})
	follow := func() (out *buffer, end func()) {
		ctx, stop := context.WithCancel(t.Context())
		out = &buffer{}
		ended := make(chan int)
		go func() {
			ended <- run(ctx, []string{"-c", w.config, "audit", "tail", "-n", "0", "-f"}, stdio{strings.NewReader(""), out, io.Discard})
		}()
		return out, func() {
			stop()
			if code := <-ended; code != exitOK {
				t.Errorf("exit %d", code)
			}
		}
	}
	out, end := follow()
	until(t, "looking", func() bool { return strings.Contains(out.String(), "no entries yet in ") })
	w.stage()
	until(t, "the first entry", func() bool {
		return strings.Contains(out.String(), " #1 ") && strings.Contains(out.String(), "activate")
	})
	end()
	out, end = follow()
	until(t, "a new entry", func() bool {
		w.must(exitOK, "run", "shop") // again, until the other is looking
		return strings.Contains(out.String(), "publish")
	})
	end()
	if strings.Contains(out.String(), " #1 ") || strings.Contains(out.String(), "no entries yet") {
		t.Errorf("what was there before is shown:\n%s", out.String())
	}
}

// A state directory that others may use is said once, and nothing is said of the one that tablexport makes.
func TestStateDirectoryOpenToOthers(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("access is not in the mode there")
	}
	w := newWorld(t, simulator.Options{}).stage()
	state := filepath.Join(w.dir, ".tablexport")
	if got := w.must(exitOK, "run", "orders"); got.err != "" {
		t.Errorf("%s", got)
	}
	if err := os.Chmod(state, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"run", "orders"}, {"audit", "verify"}, {"audit", "verify", "--state", state}, {"runs"}} {
		if got := w.must(exitOK, args...); strings.Count(got.err, "\n") != 1 || !strings.Contains(got.err, "(mode 0777); close it with: chmod 700 "+state) {
			t.Errorf("%v: %s", args, got)
		}
	}
	if got := objects(t, w.must(exitOK, "run", "orders", "--json").err); len(got) != 1 || got[0]["warning"] == nil {
		t.Errorf("--json: %v", got)
	}
	if err := os.Chmod(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if got := w.must(exitOK, "runs"); got.err != "" {
		t.Errorf("%s", got)
	}
}
