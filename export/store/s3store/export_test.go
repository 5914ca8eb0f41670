package s3store

import "time"

// Impatient shortens the waits between attempts.
func (o Options) Impatient() Options {
	o.backoff = 10 * time.Millisecond
	return o
}
