// Package store is the contract between tablexport and the place where datasets live: a local
// directory (filestore), an S3 bucket (s3store), or memory (memstore, for tests). Every driver passes the
// same conformance suite (storetest), real servers included.
//
// The contract is as small as the publishing protocol allows: stream a new object up, create a small
// object only if it is absent (the commit), read, list, delete. Nothing is ever overwritten but by Put.
//
// Keys are slash-separated, relative, clean ("a/b.parquet"), valid UTF-8 and at most 900 bytes; ValidKey has
// the whole rule. A key is never also the directory of another one ("a" and "a/b"): a file system cannot hold both.
package store

import (
	"context"
	"io"
	"iter"
	"time"
)

// Info describes an object.
type Info struct {
	Key      string
	Size     int64
	Modified time.Time // the driver's clock; S3 keeps whole seconds
	ETag     string    // without quotes; "" where the driver has none
}

// Bucket is one place for objects. It is safe for concurrent use. Errors are *Error, those of the readers included.
// After Close every operation fails with Invalid.
type Bucket interface {
	// Create starts a new object. Nothing is visible under key before Upload.Commit returns nil. The writer's memory is
	// bounded by the driver (S3: part size × parts in flight). ctx governs the upload until it is committed or
	// aborted: when it ends, Write and Commit fail with Canceled. What was staged is dropped then, at the latest by Abort.
	Create(ctx context.Context, key string) (Upload, error)

	// PutIfAbsent creates a small object atomically and durably, or fails with AlreadyExists when
	// there is one. An error of another code leaves it open whether the object was created: look.
	PutIfAbsent(ctx context.Context, key string, data []byte) error

	// Put creates or replaces a small object atomically and durably.
	Put(ctx context.Context, key string, data []byte) error

	// Open reads an object from the start. ctx governs the reading too.
	Open(ctx context.Context, key string) (io.ReadCloser, Info, error)

	// OpenRange reads length bytes from offset; length -1 reads to the end. What lies past the end is left out; an
	// offset at the end reads nothing, one beyond it (or negative) is Invalid.
	OpenRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error)

	// Stat describes an object.
	Stat(ctx context.Context, key string) (Info, error)

	// List yields the objects whose key starts with prefix and sorts after startAfter ("" = all), in
	// ascending byte order of the key. An error is yielded once, as the last pair. The sequence can be ranged over again.
	List(ctx context.Context, prefix, startAfter string) iter.Seq2[Info, error]

	// Delete removes an object. Deleting what is not there is no error.
	Delete(ctx context.Context, key string) error

	// Location is the address of a key for people and other tools: file path or s3:// URL.
	Location(key string) string

	// Close releases connections. Uploads under way fail.
	Close() error
}

// Upload is an object being written, by one goroutine. Exactly one of Commit and Abort ends it; Abort after Commit
// does nothing, and every other call after the end fails with Invalid. A failed Write is final: Abort.
type Upload interface {
	io.Writer
	// Commit makes the object visible and durable, and describes it. It fails with AlreadyExists when there is an
	// object of that key. After another error the object may exist all the same (an answer can be lost): it is
	// unreferenced then, and the sweeper's to remove.
	Commit(ctx context.Context) (Info, error)
	// Abort drops what was written, multipart uploads on the server included.
	Abort(ctx context.Context) error
}
