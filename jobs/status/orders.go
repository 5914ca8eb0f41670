package status

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/tablexport/tablexport/jobs/gate"
)

// Order is what somebody wants to become of a job.
type Order struct {
	Do  string // "pause", "resume", "run", "cancel"
	Job string
	Why string // a note for the audit log; may be ""
	Who string // as the audit log names them
}

// Orders are what can be asked for, and what each means.
var Orders = map[string]string{
	"pause":  "Let the job not tick until it is resumed.",
	"resume": "Let a paused job tick again.",
	"run":    "Run the job now, before what is due.",
	"cancel": "Stop the job's run under way; nothing of it is published.",
}

// ErrUnknown says that there is no such job; ErrBusy that a run of it is under way or waits already, or that there is none to cancel.
var (
	ErrUnknown = errors.New("status: there is no such job")
	ErrBusy    = errors.New("status: not in the job's state")
)

// busy is an ErrBusy with words for whoever has asked.
type busy string

func (e busy) Error() string        { return string(e) }
func (e busy) Is(target error) bool { return target == ErrBusy }

// Busy returns an ErrBusy whose text is for whoever has asked.
func Busy(text string) error { return busy(text) }

// OrderBody is the body of an order; it may be empty, as {}.
type OrderBody struct {
	Why string `json:"why,omitempty" jsonschema:"maxLength=200"`
}

// OrderAnswer is the answer to an order that was taken.
type OrderAnswer struct {
	Job  string `json:"job"`
	Done string `json:"done"`
}

const maxWhy = 200

func (a *api) orders(mux *gate.Mux) {
	for do := range Orders {
		mux.HandleFunc(gate.Operate, "POST /api/v1/jobs/{job}/"+do, func(w http.ResponseWriter, r *http.Request) { a.order(w, r, do) })
	}
}

// order wants JSON, which a form of another site cannot send.
func (a *api) order(w http.ResponseWriter, r *http.Request, do string) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		answer(w, http.StatusUnsupportedMediaType, ErrorAnswer{"send application/json: {} is enough"})
		return
	}
	var body OrderBody
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&body)
	if err == nil {
		if _, more := decoder.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("more than one value")
		}
	}
	switch {
	case err != nil:
		a.fail(w, r, badRequest(`the body takes {} or {"why": "…"}`))
		return
	case len(body.Why) > maxWhy || strings.ContainsAny(body.Why, "\r\n"):
		a.fail(w, r, badRequest("why takes one line of 200 bytes at most"))
		return
	case a.Act == nil:
		a.fail(w, r, ErrUnknown)
		return
	}
	// An order that was taken is carried out, whether or not its sender waits for the answer.
	o := Order{Do: do, Job: r.PathValue("job"), Why: body.Why, Who: gate.From(r.Context()).Name}
	if err := a.Act(context.WithoutCancel(r.Context()), o); err != nil {
		a.fail(w, r, err)
		return
	}
	status := http.StatusOK
	if do == "run" {
		status = http.StatusAccepted // it waits for its turn
	}
	answer(w, status, OrderAnswer{o.Job, do})
}
