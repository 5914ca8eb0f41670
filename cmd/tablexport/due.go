package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tablexport/tablexport/configs"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/alert"
	"github.com/tablexport/tablexport/secrets"
)

// tendEvery is how often serve looks after the tokens of rotations. What was staged by an event is looked after at once.
const tendEvery = 15 * time.Minute

// askAgain is how long serve waits before it proves a version again that was not proven, and before it asks the instance again whether it refuses an old
// token: each opens a session, which takes a license.
const askAgain = 6 * time.Hour

// need is what the rotation of a token waits for: only a person can do it.
type need struct {
	Kind     string         `json:"need"` // issue, unproven, revoke, failed
	Severity alert.Severity `json:"severity"`
	Instance string         `json:"instance"`
	Token    string         `json:"token"`
	Version  int            `json:"version,omitempty"` // that it is about
	Owner    string         `json:"owner,omitempty"`
	Title    string         `json:"title"`
	Text     string         `json:"text,omitempty"`
	Do       string         `json:"do"`
	Since    time.Time      `json:"since,omitzero"`
}

// needKinds are the kinds of needs.
var needKinds = []string{"issue", "unproven", "revoke", "failed"}

// pace remembers what was tried in vain, so that it is not tried all the time. A nil pace remembers nothing.
type pace struct {
	mu   sync.Mutex
	last map[string]vain
}

type vain struct {
	at  time.Time
	err error
}

func newPace() *pace { return &pace{last: map[string]vain{}} }

// lately gives the error of a try that is not to be repeated yet.
func (p *pace) lately(key string) error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if v, ok := p.last[key]; ok && time.Since(v.at) < askAgain {
		return v.err
	}
	return nil
}

func (p *pace) failed(key string, err error) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last[key] = vain{time.Now(), err}
}

// tend does for the token of an instance what its rotation needs no person for, by the very steps of tokens rotate: a staged version is proven and activated, an
// old one is retired when its grace is over and the instance refuses it. needs is what is left to people. done is told of each step.
//
// Every step is a check-and-set in the vault, so that two who tend at once, and one that is killed, do no harm; a conflict is left to the next time.
func (a *app) tend(ctx context.Context, instance string, p *pace, done func(step secrets.State, version int, err error)) (needs []need, err error) {
	keeper, err := a.keeper()
	if err != nil {
		return nil, err
	}
	i, err := a.instance(instance)
	if err != nil {
		return nil, err
	}
	r := a.cfg.Rotations[instance]
	s := &rotation{app: a, keeper: keeper, instance: i, name: i.Token, grace: time.Duration(r.Grace)}
	named, err := keeper.Versions(ctx, s.name)
	if err != nil && !errors.Is(err, secrets.ErrNotFound) {
		return nil, err
	}
	t := &tending{rotation: s, rules: r, pace: p, named: named}
	walk := secrets.Rotation{Name: s.name, Binding: secrets.Binding{Instance: i.Name, Host: i.Client.Host(), Environment: a.cfg.Environment},
		Verify: t.verify, Retire: t.retire, Done: func(step secrets.State, version int, err error) {
			t.left(step, version, err)
			done(step, version, err)
		}}
	next, staged := candidate(named)
	unproven := p.lately(t.key("verify", next.Number))
	if staged && unproven == nil {
		_, unproven = keeper.Rotate(ctx, walk)
		switch {
		case errors.Is(unproven, secrets.ErrConflict), errors.Is(unproven, secrets.ErrState): // somebody else is at it
			unproven = nil
		case unproven != nil && passing(unproven):
			return nil, unproven
		case unproven != nil:
			p.failed(t.key("verify", next.Number), unproven)
		}
	}
	if !staged || unproven != nil {
		if _, err := keeper.Retire(ctx, walk); err != nil && !errors.Is(err, secrets.ErrNotFound) {
			return nil, err
		}
	}
	if staged && unproven != nil {
		t.unproven(next, unproven)
	}
	if named, err = keeper.Versions(ctx, s.name); err != nil && !errors.Is(err, secrets.ErrNotFound) {
		return nil, err
	}
	t.named = named
	t.old(time.Now(), staged && unproven == nil)
	for n := range t.needs {
		t.needs[n].Instance, t.needs[n].Token = instance, s.name
	}
	return t.needs, nil
}

// candidate is the version that a rotation would go to: the newest that is staged or verified, and not older than the active one.
func candidate(named secrets.Named) (secrets.Version, bool) {
	for _, v := range named.Versions { // newest first
		switch v.State {
		case secrets.Staged, secrets.Verified:
			return v, true
		case secrets.Active:
			return secrets.Version{}, false
		}
	}
	return secrets.Version{}, false
}

// passing says whether an error may be over the next time, without anybody's doing.
func passing(err error) bool {
	switch jobs.Classify(err) {
	case jobs.Transient, jobs.Later, jobs.Canceled, jobs.Conflict:
		var unproven *unprovenError
		return !errors.As(err, &unproven)
	}
	return false
}

// ofToken says whether an error of proving or activating a version is the token's: another one must be issued.
func ofToken(err error) bool {
	var unproven *unprovenError
	return errors.As(err, &unproven) || errors.Is(err, secrets.ErrPolicy) || errors.Is(err, secrets.ErrBinding) || errors.Is(err, secrets.ErrNoNewer) || errors.Is(err, secrets.ErrClient) ||
		errors.Is(err, secrets.ErrScopes) || errors.Is(err, secrets.ErrDeleted) || errors.Is(err, secrets.ErrCorrupt) || errors.Is(err, secrets.ErrBadToken)
}

// tending is one token while it is tended.
type tending struct {
	*rotation
	rules configs.Rotation
	pace  *pace
	named secrets.Named
	needs []need
}

func (t *tending) key(act string, version int) string {
	return fmt.Sprintf("%s %s %d", act, t.name, version)
}

func (t *tending) verify(ctx context.Context, version, active int) (map[string]string, error) {
	proof, _, err := t.rotation.verify(ctx, version, active)
	return proof, err
}

// retire proves that an old version is refused, once its grace is over; how often the instance is asked is bounded.
func (t *tending) retire(ctx context.Context, v secrets.Version) (map[string]string, error) {
	if free := v.Retiring.Add(t.grace); time.Now().Before(free) {
		return nil, fmt.Errorf("%w: version %d of %s was replaced at %s, and the grace period is %s", secrets.ErrInUse, v.Number, t.name, stamp(v.Retiring), t.grace)
	}
	if err := t.unused(ctx, v); err != nil {
		return nil, err
	}
	err := t.pace.lately(t.key("retire", v.Number))
	if err == nil {
		var proof map[string]string
		if proof, err = t.revoked(ctx, v); err == nil {
			return proof, nil
		}
	}
	if errors.Is(err, secrets.ErrInUse) {
		t.pace.failed(t.key("retire", v.Number), err)
	}
	if errors.Is(err, errNotRevoked) {
		t.needs = append(t.needs, need{Kind: "revoke", Severity: alert.Warning, Version: v.Number, Owner: v.Owner, Since: v.Retiring.Add(t.grace),
			Title: fmt.Sprintf("the old token %s (version %d, %s) was replaced and nobody has revoked it", t.name, v.Number, v.Fingerprint),
			Do:    "Revoke it in the Instance Manager (Security → Trusted Apps → Access Tokens); then: tablexport tokens retire " + t.name})
	}
	return nil, err
}

// unproven is the need of a version that is not taken.
func (t *tending) unproven(v secrets.Version, err error) {
	n := need{Kind: "unproven", Severity: alert.Critical, Version: v.Number, Owner: v.Owner, Text: err.Error(),
		Title: fmt.Sprintf("the new token %s (version %d) is not taken: it was not proven", t.name, v.Number),
		Do:    fmt.Sprintf("If it was issued wrongly: tablexport tokens reject %s %d; and have another one issued. Prove it again with: tablexport tokens verify %s %d", t.name, v.Number, t.name, v.Number)}
	if !ofToken(err) {
		n.Kind, n.Title, n.Do = "failed", fmt.Sprintf("the rotation of the token %s to version %d cannot go on", t.name, v.Number), hintFor(err)
	}
	t.needs = append(t.needs, n)
}

// left looks at an old version that is left retiring for another reason than that it is in use.
func (t *tending) left(step secrets.State, version int, err error) {
	if err == nil || step != secrets.Retired || passing(err) || errors.Is(err, secrets.ErrInUse) {
		return
	}
	t.pace.failed(t.key("retire", version), err)
	t.needs = append(t.needs, need{Kind: "failed", Severity: alert.Critical, Version: version, Text: err.Error(), Do: hintFor(err),
		Title: fmt.Sprintf("the old token %s (version %d) cannot be retired", t.name, version)})
}

// old looks whether a new token must be issued. coming says that one is there that takes its place.
func (t *tending) old(now time.Time, coming bool) {
	v, ok := t.named.Version(t.named.Active)
	issue := need{Kind: "issue", Severity: alert.Warning, Version: v.Number, Owner: v.Owner, Do: t.howToIssue()}
	if !ok || v.State == secrets.Deleted {
		issue.Severity, issue.Title = alert.Critical, "the vault holds no active token "+t.name
		t.needs = append(t.needs, issue)
		return
	}
	limit, why := v.Created.Add(time.Duration(t.rules.MaxAge)), fmt.Sprintf("is %d days old, and may become %s", int(now.Sub(v.Created).Hours()/24), days(time.Duration(t.rules.MaxAge)))
	if !v.Expires.IsZero() && v.Expires.Before(limit) {
		limit, why = v.Expires, "expires at "+v.Expires.Format(time.RFC3339)
	}
	from := limit.Add(-time.Duration(t.rules.WarnBefore))
	if coming || now.Before(from) {
		return
	}
	if !now.Before(limit) {
		issue.Severity = alert.Critical
	}
	issue.Since, issue.Title = from, fmt.Sprintf("the token %s (version %d, %s) %s: a new one must be issued", t.name, v.Number, v.Fingerprint, why)
	t.needs = append(t.needs, issue)
}

func days(d time.Duration) string {
	if d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
	return d.String()
}

// howToIssue is what an administrator of the instance does to have a new token issued.
func (t *tending) howToIssue() string {
	link, err := t.requestLink(t.instance.Name)
	switch {
	case err != nil:
		return "Have one issued in the Instance Manager, with the scope read; then: tablexport tokens rotate " + t.name + " --stage-from stdin"
	case t.cfg.Instances[t.instance.Name].Application.RedirectURI != "":
		return "An administrator of the instance approves it, from the Marketplace: " + link + " ; it is delivered and taken by itself. If not: tablexport tokens rotate " + t.name + " --stage-from stdin"
	}
	return "An administrator of the instance approves it: " + link + " ; then: tablexport tokens rotate " + t.name + " --stage-from stdin"
}

// waitingError says that rotations wait for people.
type waitingError struct{ needs []need }

func (e *waitingError) Error() string {
	return fmt.Sprintf("%d thing(s) about tokens wait for a person", len(e.needs))
}

// rotateDue is the scheduled rotation, once.
func (g *globals) rotateDue(ctx context.Context) error {
	a, err := g.open()
	if err != nil {
		return err
	}
	defer a.close()
	if len(a.cfg.Rotations) == 0 {
		return usagef("no rotation is configured in %s; write rotations: {%s: {max_age: 90d}}", a.config, strings.Join(sorted(a.cfg.Instances)[:1], ""))
	}
	var needs []need
	var failed []error
	for _, instance := range sorted(a.cfg.Rotations) {
		name := a.cfg.Instances[instance].Token
		found, err := a.tend(ctx, instance, nil, func(step secrets.State, version int, err error) {
			_ = g.emit(map[string]any{"token": name, "version": version, "step": step, "done": err == nil, "why": errText(err)}, func() {
				if err != nil {
					g.printf("%s: version %d is left retiring: %v\n", name, version, err)
					return
				}
				g.printf("%s: version %d is %s\n", name, version, step)
			})
		})
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
			continue
		}
		if len(found) == 0 {
			g.printf("%s: nothing waits for a person\n", name)
		}
		for _, n := range found {
			if err := g.emit(n, func() { g.printf("%s: %s\n  → %s\n", n.Severity, withHint(n.Title, n.Text), n.Do) }); err != nil {
				return err
			}
		}
		needs = append(needs, found...)
	}
	switch {
	case len(failed) > 0:
		return &several{errs: failed}
	case len(needs) > 0:
		return &waitingError{needs}
	}
	return nil
}

func errText(err error) any {
	if err == nil {
		return nil
	}
	return err.Error()
}

// tending looks after the tokens of rotations as long as the program goes on, and raises what waits for people as alerts.
func (d *daemon) tending(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	p := newPace()
	for {
		// Of several processes on a state directory the one that runs the clock tends.
		if _, _, err := d.scheduler.Standing(ctx); err == nil {
			d.tend(ctx, p)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-d.staged:
		}
	}
}

// hold is the app of the configuration in use, which stays open until release is called.
func (d *daemon) hold() (a *app, release func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	uses := d.uses
	uses.Add(1)
	return d.app, uses.Done
}

// wake makes the tokens be looked after at once.
func (d *daemon) wake() {
	select {
	case d.staged <- struct{}{}:
	default: // it is on its way
	}
}

func (d *daemon) tend(ctx context.Context, p *pace) {
	a, release := d.hold()
	defer release()
	for _, instance := range sorted(a.cfg.Rotations) {
		name := a.cfg.Instances[instance].Token
		needs, err := a.tend(ctx, instance, p, func(step secrets.State, version int, err error) {
			if err == nil {
				d.log.Info("rotation", "token", name, "version", version, "step", step)
			} else {
				d.log.Info("rotation: an old version is left", "token", name, "version", version, "reason", err)
			}
		})
		if err != nil {
			if ctx.Err() == nil {
				d.log.Error("the rotation of a token could not be looked after; it is tried again", "token", name, "error", err)
			}
			continue
		}
		d.watcher.needs(ctx, instance, name, needs)
	}
	d.watcher.forget(ctx, a.cfg)
}

// needs raises what waits for people, and ends what does not any more.
func (w *watcher) needs(ctx context.Context, instance, token string, all []need) {
	for _, kind := range needKinds {
		key := "rotation/" + kind + "/" + token
		at := slices.IndexFunc(all, func(n need) bool { return n.Kind == kind })
		if at < 0 {
			w.desk.Resolve(ctx, key, "It is done.")
			continue
		}
		n := all[at]
		w.desk.Raise(ctx, alert.Alert{Key: key, Kind: "rotation", Severity: n.Severity, Instance: instance, Owner: n.Owner, Title: n.Title, Text: n.Text, Do: n.Do, Since: n.Since})
	}
}

// forget ends the alerts of tokens that no rotation looks after any more.
func (w *watcher) forget(ctx context.Context, cfg *configs.Config) {
	kept := map[string]bool{}
	for instance := range cfg.Rotations {
		kept[cfg.Instances[instance].Token] = true
	}
	for _, o := range w.desk.Standing() {
		if rest, ok := strings.CutPrefix(o.Key, "rotation/"); ok {
			if _, token, _ := strings.Cut(rest, "/"); !kept[token] {
				w.desk.Resolve(ctx, o.Key, "No rotation looks after it any more.")
			}
		}
	}
}
