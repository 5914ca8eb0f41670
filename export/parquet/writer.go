package parquet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/compress"
	"github.com/apache/arrow/go/v17/parquet/file"
	"github.com/apache/arrow/go/v17/parquet/metadata"
	"github.com/apache/arrow/go/v17/parquet/schema"
)

// createdBy has the form that readers parse ("app version x (build y)"): some ignore the statistics of a file
// whose writer they cannot parse.
const createdBy = "tablexport version 1.0.0 (build arrow-go-17.0.0)"

// magic is at both ends of a file.
const magic = "PAR1"

// ErrClosed is the error of a Writer that was closed.
var ErrClosed = errors.New("parquet: the file is closed")

// Writer writes one file. It buffers one row group at most, encoded and compressed but for the pages under way.
// It is not safe for concurrent use. After an error every call returns that error, and the file is worthless.
type Writer struct {
	sink     *sink
	schema   *arrow.Schema
	root     *schema.Schema
	opts     Options
	props    *parquet.WriterProperties
	meta     *metadata.FileMetaDataBuilder
	encoders []encoder

	groupRows  int64
	groupBytes int64 // decoded
	groups     int
	rows       int64
	err        error
}

// sink remembers the first error, because the library swallows it, and hides Close, because the library would call it.
type sink struct {
	w   io.Writer
	n   int64
	err error
}

// Tell is the position in the file, which the library asks for.
func (s *sink) Tell() int64 { return s.n }

func (s *sink) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
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
func NewWriter(w io.Writer, schema *arrow.Schema, opts Options) (*Writer, error) {
	if opts.ZstdLevel < 0 || opts.ZstdLevel > zstdLevels {
		return nil, fmt.Errorf("parquet: zstd level %d: use 1 (fastest) to %d", opts.ZstdLevel, zstdLevels)
	}
	opts = opts.withDefaults()
	return newWriter(w, schema, opts, opts.encoderConfig())
}

func newWriter(w io.Writer, fields *arrow.Schema, opts Options, cfg encoderConfig) (*Writer, error) {
	root, err := fileSchema(fields)
	if err != nil {
		return nil, err
	}
	for _, k := range opts.Key {
		if !fields.HasField(k) {
			return nil, fmt.Errorf("parquet: the key column %q is not among the columns", k)
		}
	}
	out := &Writer{sink: &sink{w: w}, schema: fields, opts: opts, encoders: opts.Encoders.take(fields, opts)}
	if out.encoders == nil {
		for _, f := range fields.Fields() {
			e, err := newEncoder(cfg, f, wantsDictionary(f, opts.Key))
			if err != nil {
				return nil, err
			}
			out.encoders = append(out.encoders, e)
		}
	}
	meta := metadata.NewKeyValueMetadata()
	for _, k := range sortedKeys(opts.Metadata) {
		if err := meta.Append(k, opts.Metadata[k]); err != nil {
			return nil, fmt.Errorf("parquet: the metadata entry %q is not valid UTF-8", k)
		}
	}
	err = guard(func() error {
		out.root = schema.NewSchema(root)
		out.props = parquet.NewWriterProperties(
			parquet.WithRootRepetition(parquet.Repetitions.Required), // the default, REPEATED, is refused by some readers
			parquet.WithVersion(parquet.V2_LATEST),
			parquet.WithCreatedBy(createdBy),
			parquet.WithCompression(compress.Codecs.Zstd),
			parquet.WithCompressionLevel(opts.ZstdLevel))
		out.meta = metadata.NewFileMetadataBuilder(out.root, out.props, meta)
		_, err := out.sink.Write([]byte(magic))
		return err
	})
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
	for i, e := range w.encoders {
		arr := rec.Column(i)
		nulls := nullsIn(arr, int(from), int(n))
		if nulls > 0 && !w.schema.Field(i).Nullable {
			return &CellError{Column: w.schema.Field(i).Name, Row: w.rows + firstNull(arr, from), Err: ErrNull}
		}
		if err := e.add(arr, int(from), int(n), nulls, w.rows); err != nil {
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

// firstNull is the position of the first null from row from on, counted from there.
func firstNull(arr arrow.Array, from int64) int64 {
	for i := int(from); i < arr.Len(); i++ {
		if arr.IsNull(i) {
			return int64(i) - from
		}
	}
	return 0
}

// endGroup writes the row group under way to the sink, a column at a time.
func (w *Writer) endGroup() error {
	if w.groupRows == 0 {
		return nil
	}
	if w.groups == math.MaxInt16 { // the ordinal of a row group has 16 bits (parquet.thrift, RowGroup)
		return fmt.Errorf("parquet: a file holds %d row groups at most: begin another file", math.MaxInt16)
	}
	group := w.meta.AppendRowGroup()
	size := int64(0)
	for i, e := range w.encoders {
		n, err := w.writeChunk(group.NextColumnChunk(), int16(i), e.finish())
		if err != nil {
			return fmt.Errorf("parquet: column %q: %w", w.schema.Field(i).Name, err)
		}
		size += n
	}
	group.SetNumRows(int(w.groupRows))
	if err := group.Finish(size, int16(w.groups)); err != nil {
		return err
	}
	w.groups++
	w.groupRows, w.groupBytes = 0, 0
	return nil
}

// pager is what we need of the library's (unexported) page writer.
type pager interface {
	DictionaryPageOffset() int64
	DataPageoffset() int64
	TotalCompressedSize() int64
	TotalUncompressedSize() int64
	NumValues() int64
}

// writeChunk writes the pages of a column and describes them in md. It returns their size before compression.
func (w *Writer) writeChunk(md *metadata.ColumnChunkMetaDataBuilder, column int16, c chunk) (int64, error) {
	if c.values != w.groupRows {
		return 0, fmt.Errorf("%d of %d rows were encoded", c.values, w.groupRows)
	}
	pw, err := file.NewPageWriter(w.sink, compress.Codecs.Zstd, c.level, md, int16(w.groups), column, memory.DefaultAllocator, false, nil, nil)
	if err != nil {
		return 0, err
	}
	p, ok := pw.(pager)
	if !ok {
		return 0, fmt.Errorf("the library's %T does not say where its pages are", pw)
	}
	used := metadata.EncodingStats{DictEncodingStats: map[parquet.Encoding]int32{}, DataEncodingStats: map[parquet.Encoding]int32{}}
	if c.entries > 0 {
		page := file.NewDictionaryPage(memory.NewBufferBytes(c.dict), int32(c.entries), parquet.Encodings.Plain)
		if _, err := pw.WriteDictionaryPage(page); err != nil {
			return 0, err
		}
		used.DictEncodingStats[parquet.Encodings.Plain] = 1
	}
	dataBytes := int64(0)
	for _, d := range c.pages {
		if d.size > math.MaxInt32 || len(d.data) > math.MaxInt32 {
			return 0, fmt.Errorf("a page of %d bytes: no value may be longer than 2 GiB", d.size)
		}
		page := file.NewDataPageV1(memory.NewBufferBytes(d.data), int32(d.rows), d.encoding, parquet.Encodings.RLE, parquet.Encodings.RLE, int32(d.size))
		if _, err := pw.WriteDataPage(page); err != nil {
			return 0, err
		}
		page.Release()
		dataBytes += int64(len(d.data))
		used.DataEncodingStats[d.encoding]++
	}
	if p.TotalCompressedSize() < dataBytes || p.NumValues() != c.values {
		return 0, fmt.Errorf("the library counts %d values in %d bytes, written were %d in more than %d", p.NumValues(), p.TotalCompressedSize(), c.values, dataBytes)
	}
	c.stats.Signed = md.Descr().SortOrder() == schema.SortSIGNED
	c.stats.ApplyStatSizeLimits(maxStatsBytes)
	md.SetStats(c.stats)
	info := metadata.ChunkMetaInfo{
		NumValues: p.NumValues(), DictPageOffset: p.DictionaryPageOffset(), IndexPageOffset: -1, DataPageOffset: p.DataPageoffset(),
		CompressedSize: p.TotalCompressedSize(), UncompressedSize: p.TotalUncompressedSize(),
	}
	if err := md.Finish(info, c.entries > 0, false, used, nil); err != nil {
		return 0, err
	}
	describeEncodings(md, used)
	return info.UncompressedSize, nil
}

// describeEncodings corrects what the library says of a chunk's encodings: it says what it was configured to use, and lists the
// counts in the order of a map.
func describeEncodings(md *metadata.ColumnChunkMetaDataBuilder, used metadata.EncodingStats) {
	meta := md.Contents().MetaData
	md.Contents().FileOffset = 0 // "writers should set this field to 0 if no ColumnMetaData has been written outside the footer"
	rle := meta.Encodings[:0]
	// The numbers of parquet.thrift, because the library's type for them is internal.
	if used.DataEncodingStats[parquet.Encodings.Plain] > 0 || len(used.DictEncodingStats) > 0 {
		rle = append(rle, 0)
	}
	rle = append(rle, 3)
	if used.DataEncodingStats[parquet.Encodings.DeltaBinaryPacked] > 0 {
		rle = append(rle, 5)
	}
	if used.DataEncodingStats[parquet.Encodings.RLEDict] > 0 {
		rle = append(rle, 8)
	}
	meta.Encodings = rle
	list := meta.EncodingStats
	for i := range list { // at most one dictionary page and three encodings
		for j := i + 1; j < len(list); j++ {
			if list[j].PageType > list[i].PageType || list[j].PageType == list[i].PageType && list[j].Encoding < list[i].Encoding {
				list[i], list[j] = list[j], list[i]
			}
		}
	}
}

// Written is the number of bytes handed to the sink plus an estimate of what is buffered.
func (w *Writer) Written() int64 {
	n := w.sink.n
	for _, e := range w.encoders {
		n += e.buffered()
	}
	return n
}

// Rows is the number of rows written so far.
func (w *Writer) Rows() int64 { return w.rows }

// writeFooter ends the file.
func (w *Writer) writeFooter() error {
	md, err := w.meta.Finish()
	if err != nil {
		return err
	}
	if md.NumRows != w.rows {
		return fmt.Errorf("parquet: the library counts %d rows, %d were written", md.NumRows, w.rows)
	}
	n, err := md.WriteTo(w.sink, nil)
	if err != nil {
		return err
	}
	_, err = w.sink.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(n)), magic...))
	return err
}

// Close finishes the file (not the sink) and returns what its footer says. It is called once.
func (w *Writer) Close() (Footer, error) {
	err := w.run(func() error {
		if err := w.endGroup(); err != nil {
			return err
		}
		return w.writeFooter()
	})
	if err != nil {
		return Footer{}, err
	}
	w.err = ErrClosed
	f := Footer{Rows: w.rows, Size: w.sink.n, RowGroups: w.groups, Columns: make(map[string]ColumnStats, len(w.encoders))}
	for i, c := range w.encoders {
		f.Columns[w.schema.Field(i).Name] = c.stats()
	}
	w.opts.Encoders.give(w.schema, w.opts, w.encoders)
	w.encoders = nil
	return f, nil
}
