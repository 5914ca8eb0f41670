package simulator

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// StackCanary stands in the stack trace of every simulated server error. It must never reach a log, an error
// message or a report.
const StackCanary = "CANARY-at-Erp.Server.Internal.Secret.Stack()"

// Fault says what goes wrong, where and when.
type Fault struct {
	Endpoint Endpoint                 // "" = Data
	Table    string                   // "" = any
	Match    func(*http.Request) bool // nil = any request; further condition
	Nth      int                      // strikes from the Nth matching request on, counted from 1; 0 = 1
	Times    int                      // so many requests in a row; 0 = 1, negative = always
	Effect   Effect
}

// Effect is what goes wrong with one answer. Make it with one of the functions below; All combines several.
type Effect struct{ apply func(*mischief) }

// armed is a fault with its count.
type armed struct {
	Fault
	seen int
}

// Inject arms a fault. Its count starts now.
func (s *Server) Inject(f Fault) {
	if f.Endpoint == "" {
		f.Endpoint = Data
	}
	f.Nth = max(f.Nth, 1)
	if f.Times == 0 {
		f.Times = 1
	}
	if f.Effect.apply == nil {
		f.Effect = All()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &armed{Fault: f})
}

// ClearFaults disarms every fault.
func (s *Server) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

func (f *armed) strikes(e Endpoint, tableName string, r *http.Request) bool {
	if f.Endpoint != e || (f.Table != "" && f.Table != tableName) || (f.Match != nil && !f.Match(r)) {
		return false
	}
	f.seen++
	return f.seen >= f.Nth && (f.Times < 0 || f.seen < f.Nth+f.Times)
}

// mischief is what goes wrong with one answer. Row numbers count from 0; -1 = no row.
type mischief struct {
	replace http.HandlerFunc // answers in place of the server
	delay   time.Duration    // before the headers

	contentType string
	cutBytes    int64 // the connection is cut after so many bytes of the (compressed) body
	cutRows     int64 // … after so many rows
	endRows     int64 // the answer ends properly on the transport, but in the middle of a row
	stallRows   int64 // after so many rows nothing comes for …
	stall       time.Duration
	shortGzip   int64 // the compressed body ends after so many bytes
	doRows      int64 // after so many rows do is called
	do          func()

	malformed  int64 // this row is not JSON
	drop       int64 // this row is left out
	repeatLast bool  // the answer begins with the last row of the previous answer
	foreign    int64 // before this row comes one outside the $filter
	unexpected int64 // this row has a property that nobody asked for
	missing    int64 // this row lacks its last property
	wrongType  int64 // this row has a value of another type
	outOfRange int64 // this row has a number beyond its type
	column     string

	nextLoop bool   // the next link leads to this very page
	nextTo   string // the next link leads there
}

func newMischief() *mischief {
	return &mischief{
		cutBytes: -1, cutRows: -1, endRows: -1, stallRows: -1, shortGzip: -1, doRows: -1, malformed: -1, drop: -1,
		foreign: -1, unexpected: -1, missing: -1, wrongType: -1, outOfRange: -1,
	}
}

// instead carries out what comes before or in place of the answer. It reports whether the request is answered.
func (m *mischief) instead(w http.ResponseWriter, r *http.Request) bool {
	if m.delay > 0 && !wait(r, m.delay) {
		return true
	}
	if m.replace != nil {
		m.replace(w, r)
		return true
	}
	return false
}

// wait sleeps unless the client goes away.
func wait(r *http.Request, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

// All combines effects.
func All(effects ...Effect) Effect {
	return Effect{func(m *mischief) {
		for _, e := range effects {
			e.apply(m)
		}
	}}
}

func replaced(h http.HandlerFunc) Effect { return Effect{func(m *mischief) { m.replace = h }} }

// Status answers with a status and a JSON body ("" = a plain error object).
func Status(code int, body string) Effect {
	return replaced(func(w http.ResponseWriter, _ *http.Request) {
		if body == "" {
			writeError(w, code, http.StatusText(code))
			return
		}
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(code)
		fmt.Fprint(w, body)
	})
}

// ServerError answers 500 with the error object of the instance, whose info is a stack trace with StackCanary.
func ServerError() Effect {
	return replaced(func(w http.ResponseWriter, _ *http.Request) {
		writeServiceError(w, http.StatusInternalServerError, "An internal error occurred.", "InternalError",
			"System.InvalidOperationException: row 42\r\n   "+StackCanary+"\r\n   at Erp.Server.Main()")
	})
}

// TooMany answers 429, with Retry-After in whole seconds if retryAfter is positive.
func TooMany(retryAfter time.Duration) Effect {
	return replaced(func(w http.ResponseWriter, _ *http.Request) {
		if retryAfter > 0 {
			w.Header().Set("Retry-After", strconv.FormatInt(int64((retryAfter+time.Second-1)/time.Second), 10))
		}
		writeError(w, http.StatusTooManyRequests, "too many requests")
	})
}

// Reset cuts the connection before any answer.
func Reset() Effect {
	return replaced(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
}

const loginPage = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body><form action=\"/id/account/login\"></form></body></html>\n"

// LoginPage answers 200 with an HTML login page.
func LoginPage() Effect {
	return replaced(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, loginPage)
	})
}

// LoginRedirect answers 302 to the login page of the identity site.
func LoginRedirect() Effect {
	return replaced(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/id/account/login?returnUrl=%2F", http.StatusFound)
	})
}

// Redirect answers with a redirect to another address.
func Redirect(code int, to string) Effect {
	return replaced(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, code) })
}

// SlowHeaders waits before the first byte of the answer.
func SlowHeaders(d time.Duration) Effect { return Effect{func(m *mischief) { m.delay = d }} }

// CutBytes cuts the connection after n bytes of the body, as it is on the wire.
func CutBytes(n int64) Effect { return Effect{func(m *mischief) { m.cutBytes = n }} }

// CutRows cuts the connection after n rows.
func CutRows(n int64) Effect { return Effect{func(m *mischief) { m.cutRows = n }} }

// EndEarly ends the answer in the middle of row n, but properly as far as HTTP can tell.
func EndEarly(n int64) Effect { return Effect{func(m *mischief) { m.endRows = n }} }

// Stall lets nothing come for d after n rows.
func Stall(n int64, d time.Duration) Effect {
	return Effect{func(m *mischief) { m.stallRows, m.stall = n, d }}
}

// MidStream calls do after n rows are written (not necessarily read): to revoke the token or to change rows.
func MidStream(n int64, do func()) Effect {
	return Effect{func(m *mischief) { m.doRows, m.do = n, do }}
}

// TruncatedGzip compresses the answer, whether gzip was asked for or not, and ends the body after n bytes.
func TruncatedGzip(n int64) Effect { return Effect{func(m *mischief) { m.shortGzip = n }} }

// ContentType answers with another content type.
func ContentType(ct string) Effect { return Effect{func(m *mischief) { m.contentType = ct }} }

// MalformedJSON writes row n as something that is not JSON.
func MalformedJSON(n int64) Effect { return Effect{func(m *mischief) { m.malformed = n }} }

// DropRow leaves out row n of the answer; the rows behind it are not affected.
func DropRow(n int64) Effect { return Effect{func(m *mischief) { m.drop = n }} }

// RepeatRow begins the answer with the last row of the previous answer for the table.
func RepeatRow() Effect { return Effect{func(m *mischief) { m.repeatLast = true }} }

// ForeignRow puts a row that the $filter does not admit before row n. Without a $filter that excludes something
// it does nothing.
func ForeignRow(n int64) Effect { return Effect{func(m *mischief) { m.foreign = n }} }

// UnexpectedProperty gives row n a property that was not asked for.
func UnexpectedProperty(n int64) Effect { return Effect{func(m *mischief) { m.unexpected = n }} }

// MissingProperty leaves the last property out of row n.
func MissingProperty(n int64) Effect { return Effect{func(m *mischief) { m.missing = n }} }

// WrongType gives a column ("" = the last one) in row n a value of another JSON type.
func WrongType(n int64, columnName string) Effect {
	return Effect{func(m *mischief) { m.wrongType, m.column = n, columnName }}
}

// OutOfRange gives a column in row n a value beyond its type: a number with too many digits, a date beyond 9999.
func OutOfRange(n int64, columnName string) Effect {
	return Effect{func(m *mischief) { m.outOfRange, m.column = n, columnName }}
}

// NextLinkLoop makes the next link lead to the page that it stands on.
func NextLinkLoop() Effect { return Effect{func(m *mischief) { m.nextLoop = true }} }

// NextLinkTo makes the next link lead to an address of its own, for example on another host.
func NextLinkTo(address string) Effect { return Effect{func(m *mischief) { m.nextTo = address }} }
