// Command deploy judges the files of configs/deploy with the parsers of those who run them: Kubernetes' own types, compose-go,
// BuildKit's Dockerfile frontend. What they can only be found to be wrong about when they run, it asks for by rule: no root, nothing
// writable, no privileges, one replica, probes, nothing secret in the environment. It is a module of its own, so that nobody who
// uses tablexport pays for these.
//
//	go run . ../../configs/deploy
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// faults are what is wrong with a file.
type faults struct {
	file  string
	found []string
}

func (f *faults) add(format string, args ...any) {
	f.found = append(f.found, f.file+": "+fmt.Sprintf(format, args...))
}

// want adds a fault if what is wanted does not hold.
func (f *faults) want(holds bool, format string, args ...any) {
	if !holds {
		f.add(format, args...)
	}
}

func main() {
	dir := "configs/deploy"
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	var all []string
	for _, check := range []struct {
		file  string
		judge func(path string, f *faults) string
	}{{"Dockerfile", dockerfile}, {"kubernetes", manifests}, {"compose/compose.yaml", compose}} {
		f := &faults{file: check.file}
		did := check.judge(filepath.Join(dir, check.file), f)
		if len(f.found) == 0 {
			fmt.Printf("ok    %-22s %s\n", check.file, did)
		}
		all = append(all, f.found...)
	}
	for _, fault := range all {
		fmt.Println("FAIL  " + fault)
	}
	if len(all) > 0 {
		os.Exit(1)
	}
}
