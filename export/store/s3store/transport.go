package s3store

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"time"
)

// connections dials, and knows every connection that is open.
type connections struct {
	dialer net.Dialer
	limit  time.Duration // how long one may be silent

	mu   sync.Mutex
	open map[*stallConn]struct{}
}

func (c *connections) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := c.dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	s := &stallConn{Conn: conn, of: c}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[*stallConn]struct{}{}
	}
	c.open[s] = struct{}{}
	return s, nil
}

func (c *connections) closeAll() {
	c.mu.Lock()
	open := make([]*stallConn, 0, len(c.open))
	for s := range c.open {
		open = append(open, s)
	}
	c.mu.Unlock()
	for _, s := range open {
		_ = s.Close()
	}
}

// stallConn fails when nothing moves for the limit, in either direction: a part that is being sent keeps the wait for its
// answer alive. So an operation of any length may take its time, and one that hangs ends.
type stallConn struct {
	net.Conn
	of *connections
}

// writeChunk is how much must get through within the limit: with the default of two minutes, half a kilobyte per second.
const writeChunk = 64 << 10

func (s *stallConn) Read(p []byte) (int, error) {
	if err := s.SetDeadline(time.Now().Add(s.of.limit)); err != nil {
		return 0, err
	}
	return s.Conn.Read(p)
}

func (s *stallConn) Write(p []byte) (int, error) {
	done := 0
	for {
		if err := s.SetDeadline(time.Now().Add(s.of.limit)); err != nil {
			return done, err
		}
		n, err := s.Conn.Write(p[:min(len(p), writeChunk)])
		done += n
		if p = p[n:]; err != nil || len(p) == 0 {
			return done, err
		}
	}
}

func (s *stallConn) Close() error {
	s.of.mu.Lock()
	delete(s.of.open, s)
	s.of.mu.Unlock()
	return s.Conn.Close()
}

// clearTextError says that a request was about to leave without encryption.
type clearTextError struct{ err error }

func (e *clearTextError) Error() string { return e.err.Error() }

// credentialHost says whether u is where a machine or container on AWS gets its credentials from: link-local addresses,
// which answer to http only (https://docs.aws.amazon.com/sdkref/latest/guide/feature-imds-credentials.html and
// feature-container-credentials.html).
func credentialHost(u *url.URL) bool {
	ip, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return false
	}
	return ip.IsLinkLocalUnicast() || ip == netip.MustParseAddr("fd00:ec2::254") || ip == netip.MustParseAddr("fd00:ec2::23")
}
