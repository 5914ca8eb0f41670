package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/alert"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/jobs/schedule"
	"github.com/tablexport/tablexport/jobs/status"
	"github.com/tablexport/tablexport/odata"
)

func serveCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run jobs when they are due, until told to end",
		Long: `Run jobs when they are due, until told to end.

Every tick ends as ran, late, coalesced or skipped with its reason: tablexport schedule ticks shows them. An instance that does not
answer is left alone, and its runs continue when it is back. Of two processes on one state directory, one runs the clock.

SIGTERM or Ctrl-C: nothing more is started, runs under way get the time of serve.drain, those that take longer are stopped and
continued at the next start. SIGHUP reads the configuration again: a wrong one is refused as a whole and logged, and runs under
way stay as they are.

The tokens of rotations are looked after every 15 minutes, and when an event has brought one: what is staged is proven and activated, what was replaced is retired; what needs
a person is an alert (the same once: tablexport tokens rotate --due). The report of reports.tokens is made and published at its times.

What goes wrong is told through alerts.channels: tablexport alerts test tries them.

At serve.listen (default http://127.0.0.1:8750/): status pages, the same as JSON under /api/v1, /healthz, /readyz and /metrics
(Prometheus). Without serve.oidc or serve.mtls they can be read only, and from this machine only; with them, orders to jobs are taken from
those whose role allows it. And /events/lifecycle for instances whose application has a
redirect_uri: the Marketplace's signed events, whose tokens are staged. The audit log is signed every ten minutes, if
audit.checkpoints are configured. Logs go to stderr, one JSON object per line.`,
		Example: "  tablexport serve\n  tablexport serve -c /etc/tablexport/tablexport.yaml --state /var/lib/tablexport",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return g.serve(c.Context()) },
	}
}

// daemon is the program as long as it serves.
type daemon struct {
	log       *slog.Logger
	metrics   *status.Metrics
	scheduler *jobs.Scheduler
	closing   atomic.Bool
	watcher   *watcher
	staged    chan struct{} // a token was staged: look after it
	begun     time.Time     // before the first report of all, its next tick counts from here

	mu   sync.Mutex
	app  *app // of the configuration in use
	uses *sync.WaitGroup
}

// serveLogger writes what happens to stderr: one JSON object per line, for those who collect logs.
func (g *globals) serveLogger() *slog.Logger {
	level := slog.LevelInfo
	if g.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewJSONHandler(g.err, &slog.HandlerOptions{Level: level}))
}

func (g *globals) serve(ctx context.Context) error {
	a, err := g.open()
	if err != nil {
		return err
	}
	a.slog = g.serveLogger()
	d := &daemon{log: a.slog, app: a, uses: &sync.WaitGroup{}, staged: make(chan struct{}, 1), begun: time.Now().Round(0)}
	defer func() { d.app.close() }() // the newest; those before it were closed when their runs had ended
	l, err := a.ledger(ctx)
	if err != nil {
		return err
	}
	agenda, err := a.agenda(ctx, d.uses)
	if err != nil {
		return err
	}
	// The address comes first: whether a second program runs here shows before anything is started.
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", a.cfg.Serve.Listen)
	if err != nil {
		return fmt.Errorf("serve.listen: %w", err)
	}
	d.scheduler = jobs.NewScheduler(l, d.log, agenda)
	d.scheduler.Drain = a.cfg.Serve.Drain.Or(0)
	d.scheduler.Observe = d.observe
	source := status.Source{Ledger: l, Version: buildVersion(), Now: d.now, Closing: d.closing.Load, Alerts: d.alerts, Tokens: d.tokens, Told: a.counts.bySort,
		Dataset: func(ctx context.Context, job string) (*export.Dataset, error) { return d.current().dataset(ctx, job) }}
	d.metrics = status.NewMetrics(source)
	d.metrics.Reloaded(true)
	source.Act, source.Events = d.act, d.receiver("")
	door, secure, err := d.gate(a)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	source.Gate = door
	hush, err := d.watch(ctx, l)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer hush() // behind the clock: the ends of the last runs are told too
	server := status.Server(status.Handler(source, d.metrics, d.log), d.log)
	scheme := "http://"
	if secure != nil {
		scheme, listener = "https://", tls.NewListener(listener, secure)
	}
	web := make(chan error, 1)
	go func() { web <- server.Serve(listener) }()
	d.log.Info("serving", "address", scheme+listener.Addr().String(), "version", buildVersion(), "jobs", len(agenda.Entries), "state", a.stateDir())

	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	clock := make(chan error, 1)
	turning, stop := context.WithCancel(ctx)
	defer stop()
	go func() { clock <- d.scheduler.Serve(turning) }()
	go d.signing(turning, signEvery)
	var keeping sync.WaitGroup
	keeping.Go(func() { d.tending(turning, tendEvery) })
	keeping.Go(func() { d.reporting(turning) })
	keeping.Go(func() { d.pruning(turning, l) })
	manager := notifier{d.log}
	alive, buried := context.WithCancel(context.WithoutCancel(ctx)) // runs that drain are vouched for too
	defer buried()
	go manager.watch(alive, func(ctx context.Context) error {
		_, _, err := d.scheduler.Standing(ctx)
		return err
	})
	context.AfterFunc(ctx, func() { d.closing.Store(true); manager.tell(sd.SdNotifyStopping) })
	err = d.until(ctx, clock, web, hangup, stop)
	d.closing.Store(true)
	stop()
	keeping.Wait() // a step of a rotation that has begun ends
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if serr := server.Shutdown(bye); serr != nil {
		_ = server.Close() // whoever still reads is cut off
	}
	d.log.Info("ended", "error", err)
	return err
}

// pruneEvery is how often old runs and ticks are removed from the ledger.
const pruneEvery = 24 * time.Hour

// pruning removes old runs and ticks, at the start and then every day. What fails waits for the next time: the ledger is history.
func (d *daemon) pruning(ctx context.Context, l *ledger.Ledger) {
	days := time.NewTicker(pruneEvery)
	defer days.Stop()
	for {
		// Of several processes on a state directory the one that runs the clock prunes.
		if _, _, err := d.scheduler.Standing(ctx); err == nil {
			pruned, err := l.Prune(ctx, time.Now().Add(-time.Duration(d.current().cfg.Serve.History)), false)
			switch {
			case err != nil && ctx.Err() == nil:
				d.log.Warn("old runs and ticks could not be removed from the ledger", "error", err)
			case pruned != (ledger.Pruned{}):
				d.log.Info("old runs and ticks were removed from the ledger", "runs", pruned.Runs, "ticks", pruned.Ticks)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-days.C:
		}
	}
}

// watch starts the alerts. What the desk cannot tell is logged.
func (d *daemon) watch(ctx context.Context, l *ledger.Ledger) (stop func(), err error) {
	desk := &alert.Desk{Channels: d.app.channels(), Store: alertStore(l), Repeat: time.Duration(d.app.cfg.Alerts.Repeat), Log: d.log, Sent: d.metrics.AlertSent}
	// The ends of the last runs are told too, so the desk outlives ctx; what it cannot send then is tried once.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	told, err := desk.Run(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	d.watcher = &watcher{desk: desk, ledger: l, app: d.current, seen: d.metrics.TokenSeen, begun: time.Now(), parked: map[string]time.Time{}, stats: map[string][]odata.Stats{}}
	over := make(chan struct{})
	go func() {
		defer close(over)
		minutes := time.NewTicker(time.Minute)
		defer minutes.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case now := <-minutes.C:
				if _, places, err := d.scheduler.Standing(ctx); err == nil {
					d.watcher.minute(ctx, now, places)
				}
				if n%60 != 0 {
					continue
				}
				if keeper, err := d.current().keeper(); err == nil {
					d.watcher.hour(ctx, now, keeper)
				}
			}
		}
	}()
	return func() { cancel(); <-over; told() }, nil
}

// current is the app of the configuration in use.
func (d *daemon) current() *app {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.app
}

// until waits for the clock's end, and reads the configuration again whenever it is asked to.
func (d *daemon) until(ctx context.Context, clock, web <-chan error, hangup <-chan os.Signal, stop func()) error {
	for {
		select {
		case err := <-clock:
			return err
		case err := <-web: // pages are gone for good: whoever watches the process starts it anew
			if errors.Is(err, http.ErrServerClosed) {
				err = nil
			}
			stop()
			return errors.Join(err, <-clock)
		case <-hangup:
			if err := d.reload(ctx); err != nil {
				d.metrics.Reloaded(false)
				d.log.Error("the configuration is refused; the one before stays in use", "error", err)
				continue
			}
			d.metrics.Reloaded(true)
			d.log.Info("the configuration was read again", "jobs", len(d.app.cfg.Jobs))
		}
	}
}

// reload reads the configuration again. It is checked as a whole before anything changes.
func (d *daemon) reload(ctx context.Context) error {
	old := d.app
	fresh, err := old.successor()
	if err != nil {
		return err
	}
	uses := &sync.WaitGroup{}
	agenda, err := fresh.agenda(ctx, uses)
	if err == nil {
		err = fresh.recordConfig(ctx, fresh.log) // what is not audited does not happen
	}
	if err == nil {
		err = d.scheduler.Load(ctx, agenda)
	}
	if err != nil {
		fresh.discard(old)
		return err
	}
	if !reflect.DeepEqual(old.cfg.Serve, fresh.cfg.Serve) || !reflect.DeepEqual(old.cfg.Alerts.Channels, fresh.cfg.Alerts.Channels) || old.cfg.Alerts.Repeat != fresh.cfg.Alerts.Repeat {
		d.log.Warn("changes of serve and of the channels of alerts take effect at the next start of the program")
	}
	d.mu.Lock()
	before := d.uses
	d.app, d.uses = fresh, uses
	d.mu.Unlock()
	go func() { // what runs under way still use is closed behind the last of them
		before.Wait()
		old.discard(fresh)
	}()
	return nil
}

// successor is an app of the configuration as it is in the file now. It takes over what must be one in a process: the ledger, the
// audit log, and the clients of instances that have not changed, with their limits and breakers.
func (a *app) successor() (*app, error) {
	next, err := a.globals.open()
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	next.slog, next.runs, next.log = a.slog, a.runs, a.log
	if next.stateDir() != a.stateDir() {
		return nil, usagef("the state directory cannot change while the program runs")
	}
	same := reflect.DeepEqual(a.cfg.Telemetry, next.cfg.Telemetry)
	if same {
		next.tells = a.tells
	}
	for name, i := range a.instances { // a client has its tracer for life
		if same && reflect.DeepEqual(a.cfg.Instances[name], next.cfg.Instances[name]) && a.cfg.Environment == next.cfg.Environment {
			next.instances[name] = i
		}
	}
	return next, nil
}

// discard closes what an app has for itself, beside what it shares with other.
func (a *app) discard(other *app) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.runs == other.runs {
		a.runs = nil
	}
	if a.log == other.log {
		a.log = nil
	}
	if a.tells == other.tells {
		a.tells = nil
	}
	a.closeParts()
}

// agenda is the configuration as the clock takes it. uses counts the runs that use the app's parts.
func (a *app) agenda(ctx context.Context, uses *sync.WaitGroup) (jobs.Agenda, error) {
	runner, err := a.runner(ctx, a.cfg.JobNames())
	if err != nil {
		return jobs.Agenda{}, err
	}
	agenda := jobs.Agenda{Budgets: map[string]jobs.Budget{}, Run: func(ctx context.Context, req jobs.Request) (jobs.Result, error) {
		uses.Add(1)
		defer uses.Done()
		defer sparing(req.LowMemory)()
		return runner.Run(ctx, req)
	}}
	for name, i := range a.cfg.Instances {
		b := jobs.Budget{Runs: i.Runs}
		if h := i.WorkingHours; h != nil {
			if b.Hours, err = schedule.ParseHours(h.Days, h.From, h.To, h.Zone); err != nil {
				return jobs.Agenda{}, err
			}
			b.Quiet = h.Allow == "nothing"
		}
		agenda.Budgets[name] = b
	}
	for _, name := range a.cfg.JobNames() {
		job, err := a.job(name)
		if err != nil {
			return jobs.Agenda{}, err
		}
		e := jobs.Entry{Job: job, After: a.cfg.Jobs[name].After}
		if s := a.cfg.Jobs[name].Schedule; s != nil {
			if e.Schedule, err = schedule.Parse(s.Cron, s.Zone); err != nil {
				return jobs.Agenda{}, err
			}
			e.Late, e.Overlap, e.Within, e.Jitter = schedule.Late(s.Late), jobs.Overlap(s.Overlap), time.Duration(s.LateWithin), time.Duration(s.Jitter)
		}
		agenda.Entries = append(agenda.Entries, e)
	}
	return agenda, nil
}

// observe counts what the clock tells.
func (d *daemon) observe(e jobs.Event) {
	switch e.Kind {
	case jobs.RunEnded:
		state := ledger.Succeeded
		switch {
		case e.Err == nil, e.Result.Version >= 0:
		case e.Class == jobs.Canceled:
			state = ledger.Canceled
		default:
			state = ledger.Failed
		}
		d.watcher.runEnded(context.Background(), e)
		d.metrics.RunEnded(e.Job.Name, state, string(e.Class), time.Duration(e.Result.Seconds*float64(time.Second)), e.Result.Version, e.Result.Rows, e.Result.Bytes)
	case jobs.TickEnded:
		d.metrics.TickEnded(e.Tick.Outcome, e.Tick.Count)
	}
}

// now tells where every job and instance is.
func (d *daemon) now(ctx context.Context) (map[string]status.Job, map[string]status.Instance, error) {
	standing, places, err := d.scheduler.Standing(ctx)
	if err != nil {
		return nil, nil, err
	}
	a := d.current()
	all := make(map[string]status.Job, len(standing))
	for name, s := range standing {
		j := status.Job{Name: name, Description: s.Job.Description, Instance: s.Job.Instance, Table: s.Job.Table, Next: s.Next, Run: s.Run, Since: s.Since,
			Waiting: s.Waiting, Why: s.Why, After: s.After}
		c := a.cfg.Jobs[name]
		j.Owner, j.FreshWithin = c.Owner, time.Duration(c.FreshWithin)
		if c.Refresh != nil {
			j.Every = c.Refresh.Every
		}
		if c.Schedule != nil {
			j.Cron, j.Zone = c.Schedule.Cron, c.Schedule.Zone
		}
		all[name] = j
	}
	instances := make(map[string]status.Instance, len(places))
	for name, p := range places {
		i := status.Instance{Name: name, Running: p.Running, Runs: p.Runs, Parked: p.Parked, Why: p.Why, Working: p.Working}
		if c, err := a.instance(name); err == nil {
			s := c.Client.Stats()
			i.Breaker, i.InFlight, i.Requests, i.Waited = string(s.Breaker), s.InFlight, s.Requests, s.Waited
		}
		instances[name] = i
	}
	return all, instances, nil
}

// alerts are those that are not over, as pages show them.
func (d *daemon) alerts() []status.Alert {
	var out []status.Alert
	for _, o := range d.watcher.desk.Standing() {
		out = append(out, status.Alert{Key: o.Key, Kind: o.Kind, Severity: string(o.Severity), Job: o.Job, Instance: o.Instance, Title: o.Title, Since: o.Since})
	}
	slices.SortFunc(out, func(a, b status.Alert) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// tokens are the versions of every token in the vault, as pages show them, with who uses them.
func (d *daemon) tokens(ctx context.Context) ([]status.Token, error) {
	a := d.current()
	keeper, err := a.keeper()
	if err != nil {
		return nil, err
	}
	users := map[string][]string{}
	for _, name := range a.cfg.JobNames() {
		token := a.cfg.Instances[a.cfg.Jobs[name].Instance].Token
		users[token] = append(users[token], name)
	}
	all, err := keeper.List(ctx)
	var out []status.Token
	for _, named := range all {
		uses, uerr := keeper.Uses(ctx, named.Name)
		err = errors.Join(err, uerr)
		for _, v := range named.Versions {
			t := status.Token{Name: named.Name, Version: v.Number, State: string(v.State), Fingerprint: v.Fingerprint, Created: v.Created, Expires: v.Expires, Owner: v.Owner, Scopes: v.Scopes,
				Bound: v.Binding.Instance + " (" + v.Binding.Host + ")"}
			if v.Number == named.Active {
				t.Jobs = users[named.Name]
			}
			for _, u := range uses {
				if u.Fingerprint == v.Fingerprint && len(t.Uses) < 5 {
					t.Uses = append(t.Uses, status.TokenUse{Place: u.Place, Last: u.Last})
				}
			}
			out = append(out, t)
		}
	}
	return out, err
}
