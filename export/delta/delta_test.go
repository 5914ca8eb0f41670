package delta

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/memstore"
	"github.com/tablexport/tablexport/export/store/storetest"
)

const schemaOne = `{"type":"struct","fields":[{"name":"a","type":"long","nullable":true,"metadata":{}}]}`

func create(files ...string) []Action {
	out := []Action{
		{CommitInfo: CommitInfo{"operation": "WRITE", "timestamp": int64(1_700_000_000_000)}},
		{Protocol: &Protocol{MinReaderVersion: 1, MinWriterVersion: 2}},
		{Metadata: &Metadata{ID: "id-1", Format: Format{Provider: "parquet"}, SchemaString: schemaOne, CreatedTime: 1}},
	}
	return append(out, adds(files...)...)
}

func adds(files ...string) (out []Action) {
	for _, f := range files {
		out = append(out, Action{Add: &Add{Path: f, Size: 3, DataChange: true, Stats: `{"numRecords":1}`}})
	}
	return out
}

func removes(files ...string) (out []Action) {
	for _, f := range files {
		out = append(out, Action{Remove: &Remove{Path: f, DataChange: true, ExtendedFileMetadata: true, DeletionTimestamp: 5}})
	}
	return out
}

func blind(files ...string) []Action {
	return append(adds(files...), Action{CommitInfo: CommitInfo{"isBlindAppend": true}})
}

func paths(s *Snapshot) (out []string) {
	for _, f := range s.Files {
		out = append(out, f.Path)
	}
	return out
}

func mustCommit(t *testing.T, l *Log, base *Snapshot, actions []Action) int64 {
	t.Helper()
	v, err := l.Commit(t.Context(), base, actions)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func mustSnapshot(t *testing.T, l *Log) *Snapshot {
	t.Helper()
	s, err := l.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLifeOfATable(t *testing.T) {
	l := Open(memstore.New())
	s := mustSnapshot(t, l)
	if s.Version != -1 || len(s.Files) != 0 {
		t.Fatalf("%+v", s)
	}
	if v := mustCommit(t, l, s, create("a", "b")); v != 0 {
		t.Fatal(v)
	}
	s = mustSnapshot(t, l)
	if s.Version != 0 || !slices.Equal(paths(s), []string{"a", "b"}) || s.Metadata.ID != "id-1" || !s.Timestamp.Equal(time.UnixMilli(1_700_000_000_000)) {
		t.Fatalf("%+v", s)
	}
	mustCommit(t, l, s, slices.Concat(removes("a", "b"), adds("c"), []Action{{Txn: &Txn{AppID: "app", Version: 7, LastUpdated: 9}}}))
	s = mustSnapshot(t, l)
	if !slices.Equal(paths(s), []string{"c"}) || len(s.Tombstones) != 2 || s.Txns["app"].Version != 7 {
		t.Fatalf("%+v", s)
	}
	// An empty refresh is a version without files.
	mustCommit(t, l, s, removes("c"))
	if s = mustSnapshot(t, l); s.Version != 2 || len(s.Files) != 0 {
		t.Fatalf("%+v", s)
	}
	old, err := l.SnapshotAt(t.Context(), 0)
	if err != nil || !slices.Equal(paths(old), []string{"a", "b"}) {
		t.Fatalf("%v %+v", err, old)
	}
	for _, v := range []int64{-1, 3} {
		if _, err := l.SnapshotAt(t.Context(), v); !errors.Is(err, ErrNoVersion) {
			t.Fatalf("version %d: %v", v, err)
		}
	}
	h, err := l.History(t.Context(), 2)
	if err != nil || len(h) != 2 || h[0].Version != 2 || h[1].Version != 1 {
		t.Fatalf("%v %+v", err, h)
	}
	if h, err = l.History(t.Context(), 0); err != nil || len(h) != 3 || h[2].CommitInfo()["operation"] != "WRITE" {
		t.Fatalf("%v %+v", err, h)
	}
	if _, err := l.Entry(t.Context(), 9); !errors.Is(err, ErrNoVersion) {
		t.Fatal(err)
	}
}

// The exact text that other engines read: no null where the protocol wants a map or a list.
func TestEntryText(t *testing.T) {
	b := memstore.New()
	l := Open(b)
	mustCommit(t, l, mustSnapshot(t, l), create("a<b"))
	mustCommit(t, l, mustSnapshot(t, l), removes("a<b"))
	got := text(t, b, 0) + text(t, b, 1)
	for _, e := range []Entry{mustEntry(t, l, 0), mustEntry(t, l, 1)} {
		got = strings.ReplaceAll(got, e.CommitInfo()["txnId"].(string), "ID")
	}
	want := `{"commitInfo":{"operation":"WRITE","timestamp":1700000000000,"txnId":"ID"}}
{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}
{"metaData":{"id":"id-1","format":{"provider":"parquet","options":{}},"schemaString":"{\"type\":\"struct\",\"fields\":[{\"name\":\"a\",\"type\":\"long\",\"nullable\":true,\"metadata\":{}}]}","partitionColumns":[],"configuration":{},"createdTime":1}}
{"add":{"path":"a<b","partitionValues":{},"size":3,"modificationTime":0,"dataChange":true,"stats":"{\"numRecords\":1}"}}
{"commitInfo":{"txnId":"ID"}}
{"remove":{"path":"a<b","deletionTimestamp":5,"dataChange":true,"extendedFileMetadata":true,"partitionValues":{},"size":0}}
`
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
}

func mustEntry(t *testing.T, l *Log, v int64) Entry {
	t.Helper()
	e, err := l.Entry(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func text(t *testing.T, b store.Bucket, v int64) string {
	t.Helper()
	r, info, err := b.Open(t.Context(), entryKey(v))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	buf := make([]byte, info.Size)
	if _, err := r.Read(buf); err != nil && len(buf) > 0 {
		t.Fatal(err)
	}
	return string(buf)
}

func put(t testing.TB, b store.Bucket, key, data string) {
	t.Helper()
	if err := b.Put(t.Context(), key, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

const head = `{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}
{"metaData":{"id":"x","format":{"provider":"parquet","options":{}},"schemaString":"` + `{\"type\":\"struct\",\"fields\":[]}` + `","partitionColumns":[],"configuration":{}}}
`

// What other engines write beside and inside of what we know is passed over.
func TestTolerates(t *testing.T) {
	b := memstore.New()
	put(t, b, entryKey(0), head+`{"add":{"path":"dir/a%20b","partitionValues":{"p":null},"size":1,"modificationTime":1,"dataChange":true,"newThing":[1,{"x":2}]}}`+"\r\n\n"+
		`{"cdc":{"path":"c"}}`+"\n"+`{"domainMetadata":{"domain":"d","configuration":"","removed":false}}`+"\n"+`{"somethingNew":null,"add":null}`+"\n")
	put(t, b, entryKey(1), `{"remove":{"path":"dir/a b","deletionTimestamp":1,"dataChange":true}}`+"\n"+`{"add":{"path":"c","size":1,"partitionValues":{},"modificationTime":1,"dataChange":true}}`)
	for _, k := range []string{"_last_checkpoint", "00000000000000000000.crc", "00000000000000000000.00000000000000000001.compacted.json",
		"_commits/00000000000000000002.uuid.json", "00000000000000000001.checkpoint.parquet", "7.json", "0000000000000000000x.json"} {
		put(t, b, logDir+k, "{}")
	}
	s := mustSnapshot(t, Open(b))
	if s.Version != 1 || !slices.Equal(paths(s), []string{"c"}) || len(s.Tombstones) != 1 {
		t.Fatalf("%+v", s)
	}
}

func TestRefusesWhatItCannotRead(t *testing.T) {
	add := `{"add":{"path":"a","partitionValues":{},"size":1,"modificationTime":1,"dataChange":true}}` + "\n"
	for _, c := range []struct {
		name    string
		files   map[string]string
		want    string
		version int64
		line    int
	}{
		{"truncated line", map[string]string{entryKey(0): head, entryKey(1): add + add[:20]}, "not valid JSON", 1, 2},
		{"empty entry", map[string]string{entryKey(0): head, entryKey(1): "\n \n"}, "empty", 1, 1},
		{"zero bytes", map[string]string{entryKey(0): ""}, "empty", 0, 1},
		{"binary", map[string]string{entryKey(0): "\x00\x01\x02"}, "not valid JSON", 0, 1},
		{"not an object", map[string]string{entryKey(0): head, entryKey(1): "[1]"}, "", 1, 1},
		{"null line", map[string]string{entryKey(0): "null"}, "null", 0, 1},
		{"two actions", map[string]string{entryKey(0): head, entryKey(1): `{"txn":{"appId":"a","version":1},"commitInfo":{}}`}, "2 actions", 1, 1},
		{"wrong type", map[string]string{entryKey(0): head, entryKey(1): `{"add":{"path":7}}`}, "path", 1, 1},
		{"no path", map[string]string{entryKey(0): head, entryKey(1): `{"remove":{"dataChange":true}}`}, "no path", 1, 1},
		{"gap", map[string]string{entryKey(0): head, entryKey(2): add}, "missing", 1, 0},
		{"first gone", map[string]string{entryKey(3): add}, "missing", 2, 0},
		{"no protocol", map[string]string{entryKey(0): add}, "no protocol", 0, 0},
		{"half a checkpoint", map[string]string{entryKey(11): head, logDir + "00000000000000000010.checkpoint.0000000001.0000000002.parquet": "PAR1"}, "missing", 10, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := memstore.New()
			for k, v := range c.files {
				put(t, b, k, v)
			}
			_, err := Open(b).Snapshot(t.Context())
			var corrupt *Corrupt
			if !errors.As(err, &corrupt) || corrupt.Version != c.version || corrupt.Line != c.line || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v", err)
			}
			if !strings.Contains(err.Error(), fmt.Sprintf("%020d.json", c.version)) {
				t.Fatalf("the error does not name the entry: %v", err)
			}
		})
	}
}

func TestUnsupportedTables(t *testing.T) {
	protocol := func(p string) string {
		return strings.Replace(head, `{"minReaderVersion":1,"minWriterVersion":2}`, p, 1)
	}
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string
		reads bool
	}{
		{"reader 2", map[string]string{entryKey(0): protocol(`{"minReaderVersion":2,"minWriterVersion":5}`)}, "reader of version 2", false},
		{"reader features", map[string]string{entryKey(0): protocol(`{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["deletionVectors"],"writerFeatures":["deletionVectors"]}`)}, "deletionVectors", false},
		{"writer 4", map[string]string{entryKey(0): protocol(`{"minReaderVersion":1,"minWriterVersion":4}`)}, "writer of version 4", true},
		{"writer features", map[string]string{entryKey(0): protocol(`{"minReaderVersion":1,"minWriterVersion":7,"writerFeatures":["rowTracking"]}`)}, "rowTracking", true},
		{"not parquet", map[string]string{entryKey(0): strings.Replace(head, `"parquet"`, `"orc"`, 1)}, "orc", false},
		{"checkpoint of V2 alone", map[string]string{logDir + "00000000000000000010.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.parquet": "PAR1", entryKey(11): head}, "newer than V1", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := memstore.New()
			for k, v := range c.files {
				put(t, b, k, v)
			}
			l := Open(b)
			s, err := l.Snapshot(t.Context())
			if c.reads {
				if err != nil {
					t.Fatal(err)
				}
				_, err = l.Commit(t.Context(), s, adds("x"))
			}
			var un *Unsupported
			if !errors.As(err, &un) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v", err)
			}
		})
	}
}

func TestInvalidCommits(t *testing.T) {
	b := memstore.New()
	l := Open(b)
	none := mustSnapshot(t, l)
	mustCommit(t, l, none, create("live"))
	base := mustSnapshot(t, l)
	for name, c := range map[string]struct {
		base    *Snapshot
		actions []Action
	}{
		"no base":           {nil, adds("x")},
		"no protocol":       {none, adds("x")},
		"added twice":       {base, adds("x", "x")},
		"added twice coded": {base, adds("a b", "a%20b")},
		"removed twice":     {base, removes("live", "live")},
		"removed and added": {base, append(removes("live"), adds("live")...)},
		"live added":        {base, adds("live")},
		"unknown removed":   {base, removes("x")},
		"two protocols":     {base, []Action{{Protocol: &Protocol{MinReaderVersion: 1, MinWriterVersion: 2}}, {Protocol: &Protocol{MinReaderVersion: 1, MinWriterVersion: 2}}}},
		"two metadata":      {base, []Action{{Metadata: &base.Metadata}, {Metadata: &base.Metadata}}},
		"other id":          {base, []Action{{Metadata: &Metadata{ID: "z", SchemaString: schemaOne}}}},
		"bad schema":        {base, []Action{{Metadata: &Metadata{ID: "id-1", SchemaString: "{"}}}},
		"two txns":          {base, []Action{{Txn: &Txn{AppID: "a"}}, {Txn: &Txn{AppID: "a"}}}},
		"two infos":         {base, []Action{{CommitInfo: CommitInfo{}}, {CommitInfo: CommitInfo{}}}},
		"empty action":      {base, []Action{{}}},
		"two in one":        {base, []Action{{Txn: &Txn{AppID: "a"}, Add: &Add{Path: "x"}}}},
		"absolute path":     {base, adds("s3://other/x")},
		"rooted path":       {base, adds("/x")},
		"bad stats":         {base, []Action{{Add: &Add{Path: "x", Stats: "{"}}}},
		"negative size":     {base, []Action{{Add: &Add{Path: "x", Size: -1}}}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := l.Commit(t.Context(), c.base, c.actions); !errors.Is(err, ErrInvalid) {
				t.Fatalf("%v", err)
			}
		})
	}
	if s := mustSnapshot(t, l); s.Version != 0 {
		t.Fatalf("version %d was published", s.Version)
	}
	appendOnly := *base
	appendOnly.Metadata.Configuration = map[string]string{"delta.appendOnly": "true"}
	var un *Unsupported
	if _, err := l.Commit(t.Context(), &appendOnly, removes("live")); !errors.As(err, &un) {
		t.Fatal(err)
	}
}

// Two commits on one base: what the first did decides whether the second may follow.
func TestConflicts(t *testing.T) {
	meta := &Metadata{ID: "id-1", Format: Format{Provider: "parquet"}, SchemaString: schemaOne, Description: "new"}
	txn := func(app string) Action { return Action{Txn: &Txn{AppID: app, Version: 1}} }
	for _, c := range []struct {
		name          string
		first, second []Action
		want          string // "" = the second follows
	}{
		{"two refreshes", append(removes("a"), adds("x")...), append(removes("a"), adds("y")...), "removes files"},
		{"refresh after append", blind("x"), append(removes("a"), adds("y")...), "adds 1 and removes 0"},
		{"append after refresh", append(removes("a"), adds("x")...), blind("y"), ""},
		{"two appends", blind("x"), blind("y"), ""},
		{"two appends of one name", blind("x"), blind("x"), "same name"},
		{"append that has read", blind("x"), adds("y"), "did not know of"},
		{"metadata first", []Action{{Metadata: meta}}, blind("y"), "metadata"},
		{"protocol first", []Action{{Protocol: &Protocol{MinReaderVersion: 1, MinWriterVersion: 2}}}, blind("y"), "protocol"},
		{"metadata second", blind("x"), []Action{{Metadata: meta}}, "did not know of"},
		{"same application", []Action{txn("app")}, append(blind("y"), txn("app")), "same application (app)"},
		{"other application", []Action{txn("app")}, append(removes("a"), txn("other")), ""},
		{"comment only", []Action{{CommitInfo: CommitInfo{"operation": "VACUUM START"}}}, append(removes("a"), adds("y")...), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := Open(memstore.New())
			mustCommit(t, l, mustSnapshot(t, l), create("a", "b"))
			base := mustSnapshot(t, l)
			mustCommit(t, l, base, c.first)
			v, err := l.Commit(t.Context(), base, c.second)
			if c.want == "" {
				if err != nil || v != 2 {
					t.Fatalf("version %d, %v", v, err)
				}
				return
			}
			var conflict *Conflict
			if !errors.As(err, &conflict) || conflict.Version != 1 || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v", err)
			}
			if s := mustSnapshot(t, l); s.Version != 1 {
				t.Fatalf("version %d is there", s.Version)
			}
		})
	}
}

// Creating the same table twice at once: one wins.
func TestRacingCreates(t *testing.T) {
	b := memstore.New()
	base := mustSnapshot(t, Open(b))
	var wg sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		wg.Go(func() { _, errs[i] = Open(b).Commit(t.Context(), base, create(fmt.Sprint("f", i))) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		var c *Conflict
		switch {
		case err == nil:
			won++
		case !errors.As(err, &c) || c.Version != 0 || !strings.Contains(err.Error(), "another run created the table first"):
			t.Fatal(err)
		}
	}
	if s := mustSnapshot(t, Open(b)); won != 1 || s.Version != 0 || len(s.Files) != 1 {
		t.Fatalf("%d won, %+v", won, s)
	}
}

// Sixteen blind appends at once all get through, each exactly once.
func TestRacingAppends(t *testing.T) {
	b := memstore.New()
	l := Open(b)
	mustCommit(t, l, mustSnapshot(t, l), create())
	base := mustSnapshot(t, l)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if _, err := Open(b).Commit(t.Context(), base, blind(fmt.Sprintf("f%02d", i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if s := mustSnapshot(t, l); s.Version != 16 || len(s.Files) != 16 {
		t.Fatalf("version %d, %d files", s.Version, len(s.Files))
	}
}

// first is a bucket in which somebody else always creates the next entry first.
type first struct {
	store.Bucket
	n int
}

func (f *first) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	f.n++
	text := fmt.Sprintf(`{"add":{"path":"theirs-%d","partitionValues":{},"size":1,"modificationTime":1,"dataChange":true}}`, f.n)
	if err := f.Bucket.PutIfAbsent(ctx, key, []byte(text)); err != nil {
		return err
	}
	return f.Bucket.PutIfAbsent(ctx, key, data)
}

func TestGivesUpAfterManyVersions(t *testing.T) {
	b := memstore.New()
	mustCommit(t, Open(b), mustSnapshot(t, Open(b)), create())
	busy := &first{Bucket: b}
	var c *Conflict
	if _, err := Open(busy).Commit(t.Context(), mustSnapshot(t, Open(b)), blind("late")); !errors.As(err, &c) || c.Version != maxTries || busy.n != maxTries {
		t.Fatalf("%v after %d", err, busy.n)
	}
	// However many came in between: they are read at once, not fought one by one.
	l := Open(b)
	base := mustSnapshot(t, l)
	for i := range 3 * maxTries {
		mustCommit(t, l, mustSnapshot(t, l), blind(fmt.Sprint("f", i)))
	}
	if v, err := l.Commit(t.Context(), base, blind("late")); err != nil || v != 4*maxTries+1 {
		t.Fatal(v, err)
	}
}

// The put fails before or after its effect, once or for good, and looking may fail too: what Commit says is true.
func TestLostAnswers(t *testing.T) {
	fault := func(op string, nth int, when storetest.When, code store.Code) storetest.Fault {
		return storetest.Fault{Op: op, Key: "0*1.json", Nth: nth, When: when, Err: &store.Error{Code: code, Op: op, Err: errors.New("injected")}}
	}
	const ok, unresolved, refused = "ok", "unresolved", "refused"
	for _, c := range []struct {
		name   string
		faults []storetest.Fault
		want   string
		there  bool
	}{
		{"persisted, answer lost", []storetest.Fault{fault("put-if-absent", 1, storetest.After, store.Unavailable)}, ok, true},
		{"persisted, refused by the answer", []storetest.Fault{fault("put-if-absent", 1, storetest.After, store.Permission)}, ok, true},
		{"not persisted, then well", []storetest.Fault{fault("put-if-absent", 1, storetest.Before, store.Unavailable)}, ok, true},
		{"not persisted twice, then well", []storetest.Fault{fault("put-if-absent", 1, storetest.Before, store.Unavailable), fault("put-if-absent", 2, storetest.Before, store.Unknown)}, ok, true},
		{"never persisted", []storetest.Fault{fault("put-if-absent", 0, storetest.Before, store.Unavailable)}, unresolved, false},
		{"no permission", []storetest.Fault{fault("put-if-absent", 0, storetest.Before, store.Permission)}, refused, false},
		{"disk full", []storetest.Fault{fault("put-if-absent", 0, storetest.Before, store.Full)}, refused, false},
		{"persisted, looking fails once", []storetest.Fault{fault("put-if-absent", 1, storetest.After, store.Unavailable), fault("open", 1, storetest.Before, store.Unavailable)}, ok, true},
		{"persisted, looking fails", []storetest.Fault{fault("put-if-absent", 1, storetest.After, store.Unavailable), fault("open", 0, storetest.Before, store.Unavailable)}, unresolved, true},
		{"persisted, driver repeats and loses against itself", []storetest.Fault{fault("put-if-absent", 1, storetest.After, store.AlreadyExists)}, ok, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := memstore.New()
				l := Open(b)
				mustCommit(t, l, mustSnapshot(t, l), create("a"))
				base := mustSnapshot(t, l)
				v, err := Open(storetest.Faulty(b, c.faults...)).Commit(t.Context(), base, append(removes("a"), adds("b")...))
				var un *Unresolved
				switch {
				case c.want == ok && (err != nil || v != 1):
					t.Fatalf("version %d, %v", v, err)
				case c.want == unresolved && !errors.As(err, &un):
					t.Fatalf("%v", err)
				case c.want == refused && (err == nil || errors.As(err, &un)):
					t.Fatalf("%v", err)
				}
				s := mustSnapshot(t, l)
				if (s.Version == 1) != c.there {
					t.Fatalf("version %d", s.Version)
				}
			})
		})
	}
}

// A cancelled context after the put: the commit stands, and Commit knows.
func TestCancelledAfterPut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memstore.New()
		l := Open(b)
		mustCommit(t, l, mustSnapshot(t, l), create("a"))
		base := mustSnapshot(t, l)
		ctx, cancel := context.WithCancel(t.Context())
		c := &cancelling{Bucket: b, cancel: cancel}
		if v, err := Open(c).Commit(ctx, base, removes("a")); err != nil || v != 1 {
			t.Fatalf("version %d, %v", v, err)
		}
		if _, err := l.Commit(ctx, mustSnapshot(t, l), adds("b")); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if s := mustSnapshot(t, l); s.Version != 1 {
			t.Fatal(s.Version)
		}
	})
}

type cancelling struct {
	store.Bucket
	cancel func()
}

func (c *cancelling) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	if err := c.Bucket.PutIfAbsent(ctx, key, data); err != nil {
		return err
	}
	c.cancel()
	return &store.Error{Code: store.Canceled, Op: "put-if-absent", Key: key, Err: ctx.Err()}
}

func TestSchemaRoundTrip(t *testing.T) {
	types := []arrow.DataType{
		arrow.BinaryTypes.String, arrow.PrimitiveTypes.Int64, arrow.PrimitiveTypes.Int32, arrow.PrimitiveTypes.Int16, arrow.PrimitiveTypes.Int8,
		arrow.PrimitiveTypes.Float32, arrow.PrimitiveTypes.Float64, arrow.FixedWidthTypes.Boolean, arrow.BinaryTypes.Binary,
		arrow.FixedWidthTypes.Date32, arrow.FixedWidthTypes.Timestamp_us, &arrow.Decimal128Type{Precision: 14, Scale: 2}, &arrow.Decimal128Type{Precision: 38},
	}
	var fields []arrow.Field
	for i, dt := range types {
		f := arrow.Field{Name: fmt.Sprint("c", i), Type: dt, Nullable: i%2 == 0}
		if i%3 == 0 {
			f.Metadata = arrow.MetadataFrom(map[string]string{"comment": `a "comment" & <æ>`})
		}
		fields = append(fields, f)
	}
	want := arrow.NewSchema(fields, nil)
	d, err := FieldsOf(want)
	if err != nil {
		t.Fatal(err)
	}
	text, err := SchemaString(d)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(text, `{"type":"struct","fields":[{"name":"c0","type":"string","nullable":true,"metadata":{"comment":"a \"comment\" & <æ>"}},{"name":"c1","type":"long","nullable":false,"metadata":{}}`) {
		t.Fatal(text)
	}
	back, err := ParseSchema(text)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ArrowSchema(back)
	if err != nil || !got.Equal(want) || got.Field(0).Metadata.String() != want.Field(0).Metadata.String() {
		t.Fatalf("%v\n%v", err, got)
	}
}

func TestSchemaRefusals(t *testing.T) {
	i64 := arrow.PrimitiveTypes.Int64
	for name, fields := range map[string][]arrow.Field{
		"none":        nil,
		"no name":     {{Type: i64}},
		"space":       {{Name: "a b", Type: i64}},
		"case":        {{Name: "Ab", Type: i64}, {Name: "aB", Type: i64}},
		"unsigned":    {{Name: "a", Type: arrow.PrimitiveTypes.Uint8}},
		"nanoseconds": {{Name: "a", Type: arrow.FixedWidthTypes.Timestamp_ns}},
		"no zone":     {{Name: "a", Type: &arrow.TimestampType{Unit: arrow.Microsecond}}},
		"list":        {{Name: "a", Type: arrow.ListOf(i64)}},
		"decimal 39":  {{Name: "a", Type: &arrow.Decimal128Type{Precision: 39}}},
	} {
		t.Run(name, func(t *testing.T) {
			if f, err := FieldsOf(arrow.NewSchema(fields, nil)); err == nil {
				t.Fatalf("%+v", f)
			}
		})
	}
	// What other engines have and we don't is kept as text, and named when it is to be used.
	f, err := ParseSchema(`{"type":"struct","fields":[{"name":"s","type": {"type":"array","elementType":"long","containsNull":true},"nullable":true,"metadata":{}},{"name":"n","type":"timestamp_ntz","nullable":true,"metadata":{}},{"name":"d","type":"decimal(3, 1)x","nullable":true}]}`)
	if err != nil || f[0].Type != `{"type":"array","elementType":"long","containsNull":true}` {
		t.Fatalf("%v %+v", err, f)
	}
	for i := range f {
		if _, err := f[i].Arrow(); err == nil || !strings.Contains(err.Error(), f[i].Name) {
			t.Fatalf("%v", err)
		}
	}
	for _, text := range []string{"", "null", "{}", `{"type":"array"}`, `{"type":"struct","fields":[{"name":"a"}]}`, `{"type":"struct","fields":[{"name":"a","type":3}]}`, `{"type":"struct","fields":7}`} {
		if _, err := ParseSchema(text); err == nil {
			t.Errorf("%s was taken", text)
		}
	}
}

func TestStats(t *testing.T) {
	long := strings.Repeat("x", 31)
	us := func(text string) arrow.Timestamp {
		v, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			t.Fatal(err)
		}
		return arrow.Timestamp(v.UnixMicro())
	}
	for _, c := range []struct {
		name           string
		lo, hi         any
		wantLo, wantHi string // JSON, "" = left out
	}{
		{"int", int64(math.MinInt64), int64(math.MaxInt64), "-9223372036854775808", "9223372036854775807"},
		{"decimal", json.Number("-12345678901234567890.123"), json.Number("0.10"), "-12345678901234567890.123", "0.10"},
		{"short text", "", "æ", `""`, `"æ"`},
		{"32 characters", long + "a", long + "æ", `"` + long + `a"`, `"` + long + `æ"`},
		{"33 characters", long + "ab", long + "cd", `"` + long + `a"`, `"` + long + `d"`},
		{"raise over surrogates", "a", long + "\uD7FFz", `"a"`, `"` + long + "\uE000" + `"`},
		{"raise the one before", "a", strings.Repeat("x", 30) + "b\U0010FFFFz", `"a"`, `"` + strings.Repeat("x", 30) + `c"`},
		{"cannot be raised", "a", strings.Repeat("\U0010FFFF", 33), "", ""},
		{"not UTF-8", "a\xff", "b", "", ""},
		{"double", -1.5, 2.25, "-1.5", "2.25"},
		{"infinite", math.Inf(-1), 1.0, "", ""},
		{"boolean", false, true, "", ""},
		{"date", arrow.Date32(-719162), arrow.Date32(2932896), `"0001-01-01"`, `"9999-12-31"`},
		{"timestamp", us("2024-02-29T12:00:00.123456Z"), us("2024-02-29T12:00:00.123456Z"), `"2024-02-29T12:00:00.123Z"`, `"2024-02-29T12:00:00.124Z"`},
		{"whole ms", us("2024-02-29T12:00:00.5Z"), us("2024-02-29T12:00:00.5Z"), `"2024-02-29T12:00:00.500Z"`, `"2024-02-29T12:00:00.500Z"`},
		{"before 1970", us("0001-01-01T00:00:00.000001Z"), us("1969-12-31T23:59:59.999999Z"), `"0001-01-01T00:00:00.000Z"`, `"1970-01-01T00:00:00.000Z"`},
		{"end of days", us("2024-01-01T00:00:00Z"), us("9999-12-31T23:59:59.999999Z"), "", ""},
		{"none", nil, nil, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := NewStats(3)
			s.Column("c", 1, c.lo, c.hi)
			text, err := s.JSON()
			if err != nil {
				t.Fatal(err)
			}
			inner := func(v string) string {
				if v == "" {
					return "{}"
				}
				return `{"c":` + v + `}`
			}
			want := `{"numRecords":3,"minValues":` + inner(c.wantLo) + `,"maxValues":` + inner(c.wantHi) + `,"nullCount":{"c":1}}`
			if text != want {
				t.Fatalf("%s\nwant %s", text, want)
			}
			back, err := ParseStats(text)
			if err != nil || back.NumRecords != 3 || back.NullCount["c"] != 1 {
				t.Fatalf("%v %+v", err, back)
			}
		})
	}
	for _, text := range []string{"", "{", "{}", `{"numRecords":-1}`, `{"numRecords":"3"}`} {
		if _, err := ParseStats(text); err == nil {
			t.Errorf("%s was taken", text)
		}
	}
}

// Cut texts still enclose what was cut, in the byte order that readers compare in.
func TestCutTextsEnclose(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.StringN(0, 60, -1).Draw(t, "text")
		if lo := cut(v); lo > v {
			t.Fatalf("%q > %q", lo, v)
		}
		if hi, ok := above(v); ok && hi.(string) < v {
			t.Fatalf("%q < %q", hi, v)
		}
	})
}

func TestPaths(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.StringMatching(`[a-z%+ =:æ]{1,8}(/[a-z%+ =:]{1,8})?`).Draw(t, "key")
		got, err := Add{Path: EncodePath(key)}.Key()
		if err != nil || got != key {
			t.Fatalf("%q → %q → %q (%v)", key, EncodePath(key), got, err)
		}
	})
	if got := EncodePath("part-run-1-00000.zstd.parquet"); got != "part-run-1-00000.zstd.parquet" {
		t.Fatal(got)
	}
	for _, p := range []string{"s3://b/k", "/k", "%zz", "file:/x"} {
		if _, err := (Remove{Path: p}).Key(); err == nil {
			t.Errorf("%s was taken", p)
		}
	}
}

// A model of the log: whatever is committed in whatever order, the snapshot is what was added and not removed.
func TestReplayProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Open(memstore.New())
		ctx := context.Background()
		base, err := l.Snapshot(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Commit(ctx, base, create()); err != nil {
			t.Fatal(err)
		}
		model := map[string]bool{}
		var versions [][]string
		versions = append(versions, nil)
		for i := range rapid.IntRange(0, 12).Draw(t, "commits") {
			s, err := l.Snapshot(ctx)
			if err != nil {
				t.Fatal(err)
			}
			var actions []Action
			for p := range model {
				if rapid.Bool().Draw(t, "remove") {
					actions = append(actions, removes(p)...)
					delete(model, p)
				}
			}
			for j := range rapid.IntRange(0, 3).Draw(t, "adds") {
				p := fmt.Sprintf("f-%d-%d", i, j)
				actions = append(actions, adds(p)...)
				model[p] = true
			}
			if _, err := l.Commit(ctx, s, actions); err != nil {
				t.Fatal(err)
			}
			var want []string
			for p := range model {
				want = append(want, p)
			}
			slices.Sort(want)
			versions = append(versions, want)
		}
		for v, want := range versions {
			s, err := l.SnapshotAt(ctx, int64(v))
			if err != nil {
				t.Fatal(err)
			}
			if got := paths(s); !slices.Equal(got, want) {
				t.Fatalf("version %d: %v, want %v", v, got, want)
			}
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(head))
	f.Add([]byte(`{"add":{"path":"a","partitionValues":{"p":null},"size":1,"modificationTime":1,"dataChange":true,"stats":"{\"numRecords\":1}"}}`))
	f.Add([]byte(`{"commitInfo":{"timestamp":1700000000000,"operationMetrics":{"numFiles":"1"}}}` + "\n" + `{"txn":{"appId":"a","version":9223372036854775807}}`))
	f.Add([]byte(`{"remove":{"path":"%41","dataChange":true}}` + "\r\n{\"cdc\":{}}"))
	f.Add([]byte(`{"add":null,"remove":{"path":"x"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		actions, err := decode(7, data)
		if err != nil {
			var c *Corrupt
			if !errors.As(err, &c) || c.Version != 7 || c.Line < 1 {
				t.Fatalf("%v", err)
			}
			return
		}
		for _, a := range actions {
			if a.kinds() != 1 {
				t.Fatalf("%+v", a)
			}
		}
		s := &state{live: map[string]Add{}, gone: map[string]Remove{}, txns: map[string]Txn{}}
		_ = s.apply(Entry{Version: 7, Actions: actions})
		// What was read can be written, and reads the same.
		out, err := encode(actions)
		if err != nil {
			t.Fatal(err)
		}
		if len(actions) == 0 {
			return
		}
		again, err := decode(7, out)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		twice, err := encode(again)
		if err != nil || string(twice) != string(out) {
			t.Fatalf("%v\n%s\n%s", err, out, twice)
		}
	})
}

func FuzzSchema(f *testing.F) {
	f.Add(schemaOne)
	f.Add(`{"type":"struct","fields":[{"name":"d","type":"decimal(38,10)","nullable":false,"metadata":{"comment":"x"}}]}`)
	f.Add(`{"type":"struct","fields":[{"name":"m","type":{"type":"map","keyType":"string","valueType":"long"},"nullable":true}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		fields, err := ParseSchema(text)
		if err != nil {
			return
		}
		_, _ = ArrowSchema(fields)
		if out, err := SchemaString(fields); err == nil {
			if _, err := ParseSchema(out); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}
	})
}
