package odata_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/klauspost/compress/zstd"

	"github.com/tablexport/tablexport/odata"
)

// small answers for a table T of n rows in key order, in the process. data is called with every request for rows
// that is no probe, and may answer in its place.
func small(n int, data func(r *http.Request, text string) *http.Response) inProcess {
	return func(r *http.Request) *http.Response {
		v := r.URL.Query()
		switch {
		case strings.HasPrefix(r.URL.Path, "/tools/"):
			return reply(404, "", "")
		case strings.HasSuffix(r.URL.Path, "$count"):
			return reply(200, "text/plain", strconv.Itoa(n))
		}
		from := 1
		if _, key, ok := strings.Cut(v.Get("$filter"), "Id ge "); ok {
			from, _ = strconv.Atoi(key)
		}
		skip, _ := strconv.Atoi(v.Get("$skip"))
		top, err := strconv.Atoi(v.Get("$top"))
		if err != nil {
			top = n
		}
		from = max(from, 1)
		count := max(0, min(top, n+1-from-skip))
		id := func(i int) int { return from + skip + i }
		if strings.HasSuffix(v.Get("$orderby"), "desc") {
			id = func(i int) int { return n - skip - i }
		}
		named := strings.Contains(v.Get("$select"), "Name")
		var b strings.Builder
		b.WriteString(`{"value":[`)
		for i := range count {
			if i > 0 {
				b.WriteByte(',')
			}
			id := id(i)
			if fmt.Fprintf(&b, `{"Id":%d`, id); named {
				fmt.Fprintf(&b, `,"Name":"the name of row %06d: %x, %s"`, id, sha256.Sum256([]byte{byte(id), byte(id >> 8)}), strings.Repeat("x", 40))
			}
			b.WriteByte('}')
		}
		b.WriteString("]}")
		if named && data != nil {
			if resp := data(r, b.String()); resp != nil {
				return resp
			}
		}
		return reply(200, "application/json", b.String())
	}
}

func query(t testing.TB, mem memory.Allocator) odata.Query {
	return odata.Query{Table: tableT(t), Select: []string{"Id", "Name"}, PageSize: 100, Batch: 100, Memory: mem}
}

func scanOf(t testing.TB, c *odata.Client, q odata.Query) *odata.Scan {
	t.Helper()
	scan, err := c.Open(newBearer(token)).Scan(q)
	if err != nil {
		t.Fatal(err)
	}
	return scan
}

func ids(rec arrow.Record) []int32 {
	return slices.Clone(rec.Column(0).(*array.Int32).Int32Values())
}

// While the loop body works on a page, the next one is fetched and held. The one after it is not asked for
// before there is room.
func TestTheNextPageIsFetchedMeanwhile(t *testing.T) {
	for _, tt := range []struct {
		ahead int64
		pages int32 // asked for while the body works on the first one
	}{{-1, 2}, {1 << 20, 9}} { // all eight, and the one that shows the end
		synctest.Test(t, func(t *testing.T) {
			var asked atomic.Int32
			c := client(t, small(800, func(*http.Request, string) *http.Response { asked.Add(1); return nil }), func(o *odata.Options) { o.RequestsPerMinute = 6e6 })
			mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
			q := query(t, mem)
			q.PageSize, q.Batch, q.Ahead = 101, 200, tt.ahead // a page is the seam row and a hundred
			progress := 0
			q.Progress = func(p odata.Progress) { progress++ } // unsynchronised: it is the loop's
			scan := scanOf(t, c, q)
			next := int32(1)
			for rec, err := range scan.Records(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if next == 1 && asked.Load() != tt.pages {
					t.Errorf("ahead %d: %d pages were asked for during the first", tt.ahead, asked.Load())
				}
				for _, id := range ids(rec) {
					if id != next {
						t.Fatalf("row %d where %d was next", id, next)
					}
					next++
				}
				if ev := scan.Evidence(); ev.Rows != int64(next-1) || ev.Judge() == nil {
					t.Errorf("in the loop, after %d rows: %+v", next-1, ev)
				}
				time.Sleep(time.Second)
			}
			mem.AssertSize(t, 0)
			if ev := scan.Evidence(); next != 801 || ev.Rows != 800 || ev.Judge() != nil || int64(progress) != ev.Pages {
				t.Errorf("%d rows, %d calls of progress, %+v", next-1, progress, ev)
			}
		})
	}
}

// An error comes once, behind every row that was handed on before it.
func TestErrorBehindTheRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		c := client(t, small(1000, func(*http.Request, string) *http.Response {
			if n++; n == 4 {
				return reply(403, "", "")
			}
			return nil
		}))
		mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
		scan := scanOf(t, c, query(t, mem))
		rows, failures := int64(0), 0
		for rec, err := range scan.Records(t.Context()) {
			if err != nil {
				failures++
				if !errors.Is(err, odata.ErrForbidden) || rows != 298 {
					t.Errorf("%v after %d rows", err, rows)
				}
				continue
			}
			time.Sleep(time.Second)
			rows += rec.NumRows()
		}
		mem.AssertSize(t, 0)
		if ev := scan.Evidence(); failures != 1 || ev.Rows != 298 || ev.Judge() == nil {
			t.Errorf("%d errors, %+v", failures, ev)
		}
	})
}

// Whatever ends the loop, nothing goes on behind it, and everything is given back. (A goroutine that stayed
// would not let the bubble end.)
func TestWaysOutOfTheLoop(t *testing.T) {
	for _, paging := range []odata.Paging{odata.Key, odata.Offset, odata.NextLink, odata.Stream} {
		for _, ahead := range []int64{-1, 20_000, 1 << 20} {
			for name, out := range map[string]func(cancel func()) bool{ // false leaves
				"break":  func(func()) bool { return false },
				"panic":  func(func()) bool { panic("the body's") },
				"cancel": func(cancel func()) bool { cancel(); return true },
			} {
				t.Run(fmt.Sprintf("%s/%d/%s", paging, ahead, name), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { wayOut(t, paging, ahead, out, name) })
				})
			}
		}
	}
}

func wayOut(t *testing.T, paging odata.Paging, ahead int64, out func(func()) bool, name string) {
	var inFlight atomic.Int32
	c := client(t, transport(func(r *http.Request) (*http.Response, error) {
		inFlight.Add(1)
		defer inFlight.Add(-1)
		select {
		case <-time.After(time.Second):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
		return small(2000, nil).RoundTrip(r)
	}))
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	q := query(t, mem)
	q.Paging, q.Ahead, q.Batch = paging, ahead, 30
	scan := scanOf(t, c, q)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	rows, failure := int64(0), error(nil)
	func() {
		defer func() {
			if p := recover(); p != nil && p != "the body's" {
				panic(p)
			}
		}()
		for rec, err := range scan.Records(ctx) {
			if failure = err; err != nil {
				continue
			}
			time.Sleep(700 * time.Millisecond)
			if rows += rec.NumRows(); rows > 150 && !out(cancel) {
				break
			}
		}
	}()
	mem.AssertSize(t, 0)
	if inFlight.Load() != 0 {
		t.Error("a request is still in flight")
	}
	ev := scan.Evidence()
	switch {
	case name != "cancel" && failure != nil, failure != nil && !errors.Is(failure, context.Canceled):
		t.Error(failure)
	case failure == nil && rows == 2000: // everything was there when it was cancelled
		if err := ev.Judge(); err != nil {
			t.Error(err)
		}
	case ev.Rows != rows || ev.Judge() == nil || ev.Requests == 0:
		t.Errorf("after %d rows: %+v", rows, ev)
	}
}

// transport answers, or fails, in the process.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A panic in what runs beside the loop reaches whoever ranges.
func TestPanicBesideTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		c := client(t, small(1000, func(*http.Request, string) *http.Response {
			if n++; n == 3 {
				panic("the transport's")
			}
			return nil
		}))
		mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
		scan := scanOf(t, c, query(t, mem))
		rows := int64(0)
		defer func() {
			if p := recover(); p != "the transport's" || rows != 199 {
				t.Errorf("%v after %d rows", p, rows)
			}
			mem.AssertSize(t, 0)
		}()
		for rec, err := range scan.Records(t.Context()) {
			if err != nil {
				t.Error(err)
				continue
			}
			rows += rec.NumRows()
		}
	})
}

// A loop body that is slow does not keep the server from sending, as long as the queue has room; behind that
// the server waits, and memory stays where it is.
func TestSlowLoopDoesNotStallTheStream(t *testing.T) {
	for _, tt := range []struct {
		ahead   int64
		stalled bool
	}{{4 << 20, false}, {256 << 10, true}} {
		synctest.Test(t, func(t *testing.T) {
			var sent atomic.Bool
			c := client(t, small(10_000, func(r *http.Request, text string) *http.Response {
				if strings.Contains(r.URL.Query().Get("$filter"), "ge") {
					return nil
				}
				in, out := io.Pipe()
				go func() {
					for part := range slices.Chunk([]byte(text), 16<<10) {
						if _, err := out.Write(part); err != nil {
							break
						}
					}
					sent.Store(true)
					out.Close()
				}()
				resp := reply(200, "application/json", "")
				resp.Body = in
				return resp
			}))
			p := &peak{}
			q := query(t, p)
			q.Paging, q.Ahead = odata.Stream, tt.ahead
			rows := int64(0)
			for rec, err := range scanOf(t, c, q).Records(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				if rows == 0 {
					time.Sleep(10 * time.Minute) // longer than any idle limit
					synctest.Wait()
					if sent.Load() == tt.stalled {
						t.Errorf("ahead %d: sent %v", tt.ahead, sent.Load())
					}
				}
				rows += rec.NumRows()
			}
			if rows != 10_000 || p.now != 0 || tt.stalled && p.most > int(tt.ahead)+100_000 {
				t.Errorf("%d rows, %d bytes left, %d at most", rows, p.now, p.most)
			}
		})
	}
}

// slowBody is a body on a link of so many bytes a second.
type slowBody struct {
	r    io.Reader
	rate float64
}

func (s slowBody) Read(p []byte) (int, error) {
	n, err := s.r.Read(p[:min(len(p), 16<<10)])
	time.Sleep(time.Duration(float64(n) / s.rate * float64(time.Second)))
	return n, err
}
func (s slowBody) Close() error { return nil }

// pack compresses as the client allows.
func pack(r *http.Request, text string) (body io.Reader, coding string) {
	var b bytes.Buffer
	switch accept := r.Header.Get("Accept-Encoding"); {
	case strings.Contains(accept, "zstd"):
		z, _ := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
		return bytes.NewReader(z.EncodeAll([]byte(text), nil)), "zstd"
	case strings.Contains(accept, "gzip"):
		z := gzip.NewWriter(&b)
		io.WriteString(z, text)
		z.Close()
		return &b, "gzip"
	}
	return strings.NewReader(text), ""
}

// The coding of answers follows the throughput: compressed where the link is slow, plain where it is fast, and one
// trial finds out. (The clock is the bubble's, so that only the link takes time.)
func TestContentCodingFollowsThroughput(t *testing.T) {
	const rows, page = 50_000, 2_000
	for _, tt := range []struct {
		name     string
		url      string
		encoding odata.Encoding
		link     float64       // bytes a second
		packing  time.Duration // the server compresses an answer
		want     string        // Accept-Encoding at the end
		changes  int           // of Accept-Encoding in all
	}{
		{name: "slow link", url: "https://acme.example", link: 1e6, want: "zstd, gzip", changes: 0},
		{name: "slow link on a loopback, a tunnel", url: "https://localhost", link: 5e6, want: "zstd, gzip", changes: 1},
		{name: "fast link, slow compression", url: "https://acme.example", link: 1e9, packing: 8 * time.Millisecond, want: "identity", changes: 1},
		{name: "fast link, fast compression", url: "https://acme.example", link: 1e9, packing: 100 * time.Microsecond, want: "zstd, gzip", changes: 2},
		{name: "loopback", url: "https://localhost", link: 2e9, want: "identity", changes: 0},
		{name: "identity, forced", url: "https://acme.example", encoding: odata.EncodingIdentity, link: 1e6, want: "identity"},
		{name: "gzip, forced", url: "https://localhost", encoding: odata.EncodingGzip, link: 1e9, packing: 20 * time.Millisecond, want: "gzip"},
		{name: "zstd, forced", url: "https://localhost", encoding: odata.EncodingZstd, link: 1e9, packing: 20 * time.Millisecond, want: "zstd"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked []string
				c := client(t, small(rows, func(r *http.Request, text string) *http.Response {
					asked = append(asked, r.Header.Get("Accept-Encoding"))
					body, coding := pack(r, text)
					if coding != "" {
						time.Sleep(tt.packing)
					}
					resp := reply(200, "application/json", "", "Content-Encoding", coding)
					resp.Body = slowBody{body, tt.link}
					return resp
				}), func(o *odata.Options) {
					o.URL, o.TableAPI, o.Encoding, o.RequestsPerMinute = tt.url, tt.url+"/tableapi", tt.encoding, 6e6
				})
				q := query(t, nil)
				q.PageSize, q.Batch = page, 2048
				scan := scanOf(t, c, q)
				for _, err := range scan.Records(t.Context()) {
					if err != nil {
						t.Fatal(err)
					}
				}
				changes := len(slices.Compact(slices.Clone(asked))) - 1
				if ev := scan.Evidence(); ev.Rows != rows || asked[len(asked)-1] != tt.want || changes != tt.changes {
					t.Errorf("%d rows; %d changes, %q", ev.Rows, changes, asked)
				}
			})
		})
	}
}

func TestUnknownEncoding(t *testing.T) {
	var address *odata.AddressError
	if _, err := odata.NewClient(odata.Options{URL: "https://acme.example", Encoding: "br"}); !errors.As(err, &address) || address.Setting != "encoding" {
		t.Error(err)
	}
}

// zstd is taken where the server has it. A frame that wants more memory than RFC 9659 allows is refused, and
// gzip is asked for instead.
func TestZstd(t *testing.T) {
	for _, hostile := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			codings := map[string]int{}
			c := client(t, small(500, func(r *http.Request, text string) *http.Response {
				body, coding := pack(r, text)
				if hostile && coding == "zstd" {
					body = strings.NewReader("\x28\xb5\x2f\xfd\x00\xa8" + text) // a window of 2 GiB
				}
				codings[coding]++
				resp := reply(200, "application/json", "", "Content-Encoding", coding)
				resp.Body = io.NopCloser(body)
				return resp
			}))
			rows := int64(0)
			scan := scanOf(t, c, query(t, nil))
			for rec, err := range scan.Records(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				rows += rec.NumRows()
			}
			if rows != 500 || hostile && (codings["zstd"] != 1 || codings["gzip"] < 5) || !hostile && codings["gzip"] > 0 {
				t.Errorf("%d rows by %v", rows, codings)
			}
			if ev := scan.Evidence(); ev.Bytes < 500*130 || hostile != (ev.Retries > 0) {
				t.Errorf("%+v", ev)
			}
		})
	}
}
