package configs

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Checks are the judgements that this package cannot make by itself. A nil check accepts everything. An
// error with a `Position() int` method (bytes from the text's start) is placed inside the text; an error
// with an `Unwrap() []error` method is reported one by one.
type Checks struct {
	Filter func(text string) error       // syntax of a filter or of a scope's where
	Cron   func(cron, zone string) error // a schedule
	Hours  func(days []string, from, to, zone string) error

	// Days reads a date or period as the days from first to before next, counted from any day.
	Days func(text string) (first, next int, err error)
}

// Load reads and checks the file at path. The error is a Problems, or the reason why the file cannot be read.
func Load(path string, checks Checks) (*Config, error) {
	c, problems := LoadDraft(path, checks)
	return whole(c, problems)
}

// LoadDraft is Load for a file that may have problems: beside them it returns what could be read, so that the rest of it
// can be checked further. It is nil if nothing could be read. A draft is for looking at, never for acting on.
func LoadDraft(path string, checks Checks) (*Config, Problems) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, Problems{{File: path, Text: "there is no such file", Hint: "write one with: tablexport init, or name another with -c"}}
	}
	if err != nil {
		return nil, Problems{{File: path, Text: "cannot be read: " + reason(err)}}
	}
	return draft(path, data, checks)
}

// reason is why a file cannot be read, without its name, which is said already.
func reason(err error) string {
	var at *os.PathError
	if errors.As(err, &at) {
		return at.Err.Error()
	}
	return err.Error()
}

// Parse checks data as the content of the file at path.
func Parse(path string, data []byte, checks Checks) (*Config, error) {
	c, problems := draft(path, data, checks)
	return whole(c, problems)
}

func whole(c *Config, problems Problems) (*Config, error) {
	if len(problems) > 0 {
		return nil, problems
	}
	return c, nil
}

func draft(path string, data []byte, checks Checks) (*Config, Problems) {
	d := decoder{file: path, positions: map[string]Position{}, texts: map[string]string{}}
	c := &Config{}
	d.decode(data, c)
	if abs, err := filepath.Abs(path); err == nil {
		c.Path, c.Dir = abs, filepath.Dir(abs)
	} else {
		c.Path, c.Dir = path, filepath.Dir(path)
	}
	c.positions, c.texts, c.lines = d.positions, d.texts, strings.Split(string(data), "\n")
	if d.positions[""] == (Position{}) { // the document could not be read at all
		return nil, d.problems.Sorted()
	}
	v := validator{Config: c, dec: &d, checks: checks}
	v.validate()
	c.applyDefaults()
	return c, d.problems.Sorted()
}

// Position is where a key's value stands in the file; ok is false for keys that are not written there.
func (c *Config) Position(key string) (p Position, ok bool) {
	p, ok = c.positions[key]
	return p, ok
}

// ProblemAt makes a problem at a key, for what only shows once an instance was asked (an unknown table, say).
func (c *Config) ProblemAt(key, text, hint string) *Problem {
	at := c.positions[key]
	for up := key; at == (Position{}) && up != ""; at = c.positions[up] {
		up = up[:max(strings.LastIndexByte(up, '.'), 0)]
	}
	return &Problem{File: c.Path, Position: at, Key: key, Text: text, Hint: hint}
}

// ProblemInside is ProblemAt for a place inside a text value: offset counts bytes from the text's start.
func (c *Config) ProblemInside(key string, offset int, text, hint string) *Problem {
	p := c.ProblemAt(key, text, hint)
	if _, written := c.positions[key]; written {
		p.Column += c.inside(p.Position, c.texts[key], offset)
	}
	return p
}

// Resolve makes a relative path of the file absolute; "" stays "".
func (c *Config) Resolve(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	return filepath.Join(c.Dir, path)
}

// JobNames lists the jobs, sorted.
func (c *Config) JobNames() []string { return sortedKeys(c.Jobs) }

// SuggestJob says what a mistyped job name may have meant.
func (c *Config) SuggestJob(name string) string { return suggestion(name, c.JobNames()) }

// SuggestInstance says what a mistyped instance name may have meant.
func (c *Config) SuggestInstance(name string) string {
	return suggestion(name, sortedKeys(c.Instances))
}

// applyDefaults fills in what the schema documents as defaults, so that readers need not know them.
func (c *Config) applyDefaults() {
	if v := c.Secrets.Vault; v != nil {
		setDefault(&v.Mount, "secret")
		setDefault(&v.Prefix, "tablexport")
		if v.Auth.AppRole != nil {
			setDefault(&v.Auth.AppRole.Mount, "approle")
		}
		if v.Auth.JWT != nil {
			setDefault(&v.Auth.JWT.Mount, "jwt")
		}
		if k := v.Auth.Kubernetes; k != nil {
			setDefault(&k.Mount, "kubernetes")
			setDefault(&k.File, "/var/run/secrets/kubernetes.io/serviceaccount/token")
		}
		if v.Auth.Cert != nil {
			setDefault(&v.Auth.Cert.Mount, "cert")
		}
	}
	if f := c.Secrets.File; f != nil {
		setDefault(&f.IdentityFile, f.Path+".identity")
	}
	if k := c.Audit.Checkpoints; k != nil {
		setDefault(&k.Path, "audit-checkpoints")
	}
	c.alertDefaults()
	c.Telemetry.defaults()
	c.Serve.defaults()
	setDefault(&c.Policy.Mode, "enforce")
	setDefault(&c.Policy.MaxLifeDays, 400)
	setDefault(&c.Policy.UnusedDays, 30)
	if len(c.Policy.Scopes) == 0 {
		c.Policy.Scopes = []string{"read"}
	}
	for name, r := range c.Rotations {
		r.defaults()
		c.Rotations[name] = r
	}
	if r := c.Reports.Tokens; r != nil {
		setDefault(&r.Path, "security/tokens")
		setDefault(&r.Keep, "all")
	}
	for name, i := range c.Instances {
		if i.Application.URI != "" {
			setDefault(&i.Application.Name, i.Application.URI)
		}
		setDefault(&i.Concurrency, 2)
		setDefault(&i.RequestsPerMinute, 600)
		setDefault(&i.Encoding, "auto")
		setDefault(&i.Runs, 2)
		if i.WorkingHours != nil {
			setDefault(&i.WorkingHours.Allow, "live")
		}
		c.Instances[name] = i
	}
	for name, j := range c.Jobs {
		setDefault(&j.Paging.Mode, "auto")
		setDefault(&j.Paging.PageSize, 10_000)
		j.refreshDefaults()
		if j.Schedule != nil {
			setDefault(&j.Schedule.Late, "once")
			setDefault(&j.Schedule.Overlap, "skip")
			setDefault(&j.Schedule.LateWithin, Duration(24*time.Hour))
		}
		c.Jobs[name] = j
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
