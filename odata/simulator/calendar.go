package simulator

import (
	"cmp"
	"slices"
	"strings"

	"github.com/tablexport/tablexport/odata/edm"
)

// A calendar costs twelve bytes a row, and about as much time as testing every row once. Below the one bound testing is
// cheaper, above the other it would hold too much.
const (
	calendarFrom = 4096
	calendarTo   = 1 << 22
)

// calendar is an index over one date, of the table or of an owner: the rows in the order of it. So that a window of a table
// with a million rows costs what its own rows cost.
type calendar struct {
	of    []*state // what it was made from: the table's state, and that of every owner on the path
	ticks []int64  // ascending; rows without a date are left out
	pos   []int32  // position in key order; ascending among equal ticks
}

// narrow looks for what selects few rows of the plan's range, and lists them.
func (t *table) narrow(w *world, f *filterPlan) {
	if t.listed(w, f) || f.hi-f.lo < calendarFrom || w.states[t.id].live() > calendarTo {
		return
	}
	type span struct {
		term   *filterTerm
		lo, hi int64
	}
	spans := map[string]*span{}
	var best *span
	for i := range f.terms {
		term := &f.terms[i]
		if kind := term.column.Type.Kind; kind != edm.Date && kind != edm.DateTime || term.op == opIn || term.values[0].null {
			continue
		}
		s := spans[term.path()]
		if s == nil {
			s = &span{term: term, hi: (maxDay + 2) * ticksPerDay}
			spans[term.path()] = s
		}
		if v := term.values[0].i; term.op == opGe {
			s.lo = max(s.lo, v)
		} else if s.hi = min(s.hi, v); term.op == opEq {
			s.lo = max(s.lo, v)
		}
		if best == nil || s.hi-s.lo < best.hi-best.lo {
			best = s
		}
	}
	if best == nil {
		return
	}
	cal := t.calendar(w, best.term)
	from, _ := slices.BinarySearch(cal.ticks, best.lo)
	to, _ := slices.BinarySearch(cal.ticks, best.hi+1)
	if int64(to-from) > (f.hi-f.lo)/4 {
		return // most rows are to be read anyway
	}
	f.list = make([]int64, 0, max(to-from, 0))
	for k := from; k < to; k++ {
		if p := int64(cal.pos[k]); p >= f.lo && p < f.hi {
			f.list = append(f.list, p)
		}
	}
	slices.Sort(f.list)
}

// listed finds the rows of a list of keys, one by one.
func (t *table) listed(w *world, f *filterPlan) bool {
	if len(t.serial) == 0 || t.serial[0] != t.unique {
		return false
	}
	st := w.states[t.id]
	for i := range f.terms {
		term := &f.terms[i]
		if len(term.hops) > 0 || term.op != opIn || term.column != &t.columns[t.unique] || term.column.Type.Kind != edm.Guid {
			continue
		}
		var c cell
		f.list = []int64{}
		for k := range term.values {
			v := &term.values[k]
			pos := f.lo + search(f.hi-f.lo, func(k int64) bool {
				term.column.value(st.at(t.space, f.lo+k), &c)
				return compareWords(c.hi, c.lo, v.hi, v.lo) >= 0
			})
			if pos == f.hi {
				continue
			}
			if term.column.value(st.at(t.space, pos), &c); c.hi == v.hi && c.lo == v.lo {
				f.list = append(f.list, pos)
			}
		}
		slices.Sort(f.list)
		f.list = slices.Compact(f.list)
		return true
	}
	return false
}

// search returns the smallest k in [0, n) for which from(k) is true, n if there is none.
func search(n int64, from func(int64) bool) int64 {
	lo, hi := int64(0), n
	for lo < hi {
		if mid := lo + (hi-lo)/2; from(mid) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

// path names the column with the references that lead to it.
func (t *filterTerm) path() string {
	var b strings.Builder
	for _, hop := range t.hops {
		b.WriteString(hop.by.Name)
		b.WriteByte('/')
	}
	b.WriteString(t.column.Name)
	return b.String()
}

// calendar returns the index of the term's column in the world, and makes it if the latest one is of another world. Requests
// come in the order of the worlds but for few, so that one index of a path is enough.
func (t *table) calendar(w *world, term *filterTerm) *calendar {
	of := []*state{w.states[t.id]}
	for _, hop := range term.hops {
		of = append(of, w.states[hop.to.id])
	}
	c := t.catalog
	c.mu.Lock()
	defer c.mu.Unlock()
	name := t.Name + ":" + term.path()
	if cal := c.calendars[name]; cal != nil && slices.Equal(cal.of, of) {
		return cal
	}
	cal := t.newCalendar(w, term)
	cal.of = of
	c.calendars[name] = cal
	return cal
}

func (t *table) newCalendar(w *world, term *filterTerm) *calendar {
	type dated struct {
		ticks int64
		pos   int32
	}
	st := w.states[t.id]
	rows := make([]dated, 0, st.live())
	var c cell
	for pos := range st.live() {
		if !term.reach(w, st.at(t.space, pos), &c) || c.null {
			continue
		}
		ticks := c.i
		if term.column.Type.Kind == edm.Date {
			ticks *= ticksPerDay
		}
		rows = append(rows, dated{ticks, int32(pos)})
	}
	slices.SortFunc(rows, func(a, b dated) int { return cmp.Or(cmp.Compare(a.ticks, b.ticks), cmp.Compare(a.pos, b.pos)) })
	cal := &calendar{ticks: make([]int64, len(rows)), pos: make([]int32, len(rows))}
	for i, r := range rows {
		cal.ticks[i], cal.pos[i] = r.ticks, r.pos
	}
	return cal
}
