package parquet

import (
	"slices"
	"sync"

	"github.com/apache/arrow/go/v17/arrow"
)

// Encoders is what files that were finished leave to the next ones of the same columns and options: their buffers, and what was learned of each
// column (whether a dictionary pays, what its pages are best compressed with), which a small file spends more on than on its rows. There are
// never more of them than files were written at the same time. The zero value is ready, and safe for concurrent use.
type Encoders struct {
	mu   sync.Mutex
	idle []encoderSet
}

// encoderSet is that of a file: its columns share memory, so they stay together.
type encoderSet struct {
	fields *arrow.Schema
	opts   Options
	list   []encoder
}

func (s *encoderSet) fits(fields *arrow.Schema, o Options) bool {
	return s.opts.RowGroupRows == o.RowGroupRows && s.opts.LowMemory == o.LowMemory && s.opts.ZstdLevel == o.ZstdLevel &&
		slices.Equal(s.opts.Key, o.Key) && s.fields.Equal(fields)
}

// take returns a set for a file, or nil.
func (e *Encoders) take(fields *arrow.Schema, o Options) []encoder {
	if e == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, s := range e.idle {
		if s.fits(fields, o) {
			e.idle = slices.Delete(e.idle, i, i+1)
			return s.list
		}
	}
	return nil
}

// give takes the set of a file that went well. One that failed may hold half a chunk.
func (e *Encoders) give(fields *arrow.Schema, o Options, list []encoder) {
	if e == nil {
		return
	}
	for _, one := range list {
		one.forget()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.idle = append(e.idle, encoderSet{fields: fields, opts: o, list: list})
}
