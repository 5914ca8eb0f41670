package lifecycle

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"
)

// maxSeen bounds what is remembered. Events are signed, so that nobody else can fill it.
const maxSeen = 10_000

// memory knows the events that were delivered, across restarts. Older ones than life are forgotten: the window refuses them.
type memory struct {
	path string
	life time.Duration

	mu   sync.Mutex // held while an event is delivered: of two at once, the second waits and finds it seen
	seen map[string]time.Time
}

func openMemory(path string, life time.Duration) (*memory, error) {
	m := &memory{path: path, life: life, seen: map[string]time.Time{}}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, fmt.Errorf("lifecycle: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		id, at, ok := strings.Cut(lines.Text(), " ")
		when, err := time.Parse(time.RFC3339, at)
		if ok && err == nil { // a torn last line is an event that was not acknowledged
			m.seen[id] = when
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("lifecycle: %s: %w", path, err)
	}
	return m, nil
}

// once does deliver, unless the event was delivered before, and remembers it durably. A crash in between delivers it again, if it is sent again:
// a token that is staged already is not staged twice.
func (m *memory) once(id string, deliver func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.seen[id]; ok {
		return nil
	}
	if err := deliver(); err != nil {
		return err
	}
	m.seen[id] = time.Now()
	if err := m.save(); err != nil {
		delete(m.seen, id)
		return err
	}
	return nil
}

// save writes what is to be remembered, beside the file and over it.
func (m *memory) save() error {
	var text strings.Builder
	for id, at := range m.seen {
		if time.Since(at) > m.life || len(m.seen) > maxSeen && time.Since(at) > m.life/2 {
			delete(m.seen, id)
			continue
		}
		fmt.Fprintf(&text, "%s %s\n", id, at.UTC().Format(time.RFC3339))
	}
	f, err := os.OpenFile(m.path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("lifecycle: %w", err)
	}
	_, err = f.WriteString(text.String())
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), m.path)
	}
	if err != nil {
		return fmt.Errorf("lifecycle: %w", err)
	}
	return nil
}
