package schedule

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func parse(t testing.TB, text, zone string) *Schedule {
	t.Helper()
	s, err := Parse(text, zone)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCatch(t *testing.T) {
	s := parse(t, "0 * * * *", "UTC")
	now := time.Date(2026, 11, 25, 12, 0, 5, 0, time.UTC)
	hour := func(h int) time.Time { return time.Date(2026, 11, 25, h, 0, 0, 0, time.UTC) }
	describe := func(due []Due) string {
		text := ""
		for _, d := range due {
			what := "skip"
			switch {
			case d.Run && d.Late:
				what = "late"
			case d.Run:
				what = "run"
			case d.Coalesced:
				what = "coalesce"
			}
			if (d.Reason == "") != d.Run {
				t.Errorf("a tick that does not run needs a reason, one that runs has none: %+v", d)
			}
			text += fmt.Sprintf("%s %s-%s(%d) ", what, d.At.Format("2T15"), d.Until.Format("2T15"), d.Count)
		}
		return text
	}
	for _, c := range []struct {
		name string
		upto time.Time
		now  time.Time
		late Late
		want string
	}{
		{"in time", hour(11), now, Once, "run 25T12-25T12(1) "},
		{"in time, skip", hour(11), now, Skip, "run 25T12-25T12(1) "},
		{"nothing due", hour(12), now, Once, ""},
		{"clock set back", hour(15), now, All, ""},
		{"once", hour(8), now.Add(10 * time.Minute), Once, "coalesce 25T09-25T11(3) late 25T12-25T12(1) "},
		{"once, newest in time", hour(8), now, Once, "coalesce 25T09-25T11(3) run 25T12-25T12(1) "},
		{"all", hour(9), now, All, "late 25T10-25T10(1) late 25T11-25T11(1) run 25T12-25T12(1) "},
		{"skip", hour(8), now, Skip, "skip 25T09-25T11(3) run 25T12-25T12(1) "},
		{"skip all", hour(8), now.Add(10 * time.Minute), Skip, "skip 25T09-25T12(4) "},
		{"bound", hour(12).AddDate(0, 0, -2), now.Add(10 * time.Minute), All, "skip 23T13-25T00(36) late 25T01-25T01(1) late 25T02-25T02(1) late 25T03-25T03(1) late 25T04-25T04(1) late 25T05-25T05(1) late 25T06-25T06(1) late 25T07-25T07(1) late 25T08-25T08(1) late 25T09-25T09(1) late 25T10-25T10(1) late 25T11-25T11(1) late 25T12-25T12(1) "},
	} {
		if got := describe(s.Catch(c.upto, c.now, c.late, 12*time.Hour)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	// A bound below the grace does not rob a tick that is in time.
	if got := describe(s.Catch(hour(11), now, Once, time.Second)); got != "run 25T12-25T12(1) " {
		t.Error(got)
	}
	// Ten years of every minute come to an end, and to a few lines.
	due := parse(t, "* * * * *", "Europe/Sofia").Catch(now.AddDate(-10, 0, 0), now, All, 24*time.Hour)
	if len(due) != MaxLate+2 || due[0].Count != maxCount || due[1].Count != 1440-MaxLate || !due[0].Until.Before(due[1].At) {
		t.Errorf("%d lines, %+v %+v", len(due), due[0], due[1])
	}
}

// Every tick is in exactly one line, in order, and under every policy what is in time runs or is coalesced into what does.
func TestCatchProperties(t *testing.T) {
	specs := []string{"* * * * *", "*/7 * * * *", "30 3 * * *", "0 */6 * * 1-5", "15 0,12 1 * *"}
	rapid.Check(t, func(t *rapid.T) {
		s, err := Parse(rapid.SampledFrom(specs).Draw(t, "cron"), rapid.SampledFrom([]string{"UTC", "Europe/Sofia", "Africa/Cairo"}).Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		upto := time.Unix(rapid.Int64Range(1_700_000_000, 1_800_000_000).Draw(t, "upto"), 0)
		now := upto.Add(time.Duration(rapid.IntRange(0, 5*24*3600).Draw(t, "gone")) * time.Second)
		late := rapid.SampledFrom([]Late{Once, All, Skip}).Draw(t, "late")
		within := time.Duration(rapid.IntRange(0, 72).Draw(t, "within")) * time.Hour
		var ticks []time.Time
		for at := s.Next(upto); !at.After(now); at = s.Next(at) {
			ticks = append(ticks, at)
		}
		seen := 0
		for _, d := range s.Catch(upto, now, late, within) {
			if !d.At.Equal(ticks[seen]) {
				t.Fatalf("%+v begins where %v was next", d, ticks[seen])
			}
			seen += int(d.Count)
			if !d.Until.Equal(ticks[seen-1]) {
				t.Fatalf("%+v ends where %v was the last", d, ticks[seen-1])
			}
			if d.Run && (d.Late != (now.Sub(d.At) > Grace) || d.Late && (late == Skip || now.Sub(d.At) > within)) {
				t.Fatalf("%+v runs at %v under %s within %s", d, now, late, within)
			}
		}
		if seen != len(ticks) {
			t.Fatalf("%d of %d ticks are accounted for", seen, len(ticks))
		}
	})
}

func TestJitter(t *testing.T) {
	at := time.Date(2026, 11, 25, 5, 15, 0, 0, time.UTC)
	buckets := make([]int, 10)
	for i := range 1000 {
		job := fmt.Sprintf("job-%d", i)
		d := Jitter(job, at, 10*time.Minute)
		if d < 0 || d >= 10*time.Minute || d != Jitter(job, at.In(time.FixedZone("x", 3600)), 10*time.Minute) {
			t.Fatal(d)
		}
		buckets[d/time.Minute]++
	}
	for i, n := range buckets {
		if n < 60 || n > 140 {
			t.Errorf("minute %d has %d of 1000 jobs", i, n)
		}
	}
	if Jitter("j", at, 0) != 0 || Jitter("j", at, time.Hour) == Jitter("j", at.AddDate(0, 0, 1), time.Hour) {
		t.Error("no jitter asked for, or the same on every day")
	}
}

func TestHours(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	office, err := ParseHours(nil, "08:00", "18:00", "Europe/Sofia")
	if err != nil {
		t.Fatal(err)
	}
	night, err := ParseHours([]string{"Fri", "sat"}, "22:00", "06:00", "Europe/Sofia")
	if err != nil {
		t.Fatal(err)
	}
	whole, err := ParseHours([]string{"mon", "tue"}, "00:00", "24:00", "Europe/Sofia")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		h       *Hours
		at, end string // end "" = outside
	}{
		{office, "2026-11-25T08:00:00+02:00", "2026-11-25T18:00:00+02:00"},
		{office, "2026-11-25T15:59:59Z", "2026-11-25T18:00:00+02:00"},
		{office, "2026-11-25T18:00:00+02:00", ""},
		{office, "2026-11-25T07:59:59+02:00", ""},
		{office, "2026-11-28T12:00:00+02:00", ""},
		{night, "2026-11-27T23:00:00+02:00", "2026-11-28T06:00:00+02:00"},
		{night, "2026-11-29T05:59:00+02:00", "2026-11-29T06:00:00+02:00"},
		{night, "2026-11-27T05:00:00+02:00", ""},                          // Thursday's night
		{night, "2026-10-25T03:30:00+02:00", "2026-10-25T06:00:00+02:00"}, // in the doubled hour
		{whole, "2026-11-23T10:00:00+02:00", "2026-11-25T00:00:00+02:00"}, // the days touch
		{nil, "2026-11-23T10:00:00+02:00", ""},
		{&Hours{}, "2026-11-23T10:00:00+02:00", ""},
	} {
		now := at(c.at)
		if inside := c.h.Contains(now); inside != (c.end != "") {
			t.Errorf("%s: inside %v", c.at, inside)
		}
		want := now
		if c.end != "" {
			want = at(c.end)
		}
		if end := c.h.End(now); !end.Equal(want) {
			t.Errorf("%s: ends %v, want %v", c.at, end, want)
		}
	}
	for _, bad := range [][4]string{{"", "8:00", "18:00", "UTC"}, {"", "08:00", "08:00", "UTC"}, {"", "08:00", "25:00", "UTC"}, {"", "08:00", "18:00", ""},
		{"", "08:00", "18:00", "Nowhere"}, {"funday", "08:00", "18:00", "UTC"}, {"", "24:00", "08:00", "UTC"}} {
		var days []string
		if bad[0] != "" {
			days = []string{bad[0]}
		}
		if _, err := ParseHours(days, bad[1], bad[2], bad[3]); err == nil {
			t.Errorf("%v is accepted", bad)
		}
	}
}

func TestUpcoming(t *testing.T) {
	got := parse(t, "30 3 * * *", "Europe/Sofia").Upcoming(time.Date(2026, 3, 28, 12, 0, 0, 0, time.UTC), 2)
	if len(got) != 2 || got[0].Format(time.RFC3339) != "2026-03-29T04:00:00+03:00" || got[1].Format(time.RFC3339) != "2026-03-30T03:30:00+03:00" {
		t.Error(got)
	}
}

func BenchmarkNext(b *testing.B) {
	s := parse(b, "15 5 * * 1-5", "Europe/Sofia")
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for b.Loop() {
		at = s.Next(at)
	}
}
