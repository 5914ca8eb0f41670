package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tablexport/tablexport/odata/simulator"
)

// contains checks that a text has all of the parts.
func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is missing in:\n%s", part, text)
		}
	}
}

// Every command, one after the other, as a person and as a machine.
func TestEveryCommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{Behavior: simulator.Behavior{Count: simulator.PathCount}})
	staged := w.mustWith(exitOK, testToken+"\r\n", "tokens", "stage", "bi/reader")
	contains(t, staged.out, "bi/reader version 1 is staged: fp:", "tablexport tokens verify bi/reader 1")
	contains(t, w.must(exitOK, "tokens", "verify", "bi/reader").out, "version 1 is verified", "nothing to compare with")
	contains(t, w.must(exitOK, "tokens", "activate", "bi/reader", "1").out, "version 1 is active")
	contains(t, w.must(exitOK, "tokens", "list").out, "NAME", "bi/reader", "active", "sandbox")

	contains(t, w.must(exitOK, "check").out, "ok      job orders", "ok      job lines")
	contains(t, w.must(exitOK, "check", "--online").out, "token accepted", "ok      store lake", "ok      audit log", "owner (delegated)")
	contains(t, w.must(exitOK, "tables", "Sales_Order").out, "Crm_Sales_Orders", "Crm_Sales_Order_Lines")
	contains(t, w.must(exitOK, "tables", "Crm_Sales_Order_Lines").out, "COLUMN", "Owner paths that a filter can follow", "Sales_Order_Reference/")
	contains(t, w.must(exitOK, "tables", "crm_sales_order_lines").out, "Crm_Sales_Order_Lines (", "COLUMN")
	contains(t, w.must(exitOK, "tables", "--online").out, "Inv_Stores")
	contains(t, w.must(exitOK, "plan", "lines").out, "note      the scope is enforced by the server alone for:", "next      ", "into      ")
	contains(t, w.must(exitOK, "plan", "orders", "--online").out, "rows      400 now")
	contains(t, w.must(exitOK, "plan", "balances").out, "a view without a key: it is read twice", "all rows in one answer", "first     /tableapi/odata/Inv_Current_Balances?$select=…&$top=")
	contains(t, w.must(exitOK, "plan", "shop").out, "first     /tableapi/odata/Crm_Sales_Orders?$select=…&$filter=…&$orderby=Sales_Order_Id&$top=50\n",
		"then      /tableapi/odata/Crm_Sales_Orders?$select=…&$filter=… and Sales_Order_Id ge <the last key>&")

	contains(t, w.must(exitOK, "runs").out, "no runs yet")
	contains(t, w.must(exitOK, "datasets", "list").out, "never")
	contains(t, w.must(exitOK, "datasets", "verify").out, "orders: nothing was published yet")
	contains(t, w.must(exitOK, "run", "orders").out, "orders: version 0, 400 rows", "count 400 before and 400 after")
	if got := w.must(exitOK, "run", "--all", "--parallel", "2", "-q"); got.err != "" || strings.Count(got.out, "complete ") != 4 {
		t.Errorf("run --all: %s", got)
	}
	contains(t, w.must(exitOK, "runs", "orders", "-n", "1").out, "succeeded", "orders")
	if got := w.must(exitOK, "run", "shop", "balances", "shop"); strings.Count(got.out, "shop: version ") != 1 || strings.Index(got.out, "shop: ") > strings.Index(got.out, "balances: ") {
		t.Errorf("a job named twice: %s", got)
	}
	contains(t, w.must(exitOK, "datasets", "list").out, "orders", "all (unrestricted)", "one (verified)", "owner (delegated)")
	contains(t, w.must(exitOK, "datasets", "show", "orders").out, "Sales_Order_Id", "key, order requested", "EVIDENCE", ".parquet", " string ", " date ", " timestamp ", " boolean ", " binary ")
	contains(t, w.must(exitOK, "datasets", "show", "lines").out, " integer ", " decimal(")
	contains(t, w.must(exitOK, "datasets", "sql", "orders").out, "DuckDB", "Spark", "Power BI", "pandas", filepath.Join(w.dir, "lake", "orders"))
	contains(t, w.must(exitOK, "datasets", "verify", "orders", "shop").out, "as the log says")
	contains(t, w.must(exitOK, "audit", "tail", "-n", "100").out, "stage", "lease", "publish", "release")
	contains(t, w.must(exitOK, "audit", "verify").out, "the chain is sound")
	contains(t, w.must(exitOK, "version").out, "tablexport ")
	contains(t, w.must(exitOK, "config", "schema").out, `"$schema"`)
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		contains(t, w.must(exitOK, "completion", shell).out, "tablexport")
	}
	contains(t, w.must(exitOK, "__complete", "run", "").out, "orders\n", "balances\n")
	if got := w.must(exitOK, "__complete", "plan", "o").out; strings.Contains(got, "shop\nshop") {
		t.Errorf("completion: %s", got)
	}
}

// With --json every result is one JSON object per line, with nothing else around it, and every error is one on stderr.
func TestJSON(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}).stage()
	for _, args := range [][]string{
		{"check"}, {"check", "--online"}, {"tables", "Sales"}, {"tables", "Crm_Sales_Orders"}, {"tables", "--online"}, {"plan", "lines"}, {"plan", "orders", "--online"},
		{"run", "orders"}, {"run", "--all"}, {"runs"}, {"datasets", "list"}, {"datasets", "show", "orders"}, {"datasets", "sql", "orders"},
		{"datasets", "verify"}, {"tokens", "list"}, {"audit", "tail"}, {"audit", "verify"}, {"version"}, {"config", "schema"},
		{"init", filepath.Join(w.dir, "new")},
	} {
		got := w.must(exitOK, append(args, "--json")...)
		if len(objects(t, got.out)) == 0 || got.err != "" {
			t.Errorf("%v: %s", args, got)
		}
	}
	staged := w.mustWith(exitOK, testToken, "tokens", "stage", "bi/reader", "--json")
	objects(t, staged.out)
	objects(t, w.must(exitOK, "tokens", "activate", "bi/reader", "1", "--json").out)
	run := objects(t, w.must(exitOK, "runs", "--json", "-n", "1").out)[0]
	if ev, ok := run["evidence"].(map[string]any); !ok || ev["rows"] == nil {
		t.Errorf("a run's evidence is not an object: %v", run["evidence"])
	}
	for code, args := range map[int][]string{exitUsage: {"run", "nope"}, exitCredential: {"tokens", "activate", "bi/reader", "9"}} {
		got := w.must(code, append(args, "--json")...)
		if e := objects(t, got.err); got.out != "" || len(e) != 1 || e[0]["exit"] != float64(code) || e[0]["error"] == "" {
			t.Errorf("%v: %s", args, got)
		}
	}
	for _, args := range [][]string{{"--json"}, {"datasets", "--json"}, {"run", "--nope", "--json"}, {"nope", "--json"}, {"plan", "--json"}} {
		got := w.must(exitUsage, args...)
		if e := objects(t, got.err); got.out != "" || len(e) != 1 || e[0]["class"] != "usage" {
			t.Errorf("%v: %s", args, got)
		}
	}
	w.edit("scope: all", "scope: al")
	got := w.must(exitConfig, "check", "--json")
	if e := objects(t, got.err); got.out != "" || len(e) != 1 || e[0]["class"] != "config" {
		t.Errorf("check: %s", got)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{})
	for _, c := range []struct{ args, want string }{
		{"run", "name at least one job, or write --all; the jobs are: balances, lines, orders, shop"},
		{"run orders --all", "name jobs or write --all, not both"},
		{"run oders", `did you mean "orders"?`},
		{"run orders --parallel 0", "--parallel takes a whole number from 1 to 64"},
		{"runn", "did you mean run or runs?"},
		{"datasets shw orders", "did you mean show"},
		{"plan", "no argument is given; write: tablexport plan JOB"},
		{"check now", "1 argument(s) are given; write: tablexport check"},
		{"run --alll", "unknown flag: --alll; see: tablexport run --help"},
		{"runs nope", "there is no job \"nope\""},
		{"datasets show nope", "there is no job \"nope\""},
		{"tables qqqq", "tablexport tables lists them all"},
		{"tables Crm_Sales_Ordrs", "did you mean Crm_Sales_Orders"},
		{"tokens stage bi/readr", "the names are: bi/reader"},
		{"tokens stage bi/reader --instance x", "instance x does not use a token named bi/reader"},
		{"tokens activate bi/reader one", "the version is a whole number"},
		{"audit tail -n -1", "-n (--lines) takes a whole number from 0 on; got -1"},
		{"runs -n -1", "-n (--lines) takes a whole number from 0 on"},
		{"datasets show orders -n -3", "-n (--versions) takes a whole number from 0 on"},
		{"simulate --listen 0.0.0.0:0", "not a loopback address"},
		{"simulate --rows X", "--rows takes TABLE=N"},
		{"simulate --rows Nope=1", "Nope"},
		{"simulate --today tomorrow", "--today takes a day"},
		{"simulate --days -1", "--days takes 0 to 3660"},
		{"simulate --behavior x", "is not known"},
		{"simulate --fault 500", "--fault takes KIND@N"},
		{"demo --dir .", "is there already"},
		{"init " + w.dir, "nothing is overwritten"},
	} {
		got := w.must(exitUsage, strings.Fields(c.args)...)
		contains(t, got.err, "tablexport: ", c.want)
		if got.out != "" {
			t.Errorf("%s: stdout holds %q", c.args, got.out)
		}
	}
}

// What init writes is accepted by check, and nothing is overwritten.
func TestInit(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new")
	got := invoke(t.Context(), "", "init", dir)
	contains(t, got.out, "wrote "+filepath.Join(dir, "tablexport.yaml"), "Next:", "tablexport check --online")
	got = invoke(t.Context(), "", "-c", filepath.Join(dir, "tablexport.yaml"), "check")
	if got.code != exitOK || strings.Contains(got.out, "FAILED") {
		t.Errorf("check: %s", got)
	}
	if got := invoke(t.Context(), "", "init", dir); got.code != exitUsage {
		t.Errorf("init twice: %s", got)
	}
}

// check reports everything that is wrong, in the file and in the jobs, each once and at its place.
func TestCheckReportsEverything(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{})
	bad := w.write("bad.yaml", `environment: sandbox
secrets: {file: {path: ./s.age}}
instances: {sim: {url: "http://127.0.0.1:1", token: bi/reader, retries: 3}}
stores: {lake: {file: {path: ./l}}}
scopes:
  all: {unrestricted: true}
  x: {where: "Store_Idd eq 1"}
jobs:
  a: {instance: sm, table: Crm_Sales_Order, scope: all, store: lake, path: a}
  b: {instance: sim, table: Crm_Sales_Orders, scope: x, store: lake, path: b, filter: "Notes ne 'x' and Nope eq 1"}
  c: {instance: sim, table: Crm_Sales_Orders, scope: none, store: lake, path: c, select: [Sales_Order_Id, Sales_Ordr_Id]}
  d: {instance: sim, table: Crm_Sales_Orders, scope: all, store: lake, path: d, schedule: {cron: "15 5 * *", zone: UTC}}
`)
	got := invoke(t.Context(), "", "-c", bad, "check")
	if got.code != exitConfig || got.out != "" {
		t.Errorf("check: %s", got)
	}
	contains(t, got.err,
		bad+":3:", "retries: unknown key",
		bad+":7:", "Store_Idd",
		bad+":9:", `did you mean "sim"?`, "did you mean Crm_Sales_Orders",
		bad+":10:", "no `ne`",
		bad+":11:", "there is no scope of this name",
		bad+":12:", "jobs.d.schedule.cron")
	places := map[string]bool{}
	for line := range strings.Lines(got.err) {
		place, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "tablexport: "), ": ")
		if places[place] {
			t.Errorf("two problems at %s:\n%s", place, got.err)
		}
		places[place] = true
	}

	// Where the file as such is in order, every job is judged.
	w.edit("table: Inv_Current_Balances", "table: Inv_Current_Balance")
	w.edit("Line_Amount]", "Line_Amont]")
	got = w.must(exitConfig, "check")
	contains(t, got.out, "FAILED  job balances", "FAILED  job lines", "ok      job orders", "Line_Amont")
	contains(t, got.err, "2 of 5 checks failed: job balances, job lines")
	if strings.Contains(got.err, "Line_Amont") {
		t.Errorf("what was said is said again:\n%s", got.err)
	}
	contains(t, w.must(exitConfig, "plan", "lines").err, w.config+":", "Line_Amont")
	contains(t, w.must(exitConfig, "plan", "-c", filepath.Join(w.dir, "none.yaml"), "lines").err, "there is no such file; write one with: tablexport init")
}

// Every exit code is reached by something that happens.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	faulty := func(t *testing.T, faults ...simulator.Fault) *world {
		w := newWorld(t, simulator.Options{}).stage()
		w.must(exitOK, "run", "shop")
		for _, f := range faults {
			w.server.Inject(f)
		}
		return w
	}
	stands := func(t *testing.T, w *world, version int64) {
		t.Helper()
		w.server.ClearFaults()
		if got := w.version("shop"); got != version {
			t.Errorf("version %d stands, not %d", got, version)
		}
		contains(t, w.must(exitOK, "datasets", "verify", "shop").out, "as the log says")
	}

	t.Run("0 although the way was rough", func(t *testing.T) {
		t.Parallel()
		w := faulty(t, simulator.Fault{Nth: 2, Effect: simulator.CutRows(3)}, simulator.Fault{Nth: 4, Effect: simulator.ServerError()})
		w.must(exitOK, "run", "shop")
		stands(t, w, 1)
	})
	t.Run("8 audit log changed", func(t *testing.T) {
		t.Parallel()
		w := faulty(t)
		files, err := filepath.Glob(filepath.Join(w.dir, ".tablexport", "audit", "*.jsonl"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no audit log: %v", err)
		}
		data, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(files[0], []byte(strings.Replace(string(data), `"outcome":"ok"`, `"outcome":"no"`, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		got := w.must(exitData, "audit", "verify", "--json")
		if e := objects(t, got.err); len(e) != 1 || e[0]["class"] != "data" || e[0]["exit"] != float64(exitData) {
			t.Errorf("%s", got)
		}
		contains(t, w.must(exitData, "audit", "verify").err, "the audit log is not sound")
		contains(t, w.must(exitData, "check", "--online").out, "FAILED  audit log", "the first: audit-000001.jsonl:", "tablexport audit verify")
	})
	t.Run("1 output lost", func(t *testing.T) {
		t.Parallel()
		var errs buffer
		code := run(t.Context(), []string{"version"}, stdio{strings.NewReader(""), fullDisk{}, &errs})
		if code != exitOther || !strings.Contains(errs.String(), "could not be written") {
			t.Errorf("exit %d: %s", code, errs.String())
		}
	})
	t.Run("3 the table is gone", func(t *testing.T) {
		t.Parallel()
		w := faulty(t)
		w.edit("table: Inv_Current_Balances", "table: Gen_Currencies") // known to the model, not served here
		contains(t, w.must(exitConfig, "run", "balances").err, w.config+":", "jobs.balances.table", "no table Gen_Currencies")
	})
	t.Run("4 revoked", func(t *testing.T) {
		t.Parallel()
		w := faulty(t)
		w.server.Revoke(testToken)
		got := w.must(exitCredential, "run", "shop")
		contains(t, got.err, "tablexport: job shop, run ", "tokens stage")
		stands(t, w, 0)
	})
	t.Run("4 wrong token", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, simulator.Options{})
		got := w.mustWith(exitCredential, "enrt_wrong_wrong_wrong\n", "tokens", "stage", "bi/reader", "--activate")
		contains(t, got.err, "the token was not staged, because it could not be proven: the instance refuses this token\n",
			"→ is it complete, not expired, and issued for this instance?")
		for _, wrong := range []string{"newer", "activate a new one"} {
			if strings.Contains(got.err, wrong) {
				t.Errorf("%q of a token that is not in the vault: %s", wrong, got)
			}
		}
		w.server.Inject(simulator.Fault{Endpoint: simulator.ServiceDoc, Times: -1, Effect: simulator.LoginPage()})
		contains(t, w.mustWith(exitCredential, testToken, "tokens", "stage", "bi/reader").err, "the credential is not accepted here", "→ is it complete, not expired")
		w.server.ClearFaults()
		contains(t, w.must(exitOK, "tokens", "list").out, "the vault holds no token yet")
		contains(t, w.must(exitCredential, "run", "orders").err, "tablexport tokens stage NAME --activate")
		contains(t, w.mustWith(exitCredential, "", "tokens", "stage", "bi/reader").err, "it is empty")
		contains(t, w.must(exitCredential, "tokens", "activate", "bi/reader", "9").err, "→ look at what the vault holds with: tablexport tokens list")
		contains(t, w.mustWith(exitCredential, "two words", "tokens", "stage", "bi/reader").err, "white space")
	})
	t.Run("4 login page", func(t *testing.T) {
		t.Parallel()
		w := faulty(t, simulator.Fault{Nth: 2, Effect: simulator.LoginPage()})
		contains(t, w.must(exitCredential, "run", "shop").err, "the credential is not accepted here")
		stands(t, w, 0)
	})
	t.Run("4 forbidden", func(t *testing.T) {
		t.Parallel()
		w := faulty(t)
		w.server.Revoke(testToken)
		if err := w.server.Issue(simulator.Token{Value: testToken, Deny: []string{"Crm_Sales_Orders"}}); err != nil {
			t.Fatal(err)
		}
		contains(t, w.must(exitCredential, "run", "shop").err, "no permission", "an administrator of the instance can give it")
		stands(t, w, 0)
	})
	t.Run("5 foreign row", func(t *testing.T) {
		t.Parallel()
		w := faulty(t, simulator.Fault{Nth: 1, Times: -1, Effect: simulator.ForeignRow(5)})
		got := w.must(exitScope, "run", "shop")
		contains(t, got.err, `scope "one"`, "nothing was published, the previous version stands")
		stands(t, w, 0)
		contains(t, w.must(exitOK, "audit", "tail").out, "scope-violation", "refused")
	})
	t.Run("6 nobody there", func(t *testing.T) {
		t.Parallel()
		w := faulty(t)
		w.stop()
		contains(t, w.must(exitUnavailable, "run", "shop").err, "instance sim is unavailable", "the previous version stands; try again later")
		got := w.must(exitUnavailable, "check", "--online")
		contains(t, got.out, "FAILED  instance sim", "ok      job shop", "ok      store lake")
		if strings.Contains(got.err, "published") {
			t.Errorf("a check publishes nothing anyway: %s", got.err)
		}
	})
	t.Run("7 somebody else was first", func(t *testing.T) {
		t.Parallel()
		w := faulty(t)
		var more atomic.Int64 // data requests to the table from here on
		for n := range int(w.server.Stats().DataRequests) + 10 {
			w.server.Before("Crm_Sales_Orders", n+1, func() {
				if more.Add(1) == 3 {
					w.must(exitOK, "run", "shop")
				}
			})
		}
		contains(t, w.must(exitConflict, "run", "shop").err, "someone else changed it first")
		stands(t, w, 1)
	})
	t.Run("8 not complete", func(t *testing.T) {
		t.Parallel()
		w := faulty(t)
		if err := w.server.SetBehavior("", simulator.Behavior{OrderBy: simulator.IgnoreOrderBy, Natural: simulator.Shuffled, MaxRows: 50}); err != nil {
			t.Fatal(err)
		}
		contains(t, w.must(exitData, "run", "shop").err, "the previous version stands", "not proven complete")
		stands(t, w, 0)
	})
	t.Run("8 damaged file", func(t *testing.T) {
		t.Parallel()
		w := faulty(t)
		files, err := filepath.Glob(filepath.Join(w.dir, "lake", "shop", "*.parquet"))
		if err != nil || len(files) != 1 {
			t.Fatalf("%v %v", files, err)
		}
		data, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/3] ^= 0x55
		if err := os.WriteFile(files[0], data, 0o600); err != nil {
			t.Fatal(err)
		}
		got := w.must(exitData, "datasets", "verify", "shop")
		contains(t, got.out, "PROBLEM(S)")
		contains(t, got.err, "not as the log says: shop; publish anew with: tablexport run shop")
	})
	t.Run("8 schema changed", func(t *testing.T) {
		t.Parallel()
		w := faulty(t)
		w.edit("{instance: sim, table: Crm_Sales_Orders, scope: one,", "{instance: sim, table: Crm_Sales_Orders, select: [Sales_Order_Id, Store_Id], scope: one,")
		contains(t, w.must(exitData, "run", "shop").err, "--accept-schema")
		stands(t, w, 0)
		contains(t, w.must(exitOK, "run", "shop", "--accept-schema").out, "schema ")
	})
	t.Run("130 interrupted", func(t *testing.T) {
		t.Parallel()
		w := faulty(t, simulator.Fault{Nth: 3, Times: -1, Effect: simulator.Stall(5, time.Minute)})
		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
		defer cancel()
		stop, interrupt := context.WithCancel(t.Context())
		context.AfterFunc(ctx, interrupt) // a person's Ctrl-C is a cancellation, not a deadline
		got := w.doWith(stop, "", "run", "shop", "orders")
		if got.code != exitInterrupted {
			t.Fatalf("%s", got)
		}
		contains(t, got.err, "job orders was not started")
		stands(t, w, 0)
		contains(t, w.must(exitOK, "runs").out, "canceled")
	})
}

// A Table API on another host than the instance is asked there, and the token is bound to that host.
func TestTableAPIElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{})
	elsewhere := strings.Replace(w.address, "127.0.0.1", "localhost", 1)
	w.edit("{url: \""+w.address+"\",", "{url: \""+elsewhere+"\", table_api: \""+w.address+"/tableapi/\",")
	w.stage()
	contains(t, w.must(exitOK, "tokens", "list").out, strings.TrimPrefix(w.address, "http://"))
	contains(t, w.must(exitOK, "check", "--online").out, "ok      instance sim", w.address+"/tableapi/odata/")
	contains(t, w.must(exitOK, "run", "orders").out, "400 rows")
}

// simulate counts pages of rows for its faults, not what a client asks to get to know the server.
func TestSimulatedFaultsHitPages(t *testing.T) {
	t.Parallel()
	fault, err := parseFault("500@2")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, simulator.Options{Behavior: simulator.Behavior{Count: simulator.PathCount | simulator.InlineCount}, Faults: []simulator.Fault{fault}})
	for _, c := range []struct {
		query string
		want  int
	}{
		{"?$top=1", 200}, {"?$top=8", 200}, {"?$top=1&$count=true", 200}, {"/$count", 200}, {"?$top=100", 200}, // the first page
		{"?$top=0", 200}, {"?$top=8&$skip=100", 200}, {"?$select=Store_Id", 500}, {"?$top=9", 200},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.address+"/tableapi/odata/Crm_Sales_Orders"+c.query, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+testToken)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != c.want {
			t.Errorf("%q: status %d, not %d", c.query, answer.StatusCode, c.want)
		}
	}
}

// The first failure decides the exit code, whatever the others are, and one job does not stop the others.
func TestFirstFailureDecides(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}).stage()
	w.must(exitOK, "run", "shop")
	w.edit("{instance: sim, table: Crm_Sales_Orders, scope: one,", "{instance: sim, table: Crm_Sales_Orders, select: [Sales_Order_Id, Store_Id], scope: one,")
	w.edit("table: Inv_Current_Balances", "table: Gen_Currencies")
	got := w.must(exitData, "run", "shop", "balances", "orders")
	contains(t, got.out, "orders: version 0")
	contains(t, got.err, "--accept-schema", "no table Gen_Currencies")
	w.must(exitConfig, "run", "balances", "shop")
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }
