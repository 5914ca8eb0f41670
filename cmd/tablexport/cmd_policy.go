package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/secrets"
)

func policyCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "policy", Short: "Hold the tokens to the policy of the configuration",
		Example: "  tablexport policy check",
	}
	c.AddCommand(&cobra.Command{
		Use:   "check",
		Short: "Say of every instance's token whether it keeps the policy, and why",
		Long: `Say of every instance's token whether it keeps the policy of the configuration, and why: the environment and the host that the token is bound to, its age,
the scopes that are asked for. It reads no token. What only the instance knows of a token (its scopes, its expiry) is in: tablexport tokens report`,
		Example: "  tablexport policy check\n  tablexport policy check --json",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return g.policyCheck(c.Context()) },
	})
	return c
}

// verdict is one rule held to one token.
type verdict struct {
	Instance string `json:"instance"`
	Token    string `json:"token"`
	Rule     string `json:"rule"`
	Kept     bool   `json:"kept"`
	Why      string `json:"why"`
}

// policyError says that tokens do not keep the policy.
type policyError struct{ broken int }

func (e *policyError) Error() string {
	return fmt.Sprintf("%d rule(s) of the policy are not kept", e.broken)
}

func (g *globals) policyCheck(ctx context.Context) error {
	a, keeper, err := g.openKeeper()
	if err != nil {
		return err
	}
	defer a.close()
	broken := 0
	for _, name := range sorted(a.cfg.Instances) {
		all, err := a.judge(ctx, keeper, name)
		if err != nil {
			return err
		}
		for _, v := range all {
			if !v.Kept {
				broken++
			}
			if err := g.emit(v, func() { g.printf("%-7s %-16s %-14s %s\n", keeps(v.Kept), v.Instance, v.Rule, v.Why) }); err != nil {
				return err
			}
		}
	}
	if broken > 0 {
		return &policyError{broken}
	}
	return nil
}

func keeps(ok bool) string {
	if ok {
		return "ok"
	}
	return "BROKEN"
}

// judge holds one instance's token to every rule.
func (a *app) judge(ctx context.Context, keeper *secrets.Keeper, name string) (all []verdict, err error) {
	i, p := a.cfg.Instances[name], a.cfg.Policy
	say := func(rule string, ok bool, why string, args ...any) {
		all = append(all, verdict{Instance: name, Token: i.Token, Rule: rule, Kept: ok, Why: fmt.Sprintf(why, args...)})
	}
	if u, err := url.Parse(i.URL); err == nil {
		say("hosts", p.Allows(u.Host), "tokens go to %s; allowed: %s", u.Host, orAll(p.Hosts))
	}
	if c := i.Auth.ClientCredentials; c != nil {
		asked := c.Scopes
		if len(asked) == 0 {
			asked = []string{"read"}
		}
		extra := slices.DeleteFunc(slices.Clone(asked), func(s string) bool { return slices.Contains(p.Scopes, s) })
		say("scopes", len(extra) == 0, "asked for: %s; allowed: %s", strings.Join(asked, " "), strings.Join(p.Scopes, " "))
	}
	named, err := keeper.Versions(ctx, i.Token)
	var binding *secrets.BindingError
	switch {
	case errors.As(err, &binding):
		say("environment", false, "version %d is bound to %s, and this is %s: no token of one is kept beside one of the other", binding.Version, binding.Bound, a.cfg.Environment)
		return all, nil
	case errors.Is(err, secrets.ErrNotFound) || err == nil && named.Active == 0:
		say("active", false, "the vault holds no active token of this name")
		return all, nil
	case err != nil:
		return nil, err
	}
	v, _ := named.Version(named.Active)
	say("environment", v.Binding.Environment == a.cfg.Environment, "version %d is bound to %s, and this is %s", v.Number, v.Binding.Environment, a.cfg.Environment)
	say("binding", v.Binding.Instance == name && p.Allows(v.Binding.Host), "version %d is bound to %s at %s", v.Number, v.Binding.Instance, v.Binding.Host)
	days := int(time.Since(v.Created).Hours() / 24)
	if p.MaxAgeDays > 0 {
		say("max_age_days", days <= p.MaxAgeDays, "version %d was staged %d day(s) ago; allowed: %d", v.Number, days, p.MaxAgeDays)
	}
	for _, old := range named.Versions {
		if old.State == secrets.Retiring {
			say("retired", time.Since(old.Retiring) < 7*24*time.Hour, "version %d is retiring since %s; end it with: tablexport tokens retire %s %d", old.Number, stamp(old.Retiring), i.Token, old.Number)
		}
	}
	return all, nil
}

func orAll(hosts []string) string {
	if len(hosts) == 0 {
		return "every instance of the configuration"
	}
	return strings.Join(hosts, " ")
}
