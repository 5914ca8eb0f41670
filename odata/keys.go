package odata

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"github.com/tablexport/tablexport/odata/edm"
)

// keyEncoder turns keys into bytes: equal keys into equal bytes, and, if ordered is set, bytes that compare
// as the server compares the keys. Texts are ordered by a collation that only the server knows, so a key
// with a text in it is not ordered; nor is a float.
type keyEncoder struct {
	at      []int // the columns of the record, in the order of the key
	guid    []bool
	ordered bool
}

// newKeyEncoder encodes the columns key of records whose columns are as listed.
func newKeyEncoder(table *edm.Table, columns, key []string) *keyEncoder {
	e := &keyEncoder{ordered: len(key) > 0}
	for _, name := range key {
		e.at = append(e.at, slices.Index(columns, name))
		c, _ := table.Column(name)
		e.guid = append(e.guid, c.Type.Kind == edm.Guid)
		switch c.Type.Kind {
		case edm.Guid, edm.Boolean, edm.Byte, edm.Int16, edm.Int32, edm.Int64, edm.Date, edm.DateTime:
		default:
			e.ordered = false
		}
	}
	return e
}

// boundKeys are the keys of one record.
type boundKeys struct {
	e    *keyEncoder
	cols []arrow.Array
}

func (e *keyEncoder) bind(rec arrow.Record) boundKeys {
	b := boundKeys{e: e, cols: make([]arrow.Array, len(e.at))}
	for i, at := range e.at {
		b.cols[i] = rec.Column(at)
	}
	return b
}

// append adds the bytes of a row's key to dst.
func (b boundKeys) append(dst []byte, row int) []byte {
	for i, col := range b.cols {
		if b.e.guid[i] {
			if k, ok := edm.GUIDKey(col.(*array.String).Value(row)); ok && !col.IsNull(row) {
				dst = append(append(dst, 1), k[:]...)
				continue
			}
		}
		dst = appendCell(dst, col, row)
	}
	return dst
}

// text is a row's key as people and filters read it. Parts of a key of several columns are joined by "|". It outlives the
// record.
func (b boundKeys) text(row int) string {
	parts := make([]string, len(b.cols))
	for i, col := range b.cols {
		switch a := col.(type) {
		case *array.Int16:
			parts[i] = strconv.FormatInt(int64(a.Value(row)), 10)
		case *array.Int32:
			parts[i] = strconv.FormatInt(int64(a.Value(row)), 10)
		case *array.Int64:
			parts[i] = strconv.FormatInt(a.Value(row), 10)
		case *array.Date32:
			parts[i] = a.Value(row).ToTime().Format(time.DateOnly)
		case *array.Timestamp:
			parts[i] = time.UnixMicro(int64(a.Value(row))).UTC().Format(time.RFC3339Nano)
		default:
			parts[i] = a.ValueStr(row)
		}
	}
	if len(parts) == 1 { // then Join returns the part itself, which may be a view into the record's memory
		return strings.Clone(parts[0])
	}
	return strings.Join(parts, "|")
}

// appendCell adds the canonical bytes of one value: NULL is one zero byte, everything else begins with a
// one. Numbers are big-endian with the sign flipped, so that they compare as numbers do.
func appendCell(dst []byte, col arrow.Array, row int) []byte {
	if col.IsNull(row) {
		return append(dst, 0)
	}
	dst = append(dst, 1)
	signed := func(n int64) []byte { return binary.BigEndian.AppendUint64(dst, uint64(n)^1<<63) }
	sized := func(text string) []byte {
		return append(binary.AppendUvarint(dst, uint64(len(text))), text...)
	}
	switch a := col.(type) {
	case *array.String:
		return sized(a.Value(row))
	case *array.Binary:
		return sized(string(a.Value(row)))
	case *array.Boolean:
		if a.Value(row) {
			return append(dst, 1)
		}
		return append(dst, 0)
	case *array.Int16:
		return signed(int64(a.Value(row)))
	case *array.Int32:
		return signed(int64(a.Value(row)))
	case *array.Int64:
		return signed(a.Value(row))
	case *array.Date32:
		return signed(int64(a.Value(row)))
	case *array.Timestamp:
		return signed(int64(a.Value(row)))
	case *array.Float64:
		return binary.BigEndian.AppendUint64(dst, math.Float64bits(a.Value(row)))
	case *array.Decimal128:
		v := a.Value(row)
		dst = signed(v.HighBits())
		return binary.BigEndian.AppendUint64(dst, v.LowBits())
	}
	return sized(col.ValueStr(row))
}

// appendRow adds the canonical bytes of a whole row.
func appendRow(dst []byte, rec arrow.Record, row int) []byte {
	for _, col := range rec.Columns() {
		dst = appendCell(dst, col, row)
	}
	return dst
}

// digest is 128 bits of a key or row. A collision would make two keys look like one, and so refuse a
// good scan; it cannot let a bad one pass.
type digest struct{ hi, lo uint64 }

// hasher makes digests that mean something within one scan only.
type hasher struct{ a, b maphash.Seed }

func newHasher() hasher { return hasher{maphash.MakeSeed(), maphash.MakeSeed()} }

func (h hasher) digest(text []byte) digest {
	return digest{maphash.Bytes(h.a, text), maphash.Bytes(h.b, text)}
}

// behind is the digest of a sequence that goes on with d.
func (h hasher) behind(sequence, d digest) digest {
	var b [32]byte
	binary.BigEndian.PutUint64(b[0:], sequence.hi)
	binary.BigEndian.PutUint64(b[8:], sequence.lo)
	binary.BigEndian.PutUint64(b[16:], d.hi)
	binary.BigEndian.PutUint64(b[24:], d.lo)
	return h.digest(b[:])
}

// bag is the fingerprint of a multiset: how many, and the sum of their digests. The order does not
// matter, and equal ones do not cancel out as they would with xor.
type bag struct {
	n   int64
	sum digest
}

func (g *bag) add(d digest) {
	g.merge(bag{1, d})
}

func (g *bag) merge(o bag) {
	var carry uint64
	g.n += o.n
	g.sum.lo, carry = bits.Add64(g.sum.lo, o.sum.lo, 0)
	g.sum.hi, _ = bits.Add64(g.sum.hi, o.sum.hi, carry)
}

var errKeyBytes = errors.New("odata: the bytes of a key are damaged")

// decodeCell undoes appendCell for a key column: the value as filters write it, and what lies behind it.
func decodeCell(kind edm.Kind, b []byte) (text string, rest []byte, err error) {
	if len(b) == 0 || b[0] != 1 {
		return "", nil, errKeyBytes
	}
	b = b[1:]
	fixed := map[edm.Kind]int{edm.Guid: 16, edm.Boolean: 1, edm.Byte: 8, edm.Int16: 8, edm.Int32: 8, edm.Int64: 8, edm.Date: 8, edm.DateTime: 8}
	n, ok := fixed[kind]
	if !ok {
		if kind != edm.String {
			return "", nil, fmt.Errorf("odata: rows cannot be asked for by a key of %s", kind)
		}
		size, read := binary.Uvarint(b)
		if read <= 0 || size > uint64(len(b)-read) {
			return "", nil, errKeyBytes
		}
		b, n = b[read:], int(size)
	}
	if len(b) < n {
		return "", nil, errKeyBytes
	}
	b, rest = b[:n], b[n:]
	var number int64
	if n == 8 && ok {
		number = int64(binary.BigEndian.Uint64(b) ^ 1<<63)
	}
	switch kind {
	case edm.Guid:
		return edm.GUIDText([16]byte(b)), rest, nil
	case edm.Boolean:
		return strconv.FormatBool(b[0] == 1), rest, nil
	case edm.Date:
		return arrow.Date32(number).ToTime().Format(time.DateOnly), rest, nil
	case edm.DateTime:
		return time.UnixMicro(number).UTC().Format(time.RFC3339Nano), rest, nil
	case edm.String:
		return string(b), rest, nil
	}
	return strconv.FormatInt(number, 10), rest, nil
}
