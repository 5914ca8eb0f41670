package ledger

import (
	"context"
	"time"
)

// Figures is what a report on tokens found at an instance the last time. A number that the instance does not show is -1.
type Figures struct {
	Instance string    `json:"instance"`
	Taken    time.Time `json:"taken"`
	Sessions int64     `json:"sessions"` // open, of everybody
	Ours     int64     `json:"ours"`     // of our application; -1 too if it is not configured
	Licenses int64     `json:"licenses"` // that the instance has, of all kinds
	Findings int64     `json:"findings"` // of the report
}

// Figures returns the newest figures of every instance that was reported on, by its name.
func (l *Ledger) Figures(ctx context.Context) (map[string]Figures, error) {
	rows, err := l.db.QueryContext(ctx, `SELECT instance, taken, sessions, ours, licenses, findings FROM figures`)
	if err != nil {
		return nil, l.fail("read figures", err)
	}
	defer rows.Close()
	all := map[string]Figures{}
	for rows.Next() {
		var f Figures
		var taken int64
		if err := rows.Scan(&f.Instance, &taken, &f.Sessions, &f.Ours, &f.Licenses, &f.Findings); err != nil {
			return nil, l.fail("read figures", err)
		}
		f.Taken = instant(taken)
		all[f.Instance] = f
	}
	if err := rows.Err(); err != nil {
		return nil, l.fail("read figures", err)
	}
	return all, nil
}

// SaveFigures records an instance's figures, unless newer ones are there.
func (l *Ledger) SaveFigures(ctx context.Context, f Figures) error {
	_, err := l.db.ExecContext(ctx, `INSERT INTO figures (instance, taken, sessions, ours, licenses, findings) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (instance) DO UPDATE SET taken=excluded.taken, sessions=excluded.sessions, ours=excluded.ours, licenses=excluded.licenses, findings=excluded.findings
		WHERE excluded.taken >= figures.taken`, f.Instance, f.Taken.UnixMicro(), f.Sessions, f.Ours, f.Licenses, f.Findings)
	if err != nil {
		return l.fail("record figures", err)
	}
	return nil
}
