package lifecycle

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/tablexport/tablexport/secrets"
)

// How long a key is used, and how often it is asked for.
const (
	keyLife     = time.Hour      // after which it is fetched anew
	keyStale    = 24 * time.Hour // how long an old one serves while the Marketplace is away
	keyPause    = time.Minute    // between two fetches, whatever is received: forged events must not make us ask for ever
	keyTimeout  = 10 * time.Second
	maxKey      = 64 << 10
	shortestRSA = 2048 // bits
)

// keyring holds the Marketplace's public key.
type keyring struct {
	document *url.URL
	client   *http.Client

	mu      sync.Mutex
	key     *rsa.PublicKey
	fetched time.Time // when key was
	tried   time.Time // when somebody last asked
}

// get gives the key; with anew, one that is fetched now, if there may be one. fresh says that it was fetched by this call, or that it is too
// soon to fetch it again.
func (k *keyring) get(ctx context.Context, anew bool) (key *rsa.PublicKey, fresh bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	age := time.Since(k.fetched)
	if k.key != nil && (!anew && age < keyLife || time.Since(k.tried) < keyPause) && age < keyStale {
		return k.key, anew, nil
	}
	if k.key == nil && time.Since(k.tried) < keyPause && !k.tried.IsZero() {
		return nil, true, errors.New("the Marketplace's key could not be fetched a moment ago")
	}
	k.tried = time.Now()
	got, err := k.fetch(ctx)
	if err != nil {
		if k.key != nil && age < keyStale {
			return k.key, true, nil
		}
		return nil, true, err
	}
	k.key, k.fetched = got, time.Now()
	return got, true, nil
}

// fetch reads the document, and the key that it names. The key must be on the document's host.
func (k *keyring) fetch(ctx context.Context) (*rsa.PublicKey, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keyTimeout)
	defer cancel()
	text, err := k.read(ctx, k.document.String())
	if err != nil {
		return nil, err
	}
	var document struct {
		Endpoints struct {
			PublicKey string `json:"public_key"`
		} `json:"endpoints"`
	}
	if json.Unmarshal(text, &document) != nil || document.Endpoints.PublicKey == "" {
		return nil, errors.New("the Marketplace's document names no public key")
	}
	at, err := k.document.Parse(document.Endpoints.PublicKey)
	if err != nil || at.Scheme != k.document.Scheme || !strings.EqualFold(at.Host, k.document.Host) || at.User != nil {
		return nil, errors.New("the Marketplace's document names a public key on another host; it is not trusted")
	}
	if text, err = k.read(ctx, at.String()); err != nil {
		return nil, err
	}
	return parseKey(text)
}

// parseKey reads an RSA key in PEM: a public key, or a certificate.
func parseKey(text []byte) (*rsa.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("the Marketplace's public key is not PEM")
	}
	var parsed any
	var err error
	switch block.Type {
	case "CERTIFICATE":
		var c *x509.Certificate
		if c, err = x509.ParseCertificate(block.Bytes); err == nil {
			parsed = c.PublicKey
		}
	case "RSA PUBLIC KEY":
		parsed, err = x509.ParsePKCS1PublicKey(block.Bytes)
	default:
		parsed, err = x509.ParsePKIXPublicKey(block.Bytes)
	}
	key, ok := parsed.(*rsa.PublicKey)
	if err != nil || !ok || key.Size()*8 < shortestRSA {
		return nil, fmt.Errorf("the Marketplace's public key is no RSA key of %d bits or more", shortestRSA)
	}
	return key, nil
}

// keyClient follows no redirect.
var keyClient = &http.Client{
	Timeout:       keyTimeout,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func (k *keyring) read(ctx context.Context, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, errors.New("the Marketplace's address cannot be asked")
	}
	client := k.client
	if client == nil {
		client = keyClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: the Marketplace cannot be reached: %w", secrets.ErrUnavailable, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w: the Marketplace answers %d", secrets.ErrUnavailable, resp.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxKey))
	if err != nil {
		return nil, fmt.Errorf("%w: the Marketplace's answer broke off", secrets.ErrUnavailable)
	}
	return text, nil
}
