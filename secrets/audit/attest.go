package audit

import (
	"cmp"
	"crypto/ed25519"
	"fmt"
	"slices"
	"time"
)

// Attestation is what signed checkpoints say of a log.
type Attestation struct {
	Checkpoints int        `json:"checkpoints"` // of this log, signed by a key that is trusted here
	Seq         int64      `json:"seq"`         // the newest entry that one of them vouches for
	Time        time.Time  `json:"time,omitzero"`
	Unsigned    int64      `json:"unsigned"` // entries behind it, for which the log alone vouches
	Others      []OtherLog `json:"others,omitempty"`
}

// OtherLog is a log whose checkpoints lie on the same shelf. A log that was thrown away and begun anew is one, and so is
// another machine's.
type OtherLog struct {
	Log  string    `json:"log"`
	Seq  int64     `json:"seq"` // the newest entry that was signed
	Time time.Time `json:"time"`
}

// sealed is a checkpoint that was read, with its place in the chain of checkpoints.
type sealed struct {
	Checkpoint
	digest string
}

// Attest verifies the log in dir and holds it to checkpoints, in any order, that one of keys has signed. Problems of either
// kind are in Report.Problems: an entry that was signed and is another one now, one that is gone, a log that begins too
// late, a checkpoint that is missing in the chain of them, or that nobody trusted here has signed.
func Attest(dir string, envelopes [][]byte, keys []ed25519.PublicKey) (Report, Attestation, error) {
	var a Attestation
	if len(keys) == 0 {
		return Report{}, a, fmt.Errorf("%w: no public key is given to check the signatures with", ErrKey)
	}
	var all []sealed
	var problems []string
	wanted := map[int64]string{}
	for i, data := range envelopes {
		c, err := openEnvelope(data, keys)
		if err != nil {
			problems = append(problems, fmt.Sprintf("checkpoint %d of %d: %v", i+1, len(envelopes), err))
			continue
		}
		all = append(all, sealed{c, envelopeDigest(data)})
		wanted[c.Seq] = ""
	}
	before := map[int64]string{} // hash of the entry before the first one
	report, err := walk(dir, func(e Entry) error {
		if len(before) == 0 {
			before[e.Seq-1] = e.Prev
		}
		if _, ok := wanted[e.Seq]; ok {
			wanted[e.Seq] = e.Hash
		}
		return nil
	})
	if err != nil {
		return report, a, err
	}
	all = mine(all, report.Log, &a)
	slices.SortFunc(all, func(x, y sealed) int { return cmp.Compare(x.Seq, y.Seq) })
	problems = append(problems, chained(all)...)
	problems = append(problems, a.compare(all, report, wanted, before)...)
	for _, p := range problems {
		if len(report.Problems) < maxProblems {
			report.Problems = append(report.Problems, p)
		}
	}
	return report, a, nil
}

// mine keeps the checkpoints of one log and notes the others.
func mine(all []sealed, log string, a *Attestation) []sealed {
	others := map[string]OtherLog{}
	var kept []sealed
	for _, c := range all {
		if c.Log == log {
			kept = append(kept, c)
		} else if c.Seq > others[c.Log].Seq {
			others[c.Log] = OtherLog{Log: c.Log, Seq: c.Seq, Time: c.Time}
		}
	}
	for _, o := range others {
		a.Others = append(a.Others, o)
	}
	slices.SortFunc(a.Others, func(x, y OtherLog) int { return cmp.Compare(x.Log, y.Log) })
	return kept
}

// chained finds checkpoints that were removed between others.
func chained(all []sealed) (problems []string) {
	prev := genesis
	for i, c := range all {
		if c.Prev != prev {
			what := "the first checkpoints are missing"
			if i > 0 {
				what = fmt.Sprintf("a checkpoint between entries %d and %d is missing, or one of the two is not genuine", all[i-1].Seq, c.Seq)
			}
			problems = append(problems, what)
		}
		prev = c.digest
	}
	return problems
}

// compare holds the log to its checkpoints.
func (a *Attestation) compare(all []sealed, report Report, hashes, before map[int64]string) (problems []string) {
	var start Start
	for _, c := range all {
		if c.Start.Seq > start.Seq {
			start = c.Start
		}
	}
	if report.FirstSeq > start.Seq+1 {
		problems = append(problems, fmt.Sprintf("the log begins with entry %d, and the checkpoints know of a removal up to entry %d only: what lies between was removed by somebody else",
			report.FirstSeq, start.Seq))
	}
	if hash, ok := before[start.Seq]; ok && start.Seq > 0 && hash != start.Hash {
		problems = append(problems, fmt.Sprintf("entry %d, the last that retention removed, is not the one that was signed", start.Seq))
	}
	a.Checkpoints = len(all)
	for _, c := range all {
		switch {
		case c.Seq > report.LastSeq:
			problems = append(problems, fmt.Sprintf("entry %d was signed at %s, and the log ends with entry %d: its tail was cut off", c.Seq, c.Time.Format(time.RFC3339), report.LastSeq))
		case c.Seq < report.FirstSeq: // removed, and the start says by whom
		case hashes[c.Seq] != c.Hash:
			problems = append(problems, fmt.Sprintf("entry %d is not the one that was signed at %s: the log was rewritten from there or before", c.Seq, c.Time.Format(time.RFC3339)))
		default:
			a.Seq, a.Time = c.Seq, c.Time
		}
	}
	if len(all) == 0 && len(a.Others) > 0 {
		problems = append(problems, "none of the checkpoints is of this log: it was thrown away and begun anew, or the checkpoints are another machine's")
	}
	a.Unsigned = report.LastSeq - a.Seq
	return problems
}

// Range calls fn for every entry of the log with from ≤ Time < to, in order, while it verifies the whole of it. A zero time is
// no bound. What fn was given is worth something only if the report that comes with it has no problems.
func Range(dir string, from, to time.Time, fn func(Entry) error) (Report, error) {
	return walk(dir, func(e Entry) error {
		if e.Time.Before(from) || !to.IsZero() && !e.Time.Before(to) {
			return nil
		}
		return fn(e)
	})
}
