package s3store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/s3store"
	"github.com/tablexport/tablexport/export/store/storetest/s3server"
)

// between puts a proxy before the server and returns options that lead through it. For each request fault may answer itself
// (true) or let it pass. The requests' host stays as it was signed.
func between(t *testing.T, o s3store.Options, fault func(w http.ResponseWriter, r *http.Request, pass http.Handler) bool) s3store.Options {
	t.Helper()
	target, err := url.Parse(o.Endpoint)
	must(t, err)
	pass := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host
	}, ErrorLog: log.New(io.Discard, "", 0)}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !fault(w, r, pass) {
			pass.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(proxy.Close)
	o.Endpoint = proxy.URL
	return o
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, what string, err error, code store.Code) {
	t.Helper()
	var e *store.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Errorf("%s: %v, want %v", what, err, code)
	}
}

// hangUp closes the connection without an answer.
func hangUp(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		_ = conn.Close()
	}
}

func answer(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>made up</Message></Error>`, code)
}

// isCommit recognises the two requests that create an object: a conditional PutObject and CompleteMultipartUpload.
func isCommit(r *http.Request) bool { return r.Header.Get("If-None-Match") == "*" }

// commits are the ways to create an object that is absent: a small one at once, a small and a big one as a stream.
var commits = map[string]func(b *s3store.Bucket) error{
	"put-if-absent": func(b *s3store.Bucket) error { return b.PutIfAbsent(context.Background(), "k", []byte("mine")) },
	"small upload":  func(b *s3store.Bucket) error { return stream(context.Background(), b, "k", 4) },
	"multipart":     func(b *s3store.Bucket) error { return stream(context.Background(), b, "k", 9<<20) },
}

// stream writes n bytes, and aborts when that fails.
func stream(ctx context.Context, b *s3store.Bucket, key string, n int) error {
	u, err := b.Create(ctx, key)
	if err != nil {
		return err
	}
	chunk := make([]byte, 1<<20)
	for ; n > 0; n -= len(chunk) {
		if _, err := u.Write(chunk[:min(n, len(chunk))]); err != nil {
			return errors.Join(err, u.Abort(ctx))
		}
	}
	_, err = u.Commit(ctx)
	return err
}

// multiparts counts the multipart uploads that are open in a bucket.
func multiparts(t *testing.T, s s3server.Server, o s3store.Options) int {
	t.Helper()
	out, err := s.Client().ListMultipartUploads(context.Background(), &s3.ListMultipartUploadsInput{Bucket: &o.Bucket})
	must(t, err)
	return len(out.Uploads)
}

func exists(t *testing.T, b *s3store.Bucket, key string) bool {
	t.Helper()
	_, err := b.Stat(t.Context(), key)
	if err != nil {
		wantCode(t, "Stat", err, store.NotFound)
	}
	return err == nil
}

// The answer to a commit is lost after the server has done the work: an error, and looking finds the object. It is never
// AlreadyExists, which would say that someone else had been first. When only the first answer is lost, a server that
// knows the upload may confirm it the second time, and then it is no error.
func TestLostAnswer(t *testing.T) {
	s := s3server.Start(t)
	for name, commit := range commits {
		for _, losses := range []int32{1, 1000} {
			t.Run(fmt.Sprint(name, " ", losses), func(t *testing.T) {
				t.Parallel()
				o := options(t, s)
				var lost atomic.Int32
				b := open(t, between(t, o, func(w http.ResponseWriter, r *http.Request, pass http.Handler) bool {
					if !isCommit(r) || lost.Add(1) > losses {
						return false
					}
					pass.ServeHTTP(httptest.NewRecorder(), r)
					hangUp(w)
					return true
				}))
				err := commit(b)
				if err != nil || losses > 1 || name != "multipart" {
					wantCode(t, "commit", err, store.Unavailable)
				}
				if err != nil && losses == 1 && !strings.Contains(err.Error(), "look") {
					t.Errorf("the error does not say that one must look: %v", err)
				}
				if !exists(t, b, "k") {
					t.Error("the object is not there")
				}
				if n := multiparts(t, s, o); n != 0 {
					t.Errorf("%d multipart uploads are left", n)
				}
			})
		}
	}
}

// The request is lost, or refused in a way that may pass, before the server has done anything: it is repeated.
func TestCommitRepeats(t *testing.T) {
	s := s3server.Start(t)
	for fault, fail := range map[string]func(w http.ResponseWriter){
		"no answer": hangUp,
		"409":       func(w http.ResponseWriter) { answer(w, 409, "ConditionalRequestConflict") },
		"503":       func(w http.ResponseWriter) { answer(w, 503, "SlowDown") },
		"500":       func(w http.ResponseWriter) { answer(w, 500, "InternalError") },
		"200 error": func(w http.ResponseWriter) { answer(w, 200, "InternalError") },
	} {
		for name, commit := range commits {
			if fault == "200 error" && name != "multipart" {
				continue // only CompleteMultipartUpload answers 200 before it knows
			}
			t.Run(fault+" "+name, func(t *testing.T) {
				t.Parallel()
				var tries atomic.Int32
				o := options(t, s)
				b := open(t, between(t, o, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
					if !isCommit(r) || tries.Add(1) > 2 {
						return false
					}
					_, _ = io.Copy(io.Discard, r.Body)
					fail(w)
					return true
				}))
				must(t, commit(b))
				if tries.Load() != 3 || !exists(t, b, "k") {
					t.Errorf("%d tries, object there: %v", tries.Load(), exists(t, b, "k"))
				}
				if n := multiparts(t, s, o); n != 0 {
					t.Errorf("%d multipart uploads are left", n)
				}
			})
		}
	}
}

// After refusals that certainly changed nothing, losing is losing: AlreadyExists. After a lost answer nobody can know.
func TestCommitLosesAfterRetry(t *testing.T) {
	s := s3server.Start(t)
	for name, commit := range commits {
		for fault, c := range map[string]struct {
			fail func(w http.ResponseWriter)
			want store.Code
		}{
			"409": {func(w http.ResponseWriter) { answer(w, 409, "ConditionalRequestConflict") }, store.AlreadyExists},
			"503": {func(w http.ResponseWriter) { answer(w, 503, "SlowDown") }, store.AlreadyExists},
			"500": {func(w http.ResponseWriter) { answer(w, 500, "InternalError") }, store.Unavailable},
		} {
			t.Run(name+" "+fault, func(t *testing.T) {
				t.Parallel()
				o := options(t, s)
				other := open(t, o)
				var tries atomic.Int32
				b := open(t, between(t, o, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
					if !isCommit(r) || tries.Add(1) > 1 {
						return false
					}
					_, _ = io.Copy(io.Discard, r.Body)
					if err := other.PutIfAbsent(context.Background(), "k", []byte("theirs")); err != nil {
						t.Error(err)
					}
					c.fail(w)
					return true
				}))
				wantCode(t, "commit", commit(b), c.want)
				r, _, err := b.Open(t.Context(), "k")
				must(t, err)
				got, err := io.ReadAll(r)
				must(t, err)
				if string(got) != "theirs" {
					t.Errorf("the object is now %.10q", got)
				}
				if n := multiparts(t, s, o); n != 0 {
					t.Errorf("%d multipart uploads are left", n)
				}
			})
		}
	}
}

// A conflict that does not pass ends after a bounded number of tries.
func TestConflictForever(t *testing.T) {
	t.Parallel()
	s := s3server.Start(t)
	var tries atomic.Int32
	o := options(t, s)
	b := open(t, between(t, o, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if !isCommit(r) {
			return false
		}
		tries.Add(1)
		answer(w, 409, "ConditionalRequestConflict")
		return true
	}))
	wantCode(t, "put-if-absent", b.PutIfAbsent(t.Context(), "k", nil), store.Unavailable)
	if n := tries.Load(); n != 5 {
		t.Errorf("%d tries, want 5", n)
	}
}

// Parts are repeated when they are lost, and when the fault stays the upload fails and leaves nothing.
func TestParts(t *testing.T) {
	s := s3server.Start(t)
	isPart := func(r *http.Request) bool { return r.URL.Query().Has("partNumber") }
	t.Run("lost once", func(t *testing.T) {
		t.Parallel()
		o := options(t, s)
		var seen sync.Map
		b := open(t, between(t, o, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if _, again := seen.LoadOrStore(r.URL.RawQuery, true); !isPart(r) || again {
				return false
			}
			_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, 1<<20))
			hangUp(w)
			return true
		}))
		must(t, stream(t.Context(), b, "k", 20<<20))
		info, err := b.Stat(t.Context(), "k")
		must(t, err)
		if info.Size != 20<<20 {
			t.Errorf("%d bytes", info.Size)
		}
	})
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		o := options(t, s)
		b := open(t, between(t, o, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if !isPart(r) || r.URL.Query().Get("partNumber") != "2" {
				return false
			}
			_, _ = io.Copy(io.Discard, r.Body)
			answer(w, 403, "AccessDenied")
			return true
		}))
		wantCode(t, "upload", stream(t.Context(), b, "k", 60<<20), store.Permission)
		if exists(t, b, "k") {
			t.Error("the object is there")
		}
		if n := multiparts(t, s, o); n != 0 {
			t.Errorf("%d multipart uploads are left", n)
		}
	})
}

// However an upload ends without becoming an object, the server is left without its parts.
func TestNoOrphans(t *testing.T) {
	s := s3server.Start(t)
	begin := func(t *testing.T, ctx context.Context, b *s3store.Bucket) store.Upload {
		u, err := b.Create(ctx, "k")
		must(t, err)
		_, err = u.Write(make([]byte, 30<<20))
		must(t, err)
		return u
	}
	for name, end := range map[string]func(t *testing.T, b *s3store.Bucket){
		"abort":  func(t *testing.T, b *s3store.Bucket) { must(t, begin(t, t.Context(), b).Abort(t.Context())) },
		"closed": func(t *testing.T, b *s3store.Bucket) { begin(t, t.Context(), b); must(t, b.Close()) },
		"context ends and nobody aborts": func(t *testing.T, b *s3store.Bucket) {
			ctx, cancel := context.WithCancel(t.Context())
			begin(t, ctx, b)
			cancel()
			must(t, b.Close()) // waits for what the context's end has begun
		},
		"commit too late": func(t *testing.T, b *s3store.Bucket) {
			ctx, cancel := context.WithCancel(t.Context())
			u := begin(t, t.Context(), b)
			cancel()
			_, err := u.Commit(ctx)
			wantCode(t, "Commit", err, store.Canceled)
		},
		"lost": func(t *testing.T, b *s3store.Bucket) {
			u := begin(t, t.Context(), b)
			must(t, b.PutIfAbsent(t.Context(), "k", nil))
			_, err := u.Commit(t.Context())
			wantCode(t, "Commit", err, store.AlreadyExists)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options(t, s)
			end(t, open(t, o))
			if n := multiparts(t, s, o); n != 0 {
				t.Errorf("%d multipart uploads are left", n)
			}
		})
	}
}

// A context that ends while the server is slow ends the call at once, not after the server's answer.
func TestCancelIsPrompt(t *testing.T) {
	s := s3server.Start(t)
	o := options(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	b := open(t, between(t, o, func(_ http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if r.URL.Query().Has("partNumber") {
			cancel()
			_, _ = io.Copy(io.Discard, r.Body)
			select { // until the client has gone
			case <-r.Context().Done():
			case <-time.After(5 * time.Second):
			}
			return true
		}
		return false
	}))
	start := time.Now()
	wantCode(t, "upload", stream(ctx, b, "k", 100<<20), store.Canceled)
	if d := time.Since(start); d > 4*time.Second {
		t.Errorf("it took %v", d)
	}
	if n := multiparts(t, s, o); n != 0 {
		t.Errorf("%d multipart uploads are left", n)
	}
}

func TestSweepUploads(t *testing.T) {
	t.Parallel()
	s := s3server.Start(t)
	o := options(t, s)
	b := open(t, o)
	for _, key := range []string{"erp/live/a/1", "erp/live/a/2", "erp/live/b", "erp/other", "aside"} {
		_, err := s.Client().CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: &o.Bucket, Key: aws.String(key)})
		must(t, err)
	}
	for _, c := range []struct {
		view store.Bucket
		age  time.Duration
		want int
		left int
	}{
		{b, time.Hour, 0, 5},
		{store.Prefixed(b, "a"), -time.Minute, 2, 3}, // "a minute ahead": the server's clock has whole seconds
		{b, -time.Minute, 1, 2},
		{b, -time.Minute, 0, 2},
	} {
		swept, err := store.SweepUploads(t.Context(), c.view, "", c.age)
		must(t, err)
		if n := multiparts(t, s, o); swept.Uploads != c.want || n != c.left {
			t.Errorf("age %v: swept %d, %d are left; want %d and %d", c.age, swept.Uploads, n, c.want, c.left)
		}
	}
}

// The server takes the request for encryption and ignores it: nothing is stored, and the error says what to do.
func TestEncryptionIgnored(t *testing.T) {
	s := s3server.Start(t)
	for name, o := range map[string]s3store.Options{"AES256": {SSE: "AES256"}, "KMS": {SSE: "aws:kms", KMSKeyID: "k"}} {
		for _, op := range []string{"put-if-absent", "small upload", "multipart", "put"} {
			t.Run(name+" "+op, func(t *testing.T) {
				t.Parallel()
				full := options(t, s)
				full.SSE, full.KMSKeyID = o.SSE, o.KMSKeyID
				b := open(t, full)
				write := commits[op]
				if op == "put" {
					write = func(b *s3store.Bucket) error { return b.Put(context.Background(), "k", nil) }
				}
				err := write(b)
				wantCode(t, op, err, store.Refused)
				if err != nil && !strings.Contains(err.Error(), "encrypt") {
					t.Errorf("the error does not speak of encryption: %v", err)
				}
				if exists(t, b, "k") {
					t.Error("the object has been stored without encryption")
				}
				if n := multiparts(t, s, full); n != 0 {
					t.Errorf("%d multipart uploads are left", n)
				}
			})
		}
	}
}

// A server that confirms the encryption is trusted; one that confirms another key is not.
func TestEncryptionConfirmed(t *testing.T) {
	t.Parallel()
	s := s3server.Start(t)
	const arn = "arn:aws:kms:eu-central-1:1:key/0a1b"
	for _, c := range []struct {
		sse, key string
		said     string
		ok       bool
	}{
		{"AES256", "", "", true},
		{"aws:kms", "", arn, true},
		{"aws:kms", "0a1b", arn, true},
		{"aws:kms", arn, arn, true},
		{"aws:kms", "alias/bi", arn, true},
		{"aws:kms", "other", arn, false},
		{"aws:kms", "1b", arn, false},
	} {
		o := options(t, s)
		o.SSE, o.KMSKeyID = c.sse, c.key
		var asked atomic.Int32
		b := open(t, between(t, o, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if r.Header.Get("X-Amz-Server-Side-Encryption") == c.sse && r.Header.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id") == c.key {
				asked.Add(1)
				w.Header().Set("X-Amz-Server-Side-Encryption", c.sse)
				w.Header().Set("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id", c.said)
			}
			return false
		}))
		err := errors.Join(b.PutIfAbsent(t.Context(), "a", nil), stream(t.Context(), b, "b", 9<<20), b.Put(t.Context(), "c", nil))
		if (err == nil) != c.ok || (err != nil && store.CodeOf(err) != store.Refused) {
			t.Errorf("%s with key %q, confirmed %q: %v", c.sse, c.key, c.said, err)
		}
		if c.ok && asked.Load() != 4 { // the probe, two objects, one multipart upload
			t.Errorf("encryption was asked for %d times, want 4", asked.Load())
		}
	}
}

func TestWrongCredentials(t *testing.T) {
	t.Parallel()
	s := s3server.Start(t)
	for name, c := range map[string]struct{ key, secret string }{
		"secret": {s.AccessKey, "wrong-secret-key"}, "key": {"AKNOSUCHKEY", s.SecretKey},
	} {
		o := options(t, s)
		o.Credentials = credentials.NewStaticCredentialsProvider(c.key, c.secret, "")
		b := open(t, o)
		for op, err := range everyOperation(t, b) {
			wantCode(t, name+": "+op, err, store.Permission)
			if strings.Contains(fmt.Sprint(err), c.secret) {
				t.Errorf("%s: the error carries the secret key", op)
			}
		}
	}
}

func everyOperation(t *testing.T, b *s3store.Bucket) map[string]error {
	ctx := t.Context()
	errs := map[string]error{
		"put": b.Put(ctx, "k", nil), "put-if-absent": b.PutIfAbsent(ctx, "k", nil), "small upload": stream(ctx, b, "k", 1),
		"multipart": stream(ctx, b, "k", 9<<20), "delete": b.Delete(ctx, "k"),
	}
	_, _, errs["open"] = b.Open(ctx, "k")
	_, errs["open-range"] = b.OpenRange(ctx, "k", 0, 1)
	_, errs["stat"] = b.Stat(ctx, "k")
	_, errs["sweep"] = b.SweepUploads(ctx, "", 0)
	for _, err := range b.List(ctx, "", "") {
		errs["list"] = err
	}
	return errs
}

func TestNoSuchBucket(t *testing.T) {
	t.Parallel()
	s := s3server.Start(t)
	o := options(t, s)
	o.Bucket = "not-there-at-all"
	for op, err := range everyOperation(t, open(t, o)) {
		wantCode(t, op, err, store.Invalid)
		if !strings.Contains(fmt.Sprint(err), "there is no bucket not-there-at-all at "+s.Endpoint) {
			t.Errorf("%s: the error does not name the bucket: %v", op, err)
		}
	}
}

func TestLocation(t *testing.T) {
	b := open(t, s3store.Options{Bucket: "lake", Prefix: "erp/live/", Region: "eu-central-1"})
	if got, want := b.Location("sales/a b.parquet"), "s3://lake/erp/live/sales/a b.parquet"; got != want {
		t.Errorf("Location = %q, want %q", got, want)
	}
	if got, want := open(t, s3store.Options{Bucket: "lake", Region: "eu-central-1"}).Location("x"), "s3://lake/x"; got != want {
		t.Errorf("Location = %q, want %q", got, want)
	}
}
