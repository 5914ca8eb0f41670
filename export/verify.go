package export

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/parquet"
	"github.com/tablexport/tablexport/export/store"
)

// VerifyReport is the result of re-reading every live file against the log.
type VerifyReport struct {
	Version  int64
	Files    int
	Rows     int64
	Bytes    int64
	Problems []string // empty = everything is as the log says
}

// Verify re-reads every live file: size, row count, schema, every page, statistics. What is wrong with the data is in the
// report; the error is for what kept us from looking.
func (d *Dataset) Verify(ctx context.Context) (VerifyReport, error) {
	s, err := d.table(ctx)
	if err != nil {
		return VerifyReport{}, err
	}
	report := VerifyReport{Version: s.Version, Files: len(s.Files)}
	schema, err := fileSchema(s)
	if err != nil {
		return report, err
	}
	for _, f := range s.Files {
		problems, rows, size, err := d.verifyFile(ctx, f, schema)
		if err != nil {
			return report, err
		}
		report.Rows += rows
		report.Bytes += size
		report.Problems = append(report.Problems, problems...)
	}
	report.Problems = append(report.Problems, verifyRows(s, report.Rows)...)
	return report, nil
}

// verifyRows compares the rows with what their scans have counted: of the whole table if the newest version is a whole refresh of ours, of
// every window otherwise.
func verifyRows(s *delta.Snapshot, rows int64) (problems []string) {
	for _, w := range WindowsOf(s) {
		if w.Recorded >= 0 && w.Rows != w.Recorded {
			problems = append(problems, fmt.Sprintf("window %s: the files hold %d rows, its scan says %d", w.Value, w.Rows, w.Recorded))
		}
	}
	if len(s.Recent) == 0 || len(s.Metadata.PartitionColumns) > 0 {
		return problems
	}
	v := versionOf(s.Recent[0])
	want := v.Rows
	if v.Merge != nil {
		want = v.Merge.After
	}
	if v.Run == "" || v.Evidence == nil || want == rows {
		return problems
	}
	return append(problems, fmt.Sprintf("version %d: the files hold %d rows, the commit says %d", v.Version, rows, want))
}

func (d *Dataset) verifyFile(ctx context.Context, f delta.Add, schema *arrow.Schema) (problems []string, rows, size int64, err error) {
	key, err := f.Key()
	if err != nil {
		return []string{err.Error()}, 0, 0, nil //nolint:nilerr // a path that cannot be read is what verify is to report
	}
	bad := func(format string, args ...any) { problems = append(problems, key+": "+fmt.Sprintf(format, args...)) }
	info, err := d.b.Stat(ctx, key)
	switch {
	case err != nil && store.CodeOf(err) == store.NotFound:
		bad("the file is gone")
		return problems, 0, 0, nil
	case err != nil:
		return nil, 0, 0, fmt.Errorf("export: %w", err)
	case info.Size != f.Size:
		bad("%d bytes, the log says %d", info.Size, f.Size)
	}
	file, err := parquet.Verify(d.readerAt(ctx, key), info.Size)
	if err != nil {
		if code := store.CodeOf(err); ctx.Err() != nil || code == store.Unavailable || code == store.Permission || code == store.Canceled {
			return nil, 0, 0, fmt.Errorf("export: %s: %w", key, err)
		}
		bad("%v", err)
		return problems, 0, info.Size, nil
	}
	for _, p := range sameSchema(file.Schema, schema) {
		bad("%s", p)
	}
	for _, p := range sameStats(f, file) {
		bad("%s", p)
	}
	return problems, file.Rows, info.Size, nil
}

// sameSchema: every column of the file is the table's, and what the file lacks may be null.
func sameSchema(file, table *arrow.Schema) (problems []string) {
	for _, want := range table.Fields() {
		i := file.FieldIndices(want.Name)
		if len(i) == 0 {
			if !want.Nullable {
				problems = append(problems, fmt.Sprintf("the column %s is missing", want.Name))
			}
			continue
		}
		if got := file.Field(i[0]); !arrow.TypeEqual(got.Type, want.Type) || got.Nullable && !want.Nullable {
			problems = append(problems, fmt.Sprintf("the column %s is %s, the table's is %s", want.Name, got, want))
		}
	}
	for _, got := range file.Fields() {
		if !table.HasField(got.Name) {
			problems = append(problems, fmt.Sprintf("the column %s is not the table's", got.Name))
		}
	}
	return problems
}

// sameStats compares the statistics in the log with the recount: rows and null counts must be equal, and the minimum and maximum must enclose
// every value (they may be wider).
func sameStats(f delta.Add, file *parquet.File) (problems []string) {
	if f.Stats == "" {
		return nil
	}
	log, err := delta.ParseStats(f.Stats)
	if err != nil {
		return []string{err.Error()}
	}
	if log.NumRecords != file.Rows {
		problems = append(problems, fmt.Sprintf("%d rows, the log says %d", file.Rows, log.NumRecords))
	}
	for _, fd := range file.Schema.Fields() {
		c := file.Columns[fd.Name]
		if n, ok := log.NullCount[fd.Name]; ok && n != c.NullCount {
			problems = append(problems, fmt.Sprintf("the column %s has %d nulls, the log says %d", fd.Name, c.NullCount, n))
		}
		lo, hi := log.MinValues[fd.Name], log.MaxValues[fd.Name]
		if c.Min == nil {
			continue
		}
		if lo != nil && compareStat(lo, c.Min) > 0 || hi != nil && compareStat(hi, c.Max) < 0 {
			problems = append(problems, fmt.Sprintf("the column %s has a value outside of the log's minimum and maximum", fd.Name))
		}
	}
	return problems
}

// compareStat orders a value of the log's statistics and one of a file. What cannot be compared counts as equal.
func compareStat(log, file any) int {
	switch v := file.(type) {
	case int64:
		return compareNumber(log, new(big.Rat).SetInt64(v))
	case float64:
		n, ok := log.(json.Number)
		if !ok {
			return 0
		}
		f, err := n.Float64() // the log has the shortest text that reads back as the same number
		if err != nil {
			return 0
		}
		return cmp.Compare(f, v)
	case parquet.Decimal:
		r, _ := new(big.Rat).SetString(string(v))
		return compareNumber(log, r)
	}
	text, ok := log.(string)
	if !ok {
		return 0
	}
	switch v := file.(type) {
	case string:
		return strings.Compare(text, v)
	case arrow.Date32:
		return strings.Compare(text, time.Unix(int64(v)*86400, 0).UTC().Format(time.DateOnly))
	case arrow.Timestamp:
		t, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return 0
		}
		// Engines truncate both ends to ms: a maximum of the same ms is right.
		us := t.UnixMicro()
		if us <= int64(v) && int64(v)-us < 1000 {
			return 0
		}
		return cmp.Compare(us, int64(v))
	}
	return 0
}

func compareNumber(log any, file *big.Rat) int {
	n, ok := log.(json.Number)
	if !ok || file == nil || len(n) > 400 || hugeExponent(n.String()) {
		return 0
	}
	r, ok := new(big.Rat).SetString(n.String())
	if !ok {
		return 0
	}
	return r.Cmp(file)
}

// hugeExponent: such a number would take its exponent's worth of memory as a fraction.
func hugeExponent(n string) bool {
	i := strings.IndexAny(n, "eE")
	if i < 0 {
		return false
	}
	e, err := strconv.Atoi(strings.TrimPrefix(n[i+1:], "+"))
	return err != nil || e > 400 || e < -400
}
