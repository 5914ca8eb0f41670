package status

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/lease"
	"github.com/tablexport/tablexport/jobs/gate"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/odata/evidence"
)

//go:embed pages
var files embed.FS

// templates are the pages. A broken one shows in every test, so it may panic here.
var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"stamp": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"when": func(t time.Time) string {
		if t.IsZero() {
			return "–"
		}
		return t.UTC().Format("2006-01-02 15:04:05 UTC")
	},
	"local": func(t time.Time) string { return t.Format("Mon 2006-01-02 15:04 MST") },
	"took": func(from, to time.Time) string {
		if to.IsZero() {
			return "–"
		}
		return to.Sub(from).Round(100 * time.Millisecond).String()
	},
	"count": grouped, "size": size, "join": func(s []string) string { return strings.Join(s, ", ") },
}).ParseFS(files, "pages/*.html"))

// grouped writes 1,234,567.
func grouped(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// size writes bytes: 1.5 MiB.
func size(n int64) string {
	f, unit := float64(n), 0
	for f >= 1024 && unit < 5 {
		f /= 1024
		unit++
	}
	if unit == 0 {
		return strconv.FormatInt(n, 10) + " B"
	}
	return fmt.Sprintf("%.1f %ciB", f, " KMGTP"[unit])
}

// page is what every page has.
type page struct {
	Title, Version string
	Now            time.Time
	Nav            []link
	Body           any
}

type link struct {
	Href, Text string
	Here       bool
}

// pages answers with pages for people.
type pages struct {
	Source
	log    *slog.Logger
	stores *stores
}

func (p *pages) routes(mux *gate.Mux) {
	for name, kind := range map[string]string{"style.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml"} {
		text, err := fs.ReadFile(files, "pages/"+name)
		if err != nil {
			panic(err) // it is embedded
		}
		mux.HandleFunc(gate.View, "GET /"+name, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			_, _ = w.Write(text) // the reader is gone, or it has got it
		})
	}
	mux.HandleFunc(gate.View, "GET /{$}", p.overview)
	mux.HandleFunc(gate.View, "GET /jobs/{job}", p.job)
	mux.HandleFunc(gate.View, "GET /jobs/{job}/dataset", p.dataset)
	mux.HandleFunc(gate.View, "GET /runs", p.history)
	mux.HandleFunc(gate.View, "GET /runs/{run}", p.run)
	mux.HandleFunc(gate.View, "GET /instances", p.instances)
	mux.HandleFunc(gate.Audit, "GET /tokens", p.tokens)
	mux.HandleFunc(gate.View, "GET /", func(w http.ResponseWriter, r *http.Request) { p.trouble(w, r, errNone) })
}

// show writes a page. It is made whole first: half a page is none.
func (p *pages) show(w http.ResponseWriter, r *http.Request, status int, name, title string, body any) {
	nav := []link{{Href: "/", Text: "Overview"}, {Href: "/runs", Text: "Runs"}, {Href: "/instances", Text: "Instances"}}
	if gate.From(r.Context()).May(gate.Audit) {
		nav = append(nav, link{Href: "/tokens", Text: "Tokens"})
	}
	for i := range nav {
		nav[i].Here = nav[i].Href == r.URL.Path
	}
	var b bytes.Buffer
	if err := templates.ExecuteTemplate(&b, name, page{Title: title, Version: p.Version, Now: time.Now(), Nav: nav, Body: body}); err != nil {
		p.log.Error("a page could not be made", "page", name, "error", err)
		http.Error(w, "the page could not be made; see the log", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the reader is gone, or it has got it
}

// errNone says that there is nothing of that name.
var errNone = errors.New("there is no such page, job or run")

// trouble shows what kept a page from being made. An error's own text may name paths: it is for the log.
func (p *pages) trouble(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, errNone) || errors.Is(err, ledger.ErrNotFound) {
		p.show(w, r, http.StatusNotFound, "trouble", "Not found", "There is no such page, job or run.")
		return
	}
	p.log.Error("a page could not be made", "path", r.URL.Path, "error", err)
	p.show(w, r, http.StatusServiceUnavailable, "trouble", "Not now", "What this page shows cannot be read at the moment. The log says why.")
}

// JobView is a job with what the ledger knows of it.
type JobView struct {
	Job
	Fresh    string        `json:"fresh"` // "fresh", "stale", "never" (published), "unwatched" (no fresh_within)
	Latest   ledger.Latest `json:"latest"`
	Paused   time.Time     `json:"paused,omitzero"`
	PausedBy string        `json:"pausedBy,omitempty"`
	PauseWhy string        `json:"pauseWhy,omitempty"`
}

// views are all jobs, by name.
func (s Source) views(ctx context.Context) ([]JobView, error) {
	jobs, _, err := s.Now(ctx)
	if err != nil {
		return nil, err
	}
	latest, err := s.Ledger.Latest(ctx)
	if err != nil {
		return nil, err
	}
	clocks, err := s.Ledger.Clocks(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	out := make([]JobView, 0, len(jobs))
	for name, j := range jobs {
		v := JobView{Job: j, Latest: latest[name], Paused: clocks[name].Paused, PausedBy: clocks[name].PausedBy, PauseWhy: clocks[name].Why}
		if v.Latest.Job == "" {
			v.Latest = ledger.Latest{Job: name, Version: -1}
		}
		v.Fresh = freshness(v, now)
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b JobView) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func freshness(v JobView, now time.Time) string {
	switch {
	case v.Latest.Published == "":
		return "never"
	case v.FreshWithin == 0:
		return "unwatched"
	case now.Sub(v.Latest.PublishedStarted) > v.FreshWithin:
		return "stale"
	}
	return "fresh"
}

func (p *pages) overview(w http.ResponseWriter, r *http.Request) {
	views, err := p.views(r.Context())
	if err != nil {
		p.trouble(w, r, err)
		return
	}
	body := struct {
		Jobs                                    []JobView
		Alerts                                  []Alert
		Stale, Failed, Running, Waiting, Paused int
	}{Jobs: views}
	if p.Alerts != nil {
		body.Alerts = p.Alerts()
	}
	for _, v := range views {
		if v.Fresh == "stale" || v.Fresh == "never" && v.FreshWithin > 0 {
			body.Stale++
		}
		if v.Latest.State == ledger.Failed || v.Latest.State == ledger.Interrupted {
			body.Failed++
		}
		if v.Run != "" {
			body.Running++
		}
		if !v.Paused.IsZero() {
			body.Paused++
		}
		body.Waiting += v.Waiting
	}
	p.show(w, r, http.StatusOK, "overview", "Overview", body)
}

// view is one job, or errNone.
func (s Source) view(ctx context.Context, name string) (JobView, error) {
	views, err := s.views(ctx)
	if err != nil {
		return JobView{}, err
	}
	for _, v := range views {
		if v.Name == name {
			return v, nil
		}
	}
	return JobView{}, errNone
}

func (p *pages) job(w http.ResponseWriter, r *http.Request) {
	v, err := p.view(r.Context(), r.PathValue("job"))
	var runs []ledger.Run
	var ticks []ledger.Tick
	if err == nil {
		runs, err = p.Ledger.List(r.Context(), ledger.Query{Job: v.Name, Limit: 50})
	}
	if err == nil {
		ticks, err = p.Ledger.Ticks(r.Context(), ledger.TickQuery{Job: v.Name, Limit: 20})
	}
	if err != nil {
		p.trouble(w, r, err)
		return
	}
	p.show(w, r, http.StatusOK, "job", v.Name, struct {
		Job    JobView
		Runs   []ledger.Run
		Ticks  []ledger.Tick
		Charts []chart
		Heat   *heatMap
	}{v, runs, ticks, charts(runs), p.windows(r.Context(), v.Job)})
}

// chart is runs as bars, oldest first.
type chart struct {
	Title, Most string // Most is what the highest bar stands for
	Bars        []bar
}

type bar struct {
	Run, Text  string
	State      ledger.State
	X, Y, W, H float64
}

// charts are how long runs took and how many rows they published; none for fewer than two runs.
func charts(runs []ledger.Run) []chart {
	over := slices.DeleteFunc(slices.Clone(runs), func(r ledger.Run) bool { return r.Ended.IsZero() })
	if len(over) < 2 {
		return nil
	}
	slices.Reverse(over)
	took := func(r ledger.Run) time.Duration { return r.Ended.Sub(r.Started) }
	longest, most := time.Duration(0), int64(0)
	for _, r := range over {
		longest, most = max(longest, took(r)), max(most, r.Rows)
	}
	return []chart{
		{"Duration", longest.Round(100 * time.Millisecond).String(), bars(over, func(r ledger.Run) float64 { return share(took(r).Seconds(), longest.Seconds()) })},
		{"Rows", grouped(most), bars(over, func(r ledger.Run) float64 { return share(float64(r.Rows), float64(most)) })},
	}
}

func share(part, whole float64) float64 {
	if whole <= 0 {
		return 0
	}
	return part / whole
}

func bars(runs []ledger.Run, height func(ledger.Run) float64) []bar {
	var out []bar
	step := 600 / float64(max(len(runs), 20))
	for i, r := range runs {
		h := max(3, 118*height(r))
		out = append(out, bar{Run: r.ID, State: r.State, X: float64(i) * step, Y: 120 - h, W: step * 0.8, H: h,
			Text: fmt.Sprintf("%s: %s, %s, %s rows", r.Started.Format("2006-01-02 15:04"), r.State, r.Ended.Sub(r.Started).Round(time.Second), grouped(r.Rows))})
	}
	return out
}

func (p *pages) history(w http.ResponseWriter, r *http.Request) {
	runs, more, err := p.list(r, 50)
	if err != nil {
		p.trouble(w, r, err)
		return
	}
	p.show(w, r, http.StatusOK, "history", "Runs", struct {
		Runs []ledger.Run
		More string
	}{runs, more})
}

// list is a page of runs as the request asks for it; more is the last one's id if there may be others behind it.
func (s Source) list(r *http.Request, limit int) (runs []ledger.Run, more string, err error) {
	q := ledger.Query{Job: r.URL.Query().Get("job"), State: ledger.State(r.URL.Query().Get("state")), Limit: limit}
	if before := r.URL.Query().Get("before"); before != "" {
		last, err := s.Ledger.Get(r.Context(), before)
		if err != nil {
			return nil, "", err
		}
		q.Before = &last
	}
	runs, err = s.Ledger.List(r.Context(), q)
	if len(runs) == limit {
		more = runs[limit-1].ID
	}
	return runs, more, err
}

type fact struct{ Name, Value string }

func (p *pages) run(w http.ResponseWriter, r *http.Request) {
	run, err := p.Ledger.Get(r.Context(), r.PathValue("run"))
	var steps []ledger.Step
	if err == nil {
		steps, err = p.Ledger.Steps(r.Context(), run.ID)
	}
	if err != nil {
		p.trouble(w, r, err)
		return
	}
	meaning, do := advice(run)
	p.show(w, r, http.StatusOK, "run", "Run of "+run.Job, struct {
		Run         ledger.Run
		Steps       []ledger.Step
		Evidence    []fact
		Meaning, Do string
	}{run, steps, facts(run.Evidence), meaning, do})
}

// advice says what a run's error means, and what to do.
func advice(r ledger.Run) (meaning, do string) {
	if r.State == ledger.Interrupted {
		return "The program ended in the middle of the run.", "Nothing: the clock runs the tick again, as the job's late says."
	}
	a, ok := map[string][2]string{
		"transient":  {"Something failed that may pass by itself.", "Nothing at first: it is tried again. If it stays, ask the instance's or the store's administrator."},
		"later":      {"A service did not answer, or asked to come back later.", "Nothing at first: the run waits and is tried again. If it stays, ask that service's administrator."},
		"credential": {"A token or a login is missing, wrong, expired or not allowed.", "Look at the token (tablexport tokens list) and try it (tablexport check --online)."},
		"scope":      {"A row outside the job's scope came back. Nothing was published.", "Compare the scope's where with what the token may see, and tell whoever is responsible for the data."},
		"data":       {"The data is not what it must be, so it was not published.", "Read the error: it names table, column and row number. Run the job again with --verbose to see the scans."},
		"config":     {"The configuration has to change.", "Read the error, change the file, and check it: tablexport check --online"},
		"conflict":   {"Someone else has written the dataset at the same time.", "Find out who else writes it: tablexport datasets show"},
		"canceled":   {"A person has stopped it.", "Nothing, or run it again."},
		"bug":        {"This is a fault of tablexport.", "Please report it, with the run's error."},
	}[r.Class]
	if !ok {
		return "It failed for a reason that has no name here.", "Read the error."
	}
	return a[0], a[1]
}

// facts are a run's evidence for people. Keys of rows are left out.
func facts(text string) []fact {
	var e evidence.Evidence
	if text == "" || json.Unmarshal([]byte(text), &e) != nil {
		return nil
	}
	out := []fact{{"Rows", grouped(e.Rows)}, {"Paging", e.Paging + ", order " + string(e.Order)}, {"End seen by", string(e.End)},
		{"Requests", fmt.Sprintf("%s, of them %d repeated", grouped(e.Requests), e.Retries)}, {"Pages", grouped(e.Pages)}}
	if e.DistinctKeys >= 0 {
		out = append(out, fact{"Distinct keys", grouped(e.DistinctKeys)})
	}
	if e.CountBefore != nil && e.CountAfter != nil {
		out = append(out, fact{"Count of the server", grouped(*e.CountBefore) + " before and " + grouped(*e.CountAfter) + " after"})
	}
	if e.Confirmed {
		out = append(out, fact{"Confirmed", "a second pass saw the same rows"})
	}
	return out
}

// stores is what pages and API show of datasets.
type stores struct {
	Source
	windows  memo[[]export.Window]
	datasets memo[DatasetView]
}

func newStores(s Source) *stores {
	return &stores{Source: s, windows: memo[[]export.Window]{keep: storeKeep, wait: storeWait, most: 500}, datasets: memo[DatasetView]{keep: storeKeep, wait: storeWait, most: 100}}
}

// DatasetView is a dataset as it is published.
type DatasetView struct {
	Job      string           `json:"job"`
	Location string           `json:"location"`
	Version  int64            `json:"version"` // -1: nothing was published yet
	Columns  []ColumnView     `json:"columns"`
	Versions []export.Version `json:"versions"` // the newest 20, newest first
	Leases   []lease.Claim    `json:"leases"`   // of whoever refreshes it now

	snippets []fact
}

// ColumnView is a column with its description from the table model.
type ColumnView struct {
	Name     string `json:"name"`
	Type     string `json:"type"`
	Nullable bool   `json:"nullable"`
	Comment  string `json:"comment,omitempty"`
}

// published reads a job's dataset; an unknown job is errNone.
func (s *stores) published(ctx context.Context, name string) (DatasetView, error) {
	if _, err := s.view(ctx, name); err != nil {
		return DatasetView{}, err
	}
	if s.Dataset == nil {
		return DatasetView{}, errNone
	}
	return s.datasets.get(ctx, name, func(ctx context.Context) (DatasetView, error) { return s.read(ctx, name) })
}

func (s *stores) read(ctx context.Context, name string) (DatasetView, error) {
	d, err := s.Dataset(ctx, name)
	if err != nil {
		return DatasetView{}, err
	}
	v := DatasetView{Job: name, Location: d.Location(), Version: -1, Columns: []ColumnView{}, Versions: []export.Version{}}
	holders, err := d.LeaseHolders(ctx)
	if err != nil {
		return v, err
	}
	v.Leases = some(holders)
	schema, err := d.Schema(ctx)
	if errors.Is(err, delta.ErrNoVersion) {
		return v, nil
	}
	if err != nil {
		return v, err
	}
	for _, f := range schema.Fields() {
		comment, _ := f.Metadata.GetValue("comment")
		v.Columns = append(v.Columns, ColumnView{f.Name, f.Type.String(), f.Nullable, comment})
	}
	history, err := d.History(ctx, 20)
	if err != nil {
		return v, err
	}
	if v.Versions = some(history); len(history) > 0 {
		v.Version = history[0].Version
	}
	for i := range v.Versions {
		if e := v.Versions[i].Evidence; e != nil { // keys of rows are left out
			without := *e
			without.FirstKey, without.LastKey, without.KeyColumns = "", "", some(without.KeyColumns)
			v.Versions[i].Evidence = &without
		}
	}
	all, err := d.Snippets(ctx)
	for _, s := range all {
		v.snippets = append(v.snippets, fact{s.Tool, s.Text})
	}
	return v, err
}

func (p *pages) dataset(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("job")
	v, err := p.stores.published(r.Context(), name)
	body := struct {
		DatasetView
		Trouble  string
		Snippets []fact
	}{DatasetView: v, Snippets: v.snippets}
	switch {
	case errors.Is(err, errNone), errors.Is(err, ErrUnknown):
		p.trouble(w, r, err)
		return
	case err != nil:
		p.log.Warn("a dataset could not be shown", "job", name, "error", err)
		body.Job, body.Trouble = name, "The store cannot be read at the moment; the log says why."
	case v.Version < 0:
		body.Trouble = "Nothing was published yet."
	}
	p.show(w, r, http.StatusOK, "dataset", "Dataset of "+name, body)
}

type instanceView struct {
	Instance
	Answers []fact
	Figures []fact // of the newest report on tokens
	Taken   time.Time
}

func (p *pages) instances(w http.ResponseWriter, r *http.Request) {
	_, all, err := p.Now(r.Context())
	if err != nil {
		p.trouble(w, r, err)
		return
	}
	figures, err := p.Ledger.Figures(r.Context())
	if err != nil {
		p.trouble(w, r, err)
		return
	}
	var views []instanceView
	for _, name := range slices.Sorted(maps.Keys(all)) {
		v := instanceView{Instance: all[name], Taken: figures[name].Taken}
		if f := figures[name]; !f.Taken.IsZero() {
			v.Figures = []fact{{"Sessions", shown(f.Sessions)}, {"Sessions of ours", shown(f.Ours)}, {"Licenses", shown(f.Licenses)}, {"Findings", shown(f.Findings)}}
		}
		v.Waited = v.Waited.Round(time.Millisecond)
		for _, code := range slices.Sorted(maps.Keys(v.Requests)) {
			text := strconv.Itoa(code)
			if code == 0 {
				text = "no answer"
			}
			v.Answers = append(v.Answers, fact{text, grouped(v.Requests[code])})
		}
		views = append(views, v)
	}
	p.show(w, r, http.StatusOK, "instances", "Instances", views)
}

// shown is a number that may not be known.
func shown(n int64) string {
	if n < 0 {
		return "not shown by the instance"
	}
	return grouped(n)
}

type tokenView struct {
	Token
	Age, Left string // Left: until it expires; "" = not known
	Late      bool   // it has expired, or will within two weeks
}

func days(d time.Duration) string { return fmt.Sprintf("%d d", int(d.Hours()/24)) }

func (p *pages) tokens(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Tokens  []tokenView
		Trouble string
	}
	if p.Tokens != nil {
		ctx, cancel := context.WithTimeout(r.Context(), 15*time.Second)
		defer cancel()
		all, err := p.Tokens(ctx)
		if err != nil {
			p.log.Warn("the tokens could not be listed", "error", err)
			body.Trouble = "The vault cannot be read at the moment; the log says why."
		}
		slices.SortFunc(all, func(a, b Token) int {
			return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(b.Version, a.Version))
		})
		for _, t := range all {
			v := tokenView{Token: t, Age: days(time.Since(t.Created))}
			if left := time.Until(t.Expires); !t.Expires.IsZero() {
				v.Left, v.Late = "in "+days(left), left < 14*24*time.Hour
				if left < 0 {
					v.Left = "expired"
				}
			}
			body.Tokens = append(body.Tokens, v)
		}
	}
	p.show(w, r, http.StatusOK, "tokens", "Tokens", body)
}
