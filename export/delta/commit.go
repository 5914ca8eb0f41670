package delta

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tablexport/tablexport/export/store"
)

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
func validate(base *Snapshot, actions []Action) (*collected, error) {
	c, err := collect(actions)
	if err != nil {
		return nil, err
	}
	return c, c.fits(base, actions)
}

func (c *collected) fits(base *Snapshot, actions []Action) error {
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
	metadata := base.Metadata
	if c.metadata != nil {
		metadata = *c.metadata
		if err := validMetadata(&metadata); err != nil {
			return err
		}
		if base.Version >= 0 && metadata.ID != base.Metadata.ID {
			return invalid("the metaData action has another table id")
		}
	}
	return validPartitions(metadata.PartitionColumns, actions)
}

// validMetadata checks the schema, and that the files of a table have columns beside its partition columns.
func validMetadata(m *Metadata) error {
	fields, err := ParseSchema(m.SchemaString)
	if err != nil {
		return invalid("%v", err)
	}
	for i, name := range m.PartitionColumns {
		at := slices.IndexFunc(fields, func(f Field) bool { return f.Name == name })
		switch {
		case at < 0:
			return invalid("the partition column %q is not in the schema", name)
		case strings.HasPrefix(fields[at].Type, "{"):
			return invalid("the partition column %q has a nested type", name)
		case slices.Contains(m.PartitionColumns[:i], name):
			return invalid("the partition column %q is there twice", name)
		}
	}
	if n := len(m.PartitionColumns); n > 0 && n == len(fields) {
		return invalid("every column is a partition column: the files would have none")
	}
	return nil
}

// validPartitions: an added file says a value for each partition column, and for no other (PROTOCOL.md, "Add File and Remove File").
func validPartitions(columns []string, actions []Action) error {
	for _, a := range actions {
		if a.Add == nil {
			continue
		}
		for _, name := range columns {
			if _, ok := a.Add.PartitionValues[name]; !ok {
				return invalid("the file %q has no value of the partition column %q", a.Add.Path, name)
			}
		}
		if len(a.Add.PartitionValues) != len(columns) {
			return invalid("the file %q has %d partition values, the table has %d partition columns", a.Add.Path, len(a.Add.PartitionValues), len(columns))
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
		if a.Add.Stats != "" {
			if _, err := ParseStats(a.Add.Stats); err != nil {
				return invalid("the statistics of %q: %v", path, err)
			}
		}
	} else {
		set, path, size = c.removed, a.Remove.Path, a.Remove.Size
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

// Equal compares metadata as far as readers can tell: everything but the time of creation.
func (m Metadata) Equal(o Metadata) bool {
	return m.ID == o.ID && m.Name == o.Name && m.Description == o.Description && m.SchemaString == o.SchemaString &&
		m.Format.Provider == o.Format.Provider && maps.Equal(m.Format.Options, o.Format.Options) &&
		slices.Equal(m.PartitionColumns, o.PartitionColumns) && maps.Equal(m.Configuration, o.Configuration)
}
