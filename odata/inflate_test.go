package odata

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/klauspost/compress/zstd"
)

func zipped(tb testing.TB, coding string, text []byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&b)
	if coding == "zstd" {
		w, _ = zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
	}
	if _, err := w.Write(text); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func (i *inflaters) of(coding string, r io.Reader) (*inflation, error) {
	open := i.newGzip
	if coding == "zstd" {
		open = i.newZstd
	}
	z, err := open(r)
	if err != nil {
		return nil, err
	}
	return inflate(z), nil
}

// What was compressed comes out as it was, however it arrives and is read, with decompressors that were used before.
func TestInflate(t *testing.T) {
	var pool inflaters
	text := benchPage(1500)
	for _, coding := range []string{"gzip", "zstd"} {
		packed := zipped(t, coding, text)
		for name, r := range map[string]io.Reader{
			"at once": bytes.NewReader(packed), "by bytes": iotest.OneByteReader(bytes.NewReader(packed)),
			"end with data": iotest.DataErrReader(bytes.NewReader(packed)), "halves": iotest.HalfReader(bytes.NewReader(packed)),
		} {
			f, err := pool.of(coding, r)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			for err == nil {
				_, err = io.CopyN(&got, f, 1+rand.Int64N(200_000))
			}
			if again, err := f.Read(make([]byte, 1)); again != 0 || err != io.EOF {
				t.Errorf("behind the end: %d, %v", again, err)
			}
			f.close()
			if err != io.EOF || !bytes.Equal(got.Bytes(), text) {
				t.Errorf("%s, %s: %d bytes of %d, %v", coding, name, got.Len(), len(text), err)
			}
		}
	}
}

// What came before a cut or a damage is read; the end is an error, never io.EOF.
func TestInflateDamaged(t *testing.T) {
	var pool inflaters
	text := benchPage(1500)
	broken := errors.New("the network")
	for _, coding := range []string{"gzip", "zstd"} {
		packed := zipped(t, coding, text)
		for cut := 20; cut < len(packed); cut += len(packed) / 13 {
			flipped := bytes.Clone(packed)
			flipped[cut] ^= 0x55
			for name, r := range map[string]io.Reader{
				"cut": bytes.NewReader(packed[:cut]), "network": io.MultiReader(bytes.NewReader(packed[:cut]), iotest.ErrReader(broken)),
				"damaged": bytes.NewReader(flipped),
			} {
				f, err := pool.of(coding, r)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(f)
				f.close()
				whole := name == "damaged" && bytes.Equal(got, text) // a bit that means nothing
				if err == nil && !whole || name == "network" && !errors.Is(err, broken) || name == "cut" && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("%s, %s at %d: %v", coding, name, cut, err)
				}
				if name != "damaged" && !bytes.HasPrefix(text, got) {
					t.Errorf("%s, %s at %d: other bytes", coding, name, cut)
				}
			}
		}
	}
}

// Whoever stops reading leaves nothing behind. (A goroutine that stayed would not let the bubble end.)
func TestInflateLeft(t *testing.T) {
	text := benchPage(5000)
	for _, coding := range []string{"gzip", "zstd"} {
		packed := zipped(t, coding, text)
		for _, n := range []int64{0, 1, 100_000, 1_000_000} {
			synctest.Test(t, func(t *testing.T) {
				var pool inflaters
				f, err := pool.of(coding, bytes.NewReader(packed))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.CopyN(io.Discard, f, n); err != nil {
					t.Error(err)
				}
				synctest.Wait()
				if ready := len(f.full); n < 1_000_000 && (ready < 2 || ready > len(pieces{})) { // it works ahead, not beyond
					t.Errorf("%s: %d pieces are ready behind %d bytes", coding, ready, n)
				}
				f.close()
			})
		}
	}
}

type panics struct{}

func (panics) Read([]byte) (int, error) { panic("row value") }

// A decompressor that panics is a damaged answer, not the end of the process.
func TestInflatePanic(t *testing.T) {
	f := inflate(inflater{panics{}, func() { t.Error("used again") }})
	_, err := f.Read(make([]byte, 10))
	f.close()
	if !errors.Is(err, errDamaged) || bytes.Contains([]byte(err.Error()), []byte("row value")) {
		t.Error(err)
	}
}

// Frames that ask for large windows get no memory.
func TestZstdWindowIsBounded(t *testing.T) {
	for _, descriptor := range []byte{0x70, 0x80, 0xa8, 0xf8} { // 16 MiB, 64 MiB, 2 GiB, 2 TiB
		var pool inflaters
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f, err := pool.of("zstd", io.MultiReader(bytes.NewReader([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, descriptor}), bytes.NewReader(make([]byte, 1<<16))))
		if err == nil {
			_, err = io.ReadAll(f)
			f.close()
		}
		runtime.ReadMemStats(&after)
		if !errors.Is(err, zstd.ErrWindowSizeExceeded) || after.TotalAlloc-before.TotalAlloc > 4<<20 {
			t.Errorf("%#x: %v, %d bytes", descriptor, err, after.TotalAlloc-before.TotalAlloc)
		}
	}
}

// Any bytes end in content or in an error.
func FuzzInflate(f *testing.F) {
	text := []byte(`{"value":[{"Id":1},{"Id":2}]}`)
	for _, coding := range []string{"gzip", "zstd"} {
		packed := zipped(f, coding, text)
		f.Add(coding == "zstd", packed)
		f.Add(coding == "zstd", packed[:len(packed)-3])
		f.Add(coding == "zstd", append(bytes.Clone(packed), packed...))
	}
	f.Add(true, []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0xf8})
	f.Add(true, []byte{0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 0}) // a frame to be skipped
	var pool inflaters
	f.Fuzz(func(t *testing.T, isZstd bool, data []byte) {
		coding := "gzip"
		if isZstd {
			coding = "zstd"
		}
		z, err := pool.of(coding, bytes.NewReader(data))
		if err != nil {
			return
		}
		_, err = io.Copy(io.Discard, io.LimitReader(z, 64<<20))
		z.close()
		if errors.Is(err, errDamaged) {
			t.Fatal(err) // a panic
		}
	})
}
