package secrets

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/tablexport/tablexport/secrets/audit"
)

// UseEvery is with what error a use is seen from elsewhere: a place that goes on using a token says so twice in this time, and not more often.
const UseEvery = 5 * time.Minute

const (
	noteEvery    = UseEvery / 2
	forbiddenFor = 6 * time.Hour // after which a vault that forbids it is told of a use again
)

// UseKept is how long the vault keeps the record of a use.
const UseKept = 90 * 24 * time.Hour

// PlaceUse is the last use of one token by one place that borrows tokens: one state directory of one account on one machine. The place's own audit log
// says more, but only there.
type PlaceUse struct {
	Place       string    `json:"place"`
	Fingerprint string    `json:"fingerprint"`
	Last        time.Time `json:"last"`
}

// maxUses bounds the uses that are kept of one token; the newest stay.
const maxUses = 200

// AddUse is all with u in place of the use of the same token by the same place before it, newest first, without those of UseKept ago. For the drivers
// of vaults; all is not changed.
func AddUse(all []PlaceUse, u PlaceUse) []PlaceUse {
	kept := []PlaceUse{}
	for _, other := range all {
		if other.Place == u.Place && other.Fingerprint == u.Fingerprint {
			// Two processes of a place may write out of order; a time that is further ahead is of a clock that was wrong.
			if ahead := other.Last.Sub(u.Last); ahead > 0 && ahead <= ClockSkew {
				u = other
			}
		} else if u.Last.Sub(other.Last) < UseKept {
			kept = append(kept, other)
		}
	}
	kept = append(kept, u)
	slices.SortStableFunc(kept, func(a, b PlaceUse) int { return b.Last.Compare(a.Last) })
	return kept[:min(len(kept), maxUses)]
}

// Elsewhere gives the uses of a token by others than this keeper's Place that were within a time, to the error of UseEvery and of clocks that are ClockSkew apart: what
// retiring it must know of other machines. A within that is shorter than UseEvery is taken as it is.
func (k *Keeper) Elsewhere(ctx context.Context, name, fingerprint string, within time.Duration) (uses []PlaceUse, err error) {
	all, err := k.vault.Uses(ctx, name)
	if err != nil {
		return nil, err
	}
	if within >= UseEvery {
		within += UseEvery + ClockSkew
	}
	for _, u := range all {
		if u.Place != k.place && u.Fingerprint == fingerprint && time.Since(u.Last) < within {
			uses = append(uses, u)
		}
	}
	return uses, nil
}

// Uses gives the uses of a token that the vault knows of, of all places.
func (k *Keeper) Uses(ctx context.Context, name string) ([]PlaceUse, error) {
	return k.vault.Uses(ctx, name)
}

// Shared makes the keeper tell the vault what it lends, so that other machines see it, as place. That it could not is no reason not to lend: it
// is audited, once while it goes on, and those who retire the token elsewhere do not see the use.
func (k *Keeper) Shared(place string) *Keeper {
	k.place, k.next = place, map[string]time.Time{}
	return k
}

// noteTimeout bounds how long a vault that does not answer holds up the end of a note.
const noteTimeout = 20 * time.Second

// note tells the vault of a use, unless it was told a short time ago.
func (k *Keeper) note(ctx context.Context, req LeaseRequest, fingerprint string) {
	if k.place == "" {
		return
	}
	key := req.Name + " " + fingerprint
	k.mu.Lock()
	due := !time.Now().Before(k.next[key])
	if due {
		k.next[key] = time.Now().Add(noteEvery) // a failure too waits for the next time
	}
	k.mu.Unlock()
	if !due {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	err := k.vault.Used(ctx, req.Name, PlaceUse{Place: k.place, Fingerprint: fingerprint, Last: time.Now().UTC().Truncate(time.Second)})
	k.mu.Lock()
	told := k.unnoted
	k.unnoted = err != nil
	if errors.Is(err, ErrPermission) {
		k.next[key] = time.Now().Add(forbiddenFor) // a login that may not is not tried again and again: each refusal makes the driver log in anew
	}
	k.mu.Unlock()
	if err != nil && !told {
		// The loan stands: only others do not see it.
		_, _ = k.record(context.WithoutCancel(ctx), k.entry(req, actUse, audit.Failed, fingerprint, map[string]string{"reason": err.Error()}))
	}
}
