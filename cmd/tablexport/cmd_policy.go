package main

import (
	"context"
	"errors"
	"fmt"
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
its expiry and its scopes as far as they are known (tablexport tokens describe), the scopes that are asked for. It reads no token. A token that breaks hosts, max_age_days,
scopes or require_expiry is not lent (exit code 4), nor activated, unless policy.mode is warn; the environment and the binding hold always. What the instance knows of
a token is in: tablexport tokens report`,
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
	say("binding", v.Binding.Instance == name, "version %d is bound to %s at %s", v.Number, v.Binding.Instance, v.Binding.Host)
	use, err := a.tokenUse(i)
	if err != nil {
		return nil, err
	}
	for _, rule := range a.policy().Judge(v, use, time.Now()) { // what loans are held to
		say(rule.Rule, rule.Kept, "version %d: %s", v.Number, strings.ReplaceAll(rule.Why, "describe NAME", "describe "+i.Token))
	}
	if life := time.Duration(p.MaxLifeDays) * 24 * time.Hour; !v.Expires.IsZero() {
		say("max_life_days", v.Expires.Sub(v.Created) <= life, "version %d is good for %d day(s) since it was staged; allowed: %d", v.Number, int(v.Expires.Sub(v.Created).Hours()/24), p.MaxLifeDays)
	}
	for _, old := range named.Versions {
		if old.State == secrets.Retiring {
			say("retired", time.Since(old.Retiring) < 7*24*time.Hour, "version %d is retiring since %s; end it with: tablexport tokens retire %s %d", old.Number, stamp(old.Retiring), i.Token, old.Number)
		}
	}
	return all, nil
}
