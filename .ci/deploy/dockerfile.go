package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// dockerfile parses as docker build does, its own linter included.
func dockerfile(path string, f *faults) string {
	text, err := os.ReadFile(path)
	if err != nil {
		f.add("%v", err)
		return ""
	}
	tree, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		f.add("%v", err)
		return ""
	}
	for _, w := range tree.Warnings {
		f.add("%s", w.Short)
	}
	lint := linter.New(&linter.Config{Warn: func(rule, _, _, message string, where []parser.Range) {
		line := 0
		if len(where) > 0 {
			line = where[0].Start.Line
		}
		f.add("line %d: %s: %s", line, rule, message)
	}})
	stages, _, err := instructions.Parse(tree.AST, lint)
	if err != nil {
		f.add("%v", err)
		return ""
	}
	n := 0
	for _, stage := range stages {
		n += len(stage.Commands)
		f.want(stage.BaseName == "scratch" || strings.Contains(stage.BaseName, ":"), "FROM %s: write which version", stage.BaseName)
	}
	last(stages[len(stages)-1], f)
	return fmt.Sprintf("%d stages, %d instructions", len(stages), n)
}

// last is the stage that is shipped: one static program and no root.
func last(stage instructions.Stage, f *faults) {
	f.want(stage.BaseName == "scratch", "the image is built on %s: everything in it can be attacked", stage.BaseName)
	var user string
	var health, entry, certificates bool
	for _, c := range stage.Commands {
		switch c := c.(type) {
		case *instructions.UserCommand:
			user = c.User
		case *instructions.HealthCheckCommand:
			health = true
			f.want(c.Health.Test[0] == "CMD", "HEALTHCHECK needs the exec form: there is no shell")
		case *instructions.EntrypointCommand:
			entry = !c.PrependShell
		case *instructions.CmdCommand:
			f.want(!c.PrependShell, "CMD needs the exec form: there is no shell")
		case *instructions.CopyCommand:
			certificates = certificates || strings.HasSuffix(c.DestPath, "/ca-certificates.crt")
			f.want(c.From != "", "COPY takes files of the context into the image, which may hold what must not leave this machine")
		case *instructions.EnvCommand:
			for _, e := range c.Env {
				f.want(!secretName(e.Key), "ENV %s: an image keeps it for everybody", e.Key)
			}
		}
	}
	uid, _, _ := strings.Cut(user, ":")
	f.want(uid != "" && uid != "root" && uid != "0" && strings.Trim(uid, "0123456789") == "", "USER %q: a number other than 0, so that runAsNonRoot can be checked", user)
	f.want(health, "there is no HEALTHCHECK")
	f.want(entry, "ENTRYPOINT needs the exec form: signals must reach the program")
	f.want(certificates, "no certificates of public authorities: no TLS connection is accepted")
}

// secretName tells names of variables that hold secrets; those of files with secrets are fine.
func secretName(name string) bool {
	upper := strings.ToUpper(name)
	if strings.HasSuffix(upper, "_FILE") {
		return false
	}
	for _, word := range []string{"PASSWORD", "SECRET", "TOKEN", "ACCESS_KEY", "PRIVATE_KEY"} {
		if strings.Contains(upper, word) {
			return true
		}
	}
	return false
}
