package judge

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/parquet-go/parquet-go"
)

// The datasets here are written by parquet-go and by hand, so that the judge is tried on what it must find.

type line struct {
	ID     [16]byte   `parquet:"id,uuid"`
	No     int32      `parquet:"no"`
	Big    int64      `parquet:"big"`
	Amount int64      `parquet:"amount,decimal(2:18)"`
	At     *time.Time `parquet:"at,optional,timestamp(microsecond)"`
	Day    int32      `parquet:"day,date"`
	Text   *string    `parquet:"text,optional"`
	Share  float64    `parquet:"share"`
	Open   bool       `parquet:"open"`
}

const marked = 0x11223344 // a number whose bytes occur nowhere else in a file's footer

func lines() []line {
	at, text := time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC), "Ærø \"7\"\n"
	return []line{
		{ID: [16]byte{0xff, 1}, No: marked, Big: 1<<63 - 1, Amount: -105, At: &at, Day: 20541, Text: &text, Share: 0.1, Open: true},
		{ID: [16]byte{0x0a}, No: -7, Big: -1 << 63, Amount: 999999999999999999, Day: -1},
	}
}

func wanted() []Row {
	return []Row{
		{
			"id": "ff010000000000000000000000000000", "no": json.Number("287454020"), "big": json.Number("9223372036854775807"),
			"amount": "-1.05", "at": "9999-12-31T23:59:59.999999Z", "day": "2026-03-29", "text": "Ærø \"7\"\n",
			"share": json.Number("0.1"), "open": true,
		},
		{
			"id": "0a000000000000000000000000000000", "no": json.Number("-7"), "big": json.Number("-9223372036854775808"),
			"amount": "9999999999999999.99", "at": nil, "day": "1969-12-31", "text": nil,
			"share": json.Number("0.0"), "open": false,
		},
	}
}

var declared = []Column{
	{"id", "binary", false},
	{"no", "integer", false},
	{"big", "long", false},
	{"amount", "decimal(18,2)", false},
	{"at", "timestamp", true},
	{"day", "date", false},
	{"text", "string", true},
	{"share", "double", false},
	{"open", "boolean", false},
}

// dataset is a Delta table in the making.
type dataset struct {
	t      *testing.T
	dir    string
	schema []Column
	stats  map[string]any
	change func([]byte) []byte // what befalls a file after it was written
}

func newDataset(t *testing.T) *dataset {
	return &dataset{t: t, dir: t.TempDir(), schema: slices.Clone(declared)}
}

// commit writes one file and the log entry that adds it.
func (d *dataset) commit(version int, rows []line) {
	d.t.Helper()
	var content bytes.Buffer
	if err := parquet.Write(&content, rows); err != nil {
		d.t.Fatal(err)
	}
	file := content.Bytes()
	if d.change != nil {
		file = d.change(file)
	}
	name := fmt.Sprintf("part %d.parquet", version)
	d.write(name, file)

	add := map[string]any{
		"path": strings.ReplaceAll(name, " ", "%20"), "partitionValues": map[string]any{}, "size": content.Len(),
		"modificationTime": 1, "dataChange": true,
	}
	if d.stats != nil {
		add["stats"] = string(d.encode(d.stats))
	}
	actions := []any{map[string]any{"add": add}}
	if version == 0 {
		fields := []any{}
		for _, column := range d.schema {
			fields = append(fields, map[string]any{
				"name": column.Name, "type": column.Type, "nullable": column.Nullable, "metadata": map[string]any{},
			})
		}
		actions = append(actions,
			map[string]any{"protocol": map[string]any{"minReaderVersion": 1, "minWriterVersion": 2}},
			map[string]any{"metaData": map[string]any{
				"id": "5a000000-0000-4000-8000-000000000000", "format": map[string]any{"provider": "parquet", "options": map[string]any{}},
				"schemaString":     string(d.encode(map[string]any{"type": "struct", "fields": fields})),
				"partitionColumns": []string{}, "configuration": map[string]any{}, "createdTime": 1,
			}})
	}
	var entry bytes.Buffer
	for _, action := range actions {
		entry.Write(append(d.encode(action), '\n'))
	}
	d.write(filepath.Join("_delta_log", fmt.Sprintf("%020d.json", version)), entry.Bytes())
}

func (d *dataset) encode(value any) []byte {
	d.t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		d.t.Fatal(err)
	}
	return text
}

func (d *dataset) write(name string, content []byte) {
	d.t.Helper()
	path := filepath.Join(d.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// sorted puts rows into an order of their own.
func sorted(rows []Row) []Row {
	return slices.SortedFunc(slices.Values(rows), func(a, b Row) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
}

func TestRowsHaveOneForm(t *testing.T) {
	d := newDataset(t)
	d.commit(0, lines())
	for name, read := range map[string]func(testing.TB, string, ...Option) []Row{"delta-rs": Rows, "DuckDB": DuckDBRows} {
		if diff := cmp.Diff(sorted(wanted()), sorted(read(t, d.dir))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if diff := cmp.Diff(wanted(), ParquetRows(t, filepath.Join(d.dir, "part 0.parquet"))); diff != "" {
		t.Errorf("the file itself (-want +got):\n%s", diff)
	}
}

func TestCheckPraisesATrueDataset(t *testing.T) {
	d := newDataset(t)
	d.stats = map[string]any{
		"numRecords": 2,
		"minValues":  map[string]any{"no": -7, "text": "Ær", "at": "9999-12-31T23:59:59.999Z", "day": "1969-12-31", "amount": -1.05},
		"maxValues":  map[string]any{"no": marked, "text": "Æs", "at": "9999-12-31T23:59:59.999Z", "day": "2026-03-29"},
		"nullCount":  map[string]any{"no": 0, "text": 1, "at": 1},
	}
	d.commit(0, lines())
	report := Check(t, d.dir)
	if report.Version != 0 || report.Files != 1 || report.Rows != 2 || report.Statistics.Checked != len(declared) {
		t.Errorf("report: %+v", report)
	}
	if diff := cmp.Diff(declared, report.Schema); diff != "" {
		t.Errorf("schema (-want +got):\n%s", diff)
	}
}

func TestOlderVersionsStayReadable(t *testing.T) {
	d := newDataset(t)
	d.commit(0, lines())
	d.commit(1, lines()[:1])
	if now, before := len(Rows(t, d.dir)), len(Rows(t, d.dir, AtVersion(0))); now != 3 || before != 2 {
		t.Errorf("%d rows now and %d at version 0, want 3 and 2", now, before)
	}
	if report := Check(t, d.dir, AtVersion(0)); report.Version != 0 || report.Files != 1 {
		t.Errorf("report at version 0: %+v", report)
	}
}

func TestCheckFindsWhatIsNotTrue(t *testing.T) {
	readers := find(t)
	footer := func(file []byte, old, changed []byte) []byte {
		start := len(file) - 8 - int(binary.LittleEndian.Uint32(file[len(file)-8:]))
		if !bytes.Contains(file[start:], old) {
			t.Fatalf("the footer does not hold % x", old)
		}
		return append(slices.Clone(file[:start]), bytes.ReplaceAll(file[start:], old, changed)...)
	}
	cases := map[string]struct {
		arrange func(*dataset)
		want    string
	}{
		"a maximum in the file": {
			func(d *dataset) {
				d.change = func(file []byte) []byte {
					return footer(file, []byte{0x44, 0x33, 0x22, 0x11}, []byte{0x45, 0x33, 0x22, 0x11})
				}
			}, "column no: the file says 287454021 is the greatest value, it is 287454020",
		},
		"a greater maximum of text": {
			func(d *dataset) {
				d.change = func(file []byte) []byte { return footer(file, []byte("Ærø"), []byte("\xff\xff\xff\xff\xff")) }
			}, "column text: the file says b'\\xff\\xff\\xff\\xff\\xff",
		},
		"a minimum in the log": {
			func(d *dataset) { d.stats = map[string]any{"numRecords": 2, "minValues": map[string]any{"no": 0}} },
			"column no: the log says nothing is below 0, -7 is",
		},
		"a null count in the log": {
			func(d *dataset) { d.stats = map[string]any{"numRecords": 2, "nullCount": map[string]any{"text": 0}} },
			"column text: the log says 0 nulls, there are 1",
		},
		"a number of rows in the log": {
			func(d *dataset) { d.stats = map[string]any{"numRecords": 3} },
			"the log says 3 rows, the file has 2",
		},
		"a column of another width": {
			func(d *dataset) { d.schema[1].Type = "long" },
			"column no: the table says int64, its files hold int32",
		},
		"a decimal of another precision": {
			func(d *dataset) { d.schema[3].Type = "decimal(20,2)" },
			"column amount: the table says decimal128(20, 2), its files hold decimal128(18, 2)",
		},
		"nulls where none may be": {
			func(d *dataset) { d.schema[6].Nullable = false },
			"column text: 1 nulls in a column that the table says has none",
		},
		"a file cut short": {
			func(d *dataset) { d.change = func(file []byte) []byte { return file[:len(file)-1] } },
			"DuckDB cannot read",
		},
	}
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		t.Run(name, func(t *testing.T) {
			d := newDataset(t)
			cases[name].arrange(d)
			d.commit(0, lines())
			report, err := readers.check(d.dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(strings.Join(report.Problems, "\n"), cases[name].want) {
				t.Errorf("problems %q, want %q among them", report.Problems, cases[name].want)
			}
		})
	}
}

func TestNothingToReadIsAnError(t *testing.T) {
	readers := find(t)
	if _, err := readers.check(t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), "TableNotFound") {
		t.Errorf("an empty directory gave %v", err)
	}
	if _, err := readers.rows("dump", t.TempDir(), nil); err == nil {
		t.Error("an empty directory has rows")
	}
}

// recorder is a testing.TB that notes how a test was ended.
type recorder struct {
	testing.TB
	skipped, failed string
}

func (r *recorder) Helper() {}

func (r *recorder) Skipf(format string, args ...any) { r.skipped = fmt.Sprintf(format, args...) }

func (r *recorder) Fatalf(format string, args ...any) { r.failed = fmt.Sprintf(format, args...) }

func TestMissingReadersAreNeverSilent(t *testing.T) {
	t.Setenv("TABLEXPORT_CACHE", t.TempDir())

	t.Setenv("TABLEXPORT_REQUIRE_SERVERS", "")
	r := &recorder{TB: t}
	find(r)
	if !strings.Contains(r.skipped, "run `make servers`") || r.failed != "" {
		t.Errorf("skipped %q, failed %q; want a skip that says what to run", r.skipped, r.failed)
	}

	t.Setenv("TABLEXPORT_REQUIRE_SERVERS", "1")
	r = &recorder{TB: t}
	find(r)
	if !strings.Contains(r.failed, "run `make servers`") || r.skipped != "" {
		t.Errorf("skipped %q, failed %q; want a failure that says what to run", r.skipped, r.failed)
	}
}
