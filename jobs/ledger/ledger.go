// Package ledger keeps the history of runs in a SQLite file, for people and for what decides what is next.
//
// It is history, not truth: progress and data live in the datasets' own logs, so losing the file loses no
// data. Every write is one transaction; the file survives kill -9 (WAL). A run that was under way
// when its process died is found by [Ledger.Interrupt] at the next start.
//
// It is a leaf.
package ledger

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver, pure Go
)

//go:embed migrations/*.sql
var migrations embed.FS

// State is where a run is.
type State string

// The states. Running is the only one that is left.
const (
	Running     State = "running"
	Succeeded   State = "succeeded"
	Failed      State = "failed"
	Canceled    State = "canceled"
	Interrupted State = "interrupted" // the process died
)

// Run is one run of one job.
type Run struct {
	ID          string    `json:"run"`
	Job         string    `json:"job"`
	Table       string    `json:"table"`
	Dataset     string    `json:"dataset"` // its address
	State       State     `json:"state"`
	Class       string    `json:"class,omitempty"` // of the error
	Error       string    `json:"error,omitempty"`
	Rows        int64     `json:"rows"`
	Bytes       int64     `json:"bytes"` // published
	Files       int       `json:"files"`
	Version     int64     `json:"version"` // published; -1 if none
	Requests    int64     `json:"requests"`
	Attempts    int       `json:"attempts"`
	Fingerprint string    `json:"fingerprint,omitempty"` // of the token
	Evidence    string    `json:"evidence,omitempty"`    // JSON
	Process     string    `json:"process"`               // host:pid:start
	Started     time.Time `json:"started"`
	Ended       time.Time `json:"ended,omitzero"`
}

// Ledger is an open file. It is safe for concurrent use, by several processes too.
type Ledger struct {
	db   *sql.DB
	path string
}

// Open opens the file at path, creates it (0600, its directory 0700) if it is not there, and brings its tables up to date.
// What the errors mean is in [ErrFull] and the others beside it.
func Open(ctx context.Context, path string) (*Ledger, error) {
	l := &Ledger{path: path}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, l.fail("open", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, l.fail("open", err)
	}
	if err := f.Close(); err != nil {
		return nil, l.fail("open", err)
	}
	// Migrations, and the switch to WAL, are not one transaction: of two first runs at once, one waits here. The lock is on a
	// file of its own, since closing the database file would drop SQLite's own locks on it.
	guard, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, l.fail("open", err)
	}
	defer func() { _ = guard.Close() }() // releases the lock; nothing was written
	if err := lock(guard); err != nil {
		return nil, l.fail("lock", err)
	}
	// _txlock=immediate: a deferred transaction that turns into a write fails at once under contention instead of waiting.
	dsn := url.URL{Scheme: "file", Opaque: (&url.URL{Path: filepath.ToSlash(path)}).EscapedPath(), RawQuery: url.Values{
		"_txlock": {"immediate"},
		"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"},
	}.Encode()}
	if l.db, err = sql.Open("sqlite", dsn.String()); err != nil {
		return nil, l.fail("open", err)
	}
	l.db.SetMaxOpenConns(4)
	if err := l.migrate(ctx); err != nil {
		return nil, errors.Join(err, l.db.Close())
	}
	return l, nil
}

func (l *Ledger) migrate(ctx context.Context) error {
	provider, err := goose.NewProvider(goose.DialectSQLite3, l.db, mustSub(), goose.WithVerbose(false))
	if err != nil {
		return l.fail("bring up to date", err)
	}
	if _, err := provider.Up(ctx); err != nil {
		if meaning(err) == nil && l.damaged(ctx) { // the migration trips over a damaged file in many ways
			err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return l.fail("bring up to date", err)
	}
	return nil
}

// damaged looks through the file.
func (l *Ledger) damaged(ctx context.Context) bool {
	var answer string
	if err := l.db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&answer); err != nil {
		return errors.Is(meaning(err), ErrCorrupt)
	}
	return answer != "ok"
}

// Start records that a run began.
func (l *Ledger) Start(ctx context.Context, r Run) error {
	_, err := l.db.ExecContext(ctx, `INSERT INTO runs (id, job, table_name, dataset, state, process, started, version) VALUES (?, ?, ?, ?, ?, ?, ?, -1)`,
		r.ID, r.Job, r.Table, r.Dataset, Running, r.Process, r.Started.UnixMicro())
	if err != nil {
		return l.fail("start run", err)
	}
	return nil
}

// Finish records how a run ended, and with it its last step. It changes a run only while it is Running.
func (l *Ledger) Finish(ctx context.Context, r Run) error {
	return l.transact(ctx, "finish run", func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE runs SET state=?, class=?, error=?, row_count=?, bytes=?, files=?, version=?, requests=?, attempts=?, fingerprint=?, evidence=?, ended=?
			WHERE id=? AND state=?`,
			r.State, r.Class, r.Error, r.Rows, r.Bytes, r.Files, r.Version, r.Requests, r.Attempts, r.Fingerprint, r.Evidence, r.Ended.UnixMicro(), r.ID, Running)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err == nil && n == 0 {
			return fmt.Errorf("%w: %s", ErrNotFound, r.ID)
		}
		if r.State == Interrupted {
			return nil // nobody saw when the step ended
		}
		return endStep(ctx, tx, r.ID, r.Ended, r.Rows)
	})
}

// Interrupt marks the runs as interrupted whose process is not alive any more, and returns them.
func (l *Ledger) Interrupt(ctx context.Context, alive func(process string) bool) ([]Run, error) {
	running, err := l.List(ctx, Query{State: Running})
	if err != nil {
		return nil, err
	}
	var dead []Run
	for _, r := range running {
		if alive(r.Process) {
			continue
		}
		r.State, r.Ended, r.Version = Interrupted, time.Now(), -1
		r.Error = "the process ended in the middle of the run; the dataset's own log says whether its version was published"
		if err := l.Finish(ctx, r); err != nil && !errors.Is(err, ErrNotFound) {
			return dead, err
		}
		dead = append(dead, r)
	}
	return dead, nil
}

// Query selects runs, newest first. Zero values select all.
type Query struct {
	Job    string
	State  State
	ID     string
	Before *Run // only runs that began before this one: the last of the page before (Started and ID suffice)
	Limit  int  // 0 = all
}

const runColumns = `SELECT id, job, table_name, dataset, state, class, error, row_count, bytes, files, version, requests, attempts, fingerprint, evidence, process, started, ended FROM runs `

// List returns runs.
func (l *Ledger) List(ctx context.Context, q Query) ([]Run, error) {
	limit, started, id := q.Limit, int64(math.MaxInt64), ""
	if limit == 0 {
		limit = -1
	}
	if q.Before != nil {
		started, id = q.Before.Started.UnixMicro(), q.Before.ID
	}
	// One text per question, so that each is answered from its index: with 100,000 runs a scan takes too long for a page.
	const rest = `(started, id) < (?, ?) ORDER BY started DESC, id DESC LIMIT ?`
	switch {
	case q.ID != "":
		return l.runs(ctx, runColumns+`WHERE id=? AND (?='' OR job=?) AND (?='' OR state=?)`, q.ID, q.Job, q.Job, q.State, q.State)
	case q.State == Running: // few, by their own index
		return l.runs(ctx, runColumns+`WHERE state='running' AND (?='' OR job=?) AND `+rest, q.Job, q.Job, started, id, limit)
	case q.Job != "":
		return l.runs(ctx, runColumns+`WHERE job=? AND (?='' OR state=?) AND `+rest, q.Job, q.State, q.State, started, id, limit)
	case q.State != "":
		return l.runs(ctx, runColumns+`WHERE state=? AND `+rest, q.State, started, id, limit)
	}
	return l.runs(ctx, runColumns+`WHERE `+rest, started, id, limit)
}

// runs asks for runs; the text begins with runColumns.
func (l *Ledger) runs(ctx context.Context, text string, args ...any) ([]Run, error) {
	rows, err := l.db.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, l.fail("list runs", err)
	}
	defer rows.Close()
	var runs []Run
	for rows.Next() {
		var r Run
		var started, ended int64
		if err := rows.Scan(&r.ID, &r.Job, &r.Table, &r.Dataset, &r.State, &r.Class, &r.Error, &r.Rows, &r.Bytes, &r.Files, &r.Version,
			&r.Requests, &r.Attempts, &r.Fingerprint, &r.Evidence, &r.Process, &started, &ended); err != nil {
			return nil, l.fail("list runs", err)
		}
		r.Started, r.Ended = time.UnixMicro(started).UTC(), instant(ended)
		runs = append(runs, r)
	}
	if err := rows.Err(); err != nil {
		return nil, l.fail("list runs", err)
	}
	return runs, nil
}

// Get returns one run, or ErrNotFound.
func (l *Ledger) Get(ctx context.Context, id string) (Run, error) {
	runs, err := l.List(ctx, Query{ID: id, Limit: 1})
	if err != nil {
		return Run{}, err
	}
	if len(runs) == 0 {
		return Run{}, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	return runs[0], nil
}

// Identity is a word that tells this ledger from all others, the same at every call. It is lost with the file; a copy of the file has it too.
func (l *Ledger) Identity(ctx context.Context) (name string, err error) {
	if _, err := l.db.ExecContext(ctx, `INSERT INTO identity (one, name) VALUES (1, ?) ON CONFLICT DO NOTHING`, rand.Text()); err != nil {
		return "", l.fail("name the state directory", err)
	}
	if err := l.db.QueryRowContext(ctx, `SELECT name FROM identity`).Scan(&name); err != nil {
		return "", l.fail("name the state directory", err)
	}
	return name, nil
}

// Path is the file's.
func (l *Ledger) Path() string { return l.path }

// Close closes the file.
func (l *Ledger) Close() error {
	if err := l.db.Close(); err != nil {
		return l.fail("close", err)
	}
	return nil
}
