package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tablexport/tablexport/configs"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/gate"
	"github.com/tablexport/tablexport/jobs/status"
	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/audit"
)

// gate is who may ask what of the serving program, and the certificate that it shows; nil is plain HTTP, on loopback.
func (d *daemon) gate(a *app) (*gate.Gate, *tls.Config, error) {
	c := a.cfg.Serve
	options := gate.Options{PerMinute: c.Limits.PerMinute, Strangers: c.Limits.Unauthenticated, Log: d.log,
		Refused: func(why gate.Reason) { d.metrics.Refused(why) }, Record: d.refusedOrder}
	var secure *tls.Config
	if c.TLS != nil {
		files := &gate.Files{CertFile: a.cfg.Resolve(c.TLS.CertFile), KeyFile: a.cfg.Resolve(c.TLS.KeyFile),
			Failed: func(err error) {
				d.log.Error("the new certificate cannot be used; the one before stays in use", "error", err)
			}}
		if c.TLS.ClientCAFile != "" {
			files.ClientCAFile = a.cfg.Resolve(c.TLS.ClientCAFile)
			options.Believed = files.Believed
		}
		var err error
		if secure, err = files.Config(); err != nil {
			return nil, nil, &configError{fmt.Errorf("serve.tls: %w", err)}
		}
		options.Secure = true
	}
	if o := c.OIDC; o != nil {
		verifier := &gate.OIDC{Issuer: o.Issuer, Audience: o.Audience, Claim: o.RolesClaim, Roles: rolesBy(o.Roles), Skew: time.Duration(o.ClockSkew)}
		if o.CAFile != "" {
			client, err := a.clientTrusting(o.CAFile)
			if err != nil {
				return nil, nil, fmt.Errorf("serve.oidc.ca_file: %w", err)
			}
			verifier.Client = client
		}
		options.Bearer = verifier
	}
	if c.MTLS != nil {
		options.Certificates = rolesBy(c.MTLS.Roles)
	}
	return gate.New(options), secure, nil
}

// configError is a configuration whose files cannot be used.
type configError struct{ err error }

func (e *configError) Error() string { return e.err.Error() }
func (e *configError) Unwrap() error { return e.err }

// rolesBy turns who has a role into the roles of whom.
func rolesBy(roles configs.ServeRoles) map[string][]gate.Role {
	out := map[string][]gate.Role{}
	by := roles.ByRole()
	for _, role := range slices.Sorted(maps.Keys(by)) {
		for _, name := range by[role] {
			out[name] = append(out[name], gate.Role(role))
		}
	}
	return out
}

// refusedOrder writes into the audit log who has asked for what they may not.
func (d *daemon) refusedOrder(ctx context.Context, c gate.Caller, address, route string, why gate.Reason) {
	log, err := d.current().audit()
	if err == nil {
		_, err = log.Append(context.WithoutCancel(ctx), audit.Entry{Actor: c.Name, Action: "refuse", Subject: route, Outcome: audit.Refused, Detail: map[string]string{"address": address, "reason": string(why)}})
	}
	if err != nil {
		d.log.Error("a refusal could not be audited", "route", route, "error", err)
	}
}

// act does what a caller of the API may ask for. First the audit log says that it is begun: what is not audited does not happen. Then it
// says how it ended; a crash in between leaves an entry that says "started" and no other.
func (d *daemon) act(ctx context.Context, o status.Order) error {
	a := d.current()
	log, err := a.audit()
	if err != nil {
		return err
	}
	entry := audit.Entry{Action: o.Do, Subject: o.Job, Actor: o.Who, Detail: map[string]string{}}
	if o.Why != "" {
		entry.Detail["why"] = o.Why
	}
	record := func(outcome string) error {
		entry.Outcome = outcome
		if _, err := log.Append(ctx, entry); err != nil {
			return fmt.Errorf("%w: %w", secrets.ErrAudit, err)
		}
		return nil
	}
	if _, known := a.cfg.Jobs[o.Job]; !known {
		entry.Detail["reason"] = "there is no such job"
		return errors.Join(status.ErrUnknown, record(audit.Refused))
	}
	entry.Job = o.Job
	if err := record(audit.Started); err != nil {
		return err
	}
	if err := d.carryOut(ctx, o); err != nil {
		entry.Detail["error"] = err.Error()
		return errors.Join(err, record(audit.Failed))
	}
	d.log.Info("an order was taken", "order", o.Do, "job", o.Job, "by", o.Who)
	return record(audit.OK)
}

func (d *daemon) carryOut(ctx context.Context, o status.Order) error {
	l, err := d.current().ledger(ctx)
	if err != nil {
		return err
	}
	switch o.Do {
	case "pause":
		return l.Pause(ctx, o.Job, o.Who, o.Why, time.Now())
	case "resume":
		_, err = l.Resume(ctx, o.Job)
		return err
	case "run":
		err = d.scheduler.Submit(ctx, jobs.Request{Job: jobs.Job{Name: o.Job}}, jobs.Live, nil)
		switch {
		case errors.Is(err, jobs.ErrUnderWay):
			return status.Busy("a run of this job is under way or waits already")
		case errors.Is(err, jobs.ErrNoJob):
			return status.ErrUnknown
		}
		return err
	case "cancel":
		found, err := d.scheduler.Cancel(ctx, o.Job, o.Who)
		if err == nil && !found {
			return status.Busy("no run of this job is under way")
		}
		return err
	}
	return fmt.Errorf("there is no order %q", o.Do)
}
