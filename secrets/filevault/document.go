package filevault

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"filippo.io/age"

	"github.com/tablexport/tablexport/secrets"
)

// format is the version of the document. A later one is refused, not guessed at.
const format = 1

// maxDocument bounds what is read out of the file: thousands of tokens.
const maxDocument = 64 << 20

// document is the plain content of the file.
type document struct {
	Format int               `json:"format"`
	Key    []byte            `json:"fingerprint_key,omitempty"`
	Tokens map[string]*entry `json:"tokens"`
}

type entry struct {
	Active   int       `json:"active"` // 0 = none
	Versions []*stored `json:"versions"`

	Owner string             `json:"owner,omitempty"`
	Uses  []secrets.PlaceUse `json:"uses,omitempty"`
}

type stored struct {
	Number      int       `json:"version"`
	Created     time.Time `json:"created"`
	Verified    time.Time `json:"verified,omitzero"`
	Activated   time.Time `json:"activated,omitzero"`
	Retiring    time.Time `json:"retiring,omitzero"`
	Retired     time.Time `json:"retired,omitzero"`
	Rejected    time.Time `json:"rejected,omitzero"`
	Fingerprint string    `json:"fingerprint"`
	Instance    string    `json:"instance"`
	Host        string    `json:"host"`
	Environment string    `json:"environment"`
	Expires     time.Time `json:"expires,omitzero"`
	Scopes      string    `json:"scopes,omitempty"`
	Value       []byte    `json:"value"`
}

func newDocument() *document { return &document{Format: format, Tokens: map[string]*entry{}} }

// wipe overwrites the values, so that they do not outlive their use by much.
func (d *document) wipe() {
	clear(d.Key)
	for _, t := range d.Tokens {
		for _, s := range t.Versions {
			clear(s.Value)
		}
	}
}

func (d *document) find(name string) (*entry, error) {
	if err := secrets.CheckName(name); err != nil {
		return nil, err
	}
	if t := d.Tokens[name]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("%w: %s", secrets.ErrNotFound, name)
}

func (e *entry) version(number int) *stored {
	for _, s := range e.Versions {
		if s.Number == number {
			return s
		}
	}
	return nil
}

func (e *entry) last() int {
	last := 0
	for _, s := range e.Versions {
		last = max(last, s.Number)
	}
	return last
}

func (e *entry) describe(name string) secrets.Named {
	n := secrets.Named{Name: name, Active: e.Active, Versions: make([]secrets.Version, 0, len(e.Versions))}
	for i := range e.Versions {
		s := e.Versions[len(e.Versions)-1-i]
		described := e.state(s)
		described.Attributes = secrets.Attributes{Expires: s.Expires, Scopes: s.Scopes, Owner: e.Owner}
		n.Versions = append(n.Versions, described)
	}
	return n
}

func (e *entry) state(s *stored) secrets.Version {
	v := secrets.Version{
		Number: s.Number, Created: s.Created, Verified: s.Verified, Activated: s.Activated, Retiring: s.Retiring, Retired: s.Retired,
		Rejected: s.Rejected, Fingerprint: s.Fingerprint,
		Binding: secrets.Binding{Instance: s.Instance, Host: s.Host, Environment: s.Environment},
	}
	v.State = secrets.StateOf(v, s.Number == e.Active)
	return v
}

// check holds the document to what save writes.
func (d *document) check() error {
	if d.Format != format {
		return fmt.Errorf("its format is %d and this program knows format %d; use the program that wrote it, or a newer one", d.Format, format)
	}
	if d.Key != nil && len(d.Key) != secrets.FingerprintKeySize {
		return errors.New("its key for fingerprints has the wrong size")
	}
	for name, t := range d.Tokens {
		if err := secrets.CheckName(name); err != nil {
			return err
		}
		if t == nil || t.Active != 0 && t.version(t.Active) == nil {
			return fmt.Errorf("the active version of %s is missing", name)
		}
		last := 0
		for _, s := range t.Versions {
			if s == nil || s.Number <= last {
				return fmt.Errorf("the versions of %s are not in order", name)
			}
			last = s.Number
		}
	}
	return nil
}

// decrypt opens the file's content. Errors hold nothing of it.
func (v *Vault) decrypt(sealed []byte) (*document, error) {
	corrupt := func(why string) error {
		return fmt.Errorf("%w: %s: %s; restore it from a backup", secrets.ErrCorrupt, v.file, why)
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), v.identity)
	var noMatch *age.NoIdentityMatchError
	switch {
	case errors.As(err, &noMatch):
		return nil, fmt.Errorf("%w: the identity in %s does not open %s; they belong to different vaults", secrets.ErrPermission, v.identityFile, v.file)
	case err != nil:
		return nil, corrupt("it is no age file, or a damaged one")
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	defer clear(plain)
	switch {
	case err != nil:
		return nil, corrupt("it is damaged or cut off")
	case len(plain) > maxDocument:
		return nil, corrupt("it is too large")
	}
	doc := newDocument()
	dec := json.NewDecoder(bytes.NewReader(plain))
	dec.DisallowUnknownFields()
	if err := dec.Decode(doc); err != nil || doc.Tokens == nil {
		// A newer format may have other fields: say that, rather than that the file is damaged.
		var head struct{ Format int }
		if json.Unmarshal(plain, &head) != nil || head.Format == format || head.Format == 0 {
			return nil, corrupt("its content is not a vault's") // the decoder's message may quote what it read
		}
		doc = &document{Format: head.Format}
	}
	if err := doc.check(); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", secrets.ErrCorrupt, v.file, err)
	}
	return doc, nil
}
