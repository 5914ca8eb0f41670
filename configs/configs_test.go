package configs_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tablexport/tablexport/configs"
)

type placed struct {
	text string
	at   int
}

func (p placed) Error() string { return p.text }
func (p placed) Position() int { return p.at }

// checks stand in for the filter and cron parsers: a "!" is wrong where it stands.
var checks = configs.Checks{
	Filter: func(text string) error {
		if strings.Contains(text, "enrt_") {
			return errors.New("bad: " + text) // as a parser may quote it
		}
		var errs []error
		for i, r := range text {
			if r == '!' {
				errs = append(errs, placed{"unexpected character", i})
			}
		}
		return errors.Join(errs...)
	},
	Cron: func(cron, _ string) error {
		if n := len(strings.Fields(cron)); n != 5 {
			return errors.New("five fields are needed")
		}
		return nil
	},
	Days: func(text string) (first, next int, err error) {
		year, err := strconv.Atoi(text[:min(4, len(text))])
		return year * 366, year*366 + 366, err
	},
	Hours: func(_ []string, from, _, _ string) error {
		if len(from) != 5 {
			return errors.New("not a time of day")
		}
		return nil
	},
}

func TestExampleLoads(t *testing.T) {
	c, err := configs.Parse("example.yaml", configs.Example, checks)
	if err != nil {
		t.Fatal(err)
	}
	lines := c.Jobs["order-lines"]
	if lines.Paging.Mode != "auto" || lines.Paging.PageSize != 10_000 || lines.Schedule.Late != "once" {
		t.Errorf("defaults are missing: %+v", lines)
	}
	if got := c.JobNames(); !slices.Equal(got, []string{"order-lines", "products"}) {
		t.Errorf("jobs: %v", got)
	}
	if p, ok := c.Position("jobs.order-lines.scope"); !ok || p.Line == 0 {
		t.Errorf("no position for a written key: %v", p)
	}
	if got := c.Instances["acme"].Timeouts.Idle.Or(time.Minute); got != time.Minute {
		t.Errorf("idle timeout: %v", got)
	}
}

// TestProblems checks that every kind of mistake is found, at its place, with what to write instead.
func TestProblems(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test data: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			// The file's first lines say what must be reported, in order: "# want LINE:COL: text".
			var want []string
			for line := range strings.Lines(string(data)) {
				if w, ok := strings.CutPrefix(line, "# want "); ok {
					want = append(want, strings.TrimSpace(w))
				}
			}
			_, err = configs.Parse("t.yaml", data, checks)
			var problems configs.Problems
			if !errors.As(err, &problems) {
				t.Fatalf("no problems, error %v", err)
			}
			var got []string
			for _, p := range problems {
				got = append(got, strings.TrimPrefix(p.Error(), "t.yaml:"))
			}
			if len(got) != len(want) {
				t.Fatalf("got %d problems, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
			}
			for i := range got {
				if !strings.HasPrefix(got[i], want[i]) {
					t.Errorf("problem %d\n got %s\nwant %s", i, got[i], want[i])
				}
			}
		})
	}
}

// A site at an address of its own, and jobs side by side in stores that overlap, are in order.
func TestAccepted(t *testing.T) {
	c, err := configs.Parse("t.yaml", []byte(`environment: production
secrets: {file: {path: ./s.age}}
instances: {acme: {url: "https://acme.my.erp.net", token: bi/reader, table_api: "https://tables.acme.example/odata/"}}
stores: {lake: {file: {path: /lake}}, sales: {file: {path: /lake/sales}}, s3: {s3: {bucket: lake}}, minio: {s3: {bucket: lake, endpoint: "https://minio.acme.example"}}}
scopes: {all: {unrestricted: true}}
jobs:
  a: {instance: acme, table: T, scope: all, store: lake, path: sales/a}
  ab: {instance: acme, table: T, scope: all, store: sales, path: ab}
  b: {instance: acme, table: T, scope: all, store: sales, path: b/c_d.e}
  c: {instance: acme, table: T, scope: all, store: s3, path: sales/a}
  d: {instance: acme, table: T, scope: all, store: minio, path: sales/a}
`), checks)
	if err != nil || c.Instances["acme"].TableAPI != "https://tables.acme.example/odata/" {
		t.Errorf("%v", err)
	}
}

func TestMissingFile(t *testing.T) {
	_, err := configs.Load(filepath.Join(t.TempDir(), "none.yaml"), checks)
	if err == nil || !strings.Contains(err.Error(), "tablexport init") {
		t.Errorf("got %v", err)
	}
}

// TestSecretsAreNotEchoed pastes secrets in every place where a message could quote them.
func TestSecretsAreNotEchoed(t *testing.T) {
	const canary = "enrt_0123456789ABCDEF0123456789ABCDEF"
	for _, text := range []string{
		"environment: " + canary,
		"secrets: {file: {path: " + canary + "}}",
		"instances: {acme: {url: https://user:" + canary + "@acme.my.erp.net, token: " + canary + "}}",
		"instances: {acme: {url: \"" + canary + "\nx: [",
		"scopes: {a: {where: \"Store_Id eq '" + canary + "' !\"}}",
		"jobs: {a: {select: [A, " + canary + "], path: x/" + canary + "}}",
		"jobs: {a: {filter: '!" + canary + "', paging: {page_size: " + canary + "}}}",
	} {
		_, err := configs.Parse("t.yaml", []byte(text), checks)
		if err == nil {
			t.Errorf("%.20s: accepted", text)
		} else if strings.Contains(err.Error(), canary) {
			t.Errorf("the message holds the secret: %v", err)
		}
	}
}

func TestSchemaDescribesEveryKey(t *testing.T) {
	var schema map[string]any
	if err := json.Unmarshal(configs.Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	text := string(configs.Schema())
	for _, key := range []string{"requests_per_minute", "role_id_file", "kms_key_id", "unrestricted", "page_size", "propertyNames"} {
		if !strings.Contains(text, `"`+key+`"`) {
			t.Errorf("%s is missing", key)
		}
	}
	var walk func(path string, s map[string]any)
	walk = func(path string, s map[string]any) {
		if properties, ok := s["properties"].(map[string]any); ok {
			if s["additionalProperties"] != false {
				t.Errorf("%s accepts unknown keys", path)
			}
			for name, p := range properties {
				p := p.(map[string]any)
				if p["description"] == nil {
					t.Errorf("%s.%s has no description", path, name)
				}
				walk(path+"."+name, p)
			}
		}
		if more, ok := s["additionalProperties"].(map[string]any); ok {
			walk(path+".*", more)
		}
	}
	walk("", schema)
}

// FuzzParse: whatever the file holds, loading ends, with a configuration or with problems that stand inside the file.
func FuzzParse(f *testing.F) {
	f.Add(configs.Example)
	files, _ := filepath.Glob("testdata/bad/*.yaml")
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil {
			f.Add(data)
		}
	}
	f.Add([]byte("a: &a [*a, *a]\nb: *a"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := configs.Parse("t.yaml", data, checks)
		if (c == nil) == (err == nil) {
			t.Fatalf("config %v, error %v", c, err)
		}
		var problems configs.Problems
		if err != nil && (!errors.As(err, &problems) || len(problems) == 0) {
			t.Fatalf("an error that is no list of problems: %v", err)
		}
		for _, p := range problems {
			if p.Line < 0 || p.Line > strings.Count(string(data), "\n")+strings.Count(string(data), "\r")+2 || p.Text == "" {
				t.Fatalf("a problem outside the file: %+v", p)
			}
		}
	})
}
