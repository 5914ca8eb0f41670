package export

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/tablexport/tablexport/export/delta"
)

// Snippet is ready-to-paste text that opens the dataset in one tool.
type Snippet struct {
	Tool     string `json:"tool"`     // "DuckDB", "DuckDB without the delta extension", "Spark", "Power BI", "pandas", "Polars"
	Language string `json:"language"` // sql, python, m
	Text     string `json:"text"`
	Note     string `json:"note,omitempty"` // what to know before pasting
}

// Snippets returns the ways to open the dataset, for its location: a local directory or an s3:// URL. They carry no credentials.
func (d *Dataset) Snippets(ctx context.Context) ([]Snippet, error) {
	s, err := d.table(ctx)
	if err != nil {
		return nil, err
	}
	files, err := d.files(s)
	if err != nil {
		return nil, err
	}
	at := place{location: d.Location(), remote: strings.HasPrefix(d.Location(), "s3://"), view: viewName(s), windows: len(s.Metadata.PartitionColumns) > 0}
	return []Snippet{at.duckdb(), at.duckdbFiles(files, s.Version), at.spark(), at.powerBI(), at.pandas(), at.polars()}, nil
}

// place is where a dataset lies.
type place struct {
	location string
	remote   bool
	view     string
	windows  bool // the files lie in directories of their window, whose names carry a column
}

// viewName is the name of the source table as an SQL identifier.
func viewName(s *delta.Snapshot) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_':
			return r
		}
		return '_'
	}, s.Metadata.Name)
	if name == "" || name[0] >= '0' && name[0] <= '9' {
		name = "t_" + name
	}
	return strings.ToLower(name)
}

// sqlText quotes a text for SQL: quotes doubled.
func sqlText(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// pyText quotes a text for Python. A Go string literal of it is one of Python, too, for all that a path can hold.
func pyText(s string) string { return strconv.QuoteToGraphic(s) }

// mText quotes a text for Power Query M: quotes doubled, and the escape "#(" written as its own escape.
func mText(s string) string {
	return `"` + strings.NewReplacer(`"`, `""`, `#(`, `#(#)(`).Replace(s) + `"`
}

const s3Secret = "-- credentials from the environment, a profile or the instance\nINSTALL httpfs; LOAD httpfs; INSTALL aws; LOAD aws;\nCREATE OR REPLACE SECRET (TYPE s3, PROVIDER credential_chain);\n"

func (p place) duckdb() Snippet {
	text := "INSTALL delta; LOAD delta;\n"
	if p.remote {
		text = s3Secret + text
	}
	return Snippet{Tool: "DuckDB", Language: "sql",
		Text: text + fmt.Sprintf("CREATE OR REPLACE VIEW %s AS SELECT * FROM delta_scan(%s);\nSELECT count(*) FROM %[1]s;", p.view, sqlText(p.location)),
		Note: "reads the newest version each time"}
}

// duckdbFiles lists the live files: good where the delta extension cannot be installed, until the next refresh.
func (p place) duckdbFiles(files []LiveFile, version int64) Snippet {
	out := Snippet{Tool: "DuckDB without the delta extension", Language: "sql", Note: fmt.Sprintf("reads version %d only: print it anew after a refresh", version)}
	if len(files) == 0 {
		out.Text = fmt.Sprintf("-- version %d of this table has no rows and no files", version)
		return out
	}
	var list strings.Builder
	for i, f := range files {
		if i > 0 {
			list.WriteString(",")
		}
		list.WriteString("\n  " + sqlText(f.Location))
	}
	if p.remote {
		out.Text = s3Secret
	}
	options := "union_by_name = true"
	if p.windows {
		options += ", hive_partitioning = true, hive_types_autocast = false"
	}
	out.Text += fmt.Sprintf("CREATE OR REPLACE VIEW %s AS SELECT * FROM read_parquet([%s\n], %s);\nSELECT count(*) FROM %[1]s;", p.view, list.String(), options)
	return out
}

// spark is Python, not SQL: what every notebook takes. Spark 3 guesses that a Parquet file that it has not written may be in the
// old Julian calendar, and fails on days before 1582-10-15 and times before 1900 unless told otherwise:
// https://spark.apache.org/docs/3.5.1/sql-data-sources-parquet.html, spark.sql.parquet.datetimeRebaseModeInRead.
func (p place) spark() Snippet {
	loc := p.location
	note := "needs delta-spark (built into Databricks and Fabric)"
	if p.remote {
		loc = "s3a://" + strings.TrimPrefix(loc, "s3://")
		note += "; on Databricks and EMR write s3:// instead of s3a://"
	} else {
		loc = fileURL(loc)
	}
	return Snippet{Tool: "Spark", Language: "python", Note: note, Text: fmt.Sprintf(
		"# old dates are stored as they are (Gregorian calendar); Spark 3 would refuse those before 1582-10-15, and times before 1900\n"+
			"spark.conf.set(\"spark.sql.parquet.datetimeRebaseModeInRead\", \"CORRECTED\")\n"+
			"df = spark.read.format(\"delta\").load(%s)\ndf.createOrReplaceTempView(\"%s\")\nspark.sql(\"SELECT count(*) FROM %[2]s\").show()",
		pyText(loc), p.view)}
}

// fileURL is the file:// URL of a local path: Spark takes a bare path for one of its default file system, which may be HDFS.
// Hadoop wants no percent-encoding in it.
func fileURL(path string) string {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // C:/data
	}
	return "file://" + path
}

func (p place) powerBI() Snippet {
	out := Snippet{Tool: "Power BI", Language: "m"}
	if p.remote {
		out.Text = "let\n    // the path of the OneLake shortcut to " + strings.ReplaceAll(p.location, "\n", " ") +
			"\n    Source = AzureStorage.DataLake(\"https://onelake.dfs.fabric.microsoft.com/WORKSPACE/LAKEHOUSE.Lakehouse/Tables/" + p.view +
			"\", [HierarchicalNavigation = true]),\n    Table = DeltaLake.Table(Source)\nin\n    Table"
		out.Note = "Power BI has no connector for S3: make a OneLake shortcut to the location in a Fabric lakehouse (it shows up under Tables), and put its workspace and lakehouse in"
		return out
	}
	out.Text = "let\n    Source = Folder.Contents(" + mText(p.location) + "),\n    Table = DeltaLake.Table(Source)\nin\n    Table"
	out.Note = "Get data > Blank query > Advanced editor; a published report needs a gateway that reaches the folder"
	return out
}

func (p place) pandas() Snippet {
	return Snippet{Tool: "pandas", Language: "python",
		Text: fmt.Sprintf("from deltalake import DeltaTable\n\ndf = DeltaTable(%s).to_pandas()", pyText(p.location)),
		Note: "pip install deltalake pandas pyarrow" + p.s3Note()}
}

func (p place) polars() Snippet {
	return Snippet{Tool: "Polars", Language: "python",
		Text: fmt.Sprintf("import polars as pl\n\ndf = pl.read_delta(%s)", pyText(p.location)),
		Note: "pip install polars deltalake" + p.s3Note()}
}

func (p place) s3Note() string {
	if !p.remote {
		return ""
	}
	return "; credentials come from the environment (AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL …)"
}
