package main

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"

	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/audit"
	"github.com/tablexport/tablexport/secrets/lifecycle"
)

// eventReceiver is the handler of app lifecycle events, for the instances whose application has a redirect_uri; nil if there is none. It stages
// what an event brings; proving and activating it is the rotation's. marketplace "" is ERP.net's. staged is called behind each token.
func (a *app) eventReceiver(marketplace string, staged func()) (http.Handler, error) {
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
			err := a.deliver(ctx, keeper, e)
			if err == nil {
				staged()
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
func (a *app) deliver(ctx context.Context, keeper *secrets.Keeper, e lifecycle.Event) error {
	if e.Kind != lifecycle.Installed {
		return nil // it is in the audit log; what to do is for people
	}
	i, err := a.instance(e.Instance)
	if err != nil {
		return err
	}
	token := e.ReferenceToken
	if i.Use.Client != nil {
		token = e.ClientSecret
	}
	if token.IsZero() {
		return nil // approved without what this instance needs: nothing is to be stored
	}
	_, err = keeper.Stage(ctx, i.Token, token, secrets.Binding{Instance: i.Name, Host: i.Client.Host(), Environment: a.cfg.Environment})
	return err
}
