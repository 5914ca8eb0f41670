package filter

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong with a filter's text. Offset counts bytes from the text's start.
type Problem struct {
	Offset int
	Text   string // one sentence: what is wrong, naming column and operator
	Hint   string // what would work instead
}

// Error implements error.
func (p *Problem) Error() string {
	if p.Hint == "" {
		return fmt.Sprintf("at character %d: %s", p.Offset+1, p.Text)
	}
	return fmt.Sprintf("at character %d: %s; %s", p.Offset+1, p.Text, p.Hint)
}

// Problems is every problem of one filter, in the order of the text. It is the error of Compile.
type Problems []*Problem

// Error implements error.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives errors.As access to each problem.
func (p Problems) Unwrap() []error {
	errs := make([]error, len(p))
	for i, one := range p {
		errs[i] = one
	}
	return errs
}
