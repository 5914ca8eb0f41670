package delta

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// DefaultDeletedFileRetention is how long a file stays after its removal unless the table says otherwise: a week, as in all engines.
const DefaultDeletedFileRetention = 7 * 24 * time.Hour

// DeletedFileRetention is how long a removed file must stay for readers of older versions: delta.deletedFileRetentionDuration, or a week
// where the table has none that can be read.
func (s *Snapshot) DeletedFileRetention() time.Duration {
	if d, err := ParseInterval(s.Metadata.Configuration[confRetention]); err == nil {
		return d
	}
	return DefaultDeletedFileRetention
}

var units = map[string]time.Duration{
	"week": 7 * 24 * time.Hour, "day": 24 * time.Hour, "hour": time.Hour, "minute": time.Minute, "second": time.Second,
	"millisecond": time.Millisecond, "microsecond": time.Microsecond,
}

// ParseInterval reads a duration in the form of Spark's table properties: "interval 1 week", "7 days", "interval 1 day 12 hours". Months
// and years have no fixed length and are refused, as Spark does.
func ParseInterval(text string) (time.Duration, error) {
	words := strings.Fields(strings.ToLower(text))
	if len(words) > 0 && words[0] == "interval" {
		words = words[1:]
	}
	if len(words) == 0 || len(words)%2 != 0 {
		return 0, fmt.Errorf("delta: the interval %q: write it like \"interval 7 days\"", text)
	}
	var sum time.Duration
	for ; len(words) > 0; words = words[2:] {
		n, err := strconv.ParseInt(words[0], 10, 64)
		unit, ok := units[strings.TrimSuffix(words[1], "s")]
		if err != nil || !ok || n < 0 || n > int64((math.MaxInt64-sum)/unit) {
			return 0, fmt.Errorf("delta: the interval %q: write it like \"interval 7 days\" (weeks, days, hours, minutes, seconds)", text)
		}
		sum += time.Duration(n) * unit
	}
	return sum, nil
}
