package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"time"
)

// Probe tries on b what publishing needs, with one small object that it removes again: create if absent, lose the second
// time, read back, list, delete. It finds missing rights, and servers that ignore the condition of a conditional write
// (Refused): on those two writers could publish the same version of a table, and one refresh would be lost without a trace.
func Probe(ctx context.Context, b Bucket) (err error) {
	key := ".tablexport-probe-" + rand.Text()
	first, second := []byte("first"), []byte("second")
	if err := b.PutIfAbsent(ctx, key, first); err != nil {
		return err
	}
	defer func() {
		// The caller's context may be what ended; the object is ours to remove all the same.
		fresh, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = errors.Join(err, b.Delete(fresh, key))
	}()
	if err := b.PutIfAbsent(ctx, key, second); err == nil {
		return Errorf(Refused, "probe", key, "a second create-if-absent of one key succeeded: this store ignores the condition "+
			"(If-None-Match: *), so it cannot keep two writers apart; use one that honours conditional writes")
	} else if CodeOf(err) != AlreadyExists {
		return err
	}
	r, _, err := b.Open(ctx, key)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	got, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, first) {
		return Errorf(Refused, "probe", key, "what was written could not be read back")
	}
	for info, err := range b.List(ctx, key, "") {
		if err != nil {
			return err
		}
		if info.Key == key {
			return nil
		}
	}
	return Errorf(Refused, "probe", key, "a listing does not show what was just written")
}
