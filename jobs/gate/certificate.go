package gate

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// NamesOf is what a client certificate is for: its alternative names (DNS names, URIs, mail addresses), and its common name
// written CN=….
func NamesOf(c *x509.Certificate) []string {
	var names []string
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	names = append(names, c.DNSNames...)
	names = append(names, c.EmailAddresses...)
	if c.Subject.CommonName != "" {
		names = append(names, "CN="+c.Subject.CommonName)
	}
	return names
}

// certificate is the holder of the certificate that TLS has verified. A connection may outlive it.
func (g *Gate) certificate(state *tls.ConnectionState) (Caller, error) {
	if state == nil || len(state.VerifiedChains) == 0 {
		return Caller{}, errNobody
	}
	leaf := state.VerifiedChains[0][0]
	now := g.Now()
	if now.After(leaf.NotAfter) || now.Before(leaf.NotBefore) {
		return Caller{}, errors.New("gate: the certificate is out of its time")
	}
	if g.Believed != nil {
		if err := g.Believed(state, now); err != nil {
			return Caller{}, err
		}
	}
	var c Caller
	for _, name := range NamesOf(leaf) {
		if roles := g.Certificates[name]; len(roles) > 0 {
			if c.Name == "" {
				c.Name = "cert:" + name
			}
			c.Roles = append(c.Roles, roles...)
		} else if c.Name == "" {
			c.Name = "cert:" + name
		}
	}
	if c.Name == "" {
		return Caller{}, errors.New("gate: the certificate is for nobody")
	}
	return c, nil
}

// Files are the program's certificate, its key, and the authorities of client certificates, as PEM files that are read again when
// they change, so that they can be renewed while the program runs. New files that cannot be used leave the old ones in use.
type Files struct {
	CertFile, KeyFile string
	ClientCAFile      string        // "" = client certificates are not asked for
	Failed            func(error)   // says that new files cannot be used; may be nil
	Every             time.Duration // how often they are looked at; 0 = ten seconds

	mu     sync.Mutex
	config *tls.Config
	seen   [3]stamp
	looked time.Time
}

// stamp tells whether a file has changed.
type stamp struct {
	modified time.Time
	size     int64
}

func stampOf(path string) (s stamp) {
	if info, err := os.Stat(path); err == nil {
		s = stamp{info.ModTime(), info.Size()}
	}
	return s
}

// Config is what the listener uses. It fails when the files cannot be used now.
func (f *Files) Config() (*tls.Config, error) {
	if err := f.load(); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return f.current(), nil
	}}, nil
}

// current is the configuration of the files as they are, or as they were when they could be used.
func (f *Files) current() *tls.Config {
	f.mu.Lock()
	defer f.mu.Unlock()
	every := f.Every
	if every == 0 {
		every = 10 * time.Second
	}
	if time.Since(f.looked) >= every {
		f.looked = time.Now()
		if f.stamps() != f.seen {
			if err := f.read(); err != nil && f.Failed != nil {
				f.Failed(err)
			}
		}
	}
	return f.config
}

// Believed is nil if the authorities of now stand for the client certificate of a connection. Those of its handshake did, but a
// connection that is used can stay open for as long as its client likes: an authority that was taken out would let it in for ever.
func (f *Files) Believed(state *tls.ConnectionState, now time.Time) error {
	authorities := f.current().ClientCAs
	if authorities == nil || len(state.PeerCertificates) == 0 {
		return errors.New("gate: no authority stands for the certificate")
	}
	between := x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		between.AddCert(c)
	}
	if _, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: authorities, Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return fmt.Errorf("gate: the authorities in use do not stand for the certificate: %w", err)
	}
	return nil
}

func (f *Files) load() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looked = time.Now()
	return f.read()
}

func (f *Files) stamps() [3]stamp {
	return [3]stamp{stampOf(f.CertFile), stampOf(f.KeyFile), stampOf(f.ClientCAFile)}
}

// read makes a new configuration of what the files hold. Two files that are replaced one after the other do not fit for a moment:
// they are looked at again, because the stamps change once more.
func (f *Files) read() error {
	f.seen = f.stamps()
	pair, err := tls.LoadX509KeyPair(f.CertFile, f.KeyFile)
	if err != nil {
		return fmt.Errorf("gate: the certificate %s and its key %s: %w", f.CertFile, f.KeyFile, err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, Certificates: []tls.Certificate{pair}}
	if f.ClientCAFile != "" {
		text, err := os.ReadFile(f.ClientCAFile)
		if err != nil {
			return fmt.Errorf("gate: %w", err)
		}
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(text) {
			return fmt.Errorf("gate: %s holds no certificate", f.ClientCAFile)
		}
		// Health is for those without one too. One that is sent must be good.
		config.ClientAuth = tls.VerifyClientCertIfGiven
	}
	f.config = config
	return nil
}
