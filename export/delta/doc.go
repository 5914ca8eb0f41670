// Package delta reads and writes the Delta transaction log, reader version 1 and writer version 2,
// over a store.Bucket (delta-io/delta, PROTOCOL.md).
//
// A commit is one put-if-absent of `_delta_log/<version>.json`. Whoever creates it has published; whoever
// loses re-reads the log, checks for conflicts and tries the next version, or gives up with *Conflict.
//
// Reading is tolerant where the protocol says so (unknown actions and fields, other files in the log's directory) and strict
// everywhere else: a table that needs more than we can do is *Unsupported, an entry that cannot be read is *Corrupt,
// and both name the version. Checkpoints are not read: a log whose first entries another engine has removed, because a
// checkpoint covers them, is *Unsupported too.
package delta
