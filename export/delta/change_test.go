package delta

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/memstore"
	"github.com/tablexport/tablexport/export/store/storetest"
)

const schemaMonths = `{"type":"struct","fields":[{"name":"a","type":"long","nullable":true,"metadata":{}},{"name":"month","type":"string","nullable":true,"metadata":{}}]}`

// months is a table that is partitioned by month, with a file in each.
func months(t testing.TB, b store.Bucket, files ...string) *Snapshot {
	t.Helper()
	actions := []Action{
		{Protocol: &Protocol{MinReaderVersion: 1, MinWriterVersion: 2}},
		{Metadata: &Metadata{ID: "id-1", Format: Format{Provider: "parquet"}, SchemaString: schemaMonths, PartitionColumns: []string{"month"}}},
	}
	l := Open(b)
	if _, err := l.Commit(t.Context(), &Snapshot{Version: -1}, append(actions, in(true, files...)...)); err != nil {
		t.Fatal(err)
	}
	s, err := l.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// in are adds of files that are named "month=<month>/…".
func in(dataChange bool, files ...string) []Action {
	out := adds(files...)
	for i := range out {
		out[i].Add.PartitionValues, out[i].Add.DataChange = monthOf(files[i]), dataChange
	}
	return out
}

func out(dataChange bool, files ...string) []Action {
	out := removes(files...)
	for i := range out {
		out[i].Remove.PartitionValues, out[i].Remove.DataChange = monthOf(files[i]), dataChange
	}
	return out
}

func monthOf(file string) map[string]*string {
	month := strings.TrimPrefix(file[:strings.Index(file, "/")], "month=")
	return map[string]*string{"month": &month}
}

func touching(month string) func(map[string]*string) bool {
	return func(v map[string]*string) bool { return v["month"] != nil && *v["month"] == month }
}

// replace is the change that a refresh of one month is: whatever is in the month goes, and one file comes.
func replace(month, file string) Change {
	return Change{
		Touches: touching(month),
		Build: func(base *Snapshot) ([]Action, error) {
			actions := []Action{{Txn: &Txn{AppID: "job/" + month, Version: base.Txns["job/"+month].Version + 1}}}
			for _, f := range base.Files {
				if touching(month)(f.PartitionValues) {
					actions = append(actions, out(true, f.Path)...)
				}
			}
			return append(actions, in(true, file)...), nil
		},
	}
}

func TestChangeRebase(t *testing.T) {
	const a, b, c = "month=01/a", "month=02/b", "month=01/c"
	for _, tt := range []struct {
		name   string
		theirs [][]Action
		want   string   // "" = it follows
		files  []string // afterwards
	}{
		{"nobody", nil, "", []string{"month=01/new", b}},
		{"data in another month", [][]Action{append(out(true, b), in(true, "month=02/x")...)}, "", []string{"month=01/new", "month=02/x"}},
		{"a new month", [][]Action{in(true, "month=03/x")}, "", []string{"month=01/new", b, "month=03/x"}},
		{"many", [][]Action{in(true, "month=03/x"), in(true, "month=03/y"), out(true, "month=03/x")}, "", []string{"month=01/new", b, "month=03/y"}},
		{"data in the month", [][]Action{in(true, "month=01/x")}, "adds 1 and removes 0 files", nil},
		{"a removal in the month", [][]Action{out(true, a)}, "adds 0 and removes 1 files", nil},
		{"a removal that says no partition", [][]Action{removes(a)}, "adds 0 and removes 1 files", nil},
		{"another's removal that says no partition", [][]Action{removes(b)}, "", []string{"month=01/new"}},
		{"the second one conflicts", [][]Action{in(true, "month=03/x"), in(true, "month=01/x")}, "adds 1 and removes 0", nil},
		{"a rearrangement of the month", [][]Action{append(out(false, a, c), in(false, "month=01/ac")...)}, "", []string{"month=01/new", b}},
		{"schema", [][]Action{{{Metadata: &Metadata{ID: "id-1", Format: Format{Provider: "parquet"}, SchemaString: schemaMonths, PartitionColumns: []string{"month"}, Description: "x"}}}}, "schema or metadata", nil},
		{"protocol", [][]Action{{{Protocol: &Protocol{MinReaderVersion: 1, MinWriterVersion: 1}}}}, "protocol", nil},
		{"same application", [][]Action{{{Txn: &Txn{AppID: "job/01", Version: 9}}}}, "same application", nil},
		{"another application", [][]Action{{{Txn: &Txn{AppID: "job/02", Version: 9}}}}, "", []string{"month=01/new", b}},
		{"same name", [][]Action{in(false, "month=01/new")}, "same name", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bucket := memstore.New()
			base := months(t, bucket, a, b, c)
			l := Open(bucket)
			for _, actions := range tt.theirs {
				mustCommit(t, l, mustSnapshot(t, l), actions)
			}
			built := 0
			change := replace("01", "month=01/new")
			build := change.Build
			change.Build = func(s *Snapshot) ([]Action, error) { built++; return build(s) }
			v, err := l.Apply(t.Context(), base, change)
			if tt.want != "" {
				var conflict *Conflict
				if !errors.As(err, &conflict) || !strings.Contains(err.Error(), tt.want) || conflict.Version != int64(len(tt.theirs)) {
					t.Fatalf("%v", err)
				}
				if s := mustSnapshot(t, l); s.Version != int64(len(tt.theirs)) {
					t.Fatalf("version %d was published", s.Version)
				}
				return
			}
			if err != nil || v != int64(len(tt.theirs))+1 || built != min(len(tt.theirs), 1)+1 {
				t.Fatalf("version %d, built %d times: %v", v, built, err)
			}
			s := mustSnapshot(t, l)
			if got := paths(s); !slices.Equal(got, tt.files) || s.Txns["job/01"].Version != 1 {
				t.Fatalf("%q, want %q", got, tt.files)
			}
		})
	}
}

// The snapshot that Build gets after a rebase is the one that a fresh reader gets.
func TestRebasedSnapshot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := memstore.New()
		l := Open(b)
		ctx := t.Context()
		if _, err := l.Commit(ctx, &Snapshot{Version: -1}, append(create("f"), Action{Txn: &Txn{AppID: "x", Version: 1}})); err != nil {
			t.Fatal(err)
		}
		base, err := l.Snapshot(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for i := range rapid.IntRange(1, 5).Draw(t, "others") {
			s, err := l.Snapshot(ctx)
			if err != nil {
				t.Fatal(err)
			}
			actions := append(adds(fmt.Sprint("f", i)), Action{Txn: &Txn{AppID: fmt.Sprint("app", i%2), Version: int64(i)}})
			for _, f := range s.Files {
				if rapid.Bool().Draw(t, "remove") {
					actions = append(actions, removes(f.Path)...)
				}
			}
			if _, err := l.Commit(ctx, s, actions); err != nil {
				t.Fatal(err)
			}
		}
		var got *Snapshot
		_, err = l.Apply(ctx, base, Change{
			Touches: func(map[string]*string) bool { return false },
			Build: func(s *Snapshot) ([]Action, error) {
				got = s
				return []Action{{Txn: &Txn{AppID: "mine", Version: 1}}}, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		want, err := l.SnapshotAt(ctx, got.Version)
		if err != nil {
			t.Fatal(err)
		}
		if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
			t.Fatalf("%s\nwant\n%s", g, w)
		}
	})
}

func TestBuild(t *testing.T) {
	b := memstore.New()
	base := months(t, b, "month=01/a")
	l := Open(b)
	mine := errors.New("mine")
	if _, err := l.Apply(t.Context(), base, Change{Build: func(*Snapshot) ([]Action, error) { return nil, mine }}); !errors.Is(err, mine) {
		t.Fatal(err)
	}
	if v, err := l.Apply(t.Context(), base, Change{Build: func(*Snapshot) ([]Action, error) { return nil, nil }}); err != nil || v != 0 {
		t.Fatal(v, err)
	}
	for name, actions := range map[string][]Action{
		"no partition value":      adds("x"),
		"another partition value": func() []Action { a := in(true, "month=01/x"); a[0].Add.PartitionValues["y"] = nil; return a }(),
		"not in the schema":       {{Metadata: &Metadata{ID: "id-1", SchemaString: schemaMonths, PartitionColumns: []string{"day"}}}},
		"twice":                   {{Metadata: &Metadata{ID: "id-1", SchemaString: schemaMonths, PartitionColumns: []string{"month", "month"}}}},
		"nothing else":            {{Metadata: &Metadata{ID: "id-1", SchemaString: schemaOne, PartitionColumns: []string{"a"}}}},
		"removed is not there":    out(true, "month=01/x"),
	} {
		if _, err := l.Apply(t.Context(), base, Change{Build: func(*Snapshot) ([]Action, error) { return actions, nil }}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s := mustSnapshot(t, l); s.Version != 0 {
		t.Fatal(s.Version)
	}
}

// Refreshes of sixteen months at once all get through; of two of one month one wins.
func TestRacingChanges(t *testing.T) {
	b := memstore.New()
	base := months(t, b)
	var wg sync.WaitGroup
	var lost sync.Map
	for i := range 16 {
		for j := range 2 {
			wg.Go(func() {
				month := fmt.Sprintf("%02d", i)
				_, err := Open(b).Apply(t.Context(), base, replace(month, fmt.Sprintf("month=%s/%d", month, j)))
				var c *Conflict
				if err != nil && !errors.As(err, &c) {
					t.Error(err)
				}
				if err != nil {
					if _, twice := lost.LoadOrStore(month, j); twice {
						t.Errorf("both of %s lost", month)
					}
				}
			})
		}
	}
	wg.Wait()
	s := mustSnapshot(t, Open(b))
	if len(s.Files) != 16 || s.Version != 16 {
		t.Fatalf("version %d, %d files", s.Version, len(s.Files))
	}
}

// At every operation of a commit that is rebased twice, before and after its effect: what Apply says is true, the change is in the log
// once or not at all, and what the others published stands.
func TestFaultsWhileRebasing(t *testing.T) {
	for _, conflicting := range []bool{false, true} {
		for _, when := range []storetest.When{storetest.Before, storetest.After} {
			for _, code := range []store.Code{store.Unavailable, store.Permission, store.Unknown} {
				for _, crash := range []bool{false, true} {
					name := fmt.Sprintf("conflicting=%v when=%d %v crash=%v", conflicting, when, code, crash)
					t.Run(name, func(t *testing.T) {
						fired := 1
						for n := 1; fired > 0; n++ {
							synctest.Test(t, func(t *testing.T) {
								fired = rebaseWith(t, conflicting, storetest.Fault{
									Nth: n, When: when, Crash: crash,
									Err: &store.Error{Code: code, Op: "injected", Err: storetest.ErrInjected},
								})
							})
							if t.Failed() {
								t.Fatalf("at operation %d", n)
							}
							if fired == 0 && n < 6 {
								t.Fatalf("only %d operations", n)
							}
						}
					})
				}
			}
		}
	}
}

func rebaseWith(t *testing.T, conflicting bool, fault storetest.Fault) (fired int) {
	b := memstore.New()
	base := months(t, b, "month=01/a", "month=02/b")
	l := Open(b)
	mustCommit(t, l, mustSnapshot(t, l), in(true, "month=02/x"))
	mustCommit(t, l, mustSnapshot(t, l), append(out(false, "month=01/a"), in(false, "month=01/a2")...))
	bad := storetest.Faulty(b, fault)
	change := replace("01", "month=01/new")
	build, tries := change.Build, 0
	change.Build = func(s *Snapshot) ([]Action, error) {
		if tries++; tries == 2 { // and once more, just before the second put
			actions := in(true, "month=03/y")
			if conflicting {
				actions = in(true, "month=01/y")
			}
			mustCommit(t, l, mustSnapshot(t, l), actions)
		}
		return build(s)
	}
	v, err := Open(bad).Apply(t.Context(), base, change)
	s := mustSnapshot(t, l)
	there := 0
	for _, e := range s.Recent {
		entry := mustEntry(t, l, e.Version)
		for _, a := range entry.Actions {
			if a.Add != nil && a.Add.Path == "month=01/new" {
				there++
				if err == nil && e.Version != v {
					t.Errorf("version %d is said, it is %d", v, e.Version)
				}
			}
		}
	}
	var un *Unresolved
	var conflict *Conflict
	switch {
	case there > 1:
		t.Errorf("published %d times", there)
	case err == nil && (there != 1 || conflicting):
		t.Errorf("it succeeded, and is there %d times", there)
	case errors.As(err, &un):
	case err != nil && there != 0:
		t.Errorf("%v, and it is there", err)
	case errors.As(err, &conflict) && !conflicting:
		t.Error(err)
	case bad.Fired() == 0 && (err != nil) != conflicting:
		t.Error(err)
	}
	if there == 1 && !slices.Equal(paths(s), []string{"month=01/new", "month=02/b", "month=02/x", "month=03/y"}) {
		t.Error(paths(s))
	}
	return bad.Fired()
}
