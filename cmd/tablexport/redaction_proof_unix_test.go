//go:build unix

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/odata/simulator"
	"github.com/tablexport/tablexport/secrets/secretstest/vaultserver"
)

// The canaries of this proof: none may be found anywhere but in the files that are there to hold them.
const (
	canaryHook   = "CANARYwebhook-secret-5d1c7a90be"
	canaryMail   = "CANARYmail-password-83ab01ff5c"
	canaryTrace  = "CANARYtrace-header-77aa33c1d0e"
	canaryKey    = "CANARYlineage-key-0b1a2c3d4e5f"
	canaryVault  = "CANARYvault-token-a1b2c3d4e5f6"
	canaryS3     = "CANARYs3secret+key/9f8e7d6c5b4a3"
	canaryApp    = "CANARYclient-secret-0123456789"
	canaryCaller = "CANARYbearer.of-a-caller.c0ffee"
)

// holders are files that are to hold a secret.
var holders = []string{"hook.secret", "mail.secret", "trace.header", "lineage.key", "audit.key", "secrets.age", "secrets.age.key", "role", "secret", "vault.token"}

// way is one way to run a command: its arguments behind the command's path, and what it reads.
type way struct {
	args []string
	in   string
}

func ways(lines ...string) (all []way) {
	for _, line := range lines {
		all = append(all, way{args: strings.Fields(line)})
	}
	return all
}

// proofs are every command of the program and how it is run here, good ways and bad ones, each with and without --json and --verbose. A new command must be added, or this test
// fails.
func proofs(w *world) map[string][]way {
	return map[string][]way{
		"alerts test": ways("", "nobody"), "audit checkpoint": ways(""), "audit expire": ways(""), "audit export": ways(filepath.Join(w.dir, "audit.parquet")+" --force", ""),
		"audit keygen": ways(filepath.Join(w.dir, "other.key")), "audit tail": ways("-n 500"), "audit verify": ways("", "--checkpoints"),
		"backfill": ways("history --yes", "orders", "history --dry-run"), "check": ways("", "--online"),
		"completion bash": ways(""), "completion fish": ways(""), "completion powershell": ways(""), "completion zsh": ways(""), "config schema": ways(""),
		"datasets compact": ways("history"), "datasets diff": ways("shop --from 0 --to 1", "shop"), "datasets list": ways(""), "datasets rollback": ways("shop 0", "shop 99"), "datasets show": ways("shop", "history"),
		"datasets sql": ways("shop"), "datasets unlock": ways("shop", "shop --yes"), "datasets vacuum": ways("shop --dry-run", "shop"), "datasets verify": ways("", "shop"),
		"health": ways("", "--live"), "init": ways(filepath.Join(w.dir, "elsewhere")), "plan": ways("shop", "shop --online", "history"), "policy check": ways(""),
		"run": ways("--all", "shop", "--set both", "nobody"), "runs": ways("", "shop"), "schedule next": ways(""), "schedule pause": ways("shop"), "schedule prune": ways(""), "schedule resume": ways("shop"), "schedule ticks": ways(""),
		"sets list": ways(""), "sets rollback": ways("both 0"), "sets show": ways("both"), "sets sql": ways("both"), "sets verify": ways("both"), "tables": ways("", "--online", "Gen_Products"),
		"tokens activate": ways("bi/reader 9", "bi/reader 1"), "tokens describe": ways("bi/reader --owner me", "bi/reader 9"), "tokens list": ways(""), "tokens reject": ways("bi/reader 9", "bi/reader 2"),
		"tokens report": ways(""), "tokens request": ways("bi/reader"), "tokens retire": ways("bi/reader", "bi/reader --grace 1ns"),
		"tokens rotate": append(ways("bi/reader", "--due"), way{[]string{"bi/reader", "--stage-from", "stdin"}, canaryOther}, way{[]string{"bi/reader", "--stage-from", "vault:kv/x"}, ""}),
		"tokens show":   ways("bi/reader", "bi/reader 1"), "tokens verify": ways("bi/reader", "bi/reader 1"),
		"tokens stage": {{[]string{"bi/reader"}, canaryOther}, {[]string{"bi/reader"}, canaryToken + " " + canaryOther}, {[]string{"bi/reader"}, "Bearer " + canaryOther}, {[]string{"bi/nobody", "--activate"}, canaryOther}, {[]string{canaryOther}, canaryToken}, {[]string{"bi/reader", "--from=" + canaryOther}, ""}},
		"version":      ways(""),
		// demo and simulate have an instance and a token of their own; serve is a process in its own test.
		"demo": nil, "simulate": nil, "serve": nil,
	}
}

// leaves are the commands that do something, by their path.
func leaves(c *cobra.Command, path string) (all []string) {
	if !c.HasSubCommands() {
		return []string{path}
	}
	for _, sub := range c.Commands() {
		if sub.Name() != "help" {
			all = append(all, leaves(sub, strings.TrimSpace(path+" "+sub.Name()))...)
		}
	}
	return all
}

// Each command has its ways here, and each way is one of a command.
func TestProofKnowsEveryCommand(t *testing.T) {
	t.Parallel()
	known := proofs(&world{dir: t.TempDir()})
	for _, path := range leaves(newRoot(&globals{}), "") {
		if _, ok := known[path]; !ok {
			t.Errorf("tablexport %s is new: say how the proof of redaction runs it", path)
		}
		delete(known, path)
	}
	for path := range known {
		t.Errorf("there is no command %s", path)
	}
}

// effects are all that an instance can do wrong, with canaries in what it says.
func effects() map[string]simulator.Effect {
	return map[string]simulator.Effect{
		"All":    simulator.All(simulator.SlowHeaders(time.Millisecond), simulator.CutRows(2)),
		"Status": simulator.Status(400, `{"error":{"message":"`+canaryToken+`"}}`), "ServerError": simulator.ServerError(), "TooMany": simulator.TooMany(time.Millisecond), "Reset": simulator.Reset(),
		"LoginPage": simulator.LoginPage(), "LoginRedirect": simulator.LoginRedirect(), "Redirect": simulator.Redirect(302, "http://127.0.0.1:1/?token="+canaryToken), "SlowHeaders": simulator.SlowHeaders(time.Millisecond),
		"CutBytes": simulator.CutBytes(99), "CutRows": simulator.CutRows(3), "EndEarly": simulator.EndEarly(3), "Stall": simulator.Stall(2, time.Millisecond), "MidStream": simulator.MidStream(2, func() {}),
		"TruncatedGzip": simulator.TruncatedGzip(30), "ContentType": simulator.ContentType("text/" + canaryToken), "MalformedJSON": simulator.MalformedJSON(3), "DropRow": simulator.DropRow(2), "RepeatRow": simulator.RepeatRow(),
		"ForeignRow": simulator.ForeignRow(2), "UnexpectedProperty": simulator.UnexpectedProperty(1), "MissingProperty": simulator.MissingProperty(1), "WrongType": simulator.WrongType(2, ""), "OutOfRange": simulator.OutOfRange(2, ""),
		"NextLinkLoop": simulator.NextLinkLoop(), "NextLinkTo": simulator.NextLinkTo("http://127.0.0.1:1/" + canaryToken),
	}
}

// Each fault that the simulator offers is in the proof.
func TestProofKnowsEveryFault(t *testing.T) {
	t.Parallel()
	known := effects()
	parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(moduleRoot(t), "odata", "simulator", "faults.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, d := range parsed.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Recv != nil || !f.Name.IsExported() || f.Type.Results == nil {
			continue
		}
		if result, ok := f.Type.Results.List[0].Type.(*ast.Ident); ok && result.Name == "Effect" {
			found++
			if _, ok := known[f.Name.Name]; !ok {
				t.Errorf("the proof of redaction has no %s", f.Name.Name)
			}
		}
	}
	if found != len(known) {
		t.Errorf("%d faults, %d are known", found, len(known))
	}
}

// proving is a world in which every secret there can be is a canary, and every sink is watched.
type proving struct {
	*world
	told *listener // spans, lineage events, alerts
	look *detector
}

func newProving(t *testing.T, options simulator.Options) *proving {
	t.Helper()
	if options.Tokens == nil {
		options.Tokens = []simulator.Token{{Value: canaryToken}, {Value: canaryOther}}
	}
	p := &proving{world: newWorld(t, options, historyJob), told: newListener(t)}
	p.look = newDetector(canaryToken, canaryOther, canaryHook, canaryMail, canaryTrace, canaryKey, canaryVault, canaryS3, canaryApp, canaryCaller)
	p.write("hook.secret", canaryHook)
	p.write("mail.secret", canaryMail)
	p.write("trace.header", "X-Key: "+canaryTrace)
	p.write("lineage.key", canaryKey)
	at := p.told.server.URL
	p.append(fmt.Sprintf(`telemetry:
  traces: {url: %q, header_file: ./trace.header}
  lineage: {url: %q, key_file: ./lineage.key}
sets: {both: [orders, shop]}
alerts:
  channels:
    hook: {webhook: {url: %q, secret_file: ./hook.secret}}
    mail: {mail: {server: "127.0.0.1:1", from: a@acme.example, to: [b@acme.example], user: a, password_file: ./mail.secret}}
audit: {checkpoints: {store: lake, path: evidence, key_file: ./audit.key}}
`, at+"/v1/traces", at+"/api/v1/lineage", at+"/alerts"))
	p.edit("token: bi/reader,", "token: bi/reader, application: {uri: my.app/bi, redirect_uri: \"https://bi.acme.example/events\"},")
	p.must(exitOK, "audit", "keygen", filepath.Join(p.dir, "audit.key"))
	return p
}

// silent demands that no canary is anywhere: not in what was printed, not in what others were told, and in no file.
func (p *proving) silent(where string) {
	p.t.Helper()
	for _, leak := range p.look.in([]byte(p.said.String())) {
		p.t.Errorf("%s: printed: %s", where, leak)
	}
	p.told.mu.Lock()
	raw := p.told.raw.String()
	p.told.mu.Unlock()
	for _, leak := range p.look.in([]byte(raw)) {
		p.t.Errorf("%s: told to others: %s", where, leak)
	}
	for _, leak := range p.look.files(p.t, p.dir, holders...) {
		p.t.Errorf("%s: %s", where, leak)
	}
}

// everything runs every command in all its ways.
func (p *proving) everything() {
	p.t.Helper()
	all := proofs(p.world)
	for _, path := range leaves(newRoot(&globals{}), "") {
		for _, way := range all[path] {
			for _, flags := range [][]string{{"-v"}, {"-v", "--json"}} {
				ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
				got := p.doWith(ctx, way.in, slices.Concat(strings.Fields(path), way.args, flags)...)
				cancel()
				if leaks := p.look.in([]byte(got.out + got.err)); len(leaks) > 0 {
					p.t.Errorf("tablexport %s, way %v: %v", path, len(way.args), leaks[0])
				}
			}
		}
	}
}

// Every command, in every way, with a file vault: temporary files too.
func TestNothingIsToldByAnyCommand(t *testing.T) {
	p := newProving(t, simulator.Options{})
	if err := os.Mkdir(filepath.Join(p.dir, "tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", filepath.Join(p.dir, "tmp"))
	p.mustWith(exitOK, canaryToken, "tokens", "stage", "bi/reader", "--activate", "-v")
	p.must(exitOK, "run", "--all", "-v")
	p.must(exitOK, "run", "--set", "both", "-v")
	p.everything()
	if !strings.Contains(p.said.String(), "level=DEBUG") || !strings.Contains(p.told.raw.String(), "START") {
		t.Error("nothing was said: the proof proves nothing")
	}
	p.silent("every command")
}

// Every command that asks the instance, through every fault of each of its endpoints.
func TestNothingIsToldByAnyFault(t *testing.T) {
	t.Parallel()
	p := newProving(t, simulator.Options{Behavior: simulator.Behavior{Count: simulator.PathCount}})
	p.mustWith(exitOK, canaryToken, "tokens", "stage", "bi/reader", "--activate", "-v")
	p.mustWith(exitOK, canaryOther, "tokens", "stage", "bi/reader", "-v")
	for name, effect := range effects() {
		plain := slices.Contains([]string{"Status", "ServerError", "Redirect", "LoginPage", "ContentType", "MalformedJSON", "CutBytes"}, name) // the others are of tables
		for _, endpoint := range []simulator.Endpoint{simulator.Data, simulator.Metadata, simulator.CountPath, simulator.ServiceDoc, simulator.Discovery, simulator.VersionPath} {
			args := [][]string{{"check", "--online"}}
			switch {
			case endpoint == simulator.Data:
				args = [][]string{{"run", "shop"}, {"tokens", "verify", "bi/reader"}, {"tokens", "report"}}
			case endpoint != simulator.Metadata && !plain:
				continue
			}
			p.server.Inject(simulator.Fault{Endpoint: endpoint, Nth: 1, Times: 2, Effect: effect})
			for _, a := range args {
				p.do(append(a, "-v", "--json")...)
			}
			p.server.ClearFaults()
		}
		if leaks := p.look.in([]byte(p.said.String())); len(leaks) > 0 {
			t.Fatalf("%s: %v", name, leaks)
		}
	}
	p.server.Revoke(canaryToken)
	p.do("run", "shop", "-v")
	p.stop()
	p.do("run", "shop", "-v", "--json")
	p.silent("every fault")
}

// Every command with a real Vault, and with everything that can be wrong with it.
func TestNothingIsToldByTheVault(t *testing.T) {
	t.Parallel()
	server := vaultserver.Start(t, vaultserver.Private())
	p := newProving(t, simulator.Options{})
	p.useVault(server)
	secretID, err := os.ReadFile(filepath.Join(p.dir, "secret"))
	if err != nil {
		t.Fatal(err)
	}
	p.look.needles = append(p.look.needles, newDetector(strings.TrimSpace(string(secretID))).needles...)
	p.mustWith(exitOK, canaryToken, "tokens", "stage", "bi/reader", "--activate", "-v")
	p.everything()
	commands := [][]string{{"run", "shop"}, {"tokens", "list"}, {"tokens", "verify", "bi/reader"}, {"check", "--online"}, {"tokens", "show", "bi/reader"}}
	try := func() {
		t.Helper()
		for _, args := range commands {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // some are tried again for long
			p.doWith(ctx, "", append(args, "-v")...)
			p.doWith(ctx, canaryOther, "tokens", "stage", "bi/reader", "-v", "--json")
			cancel()
		}
	}
	for _, wrong := range []struct{ old, new string }{
		{"secret_id_file: ./secret", "secret_id_file: ./hook.secret"}, // a login that Vault does not know
		{"mount: ", "mount: nowhere-"}, {"address: \"http", "address: \"https"},
		{"auth: {approle: {role_id_file: ./role, secret_id_file: ./secret}}", "auth: {token_file: ./vault.token}"},
		{"auth: {approle: {role_id_file: ./role, secret_id_file: ./secret}}", "auth: {kubernetes: {role: bi, jwt_file: ./vault.token}}"},
		{"auth: {approle: {role_id_file: ./role, secret_id_file: ./secret}}", "auth: {jwt: {role: bi, jwt_file: ./vault.token}}"},
		{"auth: {approle: {role_id_file: ./role, secret_id_file: ./secret}}", "auth: {approle: {role_id_file: ./role, secret_id_file: ./secret, wrapped: true}}"},
	} {
		p.write("vault.token", canaryVault)
		before, err := os.ReadFile(p.config)
		if err != nil {
			t.Fatal(err)
		}
		p.edit(wrong.old, wrong.new)
		try()
		p.write("tablexport.yaml", string(before))
		p.write("secret", string(secretID))
	}
	server.Call(t, http.MethodPost, "sys/seal", nil)
	try()
	server.Stop(t)
	try()
	p.silent("the vault")
}

// A client secret and the access tokens that it is exchanged for; a token in a header of its own.
func TestNothingIsToldOfOtherCredentials(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"client_credentials", "header"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			options := simulator.Options{}
			secret := canaryToken
			if kind == "client_credentials" {
				options.Apps = []simulator.App{{URI: "my.app/bi", Secret: canaryApp, Scopes: []string{"read"}}}
				secret = canaryApp
			}
			p := newProving(t, options)
			auth := "auth: {client_credentials: {client_id: my.app/bi}},"
			if kind == "header" {
				auth = "auth: {header: X-Api-Key},"
			}
			p.edit("token: bi/reader,", "token: bi/reader, "+auth)
			p.doWith(t.Context(), secret, "tokens", "stage", "bi/reader", "--activate", "-v")
			for _, args := range [][]string{{"run", "shop"}, {"check", "--online"}, {"tokens", "verify", "bi/reader"}, {"tokens", "report"}, {"tokens", "rotate", "bi/reader"}} {
				p.do(append(args, "-v")...)
				for _, effect := range effects() {
					p.server.Inject(simulator.Fault{Endpoint: simulator.Identity, Nth: 1, Times: 2, Effect: effect})
					p.do(append(args, "-v", "--json")...)
					p.server.ClearFaults()
					if args[0] != "run" {
						break // the exchange is the same
					}
				}
			}
			p.silent(kind)
			p.noJWT()
		})
	}
}

// noJWT demands that no access token is printed or in a file: the identity server makes them up, so only their form is known.
func (p *proving) noJWT() {
	p.t.Helper()
	jwt := regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.`)
	if at := jwt.FindString(p.said.String()); at != "" {
		p.t.Errorf("an access token was printed: %.12s…", at)
	}
	err := filepath.WalkDir(p.dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err == nil && jwt.Match(data) {
			p.t.Errorf("an access token is in %s", path)
		}
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

// The keys of an object store whose answers repeat everything that it is sent.
func TestNothingIsToldByTheStore(t *testing.T) {
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "CANARYaccess", "AWS_SECRET_ACCESS_KEY": canaryS3, "AWS_SESSION_TOKEN": canaryCaller, "AWS_EC2_METADATA_DISABLED": "true"} {
		t.Setenv(name, value)
	}
	for _, code := range []int{200, 302, 400, 403, 404, 500, 503} {
		echo := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Location", "/"+canaryS3)
			rw.WriteHeader(code)
			_, _ = fmt.Fprintf(rw, "<Error><Code>%s</Code><Message>%s %s</Message></Error>", r.Header.Get("X-Amz-Security-Token"), r.Header.Get("Authorization"), r.Header.Get("X-Amz-Security-Token"))
		}))
		p := newProving(t, simulator.Options{})
		p.mustWith(exitOK, canaryToken, "tokens", "stage", "bi/reader", "--activate", "-v")
		p.edit("stores: {lake: {file: {path: ./lake}}}", fmt.Sprintf("stores: {lake: {s3: {bucket: b, region: eu-west-1, endpoint: %q, path_style: true}}}", echo.URL))
		for _, args := range [][]string{{"run", "shop"}, {"check", "--online"}, {"datasets", "show", "shop"}, {"audit", "checkpoint"}} {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			p.doWith(ctx, "", append(args, "-v")...)
			cancel()
		}
		p.silent(fmt.Sprint("a store that answers ", code))
		echo.Close()
	}
}

// The serving program: pages, API, metrics and its log, whatever callers send it, while it runs a job; and what it prints when it crashes.
func TestNothingIsToldByTheServer(t *testing.T) {
	t.Parallel()
	for _, end := range []os.Signal{syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGABRT} {
		t.Run(fmt.Sprint(end), func(t *testing.T) {
			t.Parallel()
			p := newProving(t, simulator.Options{Behavior: simulator.Behavior{RowsPerSecond: 60}})
			p.mustWith(exitOK, canaryToken, "tokens", "stage", "bi/reader", "--activate")
			p.edit("paging: {page_size: 50}, description: Orders of one shop", "paging: {page_size: 50}, description: Orders of one shop, schedule: {cron: \"* * * * *\", zone: UTC, late: once}")
			p.missed("shop", "UTC * * * * *", time.Now().Add(-time.Hour))
			p.append("serve: {listen: \"127.0.0.1:0\"}\n")
			before := p.server.Stats().Rows // of the token's proof
			s := p.world.serve()
			until(t, "the run", func() bool {
				if p.server.Stats().Rows == before {
					return false // the program answers so many requests a minute
				}
				_, runs := s.get("/api/v1/runs")
				return strings.Contains(runs, `"run":`)
			})
			for _, route := range p.routes(s) {
				method, path, _ := strings.Cut(route, " ")
				for _, query := range []string{"", "?token=" + canaryCaller + "&before=" + canaryCaller} {
					body := strings.NewReader(`{"why":"` + canaryCaller + `","referenceToken":"` + canaryOther + `"}`)
					req, err := http.NewRequestWithContext(t.Context(), method, s.address+path+query, body)
					if err != nil {
						t.Fatal(err)
					}
					req.Header.Set("Authorization", "Bearer "+canaryCaller)
					req.Header.Set("Cookie", "session="+canaryCaller)
					req.Header.Set("Content-Type", "application/json")
					resp, err := http.DefaultClient.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					text, _ := io.ReadAll(resp.Body)
					resp.Body.Close()
					if leaks := p.look.in(text); len(leaks) > 0 {
						t.Errorf("%s: %v", route, leaks)
					}
				}
			}
			if err := s.cmd.Process.Signal(end); err != nil {
				t.Fatal(err)
			}
			<-s.done
			text := s.log.String()
			if end != syscall.SIGTERM && !strings.Contains(text, "goroutine ") {
				t.Errorf("there is no crash output: %.300s", text)
			}
			for _, leak := range p.look.in([]byte(text)) {
				t.Errorf("the log or the crash: %s", leak)
			}
			p.silent("the server")
		})
	}
}

// routes are every page, and every operation of the API as its own document says.
func (p *proving) routes(s *served) []string {
	p.t.Helper()
	all := []string{"GET /", "GET /jobs/shop", "GET /jobs/shop/dataset", "GET /jobs/history", "GET /runs", "GET /instances", "GET /tokens", "GET /metrics", "GET /healthz", "GET /readyz", "GET /style.css",
		"GET /api/v1/openapi.json", "GET /nowhere", "POST /events/lifecycle", "GET /" + canaryCaller, "POST /api/v1/jobs/" + canaryCaller + "/run"}
	_, text := s.get("/api/v1/openapi.json")
	var doc struct{ Paths map[string]map[string]any }
	if err := json.Unmarshal([]byte(text), &doc); err != nil || len(doc.Paths) < 8 {
		p.t.Fatalf("%v in %.200s", err, text)
	}
	_, runs := s.get("/api/v1/runs")
	id := regexp.MustCompile(`"run":"([0-9a-f-]{36})"`).FindStringSubmatch(runs)
	if id == nil {
		p.t.Fatalf("no run in %s", runs)
	}
	all = append(all, "GET /runs/"+id[1])
	for path, operations := range doc.Paths {
		for method := range operations {
			all = append(all, strings.ToUpper(method)+" /api/v1"+strings.NewReplacer("{job}", "shop", "{run}", id[1]).Replace(path))
		}
	}
	slices.Sort(all)
	return all
}

// An event of the Marketplace brings a token: it goes to the vault's staged slot and nowhere else.
func TestNothingIsToldByEvents(t *testing.T) {
	t.Parallel()
	p := newProving(t, simulator.Options{})
	p.mustWith(exitOK, canaryToken, "tokens", "stage", "bi/reader", "--activate")
	var out, said buffer
	a, err := (&globals{stdio: stdio{strings.NewReader(""), &out, &said}, config: p.config, verbose: true}).open()
	if err != nil {
		t.Fatal(err)
	}
	market, body := signedMarket(t, p.address, canaryOther)
	d := &daemon{app: a, log: slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	handler := d.receiver(market)
	var storm sync.WaitGroup
	for _, event := range []string{body, body, strings.Replace(body, canaryOther, canaryCaller, 1), body[:len(body)-9], `{"referenceToken":"` + canaryCaller + `"}`, canaryCaller} {
		storm.Go(func() { post(handler, event) })
	}
	storm.Wait()
	a.close()
	if p.states() != "active staged" {
		t.Fatal(p.states())
	}
	p.said.WriteString(out.String() + said.String())
	p.silent("events")
}
