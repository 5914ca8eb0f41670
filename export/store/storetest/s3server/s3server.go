// Package s3server gives tests a real S3 server.
//
// The server is versitygw, or MinIO where the environment says TABLEXPORT_S3_SERVER=minio. It runs on a free loopback
// port over a directory of its own, with credentials of its own, and all tests of one process share it: give each test
// its own bucket with [Server.NewBucket].
//
// The programs are installed by "make servers" and "make servers-all". A test that does not find its server is skipped
// and says so; where TABLEXPORT_REQUIRE_SERVERS=1, as in "make check", it fails.
package s3server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// Server is a running S3 server. Its buckets are addressed by path, not by host name.
type Server struct {
	Endpoint  string // http://127.0.0.1:PORT
	Region    string
	AccessKey string
	SecretKey string
}

// Start returns the server of this test process, starting it on first use. It ends with the process.
func Start(t testing.TB) Server {
	t.Helper()
	program := programFor(os.Getenv("TABLEXPORT_S3_SERVER"))
	path := find(t, program)
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		server, alive, err := start(program, path)
		if err != nil {
			t.Fatalf("s3server: %v", err)
		}
		shared.server, shared.alive = &server, alive
	}
	return *shared.server
}

// shared is the server of this process. A failed start is tried again by the next test.
var shared struct {
	sync.Mutex
	server *Server
	alive  io.Closer // referenced for as long as the process lives: a collected pipe is a closed one
}

// Client returns a client with the server's own credentials, for what a test wants to arrange or see past the driver.
func (s Server) Client() *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint:     aws.String(s.Endpoint),
		Region:           s.Region,
		Credentials:      credentials.NewStaticCredentialsProvider(s.AccessKey, s.SecretKey, ""),
		UsePathStyle:     true,
		RetryMaxAttempts: 1,
	})
}

// NewBucket makes a bucket that no other test has and returns its name. It stays until the server ends.
func (s Server) NewBucket(t testing.TB) string {
	t.Helper()
	name := "test-" + strings.ToLower(rand.Text()[:16])
	if _, err := s.Client().CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &name}); err != nil {
		t.Fatalf("s3server: create a bucket: %v", err)
	}
	return name
}

// program is one kind of S3 server: how it is installed and started.
type program struct {
	name    string
	target  string // of make
	environ func(Server) []string
	args    func(address, data, versions string) []string
}

func programFor(name string) program {
	if name == "minio" {
		return program{
			name:   "minio",
			target: "servers-all",
			environ: func(s Server) []string {
				return []string{
					"MINIO_ROOT_USER=" + s.AccessKey, "MINIO_ROOT_PASSWORD=" + s.SecretKey,
					"MINIO_BROWSER=off", "MINIO_UPDATE=off",
				}
			},
			args: func(address, data, _ string) []string {
				return []string{"server", "--quiet", "--address", address, data}
			},
		}
	}
	return program{
		name:   "versitygw",
		target: "servers",
		environ: func(s Server) []string {
			return []string{"ROOT_ACCESS_KEY=" + s.AccessKey, "ROOT_SECRET_KEY=" + s.SecretKey}
		},
		args: func(address, data, versions string) []string {
			return []string{"--quiet", "--port", address, "posix", "--versioning-dir", versions, data}
		},
	}
}

// find returns the path of an installed program, or ends the test saying how to install it.
func find(t testing.TB, p program) string {
	t.Helper()
	dir := os.Getenv("TABLEXPORT_CACHE")
	if dir == "" {
		if base, err := os.UserCacheDir(); err == nil {
			dir = filepath.Join(base, "tablexport")
		}
	}
	path := filepath.Join(dir, "bin", p.name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	missing := t.Skipf
	if os.Getenv("TABLEXPORT_REQUIRE_SERVERS") == "1" {
		missing = t.Fatalf
	}
	missing("the S3 server %s is not installed at %s: run `make %s`", p.name, path, p.target)
	return ""
}

// supervise keeps a server no longer than this process: it runs the server in the background, waits until standard
// input is closed (which the kernel does, however this process ends), kills it and removes its directory.
const supervise = `dir=$1; shift
"$@" >"$dir/log" 2>&1 & server=$!
cat >/dev/null
kill -9 $server; wait $server
rm -rf "$dir"`

// start runs a server and waits until it answers. A port that was free a moment ago may be taken by the time the server
// wants it, so there is more than one attempt. The server lives until the closer is closed.
func start(p program, path string) (Server, io.Closer, error) {
	var failures []error
	for range 3 {
		server, alive, err := attempt(p, path)
		if err == nil {
			return server, alive, nil
		}
		failures = append(failures, err)
	}
	return Server{}, nil, errors.Join(failures...)
}

func attempt(p program, path string) (Server, io.Closer, error) {
	address, err := freeAddress()
	if err != nil {
		return Server{}, nil, err
	}
	server := Server{
		Endpoint:  "http://" + address,
		Region:    "us-east-1",
		AccessKey: "AK" + rand.Text()[:14],
		SecretKey: rand.Text(),
	}
	dir, err := os.MkdirTemp("", "tablexport-s3-")
	if err != nil {
		return Server{}, nil, err
	}
	alive, err := server.run(p, path, address, dir)
	if err != nil {
		return Server{}, nil, errors.Join(fmt.Errorf("%s did not start on %s: %w", p.name, address, err), os.RemoveAll(dir))
	}
	return server, alive, nil
}

// run starts the program over dir and waits until it answers.
func (s Server) run(p program, path, address, dir string) (io.Closer, error) {
	data, versions := filepath.Join(dir, "data"), filepath.Join(dir, "versions")
	if err := errors.Join(os.Mkdir(data, 0o700), os.Mkdir(versions, 0o700)); err != nil {
		return nil, err
	}
	command := exec.Command("sh", append([]string{"-c", supervise, "sh", dir, path}, p.args(address, data, versions)...)...)
	command.Env = append(os.Environ(), p.environ(s)...)
	alive, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	if err := s.wait(20 * time.Second); err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		_ = alive.Close()
		_ = command.Wait()
		return nil, fmt.Errorf("%w\n%s", err, log)
	}
	return alive, nil
}

// wait returns when the server accepts these credentials, which no other server on the same port would.
func (s Server) wait(patience time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var last error
	for {
		_, err := s.Client().ListBuckets(ctx, &s3.ListBucketsInput{})
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err // the reason, rather than the end of our patience
		}
		select {
		case <-ctx.Done():
			return last
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// freeAddress is a loopback address that nobody listens on at this moment.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String(), nil
}
