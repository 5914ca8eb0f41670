package s3store_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/s3store"
	"github.com/tablexport/tablexport/export/store/storetest/s3server"
)

// A locked object cannot be removed from the real server, not even by its root account.
func TestObjectLock(t *testing.T) {
	s := s3server.Start(t)
	o := options(t, s)
	o.Bucket = "locked-" + o.Bucket
	if _, err := s.Client().CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &o.Bucket, ObjectLockEnabledForBucket: aws.Bool(true)}); err != nil {
		t.Fatal(err)
	}
	o.Lock, o.LockFor = "COMPLIANCE", 48*time.Hour
	b := open(t, o)
	if err := b.PutIfAbsent(t.Context(), "a/1.json", []byte("one")); err != nil {
		t.Fatal(err)
	}
	if err := b.PutIfAbsent(t.Context(), "a/1.json", []byte("two")); store.CodeOf(err) != store.AlreadyExists {
		t.Errorf("a second time: %v", err)
	}
	key := o.Prefix + "/a/1.json"
	versions, err := s.Client().ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: &o.Bucket, Prefix: &key})
	if err != nil || len(versions.Versions) != 1 {
		t.Fatalf("versions: %v, %v", versions, err)
	}
	_, err = s.Client().DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &o.Bucket, Key: &key, VersionId: versions.Versions[0].VersionId})
	if err == nil {
		t.Error("the locked version was deleted")
	}
	if _, err := b.Create(t.Context(), "a/2"); store.CodeOf(err) != store.Invalid {
		t.Errorf("create: %v", err)
	}
}

// A bucket without object lock is found out, one way or the other.
func TestObjectLockThatIsNotThere(t *testing.T) {
	s := s3server.Start(t)
	o := options(t, s)
	o.Lock, o.LockFor = string(types.ObjectLockModeGovernance), time.Hour*48
	if err := open(t, o).PutIfAbsent(t.Context(), "a", []byte("x")); err == nil {
		t.Error("accepted")
	}
	for _, bad := range []func(*s3store.Options){
		func(o *s3store.Options) { o.Lock = "LEGAL" }, func(o *s3store.Options) { o.LockFor = 0 }, func(o *s3store.Options) { o.Lock = "" },
	} {
		o := o
		bad(&o)
		if _, err := s3store.Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "lock") {
			t.Errorf("%+v: %v", o.Lock, err)
		}
	}
}
