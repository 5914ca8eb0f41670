package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Outcome is where a tick is, and how it ended.
type Outcome string

// The outcomes. A tick is Waiting until it is its turn and Running while its run is under way; all others are ends.
const (
	Waiting   Outcome = "waiting"
	Ticking   Outcome = "running"
	Ran       Outcome = "ran"       // in time, whatever became of the run
	Late      Outcome = "late"      // ran, but after its time: the program was not there, or was stopped in the middle
	Coalesced Outcome = "coalesced" // a later tick ran for it
	Skipped   Outcome = "skipped"   // with a reason
)

// Over reports whether a tick has ended.
func (o Outcome) Over() bool { return o != Waiting && o != Ticking }

// Tick is one instant at which a job was due, or a stretch of missed ones that met the same end.
type Tick struct {
	Job     string    `json:"job"`
	At      time.Time `json:"at"`
	Until   time.Time `json:"until"` // the last one of a stretch; At for a single tick
	Count   int64     `json:"count"` // ticks in the stretch; 1 for a single tick
	Outcome Outcome   `json:"outcome"`
	Reason  string    `json:"reason,omitempty"`
	Run     string    `json:"run,omitempty"`
	Process string    `json:"process,omitempty"` // who decided
	Decided time.Time `json:"decided"`
}

// Clock is what is known of a job's schedule.
type Clock struct {
	Job      string    `json:"job"`
	Upto     time.Time `json:"upto,omitzero"` // every tick up to here has a line; zero = the job was never looked at
	Spec     string    `json:"spec"`          // the schedule that Upto belongs to, as text
	Paused   time.Time `json:"paused,omitzero"`
	PausedBy string    `json:"pausedBy,omitempty"`
	Why      string    `json:"why,omitempty"`
}

// Clocks returns what is known of every job's schedule.
func (l *Ledger) Clocks(ctx context.Context) (map[string]Clock, error) {
	rows, err := l.db.QueryContext(ctx, `SELECT job, upto, spec, paused, paused_by, why FROM clocks`)
	if err != nil {
		return nil, l.fail("read clocks", err)
	}
	defer rows.Close()
	clocks := map[string]Clock{}
	for rows.Next() {
		var c Clock
		var upto, paused int64
		if err := rows.Scan(&c.Job, &upto, &c.Spec, &paused, &c.PausedBy, &c.Why); err != nil {
			return nil, l.fail("read clocks", err)
		}
		c.Upto, c.Paused = instant(upto), instant(paused)
		clocks[c.Job] = c
	}
	if err := rows.Err(); err != nil {
		return nil, l.fail("read clocks", err)
	}
	return clocks, nil
}

// Move is a step of one job's clock: the lines of the ticks up to Clock.Upto.
type Move struct {
	Clock Clock // Job, Upto and Spec
	Ticks []Tick
}

// Advance accounts for jobs' ticks: it adds their lines and moves the clocks, all or nothing, if lock is still held (else
// ErrFenced). It returns the ticks that were new: one that has a line already keeps it, so that no tick is run twice, whatever
// the clock on the wall does.
func (l *Ledger) Advance(ctx context.Context, lock Lock, moves ...Move) (fresh []Tick, err error) {
	err = l.fenced(ctx, lock, "advance the clock", func(tx *sql.Tx) error {
		for _, m := range moves {
			for _, t := range m.Ticks {
				added, err := addTick(ctx, tx, t)
				if err != nil {
					return err
				}
				if added {
					fresh = append(fresh, t)
				}
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO clocks (job, upto, spec) VALUES (?, ?, ?) ON CONFLICT (job) DO UPDATE SET upto=excluded.upto, spec=excluded.spec`,
				m.Clock.Job, m.Clock.Upto.UnixMicro(), m.Clock.Spec); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return fresh, nil
}

func addTick(ctx context.Context, tx *sql.Tx, t Tick) (bool, error) {
	res, err := tx.ExecContext(ctx, `INSERT INTO ticks (job, at, until, count, outcome, reason, run, process, decided) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (job, at) DO NOTHING`,
		t.Job, t.At.UnixMicro(), t.Until.UnixMicro(), t.Count, t.Outcome, t.Reason, t.Run, t.Process, t.Decided.UnixMicro())
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// Settle records where a tick is now. A tick that is over stays what it is. It fails with ErrFenced if lock is not held any more.
func (l *Ledger) Settle(ctx context.Context, lock Lock, ticks ...Tick) error {
	return l.fenced(ctx, lock, "settle a tick", func(tx *sql.Tx) error {
		for _, t := range ticks {
			if _, err := tx.ExecContext(ctx, `UPDATE ticks SET outcome=?, reason=?, run=CASE WHEN ?='' THEN run ELSE ? END, process=?, decided=?
				WHERE job=? AND at=? AND outcome IN ('waiting', 'running')`,
				t.Outcome, t.Reason, t.Run, t.Run, t.Process, t.Decided.UnixMicro(), t.Job, t.At.UnixMicro()); err != nil {
				return err
			}
		}
		return nil
	})
}

// TickQuery selects ticks, newest first. Zero values select all.
type TickQuery struct {
	Job   string
	Open  bool // only those that are waiting or running
	Limit int  // 0 = all
}

const tickColumns = `SELECT job, at, until, count, outcome, reason, run, process, decided FROM ticks `

// openTicks names its index: the primary key would walk over all of a job's ticks.
const openTicks = tickColumns + `INDEXED BY ticks_open WHERE job=? AND outcome IN ('waiting', 'running') ORDER BY at DESC LIMIT ?`

// Ticks returns ticks.
func (l *Ledger) Ticks(ctx context.Context, q TickQuery) ([]Tick, error) {
	limit := q.Limit
	if limit == 0 {
		limit = -1
	}
	// One text per question, so that each is answered from its index.
	text, args := tickColumns+`ORDER BY at DESC, job LIMIT ?`, []any{limit}
	switch {
	case q.Open && q.Job != "":
		text, args = openTicks, []any{q.Job, limit}
	case q.Open:
		text = tickColumns + `WHERE outcome IN ('waiting', 'running') ORDER BY job, at DESC LIMIT ?`
	case q.Job != "":
		text, args = tickColumns+`WHERE job=? ORDER BY at DESC LIMIT ?`, []any{q.Job, limit}
	}
	rows, err := l.db.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, l.fail("list ticks", err)
	}
	defer rows.Close()
	var ticks []Tick
	for rows.Next() {
		var t Tick
		var at, until, decided int64
		if err := rows.Scan(&t.Job, &at, &until, &t.Count, &t.Outcome, &t.Reason, &t.Run, &t.Process, &decided); err != nil {
			return nil, l.fail("list ticks", err)
		}
		t.At, t.Until, t.Decided = instant(at), instant(until), instant(decided)
		ticks = append(ticks, t)
	}
	if err := rows.Err(); err != nil {
		return nil, l.fail("list ticks", err)
	}
	return ticks, nil
}

// Pause records that a job's ticks are skipped from now on. A job that is paused already stays as it is.
func (l *Ledger) Pause(ctx context.Context, job, by, why string, at time.Time) error {
	_, err := l.db.ExecContext(ctx, `INSERT INTO clocks (job, paused, paused_by, why) VALUES (?, ?, ?, ?)
		ON CONFLICT (job) DO UPDATE SET paused=excluded.paused, paused_by=excluded.paused_by, why=excluded.why WHERE paused=0`,
		job, at.UnixMicro(), by, why)
	if err != nil {
		return l.fail("pause job", err)
	}
	return nil
}

// Resume ends a job's pause, and reports whether there was one.
func (l *Ledger) Resume(ctx context.Context, job string) (bool, error) {
	res, err := l.db.ExecContext(ctx, `UPDATE clocks SET paused=0, paused_by='', why='' WHERE job=? AND paused<>0`, job)
	if err != nil {
		return false, l.fail("resume job", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return false, l.fail("resume job", err)
	}
	return n > 0, nil
}

// instant is a time of the file; 0 is none.
func instant(micro int64) time.Time {
	if micro == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micro).UTC()
}

// ErrFenced says that the lock under which something was to be written belongs to someone else by now.
var ErrFenced = errors.New("ledger: another process has taken over; nothing was written")

// HeldError says who holds a lock.
type HeldError struct {
	Name    string
	Holder  string // host:pid:start
	Expires time.Time
}

// Error implements error.
func (e *HeldError) Error() string {
	return fmt.Sprintf("ledger: %s is held by process %s (until %s, unless it renews it)", e.Name, e.Holder, e.Expires.Format(time.RFC3339))
}

// Lock is the right to act, as long as nobody took it over. Its fence is larger than that of every holder before.
type Lock struct {
	Name   string
	Holder string
	Fence  int64
}

// Lock takes the lock of that name for ttl: when it is free, has expired, or its holder is not alive. Otherwise the error is a
// *HeldError. The same holder gets it anew, with a new fence.
func (l *Ledger) Lock(ctx context.Context, name, holder string, ttl time.Duration, alive func(holder string) bool) (Lock, error) {
	lock := Lock{Name: name, Holder: holder}
	err := l.transact(ctx, "lock "+name, func(tx *sql.Tx) error {
		now := time.Now()
		var other string
		var expires int64
		err := tx.QueryRowContext(ctx, `SELECT holder, fence, expires FROM locks WHERE name=?`, name).Scan(&other, &lock.Fence, &expires)
		switch {
		case errors.Is(err, sql.ErrNoRows):
		case err != nil:
			return err
		case other != "" && other != holder && instant(expires).After(now) && alive(other):
			return &HeldError{Name: name, Holder: other, Expires: instant(expires)}
		}
		lock.Fence++
		_, err = tx.ExecContext(ctx, `INSERT INTO locks (name, holder, fence, expires) VALUES (?, ?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET holder=excluded.holder, fence=excluded.fence, expires=excluded.expires`,
			name, holder, lock.Fence, now.Add(ttl).UnixMicro())
		return err
	})
	if err != nil {
		return Lock{}, err
	}
	return lock, nil
}

// Renew keeps a lock for another ttl, or fails with ErrFenced.
func (l *Ledger) Renew(ctx context.Context, lock Lock, ttl time.Duration) error {
	return l.fenced(ctx, lock, "renew lock", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE locks SET expires=? WHERE name=?`, time.Now().Add(ttl).UnixMicro(), lock.Name)
		return err
	})
}

// Unlock gives a lock back. One that was taken over is left alone.
func (l *Ledger) Unlock(ctx context.Context, lock Lock) error {
	_, err := l.db.ExecContext(ctx, `UPDATE locks SET holder='', expires=0 WHERE name=? AND fence=?`, lock.Name, lock.Fence)
	if err != nil {
		return l.fail("unlock", err)
	}
	return nil
}

// Holder says who holds a lock, "" if nobody does.
func (l *Ledger) Holder(ctx context.Context, name string) (string, error) {
	var holder string
	err := l.db.QueryRowContext(ctx, `SELECT holder FROM locks WHERE name=? AND expires>?`, name, time.Now().UnixMicro()).Scan(&holder)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", l.fail("read lock", err)
	}
	return holder, nil
}

// fenced does something in one transaction, if lock is still the newest of its name.
func (l *Ledger) fenced(ctx context.Context, lock Lock, doing string, do func(*sql.Tx) error) error {
	return l.transact(ctx, doing, func(tx *sql.Tx) error {
		var fence int64
		err := tx.QueryRowContext(ctx, `SELECT fence FROM locks WHERE name=?`, lock.Name).Scan(&fence)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if fence != lock.Fence || lock.Fence == 0 {
			return ErrFenced
		}
		return do(tx)
	})
}

// transact does something in one transaction, which begins as a writing one (_txlock=immediate).
func (l *Ledger) transact(ctx context.Context, doing string, do func(*sql.Tx) error) error {
	tx, err := l.db.BeginTx(ctx, nil)
	if err != nil {
		return l.fail(doing, err)
	}
	if err := do(tx); err != nil {
		_ = tx.Rollback() // what went wrong is in err
		var held *HeldError
		if errors.Is(err, ErrFenced) || errors.Is(err, ErrNotFound) || errors.As(err, &held) {
			return err
		}
		return l.fail(doing, err)
	}
	if err := tx.Commit(); err != nil {
		return l.fail(doing, err)
	}
	return nil
}
