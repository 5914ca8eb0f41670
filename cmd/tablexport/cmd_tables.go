package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/odata/edm"
)

func tablesCommand(g *globals) *cobra.Command {
	var online bool
	var instance string
	c := &cobra.Command{
		Use:   "tables [NAME]",
		Short: "List tables, or show one table's columns",
		Long: `List tables, or show one table's columns: type, what a filter takes on them, what they refer to.

Without --online this is the built-in table model (made from the vendor's published documentation, CC BY 4.0); with it, the
instance's own $metadata, supplemented by the model. NAME may be a part of a name, in any case.`,
		Example: `  tablexport tables Sales_Order
  tablexport tables Crm_Sales_Order_Lines
  tablexport tables --online --instance acme`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			return g.tables(c.Context(), name, online, instance)
		},
	}
	c.Flags().BoolVar(&online, "online", false, "ask the instance")
	c.Flags().StringVar(&instance, "instance", "", "the `name` of the instance to ask, if the configuration has several")
	return c
}

func (g *globals) tables(ctx context.Context, name string, online bool, instance string) error {
	model := edm.Embedded()
	if online {
		a, err := g.open()
		if err != nil {
			return err
		}
		defer a.close()
		if instance == "" {
			if len(a.cfg.Instances) != 1 {
				return usagef("the configuration has %d instances; choose one with --instance: %s", len(a.cfg.Instances), strings.Join(sorted(a.cfg.Instances), ", "))
			}
			instance = sorted(a.cfg.Instances)[0]
		}
		session, done, err := a.session(ctx, instance, "tables")
		if err != nil {
			return err
		}
		defer done()
		if model, err = session.Metadata(ctx); err != nil {
			return err
		}
	}
	tables := model.Tables()
	if i := slices.IndexFunc(tables, func(n string) bool { return strings.EqualFold(n, name) }); i >= 0 {
		t, _ := model.Table(tables[i])
		return g.showTable(model, t)
	}
	rows := [][]string{{"TABLE", "COLUMNS", "KEY", "OWNERS"}}
	for _, n := range tables {
		if !strings.Contains(strings.ToLower(n), strings.ToLower(name)) {
			continue
		}
		t, _ := model.Table(n)
		rows = append(rows, []string{t.Name, fmt.Sprint(len(t.Columns)), strings.Join(t.Key, ", "), strings.Join(t.Owners, " → ")})
		if g.json {
			line := map[string]any{"table": t.Name, "columns": len(t.Columns), "key": t.Key, "owners": t.Owners}
			if err := g.emit(line, nil); err != nil {
				return err
			}
		}
	}
	if len(rows) == 1 {
		hint := "tablexport tables lists them all"
		if near := model.Suggest(name); len(near) > 0 {
			hint = "did you mean " + strings.Join(near, " or ") + "?"
		}
		return usagef("no table is named like %q; %s", name, hint)
	}
	if !g.json {
		g.table(rows)
	}
	return nil
}

// columnView is a column as --json prints it.
type columnView struct {
	Table      string `json:"table"`
	Column     string `json:"column"`
	Type       string `json:"type"`
	Nullable   bool   `json:"nullable"`
	Key        bool   `json:"key"`
	Filter     string `json:"filter"`
	References string `json:"references,omitempty"`
	Path       string `json:"path,omitempty"`
	Secret     bool   `json:"secret,omitempty"`
	Comment    string `json:"comment,omitempty"`
}

func (g *globals) showTable(model *edm.Model, t *edm.Table) error {
	rows := [][]string{{"COLUMN", "TYPE", "NULL", "FILTER", "MEANING"}}
	for i := range t.Columns {
		c := &t.Columns[i]
		v := columnView{Table: t.Name, Column: c.Name, Type: c.Type.String(), Nullable: c.Nullable, Key: c.Key, Filter: c.Ops.String(),
			References: c.References, Path: c.Navigation, Secret: c.Secret, Comment: c.Comment}
		if g.json {
			if err := g.emit(v, nil); err != nil {
				return err
			}
			continue
		}
		meaning := c.Comment
		switch {
		case c.Key:
			meaning = "key. " + meaning
		case c.Secret:
			meaning = "SECRET, never exported. " + meaning
		}
		null := ""
		if c.Nullable {
			null = "null"
		}
		rows = append(rows, []string{c.Name, v.Type, null, v.Filter, meaning})
	}
	if g.json {
		return nil
	}
	g.printf("%s", t.Name)
	if t.Entity != "" {
		g.printf(" (%s)", t.Entity)
	}
	g.printf(", %d columns\n\n", len(t.Columns))
	g.table(rows)
	if paths := model.OwnerPaths(t); len(paths) > 0 {
		g.printf("\nOwner paths that a filter can follow:\n")
		for _, p := range paths {
			g.printf("  %s/…  (%s)\n", strings.Join(p.Path, "/"), p.Table.Name)
		}
	}
	return nil
}
