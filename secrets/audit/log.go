package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/tablexport/tablexport/secrets/internal/filelock"
)

// The facts that callers can tell apart.
var (
	// ErrClosed means that the log was closed.
	ErrClosed = errors.New("audit: the log is closed")
	// ErrDamaged means that the end of the log is not what a crash can leave: nothing is appended to it. Run Verify.
	ErrDamaged = errors.New("audit: the end of the log is damaged")
)

// actionTorn is the action of the marker entry that stands after a torn line.
const actionTorn = "torn"

const (
	detailBytes = "bytes"  // length of what was left lying, the "\n" that ends it included
	detailSHA   = "sha256" // of the same bytes, hex
)

// maxFile is the size from which on a file is followed by the next one.
const maxFile = 64 << 20

// maxTorn bounds what may lie after the last entry: one batch that a crash cut, twice over.
const maxTorn = 4 * maxLine

// Log is a directory of JSON-lines files, shared by the processes of one state directory.
// It is safe for concurrent use.
type Log struct {
	dir     string
	maxFile int64
	fsync   func(*os.File) error // os.File.Sync; a test replaces it

	mu     sync.Mutex
	closed bool
	mine   bool     // this process has appended
	file   *os.File // the last file, nil before the first append
	end    end      // valid while file is not nil
}

// end is what the last file looked like when this process held the lock last.
type end struct {
	number int   // of the file; 0 = there is none
	size   int64 // of the file
	seq    int64 // of the last entry of the log
	hash   string
	open   bool  // the last line has no "\n"
	torn   int64 // from here to size lies something that is no entry; == size if nothing
}

// Open opens (and creates, 0700/0600) the log in dir. A torn last line, which a crash can leave, is completed by a marker
// entry, never silently cut. It returns ErrDamaged if what lies at the end cannot come from a crash.
func Open(dir string) (*Log, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("audit: create the directory of the audit log: %w", err)
	}
	l := &Log{dir: dir, maxFile: maxFile, fsync: (*os.File).Sync}
	lock, err := l.lock(context.Background())
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	if err := l.refresh(); err != nil {
		return nil, err
	}
	if l.file != nil && (l.end.open || l.end.torn < l.end.size) {
		if err := l.write(nil); err != nil {
			l.forget()
			return nil, err
		}
	}
	return l, nil
}

func (l *Log) lock(ctx context.Context) (*filelock.Lock, error) {
	lock, err := filelock.Exclusive(ctx, filepath.Join(l.dir, lockName))
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return lock, nil
}

// Append writes one entry durably: it is on disk when Append returns without error. It sets Seq, Time, Prev and Hash and
// returns the entry as written: texts are cut to 512 bytes, Detail to 32 values of 2 KiB. The action "torn" is reserved.
//
// After an error the entry is not in the log, unless the disk failed in a way that hid it (then the next Append or
// Verify shows it); callers treat the act as not recorded and do not do it.
func (l *Log) Append(ctx context.Context, e Entry) (Entry, error) {
	if e.Action == "" || e.Action == actionTorn {
		return Entry{}, fmt.Errorf("audit: action %q cannot be recorded", e.Action)
	}
	if err := ctx.Err(); err != nil {
		return Entry{}, fmt.Errorf("audit: nothing written: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return Entry{}, ErrClosed
	}
	lock, err := l.lock(ctx)
	if err != nil {
		return Entry{}, err
	}
	defer lock.Unlock()
	if err := l.refresh(); err != nil {
		return Entry{}, err
	}
	if err := l.ensureFile(); err != nil {
		return Entry{}, err
	}
	e = bounded(e)
	if err := l.write(&e); err != nil {
		l.forget() // what is on disk now is looked up by the next one
		return Entry{}, err
	}
	l.mine = true
	return e, nil
}

// Appended says whether Append has written an entry.
func (l *Log) Appended() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mine
}

// Close closes the log. Closing it again does nothing.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.forget()
	return nil
}

func (l *Log) forget() {
	if l.file != nil {
		_ = l.file.Close() // everything acknowledged was synced
		l.file = nil
	}
}

// refresh makes l.file and l.end true again if another process wrote since. The lock is held.
func (l *Log) refresh() error {
	if l.file != nil {
		now, err := os.Stat(filePath(l.dir, l.end.number))
		mine, err2 := l.file.Stat()
		_, err3 := os.Lstat(filePath(l.dir, l.end.number+1))
		if err == nil && err2 == nil && errors.Is(err3, fs.ErrNotExist) && os.SameFile(now, mine) && now.Size() == l.end.size {
			return nil
		}
		l.forget()
	}
	end, err := readEnd(l.dir)
	if err != nil {
		return err
	}
	l.end = end
	if end.number == 0 {
		return nil
	}
	l.file, err = os.OpenFile(filePath(l.dir, end.number), os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}

// ensureFile starts the first file, or the next one when the last is full. A crash after it leaves an empty last file,
// which readEnd takes for what it is.
func (l *Log) ensureFile() error {
	if l.file != nil && (l.end.size < l.maxFile || l.end.open || l.end.torn < l.end.size) {
		return nil
	}
	f, err := os.OpenFile(filePath(l.dir, l.end.number+1), os.O_RDWR|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("audit: start the next file: %w", err)
	}
	if err := syncDir(l.dir); err != nil {
		_ = f.Close()
		return fmt.Errorf("audit: start the next file: %w", err)
	}
	l.forget()
	l.file = f
	l.end.number, l.end.size, l.end.torn = l.end.number+1, 0, 0
	return nil
}

// write appends what is due (the end of an open line, a marker) and e, if there is one, in one write. The lock is held.
// A crash here leaves a torn line, which the next writer marks. An error takes back what was written.
func (l *Log) write(e *Entry) error {
	var buf []byte
	next := l.end
	if next.open {
		buf = append(buf, '\n')
	}
	add := func(e *Entry) error {
		e.Seq, e.Time, e.Prev = next.seq+1, time.Now().UTC().Truncate(time.Microsecond), next.hash
		line, hash, err := encode(*e)
		if err != nil {
			return err
		}
		if len(line) > maxLine {
			return fmt.Errorf("audit: entry of %d bytes", len(line))
		}
		e.Hash = hash
		next.seq, next.hash = e.Seq, hash
		buf = append(append(buf, line...), '\n')
		return nil
	}
	if l.end.torn < l.end.size {
		marker, err := l.marker(buf)
		if err != nil {
			return err
		}
		if err := add(&marker); err != nil {
			return err
		}
	}
	if e != nil {
		if err := add(e); err != nil {
			return err
		}
	}
	_, err := l.file.Write(buf)
	if err == nil {
		err = l.fsync(l.file)
	}
	if err != nil {
		if undo := l.file.Truncate(l.end.size); undo == nil {
			_ = l.file.Sync()
		}
		return fmt.Errorf("audit: the entry could not be written to disk: %w", err)
	}
	next.size, next.open = l.end.size+int64(len(buf)), false
	next.torn = next.size
	l.end = next
	return nil
}

// marker describes what lies between the last entry and the end of the file; closing is the "\n" about to be added, if any.
func (l *Log) marker(closing []byte) (Entry, error) {
	h := sha256.New()
	n, err := io.Copy(h, io.NewSectionReader(l.file, l.end.torn, l.end.size-l.end.torn))
	if err != nil {
		return Entry{}, fmt.Errorf("audit: read the torn line: %w", err)
	}
	h.Write(closing)
	return Entry{
		Actor: "tablexport", Action: actionTorn, Subject: fileName(l.end.number), Outcome: Failed,
		Detail: map[string]string{
			detailBytes: strconv.FormatInt(n+int64(len(closing)), 10),
			detailSHA:   hex.EncodeToString(h.Sum(nil)),
		},
	}, nil
}

// readEnd finds the last entry of the log in dir. It reads from the end, and no further than it must.
func readEnd(dir string) (end, error) {
	numbers, err := fileNumbers(dir)
	if err != nil {
		return end{}, fmt.Errorf("audit: %w", err)
	}
	result := end{hash: genesis}
	for i := len(numbers) - 1; i >= 0; i-- {
		found, e, err := readFileEnd(dir, numbers[i])
		if err != nil {
			return end{}, err
		}
		if i == len(numbers)-1 {
			result = found
			result.hash = genesis
		} else if e == nil && found.size > 0 {
			return end{}, fmt.Errorf("%w: %s holds no entry", ErrDamaged, fileName(numbers[i]))
		}
		if e != nil {
			result.seq, result.hash = e.Seq, e.Hash
			return result, nil
		}
	}
	return result, nil
}

// readFileEnd describes the end of one file and gives its last entry, nil if it has none.
func readFileEnd(dir string, number int) (end, *Entry, error) {
	f, err := os.Open(filePath(dir, number))
	if err != nil {
		return end{}, nil, fmt.Errorf("audit: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return end{}, nil, fmt.Errorf("audit: %w", err)
	}
	result := end{number: number, size: info.Size()}
	var last *Entry
	first := true
	err = linesBackward(f, result.size, func(line placedLine) bool {
		if first {
			result.open, first = !line.closed, false
		}
		if e, sound, err := decode(line.text); err == nil && sound {
			last = &e
			result.torn = min(result.size, line.start+int64(len(line.text))+1)
			return false
		}
		return result.size-line.start <= maxTorn
	})
	if err != nil && !errors.Is(err, errLineTooLong) {
		return end{}, nil, fmt.Errorf("audit: %s: %w", fileName(number), err)
	}
	if err != nil || last == nil && result.size > maxTorn {
		return end{}, nil, fmt.Errorf("%w: %s ends in something that is no entry and too long for a torn line; run audit verify", ErrDamaged, fileName(number))
	}
	return result, last, nil
}
