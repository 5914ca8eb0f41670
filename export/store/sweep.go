package store

import (
	"context"
	"time"
)

// Swept is what a sweep of unfinished uploads removed.
type Swept struct {
	Uploads int   // temporary files, or multipart uploads on a server
	Bytes   int64 // their size where the driver knows it (S3 does not say)
}

// Sweeper is a Bucket in which a crash can leave unfinished uploads behind: temporary files, multipart uploads.
type Sweeper interface {
	// SweepUploads drops the unfinished uploads of keys under prefix that have not been touched for olderThan. An upload
	// that is under way and slower than that would be robbed: give it a day.
	SweepUploads(ctx context.Context, prefix string, olderThan time.Duration) (Swept, error)
}

// SweepUploads sweeps b if it is a Sweeper, also through Prefixed, and does nothing otherwise.
func SweepUploads(ctx context.Context, b Bucket, prefix string, olderThan time.Duration) (Swept, error) {
	if s, ok := b.(Sweeper); ok {
		return s.SweepUploads(ctx, prefix, olderThan)
	}
	return Swept{}, nil
}
