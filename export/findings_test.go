package export

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tablexport/tablexport/export/exporttest/judge"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/filestore"
	"github.com/tablexport/tablexport/export/store/memstore"
	"github.com/tablexport/tablexport/export/store/storetest"
)

func someFindings(report string, n int) []Finding {
	var all []Finding
	for i := range n {
		all = append(all, Finding{Time: time.Date(2026, 11, 26, 6, 0, 0, 0, time.UTC), Instance: "acme", Kind: "unused", Subject: fmt.Sprint(report, "-", i), Detail: "Größe"})
	}
	return all
}

func publishFindings(ctx context.Context, b store.Bucket, run string, n int, latest bool) (int64, error) {
	return Open(b, "t").PublishFindings(ctx, FindingsSpec{Report: "tokens-report", RunID: run, Description: "Findings", Engine: "test", Latest: latest}, someFindings(run, n))
}

// reportsOf reads a dataset of findings: how many rows each report has.
func reportsOf(t testing.TB, b store.Bucket) map[string]int {
	t.Helper()
	d := Open(b, "t")
	s, err := d.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cells, err := readAll(t.Context(), d.b, s)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, run := range cells["report"] {
		out[run]++
	}
	return out
}

// Wherever a process dies, the reports before it stand, and the one that was made again is there once.
func TestFindingsSurviveCrashes(t *testing.T) {
	t.Parallel()
	for _, latest := range []bool{false, true} {
		for n := 1; ; n++ {
			fired := false
			for _, when := range []storetest.When{storetest.Before, storetest.After} {
				b := memstore.New()
				if _, err := publishFindings(t.Context(), b, "run-0", 2, latest); err != nil {
					t.Fatal(err)
				}
				bad := storetest.Faulty(b, storetest.CrashAt(n, when))
				_, err := publishFindings(t.Context(), bad, "run-1", 3, latest)
				fired = fired || bad.Fired() > 0
				got := reportsOf(t, b)
				if whole := got["run-1"] == 3; got["run-1"] != 0 && !whole || err == nil && !whole || (!latest || !whole) && got["run-0"] != 2 {
					t.Fatalf("latest=%v, operation %d: %v, %v", latest, n, got, err)
				}
				if _, err := publishFindings(t.Context(), b, "run-1", 3, latest); err != nil {
					t.Fatalf("latest=%v, operation %d: again: %v", latest, n, err)
				}
				if got := reportsOf(t, b); got["run-1"] != 3 || (got["run-0"] == 2) == latest {
					t.Fatalf("latest=%v, operation %d: after it was made again: %v", latest, n, got)
				}
			}
			if !fired {
				break
			}
		}
	}
}

// Reports that are published at once are all there, each whole.
func TestFindingsAtOnce(t *testing.T) {
	t.Parallel()
	b := memstore.New()
	if _, err := publishFindings(t.Context(), b, "run-0", 1, false); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	published := map[string]int{"run-0": 1}
	for i := 1; i <= 4; i++ {
		run := fmt.Sprint("run-", i)
		wg.Go(func() {
			if _, err := publishFindings(t.Context(), b, run, i, false); err != nil {
				t.Errorf("%s: %v", run, err)
			}
			mu.Lock()
			defer mu.Unlock()
			published[run] = i
		})
	}
	wg.Wait()
	if got := reportsOf(t, b); fmt.Sprint(got) != fmt.Sprint(published) {
		t.Errorf("there are %v, published were %v", got, published)
	}
}

// Nothing else is overwritten: neither a job's dataset nor another report's.
func TestFindingsRefuse(t *testing.T) {
	t.Parallel()
	b := memstore.New()
	publishKinds(t, Open(b, "t"), "run-0", kinds, 5)
	var other *OtherJob
	if _, err := publishFindings(t.Context(), b, "run-1", 1, true); !errors.As(err, &other) {
		t.Errorf("a job's dataset: %v", err)
	}
	free := memstore.New()
	for what, try := range map[string]func() error{
		"no rows":   func() error { _, err := publishFindings(t.Context(), free, "run-1", 0, false); return err },
		"a bad run": func() error { _, err := publishFindings(t.Context(), free, "run/1", 1, false); return err },
	} {
		if try() == nil {
			t.Errorf("%s: published", what)
		}
	}
	if s, err := Open(free, "t").Snapshot(t.Context()); err != nil || s.Version != -1 {
		t.Errorf("%+v %v", s, err)
	}
}

// Engines that are not ours read the dataset.
func TestFindingsJudged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b, err := filestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if _, err := publishFindings(t.Context(), b, fmt.Sprint("run-", i), 2, false); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, row := range judge.Rows(t, dir+"/t") {
		got = append(got, fmt.Sprint(row["report"], row["subject"], row["detail"]))
	}
	slices.Sort(got)
	if len(got) != 6 || got[5] != "run-2run-2-1Größe" {
		t.Errorf("%v", got)
	}
	if r, err := Open(b, "t").Verify(t.Context()); err != nil || len(r.Problems) > 0 {
		t.Errorf("%+v %v", r, err)
	}
}
