package schedule

import (
	"fmt"
	"hash/fnv"
	"time"
)

// Late is what happens to ticks that were missed: the program was not running, the machine slept, or the clock was set forward.
type Late string

// The ways with missed ticks.
const (
	Once Late = "once" // the newest of them runs, for all of them
	All  Late = "all"  // each of them runs, oldest first
	Skip Late = "skip" // none of them runs
)

// Grace is how long after its time a tick still counts as in time.
const Grace = time.Minute

// MaxLate is how many missed ticks of a job run at most under All; those before them are passed over.
const MaxLate = 100

// maxCount is how far missed ticks are counted; a stretch of more has this count.
const maxCount = 10_000

// Due is a tick to be run, or a stretch of ticks that are not.
type Due struct {
	At, Until time.Time // equal for a single tick
	Count     int64
	Run       bool
	Late      bool   // it is to be run, but after its time
	Coalesced bool   // it is not run, because a later one runs for it
	Reason    string // why it is not run
}

// Catch says what becomes of every tick after upto and not after now: each is in exactly one Due, in their order. Ticks older
// than within are passed over, whatever late says. What is returned is bounded, however long ago upto is: MaxLate single
// ticks and a few stretches.
func (s *Schedule) Catch(upto, now time.Time, late Late, within time.Duration) []Due {
	first := s.Next(upto)
	if first.IsZero() || first.After(now) {
		return nil
	}
	old := stretch{reason: fmt.Sprintf("missed by more than %s", within)}
	early := stretch{reason: fmt.Sprintf("more than %d ticks were missed", MaxLate)}
	var ticks []time.Time // of those not too old, the newest MaxLate
	limit := now.Add(-within)
	next := first
	for ; !next.IsZero() && !next.After(now); next = s.Next(next) {
		switch {
		case !next.Before(limit) || now.Sub(next) <= Grace:
			if ticks = append(ticks, next); len(ticks) > MaxLate {
				early.add(ticks[0])
				ticks = ticks[1:]
			}
		case old.count >= maxCount: // everything up to the limit belongs to the stretch; it is counted no further
			old.until = limit.Add(-time.Microsecond)
			next = old.until
		default:
			old.add(next)
		}
	}
	return append(append(old.due(), early.due()...), choose(ticks, now, late)...)
}

// choose says which of the ticks run.
func choose(ticks []time.Time, now time.Time, late Late) []Due {
	var out []Due
	rest := stretch{reason: "missed; late: skip"}
	if late == Once && len(ticks) > 0 {
		rest = stretch{reason: "a later tick runs for it: " + ticks[len(ticks)-1].Format(time.RFC3339), coalesced: true}
	}
	for i, at := range ticks {
		missed := now.Sub(at) > Grace
		// The newest one runs for those before it also when it is in time itself.
		runs := !missed && (late != Once || i == len(ticks)-1) || late == All || late == Once && i == len(ticks)-1
		if !runs {
			rest.add(at)
			continue
		}
		out = append(append(out, rest.due()...), Due{At: at, Until: at, Count: 1, Run: true, Late: missed})
		rest.count = 0
	}
	return append(out, rest.due()...)
}

// stretch is several ticks with one end.
type stretch struct {
	at, until time.Time
	count     int64
	coalesced bool
	reason    string
}

func (r *stretch) add(at time.Time) {
	if r.count == 0 {
		r.at = at
	}
	r.until = at
	r.count++
}

func (r *stretch) due() []Due {
	if r.count == 0 {
		return nil
	}
	return []Due{{At: r.at, Until: r.until, Count: r.count, Coalesced: r.coalesced, Reason: r.reason}}
}

// Jitter is how much after its tick a job starts: between 0 and most, always the same for one job and tick, so that jobs of
// one minute spread over it and a restarted program comes to the same instant.
func Jitter(job string, tick time.Time, most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%s\x00%d", job, tick.UnixMicro()) // a hash takes everything
	x := h.Sum64()
	x ^= x >> 33 // FNV's last bytes reach the low bits only
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return time.Duration(x % uint64(most))
}

// Upcoming are the next n instants after t at which the job is due.
func (s *Schedule) Upcoming(t time.Time, n int) []time.Time {
	var out []time.Time
	for range n {
		if t = s.Next(t); t.IsZero() {
			break
		}
		out = append(out, t)
	}
	return out
}
