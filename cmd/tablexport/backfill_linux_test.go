package main

import (
	"strings"
	"testing"

	"github.com/tablexport/tablexport/odata/simulator"
)

// On a terminal a person is asked first, and no is no.
func TestBackfillAsks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}, historyJob).stage()
	for _, x := range []struct {
		answer string
		code   int
		files  int
	}{{"n\n", exitInterrupted, 0}, {"\n", exitInterrupted, 0}, {"yes\n", exitOK, 1}} {
		keyboard, device, screen := terminal(t)
		c := program(t, "-c", w.config, "backfill", "history", "--from", "2023-05", "--to", "2023-05")
		c.Stdin, c.Stdout, c.Stderr = device, device, device
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		until(t, "the question", func() bool { return strings.Contains(screen.String(), "Read 1 windows now? [y/N]") })
		if _, err := keyboard.WriteString(x.answer); err != nil {
			t.Fatal(err)
		}
		if code := exitOf(t, c.Wait()); code != x.code || w.published("history") != x.files {
			t.Errorf("%q: exit %d, %d files: %s", x.answer, code, w.published("history"), screen.String())
		}
	}
}
