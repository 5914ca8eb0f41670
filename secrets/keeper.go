package secrets

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/tablexport/tablexport/secrets/audit"
)

// The facts about loans that callers can tell apart.
var (
	// ErrBinding means that a token may not be used for what was asked; a *BindingError says which part.
	ErrBinding = errors.New("secrets: the token is bound to another place")
	// ErrNoNewer means that the active version is the token that was just refused.
	ErrNoNewer = errors.New("secrets: the vault has no newer token")
	// ErrClosed means that the lease has ended.
	ErrClosed = errors.New("secrets: the lease is closed")
	// ErrAudit means that the audit log could not be written: what it should have recorded was not done, unless the
	// error says otherwise.
	ErrAudit = errors.New("secrets: the audit log could not be written")
)

// BindingError says which part of a token's binding does not match. errors.Is(err, ErrBinding) holds.
type BindingError struct {
	Name    string // the token's
	Version int    // 0 = not one version in particular
	Part    string // "instance", "host" or "environment"
	Bound   string // what the token is bound to
	Asked   string // what it was asked for
}

// Error says what to change.
func (e *BindingError) Error() string {
	version := ""
	if e.Version > 0 {
		version = fmt.Sprintf(" version %d", e.Version)
	}
	return fmt.Sprintf("secrets: token %s%s is bound to %s %q and was asked for with %q; name the token that belongs there, or stage one",
		e.Name, version, e.Part, e.Bound, e.Asked)
}

// Is makes a BindingError an ErrBinding.
func (e *BindingError) Is(target error) bool { return target == ErrBinding }

// Keeper is the only way from a vault to a request. It is safe for concurrent use.
type Keeper struct {
	vault       Vault
	log         *audit.Log
	environment string
	actor       string

	place  string // "" = nobody else is told of loans
	policy Policy

	mu      sync.Mutex
	key     []byte               // the vault's key for fingerprints, once read
	next    map[string]time.Time // when the vault is told of a use again at the earliest, by name and fingerprint
	unnoted bool                 // it could not be told the last time
}

// NewKeeper joins a vault, an audit log and the environment of this process. Tokens of another environment are refused.
// actor is who acts, for the audit log: a person or a service.
func NewKeeper(v Vault, log *audit.Log, environment, actor string) *Keeper {
	return &Keeper{vault: v, log: log, environment: environment, actor: actor}
}

// LeaseRequest says who wants which token for what.
type LeaseRequest struct {
	Name     string // the token's name
	Instance string // must match the token's binding
	Host     string // must match the token's binding
	Purpose  string // "run", "check", "stage", …
	Job      string // "" outside of a job
	RunID    string // "" outside of a run
	Use      Kind   // how the token is used; the zero value is a service access token
}

// Kind is how a token of the vault becomes a header of a request. The zero value is a service access token: "Authorization: Bearer …".
type Kind struct {
	// Header is the header that carries the token as it is, such as X-Api-Key, in place of Authorization.
	Header string
	// Client exchanges the token, which is a client secret then, for access tokens; nil = it is sent itself.
	Client *ClientCredentials
}

// The actions that the keeper records.
const (
	actLease    = "lease"
	actRefuse   = "refuse"
	actRenew    = "renew"
	actRelease  = "release"
	actTrial    = "trial"
	actStage    = "stage"
	actActivate = "activate"
	actVerify   = "verify"
	actReject   = "reject"
	actRetire   = "retire"
	actExchange = "exchange"
	actDescribe = "describe"
	actUse      = "use"
)

// entry is the audit entry of an act for req.
func (k *Keeper) entry(req LeaseRequest, action, outcome, fingerprint string, detail map[string]string) audit.Entry {
	all := map[string]string{"environment": k.environment}
	for name, value := range map[string]string{"instance": req.Instance, "host": req.Host, "purpose": req.Purpose} {
		if value != "" {
			all[name] = value
		}
	}
	maps.Copy(all, detail)
	return audit.Entry{
		Actor: k.actor, Action: action, Subject: req.Name, Fingerprint: fingerprint,
		Job: req.Job, Run: req.RunID, Outcome: outcome, Detail: all,
	}
}

func (k *Keeper) record(ctx context.Context, e audit.Entry) (audit.Entry, error) {
	if k.log == nil {
		return audit.Entry{}, fmt.Errorf("%w: there is none", ErrAudit)
	}
	e, err := k.log.Append(ctx, e)
	if err != nil {
		return audit.Entry{}, fmt.Errorf("%w: %w", ErrAudit, err)
	}
	return e, nil
}

// refuse records that act did not happen because of cause, and returns cause. It is recorded even when ctx has ended.
// A refusal stands whether or not it can be recorded.
func (k *Keeper) refuse(ctx context.Context, req LeaseRequest, act, fingerprint string, cause error) error {
	action, outcome := actRefuse, audit.Refused
	if errors.Is(cause, ErrUnavailable) || errors.Is(cause, ErrUnknown) || errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded) {
		action, outcome = act, audit.Failed // nobody decided against it
	}
	_, err := k.record(context.WithoutCancel(ctx), k.entry(req, action, outcome, fingerprint, map[string]string{"act": act, "reason": cause.Error()}))
	return errors.Join(cause, err)
}

// fingerprintKey reads the vault's key once.
func (k *Keeper) fingerprintKey(ctx context.Context) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.key == nil {
		key, err := k.vault.FingerprintKey(ctx)
		if err != nil {
			return nil, err
		}
		if len(key) != FingerprintKeySize {
			return nil, fmt.Errorf("%w: the key for fingerprints has %d bytes, not %d", ErrCorrupt, len(key), FingerprintKeySize)
		}
		k.key = key
	}
	return k.key, nil
}

// bound checks what a version is bound to against what is asked.
func (k *Keeper) bound(req LeaseRequest, v Version) error {
	mismatch := func(part, bound, asked string) error {
		return &BindingError{Name: req.Name, Version: v.Number, Part: part, Bound: bound, Asked: asked}
	}
	switch {
	case v.Binding.Environment != k.environment || k.environment == "":
		return mismatch("environment", v.Binding.Environment, k.environment)
	case v.Binding.Instance != req.Instance || req.Instance == "":
		return mismatch("instance", v.Binding.Instance, req.Instance)
	case !sameHost(v.Binding.Host, req.Host, "https"):
		return mismatch("host", v.Binding.Host, req.Host)
	}
	return nil
}

// authorise decides on a loan by the description of the active version. It reads no token.
func (k *Keeper) authorise(ctx context.Context, req LeaseRequest) (Version, error) {
	if err := CheckName(req.Name); err != nil {
		return Version{}, err
	}
	named, err := k.vault.Versions(ctx, req.Name)
	if err != nil {
		return Version{}, err
	}
	if named.Active == 0 {
		return Version{}, fmt.Errorf("%w: %s", ErrNoActive, req.Name)
	}
	v, ok := named.Version(named.Active)
	if !ok {
		return Version{}, fmt.Errorf("%w: %s version %d is active", ErrNotFound, req.Name, named.Active)
	}
	if v.State == Deleted {
		return Version{}, fmt.Errorf("%w: %s version %d is active", ErrDeleted, req.Name, v.Number)
	}
	if err := k.bound(req, v); err != nil {
		return v, err
	}
	_, err = k.allowed(req.Name, v, req.Use)
	return v, err
}

// lent is what the audit entry of a loan says beside its request.
func (k *Keeper) lent(req LeaseRequest, v Version) map[string]string {
	detail := map[string]string{"version": strconv.Itoa(v.Number)}
	if warnings, err := k.allowed(req.Name, v, req.Use); err == nil && warnings != "" {
		detail["policy"] = warnings
	}
	return detail
}

// read fetches the value of v, which was authorised and recorded, and holds the vault to the description it gave.
func (k *Keeper) read(ctx context.Context, req LeaseRequest, v Version) (Token, error) {
	key, err := k.fingerprintKey(ctx)
	if err != nil {
		return Token{}, err
	}
	token, got, err := k.vault.Read(ctx, req.Name, v.Number)
	if err != nil {
		return Token{}, err
	}
	switch err = k.bound(req, got); {
	case err != nil:
	case got.Number != v.Number:
		err = fmt.Errorf("%w: asked for version %d of %s, it gave version %d", ErrCorrupt, v.Number, req.Name, got.Number)
	case Fingerprint(key, token) != v.Fingerprint:
		err = fmt.Errorf("%w: version %d of %s is not the token that was staged (its fingerprint differs)", ErrCorrupt, v.Number, req.Name)
	default:
		return token, nil
	}
	token.wipe()
	return Token{}, err
}

// Lease authorises, audits, and reads the active version, in that order; a failing audit write blocks the loan (ErrAudit).
// A refusal is audited too. Errors: ErrBinding, ErrPolicy, ErrNotFound, ErrNoActive, ErrDeleted, ErrUnavailable, ErrPermission,
// ErrCorrupt, ErrBadName.
func (k *Keeper) Lease(ctx context.Context, req LeaseRequest) (*Lease, error) {
	v, err := k.authorise(ctx, req)
	if err != nil {
		return nil, k.refuse(ctx, req, actLease, v.Fingerprint, err)
	}
	e, err := k.record(ctx, k.entry(req, actLease, audit.OK, v.Fingerprint, k.lent(req, v)))
	if err != nil {
		return nil, err
	}
	token, err := k.read(ctx, req, v)
	if err != nil {
		return nil, k.refuse(ctx, req, actLease, v.Fingerprint, err)
	}
	l := &Lease{keeper: k, request: req, entry: e.Seq, token: token, version: v, own: true}
	l.show(ctx)
	return l, nil
}

// Trial is a lease on a token that is not in the vault yet, to prove it before it is staged. It is audited like any loan,
// as an action of its own. The token stays the caller's: Close does not wipe it.
func (k *Keeper) Trial(ctx context.Context, req LeaseRequest, token Token) (*Lease, error) {
	binding, err := k.bind(req.Name, Binding{Instance: req.Instance, Host: req.Host, Environment: k.environment}, token)
	if err != nil {
		return nil, k.refuse(ctx, req, actTrial, "", err)
	}
	key, err := k.fingerprintKey(ctx)
	if err != nil {
		return nil, k.refuse(ctx, req, actTrial, "", err)
	}
	v := Version{State: Staged, Fingerprint: Fingerprint(key, token), Binding: binding}
	e, err := k.record(ctx, k.entry(req, actTrial, audit.OK, v.Fingerprint, nil))
	if err != nil {
		return nil, err
	}
	return &Lease{keeper: k, request: req, entry: e.Seq, token: token, version: v, trial: true}, nil
}

// bind checks that token can be bound to b under name and gives the binding in canonical form.
func (k *Keeper) bind(name string, b Binding, token Token) (Binding, error) {
	if err := CheckName(name); err != nil {
		return Binding{}, err
	}
	if token.IsZero() {
		return Binding{}, fmt.Errorf("%w: it is empty", ErrBadToken)
	}
	if k.environment != Production && k.environment != Sandbox || b.Environment != k.environment {
		return Binding{}, &BindingError{Name: name, Part: "environment", Bound: k.environment, Asked: b.Environment}
	}
	if b.Instance == "" {
		return Binding{}, fmt.Errorf("%w: no instance is named", ErrBinding)
	}
	host, err := CanonicalHost(b.Host)
	if err != nil {
		return Binding{}, fmt.Errorf("%w: %w", ErrBinding, err)
	}
	b.Host = host
	if k.policy.Allows != nil && !k.policy.WarnOnly && !k.policy.Allows(host) {
		return Binding{}, &PolicyError{Name: name, Broken: []Verdict{{Rule: "hosts", Why: "it would be bound to " + host}}}
	}
	return b, nil
}

// Stage audits and stores a token as a new version bound to b. b.Environment must be the keeper's, and no version of that
// name may belong to another one.
//
// A token that is there already is not stored again, so that whoever does not know how the last try ended can repeat it: Stage gives the
// version that holds it, in whatever state it is; ErrState if it was rejected or retired.
func (k *Keeper) Stage(ctx context.Context, name string, token Token, b Binding) (Version, error) {
	req := LeaseRequest{Name: name, Instance: b.Instance, Host: b.Host, Purpose: "stage"}
	b, err := k.bind(name, b, token)
	if err != nil {
		return Version{}, k.refuse(ctx, req, actStage, "", err)
	}
	named, err := k.vault.Versions(ctx, name)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Version{}, k.refuse(ctx, req, actStage, "", err)
	}
	for _, v := range named.Versions {
		if v.State != Deleted && v.Binding.Environment != b.Environment {
			return Version{}, k.refuse(ctx, req, actStage, "", &BindingError{
				Name: name, Version: v.Number, Part: "environment", Bound: v.Binding.Environment, Asked: b.Environment})
		}
	}
	key, err := k.fingerprintKey(ctx)
	if err != nil {
		return Version{}, k.refuse(ctx, req, actStage, "", err)
	}
	fingerprint := Fingerprint(key, token)
	if v, ok := holding(named, fingerprint); ok {
		if v.State == Rejected || v.State == Retired {
			err := fmt.Errorf("%w: this token is version %d of %s, which was %s; have a new one issued", ErrState, v.Number, name, v.State)
			return Version{}, k.refuse(ctx, req, actStage, fingerprint, err)
		}
		if err := k.bound(req, v); err != nil {
			return Version{}, k.refuse(ctx, req, actStage, fingerprint, err)
		}
		_, err := k.record(ctx, k.entry(req, actStage, audit.OK, fingerprint, map[string]string{"version": strconv.Itoa(v.Number), "was": string(v.State)}))
		return v, err
	}
	if _, err := k.record(ctx, k.entry(req, actStage, audit.Started, fingerprint, nil)); err != nil {
		return Version{}, err
	}
	// A crash from here on leaves "started" without an end, and perhaps a version that nothing points to.
	v, err := k.vault.Stage(ctx, name, token, fingerprint, b)
	if err != nil {
		return Version{}, k.refuse(ctx, req, actStage, fingerprint, err)
	}
	_, err = k.record(context.WithoutCancel(ctx), k.entry(req, actStage, audit.OK, fingerprint, map[string]string{"version": strconv.Itoa(v.Number)}))
	if err != nil {
		return v, fmt.Errorf("secrets: version %d of %s is stored, but this could not be recorded: %w", v.Number, name, err)
	}
	return v, nil
}

// holding gives the version that holds a token. Two who stage one at once make two; then it is the active one, or else the newest, and one that is over only
// where all are.
func holding(named Named, fingerprint string) (found Version, ok bool) {
	rank := func(v Version) int {
		switch v.State {
		case Active:
			return 2
		case Rejected, Retired:
			return 0
		}
		return 1
	}
	for _, v := range named.Versions { // newest first
		if v.Fingerprint == fingerprint && v.State != Deleted && (!ok || rank(v) > rank(found)) {
			found, ok = v, true
		}
	}
	return found, ok
}

// Activate audits and makes version the active one; expected is the version that the caller saw as active (0 = none).
// ErrConflict if another one is active by now; ErrState unless it was verified, or was active before and has not been retired.
func (k *Keeper) Activate(ctx context.Context, name string, version, expected int) error {
	req := LeaseRequest{Name: name, Purpose: "activate"}
	v, err := k.inVault(ctx, name, version)
	if err == nil && v.State != Verified && v.State != Retiring && v.State != Active {
		err = fmt.Errorf("%w: version %d of %s is %s; prove it first: tablexport tokens verify %s %d", ErrState, version, name, v.State, name, version)
	}
	req.Instance, req.Host = v.Binding.Instance, v.Binding.Host
	if err == nil {
		_, err = k.allowed(name, v, Kind{}) // it could not be lent
	}
	if err != nil {
		return k.refuse(ctx, req, actActivate, v.Fingerprint, err)
	}
	detail := map[string]string{"version": strconv.Itoa(version), "instead_of": strconv.Itoa(expected)}
	if _, err := k.record(ctx, k.entry(req, actActivate, audit.Started, v.Fingerprint, detail)); err != nil {
		return err
	}
	// A crash from here on leaves "started" without an end; the vault shows which version is active.
	if err := k.vault.Activate(ctx, name, version, expected); err != nil {
		return k.refuse(ctx, req, actActivate, v.Fingerprint, err)
	}
	if _, err := k.record(context.WithoutCancel(ctx), k.entry(req, actActivate, audit.OK, v.Fingerprint, detail)); err != nil {
		return fmt.Errorf("secrets: version %d of %s is active now, but this could not be recorded: %w", version, name, err)
	}
	return nil
}

// inVault describes a version whose value is there, and which belongs to this environment.
func (k *Keeper) inVault(ctx context.Context, name string, version int) (Version, error) {
	if err := CheckName(name); err != nil {
		return Version{}, err
	}
	named, err := k.vault.Versions(ctx, name)
	if err != nil {
		return Version{}, err
	}
	v, ok := named.Version(version)
	switch {
	case !ok:
		return Version{}, fmt.Errorf("%w: version %d of %s", ErrNotFound, version, name)
	case v.State == Deleted:
		return v, fmt.Errorf("%w: version %d of %s", ErrDeleted, version, name)
	case v.Binding.Environment != k.environment:
		return v, &BindingError{Name: name, Version: version, Part: "environment", Bound: v.Binding.Environment, Asked: k.environment}
	}
	return v, nil
}

// Verified audits and marks a staged version as proven; proof says by what. A version that is verified already stays so.
func (k *Keeper) Verified(ctx context.Context, name string, version int, proof map[string]string) error {
	return k.mark(ctx, name, version, actVerify, []State{Staged}, Verified, proof)
}

// Reject audits and marks a version that was never active as not to be used.
func (k *Keeper) Reject(ctx context.Context, name string, version int, why map[string]string) error {
	return k.mark(ctx, name, version, actReject, []State{Staged, Verified}, Rejected, why)
}

// Retired audits and marks a version that was active as refused by the instance; proof says how that was seen.
func (k *Keeper) Retired(ctx context.Context, name string, version int, proof map[string]string) error {
	return k.mark(ctx, name, version, actRetire, []State{Retiring}, Retired, proof)
}

// mark moves a version to a state from one of those where it may be. Being there already is success: whoever was killed between
// the vault and the audit log's last line repeats it.
func (k *Keeper) mark(ctx context.Context, name string, version int, act string, from []State, to State, detail map[string]string) error {
	req := LeaseRequest{Name: name, Purpose: act}
	v, err := k.inVault(ctx, name, version)
	req.Instance, req.Host = v.Binding.Instance, v.Binding.Host
	if err == nil && v.State != to && !slices.Contains(from, v.State) {
		err = fmt.Errorf("%w: version %d of %s is %s and cannot become %s", ErrState, version, name, v.State, to)
	}
	if err != nil {
		return k.refuse(ctx, req, act, v.Fingerprint, err)
	}
	all := map[string]string{"version": strconv.Itoa(version), "was": string(v.State)}
	maps.Copy(all, detail)
	if v.State != to {
		if _, err := k.record(ctx, k.entry(req, act, audit.Started, v.Fingerprint, all)); err != nil {
			return err
		}
		// A crash from here on leaves "started" without an end; the vault shows the state.
		if err := k.vault.Mark(ctx, name, version, v.State, to); err != nil {
			return k.refuse(ctx, req, act, v.Fingerprint, err)
		}
	}
	if _, err := k.record(context.WithoutCancel(ctx), k.entry(req, act, audit.OK, v.Fingerprint, all)); err != nil {
		return fmt.Errorf("secrets: version %d of %s is %s now, but this could not be recorded: %w", version, name, to, err)
	}
	return nil
}

// LeaseVersion lends a version that need not be the active one, to prove it (staged) or to see that it is refused (retiring). It
// is audited like any loan, as an action of its own, and cannot be renewed. ErrState if it was rejected.
func (k *Keeper) LeaseVersion(ctx context.Context, req LeaseRequest, version int) (*Lease, error) {
	v, err := k.inVault(ctx, req.Name, version)
	if err == nil {
		err = k.bound(req, v)
	}
	if err == nil && k.policy.Allows != nil && !k.policy.WarnOnly && !k.policy.Allows(v.Binding.Host) {
		// The other rules are about being used; whoever proves or retires a token must be able to.
		err = &PolicyError{Name: req.Name, Version: version, Broken: []Verdict{{Rule: "hosts", Why: "it is bound to " + v.Binding.Host}}}
	}
	if err == nil && v.State == Rejected {
		err = fmt.Errorf("%w: version %d of %s was rejected", ErrState, version, req.Name)
	}
	if err != nil {
		return nil, k.refuse(ctx, req, actTrial, v.Fingerprint, err)
	}
	detail := map[string]string{"version": strconv.Itoa(v.Number), "state": string(v.State)}
	e, err := k.record(ctx, k.entry(req, actTrial, audit.OK, v.Fingerprint, detail))
	if err != nil {
		return nil, err
	}
	token, err := k.read(ctx, req, v)
	if err != nil {
		return nil, k.refuse(ctx, req, actTrial, v.Fingerprint, err)
	}
	return &Lease{keeper: k, request: req, entry: e.Seq, token: token, version: v, own: true, trial: true}, nil
}

// Versions describes one token's versions. It reads no token. A token of another environment is ErrBinding.
func (k *Keeper) Versions(ctx context.Context, name string) (Named, error) {
	named, err := k.vault.Versions(ctx, name)
	if err != nil {
		return Named{}, err
	}
	for _, v := range named.Versions {
		if v.State != Deleted && v.Binding.Environment != k.environment {
			return Named{}, &BindingError{Name: name, Version: v.Number, Part: "environment", Bound: v.Binding.Environment, Asked: k.environment}
		}
	}
	return named, nil
}

// List describes every token of this environment. It reads no token. A version whose value was deleted may have lost its
// binding; it is listed with its token's other versions, and on its own in every environment.
func (k *Keeper) List(ctx context.Context) ([]Named, error) {
	all, err := k.vault.List(ctx)
	if err != nil {
		return nil, err
	}
	var mine []Named
	for _, named := range all {
		versions := make([]Version, 0, len(named.Versions))
		for _, v := range named.Versions {
			if v.Binding.Environment == k.environment || v.Binding == (Binding{}) {
				versions = append(versions, v)
			}
		}
		if len(versions) == 0 {
			continue
		}
		named.Versions = versions
		if _, ok := named.Version(named.Active); !ok {
			named.Active = 0
		}
		mine = append(mine, named)
	}
	return mine, nil
}
