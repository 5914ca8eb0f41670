package delta

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/tablexport/tablexport/export/store"
)

// Change is a commit that can be put on top of what others have published in the meantime, as long as they have left alone what it
// depends on.
type Change struct {
	// Build makes the actions on top of a snapshot: the one that Apply was given, and a newer one each time that another writer was
	// first. It must not keep or change the snapshot's slices and maps. No action at all means that nothing is left to do.
	Build func(base *Snapshot) ([]Action, error)
	// Touches says whether the change depends on the rows of a partition. nil: on those of every partition.
	Touches func(partitionValues map[string]*string) bool
}

// Apply publishes a change on top of base, and returns the version. When other writers came in between it reads what they did. They
// conflict with the change if they changed the protocol or the metadata, used the appId of a txn that the change has, added a file of a
// name that it adds, or changed data (an add or remove whose dataChange is true) in a partition that it touches. Otherwise, and so also after a
// pure rearrangement of files, Build makes its actions again on top of theirs, and the next version is tried.
//
// Where Build returns no action nothing is published, and the version is that of the snapshot that it was given.
//
// The errors are those of [Log.Commit], and those of Build, after which nothing was published.
func (l *Log) Apply(ctx context.Context, base *Snapshot, c Change) (int64, error) {
	return l.publish(ctx, base, c.Build, func(ours *collected, before *Snapshot, theirs Entry) string {
		return c.conflict(ours, before, theirs)
	})
}

// Commit publishes actions on top of base. It tries versions from base.Version+1 on; when another
// writer was first it reads what that one did, fails with *Conflict if the two contradict each other, and else goes on.
// An answer that was lost is resolved by looking: an entry that carries our own commit id is ours.
// The returned version is the one published.
//
// A commit whose commitInfo does not say "isBlindAppend": true, or that removes files or changes the metadata,
// has read the whole table: every file that others added or removed is a conflict. [Log.Apply] asks what a commit depends on.
//
// The errors: *Conflict, *Unsupported and ErrInvalid mean that nothing was published, *Unresolved that this is not
// known; any other error that nothing was published.
func (l *Log) Commit(ctx context.Context, base *Snapshot, actions []Action) (int64, error) {
	if len(actions) == 0 {
		actions = []Action{{CommitInfo: CommitInfo{}}}
	}
	build := func(*Snapshot) ([]Action, error) { return actions, nil }
	return l.publish(ctx, base, build, func(ours *collected, _ *Snapshot, theirs Entry) string { return fixedConflict(ours, theirs) })
}

// publish is the loop of both: build, try to create the next entry, and if another writer was first see what all the others did,
// and begin again on top of it. The commit id is the same in all tries: where an entry of another writer stands, ours
// cannot arrive any more.
func (l *Log) publish(ctx context.Context, base *Snapshot, build func(*Snapshot) ([]Action, error),
	conflict func(ours *collected, before *Snapshot, theirs Entry) string,
) (int64, error) {
	if base == nil {
		return 0, invalid("there is no base snapshot")
	}
	id := uuid.NewString()
	for range maxTries {
		actions, err := build(base)
		if err != nil || len(actions) == 0 {
			return base.Version, err
		}
		ours, err := validate(base, actions)
		if err != nil {
			return 0, err
		}
		data, err := encode(withID(actions, id))
		if err != nil {
			return 0, err
		}
		if err := ctx.Err(); err != nil {
			return 0, fmt.Errorf("delta: nothing was published: %w", context.Cause(ctx))
		}
		version := base.Version + 1
		done, theirs, err := l.put(ctx, version, id, data)
		if err != nil {
			return 0, err
		}
		if done {
			l.checkpointAfter(ctx, base, version, actions)
			return version, nil
		}
		if base, err = l.advance(ctx, base, theirs, func(before *Snapshot, e Entry) string { return conflict(ours, before, e) }); err != nil {
			return 0, err
		}
	}
	return 0, &Conflict{Version: base.Version, Reason: fmt.Sprintf("%d times another commit came first; try again when the table is quieter", maxTries)}
}

// advance is base with theirs and whatever was published after it, unless one of them conflicts. Nothing of ours is in the log, so
// that an error in here means that nothing was published.
func (l *Log) advance(ctx context.Context, base *Snapshot, theirs Entry, conflict func(*Snapshot, Entry) string) (*Snapshot, error) {
	s := stateOf(base)
	for {
		if base.Version < 0 { // whatever is in it, ours would create it once more
			return nil, &Conflict{Version: theirs.Version, Reason: "another run created the table first"}
		}
		if reason := conflict(base, theirs); reason != "" {
			return nil, &Conflict{Version: theirs.Version, Reason: reason}
		}
		if err := s.apply(theirs); err != nil {
			return nil, err
		}
		next, err := s.snapshot(theirs.Version)
		if err != nil {
			return nil, err
		}
		next.Recent = base.Recent
		next.remember(theirs)
		base = next
		theirs, err = l.read(ctx, base.Version+1)
		if err != nil && store.CodeOf(err) == store.NotFound {
			return base, nil
		}
		if err != nil {
			return nil, fmt.Errorf("delta: nothing was published, because what others published first could not be read: %w", err)
		}
	}
}

// stateOf is the replay that led to s, to go on from there.
func stateOf(s *Snapshot) *state {
	out := newState()
	if s.Version >= 0 {
		protocol, metadata := s.Protocol, s.Metadata
		out.protocol, out.metadata = &protocol, &metadata
	}
	for _, f := range s.Files {
		out.live[identity(f.Path)] = f
	}
	for _, r := range s.Tombstones {
		out.gone[identity(r.Path)] = r
	}
	maps.Copy(out.txns, s.Txns)
	out.when, out.checkpoint = s.Timestamp, s.Checkpoint
	return out
}

// remember puts an entry in front of Recent.
func (s *Snapshot) remember(e Entry) {
	s.Recent = slices.Insert(slices.Clone(s.Recent), 0, brief(e))
	if len(s.Recent) > recentEntries {
		s.Recent = s.Recent[:recentEntries]
	}
}

// brief is an entry with nothing but its commitInfo.
func brief(e Entry) Entry {
	out := Entry{Version: e.Version, Timestamp: e.Timestamp}
	if info := e.CommitInfo(); info != nil {
		out.Actions = []Action{{CommitInfo: info}}
	}
	return out
}

// general are the conflicts that no commit survives.
func general(ours *collected, theirs Entry) string {
	for _, a := range theirs.Actions {
		switch {
		case a.Protocol != nil:
			return "it changes the table's protocol"
		case a.Metadata != nil:
			return "it changes the table's schema or metadata"
		case a.Txn != nil && ours.apps[a.Txn.AppID]:
			return fmt.Sprintf("it is by the same application (%s)", a.Txn.AppID)
		case a.Add != nil && ours.added[identity(a.Add.Path)]:
			return "it adds a file of the same name"
		}
	}
	return ""
}

func (c *Change) conflict(ours *collected, before *Snapshot, theirs Entry) string {
	if reason := general(ours, theirs); reason != "" {
		return reason
	}
	touches := c.Touches
	if touches == nil {
		touches = func(map[string]*string) bool { return true }
	}
	added, removed := 0, 0
	var live map[string]map[string]*string // partition values of the files before, made when needed
	for _, a := range theirs.Actions {
		switch {
		case a.Add != nil && a.Add.DataChange:
			if touches(a.Add.PartitionValues) {
				added++
			}
		case a.Remove != nil && a.Remove.DataChange:
			values := a.Remove.PartitionValues
			if len(values) == 0 && len(before.Metadata.PartitionColumns) > 0 {
				// They may be left out of a remove (and ours are {} then): the add has them.
				if live == nil {
					live = make(map[string]map[string]*string, len(before.Files))
					for _, f := range before.Files {
						live[identity(f.Path)] = f.PartitionValues
					}
				}
				var known bool
				if values, known = live[identity(a.Remove.Path)]; !known {
					continue // it was not there: nothing changes
				}
			}
			if touches(values) {
				removed++
			}
		}
	}
	if added+removed > 0 {
		return fmt.Sprintf("it adds %d and removes %d files where this commit changes something too", added, removed)
	}
	return ""
}

// fixedConflict says why actions that were made for an older snapshot cannot follow theirs, or "".
func fixedConflict(ours *collected, theirs Entry) string {
	if reason := general(ours, theirs); reason != "" {
		return reason
	}
	added, removed := 0, 0
	for _, a := range theirs.Actions {
		switch {
		case a.Remove != nil:
			removed++
			if ours.removed[identity(a.Remove.Path)] {
				return "it removes files that this commit removes too"
			}
		case a.Add != nil:
			added++
		}
	}
	blind := ours.info["isBlindAppend"] == true && len(ours.removed) == 0 && ours.metadata == nil && ours.protocol == nil
	if !blind && added+removed > 0 {
		return fmt.Sprintf("it adds %d and removes %d files that this commit did not know of", added, removed)
	}
	return ""
}
