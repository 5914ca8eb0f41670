package parquet

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"math"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/file"
)

// Digest identifies the values of some columns in one row: the first 128 bits of a chain of SHA-256 over them. Rows of
// different files can be compared by it where the columns have the same Arrow types.
type Digest [16]byte

// Digests are those of the rows of one row group, in the file's order.
type Digests struct {
	Key, Rest []Digest
}

// Digests reads the file one row group at a time and yields a digest of the columns in key, and one of those in rest, for
// every row. What is yielded is overwritten by the next row group. An error is yielded once, as the last pair. The memory
// is that of the digests of one row group (32 bytes a row) and of a batch of one column.
func (f *File) Digests(key, rest []string) iter.Seq2[Digests, error] {
	return func(yield func(Digests, error) bool) {
		var out Digests
		for g := range f.RowGroups {
			n := int(f.reader.MetaData().RowGroup(g).NumRows())
			if cap(out.Key) < n {
				out.Key, out.Rest = make([]Digest, n), make([]Digest, n)
			}
			out.Key, out.Rest = out.Key[:n], out.Rest[:n]
			clear(out.Key)
			clear(out.Rest)
			err := guard(func() error {
				if err := f.digest(g, key, out.Key); err != nil {
					return err
				}
				return f.digest(g, rest, out.Rest)
			})
			if err != nil {
				yield(Digests{}, err)
				return
			}
			if !yield(out, nil) {
				return
			}
		}
	}
}

func (f *File) digest(g int, columns []string, into []Digest) error {
	for _, name := range columns {
		at := f.Schema.FieldIndices(name)
		if len(at) != 1 {
			return fmt.Errorf("parquet: the file has no column %q", name)
		}
		cr, err := columnReader(f.reader, g, at[0])
		if err == nil {
			err = digestColumn(cr, f.Schema.Field(at[0]), into)
		}
		if err != nil {
			return fmt.Errorf("parquet: row group %d, column %q: %w", g, name, err)
		}
	}
	return nil
}

func digestColumn(cr file.ColumnChunkReader, fd arrow.Field, into []Digest) error {
	switch cr := cr.(type) {
	case *file.BooleanColumnChunkReader:
		return digestValues(cr, fd.Nullable, into, cr.HasNext, func(b []byte, v bool) []byte {
			if v {
				return append(b, 1)
			}
			return append(b, 0)
		})
	case *file.Int32ColumnChunkReader:
		return digestValues(cr, fd.Nullable, into, cr.HasNext, func(b []byte, v int32) []byte { return binary.BigEndian.AppendUint32(b, uint32(v)) })
	case *file.Int64ColumnChunkReader:
		return digestValues(cr, fd.Nullable, into, cr.HasNext, func(b []byte, v int64) []byte { return binary.BigEndian.AppendUint64(b, uint64(v)) })
	case *file.Float32ColumnChunkReader:
		return digestValues(cr, fd.Nullable, into, cr.HasNext, func(b []byte, v float32) []byte { return binary.BigEndian.AppendUint32(b, math.Float32bits(v)) })
	case *file.Float64ColumnChunkReader:
		return digestValues(cr, fd.Nullable, into, cr.HasNext, func(b []byte, v float64) []byte { return binary.BigEndian.AppendUint64(b, math.Float64bits(v)) })
	case *file.ByteArrayColumnChunkReader:
		return digestValues(cr, fd.Nullable, into, cr.HasNext, func(b []byte, v parquet.ByteArray) []byte { return append(b, v...) })
	case *file.FixedLenByteArrayColumnChunkReader:
		return digestValues(cr, fd.Nullable, into, cr.HasNext, func(b []byte, v parquet.FixedLenByteArray) []byte { return append(b, v...) })
	}
	return fmt.Errorf("a column of type %s cannot be compared", fd.Type)
}

// digestValues chains every value of a column chunk to the digest of its row. Each link has a digest, a mark for null, and
// one value: lengths cannot be confused.
func digestValues[T any](cr batchReader[T], nullable bool, into []Digest, more func() bool, encode func([]byte, T) []byte) error {
	vals, levels := make([]T, chunkRows), make([]int16, chunkRows)
	if !nullable {
		levels = nil
	}
	var link []byte
	row := 0
	for more() {
		n, _, err := cr.ReadBatch(chunkRows, vals, levels, nil)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		if row+int(n) > len(into) {
			return fmt.Errorf("more than the %d rows of the row group", len(into))
		}
		k := 0
		for i := range int(n) {
			link = append(link[:0], into[row][:]...)
			if nullable && levels[i] == 0 {
				link = append(link, 0)
			} else {
				link = encode(append(link, 1), vals[k])
				k++
			}
			sum := sha256.Sum256(link)
			copy(into[row][:], sum[:])
			row++
		}
	}
	if row != len(into) {
		return fmt.Errorf("%d rows could be read of %d", row, len(into))
	}
	return nil
}
