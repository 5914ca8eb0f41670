package parquet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/compress"
	"github.com/apache/arrow/go/v17/parquet/file"
	"github.com/apache/arrow/go/v17/parquet/metadata"
)

// createdBy has the form that readers parse ("app version x (build y)"): some ignore the statistics of a file
// whose writer they cannot parse.
const createdBy = "tablexport version 1.0.0 (build arrow-go-17.0.0)"

// ErrClosed is the error of a Writer that was closed.
var ErrClosed = errors.New("parquet: the file is closed")

// Writer writes one file. It buffers one row group at most, encoded and compressed but for the pages under way.
// It is not safe for concurrent use. After an error every call returns that error, and the file is worthless.
type Writer struct {
	sink    *sink
	schema  *arrow.Schema
	opts    Options
	file    *file.Writer
	columns []column
	dict    []bool // the column began its row group with a dictionary

	group      file.BufferedRowGroupWriter // nil between row groups
	writers    []columnWriter
	groupRows  int64
	groupBytes int64 // decoded
	groups     int
	rows       int64
	err        error
}

// columnWriter is the state of one column in the row group under way.
type columnWriter struct {
	file.ColumnChunkWriter
	pageRows int64
	values   int64 // rows since the row group began
	trial    bool  // the dictionary has yet to prove itself
}

// sink remembers the first error, because the library swallows it, and hides Close, because the library would call it.
type sink struct {
	w    io.Writer
	n    int64
	err  error
	hold *bytes.Buffer // while set, takes what is written
}

func (s *sink) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.hold != nil {
		return s.hold.Write(p)
	}
	n, err := s.w.Write(p)
	s.n += int64(n)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	s.err = err
	return n, err
}

// NewWriter starts a file on w, which it never closes. The columns are those of schema, in order (see the package
// comment for the types).
func NewWriter(w io.Writer, schema *arrow.Schema, opts Options) (_ *Writer, err error) {
	if opts.ZstdLevel < 0 || opts.ZstdLevel > zstdLevels {
		return nil, fmt.Errorf("parquet: zstd level %d: use 1 (fastest) to %d", opts.ZstdLevel, zstdLevels)
	}
	opts = opts.withDefaults()
	root, err := fileSchema(schema)
	if err != nil {
		return nil, err
	}
	for _, k := range opts.Key {
		if !schema.HasField(k) {
			return nil, fmt.Errorf("parquet: the key column %q is not among the columns", k)
		}
	}
	out := &Writer{sink: &sink{w: w}, schema: schema, opts: opts, writers: make([]columnWriter, schema.NumFields())}
	props := []parquet.WriterProperty{
		parquet.WithRootRepetition(parquet.Repetitions.Required), // the default, REPEATED, is refused by some readers
		parquet.WithVersion(parquet.V2_LATEST),
		parquet.WithDataPageVersion(parquet.DataPageV1),
		parquet.WithCreatedBy(createdBy),
		parquet.WithCompression(compress.Codecs.Zstd),
		parquet.WithCompressionLevel(opts.ZstdLevel),
		parquet.WithDataPageSize(unlimited),
		parquet.WithDictionaryPageSizeLimit(unlimited),
		parquet.WithBatchSize(chunkRows),
		parquet.WithMaxStatsSize(maxStatsBytes),
	}
	for _, f := range schema.Fields() {
		c, err := newColumn(f)
		if err != nil {
			return nil, err
		}
		dict := wantsDictionary(f, opts.Key)
		props = append(props, parquet.WithDictionaryFor(f.Name, dict))
		out.columns = append(out.columns, c)
		out.dict = append(out.dict, dict)
	}
	meta := metadata.NewKeyValueMetadata()
	for _, k := range sortedKeys(opts.Metadata) {
		if err := meta.Append(k, opts.Metadata[k]); err != nil {
			return nil, fmt.Errorf("parquet: the metadata entry %q is not valid UTF-8", k)
		}
	}
	err = guard(func() error {
		out.file = file.NewParquetWriter(out.sink, root,
			file.WithWriterProps(parquet.NewWriterProperties(props...)), file.WithWriteMetadata(meta))
		return nil
	})
	if out.sink.err != nil {
		err = out.sink.err
	}
	if err != nil {
		return nil, fmt.Errorf("parquet: cannot begin the file: %w", err)
	}
	return out, nil
}

// wantsDictionary: not for keys (every value is another one), booleans (a bit each) and doubles (measures).
func wantsDictionary(f arrow.Field, key []string) bool {
	switch f.Type.ID() {
	case arrow.BOOL, arrow.FLOAT32, arrow.FLOAT64, arrow.BINARY:
		return false
	}
	return !slices.Contains(key, f.Name)
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// guard turns a panic of the library into an error.
func guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			if e, ok := r.(error); ok {
				err = fmt.Errorf("parquet: the library gave up: %w", e)
				return
			}
			err = fmt.Errorf("parquet: the library gave up: %v", r)
		}
	}()
	return f()
}

// run does one step of the file, after which the sink's first error counts more than what the library says.
func (w *Writer) run(step func() error) error {
	if w.err != nil {
		return w.err
	}
	err := guard(step)
	if w.sink.err != nil {
		err = fmt.Errorf("parquet: writing the file: %w", w.sink.err)
	}
	w.err = err
	return err
}

// Write appends the rows of rec, which the caller may release and reuse at once. The columns of rec are those of the
// schema, in order. The error is a *CellError for a value that cannot be written.
func (w *Writer) Write(rec arrow.Record) error {
	if w.err != nil {
		return w.err
	}
	if err := w.sameColumns(rec.Schema()); err != nil {
		w.err = err
		return err
	}
	return w.run(func() error {
		for from := int64(0); from < rec.NumRows(); {
			n := w.chunk(rec, from)
			if err := w.writeRows(rec, from, n); err != nil {
				return err
			}
			from += n
		}
		return nil
	})
}

func (w *Writer) sameColumns(s *arrow.Schema) error {
	if s.NumFields() != w.schema.NumFields() {
		return fmt.Errorf("parquet: the record has %d columns, the file %d", s.NumFields(), w.schema.NumFields())
	}
	for i, f := range s.Fields() {
		want := w.schema.Field(i)
		if f.Name != want.Name || !arrow.TypeEqual(f.Type, want.Type) {
			return fmt.Errorf("parquet: column %d of the record is %q %s, the file's is %q %s", i, f.Name, f.Type, want.Name, want.Type)
		}
	}
	return nil
}

// chunk is the number of rows from from on that go to the library at once: bounded by rows, by bytes, and by what
// the row group still takes.
func (w *Writer) chunk(rec arrow.Record, from int64) int64 {
	n := min(rec.NumRows()-from, chunkRows, w.opts.RowGroupRows-w.groupRows)
	for n > 1 && decodedBytes(rec, from, n) > chunkBytes {
		n /= 2
	}
	return n
}

// decodedBytes is the size of n rows of rec in memory.
func decodedBytes(rec arrow.Record, from, n int64) int64 {
	var sum int64
	for _, c := range rec.Columns() {
		switch a := c.(type) {
		case *array.String:
			sum += int64(a.ValueOffsets()[from+n]-a.ValueOffsets()[from]) + 4*n
		case *array.Binary:
			sum += int64(a.ValueOffsets()[from+n]-a.ValueOffsets()[from]) + 4*n
		default:
			if t, ok := c.DataType().(arrow.FixedWidthDataType); ok {
				sum += n * int64(t.BitWidth()) / 8
			}
		}
	}
	return sum
}

func (w *Writer) writeRows(rec arrow.Record, from, n int64) error {
	if w.group == nil {
		if err := w.beginGroup(); err != nil {
			return err
		}
	}
	for i, c := range w.columns {
		part := array.NewSlice(rec.Column(i), from, from+n)
		err := c.write(w.writers[i].ColumnChunkWriter, part, w.rows)
		part.Release()
		if err != nil {
			return err
		}
		if err := w.afterBatch(i, n); err != nil {
			return err
		}
	}
	w.rows += n
	w.groupRows += n
	w.groupBytes += decodedBytes(rec, from, n)
	if w.groupRows >= w.opts.RowGroupRows || w.groupBytes >= w.opts.RowGroupBytes {
		return w.endGroup()
	}
	return nil
}

func (w *Writer) beginGroup() error {
	w.group = w.file.AppendBufferedRowGroup()
	w.groups++
	for i := range w.writers {
		cw, err := w.group.Column(i)
		if err != nil {
			return fmt.Errorf("parquet: column %q: %w", w.schema.Field(i).Name, err)
		}
		w.writers[i] = columnWriter{ColumnChunkWriter: cw, trial: w.dict[i]}
	}
	return nil
}

// dictionary is what we need of the library's (internal) dictionary encoder.
type dictionary interface {
	DictEncodedSize() int
	NumEntries() int
}

// afterBatch ends the page and gives up the dictionary where it is time.
func (w *Writer) afterBatch(i int, n int64) error {
	cw := &w.writers[i]
	cw.pageRows += n
	cw.values += n
	if d, ok := cw.CurrentEncoder().(dictionary); ok && w.dict[i] && w.givesUp(cw, d) {
		w.columns[i].seal(cw.ColumnChunkWriter)
		cw.FallbackToPlain() // writes the dictionary and the pages that use it; the following pages are plain
		cw.pageRows, cw.trial = 0, false
	}
	buffered := cw.CurrentEncoder().EstimatedDataEncodedSize()
	if cw.pageRows < pageRows && buffered < pageBytes {
		return nil
	}
	if cw.pageRows == 0 {
		return nil
	}
	return w.endPage(i)
}

// givesUp: a dictionary is bounded, and after a trial it must have halved the number of values.
func (w *Writer) givesUp(cw *columnWriter, d dictionary) bool {
	if d.DictEncodedSize() >= max(min(dictBytes, dictBytesAll/len(w.columns)), 16<<10) {
		return true
	}
	if !cw.trial || cw.values < dictTrial {
		return false
	}
	cw.trial = false
	return int64(d.NumEntries()) > cw.values/2
}

func (w *Writer) endPage(i int) error {
	cw := &w.writers[i]
	w.columns[i].seal(cw.ColumnChunkWriter)
	cw.pageRows = 0
	flusher, ok := cw.ColumnChunkWriter.(interface{ FlushCurrentPage() error })
	if !ok {
		return fmt.Errorf("parquet: the library's %T cannot end a page", cw.ColumnChunkWriter)
	}
	return flusher.FlushCurrentPage()
}

// endGroup closes the row group: its pages go to the sink.
func (w *Writer) endGroup() error {
	if w.group == nil {
		return nil
	}
	for i := range w.writers {
		if w.writers[i].pageRows > 0 {
			if err := w.endPage(i); err != nil {
				return err
			}
		}
		w.writers[i].ColumnChunkWriter = nil
	}
	group := w.group
	w.group, w.groupRows, w.groupBytes = nil, 0, 0
	return group.Close()
}

// Written is the number of bytes handed to the sink plus an estimate of what is buffered.
func (w *Writer) Written() int64 {
	n := w.sink.n
	if w.group == nil {
		return n
	}
	for i := range w.writers {
		if cw := w.writers[i].ColumnChunkWriter; cw != nil {
			n += cw.TotalCompressedBytes()
			if w.writers[i].pageRows > 0 {
				n += cw.CurrentEncoder().EstimatedDataEncodedSize() / 2
			}
		}
	}
	return n
}

// Rows is the number of rows written so far.
func (w *Writer) Rows() int64 { return w.rows }

// writeFooter ends the file. The library's footer is held back and corrected: it says of every column chunk that it has no
// distinct value, because it writes a count that it never made.
func (w *Writer) writeFooter() error {
	var held bytes.Buffer
	w.sink.hold = &held
	err := w.file.FlushWithFooter() // not Close: that returns nil whatever happened
	w.sink.hold = nil
	if err != nil {
		return err
	}
	const tail = 8 // length and magic
	if held.Len() < tail {
		return fmt.Errorf("parquet: the library wrote a footer of %d bytes", held.Len())
	}
	md, err := metadata.NewFileMetaData(held.Bytes()[:held.Len()-tail], nil)
	if err != nil {
		return fmt.Errorf("parquet: the library's footer cannot be read: %w", err)
	}
	for _, rg := range md.RowGroups {
		for _, c := range rg.Columns {
			if s := c.MetaData.Statistics; s != nil {
				s.DistinctCount = nil
			}
		}
	}
	n, err := md.WriteTo(w.sink, nil)
	if err != nil {
		return err
	}
	_, err = w.sink.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(n)), "PAR1"...))
	return err
}

// Close finishes the file (not the sink) and returns what its footer says. It is called once.
func (w *Writer) Close() (Footer, error) {
	err := w.run(func() error {
		if err := w.endGroup(); err != nil {
			return err
		}
		if err := w.writeFooter(); err != nil {
			return err
		}
		if int64(w.file.NumRows()) != w.rows {
			return fmt.Errorf("parquet: the library counts %d rows, %d were written", w.file.NumRows(), w.rows)
		}
		return nil
	})
	if err != nil {
		return Footer{}, err
	}
	w.err = ErrClosed
	f := Footer{Rows: w.rows, Size: w.sink.n, RowGroups: w.groups, Columns: make(map[string]ColumnStats, len(w.columns))}
	for i, c := range w.columns {
		f.Columns[w.schema.Field(i).Name] = c.stats()
	}
	return f, nil
}
