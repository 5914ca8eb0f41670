package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/sets"
)

// setSnippets prints the ways to open a set: every member at the pointer's version.
func (g *globals) setSnippets(ctx context.Context, name string, version int64) error {
	a, s, err := g.openSet(ctx, name)
	if err != nil {
		return err
	}
	defer a.close()
	p, err := pointer(ctx, s, version)
	if err != nil {
		return err
	}
	duckdb, err := a.duckdbSet(ctx, p)
	if err != nil {
		return err
	}
	fixed := "opens version " + strconv.FormatInt(p.Version, 10) + " of the set; print it again after the next run"
	for _, snippet := range []export.Snippet{
		{Tool: "pandas", Language: "python", Text: pandasSet(s, p, version), Note: "reads the pointer first, so that it goes with the set"},
		{Tool: "Spark", Language: "python", Text: sparkSet(p), Note: fixed},
		{Tool: "DuckDB", Language: "sql", Text: duckdb, Note: fixed},
	} {
		if err := g.emit(snippet, func() {
			g.printf("── %s\n   (%s)\n\n%s\n\n", snippet.Tool, snippet.Note, strings.TrimRight(snippet.Text, "\n"))
		}); err != nil {
			return err
		}
	}
	return nil
}

// pandasSet reads the pointer with what deltalake brings along, locally or on S3.
func pandasSet(s *sets.Set, p *sets.Pointer, version int64) string {
	file := "current.json"
	if version >= 0 {
		file = fmt.Sprintf("%020d.json", p.Version)
	}
	read := fmt.Sprintf("pointer = json.load(open(%s))", strconv.QuoteToGraphic(s.Folder()+"/"+file))
	imports := "import json\nfrom deltalake import DeltaTable\n"
	if strings.HasPrefix(s.Folder(), "s3://") {
		imports = "import json, fsspec  # with s3fs\nfrom deltalake import DeltaTable\n"
		read = fmt.Sprintf("pointer = json.load(fsspec.open(%s).open())", strconv.QuoteToGraphic(s.Folder()+"/"+file))
	}
	return imports + read + "\n" +
		"tables = {m[\"job\"]: DeltaTable(m[\"location\"], version=m[\"version\"]).to_pandas() for m in pointer[\"members\"]}"
}

func sparkSet(p *sets.Pointer) string {
	var b strings.Builder
	for _, m := range p.Members {
		location := m.Location
		if rest, ok := strings.CutPrefix(location, "s3://"); ok {
			location = "s3a://" + rest
		}
		fmt.Fprintf(&b, "spark.read.format(\"delta\").option(\"versionAsOf\", %d).load(%s).createOrReplaceTempView(%s)\n", m.Version,
			strconv.QuoteToGraphic(location), strconv.Quote(viewOf(m.Job)))
	}
	return b.String()
}

// duckdbSet names the files of the versions: its Delta reader opens the newest version alone.
func (a *app) duckdbSet(ctx context.Context, p *sets.Pointer) (string, error) {
	var b strings.Builder
	for _, m := range p.Members {
		d, err := a.memberDataset(ctx, m)
		if err != nil {
			return "", err
		}
		files, err := d.FilesAt(ctx, m.Version)
		if err != nil {
			return "", fmt.Errorf("version %d of the dataset of %s: %w", m.Version, m.Job, err)
		}
		if len(files) == 0 {
			fmt.Fprintf(&b, "-- %s has no rows in version %d\n", m.Job, m.Version)
			continue
		}
		fmt.Fprintf(&b, "CREATE OR REPLACE VIEW %s AS SELECT * FROM read_parquet([\n", viewOf(m.Job))
		for i, f := range files {
			comma := ","
			if i == len(files)-1 {
				comma = ""
			}
			fmt.Fprintf(&b, "  '%s'%s\n", strings.ReplaceAll(f.Location, "'", "''"), comma)
		}
		b.WriteString("], union_by_name = true, hive_partitioning = true);\n")
	}
	return b.String(), nil
}

// viewOf is a job's name as an SQL identifier.
func viewOf(job string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '_'
	}, strings.ToLower(job))
	if name[0] >= '0' && name[0] <= '9' {
		return "t_" + name
	}
	return name
}
