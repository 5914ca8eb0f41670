package export

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/parquet"
	"github.com/tablexport/tablexport/export/store"
)

// Records yields the rows of one file of a snapshot in the file's order, as records of the chosen columns (nil: all columns of the
// table, in its order) with batch rows at most (0: parquet.DefaultBatchRows). A record has the table's types, is the caller's
// until the next one is asked for, and its memory is bounded as in [parquet.File.Records]. Columns that are younger than the file are null, and
// partition columns, which no file holds, have the value that the log gives to the file. An error is yielded once, as the last pair:
// a file that is gone (store.NotFound), damaged, or whose columns are not those of the table.
func (d *Dataset) Records(ctx context.Context, s *delta.Snapshot, f delta.Add, columns []string, batch int) iter.Seq2[arrow.Record, error] {
	return func(yield func(arrow.Record, error) bool) {
		r, err := d.openFile(ctx, s, f, columns)
		if err != nil {
			yield(nil, err)
			return
		}
		for rec, err := range r.file.Records(r.stored, batch) {
			if err == nil {
				err = context.Cause(ctx)
			}
			var out arrow.Record
			if err == nil {
				out, err = r.complete(rec)
			}
			if err != nil {
				yield(nil, fmt.Errorf("export: %s: %w", r.key, err))
				return
			}
			more := yield(out, nil)
			out.Release()
			if !more {
				return
			}
		}
	}
}

// fileReader reads one file with the columns of a table.
type fileReader struct {
	key      string
	file     *parquet.File
	schema   *arrow.Schema // of the records
	stored   []string      // columns that the file has; never none
	at       []int         // for each column of schema: its position in stored, or -1
	constant []*string     // for each column of schema that is not stored: its value, nil = null
}

func (d *Dataset) openFile(ctx context.Context, s *delta.Snapshot, f delta.Add, columns []string) (*fileReader, error) {
	table, err := schemaOf(s)
	if err != nil {
		return nil, err
	}
	key, err := f.Key()
	if err != nil {
		return nil, err
	}
	info, err := d.b.Stat(ctx, key)
	if store.CodeOf(err) == store.NotFound {
		return nil, fmt.Errorf("export: the file %s of version %d is gone: %w", key, s.Version, err)
	}
	if err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	file, err := parquet.Open(d.readerAt(ctx, key), info.Size)
	if err != nil {
		return nil, fmt.Errorf("export: %s: %w", key, err)
	}
	r := &fileReader{key: key, file: file}
	if columns == nil {
		for _, fd := range table.Fields() {
			columns = append(columns, fd.Name)
		}
	}
	return r, r.choose(table, columns, s.Metadata.PartitionColumns, f.PartitionValues)
}

// choose finds each column in the file, in the partition values, or nowhere.
func (r *fileReader) choose(table *arrow.Schema, columns, partitions []string, values map[string]*string) error {
	var fields []arrow.Field
	for _, name := range columns {
		at := table.FieldIndices(name)
		if len(at) != 1 {
			return fmt.Errorf("export: the table has no column %s", name)
		}
		fd := table.Field(at[0])
		fields = append(fields, fd)
		stored := r.file.Schema.FieldIndices(name)
		switch {
		case slices.Contains(partitions, name):
			if fd.Type.ID() != arrow.STRING {
				return fmt.Errorf("export: %s: the partition column %s is %s: only texts can be read", r.key, name, fd.Type)
			}
			v := values[name]
			if v != nil && *v == "" {
				v = nil // PROTOCOL.md, "Partition Value Serialization"
			}
			r.at, r.constant = append(r.at, -1), append(r.constant, v)
		case len(stored) == 0:
			r.at, r.constant = append(r.at, -1), append(r.constant, nil)
		case !arrow.TypeEqual(r.file.Schema.Field(stored[0]).Type, fd.Type):
			return fmt.Errorf("export: %s: the column %s is %s, the table's is %s", r.key, name, r.file.Schema.Field(stored[0]).Type, fd.Type)
		default:
			r.at, r.constant = append(r.at, len(r.stored)), append(r.constant, nil)
			r.stored = append(r.stored, name)
		}
	}
	if r.schema = arrow.NewSchema(fields, nil); len(r.stored) == 0 { // something must count the rows
		r.stored = []string{r.file.Schema.Field(0).Name}
	}
	return nil
}

// complete makes a record of the table's columns from what the file has.
func (r *fileReader) complete(rec arrow.Record) (arrow.Record, error) {
	columns := make([]arrow.Array, len(r.at))
	defer func() {
		for _, c := range columns {
			if c != nil {
				c.Release()
			}
		}
	}()
	for i, at := range r.at {
		fd := r.schema.Field(i)
		switch {
		case at >= 0:
			columns[i] = rec.Column(at)
			columns[i].Retain()
		case r.constant[i] != nil:
			columns[i] = repeat(*r.constant[i], int(rec.NumRows()))
		default:
			columns[i] = array.MakeArrayOfNull(memory.DefaultAllocator, fd.Type, int(rec.NumRows()))
		}
		if !fd.Nullable && columns[i].NullN() > 0 {
			return nil, fmt.Errorf("the column %s has nulls, and the table says it has none", fd.Name)
		}
	}
	return array.NewRecord(r.schema, columns, rec.NumRows()), nil
}

func repeat(v string, n int) arrow.Array {
	b := array.NewStringBuilder(memory.DefaultAllocator)
	defer b.Release()
	b.Reserve(n)
	for range n {
		b.Append(v)
	}
	return b.NewArray()
}
