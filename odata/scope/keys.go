package scope

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"github.com/tablexport/tablexport/odata/edm"
)

// KeyBytes is the memory that a sealed key set takes per key: 16 bytes of key, and one to two of index. While it is sealed it
// takes two more.
const KeyBytes = 18

// DefaultMaxOwnerKeys bounds the owner keys of one scope, all its owner tables together, where the configuration says nothing: 90 MB.
const DefaultMaxOwnerKeys = 5_000_000

// Keys is the set of the keys of an owner table's rows that are inside a scope. It takes nothing but what that owner's own scope
// has checked, so that what is in it has been proven row by row, as the rows that are published are.
//
// It is filled by one goroutine (Add), then sealed (Seal), and then safe for concurrent use; Add then adds keys that came late, which
// should be few. A set holds 16 bytes a key: a GUID or a number as it is, a text as the first 16 bytes of its SHA-256 (so that
// nobody can make a text that is taken for another).
type Keys struct {
	table *edm.Table
	by    *Scope
	kind  edm.Kind
	seed  uint64

	// Keys lie in chunks, so that filling the set copies nothing; sealed, they are ordered by bucket, and starts[b] is where
	// bucket b begins. The last start is the end.
	chunks [][]key
	n      int
	starts []uint32
	shift  int

	late   atomic.Pointer[map[key]struct{}] // keys that came behind Seal; copied for every change
	adding sync.Mutex
}

type key [2]uint64

const (
	chunkBits = 15 // 512 KiB
	chunkKeys = 1 << chunkBits
)

// NewKeys makes an empty set for the keys of table that by admits. by must be bound, prove all its rules, and keep one column: the table's
// only key column.
func NewKeys(table *edm.Table, by *Scope) (*Keys, error) {
	c, err := OwnerKey(table)
	if err != nil {
		return nil, err
	}
	switch {
	case by.stamp.Enforcement != Verified:
		return nil, fmt.Errorf("scope %q proves nothing about %s: it is %s", by.stamp.Name, table.Name, by.stamp.Enforcement)
	case by.publish.NumFields() != 1 || by.publish.Field(0).Name != c.Name || !arrow.TypeEqual(by.publish.Field(0).Type, c.Type.Arrow()):
		return nil, fmt.Errorf("scope %q is to keep the key column %s of %s, and nothing else", by.stamp.Name, c.Name, table.Name)
	}
	return &Keys{table: table, by: by, kind: c.Type.Kind, seed: rand.Uint64()}, nil
}

// OwnerKey returns the key column of a table whose keys can be told apart here: one column, a GUID, an integer, a date or a text.
func OwnerKey(table *edm.Table) (*edm.Column, error) {
	if len(table.Key) != 1 {
		return nil, fmt.Errorf("table %s has %d key columns, and rows refer to one", table.Name, len(table.Key))
	}
	c, ok := table.Column(table.Key[0])
	if !ok {
		return nil, fmt.Errorf("table %s lacks its key column", table.Name)
	}
	switch c.Type.Kind {
	case edm.Guid, edm.Byte, edm.Int16, edm.Int32, edm.Int64, edm.Date, edm.String:
		return c, nil
	}
	return nil, fmt.Errorf("the key %s of table %s is of type %s: owners are told apart by Edm.Guid, integer, Edm.Date and Edm.String keys only", c.Name, table.Name, c.Type)
}

// Add takes the keys of checked owner rows. The caller keeps rows. A key that is there already changes nothing once the set is
// sealed; before, it must not come twice (the evidence of the owner's scan proves that), or Len counts it twice.
func (k *Keys) Add(rows Checked) error {
	// The scope of a repeated question is bound to the same sets: what it proves is the same.
	if !rows.OK() || !rows.by.same(k.by) {
		return errors.New("scope: owner keys are taken from rows that the owner's own scope has checked, and from no others")
	}
	column := rows.rec.Column(0)
	read := reader(k.kind, column)
	if k.starts != nil {
		return k.addLate(column.Len(), read)
	}
	for i := range column.Len() {
		v, ok := read(i)
		if !ok {
			return fmt.Errorf("scope: row %d of table %s has no key", i, k.table.Name)
		}
		if k.n>>chunkBits == len(k.chunks) {
			k.chunks = append(k.chunks, make([]key, chunkKeys))
		}
		*k.at(k.n) = v
		k.n++
	}
	return nil
}

func (k *Keys) addLate(n int, read func(int) (key, bool)) error {
	k.adding.Lock()
	defer k.adding.Unlock()
	all := map[key]struct{}{}
	if old := k.late.Load(); old != nil {
		all = maps.Clone(*old)
	}
	for i := range n {
		v, ok := read(i)
		if !ok {
			return fmt.Errorf("scope: row %d of table %s has no key", i, k.table.Name)
		}
		if !k.has(v) {
			all[v] = struct{}{}
		}
	}
	k.late.Store(&all)
	return nil
}

// Seal ends the filling: the keys are put in the order of their buckets, in place.
func (k *Keys) Seal() {
	if k.starts != nil {
		return
	}
	b := bits.Len(uint(max(k.n/4, 1))) // two to four keys a bucket
	k.shift = 64 - b
	starts := make([]uint32, 1<<b+1)
	for i := range k.n {
		starts[k.bucket(*k.at(i))+1]++
	}
	for i := 1; i < len(starts); i++ {
		starts[i] += starts[i-1]
	}
	// American flag sort: every key is swapped into its own bucket.
	next := append([]uint32(nil), starts...)
	for b := range len(starts) - 1 {
		for next[b] < starts[b+1] {
			v := *k.at(int(next[b]))
			for at := k.bucket(v); at != b; at = k.bucket(v) {
				there := k.at(int(next[at]))
				next[at]++
				v, *there = *there, v
			}
			*k.at(int(next[b])) = v
			next[b]++
		}
	}
	k.starts = starts
}

func (k *Keys) at(i int) *key { return &k.chunks[i>>chunkBits][i&(chunkKeys-1)] }

func (k *Keys) bucket(v key) int {
	h := (v[0] ^ k.seed) * 0x9e3779b97f4a7c15
	h = (h ^ h>>32 ^ v[1]) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>29) * 0x94d049bb133111eb
	return int((h ^ h>>32) >> k.shift)
}

// has looks a key up in a sealed set.
func (k *Keys) has(v key) bool {
	b := k.bucket(v)
	for i := k.starts[b]; i < k.starts[b+1]; i++ {
		if *k.at(int(i)) == v {
			return true
		}
	}
	if late := k.late.Load(); late != nil {
		_, ok := (*late)[v]
		return ok
	}
	return false
}

// Len is how many keys there are.
func (k *Keys) Len() int {
	n := k.n
	if late := k.late.Load(); late != nil {
		n += len(*late)
	}
	return n
}

// Bytes is the memory that the set holds, keys that came late not counted.
func (k *Keys) Bytes() int64 { return int64(len(k.chunks))*chunkKeys*16 + int64(len(k.starts))*4 }

// reader gives the keys of a column; ok is false for NULL, and for text that is no GUID where there should be one.
func reader(kind edm.Kind, column arrow.Array) func(i int) (v key, ok bool) {
	integer := func(n int64) key { return key{uint64(n), 0} }
	switch a := column.(type) {
	case *array.String:
		if kind == edm.Guid {
			return func(i int) (key, bool) {
				g, ok := edm.GUIDKey(a.Value(i))
				return key{binary.BigEndian.Uint64(g[:]), binary.BigEndian.Uint64(g[8:])}, ok && a.IsValid(i)
			}
		}
		return func(i int) (key, bool) {
			h := sha256.Sum256([]byte(a.Value(i)))
			return key{binary.BigEndian.Uint64(h[:]), binary.BigEndian.Uint64(h[8:])}, a.IsValid(i)
		}
	case *array.Int16:
		return func(i int) (key, bool) { return integer(int64(a.Value(i))), a.IsValid(i) }
	case *array.Int32:
		return func(i int) (key, bool) { return integer(int64(a.Value(i))), a.IsValid(i) }
	case *array.Int64:
		return func(i int) (key, bool) { return integer(a.Value(i)), a.IsValid(i) }
	case *array.Date32:
		return func(i int) (key, bool) { return integer(int64(a.Value(i))), a.IsValid(i) }
	}
	return func(int) (key, bool) { return key{}, false }
}

// KeyText is a value of an owner's key column, or of a reference to it, as filters take it.
func KeyText(column arrow.Array, i int) string {
	switch a := column.(type) {
	case *array.Int16:
		return strconv.FormatInt(int64(a.Value(i)), 10)
	case *array.Int32:
		return strconv.FormatInt(int64(a.Value(i)), 10)
	case *array.Int64:
		return strconv.FormatInt(a.Value(i), 10)
	case *array.Date32:
		return a.Value(i).ToTime().Format(time.DateOnly)
	}
	return strings.Clone(column.ValueStr(i)) // the memory of a record may be used again
}
