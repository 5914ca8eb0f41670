package edm

import (
	"fmt"
	"strings"
)

// maxHops bounds a path. The longest owner hierarchy of the documented model has four tables.
const maxHops = 16

// PathError says which segment of a path leads nowhere.
type PathError struct {
	Table   string   // the table in which Segment was looked up
	Path    []string // the whole path
	Index   int      // of the segment in Path
	Segment string   // Path[Index], "" for an empty path
	Reason  string   // one clause: what is wrong with the segment
	Suggest []string // what may have been meant instead, best first; nil if nothing is near
}

// Error implements error.
func (e *PathError) Error() string {
	text := e.Reason
	if len(e.Path) > 1 {
		text = fmt.Sprintf("path %s: %s", strings.Join(e.Path, "/"), e.Reason)
	}
	if len(e.Suggest) > 0 {
		text += "; did you mean " + strings.Join(e.Suggest, " or ") + "?"
	}
	return text
}

// Resolve follows path from t: every segment but the last is a reference (the navigation name of a
// reference column), the last is a column. The error is a *PathError.
func (m *Model) Resolve(t *Table, path []string) (Resolution, error) {
	fail := func(at *Table, i int, suggest []string, reason string, args ...any) error {
		e := &PathError{Table: at.Name, Path: path, Index: i, Reason: fmt.Sprintf(reason, args...), Suggest: suggest}
		if i < len(path) {
			e.Segment = path[i]
		}
		return e
	}
	if len(path) == 0 {
		return Resolution{}, fail(t, 0, nil, "an empty path names no column of table %s", t.Name)
	}
	if len(path) > maxHops {
		return Resolution{}, fail(t, maxHops, nil, "more than %d segments", maxHops)
	}
	r := Resolution{Table: t, Owner: true}
	for i, segment := range path[:len(path)-1] {
		hop := r.Table.follow(segment)
		if hop == nil {
			return Resolution{}, fail(r.Table, i, r.Table.suggestReference(segment),
				"table %s has no reference %q", r.Table.Name, segment)
		}
		next, ok := m.Table(hop.References)
		if !ok {
			return Resolution{}, fail(r.Table, i, nil,
				"%s leads to table %s, which this model does not have", segment, hop.References)
		}
		r.Owner = r.Owner && hop.OwnerRef
		r.Hops = append(r.Hops, hop)
		r.Table = next
	}
	last := len(path) - 1
	column, ok := r.Table.Column(path[last])
	if !ok {
		if r.Table.follow(path[last]) != nil {
			return Resolution{}, fail(r.Table, last, nil,
				"%s is a reference of table %s, not a column: go on with /Column", path[last], r.Table.Name)
		}
		return Resolution{}, fail(r.Table, last, r.Table.Suggest(path[last]),
			"table %s has no column %q", r.Table.Name, path[last])
	}
	r.Column = column
	return r, nil
}

// follow returns the reference column that segment follows, or nil.
func (t *Table) follow(segment string) *Column {
	if segment == "" {
		return nil
	}
	for i := range t.Columns {
		if c := &t.Columns[i]; c.Navigation == segment && c.References != "" {
			return c
		}
	}
	return nil
}

// suggestReference names the references that segment may have meant. Writing the reference column
// itself (Document_Id/Void) is the common slip.
func (t *Table) suggestReference(segment string) []string {
	if c, ok := t.Column(segment); ok && c.Navigation != "" {
		return []string{c.Navigation}
	}
	var names []string
	for i := range t.Columns {
		if c := &t.Columns[i]; c.Navigation != "" && c.References != "" {
			names = append(names, c.Navigation)
		}
	}
	return closest(segment, names)
}

// OwnerPath is a way from a table to one of its owners.
type OwnerPath struct {
	Path  []string // the references to follow
	Table *Table   // the owner that they lead to
}

// OwnerPaths returns the ways from t up its Owner Tables Hierarchy, nearest owner first: the only
// reference paths that the Table API documents as always filterable.
func (m *Model) OwnerPaths(t *Table) []OwnerPath {
	var out []OwnerPath
	var path []string
	for at := t; len(path) < maxHops; {
		var hop *Column
		for i := range at.Columns {
			if c := &at.Columns[i]; c.OwnerRef && c.Navigation != "" {
				hop = c
				break
			}
		}
		if hop == nil {
			break
		}
		next, ok := m.Table(hop.References)
		if !ok || next == t {
			break
		}
		path = append(path, hop.Navigation)
		out = append(out, OwnerPath{Path: append([]string(nil), path...), Table: next})
		at = next
	}
	return out
}
