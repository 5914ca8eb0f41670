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
		dry, err := d.Vacuum(t.Context(), 0, true, "tablexport/test", 1, 99)
		if err != nil || dry.Found != 4 || dry.Kept != 2 {
			t.Fatalf("%+v %v", dry, err)
		}
		got, err := d.Vacuum(t.Context(), 0, false, "tablexport/test", 1, 99)
		if err != nil || got.Removed != 4 {
			t.Fatalf("%+v %v", got, err)
		}
		if missing(t, d, 0) == 0 || missing(t, d, 1) != 0 || missing(t, d, 2) == 0 {
			t.Fatal("not the files of the version that is held")
		}
		if got, err = d.Vacuum(t.Context(), 0, false, "tablexport/test"); err != nil || got.Removed != 2 {
			t.Fatalf("%+v %v", got, err)
		}
	})
}
