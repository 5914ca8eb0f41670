package judge

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// Engine has another engine do something to the dataset (or directory) in dir, through .ci/readers/engine.py: "create", "append",
// "checkpoint" and "compact" are delta-rs'.
func Engine(t testing.TB, command, dir string) {
	t.Helper()
	r := find(t)
	r.script = filepath.Join(filepath.Dir(r.script), "engine.py")
	if _, err := r.run(command, dir, nil); err != nil {
		t.Fatalf("judge: %v", err)
	}
}

// Files has pyarrow and DuckDB write Parquet files of many shapes into dir, all with the same columns of every type that tablexport
// publishes. The value of a name is true for a file that can be read exactly, false for one that must be refused, and nil where
// either is right.
func Files(t testing.TB, dir string) map[string]*bool {
	t.Helper()
	Engine(t, "files", dir)
	data, err := os.ReadFile(filepath.Join(dir, "files.json"))
	if err != nil {
		t.Fatalf("judge: %v", err)
	}
	var files map[string]*bool
	if err := json.Unmarshal(data, &files); err != nil {
		t.Fatalf("judge: %v", err)
	}
	return files
}
