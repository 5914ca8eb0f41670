//go:build unix

package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/tablexport/tablexport/odata/simulator"
)

// serve as a process: it takes a staged token by itself, is killed, and retires the old one at its next start. A configuration that takes the rotation away
// is followed.
func TestServeRotates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}).stage()
	for _, token := range []string{nextToken, canaryToken} {
		if err := w.server.Issue(simulator.Token{Value: token}); err != nil {
			t.Fatal(err)
		}
	}
	w.edit("stores:", "serve: {listen: \"127.0.0.1:0\"}\nrotations: {sim: {grace: 1ns}}\nstores:")
	w.mustWith(exitOK, nextToken, "tokens", "stage", "bi/reader")
	s := w.serve()
	until(t, "the activation", func() bool { return w.states() == "retiring active" })
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-s.done
	w.server.Revoke(testToken)
	s = w.serve()
	until(t, "the retirement", func() bool { return w.states() == "retired active" })
	if code := s.end(syscall.SIGTERM); code != exitOK {
		t.Errorf("exit %d: %s", code, s.log)
	}
	w.edit("rotations: {sim: {grace: 1ns}}\n", "")
	w.mustWith(exitOK, canaryToken, "tokens", "stage", "bi/reader")
	s = w.serve()
	if code := s.end(os.Interrupt); code != exitOK || w.states() != "retired active staged" {
		t.Errorf("exit %d, %s: %s", code, w.states(), s.log)
	}
	w.must(exitOK, "audit", "verify")
	w.holdsNo(testToken, nextToken, canaryToken)
}

// The scheduled rotation is killed (SIGKILL) at one request to the instance after another; whatever it leaves, jobs have a token, and the next one goes on.
func TestRotateDueThroughSIGKILL(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{Behavior: simulator.Behavior{Count: simulator.PathCount}})
	var left atomic.Int64 // requests until the kill
	var victim atomic.Pointer[os.Process]
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if p := victim.Load(); p != nil && left.Add(-1) == 0 {
			_ = p.Kill()
		}
		w.server.ServeHTTP(rw, r)
	}))
	t.Cleanup(front.Close)
	w.edit(w.address, front.URL)
	w.stage()
	if err := w.server.Issue(simulator.Token{Value: nextToken}); err != nil {
		t.Fatal(err)
	}
	w.edit("stores:", "rotations: {sim: {grace: 1ns}}\nstores:")
	w.mustWith(exitOK, nextToken, "tokens", "stage", "bi/reader")
	w.server.Revoke(testToken)
	killed := 0
	for _, n := range []int64{1, 2, 4, 7, 11, 16, 22, 29, 1 << 40} {
		left.Store(n)
		c := program(t, "-c", w.config, "tokens", "rotate", "--due")
		var out buffer
		c.Stdout, c.Stderr = &out, &out
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		victim.Store(c.Process)
		code := exitOf(t, c.Wait())
		victim.Store(nil)
		if code == -1 {
			killed++
		}
		if states := w.states(); strings.Count(states, "active") != 1 || code == exitOK && states != "retired active" {
			t.Fatalf("request %d, exit %d: %s\n%s", n, code, states, out.String())
		}
		w.must(exitOK, "audit", "verify")
	}
	if killed < 4 || w.states() != "retired active" {
		t.Errorf("killed %d times: %s", killed, w.states())
	}
	w.must(exitOK, "run", "shop")
	w.holdsNo(testToken, nextToken)
}
