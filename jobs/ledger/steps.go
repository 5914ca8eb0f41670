package ledger

import (
	"context"
	"database/sql"
	"time"
)

// Step is one part of a run: what it was doing, and for how long.
type Step struct {
	Run     string    `json:"run"`
	N       int       `json:"n"`    // 1, 2, …
	Name    string    `json:"step"` // "preparing", "reading", "publishing", …
	Attempt int       `json:"attempt"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"` // zero: under way, or the process died in it
	Rows    int64     `json:"rows"`           // read so far when the step ended
}

// Step records that a step began, and at the same instant the end of the one before it, which left rows behind.
func (l *Ledger) Step(ctx context.Context, s Step, rows int64) error {
	return l.transact(ctx, "record step", func(tx *sql.Tx) error {
		if err := endStep(ctx, tx, s.Run, s.Started, rows); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO steps (run, n, name, attempt, started) SELECT ?, 1 + coalesce(max(n), 0), ?, ?, ? FROM steps WHERE run=?`,
			s.Run, s.Name, s.Attempt, s.Started.UnixMicro(), s.Run)
		return err
	})
}

// endStep ends the step of a run that is under way, if there is one.
func endStep(ctx context.Context, tx *sql.Tx, run string, at time.Time, rows int64) error {
	_, err := tx.ExecContext(ctx, `UPDATE steps SET ended=?, rows=? WHERE run=? AND ended=0`, at.UnixMicro(), rows, run)
	return err
}

// Steps returns a run's steps in their order.
func (l *Ledger) Steps(ctx context.Context, run string) ([]Step, error) {
	rows, err := l.db.QueryContext(ctx, `SELECT run, n, name, attempt, started, ended, rows FROM steps WHERE run=? ORDER BY n`, run)
	if err != nil {
		return nil, l.fail("list steps", err)
	}
	defer rows.Close()
	var steps []Step
	for rows.Next() {
		var s Step
		var started, ended int64
		if err := rows.Scan(&s.Run, &s.N, &s.Name, &s.Attempt, &started, &ended, &s.Rows); err != nil {
			return nil, l.fail("list steps", err)
		}
		s.Started, s.Ended = instant(started), instant(ended)
		steps = append(steps, s)
	}
	if err := rows.Err(); err != nil {
		return nil, l.fail("list steps", err)
	}
	return steps, nil
}
