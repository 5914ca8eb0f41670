package s3store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/semaphore"

	"github.com/tablexport/tablexport/export/store"
)

// partsPerSize is after how many parts the part size doubles.
const partsPerSize = 1000

// partSize is the size of the n-th part (from 1): first, twice that after 1,000 parts, and so on up to 1 GiB.
// With 8 MiB, 64 GiB take 4,000 parts, and the 10,000 that S3 allows hold 3.9 TiB.
func partSize(first int64, n int) int64 {
	return max(first, min(first<<((n-1)/partsPerSize), maxPartSize))
}

// upload is an object being written. As long as it fits in one part nothing is sent. Its end is always the same: its context is
// canceled, for whatever reason, and drop cleans up.
type upload struct {
	b         *Bucket
	key, full string
	ctx       context.Context // ends with the caller's, with the bucket, with the first failure, and with the upload
	cancel    context.CancelCauseFunc
	dropped   chan struct{} // closed when drop has done its work
	dropErr   error         // valid then

	// The writer's own.
	done bool
	buf  []byte // the part being filled
	size int64
	n    int                 // parts begun
	room *semaphore.Weighted // parts in flight, in units of the first part size

	mu        sync.Mutex
	ending    bool // no new request may begin
	requests  sync.WaitGroup
	id        string // of the multipart upload
	err       error  // the first failure of a request
	parts     []types.CompletedPart
	free      [][]byte // buffers to fill again
	committed bool

	completing sync.Mutex // held while the commit is under way: drop must not pull the parts from under it
}

// Create implements store.Bucket. The first request is made when the first part is full.
func (b *Bucket) Create(ctx context.Context, key string) (store.Upload, error) {
	full, err := b.enter(ctx, "create", key)
	if err != nil {
		return nil, err
	}
	if b.o.Lock != "" {
		return nil, store.Errorf(store.Invalid, "create", key, "object lock is for small objects here: put them")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, &store.Error{Code: store.Invalid, Op: "create", Key: key, Err: errClosed}
	}
	b.uploads.Add(1)
	u := &upload{b: b, key: key, full: full, dropped: make(chan struct{}), room: semaphore.NewWeighted(int64(b.o.Concurrency))}
	u.ctx, u.cancel = context.WithCancelCause(ctx)
	stop := context.AfterFunc(b.ctx, func() { u.cancel(errClosed) })
	context.AfterFunc(u.ctx, func() {
		stop()
		u.drop()
	})
	return u, nil
}

// failure is why the upload cannot go on, nil if it can.
func (u *upload) failure(op string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err != nil {
		return u.err
	}
	if u.ctx.Err() == nil {
		return nil
	}
	code, cause := store.Canceled, context.Cause(u.ctx)
	if errors.Is(cause, errClosed) {
		code = store.Invalid
	}
	return &store.Error{Code: code, Op: op, Key: u.key, Err: cause}
}

// fail records the first failure of a request and ends the upload.
func (u *upload) fail(err error) {
	u.mu.Lock()
	if u.err == nil && u.ctx.Err() == nil {
		u.err = err
	}
	u.mu.Unlock()
	u.cancel(err)
}

// spawn runs a request that drop will wait for. It returns false when the upload is ending.
func (u *upload) spawn(request func()) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ending {
		return false
	}
	u.requests.Go(request)
	return true
}

// Write implements io.Writer. It waits while as many parts are in flight as may be.
func (u *upload) Write(p []byte) (int, error) {
	if u.done {
		return 0, &store.Error{Code: store.Invalid, Op: "write", Key: u.key, Err: errEnded}
	}
	written := 0
	for {
		if err := u.failure("write"); err != nil {
			return written, err
		}
		if len(p) == 0 {
			return written, nil
		}
		size := int(partSize(u.b.o.PartSize, u.n+1))
		if len(u.buf) == size {
			if err := u.sendPart("write"); err != nil {
				return written, err
			}
			continue
		}
		n := min(len(p), size-len(u.buf))
		u.grow(len(u.buf)+n, size)
		u.buf = append(u.buf, p[:n]...)
		p = p[n:]
		written += n
		u.size += int64(n)
	}
}

// grow makes room for n bytes of a part: as much as is needed in the first part, which is often a small object, and a
// whole part at once in the later ones.
func (u *upload) grow(n, size int) {
	if cap(u.buf) >= n {
		return
	}
	if u.n == 0 {
		size = min(size, max(n, 2*cap(u.buf), 64<<10))
	}
	u.buf = append(make([]byte, 0, size), u.buf...)
}

// sendPart sends the part that has been filled and makes room for the next.
func (u *upload) sendPart(op string) error {
	if err := u.begin(op); err != nil {
		return err
	}
	if u.n == maxParts {
		err := store.Errorf(store.Full, op, u.key, "the object is larger than %d parts of S3 can hold (%d bytes so far): set a larger part size", maxParts, u.size)
		u.fail(err)
		return err
	}
	u.n++
	body, number := u.buf, u.n
	u.buf = nil
	// Memory stays the same when parts grow: fewer are in flight.
	weight := min(partSize(u.b.o.PartSize, number)/u.b.o.PartSize, int64(u.b.o.Concurrency))
	if err := u.room.Acquire(u.ctx, weight); err != nil {
		return u.failure(op)
	}
	sent := u.spawn(func() {
		defer u.room.Release(weight)
		u.putPart(op, number, body)
	})
	if !sent {
		return u.failure(op)
	}
	next := int(partSize(u.b.o.PartSize, number+1))
	u.mu.Lock()
	defer u.mu.Unlock()
	for len(u.free) > 0 && u.buf == nil {
		last := len(u.free) - 1
		if buf := u.free[last]; cap(buf) >= next {
			u.buf = buf[:0]
		}
		u.free[last] = nil
		u.free = u.free[:last]
	}
	return nil
}

// begin begins the multipart upload, once. The request outlives the upload's context: canceled half way it could leave an upload on
// the server whose id nobody knows.
func (u *upload) begin(op string) error {
	u.mu.Lock()
	begun := u.id != ""
	u.mu.Unlock()
	if begun {
		return nil
	}
	answered := make(chan struct{})
	spawned := u.spawn(func() {
		defer close(answered)
		ctx, cancel := context.WithCancel(context.WithoutCancel(u.ctx))
		defer cancel()
		stop := context.AfterFunc(u.ctx, func() { time.AfterFunc(cleanup, cancel) })
		defer stop()
		id, err := u.b.beginMultipart(ctx, op, u.key, u.full)
		u.mu.Lock()
		u.id = id
		u.mu.Unlock()
		if err != nil {
			u.fail(err)
		}
	})
	if !spawned {
		return u.failure(op)
	}
	select {
	case <-answered:
	case <-u.ctx.Done():
	}
	return u.failure(op)
}

// putPart sends one part; the SDK repeats what may be repeated.
func (u *upload) putPart(op string, number int, body []byte) {
	out, err := u.b.client.UploadPart(u.ctx, &s3.UploadPartInput{
		Bucket:            &u.b.o.Bucket,
		Key:               &u.full,
		UploadId:          &u.id,
		PartNumber:        aws.Int32(int32(number)), // #nosec G115 -- at most maxParts
		Body:              bytes.NewReader(body),
		ContentLength:     aws.Int64(int64(len(body))),
		ChecksumAlgorithm: u.b.checksum,
	})
	if err != nil {
		u.fail(u.b.wrap(u.ctx, op, u.key, err))
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.parts = append(u.parts, types.CompletedPart{
		PartNumber: aws.Int32(int32(number)), ETag: out.ETag, ChecksumCRC32: out.ChecksumCRC32, // #nosec G115
	})
	u.free = append(u.free, body)
}

// Commit implements store.Upload.
func (u *upload) Commit(ctx context.Context) (store.Info, error) {
	if u.done {
		return store.Info{}, &store.Error{Code: store.Invalid, Op: "commit", Key: u.key, Err: errEnded}
	}
	u.done = true
	stop := context.AfterFunc(ctx, func() { u.cancel(context.Cause(ctx)) })
	defer stop()
	if ctx.Err() != nil {
		u.cancel(context.Cause(ctx)) // now, and not when the AfterFunc gets to it
	}
	info, err := u.commit()
	u.buf = nil
	u.cancel(errEnded)
	<-u.dropped
	return info, err
}

func (u *upload) commit() (store.Info, error) {
	u.completing.Lock()
	defer u.completing.Unlock()
	if err := u.failure("commit"); err != nil {
		return store.Info{}, err
	}
	var (
		info store.Info
		err  error
	)
	if u.n == 0 {
		info, err = u.b.createObject(u.ctx, "commit", u.key, u.full, u.buf)
	} else {
		info, err = u.complete()
	}
	if err != nil {
		return store.Info{}, err
	}
	u.mu.Lock()
	u.committed = true
	u.mu.Unlock()
	return info, nil
}

// complete sends the last part and makes the parts one object.
func (u *upload) complete() (store.Info, error) {
	if err := u.sendPart("commit"); err != nil {
		return store.Info{}, err
	}
	u.requests.Wait()
	if err := u.failure("commit"); err != nil {
		return store.Info{}, err
	}
	slices.SortFunc(u.parts, func(a, b types.CompletedPart) int { return cmp.Compare(*a.PartNumber, *b.PartNumber) })
	var out *s3.CompleteMultipartUploadOutput
	err := u.b.conditionally(u.ctx, "commit", u.key, func(once func(*s3.Options)) (err error) {
		out, err = u.b.client.CompleteMultipartUpload(u.ctx, &s3.CompleteMultipartUploadInput{
			Bucket:          &u.b.o.Bucket,
			Key:             &u.full,
			UploadId:        &u.id,
			MultipartUpload: &types.CompletedMultipartUpload{Parts: u.parts},
			IfNoneMatch:     aws.String("*"),
		}, once)
		return err
	})
	if err != nil {
		return store.Info{}, err
	}
	return store.Info{Key: u.key, Size: u.size, Modified: serverTime(out.ResultMetadata), ETag: etag(out.ETag)}, nil
}

// Abort implements store.Upload. It returns when the server has dropped the parts, or after 30 s.
func (u *upload) Abort(context.Context) error {
	u.done, u.buf = true, nil
	u.cancel(errEnded)
	<-u.dropped
	return u.dropErr
}

// drop runs once, when the upload's context has ended. It waits for the requests that are under way, which the context
// ends too, and drops the multipart upload unless it has become an object. If it cannot, SweepUploads will.
func (u *upload) drop() {
	defer u.b.uploads.Done()
	defer close(u.dropped)
	u.mu.Lock()
	u.ending = true
	u.mu.Unlock()
	u.requests.Wait()
	u.completing.Lock()
	defer u.completing.Unlock()

	u.mu.Lock()
	u.free = nil
	id, committed := u.id, u.committed
	u.mu.Unlock()
	if id == "" || committed {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.ctx), cleanup)
	defer cancel()
	if err := u.b.abortMultipart(ctx, u.full, id); err != nil {
		u.dropErr = u.b.wrap(ctx, "abort", u.key, err)
	}
}

// abortMultipart drops a multipart upload. A part whose request was canceled may still arrive at the server afterwards, so it goes
// on until the server does not know the upload any more, three times at most
// (https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html).
func (b *Bucket) abortMultipart(ctx context.Context, full, id string) error {
	for range 3 {
		_, err := b.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &b.o.Bucket, Key: &full, UploadId: &id})
		if apiCode(err) == "NoSuchUpload" || status(err) == 404 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// SweepUploads implements store.Sweeper: it drops the multipart uploads of keys under prefix that were begun longer than olderThan
// ago by the server's clock. S3 does not tell their size.
func (b *Bucket) SweepUploads(ctx context.Context, prefix string, olderThan time.Duration) (store.Swept, error) {
	var swept store.Swept
	if err := store.CheckPrefix("sweep", prefix); err != nil {
		return swept, err
	}
	if err := b.usable(ctx, "sweep", prefix); err != nil {
		return swept, err
	}
	limit := time.Now().Add(-olderThan)
	pages := s3.NewListMultipartUploadsPaginator(b.client, &s3.ListMultipartUploadsInput{Bucket: &b.o.Bucket, Prefix: aws.String(b.prefix + prefix)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return swept, b.wrap(ctx, "sweep", prefix, err)
		}
		for _, m := range page.Uploads {
			if m.Initiated == nil || !m.Initiated.Before(limit) {
				continue
			}
			if err := b.abortMultipart(ctx, aws.ToString(m.Key), aws.ToString(m.UploadId)); err != nil {
				return swept, b.wrap(ctx, "sweep", aws.ToString(m.Key), err)
			}
			swept.Uploads++
		}
	}
	return swept, nil
}
