package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tablexport/tablexport/odata/simulator"
)

// terminal makes a terminal; what is written to the screen gathers in the buffer.
func terminal(t *testing.T) (keyboard, device *os.File, screen *buffer) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	device, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(device.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 120}); err != nil {
		t.Fatal(err)
	}
	screen = &buffer{}
	go func() { _, _ = io.Copy(screen, keyboard) }()
	t.Cleanup(func() {
		_ = device.Close()
		_ = keyboard.Close()
	})
	return keyboard, device, screen
}

// On a terminal a run shows how far it is, and takes that away at its end, whether it is a good one or not.
func TestProgress(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{Behavior: simulator.Behavior{RowsPerSecond: 1500, Count: simulator.PathCount}}).stage()
	w.server.Inject(simulator.Fault{Nth: 3, Effect: simulator.DropRow(5)}) // the scan is repeated
	for _, code := range []int{exitOK, exitCredential} {
		_, device, screen := terminal(t)
		c := program(t, "-c", w.config, "run", "orders")
		var out buffer
		c.Stdout, c.Stderr = &out, device
		if got := exitOf(t, c.Run()); got != code {
			t.Fatalf("exit %d: %s", got, screen.String())
		}
		until(t, "the end of the output", func() bool {
			return strings.HasSuffix(screen.String(), "\n") || code == exitOK && len(screen.String()) > 0
		})
		time.Sleep(20 * time.Millisecond)
		shown := screen.String()
		if strings.Contains(out.String(), "rows/s") || strings.Contains(out.String(), "\r") {
			t.Errorf("progress on standard output: %q", out.String())
		}
		if code == exitOK {
			for _, want := range []string{`orders  reading  [0-9,]+ rows  [0-9,]+ rows/s  [0-9]+ requests`, `\(scan 2\)`} {
				if !regexp.MustCompile(want).MatchString(shown) {
					t.Errorf("%q is not shown: %q", want, shown)
				}
			}
		}
		// What stays on the screen is what stands behind the last return of the carriage on each line.
		var stays []string
		for line := range strings.Lines(strings.ReplaceAll(shown, "\r\n", "\n")) {
			line = line[strings.LastIndexByte(line, '\r')+1:]
			if i := strings.LastIndex(line, "\x1b[2K"); i >= 0 {
				line = line[i+len("\x1b[2K"):]
			}
			stays = append(stays, strings.TrimSpace(line))
		}
		if left := strings.Join(stays, "\n"); strings.Contains(left, "rows/s") || code == exitOK && left != "" {
			t.Errorf("this stays on the screen: %q", left)
		}
		w.server.Revoke(testToken)
	}
}

// The prompt does not show what is typed, and Ctrl-C at it leaves a terminal that does.
func TestPrompt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{})
	echoes := func(device *os.File) bool {
		state, err := unix.IoctlGetTermios(int(device.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return state.Lflag&unix.ECHO != 0
	}
	for _, interrupted := range []bool{true, false} {
		keyboard, device, screen := terminal(t)
		c := program(t, "-c", w.config, "tokens", "stage", "bi/reader")
		var out buffer
		c.Stdin, c.Stdout, c.Stderr = device, &out, device
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		until(t, "the prompt", func() bool { return strings.Contains(screen.String(), "nothing is shown") && !echoes(device) })
		want := exitOK
		if interrupted {
			want = exitInterrupted
			_ = c.Process.Signal(os.Interrupt)
		} else if _, err := keyboard.WriteString(testToken + "\n"); err != nil {
			t.Fatal(err)
		}
		if code := exitOf(t, c.Wait()); code != want {
			t.Errorf("exit %d, want %d: %s", code, want, screen.String())
		}
		if !echoes(device) {
			t.Error("the terminal does not show what is typed any more")
		}
		if strings.Contains(screen.String()+out.String(), testToken) {
			t.Errorf("the token is on the screen: %q", screen.String())
		}
	}
}
