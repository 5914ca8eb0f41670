package secretstest

import (
	"context"

	"github.com/tablexport/tablexport/secrets"
)

// Faulty is a vault in which operations fail, both ways. Operations are "List", "Versions", "Read", "Stage", "Activate", "Mark", "Describe",
// "Used", "Uses" and "FingerprintKey". Nil functions never fail.
type Faulty struct {
	secrets.Vault
	Before func(op string) error // its error is returned, and nothing is done
	After  func(op string) error // its error is returned in place of the result of what was done
}

func faulty[T any](f *Faulty, op string, do func() (T, error)) (T, error) {
	var none T
	if f.Before != nil {
		if err := f.Before(op); err != nil {
			return none, err
		}
	}
	result, err := do()
	if err == nil && f.After != nil {
		if err := f.After(op); err != nil {
			return none, err
		}
	}
	return result, err
}

func faultyOnly(f *Faulty, op string, do func() error) error {
	_, err := faulty(f, op, func() (struct{}, error) { return struct{}{}, do() })
	return err
}

// List implements secrets.Vault.
func (f *Faulty) List(ctx context.Context) ([]secrets.Named, error) {
	return faulty(f, "List", func() ([]secrets.Named, error) { return f.Vault.List(ctx) })
}

// Versions implements secrets.Vault.
func (f *Faulty) Versions(ctx context.Context, name string) (secrets.Named, error) {
	return faulty(f, "Versions", func() (secrets.Named, error) { return f.Vault.Versions(ctx, name) })
}

// Read implements secrets.Vault.
func (f *Faulty) Read(ctx context.Context, name string, version int) (token secrets.Token, v secrets.Version, err error) {
	err = faultyOnly(f, "Read", func() error { token, v, err = f.Vault.Read(ctx, name, version); return err })
	if err != nil {
		return secrets.Token{}, secrets.Version{}, err
	}
	return token, v, nil
}

// Stage implements secrets.Vault.
func (f *Faulty) Stage(ctx context.Context, name string, token secrets.Token, fingerprint string, b secrets.Binding) (secrets.Version, error) {
	return faulty(f, "Stage", func() (secrets.Version, error) { return f.Vault.Stage(ctx, name, token, fingerprint, b) })
}

// Activate implements secrets.Vault.
func (f *Faulty) Activate(ctx context.Context, name string, version, expected int) error {
	return faultyOnly(f, "Activate", func() error { return f.Vault.Activate(ctx, name, version, expected) })
}

// Mark implements secrets.Vault.
func (f *Faulty) Mark(ctx context.Context, name string, version int, from, to secrets.State) error {
	return faultyOnly(f, "Mark", func() error { return f.Vault.Mark(ctx, name, version, from, to) })
}

// Describe implements secrets.Vault.
func (f *Faulty) Describe(ctx context.Context, name string, version int, a secrets.Attributes) error {
	return faultyOnly(f, "Describe", func() error { return f.Vault.Describe(ctx, name, version, a) })
}

// Used implements secrets.Vault.
func (f *Faulty) Used(ctx context.Context, name string, u secrets.PlaceUse) error {
	return faultyOnly(f, "Used", func() error { return f.Vault.Used(ctx, name, u) })
}

// Uses implements secrets.Vault.
func (f *Faulty) Uses(ctx context.Context, name string) ([]secrets.PlaceUse, error) {
	return faulty(f, "Uses", func() ([]secrets.PlaceUse, error) { return f.Vault.Uses(ctx, name) })
}

// FingerprintKey implements secrets.Vault.
func (f *Faulty) FingerprintKey(ctx context.Context) ([]byte, error) {
	return faulty(f, "FingerprintKey", func() ([]byte, error) { return f.Vault.FingerprintKey(ctx) })
}
