package ledger

import (
	"path/filepath"
	"testing"
	"time"
)

func TestFigures(t *testing.T) {
	t.Parallel()
	l, err := Open(t.Context(), filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if all, err := l.Figures(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("at first: %v %v", all, err)
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	newest := Figures{Instance: "acme", Taken: now, Sessions: 7, Ours: 1, Licenses: 20, Findings: 3}
	for _, f := range []Figures{{Instance: "acme", Taken: now.Add(-time.Hour), Sessions: -1, Ours: -1, Licenses: -1}, newest,
		{Instance: "acme", Taken: now.Add(-time.Minute)}, {Instance: "other", Taken: now, Sessions: -1, Ours: -1, Licenses: -1}} {
		if err := l.SaveFigures(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	all, err := l.Figures(t.Context())
	if err != nil || len(all) != 2 || all["acme"] != newest || all["other"].Licenses != -1 {
		t.Errorf("%+v %v", all, err)
	}
}
