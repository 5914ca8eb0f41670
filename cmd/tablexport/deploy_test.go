package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tablexport/tablexport/configs"
)

var deployDir = filepath.Join("..", "..", "configs", "deploy")

func deployed(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(deployDir, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Every command line in the deployment files is one that this program takes.
func TestDeployedCommandLines(t *testing.T) {
	t.Parallel()
	var lines [][]string
	for _, m := range regexp.MustCompile(`(?m)^Exec\w+=/usr/local/bin/tablexport (.*)$`).FindAllStringSubmatch(deployed(t, "tablexport.service"), -1) {
		lines = append(lines, strings.Fields(m[1]))
	}
	words := func(list string) (out []string) {
		for w := range strings.SplitSeq(list, ",") {
			out = append(out, strings.Trim(w, ` "'`))
		}
		return out
	}
	var entry []string
	for _, m := range regexp.MustCompile(`(?m)(ENTRYPOINT|CMD) \[(.*)\]$`).FindAllStringSubmatch(deployed(t, "Dockerfile"), -1) {
		switch w := words(m[2]); {
		case w[0] == "/usr/local/bin/tablexport" && m[1] == "CMD":
			lines = append(lines, w[1:])
		case m[1] == "ENTRYPOINT":
			entry = w[1:]
		default:
			lines = append(lines, append(slices.Clone(entry), w...)) // CMD stands above ENTRYPOINT nowhere
		}
	}
	for _, m := range regexp.MustCompile(`command: \[/usr/local/bin/tablexport, (.*)\]`).FindAllStringSubmatch(deployed(t, "kubernetes/statefulset.yaml"), -1) {
		lines = append(lines, words(strings.TrimSuffix(m[1], "]")))
	}
	for _, m := range regexp.MustCompile(`(?m)^ +(?:command|args): \[((?:serve|simulate)(?:, .*)?)\]`).FindAllStringSubmatch(deployed(t, "compose/compose.yaml")+deployed(t, "kubernetes/statefulset.yaml"), -1) {
		lines = append(lines, append(slices.Clone(entry), words(m[1])...))
	}
	if len(lines) < 8 {
		t.Fatalf("only %d command lines were found: %q", len(lines), lines)
	}
	for _, line := range lines {
		root := newRoot(&globals{})
		c, rest, err := root.Find(line)
		if err == nil && c == root {
			err = errors.New("no command")
		}
		if err == nil {
			err = c.ParseFlags(rest)
		}
		if err == nil {
			err = c.ValidateArgs(c.Flags().Args())
		}
		if err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
}

// The configurations of the deployments are valid, and what they mount is where they look for it.
func TestDeployedConfigurations(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"kubernetes/tablexport.yaml", "compose/tablexport.yaml"} {
		if _, err := configs.Load(filepath.Join(deployDir, filepath.FromSlash(name)), configChecks); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	contains(t, deployed(t, "kubernetes/statefulset.yaml"), "mountPath: /var/run/secrets/vault,", "path: token,")
	contains(t, deployed(t, "kubernetes/tablexport.yaml"), "file: /var/run/secrets/vault/token}")
	contains(t, deployed(t, "compose/compose.yaml"), "run-identity:/run/vault:ro", "rotate-identity:/run/vault:ro")
	contains(t, deployed(t, "compose/tablexport.yaml"), "/run/vault/role-id", "/run/vault/secret-id")
	// The service manager waits longer than a drain takes by default, and what systemd never starts again is what the help says.
	contains(t, deployed(t, "tablexport.service"), "TimeoutStopSec=4min", "RestartPreventExitStatus=2 3 7", "LoadCredential=", "WatchdogSec=")
}

// The image is built from what .dockerignore lets through: everything that the program is made of, and no test data.
func TestImageContext(t *testing.T) {
	t.Parallel()
	ignore := deployed(t, "Dockerfile.dockerignore")
	entries, err := os.ReadDir(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		found := false
		err := filepath.WalkDir(filepath.Join("..", "..", e.Name()), func(path string, d os.DirEntry, err error) error {
			found = found || strings.HasSuffix(path, ".go")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if let := strings.Contains(ignore, "\n!"+e.Name()+"\n"); let != found {
			t.Errorf("%s holds Go files: %v; the image's context has it: %v", e.Name(), found, let)
		}
	}
}
