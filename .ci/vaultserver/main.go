// Command vaultserver runs a real HashiCorp Vault core in memory, for tests.
//
// It is the core of the released product with what tablexport uses of it: KV version 2 mounted at secret/, AppRole
// enabled at approle/, the JWT and TLS certificate methods compiled in, tokens, policies, response wrapping and the file audit device. Nothing is stored on disk and
// nothing survives the process. It listens on the loopback interface only.
//
// When it is ready it prints one line on standard output,
//
//	{"address":"http://127.0.0.1:8200","root_token":"hvs.…","version":"1.21.1"}
//
// and it exits when its standard input is closed, so that a test that dies leaves no server behind.
//
// The command is a module of its own: whoever imports or installs tablexport does not pay for Vault's dependencies.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	jwt "github.com/hashicorp/vault-plugin-auth-jwt"
	kubernetes "github.com/hashicorp/vault-plugin-auth-kubernetes"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/audit"
	"github.com/hashicorp/vault/builtin/credential/approle"
	certauth "github.com/hashicorp/vault/builtin/credential/cert"
	"github.com/hashicorp/vault/helper/namespace"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
	"github.com/hashicorp/vault/version"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "loopback `address` to listen on; port 0 takes a free one")
	cert := flag.String("tls-cert", "", "PEM `file` with the certificate chain; together with -tls-key it turns TLS on")
	key := flag.String("tls-key", "", "PEM `file` with the private key")
	level := flag.String("log-level", "error", "what goes to standard error: trace, debug, info, warn or error")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()

	if err := run(ctx, *listen, *cert, *key, *level); err != nil {
		fmt.Fprintln(os.Stderr, "vaultserver:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, listen, cert, key, level string) error {
	if (cert == "") != (key == "") {
		return errors.New("-tls-cert and -tls-key go together")
	}
	var certificates []tls.Certificate
	if cert != "" {
		certificate, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return err
		}
		certificates = append(certificates, certificate)
	}
	listener, err := listenLoopback(listen)
	if err != nil {
		return err
	}
	defer listener.Close()

	core, rootToken, err := startCore(hclog.New(&hclog.LoggerOptions{
		Name: "vault", Output: os.Stderr, Level: hclog.LevelFromString(level),
	}))
	if err != nil {
		return err
	}
	defer core.Shutdown()

	if err := mount(ctx, core, rootToken); err != nil {
		return err
	}

	server := &http.Server{
		Handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{
			Core:           core,
			ListenerConfig: &configutil.Listener{Type: "tcp", MaxRequestSize: vaulthttp.DefaultMaxRequestSize},
		}),
		TLSConfig:         &tls.Config{Certificates: certificates, MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert},
		ReadHeaderTimeout: 10 * time.Second,
	}
	defer server.Close()
	address, serve := "http://"+listener.Addr().String(), func() error { return server.Serve(listener) }
	if cert != "" {
		address, serve = "https://"+listener.Addr().String(), func() error { return server.ServeTLS(listener, "", "") }
	}

	served := make(chan error, 1)
	go func() { served <- serve() }()

	// The address accepts connections since before the core was started, so whoever reads this line can connect.
	if err := json.NewEncoder(os.Stdout).Encode(map[string]string{
		"address":    address,
		"root_token": rootToken,
		"version":    version.GetVersion().VersionNumber(),
	}); err != nil {
		return err
	}

	select {
	case err := <-served:
		return err
	case <-ctx.Done():
		return nil
	}
}

// listenLoopback refuses every address that another machine could reach: the root token is printed in the open.
func listenLoopback(address string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("-listen %s: only a loopback address is allowed, such as 127.0.0.1:0", address)
	}
	return net.Listen("tcp", address)
}

// startCore makes a core on memory, initialises it with one key share and unseals it.
func startCore(logger hclog.Logger) (*vault.Core, string, error) {
	storage, err := inmem.NewInmem(nil, logger)
	if err != nil {
		return nil, "", err
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical:           storage,
		StorageType:        "inmem",
		LogicalBackends:    map[string]logical.Factory{"kv": kv.Factory},
		CredentialBackends: methods,
		AuditBackends:      map[string]audit.Factory{audit.TypeFile: audit.NewFileBackend},
		BuiltinRegistry:    builtins{},
		Logger:             logger,
		DisableMlock:       true,
	})
	if err != nil {
		return nil, "", err
	}

	ctx := namespace.RootContext(context.Background())
	initialised, err := core.Initialize(ctx, &vault.InitParams{
		BarrierConfig: &vault.SealConfig{SecretShares: 1, SecretThreshold: 1, StoredShares: 0},
	})
	if err != nil {
		return nil, "", fmt.Errorf("initialise: %w", err)
	}
	unsealed, err := core.Unseal(initialised.SecretShares[0])
	if err != nil {
		return nil, "", fmt.Errorf("unseal: %w", err)
	}
	if !unsealed {
		return nil, "", errors.New("unseal: the core stayed sealed")
	}
	return core, initialised.RootToken, nil
}

// mount brings KV version 2 to secret/ and AppRole to approle/, and returns when both answer.
func mount(ctx context.Context, core *vault.Core, rootToken string) error {
	ctx = namespace.RootContext(ctx)
	request := func(operation logical.Operation, path string, data map[string]any) error {
		response, err := core.HandleRequest(ctx, &logical.Request{
			Operation: operation, Path: path, ClientToken: rootToken, Data: data,
		})
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if response != nil && response.IsError() {
			return fmt.Errorf("%s: %w", path, response.Error())
		}
		return nil
	}
	if err := request(logical.UpdateOperation, "sys/mounts/secret", map[string]any{
		"type": "kv", "options": map[string]any{"version": "2"},
	}); err != nil {
		return err
	}
	if err := request(logical.UpdateOperation, "sys/auth/approle", map[string]any{"type": "approle"}); err != nil {
		return err
	}

	// A new KV version 2 mount upgrades itself in the background and refuses requests until it is done.
	deadline := time.Now().Add(15 * time.Second)
	for {
		err := request(logical.ReadOperation, "secret/config", nil)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// methods are the auth methods that are compiled in.
var methods = map[string]logical.Factory{"approle": approle.Factory, "cert": certauth.Factory, "jwt": jwt.Factory, "kubernetes": kubernetes.Factory}

// builtins tells the plugin catalogue which backends are compiled in. Each is given to the core as a factory, so the
// catalogue never builds one itself.
type builtins struct{}

func (builtins) Contains(name string, kind consts.PluginType) bool {
	_, method := methods[name]
	return kind == consts.PluginTypeSecrets && name == "kv" || kind == consts.PluginTypeCredential && method
}

func (b builtins) Get(name string, kind consts.PluginType) (func() (any, error), bool) {
	switch {
	case !b.Contains(name, kind):
		return nil, false
	case kind == consts.PluginTypeSecrets:
		return func() (any, error) { return logical.Factory(kv.Factory), nil }, true
	}
	return func() (any, error) { return methods[name], nil }, true
}

func (builtins) Keys(kind consts.PluginType) []string {
	switch kind {
	case consts.PluginTypeSecrets:
		return []string{"kv"}
	case consts.PluginTypeCredential:
		return slices.Sorted(maps.Keys(methods))
	}
	return nil
}

func (b builtins) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	if b.Contains(name, kind) {
		return consts.Supported, true
	}
	return consts.Unknown, false
}

func (builtins) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
