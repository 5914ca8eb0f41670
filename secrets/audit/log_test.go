package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func open(t testing.TB, dir string) *Log {
	t.Helper()
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func appendN(t testing.TB, l *Log, n int) []Entry {
	t.Helper()
	var entries []Entry
	for i := range n {
		e, err := l.Append(context.Background(), Entry{
			Actor: "alice", Action: "lease", Subject: "bi/acme-reader", Fingerprint: "fp:0123456789ab", Job: "lines", Run: fmt.Sprint("r", i),
			Outcome: OK, Detail: map[string]string{"purpose": "run", "host": "acme.example", "b": "<&>"},
		})
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
	return entries
}

func verify(t testing.TB, dir string) Report {
	t.Helper()
	r, err := Verify(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wantSound(t testing.TB, dir string, entries int64) Report {
	t.Helper()
	r := verify(t, dir)
	if len(r.Problems) > 0 {
		t.Fatalf("problems: %v", r.Problems)
	}
	if r.Entries != entries || r.LastSeq != entries {
		t.Fatalf("entries %d, last %d, want %d", r.Entries, r.LastSeq, entries)
	}
	return r
}

func TestAppendVerifyTail(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "audit")
	l := open(t, dir)
	want := appendN(t, l, 5)
	wantSound(t, dir, 5)
	got, err := Tail(dir, 3)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want[2:], got); diff != "" {
		t.Error(diff)
	}
	if all, _ := Tail(dir, 100); len(all) != 5 {
		t.Errorf("tail of everything: %d", len(all))
	}
	if none, _ := Tail(dir, 0); len(none) != 0 {
		t.Errorf("tail of nothing: %d", len(none))
	}
	for path, mode := range map[string]os.FileMode{dir: 0o700, filePath(dir, 1): 0o600, filepath.Join(dir, lockName): 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != mode {
			t.Errorf("%s: mode %v, want %v", path, info.Mode().Perm(), mode)
		}
	}
	if want[0].Time.Location() != time.UTC || want[0].Time.Nanosecond()%1000 != 0 {
		t.Errorf("time %v is not UTC to the microsecond", want[0].Time)
	}
	// Reopened, the chain goes on.
	_ = l.Close()
	appendN(t, open(t, dir), 2)
	wantSound(t, dir, 7)
}

func TestEmptyAndMissing(t *testing.T) {
	dir := t.TempDir()
	if r := verify(t, dir); r.Entries != 0 || len(r.Problems) != 0 {
		t.Errorf("empty: %+v", r)
	}
	if _, err := Verify(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if _, err := Tail(filepath.Join(dir, "none"), 1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

// Someone else's program, as the package comment describes it: no code of this package.
func TestThirdPartyVerification(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	l.maxFile = 700
	appendN(t, l, 9)
	prev, n := strings.Repeat("0", 64), 0
	paths, _ := filepath.Glob(filepath.Join(dir, "audit-*.jsonl"))
	for _, path := range paths {
		data, _ := os.ReadFile(path)
		for line := range strings.Lines(string(data)) {
			var e struct {
				Seq        int
				Prev, Hash string
			}
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			body := strings.TrimSuffix(line, `,"hash":"`+e.Hash+"\"}\n") + "}"
			sum := sha256.Sum256([]byte(prev + "\n" + body))
			if hex.EncodeToString(sum[:]) != e.Hash || e.Prev != prev || e.Seq != n+1 {
				t.Fatalf("%s: %s does not verify", path, line)
			}
			prev, n = e.Hash, e.Seq
		}
	}
	if n != 9 || len(paths) < 3 {
		t.Fatalf("%d entries in %d files", n, len(paths))
	}
}

// The script in the package comment, run as it stands there.
func TestDocumentedScript(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 here; TestThirdPartyVerification covers the algorithm")
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "In Python:\n")
	script, _, _ := strings.Cut(rest, "\n// # Crashes")
	script = strings.ReplaceAll(strings.ReplaceAll(script, "\n//\t", "\n"), "\n//\n", "\n")
	script = strings.TrimSuffix(strings.TrimPrefix(script, "//\n"), "\n//")
	dir := t.TempDir()
	l := open(t, dir)
	l.maxFile = 700
	last := appendN(t, l, 9)[8]
	run := func() string {
		cmd := exec.Command(python, "-c", script)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if out := run(); out != "9 "+last.Hash {
		t.Errorf("script says %q", out)
	}
	rewrite(t, filePath(dir, 1), func(b []byte) []byte { return bytes.Replace(b, []byte("alice"), []byte("mallo"), 1) })
	if out := run(); !strings.Contains(out, "BROKEN") {
		t.Errorf("script says %q of a changed line", out)
	}
}

func rewrite(t testing.TB, path string, change func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestVerifyFindsTampering(t *testing.T) {
	lines := func(b []byte) [][]byte { return bytes.SplitAfter(b, []byte("\n")) }
	cases := map[string]struct {
		change func([]byte) []byte
		want   string // file:line: and text
	}{
		"changed value": {func(b []byte) []byte {
			l := lines(b)
			l[2] = bytes.Replace(l[2], []byte("alice"), []byte("bobby"), 1)
			return bytes.Join(l, nil)
		}, "audit-000001.jsonl:3: the hash does not match"},
		"removed line":   {func(b []byte) []byte { l := lines(b); return bytes.Join(slices.Delete(l, 1, 2), nil) }, "audit-000001.jsonl:2: the chain is broken"},
		"removed first":  {func(b []byte) []byte { return bytes.Join(lines(b)[1:], nil) }, "audit-000001.jsonl:1: the chain is broken"},
		"swapped lines":  {func(b []byte) []byte { l := lines(b); l[1], l[2] = l[2], l[1]; return bytes.Join(l, nil) }, "audit-000001.jsonl:2: the chain is broken"},
		"doubled line":   {func(b []byte) []byte { l := lines(b); return bytes.Join(slices.Insert(l, 1, l[1]), nil) }, "audit-000001.jsonl:3: the chain is broken"},
		"foreign line":   {func(b []byte) []byte { l := lines(b); return bytes.Join(slices.Insert(l, 1, []byte("{}\n")), nil) }, "audit-000001.jsonl:2: not an entry"},
		"empty line":     {func(b []byte) []byte { l := lines(b); return bytes.Join(slices.Insert(l, 1, []byte("\n")), nil) }, "audit-000001.jsonl:2: not an entry"},
		"cut in a line":  {func(b []byte) []byte { return b[:len(b)-20] }, "a crash tore it or somebody cut it"},
		"very long line": {func(b []byte) []byte { return append(append(bytes.Repeat([]byte("x"), 2*maxLine), '\n'), b...) }, "audit-000001.jsonl:1: not an entry: a line is longer"},
		"rehashed line": {func(b []byte) []byte {
			// An attacker who knows the algorithm, but changes only one line.
			l := lines(b)
			e, _, _ := decode(bytes.TrimSpace(l[2]))
			e.Subject = "other"
			line, _, _ := encode(e)
			l[2] = append(line, '\n')
			return bytes.Join(l, nil)
		}, "audit-000001.jsonl:4: the chain is broken"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := open(t, dir)
			appendN(t, l, 5)
			rewrite(t, filePath(dir, 1), c.change)
			if got := verify(t, dir).Problems; !slices.ContainsFunc(got, func(p string) bool { return strings.Contains(p, c.want) }) {
				t.Errorf("problems %q, want %q", got, c.want)
			}
		})
	}
	t.Run("missing file", func(t *testing.T) {
		dir := t.TempDir()
		l := open(t, dir)
		l.maxFile = 500
		appendN(t, l, 6)
		_ = os.Remove(filePath(dir, 2))
		if got := verify(t, dir).Problems; len(got) < 2 || !strings.Contains(got[0], "audit-000003.jsonl:0: the file before it is missing") {
			t.Errorf("problems: %q", got)
		}
	})
}

// Flipping any one bit of any line is found.
func TestVerifyFindsAnyFlip(t *testing.T) {
	dir := t.TempDir()
	appendN(t, open(t, dir), 4)
	good, err := os.ReadFile(filePath(dir, 1))
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		i := rapid.IntRange(0, len(good)-2).Draw(t, "byte") // without the last newline
		bad := bytes.Clone(good)
		bad[i] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if err := os.WriteFile(filePath(dir, 1), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Verify(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Problems) == 0 {
			t.Fatalf("flip at %d not found", i)
		}
	})
}

// Cut the file anywhere in its last two lines, as a crash does: opening marks it, appending goes on, nothing that was
// whole is lost, and Verify is content.
func TestTornAnywhere(t *testing.T) {
	dir := t.TempDir()
	appendN(t, open(t, dir), 3)
	good, _ := os.ReadFile(filePath(dir, 1))
	start := bytes.IndexByte(good, '\n') + 1
	for cut := start; cut <= len(good); cut += 7 {
		dir := t.TempDir()
		if err := os.WriteFile(filePath(dir, 1), good[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		l := open(t, dir)
		if r := verify(t, dir); len(r.Problems) > 0 {
			t.Fatalf("cut at %d: after Open: %v", cut, r.Problems)
		}
		appendN(t, l, 2)
		r := verify(t, dir)
		whole := int64(bytes.Count(good[:cut], []byte("\n")))
		if len(r.Problems) > 0 || r.Entries < whole+2 {
			t.Fatalf("cut at %d: %+v", cut, r)
		}
		now, _ := os.ReadFile(filePath(dir, 1))
		if !bytes.HasPrefix(now, good[:cut]) {
			t.Fatalf("cut at %d: something was removed from the file", cut)
		}
		if torn := r.Torn > 0; torn != (cut < len(good)-1 && good[cut-1] != '\n' && good[cut] != '\n') {
			t.Fatalf("cut at %d: torn = %d", cut, r.Torn)
		}
	}
}

// A crash while the marker itself is written, and another process that has the log open all the while.
func TestTornTwiceUnderAnOpenLog(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	appendN(t, l, 2)
	tear := func(s string) {
		f, _ := os.OpenFile(filePath(dir, 1), os.O_APPEND|os.O_WRONLY, 0)
		_, _ = f.WriteString(s)
		_ = f.Close()
	}
	tear(`{"seq":3,"ti`)
	tear("\n" + `{"seq":3,"time":"2026-`)
	appendN(t, l, 1)
	r := wantSound(t, dir, 4)
	if r.Torn != 2 {
		t.Errorf("torn = %d, want 2", r.Torn)
	}
	marker, _ := Tail(dir, 2)
	if marker[0].Action != actionTorn || marker[0].Seq != 3 {
		t.Errorf("marker %+v", marker[0])
	}
	// A marker describes what lies before it and nothing else.
	rewrite(t, filePath(dir, 1), func(b []byte) []byte {
		return bytes.Replace(b, []byte(`{"seq":3,"ti`+"\n"), []byte(`{"seq":3,"to`+"\n"), 1)
	})
	if r := verify(t, dir); len(r.Problems) != 3 {
		t.Errorf("problems: %q", r.Problems)
	}
}

func TestTornFirstLineOfAFile(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	l.maxFile = 1
	appendN(t, l, 2)
	_ = os.WriteFile(filePath(dir, 3), []byte(`{"seq":`), 0o600)
	open(t, dir)
	appendN(t, l, 1)
	if r := wantSound(t, dir, 4); r.Torn != 1 || r.Files != 4 {
		t.Errorf("%+v", r)
	}
	// And an empty next file, which a crash between creating and writing leaves.
	_ = os.WriteFile(filePath(dir, 5), nil, 0o600)
	appendN(t, l, 1)
	wantSound(t, dir, 5)
}

func TestDamagedEndIsNotAppendedTo(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	appendN(t, l, 2)
	rewrite(t, filePath(dir, 1), func(b []byte) []byte { return append(b, bytes.Repeat([]byte("x"), maxTorn+1)...) })
	if _, err := Open(dir); !errors.Is(err, ErrDamaged) {
		t.Errorf("open: %v", err)
	}
	if _, err := l.Append(t.Context(), Entry{Action: "lease"}); !errors.Is(err, ErrDamaged) {
		t.Errorf("append: %v", err)
	}
}

func TestRotation(t *testing.T) {
	dir := t.TempDir()
	l, other := open(t, dir), open(t, dir)
	l.maxFile, other.maxFile = 2000, 2000
	for range 15 {
		appendN(t, l, 1)
		appendN(t, other, 1)
	}
	r := wantSound(t, dir, 30)
	if r.Files < 4 {
		t.Errorf("%d files", r.Files)
	}
	if all, _ := Tail(dir, 30); len(all) != 30 || all[0].Seq != 1 || all[29].Seq != 30 {
		t.Errorf("tail over files: %d", len(all))
	}
}

func TestAppendRefuses(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	for _, e := range []Entry{{}, {Action: actionTorn}} {
		if _, err := l.Append(t.Context(), e); err == nil {
			t.Errorf("%+v was recorded", e)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Append(ctx, Entry{Action: "lease"}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	_ = l.Close()
	if _, err := l.Append(t.Context(), Entry{Action: "lease"}); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if _, err := os.Stat(filePath(dir, 1)); !errors.Is(err, os.ErrNotExist) {
		t.Error("something was written")
	}
}

func TestEntryBounds(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	huge := strings.Repeat("\x00", 1<<20)
	detail := map[string]string{"esc": "\x1b[31m\r\n\u009b31m\u202eevil\x7f\xff"}
	for i := range 100 {
		detail[fmt.Sprintf("%03d%s", i, huge[:1000])] = huge
	}
	e, err := l.Append(t.Context(), Entry{Action: "x", Actor: huge, Subject: strings.Repeat("ж", 1000), Job: huge, Run: huge, Table: huge, Fingerprint: huge, Outcome: huge, Detail: detail})
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Detail) != maxDetails || len(e.Subject) > maxField || !strings.HasSuffix(e.Subject, "ж…") {
		t.Errorf("not bounded: %d details, subject %d bytes", len(e.Detail), len(e.Subject))
	}
	if _, err := l.Append(t.Context(), Entry{Action: "x", Outcome: OK, Detail: map[string]string{"esc": detail["esc"]}}); err != nil {
		t.Fatal(err)
	}
	wantSound(t, dir, 2)
	raw, _ := os.ReadFile(filePath(dir, 1))
	if i := bytes.IndexFunc(raw, func(r rune) bool { return r != '\n' && (r < 0x20 || r >= 0x7f && r <= 0x9f || r == 0x202e) }); i >= 0 {
		t.Errorf("control character in the file at %d", i)
	}
	if bytes.Count(raw, []byte("\n")) != 2 {
		t.Error("an entry spread over lines")
	}
}

// The disk fails in fsync, after the bytes were written: the entry is taken back, the act does not happen, the log goes on.
func TestFailedSync(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	appendN(t, l, 1)
	broken := errors.New("input/output error")
	l.fsync = func(*os.File) error { return broken }
	if _, err := l.Append(t.Context(), Entry{Action: "lease"}); !errors.Is(err, broken) {
		t.Fatalf("err = %v", err)
	}
	wantSound(t, dir, 1)
	l.fsync = (*os.File).Sync
	appendN(t, l, 1)
	wantSound(t, dir, 2)
}

func TestDirectoryGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := open(t, dir)
	appendN(t, l, 1)
	_ = os.RemoveAll(dir)
	if _, err := l.Append(t.Context(), Entry{Action: "lease"}); err == nil {
		t.Fatal("appended to a file that is no longer in the directory")
	}
}

func TestConcurrentWriters(t *testing.T) {
	const processes, goroutines, each = 3, 4, 15
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range processes {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0], "-test.run=^TestMain$")
			cmd.Env = append(os.Environ(), "AUDIT_TEST_CHILD=append", "AUDIT_TEST_DIR="+dir, fmt.Sprint("AUDIT_TEST_N=", each))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("child: %v\n%s", err, out)
			}
		})
	}
	l := open(t, dir)
	l.maxFile = 5000
	for range goroutines {
		wg.Go(func() { appendN(t, l, each) })
	}
	stop := make(chan struct{})
	watched := make(chan struct{})
	go func() { // a reader all the while: it never sees half an entry
		defer close(watched)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if r, err := Verify(dir); err != nil || len(r.Problems) > 0 {
				t.Errorf("while others write: %v %v", err, r.Problems)
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	wg.Wait()
	close(stop)
	<-watched
	wantSound(t, dir, (processes+goroutines)*each)
}

func TestFollow(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	l.maxFile = 1000
	appendN(t, l, 3)
	follow := func(after int64, until int64) (seqs []int64) {
		stop := errors.New("enough")
		err := Follow(t.Context(), dir, after, func(e Entry) error {
			seqs = append(seqs, e.Seq)
			if e.Seq == until {
				return stop
			}
			return nil
		})
		if !errors.Is(err, stop) {
			t.Errorf("follow: %v", err)
		}
		return seqs
	}
	got := make(chan []int64)
	go func() { got <- follow(1, 12) }()
	time.Sleep(20 * time.Millisecond)
	appendN(t, l, 9)
	if diff := cmp.Diff([]int64{2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, <-got); diff != "" {
		t.Error(diff)
	}
	// From now on; ends with the context, without an error.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	var seen []int64
	go func() {
		done <- Follow(ctx, dir, -1, func(e Entry) error { seen = append(seen, e.Seq); cancel(); return nil })
	}()
	time.Sleep(100 * time.Millisecond)
	appendN(t, l, 1)
	if err := <-done; err != nil || len(seen) != 1 || seen[0] != 13 {
		t.Errorf("follow from now: %v %v", seen, err)
	}
}

func FuzzVerify(f *testing.F) {
	dir := f.TempDir()
	l := open(f, dir)
	appendN(f, l, 3)
	good, _ := os.ReadFile(filePath(dir, 1))
	f.Add(good)
	f.Add(good[:len(good)-9])
	f.Add(append(good[:len(good):len(good)], `{"seq":4,"action":"torn","detail":{"bytes":"0"}}`...))
	f.Add([]byte("\n\n{}\n\x00"))
	f.Add([]byte(`{"seq":1,"prev":"","hash":""}`))
	scratch := f.TempDir() // one per worker process: inputs are tried one after the other
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<20 {
			return
		}
		if err := os.WriteFile(filePath(scratch, 1), data, 0o600); err != nil {
			t.Fatal(err)
		}
		dir := scratch
		r := verify(t, dir)
		// Only what was written by Append, or a prefix of it, can be free of problems.
		if len(r.Problems) == 0 && r.Entries > 0 && !bytes.HasPrefix(good, data[:min(len(data), len(good))]) {
			if !rechained(data) {
				t.Fatalf("accepted: %q", data)
			}
		}
		if _, err := Tail(dir, 5); err != nil && !errors.Is(err, errLineTooLong) {
			t.Fatal(err)
		}
		l := &Log{dir: dir, maxFile: maxFile, fsync: func(*os.File) error { return nil }} // as Open does, but fast
		defer l.Close()
		if _, err := l.Append(context.Background(), Entry{Action: "lease", Outcome: OK}); errors.Is(err, ErrDamaged) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		now, _ := os.ReadFile(filePath(dir, 1))
		if !bytes.HasPrefix(now, data) {
			t.Fatal("appending changed what was there")
		}
		if len(r.Problems) == 0 {
			if after := verify(t, dir); len(after.Problems) > 0 || after.LastSeq <= r.LastSeq {
				t.Fatalf("a sound log became unsound: %v", after.Problems)
			}
		}
	})
}

// rechained says whether every line of data has the right hash over itself and the line before, by its own arithmetic.
func rechained(data []byte) bool {
	prev := genesis
	for line := range bytes.Lines(data) {
		var e struct{ Prev, Hash, Action string }
		line = bytes.TrimSuffix(line, []byte("\n"))
		if json.Unmarshal(line, &e) != nil {
			continue
		}
		body, _ := bytes.CutSuffix(line, []byte(`,"hash":"`+e.Hash+`"}`))
		sum := sha256.Sum256([]byte(prev + "\n" + string(body) + "}"))
		if e.Prev != prev || hex.EncodeToString(sum[:]) != e.Hash {
			return false
		}
		prev = e.Hash
	}
	return true
}

func TestMain(m *testing.M) {
	switch os.Getenv("AUDIT_TEST_CHILD") {
	case "":
		os.Exit(m.Run())
	case "append":
		n, _ := strconv.Atoi(os.Getenv("AUDIT_TEST_N"))
		os.Exit(childAppend(os.Getenv("AUDIT_TEST_DIR"), n))
	case "full":
		os.Exit(childFullDisk(os.Getenv("AUDIT_TEST_DIR")))
	}
	os.Exit(3)
}

func childAppend(dir string, n int) int {
	l, err := Open(dir)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	l.maxFile = 5000
	for i := range n {
		if _, err := l.Append(context.Background(), Entry{Actor: "child", Action: "lease", Run: fmt.Sprint(i), Outcome: OK}); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	return 0
}
