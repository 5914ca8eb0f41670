// Package lease keeps two state directories from refreshing one dataset at the same time.
//
// A lease is an object beside the dataset, below _lease/, which readers of Delta tables pass over. The store can create an object
// only if it is absent, and that is all that exclusion needs: claims are numbered, whoever creates the next number has seen
// all that were before it, and creates it only when none of them is in the way.
//
//	_lease/00000000000000000007.json   a [Claim]; the highest number is never deleted
//
// A claim is in the way if it is another owner's, not released, and above it there is none of a third: whoever has created that one has
// settled what lies below. An owner is a state directory on a host. Its processes share the dataset (a live refresh, a backfill, a command
// beside the daemon): the ledger of the directory and the Delta log keep those apart.
//
// # Time
//
// A holder renews its claim: it counts a beat up. Clocks are never compared. Who finds a foreign claim watches it on its own steady clock:
// when the beat goes on, the holder is alive and the answer is a [HeldError]; when it stands still for the claim's whole time, the holder is
// taken for dead. A holder that could not renew for three quarters of that time takes itself for dead before.
//
// # Fence
//
// A machine that slept, or a stopped process, does not know how long. So [Lease.Check] looks into the store before a commit, and the fence,
// which is the number of the claim with which the dataset last came into other hands, goes into the dataset's log with the commit, as the version of a
// txn action: once the new holder has committed, every commit with a lower fence is refused (export.Fenced). In between, behind the look and before the new
// holder's first commit, an old holder can still publish. That is a whole refresh of proven rows on top of what it has read, as if it had been a moment
// faster; the Delta log makes the new holder build on it, or refuses the new holder's commit, never half of each.
//
// # Crashes
//
//	before the claim is created    nothing
//	between claim and release      an unreleased claim: another owner waits for its time; the same owner passes at once
//	a claim whose creation is not known to have arrived   the same
//	between release and clean-up   released claims, which the next owner deletes
package lease

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tablexport/tablexport/export/store"
)

// DefaultTTL is how long a silent holder keeps a dataset.
const DefaultTTL = time.Minute

// Claim is one object.
type Claim struct {
	Number   int64     `json:"number"`
	Fence    int64     `json:"fence"` // the number of the claim with which this owner's possession began
	Owner    string    `json:"owner"` // a state directory on a host
	Process  string    `json:"process"`
	Job      string    `json:"job"`
	Run      string    `json:"run"`
	Since    time.Time `json:"since"` // by the holder's clock, for people
	Seconds  float64   `json:"ttlSeconds"`
	Beat     int64     `json:"beat"`
	Nonce    string    `json:"nonce"` // tells it from another claim of its number, when an answer was lost
	Released bool      `json:"released,omitempty"`

	Renewed time.Time `json:"-"` // when the object was written, by the store's clock
}

func (c Claim) ttl() time.Duration { return time.Duration(c.Seconds * float64(time.Second)) }

// host is the part of a process's name that people know.
func (c Claim) host() string {
	host, _, _ := strings.Cut(c.Process, ":")
	return host
}

// HeldError says that another state directory is refreshing the dataset.
type HeldError struct {
	Dataset string
	Claim   Claim
}

// Error implements error.
func (e *HeldError) Error() string {
	return fmt.Sprintf("the dataset %s is being refreshed from another state directory (host %s, job %s, run %s, since %s): let one of the two do it; if that one is dead for good, `tablexport datasets unlock` frees it",
		e.Dataset, e.Claim.host(), e.Claim.Job, e.Claim.Run, e.Claim.Since.UTC().Format(time.RFC3339))
}

// LostError says that the lease is not ours any more: it could not be renewed for too long, or somebody has taken it.
type LostError struct {
	Dataset string
	By      *Claim // nil: it could not be renewed
	Err     error  // why it could not
}

// Error implements error.
func (e *LostError) Error() string {
	if e.By == nil {
		return fmt.Sprintf("the lease on the dataset %s could not be renewed in time, so that another may have taken it: %v", e.Dataset, e.Err)
	}
	return fmt.Sprintf("the lease on the dataset %s was taken over by host %s (job %s, run %s): this one was silent for too long, or a person has freed it", e.Dataset, e.By.host(), e.By.Job, e.By.Run)
}

// Unwrap gives what went wrong with the store.
func (e *LostError) Unwrap() error { return e.Err }

// Options say who asks. Owner and Process must not be empty.
type Options struct {
	Owner   string // processes with the same owner share a dataset
	Process string
	Job     string
	Run     string
	TTL     time.Duration // how long this holder may be silent (DefaultTTL)

	// Floor is a number that claims must be above; it is asked for when there is no claim at all: the fences in the dataset's log outlive
	// claims that somebody has deleted. nil: 0.
	Floor func(context.Context) (int64, error)
	// Gone reports that a process of the same owner has ended for certain; its claims are cleared away. nil: nobody has.
	Gone func(process string) bool
	// Waiting is told, once, of a claim that is waited for; nil: nobody is.
	Waiting func(Claim)
	// Logger may be nil.
	Logger *slog.Logger
}

// Lease is a claim that is held.
type Lease struct {
	b     store.Bucket
	name  string // of the dataset, for messages
	o     Options
	log   *slog.Logger
	stop  context.CancelCauseFunc
	ctx   context.Context
	ended chan struct{}
	fence int64

	mu    sync.Mutex // one renewal at a time
	claim Claim
	kin   map[int64]bool // higher claims that are known to be of our own possession
	good  time.Time      // the last renewal that is known to have arrived
}

// dir is where the claims are, beside _delta_log.
const dir = "_lease/"

func key(number int64) string { return fmt.Sprintf("%s%020d.json", dir, number) }

// Acquire takes the lease on the dataset whose directory b is (see store.Prefixed); name is for messages. It waits where a foreign claim may be a dead
// one's, for that claim's time. The error is a *HeldError, one of the store, or ctx's.
//
// The lease is renewed until Release. ctx must outlive it no longer than the work does: its end stops the renewals, not the claim.
func Acquire(ctx context.Context, b store.Bucket, name string, o Options) (*Lease, error) {
	if o.Owner == "" || o.Process == "" {
		return nil, errors.New("lease: owner and process must be given")
	}
	if o.TTL <= 0 {
		o.TTL = DefaultTTL
	}
	l := &Lease{b: b, name: name, o: o, log: o.Logger, ended: make(chan struct{}), kin: map[int64]bool{}}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	w := watch{seen: map[int64]sighting{}}
	for {
		chain, err := read(ctx, b)
		if err != nil {
			return nil, l.fail(err)
		}
		held, wait := w.judge(chain, o.Owner)
		switch {
		case held != nil:
			return nil, &HeldError{Dataset: name, Claim: *held}
		case wait > 0:
			l.say(chain)
			if err := sleep(ctx, wait); err != nil {
				return nil, err
			}
			continue
		}
		ours, err := l.create(ctx, chain)
		if ours && err == nil {
			ours, err = l.highest(ctx)
		}
		if err != nil {
			return nil, l.fail(err)
		}
		if !ours {
			continue // somebody was first: look again
		}
		l.clear(ctx, chain)
		l.fence = l.claim.Fence
		l.ctx, l.stop = context.WithCancelCause(ctx)
		go l.keep()
		return l, nil
	}
}

func (l *Lease) fail(err error) error {
	return fmt.Errorf("lease on the dataset %s: %w", l.name, err)
}

// say tells once for whom it is waited.
func (l *Lease) say(chain []Claim) {
	if l.claim.Nonce != "" {
		return
	}
	l.claim.Nonce = "told"
	for _, c := range inTheWay(chain, l.o.Owner) {
		if l.o.Waiting != nil {
			l.o.Waiting(c)
			l.o.Waiting = nil
		}
		l.log.Info("another state directory has a lease on the dataset; waiting to see whether it is alive", "dataset", l.name, "host", c.host(), "job", c.Job, "run", c.Run, "at most", c.ttl())
	}
}

// inTheWay are the foreign claims that are not settled by a claim above them.
func inTheWay(chain []Claim, owner string) (out []Claim) {
	for _, c := range possession(chain) {
		if c.Owner != owner && !c.Released {
			out = append(out, c)
		}
	}
	return out
}

// possession are the claims of the newest owner: what is above the highest claim of any other.
func possession(chain []Claim) []Claim {
	if len(chain) == 0 {
		return nil
	}
	newest, from := chain[len(chain)-1].Owner, len(chain)-1
	for from > 0 && chain[from-1].Owner == newest {
		from--
	}
	return chain[from:]
}

// watch is what one process has seen of foreign claims, on its own steady clock.
type watch struct{ seen map[int64]sighting }

type sighting struct {
	nonce string
	beat  int64
	since time.Time
}

// judge says which foreign claim is alive, or how long to wait before it can be told.
func (w *watch) judge(chain []Claim, owner string) (alive *Claim, wait time.Duration) {
	now := time.Now()
	for _, c := range inTheWay(chain, owner) {
		s, known := w.seen[c.Number]
		switch {
		case !known || s.nonce != c.Nonce:
			s = sighting{c.Nonce, c.Beat, now}
			w.seen[c.Number] = s
		case s.beat != c.Beat:
			return &c, 0
		}
		if rest := c.ttl() - now.Sub(s.since); rest > 0 {
			wait = max(wait, min(rest, max(c.ttl()/16, time.Millisecond)))
		}
	}
	return nil, wait
}

// create tries to put the next claim. ours is false if somebody else has that number.
//
// A crash in here leaves nothing, or a claim that nobody renews.
func (l *Lease) create(ctx context.Context, chain []Claim) (ours bool, err error) {
	next, fence := int64(1), int64(0)
	if len(chain) > 0 {
		next = chain[len(chain)-1].Number + 1
	} else if l.o.Floor != nil {
		floor, err := l.o.Floor(ctx)
		if err != nil {
			return false, err
		}
		next = max(floor, 0) + 1
	}
	for _, c := range possession(chain) {
		if c.Owner == l.o.Owner && !c.Released {
			fence = max(fence, c.Fence) // it is ours already, by way of another run
		}
	}
	if fence == 0 {
		fence = next
	}
	l.good = time.Now()
	l.claim = Claim{Number: next, Fence: fence, Owner: l.o.Owner, Process: l.o.Process, Job: l.o.Job, Run: l.o.Run,
		Since: time.Now().UTC().Truncate(time.Second), Seconds: l.o.TTL.Seconds(), Nonce: rand.Text()}
	return put(ctx, l.b, l.claim)
}

// highest says whether nothing is above the claim that was just created. What was read before may be old: others may have created the numbers
// behind it, and deleted all but the newest. Whoever creates a number above ours from now on has seen ours, or something above it.
func (l *Lease) highest(ctx context.Context) (bool, error) {
	for f, err := range l.b.List(ctx, dir, key(l.claim.Number)) {
		if _, ok := numberOf(f.Key); err == nil && !ok {
			continue
		}
		// By an error, or a crash here, a claim stays that nobody renews.
		return false, errors.Join(err, l.b.Delete(context.WithoutCancel(ctx), key(l.claim.Number)))
	}
	return true, nil
}

// The tries of an operation whose answer was lost, and the first pause between two.
const (
	tries = 5
	pause = 100 * time.Millisecond
)

// put creates a claim, and looks when it is not known whether that has worked.
func put(ctx context.Context, b store.Bucket, c Claim) (ours bool, err error) {
	data, err := json.Marshal(c)
	if err != nil {
		return false, err
	}
	for try := range tries {
		if try > 0 {
			if serr := sleep(ctx, pause<<try); serr != nil {
				return false, errors.Join(serr, err)
			}
		}
		if err = b.PutIfAbsent(ctx, key(c.Number), data); err == nil {
			return true, nil
		}
		there, lookErr := get(ctx, b, key(c.Number))
		switch code := store.CodeOf(err); {
		case lookErr == nil:
			return there.Nonce == c.Nonce, nil
		case code == store.Permission, code == store.Invalid, code == store.Full, code == store.Canceled:
			return false, err
		}
	}
	return false, err
}

// clear deletes what the new claim has settled: all below it but live claims of the same possession. What stays by an error is in nobody's way.
func (l *Lease) clear(ctx context.Context, chain []Claim) {
	for _, c := range chain {
		kin := c.Owner == l.o.Owner && c.Fence == l.claim.Fence && !c.Released
		if kin && (l.o.Gone == nil || !l.o.Gone(c.Process)) {
			continue
		}
		if err := l.b.Delete(ctx, key(c.Number)); err != nil {
			l.log.Debug("a settled claim could not be deleted", "dataset", l.name, "number", c.Number, "error", err)
		}
	}
}

// Fence is what the dataset's log is to know with every commit.
func (l *Lease) Fence() int64 { return l.fence }

// Context ends with the one given to Acquire, and when the lease is lost; its cause then is a *LostError.
func (l *Lease) Context() context.Context { return l.ctx }

// Lost is the *LostError, or nil.
func (l *Lease) Lost() error {
	var lost *LostError
	if errors.As(context.Cause(l.ctx), &lost) {
		return lost
	}
	return nil
}

// keep renews until the lease is released, lost, or of no more use.
func (l *Lease) keep() {
	defer close(l.ended)
	every := time.NewTicker(l.o.TTL / 4)
	defer every.Stop()
	late := time.NewTimer(l.trust())
	defer late.Stop()
	var err error
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-late.C:
			l.stop(&LostError{Dataset: l.name, Err: err})
			return
		case <-every.C:
		}
		err = l.renew(l.ctx)
		var lost *LostError
		switch {
		case l.ctx.Err() != nil:
		case errors.As(err, &lost):
			l.stop(lost)
		case err != nil:
			l.log.Warn("the lease on a dataset could not be renewed; trying again", "dataset", l.name, "error", err)
		}
		late.Reset(l.trust())
	}
}

// trust is how much longer the lease may be taken for ours without word from the store: an earlier moment than others may take it.
func (l *Lease) trust() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.o.TTL*3/4 - time.Since(l.good)
}

// Check looks into the store whether the lease is still ours; its error is a *LostError if not. It is for the moment before a commit.
func (l *Lease) Check(ctx context.Context) error {
	if err := l.Lost(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.overtaken(ctx); err != nil {
		var lost *LostError
		if errors.As(err, &lost) {
			l.stop(lost)
			return err
		}
		return l.fail(err)
	}
	return nil
}

// renew counts the beat up, if the lease is still ours.
func (l *Lease) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, min(l.o.TTL/4, l.trust())) // a store that hangs must not make us late
	defer cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.overtaken(ctx); err != nil {
		return err
	}
	next := l.claim
	next.Beat++
	began := time.Now()
	data, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := l.b.Put(ctx, key(next.Number), data); err != nil {
		return err // it may have arrived: then others see us alive for longer than we know
	}
	l.claim, l.good = next, began
	return nil
}

// overtaken is a *LostError when a claim above ours is of another possession. A claim that is gone was cleared away by one above it.
func (l *Lease) overtaken(ctx context.Context) error {
	for f, err := range l.b.List(ctx, dir, key(l.claim.Number)) {
		if err != nil {
			return err
		}
		number, ok := numberOf(f.Key)
		if !ok || l.kin[number] {
			continue
		}
		c, err := get(ctx, l.b, f.Key)
		if store.CodeOf(err) == store.NotFound {
			continue // cleared away by one above it, which is still to come
		}
		if err != nil {
			return err
		}
		if c.Fence != l.claim.Fence {
			return &LostError{Dataset: l.name, By: &c}
		}
		l.kin[number] = true
	}
	return nil
}

// releaseTime bounds how long the end of a run waits for the store.
const releaseTime = 15 * time.Second

// Release gives the lease back. Behind an error, or a crash, others wait for the claim's time. It may be called more than once.
func (l *Lease) Release(ctx context.Context) error {
	lost := l.Lost()
	l.stop(nil)
	<-l.ended
	l.mu.Lock()
	defer l.mu.Unlock()
	if lost != nil || l.claim.Released {
		return nil // nothing of ours is in anybody's way
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	l.claim.Released = true
	l.claim.Beat++
	data, err := json.Marshal(l.claim)
	if err != nil {
		return err
	}
	for try := range tries {
		if try > 0 && sleep(ctx, pause<<try) != nil {
			break
		}
		if err = l.b.Put(ctx, key(l.claim.Number), data); err == nil {
			return nil
		}
	}
	l.claim.Released = false
	return l.fail(err)
}

// Break takes the dataset from whoever holds it, and frees it at once. Holders find out at their next renewal or commit, as if they had
// been silent for too long.
func Break(ctx context.Context, b store.Bucket, name string, o Options) (broken []Claim, err error) {
	l := &Lease{b: b, name: name, o: o, log: slog.New(slog.DiscardHandler)}
	for {
		chain, err := read(ctx, b)
		if err != nil {
			return nil, l.fail(err)
		}
		if broken = inTheWay(chain, o.Owner); len(broken) == 0 {
			return nil, nil
		}
		c := Claim{Number: chain[len(chain)-1].Number + 1, Owner: o.Owner, Process: o.Process, Job: o.Job, Run: o.Run,
			Since: time.Now().UTC().Truncate(time.Second), Nonce: rand.Text(), Released: true}
		c.Fence = c.Number
		ours, err := put(ctx, b, c)
		if err != nil {
			return nil, l.fail(err)
		}
		if ours {
			l.claim = c
			l.clear(ctx, chain)
			return broken, nil
		}
	}
}

// Holders are the claims on a dataset that were not released, newest last. Whether a holder is alive only time can tell: Renewed says when it was
// last heard of.
func Holders(ctx context.Context, b store.Bucket) ([]Claim, error) {
	chain, err := read(ctx, b)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(possession(chain)), func(c Claim) bool { return c.Released }), nil
}

// read returns all claims, ascending. One that is deleted meanwhile was settled by one above it.
func read(ctx context.Context, b store.Bucket) (chain []Claim, err error) {
	for f, err := range b.List(ctx, dir, "") {
		if err != nil {
			return nil, err
		}
		if _, ok := numberOf(f.Key); !ok {
			continue
		}
		c, err := get(ctx, b, f.Key)
		if store.CodeOf(err) == store.NotFound {
			continue
		}
		if err != nil {
			return nil, err
		}
		c.Renewed = f.Modified
		chain = append(chain, c)
	}
	return chain, nil
}

func numberOf(k string) (int64, bool) {
	digits, ok := strings.CutSuffix(strings.TrimPrefix(k, dir), ".json")
	n, err := strconv.ParseInt(digits, 10, 64)
	return n, ok && err == nil && key(n) == k
}

// maxClaim bounds what is read of an object that is to be a claim.
const maxClaim = 64 << 10

// get reads a claim. One that cannot be read as such was written by nobody of ours: it counts as a stranger's that never says anything, so
// that it is in the way for a while and not for ever.
func get(ctx context.Context, b store.Bucket, k string) (Claim, error) {
	number, _ := numberOf(k)
	body, _, err := b.Open(ctx, k)
	if err != nil {
		return Claim{}, err
	}
	defer func() { _ = body.Close() }()
	data, err := io.ReadAll(io.LimitReader(body, maxClaim))
	if err != nil {
		return Claim{}, err
	}
	var c Claim
	if json.Unmarshal(data, &c) != nil || c.Owner == "" || c.Number != number {
		return Claim{Number: number, Fence: number, Owner: "unknown", Process: "unknown", Seconds: DefaultTTL.Seconds(), Nonce: string(data)}, nil
	}
	c.Seconds = min(max(c.Seconds, 0), time.Hour.Seconds()) // nobody may lock others out for days by a slip
	return c, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
