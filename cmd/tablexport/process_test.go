package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tablexport/tablexport/odata/simulator"
)

// program is this program as a process of its own.
func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	t.Cleanup(cancel)
	c := exec.CommandContext(ctx, self, args...)
	c.Env = append(os.Environ(), "TABLEXPORT_TEST_AS_PROGRAM=1")
	return c
}

// until waits for something to become true.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not happen", what)
		}
	}
}

func exitOf(t *testing.T, err error) int {
	t.Helper()
	var exit *exec.ExitError
	if err == nil {
		return 0
	}
	if !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return exit.ExitCode()
}

// Ctrl-C and a service manager's SIGTERM in the middle of a scan: exit 130, the version before stands, and nothing is left behind.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("there are no such signals")
	}
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, simulator.Options{}).stage()
			w.must(exitOK, "run", "shop")
			before := w.server.Stats().DataRequests
			w.server.Inject(simulator.Fault{Nth: 4, Times: -1, Effect: simulator.Stall(5, time.Minute)})
			c := program(t, "-c", w.config, "run", "shop")
			var out, errs buffer
			c.Stdout, c.Stderr = &out, &errs
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			until(t, "the fourth request", func() bool { return w.server.Stats().DataRequests >= before+4 })
			started := time.Now()
			if err := c.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if code := exitOf(t, c.Wait()); code != exitInterrupted || time.Since(started) > 5*time.Second {
				t.Errorf("exit %d after %v: %s%s", code, time.Since(started), out.String(), errs.String())
			}
			if strings.Contains(errs.String(), "\x1b") || strings.Contains(errs.String(), "\r") {
				t.Errorf("a progress bar where there is no terminal: %q", errs.String())
			}
			w.server.ClearFaults()
			if got := w.version("shop"); got != 0 {
				t.Errorf("version %d stands", got)
			}
			w.must(exitOK, "datasets", "verify", "shop")
			if parts, _ := filepath.Glob(filepath.Join(w.dir, "lake", "shop", "*.parquet")); len(parts) != 1 {
				t.Errorf("leftovers: %v", parts)
			}
			w.must(exitOK, "run", "shop")
		})
	}
}

// A process that dies without a word leaves the version before; the next one says so in the history and goes on.
func TestKill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}).stage()
	w.must(exitOK, "run", "shop")
	before := w.server.Stats().DataRequests
	w.server.Inject(simulator.Fault{Nth: 4, Times: -1, Effect: simulator.Stall(5, time.Minute)})
	c := program(t, "-c", w.config, "run", "shop")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "the fourth request", func() bool { return w.server.Stats().DataRequests >= before+4 })
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait() // it was killed
	w.server.ClearFaults()
	if got := w.version("shop"); got != 0 {
		t.Errorf("version %d stands", got)
	}
	history := w.must(exitOK, "runs").out
	contains(t, history, "interrupted", "  the process ended in the middle of the run")
	if strings.Contains(history, ": the process") {
		t.Errorf("a class without a name:\n%s", history)
	}
	w.must(exitOK, "audit", "verify")
	w.must(exitOK, "run", "shop")
	w.must(exitOK, "datasets", "verify", "shop")
}

// A token that is asked for on a pipe can be waited for in vain: Ctrl-C ends that.
func TestInterruptAtThePrompt(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("there are no such signals")
	}
	w := newWorld(t, simulator.Options{})
	c := program(t, "-c", w.config, "tokens", "stage", "bi/reader", "-v")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "the audit log", func() bool {
		_, err := os.Stat(filepath.Join(w.dir, ".tablexport", "audit"))
		return err == nil
	})
	time.Sleep(100 * time.Millisecond)
	_ = c.Process.Signal(os.Interrupt)
	if code := exitOf(t, c.Wait()); code != exitInterrupted {
		t.Errorf("exit %d", code)
	}
}

// simulate serves until Ctrl-C, which is its good end, and says what it served.
func TestSimulate(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("there are no such signals")
	}
	w := newWorld(t, simulator.Options{})
	s := startSimulate(t, "127.0.0.1:0", "--rows", "Crm_Sales_Orders=300", "--behavior", "max-rows=40", "--behavior", "count=path", "--fault", "cut@2")
	w.edit(w.address, s.address)
	w.mustWith(exitOK, s.token, "tokens", "stage", "bi/reader", "--activate")
	contains(t, w.must(exitOK, "run", "orders").out, "300 rows", "count 300 before")
	if code := s.interrupt(); code != exitOK {
		t.Errorf("exit %d: %s", code, s.out.String())
	}
	contains(t, s.out.String(), "tablexport tokens stage demo/reader --activate", "requests, ", "of JSON were served")
}

// Days of business pass before it answers, and while it does.
func TestSimulateDays(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{})
	s := startSimulate(t, "127.0.0.1:0", "--rows", "Crm_Sales_Orders=300", "--days", "5", "--day-every", "500ms")
	w.edit(w.address, s.address)
	w.mustWith(exitOK, s.token, "tokens", "stage", "bi/reader", "--activate")
	until(t, "the first copy", func() bool { return w.do("run", "orders").code == exitOK })
	until(t, "another day", func() bool { // a run in which a day passes may be refused: rows vanish under it
		return w.do("run", "orders").code == exitOK && !strings.Contains(w.must(exitOK, "datasets", "diff", "orders").out, ": 0 added,")
	})
}

// simulation is a running `tablexport simulate`.
type simulation struct {
	t              *testing.T
	c              *exec.Cmd
	out            buffer
	address, token string
}

func startSimulate(t *testing.T, listen string, args ...string) *simulation {
	t.Helper()
	s := &simulation{t: t, c: program(t, append([]string{"simulate", "--listen", listen}, args...)...)}
	s.c.Stdout, s.c.Stderr = &s.out, &s.out
	if err := s.c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.c.Process.Kill() })
	until(t, "the simulator", func() bool { return strings.Contains(s.out.String(), "tokens stage") || s.c.ProcessState != nil })
	address := regexp.MustCompile(`http://[0-9.:]+`).FindString(s.out.String())
	s.address, s.token = address, simulator.DemoToken
	if address == "" {
		t.Fatalf("simulate: %s", s.out.String())
	}
	return s
}

func (s *simulation) interrupt() int {
	s.t.Helper()
	if err := s.c.Process.Signal(os.Interrupt); err != nil {
		s.t.Fatal(err)
	}
	return exitOf(s.t, s.c.Wait())
}

// The demo works from nothing, quickly, and every other command works on what it leaves.
func TestDemo(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "demo")
	started := time.Now()
	got := invoke(t.Context(), "", "demo", "--dir", dir)
	if got.code != exitOK || got.err != "" {
		t.Fatalf("demo: %s", got)
	}
	if d := time.Since(started); d > 20*time.Second {
		t.Errorf("the demo took %v", d)
	}
	contains(t, got.out, "$ tablexport run order-lines orders", "lines are inserted", "order-lines: version 1", "order-lines, from version 0 to 1 by Sales_Order_Line_Id: ", "a correct copy has",
		"the chain is sound", "delta_scan(", "tablexport simulate --listen ", "as the log says")
	if again := invoke(t.Context(), "", "demo", "--dir", dir); again.code != exitUsage {
		t.Errorf("demo over a demo: %s", again)
	}
	files := filesWith(t, dir, simulator.DemoToken)
	if len(files) > 0 || strings.Contains(got.out, simulator.DemoToken) {
		t.Errorf("the token is in %v, or was printed", files)
	}

	shown := regexp.MustCompile(`delta_scan\('[^']+'\)`).FindString(got.out)
	contains(t, invoke(t.Context(), "", "-c", filepath.Join(dir, "tablexport.yaml"), "datasets", "sql", "order-lines").out, shown)
	listen := regexp.MustCompile(`simulate --listen (\S+)`).FindStringSubmatch(got.out)[1]
	s := startSimulate(t, listen)
	for _, args := range [][]string{
		{"check"}, {"check", "--online"}, {"tables"}, {"tables", "Crm_Sales_Order_Lines", "--online"}, {"plan", "orders", "--online"}, {"run", "--all"}, {"runs"},
		{"datasets", "list"}, {"datasets", "show", "orders"}, {"datasets", "sql", "orders"}, {"datasets", "verify"}, {"tokens", "list"}, {"audit", "tail"}, {"audit", "verify"},
		{"config", "schema"}, {"version"},
	} {
		if i := invoke(t.Context(), "", append([]string{"-c", filepath.Join(dir, "tablexport.yaml")}, args...)...); i.code != exitOK || i.out == "" || i.err != "" {
			t.Errorf("%v: %s", args, i)
		}
	}
	if i := invoke(t.Context(), simulator.DemoToken, "-c", filepath.Join(dir, "tablexport.yaml"), "tokens", "stage", "demo/reader", "--activate"); i.code != exitOK {
		t.Errorf("tokens stage: %s", i)
	}
	s.interrupt()

	machine := invoke(t.Context(), "", "demo", "--json", "--dir", filepath.Join(t.TempDir(), "demo"))
	if machine.code != exitOK || machine.err != "" || len(objects(t, machine.out)) < 15 {
		t.Errorf("demo --json: %s", machine)
	}
}
