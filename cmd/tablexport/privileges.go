package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/secrets"
)

// privileges looks whether a version that is proven may more than it should, as far as the Table API can tell, beyond what the jobs compare: tables that no job
// uses are asked for with it and with the current token, and where the instance shows its tokens, the scopes and the expiry of the new one are read, kept as what is
// known of it, and held to the policy. proof is told what was looked at.
//
// What stays unseen: whether an opaque token may write, where the instance does not show its scopes (the Table API is read only, so that nothing can be tried),
// and what it may do on the other sites of the instance.
func (s *rotation) privileges(ctx context.Context, version, active int, next, current *odata.Session, proof map[string]string) (reasons []string, err error) {
	var used []string
	for _, name := range s.cfg.JobNames() {
		if s.cfg.Jobs[name].Instance == s.instance.Name {
			used = append(used, s.cfg.Jobs[name].Table)
		}
	}
	reach, err := jobs.Outside(ctx, used, next, current)
	if err != nil {
		return nil, err
	}
	proof["outside"] = fmt.Sprintf("%d of %d other tables", len(reach.Readable), len(reach.Asked))
	reasons = reach.Problems
	named, err := s.keeper.Versions(ctx, s.name)
	if err != nil {
		return nil, err
	}
	v, _ := named.Version(version)
	before, _ := named.Version(active)
	learned, why, err := s.learn(ctx, next, before)
	if err != nil {
		return nil, err
	}
	proof["scopes"] = "not shown: " + why
	if why == "" {
		proof["scopes"] = learned.Scopes
		if err := s.keeper.Describe(ctx, s.name, version, learned); err != nil && !errors.Is(err, secrets.ErrPermission) { // not knowing it is no reason against the token
			return nil, err
		}
		v.Attributes = v.Over(learned)
	}
	policy := s.policy()
	if policy.WarnOnly {
		return reasons, nil
	}
	for _, verdict := range policy.Judge(v, s.instance.Use, time.Now()) {
		if !verdict.Kept {
			reasons = append(reasons, "policy "+verdict.Rule+": "+strings.ReplaceAll(verdict.Why, "describe NAME", "describe "+s.name))
		}
	}
	return reasons, nil
}

// learn reads scopes and expiry of the new token from the instance, if it shows them and if it is plain which row is that of the new token: the only live reference
// token of our application that was made since the active version was staged, or the only one at all. Clocks that are apart make it less plain, not wrong. why says why
// nothing was learned.
func (s *rotation) learn(ctx context.Context, next *odata.Session, active secrets.Version) (a secrets.Attributes, why string, err error) {
	all, why, err := s.issued(ctx, next)
	if err != nil || why != "" {
		return a, why, err
	}
	all = slices.DeleteFunc(all, func(t issuedToken) bool { return t.created.Before(active.Created) })
	if len(all) != 1 {
		return a, fmt.Sprintf("%d tokens of the application may be it", len(all)), nil
	}
	a, err = secrets.Attributes{Scopes: strings.Join(scopeList(all[0].scopes), " "), Expires: all[0].expires}.Normal()
	if err != nil || a.Scopes == "" {
		return secrets.Attributes{}, "the row of the token says none", nil //nolint:nilerr // what the instance says cannot be kept: nothing is learned
	}
	return a, "", nil
}

// usedByOthers refuses (ErrInUse) if the instance shows that an old token was used within the grace period by somebody else than us, whoever that is: a machine that does not
// tell the vault, say. It is known only where the instance shows our application's tokens, and if it is plain which is the old one: the only one that was made before the
// active version was staged. shown is what was seen, for the proof.
func (s *rotation) usedByOthers(ctx context.Context, v secrets.Version) (shown string, err error) {
	named, err := s.keeper.Versions(ctx, s.name)
	if err != nil {
		return "", err
	}
	active, ok := named.Version(named.Active)
	if !ok || active.Number == v.Number {
		return "not asked: there is no active version", nil
	}
	session, done, err := s.current(ctx, v.Number, active.Number)
	if err != nil {
		return "", err
	}
	defer done()
	if session == nil {
		return "not asked: the instance refuses the active token", nil // which the proof finds out
	}
	all, why, err := s.issued(ctx, session)
	if err != nil || why != "" {
		return "not shown: " + why, err
	}
	all = slices.DeleteFunc(all, func(t issuedToken) bool { return !t.created.Before(active.Created) })
	if len(all) != 1 {
		return fmt.Sprintf("not plain: %d tokens of the application may be it", len(all)), nil
	}
	used := all[0].used
	if used.IsZero() {
		return "never used", nil
	}
	uses, err := secrets.Uses(s.auditDir(), time.Now().Add(-max(s.grace, longestLoan)))
	if err != nil {
		return "", err
	}
	mine := uses[v.Fingerprint]
	ours := max2(mine.Last, mine.Tried).Add(secrets.ClockSkew)
	if time.Since(used) < s.grace && used.After(ours) {
		return "", fmt.Errorf("%w: the instance says that version %d of %s was used at %s, and not from here; the grace period is %s", secrets.ErrInUse, v.Number, s.name, stamp(used), s.grace)
	}
	return used.UTC().Format(time.RFC3339), nil
}

// issuedToken is a token of our application as the instance describes it.
type issuedToken struct {
	created, expires, used time.Time
	scopes                 string
}

// issued reads the live reference tokens of our application, where the instance shows them to the session; why says why not.
func (s *rotation) issued(ctx context.Context, session *odata.Session) (all []issuedToken, why string, err error) {
	ours := s.cfg.Instances[s.instance.Name].Application.URI
	if ours == "" || s.instance.Use.Client != nil {
		return nil, "the instance's application is not named, or it is a client secret", nil
	}
	model, err := session.Metadata(ctx)
	if err != nil {
		return nil, "", err
	}
	tables := map[string][]map[string]any{}
	for _, t := range (&reconciliation{}).tables()[:2] {
		rows, err := readSmall(ctx, session, model, t.name, t.columns)
		switch {
		case errors.Is(err, odata.ErrForbidden), errors.Is(err, errNoTable):
			return nil, "the token may not read " + t.name, nil
		case jobs.Classify(err) == jobs.Data: // what is wrong with these rows must not keep a token from being replaced
			return nil, t.name + " cannot be read", nil
		case err != nil:
			return nil, "", err
		}
		tables[t.name] = rows
	}
	id := ""
	for _, row := range tables["Sec_Trusted_Applications"] {
		if text(row["Application_Uri"]) == ours {
			id = text(row["Trusted_Application_Id"])
		}
	}
	if id == "" {
		return nil, "the instance shows no application of this URI", nil
	}
	for _, row := range tables["Sec_Access_Tokens"] {
		t := issuedToken{scopes: text(row["Scopes"])}
		t.created, _ = row["Creation_Timestamp"].(time.Time)
		t.expires, _ = row["Expire_Timestamp"].(time.Time)
		t.used, _ = row["Last_Used_Timestamp"].(time.Time)
		if text(row["Trusted_Application_Id"]) == id && text(row["Type"]) == "reference_token" && (t.expires.IsZero() || t.expires.After(time.Now())) {
			all = append(all, t)
		}
	}
	return all, "", nil
}
