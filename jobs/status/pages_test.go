package status

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/store/memstore"
	"github.com/tablexport/tablexport/jobs/ledger"
)

const evil = `<script>alert("x")</script>`

// staged is a stage with something of everything on it; texts that others may have written try to become HTML.
func staged(t testing.TB) (*stage, http.Handler) {
	t.Helper()
	s, m := full(t)
	ctx := t.Context()
	at := time.Date(2026, 11, 25, 5, 15, 0, 0, time.UTC)
	j := s.jobs["orders"]
	j.Description, j.Owner, j.Table, j.Cron, j.Zone, j.Why, j.FreshWithin = evil, "olga", "Crm_Sales_Orders", "15 5 * * *", "Europe/Sofia", "it waits for its turn", time.Minute
	s.jobs["orders"] = j
	s.jobs["fresh"] = Job{Name: "fresh", Instance: "acme", FreshWithin: time.Hour, Run: "r-fresh", After: []string{"orders"}}
	s.run(t, "fresh", time.Now().Add(-time.Minute), 1)
	r := ledger.Run{ID: "r1", Job: "orders", Table: "T", Dataset: "/lake/orders", Process: "p", Started: at.Add(2 * time.Hour)}
	if err := errors.Join(s.Ledger.Start(ctx, r), s.Ledger.Step(ctx, ledger.Step{Run: "r1", Name: "reading", Attempt: 1, Started: r.Started}, 0)); err != nil {
		t.Fatal(err)
	}
	r.State, r.Class, r.Error, r.Ended, r.Version = ledger.Failed, "scope", evil, r.Started.Add(90*time.Second), -1
	r.Evidence = `{"paging":"key","order":"requested","rows":1234567,"distinctKeys":1234567,"firstKey":"KEY-OF-A-ROW","lastKey":"KEY-OF-A-ROW","end":"empty page"}`
	lock, err := s.Ledger.Lock(ctx, "x", "p", time.Minute, func(string) bool { return true })
	if err == nil {
		_, err = s.Ledger.Advance(ctx, lock, ledger.Move{Clock: ledger.Clock{Job: "orders", Upto: at}, Ticks: []ledger.Tick{{Job: "orders", At: at, Until: at.Add(time.Hour), Count: 3, Outcome: ledger.Skipped, Reason: evil, Decided: at}}})
	}
	if err := errors.Join(err, s.Ledger.Finish(ctx, r)); err != nil {
		t.Fatal(err)
	}
	s.Alerts = func() []Alert {
		return []Alert{{Key: "k", Kind: "failure", Severity: "warning", Title: evil, Since: at}}
	}
	s.Tokens = func(context.Context) ([]Token, error) {
		return []Token{{Name: "bi/reader", State: "active", Fingerprint: "fp:1234", Bound: "acme", Version: 2, Created: at}}, nil
	}
	s.Dataset = func(_ context.Context, job string) (*export.Dataset, error) {
		if s.jobs[job].Name == "" {
			return nil, errNone
		}
		return export.Open(memstore.New(), "orders"), nil
	}
	return s, Handler(s.Source, m, slog.New(slog.DiscardHandler))
}

// Every page is there, says what it is to say, is HTML with landmarks, runs no script and lets no text become markup.
func TestPages(t *testing.T) {
	s, h := staged(t)
	for path, wants := range map[string][]string{
		"/":                    {"<b>1</b> not fresh", "stale", "fresh", "Last good version", "/jobs/orders", "<b>1</b> failed last", "paused", "running", "Open alerts"},
		"/jobs/orders":         {"olga", "15 5 * * *", "Europe/Sofia", "and 3 in all", "<rect class=\"failed\"", "Crm_Sales_Orders", "paused</span> since", "it waits for its turn"},
		"/jobs/fresh":          {"after orders"},
		"/jobs/orders/dataset": {"Nothing was published yet"},
		"/runs":                {"/runs/r1", "scope", "failed"},
		"/runs?job=orders":     {"/runs/r1"},
		"/runs/r1":             {"What to do:", "A row outside the job", "1,234,567", "reading", "1m30s", "nothing; the version before stands"},
		"/instances":           {"half-open", "1 of 2 at once", "Left alone", "no answer × 1", "200 × 9"},
		"/tokens":              {"bi/reader", "fp:1234", "active"},
		"/style.css":           {"prefers-color-scheme: dark"},
	} {
		code, text := get(t, h, path)
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks %q:\n%s", path, want, text)
			}
		}
		if code != 200 || strings.Contains(text, "<script") || strings.Contains(text, "KEY-OF-A-ROW") || strings.Contains(text, "ZgotmplZ") || strings.Contains(text, " style=") {
			t.Errorf("%s: %d\n%s", path, code, text)
		}
		if path != "/style.css" {
			for _, want := range []string{`<html lang="en">`, "<main id=\"main\">", "<nav aria-label=", "<h1>", "viewport", `href="#main"`} {
				if strings.Count(text, want) != 1 {
					t.Errorf("%s: %q is there %d times", path, want, strings.Count(text, want))
				}
			}
			links(t, h, path, text)
		}
	}
	for _, path := range []string{"/jobs/nope", "/jobs/nope/dataset", "/runs/nope", "/runs?before=nope", "/nope"} {
		if code, text := get(t, h, path); code != 404 || !strings.Contains(text, "<h1>Not found") {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
	s.dead = errors.New("/secret/path is gone")
	for _, path := range []string{"/", "/jobs/orders", "/instances"} {
		if code, text := get(t, h, path); code != 503 || strings.Contains(text, "secret") {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
}

// links demands that what a page links to is there.
func links(t *testing.T, h http.Handler, page, text string) {
	t.Helper()
	for _, m := range regexp.MustCompile(`href="(/[^"]*)"`).FindAllStringSubmatch(text, -1) {
		if strings.Contains(m[1], "r-fresh") {
			continue
		}
		path := strings.ReplaceAll(m[1], "&#43;", "+")
		if code, _ := get(t, h, path); code != 200 {
			t.Errorf("%s links to %s, which answers %d", page, m[1], code)
		}
	}
}

// The API answers as its document says, and the document names every route there is.
func TestAPI(t *testing.T) {
	s, h := staged(t)
	code, text := get(t, h, "/api/v1/openapi.json")
	var doc struct {
		OpenAPI string                               `json:"openapi"`
		Paths   map[string]map[string]map[string]any `json:"paths"`
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil || code != 200 || doc.OpenAPI != "3.1.0" {
		t.Fatal(code, err)
	}
	tree, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("openapi.json", tree); err != nil {
		t.Fatal(err)
	}
	check := func(path, query string, status int) {
		t.Helper()
		where := strings.NewReplacer("{job}", "orders", "{run}", "r1").Replace(path)
		if status == 404 {
			where = strings.NewReplacer("{job}", "nope", "{run}", "nope").Replace(path)
		}
		code, body := get(t, h, "/api/v1"+where+query)
		responses := doc.Paths[path]["get"]["responses"].(map[string]any)
		answer, ok := responses[fmt.Sprint(code)].(map[string]any)
		if code != status || !ok {
			t.Errorf("%s%s: %d, want %d: %s", where, query, code, status, body)
			return
		}
		ref := answer["content"].(map[string]any)["application/json"].(map[string]any)["schema"].(map[string]any)["$ref"].(string)
		schema, err := compiler.Compile("openapi.json" + ref)
		if err != nil {
			t.Fatal(err)
		}
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
		if err == nil {
			err = schema.Validate(v)
		}
		if err != nil || strings.Contains(body, "KEY-OF-A-ROW") || strings.Contains(body, "secret") {
			t.Errorf("%s%s: %v\n%s", where, query, err, body)
		}
	}
	for path := range doc.Paths {
		if doc.Paths[path]["get"] == nil {
			continue // TestOrders
		}
		check(path, "", 200)
		if strings.Contains(path, "{") {
			check(path, "", 404)
		}
	}
	check("/runs", "?limit=1&job=orders&state=failed", 200)
	for _, bad := range []string{"?limit=0", "?limit=x", "?limit=1001", "?state=gone"} {
		check("/runs", bad, 400)
	}
	check("/ticks", "?limit=-1", 400)
	s.dead = errors.New("/secret/path is gone")
	check("/jobs", "", 503)
	s.dead = nil
	// Pages of runs follow one another.
	seen := map[string]bool{}
	for before := ""; ; {
		_, body := get(t, h, "/api/v1/runs?limit=1&before="+url.QueryEscape(before))
		var page RunsAnswer
		if err := json.Unmarshal([]byte(body), &page); err != nil {
			t.Fatal(err, body)
		}
		for _, r := range page.Runs {
			seen[r.ID] = true
		}
		if before = page.Before; before == "" {
			break
		}
	}
	if len(seen) != 4 {
		t.Errorf("%d runs", len(seen))
	}
}

// Nothing can be changed, whatever the method; other names than this machine's are refused.
func TestReadOnly(t *testing.T) {
	_, h := staged(t)
	for _, path := range []string{"/", "/jobs/orders", "/runs", "/runs/r1", "/instances", "/tokens", "/api/v1/jobs", "/api/v1/runs/r1", "/metrics", "/healthz", "/style.css"} {
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, "TRACE", "CONNECT", "PROPFIND"} {
			w := httptest.NewRecorder()
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost"+path, strings.NewReader("x"))
			r.Method = method
			h.ServeHTTP(w, r)
			if w.Code != http.StatusMethodNotAllowed && w.Code != http.StatusNotFound {
				t.Errorf("%s %s: %d", method, path, w.Code)
			}
		}
		for host, want := range map[string]int{"evil.example": 421, "evil.example:8750": 421, "127.0.0.1.evil.example": 421, "10.0.0.1": 421, "": 421, "localhost:8750": 200, "[::1]:8750": 200, "127.0.0.1": 200} {
			w := httptest.NewRecorder()
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1"+path, nil)
			r.Host = host
			h.ServeHTTP(w, r)
			if w.Code != want {
				t.Errorf("%s for %q: %d", path, host, w.Code)
			}
		}
	}
}

// BenchmarkOverview is the overview with 1,000 jobs and 100,000 runs.
func BenchmarkOverview(b *testing.B) {
	s := newStage(b)
	began := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	fill(b, s.Ledger, 1000, 100_000, began)
	for i := range 1000 {
		name := fmt.Sprintf("job-%04d", i)
		s.jobs[name] = Job{Name: name, Instance: "acme", Table: "T", FreshWithin: time.Hour, Next: time.Now().Add(time.Hour), Cron: "* * * * *", Zone: "UTC"}
	}
	h := Handler(s.Source, NewMetrics(s.Source), slog.New(slog.DiscardHandler))
	for b.Loop() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(b.Context(), http.MethodGet, "http://127.0.0.1/", nil))
		if n, err := io.Copy(io.Discard, w.Body); w.Code != 200 || n < 100_000 || err != nil {
			b.Fatal(w.Code, n, err)
		}
	}
}

// fill writes runs of jobs into a ledger's file behind its back, in one transaction: one by one they would take minutes.
func fill(b *testing.B, l *ledger.Ledger, jobs, runs int, began time.Time) {
	b.Helper()
	db, err := sql.Open("sqlite", l.Path())
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	tx, err := db.BeginTx(b.Context(), nil)
	if err != nil {
		b.Fatal(err)
	}
	insert, err := tx.PrepareContext(b.Context(), `INSERT INTO runs (id, job, table_name, dataset, state, version, process, started) VALUES (?, ?, 't', 'd', 'running', -1, 'p', ?)`)
	if err != nil {
		b.Fatal(err)
	}
	defer insert.Close()
	update, err := tx.PrepareContext(b.Context(), `UPDATE runs SET state='succeeded', version=?, row_count=42, ended=? WHERE id=?`)
	if err != nil {
		b.Fatal(err)
	}
	defer update.Close()
	for i := range runs {
		at := began.Add(time.Duration(i) * time.Second)
		id := fmt.Sprintf("run-%08d", i)
		_, err := insert.ExecContext(b.Context(), id, fmt.Sprintf("job-%04d", i%jobs), at.UnixMicro())
		if err == nil {
			_, err = update.ExecContext(b.Context(), i, at.Add(time.Second).UnixMicro(), id)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		b.Fatal(err)
	}
}
