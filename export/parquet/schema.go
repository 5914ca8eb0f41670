package parquet

import (
	"errors"
	"fmt"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/schema"
)

// node returns the Parquet column of a field (see the package comment for the table of types).
func node(f arrow.Field) (schema.Node, error) {
	rep := parquet.Repetitions.Required
	if f.Nullable {
		rep = parquet.Repetitions.Optional
	}
	plain := func(t parquet.Type) (schema.Node, error) {
		return schema.NewPrimitiveNode(f.Name, rep, t, -1, 0)
	}
	logical := func(l schema.LogicalType, t parquet.Type, length int) (schema.Node, error) {
		return schema.NewPrimitiveNodeLogical(f.Name, rep, l, t, length, -1)
	}
	switch t := f.Type.(type) {
	case *arrow.BooleanType:
		return plain(parquet.Types.Boolean)
	case *arrow.Int8Type:
		return logical(schema.NewIntLogicalType(8, true), parquet.Types.Int32, 0)
	case *arrow.Int16Type:
		return logical(schema.NewIntLogicalType(16, true), parquet.Types.Int32, 0)
	case *arrow.Int32Type:
		return plain(parquet.Types.Int32)
	case *arrow.Int64Type:
		return plain(parquet.Types.Int64)
	case *arrow.Float32Type:
		return plain(parquet.Types.Float)
	case *arrow.Float64Type:
		return plain(parquet.Types.Double)
	case *arrow.StringType:
		return logical(schema.StringLogicalType{}, parquet.Types.ByteArray, 0)
	case *arrow.BinaryType:
		return plain(parquet.Types.ByteArray)
	case *arrow.Date32Type:
		return logical(schema.DateLogicalType{}, parquet.Types.Int32, 0)
	case *arrow.TimestampType:
		if t.Unit != arrow.Microsecond || t.TimeZone != "UTC" {
			break
		}
		return logical(schema.NewTimestampLogicalType(true, schema.TimeUnitMicros), parquet.Types.Int64, 0)
	case *arrow.Decimal128Type:
		if t.Precision < 1 || t.Precision > 38 || t.Scale < 0 || t.Scale > t.Precision {
			break
		}
		l := schema.NewDecimalLogicalType(t.Precision, t.Scale)
		switch {
		case t.Precision <= 9:
			return logical(l, parquet.Types.Int32, 0)
		case t.Precision <= 18:
			return logical(l, parquet.Types.Int64, 0)
		default:
			return logical(l, parquet.Types.FixedLenByteArray, decimalBytes(t.Precision))
		}
	}
	return nil, fmt.Errorf("parquet: column %q: the type %s cannot be published", f.Name, f.Type)
}

// decimalBytes is the length of a fixed-length decimal: the fewest bytes that hold ±(10^precision − 1).
// Parquet's LogicalTypes.md, "DECIMAL": precision ≤ floor(log10(2^(8n−1) − 1)).
func decimalBytes(precision int32) int {
	digits := [...]int32{0, 2, 4, 6, 9, 11, 14, 16, 18, 21, 23, 26, 28, 31, 33, 35, 38}
	for n, d := range digits {
		if precision <= d {
			return n
		}
	}
	return 16
}

// fileSchema turns an Arrow schema into the file's.
func fileSchema(s *arrow.Schema) (*schema.GroupNode, error) {
	if s == nil || s.NumFields() == 0 {
		return nil, errors.New("parquet: a file needs at least one column")
	}
	nodes := make(schema.FieldList, s.NumFields())
	seen := make(map[string]bool, len(nodes))
	for i, f := range s.Fields() {
		if f.Name == "" {
			return nil, fmt.Errorf("parquet: column %d has no name", i)
		}
		if seen[f.Name] {
			return nil, fmt.Errorf("parquet: the column %q is there twice", f.Name)
		}
		seen[f.Name] = true
		n, err := node(f)
		if err != nil {
			return nil, err
		}
		nodes[i] = n
	}
	return schema.NewGroupNode("schema", parquet.Repetitions.Required, nodes, -1)
}

// field turns a Parquet column back into an Arrow field. It knows what node writes, and what other engines write
// for the same types.
func field(c *schema.Column) (arrow.Field, error) {
	f := arrow.Field{Name: c.Name(), Nullable: c.MaxDefinitionLevel() > 0}
	if c.MaxDefinitionLevel() > 1 || c.MaxRepetitionLevel() > 0 {
		return f, fmt.Errorf("parquet: column %q is nested", c.Path())
	}
	switch l := c.LogicalType().(type) {
	case schema.StringLogicalType, schema.JSONLogicalType, schema.EnumLogicalType:
		f.Type = arrow.BinaryTypes.String
	case schema.DateLogicalType:
		f.Type = arrow.FixedWidthTypes.Date32
	case *schema.DecimalLogicalType:
		f.Type = &arrow.Decimal128Type{Precision: l.Precision(), Scale: l.Scale()}
	case *schema.TimestampLogicalType:
		if l.TimeUnit() == schema.TimeUnitMicros && l.IsAdjustedToUTC() {
			f.Type = arrow.FixedWidthTypes.Timestamp_us
		}
	case *schema.IntLogicalType:
		switch {
		case !l.IsSigned():
		case l.BitWidth() == 8:
			f.Type = arrow.PrimitiveTypes.Int8
		case l.BitWidth() == 16:
			f.Type = arrow.PrimitiveTypes.Int16
		case l.BitWidth() == 32:
			f.Type = arrow.PrimitiveTypes.Int32
		case l.BitWidth() == 64:
			f.Type = arrow.PrimitiveTypes.Int64
		}
	default:
		f.Type = physical(c.PhysicalType())
	}
	if f.Type == nil {
		return f, fmt.Errorf("parquet: column %q: the type %s (%s) is not one of ours", f.Name, c.PhysicalType(), c.LogicalType())
	}
	return f, nil
}

func physical(t parquet.Type) arrow.DataType {
	switch t {
	case parquet.Types.Boolean:
		return arrow.FixedWidthTypes.Boolean
	case parquet.Types.Int32:
		return arrow.PrimitiveTypes.Int32
	case parquet.Types.Int64:
		return arrow.PrimitiveTypes.Int64
	case parquet.Types.Float:
		return arrow.PrimitiveTypes.Float32
	case parquet.Types.Double:
		return arrow.PrimitiveTypes.Float64
	case parquet.Types.ByteArray:
		return arrow.BinaryTypes.Binary
	}
	return nil
}
