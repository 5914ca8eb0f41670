package export

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"github.com/tablexport/tablexport/export/delta"
)

// Contract is what may become of a dataset's columns when those of its source change.
type Contract string

// The contracts. AcceptSchema goes before all of them, once.
const (
	// Evolve takes over new nullable columns, and wider types (integers, decimals) where the commit replaces every file: files that stay would
	// hold the narrower type under a schema that says the wider, which readers of Delta do not take. Other differences are refused.
	Evolve Contract = ""
	// Freeze refuses every difference.
	Freeze Contract = "freeze"
	// Quarantined holds on to the published types: rows that do not fit them go to the quarantine. New nullable columns are taken over, and other
	// differences refused.
	Quarantined Contract = "quarantine"
)

// permit decides on a difference that reconcile has found. breaks says that published files do not fit the new columns, so that none may stay.
func (c Contract) permit(old, fresh []delta.Field, diff []string, additive, samePartitions bool) (allowed, breaks bool) {
	switch {
	case c == Freeze:
		return len(diff) == 0, false
	case additive:
		return true, false
	case c == Evolve && samePartitions && widened(old, fresh):
		return true, true
	}
	return false, false
}

// widened reports whether every published column is there still, with its type or a wider one, as nullable as it was, and every new one is nullable.
func widened(old, fresh []delta.Field) bool {
	for _, o := range old {
		i := slices.IndexFunc(fresh, func(f delta.Field) bool { return f.Name == o.Name })
		if _, bound := o.Metadata["delta.invariants"]; i < 0 || bound || fresh[i].Nullable != o.Nullable || !holds(fresh[i].Type, o.Type) {
			return false
		}
	}
	return !slices.ContainsFunc(fresh, func(f delta.Field) bool {
		return !f.Nullable && !slices.ContainsFunc(old, func(o delta.Field) bool { return o.Name == f.Name })
	})
}

var decimalType = regexp.MustCompile(`^decimal\((\d+),(\d+)\)$`)

// holds reports whether every value of type narrow is one of type wide.
func holds(wide, narrow string) bool {
	if wide == narrow {
		return true
	}
	integers := []string{"byte", "short", "integer", "long"}
	if w, n := slices.Index(integers, wide), slices.Index(integers, narrow); w >= 0 && n >= 0 {
		return n < w
	}
	w, n := decimalType.FindStringSubmatch(wide), decimalType.FindStringSubmatch(narrow)
	if w == nil || n == nil {
		return false
	}
	number := func(text string) int {
		i, _ := strconv.Atoi(text)
		return i
	}
	scale, was := number(w[2]), number(n[2])
	return scale >= was && number(w[1])-scale >= number(n[1])-was
}

// validate refuses what the contract cannot do.
func (c Contract) validate(q *Quarantine) error {
	switch {
	case c != Evolve && c != Freeze && c != Quarantined:
		return fmt.Errorf("export: there is no schema contract %q", c)
	case (c == Quarantined) != (q != nil):
		return fmt.Errorf("export: a quarantine goes with the contract %q, and with no other", Quarantined)
	}
	return nil
}
