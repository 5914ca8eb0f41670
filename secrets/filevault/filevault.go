// Package filevault keeps tokens in one file encrypted with age (https://age-encryption.org/v1), for those without a
// HashiCorp Vault.
//
// The file can be opened only with the identity file, an age X25519 secret key in a file of its own with mode 0600. Both
// are created on first use. Who has both has the tokens: keep the identity out of the backups of the encrypted file.
//
// Every change rewrites the whole file, under a lock (FILE.lock) that other processes respect: into a temporary file,
// encrypted from its first byte on, which is synced and renamed over the old one. A crash at any point leaves the old
// content or the new one, and perhaps an encrypted temporary file, which the next change removes. Every read opens
// the file anew, so that what another process activated is seen at once.
package filevault

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"filippo.io/age"

	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/internal/filelock"
)

// Options says where the vault is.
type Options struct {
	File         string // the encrypted file
	IdentityFile string // the age identity that opens it ("" = File + ".identity")
}

// Vault is a vault in a file. It is safe for concurrent use, by several processes too.
type Vault struct {
	file, identityFile string

	// step, if set, is called before each step of a change; an error from it stops there, as a crash would. Tests only.
	step func(name string) error

	mu       sync.Mutex
	identity *age.X25519Identity // nil until first needed
	closed   bool
}

var _ secrets.Vault = (*Vault)(nil)

// Open names the vault. It creates the identity file (mode 0600) if neither it nor the vault exists. Errors:
// ErrPermission if the identity file is readable by others or does not belong to the vault, ErrUnavailable if it is
// missing, ErrCorrupt if one of the files is damaged.
func Open(opts Options) (*Vault, error) {
	if opts.File == "" {
		return nil, errors.New("filevault: no file is named; set secrets.file.path")
	}
	v := &Vault{file: opts.File, identityFile: cmp.Or(opts.IdentityFile, opts.File+".identity")}
	// A link stays a link: the file that it names is replaced, beside its old self.
	if target, err := filepath.EvalSymlinks(v.file); err == nil {
		v.file = target
	}
	if filepath.Clean(v.file) == filepath.Clean(v.identityFile) {
		return nil, fmt.Errorf("filevault: %s is named as the vault and as its identity; name two files", v.file)
	}
	for _, path := range []string{v.file, v.identityFile} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, fmt.Errorf("filevault: create the directory: %w", err)
		}
	}
	if _, err := v.load(); err != nil {
		return nil, err
	}
	return v, nil
}

// Close forgets the identity.
func (v *Vault) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.identity, v.closed = nil, true
	return nil
}

// List implements secrets.Vault.
func (v *Vault) List(ctx context.Context) ([]secrets.Named, error) {
	doc, err := v.read(ctx)
	if err != nil {
		return nil, err
	}
	defer doc.wipe()
	all := make([]secrets.Named, 0, len(doc.Tokens))
	for name, t := range doc.Tokens {
		all = append(all, t.describe(name))
	}
	slices.SortFunc(all, func(a, b secrets.Named) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

// Versions implements secrets.Vault.
func (v *Vault) Versions(ctx context.Context, name string) (secrets.Named, error) {
	doc, err := v.read(ctx)
	if err != nil {
		return secrets.Named{}, err
	}
	defer doc.wipe()
	t, err := doc.find(name)
	if err != nil {
		return secrets.Named{}, err
	}
	return t.describe(name), nil
}

// Read implements secrets.Vault.
func (v *Vault) Read(ctx context.Context, name string, version int) (secrets.Token, secrets.Version, error) {
	fail := func(err error) (secrets.Token, secrets.Version, error) {
		return secrets.Token{}, secrets.Version{}, err
	}
	doc, err := v.read(ctx)
	if err != nil {
		return fail(err)
	}
	defer doc.wipe()
	t, err := doc.find(name)
	if err != nil {
		return fail(err)
	}
	if version == 0 {
		if version = t.Active; version == 0 {
			return fail(fmt.Errorf("%w: %s", secrets.ErrNoActive, name))
		}
	}
	s := t.version(version)
	if s == nil {
		return fail(fmt.Errorf("%w: version %d of %s", secrets.ErrNotFound, version, name))
	}
	token, err := secrets.NewToken(s.Value)
	if err != nil {
		return fail(fmt.Errorf("%w: version %d of %s in %s: %w", secrets.ErrCorrupt, version, name, v.file, err))
	}
	return token, t.state(s), nil
}

// Stage implements secrets.Vault.
func (v *Vault) Stage(ctx context.Context, name string, token secrets.Token, fingerprint string, binding secrets.Binding) (secrets.Version, error) {
	if err := secrets.CheckName(name); err != nil {
		return secrets.Version{}, err
	}
	if token.IsZero() {
		return secrets.Version{}, fmt.Errorf("%w: it is empty", secrets.ErrBadToken)
	}
	var made secrets.Version
	err := v.change(ctx, func(doc *document) error {
		t := doc.Tokens[name]
		if t == nil {
			t = &entry{}
			doc.Tokens[name] = t
		}
		s := &stored{
			Number: t.last() + 1, Created: now(), Fingerprint: fingerprint,
			Instance: binding.Instance, Host: binding.Host, Environment: binding.Environment,
		}
		secrets.Reveal(token, func(value []byte) { s.Value = slices.Clone(value) })
		t.Versions = append(t.Versions, s)
		made = t.state(s)
		return nil
	})
	if err != nil {
		return secrets.Version{}, err
	}
	return made, nil
}

// Activate implements secrets.Vault.
func (v *Vault) Activate(ctx context.Context, name string, version, expected int) error {
	return v.change(ctx, func(doc *document) error {
		t, err := doc.find(name)
		if err != nil {
			return err
		}
		s := t.version(version)
		switch {
		case s == nil:
			return fmt.Errorf("%w: version %d of %s", secrets.ErrNotFound, version, name)
		case t.Active != expected:
			return fmt.Errorf("%w: %s has version %d active, not %d", secrets.ErrConflict, name, t.Active, expected)
		}
		if state := t.state(s).State; state == secrets.Rejected || state == secrets.Retired {
			return fmt.Errorf("%w: version %d of %s is %s", secrets.ErrState, version, name, state)
		}
		at := now()
		if before := t.version(t.Active); before != nil && before != s {
			before.Retiring = at
		}
		t.Active, s.Activated, s.Retiring = version, at, time.Time{}
		return nil
	})
}

// Mark implements secrets.Vault.
func (v *Vault) Mark(ctx context.Context, name string, version int, from, to secrets.State) error {
	return v.change(ctx, func(doc *document) error {
		t, err := doc.find(name)
		if err != nil {
			return err
		}
		s := t.version(version)
		if s == nil {
			return fmt.Errorf("%w: version %d of %s", secrets.ErrNotFound, version, name)
		}
		if err := secrets.CheckMark(from, to); err != nil {
			return err
		}
		if state := t.state(s).State; state != from {
			return fmt.Errorf("%w: version %d of %s is %s, not %s", secrets.ErrConflict, version, name, state, from)
		}
		marked := t.state(s).Marked(to, now())
		s.Verified, s.Retired, s.Rejected = marked.Verified, marked.Retired, marked.Rejected
		return nil
	})
}

// Describe implements secrets.Vault.
func (v *Vault) Describe(ctx context.Context, name string, version int, a secrets.Attributes) error {
	return v.change(ctx, func(doc *document) error {
		t, err := doc.find(name)
		if err != nil {
			return err
		}
		s := t.version(version)
		if s == nil {
			return fmt.Errorf("%w: version %d of %s", secrets.ErrNotFound, version, name)
		}
		kept := secrets.Attributes{Expires: s.Expires, Scopes: s.Scopes, Owner: t.Owner}.Over(a)
		s.Expires, s.Scopes, t.Owner = kept.Expires, kept.Scopes, kept.Owner
		return nil
	})
}

// Used implements secrets.Vault.
func (v *Vault) Used(ctx context.Context, name string, u secrets.PlaceUse) error {
	return v.change(ctx, func(doc *document) error {
		t, err := doc.find(name)
		if err == nil {
			t.Uses = secrets.AddUse(t.Uses, u)
		}
		return err
	})
}

// Uses implements secrets.Vault.
func (v *Vault) Uses(ctx context.Context, name string) ([]secrets.PlaceUse, error) {
	doc, err := v.read(ctx)
	if err != nil {
		return nil, err
	}
	defer doc.wipe()
	t, err := doc.find(name)
	if err != nil {
		return nil, err
	}
	return slices.Clone(t.Uses), nil
}

// FingerprintKey implements secrets.Vault.
func (v *Vault) FingerprintKey(ctx context.Context) ([]byte, error) {
	doc, err := v.read(ctx)
	if err != nil {
		return nil, err
	}
	defer doc.wipe()
	if doc.Key != nil {
		return slices.Clone(doc.Key), nil
	}
	var key []byte
	err = v.change(ctx, func(doc *document) error {
		if doc.Key == nil { // another process may have been first
			doc.Key = make([]byte, secrets.FingerprintKeySize)
			_, _ = rand.Read(doc.Key) // never fails
		}
		key = slices.Clone(doc.Key)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return key, nil
}

func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// read gives the content as it is now. No lock is needed: a rename is seen whole or not at all.
func (v *Vault) read(ctx context.Context) (*document, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("filevault: nothing read: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.load()
}

// change applies edit to the content and writes it, alone among all processes. An error from edit changes nothing.
func (v *Vault) change(ctx context.Context, edit func(*document) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("filevault: nothing changed: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	lock, err := filelock.Exclusive(ctx, v.file+".lock")
	if err != nil {
		return fmt.Errorf("%w: %w", secrets.ErrUnavailable, err)
	}
	defer lock.Unlock()
	doc, err := v.load()
	if err != nil {
		return err
	}
	defer doc.wipe()
	if err := edit(doc); err != nil {
		return err
	}
	return v.save(doc)
}

// load reads identity and content; a vault that does not exist yet is empty. v.mu is held.
func (v *Vault) load() (*document, error) {
	if v.closed {
		return nil, fmt.Errorf("%w: it was closed", secrets.ErrUnavailable)
	}
	sealed, err := os.ReadFile(v.file)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return nil, unreadable(err)
	}
	if v.identity == nil {
		if v.identity, err = openIdentity(v.identityFile, missing); err != nil {
			return nil, err
		}
	}
	if missing {
		return newDocument(), nil
	}
	return v.decrypt(sealed)
}

func unreadable(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: %w", secrets.ErrPermission, err)
	}
	return fmt.Errorf("%w: %w", secrets.ErrUnavailable, err)
}
