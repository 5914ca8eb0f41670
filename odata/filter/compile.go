package filter

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tablexport/tablexport/odata/edm"
)

// Compile parses text, binds it to table and checks it against the Table API's dialect. Empty text
// gives the zero Bound. The error is a Problems with everything that is wrong at once (a syntax error
// hides what stands beyond it).
//
// The dialect: comparisons joined with and; eq (also eq null), ge, le, like, in; an or-chain of
// equalities of one column, which becomes in; columns of the table itself, of its owners over the owner
// references, and of whatever is reached over a reference that the model does not document; on every
// column the operators that the model documents for it, or all if it documents none ([edm.Column].OpsKnown).
// Columns that hold secret material are refused.
func Compile(text string, m *edm.Model, table *edm.Table) (Bound, error) {
	return compile(text, m, table)
}

// CheckSyntax checks text without a model, for configuration checks before any instance is asked: the
// syntax, and of the dialect what does not depend on the columns. The error is a Problems.
func CheckSyntax(text string) error {
	_, err := compile(text, nil, nil)
	return err
}

func compile(text string, m *edm.Model, table *edm.Table) (Bound, error) {
	n, problem := parse(text)
	if problem != nil {
		return Bound{}, Problems{problem}
	}
	c := &compiler{model: m, table: table}
	if n != nil {
		c.condition(n)
	}
	if len(c.problems) > 0 {
		slices.SortStableFunc(c.problems, func(a, b *Problem) int { return cmp.Compare(a.Offset, b.Offset) })
		return Bound{}, c.problems
	}
	return Bound{terms: c.terms}, nil
}

// compiler binds a tree to a table. Without a table it only looks for what no table would take.
type compiler struct {
	model    *edm.Model
	table    *edm.Table
	terms    []Term
	problems Problems
}

func (c *compiler) refuse(offset int, hint, text string, args ...any) {
	c.problems = append(c.problems, &Problem{Offset: offset, Text: fmt.Sprintf(text, args...), Hint: hint})
}

// condition turns n into terms, or into problems.
func (c *compiler) condition(n *node) {
	if len(c.problems) >= maxProblems {
		return
	}
	switch n.kind {
	case nodeAnd:
		for _, kid := range n.kids {
			c.condition(kid)
		}
	case nodeOr:
		if merged := oneColumn(n); merged != nil {
			c.compare(merged)
			return
		}
		c.refuse(n.offset, "split it into one query per alternative (two jobs, or two filters) and append the results",
			"the Table API takes `or` only between equalities of one column%s", alternatives(n))
		c.onlyProblems(n.kids)
	case nodeNot:
		c.not(n)
	case nodeCall:
		c.call(n.left)
	case nodeBare:
		c.bare(n)
	case nodeCompare:
		c.compare(n)
	}
}

// onlyProblems looks for further problems below a node that is refused anyway.
func (c *compiler) onlyProblems(kids []*node) {
	terms := c.terms
	for _, kid := range kids {
		c.condition(kid)
	}
	c.terms = terms
}

// oneColumn returns an or-chain of equalities of one column as a single in, or nil if it is anything else.
func oneColumn(n *node) *node {
	merged := &node{kind: nodeCompare, offset: n.offset, op: "in"}
	var collect func(n *node) bool
	collect = func(n *node) bool {
		switch {
		case n.kind == nodeOr:
			return !slices.ContainsFunc(n.kids, func(kid *node) bool { return !collect(kid) })
		case n.kind != nodeCompare || n.op != "eq" && n.op != "in":
			return false
		}
		if _, ok := n.left.path(); !ok || merged.values != nil && n.left.text != merged.left.text {
			return false
		}
		if merged.values == nil {
			merged.left, merged.offset = n.left, n.offset
		}
		merged.values = append(merged.values, n.values...)
		return true
	}
	if !collect(n) {
		return nil
	}
	return merged
}

// alternatives names the columns that an or joins: ", not between A and B".
func alternatives(n *node) string {
	var names []string
	var collect func(n *node)
	collect = func(n *node) {
		for _, kid := range n.kids {
			collect(kid)
		}
		if n.kind == nodeCompare && n.left.kind == operandWord && !slices.Contains(names, n.left.text) {
			names = append(names, n.left.text)
		}
	}
	collect(n)
	if len(names) < 2 || len(names) > 4 {
		return ""
	}
	return ", not between " + strings.Join(names, " and ")
}

// opposites are what to write for a negated comparison, where the dialect has it.
func (c *compiler) not(n *node) {
	hint := "write what the rows must be instead of what they must not be"
	if kid := n.kids[0]; kid.kind == nodeCompare && kid.op == "eq" && len(kid.values) == 1 {
		switch v := kid.values[0]; {
		case v.is("true"):
			hint = "write " + kid.left.text + " eq false"
		case v.is("false"):
			hint = "write " + kid.left.text + " eq true"
		}
	} else if kid.kind == nodeBare {
		hint = "write " + kid.left.text + " eq false"
	}
	c.refuse(n.offset, hint, "the Table API has no `not`")
	if n.kids[0].kind != nodeBare {
		c.onlyProblems(n.kids)
	}
}

func (c *compiler) bare(n *node) {
	if _, ok := n.left.path(); ok {
		c.refuse(n.offset, fmt.Sprintf("write %s eq true", n.left.text), "%s stands alone, without a comparison", n.left.text)
		return
	}
	c.refuse(n.offset, "write a comparison such as Void eq false", "a value stands alone, without a comparison")
}

// call refuses a function, saying what comes near it.
func (c *compiler) call(o operand) {
	hint := "compare the column itself with eq, ge, le, like or in"
	switch name := strings.ToLower(o.text); {
	case name == "contains", name == "substringof", name == "indexof":
		hint = "write Column like '%x%'"
	case name == "startswith":
		hint = "write Column like 'x%'"
	case name == "endswith":
		hint = "write Column like '%x'"
	case slices.Contains([]string{"year", "month", "day", "date"}, name):
		hint = "write the period: Column ge 2023-01-01T00:00:00Z and Column le 2023-12-31T23:59:59.997Z"
	case name == "now":
		hint = "write the date and time, or let the job's refresh windows move"
	case strings.HasSuffix(name, "/any"), strings.HasSuffix(name, "/all"):
		hint = "filter the table that holds the many rows, over its owner path to this one"
	}
	c.refuse(o.offset, hint, "the Table API takes no functions, and `%s` is one", o.text)
}

// operators maps the words of the dialect.
var operators = map[string]Op{"eq": Eq, "ge": Ge, "le": Le, "like": Like, "in": In}

// compare binds one comparison.
func (c *compiler) compare(n *node) {
	path, ok := c.left(n)
	if !ok {
		return
	}
	for _, v := range n.values {
		if !c.right(n, v) {
			return
		}
	}
	op, known := operators[n.op]
	if c.table == nil {
		if !known {
			c.refuse(n.offset, noColumnHints[n.op], "the Table API has no `%s` (%s)", n.op, n.left.text)
		}
		c.nulls(n)
		return
	}
	to, ok := c.resolve(n.left, path)
	if !ok {
		return
	}
	if !known {
		c.beyond(n, to.Column)
		return
	}
	if !c.nulls(n) {
		return
	}
	t := Term{Path: path, To: to, Op: op, Offset: n.offset}
	seen := make(map[Literal]bool, len(n.values))
	for _, v := range n.values {
		l, ok := c.literal(to.Column, op, v)
		if !ok {
			return
		}
		if !seen[l] {
			seen[l] = true
			t.Values = append(t.Values, l)
		}
	}
	t = t.simple()
	if text, hint := t.unsupported(); text != "" {
		c.refuse(n.offset, hint, "%s", text)
		return
	}
	if len(c.terms) == maxTerms {
		c.refuse(n.offset, "leave some out, or join values of one column with in", "there are more than %d comparisons", maxTerms)
		return
	}
	c.terms = append(c.terms, t)
}

// simple writes an in with one value as the equality that it is.
func (t Term) simple() Term {
	if c := t.To.Column; t.Op == In && len(t.Values) == 1 && (!c.OpsKnown || c.Ops.Has(edm.OpEq)) {
		t.Op = Eq
	}
	return t
}

// left checks that the left side is a path.
func (c *compiler) left(n *node) ([]string, bool) {
	path, ok := n.left.path()
	switch {
	case ok:
		return path, true
	case n.left.kind == operandCall:
		c.call(n.left)
	case n.left.kind == operandMath:
		c.refuse(n.offset, "compare the column itself with a value", "the Table API has no arithmetic, and `%s` is some", n.left.text)
	default:
		hint := "write the column on the left and the value on the right"
		if len(n.values) == 1 {
			if _, ok := n.values[0].path(); ok {
				turned := map[string]string{"ge": "le", "le": "ge", "gt": "lt", "lt": "gt"}
				hint = fmt.Sprintf("write %s %s …", n.values[0].text, cmp.Or(turned[n.op], n.op))
			}
		}
		c.refuse(n.offset, hint, "a value stands on the left of `%s`", n.op)
	}
	return nil, false
}

// right checks that a value is a value.
func (c *compiler) right(n *node, v operand) bool {
	switch v.kind {
	case operandCall:
		c.call(v)
		return false
	case operandMath:
		c.refuse(v.offset, "write the result", "the Table API has no arithmetic, and `%s` is some", v.text)
		return false
	}
	return true
}

// nulls checks that null stands only where the dialect takes it.
func (c *compiler) nulls(n *node) bool {
	if n.op == "eq" || n.op == "ne" {
		return true
	}
	for _, v := range n.values {
		if v.is("null") {
			c.refuse(v.offset, fmt.Sprintf("write %s eq null in a query of its own", n.left.text),
				"`%s` does not take null (%s)", n.op, n.left.text)
			return false
		}
	}
	return true
}

// resolve follows a path to its column.
func (c *compiler) resolve(o operand, path []string) (edm.Resolution, bool) {
	to, err := c.model.Resolve(c.table, path)
	if err != nil {
		text, hint := err.Error(), c.ownerPaths()
		if bad := (*edm.PathError)(nil); errors.As(err, &bad) {
			text = bad.Reason
			if len(bad.Suggest) > 0 {
				hint = "did you mean " + strings.Join(bad.Suggest, " or ") + "?"
			} else if len(path) == 1 {
				hint = fmt.Sprintf("`tablexport tables %s` lists the columns", c.table.Name)
			}
		}
		c.refuse(o.offset, hint, "%s", text)
		return to, false
	}
	if to.Column.Secret {
		c.refuse(o.offset, "leave the comparison out", "column %s of table %s holds secret material", to.Column.Name, to.Table.Name)
		return to, false
	}
	if !to.Owner && slices.ContainsFunc(to.Hops, func(h *edm.Column) bool { return !h.OwnerRef && h.OpsKnown }) {
		c.refuse(o.offset, c.ownerPaths()+fmt.Sprintf(", or compare %s itself", to.Hops[0].Name),
			"path %s does not stay in the Owner Tables Hierarchy of %s, and the Table API documents no filter on it", o.text, c.table.Name)
		return to, false
	}
	return to, true
}

// ownerPaths says which reference paths the table has.
func (c *compiler) ownerPaths() string {
	var paths []string
	for _, p := range c.model.OwnerPaths(c.table) {
		paths = append(paths, strings.Join(p.Path, "/")+"/… ("+p.Table.Name+")")
	}
	if paths == nil {
		return fmt.Sprintf("table %s has no owner path", c.table.Name)
	}
	return "use the owner path " + strings.Join(paths, " or ")
}

// literal types a value by the column.
func (c *compiler) literal(column *edm.Column, op Op, v operand) (Literal, bool) {
	l, f := typedLiteral(column.Type, op, v)
	if f != nil {
		c.refuse(v.offset, f.hint, "column %s (%s) `%s`: %s", column.Name, column.Type, op, f.text)
		return l, false
	}
	return l, true
}

// typedLiteral reads an operand as a value of typ.
func typedLiteral(typ edm.Type, op Op, v operand) (Literal, *fault) {
	textual := typ.Kind == edm.String || typ.Kind == edm.MultiLanguage
	switch {
	case v.is("null"):
		return Literal{kind: typ.Kind, null: true}, nil
	case v.kind == operandText && !textual && typ.Kind != edm.Guid:
		l, f := newLiteral(typ, op, v.text)
		if f == nil {
			f = &fault{"the value is quoted like a text", "write " + l.String() + " without quotes"}
		}
		return l, f
	case v.kind == operandWord && textual:
		return Literal{}, &fault{fmt.Sprintf("%s is not a quoted text", show(v.text)), "put it in single quotes: " + Literal{kind: edm.String, text: v.text}.String()}
	case v.kind == operandWord && typ.Kind == edm.Boolean:
		return newLiteral(typ, op, strings.ToLower(v.text))
	}
	return newLiteral(typ, op, v.text)
}
