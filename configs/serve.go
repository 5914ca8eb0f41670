package configs

import (
	"net"
	"strconv"
	"strings"
	"time"
)

// DefaultListen is serve.listen where it is not written.
const DefaultListen = "127.0.0.1:8750"

// Serve is the long-running program: tablexport serve.
type Serve struct {
	Listen string       `yaml:"listen" jsonschema:"default=127.0.0.1:8750" jsonschema_description:"Address of the status pages, API, health and metrics. Others than loopback need tls, and oidc or mtls."`
	Drain  Duration     `yaml:"drain" jsonschema:"default=2m" jsonschema_description:"How long runs may go on when the program is told to end. Then they are stopped, and continued at the next start."`
	TLS    *ServeTLS    `yaml:"tls" jsonschema_description:"The program's certificate; read again when its files change."`
	OIDC   *ServeOIDC   `yaml:"oidc" jsonschema_description:"Bearer tokens of an OpenID provider, and the roles of their subjects."`
	MTLS   *ServeMTLS   `yaml:"mtls" jsonschema_description:"Client certificates, and the roles of their holders."`
	Limits *ServeLimits `yaml:"limits" jsonschema_description:"How many requests the program answers."`

	History Duration `yaml:"history" jsonschema:"default=400d" jsonschema_description:"How long runs and ticks stay in the ledger; 35d at least. The newest 20 of each job stay in any case."`
}

// ServeTLS is the certificate that the program shows.
type ServeTLS struct {
	CertFile     string `yaml:"cert_file" jsonschema:"required" jsonschema_description:"PEM file with the certificate and its chain."`
	KeyFile      string `yaml:"key_file" jsonschema:"required" jsonschema_description:"PEM file with its private key."`
	ClientCAFile string `yaml:"client_ca_file" jsonschema_description:"PEM file of the authorities that sign client certificates, for mtls."`
}

// ServeRoles says who has which role: viewer sees datasets, jobs and runs; operator also steers jobs; auditor also sees tokens; admin may all.
type ServeRoles struct {
	Viewer   []string `yaml:"viewer" jsonschema_description:"Sees datasets, jobs, runs, instances and metrics."`
	Operator []string `yaml:"operator" jsonschema_description:"A viewer that may pause, resume, run and cancel jobs too."`
	Auditor  []string `yaml:"auditor" jsonschema_description:"A viewer that sees tokens too, and who used them."`
	Admin    []string `yaml:"admin" jsonschema_description:"All of it."`
}

// ByRole are the roles' names and who has them.
func (r ServeRoles) ByRole() map[string][]string {
	return map[string][]string{"viewer": r.Viewer, "operator": r.Operator, "auditor": r.Auditor, "admin": r.Admin}
}

// ServeOIDC is the OpenID provider whose tokens are believed.
type ServeOIDC struct {
	Issuer     string     `yaml:"issuer" jsonschema:"required,format=uri" jsonschema_description:"The issuer's address; its keys are found through /.well-known/openid-configuration below it."`
	Audience   string     `yaml:"audience" jsonschema:"required" jsonschema_description:"The aud that tokens for this program carry."`
	RolesClaim string     `yaml:"roles_claim" jsonschema:"default=roles" jsonschema_description:"The claim with the caller's roles or groups: its name, or a path such as realm_access.roles."`
	Roles      ServeRoles `yaml:"roles" jsonschema:"required" jsonschema_description:"For each role, the texts of the claim that give it."`
	ClockSkew  Duration   `yaml:"clock_skew" jsonschema:"default=1m" jsonschema_description:"How far the issuer's clock may be off; at most 5m."`
	CAFile     string     `yaml:"ca_file" jsonschema_description:"PEM file of the issuer's certificate authority, instead of the system's."`
}

// ServeMTLS says who the holders of client certificates are.
type ServeMTLS struct {
	Roles ServeRoles `yaml:"roles" jsonschema:"required" jsonschema_description:"For each role, names of certificates: a DNS name, URI or mail address of theirs, or CN=common name."`
}

// ServeLimits bounds requests.
type ServeLimits struct {
	PerMinute       int `yaml:"requests_per_minute" jsonschema:"minimum=1,maximum=100000,default=600" jsonschema_description:"Requests of one caller."`
	Unauthenticated int `yaml:"unauthenticated_per_minute" jsonschema:"minimum=1,maximum=100000,default=60" jsonschema_description:"Requests of one address that has not shown who it is, health included."`
}

func (s *Serve) defaults() {
	setDefault(&s.Listen, DefaultListen)
	setDefault(&s.Drain, Duration(2*time.Minute))
	setDefault(&s.History, Duration(400*24*time.Hour))
	if o := s.OIDC; o != nil {
		setDefault(&o.RolesClaim, "roles")
		setDefault(&o.ClockSkew, Duration(time.Minute))
	}
	if s.Limits == nil {
		s.Limits = &ServeLimits{}
	}
	setDefault(&s.Limits.PerMinute, 600)
	setDefault(&s.Limits.Unauthenticated, 60)
}

const (
	maxClockSkew = 5 * time.Minute
	minHistory   = 35 * 24 * time.Hour
)

func (v *validator) serve() {
	s := v.Serve
	if s.Listen != "" {
		host, port, err := net.SplitHostPort(s.Listen)
		n, perr := strconv.Atoi(port)
		switch {
		case err != nil || perr != nil || n < 0 || n > 65535:
			v.at("serve.listen", "not an address to listen at", "write it like 127.0.0.1:8750")
		case !isLoopback(host) && (s.TLS == nil || s.OIDC == nil && s.MTLS == nil):
			v.at("serve.listen", "not a loopback address, without TLS and authentication", "write tls:, and oidc: or mtls: beside it, or 127.0.0.1:"+port+" or [::1]:"+port)
		}
	}
	if s.History != 0 && time.Duration(s.History) < minHistory {
		v.at("serve.history", "less than 35 days", "write 35d or more: alerts compare with the weeks before, and retiring a token asks for the runs that used it")
	}
	if o := s.OIDC; o != nil {
		if o.Issuer != "" {
			v.address("serve.oidc.issuer", o.Issuer, "https://login.acme.example", v.Environment == Sandbox)
		}
		if time.Duration(o.ClockSkew) > maxClockSkew {
			v.at("serve.oidc.clock_skew", "more than five minutes", "write 5m at most: set the clocks right instead")
		}
		v.roles("serve.oidc.roles", o.Roles)
	}
	if s.MTLS == nil {
		return
	}
	v.roles("serve.mtls.roles", s.MTLS.Roles)
	if s.TLS == nil || s.TLS.ClientCAFile == "" {
		v.at("serve.mtls", "nothing says which client certificates to believe", "write serve.tls.client_ca_file")
	}
}

// roles must be given to somebody, or nobody gets in.
func (v *validator) roles(key string, r ServeRoles) {
	n := 0
	for _, names := range r.ByRole() {
		n += len(names)
		for _, name := range names {
			if name == "" || strings.TrimSpace(name) != name {
				v.at(key, "an empty name, or one with spaces around it", "write the text as the token or certificate has it")
			}
		}
	}
	if n == 0 {
		v.at(key, "nobody has a role", "write viewer, operator, auditor or admin, and who has it, e.g. viewer: [bi-users]")
	}
}

// freshness checks how old a job's dataset may become.
func (v *validator) freshness(key string, j Job) {
	if j.FreshWithin != 0 && j.Schedule == nil && len(j.After) == 0 {
		v.at(key+".fresh_within", "nothing makes the dataset fresh by itself", "write schedule: or after: beside it")
	}
	if strings.TrimSpace(j.Owner) != j.Owner {
		v.at(key+".owner", "spaces around the text", "remove them")
	}
}
