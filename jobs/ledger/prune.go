package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"os"
	"time"
)

// Pruned is what a pruning removed, or would remove.
type Pruned struct {
	Runs  int64 `json:"runs"`
	Ticks int64 `json:"ticks"`
}

const (
	// MinHistory is the least that Prune keeps: alerts compare with the weeks before, and retiring a token asks for the runs that had it.
	MinHistory = 35 * 24 * time.Hour
	// keepEach is how many of a job's newest runs and ticks stay, however old: a job of once a year has a history, too.
	keepEach = 20
	// pruneBatch is how many runs or ticks go in one transaction, and pruneRest the pause behind it, in which others may write.
	pruneBatch = 200
	pruneRest  = 5 * time.Millisecond
)

// Prune removes runs with their steps, and ticks, that began before an instant; the newest 20 of each job stay, and so do runs that are under way, a
// job's newest one that published, and ticks that are not over. A time nearer than MinHistory is an error.
//
// It goes in small transactions, so that nobody waits for it, and a crash leaves the rest for the next time. The file does not shrink: the room is used
// again. Ticks that are gone are not run again: each job's clock stands behind them.
func (l *Ledger) Prune(ctx context.Context, before time.Time, dryRun bool) (Pruned, error) {
	var p Pruned
	if limit := time.Now().Add(-MinHistory); before.After(limit) {
		return p, fmt.Errorf("ledger: prune: %s is nearer than %d days", before.Format(time.DateOnly), MinHistory/(24*time.Hour))
	}
	for _, kind := range []struct {
		jobs   string // all that have some
		edge   string // the start of a job's oldest one that stays in any case
		old    string // those that go
		remove func(ctx context.Context, tx *sql.Tx, job string, limit int64) (int64, error)
		count  *int64
	}{
		{`SELECT job FROM latest`, `SELECT started FROM runs WHERE job=? ORDER BY started DESC LIMIT 1 OFFSET ?`, `SELECT count(*) FROM runs WHERE ` + oldRuns, removeRuns, &p.Runs},
		{`SELECT DISTINCT job FROM clocks`, `SELECT at FROM ticks WHERE job=? ORDER BY at DESC LIMIT 1 OFFSET ?`, `SELECT count(*) FROM ticks WHERE ` + oldTicks, removeTicks, &p.Ticks},
	} {
		names, err := l.names(ctx, kind.jobs)
		if err != nil {
			return p, err
		}
		for _, job := range names {
			limit := int64(math.MinInt64)
			switch err := l.db.QueryRowContext(ctx, kind.edge, job, keepEach-1).Scan(&limit); {
			case err == sql.ErrNoRows:
				continue // it has fewer
			case err != nil:
				return p, l.fail("prune", err)
			}
			limit = min(limit, before.UnixMicro())
			n, err := l.pruneJob(ctx, job, limit, kind.old, dryRun, kind.remove)
			*kind.count += n
			if err != nil {
				return p, err
			}
		}
	}
	return p, nil
}

// Which of a job's lines are old: the arguments are the job and the instant.
const (
	oldRuns  = `job=? AND started<? AND state<>'running' AND id NOT IN (SELECT published FROM latest)`
	oldTicks = `job=? AND at<? AND outcome NOT IN ('waiting', 'running')`
)

func (l *Ledger) pruneJob(ctx context.Context, job string, limit int64, old string, dryRun bool, remove func(context.Context, *sql.Tx, string, int64) (int64, error)) (all int64, err error) {
	if dryRun {
		if err := l.db.QueryRowContext(ctx, old, job, limit).Scan(&all); err != nil {
			return 0, l.fail("prune", err)
		}
		return all, nil
	}
	for {
		var n int64
		err := l.transact(ctx, "prune", func(tx *sql.Tx) (err error) {
			n, err = remove(ctx, tx, job, limit)
			return err
		})
		if err != nil {
			return all, err
		}
		if all += n; n < pruneBatch {
			return all, nil
		}
		rest := time.NewTimer(pruneRest)
		select {
		case <-ctx.Done():
			rest.Stop()
			return all, ctx.Err()
		case <-rest.C:
		}
	}
}

// removeRuns removes a batch of a job's old runs, oldest first, with their steps.
func removeRuns(ctx context.Context, tx *sql.Tx, job string, limit int64) (int64, error) {
	const batch = `SELECT id FROM runs WHERE ` + oldRuns + ` ORDER BY started LIMIT ?`
	if _, err := tx.ExecContext(ctx, `DELETE FROM steps WHERE run IN (`+batch+`)`, job, limit, pruneBatch); err != nil {
		return 0, err
	}
	res, err := tx.ExecContext(ctx, `DELETE FROM runs WHERE id IN (`+batch+`)`, job, limit, pruneBatch)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func removeTicks(ctx context.Context, tx *sql.Tx, job string, limit int64) (int64, error) {
	res, err := tx.ExecContext(ctx, `DELETE FROM ticks WHERE job=? AND at IN (SELECT at FROM ticks WHERE `+oldTicks+` ORDER BY at LIMIT ?)`, job, job, limit, pruneBatch)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (l *Ledger) names(ctx context.Context, text string) (names []string, err error) {
	rows, err := l.db.QueryContext(ctx, text)
	if err != nil {
		return nil, l.fail("list jobs", err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, l.fail("list jobs", err)
		}
		names = append(names, name)
	}
	if err := rows.Err(); err != nil {
		return nil, l.fail("list jobs", err)
	}
	return names, nil
}

// Size is how many bytes the ledger takes on disk: the file, and what waits beside it to be put into it.
func (l *Ledger) Size() (size int64) {
	for _, path := range []string{l.path, l.path + "-wal"} {
		if info, err := os.Stat(path); err == nil {
			size += info.Size()
		}
	}
	return size
}
