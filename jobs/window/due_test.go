package window

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// show lists the values of items with their reasons.
func show(items []Item) string {
	var out []string
	for _, i := range items {
		out = append(out, i.Value+":"+string(i.Reason))
	}
	return strings.Join(out, " ")
}

func date(text string) time.Time {
	t, err := time.Parse("2006-01-02", text)
	if err != nil {
		panic(err)
	}
	return t
}

func monthly(t testing.TB, change func(*Policy)) Policy {
	c, err := New(PeriodMonth, "UTC")
	if err != nil {
		t.Fatal(err)
	}
	p := Policy{Calendar: c, Keep: 5, Reload: 2}
	if change != nil {
		change(&p)
	}
	return p
}

// at is the state of months that were loaded on a day.
func at(loaded map[string]State, day string, values ...string) map[string]State {
	if loaded == nil {
		loaded = map[string]State{}
	}
	for _, v := range values {
		loaded[v] = State{Loaded: date(day), Query: "q"}
	}
	return loaded
}

func TestDue(t *testing.T) {
	first, to := DayOf(2024, 3, 1), DayOf(2024, 4, 30)
	for name, x := range map[string]struct {
		change       func(*Policy)
		loaded       map[string]State
		now, query   string
		read, expire string
		keep         string
	}{
		"a first run reads all": {
			now: "2024-06-10", query: "q",
			read: "2024-06:missing 2024-05:missing 2024-04:missing 2024-03:missing 2024-02:missing",
		},
		"an ordinary day reads the newest": {
			loaded: at(at(nil, "2024-06-09", "2024-06", "2024-05", "2024-04"), "2024-06-01", "2024-03", "2024-02"), now: "2024-06-10", query: "q",
			read: "2024-06:newest 2024-05:newest", keep: "2024-04:settled 2024-03:settled 2024-02:settled",
		},
		"the first run of a month reads the window that has just left the newest once more, and drops the oldest": {
			loaded: at(at(nil, "2024-05-31", "2024-05", "2024-04"), "2024-05-01", "2024-03", "2024-02", "2024-01"), now: "2024-06-01", query: "q",
			read: "2024-06:missing 2024-05:newest 2024-04:unsettled", keep: "2024-03:settled 2024-02:settled", expire: "2024-01:old",
		},
		"after an outage the range widens": {
			loaded: at(nil, "2024-03-20", "2024-03", "2024-02", "2024-01", "2023-12"), now: "2024-06-10", query: "q",
			read: "2024-06:missing 2024-05:missing 2024-04:missing 2024-03:unsettled 2024-02:unsettled", expire: "2024-01:old 2023-12:old",
		},
		"late days": {
			change: func(p *Policy) { p.Reload, p.LateDays = 1, 45 },
			loaded: at(nil, "2024-06-01", "2024-06", "2024-05", "2024-04", "2024-03", "2024-02"), now: "2024-06-10", query: "q",
			read: "2024-06:newest 2024-05:unsettled 2024-04:unsettled", keep: "2024-03:settled 2024-02:settled",
		},
		"another query": {
			loaded: at(nil, "2024-06-09", "2024-06", "2024-05", "2024-04", "2024-03", "2024-02"), now: "2024-06-10", query: "other",
			read: "2024-06:query 2024-05:query 2024-04:query 2024-03:query 2024-02:query",
		},
		"no stamp": {
			loaded: map[string]State{"2024-06": {}, "2024-05": {Query: "q"}, "2024": {}, "what": {}}, now: "2024-06-10", query: "q",
			read: "2024-06:unknown 2024-05:unknown 2024-04:missing 2024-03:missing 2024-02:missing", expire: "what:unknown 2024:unknown",
		},
		"from and to": {
			change: func(p *Policy) { p.From, p.To, p.Keep = &first, &to, 0 },
			loaded: at(nil, "2024-06-01", "2024-06", "2024-02"), now: "2024-06-10", query: "q",
			read: "2024-04:missing 2024-03:missing", expire: "2024-06:future 2024-02:old",
		},
		"keep counts from to, once that has passed": {
			change: func(p *Policy) { p.To, p.Keep = &to, 2 },
			loaded: at(nil, "2024-07-01", "2024-04", "2024-03", "2024-02"), now: "2025-06-10", query: "q",
			keep: "2024-04:settled 2024-03:settled", expire: "2024-02:old",
		},
		"ahead": {
			change: func(p *Policy) { p.Keep, p.Ahead = 1, 2 },
			loaded: at(nil, "2024-06-09", "2024-06", "2024-07", "2024-08", "2024-09"), now: "2024-06-10", query: "q",
			read: "2024-08:newest 2024-07:newest 2024-06:newest", expire: "2024-09:future",
		},
		"another machine's clock is ahead": {
			change: func(p *Policy) { p.Keep = 1 },
			loaded: at(nil, "2024-07-01", "2024-07", "2024-06"), now: "2024-06-30", query: "q",
			read: "2024-06:newest", keep: "2024-07:future",
		},
		"undated rows": {
			change: func(p *Policy) { p.Keep, p.Undated = 1, true },
			loaded: at(nil, "2024-06-09", "2024-06", Null), now: "2024-06-10", query: "q",
			read: "2024-06:newest " + Null + ":undated",
		},
		"undated rows are not asked for any more": {
			change: func(p *Policy) { p.Keep = 1 },
			loaded: at(nil, "2024-06-09", "2024-06", Null), now: "2024-06-10", query: "q",
			read: "2024-06:newest", expire: Null + ":undated",
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := monthly(t, x.change).Due(date(x.now), x.loaded, x.query)
			if got := show(d.Read); got != x.read {
				t.Errorf("read\n %s, want\n %s", got, x.read)
			}
			if got := show(d.Keep); got != x.keep {
				t.Errorf("keep\n %s, want\n %s", got, x.keep)
			}
			if got := show(d.Expire); got != x.expire {
				t.Errorf("expire\n %s, want\n %s", got, x.expire)
			}
		})
	}
}

// Whatever the outages: a window that could have changed since its last reading is read. "Could have changed" is the
// policy's own promise: until the window leaves the newest Reload, and until LateDays after its end.
func TestNoChangeIsMissed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := calendar(t)
		p := Policy{
			Calendar: c, Keep: rapid.IntRange(1, 12).Draw(t, "keep"), LateDays: rapid.IntRange(0, 400).Draw(t, "late"),
			Ahead: rapid.IntRange(0, 2).Draw(t, "ahead"), Undated: rapid.Bool().Draw(t, "undated"),
		}
		p.Reload = rapid.IntRange(1, p.Keep).Draw(t, "reload")
		now := time.Unix(rapid.Int64Range(1_600_000_000, 1_800_000_000).Draw(t, "start"), 0)
		loaded := map[string]State{}
		for range rapid.IntRange(1, 8).Draw(t, "runs") {
			last := now
			now = now.Add(time.Duration(rapid.Int64Range(1, 200*24*3600).Draw(t, "pause")) * time.Second)
			d := p.Due(now, loaded, "q")
			read := map[string]bool{}
			for _, i := range d.Read {
				if read[i.Value] {
					t.Fatalf("%s is read twice", i.Value)
				}
				read[i.Value] = true
			}
			oldest, newest := p.Current(now)
			for _, w := range c.Range(oldest, newest) {
				changed := p.Settles(w) // it may have changed until then
				if state, ok := loaded[w.Value]; !read[w.Value] && (!ok || changed.After(state.Loaded)) {
					t.Fatalf("%s could have changed until %v, was read last at %v, and is not read at %v (before: %v)", w, changed, state.Loaded, now, last)
				}
			}
			for _, i := range d.Read {
				loaded[i.Value] = State{Loaded: now, Query: "q"}
			}
			for _, i := range d.Expire {
				delete(loaded, i.Value)
			}
			want := c.Distance(oldest, newest) + 1
			if p.Undated {
				want++
			}
			if got := len(loaded) - count(d.Keep, Future); got != want {
				t.Fatalf("the dataset holds %d windows, want %d", got, want)
			}
			// What has just been read is not read again but for the newest and the undated.
			for _, i := range p.Due(now, loaded, "q").Read {
				if i.Reason != Newest && i.Reason != Undated && i.Reason != Unsettled {
					t.Fatalf("%s is read again: %s", i.Value, i.Reason)
				}
			}
		}
	})
}

func count(items []Item, reason Reason) int {
	n := 0
	for _, i := range items {
		if i.Reason == reason {
			n++
		}
	}
	return n
}

func TestReasonsHaveTexts(t *testing.T) {
	for _, r := range []Reason{Missing, Newest, Query, Unsettled, Unknown, Undated, Again, Settled, Old, Future} {
		if slices.Contains([]string{"", string(r)}, r.Text()) {
			t.Errorf("%q has no text", r)
		}
	}
}
