package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/configs"
)

func initCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "init [DIRECTORY]",
		Short: "Write an example tablexport.yaml, with its JSON Schema for editors",
		Long: `Write an example tablexport.yaml and tablexport.schema.json into a directory (default: this one).
Nothing is overwritten. Edit the file, then: tablexport check`,
		Example: "  tablexport init\n  tablexport init /etc/tablexport",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			return g.init(dir)
		},
	}
}

func (g *globals) init(dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	files := []struct {
		name string
		data []byte
	}{{"tablexport.yaml", configs.Example}, {"tablexport.schema.json", configs.Schema()}}
	for _, f := range files {
		path := filepath.Join(dir, f.name)
		if _, err := os.Lstat(path); err == nil {
			return usagef("init: %s is there already, and nothing is overwritten; move it away or name another directory", path)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("init: %w", err)
		}
	}
	for _, f := range files {
		path := filepath.Join(dir, f.name)
		out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
		if err != nil {
			return fmt.Errorf("init: %w", err)
		}
		_, err = out.Write(f.data)
		if err = errors.Join(err, out.Close()); err != nil {
			return fmt.Errorf("init: %w", err)
		}
		if err := g.emit(map[string]string{"wrote": path}, func() { g.printf("wrote %s\n", path) }); err != nil {
			return err
		}
	}
	g.printf("\nNext:\n  1. edit %s: the instance's address, the store, the scopes and the jobs\n"+
		"  2. tablexport check\n  3. tablexport tokens stage bi/acme-reader --activate   (reads the token from the terminal)\n"+
		"  4. tablexport check --online\n  5. tablexport run --all\n", filepath.Join(dir, "tablexport.yaml"))
	return nil
}
