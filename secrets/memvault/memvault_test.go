package memvault_test

import (
	"errors"
	"testing"

	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/memvault"
	"github.com/tablexport/tablexport/secrets/secretstest"
)

func TestConformance(t *testing.T) {
	secretstest.Run(t, func(*testing.T) func(*testing.T) secrets.Vault {
		v := memvault.New()
		return func(*testing.T) secrets.Vault { return v }
	})
}

func TestFaults(t *testing.T) {
	v := memvault.New()
	c := secretstest.NewCanary(t)
	broken := errors.New("broken")
	v.Before = func(op string) error { return broken }
	if _, err := v.Stage(t.Context(), "a", c.Token, "fp:a", secretstest.Binding); !errors.Is(err, broken) {
		t.Error(err)
	}
	v.Before = nil
	v.After = func(op string) error { return broken }
	if _, err := v.Stage(t.Context(), "a", c.Token, "fp:a", secretstest.Binding); !errors.Is(err, broken) {
		t.Error(err)
	}
	v.After = nil
	if n, err := v.Versions(t.Context(), "a"); err != nil || len(n.Versions) != 1 {
		t.Errorf("%+v %v: the second one persisted, the first did not", n, err)
	}
	_ = v.Close()
	if _, err := v.Versions(t.Context(), "a"); !errors.Is(err, secrets.ErrNotFound) {
		t.Error(err)
	}
}
