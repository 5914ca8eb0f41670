package main

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/configs"
	"github.com/tablexport/tablexport/odata/simulator"
)

//go:embed demo.yaml.tmpl
var demoConfig string

func demoCommand(g *globals) *cobra.Command {
	var dir, listen string
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show everything on a built-in simulator: no setup, no network",
		Long: `Show everything on a built-in simulator: no setup, no network, under 20 seconds.

It starts a simulated instance, makes an encrypted vault and a configuration in a directory, refreshes two tables under two
scopes, changes the source, refreshes again, shows what changed, and verifies the result. Everything stays in the directory,
so that every other command can be tried on it.`,
		Example: "  tablexport demo\n  tablexport demo --dir /tmp/demo",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return g.demo(c.Context(), dir, listen) },
	}
	c.Flags().StringVar(&dir, "dir", "tablexport-demo", "the `directory` to make; it must not be there yet")
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "loopback `address` of the simulator; port 0 = any free one")
	return c
}

// demo is a play in acts; each act runs real commands, as a person would type them.
type demo struct {
	*globals
	dir    string
	server *simulator.Server
	shops  string // filter text of the scopes, for the oracle
	web    string
}

func (g *globals) demo(ctx context.Context, dir, listen string) error {
	if entries, err := os.ReadDir(dir); len(entries) > 0 || (err != nil && !errors.Is(err, fs.ErrNotExist)) {
		return usagef("the directory %s is there already; remove it or name another one with --dir", dir)
	}
	server, err := simulator.New(simulator.Options{Seed: 1, Behavior: simulator.Behavior{Count: simulator.PathCount}, Logger: g.logger()})
	if err != nil {
		return err
	}
	address, stop, err := server.Start(listen)
	if err != nil {
		return usagef("%w", err)
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		_ = stop(clean) // the demo is over; nothing of it depends on how its server ends
	}()
	d := &demo{globals: g, dir: dir, server: server}
	for _, act := range []func(context.Context) error{
		func(ctx context.Context) error { return d.setUp(ctx, address) },
		d.firstRefresh, d.change, d.compare,
	} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return d.epilogue(strings.TrimPrefix(address, "http://"))
}

func (d *demo) title(text string) { d.printf("\n── %s\n", text) }

// command runs a command of this program, and shows it as a person would have typed it.
func (d *demo) command(ctx context.Context, in io.Reader, args ...string) error {
	d.printf("\n$ tablexport %s\n", strings.Join(args, " "))
	full := append([]string{"-c", filepath.Join(d.dir, "tablexport.yaml")}, args...)
	for flag, set := range map[string]bool{"--json": d.json, "--verbose": d.verbose, "--quiet": d.quiet} {
		if set {
			full = append(full, flag)
		}
	}
	inner := &globals{stdio: stdio{in: in, out: d.out, err: d.err}}
	root := newRoot(inner)
	root.SetArgs(full)
	return root.ExecuteContext(ctx)
}

func (d *demo) setUp(ctx context.Context, address string) error {
	d.title("A simulated ERP instance is running. A configuration and an encrypted vault for it:")
	if err := os.MkdirAll(d.dir, 0o750); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	shops, err := d.busiestStores(3)
	if err != nil {
		return err
	}
	d.shops = "Line_Store_Id in (" + shops[0] + "," + shops[1] + ")"
	d.web = "Store_Id eq " + shops[2]
	t := template.Must(template.New("demo.yaml").Parse(demoConfig))
	var text bytes.Buffer
	if err := t.Execute(&text, map[string]string{"URL": address, "Listen": strings.TrimPrefix(address, "http://"), "Shops": shops[0] + ", " + shops[1], "Web": shops[2]}); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	err = errors.Join(os.WriteFile(filepath.Join(d.dir, "tablexport.yaml"), text.Bytes(), 0o640),
		os.WriteFile(filepath.Join(d.dir, "tablexport.schema.json"), configs.Schema(), 0o640))
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	if err := d.command(ctx, strings.NewReader(simulator.DemoToken+"\n"), "tokens", "stage", "demo/reader", "--activate"); err != nil {
		return err
	}
	return d.command(ctx, nil, "check", "--online")
}

// busiestStores finds the stores with the most order headers and lines, so that every scope has something to see.
func (d *demo) busiestStores(n int) ([]string, error) {
	rows, err := d.server.Oracle().Rows("Crm_Sales_Orders", "", []string{"Store_Id"})
	if err != nil {
		return nil, err
	}
	found := map[string]int{}
	for row := range rows {
		if row[0] != simulator.Null {
			found[row[0]]++
		}
	}
	stores := make([]string, 0, len(found))
	for id := range found {
		stores = append(stores, id)
	}
	slices.SortFunc(stores, func(a, b string) int { return cmp.Or(found[b]-found[a], strings.Compare(a, b)) })
	if len(stores) < n {
		return nil, fmt.Errorf("demo: the simulator has orders of %d stores, %d are needed", len(stores), n)
	}
	return stores[:n], nil
}

func (d *demo) firstRefresh(ctx context.Context) error {
	d.title("What would be asked, of whom, under which scope:")
	if err := d.command(ctx, nil, "plan", "order-lines"); err != nil {
		return err
	}
	d.title("Two tables, two scopes. Every row is checked against its scope, and a refresh is published whole or not at all:")
	return d.command(ctx, nil, "run", "order-lines", "orders")
}

func (d *demo) change(ctx context.Context) error {
	inserted, err1 := d.server.Insert("Crm_Sales_Order_Lines", 400)
	updated, err2 := d.server.Update("Crm_Sales_Order_Lines", 900)
	deleted, err3 := d.server.Delete("Crm_Sales_Order_Lines", 150)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	d.title(fmt.Sprintf("The source changes: %d lines are inserted, %d updated, %d deleted. Refreshing again:", inserted, updated, deleted))
	return d.command(ctx, nil, "run", "order-lines")
}

func (d *demo) compare(ctx context.Context) error {
	d.title("What was published, version by version:")
	if err := d.command(ctx, nil, "datasets", "show", "order-lines"); err != nil {
		return err
	}
	if err := d.command(ctx, nil, "datasets", "diff", "order-lines"); err != nil {
		return err
	}
	if err := d.oracle(ctx); err != nil {
		return err
	}
	d.title("Every file is read again and held against the log; and who read what is on record:")
	for _, args := range [][]string{{"datasets", "verify"}, {"audit", "tail", "-n", "6"}, {"audit", "verify"}} {
		if err := d.command(ctx, nil, args...); err != nil {
			return err
		}
	}
	return nil
}

// oracle holds the published row counts against what the simulator knows that a correct copy has.
func (d *demo) oracle(ctx context.Context) error {
	inner := &globals{stdio: d.stdio, config: filepath.Join(d.dir, "tablexport.yaml")}
	a, err := inner.open()
	if err != nil {
		return err
	}
	defer a.close()
	d.printf("\n")
	const released = " and Sales_Order_Reference/Document_Reference/Void eq false and Sales_Order_Reference/Document_Reference/State ge 30"
	for _, part := range [][2]string{{"order-lines", d.shops + released}, {"orders", d.web}} {
		job, where := part[0], part[1]
		want, err := d.server.Oracle().Count(a.cfg.Jobs[job].Table, where)
		if err != nil {
			return err
		}
		dataset, err := a.dataset(ctx, job)
		if err != nil {
			return err
		}
		report, err := dataset.Verify(ctx)
		if err != nil {
			return err
		}
		if report.Rows != want {
			return fmt.Errorf("demo: %s has %d rows, the simulator says that a correct copy has %d", job, report.Rows, want)
		}
		if err := d.emit(map[string]any{"job": job, "rows": report.Rows, "expected": want}, func() {
			d.printf("%s: %s rows, and the simulator says that a correct copy has %s\n", job, count(report.Rows), count(want))
		}); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) epilogue(listen string) error {
	d.title("Open the result")
	lake, err := filepath.Abs(filepath.Join(d.dir, "lake", "sales", "order_lines")) // as `datasets sql` prints it
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	d.printf(`
DuckDB   SELECT count(*), sum(Line_Amount) FROM delta_scan('%[1]s');
pandas   deltalake.DeltaTable(%[5]q).to_pandas()
more     tablexport -c %[2]s datasets sql order-lines      # Power BI and Spark too

Try the other commands on it: with "-c %[2]s", or after "cd %[3]s".
For those that ask the instance, start it again in another terminal first:
  tablexport simulate --listen %[4]s
`, strings.ReplaceAll(lake, "'", "''"), filepath.Join(d.dir, "tablexport.yaml"), d.dir, listen, lake)
	return nil
}
