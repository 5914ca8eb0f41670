// Package evidence holds what a scan can say for itself, and the verdict on it.
//
// A refresh is published only if its evidence says that no row was lost. The scan (package odata)
// gathers the evidence, the writer (package export) asks for the verdict before it commits, and the
// commit carries the evidence for whoever reads the table later. It is a leaf.
package evidence

import (
	"fmt"
	"time"
)

// Order says how the row order that paging relied on is known.
type Order string

// The orders, strongest first.
const (
	OrderRequested Order = "requested" // $orderby on the key was accepted, and every row was seen to be in order
	OrderObserved  Order = "observed"  // $orderby was refused; every row was seen to be in key order all the same
	OrderNone      Order = "none"      // no order: completeness must be proven by count and a confirming pass
)

// End says how the end of the scan was seen. A short page is never an end.
type End string

// The ends.
const (
	EndNotSeen  End = ""
	EndSeam     End = "seam"      // the request from the last key on answered the last key's row alone, or nothing
	EndEmpty    End = "empty"     // the request behind the last row answered no row
	EndNextLink End = "next-link" // the chain of next links ended, and the request behind it answered no row
	EndStream   End = "stream"    // the one streamed answer was closed properly, and the request behind it answered no row
)

// Evidence is what one scan of one window can say for itself. Counts are of the whole scan.
type Evidence struct {
	Paging       string    `json:"paging"`                // key, offset, next, stream
	Order        Order     `json:"order"`                 //
	Requests     int64     `json:"requests"`              // HTTP requests sent, retries and probes included
	Retries      int64     `json:"retries"`               // of these, repeats after a failure or a 429
	Pages        int64     `json:"pages"`                 // answers that were used
	Rows         int64     `json:"rows"`                  // rows handed on
	Outside      int64     `json:"outside,omitempty"`     // rows that came and were not handed on, because they belong to the next window
	Quarantined  int64     `json:"quarantined,omitempty"` // rows that came and were not handed on, because they do not fit the table's model
	Duplicates   int64     `json:"duplicates"`            // repeated rows dropped, the seam rows of key paging not counted
	KeyColumns   []string  `json:"keyColumns"`            // empty for a view without a key
	DistinctKeys int64     `json:"distinctKeys"`          // -1 for a view without a key
	FirstKey     string    `json:"firstKey,omitempty"`    // key of the first and last row in the scan's order
	LastKey      string    `json:"lastKey,omitempty"`
	End          End       `json:"end"`
	CountBefore  *int64    `json:"countBefore,omitempty"` // $count before the first page; nil where the server has none
	CountAfter   *int64    `json:"countAfter,omitempty"`  // $count after the last page
	Confirmed    bool      `json:"confirmed"`             // a second, thin pass saw exactly the same rows (by key, or whole rows in a view)
	Passes       int       `json:"passes"`                // passes over the data, the confirming ones included
	Attempts     int       `json:"attempts"`              // scans started, this one included
	Bytes        int64     `json:"bytes"`                 // bytes of JSON read (after inflation)
	Started      time.Time `json:"started"`
	Ended        time.Time `json:"ended"`
}

// Came is how many rows came: those that were handed on, those that were set aside, and those that belong to the next window.
func (e *Evidence) Came() int64 { return e.Rows + e.Outside + e.Quarantined }

// Sum is what several scans have to say together, for people: counts are added up, orders are the weakest, and what is not the same in all
// is left out. No verdict may be built on it: each scan has its own.
func Sum(scans []Evidence) Evidence {
	if len(scans) == 0 {
		return Evidence{}
	}
	sum := scans[0]
	sum.FirstKey, sum.LastKey = "", ""
	for _, e := range scans[1:] {
		if e.Paging != sum.Paging {
			sum.Paging = "mixed"
		}
		switch {
		case e.Order == OrderNone:
			sum.Order = OrderNone
		case e.Order == OrderObserved && sum.Order == OrderRequested:
			sum.Order = OrderObserved
		}
		if e.End != sum.End {
			sum.End = "mixed"
		}
		sum.Requests, sum.Retries, sum.Pages = sum.Requests+e.Requests, sum.Retries+e.Retries, sum.Pages+e.Pages
		sum.Quarantined += e.Quarantined
		sum.Rows, sum.Outside, sum.Duplicates, sum.Bytes = sum.Rows+e.Rows, sum.Outside+e.Outside, sum.Duplicates+e.Duplicates, sum.Bytes+e.Bytes
		if sum.DistinctKeys >= 0 && e.DistinctKeys >= 0 {
			sum.DistinctKeys += e.DistinctKeys
		}
		sum.CountBefore, sum.CountAfter = added(sum.CountBefore, e.CountBefore), added(sum.CountAfter, e.CountAfter)
		sum.Confirmed = sum.Confirmed && e.Confirmed
		sum.Passes, sum.Attempts = max(sum.Passes, e.Passes), max(sum.Attempts, e.Attempts)
		if e.Started.Before(sum.Started) {
			sum.Started = e.Started
		}
		if e.Ended.After(sum.Ended) {
			sum.Ended = e.Ended
		}
	}
	return sum
}

func added(a, b *int64) *int64 {
	if a == nil || b == nil {
		return nil
	}
	n := *a + *b
	return &n
}

// Incomplete is the verdict that rows were, or may have been, lost. Reason is one plain sentence.
type Incomplete struct {
	Reason string
}

// Error implements error.
func (e *Incomplete) Error() string { return "the scan is not proven complete: " + e.Reason }

// Judge returns nil if the evidence proves that every row which existed throughout the scan was
// handed on exactly once, and *Incomplete with the reason otherwise.
//
// The rules:
//   - the end was seen, and how it was seen fits the order: EndSeam means something only where rows have one;
//   - distinct keys = rows, if there is a key; a view without a key has neither, and no order (rows here and below are all that came,
//     those outside of the window included);
//   - $count was asked before and after, or not at all; with it: rows ≥ the smaller of the two (a table
//     may grow and shrink during a scan; fewer rows than it had at both ends means that some were lost or
//     that the scan cannot tell), and if both are equal and the order was not requested, rows = count;
//   - order "observed" needs an equal count at both ends, or the empty answer behind the last row that
//     EndEmpty, EndNextLink and EndStream stand for;
//   - order "none" needs Confirmed.
//
// What it cannot know: a row that the server leaves out of every answer and of $count as well was never
// there for us.
func (e *Evidence) Judge() error {
	for _, rule := range []func(*Evidence) string{judgeEnd, judgeKeys, judgeCount, judgeOrder} {
		if reason := rule(e); reason != "" {
			return &Incomplete{Reason: reason}
		}
	}
	return nil
}

func judgeEnd(e *Evidence) string {
	switch e.End {
	case EndNotSeen:
		return "the end of the table was not seen"
	case EndEmpty, EndNextLink, EndStream:
		return ""
	case EndSeam:
		if e.Order != OrderRequested && e.Order != OrderObserved {
			return "nothing behind the last key means nothing where rows have no order"
		}
		return ""
	}
	return fmt.Sprintf("the end %q is not known to prove anything", e.End)
}

func judgeKeys(e *Evidence) string {
	switch {
	case e.Rows < 0 || e.Outside < 0 || e.Quarantined < 0:
		return "the number of rows is negative"
	case len(e.KeyColumns) == 0 && e.DistinctKeys != -1:
		return "keys were counted in a view without a key"
	case len(e.KeyColumns) == 0 && e.Order != OrderNone:
		return "an order by key is claimed for a view without a key"
	case len(e.KeyColumns) > 0 && e.DistinctKeys != e.Came():
		return fmt.Sprintf("%d rows have %d different keys", e.Came(), e.DistinctKeys)
	}
	return ""
}

func judgeCount(e *Evidence) string {
	if e.CountBefore == nil && e.CountAfter == nil {
		return ""
	}
	if e.CountBefore == nil || e.CountAfter == nil {
		return "the server counted its rows at one end of the scan only"
	}
	before, after := *e.CountBefore, *e.CountAfter
	switch {
	case before < 0 || after < 0:
		return "the server's count is negative"
	case e.Came() < min(before, after):
		return fmt.Sprintf("%d rows were read, but the server counted %d before and %d after", e.Came(), before, after)
	case e.Order != OrderRequested && before == after && e.Came() != before:
		return fmt.Sprintf("%d rows were read without a promised order, but the server counted %d before and after", e.Came(), before)
	}
	return ""
}

func judgeOrder(e *Evidence) string {
	switch e.Order {
	case OrderRequested:
		return ""
	case OrderObserved:
		counted := e.CountBefore != nil && e.CountAfter != nil && *e.CountBefore == *e.CountAfter
		if e.End == EndSeam && !counted {
			return "the order was seen, not promised, and nothing proves that there are no rows outside of it"
		}
		return ""
	case OrderNone:
		if !e.Confirmed {
			return "rows came without an order, and no second pass has confirmed them"
		}
		return ""
	}
	return fmt.Sprintf("the order %q is not known", e.Order)
}

// Fetch is what asking for rows by their keys can say for itself.
type Fetch struct {
	Asked    int64     `json:"asked"`   // keys
	Found    int64     `json:"found"`   // of these, rows that were handed on
	Missing  int64     `json:"missing"` // of these, keys that two answers in a row did not have
	Requests int64     `json:"requests"`
	Retries  int64     `json:"retries"`
	Bytes    int64     `json:"bytes"` // of JSON read (after inflation)
	Started  time.Time `json:"started"`
	Ended    time.Time `json:"ended"`
}

// Judge returns nil if every key was answered or is known to be gone, and *Incomplete otherwise.
func (f *Fetch) Judge() error {
	if f.Found < 0 || f.Missing < 0 || f.Asked != f.Found+f.Missing {
		return &Incomplete{Reason: fmt.Sprintf("%d keys were asked for, %d were answered and %d are gone", f.Asked, f.Found, f.Missing)}
	}
	return nil
}
