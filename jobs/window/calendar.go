package window

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Period is the length of a calendar's windows. Its text is also the name of the partition column.
type Period string

// The periods.
const (
	PeriodDay     Period = "day"     // 2024-03-05
	PeriodWeek    Period = "week"    // 2024-W10: ISO 8601, from Monday, of the year that its Thursday is in
	PeriodMonth   Period = "month"   // 2024-03
	PeriodQuarter Period = "quarter" // 2024-Q1
	PeriodYear    Period = "year"    // 2024
)

// Periods are all periods, shortest first.
var Periods = []Period{PeriodDay, PeriodWeek, PeriodMonth, PeriodQuarter, PeriodYear}

// Null is the value of the partition for rows that have no date, as Delta and Hive write it in paths. It is no window of
// a calendar.
const Null = "__HIVE_DEFAULT_PARTITION__"

// Calendar cuts time into the windows of a period in a time zone. It is immutable.
type Calendar struct {
	period Period
	zone   *time.Location
}

// New makes the calendar of an IANA zone. The zone "" is UTC; "Local" is refused, because it means another thing on
// another machine.
func New(period Period, zone string) (Calendar, error) {
	if _, ok := names[period]; !ok {
		return Calendar{}, fmt.Errorf("%q is no period; write day, week, month, quarter or year", string(period))
	}
	loc, err := time.LoadLocation(zone)
	if err != nil || strings.EqualFold(zone, "local") {
		return Calendar{}, fmt.Errorf("%q is not an IANA time zone; write it like Europe/Sofia", zone)
	}
	return Calendar{period: period, zone: loc}, nil
}

// Period returns the period.
func (c Calendar) Period() Period { return c.period }

// Zone returns the zone.
func (c Calendar) Zone() *time.Location { return c.zone }

// Span is a stretch of time, half-open in both readings: civil days from First to before Next, and instants from
// Start to before End. The two agree, but for pieces shorter than a day: they have the days that they touch.
type Span struct {
	First, Next Day
	Start, End  time.Time // in the calendar's zone

	unit unit // what Split cut last
	zone *time.Location
}

// Window is one window of a calendar.
type Window struct {
	Value string // the partition's value: "2024-03"
	Span

	index int
}

// String returns the value.
func (w Window) String() string { return w.Value }

// At returns the window that t belongs to.
func (c Calendar) At(t time.Time) Window {
	year, month, day := t.In(c.zone).Date()
	w := c.On(DayOf(year, month, day))
	// Where a clock was set back over midnight, the local date went back as well, but windows do not overlap.
	for w.Start.After(t) {
		w = c.Shift(w, -1)
	}
	for !w.End.After(t) {
		w = c.Shift(w, 1)
	}
	return w
}

// On returns the window that a civil day belongs to.
func (c Calendar) On(d Day) Window { return c.window(names[c.period].of(d)) }

// Shift returns the window that is n windows later than w, or earlier for a negative n.
func (c Calendar) Shift(w Window, n int) Window { return c.window(w.index + n) }

// Distance returns how many windows b is later than a.
func (c Calendar) Distance(a, b Window) int { return b.index - a.index }

// Newest returns the n newest windows at now, the oldest of them first, the current one last.
func (c Calendar) Newest(now time.Time, n int) []Window {
	last := c.At(now)
	return c.Range(c.Shift(last, 1-n), last)
}

// Range returns the windows from first to last, both included; none if last is before first.
func (c Calendar) Range(first, last Window) []Window {
	out := make([]Window, 0, max(0, last.index-first.index+1))
	for i := first.index; i <= last.index; i++ {
		out = append(out, c.window(i))
	}
	return out
}

// Parse reads the value of a window. It takes what [Window.Value] gives and nothing else: 2024-3 is no month.
func (c Calendar) Parse(value string) (Window, error) {
	d, ok := names[c.period].parse(value)
	if ok && d >= FirstDay-6 && d <= LastDay { // the first ISO week of the year 1 begins with it, the last one of 9999 ends beyond it
		if w := c.On(d); w.Value == value {
			return w, nil
		}
	}
	return Window{}, fmt.Errorf("%q is not a %s; write it like %s", value, c.period, names[c.period].example)
}

func (c Calendar) window(index int) Window {
	n := names[c.period]
	first, next := n.first(index), n.first(index+1)
	return Window{
		Value: n.value(index), index: index,
		Span: Span{First: first, Next: next, Start: first.begins(c.zone), End: next.begins(c.zone), unit: n.unit, zone: c.zone},
	}
}

// ParseDays reads a day, or any window's value, as the days from first to before next: for bounds that people write
// ("from 2023", "to 2024-03").
func ParseDays(text string) (first, next Day, err error) {
	for _, p := range Periods {
		w, err := Calendar{period: p, zone: time.UTC}.Parse(text)
		if err == nil {
			return max(w.First, FirstDay), min(w.Next, LastDay+1), nil
		}
	}
	return 0, 0, fmt.Errorf("%q is not a date or period; write it like 2024-03-05, 2024-03 or 2024", text)
}

// naming is how the windows of a period are numbered and written.
type naming struct {
	unit    unit
	example string
	of      func(Day) int    // the number of the window that a day is in
	first   func(int) Day    // the first day of a window
	value   func(int) string //
	parse   func(string) (Day, bool)
}

var names = map[Period]naming{
	PeriodDay: {
		unit: unitDay, example: "2024-03-05",
		of:    func(d Day) int { return int(d) },
		first: func(i int) Day { return Day(i) },
		value: func(i int) string { return Day(i).String() },
		parse: func(s string) (Day, bool) { d, err := ParseDay(s); return d, err == nil },
	},
	PeriodWeek: {
		unit: unitWeek, example: "2024-W10",
		of:    func(d Day) int { return int(floorDiv(int64(d)+3, 7)) }, // 1970-01-01 was a Thursday
		first: func(i int) Day { return Day(i*7 - 3) },
		value: func(i int) string {
			thursday := Day(i * 7)
			year, _, _ := thursday.Date()
			return fmt.Sprintf("%04d-W%02d", year, 1+int(thursday-DayOf(year, time.January, 1))/7)
		},
		parse: func(s string) (Day, bool) {
			year, week, ok := fields(s, "-W", 2, 53)
			// The fourth of January is always in the first week.
			return DayOf(year, time.January, 4+7*(week-1)), ok
		},
	},
	PeriodMonth: {
		unit: unitMonth, example: "2024-03",
		of:    func(d Day) int { year, month, _ := d.Date(); return year*12 + int(month) - 1 },
		first: func(i int) Day { return DayOf(0, time.Month(i+1), 1) },
		value: func(i int) string { return fmt.Sprintf("%04d-%02d", i/12, i%12+1) },
		parse: func(s string) (Day, bool) {
			year, month, ok := fields(s, "-", 2, 12)
			return DayOf(year, time.Month(month), 1), ok
		},
	},
	PeriodQuarter: {
		unit: unitQuarter, example: "2024-Q1",
		of:    func(d Day) int { year, month, _ := d.Date(); return year*4 + int(month-1)/3 },
		first: func(i int) Day { return DayOf(0, time.Month(i*3+1), 1) },
		value: func(i int) string { return fmt.Sprintf("%04d-Q%d", i/4, i%4+1) },
		parse: func(s string) (Day, bool) {
			year, quarter, ok := fields(s, "-Q", 1, 4)
			return DayOf(year, time.Month(quarter*3-2), 1), ok
		},
	},
	PeriodYear: {
		unit: unitYear, example: "2024",
		of:    func(d Day) int { year, _, _ := d.Date(); return year },
		first: func(i int) Day { return DayOf(i, time.January, 1) },
		value: func(i int) string { return fmt.Sprintf("%04d", i) },
		parse: func(s string) (Day, bool) {
			year, ok := digits(s, 4)
			return DayOf(year, time.January, 1), ok
		},
	},
}

// fields reads a year, a separator and a number of so many digits from 1 to high.
func fields(s, separator string, width, high int) (year, number int, ok bool) {
	left, right, found := strings.Cut(s, separator)
	year, ok1 := digits(left, 4)
	number, ok2 := digits(right, width)
	return year, number, found && ok1 && ok2 && number >= 1 && number <= high
}

func digits(s string, n int) (int, bool) {
	if len(s) != n || strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' }) {
		return 0, false
	}
	v, err := strconv.Atoi(s)
	return v, err == nil
}
