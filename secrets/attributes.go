package secrets

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/tablexport/tablexport/secrets/audit"
)

// ErrBadAttributes means that what is said of a token cannot be kept. The error says why.
var ErrBadAttributes = errors.New("secrets: not attributes of a token")

// maxAttribute bounds the text of one attribute, in bytes: what KV version 2 takes as the value of custom metadata, amply
// (https://developer.hashicorp.com/vault/docs/secrets/kv/kv-v2/cookbook/custom-metadata).
const maxAttribute = 256

// Attributes are what is known of a token beside its value: people say it, and nothing here proves it. They are kept where listing reads them,
// and describing a version reads no value. A zero member is not known.
type Attributes struct {
	Expires time.Time `json:"expires,omitzero"` // when the instance ends it, to the second, UTC
	Scopes  string    `json:"scopes,omitempty"` // what it may do, sorted and separated by one space, such as "read"
	Owner   string    `json:"owner,omitempty"`  // who answers for it; of the name, not of one version
}

// Normal is a in the form in which it is kept. Errors are ErrBadAttributes.
func (a Attributes) Normal() (Attributes, error) {
	if !a.Expires.IsZero() {
		a.Expires = a.Expires.UTC().Truncate(time.Second)
		if year := a.Expires.Year(); year < 2000 || year > 9999 {
			return Attributes{}, fmt.Errorf("%w: the expiry is in the year %d", ErrBadAttributes, year)
		}
	}
	scopes := strings.FieldsFunc(a.Scopes, func(r rune) bool { return r == ' ' || r == ',' })
	slices.Sort(scopes)
	a.Scopes = strings.Join(slices.Compact(scopes), " ")
	a.Owner = strings.TrimSpace(a.Owner)
	for what, text := range map[string]string{"scopes": a.Scopes, "owner": a.Owner} {
		switch {
		case len(text) > maxAttribute:
			return Attributes{}, fmt.Errorf("%w: %s of %d bytes; %d at most", ErrBadAttributes, what, len(text), maxAttribute)
		case strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }):
			return Attributes{}, fmt.Errorf("%w: %s with characters that cannot be printed", ErrBadAttributes, what)
		}
	}
	return a, nil
}

// Over is a with the members of b that are known.
func (a Attributes) Over(b Attributes) Attributes {
	if !b.Expires.IsZero() {
		a.Expires = b.Expires
	}
	if b.Scopes != "" {
		a.Scopes = b.Scopes
	}
	if b.Owner != "" {
		a.Owner = b.Owner
	}
	return a
}

// Describe audits and keeps what is known of a version; a zero member leaves what is there. Errors: ErrBadAttributes, ErrNotFound, ErrBinding, and the
// vault's.
func (k *Keeper) Describe(ctx context.Context, name string, version int, a Attributes) error {
	req := LeaseRequest{Name: name, Purpose: actDescribe}
	a, err := a.Normal()
	var v Version
	if err == nil {
		v, err = k.inVault(ctx, name, version)
	}
	req.Instance, req.Host = v.Binding.Instance, v.Binding.Host
	if err != nil {
		return k.refuse(ctx, req, actDescribe, v.Fingerprint, err)
	}
	if v.Attributes.Over(a) == v.Attributes {
		return nil // it is there already
	}
	detail := map[string]string{"version": strconv.Itoa(version)}
	maps.Copy(detail, a.texts())
	if _, err := k.record(ctx, k.entry(req, actDescribe, audit.Started, v.Fingerprint, detail)); err != nil {
		return err
	}
	// A crash from here on leaves "started" without an end; the vault shows what it knows, and doing it again does no harm.
	if err := k.vault.Describe(ctx, name, version, a); err != nil {
		return k.refuse(ctx, req, actDescribe, v.Fingerprint, err)
	}
	_, err = k.record(context.WithoutCancel(ctx), k.entry(req, actDescribe, audit.OK, v.Fingerprint, detail))
	return err
}

// texts are the known members for people.
func (a Attributes) texts() map[string]string {
	all := map[string]string{}
	if !a.Expires.IsZero() {
		all["expires"] = a.Expires.Format(time.RFC3339)
	}
	if a.Scopes != "" {
		all["scopes"] = a.Scopes
	}
	if a.Owner != "" {
		all["owner"] = a.Owner
	}
	return all
}
