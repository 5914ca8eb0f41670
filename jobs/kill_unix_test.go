//go:build unix

package jobs_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/filestore"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/simulator"
	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/audit"
	"github.com/tablexport/tablexport/secrets/filevault"
)

// The environment of a child: the rig's directory, its instance, and where it kills itself.
const (
	childDir = "TABLEXPORT_TEST_CHILD"
	childURL = "TABLEXPORT_TEST_URL"
	childEnd = "TABLEXPORT_TEST_KILL"

	childMode  = "TABLEXPORT_TEST_MODE"  // of the job's refresh
	childOwner = "TABLEXPORT_TEST_OWNER" // in leases on datasets; none without it
)

// TestMain is also a child's main: a process of its own that runs a job once, on what its parent has put into a directory.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := child(dir, os.Getenv(childURL), os.Getenv(childEnd)); err != nil {
			fmt.Println(jobs.Classify(err), err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func kill() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func child(dir, url, end string) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var vault secrets.Vault
	if vault, err = filevault.Open(filevault.Options{File: filepath.Join(dir, "vault")}); err != nil {
		return err
	}
	log, err := audit.Open(filepath.Join(dir, "audit"))
	if err != nil {
		return err
	}
	runs, err := ledger.Open(ctx, filepath.Join(dir, "ledger.db"))
	if err != nil {
		return err
	}
	if _, err := runs.Interrupt(ctx, jobs.Alive); err != nil {
		return err
	}
	files, err := filestore.Open(filepath.Join(dir, "lake"))
	if err != nil {
		return err
	}
	c, err := odata.NewClient(odata.Options{Name: "acme", URL: url, Sandbox: true, RequestsPerMinute: 6_000_000})
	if err != nil {
		return err
	}
	h := &hooked{Bucket: files}
	if end == "behind the commit" {
		h.after = kill
	}
	r := &jobs.Runner{
		Keeper: secrets.NewKeeper(vault, log, secrets.Sandbox, "child"), Audit: log, Ledger: runs, Actor: "child", Engine: "tablexport/test",
		Instances: map[string]jobs.Instance{"acme": {Name: "acme", Client: c, Token: tokenName}},
		Bucket:    func(context.Context, string) (store.Bucket, error) { return h, nil },
		Owner:     os.Getenv(childOwner), Lease: childLease,
	}
	j := job(lines)
	j.Refresh.Mode = jobs.Mode(os.Getenv(childMode))
	if step := os.Getenv(childStep); step != "" {
		fmt.Println("begin")
		err = monthStep(ctx, r, step)
		fmt.Println("end")
		return err
	}
	fmt.Println("begin")
	_, err = r.Run(ctx, jobs.Request{Job: j, Progress: func(p jobs.Progress) {
		if string(p.Phase) == end && (p.Phase != jobs.Scanning || p.Scan.Rows > 200) {
			kill()
		}
	}})
	fmt.Println("end")
	// Nothing is closed: a process that ends has no duties left.
	return err
}

// life is a child that runs.
type life struct {
	cmd *exec.Cmd
	out *bufio.Scanner
}

func (r *rig) child(end string, env ...string) *life {
	r.t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(append(os.Environ(), childDir+"="+r.dir, childURL+"="+r.url, childEnd+"="+end), env...)
	out, err := cmd.StdoutPipe()
	must(r.t, err)
	cmd.Stderr = os.Stderr
	must(r.t, cmd.Start())
	l := &life{cmd: cmd, out: bufio.NewScanner(out)}
	if !l.out.Scan() || l.out.Text() != "begin" {
		_ = cmd.Wait()
		r.t.Fatalf("the child did not begin: %q", l.out.Text())
	}
	return l
}

// wait waits for its end. said is what it printed behind "end", killed whether a signal ended it.
func (l *life) wait() (said string, killed bool) {
	for l.out.Scan() {
		if l.out.Text() != "end" {
			said = l.out.Text()
		}
	}
	var exit *exec.ExitError
	if errors.As(l.cmd.Wait(), &exit) {
		killed = exit.Sys().(syscall.WaitStatus).Signaled()
	}
	return said, killed
}

// onDisk makes the rig's vault one that children can open.
func (r *rig) onDisk() {
	r.t.Helper()
	vault, err := filevault.Open(filevault.Options{File: filepath.Join(r.dir, "vault")})
	must(r.t, err)
	r.t.Cleanup(func() { _ = vault.Close() })
	r.vault = vault
	r.keeper = secrets.NewKeeper(vault, r.audit, secrets.Sandbox, "tester")
	r.runner.Keeper = r.keeper
	r.activate(simulator.DemoToken)
}

// Whenever a process is killed, a reader finds the whole of one version: the one before, or the new one. The next run
// succeeds, the ledger calls the dead ones interrupted, and the audit log is sound.
func TestKilled(t *testing.T) {
	r := newRig(t, simulator.Options{})
	r.onDisk()
	j := job(lines)
	r.exact(j)

	unharmed := r.child("")
	begun := time.Now()
	if said, killed := unharmed.wait(); said != "" || killed {
		t.Fatalf("a child that nobody kills says %q", said)
	}
	run := time.Since(begun)
	ends := []string{string(jobs.Preparing), string(jobs.Scanning), string(jobs.Publishing), "behind the commit", string(jobs.Done)}
	for len(ends) < 15 {
		ends = append(ends, "")
	}
	_, last := r.read(j)
	published, killed := 0, 0
	for _, end := range ends {
		must(t, errOf(r.server.Update(lines, 15)))
		must(t, errOf(r.server.Insert(lines, 2)))
		must(t, errOf(r.server.Delete(lines, 2)))
		mark, version := r.oracle.Mark(), r.version(j)
		l := r.child(end)
		if end == "" {
			time.Sleep(rand.N(run * 5 / 4)) // some behind its end
			_ = l.cmd.Process.Kill()
		}
		if _, k := l.wait(); k {
			killed++
		}
		columns, rows := r.read(j)
		switch got := r.version(j); {
		case got == version:
			if !slices.EqualFunc(rows, last, slices.Equal[simulator.Row]) {
				t.Fatalf("killed %s: the previous version has changed", end)
			}
			if end == "behind the commit" || end == string(jobs.Done) {
				t.Errorf("killed %s: not published", end)
			}
		case got == version+1:
			published++
			if err := r.oracle.Check(mark, lines, "", columns, slices.Values(rows)); err != nil {
				t.Fatalf("killed %s: %v", end, err)
			}
			last = rows
		default:
			t.Fatalf("version %d became %d", version, got)
		}
	}
	t.Logf("a run takes %v; of %d processes %d were killed, %d published", run, len(ends), killed, published)

	dead, err := r.ledger.Interrupt(t.Context(), jobs.Alive)
	must(t, err)
	res := r.exact(j)
	all, err := r.ledger.List(t.Context(), ledger.Query{})
	must(t, err)
	states := map[ledger.State]int{}
	for _, run := range all {
		states[run.State]++
	}
	if states[ledger.Running] > 0 || states[ledger.Interrupted] < 5 || states[ledger.Interrupted] > killed || len(dead) > 1 {
		t.Errorf("%v, %d killed", states, killed)
	}
	r.returned(res.RunID) // verifies the audit log
	report, err := r.dataset(j).Verify(t.Context())
	if err != nil || len(report.Problems) > 0 {
		t.Errorf("%v %v", report.Problems, err)
	}
}

// Two processes run the same job at the same time: a version for each winner, and never a mixed one.
func TestTwoProcessesAtOnce(t *testing.T) {
	r := newRig(t, simulator.Options{})
	r.onDisk()
	j := job(lines)
	r.exact(j)
	for range 4 {
		must(t, errOf(r.server.Update(lines, 15)))
		mark, version := r.oracle.Mark(), r.version(j)
		said := make([]string, 2)
		pair := []*life{r.child(""), r.child("")}
		var both sync.WaitGroup
		for i, l := range pair {
			both.Go(func() { said[i], _ = l.wait() })
		}
		both.Wait()
		won := int64(0)
		for _, s := range said {
			switch {
			case s == "":
				won++
			case !strings.HasPrefix(s, string(jobs.Conflict)):
				t.Errorf("the loser says %q", s)
			}
		}
		if got := r.version(j); got != version+won || won == 0 {
			t.Errorf("%d won, version %d became %d", won, version, got)
		}
		columns, rows := r.read(j)
		must(t, r.oracle.Check(mark, lines, "", columns, slices.Values(rows)))
	}
	runs, err := r.ledger.List(t.Context(), ledger.Query{State: ledger.Running})
	if err != nil || len(runs) > 0 {
		t.Errorf("%v %v", runs, err)
	}
	r.returned("")
}

// childLease is how long a child may be silent. What a busy machine adds to it only lets the tests wait.
const childLease = 2 * time.Second

// A process that was killed in the middle of its run leaves its lease: the same state directory passes at once, another after the lease's time.
func TestKilledHolder(t *testing.T) {
	r := newRig(t, simulator.Options{})
	r.onDisk()
	j := job(lines)
	r.exact(j)
	for _, owner := range []string{"theirs", "ours"} {
		if said, killed := r.child(string(jobs.Scanning), childOwner+"=theirs").wait(); !killed {
			t.Fatalf("not killed: %q", said)
		}
		holders, err := r.dataset(j).LeaseHolders(t.Context())
		must(t, err)
		if len(holders) != 1 || holders[0].Owner != "theirs" {
			t.Fatalf("%+v", holders)
		}
		r.runner.Owner, r.runner.Lease = owner, childLease
		began := time.Now()
		r.exact(j)
		if waited := time.Since(began); owner == "ours" && waited < childLease {
			t.Errorf("took over after %s", waited)
		}
		if holders, err := r.dataset(j).LeaseHolders(t.Context()); err != nil || len(holders) > 0 {
			t.Errorf("%+v %v", holders, err)
		}
	}
}

// A process that was stopped in the middle of its run, for longer than its lease, publishes nothing when it goes on.
func TestStoppedHolder(t *testing.T) {
	r := newRig(t, simulator.Options{Behavior: simulator.Behavior{RowsPerSecond: 500}})
	r.onDisk()
	j := job(lines)
	l := r.child("", childOwner+"=theirs")
	for r.server.Stats().Rows < 120 {
		time.Sleep(time.Millisecond)
	}
	must(t, l.cmd.Process.Signal(syscall.SIGSTOP))
	ours := r.beside("ours") // the stopped process may have locks in its own state directory
	ours.Lease = childLease
	mark := r.oracle.Mark()
	res, err := ours.Run(t.Context(), jobs.Request{Job: j})
	must(t, err)
	must(t, l.cmd.Process.Signal(syscall.SIGCONT))
	said, killed := l.wait()
	if killed || !strings.HasPrefix(said, string(jobs.Conflict)) {
		t.Errorf("killed %v, said %q", killed, said)
	}
	if v := r.version(j); v != res.Version {
		t.Errorf("version %d became %d", res.Version, v)
	}
	columns, rows := r.read(j)
	must(t, r.oracle.Check(mark, lines, "", columns, slices.Values(rows)))
	for _, key := range r.keys() {
		if strings.Contains(key, "part-") && !strings.Contains(key, res.RunID) {
			t.Errorf("%s was left behind", key)
		}
	}
}

// A person's Ctrl-C, as the program hears it.
func TestInterruptSignal(t *testing.T) {
	r := newRig(t, simulator.Options{Behavior: simulator.Behavior{RowsPerSecond: 500}})
	r.onDisk()
	l := r.child("")
	for r.server.Stats().Rows < 120 {
		time.Sleep(time.Millisecond)
	}
	must(t, l.cmd.Process.Signal(os.Interrupt))
	said, killed := l.wait()
	if killed || !strings.HasPrefix(said, string(jobs.Canceled)) {
		t.Fatalf("killed %v, said %q", killed, said)
	}
	runs, err := r.ledger.List(t.Context(), ledger.Query{})
	must(t, err)
	if len(runs) != 1 || runs[0].State != ledger.Canceled {
		t.Fatalf("%+v", runs)
	}
	r.returned(runs[0].ID)
	if keys := r.keys(); len(keys) > 0 {
		t.Errorf("left behind: %v", keys)
	}
}
