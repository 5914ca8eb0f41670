package edm

import (
	"maps"
	"regexp"
	"slices"
	"sync"
)

// Merge lays embedded under live. The result has the tables and columns of live, with its names, types,
// nullability and keys; from embedded come, for the tables and columns that both have, what CSDL does
// not say: filter operators, owners, sort support, allowed values, which texts are multi-language,
// which columns are secret, and references and navigation where live lacks them. A decimal that live
// leaves without precision or scale takes embedded's. Either model may be nil; neither is changed.
//
// Columns that embedded does not document have OpsKnown false. Of these, the ones whose name says that
// they hold a password, a key or the like are marked Secret: better a column too few than a secret in a
// report.
func Merge(live, embedded *Model) *Model {
	if live == nil {
		live, embedded = embedded, nil
	}
	m := &Model{tables: map[string]func() *Table{}}
	if live == nil {
		return m
	}
	m.names = slices.Clone(live.names)
	for name, table := range live.tables {
		m.tables[name] = sync.OnceValue(func() *Table {
			if embedded == nil {
				return mergeTable(table(), nil)
			}
			known, _ := embedded.Table(name)
			return mergeTable(table(), known)
		})
	}
	return m
}

func mergeTable(live, embedded *Table) *Table {
	t := &Table{
		Name: live.Name, Entity: live.Entity, Owners: slices.Clone(live.Owners), Key: live.Key,
		Columns: slices.Clone(live.Columns), byName: maps.Clone(live.byName),
	}
	if embedded != nil {
		if t.Entity == "" {
			t.Entity = embedded.Entity
		}
		if len(t.Owners) == 0 {
			t.Owners = slices.Clone(embedded.Owners)
		}
	}
	for i := range t.Columns {
		c := &t.Columns[i]
		var known *Column
		if embedded != nil {
			known, _ = embedded.Column(c.Name)
		}
		mergeColumn(t, c, known)
	}
	return t
}

// mergeColumn completes c, a column of t from $metadata, with what is documented of it; known is nil if
// nothing is.
func mergeColumn(t *Table, c, known *Column) {
	description := c.Comment
	if !c.OpsKnown {
		c.Secret = c.Secret || secret(t.Name, c.Name) || known == nil && secretName.MatchString(c.Name)
	}
	if known != nil {
		if !c.OpsKnown {
			c.Ops, c.OpsKnown = known.Ops, known.OpsKnown
		}
		c.Sortable = c.Sortable || known.Sortable
		c.OwnerRef = c.OwnerRef || known.OwnerRef
		c.Secret = c.Secret || known.Secret
		if len(c.Allowed) == 0 {
			c.Allowed = known.Allowed
		}
		if c.References == "" {
			c.References = known.References
		}
		if c.Navigation == "" {
			c.Navigation = known.Navigation
		}
		if c.Type.Kind == String && known.Type.Kind == MultiLanguage {
			c.Type.Kind = MultiLanguage
		}
		if c.openDecimal && known.Type.Kind == Decimal {
			c.Type, c.openDecimal = known.Type, false
		}
	}
	if !c.described {
		c.Comment, c.described = comment(c, description), true
	}
}

// secretName matches the names of undocumented columns that are taken for secret material.
var secretName = regexp.MustCompile(
	`(?i)password|passwd|passphrase|secret|credential|api_?key|private_?key|access_?token|refresh_?token|` +
		`token_?(value|key|hash|data)|pin_?code|recovery_?code|connection_?string`)
