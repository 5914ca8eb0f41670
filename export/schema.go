package export

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tablexport/tablexport/export/delta"
)

// SchemaChange refuses a refresh whose columns contradict the published ones.
type SchemaChange struct {
	Dataset string
	Frozen  bool     // the job takes over no change at all
	Diff    []string // one line per column: "- Quantity decimal(12,3)", "~ Line_No integer → string", "+ Notes string"
}

// Error implements error.
func (e *SchemaChange) Error() string {
	frozen := ""
	if e.Frozen {
		frozen = "the job's schema is frozen: "
	}
	return fmt.Sprintf("export: "+frozen+"the columns of %q are not those that are published there (%s); look at what reads the dataset, then run once with --accept-schema",
		e.Dataset, strings.Join(e.Diff, "; "))
}

// OtherJob refuses a refresh of a dataset that another job has published: two jobs with one path would replace each other's
// rows, each under its own filter and scope. A job that was given another name looks the same.
type OtherJob struct {
	Dataset   string
	Published string // the job whose refresh the newest version is
	Job       string // the job of this refresh
}

// Error implements error.
func (e *OtherJob) Error() string {
	return fmt.Sprintf("export: the dataset %q was published by job %s; job %s would replace it; give it another path, or run with --accept-schema",
		e.Dataset, e.Published, e.Job)
}

func describe(f delta.Field) string {
	if f.Nullable {
		return f.Type
	}
	return f.Type + " not null"
}

// reconcile compares the published columns with those of a refresh. fields is the schema to publish: the published
// order, and new columns behind it (readers go by name, and people by position). additive is false when anything but new nullable
// columns and comments differs. A change of order alone changes nothing. The partition columns, those published (was) and those
// of the refresh (is), are not among the fields.
func reconcile(old, fresh []delta.Field, was, is []string) (fields []delta.Field, diff []string, additive bool) {
	additive = true
	now := make(map[string]delta.Field, len(fresh))
	for _, f := range fresh {
		now[f.Name] = f
	}
	there := make(map[string]bool, len(old))
	for _, o := range old {
		there[o.Name] = true
		f, ok := now[o.Name]
		if !ok {
			diff, additive = append(diff, fmt.Sprintf("- %s %s", o.Name, describe(o))), false
			continue
		}
		fields = append(fields, withMetadata(f, o))
		if f.Type != o.Type || f.Nullable != o.Nullable {
			diff, additive = append(diff, fmt.Sprintf("~ %s %s → %s", o.Name, describe(o), describe(f))), false
		}
		if _, ok := o.Metadata["delta.invariants"]; ok {
			diff, additive = append(diff, fmt.Sprintf("~ %s: its invariant would be dropped", o.Name)), false
		}
	}
	for _, f := range fresh {
		if !there[f.Name] {
			fields = append(fields, f)
			diff = append(diff, fmt.Sprintf("+ %s %s", f.Name, describe(f)))
			additive = additive && f.Nullable
		}
	}
	if !slices.Equal(was, is) {
		diff, additive = append(diff, fmt.Sprintf("~ %s → %s", partitioned(was), partitioned(is))), false
	}
	return fields, diff, additive
}

func partitioned(by []string) string {
	if len(by) == 0 {
		return "not partitioned"
	}
	return "partitioned by " + strings.Join(by, ", ")
}

// partitionField is the column that says which window a row is in. It is not in the files: the log has it.
func partitionField(name string) delta.Field {
	return delta.Field{Name: name, Type: "string", Nullable: true, Metadata: map[string]any{"comment": "The period that the row was read in: the window of the refresh."}}
}

// withoutPartitions are the fields that files hold.
func withoutPartitions(fields []delta.Field, partitions []string) []delta.Field {
	return slices.DeleteFunc(slices.Clone(fields), func(f delta.Field) bool { return slices.Contains(partitions, f.Name) })
}

// withMetadata keeps what other engines have noted on a column, and takes the comment from the refresh.
func withMetadata(f, old delta.Field) delta.Field {
	meta := make(map[string]any, len(old.Metadata)+1)
	for k, v := range old.Metadata {
		if k != "comment" && k != "delta.invariants" {
			meta[k] = v
		}
	}
	for k, v := range f.Metadata {
		meta[k] = v
	}
	f.Metadata = meta
	return f
}

// plan is what Begin has found out about the schema.
type plan struct {
	metadata *delta.Metadata // nil: as published
	protocol *delta.Protocol // nil: as published
	diff     []string        // of the columns, then of job and scope
	breaks   bool            // files of the published version do not fit the new columns: none of them may stay
}

func (d *Dataset) plan(base *delta.Snapshot, spec *Spec, newID func() string) (*plan, error) {
	fresh, err := delta.FieldsOf(spec.Schema)
	if err != nil {
		return nil, err
	}
	p := &plan{}
	fields, partitions := fresh, []string{}
	if spec.Partition != "" {
		partitions = append(partitions, spec.Partition)
	}
	if base.Version >= 0 {
		conf := base.Metadata.Configuration
		if job := conf[confJob]; job != "" && job != spec.Job && !spec.AcceptSchema {
			return nil, &OtherJob{Dataset: d.name(), Published: job, Job: spec.Job}
		}
		old, err := delta.ParseSchema(base.Metadata.SchemaString)
		if err != nil {
			return nil, err
		}
		was := base.Metadata.PartitionColumns
		merged, diff, additive := reconcile(withoutPartitions(old, was), fresh, was, partitions)
		allowed, wider := spec.Contract.permit(withoutPartitions(old, was), fresh, diff, additive, slices.Equal(was, partitions))
		if !allowed && !spec.AcceptSchema {
			return nil, &SchemaChange{Dataset: d.name(), Diff: diff, Frozen: spec.Contract == Freeze}
		}
		p.breaks = !additive
		if p.diff = append(diff, originDiff(conf, provenance(spec))...); additive || wider {
			fields = merged
		}
	}
	if spec.Partition != "" {
		fields = append(fields, partitionField(spec.Partition))
	}
	text, err := delta.SchemaString(fields)
	if err != nil {
		return nil, err
	}
	meta := base.Metadata
	meta.Name, meta.Description, meta.SchemaString = spec.Table, spec.Description, text
	meta.PartitionColumns = partitions
	meta.Configuration = configuration(base.Metadata.Configuration, spec)
	if base.Version < 0 {
		meta.ID, meta.CreatedTime = newID(), spec.Now().UnixMilli()
		meta.Format = delta.Format{Provider: "parquet"}
		p.protocol = &delta.Protocol{MinReaderVersion: 1, MinWriterVersion: 2}
	}
	if base.Version < 0 || !meta.Equal(base.Metadata) {
		p.metadata = &meta
	}
	return p, nil
}

// The keys of the table's configuration that are ours.
const (
	confJob         = "tablexport.job"
	confTable       = "tablexport.table"
	confSource      = "tablexport.source"
	confScope       = "tablexport.scope"
	confWhere       = "tablexport.scope.where"
	confEnforcement = "tablexport.scope.enforcement"
	confDelegated   = "tablexport.scope.delegated"
	confOwners      = "tablexport.scope.owners" // rules that were proven by the owners' keys
	confKey         = "tablexport.key"
)

// configuration lays ours over what other engines have set.
func configuration(old map[string]string, spec *Spec) map[string]string {
	conf := map[string]string{}
	for k, v := range old {
		if !strings.HasPrefix(k, "tablexport.") {
			conf[k] = v
		}
	}
	for k, v := range provenance(spec) {
		conf[k] = v
	}
	return conf
}

// provenance is what a dataset and each of its files say of their origin.
func provenance(spec *Spec) map[string]string {
	out := map[string]string{
		confJob: spec.Job, confTable: spec.Table, confSource: spec.Source,
		confScope: spec.Scope.Name, confWhere: spec.Scope.Where, confEnforcement: string(spec.Scope.Enforcement),
		confDelegated: strings.Join(spec.Scope.Delegated, "; "), confOwners: strings.Join(spec.Scope.Owners, "; "), confKey: strings.Join(spec.Key, ","),
	}
	for k, v := range out {
		if v == "" {
			delete(out, k)
		}
	}
	return out
}

// originDiff says how job and scope of a refresh differ from those of the version that it replaces. A wider scope under
// the same path is no error, but whoever reads the dataset must be able to see it. A table that was never published by tablexport
// has neither.
func originDiff(old, now map[string]string) (diff []string) {
	if was := old[confJob]; was != "" && was != now[confJob] {
		diff = append(diff, fmt.Sprintf("job: %s → %s", was, now[confJob]))
	}
	if old[confEnforcement] == "" {
		return diff
	}
	stamp := func(conf map[string]string) string {
		return fmt.Sprintf("%s (%s)", conf[confScope], conf[confEnforcement])
	}
	if was, is := stamp(old), stamp(now); was != is {
		diff = append(diff, fmt.Sprintf("scope: %s → %s", was, is))
	}
	for _, c := range []struct{ key, what string }{{confWhere, "where"}, {confDelegated, "delegated"}, {confOwners, "verified via owner"}} {
		if was, is := old[c.key], now[c.key]; was != is {
			diff = append(diff, fmt.Sprintf("scope %s: %s → %s", c.what, brief(was), brief(is)))
		}
	}
	return diff
}

// brief is a rule for a line of a difference, 200 characters of it at most; the whole rules are in the versions' stamps.
func brief(rule string) string {
	if rule == "" {
		return "none"
	}
	if r := []rune(rule); len(r) > 200 {
		return string(r[:199]) + "…"
	}
	return rule
}
