// Package parquet writes record batches as one Parquet file, and reads a file's footer back.
//
// It is the only place that touches Arrow v17's Parquet packages, and it is strict with them: the sink's
// first error is remembered (the library swallows it), panics become errors, statistics are computed by us,
// and a file counts only after its footer was read back.
//
// What a file looks like: Zstandard pages with a content checksum, data page version 1, dictionaries where
// they pay (never on key columns), one row group per 131,072 rows or 64 MiB, a required root, and these columns:
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

// The defaults of [Options].
const (
	DefaultRowGroupRows  = 131_072
	DefaultRowGroupBytes = 64 << 20
	DefaultZstdLevel     = 1
)

// The bounds of a page and of a dictionary. The library cuts pages by bytes only, so that a column with a dictionary
// would be one page per row group; we cut by rows as well.
const (
	pageRows      = 20_000
	pageBytes     = 1 << 20
	chunkRows     = 4096     // rows handed to the library at once
	chunkBytes    = 4 << 20  // decoded bytes handed to the library at once, one row at least
	dictBytes     = 1 << 20  // dictionary of one column in one row group
	dictBytesAll  = 48 << 20 // dictionaries of all columns: the library's own counters don't see them
	dictTrial     = 8192     // values after which a dictionary must have paid
	unlimited     = 1 << 30  // the library's own page and dictionary limits: ours come first
	maxStatsBytes = 256      // a longer minimum or maximum is left out of the footer
)

// Options bounds and describes a file. Zero values mean the defaults in parentheses.
type Options struct {
	RowGroupRows  int64             // rows of a row group at most (131,072)
	RowGroupBytes int64             // decoded bytes of a row group at most (64 MiB); the last chunk of rows may go beyond it
	ZstdLevel     int               // 1..4 of klauspost's levels (1)
	Key           []string          // key columns: never dictionary-encoded
	Metadata      map[string]string // key-value metadata of the file
}

func (o Options) withDefaults() Options {
	if o.RowGroupRows <= 0 {
		o.RowGroupRows = DefaultRowGroupRows
	}
	if o.RowGroupBytes <= 0 {
		o.RowGroupBytes = DefaultRowGroupBytes
	}
	if o.ZstdLevel == 0 {
		o.ZstdLevel = DefaultZstdLevel
	}
	return o
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
