package simulator

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// Null stands for NULL in canonical cells. No generated text is equal to it.
const Null = "\x00NULL"

// Row is a row in canonical cells (see the package comment), in the order of the columns asked for.
type Row []string

// Oracle knows what a correct copy must hold. It reads the generator, not the answers.
type Oracle struct{ server *Server }

// Oracle returns the server's oracle.
func (s *Server) Oracle() *Oracle { return &Oracle{s} }

// question is what the oracle was asked, compiled.
type question struct {
	table   *table
	terms   []filterTerm
	columns []*column
}

// ask compiles a question. where is a filter in the dialect of the Table API, with every operator on every column;
// columns nil = all.
func (o *Oracle) ask(tableName, where string, columns []string) (*question, error) {
	t, ok := o.server.catalog.tables[tableName]
	if !ok {
		return nil, fmt.Errorf("simulator: table %q is not served", tableName)
	}
	terms, err := o.server.catalog.parseFilter(where, t, false)
	if err != nil {
		return nil, fmt.Errorf("simulator: filter of table %s: %w", tableName, err)
	}
	q := &question{table: t, terms: terms}
	if columns == nil {
		for i := range t.columns {
			columns = append(columns, t.columns[i].Name)
		}
	}
	for _, name := range columns {
		col := t.column(name)
		if col == nil {
			return nil, fmt.Errorf("simulator: table %s has no column %q; it has %s", tableName, name, t.knows())
		}
		q.columns = append(q.columns, col)
	}
	return q, nil
}

// row makes the canonical cells of one version of a row.
func (q *question) row(r rowRef) Row {
	var c cell
	out := make(Row, len(q.columns))
	for i, col := range q.columns {
		col.value(r, &c)
		out[i] = col.canonical(&c)
	}
	return out
}

// key is the key of a row, its columns joined with "|"; for views without a key the whole row.
func (q *question) key(r rowRef) string {
	if len(q.table.serial) == 0 {
		return strings.Join(q.row(r), "|")
	}
	var c cell
	parts := make([]string, len(q.table.serial))
	for i, at := range q.table.serial {
		col := &q.table.columns[at]
		col.value(r, &c)
		parts[i] = col.canonical(&c)
	}
	return strings.Join(parts, "|")
}

// live ranges over the rows that match in w, in key order.
func (q *question) live(w *world) iter.Seq[rowRef] {
	return func(yield func(rowRef) bool) {
		plan, st := q.table.plan(w, q.terms), w.states[q.table.id]
		scratch := new(cell)
		for k := range plan.size() {
			if r := st.at(q.table.space, plan.position(k)); plan.match(w, r, scratch) && !yield(r) {
				return
			}
		}
	}
}

func (o *Oracle) world() *world {
	o.server.mu.Lock()
	defer o.server.mu.Unlock()
	return o.server.now
}

// Rows returns the rows that match now, in key order. columns nil = all.
func (o *Oracle) Rows(tableName, where string, columns []string) (iter.Seq[Row], error) {
	q, err := o.ask(tableName, where, columns)
	if err != nil {
		return nil, err
	}
	w := o.world()
	return func(yield func(Row) bool) {
		for r := range q.live(w) {
			if !yield(q.row(r)) {
				return
			}
		}
	}, nil
}

// Count returns how many rows match now.
func (o *Oracle) Count(tableName, where string) (int64, error) {
	q, err := o.ask(tableName, where, []string{})
	if err != nil {
		return 0, err
	}
	n := int64(0)
	for range q.live(o.world()) {
		n++
	}
	return n, nil
}

// Keys returns the keys of the rows that match now, in key order: the key columns' canonical texts joined with "|"; for views
// without a key the whole rows.
func (o *Oracle) Keys(tableName, where string) ([]string, error) {
	q, err := o.ask(tableName, where, nil)
	if err != nil {
		return nil, err
	}
	var keys []string
	for r := range q.live(o.world()) {
		keys = append(keys, q.key(r))
	}
	return keys, nil
}

// Marker is a moment in the history of a server.
type Marker struct{ epoch int }

// Mark remembers the present, so that Throughout and Check can look back to it. From the first mark on, every
// state that a mutation leaves behind is kept.
func (o *Oracle) Mark() Marker {
	o.server.mu.Lock()
	defer o.server.mu.Unlock()
	o.server.marked = true
	return Marker{o.server.now.epoch}
}

// Forget drops the history.
func (o *Oracle) Forget() {
	o.server.mu.Lock()
	defer o.server.mu.Unlock()
	o.server.marked, o.server.past = false, nil
}

// Witness is a row that a scan between a marker and now may have seen.
type Witness struct {
	Key      string
	Must     bool  // it existed and matched throughout: a correct copy has it
	Versions []Row // what it looked like while it matched, oldest first; a correct copy has one of them
}

// Throughout returns the rows that existed and matched at any time since the marker, sorted by the text of their keys. A correct copy of the
// table as it was scanned in that time has every row with Must set exactly once, perhaps some of the others at
// most once, and no other.
func (o *Oracle) Throughout(since Marker, tableName, where string, columns []string) ([]Witness, error) {
	q, err := o.ask(tableName, where, columns)
	if err != nil {
		return nil, err
	}
	worlds, err := o.since(since)
	if err != nil {
		return nil, err
	}
	return q.throughout(worlds), nil
}

// RowsAt returns the rows that matched at a moment that was marked, in key order. columns nil = all.
func (o *Oracle) RowsAt(at Marker, tableName, where string, columns []string) (iter.Seq[Row], error) {
	q, err := o.ask(tableName, where, columns)
	if err != nil {
		return nil, err
	}
	worlds, err := o.since(at)
	if err != nil {
		return nil, err
	}
	return func(yield func(Row) bool) {
		for r := range q.live(worlds[0]) {
			if !yield(q.row(r)) {
				return
			}
		}
	}, nil
}

func (q *question) throughout(worlds []*world) []Witness {
	type seen struct {
		times    int
		versions []rowRef
	}
	byOrd := map[uint64]*seen{}
	for _, w := range worlds {
		for r := range q.live(w) {
			s := byOrd[r.ord]
			if s == nil {
				s = &seen{}
				byOrd[r.ord] = s
			}
			s.times++
			if !slices.Contains(s.versions, r) {
				s.versions = append(s.versions, r)
			}
		}
	}
	var out []Witness
	for _, s := range byOrd {
		wit := Witness{Key: q.key(s.versions[0]), Must: s.times == len(worlds)}
		for _, v := range s.versions {
			wit.Versions = append(wit.Versions, q.row(v))
		}
		out = append(out, wit)
	}
	slices.SortFunc(out, func(a, b Witness) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// since returns every world from the marker on.
func (o *Oracle) since(m Marker) ([]*world, error) {
	o.server.mu.Lock()
	defer o.server.mu.Unlock()
	var worlds []*world
	for _, w := range o.server.past {
		if w.epoch >= m.epoch {
			worlds = append(worlds, w)
		}
	}
	worlds = append(worlds, o.server.now)
	if worlds[0].epoch != m.epoch {
		return nil, errors.New("simulator: the history of this marker was forgotten")
	}
	return worlds, nil
}

// Check compares a copy with what a correct one must hold. columns names the copy's columns in the order of its rows (nil = all),
// and must contain the key columns of a table with a key. The error says what is wrong, at most ten things of
// it; rows of a copy are named by their key.
func (o *Oracle) Check(since Marker, tableName, where string, columns []string, got iter.Seq[Row]) error {
	q, err := o.ask(tableName, where, columns)
	if err != nil {
		return err
	}
	worlds, err := o.since(since)
	if err != nil {
		return err
	}
	return q.check(q.throughout(worlds), got)
}

// CheckAt compares a copy with the rows at a moment that was marked: it must hold these and no others. See Check.
func (o *Oracle) CheckAt(at Marker, tableName, where string, columns []string, got iter.Seq[Row]) error {
	q, err := o.ask(tableName, where, columns)
	if err != nil {
		return err
	}
	worlds, err := o.since(at)
	if err != nil {
		return err
	}
	return q.check(q.throughout(worlds[:1]), got)
}

func (q *question) check(witnesses []Witness, got iter.Seq[Row]) error {
	if len(q.table.serial) == 0 {
		return checkBag(witnesses, got)
	}
	at := make([]int, 0, len(q.table.serial))
	for _, k := range q.table.serial {
		i := slices.Index(q.columns, &q.table.columns[k])
		if i < 0 {
			return fmt.Errorf("simulator: the copy must contain the key column %s to be checked", q.table.columns[k].Name)
		}
		at = append(at, i)
	}
	byKey := make(map[string]*Witness, len(witnesses))
	for i := range witnesses {
		byKey[witnesses[i].Key] = &witnesses[i]
	}
	var wrong complaints
	count := make(map[string]int, len(witnesses))
	for row := range got {
		if len(row) != len(q.columns) {
			return fmt.Errorf("simulator: a row of the copy has %d cells, not %d", len(row), len(q.columns))
		}
		parts := make([]string, len(at))
		for i, k := range at {
			parts[i] = row[k]
		}
		key := strings.Join(parts, "|")
		count[key]++
		switch wit := byKey[key]; {
		case wit == nil:
			wrong.add("row %s does not belong to the copy", key)
		case count[key] == 2:
			wrong.add("row %s is there more than once", key)
		default:
			wrong.compare(q, wit, row)
		}
	}
	for i := range witnesses {
		if w := &witnesses[i]; w.Must && count[w.Key] == 0 {
			wrong.add("row %s is missing", w.Key)
		}
	}
	return wrong.err()
}

// checkBag compares rows without a key: every row as often as it must be there.
func checkBag(witnesses []Witness, got iter.Seq[Row]) error {
	must, may := map[string]int{}, map[string]int{}
	for _, w := range witnesses {
		for i, v := range w.Versions {
			text := strings.Join(v, "|")
			may[text]++
			if i == 0 && w.Must && len(w.Versions) == 1 {
				must[text]++
			}
		}
	}
	count := map[string]int{}
	var wrong complaints
	for row := range got {
		text := strings.Join(row, "|")
		if count[text]++; count[text] > may[text] {
			wrong.add("a row is there %d times, the table has it %d times: %q", count[text], may[text], text)
		}
	}
	for text, n := range must {
		if count[text] < n {
			wrong.add("a row is there %d times, the table has it %d times: %q", count[text], n, text)
		}
	}
	return wrong.err()
}

// complaints collects what is wrong.
type complaints struct {
	texts []string
	n     int
}

func (c *complaints) add(format string, args ...any) {
	if c.n++; len(c.texts) < 10 {
		c.texts = append(c.texts, fmt.Sprintf(format, args...))
	}
}

func (c *complaints) compare(q *question, wit *Witness, row Row) {
	for _, v := range wit.Versions {
		if slices.Equal(v, row) {
			return
		}
	}
	nearest := wit.Versions[len(wit.Versions)-1]
	for i, cell := range row {
		if cell != nearest[i] {
			c.add("row %s, column %s: %q, not %q", wit.Key, q.columns[i].Name, cell, nearest[i])
			return
		}
	}
}

func (c *complaints) err() error {
	if c.n == 0 {
		return nil
	}
	return fmt.Errorf("simulator: the copy is wrong in %d places: %s", c.n, strings.Join(c.texts, "; "))
}
