package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	sim "github.com/tablexport/tablexport/odata/simulator"
)

// link is a road to the instance: so many bits a second, which all connections share, and so much time to and fro.
type link struct {
	Name  string
	bits  float64 // per second; 0: as fast as this machine
	delay time.Duration
	rows  int64
}

var links = []link{
	{"this machine", 0, 0, 1_000_000},
	{"1 Gbit/s, 1 ms", 1e9, time.Millisecond, 400_000},
	{"100 Mbit/s, 20 ms", 100e6, 20 * time.Millisecond, 400_000},
	{"20 Mbit/s, 60 ms", 20e6, 60 * time.Millisecond, 100_000},
}

// The choice may cost so much more time than the better coding: it has to be found.
const worstChoice = 1.35

// offers are what the instance and the program agree on: the program's setting, and whether the simulator knows zstd beside gzip.
var offers = []struct {
	encoding string
	zstd     bool
}{{"identity", false}, {"gzip", false}, {"zstd", true}, {"auto", false}, {"auto", true}}

// linked is a run over a link.
type linked struct {
	Link     string  `json:"link"`
	Encoding string  `json:"encoding"`
	Zstd     bool    `json:"zstd"` // the server offers it
	Rows     int64   `json:"rows"`
	Seconds  float64 `json:"seconds"`
	CPUPerM  float64 `json:"cpuSecondsPerMillionRows"`
	PeakMiB  float64 `json:"peakMiB"`
	WireMiB  float64 `json:"wireMiB"`
}

// overLinks reads a table over TLS on links of several kinds, with plain answers, with compressed ones, and as the program chooses from a server with and
// without zstd. The address is not a loopback, because there the program begins with plain answers.
func (t tools) overLinks(ctx context.Context, r *report) error {
	host, err := ownAddress()
	if err != nil {
		return err
	}
	fmt.Printf("\n%d columns over TLS, to %s\n\n%-20s %-10s %9s %9s %10s %13s %9s %9s\n", len(twenty), host, "link", "encoding", "rows", "seconds", "rows/s", "CPU s/M rows", "wire MiB", "peak MiB")
	var m missed
	for _, l := range links {
		taken := map[string]float64{}
		for _, o := range offers {
			one, err := t.overLink(ctx, host, l, o.encoding, o.zstd)
			if err != nil {
				return err
			}
			r.Links = append(r.Links, one)
			fmt.Printf("%-20s %-10s %9d %9.1f %10.0f %13.2f %9.0f %9.0f\n", one.Link, one.coding(), one.Rows, one.Seconds, float64(one.Rows)/one.Seconds, one.CPUPerM, one.WireMiB, one.PeakMiB)
			taken[one.coding()] = one.Seconds
			if o.encoding == "auto" {
				packed := "gzip"
				if o.zstd {
					packed = "zstd"
				}
				if best := min(taken["identity"], taken[packed]); one.Seconds > worstChoice*best {
					m = append(m, fmt.Sprintf("%s, %s: the program's choice takes %.2f times the better coding's time, the bar is %.2f", l.Name, one.coding(), one.Seconds/best, worstChoice))
				}
			}
			if one.PeakMiB > maxRSS {
				m = append(m, fmt.Sprintf("%s, %s: a peak of %.0f MiB, the bar is %d", l.Name, one.coding(), one.PeakMiB, maxRSS))
			}
		}
	}
	if len(m) > 0 {
		return m
	}
	return nil
}

const linksConfig = `environment: sandbox
secrets: {file: {path: ./secrets.age}}
instances: {sim: {url: %q, ca_file: ./ca.pem, token: bench/reader, requests_per_minute: 100000, encoding: %s}}
stores: {lake: {file: {path: ./lake}}}
scopes: {lines: {where: "Sales_Order_Line_Id ge 00000000-0000-0000-0000-000000000000"}}
jobs:
  lines:
    instance: sim
    table: %s
    select: [%s]
    scope: lines
    store: lake
    path: lines
    paging: {page_size: 10000}
`

// coding is a name for what was agreed on.
func (l linked) coding() string {
	if l.Encoding == "auto" && l.Zstd {
		return "auto+zstd"
	}
	return l.Encoding
}

func (t tools) overLink(ctx context.Context, host string, l link, encoding string, zstd bool) (linked, error) {
	one := linked{Link: l.Name, Encoding: encoding, Zstd: zstd, Rows: l.rows}
	server, err := sim.New(sim.Options{Seed: 1, Zstd: zstd, Rows: map[string]int64{table: l.rows}})
	if err != nil {
		return one, err
	}
	dir, err := os.MkdirTemp(t.dir, "link-")
	if err != nil {
		return one, err
	}
	defer os.RemoveAll(dir)
	conf, err := certificate(host, filepath.Join(dir, "ca.pem"))
	if err != nil {
		return one, err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return one, err
	}
	paced := newPaced(listener, l)
	far := &http.Server{Handler: server, TLSConfig: conf, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = far.ServeTLS(paced, "", "") }() // ends with Close
	defer far.Close()
	config := filepath.Join(dir, "tablexport.yaml")
	text := fmt.Appendf(nil, linksConfig, "https://"+listener.Addr().String(), encoding, table, strings.Join(twenty, ", "))
	if err := os.WriteFile(config, text, 0o640); err != nil {
		return one, err
	}
	stage := exec.CommandContext(ctx, t.tablexport, "-c", config, "tokens", "stage", "bench/reader", "--activate")
	stage.Stdin, stage.Stderr = strings.NewReader(sim.DemoToken), os.Stderr
	if err := stage.Run(); err != nil {
		return one, fmt.Errorf("stage: %w", err)
	}
	paced.sent.Store(0)
	c, err := t.process(ctx, t.tablexport, "-c", config, "run", "lines", "--json")
	if err != nil {
		return one, err
	}
	var said struct{ Rows int64 }
	if err := json.Unmarshal(c.out, &said); err != nil {
		return one, err
	}
	if said.Rows != l.rows {
		return one, fmt.Errorf("%d rows were published, %d are there", said.Rows, l.rows)
	}
	one.Seconds, one.CPUPerM, one.PeakMiB = c.Wall, c.CPU/float64(l.rows)*1e6, c.PeakMiB
	one.WireMiB = float64(paced.sent.Load()) / (1 << 20)
	return one, nil
}

// ownAddress is one of this machine's that is not a loopback.
func ownAddress() (string, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String(), nil
		}
	}
	return "", errors.New("this machine has no address but its loopback")
}

// certificate makes a server's certificate for a host, and writes it where a client finds it.
func certificate(host, file string) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	made := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.ParseIP(host)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, made, made, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o640); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, nil
}

// pacedListener lets what is sent over its connections go as slowly as over the link.
type pacedListener struct {
	net.Listener
	limit *rate.Limiter // bytes; nil: there is none
	delay time.Duration
	sent  atomic.Int64
}

const (
	pacedPiece = 16 << 10 // bytes that go at once: a TLS record
	pacedTick  = 200      // per second: no timer is as exact as a fast link
)

func newPaced(l net.Listener, of link) *pacedListener {
	p := &pacedListener{Listener: l, delay: of.delay}
	if of.bits > 0 {
		p.limit = rate.NewLimiter(rate.Limit(of.bits/8), max(2*pacedPiece, int(of.bits/8/pacedTick)))
	}
	return p
}

func (p *pacedListener) Accept() (net.Conn, error) {
	conn, err := p.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &pacedConn{Conn: conn, of: p}, nil
}

type pacedConn struct {
	net.Conn
	of    *pacedListener
	asked atomic.Bool // something came, and nothing went since
}

func (c *pacedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.asked.Store(true)
	}
	return n, err
}

func (c *pacedConn) Write(b []byte) (n int, err error) {
	if c.asked.Swap(false) {
		time.Sleep(c.of.delay)
	}
	for len(b) > 0 {
		piece := b[:min(len(b), pacedPiece)]
		if c.of.limit != nil {
			if err := c.of.limit.WaitN(context.Background(), len(piece)); err != nil {
				return n, err
			}
		}
		sent, err := c.Conn.Write(piece)
		n += sent
		c.of.sent.Add(int64(sent))
		if err != nil {
			return n, err
		}
		b = b[len(piece):]
	}
	return n, nil
}
