package s3store

import (
	"context"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/tablexport/tablexport/export/store"
)

// ensureEncryption makes sure, once, that the server applies the encryption asked for, before any data is sent to it: it
// begins a multipart upload, whose answer tells, and drops it. Several servers take the headers and ignore them.
func (b *Bucket) ensureEncryption(ctx context.Context, op, key, full string) error {
	if b.o.SSE == "" {
		return nil
	}
	b.mu.Lock()
	known := b.encrypted
	b.mu.Unlock()
	if known {
		return nil
	}
	id, err := b.beginMultipart(ctx, op, key, full)
	if id != "" {
		fresh, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanup)
		defer cancel()
		_ = b.abortMultipart(fresh, full, id) // empty; if it stays, SweepUploads removes it
	}
	return err
}

// beginMultipart begins a multipart upload. With an error of code Refused comes the id, for the caller to drop.
func (b *Bucket) beginMultipart(ctx context.Context, op, key, full string) (id string, err error) {
	in := &s3.CreateMultipartUploadInput{
		Bucket:               &b.o.Bucket,
		Key:                  &full,
		ChecksumAlgorithm:    b.checksum,
		ServerSideEncryption: types.ServerSideEncryption(b.o.SSE),
		StorageClass:         types.StorageClass(b.o.StorageClass),
	}
	if b.o.KMSKeyID != "" {
		in.SSEKMSKeyId = &b.o.KMSKeyID
	}
	out, err := b.client.CreateMultipartUpload(ctx, in)
	if err != nil {
		return "", b.wrap(ctx, op, key, err)
	}
	id = aws.ToString(out.UploadId)
	if id == "" {
		return "", store.Errorf(store.Refused, op, key, "the server began a multipart upload without an id")
	}
	if err := b.checkEncryption(op, key, out.ServerSideEncryption, out.SSEKMSKeyId); err != nil {
		return id, err
	}
	b.mu.Lock()
	b.encrypted = true
	b.mu.Unlock()
	return id, nil
}

// checkEncryption compares the encryption that the server confirms with the one asked for.
func (b *Bucket) checkEncryption(op, key string, sse types.ServerSideEncryption, kms *string) error {
	if b.o.SSE == "" {
		return nil
	}
	if string(sse) != b.o.SSE {
		confirmed := string(sse)
		if confirmed == "" {
			confirmed = "none"
		}
		return store.Errorf(store.Refused, op, key, "the encryption %s was asked for, but the server confirms %s: "+
			"use a server that encrypts, or remove sse from the store to accept this one", b.o.SSE, confirmed)
	}
	if used := aws.ToString(kms); !sameKey(b.o.KMSKeyID, used) {
		return store.Errorf(store.Refused, op, key, "the KMS key %s was asked for, but the server confirms %q: check kms_key_id", b.o.KMSKeyID, used)
	}
	return nil
}

// sameKey compares the KMS key asked for with the one confirmed, which is an ARN. An alias cannot be compared.
func sameKey(asked, confirmed string) bool {
	switch {
	case asked == "", strings.HasPrefix(asked, "alias/"), strings.Contains(asked, ":alias/"):
		return true
	case strings.HasPrefix(asked, "arn:"):
		return asked == confirmed
	default:
		return confirmed == asked || strings.HasSuffix(confirmed, "/"+asked)
	}
}
