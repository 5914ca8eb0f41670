package odata

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// distinct counts different keys in bounded memory. Up to limit digests are kept in a map, and a repeated
// key is found at once. Beyond that they go to temporary files by the first bits of their digest, and
// repeated keys are found at the end, file by file: equal keys are always in the same one.
//
// A crash leaves no file behind: they are removed from the directory as soon as they are open, where
// the system allows it, and by close otherwise.
type distinct struct {
	limit int
	seen  map[digest]struct{}
	dir   string
	files []*os.File
	out   []*bufio.Writer
	added int64
}

// Sizes of the key set: a million digests are some 40 MB in a map; spilled, a hundred million keys are
// 256 files of 6 MB.
const (
	distinctInMemory   = 1 << 20
	distinctPartitions = 256
)

func newDistinct(limit int) *distinct {
	return &distinct{limit: limit, seen: map[digest]struct{}{}}
}

// add reports whether d is known to have been there before. Once the set has been spilled it is always false.
func (s *distinct) add(d digest) (repeated bool, err error) {
	s.added++
	if s.seen == nil {
		return false, s.spill(d)
	}
	if _, repeated = s.seen[d]; repeated {
		return true, nil
	}
	s.seen[d] = struct{}{}
	if len(s.seen) > s.limit {
		return false, s.overflow()
	}
	return false, nil
}

func (s *distinct) overflow() (err error) {
	if s.dir, err = os.MkdirTemp("", "tablexport-keys-"); err != nil {
		return fmt.Errorf("odata: no room to check %d keys for repetitions; set TMPDIR to a directory with free space: %w", s.added, err)
	}
	for i := range distinctPartitions {
		f, err := os.OpenFile(fmt.Sprintf("%s/%03d", s.dir, i), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return fmt.Errorf("odata: the keys cannot be set aside to be checked for repetitions: %w", err)
		}
		_ = os.Remove(f.Name())
		s.files = append(s.files, f)
		s.out = append(s.out, bufio.NewWriterSize(f, 4<<10))
	}
	for d := range s.seen {
		if err := s.spill(d); err != nil {
			return err
		}
	}
	s.seen = nil
	return nil
}

func (s *distinct) spill(d digest) error {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], d.hi)
	binary.BigEndian.PutUint64(b[8:], d.lo)
	_, err := s.out[b[0]].Write(b[:])
	if err != nil {
		return fmt.Errorf("odata: the keys cannot be set aside to be checked for repetitions; set TMPDIR to a directory with free space: %w", err)
	}
	return nil
}

// count is the number of different keys.
func (s *distinct) count() (int64, error) {
	if s.seen != nil {
		return int64(len(s.seen)), nil
	}
	var n int64
	for i, f := range s.files {
		if err := s.out[i].Flush(); err != nil {
			return 0, fmt.Errorf("odata: the keys cannot be set aside to be checked for repetitions: %w", err)
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return 0, fmt.Errorf("odata: %w", err)
		}
		text, err := io.ReadAll(f)
		if err != nil || len(text)%16 != 0 {
			return 0, errors.Join(errors.New("odata: the keys that were set aside cannot be read again"), err)
		}
		n += countDistinct(text)
	}
	return n, nil
}

func countDistinct(text []byte) int64 {
	keys := make([][]byte, 0, len(text)/16)
	for i := 0; i < len(text); i += 16 {
		keys = append(keys, text[i:i+16])
	}
	slices.SortFunc(keys, bytes.Compare)
	return int64(len(slices.CompactFunc(keys, bytes.Equal)))
}

// close forgets the keys and removes the files.
func (s *distinct) close() {
	for _, f := range s.files {
		_ = f.Close()
	}
	if s.dir != "" {
		_ = os.RemoveAll(s.dir)
	}
	s.files, s.out, s.seen = nil, nil, nil
}
