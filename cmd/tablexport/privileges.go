package main

import (
	"context"
	"errors"
	"fmt"
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
	ours := s.cfg.Instances[s.instance.Name].Application.URI
	if ours == "" || s.instance.Use.Client != nil {
		return a, "the instance's application is not named, or it is a client secret", nil
	}
	model, err := next.Metadata(ctx)
	if err != nil {
		return a, "", err
	}
	r := &reconciliation{}
	tables := map[string][]map[string]any{}
	for _, t := range r.tables()[:2] {
		rows, err := readSmall(ctx, next, model, t.name, t.columns)
		if errors.Is(err, odata.ErrForbidden) || errors.Is(err, errNoTable) {
			return a, "it may not read " + t.name, nil
		}
		if jobs.Classify(err) == jobs.Data { // what is wrong with these rows must not keep a token from being replaced
			return a, t.name + " cannot be read", nil
		}
		if err != nil {
			return a, "", err
		}
		tables[t.name] = rows
	}
	id := ""
	for _, row := range tables["Sec_Trusted_Applications"] {
		if text(row["Application_Uri"]) == ours {
			id = text(row["Trusted_Application_Id"])
		}
	}
	found := 0
	for _, row := range tables["Sec_Access_Tokens"] {
		expires, bounded := row["Expire_Timestamp"].(time.Time)
		created, _ := row["Creation_Timestamp"].(time.Time)
		if id == "" || text(row["Trusted_Application_Id"]) != id || text(row["Type"]) != "reference_token" || bounded && expires.Before(time.Now()) ||
			created.Before(active.Created) {
			continue
		}
		found++
		a = secrets.Attributes{Scopes: strings.Join(scopeList(text(row["Scopes"])), " ")}
		if bounded {
			a.Expires = expires
		}
	}
	if found != 1 {
		return secrets.Attributes{}, fmt.Sprintf("%d tokens of the application may be it", found), nil
	}
	if a, err = a.Normal(); err != nil || a.Scopes == "" {
		return secrets.Attributes{}, "the row of the token says none", nil //nolint:nilerr // what the instance says cannot be kept: nothing is learned
	}
	return a, "", nil
}
