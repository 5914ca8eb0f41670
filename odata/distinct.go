package odata

import (
	"encoding/binary"
	"fmt"

	"github.com/tablexport/tablexport/odata/extsort"
)

// distinct counts different keys in bounded memory. Up to limit digests are kept in a map, and a repeated
// key is found at once. Beyond that they are sorted with a temporary file, and repeated keys are found at the end.
type distinct struct {
	limit  int
	seen   map[digest]struct{}
	sorted *extsort.Sorter
}

// distinctInMemory is a million digests: some 40 MB in a map.
const distinctInMemory = 1 << 20

func newDistinct(limit int) *distinct {
	return &distinct{limit: limit, seen: map[digest]struct{}{}}
}

// add reports whether d is known to have been there before. Once the set has been spilled it is always false.
func (s *distinct) add(d digest) (repeated bool, err error) {
	if s.seen == nil {
		return false, s.spill(d)
	}
	if _, repeated = s.seen[d]; repeated {
		return true, nil
	}
	s.seen[d] = struct{}{}
	if len(s.seen) <= s.limit {
		return false, nil
	}
	s.sorted = extsort.New(extsort.Options{Unique: true})
	for d := range s.seen {
		if err := s.spill(d); err != nil {
			return false, err
		}
	}
	s.seen = nil
	return false, nil
}

func (s *distinct) spill(d digest) error {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], d.hi)
	binary.BigEndian.PutUint64(b[8:], d.lo)
	return repetitions(s.sorted.Add(b[:], nil))
}

// count is the number of different keys.
func (s *distinct) count() (int64, error) {
	if s.seen != nil {
		return int64(len(s.seen)), nil
	}
	var n int64
	for _, err := range s.sorted.Sorted() {
		if err != nil {
			return 0, repetitions(err)
		}
		n++
	}
	return n, nil
}

// close forgets the keys and gives the disk back.
func (s *distinct) close() {
	if s.sorted != nil {
		s.sorted.Close()
	}
	s.seen = nil
}

func repetitions(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("odata: the keys cannot be checked for repetitions: %w", err)
}
