package odata

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"
)

// newTransport is the real road to an instance. Redirects are no matter here: a RoundTripper follows none.
//
// HTTP/1.1 only: with two requests at once there is nothing to multiplex, and a reset hits one answer alone.
func newTransport(o *Options) (http.RoundTripper, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, &AddressError{Setting: "ca_file", Reason: fmt.Sprintf("cannot be read: %v", err), Err: err}
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, &AddressError{Setting: "ca_file", Reason: "holds no PEM certificate"}
		}
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: o.ConnectTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        conf,
		TLSHandshakeTimeout:    o.ConnectTimeout,
		ResponseHeaderTimeout:  o.HeaderTimeout,
		Protocols:              &protocols,
		DisableCompression:     true, // it is undone below, where bytes are counted
		MaxIdleConnsPerHost:    o.Concurrency,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		ReadBufferSize:         64 << 10,
	}, nil
}

// The causes that end an exchange from inside.
var (
	errSilent   = errors.New("the answer fell silent")
	errStalled  = errors.New("the answer was ended, because its rows were not taken for too long")
	errNoHeader = errors.New("no answer came")
)

// An answer that keeps the connection alive and brings nothing has an end, too.
var (
	errDry    = errors.New("the answer goes on without bringing anything")
	errCrawls = errors.New("the answer comes too slowly to ever end")
)

const (
	mostDry   = 4 << 20 // bytes on the wire that bring no content: what a decompressor is ahead, and to spare
	crawlRate = 100     // bytes of content per second of waiting, …
	crawlTime = 10      // … once that many idle timeouts were spent waiting
)

// body is the content of an answer: inflated, counted, and never waiting longer than the idle timeout.
type body struct {
	in     io.Reader
	wire   *watched
	packed *inflation // nil if in is the wire
	silent *time.Timer
	idle   time.Duration
	bytes  int64
	err    error // the first one that is not the proper end

	content atomic.Int64 // bytes, for the goroutine that reads the wire
}

// newBody reads resp. Silence longer than idle calls cancel, which must break the read. The body must be
// closed, even if it cannot be made use of.
func newBody(resp *http.Response, pool *inflaters, idle time.Duration, cancel context.CancelCauseFunc) (*body, error) {
	b := &body{idle: idle, silent: time.AfterFunc(idle, func() { cancel(errSilent) })}
	b.wire = &watched{b: b, r: resp.Body}
	b.in = b.wire
	var (
		z   inflater
		err error
	)
	switch coding := resp.Header.Get("Content-Encoding"); coding {
	case "", "identity":
		return b, nil
	case "gzip", "x-gzip":
		if z, err = pool.newGzip(b.wire); err != nil {
			err = fmt.Errorf("the answer is not the gzip that it says it is: %w", err)
		}
	case "zstd":
		if z, err = pool.newZstd(b.wire); err != nil {
			err = fmt.Errorf("the answer is not the zstd that it says it is: %w", err)
		}
	default:
		err = errCoding
	}
	if err != nil {
		b.silent.Stop()
		return nil, err
	}
	b.packed = inflate(z)
	b.in = b.packed
	return b, nil
}

// close ends whatever still reads. A read that waits for the network must have been broken before, unless the body
// was read to its end.
func (b *body) close() {
	if b.packed != nil {
		b.packed.close()
	}
	b.silent.Stop()
}

var errCoding = errors.New("the answer has a content coding that was not asked for")

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.in.Read(p)
	b.bytes += int64(n)
	b.content.Store(b.bytes)
	if err != nil && err != io.EOF && b.err == nil { //nolint:errorlint // the proper end of a reader is io.EOF itself (io.Reader); a wrapped one is a failure
		if b.packed != nil && (b.wire.err == nil || b.wire.err == io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) { //nolint:errorlint // the proper end of a reader is io.EOF itself (io.Reader); a wrapped one is a failure
			err = fmt.Errorf("%w: %w", errDamaged, err) // not by the network
		}
		b.err = err
	}
	return n, err
}

// finish reads to the proper end of the answer, which is what tells a whole answer from a cut one: the
// last chunk, the full content length, gzip's checksum. A reader that has decoded the content has
// nothing left but white space.
func (b *body) finish() error {
	_, err := io.CopyN(io.Discard, b, 64<<10)
	if err == nil {
		return errors.New("the answer goes on behind its content")
	}
	if err == io.EOF { //nolint:errorlint // as in Read
		return nil
	}
	return err
}

// watched runs the idle timer while a read waits for the network, and only then: time that the reader
// of the body takes is its own.
type watched struct {
	b      *body
	r      io.Reader
	waited time.Duration
	err    error // that ended it

	seen int64 // content that there was after the last read
	dry  int   // bytes that came since, and brought none
}

func (w *watched) Read(p []byte) (int, error) {
	start := time.Now()
	w.b.silent.Reset(w.b.idle)
	n, err := w.r.Read(p)
	w.b.silent.Stop()
	w.waited += time.Since(start)
	if err == nil {
		err = w.useless(n)
	}
	if err != nil {
		w.err = err
	}
	return n, err
}

// useless says that an answer only pretends to come: as empty members of gzip, say, or a byte a second.
func (w *watched) useless(n int) error {
	content := w.b.content.Load()
	if w.dry += n; content != w.seen {
		w.seen, w.dry = content, n
	}
	switch {
	case w.dry > mostDry:
		return errDry
	case w.waited > crawlTime*w.b.idle && float64(content) < crawlRate*w.waited.Seconds():
		return errCrawls
	}
	return nil
}

// peeked gives back the bytes that were looked at, and then the rest.
type peeked struct {
	head []byte
	r    io.Reader
}

// peek reads the first bytes of r (at most 512) without losing them.
func peek(r io.Reader) *peeked {
	p := &peeked{r: r, head: make([]byte, 0, 512)}
	for len(p.head) == 0 || len(p.head) < 64 && blank(p.head) {
		n, err := r.Read(p.head[len(p.head):cap(p.head)])
		p.head = p.head[:len(p.head)+n]
		if err != nil {
			p.r = io.MultiReader(failing{err})
			break
		}
	}
	return p
}

func blank(text []byte) bool {
	for _, c := range text {
		if c > ' ' {
			return false
		}
	}
	return true
}

func (p *peeked) Read(to []byte) (int, error) {
	if len(p.head) > 0 {
		n := copy(to, p.head)
		p.head = p.head[n:]
		return n, nil
	}
	return p.r.Read(to)
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// describe says in plain words what a network error is. It prints nothing that the other side has sent:
// the errors of net/http quote malformed header lines.
func describe(err error) string {
	var (
		dns   *net.DNSError
		op    *net.OpError
		errno syscall.Errno
		net   net.Error
	)
	switch {
	case errors.Is(err, errSilent), errors.Is(err, errNoHeader), errors.Is(err, errStalled):
		return err.Error()
	case errors.Is(err, errDry):
		return errDry.Error()
	case errors.Is(err, errCrawls):
		return errCrawls.Error()
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return "the answer asks for a larger zstd window than RFC 9659 allows"
	case errors.Is(err, errDamaged):
		return errDamaged.Error()
	case errors.As(err, &dns):
		return "the host name " + dns.Name + " cannot be resolved"
	case errors.As(err, &errno):
		text := errno.Error()
		if errors.As(err, &op) && op.Addr != nil {
			text = op.Op + " " + op.Addr.String() + ": " + text
		}
		return text
	case errors.As(err, &net) && net.Timeout():
		return "the connection timed out"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, ErrTruncated):
		return "the connection was cut in the middle of the answer"
	case errors.As(err, &op):
		return "the connection failed in " + op.Op
	}
	return fmt.Sprintf("the connection failed (%T)", err)
}

// certificateProblem says what is wrong with the server's side of TLS, "" if that is not it. Asking again
// does not help.
func certificateProblem(err error) string {
	var (
		verify *tls.CertificateVerificationError
		record tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &verify):
		return "the server's certificate is not trusted: " + verify.Err.Error()
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return "the server does not speak TLS"
	case strings.Contains(err.Error(), "tls: ") && strings.Contains(err.Error(), "protocol version"):
		return "the server does not speak TLS 1.2 or above" // crypto/tls has no type for it
	}
	return ""
}
