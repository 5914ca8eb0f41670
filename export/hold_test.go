package export

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tablexport/tablexport/export/store/memstore"
)

// A vacuum keeps the files of versions that are held, however old they are; versions that the log does not have hold nothing.
func TestVacuumHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memstore.New()
		d := Open(b, "t")
		for i := range 4 {
			mustRefresh(t, d, "run-"+string(rune('0'+i)), i, 15)
		}
		time.Sleep(90 * 24 * time.Hour)
		hold := func(time.Time) ([]int64, error) { return []int64{1, 99}, nil }
		dry, err := d.Vacuum(t.Context(), VacuumSpec{Engine: "tablexport/test", DryRun: true, Hold: hold})
		if err != nil || dry.Found != 4 || dry.Kept != 2 {
			t.Fatalf("%+v %v", dry, err)
		}
		got, err := d.Vacuum(t.Context(), VacuumSpec{Engine: "tablexport/test", Hold: hold})
		if err != nil || got.Removed != 4 {
			t.Fatalf("%+v %v", got, err)
		}
		if missing(t, d, 0) == 0 || missing(t, d, 1) != 0 || missing(t, d, 2) == 0 {
			t.Fatal("not the files of the version that is held")
		}
		if got, err = d.Vacuum(t.Context(), VacuumSpec{Engine: "tablexport/test"}); err != nil || got.Removed != 2 {
			t.Fatalf("%+v %v", got, err)
		}
	})
}
