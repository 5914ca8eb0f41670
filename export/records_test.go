package export

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/memstore"
)

// texts are the rows of a snapshot, file by file, a line for each.
func texts(t testing.TB, d *Dataset, s *delta.Snapshot, columns []string) (out []string) {
	t.Helper()
	for _, f := range s.Files {
		for rec, err := range d.Records(t.Context(), s, f, columns, 7) {
			if err != nil {
				t.Fatal(err)
			}
			for i := range int(rec.NumRows()) {
				var line []string
				for _, c := range rec.Columns() {
					line = append(line, c.ValueStr(i))
				}
				out = append(out, strings.Join(line, "|"))
			}
		}
	}
	return out
}

func TestDatasetRecords(t *testing.T) {
	b := memstore.New()
	d := Open(b, "t")
	mustRefresh(t, d, "run-1", 1, 25)
	s, err := d.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := texts(t, d, s, []string{"Line_No", "Id"})
	var want []string
	for i := range 25 {
		no, ok := oracle(1, i, "Line_No")
		if !ok {
			no = array.NullValueStr
		}
		id, _ := oracle(1, i, "Id")
		want = append(want, no+"|"+id)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%q\nwant %q", got, want)
	}
	// The same files in a table with a younger column and a partition column.
	wide := *s
	fields := append(lines.Fields(), arrow.Field{Name: "month", Type: arrow.BinaryTypes.String, Nullable: true}, arrow.Field{Name: "Young", Type: arrow.PrimitiveTypes.Int64, Nullable: true})
	df, err := delta.FieldsOf(arrow.NewSchema(fields, nil))
	if err != nil {
		t.Fatal(err)
	}
	if wide.Metadata.SchemaString, err = delta.SchemaString(df); err != nil {
		t.Fatal(err)
	}
	wide.Metadata.PartitionColumns = []string{"month"}
	wide.Files = slices.Clone(s.Files)
	for i := range wide.Files {
		month := []string{"2024-03", ""}[i%2]
		wide.Files[i].PartitionValues = map[string]*string{"month": &month}
	}
	got = texts(t, d, &wide, []string{"month", "Young"})
	for i := range got {
		if w := []string{"2024-03|(null)", "(null)|(null)"}[i/10%2]; got[i] != w {
			t.Fatalf("row %d: %s, want %s", i, got[i], w)
		}
	}
	if len(got) != 25 {
		t.Fatalf("%d rows", len(got))
	}
	if all := texts(t, d, &wide, nil); len(all) != 25 || strings.Count(all[0], "|") != len(fields)-1 {
		t.Fatal(all[0])
	}
}

func TestDatasetRecordsRefusals(t *testing.T) {
	b := memstore.New()
	d := Open(b, "t")
	mustRefresh(t, d, "run-1", 1, 5)
	s, err := d.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first := func(s *delta.Snapshot, columns ...string) error {
		for _, err := range d.Records(t.Context(), s, s.Files[0], columns, 0) {
			return err
		}
		return fmt.Errorf("nothing came")
	}
	if err := first(s, "Id", "Nope"); err == nil || !strings.Contains(err.Error(), "no column Nope") {
		t.Fatal(err)
	}
	other := *s
	other.Metadata.SchemaString = strings.ReplaceAll(s.Metadata.SchemaString, `"integer"`, `"long"`)
	if err := first(&other, "Line_No"); err == nil || !strings.Contains(err.Error(), "the column Line_No is int32, the table's is int64") {
		t.Fatal(err)
	}
	strict := *s
	strict.Metadata.SchemaString = strings.ReplaceAll(s.Metadata.SchemaString, `"nullable":true`, `"nullable":false`)
	if err := first(&strict, "Line_No"); err == nil || !strings.Contains(err.Error(), "the column Line_No has nulls") {
		t.Fatal(err)
	}
	if err := b.Delete(t.Context(), "t/"+s.Files[0].Path); err != nil {
		t.Fatal(err)
	}
	if err := first(s); store.CodeOf(err) != store.NotFound || !strings.Contains(err.Error(), "is gone") {
		t.Fatal(err)
	}
}
