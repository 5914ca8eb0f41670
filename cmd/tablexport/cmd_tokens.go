package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/secrets"
)

func tokensCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "tokens",
		Short: "Stage, verify, activate, retire and list the tokens in the vault",
		Long: `Stage, verify, activate, retire and list the tokens in the vault.

A token is bound to one instance, one host and one environment. It is shown as a fingerprint only, and never leaves the
vault except as a header of a request to its own host; every loan is audited first.`,
		Example: `  tablexport tokens stage bi/acme-reader --activate
  tablexport tokens rotate bi/acme-reader --stage-from stdin
  tablexport tokens list`,
	}
	var activate bool
	var instance string
	var d knownFlags
	stage := &cobra.Command{
		Use:   "stage NAME",
		Short: "Put a new token into the vault, after proving it",
		Long: `Put a new token into the vault, as a new version beside the ones that are there.

The token is read from standard input: typed at a prompt that shows nothing, or from a pipe. It is never an argument,
which other users of the machine and the shell's history would see. It is proven with one cheap call to the instance first.`,
		Example: `  tablexport tokens stage bi/acme-reader --activate
  pass show acme/bi | tablexport tokens stage bi/acme-reader`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			attributes, err := d.attributes()
			if err != nil {
				return err
			}
			return g.stageToken(c.Context(), args[0], instance, activate, attributes)
		},
	}
	stage.Flags().BoolVar(&activate, "activate", false, "verify it, and make it the current one at once")
	stage.Flags().StringVar(&instance, "instance", "", "the instance that the token is for, if several use the name")
	d.flags(stage)
	c.AddCommand(stage, tokensDescribeCommand(g), tokensShowCommand(g), tokensVerifyCommand(g), tokensRejectCommand(g), tokensRetireCommand(g), tokensRotateCommand(g), tokensRequestCommand(g), tokensReportCommand(g), &cobra.Command{
		Use:   "activate NAME VERSION",
		Short: "Make a verified version the current one",
		Long: `Make a verified version the current one, or go back to the one before, as long as it has not been retired.
Check-and-set: if someone else activated another version meanwhile, nothing changes.`,
		Example: "  tablexport tokens list\n  tablexport tokens activate bi/acme-reader 3",
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return g.activateToken(c.Context(), args[0], args[1])
		},
	}, &cobra.Command{
		Use:     "list",
		Short:   "List tokens: name, version, state, age, expiry, scopes, owner, fingerprint, instance, environment",
		Example: "  tablexport tokens list --json",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return g.listTokens(c.Context()) },
	})
	return c
}

// tokenInstance finds the one instance that a token's name belongs to.
func (a *app) tokenInstance(name, chosen string) (jobs.Instance, error) {
	var users []string
	for _, i := range sorted(a.cfg.Instances) {
		if a.cfg.Instances[i].Token == name && (chosen == "" || chosen == i) {
			users = append(users, i)
		}
	}
	switch {
	case len(users) == 1:
		return a.instance(users[0])
	case len(users) > 1:
		return jobs.Instance{}, usagef("several instances use the token %s (%s), and a token is bound to one; choose with --instance", name, strings.Join(users, ", "))
	case chosen != "":
		return jobs.Instance{}, usagef("instance %s does not use a token named %s in %s", chosen, name, a.config)
	}
	var names []string
	for _, i := range sorted(a.cfg.Instances) {
		names = append(names, a.cfg.Instances[i].Token)
	}
	return jobs.Instance{}, usagef("no instance in %s uses a token named %s; the names are: %s", a.config, name, strings.Join(names, ", "))
}

func (g *globals) stageToken(ctx context.Context, name, chosen string, activate bool, attributes secrets.Attributes) error {
	a, err := g.open()
	if err != nil {
		return err
	}
	defer a.close()
	i, err := a.tokenInstance(name, chosen)
	if err != nil {
		return err
	}
	keeper, err := a.keeper()
	if err != nil {
		return err
	}
	token, err := g.readToken(ctx, name)
	if err != nil {
		return err
	}
	trial, err := keeper.Trial(ctx, secrets.LeaseRequest{Name: name, Instance: i.Name, Host: i.Client.Host(), Purpose: "stage", Use: i.Use}, token)
	if err != nil {
		return err
	}
	err = refusedTrial(i.Client.Open(trial).Ping(ctx))
	if err = errors.Join(err, trial.Close(context.WithoutCancel(ctx))); err != nil {
		return fmt.Errorf("the token was not staged, because it could not be proven: %w", err)
	}
	binding := secrets.Binding{Instance: i.Name, Host: i.Client.Host(), Environment: a.cfg.Environment}
	v, err := keeper.Stage(ctx, name, token, binding)
	if err != nil {
		return err
	}
	if attributes != (secrets.Attributes{}) {
		if err := keeper.Describe(ctx, name, v.Number, attributes); err != nil {
			return fmt.Errorf("version %d is staged, but what was said of it could not be kept: %w", v.Number, err)
		}
		v.Attributes = v.Over(attributes)
	}
	if activate && v.State != secrets.Active {
		if err := a.verifyAndActivate(ctx, keeper, i, v); err != nil {
			return fmt.Errorf("version %d is staged, but not active: %w", v.Number, err)
		}
		v.State = secrets.Active
	}
	return g.emit(tokenView{Name: name, Version: v}, func() {
		g.printf("%s version %d is %s: %s for %s (%s, %s)\n", name, v.Number, v.State, v.Fingerprint, i.Name, i.Client.Host(), a.cfg.Environment)
		switch {
		case v.State == secrets.Staged:
			g.printf("prove it with: tablexport tokens verify %s %d; then make it current with: tablexport tokens activate %s %d\n", name, v.Number, name, v.Number)
		case v.State == secrets.Verified:
			g.printf("make it current with: tablexport tokens activate %s %d\n", name, v.Number)
		}
	})
}

// verifyAndActivate takes a staged version the rest of the way.
func (a *app) verifyAndActivate(ctx context.Context, keeper *secrets.Keeper, i jobs.Instance, v secrets.Version) error {
	s := &rotation{app: a, keeper: keeper, instance: i, name: i.Token}
	active, err := a.activeVersion(ctx, keeper, s.name)
	if err != nil {
		return err
	}
	if v.State == secrets.Staged {
		proof, _, err := s.verify(ctx, v.Number, active)
		if err != nil {
			return err
		}
		if err := keeper.Verified(ctx, s.name, v.Number, proof); err != nil {
			return err
		}
	}
	return keeper.Activate(ctx, s.name, v.Number, active)
}

// refusedTrial says of a token on trial that was refused what can be wrong with it: there is no other one to look for in the vault.
func refusedTrial(err error) error {
	const hint = "is it complete, not expired, and issued for this instance? Look at it in the Instance Manager"
	var page *odata.AuthenticationPageError
	switch {
	case errors.Is(err, secrets.ErrNoNewer):
		return &hintedError{err: err, text: "the instance refuses this token", hint: hint}
	case errors.As(err, &page):
		return &hintedError{err: err, hint: hint}
	}
	return err
}

// readToken reads a token from the terminal without showing it, or from a pipe. It returns when ctx ends, too: a read
// cannot be interrupted, so it is left to itself then, and ends with the process.
func (g *globals) readToken(ctx context.Context, name string) (secrets.Token, error) {
	type answer struct {
		token secrets.Token
		err   error
	}
	got := make(chan answer, 1)
	f, ok := g.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		go func() {
			token, err := secrets.ReadToken(g.in)
			got <- answer{token, err}
		}()
	} else {
		before, err := term.GetState(int(f.Fd()))
		if err != nil {
			return secrets.Token{}, fmt.Errorf("the terminal cannot be asked for the token; give it from a pipe: %w", err)
		}
		defer func() { _ = term.Restore(int(f.Fd()), before) }() // what is typed is to be seen again, however this ends
		fmt.Fprintf(g.err, "Token for %s (nothing is shown): ", name)
		defer fmt.Fprintln(g.err)
		go func() {
			value, err := term.ReadPassword(int(f.Fd()))
			defer clear(value)
			if err != nil {
				got <- answer{err: err}
				return
			}
			token, err := secrets.NewToken(value)
			got <- answer{token, err}
		}()
	}
	select {
	case a := <-got:
		if a.err != nil {
			return secrets.Token{}, fmt.Errorf("the token was not staged: %w", a.err)
		}
		return a.token, nil
	case <-ctx.Done():
		return secrets.Token{}, fmt.Errorf("the token was not staged: %w", ctx.Err())
	}
}

// activeVersion is the version that is active now, 0 if none.
func (a *app) activeVersion(ctx context.Context, keeper *secrets.Keeper, name string) (int, error) {
	all, err := keeper.List(ctx)
	if err != nil {
		return 0, err
	}
	for _, n := range all {
		if n.Name == name {
			return n.Active, nil
		}
	}
	return 0, nil
}

func (g *globals) activateToken(ctx context.Context, name, version string) error {
	number, err := versionNumber(version)
	if err != nil {
		return err
	}
	a, keeper, err := g.openKeeper()
	if err != nil {
		return err
	}
	defer a.close()
	active, err := a.activeVersion(ctx, keeper, name)
	if err != nil {
		return err
	}
	err = keeper.Activate(ctx, name, number, active)
	if errors.Is(err, secrets.ErrNotFound) {
		return &hintedError{err: err, hint: "look at what the vault holds with: tablexport tokens list"}
	}
	if err != nil {
		return err
	}
	return g.emit(map[string]any{"name": name, "active": number, "was": active}, func() {
		g.printf("%s: version %d is active\n", name, number)
	})
}

// day is the day of a time, for a column.
func day(at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return at.UTC().Format(time.DateOnly)
}

// tokenView is one version as --json prints it.
type tokenView struct {
	Name string `json:"name"`
	secrets.Version
}

func (g *globals) listTokens(ctx context.Context) error {
	a, keeper, err := g.openKeeper()
	if err != nil {
		return err
	}
	defer a.close()
	all, err := keeper.List(ctx)
	if err != nil {
		return err
	}
	rows := [][]string{{"NAME", "VERSION", "STATE", "AGE", "EXPIRES", "SCOPES", "OWNER", "FINGERPRINT", "INSTANCE", "HOST", "ENVIRONMENT"}}
	for _, n := range all {
		for _, v := range n.Versions {
			if g.json {
				if err := g.emit(tokenView{n.Name, v}, nil); err != nil {
					return err
				}
			}
			rows = append(rows, []string{n.Name, fmt.Sprint(v.Number), string(v.State), age(v.Created), day(v.Expires), cmp.Or(v.Scopes, "-"), cmp.Or(v.Owner, "-"), v.Fingerprint, v.Binding.Instance, v.Binding.Host, v.Binding.Environment})
		}
	}
	if !g.json {
		if len(rows) == 1 {
			g.printf("the vault holds no token yet; put one in with: tablexport tokens stage NAME --activate\n")
			return nil
		}
		g.table(rows)
	}
	return nil
}
