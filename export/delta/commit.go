package delta

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/tablexport/tablexport/export/store"
)

// Commit publishes actions on top of base. It tries versions from base.Version+1 on; when another
// writer was first it reads what that one did, fails with *Conflict if the two contradict each other, and else goes on.
// An answer that was lost is resolved by looking: an entry that carries our own commit id is ours.
// The returned version is the one published.
//
// A commit whose commitInfo does not say "isBlindAppend": true, or that removes files or changes the metadata,
// has read the whole table: every change of data that it did not see is a conflict.
//
// The errors: *Conflict, *Unsupported and ErrInvalid mean that nothing was published, *Unresolved that this is not
// known; any other error that nothing was published.
func (l *Log) Commit(ctx context.Context, base *Snapshot, actions []Action) (int64, error) {
	if err := validate(base, actions); err != nil {
		return 0, err
	}
	id := uuid.NewString()
	actions = withID(actions, id)
	data, err := encode(actions)
	if err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("delta: nothing was published: %w", context.Cause(ctx))
	}
	version := base.Version + 1
	for range maxTries {
		ours, theirs, err := l.put(ctx, version, id, data)
		if err != nil {
			return 0, err
		}
		if ours {
			return version, nil
		}
		reason := conflict(actions, theirs)
		if base.Version < 0 {
			reason = "another run created the table first" // whatever is in it, ours would create it once more
		}
		if reason != "" {
			return 0, &Conflict{Version: version, Reason: reason}
		}
		version++
	}
	return 0, &Conflict{Version: version - 1, Reason: fmt.Sprintf("%d other commits came in between; try again when the table is quieter", maxTries)}
}

// put tries to create one entry. It returns ours, or the entry of whoever was first.
//
// A crash in here leaves either nothing or the whole entry: the put is atomic. An answer that did not come is settled by
// looking, and if nothing is there by putting the same bytes once more: should the first put still
// arrive after that, the second loses against our own entry, and sees so.
func (l *Log) put(ctx context.Context, version int64, id string, data []byte) (ours bool, theirs Entry, err error) {
	open := false // an earlier put may still arrive
	for try := range maxRepeats {
		if try > 0 && !pause(ctx, repeatPause<<try) {
			break
		}
		err = l.b.PutIfAbsent(ctx, entryKey(version), data)
		if err == nil {
			return true, theirs, nil
		}
		code := store.CodeOf(err)
		entry, found, lookErr := l.look(ctx, version, id)
		switch {
		case lookErr != nil && refusedOutright(code) && !open:
			return false, theirs, fmt.Errorf("delta: publishing version %d: %w", version, err)
		case lookErr != nil:
			return false, theirs, &Unresolved{Version: version, Err: errors.Join(err, lookErr)}
		case found && entry.hasID(id):
			return true, theirs, nil
		case found && ctx.Err() == nil:
			return false, entry, nil
		case found:
			return false, theirs, fmt.Errorf("delta: publishing version %d: %w", version, err) // another's: ours is not there
		case refusedOutright(code) && !open:
			return false, theirs, fmt.Errorf("delta: publishing version %d: %w", version, err)
		case code != store.AlreadyExists:
			open = true
		}
	}
	return false, theirs, &Unresolved{Version: version, Err: err}
}

// refusedOutright: the store answered, and the answer was no. (AlreadyExists is not here: the entry is looked at.)
func refusedOutright(code store.Code) bool {
	return code == store.Permission || code == store.Invalid || code == store.Full
}

// look reads the entry even when ctx has ended: whether we have published must be known.
func (l *Log) look(ctx context.Context, version int64, id string) (Entry, bool, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookFor)
	defer cancel()
	var last error
	for try := range maxRepeats {
		if try > 0 && !pause(ctx, repeatPause<<try) {
			break
		}
		e, err := l.read(ctx, version)
		switch {
		case err == nil:
			return e, true, nil
		case store.CodeOf(err) == store.NotFound:
			return Entry{}, false, nil
		}
		var corrupt *Corrupt
		if last = err; errors.As(err, &corrupt) {
			break
		}
	}
	return Entry{}, false, last
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (e Entry) hasID(id string) bool {
	got, _ := e.CommitInfo()[commitIDName].(string)
	return got == id
}

// withID puts the commit id into the commitInfo, which goes first, as readers with in-commit timestamps want it.
func withID(actions []Action, id string) []Action {
	info := CommitInfo{}
	out := make([]Action, 1, len(actions)+1)
	for _, a := range actions {
		if a.CommitInfo != nil {
			maps.Copy(info, a.CommitInfo)
			continue
		}
		out = append(out, a)
	}
	info[commitIDName] = id
	out[0] = Action{CommitInfo: info}
	return out
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("delta: %w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// validate checks what the protocol asks of one commit ("Action Reconciliation"), and that it fits base.
func validate(base *Snapshot, actions []Action) error {
	if base == nil {
		return invalid("there is no base snapshot")
	}
	c, err := collect(actions)
	if err != nil {
		return err
	}
	protocol := base.Protocol
	if c.protocol != nil {
		protocol = *c.protocol
	}
	if base.Version < 0 && (c.protocol == nil || c.metadata == nil) {
		return invalid("the first version needs a protocol and a metaData action")
	}
	if err := writable(&Snapshot{Version: base.Version, Protocol: protocol}); err != nil {
		return err
	}
	if err := readable(base.Version, &protocol); err != nil {
		return err
	}
	live := make(map[string]bool, len(base.Files))
	for _, f := range base.Files {
		live[identity(f.Path)] = true
	}
	for name := range c.added {
		if live[name] || c.removed[name] {
			return invalid("the file %q is added and is there already", name)
		}
	}
	for name := range c.removed {
		if !live[name] {
			return invalid("the file %q is removed and is not there", name)
		}
	}
	if len(c.removed) > 0 && strings.EqualFold(base.Metadata.Configuration["delta.appendOnly"], "true") {
		return &Unsupported{Version: base.Version, Reason: "it is append-only (delta.appendOnly), so a refresh cannot replace its files"}
	}
	if c.metadata != nil {
		if _, err := ParseSchema(c.metadata.SchemaString); err != nil {
			return invalid("%v", err)
		}
		if base.Version >= 0 && c.metadata.ID != base.Metadata.ID {
			return invalid("the metaData action has another table id")
		}
	}
	return nil
}

// collected are the actions of one commit by kind.
type collected struct {
	protocol       *Protocol
	metadata       *Metadata
	added, removed map[string]bool
	apps           map[string]bool
	info           CommitInfo
	dataChange     bool
}

func collect(actions []Action) (*collected, error) {
	c := &collected{added: map[string]bool{}, removed: map[string]bool{}, apps: map[string]bool{}}
	for i, a := range actions {
		if n := a.kinds(); n != 1 {
			return nil, invalid("action %d has %d kinds", i, n)
		}
		switch {
		case a.Protocol != nil:
			if c.protocol != nil {
				return nil, invalid("there are two protocol actions")
			}
			c.protocol = a.Protocol
		case a.Metadata != nil:
			if c.metadata != nil {
				return nil, invalid("there are two metaData actions")
			}
			c.metadata = a.Metadata
		case a.Txn != nil:
			if a.Txn.AppID == "" || c.apps[a.Txn.AppID] {
				return nil, invalid("two txn actions of %q, or one without appId", a.Txn.AppID)
			}
			c.apps[a.Txn.AppID] = true
		case a.CommitInfo != nil:
			if c.info != nil {
				return nil, invalid("there are two commitInfo actions")
			}
			c.info = a.CommitInfo
		default:
			if err := c.file(a); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

func (c *collected) file(a Action) error {
	set, path, size := c.added, "", int64(0)
	if a.Add != nil {
		path, size = a.Add.Path, a.Add.Size
		c.dataChange = c.dataChange || a.Add.DataChange
		if a.Add.Stats != "" {
			if _, err := ParseStats(a.Add.Stats); err != nil {
				return invalid("the statistics of %q: %v", path, err)
			}
		}
	} else {
		set, path, size = c.removed, a.Remove.Path, a.Remove.Size
		c.dataChange = c.dataChange || a.Remove.DataChange
	}
	name, err := pathKey(path)
	if err != nil {
		return invalid("%v", err)
	}
	if size < 0 {
		return invalid("the file %q has the size %d", name, size)
	}
	if set[name] {
		return invalid("the file %q is there twice", name)
	}
	set[name] = true
	return nil
}

// conflict says why ours cannot follow theirs, or "".
func conflict(actions []Action, theirs Entry) string {
	ours, err := collect(actions)
	if err != nil {
		return err.Error()
	}
	added, removed, other := 0, 0, ""
	for _, a := range theirs.Actions {
		switch {
		case a.Protocol != nil:
			return "it changes the table's protocol"
		case a.Metadata != nil:
			return "it changes the table's schema or metadata"
		case a.Txn != nil && ours.apps[a.Txn.AppID]:
			return fmt.Sprintf("it is by the same application (%s)", a.Txn.AppID)
		case a.Remove != nil:
			removed++
			if ours.removed[identity(a.Remove.Path)] {
				other = "it removes files that this commit removes too"
			}
		case a.Add != nil:
			added++
			if ours.added[identity(a.Add.Path)] {
				other = "it adds a file of the same name"
			}
		}
	}
	blind := ours.info["isBlindAppend"] == true && len(ours.removed) == 0 && ours.metadata == nil && ours.protocol == nil
	switch {
	case other != "":
		return other
	case !blind && added+removed > 0:
		return fmt.Sprintf("it adds %d and removes %d files that this commit did not know of", added, removed)
	}
	return ""
}

// Equal compares metadata as far as readers can tell: everything but the time of creation.
func (m Metadata) Equal(o Metadata) bool {
	return m.ID == o.ID && m.Name == o.Name && m.Description == o.Description && m.SchemaString == o.SchemaString &&
		m.Format.Provider == o.Format.Provider && maps.Equal(m.Format.Options, o.Format.Options) &&
		slices.Equal(m.PartitionColumns, o.PartitionColumns) && maps.Equal(m.Configuration, o.Configuration)
}
