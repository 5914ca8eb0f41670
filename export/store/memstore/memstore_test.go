package memstore_test

import (
	"testing"

	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/memstore"
	"github.com/tablexport/tablexport/export/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Bucket { return memstore.New() })
}

// A key cannot be a directory of another one: the double is as strict as a file system.
func TestKeyAndDirectory(t *testing.T) {
	b := memstore.New()
	ctx := t.Context()
	if err := b.Put(ctx, "a/b", nil); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a", "a/b/c"} {
		if err := b.Put(ctx, key, nil); store.CodeOf(err) != store.Invalid {
			t.Errorf("Put(%q) = %v, want invalid", key, err)
		}
	}
	if err := b.Delete(ctx, "a/b"); err != nil {
		t.Fatal(err)
	}
	if err := b.Put(ctx, "a", nil); err != nil {
		t.Errorf("an emptied directory is still in the way: %v", err)
	}
}
