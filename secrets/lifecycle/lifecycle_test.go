package lifecycle

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/tablexport/tablexport/secrets/secretstest"
)

// market is a Marketplace that signs with a key, and may change it.
type market struct {
	mu      sync.Mutex
	key     *rsa.PrivateKey
	keyURL  string // "" = its own
	fetches int
	down    bool
	server  *httptest.Server
}

func newMarket(t testing.TB) *market {
	t.Helper()
	m := &market{}
	m.rotate(t)
	m.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		switch {
		case m.down:
			w.WriteHeader(http.StatusBadGateway)
		case r.URL.Path == "/key":
			m.fetches++
			der, _ := x509.MarshalPKIXPublicKey(&m.key.PublicKey)
			_ = pem.Encode(w, &pem.Block{Type: "PUBLIC KEY", Bytes: der})
		default:
			at := m.keyURL
			if at == "" {
				at = "/key"
			}
			_, _ = fmt.Fprintf(w, `{"endpoints":{"public_key":%q}}`, at)
		}
	}))
	t.Cleanup(m.server.Close)
	return m
}

func (m *market) rotate(t testing.TB) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.key = key
}

// sign makes the body of an event; the payload is sent as it stands, and signed in its compact form.
func (m *market) sign(t testing.TB, payload string) []byte {
	t.Helper()
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(payload)); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(compact.Bytes())
	sig, err := rsa.SignPKCS1v15(rand.Reader, m.key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return []byte(fmt.Sprintf(`{"schema":%q,"signature":%q,"payload":%s}`, envelopeSchema, base64.StdEncoding.EncodeToString(sig), payload))
}

// box is what a receiver delivers to.
type box struct {
	mu       sync.Mutex
	events   []Event
	records  []string
	err, rec error
}

func (b *box) receiver(t testing.TB, m *market, file string) *Receiver {
	t.Helper()
	r, err := New(Options{
		Expected:    []Expected{{Instance: "acme", BaseURL: "https://acme.my.erp.example", Application: "my.app/bi"}},
		Marketplace: m.server.URL + "/.well-known/marketplace.json", SeenFile: file,
		Deliver: func(_ context.Context, e Event) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.err == nil {
				b.events = append(b.events, e)
			}
			return b.err
		},
		Record: func(_ context.Context, outcome, id string, detail map[string]string) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.records = append(b.records, fmt.Sprint(outcome, " ", id, " ", detail))
			return b.rec
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func post(r *Receiver, body []byte) int {
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/events", bytes.NewReader(body)))
	return w.Code
}

// event is a payload, with line breaks that the compact form has not.
func event(id, token string, change ...string) string {
	text := fmt.Sprintf(`{
		"schema": %q, "eventId": %q, "event": "installed", "occurredAt": %q,
		"instanceBaseUrl": "https://acme.my.erp.example/", "user": "admin",
		"referenceToken": %q, "request": {"applicationUri": "my.app/bi"}
	}`, payloadSchema, id, time.Now().UTC().Format(time.RFC3339), token)
	return strings.NewReplacer(change...).Replace(text)
}

func TestEventIsDelivered(t *testing.T) {
	m, b, file := newMarket(t), &box{}, filepath.Join(t.TempDir(), "events")
	r := b.receiver(t, m, file)
	c := secretstest.NewCanary(t)
	id := uuid.NewString()
	body := m.sign(t, event(id, c.Value()))
	for range 3 {
		if code := post(r, body); code != http.StatusOK {
			t.Fatalf("answer %d: %v", code, b.records)
		}
	}
	if code := post(b.receiver(t, m, file), body); code != http.StatusOK { // after a restart
		t.Errorf("answer %d", code)
	}
	if len(b.events) != 1 || !b.events[0].ReferenceToken.Equal(c.Token) || b.events[0].Instance != "acme" || b.events[0].User != "admin" || !b.events[0].ClientSecret.IsZero() {
		t.Errorf("delivered: %+v", b.events)
	}
	if code := post(r, m.sign(t, event(uuid.NewString(), "", `"installed"`, `"uninstalled"`))); code != http.StatusOK || len(b.events) != 2 || b.events[1].Kind != Uninstalled {
		t.Errorf("uninstalled: %d, %+v", code, b.events)
	}
	c.Absent(t, "the records", []byte(strings.Join(b.records, "\n")))
	c.AbsentFromDir(t, filepath.Dir(file))
}

// Forged, replayed in another form, from elsewhere, too old, too early: nothing is delivered, and no word of it is repeated.
func TestEventsThatDoNotCount(t *testing.T) {
	m, b := newMarket(t), &box{}
	r := b.receiver(t, m, filepath.Join(t.TempDir(), "events"))
	c := secretstest.NewCanary(t)
	id := uuid.NewString()
	at := func(d time.Duration) []string {
		return []string{time.Now().UTC().Format(time.RFC3339), time.Now().Add(d).UTC().Format(time.RFC3339)}
	}
	forger := &market{}
	forger.rotate(t)
	good := m.sign(t, event(id, c.Value()))
	for name, test := range map[string]struct {
		body []byte
		want int
	}{
		"forged":               {forger.sign(t, event(id, c.Value())), 401},
		"changed afterwards":   {bytes.Replace(good, []byte(`"admin"`), []byte(`"adm1n"`), 1), 401},
		"another member order": {bytes.Replace(good, []byte(`"event": "installed", `), nil, 1), 401},
		"no signature":         {[]byte(`{"schema":"` + envelopeSchema + `","payload":` + event(id, c.Value()) + `}`), 400},
		"another schema":       {bytes.Replace(good, []byte(envelopeSchema), []byte("erpnet.appLifecycleEvent.v9"), 1), 400},
		"another payload":      {m.sign(t, event(id, c.Value(), payloadSchema, "x")), 400},
		"no event id":          {m.sign(t, event("1", c.Value())), 400},
		"another kind":         {m.sign(t, event(id, c.Value(), `"installed"`, `"exploded"`)), 400},
		"not a token":          {m.sign(t, event(id, "a b "+c.Value())), 400},
		"twenty minutes old":   {m.sign(t, event(id, c.Value(), at(-20*time.Minute)...)), 403},
		"in twenty minutes":    {m.sign(t, event(id, c.Value(), at(20*time.Minute)...)), 403},
		"another instance":     {m.sign(t, event(id, c.Value(), "acme.my", "evil.my")), 403},
		"plain http":           {m.sign(t, event(id, c.Value(), "https://acme", "http://acme")), 403},
		"another application":  {m.sign(t, event(id, c.Value(), "my.app/bi", "my.app/other")), 403},
		"nothing":              {nil, 400},
		"huge":                 {append(bytes.Clone(good), make([]byte, maxBody)...), 413},
	} {
		if code := post(r, test.body); code != test.want {
			t.Errorf("%s: answer %d, want %d", name, code, test.want)
		}
	}
	if len(b.events) != 0 {
		t.Errorf("delivered: %+v", b.events)
	}
	c.Absent(t, "the records", []byte(strings.Join(b.records, "\n")))
	w := httptest.NewRecorder()
	if r.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/events", nil)); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", w.Code)
	}
	for _, d := range []time.Duration{-10 * time.Minute, 10 * time.Minute} { // clocks that differ by ten minutes are no attack
		if code := post(r, m.sign(t, event(uuid.NewString(), c.Value(), at(d)...))); code != http.StatusOK {
			t.Errorf("clock off by %v: %d", d, code)
		}
	}
}

// What could not be stored, or recorded, is not acknowledged, and comes again.
func TestEventThatCannotBeStored(t *testing.T) {
	m, b := newMarket(t), &box{err: errors.New("the vault is sealed")}
	r := b.receiver(t, m, filepath.Join(t.TempDir(), "events"))
	body := m.sign(t, event(uuid.NewString(), "enrt_x"))
	if code := post(r, body); code != http.StatusServiceUnavailable {
		t.Errorf("answer %d", code)
	}
	b.err, b.rec = nil, errors.New("the disk is full")
	if code := post(r, body); code != http.StatusServiceUnavailable || len(b.events) != 0 {
		t.Errorf("unaudited: answer %d, %v", code, b.events)
	}
	b.rec = nil
	if code := post(r, body); code != http.StatusOK || len(b.events) != 1 {
		t.Errorf("again: answer %d, %v", code, b.events)
	}
}

// The key is cached, a new one is found, and forged events do not make us ask the Marketplace for ever.
func TestKeys(t *testing.T) {
	m, b := newMarket(t), &box{}
	r := b.receiver(t, m, filepath.Join(t.TempDir(), "events"))
	for range 5 {
		if code := post(r, m.sign(t, event(uuid.NewString(), "enrt_x"))); code != 200 {
			t.Fatal(code)
		}
	}
	if m.fetches != 1 {
		t.Errorf("%d fetches", m.fetches)
	}
	forger := &market{}
	forger.rotate(t)
	for range 50 {
		post(r, forger.sign(t, event(uuid.NewString(), "enrt_x")))
	}
	if m.fetches > 2 {
		t.Errorf("%d fetches for forged events", m.fetches)
	}
	m.rotate(t)
	r.keys.tried = time.Now().Add(-2 * keyPause)
	if code := post(r, m.sign(t, event(uuid.NewString(), "enrt_x"))); code != 200 {
		t.Errorf("after a rotation: %d", code)
	}
	m.down = true
	r.keys.tried, r.keys.fetched = time.Now().Add(-2*keyPause), time.Now().Add(-2*keyLife)
	if code := post(r, m.sign(t, event(uuid.NewString(), "enrt_x"))); code != 200 {
		t.Errorf("the Marketplace is away, the key is two hours old: %d", code)
	}
	r.keys.tried, r.keys.fetched = time.Now().Add(-2*keyPause), time.Now().Add(-2*keyStale)
	if code := post(r, m.sign(t, event(uuid.NewString(), "enrt_x"))); code != http.StatusServiceUnavailable {
		t.Errorf("two days old: %d", code)
	}
	other := newMarket(t)
	other.keyURL = m.server.URL + "/key"
	if code := post(b.receiver(t, other, filepath.Join(t.TempDir(), "events")), m.sign(t, event(uuid.NewString(), "enrt_x"))); code != http.StatusServiceUnavailable {
		t.Errorf("a key on another host: %d", code)
	}
}

// The same event by two connections at once is delivered once.
func TestEventAtOnce(t *testing.T) {
	m, b := newMarket(t), &box{}
	r := b.receiver(t, m, filepath.Join(t.TempDir(), "events"))
	body := m.sign(t, event(uuid.NewString(), "enrt_x"))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if code := post(r, body); code != 200 {
				t.Errorf("answer %d", code)
			}
		})
	}
	wg.Wait()
	if len(b.events) != 1 {
		t.Errorf("delivered %d times", len(b.events))
	}
}

func TestOptions(t *testing.T) {
	ok := Options{Expected: []Expected{{}}, SeenFile: filepath.Join(t.TempDir(), "x"), Deliver: func(context.Context, Event) error { return nil },
		Record: func(context.Context, string, string, map[string]string) error { return nil }}
	for name, change := range map[string]func(*Options){
		"plain http": func(o *Options) { o.Marketplace = "http://marketplace.example/x" }, "nobody expected": func(o *Options) { o.Expected = nil },
		"no deliver": func(o *Options) { o.Deliver = nil }, "no record": func(o *Options) { o.Record = nil }, "no file": func(o *Options) { o.SeenFile = "" },
	} {
		o := ok
		change(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
