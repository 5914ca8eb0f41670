package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/simulator"
)

func impatient(o *odata.Options) {
	o.IdleTimeout = 80 * time.Millisecond
	o.Retry.MaxWait = 200 * time.Millisecond
}

// What goes wrong with an answer: it is asked for again and the copy is right, or, if it goes on, the run fails with a
// class, the previous version stands, and nobody says what must not be said.
func TestFaultsOfTheInstance(t *testing.T) {
	const fine = jobs.Class("")
	for _, tt := range []struct {
		name        string
		effect      simulator.Effect
		few, always jobs.Class // what becomes of a run that meets it twice, and at every request
	}{
		{"500", simulator.ServerError(), fine, jobs.Later},
		{"503", simulator.Status(503, "down"), fine, jobs.Later},
		{"reset", simulator.Reset(), fine, jobs.Later},
		{"cut after rows", simulator.CutRows(20), fine, jobs.Later},
		{"cut after bytes", simulator.CutBytes(900), fine, jobs.Later},
		{"ends in the middle", simulator.EndEarly(7), fine, jobs.Later},
		{"falls silent", simulator.Stall(10, 3*time.Second), fine, jobs.Later},
		{"gzip cut", simulator.TruncatedGzip(300), fine, jobs.Later},
		{"malformed", simulator.MalformedJSON(9), fine, jobs.Data},
		{"429", simulator.TooMany(0), fine, jobs.Later},
		{"429, come back in an hour", simulator.TooMany(time.Hour), jobs.Later, jobs.Later},
		{"401", simulator.Status(401, ""), jobs.Credential, jobs.Credential},
		{"403", simulator.Status(403, ""), jobs.Credential, jobs.Credential},
		{"400", simulator.Status(400, `{"message":"`+simulator.StackCanary+`","code":"`+simulator.DemoToken+`","type":"Bad"}`), jobs.Config, jobs.Config},
		{"404", simulator.Status(404, ""), jobs.Config, jobs.Config},
		{"login page", simulator.LoginPage(), jobs.Credential, jobs.Credential},
		{"login redirect", simulator.LoginRedirect(), jobs.Credential, jobs.Credential},
		{"redirect", simulator.Redirect(307, "https://elsewhere.example/x"), jobs.Config, jobs.Config},
		{"content type", simulator.ContentType("text/plain"), jobs.Credential, jobs.Credential},
		{"unexpected property", simulator.UnexpectedProperty(3), jobs.Data, jobs.Data},
		{"missing property", simulator.MissingProperty(3), jobs.Data, jobs.Data},
		{"wrong type", simulator.WrongType(3, "Quantity"), jobs.Data, jobs.Data},
		{"out of range", simulator.OutOfRange(3, "Line_Amount"), jobs.Data, jobs.Data},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, simulator.Options{Rows: map[string]int64{lines: 400}}, client(impatient))
			j := job(lines)
			r.exact(j)
			for _, when := range []struct {
				nth, times int
				want       jobs.Class
			}{{2, 2, tt.few}, {2, -1, tt.always}} {
				r.server.ClearFaults()
				must(t, errOf(r.server.Update(lines, 20)))
				r.server.Inject(simulator.Fault{Match: fullRows, Nth: when.nth, Times: when.times, Effect: tt.effect})
				if when.want == fine {
					if res := r.exact(j); res.Evidence.Retries == 0 {
						t.Errorf("no retries: %+v", res.Evidence)
					}
					continue
				}
				stands := r.standing(j)
				_, err := r.run(j)
				r.failed(j, err, when.want)
				stands()
			}
			r.server.ClearFaults()
			r.exact(j) // nothing of it stays
		})
	}
}

// The same before the first row: discovery, and the model.
func TestFaultsBeforeTheFirstRow(t *testing.T) {
	for _, endpoint := range []simulator.Endpoint{simulator.Discovery, simulator.Metadata} {
		for name, tt := range map[string]struct {
			effect simulator.Effect
			want   jobs.Class
		}{
			"500": {simulator.ServerError(), jobs.Later}, "login page": {simulator.LoginPage(), jobs.Credential}, "401": {simulator.Status(401, ""), jobs.Credential},
			"reset": {simulator.Reset(), jobs.Later},
		} {
			t.Run(string(endpoint)+"/"+name, func(t *testing.T) {
				t.Parallel()
				r := newRig(t, simulator.Options{}, client(impatient))
				j := job(lines)
				r.exact(j)
				r.anew()
				r.server.Inject(simulator.Fault{Endpoint: endpoint, Times: -1, Effect: tt.effect})
				stands := r.standing(j)
				_, err := r.run(j)
				r.failed(j, err, tt.want)
				stands()
			})
		}
	}
}

// An instance that is not there, and one whose breaker is open.
func TestInstanceIsDown(t *testing.T) {
	r := newRig(t, simulator.Options{}, client(func(o *odata.Options) { impatient(o); o.Breaker.Failures = 3 }))
	j := job(lines)
	r.exact(j)
	stands := r.standing(j)
	r.server.Inject(simulator.Fault{Times: -1, Effect: simulator.Reset()})
	_, err := r.run(j)
	r.failed(j, err, jobs.Later)
	asked := r.server.Stats().Requests
	_, err = r.run(j)
	var gone *odata.UnavailableError
	if r.failed(j, err, jobs.Later); !errors.As(err, &gone) || gone.RetryAfter == 0 || r.server.Stats().Requests != asked {
		t.Errorf("%v; %d requests through an open breaker", err, r.server.Stats().Requests-asked)
	}
	stands()
}

// A token that is revoked in mid-scan and has a successor: renewed once, audited, and the run goes on.
func TestRenewal(t *testing.T) {
	const next = "enrt_the-token-after-it"
	r := newRig(t, simulator.Options{Tokens: []simulator.Token{{Value: simulator.DemoToken, Name: "old"}, {Value: next, Name: "new"}}})
	j := job(lines)
	before := r.exact(j)
	r.server.Before(lines, 12, func() {
		r.activate(next)
		r.server.Revoke(simulator.DemoToken)
	})
	r.server.Before(lines, 11, func() {})
	res := r.exact(j)
	if got := r.actions(res.RunID); !slices.Equal(got, []string{"lease ok", "renew ok", "publish started", "publish ok", "release ok"}) {
		t.Errorf("audit: %v; %+v", got, r.server.Stats())
	}
	if old, now := r.line(before.RunID).Fingerprint, r.line(res.RunID).Fingerprint; old == now || now == "" {
		t.Errorf("fingerprints %q and %q", old, now)
	}
	// And one that has none.
	stands := r.standing(j)
	r.server.Revoke(next)
	_, err := r.run(j)
	line := r.failed(j, err, jobs.Credential)
	if got := r.actions(line.ID); !slices.Equal(got, []string{"lease ok", "refuse refused", "release ok"}) {
		t.Errorf("audit: %v", got)
	}
	// And one whose successor is refused too.
	r.activate("enrt_never-issued-anywhere")
	_, err = r.run(j)
	r.failed(j, err, jobs.Credential)
	stands()
}

// A user who may not read the table.
func TestForbidden(t *testing.T) {
	r := newRig(t, simulator.Options{Tokens: []simulator.Token{{Value: simulator.DemoToken, Name: "x", Deny: []string{lines}}}})
	_, err := r.run(job(lines))
	r.failed(job(lines), err, jobs.Credential)
	if !errors.Is(err, odata.ErrForbidden) || r.server.Stats().Forbidden != 1 {
		t.Errorf("%v, asked %d times", err, r.server.Stats().Forbidden)
	}
}

// Jobs that cannot be: no token, a token of another host, no table, no store, no instance.
func TestRunsThatCannotBegin(t *testing.T) {
	r := newRig(t, simulator.Options{})
	j := job(lines)
	other := r.runner.Instances["acme"]
	other.Token = "bi/nobody"
	r.runner.Instances["tokenless"] = other
	bound := r.options
	bound.URL = strings.Replace(r.url, "127.0.0.1", "localhost", 1)
	c, err := odata.NewClient(bound)
	must(t, err)
	r.runner.Instances["other"] = jobs.Instance{Name: "acme", Client: c, Token: tokenName}
	for name, tt := range map[string]struct {
		change func(*jobs.Job)
		want   jobs.Class
	}{
		"no token":   {func(j *jobs.Job) { j.Instance = "tokenless" }, jobs.Credential},
		"other host": {func(j *jobs.Job) { j.Instance = "other" }, jobs.Credential},
		"instance":   {func(j *jobs.Job) { j.Instance = "nowhere" }, jobs.Config},
		"table":      {func(j *jobs.Job) { j.Table = "Crm_Sales_Order_Linse" }, jobs.Config},
		"store":      {func(j *jobs.Job) { j.Store = "pond" }, jobs.Other},
		"path":       {func(j *jobs.Job) { j.Path = "a/../b" }, jobs.Config},
	} {
		bad := j
		tt.change(&bad)
		requests := r.server.Stats().DataRequests
		_, err := r.run(bad)
		var at *jobs.RunError
		if !errors.As(err, &at) || jobs.Classify(err) != tt.want {
			t.Fatalf("%s: class %s of %v, want %s", name, jobs.Classify(err), err, tt.want)
		}
		line := r.line(at.RunID)
		if line.State != ledger.Failed || line.Dataset == "" {
			t.Errorf("%s: ledger %+v", name, line)
		}
		r.returned(at.RunID)
		if got := r.server.Stats().DataRequests; got != requests {
			t.Errorf("%s: rows were asked for", name)
		}
	}
	if keys := r.keys(); len(keys) > 0 {
		t.Errorf("published: %v", keys)
	}
}

// A person stops the run, at every phase and with every kind of context: the class is canceled, staged parts are gone, the
// token is given back, both logs say so.
func TestCanceled(t *testing.T) {
	reason := errors.New("the operator had enough")
	for _, phase := range []jobs.Phase{jobs.Preparing, jobs.Scanning, jobs.Publishing} {
		for name, with := range map[string]func(context.Context) (context.Context, func()){
			"cancel": func(ctx context.Context) (context.Context, func()) { return context.WithCancel(ctx) },
			"cause": func(ctx context.Context) (context.Context, func()) {
				ctx, cancel := context.WithCancelCause(ctx)
				return ctx, func() { cancel(reason) }
			},
		} {
			t.Run(fmt.Sprint(phase, "/", name), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, simulator.Options{})
				j := job(lines)
				r.exact(j)
				stands := r.standing(j)
				ctx, stop := with(t.Context())
				defer stop()
				_, err := r.runner.Run(ctx, jobs.Request{Job: j, Progress: func(p jobs.Progress) {
					if p.Phase == phase && (phase != jobs.Scanning || p.Scan.Rows > 200) {
						stop()
					}
				}})
				line := r.failed(j, err, jobs.Canceled)
				if !errors.Is(err, context.Canceled) {
					t.Errorf("%v is not context.Canceled", err)
				}
				stands()
				if got := r.actions(line.ID); phase == jobs.Scanning && !slices.Equal(got, []string{"lease ok", "release ok"}) {
					t.Errorf("audit: %v", got)
				}
				r.exact(j)
			})
		}
	}
	t.Run("while the server is silent", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, simulator.Options{})
		j := job(lines)
		r.exact(j)
		stands := r.standing(j)
		ctx, stop := context.WithCancel(t.Context())
		r.server.Inject(simulator.Fault{Match: fullRows, Nth: 2, Effect: simulator.All(simulator.MidStream(20, stop), simulator.Stall(20, time.Minute))})
		_, err := r.runner.Run(ctx, jobs.Request{Job: j})
		r.failed(j, err, jobs.Canceled)
		stands()
	})
	t.Run("before it begins", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, simulator.Options{})
		ctx, stop := context.WithCancel(t.Context())
		stop()
		_, err := r.runner.Run(ctx, jobs.Request{Job: job(lines)})
		if jobs.Classify(err) != jobs.Canceled || r.server.Stats().Requests > 0 {
			t.Errorf("%v", err)
		}
	})
	t.Run("a deadline", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, simulator.Options{Behavior: simulator.Behavior{RowsPerSecond: 200}})
		ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer stop()
		_, err := r.runner.Run(ctx, jobs.Request{Job: job(lines)})
		r.failed(job(lines), err, jobs.Transient)
	})
}

// A panic is this run's alone: it leaves nothing behind, gives the token back, and does not say what it held.
func TestPanic(t *testing.T) {
	r := newRig(t, simulator.Options{})
	j := job(lines)
	r.exact(j)
	stands := r.standing(j)
	for _, phase := range []jobs.Phase{jobs.Preparing, jobs.Scanning, jobs.Publishing} {
		_, err := r.runner.Run(t.Context(), jobs.Request{Job: j, Progress: func(p jobs.Progress) {
			if p.Phase == phase && (phase != jobs.Scanning || p.Scan.Rows > 200) {
				panic(simulator.DemoToken)
			}
		}})
		var bug *jobs.PanicError
		if r.failed(j, err, jobs.Bug); !errors.As(err, &bug) || !strings.Contains(bug.Where, "TestPanic") {
			t.Errorf("%s: %v", phase, err)
		}
		stands()
	}
	// Behind the commit: the version stands, and the error says so.
	res, err := r.runner.Run(t.Context(), jobs.Request{Job: j, Progress: func(p jobs.Progress) {
		if p.Phase == jobs.Done {
			panic("behind")
		}
	}})
	var published *jobs.PublishedError
	if !errors.As(err, &published) || jobs.Classify(err) != jobs.Bug || published.Version != res.Version || r.version(j) != res.Version {
		t.Errorf("%v, %+v", err, res)
	}
	if line := r.line(res.RunID); line.State != ledger.Succeeded || line.Version != res.Version || line.Error == "" {
		t.Errorf("ledger %+v", line)
	}
	// In what opens the store, before there is anything.
	open := r.runner.Bucket
	r.runner.Bucket = nil
	_, err = r.run(j)
	r.failed(j, err, jobs.Bug)
	r.runner.Bucket = open
	r.exact(j)
}

// The simulator's own requests are a real server's: a token never goes to another host.
func TestTokenStaysAtItsHost(t *testing.T) {
	var stolen []string
	thief := http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { stolen = append(stolen, q.Header.Get("Authorization")) })
	elsewhere := newServer(t, thief)
	r := newRig(t, simulator.Options{})
	j := job(lines)
	j.Paging = odata.NextLink
	for _, effect := range []simulator.Effect{simulator.NextLinkTo(elsewhere + "/tableapi/odata/" + lines), simulator.Redirect(307, elsewhere+"/x")} {
		r.server.ClearFaults()
		r.server.Inject(simulator.Fault{Match: fullRows, Effect: effect})
		_, err := r.run(j)
		if err == nil {
			t.Error("followed")
		}
	}
	if len(stolen) > 0 {
		t.Errorf("%d requests went elsewhere", len(stolen))
	}
}
