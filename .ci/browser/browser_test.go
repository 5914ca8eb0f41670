package browser

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

var (
	program     = flag.String("program", "", "tablexport")
	axeFile     = flag.String("axe", "", "axe.min.js; without it accessibility rules are not applied")
	screenshots = flag.String("screenshots", "", "keep pictures of the pages in this directory")
)

// simulatorToken is the simulator's: it opens nothing else.
const simulatorToken = "enrt_simulator-demo-token"

const config = `environment: sandbox
secrets: {file: {path: ./secrets.age}}
instances: {acme: {url: %q, token: bi/reader, requests_per_minute: 60000}}
stores: {lake: {file: {path: ./lake}}}
scopes: {all: {unrestricted: true}}
serve: {listen: "127.0.0.1:0"}
jobs:
  orders:
    description: Sales orders, by the month of their document
    instance: acme
    table: Crm_Sales_Orders
    scope: all
    store: lake
    path: sales/orders
    refresh: {by: Document_Reference/Document_Date, every: month, keep: 30, reload: 2}
    schedule: {cron: "15 5 * * 1-5", zone: Europe/Sofia}
    fresh_within: 26h
    owner: bi@acme.example
  products: {instance: acme, table: Gen_Products, scope: all, store: lake, path: master/products, after: [orders]}
  missing: {instance: acme, table: Gen_Nothing_Of_The_Kind, scope: all, store: lake, path: master/missing, schedule: {cron: "0 6 * * *", zone: UTC}, fresh_within: 25h}
`

// world is the program with something on every page.
type world struct {
	t   *testing.T
	dir string
}

func (w *world) command(args ...string) *exec.Cmd {
	c := exec.CommandContext(w.t.Context(), *program, append([]string{"-c", filepath.Join(w.dir, "tablexport.yaml")}, args...)...)
	c.Dir = w.dir
	return c
}

// start runs a command that goes on, and returns what follows want in a line of its output.
func (w *world) start(want string, args ...string) string {
	w.t.Helper()
	c := w.command(args...)
	out, err := c.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	c.Stderr = c.Stdout
	if err := c.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	found := make(chan string, 1)
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			if _, rest, ok := strings.Cut(s.Text(), want); ok {
				select {
				case found <- rest:
				default:
				}
			}
		}
	}()
	select {
	case rest := <-found:
		return rest
	case <-time.After(time.Minute):
		w.t.Fatalf("%v never said %q", args, want)
		return ""
	}
}

func newWorld(t *testing.T) (w *world, address string) {
	t.Helper()
	w = &world{t, t.TempDir()}
	write := func(url string) {
		if err := os.WriteFile(filepath.Join(w.dir, "tablexport.yaml"), fmt.Appendf(nil, config, url), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("http://127.0.0.1:1")
	url, _, _ := strings.Cut(w.start("answers at ", "simulate", "--listen", "127.0.0.1:0", "--days", "3"), " ")
	write(url)
	stage := w.command("tokens", "stage", "bi/reader", "--activate", "-q")
	stage.Stdin = strings.NewReader(simulatorToken + "\n")
	if out, err := stage.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for range 3 {
		if out, err := w.command("run", "orders", "products", "-q").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	_ = w.command("run", "missing", "-q").Run() // it fails, which a page shows
	if out, err := w.command("tokens", "report", "-q").CombinedOutput(); err != nil && len(out) == 0 {
		t.Fatal(err)
	}
	line := w.start(`"msg":"serving"`, "serve")
	_, rest, _ := strings.Cut(line, `"address":"`)
	address, _, _ = strings.Cut(rest, `"`)
	return w, address
}

// firstRun is the address of a run's page.
func firstRun(t *testing.T, address, state string) string {
	t.Helper()
	resp, err := http.Get(address + "/api/v1/runs?limit=50&state=" + state)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Runs []struct {
			ID string `json:"run"`
		} `json:"runs"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || len(answer.Runs) == 0 || answer.Runs[0].ID == "" {
		t.Fatal(err, "no run that "+state)
	}
	return "/runs/" + answer.Runs[0].ID
}

// chromium starts the browser; it is tried again, because a busy machine may take it too long.
func chromium(t *testing.T) context.Context {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.DisableGPU, chromedp.Flag("disable-dev-shm-usage", true), chromedp.WSURLReadTimeout(time.Minute))
	for try := 1; ; try++ {
		allocator, cancel := chromedp.NewExecAllocator(context.Background(), options...)
		ctx, end := chromedp.NewContext(allocator)
		err := chromedp.Run(ctx)
		if err == nil {
			t.Cleanup(func() { end(); cancel() })
			return ctx
		}
		end()
		cancel()
		if try == 3 {
			t.Fatalf("Chromium does not start: %v", err)
		}
	}
}

// What a person must be able to rely on, asked of the page itself.
const layout = `(() => {
	const wide = [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll') && !e.closest('pre') && !e.classList.contains('skip'));
	const small = innerWidth > 500 ? [] : [...document.querySelectorAll('nav a, summary')].filter(e => e.getBoundingClientRect().height < 24);
	return {scroll: document.documentElement.scrollWidth, width: innerWidth, wide: wide.slice(0, 3).map(e => e.outerHTML.slice(0, 120)), small: small.length,
		style: getComputedStyle(document.body).fontFamily.includes('system-ui'), heading: document.querySelectorAll('h1').length, main: document.querySelectorAll('main').length};
})()`

// What is focused when Tab is pressed for the first time: the link past the navigation, and it can be seen.
const skip = `(() => { const e = document.activeElement; const r = e.getBoundingClientRect(); return e.className + ' ' + (r.left >= 0 && r.top >= 0 && r.width > 0 && getComputedStyle(e).outlineStyle != 'none'); })()`

func TestPages(t *testing.T) {
	if *program == "" {
		t.Skip("no -program")
	}
	_, address := newWorld(t)
	browser := chromium(t)
	var axe string
	if *axeFile != "" {
		text, err := os.ReadFile(*axeFile)
		if err != nil {
			t.Fatal(err)
		}
		axe = string(text)
	}
	pages := map[string]string{"overview": "/", "job": "/jobs/orders", "job-failing": "/jobs/missing", "dataset": "/jobs/orders/dataset", "runs": "/runs", "run": firstRun(t, address, "succeeded"),
		"run-failed": firstRun(t, address, "failed"), "instances": "/instances", "tokens": "/tokens", "not-found": "/nothing"}
	for _, size := range []struct{ width, height int64 }{{390, 844}, {1280, 900}} {
		for _, scheme := range []string{"light", "dark"} {
			for name, path := range pages {
				t.Run(fmt.Sprintf("%s-%d-%s", name, size.width, scheme), func(t *testing.T) {
					look(t, browser, axe, address+path, name, scheme, size.width, size.height)
				})
			}
		}
	}
}

func look(t *testing.T, browser context.Context, axe, url, name, scheme string, width, height int64) {
	t.Helper()
	tab, cancel := chromedp.NewContext(browser)
	defer cancel()
	tab, late := context.WithTimeout(tab, 2*time.Minute)
	defer late()
	var said []string
	chromedp.ListenTarget(tab, func(event any) {
		switch e := event.(type) {
		case *log.EventEntryAdded: // violations of the CSP, resources that are not there
			if !(strings.HasSuffix(url, "/nothing") && strings.Contains(e.Entry.Text, "404")) {
				said = append(said, e.Entry.Text)
			}
		case *runtime.EventExceptionThrown:
			said = append(said, e.ExceptionDetails.Error())
		}
	})
	var page struct {
		Scroll, Width        float64
		Wide                 []string
		Small, Heading, Main int
		Style                bool
	}
	var focused string
	var picture []byte
	err := chromedp.Run(tab, log.Enable(), emulation.SetScriptExecutionDisabled(true),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}),
		chromedp.EmulateViewport(width, height), chromedp.Navigate(url), chromedp.Evaluate(layout, &page),
		chromedp.FullScreenshot(&picture, 100),
		chromedp.KeyEvent("\t"), chromedp.Evaluate(skip, &focused))
	if err != nil {
		t.Fatal(err)
	}
	if *screenshots != "" {
		if err := os.MkdirAll(*screenshots, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(*screenshots, fmt.Sprintf("%s-%d-%s.png", name, width, scheme)), picture, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if len(picture) < 5000 || !page.Style || page.Heading != 1 || page.Main != 1 {
		t.Errorf("the page is not what it is to be: %d bytes of picture, %+v", len(picture), page)
	}
	if page.Scroll > page.Width || len(page.Wide) > 0 {
		t.Errorf("it is %v wide on a screen of %v: %q", page.Scroll, page.Width, page.Wide)
	}
	if page.Small > 0 {
		t.Errorf("%d links of the navigation are too small for a finger", page.Small)
	}
	if focused != "skip true" {
		t.Errorf("the first Tab leads to %q", focused)
	}
	if len(said) > 0 {
		t.Errorf("the browser complains: %q", said)
	}
	if axe == "" {
		return
	}
	var found []struct {
		ID, Help string
		Nodes    []struct{ HTML string }
	}
	err = chromedp.Run(tab, emulation.SetScriptExecutionDisabled(false), chromedp.Reload(), chromedp.Evaluate(axe+"; undefined", nil),
		chromedp.Evaluate(`axe.run(document, {resultTypes: ['violations']}).then(r => r.violations.map(v => ({id: v.id, help: v.help, nodes: v.nodes.map(n => ({html: n.html}))})))`, &found,
			func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range found {
		t.Errorf("%s: %s: %.300s", v.ID, v.Help, fmt.Sprint(v.Nodes))
	}
}
