package ledger

import (
	"context"
	"time"
)

// OpenAlert is an alert that is not over, so that it is not told anew at every start.
type OpenAlert struct {
	Key  string
	Text string // JSON
	Told time.Time
}

// Alerts returns the alerts that are not over.
func (l *Ledger) Alerts(ctx context.Context) ([]OpenAlert, error) {
	rows, err := l.db.QueryContext(ctx, `SELECT key, text, told FROM alerts ORDER BY key`)
	if err != nil {
		return nil, l.fail("list alerts", err)
	}
	defer rows.Close()
	var all []OpenAlert
	for rows.Next() {
		var a OpenAlert
		var told int64
		if err := rows.Scan(&a.Key, &a.Text, &told); err != nil {
			return nil, l.fail("list alerts", err)
		}
		a.Told = instant(told)
		all = append(all, a)
	}
	if err := rows.Err(); err != nil {
		return nil, l.fail("list alerts", err)
	}
	return all, nil
}

// SaveAlert records an alert that is not over.
func (l *Ledger) SaveAlert(ctx context.Context, a OpenAlert) error {
	_, err := l.db.ExecContext(ctx, `INSERT INTO alerts (key, text, told) VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET text=excluded.text, told=excluded.told`, a.Key, a.Text, a.Told.UnixMicro())
	if err != nil {
		return l.fail("record alert", err)
	}
	return nil
}

// RemoveAlert records that an alert is over.
func (l *Ledger) RemoveAlert(ctx context.Context, key string) error {
	if _, err := l.db.ExecContext(ctx, `DELETE FROM alerts WHERE key=?`, key); err != nil {
		return l.fail("record the end of an alert", err)
	}
	return nil
}

// Volume is how many requests the runs of some jobs have sent that began in [from, to).
func (l *Ledger) Volume(ctx context.Context, jobs []string, from, to time.Time) (int64, error) {
	var n int64
	for _, job := range jobs {
		var of int64
		if err := l.db.QueryRowContext(ctx, `SELECT coalesce(sum(requests), 0) FROM runs WHERE job=? AND started>=? AND started<?`, job, from.UnixMicro(), to.UnixMicro()).Scan(&of); err != nil {
			return 0, l.fail("count requests", err)
		}
		n += of
	}
	return n, nil
}
