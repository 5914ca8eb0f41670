// Command naive copies pages of a table to one Parquet file as one would write it on the first day: encoding/json into maps,
// maps into Arrow's builders, Arrow's Parquet writer with zstd as it comes. It checks nothing and proves nothing. The benchmark compares
// with it.
//
// Usage: naive ADDRESSES OUT NAME=TYPE…, where ADDRESSES is a file of page addresses, one a line, and the types are written as
// Arrow prints them. It is a module of its own: Arrow's pqarrow brings gRPC along.
package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/decimal128"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/compress"
	"github.com/apache/arrow/go/v17/parquet/pqarrow"
)

func main() {
	if err := copyPages(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "naive:", err)
		os.Exit(1)
	}
}

func copyPages(list, out string, columns []string) error {
	text, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	var fields []arrow.Field
	for _, column := range columns {
		name, kind, _ := strings.Cut(column, "=")
		t, err := typeOf(kind)
		if err != nil {
			return err
		}
		fields = append(fields, arrow.Field{Name: name, Type: t, Nullable: true})
	}
	schema := arrow.NewSchema(fields, nil)
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	w, err := pqarrow.NewFileWriter(schema, f, parquet.NewWriterProperties(parquet.WithCompression(compress.Codecs.Zstd)), pqarrow.DefaultWriterProps())
	if err != nil {
		return err
	}
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	for address := range strings.FieldsSeq(string(text)) {
		if err := copyPage(address, b, w); err != nil {
			return err
		}
	}
	return w.Close()
}

func typeOf(kind string) (arrow.DataType, error) {
	for _, t := range []arrow.DataType{
		arrow.BinaryTypes.String, arrow.BinaryTypes.Binary, arrow.FixedWidthTypes.Boolean, arrow.PrimitiveTypes.Int16, arrow.PrimitiveTypes.Int32,
		arrow.PrimitiveTypes.Int64, arrow.PrimitiveTypes.Float64, arrow.FixedWidthTypes.Date32, arrow.FixedWidthTypes.Timestamp_us,
	} {
		if t.String() == kind {
			return t, nil
		}
	}
	t := &arrow.Decimal128Type{}
	if _, err := fmt.Sscanf(kind, "decimal(%d, %d)", &t.Precision, &t.Scale); err != nil {
		return nil, fmt.Errorf("there is no type %s here", kind)
	}
	return t, nil
}

func copyPage(address string, b *array.RecordBuilder, w *pqarrow.FileWriter) error {
	resp, err := http.Get(address)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var page struct{ Value []map[string]any }
	dec := json.NewDecoder(resp.Body)
	dec.UseNumber() // a decimal that goes through a float is another one
	if err := dec.Decode(&page); err != nil {
		return err
	}
	for _, row := range page.Value {
		for i, f := range b.Schema().Fields() {
			if err := put(b.Field(i), f.Type, row[f.Name]); err != nil {
				return fmt.Errorf("column %s: %w", f.Name, err)
			}
		}
	}
	rec := b.NewRecord()
	defer rec.Release()
	return w.WriteBuffered(rec)
}

func put(b array.Builder, t arrow.DataType, v any) error {
	if v == nil {
		b.AppendNull()
		return nil
	}
	var err error
	var n int64
	switch b := b.(type) {
	case *array.StringBuilder:
		if s, ok := v.(string); ok {
			b.Append(s)
			return nil
		}
		var text []byte
		text, err = json.Marshal(v)
		b.Append(string(text))
	case *array.BooleanBuilder:
		b.Append(v.(bool))
	case *array.Int16Builder:
		n, err = v.(json.Number).Int64()
		b.Append(int16(n))
	case *array.Int32Builder:
		n, err = v.(json.Number).Int64()
		b.Append(int32(n))
	case *array.Int64Builder:
		n, err = v.(json.Number).Int64()
		b.Append(n)
	case *array.Float64Builder:
		var x float64
		x, err = v.(json.Number).Float64()
		b.Append(x)
	case *array.Decimal128Builder:
		var d decimal128.Num
		kind := t.(*arrow.Decimal128Type)
		d, err = decimal128.FromString(v.(json.Number).String(), kind.Precision, kind.Scale)
		b.Append(d)
	case *array.Date32Builder:
		var at time.Time
		at, err = time.Parse(time.DateOnly, v.(string)[:10])
		b.Append(arrow.Date32FromTime(at))
	case *array.TimestampBuilder:
		var at time.Time
		at, err = time.Parse(time.RFC3339Nano, v.(string))
		b.Append(arrow.Timestamp(at.UnixMicro()))
	case *array.BinaryBuilder:
		b.Append([]byte(v.(string)))
	default:
		err = fmt.Errorf("no way to build %s", t)
	}
	return err
}
