package ledger

import (
	"context"
	"time"
)

// Latest is what is known of a job at a glance: its newest run, and its newest one that published.
type Latest struct {
	Job     string    `json:"job"`
	Run     string    `json:"run"`
	State   State     `json:"state"`
	Class   string    `json:"class,omitempty"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`

	// Of the newest run that published; Published is "" and Version -1 if there is none. The data is as of PublishedStarted: rows that
	// changed in the source while the run read them may or may not be in.
	Published        string    `json:"published,omitempty"`
	PublishedStarted time.Time `json:"publishedStarted,omitzero"`
	PublishedEnded   time.Time `json:"publishedEnded,omitzero"`
	Version          int64     `json:"version"`
	Rows             int64     `json:"rows"`
	Bytes            int64     `json:"bytes"`
}

// Latest returns a glance at every job that has ever run.
func (l *Ledger) Latest(ctx context.Context) (map[string]Latest, error) {
	rows, err := l.db.QueryContext(ctx, `SELECT job, run, state, class, started, ended, published, published_started, published_ended, version, row_count, bytes FROM latest`)
	if err != nil {
		return nil, l.fail("read the latest runs", err)
	}
	defer rows.Close()
	all := map[string]Latest{}
	for rows.Next() {
		var j Latest
		var started, ended, from, to int64
		if err := rows.Scan(&j.Job, &j.Run, &j.State, &j.Class, &started, &ended, &j.Published, &from, &to, &j.Version, &j.Rows, &j.Bytes); err != nil {
			return nil, l.fail("read the latest runs", err)
		}
		j.Started, j.Ended, j.PublishedStarted, j.PublishedEnded = instant(started), instant(ended), instant(from), instant(to)
		all[j.Job] = j
	}
	if err := rows.Err(); err != nil {
		return nil, l.fail("read the latest runs", err)
	}
	return all, nil
}
