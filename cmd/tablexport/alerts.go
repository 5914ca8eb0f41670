package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tablexport/tablexport/configs"
	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/alert"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/secrets"
)

// channels are the configuration's ways to tell people.
func (a *app) channels() map[string]alert.Channel {
	all := map[string]alert.Channel{}
	for name, c := range a.cfg.Alerts.Channels {
		switch {
		case c.Webhook != nil:
			all[name] = &alert.Webhook{URL: c.Webhook.URL, SecretFile: a.cfg.Resolve(c.Webhook.SecretFile)}
		case c.Chat != nil:
			all[name] = &alert.Chat{URLFile: a.cfg.Resolve(c.Chat.URLFile)}
		case c.Mail != nil:
			m := c.Mail
			all[name] = &alert.Mail{Address: m.Server, From: m.From, To: m.To, User: m.User, PasswordFile: a.cfg.Resolve(m.PasswordFile)}
		}
	}
	return all
}

// alertStore keeps what is open in the ledger.
func alertStore(l *ledger.Ledger) alert.Store {
	return alert.Store{
		Load: func(ctx context.Context) ([]alert.Open, error) {
			kept, err := l.Alerts(ctx)
			var open []alert.Open
			for _, k := range kept {
				o := alert.Open{Told: k.Told}
				if json.Unmarshal([]byte(k.Text), &o.Alert) == nil { // what an older version wrote and this one cannot read is told anew
					open = append(open, o)
				}
			}
			return open, err
		},
		Save: func(ctx context.Context, o alert.Open) error {
			text, err := json.Marshal(o.Alert)
			if err != nil {
				return err
			}
			return l.SaveAlert(ctx, ledger.OpenAlert{Key: o.Key, Text: string(text), Told: o.Told})
		},
		Remove: l.RemoveAlert,
	}
}

// watcher turns what happens, and what does not, into alerts.
type watcher struct {
	desk   *alert.Desk
	ledger *ledger.Ledger
	app    func() *app                                  // of the configuration in use
	seen   func(name string, staged, expires time.Time) // counts what is known of a token; may be nil
	begun  time.Time
	parked map[string]time.Time     // since when, by instance
	stats  map[string][]odata.Stats // of an instance, minute by minute, the newest last
}

// runEnded looks at a run's end. A run that is tried again is no failure yet.
func (w *watcher) runEnded(ctx context.Context, e jobs.Event) {
	job := e.Job.Name
	a := alert.Alert{Job: job, Instance: e.Job.Instance, Run: e.Result.RunID, Owner: w.app().cfg.Jobs[job].Owner}
	if e.Err == nil || e.Result.Version >= 0 {
		text := fmt.Sprintf("Version %d was published, %d rows.", e.Result.Version, e.Result.Rows)
		for _, kind := range []string{"failure/", "scope/", "stale/"} {
			w.desk.Resolve(ctx, kind+job, text)
		}
		w.desk.Resolve(ctx, "credential/"+e.Job.Instance, text)
		if len(e.Result.Schema) > 0 {
			a.Key, a.Kind, a.Severity, a.Title = "schema/"+job, "schema", alert.Info, "the columns of "+job+" have changed"
			a.Text = strings.Join(e.Result.Schema, "\n")
			w.desk.Once(a)
		}
		return
	}
	if e.Retry || e.Class == jobs.Canceled {
		return
	}
	a.Text, a.Do = e.Err.Error(), hintFor(e.Err)
	var schema *export.SchemaChange
	switch {
	case e.Class == jobs.Scope:
		a.Key, a.Kind, a.Severity, a.Title = "scope/"+job, "scope", alert.Critical, "a row outside the scope of "+job+" came back; nothing was published"
	case e.Class == jobs.Credential:
		a.Key, a.Kind, a.Severity, a.Title = "credential/"+e.Job.Instance, "credential", alert.Critical, "the token of "+e.Job.Instance+" is missing, wrong, expired or not allowed"
	case errors.As(e.Err, &schema):
		a.Key, a.Kind, a.Severity, a.Title = "failure/"+job, "schema", alert.Warning, "the columns of "+job+" have changed in a way that must be accepted"
	default:
		a.Key, a.Kind, a.Severity, a.Title = "failure/"+job, "failure", alert.Warning, job+" failed ("+string(e.Class)+"); its last good version stands"
	}
	w.desk.Raise(ctx, a)
}

// minute looks at what does not tell of itself: silence, instances that are away, thresholds, old tokens.
func (w *watcher) minute(ctx context.Context, now time.Time, instances map[string]jobs.Place) {
	a := w.app()
	if latest, err := w.ledger.Latest(ctx); err == nil {
		for _, name := range a.cfg.JobNames() {
			w.silence(ctx, now, name, a.cfg.Jobs[name], latest[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(instances)) {
		if p := instances[name]; p.Parked.IsZero() {
			delete(w.parked, name)
			w.desk.Resolve(ctx, "away/"+name, "The instance answers again.")
		} else if since, ok := w.parked[name]; !ok {
			w.parked[name] = now
		} else if now.Sub(since) >= 30*time.Minute {
			w.desk.Raise(ctx, alert.Alert{Key: "away/" + name, Kind: "away", Severity: alert.Warning, Instance: name, Since: since,
				Title: name + " has not answered for half an hour; its runs wait", Do: "Ask its administrator. Nothing is lost: the runs continue when it is back."})
		}
		if i, err := a.instance(name); err == nil {
			w.answers(ctx, name, i.Client.Stats(), a.cfg.Alerts.Thresholds)
		}
	}
}

// silence looks whether a dataset is older than it may be. One that has never been published is measured from the program's start.
func (w *watcher) silence(ctx context.Context, now time.Time, name string, j configs.Job, latest ledger.Latest) {
	if j.FreshWithin == 0 {
		w.desk.Resolve(ctx, "stale/"+name, "It is not watched any more.")
		return
	}
	as, text := latest.PublishedStarted, "Readers still see its last good version."
	if latest.Published == "" {
		as, text = w.begun, "It has never been published."
	}
	if now.Sub(as) <= time.Duration(j.FreshWithin) {
		w.desk.Resolve(ctx, "stale/"+name, "It is fresh again.")
		return
	}
	w.desk.Raise(ctx, alert.Alert{Key: "stale/" + name, Kind: "stale", Severity: alert.Warning, Job: name, Instance: j.Instance, Owner: j.Owner, Since: as.Add(time.Duration(j.FreshWithin)),
		Title: fmt.Sprintf("the dataset of %s is older than %s", name, time.Duration(j.FreshWithin)), Text: text, Do: "See what became of its ticks: tablexport schedule ticks " + name})
}

// overMinutes is over how many minutes an instance's answers are looked at.
const overMinutes = 5

// answers looks at an instance's answers of the last minutes.
func (w *watcher) answers(ctx context.Context, name string, s odata.Stats, t configs.Thresholds) {
	past := append(w.stats[name], s)
	if len(past) > overMinutes+1 {
		past = past[1:]
	}
	w.stats[name] = past
	if len(past) < 2 {
		return
	}
	last, first := past[len(past)-2], past[0]
	refused := (s.Requests[401] + s.Requests[403]) - (last.Requests[401] + last.Requests[403])
	w.threshold(ctx, "auth", name, refused > int64(t.AuthFailures), alert.Critical,
		fmt.Sprintf("%d requests to %s were refused (401, 403) in a minute", refused, name), "Look at its token: tablexport check --online")
	var all, bad, answered int64
	for code, n := range s.Requests {
		n -= first.Requests[code]
		all += n
		if code >= 500 || code == 0 {
			bad += n
		}
		if code != 0 {
			answered += n
		}
	}
	w.threshold(ctx, "errors", name, all >= 20 && bad*100 > all*int64(t.ErrorPercent), alert.Warning,
		fmt.Sprintf("%d of %d requests to %s failed in %d minutes", bad, all, name, len(past)-1), "Ask the instance's administrator what goes on there.")
	mean := time.Duration(0)
	if answered > 0 {
		mean = (s.Latency - first.Latency) / time.Duration(answered)
	}
	w.threshold(ctx, "latency", name, answered > 0 && mean > time.Duration(t.Latency), alert.Warning,
		fmt.Sprintf("%s takes %s to answer, on average over %d minutes", name, mean.Round(time.Millisecond), len(past)-1), "Ask the instance's administrator what goes on there.")
}

// threshold tells when a limit is exceeded, and when it is not any more.
func (w *watcher) threshold(ctx context.Context, kind, instance string, exceeded bool, severity alert.Severity, title, do string) {
	key := "threshold/" + kind + "/" + instance
	if !exceeded {
		w.desk.Resolve(ctx, key, "It is below the threshold again.")
		return
	}
	w.desk.Raise(ctx, alert.Alert{Key: key, Kind: "threshold", Severity: severity, Instance: instance, Title: title, Do: do})
}

// hour looks at what changes slowly: how many requests in a day, and how old tokens are.
func (w *watcher) hour(ctx context.Context, now time.Time, keeper *secrets.Keeper) {
	a := w.app()
	of := map[string][]string{}
	for _, name := range a.cfg.JobNames() {
		of[a.cfg.Jobs[name].Instance] = append(of[a.cfg.Jobs[name].Instance], name)
	}
	for _, instance := range slices.Sorted(maps.Keys(a.cfg.Instances)) {
		w.volume(ctx, now, instance, of[instance], a.cfg.Alerts.Thresholds.Volume)
		name := a.cfg.Instances[instance].Token
		named, err := keeper.Versions(ctx, name)
		if err != nil {
			continue // a vault that is away shows in the runs
		}
		for _, v := range named.Versions {
			if v.Number != named.Active {
				continue
			}
			if w.seen != nil {
				w.seen(name, v.Created, v.Expires)
			}
			if _, kept := a.cfg.Rotations[instance]; kept {
				w.desk.Resolve(ctx, "token/"+name, "Its rotation is looked after.")
				continue // its rotation tells of its age
			}
			w.expiry(ctx, now, instance, name, v)
			key, limit := "token/"+name, time.Duration(a.cfg.Alerts.Thresholds.TokenAge)
			if now.Sub(v.Created) <= limit {
				w.desk.Resolve(ctx, key, "It was rotated.")
				continue
			}
			w.desk.Raise(ctx, alert.Alert{Key: key, Kind: "token", Severity: alert.Warning, Instance: instance, Since: v.Created.Add(limit),
				Title: fmt.Sprintf("the token %s (%s) is %d days old", name, v.Fingerprint, int(now.Sub(v.Created).Hours()/24)), Do: "Rotate it: tablexport tokens --help"})
		}
	}
}

// expiryNotice is how long before its expiry a token that no rotation looks after is told of.
const expiryNotice = 14 * 24 * time.Hour

// expiry looks whether a token expires soon, as far as that is known.
func (w *watcher) expiry(ctx context.Context, now time.Time, instance, name string, v secrets.Version) {
	key := "expiry/" + name
	if v.Expires.IsZero() || now.Before(v.Expires.Add(-expiryNotice)) {
		w.desk.Resolve(ctx, key, "It was rotated.")
		return
	}
	a := alert.Alert{Key: key, Kind: "token", Severity: alert.Warning, Instance: instance, Owner: v.Owner, Since: v.Expires.Add(-expiryNotice),
		Title: fmt.Sprintf("the token %s (%s) expires at %s", name, v.Fingerprint, v.Expires.Format(time.RFC3339)), Do: "Have a new one issued, and rotate it: tablexport tokens rotate " + name + " --stage-from stdin"}
	if !now.Before(v.Expires) {
		a.Severity, a.Title = alert.Critical, fmt.Sprintf("the token %s (%s) has expired at %s", name, v.Fingerprint, v.Expires.Format(time.RFC3339))
	}
	w.desk.Raise(ctx, a)
}

// volume compares the requests of a day with the mean of the week before. A week with less than a hundred a day is no measure.
func (w *watcher) volume(ctx context.Context, now time.Time, instance string, names []string, percent int) {
	day := now.AddDate(0, 0, -1)
	today, err := w.ledger.Volume(ctx, names, day, now)
	if err != nil {
		return
	}
	week, err := w.ledger.Volume(ctx, names, day.AddDate(0, 0, -7), day)
	if err != nil {
		return
	}
	mean := week / 7
	w.threshold(ctx, "volume", instance, mean >= 100 && today*100 > mean*int64(percent), alert.Warning,
		fmt.Sprintf("%d requests went to %s in 24 hours, %d a day in the week before", today, instance, mean), "See which runs have sent them: tablexport runs")
}
