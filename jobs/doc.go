// Package jobs turns a configured job into a plan, and a plan into a run.
//
// A [Plan] is pure: what will be asked, of whom, under which scope, into which columns. A [Runner] carries it out:
//
//	            ┌─────────── rescan (a new Refresh, at most Attempts times) ──────────┐
//	            ▼                                                                     │
//	lease ─► plan ─► begin ─► scan ─► check ─► write ─► … ─► judge ─► audit ─► commit ┴─► sweep
//	  │        │       │        │       │        │              │        │        │
//	  └────────┴───────┴────────┴───────┴────────┴──────────────┴────────┴────────┴────► failed (class), canceled
//
// Before all of it stands the lease on the dataset (export/lease), which keeps other state directories out; the lease in the drawing is the loan of the token.
// That is a whole table (runner.go). By period, every window that is due goes that road into a slice of one commit, or of its own (windows.go,
// split.go, backfill.go); by changes, a sweep of keys takes the place of the scan, and a merge that of the write (changes.go, watermark.go). Where the
// scope goes over owners, these are read first (owners.go). A set runs its jobs one after the other, and then moves its pointer (set.go).
//
// The states of a run, as the ledger keeps them:
//
//	running ─► succeeded     the commit is in the dataset's log (an error beside it tells what failed behind it)
//	        ─► failed        with a class (see Classify); the dataset is at its previous version
//	        ─► canceled      by a person; the same
//	        ─► interrupted   the process died; found at the next start; the same, or, when it died behind the
//	                         commit, the new version: the dataset's log is the truth, the ledger is history
//
// A [Scheduler] starts runs when they are due, and accounts for every tick: see there.
//
// The data flow is one range loop over record batches: back-pressure is the loop, cancellation is the context, and
// memory is one page of batches plus one row group.
package jobs
