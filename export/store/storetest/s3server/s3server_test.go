package s3server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

func TestStartSharesOneServer(t *testing.T) {
	a, b := Start(t), Start(t)
	if a != b {
		t.Errorf("two starts gave two servers: %+v and %+v", a, b)
	}
	if one, other := a.NewBucket(t), a.NewBucket(t); one == other {
		t.Errorf("two buckets are called %s", one)
	}
}

// The conditional put is what a commit stands on: among many writers of one key exactly one must win.
func TestConditionalPutHasOneWinner(t *testing.T) {
	server := Start(t)
	bucket, client := server.NewBucket(t), server.Client()

	const writers = 16
	results := make([]error, writers)
	var ready sync.WaitGroup
	begin := make(chan struct{})
	for i := range writers {
		ready.Go(func() {
			<-begin
			_, results[i] = client.PutObject(t.Context(), &s3.PutObjectInput{
				Bucket: &bucket, Key: aws.String("log/0.json"), Body: bytes.NewReader([]byte{byte('a' + i)}),
				IfNoneMatch: aws.String("*"),
			})
		})
	}
	close(begin)
	ready.Wait()

	winner := -1
	for i, err := range results {
		var response *awshttp.ResponseError
		switch {
		case err == nil && winner < 0:
			winner = i
		case err == nil:
			t.Errorf("writers %d and %d both won", winner, i)
		case !errors.As(err, &response) || response.HTTPStatusCode() != http.StatusPreconditionFailed:
			t.Errorf("writer %d: %v, want 412", i, err)
		}
	}
	if winner < 0 {
		t.Fatal("nobody won")
	}
	object, err := client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &bucket, Key: aws.String("log/0.json")})
	if err != nil {
		t.Fatal(err)
	}
	defer object.Body.Close()
	if got, err := io.ReadAll(object.Body); err != nil || string(got) != string(rune('a'+winner)) {
		t.Errorf("the object holds %q (%v), writer %d won", got, err, winner)
	}
}

func TestForeignCredentialsAreRefused(t *testing.T) {
	server := Start(t)
	bucket := server.NewBucket(t)
	server.SecretKey = "another"
	_, err := server.Client().ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: &bucket})
	var response *awshttp.ResponseError
	if !errors.As(err, &response) || response.HTTPStatusCode() != http.StatusForbidden {
		t.Errorf("a wrong secret gave %v, want 403", err)
	}
}

// A test process that dies in whatever way must leave neither a server nor its directory behind.
func TestServerEndsWithItsProcess(t *testing.T) {
	if os.Getenv("S3SERVER_TEST_CHILD") == "1" {
		server := Start(t)
		os.Stdout.WriteString("endpoint " + strings.TrimPrefix(server.Endpoint, "http://") + "\n")
		_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed
		return
	}
	find(t, programFor(os.Getenv("TABLEXPORT_S3_SERVER")))

	temp := t.TempDir()
	child := exec.Command(os.Args[0], "-test.run=^TestServerEndsWithItsProcess$")
	child.Env = append(os.Environ(), "S3SERVER_TEST_CHILD=1", "TMPDIR="+temp)
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 256)
	n, err := stdout.Read(buffer)
	address, found := strings.CutPrefix(strings.TrimSpace(string(buffer[:n])), "endpoint ")
	if err != nil || !found {
		t.Fatalf("the child said %q (%v)", buffer[:n], err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()

	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		connection, err := net.Dial("tcp", address)
		if err == nil {
			_ = connection.Close()
		}
		left, readErr := os.ReadDir(temp)
		if err != nil && readErr == nil && len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after its process was killed the server still listens (%v) or left %v", err == nil, left)
		}
	}
}

// recorder is a testing.TB that notes how a test was ended.
type recorder struct {
	testing.TB
	skipped, failed string
}

func (r *recorder) Helper() {}

func (r *recorder) Skipf(format string, args ...any) { r.skipped = fmt.Sprintf(format, args...) }

func (r *recorder) Fatalf(format string, args ...any) { r.failed = fmt.Sprintf(format, args...) }

func TestMissingServerIsNeverSilent(t *testing.T) {
	t.Setenv("TABLEXPORT_CACHE", t.TempDir())
	for _, name := range []string{"versitygw", "minio"} {
		target := "run `make " + programFor(name).target + "`"

		t.Setenv("TABLEXPORT_REQUIRE_SERVERS", "")
		r := &recorder{TB: t}
		find(r, programFor(name))
		if !strings.Contains(r.skipped, target) || r.failed != "" {
			t.Errorf("%s: skipped %q, failed %q; want a skip that says: %s", name, r.skipped, r.failed, target)
		}

		t.Setenv("TABLEXPORT_REQUIRE_SERVERS", "1")
		r = &recorder{TB: t}
		find(r, programFor(name))
		if !strings.Contains(r.failed, target) || r.skipped != "" {
			t.Errorf("%s: skipped %q, failed %q; want a failure that says: %s", name, r.skipped, r.failed, target)
		}
	}
}
