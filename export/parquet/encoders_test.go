package parquet

import (
	"bytes"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
)

// Files of all shapes, one after the other with the same encoders: each has its own rows and its own statistics, and a file that fails in between leaves nothing to
// the next.
func TestEncodersAreUsedAgain(t *testing.T) {
	s := everyType()
	files := 40
	if raced {
		files = 4
	}
	for seed := range uint64(3) {
		r := rand.New(rand.NewPCG(seed, 14))
		var shared Encoders
		opts := Options{RowGroupRows: int64(50 + r.IntN(2000)), Encoders: &shared}.withDefaults()
		cfg := opts.encoderConfig()
		cfg.pageRows, cfg.pageBytes = 1+r.IntN(600), 100+r.IntN(10_000)
		cfg.dictTrial, cfg.dictBytes, cfg.dicts.left = 1+r.IntN(400), 5000+r.IntN(60_000), 5000+r.IntN(500_000)
		var before []encoder
		for range files {
			want, recs := shapedTable(r, s, 1+r.IntN(4), 300)
			var buf bytes.Buffer
			sink := io.Writer(&buf)
			fails := r.IntN(4) == 0
			if fails {
				sink = &failing{limit: 4 + r.IntN(2000)}
			}
			w, err := newWriter(sink, s, opts, cfg)
			if err != nil {
				t.Fatal(err)
			}
			if before != nil && &before[0] != &w.encoders[0] {
				t.Fatal("a file did not get the encoders of the one before it")
			}
			before = w.encoders
			for _, rec := range recs {
				if err = w.Write(rec); err != nil {
					break
				}
				scribble(rec)
			}
			var footer Footer
			if err == nil {
				footer, err = w.Close()
			}
			if fails != (err != nil) {
				t.Fatal(err)
			}
			if fails {
				if before = nil; len(shared.idle) != 0 {
					t.Fatal("a file that failed has left its encoders")
				}
				continue
			}
			sameCells(t, s, foreign(t, buf.Bytes(), s), want)
			checkStats(t, s, want, footer.Columns)
			if _, err := Verify(bytes.NewReader(buf.Bytes()), footer.Size); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Encoders serve files of their own columns and options only, and as many at once as there are files.
func TestEncodersFit(t *testing.T) {
	var shared Encoders
	begin := func(s *arrow.Schema, o Options) *Writer {
		o.Encoders = &shared
		w, err := NewWriter(io.Discard, s, o)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	end := func(w *Writer) {
		if _, err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s := orderLines(20)
	end(begin(s, Options{Key: []string{"Id"}}))
	for name, w := range map[string]*Writer{
		"other columns": begin(orderLines(19), Options{Key: []string{"Id"}}), "another key": begin(s, Options{}),
		"less memory": begin(s, Options{Key: []string{"Id"}, LowMemory: true}), "another level": begin(s, Options{Key: []string{"Id"}, ZstdLevel: 2}),
	} {
		if len(shared.idle) != 1 {
			t.Errorf("%s: it has the encoders of a file that is not like it", name)
		}
		_ = w
	}
	first, second := begin(s, Options{Key: []string{"Id"}}), begin(s, Options{Key: []string{"Id"}})
	if len(shared.idle) != 0 {
		t.Error("nobody has taken the encoders")
	}
	end(first)
	end(second)
	if len(shared.idle) != 2 {
		t.Errorf("%d sets of encoders after two files at once", len(shared.idle))
	}
	// Many at once, for the race detector.
	var group sync.WaitGroup
	rec := orderLineBatches(20, 500, 500)[0]
	for range 4 {
		group.Go(func() {
			for range 5 {
				w, err := NewWriter(io.Discard, s, Options{Key: []string{"Id"}, Encoders: &shared})
				if err == nil {
					err = w.Write(rec)
				}
				if err == nil {
					_, err = w.Close()
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if n := len(shared.idle); n < 1 || n > 4 {
		t.Errorf("%d sets of encoders after four files at once", n)
	}
}

// What is learned of one file does not make the next one larger.
func TestEncodersLearn(t *testing.T) {
	const rows, files = 8000, 6
	recs := orderLineBatches(20, rows*files, rows)
	sizes := func(shared *Encoders) (all []int64) {
		for _, rec := range recs {
			w, err := NewWriter(io.Discard, rec.Schema(), Options{Key: []string{"Id"}, Encoders: shared})
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Write(rec); err != nil {
				t.Fatal(err)
			}
			f, err := w.Close()
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, f.Size)
		}
		return all
	}
	alone, shared := sizes(nil), sizes(&Encoders{})
	t.Logf("%d bytes each for itself, %d with the same encoders", alone, shared)
	for i := range alone {
		if shared[i]*100 > alone[i]*103 {
			t.Errorf("file %d has %d bytes with the encoders of those before it, %d without", i, shared[i], alone[i])
		}
	}
	if slices.Equal(alone, shared) {
		t.Error("nothing was learned")
	}
}

// BenchmarkSmallFiles writes files of 8,000 order lines with the encoders of the file before, and without.
func BenchmarkSmallFiles(b *testing.B) {
	recs := orderLineBatches(20, 8000, 2000)
	for name, shared := range map[string]*Encoders{"shared": {}, "alone": nil} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w, err := NewWriter(io.Discard, recs[0].Schema(), Options{Key: []string{"Id"}, Encoders: shared})
				if err != nil {
					b.Fatal(err)
				}
				for _, rec := range recs {
					if err := w.Write(rec); err != nil {
						b.Fatal(err)
					}
				}
				if _, err := w.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Texts in which nothing repeats but the alphabet shrink at every level, whatever their length: identifiers to little more than half.
func TestIdentifiersShrink(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for level := 1; level <= zstdLevels; level++ {
		for range 60 {
			var text []byte
			for range 500 + r.IntN(4000) {
				text = append(append(text, 36, 0, 0, 0), guidText(r.Uint64(), r.Uint64())...)
			}
			if size := len(compressTo(nil, text, level)); size*100 > len(text)*56 {
				t.Fatalf("level %d: %d bytes of identifiers are %d compressed", level, len(text), size)
			}
		}
	}
}
