// Package extsort sorts more records than fit into memory, and joins what is sorted.
//
// A record is a key and a value, both any bytes of any length. Records are ordered by key and then by value, as
// bytes.Compare orders. They are kept in memory up to a limit; beyond it, sorted runs of them go to one temporary
// file and are merged as they are read (external merge sort). Memory stays at about the limit however many records
// there are: a run is as long as the limit, and while runs are merged they share the limit as their read buffers.
//
// The file is removed from its directory as soon as it is open, where the system allows it, so that a crash leaves
// nothing behind; its mode is 0600. It is a leaf.
package extsort

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"os"
	"slices"
)

// DefaultMemory is how many bytes a Sorter keeps in memory unless Options says otherwise: a million records of 8 to 16 bytes.
const DefaultMemory = 32 << 20

// Options of a Sorter. The zero value is good.
type Options struct {
	Memory int    // bytes kept in memory, at least 64 KiB (DefaultMemory)
	Dir    string // where the temporary file goes ("" = $TMPDIR, or the system's directory)
	Unique bool   // records that are equal in key and value are given back once
}

// Record is one record. Its bytes are valid until the next one is asked for.
type Record struct {
	Key, Value []byte
}

// Sorter takes records in any order and gives them back sorted. It is not safe for concurrent use.
//
// A Sorter that has reported an error reports it for good, and gives no records.
type Sorter struct {
	opts    Options
	text    []byte  // keys and values, one behind the other
	entries []entry // the records of text
	n       int64

	file  *os.File // nil as long as everything fits
	out   *bufio.Writer
	size  int64
	runs  []section
	done  bool // sorted; no more records
	wrong error
}

// entry is a record in memory. prefix is the first eight bytes of its key, which decide most comparisons.
type entry struct {
	prefix   uint64
	at       int
	key, val uint32
}

// section is a run in the file.
type section struct{ from, to int64 }

const (
	entrySize = 24
	leastSize = 64 << 10
	blockSize = 4 << 10 // read buffer of a run, at least
)

// New makes an empty Sorter. Close it.
func New(opts Options) *Sorter {
	if opts.Memory <= 0 {
		opts.Memory = DefaultMemory
	}
	opts.Memory = max(opts.Memory, leastSize)
	return &Sorter{opts: opts}
}

// Len is how many records were added, equal ones counted as often as they were.
func (s *Sorter) Len() int64 { return s.n }

// Spilled is how many bytes went to the temporary file.
func (s *Sorter) Spilled() int64 { return s.size }

// Add adds a copy of a record. After records have been read no more can be added.
func (s *Sorter) Add(key, value []byte) error {
	switch {
	case s.wrong != nil:
		return s.wrong
	case s.done:
		return s.fail(errors.New("extsort: a record was added behind the end"))
	case uint64(len(key)) > math.MaxUint32 || uint64(len(value)) > math.MaxUint32:
		return s.fail(errors.New("extsort: a record is larger than 4 GiB"))
	}
	if need := len(key) + len(value); len(s.entries) > 0 && s.held()+need+entrySize > s.opts.Memory {
		if err := s.spill(); err != nil {
			return err
		}
	}
	s.entries = append(s.entries, entry{prefix: prefix(key), at: len(s.text), key: uint32(len(key)), val: uint32(len(value))})
	s.text = append(append(s.text, key...), value...)
	s.n++
	return nil
}

// held is what the records in memory take.
func (s *Sorter) held() int { return len(s.text) + entrySize*len(s.entries) }

func prefix(key []byte) uint64 {
	if len(key) >= 8 {
		return binary.BigEndian.Uint64(key)
	}
	var b [8]byte
	copy(b[:], key)
	return binary.BigEndian.Uint64(b[:])
}

func (s *Sorter) record(e entry) Record {
	mid := e.at + int(e.key)
	return Record{Key: s.text[e.at:mid:mid], Value: s.text[mid : mid+int(e.val)]}
}

func compare(pa, pb uint64, a, b Record) int {
	if pa != pb {
		return cmp.Compare(pa, pb)
	}
	return cmp.Or(bytes.Compare(a.Key, b.Key), bytes.Compare(a.Value, b.Value))
}

func (s *Sorter) sort() {
	slices.SortFunc(s.entries, func(a, b entry) int {
		if a.prefix != b.prefix {
			return cmp.Compare(a.prefix, b.prefix)
		}
		return compare(0, 0, s.record(a), s.record(b))
	})
}

// spill sorts what is in memory and appends it to the file as a run.
func (s *Sorter) spill() error {
	if s.file == nil {
		f, err := os.CreateTemp(s.opts.Dir, "tablexport-sort-")
		if err != nil {
			return s.full(err)
		}
		_ = os.Remove(f.Name()) // an open file goes on without its name; where it cannot, Close removes it
		s.file, s.out = f, bufio.NewWriterSize(f, 64<<10)
	}
	s.sort()
	run := section{from: s.size}
	var head [2 * binary.MaxVarintLen64]byte
	var before Record
	for i, e := range s.entries {
		rec := s.record(e)
		if s.opts.Unique && i > 0 && compare(0, 0, before, rec) == 0 {
			continue
		}
		before = rec
		h := binary.AppendUvarint(head[:0], uint64(e.key))
		h = binary.AppendUvarint(h, uint64(e.val))
		_, _ = s.out.Write(h) // a bufio.Writer keeps its first error
		if _, err := s.out.Write(s.text[e.at : e.at+int(e.key)+int(e.val)]); err != nil {
			return s.full(err)
		}
		s.size += int64(len(h)) + int64(e.key) + int64(e.val)
	}
	if err := s.out.Flush(); err != nil {
		return s.full(err)
	}
	run.to = s.size
	s.runs = append(s.runs, run)
	s.text, s.entries = s.text[:0], s.entries[:0]
	return nil
}

func (s *Sorter) full(err error) error {
	return s.fail(fmt.Errorf("extsort: %d records cannot be set aside; set TMPDIR to a directory with free space: %w", s.n, err))
}

func (s *Sorter) fail(err error) error {
	if s.wrong == nil {
		s.wrong = err
	}
	return s.wrong
}

// Sorted gives the records in order. It may be ranged over more than once, one time after the other; the error, if
// there is one, is the last thing that is given.
func (s *Sorter) Sorted() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		m, err := s.merge()
		if err != nil {
			yield(Record{}, err)
			return
		}
		for m.next() {
			if !yield(m.rec, nil) {
				return
			}
		}
		if m.err != nil {
			yield(Record{}, m.err)
		}
	}
}

// Close forgets the records and gives the disk back.
func (s *Sorter) Close() {
	s.fail(errors.New("extsort: the sorter is closed")) //nolint:errcheck // it is what later calls are told
	if s.file != nil {
		_ = s.file.Close()
		_ = os.Remove(s.file.Name())
	}
	s.text, s.entries, s.runs, s.file, s.out = nil, nil, nil, nil, nil
}

// finish sorts what was added last.
func (s *Sorter) finish() error {
	if s.wrong != nil || s.done {
		return s.wrong
	}
	s.done = true
	if s.file == nil {
		s.sort()
		return nil
	}
	if len(s.entries) > 0 {
		if err := s.spill(); err != nil {
			return err
		}
	}
	s.text, s.entries = nil, nil // the memory is the read buffers' now
	return nil
}

// merge begins a walk over all records.
func (s *Sorter) merge() (*merge, error) {
	if err := s.finish(); err != nil {
		return nil, err
	}
	m := &merge{s: s}
	size := max(blockSize, min(s.opts.Memory/max(len(s.runs), 1), 256<<10))
	for _, run := range s.runs {
		r := &reader{in: bufio.NewReaderSize(io.NewSectionReader(s.file, run.from, run.to-run.from), size)}
		if r.next() {
			m.heap = append(m.heap, r)
		} else if r.err != nil {
			return nil, s.fail(r.err)
		}
	}
	for i := len(m.heap)/2 - 1; i >= 0; i-- {
		m.down(i)
	}
	return m, nil
}

// merge walks over the records in order: those in memory, or those of the runs, the smallest first (k-way merge by a
// binary heap).
type merge struct {
	s     *Sorter
	heap  []*reader
	begun bool
	at    int
	rec   Record
	last  []byte // of the record before, with Unique
	key   int
	err   error
}

// next goes to the next record; false at the end, and after an error.
func (m *merge) next() bool {
	for m.advance() {
		if !m.s.opts.Unique {
			return true
		}
		if m.last != nil && bytes.Equal(m.last[:m.key], m.rec.Key) && bytes.Equal(m.last[m.key:], m.rec.Value) {
			continue
		}
		m.last, m.key = append(append(m.last[:0], m.rec.Key...), m.rec.Value...), len(m.rec.Key)
		if m.last == nil {
			m.last = []byte{} // an empty record was there
		}
		return true
	}
	return false
}

func (m *merge) advance() bool {
	if m.s.wrong != nil || m.err != nil {
		m.err = cmp.Or(m.err, m.s.wrong)
		return false
	}
	if m.s.file == nil {
		if m.at == len(m.s.entries) {
			return false
		}
		m.rec = m.s.record(m.s.entries[m.at])
		m.at++
		return true
	}
	if m.begun && len(m.heap) > 0 {
		top := m.heap[0]
		switch {
		case top.next():
		case top.err != nil:
			m.err = m.s.fail(top.err)
			return false
		default:
			end := len(m.heap) - 1
			m.heap[0], m.heap = m.heap[end], m.heap[:end]
		}
		m.down(0)
	}
	m.begun = true
	if len(m.heap) == 0 {
		return false
	}
	m.rec = m.heap[0].rec
	return true
}

// down lets the reader at i sink to its place.
func (m *merge) down(i int) {
	for {
		least := i
		for _, child := range [2]int{2*i + 1, 2*i + 2} {
			if child < len(m.heap) && m.heap[child].less(m.heap[least]) {
				least = child
			}
		}
		if least == i {
			return
		}
		m.heap[i], m.heap[least] = m.heap[least], m.heap[i]
		i = least
	}
}

// reader reads one run.
type reader struct {
	in     *bufio.Reader
	text   []byte
	rec    Record
	prefix uint64
	err    error
}

func (r *reader) less(o *reader) bool { return compare(r.prefix, o.prefix, r.rec, o.rec) < 0 }

func (r *reader) next() bool {
	key, err := binary.ReadUvarint(r.in)
	if errors.Is(err, io.EOF) {
		return false
	}
	val, err2 := binary.ReadUvarint(r.in)
	if err = cmp.Or(err, err2); err == nil {
		r.text = slices.Grow(r.text[:0], int(key+val))[:key+val]
		_, err = io.ReadFull(r.in, r.text)
	}
	if err != nil {
		r.err = fmt.Errorf("extsort: the records that were set aside cannot be read again: %w", err)
		return false
	}
	r.rec = Record{Key: r.text[:key:key], Value: r.text[key:]}
	r.prefix = prefix(r.rec.Key)
	return true
}
