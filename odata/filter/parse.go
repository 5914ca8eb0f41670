package filter

import (
	"fmt"
	"strings"
)

// Limits on a filter's text. A URL carries far less; they bound what a hostile configuration can cost.
const (
	maxText     = 256 << 10 // bytes
	maxDepth    = 64        // nested parentheses and nots
	maxTerms    = 1000      // comparisons joined with and
	maxProblems = 100       // reported at once
)

// nodeKind is what a node of the tree is.
type nodeKind uint8

const (
	nodeAnd     nodeKind = iota // kids
	nodeOr                      // kids
	nodeNot                     // one kid
	nodeCompare                 // left op values
	nodeCall                    // left: a function as a condition
	nodeBare                    // left: a column or a value as a condition
)

// node is a node of the parsed filter. The whole OData grammar is read, dialect or not.
type node struct {
	kind   nodeKind
	offset int
	kids   []*node
	left   operand
	op     string // eq ne gt ge lt le like in has
	values []operand
}

// operandKind is what an operand is.
type operandKind uint8

const (
	operandWord operandKind = iota // a path or a bare literal
	operandText                    // a quoted literal
	operandCall                    // a function call; text is its name
	operandMath                    // an arithmetic expression; text is its first operator
)

type operand struct {
	kind   operandKind
	text   string
	offset int
}

// path returns the segments if the operand can be a path: letters or _ at the start of every segment.
func (o operand) path() ([]string, bool) {
	if o.kind != operandWord {
		return nil, false
	}
	segments := strings.Split(o.text, "/")
	for _, s := range segments {
		for i, r := range s {
			digit := r >= '0' && r <= '9' || r == '_'
			if strings.ContainsRune(".:+-@$#", r) || i == 0 && digit && r != '_' {
				return nil, false
			}
		}
		if s == "" {
			return nil, false
		}
	}
	return segments, !o.is("null", "true", "false")
}

func (o operand) is(words ...string) bool {
	for _, w := range words {
		if o.kind == operandWord && strings.EqualFold(o.text, w) {
			return true
		}
	}
	return false
}

// parser walks the tokens. The first syntax error ends it.
type parser struct {
	tokens []token
	at     int
	depth  int
}

// parse reads text. A text of nothing but spaces gives nil.
func parse(text string) (*node, *Problem) {
	if len(text) > maxText {
		return nil, &Problem{0, fmt.Sprintf("the filter is longer than %d KiB", maxText>>10), "split it into several jobs"}
	}
	tokens, problem := lex(text)
	if problem != nil {
		return nil, problem
	}
	p := &parser{tokens: tokens}
	if p.peek().kind == tokenEnd {
		return nil, nil
	}
	n, problem := p.or()
	if problem != nil {
		return nil, problem
	}
	if t := p.peek(); t.kind == tokenClose {
		return nil, &Problem{t.offset, "this parenthesis was never opened", "remove it"}
	} else if t.kind != tokenEnd {
		return nil, unexpected(t, "after a comparison", "join comparisons with `and`")
	}
	return n, nil
}

func (p *parser) peek() token { return p.tokens[p.at] }

func (p *parser) next() token {
	t := p.tokens[p.at]
	if t.kind != tokenEnd {
		p.at++
	}
	return t
}

// word reports whether the next token is one of words, in any case.
func (p *parser) word(words ...string) bool {
	t := p.peek()
	return t.kind == tokenWord && operand{text: t.text}.is(words...)
}

func unexpected(t token, where, hint string) *Problem {
	switch t.kind {
	case tokenEnd:
		return &Problem{t.offset, "the filter ends " + where, hint}
	case tokenSymbol:
		if word, ok := symbols[t.text]; ok {
			return &Problem{t.offset, fmt.Sprintf("`%s` is no operator of OData", t.text), "write " + word}
		}
	case tokenText:
		return &Problem{t.offset, "a quoted text stands " + where, hint}
	}
	return &Problem{t.offset, fmt.Sprintf("%s stands %s", show(t.text), where), hint}
}

// symbols are operators of other languages and what to write for them.
var symbols = map[string]string{
	"=": "eq", "==": "eq", "!=": "eq with another value (there is no unequal)", "<>": "eq with another value (there is no unequal)",
	"<": "le with the next smaller value", "<=": "le", ">": "ge with the next greater value", ">=": "ge",
	"&&": "and", "&": "and", "||": "one query per alternative", "|": "one query per alternative",
	"*": "% for any text, within like '…'", ";": "and",
}

func (p *parser) or() (*node, *Problem) { return p.chain(nodeOr, "or", p.and) }

func (p *parser) and() (*node, *Problem) { return p.chain(nodeAnd, "and", p.unary) }

// chain reads "one word one word one …" into one node, or into the single one itself.
func (p *parser) chain(kind nodeKind, word string, one func() (*node, *Problem)) (*node, *Problem) {
	first, problem := one()
	if problem != nil || !p.word(word) {
		return first, problem
	}
	n := &node{kind: kind, offset: p.peek().offset, kids: []*node{first}}
	for p.word(word) {
		p.next()
		kid, problem := one()
		if problem != nil {
			return nil, problem
		}
		n.kids = append(n.kids, kid)
	}
	return n, nil
}

func (p *parser) unary() (*node, *Problem) {
	t := p.peek()
	if p.depth++; p.depth > maxDepth {
		return nil, &Problem{t.offset, fmt.Sprintf("parentheses are nested more than %d deep", maxDepth), "write the filter flat, with and"}
	}
	defer func() { p.depth-- }()
	switch {
	case p.word("not"):
		p.next()
		kid, problem := p.unary()
		if problem != nil {
			return nil, problem
		}
		return &node{kind: nodeNot, offset: t.offset, kids: []*node{kid}}, nil
	case t.kind == tokenOpen:
		p.next()
		n, problem := p.or()
		if problem != nil {
			return nil, problem
		}
		if end := p.peek(); end.kind != tokenClose {
			return nil, unexpected(end, "where the parenthesis must be closed", "write )")
		}
		p.next()
		if p.word("eq", "ne", "gt", "ge", "lt", "le", "like", "in", "has") || p.arithmetic() {
			return nil, &Problem{p.peek().offset, fmt.Sprintf("`%s` follows a parenthesis", p.peek().text),
				"compare one column with one value, without arithmetic"}
		}
		return n, nil
	}
	return p.comparison()
}

func (p *parser) arithmetic() bool { return p.word("add", "sub", "mul", "div", "divby", "mod") }

func (p *parser) comparison() (*node, *Problem) {
	left, problem := p.operand("where a column is expected", "write a comparison such as Void eq false")
	if problem != nil {
		return nil, problem
	}
	n := &node{kind: nodeCompare, offset: left.offset, left: left}
	t := p.peek()
	switch {
	case p.word("eq", "ne", "gt", "ge", "lt", "le", "like", "has"):
		n.op = strings.ToLower(p.next().text)
		value, problem := p.operand("where the value of `"+n.op+"` is expected", "write a value")
		if problem != nil {
			return nil, problem
		}
		n.values = []operand{value}
		return n, nil
	case p.word("in"):
		p.next()
		n.op = "in"
		n.values, problem = p.list()
		return n, problem
	case t.kind == tokenEnd, t.kind == tokenClose, t.kind == tokenComma, p.word("and", "or"):
		n.kind = nodeBare
		if left.kind == operandCall {
			n.kind = nodeCall
		}
		return n, nil
	case p.word("not"):
		return nil, &Problem{t.offset, "the Table API has no `not`", "write what the rows must be instead of what they must not be"}
	case p.word("is"):
		return nil, &Problem{t.offset, "`is` is no operator of OData", "write eq null"}
	case p.word("between"):
		return nil, &Problem{t.offset, "`between` is no operator of OData", fmt.Sprintf("write %s ge … and %s le …", left.text, left.text)}
	case p.word("contains", "startswith", "endswith"):
		return nil, &Problem{t.offset, fmt.Sprintf("`%s` is no operator", t.text), fmt.Sprintf("write %s like 'x%%'", left.text)}
	}
	return nil, unexpected(t, "where an operator is expected", "the operators are eq, ge, le, like and in")
}

// operand reads a column, a value, a function call or an arithmetic expression.
func (p *parser) operand(where, hint string) (operand, *Problem) {
	t := p.peek()
	o := operand{text: t.text, offset: t.offset}
	switch t.kind {
	case tokenText:
		o.kind = operandText
		p.next()
	case tokenWord:
		if p.word("and", "or") {
			return o, unexpected(t, where, hint)
		}
		p.next()
		if after := p.peek(); after.kind == tokenText && after.offset == t.end {
			return o, &Problem{t.offset, fmt.Sprintf("%s'…' is the notation of an older OData", t.text), "write the value alone: GUIDs, dates and numbers without quotes, texts in single quotes"}
		}
		if p.peek().kind == tokenOpen {
			o.kind = operandCall
			if problem := p.skipCall(); problem != nil {
				return o, problem
			}
		}
	default:
		return o, unexpected(t, where, hint)
	}
	for p.arithmetic() {
		o.kind, o.text = operandMath, p.next().text
		switch next := p.peek(); next.kind {
		case tokenWord, tokenText:
			p.next()
		case tokenOpen:
		default:
			return o, unexpected(next, "where a number is expected", "compare a column with a value, without arithmetic")
		}
		if p.peek().kind == tokenOpen {
			if problem := p.skipCall(); problem != nil {
				return o, problem
			}
		}
	}
	return o, nil
}

// skipCall skips a balanced pair of parentheses: what is inside a function does not matter, for none is taken.
func (p *parser) skipCall() *Problem {
	open := p.peek()
	for depth := 0; ; {
		switch p.next().kind {
		case tokenOpen:
			depth++
		case tokenClose:
			if depth--; depth == 0 {
				return nil
			}
		case tokenEnd:
			return &Problem{open.offset, "this parenthesis is never closed", "write )"}
		}
	}
}

// list reads "(value, value …)".
func (p *parser) list() ([]operand, *Problem) {
	if t := p.peek(); t.kind != tokenOpen {
		return nil, unexpected(t, "where the list of `in` is expected", "write in (value, value)")
	}
	p.next()
	var values []operand
	for {
		value, problem := p.operand("where a value of the list of `in` is expected", "write in (value, value)")
		if problem != nil {
			return nil, problem
		}
		values = append(values, value)
		switch t := p.next(); t.kind {
		case tokenComma:
		case tokenClose:
			return values, nil
		default:
			return nil, unexpected(t, "within the list of `in`", "separate values with commas and close the list with )")
		}
	}
}
