// Package parquet writes record batches as one Parquet file, and reads a file's footer and its rows back.
//
// It is the only place that touches Arrow v17's Parquet packages, and it is strict with them: values are encoded and
// statistics computed by us, the library writes page headers and the footer; the sink's first error is remembered (the
// library swallows it), panics become errors, and a file counts only after its footer was read back.
//
// What a file looks like: one row group per 131,072 rows or 64 MiB, a required root, data page version 1, every page a
// Zstandard frame with a content checksum. A column begins each row group with a dictionary, and keeps it if the first
// values show that it pays; keys, booleans, floating-point numbers and binaries never have one. Without it, whole numbers
// (dates, timestamps and short decimals are some) are DELTA_BINARY_PACKED, or PLAIN where that is a tenth smaller, and the rest is
// PLAIN. The columns are:
//
//	bool              BOOLEAN
//	int8, int16       INT32, logical INT(8|16, signed)
//	int32, int64      INT32, INT64
//	float32, float64  FLOAT, DOUBLE
//	utf8              BYTE_ARRAY, logical STRING
//	binary            BYTE_ARRAY
//	date32            INT32, logical DATE
//	timestamp[us,UTC] INT64, logical TIMESTAMP(MICROS, adjusted to UTC)
//	decimal128(p,s)   INT32 for p ≤ 9, INT64 for p ≤ 18, else FIXED_LEN_BYTE_ARRAY; logical DECIMAL(p,s)
//
// A nullable field is an optional column. A field that is not nullable is a required column, and a null in
// it is an error (the library would write a zero).
package parquet

import "github.com/klauspost/compress/huff0"

// The defaults of [Options].
const (
	DefaultRowGroupRows  = 131_072
	DefaultRowGroupBytes = 64 << 20
	DefaultZstdLevel     = 1
)

// The defaults of [Options] with LowMemory.
const (
	LowMemoryRowGroupRows  = 32_768
	LowMemoryRowGroupBytes = 12 << 20
)

// The bounds of a page and of a dictionary.
const (
	pageRows      = 20_000
	pageBytes     = 1 << 20
	chunkRows     = 4096     // rows that go to the encoders at once
	chunkBytes    = 4 << 20  // decoded bytes that go to the encoders at once, one row at least
	dictBytes     = 4 << 20  // memory for the dictionary of one column in one row group
	dictBytesAll  = 32 << 20 // memory for the dictionaries of all columns
	dictBytesLow  = 5 << 20  // the same with LowMemory
	dictTrial     = 8192     // values after which a dictionary must have paid
	maxStatsBytes = 256      // a longer minimum or maximum is left out of the footer
)

// Options bounds and describes a file. Zero values mean the defaults in parentheses.
type Options struct {
	RowGroupRows  int64             // rows of a row group at most (131,072; 32,768 with LowMemory)
	RowGroupBytes int64             // decoded bytes of a row group at most (64 MiB; 12 MiB with LowMemory); the last chunk of rows may go beyond it
	LowMemory     bool              // smaller row groups and dictionaries: a third of the memory for a file larger by a sixth
	ZstdLevel     int               // 1..4 of klauspost's levels (1)
	Key           []string          // key columns: never dictionary-encoded
	Metadata      map[string]string // key-value metadata of the file
	Encoders      *Encoders         // of earlier files; nil: each file begins anew
}

func (o Options) withDefaults() Options {
	rows, size := int64(DefaultRowGroupRows), int64(DefaultRowGroupBytes)
	if o.LowMemory {
		rows, size = LowMemoryRowGroupRows, LowMemoryRowGroupBytes
	}
	if o.RowGroupRows <= 0 {
		o.RowGroupRows = rows
	}
	if o.RowGroupBytes <= 0 {
		o.RowGroupBytes = size
	}
	if o.ZstdLevel == 0 {
		o.ZstdLevel = DefaultZstdLevel
	}
	return o
}

func (o Options) encoderConfig() encoderConfig {
	cfg := encoderConfig{
		level: o.ZstdLevel, huff: &huff0.Scratch{}, groupRows: int(o.RowGroupRows), pageRows: pageRows, pageBytes: pageBytes,
		dictTrial: dictTrial, dictBytes: dictBytes, dicts: &dictBudget{left: dictBytesAll}, scratches: &scratches{},
	}
	if o.LowMemory {
		cfg.pageBytes, cfg.dicts.left = pageBytes/4, dictBytesLow
	}
	return cfg
}

// Footer is what a finished file says of itself.
type Footer struct {
	Rows      int64
	Size      int64 // bytes
	RowGroups int
	Columns   map[string]ColumnStats
}

// ColumnStats are over the whole file. Min and Max are nil where they would be wrong or useless (NaN, binary, all null).
type ColumnStats struct {
	NullCount int64
	Min, Max  any // bool, int64, float64, string, Decimal, arrow.Date32, arrow.Timestamp
}

// Decimal is a decimal as exact text: "-12.340" at scale 3.
type Decimal string
