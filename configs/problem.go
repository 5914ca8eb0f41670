package configs

import (
	"fmt"
	"slices"
	"strings"
)

// Position is a place in the file, counted from 1. Column counts characters.
type Position struct {
	Line, Column int
}

// Problem is one thing to change in a file.
type Problem struct {
	File string
	Position
	Key  string // dotted path: "jobs.order-lines.filter"; "" for the file as a whole
	Text string // what is wrong; never a value that could be a secret
	Hint string // what to write instead; may be empty

	// Secret says that the value at this place looks like a secret: whatever else is wrong with it must not be said by quoting it.
	Secret bool
}

// Error gives the problem on one line: file:line:column: key: text; hint.
func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Key != "" {
		b.WriteString(p.Key)
		b.WriteString(": ")
	}
	b.WriteString(p.Text)
	if p.Hint != "" {
		b.WriteString("; ")
		b.WriteString(p.Hint)
	}
	return b.String()
}

// Problems is everything that is wrong with a file, in the order of the file. It is the error of Load.
type Problems []*Problem

// Error gives one problem a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Sorted puts the problems into the order of the file, and returns them.
func (ps Problems) Sorted() Problems {
	slices.SortStableFunc(ps, func(a, b *Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return ps
}

// suggestion names the closest of known to a mistyped word, or all of them when none is close.
func suggestion(word string, known []string) string {
	if len(known) == 0 {
		return ""
	}
	best, distance := "", len(word)/2+1
	for _, k := range known {
		if len(word) >= 3 && strings.HasPrefix(strings.ToLower(k), strings.ToLower(word)) {
			return fmt.Sprintf("did you mean %q?", k)
		}
		if d := editDistance(strings.ToLower(word), strings.ToLower(k)); d < distance {
			best, distance = k, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	known = slices.Sorted(slices.Values(known))
	const most = 12
	if len(known) > most {
		return "write one of " + strings.Join(known[:most], ", ") + ", …"
	}
	return "write one of " + strings.Join(known, ", ")
}

// editDistance is Levenshtein's, over bytes; words here are short.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		previous := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j+1]+1, row[j]+1, previous+cost)
			previous, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
