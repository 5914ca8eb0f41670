// Package window is the calculus of periods: which windows of time there are, which of them must be read again, and
// between which bounds.
//
// A [Calendar] cuts time into days, ISO weeks, months, quarters or years of a time zone. A [Window] is one of them:
// half-open, as civil days (for date columns) and as instants (for date-time columns). Every instant and every civil day
// belongs to exactly one window of a calendar; the tests hold this over the zones of the world, their gaps, their folds
// and the days that they skip.
//
//	cal, err := window.New(window.Month, "Europe/Sofia")
//	w := cal.At(now)                       // 2024-03: 2024-02-29T22:00:00Z … 2024-03-31T21:00:00Z
//	decision, err := policy.Due(now, loaded, query)
//
// A window begins where its first day begins: at the earliest instant whose local date is that day or a later one. So a
// day whose midnight the clock skips begins when the clock jumps, and a day that a zone leaves out altogether
// (2011-12-30 in Samoa) is a window without instants. The date it still has: a date column may hold it.
//
// The package is pure: no clock, no files. It is a leaf.
package window
