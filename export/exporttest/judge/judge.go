// Package judge lets readers that are not ours say what a dataset holds.
//
// Delta tables are read by delta-rs, Parquet files by DuckDB, and the files' statistics by Arrow's C++ reader, through
// .ci/readers/judge.py. A value has one form whichever reader found it, so that rows can be compared as they are:
// numbers are [json.Number] with every digit, decimals are strings with all digits of their scale, timestamps are
// "2026-03-29T00:30:00.000000Z", dates are "2026-03-29", binary values are hexadecimal, null is nil.
//
// A dataset is a directory: copy one down from an object store to have it judged.
//
// [Spark] asks Spark, Delta's own library and parquet-mr; "make spark" installs them.
//
// The readers are installed by "make servers". A test that does not find them is skipped and says so; where
// TABLEXPORT_REQUIRE_SERVERS=1, as in "make check", it fails.
package judge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// Row is one row by column name.
type Row = map[string]any

// Option is a choice about what is read.
type Option func(*[]string)

// AtVersion asks for an older version of the dataset rather than the newest.
func AtVersion(version int64) Option {
	return func(arguments *[]string) {
		*arguments = append(*arguments, "--version", strconv.FormatInt(version, 10))
	}
}

// Rows returns the rows of a dataset as delta-rs reads them, in no particular order.
func Rows(t testing.TB, datasetDir string, options ...Option) []Row {
	t.Helper()
	return rows(t, "dump", datasetDir, options)
}

// DuckDBRows returns the rows of the files that the log of a dataset names, as DuckDB reads them, in no particular order.
func DuckDBRows(t testing.TB, datasetDir string, options ...Option) []Row {
	t.Helper()
	return rows(t, "duckdb", datasetDir, options)
}

// ParquetRows returns the rows of one Parquet file as DuckDB reads them, in the file's order.
func ParquetRows(t testing.TB, file string) []Row {
	t.Helper()
	return rows(t, "duckdb", file, nil)
}

// Report is what the readers found.
type Report struct {
	Version          int64    `json:"version"`
	Files            int      `json:"files"` // live ones
	Rows             int      `json:"rows"`
	Schema           []Column `json:"schema"`
	PartitionColumns []string `json:"partition_columns"`
	Statistics       struct {
		Checked int `json:"checked"` // column chunks whose statistics were held against their data
		Missing int `json:"missing"` // statistics that could be there and are not
	} `json:"statistics"`
	Problems []string `json:"problems"`
}

// Column is a column as the log declares it; the type is Delta's name for it, such as "decimal(20,2)".
type Column struct {
	Name     string `json:"name"`
	Type     string `json:"type"`
	Nullable bool   `json:"nullable"`
}

// Check reports a test error for everything that is not true of a dataset: rows on which the readers disagree, columns
// whose files hold another type than the log declares, nulls where there are none, sizes, row counts, and statistics of
// the files and of the log that their data contradicts.
func Check(t testing.TB, datasetDir string, options ...Option) Report {
	t.Helper()
	report, err := find(t).check(datasetDir, options)
	if err != nil {
		t.Fatalf("judge: %v", err)
	}
	for _, problem := range report.Problems {
		t.Errorf("judge: %s: %s", datasetDir, problem)
	}
	return report
}

func rows(t testing.TB, command, path string, options []Option) []Row {
	t.Helper()
	found, err := find(t).rows(command, path, options)
	if err != nil {
		t.Fatalf("judge: %v", err)
	}
	return found
}

// readers is how judge.py is run.
type readers struct{ python, script string }

// find returns the installed readers, or ends the test saying how to install them.
func find(t testing.TB) readers {
	t.Helper()
	python := filepath.Join(cache(), "venv", "bin", "python")
	if _, err := os.Stat(python); err != nil {
		missing := t.Skipf
		if os.Getenv("TABLEXPORT_REQUIRE_SERVERS") == "1" {
			missing = t.Fatalf
		}
		missing("the readers delta-rs and DuckDB are not installed at %s: run `make servers`", python)
		return readers{}
	}
	script, err := findScript()
	if err != nil {
		t.Fatalf("judge: %v", err)
	}
	return readers{python: python, script: script}
}

// cache is where .ci/tools.sh installs.
func cache() string {
	if dir := os.Getenv("TABLEXPORT_CACHE"); dir != "" {
		return dir
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(base, "tablexport")
}

// findScript looks for .ci/readers/judge.py above the directory in which the test runs.
func findScript() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		script := filepath.Join(dir, ".ci", "readers", "judge.py")
		if _, err := os.Stat(script); err == nil {
			return script, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no .ci/readers/judge.py above %s", start)
		}
	}
}

func (r readers) rows(command, path string, options []Option) ([]Row, error) {
	output, err := r.run(command, path, options)
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(output))
	decoder.UseNumber()
	var found []Row
	for {
		var row Row
		err := decoder.Decode(&row)
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, fmt.Errorf("row %d of %s: %w", len(found)+1, path, err)
		}
		found = append(found, row)
	}
}

func (r readers) check(datasetDir string, options []Option) (Report, error) {
	var report Report
	output, runErr := r.run("check", datasetDir, options)
	if err := json.Unmarshal(output, &report); err != nil {
		return Report{}, errors.Join(runErr, err)
	}
	if runErr != nil && len(report.Problems) == 0 { // an exit code of 1 comes with its reasons
		return Report{}, runErr
	}
	return report, nil
}

// run returns what judge.py printed. It has two minutes, which is many times what a test's dataset needs.
func (r readers) run(command, path string, options []Option) ([]byte, error) {
	arguments := []string{r.script, command, path}
	for _, choose := range options {
		choose(&arguments)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	process := exec.CommandContext(ctx, r.python, arguments...)
	process.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "PYTHONUTF8=1")
	var output, complaint bytes.Buffer
	process.Stdout, process.Stderr = &output, &complaint
	if err := process.Run(); err != nil {
		return output.Bytes(), fmt.Errorf("%s %s: %w\n%s", command, path, err, complaint.Bytes())
	}
	return output.Bytes(), nil
}
