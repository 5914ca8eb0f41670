package export

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/store/filestore"
)

// A diff counts what changed, whether the rows are held at once or in many shares.
func TestDiff(t *testing.T) {
	t.Parallel()
	b, err := filestore.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d := Open(b, "lake/kinds")
	publishKinds(t, d, "run-0", kinds, 60)
	publishKinds(t, d, "run-1", kinds, 45)
	publishKinds(t, d, "run-2", kinds, 60)
	for _, c := range []struct {
		from, to int64
		want     Diff
	}{
		{0, 1, Diff{Removed: 15, Unchanged: 45}},
		{1, 2, Diff{Added: 15, Unchanged: 45}},
		{0, 2, Diff{Unchanged: 60}},
	} {
		c.want.From, c.want.To, c.want.Key = c.from, c.to, []string{"Id"}
		for _, atOnce := range []int64{diffRows, 7, 1} {
			got, err := d.diff(t.Context(), c.from, c.to, []string{"Id"}, atOnce)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%d rows at once:\n%s", atOnce, diff)
			}
		}
	}
	if _, err := d.Diff(t.Context(), 0, 1, []string{"Flag"}); !errors.Is(err, ErrNotKey) {
		t.Errorf("a column that is no key: %v", err)
	}
	if _, err := d.Diff(t.Context(), 0, 1, nil); !errors.Is(err, ErrNotKey) {
		t.Errorf("no column: %v", err)
	}
	if _, err := d.Diff(t.Context(), 0, 9, []string{"Id"}); !errors.Is(err, delta.ErrNoVersion) {
		t.Errorf("no such version: %v", err)
	}
}
