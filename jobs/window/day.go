package window

import (
	"fmt"
	"time"
)

// Day is a civil day, in days since 1970-01-01 (as Arrow's date32 and Delta's date count).
type Day int32

// The days that OData can write: 0001-01-01 and 9999-12-31.
const (
	FirstDay Day = -719162
	LastDay  Day = 2932896
)

const secondsPerDay = 24 * 60 * 60

// DayOf returns the civil day of the date; a month or day beyond its range is carried over, as by [time.Date].
func DayOf(year int, month time.Month, day int) Day {
	return Day(floorDiv(time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Unix(), secondsPerDay))
}

// Date returns the year, month and day of the month.
func (d Day) Date() (year int, month time.Month, day int) {
	return time.Unix(int64(d)*secondsPerDay, 0).UTC().Date()
}

// String returns the day as 2024-03-05.
func (d Day) String() string {
	year, month, day := d.Date()
	return fmt.Sprintf("%04d-%02d-%02d", year, month, day)
}

// ParseDay reads YYYY-MM-DD, from 0001-01-01 to 9999-12-31.
func ParseDay(text string) (Day, error) {
	t, err := time.Parse("2006-01-02", text)
	if err != nil || t.Year() < 1 {
		return 0, fmt.Errorf("%q is not a date; write it like 2024-03-05", text)
	}
	return DayOf(t.Date()), nil
}

// begins returns the earliest instant whose date in zone is d or a later one. The clock's changes are walked over from a
// point that is before d everywhere: offsets from UTC are below 26 hours. (time.Date does not say which of two instants it
// gives, and for a local time that does not exist it gives one on either side of the gap.)
func (d Day) begins(zone *time.Location) time.Time {
	wall := int64(d) * secondsPerDay
	at := time.Unix(wall-26*60*60, 0).In(zone)
	for {
		_, end := at.ZoneBounds()
		if !end.IsZero() && !end.After(at) {
			// On the last day of leap years beyond the zone's table, time gives the day's beginning as the end (Go 1.26).
			end = at.Add(time.Hour)
		}
		_, offset := at.Zone()
		begin := max(wall-int64(offset), at.Unix())
		if end.IsZero() || begin < end.Unix() {
			return time.Unix(begin, 0).In(zone)
		}
		at = end
	}
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
