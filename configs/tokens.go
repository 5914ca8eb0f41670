package configs

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Audit is what becomes of the audit log beside being written.
type Audit struct {
	Checkpoints *Checkpoints `yaml:"checkpoints" jsonschema_description:"Signed checkpoints of the audit log, kept away from it, so that a cut tail or a rewritten log is found. Written at the end of every command that adds to the log."`
	KeepDays    int          `yaml:"keep_days" jsonschema:"minimum=1,maximum=36500" jsonschema_description:"tablexport audit expire removes files of the log whose entries are all older. Needs checkpoints. Default: nothing is removed."`
}

// Checkpoints says where signed checkpoints of the audit log go.
type Checkpoints struct {
	Store       string      `yaml:"store" jsonschema:"required" jsonschema_description:"Name of the store; best one that the account which runs jobs cannot delete from."`
	Path        string      `yaml:"path" jsonschema:"default=audit-checkpoints" jsonschema_description:"Where in the store."`
	KeyFile     string      `yaml:"key_file" jsonschema:"required" jsonschema_description:"The Ed25519 key that signs, mode 0600; make one with: tablexport audit keygen FILE."`
	TrustedKeys []string    `yaml:"trusted_keys" jsonschema_description:"Files with public keys whose signatures count too: those of earlier keys."`
	Lock        *ObjectLock `yaml:"lock" jsonschema_description:"S3 Object Lock for the checkpoints; the bucket must have it enabled."`
}

// ObjectLock is S3 Object Lock of new objects.
type ObjectLock struct {
	Mode string `yaml:"mode" jsonschema:"required,enum=governance,enum=compliance" jsonschema_description:"compliance: nobody can delete them before their time; governance: those with a special permission can."`
	Days int    `yaml:"days" jsonschema:"required,minimum=1,maximum=36500" jsonschema_description:"How long."`
}

func (v *validator) audit() {
	c := v.Audit.Checkpoints
	if c == nil {
		if v.Audit.KeepDays > 0 {
			v.at("audit.keep_days", "nothing vouches for what would be removed", "add checkpoints: beside it, or leave keep_days out")
		}
		return
	}
	const key = "audit.checkpoints"
	v.reference(key+".store", c.Store, "store", sortedKeys(v.Stores))
	if c.Path != "" && !cleanPath(c.Path) {
		v.at(key+".path", "not a clean path", "write it like audit-checkpoints: relative, with slashes, without .. or spaces")
	}
	s, known := v.Stores[c.Store]
	if c.Lock != nil && known && s.S3 == nil {
		v.at(key+".lock", "only an s3 store has object lock", "name an s3 store, or leave lock out")
	}
	if !known {
		return
	}
	at := c.Path
	setDefault(&at, "audit-checkpoints")
	v.apart(key+".path", c.Store, at, "give the checkpoints a path of their own")
}

// VaultJWT is a login with a JWT; the file is read at every login.
type VaultJWT struct {
	File  string `yaml:"file" jsonschema:"required" jsonschema_description:"File with the JWT."`
	Role  string `yaml:"role" jsonschema:"required" jsonschema_description:"Role of the auth method."`
	Mount string `yaml:"mount" jsonschema:"default=jwt" jsonschema_description:"The auth mount."`
}

// VaultKubernetes is a login with a pod's service account; the file is read at every login.
type VaultKubernetes struct {
	Role  string `yaml:"role" jsonschema:"required" jsonschema_description:"Role of the auth method."`
	File  string `yaml:"file" jsonschema:"default=/var/run/secrets/kubernetes.io/serviceaccount/token" jsonschema_description:"File with the service account's token."`
	Mount string `yaml:"mount" jsonschema:"default=kubernetes" jsonschema_description:"The auth mount."`
}

// VaultCert is a login with a TLS client certificate; the files are read at every handshake.
type VaultCert struct {
	CertFile string `yaml:"cert_file" jsonschema:"required" jsonschema_description:"PEM file with the certificate and its chain."`
	KeyFile  string `yaml:"key_file" jsonschema:"required" jsonschema_description:"PEM file with its private key."`
	Role     string `yaml:"role" jsonschema_description:"Certificate role. Default: any that fits."`
	Mount    string `yaml:"mount" jsonschema:"default=cert" jsonschema_description:"The auth mount."`
}

// Auth is how an instance's token is used: at most one of its members.
type Auth struct {
	ClientCredentials *ClientCredentials `yaml:"client_credentials" jsonschema_description:"The vault keeps a client secret, which is exchanged for access tokens of the instance's identity server."`
	Header            string             `yaml:"header" jsonschema_description:"Name of a header that carries the token as it is, e.g. X-Api-Key, in place of Authorization: Bearer."`
}

// ClientCredentials is a trusted application that asks for access tokens.
type ClientCredentials struct {
	ClientID    string   `yaml:"client_id" jsonschema:"required" jsonschema_description:"URI of the trusted application, e.g. acme.example/bi."`
	Scopes      []string `yaml:"scopes" jsonschema_description:"Scopes to ask for. Default: [read]. A token that carries others is refused."`
	AllowUpdate bool     `yaml:"allow_update" jsonschema_description:"true: accept the scope update, which lets a token write. A reporting service does not need it."`
	Issuer      string   `yaml:"issuer" jsonschema:"format=uri" jsonschema_description:"Address of the identity server. Default: the instance's url with /id. It must be on the host that the token is bound to."`
}

var headerName = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

func (v *validator) auth(key string, i Instance) {
	c := i.Auth.ClientCredentials
	switch {
	case c != nil && i.Auth.Header != "":
		v.at(key, "more than one is chosen", "write one of client_credentials and header, or neither")
	case i.Auth.Header != "" && !headerName.MatchString(i.Auth.Header):
		v.at(key+".header", "not the name of a header", "write it like X-Api-Key")
	}
	if c == nil {
		return
	}
	if c.Issuer != "" {
		v.address(key+".client_credentials.issuer", c.Issuer, "https://acme.my.erp.net/id", v.Environment == Sandbox)
	}
	for n, s := range c.Scopes {
		at := fmt.Sprintf("%s.client_credentials.scopes[%d]", key, n)
		switch {
		case s == "" || strings.ContainsAny(s, " \t\"\\"):
			v.at(at, "not a scope", "write one such as read")
		case s == "update" && !c.AllowUpdate:
			v.at(at, "a token with this scope can write", "ask for read alone, or write allow_update: true beside it, and policy: {scopes: [read, update]}")
		}
	}
}

// Policy is what tokens must be like.
type Policy struct {
	Mode          string   `yaml:"mode" jsonschema:"enum=enforce,enum=warn,default=enforce" jsonschema_description:"enforce: a token that breaks hosts, max_age_days, scopes or require_expiry is not lent, nor activated. warn: it is lent, and the audit entry of the loan says what it breaks. The environment is enforced always."`
	Hosts         []string `yaml:"hosts" jsonschema_description:"Hosts that tokens may be sent to, e.g. acme.my.erp.net or *.my.erp.net. Instances elsewhere are refused. Default: those of the instances."`
	MaxAgeDays    int      `yaml:"max_age_days" jsonschema:"minimum=1,maximum=3650" jsonschema_description:"How old an active token may be, in days since it was staged."`
	Scopes        []string `yaml:"scopes" jsonschema_description:"Scopes that tokens may carry. Default: [read]."`
	RequireExpiry bool     `yaml:"require_expiry" jsonschema_description:"true: a token whose expiry is not known, or is over, is not used. Say it with tokens describe NAME VERSION --expires DATE, or when it is staged."`
	MaxLifeDays   int      `yaml:"max_life_days" jsonschema:"minimum=1,maximum=3650,default=400" jsonschema_description:"How long a token may be good for, in days from its creation to its expiry."`
	UnusedDays    int      `yaml:"unused_days" jsonschema:"minimum=1,maximum=3650,default=30" jsonschema_description:"A token that was not used for so many days is reported."`
}

// Rotation is how the token of one instance is kept young.
type Rotation struct {
	MaxAge     Duration `yaml:"max_age" jsonschema:"default=90d" jsonschema_description:"How old the active token may become, since it was staged."`
	WarnBefore Duration `yaml:"warn_before" jsonschema:"default=14d" jsonschema_description:"How long before max_age, and before the expiry where it is known, a new token is asked for."`
	Grace      Duration `yaml:"grace" jsonschema:"default=1h" jsonschema_description:"How long after its last use, and after it was replaced, an old token is retired."`
}

// Reports are what is reported on a schedule.
type Reports struct {
	Tokens *TokenReport `yaml:"tokens" jsonschema_description:"The findings of tablexport tokens report, published as a dataset."`
}

// TokenReport is the scheduled report on tokens.
type TokenReport struct {
	Cron  string `yaml:"cron" jsonschema:"required" jsonschema_description:"Five fields: minute hour day-of-month month day-of-week, e.g. 0 6 * * 1-5."`
	Zone  string `yaml:"zone" jsonschema:"required" jsonschema_description:"IANA time zone of the cron text, e.g. Europe/Sofia."`
	Store string `yaml:"store" jsonschema:"required" jsonschema_description:"Name of the store."`
	Path  string `yaml:"path" jsonschema:"default=security/tokens" jsonschema_description:"Where in the store."`
	Keep  string `yaml:"keep" jsonschema:"enum=all,enum=latest,default=all" jsonschema_description:"all: every report's rows are added; latest: the dataset holds the newest report alone."`
}

func (v *validator) rotations() {
	for _, name := range sortedKeys(v.Rotations) {
		key, r := "rotations."+name, v.Rotations[name]
		v.reference(key, name, "instance", sortedKeys(v.Instances))
		r.defaults()
		if r.WarnBefore >= r.MaxAge {
			v.at(key+".warn_before", "not shorter than max_age: a new token would be asked for at once", "write less, such as 14d beside max_age: 90d")
		}
		if days := v.Policy.MaxAgeDays; days > 0 && r.MaxAge > Duration(days)*Duration(24*time.Hour) {
			v.at(key+".max_age", "longer than policy.max_age_days lets a token be used", "write "+strconv.Itoa(days)+"d or less")
		}
	}
}

func (r *Rotation) defaults() {
	setDefault(&r.MaxAge, Duration(90*24*time.Hour))
	setDefault(&r.WarnBefore, Duration(14*24*time.Hour))
	setDefault(&r.Grace, Duration(time.Hour))
}

func (v *validator) reports() {
	r := v.Reports.Tokens
	if r == nil {
		return
	}
	const key = "reports.tokens"
	v.schedule(key, &Schedule{Cron: r.Cron, Zone: r.Zone})
	v.reference(key+".store", r.Store, "store", sortedKeys(v.Stores))
	at := r.Path
	setDefault(&at, "security/tokens")
	switch {
	case !cleanPath(at):
		v.at(key+".path", "not a clean path", "write it like security/tokens: relative, with slashes, without .. or spaces")
	case hidden(at):
		v.at(key+".path", "a part of it begins with _ or a dot, which readers of Delta tables and Parquet files take for hidden", "write it like security/tokens")
	}
	if _, known := v.Stores[r.Store]; known {
		v.apart(key+".path", r.Store, at, "give the report a path of its own")
	}
}

// apart demands that a place of a store is inside no job's dataset, nor around one.
func (v *validator) apart(key, store, at, hint string) {
	place := v.place(Job{Store: store, Path: at})
	for _, name := range sortedKeys(v.Jobs) {
		if j := v.Jobs[name]; j.Path != "" {
			if p := v.place(j); path.Clean(p) == path.Clean(place) || strings.HasPrefix(place, p+"/") || strings.HasPrefix(p, place+"/") {
				v.at(key, "inside the dataset of job \""+name+"\", or around it", hint)
				return
			}
		}
	}
}

// App is a trusted application of an instance.
type App struct {
	URI         string `yaml:"uri" jsonschema_description:"Its URI, e.g. acme.example/bi."`
	Name        string `yaml:"name" jsonschema_description:"Its name for people. Default: the URI."`
	RedirectURI string `yaml:"redirect_uri" jsonschema:"format=uri" jsonschema_description:"https address that receives the lifecycle event which delivers a new token."`
}

var hostPattern = regexp.MustCompile(`^(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?$`)

func (v *validator) policy() {
	for n, h := range v.Policy.Hosts {
		if !hostPattern.MatchString(h) {
			v.at(fmt.Sprintf("policy.hosts[%d]", n), "not a host", "write it like acme.my.erp.net or *.my.erp.net, in lower case, without https://")
		}
	}
	for n, s := range v.Policy.Scopes {
		if s == "" || strings.ContainsAny(s, " \t\"\\") {
			v.at(fmt.Sprintf("policy.scopes[%d]", n), "not a scope", "write one such as read")
		}
	}
	for _, name := range sortedKeys(v.Instances) {
		i := v.Instances[name]
		if i.Application.RedirectURI != "" {
			v.address("instances."+name+".application.redirect_uri", i.Application.RedirectURI, "https://bi.acme.example/events", false)
		}
		for _, address := range []string{i.URL, i.TableAPI} {
			u, err := url.Parse(address)
			if err == nil && u.Host != "" && !v.Policy.Allows(u.Host) {
				v.at("instances."+name, fmt.Sprintf("the policy does not let tokens be sent to %s", u.Host), "add it to policy.hosts, or remove the instance")
			}
		}
	}
}

// Allows says whether tokens may be sent to host[:port].
func (p Policy) Allows(host string) bool {
	host = strings.ToLower(host)
	bare := strings.TrimSuffix(host, ":443")
	for _, pattern := range p.Hosts {
		below, wild := strings.CutPrefix(pattern, "*")
		if pattern == host || pattern == bare || wild && strings.HasSuffix(bare, below) && len(bare) > len(below) {
			return true
		}
	}
	return len(p.Hosts) == 0
}
