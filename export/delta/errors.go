package delta

import (
	"errors"
	"fmt"
)

// ErrNoVersion is in the error for a version that the log does not have.
var ErrNoVersion = errors.New("the table has no such version")

// ErrInvalid is in the error for actions that cannot be one commit. It is a bug of the caller; nothing was written.
var ErrInvalid = errors.New("these actions cannot be one commit")

var errEmpty = errors.New("the entry is empty: it was cut off, or never written whole")

// Corrupt says that the log cannot be read. Line is 0 when a whole entry is concerned.
type Corrupt struct {
	Version int64
	Line    int // from 1
	Err     error

	Checkpoint bool // it is not an entry but a checkpoint
}

// Error implements error.
func (e *Corrupt) Error() string {
	if e.Checkpoint {
		return fmt.Sprintf("delta: the checkpoint of version %d: %v", e.Version, e.Err)
	}
	if e.Line == 0 {
		return fmt.Sprintf("delta: log entry %020d.json: %v", e.Version, e.Err)
	}
	return fmt.Sprintf("delta: log entry %020d.json, line %d: %v", e.Version, e.Line, e.Err)
}

// Unwrap gives the reason.
func (e *Corrupt) Unwrap() error { return e.Err }

// Unsupported says that the table needs more than this package can do. Nothing is wrong with the table.
type Unsupported struct {
	Version int64
	Reason  string // one sentence
}

// Error implements error.
func (e *Unsupported) Error() string {
	return fmt.Sprintf("delta: the table (at version %d) needs what tablexport does not support: %s", e.Version, e.Reason)
}

// Conflict says that another writer published something that our commit did not see.
type Conflict struct {
	Version int64  // the version that was published first
	Reason  string // one sentence
}

// Error implements error.
func (c *Conflict) Error() string {
	return fmt.Sprintf("delta: another writer published version %d first: %s", c.Version, c.Reason)
}

// Unresolved says that it is not known whether the commit was published: the answer was lost, and looking did not settle it.
// What the commit names must be kept; reading the log later will tell.
type Unresolved struct {
	Version int64 // the version that was tried
	Err     error
}

// Error implements error.
func (e *Unresolved) Error() string {
	return fmt.Sprintf("delta: it is not known whether version %d was published: %v", e.Version, e.Err)
}

// Unwrap gives the last error.
func (e *Unresolved) Unwrap() error { return e.Err }
