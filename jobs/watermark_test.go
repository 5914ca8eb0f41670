package jobs_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/simulator"
)

func byWatermark(table, column string) jobs.Job {
	j := job(table)
	j.Refresh = jobs.Refresh{Mode: jobs.Watermark, By: column}
	return j
}

// Changed and new rows come by their time of change; what the overlap shows again is not read again; deleted rows stay until everything is
// compared.
func TestWatermark(t *testing.T) {
	r := newRig(t, simulator.Options{Rows: map[string]int64{products: 400}})
	j := byWatermark(products, "Update_Time")
	if first := r.merged(j); first.Whole == "" {
		t.Fatal("the first run has not read everything")
	}
	for round := range 3 {
		r.server.SetNow(time.Now())
		must(t, errOf(r.server.Update(products, 7)))
		must(t, errOf(r.server.Insert(products, 2)))
		res := r.merged(j)
		if res.Merge == nil || res.Merge.Written != 9 || !res.Merge.Partial || res.Merge.Watermark.IsZero() || res.Evidence.Rows > 40 {
			t.Fatalf("round %d: %+v %q", round, res.Merge, res.Whole)
		}
		again := r.merged(j)
		if again.Merge == nil || again.Merge.Written != 0 || again.Evidence.Rows == 0 {
			t.Errorf("round %d, again: %+v", round, again.Merge)
		}
	}
	must(t, errOf(r.server.Delete(products, 5)))
	if res, err := r.run(j); err != nil || res.Merge.Dropped != 0 {
		t.Errorf("%v, %+v", err, res.Merge)
	}
	// A change that shows a time before the watermark, by more than the overlap, is what a sweep is for.
	r.server.SetNow(time.Now().Add(-time.Hour))
	must(t, errOf(r.server.Update(products, 3)))
	if res, err := r.run(j); err != nil || res.Merge.Written != 0 {
		t.Errorf("%v, %+v", err, res.Merge)
	}
	j.Refresh.Sweep = time.Millisecond
	if res := r.merged(j); res.Merge == nil || res.Merge.Deleted != 5 || res.Merge.Written != 3 || res.Merge.Partial {
		t.Errorf("%+v", res.Merge)
	}
	j.Refresh.Sweep, j.Refresh.Overlap = 0, 2*time.Hour
	must(t, errOf(r.server.Update(products, 4))) // an hour ago
	if res := r.merged(j); res.Merge == nil || res.Merge.Written != 4 || !res.Merge.Partial {
		t.Errorf("%+v", res.Merge)
	}
}

// A run that fails leaves the watermark where it was.
func TestWatermarkStaysOnFailure(t *testing.T) {
	r := newRig(t, simulator.Options{Rows: map[string]int64{products: 200}})
	j := byWatermark(products, "Update_Time")
	r.merged(j)
	r.server.SetNow(time.Now())
	must(t, errOf(r.server.Update(products, 7)))
	j.Refresh.Overlap = time.Millisecond
	r.server.Inject(simulator.Fault{Table: products, Times: -1, Effect: simulator.Status(403, "")})
	if _, err := r.run(j); err == nil {
		t.Fatal("no error")
	}
	r.server.ClearFaults()
	if res := r.merged(j); res.Merge == nil || res.Merge.Written != 7 {
		t.Errorf("%+v", res.Merge)
	}
}

// A watermark is not relied on where it lies in the future, or where others have changed the rows since: everything is compared.
func TestWatermarkThatCannotBeReliedOn(t *testing.T) {
	r := newRig(t, simulator.Options{Rows: map[string]int64{products: 200}})
	j := byWatermark(products, "Update_Time")
	for operation, at := range map[string]time.Duration{"OPTIMIZE": time.Hour, "RESTORE": 0, "DELETE": 0} {
		r.merged(j)
		if res := r.merged(j); res.Merge == nil || !res.Merge.Partial {
			t.Fatalf("%+v %q", res.Merge, res.Whole)
		}
		log := delta.Open(store.Prefixed(r.files, j.Path))
		base, err := log.Snapshot(t.Context())
		must(t, err)
		actions := []delta.Action{{CommitInfo: delta.CommitInfo{"operation": operation}}}
		if at > 0 {
			actions = append(actions, delta.Action{Txn: &delta.Txn{AppID: "tablexport/" + j.Name + "/watermark", Version: time.Now().Add(at).UnixMilli()}})
		}
		_, err = log.Commit(t.Context(), base, actions)
		must(t, err)
		must(t, errOf(r.server.Delete(products, 3)))
		if res := r.merged(j); res.Merge == nil || res.Merge.Partial || res.Merge.Deleted != 3 {
			t.Errorf("%s: %+v %q", operation, res.Merge, res.Whole)
		}
	}
}

func TestWatermarkPlan(t *testing.T) {
	for column, problem := range map[string]string{"Nope": "no column", "Part_Number": "is Edm.String", "Update_Time": ""} {
		_, err := jobs.NewPlan(byWatermark(products, column), edm.Embedded())
		if (err == nil) != (problem == "") || err != nil && !strings.Contains(err.Error(), problem) {
			t.Errorf("%s: %v", column, err)
		}
	}
}
