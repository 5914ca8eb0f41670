package audit

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/tablexport/tablexport/secrets/internal/filelock"
)

// maxProblems bounds Report.Problems.
const maxProblems = 1000

// Report is the result of Verify.
type Report struct {
	Files    int      `json:"files"`
	Entries  int64    `json:"entries"`
	Torn     int64    `json:"torn"` // lines that a crash tore, each marked as such by the entry after it
	LastSeq  int64    `json:"last_seq"`
	LastHash string   `json:"last_hash"`
	Log      string   `json:"log"`       // hash of the first entry, which names the log; "" if it is empty
	FirstSeq int64    `json:"first_seq"` // of the entries that are there; above 1 once retention has removed older ones
	Problems []string `json:"problems"`  // file:line: what is wrong; at most 1000
}

// Verify reads the whole log in dir and checks sequence, chain and hashes. What is wrong with the log is in
// Report.Problems; the error is for what kept Verify from reading it. It may run while others write.
//
// Where the first files are missing, an entry "expire" must say that retention removed them.
func Verify(dir string) (Report, error) { return walk(dir, nil) }

// walk is Verify; each, if there is one, is called for every entry in order. Its error ends the reading.
func walk(dir string, each func(Entry) error) (Report, error) {
	files, err := snapshot(context.Background(), dir)
	if err != nil {
		return Report{}, err
	}
	v := verifier{prev: genesis, each: each, ends: map[int64]string{}}
	v.report.Files = len(files)
	v.expired = len(files) > 0 && files[0].number > 1
	for i, f := range files {
		if i > 0 && f.number != files[i-1].number+1 {
			v.problem(f.name, 0, "the file before it is missing")
		}
		if err := v.file(dir, f, i == len(files)-1); err != nil {
			return Report{}, fmt.Errorf("audit: %s: %w", f.name, err)
		}
		v.ends[v.seq] = v.prev
	}
	if v.expired && !v.explained() {
		v.problem(files[0].name, 1, "the files before it are missing, and no entry %q says that retention removed them", actionExpire)
	}
	v.report.LastSeq, v.report.LastHash = v.seq, v.prev
	return v.report, nil
}

type sizedFile struct {
	number int
	name   string
	size   int64
}

// snapshot lists the files and how long they are while nobody is in the middle of a write.
func snapshot(ctx context.Context, dir string) ([]sizedFile, error) {
	unlock, err := shared(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	numbers, err := fileNumbers(dir)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	files := make([]sizedFile, 0, len(numbers))
	for _, n := range numbers {
		info, err := os.Stat(filePath(dir, n))
		if err != nil {
			return nil, fmt.Errorf("audit: %w", err)
		}
		files = append(files, sizedFile{number: n, name: fileName(n), size: info.Size()})
	}
	return files, nil
}

// shared keeps writers out. A copy of a log has no lock file, and a reader may lack the right to open it: then nobody
// is kept out, and a line that is being written can look torn.
func shared(ctx context.Context, dir string) (unlock func(), err error) {
	lock, err := filelock.Shared(ctx, filepath.Join(dir, lockName))
	switch {
	case err == nil:
		return lock.Unlock, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return func() {}, nil
	default:
		return nil, fmt.Errorf("audit: %w", err)
	}
}

type verifier struct {
	report Report
	seq    int64
	prev   string
	each   func(Entry) error
	err    error // of each

	expired bool             // the log does not begin with its first file
	ends    map[int64]string // hash of the last entry of each file, and of the one before the first
	expiry  *Entry           // the last entry that says what retention removed

	// Lines since the last entry that are none: a marker must account for them.
	strays    []stray
	strayHash hash.Hash
	strayLen  int64
}

type stray struct {
	line int64
	why  string
}

func (v *verifier) problem(name string, line int64, format string, args ...any) {
	switch n := len(v.report.Problems); {
	case n < maxProblems-1:
		v.report.Problems = append(v.report.Problems, fmt.Sprintf("%s:%d: ", name, line)+fmt.Sprintf(format, args...))
	case n == maxProblems-1:
		v.report.Problems = append(v.report.Problems, "more problems were found; the list ends here")
	}
}

func (v *verifier) file(dir string, f sizedFile, last bool) error {
	file, err := os.Open(filepath.Join(dir, f.name))
	if err != nil {
		return err
	}
	defer file.Close()
	r := bufio.NewReaderSize(io.LimitReader(file, f.size), 64<<10)
	for number := int64(1); ; number++ {
		line, closed, err := readLine(r)
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, errLineTooLong) {
			v.problem(f.name, number, "not an entry: %v", err)
			continue
		}
		if err != nil {
			return err
		}
		if v.line(f.name, number, line, closed, last); v.err != nil {
			return v.err
		}
	}
	for _, s := range v.strays {
		if last {
			v.problem(f.name, s.line, "%s; a crash tore it or somebody cut it. The next entry that tablexport writes will mark it", s.why)
		} else {
			v.problem(f.name, s.line, "%s", s.why)
		}
	}
	v.forgive()
	return nil
}

func (v *verifier) line(name string, number int64, line []byte, closed, last bool) {
	e, sound, err := decode(line)
	if err != nil {
		if v.strayHash == nil {
			v.strayHash = sha256.New()
		}
		v.strayHash.Write(line)
		v.strayHash.Write([]byte{'\n'})
		v.strayLen += int64(len(line)) + 1
		if len(v.strays) < maxProblems {
			v.strays = append(v.strays, stray{number, err.Error()})
		}
		return
	}
	if !closed && !last {
		v.problem(name, number, "the file's last line does not end in a newline")
	}
	v.marker(name, number, e)
	if v.report.Entries == 0 {
		v.begin(e)
	}
	switch {
	case !sound:
		v.problem(name, number, "the hash does not match: the line was changed")
	case e.Prev != v.prev:
		v.problem(name, number, "the chain is broken: prev is not the hash of the entry before; a line was changed, removed or added here")
	}
	if e.Seq != v.seq+1 {
		v.problem(name, number, "sequence %d where %d was due", e.Seq, v.seq+1)
	}
	if e.Action == actionExpire {
		v.expiry = &e
	}
	v.report.Entries++
	v.seq, v.prev = e.Seq, e.Hash
	if v.each != nil && v.err == nil {
		v.err = v.each(e)
	}
}

// begin takes the first entry's word for what came before it, where retention may have removed that.
func (v *verifier) begin(e Entry) {
	v.report.FirstSeq = e.Seq
	if !v.expired {
		v.report.Log = e.Hash
		return
	}
	v.seq, v.prev = e.Seq-1, e.Prev
	v.ends[v.seq] = v.prev
}

// explained says whether an entry of the log tells of the removal of what came before its first entry.
func (v *verifier) explained() bool {
	if v.expiry == nil {
		return false
	}
	through, err := strconv.ParseInt(v.expiry.Detail[detailThrough], 10, 64)
	hash, known := v.ends[through]
	if err != nil || !known || through < v.report.FirstSeq-1 || through >= v.expiry.Seq || hash != v.expiry.Detail[detailHash] {
		return false
	}
	v.report.Log = v.expiry.Detail[detailLog]
	return true
}

// marker settles the strays before entry e: they are right only if e is a marker that describes them.
func (v *verifier) marker(name string, number int64, e Entry) {
	defer v.forgive()
	described := e.Action == actionTorn && len(v.strays) > 0 &&
		e.Detail[detailBytes] == strconv.FormatInt(v.strayLen, 10) &&
		e.Detail[detailSHA] == hex.EncodeToString(v.strayHash.Sum(nil))
	switch {
	case described:
		v.report.Torn += int64(len(v.strays))
		return
	case e.Action == actionTorn:
		v.problem(name, number, "marks a torn line, but what stands before it is not what it describes")
	}
	for _, s := range v.strays {
		v.problem(name, s.line, "%s", s.why)
	}
}

func (v *verifier) forgive() { v.strays, v.strayHash, v.strayLen = nil, nil, 0 }

// readLine reads one line. A line over the bound is read to its end and given as errLineTooLong.
func readLine(r *bufio.Reader) (line []byte, closed bool, err error) {
	tooLong := false
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > maxLine+1 {
			tooLong = true
			line = line[:0]
		}
		if !tooLong {
			line = append(line, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			if tooLong {
				return nil, false, errLineTooLong
			}
			if len(line) == 0 {
				return nil, false, io.EOF
			}
			return line, false, nil
		case err != nil:
			return nil, false, err
		case tooLong:
			return nil, false, errLineTooLong
		}
		return line[:len(line)-1], true, nil
	}
}

// Tail returns the last n entries, oldest first. It reads from the end and passes over torn lines; it does not verify.
func Tail(dir string, n int) ([]Entry, error) {
	unlock, err := shared(context.Background(), dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	numbers, err := fileNumbers(dir)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	var entries []Entry
	for _, number := range slices.Backward(numbers) {
		if len(entries) >= n {
			break
		}
		if err := tailFile(filePath(dir, number), func(e Entry) bool {
			entries = append(entries, e)
			return len(entries) < n
		}); err != nil {
			return nil, fmt.Errorf("audit: %s: %w", fileName(number), err)
		}
	}
	slices.Reverse(entries)
	return entries, nil
}

// Last returns the newest entry of an action; ok is false if the log in dir has none, or is not there. It reads backwards, and parses only lines that may be of the
// action. The entry's own hash is checked (ErrDamaged); the chain is Verify's.
func Last(dir, action string) (found Entry, ok bool, err error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return Entry{}, false, nil
	}
	unlock, err := shared(context.Background(), dir)
	if err != nil {
		return Entry{}, false, err
	}
	defer unlock()
	numbers, err := fileNumbers(dir)
	if err != nil {
		return Entry{}, false, fmt.Errorf("audit: %w", err)
	}
	mark, err := json.Marshal(action)
	if err != nil {
		return Entry{}, false, fmt.Errorf("audit: %w", err)
	}
	mark = append([]byte(`"action":`), mark...)
	for _, number := range slices.Backward(numbers) {
		err := lastOf(filePath(dir, number), mark, func(line []byte) (bool, error) {
			e, sound, err := decode(line)
			if torn := err != nil; torn || e.Action != action { // or a text that looks like it
				return false, nil //nolint:nilerr // what a crash tore is no entry
			}
			if !sound {
				return false, fmt.Errorf("%w: an entry %q in %s is not what its hash says", ErrDamaged, action, fileName(number))
			}
			found, ok = e, true
			return true, nil
		})
		if err != nil || ok {
			return found, ok, err
		}
	}
	return Entry{}, false, nil
}

// lastOf hands on the lines of a file that hold mark, the last one first, until one is what was looked for.
func lastOf(path string, mark []byte, is func(line []byte) (bool, error)) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	var failed error
	err = linesBackward(f, info.Size(), func(line placedLine) bool {
		if !bytes.Contains(line.text, mark) {
			return true
		}
		var done bool
		done, failed = is(line.text)
		return !done && failed == nil
	})
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return failed
}

func tailFile(path string, yield func(Entry) bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return linesBackward(f, info.Size(), func(line placedLine) bool {
		e, _, err := decode(line.text)
		return err != nil || yield(e)
	})
}

// followEvery is how often Follow looks for new lines.
const followEvery = 250 * time.Millisecond

// Follow calls fn for every entry with a sequence number above after (0: all, -1: only those written from now on), in
// order, and goes on as new ones are written, by whatever process, until ctx ends or fn returns an error, which it returns.
// It returns nil when ctx ends. Torn lines are passed over.
func Follow(ctx context.Context, dir string, after int64, fn func(Entry) error) error {
	number, offset := 1, int64(0)
	files, err := snapshot(ctx, dir)
	switch {
	case err != nil && (after < 0 || !errors.Is(err, fs.ErrNotExist)):
		return err
	case len(files) > 0 && after < 0:
		number, offset = files[len(files)-1].number, files[len(files)-1].size
	case len(files) > 0:
		number = files[0].number // retention may have removed those before
	}
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		// Once the next file exists this one is final: so look for the next one before reading, not after.
		_, statErr := os.Stat(filePath(dir, number+1))
		entries, next, err := readOn(ctx, dir, number, offset)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		for _, e := range entries {
			if e.Seq <= after {
				continue
			}
			if err := fn(e); err != nil {
				return err
			}
		}
		offset = next
		if len(entries) > 0 {
			continue // there may be more than one portion
		}
		if statErr == nil {
			number, offset = number+1, 0
			continue
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	return nil
}

// readOn reads whole lines of one file from offset on, 1000 at most, and says where it stopped.
func readOn(ctx context.Context, dir string, number int, offset int64) ([]Entry, int64, error) {
	unlock, err := shared(ctx, dir)
	if err != nil {
		return nil, 0, err
	}
	defer unlock()
	f, err := os.Open(filePath(dir, number))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, offset, nil // not written yet
	}
	if err != nil {
		return nil, 0, fmt.Errorf("audit: %w", err)
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, 0, fmt.Errorf("audit: %w", err)
	}
	r := bufio.NewReaderSize(f, 64<<10)
	var entries []Entry
	for len(entries) < 1000 {
		line, closed, err := readLine(r)
		if errors.Is(err, io.EOF) || err == nil && !closed {
			break
		}
		if err != nil {
			return nil, 0, fmt.Errorf("audit: %s: %w", fileName(number), err)
		}
		offset += int64(len(line)) + 1
		if e, _, err := decode(line); err == nil {
			entries = append(entries, e)
		}
	}
	return entries, offset, nil
}
