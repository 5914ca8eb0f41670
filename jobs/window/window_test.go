package window

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// zones have what calendars trip over: no change at all; folds and gaps over midnight; a fold at one minute past midnight
// (St_Johns); days left out (Apia, Kwajalein, Manila) and lived twice (Sitka, Juneau); half hours; the far ends of the map.
var zones = []string{
	"UTC", "Europe/Sofia", "Europe/Oslo", "Europe/London", "America/New_York", "America/St_Johns", "America/Sao_Paulo",
	"America/Santiago", "America/Asuncion", "America/Havana", "Africa/Cairo", "Africa/Casablanca", "Asia/Beirut", "Asia/Amman",
	"Asia/Gaza", "Asia/Tehran", "Asia/Kolkata", "Asia/Kathmandu", "Asia/Manila", "Australia/Lord_Howe", "Antarctica/Troll",
	"America/Sitka", "America/Juneau", "Pacific/Apia", "Pacific/Kwajalein", "Pacific/Kiritimati", "Pacific/Niue", "Pacific/Chatham",
	"Atlantic/Azores", "America/Scoresbysund", "America/Goose_Bay", "Africa/Monrovia", "Europe/Amsterdam",
}

func calendar(t *rapid.T) Calendar {
	c, err := New(rapid.SampledFrom(Periods).Draw(t, "period"), rapid.SampledFrom(zones).Draw(t, "zone"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// instant draws any instant of OData's years, more often near a change of the zone's clock or near a midnight.
func instant(t *rapid.T, zone *time.Location) time.Time {
	seconds := rapid.Int64Range(-62_000_000_000, 253_000_000_000)
	if rapid.Bool().Draw(t, "modern") {
		seconds = rapid.Int64Range(-3_000_000_000, 4_000_000_000)
	}
	at := time.Unix(seconds.Draw(t, "seconds"), 0).In(zone)
	near := rapid.Int64Range(-7200, 7200).Draw(t, "near")
	switch rapid.IntRange(0, 2).Draw(t, "where") {
	case 0:
		if _, end := at.ZoneBounds(); !end.IsZero() {
			at = end.Add(time.Duration(near) * time.Second)
		}
	case 1:
		at = at.Truncate(24 * time.Hour).Add(time.Duration(near) * time.Second)
	}
	return at.Add(time.Duration(rapid.SampledFrom([]int64{0, 0, 1, 999_999_999, 997_000_000}).Draw(t, "ns")))
}

func TestEveryInstantIsInOneWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := calendar(t)
		at := instant(t, c.zone)
		w := c.At(at)
		before, after := c.Shift(w, -1), c.Shift(w, 1)
		if !w.Holds(at) || before.Holds(at) || after.Holds(at) {
			t.Fatalf("%s: %v is not in %s alone (%v to %v)", c.zone, at, w, w.Start, w.End)
		}
		if !before.End.Equal(w.Start) || !after.Start.Equal(w.End) || before.Next != w.First || after.First != w.Next {
			t.Fatalf("%s: %s does not touch its neighbours", c.zone, w)
		}
		back, err := c.Parse(w.Value)
		if err != nil || back != w {
			t.Fatalf("%s parses as %v, %v", w, back, err)
		}
	})
}

func TestEveryDayIsInOneWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := calendar(t)
		d := Day(rapid.Int32Range(int32(FirstDay), int32(LastDay)).Draw(t, "day"))
		w := c.On(d)
		if !w.HoldsDay(d) || c.Shift(w, -1).HoldsDay(d) || c.Shift(w, 1).HoldsDay(d) {
			t.Fatalf("%s is not in %s alone", d, w)
		}
		back, err := ParseDay(d.String())
		if err != nil || back != d {
			t.Fatalf("%s parses as %v, %v", d, back, err)
		}
	})
}

// A window begins at the earliest instant whose local date is its first day or a later one.
func TestWindowsBeginWithTheirDay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := calendar(t)
		w := c.At(instant(t, c.zone))
		date := func(at time.Time) Day { return DayOf(at.In(c.zone).Date()) }
		if got := date(w.Start); got < w.First {
			t.Fatalf("%s begins on %s", w, got)
		}
		for _, earlier := range []time.Duration{1, time.Second, time.Minute, 30 * time.Minute, time.Hour, 3 * time.Hour} {
			if got := date(w.Start.Add(-earlier)); got >= w.First {
				t.Fatalf("%s: %v before it begins, it is %s already", w, earlier, got)
			}
		}
	})
}

func TestSplitTiles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := calendar(t)
		spans := []Span{c.At(instant(t, c.zone)).Span}
		for range rapid.IntRange(1, 5).Draw(t, "levels") {
			s := rapid.SampledFrom(spans).Draw(t, "span")
			pieces := s.Split(true)
			if pieces == nil {
				return
			}
			if len(pieces) < 2 && s.Next-s.First != 1 {
				t.Fatalf("%v is split into itself", s)
			}
			hours := pieces[0].unit == unitHour
			first, last := pieces[0], pieces[len(pieces)-1]
			if !first.Start.Equal(s.Start) || !last.End.Equal(s.End) || first.First != s.First || last.Next != s.Next {
				t.Fatalf("the pieces of %v do not begin and end with it", s)
			}
			for i, p := range pieces[1:] {
				if !p.Start.Equal(pieces[i].End) || !hours && p.First != pieces[i].Next {
					t.Fatalf("piece %d of %v does not touch the one before", i+1, s)
				}
				if hours && !p.End.After(p.Start) {
					t.Fatalf("piece %d of %v is empty", i+1, s)
				}
			}
			spans = pieces
		}
	})
}

func TestSplitGoesDownTheLadder(t *testing.T) {
	c, _ := New(PeriodYear, "Europe/Sofia")
	year, _ := c.Parse("2024")
	quarters := year.Split(false)
	months := quarters[0].Split(false)
	weeks := months[1].Split(false) // February: Thursday the 1st to Thursday the 29th
	days := weeks[0].Split(false)
	for _, level := range []struct {
		pieces []Span
		want   int
	}{{quarters, 4}, {months, 3}, {weeks, 5}, {days, 4}} {
		if len(level.pieces) != level.want {
			t.Errorf("%d pieces, want %d", len(level.pieces), level.want)
		}
	}
	if got := days[0].Split(false); got != nil {
		t.Errorf("a day of a date column is split into %d", len(got))
	}
	if got := days[0].Split(true)[0].Split(true); got != nil {
		t.Errorf("an hour is split into %d", len(got))
	}
	// The day on which the clock goes forward has 23 hours, the one on which it goes back 25.
	day, _ := New(PeriodDay, "Europe/Sofia")
	for value, want := range map[string]int{"2024-03-31": 23, "2024-10-27": 25, "2024-03-30": 24} {
		w, err := day.Parse(value)
		if err != nil || len(w.Split(true)) != want {
			t.Errorf("%s has %d hours, want %d (%v)", value, len(w.Split(true)), want, err)
		}
	}
	// A single ISO week within a month must not be its own only piece.
	week, _ := New(PeriodWeek, "UTC")
	if w, _ := week.Parse("2024-W10"); len(w.Split(false)) != 7 {
		t.Errorf("a week has %d days", len(w.Split(false)))
	}
}

// The bounds, read with ge and le by a column of the resolution, take every value of the column that is in the span, and no other.
func TestBoundsAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := calendar(t)
		span := c.At(instant(t, c.zone)).Span
		if pieces := span.Split(true); pieces != nil && rapid.Bool().Draw(t, "piece") {
			span = rapid.SampledFrom(pieces).Draw(t, "of")
		}
		r := rapid.SampledFrom([]Resolution{Datetime, Datetime2, Smalldatetime}).Draw(t, "resolution")
		first, last, ok := span.Instants(r)
		for range 8 {
			near := rapid.SampledFrom([]time.Time{span.Start, span.End}).Draw(t, "near")
			value := grid(near.Add(time.Duration(rapid.Int64Range(-3e9, 3e9).Draw(t, "ns"))), r)
			if y := value.Year(); y < 1 || y > 9999 {
				continue
			}
			asked := ok && !value.Before(first) && !value.After(last)
			if asked != span.Holds(value) {
				t.Fatalf("%v: asked %v to %v, which takes %v: %v", span, first, last, value, asked)
			}
		}
	})
}

// grid is the value that a column of the resolution can hold at or before t, as the server shows it.
func grid(t time.Time, r Resolution) time.Time {
	t = t.UTC()
	if r != Datetime {
		return t.Truncate(time.Duration(r))
	}
	whole := t.Truncate(time.Second)
	ms := t.Sub(whole).Milliseconds()
	return whole.Add(time.Duration(ms-ms%10+[]int64{0, 0, 0, 3, 3, 3, 3, 7, 7, 7}[ms%10]) * time.Millisecond)
}

func TestKnownWindows(t *testing.T) {
	for _, x := range []struct {
		period         Period
		zone, value    string
		start, end     string
		first, next    string
		lastOfDatetime string
		lastDay        string
	}{
		{period: PeriodMonth, zone: "UTC", value: "2024-02", start: "2024-02-01T00:00:00Z", end: "2024-03-01T00:00:00Z",
			first: "2024-02-01", next: "2024-03-01", lastDay: "2024-02-29", lastOfDatetime: "2024-02-29T23:59:59.997Z"},
		{period: PeriodMonth, zone: "Europe/Sofia", value: "2024-03", start: "2024-02-29T22:00:00Z", end: "2024-03-31T21:00:00Z",
			first: "2024-03-01", next: "2024-04-01", lastDay: "2024-03-31", lastOfDatetime: "2024-03-31T20:59:59.997Z"},
		// 2020 has 53 ISO weeks; the last one reaches into 2021.
		{period: PeriodWeek, zone: "UTC", value: "2020-W53", start: "2020-12-28T00:00:00Z", end: "2021-01-04T00:00:00Z",
			first: "2020-12-28", next: "2021-01-04", lastDay: "2021-01-03", lastOfDatetime: "2021-01-03T23:59:59.997Z"},
		{period: PeriodWeek, zone: "UTC", value: "2019-W01", start: "2018-12-31T00:00:00Z", end: "2019-01-07T00:00:00Z",
			first: "2018-12-31", next: "2019-01-07", lastDay: "2019-01-06", lastOfDatetime: "2019-01-06T23:59:59.997Z"},
		{period: PeriodQuarter, zone: "UTC", value: "2023-Q4", start: "2023-10-01T00:00:00Z", end: "2024-01-01T00:00:00Z",
			first: "2023-10-01", next: "2024-01-01", lastDay: "2023-12-31", lastOfDatetime: "2023-12-31T23:59:59.997Z"},
		// Midnight of this day does not exist: the clock went from 00:00 to 01:00.
		{period: PeriodDay, zone: "America/Sao_Paulo", value: "2018-11-04", start: "2018-11-04T03:00:00Z", end: "2018-11-05T02:00:00Z",
			first: "2018-11-04", next: "2018-11-05", lastDay: "2018-11-04", lastOfDatetime: "2018-11-05T01:59:59.997Z"},
		// Here it went back from 24:00 to 23:00: the day before has 25 hours.
		{period: PeriodDay, zone: "America/Sao_Paulo", value: "2018-02-17", start: "2018-02-17T02:00:00Z", end: "2018-02-18T03:00:00Z",
			first: "2018-02-17", next: "2018-02-18", lastDay: "2018-02-17", lastOfDatetime: "2018-02-18T02:59:59.997Z"},
		// time.ZoneBounds gives no usable end here.
		{period: PeriodDay, zone: "Europe/Sofia", value: "2040-12-31", start: "2040-12-30T22:00:00Z", end: "2040-12-31T22:00:00Z",
			first: "2040-12-31", next: "2041-01-01", lastDay: "2040-12-31", lastOfDatetime: "2040-12-31T21:59:59.997Z"},
		// Samoa had no 30 December 2011: the window has a day, and no instant.
		{period: PeriodDay, zone: "Pacific/Apia", value: "2011-12-30", start: "2011-12-30T10:00:00Z", end: "2011-12-30T10:00:00Z",
			first: "2011-12-30", next: "2011-12-31", lastDay: "2011-12-30"},
	} {
		c, err := New(x.period, x.zone)
		if err != nil {
			t.Fatal(err)
		}
		w, err := c.Parse(x.value)
		if err != nil {
			t.Error(err)
			continue
		}
		text := func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
		if text(w.Start) != x.start || text(w.End) != x.end || w.First.String() != x.first || w.Next.String() != x.next {
			t.Errorf("%s in %s: %s to %s, %s to %s", x.value, x.zone, text(w.Start), text(w.End), w.First, w.Next)
		}
		if _, last := w.Days(); last.String() != x.lastDay {
			t.Errorf("%s: last day %s", x.value, last)
		}
		if _, last, ok := w.Instants(Datetime); ok != (x.lastOfDatetime != "") || ok && text(last) != x.lastOfDatetime {
			t.Errorf("%s: last instant %s, %v", x.value, text(last), ok)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for period, values := range map[Period][]string{
		PeriodDay:     {"", "2024-3-5", "2024-02-30", "0000-01-01", "2024-03-05T00:00:00Z", "2024-03", Null},
		PeriodWeek:    {"2024-W53", "2024-W00", "2024-10", "2024-w10", "2024-W1", "0000-W01"},
		PeriodMonth:   {"2024-13", "2024-00", "2024-3", "24-03", "2024-03-01", "2024-+3", "0000-12"},
		PeriodQuarter: {"2024-Q5", "2024-Q0", "2024Q1", "2024-Q", "0000-Q4"},
		PeriodYear:    {"0000", "24", "20245", "-024", "２０２４"},
	} {
		c, _ := New(period, "UTC")
		for _, v := range values {
			if w, err := c.Parse(v); err == nil {
				t.Errorf("%s takes %q as %v", period, v, w)
			}
		}
	}
	for _, zone := range []string{"Local", "local", "Europe/Nowhere", "../etc"} {
		if _, err := New(PeriodDay, zone); err == nil {
			t.Errorf("the zone %q is taken", zone)
		}
	}
	if _, err := New("fortnight", "UTC"); err == nil {
		t.Error("a fortnight is taken for a period")
	}
}

func TestParseDays(t *testing.T) {
	for text, want := range map[string][2]string{
		"2024": {"2024-01-01", "2025-01-01"}, "2024-03": {"2024-03-01", "2024-04-01"}, "2024-Q1": {"2024-01-01", "2024-04-01"},
		"2024-W10": {"2024-03-04", "2024-03-11"}, "2024-03-05": {"2024-03-05", "2024-03-06"}, "9999": {"9999-01-01", "10000-01-01"},
	} {
		first, next, err := ParseDays(text)
		if err != nil || first.String() != want[0] || next.String() != want[1] {
			t.Errorf("%s: %s to %s, %v", text, first, next, err)
		}
	}
	if _, _, err := ParseDays("yesterday"); err == nil {
		t.Error("yesterday is taken for a date")
	}
}

func TestRangeAndNewest(t *testing.T) {
	c, _ := New(PeriodMonth, "UTC")
	now := time.Date(2024, 3, 15, 12, 0, 0, 0, time.UTC)
	var got []string
	for _, w := range c.Newest(now, 4) {
		got = append(got, w.Value)
	}
	if want := []string{"2023-12", "2024-01", "2024-02", "2024-03"}; !slices.Equal(got, want) {
		t.Errorf("newest: %v", got)
	}
	a, _ := c.Parse("2024-03")
	b, _ := c.Parse("2023-12")
	if len(c.Range(a, b)) != 0 || c.Distance(a, b) != -3 || c.Shift(b, 3) != a {
		t.Error("a range backwards is not empty, or the distance is wrong")
	}
}
