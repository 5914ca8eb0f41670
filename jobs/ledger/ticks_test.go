package ledger_test

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tablexport/tablexport/jobs/ledger"
)

func always(string) bool { return true }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func tick(job string, at time.Time, o ledger.Outcome) ledger.Tick {
	return ledger.Tick{Job: job, At: at, Until: at, Count: 1, Outcome: o, Process: "h:1:a", Decided: at.Add(time.Second)}
}

// A tick is written once, whoever comes again with it; it can be settled once; the clock moves with it or not at all.
func TestTicks(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "ledger.db"))
	ctx := t.Context()
	lock, err := l.Lock(ctx, "clock", "h:1:a", time.Minute, always)
	must(t, err)
	at := time.Date(2026, 11, 25, 5, 15, 0, 0, time.UTC)
	clock := ledger.Clock{Job: "j", Upto: at, Spec: "UTC 15 5 * * *"}
	missed := tick("j", at.Add(-48*time.Hour), ledger.Skipped)
	missed.Until, missed.Count, missed.Reason = at.Add(-24*time.Hour), 2, "too late"
	fresh, err := l.Advance(ctx, lock, ledger.Move{Clock: clock, Ticks: []ledger.Tick{missed, tick("j", at, ledger.Waiting)}})
	if err != nil || len(fresh) != 2 {
		t.Fatal(fresh, err)
	}
	if fresh, err = l.Advance(ctx, lock, ledger.Move{Clock: clock, Ticks: []ledger.Tick{tick("j", at, ledger.Waiting)}}); err != nil || len(fresh) != 0 {
		t.Errorf("the same tick again: %v %v", fresh, err)
	}
	clocks, err := l.Clocks(ctx)
	if err != nil || !cmp.Equal(clocks["j"], clock) {
		t.Errorf("%+v %v", clocks, err)
	}
	under := tick("j", at, ledger.Ticking)
	under.Run = "r1"
	must(t, l.Settle(ctx, lock, under))
	if open, err := l.Ticks(ctx, ledger.TickQuery{Open: true}); err != nil || len(open) != 1 || !cmp.Equal(open[0], under) {
		t.Errorf("%+v %v", open, err)
	}
	must(t, l.Settle(ctx, lock, tick("j", at, ledger.Ran)))     // keeps its run
	must(t, l.Settle(ctx, lock, tick("j", at, ledger.Skipped))) // it is over
	want := tick("j", at, ledger.Ran)
	want.Run = "r1"
	got, err := l.Ticks(ctx, ledger.TickQuery{Job: "j"})
	if d := cmp.Diff([]ledger.Tick{want, missed}, got); d != "" || err != nil {
		t.Error(d, err)
	}
	if open, err := l.Ticks(ctx, ledger.TickQuery{Job: "j", Open: true}); err != nil || len(open) != 0 {
		t.Errorf("%+v %v", open, err)
	}
	if all, err := l.Ticks(ctx, ledger.TickQuery{Limit: 1}); err != nil || len(all) != 1 || all[0].Outcome != ledger.Ran {
		t.Errorf("%+v %v", all, err)
	}
}

// Whoever has lost the lock, asleep or stopped, writes nothing any more.
func TestFence(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "ledger.db"))
	ctx := t.Context()
	first, err := l.Lock(ctx, "clock", "h:1:a", time.Minute, always)
	must(t, err)
	var held *ledger.HeldError
	if _, err := l.Lock(ctx, "clock", "h:2:b", time.Minute, always); !errors.As(err, &held) || held.Holder != "h:1:a" || !strings.Contains(err.Error(), "h:1:a") {
		t.Fatalf("%v", err)
	}
	second, err := l.Lock(ctx, "clock", "h:2:b", time.Minute, func(string) bool { return false }) // its process is dead
	must(t, err)
	if second.Fence <= first.Fence {
		t.Errorf("fences %d, %d", first.Fence, second.Fence)
	}
	at := time.Date(2026, 11, 25, 5, 15, 0, 0, time.UTC)
	if _, err := l.Advance(ctx, first, ledger.Move{Clock: ledger.Clock{Job: "j", Upto: at}, Ticks: []ledger.Tick{tick("j", at, ledger.Waiting)}}); !errors.Is(err, ledger.ErrFenced) {
		t.Errorf("%v", err)
	}
	if err := l.Renew(ctx, first, time.Minute); !errors.Is(err, ledger.ErrFenced) {
		t.Errorf("%v", err)
	}
	if err := l.Settle(ctx, first, tick("j", at, ledger.Ran)); !errors.Is(err, ledger.ErrFenced) {
		t.Errorf("%v", err)
	}
	if err := l.Settle(ctx, ledger.Lock{Name: "never taken"}, tick("j", at, ledger.Ran)); !errors.Is(err, ledger.ErrFenced) {
		t.Errorf("%v", err)
	}
	if ticks, err := l.Ticks(ctx, ledger.TickQuery{}); err != nil || len(ticks) != 0 {
		t.Errorf("%v %v", ticks, err)
	}
	must(t, l.Unlock(ctx, first)) // not its own any more
	if h, err := l.Holder(ctx, "clock"); err != nil || h != "h:2:b" {
		t.Errorf("%q %v", h, err)
	}
	must(t, l.Unlock(ctx, second))
	if h, err := l.Holder(ctx, "clock"); err != nil || h != "" {
		t.Errorf("%q %v", h, err)
	}
	third, err := l.Lock(ctx, "clock", "h:3:c", -time.Second, always)
	must(t, err)
	if third.Fence <= second.Fence {
		t.Errorf("the fence went back: %d after %d", third.Fence, second.Fence)
	}
	_, err = l.Lock(ctx, "clock", "h:4:d", time.Minute, always) // expired
	must(t, err)
}

func TestPause(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "ledger.db"))
	ctx := t.Context()
	since := time.Date(2026, 11, 25, 5, 15, 0, 0, time.UTC)
	must(t, l.Pause(ctx, "j", "olga", "stocktaking", since))
	must(t, l.Pause(ctx, "j", "ivan", "again", since.Add(time.Hour)))
	clocks, err := l.Clocks(ctx)
	if want := (ledger.Clock{Job: "j", Paused: since, PausedBy: "olga", Why: "stocktaking"}); err != nil || clocks["j"] != want {
		t.Errorf("%+v %v", clocks, err)
	}
	for _, want := range []bool{true, false} {
		if was, err := l.Resume(ctx, "j"); err != nil || was != want {
			t.Errorf("%v %v", was, err)
		}
	}
	if clocks, _ = l.Clocks(ctx); !clocks["j"].Paused.IsZero() {
		t.Errorf("%+v", clocks)
	}
}

func TestSteps(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "ledger.db"))
	ctx := t.Context()
	at := time.Date(2026, 11, 25, 5, 15, 0, 0, time.UTC)
	r := ledger.Run{ID: "r1", Job: "j", Process: "p", Started: at}
	must(t, l.Start(ctx, r))
	for i, name := range []string{"preparing", "reading", "publishing"} {
		must(t, l.Step(ctx, ledger.Step{Run: "r1", Name: name, Attempt: 1, Started: at.Add(time.Duration(i) * time.Minute)}, int64(i)*100))
	}
	r.State, r.Ended, r.Rows = ledger.Succeeded, at.Add(5*time.Minute), 900
	must(t, l.Finish(ctx, r))
	got, err := l.Steps(ctx, "r1")
	want := []ledger.Step{
		{Run: "r1", N: 1, Name: "preparing", Attempt: 1, Started: at, Ended: at.Add(time.Minute), Rows: 100},
		{Run: "r1", N: 2, Name: "reading", Attempt: 1, Started: at.Add(time.Minute), Ended: at.Add(2 * time.Minute), Rows: 200},
		{Run: "r1", N: 3, Name: "publishing", Attempt: 1, Started: at.Add(2 * time.Minute), Ended: at.Add(5 * time.Minute), Rows: 900},
	}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(d, err)
	}
}

// A page of runs follows the one before it without a gap, though many runs began at the same instant.
func TestPages(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "ledger.db"))
	at := time.Date(2026, 11, 25, 5, 15, 0, 0, time.UTC)
	for i := range 25 {
		must(t, l.Start(t.Context(), ledger.Run{ID: fmt.Sprintf("%02d", i), Job: []string{"a", "b"}[i%2], Process: "p", Started: at.Add(time.Duration(i/10) * time.Second)}))
	}
	for _, q := range []ledger.Query{{}, {Job: "a"}, {State: ledger.Running}, {Job: "b", State: ledger.Running}} {
		all, err := l.List(t.Context(), q)
		must(t, err)
		var paged []ledger.Run
		for q.Limit = 4; ; q.Before = &paged[len(paged)-1] {
			page, err := l.List(t.Context(), q)
			must(t, err)
			if paged = append(paged, page...); len(page) < 4 {
				break
			}
		}
		if d := cmp.Diff(all, paged); d != "" {
			t.Errorf("%+v: %s", q, d)
		}
	}
}

// A file of the first version is brought up to date with its runs.
func TestOlderFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	l := open(t, path)
	at := time.Date(2026, 11, 25, 5, 15, 0, 0, time.UTC)
	for i, id := range []string{"older", "old", "failed"} {
		r := ledger.Run{ID: id, Job: "j", Process: "p", Started: at.Add(time.Duration(i) * time.Hour), Version: int64(i), State: ledger.Succeeded, Rows: 7, Bytes: 70, Ended: at.Add(time.Duration(i)*time.Hour + time.Minute)}
		must(t, l.Start(t.Context(), r))
		if id == "failed" {
			r.State, r.Class, r.Version, r.Rows, r.Bytes = ledger.Failed, "later", -1, 0, 0
		}
		must(t, l.Finish(t.Context(), r))
	}
	before, err := l.Latest(t.Context())
	must(t, err)
	must(t, l.Close())
	db, err := sql.Open("sqlite", path)
	must(t, err)
	for _, name := range []string{"00005_identity.sql", "00004_figures.sql", "00003_alerts.sql", "00002_clock.sql"} {
		down, err := os.ReadFile(filepath.Join("migrations", name))
		must(t, err)
		_, undo, _ := strings.Cut(string(down), "-- +goose Down")
		_, err = db.ExecContext(t.Context(), undo)
		must(t, err)
	}
	_, err = db.ExecContext(t.Context(), "DELETE FROM goose_db_version WHERE version_id>1")
	must(t, err)
	must(t, db.Close())
	l = open(t, path)
	if _, err := l.Get(t.Context(), "old"); err != nil {
		t.Error(err)
	}
	want := ledger.Latest{Job: "j", Run: "failed", State: ledger.Failed, Class: "later", Started: at.Add(2 * time.Hour), Ended: at.Add(2*time.Hour + time.Minute),
		Published: "old", PublishedStarted: at.Add(time.Hour), PublishedEnded: at.Add(time.Hour + time.Minute), Version: 1, Rows: 7, Bytes: 70}
	after, err := l.Latest(t.Context())
	if d := cmp.Diff(map[string]ledger.Latest{"j": want}, after); d != "" || err != nil {
		t.Error("migrated:", d, err)
	}
	if d := cmp.Diff(after, before); d != "" {
		t.Error("as it went:", d)
	}
}

// A process that is killed while it accounts for ticks leaves a clock that agrees with them, tick for tick.
func TestKillTicks(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if path := os.Getenv("LEDGER_KILL_TICKS"); path != "" {
		l, err := ledger.Open(t.Context(), path)
		must(t, err)
		lock, err := l.Lock(t.Context(), "clock", "child", time.Minute, always)
		must(t, err)
		for i := 0; ; i++ {
			at := begin.Add(time.Duration(i) * time.Minute)
			_, err := l.Advance(t.Context(), lock, ledger.Move{Clock: ledger.Clock{Job: "j", Upto: at}, Ticks: []ledger.Tick{tick("j", at, ledger.Waiting)}})
			must(t, err)
			fmt.Println("wrote", i)
		}
	}
	path := filepath.Join(t.TempDir(), "ledger.db")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKillTicks$")
	cmd.Env = append(os.Environ(), "LEDGER_KILL_TICKS="+path)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	last := -1
	for last < 20 {
		if _, err := fmt.Fscanf(out, "wrote %d\n", &last); err != nil {
			t.Fatal(err)
		}
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	l := open(t, path)
	ticks, err := l.Ticks(t.Context(), ledger.TickQuery{Job: "j", Open: true})
	must(t, err)
	clocks, err := l.Clocks(t.Context())
	must(t, err)
	if len(ticks) < last+1 || !ticks[0].At.Equal(clocks["j"].Upto) || !ticks[len(ticks)-1].At.Equal(begin) || int(ticks[0].At.Sub(begin).Minutes()) != len(ticks)-1 {
		t.Errorf("%d ticks, %d were promised; clock at %v, newest tick %v", len(ticks), last+1, clocks["j"].Upto, ticks[0].At)
	}
}

func TestAlertsAndVolume(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "ledger.db"))
	ctx := t.Context()
	at := time.Date(2026, 11, 25, 5, 15, 0, 0, time.UTC)
	must(t, l.SaveAlert(ctx, ledger.OpenAlert{Key: "b", Text: "{}", Told: at}))
	must(t, l.SaveAlert(ctx, ledger.OpenAlert{Key: "a", Text: "{}", Told: at}))
	must(t, l.SaveAlert(ctx, ledger.OpenAlert{Key: "b", Text: `{"x":1}`, Told: at.Add(time.Hour)}))
	must(t, l.RemoveAlert(ctx, "a"))
	got, err := l.Alerts(ctx)
	if d := cmp.Diff([]ledger.OpenAlert{{Key: "b", Text: `{"x":1}`, Told: at.Add(time.Hour)}}, got); d != "" || err != nil {
		t.Error(d, err)
	}
	for i := range 4 {
		r := ledger.Run{ID: fmt.Sprint(i), Job: []string{"a", "b"}[i%2], Process: "p", Started: at.Add(time.Duration(i) * time.Hour)}
		must(t, l.Start(ctx, r))
		r.State, r.Requests, r.Ended = ledger.Succeeded, int64(10<<i), r.Started.Add(time.Minute)
		must(t, l.Finish(ctx, r))
	}
	if n, err := l.Volume(ctx, []string{"a", "b"}, at.Add(time.Hour), at.Add(3*time.Hour)); err != nil || n != 20+40 {
		t.Errorf("%d %v", n, err)
	}
	if n, err := l.Volume(ctx, []string{"b"}, at, at.Add(30*time.Hour)); err != nil || n != 20+80 {
		t.Errorf("%d %v", n, err)
	}
}
