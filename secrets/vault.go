package secrets

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"
)

// The facts about vaults and tokens that callers can tell apart. They come wrapped, with the token's name and what to do.
var (
	ErrNotFound    = errors.New("secrets: no such token or version")
	ErrNoActive    = errors.New("secrets: the token has no active version; activate one")
	ErrDeleted     = errors.New("secrets: the version's value was deleted in the vault")
	ErrConflict    = errors.New("secrets: another version was activated meanwhile; look again")
	ErrHistory     = errors.New("secrets: the vault keeps too few versions for this")
	ErrUnavailable = errors.New("secrets: the vault is not available")
	ErrPermission  = errors.New("secrets: the vault refuses")
	ErrSetup       = errors.New("secrets: the vault, or the configuration of it, is not set up for this")
	ErrCorrupt     = errors.New("secrets: the vault holds something that this program did not write")
	ErrUnknown     = errors.New("secrets: it is not known whether the vault did it; look before doing it again")
	ErrState       = errors.New("secrets: the version's state does not allow it")
	ErrBadName     = errors.New("secrets: not a token's name")
)

// Binding is where a token may be used: one host of one environment, for one configured instance.
type Binding struct {
	Instance    string `json:"instance"`    // name in the configuration
	Host        string `json:"host"`        // host[:port], lower case
	Environment string `json:"environment"` // production | sandbox
}

// The environments. A token is bound to one of them.
const (
	Production = "production"
	Sandbox    = "sandbox"
)

// State is where a version is in its life:
//
//	staged → verified → active → retiring → retired
//	      ↘ rejected ↙     ↖_____↙
//
// One version at most is active. Activating another one makes it retiring; from there it can come back, as long as it has not
// been retired. Retired and rejected are final. There may be more states one day: show one that you do not know as it is.
type State string

// The states.
const (
	Staged   State = "staged"   // stored, and nothing more
	Verified State = "verified" // proven on the live instance
	Active   State = "active"   // what is lent
	Retiring State = "retiring" // was active; runs that began with it may still use it
	Retired  State = "retired"  // the instance refuses it, which was seen; or another version with the same value is the active one
	Rejected State = "rejected" // never to be used
	Deleted  State = "deleted"  // somebody deleted its value in the vault
)

// CheckMark says whether a version may be marked as to while it is from: staged → verified, staged or verified → rejected, and
// retiring → retired. Every other way is ErrState. Active is reached by Activate alone.
func CheckMark(from, to State) error {
	switch {
	case from == Staged && to == Verified, (from == Staged || from == Verified) && to == Rejected, from == Retiring && to == Retired:
		return nil
	}
	return fmt.Errorf("%w: it is %s and cannot become %s", ErrState, from, to)
}

// StateOf is the state of a version with those times, whose value is there.
func StateOf(v Version, active bool) State {
	switch {
	case active:
		return Active
	case !v.Rejected.IsZero():
		return Rejected
	case !v.Retired.IsZero():
		return Retired
	case !v.Activated.IsZero():
		return Retiring
	case !v.Verified.IsZero():
		return Verified
	}
	return Staged
}

// Version describes one version of a named token, without its value.
type Version struct {
	Number      int       `json:"version"`
	State       State     `json:"state"`
	Created     time.Time `json:"created"`
	Verified    time.Time `json:"verified,omitzero"`
	Activated   time.Time `json:"activated,omitzero"` // last
	Retiring    time.Time `json:"retiring,omitzero"`  // since when another one is active
	Retired     time.Time `json:"retired,omitzero"`
	Rejected    time.Time `json:"rejected,omitzero"`
	Fingerprint string    `json:"fingerprint"`
	Binding     Binding   `json:"binding"`
	Attributes            // of what is listed; Read gives none
}

// Marked is v with the time of a mark that CheckMark allows.
func (v Version) Marked(to State, at time.Time) Version {
	switch to {
	case Verified:
		v.Verified = at
	case Retired:
		v.Retired = at
	case Rejected:
		v.Rejected = at
	}
	return v
}

// Named is a token's name with its versions.
type Named struct {
	Name     string    `json:"name"`
	Active   int       `json:"active"` // 0 = none
	Versions []Version `json:"versions"`
}

// Version returns the description of version number; ok is false if there is none.
func (n Named) Version(number int) (v Version, ok bool) {
	for _, v := range n.Versions {
		if v.Number == number {
			return v, true
		}
	}
	return Version{}, false
}

// Vault keeps named, versioned tokens. Names are like "bi/acme-reader". Errors are the sentinels of this package, wrapped;
// none holds a token or a credential of the vault. A Vault is safe for concurrent use, by other processes too.
type Vault interface {
	// List describes every token and its versions, newest version first, sorted by name.
	List(ctx context.Context) ([]Named, error)
	// Versions describes one token's versions, newest first. ErrNotFound if there is none.
	Versions(ctx context.Context, name string) (Named, error)
	// Read returns the value and description of a version; version 0 is the active one (ErrNoActive if none).
	// The token is the caller's own copy. The description is without Attributes.
	Read(ctx context.Context, name string, version int) (Token, Version, error)
	// Stage adds a version in state Staged. It never touches another one. It refuses (ErrHistory) to add a version that
	// would push the active one out of the vault's history.
	Stage(ctx context.Context, name string, token Token, fingerprint string, binding Binding) (Version, error)
	// Activate makes version current if the active version still is expected (0 = none): ErrConflict otherwise. The one that was
	// active is retiring from then on. ErrState if version was rejected or retired.
	Activate(ctx context.Context, name string, version, expected int) error
	// Mark moves version from one state to another, if it still is in the first: ErrConflict otherwise. CheckMark says which
	// ways there are (ErrState).
	Mark(ctx context.Context, name string, version int, from, to State) error
	// Describe keeps the known members of a version's attributes, in their normal form, and leaves the others; Owner is that of the name. Several
	// who describe at once do not undo what the others say. It changes no state.
	Describe(ctx context.Context, name string, version int, a Attributes) error
	// Used keeps the newest use of a token by a place, and forgets those of UseKept ago. ErrNotFound if there is no such token.
	Used(ctx context.Context, name string, u PlaceUse) error
	// Uses gives what Used was told, by place and fingerprint. None is no error.
	Uses(ctx context.Context, name string) ([]PlaceUse, error)
	// FingerprintKey returns the vault's key for fingerprints (32 bytes), created on first use.
	FingerprintKey(ctx context.Context) ([]byte, error)
	// Close forgets what the driver holds.
	Close() error
}

// nameRule is the configuration's rule too: what is safe in a path, a URL and a message.
var nameRule = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]*(/[a-z0-9][a-z0-9_.-]*)*$`)

// CheckName says whether name can be a token's name: 1–128 lower-case letters, digits, "-", "_" and ".", in parts
// separated by "/" that start with a letter or digit. The error is ErrBadName.
func CheckName(name string) error {
	if len(name) > 128 || !nameRule.MatchString(name) {
		if len(name) > 40 {
			name = name[:40] + "…"
		}
		return fmt.Errorf("%w: %q; write one such as bi/acme-reader: lower-case letters, digits, - _ . and /", ErrBadName, name)
	}
	return nil
}
