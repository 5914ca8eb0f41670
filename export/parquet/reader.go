package parquet

import (
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/file"
	"github.com/apache/arrow/go/v17/parquet/metadata"
)

// File is a finished file whose footer was read.
type File struct {
	Footer
	Schema   *arrow.Schema // as far as the types are ours
	Metadata map[string]string
	reader   *file.Reader
}

// Open reads the footer of the file of the given size in r: the schema, the number of rows, the key-value metadata, and
// the statistics of the columns over all row groups. It reads no page. The statistics leave out the minimum
// and maximum of a column where a row group has none (a long text, only NaN).
func Open(r io.ReaderAt, size int64) (*File, error) {
	var out *File
	err := guard(func() error {
		rd, err := file.NewParquetReader(io.NewSectionReader(r, 0, size))
		if err != nil {
			return fmt.Errorf("parquet: cannot read the footer: %w", err)
		}
		out = &File{reader: rd, Metadata: map[string]string{}}
		out.Size, out.Rows, out.RowGroups = size, rd.NumRows(), rd.NumRowGroups()
		for _, kv := range rd.MetaData().KeyValueMetadata() {
			out.Metadata[kv.Key] = kv.GetValue()
		}
		return out.describe()
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// describe fills in schema and statistics, and checks that the column chunks lie inside the file and add up.
func (f *File) describe() error {
	md := f.reader.MetaData()
	fields := make([]arrow.Field, md.Schema.NumColumns())
	cols := make([]column, len(fields))
	whole := make([]bool, len(fields))
	for i := range fields {
		fd, err := field(md.Schema.Column(i))
		if err != nil {
			return err
		}
		fields[i], whole[i] = fd, true
		if cols[i], err = newColumn(fd); err != nil {
			return err
		}
	}
	f.Schema = arrow.NewSchema(fields, nil)
	var rows int64
	for g := range f.RowGroups {
		rg := md.RowGroup(g)
		rows += rg.NumRows()
		for i := range fields {
			chunk, err := rg.ColumnChunk(i)
			if err != nil {
				return fmt.Errorf("parquet: row group %d, column %q: %w", g, fields[i].Name, err)
			}
			if err := f.inside(chunk, rg.NumRows()); err != nil {
				return fmt.Errorf("parquet: row group %d, column %q: %w", g, fields[i].Name, err)
			}
			if !cols[i].mergeChunk(statsOf(chunk)) {
				whole[i] = false
			}
		}
	}
	if rows != f.Rows {
		return fmt.Errorf("parquet: the footer says %d rows, its row groups %d", f.Rows, rows)
	}
	f.Columns = make(map[string]ColumnStats, len(fields))
	for i, fd := range fields {
		s := cols[i].stats()
		if !whole[i] {
			s.Min, s.Max = nil, nil
		}
		f.Columns[fd.Name] = s
	}
	return nil
}

func (f *File) inside(chunk *metadata.ColumnChunkMetaData, rows int64) error {
	start := chunk.DataPageOffset()
	if chunk.HasDictionaryPage() && chunk.DictionaryPageOffset() > 0 {
		start = min(start, chunk.DictionaryPageOffset())
	}
	n := chunk.TotalCompressedSize()
	if start < 4 || n < 0 || start > f.Size || n > f.Size-start {
		return fmt.Errorf("the pages (%d bytes at %d) lie outside of the file (%d bytes)", n, start, f.Size)
	}
	if chunk.NumValues() != rows {
		return fmt.Errorf("%d values for %d rows", chunk.NumValues(), rows)
	}
	return nil
}

// chunkStats are the statistics of one column chunk in the footer; nil if it has none.
type chunkStats struct {
	metadata.TypedStatistics
}

func statsOf(chunk *metadata.ColumnChunkMetaData) chunkStats {
	if set, err := chunk.StatsSet(); err != nil || !set {
		return chunkStats{}
	}
	s, err := chunk.Statistics()
	if err != nil {
		return chunkStats{}
	}
	return chunkStats{s}
}

type minMax[T any] interface {
	Min() T
	Max() T
}

// mergeChunk takes the statistics of a row group; whole is false when its minimum and maximum are not known.
func (c *typed[T]) mergeChunk(s chunkStats) bool {
	if s.TypedStatistics == nil {
		return false
	}
	t := tally[T]{nulls: s.NullCount(), values: s.NumValues()}
	t.min, t.max, t.has = c.bounds(s)
	c.merge(&c.file, &t)
	return t.has || t.values == 0
}

// bounds are the minimum and maximum in the footer, if it has both: a long text is left out on its side alone.
// (The library cannot tell a missing one from the empty text, so that the empty text counts as missing here.)
func (c *typed[T]) bounds(s chunkStats) (lo, hi T, ok bool) {
	m, typed := s.TypedStatistics.(minMax[T])
	if !typed || !s.HasMinMax() || c.public == nil {
		return lo, hi, false
	}
	lo, hi = m.Min(), m.Max()
	for _, v := range []any{lo, hi} {
		switch v := v.(type) {
		case parquet.ByteArray:
			if len(v) == 0 {
				return lo, hi, false
			}
		case parquet.FixedLenByteArray:
			if len(v) == 0 {
				return lo, hi, false
			}
		}
	}
	return lo, hi, true
}

// Check compares the footer that was read back with what the writer counted: rows, size, row groups, columns,
// null counts, and the minimum and maximum where both have them.
func (f *File) Check(want Footer) error {
	if f.Rows != want.Rows || f.Size != want.Size || f.RowGroups != want.RowGroups {
		return fmt.Errorf("parquet: the file has %d rows in %d row groups and %d bytes; written were %d rows in %d row groups and %d bytes",
			f.Rows, f.RowGroups, f.Size, want.Rows, want.RowGroups, want.Size)
	}
	if len(f.Columns) != len(want.Columns) {
		return fmt.Errorf("parquet: the file has %d columns, written were %d", len(f.Columns), len(want.Columns))
	}
	for _, name := range slices.Sorted(maps.Keys(want.Columns)) {
		w := want.Columns[name]
		got, ok := f.Columns[name]
		if !ok {
			return fmt.Errorf("parquet: the file has no column %q", name)
		}
		if got.NullCount != w.NullCount {
			return fmt.Errorf("parquet: column %q has %d nulls in the footer, written were %d", name, got.NullCount, w.NullCount)
		}
		if w.Min != nil && got.Min != nil && !reflect.DeepEqual([2]any{got.Min, got.Max}, [2]any{w.Min, w.Max}) {
			return fmt.Errorf("parquet: column %q has another minimum or maximum in the footer than was written", name)
		}
	}
	return nil
}

// Verify reads every page of every column, and recounts: the number of rows per row group, the null counts and the
// statistics in the footer must be those of the values. It returns the recount. The memory is that of one column
// of one row group.
func Verify(r io.ReaderAt, size int64) (*File, error) {
	f, err := Open(r, size)
	if err != nil {
		return nil, err
	}
	recount := f.Footer
	recount.Columns = make(map[string]ColumnStats, len(f.Columns))
	for i, fd := range f.Schema.Fields() {
		var s ColumnStats
		err := guard(func() (err error) {
			s, err = f.verifyColumn(i, fd)
			return err
		})
		if err != nil {
			return nil, err
		}
		recount.Columns[fd.Name] = s
	}
	if err := f.Check(recount); err != nil {
		return nil, err
	}
	f.Footer = recount
	return f, nil
}

func (f *File) verifyColumn(i int, fd arrow.Field) (ColumnStats, error) {
	c, err := newColumn(fd)
	if err != nil {
		return ColumnStats{}, err
	}
	for g := range f.RowGroups {
		rg := f.reader.RowGroup(g)
		chunk, err := rg.MetaData().ColumnChunk(i)
		if err != nil {
			return ColumnStats{}, fmt.Errorf("parquet: row group %d, column %q: %w", g, fd.Name, err)
		}
		cr, err := columnReader(f.reader, g, i)
		if err != nil {
			return ColumnStats{}, fmt.Errorf("parquet: row group %d, column %q: %w", g, fd.Name, err)
		}
		rows, err := c.read(cr, statsOf(chunk))
		if err != nil {
			return ColumnStats{}, fmt.Errorf("parquet: row group %d, column %q: %w", g, fd.Name, err)
		}
		if rows != rg.NumRows() {
			return ColumnStats{}, fmt.Errorf("parquet: row group %d, column %q: %d rows could be read of %d", g, fd.Name, rows, rg.NumRows())
		}
	}
	return c.stats(), nil
}

type batchReader[T any] interface {
	ReadBatch(batchSize int64, values []T, defLvls, repLvls []int16) (int64, int, error)
}

func (c *typed[T]) read(cr file.ColumnChunkReader, chunk chunkStats) (rows int64, err error) {
	br, ok := cr.(batchReader[T])
	if !ok {
		return 0, fmt.Errorf("the pages hold %s, not what the schema says", cr.Type())
	}
	vals, levels := make([]T, chunkRows), make([]int16, chunkRows)
	if !c.nullable {
		levels = nil
	}
	var group tally[T]
	for cr.HasNext() {
		n, got, err := br.ReadBatch(chunkRows, vals, levels, nil)
		if err != nil {
			return rows, err
		}
		if n == 0 {
			break
		}
		rows += n
		c.count(&group, vals[:got], n-int64(got))
	}
	if err := cr.Err(); err != nil {
		return rows, err
	}
	if err := c.agrees(&group, chunk); err != nil {
		return rows, err
	}
	c.merge(&c.file, &group)
	return rows, nil
}

// agrees: the footer's statistics of the row group are those of its values. Where the footer has none there is
// nothing to agree with.
func (c *typed[T]) agrees(t *tally[T], s chunkStats) error {
	if s.TypedStatistics == nil {
		return nil
	}
	if s.HasNullCount() && s.NullCount() != t.nulls {
		return fmt.Errorf("the footer counts %d nulls, the pages hold %d", s.NullCount(), t.nulls)
	}
	lo, hi, ok := c.bounds(s)
	if !ok {
		return nil
	}
	if !t.has || c.less(t.min, lo) || c.less(hi, t.max) {
		return fmt.Errorf("a value lies outside of the footer's minimum and maximum")
	}
	return nil
}
