package extsort

import (
	"bytes"
	"fmt"
	"iter"
)

// Pair is one key of a full outer join. Left and Right are the values that the sides have for it; a side that lacks the
// key has InLeft or InRight false. The bytes are valid until the next pair is asked for.
type Pair struct {
	Key             []byte
	Left, Right     []byte
	InLeft, InRight bool
}

// RepeatedKeyError says that a side of a join has a key more than once.
type RepeatedKeyError struct {
	Right bool // the side
}

// Error implements error.
func (e *RepeatedKeyError) Error() string {
	side := "left"
	if e.Right {
		side = "right"
	}
	return fmt.Sprintf("extsort: a key is there more than once on the %s side of a join", side)
}

// Join gives every key of either side once, in order (merge join). A key that one side has more than once ends it with a
// *RepeatedKeyError. Both sides are read once, in step, and nothing is kept.
func Join(left, right *Sorter) iter.Seq2[Pair, error] {
	return func(yield func(Pair, error) bool) {
		l, r := side{}, side{right: true}
		for _, err := range []error{l.begin(left), r.begin(right)} {
			if err != nil {
				yield(Pair{}, err)
				return
			}
		}
		for l.more || r.more {
			order := 0
			switch {
			case !r.more:
				order = -1
			case !l.more:
				order = 1
			default:
				order = bytes.Compare(l.m.rec.Key, r.m.rec.Key)
			}
			var p Pair
			if order >= 0 {
				p.Key, p.Right, p.InRight = r.m.rec.Key, r.m.rec.Value, true
			}
			if order <= 0 {
				p.Key, p.Left, p.InLeft = l.m.rec.Key, l.m.rec.Value, true
			}
			if !yield(p, nil) {
				return
			}
			if err := step(&l, &r, order); err != nil {
				yield(Pair{}, err)
				return
			}
		}
	}
}

// step goes on where the pair came from.
func step(l, r *side, order int) error {
	if order <= 0 {
		if err := l.advance(); err != nil {
			return err
		}
	}
	if order >= 0 {
		return r.advance()
	}
	return nil
}

// side is one side of a join.
type side struct {
	right bool
	m     *merge
	more  bool
	last  []byte // the key before
}

func (s *side) begin(from *Sorter) (err error) {
	if s.m, err = from.merge(); err != nil {
		return err
	}
	s.more = s.m.next()
	return s.m.err
}

func (s *side) advance() error {
	s.last = append(s.last[:0], s.m.rec.Key...)
	s.more = s.m.next()
	if s.more && bytes.Equal(s.last, s.m.rec.Key) {
		return &RepeatedKeyError{Right: s.right}
	}
	return s.m.err
}
