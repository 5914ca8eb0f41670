// Package memvault is a vault in memory, for tests. It loses everything when it is closed.
package memvault

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tablexport/tablexport/secrets"
)

// Vault is a vault in memory. The zero value is ready to use.
type Vault struct {
	// Before, if set, is called at the start of every operation ("List", "Versions", "Read", "Stage", "Activate",
	// "Mark", "Describe", "Used", "Uses", "FingerprintKey"); its error is returned and nothing is done: a fault that did not persist.
	Before func(op string) error
	// After, if set, is called when the operation has been done; its error is returned in place of the result: a fault
	// that persisted but said that it failed.
	After func(op string) error

	mu     sync.Mutex
	tokens map[string]*named
	key    []byte
}

type named struct {
	active   int
	owner    string
	versions []stored
	uses     []secrets.PlaceUse
}

type stored struct {
	secrets.Version
	value []byte
}

// New returns an empty vault.
func New() *Vault { return &Vault{} }

var _ secrets.Vault = (*Vault)(nil)

// do runs one operation under the lock, with the faults around it.
func (v *Vault) do(ctx context.Context, op string, act func() error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", secrets.ErrUnavailable, err)
	}
	if v.Before != nil {
		if err := v.Before(op); err != nil {
			return err
		}
	}
	v.mu.Lock()
	err := act()
	v.mu.Unlock()
	if err == nil && v.After != nil {
		err = v.After(op)
	}
	return err
}

func (v *Vault) find(name string) (*named, error) {
	if err := secrets.CheckName(name); err != nil {
		return nil, err
	}
	if t := v.tokens[name]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("%w: %s", secrets.ErrNotFound, name)
}

func (t *named) describe(name string) secrets.Named {
	n := secrets.Named{Name: name, Active: t.active}
	for _, s := range slices.Backward(t.versions) {
		described := t.state(s.Version)
		described.Owner = t.owner
		n.Versions = append(n.Versions, described)
	}
	return n
}

func (t *named) state(v secrets.Version) secrets.Version {
	v.State = secrets.StateOf(v, v.Number == t.active)
	return v
}

// List implements secrets.Vault.
func (v *Vault) List(ctx context.Context) (all []secrets.Named, err error) {
	err = v.do(ctx, "List", func() error {
		for name, t := range v.tokens {
			all = append(all, t.describe(name))
		}
		slices.SortFunc(all, func(a, b secrets.Named) int { return cmp.Compare(a.Name, b.Name) })
		return nil
	})
	return all, err
}

// Versions implements secrets.Vault.
func (v *Vault) Versions(ctx context.Context, name string) (n secrets.Named, err error) {
	err = v.do(ctx, "Versions", func() error {
		t, err := v.find(name)
		if err == nil {
			n = t.describe(name)
		}
		return err
	})
	return n, err
}

// Read implements secrets.Vault.
func (v *Vault) Read(ctx context.Context, name string, version int) (token secrets.Token, described secrets.Version, err error) {
	err = v.do(ctx, "Read", func() error {
		t, err := v.find(name)
		if err != nil {
			return err
		}
		if version == 0 {
			if version = t.active; version == 0 {
				return fmt.Errorf("%w: %s", secrets.ErrNoActive, name)
			}
		}
		if version < 1 || version > len(t.versions) {
			return fmt.Errorf("%w: version %d of %s", secrets.ErrNotFound, version, name)
		}
		s := t.versions[version-1]
		described = t.state(s.Version)
		described.Attributes = secrets.Attributes{}
		token, err = secrets.NewToken(s.value)
		return err
	})
	return token, described, err
}

// Stage implements secrets.Vault.
func (v *Vault) Stage(ctx context.Context, name string, token secrets.Token, fingerprint string, binding secrets.Binding) (made secrets.Version, err error) {
	err = v.do(ctx, "Stage", func() error {
		if err := secrets.CheckName(name); err != nil {
			return err
		}
		if token.IsZero() {
			return fmt.Errorf("%w: it is empty", secrets.ErrBadToken)
		}
		t := v.tokens[name]
		if t == nil {
			t = &named{}
			if v.tokens == nil {
				v.tokens = make(map[string]*named)
			}
			v.tokens[name] = t
		}
		made = secrets.Version{
			Number: len(t.versions) + 1, State: secrets.Staged, Created: time.Now().UTC(),
			Fingerprint: fingerprint, Binding: binding,
		}
		s := stored{Version: made}
		secrets.Reveal(token, func(value []byte) { s.value = slices.Clone(value) })
		t.versions = append(t.versions, s)
		return nil
	})
	return made, err
}

// Activate implements secrets.Vault.
func (v *Vault) Activate(ctx context.Context, name string, version, expected int) error {
	return v.do(ctx, "Activate", func() error {
		t, err := v.find(name)
		switch {
		case err != nil:
			return err
		case version < 1 || version > len(t.versions):
			return fmt.Errorf("%w: version %d of %s", secrets.ErrNotFound, version, name)
		case t.active != expected:
			return fmt.Errorf("%w: %s has version %d active, not %d", secrets.ErrConflict, name, t.active, expected)
		}
		v := &t.versions[version-1].Version
		if state := t.state(*v).State; state == secrets.Rejected || state == secrets.Retired {
			return fmt.Errorf("%w: version %d of %s is %s", secrets.ErrState, version, name, state)
		}
		now := time.Now().UTC()
		if t.active > 0 && t.active != version {
			t.versions[t.active-1].Retiring = now
		}
		t.active, v.Activated, v.Retiring = version, now, time.Time{}
		return nil
	})
}

// Mark implements secrets.Vault.
func (v *Vault) Mark(ctx context.Context, name string, version int, from, to secrets.State) error {
	return v.do(ctx, "Mark", func() error {
		t, err := v.find(name)
		if err != nil {
			return err
		}
		if version < 1 || version > len(t.versions) {
			return fmt.Errorf("%w: version %d of %s", secrets.ErrNotFound, version, name)
		}
		if err := secrets.CheckMark(from, to); err != nil {
			return err
		}
		v := &t.versions[version-1].Version
		if state := t.state(*v).State; state != from {
			return fmt.Errorf("%w: version %d of %s is %s, not %s", secrets.ErrConflict, version, name, state, from)
		}
		*v = v.Marked(to, time.Now().UTC())
		return nil
	})
}

// Describe implements secrets.Vault.
func (v *Vault) Describe(ctx context.Context, name string, version int, a secrets.Attributes) error {
	return v.do(ctx, "Describe", func() error {
		t, err := v.find(name)
		if err != nil {
			return err
		}
		if version < 1 || version > len(t.versions) {
			return fmt.Errorf("%w: version %d of %s", secrets.ErrNotFound, version, name)
		}
		if a.Owner != "" {
			t.owner, a.Owner = a.Owner, ""
		}
		s := &t.versions[version-1]
		s.Attributes = s.Attributes.Over(a)
		return nil
	})
}

// Used implements secrets.Vault.
func (v *Vault) Used(ctx context.Context, name string, u secrets.PlaceUse) error {
	return v.do(ctx, "Used", func() error {
		t, err := v.find(name)
		if err == nil {
			t.uses = secrets.AddUse(t.uses, u)
		}
		return err
	})
}

// Uses implements secrets.Vault.
func (v *Vault) Uses(ctx context.Context, name string) (uses []secrets.PlaceUse, err error) {
	err = v.do(ctx, "Uses", func() error {
		t, err := v.find(name)
		if err == nil {
			uses = slices.Clone(t.uses)
		}
		return err
	})
	return uses, err
}

// FingerprintKey implements secrets.Vault.
func (v *Vault) FingerprintKey(ctx context.Context) (key []byte, err error) {
	err = v.do(ctx, "FingerprintKey", func() error {
		if v.key == nil {
			v.key = make([]byte, secrets.FingerprintKeySize)
			_, _ = rand.Read(v.key) // never fails
		}
		key = slices.Clone(v.key)
		return nil
	})
	return key, err
}

// Close implements secrets.Vault: it forgets everything.
func (v *Vault) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, t := range v.tokens {
		for _, s := range t.versions {
			clear(s.value)
		}
	}
	v.tokens, v.key = nil, nil
	return nil
}
