package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/secrets"
)

// Limits of looking for the use of a token.
const (
	defaultGrace = time.Hour      // after its last use, before a token is retired
	longestLoan  = 24 * time.Hour // a loan without an end and without a run is taken to have died with its process after this
	revokedEvery = 15 * time.Second
)

func tokensVerifyCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "verify NAME [VERSION]",
		Short: "Prove a staged token on the live instance, beside the current one",
		Long: `Prove a staged token on the live instance (default: the newest staged version): the instance takes it, it reads the table of every job that
uses the name, the rows it is given lie in the job's scope, and it sees the same rows as the current token, in the scope and in the whole table.
A token that sees more is refused as well: it is over-privileged. So it is if it reads one of a dozen tables that no job uses and that the
current one may not read, or if the instance shows its scopes (application: in the configuration) and the policy does not allow them; then scopes and expiry are kept (tokens show). Whether
an opaque token may write is not known where its scopes are not shown: the Table API is read only, so nothing can be tried. Compared are numbers of rows where the instance counts, and samples of keys;
a table that has neither is read whole, twice. Where nothing is wrong the version is verified, and can be activated.`,
		Example: "  tablexport tokens verify bi/acme-reader\n  tablexport tokens verify bi/acme-reader 3 --json",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			return g.onVersion(args, secrets.Staged, func(s *rotation) error { return s.verifyCommand(c.Context()) })
		},
	}
}

func tokensRejectCommand(g *globals) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:     "reject NAME VERSION",
		Short:   "Mark a version that was never active as not to be used",
		Example: "  tablexport tokens reject bi/acme-reader 3 --reason over-privileged",
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return g.onVersion(args, "", func(s *rotation) error {
				if err := s.keeper.Reject(c.Context(), s.name, s.version, map[string]string{"reason": reason}); err != nil {
					return err
				}
				return g.emit(map[string]any{"name": s.name, "version": s.version, "state": secrets.Rejected}, func() {
					g.printf("%s: version %d is rejected; have it revoked in the Instance Manager\n", s.name, s.version)
				})
			})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the audit log (no secret)")
	return c
}

func tokensRetireCommand(g *globals) *cobra.Command {
	var wait, grace time.Duration
	c := &cobra.Command{
		Use:   "retire NAME [VERSION]",
		Short: "Retire a replaced token, once it is out of use and the instance refuses it",
		Long: `Retire a replaced token (default: the newest that is retiring). It is refused while the audit log of this state directory shows a loan of it that
has not ended, or a use within the grace period, and while the vault knows of such a use by another machine (tokens show; to five minutes, by the accounts
whose Vault policy lets them write it down; a grace shorter than that trusts the last word). Where the instance shows our application's tokens, a use within the grace period by anybody else is
seen too. Then the instance is asked with it: only when it answers 401, and takes the
current token beside it, is the version retired. If it still takes it, an administrator must revoke it in the Instance Manager; --wait asks again
every 15 seconds for so long.`,
		Example: "  tablexport tokens retire bi/acme-reader\n  tablexport tokens retire bi/acme-reader 2 --wait 10m",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			return g.onVersion(args, secrets.Retiring, func(s *rotation) error {
				s.wait, s.grace = wait, s.graceOr(grace)
				return s.retireCommand(c.Context())
			})
		},
	}
	c.Flags().DurationVar(&wait, "wait", 0, "how long to wait for the revocation")
	c.Flags().DurationVar(&grace, "grace", 0, "how long after its last use (default 1h)")
	return c
}

func tokensRotateCommand(g *globals) *cobra.Command {
	var from, instance string
	var wait, stageWait, grace time.Duration
	var due bool
	var known knownFlags
	c := &cobra.Command{
		Use:   "rotate NAME | --due",
		Short: "Replace a token: stage, verify, activate, retire",
		Long: `Replace a token: stage the new one, verify it beside the current one, activate it, and retire the one before. Every step is one check-and-set in
the vault: a rotation that was interrupted is begun again with the same command, and goes on where it was.

--stage-from says where the new token is: stdin (typed at a prompt that shows nothing, or from a pipe); vault:PATH#FIELD, a secret of the same
KV version 2 mount that somebody else puts there; or event: the version that serve stages when the Marketplace's event comes. If it is not there yet, the link that an administrator
approves is printed, and it is waited for (--stage-wait). Without --stage-from the newest staged version is taken. An old token that is still in use, or that nobody has
revoked yet, is left retiring, and the output says so: end it with tokens retire. Runs under way finish with the old token, or take the new one when the
instance refuses the old.

--due does for every token of rotations in the configuration what can be done without a person, once, as serve does it by itself: what is staged is proven and activated, what was
replaced is retired when its grace is over and the instance refuses it. What waits for a person (a new token to be issued, an old one to be revoked, one that was not proven) is
printed with what to do, and the exit code is 4 then.`,
		Example: `  tablexport tokens rotate bi/acme-reader --stage-from stdin
  tablexport tokens rotate bi/acme-reader --stage-from vault:handover/acme#token --wait 10m
  tablexport tokens rotate bi/acme-reader --stage-from event --stage-wait 2h
  tablexport tokens rotate bi/acme-reader
  tablexport tokens rotate --due`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if due {
				if len(args) > 0 || from != "" || instance != "" || c.Flags().Changed("grace") || c.Flags().Changed("wait") || c.Flags().Changed("stage-wait") || known != (knownFlags{}) {
					return usagef("--due stands alone: the tokens and their grace periods are those of rotations in the configuration")
				}
				return g.rotateDue(c.Context())
			}
			if len(args) == 0 {
				return usagef("name the token, or write --due; see: tablexport tokens rotate --help")
			}
			attributes, err := known.attributes()
			if err != nil {
				return err
			}
			s, err := g.newRotation(args[0], instance)
			if err != nil {
				return err
			}
			defer s.close()
			s.wait, s.stageWait, s.grace = wait, stageWait, s.graceOr(grace)
			return s.rotateCommand(c.Context(), from, attributes)
		},
	}
	c.Flags().BoolVar(&due, "due", false, "do what is due for the tokens of rotations in the configuration")
	c.Flags().StringVar(&from, "stage-from", "", "where the new token is: stdin, vault:PATH#FIELD, or event")
	c.Flags().StringVar(&instance, "instance", "", "the instance that the token is for, if several use the name")
	c.Flags().DurationVar(&wait, "wait", 0, "how long to wait for the revocation of the old one")
	c.Flags().DurationVar(&stageWait, "stage-wait", 30*time.Minute, "how long to wait for the event that brings the new one")
	c.Flags().DurationVar(&grace, "grace", 0, "how long after its last use the old one is retired (default: rotations, or 1h)")
	known.flags(c)
	return c
}

// rotation is one token with all that its steps need.
type rotation struct {
	*app
	keeper      *secrets.Keeper
	instance    jobs.Instance
	name        string
	version     int
	wait, grace time.Duration
	stageWait   time.Duration
}

func (g *globals) newRotation(name, chosen string) (*rotation, error) {
	a, err := g.open()
	if err != nil {
		return nil, err
	}
	s := &rotation{app: a, name: name}
	if s.instance, err = a.tokenInstance(name, chosen); err == nil {
		s.keeper, err = a.keeper()
	}
	if err != nil {
		a.close()
		return nil, err
	}
	return s, nil
}

// onVersion does something with a version that is named, or with the newest in a state.
func (g *globals) onVersion(args []string, state secrets.State, do func(*rotation) error) error {
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
	s.version = number
	if number == 0 {
		named, err := s.keeper.Versions(context.Background(), s.name)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(named.Versions, func(v secrets.Version) bool { return v.State == state })
		if i < 0 {
			return &hintedError{err: fmt.Errorf("%w: %s has no version that is %s", secrets.ErrNotFound, s.name, state), hint: "look at what the vault holds with: tablexport tokens list"}
		}
		s.version = named.Versions[i].Number
	}
	return do(s)
}

func versionNumber(text string) (int, error) {
	number, err := strconv.Atoi(text)
	if err != nil || number < 1 {
		return 0, usagef("the version is a whole number such as 3; tablexport tokens list shows them")
	}
	return number, nil
}

func (s *rotation) graceOr(flag time.Duration) time.Duration {
	if flag > 0 {
		return flag
	}
	if r, ok := s.cfg.Rotations[s.instance.Name]; ok {
		return time.Duration(r.Grace)
	}
	return defaultGrace
}

func (s *rotation) request(purpose string) secrets.LeaseRequest {
	use := s.instance.Use
	if use.Client != nil {
		use.Client = use.Client.Fresh()
	}
	return secrets.LeaseRequest{Name: s.name, Instance: s.instance.Name, Host: s.instance.Client.Host(), Purpose: purpose, Use: use}
}

// end gives a lease back.
func (s *rotation) end(ctx context.Context, lease *secrets.Lease) {
	if err := lease.Close(context.WithoutCancel(ctx)); err != nil {
		s.logger().Warn("the end of a loan could not be audited", "token", s.name, "error", err)
	}
}

// unprovenError says why a staged token must not be used.
type unprovenError struct {
	name    string
	version int
	reasons []string
}

func (e *unprovenError) Error() string {
	return fmt.Sprintf("version %d of %s is not proven:\n- %s", e.version, e.name, strings.Join(e.reasons, "\n- "))
}

// verify proves a version beside the active one. The proof is for the audit log.
func (s *rotation) verify(ctx context.Context, version, active int) (proof map[string]string, all []jobs.Access, err error) {
	lease, err := s.keeper.LeaseVersion(ctx, s.request("verify"), version)
	if err != nil {
		return nil, nil, err
	}
	defer s.end(ctx, lease)
	next := s.instance.Client.Open(lease)
	if err := refusedTrial(next.Ping(ctx)); err != nil {
		return nil, nil, err
	}
	proof = map[string]string{"beside": strconv.Itoa(active)}
	current, done, err := s.current(ctx, version, active)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	if current == nil {
		proof["beside"] = "none"
	}
	var reasons []string
	skipped := 0
	for _, name := range s.cfg.JobNames() {
		if s.cfg.Jobs[name].Instance != s.instance.Name {
			continue
		}
		job, err := s.job(name)
		if err != nil {
			return nil, nil, err
		}
		access, err := jobs.Compare(ctx, job, next, current)
		if err != nil {
			return nil, nil, fmt.Errorf("job %s: %w", name, err)
		}
		all = append(all, access)
		if access.Skipped != "" {
			skipped++
		}
		for _, p := range access.Problems {
			reasons = append(reasons, "job "+name+": "+p)
		}
	}
	proof["jobs"], proof["skipped"] = strconv.Itoa(len(all)-skipped), strconv.Itoa(skipped)
	beyond, err := s.privileges(ctx, version, active, next, current, proof)
	if err != nil {
		return nil, nil, err
	}
	reasons = append(reasons, beyond...)
	if len(reasons) > 0 {
		return nil, all, &unprovenError{s.name, version, reasons}
	}
	return proof, all, nil
}

// current is a session with the active token to compare with, nil if there is none, or if the instance refuses it.
func (s *rotation) current(ctx context.Context, version, active int) (*odata.Session, func(), error) {
	nothing := func() {}
	if active == 0 || active == version {
		return nil, nothing, nil
	}
	lease, err := s.keeper.LeaseVersion(ctx, s.request("verify"), active)
	if err != nil {
		return nil, nothing, err
	}
	session := s.instance.Client.Open(lease)
	err = session.Ping(ctx)
	if refusedToken(err) {
		s.end(ctx, lease)
		return nil, nothing, nil
	}
	if err != nil {
		s.end(ctx, lease)
		return nil, nothing, err
	}
	return session, func() { s.end(ctx, lease) }, nil
}

func (s *rotation) verifyCommand(ctx context.Context) error {
	named, err := s.keeper.Versions(ctx, s.name)
	if err != nil {
		return err
	}
	proof, all, err := s.verify(ctx, s.version, named.Active)
	s.printAccess(all)
	if err != nil {
		return err
	}
	if err := s.keeper.Verified(ctx, s.name, s.version, proof); err != nil {
		return err
	}
	return s.emit(map[string]any{"name": s.name, "version": s.version, "state": secrets.Verified, "beside": proof["beside"]}, func() {
		s.printf("%s: version %d is verified; make it current with: tablexport tokens activate %s %d\n", s.name, s.version, s.name, s.version)
	})
}

func (s *rotation) printAccess(all []jobs.Access) {
	for _, a := range all {
		_ = s.emit(a, func() {
			what := strings.Join(a.Compared, ", ")
			if what == "" {
				what = "nothing to compare with"
			}
			if a.Skipped != "" {
				s.printf("%-7s %-20s %s\n", "skipped", a.Job, a.Skipped)
				return
			}
			if len(a.Problems) > 0 {
				what = strings.Join(a.Problems, "; ")
			}
			s.printf("%-6s  %-20s %s: %d rows read in its scope; %s\n", mark(len(a.Problems) == 0), a.Job, a.Table, a.Sampled, what)
		})
	}
}

func mark(ok bool) string {
	if ok {
		return "ok"
	}
	return "FAILED"
}

// unused says whether nobody uses a token any more: as far as the audit log of this state directory knows, which is exact, and as the vault was told by other
// places, to five minutes. What neither shows is left to the instance: it must refuse the token.
func (s *rotation) unused(ctx context.Context, v secrets.Version) error {
	if _, err := s.audit(); err != nil {
		return err
	}
	uses, err := secrets.Uses(s.auditDir(), time.Now().Add(-max(s.grace, longestLoan)))
	if err != nil {
		return err
	}
	use := uses[v.Fingerprint]
	runs, err := s.ledger(ctx)
	if err != nil {
		return err
	}
	for _, loan := range use.Open {
		if loan.Run != "" {
			run, err := runs.Get(ctx, loan.Run)
			if err != nil && !errors.Is(err, ledger.ErrNotFound) {
				return err
			}
			if err == nil && run.State != ledger.Running {
				continue // its process died with the loan
			}
		}
		return fmt.Errorf("%w: version %d of %s is lent since %s (%s %s, audit entry %d)", secrets.ErrInUse, v.Number, s.name,
			stamp(loan.Since), loan.Job, loan.Run, loan.Seq)
	}
	if free := use.Last.Add(s.grace); !use.Last.IsZero() && time.Now().Before(free) {
		return fmt.Errorf("%w: version %d of %s was used at %s, and the grace period is %s; retire it after %s", secrets.ErrInUse, v.Number, s.name,
			stamp(use.Last), s.grace, stamp(free))
	}
	elsewhere, err := s.keeper.Elsewhere(ctx, s.name, v.Fingerprint, s.grace)
	if err != nil {
		return err
	}
	for _, u := range elsewhere {
		return fmt.Errorf("%w: version %d of %s was used at %s by %s, and the grace period is %s", secrets.ErrInUse, v.Number, s.name, stamp(u.Last), u.Place, s.grace)
	}
	return nil
}

// errNotRevoked means that nobody uses an old token any more, and that the instance would still take it.
var errNotRevoked = fmt.Errorf("%w: it has not been revoked", secrets.ErrInUse)

// revoked proves that the instance refuses a version, and takes the active one beside it: an instance that refuses everybody proves
// nothing. It waits as long as it was told to.
func (s *rotation) revoked(ctx context.Context, v secrets.Version) (map[string]string, error) {
	if err := s.unused(ctx, v); err != nil {
		return nil, err
	}
	shown, err := s.usedByOthers(ctx, v)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(s.wait)
	for asked := false; ; asked = true {
		err := s.ping(ctx, v.Number)
		switch {
		case refusedToken(err):
			named, err := s.keeper.Versions(ctx, s.name)
			if err == nil {
				err = s.ping(ctx, named.Active)
			}
			if err != nil {
				return nil, fmt.Errorf("the instance refuses version %d, but the active token could not be proven beside it, so that this proves nothing: %w", v.Number, err)
			}
			return map[string]string{"status": "401", "beside": strconv.Itoa(named.Active), "last_used": shown}, nil
		case err != nil:
			return nil, err
		}
		if !time.Now().Add(revokedEvery).Before(deadline) {
			return nil, &hintedError{err: fmt.Errorf("%w: the instance still takes version %d of %s (%s)", errNotRevoked, v.Number, s.name, v.Fingerprint),
				hint: "an administrator revokes it in the Instance Manager (Security → Trusted Apps → Access Tokens); then: tablexport tokens retire " + s.name}
		}
		if !asked && !s.json {
			fmt.Fprintf(s.err, "waiting for %s version %d (%s) to be revoked in the Instance Manager…\n", s.name, v.Number, v.Fingerprint)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(revokedEvery):
		}
	}
}

// refusedToken says whether the instance, or its identity server, refused a token that was sent to prove it.
func refusedToken(err error) bool {
	return errors.Is(err, secrets.ErrNoNewer) || errors.Is(err, secrets.ErrClient)
}

// ping asks the instance with one version.
func (s *rotation) ping(ctx context.Context, version int) error {
	lease, err := s.keeper.LeaseVersion(ctx, s.request("retire"), version)
	if err != nil {
		return err
	}
	defer s.end(ctx, lease)
	return s.instance.Client.Open(lease).Ping(ctx)
}

func (s *rotation) retireCommand(ctx context.Context) error {
	named, err := s.keeper.Versions(ctx, s.name)
	if err != nil {
		return err
	}
	v, ok := named.Version(s.version)
	if !ok {
		return fmt.Errorf("%w: version %d of %s", secrets.ErrNotFound, s.version, s.name)
	}
	if v.State != secrets.Retiring && v.State != secrets.Retired {
		return fmt.Errorf("%w: version %d of %s is %s; only what was replaced can be retired", secrets.ErrState, s.version, s.name, v.State)
	}
	proof := secrets.Duplicate(named, v)
	if v.State == secrets.Retiring && proof == nil {
		if proof, err = s.revoked(ctx, v); err != nil {
			return err
		}
	}
	if err := s.keeper.Retired(ctx, s.name, s.version, proof); err != nil {
		return err
	}
	return s.emit(map[string]any{"name": s.name, "version": s.version, "state": secrets.Retired}, func() {
		s.printf("%s: version %d is retired: the instance refuses it\n", s.name, s.version)
	})
}

func (s *rotation) rotateCommand(ctx context.Context, from string, known secrets.Attributes) error {
	token, err := s.newToken(ctx, from)
	if err != nil {
		return err
	}
	done, err := s.keeper.Rotate(ctx, secrets.Rotation{
		Name: s.name, Token: token, Attributes: known,
		Binding: secrets.Binding{Instance: s.instance.Name, Host: s.instance.Client.Host(), Environment: s.cfg.Environment},
		Verify: func(ctx context.Context, version, active int) (map[string]string, error) {
			proof, all, err := s.verify(ctx, version, active)
			s.printAccess(all)
			return proof, err
		},
		Retire: s.revoked,
		Done: func(step secrets.State, version int, err error) {
			if err == nil {
				s.printf("%s: version %d is %s\n", s.name, version, step)
				return
			}
			s.printf("%s: version %d is left retiring: %v\n", s.name, version, err)
		},
	})
	if err != nil {
		return err
	}
	return s.emit(done, func() {
		if len(done.Retiring) > 0 {
			s.printf("end it with: tablexport tokens retire %s\n", s.name)
		}
	})
}

// eventEvery is how often the vault is looked at for what an event stages.
const eventEvery = 2 * time.Second

// awaitEvent waits until the vault holds a version to rotate to, which serve stages when the Marketplace's event comes, wherever it runs.
func (s *rotation) awaitEvent(ctx context.Context) error {
	if s.cfg.Instances[s.instance.Name].Application.RedirectURI == "" {
		return usagef("instance %s receives no events in %s; write application: {uri: …, redirect_uri: …} beside its url, or --stage-from stdin", s.instance.Name, s.config)
	}
	deadline := time.Now().Add(s.stageWait)
	for asked := false; ; asked = true {
		named, err := s.keeper.Versions(ctx, s.name)
		if err != nil && !errors.Is(err, secrets.ErrNotFound) {
			return err
		}
		if _, ok := candidate(named); ok {
			return nil
		}
		link, err := s.requestLink(s.instance.Name)
		if err != nil {
			return err
		}
		if !time.Now().Add(eventEvery).Before(deadline) {
			return &hintedError{err: fmt.Errorf("%w: no event has brought a new token %s", secrets.ErrNotFound, s.name), hint: "an administrator of the instance approves it, from the Marketplace: " + link}
		}
		if !asked && !s.json {
			fmt.Fprintf(s.err, "waiting for the event that brings %s; an administrator of the instance approves it, from the Marketplace: %s\n", s.name, link)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(eventEvery):
		}
	}
}

// newToken reads the token to stage from where it is said to be; the zero Token if nothing is said.
func (s *rotation) newToken(ctx context.Context, from string) (secrets.Token, error) {
	switch {
	case from == "":
		return secrets.Token{}, nil
	case from == "stdin":
		return s.readToken(ctx, s.name)
	case from == "event":
		return secrets.Token{}, s.awaitEvent(ctx)
	}
	place, ok := strings.CutPrefix(from, "vault:")
	path, field, named := strings.Cut(place, "#")
	if !ok || !named || path == "" || field == "" {
		return secrets.Token{}, usagef("--stage-from takes stdin, event, or vault:PATH#FIELD such as vault:handover/acme#token")
	}
	return s.foreign(ctx, path, field)
}
