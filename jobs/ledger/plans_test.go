package ledger

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What pages and the clock ask is answered from an index: nothing walks over all runs or sorts them.
func TestPlans(t *testing.T) {
	l, err := Open(t.Context(), filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	const rest = `(started, id) < (?, ?) ORDER BY started DESC, id DESC LIMIT ?`
	for text, uses := range map[string]string{
		runColumns + `WHERE ` + rest:                                                          "runs_by_start",
		runColumns + `WHERE job=? AND (?='' OR state=?) AND ` + rest:                          "runs_by_job",
		tickColumns + `WHERE job=? ORDER BY at DESC LIMIT ?`:                                  "PRIMARY KEY",
		tickColumns + `WHERE outcome IN ('waiting', 'running') ORDER BY job, at DESC LIMIT ?`: "ticks_open",
		openTicks: "ticks_open",
		tickColumns + `ORDER BY at DESC, job LIMIT ?`:                        "ticks_by_time",
		`UPDATE steps SET ended=?, rows=? WHERE run=? AND ended=0`:           "PRIMARY KEY",
		runColumns + `WHERE state='running' AND (?='' OR job=?) AND ` + rest: "runs_by_state",
	} {
		plan := explain(t, l, text)
		if all := strings.Join(plan, "; "); !strings.Contains(all, uses) || strings.Contains(all, "TEMP B-TREE FOR ORDER BY") && uses != "runs_by_state" && uses != "runs_by_job" {
			t.Errorf("%s\n  %s", text, all)
		}
	}
}

// explain is SQLite's plan for a query.
func explain(t *testing.T, l *Ledger, text string) []string {
	t.Helper()
	rows, err := l.db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+text, make([]any, strings.Count(text, "?"))...)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	defer rows.Close()
	var plan []string
	for rows.Next() {
		var id, parent, x int
		var detail string
		if err := rows.Scan(&id, &parent, &x, &detail); err != nil {
			t.Fatal(err)
		}
		plan = append(plan, detail)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return plan
}

// fill writes runs of jobs into a fresh ledger, in one transaction.
func fill(b *testing.B, jobs, runs int) (*Ledger, []string) {
	b.Helper()
	ctx := context.Background()
	l, err := Open(ctx, filepath.Join(b.TempDir(), "ledger.db"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = l.Close() })
	names := make([]string, jobs)
	for i := range names {
		names[i] = fmt.Sprintf("job-%04d", i)
	}
	tx, err := l.db.BeginTx(ctx, nil)
	if err != nil {
		b.Fatal(err)
	}
	insert, err := tx.PrepareContext(ctx, `INSERT INTO runs (id, job, table_name, dataset, state, row_count, version, evidence, process, started, ended) VALUES (?, ?, 't', 'd', ?, ?, ?, ?, 'p', ?, ?)`)
	if err != nil {
		b.Fatal(err)
	}
	defer insert.Close()
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	evidence := `{"rows":1,"pages":` + strings.Repeat("1", 400) + `}`
	for i := range runs {
		state, version := Succeeded, i
		if i%17 == 0 {
			state, version = Failed, -1
		}
		at := begin.Add(time.Duration(i) * time.Minute)
		if _, err := insert.ExecContext(ctx, fmt.Sprintf("run-%08d", i), names[i%jobs], state, i, version, evidence, at.UnixMicro(), at.Add(time.Minute).UnixMicro()); err != nil {
			b.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		b.Fatal(err)
	}
	return l, names
}

// BenchmarkLatest asks what the overview asks, with 1,000 jobs and 100,000 runs.
func BenchmarkLatest(b *testing.B) {
	l, _ := fill(b, 1000, 100_000)
	for b.Loop() {
		if latest, err := l.Latest(b.Context()); err != nil || len(latest) != 1000 {
			b.Fatal(len(latest), err)
		}
	}
}

// BenchmarkPage asks for a page of one job's runs and one of all.
func BenchmarkPage(b *testing.B) {
	l, names := fill(b, 1000, 100_000)
	for b.Loop() {
		for _, q := range []Query{{Limit: 50}, {Job: names[7], Limit: 50}} {
			if runs, err := l.List(b.Context(), q); err != nil || len(runs) != 50 {
				b.Fatal(len(runs), err)
			}
		}
	}
}
