package evidence_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tablexport/tablexport/odata/evidence"
)

func n(v int64) *int64 { return &v }

func good() evidence.Evidence {
	return evidence.Evidence{
		Paging: "key", Order: evidence.OrderRequested, Rows: 10, KeyColumns: []string{"Id"}, DistinctKeys: 10,
		End: evidence.EndSeam, Requests: 3, Pages: 2, Passes: 1, Attempts: 1,
	}
}

func TestJudge(t *testing.T) {
	type e = evidence.Evidence
	tests := []struct {
		name   string
		change func(*e)
		want   string // "" = proven
	}{
		{"ordered, seam", func(*e) {}, ""},
		{"ordered, empty table", func(v *e) { v.Rows, v.DistinctKeys, v.End = 0, 0, evidence.EndEmpty }, ""},
		{"ordered, counts equal", func(v *e) { v.CountBefore, v.CountAfter = n(10), n(10) }, ""},
		{"ordered, grown", func(v *e) { v.CountBefore, v.CountAfter = n(10), n(14) }, ""},
		{"ordered, shrunk, rows seen before they went", func(v *e) { v.CountBefore, v.CountAfter = n(12), n(8) }, ""},
		{"ordered, more rows than either count (rows came and went)", func(v *e) { v.CountBefore, v.CountAfter = n(9), n(9) }, ""},
		{"observed, counts equal", func(v *e) { v.Order, v.CountBefore, v.CountAfter = evidence.OrderObserved, n(10), n(10) }, ""},
		{"observed, nothing behind", func(v *e) { v.Order, v.End = evidence.OrderObserved, evidence.EndEmpty }, ""},
		{"none, confirmed", func(v *e) { v.Order, v.End, v.Confirmed = evidence.OrderNone, evidence.EndStream, true }, ""},
		{"view, confirmed", func(v *e) {
			v.Order, v.End, v.Confirmed, v.KeyColumns, v.DistinctKeys = evidence.OrderNone, evidence.EndNextLink, true, nil, -1
		}, ""},

		{"zero", func(v *e) { *v = e{} }, "end"},
		{"end not seen", func(v *e) { v.End = evidence.EndNotSeen }, "end of the table was not seen"},
		{"unknown end", func(v *e) { v.End = "short-page" }, "not known to prove"},
		{"seam without order", func(v *e) { v.Order, v.Confirmed = evidence.OrderNone, true }, "no order"},
		{"repeated key", func(v *e) { v.DistinctKeys = 9 }, "9 different keys"},
		{"keys not counted", func(v *e) { v.DistinctKeys = -1 }, "different keys"},
		{"negative rows", func(v *e) { v.Rows, v.DistinctKeys = -1, -1 }, "negative"},
		{"view with keys", func(v *e) { v.KeyColumns = nil }, "without a key"},
		{"view with an order", func(v *e) { v.KeyColumns, v.DistinctKeys = nil, -1 }, "without a key"},
		{"row lost", func(v *e) { v.CountBefore, v.CountAfter = n(11), n(11) }, "10 rows were read"},
		{"row lost while the table grew", func(v *e) { v.CountBefore, v.CountAfter = n(11), n(20) }, "10 rows were read"},
		{"row lost while the table shrank", func(v *e) { v.CountBefore, v.CountAfter = n(20), n(11) }, "10 rows were read"},
		{"counted before only", func(v *e) { v.CountBefore = n(10) }, "one end"},
		{"counted after only", func(v *e) { v.CountAfter = n(10) }, "one end"},
		{"negative count", func(v *e) { v.CountBefore, v.CountAfter = n(-1), n(10) }, "negative"},
		{"observed, no proof", func(v *e) { v.Order = evidence.OrderObserved }, "not promised"},
		{"observed, counts differ", func(v *e) { v.Order, v.CountBefore, v.CountAfter = evidence.OrderObserved, n(9), n(10) }, "not promised"},
		{"observed, more rows than counted", func(v *e) {
			v.Order, v.End, v.CountBefore, v.CountAfter = evidence.OrderObserved, evidence.EndEmpty, n(9), n(9)
		}, "counted 9"},
		{"none, not confirmed", func(v *e) { v.Order, v.End = evidence.OrderNone, evidence.EndStream }, "second pass"},
		{"none, confirmed, more rows than counted", func(v *e) {
			v.Order, v.End, v.Confirmed, v.CountBefore, v.CountAfter = evidence.OrderNone, evidence.EndStream, true, n(9), n(9)
		}, "counted 9"},
		{"unknown order", func(v *e) { v.Order = "" }, "no order"},
		{"unknown order, empty end", func(v *e) { v.Order, v.End = "alphabetical", evidence.EndEmpty }, "not known"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := good()
			tt.change(&v)
			err := v.Judge()
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var incomplete *evidence.Incomplete
			if !errors.As(err, &incomplete) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want *Incomplete with %q", err, tt.want)
			}
		})
	}
}

// Whatever else it says, evidence with fewer rows than the server counted at both ends, with repeated
// keys, or without an end, is never believed.
func TestJudgeNeverBelieves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := evidence.Evidence{
			Order:      rapid.SampledFrom([]evidence.Order{evidence.OrderRequested, evidence.OrderObserved, evidence.OrderNone, ""}).Draw(t, "order"),
			End:        rapid.SampledFrom([]evidence.End{evidence.EndSeam, evidence.EndEmpty, evidence.EndNextLink, evidence.EndStream, ""}).Draw(t, "end"),
			Rows:       rapid.Int64Range(0, 20).Draw(t, "rows"),
			KeyColumns: []string{"Id"}, Confirmed: rapid.Bool().Draw(t, "confirmed"),
		}
		v.DistinctKeys = v.Rows - rapid.Int64Range(0, 1).Draw(t, "repeated")
		before, after := rapid.Int64Range(0, 20).Draw(t, "before"), rapid.Int64Range(0, 20).Draw(t, "after")
		v.CountBefore, v.CountAfter = &before, &after
		bad := v.End == "" || v.DistinctKeys != v.Rows || v.Rows < min(before, after) || v.Order == "" ||
			v.Order == evidence.OrderNone && !v.Confirmed
		if v.Judge() == nil && bad {
			t.Fatalf("believed: %+v", v)
		}
	})
}

func TestEvidenceRoundTrip(t *testing.T) {
	v := good()
	v.CountBefore = n(10)
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var back evidence.Evidence
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(v, back); d != "" {
		t.Fatal(d)
	}
	if strings.Contains(string(text), "countAfter") {
		t.Error("an unknown count is written")
	}
}
