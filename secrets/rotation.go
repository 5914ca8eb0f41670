package secrets

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/tablexport/tablexport/secrets/audit"
)

// ErrInUse means that a token may still be in use, so that it is not retired.
var ErrInUse = errors.New("secrets: the token is in use")

// Rotation replaces the active version of a token by another one, step by step: stage, verify, activate, retire. Each step is
// one check-and-set in the vault, and the vault holds all that is known of how far it came: whoever is killed, or does not know how a step
// ended, begins again, and two who rotate at once do the same or get ErrConflict.
type Rotation struct {
	Name    string
	Binding Binding
	// Token is the new token. The zero Token takes the newest version that is staged or verified and not older than the active one.
	Token Token
	// Attributes are what is known of the new token; those that are not known stay as they are.
	Attributes Attributes
	// Verify proves a staged version beside the active one (0 = none). Its proof goes into the audit log. An error leaves it staged.
	Verify func(ctx context.Context, version, active int) (proof map[string]string, err error)
	// Retire proves that the instance refuses a version that is retiring. ErrInUse, or whatever else it says, leaves it retiring; that does not
	// fail the rotation. nil = the old ones are left retiring.
	Retire func(ctx context.Context, version Version) (proof map[string]string, err error)
	// Done is called after each step that was done, and each that was left; may be nil.
	Done func(step State, version int, err error)
}

// Rotated is how a rotation ended.
type Rotated struct {
	Name     string `json:"name"`
	Active   int    `json:"active"`
	Previous int    `json:"previous"` // what was active before, 0 = none, or nothing was to be done
	Retired  []int  `json:"retired"`
	Retiring []int  `json:"retiring"` // not retired yet
}

// Rotate carries out r. It audits every step. Errors are those of Stage, Activate and Verify; ErrNotFound if there is nothing
// to rotate to.
func (k *Keeper) Rotate(ctx context.Context, r Rotation) (Rotated, error) {
	done := Rotated{Name: r.Name, Retired: []int{}, Retiring: []int{}}
	said := func(step State, version int, err error) {
		if r.Done != nil {
			r.Done(step, version, err)
		}
	}
	target, active, err := k.target(ctx, r)
	if err != nil {
		return done, err
	}
	said(target.State, target.Number, nil)
	if r.Attributes != (Attributes{}) {
		if err := k.Describe(ctx, r.Name, target.Number, r.Attributes); err != nil {
			return done, err
		}
	}
	if target.State == Staged {
		proof, err := r.Verify(ctx, target.Number, active)
		if err != nil {
			return done, k.refuse(ctx, LeaseRequest{Name: r.Name, Instance: r.Binding.Instance, Host: r.Binding.Host, Purpose: "rotate"}, actVerify, target.Fingerprint, err)
		}
		if err := k.Verified(ctx, r.Name, target.Number, proof); err != nil {
			return done, err
		}
		said(Verified, target.Number, nil)
	}
	if target.Number != active {
		if err := k.Activate(ctx, r.Name, target.Number, active); err != nil {
			return done, err
		}
		said(Active, target.Number, nil)
		done.Previous = active
	}
	done.Active = target.Number
	return done, k.retire(ctx, r, &done, said)
}

// Retire carries out the last step of a rotation alone: what is retiring is retired, where r.Retire proves it.
func (k *Keeper) Retire(ctx context.Context, r Rotation) (Rotated, error) {
	done := Rotated{Name: r.Name, Retired: []int{}, Retiring: []int{}}
	return done, k.retire(ctx, r, &done, func(step State, version int, err error) {
		if r.Done != nil {
			r.Done(step, version, err)
		}
	})
}

// target stages the new token, or finds the version to rotate to; active is what is active beside it.
func (k *Keeper) target(ctx context.Context, r Rotation) (target Version, active int, err error) {
	if !r.Token.IsZero() {
		if target, err = k.Stage(ctx, r.Name, r.Token, r.Binding); err != nil {
			return target, 0, err
		}
	}
	named, err := k.Versions(ctx, r.Name)
	if err != nil {
		return target, 0, err
	}
	if target.Number > 0 {
		return target, named.Active, nil
	}
	for _, v := range named.Versions { // newest first
		if v.State == Staged || v.State == Verified || v.State == Active {
			return v, named.Active, nil
		}
	}
	return target, 0, fmt.Errorf("%w: %s has no version to rotate to; stage a new token", ErrNotFound, r.Name)
}

// retire retires every version that is retiring and can be.
func (k *Keeper) retire(ctx context.Context, r Rotation, done *Rotated, said func(State, int, error)) error {
	named, err := k.Versions(ctx, r.Name)
	if err != nil {
		return err
	}
	for _, v := range named.Versions {
		if v.State != Retiring {
			continue
		}
		proof := Duplicate(named, v)
		var err error
		switch {
		case proof != nil:
		case r.Retire != nil:
			proof, err = r.Retire(ctx, v)
		default:
			err = fmt.Errorf("%w: it is left as it is", ErrInUse)
		}
		if err == nil {
			err = k.Retired(ctx, r.Name, v.Number, proof)
		}
		if err != nil {
			done.Retiring = append(done.Retiring, v.Number)
		} else {
			done.Retired = append(done.Retired, v.Number)
		}
		said(Retired, v.Number, err)
	}
	return nil
}

// Duplicate is the proof for retiring a version that holds the very token of the active one: two who staged it at once made it two versions. The instance cannot refuse
// one of them. nil for every other version.
func Duplicate(named Named, v Version) map[string]string {
	active, ok := named.Version(named.Active)
	if !ok || active.Number == v.Number || active.Fingerprint != v.Fingerprint {
		return nil
	}
	return map[string]string{"same_token_as": strconv.Itoa(active.Number)}
}

// Use is what the audit log knows of the use of one token.
type Use struct {
	Last  time.Time `json:"last,omitzero"`  // when it was lent, renewed or given back last
	Open  []Loan    `json:"open"`           // loans that have not ended
	Tried time.Time `json:"tried,omitzero"` // when it was proven last, which is no use
}

// Loan is a loan that the audit log has no end of.
type Loan struct {
	Seq   int64     `json:"seq"` // of its entry
	Since time.Time `json:"since"`
	Actor string    `json:"actor"`
	Job   string    `json:"job,omitempty"`
	Run   string    `json:"run,omitempty"`
}

// Uses reads from the audit log in dir who has borrowed tokens since a time, by fingerprint. Proving a version is no use of it.
// The log is that of one state directory: other machines have their own.
func Uses(dir string, since time.Time) (map[string]Use, error) {
	type open struct {
		fingerprint string
		loan        Loan
	}
	loans := map[int64]open{}
	uses := map[string]Use{}
	used := func(e audit.Entry) {
		u := uses[e.Fingerprint]
		u.Last = e.Time
		uses[e.Fingerprint] = u
	}
	report, err := audit.Range(dir, since, time.Time{}, func(e audit.Entry) error {
		if e.Outcome != audit.OK || e.Fingerprint == "" {
			return nil
		}
		switch e.Action {
		case actTrial:
			u := uses[e.Fingerprint]
			u.Tried = e.Time
			uses[e.Fingerprint] = u
		case actLease:
			used(e)
			loans[e.Seq] = open{e.Fingerprint, Loan{Seq: e.Seq, Since: e.Time, Actor: e.Actor, Job: e.Job, Run: e.Run}}
		case actRenew:
			used(e)
			seq := number(e.Detail["lease"])
			if l, ok := loans[seq]; ok {
				loans[seq] = open{e.Fingerprint, l.loan}
			}
		case actRelease:
			seq := number(e.Detail["lease"])
			if _, lent := loans[seq]; lent { // not of a trial
				used(e)
			}
			delete(loans, seq)
		}
		return nil
	})
	if err == nil && len(report.Problems) > 0 {
		err = fmt.Errorf("%w: %s", audit.ErrDamaged, report.Problems[0])
	}
	if err != nil {
		return nil, fmt.Errorf("secrets: the use of tokens cannot be read from the audit log: %w", err)
	}
	for _, l := range loans {
		u := uses[l.fingerprint]
		u.Open = append(u.Open, l.loan)
		uses[l.fingerprint] = u
	}
	return uses, nil
}

func number(text string) (n int64) {
	_, _ = fmt.Sscan(text, &n) // 0 if it is none: no entry has that number
	return n
}
