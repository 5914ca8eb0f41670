package schedule

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Hours are the working hours of an instance: a stretch of certain weekdays, on the wall clock of a zone. The zero value has none.
// It is immutable.
type Hours struct {
	zone     *time.Location
	days     [7]bool // by time.Weekday: the day on which the stretch begins
	from, to int     // minutes after midnight; to ≤ from reaches into the next day
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// ParseHours reads weekdays (mon, tue, …; none = mon to fri) and times of day (08:00, 18:30; 24:00 is the end of the day) for an
// IANA zone. Hours that end at or before their beginning reach into the next day.
func ParseHours(days []string, from, to, zone string) (*Hours, error) {
	if zone == "" || strings.EqualFold(zone, "local") {
		return nil, fmt.Errorf("working hours need an IANA time zone such as Europe/Sofia")
	}
	loc, err := time.LoadLocation(zone)
	if err != nil {
		return nil, fmt.Errorf("%q is not an IANA time zone; write it like Europe/Sofia", zone)
	}
	h := &Hours{zone: loc}
	if h.from, err = minutes(from); err != nil {
		return nil, err
	}
	if h.to, err = minutes(to); err != nil {
		return nil, err
	}
	if h.from == h.to || h.from == 24*60 {
		return nil, fmt.Errorf("working hours from %s to %s hold nothing; for whole days write from 00:00 to 24:00", from, to)
	}
	if len(days) == 0 {
		days = weekdays[1:6]
	}
	for _, day := range days {
		i := slices.Index(weekdays, strings.ToLower(day))
		if i < 0 {
			return nil, fmt.Errorf("%q is not a day; write mon, tue, wed, thu, fri, sat or sun", day)
		}
		h.days[i] = true
	}
	return h, nil
}

// minutes reads a time of day.
func minutes(text string) (int, error) {
	if text == "24:00" {
		return 24 * 60, nil
	}
	t, err := time.Parse("15:04", text)
	if err != nil || len(text) != 5 {
		return 0, fmt.Errorf("%q is not a time of day; write it like 08:00", text)
	}
	return t.Hour()*60 + t.Minute(), nil
}

// Contains reports whether t is inside the hours.
func (h *Hours) Contains(t time.Time) bool {
	_, inside := h.end(t)
	return inside
}

// End is the instant at which the hours that t is in end; t itself if it is in none.
func (h *Hours) End(t time.Time) time.Time {
	end, inside := h.end(t)
	for range 14 { // days that touch one another are one stretch; all seven round the clock end nowhere
		if !inside {
			break
		}
		t = end
		end, inside = h.end(t)
	}
	return t
}

// end finds the stretch that t is in: one that began today, or yesterday.
func (h *Hours) end(t time.Time) (time.Time, bool) {
	if h == nil || h.zone == nil {
		return t, false
	}
	local := t.In(h.zone)
	for back := range 2 {
		// A wall time in a gap is laid behind it by time.Date, one that is there twice at its first occurrence.
		at := func(day, minute int) time.Time {
			return time.Date(local.Year(), local.Month(), day, minute/60, minute%60, 0, 0, h.zone)
		}
		day := local.Day() - back
		if !h.days[at(day, 12*60).Weekday()] {
			continue
		}
		from, to := at(day, h.from), at(day, h.to)
		if h.to <= h.from {
			to = at(day+1, h.to)
		}
		if !t.Before(from) && t.Before(to) {
			return to, true
		}
	}
	return t, false
}
