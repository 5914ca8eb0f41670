package ledger_test

import (
	"path/filepath"
	"sync"
	"testing"

	"github.com/tablexport/tablexport/jobs/ledger"
)

// Several runs that start at once on a fresh state directory all get a ledger.
func TestFirstOpenersTogether(t *testing.T) {
	for range 20 {
		path := filepath.Join(t.TempDir(), "ledger.db")
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				l, err := ledger.Open(t.Context(), path)
				if err != nil {
					t.Error(err)
					return
				}
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
}
