package main

import (
	"context"
	"fmt"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/ledger"
)

// fillProgress shows how far a backfill is, by rows where they are known, else by windows, with the time that it will still take.
type fillProgress struct {
	*progress
	plan    *backfillPlan
	started time.Time
	rows    map[string]int64 // read so far, by window
}

func (p *fillProgress) update(u jobs.Progress) {
	if !p.on {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar == nil {
		p.rows = map[string]int64{}
		p.bar = progressbar.NewOptions64(max(1, p.whole(u)), progressbar.OptionSetWriter(p.err), progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionClearOnFinish(), progressbar.OptionFullWidth(), progressbar.OptionSetElapsedTime(true), progressbar.OptionSetPredictTime(false))
	}
	if u.Window != "" {
		p.rows[u.Window] = max(p.rows[u.Window], u.Scan.Rows)
	}
	read := int64(0)
	for _, n := range p.rows {
		read += n
	}
	done := read
	if p.plan.Estimate.Rows <= 0 {
		done = int64(u.Done)
	}
	text := fmt.Sprintf("%s  %d of %d windows  %s rows", u.Job, u.Done, u.Windows, count(read))
	if left := remaining(time.Since(p.started), done, p.whole(u)); left > 0 {
		text += "  about " + roughly(left) + " to go"
	}
	if u.Window != "" {
		text += "  (" + u.Window + ")"
	}
	p.bar.Describe(text)
	_ = p.bar.Set64(min(done, p.bar.GetMax64())) // a bar that cannot be drawn must not fail a run
}

// whole is what the bar counts up to.
func (p *fillProgress) whole(u jobs.Progress) int64 {
	if p.plan.Estimate.Rows > 0 {
		return p.plan.Estimate.Rows
	}
	return int64(u.Windows)
}

// remaining is how long the rest takes at the speed so far; 0 while that says little.
func remaining(took time.Duration, done, whole int64) time.Duration {
	if done <= 0 || done >= whole || took < 2*time.Second {
		return 0
	}
	return time.Duration(float64(took) / float64(done) * float64(whole-done))
}

// liveRunPoll is how often a backfill that has stepped aside looks whether it may go on.
const liveRunPoll = 2 * time.Second

// letLiveRunsPass gives what a backfill does before each window: it waits while a run of the same instance is under way that began after
// the backfill did. (Of two backfills the older one waits for the younger; none waits for one that is older than itself, so they
// cannot wait for each other.) Runs of other machines are not seen; there, the instance's own limits and the commit protocol
// keep the peace.
func (a *app) letLiveRunsPass(instance string) func(ctx context.Context, runID string) error {
	return func(ctx context.Context, runID string) error {
		runs, err := a.ledger(ctx)
		if err != nil {
			return err
		}
		for told := false; ; {
			running, err := runs.List(ctx, ledger.Query{State: ledger.Running})
			if err != nil {
				return err
			}
			busy := ""
			for _, r := range running {
				if r.ID > runID && a.cfg.Jobs[r.Job].Instance == instance && r.Process != jobs.Process() && jobs.Alive(r.Process) {
					busy = r.Job
				}
			}
			if busy == "" {
				return nil
			}
			if !told {
				a.logger().Info("backfill waits for a live run", "job", busy)
				told = true
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(liveRunPoll):
			}
		}
	}
}
