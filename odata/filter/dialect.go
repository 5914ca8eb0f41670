package filter

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/tablexport/tablexport/odata/edm"
)

// This file knows what the Table API takes of a well-formed comparison, and what to write instead.

// noColumnHints are the hints for operators beyond the dialect where the column is not known.
var noColumnHints = map[string]string{
	"ne":  "write what the rows must be: eq false instead of ne true, in (…) with the other values",
	"gt":  "write ge with the next greater value",
	"lt":  "write le with the next smaller value",
	"has": "write in (…) with the values that have it",
}

// unsupported says why the server would refuse the term, and what would work; "" if it takes it.
func (t Term) unsupported() (text, hint string) {
	c := t.To.Column
	kind := c.Type.Kind
	textual := kind == edm.String || kind == edm.MultiLanguage
	switch {
	case kind == edm.Invalid || kind == edm.Binary:
		return fmt.Sprintf("column %s (%s) cannot be filtered on", c.Name, c.Type), "leave the comparison out"
	case t.Op == Like && !textual:
		return fmt.Sprintf("`like` compares texts, and column %s is %s", c.Name, c.Type), takes(c)
	case kind == edm.Boolean && (t.Op == Ge || t.Op == Le):
		return fmt.Sprintf("`%s` has no meaning on column %s, which is true or false", t.Op, c.Name), "write " + c.Name + " eq true or eq false"
	case !c.OpsKnown || c.Ops.Has(t.Op.needs()):
		return "", ""
	case c.Ops == 0:
		return fmt.Sprintf("column %s cannot be filtered on: the Table API documents no operator for it, and `%s` is asked", c.Name, t.Op),
			"leave the comparison out and filter the published table"
	}
	text = fmt.Sprintf("column %s does not take `%s`", c.Name, t.Op)
	path, v := strings.Join(t.Path, "/"), t.Values[0]
	switch {
	case v.null:
		hint = takes(c)
	case t.Op == Eq && c.Ops.Has(edm.OpRange):
		hint = fmt.Sprintf("write %s ge %s and %s le %s", path, v, path, v)
	case t.Op == Eq && c.Ops.Has(edm.OpLike) && textual && !strings.ContainsAny(v.text, "%_["):
		hint = fmt.Sprintf("write %s like %s", path, v)
	case t.Op == In && c.Ops.Has(edm.OpEq):
		hint = fmt.Sprintf("write one query per value: %s eq %s", path, v)
	case (t.Op == Ge || t.Op == Le) && c.Ops.Has(edm.OpIn):
		hint = fmt.Sprintf("write %s in (…) with the values", path)
	default:
		hint = takes(c)
	}
	return text, hint
}

// takes says what a column takes.
func takes(c *edm.Column) string {
	ops := c.Ops
	if !c.OpsKnown {
		return "write eq, in, ge or le"
	}
	if k := c.Type.Kind; k != edm.String && k != edm.MultiLanguage {
		ops &^= edm.OpLike
	}
	if ops == 0 {
		return "leave the comparison out and filter the published table"
	}
	return c.Name + " takes " + ops.String()
}

// beyond refuses an operator that OData has and the Table API has not.
func (c *compiler) beyond(n *node, column *edm.Column) {
	hint := noColumnHints[n.op]
	v := n.values[0]
	switch n.op {
	case "gt", "lt":
		if l, f := typedLiteral(column.Type, Eq, v); f == nil && !l.null {
			hint = boundary(n.left.text, column, l, n.op == "gt")
		}
	case "ne":
		hint = unequal(n.left.text, column, v)
	}
	c.refuse(n.offset, hint, "the Table API has no `%s` (column %s)", n.op, column.Name)
}

// unequal is the hint for ne.
func unequal(path string, c *edm.Column, v operand) string {
	switch {
	case v.is("null"):
		if c.Type.Kind == edm.Guid && (!c.OpsKnown || c.Ops.Has(edm.OpRange)) {
			return fmt.Sprintf("write %s ge 00000000-0000-0000-0000-000000000000", path)
		}
		return "there is no filter for values that are not null: leave it out and filter the published table"
	case v.is("true"):
		return fmt.Sprintf("write %s eq false", path)
	case v.is("false"):
		return fmt.Sprintf("write %s eq true", path)
	case len(c.Allowed) > 1 && len(c.Allowed) <= 12 && (!c.OpsKnown || c.Ops.Has(edm.OpIn)):
		var others []string
		for _, a := range c.Allowed {
			if l, f := newLiteral(c.Type, In, a); f == nil && a != v.text {
				others = append(others, l.String())
			}
		}
		return fmt.Sprintf("write %s in (%s)", path, strings.Join(others, ","))
	}
	return noColumnHints["ne"]
}

// boundary is the hint for gt (greater) and lt: the inclusive bound that admits exactly the same values
// of the column, where there is one.
func boundary(path string, c *edm.Column, l Literal, greater bool) string {
	op, step := "le", int64(-1)
	if greater {
		op, step = "ge", 1
	}
	if c.OpsKnown && !c.Ops.Has(edm.OpRange) {
		return takes(c)
	}
	next := ""
	switch c.Type.Kind {
	case edm.Byte, edm.Int16, edm.Int32, edm.Int64:
		if greater && l.n == math.MaxInt64 || !greater && l.n == math.MinInt64 {
			return "no value lies beyond: leave the comparison out"
		}
		next = fmt.Sprint(l.n + step)
	case edm.Decimal:
		next = decimalStep(l.text, c.Type.Scale, step)
	case edm.Date:
		day, err := time.Parse("2006-01-02", l.text)
		if err != nil {
			return noColumnHints["gt"]
		}
		next = day.AddDate(0, 0, int(step)).Format("2006-01-02")
	case edm.DateTime:
		// SQL Server's datetime counts in 1/300 s, shown as .000, .003 and .007: from a whole second,
		// the neighbours are .997 before it and .003 after it.
		at, err := time.Parse(instant, l.text)
		if err != nil || at.Nanosecond() != 0 {
			return fmt.Sprintf("write %s %s with the neighbouring instant (%s is inclusive)", path, op, op)
		}
		next = at.Add(time.Duration(step) * 3 * time.Millisecond).Format(instant)
	}
	if next == "" {
		return fmt.Sprintf("write %s %s (which is inclusive) with the neighbouring value", path, op)
	}
	if typed, f := newLiteral(c.Type, Eq, next); f == nil {
		return fmt.Sprintf("write %s %s %s", path, op, typed)
	}
	return "no value lies beyond: leave the comparison out"
}

// decimalStep adds step units of the last place at scale to a canonical decimal text.
func decimalStep(text string, scale int32, step int64) string {
	whole, fraction, _ := strings.Cut(text, ".")
	n, ok := new(big.Int).SetString(whole+fraction+strings.Repeat("0", int(scale)-len(fraction)), 10)
	if !ok {
		return ""
	}
	n.Add(n, big.NewInt(step))
	digits := new(big.Int).Abs(n).String()
	if pad := int(scale) + 1 - len(digits); pad > 0 {
		digits = strings.Repeat("0", pad) + digits
	}
	out := digits[:len(digits)-int(scale)] + "." + digits[len(digits)-int(scale):]
	if n.Sign() < 0 {
		out = "-" + out
	}
	return strings.TrimSuffix(out, ".")
}

// KeyFrom is "column ge text", for paging and windows. text is the value as the decoder yields it, bare:
// GUIDs as 36 characters, dates YYYY-MM-DD, date-times YYYY-MM-DDThh:mm:ss[.ffffff]Z, texts unquoted.
// It fails with a *Problem if the column is unknown, if text is no value of its type, or if the column
// does not take ge.
func KeyFrom(table *edm.Table, column, text string) (Bound, error) {
	return keyTerm(table, column, Ge, text)
}

// KeyRange is "column ge from and column le to", both inclusive; see [KeyFrom].
func KeyRange(table *edm.Table, column, from, to string) (Bound, error) {
	low, err := keyTerm(table, column, Ge, from)
	if err != nil {
		return Bound{}, err
	}
	high, err := keyTerm(table, column, Le, to)
	if err != nil {
		return Bound{}, err
	}
	return And(low, high), nil
}

// KeyIn is "column in (values)", or eq if there is one value; see [KeyFrom]. It fails without values: an
// empty list would mean no filter at all.
func KeyIn(table *edm.Table, column string, values []string) (Bound, error) {
	return keyTerm(table, column, In, values...)
}

func keyTerm(table *edm.Table, name string, op Op, values ...string) (Bound, error) {
	column, ok := table.Column(name)
	switch {
	case !ok:
		hint := ""
		if near := table.Suggest(name); near != nil {
			hint = "did you mean " + strings.Join(near, " or ") + "?"
		}
		return Bound{}, &Problem{Text: fmt.Sprintf("table %s has no column %q", table.Name, name), Hint: hint}
	case column.Secret:
		return Bound{}, &Problem{Text: fmt.Sprintf("column %s of table %s holds secret material", name, table.Name)}
	case len(values) == 0:
		return Bound{}, &Problem{Text: fmt.Sprintf("`%s` on column %s has no values", op, name), Hint: "give at least one"}
	}
	t := Term{Path: []string{name}, Op: op, To: edm.Resolution{Table: table, Column: column, Owner: true}}
	seen := make(map[Literal]bool, len(values))
	for _, v := range values {
		l, f := newLiteral(column.Type, op, v)
		if f != nil {
			// The value may come from a row: the message keeps it to itself.
			return Bound{}, &Problem{Text: fmt.Sprintf("column %s (%s) `%s`: the value given is none of that type", name, column.Type, op), Hint: f.hint}
		}
		if !seen[l] {
			seen[l] = true
			t.Values = append(t.Values, l)
		}
	}
	t = t.simple()
	if text, hint := t.unsupported(); text != "" {
		return Bound{}, &Problem{Text: text, Hint: hint}
	}
	return Bound{terms: slices.Clip([]Term{t})}, nil
}
