package filter

import (
	"iter"
	"strings"

	"github.com/tablexport/tablexport/odata/edm"
)

// KeyChunks parts a list of values into filters "column in (values)", each as long as it can be while its text takes at most
// budget bytes of a percent-encoded address (servers refuse long ones, often beyond 8 or 16 KB, most of which the columns of
// $select and the job's own filter may need). A chunk has at least one value, and one only where the column takes eq but not
// in. The order of the values is kept; see [KeyFrom] for how they are written and for the error, after which there are no
// more chunks. No values give no chunks.
func KeyChunks(table *edm.Table, column string, values []string, budget int) iter.Seq2[Bound, error] {
	return func(yield func(Bound, error) bool) {
		most := len(values)
		if c, ok := table.Column(column); ok && c.OpsKnown && !c.Ops.Has(edm.OpIn) && c.Ops.Has(edm.OpEq) {
			most = 1
		}
		for len(values) > 0 {
			n := fitting(column, values[:min(most, len(values))], budget)
			b, err := chunk(table, column, values[:n])
			if !yield(b, err) || err != nil {
				return
			}
			values = values[n:]
		}
	}
}

// chunk is KeyIn, or an equality where the column takes no in.
func chunk(table *edm.Table, column string, values []string) (Bound, error) {
	if len(values) == 1 {
		if b, err := keyTerm(table, column, Eq, values[0]); err == nil {
			return b, nil
		}
	}
	return KeyIn(table, column, values)
}

// fitting is how many values fit, one at least.
func fitting(column string, values []string, budget int) int {
	length := len(column) + len("%20in%20%28%29")
	for i, v := range values {
		length += encodedLength(v) + len("%2C")
		if length > budget && i > 0 {
			return i
		}
	}
	return len(values)
}

// encodedLength is how long a value becomes at most, quotes included, when everything but RFC 3986's unreserved characters is
// percent-encoded.
func encodedLength(v string) int {
	n := 2 * len("%27")
	for i := range len(v) {
		switch c := v[i]; {
		case c == '\'':
			n += 2 * len("%27")
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-_.~", c) >= 0:
			n++
		default:
			n += len("%XX")
		}
	}
	return n
}
