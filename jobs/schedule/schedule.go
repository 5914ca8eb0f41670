// Package schedule turns a cron text and a time zone into the instants at which a job is due.
//
// The parser is robfig/cron's; its evaluation is not used across zone changes, because it skips local
// times that do not exist and fires doubled ones twice. Here the text is evaluated on the wall clock, and the
// wall clock is then laid on the time line by a written rule:
//
//   - A local time that does not exist (the spring gap) is due at the first instant after the gap.
//     Several that fall into one gap are due once.
//   - A local time that exists twice (the autumn fold) is due once, at its first occurrence; unless the
//     hour field is *, which means "whatever the clock says": then it is due at both.
//
// It is a leaf.
package schedule

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Schedule is a cron text in a time zone. It is immutable.
type Schedule struct {
	text      string
	zone      *time.Location
	spec      *cron.SpecSchedule // evaluated on wall-clock time that is dressed as UTC
	everyHour bool
}

// starBit is how the parser marks a field that was written as *.
const starBit = 1 << 63

var fields = []string{"minute", "hour", "day of month", "month", "day of week"}

// Parse reads five fields (minute, hour, day of month, month, day of week; names such as MON and JAN are known;
// Sunday is 0) for an IANA zone. It refuses what the parser underneath accepts and then never, or always, fires.
func Parse(text, zone string) (*Schedule, error) {
	if zone == "" || strings.EqualFold(zone, "local") {
		return nil, fmt.Errorf("a schedule needs an IANA time zone such as Europe/Sofia")
	}
	loc, err := time.LoadLocation(zone)
	if err != nil {
		return nil, fmt.Errorf("%q is not an IANA time zone; write it like Europe/Sofia", zone)
	}
	if strings.ContainsAny(text, "=@") {
		return nil, fmt.Errorf("write five fields (minute hour day-of-month month day-of-week), e.g. 15 5 * * 1-5; zone and @names are not part of the cron text")
	}
	parts := strings.Fields(text)
	if len(parts) != len(fields) {
		return nil, fmt.Errorf("found %d fields, five are needed: minute hour day-of-month month day-of-week, e.g. 15 5 * * 1-5", len(parts))
	}
	for i, part := range parts {
		if err := checkField(i, part); err != nil {
			return nil, err
		}
	}
	// Day of month and day of week widen each other when both are lists, and narrow each other as soon as
	// one begins with *: nobody remembers that, so it is refused.
	if dom, dow := parts[2], parts[4]; (strings.HasPrefix(dom, "*/") && dow != "*") || (strings.HasPrefix(dow, "*/") && dom != "*") {
		return nil, fmt.Errorf("a step in one of day of month and day of week together with the other has no clear meaning; list the days, e.g. 1,3,5")
	}
	parser := cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)
	parsed, err := parser.Parse(strings.Join(parts, " "))
	if err != nil {
		return nil, fmt.Errorf("not a cron text: %w", err)
	}
	spec, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return nil, fmt.Errorf("not a cron text of five fields")
	}
	spec.Location = time.UTC
	s := &Schedule{text: text, zone: loc, spec: spec, everyHour: spec.Hour&starBit != 0}
	if s.spec.Next(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return nil, fmt.Errorf("no such day exists, so the job would never run; check day of month and month")
	}
	return s, nil
}

// checkField finds the mistakes that the parser lets pass, and says the ones it reports in our words.
func checkField(i int, part string) error {
	for item := range strings.SplitSeq(part, ",") {
		if item == "" {
			return fmt.Errorf("the %s field %q has an empty part; remove the comma", fields[i], part)
		}
	}
	if i == 4 && strings.ContainsRune(part, '7') && !strings.Contains(part, "/7") {
		return fmt.Errorf("the day of week 7 is not known; Sunday is 0")
	}
	return nil
}

// String is the cron text.
func (s *Schedule) String() string { return s.text }

// Zone is the time zone.
func (s *Schedule) Zone() *time.Location { return s.zone }

// Next is the first instant after t at which the job is due.
func (s *Schedule) Next(t time.Time) time.Time {
	wall := dress(t.In(s.zone))
	// Only near a fold can a later wall time be due before an earlier one.
	folded := s.everyHour && nearFold(t, s.zone)
	if folded {
		wall = wall.Add(-8 * time.Hour)
	}
	var best time.Time
	for range 10_000 {
		wall = s.spec.Next(wall)
		if wall.IsZero() {
			return best
		}
		for _, at := range s.instants(wall) {
			if at.After(t) && (best.IsZero() || at.Before(best)) {
				best = at
			}
		}
		// No later wall time can be due before this: shifts of a zone are below three hours but for
		// the date line, where a whole day is skipped forward, never repeated.
		if !best.IsZero() && wall.Sub(dress(best.In(s.zone))) > 3*time.Hour {
			return best
		}
		if !best.IsZero() && !folded {
			return best
		}
	}
	return best
}

// dress gives a local time's wall clock as if it were UTC.
func dress(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.UTC)
}

// nearFold reports whether the wall clock is set back within four hours of t: ticks of the second pass then
// have wall times that are not after t's.
func nearFold(t time.Time, zone *time.Location) bool {
	start, end := t.In(zone).ZoneBounds()
	for _, change := range []time.Time{start, end} {
		if change.IsZero() || change.Sub(t).Abs() > 4*time.Hour {
			continue
		}
		_, before := change.Add(-time.Second).In(zone).Zone()
		_, after := change.In(zone).Zone()
		if after < before {
			return true
		}
	}
	return false
}

// instants lays a wall time on the time line: one instant, the end of the gap, or one or both sides of the fold.
func (s *Schedule) instants(wall time.Time) []time.Time {
	near := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), 0, s.zone)
	var found []time.Time
	var gap time.Time
	try := func(inside time.Time) {
		local := inside.In(s.zone)
		start, end := local.ZoneBounds()
		_, offset := local.Zone()
		at := wall.Add(-time.Duration(offset) * time.Second)
		if (start.IsZero() || !at.Before(start)) && (end.IsZero() || at.Before(end)) {
			for _, f := range found {
				if f.Equal(at) {
					return
				}
			}
			found = append(found, at.In(s.zone))
			return
		}
		if !end.IsZero() && !at.Before(end) { // past the end of this stretch: if no stretch holds it, it fell into the gap here
			if gap.IsZero() || end.After(gap) {
				gap = end
			}
		}
	}
	start, end := near.ZoneBounds()
	if !start.IsZero() {
		try(start.Add(-time.Second))
	}
	try(near)
	if !end.IsZero() {
		try(end)
	}
	switch {
	case len(found) == 0:
		return []time.Time{gap.In(s.zone)}
	case len(found) > 1 && !s.everyHour:
		return found[:1]
	}
	return found
}
