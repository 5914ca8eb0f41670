package s3store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/logging"

	"github.com/tablexport/tablexport/export/store"
)

// Limits of S3 (https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html).
const (
	maxServerKey = 1024
	maxParts     = 10_000
	minPartSize  = 5 << 20
	maxPartSize  = 1 << 30 // S3 allows 5 GiB; more than this would not be bounded memory
)

// Defaults of Options.
const (
	DefaultPartSize    = 8 << 20
	DefaultConcurrency = 3
	DefaultStall       = 2 * time.Minute
)

// Options say which bucket, how to reach it and how to store in it.
type Options struct {
	Bucket string // its name, or the ARN of an access point
	Prefix string // directory inside the bucket, "" = all of it
	Region string // "" = from the environment or profile; with an Endpoint, "us-east-1" if these are silent

	// Endpoint is the URL of a server that is not Amazon's: https, or http for loopback addresses. "" = Amazon S3.
	Endpoint  string
	PathStyle bool   // bucket in the path instead of the host name: what most other servers need
	CAFile    string // PEM file of certificate authorities that are trusted beside the system's

	SSE          string // server-side encryption: "" (the bucket's default), "AES256" or "aws:kms"; a server that does not confirm it is refused
	KMSKeyID     string // key id, ARN or alias for "aws:kms"; "" = Amazon's key for S3
	StorageClass string // "" = STANDARD

	// Lock puts every object that Put and PutIfAbsent make under S3 Object Lock: nobody deletes or replaces that version of it before
	// LockFor has passed. "" (not locked), "GOVERNANCE" or "COMPLIANCE". The bucket must have Object Lock enabled. Create refuses.
	Lock    string
	LockFor time.Duration

	// PartSize is the size of an upload's parts in bytes, 5 MiB to 1 GiB, 0 = 8 MiB. It doubles after every 1,000 parts up to
	// 1 GiB, so that 3.9 TiB fit in the 10,000 parts that S3 allows. An upload holds PartSize × (Concurrency + 1) bytes, more only when a
	// part has grown beyond that.
	PartSize    int64
	Concurrency int // parts in flight per upload, 0 = 3

	// Checksums is "supported" (CRC32 on all data) or "required" (only where the operation demands one; the request's
	// signature still covers the data). "" = "supported" on Amazon S3, "required" with an Endpoint, since older servers refuse
	// requests with trailing checksums.
	Checksums string

	Stall time.Duration // how long a connection may be silent, 0 = 2 minutes

	backoff time.Duration // before the second attempt at most, doubling after that; tests shorten it

	Credentials aws.CredentialsProvider // nil = the SDK's standard chain (environment, profile, SSO, container, instance)
}

var bucketName = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]|arn:[A-Za-z0-9:/._-]{1,300})$`)

// withDefaults checks o and fills in what was left out.
func (o Options) withDefaults() (Options, error) {
	o.Prefix = strings.TrimSuffix(o.Prefix, "/")
	if o.PartSize == 0 {
		o.PartSize = DefaultPartSize
	}
	if o.Concurrency == 0 {
		o.Concurrency = DefaultConcurrency
	}
	if o.Stall == 0 {
		o.Stall = DefaultStall
	}
	if o.backoff == 0 {
		o.backoff = time.Second
	}
	if o.Checksums == "" {
		o.Checksums = "supported"
		if o.Endpoint != "" {
			o.Checksums = "required"
		}
	}
	switch {
	case !bucketName.MatchString(o.Bucket):
		return o, fmt.Errorf("%q is no bucket name: give 3 to 63 letters, digits, dots and hyphens (and put a directory into prefix)", o.Bucket)
	case o.SSE != "" && o.SSE != string(types.ServerSideEncryptionAes256) && o.SSE != string(types.ServerSideEncryptionAwsKms):
		return o, fmt.Errorf("%q is no server-side encryption: give AES256 or aws:kms", o.SSE)
	case o.KMSKeyID != "" && o.SSE != string(types.ServerSideEncryptionAwsKms):
		return o, fmt.Errorf("a KMS key is named, but the encryption is %q: give aws:kms", o.SSE)
	case o.Lock != "" && o.Lock != string(types.ObjectLockModeGovernance) && o.Lock != string(types.ObjectLockModeCompliance):
		return o, fmt.Errorf("%q is no mode of object lock: give GOVERNANCE or COMPLIANCE", o.Lock)
	case (o.Lock == "") != (o.LockFor == 0) || o.LockFor < 0:
		return o, fmt.Errorf("object lock needs a mode and how long: give both or neither")
	case o.PartSize < minPartSize || o.PartSize > maxPartSize:
		return o, fmt.Errorf("the part size is %d bytes: give %d to %d", o.PartSize, minPartSize, maxPartSize)
	case o.Concurrency < 1 || o.Concurrency > 64:
		return o, fmt.Errorf("%d parts in flight: give 1 to 64", o.Concurrency)
	case o.Stall < 0:
		return o, fmt.Errorf("the stall time is %v: give a positive duration", o.Stall)
	case o.Checksums != "supported" && o.Checksums != "required":
		return o, fmt.Errorf("%q is no checksum setting: give supported or required", o.Checksums)
	}
	if o.Prefix != "" {
		if err := store.ValidKey(o.Prefix); err != nil {
			return o, fmt.Errorf("the prefix %q cannot be used: %w", o.Prefix, err)
		}
	}
	if o.Endpoint != "" {
		return o, checkEndpoint(o.Endpoint)
	}
	return o, nil
}

func checkEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil {
		return fmt.Errorf("the endpoint is no URL: give one like https://s3.example.com:9000")
	}
	if u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("the endpoint must be scheme, host and port only, like https://s3.example.com:9000")
	}
	return checkScheme(u)
}

// checkScheme refuses to send data and signatures in clear text to anyone but this machine.
func checkScheme(u *url.URL) error {
	switch host := u.Hostname(); {
	case u.Scheme == "https":
		return nil
	case u.Scheme != "http":
		return fmt.Errorf("the endpoint's scheme is %q: give https", u.Scheme)
	case host == "localhost", net.ParseIP(host).IsLoopback():
		return nil
	default:
		return fmt.Errorf("%s would be reached without encryption: give https (http is for loopback addresses only)", host)
	}
}

// Open returns the bucket. It sends nothing to the bucket, but finding the region and the credentials can involve the network.
// The errors are *store.Error.
func Open(ctx context.Context, o Options) (*Bucket, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, &store.Error{Code: store.Invalid, Op: "open", Err: err}
	}
	client, hangUp, err := httpClient(o)
	if err != nil {
		return nil, &store.Error{Code: store.Invalid, Op: "open", Err: err}
	}
	cfg, err := loadConfig(ctx, o, client)
	if err != nil {
		return nil, &store.Error{Code: store.Invalid, Op: "open", Err: err}
	}
	b := &Bucket{o: o, hangUp: hangUp}
	if o.Prefix != "" {
		b.prefix = o.Prefix + "/"
	}
	if o.Checksums == "supported" {
		b.checksum = types.ChecksumAlgorithmCrc32
	}
	b.client = s3.NewFromConfig(cfg, func(so *s3.Options) {
		so.UsePathStyle = o.PathStyle
		so.DisableLogOutputChecksumValidationSkipped = true // a multipart object's checksum is one of checksums: nothing to warn of
		if o.Endpoint != "" {
			so.BaseEndpoint = aws.String(strings.TrimSuffix(o.Endpoint, "/"))
		}
	})
	b.ctx, b.cancel = context.WithCancelCause(context.Background())
	return b, nil
}

func loadConfig(ctx context.Context, o Options, client *awshttp.BuildableClient) (aws.Config, error) {
	requests, responses := aws.RequestChecksumCalculationWhenSupported, aws.ResponseChecksumValidationWhenSupported
	if o.Checksums == "required" {
		requests, responses = aws.RequestChecksumCalculationWhenRequired, aws.ResponseChecksumValidationWhenRequired
	}
	load := []func(*config.LoadOptions) error{
		config.WithHTTPClient(client),
		config.WithAppID("tablexport"),
		config.WithLogger(logging.Nop{}),
		config.WithRequestChecksumCalculation(requests),
		config.WithResponseChecksumValidation(responses),
		config.WithRetryer(func() aws.Retryer {
			return retry.NewStandard(func(so *retry.StandardOptions) {
				so.MaxAttempts = maxAttempts
				so.Backoff = retry.BackoffDelayerFunc(func(attempt int, _ error) (time.Duration, error) {
					return o.delay(attempt), nil
				})
				so.Retryables = append([]retry.IsErrorRetryable{retry.IsErrorRetryableFunc(neverPasses)}, so.Retryables...)
			})
		}),
	}
	if o.Region != "" {
		load = append(load, config.WithRegion(o.Region))
	}
	if o.Credentials != nil {
		load = append(load, config.WithCredentialsProvider(o.Credentials))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return cfg, fmt.Errorf("the AWS configuration cannot be used: %w", err)
	}
	if cfg.Region == "" {
		if o.Endpoint == "" {
			return cfg, fmt.Errorf("the region of bucket %s is not known: set region", o.Bucket)
		}
		cfg.Region = "us-east-1"
	}
	if cfg.Credentials != nil {
		cfg.Credentials = credentials{cfg.Credentials}
	}
	return cfg, nil
}

// delay is how long to wait after a failed attempt (1 the first): full jitter, so that those who failed together do not
// come back together.
func (o Options) delay(attempt int) time.Duration {
	limit := o.backoff
	for ; attempt > 1 && limit < maxBackoff; attempt-- {
		limit *= 2
	}
	return rand.N(min(limit, maxBackoff)) // #nosec G404 -- jitter is no secret
}

// credentials marks the errors of a credential provider, which the SDK has no type for.
type credentials struct{ aws.CredentialsProvider }

func (c credentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	got, err := c.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		return got, &credentialsError{err}
	}
	return got, nil
}

type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }

// httpClient is the SDK's client (a plain one would lose AWS_CA_BUNDLE) with our certificate authorities and time limits. The
// function closes all connections.
func httpClient(o Options) (*awshttp.BuildableClient, func(), error) {
	var roots *x509.CertPool
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, nil, fmt.Errorf("the CA file of the S3 store: %w", err)
		}
		if roots, err = x509.SystemCertPool(); err != nil {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, nil, fmt.Errorf("the CA file %s holds no PEM certificate", o.CAFile)
		}
	}
	conns := &connections{limit: o.Stall, dialer: net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}}
	client := awshttp.NewBuildableClient().WithReadTimeout(0).WithTransportOptions(func(tr *http.Transport) {
		tr.TLSClientConfig.MinVersion = tls.VersionTLS12
		if roots != nil {
			tr.TLSClientConfig.RootCAs = roots
		}
		tr.DialContext = conns.dial
		tr.TLSHandshakeTimeout = 15 * time.Second
		tr.MaxIdleConnsPerHost = 32
		// S3 closes idle connections after a few seconds. Using one at that moment would lose the answer to a commit.
		tr.IdleConnTimeout = 4 * time.Second
		// Every request passes here, those after a redirect included.
		proxy := tr.Proxy
		tr.Proxy = func(r *http.Request) (*url.URL, error) {
			if err := checkScheme(r.URL); err != nil && !credentialHost(r.URL) {
				return nil, &clearTextError{err}
			}
			return proxy(r)
		}
	})
	return client, conns.closeAll, nil
}
