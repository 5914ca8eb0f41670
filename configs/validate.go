package configs

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

// validator checks what types cannot say.
type validator struct {
	*Config
	dec    *decoder
	checks Checks
}

func (v *validator) at(key, text, hint string) {
	p := v.ProblemAt(key, text, hint)
	p.File = v.dec.file
	v.dec.problems = append(v.dec.problems, p)
}

func (v *validator) validate() {
	v.secrets()
	v.policy()
	for _, name := range sortedKeys(v.Instances) {
		v.instance("instances."+name, v.Instances[name])
	}
	for _, name := range sortedKeys(v.Stores) {
		v.store("stores."+name, v.Stores[name])
	}
	for _, name := range sortedKeys(v.Scopes) {
		v.scope("scopes."+name, v.Scopes[name])
	}
	for _, name := range sortedKeys(v.Jobs) {
		v.job("jobs."+name, v.Jobs[name])
	}
	v.sets()
	v.destinations()
	v.order()
	v.audit()
	v.rotations()
	v.reports()
	v.serve()
	v.alerts()
	v.telemetry()
}

// oneOf reports a choice that was not made, or made more than once.
func (v *validator) oneOf(key string, names string, set ...bool) bool {
	n := 0
	for _, s := range set {
		if s {
			n++
		}
	}
	if n != 1 {
		if _, written := v.positions[key]; !written {
			return false // its absence is reported already
		}
		text := "nothing is chosen"
		if n > 1 {
			text = "more than one is chosen"
		}
		v.at(key, text, "write exactly one of "+names)
	}
	return n == 1
}

func (v *validator) secrets() {
	s := v.Secrets
	v.oneOf("secrets", "vault and file", s.Vault != nil, s.File != nil)
	if s.Vault == nil {
		return
	}
	if s.Vault.Address != "" {
		v.address("secrets.vault.address", s.Vault.Address, "https://vault.acme.example:8200", true)
	}
	auth := s.Vault.Auth
	v.oneOf("secrets.vault.auth", "token_file, approle, jwt, kubernetes and cert",
		auth.TokenFile != "", auth.AppRole != nil, auth.JWT != nil, auth.Kubernetes != nil, auth.Cert != nil)
	for key, value := range map[string]string{"mount": s.Vault.Mount, "prefix": s.Vault.Prefix} {
		if value != "" && !cleanPath(value) {
			v.at("secrets.vault."+key, "not a clean path", "write it without a leading or trailing slash, .. or spaces")
		}
	}
}

// address checks an http(s) address: https, or plain http to a loopback address where plain is allowed.
func (v *validator) address(key, text, example string, plain bool) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http"):
		v.at(key, "not an https address", "write it like "+example)
	case u.User != nil:
		v.at(key, "the address carries a user name or a password", "remove what stands before the @")
	case u.RawQuery != "" || u.Fragment != "":
		v.at(key, "the address carries a query or a fragment", "write it like "+example)
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		v.at(key, "plain http", "write https://: plain http is for loopback addresses only")
	case u.Scheme == "http" && !plain:
		v.at(key, "plain http in a production environment", "write https://, or environment: sandbox for tries against this machine")
	}
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.IsLoopback()
	}
	return false
}

var tokenName = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]*(/[a-z0-9][a-z0-9_.-]*)*$`)

func (v *validator) instance(key string, i Instance) {
	sandbox := v.Environment == Sandbox
	if i.URL != "" {
		v.address(key+".url", i.URL, "https://acme.my.erp.net", sandbox)
	}
	v.auth(key+".auth", i)
	if i.TableAPI != "" {
		v.address(key+".table_api", i.TableAPI, "https://acme.my.erp.net/tableapi/odata/", sandbox)
	}
	if i.Token != "" && !looksSecret(i.Token) && (!tokenName.MatchString(i.Token) || len(i.Token) > 128) {
		v.at(key+".token", "not a token's name", "write a name such as bi/acme-reader: lower-case letters, digits, - _ . and /")
	}
	if h := i.WorkingHours; h != nil {
		v.workingHours(key+".working_hours", h)
	}
}

var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

func (v *validator) store(key string, s Store) {
	v.oneOf(key, "file and s3", s.File != nil, s.S3 != nil)
	if s.S3 == nil {
		return
	}
	if s.S3.Bucket != "" && !bucketName.MatchString(s.S3.Bucket) {
		v.at(key+".s3.bucket", "not the name of a bucket", "write the name alone: 3 to 63 lower-case letters, digits, - and .")
	}
	if s.S3.Prefix != "" && !cleanPath(s.S3.Prefix) {
		v.at(key+".s3.prefix", "not a clean prefix", "write it without a leading or trailing slash, .. or spaces")
	}
	if s.S3.Endpoint != "" {
		v.address(key+".s3.endpoint", s.S3.Endpoint, "https://minio.acme.example", true)
	}
	if s.S3.KMSKeyID != "" && s.S3.SSE != "aws:kms" {
		v.at(key+".s3.kms_key_id", "a KMS key without sse: aws:kms", "write sse: aws:kms beside it")
	}
}

// cleanPath accepts relative slash paths that mean the same to every store.
func cleanPath(p string) bool {
	return p != "" && p == path.Clean(p) && !strings.HasPrefix(p, "/") && !strings.HasPrefix(p, "..") && p != "." &&
		!strings.ContainsAny(p, " \\\x00?#%*:\"<>|") && len(p) <= 512 && utf8.ValidString(p)
}

// hidden tells paths that readers of data lakes skip: Delta keeps its own files under _delta_log, and Spark and its kin pass over
// every name that begins with _ or a dot.
func hidden(p string) bool {
	for part := range strings.SplitSeq(p, "/") {
		if strings.HasPrefix(part, "_") || strings.HasPrefix(part, ".") {
			return true
		}
	}
	return false
}

func (v *validator) scope(key string, s Scope) {
	v.oneOf(key, "where: <filter> and unrestricted: true", s.Where != "", s.Unrestricted)
	if s.Where != "" {
		v.text(key+".where", s.Where, v.checks.Filter)
	}
	v.scopeOwner(key, s)
}

var tableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

func (v *validator) job(key string, j Job) {
	v.reference(key+".instance", j.Instance, "instance", sortedKeys(v.Instances))
	v.reference(key+".store", j.Store, "store", sortedKeys(v.Stores))
	v.reference(key+".scope", j.Scope, "scope", sortedKeys(v.Scopes))
	if j.Table != "" && !tableName.MatchString(j.Table) {
		v.at(key+".table", "not the name of a table", "write it like Crm_Sales_Order_Lines; tablexport tables lists them")
	}
	if _, written := v.positions[key+".select"]; written && len(j.Select) == 0 {
		v.at(key+".select", "the list is empty", "name the columns, or leave the key out for all of them")
	}
	seen := map[string]bool{}
	for i, column := range j.Select {
		at := fmt.Sprintf("%s.select[%d]", key, i)
		if !tableName.MatchString(column) {
			v.at(at, "not the name of a column", "write it like Line_No")
		} else if seen[strings.ToLower(column)] {
			v.at(at, "the column stands twice", "remove one of the two")
		}
		seen[strings.ToLower(column)] = true
	}
	if j.Filter != "" {
		v.text(key+".filter", j.Filter, v.checks.Filter)
	}
	switch {
	case j.Path == "":
	case !cleanPath(j.Path):
		v.at(key+".path", "not a clean path", "write it like sales/order_lines: relative, with slashes, without .. or spaces")
	case hidden(j.Path):
		v.at(key+".path", "a part of it begins with _ or a dot, which readers of Delta tables and Parquet files take for hidden", "write it like sales/order_lines")
	}
	if r := j.Refresh; r != nil {
		v.refresh(key+".refresh", r)
	}
	v.quarantines(key, j)
	if s := j.Schedule; s != nil {
		v.schedule(key+".schedule", s)
	}
	v.freshness(key, j)
}

func (v *validator) schedule(key string, s *Schedule) {
	if s.Zone == "" {
		return
	}
	if _, err := time.LoadLocation(s.Zone); err != nil || strings.EqualFold(s.Zone, "local") {
		v.at(key+".zone", "not an IANA time zone", "write it like Europe/Sofia or UTC")
		return
	}
	if s.Jitter > Duration(24*time.Hour) {
		v.at(key+".jitter", "a day or more", "write less, such as 10m")
	}
	if s.Cron != "" && v.checks.Cron != nil {
		v.text(key+".cron", s.Cron, func(text string) error { return v.checks.Cron(text, s.Zone) })
	}
}

func (v *validator) reference(key, name, what string, known []string) {
	if name == "" {
		return // missing: reported already
	}
	for _, k := range known {
		if k == name {
			return
		}
	}
	hint := suggestion(name, known)
	if len(known) == 0 {
		hint = fmt.Sprintf("define it below %ss:", what)
	}
	v.at(key, fmt.Sprintf("there is no %s of this name", what), hint)
}

// text runs a check over a text value and places each of its errors, inside the text where the error knows where.
func (v *validator) text(key, text string, check func(string) error) {
	if check == nil || looksSecret(text) { // reported already; a check would quote it
		return
	}
	err := check(text)
	if err == nil {
		return
	}
	all := []error{err}
	var many interface{ Unwrap() []error }
	if errors.As(err, &many) {
		all = many.Unwrap()
	}
	for _, err := range all {
		p := v.ProblemAt(key, err.Error(), "")
		p.File = v.dec.file
		var placed interface{ Position() int }
		if errors.As(err, &placed) {
			p.Column += v.inside(p.Position, text, placed.Position())
		}
		v.dec.problems = append(v.dec.problems, p)
	}
}

// inside turns a byte offset in a scalar's text into columns to add to the scalar's position. It is 0
// for scalars that do not stand on their line as they are (escapes, folded or block text).
func (c *Config) inside(at Position, text string, offset int) int {
	if at.Line < 1 || at.Line > len(c.lines) || offset < 0 || offset > len(text) {
		return 0
	}
	line := c.lines[at.Line-1]
	start := strings.Index(line, text)
	if start < 0 {
		return 0
	}
	return utf8.RuneCountInString(line[:start+offset]) + 1 - at.Column
}
