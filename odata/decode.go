package odata

import (
	"errors"
	"fmt"
	"io"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/tablexport/tablexport/odata/edm"
)

// The decoder turns one answer of the Table API,
//
//	{"@odata.context": "…", "@odata.count": n, "value": [ {…}, … ], "@odata.nextLink": "…"}
//
// into Arrow records, in one pass over its bytes and without knowing more of it than a window. The parts:
//
//	decode_window.go    the window over the reader
//	decode.go           the decoder, its limits, records
//	decode_envelope.go  what surrounds the rows
//	decode_quick.go     rows that look like the one before
//	decode_row.go       rows: keys, their predicted order, missing and unexpected properties
//	decode_lex.go       strings, literals, values that are skipped or kept as JSON
//	decode_value.go     one operation per Edm type: JSON value → column
//	decode_number.go    JSON numbers → integers and decimals, exactly
//	decode_text.go      the text of GUIDs, dates, times and binaries
//	decode_column.go    the columns' memory
//	decode_errors.go    what can be wrong
//
// A schema is compiled once into a column per property, each with its operation. All parsing functions take
// the window's bytes and a position, and return the position after what they read; a negative one means
// that d.err says why they stopped. Where that is needMore, the same function is called again from the same
// start with more bytes. It then sees the same values in the same row, so it may write into the columns as
// it goes: what it wrote before is written over.
//
// JSON is read as RFC 8259 has it, and as UTF-8 only (no byte order mark). Stricter than the RFC: a \u escape that is
// half of a surrogate pair is refused, because no UTF-8 text can hold it; a property twice in a row is
// refused; values are nested at most 64 deep.

// needMore says that the window ends inside of what is being parsed. It never leaves this package.
var needMore = errors.New("more bytes are needed")

// Limits of one answer. They are generous: what exceeds them is a fault or an attack, and would take the
// process's memory with it. Tests lower them.
type decodeLimits struct {
	str      int   // bytes of one string, between its quotes
	row      int   // bytes of one row, from brace to brace
	envelope int   // bytes of one value that surrounds the rows
	blank    int   // bytes of white space at one place around the rows
	record   int64 // bytes of JSON after which a record ends before it has its full number of rows
}

var defaultDecodeLimits = decodeLimits{str: 64 << 20, row: 128 << 20, envelope: 1 << 20, blank: 1 << 20, record: 4 << 20}

// decoder decodes the answers of one selection of one table. It may be used for many answers, one at a time.
type decoder struct {
	table  string
	schema *arrow.Schema
	cols   []column         // in the order of the records
	index  map[string]int32 // by name
	next   []int32          // next[i] is the column whose key is expected after column i; next[len(cols)] the first
	steps  []step           // by column
	plan   []step           // in the order of the last row that object read
	came   []int32          // the columns of the row that is being read, in their order
	batch  int
	limits decodeLimits
	mem    memory.Allocator

	w       window
	err     error  // why the last parsing function stopped
	n       int    // rows in the columns
	room    int    // rows that fit into the columns' memory
	hint    int    // rows of the last record, to start the next one with
	rowID   uint64 // never the same for two attempts at a row
	base    int64  // rows of the scan before this answer
	rows    int64  // rows of this answer that have been parsed
	emitted int64  // of these, in records that were handed out
	inRow   bool
	mark    int64  // offset at which the current record begins
	text    []byte // the last string that had escapes
	kept    []byte // the last value that was kept as JSON
	quoted  []byte // the last number that came as a string, and a zero byte
	misses  int    // rows in a row that the quick way could not read
	rest    int    // rows for which it is not tried
	longest int    // bytes of the longest row that it has read

	aside    *Aside // nil: a row that does not fit ends the answer
	marks    []mark // the stand-ins in the columns
	skimming bool   // a row that is set aside is skipped: its texts need not be any that can be held
	lenient  bool   // a stand-in is parsed: columns that are no anchors may be null
}

// answer is what surrounds the rows of one answer.
type answer struct {
	rows     int64  // handed out in records
	nextLink string // @odata.nextLink (or odata.nextLink), "" if none
	count    int64  // @odata.count, -1 if none
	bytes    int64  // read, uncompressed
}

// newDecoder compiles columns (of table, in the order of the records) into a decoder. Records have at most
// batch rows (2,048 if batch is not positive) in memory of mem (nil = Go's). It may be used for many answers, one at a time.
func newDecoder(table *edm.Table, columns []string, batch int, mem memory.Allocator) (*decoder, error) {
	schema, err := ArrowSchema(table, columns)
	if err != nil {
		return nil, err
	}
	selected, err := selectColumns(table, columns)
	if err != nil {
		return nil, err
	}
	if batch <= 0 {
		batch = 2048
	}
	if mem == nil {
		mem = memory.DefaultAllocator
	}
	d := &decoder{
		table:  table.Name,
		schema: schema,
		cols:   make([]column, len(selected)),
		index:  make(map[string]int32, len(selected)),
		next:   make([]int32, len(selected)+1),
		batch:  batch,
		limits: defaultDecodeLimits,
		mem:    mem,
		w:      window{size: windowSize},
	}
	for i, c := range selected {
		d.cols[i] = newColumn(c)
		d.index[c.Name] = int32(i)
		d.next[i] = int32((i + 1) % len(selected)) // the last one's is never asked: a row has each key once
	}
	for i := range d.cols {
		d.steps = append(d.steps, newStep(&d.cols[i]))
	}
	return d, nil
}

// decode reads one answer and calls emit with every record (released after emit returns; Retain to keep). The
// memory of a record is not used for another until it is released. base is the number of rows that the scan has read
// before; rows in errors are numbered from base+1.
//
// The errors: ErrTruncated (the body ends too early) and *MalformedError, after which the page may be asked
// for again; *DataError, which is final; *InStreamError, the server's own; what the reader failed with,
// wrapped; and what emit returned, as it is. On error everything emitted so far stays valid, the rows of a
// record that was not yet full are dropped, and the answer says how many rows were emitted.
func (d *decoder) decode(r io.Reader, base int64, emit func(arrow.Record) error) (answer, error) {
	d.w.reset(r)
	d.base, d.rows, d.emitted, d.inRow = base, 0, 0, false
	d.marks = d.marks[:0]
	defer d.release()

	a := answer{count: -1}
	err := d.envelope(&a, emit)
	a.rows, a.bytes = d.emitted, d.w.bytes()
	return a, err
}

// release gives back what a failed answer has left in the columns, and the window's hold on the reader.
func (d *decoder) release() {
	for i := range d.cols {
		d.cols[i].release()
	}
	d.n, d.room = 0, 0
	d.w.r = nil
	d.err = nil
	if max(cap(d.text), cap(d.kept), cap(d.quoted)) > windowKeep {
		d.text, d.kept, d.quoted = nil, nil, nil
	}
}

// flush hands out the rows so far as a record.
func (d *decoder) flush(emit func(arrow.Record) error) error {
	d.mark = d.w.offset(d.w.start)
	if d.n == 0 {
		return nil
	}
	arrays := make([]arrow.Array, len(d.cols))
	for i := range d.cols {
		arrays[i] = d.cols[i].finish(d.n)
	}
	record := array.NewRecord(d.schema, arrays, int64(d.n))
	defer record.Release()
	for _, a := range arrays {
		a.Release()
	}
	d.emitted += int64(d.n)
	d.hint, d.n, d.room = d.n, 0, 0
	defer func() { d.marks = d.marks[:0] }()
	return emit(record)
}

// grow makes room for at least one more row.
func (d *decoder) grow() {
	room := 2 * d.room
	if room == 0 {
		room = max(d.hint, 64)
	}
	d.room = min(room, d.batch)
	for i := range d.cols {
		d.cols[i].grow(d.mem, d.n, d.room)
	}
}

// try calls parse at the start of the unread bytes until it has all it needs, and moves the start behind
// what it read. The value may be most bytes long.
func (d *decoder) try(most int, parse func(b []byte, pos int) int) error {
	for {
		pos := parse(d.w.data(), d.w.start)
		if pos >= 0 && pos-d.w.start <= most {
			d.w.start = pos
			return nil
		}
		if pos >= 0 {
			return d.tooLong(most)
		}
		if err := d.proceed(most); err != nil {
			return err
		}
	}
}

// proceed is called when a parsing function has stopped. It returns nil if there is now more to parse.
func (d *decoder) proceed(most int) error {
	if d.err != needMore { //nolint:errorlint // set by us, never wrapped, asked for every row
		return d.err
	}
	if d.w.end-d.w.start > most {
		return d.tooLong(most)
	}
	if err := d.w.more(); err != nil {
		return d.broken(err)
	}
	return nil
}

// broken says that the reader has no more, in the middle of the answer.
func (d *decoder) broken(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("odata: table %s: %w, after %d bytes and %d whole rows (%w)",
			d.table, ErrTruncated, d.w.bytes(), d.rows, io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("odata: table %s: reading the answer failed after %d bytes and %d whole rows: %w",
		d.table, d.w.bytes(), d.rows, err)
}

func (d *decoder) tooLong(most int) error {
	if d.inRow {
		return &DataError{Table: d.table, Row: d.row(), Problem: fmt.Sprintf("the row has more than %d bytes", most)}
	}
	return &DataError{Table: d.table, Problem: fmt.Sprintf("a value has more than %d bytes", most)}
}

// row is the number of the row that is being parsed, 0 outside the rows.
func (d *decoder) row() int64 {
	if !d.inRow {
		return 0
	}
	return d.base + d.rows + 1
}

// fail stops at the byte at pos, which the grammar does not allow there. If the window ends there, the
// byte is not known yet.
func (d *decoder) fail(pos int, problem string) int {
	if pos >= d.w.end {
		d.err = needMore
	} else {
		d.err = &MalformedError{Table: d.table, Row: d.row(), Offset: d.w.offset(pos), Problem: problem}
	}
	return -1
}

// refuse stops at sound JSON that does not fit the model. c is nil where no column is concerned.
func (d *decoder) refuse(c *column, problem string) int {
	e := &DataError{Table: d.table, Row: d.row(), Problem: problem}
	if c != nil {
		e.Column = c.name
	}
	d.err = e
	return -1
}
