// Package lifecycle receives the app lifecycle events of ERP.net's Marketplace: the delivery of a new token without copy and paste.
//
// An administrator approves the application; the Marketplace then POSTs a signed event that carries the token. A [Receiver] is the HTTP
// handler for it. An event counts only if the Marketplace's published key has signed its payload (RSA-SHA256 over the compact JSON), if it occurred
// within the window, if its id was not seen before, and if instance and application are those that the configuration expects. Nothing of an event
// that does not count is repeated, in an answer or a log.
//
// The token is handed to Options.Deliver, which puts it into the vault's staged slot, before the sender gets its 2xx: a token
// that was acknowledged is not lost by a crash, and one that could not be stored is answered with 503, so that it can be sent again. Whatever comes
// after that (verifying, activating) is work for others.
package lifecycle

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tablexport/tablexport/secrets"
)

// Schemas of the envelope and of its payload.
const (
	envelopeSchema = "erpnet.appLifecycleEvent.v2"
	payloadSchema  = "erpnet.appLifecycleEvent.v1"
)

// Limits of what is read and waited for.
const (
	maxBody        = 64 << 10
	defaultWindow  = 15 * time.Minute
	deliverTimeout = 20 * time.Second
)

// Expected is an instance that may send events, for one application.
type Expected struct {
	Instance    string // its name in the configuration
	BaseURL     string // https://acme.my.erp.net
	Application string // URI of the trusted application
}

// Kind is what happened.
type Kind string

// The kinds.
const (
	Installed   Kind = "installed"
	Uninstalled Kind = "uninstalled"
)

// Event is an event that counts. Tokens are zero where it carries none.
type Event struct {
	ID             string
	Kind           Kind
	Instance       string // name in the configuration
	Occurred       time.Time
	User           string // who approved it
	ReferenceToken secrets.Token
	ClientSecret   secrets.Token
}

// Options says what a Receiver accepts, and what it does with it.
type Options struct {
	Expected []Expected
	// Marketplace is the address of the document that names the public key ("https://marketplace.erp.net/.well-known/marketplace.json").
	Marketplace string
	Client      *http.Client  // nil = one of its own, which follows no redirect
	Window      time.Duration // how far occurredAt may be from this machine's clock, either way (15 min)
	SeenFile    string        // where ids of events are remembered across restarts
	// Deliver stores what an event brings. Its error answers 503, and the event may come again.
	Deliver func(ctx context.Context, e Event) error
	// Record writes to the audit log: every event that was accepted, and every refusal, by its reason. Its error refuses the event.
	Record func(ctx context.Context, outcome, eventID string, detail map[string]string) error
}

// Receiver is an http.Handler for lifecycle events. It is safe for concurrent use.
type Receiver struct {
	opts Options
	keys *keyring
	seen *memory
}

// New checks opts, and reads what was seen before.
func New(opts Options) (*Receiver, error) {
	if opts.Marketplace == "" {
		opts.Marketplace = "https://marketplace.erp.net/.well-known/marketplace.json"
	}
	if opts.Window <= 0 {
		opts.Window = defaultWindow
	}
	u, err := url.Parse(opts.Marketplace)
	if err != nil || u.Host == "" || u.Scheme != "https" && !secrets.Loopback(u.Host) {
		return nil, errors.New("lifecycle: the address of the Marketplace must start with https://")
	}
	if opts.Deliver == nil || opts.Record == nil || opts.SeenFile == "" || len(opts.Expected) == 0 {
		return nil, errors.New("lifecycle: an instance to expect, a place to remember events, Deliver and Record are needed")
	}
	seen, err := openMemory(opts.SeenFile, 2*opts.Window)
	if err != nil {
		return nil, err
	}
	return &Receiver{opts: opts, keys: &keyring{document: u, client: opts.Client}, seen: seen}, nil
}

// refusal is why an event does not count: a status for the sender, a reason for the audit log.
type refusal struct {
	status int
	reason string
}

func (r *refusal) Error() string { return r.reason }

func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

// envelope is the body of a request.
type envelope struct {
	Schema    string          `json:"schema"`
	Signature string          `json:"signature"`
	Payload   json.RawMessage `json:"payload"`
}

type payload struct {
	Schema          string    `json:"schema"`
	EventID         string    `json:"eventId"`
	Event           Kind      `json:"event"`
	OccurredAt      time.Time `json:"occurredAt"`
	InstanceBaseURL string    `json:"instanceBaseUrl"`
	User            string    `json:"user"`
	ClientSecret    string    `json:"clientSecret"`
	ReferenceToken  string    `json:"referenceToken"`
	Request         struct {
		ApplicationURI string `json:"applicationUri"`
	} `json:"request"`
}

// ServeHTTP implements http.Handler. 200: the event is stored, or was before. 503: it could not be stored; send it again.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if req.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "POST an event", http.StatusMethodNotAllowed)
		return
	}
	id, err := r.receive(req)
	if err == nil {
		w.WriteHeader(http.StatusOK)
		return
	}
	status := http.StatusServiceUnavailable
	var refused *refusal
	if errors.As(err, &refused) {
		status = refused.status
	}
	// The reason goes to the audit log; who sent it learns no more than the status: it may be anyone.
	_ = r.opts.Record(context.WithoutCancel(req.Context()), "refused", id, map[string]string{"reason": err.Error()})
	http.Error(w, http.StatusText(status), status)
}

// receive judges an event and delivers it. id is known only once the signature was found good.
func (r *Receiver) receive(req *http.Request) (id string, err error) {
	body, err := io.ReadAll(http.MaxBytesReader(nil, req.Body, maxBody))
	defer clear(body)
	if err != nil {
		return "", refuse(http.StatusRequestEntityTooLarge, "the body is longer than %d KiB, or broke off", maxBody>>10)
	}
	var e envelope
	if json.Unmarshal(body, &e) != nil || e.Schema != envelopeSchema || len(e.Payload) == 0 {
		return "", refuse(http.StatusBadRequest, "the body is no event of schema %s", envelopeSchema)
	}
	if err := r.verify(req.Context(), e); err != nil {
		return "", err
	}
	var p payload
	if json.Unmarshal(e.Payload, &p) != nil || p.Schema != payloadSchema || !guid(p.EventID) {
		return "", refuse(http.StatusBadRequest, "the payload is no event of schema %s", payloadSchema)
	}
	event, err := r.judge(p)
	if err != nil {
		return p.EventID, err
	}
	return p.EventID, r.deliver(req.Context(), event)
}

// verify checks the signature over the compact payload. A key that does not fit is fetched anew, now and then: keys are rotated.
func (r *Receiver) verify(ctx context.Context, e envelope) error {
	signature, err := base64.StdEncoding.DecodeString(e.Signature)
	if err != nil || len(signature) == 0 {
		return refuse(http.StatusBadRequest, "the signature is not base64")
	}
	var compact bytes.Buffer
	if json.Compact(&compact, e.Payload) != nil {
		return refuse(http.StatusBadRequest, "the payload is not JSON")
	}
	defer clear(compact.Bytes())
	sum := sha256.Sum256(compact.Bytes())
	for _, again := range []bool{false, true} {
		key, fresh, err := r.keys.get(ctx, again)
		if err != nil {
			return err
		}
		if rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], signature) == nil {
			return nil
		}
		if fresh {
			break
		}
	}
	return refuse(http.StatusUnauthorized, "the signature is not the Marketplace's")
}

// judge holds a signed payload to what is expected.
func (r *Receiver) judge(p payload) (Event, error) {
	if d := time.Since(p.OccurredAt); d > r.opts.Window || d < -r.opts.Window {
		return Event{}, refuse(http.StatusForbidden, "it occurred at %s, which is further from this machine's clock than %s", p.OccurredAt.UTC().Format(time.RFC3339), r.opts.Window)
	}
	instance := ""
	for _, expected := range r.opts.Expected {
		if sameAddress(expected.BaseURL, p.InstanceBaseURL) && same(expected.Application, p.Request.ApplicationURI) {
			instance = expected.Instance
		}
	}
	if instance == "" {
		return Event{}, refuse(http.StatusForbidden, "no instance in the configuration expects this address and application")
	}
	event := Event{ID: strings.ToLower(p.EventID), Kind: p.Event, Instance: instance, Occurred: p.OccurredAt, User: p.User}
	if event.Kind != Installed && event.Kind != Uninstalled {
		return Event{}, refuse(http.StatusBadRequest, "the kind of event is not known")
	}
	for text, into := range map[string]*secrets.Token{p.ReferenceToken: &event.ReferenceToken, p.ClientSecret: &event.ClientSecret} {
		if text == "" {
			continue
		}
		token, err := secrets.NewToken([]byte(text))
		if err != nil {
			return Event{}, refuse(http.StatusBadRequest, "what it carries is no token")
		}
		*into = token
	}
	return event, nil
}

// deliver stores an event once. Whoever sends it again gets the same answer, and nothing is done.
func (r *Receiver) deliver(ctx context.Context, e Event) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deliverTimeout)
	defer cancel()
	return r.seen.once(e.ID, func() error {
		detail := map[string]string{"event": string(e.Kind), "instance": e.Instance, "user": e.User, "occurred": e.Occurred.UTC().Format(time.RFC3339)}
		if err := r.opts.Record(ctx, "started", e.ID, detail); err != nil {
			return err
		}
		if err := r.opts.Deliver(ctx, e); err != nil {
			return err
		}
		return r.opts.Record(ctx, "ok", e.ID, detail)
	})
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// sameAddress compares instance addresses: scheme, host and port, and the path but for a slash at its end.
func sameAddress(a, b string) bool {
	u, err1 := url.Parse(a)
	v, err2 := url.Parse(b)
	if err1 != nil || err2 != nil || u.Host == "" || v.Host == "" || u.User != nil || v.User != nil || u.Scheme != v.Scheme {
		return false
	}
	x, err1 := secrets.CanonicalHost(u.Host)
	y, err2 := secrets.CanonicalHost(v.Host)
	return err1 == nil && err2 == nil && same(x, y) && same(strings.TrimSuffix(u.Path, "/"), strings.TrimSuffix(v.Path, "/"))
}

// guid says whether text is a GUID of 36 characters.
func guid(text string) bool {
	if len(text) != 36 {
		return false
	}
	for i, c := range []byte(text) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		hex := c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
		if dash != (c == '-') || !dash && !hex {
			return false
		}
	}
	return true
}
