package s3store

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/tablexport/tablexport/export/store"
)

// checkLock looks whether the server has locked an object as it was asked to: one that does not know object lock ignores
// the request without a word.
func (b *Bucket) checkLock(ctx context.Context, op, key, full string) error {
	if b.o.Lock == "" {
		return nil
	}
	head, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.o.Bucket, Key: &full})
	if err != nil {
		return b.wrap(ctx, op, key, err)
	}
	until := aws.ToTime(head.ObjectLockRetainUntilDate)
	if string(head.ObjectLockMode) != b.o.Lock || until.Before(time.Now().Add(b.o.LockFor-time.Hour)) {
		return store.Errorf(store.Refused, op, key, "the server did not lock the object: use a bucket that was made with Object Lock enabled, and an account that may put retention")
	}
	return nil
}
