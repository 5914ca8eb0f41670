package sets

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/odata/extsort"
)

// Opened is a member's dataset at a version.
type Opened struct {
	Job     string
	Dataset *export.Dataset
	Version int64
}

// Edge is a column of one member whose values are keys of other members.
type Edge struct {
	Job, Column string
	To          []string // jobs of the table that is referred to; a key of any of them will do
	Key         string   // their key column
	Enforced    bool     // see [Reference].Enforced
}

// Dangling is the error for a set whose members do not fit together. It holds names and counts, no values.
type Dangling struct {
	Set        string
	References []Reference // those with missing keys that must have none
}

// Error implements error.
func (e *Dangling) Error() string {
	parts := make([]string, len(e.References))
	for i, r := range e.References {
		parts[i] = fmt.Sprintf("%s of job %s: %d of %d values are no %s of job %s", r.Column, r.Job, r.Missing, r.Keys, r.Key, strings.Join(r.To, " or "))
	}
	return fmt.Sprintf("set %s: the members do not fit together, so the pointer was not moved: %s", e.Set, strings.Join(parts, "; "))
}

// Missing are the references that must have no missing keys and have some.
func Missing(refs []Reference) []Reference {
	var out []Reference
	for _, r := range refs {
		if r.Enforced && r.Missing > 0 {
			out = append(out, r)
		}
	}
	return out
}

// Prove holds the edges' columns against the keys that they refer to, in the published files of the given versions. NULL refers to
// nothing. Memory is bounded: two sorters of [extsort.DefaultMemory] and a batch of one column at a time; what does not fit is
// sorted in temporary files. The error is for what kept us from looking; what is wrong with the data is in the references.
func Prove(ctx context.Context, members []Opened, edges []Edge) ([]Reference, error) {
	p := prover{members: map[string]Opened{}, snapshots: map[string]*delta.Snapshot{}}
	for _, m := range members {
		s, err := m.Dataset.SnapshotAt(ctx, m.Version)
		if err != nil {
			return nil, fmt.Errorf("sets: version %d of the dataset of job %s: %w", m.Version, m.Job, err)
		}
		p.members[m.Job], p.snapshots[m.Job] = m, s
	}
	refs := make([]Reference, 0, len(edges))
	for _, e := range edges {
		ref, err := p.prove(ctx, e)
		if err != nil {
			return nil, fmt.Errorf("sets: %s of job %s against %s of job %s: %w", e.Column, e.Job, e.Key, strings.Join(e.To, ", "), err)
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

type prover struct {
	members   map[string]Opened
	snapshots map[string]*delta.Snapshot
}

// prove is one anti-join, sorted.
func (p *prover) prove(ctx context.Context, e Edge) (Reference, error) {
	ref := Reference{Job: e.Job, Column: e.Column, To: e.To, Key: e.Key, Enforced: e.Enforced}
	values, keys := extsort.New(extsort.Options{Unique: true}), extsort.New(extsort.Options{Unique: true})
	defer values.Close()
	defer keys.Close()
	if err := p.column(ctx, e.Job, e.Column, values); err != nil {
		return ref, err
	}
	for _, job := range e.To {
		if err := p.column(ctx, job, e.Key, keys); err != nil {
			return ref, err
		}
	}
	for pair, err := range extsort.Join(values, keys) {
		if err != nil {
			return ref, err
		}
		if !pair.InLeft {
			continue
		}
		ref.Keys++
		if !pair.InRight {
			ref.Missing++
		}
	}
	return ref, nil
}

// column adds the values of a member's column.
func (p *prover) column(ctx context.Context, job, column string, to *extsort.Sorter) error {
	m, s := p.members[job], p.snapshots[job]
	if s == nil {
		return fmt.Errorf("job %s is no member", job)
	}
	for _, f := range s.Files {
		for rec, err := range m.Dataset.Records(ctx, s, f, []string{column}, 0) {
			if err == nil {
				err = add(rec.Column(0), to)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func add(col arrow.Array, to *extsort.Sorter) error {
	text, isText := col.(*array.String)
	for row := range col.Len() {
		if col.IsNull(row) {
			continue
		}
		var err error
		if isText {
			err = to.Add([]byte(text.Value(row)), nil)
		} else {
			err = to.Add([]byte(col.ValueStr(row)), nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Gone is the error for a version of a set that cannot be read any more.
type Gone struct {
	Set     string
	Version int64
	Jobs    []string // members whose files, or log, are gone
}

// Error implements error.
func (e *Gone) Error() string {
	return fmt.Sprintf("sets: version %d of the set %s cannot be read any more: files of its version of %s are gone; choose a newer one",
		e.Version, e.Set, strings.Join(e.Jobs, ", "))
}

// Readable demands that every file of every member is there. The error is *Gone when something is not.
func Readable(ctx context.Context, p *Pointer, open func(context.Context, Member) (*export.Dataset, error)) error {
	gone := &Gone{Set: p.Set, Version: p.Version}
	for _, m := range p.Members {
		d, err := open(ctx, m)
		if err != nil {
			return err
		}
		ok, err := readable(ctx, d, m.Version)
		if err != nil {
			return fmt.Errorf("sets: version %d of the dataset of job %s: %w", m.Version, m.Job, err)
		}
		if !ok {
			gone.Jobs = append(gone.Jobs, m.Job)
		}
	}
	if len(gone.Jobs) > 0 {
		return gone
	}
	return nil
}

func readable(ctx context.Context, d *export.Dataset, version int64) (bool, error) {
	missing, err := d.MissingFiles(ctx, version)
	if errors.Is(err, delta.ErrNoVersion) {
		return false, nil
	}
	return len(missing) == 0, err
}
