package hashivault

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"time"

	"github.com/tablexport/tablexport/secrets"
)

// writeTries is how often a check-and-set is repeated, against others who write at the same time.
const writeTries = 40

// unknown adds to err, which ended an operation, that an earlier write of it may have been carried out.
func unknown(lost, err error) error {
	if lost == nil {
		return err
	}
	return fmt.Errorf("%w: %w", secrets.ErrUnknown, errors.Join(lost, err))
}

// Stage implements secrets.Vault. A crash before the value is written leaves at most an empty secret; after it, a version
// that the state does not describe, which Versions then describes from its own content.
func (v *Vault) Stage(ctx context.Context, name string, token secrets.Token, fingerprint string, binding secrets.Binding) (secrets.Version, error) {
	if err := secrets.CheckName(name); err != nil {
		return secrets.Version{}, err
	}
	if token.IsZero() {
		return secrets.Version{}, fmt.Errorf("%w: it is empty", secrets.ErrBadToken)
	}
	data := tokenData{
		Format: format, Fingerprint: fingerprint, Instance: binding.Instance, Host: binding.Host,
		Environment: binding.Environment, Change: rand.Text(),
	}
	secrets.Reveal(token, func(value []byte) { data.Token = string(value) })
	version, err := v.addVersion(ctx, name, data)
	if err != nil {
		return secrets.Version{}, err
	}
	// The version is stored, whatever comes of the copy in the state: without it, listing reads the value's secret.
	_ = v.changeState(ctx, name, func(s *stateData) (bool, error) {
		known := s.Versions[version.Version]
		if !known.Created.Equal(version.CreatedTime) {
			known = versionState{Created: version.CreatedTime}
		}
		if known.Fingerprint == fingerprint {
			return true, nil
		}
		known.Fingerprint, known.Instance, known.Host, known.Environment = fingerprint, binding.Instance, binding.Host, binding.Environment
		s.Versions[version.Version] = known
		return false, nil
	})
	return secrets.Version{
		Number: version.Version, State: secrets.Staged, Created: version.CreatedTime.UTC(), Fingerprint: fingerprint, Binding: binding,
	}, nil
}

// addVersion writes data as the next version of the token.
func (v *Vault) addVersion(ctx context.Context, name string, data tokenData) (kvVersion, error) {
	rest := "tokens/" + name
	path := v.path("data", rest)
	var lost error // the last write whose answer got lost
	first := -1    // the current version before the first write
	for try := 1; try <= writeTries; try++ {
		meta, found, err := v.metadata(ctx, name)
		if err == nil && !found {
			if err = v.create(ctx, name, data.binding()); err == nil {
				continue // and see whether it is what a version 2 engine makes of it
			}
		}
		if err != nil {
			return kvVersion{}, unknown(lost, err)
		}
		if first < 0 {
			first = meta.CurrentVersion
		}
		if lost != nil {
			version, ok, err := v.findChange(ctx, name, meta, first, data.Change)
			if err != nil || ok {
				return version, unknownIf(err, lost)
			}
		}
		if err := v.roomFor(ctx, name, meta); err != nil {
			return kvVersion{}, unknown(lost, err)
		}
		a, err := v.put(ctx, rest, data, meta.CurrentVersion)
		switch {
		case err != nil:
			return kvVersion{}, unknown(lost, err)
		case a.ok():
			var reply struct {
				Data kvVersion `json:"data"`
			}
			if json.Unmarshal(a.body, &reply) == nil && reply.Data.Version > 0 && !reply.Data.CreatedTime.IsZero() {
				return reply.Data, nil
			}
			lost = v.corrupt(path) // it is stored; the next round finds it
		case a.conflict(): // someone staged at the same time
		case a.lost():
			lost = v.fault(ctx, a, "update", path)
		default:
			return kvVersion{}, unknown(lost, v.fault(ctx, a, "update", path))
		}
		if !pause(ctx, try) {
			return kvVersion{}, unknown(lost, fmt.Errorf("%w: %w", secrets.ErrUnavailable, ctx.Err()))
		}
	}
	return kvVersion{}, unknown(lost, fmt.Errorf("%w: others kept staging versions of %s", secrets.ErrUnavailable, name))
}

func unknownIf(err, lost error) error {
	if err == nil {
		return nil
	}
	return unknown(lost, err)
}

// create makes the secret without a version, so that it keeps more of them than Vault's default and takes
// check-and-set writes only. Doing it twice, or at once with another, does no harm.
func (v *Vault) create(ctx context.Context, name string, b secrets.Binding) error {
	// What people and other tools see of it in Vault without reading it; nothing here believes it.
	custom := map[string]string{"managed_by": "tablexport", "instance": b.Instance, "host": b.Host, "environment": b.Environment}
	return v.writeMetadata(ctx, http.MethodPut, "create", name, map[string]any{"max_versions": keepVersions, "cas_required": true, "custom_metadata": custom})
}

// roomFor refuses a write that would push the active version out of what Vault keeps.
func (v *Vault) roomFor(ctx context.Context, name string, meta kvMetadata) error {
	if meta.oldestAfter(1) <= 1 {
		return nil
	}
	state, _, err := v.state(ctx, name)
	if err != nil {
		return err
	}
	if state.Active > 0 && state.Active < meta.oldestAfter(1) {
		return fmt.Errorf("%w: %s keeps too few versions: one more would remove version %d, which is active; activate a newer one first, or raise max_versions: vault kv metadata put -max-versions=%d %s/%s/tokens/%s",
			secrets.ErrHistory, name, state.Active, keepVersions, v.opts.Mount, v.opts.Prefix, name)
	}
	return nil
}

// findChange looks for the version that the write with that id made, among those after first.
func (v *Vault) findChange(ctx context.Context, name string, meta kvMetadata, first int, change string) (kvVersion, bool, error) {
	for number := range meta.Versions {
		if number <= first {
			continue
		}
		data, version, err := v.tokenVersion(ctx, name, number)
		switch {
		case errors.Is(err, secrets.ErrNotFound), errors.Is(err, secrets.ErrDeleted), errors.Is(err, secrets.ErrCorrupt):
		case err != nil:
			return kvVersion{}, false, err
		case data.Change == change:
			return version, true, nil
		}
	}
	return kvVersion{}, false, nil
}

// Activate implements secrets.Vault: one check-and-set write of the state. A crash leaves the old state or the new one.
func (v *Vault) Activate(ctx context.Context, name string, number, expected int) error {
	if err := secrets.CheckName(name); err != nil {
		return err
	}
	meta, err := v.existing(ctx, name)
	if err != nil {
		return err
	}
	version, ok := meta.Versions[number]
	switch {
	case !ok:
		return fmt.Errorf("%w: version %d of %s", secrets.ErrNotFound, number, name)
	case version.gone():
		return deleted(name, version)
	case number < meta.oldestAfter(1):
		return fmt.Errorf("%w: version %d of %s is the oldest that Vault keeps, and the next one staged would remove it; raise max_versions: vault kv metadata put -max-versions=%d %s/%s/tokens/%s",
			secrets.ErrHistory, number, name, 2*keepVersions, v.opts.Mount, v.opts.Prefix, name)
	}
	change := rand.Text()
	err = v.changeState(ctx, name, func(s *stateData) (bool, error) {
		known := s.Versions[number]
		if known.Change == change {
			return true, nil // an earlier try of ours, perhaps superseded since
		}
		active := s.Active
		if active > meta.CurrentVersion {
			// Staged and activated since we looked, or left over from a secret that was removed: look again. A version
			// exists before it is activated, so that what is not there now never was.
			if meta, err = v.existing(ctx, name); err != nil {
				return false, err
			}
		}
		if current, ok := meta.Versions[active]; !ok || !s.active(current) {
			active = 0 // of a secret that was removed since, as Versions sees it
		}
		if active != expected {
			return false, fmt.Errorf("%w: %s has version %d active, not %d", secrets.ErrConflict, name, active, expected)
		}
		if !known.Created.Equal(version.CreatedTime) {
			known = versionState{Created: version.CreatedTime}
		}
		if state := describe(version, stateData{Versions: map[int]versionState{number: known}}).State; state == secrets.Rejected || state == secrets.Retired {
			return false, fmt.Errorf("%w: version %d of %s is %s", secrets.ErrState, number, name, state)
		}
		now := time.Now().UTC().Truncate(time.Microsecond)
		if before, ok := s.Versions[active]; ok && active != number {
			before.Retiring = now
			s.Versions[active] = before
		}
		known.Activated, known.Retiring, known.Change = now, time.Time{}, change
		s.Active, s.ActiveCreated, s.Versions[number] = number, version.CreatedTime, known
		maps.DeleteFunc(s.Versions, func(n int, known versionState) bool {
			kv, ok := meta.Versions[n]
			return n <= meta.CurrentVersion && (!ok || !known.Created.Equal(kv.CreatedTime)) // no longer in Vault
		})
		return false, nil
	})
	if shown := (map[string]*string{}); err == nil && meta.Custom[scopesKey]+meta.Custom[expiresKey]+meta.Custom[versionKey(number, scopesKey)]+meta.Custom[versionKey(number, expiresKey)] != "" {
		show(shown, meta.attributes(number))
		_ = v.patch(ctx, name, shown) // for people who look into Vault; the version is active whatever comes of it
	}
	return err
}

// Mark implements secrets.Vault: one check-and-set write of the state. A crash leaves the old state or the new one.
func (v *Vault) Mark(ctx context.Context, name string, number int, from, to secrets.State) error {
	if err := secrets.CheckName(name); err != nil {
		return err
	}
	meta, err := v.existing(ctx, name)
	if err != nil {
		return err
	}
	version, ok := meta.Versions[number]
	switch {
	case !ok:
		return fmt.Errorf("%w: version %d of %s", secrets.ErrNotFound, number, name)
	case version.gone():
		return deleted(name, version)
	}
	if err := secrets.CheckMark(from, to); err != nil {
		return err
	}
	made := mark{At: time.Now().UTC().Truncate(time.Microsecond), Change: rand.Text()}
	return v.changeState(ctx, name, func(s *stateData) (bool, error) {
		known := s.Versions[number]
		if !known.Created.Equal(version.CreatedTime) {
			known = versionState{Created: version.CreatedTime}
		}
		slot := map[secrets.State]*mark{secrets.Verified: &known.Verified, secrets.Retired: &known.Retired, secrets.Rejected: &known.Rejected}[to]
		if slot.Change == made.Change {
			return true, nil // an earlier try of ours
		}
		if state := describe(version, *s).State; state != from {
			return false, fmt.Errorf("%w: version %d of %s is %s, not %s", secrets.ErrConflict, number, name, state, from)
		}
		*slot = made
		s.Versions[number] = known
		return false, nil
	})
}

// changeState applies edit to the state and writes it by check-and-set, again and again while others write it too.
// edit says whether what it wants is there already.
func (v *Vault) changeState(ctx context.Context, name string, edit func(*stateData) (done bool, err error)) error {
	rest := "state/" + name
	path := v.path("data", rest)
	var lost error // the last write whose answer got lost
	for try := 1; try <= writeTries; try++ {
		state, cas, err := v.state(ctx, name)
		if err != nil {
			return unknown(lost, err)
		}
		done, err := edit(&state)
		if done {
			return nil
		}
		if err != nil {
			// The write that got lost is not there and can no longer come: its check-and-set would fail.
			return err
		}
		a, err := v.put(ctx, rest, state, cas)
		switch {
		case err != nil:
			return unknown(lost, err)
		case a.ok():
			return nil
		case a.conflict():
		case a.lost():
			lost = v.fault(ctx, a, "update", path)
		default:
			return unknown(lost, v.fault(ctx, a, "update", path))
		}
		if !pause(ctx, try) {
			return unknown(lost, fmt.Errorf("%w: %w", secrets.ErrUnavailable, ctx.Err()))
		}
	}
	return unknown(lost, fmt.Errorf("%w: others kept changing the state of %s", secrets.ErrUnavailable, name))
}
