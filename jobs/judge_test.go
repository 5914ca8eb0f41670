package jobs_test

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/tablexport/tablexport/export/exporttest/judge"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/simulator"
)

// delta-rs and DuckDB find in a published table what the oracle says, cell by cell, and nothing to complain about, after
// a first refresh and after a second one.
func TestJudged(t *testing.T) {
	tables := map[string]int64{lines: 300, "Gen_Documents": 200, "Crm_Customers": 100}
	r := newRig(t, simulator.Options{Rows: tables})
	for table := range tables {
		t.Run(table, func(t *testing.T) {
			j := job(table)
			j.Select = nil
			dir := filepath.Join(r.dir, "lake", j.Path)
			r.exact(j)
			must(t, errOf(r.server.Update(table, 50)))
			must(t, errOf(r.server.Delete(table, 10)))
			mark := r.oracle.Mark()
			res := r.exact(j)
			report := judge.Check(t, dir)
			if report.Rows != int(res.Rows) || report.Version != res.Version || report.Files != res.Files {
				t.Errorf("%+v, but the run says %+v", report, res)
			}
			columns, _ := r.read(j)
			for reader, rows := range map[string][]judge.Row{"delta-rs": judge.Rows(t, dir), "DuckDB": judge.DuckDBRows(t, dir)} {
				copied := make([]simulator.Row, len(rows))
				for i, row := range rows {
					copied[i] = judged(t, j, columns, row)
				}
				if err := r.oracle.Check(mark, table, "", columns, slices.Values(copied)); err != nil {
					t.Errorf("%s: %v", reader, err)
				}
			}
		})
	}
}

// judged is a row that judge found, in canonical cells.
func judged(t *testing.T, j jobs.Job, columns []string, row judge.Row) simulator.Row {
	t.Helper()
	table, _ := edm.Embedded().Table(j.Table)
	out := make(simulator.Row, len(columns))
	for i, name := range columns {
		switch v := row[name].(type) {
		case nil:
			out[i] = simulator.Null
		case string:
			out[i] = v
		case bool:
			out[i] = strconv.FormatBool(v)
		case json.Number:
			out[i] = v.String()
			if c, _ := table.Column(name); c.Type.Kind == edm.Double {
				f, err := v.Float64()
				must(t, err)
				out[i] = strconv.FormatFloat(f, 'g', -1, 64)
			}
		default:
			t.Fatalf("column %s: %T", name, v)
		}
	}
	return out
}
