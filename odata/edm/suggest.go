package edm

import (
	"cmp"
	"slices"
	"strings"
)

// maxSuggest bounds the length of a name for which suggestions are sought: the distance is quadratic,
// and a longer name is no typing error.
const maxSuggest = 128

// closest returns up to three of names that are near to name: the same but for case, or within an edit
// distance of a third of its length, or containing it.
func closest(name string, names []string) []string {
	if name == "" || len(name) > maxSuggest {
		return nil
	}
	type near struct {
		name string
		far  int
	}
	lower := strings.ToLower(name)
	limit := max(1, min((len(lower)+2)/3, 6))
	var found []near
	for _, n := range names {
		l := strings.ToLower(n)
		if l == lower {
			found = append(found, near{n, 0})
			continue
		}
		if d := distance(lower, l, limit); d <= limit {
			found = append(found, near{n, d})
		} else if len(lower) >= 4 && strings.Contains(l, lower) {
			found = append(found, near{n, limit + 1 + len(l) - len(lower)})
		}
	}
	slices.SortFunc(found, func(a, b near) int {
		return cmp.Or(cmp.Compare(a.far, b.far), cmp.Compare(a.name, b.name))
	})
	var out []string
	for _, f := range found[:min(3, len(found))] {
		out = append(out, f.name)
	}
	return out
}

// distance is the Levenshtein distance of a and b in bytes, or limit+1 if it is greater than limit.
func distance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal, best := row[0], i
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
			best = min(best, row[j])
		}
		if best > limit {
			return limit + 1
		}
	}
	return row[len(b)]
}
