package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// memShelf is a shelf in memory. before and after are faults of Add: nothing stored, and stored but said to have failed.
type memShelf struct {
	mu            sync.Mutex
	envelopes     map[string]map[int64][]byte
	before, after error
}

func (m *memShelf) shelf() Shelf {
	return Shelf{
		List: func(_ context.Context, log string, after int64) (all [][]byte, err error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, seq := range slices.Sorted(maps.Keys(m.envelopes[log])) {
				if seq > after {
					all = append(all, m.envelopes[log][seq])
				}
			}
			return all, nil
		},
		Add: func(_ context.Context, log string, seq int64, envelope []byte) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.before != nil {
				return m.before
			}
			if m.envelopes == nil {
				m.envelopes = map[string]map[int64][]byte{}
			}
			if m.envelopes[log] == nil {
				m.envelopes[log] = map[int64][]byte{}
			}
			if m.envelopes[log][seq] != nil {
				return errors.New("it exists")
			}
			m.envelopes[log][seq] = bytes.Clone(envelope)
			return m.after
		},
	}
}

func (m *memShelf) all() (all [][]byte) {
	for _, log := range m.envelopes {
		for _, seq := range slices.Sorted(maps.Keys(log)) {
			all = append(all, log[seq])
		}
	}
	return all
}

func newKey(t testing.TB) (ed25519.PrivateKey, ed25519.PublicKey) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.key")
	public, err := NewKey(path)
	if err != nil {
		t.Fatal(err)
	}
	private, err := ReadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	return private, public
}

func checkpoint(t testing.TB, l *Log, key ed25519.PrivateKey, shelf Shelf) Checkpoint {
	t.Helper()
	c, ok, err := l.Checkpoint(t.Context(), key, shelf)
	if err != nil || !ok {
		t.Fatalf("checkpoint: %v, %v", ok, err)
	}
	return c
}

// attest gives the problems of the log in dir.
func attest(t testing.TB, dir string, m *memShelf, keys ...ed25519.PublicKey) (Attestation, string) {
	t.Helper()
	report, a, err := Attest(dir, m.all(), keys)
	if err != nil {
		t.Fatal(err)
	}
	return a, strings.Join(report.Problems, "\n")
}

// signedLog has nine entries, and checkpoints of the third, sixth and ninth.
func signedLog(t testing.TB) (dir string, l *Log, m *memShelf, key ed25519.PrivateKey, public ed25519.PublicKey) {
	dir, m = t.TempDir(), &memShelf{}
	key, public = newKey(t)
	l = open(t, dir)
	for range 3 {
		appendN(t, l, 3)
		checkpoint(t, l, key, m.shelf())
	}
	return dir, l, m, key, public
}

func TestCheckpoints(t *testing.T) {
	dir, l, m, key, public := signedLog(t)
	again := checkpoint(t, l, key, m.shelf())
	if again.Seq != 9 || len(m.all()) != 3 {
		t.Errorf("the same entry was signed twice: %+v, %d checkpoints", again, len(m.all()))
	}
	appendN(t, l, 2)
	a, problems := attest(t, dir, m, public)
	if problems != "" || a.Checkpoints != 3 || a.Seq != 9 || a.Unsigned != 2 || a.Time.IsZero() {
		t.Errorf("%+v: %s", a, problems)
	}
	_, other := newKey(t)
	if _, problems := attest(t, dir, m, other); !strings.Contains(problems, "no key that is trusted here") {
		t.Errorf("another key: %s", problems)
	}
	if _, problems := attest(t, dir, m, other, public); problems != "" { // after a change of keys both are trusted
		t.Errorf("both keys: %s", problems)
	}
	if _, _, err := Attest(dir, m.all(), nil); !errors.Is(err, ErrKey) {
		t.Errorf("without a key: %v", err)
	}
	if _, ok, err := open(t, t.TempDir()).Checkpoint(t.Context(), key, m.shelf()); ok || err != nil {
		t.Errorf("an empty log: %v, %v", ok, err)
	}
}

// What a chain alone cannot show: a cut tail, and a log that was rewritten with all hashes anew.
func TestCheckpointsFindWhatTheChainCannot(t *testing.T) {
	rechain := func(lines []string, from int) []string {
		for i := from; i < len(lines); i++ {
			e, _, err := decode([]byte(lines[i]))
			if err != nil {
				t.Fatal(err)
			}
			prev, _, _ := decode([]byte(lines[i-1]))
			e.Seq, e.Prev = prev.Seq+1, prev.Hash
			line, _, _ := encode(e)
			lines[i] = string(line)
		}
		return lines
	}
	for name, c := range map[string]struct {
		change func(lines []string) []string
		want   string
	}{
		"tail cut":         {func(l []string) []string { return l[:8] }, "entry 9 was signed at"},
		"cut to the quick": {func(l []string) []string { return l[:2] }, "its tail was cut off"},
		"middle rewritten": {func(l []string) []string {
			l[4] = strings.Replace(l[4], `"outcome":"ok"`, `"outcome":"no"`, 1)
			l[4] = strings.Replace(l[4], `"action":"`, `"action":"x`, 1)
			e, _, _ := decode([]byte(l[4]))
			line, _, _ := encode(e)
			l[4] = string(line)
			return rechain(l, 5)
		}, "entry 6 is not the one that was signed"},
		"entry removed": {func(l []string) []string { return rechain(slices.Delete(l, 6, 7), 6) }, "entry 9 was signed at"},
		"begun anew":    {func([]string) []string { return nil }, "none of the checkpoints is of this log"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _, m, _, public := signedLog(t)
			rewrite(t, filePath(dir, 1), func(data []byte) []byte {
				lines := c.change(strings.Split(strings.TrimSuffix(string(data), "\n"), "\n"))
				if len(lines) == 0 {
					return nil
				}
				return []byte(strings.Join(lines, "\n") + "\n")
			})
			if report := verify(t, dir); len(report.Problems) > 0 {
				t.Fatalf("the chain alone shows it, which proves nothing here: %v", report.Problems)
			}
			if _, problems := attest(t, dir, m, public); !strings.Contains(problems, c.want) {
				t.Errorf("not found: %q", problems)
			}
		})
	}
}

func TestCheckpointsThemselvesAreChained(t *testing.T) {
	dir, _, m, _, public := signedLog(t)
	log := verify(t, dir).Log
	forged := bytes.Replace(m.envelopes[log][6], []byte(`"sig":"`), []byte(`"sig":"AAAA`), 1)
	for name, c := range map[string]struct {
		change func()
		want   string
	}{
		"first removed":  {func() { delete(m.envelopes[log], 3) }, "the first checkpoints are missing"},
		"middle removed": {func() { delete(m.envelopes[log], 6) }, "between entries 3 and 9 is missing"},
		"forged":         {func() { m.envelopes[log][6] = forged }, "no key that is trusted here"},
		"not one":        {func() { m.envelopes[log][6] = []byte("{}") }, "it is no signed checkpoint"},
	} {
		saved := maps.Clone(m.envelopes[log])
		c.change()
		if _, problems := attest(t, dir, m, public); !strings.Contains(problems, c.want) {
			t.Errorf("%s: %q", name, problems)
		}
		m.envelopes[log] = saved
	}
}

// The writer itself notices that its log is behind what it has signed, and signs nothing.
func TestForkedLogIsNotSigned(t *testing.T) {
	dir, l, m, key, _ := signedLog(t)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	rewrite(t, filePath(dir, 1), func(data []byte) []byte {
		return []byte(strings.Join(strings.SplitAfter(string(data), "\n")[:5], ""))
	})
	l = open(t, dir)
	if _, _, err := l.Checkpoint(t.Context(), key, m.shelf()); !errors.Is(err, ErrForked) {
		t.Errorf("a cut log: %v", err)
	}
	for range 2 { // as many as there were, but other ones; and then more
		appendN(t, l, 4)
		if _, _, err := l.Checkpoint(t.Context(), key, m.shelf()); !errors.Is(err, ErrForked) {
			t.Errorf("another ninth entry: %v", err)
		}
	}
	if len(m.all()) != 3 {
		t.Errorf("%d checkpoints", len(m.all()))
	}
}

// Faults of the shelf both ways, and a crash before the hint is written.
func TestCheckpointFaults(t *testing.T) {
	dir, m := t.TempDir(), &memShelf{}
	key, public := newKey(t)
	l := open(t, dir)
	appendN(t, l, 1)
	m.before = errors.New("no route")
	if _, _, err := l.Checkpoint(t.Context(), key, m.shelf()); err == nil || len(m.all()) != 0 {
		t.Errorf("not stored: %v", err)
	}
	m.before, m.after = nil, errors.New("the answer got lost")
	checkpoint(t, l, key, m.shelf())
	appendN(t, l, 1)
	m.after = nil
	if err := os.Remove(filepath.Join(dir, checkpointHint)); err != nil {
		t.Fatal(err)
	}
	checkpoint(t, l, key, m.shelf())
	appendN(t, l, 1)
	if err := os.WriteFile(filepath.Join(dir, checkpointHint), []byte(`{"log":`), 0o600); err != nil {
		t.Fatal(err)
	}
	checkpoint(t, l, key, m.shelf())
	if a, problems := attest(t, dir, m, public); problems != "" || a.Checkpoints != 3 || a.Unsigned != 0 {
		t.Errorf("%+v: %s", a, problems)
	}
}

// Processes that sign at once make one chain of checkpoints.
func TestConcurrentCheckpoints(t *testing.T) {
	dir, m := t.TempDir(), &memShelf{}
	key, public := newKey(t)
	var wg sync.WaitGroup
	for range 6 {
		l := open(t, dir)
		wg.Go(func() {
			for range 5 {
				if _, err := l.Append(t.Context(), Entry{Actor: "a", Action: "lease", Subject: "s", Outcome: OK}); err != nil {
					t.Error(err)
				}
				if _, _, err := l.Checkpoint(t.Context(), key, m.shelf()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if a, problems := attest(t, dir, m, public); problems != "" || a.Seq != 30 {
		t.Errorf("%+v: %s", a, problems)
	}
}

// expiringLog has entries in several files.
func expiringLog(t testing.TB) (dir string, l *Log, m *memShelf, key ed25519.PrivateKey, public ed25519.PublicKey) {
	dir, m = t.TempDir(), &memShelf{}
	key, public = newKey(t)
	l = open(t, dir)
	l.maxFile = 1000
	for range 4 {
		appendN(t, l, 5)
		checkpoint(t, l, key, m.shelf())
	}
	return dir, l, m, key, public
}

func TestExpire(t *testing.T) {
	dir, l, m, key, public := expiringLog(t)
	before, _ := fileNumbers(dir)
	if n, err := l.Expire(t.Context(), time.Now().Add(-time.Hour), key, m.shelf()); n != 0 || err != nil {
		t.Errorf("nothing is old: %d, %v", n, err)
	}
	log := verify(t, dir).Log
	n, err := l.Expire(t.Context(), time.Now().Add(time.Hour), key, m.shelf())
	if err != nil || n != len(before)-1 {
		t.Fatalf("removed %d of %d files: %v", n, len(before), err)
	}
	report := verify(t, dir)
	if len(report.Problems) > 0 || report.FirstSeq < 2 || report.Log != log {
		t.Errorf("%+v", report)
	}
	appendN(t, l, 5)
	checkpoint(t, l, key, m.shelf())
	if a, problems := attest(t, dir, m, public); problems != "" || a.Unsigned != 0 {
		t.Errorf("%+v: %s", a, problems)
	}
	if n, err := l.Expire(t.Context(), time.Now().Add(time.Hour), key, m.shelf()); err != nil || n == 0 {
		t.Errorf("a second time: %d, %v", n, err)
	}
	if _, problems := attest(t, dir, m, public); problems != "" {
		t.Error(problems)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var last Entry
	report = verify(t, dir)
	stop := errors.New("enough")
	err = Follow(ctx, dir, 0, func(e Entry) error {
		if last = e; e.Seq == report.LastSeq {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) {
		t.Errorf("follow a log without its first files: %v, last %d", err, last.Seq)
	}
}

// A crash in the middle of the removal, and removal by somebody else.
func TestExpireHalfWayAndByOthers(t *testing.T) {
	dir, l, m, key, public := expiringLog(t)
	saved := map[string][]byte{}
	numbers, _ := fileNumbers(dir)
	for _, n := range numbers {
		saved[filePath(dir, n)], _ = os.ReadFile(filePath(dir, n))
	}
	if _, err := l.Expire(t.Context(), time.Now().Add(time.Hour), key, m.shelf()); err != nil {
		t.Fatal(err)
	}
	last := numbers[len(numbers)-1]
	for keep := last - 1; keep > 1; keep-- { // what a crash leaves: the oldest are gone
		if err := os.WriteFile(filePath(dir, keep), saved[filePath(dir, keep)], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, problems := attest(t, dir, m, public); problems != "" {
			t.Errorf("files from %d on: %s", keep, problems)
		}
	}
	if n, err := open(t, dir).Expire(t.Context(), time.Now().Add(time.Hour), key, m.shelf()); err != nil || n == 0 {
		t.Errorf("the rest: %d, %v", n, err)
	}

	dir, _, m, _, public = expiringLog(t)
	if err := os.Remove(filePath(dir, 1)); err != nil {
		t.Fatal(err)
	}
	if report := verify(t, dir); len(report.Problems) == 0 {
		t.Error("the chain alone takes a removed first file")
	}
	// With an entry that says so, which whoever can write the directory can make, the checkpoints still show it.
	number, _ := fileNumbers(dir)
	_, first, err := readFileEnd(dir, number[0])
	if err != nil {
		t.Fatal(err)
	}
	forger := open(t, dir)
	var through Entry
	if _, err := walk(dir, func(e Entry) error {
		if through.Seq == 0 {
			through = e
		}
		return nil
	}); err != nil || first == nil {
		t.Fatal(err)
	}
	if _, err := forger.Append(t.Context(), Entry{Actor: "x", Action: actionExpire, Subject: "s", Outcome: OK, Detail: map[string]string{
		detailLog: verifyLog(m), detailThrough: fmt.Sprint(through.Seq - 1), detailHash: through.Prev}}); err != nil {
		t.Fatal(err)
	}
	if report := verify(t, dir); len(report.Problems) > 0 {
		t.Fatalf("the forger is clumsy: %v", report.Problems)
	}
	if _, problems := attest(t, dir, m, public); !strings.Contains(problems, "was removed by somebody else") {
		t.Errorf("not found: %q", problems)
	}
}

func verifyLog(m *memShelf) string {
	for log := range m.envelopes {
		return log
	}
	return ""
}

func TestKeys(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	public, err := NewKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewKey(path); err == nil {
		t.Error("a key was replaced")
	}
	text, err := EncodePublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	pub := filepath.Join(dir, "key.pub")
	if err := os.WriteFile(pub, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadPublicKey(pub); err != nil || !got.Equal(public) {
		t.Errorf("public key: %v", err)
	}
	if _, err := ReadPublicKey(path); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), "PUBLIC KEY") {
		t.Errorf("a private key as the public one: %v", err)
	}
	if _, err := ReadKey(filepath.Join(dir, "none")); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), "audit keygen") {
		t.Errorf("no key: %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKey(path); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others may read: %v", err)
	}
}

func TestRange(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	entries := appendN(t, l, 6)
	var got []int64
	report, err := Range(dir, entries[2].Time, entries[4].Time, func(e Entry) error { got = append(got, e.Seq); return nil })
	if err != nil || len(report.Problems) > 0 || report.Entries != 6 {
		t.Errorf("%+v, %v", report, err)
	}
	var want []int64
	for _, e := range entries {
		if !e.Time.Before(entries[2].Time) && e.Time.Before(entries[4].Time) {
			want = append(want, e.Seq)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	stop := errors.New("stop")
	if _, err := Range(dir, time.Time{}, time.Time{}, func(Entry) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("an error of fn: %v", err)
	}
}
