package alert

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/smtp"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// client follows no redirects: what is signed for one address, or is a secret address, goes to no other.
var client = &http.Client{Timeout: timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// Webhook posts alerts as JSON, signed: the header Tablexport-Signature is "t=<seconds since 1970>,v1=<hex>", where v1 is the HMAC-SHA256
// under the secret of the time's digits, a dot, and the body. Whoever receives it compares, and refuses a time that is not of now.
type Webhook struct {
	URL        string
	SecretFile string // read at every alert, so that it can be replaced
}

// Send implements Channel.
func (w *Webhook) Send(ctx context.Context, a Alert) error {
	secret, err := readSecret(w.SecretFile)
	if err != nil {
		return err
	}
	body, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return post(ctx, w.URL, body, Sign(secret, time.Now(), body))
}

// Sign is the signature of a webhook's body.
func Sign(secret []byte, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(t + "."))
	mac.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}

// Chat posts alerts as {"text": …}, which the incoming webhooks of Slack, Mattermost and Teams' workflows take. Its address is a secret.
type Chat struct {
	URLFile string // read at every alert
}

// Send implements Channel.
func (c *Chat) Send(ctx context.Context, a Alert) error {
	address, err := readSecret(c.URLFile)
	if err != nil {
		return err
	}
	if u, err := url.Parse(string(address)); err != nil || u.Host == "" || u.Scheme != "https" && !loopback(u.Hostname()) {
		return errors.New("alert: the file of the chat's address holds no https address")
	}
	body, err := json.Marshal(map[string]string{"text": a.Subject() + "\n" + a.Body()})
	if err != nil {
		return err
	}
	return post(ctx, string(address), body, "")
}

func post(ctx context.Context, address string, body []byte, signature string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return errors.New("alert: the webhook's address cannot be used")
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("User-Agent", "tablexport")
	if signature != "" {
		req.Header.Set("Tablexport-Signature", signature)
	}
	resp, err := client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) { // its text holds the address, which may be a secret
			err = u.Err
		}
		return fmt.Errorf("alert: the webhook at %s was not reached: %w", req.URL.Host, err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection is used again
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("alert: the webhook at %s answered %d %s", req.URL.Host, resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	return nil
}

// readSecret reads a file's only line.
func readSecret(file string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("alert: %w", err)
	}
	text = bytes.TrimSpace(text)
	if len(text) == 0 || bytes.ContainsAny(text, "\r\n") {
		return nil, fmt.Errorf("alert: %s must hold one line", file)
	}
	return text, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Mail sends alerts by SMTP. The connection is encrypted (STARTTLS, or from the start on port 465); plain only to loopback addresses.
type Mail struct {
	Address      string // host:port
	From         string
	To           []string
	User         string // "" = no login
	PasswordFile string
	TLS          *tls.Config // tests only; nil = the usual one
}

// Send implements Channel.
func (m *Mail) Send(ctx context.Context, a Alert) error {
	host, port, err := net.SplitHostPort(m.Address)
	if err != nil {
		return fmt.Errorf("alert: the mail server's address: %w", err)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", m.Address)
	if err != nil {
		return fmt.Errorf("alert: %w", err)
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return fmt.Errorf("alert: %w", err)
		}
	}
	conf := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if m.TLS != nil {
		conf = m.TLS.Clone()
		conf.ServerName = host
	}
	if port == "465" {
		conn = tls.Client(conn, conf)
	}
	c, err := smtp.NewClient(conn, host)
	if err != nil {
		return fmt.Errorf("alert: the mail server %s: %w", host, err)
	}
	if err := m.converse(c, conf, host, port, a); err != nil {
		return fmt.Errorf("alert: the mail server %s: %w", host, err)
	}
	return nil
}

func (m *Mail) converse(c *smtp.Client, conf *tls.Config, host, port string, a Alert) error {
	if ok, _ := c.Extension("STARTTLS"); ok && port != "465" {
		if err := c.StartTLS(conf); err != nil {
			return err
		}
	} else if port != "465" && !loopback(host) {
		return errors.New("it offers no encryption (STARTTLS)")
	}
	if m.User != "" {
		password, err := readSecret(m.PasswordFile)
		if err != nil {
			return err
		}
		if err := c.Auth(smtp.PlainAuth("", m.User, string(password), host)); err != nil {
			return err
		}
	}
	if err := c.Mail(m.From); err != nil {
		return err
	}
	for _, to := range m.To {
		if err := c.Rcpt(to); err != nil {
			return err
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(m.message(a, time.Now())); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return c.Quit()
}

// message is the mail: RFC 5322, plain text.
func (m *Mail) message(a Alert, at time.Time) []byte {
	var b bytes.Buffer
	line := func(name, value string) { b.WriteString(name + ": " + oneLine(value) + "\r\n") }
	line("From", m.From)
	line("To", strings.Join(m.To, ", "))
	line("Subject", mime.QEncoding.Encode("utf-8", oneLine(a.Subject())))
	line("Date", at.Format(time.RFC1123Z))
	_, domain, _ := strings.Cut(strings.TrimSuffix(m.From, ">"), "@")
	line("Message-ID", "<"+uuid.NewString()+"@"+domain+">")
	line("Auto-Submitted", "auto-generated")
	line("MIME-Version", "1.0")
	line("Content-Type", "text/plain; charset=utf-8")
	line("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	q := quotedprintable.NewWriter(&b)
	_, _ = io.WriteString(q, strings.ReplaceAll(a.Body(), "\n", "\r\n")) // into memory
	_ = q.Close()
	return b.Bytes()
}

// oneLine keeps a text from beginning another header.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\r' || r == '\n' }), " ")
}

// Subject is an alert in one line.
func (a Alert) Subject() string {
	switch {
	case a.Over:
		return "[tablexport] over: " + a.Title
	case a.Again:
		return "[tablexport] " + string(a.Severity) + ", still: " + a.Title
	}
	return "[tablexport] " + string(a.Severity) + ": " + a.Title
}

// Body is an alert in words.
func (a Alert) Body() string {
	var b strings.Builder
	for _, part := range []struct{ name, text string }{{"", a.Text}, {"What to do: ", a.Do}, {"Job: ", a.Job}, {"Instance: ", a.Instance}, {"Run: ", a.Run},
		{"Ask: ", a.Owner}, {"Since: ", a.Since.Format(time.RFC3339)}} {
		if part.text != "" {
			b.WriteString(part.name + part.text + "\n")
		}
	}
	return b.String()
}
