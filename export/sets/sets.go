// Package sets publishes several datasets together: a pointer file says which version of each dataset belongs to which, so that a
// reader never sees order lines without their orders.
//
// The versions of a set are objects of the store, one put-if-absent each, like the entries of a Delta log:
//
//	_sets/<set>/00000000000000000007.json   a [Pointer]; the one with the highest number counts
//	_sets/<set>/current.json                a copy of it, for readers that cannot list
//
// A reader opens each member at the version that the pointer names (Delta time travel). What is published in a member's log
// behind it is not part of the set until a later pointer names it.
//
// The protocol, with what a crash leaves in each gap:
//
//  1. the members are refreshed, each in its own log.      [newer versions that no pointer names: the set is as before]
//  2. [Prove] holds their references against each other.   [the same]
//  3. [Set.Publish] creates the next pointer.              [before: the old set; after: the new one]
//  4. [Set.Copy] replaces current.json.                    [an older pointer in it, consistent in itself; the next run copies]
//
// Pointers are never changed or removed. Their versions' files must not be vacuumed away as long as [Set.Held] names them.
package sets

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tablexport/tablexport/export/store"
)

// Pointer is one version of a set.
type Pointer struct {
	Set        string      `json:"set"`
	Version    int64       `json:"version"`
	Cut        time.Time   `json:"cut"`       // the instant that windows and watermarks of all members end at
	Published  time.Time   `json:"published"` // UTC
	Run        string      `json:"run"`
	Engine     string      `json:"engine,omitempty"`
	Restores   *int64      `json:"restores,omitempty"` // the older version of the set that this one is again
	Members    []Member    `json:"members"`            // in the order of the configuration
	References []Reference `json:"references"`         // what was proven, or counted, between the members
}

// Member is a dataset at a version.
type Member struct {
	Job      string `json:"job"`
	Table    string `json:"table"`
	Store    string `json:"store"`
	Path     string `json:"path"`     // in its store
	Location string `json:"location"` // for other tools
	Version  int64  `json:"version"`  // of its Delta log
	Rows     int64  `json:"rows"`
}

// Reference is what is known about one column that refers from member to member.
type Reference struct {
	Job      string   `json:"job"`
	Column   string   `json:"column"`
	To       []string `json:"to"` // jobs that hold the table that is referred to: more than one where several share it
	Key      string   `json:"key"`
	Enforced bool     `json:"enforced"` // a missing key keeps the pointer from moving
	Keys     int64    `json:"keys"`     // different values
	Missing  int64    `json:"missing"`  // of them, that no row has as its key
}

// Member finds a member by its job.
func (p *Pointer) Member(job string) (Member, bool) {
	for _, m := range p.Members {
		if m.Job == job {
			return m, true
		}
	}
	return Member{}, false
}

// ErrNone is in the error for a set, or a version of one, that was not published.
var ErrNone = errors.New("not published")

// Conflict is the error of Publish when another run has published the version first. Nothing was published.
type Conflict struct {
	Set     string
	Version int64
}

// Error implements error.
func (e *Conflict) Error() string {
	return fmt.Sprintf("sets: another run has published version %d of the set %s meanwhile; the set is as that run left it", e.Version, e.Set)
}

// Unresolved is the error of Publish when it is not known whether the pointer is there: the store did not answer. It
// would be a consistent one.
type Unresolved struct {
	Set     string
	Version int64
	Err     error
}

// Error implements error.
func (e *Unresolved) Error() string {
	return fmt.Sprintf("sets: it is not known whether version %d of the set %s was published: %v", e.Version, e.Set, e.Err)
}

// Unwrap gives what the store said.
func (e *Unresolved) Unwrap() error { return e.Err }

// Corrupt is a pointer that cannot be read. It names the object.
type Corrupt struct {
	Location string
	Err      error
}

// Error implements error.
func (e *Corrupt) Error() string {
	return fmt.Sprintf("sets: %s is not a pointer of this set (%v); if somebody has changed it, bring it back or remove it", e.Location, e.Err)
}

// Unwrap gives the cause.
func (e *Corrupt) Unwrap() error { return e.Err }

// Set is the pointers of one set. It is safe for concurrent use.
type Set struct {
	b    store.Bucket
	name string
}

var setName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

// Open returns the set of a name in a store. It reads nothing.
func Open(b store.Bucket, name string) (*Set, error) {
	if !setName.MatchString(name) {
		return nil, fmt.Errorf("sets: %q cannot be the name of a set: use letters, digits and . _ - (100 at most)", name)
	}
	return &Set{b: b, name: name}, nil
}

// Name is the set's name.
func (s *Set) Name() string { return s.name }

func (s *Set) dir() string { return "_sets/" + s.name + "/" }

func (s *Set) key(version int64) string { return fmt.Sprintf("%s%020d.json", s.dir(), version) }

func (s *Set) current() string { return s.dir() + "current.json" }

// Location is the address of current.json for readers, and Folder that of all pointers.
func (s *Set) Location() string { return s.b.Location(s.current()) }

// Folder is the address of the pointers.
func (s *Set) Folder() string { return strings.TrimSuffix(s.Location(), "/current.json") }

// most is the size that a pointer may have: a set of thousands of members is far smaller.
const most = 8 << 20

func (s *Set) read(ctx context.Context, key string) (*Pointer, []byte, error) {
	r, _, err := s.b.Open(ctx, key)
	if err != nil {
		return nil, nil, fmt.Errorf("sets: %w", err)
	}
	defer func() { _ = r.Close() }()
	data, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, nil, fmt.Errorf("sets: %w", err)
	}
	p := new(Pointer)
	err = json.Unmarshal(data, p)
	switch {
	case len(data) > most:
		err = errors.New("it is too large")
	case err != nil:
		err = errors.New("it is not the JSON of one") // what stands there instead is not for messages
	case p.Set != s.name:
		err = errors.New("it is of another set")
	case len(p.Members) == 0 || p.Version < 0:
		err = errors.New("it has no members")
	}
	if err != nil {
		return nil, nil, &Corrupt{Location: s.b.Location(key), Err: err}
	}
	return p, data, nil
}

// Newest returns the pointer that counts. The error is an ErrNone if there is none.
func (s *Set) Newest(ctx context.Context) (*Pointer, error) {
	// The copy saves the listing of what is older; it may lag, and it may lie.
	after := ""
	if hint, _, err := s.read(ctx, s.current()); err == nil && hint.Version > 0 {
		after = s.key(hint.Version - 1)
	}
	versions, err := s.versions(ctx, after)
	if err == nil && len(versions) == 0 && after != "" {
		versions, err = s.versions(ctx, "")
	}
	if err != nil {
		return nil, err
	}
	if len(versions) == 0 {
		return nil, fmt.Errorf("sets: the set %s: %w", s.name, ErrNone)
	}
	return s.Version(ctx, versions[len(versions)-1])
}

// Version returns one version's pointer. The error is an ErrNone if there is none.
func (s *Set) Version(ctx context.Context, version int64) (*Pointer, error) {
	p, _, err := s.read(ctx, s.key(version))
	if store.CodeOf(err) == store.NotFound {
		return nil, fmt.Errorf("sets: version %d of the set %s: %w", version, s.name, ErrNone)
	}
	if err != nil {
		return nil, err
	}
	if p.Version != version {
		return nil, &Corrupt{Location: s.b.Location(s.key(version)), Err: errors.New("it is of another version")}
	}
	return p, nil
}

// versions lists the numbers of the pointers that sort after a key, ascending.
func (s *Set) versions(ctx context.Context, after string) ([]int64, error) {
	var out []int64
	for info, err := range s.b.List(ctx, s.dir(), after) {
		if err != nil {
			return nil, fmt.Errorf("sets: %w", err)
		}
		digits, ok := strings.CutSuffix(strings.TrimPrefix(info.Key, s.dir()), ".json")
		if n, err := strconv.ParseInt(digits, 10, 64); ok && err == nil && len(digits) == 20 && n >= 0 {
			out = append(out, n)
		}
	}
	return out, nil
}

// List returns the newest limit pointers (0 = all), newest first.
func (s *Set) List(ctx context.Context, limit int) ([]Pointer, error) {
	versions, err := s.versions(ctx, "")
	if err != nil {
		return nil, err
	}
	var out []Pointer
	for _, v := range slices.Backward(versions) {
		if limit > 0 && len(out) == limit {
			break
		}
		p, err := s.Version(ctx, v)
		if err != nil {
			return nil, err
		}
		out = append(out, *p)
	}
	return out, nil
}

// Held returns the pointers whose versions must stay readable: the newest, and those that counted at some time since an instant, newest first.
// A reader that opened the set then may still be at work. None if the set was never published.
func (s *Set) Held(ctx context.Context, since time.Time) ([]Pointer, error) {
	versions, err := s.versions(ctx, "")
	if err != nil {
		return nil, err
	}
	var out []Pointer
	for _, v := range slices.Backward(versions) {
		if n := len(out); n > 0 && out[n-1].Published.Before(since) {
			break // this one was replaced before
		}
		p, err := s.Version(ctx, v)
		if err != nil {
			return nil, err
		}
		out = append(out, *p)
	}
	return out, nil
}

// tries and pause are for a store that does not answer.
const (
	tries = 4
	pause = 50 * time.Millisecond
)

// Publish creates the pointer behind the version base (-1 = the first). Its Set and Version are filled in; Run must be
// one that no other call uses, for it is how an answer that was lost is told from another's pointer. The error is *Conflict
// when the set has moved since, *Unresolved when that is not known; after every other error nothing was published.
func (s *Set) Publish(ctx context.Context, base int64, p Pointer) (*Pointer, error) {
	p.Set, p.Version = s.name, base+1
	data, err := encode(&p)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("sets: nothing was published: %w", context.Cause(ctx))
	}
	open := false // an earlier put may still arrive
	for try := range tries {
		if try > 0 && !wait(ctx, pause<<try) {
			break
		}
		if err = s.b.PutIfAbsent(ctx, s.key(p.Version), data); err == nil {
			return &p, nil
		}
		// Whether it is there must be known, even if ctx has ended.
		look, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		there, _, lookErr := s.read(look, s.key(p.Version))
		cancel()
		code := store.CodeOf(err)
		refused := !open && (code == store.Permission || code == store.Invalid || code == store.Full)
		switch {
		case lookErr == nil && there.Run == p.Run:
			return &p, nil
		case lookErr == nil:
			return nil, &Conflict{Set: s.name, Version: p.Version}
		case refused:
			return nil, fmt.Errorf("sets: publishing version %d of the set %s: %w", p.Version, s.name, err)
		case store.CodeOf(lookErr) != store.NotFound:
			return nil, &Unresolved{Set: s.name, Version: p.Version, Err: errors.Join(err, lookErr)}
		}
		open = true
	}
	return nil, &Unresolved{Set: s.name, Version: p.Version, Err: err}
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func encode(p *Pointer) ([]byte, error) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(p); err != nil {
		return nil, fmt.Errorf("sets: %w", err)
	}
	return buf.Bytes(), nil
}

// Copy makes current.json a copy of the pointer that counts, if it is not. A crash before it, or two runs that copy at once, can
// leave an older pointer there: consistent in itself, and mended by the next Copy.
func (s *Set) Copy(ctx context.Context) error {
	for range tries {
		newest, err := s.Newest(ctx)
		if errors.Is(err, ErrNone) {
			return nil
		}
		if err != nil {
			return err
		}
		want, err := encode(newest)
		if err != nil {
			return err
		}
		if _, have, err := s.read(ctx, s.current()); err == nil && bytes.Equal(have, want) {
			return nil
		}
		if err := s.b.Put(ctx, s.current(), want); err != nil {
			return fmt.Errorf("sets: %w", err)
		}
		// Once more: another pointer may have come, and its copy may have been replaced by this one.
	}
	return nil
}
