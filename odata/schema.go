package odata

import (
	"errors"
	"fmt"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/tablexport/tablexport/odata/edm"
)

// ArrowSchema returns the schema of a decoded table: one field per column, in the order of columns,
// nullable as the model says, the column's comment and Edm type in the field's metadata ("comment", "edm").
//
// It refuses an empty or repeated selection, a column that the table does not have, and a column whose
// type the model does not know.
func ArrowSchema(table *edm.Table, columns []string) (*arrow.Schema, error) {
	selected, err := selectColumns(table, columns)
	if err != nil {
		return nil, err
	}
	fields := make([]arrow.Field, len(selected))
	for i, c := range selected {
		fields[i] = arrow.Field{
			Name:     c.Name,
			Type:     c.Type.Arrow(),
			Nullable: c.Nullable,
			Metadata: arrow.NewMetadata([]string{"comment", "edm"}, []string{c.Comment, c.Type.String()}),
		}
	}
	return arrow.NewSchema(fields, nil), nil
}

// selectColumns finds columns in table and checks that each can be decoded.
func selectColumns(table *edm.Table, columns []string) ([]*edm.Column, error) {
	if table == nil {
		return nil, errors.New("odata: no table to decode")
	}
	if len(columns) == 0 {
		return nil, fmt.Errorf("odata: table %s: no column is selected", table.Name)
	}
	selected := make([]*edm.Column, 0, len(columns))
	seen := make(map[string]bool, len(columns))
	for _, name := range columns {
		c, ok := table.Column(name)
		switch {
		case !ok:
			return nil, fmt.Errorf("odata: table %s has no column %q", table.Name, name)
		case seen[name]:
			return nil, fmt.Errorf("odata: table %s: column %s is selected twice", table.Name, name)
		}
		if err := checkType(c.Type); err != nil {
			return nil, fmt.Errorf("odata: table %s, column %s: %w", table.Name, name, err)
		}
		seen[name] = true
		selected = append(selected, c)
	}
	return selected, nil
}

// checkType refuses what no decoding operation stands for, so that the hot path need not ask.
func checkType(t edm.Type) error {
	switch {
	case operationOf(t.Kind) == nil:
		return errors.New("its type is not supported; leave it out of the selection")
	case t.Kind == edm.Decimal && (t.Precision < 1 || t.Precision > 38 || t.Scale < 0 || t.Scale > t.Precision):
		return fmt.Errorf("%s is no decimal that can be stored: the precision must be 1 to 38, the scale 0 to the precision", t)
	}
	return nil
}
