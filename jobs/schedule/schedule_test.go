package schedule

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseRefuses(t *testing.T) {
	for _, c := range [][2]string{
		{"", "UTC"}, {"* * * *", "UTC"}, {"* * * * * *", "UTC"}, {"TZ=0", "UTC"}, {"CRON_TZ=UTC * * * *", "UTC"}, {"@daily", "UTC"},
		{"@every 0s", "UTC"}, {"0 0 30 2 *", "UTC"}, {", * * * *", "UTC"}, {"0 0 * * 7", "UTC"}, {"0 0 * * FRI-SUN", "UTC"},
		{"60 * * * *", "UTC"}, {"0 0 * * *", ""}, {"0 0 * * *", "Local"}, {"0 0 * * *", "Nowhere/None"}, {"0 0 1, * *", "UTC"}, {"0 0 */2 * 1", "UTC"}, {"0 0 1 * */2", "UTC"},
	} {
		if s, err := Parse(c[0], c[1]); err == nil {
			t.Errorf("%q in %q is accepted: next %v", c[0], c[1], s.Next(time.Now()))
		}
	}
}

func TestNextAcrossZoneChanges(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, c := range []struct {
		name, cron, zone, after string
		want                    []string
	}{
		{"plain", "15 5 * * 1-5", "Europe/Sofia", "2026-11-20T12:00:00Z", []string{"2026-11-23T05:15:00+02:00", "2026-11-24T05:15:00+02:00"}},
		{"gap: due right after it", "30 3 * * *", "Europe/Sofia", "2026-03-28T12:00:00Z", []string{"2026-03-29T04:00:00+03:00", "2026-03-30T03:30:00+03:00"}},
		{"gap: several are due once", "0,20,40 3 * * *", "Europe/Sofia", "2026-03-29T00:00:00Z", []string{"2026-03-29T04:00:00+03:00", "2026-03-30T03:00:00+03:00"}},
		{"gap at midnight", "0 0 * * *", "Africa/Cairo", "2026-04-23T12:00:00Z", []string{"2026-04-24T01:00:00+03:00", "2026-04-25T00:00:00+03:00"}},
		{"gap: hourly goes on", "0 * * * *", "Europe/Sofia", "2026-03-29T00:30:00Z", []string{"2026-03-29T04:00:00+03:00", "2026-03-29T05:00:00+03:00"}},
		{"fold: once, at the first", "30 3 * * *", "Europe/Sofia", "2026-10-24T12:00:00Z", []string{"2026-10-25T03:30:00+03:00", "2026-10-26T03:30:00+02:00"}},
		{"fold: not again in the second pass", "30 3 * * *", "Europe/Sofia", "2026-10-25T01:10:00Z", []string{"2026-10-26T03:30:00+02:00"}},
		{"fold: hourly at both", "0 * * * *", "Europe/Sofia", "2026-10-24T23:30:00Z", []string{"2026-10-25T03:00:00+03:00", "2026-10-25T03:00:00+02:00", "2026-10-25T04:00:00+02:00"}},
		{"fold: every 20 minutes at both", "*/20 * * * *", "Europe/Sofia", "2026-10-25T00:30:00Z", []string{"2026-10-25T03:40:00+03:00", "2026-10-25T03:00:00+02:00", "2026-10-25T03:20:00+02:00", "2026-10-25T03:40:00+02:00", "2026-10-25T04:00:00+02:00"}},
		{"half-hour zone", "45 1 * * *", "Australia/Lord_Howe", "2026-04-04T10:00:00Z", []string{"2026-04-05T01:45:00+11:00", "2026-04-06T01:45:00+10:30"}},
		{"leap day", "0 12 29 2 *", "UTC", "2026-01-01T00:00:00Z", []string{"2028-02-29T12:00:00Z"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := Parse(c.cron, c.zone)
			if err != nil {
				t.Fatal(err)
			}
			now := at(c.after)
			for _, want := range c.want {
				now = s.Next(now)
				if !now.Equal(at(want)) {
					t.Fatalf("got %v, want %v", now.In(s.Zone()), want)
				}
			}
		})
	}
}

// TestNextProperties: Next moves forward, and a day has exactly one tick of a daily job, whatever the zone does.
func TestNextProperties(t *testing.T) {
	zones := []string{"UTC", "Europe/Sofia", "America/Sao_Paulo", "Africa/Cairo", "Australia/Lord_Howe", "America/New_York", "Asia/Kathmandu", "Pacific/Auckland"}
	rapid.Check(t, func(t *rapid.T) {
		zone := rapid.SampledFrom(zones).Draw(t, "zone")
		minute, hour := rapid.IntRange(0, 59).Draw(t, "minute"), rapid.IntRange(0, 23).Draw(t, "hour")
		s, err := Parse(time.Date(2000, 1, 1, hour, minute, 0, 0, time.UTC).Format("4 15")+" * * *", zone)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Unix(rapid.Int64Range(1_500_000_000, 1_900_000_000).Draw(t, "from"), 0)
		last := s.Next(now)
		for range 400 {
			next := s.Next(last)
			if !next.After(last) {
				t.Fatalf("%v does not come after %v", next, last)
			}
			a, b := last.In(s.Zone()), next.In(s.Zone())
			if days := dress(b).Truncate(24*time.Hour).Sub(dress(a).Truncate(24*time.Hour)) / (24 * time.Hour); days != 1 {
				t.Fatalf("%d days between %v and %v", days, a, b)
			}
			last = next
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"15 5 * * 1-5", "*/5 * * * *", "0 0 30 2 *", "TZ=0", "@every 1s", ", , , , ,", "0 0 1-31/7 JAN-DEC SUN"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text, "Europe/Sofia")
		if err != nil {
			return
		}
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		for range 3 {
			next := s.Next(now)
			if !next.After(now) {
				t.Fatalf("%q: %v after %v", text, next, now)
			}
			now = next
		}
	})
}
