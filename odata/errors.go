package odata

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The errors of this package, one type per fact. Reading them with errors.As in this order tells what
// a run should do:
//
//	*CredentialError         the credential was refused or cannot be used; nothing helps but another one
//	*AuthenticationPageError a login page where data was asked; as above
//	*AddressError            an address or certificate setting is wrong; the configuration must change
//	*StatusError             the server refused the request (403 is also ErrForbidden); asking again is of no use
//	*DataError               the data does not fit the model (decode_errors.go)
//	*RescanError             the scan cannot be proven complete; Retry says whether a new scan may succeed.
//	                         It may wrap an *evidence.Incomplete
//	*UnavailableError        the instance does not answer, or not now; come back later. It wraps the last cause
//	                         (a *StatusError of 5xx or 429, a cut body, a network error), so ask for it before those
//	*ProtocolError           the server broke the protocol; a report to its makers
//
// Whoever classifies errors asks for *UnavailableError before *StatusError. A cancelled context gives the
// context's own error, wrapped.
//
// No text of them carries a token, a row value, a query string or any words of the server but a sanitised
// error code. What an Authorizer said is reachable through Unwrap and never printed here.

// ErrForbidden is what a StatusError with status 403 is: the credential is good, but may not do this.
var ErrForbidden = errors.New("the service user has no permission for this")

// Asked names a request in errors.
type Asked struct {
	Method      string // GET
	Path        string // of the URL, without the query
	Table       string // "" outside of tables
	Fingerprint string // of the credential; "" if the request was sent without one
}

func (a Asked) String() string {
	var b strings.Builder
	b.WriteString(a.Method + " " + a.Path)
	if a.Table != "" {
		b.WriteString(", table " + a.Table)
	}
	if a.Fingerprint != "" {
		b.WriteString(", token " + a.Fingerprint)
	}
	return b.String()
}

// StatusError is an answer with a status that is not success. Code and Type are the fields of that name in the
// server's error body, reduced to at most 64 harmless characters; its message and stack trace are dropped.
type StatusError struct {
	Asked
	Status     int
	Code, Type string
	RetryAfter time.Duration // what the server asked to wait, 0 if it did not
}

// Error implements error.
func (e *StatusError) Error() string {
	text := fmt.Sprintf("odata: %s: the server answered %d %s", e.Asked, e.Status, http.StatusText(e.Status))
	if e.Code != "" {
		text += ", code " + e.Code
	}
	if e.Type != "" {
		text += ", type " + e.Type
	}
	switch {
	case e.Status == http.StatusForbidden:
		text += ": the service user has no permission for this; ask the instance's administrator for it"
	case e.Status == http.StatusNotFound && e.Table != "":
		text += ": there is no such table for this user; look at `tables`"
	case e.Status == http.StatusBadRequest && e.Table != "":
		text += ": it does not take this query; look at `plan` for what is asked"
	case e.Status >= 300 && e.Status < 400:
		text += ": redirects are never followed with a token; configure the address that it leads to"
	}
	return text
}

// Is makes a 403 ErrForbidden.
func (e *StatusError) Is(target error) bool {
	return target == ErrForbidden && e.Status == http.StatusForbidden
}

// CredentialError says that the credential was refused, or that there is none to send. Err is what the
// Authorizer said, if it did; it is not part of the text, since nothing here knows what it holds.
type CredentialError struct {
	Asked
	Reason string
	Err    error
}

// Error implements error.
func (e *CredentialError) Error() string {
	return fmt.Sprintf("odata: %s: %s", e.Asked, e.Reason)
}

// Unwrap returns what the Authorizer said.
func (e *CredentialError) Unwrap() error { return e.Err }

// AuthenticationPageError says that a page for people, most often a login page, came where data was asked.
// It means that the credential is not accepted, and is never read as data.
type AuthenticationPageError struct {
	Asked
	Status int
	Reason string
}

// Error implements error.
func (e *AuthenticationPageError) Error() string {
	return fmt.Sprintf("odata: %s: %s (status %d): the credential is not accepted here", e.Asked, e.Reason, e.Status)
}

// UnavailableError says that the instance cannot be reached, keeps failing, or asks to be left alone for
// longer than a page may wait. RetryAfter is a hint, 0 if there is none. Err is the last cause.
type UnavailableError struct {
	Asked
	Instance   string
	Reason     string
	RetryAfter time.Duration
	Err        error
}

// Error implements error.
func (e *UnavailableError) Error() string {
	text := fmt.Sprintf("odata: instance %s is unavailable: %s: %s", e.Instance, e.Asked, e.Reason)
	if e.RetryAfter > 0 {
		text += "; come back in " + e.RetryAfter.Round(time.Second).String()
	}
	return text
}

// Unwrap returns the last cause.
func (e *UnavailableError) Unwrap() error { return e.Err }

// ProtocolError says that the server broke the protocol in a way that asking again does not mend.
type ProtocolError struct {
	Asked
	Reason string
	Err    error
}

// Error implements error.
func (e *ProtocolError) Error() string {
	return fmt.Sprintf("odata: %s: %s", e.Asked, e.Reason)
}

// Unwrap returns the cause.
func (e *ProtocolError) Unwrap() error { return e.Err }

// RescanError says that a scan cannot be proven complete, so what it gave must not be published. With Retry a new
// Scan of the same Query may succeed: the table may have changed too much meanwhile, or the client has
// learned which way of paging this table needs and takes another one. Whoever repeats scans bounds
// the number (three is plenty), and gives the last RescanError as the reason for refusing.
type RescanError struct {
	Table  string
	Paging Paging // the paging that was used
	Reason string
	Retry  bool
	Err    error // an *evidence.Incomplete or the failure in mid-answer, nil if there is none
}

// Error implements error.
func (e *RescanError) Error() string {
	return fmt.Sprintf("odata: table %s (paging %s): the scan is not proven complete: %s", e.Table, e.Paging, e.Reason)
}

// Unwrap returns the cause.
func (e *RescanError) Unwrap() error { return e.Err }

// AddressError says that an address, a host or a certificate does not fit the configuration. Setting is the
// configuration key to change.
type AddressError struct {
	Setting string
	Reason  string
	Err     error
}

// Error implements error.
func (e *AddressError) Error() string { return fmt.Sprintf("odata: %s: %s", e.Setting, e.Reason) }

// Unwrap returns the cause.
func (e *AddressError) Unwrap() error { return e.Err }

// sanitize keeps what cannot hurt in a message of a word that the server chose: letters, digits and
// ._:- ; at most 64 of them. A word that holds the secret is dropped.
func sanitize(word, secret string) string {
	if secret != "" && strings.Contains(word, secret) {
		return ""
	}
	word = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("._:-", r):
			return r
		}
		return -1
	}, word)
	if secret != "" && strings.Contains(word, secret) {
		return ""
	}
	return word[:min(len(word), 64)]
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'g', 3, 64) + " s" }
