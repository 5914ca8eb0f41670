// Package gate decides who may ask the serving program for what.
//
// Every route says what it takes to be answered ([Access]); one that says nothing is closed to everybody. Whoever asks is one of
//
//   - this machine, where the program listens on loopback without authentication: it may read, and change nothing;
//   - the subject of an OIDC bearer token ([OIDC]), or the holder of a TLS client certificate, with the roles that the configuration
//     gives them;
//   - nobody: they get what is open.
//
// The order of a request, each step refusing on its own:
//
//	headers of every answer → bound of the body → name of the host (loopback only) → who is it → how often → from another site → may they
//
// There are no cookies and no sessions, so a page of another site cannot use what a browser holds, but for a client certificate:
// requests that change something must be JSON and must not come from another site (Sec-Fetch-Site, Origin).
//
// It imports nothing of ours.
package gate

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"
)

// Access is what it takes to be answered.
type Access int

// The kinds of access. The zero value is for nobody.
const (
	Closed  Access = iota
	Open           // everybody: health
	Signed         // everybody, under every name of this host, from any site: the request proves itself to its handler
	View           // datasets, jobs, runs, numbers
	Audit          // tokens and who used them
	Operate        // pause, resume, run, cancel
)

// Role is what somebody is to the program.
type Role string

// The roles.
const (
	Viewer   Role = "viewer"
	Operator Role = "operator"
	Auditor  Role = "auditor"
	Admin    Role = "admin"
)

// Roles are all roles.
var Roles = []Role{Viewer, Operator, Auditor, Admin}

// May reports whether the role is enough.
func (r Role) May(a Access) bool {
	switch a {
	case Open, Signed:
		return true
	case View:
		return slices.Contains(Roles, r)
	case Audit:
		return r == Auditor || r == Admin
	case Operate:
		return r == Operator || r == Admin
	}
	return false
}

// Caller is whoever asks.
type Caller struct {
	Name  string // as the audit log names it: "oidc:alice", "cert:grafana.acme.example"; "" = nobody
	Roles []Role
}

// May reports whether one of the roles is enough.
func (c Caller) May(a Access) bool {
	return a == Open || a == Signed || slices.ContainsFunc(c.Roles, func(r Role) bool { return r.May(a) })
}

type callerKey struct{}

// From is whoever has sent the request of a handler.
func From(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// Reason is why a request was refused. It is the label of a metric.
type Reason string

// The reasons.
const (
	Anonymous   Reason = "unauthenticated" // no credential
	BadToken    Reason = "invalid_token"
	NoVerdict   Reason = "issuer_unavailable" // the keys that would prove a token cannot be had
	Forbidden   Reason = "forbidden"
	TooOften    Reason = "rate"
	CrossSite   Reason = "cross_site"
	ForeignHost Reason = "host"
)

// Reasons are all reasons.
var Reasons = []Reason{Anonymous, BadToken, NoVerdict, Forbidden, TooOften, CrossSite, ForeignHost}

// ErrUnavailable is wrapped by errors of a [Verifier] that could not find out.
var ErrUnavailable = errors.New("gate: the issuer's keys cannot be had")

// Verifier proves bearer tokens.
type Verifier interface {
	Verify(ctx context.Context, token string) (Caller, error)
}

// Options are how a Gate decides. The zero value is for handlers that are reached over loopback only: everybody may read, nobody may
// change anything.
type Options struct {
	Bearer       Verifier          // nil: bearer tokens prove nothing
	Certificates map[string][]Role // roles by what a certificate is for; see [NamesOf]
	// Believed says whether a connection's certificate would be believed at its handshake now ([Files.Believed]); nil: that it was is enough.
	Believed  func(*tls.ConnectionState, time.Time) error
	Secure    bool         // answers go over TLS
	PerMinute int          // requests of one caller; 0 = any number
	Strangers int          // requests per minute of one address that has proven nothing; 0 = any number
	Refused   func(Reason) // counts; may be nil
	// Record is called before a caller is refused something that would change something: for the audit log. May be nil.
	Record func(ctx context.Context, c Caller, address, route string, why Reason)
	Log    *slog.Logger
	Now    func() time.Time
}

// Gate answers in the place of handlers until it is clear that they may.
type Gate struct {
	Options
	callers, strangers *buckets
	cross              *http.CrossOriginProtection
	noted              rate.Sometimes // lines in the log about tokens that prove nothing
}

// New returns a Gate.
func New(o Options) *Gate {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Refused == nil {
		o.Refused = func(Reason) {}
	}
	return &Gate{Options: o, callers: newBuckets(o.PerMinute), strangers: newBuckets(o.Strangers), cross: http.NewCrossOriginProtection(),
		noted: rate.Sometimes{First: 5, Interval: 10 * time.Second}}
}

// local reports whether there is no authentication, so that only requests over loopback may be answered.
func (g *Gate) local() bool { return g.Bearer == nil && len(g.Certificates) == 0 }

// Mux is a ServeMux whose routes say who may.
type Mux struct {
	mux    *http.ServeMux
	access map[string]Access
}

// NewMux returns a Mux without routes.
func NewMux() *Mux { return &Mux{mux: http.NewServeMux(), access: map[string]Access{}} }

// Handle registers a route.
func (m *Mux) Handle(a Access, pattern string, h http.Handler) {
	m.mux.Handle(pattern, h)
	m.access[pattern] = a
}

// HandleFunc registers a route.
func (m *Mux) HandleFunc(a Access, pattern string, h http.HandlerFunc) { m.Handle(a, pattern, h) }

// Routes are the patterns and what each takes.
func (m *Mux) Routes() map[string]Access { return m.access }

const maxBody = 64 << 10

// Guard is the handler of the mux behind the gate.
func (g *Gate) Guard(m *Mux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if g.Secure {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		_, pattern := m.mux.Handler(r)
		access := m.access[pattern]
		if pattern == "" { // 404, or 405: what there is and what not is for those who may look
			access = View
		}
		// A page of another site whose name was made to point here (DNS rebinding) still sends that name. Where callers prove who they
		// are, it has nothing to prove it with.
		if g.local() && access != Signed && !loopback(r.Host) {
			g.refuse(w, r, http.StatusMisdirectedRequest, ForeignHost, "this address is for this machine only")
			return
		}
		c, ok := g.admit(w, r, access)
		if !ok {
			return
		}
		why, text := Reason(""), ""
		switch {
		case access != Signed && g.cross.Check(r) != nil:
			why, text = CrossSite, "this request comes from a page of another site"
		case !c.May(access):
			why, text = Forbidden, "this is not for you: it takes another role"
		}
		if why == "" {
			m.mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
			return
		}
		// What would have changed something is on record, but nobody fills the audit log with it: whoever asks for what they may not is paced
		// as a stranger is.
		if access == Operate && g.Record != nil {
			if !g.pace(w, r, g.strangers, "refused "+c.Name) {
				return
			}
			g.Record(r.Context(), c, r.RemoteAddr, pattern, why)
		}
		g.refuse(w, r, http.StatusForbidden, why, text)
	})
}

// admit finds out who asks, and whether not too often. What is open needs no proof, and none is looked at.
func (g *Gate) admit(w http.ResponseWriter, r *http.Request, access Access) (Caller, bool) {
	address := addressOf(r.RemoteAddr)
	switch {
	case g.local() && access == Open:
		return Caller{}, g.pace(w, r, g.callers, address)
	case access == Open || access == Signed:
		return Caller{}, g.pace(w, r, g.strangers, address)
	case g.local():
		return Caller{Name: "local", Roles: []Role{Viewer, Auditor}}, g.pace(w, r, g.callers, address)
	}
	c, err := g.identify(r)
	if err == nil {
		return c, g.pace(w, r, g.callers, c.Name)
	}
	if !g.pace(w, r, g.strangers, address) {
		return c, false
	}
	switch {
	case errors.Is(err, errNobody):
		w.Header().Set("WWW-Authenticate", `Bearer realm="tablexport"`)
		g.refuse(w, r, http.StatusUnauthorized, Anonymous, "log in: send a bearer token or a client certificate")
	case errors.Is(err, ErrUnavailable):
		g.note(r, err)
		w.Header().Set("Retry-After", "10")
		g.refuse(w, r, http.StatusServiceUnavailable, NoVerdict, "whether the token is good cannot be found out now; the log says why")
	default:
		g.note(r, err)
		w.Header().Set("WWW-Authenticate", `Bearer realm="tablexport", error="invalid_token"`)
		g.refuse(w, r, http.StatusUnauthorized, BadToken, "the token or certificate is not accepted; the log says why")
	}
	return c, false
}

// note logs why a token proves nothing, but not for every request of whoever tries.
func (g *Gate) note(r *http.Request, err error) {
	g.noted.Do(func() { g.Log.Warn("a request is refused", "address", addressOf(r.RemoteAddr), "error", err) })
}

var errNobody = errors.New("gate: no credential")

// identify believes a certificate that TLS has verified, or else a bearer token. One that is sent and not good is never
// made up for by the other.
func (g *Gate) identify(r *http.Request) (Caller, error) {
	token, sent, err := bearer(r.Header)
	switch {
	case err != nil:
		return Caller{}, err
	case sent && g.Bearer == nil:
		return Caller{}, errors.New("gate: bearer tokens prove nothing here")
	case sent:
		return g.Bearer.Verify(r.Context(), token)
	case len(g.Certificates) > 0:
		return g.certificate(r.TLS)
	}
	return Caller{}, errNobody
}

// bearer is RFC 6750 section 2.1: one header, the scheme without regard to case.
func bearer(h http.Header) (token string, sent bool, err error) {
	values := h.Values("Authorization")
	if len(values) == 0 {
		return "", false, nil
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if len(values) > 1 || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", true, errors.New("gate: the Authorization header is not one bearer token")
	}
	return token, true, nil
}

// pace takes one request from the bucket of who.
func (g *Gate) pace(w http.ResponseWriter, r *http.Request, b *buckets, who string) bool {
	wait := b.take(who, g.Now())
	if wait == 0 {
		return true
	}
	w.Header().Set("Retry-After", seconds(wait))
	g.refuse(w, r, http.StatusTooManyRequests, TooOften, "too many requests")
	return false
}

// refuse answers as the path's readers expect: JSON below /api, text elsewhere.
func (g *Gate) refuse(w http.ResponseWriter, r *http.Request, status int, why Reason, text string) {
	g.Refused(why)
	if strings.HasPrefix(r.URL.Path, "/api/") {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(`{"error":"` + text + `"}` + "\n")) // the reader is gone, or it has got it; the texts are ours, without quotes
		return
	}
	http.Error(w, text, status)
}

// loopback reports whether a request was sent to a loopback address by its number, or to localhost.
func loopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// addressOf is what stands for a client without a name: its address, of IPv6 the network of 64 bits that one client has.
func addressOf(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	if ip := net.ParseIP(host); ip != nil && ip.To4() == nil {
		return ip.Mask(net.CIDRMask(64, 128)).String() + "/64"
	}
	return host
}
