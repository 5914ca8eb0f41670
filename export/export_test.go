package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/decimal128"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/google/go-cmp/cmp"
	pq "github.com/parquet-go/parquet-go"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/parquet"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/filestore"
	"github.com/tablexport/tablexport/export/store/memstore"
	"github.com/tablexport/tablexport/export/store/storetest"
	"github.com/tablexport/tablexport/odata/evidence"
	"github.com/tablexport/tablexport/odata/scope"
)

func comment(text string) arrow.Metadata {
	return arrow.MetadataFrom(map[string]string{"comment": text})
}

var lines = arrow.NewSchema([]arrow.Field{
	{Name: "Id", Type: arrow.BinaryTypes.String, Metadata: comment("The key.")},
	{Name: "Generation", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
	{Name: "Line_No", Type: arrow.PrimitiveTypes.Int32, Nullable: true},
	{Name: "Quantity", Type: &arrow.Decimal128Type{Precision: 12, Scale: 3}, Nullable: true},
	{Name: "Amount", Type: &arrow.Decimal128Type{Precision: 38, Scale: 2}, Nullable: true},
	{Name: "Notes", Type: arrow.BinaryTypes.String, Nullable: true, Metadata: comment(`What "the user" wrote.`)},
	{Name: "Day", Type: arrow.FixedWidthTypes.Date32, Nullable: true},
	{Name: "Changed", Type: arrow.FixedWidthTypes.Timestamp_us, Nullable: true},
	{Name: "Void", Type: arrow.FixedWidthTypes.Boolean, Nullable: true},
}, nil)

// oracle is what row i of a generation must hold, as text; "" beside false is null.
func oracle(gen, i int, column string) (string, bool) {
	if column != "Id" && column != "Generation" && i%7 == 3 {
		return "", false
	}
	switch column {
	case "Id":
		return fmt.Sprintf("%08d", i), true
	case "Generation":
		return fmt.Sprint(gen), true
	case "Line_No":
		return fmt.Sprint(i*3 - 50), true
	case "Quantity":
		return fmt.Sprint(i*1001 - 20000), true
	case "Amount":
		n, _ := new(big.Int).SetString("99999999999999999999999999999999999999", 10)
		return n.Sub(n, big.NewInt(int64(i))).String(), true
	case "Notes":
		return []string{"", "Sofia ☃", "quote ' \" \\", strings.Repeat("long ", 20) + fmt.Sprint(i)}[i%4], true
	case "Day":
		return fmt.Sprint(i*100 - 5000), true
	case "Changed":
		return fmt.Sprint(int64(i)*1_234_567_891 - 5_000_000), true
	case "Void":
		return fmt.Sprint(i%2 == 0), true
	}
	panic(column)
}

// batch is rows from..to of a generation.
func batch(s *arrow.Schema, gen, from, to int) arrow.Record {
	b := array.NewRecordBuilder(memory.DefaultAllocator, s)
	defer b.Release()
	for c, f := range s.Fields() {
		for i := from; i < to; i++ {
			text, ok := oracle(gen, i, f.Name)
			if !ok {
				b.Field(c).AppendNull()
				continue
			}
			switch fb := b.Field(c).(type) {
			case *array.Decimal128Builder:
				n, _ := new(big.Int).SetString(text, 10)
				fb.Append(decimal128.FromBigInt(n))
			case *array.Date32Builder:
				n, _ := new(big.Int).SetString(text, 10)
				fb.Append(arrow.Date32(n.Int64()))
			case *array.TimestampBuilder:
				n, _ := new(big.Int).SetString(text, 10)
				fb.Append(arrow.Timestamp(n.Int64()))
			default:
				if err := fb.AppendValueFromString(text); err != nil {
					panic(err)
				}
			}
		}
	}
	return b.NewRecord()
}

func everything(t testing.TB, s *arrow.Schema) *scope.Scope {
	t.Helper()
	var names []string
	for _, f := range s.Fields() {
		names = append(names, f.Name)
	}
	sc, err := scope.New(scope.Rules{Name: "all", Unrestricted: true}, s, names)
	if err != nil {
		t.Fatal(err)
	}
	return sc
}

func spec(t testing.TB, run string) Spec {
	return Spec{
		Job: "order-lines", RunID: run, Table: "Crm_Sales_Order_Lines", Source: "acme acme.my.erp.net", Query: "$select=Id",
		Scope: everything(t, lines).Stamp(), Description: "Lines of sales orders.", Schema: lines, Key: []string{"Id"},
		Engine: "tablexport/test", FileBytes: 1, // a new file for every batch
	}
}

func proof(rows int) evidence.Evidence {
	return evidence.Evidence{
		Paging: "key", Order: evidence.OrderRequested, Requests: 3, Pages: 2, Rows: int64(rows), KeyColumns: []string{"Id"},
		DistinctKeys: int64(rows), End: evidence.EndEmpty, Passes: 1, Attempts: 1,
	}
}

// refreshing is a refresh of a whole table with its one slice.
type refreshing struct {
	*Refresh
	*Slice
}

// begin begins a refresh of a whole table.
func begin(ctx context.Context, d *Dataset, sp Spec) (*refreshing, error) {
	r, err := d.Begin(ctx, sp)
	if err != nil {
		return nil, err
	}
	s, err := r.Slice(SliceSpec{})
	return &refreshing{r, s}, err
}

// Commit publishes the one slice.
func (r *refreshing) Commit(ctx context.Context, ev evidence.Evidence) (Commit, error) {
	if err := r.Done(ctx, ev); err != nil {
		return Commit{}, err
	}
	return r.Refresh.Commit(ctx)
}

// fill writes rows of a generation in batches of ten.
func fill(ctx context.Context, t testing.TB, r *refreshing, s *arrow.Schema, gen, rows int) error {
	t.Helper()
	sc := everything(t, s)
	for from := 0; from < rows; from += 10 {
		rec := batch(s, gen, from, min(rows, from+10))
		checked, err := sc.Check(rec)
		if err != nil {
			t.Fatal(err)
		}
		err = r.Write(ctx, checked)
		checked.Release()
		rec.Release()
		if err != nil {
			return err
		}
	}
	return nil
}

// refresh is a whole run: what the runner does, Abort after every error included.
func refresh(ctx context.Context, t testing.TB, d *Dataset, sp Spec, gen, rows int) (Commit, error) {
	t.Helper()
	r, err := begin(ctx, d, sp)
	if err != nil {
		return Commit{}, err
	}
	if err := fill(ctx, t, r, sp.Schema, gen, rows); err != nil {
		_ = r.Abort(ctx)
		return Commit{}, err
	}
	c, err := r.Commit(ctx, proof(rows))
	if err != nil {
		_ = r.Abort(ctx)
	}
	return c, err
}

func mustRefresh(t testing.TB, d *Dataset, run string, gen, rows int) Commit {
	t.Helper()
	c, err := refresh(t.Context(), t, d, spec(t, run), gen, rows)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// readAll reads the live files of a snapshot with a foreign reader: column → cells as text, "\x00" for null.
func readAll(ctx context.Context, b store.Bucket, s *delta.Snapshot) (map[string][]string, error) {
	out := map[string][]string{}
	for _, f := range s.Files {
		key, err := f.Key()
		if err != nil {
			return nil, err
		}
		r, _, err := b.Open(ctx, key)
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return nil, err
		}
		pf, err := pq.OpenFile(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return nil, err
		}
		for _, rg := range pf.RowGroups() {
			for i, chunk := range rg.ColumnChunks() {
				col := pf.Root().Columns()[i]
				cells, err := readChunk(chunk, col)
				if err != nil {
					return nil, err
				}
				out[col.Name()] = append(out[col.Name()], cells...)
			}
		}
	}
	return out, nil
}

func readChunk(chunk pq.ColumnChunk, col *pq.Column) (out []string, err error) {
	pages := chunk.Pages()
	defer pages.Close()
	for {
		p, err := pages.ReadPage()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		vals := make([]pq.Value, p.NumValues())
		if n, err := p.Values().ReadValues(vals); n != len(vals) {
			return nil, fmt.Errorf("%d of %d values: %w", n, len(vals), err)
		}
		for _, v := range vals {
			switch {
			case v.IsNull():
				out = append(out, "\x00")
			case v.Kind() == pq.FixedLenByteArray:
				n := new(big.Int).SetBytes(v.ByteArray())
				if v.ByteArray()[0]&0x80 != 0 {
					n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(v.ByteArray()))))
				}
				out = append(out, n.String())
			default:
				out = append(out, v.String())
			}
		}
	}
}

// whole says whether the table is exactly one generation, cell by cell.
func whole(ctx context.Context, b store.Bucket, s *delta.Snapshot, sizes map[int]int) (gen int, err error) {
	cells, err := readAll(ctx, b, s)
	if err != nil {
		return 0, err
	}
	if len(cells["Generation"]) == 0 {
		return -1, nil
	}
	if _, err := fmt.Sscan(cells["Generation"][0], &gen); err != nil {
		return 0, err
	}
	order := make([]int, len(cells["Id"])) // files have no order
	for i := range order {
		if _, err := fmt.Sscan(strings.TrimLeft(cells["Id"][i], "0")+" ", &order[i]); err != nil && cells["Id"][i] != "00000000" {
			return gen, err
		}
	}
	seen := map[int]bool{}
	for at, i := range order {
		seen[i] = true
		for _, f := range lines.Fields() {
			want, ok := oracle(gen, i, f.Name)
			if !ok {
				want = "\x00"
			}
			if got := cells[f.Name][at]; got != want {
				return gen, fmt.Errorf("version %d, row %d, %s: %q, want %q", s.Version, i, f.Name, got, want)
			}
		}
	}
	if len(seen) != sizes[gen] || len(order) != sizes[gen] {
		return gen, fmt.Errorf("version %d has %d rows (%d distinct) of generation %d, want %d", s.Version, len(order), len(seen), gen, sizes[gen])
	}
	return gen, nil
}

func mustWhole(t testing.TB, b store.Bucket, gen, rows int) *delta.Snapshot {
	t.Helper()
	s, err := Open(b, "t").Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := whole(t.Context(), store.Prefixed(b, "t"), s, map[int]int{gen: rows})
	if err != nil || got != gen {
		t.Fatalf("generation %d, want %d: %v", got, gen, err)
	}
	return s
}

func keys(t testing.TB, b store.Bucket, prefix string) (out []string) {
	t.Helper()
	for f, err := range b.List(t.Context(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, f.Key)
	}
	return out
}

func TestRefreshesReplaceEachOther(t *testing.T) {
	file, err := filestore.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]store.Bucket{"memory": memstore.New(), "file": file} {
		t.Run(name, func(t *testing.T) {
			d := Open(b, "t")
			if _, err := d.Schema(t.Context()); !errors.Is(err, delta.ErrNoVersion) {
				t.Fatal(err)
			}
			c := mustRefresh(t, d, "run-0", 0, 35)
			if c.Version != 0 || c.Rows != 35 || c.Files != 4 || c.Removed != 0 || c.Bytes == 0 || len(c.SchemaDiff) != 0 {
				t.Fatalf("%+v", c)
			}
			mustWhole(t, b, 0, 35)
			if c = mustRefresh(t, d, "run-1", 1, 12); c.Version != 1 || c.Files != 2 || c.Removed != 4 {
				t.Fatalf("%+v", c)
			}
			s := mustWhole(t, b, 1, 12)
			if s.Txns["tablexport/order-lines"].Version != 2 || s.Metadata.Name != "Crm_Sales_Order_Lines" || s.Metadata.Description != "Lines of sales orders." {
				t.Fatalf("%+v", s)
			}
			// The version before is still whole, for readers that began with it.
			old, err := d.SnapshotAt(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			if gen, err := whole(t.Context(), store.Prefixed(b, "t"), old, map[int]int{0: 35}); err != nil || gen != 0 {
				t.Fatalf("%d %v", gen, err)
			}
			report, err := d.Verify(t.Context())
			if err != nil || len(report.Problems) > 0 || report.Rows != 12 || report.Files != 2 || report.Version != 1 || report.Bytes != c.Bytes {
				t.Fatalf("%v %+v", err, report)
			}
			// An empty scan publishes an empty version.
			if c = mustRefresh(t, d, "run-2", 2, 0); c.Version != 2 || c.Files != 0 || c.Removed != 2 {
				t.Fatalf("%+v", c)
			}
			if report, err = d.Verify(t.Context()); err != nil || report.Rows != 0 || len(report.Problems) > 0 {
				t.Fatalf("%v %+v", err, report)
			}
			mustRefresh(t, d, "run-3", 3, 5)
			mustWhole(t, b, 3, 5)
		})
	}
}

func TestFirstVersionMayBeEmpty(t *testing.T) {
	b := memstore.New()
	if c := mustRefresh(t, Open(b, "t"), "r", 0, 0); c.Version != 0 || c.Files != 0 {
		t.Fatalf("%+v", c)
	}
	got, err := Open(b, "t").Schema(t.Context())
	if err != nil || !got.Equal(lines) {
		t.Fatalf("%v %v", err, got)
	}
}

func TestProvenance(t *testing.T) {
	b := memstore.New()
	d := Open(b, "t")
	mustRefresh(t, d, "run-0", 0, 20)
	mustRefresh(t, d, "run-1", 1, 12)
	h, err := d.History(t.Context(), 0)
	if err != nil || len(h) != 2 {
		t.Fatalf("%v %+v", err, h)
	}
	v := h[0]
	ev := proof(12)
	if d := cmp.Diff(&ev, v.Evidence); d != "" {
		t.Fatal(d)
	}
	if v.Version != 1 || v.Rows != 12 || v.Files != 2 || v.Removed != 2 || v.Job != "order-lines" || v.Run != "run-1" || v.Table != "Crm_Sales_Order_Lines" ||
		v.Source != "acme acme.my.erp.net" || v.Query != "$select=Id" || v.Scope.Name != "all" || v.Scope.Enforcement != scope.Unrestricted ||
		v.Operation != "WRITE" || v.Engine != "tablexport/test" || v.Bytes == 0 || h[1].Operation != "CREATE TABLE AS SELECT" {
		t.Fatalf("%+v", v)
	}
	s, err := d.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conf := map[string]string{"tablexport.job": "order-lines", "tablexport.table": "Crm_Sales_Order_Lines", "tablexport.source": "acme acme.my.erp.net",
		"tablexport.scope": "all", "tablexport.scope.enforcement": "unrestricted", "tablexport.key": "Id"}
	if d := cmp.Diff(conf, s.Metadata.Configuration); d != "" {
		t.Fatal(d)
	}
	schema, err := d.Schema(t.Context())
	if err != nil || !schema.Equal(lines) || schema.Field(5).Metadata.String() != lines.Field(5).Metadata.String() {
		t.Fatalf("%v %v", err, schema)
	}
	files, err := d.Files(t.Context())
	if err != nil || len(files) != 2 || files[0].Rows != 10 || files[1].Rows != 2 || files[0].Run != "run-1" || !strings.HasPrefix(files[0].Location, "mem://t/part-run-1-") {
		t.Fatalf("%v %+v", err, files)
	}
	data, _, err := b.Open(t.Context(), "t/"+files[0].Key)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := io.ReadAll(data)
	pf, err := pq.OpenFile(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]string{"tablexport.run": "run-1", "tablexport.job": "order-lines", "tablexport.table": "Crm_Sales_Order_Lines", "tablexport.scope": "all", "tablexport.query": "$select=Id"} {
		if got, _ := pf.Lookup(k); got != want {
			t.Errorf("%s is %q in the file, want %q", k, got, want)
		}
	}
	e, err := d.log.Entry(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	ci := e.CommitInfo()
	if ci["isBlindAppend"] != false || fmt.Sprint(ci["operationParameters"]) != "map[mode:Overwrite partitionBy:[]]" || fmt.Sprint(ci["operationMetrics"]) == "" || fmt.Sprint(ci["readVersion"]) != "0" {
		t.Fatalf("%+v", ci)
	}
}

func TestWriteRefuses(t *testing.T) {
	other := arrow.NewSchema([]arrow.Field{{Name: "Id", Type: arrow.BinaryTypes.String}}, nil)
	foreign, err := scope.New(scope.Rules{Name: "everybody", Unrestricted: true}, lines, everythingNames())
	if err != nil {
		t.Fatal(err)
	}
	check := func(sc *scope.Scope, rec arrow.Record) scope.Checked {
		c, err := sc.Check(rec)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for name, rows := range map[string]scope.Checked{
		"zero":         {},
		"other scope":  check(foreign, batch(lines, 0, 0, 3)),
		"other schema": check(everything(t, other), batch(other, 0, 0, 3)),
	} {
		t.Run(name, func(t *testing.T) {
			b := memstore.New()
			r, err := begin(t.Context(), Open(b, "t"), spec(t, "r"))
			if err != nil {
				t.Fatal(err)
			}
			err = r.Write(t.Context(), rows)
			if err == nil || name != "other schema" && !errors.Is(err, ErrRefused) {
				t.Fatalf("%v", err)
			}
			// A refresh that has refused something cannot be published any more.
			if _, again := r.Commit(t.Context(), proof(0)); again == nil {
				t.Fatal("published")
			}
			if err := r.Abort(t.Context()); err != nil || len(keys(t, b, "")) != 0 {
				t.Fatalf("%v %v", err, keys(t, b, ""))
			}
		})
	}
}

func everythingNames() (names []string) {
	for _, f := range lines.Fields() {
		names = append(names, f.Name)
	}
	return names
}

func TestSpecRefusals(t *testing.T) {
	for name, change := range map[string]func(*Spec){
		"job":        func(s *Spec) { s.Job = "" },
		"job slash":  func(s *Spec) { s.Job = "a/b" },
		"run":        func(s *Spec) { s.RunID = "../x" },
		"no schema":  func(s *Spec) { s.Schema = nil },
		"no scope":   func(s *Spec) { s.Scope = scope.Stamp{} },
		"file bytes": func(s *Spec) { s.FileBytes = -1 },
		"key":        func(s *Spec) { s.Key = []string{"Nope"} },
		"types": func(s *Spec) {
			s.Schema = arrow.NewSchema([]arrow.Field{{Name: "a", Type: arrow.PrimitiveTypes.Uint8}}, nil)
			s.Key = nil
		},
		"names": func(s *Spec) {
			s.Schema = arrow.NewSchema([]arrow.Field{{Name: "Id", Type: arrow.PrimitiveTypes.Int8}, {Name: "ID", Type: arrow.PrimitiveTypes.Int8}}, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			sp := spec(t, "r")
			change(&sp)
			if _, err := begin(t.Context(), Open(memstore.New(), "t"), sp); err == nil {
				t.Fatal("taken")
			}
		})
	}
}

// A refresh whose evidence is not enough, or speaks of other rows, publishes nothing.
func TestCommitRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*evidence.Evidence)
		want   any
	}{
		"end not seen":   {func(e *evidence.Evidence) { e.End = evidence.EndNotSeen }, new(*evidence.Incomplete)},
		"keys twice":     {func(e *evidence.Evidence) { e.DistinctKeys-- }, new(*evidence.Incomplete)},
		"fewer were put": {func(e *evidence.Evidence) { e.Rows++; e.DistinctKeys++ }, new(*RowMismatch)},
		"more were put":  {func(e *evidence.Evidence) { e.Rows--; e.DistinctKeys-- }, new(*RowMismatch)},
	} {
		t.Run(name, func(t *testing.T) {
			b := memstore.New()
			d := Open(b, "t")
			mustRefresh(t, d, "r0", 0, 15)
			before := keys(t, b, "")
			r, err := begin(t.Context(), d, spec(t, "r1"))
			if err != nil {
				t.Fatal(err)
			}
			if err := fill(t.Context(), t, r, lines, 1, 25); err != nil {
				t.Fatal(err)
			}
			ev := proof(25)
			c.change(&ev)
			if _, err = r.Commit(t.Context(), ev); !errors.As(err, c.want) {
				t.Fatalf("%v", err)
			}
			mustWhole(t, b, 0, 15)
			if err := r.Abort(t.Context()); err != nil {
				t.Fatal(err)
			}
			if after := keys(t, b, ""); !slices.Equal(after, before) {
				t.Fatalf("left behind: %v", after)
			}
		})
	}
}

func TestSchemaChanges(t *testing.T) {
	base := lines.Fields()
	with := func(change func([]arrow.Field) []arrow.Field) *arrow.Schema {
		return arrow.NewSchema(change(slices.Clone(base)), nil)
	}
	for _, c := range []struct {
		name   string
		schema *arrow.Schema
		diff   []string
		ok     bool
		order  string // the published columns after an accepted change
	}{
		{"the same", lines, nil, true, ""},
		{"other comment", with(func(f []arrow.Field) []arrow.Field { f[0].Metadata = comment("Key."); return f }), nil, true, ""},
		{"other order", with(func(f []arrow.Field) []arrow.Field { slices.Reverse(f); return f }), nil, true, "Id,Generation,Line_No,Quantity,Amount,Notes,Day,Changed,Void"},
		{"new nullable column in front", with(func(f []arrow.Field) []arrow.Field {
			return slices.Insert(f, 0, arrow.Field{Name: "Extra", Type: arrow.PrimitiveTypes.Float64, Nullable: true})
		}), []string{"+ Extra double"}, true, "Id,Generation,Line_No,Quantity,Amount,Notes,Day,Changed,Void,Extra"},
		{"new required column", with(func(f []arrow.Field) []arrow.Field {
			return append(f, arrow.Field{Name: "Extra", Type: arrow.PrimitiveTypes.Float64})
		}), []string{"+ Extra double not null"}, false, ""},
		{"column gone", with(func(f []arrow.Field) []arrow.Field { return slices.Delete(f, 3, 4) }), []string{"- Quantity decimal(12,3)"}, false, "Id,Generation,Line_No,Amount,Notes,Day,Changed,Void"},
		{"type changed", with(func(f []arrow.Field) []arrow.Field { f[2].Type = arrow.BinaryTypes.String; return f }), []string{"~ Line_No integer → string"}, false, ""},
		{"wider", with(func(f []arrow.Field) []arrow.Field {
			f[3].Type = &arrow.Decimal128Type{Precision: 14, Scale: 3}
			return f
		}), []string{"~ Quantity decimal(12,3) → decimal(14,3)"}, true, "Id,Generation,Line_No,Quantity,Amount,Notes,Day,Changed,Void"},
		{"narrower", with(func(f []arrow.Field) []arrow.Field {
			f[3].Type = &arrow.Decimal128Type{Precision: 12, Scale: 4}
			return f
		}), []string{"~ Quantity decimal(12,3) → decimal(12,4)"}, false, ""},
		{"wider and stricter", with(func(f []arrow.Field) []arrow.Field {
			f[2].Type, f[1].Nullable = arrow.PrimitiveTypes.Int64, false
			return f
		}), []string{"~ Generation long → long not null", "~ Line_No integer → long"}, false, ""},
		{"stricter", with(func(f []arrow.Field) []arrow.Field { f[1].Nullable = false; return f }), []string{"~ Generation long → long not null"}, false, ""},
		{"laxer", with(func(f []arrow.Field) []arrow.Field { f[0].Nullable = true; return f }), []string{"~ Id string not null → string"}, false, ""},
		{"other case", with(func(f []arrow.Field) []arrow.Field { f[1].Name = "GENERATION"; return f }), []string{"- Generation long", "+ GENERATION long"}, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := memstore.New()
			d := Open(b, "t")
			mustRefresh(t, d, "r0", 0, 5)
			sp := spec(t, "r1")
			sp.Schema = c.schema
			publish := func() (Commit, error) {
				r, err := begin(t.Context(), d, sp)
				if err != nil {
					return Commit{}, err
				}
				return r.Commit(t.Context(), proof(0))
			}
			got, err := publish()
			var change *SchemaChange
			if !c.ok {
				if !errors.As(err, &change) || !slices.Equal(change.Diff, c.diff) || change.Dataset != "t" || !strings.Contains(err.Error(), c.diff[0]) {
					t.Fatalf("%v", err)
				}
				mustWhole(t, b, 0, 5)
				sp.AcceptSchema = true
				got, err = publish()
			}
			if err != nil || !slices.Equal(got.SchemaDiff, c.diff) {
				t.Fatalf("%v %+v", err, got)
			}
			schema, err := d.Schema(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, f := range schema.Fields() {
				names = append(names, f.Name)
			}
			if c.order != "" && strings.Join(names, ",") != c.order {
				t.Fatalf("%v", names)
			}
			h, err := d.History(t.Context(), 1)
			if err != nil || !slices.Equal(h[0].SchemaDiff, c.diff) {
				t.Fatalf("%v %+v", err, h)
			}
		})
	}
}

// Two jobs with one path: the second is refused before it reads anything, and nothing is changed.
func TestOtherJob(t *testing.T) {
	b := memstore.New()
	d := Open(b, "t")
	mustRefresh(t, d, "r0", 0, 5)
	before := keys(t, b, "")
	sp := spec(t, "r1")
	sp.Job = "invoices"
	var other *OtherJob
	_, err := begin(t.Context(), d, sp)
	if !errors.As(err, &other) || *other != (OtherJob{Dataset: "t", Published: "order-lines", Job: "invoices"}) ||
		!strings.Contains(err.Error(), "was published by job order-lines; job invoices would replace it; give it another path, or run with --accept-schema") {
		t.Fatal(err)
	}
	if got := keys(t, b, ""); !slices.Equal(got, before) {
		t.Fatalf("%q, before %q", got, before)
	}
	mustWhole(t, b, 0, 5)
	sp.AcceptSchema = true
	c, err := refresh(t.Context(), t, d, sp, 1, 7)
	if err != nil || !slices.Equal(c.SchemaDiff, []string{"job: order-lines → invoices"}) {
		t.Fatalf("%v %+v", err, c)
	}
	mustWhole(t, b, 1, 7)
	// From now on it is the other job's.
	if _, err := begin(t.Context(), d, spec(t, "r2")); !errors.As(err, &other) || other.Published != "invoices" {
		t.Fatal(err)
	}
	sp.RunID, sp.AcceptSchema = "r3", false
	if c, err = refresh(t.Context(), t, d, sp, 2, 3); err != nil || c.SchemaDiff != nil {
		t.Fatalf("%v %+v", err, c)
	}
}

// A scope that changes is said: it is in what the refresh returns and in the version's history.
func TestScopeChange(t *testing.T) {
	narrow := scope.Stamp{Name: "narrow", Where: "Line_No eq 1", Enforcement: scope.Verified}
	for _, c := range []struct {
		name    string
		was, is scope.Stamp
		want    []string
	}{
		{"the same", narrow, narrow, nil},
		{"wider", narrow, scope.Stamp{Name: "all", Enforcement: scope.Unrestricted},
			[]string{"scope: narrow (verified) → all (unrestricted)", "scope where: Line_No eq 1 → none"}},
		{"narrower", scope.Stamp{Name: "all", Enforcement: scope.Unrestricted}, narrow,
			[]string{"scope: all (unrestricted) → narrow (verified)", "scope where: none → Line_No eq 1"}},
		{"other name", narrow, scope.Stamp{Name: "slim", Where: "Line_No eq 1", Enforcement: scope.Verified}, []string{"scope: narrow (verified) → slim (verified)"}},
		{"other rule", narrow, scope.Stamp{Name: "narrow", Where: "Line_No in (" + strings.Repeat("1,", 200) + "1)", Enforcement: scope.Verified},
			[]string{"scope where: Line_No eq 1 → Line_No in (" + strings.Repeat("1,", 93) + "1…"}},
		{"enforced by the server", narrow, scope.Stamp{Name: "narrow", Where: "Line_No eq 1", Enforcement: scope.Delegated, Delegated: []string{"A/B eq 1"}},
			[]string{"scope: narrow (verified) → narrow (delegated)", "scope delegated: none → A/B eq 1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := Open(memstore.New(), "t")
			var got Commit
			for i, stamp := range []scope.Stamp{c.was, c.is} {
				sp := spec(t, fmt.Sprint("r", i))
				sp.Scope = stamp
				r, err := begin(t.Context(), d, sp)
				if err != nil {
					t.Fatal(err)
				}
				if got, err = r.Commit(t.Context(), proof(0)); err != nil {
					t.Fatal(err)
				}
				if i == 0 && got.SchemaDiff != nil {
					t.Fatalf("the first version differs: %q", got.SchemaDiff)
				}
			}
			h, err := d.History(t.Context(), 1)
			if err != nil || !slices.Equal(got.SchemaDiff, c.want) || !slices.Equal(h[0].SchemaDiff, c.want) {
				t.Fatalf("%v %q, in the history %q; want %q", err, got.SchemaDiff, h[0].SchemaDiff, c.want)
			}
		})
	}
}

// Other engines may have set their own configuration: it stays. A table that is partitioned is not silently unpartitioned.
func TestForeignTable(t *testing.T) {
	b := memstore.New()
	d := Open(b, "t")
	fields, err := delta.FieldsOf(lines)
	if err != nil {
		t.Fatal(err)
	}
	text, err := delta.SchemaString(fields)
	if err != nil {
		t.Fatal(err)
	}
	none, err := d.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.log.Commit(t.Context(), none, []delta.Action{
		{Protocol: &delta.Protocol{MinReaderVersion: 1, MinWriterVersion: 2}},
		{Metadata: &delta.Metadata{ID: "theirs", Format: delta.Format{Provider: "parquet"}, SchemaString: text, PartitionColumns: []string{"Day"}, Configuration: map[string]string{"delta.logRetentionDuration": "interval 60 days"}}},
	}); err != nil {
		t.Fatal(err)
	}
	var change *SchemaChange
	if _, err := begin(t.Context(), d, spec(t, "r")); !errors.As(err, &change) || !strings.Contains(err.Error(), "partitioned by Day") {
		t.Fatal(err)
	}
	sp := spec(t, "r")
	sp.AcceptSchema = true
	if _, err := refresh(t.Context(), t, d, sp, 0, 5); err != nil {
		t.Fatal(err)
	}
	s := mustWhole(t, b, 0, 5)
	if s.Metadata.ID != "theirs" || s.Metadata.Configuration["delta.logRetentionDuration"] != "interval 60 days" || len(s.Metadata.PartitionColumns) != 0 {
		t.Fatalf("%+v", s.Metadata)
	}
}

// The same run twice: the second finds that it has been published, and writes nothing.
func TestRepeatedRun(t *testing.T) {
	b := memstore.New()
	d := Open(b, "t")
	first := mustRefresh(t, d, "run-1", 0, 15)
	before := keys(t, b, "")
	r, err := begin(t.Context(), d, spec(t, "run-1"))
	if err != nil {
		t.Fatal(err)
	}
	if c, ok := r.Published(); !ok || c.Version != 0 {
		t.Fatalf("%+v", c)
	}
	if err := fill(t.Context(), t, r, lines, 9, 20); err != nil {
		t.Fatal(err)
	}
	c, err := r.Commit(t.Context(), proof(20))
	if err != nil || !c.Repeated || c.Version != 0 || c.Rows != first.Rows || c.Files != first.Files || c.Bytes != first.Bytes {
		t.Fatalf("%v %+v", err, c)
	}
	if after := keys(t, b, ""); !slices.Equal(after, before) {
		t.Fatalf("%v", after)
	}
	mustRefresh(t, d, "run-2", 1, 5)
	if r, err = begin(t.Context(), d, spec(t, "run-1")); err != nil {
		t.Fatal(err)
	}
	if c, ok := r.Published(); !ok || c.Version != 0 {
		t.Fatal("a run before the newest was not recognised")
	}
	mustWhole(t, b, 1, 5)
}

// The answer to the commit is lost and looking fails: the run does not know, keeps its parts, and its repeat finds out.
func TestLostCommit(t *testing.T) {
	for _, when := range []storetest.When{storetest.Before, storetest.After} {
		t.Run(fmt.Sprint(when), func(t *testing.T) {
			t.Parallel()
			b := memstore.New()
			mustRefresh(t, Open(b, "t"), "run-0", 0, 15)
			bad := storetest.Faulty(b,
				storetest.Fault{Op: "put-if-absent", When: when},
				storetest.Fault{Op: "open", Key: "*1.json"})
			_, err := refresh(t.Context(), t, Open(bad, "t"), spec(t, "run-1"), 1, 25)
			var un *delta.Unresolved
			if !errors.As(err, &un) {
				t.Fatalf("%v", err)
			}
			parts := 0
			for _, k := range keys(t, b, "t/") {
				if strings.HasPrefix(k, "t/part-run-1-") {
					parts++
				}
			}
			if parts != 3 {
				t.Fatalf("%d parts are left: they may be named by the log", parts)
			}
			c, err := refresh(t.Context(), t, Open(b, "t"), spec(t, "run-1"), 1, 25)
			if err != nil || c.Repeated != (when == storetest.After) {
				t.Fatalf("%v %+v", err, c)
			}
			mustWhole(t, b, 1, 25)
		})
	}
}

// Two writers at once on one base: one wins, the other gets a conflict and leaves nothing.
func TestTwoWriters(t *testing.T) {
	for name, first := range map[string]bool{"on a table": true, "both create": false} {
		t.Run(name, func(t *testing.T) {
			b := memstore.New()
			if first {
				mustRefresh(t, Open(b, "t"), "base", 9, 5)
			}
			var rs [4]*refreshing
			for i := range rs {
				sp := spec(t, fmt.Sprint("run-", i))
				sp.Job, sp.AcceptSchema = fmt.Sprint("job-", i%2), true
				r, err := begin(t.Context(), Open(b, "t"), sp)
				if err != nil {
					t.Fatal(err)
				}
				if err := fill(t.Context(), t, r, lines, i, 25); err != nil {
					t.Fatal(err)
				}
				rs[i] = r
			}
			var wg sync.WaitGroup
			errs := make([]error, len(rs))
			for i, r := range rs {
				wg.Go(func() {
					if _, errs[i] = r.Commit(t.Context(), proof(25)); errs[i] != nil {
						if err := r.Abort(t.Context()); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			winner := -1
			for i, err := range errs {
				var conflict *delta.Conflict
				switch {
				case err == nil && winner >= 0:
					t.Fatal("two won")
				case err == nil:
					winner = i
				case !errors.As(err, &conflict), !first && !strings.Contains(err.Error(), "another run created the table first"):
					t.Fatal(err)
				}
			}
			if winner < 0 {
				t.Fatal("none won")
			}
			mustWhole(t, b, winner, 25)
			for _, k := range keys(t, b, "t/part-") {
				if !strings.Contains(k, fmt.Sprintf("part-run-%d-", winner)) && !strings.Contains(k, "part-base-") {
					t.Errorf("left behind: %s", k)
				}
			}
		})
	}
}

// watch reads every version that comes up, as a report would, until stop is closed.
func watch(t *testing.T, b store.Bucket, sizes map[int]int, stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		s, err := Open(b, "t").Snapshot(context.Background())
		if err != nil {
			t.Errorf("the reader: %v", err)
			return
		}
		if _, err := whole(context.Background(), store.Prefixed(b, "t"), s, sizes); err != nil {
			t.Errorf("the reader: %v", err)
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// slow gives the reader its turn between the writer's operations.
type slow struct{ store.Bucket }

func (s slow) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	time.Sleep(2 * time.Millisecond)
	defer time.Sleep(2 * time.Millisecond)
	return s.Bucket.PutIfAbsent(ctx, key, data)
}

func (s slow) Create(ctx context.Context, key string) (store.Upload, error) {
	time.Sleep(2 * time.Millisecond)
	return s.Bucket.Create(ctx, key)
}

// At every operation of a refresh, before and after its effect, the process dies, or the operation alone fails. A concurrent reader sees
// whole versions only; the error tells the truth; the next refresh works; the sweeper takes what is left, and nothing that is named.
func TestEveryOperationFails(t *testing.T) {
	for _, crash := range []bool{true, false} {
		for _, when := range []storetest.When{storetest.Before, storetest.After} {
			t.Run(fmt.Sprintf("crash=%v when=%d", crash, when), func(t *testing.T) {
				t.Parallel() // in real time: the foreign reader's decoders do not outlive a synctest bubble
				fired, n, step := 1, 0, 1
				if raced {
					step = 9
				}
				for n = 1; fired > 0; n += step {
					fired = failAt(t, storetest.Fault{Nth: n, When: when, Crash: crash})
					if t.Failed() {
						t.Fatalf("at operation %d", n)
					}
				}
				t.Logf("about %d operations", n-step)
				if n < 20 {
					t.Fatalf("only %d operations were tried", n)
				}
			})
		}
	}
}

func failAt(t *testing.T, fault storetest.Fault) (fired int) {
	b := memstore.New()
	sizes := map[int]int{-1: 0, 0: 15, 1: 25, 2: 12, 3: 12}
	mustRefresh(t, Open(b, "t"), "run-0", 0, 15)
	bad := storetest.Faulty(slow{b}, fault)

	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { watch(t, b, sizes, stop) })

	_, err := refresh(t.Context(), t, Open(bad, "t"), spec(t, "run-1"), 1, 25)
	s, serr := Open(b, "t").Snapshot(t.Context())
	if serr != nil {
		t.Fatal(serr)
	}
	gen, werr := whole(t.Context(), store.Prefixed(b, "t"), s, sizes)
	var un *delta.Unresolved
	switch {
	case werr != nil:
		t.Error(werr)
	case err == nil && gen != 1:
		t.Errorf("the refresh succeeded, and generation %d is published", gen)
	case err != nil && !errors.As(err, &un) && gen != 0:
		t.Errorf("the refresh failed (%v), and generation %d is published", err, gen)
	}
	if !fault.Crash && err != nil && !errors.As(err, &un) && bad.Count("delete") > 0 && bad.Fired() == 1 {
		// The process lived and cleaned up after itself, but for an upload whose end failed.
		if left := len(keys(t, b, "t/part-run-1-")); left > 1 {
			t.Errorf("%d parts are left after Abort", left)
		}
	}

	// The next attempt of the same run finds what there is, and the next run works.
	c, err := refresh(t.Context(), t, Open(b, "t"), spec(t, "run-1"), 1, 25)
	if err != nil || c.Repeated != (gen == 1) {
		t.Errorf("the repeat: %v %+v", err, c)
	}
	if _, err := refresh(t.Context(), t, Open(b, "t"), spec(t, "run-2"), 2, 12); err != nil {
		t.Errorf("the next run: %v", err)
	}
	close(stop)
	wg.Wait()
	mustWhole(t, b, 2, 12)
	sweepClean(t, b)
	return bad.Fired()
}

// sweepClean sweeps two days later, and sees that all that is left is what the log names.
func sweepClean(t *testing.T, b store.Bucket) {
	d := Open(b, "t")
	later := time.Now().Add(48 * time.Hour)
	dry, err := d.sweep(t.Context(), later, 24*time.Hour, true)
	if err != nil || dry.Removed != 0 {
		t.Errorf("%v %+v", err, dry)
	}
	got, err := d.sweep(t.Context(), later, 24*time.Hour, false)
	if err != nil || got.Found != dry.Found || got.Removed != dry.Found || got.Bytes != dry.Bytes {
		t.Errorf("%v %+v, the dry run found %+v", err, got, dry)
	}
	named, err := d.named(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	left := map[string]bool{}
	for _, k := range keys(t, b, "t/part-") {
		left[strings.TrimPrefix(k, "t/")] = true
	}
	if diff := cmp.Diff(named, left); diff != "" {
		t.Errorf("what the log names (-) and what is there (+):\n%s", diff)
	}
	if report, err := d.Verify(t.Context()); err != nil || len(report.Problems) > 0 {
		t.Errorf("%v %+v", err, report)
	}
}

func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memstore.New()
		d := Open(b, "t")
		mustRefresh(t, d, "run-0", 0, 15)
		mustRefresh(t, d, "run-1", 1, 25)
		foreign := []string{"part-00000-c0ffee-c000.snappy.parquet", "_delta_log/x.parquet", "part-x-00000.zstd.parquet", "notes.txt", "sub/part-run-9-00000000-00000.zstd.parquet"}
		for _, k := range foreign {
			if err := b.Put(t.Context(), "t/"+k, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		stay := keys(t, b, "")
		dead, err := begin(t.Context(), d, spec(t, "dead"))
		if err != nil {
			t.Fatal(err)
		}
		if err := fill(t.Context(), t, dead, lines, 5, 30); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Minute)
		// Younger than the least age, whatever is asked for.
		if r, err := d.Sweep(t.Context(), 0, false); err != nil || r.Found != 0 {
			t.Fatalf("%v %+v", err, r)
		}
		// A run whose newest part is young is at work, however old its first is.
		time.Sleep(3 * time.Hour)
		more, err := everything(t, lines).Check(batch(lines, 5, 30, 40))
		if err != nil {
			t.Fatal(err)
		}
		if err := dead.Write(t.Context(), more); err != nil {
			t.Fatal(err)
		}
		if r, err := d.Sweep(t.Context(), time.Hour, false); err != nil || r.Found != 0 {
			t.Fatalf("%v %+v", err, r)
		}
		time.Sleep(25 * time.Hour)
		r, err := d.Sweep(t.Context(), 24*time.Hour, false)
		if err != nil || r.Found != 4 || r.Removed != 4 || r.Bytes == 0 {
			t.Fatalf("%v %+v", err, r)
		}
		if now := keys(t, b, ""); !slices.Equal(now, stay) {
			t.Fatalf("%v", cmp.Diff(stay, now))
		}
		// The run wakes up: its parts are gone, and it says so instead of publishing a table with holes.
		if _, err := dead.Commit(t.Context(), proof(40)); err == nil || !strings.Contains(err.Error(), "cannot be found") {
			t.Fatalf("%v", err)
		}
		if report, err := d.Verify(t.Context()); err != nil || report.Rows != 25 || len(report.Problems) > 0 {
			t.Fatalf("%v %+v", err, report)
		}
	})
}

// A log that cannot be read protects everything.
func TestSweepNeedsTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memstore.New()
		d := Open(b, "t")
		mustRefresh(t, d, "run-0", 0, 15)
		before := keys(t, b, "")
		if err := b.Put(t.Context(), "t/_delta_log/00000000000000000001.json", []byte("{")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Hour)
		if r, err := d.Sweep(t.Context(), time.Hour, false); err == nil || r.Removed != 0 {
			t.Fatalf("%v %+v", err, r)
		}
		if after := keys(t, b, ""); len(after) != len(before)+1 {
			t.Fatalf("%v", after)
		}
	})
}

func TestVerifyFindsProblems(t *testing.T) {
	type env struct {
		b    *memstore.Bucket
		file string
		data []byte
	}
	for name, c := range map[string]struct {
		harm func(t *testing.T, e env)
		want string
	}{
		"gone": {func(t *testing.T, e env) { _ = e.b.Delete(t.Context(), e.file) }, "gone"},
		"cut":  {func(t *testing.T, e env) { _ = e.b.Put(t.Context(), e.file, e.data[:len(e.data)-9]) }, "the log says"},
		"flipped bit": {func(t *testing.T, e env) {
			bad := bytes.Clone(e.data)
			bad[200] ^= 4
			_ = e.b.Put(t.Context(), e.file, bad)
		}, "part-"},
		"other rows": {func(t *testing.T, e env) {
			var buf bytes.Buffer
			w, err := parquet.NewWriter(&buf, lines, parquet.Options{})
			if err != nil {
				t.Fatal(err)
			}
			_ = w.Write(batch(lines, 7, 100, 108))
			_, _ = w.Close()
			_ = e.b.Put(t.Context(), e.file, buf.Bytes())
		}, "8 rows, the log says 10"},
		"other values": {func(t *testing.T, e env) {
			var buf bytes.Buffer
			w, err := parquet.NewWriter(&buf, lines, parquet.Options{})
			if err != nil {
				t.Fatal(err)
			}
			_ = w.Write(batch(lines, 7, 100, 110))
			_, _ = w.Close()
			_ = e.b.Put(t.Context(), e.file, buf.Bytes())
		}, "outside of the log's minimum and maximum"},
		"other schema": {func(t *testing.T, e env) {
			s := arrow.NewSchema([]arrow.Field{{Name: "Id", Type: arrow.BinaryTypes.String}, {Name: "Strange", Type: arrow.BinaryTypes.String}, {Name: "Day", Type: arrow.PrimitiveTypes.Int32}}, nil)
			var buf bytes.Buffer
			w, err := parquet.NewWriter(&buf, s, parquet.Options{})
			if err != nil {
				t.Fatal(err)
			}
			_, _ = w.Close()
			_ = e.b.Put(t.Context(), e.file, buf.Bytes())
		}, "Strange"},
	} {
		t.Run(name, func(t *testing.T) {
			b := memstore.New()
			d := Open(b, "t")
			mustRefresh(t, d, "run-0", 0, 20)
			files, err := d.Files(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			key := "t/" + files[0].Key
			r, _, err := b.Open(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			data, _ := io.ReadAll(r)
			c.harm(t, env{b, key, data})
			report, err := d.Verify(t.Context())
			if err != nil || !strings.Contains(strings.Join(report.Problems, "\n"), c.want) {
				t.Fatalf("%v %q", err, report.Problems)
			}
		})
	}
	// What keeps us from looking is an error, not a problem of the data.
	b := memstore.New()
	mustRefresh(t, Open(b, "t"), "run-0", 0, 20)
	bad := storetest.Faulty(b, storetest.Fault{Op: "open-range"})
	if report, err := Open(bad, "t").Verify(t.Context()); err == nil {
		t.Fatalf("%+v", report)
	}
}

func TestFilesRollOver(t *testing.T) {
	b := memstore.New()
	sp := spec(t, "r")
	sp.FileBytes = 20_000
	sp.Parquet.RowGroupRows = 50
	c, err := refresh(t.Context(), t, Open(b, "t"), sp, 0, 2000)
	if err != nil || c.Files < 2 || c.Files > 20 {
		t.Fatalf("%v %+v", err, c)
	}
	mustWhole(t, b, 0, 2000)
	sp = spec(t, "r2")
	sp.FileBytes = 0
	if c, err = refresh(t.Context(), t, Open(b, "t"), sp, 1, 2000); err != nil || c.Files != 1 {
		t.Fatalf("%v %+v", err, c)
	}
	mustWhole(t, b, 1, 2000)
}

func TestCancelled(t *testing.T) {
	b := memstore.New()
	d := Open(b, "t")
	mustRefresh(t, d, "run-0", 0, 5)
	before := keys(t, b, "")
	ctx, cancel := context.WithCancel(t.Context())
	r, err := begin(ctx, d, spec(t, "run-1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := fill(ctx, t, r, lines, 1, 15); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := r.Commit(ctx, proof(15)); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	if err := r.Abort(ctx); err != nil { // with the context that has ended
		t.Fatal(err)
	}
	if after := keys(t, b, ""); !slices.Equal(after, before) {
		t.Fatalf("%v", after)
	}
	if err := r.Write(t.Context(), scope.Checked{}); err == nil {
		t.Fatal("written after the end")
	}
}

func TestSnippets(t *testing.T) {
	b := memstore.New()
	d := Open(b, "it's")
	mustRefresh(t, d, "run-0", 0, 20)
	local, err := d.Snippets(t.Context())
	if err != nil || len(local) != 6 {
		t.Fatalf("%v %+v", err, local)
	}
	find := func(all []Snippet, tool string) string {
		for _, s := range all {
			if s.Tool == tool {
				return s.Text
			}
		}
		t.Fatalf("no snippet for %s", tool)
		return ""
	}
	files, err := d.Files(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	plain := find(local, "DuckDB without the delta extension")
	for _, f := range files {
		if !strings.Contains(plain, strings.ReplaceAll(f.Location, "'", "''")) {
			t.Errorf("%s is missing in\n%s", f.Location, plain)
		}
	}
	p := place{location: `/data/o'brien "x" #(lf)`, view: "v"}
	for _, c := range []struct{ got, want string }{
		{p.duckdb().Text, `delta_scan('/data/o''brien "x" #(lf)')`},
		{p.spark().Text, `.load("file:///data/o'brien \"x\" #(lf)")`},
		{p.spark().Text, `spark.conf.set("spark.sql.parquet.datetimeRebaseModeInRead", "CORRECTED")`},
		{p.spark().Text, `spark.sql("SELECT count(*) FROM v")`},
		{p.powerBI().Text, `Folder.Contents("/data/o'brien ""x"" #(#)(lf)")`},
		{p.powerBI().Text, `DeltaLake.Table(Source)`},
		{p.pandas().Text, `DeltaTable("/data/o'brien \"x\" #(lf)")`},
		{place{location: "s3://lake/erp/t", remote: true, view: "v"}.duckdb().Text, `delta_scan('s3://lake/erp/t')`},
		{place{location: "s3://lake/erp/t", remote: true, view: "v"}.duckdb().Text, `CREATE OR REPLACE SECRET`},
		{place{location: "s3://lake/erp/t", remote: true, view: "v"}.spark().Text, `.load("s3a://lake/erp/t")`},
		{place{location: "s3://lake/erp/t", remote: true, view: "v"}.powerBI().Note, `OneLake shortcut`},
		{place{location: "s3://lake/erp/t", remote: true, view: "v"}.polars().Text, `read_delta("s3://lake/erp/t")`},
		{place{view: "v"}.duckdbFiles(nil, 3).Text, "no rows"},
	} {
		if !strings.Contains(c.got, c.want) {
			t.Errorf("%s\nlacks %s", c.got, c.want)
		}
	}
	if d.Location() != "mem://it's" {
		t.Fatal(d.Location())
	}
}
