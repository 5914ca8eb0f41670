package store_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/memstore"
	"github.com/tablexport/tablexport/export/store/storetest"
)

func TestCodeOf(t *testing.T) {
	inner := &store.Error{Code: store.NotFound, Op: "stat", Key: "a", Err: fs.ErrNotExist}
	for _, c := range []struct {
		err  error
		want store.Code
	}{
		{nil, store.Unknown},
		{errors.New("foreign"), store.Unknown},
		{inner, store.NotFound},
		{fmt.Errorf("reading the log: %w", inner), store.NotFound},
		{errors.Join(errors.New("x"), inner), store.NotFound},
		{context.Canceled, store.Canceled},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), store.Canceled},
		{&store.Error{Code: store.Unavailable, Err: context.DeadlineExceeded}, store.Unavailable}, // the driver knows better: not our context
		{&store.Error{Code: store.Refused, Err: inner}, store.Refused},
	} {
		if got := store.CodeOf(c.err); got != c.want {
			t.Errorf("CodeOf(%v) = %v, want %v", c.err, got, c.want)
		}
	}
	if !errors.Is(inner, fs.ErrNotExist) {
		t.Error("an Error does not unwrap to its cause")
	}
}

func TestErrorText(t *testing.T) {
	for _, c := range []struct {
		err  *store.Error
		want string
	}{
		{&store.Error{Code: store.AlreadyExists, Op: "put-if-absent", Key: "a/0.json"}, `store: put-if-absent "a/0.json": already exists`},
		{&store.Error{Code: store.Full, Op: "write", Key: "a\nb", Err: errors.New("no space")}, `store: write "a\nb": full: no space`},
		{&store.Error{Code: store.Invalid, Op: "open", Err: errors.New("set path")}, `store: open: invalid: set path`},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	seen := map[string]bool{}
	for code := store.Unknown; code <= store.Refused; code++ {
		name := code.String()
		if name == "" || seen[name] || strings.HasPrefix(name, "code ") {
			t.Errorf("code %d has no name of its own: %q", uint8(code), name)
		}
		seen[name] = true
	}
	if got := store.Code(200).String(); got != "code 200" {
		t.Errorf("a code out of range prints as %q", got)
	}
}

func TestValidKey(t *testing.T) {
	for _, key := range storetest.OddKeys {
		if err := store.ValidKey(key); err != nil {
			t.Errorf("ValidKey(%q) = %v", key, err)
		}
	}
	for _, key := range storetest.InvalidKeys {
		if store.ValidKey(key) == nil {
			t.Errorf("ValidKey(%q) accepts it", key)
		}
	}
	long := strings.Repeat("d/", 449) + "xx"
	if len(long) != store.MaxKey || store.ValidKey(long) != nil || store.ValidKey(long+"x") == nil {
		t.Errorf("the longest key has %d bytes, want %d", len(long), store.MaxKey)
	}
}

// Every beginning of a valid key, cut between characters, is a valid prefix, but where the cut makes a directory of a dot name.
func TestValidPrefix(t *testing.T) {
	for _, key := range storetest.OddKeys {
		for i := range key {
			if err := store.ValidPrefix(key[:i]); err != nil {
				t.Errorf("ValidPrefix(%q) = %v", key[:i], err)
			}
		}
	}
	for _, prefix := range []string{"/", "/a", "a//", "../", "a/../b", "./", "a\x00", "\xff", strings.Repeat("x", store.MaxKey+1)} {
		if store.ValidPrefix(prefix) == nil {
			t.Errorf("ValidPrefix(%q) accepts it", prefix)
		}
	}
}

func FuzzValidKey(f *testing.F) {
	for _, key := range append(storetest.OddKeys, storetest.InvalidKeys...) {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if store.ValidKey(key) != nil {
			return
		}
		if !utf8.ValidString(key) || len(key) > store.MaxKey || strings.ContainsAny(key, "\x00\n\r\\") || !fs.ValidPath(key) || key == "." {
			t.Errorf("ValidKey(%q) accepts it", key)
		}
		if store.ValidPrefix(key) != nil || store.ValidPrefix(key+"/") != nil && len(key) < store.MaxKey {
			t.Errorf("the valid key %q is no valid prefix", key)
		}
	})
}

// A view and its bucket agree on every key: what is put through one is read through the other, and nothing outside the
// view's directory can be reached.
func TestPrefixedProperty(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		b := memstore.New()
		dir := rapid.SampledFrom([]string{"a", "a/b", "a-b", "ä"}).Draw(r, "dir")
		key := rapid.OneOf(rapid.SampledFrom(storetest.OddKeys[:30]), rapid.SampledFrom(storetest.InvalidKeys), rapid.String()).Draw(r, "key")
		v := store.Prefixed(b, dir)
		ctx := context.Background()
		err := v.Put(ctx, key, []byte("x"))
		valid := store.ValidKey(key) == nil && store.ValidKey(dir+"/"+key) == nil
		if valid != (err == nil) {
			r.Fatalf("Put(%q) under %q = %v, but the key's validity is %v", key, dir, err, valid)
		}
		for info, err := range b.List(ctx, "", "") {
			if err != nil || info.Key != dir+"/"+key {
				r.Fatalf("the bucket has %q (%v), want %q", info.Key, err, dir+"/"+key)
			}
		}
		for info, err := range v.List(ctx, "", "") {
			if err != nil || info.Key != key {
				r.Fatalf("the view has %q (%v), want %q", info.Key, err, key)
			}
		}
	})
}

// forgetful ignores the condition of a conditional write, as some S3 servers do.
type forgetful struct{ store.Bucket }

func (f forgetful) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	return f.Put(ctx, key, data)
}

func TestProbe(t *testing.T) {
	ctx := t.Context()
	b := memstore.New()
	err := store.Probe(ctx, forgetful{b})
	if store.CodeOf(err) != store.Refused || !strings.Contains(err.Error(), "If-None-Match") {
		t.Errorf("a bucket that ignores the condition: %v, want refused and why", err)
	}
	for range b.List(ctx, "", "") {
		t.Error("the probe has left an object behind")
	}
	for _, op := range []string{"put-if-absent", "open", "read", "list", "delete"} {
		denied := storetest.Faulty(memstore.New(), storetest.Fault{Op: op, Err: &store.Error{Code: store.Permission}})
		if err := store.Probe(ctx, denied); store.CodeOf(err) != store.Permission {
			t.Errorf("%s is not permitted, and the probe says %v", op, err)
		}
	}
}

// A bucket that cannot have leftovers is swept by doing nothing, and a Sweeper is found behind any number of views.
func TestSweepUploads(t *testing.T) {
	if swept, err := store.SweepUploads(t.Context(), store.Prefixed(memstore.New(), "a"), "", time.Hour); err != nil || swept.Uploads != 0 {
		t.Errorf("sweeping memory: %+v, %v", swept, err)
	}
	f := storetest.Faulty(memstore.New())
	if _, err := store.SweepUploads(t.Context(), store.Prefixed(store.Prefixed(f, "a"), "b"), "c/", time.Hour); err != nil {
		t.Fatal(err)
	}
	if calls := f.Calls(); len(calls) != 1 || calls[0] != (storetest.Call{Op: "sweep", Key: "a/b/c/"}) {
		t.Errorf("the sweep reached the bucket as %v", calls)
	}
	if _, err := store.SweepUploads(t.Context(), store.Prefixed(f, ".."), "", 0); store.CodeOf(err) != store.Invalid {
		t.Errorf("sweeping a bad view: %v", err)
	}
}
