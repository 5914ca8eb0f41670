package simulator

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// documents is the table that owns the others and dates them.
const documents = "Gen_Documents"

// Day is what happens on one day of a company's life. It touches the documents, and what they own at any depth (orders,
// their lines), in a way that leaves no reference to an owner without its owner.
type Day struct {
	Date time.Time // the day, in UTC; zero = the day after the latest that happened, at first the day after Options.Last

	New     int // documents that are entered, dated on the day or up to two days before; one in five is a draft (State 10)
	Late    int // documents that are entered on the day but dated earlier, by up to Back days
	Updated int // documents of the last 60 days that change: header, order, some lines; some gain or lose a line; drafts are released
	Deleted int // documents of the last 60 days that are deleted with all they own
	Redated int // documents of the last Back days that get a date in another month: their rows move with them, but do not change
	Other   int // rows of every table that no document owns that are inserted, as many that change, and half as many of the inserted that vanish

	Back int // days; 0 = 120
}

// Changes counts the rows of one table that a day touched.
type Changes struct{ Inserted, Updated, Deleted int }

// Evolve lets one day happen, all of it between two requests: a request sees the company before the day or behind
// it. The same days under one seed give the same rows. Every row that is changed gets another Row_Version, and shows the day
// as its Update_Time. The clock stands at 18:00 of the day afterwards (unless Options.WallClock is set).
func (s *Server) Evolve(d Day) (map[string]Changes, error) {
	d.Back = cmp.Or(d.Back, 120)
	s.mu.Lock()
	defer s.mu.Unlock()
	day := s.lived + 1
	if !d.Date.IsZero() {
		day = ticksOf(d.Date) / ticksPerDay
	}
	s.rolls++
	e := &evolution{
		catalog: s.catalog, world: s.now, next: map[*table]*state{}, count: map[string]Changes{}, h: mix(s.opts.Seed ^ s.rolls*0x9e3779b97f4a7c15),
		day: day, back: int64(d.Back),
	}
	e.at = e.day*ticksPerDay + 8*3600*ticksPerSecond
	if s.opts.WallClock {
		e.at = ticksOf(time.Now())
	}
	if root := s.catalog.tables[documents]; root != nil {
		if err := e.documents(root, d); err != nil {
			return nil, err
		}
	}
	e.others(d.Other)
	s.publish(e.next)
	s.lived = e.day
	if !s.opts.WallClock {
		s.today = max(e.at, e.day*ticksPerDay+18*3600*ticksPerSecond)
	}
	return e.count, nil
}

// UsualDay is a day that fits the size of the company, without a date.
func (s *Server) UsualDay() Day {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	if root := s.catalog.tables[documents]; root != nil {
		n = int(s.now.states[root.id].live() / 1000)
	}
	n = max(n, 3)
	return Day{New: n, Late: (n + 9) / 10, Updated: 2 * n, Deleted: (n + 19) / 20, Redated: (n + 19) / 20, Other: 2}
}

// evolution is a day that happens.
type evolution struct {
	catalog *catalog
	world   *world
	next    map[*table]*state
	count   map[string]Changes
	h       uint64
	day     int64 // days since 0001-01-01
	back    int64
	at      int64 // ticks: the time of the next change
}

// draw returns the next number of the day's own sequence, below n.
func (e *evolution) draw(n int64) int64 {
	e.h += 0x9e3779b97f4a7c15
	return int64(mix(e.h) % uint64(max(n, 1)))
}

func (e *evolution) state(t *table) *state {
	if e.next[t] == nil {
		e.next[t] = e.world.states[t.id].clone()
	}
	return e.next[t]
}

func (e *evolution) insert(t *table, l life) uint64 {
	e.tick()
	l.created, l.changed = e.at, e.at
	e.h++
	n := e.count[t.Name]
	n.Inserted++
	e.count[t.Name] = n
	return e.state(t).insert(t, 1, mix(e.h), &l)[0]
}

func (e *evolution) touch(t *table, r rowRef, revise func(*life)) {
	e.tick()
	e.state(t).touch(r, 1, e.at, revise)
	n := e.count[t.Name]
	n.Updated++
	e.count[t.Name] = n
}

func (e *evolution) remove(t *table, rows ...rowRef) {
	e.state(t).remove(t.space, rows)
	n := e.count[t.Name]
	n.Deleted += len(rows)
	e.count[t.Name] = n
}

// tick moves the clock by some milliseconds, so that the times of two changes differ.
func (e *evolution) tick() { e.at += (1 + e.draw(500)) * ticksPerSecond / 1000 }

// owned is a row with what belongs to it.
type owned struct {
	table *table
	row   rowRef
	rows  []*owned
}

func (e *evolution) documents(root *table, d Day) error {
	recent, err := e.dated(root, e.day-60, d.Updated+d.Deleted)
	if err != nil {
		return err
	}
	older, err := e.dated(root, e.day-e.back, d.Redated)
	if err != nil {
		return err
	}
	deleted := recent[:min(d.Deleted, len(recent))]
	gone := map[uint64]bool{}
	for _, o := range deleted {
		gone[o.row.ord] = true
	}
	moved := map[uint64]bool{}
	for _, o := range older {
		if !gone[o.row.ord] {
			e.redate(o)
			moved[o.row.ord] = true
		}
	}
	e.gather(recent)
	for _, o := range deleted {
		e.delete(o)
	}
	for _, o := range recent[len(deleted):] {
		if !moved[o.row.ord] {
			e.update(o)
		}
	}
	for range d.New {
		e.enter(root, e.day-e.draw(3))
	}
	for range d.Late {
		e.enter(root, e.day-1-e.draw(e.back))
	}
	return nil
}

// dated draws n documents with a date from first to the day.
func (e *evolution) dated(root *table, first int64, n int) ([]*owned, error) {
	if n == 0 {
		return nil, nil
	}
	where := fmt.Sprintf("Document_Date ge %s and Document_Date le %s", appendDate(nil, first), appendDate(nil, e.day))
	terms, err := e.catalog.parseFilter(where, root, false)
	if err != nil {
		return nil, fmt.Errorf("simulator: the dates of %s: %w", root.Name, err)
	}
	plan, st := root.plan(e.world, terms), e.world.states[root.id]
	order := plan.shuffled(uint64(e.draw(1 << 62)))
	var docs []*owned
	scratch := new(cell)
	for k := int64(0); k < order.n && len(docs) < n; k++ {
		if r := st.at(root.space, order.at(k)); plan.match(e.world, r, scratch) {
			docs = append(docs, &owned{table: root, row: r})
		}
	}
	return docs, nil
}

// owners lists the tables whose rows belong to rows of t.
func (e *evolution) ownedBy(t *table) []*table {
	var list []*table
	for _, c := range e.catalog.list {
		if c != t && c.owner >= 0 && c.columns[c.owner].References == t.Name && !c.columns[c.owner].Key {
			list = append(list, c)
		}
	}
	return list
}

// gather finds what belongs to rows of one table.
func (e *evolution) gather(rows []*owned) {
	if len(rows) == 0 {
		return
	}
	byOrd := make(map[uint64]*owned, len(rows))
	for _, o := range rows {
		byOrd[o.row.ord] = o
	}
	for _, t := range e.ownedBy(rows[0].table) {
		st, to := e.world.states[t.id], &t.columns[t.owner]
		var found []*owned
		var c cell
		for pos := range st.live() {
			r := st.at(t.space, pos)
			if to.value(r, &c); c.null {
				continue
			}
			if o := byOrd[c.ord]; o != nil {
				child := &owned{table: t, row: r}
				o.rows, found = append(o.rows, child), append(found, child)
			}
		}
		e.gather(found)
	}
}

func (e *evolution) delete(o *owned) {
	e.remove(o.table, o.row)
	for _, c := range o.rows {
		e.delete(c)
	}
}

// redate gives a document a date in another month, not behind the day.
func (e *evolution) redate(o *owned) {
	var c cell
	o.table.column("Document_Date").value(o.row, &c)
	y, m, _ := civil(c.i)
	for {
		to := e.day - e.draw(e.back)
		if y2, m2, _ := civil(to); y2 != y || m2 != m {
			e.touch(o.table, o.row, func(l *life) { l.day = to })
			return
		}
		if e.back < 62 {
			e.back = 62 // one month alone has no other
		}
	}
}

// update changes a document somewhere: at least one row of it.
func (e *evolution) update(o *owned) {
	if e.draw(2) == 0 || len(o.rows) == 0 {
		e.advance(o)
	}
	for _, order := range o.rows {
		lines := order.rows
		if e.draw(2) == 0 || len(lines) == 0 {
			e.touch(order.table, order.row, nil)
		}
		if len(lines) == 0 {
			continue
		}
		if len(lines) > 1 && e.draw(4) == 0 {
			e.delete(lines[0])
			lines = lines[1:]
		}
		for i, line := range lines {
			if i == 0 || e.draw(3) == 0 {
				e.touch(line.table, line.row, nil)
			}
		}
		if e.draw(4) == 0 {
			e.insert(lines[0].table, life{owner: order.row.ord, day: e.day})
		}
	}
}

// advance changes the header of a document, and moves it on: drafts are released, the released completed, the completed closed.
func (e *evolution) advance(o *owned) {
	e.touch(o.table, o.row, func(l *life) {
		var c cell
		o.table.column("State").value(o.row, &c)
		switch {
		case c.i < 30:
			l.state = 30
		case c.i < 50:
			l.state = c.i + 10
		}
	})
}

// enter makes a document of a date with an order, or what else documents own here, and its lines.
func (e *evolution) enter(root *table, date int64) {
	l := life{day: date, state: 30}
	if e.draw(5) == 0 {
		l.state = 10
	}
	doc := e.insert(root, l)
	kinds := e.ownedBy(root)
	total := int64(0)
	for _, t := range kinds {
		total += max(t.space.n, 1)
	}
	at := e.draw(total)
	for _, t := range kinds {
		if at -= max(t.space.n, 1); at < 0 {
			e.fill(t, doc, date)
			return
		}
	}
}

// fill makes one row of t that belongs to the owner, and all below it.
func (e *evolution) fill(t *table, owner uint64, date int64) {
	ord := e.insert(t, life{owner: owner, day: date})
	for _, c := range e.ownedBy(t) {
		usual := min(max(c.space.n/max(t.space.n, 1), 1), 12)
		for range 1 + e.draw(2*usual) {
			e.fill(c, ord, date)
		}
	}
}

// others changes the tables that no document owns. What vanishes was inserted on an earlier day: nothing refers to it.
func (e *evolution) others(n int) {
	if n <= 0 {
		return
	}
	family := map[*table]bool{}
	var mark func(*table)
	mark = func(t *table) {
		family[t] = true
		for _, c := range e.ownedBy(t) {
			mark(c)
		}
	}
	if root := e.catalog.tables[documents]; root != nil {
		mark(root)
	}
	for _, t := range e.catalog.list {
		if family[t] || !e.catalog.served[t.Name] {
			continue
		}
		st := e.world.states[t.id]
		var gone []rowRef
		for range min(n/2, len(st.born)) {
			r := st.ref(st.born[e.draw(int64(len(st.born)))])
			if !slices.Contains(gone, r) {
				gone = append(gone, r)
			}
		}
		e.remove(t, gone...)
		for range min(int64(n), st.live()) {
			r := st.at(t.space, e.draw(st.live()))
			if r, lives := e.state(t).find(t.space, r.ord); lives && !slices.Contains(gone, r) {
				e.touch(t, r, nil)
			}
		}
		for range n {
			e.insert(t, life{day: e.day})
		}
	}
}
