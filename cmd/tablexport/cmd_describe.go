package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/secrets"
)

// knownFlags are the flags that say what is known of a token beside its value.
type knownFlags struct{ expires, scopes, owner string }

func (d *knownFlags) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&d.expires, "expires", "", "when the instance ends the token: 2027-06-30, or 2027-06-30T12:00:00Z")
	f.StringVar(&d.scopes, "scopes", "", "what it may do, as it was issued: read")
	f.StringVar(&d.owner, "owner", "", "who answers for the token, of all its versions")
}

// attributes reads the flags.
func (d *knownFlags) attributes() (a secrets.Attributes, err error) {
	a.Scopes, a.Owner = d.scopes, d.owner
	if d.expires != "" {
		if a.Expires, err = time.Parse(time.DateOnly, d.expires); err != nil {
			if a.Expires, err = time.Parse(time.RFC3339, d.expires); err != nil {
				return a, usagef("--expires takes a day such as 2027-06-30, or a time such as 2027-06-30T12:00:00Z")
			}
		}
	}
	if a, err = a.Normal(); err != nil {
		return a, usagef("%w", err)
	}
	return a, nil
}

func tokensDescribeCommand(g *globals) *cobra.Command {
	var d knownFlags
	c := &cobra.Command{
		Use:   "describe NAME [VERSION]",
		Short: "Say what is known of a token: its expiry, its scopes, its owner",
		Long: `Say what is known of a token beside its value (default: of the active version): when it expires, which scopes it carries, who answers for it. It is kept in the vault (in HashiCorp
Vault as custom metadata of the secret, where other tools see it), shown by tokens list and tokens show, and what policy.require_expiry, policy.scopes, rotations and the alerts go by.
What is not said stays as it is.`,
		Example: "  tablexport tokens describe bi/acme-reader --expires 2027-06-30 --scopes read --owner \"BI team\"\n  tablexport tokens describe bi/acme-reader 3 --expires 2027-06-30",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			a, err := d.attributes()
			if err != nil {
				return err
			}
			if a == (secrets.Attributes{}) {
				return usagef("nothing is said of the token; write --expires, --scopes or --owner")
			}
			return g.onVersion(args, secrets.Active, func(s *rotation) error {
				if err := s.keeper.Describe(c.Context(), s.name, s.version, a); err != nil {
					return err
				}
				return s.showVersions(c.Context(), s.version)
			})
		},
	}
	d.flags(c)
	return c
}

func tokensShowCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME [VERSION]",
		Short: "Show all that is known of a token's versions, and who uses them",
		Long: `Show all that is known of a token's versions (default: all), without their values: when each came into which state, its expiry, scopes and owner, and which places (account, machine
and state directory) have used it last, to five minutes.`,
		Example: "  tablexport tokens show bi/acme-reader\n  tablexport tokens show bi/acme-reader 3 --json",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			number := 0
			if len(args) > 1 {
				var err error
				if number, err = versionNumber(args[1]); err != nil {
					return err
				}
			}
			s, err := g.newRotation(args[0], "")
			if err != nil {
				return err
			}
			defer s.close()
			return s.showVersions(c.Context(), number)
		},
	}
}

// versionView is one version as tokens show prints it.
type versionView struct {
	tokenView
	Uses []secrets.PlaceUse `json:"uses"`
}

// showVersions prints one version, or all.
func (s *rotation) showVersions(ctx context.Context, number int) error {
	named, err := s.keeper.Versions(ctx, s.name)
	if err != nil {
		return err
	}
	uses, err := s.keeper.Uses(ctx, s.name)
	if err != nil {
		return err
	}
	shown := 0
	for _, v := range named.Versions {
		if number != 0 && v.Number != number {
			continue
		}
		shown++
		view := versionView{tokenView{s.name, v}, []secrets.PlaceUse{}}
		for _, u := range uses {
			if u.Fingerprint == v.Fingerprint {
				view.Uses = append(view.Uses, u)
			}
		}
		if err := s.emit(view, func() { s.printVersion(view) }); err != nil {
			return err
		}
	}
	if shown == 0 {
		return &hintedError{err: fmt.Errorf("%w: version %d of %s", secrets.ErrNotFound, number, s.name), hint: "look at what the vault holds with: tablexport tokens list"}
	}
	return nil
}

func (s *rotation) printVersion(view versionView) {
	v := view.Version
	s.printf("%s version %d is %s: %s for %s (%s, %s)\n", s.name, v.Number, v.State, v.Fingerprint, v.Binding.Instance, v.Binding.Host, v.Binding.Environment)
	for _, line := range []struct {
		what string
		at   time.Time
	}{{"staged", v.Created}, {"verified", v.Verified}, {"activated", v.Activated}, {"replaced", v.Retiring}, {"retired", v.Retired}, {"rejected", v.Rejected}} {
		if !line.at.IsZero() {
			s.printf("  %-10s %s\n", line.what, stamp(line.at))
		}
	}
	expires := "not known"
	if !v.Expires.IsZero() {
		expires = stamp(v.Expires)
	}
	s.printf("  %-10s %s\n  %-10s %s\n  %-10s %s\n", "expires", expires, "scopes", cmp.Or(v.Scopes, "not known"), "owner", cmp.Or(v.Owner, "not known"))
	for _, u := range view.Uses {
		s.printf("  %-10s %s by %s\n", "used", stamp(u.Last), u.Place)
	}
}
