//go:build unix

package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/odata/simulator"
)

// served is the program serving as a process of its own.
type served struct {
	t       *testing.T
	cmd     *exec.Cmd
	log     *buffer
	address string
	done    chan struct{}
}

// serve starts the program and waits until it says where it listens.
func (w *world) serve(flags ...string) *served {
	w.t.Helper()
	s := &served{t: w.t, log: &buffer{}, done: make(chan struct{})}
	s.cmd = exec.CommandContext(w.t.Context(), os.Args[0], append([]string{"-c", w.config, "serve"}, flags...)...)
	s.cmd.Env = append(os.Environ(), "TABLEXPORT_TEST_AS_PROGRAM=1")
	s.cmd.Stderr = s.log
	if err := s.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() { _ = s.cmd.Wait(); close(s.done) }()
	w.t.Cleanup(func() { _ = s.cmd.Process.Kill(); <-s.done })
	s.address, _ = s.line("serving")["address"].(string)
	return s
}

// line waits for a line of the log with that message.
func (s *served) line(msg string) map[string]any {
	s.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for text := range strings.Lines(s.log.String()) {
			var v map[string]any
			if json.Unmarshal([]byte(text), &v) == nil && v["msg"] == msg {
				return v
			}
		}
		select {
		case <-s.done:
			s.t.Fatalf("it ended: %s", s.log)
		default:
		}
	}
	s.t.Fatalf("it never said %q:\n%s", msg, s.log)
	return nil
}

func (s *served) get(path string) (int, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.address+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// end sends a signal and returns the exit code.
func (s *served) end(sig os.Signal) int {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
	select {
	case <-s.done:
	case <-time.After(30 * time.Second):
		s.t.Fatalf("it does not end: %s", s.log)
	}
	return s.cmd.ProcessState.ExitCode()
}

// missed makes the program believe that it has not run since a while.
func (w *world) missed(job, spec string, since time.Time) {
	w.t.Helper()
	w.missedIn(filepath.Join(w.dir, ".tablexport"), job, spec, since)
}

// missedIn is missed of another state directory.
func (w *world) missedIn(state, job, spec string, since time.Time) {
	w.t.Helper()
	l, err := ledger.Open(w.t.Context(), filepath.Join(state, "ledger.db"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer l.Close()
	lock, err := l.Lock(w.t.Context(), "the clock of this state directory", "test", time.Minute, func(string) bool { return true })
	if err == nil {
		_, err = l.Advance(w.t.Context(), lock, ledger.Move{Clock: ledger.Clock{Job: job, Upto: since, Spec: spec}})
	}
	if err == nil {
		err = l.Unlock(w.t.Context(), lock)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// The whole program: a tick that was missed runs at the start; health and numbers; a second one is refused; a configuration is
// read again, or refused as a whole; SIGTERM ends it in good order.
func TestServe(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}, "serve: {listen: '127.0.0.1:0'}").stage()
	w.edit(`schedule: {cron: "15 5 * * *", zone: UTC}`, `schedule: {cron: "15 5 * * *", zone: UTC, late_within: 25h}`)
	w.missed("lines", "UTC 15 5 * * *", time.Now().Add(-24*time.Hour))
	s := w.serve()
	if got := s.line("run succeeded"); got["job"] != "lines" || got["run"] == "" {
		t.Errorf("%v", got)
	}
	for range 100 { // the line of the tick comes behind that of the run
		if ticks := objects(t, w.must(exitOK, "schedule", "ticks", "lines", "--json").out); len(ticks) == 1 && ticks[0]["outcome"] == "late" && ticks[0]["run"] != "" {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	contains(t, w.must(exitOK, "schedule", "ticks").out, "late")
	if code, body := s.get("/readyz"); code != 200 {
		t.Error(code, body)
	}
	if code, body := s.get("/healthz"); code != 200 {
		t.Error(code, body)
	}
	_, numbers := s.get("/metrics")
	contains(t, numbers, `tablexport_runs_total{class="",export="lines",state="succeeded"} 1`, `tablexport_ticks_total{outcome="late"} 1`, `tablexport_breaker_state{erp="sim",state="closed"} 1`,
		`tablexport_requests_total{code="200",erp="sim"}`, `tablexport_dataset_rows{export="lines"} `)

	for path, want := range map[string]string{"/": ">lines</a>", "/jobs/lines": "15 5 * * *", "/jobs/lines/dataset": "Line_Amount", "/runs": "succeeded", "/instances": "closed", "/tokens": "bi/reader",
		"/api/v1/jobs": `"job":"lines"`, "/api/v1/ticks": `"outcome":"late"`, "/jobs/nope/dataset": "Not found"} {
		code, body := s.get(path)
		if (code != 200) != (path == "/jobs/nope/dataset") || !strings.Contains(body, want) || strings.Contains(body, testToken) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}

	// A second one on this state directory.
	got := w.must(exitConflict, "serve")
	contains(t, got.err, "is held by process")

	w.edit("scope: owner", "scope: ownr")
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if refused := s.line("the configuration is refused; the one before stays in use"); !strings.Contains(refused["error"].(string), "there is no scope of this name") {
		t.Errorf("%v", refused)
	}
	w.edit("scope: ownr", "scope: owner")
	w.edit("  balances:", "  more: {instance: sim, table: Gen_Products, scope: all, store: lake, path: more, schedule: {cron: '0 0 1 1 *', zone: UTC}}\n  balances:")
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.line("the configuration was read again")
	_, numbers = s.get("/metrics")
	contains(t, numbers, `tablexport_job_next_tick_timestamp_seconds{export="more"}`, `tablexport_config_reloads_total{result="refused"} 1`)

	configured := 0
	for _, e := range objects(t, w.must(exitOK, "audit", "tail", "--json", "-n", "1000").out) {
		if e["action"] == "config" {
			configured++
		}
	}
	if configured < 3 { // the first, the one with late_within, and the one that was read again
		t.Errorf("%d configurations are in the audit log", configured)
	}

	if code := s.end(syscall.SIGTERM); code != exitOK {
		t.Errorf("exit %d: %s", code, s.log)
	}
	if strings.Contains(s.log.String(), testToken) {
		t.Error("the token is in the log")
	}
	s = w.serve() // the lock was given back
	if code := s.end(syscall.SIGTERM); code != exitOK {
		t.Errorf("exit %d: %s", code, s.log)
	}
}

// A process that is killed in the middle of a run leaves a state from which the next one goes on.
func TestServeKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}, "serve: {listen: '127.0.0.1:0'}").stage()
	w.server.Inject(simulator.Fault{Table: "Crm_Sales_Order_Lines", Effect: simulator.SlowHeaders(4 * time.Second)})
	w.edit(`schedule: {cron: "15 5 * * *", zone: UTC}`, `schedule: {cron: "15 5 * * *", zone: UTC, late_within: 25h}`)
	w.missed("lines", "UTC 15 5 * * *", time.Now().Add(-24*time.Hour))
	s := w.serve()
	for range 500 {
		if runs := objects(t, w.must(exitOK, "runs", "--json").out); len(runs) == 1 && runs[0]["state"] == "running" {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.end(syscall.SIGKILL)
	s = w.serve()
	s.line("run succeeded")
	if code := s.end(syscall.SIGTERM); code != exitOK {
		t.Errorf("exit %d: %s", code, s.log)
	}
	runs := objects(t, w.must(exitOK, "runs", "--json").out)
	if len(runs) != 2 || runs[0]["state"] != "succeeded" || runs[1]["state"] != "interrupted" {
		t.Errorf("%v", runs)
	}
	if ticks := objects(t, w.must(exitOK, "schedule", "ticks", "--json").out); len(ticks) != 1 || ticks[0]["outcome"] != "late" || ticks[0]["run"] != runs[0]["run"] {
		t.Errorf("%v", ticks)
	}
}
