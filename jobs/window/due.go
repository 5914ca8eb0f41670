package window

import (
	"cmp"
	"slices"
	"time"
)

// Policy says which windows a dataset holds, and when they are read again.
type Policy struct {
	Calendar Calendar
	Keep     int  // so many windows are held, counted back from the current one, which is one of them; 0 = all since From
	Reload   int  // so many of the newest are read at every run; 1 at least
	Ahead    int  // so many windows after the current one are held as well, for columns that hold days to come
	LateDays int  // a window may change for so many days after its end
	From, To *Day // nothing before the window of From, or after that of To, is held; nil = open
	Undated  bool // rows without a date are held too, as the window Null, which is read at every run
}

// State is what a dataset says of a window that it holds.
type State struct {
	Loaded time.Time // when the scan that it comes from began; zero where the dataset does not say
	Query  string    // fingerprint of what was asked
}

// Reason is why a window is read, kept or expired.
type Reason string

// The reasons.
const (
	Missing   Reason = "missing"   // read: the dataset does not hold it
	Newest    Reason = "newest"    // read: among the newest that are read at every run
	Query     Reason = "query"     // read: loaded under another table, columns, filter or scope
	Unsettled Reason = "unsettled" // read: loaded before it could no longer change
	Unknown   Reason = "unknown"   // read: the dataset does not say when it was loaded. expire: no window of this calendar
	Undated   Reason = "undated"   // read: rows without a date may get one at any time. expire: they are not asked for any more
	Again     Reason = "again"     // read: a person wants it read again
	Settled   Reason = "settled"   // kept: loaded after it could no longer change
	Old       Reason = "old"       // expire: older than what is kept
	Future    Reason = "future"    // expire: after the newest that is held. kept: it begins within a day, which another machine's clock may say is over
)

// Text says the reason to people.
func (r Reason) Text() string {
	switch r {
	case Missing:
		return "not in the dataset yet"
	case Newest:
		return "among the newest, which are read every time"
	case Query:
		return "the columns, the filter or the scope have changed since it was read"
	case Unsettled:
		return "it could still change after it was read last"
	case Unknown:
		return "nothing is known of when or how it was read"
	case Undated:
		return "rows without a date"
	case Again:
		return "asked for again"
	case Settled:
		return "it was read after it had settled"
	case Old:
		return "older than what is kept"
	case Future:
		return "after the newest window that is held"
	}
	return string(r)
}

// Item is a window and why it is where it is.
type Item struct {
	Window
	Reason Reason
}

// Decision is what a run does with each window. Every list is in the order of time, newest first (an interrupted
// run that publishes window by window has then done the part that reports show); the undated window is last.
type Decision struct {
	Read   []Item
	Keep   []Item
	Expire []Item // windows that the calendar does not have carry a Value only
}

// Current returns the oldest and the newest window that are held at now; none is if newest is before oldest.
func (p Policy) Current(now time.Time) (oldest, newest Window) {
	c := p.Calendar
	current := c.At(now)
	last := c.On(LastDay)
	if p.To != nil {
		last = c.On(*p.To)
	}
	oldest, newest = c.On(FirstDay), earlier(c.Shift(current, p.Ahead), last)
	if p.Keep > 0 { // counted from To once that has passed: a dataset that has ended keeps what it has
		oldest = later(oldest, c.Shift(earlier(current, last), 1-p.Keep))
	}
	if p.From != nil {
		oldest = later(oldest, c.On(*p.From))
	}
	return oldest, newest
}

func earlier(a, b Window) Window {
	if b.index < a.index {
		return b
	}
	return a
}

func later(a, b Window) Window {
	if b.index > a.index {
		return b
	}
	return a
}

// Settles returns when a window can no longer change: when it leaves the newest Reload windows, and LateDays after its
// end.
func (p Policy) Settles(w Window) time.Time {
	left := p.Calendar.Shift(w, max(p.Reload, 1)).Start
	if late := (w.Next + Day(p.LateDays)).begins(p.Calendar.zone); late.After(left) {
		return late
	}
	return left
}

// Due decides what a run at now does. It depends on nothing but its arguments: after an outage, every window that was
// last read before it had settled is read again, so the range that is reloaded widens to what could have changed and shrinks
// back. loaded is by the partition's value; query is the fingerprint of what would be asked now.
func (p Policy) Due(now time.Time, loaded map[string]State, query string) Decision {
	var d Decision
	c := p.Calendar
	oldest, newest := p.Current(now)
	fresh := c.At(now).index - max(p.Reload, 1)
	held := map[string]bool{}
	for i := newest.index; i >= oldest.index; i-- {
		w := c.window(i)
		held[w.Value] = true
		state, ok := loaded[w.Value]
		switch {
		case !ok:
			d.Read = append(d.Read, Item{w, Missing})
		case state.Loaded.IsZero():
			d.Read = append(d.Read, Item{w, Unknown})
		case state.Query != query:
			d.Read = append(d.Read, Item{w, Query})
		case i > fresh:
			d.Read = append(d.Read, Item{w, Newest})
		case state.Loaded.Before(p.Settles(w)):
			d.Read = append(d.Read, Item{w, Unsettled})
		default:
			d.Keep = append(d.Keep, Item{w, Settled})
		}
	}
	if p.Undated {
		held[Null] = true
		d.Read = append(d.Read, Item{Window{Value: Null}, Undated})
	}
	for value := range loaded {
		if !held[value] {
			p.leave(&d, value, now, newest)
		}
	}
	for _, list := range [][]Item{d.Keep, d.Expire} {
		slices.SortFunc(list, func(a, b Item) int {
			return cmp.Or(b.Start.Compare(a.Start), cmp.Compare(b.First, a.First), cmp.Compare(b.Value, a.Value))
		})
	}
	return d
}

// leave places a window that the dataset holds and the policy does not.
func (p Policy) leave(d *Decision, value string, now time.Time, newest Window) {
	w, err := p.Calendar.Parse(value)
	switch {
	case value == Null:
		d.Expire = append(d.Expire, Item{Window{Value: value}, Undated})
	case err != nil:
		d.Expire = append(d.Expire, Item{Window{Value: value}, Unknown})
	case w.index <= newest.index:
		d.Expire = append(d.Expire, Item{w, Old})
	case p.To == nil && w.Start.Sub(now) <= 24*time.Hour:
		d.Keep = append(d.Keep, Item{w, Future})
	default:
		d.Expire = append(d.Expire, Item{w, Future})
	}
}
