// Command gotest runs "go test" with the arguments it is given and says at the end what was skipped, and why.
//
//	go run .ci/gotest/main.go -race ./...
//
// Packages are reported as they finish; of the tests' output only that of failures is shown. The exit code is that of
// "go test".
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

func main() {
	began := time.Now()
	command := exec.Command("go", append([]string{"test", "-json"}, os.Args[1:]...)...)
	command.Stderr = os.Stderr
	stdout, err := command.StdoutPipe()
	if err == nil {
		err = command.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
		os.Exit(1)
	}
	r := newReport(os.Stdout)
	if err := r.read(stdout); err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
	}
	err = command.Wait()
	r.summary(time.Since(began))
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(max(1, exit.ExitCode()))
	}
}

// event is a line of "go test -json".
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Output     string
	Elapsed    float64
}

type test struct{ pkg, name string }

type report struct {
	to       io.Writer
	output   map[test][]string   // of tests that have not ended, and of packages
	skipped  map[string][]string // tests by reason
	packages int
	passed   int
	failed   int
}

func newReport(to io.Writer) *report {
	return &report{to: to, output: map[test][]string{}, skipped: map[string][]string{}}
}

func (r *report) read(events io.Reader) error {
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil {
				r.take(e)
			} else {
				fmt.Fprintf(r.to, "%s", line)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *report) take(e event) {
	id := test{e.Package, e.Test}
	switch {
	case e.Action == "build-output":
		fmt.Fprint(r.to, e.Output)
	case e.Action == "output":
		r.output[id] = append(r.output[id], e.Output)
	case e.Test != "":
		r.endTest(id, e)
	case e.Action == "pass" || e.Action == "fail" || e.Action == "skip":
		r.endPackage(id, e)
	}
}

func (r *report) endTest(id test, e event) {
	switch e.Action {
	case "pass":
		r.passed++
	case "fail":
		r.failed++
		fmt.Fprint(r.to, strings.Join(r.output[id], ""))
	case "skip":
		reason := reasonOf(r.output[id])
		r.skipped[reason] = append(r.skipped[reason], short(id.pkg)+": "+id.name)
	default: // start, run, pause, cont
		return
	}
	delete(r.output, id)
}

func (r *report) endPackage(id test, e event) {
	if e.Action == "skip" { // no test files
		return
	}
	r.packages++
	word := "ok  "
	if e.Action == "fail" {
		word = "FAIL"
		for other, output := range r.output { // of the package itself, and of tests that a panic or a timeout cut off
			if other.pkg == id.pkg {
				fmt.Fprint(r.to, strings.Join(output, ""))
			}
		}
	}
	maps.DeleteFunc(r.output, func(other test, _ []string) bool { return other.pkg == id.pkg })
	fmt.Fprintf(r.to, "%s %7.1fs  %s\n", word, e.Elapsed, short(e.Package))
}

func (r *report) summary(took time.Duration) {
	count := 0
	for _, tests := range r.skipped {
		count += len(tests)
	}
	fmt.Fprintf(r.to, "\n%d packages in %v: %d tests passed, %d failed, %d skipped\n",
		r.packages, took.Round(time.Second), r.passed, r.failed, count)
	for _, reason := range slices.Sorted(maps.Keys(r.skipped)) {
		fmt.Fprintf(r.to, "skipped, because %s:\n", reason)
		for _, name := range r.skipped[reason] {
			fmt.Fprintf(r.to, "  %s\n", name)
		}
	}
}

var logged = regexp.MustCompile(`^\s+\S+\.go:\d+: (.*)`)

// reasonOf is what a test gave to Skip.
func reasonOf(output []string) string {
	for _, line := range slices.Backward(output) {
		if match := logged.FindStringSubmatch(line); match != nil {
			return strings.TrimSpace(match[1])
		}
	}
	return "the test did not say why"
}

// short is a package's path below the module.
func short(pkg string) string {
	return strings.TrimPrefix(pkg, "github.com/tablexport/tablexport/")
}
