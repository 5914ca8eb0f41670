package secrets

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// ErrPolicy means that the policy does not let a token be used; a *PolicyError says which of its rules.
var ErrPolicy = errors.New("secrets: the policy does not allow it")

// ClockSkew is how far two clocks may be apart before what one of them says is believed against a token.
const ClockSkew = 10 * time.Minute

// Policy is what a token must be like to be lent, beside its binding, which holds always. The zero value demands nothing.
type Policy struct {
	Allows        func(host string) bool // hosts that tokens may be sent to; nil = every one
	MaxAge        time.Duration          // since it was staged; 0 = any
	Scopes        []string               // that it may carry, as far as they are known; nil = any
	RequireExpiry bool                   // its expiry must be known, and not be over
	WarnOnly      bool                   // what breaks a rule is lent, and the loan's audit entry says so
}

// Verdict is one rule held to one version.
type Verdict struct {
	Rule string `json:"rule"` // key of the configuration's policy
	Kept bool   `json:"kept"`
	Why  string `json:"why"`
}

// PolicyError says which rules a token breaks. errors.Is(err, ErrPolicy) holds.
type PolicyError struct {
	Name    string
	Version int
	Broken  []Verdict
}

// Error says what to change.
func (e *PolicyError) Error() string {
	return fmt.Sprintf("secrets: the policy does not let version %d of %s be used: %s", e.Version, e.Name, rulesText(e.Broken))
}

// Is makes a PolicyError an ErrPolicy.
func (e *PolicyError) Is(target error) bool { return target == ErrPolicy }

func rulesText(all []Verdict) string {
	var texts []string
	for _, v := range all {
		texts = append(texts, v.Rule+": "+v.Why)
	}
	return strings.Join(texts, "; ")
}

// Judge holds a version, which is to be used as use, to every rule that the policy has. now is this machine's time: clocks may be ClockSkew apart.
func (p Policy) Judge(v Version, use Kind, now time.Time) (all []Verdict) {
	say := func(rule string, kept bool, why string, args ...any) {
		all = append(all, Verdict{Rule: rule, Kept: kept, Why: fmt.Sprintf(why, args...)})
	}
	if p.Allows != nil {
		say("hosts", p.Allows(v.Binding.Host), "it is bound to %s", v.Binding.Host)
	}
	if p.MaxAge > 0 {
		age := now.Sub(v.Created)
		say("max_age_days", age <= p.MaxAge+ClockSkew, "it was staged %d day(s) ago; allowed: %d", int(age.Hours()/24), int(p.MaxAge.Hours()/24))
	}
	if p.Scopes != nil {
		carried := strings.Fields(v.Scopes)
		if use.Client != nil { // whatever the secret may have, this is what its access tokens are asked with
			if carried = use.Client.Scopes; len(carried) == 0 {
				carried = []string{"read"}
			}
		}
		extra := slices.DeleteFunc(slices.Clone(carried), func(s string) bool { return slices.Contains(p.Scopes, s) })
		switch {
		case len(carried) == 0:
			say("scopes", true, "which it carries is not known; allowed: %s", strings.Join(p.Scopes, " "))
		default:
			say("scopes", len(extra) == 0, "it carries %s; allowed: %s", strings.Join(carried, " "), strings.Join(p.Scopes, " "))
		}
	}
	if p.RequireExpiry {
		switch {
		case v.Expires.IsZero():
			say("require_expiry", false, "its expiry is not known; say it with: tablexport tokens describe NAME %d --expires DATE", v.Number)
		default:
			say("require_expiry", now.Before(v.Expires.Add(ClockSkew)), "it expires at %s", v.Expires.Format(time.RFC3339))
		}
	}
	return all
}

// broken gives the rules that are not kept.
func broken(all []Verdict) []Verdict {
	return slices.DeleteFunc(all, func(v Verdict) bool { return v.Kept })
}

// Under makes the keeper hold what it lends and activates to a policy.
func (k *Keeper) Under(p Policy) *Keeper {
	k.policy = p
	return k
}

// allowed holds v to the policy. warnings is what breaks it where that is not refused.
func (k *Keeper) allowed(name string, v Version, use Kind) (warnings string, err error) {
	bad := broken(k.policy.Judge(v, use, time.Now()))
	switch {
	case len(bad) == 0:
		return "", nil
	case k.policy.WarnOnly:
		return rulesText(bad), nil
	}
	return "", &PolicyError{Name: name, Version: v.Number, Broken: bad}
}
