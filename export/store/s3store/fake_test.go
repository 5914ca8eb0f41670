package s3store_test

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/s3store"
)

// fake returns options for a server made of one handler: for answers that a real server does not give.
func fake(t *testing.T, h http.HandlerFunc) s3store.Options {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return fakeOptions(s.URL)
}

func fakeOptions(url string) s3store.Options {
	return s3store.Options{
		Bucket: "lake", Region: "us-east-1", Endpoint: url, PathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider("AK", "very-secret", ""),
	}
}

// sink takes uploads and forgets them.
func sink(w http.ResponseWriter, r *http.Request) {
	n, _ := io.Copy(io.Discard, r.Body)
	w.Header().Set("ETag", fmt.Sprintf(`"%d"`, n))
	switch q := r.URL.Query(); {
	case q.Has("uploads"):
		_, _ = io.WriteString(w, `<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>`)
	case r.Method == http.MethodPost:
		_, _ = io.WriteString(w, `<CompleteMultipartUploadResult><ETag>"e-1"</ETag></CompleteMultipartUploadResult>`)
	}
}

// Streaming 200 MB holds a few parts, not the object. The limit counts the server as well, which runs in this process.
func TestMemory(t *testing.T) {
	var received atomic.Int64
	for _, checksums := range []string{"required", "supported"} {
		o := fake(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Has("partNumber") {
				received.Add(r.ContentLength)
			}
			sink(w, r)
		})
		o.Checksums = checksums
		b := open(t, o)
		runtime.GC()
		var before, now runtime.MemStats
		runtime.ReadMemStats(&before)
		received.Store(0)
		u, err := b.Create(t.Context(), "big")
		must(t, err)
		peak := uint64(0)
		chunk := make([]byte, 256<<10)
		const size = 200 << 20
		for i := range size / len(chunk) {
			_, err := u.Write(chunk)
			must(t, err)
			if i%8 == 0 {
				runtime.ReadMemStats(&now)
				peak = max(peak, now.HeapInuse-min(now.HeapInuse, before.HeapInuse))
			}
		}
		info, err := u.Commit(t.Context())
		must(t, err)
		if info.Size != size || received.Load() < size {
			t.Errorf("%d bytes committed, %d received", info.Size, received.Load())
		}
		t.Logf("%s: peak %d MiB", checksums, peak>>20)
		if peak > 64<<20 {
			t.Errorf("streaming 200 MB held %d MiB, want 64 at most", peak>>20)
		}
	}
}

// A commit of a few bytes does not cost the memory of a part.
func TestSmallObjectMemory(t *testing.T) {
	b := open(t, fake(t, sink))
	must(t, stream(t.Context(), b, "warm", 100))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range 10 {
		must(t, stream(t.Context(), b, fmt.Sprint(i), 100))
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / 10; each > 3<<20 {
		t.Errorf("a small upload allocates %d KiB", each>>10)
	}
}

func TestListLies(t *testing.T) {
	page := func(truncated bool, next string, keys ...string) string {
		var s strings.Builder
		fmt.Fprintf(&s, `<ListBucketResult><IsTruncated>%v</IsTruncated>`, truncated)
		if next != "" {
			fmt.Fprintf(&s, `<NextContinuationToken>%s</NextContinuationToken>`, next)
		}
		for _, k := range keys {
			fmt.Fprintf(&s, `<Contents><Key>%s</Key><Size>1</Size></Contents>`, k)
		}
		return s.String() + `</ListBucketResult>`
	}
	for name, c := range map[string]struct {
		answers []string
		want    string // the keys, and "!" and the code of an error
	}{
		"in order":         {[]string{page(true, "t", "a", "b"), page(false, "", "c")}, "a b c"},
		"folder marker":    {[]string{page(false, "", "a/", "a/b", "c//d")}, "a/b"},
		"out of order":     {[]string{page(false, "", "b", "a")}, "b !refused"},
		"twice":            {[]string{page(false, "", "a", "a")}, "a !refused"},
		"page again":       {[]string{page(true, "t", "a", "b"), page(false, "", "b")}, "a b !refused"},
		"no token":         {[]string{page(true, "", "a")}, "a !refused"},
		"the same token":   {[]string{page(true, "t", "a"), page(true, "t", "b")}, "a b !refused"},
		"not XML":          {[]string{`<html>login`}, "!unavailable"},
		"ignores the rest": {[]string{page(false, "", "a", "b")}, "a b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var n atomic.Int32
			b := open(t, fake(t, func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, c.answers[min(int(n.Add(1)), len(c.answers))-1])
			}))
			var got []string
			for info, err := range b.List(t.Context(), "", "") {
				if err != nil {
					got = append(got, "!"+store.CodeOf(err).String())
				} else {
					got = append(got, info.Key)
				}
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("got %q, want %q", s, c.want)
			}
		})
	}
	// start-after is applied here where the server does not.
	b := open(t, fake(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, page(false, "", "a", "b", "c")) }))
	for info, err := range b.List(t.Context(), "", "b") {
		if err != nil || info.Key != "c" {
			t.Errorf("List after b yields %q, %v", info.Key, err)
		}
	}
}

// A body that is cut is an error, not a shorter object; a server that ignores a range is refused.
func TestReadLies(t *testing.T) {
	b := open(t, fake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") == "" {
			w.Header().Set("Content-Length", "100")
		}
		_, _ = w.Write(make([]byte, 60))
	}))
	r, info, err := b.Open(t.Context(), "k")
	must(t, err)
	got, err := io.ReadAll(r)
	if info.Size != 100 || len(got) != 60 {
		t.Errorf("%d of %d bytes", len(got), info.Size)
	}
	wantCode(t, "a cut body", err, store.Unavailable)
	_, err = b.OpenRange(t.Context(), "k", 10, 5)
	wantCode(t, "a range that is ignored", err, store.Refused)
}

// A 404 means that there is no such object only where the server says so. Anything else must not look like an absent table.
func TestOther404(t *testing.T) {
	for name, body := range map[string]string{
		"HTML":    `<html>404</html>`,
		"foreign": `<Error><Code>XSomethingElse</Code></Error>`,
		"empty":   "",
	} {
		b := open(t, fake(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, body)
		}))
		for op, err := range everyOperation(t, b) {
			if err == nil || store.CodeOf(err) == store.NotFound || store.CodeOf(err) == store.Unknown {
				t.Errorf("%s, %s: %v", name, op, err)
			}
		}
	}
}

func TestErrorCodes(t *testing.T) {
	for _, c := range []struct {
		status int
		code   string
		want   store.Code
		hint   string
	}{
		{403, "AccessDenied", store.Permission, ""},
		{403, "ExpiredToken", store.Permission, "renew"},
		{400, "ExpiredToken", store.Permission, "renew"},
		{403, "RequestTimeTooSkewed", store.Permission, "clock"},
		{401, "Unauthorized", store.Permission, ""},
		{301, "PermanentRedirect", store.Invalid, "region"},
		{400, "AuthorizationHeaderMalformed", store.Invalid, "region"},
		{404, "NoSuchKey", store.NotFound, ""},
		{404, "NoSuchBucket", store.Invalid, "create it"},
		{403, "QuotaExceeded", store.Full, ""},
		{507, "XMinioStorageFull", store.Full, ""},
		{507, "Whatever", store.Full, ""},
		{501, "NotImplemented", store.Refused, "does not support"},
		{400, "KMS.DisabledException", store.Refused, "kms_key_id"},
		{400, "InvalidArgument", store.Invalid, ""},
		{418, "Teapot", store.Invalid, ""},
	} {
		b := open(t, fake(t, func(w http.ResponseWriter, _ *http.Request) { answer(w, c.status, c.code) }))
		_, _, err := b.Open(t.Context(), "k")
		wantCode(t, fmt.Sprint(c.status, " ", c.code), err, c.want)
		if !strings.Contains(fmt.Sprint(err), c.hint) {
			t.Errorf("%s: no hint %q in %v", c.code, c.hint, err)
		}
	}
}

func TestEndpointDown(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, l.Close())
	b := open(t, fakeOptions("http://"+l.Addr().String()))
	var wg sync.WaitGroup
	for name, op := range map[string]func() error{
		"put-if-absent": func() error { return b.PutIfAbsent(t.Context(), "k", nil) },
		"put":           func() error { return b.Put(t.Context(), "k", nil) },
		"multipart":     func() error { return stream(t.Context(), b, "k", 9<<20) },
		"stat":          func() error { _, err := b.Stat(t.Context(), "k"); return err },
	} {
		wg.Go(func() { wantCode(t, name, op(), store.Unavailable) })
	}
	wg.Wait()
}

// A server that accepts and then says nothing does not hold a run for ever.
func TestStall(t *testing.T) {
	release := make(chan struct{})
	o := fake(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	o.Stall = 50 * time.Millisecond
	b := open(t, o)
	start := time.Now()
	wantCode(t, "put-if-absent", b.PutIfAbsent(t.Context(), "k", nil), store.Unavailable)
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("it took %v", d)
	}
}

// A part that takes longer than the stall time is no stall as long as it moves.
func TestSlowIsNoStall(t *testing.T) {
	t.Parallel()
	var parts atomic.Int32
	o := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("partNumber") {
			for buf := make([]byte, 1<<20); ; {
				if _, err := io.ReadFull(r.Body, buf); err != nil {
					break
				}
				time.Sleep(40 * time.Millisecond)
			}
			parts.Add(1)
		}
		sink(w, r)
	})
	o.Stall, o.Concurrency, o.PartSize = time.Second, 1, 40<<20
	must(t, stream(t.Context(), open(t, o), "k", 41<<20))
	if parts.Load() != 2 {
		t.Errorf("the parts were sent %d times, want 2", parts.Load())
	}
}

func TestTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(sink))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // it complains of the clients that refuse it
	s.StartTLS()
	t.Cleanup(s.Close)
	err := open(t, fakeOptions(s.URL)).Put(t.Context(), "k", nil)
	wantCode(t, "an unknown authority", err, store.Invalid)
	if !strings.Contains(fmt.Sprint(err), "ca_file") {
		t.Errorf("no hint: %v", err)
	}
	o := fakeOptions(s.URL)
	o.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(o.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600))
	for _, checksums := range []string{"required", "supported"} {
		o.Checksums = checksums
		must(t, open(t, o).Put(t.Context(), "k", []byte("x")))
		must(t, stream(t.Context(), open(t, o), "k", 9<<20))
	}
	for name, content := range map[string]string{"empty": "", "no PEM": "x"} {
		must(t, os.WriteFile(o.CAFile, []byte(content), 0o600))
		_, err := s3store.Open(t.Context(), o)
		wantCode(t, name+" CA file", err, store.Invalid)
	}
	o.CAFile += ".missing"
	_, err = s3store.Open(t.Context(), o)
	wantCode(t, "missing CA file", err, store.Invalid)
}

// Data and signatures do not follow a redirect into clear text.
func TestRedirectToClearText(t *testing.T) {
	b := open(t, fake(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://s3.example.com/lake/k", http.StatusTemporaryRedirect)
	}))
	wantCode(t, "put", b.Put(t.Context(), "k", []byte("x")), store.Invalid)
	_, _, err := b.Open(t.Context(), "k")
	wantCode(t, "open", err, store.Invalid)
	if !strings.Contains(fmt.Sprint(err), "without encryption") {
		t.Errorf("no reason: %v", err)
	}
}

// isolate keeps this machine's AWS configuration out of a test.
func isolate(t *testing.T) {
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_CA_BUNDLE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
}

func TestStandardChain(t *testing.T) {
	isolate(t)
	_, err := s3store.Open(t.Context(), s3store.Options{Bucket: "lake"})
	wantCode(t, "no region", err, store.Invalid)
	if !strings.Contains(fmt.Sprint(err), "set region") {
		t.Errorf("no hint: %v", err)
	}
	var authorization atomic.Value
	o := fake(t, func(w http.ResponseWriter, r *http.Request) {
		authorization.Store(r.Header.Get("Authorization"))
		sink(w, r)
	})
	o.Region, o.Credentials = "", nil
	err = open(t, o).Put(t.Context(), "k", nil)
	wantCode(t, "no credentials", err, store.Permission)
	if authorization.Load() != nil {
		t.Error("a request went out without credentials")
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "AKFROMENV")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
	t.Setenv("AWS_REGION", "eu-north-1")
	must(t, open(t, o).Put(t.Context(), "k", nil))
	if got := fmt.Sprint(authorization.Load()); !strings.Contains(got, "AKFROMENV/") || !strings.Contains(got, "/eu-north-1/") || strings.Contains(got, "very-secret") {
		t.Errorf("signed as %q", got)
	}
}

func TestOptions(t *testing.T) {
	good := s3store.Options{Bucket: "lake", Region: "eu-central-1"}
	for name, c := range map[string]struct {
		change func(o *s3store.Options)
		want   string // in the error; "" = none
	}{
		"minimal":             {func(*s3store.Options) {}, ""},
		"everything":          {func(o *s3store.Options) { o.Prefix, o.SSE, o.KMSKeyID, o.Concurrency = "a/b/", "aws:kms", "alias/x", 8 }, ""},
		"access point":        {func(o *s3store.Options) { o.Bucket = "arn:aws:s3:eu-central-1:123456789012:accesspoint/bi" }, ""},
		"https":               {func(o *s3store.Options) { o.Endpoint = "https://minio.example.com:9000" }, ""},
		"loopback 4":          {func(o *s3store.Options) { o.Endpoint = "http://127.0.0.1:9000" }, ""},
		"loopback 6":          {func(o *s3store.Options) { o.Endpoint = "http://[::1]:9000" }, ""},
		"localhost":           {func(o *s3store.Options) { o.Endpoint = "http://localhost:9000" }, ""},
		"no bucket":           {func(o *s3store.Options) { o.Bucket = "" }, "bucket name"},
		"bucket with slash":   {func(o *s3store.Options) { o.Bucket = "lake/dir" }, "prefix"},
		"clear text":          {func(o *s3store.Options) { o.Endpoint = "http://minio.example.com" }, "https"},
		"looks like loopback": {func(o *s3store.Options) { o.Endpoint = "http://127.0.0.1.example.com" }, "https"},
		"link-local":          {func(o *s3store.Options) { o.Endpoint = "http://169.254.169.254" }, "https"},
		"no scheme":           {func(o *s3store.Options) { o.Endpoint = "minio:9000" }, "https"},
		"user in URL":         {func(o *s3store.Options) { o.Endpoint = "https://key:hunter2@minio.example.com" }, "only"},
		"query in URL":        {func(o *s3store.Options) { o.Endpoint = "https://minio.example.com?x=hunter2" }, "only"},
		"bad URL":             {func(o *s3store.Options) { o.Endpoint = "https://hunter2:%zz@" }, "URL"},
		"unknown SSE":         {func(o *s3store.Options) { o.SSE = "aes256" }, "AES256"},
		"key without KMS":     {func(o *s3store.Options) { o.SSE, o.KMSKeyID = "AES256", "k" }, "aws:kms"},
		"part too small":      {func(o *s3store.Options) { o.PartSize = 1 << 20 }, "part size"},
		"part too big":        {func(o *s3store.Options) { o.PartSize = 2 << 30 }, "part size"},
		"concurrency":         {func(o *s3store.Options) { o.Concurrency = 65 }, "in flight"},
		"negative":            {func(o *s3store.Options) { o.Concurrency = -1 }, "in flight"},
		"stall":               {func(o *s3store.Options) { o.Stall = -1 }, "stall"},
		"checksums":           {func(o *s3store.Options) { o.Checksums = "always" }, "checksum"},
		"prefix":              {func(o *s3store.Options) { o.Prefix = "../x" }, "prefix"},
		"absolute prefix":     {func(o *s3store.Options) { o.Prefix = "/x" }, "prefix"},
	} {
		o := good
		c.change(&o)
		b, err := s3store.Open(context.Background(), o)
		if err == nil {
			must(t, b.Close())
		}
		if (err == nil) != (c.want == "") || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err != nil {
			wantCode(t, name, err, store.Invalid)
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: the error carries a secret: %v", name, err)
			}
		}
	}
	o := good
	o.Prefix = strings.Repeat("p/", 100) + "p"
	err := open(t, o).Put(t.Context(), strings.Repeat("k/", 440)+"k", nil)
	wantCode(t, "a key too long with its prefix", err, store.Invalid)
}
