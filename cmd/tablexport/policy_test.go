package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/google/uuid"
	"github.com/parquet-go/parquet-go"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/store/filestore"
	"github.com/tablexport/tablexport/jobs/alert"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/simulator"
)

func TestPolicyCheck(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{})
	contains(t, w.must(exitCredential, "policy", "check").out, "BROKEN", "no active token")
	w.stage()
	contains(t, w.must(exitOK, "policy", "check").out, "ok", "environment", "bound to sim at 127.0.0.1")
	w.edit("stores:", "policy: {hosts: [\"*.my.erp.net\"]}\nstores:")
	contains(t, w.must(exitConfig, "run", "shop").err, "the policy does not let tokens be sent to 127.0.0.1")
	w.edit("*.my.erp.net", strings.TrimPrefix(w.address, "http://"))
	w.edit("policy: {", "policy: {max_age_days: 1, ")
	contains(t, w.must(exitOK, "policy", "check").out, "max_age_days", "staged 0 day(s) ago; allowed: 1")
	w.edit("token: bi/reader,", "token: bi/reader, auth: {client_credentials: {client_id: a, scopes: [read, sec]}},")
	lines := objects(t, w.must(exitCredential, "policy", "check", "--json").out)
	broken := ""
	for _, l := range lines {
		if l["kept"] == false {
			broken += l["rule"].(string)
		}
	}
	if broken != "scopes" {
		t.Errorf("broken: %s", broken)
	}
	changed := false
	for _, e := range objects(t, w.must(exitOK, "audit", "tail", "-n", "100", "--json").out) {
		if e["action"] == "policy" && strings.Contains(fmt.Sprint(e["detail"]), "policy.max_age_days:not set → 1") {
			changed = true
		}
	}
	if !changed {
		t.Error("the change of policy is not in the audit log with its values")
	}
}

// Whoever can write the state directory cannot hide a change of policy: what was recorded last is what the audit log says.
func TestConfigChangeCannotBeHidden(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}).stage()
	seen := filepath.Join(w.dir, ".tablexport", "config-seen.json")
	entries := func(action string) (all []map[string]any) {
		t.Helper()
		for _, e := range objects(t, w.must(exitOK, "audit", "tail", "-n", "1000", "--json").out) {
			if e["action"] == action {
				all = append(all, e["detail"].(map[string]any))
			}
		}
		return all
	}
	before, err := os.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	w.must(exitOK, "tokens", "list")
	if n := len(entries("config")); n != 1 {
		t.Fatalf("%d entries of one configuration", n)
	}
	w.edit("stores:", "policy: {max_age_days: 9}\nstores:")
	w.must(exitOK, "tokens", "list")
	after, err := os.ReadFile(seen)
	if err != nil || len(entries("config")) != 2 {
		t.Fatal(err, entries("config"))
	}
	w.edit("policy: {max_age_days: 9}", "policy: {max_age_days: 900}")
	third, _ := os.ReadFile(w.config)
	// The file of the configuration to be is put there beforehand, or an older one, or none.
	for what, content := range map[string]string{"older": string(before), "edited": strings.Replace(string(after), "\"9\"", "\"900\"", 1), "none": ""} {
		w.write("tablexport.yaml", strings.Replace(string(third), "900", "9", 1)) // as it was
		w.must(exitOK, "tokens", "list")
		n := len(entries("policy"))
		w.write("tablexport.yaml", string(third))
		if err := os.WriteFile(seen, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if content == "" {
			_ = os.Remove(seen)
		}
		w.must(exitOK, "tokens", "list")
		configs, policies := entries("config"), entries("policy")
		last := configs[len(configs)-1]
		if last["tampered"] == nil || last["before"] != configs[len(configs)-2]["sha256"] || len(policies) != n+1 || !strings.Contains(fmt.Sprint(policies[n]), "policy.max_age_days:not known → 900") {
			t.Errorf("%s: %v %v", what, last, policies[n:])
		}
	}
	// An older file under an unchanged configuration is put right, and said.
	if err := os.WriteFile(seen, before, 0o600); err != nil {
		t.Fatal(err)
	}
	n, p := len(entries("config")), len(entries("policy"))
	w.must(exitOK, "tokens", "list")
	w.must(exitOK, "tokens", "list")
	if got := entries("config"); len(got) != n+1 || got[n]["tampered"] == nil || len(entries("policy")) != p {
		t.Errorf("%v", got[n:])
	}
	w.must(exitOK, "audit", "verify")
}

func TestTokensRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{})
	contains(t, w.must(exitUsage, "tokens", "request", "bi/reader").err, "has no application", "application: {uri:")
	w.edit("token: bi/reader,", "token: bi/reader, application: {uri: my.app/bi, name: Acme BI, redirect_uri: \"https://bi.acme.example/events\"},")
	link := strings.TrimSpace(w.must(exitOK, "tokens", "request", "bi/reader").out)
	u, err := url.Parse(link)
	if err != nil || u.Path != "/manage/apps/install" || u.Query().Get("applicationUri") != "my.app/bi" || u.Query().Get("serviceAccess") != "referenceToken" ||
		u.Query().Get("scope") != "read" || u.Query().Get("redirectUri") != "https://bi.acme.example/events" || u.Query().Get("requestSecret") != "" {
		t.Errorf("%s %v", link, err)
	}
}

// What breaks the policy is not lent, and says what to do; policy check gives the same verdicts; warn lends and writes it down.
func TestPolicyHoldsLoans(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}).stage()
	w.edit("stores:", "policy: {require_expiry: true}\nstores:")
	contains(t, w.must(exitCredential, "run", "shop").err, "require_expiry: its expiry is not known", "policy check")
	contains(t, w.must(exitCredential, "policy", "check").out, "BROKEN  sim              require_expiry", "describe bi/reader 1 --expires")
	w.must(exitUsage, "tokens", "describe", "bi/reader")
	w.must(exitUsage, "tokens", "describe", "bi/reader", "--expires", "soon")
	w.must(exitCredential, "tokens", "describe", "bi/reader", "7", "--owner", "Ada")
	expires := time.Now().AddDate(0, 0, 200).UTC().Format(time.DateOnly)
	w.must(exitOK, "tokens", "describe", "bi/reader", "--expires", expires, "--owner", "BI team")
	w.must(exitOK, "run", "shop")
	contains(t, w.must(exitOK, "policy", "check").out, "it expires at "+expires, "which it carries is not known")
	contains(t, w.must(exitOK, "tokens", "list").out, expires, "BI team")
	got := w.must(exitOK, "tokens", "show", "bi/reader")
	contains(t, got.out, "owner      BI team", "scopes     not known", "used ")
	line := objects(t, w.must(exitOK, "tokens", "show", "bi/reader", "1", "--json").out)[0]
	if uses, _ := line["uses"].([]any); line["expires"] != expires+"T00:00:00Z" || len(uses) != 1 {
		t.Errorf("%v", line)
	}
	w.must(exitCredential, "tokens", "show", "bi/reader", "9")
	w.must(exitOK, "tokens", "describe", "bi/reader", "1", "--scopes", "update,read")
	contains(t, w.must(exitCredential, "run", "shop").err, "scopes: it carries read update; allowed: read")
	w.edit("policy: {", "policy: {mode: warn, ")
	w.must(exitOK, "run", "shop")
	warned := false
	for _, e := range objects(t, w.must(exitOK, "audit", "tail", "-n", "100", "--json").out) {
		warned = warned || e["action"] == "lease" && strings.Contains(fmt.Sprint(e["detail"]), "policy:scopes: it carries read update")
	}
	if !warned {
		t.Error("the audit log does not say that the loan breaks the policy")
	}
}

// audited puts rows of its own into the tables that audits read, in front of the simulator.
func audited(next http.Handler, tables map[string][]map[string]any, asked *[]string) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		rows, ok := tables[name]
		if !ok {
			next.ServeHTTP(rw, r)
			return
		}
		*asked = append(*asked, name+"?"+r.URL.Query().Get("$select"))
		if rows == nil {
			rw.WriteHeader(http.StatusForbidden)
			return
		}
		if q := r.URL.Query(); q.Has("$skip") || strings.Contains(q.Get("$filter"), " ge ") {
			_, after, _ := strings.Cut(q.Get("$filter"), " ge ")
			after = strings.Trim(after, "'")
			rows = slices.DeleteFunc(slices.Clone(rows), func(row map[string]any) bool { return fmt.Sprint(row["key"]) < after })
			if n := q.Get("$skip"); n != "" && n != "0" {
				rows = rows[min(len(rows), 1):]
				if strings.TrimLeft(n, "0123456789") == "" && n != "1" {
					rows = nil
				}
			}
		}
		var value []map[string]any
		for _, row := range rows {
			one := map[string]any{}
			for _, c := range strings.Split(r.URL.Query().Get("$select"), ",") {
				one[c] = row[c]
			}
			value = append(value, one)
		}
		if value == nil {
			value = []map[string]any{}
		}
		rw.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(rw).Encode(map[string]any{"value": value})
	})
}

func TestTokensReport(t *testing.T) {
	t.Parallel()
	rows := map[string]int64{"Sec_Access_Tokens": 1, "Sec_Trusted_Applications": 1, "Dmv_Current_Sessions": 2, "Dmv_Licenses": 1}
	for name, n := range someRows {
		rows[name] = n
	}
	w := newWorld(t, simulator.Options{Rows: rows})
	id := func(n int) string { return fmt.Sprintf("00000000-0000-0000-0000-%012d", n) }
	ago := func(days int) string { return time.Now().AddDate(0, 0, -days).UTC().Format("2006-01-02T15:04:05Z") }
	token := func(n int, change map[string]any) map[string]any {
		row := map[string]any{"key": id(n), "Access_Token_Id": id(n), "Type": "reference_token", "Scopes": "read", "Creation_Timestamp": ago(10), "Expire_Timestamp": ago(-100),
			"Last_Used_Timestamp": ago(0), "Trusted_Application_Id": id(1), "User_Id": id(7)}
		for k, v := range change {
			row[k] = v
		}
		return row
	}
	tables := map[string][]map[string]any{
		"Sec_Trusted_Applications": {
			{"key": id(1), "Trusted_Application_Id": id(1), "Application_Uri": "my.app/bi", "Is_Enabled": true, "Scope": "read update", "Basic_Authentication_Allowed": true, "System_User_Id": id(7)},
			{"key": id(2), "Trusted_Application_Id": id(2), "Application_Uri": "other", "Is_Enabled": true, "Scope": "sec", "Basic_Authentication_Allowed": true, "System_User_Id": id(8)}},
		"Sec_Access_Tokens": {
			token(11, nil), token(12, map[string]any{"Scopes": "read update"}), token(13, map[string]any{"Expire_Timestamp": nil}), token(14, map[string]any{"Expire_Timestamp": ago(-1000)}),
			token(15, map[string]any{"Creation_Timestamp": ago(90), "Last_Used_Timestamp": nil}), token(16, map[string]any{"User_Id": id(99)}),
			token(17, map[string]any{"Expire_Timestamp": ago(1), "Scopes": "sec"}), token(18, map[string]any{"Trusted_Application_Id": id(2), "Scopes": "sec"}), token(19, map[string]any{"Type": "refresh_token", "Scopes": "sec"})},
		"Dmv_Licenses": nil,
	}
	var asked []string
	front := httptest.NewServer(audited(w.server, tables, &asked))
	defer front.Close()
	w.edit(w.address, front.URL)
	w.edit("token: bi/reader,", "token: bi/reader, application: {uri: my.app/bi},")
	w.edit("stores:", "policy: {require_expiry: true}\nstores:")
	w.mustWith(exitOK, testToken, "tokens", "stage", "bi/reader", "--activate", "--expires", "2099-01-01")
	out := filepath.Join(w.dir, "findings.parquet")
	lines := objects(t, w.must(exitOK, "tokens", "report", "--json", "--out", out).out)
	var got []string
	for _, l := range lines {
		got = append(got, fmt.Sprint(l["kind"], " ", strings.TrimPrefix(l["subject"].(string), "00000000-0000-0000-0000-0000000000")))
	}
	want := []string{"basic-auth 01", "over-privileged 01", "over-privileged 12", "no-expiry 13", "long-lived 14", "unused 15", "personal-token 16", "unknown-token my.app/bi", "not-readable Dmv_Licenses"}
	if !slices.Equal(got[:min(len(got), len(want))], want) {
		t.Errorf("found %v\nwant  %v", got, want)
	}
	for _, a := range asked {
		for _, secret := range []string{"Access_Token_Key", "Data", "Application_Secret_Hash", "Row_Version"} {
			if strings.Contains(a, secret) {
				t.Errorf("asked for %s", a)
			}
		}
	}
	type row struct {
		Kind string `parquet:"kind"`
	}
	if f := figuresOf(t, w)["sim"]; f.Licenses != -1 || f.Sessions < 0 || f.Ours < 0 || f.Findings != int64(len(lines)) {
		t.Errorf("figures: %+v", f)
	}
	if rows, err := parquet.ReadFile[row](out); err != nil || len(rows) != len(lines) {
		t.Errorf("%d rows in the file, %d findings: %v", len(rows), len(lines), err)
	}
	w.must(exitUsage, "tokens", "report", "--out", out)
	w.must(exitUsage, "tokens", "report", "--publish")
	w.edit("stores:", "reports: {tokens: {cron: \"0 6 * * *\", zone: UTC, store: lake}}\nstores:")
	for range 2 {
		contains(t, w.must(exitOK, "tokens", "report", "--publish").err, "published as version", "security/tokens")
	}
	w.reported(2*len(lines)+2, 2)
	w.edit("store: lake}}", "store: lake, keep: latest}}")
	w.must(exitOK, "tokens", "report", "--publish")
	w.reported(len(lines)+1, 1)
	// An instance that cannot be asked is in the report, and the command fails.
	front.Close()
	contains(t, w.must(exitUnavailable, "tokens", "report", "--publish").out, "failed")
	w.reported(1, 0)
}

// Where the instance shows its tokens, verify reads the scopes and the expiry of the new one, and refuses one that may write. Where it does not, the proof says so.
func TestVerifyLearnsScopes(t *testing.T) {
	t.Parallel()
	rows := map[string]int64{"Sec_Access_Tokens": 1, "Sec_Trusted_Applications": 1}
	for name, n := range someRows {
		rows[name] = n
	}
	w := newWorld(t, simulator.Options{Rows: rows})
	for _, token := range []simulator.Token{{Value: nextToken}, {Value: canaryToken}} {
		if err := w.server.Issue(token); err != nil {
			t.Fatal(err)
		}
	}
	id := func(n int) string { return fmt.Sprintf("00000000-0000-0000-0000-%012d", n) }
	at := func(d time.Duration) string { return time.Now().Add(d).UTC().Format("2006-01-02T15:04:05Z") }
	issued := func(n int, created time.Duration, scopes string) map[string]any {
		return map[string]any{"key": id(n), "Access_Token_Id": id(n), "Type": "reference_token", "Scopes": scopes, "Creation_Timestamp": at(created), "Expire_Timestamp": at(200 * 24 * time.Hour),
			"Trusted_Application_Id": id(1), "User_Id": id(7)}
	}
	tables := map[string][]map[string]any{
		"Sec_Trusted_Applications": {{"key": id(1), "Trusted_Application_Id": id(1), "Application_Uri": "my.app/bi", "Is_Enabled": true, "Scope": "read", "Basic_Authentication_Allowed": false, "System_User_Id": id(7)}},
		"Sec_Access_Tokens":        {issued(11, -time.Hour, "read"), issued(12, time.Hour, `["read","update"]`)},
	}
	var asked []string
	front := httptest.NewServer(audited(w.server, tables, &asked))
	defer front.Close()
	w.edit(w.address, front.URL)
	w.stage()
	proof := func() map[string]any {
		t.Helper()
		var found map[string]any
		for _, e := range objects(t, w.must(exitOK, "audit", "tail", "-n", "1000", "--json").out) {
			if e["action"] == "verify" && e["outcome"] == "ok" {
				found = e["detail"].(map[string]any)
			}
		}
		return found
	}
	if p := proof(); !strings.Contains(fmt.Sprint(p["scopes"]), "not shown") || !strings.Contains(fmt.Sprint(p["outside"]), "other tables") {
		t.Errorf("proof: %v", p)
	}
	w.edit("token: bi/reader,", "token: bi/reader, application: {uri: my.app/bi},")
	got := w.mustWith(exitCredential, nextToken, "tokens", "rotate", "bi/reader", "--stage-from", "stdin")
	contains(t, got.err, "policy scopes: it carries read update; allowed: read")
	w.must(exitOK, "tokens", "reject", "bi/reader", "2")
	tables["Sec_Access_Tokens"] = []map[string]any{issued(11, -time.Hour, "read"), issued(13, time.Hour, "read")}
	w.mustWith(exitOK, canaryToken, "tokens", "rotate", "bi/reader", "--stage-from", "stdin")
	line := objects(t, w.must(exitOK, "tokens", "show", "bi/reader", "3", "--json").out)[0]
	if p := proof(); line["scopes"] != "read" || line["expires"] == nil || p["scopes"] != "read" {
		t.Errorf("%v; proof %v", line, p)
	}
	// The instance says that somebody else uses the old one: it is not retired, revoked or not.
	w.server.Revoke(testToken)
	tables["Sec_Access_Tokens"][0]["Last_Used_Timestamp"] = at(30 * time.Minute)
	contains(t, w.must(exitUnavailable, "tokens", "retire", "bi/reader").err, "the instance says that version 1", "and not from here")
	tables["Sec_Access_Tokens"][0]["Last_Used_Timestamp"] = at(-5 * time.Minute) // as our own proof has left it, by a clock that is off
	w.must(exitOK, "tokens", "retire", "bi/reader")
	for _, e := range objects(t, w.must(exitOK, "audit", "tail", "-n", "1000", "--json").out) {
		if d, _ := e["detail"].(map[string]any); e["action"] == "retire" && e["outcome"] == "ok" && !strings.HasPrefix(fmt.Sprint(d["last_used"]), "20") {
			t.Errorf("proof: %v", d)
		}
	}
	for _, a := range asked {
		for _, secret := range []string{"Access_Token_Key", "Data", "Application_Secret_Hash"} {
			if strings.Contains(a, secret) {
				t.Errorf("asked for %s", a)
			}
		}
	}
	w.holdsNo(testToken, nextToken, canaryToken)
}

// figuresOf are the figures in the world's ledger.
func figuresOf(t *testing.T, w *world) map[string]ledger.Figures {
	t.Helper()
	l, err := ledger.Open(t.Context(), filepath.Join(w.dir, ".tablexport", "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	all, err := l.Figures(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// reported demands that the dataset of reports has so many rows, and so many of kind report.
func (w *world) reported(rows, reports int) {
	w.t.Helper()
	b, err := filestore.Open(filepath.Join(w.dir, "lake"))
	if err != nil {
		w.t.Fatal(err)
	}
	d := export.Open(b, "security/tokens")
	s, err := d.Snapshot(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	n, r := 0, 0
	for _, f := range s.Files {
		for rec, err := range d.Records(w.t.Context(), s, f, []string{"kind"}, 0) {
			if err != nil {
				w.t.Fatal(err)
			}
			n += int(rec.NumRows())
			for i := range int(rec.NumRows()) {
				if rec.Column(0).(*array.String).Value(i) == "report" {
					r++
				}
			}
		}
	}
	if n != rows || r != reports {
		w.t.Errorf("%d rows are published, %d of kind report; want %d, %d", n, r, rows, reports)
	}
}

// The report of serve is made when its tick has come, once for all that were missed, also if the program was not running then; one that fails waits for the
// next tick and is told.
func TestScheduledReport(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{Rows: map[string]int64{"Dmv_Licenses": 2, "Crm_Sales_Orders": 20, "Crm_Sales_Order_Lines": 20, "Gen_Products": 5, "Inv_Stores": 2}}).stage()
	w.edit("stores:", "reports: {tokens: {cron: \"0 6 * * *\", zone: UTC, store: lake}}\nstores:")
	a, err := (&globals{stdio: stdio{strings.NewReader(""), &buffer{}, &buffer{}}, config: w.config}).open()
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	l, err := a.ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	channel := &toldChannel{}
	desk := &alert.Desk{Channels: map[string]alert.Channel{"test": channel}, Store: alertStore(l), Log: a.logger()}
	stop, err := desk.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	begun := time.Now().Round(0)
	d := &daemon{app: a, log: a.logger(), uses: &sync.WaitGroup{}, begun: begun, watcher: &watcher{desk: desk, ledger: l}}
	if tried := d.reportDue(t.Context(), begun, begun); !tried.Equal(begun) || len(figuresOf(t, w)) != 0 {
		t.Error("reported before its time")
	}
	tomorrow := begun.Add(25 * time.Hour)
	tried := d.reportDue(t.Context(), tomorrow, begun)
	if !tried.Equal(tomorrow) || len(figuresOf(t, w)) != 1 {
		t.Fatalf("not reported: %v", tried)
	}
	d.reportDue(t.Context(), tomorrow.Add(time.Minute), tried)
	first := figuresOf(t, w)["sim"].Taken
	// As at a start three days later: the last one is known from the ledger, and what was missed is one report.
	d.begun = begun.Add(72 * time.Hour)
	tried = d.reportDue(t.Context(), d.begun, d.begun)
	if got := figuresOf(t, w)["sim"].Taken; !got.After(first) || !tried.Equal(d.begun) {
		t.Error("what was missed is not reported")
	}
	// The instance of this test does not show its tokens: what we know ourselves is held to the policy.
	w.must(exitOK, "tokens", "describe", "bi/reader", "--expires", time.Now().AddDate(0, 0, 5).UTC().Format(time.RFC3339), "--scopes", "read,update")
	contains(t, w.must(exitCredential, "tokens", "report").out, "failed", "scopes: it carries read update")
	w.edit("reports: {tokens", "policy: {mode: warn}\nreports: {tokens")
	contains(t, w.must(exitOK, "tokens", "report").out, "expires            sim", "over-privileged    sim", "bi/reader version 1")
	w.must(exitOK, "tokens", "describe", "bi/reader", "--scopes", "read")
	w.stop()
	at := d.begun.Add(25 * time.Hour)
	if tried = d.reportDue(t.Context(), at, tried); !tried.Equal(at) {
		t.Error("a report that failed is tried at once")
	}
	until(t, "the alert", func() bool { return len(channel.keys()) == 1 })
	w.holdsNo(testToken)
}

// signedMarket is a Marketplace, by the address of its document, and an event of it that brings a token to the instance at an address.
func signedMarket(t *testing.T, instance, token string) (document, event string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	market := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/key" {
			der, _ := x509.MarshalPKIXPublicKey(&key.PublicKey)
			_ = pem.Encode(rw, &pem.Block{Type: "PUBLIC KEY", Bytes: der})
			return
		}
		_, _ = fmt.Fprint(rw, `{"endpoints":{"public_key":"/key"}}`)
	}))
	t.Cleanup(market.Close)
	payload := fmt.Sprintf(`{"schema":"erpnet.appLifecycleEvent.v1","eventId":%q,"event":"installed","occurredAt":%q,"instanceBaseUrl":%q,"user":"admin","referenceToken":%q,"request":{"applicationUri":"my.app/bi"}}`,
		uuid.NewString(), time.Now().UTC().Format(time.RFC3339), instance, token)
	sum := sha256.Sum256([]byte(payload))
	sig, _ := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	event = fmt.Sprintf(`{"schema":"erpnet.appLifecycleEvent.v2","signature":%q,"payload":%s}`, base64.StdEncoding.EncodeToString(sig), payload)
	return market.URL + "/marketplace.json", event
}

// post sends an event to a handler, and gives its answer's status.
func post(handler http.Handler, event string) int {
	rw := httptest.NewRecorder()
	handler.ServeHTTP(rw, httptest.NewRequest(http.MethodPost, "/events/lifecycle", strings.NewReader(event)))
	return rw.Code
}

// An event that the Marketplace signed puts its token into the staged slot; the rotation takes it from there.
func TestEventToRotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}).stage()
	w.edit("token: bi/reader,", "token: bi/reader, application: {uri: my.app/bi, redirect_uri: \"https://bi.acme.example/events\"},")
	if err := w.server.Issue(simulator.Token{Value: nextToken}); err != nil {
		t.Fatal(err)
	}
	var out, said buffer
	a, err := (&globals{stdio: stdio{strings.NewReader(""), &out, &said}, config: w.config}).open()
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	d := &daemon{app: a, log: a.logger()}
	market, body := signedMarket(t, w.address, nextToken)
	handler := d.receiver(market)
	for range 2 {
		if code := post(handler, body); code != http.StatusOK {
			t.Fatalf("answer %d", code)
		}
	}
	// Where nobody expects events there is nothing, and the pages are where they were.
	plain := newWorld(t, simulator.Options{})
	b, err := (&globals{stdio: stdio{strings.NewReader(""), &out, &said}, config: plain.config}).open()
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	d.app = b
	if code := post(handler, body); code != http.StatusNotFound {
		t.Errorf("answer %d", code)
	}
	if w.states() != "active staged" {
		t.Fatal(w.states())
	}
	contains(t, w.must(exitOK, "tokens", "rotate", "bi/reader").out, "version 2 is active")
	contains(t, w.must(exitOK, "audit", "tail", "-n", "100").out, "event", "marketplace")
	w.said.WriteString(out.String() + said.String())
	w.holdsNo(nextToken, testToken)
}

// A program that goes on signs its audit log while it does.
func TestSigningWhileServing(t *testing.T) {
	t.Parallel()
	w := signedWorld(t)
	if err := os.RemoveAll(filepath.Join(w.dir, "lake", "evidence")); err != nil {
		t.Fatal(err)
	}
	var out, said buffer
	a, err := (&globals{stdio: stdio{strings.NewReader(""), &out, &said}, config: w.config}).open()
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	ctx, stop := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() {
		defer close(over)
		(&daemon{app: a, log: a.logger()}).signing(ctx, 10*time.Millisecond)
	}()
	until(t, "a checkpoint", func() bool {
		found, _ := filepath.Glob(filepath.Join(w.dir, "lake", "evidence", "audit", "*", "*.json"))
		return len(found) > 0
	})
	stop()
	<-over
}

// No report asks for a column that the model knows to hold a secret, whatever the instance has.
func TestReportTablesHoldNoSecrets(t *testing.T) {
	t.Parallel()
	model := edm.Embedded()
	for _, table := range (&reconciliation{}).tables() {
		known, ok := model.Table(table.name)
		if !ok {
			t.Errorf("%s is not in the model", table.name)
			continue
		}
		for _, name := range table.columns {
			if c, ok := known.Column(name); !ok || c.Secret {
				t.Errorf("%s.%s: known %v, secret %v", table.name, name, ok, ok && c.Secret)
			}
		}
	}
	for table, columns := range map[string][]string{"Sec_Access_Tokens": {"Data", "Access_Token_Key"}, "Sec_Trusted_Applications": {"Application_Secret_Hash"}} {
		known, _ := model.Table(table)
		for _, name := range columns {
			if c, ok := known.Column(name); ok && !c.Secret {
				t.Errorf("%s.%s is not known to be secret", table, name)
			}
		}
	}
}
