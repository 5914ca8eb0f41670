package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	filePrefix = "audit-"
	fileSuffix = ".jsonl"
	lockName   = "lock"
)

func fileName(number int) string { return fmt.Sprintf("%s%06d%s", filePrefix, number, fileSuffix) }

// fileNumber is the number in a log file's name; ok is false for any other name.
func fileNumber(name string) (number int, ok bool) {
	digits, found := strings.CutPrefix(name, filePrefix)
	if !found {
		return 0, false
	}
	if digits, found = strings.CutSuffix(digits, fileSuffix); !found {
		return 0, false
	}
	number, err := strconv.Atoi(digits)
	return number, err == nil && number > 0 && fileName(number) == name
}

// fileNumbers lists the log files of dir in order.
func fileNumbers(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, e := range entries {
		if n, ok := fileNumber(e.Name()); ok && e.Type().IsRegular() {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// placedLine is a line and where it lies in its file.
type placedLine struct {
	text   []byte // without "\n"
	start  int64
	closed bool // ends in "\n"
}

// lineTooLong ends a backward read: no entry is longer than maxLine.
var errLineTooLong = errors.New("a line is longer than an entry can be")

// linesBackward calls yield for every line of r's first size bytes, last line first, until yield returns false.
// It reads blocks from the end and holds at most one line and one block.
func linesBackward(r io.ReaderAt, size int64, yield func(placedLine) bool) error {
	const block = 64 << 10
	var rest []byte // of the line that goes on to the left
	end, closed := size, false
	for end > 0 {
		start := max(0, end-block)
		buf := make([]byte, end-start, int(end-start)+len(rest))
		if _, err := r.ReadAt(buf, start); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if end == size && buf[len(buf)-1] == '\n' {
			closed = true
			buf = buf[:len(buf)-1]
		}
		buf = append(buf, rest...)
		for {
			i := bytes.LastIndexByte(buf, '\n')
			if i < 0 {
				break
			}
			if !yield(placedLine{text: buf[i+1:], start: start + int64(i) + 1, closed: closed}) {
				return nil
			}
			closed, buf = true, buf[:i]
		}
		if len(buf) > maxLine {
			return errLineTooLong
		}
		rest, end = buf, start
	}
	if size > 0 {
		yield(placedLine{text: rest, start: 0, closed: closed})
	}
	return nil
}

// syncDir makes a new name in dir survive a power failure. Directories cannot be synced everywhere; where they can,
// an error counts.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, os.ErrInvalid) && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

func filePath(dir string, number int) string { return filepath.Join(dir, fileName(number)) }
