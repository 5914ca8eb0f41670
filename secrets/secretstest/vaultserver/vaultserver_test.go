package vaultserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/approle"
)

// client is Vault's own Go client, which knows nothing of this package's.
func client(t *testing.T, server Server, token string) *api.Client {
	t.Helper()
	config := api.DefaultConfig()
	config.Address = server.Address
	if server.CACertFile != "" {
		if err := config.ConfigureTLS(&api.TLSConfig{CACert: server.CACertFile}); err != nil {
			t.Fatal(err)
		}
	}
	c, err := api.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	c.SetToken(token)
	return c
}

func TestStartSharesOneServerOfAKind(t *testing.T) {
	plain, again, secure, own := Start(t), Start(t), Start(t, TLS()), Start(t, Private())
	if plain.Address != again.Address {
		t.Errorf("two starts gave two servers: %s and %s", plain.Address, again.Address)
	}
	if secure.Address == plain.Address || own.Address == plain.Address || own.RootToken == plain.RootToken {
		t.Errorf("plain %s, with TLS %s and private %s are not three servers", plain.Address, secure.Address, own.Address)
	}
	if !strings.HasPrefix(secure.Address, "https://") || secure.CACertFile == "" || plain.CACertFile != "" {
		t.Errorf("with TLS: %s, authority %q; without: authority %q", secure.Address, secure.CACertFile, plain.CACertFile)
	}
}

func TestCheckAndSet(t *testing.T) {
	for name, options := range map[string][]Option{"plain": nil, "TLS": {TLS()}} {
		t.Run(name, func(t *testing.T) {
			server := Start(t, options...)
			for _, mount := range []string{"secret", server.NewMount(t)} {
				kv := client(t, server, server.RootToken).KVv2(mount)
				first, err := kv.Put(t.Context(), name+"/token", map[string]any{"value": "one"}, api.WithCheckAndSet(0))
				if err != nil {
					t.Fatal(err)
				}
				if first.VersionMetadata.Version != 1 {
					t.Errorf("%s: the first write made version %d", mount, first.VersionMetadata.Version)
				}
				_, err = kv.Put(t.Context(), name+"/token", map[string]any{"value": "two"}, api.WithCheckAndSet(0))
				var response *api.ResponseError
				if !errors.As(err, &response) || response.StatusCode != http.StatusBadRequest {
					t.Errorf("%s: a second writer of the first version got %v, want 400", mount, err)
				}
				read, err := kv.Get(t.Context(), name+"/token")
				if err != nil || read.Data["value"] != "one" {
					t.Errorf("%s: read %v (%v), want the first write", mount, read, err)
				}
			}
		})
	}
}

func TestAppRoleSeesWhatItsPolicyAdmits(t *testing.T) {
	server := Start(t)
	mount := server.NewMount(t)
	server.Call(t, http.MethodPost, mount+"/data/mine", map[string]any{"data": map[string]any{"value": "1"}})
	server.Call(t, http.MethodPost, mount+"/data/theirs", map[string]any{"data": map[string]any{"value": "2"}})
	roleID, secretID := server.NewAppRole(t, fmt.Sprintf(`path "%s/data/mine" { capabilities = ["read"] }`, mount),
		map[string]any{"token_ttl": "1m", "secret_id_num_uses": 1})

	c := client(t, server, "")
	auth, err := approle.NewAppRoleAuth(roleID, &approle.SecretID{FromString: secretID})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Auth().Login(t.Context(), auth); err != nil {
		t.Fatal(err)
	}
	if read, err := c.KVv2(mount).Get(t.Context(), "mine"); err != nil || read.Data["value"] != "1" {
		t.Errorf("its own secret: %v (%v)", read, err)
	}
	var response *api.ResponseError
	if _, err := c.KVv2(mount).Get(t.Context(), "theirs"); !errors.As(err, &response) || response.StatusCode != http.StatusForbidden {
		t.Errorf("another's secret: %v, want 403", err)
	}
	if _, err := c.Auth().Login(t.Context(), auth); err == nil {
		t.Error("a secret id for one login served two")
	}
}

func TestCertificateIsNotTrustedWithoutItsAuthority(t *testing.T) {
	server := Start(t, TLS())
	if _, err := http.Get(server.Address + "/v1/sys/health"); err == nil {
		t.Error("a client with the system's authorities trusted a test's certificate")
	}
}

func TestStopIsAnOutage(t *testing.T) {
	server := Start(t, Private())
	server.Call(t, http.MethodGet, "sys/health", nil)
	server.Stop(t)
	server.Stop(t)
	address, err := url.Parse(server.Address)
	if err != nil {
		t.Fatal(err)
	}
	if connection, err := net.Dial("tcp", address.Host); err == nil {
		_ = connection.Close()
		t.Error("a stopped server still listens")
	}
}

// A test process that dies in whatever way must leave no server behind.
func TestServerEndsWithItsProcess(t *testing.T) {
	if os.Getenv("VAULTSERVER_TEST_CHILD") == "1" {
		if err := json.NewEncoder(os.Stdout).Encode(Start(t).Address); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed
		return
	}
	find(t)

	child := exec.Command(os.Args[0], "-test.run=^TestServerEndsWithItsProcess$")
	child.Env = append(os.Environ(), "VAULTSERVER_TEST_CHILD=1")
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
	var text string
	if err := json.NewDecoder(stdout).Decode(&text); err != nil {
		t.Fatal(err)
	}
	address, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		connection, err := net.Dial("tcp", address.Host)
		if err != nil {
			return
		}
		_ = connection.Close()
		if time.Now().After(deadline) {
			t.Fatal("the server still listens after its process was killed")
		}
	}
}

func TestServerListensToThisMachineOnly(t *testing.T) {
	output, err := exec.Command(find(t), "-listen", "0.0.0.0:0").CombinedOutput()
	if err == nil || !bytes.Contains(output, []byte("loopback")) {
		t.Errorf("an address for everyone gave %v: %s", err, output)
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

	t.Setenv("TABLEXPORT_REQUIRE_SERVERS", "")
	r := &recorder{TB: t}
	find(r)
	if !strings.Contains(r.skipped, "run `make servers`") || r.failed != "" {
		t.Errorf("skipped %q, failed %q; want a skip that says what to run", r.skipped, r.failed)
	}

	t.Setenv("TABLEXPORT_REQUIRE_SERVERS", "1")
	r = &recorder{TB: t}
	find(r)
	if !strings.Contains(r.failed, "run `make servers`") || r.skipped != "" {
		t.Errorf("skipped %q, failed %q; want a failure that says what to run", r.skipped, r.failed)
	}
}
