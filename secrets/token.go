package secrets

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
)

const redacted = "[redacted]"

// maxToken bounds a token's length in bytes: what servers take in one header line, amply.
const maxToken = 8 << 10

// Token is a secret value. Every way of printing, formatting, logging or marshalling it gives "[redacted]", or an error
// where a marshaller would have to be able to read it back (gob and other binary forms). It is never unmarshalled.
//
// The value lives behind a function, because printers and comparers built on reflection follow pointers, unexported
// ones too, but cannot look into a function. Tokens can therefore not be compared with ==; see [Token.Equal].
// Copies share the value. The zero Token holds nothing.
type Token struct {
	open func(use func(value []byte))
}

// ErrBadToken means that a value cannot be a token. The error says why, and holds no part of the value.
var ErrBadToken = errors.New("secrets: not a token")

// NewToken takes a secret as read from a person or a vault, and copies it. It refuses (ErrBadToken) the empty value,
// values over 8 KiB, and values with white space or control characters (a sign of a bad paste) or with anything else
// that cannot stand in an HTTP header.
func NewToken(value []byte) (Token, error) {
	switch {
	case len(value) == 0:
		return Token{}, fmt.Errorf("%w: it is empty", ErrBadToken)
	case len(value) > maxToken:
		return Token{}, fmt.Errorf("%w: %d bytes are too long for one", ErrBadToken, len(value))
	}
	for i, c := range value {
		switch {
		case c <= ' ' || c == 0x7f:
			return Token{}, fmt.Errorf("%w: white space or a control character at byte %d of %d; paste the token alone, without quotes or \"Bearer\"", ErrBadToken, i+1, len(value))
		case c > 0x7f:
			return Token{}, fmt.Errorf("%w: a character outside of ASCII at byte %d of %d", ErrBadToken, i+1, len(value))
		}
	}
	return hold(bytes.Clone(value)), nil
}

// hold makes a Token of a value that nobody else keeps, and overwrites that one.
func hold(value []byte) Token {
	var mu sync.RWMutex
	p := keep(value)
	return Token{open: func(use func([]byte)) {
		if use == nil { // wipe
			mu.Lock()
			defer mu.Unlock()
			p.wipe()
			return
		}
		mu.RLock()
		defer mu.RUnlock()
		if len(p.value) == 0 {
			use(nil)
			return
		}
		use(p.value)
		runtime.KeepAlive(p) // the page must not go while somebody reads it
	}}
}

// ReadToken reads a token from r to its end, as a person pipes it in: one line break at the end is not part of it.
// Errors are those of r and of NewToken.
func ReadToken(r io.Reader) (Token, error) {
	buf := make([]byte, maxToken+3) // a fixed buffer: a growing one would leave copies behind
	defer clear(buf)
	n, err := io.ReadFull(r, buf)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return Token{}, fmt.Errorf("secrets: read the token: %w", err)
	}
	value := bytes.TrimSuffix(buf[:n], []byte("\n"))
	return NewToken(bytes.TrimSuffix(value, []byte("\r")))
}

// Reveal calls use with the token's bytes (nil if it holds nothing), which are valid until use returns and must not be
// changed. It is the one door to the value, for the drivers of vaults: a test asserts that nothing outside of
// secrets calls it.
func Reveal(t Token, use func(value []byte)) {
	if t.open == nil {
		use(nil)
		return
	}
	t.open(use)
}

// wipe overwrites the value in every copy of t.
func (t Token) wipe() {
	if t.open != nil {
		t.open(nil)
	}
}

// IsZero says whether t holds nothing.
func (t Token) IsZero() bool {
	zero := true
	Reveal(t, func(value []byte) { zero = len(value) == 0 })
	return zero
}

// Equal says whether both hold the same value, in a time that does not depend on where they differ.
func (t Token) Equal(other Token) bool {
	// One after the other: holding one's lock while taking the other's could wait for ever between them.
	var sums [2][sha256.Size]byte
	Reveal(t, func(value []byte) { sums[0] = sha256.Sum256(value) })
	Reveal(other, func(value []byte) { sums[1] = sha256.Sum256(value) })
	return subtle.ConstantTimeCompare(sums[0][:], sums[1][:]) == 1
}

// FingerprintKeySize is the length in bytes of a vault's key for fingerprints.
const FingerprintKeySize = 32

// Fingerprint identifies a token for people: "fp:" and the first 12 hex digits of its HMAC-SHA-256 under a vault's key
// (NIST FIPS 198-1). Without the key a guess at the token cannot be tested against it, as it could against a plain hash.
// "" for the zero token.
func Fingerprint(key []byte, t Token) string {
	if t.IsZero() {
		return ""
	}
	h := hmac.New(sha256.New, key)
	Reveal(t, func(value []byte) { h.Write(value) })
	return "fp:" + hex.EncodeToString(h.Sum(nil))[:12]
}

// Format writes "[redacted]" for every verb and flag.
func (Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// String returns "[redacted]".
func (Token) String() string { return redacted }

// GoString returns "[redacted]".
func (Token) GoString() string { return redacted }

// LogValue returns "[redacted]".
func (Token) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON returns "[redacted]".
func (Token) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText returns "[redacted]"; XML and most other text forms use it too.
func (Token) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalYAML returns "[redacted]".
func (Token) MarshalYAML() (any, error) { return redacted, nil }

var (
	errNotStored = errors.New("secrets: a token is not marshalled: name it, and keep it in a vault")
	errNotRead   = errors.New("secrets: a token is not read from a document: name it, and keep it in a vault (tablexport tokens stage NAME)")
)

// MarshalBinary refuses.
func (Token) MarshalBinary() ([]byte, error) { return nil, errNotStored }

// GobEncode refuses.
func (Token) GobEncode() ([]byte, error) { return nil, errNotStored }

// UnmarshalJSON refuses.
func (*Token) UnmarshalJSON([]byte) error { return errNotRead }

// UnmarshalText refuses.
func (*Token) UnmarshalText([]byte) error { return errNotRead }

// UnmarshalYAML refuses.
func (*Token) UnmarshalYAML([]byte) error { return errNotRead }

// UnmarshalBinary refuses.
func (*Token) UnmarshalBinary([]byte) error { return errNotRead }

// GobDecode refuses.
func (*Token) GobDecode([]byte) error { return errNotRead }
