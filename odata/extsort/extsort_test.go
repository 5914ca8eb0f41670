package extsort

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

type pair struct{ key, value string }

// filled is a Sorter of pairs. A small block makes many runs of few records.
func filled(t interface {
	Fatal(...any)
	Cleanup(func())
}, opts Options, small bool, pairs []pair) *Sorter {
	s := New(opts)
	if small {
		s.opts.Memory = 100
	}
	t.Cleanup(s.Close)
	for _, p := range pairs {
		if err := s.Add([]byte(p.key), []byte(p.value)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func all(t interface{ Fatal(...any) }, s *Sorter) []pair {
	got := []pair{}
	for rec, err := range s.Sorted() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, pair{string(rec.Key), string(rec.Value)})
	}
	return got
}

var anyPair = rapid.Custom(func(t *rapid.T) pair {
	text := rapid.OneOf(
		rapid.SampledFrom([]string{"", "\x00", "\x00\x00", "a", "ab", "abcdefgh", "abcdefgh\x00", "abcdefghi", "\xff\xff\xff\xff\xff\xff\xff\xff\xff"}),
		rapid.StringN(0, 40, 200),
	)
	return pair{text.Draw(t, "key"), text.Draw(t, "value")}
})

func inOrder(a, b pair) int {
	if a.key != b.key {
		return bytes.Compare([]byte(a.key), []byte(b.key))
	}
	return bytes.Compare([]byte(a.value), []byte(b.value))
}

// What comes out is what went in, sorted, in memory and through the file, every time it is read.
func TestSorted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pairs := rapid.SliceOfN(anyPair, 0, 60).Draw(t, "pairs")
		small, unique := rapid.Bool().Draw(t, "small"), rapid.Bool().Draw(t, "unique")
		s := filled(t, Options{Unique: unique}, small, pairs)
		want := slices.SortedFunc(slices.Values(pairs), inOrder)
		if unique {
			want = slices.Compact(want)
		}
		for range 2 {
			if got := all(t, s); !slices.Equal(got, want) && len(got)+len(want) > 0 {
				t.Fatalf("got %q\nwant %q", got, want)
			}
		}
		if s.Len() != int64(len(pairs)) {
			t.Errorf("%d records", s.Len())
		}
		if err := s.Add(nil, nil); err == nil {
			t.Error("a record was added behind the end")
		}
	})
}

// A join gives every key of both sides once, with the values of the sides that have it.
func TestJoin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sides := [2]map[string]string{}
		var sorters [2]*Sorter
		for i := range sides {
			sides[i] = map[string]string{}
			var pairs []pair
			for _, p := range rapid.SliceOfN(anyPair, 0, 40).Draw(t, "side") {
				if _, ok := sides[i][p.key]; !ok {
					sides[i][p.key] = p.value
					pairs = append(pairs, p)
				}
			}
			sorters[i] = filled(t, Options{}, rapid.Bool().Draw(t, "small"), pairs)
		}
		seen := map[string]bool{}
		last := ""
		for p, err := range Join(sorters[0], sorters[1]) {
			if err != nil {
				t.Fatal(err)
			}
			key := string(p.Key)
			left, inLeft := sides[0][key]
			right, inRight := sides[1][key]
			if inLeft != p.InLeft || inRight != p.InRight || left != string(p.Left) || right != string(p.Right) {
				t.Fatalf("key %q: %+v; want %q %v, %q %v", key, p, left, inLeft, right, inRight)
			}
			if !inLeft && !inRight || seen[key] || len(seen) > 0 && key <= last {
				t.Fatalf("key %q behind %q", key, last)
			}
			seen[key], last = true, key
		}
		for _, side := range sides {
			for key := range side {
				if !seen[key] {
					t.Fatalf("key %q was left out", key)
				}
			}
		}
	})
}

func TestJoinRefusesRepeatedKeys(t *testing.T) {
	for _, right := range []bool{false, true} {
		twice := filled(t, Options{}, false, []pair{{"a", "1"}, {"b", "1"}, {"b", "2"}, {"c", "1"}})
		once := filled(t, Options{}, false, []pair{{"b", "1"}, {"d", "1"}})
		l, r := twice, once
		if right {
			l, r = once, twice
		}
		var last error
		for _, err := range Join(l, r) {
			last = err
		}
		repeated, ok := last.(*RepeatedKeyError)
		if !ok || repeated.Right != right {
			t.Errorf("right %v: %v", right, last)
		}
	}
}

// The file has no name and is for its owner only; nothing stays in the directory, and memory stays at the limit.
func TestFile(t *testing.T) {
	dir := t.TempDir()
	s := New(Options{Memory: 1 << 20, Dir: dir})
	defer s.Close()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const n = 400_000
	rng := rand.New(rand.NewPCG(1, 2))
	var key [16]byte
	for range n {
		binary.BigEndian.PutUint64(key[:], rng.Uint64())
		binary.BigEndian.PutUint64(key[8:], rng.Uint64())
		if err := s.Add(key[:], nil); err != nil {
			t.Fatal(err)
		}
	}
	info, err := s.file.Stat()
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if left, _ := os.ReadDir(dir); runtime.GOOS != "windows" && len(left) != 0 {
		t.Errorf("left in the directory: %v", left)
	}
	rows, last := 0, []byte{}
	for rec, err := range s.Sorted() {
		if err != nil || bytes.Compare(last, rec.Key) > 0 {
			t.Fatalf("%x behind %x, %v", rec.Key, last, err)
		}
		last = append(last[:0], rec.Key...)
		if rows++; rows == n/2 {
			runtime.GC()
			runtime.ReadMemStats(&after)
		}
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); rows != n || grown > 4<<20 {
		t.Errorf("%d rows, %d bytes of memory", rows, grown)
	}
	s.Close()
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left in the directory: %v", left)
	}
	for _, err := range s.Sorted() {
		if err == nil {
			t.Error("a closed sorter gives records")
		}
	}
}

// BenchmarkSort is a million digests of 16 bytes: sorted through the file, and as a slice in memory for comparison.
func BenchmarkSort(b *testing.B) {
	const n = 1_000_000
	rng := rand.New(rand.NewPCG(1, 2))
	keys := make([][16]byte, n)
	for i := range keys {
		binary.BigEndian.PutUint64(keys[i][:], rng.Uint64())
		binary.BigEndian.PutUint64(keys[i][8:], rng.Uint64())
	}
	for _, memory := range []int{2 << 20, 8 << 20, 64 << 20} {
		b.Run(fmt.Sprintf("memory=%dMiB", memory>>20), func(b *testing.B) {
			for b.Loop() {
				s := New(Options{Memory: memory})
				for i := range keys {
					if err := s.Add(keys[i][:], nil); err != nil {
						b.Fatal(err)
					}
				}
				rows := 0
				for _, err := range s.Sorted() {
					if rows++; err != nil {
						b.Fatal(err)
					}
				}
				s.Close()
				if rows != n {
					b.Fatal(rows)
				}
			}
			b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
	b.Run("slice", func(b *testing.B) {
		for b.Loop() {
			c := slices.Clone(keys)
			slices.SortFunc(c, func(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) })
		}
		b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	})
}
