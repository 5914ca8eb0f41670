package s3store_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/s3store"
	"github.com/tablexport/tablexport/export/store/storetest"
	"github.com/tablexport/tablexport/export/store/storetest/s3server"
)

// options are those of a new bucket on the server.
func options(t testing.TB, s s3server.Server) s3store.Options {
	t.Helper()
	return s3store.Options{
		Bucket: s.NewBucket(t), Prefix: "erp/live", Region: s.Region, Endpoint: s.Endpoint, PathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(s.AccessKey, s.SecretKey, ""),
	}
}

func open(t testing.TB, o s3store.Options) *s3store.Bucket {
	t.Helper()
	b, err := s3store.Open(t.Context(), o.Impatient())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func TestConformance(t *testing.T) {
	s := s3server.Start(t)
	for _, checksums := range []string{"required", "supported"} {
		t.Run(checksums, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, func(t *testing.T) store.Bucket {
				o := options(t, s)
				o.Checksums = checksums
				return open(t, o)
			})
		})
	}
}
