package utf_test

import (
	"bytes"
	"testing"
	"unicode/utf8"

	"github.com/tablexport/tablexport/odata/utf"
)

// Every text of up to three bytes, and every one of four that begins a character of four, at every place of a word.
func TestValid8(t *testing.T) {
	if !utf.Valid8(nil) {
		t.Error("nothing is UTF-8")
	}
	around := []byte("abcdefghijklmnopqrstuvwxyz")
	look := func(text []byte, everywhere bool) {
		want := utf8.Valid(text)
		if utf.Valid8(text) != want {
			t.Fatalf("% x: it should be %v", text, want)
		}
		for at := 0; everywhere && at < 8; at++ {
			inside := append(append(append([]byte{}, around[:at]...), text...), around[:10]...)
			if utf.Valid8(inside) != want {
				t.Fatalf("% x at byte %d: it should be %v", text, at, want)
			}
		}
	}
	for a := range 256 {
		look([]byte{byte(a)}, true)
		for b := range 256 {
			look([]byte{byte(a), byte(b)}, true)
		}
	}
	// Of the third and fourth byte, the ends of all ranges of RFC 3629.
	ends := []byte{0, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xed, 0xef, 0xf0, 0xf4, 0xf5, 0xff}
	for a := range 256 {
		for b := range 256 {
			for _, c := range ends {
				look([]byte{byte(a), byte(b), c}, false)
				for _, d := range ends {
					look([]byte{byte(a), byte(b), c, d}, a >= 0xf0 && c >= 0x7f && d >= 0x7f)
				}
			}
		}
	}
}

func FuzzValid8(f *testing.F) {
	for _, text := range []string{"", "plain text of some length", "стол дъбов Größe 230V", "日本語 🙂", "\xed\xa0\x80", "ab\xff", "\xf4\x90\x80\x80", "end\xd0"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if got, want := utf.Valid8(text), utf8.Valid(text); got != want {
			t.Errorf("% x: %v, should be %v", text, got, want)
		}
	})
}

// BenchmarkValid8 says how many times the standard library's throughput that is, on a text of several alphabets.
func BenchmarkValid8(b *testing.B) {
	texts := bytes.SplitAfter([]byte("bolt София 230V|DIN 933 naïve доставка|Île-de-France жълт bolt|IP65 Größe delivery żółw стол дъбов|invoice склад No. 7|blue steel table"), []byte("|"))
	for name, valid := range map[string]func([]byte) bool{"table": utf.Valid8, "standard": utf8.Valid} {
		b.Run(name, func(b *testing.B) {
			n := 0
			for b.Loop() {
				for _, text := range texts {
					if !valid(text) {
						b.Fatal("not UTF-8")
					}
					n += len(text)
				}
			}
			b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(n), "ns/byte")
		})
	}
}
