package configs

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/invopop/jsonschema"
)

// ByChanges is the value of refresh.by that compares keys and row versions, instead of going by a column.
const ByChanges = "changes"

// Refresh says how a job's dataset is kept fresh. Three modes, told apart by by and every:
//
//	by: <path of a date column>, every: <period>    windows: the newest are read again, older ones are kept
//	by: <path of an update time>                    watermark: what has changed since the last run is merged by key
//	by: changes                                     changes: keys and row versions are compared, what differs is fetched and merged
type Refresh struct {
	By       string   `yaml:"by" jsonschema:"required" jsonschema_description:"With every: the date column, of the table or of an owner, that says which period a row belongs to, e.g. Sales_Order_Reference/Document_Reference/Document_Date. Without every: the column that holds the time of a row's last change. Or changes: compare keys and row versions."`
	Every    string   `yaml:"every" jsonschema:"enum=day,enum=week,enum=month,enum=quarter,enum=year" jsonschema_description:"The length of a window. It is also the name of the dataset's partition column. Weeks are ISO weeks."`
	Keep     int      `yaml:"keep" jsonschema:"minimum=1,maximum=20000" jsonschema_description:"So many windows are held, counted back from the current one, which is one of them. Older ones are removed from the dataset."`
	Reload   int      `yaml:"reload" jsonschema:"minimum=1,maximum=20000,default=1" jsonschema_description:"So many of the newest windows are read at every run."`
	Ahead    int      `yaml:"ahead" jsonschema:"minimum=1,maximum=1000" jsonschema_description:"So many windows after the current one are held as well, and read at every run: for columns that hold dates to come."`
	From     Date     `yaml:"from" jsonschema_description:"The first date or period that is held: 2023-04-01, 2023-04, 2023-Q2 or 2023."`
	To       Date     `yaml:"to" jsonschema_description:"The last date or period that is held. Default: the current one."`
	LateDays int      `yaml:"late_days" jsonschema:"minimum=0,maximum=3660" jsonschema_description:"A window may still change for so many days after its end, and is read once more when they are over."`
	Zone     string   `yaml:"zone" jsonschema_description:"IANA time zone in which a day begins. Default: the zone of the job's schedule, or UTC."`
	Undated  string   `yaml:"undated" jsonschema:"enum=read,enum=leave_out" jsonschema_description:"Rows without a date: read puts them into a partition of their own at every run; leave_out accepts that they are missing. To be chosen where the column can be empty and the server cannot be asked for empty ones; else read."`
	Commit   string   `yaml:"commit" jsonschema:"enum=run,enum=window,default=run" jsonschema_description:"run: all windows of a run are published together. window: each as soon as it is done."`
	Overlap  Duration `yaml:"overlap" jsonschema:"default=5m" jsonschema_description:"Of a watermark: rows that changed so long before the last run began are read again, because a change may become visible later than its time says."`
	Sweep    Duration `yaml:"sweep" jsonschema:"example=168h" jsonschema_description:"Of a watermark: everything is compared so often, as by changes does at every run. It finds what a watermark cannot see: rows that were deleted, or that have left the filter or the scope. Default: never."`
	Split    *Split   `yaml:"split" jsonschema_description:"When a window's scan is cut into smaller ones. The partitions of the dataset stay as they are."`
}

// Split says what one scan may be at most, as far as can be told beforehand. A window beyond it is read in pieces.
type Split struct {
	Rows      int      `yaml:"rows" jsonschema:"minimum=1000,default=5000000" jsonschema_description:"Rows of one scan."`
	Megabytes int      `yaml:"megabytes" jsonschema:"minimum=1,default=8192" jsonschema_description:"JSON of one scan, in MB."`
	After     Duration `yaml:"after" jsonschema:"default=30m" jsonschema_description:"How long one scan may take: of a longer one, the pieces are half as long the next time."`
}

// Date is a date or a period: 2023-04-01, 2023-04, 2023-Q2, 2023-W14, 2023. The last is a number in YAML.
type Date string

// JSONSchema describes a date as text, or as the number that a year is.
func (Date) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{
		Examples: []any{"2023-04-01", "2023-04", 2023},
		OneOf: []*jsonschema.Schema{
			{Type: "string", Pattern: `^[0-9]{4}(-[0-9]{2}(-[0-9]{2})?|-Q[1-4]|-W[0-9]{2})?$`},
			{Type: "integer", Minimum: "1000", Maximum: "9999"},
		},
	}
}

var columnPath = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*$`)

// refresh checks a job's refresh: that what belongs to one mode is not written in another, and that numbers fit together.
func (v *validator) refresh(key string, r *Refresh) {
	switch {
	case r.By == "":
	case !columnPath.MatchString(r.By):
		v.at(key+".by", "not the path of a column", "write a column, or the way to an owner's: Document_Reference/Document_Date")
	case r.Every != "" && r.By == ByChanges:
		v.at(key+".every", "by: changes has no windows", "remove it, or write a date column as by")
	case r.Every == "":
		v.unwindowed(key, r)
	default:
		v.windows(key, r)
	}
}

// unwindowed refuses, in the modes without windows, what only windows have.
func (v *validator) unwindowed(key string, r *Refresh) {
	hint := "remove it, or write every: month (or another period) beside it"
	if r.By == ByChanges {
		hint = "remove it: by: changes compares every row"
	}
	names := []string{"keep", "reload", "ahead", "from", "to", "late_days", "zone", "undated", "commit", "split"}
	if r.By == ByChanges {
		names = append(names, "overlap", "sweep")
	}
	for _, name := range names {
		if _, written := v.positions[key+"."+name]; written {
			v.at(key+"."+name, "it means nothing without windows", hint)
		}
	}
}

func (v *validator) windows(key string, r *Refresh) {
	if _, written := v.positions[key+".overlap"]; written {
		v.at(key+".overlap", "windows do not overlap", "remove it, or remove every: for a watermark")
	}
	if _, written := v.positions[key+".sweep"]; written {
		v.at(key+".sweep", "windows are not compared", "remove it: late_days says how long a window may change")
	}
	if r.Keep == 0 && r.From == "" {
		v.at(key, "it does not say how far back the dataset goes", "write keep: 24 (windows), or from: 2023")
	}
	if r.Keep > 0 && r.Reload > r.Keep {
		v.at(key+".reload", "more windows are read again than are held", fmt.Sprintf("write %d at most, or a greater keep", r.Keep))
	}
	if r.Zone != "" {
		if _, err := time.LoadLocation(r.Zone); err != nil || strings.EqualFold(r.Zone, "local") {
			v.at(key+".zone", "not an IANA time zone", "write it like Europe/Sofia or UTC")
		}
	}
	if v.checks.Days == nil {
		return
	}
	from, _, fromErr := v.days(key+".from", string(r.From))
	_, to, toErr := v.days(key+".to", string(r.To))
	if r.From != "" && r.To != "" && fromErr == nil && toErr == nil && to <= from {
		v.at(key+".to", "it is before from", "write a later date or period")
	}
	if r.To != "" && r.Ahead > 0 {
		v.at(key+".ahead", "to says where the dataset ends already", "remove one of the two")
	}
}

func (v *validator) days(key, text string) (first, next int, err error) {
	if text == "" || looksSecret(text) {
		return 0, 0, nil
	}
	if first, next, err = v.checks.Days(text); err != nil {
		v.at(key, "not a date or period", "write it like 2023-04-01, 2023-04 or 2023")
	}
	return first, next, err
}

// sets checks that members exist, and that a set is something that can be published together.
func (v *validator) sets() {
	names := sortedKeys(v.Jobs)
	for _, set := range sortedKeys(v.Sets) {
		key := "sets." + set
		members := v.Sets[set]
		if len(members) == 0 {
			v.at(key, "the set has no members", "name its jobs: [orders, order-lines]")
		}
		seen := map[string]bool{}
		for i, member := range members {
			at := fmt.Sprintf("%s[%d]", key, i)
			if seen[member] {
				v.at(at, "the job stands twice", "remove one of the two")
				continue
			}
			seen[member] = true
			if _, ok := v.Jobs[member]; !ok {
				v.reference(at, member, "job", names)
			}
		}
	}
}

// refreshDefaults fills in what the schema documents.
func (j *Job) refreshDefaults() {
	setDefault(&j.Schema, "evolve")
	r := j.Refresh
	if r == nil {
		return
	}
	if r.Every == "" {
		if r.By != ByChanges {
			setDefault(&r.Overlap, Duration(5*time.Minute))
		}
		return
	}
	setDefault(&r.Reload, 1)
	setDefault(&r.Commit, "run")
	if r.Zone == "" && j.Schedule != nil {
		r.Zone = j.Schedule.Zone
	}
	setDefault(&r.Zone, "UTC")
	if r.Split == nil {
		r.Split = &Split{}
	}
	setDefault(&r.Split.Rows, 5_000_000)
	setDefault(&r.Split.Megabytes, 8192)
	setDefault(&r.Split.After, Duration(30*time.Minute))
}
