package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// The newest entry of an action is found from the end, whatever stands behind it, in older files too; one that was edited is not taken.
func TestLast(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "audit")
	if _, ok, err := Last(dir, "config"); ok || err != nil {
		t.Errorf("no log: %v %v", ok, err)
	}
	log, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	add := func(action, subject string) {
		t.Helper()
		if _, err := log.Append(t.Context(), Entry{Actor: "ada", Action: action, Subject: subject, Outcome: OK, Detail: map[string]string{"note": `"action":"config"`}}); err != nil {
			t.Fatal(err)
		}
	}
	add("lease", "x")
	if _, ok, err := Last(dir, "config"); ok || err != nil {
		t.Errorf("none yet: %v %v", ok, err)
	}
	for i := range 3 {
		add("config", fmt.Sprint(i))
		add("configs", "no")
	}
	for range 500 {
		add("lease", "x")
	}
	if e, ok, err := Last(dir, "config"); !ok || err != nil || e.Subject != "2" {
		t.Errorf("%v %v %v", e, ok, err)
	}
	path := filePath(dir, 1)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	edited := bytes.Replace(data, []byte(`"action":"config","subject":"2"`), []byte(`"action":"config","subject":"0"`), 1)
	if bytes.Equal(edited, data) {
		t.Fatal("nothing was edited")
	}
	if err := os.WriteFile(path, edited, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := Last(dir, "config"); ok || !errors.Is(err, ErrDamaged) {
		t.Errorf("edited: %v %v", ok, err)
	}
}
