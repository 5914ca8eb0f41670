package parquet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sync"

	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/file"
)

// scratch are the library's buffers for skipping values, which we never do.
var scratch = &sync.Pool{New: func() any { return memory.NewResizableBuffer(memory.DefaultAllocator) }}

// columnReader is the library's reader of a column chunk, over pages that were checked: the library never ends reading a page that
// has fewer definition levels than it says it has values.
func columnReader(rd *file.Reader, group, column int) (file.ColumnChunkReader, error) {
	pages, err := rd.RowGroup(group).GetColumnPageReader(column)
	if err != nil {
		return nil, err
	}
	c := rd.MetaData().Schema.Column(column)
	checked := &checkedPages{PageReader: pages, def: c.MaxDefinitionLevel(), rep: c.MaxRepetitionLevel()}
	return file.NewColumnReader(c, checked, memory.DefaultAllocator, scratch), nil
}

type checkedPages struct {
	file.PageReader
	def, rep int16 // the greatest levels
	err      error
}

// Next implements file.PageReader.
func (p *checkedPages) Next() bool {
	if p.err != nil || !p.PageReader.Next() {
		return false
	}
	p.err = p.check(p.Page())
	return p.err == nil
}

// Err implements file.PageReader.
func (p *checkedPages) Err() error {
	if p.err != nil {
		return p.err
	}
	return p.PageReader.Err()
}

var errLevels = errors.New("a page has fewer levels than values")

// check finds the definition levels of a data page (README.md of parquet-format, "Data Pages") and counts them.
func (p *checkedPages) check(page file.Page) error {
	if p.def == 0 {
		return nil
	}
	data := page.Data()
	switch page := page.(type) {
	case *file.DataPageV1:
		if page.DefinitionLevelEncoding() != parquet.Encodings.RLE {
			return fmt.Errorf("a page whose levels are encoded as %s", page.DefinitionLevelEncoding())
		}
		if p.rep > 0 {
			_, rest, ok := prefixed(data)
			if !ok {
				return errLevels
			}
			data = rest
		}
		def, _, ok := prefixed(data)
		if !ok || countLevels(def, bits.Len16(uint16(p.def))) < int64(page.NumValues()) {
			return errLevels
		}
	case *file.DataPageV2:
		from, n := int64(page.RepetitionLevelByteLen()), int64(page.DefinitionLevelByteLen())
		if from < 0 || n < 0 || from+n > int64(len(data)) || countLevels(data[from:from+n], bits.Len16(uint16(p.def))) < int64(page.NumValues()) {
			return errLevels
		}
	}
	return nil
}

// prefixed takes off what a length of four bytes stands before.
func prefixed(data []byte) (head, rest []byte, ok bool) {
	if len(data) < 4 {
		return nil, nil, false
	}
	n := int64(binary.LittleEndian.Uint32(data))
	if data = data[4:]; n > int64(len(data)) {
		return nil, nil, false
	}
	return data[:n], data[n:], true
}

// countLevels is the number of values in a run of the RLE and bit-packing hybrid (Encodings.md).
func countLevels(data []byte, width int) (n int64) {
	for len(data) > 0 {
		header, size := binary.Uvarint(data)
		if size <= 0 {
			break
		}
		data = data[size:]
		if header&1 == 0 {
			if len(data) < (width+7)/8 {
				break
			}
			n += int64(min(header>>1, 1<<32))
			data = data[(width+7)/8:]
			continue
		}
		packed := min(int(min(header>>1, 1<<32))*width, len(data))
		n += int64(packed * 8 / width)
		data = data[packed:]
	}
	return n
}
