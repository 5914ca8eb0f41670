// Package audit keeps a hash-chained record of what was done with tokens and data: one JSON object
// per line, each carrying the hash of the line before it. Rewriting, deleting or reordering lines is found by [Verify].
//
// A failing write blocks the act that it records: callers append first and act afterwards.
// It is a leaf.
//
// # The format
//
// A log is a directory of files audit-000001.jsonl, audit-000002.jsonl, …; a file that has grown to 64 MiB is followed
// by the next one, and the chain goes on over the files. Every line is one [Entry] as JSON in UTF-8 and ends in "\n".
// Its last member is always the hash:
//
//	{"seq":7,"time":"2026-11-21T05:15:00.000123Z",…,"prev":"<64 hex>","hash":"<64 hex>"}
//
//	hash = lower-case hex of SHA-256( prev + "\n" + body )
//	body = the line without its "\n", with `,"hash":"<64 hex>"}` at its end replaced by `}`
//
// prev is the hash of the entry before; the first entry's prev is 64 zeros. seq starts at 1 and has no gaps. Hashes are
// over the bytes as they stand in the file, so that nobody needs our JSON encoder to check them. In Python:
//
//	import glob, hashlib, json
//	prev, seq = "0" * 64, 0
//	for path in sorted(glob.glob("audit-*.jsonl")):
//	    for number, line in enumerate(open(path, "rb"), 1):
//	        try: e = json.loads(line)
//	        except ValueError: print(path, number, "torn line; an entry with action \"torn\" must follow"); continue
//	        body = line.rstrip(b"\n")[:-len(',"hash":""}') - 64] + b"}"
//	        good = hashlib.sha256((prev + "\n").encode() + body).hexdigest() == e["hash"]
//	        if not (good and e["prev"] == prev and e["seq"] == seq + 1): print(path, number, "BROKEN")
//	        prev, seq = e["hash"], e["seq"]
//	print(seq, prev)
//
// # Crashes
//
// An entry is on disk (fsync) when Append returns. A crash in the middle of a write can leave a torn last line. It is
// never cut: whoever appends next ends the line with "\n" and writes, before its own entry, one with action "torn" that
// holds the length and the SHA-256 of what was left lying. [Verify] accepts a line that is no entry only if such a marker
// follows it and matches, and counts it in [Report].Torn. When the disk is full, the writer takes back the part of its
// own line that got written, under the lock, so that the file stays well-formed.
//
// # What the chain does not show, and what checkpoints do
//
// Whoever can write the directory can cut the tail, or rewrite everything from one line on with all hashes anew: a chain
// alone cannot show that. A [Checkpoint] says that the log had a certain entry at a certain time; it is signed with Ed25519
// and kept elsewhere ([Shelf]), and [Attest] holds the log to it. Envelopes are DSSE, so that other tools can check
// them; each names the digest of the one before, so that a missing one shows, but for the newest: object lock on the
// shelf is what keeps those. Behind the newest checkpoint the log alone vouches for itself.
//
// Whoever has the key can sign what they like from then on; what was signed before stays found, if the shelf cannot be rewritten.
//
// # Retention
//
// [Log.Expire] removes whole files from the beginning of the log. Before it does, it writes an entry "expire" that
// holds the last sequence number that goes, its hash, and the name of the log (the hash of its very first entry), and signs
// a checkpoint that says the same.
package audit
