package alert

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// recorder is a channel that a test has in hand.
type recorder struct {
	mu    sync.Mutex
	got   []string
	fails int // so many times
	hangs bool
}

func (r *recorder) Send(ctx context.Context, a Alert) error {
	if r.hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fails > 0 {
		r.fails--
		return errors.New("not now")
	}
	r.got = append(r.got, a.Subject())
	return nil
}

// shelf is a store in memory.
type shelf struct {
	mu   sync.Mutex
	kept map[string]Open
	err  error
}

func (s *shelf) store() Store {
	return Store{
		Load: func(context.Context) ([]Open, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			var all []Open
			for _, o := range s.kept {
				all = append(all, o)
			}
			return all, nil
		},
		Save: func(_ context.Context, o Open) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.kept[o.Key] = o
			return s.err
		},
		Remove: func(_ context.Context, key string) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.kept, key)
			return s.err
		},
	}
}

func desk(s *shelf, channels map[string]Channel, sent func(string, bool)) *Desk {
	return &Desk{Channels: channels, Store: s.store(), Log: slog.New(slog.DiscardHandler), Sent: sent}
}

// A trouble is told once, again when it lasts, and once when it is over; a restart tells nothing anew.
func TestDesk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, s := &recorder{}, &shelf{kept: map[string]Open{}}
		want := func(texts ...string) {
			t.Helper()
			synctest.Wait()
			r.mu.Lock()
			defer r.mu.Unlock()
			if !slices.Equal(r.got, texts) {
				t.Errorf("%q, want %q", r.got, texts)
			}
			r.got = nil
		}
		a := Alert{Key: "failure/a", Kind: "failure", Severity: Warning, Title: "a failed"}
		d := desk(s, map[string]Channel{"ops": r}, nil)
		stop, err := d.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			d.Raise(t.Context(), a)
			time.Sleep(time.Hour)
		}
		d.Resolve(t.Context(), "failure/b", "never told")
		want("[tablexport] warning: a failed")
		stop()
		d = desk(s, map[string]Channel{"ops": r}, nil)
		if stop, err = d.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		d.Raise(t.Context(), a)
		want()
		time.Sleep(20 * time.Hour)
		d.Raise(t.Context(), a)
		want("[tablexport] warning, still: a failed")
		d.Resolve(t.Context(), a.Key, "good again")
		d.Resolve(t.Context(), a.Key, "good again")
		want("[tablexport] over: a failed")
		d.Raise(t.Context(), a)
		d.Once(Alert{Key: "schema/a", Severity: Info, Title: "a has a new column"})
		want("[tablexport] warning: a failed", "[tablexport] info: a has a new column")
		if open := d.Standing(); len(open) != 1 || open[0].Key != a.Key || len(s.kept) != 1 {
			t.Errorf("%v", open)
		}
		s.err = errors.New("disk full") // it is told all the same
		d.Raise(t.Context(), Alert{Key: "x", Severity: Critical, Title: "x"})
		want("[tablexport] critical: x")
		stop()
	})
}

// A channel that fails is tried again, one that hangs keeps nobody waiting, and what was not sent is counted.
func TestDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		counts := map[string]int{}
		sent := func(channel string, ok bool) { mu.Lock(); counts[fmt.Sprint(channel, ok)]++; mu.Unlock() }
		flaky, dead, hung, good := &recorder{fails: 3}, &recorder{fails: 1000}, &recorder{hangs: true}, &recorder{}
		d := desk(&shelf{kept: map[string]Open{}}, map[string]Channel{"flaky": flaky, "dead": dead, "hung": hung, "good": good}, sent)
		ctx, cancel := context.WithCancel(t.Context())
		stop, err := d.Run(ctx)
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		for i := range queued + 5 {
			d.Once(Alert{Key: fmt.Sprint(i), Severity: Info, Title: fmt.Sprint(i)})
		}
		if time.Since(begun) > 0 {
			t.Error("whoever tells waits for a channel")
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(flaky.got) < queued-1 || len(good.got) < queued {
			t.Errorf("%d and %d were sent", len(flaky.got), len(good.got))
		}
		cancel()
		stop() // what waits is tried once more each
		mu.Lock()
		defer mu.Unlock()
		if counts["deadfalse"] != queued+5 || counts["hungfalse"] != queued+5 || counts["deadtrue"] != 0 {
			t.Errorf("%v", counts)
		}
	})
}

func secret(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

var example = Alert{Key: "failure/a", Kind: "failure", Severity: Warning, Job: "a", Title: "ä failed\r\nBcc: everyone@example.com", Text: "why", Do: "look", Since: time.Date(2026, 11, 25, 5, 15, 0, 0, time.UTC)}

func TestWebhooks(t *testing.T) {
	var body []byte
	var signature string
	status := 204
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ = io.ReadAll(r.Body)
		signature = r.Header.Get("Tablexport-Signature")
		if status == 302 {
			w.Header().Set("Location", "https://elsewhere.example/")
		}
		w.WriteHeader(status)
	}))
	defer server.Close()
	hook := &Webhook{URL: server.URL + "/path", SecretFile: secret(t, "s3cret")}
	if err := hook.Send(t.Context(), example); err != nil {
		t.Fatal(err)
	}
	var at int64
	var mac string
	if _, err := fmt.Sscanf(strings.Replace(signature, ",", " ", 1), "t=%d v1=%s", &at, &mac); err != nil || time.Since(time.Unix(at, 0)) > time.Minute {
		t.Errorf("%q %v", signature, err)
	}
	if want := Sign([]byte("s3cret"), time.Unix(at, 0), body); want != signature || Sign([]byte("other"), time.Unix(at, 0), body) == signature || Sign([]byte("s3cret"), time.Unix(at, 0), append(body, ' ')) == signature {
		t.Errorf("%q, want %q", signature, want)
	}
	// The known answer, made with: printf '1700000000.{}' | openssl dgst -sha256 -hmac key
	if got := Sign([]byte("key"), time.Unix(1700000000, 0), []byte("{}")); got != "t=1700000000,v1="+knownMAC {
		t.Error(got)
	}
	var back Alert
	if err := json.Unmarshal(body, &back); err != nil || back != example {
		t.Errorf("%+v %v", back, err)
	}
	chat := &Chat{URLFile: secret(t, server.URL+"/services/T0/SECRET")}
	if err := chat.Send(t.Context(), example); err != nil {
		t.Fatal(err)
	}
	var text struct{ Text string }
	if err := json.Unmarshal(body, &text); err != nil || !strings.Contains(text.Text, "What to do: look") || signature != "" {
		t.Errorf("%s %v", body, err)
	}
	for _, status = range []int{302, 400, 500} {
		if err := chat.Send(t.Context(), example); err == nil || strings.Contains(err.Error(), "SECRET") || !strings.Contains(err.Error(), fmt.Sprint(status)) {
			t.Errorf("%d: %v", status, err)
		}
	}
	server.Close()
	for _, c := range []Channel{chat, hook, &Chat{URLFile: secret(t, "http://chat.example/SECRET")}, &Chat{URLFile: secret(t, "two\nlines")}, &Chat{URLFile: "/nowhere"}, &Webhook{URL: hook.URL, SecretFile: secret(t, "")}} {
		if err := c.Send(t.Context(), example); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%v", err)
		}
	}
}

// mailServer takes one mail in the plain, as a relay on this machine does.
func mailServer(t *testing.T, extensions string) (address string, got func() string) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	done := make(chan string, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		var all strings.Builder
		in := bufio.NewReader(conn)
		say := func(s string) { _, _ = io.WriteString(conn, s+"\r\n") }
		say("220 relay")
		for data := false; ; {
			line, err := in.ReadString('\n')
			if err != nil {
				break
			}
			all.WriteString(line)
			switch {
			case data && line == ".\r\n":
				data = false
				say("250 ok")
			case data:
			case strings.HasPrefix(line, "EHLO"):
				say("250" + extensions)
			case strings.HasPrefix(line, "DATA"):
				data = true
				say("354 go on")
			case strings.HasPrefix(line, "QUIT"):
				say("221 bye")
			default:
				say("250 ok")
			}
		}
		done <- all.String()
	}()
	return l.Addr().String(), func() string { return <-done }
}

func TestMail(t *testing.T) {
	address, got := mailServer(t, " relay")
	m := &Mail{Address: address, From: "tablexport@acme.example", To: []string{"a@acme.example", "b@acme.example"}}
	if err := m.Send(t.Context(), example); err != nil {
		t.Fatal(err)
	}
	said := got()
	_, text, _ := strings.Cut(said, "DATA\r\n")
	text, _, _ = strings.Cut(text, "\r\n.\r\n")
	msg, err := mail.ReadMessage(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(msg.Header.Get("Subject"))
	if err != nil || !strings.Contains(subject, "ä failed") || msg.Header.Get("Bcc") != "" || msg.Header.Get("Message-Id") == "" || strings.Count(said, "RCPT TO:") != 2 {
		t.Errorf("%q %v\n%s", subject, err, said)
	}
	if body, err := io.ReadAll(quotedprintable.NewReader(msg.Body)); err != nil || !strings.Contains(string(body), "What to do: look") {
		t.Errorf("%q %v", body, err)
	}
	// A password is never sent in the plain to another machine, and a server that is away is an error in bounded time.
	if err := (&Mail{Address: "127.0.0.1:1", From: "a@b.example", To: []string{"c@d.example"}}).Send(t.Context(), example); err == nil {
		t.Error("nobody was there")
	}
	address, got = mailServer(t, " relay")
	_, port, _ := net.SplitHostPort(address)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := (&Mail{Address: "ip6-localhost-not:" + port, From: "a@b.example", To: []string{"c@d.example"}}).Send(ctx, example); err == nil {
		t.Error("a name that does not exist")
	}
	m = &Mail{Address: address, From: "a@b.example", To: []string{"c@d.example"}, User: "u", PasswordFile: secret(t, "p4ss")}
	if err := m.Send(t.Context(), example); err == nil || strings.Contains(err.Error(), "p4ss") { // the relay offers no login
		t.Errorf("%v", err)
	}
	if said := got(); strings.Contains(said, "p4ss") || strings.Contains(said, "DATA") {
		t.Errorf("%s", said)
	}
}

const knownMAC = "9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae"
