//go:build unix

package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/tablexport/tablexport/odata/simulator"
)

// As a unit of Type=notify, serve says when it is ready, feeds the watchdog, and says that it stops; health asks it meanwhile.
func TestServiceManager(t *testing.T) {
	t.Parallel()
	free, err := net.Listen("tcp", "127.0.0.1:0") // a port that the next process can have
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, simulator.Options{}, "serve: {listen: '"+free.Addr().String()+"'}")
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	contains(t, w.must(exitUnavailable, "health").err, "does not answer at "+free.Addr().String())
	dir, err := os.MkdirTemp("", "n") // names of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()

	s := &served{t: t, log: &buffer{}, done: make(chan struct{})}
	s.cmd = exec.CommandContext(t.Context(), os.Args[0], "-c", w.config, "serve")
	s.cmd.Env = append(os.Environ(), "TABLEXPORT_TEST_AS_PROGRAM=1", "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=400000")
	s.cmd.Stderr = s.log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.cmd.Wait(); close(s.done) }()
	t.Cleanup(func() { _ = s.cmd.Process.Kill(); <-s.done })

	next := func(want string) {
		t.Helper()
		if err := manager.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 256)
		n, err := manager.Read(b)
		if err != nil || string(b[:n]) != want {
			t.Fatalf("%q (%v), want %q; log: %s", b[:n], err, want, s.log)
		}
	}
	next("READY=1")
	next("WATCHDOG=1")
	next("WATCHDOG=1")
	contains(t, w.must(exitOK, "health").out, "clock    ok", "ledger   ok")
	contains(t, w.must(exitOK, "health", "--live", "--json").out, `"ok":true`)
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; {
		b := make([]byte, 256)
		_ = manager.SetReadDeadline(end)
		n, err := manager.Read(b)
		if err != nil {
			t.Fatalf("it does not say that it stops: %v; log: %s", err, s.log)
		}
		if string(b[:n]) == "STOPPING=1" {
			break
		}
	}
	<-s.done
}
