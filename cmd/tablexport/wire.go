package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/configs"
	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/filestore"
	"github.com/tablexport/tablexport/export/store/s3store"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/jobs/schedule"
	"github.com/tablexport/tablexport/jobs/window"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/filter"
	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/audit"
	"github.com/tablexport/tablexport/secrets/filevault"
	"github.com/tablexport/tablexport/secrets/hashivault"
)

// app joins a configuration with the parts that it names. Parts are made when they are first asked for, and
// closed together. This file is the only one that knows every concrete type.
type app struct {
	*globals
	cfg  *configs.Config
	slog *slog.Logger // nil = that of commands

	mu        sync.Mutex
	log       *audit.Log
	runs      *ledger.Ledger
	vault     secrets.Vault
	keeps     *secrets.Keeper
	instances map[string]jobs.Instance
	buckets   map[string]store.Bucket
	tells     *telemetry
}

// open loads and checks the configuration.
func (g *globals) open() (*app, error) {
	cfg, err := configs.Load(g.config, configChecks)
	if err != nil {
		return nil, err
	}
	return g.app(cfg), nil
}

func (g *globals) app(cfg *configs.Config) *app {
	return &app{globals: g, cfg: cfg, instances: map[string]jobs.Instance{}, buckets: map[string]store.Bucket{}}
}

// configChecks lends the configuration the parsers that it may not import.
var configChecks = configs.Checks{
	Filter: func(text string) error {
		err := filter.CheckSyntax(text)
		var problems filter.Problems
		if !errors.As(err, &problems) {
			return err
		}
		var placed []error
		for _, p := range problems {
			placed = append(placed, placedProblem{p})
		}
		return errors.Join(placed...)
	},
	Cron: func(cron, zone string) error {
		_, err := schedule.Parse(cron, zone)
		return err
	},
	Days: func(text string) (first, next int, err error) {
		a, b, err := window.ParseDays(text)
		return int(a), int(b), err
	},
	Hours: func(days []string, from, to, zone string) error {
		_, err := schedule.ParseHours(days, from, to, zone)
		return err
	},
}

// placedProblem tells the configuration where in a filter's text a problem stands.
type placedProblem struct{ *filter.Problem }

func (p placedProblem) Position() int { return p.Offset }
func (p placedProblem) Error() string { return withHint(p.Text, p.Hint) }

func withHint(text, hint string) string {
	if hint == "" {
		return text
	}
	return text + "; " + hint
}

// close closes what was opened, in the reverse order of use.
func (a *app) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closeParts()
}

func (a *app) closeParts() {
	for _, b := range a.buckets {
		_ = b.Close() // every upload has ended by now, one way or the other
	}
	if a.vault != nil {
		_ = a.vault.Close()
	}
	if a.tells != nil {
		a.tells.end()
		if spans, events := a.counts.lost.Load(), a.counts.undelivered.Load(); a.slog == nil && spans+events > 0 { // the daemon logs it
			a.warn(fmt.Sprintf("%d span(s) and %d lineage event(s) could not be sent; --verbose says why", spans, events))
		}
	}
	if a.runs != nil {
		_ = a.runs.Close()
	}
	if a.log != nil {
		a.signOnClose()
		_ = a.log.Close()
	}
}

// stateDir is where ledger and audit log are: --state, or .tablexport beside the configuration.
func (a *app) stateDir() string {
	if a.state != "" {
		return a.state
	}
	return filepath.Join(a.cfg.Dir, ".tablexport")
}

// warnState says once that others can look into the state directory: the ledger and the audit log name tables, jobs and people.
// What tablexport makes itself it makes with mode 0700.
func (g *globals) warnState(dir string) {
	if runtime.GOOS == "windows" { // access is not in the mode there
		return
	}
	info, err := os.Stat(dir)
	if err != nil || !info.IsDir() || info.Mode().Perm()&0o077 == 0 {
		return
	}
	g.warned.Do(func() {
		text := fmt.Sprintf("other accounts of this machine may use the state directory %s (mode %04o); close it with: chmod 700 %s", dir, info.Mode().Perm(), dir)
		g.warn(text)
	})
}

// logger is the app's own, or that of commands.
func (a *app) logger() *slog.Logger {
	if a.slog != nil {
		return a.slog
	}
	return a.globals.logger()
}

func (a *app) auditDir() string { return filepath.Join(a.stateDir(), "audit") }

func (a *app) audit() (*audit.Log, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.log == nil {
		a.warnState(a.stateDir())
		log, err := audit.Open(a.auditDir())
		if err != nil {
			return nil, err
		}
		if err := a.recordConfig(context.Background(), log); err != nil {
			return nil, errors.Join(err, log.Close())
		}
		a.log = log
	}
	return a.log, nil
}

func (a *app) ledger(ctx context.Context) (*ledger.Ledger, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.runs == nil {
		a.warnState(a.stateDir())
		l, err := ledger.Open(ctx, filepath.Join(a.stateDir(), "ledger.db"))
		if err != nil {
			return nil, err
		}
		dead, err := l.Interrupt(ctx, jobs.Alive)
		if err == nil {
			err = a.interrupted(dead)
		}
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		a.runs = l
	}
	return a.runs, nil
}

// keeper is the only way to a token.
func (a *app) keeper() (*secrets.Keeper, error) {
	log, err := a.audit()
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.vault == nil {
		if a.vault, err = a.openVault(); err != nil {
			return nil, err
		}
	}
	if a.keeps == nil {
		place := actor() + ":" + a.stateDir()
		if abs, err := filepath.Abs(a.stateDir()); err == nil {
			place = actor() + ":" + abs
		}
		a.keeps = secrets.NewKeeper(a.vault, log, a.cfg.Environment, actor()).Shared(place).Under(a.policy())
	}
	return a.keeps, nil
}

// policy is the configuration's, as loans are held to it.
func (a *app) policy() secrets.Policy {
	p := a.cfg.Policy
	return secrets.Policy{Allows: p.Allows, MaxAge: time.Duration(p.MaxAgeDays) * 24 * time.Hour, Scopes: p.Scopes, RequireExpiry: p.RequireExpiry, WarnOnly: p.Mode == "warn"}
}

func (a *app) openVault() (secrets.Vault, error) {
	if f := a.cfg.Secrets.File; f != nil {
		return filevault.Open(filevault.Options{File: a.cfg.Resolve(f.Path), IdentityFile: a.cfg.Resolve(f.IdentityFile)})
	}
	v := a.cfg.Secrets.Vault
	options := hashivault.Options{Address: v.Address, Mount: v.Mount, Prefix: v.Prefix, Namespace: v.Namespace, CAFile: a.cfg.Resolve(v.CAFile),
		Auth: a.vaultAuth(v.Auth), OnLogin: a.recordLogin}
	return hashivault.Open(options)
}

// foreign reads a token that somebody else has put into the vault, beside those that are kept there.
func (a *app) foreign(ctx context.Context, path, field string) (secrets.Token, error) {
	v, ok := a.vault.(*hashivault.Vault)
	if !ok {
		return secrets.Token{}, usagef("a token is handed over in a HashiCorp Vault, and secrets in %s names none", a.config)
	}
	return v.Foreign(ctx, path, field)
}

// actor names who acts, for the audit log: the user of this machine's account.
func actor() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	if u, err := user.Current(); err == nil {
		return u.Username + "@" + host
	}
	return fmt.Sprintf("uid-%d@%s", os.Getuid(), host)
}

// instance gives the one client that this process has for an instance.
func (a *app) instance(name string) (jobs.Instance, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i, ok := a.instances[name]; ok {
		return i, nil
	}
	c, ok := a.cfg.Instances[name]
	if !ok {
		return jobs.Instance{}, usagef("there is no instance %q in %s; %s", name, a.config, a.cfg.SuggestInstance(name))
	}
	tracer, err := a.tracer()
	if err != nil {
		return jobs.Instance{}, err
	}
	client, err := odata.NewClient(odata.Options{
		Name: name, Tracer: tracer, URL: c.URL, TableAPI: c.TableAPI, Sandbox: a.cfg.Environment == configs.Sandbox, CAFile: a.cfg.Resolve(c.CAFile),
		Concurrency: c.Concurrency, RequestsPerMinute: c.RequestsPerMinute, Encoding: odata.Encoding(c.Encoding), UserAgent: "tablexport/" + buildVersion(), Logger: a.logger(),
		ConnectTimeout: c.Timeouts.Connect.Or(0), HeaderTimeout: c.Timeouts.Header.Or(0), IdleTimeout: c.Timeouts.Idle.Or(0),
	})
	if err != nil {
		return jobs.Instance{}, err
	}
	use, err := a.tokenUse(c)
	if err != nil {
		return jobs.Instance{}, err
	}
	i := jobs.Instance{Name: name, Client: client, Token: c.Token, Use: use}
	a.instances[name] = i
	return i, nil
}

// session borrows the instance's token for a purpose other than a run. Call the returned function when done.
func (a *app) session(ctx context.Context, name, purpose string) (*odata.Session, func(), error) {
	i, err := a.instance(name)
	if err != nil {
		return nil, nil, err
	}
	keeper, err := a.keeper()
	if err != nil {
		return nil, nil, err
	}
	lease, err := keeper.Lease(ctx, secrets.LeaseRequest{Name: i.Token, Instance: i.Name, Host: i.Client.Host(), Purpose: purpose, Use: i.Use})
	if err != nil {
		return nil, nil, err
	}
	return i.Client.Open(lease), func() {
		if err := lease.Close(context.WithoutCancel(ctx)); err != nil {
			a.logger().Warn("the end of a loan could not be audited", "token", i.Token, "error", err)
		}
	}, nil
}

// bucket gives the one bucket that this process has for a store.
func (a *app) bucket(ctx context.Context, name string) (store.Bucket, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if b, ok := a.buckets[name]; ok {
		return b, nil
	}
	b, err := a.openBucket(ctx, name, nil)
	if err != nil {
		return nil, err
	}
	a.buckets[name] = b
	return b, nil
}

// openBucket opens a store; with a lock, what is put into it is under S3 Object Lock.
func (a *app) openBucket(ctx context.Context, name string, lock *configs.ObjectLock) (store.Bucket, error) {
	s, ok := a.cfg.Stores[name]
	if !ok {
		return nil, usagef("there is no store %q in %s", name, a.config)
	}
	if s.File != nil {
		return filestore.Open(a.cfg.Resolve(s.File.Path))
	}
	options := s3store.Options{
		Bucket: s.S3.Bucket, Prefix: s.S3.Prefix, Region: s.S3.Region, Endpoint: s.S3.Endpoint, PathStyle: s.S3.PathStyle,
		SSE: s.S3.SSE, KMSKeyID: s.S3.KMSKeyID, StorageClass: s.S3.StorageClass, CAFile: a.cfg.Resolve(s.S3.CAFile),
	}
	if lock != nil {
		options.Lock, options.LockFor = strings.ToUpper(lock.Mode), time.Duration(lock.Days)*24*time.Hour
	}
	return s3store.Open(ctx, options)
}

// openDataset opens the configuration and one job's dataset. Close the app when done, unless there is an error.
func (g *globals) openDataset(ctx context.Context, job string) (*app, *export.Dataset, error) {
	a, err := g.open()
	if err != nil {
		return nil, nil, err
	}
	d, err := a.dataset(ctx, job)
	if err != nil {
		a.close()
		return nil, nil, err
	}
	return a, d, nil
}

// openKeeper opens the configuration and the way to its tokens. Close the app when done, unless there is an error.
func (g *globals) openKeeper() (*app, *secrets.Keeper, error) {
	a, err := g.open()
	if err != nil {
		return nil, nil, err
	}
	keeper, err := a.keeper()
	if err != nil {
		a.close()
		return nil, nil, err
	}
	return a, keeper, nil
}

// dataset opens a job's dataset.
func (a *app) dataset(ctx context.Context, job string) (*export.Dataset, error) {
	j, ok := a.cfg.Jobs[job]
	if !ok {
		return nil, a.noJob(job)
	}
	b, err := a.bucket(ctx, j.Store)
	if err != nil {
		return nil, err
	}
	return export.Open(b, j.Path), nil
}

func (a *app) noJob(name string) error {
	return usagef("there is no job %q in %s; %s", name, a.config, a.cfg.SuggestJob(name))
}

// job is a configured job as package jobs knows it.
func (a *app) job(name string) (jobs.Job, error) {
	j, ok := a.cfg.Jobs[name]
	if !ok {
		return jobs.Job{}, a.noJob(name)
	}
	s := a.cfg.Scopes[j.Scope]
	refresh, err := refreshOf(j.Refresh)
	if err != nil {
		return jobs.Job{}, a.cfg.ProblemAt("jobs."+name+".refresh", err.Error(), "")
	}
	return jobs.Job{
		Name: name, Description: j.Description, Instance: j.Instance, Table: j.Table, Select: j.Select, Filter: j.Filter,
		ScopeName: j.Scope, Where: s.Where, Unrestricted: s.Unrestricted, Delegated: j.Delegated,
		VerifyOwner: s.Verify == "owner", MaxOwnerKeys: s.MaxOwnerKeys, Schema: contractOf(j.Schema), MaxQuarantined: int64(j.MaxQuarantined),
		Paging: odata.Paging(j.Paging.Mode), PageSize: j.Paging.PageSize, Store: j.Store, Path: j.Path,
		Refresh: refresh,
	}, nil
}

// contractOf is a job's schema contract; evolve is the one that goes without saying.
func contractOf(schema string) export.Contract {
	if schema == "evolve" {
		return export.Evolve
	}
	return export.Contract(schema)
}

// runner joins everything that a run needs, for the named jobs.
func (a *app) runner(ctx context.Context, names []string) (*jobs.Runner, error) {
	keeper, err := a.keeper()
	if err != nil {
		return nil, err
	}
	log, err := a.audit()
	if err != nil {
		return nil, err
	}
	runs, err := a.ledger(ctx)
	if err != nil {
		return nil, err
	}
	owner, err := a.owner(ctx)
	if err != nil {
		return nil, err
	}
	r := &jobs.Runner{Keeper: keeper, Audit: log, Ledger: runs, Instances: map[string]jobs.Instance{}, Bucket: a.bucket, Owner: owner,
		Logger: a.logger(), Actor: actor(), Engine: "tablexport/" + buildVersion(), SweepAge: 24 * time.Hour}
	if r.Observe, err = a.observer(); err != nil {
		return nil, err
	}
	a.mu.Lock()
	r.Tracer, err = a.tracer()
	a.mu.Unlock()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		instance := a.cfg.Jobs[name].Instance
		if r.Instances[instance], err = a.instance(instance); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// owner names the state directory in leases on datasets. The host is in it, so that a copied state directory is another owner.
func (a *app) owner(ctx context.Context) (string, error) {
	runs, err := a.ledger(ctx)
	if err != nil {
		return "", err
	}
	name, err := runs.Identity(ctx)
	if err != nil {
		return "", err
	}
	host, _, _ := strings.Cut(jobs.Process(), ":")
	return name + "@" + host, nil
}

// located places the problems of a plan in the configuration file.
func (a *app) located(err error) error {
	var plan *jobs.PlanError
	if !errors.As(err, &plan) {
		return err
	}
	var problems configs.Problems
	for _, p := range plan.Problems {
		key := "jobs." + plan.Job + "." + p.Field
		if p.Field == "where" {
			key = "scopes." + a.cfg.Jobs[plan.Job].Scope + ".where"
		}
		problem := a.cfg.ProblemInside(key, p.Offset, p.Text, p.Hint)
		problem.File = a.config // as it was named
		if !slices.ContainsFunc(problems, func(q *configs.Problem) bool { return q.Error() == problem.Error() }) {
			problems = append(problems, problem)
		}
	}
	return problems
}

// jobNames checks names given on the command line, each once and in their order, or gives all.
func (a *app) jobNames(args []string, all bool) ([]string, error) {
	switch {
	case all && len(args) > 0:
		return nil, usagef("name jobs or write --all, not both")
	case all:
		args = a.cfg.JobNames()
	}
	if len(args) == 0 {
		return nil, usagef("name at least one job, or write --all; the jobs are: %s", strings.Join(a.cfg.JobNames(), ", "))
	}
	for _, name := range args {
		if _, ok := a.cfg.Jobs[name]; !ok {
			return nil, a.noJob(name)
		}
	}
	var names []string
	for _, name := range args {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// completeJobs offers the configuration's jobs to a shell; one that cannot be read has none to offer.
func (g *globals) completeJobs(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	cfg, _ := configs.LoadDraft(g.config, configs.Checks{})
	if cfg == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := slices.DeleteFunc(cfg.JobNames(), func(name string) bool { return slices.Contains(args, name) })
	return names, cobra.ShellCompDirectiveNoFileComp
}
