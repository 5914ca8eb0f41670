package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tablexport/tablexport/odata/simulator"
)

const (
	canaryToken = "enrt_CANARY0123456789abcdefTOKEN" // the instance's token
	canaryOther = "enrt_CANARYother9876543210OTHER"  // one that the instance does not know
)

// holdsNo checks that nothing a command printed and no file below the directories holds a secret or a server's stack trace.
func (w *world) holdsNo(secrets ...string) {
	w.t.Helper()
	secrets = append(slices.Clone(secrets), simulator.StackCanary, "goroutine ")
	for _, s := range secrets {
		if i := strings.Index(w.said.String(), s); i >= 0 {
			w.t.Errorf("%.12s… was printed: …%s", s, w.said.String()[max(0, i-500):i])
		}
	}
	if files := filesWith(w.t, w.dir, secrets...); len(files) > 0 {
		w.t.Errorf("files hold a secret: %v", files)
	}
}

// No token is seen anywhere, on the good way and on every bad one that a simulator can offer.
func TestTokensAreNowhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{Tokens: []simulator.Token{{Value: canaryToken}}, Behavior: simulator.Behavior{Count: simulator.PathCount}})
	w.mustWith(exitCredential, canaryOther, "tokens", "stage", "bi/reader", "-v")
	w.mustWith(exitCredential, canaryToken+" "+canaryOther, "tokens", "stage", "bi/reader", "--json")
	w.mustWith(exitOK, canaryToken+"\n", "tokens", "stage", "bi/reader", "--activate", "-v")
	for _, args := range [][]string{
		{"check", "--online"}, {"plan", "orders", "--online"}, {"tables", "--online"}, {"run", "--all"}, {"runs"}, {"datasets", "list"}, {"datasets", "show", "shop"},
		{"datasets", "sql", "shop"}, {"datasets", "verify"}, {"tokens", "list"}, {"audit", "tail"}, {"audit", "verify"},
	} {
		w.must(exitOK, append(args, "-v")...)
		w.must(exitOK, append(args, "-v", "--json")...)
	}
	if !strings.Contains(w.said.String(), "level=DEBUG") {
		t.Error("--verbose says nothing")
	}
	for _, fault := range []simulator.Effect{
		simulator.ServerError(), simulator.LoginPage(), simulator.LoginRedirect(), simulator.CutRows(3), simulator.CutBytes(99), simulator.MalformedJSON(3), simulator.ForeignRow(2),
		simulator.Status(400, `{"error":{"message":"`+canaryToken+`"}}`), simulator.Status(403, canaryToken), simulator.Status(404, canaryToken),
		simulator.Redirect(302, "http://127.0.0.1:1/?token="+canaryToken), simulator.WrongType(2, ""), simulator.UnexpectedProperty(1), simulator.OutOfRange(2, ""), simulator.ContentType("text/" + canaryToken),
	} {
		w.server.Inject(simulator.Fault{Nth: 1, Times: 2, Effect: fault})
		w.do("run", "shop", "-v")
		w.server.ClearFaults()
		w.server.Inject(simulator.Fault{Endpoint: simulator.Metadata, Times: 1, Effect: fault})
		w.do("check", "--online", "-v", "--json")
		w.server.ClearFaults()
	}
	w.rotationIsSilent()
	w.server.Revoke(canaryToken)
	w.server.Revoke(canaryOther)
	w.must(exitCredential, "run", "shop", "-v", "--json")
	w.must(exitCredential, "check", "--online", "-v")
	w.holdsNo(canaryToken, canaryOther)
}

// rotationIsSilent runs every command of a token's life, each through every fault of the instance, with two canaries.
func (w *world) rotationIsSilent() {
	w.t.Helper()
	if err := w.server.Issue(simulator.Token{Value: canaryOther}); err != nil {
		w.t.Fatal(err)
	}
	w.mustWith(exitOK, canaryOther, "tokens", "stage", "bi/reader", "-v")
	for _, fault := range []simulator.Effect{
		simulator.ServerError(), simulator.LoginPage(), simulator.CutRows(3), simulator.MalformedJSON(3), simulator.ForeignRow(2),
		simulator.Status(400, `{"error":{"message":"`+canaryOther+`"}}`), simulator.Status(401, canaryOther), simulator.Status(403, canaryOther), simulator.Redirect(302, "http://127.0.0.1:1/?token="+canaryOther),
	} {
		for _, endpoint := range []simulator.Endpoint{simulator.Data, simulator.ServiceDoc, simulator.Metadata} {
			w.server.Inject(simulator.Fault{Endpoint: endpoint, Times: 2, Effect: fault})
			w.do("tokens", "verify", "bi/reader", "-v", "--json")
			w.server.ClearFaults()
		}
	}
	for _, args := range [][]string{
		{"tokens", "verify", "bi/reader", "2"}, {"policy", "check"}, {"tokens", "rotate", "bi/reader"}, {"tokens", "retire", "bi/reader"}, {"tokens", "retire", "bi/reader", "--grace", "1ns"},
		{"tokens", "reject", "bi/reader", "2"}, {"tokens", "request", "bi/reader"}, {"tokens", "report"}, {"audit", "export", filepath.Join(w.dir, "audit.parquet")}, {"run", "shop"},
	} {
		w.do(append(args, "-v")...)
		w.do(append(args, "-v", "--json")...)
	}
	if states := w.states(); !strings.Contains(states, "retiring") {
		w.t.Errorf("the rotation did not come to its point: %s", states)
	}
}

// The built-in server error carries a stack trace: nobody sees it, and the run ends as unavailable.
func TestServerErrorsAreNotRepeated(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}).stage()
	w.server.Inject(simulator.Fault{Times: -1, Effect: simulator.ServerError()})
	got := w.must(exitUnavailable, "run", "shop", "-v")
	contains(t, got.err, "tablexport: job shop, run ", "try again later")
	w.holdsNo(testToken)
}

// A secret that was pasted into the configuration is refused, and not repeated.
func TestPastedSecrets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{})
	text, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new string }{
		{"token: bi/reader", "token: " + canaryToken},
		{"path: ./secrets.age", "path: " + canaryToken},
		{`url: "http://`, `url: "http://user:` + canaryToken + `@`},
		{"environment: sandbox", "environment: " + canaryToken},
		{"description: Orders of one shop", "descriptio: " + canaryToken},
		{"scopes:", "  x: [" + canaryToken + "\nscopes:"},
		{"{unrestricted: true}", `{where: "Store_Id eq '` + canaryToken + `'"}`},
	} {
		config := filepath.Join(t.TempDir(), "tablexport.yaml")
		changed := strings.Replace(string(text), c.old, c.new, 1)
		if changed == string(text) {
			t.Fatalf("no %q in the configuration", c.old)
		}
		if err := os.WriteFile(config, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"check"}, {"check", "--online", "--json"}, {"plan", "shop", "-v"}, {"run", "shop"}, {"tokens", "list"}} {
			got := w.do(append(args, "-c", config)...)
			if got.code != exitConfig {
				t.Errorf("%.30s, %v: %s", c.new, args, got)
			}
		}
	}
	w.holdsNo(canaryToken)
}

// A Vault that answers with everything it was told, in every kind of refusal, makes nobody repeat it.
func TestVaultErrorsAreNotRepeated(t *testing.T) {
	t.Parallel()
	const vaultToken, roleID, secretID = "hvs.CANARYvault0123456789VAULT", "CANARY-role-5a0b1c2d", "CANARY-secret-id-3e4f4a5b"
	for _, status := range []int{400, 403, 404, 500, 503, 200, 302} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			echo := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				body := make([]byte, 4096)
				n, _ := r.Body.Read(body)
				said := fmt.Sprintf("%s %s %s", r.Header.Get("X-Vault-Token"), r.Header.Get("Authorization"), strings.ReplaceAll(string(body[:n]), `"`, ""))
				rw.Header().Set("Location", "/v1/"+vaultToken)
				rw.Header().Set("Content-Type", "application/json")
				rw.WriteHeader(status)
				fmt.Fprintf(rw, `{"errors":[%q],"warnings":[%q],"data":{"data":{"x":%q}}}`, said, said, said)
			}))
			defer echo.Close()
			files := t.TempDir()
			for name, value := range map[string]string{"token": vaultToken, "role": roleID, "secret": secretID} {
				if err := os.WriteFile(filepath.Join(files, name), []byte(value+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			w := newWorld(t, simulator.Options{})
			for _, auth := range []string{
				fmt.Sprintf("{token_file: %s}", filepath.Join(files, "token")),
				fmt.Sprintf("{approle: {role_id_file: %s, secret_id_file: %s}}", filepath.Join(files, "role"), filepath.Join(files, "secret")),
			} {
				text, err := os.ReadFile(w.config)
				if err != nil {
					t.Fatal(err)
				}
				lines := strings.Split(string(text), "\n")
				lines[1] = fmt.Sprintf("secrets: {vault: {address: %q, auth: %s}}", echo.URL, auth)
				w.write("tablexport.yaml", strings.Join(lines, "\n"))
				// Some answers are retried for long; what is said on the way is what matters here.
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				for _, args := range [][]string{{"tokens", "list", "-v"}, {"run", "shop", "-v"}, {"tokens", "stage", "bi/reader", "--json"}, {"check", "--online"}} {
					if got := w.doWith(ctx, testToken, args...); got.code == exitOK && args[0] != "tokens" {
						t.Errorf("%v: %s", args, got)
					}
				}
				cancel()
			}
			w.holdsNo(vaultToken, secretID, testToken)
		})
	}
}

// A token on the command line is refused by every command, before anything else, and not repeated.
func TestTokenOnTheCommandLine(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}).stage()
	for _, args := range [][]string{
		{"tokens", "stage", canaryToken}, {"tokens", "stage", "bi/reader", "--from", canaryToken}, {"run", canaryToken}, {canaryToken}, {"--" + canaryToken}, {"run", "shop", "--config=" + canaryToken},
		{"plan", "Bearer " + canaryToken}, {"check", "--json", canaryToken},
	} {
		got := w.do(args...)
		if got.code != exitUsage || !strings.Contains(got.err, "looks like a token") || strings.Contains(got.out+got.err, canaryToken[:fragment]) {
			t.Errorf("%d: %s", len(args), got)
		}
	}
	w.holdsNo(canaryToken)
}
