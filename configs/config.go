// Package configs is the file a user writes, tablexport.yaml: its types, strict loading, validation and JSON Schema.
//
// It is pure data and imports nothing else of this module; only cmd imports it. What it cannot judge by itself (is
// this filter text well formed? this cron line?) is asked of the functions in [Checks], which cmd supplies.
//
// Loading is strict and complete: an unknown key, a wrong type, a missing reference or a bad filter is a
// [Problem] with file, line and column and what to write instead, and all problems are reported at once.
//
// Secrets are never values in the file. A token is named ("bi/acme-reader") and lives in a vault; credentials of
// the vault itself are files. Relative paths are relative to the directory of the configuration file.
package configs

import "time"

// The environments. A token is bound to one of them.
const (
	Production = "production"
	Sandbox    = "sandbox"
)

// Config is the whole file.
type Config struct {
	Environment string              `yaml:"environment" jsonschema:"required,enum=production,enum=sandbox" jsonschema_description:"The environment that this file is for. Tokens are bound to one; plain http to loopback addresses is allowed in sandbox only."`
	Secrets     Secrets             `yaml:"secrets" jsonschema:"required" jsonschema_description:"Where tokens are kept: exactly one of vault and file."`
	Policy      Policy              `yaml:"policy" jsonschema_description:"What tokens must be like; tablexport policy check explains each verdict."`
	Instances   map[string]Instance `yaml:"instances" jsonschema:"required" jsonschema_description:"The ERP instances, by a name of your choice."`
	Stores      map[string]Store    `yaml:"stores" jsonschema:"required" jsonschema_description:"The places where datasets are published, by name."`
	Scopes      map[string]Scope    `yaml:"scopes" jsonschema:"required" jsonschema_description:"Row-level scopes, by name: what a job may see."`
	Jobs        map[string]Job      `yaml:"jobs" jsonschema_description:"The exports, by name."`
	Sets        map[string][]string `yaml:"sets" jsonschema_description:"Jobs that are published together, by the name of the set: sales: [orders, order-lines]. Run one with: tablexport run --set sales."`
	Rotations   map[string]Rotation `yaml:"rotations" jsonschema_description:"Whose tokens tablexport serve rotates by itself, by the instance's name: acme: {max_age: 90d, warn_before: 14d, grace: 1h}. It does what needs no person, and alerts for the rest."`
	Reports     Reports             `yaml:"reports" jsonschema_description:"What tablexport serve reports on a schedule."`
	Audit       Audit               `yaml:"audit" jsonschema_description:"What becomes of the audit log: signed checkpoints, retention."`
	Alerts      Alerts              `yaml:"alerts" jsonschema_description:"Who is told what, by tablexport serve."`
	Telemetry   Telemetry           `yaml:"telemetry" jsonschema_description:"What other systems are told of runs: traces, lineage."`
	Serve       Serve               `yaml:"serve" jsonschema_description:"The long-running program: tablexport serve."`

	// Path is the file that the configuration was read from; Dir its directory, which relative paths start at.
	Path string `yaml:"-" json:"-"`
	Dir  string `yaml:"-" json:"-"`

	positions map[string]Position
	texts     map[string]string // of the text values
	lines     []string
}

// Secrets says where tokens are kept.
type Secrets struct {
	Vault *VaultSecrets `yaml:"vault" jsonschema_description:"HashiCorp Vault (or OpenBao), KV version 2."`
	File  *FileSecrets  `yaml:"file" jsonschema_description:"An age-encrypted file, for those without a Vault. Created on first use."`
}

// VaultSecrets is a HashiCorp Vault with a KV v2 mount.
type VaultSecrets struct {
	Address   string    `yaml:"address" jsonschema:"required,format=uri" jsonschema_description:"https://vault.acme.example:8200; plain http only for loopback addresses."`
	Mount     string    `yaml:"mount" jsonschema:"default=secret" jsonschema_description:"The KV v2 mount."`
	Prefix    string    `yaml:"prefix" jsonschema:"default=tablexport" jsonschema_description:"The path under the mount below which tokens are kept."`
	Namespace string    `yaml:"namespace" jsonschema_description:"Vault Enterprise namespace."`
	CAFile    string    `yaml:"ca_file" jsonschema_description:"PEM file of the certificate authority, instead of the system's."`
	Auth      VaultAuth `yaml:"auth" jsonschema:"required" jsonschema_description:"How tablexport logs in to Vault: exactly one of token_file, approle, jwt, kubernetes and cert."`
}

// VaultAuth is how tablexport logs in to Vault.
type VaultAuth struct {
	TokenFile  string           `yaml:"token_file" jsonschema_description:"File with a Vault token, which somebody else (Vault Agent, say) keeps good; read again when Vault no longer accepts it."`
	AppRole    *VaultAppRole    `yaml:"approle" jsonschema_description:"AppRole login."`
	JWT        *VaultJWT        `yaml:"jwt" jsonschema_description:"Login with a JWT that the platform keeps in a file: the workload identity of a CI system or a cloud."`
	Kubernetes *VaultKubernetes `yaml:"kubernetes" jsonschema_description:"Login with the service account of a pod."`
	Cert       *VaultCert       `yaml:"cert" jsonschema_description:"Login with a TLS client certificate."`
}

// VaultAppRole is an AppRole login; both ids are read from files at every login.
type VaultAppRole struct {
	RoleIDFile   string `yaml:"role_id_file" jsonschema:"required" jsonschema_description:"File with the role id."`
	SecretIDFile string `yaml:"secret_id_file" jsonschema:"required" jsonschema_description:"File with the secret id, or with a response-wrapping token of it."`
	Wrapped      bool   `yaml:"wrapped" jsonschema_description:"true: secret_id_file holds a response-wrapping token, which gives the secret id once."`
	Mount        string `yaml:"mount" jsonschema:"default=approle" jsonschema_description:"The auth mount."`
}

// FileSecrets is an age-encrypted file.
type FileSecrets struct {
	Path         string `yaml:"path" jsonschema:"required" jsonschema_description:"The encrypted file, e.g. ./secrets.age."`
	IdentityFile string `yaml:"identity_file" jsonschema_description:"The age identity that opens it; created with mode 0600 on first use. Default: the path with .identity appended. Keep it out of backups of the encrypted file."`
}

// Instance is one ERP instance (one tenant).
type Instance struct {
	URL               string   `yaml:"url" jsonschema:"required,format=uri" jsonschema_description:"https://acme.my.erp.net. The Table API site is discovered from it."`
	Token             string   `yaml:"token" jsonschema:"required" jsonschema_description:"Name of the token in the vault, e.g. bi/acme-reader. Never the token itself."`
	Auth              Auth     `yaml:"auth" jsonschema_description:"How the token is used. Default: a service access token, sent as Authorization: Bearer."`
	Application       App      `yaml:"application" jsonschema_description:"The trusted application that the token belongs to, for tokens request and tokens report."`
	TableAPI          string   `yaml:"table_api" jsonschema:"format=uri" jsonschema_description:"Base address of the Table API, if it must not be discovered. May be on another host than url; the token is bound to that host then."`
	Concurrency       int      `yaml:"concurrency" jsonschema:"minimum=1,maximum=16,default=2" jsonschema_description:"Requests in flight at once. ERP.net allows 2 by default."`
	RequestsPerMinute int      `yaml:"requests_per_minute" jsonschema:"minimum=1,maximum=100000,default=600" jsonschema_description:"Requests started per minute at most."`
	CAFile            string   `yaml:"ca_file" jsonschema_description:"PEM file of the certificate authority, instead of the system's."`
	Encoding          string   `yaml:"encoding" jsonschema:"enum=auto,enum=identity,enum=gzip,enum=zstd,default=auto" jsonschema_description:"How answers are compressed on the way: auto finds out which is faster. A server that does not know zstd sends plain answers when it is all that is asked for."`
	Timeouts          Timeouts `yaml:"timeouts" jsonschema_description:"How long to wait for each phase of a request."`
	Runs              int      `yaml:"runs" jsonschema:"minimum=1,maximum=64,default=2" jsonschema_description:"Runs of the clock at once; they share the limits above."`

	WorkingHours *WorkingHours `yaml:"working_hours" jsonschema_description:"When people work on this instance, and what the clock leaves alone then."`
}

// Timeouts are per phase of a request.
type Timeouts struct {
	Connect Duration `yaml:"connect" jsonschema:"default=10s" jsonschema_description:"Dial and TLS handshake, each."`
	Header  Duration `yaml:"header" jsonschema:"default=5m" jsonschema_description:"From the request to the first header: the server may plan a query for long."`
	Idle    Duration `yaml:"idle" jsonschema:"default=60s" jsonschema_description:"The longest silence in the middle of an answer."`
}

// Store is a place for datasets: exactly one of File and S3.
type Store struct {
	File *FileStore `yaml:"file" jsonschema_description:"A local directory."`
	S3   *S3Store   `yaml:"s3" jsonschema_description:"An S3 bucket, or a compatible one."`
}

// FileStore is a local directory.
type FileStore struct {
	Path string `yaml:"path" jsonschema:"required" jsonschema_description:"The directory; created if it is not there."`
}

// S3Store is an S3 bucket. Credentials come from the standard chain (environment, AWS_PROFILE, shared files, roles).
type S3Store struct {
	Bucket       string `yaml:"bucket" jsonschema:"required" jsonschema_description:"Name of the bucket."`
	Prefix       string `yaml:"prefix" jsonschema_description:"Key prefix below which datasets are kept."`
	Region       string `yaml:"region" jsonschema_description:"e.g. eu-central-1. Default: the environment's."`
	Endpoint     string `yaml:"endpoint" jsonschema:"format=uri" jsonschema_description:"Address of an S3-compatible server; plain http only for loopback addresses."`
	PathStyle    bool   `yaml:"path_style" jsonschema_description:"Address buckets as a path, which most compatible servers need."`
	SSE          string `yaml:"sse" jsonschema:"enum=AES256,enum=aws:kms" jsonschema_description:"Server-side encryption to ask for. A server that does not apply it is refused."`
	KMSKeyID     string `yaml:"kms_key_id" jsonschema_description:"Key for sse: aws:kms. Default: the bucket's."`
	StorageClass string `yaml:"storage_class" jsonschema_description:"e.g. STANDARD_IA. Default: the bucket's."`
	CAFile       string `yaml:"ca_file" jsonschema_description:"PEM file of the certificate authority, instead of the system's."`
}

// Scope is what a job may see: exactly one of Where and Unrestricted.
type Scope struct {
	Where        string `yaml:"where" jsonschema_description:"A filter that every row must satisfy, e.g. Line_Store_Id in (5a…,6b…). Asked of the server and checked again on every row."`
	Unrestricted bool   `yaml:"unrestricted" jsonschema_description:"true: the job may see every row that the token may see."`
	Verify       string `yaml:"verify" jsonschema:"enum=owner" jsonschema_description:"owner: rules on an owner's columns are proven. The owner's keys in scope are read first, and every row's owner is tested against them. Without it only the server enforces such rules, which a job must accept with delegated: true."`
	MaxOwnerKeys int    `yaml:"max_owner_keys" jsonschema:"minimum=1,maximum=200000000,default=5000000" jsonschema_description:"Owner keys that a run may keep in memory, all owner tables of the scope together: 18 MB per million. With more, the run is refused."`
}

// Job is one export: a table, under a scope, into a dataset.
type Job struct {
	Description string    `yaml:"description" jsonschema_description:"One line for people; becomes the table's description."`
	Instance    string    `yaml:"instance" jsonschema:"required" jsonschema_description:"Name of the instance."`
	Table       string    `yaml:"table" jsonschema:"required" jsonschema_description:"Table, e.g. Crm_Sales_Order_Lines. List them with: tablexport tables."`
	Select      []string  `yaml:"select" jsonschema_description:"Columns, in the order to publish. Default: all of the table's that hold no secrets."`
	Filter      string    `yaml:"filter" jsonschema_description:"Which rows, in the Table API's dialect: and, eq, ge, le, like, in; reference paths to owners."`
	Scope       string    `yaml:"scope" jsonschema:"required" jsonschema_description:"Name of the scope."`
	Delegated   bool      `yaml:"delegated" jsonschema_description:"true: accept scope rules on an owner's columns, which only the server can enforce. Stamped on the dataset."`
	Store       string    `yaml:"store" jsonschema:"required" jsonschema_description:"Name of the store."`
	Path        string    `yaml:"path" jsonschema:"required" jsonschema_description:"Where in the store, e.g. sales/order_lines. One job per path; no part of it begins with _ or a dot."`
	Paging      Paging    `yaml:"paging" jsonschema_description:"How the table is paged. The default finds out."`
	Refresh     *Refresh  `yaml:"refresh" jsonschema_description:"How the dataset is kept fresh. Without it, every run reads the whole table."`
	Schema      string    `yaml:"schema" jsonschema:"enum=evolve,enum=freeze,enum=quarantine,default=evolve" jsonschema_description:"When the table's columns change. evolve: new columns are taken over, other changes are refused until accepted. freeze: every change is refused. quarantine: rows that do not fit go to a table beside the dataset, with the reason."`
	Schedule    *Schedule `yaml:"schedule" jsonschema_description:"When the job runs."`
	After       []string  `yaml:"after" jsonschema_description:"Jobs that come first. Without a schedule, the job runs when all of them have succeeded anew; with one, its tick waits for those that are under way, and is skipped if one of them has failed."`
	FreshWithin Duration  `yaml:"fresh_within" jsonschema_description:"The dataset is not fresh any more when its newest version was begun longer ago than this, e.g. 26h. Shown, and told as an alert."`
	Owner       string    `yaml:"owner" jsonschema_description:"Whom to ask about the dataset; shown on its page and in alerts."`

	MaxQuarantined int `yaml:"max_quarantined" jsonschema:"minimum=1,maximum=100000" jsonschema_description:"With schema: quarantine, how many rows of a run may be quarantined; with more, nothing is published. Default: 1000 rows and 1 % of the rows read, both."`
}

// Paging is how a table is paged.
type Paging struct {
	Mode     string `yaml:"mode" jsonschema:"enum=auto,enum=key,enum=offset,enum=next,enum=stream,default=auto" jsonschema_description:"auto finds out; key: ge the last key; offset: $skip; next: follow nextLink; stream: one answer."`
	PageSize int    `yaml:"page_size" jsonschema:"minimum=1,maximum=1000000,default=10000" jsonschema_description:"Rows asked for per request."`
}

// Schedule is when a job runs.
type Schedule struct {
	Cron    string `yaml:"cron" jsonschema:"required" jsonschema_description:"Five fields: minute hour day-of-month month day-of-week, e.g. 15 5 * * 1-5."`
	Zone    string `yaml:"zone" jsonschema:"required" jsonschema_description:"IANA time zone of the cron text, e.g. Europe/Sofia."`
	Late    string `yaml:"late" jsonschema:"enum=once,enum=all,enum=skip,default=once" jsonschema_description:"What to do with ticks that were missed: the newest runs for all, all run in their order (the newest 100 at most), or none runs."`
	Overlap string `yaml:"overlap" jsonschema:"enum=skip,enum=queue,enum=cancel,default=skip" jsonschema_description:"What to do with a tick while the job still runs: skip it, run it afterwards, or cancel the run and start anew."`

	LateWithin Duration `yaml:"late_within" jsonschema:"default=24h" jsonschema_description:"Missed ticks older than this are skipped, whatever late says."`
	Jitter     Duration `yaml:"jitter" jsonschema_description:"Start up to this much after the tick, always the same for one tick, so that jobs of one minute spread."`
}

// Duration is a time.Duration written as text: 90s, 5m, 1h30m, or 90d of 24 hours each.
type Duration time.Duration

// Or returns d, or def if d is zero.
func (d Duration) Or(def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return time.Duration(d)
}
