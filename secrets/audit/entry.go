package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Entry is one line. Seq, Time, Prev and Hash are set by Append.
type Entry struct {
	Seq         int64             `json:"seq"`
	Time        time.Time         `json:"time"` // UTC, microseconds
	Actor       string            `json:"actor"`
	Action      string            `json:"action"`  // lease, refuse, renew, release, trial, stage, activate, publish, scope-violation, …; torn is ours
	Subject     string            `json:"subject"` // token name, job or dataset
	Fingerprint string            `json:"fingerprint,omitempty"`
	Job         string            `json:"job,omitempty"`
	Run         string            `json:"run,omitempty"`
	Table       string            `json:"table,omitempty"`
	Rows        int64             `json:"rows,omitempty"`
	Outcome     string            `json:"outcome"` // ok | refused | failed | started
	Detail      map[string]string `json:"detail,omitempty"`
	Prev        string            `json:"prev"`
	Hash        string            `json:"hash"`
}

// The outcomes.
const (
	OK      = "ok"
	Refused = "refused"
	Failed  = "failed"
	Started = "started"
)

// Bounds of what an entry may hold; longer text is cut and ends in "…". They keep a line under maxLine whatever a
// caller, or a server whose message a caller passes on, puts into it.
const (
	maxField       = 512       // bytes of Actor, Action, Subject, …
	maxDetailKey   = 64        // bytes
	maxDetailValue = 2 << 10   // bytes
	maxDetails     = 32        // members; the first in order of their keys are kept
	maxLine        = 512 << 10 // bytes; every byte of a value may become six ("\u0000")
)

const hashLength = sha256.Size * 2

// genesis is the prev of the first entry.
var genesis = strings.Repeat("0", hashLength)

const (
	hashOpen  = `,"hash":"`
	hashClose = `"}`
	hashTail  = len(hashOpen) + hashLength + len(hashClose)
)

// encode gives e's line, without "\n", with its hash at the end, and the hash.
func encode(e Entry) ([]byte, string, error) {
	e.Hash = ""
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return nil, "", fmt.Errorf("audit: encode entry: %w", err)
	}
	// Entry ends in Hash, so that the empty one is the end of what was encoded.
	body, ok := bytes.CutSuffix(buf.Bytes(), []byte(hashOpen+hashClose+"\n"))
	if !ok {
		return nil, "", fmt.Errorf("audit: encode entry: the hash is not the last member")
	}
	body = append(body, '}')
	hash := digest(e.Prev, body)
	line := append(body[:len(body)-1:len(body)-1], hashOpen...)
	line = append(line, hash...)
	line = append(line, hashClose...)
	return line, hash, nil
}

func digest(prev string, body []byte) string {
	h := sha256.New()
	h.Write([]byte(prev))
	h.Write([]byte{'\n'})
	h.Write(body)
	return hex.EncodeToString(h.Sum(nil))
}

// decode reads a line (without "\n"). sound says whether the hash at its end is the hash of what stands before it;
// an error means that the line is no entry at all.
func decode(line []byte) (e Entry, sound bool, err error) {
	if len(line) > maxLine {
		return Entry{}, false, fmt.Errorf("line of %d bytes is longer than an entry can be", len(line))
	}
	if err := json.Unmarshal(line, &e); err != nil {
		// encoding/json quotes bytes of the input, but not more than one.
		return Entry{}, false, fmt.Errorf("not an entry: %w", err)
	}
	cut := len(line) - hashTail
	if cut < 1 {
		return Entry{}, false, fmt.Errorf("not an entry: no hash at its end")
	}
	tail := string(line[cut:])
	if !strings.HasPrefix(tail, hashOpen) || !strings.HasSuffix(tail, hashClose) || tail[len(hashOpen):len(tail)-len(hashClose)] != e.Hash {
		return Entry{}, false, fmt.Errorf("not an entry: no hash at its end")
	}
	body := append(line[:cut:cut], '}')
	return e, digest(e.Prev, body) == e.Hash, nil
}

// bounded is e with every text cut to its bound and freed of what could act on the terminal of whoever reads it.
func bounded(e Entry) Entry {
	for _, s := range []*string{&e.Actor, &e.Action, &e.Subject, &e.Fingerprint, &e.Job, &e.Run, &e.Table, &e.Outcome} {
		*s = clean(*s, maxField)
	}
	if len(e.Detail) == 0 {
		e.Detail = nil
		return e
	}
	detail := make(map[string]string, min(len(e.Detail), maxDetails))
	for _, k := range sortedKeys(e.Detail) {
		if len(detail) == maxDetails {
			break
		}
		detail[clean(k, maxDetailKey)] = clean(e.Detail[k], maxDetailValue)
	}
	e.Detail = detail
	return e
}

// clean cuts s to limit bytes at a rune boundary. JSON escapes the control characters below U+0020 only; DEL, the
// C1 controls (U+009B starts a terminal sequence) and the characters that turn the direction of writing are replaced here.
func clean(s string, limit int) string {
	const ellipsis = "…"
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.Map(func(r rune) rune {
		if r >= 0x7f && r <= 0x9f || unicode.Is(unicode.Bidi_Control, r) {
			return '\uFFFD'
		}
		return r
	}, s)
	if len(s) <= limit {
		return s
	}
	cut := limit - len(ellipsis)
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + ellipsis
}
