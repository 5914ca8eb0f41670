package jobs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"syscall"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/lease"
	"github.com/tablexport/tablexport/export/parquet"
	"github.com/tablexport/tablexport/export/sets"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/evidence"
	"github.com/tablexport/tablexport/odata/extsort"
	"github.com/tablexport/tablexport/odata/filter"
	"github.com/tablexport/tablexport/odata/scope"
	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/audit"
)

// Class is what an error means: what to do next, which exit code, which colour.
type Class string

// The classes.
const (
	Transient  Class = "transient"  // may pass by itself: try again soon
	Later      Class = "later"      // the service is not to be asked now: try again later
	Credential Class = "credential" // a token or login is missing, wrong, expired or not allowed
	Scope      Class = "scope"      // rows outside the scope came back
	Data       Class = "data"       // the data is not what it must be: not published
	Config     Class = "config"     // the configuration must change
	Conflict   Class = "conflict"   // someone else published first
	Canceled   Class = "canceled"   // a person stopped it
	Bug        Class = "bug"        // ours
	Other      Class = "other"      // not known
)

// RunError is an error with its place: added once, around the whole run.
type RunError struct {
	Job   string
	RunID string
	Err   error
}

// Error implements error.
func (e *RunError) Error() string { return fmt.Sprintf("job %s, run %s: %v", e.Job, e.RunID, e.Err) }

// Unwrap gives the cause.
func (e *RunError) Unwrap() error { return e.Err }

// PanicError is a panic in a run, made an error. Its value is not printed: it may hold anything.
type PanicError struct {
	Where string // function and line
}

// Error implements error.
func (e *PanicError) Error() string {
	return "internal error (a panic) at " + e.Where + "; please report it"
}

// PublishedError says that the refresh is published, and that something failed behind it: the audit log or the
// ledger could not be written, say. Running the job again is of no use.
type PublishedError struct {
	Version int64
	Err     error
}

// Error implements error.
func (e *PublishedError) Error() string {
	return fmt.Sprintf("the refresh is published as version %d, but not all went well behind it: %v", e.Version, e.Err)
}

// Unwrap gives what failed.
func (e *PublishedError) Unwrap() error { return e.Err }

// StoppedError is a run that its context ended. It is what the context says (context.Canceled or
// context.DeadlineExceeded), and what the run was doing.
type StoppedError struct {
	Reason error // ctx.Err()
	Err    error
}

// Error implements error.
func (e *StoppedError) Error() string { return fmt.Sprintf("stopped (%v): %v", e.Reason, e.Err) }

// Unwrap gives both.
func (e *StoppedError) Unwrap() []error { return []error{e.Reason, e.Err} }

// Classify finds what err means. The table says it by the fact in the chain that decides what to do next, which is seldom
// the outermost: a token that could not be renewed because the vault was away is a matter of the vault. nil is Other.
func Classify(err error) Class {
	if err == nil {
		return Other
	}
	for _, rule := range rules {
		if rule.matches(err) {
			return rule.class
		}
	}
	return Other
}

// rule is one line of the table: errors that match mean class.
type rule struct {
	class   Class
	matches func(error) bool
}

// as matches an error type anywhere in the chain.
func as[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

// is matches sentinels anywhere in the chain.
func is(sentinels ...error) func(error) bool {
	return func(err error) bool {
		for _, s := range sentinels {
			if errors.Is(err, s) {
				return true
			}
		}
		return false
	}
}

// code matches what a bucket says.
func code(codes ...store.Code) func(error) bool {
	return func(err error) bool {
		var e *store.Error
		return errors.As(err, &e) && slices.Contains(codes, e.Code)
	}
}

// status matches what the Table API answered.
func status(low, high int) func(error) bool {
	return func(err error) bool {
		var e *odata.StatusError
		return errors.As(err, &e) && e.Status >= low && e.Status <= high
	}
}

// unauditedLoan matches a request without a token, because the audit log could not be written.
func unauditedLoan(err error) bool {
	var e *odata.CredentialError
	return errors.As(err, &e) && errors.Is(e.Err, secrets.ErrAudit)
}

// network matches errors of connections. Every error number of the system calls itself a net.Error, those of files too.
func network(err error) bool {
	var e net.Error
	if !errors.As(err, &e) {
		return false
	}
	_, number := e.(syscall.Errno)
	return !number
}

// rules is the one table of meanings, first match wins.
var rules = []rule{
	{Bug, as[*PanicError]},
	{Other, as[*PublishedError]}, // nothing is to be done again, whatever failed
	{Bug, is(scope.ErrSchema, scope.ErrOwners, export.ErrRefused, export.ErrEnded, delta.ErrInvalid, parquet.ErrClosed, secrets.ErrClosed, audit.ErrClosed)},
	// A foreign row is a fact, even if the run was stopped behind it.
	{Scope, as[*scope.Violation]},
	{Scope, as[*scope.UnknownOwner]},
	// Whether the commit arrived is not known, whatever stopped the run in it: the next run finds out.
	{Transient, as[*delta.Unresolved]},
	{Transient, as[*sets.Unresolved]},
	// A lost lease ends the run's context, which a person has not done.
	{Conflict, as[*lease.LostError]},
	{Canceled, is(context.Canceled)},

	// The vault and the audit log explain why a request had no token, so they come before what odata says of it.
	{Credential, is(secrets.ErrBinding, secrets.ErrPolicy, secrets.ErrNotFound, secrets.ErrNoActive, secrets.ErrDeleted, secrets.ErrPermission, secrets.ErrNoNewer, secrets.ErrBadToken, secrets.ErrClient, secrets.ErrScopes)},
	{Config, is(secrets.ErrSetup, secrets.ErrBadName, secrets.ErrBadAttributes, secrets.ErrHistory)},
	{Conflict, is(secrets.ErrConflict, secrets.ErrState)},
	{Data, is(secrets.ErrCorrupt)},
	{Later, is(secrets.ErrInUse)},
	{Later, is(secrets.ErrUnavailable, secrets.ErrUnknown)},
	{Config, is(audit.ErrDamaged, audit.ErrKey)}, // a person must look at the log, or at the key, first
	{Data, is(audit.ErrForked)},
	{Later, unauditedLoan},

	{Credential, as[*odata.CredentialError]},
	{Credential, as[*odata.AuthenticationPageError]},
	{Credential, is(odata.ErrForbidden)},
	{Credential, code(store.Permission)},

	{Config, as[*PlanError]},
	{Config, as[*scope.RulesError]},
	{Config, as[filter.Problems]},
	{Config, as[*filter.Problem]},
	{Config, as[*edm.PathError]},
	{Config, as[*odata.AddressError]},
	{Config, as[*export.OtherJob]},
	{Config, as[*export.FilesGone]}, // an older version was asked for by its number
	{Config, as[*TooManyOwners]},
	{Config, as[*export.FilesGone]}, // a version that was asked for by its number
	{Config, as[*BoundsError]},
	{Config, as[*BackfillError]},
	{Config, is(delta.ErrNoVersion, ledger.ErrNotFound, ledger.ErrAccess, export.ErrNotKey)}, // a version or run that was asked for by its number
	{Config, is(ErrNoJob)},
	{Config, code(store.Invalid, store.Refused)},

	{Config, as[*sets.Gone]},
	{Config, is(sets.ErrNone, ErrSameVersion)},
	{Data, as[*sets.Dangling]},
	{Data, as[*sets.Corrupt]},
	{Conflict, as[*sets.Conflict]},
	{Conflict, as[*delta.Conflict]},
	{Conflict, code(store.AlreadyExists)},
	{Conflict, as[*ledger.HeldError]},
	{Conflict, as[*lease.HeldError]},
	{Conflict, as[*export.Fenced]},
	{Conflict, is(ledger.ErrFenced, ErrUnderWay)},

	{Data, as[*odata.DataError]},
	{Data, as[*edm.CSDLError]},
	{Data, as[*export.SchemaChange]},
	{Data, as[*export.QuarantineLimit]},
	{Data, as[*odata.AsideLimitError]},
	{Data, as[*delta.Corrupt]},
	{Data, as[*delta.Unsupported]},
	{Data, as[*export.RowMismatch]},
	{Data, as[*OutsideWindow]},
	{Data, as[*MovedError]},
	{Data, as[*GapError]},
	{Data, as[*export.NotMergeable]},
	{Data, as[*export.MergeMismatch]},
	{Data, as[*extsort.RepeatedKeyError]},
	{Data, as[*parquet.CellError]},
	{Data, is(parquet.ErrNull, parquet.ErrRange, parquet.ErrText)},

	// A server that cannot be reached explains an unproven scan, so it comes before.
	{Later, as[*odata.UnavailableError]},
	{Later, code(store.Full)},
	{Later, is(syscall.ENOSPC, syscall.EDQUOT, ledger.ErrFull, ledger.ErrDisk, ledger.ErrBusy)},
	{Other, is(ledger.ErrCorrupt)},
	{Transient, code(store.Unavailable)},
	{Transient, code(store.NotFound)}, // a staged part is gone: a new run writes it anew
	{Later, status(429, 429)},
	{Transient, status(500, 599)},
	{Data, as[*odata.RescanError]},
	{Data, as[*evidence.Incomplete]},
	{Data, as[*OwnersChanged]},
	{Data, as[*odata.ProtocolError]},
	{Config, status(300, 499)},

	{Transient, as[*odata.MalformedError]},
	{Transient, as[*odata.InStreamError]},
	{Transient, is(odata.ErrTruncated)},
	{Transient, is(context.DeadlineExceeded)},
	{Canceled, code(store.Canceled)},
	{Later, is(secrets.ErrAudit)},  // behind all that it may stand beside
	{Config, is(fs.ErrPermission)}, // of a file or directory of this machine
	{Transient, network},
}
