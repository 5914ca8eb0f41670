// Package delta reads and writes the Delta transaction log, reader version 1 and writer version 2,
// over a store.Bucket (delta-io/delta, PROTOCOL.md).
//
// A commit is one put-if-absent of `_delta_log/<version>.json`. Whoever creates it has published; whoever
// loses re-reads the log, checks for conflicts and tries the next version, or gives up with *Conflict.
//
// Reading is tolerant where the protocol says so (unknown actions and fields, other files in the log's directory) and strict
// everywhere else: a table that needs more than we can do is *Unsupported, an entry that cannot be read is *Corrupt,
// and both name the version.
//
// Every ten versions (delta.checkpointInterval) a commit is followed by a V1 checkpoint, so that opening a table costs
// one checkpoint and the entries after it. Checkpoints of other engines are read too, in one part or several, and also where the
// entries before them are gone. One that cannot be read is passed over as long as the entries are there.
package delta
