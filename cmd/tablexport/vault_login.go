package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/tablexport/tablexport/configs"
	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/audit"
	"github.com/tablexport/tablexport/secrets/hashivault"
)

// vaultAuth is how the configuration says to log in to Vault.
func (a *app) vaultAuth(c configs.VaultAuth) hashivault.Auth {
	switch {
	case c.AppRole != nil:
		return hashivault.Auth{AppRole: &hashivault.AppRole{RoleIDFile: a.cfg.Resolve(c.AppRole.RoleIDFile),
			SecretIDFile: a.cfg.Resolve(c.AppRole.SecretIDFile), Wrapped: c.AppRole.Wrapped, Mount: c.AppRole.Mount}}
	case c.JWT != nil:
		return hashivault.Auth{JWT: &hashivault.JWT{File: a.cfg.Resolve(c.JWT.File), Role: c.JWT.Role, Mount: c.JWT.Mount}}
	case c.Kubernetes != nil:
		return hashivault.Auth{Kubernetes: &hashivault.Kubernetes{File: a.cfg.Resolve(c.Kubernetes.File), Role: c.Kubernetes.Role, Mount: c.Kubernetes.Mount}}
	case c.Cert != nil:
		return hashivault.Auth{Certificate: &hashivault.Certificate{CertFile: a.cfg.Resolve(c.Cert.CertFile), KeyFile: a.cfg.Resolve(c.Cert.KeyFile),
			Role: c.Cert.Role, Mount: c.Cert.Mount}}
	}
	return hashivault.Auth{TokenFile: a.cfg.Resolve(c.TokenFile)}
}

// recordLogin is the audit entry of a login to Vault. Nothing is done under one that could not be recorded.
func (a *app) recordLogin(ctx context.Context, e hashivault.LoginEvent) error {
	entry := audit.Entry{Actor: actor(), Action: "login", Subject: a.cfg.Secrets.Vault.Address, Outcome: audit.OK, Detail: map[string]string{"method": e.Method}}
	for name, value := range map[string]string{"path": e.Path, "accessor": e.Accessor} {
		if value != "" {
			entry.Detail[name] = value
		}
	}
	if e.Err != nil {
		entry.Outcome, entry.Detail["reason"] = audit.Failed, e.Err.Error()
	}
	// a.log is open: whoever made the vault has opened it first.
	if _, err := a.log.Append(context.WithoutCancel(ctx), entry); err != nil {
		return fmt.Errorf("%w: %w", secrets.ErrAudit, err)
	}
	return nil
}

// tokenUse is how an instance's token is used. Client credentials are made once for an instance: all its leases share an access token.
func (a *app) tokenUse(c configs.Instance) (secrets.Kind, error) {
	client := c.Auth.ClientCredentials
	if client == nil {
		return secrets.Kind{Header: c.Auth.Header}, nil
	}
	made := &secrets.ClientCredentials{ClientID: client.ClientID, Scopes: client.Scopes, AllowUpdate: client.AllowUpdate,
		Issuer: cmp.Or(client.Issuer, strings.TrimSuffix(c.URL, "/")+"/id")}
	if c.CAFile == "" {
		return secrets.Kind{Client: made}, nil
	}
	var err error
	if made.Client, err = a.clientTrusting(c.CAFile); err != nil {
		return secrets.Kind{}, err
	}
	return secrets.Kind{Client: made}, nil
}

// clientTrusting is an HTTP client that believes the authorities of a file, relative to the configuration, in place of the system's.
func (a *app) clientTrusting(caFile string) (*http.Client, error) {
	pem, err := os.ReadFile(a.cfg.Resolve(caFile))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, usagef("%s holds no certificate in PEM form", caFile)
	}
	return &http.Client{
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // a secret would go with it
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: 10 * time.Second},
	}, nil
}
