package status

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"github.com/tablexport/tablexport/jobs/gate"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/odata/evidence"
)

// api answers programs: everything that the pages show, as JSON, and what can be asked of jobs.
type api struct {
	Source
	log    *slog.Logger
	stores *stores
}

// RunView is a run with its evidence as an object and its steps. Keys of rows are left out of the evidence.
type RunView struct {
	ledger.Run
	Evidence *evidence.Evidence `json:"evidence,omitempty"`
	Steps    []ledger.Step      `json:"steps,omitempty"`
}

// The answers of the API.
type (
	// JobsAnswer is GET /api/v1/jobs.
	JobsAnswer struct {
		Jobs []JobView `json:"jobs"`
	}
	// RunsAnswer is GET /api/v1/runs. Before is what to ask for the next page with; "" = this is the last.
	RunsAnswer struct {
		Runs   []RunView `json:"runs"`
		Before string    `json:"before,omitempty"`
	}
	// TicksAnswer is GET /api/v1/ticks.
	TicksAnswer struct {
		Ticks []ledger.Tick `json:"ticks"`
	}
	// InstancesAnswer is GET /api/v1/instances.
	InstancesAnswer struct {
		Instances []Instance `json:"instances"`
	}
	// AlertsAnswer is GET /api/v1/alerts.
	AlertsAnswer struct {
		Alerts []Alert `json:"alerts"`
	}
	// TokensAnswer is GET /api/v1/tokens.
	TokensAnswer struct {
		Tokens []Token `json:"tokens"`
	}
	// ErrorAnswer is every answer that is not 200.
	ErrorAnswer struct {
		Error string `json:"error"`
	}
)

func (a *api) routes(mux *gate.Mux) {
	mux.HandleFunc(gate.View, "GET /api/v1/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_, _ = w.Write(openAPI()) // the reader is gone, or it has got it
	})
	guarded := func(who gate.Access, path string, get func(*http.Request) (any, error)) {
		mux.HandleFunc(who, "GET /api/v1"+path, func(w http.ResponseWriter, r *http.Request) {
			v, err := get(r)
			if err != nil {
				a.fail(w, r, err)
				return
			}
			answer(w, http.StatusOK, v)
		})
	}
	route := func(path string, get func(*http.Request) (any, error)) { guarded(gate.View, path, get) }
	route("/jobs", func(r *http.Request) (any, error) {
		views, err := a.views(r.Context())
		return JobsAnswer{some(views)}, err
	})
	route("/jobs/{job}", func(r *http.Request) (any, error) { return a.view(r.Context(), r.PathValue("job")) })
	route("/jobs/{job}/dataset", func(r *http.Request) (any, error) { return a.stores.published(r.Context(), r.PathValue("job")) })
	guarded(gate.Audit, "/tokens", func(r *http.Request) (any, error) {
		if a.Tokens == nil {
			return TokensAnswer{some[Token](nil)}, nil
		}
		ctx, cancel := context.WithTimeout(r.Context(), storeWait)
		defer cancel()
		all, err := a.Tokens(ctx)
		for i := range all {
			all[i].Jobs, all[i].Uses = some(all[i].Jobs), some(all[i].Uses)
		}
		return TokensAnswer{some(all)}, err
	})
	route("/runs", a.runs)
	route("/runs/{run}", a.run)
	route("/ticks", func(r *http.Request) (any, error) {
		limit, err := limited(r)
		if err != nil {
			return nil, err
		}
		ticks, err := a.Ledger.Ticks(r.Context(), ledger.TickQuery{Job: r.URL.Query().Get("job"), Limit: limit})
		return TicksAnswer{some(ticks)}, err
	})
	route("/instances", func(r *http.Request) (any, error) {
		_, all, err := a.Now(r.Context())
		var out []Instance
		for _, name := range slices.Sorted(maps.Keys(all)) {
			out = append(out, all[name])
		}
		return InstancesAnswer{some(out)}, err
	})
	route("/alerts", func(*http.Request) (any, error) {
		var open []Alert
		if a.Alerts != nil {
			open = a.Alerts()
		}
		return AlertsAnswer{some(open)}, nil
	})
	a.orders(mux)
	mux.HandleFunc(gate.View, "GET /api/", func(w http.ResponseWriter, r *http.Request) { a.fail(w, r, errNone) })
}

// some is a list that is never null in JSON.
func some[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// badRequest is a request that makes no sense; its text is for whoever has sent it.
type badRequest string

func (e badRequest) Error() string { return string(e) }

func (a *api) fail(w http.ResponseWriter, r *http.Request, err error) {
	var bad badRequest
	var state busy
	switch {
	case errors.As(err, &bad):
		answer(w, http.StatusBadRequest, ErrorAnswer{bad.Error()})
	case errors.As(err, &state): // alone: what it may be joined with is for the log
		answer(w, http.StatusConflict, ErrorAnswer{state.Error()})
	case errors.Is(err, errNone), errors.Is(err, ErrUnknown), errors.Is(err, ledger.ErrNotFound):
		answer(w, http.StatusNotFound, ErrorAnswer{"there is no such job, run or path"})
	default:
		a.log.Error("a request could not be answered", "path", r.URL.Path, "error", err)
		answer(w, http.StatusServiceUnavailable, ErrorAnswer{"not now; the log says why"})
	}
}

// limited reads limit: 1 to 1000, 50 without it.
func limited(r *http.Request) (int, error) {
	text := r.URL.Query().Get("limit")
	if text == "" {
		return 50, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 1000 {
		return 0, badRequest("limit takes a whole number from 1 to 1000")
	}
	return n, nil
}

func (a *api) runs(r *http.Request) (any, error) {
	limit, err := limited(r)
	if err != nil {
		return nil, err
	}
	switch s := ledger.State(r.URL.Query().Get("state")); s {
	case "", ledger.Running, ledger.Succeeded, ledger.Failed, ledger.Canceled, ledger.Interrupted:
	default:
		return nil, badRequest("state takes running, succeeded, failed, canceled or interrupted")
	}
	runs, more, err := a.list(r, limit)
	out := RunsAnswer{Runs: []RunView{}, Before: more}
	for _, run := range runs {
		out.Runs = append(out.Runs, viewOf(run))
	}
	return out, err
}

func (a *api) run(r *http.Request) (any, error) { return a.runOf(r.Context(), r.PathValue("run")) }

func (a *api) runOf(ctx context.Context, id string) (RunView, error) {
	run, err := a.Ledger.Get(ctx, id)
	if err != nil {
		return RunView{}, err
	}
	v := viewOf(run)
	v.Steps, err = a.Ledger.Steps(ctx, id)
	return v, err
}

func viewOf(run ledger.Run) RunView {
	v := RunView{Run: run}
	var e evidence.Evidence
	if run.Evidence != "" && json.Unmarshal([]byte(run.Evidence), &e) == nil {
		e.FirstKey, e.LastKey, e.KeyColumns = "", "", some(e.KeyColumns)
		v.Evidence = &e
	}
	return v
}
