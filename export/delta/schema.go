package delta

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/apache/arrow/go/v17/arrow"
)

// Field is one column of a table's schema.
type Field struct {
	Name     string
	Type     string // "string", "decimal(12,3)"; JSON text for a nested type
	Nullable bool
	Metadata map[string]any // "comment" and what other engines put there
}

// Comment is the column's comment, "" if it has none.
func (f Field) Comment() string {
	s, _ := f.Metadata["comment"].(string)
	return s
}

// field and structure are the JSON of schemaString: PROTOCOL.md, "Schema Serialization Format".
type field struct {
	Name     string          `json:"name"`
	Type     json.RawMessage `json:"type"`
	Nullable bool            `json:"nullable"`
	Metadata map[string]any  `json:"metadata"`
}

type structure struct {
	Type   string  `json:"type"`
	Fields []field `json:"fields"`
}

// commentKey is the key of a column's comment in an Arrow field's metadata.
const commentKey = "comment"

// FieldsOf converts an Arrow schema. Column comments come from the field metadata ("comment"). It refuses types that Delta
// does not have, and names that its readers refuse: empty ones, the same in another case, and those with one of " ,;{}()\n\t=".
func FieldsOf(s *arrow.Schema) ([]Field, error) {
	out := make([]Field, 0, s.NumFields())
	for _, f := range s.Fields() {
		t, err := typeName(f.Type)
		if err != nil {
			return nil, fmt.Errorf("delta: column %q: %w", f.Name, err)
		}
		d := Field{Name: f.Name, Type: t, Nullable: f.Nullable, Metadata: map[string]any{}}
		if c, ok := f.Metadata.GetValue(commentKey); ok && c != "" {
			d.Metadata[commentKey] = c
		}
		out = append(out, d)
	}
	return out, checkNames(out)
}

func checkNames(fields []Field) error {
	if len(fields) == 0 {
		return errors.New("delta: a table needs at least one column")
	}
	seen := make(map[string]string, len(fields))
	for _, f := range fields {
		if f.Name == "" || !utf8.ValidString(f.Name) || strings.ContainsAny(f.Name, " ,;{}()\n\t=") {
			return fmt.Errorf("delta: a column cannot be named %q: no name, or one of the characters \" ,;{}()\\n\\t=\" in it", f.Name)
		}
		low := strings.ToLower(f.Name)
		if other, ok := seen[low]; ok {
			return fmt.Errorf("delta: the columns %q and %q differ only in case, or not at all", other, f.Name)
		}
		seen[low] = f.Name
	}
	return nil
}

func typeName(t arrow.DataType) (string, error) {
	switch t := t.(type) {
	case *arrow.StringType:
		return "string", nil
	case *arrow.Int64Type:
		return "long", nil
	case *arrow.Int32Type:
		return "integer", nil
	case *arrow.Int16Type:
		return "short", nil
	case *arrow.Int8Type:
		return "byte", nil
	case *arrow.Float32Type:
		return "float", nil
	case *arrow.Float64Type:
		return "double", nil
	case *arrow.BooleanType:
		return "boolean", nil
	case *arrow.BinaryType:
		return "binary", nil
	case *arrow.Date32Type:
		return "date", nil
	case *arrow.TimestampType:
		if t.Unit == arrow.Microsecond && t.TimeZone == "UTC" {
			return "timestamp", nil
		}
	case *arrow.Decimal128Type:
		if t.Precision >= 1 && t.Precision <= 38 && t.Scale >= 0 && t.Scale <= t.Precision {
			return fmt.Sprintf("decimal(%d,%d)", t.Precision, t.Scale), nil
		}
	}
	return "", fmt.Errorf("Delta has no type for %s", t)
}

// Arrow is the Arrow field of f: the inverse of FieldsOf.
func (f Field) Arrow() (arrow.Field, error) {
	out := arrow.Field{Name: f.Name, Nullable: f.Nullable}
	if c := f.Comment(); c != "" {
		out.Metadata = arrow.MetadataFrom(map[string]string{commentKey: c})
	}
	switch f.Type {
	case "string":
		out.Type = arrow.BinaryTypes.String
	case "long":
		out.Type = arrow.PrimitiveTypes.Int64
	case "integer":
		out.Type = arrow.PrimitiveTypes.Int32
	case "short":
		out.Type = arrow.PrimitiveTypes.Int16
	case "byte":
		out.Type = arrow.PrimitiveTypes.Int8
	case "float":
		out.Type = arrow.PrimitiveTypes.Float32
	case "double":
		out.Type = arrow.PrimitiveTypes.Float64
	case "boolean":
		out.Type = arrow.FixedWidthTypes.Boolean
	case "binary":
		out.Type = arrow.BinaryTypes.Binary
	case "date":
		out.Type = arrow.FixedWidthTypes.Date32
	case "timestamp":
		out.Type = arrow.FixedWidthTypes.Timestamp_us
	default:
		var p, s int32
		if n, err := fmt.Sscanf(f.Type, "decimal(%d,%d)", &p, &s); err != nil || n != 2 || p < 1 || p > 38 || s < 0 || s > p || f.Type != fmt.Sprintf("decimal(%d,%d)", p, s) {
			return out, fmt.Errorf("delta: column %q: the type %s is not one that tablexport publishes", f.Name, f.Type)
		}
		out.Type = &arrow.Decimal128Type{Precision: p, Scale: s}
	}
	return out, nil
}

// SchemaString writes the schemaString of a metaData action.
func SchemaString(fields []Field) (string, error) {
	if err := checkNames(fields); err != nil {
		return "", err
	}
	s := structure{Type: "struct", Fields: make([]field, len(fields))}
	for i, f := range fields {
		raw := json.RawMessage(f.Type)
		if !strings.HasPrefix(f.Type, "{") {
			text, err := json.Marshal(f.Type)
			if err != nil {
				return "", fmt.Errorf("delta: column %q: %w", f.Name, err)
			}
			raw = text
		}
		s.Fields[i] = field{Name: f.Name, Type: raw, Nullable: f.Nullable, Metadata: notNilMap(f.Metadata)}
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return "", fmt.Errorf("delta: the schema cannot be written: %w", err)
	}
	return strings.TrimSuffix(buf.String(), "\n"), nil
}

// ParseSchema reads a schemaString. Nested types of other engines are kept as JSON text.
func ParseSchema(text string) ([]Field, error) {
	var s structure
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&s); err != nil {
		return nil, fmt.Errorf("delta: the table's schemaString cannot be read: %w", plain(err))
	}
	if s.Type != "struct" {
		return nil, fmt.Errorf("delta: the table's schemaString is a %q, not a struct", s.Type)
	}
	out := make([]Field, len(s.Fields))
	for i, f := range s.Fields {
		out[i] = Field{Name: f.Name, Nullable: f.Nullable, Metadata: notNilMap(f.Metadata)}
		var name string
		if err := json.Unmarshal(f.Type, &name); err == nil {
			out[i].Type = name
			continue
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, f.Type); err != nil || !bytes.HasPrefix(compact.Bytes(), []byte("{")) {
			return nil, fmt.Errorf("delta: column %q of the table's schemaString has no type", f.Name)
		}
		out[i].Type = compact.String()
	}
	return out, nil
}

// ArrowSchema converts fields. It fails on types that tablexport does not publish.
func ArrowSchema(fields []Field) (*arrow.Schema, error) {
	out := make([]arrow.Field, len(fields))
	for i, f := range fields {
		var err error
		if out[i], err = f.Arrow(); err != nil {
			return nil, err
		}
	}
	return arrow.NewSchema(out, nil), nil
}
