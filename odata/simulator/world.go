package simulator

import (
	"maps"
	"slices"
	"sort"
)

// state is what has happened to the rows of one table. A state never changes: a mutation makes the next one, so
// that an answer that is being streamed shows the rows as they were when its request came, as a server with
// snapshot isolation does.
type state struct {
	n        int64             // rows of the first load
	dead     []int64           // indexes of deleted rows of the first load, ascending
	deadRank []int64           // deadRank[k] = dead[k]-k: the live rows of the first load before dead[k]
	born     []uint64          // ords of inserted rows that live, ascending
	bornRank []int64           // position of born[k] among all live rows
	changes  map[uint64]change // ord → what differs, of rows that were changed or have a life
}

// change is what differs in a row from its first version.
type change struct {
	ver  uint32
	life *life
}

// index computes the ranks.
func (s *state) index(sp *space) {
	s.deadRank = make([]int64, len(s.dead))
	for k, d := range s.dead {
		s.deadRank[k] = d - int64(k)
	}
	s.bornRank = make([]int64, len(s.born))
	for k, ord := range s.born {
		before := min(sp.index(ord)+1, s.n) // rows of the first load before it, dead ones included
		s.bornRank[k] = before - int64(sort.Search(len(s.dead), func(j int) bool { return s.dead[j] >= before })) + int64(k)
	}
}

// live is the number of rows.
func (s *state) live() int64 { return s.n - int64(len(s.dead)) + int64(len(s.born)) }

// at returns the row at a position in key order, 0 ≤ pos < live().
func (s *state) at(sp *space, pos int64) rowRef {
	var ord uint64
	if len(s.born) == 0 && len(s.dead) == 0 {
		ord = sp.base(pos)
	} else {
		k, exact := slices.BinarySearch(s.bornRank, pos)
		if exact {
			ord = s.born[k]
		} else {
			rank := pos - int64(k)
			gone := sort.Search(len(s.deadRank), func(j int) bool { return s.deadRank[j] > rank })
			ord = sp.base(rank + int64(gone))
		}
	}
	return s.ref(ord)
}

// ref is the present version of a row that lives.
func (s *state) ref(ord uint64) rowRef {
	if len(s.changes) == 0 {
		return rowRef{ord: ord}
	}
	c := s.changes[ord]
	return rowRef{ord: ord, ver: c.ver, life: c.life}
}

// find returns the version of a row, and whether it lives.
func (s *state) find(sp *space, ord uint64) (rowRef, bool) {
	i := sp.index(ord)
	if i >= 0 && i < s.n && ord&insertBit == 0 {
		if sp.base(i) != ord {
			return rowRef{}, false
		}
		if _, dead := slices.BinarySearch(s.dead, i); dead {
			return rowRef{}, false
		}
	} else if _, ok := slices.BinarySearch(s.born, ord); !ok {
		return rowRef{}, false
	}
	return s.ref(ord), true
}

// world is the state of every table at one moment.
type world struct {
	epoch  int
	states []*state // by table.id
}

func newWorld(c *catalog) *world {
	w := &world{states: make([]*state, len(c.list))}
	for i, t := range c.list {
		w.states[i] = &state{n: t.space.n}
	}
	return w
}

// with returns the next world, in which some tables have another state.
func (w *world) with(changed map[*table]*state) *world {
	next := &world{epoch: w.epoch + 1, states: slices.Clone(w.states)}
	for t, s := range changed {
		s.index(t.space)
		next.states[t.id] = s
	}
	return next
}

func (s *state) clone() *state {
	c := &state{n: s.n, dead: slices.Clone(s.dead), born: slices.Clone(s.born), changes: maps.Clone(s.changes)}
	if c.changes == nil {
		c.changes = map[uint64]change{}
	}
	return c
}

// touch changes a row at an instant: step says what (see rowRef), revise, if not nil, what else its life shows.
func (s *state) touch(r rowRef, step uint32, at int64, revise func(*life)) {
	next := life{}
	if r.life != nil {
		next = *r.life
	}
	next.changed = at
	if revise != nil {
		revise(&next)
	}
	s.changes[r.ord] = change{ver: r.ver + step, life: &next}
}

// insert adds n rows whose ords are drawn from h, and returns the ords. The rows share l.
func (s *state) insert(t *table, n int, h uint64, l *life) []uint64 {
	ords := make([]uint64, 0, n)
	for range n {
		for {
			h = mix(h + 1)
			var ord uint64
			if t.dense {
				last := max(s.n, 1) - 1
				if len(s.born) > 0 {
					last = t.space.index(s.born[len(s.born)-1])
				} else if s.n == 0 {
					last = -1
				}
				ord = t.space.base(last + 1)
			} else {
				after := int64(h % uint64(s.n+1)) // 0: before the first row
				ord = uint64(after)<<ordShift | insertBit | mix(h)&(insertBit-1)
			}
			k, taken := slices.BinarySearch(s.born, ord)
			if !taken {
				s.born = slices.Insert(s.born, k, ord)
				s.changes[ord] = change{life: l}
				ords = append(ords, ord)
				break
			}
		}
	}
	return ords
}

// remove deletes rows.
func (s *state) remove(sp *space, rows []rowRef) {
	for _, r := range rows {
		delete(s.changes, r.ord)
		if k, ok := slices.BinarySearch(s.born, r.ord); ok {
			s.born = slices.Delete(s.born, k, k+1)
			continue
		}
		i := sp.index(r.ord)
		if k, already := slices.BinarySearch(s.dead, i); !already {
			s.dead = slices.Insert(s.dead, k, i)
		}
	}
}
