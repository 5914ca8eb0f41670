package gate

import (
	"math"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// clients is how many clients one generation of buckets remembers.
const clients = 4096

// buckets are token buckets by client: a minute's requests at once, then evenly. Their memory is bounded: when a generation is full, the
// clients of the one before it that have not asked since are forgotten, and begin with a full bucket if they come back.
type buckets struct {
	perMinute int

	mu       sync.Mutex
	new, old map[string]*rate.Limiter
}

func newBuckets(perMinute int) *buckets {
	return &buckets{perMinute: perMinute, new: map[string]*rate.Limiter{}}
}

// take returns how long who has to wait; 0 = not at all.
func (b *buckets) take(who string, now time.Time) time.Duration {
	if b.perMinute == 0 {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.new[who]
	if l == nil {
		if l = b.old[who]; l == nil {
			l = rate.NewLimiter(rate.Limit(float64(b.perMinute)/60), b.perMinute)
		}
		if len(b.new) >= clients {
			b.old, b.new = b.new, map[string]*rate.Limiter{}
		}
		b.new[who] = l
	}
	reservation := l.ReserveN(now, 1)
	wait := reservation.DelayFrom(now)
	if wait > 0 {
		reservation.CancelAt(now) // who is refused has not used it
	}
	return wait
}

// seconds is a Retry-After: whole seconds, at least one.
func seconds(d time.Duration) string {
	return strconv.Itoa(max(1, int(math.Ceil(d.Seconds()))))
}
