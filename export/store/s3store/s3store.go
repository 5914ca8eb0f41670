// Package s3store keeps objects in a bucket of Amazon S3 or of a server that speaks its protocol.
//
// Uploads are streamed in parts with bounded memory; an object that fits in one part is a single PutObject. Every commit
// carries If-None-Match: * (https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html): 412 means that
// someone was first, 409 that the attempt is to be repeated. Any other failure of a conditional write may have persisted. It is
// repeated, but once an answer has been lost, a later 412 is no longer proof that someone else was first, and the caller
// gets Unavailable: it must look.
//
// What a crash leaves: before a commit, parts of a multipart upload, which no listing shows and SweepUploads removes (a
// lifecycle rule AbortIncompleteMultipartUpload on the bucket does too); after it, the object.
//
// The multipart upload is driven directly, not through the SDK's transfer manager: that cannot refuse a server which ignores
// encryption before the data has been sent, does not grow the parts of a stream of unknown length, and tells a lost answer to
// the commit from no other error.
package s3store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"

	"github.com/tablexport/tablexport/export/store"
)

var (
	errClosed = errors.New("the bucket is closed")
	errEnded  = errors.New("the upload has been committed or aborted")
)

// cleanup is how long the server has to drop an upload that failed, on a context of its own.
const cleanup = 30 * time.Second

// Bucket is a store.Bucket and a store.Sweeper over an S3 bucket.
type Bucket struct {
	o        Options // with its defaults filled in
	client   *s3.Client
	hangUp   func()                  // closes all connections
	prefix   string                  // "" or with its slash
	checksum types.ChecksumAlgorithm // "" = none beyond the signature's

	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc

	mu        sync.Mutex
	closed    bool
	uploads   sync.WaitGroup // those that have not ended
	encrypted bool           // the server has shown that it applies the encryption asked for
	exists    bool           // the bucket has been seen, so a 404 speaks of a key
}

// enter is what every operation begins with. It returns the key on the server.
func (b *Bucket) enter(ctx context.Context, op, key string) (string, error) {
	if err := store.CheckKey(op, key); err != nil {
		return "", err
	}
	if n := len(b.prefix) + len(key); n > maxServerKey {
		return "", store.Errorf(store.Invalid, op, key, "with the store's prefix the key has %d bytes, S3 allows %d: use a shorter path", n, maxServerKey)
	}
	return b.prefix + key, b.usable(ctx, op, key)
}

func (b *Bucket) usable(ctx context.Context, op, key string) error {
	if ctx.Err() != nil {
		return &store.Error{Code: store.Canceled, Op: op, Key: key, Err: context.Cause(ctx)}
	}
	if b.ctx.Err() != nil {
		return &store.Error{Code: store.Invalid, Op: op, Key: key, Err: errClosed}
	}
	return nil
}

// PutIfAbsent implements store.Bucket.
func (b *Bucket) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	const op = "put-if-absent"
	full, err := b.enter(ctx, op, key)
	if err != nil {
		return err
	}
	if _, err = b.createObject(ctx, op, key, full, data); err != nil {
		return err
	}
	return b.checkLock(ctx, op, key, full)
}

// createObject creates an object with one conditional PutObject.
func (b *Bucket) createObject(ctx context.Context, op, key, full string, data []byte) (store.Info, error) {
	if err := b.ensureEncryption(ctx, op, key, full); err != nil {
		return store.Info{}, err
	}
	var out *s3.PutObjectOutput
	err := b.conditionally(ctx, op, key, func(once func(*s3.Options)) (err error) {
		in := b.putInput(full, data)
		in.IfNoneMatch = aws.String("*")
		out, err = b.client.PutObject(ctx, in, once)
		return err
	})
	if err != nil {
		return store.Info{}, err
	}
	info := store.Info{Key: key, Size: int64(len(data)), Modified: serverTime(out.ResultMetadata), ETag: etag(out.ETag)}
	return info, b.checkEncryption(op, key, out.ServerSideEncryption, out.SSEKMSKeyId)
}

// Put implements store.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, data []byte) error {
	full, err := b.enter(ctx, "put", key)
	if err != nil {
		return err
	}
	if err := b.ensureEncryption(ctx, "put", key, full); err != nil {
		return err
	}
	out, err := b.client.PutObject(ctx, b.putInput(full, data))
	if err != nil {
		return b.wrap(ctx, "put", key, err)
	}
	if err := b.checkEncryption("put", key, out.ServerSideEncryption, out.SSEKMSKeyId); err != nil {
		return err
	}
	return b.checkLock(ctx, "put", key, full)
}

func (b *Bucket) putInput(full string, data []byte) *s3.PutObjectInput {
	in := &s3.PutObjectInput{
		Bucket:               &b.o.Bucket,
		Key:                  &full,
		Body:                 bytes.NewReader(data),
		ContentLength:        aws.Int64(int64(len(data))),
		ChecksumAlgorithm:    b.checksum,
		ServerSideEncryption: types.ServerSideEncryption(b.o.SSE),
		StorageClass:         types.StorageClass(b.o.StorageClass),
	}
	if b.o.KMSKeyID != "" {
		in.SSEKMSKeyId = &b.o.KMSKeyID
	}
	if b.o.Lock != "" {
		in.ObjectLockMode = types.ObjectLockMode(b.o.Lock)
		in.ObjectLockRetainUntilDate = aws.Time(time.Now().Add(b.o.LockFor))
		in.ChecksumAlgorithm = types.ChecksumAlgorithmCrc32 // S3 demands one with a lock
	}
	return in
}

// Open implements store.Bucket.
func (b *Bucket) Open(ctx context.Context, key string) (io.ReadCloser, store.Info, error) {
	full, err := b.enter(ctx, "open", key)
	if err != nil {
		return nil, store.Info{}, err
	}
	out, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.o.Bucket, Key: &full})
	if err != nil {
		return nil, store.Info{}, b.wrap(ctx, "open", key, err)
	}
	info := store.Info{Key: key, Size: aws.ToInt64(out.ContentLength), Modified: aws.ToTime(out.LastModified), ETag: etag(out.ETag)}
	return &reader{ctx: ctx, b: b, key: key, body: out.Body}, info, nil
}

// OpenRange implements store.Bucket. HTTP has no empty range and answers one at the end with an error, so that these two
// cost a second request.
func (b *Bucket) OpenRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	const op = "open-range"
	full, err := b.enter(ctx, op, key)
	if err != nil {
		return nil, err
	}
	if offset < 0 || length < -1 {
		return nil, store.Errorf(store.Invalid, op, key, "offset %d, length %d is no range", offset, length)
	}
	if length == 0 {
		return b.emptyRange(ctx, key, full, offset)
	}
	span := fmt.Sprintf("bytes=%d-", offset)
	if length > 0 && length <= math.MaxInt64-offset {
		span += fmt.Sprint(offset + length - 1)
	}
	out, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.o.Bucket, Key: &full, Range: &span})
	if status(err) == http.StatusRequestedRangeNotSatisfiable {
		return b.emptyRange(ctx, key, full, offset)
	}
	if err != nil {
		return nil, b.wrap(ctx, op, key, err)
	}
	if !strings.HasPrefix(aws.ToString(out.ContentRange), fmt.Sprintf("bytes %d-", offset)) {
		_ = out.Body.Close()
		return nil, store.Errorf(store.Refused, op, key, "the server answers a request for a range with something else (Content-Range %q)", aws.ToString(out.ContentRange))
	}
	return &reader{ctx: ctx, b: b, key: key, body: out.Body}, nil
}

func (b *Bucket) emptyRange(ctx context.Context, key, full string, offset int64) (io.ReadCloser, error) {
	info, err := b.head(ctx, "open-range", key, full)
	if err != nil {
		return nil, err
	}
	if offset > info.Size {
		return nil, store.Errorf(store.Invalid, "open-range", key, "offset %d is beyond the end of an object of %d bytes", offset, info.Size)
	}
	return &reader{ctx: ctx, b: b, key: key, body: http.NoBody}, nil
}

// Stat implements store.Bucket.
func (b *Bucket) Stat(ctx context.Context, key string) (store.Info, error) {
	full, err := b.enter(ctx, "stat", key)
	if err != nil {
		return store.Info{}, err
	}
	return b.head(ctx, "stat", key, full)
}

func (b *Bucket) head(ctx context.Context, op, key, full string) (store.Info, error) {
	out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.o.Bucket, Key: &full})
	if err == nil {
		b.seen()
		return store.Info{Key: key, Size: aws.ToInt64(out.ContentLength), Modified: aws.ToTime(out.LastModified), ETag: etag(out.ETag)}, nil
	}
	if status(err) == http.StatusNotFound {
		if err := b.ensureExists(ctx, op, key); err != nil {
			return store.Info{}, err
		}
		return store.Info{}, &store.Error{Code: store.NotFound, Op: op, Key: key, Err: err}
	}
	return store.Info{}, b.wrap(ctx, op, key, err)
}

func (b *Bucket) seen() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.exists = true
}

// ensureExists makes sure, once, that a 404 speaks of a key: the answer to HEAD has no body that would tell it from a missing
// bucket or from what else a server says 404 to. Whoever may not list is believed that the bucket is there.
func (b *Bucket) ensureExists(ctx context.Context, op, key string) error {
	b.mu.Lock()
	known := b.exists
	b.mu.Unlock()
	if known {
		return nil
	}
	_, err := b.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &b.o.Bucket, Prefix: &b.prefix, MaxKeys: aws.Int32(1)})
	if err != nil && status(err) != http.StatusForbidden {
		return b.wrap(ctx, op, key, err)
	}
	b.seen()
	return nil
}

// List implements store.Bucket. It asks for 1,000 keys at a time. A server that does not list in byte order (S3 directory
// buckets are such) is refused: a reader of a log would take a gap for its end.
func (b *Bucket) List(ctx context.Context, prefix, startAfter string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		if err := b.list(ctx, prefix, startAfter, func(i store.Info) bool { return yield(i, nil) }); err != nil {
			yield(store.Info{}, err)
		}
	}
}

func (b *Bucket) list(ctx context.Context, prefix, startAfter string, visit func(store.Info) bool) error {
	if err := store.CheckPrefix("list", prefix); err != nil {
		return err
	}
	in := &s3.ListObjectsV2Input{Bucket: &b.o.Bucket, Prefix: aws.String(b.prefix + prefix)}
	if startAfter != "" {
		in.StartAfter = aws.String(b.prefix + startAfter)
	}
	last := ""
	for {
		if err := b.usable(ctx, "list", prefix); err != nil {
			return err
		}
		out, err := b.client.ListObjectsV2(ctx, in)
		if err != nil {
			return b.wrap(ctx, "list", prefix, err)
		}
		b.seen()
		for _, o := range out.Contents {
			key, ours := strings.CutPrefix(aws.ToString(o.Key), b.prefix)
			if !ours || !strings.HasPrefix(key, prefix) || key <= startAfter || store.ValidKey(key) != nil {
				continue // "folders" of consoles, and servers that ignore start-after
			}
			if key <= last {
				return store.Errorf(store.Refused, "list", prefix, "the server lists %q after %q: it does not list in byte order, so it cannot keep a table's log", key, last)
			}
			last = key
			if ctx.Err() != nil {
				return b.usable(ctx, "list", prefix)
			}
			if !visit(store.Info{Key: key, Size: aws.ToInt64(o.Size), Modified: aws.ToTime(o.LastModified), ETag: etag(o.ETag)}) {
				return nil
			}
		}
		if !aws.ToBool(out.IsTruncated) {
			return nil
		}
		next := aws.ToString(out.NextContinuationToken)
		if next == "" || next == aws.ToString(in.ContinuationToken) {
			return store.Errorf(store.Refused, "list", prefix, "the server says that there are more keys, but not how to go on")
		}
		in.ContinuationToken = &next
	}
}

// Delete implements store.Bucket.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	full, err := b.enter(ctx, "delete", key)
	if err != nil {
		return err
	}
	_, err = b.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.o.Bucket, Key: &full})
	err = b.wrap(ctx, "delete", key, err)
	if store.CodeOf(err) == store.NotFound {
		return nil
	}
	return err
}

// Location implements store.Bucket: s3://bucket/prefix/key.
func (b *Bucket) Location(key string) string { return "s3://" + b.o.Bucket + "/" + b.prefix + key }

// Close implements store.Bucket. It waits until the uploads that were under way have been dropped on the server, 30 s at most.
func (b *Bucket) Close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.cancel(errClosed)
	dropped := make(chan struct{})
	go func() {
		b.uploads.Wait()
		close(dropped)
	}()
	select {
	case <-dropped:
	case <-time.After(cleanup):
	}
	b.hangUp()
	return nil
}

type reader struct {
	ctx  context.Context
	b    *Bucket
	key  string
	body io.ReadCloser
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = r.b.wrap(r.ctx, "read", r.key, err)
	}
	return n, err
}

func (r *reader) Close() error {
	// The data has been read or is not wanted: what closing the connection says does not matter.
	_ = r.body.Close()
	return nil
}

// etag is an entity tag without its quotes.
func etag(s *string) string { return strings.Trim(aws.ToString(s), `"`) }

// serverTime is when the server answered: the best that is known about Modified without another request. S3 itself dates
// a multipart object at the beginning of its upload.
func serverTime(m middleware.Metadata) time.Time {
	if t, ok := awsmiddleware.GetServerTime(m); ok {
		return t
	}
	return time.Now().Truncate(time.Second)
}
