package main

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	pq "github.com/parquet-go/parquet-go"
)

// fragment is how many characters of a secret in a row count as a leak: too many to be there by chance, and too few to be of use for the rest.
const fragment = 14

// disguises are the forms in which a secret, or a part of it, may have come to be somewhere.
func disguises(secret string) map[string]string {
	all := map[string]string{}
	reverse := func(s string) string {
		b := []byte(s)
		slices.Reverse(b)
		return string(b)
	}
	for from := 0; from+fragment <= len(secret); from++ { // each part, so that a cut or wrapped one is found
		part := secret[from : from+fragment]
		name := fmt.Sprintf("characters %d to %d", from, from+fragment)
		all[name] = part
		all[name+", reversed"] = reverse(part)
		all[name+", hex"] = hex.EncodeToString([]byte(part))
		all[name+", HEX"] = strings.ToUpper(hex.EncodeToString([]byte(part)))
		all[name+", in a URL"] = url.QueryEscape(part)
		// Base64 depends on what stands before: of three shifts, the characters that do not.
		for shift := range 3 {
			text := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + part))
			inner := strings.TrimRight(text[(shift*8+5)/6:], "=")
			inner = inner[:len(inner)-1]
			all[fmt.Sprintf("%s, base64 %d", name, shift)] = inner
			all[fmt.Sprintf("%s, base64url %d", name, shift)] = strings.NewReplacer("+", "-", "/", "_").Replace(inner)
		}
	}
	return all
}

// detector looks for secrets in any disguise.
type detector struct {
	needles []needle
}

type needle struct {
	text         []byte
	secret, form string
}

func newDetector(secrets ...string) *detector {
	d := &detector{}
	for i, s := range secrets {
		for form, text := range disguises(s) {
			d.needles = append(d.needles, needle{[]byte(text), fmt.Sprintf("secret %d (%.6s…)", i, s), form})
		}
	}
	return d
}

// blank is white space that breaks a line, of which a wrapped text has some.
var blank = regexp.MustCompile(`\\n|[\s"+]+`)

// in says what is found in data: as it is, without its line breaks, and in what is compressed in it.
func (d *detector) in(data []byte) (found []string) {
	for _, view := range views(data) {
		for _, n := range d.needles {
			if bytes.Contains(view, n.text) {
				found = append(found, n.secret+", "+n.form)
				if len(found) > 3 {
					return found
				}
			}
		}
	}
	return found
}

func views(data []byte) [][]byte {
	all := [][]byte{data, blank.ReplaceAll(data, nil)}
	for from := 0; ; {
		at := bytes.Index(data[from:], []byte{0x1f, 0x8b, 8})
		if at < 0 {
			break
		}
		from += at
		if r, err := gzip.NewReader(bytes.NewReader(data[from:])); err == nil {
			plain, _ := io.ReadAll(io.LimitReader(r, 64<<20)) // as far as it goes
			all = append(all, plain)
		}
		from += 3
	}
	return all
}

// files looks through every file below a directory; of Parquet files at the values too. except are names of files that are to hold a secret.
func (d *detector) files(t testing.TB, dir string, except ...string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || slices.Contains(except, e.Name()) {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, ".parquet") {
			data = append(data, cells(data)...)
		}
		for _, leak := range d.in(data) {
			found = append(found, path+": "+leak)
		}
		if leaks := d.in([]byte(path)); len(leaks) > 0 {
			found = append(found, "the name "+path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// cells are all values of a Parquet file, decompressed, and its metadata.
func cells(data []byte) (all []byte) {
	f, err := pq.OpenFile(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil
	}
	for _, kv := range f.Metadata().KeyValueMetadata {
		all = append(all, kv.Key+"="+kv.Value+"\x00"...)
	}
	for _, group := range f.RowGroups() {
		for _, column := range group.ColumnChunks() {
			pages := column.Pages()
			for {
				page, err := pages.ReadPage()
				if err != nil {
					break
				}
				values := make([]pq.Value, page.NumValues())
				n, _ := page.Values().ReadValues(values)
				for _, v := range values[:n] {
					all = append(append(all, v.String()...), 0)
				}
			}
			_ = pages.Close()
		}
	}
	return all
}

// The detector finds what it is to find, in each disguise and each kind of file, and nothing else.
func TestDetector(t *testing.T) {
	t.Parallel()
	const secret = "enrt_CANARY0123456789abcdefTOKEN"
	d := newDetector(secret)
	wrapped := secret[:11] + "\n  " + secret[11:]
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = io.WriteString(z, "before "+secret+" behind")
	_ = z.Close()
	reversed := []byte(secret)
	slices.Reverse(reversed)
	for name, text := range map[string]string{
		"plain": "x" + secret + "y", "wrapped": wrapped, "in JSON": `"` + secret[:9] + `\n` + secret[9:] + `"`, "base64": base64.StdEncoding.EncodeToString([]byte(secret)),
		"base64 behind one": base64.StdEncoding.EncodeToString([]byte("a" + secret)), "base64 behind two": base64.URLEncoding.EncodeToString([]byte("ab" + secret)),
		"basic": base64.StdEncoding.EncodeToString([]byte("user:" + secret)), "hex": hex.EncodeToString([]byte(secret)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(secret))),
		"reversed": string(reversed), "a URL": "https://x/?t=" + url.QueryEscape(secret), "gzip": "…" + zipped.String(), "its beginning": secret[:fragment], "its end": secret[len(secret)-fragment:],
		"in quotes, in parts": secret[:8] + `" + "` + secret[8:],
	} {
		if len(d.in([]byte(text))) == 0 {
			t.Errorf("%s: not found in %q", name, text)
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if len(d.files(t, dir)) == 0 {
			t.Errorf("%s: not found in a file", name)
		}
		if len(d.files(t, dir, "file")) != 0 {
			t.Errorf("%s: an exception was looked at", name)
		}
	}
	// In the cells and in the metadata of a compressed Parquet file.
	for what, row := range map[string]string{"a cell": strings.Repeat("noise ", 50) + secret, "nothing": "noise"} {
		var file bytes.Buffer
		w := pq.NewGenericWriter[struct{ Text string }](&file, pq.Compression(&pq.Zstd))
		for i := range 500 {
			_, _ = w.Write([]struct{ Text string }{{fmt.Sprint(i, row)}})
		}
		_ = w.Close()
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "part.parquet"), file.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if found := d.files(t, dir); (len(found) > 0) != (what == "a cell") {
			t.Errorf("%s: %v", what, found)
		}
	}
	if found := d.in([]byte("enrt_ is no secret, nor is CANARY, or " + hex.EncodeToString([]byte("something else entirely")))); len(found) > 0 {
		t.Errorf("%v", found)
	}
}
