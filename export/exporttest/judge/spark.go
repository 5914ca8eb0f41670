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

// The readers that [Spark] asks.
const (
	ReaderSpark     = "spark"      // Spark's own vectorized reader
	ReaderParquetMR = "parquet-mr" // parquet-java, which Spark uses where its own reader is turned off, and Hive, Trino and Impala began with
)

// Table is a dataset at a version; -1 is the newest.
type Table struct {
	Dir     string
	Version int64
}

// Spark returns the rows of tables as Spark reads them through Delta's own library, in no particular order: by reader, then in
// the order of the tables. It takes a minute, so that a test names all its tables at once, and is skipped unless TABLEXPORT_SPARK=1 says that
// Spark is there (make spark).
func Spark(t testing.TB, tables ...Table) map[string][][]Row {
	t.Helper()
	if os.Getenv("TABLEXPORT_SPARK") != "1" {
		t.Skip("Spark takes its time: make spark")
	}
	java, err := exec.LookPath("java")
	if err != nil {
		t.Fatalf("judge: %v", err)
	}
	found, err := spark(java, filepath.Join(cache(), "spark"), tables)
	if err != nil {
		t.Fatalf("judge: %v", err)
	}
	return found
}

func spark(java, installed string, tables []Table) (map[string][][]Row, error) {
	arguments := []string{"-Xmx1g", "-Duser.timezone=UTC"}
	// What Spark reaches into: org.apache.spark.launcher.JavaModuleOptions.
	for _, name := range []string{"lang", "lang.invoke", "lang.reflect", "io", "net", "nio", "util", "util.concurrent", "util.concurrent.atomic"} {
		arguments = append(arguments, "--add-opens=java.base/java."+name+"=ALL-UNNAMED")
	}
	for _, name := range []string{"nio.ch", "nio.cs", "security.action", "util.calendar"} {
		arguments = append(arguments, "--add-opens=java.base/sun."+name+"=ALL-UNNAMED")
	}
	arguments = append(arguments, "-cp", filepath.Join(installed, "classes")+string(os.PathListSeparator)+filepath.Join(installed, "jars", "*"), "Judge")
	for _, table := range tables {
		arguments = append(arguments, table.Dir, strconv.FormatInt(table.Version, 10))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	process := exec.CommandContext(ctx, java, arguments...)
	var output, complaint bytes.Buffer
	process.Stdout, process.Stderr = &output, &complaint
	if err := process.Run(); err != nil {
		return nil, fmt.Errorf("Spark: %w\n%s", err, complaint.Bytes())
	}
	found := map[string][][]Row{ReaderSpark: make([][]Row, len(tables)), ReaderParquetMR: make([][]Row, len(tables))}
	decoder := json.NewDecoder(&output)
	decoder.UseNumber()
	for {
		var line struct {
			Reader string
			Table  int
			Row    Row
		}
		err := decoder.Decode(&line)
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, fmt.Errorf("Spark: %w", err)
		}
		if line.Table < 0 || line.Table >= len(found[line.Reader]) {
			return nil, fmt.Errorf("Spark tells of table %d, read by %q", line.Table, line.Reader)
		}
		of := found[line.Reader]
		of[line.Table] = append(of[line.Table], line.Row)
	}
}
