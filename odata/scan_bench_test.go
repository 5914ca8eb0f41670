package odata

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
)

type noCredential struct{}

func (noCredential) Authorize(context.Context, *http.Request) error { return nil }
func (noCredential) Renew(context.Context) error                    { return io.EOF }
func (noCredential) Fingerprint() string                            { return "none" }

// canned serves rows that were rendered before, so that a benchmark measures the client and not its server.
type canned struct {
	page   int // rows of an answer
	rows   [][]byte
	think  time.Duration // before an answer
	rate   float64       // bytes of JSON per second at most, 0 = as fast as it goes
	mu     sync.Mutex
	zipped map[int][]byte
}

const cannedKey = "00000000-0000-0000-0000-%012x" // ascending as SQL Server orders GUIDs

func newCanned(rows, page int) *canned {
	text := bytes.TrimSuffix(benchPage(rows), []byte("]}"))
	text = text[bytes.IndexByte(text, '[')+1:]
	c := &canned{page: page, zipped: map[int][]byte{}}
	for i := range rows {
		row := text
		if end := bytes.Index(text, []byte(`},{"Sales`)); end >= 0 {
			row, text = text[:end+1], text[end+2:]
		}
		copy(row[len(`{"Sales_Order_Line_Id":"`):], fmt.Sprintf(cannedKey, i))
		c.rows = append(c.rows, row)
	}
	return c
}

func (c *canned) body(from int) []byte {
	to := min(from+c.page, len(c.rows))
	return slices.Concat([]byte(`{"value":[`), bytes.Join(c.rows[from:to], []byte(",")), []byte("]}"))
}

func (c *canned) compressed(from int) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.zipped[from] == nil {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(c.body(from))
		_ = z.Close()
		c.zipped[from] = b.Bytes()
	}
	return c.zipped[from]
}

func (c *canned) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v := r.URL.Query()
	w.Header().Set("Content-Type", "application/json")
	from := 0
	if _, key, ok := strings.Cut(v.Get("$filter"), " ge "); ok {
		if _, err := fmt.Sscanf(key, cannedKey, &from); err != nil {
			http.Error(w, "", 400)
			return
		}
	}
	switch {
	case strings.HasSuffix(v.Get("$orderby"), "desc"), strings.HasSuffix(r.URL.Path, "$count"), v.Has("$count"):
		http.Error(w, "", 400)
		return
	case v.Has("$skip"), v.Get("$top") == "1":
		_, _ = io.WriteString(w, `{"value":[]}`)
		return
	}
	time.Sleep(c.think)
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(c.compressed(from))
		return
	}
	start, sent := time.Now(), 0
	for part := range slices.Chunk(c.body(from), 64<<10) {
		if c.rate > 0 {
			time.Sleep(time.Duration(float64(sent)/c.rate*float64(time.Second)) - time.Since(start))
		}
		if _, err := w.Write(part); err != nil {
			return
		}
		sent += len(part)
	}
}

// work stands for the encoder: so many passes over the record's memory.
func work(rec arrow.Record, passes int) uint64 {
	h := fnv.New64a()
	for _, col := range rec.Columns() {
		for _, b := range col.Data().Buffers() {
			if b != nil {
				for range passes {
					_, _ = h.Write(b.Bytes())
				}
			}
		}
	}
	return h.Sum64()
}

// BenchmarkScan reports rows/s of a scan whose loop body works about as long on a record as decoding it takes.
func BenchmarkScan(b *testing.B) {
	const rows, page = 50_000, 5_000
	server := newCanned(rows, page)
	for _, tt := range []struct {
		name     string
		think    time.Duration
		rate     float64
		encoding Encoding
	}{
		{name: "fast", encoding: "identity"},
		{name: "remote", think: 5 * time.Millisecond, rate: 400e6, encoding: "identity"},
		{name: "gzip", think: 5 * time.Millisecond, encoding: "gzip"},
	} {
		server.think, server.rate = tt.think, tt.rate
		ts := httptest.NewServer(server)
		for _, passes := range []int{0, 2, 4} {
			b.Run(fmt.Sprintf("%s/work=%d", tt.name, passes), func(b *testing.B) {
				o := Options{URL: ts.URL, TableAPI: ts.URL + "/tableapi", Sandbox: true, RequestsPerMinute: 6e6, Encoding: tt.encoding}

				client, err := NewClient(o)
				if err != nil {
					b.Fatal(err)
				}
				session := client.Open(noCredential{})
				table := benchTable(b)
				q := Query{Table: table, Select: table.DefaultSelect(), PageSize: page}
				for b.Loop() {
					scan, err := session.Scan(q)
					if err != nil {
						b.Fatal(err)
					}
					for rec, err := range scan.Records(b.Context()) {
						if err != nil {
							b.Fatal(err)
						}
						work(rec, passes)
					}
					if n := scan.Evidence().Rows; n != rows {
						b.Fatal(n)
					}
				}
				b.ReportMetric(rows*float64(b.N)/b.Elapsed().Seconds()/1e3, "krows/s")
			})
		}
		ts.Close()
	}
}

// BenchmarkEvidence is what the proof of a page costs beside reading it, in nanoseconds of a processor and a row: by the order of its keys, and where there is no
// order by a bag and a set of their digests.
func BenchmarkEvidence(b *testing.B) {
	const rows = 10_000
	table := benchTable(b)
	columns := columnNames(table)
	dec, err := newDecoder(table, columns, 2048, new(recycler))
	if err != nil {
		b.Fatal(err)
	}
	var page []arrow.Record
	if _, err := dec.decode(bytes.NewReader(newCanned(rows, rows).body(0)), 0, func(rec arrow.Record) error {
		rec.Retain()
		page = append(page, rec)
		return nil
	}); err != nil {
		b.Fatal(err)
	}
	for name, ordered := range map[string]bool{"ordered": true, "unordered": false} {
		b.Run(name, func(b *testing.B) {
			n, began := 0, cpuTime()
			for b.Loop() {
				scan := &Scan{q: Query{Table: table}, hash: newHasher()}
				p := &pass{scan: scan, dec: dec, enc: newKeyEncoder(table, columns, table.Key), checked: ordered}
				if !ordered {
					p.set = newDistinct(distinctInMemory)
				}
				pg := &intake{p: p, limit: rows}
				pg.reset()
				for _, rec := range page {
					if err := pg.take(rec); err != nil {
						b.Fatal(err)
					}
				}
				if err := pg.flush(); err != nil || p.rows != rows {
					b.Fatal(p.rows, err)
				}
				if p.set != nil {
					p.set.close()
				}
				n += rows
			}
			b.ReportMetric(float64(cpuTime()-began)/float64(n), "ns/row")
		})
	}
}
