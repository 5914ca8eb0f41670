package window

import "time"

// unit is a length that Split cuts to.
type unit uint8

const (
	unitYear unit = iota
	unitQuarter
	unitMonth
	unitWeek
	unitDay
	unitHour
)

// Split cuts the span into the next smaller pieces that make more than one: a year into quarters, these into months, these into
// weeks (ISO weeks, cut off at the month's ends), these into days, and days into hours, for date-time columns only
// (instants). It returns nil where there is nothing smaller. The pieces are in order and tile the span exactly. Hours are
// hours that pass, from the day's beginning: a day of 23 hours has 23.
func (s Span) Split(instants bool) []Span {
	for u := s.unit + 1; u <= unitDay; u++ {
		if pieces := s.cut(u); len(pieces) > 1 {
			return pieces
		}
	}
	if s.unit >= unitHour || !instants {
		return nil
	}
	var pieces []Span
	for at := s.Start; at.Before(s.End); {
		next := at.Add(time.Hour)
		if next.After(s.End) {
			next = s.End
		}
		piece := s
		piece.Start, piece.End, piece.unit = at, next, unitHour
		pieces, at = append(pieces, piece), next
	}
	return pieces
}

// cut tiles the span with the windows of a unit, cut off at the span's ends.
func (s Span) cut(u unit) []Span {
	c := Calendar{period: periodOf[u], zone: s.zone}
	var pieces []Span
	for d := s.First; d < s.Next; {
		w := c.On(d)
		piece := Span{First: d, Next: min(w.Next, s.Next), Start: s.Start, End: s.End, unit: u, zone: s.zone}
		if d > s.First {
			piece.Start = d.begins(s.zone)
		}
		if piece.Next < s.Next {
			piece.End = piece.Next.begins(s.zone)
		}
		pieces, d = append(pieces, piece), piece.Next
	}
	return pieces
}

var periodOf = map[unit]Period{
	unitQuarter: PeriodQuarter, unitMonth: PeriodMonth, unitWeek: PeriodWeek, unitDay: PeriodDay,
}

// Resolution is how finely a date-time column counts: the distance of the last instant before a full second.
type Resolution time.Duration

// The resolutions of SQL Server's types. A datetime counts in 1/300 s and shows them as .000, .003 and .007, so the last
// one of a second is .997; a bound that is any later is rounded up to the next second where the server takes it for
// a datetime. (learn.microsoft.com/sql/t-sql/data-types/datetime-transact-sql)
const (
	Datetime      = Resolution(3 * time.Millisecond)
	Datetime2     = Resolution(100 * time.Nanosecond) // datetime2(7): 100 ns, as .NET counts
	Smalldatetime = Resolution(time.Minute)
)

// Days returns the first and the last civil day, for "ge first and le last" on a date column; the years before 0001 and
// after 9999, which OData cannot write, are cut off.
func (s Span) Days() (first, last Day) { return max(s.First, FirstDay), min(s.Next-1, LastDay) }

// Instants returns the first and the last instant of the span at a resolution, in UTC, for "ge first and le last" on a
// date-time column. ok is false if the span holds none: a day that the zone leaves out.
func (s Span) Instants(r Resolution) (first, last time.Time, ok bool) {
	first, last = s.Start.UTC(), s.End.UTC().Add(-time.Duration(r))
	if r >= Resolution(time.Second) {
		// Bounds that are not on the grid (a zone of the 19th century was seconds off) go to the grid inside the span.
		if t := first.Truncate(time.Duration(r)); t.Before(first) {
			first = t.Add(time.Duration(r))
		}
		last = s.End.UTC().Add(-1).Truncate(time.Duration(r))
	}
	if low := time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC); first.Before(low) {
		first = low
	}
	if high := time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC); !last.Before(high) {
		last = high.Add(-time.Duration(r))
	}
	return first, last, !last.Before(first)
}

// Holds reports whether t is in the span.
func (s Span) Holds(t time.Time) bool { return !t.Before(s.Start) && t.Before(s.End) }

// HoldsDay reports whether the civil day is in the span.
func (s Span) HoldsDay(d Day) bool { return d >= s.First && d < s.Next }

// Join returns the span from the beginning of s to the end of next, which follows it.
func (s Span) Join(next Span) Span {
	s.Next, s.End = next.Next, next.End
	return s
}
