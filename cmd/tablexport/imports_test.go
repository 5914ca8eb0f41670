package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/tablexport/tablexport"

// layers says what each package may import of ours; "/…" includes what is below. The first entry that fits a package is
// its layer. Test files are exempt, and so are the packages in testSupport.
var layers = []struct {
	pkg   string
	mayBe []string
}{
	{"configs", nil},
	{"odata/edm", nil},
	{"odata/evidence", nil},
	{"odata/extsort", nil},
	{"odata/utf", nil},
	{"odata/filter", []string{"odata/edm"}},
	{"odata/scope", []string{"odata/filter", "odata/edm"}},
	{"odata/simulator", []string{"odata/filter", "odata/edm"}},
	{"odata", []string{"odata/edm", "odata/filter", "odata/evidence", "odata/extsort", "odata/utf"}},
	{"export/store", nil},
	{"export/store/…", []string{"export/store"}},
	{"export/delta", []string{"export/store", "export/parquet"}},
	{"export/parquet", []string{"odata/utf"}},
	{"export/lease", []string{"export/store"}},
	{"export/sets", []string{"export", "export/delta", "export/store", "odata/extsort"}},
	{"export", []string{"export/delta", "export/lease", "export/parquet", "export/store", "odata/scope", "odata/evidence", "odata/extsort"}},
	{"secrets/audit", []string{"secrets/internal/…"}},
	{"secrets/…", []string{"secrets/…"}},
	{"jobs/schedule", nil},
	{"jobs/ledger", nil},
	{"jobs/alert", nil},
	{"jobs/window", nil},
	{"jobs/gate", nil},
	{"jobs/lineage", nil},
	{"jobs/tracing", nil},
	{"jobs/status", []string{"jobs/gate", "jobs/ledger", "jobs/schedule", "export", "export/delta", "export/lease", "odata/evidence"}},
	{"jobs", []string{"odata", "odata/edm", "odata/evidence", "odata/extsort", "odata/filter", "odata/scope", "export", "export/delta", "export/lease", "export/parquet", "export/sets",
		"export/store", "secrets", "secrets/audit", "jobs/…"}},
	{"cmd/…", []string{"…"}},
	{".ci/…", []string{"…"}},
}

// testSupport are packages that only tests import.
var testSupport = []string{"export/exporttest/…", "export/store/storetest/…", "secrets/secretstest/…", "jobs/gate/gatetest"}

// homes says where large dependencies live: nobody else imports them.
var homes = []struct {
	dependency string
	home       []string
}{
	{module + "/configs", []string{"cmd/…"}},
	{module + "/odata/simulator", []string{"cmd/…", ".ci/…"}},
	{module + "/export/store/s3store", []string{"cmd/…", ".ci/…"}},
	{module + "/export/store/filestore", []string{"cmd/…", ".ci/…"}},
	{module + "/secrets/hashivault", []string{"cmd/…"}},
	{module + "/secrets/filevault", []string{"cmd/…"}},
	{"github.com/apache/arrow/go/v17/parquet", []string{"export/parquet"}},
	{"github.com/aws", []string{"export/store/s3store", "export/store/storetest/s3server"}},
	{"github.com/hashicorp/vault", []string{"secrets/hashivault"}},
	{"filippo.io/age", []string{"secrets/filevault"}},
	{"github.com/sony/gobreaker", []string{"odata"}},
	{"github.com/parquet-go/parquet-go", nil},
	{"github.com/goccy/go-yaml", []string{"configs"}},
	{"github.com/robfig/cron", []string{"jobs/schedule"}},
	{"modernc.org/sqlite", []string{"jobs/ledger"}},
	{"github.com/pressly/goose", []string{"jobs/ledger"}},
	{"github.com/prometheus", []string{"jobs/status"}},
	{"github.com/coreos/go-oidc", []string{"jobs/gate"}},
	{"go.opentelemetry.io/otel/sdk", []string{"jobs/tracing"}},
	{"go.opentelemetry.io/otel/exporters", []string{"jobs/tracing"}},
	{"github.com/spf13/cobra", []string{"cmd/…"}},
}

// fits says whether a package is one of a list.
func fits(pkg string, list []string) bool {
	return slices.ContainsFunc(list, func(p string) bool {
		if below, ok := strings.CutSuffix(p, "…"); ok {
			return strings.HasPrefix(pkg+"/", below)
		}
		return pkg == p
	})
}

// sources parses the module's own files that are not tests, by the directory of their package.
func sources(t *testing.T, mode parser.Mode) map[string][]*ast.File {
	t.Helper()
	root := moduleRoot(t)
	all := map[string][]*ast.File{}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && path != root {
				return fs.SkipDir // a module of its own
			}
			if name := e.Name(); name == ".git" || name == "testdata" {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, mode)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		all[filepath.ToSlash(dir)] = append(all[filepath.ToSlash(dir)], file)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// moduleRoot is the directory of go.mod.
func moduleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test")
		}
		dir = filepath.Dir(dir)
	}
}

func TestLayering(t *testing.T) {
	for pkg, files := range sources(t, parser.ImportsOnly) {
		i := slices.IndexFunc(layers, func(l struct {
			pkg   string
			mayBe []string
		}) bool {
			return fits(pkg, []string{l.pkg})
		})
		supports := fits(pkg, testSupport)
		if i < 0 && !supports {
			t.Errorf("%s is in no layer: give it one in imports_test.go", pkg)
			continue
		}
		for _, file := range files {
			for _, spec := range file.Imports {
				path, _ := strconv.Unquote(spec.Path.Value)
				ours, isOurs := strings.CutPrefix(path, module+"/")
				switch {
				case isOurs && !supports && fits(ours, testSupport):
					t.Errorf("%s imports %s, which is for tests", pkg, ours)
				case isOurs && !supports && !fits(ours, layers[i].mayBe):
					t.Errorf("%s imports %s; it may import %v", pkg, ours, layers[i].mayBe)
				}
				for _, h := range homes {
					if (path == h.dependency || strings.HasPrefix(path, h.dependency+"/")) && pkg != strings.TrimPrefix(h.dependency, module+"/") &&
						!fits(pkg, h.home) && !supports {
						t.Errorf("%s imports %s, which lives in %v", pkg, path, h.home)
					}
				}
			}
		}
	}
}

// A token's value is seen by the packages below secrets alone.
func TestOnlySecretsRevealTokens(t *testing.T) {
	seen := false
	for pkg, files := range sources(t, 0) {
		for _, file := range files {
			ast.Inspect(file, func(n ast.Node) bool {
				s, ok := n.(*ast.SelectorExpr)
				if !ok || s.Sel.Name != "Reveal" {
					return true
				}
				seen = true
				if !fits(pkg, []string{"secrets/…"}) {
					t.Errorf("%s calls Reveal", pkg)
				}
				return true
			})
		}
	}
	if !seen {
		t.Error("nobody calls secrets.Reveal: was it renamed? This test must know its name")
	}
}
