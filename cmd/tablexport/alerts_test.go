package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tablexport/tablexport/configs"
	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/alert"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/scope"
	"github.com/tablexport/tablexport/odata/simulator"
	"github.com/tablexport/tablexport/secrets"
)

// told is a channel that remembers.
type told struct {
	mu  sync.Mutex
	got []string
}

func (c *told) Send(_ context.Context, a alert.Alert) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, strings.TrimPrefix(a.Subject(), "[tablexport] "))
	return nil
}

// watched is a watcher over a configuration with one job that has to be fresh.
func watched(t *testing.T) (w *watcher, want func(...string), l *ledger.Ledger) {
	t.Helper()
	l, err := ledger.Open(context.Background(), filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := configs.Parse("t.yaml", []byte(`environment: sandbox
secrets: {file: {path: ./s.age}}
instances: {acme: {url: "http://127.0.0.1:1", token: bi/reader}}
stores: {lake: {file: {path: ./lake}}}
scopes: {all: {unrestricted: true}}
jobs: {a: {instance: acme, table: Gen_Products, scope: all, store: lake, path: a, schedule: {cron: "0 5 * * *", zone: UTC}, fresh_within: 26h, owner: olga}}
`), configChecks)
	if err != nil {
		t.Fatal(err)
	}
	c := &told{}
	desk := &alert.Desk{Channels: map[string]alert.Channel{"c": c}, Store: alertStore(l), Log: slog.New(slog.DiscardHandler)}
	stop, err := desk.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(); _ = l.Close() })
	a := (&globals{}).app(cfg)
	w = &watcher{desk: desk, ledger: l, app: func() *app { return a }, begun: time.Now(), parked: map[string]time.Time{}, stats: map[string][]odata.Stats{}}
	want = func(texts ...string) {
		t.Helper()
		synctest.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		if !slices.EqualFunc(c.got, texts, strings.HasPrefix) {
			t.Errorf("told %q, want %q", c.got, texts)
		}
		c.got = nil
	}
	return w, want, l
}

func ended(err error, retry bool) jobs.Event {
	e := jobs.Event{Kind: jobs.RunEnded, Job: jobs.Job{Name: "a", Instance: "acme"}, Instance: "acme", Err: err, Retry: retry, Result: jobs.Result{RunID: "r", Version: 3}}
	if err != nil {
		e.Class, e.Result.Version = jobs.Classify(err), -1
	}
	return e
}

func TestRunsThatAlert(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, want, _ := watched(t)
		ctx := t.Context()
		w.runEnded(ctx, ended(nil, false))
		w.runEnded(ctx, ended(&odata.UnavailableError{}, true)) // it is tried again
		w.runEnded(ctx, ended(context.Canceled, false))
		want()
		w.runEnded(ctx, ended(&odata.DataError{}, false))
		w.runEnded(ctx, ended(&odata.DataError{}, false))
		want("warning: a failed (data)")
		w.runEnded(ctx, ended(nil, false))
		want("over: a failed (data)")
		w.runEnded(ctx, ended(&scope.Violation{Scope: "oslo", Column: "Store"}, false))
		want("critical: a row outside the scope of a")
		w.runEnded(ctx, ended(secrets.ErrNoActive, false))
		want("critical: the token of acme is missing")
		w.runEnded(ctx, ended(&export.SchemaChange{}, false))
		want("warning: the columns of a have changed in a way that must be accepted")
		e := ended(nil, false)
		e.Result.Schema = []string{"added Notes"}
		w.runEnded(ctx, e)
		want("over: the columns of a", "over: a row outside", "over: the token", "info: the columns of a have changed")
	})
}

func TestSilenceAndThresholds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, want, l := watched(t)
		ctx := t.Context()
		w.minute(ctx, time.Now(), nil)
		want()
		time.Sleep(27 * time.Hour)
		w.minute(ctx, time.Now(), nil)
		w.minute(ctx, time.Now(), nil)
		want("warning: the dataset of a is older than 26h0m0s")
		r := ledger.Run{ID: "r1", Job: "a", Process: "p", Started: time.Now()}
		if err := l.Start(ctx, r); err != nil {
			t.Fatal(err)
		}
		r.State, r.Version, r.Ended = ledger.Succeeded, 1, time.Now()
		if err := l.Finish(ctx, r); err != nil {
			t.Fatal(err)
		}
		w.minute(ctx, time.Now(), map[string]jobs.Place{"acme": {Parked: time.Now()}})
		want("over: the dataset of a")
		time.Sleep(31 * time.Minute)
		w.minute(ctx, time.Now(), map[string]jobs.Place{"acme": {Parked: time.Now()}})
		want("warning: acme has not answered for half an hour")
		w.minute(ctx, time.Now(), map[string]jobs.Place{"acme": {}})
		want("over: acme has not answered")

		limits := w.app().cfg.Alerts.Thresholds
		s := odata.Stats{Requests: map[int]int64{200: 100}, Latency: 100 * time.Second}
		next := func(change func(*odata.Stats)) {
			n := odata.Stats{Requests: map[int]int64{}, Latency: s.Latency}
			for code, count := range s.Requests {
				n.Requests[code] = count
			}
			change(&n)
			s = n
			w.answers(ctx, "acme", s, limits)
		}
		w.stats = map[string][]odata.Stats{}
		next(func(*odata.Stats) {})
		next(func(n *odata.Stats) { n.Requests[200] += 50; n.Requests[401] += 5 }) // five are allowed
		want()
		next(func(n *odata.Stats) { n.Requests[403] += 4; n.Requests[401] += 2 })
		want("critical: 6 requests to acme were refused")
		next(func(n *odata.Stats) { n.Requests[500] += 10; n.Requests[0] += 2 })
		want("over: 6 requests to acme were refused", "warning: 12 of 73 requests to acme failed")
		for range 6 {
			next(func(n *odata.Stats) { n.Requests[200] += 10; n.Latency += 400 * time.Second })
		}
		want("warning: acme takes", "over: 12 of 73")
		next(func(n *odata.Stats) { n.Requests[200] += 10_000 })
		want("over: acme takes")

		for d := range 9 {
			r := ledger.Run{ID: time.Now().String() + string(rune('a'+d)), Job: "a", Process: "p", Started: time.Now().AddDate(0, 0, -d).Add(-time.Hour)}
			if err := l.Start(ctx, r); err != nil {
				t.Fatal(err)
			}
			r.State, r.Requests, r.Ended = ledger.Succeeded, 100, time.Now()
			if d == 0 {
				r.Requests = 121
			}
			if err := l.Finish(ctx, r); err != nil {
				t.Fatal(err)
			}
		}
		w.volume(ctx, time.Now(), "acme", []string{"a"}, 120)
		want("warning: 121 requests went to acme in 24 hours, 100 a day")
		w.volume(ctx, time.Now().Add(24*time.Hour), "acme", []string{"a"}, 120)
		want("over: 121 requests")
	})
}

// alerts test reaches a channel, signed, and says which one it did not reach.
func TestAlertsTest(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got []alert.Alert
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var a alert.Alert
		mu.Lock()
		defer mu.Unlock()
		if json.Unmarshal(body, &a) == nil && strings.Contains(r.Header.Get("Tablexport-Signature"), "v1=") {
			got = append(got, a)
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	defer hook.Close()
	w := newWorld(t, simulator.Options{})
	contains(t, w.must(exitUsage, "alerts", "test").err, "no channels")
	w.edit("environment: sandbox", "environment: sandbox\nalerts: {channels: {ops: {webhook: {url: '"+hook.URL+"', secret_file: ./hook}}, away: {mail: {server: '127.0.0.1:1', from: a@b.example, to: [c@d.example]}}}}")
	w.write("hook", "s3cret")
	contains(t, w.must(exitOK, "alerts", "test", "ops").out, "ops: sent")
	contains(t, w.must(exitUsage, "alerts", "test", "nope").err, "the channels are: away, ops")
	both := w.do("alerts", "test", "--json")
	if lines := objects(t, both.out); both.code == exitOK || len(lines) != 2 || lines[0]["ok"] != false || lines[1]["ok"] != true {
		t.Errorf("%s", both)
	}
	if len(got) != 2 || got[0].Kind != "test" {
		t.Errorf("%v", got)
	}
}
