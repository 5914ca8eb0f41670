package main

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Whoever replaces a file at the same time as others leaves it whole, and nothing beside it; where it cannot be replaced, nothing is left either.
func TestReplaceFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "seen.json")
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 40 {
				if err := replaceFile(path, bytes.Repeat([]byte{byte('a' + i)}, 5000)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	text, err := os.ReadFile(path)
	if err != nil || len(text) != 5000 || !bytes.Equal(text, bytes.Repeat(text[:1], 5000)) {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	taken := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(taken, "by a directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(taken, []byte("x")); err == nil {
		t.Error("a directory was replaced")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left: %v, %v", entries, err)
	}
}
