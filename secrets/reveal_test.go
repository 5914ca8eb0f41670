package secrets_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Only the packages below secrets use Reveal: everything else has tokens as what it can neither read nor print.
func TestRevealStaysInside(t *testing.T) {
	const path = "github.com/tablexport/tablexport/secrets"
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Fatal(err)
	}
	files, inside := 0, 0
	err = filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, file)
		if d.IsDir() {
			if name := d.Name(); rel != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(file, ".go") {
			return nil
		}
		parsed, _ := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if parsed == nil {
			t.Errorf("%s cannot be read", rel)
			return nil
		}
		files++
		uses := usesReveal(parsed, path)
		switch below := strings.HasPrefix(filepath.ToSlash(rel), "secrets/"); {
		case uses && below:
			inside++
		case uses:
			t.Errorf("%s uses secrets.Reveal; only drivers of vaults may", rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 20 || inside < 3 {
		t.Errorf("looked at %d files and found %d uses inside: the test looks in the wrong place", files, inside)
	}
}

func usesReveal(file *ast.File, path string) bool {
	name := ""
	for _, imported := range file.Imports {
		if p, _ := strconv.Unquote(imported.Path.Value); p == path {
			name = "secrets"
			if imported.Name != nil {
				name = imported.Name.Name
			}
		}
	}
	if name == "." {
		return true // would hide it
	}
	found := false
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok && name != "" && s.Sel.Name == "Reveal" {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == name {
				found = true
			}
		}
		return true
	})
	return found
}
