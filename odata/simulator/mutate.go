package simulator

import (
	"fmt"
	"time"
)

// mutate makes the next state of a table and publishes it. Requests that are being answered keep theirs.
func (s *Server) mutate(tableName string, change func(t *table, w *world, next *state, h uint64) (int, error)) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.catalog.tables[tableName]
	if !ok {
		return 0, fmt.Errorf("simulator: table %q is not served; name it in Options.Rows", tableName)
	}
	next := s.now.states[t.id].clone()
	s.rolls++
	n, err := change(t, s.now, next, mix(t.seed^s.rolls*0x9e3779b97f4a7c15))
	if err != nil {
		return 0, err
	}
	s.publish(map[*table]*state{t: next})
	return n, nil
}

// publish makes the next world the present one. s.mu is held.
func (s *Server) publish(changed map[*table]*state) {
	if s.marked {
		s.past = append(s.past, s.now)
	}
	s.now = s.now.with(changed)
}

// clock is what the server takes for now, in ticks, to the millisecond: what rows show as the time of a change.
func (s *Server) clock() int64 {
	if s.today != 0 {
		return s.today
	}
	return ticksOf(time.Now())
}

func ticksOf(t time.Time) int64 {
	t = t.UTC()
	y, m, d := t.Date()
	clock := time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute + time.Duration(t.Second())*time.Second
	return daysOf(y, int(m), d)*ticksPerDay + (clock.Milliseconds()+int64(t.Nanosecond()/1e6))*(ticksPerSecond/1000)
}

// SetNow sets the server's clock, which the columns that tell when a row was made or changed show (Update_Time, Creation_Time
// and the like). It stands still until it is set again or [Server.Evolve] moves it. At the start it is six o'clock of the day
// behind Options.Last, or that of this process with Options.WallClock.
func (s *Server) SetNow(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.today = ticksOf(t)
}

// Insert adds n rows. Their keys fall anywhere between, before and behind the existing ones (behind all in tables
// whose key is a number or a date). It returns n.
func (s *Server) Insert(tableName string, n int) (int, error) {
	return s.mutate(tableName, func(t *table, _ *world, next *state, h uint64) (int, error) {
		now := s.clock()
		next.insert(t, n, h, &life{created: now, changed: now})
		return n, nil
	})
}

// Update changes the contents of n rows drawn by the seed: texts, amounts, times, the row version. What filters select
// by (references, dates, booleans, enumerations) stays; Move changes that. It returns how many rows there were
// to change.
func (s *Server) Update(tableName string, n int) (int, error) {
	return s.touch(tableName, n, "", 1)
}

// UpdateWhere changes the contents of every row that the filter admits.
func (s *Server) UpdateWhere(tableName, where string) (int, error) {
	return s.touch(tableName, -1, where, 1)
}

// Move changes n rows in everything but their key and their owner: rows move into and out of filters.
func (s *Server) Move(tableName string, n int) (int, error) {
	return s.touch(tableName, n, "", 1<<16)
}

// MoveWhere is Move for every row that the filter admits.
func (s *Server) MoveWhere(tableName, where string) (int, error) {
	return s.touch(tableName, -1, where, 1<<16)
}

func (s *Server) touch(tableName string, n int, where string, step uint32) (int, error) {
	return s.mutate(tableName, func(t *table, w *world, next *state, h uint64) (int, error) {
		rows, err := s.choose(t, w, n, where, h)
		for _, r := range rows {
			next.touch(r, step, s.clock(), nil)
		}
		return len(rows), err
	})
}

// Delete removes n rows drawn by the seed, or all if there are fewer. It returns how many.
func (s *Server) Delete(tableName string, n int) (int, error) { return s.remove(tableName, n, "") }

// DeleteWhere removes every row that the filter admits.
func (s *Server) DeleteWhere(tableName, where string) (int, error) {
	return s.remove(tableName, -1, where)
}

func (s *Server) remove(tableName string, n int, where string) (int, error) {
	return s.mutate(tableName, func(t *table, w *world, next *state, h uint64) (int, error) {
		rows, err := s.choose(t, w, n, where, h)
		next.remove(t.space, rows)
		return len(rows), err
	})
}

// choose picks n rows (all if n < 0) among those that the filter admits, in an order that h decides.
func (s *Server) choose(t *table, w *world, n int, where string, h uint64) ([]rowRef, error) {
	terms, err := s.catalog.parseFilter(where, t, false)
	if err != nil {
		return nil, fmt.Errorf("simulator: filter of table %s: %w", t.Name, err)
	}
	plan := t.plan(w, terms)
	order := plan.shuffled(h)
	st := w.states[t.id]
	var rows []rowRef
	scratch := new(cell)
	for k := int64(0); k < order.n && (n < 0 || len(rows) < n); k++ {
		if r := st.at(t.space, order.at(k)); plan.match(w, r, scratch) {
			rows = append(rows, r)
		}
	}
	return rows, nil
}
