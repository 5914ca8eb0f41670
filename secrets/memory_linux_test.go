package secrets

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"
)

// region finds the mapping of this process that holds an address, with what the kernel says of it (proc(5), smaps).
func region(t *testing.T, at uintptr) (flags string, found bool) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skip(err)
	}
	if !strings.Contains(string(text), "VmFlags:") {
		t.Skip("this kernel does not tell the flags of mappings")
	}
	inside := false
	for line := range strings.Lines(string(text)) {
		var from, to uintptr
		if n, _ := fmt.Sscanf(line, "%x-%x ", &from, &to); n == 2 {
			inside = from <= at && at < to
		}
		if rest, ok := strings.CutPrefix(line, "VmFlags:"); ok && inside {
			return rest, true
		}
	}
	return "", false
}

// A token's bytes are outside of the heap, in no core dump and not swapped, and go when they are wiped or nobody has them.
func TestTokenMemory(t *testing.T) {
	given := []byte("enrt_memory-canary-0123456789")
	value := bytes.Clone(given)
	token := hold(value)
	if bytes.Contains(value, []byte("canary")) {
		t.Error("the caller's bytes are still there")
	}
	var at uintptr
	Reveal(token, func(value []byte) {
		if !bytes.Equal(value, given) {
			t.Errorf("%q", value)
		}
		at = uintptr(unsafe.Pointer(&value[0]))
	})
	flags, found := region(t, at)
	if !found || !strings.Contains(flags, " dd") || !strings.Contains(flags, " dc") {
		t.Errorf("found %v, flags %q: want dd (not dumped) and dc (not forked)", found, flags)
	}
	if !strings.Contains(flags, " lo") {
		t.Log("not locked: the limit on locked memory of this machine is used up")
	}
	copyOf := token
	token.wipe()
	copyOf.wipe()
	Reveal(copyOf, func(value []byte) {
		if len(value) > 0 {
			t.Errorf("%q is there after the wipe", value)
		}
	})
	runtime.KeepAlive(token)
}

// Pages of tokens that nobody has any more are given back: a process that renews its token every hour for years keeps one.
func TestTokenPagesAreGivenBack(t *testing.T) {
	count := func() int {
		text, err := os.ReadFile("/proc/self/smaps")
		if err != nil {
			t.Skip(err)
		}
		pages := 0
		for block := range strings.SplitSeq(string(text), "VmFlags:") {
			_ = block
			pages++
		}
		return pages
	}
	before := count()
	for range 2000 {
		token, err := NewToken([]byte("enrt_0123456789"))
		if err != nil {
			t.Fatal(err)
		}
		_ = token.IsZero()
	}
	for range 200 {
		runtime.GC()
		if count() < before+500 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d mappings became %d", before, count())
}
