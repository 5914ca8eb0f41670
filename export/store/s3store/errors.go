package s3store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"github.com/tablexport/tablexport/export/store"
)

// Bounds of every retry, the SDK's and ours.
const (
	maxAttempts = 5
	maxBackoff  = 8 * time.Second
)

// codes are the error codes of S3 and of servers like it whose meaning the HTTP status does not tell, with what to do about them
// (https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html).
var codes = map[string]struct {
	code store.Code
	hint string
}{
	"NoSuchKey":                      {store.NotFound, ""},
	"XAdminUserNotFound":             {store.Permission, "the access key is not known to the server: check the credentials"},
	"NoSuchUpload":                   {store.Unavailable, "the upload is not known to the server any more"},
	"InvalidAccessKeyId":             {store.Permission, "the access key is not known to the server: check the credentials"},
	"SignatureDoesNotMatch":          {store.Permission, "the secret key does not belong to the access key: check the credentials"},
	"ExpiredToken":                   {store.Permission, "the session token has expired: renew the credentials"},
	"ExpiredTokenException":          {store.Permission, "the session token has expired: renew the credentials"},
	"InvalidToken":                   {store.Permission, "the session token is not valid: renew the credentials"},
	"TokenRefreshRequired":           {store.Permission, "the session token must be renewed"},
	"RequestTimeTooSkewed":           {store.Permission, "this machine's clock differs from the server's: set it"},
	"RequestTimeout":                 {store.Unavailable, ""},
	"SlowDown":                       {store.Unavailable, "the server asks to slow down"},
	"OperationAborted":               {store.Unavailable, "another write of this key was under way"},
	"ConditionalRequestConflict":     {store.Unavailable, "another write of this key was under way"},
	"PermanentRedirect":              {store.Invalid, "the bucket is in another region: correct region or endpoint"},
	"AuthorizationHeaderMalformed":   {store.Invalid, "the bucket is in another region: correct region"},
	"IllegalLocationConstraint":      {store.Invalid, "the bucket is in another region: correct region"},
	"InvalidBucketName":              {store.Invalid, "the server does not accept the bucket's name"},
	"KeyTooLongError":                {store.Invalid, "the key is too long: use a shorter prefix or path"},
	"QuotaExceeded":                  {store.Full, ""},
	"XMinioAdminBucketQuotaExceeded": {store.Full, ""},
	"XMinioStorageFull":              {store.Full, ""},
	"InsufficientCapacity":           {store.Full, ""},
	"NotImplemented":                 {store.Refused, "the server does not support what was asked (encryption, conditional writes or a checksum)"},
}

// wrap makes a *store.Error of an error of the SDK.
func (b *Bucket) wrap(ctx context.Context, op, key string, err error) error {
	if err == nil {
		return nil
	}
	if already := (*store.Error)(nil); errors.As(err, &already) {
		return err
	}
	if ctx.Err() != nil {
		if errors.Is(context.Cause(ctx), errClosed) {
			return &store.Error{Code: store.Invalid, Op: op, Key: key, Err: errClosed}
		}
		return &store.Error{Code: store.Canceled, Op: op, Key: key, Err: context.Cause(ctx)}
	}
	if apiCode(err) == "NoSuchBucket" {
		return b.noSuchBucket(op, key, err)
	}
	code, hint := classify(err)
	if hint != "" {
		err = fmt.Errorf("%s: %w", hint, err)
	}
	return &store.Error{Code: code, Op: op, Key: key, Err: err}
}

func (b *Bucket) noSuchBucket(op, key string, err error) error {
	at := "Amazon S3"
	if b.o.Endpoint != "" {
		at = b.o.Endpoint
	}
	return store.Errorf(store.Invalid, op, key, "there is no bucket %s at %s: create it or correct bucket: %w", b.o.Bucket, at, err)
}

// classify finds the code of an error of the SDK, and what to do about it.
func classify(err error) (store.Code, string) {
	var (
		creds *credentialsError
		clear *clearTextError
		cert  *tls.CertificateVerificationError
	)
	switch {
	case errors.As(err, &creds):
		return store.Permission, "no credentials: set them in the environment, a profile or the machine's role"
	case errors.As(err, &clear):
		return store.Invalid, ""
	case errors.As(err, &cert):
		return store.Invalid, "the server's certificate is not trusted: set ca_file to the authority that issued it"
	}
	name := apiCode(err)
	if known, ok := codes[name]; ok {
		return known.code, known.hint
	}
	if strings.HasPrefix(name, "KMS.") {
		return store.Refused, "the KMS key cannot be used: check kms_key_id and the key's policy"
	}
	if status(err) == http.StatusMovedPermanently {
		return store.Invalid, codes["PermanentRedirect"].hint
	}
	return statusCode(status(err)), ""
}

// statusCode is the meaning of an HTTP status; 0, no answer at all, may pass.
func statusCode(status int) store.Code {
	switch {
	case status == 0, status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status == http.StatusConflict:
		return store.Unavailable
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return store.Permission
	case status == http.StatusPreconditionFailed:
		return store.AlreadyExists
	case status == http.StatusNotImplemented:
		return store.Refused
	case status == http.StatusInsufficientStorage:
		return store.Full
	case status >= 500, status < 300: // an answer that could not be read counts as none
		return store.Unavailable
	}
	// A redirect, a request that is not understood. A 404 that does not say NoSuchKey belongs here: servers and
	// proxies say 404 for other reasons, and a table that is taken for absent would be begun anew.
	return store.Invalid
}

func apiCode(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// status is the HTTP status of the answer that err is about, 0 if there was none.
func status(err error) int {
	var response *awshttp.ResponseError
	if errors.As(err, &response) && response.Response != nil && response.Response.Response != nil {
		return response.HTTPStatusCode()
	}
	return 0
}

// neverPasses keeps the SDK from repeating what no repetition mends. It takes every failure to send for a passing one.
func neverPasses(err error) aws.Ternary {
	var (
		clear *clearTextError
		cert  *tls.CertificateVerificationError
		creds *credentialsError
	)
	if errors.As(err, &clear) || errors.As(err, &cert) || errors.As(err, &creds) {
		return aws.FalseTernary
	}
	return aws.UnknownTernary
}

// conditionally makes a request that creates an object only if it is absent, with retries of our own: the SDK's would report the
// 412 that follows a lost answer as if someone else had been first.
//
// As long as every failed attempt is known to have done nothing (409, a demand to slow down, no connection), a
// 412 means AlreadyExists. After one of which nobody knows, it means that there is an object, perhaps ours: Unavailable.
func (b *Bucket) conditionally(ctx context.Context, op, key string, request func(once func(*s3.Options)) error) error {
	once := func(o *s3.Options) { o.Retryer = aws.NopRetryer{} }
	var lost error // the first failure that may have persisted
	for attempt := 1; ; attempt++ {
		err := request(once)
		if err == nil {
			return nil
		}
		gone := apiCode(err) == "NoSuchUpload"
		if lost != nil && (status(err) == http.StatusPreconditionFailed || gone) {
			return store.Errorf(store.Unavailable, op, key, "an answer was lost, and now there is an object of this key or the upload has ended: it may be ours, look: %w", lost)
		}
		wrapped := b.wrap(ctx, op, key, err)
		if store.CodeOf(wrapped) != store.Unavailable || gone || attempt == maxAttempts {
			return wrapped
		}
		if lost == nil && !harmless(err) {
			lost = err
		}
		if !sleep(ctx, b.o.delay(attempt)) {
			return b.wrap(ctx, op, key, ctx.Err())
		}
	}
}

// harmless says whether a request that failed with err has certainly changed nothing.
func harmless(err error) bool {
	var dial *net.OpError
	switch {
	case errors.As(err, &dial) && dial.Op == "dial":
		return true
	case status(err) == http.StatusConflict, status(err) == http.StatusTooManyRequests:
		return true
	}
	return apiCode(err) == "SlowDown"
}

// sleep returns false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
