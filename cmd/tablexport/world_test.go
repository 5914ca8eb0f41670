package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tablexport/tablexport/odata/simulator"
)

// TestMain lets this test binary stand in for the program, where the process around it matters.
func TestMain(m *testing.M) {
	if os.Getenv("TABLEXPORT_TEST_AS_PROGRAM") == "1" {
		main()
		return
	}
	os.Exit(m.Run())
}

// invocation is what a command did.
type invocation struct {
	code     int
	out, err string
}

func (i invocation) String() string {
	return fmt.Sprintf("exit %d\n--- stdout\n%s--- stderr\n%s", i.code, i.out, i.err)
}

// buffer is a bytes.Buffer that several goroutines may use.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// invoke runs the program in this process.
func invoke(ctx context.Context, in string, args ...string) invocation {
	var out, err buffer
	code := run(ctx, args, stdio{strings.NewReader(in), &out, &err})
	return invocation{code, out.String(), err.String()}
}

// world is a directory with a configuration, and the simulator that it names.
type world struct {
	t       *testing.T
	dir     string
	config  string
	server  *simulator.Server
	address string
	stop    func()
	mu      sync.Mutex
	said    strings.Builder // everything that any command printed
}

const testToken = simulator.DemoToken

// someRows keeps tests quick.
var someRows = map[string]int64{"Crm_Sales_Orders": 400, "Crm_Sales_Order_Lines": 2000, "Gen_Products": 100, "Inv_Stores": 4, "Inv_Current_Balances": 200}

// newWorld starts a simulator and writes a configuration with a file vault, a file store and four jobs. extra is added to the jobs.
func newWorld(t *testing.T, options simulator.Options, extra ...string) *world {
	t.Helper()
	if options.Rows == nil {
		options.Rows = someRows
	}
	server, err := simulator.New(options)
	if err != nil {
		t.Fatal(err)
	}
	address, stop, err := server.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: t.TempDir(), server: server, address: address}
	w.stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = stop(ctx)
	})
	t.Cleanup(w.stop)
	w.config = filepath.Join(w.dir, "tablexport.yaml")
	w.write("tablexport.yaml", fmt.Sprintf(`environment: sandbox
secrets: {file: {path: ./secrets.age}}
instances: {sim: {url: %q, token: bi/reader, requests_per_minute: 60000, timeouts: {idle: 2s}}}
stores: {lake: {file: {path: ./lake}}}
scopes:
  all: {unrestricted: true}
  one: {where: "Store_Id eq %s"}
  owner: {where: "Sales_Order_Reference/Document_Reference/Void eq false"}
jobs:
  orders: {instance: sim, table: Crm_Sales_Orders, scope: all, store: lake, path: orders, paging: {page_size: 100}}
  shop: {instance: sim, table: Crm_Sales_Orders, scope: one, store: lake, path: shop, paging: {page_size: 50}, description: Orders of one shop}
  lines:
    instance: sim
    table: Crm_Sales_Order_Lines
    select: [Sales_Order_Line_Id, Line_No, Quantity, Line_Amount]
    scope: owner
    delegated: true
    store: lake
    path: lines
    schedule: {cron: "15 5 * * *", zone: UTC}
  balances: {instance: sim, table: Inv_Current_Balances, scope: all, store: lake, path: balances}
%s`, address, w.aStore(), strings.Join(extra, "\n")))
	return w
}

// aStore is a store that has orders.
func (w *world) aStore() string {
	w.t.Helper()
	rows, err := w.server.Oracle().Rows("Crm_Sales_Orders", "", []string{"Store_Id"})
	if err != nil {
		w.t.Fatal(err)
	}
	found := map[string]int{}
	best := ""
	for row := range rows {
		if row[0] == simulator.Null {
			continue
		}
		found[row[0]]++
		if found[row[0]] > found[best] {
			best = row[0]
		}
	}
	return best
}

func (w *world) write(name, text string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// edit replaces text in the configuration.
func (w *world) edit(old, new string) {
	w.t.Helper()
	text, err := os.ReadFile(w.config)
	if err != nil || !strings.Contains(string(text), old) {
		w.t.Fatalf("the configuration has no %q (%v)", old, err)
	}
	w.write("tablexport.yaml", strings.ReplaceAll(string(text), old, new))
}

// do runs a command on the world's configuration.
func (w *world) do(args ...string) invocation { return w.doWith(context.Background(), "", args...) }

func (w *world) doWith(ctx context.Context, in string, args ...string) invocation {
	i := invoke(ctx, in, append([]string{"-c", w.config}, args...)...)
	w.mu.Lock()
	defer w.mu.Unlock()
	fmt.Fprintf(&w.said, "$ %s\n%s\n", satText.ReplaceAllString(strings.Join(args, " "), "…"), i) // what a test has typed is not what the program says
	return i
}

// must runs a command that has to end with a code, and returns what it printed.
func (w *world) must(code int, args ...string) invocation {
	w.t.Helper()
	return w.mustWith(code, "", args...)
}

func (w *world) mustWith(code int, in string, args ...string) invocation {
	w.t.Helper()
	i := w.doWith(context.Background(), in, args...)
	if i.code != code {
		w.t.Fatalf("%v: want exit %d, got %s", args, code, i)
	}
	return i
}

// stage puts the simulator's token into the vault.
func (w *world) stage() *world {
	w.t.Helper()
	w.mustWith(exitOK, testToken+"\n", "tokens", "stage", "bi/reader", "--activate")
	return w
}

// version is the published version of a job's dataset, -1 if none.
func (w *world) version(job string) int64 {
	w.t.Helper()
	for _, line := range objects(w.t, w.must(exitOK, "datasets", "list", "--json").out) {
		if line["job"] == job {
			return int64(line["version"].(float64))
		}
	}
	w.t.Fatalf("no dataset of %s", job)
	return 0
}

// objects reads output that must be one JSON object per line, and nothing else.
func objects(t testing.TB, text string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(text) {
		var one map[string]any
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatalf("not a JSON object on a line: %q in\n%s", line, text)
		}
		all = append(all, one)
	}
	return all
}

// filesWith lists the files below dir that hold any of the texts, as bytes.
func filesWith(t testing.TB, dir string, texts ...string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, text := range texts {
			if bytes.Contains(data, []byte(text)) {
				found = append(found, path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
