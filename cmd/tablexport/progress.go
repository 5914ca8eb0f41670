package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/tablexport/tablexport/jobs"
)

// progress shows how far runs are, on stderr, when that is a terminal. A nil bar shows nothing.
type progress struct {
	on      bool
	mu      sync.Mutex
	bar     *progressbar.ProgressBar
	job     string
	started time.Time
	err     *os.File
}

// newProgress shows a bar only where a person sees it, and only for one job at a time.
func (g *globals) newProgress(single bool) *progress {
	f, ok := g.err.(*os.File)
	return &progress{on: single && ok && !g.quiet && !g.json && !g.verbose && term.IsTerminal(int(f.Fd())), err: f}
}

func (p *progress) update(u jobs.Progress) {
	if !p.on {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar == nil || p.job != u.Job {
		p.job, p.started = u.Job, time.Now()
		p.bar = progressbar.NewOptions64(-1, progressbar.OptionSetWriter(p.err), progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionClearOnFinish(), progressbar.OptionFullWidth(), progressbar.OptionSetElapsedTime(true), progressbar.OptionSetPredictTime(true))
	}
	if u.Windows > 0 {
		p.windows(u)
		return
	}
	if u.Scan.Expected > 0 && p.bar.GetMax64() != max(u.Scan.Expected, u.Scan.Rows) {
		p.bar.ChangeMax64(max(u.Scan.Expected, u.Scan.Rows))
	}
	text := fmt.Sprintf("%s  %s", u.Job, u.Phase)
	if u.Scan.Requests > 0 {
		rate := float64(u.Scan.Rows) / max(time.Since(p.started).Seconds(), 0.001)
		text += fmt.Sprintf("  %s rows  %s rows/s  %s requests", count(u.Scan.Rows), count(int64(rate)), count(u.Scan.Requests))
	}
	if u.Attempt > 1 {
		text += fmt.Sprintf("  (scan %d)", u.Attempt)
	}
	p.bar.Describe(text)
	_ = p.bar.Set64(u.Scan.Rows) // a bar that cannot be drawn must not fail a run
}

// windows shows how many windows are done: their rows are not known before they are read.
func (p *progress) windows(u jobs.Progress) {
	if p.bar.GetMax64() != int64(u.Windows) {
		p.bar.ChangeMax64(int64(u.Windows))
	}
	text := fmt.Sprintf("%s  %s  %d of %d windows", u.Job, u.Phase, u.Done, u.Windows)
	if u.Window != "" {
		text += fmt.Sprintf("  %s: %s rows", u.Window, count(u.Scan.Rows))
	}
	if u.Attempt > 1 {
		text += fmt.Sprintf("  (scan %d)", u.Attempt)
	}
	p.bar.Describe(text)
	_ = p.bar.Set64(int64(u.Done)) // a bar that cannot be drawn must not fail a run
}

// end takes the bar away.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Clear()
		p.bar = nil
	}
}
