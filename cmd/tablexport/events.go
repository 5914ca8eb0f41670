package main

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"github.com/tablexport/tablexport/jobs/alert"
	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/audit"
	"github.com/tablexport/tablexport/secrets/lifecycle"
)

// eventReceiver is the handler of app lifecycle events, for the instances whose application has a redirect_uri; nil if there is none. It stages
// what an event brings; proving and activating it is the rotation's. marketplace "" is ERP.net's. told is called behind each event.
func (a *app) eventReceiver(marketplace string, told func(e lifecycle.Event, staged bool)) (http.Handler, error) {
	var expected []lifecycle.Expected
	for _, name := range sorted(a.cfg.Instances) {
		i := a.cfg.Instances[name]
		if i.Application.URI != "" && i.Application.RedirectURI != "" {
			expected = append(expected, lifecycle.Expected{Instance: name, BaseURL: i.URL, Application: i.Application.URI})
		}
	}
	if len(expected) == 0 {
		return nil, nil
	}
	keeper, err := a.keeper()
	if err != nil {
		return nil, err
	}
	log, err := a.audit()
	if err != nil {
		return nil, err
	}
	return lifecycle.New(lifecycle.Options{
		Expected: expected, Marketplace: marketplace, SeenFile: filepath.Join(a.stateDir(), "events-seen"),
		Deliver: func(ctx context.Context, e lifecycle.Event) error {
			staged, err := a.deliver(ctx, keeper, e)
			if err == nil {
				told(e, staged)
			}
			return err
		},
		Record: func(ctx context.Context, outcome, id string, detail map[string]string) error {
			subject := id
			if subject == "" {
				subject = "an event that is not signed"
			}
			_, err := log.Append(ctx, audit.Entry{Actor: "marketplace", Action: "event", Subject: subject, Outcome: outcome, Detail: detail})
			if err != nil {
				return fmt.Errorf("%w: %w", secrets.ErrAudit, err)
			}
			return nil
		},
	})
}

// deliver puts the token of an event into the vault's staged slot: the client secret where the instance exchanges one, the reference token elsewhere.
func (a *app) deliver(ctx context.Context, keeper *secrets.Keeper, e lifecycle.Event) (staged bool, err error) {
	if e.Kind != lifecycle.Installed {
		return false, nil // it is in the audit log; what to do is for people
	}
	i, err := a.instance(e.Instance)
	if err != nil {
		return false, err
	}
	token := e.ReferenceToken
	if i.Use.Client != nil {
		token = e.ClientSecret
	}
	if token.IsZero() {
		return false, nil // approved without what this instance needs: nothing is to be stored
	}
	_, err = keeper.Stage(ctx, i.Token, token, secrets.Binding{Instance: i.Name, Host: i.Client.Host(), Environment: a.cfg.Environment})
	return err == nil, err
}

// told looks after a token that an event has brought, and tells people what only they can do about an event.
func (d *daemon) told(e lifecycle.Event, staged bool) {
	if staged {
		d.wake()
	}
	a := d.current()
	if d.watcher == nil {
		return
	}
	token := a.cfg.Instances[e.Instance].Token
	_, kept := a.cfg.Rotations[e.Instance]
	say := alert.Alert{Key: "event/" + e.ID, Kind: "event", Severity: alert.Warning, Instance: e.Instance, Text: "By " + e.User + ", at " + e.Occurred.UTC().Format(time.RFC3339) + "."}
	switch {
	case e.Kind == lifecycle.Uninstalled:
		say.Severity, say.Title = alert.Critical, "the application was uninstalled at "+e.Instance+": its tokens are not good any more"
		say.Do = "If it was not meant, have it installed again and a new token issued: tablexport tokens request " + token
	case !staged:
		say.Title, say.Do = "the application was approved at "+e.Instance+", but no token came with it", "Approve the link of: tablexport tokens request "+token
	case !kept:
		say.Severity, say.Title, say.Do = alert.Info, "an event has brought a new token "+token, "Prove and activate it: tablexport tokens rotate "+token
	default:
		return // its rotation tells of it
	}
	d.watcher.desk.Once(say)
}
