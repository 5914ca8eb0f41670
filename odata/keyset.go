package odata

import (
	"encoding/binary"
	"errors"
	"sync"

	"github.com/tablexport/tablexport/odata/extsort"
)

// KeySet holds the keys of the rows of several scans of one table, so that a row that came in two of them is noticed: a document
// whose date is moved while its table is read month by month may be met in two windows, and would be published twice.
//
// Put it into Query.Keys of each scan; the scans may run at the same time. A scan that fails, or whose loop is left, takes
// its keys back by itself, so a window that is scanned again is counted once. It needs some 35 bytes for a row with a GUID
// key, up to 32 MiB of them in memory and the rest in a temporary file.
type KeySet struct {
	mu        sync.Mutex
	sorted    *extsort.Sorter
	scans     uint32
	withdrawn map[uint32]bool
}

// NewKeySet makes an empty set. Close it.
func NewKeySet() *KeySet {
	return &KeySet{sorted: extsort.New(extsort.Options{}), withdrawn: map[uint32]bool{}}
}

// Repeated is how many rows have a key that another row had before them. Call it when the scans have ended; scans that begin
// behind it fail.
func (k *KeySet) Repeated() (int64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var repeated int64
	var last []byte
	some := false
	for rec, err := range k.sorted.Sorted() {
		if err != nil {
			return 0, repetitions(err)
		}
		if k.withdrawn[binary.BigEndian.Uint32(rec.Value)] {
			continue
		}
		if some && string(last) == string(rec.Key) {
			repeated++
		}
		last, some = append(last[:0], rec.Key...), true
	}
	return repeated, nil
}

// Close forgets the keys and gives the disk back.
func (k *KeySet) Close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sorted.Close()
}

// begin gives a scan its number.
func (k *KeySet) begin() uint32 {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.scans++
	return k.scans
}

func (k *KeySet) withdraw(scan uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.withdrawn[scan] = true
}

// add adds the keys of a record's rows.
func (k *KeySet) add(scan uint32, keys boundKeys, rows int64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var number [4]byte
	binary.BigEndian.PutUint32(number[:], scan)
	var key []byte
	for row := range int(rows) {
		key = keys.append(key[:0], row)
		if err := k.sorted.Add(key, number[:]); err != nil {
			return repetitions(err)
		}
	}
	return nil
}

// Withdraw takes the keys of a scan that has ended out of Query.Keys: for a window whose rows are thrown away although the
// scan went well, because they could not be written. Without Query.Keys it does nothing.
func (s *Scan) Withdraw() {
	if s.q.Keys != nil && s.keyed != 0 {
		s.q.Keys.withdraw(s.keyed)
	}
}

// errKeyless says that a key set is of no use for a view.
var errKeyless = errors.New("odata: a view without a key has no keys to compare between windows; load it whole")
