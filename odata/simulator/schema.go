package simulator

import (
	"fmt"
	"math/bits"
	"strings"
	"sync"

	"github.com/tablexport/tablexport/odata/edm"
)

// A row has an identity, its ord: 64 bits that ascend in key order. Row i of the first load has the
// ord (i+1)<<24 with bit 23 clear and noise below it; a row inserted later between rows i and i+1 has bit 23
// set. So identity, order and key of a row follow from each other without a table of rows.
const (
	ordShift  = 24
	insertBit = uint64(1) << 23
	maxRows   = int64(1) << 34
)

// rowRef is one version of one row. The low half of ver counts content changes (Update), the high half
// counts moves (Move).
type rowRef struct {
	ord  uint64
	ver  uint32
	life *life // what happened to the row since the first load; nil = nothing that its values show
}

// life is what a row's values show of its history instead of what the generator would draw. It never changes: rows
// share it, and a change of a row gives it another one.
type life struct {
	owner   uint64 // ord of the row that it belongs to; 0 = drawn by place
	day     int64  // what its dates lie at, in days since 0001-01-01; 0 = drawn by place
	state   int64  // state of a document; 0 = drawn
	created int64  // when it was inserted, in ticks; 0 = with the first load
	changed int64  // when it was last changed, in ticks; 0 = not since the first load
}

// mix is the finalizer of splitmix64: every bit of the result depends on every bit of x.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// seedOf derives a seed from a parent seed and a name (FNV-1a, then mixed).
func seedOf(parent uint64, name string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	return mix(h ^ mix(parent))
}

// space is the space of keys of one table: which GUID belongs to which ord.
type space struct {
	seed  uint64
	n     int64     // rows of the first load
	nodes [3]uint64 // 48-bit node parts, ascending: three "servers" that made keys one after the other
	group uint64    // the fourth text group, constant but for the highest ords
}

func newSpace(seed uint64, n int64) *space {
	s := &space{seed: seed, n: n, group: 0x8000 | mix(seed^1)&0xfff}
	step := uint64(1) << 46
	for i := range s.nodes {
		s.nodes[i] = uint64(i)*step + mix(seed+uint64(i))%step
	}
	return s
}

// base returns the ord of row i of the first load (or of the i-th row of a table that grows at its end).
func (s *space) base(i int64) uint64 {
	return uint64(i+1)<<ordShift | mix(s.seed^uint64(i)*0x9e3779b97f4a7c15)&(insertBit-1)
}

// index returns the row of the first load that ord is or follows; -1 stands for before the first.
func (s *space) index(ord uint64) int64 { return int64(ord>>ordShift) - 1 }

// key returns the GUID (sort key) that belongs to ord. It ascends with ord.
func (s *space) key(ord uint64) (hi, lo uint64) {
	i := min(max(s.index(ord), 0), max(s.n-1, 0))
	node := s.nodes[2]
	if s.n > 0 {
		node = s.nodes[i*3/s.n]
	}
	return node<<16 | (s.group + ord>>48), ord<<16 | mix(ord^s.seed)&0xffff
}

// column is a column with its generator.
type column struct {
	*edm.Column
	seed      uint64
	nullBelow uint32 // a value is NULL if the low half of its hash is below
	mask      uint32 // which halves of a row's version the value depends on
	gen       func(r rowRef, h uint64, c *cell)
	lived     func(l *life, h uint64, c *cell) bool // in place of gen for rows with a life; false = gen all the same
	name      []byte                                // the property name, quoted, with the colon
	to        *space                                // the space that a reference draws from
	part      bool                                  // part of the unique order: ascends with ord, on its own or as a prefix
}

// What a value depends on besides its row.
const (
	onNothing = uint32(0)
	onMoves   = uint32(0xffff0000) // references, booleans, dates, enumerations: what filters select by
	onChanges = uint32(0xffffffff)
)

// value generates the value of the column in one version of one row.
func (col *column) value(r rowRef, c *cell) {
	h := mix(col.seed ^ r.ord*0x9e3779b97f4a7c15 ^ uint64(r.ver&col.mask)*0xd1342543de82ef95)
	if r.life != nil && col.lived != nil && col.lived(r.life, h, c) {
		c.null = false
		return
	}
	if uint32(h) < col.nullBelow {
		c.null = true
		return
	}
	c.null = false
	col.gen(r, mix(h+0x632be59bd9b4e019), c)
}

// table is a table that can be served: its model and its generators. It never changes.
type table struct {
	*edm.Table
	id      int
	seed    uint64
	catalog *catalog
	space   *space
	columns []column
	index   map[string]int // column name → columns
	unique  int            // the key column that is different in every row; -1 for views without a key
	dense   bool           // new rows come at the end: the unique column has no room between two rows
	serial  []int          // key columns, in order
	owner   int            // column that refers to the owner, -1 if none
}

// column finds a column by its exact name.
func (t *table) column(name string) *column {
	if i, ok := t.index[name]; ok {
		return &t.columns[i]
	}
	return nil
}

// catalog holds the tables and key spaces of a server.
type catalog struct {
	model  *edm.Model
	seed   uint64
	rows   map[string]int64
	served map[string]bool
	tables map[string]*table
	list   []*table
	spaces map[string]*space

	firstDay, lastDay int64 // of the documents of the first load

	mu        sync.Mutex // held for what follows
	calendars map[string]*calendar
}

func newCatalog(model *edm.Model, seed uint64, rows map[string]int64, firstDay, lastDay int64) (*catalog, error) {
	c := &catalog{
		model: model, seed: seed, rows: map[string]int64{}, served: map[string]bool{},
		tables: map[string]*table{}, spaces: map[string]*space{}, firstDay: firstDay, lastDay: lastDay,
		calendars: map[string]*calendar{},
	}
	for name, n := range rows {
		t, ok := model.Table(name)
		if !ok {
			return nil, fmt.Errorf("simulator: there is no table %q in the model; name one of `tablexport tables`", name)
		}
		if n < 0 || n > maxRows {
			return nil, fmt.Errorf("simulator: table %s cannot have %d rows; give 0 to %d", name, n, maxRows)
		}
		c.served[name] = true
		c.rows[name] = n
		c.ownersOf(t, n, rows)
	}
	for _, name := range model.Tables() {
		if _, ok := c.rows[name]; ok {
			if _, err := c.table(name); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// ownersOf gives the owners of a served table a size that fits: four rows to a header, one header to a document.
// Owners are served too, so that reference paths lead somewhere.
func (c *catalog) ownersOf(t *edm.Table, n int64, explicit map[string]int64) {
	for _, owner := range t.Owners {
		if owner != "Gen_Documents" && owner != "Gen_Parties" {
			n = (n + 3) / 4
		}
		c.served[owner] = true
		if _, ok := explicit[owner]; ok {
			n = explicit[owner]
			continue
		}
		c.rows[owner] = max(c.rows[owner], n, 1)
	}
}

// size is the number of rows that a referenced table is taken to have, served or not.
func (c *catalog) size(name string) int64 {
	if n, ok := c.rows[name]; ok {
		return n
	}
	switch name {
	case "Gen_Enterprise_Companies", "Gen_Currencies":
		return 3
	case "Inv_Stores":
		return 8
	}
	return 40 + int64(seedOf(c.seed, name)%400)
}

func (c *catalog) space(name string) *space {
	if s, ok := c.spaces[name]; ok {
		return s
	}
	s := newSpace(seedOf(c.seed, name), c.size(name))
	c.spaces[name] = s
	return s
}

// table compiles the generators of a table, once.
func (c *catalog) table(name string) (*table, error) {
	if t, ok := c.tables[name]; ok {
		return t, nil
	}
	m, ok := c.model.Table(name)
	if !ok {
		return nil, fmt.Errorf("simulator: the model has no table %q", name)
	}
	t := &table{
		Table: m, id: len(c.list), seed: seedOf(c.seed, name), catalog: c, space: c.space(name),
		index: map[string]int{}, unique: -1, owner: -1, columns: make([]column, len(m.Columns)),
	}
	c.tables[name] = t
	c.list = append(c.list, t)
	for i := range m.Columns {
		t.index[m.Columns[i].Name] = i
		if m.Columns[i].OwnerRef {
			t.owner = i
		}
	}
	for _, k := range m.Key {
		t.serial = append(t.serial, t.index[k])
	}
	t.unique = chooseUnique(t)
	for i := range t.columns {
		c.compile(t, i)
	}
	return t, nil
}

// chooseUnique picks the key column that tells the rows apart: the last GUID, else the last string that is long
// enough for a serial number, else the last column of another kind.
func chooseUnique(t *table) int {
	best, rank := -1, 0
	for _, i := range t.serial {
		r := 1
		switch col := &t.Columns[i]; {
		case col.Type.Kind == edm.Guid:
			r = 3
		case col.Type.Kind == edm.String && (col.Type.MaxLength == 0 || col.Type.MaxLength >= 5):
			r = 2
		}
		if r >= rank {
			best, rank = i, r
		}
	}
	return best
}

// compile sets up the generator of column i of t.
func (c *catalog) compile(t *table, i int) {
	col := &t.columns[i]
	*col = column{
		Column: &t.Columns[i], seed: seedOf(t.seed, t.Columns[i].Name), mask: onChanges,
		name: append(appendQuoted(nil, []byte(t.Columns[i].Name), plainText), ':'),
	}
	switch {
	case i == t.unique:
		c.compileUnique(t, col)
		return
	case t.unique >= 0 && col.Key && isBefore(t.serial, i, t.unique):
		c.compilePrefix(t, col)
		return
	case col.OwnerRef:
		c.compileOwner(t, col)
		return
	}
	if col.Nullable {
		col.nullBelow = uint32(mix(col.seed)>>32)/2 + 1<<26 // between 1.5 and 51.5 of a hundred
	}
	if col.References != "" {
		c.compileReference(col)
	} else {
		col.gen, col.mask = generatorOf(col)
	}
	if col.Key {
		col.mask, col.nullBelow = onNothing, 0
	}
	c.special(t, col)
}

func isBefore(serial []int, i, j int) bool {
	for _, k := range serial {
		if k == j {
			return false
		}
		if k == i {
			return true
		}
	}
	return false
}

// compileUnique makes a key column that ascends strictly with ord.
func (c *catalog) compileUnique(t *table, col *column) {
	col.mask, col.part = onNothing, true
	own := t.space
	switch kind := col.Type.Kind; {
	case kind == edm.Guid && col.References != "" && col.References != t.Name:
		// The row is an extension of another table's row: same key, nothing between two rows.
		t.dense = true
		col.to = c.space(col.References)
		col.gen = func(r rowRef, _ uint64, v *cell) {
			v.ord = col.to.base(own.index(r.ord))
			v.hi, v.lo = col.to.key(v.ord)
		}
	case kind == edm.Guid:
		col.gen = func(r rowRef, _ uint64, v *cell) { v.hi, v.lo = own.key(r.ord) }
	case kind == edm.String && (col.Type.MaxLength == 0 || col.Type.MaxLength >= 16):
		col.gen = func(r rowRef, _ uint64, v *cell) {
			v.style, v.b = plainText, v.b[:0]
			for shift := 60; shift >= 0; shift -= 4 {
				v.b = append(v.b, hexDigits[r.ord>>shift&15])
			}
		}
	case kind == edm.String:
		t.dense = true
		width := int(col.Type.MaxLength)
		col.gen = func(r rowRef, _ uint64, v *cell) {
			v.style, v.b = plainText, appendBase36(v.b[:0], uint64(own.index(r.ord)), width)
		}
	case kind == edm.Date || kind == edm.DateTime:
		t.dense = true
		first := daysOf(1990, 1, 1)
		col.gen = func(r rowRef, _ uint64, v *cell) {
			v.i = first + own.index(r.ord)
			if kind == edm.DateTime {
				v.i, v.style, v.zone = v.i*ticksPerDay, 0, 0
			}
		}
	default:
		t.dense = true
		col.gen = func(r rowRef, _ uint64, v *cell) { v.i = own.index(r.ord) + 1 }
	}
}

// compilePrefix makes a key column that stands before the unique one: four rows in a row share its value.
func (c *catalog) compilePrefix(t *table, col *column) {
	col.mask, col.part = onNothing, true
	own := t.space
	groups := newSpace(seedOf(col.seed, "groups"), (t.space.n+3)/4)
	group := func(r rowRef) int64 { return max(own.index(r.ord), 0) / 4 }
	switch col.Type.Kind {
	case edm.Guid:
		col.gen = func(r rowRef, _ uint64, v *cell) { v.hi, v.lo = groups.key(groups.base(group(r))) }
	case edm.String:
		width := 12
		if m := int(col.Type.MaxLength); m > 0 {
			width = min(width, m)
		}
		col.gen = func(r rowRef, _ uint64, v *cell) {
			v.style, v.b = plainText, appendBase36(v.b[:0], uint64(group(r)), width)
		}
	case edm.DateTime:
		col.gen = func(r rowRef, _ uint64, v *cell) {
			v.i, v.style, v.zone = (daysOf(2015, 1, 1)+group(r))*ticksPerDay, 0, 0
		}
	default:
		col.gen = func(r rowRef, _ uint64, v *cell) { v.i = group(r) }
	}
}

// appendBase36 appends v in base 36 with leading zeros: such texts order as the numbers do.
func appendBase36(dst []byte, v uint64, width int) []byte {
	start := len(dst)
	for range width {
		dst = append(dst, '0')
	}
	for i := len(dst) - 1; i >= start && v > 0; i-- {
		dst[i] = "0123456789abcdefghijklmnopqrstuvwxyz"[v%36]
		v /= 36
	}
	return dst
}

// compileOwner makes the reference to the owner: rows that lie together belong together, as they do in a
// table whose headers and lines are written at the same time. It never changes.
func (c *catalog) compileOwner(t *table, col *column) {
	col.mask = onNothing
	own, to := t.space, c.space(col.References)
	col.to = to
	wobble := int64(2)
	if col.References == "Gen_Documents" {
		wobble = 0 // a document is one order, not several
	}
	col.gen = func(r rowRef, h uint64, v *cell) {
		i := scaled(max(own.index(r.ord), 0), to.n, max(own.n, 1))
		if wobble > 0 {
			i += int64(h%uint64(2*wobble+1)) - wobble
		}
		i = min(max(i, 0), max(to.n-1, 0))
		v.ord = to.base(i)
		v.hi, v.lo = to.key(v.ord)
	}
	col.lived = func(l *life, _ uint64, v *cell) bool {
		if l.owner == 0 {
			return false
		}
		v.ord = l.owner
		v.hi, v.lo = to.key(v.ord)
		return true
	}
}

// scaled returns i*to/from without overflow.
func scaled(i, to, from int64) int64 {
	hi, lo := bits.Mul64(uint64(i), uint64(to))
	q, _ := bits.Div64(hi%uint64(from), lo, uint64(from))
	return int64(q)
}

// compileReference makes a reference that is skewed as sales are: few targets are referred to by many rows.
func (c *catalog) compileReference(col *column) {
	to := c.space(col.References)
	col.to, col.mask = to, onMoves
	n := uint64(max(to.n, 1))
	step := uint64(1)
	for _, p := range []uint64{7919, 104_729, 1_299_709} { // prime steps scatter the popular ones over the key range
		if n%p != 0 {
			step = p
			break
		}
	}
	col.gen = func(_ rowRef, h uint64, v *cell) {
		u := float64(h>>11) / (1 << 53)
		i := min(uint64(float64(n)*u*u*u), n-1)
		v.ord = to.base(int64((i*step + 3) % n))
		v.hi, v.lo = to.key(v.ord)
	}
}

// pathSegment reports the column that the path segment of t follows ("Document_Reference" → Document_Id).
func (t *table) pathSegment(segment string) *column {
	for i := range t.columns {
		if nav := t.columns[i].Navigation; nav != "" && nav == segment {
			return &t.columns[i]
		}
	}
	return nil
}

// knows lists the names for messages.
func (t *table) knows() string {
	names := make([]string, len(t.Columns))
	for i := range t.Columns {
		names[i] = t.Columns[i].Name
	}
	return strings.Join(names, ", ")
}
