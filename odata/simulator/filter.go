package simulator

import (
	"bytes"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/tablexport/tablexport/odata/edm"
)

// filterPlan is a $filter as this server understands it. It shares nothing with package filter, so that a
// mistake there cannot hide here.
type filterPlan struct {
	terms  []filterTerm
	lo, hi int64   // positions in key order that can match; the other terms are tested row by row
	list   []int64 // the only positions of these that can match, ascending; nil = all
}

// size is the number of rows that are to be tested.
func (f *filterPlan) size() int64 {
	if f.list != nil {
		return int64(len(f.list))
	}
	return f.hi - f.lo
}

// position is the k-th of them in key order.
func (f *filterPlan) position(k int64) int64 {
	if f.list != nil {
		return f.list[k]
	}
	return f.lo + k
}

type operator uint8

const (
	opEq operator = iota + 1
	opGe
	opLe
	opLike
	opIn
)

// filterTerm is one comparison. hops are the references to follow first.
type filterTerm struct {
	hops   []filterHop
	column *column
	op     operator
	values []operand
	guids  map[[2]uint64]bool // for a long list of GUIDs
}

type filterHop struct {
	by *column
	to *table
}

// operand is a literal, read as the column's type.
type operand struct {
	null   bool
	hi, lo uint64
	i      int64
	f      float64
	dec    decimal
	exact  bool // dec is the literal itself, not rounded down to the column's scale
	text   []byte
}

// refusal is a request that the Table API does not take: status 400 with this message.
type refusal struct{ message string }

func (e *refusal) Error() string { return e.message }

func refuse(format string, args ...any) error { return &refusal{fmt.Sprintf(format, args...)} }

// parseFilter reads text for table t. With strict set it takes exactly what the Table API documents: the operators
// of each column, reference paths through owners, date literals in one form.
func (c *catalog) parseFilter(text string, t *table, strict bool) ([]filterTerm, error) {
	return c.readFilter(text, t, strict, !strict)
}

// readFilter is parseFilter, with fractions of a second in date-time literals if the server takes them.
func (c *catalog) readFilter(text string, t *table, strict, fractions bool) ([]filterTerm, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	tokens, err := tokenize(text)
	if err != nil {
		return nil, err
	}
	p := &filterParser{tokens: tokens, catalog: c, table: t, strict: strict, fractions: fractions}
	for {
		term, err := p.term()
		if err != nil {
			return nil, err
		}
		p.terms = append(p.terms, term)
		if p.done() {
			return p.terms, nil
		}
		switch word := p.next(); word.text {
		case "and":
		case "or":
			return nil, refuse("'or' is only supported between comparisons of one field, in parentheses")
		default:
			return nil, refuse("syntax error in $filter at position %d: 'and' expected", word.at)
		}
	}
}

// token is a word, a quoted text, or one of ( ) ,
type token struct {
	text   string
	quoted bool
	at     int
}

func tokenize(s string) ([]token, error) {
	var out []token
	for i := 0; i < len(s); {
		switch s[i] {
		case ' ':
			i++
		case '(', ')', ',':
			out = append(out, token{text: s[i : i+1], at: i})
			i++
		case '\'':
			var b strings.Builder
			at := i
			for i++; ; i++ {
				if i >= len(s) {
					return nil, refuse("unterminated string in $filter at position %d", at)
				}
				if s[i] == '\'' {
					if i+1 < len(s) && s[i+1] == '\'' {
						i++
					} else {
						break
					}
				}
				b.WriteByte(s[i])
			}
			i++
			out = append(out, token{text: b.String(), quoted: true, at: at})
		default:
			at := i
			for i < len(s) && !strings.ContainsRune(" (),'", rune(s[i])) {
				i++
			}
			out = append(out, token{text: s[at:i], at: at})
		}
	}
	return out, nil
}

type filterParser struct {
	tokens  []token
	pos     int
	catalog *catalog
	table   *table
	strict  bool

	fractions bool
	terms     []filterTerm
}

func (p *filterParser) done() bool { return p.pos >= len(p.tokens) }

func (p *filterParser) next() token {
	if p.done() {
		return token{at: -1}
	}
	p.pos++
	return p.tokens[p.pos-1]
}

func (p *filterParser) symbol(s string) bool {
	if !p.done() && p.tokens[p.pos].text == s && !p.tokens[p.pos].quoted {
		p.pos++
		return true
	}
	return false
}

// term reads one comparison, or a parenthesised chain of "eq" over one field, which means "in".
func (p *filterParser) term() (filterTerm, error) {
	if !p.symbol("(") {
		return p.comparison()
	}
	var chain filterTerm
	path := ""
	for n := 0; ; n++ {
		start := p.pos
		one, err := p.comparison()
		if err != nil {
			return filterTerm{}, err
		}
		if one.op != opEq || one.values[0].null {
			return filterTerm{}, refuse("only 'eq' comparisons with values can stand in parentheses")
		}
		field := p.tokens[start].text
		if n == 0 {
			chain, path = one, field
			chain.op = opIn
		} else {
			if field != path {
				return filterTerm{}, refuse("'or' is only supported over one field: %s and %s", path, field)
			}
			chain.values = append(chain.values, one.values...)
		}
		if p.symbol(")") {
			break
		}
		if !p.symbol("or") {
			return filterTerm{}, refuse("'or' or ')' expected in $filter")
		}
	}
	if len(chain.values) > 1 && p.strict && !chain.column.Ops.Has(edm.OpIn) {
		return filterTerm{}, refuse("column %s does not support a list of values", chain.column.Name)
	}
	chain.index()
	return chain, nil
}

func (p *filterParser) comparison() (filterTerm, error) {
	field := p.next()
	if field.at < 0 || field.quoted || strings.ContainsAny(field.text, "(),") {
		return filterTerm{}, refuse("syntax error in $filter: a field name is expected")
	}
	if !p.done() && p.tokens[p.pos].text == "(" && field.text != "in" {
		return filterTerm{}, refuse("function %s is not supported", field.text)
	}
	t, err := p.field(field.text)
	if err != nil {
		return filterTerm{}, err
	}
	op := p.next()
	switch {
	case op.quoted || op.at < 0:
		return filterTerm{}, refuse("an operator is expected after %s", field.text)
	case op.text == "eq":
		t.op = opEq
	case op.text == "ge":
		t.op = opGe
	case op.text == "le":
		t.op = opLe
	case op.text == "like":
		t.op = opLike
	case op.text == "in":
		t.op = opIn
	default:
		return filterTerm{}, refuse("operator '%s' is not supported", op.text)
	}
	if p.strict && !t.column.Ops.Has(t.needs()) {
		return filterTerm{}, refuse("column %s does not support the operator '%s'", t.column.Name, op.text)
	}
	if t.op != opIn {
		v, err := p.literal(&t)
		t.values = []operand{v}
		return t, err
	}
	if !p.symbol("(") {
		return filterTerm{}, refuse("'(' is expected after 'in'")
	}
	for {
		v, err := p.literal(&t)
		if err != nil {
			return filterTerm{}, err
		}
		t.values = append(t.values, v)
		if p.symbol(")") {
			t.index()
			return t, nil
		}
		if !p.symbol(",") {
			return filterTerm{}, refuse("',' or ')' expected in the list of %s", field.text)
		}
	}
}

func (t *filterTerm) needs() edm.Ops {
	switch t.op {
	case opEq:
		return edm.OpEq
	case opLike:
		return edm.OpLike
	case opIn:
		return edm.OpIn
	}
	return edm.OpRange
}

// field resolves a path: references through owners, then a column.
func (p *filterParser) field(path string) (filterTerm, error) {
	segments := strings.Split(path, "/")
	t := p.table
	var term filterTerm
	for _, s := range segments[:len(segments)-1] {
		by := t.pathSegment(s)
		if by == nil {
			return term, refuse("table %s has no reference %s", t.Name, s)
		}
		if !by.OwnerRef {
			return term, refuse("filtering by reference %s of table %s is not supported: it does not lead to an owner", s, t.Name)
		}
		to, ok := p.catalog.tables[by.References]
		if !ok {
			return term, refuse("reference %s leads to a table that is not available", s)
		}
		term.hops = append(term.hops, filterHop{by: by, to: to})
		t = to
	}
	term.column = t.column(segments[len(segments)-1])
	if term.column == nil {
		return term, refuse("table %s has no column %s", t.Name, segments[len(segments)-1])
	}
	return term, nil
}

// literal reads one value as the type of the term's column.
func (p *filterParser) literal(t *filterTerm) (operand, error) {
	word := p.next()
	name := t.column.Name
	if word.at < 0 {
		return operand{}, refuse("a value is expected for %s", name)
	}
	if word.text == "null" && !word.quoted {
		if t.op != opEq {
			return operand{}, refuse("null can only be compared with 'eq'")
		}
		return operand{null: true}, nil
	}
	v, ok := operand{}, false
	s := word.text
	kind := t.column.Type.Kind
	if t.op == opLike {
		if !word.quoted {
			return v, refuse("'like' on %s needs a quoted pattern", name)
		}
		return operand{text: []byte(strings.ToLower(s))}, nil
	}
	if textual := kind == edm.String || kind == edm.MultiLanguage; textual != word.quoted && kind != edm.Guid {
		return v, refuse("the value for %s must be of type %s", name, t.column.Type)
	}
	switch kind {
	case edm.Guid:
		v.hi, v.lo, ok = parseGUID(s)
	case edm.String, edm.MultiLanguage:
		v.text, ok = []byte(s), true
	case edm.Boolean:
		v.i, ok = b2i(s == "true"), s == "true" || s == "false"
	case edm.Byte, edm.Int16, edm.Int32, edm.Int64:
		n, err := strconv.ParseInt(s, 10, 64)
		v.i, ok = n, err == nil && s[0] != '+'
	case edm.Decimal:
		v.dec, v.exact, ok = parseDecimal(s, int(t.column.Type.Scale))
	case edm.Double:
		f, err := strconv.ParseFloat(s, 64)
		v.f, ok = f, err == nil
	case edm.Date, edm.DateTime:
		v.i, ok = parseInstant(s, !p.strict, p.fractions)
	case edm.TimeOfDay:
		v.i, ok = parseClock(s)
	}
	if !ok {
		return v, refuse("the value for %s is not a valid %s", name, t.column.Type)
	}
	return v, nil
}

// parseInstant reads YYYY-MM-DDThh:mm:ssZ, the only documented form, as ticks. A lenient reader takes a date, too. With fractions it takes
// up to seven digits behind the second.
func parseInstant(s string, lenient, fractions bool) (int64, bool) {
	if lenient && len(s) == 10 {
		s += "T00:00:00Z"
	}
	ticks := int64(0)
	if digits, ok := strings.CutSuffix(s, "Z"); ok && fractions && len(digits) > 20 && len(digits) <= 27 && digits[19] == '.' {
		n, err := strconv.ParseUint((digits[20:] + "000000")[:7], 10, 32)
		if err != nil {
			return 0, false
		}
		s, ticks = digits[:19]+"Z", int64(n)
	}
	if len(s) != 20 || s[4] != '-' || s[7] != '-' || s[10] != 'T' || s[19] != 'Z' {
		return 0, false
	}
	y, err1 := strconv.ParseUint(s[:4], 10, 16)
	m, err2 := strconv.ParseUint(s[5:7], 10, 8)
	d, err3 := strconv.ParseUint(s[8:10], 10, 8)
	clock, ok := parseClock(s[11:19])
	if err1 != nil || err2 != nil || err3 != nil || !ok || y == 0 || m < 1 || m > 12 || d < 1 {
		return 0, false
	}
	days := daysOf(int(y), int(m), int(d))
	if _, mm, dd := civil(days); mm != int(m) || dd != int(d) {
		return 0, false
	}
	return days*ticksPerDay + clock + ticks, true
}

func parseClock(s string) (int64, bool) {
	if len(s) != 8 || s[2] != ':' || s[5] != ':' {
		return 0, false
	}
	h, err1 := strconv.ParseUint(s[:2], 10, 8)
	m, err2 := strconv.ParseUint(s[3:5], 10, 8)
	sec, err3 := strconv.ParseUint(s[6:], 10, 8)
	if err1 != nil || err2 != nil || err3 != nil || h > 23 || m > 59 || sec > 59 {
		return 0, false
	}
	return (int64(h)*3600 + int64(m)*60 + int64(sec)) * ticksPerSecond, true
}

// index prepares a list of GUIDs for lookup.
func (t *filterTerm) index() {
	if t.column.Type.Kind != edm.Guid || len(t.values) < 4 {
		return
	}
	t.guids = make(map[[2]uint64]bool, len(t.values))
	for _, v := range t.values {
		t.guids[[2]uint64{v.hi, v.lo}] = true
	}
}

// match reports whether the row satisfies every term.
func (f *filterPlan) match(w *world, r rowRef, scratch *cell) bool {
	for i := range f.terms {
		if !f.terms[i].match(w, r, scratch) {
			return false
		}
	}
	return true
}

// reach makes the value that the term compares. It is false if a reference leads nowhere: an outer join found nothing, the
// column is NULL.
func (t *filterTerm) reach(w *world, r rowRef, c *cell) bool {
	for _, hop := range t.hops {
		hop.by.value(r, c)
		if c.null {
			return false
		}
		var ok bool
		if r, ok = w.states[hop.to.id].find(hop.to.space, c.ord); !ok {
			return false
		}
	}
	t.column.value(r, c)
	return true
}

func (t *filterTerm) match(w *world, r rowRef, c *cell) bool {
	if !t.reach(w, r, c) || c.null {
		return t.op == opEq && t.values[0].null
	}
	if t.guids != nil {
		return t.guids[[2]uint64{c.hi, c.lo}]
	}
	for i := range t.values {
		if t.column.satisfies(c, t.op, &t.values[i]) {
			return true
		}
	}
	return false
}

// satisfies compares a value that is not NULL. Texts are compared without regard to case, as SQL Server's
// default collation does.
func (col *column) satisfies(c *cell, op operator, v *operand) bool {
	if v.null {
		return false
	}
	if op == opLike {
		text := c.b
		if col.Type.Kind != edm.String && col.Type.Kind != edm.MultiLanguage {
			text = []byte(col.canonical(c))
		}
		return like(bytes.ToLower(text), v.text)
	}
	order := 0
	switch col.Type.Kind {
	case edm.Guid:
		order = compareWords(c.hi, c.lo, v.hi, v.lo)
	case edm.String, edm.MultiLanguage:
		order = bytes.Compare(bytes.ToLower(c.b), bytes.ToLower(v.text))
	case edm.Decimal:
		order = c.dec.compare(v.dec)
		if order == 0 && !v.exact {
			order = -1 // the literal lies between this value and the next
		}
	case edm.Double:
		order = compareFloats(c.f, v.f)
	case edm.Date:
		order = compareInts(c.i*ticksPerDay, v.i)
	case edm.Binary:
		return false
	default:
		order = compareInts(c.i, v.i)
	}
	switch op {
	case opGe:
		return order >= 0
	case opLe:
		return order <= 0
	}
	return order == 0
}

// like matches a pattern with % for any text.
func like(text, pattern []byte) bool {
	parts := bytes.Split(pattern, []byte("%"))
	if len(parts) == 1 {
		return bytes.Equal(text, pattern)
	}
	if !bytes.HasPrefix(text, parts[0]) {
		return false
	}
	text = text[len(parts[0]):]
	last := parts[len(parts)-1]
	for _, part := range parts[1 : len(parts)-1] {
		i := bytes.Index(text, part)
		if i < 0 {
			return false
		}
		text = text[i+len(part):]
	}
	return bytes.HasSuffix(text, last)
}

// plan turns comparisons of the first key column into a range of positions (a binary search, so that key
// paging does not read the table from its start for every page) and keeps the others.
func (t *table) plan(w *world, terms []filterTerm) *filterPlan {
	st := w.states[t.id]
	f := &filterPlan{hi: st.live()}
	var c cell
	for _, term := range terms {
		if !t.ranged(&term) {
			f.terms = append(f.terms, term)
			continue
		}
		v := &term.values[0]
		reaches := func(op operator, atLeast bool) int64 {
			return int64(sort.Search(int(st.live()), func(pos int) bool {
				term.column.value(st.at(t.space, int64(pos)), &c)
				return term.column.satisfies(&c, op, v) == atLeast
			}))
		}
		if term.op != opLe {
			f.lo = max(f.lo, reaches(opGe, true))
		}
		if term.op != opGe {
			f.hi = min(f.hi, reaches(opLe, false))
		}
	}
	f.hi = max(f.hi, f.lo)
	t.narrow(w, f)
	return f
}

// ranged reports whether term selects a range of positions.
func (t *table) ranged(term *filterTerm) bool {
	if len(term.hops) > 0 || !term.column.part || len(t.serial) == 0 || term.column.Column != &t.Columns[t.serial[0]] {
		return false
	}
	return term.op == opGe || term.op == opLe || (term.op == opEq && !term.values[0].null)
}
