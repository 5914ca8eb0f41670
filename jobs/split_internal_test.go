package jobs

import (
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/evidence"
)

// Ranges of keys tile all GUIDs, whatever the first and the last key of the earlier scan were, and their order is SQL Server's.
func TestKeyRangesTile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		guid := rapid.StringMatching(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
		known := []evidence.Evidence{{Order: evidence.OrderRequested, FirstKey: guid.Draw(t, "first"), LastKey: guid.Draw(t, "last")}}
		ranges := interpolated(known, rapid.Int64Range(0, 50).Draw(t, "n"))
		next := new(big.Int)
		for i, r := range ranges {
			if r.low.Cmp(next) != 0 || r.high.Cmp(r.low) < 0 {
				t.Fatalf("range %d of %d does not begin behind the one before, or is empty", i, len(ranges))
			}
			if edm.CompareGUID(guidText(r.low), guidText(r.high)) > 0 {
				t.Fatalf("range %d is no range for SQL Server", i)
			}
			next = new(big.Int).Add(r.high, big.NewInt(1))
		}
		if new(big.Int).Sub(next, big.NewInt(1)).Cmp(lastKey) != 0 {
			t.Fatal("the ranges do not end with the last GUID")
		}
	})
	unordered := []evidence.Evidence{{Order: evidence.OrderNone, FirstKey: guidText(big.NewInt(1)), LastKey: guidText(lastKey)}}
	for _, known := range [][]evidence.Evidence{nil, unordered, {{Order: evidence.OrderRequested, FirstKey: "7", LastKey: "9"}}} {
		if n := len(interpolated(known, 5)); n != 1 {
			t.Errorf("%d ranges are made of nothing that is known", n)
		}
	}
}

func TestSplitLimit(t *testing.T) {
	fast := Rate{Scans: 2, Rows: 200_000, Bytes: 20_000_000, Requests: 30, Busy: 20 * time.Second} // 100 bytes and 100 µs a row
	for name, x := range map[string]struct {
		split Split
		rate  Rate
		tries int
		want  int64
	}{
		"by itself":           {Split{}, Rate{}, 1, 5_000_000},
		"rows":                {Split{Rows: 1000}, fast, 1, 1000},
		"bytes":               {Split{Bytes: 10_100}, fast, 1, 100},
		"time":                {Split{After: time.Second}, fast, 1, 10_000},
		"halved":              {Split{Rows: 1000}, fast, 3, 250},
		"never nothing":       {Split{Rows: 1}, fast, 90, 1},
		"latency says little": {Split{After: time.Second}, Rate{Scans: 5, Rows: 50, Bytes: 5000, Requests: 20, Busy: 10 * time.Second}, 1, 5_000_000},
	} {
		if got := x.split.limit(x.rate, x.tries); got != x.want {
			t.Errorf("%s: %d rows, want %d", name, got, x.want)
		}
	}
}
