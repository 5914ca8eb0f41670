package jobs

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/scope"
)

// With `schema: quarantine` the published columns are a contract: what was published is decoded by the published types, whatever the source says by now,
// and a row that does not fit is set aside (package odata), proven to be inside the scope like every other, and published in the quarantine
// beside the dataset (package export). The first version makes the contract from the source's own types.

// aside is what a scan of the plan's table does with rows that do not fit; nil: it ends.
func (p *Plan) aside() *odata.Aside {
	if p.Job.Schema != export.Quarantined {
		return nil
	}
	most := p.Job.MaxQuarantined
	if most == 0 {
		most = export.DefaultQuarantined
	}
	return &odata.Aside{Anchors: p.Tested, Keep: p.Publish, Most: most}
}

// quarantine is what the dataset learns of it.
func (p *Plan) quarantine() *export.Quarantine {
	if p.Job.Schema != export.Quarantined {
		return nil
	}
	return &export.Quarantine{Key: p.Table.Key, Most: p.Job.MaxQuarantined}
}

// setAside hands the rows that a scan has set aside to a slice. Their stand-ins are checked like rows.
func (x *run) setAside(p *prover, scan *odata.Scan, slice *export.Slice) error {
	for _, row := range scan.Aside() {
		checked, err := p.scope.Check(row.Record)
		if err != nil {
			return placed(err, row.Row-1)
		}
		err = slice.SetAside(checked, export.Misfit{Key: row.Key, Column: row.Column, Reason: row.Problem, Row: row.Text})
		checked.Release()
		if err != nil {
			return err
		}
	}
	return nil
}

// underContract plans the job anew by the published types, where the job holds on to them.
func (x *run) underContract(ctx context.Context, model *edm.Model) error {
	if x.Job.Schema != export.Quarantined {
		return nil
	}
	s, err := x.dataset.Snapshot(ctx)
	if err != nil || s.Version < 0 {
		return err
	}
	published, err := delta.ParseSchema(s.Metadata.SchemaString)
	if err != nil {
		return err
	}
	table, kept := x.plan.contracted(published)
	if kept == nil {
		return nil
	}
	x.result.Contract = kept
	x.log.Warn("the source's columns are not those of the contract, which holds", "table", table.Name, "columns", kept)
	if model, err = model.With(table); err != nil {
		return err
	}
	x.plan, err = NewPlan(x.Job, model)
	return err
}

// contracted is the plan's table with the published types, and what of it the source sees differently, one line a column. What rows are told apart and tested
// by, and what filters read, stays as the source has it: a difference there is one of the schema.
func (p *Plan) contracted(published []delta.Field) (table edm.Table, kept []string) {
	table = *p.Table
	table.Columns = slices.Clone(p.Table.Columns)
	asked := slices.Concat(p.Table.Key, p.Filter.Columns(), p.Tested)
	for i := range table.Columns {
		c := &table.Columns[i]
		at := slices.IndexFunc(published, func(f delta.Field) bool { return f.Name == c.Name })
		if at < 0 || !slices.Contains(p.Publish, c.Name) || slices.Contains(asked, c.Name) {
			continue
		}
		f := published[at]
		now, err := delta.FieldsOf(arrow.NewSchema([]arrow.Field{{Name: c.Name, Type: c.Type.Arrow(), Nullable: c.Nullable}}, nil))
		if err != nil || now[0].Type == f.Type && now[0].Nullable == f.Nullable {
			continue
		}
		typ := c.Type
		if now[0].Type != f.Type {
			var ok bool
			if typ, ok = typeOf(f.Type); !ok {
				continue
			}
		}
		kept = append(kept, fmt.Sprintf("%s: %s, where the source has %s", c.Name, described(f), described(now[0])))
		c.Type, c.Nullable = typ, f.Nullable
	}
	return table, kept
}

func described(f delta.Field) string {
	if f.Nullable {
		return f.Type
	}
	return f.Type + " not null"
}

var publishedDecimal = regexp.MustCompile(`^decimal\((\d+),(\d+)\)$`)

// typeOf is the type that a published column is decoded by.
func typeOf(published string) (edm.Type, bool) {
	kinds := map[string]edm.Kind{
		"string": edm.String, "boolean": edm.Boolean, "short": edm.Int16, "integer": edm.Int32, "long": edm.Int64, "double": edm.Double,
		"date": edm.Date, "timestamp": edm.DateTime, "binary": edm.Binary,
	}
	if k, ok := kinds[published]; ok {
		return edm.Type{Kind: k}, true
	}
	m := publishedDecimal.FindStringSubmatch(published)
	if m == nil {
		return edm.Type{}, false
	}
	precision, _ := strconv.ParseInt(m[1], 10, 32)
	scale, _ := strconv.ParseInt(m[2], 10, 32)
	return edm.Type{Kind: edm.Decimal, Precision: int32(precision), Scale: int32(scale)}, true
}

// placed counts the rows before a violation in.
func placed(err error, before int64) error {
	if v, ok := err.(*scope.Violation); ok {
		v.Row += before
	}
	return err
}
