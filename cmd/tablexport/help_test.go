package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tablexport/tablexport/configs"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/odata/edm"
)

func walk(c *cobra.Command, do func(*cobra.Command)) {
	do(c)
	for _, sub := range c.Commands() {
		walk(sub, do)
	}
}

func TestEveryCommandIsExplained(t *testing.T) {
	n := 0
	walk(newRoot(&globals{}), func(c *cobra.Command) {
		n++
		path := c.CommandPath()
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: the short text is %q", path, c.Short)
		}
		help := invoke(t.Context(), "", append(strings.Fields(path)[1:], "--help")...)
		if help.code != exitOK || help.err != "" {
			t.Errorf("%s --help: %s", path, help)
		}
		for _, want := range []string{"Exit codes: 0 ok", "130 interrupted", "Examples:\n  tablexport "} {
			if !strings.Contains(help.out, want) {
				t.Errorf("%s --help lacks %q:\n%s", path, want, help.out)
			}
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s: the flag --%s is not explained", path, f.Name)
			}
		})
		for line := range strings.Lines(c.Example) {
			checkLine(t, path, line)
		}
	})
	if n < 25 {
		t.Errorf("the walk met %d commands", n)
	}
}

var (
	fenced   = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```")
	inline   = regexp.MustCompile("(?s)`([^`]+)`")
	redirect = regexp.MustCompile(`\s(>|\||&&).*$`)
)

// checkLine checks that a command line of this program, where there is one on a line, names commands and flags that exist.
func checkLine(t *testing.T, where, line string) {
	t.Helper()
	line, _, _ = strings.Cut(line, " #")
	line = strings.TrimSpace(line)
	if i := strings.LastIndex(line, "| tablexport "); i >= 0 {
		line = line[i+2:]
	}
	line = strings.TrimPrefix(strings.TrimPrefix(line, "$ "), "go run ./cmd/")
	line = redirect.ReplaceAllString(line, "")
	words := strings.Fields(line)
	if len(words) == 0 || words[0] != "tablexport" || strings.Contains(line, "…") {
		return
	}
	root := newRoot(&globals{})
	c, rest, err := root.Find(words[1:])
	if err != nil {
		t.Errorf("%s: %q: %v", where, line, err)
		return
	}
	if err := c.ParseFlags(rest); errors.Is(err, pflag.ErrHelp) {
		return
	} else if err != nil {
		t.Errorf("%s: %q: %v", where, line, err)
		return
	}
	args := c.Flags().Args()
	if c.Args != nil {
		if err := c.Args(c, args); err != nil {
			t.Errorf("%s: %q: %v", where, line, err)
		}
	}
}

// Every command line in the documents can be typed, and every configuration in them is accepted.
func TestDocumentsAreTrue(t *testing.T) {
	root := moduleRoot(t)
	documents, err := filepath.Glob(filepath.Join(root, "docs", "*.*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "SECURITY.md"} {
		documents = append(documents, filepath.Join(root, name))
	}
	lines, configurations := 0, 0
	for _, document := range documents {
		data, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		name, text := filepath.Base(document), string(data)
		for _, block := range fenced.FindAllStringSubmatch(text, -1) {
			if block[1] == "yaml" {
				configurations++
				checkConfiguration(t, name, []byte(block[2]))
			}
			for line := range strings.Lines(block[2]) {
				lines += strings.Count(line, "tablexport ")
				checkLine(t, name, line)
			}
		}
		for _, span := range inline.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
			lines += strings.Count(span[1], "tablexport ")
			checkLine(t, name, strings.ReplaceAll(span[1], "\n", " "))
		}
		for line := range strings.Lines(text) { // links lead somewhere
			for _, link := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(line, -1) {
				if _, err := os.Stat(filepath.Join(filepath.Dir(document), link[1])); err != nil {
					t.Errorf("%s: the link to %s leads nowhere", name, link[1])
				}
			}
		}
	}
	if lines < 15 || configurations == 0 {
		t.Errorf("%d command lines and %d configurations were found; is the search broken?", lines, configurations)
	}
}

func checkConfiguration(t *testing.T, name string, data []byte) {
	t.Helper()
	cfg, err := configs.Parse(name, data, configChecks)
	if err != nil {
		t.Errorf("a configuration in %s is refused: %v", name, err)
		return
	}
	a := (&globals{}).app(cfg)
	for _, job := range cfg.JobNames() {
		j, err := a.job(job)
		if err == nil {
			_, err = jobs.NewPlan(j, edm.Embedded())
		}
		if err != nil {
			t.Errorf("a configuration in %s: job %s: %v", name, job, err)
		}
	}
}

func TestExitCodesInReadme(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(moduleRoot(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"`0` ok", "`2` usage", "`3` configuration", "`4` credential", "`5` row outside the scope", "`6` service unavailable", "`7` conflict", "`8` data refused", "`130` interrupted"} {
		if !strings.Contains(string(data), want) {
			t.Errorf("README.md lacks %q", want)
		}
	}
}
