package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/export/parquet"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/secrets"
)

func tokensReportCommand(g *globals) *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "report",
		Short: "Compare what the instances know of tokens, applications, sessions and licenses with what we know",
		Long: `Read Sec_Access_Tokens, Sec_Trusted_Applications, Dmv_Current_Sessions and Dmv_Licenses of every instance, where its token may (never the columns that hold
secrets), and report what does not fit the policy and the audit log: more tokens of our application than the vault knows, tokens that nobody uses, that carry
other scopes than policy.scopes, that never expire or live too long, personal tokens, basic authentication left on, sessions beyond the licenses, and a
use of our application's tokens that is not in the audit log of this state directory. With --out the findings are also a Parquet file.
An instance whose application is not named (application: {uri: …}) is looked at as a whole.`,
		Example: "  tablexport tokens report\n  tablexport tokens report --json\n  tablexport tokens report --out findings.parquet",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return g.tokensReport(c.Context(), out) },
	}
	c.Flags().StringVar(&out, "out", "", "also write the findings to this Parquet `file`, which must not exist")
	return c
}

// finding is something in an instance that somebody should look at.
type finding struct {
	Time     time.Time `json:"time"`
	Instance string    `json:"instance"`
	Kind     string    `json:"kind"`
	Subject  string    `json:"subject"` // id of the row in the instance; never a secret
	Detail   string    `json:"detail"`
}

// clockSkew is how far two clocks may be apart before a use counts as somebody else's.
const clockSkew = 10 * time.Minute

// usesSince is how far back the audit log is read for our own use.
const usesSince = 90 * 24 * time.Hour

func (g *globals) tokensReport(ctx context.Context, out string) error {
	if _, err := os.Stat(out); out != "" && err == nil {
		return usagef("%s exists already; name another file", out)
	}
	a, keeper, err := g.openKeeper()
	if err != nil {
		return err
	}
	defer a.close()
	uses, err := secrets.Uses(a.auditDir(), time.Now().Add(-usesSince)) // before our own loans for this
	if err != nil {
		return err
	}
	var all []finding
	for _, name := range sorted(a.cfg.Instances) {
		found, err := a.reconcile(ctx, keeper, name, uses)
		if err != nil {
			return fmt.Errorf("instance %s: %w", name, err)
		}
		all = append(all, found...)
	}
	for _, f := range all {
		if err := g.emit(f, func() { g.printf("%-18s %-16s %-38s %s\n", f.Kind, f.Instance, f.Subject, f.Detail) }); err != nil {
			return err
		}
	}
	if len(all) == 0 {
		g.printf("nothing was found in %d instance(s)\n", len(a.cfg.Instances))
	}
	if out == "" {
		return nil
	}
	return writeFindings(out, all)
}

// reconcile looks at one instance.
func (a *app) reconcile(ctx context.Context, keeper *secrets.Keeper, name string, uses map[string]secrets.Use) ([]finding, error) {
	session, done, err := a.session(ctx, name, "report")
	if err != nil {
		return nil, err
	}
	defer done()
	named, err := keeper.Versions(ctx, a.cfg.Instances[name].Token)
	if err != nil {
		return nil, err
	}
	r := &reconciliation{app: a, instance: name, named: named, uses: uses, now: time.Now().UTC()}
	r.ours = a.cfg.Instances[name].Application.URI
	model, err := session.Metadata(ctx)
	if err != nil {
		return nil, err
	}
	for _, table := range []struct {
		name    string
		columns []string
		look    func(rows []map[string]any)
	}{
		{"Sec_Trusted_Applications", []string{"Trusted_Application_Id", "Application_Uri", "Is_Enabled", "Scope", "Basic_Authentication_Allowed", "System_User_Id"}, r.applications},
		{"Sec_Access_Tokens", []string{"Access_Token_Id", "Type", "Scopes", "Creation_Timestamp", "Expire_Timestamp", "Last_Used_Timestamp", "Trusted_Application_Id", "User_Id"}, r.tokens},
		{"Dmv_Licenses", []string{"License_Code", "License_Count"}, r.licenses},
		{"Dmv_Current_Sessions", []string{"Session_Id", "Applications", "Start_Time", "Last_Request_Time"}, r.sessions},
	} {
		rows, err := readSmall(ctx, session, model, table.name, table.columns)
		if errors.Is(err, odata.ErrForbidden) || errors.Is(err, errNoTable) {
			r.find("not-readable", table.name, "the token may not read it, or the instance does not have it: what it would show is not known")
			continue
		}
		if err != nil {
			return nil, err
		}
		table.look(rows)
	}
	return r.found, nil
}

var errNoTable = errors.New("the instance has no such table")

// maxReportRows bounds what is read of one table.
const maxReportRows = 100_000

// readSmall reads chosen columns of a small table. Columns that the instance does not have are left out; null is nil.
func readSmall(ctx context.Context, s *odata.Session, model *edm.Model, name string, columns []string) (rows []map[string]any, err error) {
	t, ok := model.Table(name)
	if !ok {
		return nil, errNoTable
	}
	columns = slices.DeleteFunc(slices.Clone(columns), func(c string) bool {
		column, ok := t.Column(c)
		return !ok || column.Secret
	})
	for _, k := range t.Key {
		if !slices.Contains(columns, k) {
			columns = append(columns, k)
		}
	}
	scan, err := s.Scan(odata.Query{Table: t, Select: columns})
	if err != nil {
		return nil, err
	}
	for rec, err := range scan.Records(ctx) {
		if err != nil {
			return nil, err
		}
		for i := range int(rec.NumRows()) {
			row := map[string]any{}
			for at, c := range columns {
				row[c] = cell(rec.Column(at), i)
			}
			if rows = append(rows, row); len(rows) > maxReportRows {
				return nil, fmt.Errorf("%s has more than %d rows; it is not reported on", name, maxReportRows)
			}
		}
	}
	return rows, nil
}

func cell(column arrow.Array, i int) any {
	if column.IsNull(i) {
		return nil
	}
	switch c := column.(type) {
	case *array.Timestamp:
		return c.Value(i).ToTime(arrow.Microsecond)
	case *array.Boolean:
		return c.Value(i)
	case *array.String:
		return strings.Clone(c.Value(i)) // the record's memory may be used again
	case *array.Int32:
		return int64(c.Value(i))
	case *array.Int64:
		return c.Value(i)
	}
	return strings.Clone(column.ValueStr(i))
}

// reconciliation is what is known while one instance is looked at.
type reconciliation struct {
	*app
	instance string
	ours     string // URI of our application; "" = not known
	ourID    string
	users    map[string]string // system user of each application
	named    secrets.Named
	uses     map[string]secrets.Use
	seats    int64
	now      time.Time
	found    []finding
}

func (r *reconciliation) find(kind, subject, detail string, args ...any) {
	r.found = append(r.found, finding{Time: r.now, Instance: r.instance, Kind: kind, Subject: subject, Detail: fmt.Sprintf(detail, args...)})
}

func text(v any) string { s, _ := v.(string); return s }

func (r *reconciliation) applications(rows []map[string]any) {
	r.users = map[string]string{}
	for _, row := range rows {
		id, uri := text(row["Trusted_Application_Id"]), text(row["Application_Uri"])
		r.users[id] = text(row["System_User_Id"])
		mine := r.ours != "" && uri == r.ours
		if mine {
			r.ourID = id
		}
		if r.ours != "" && !mine {
			continue
		}
		if on, _ := row["Basic_Authentication_Allowed"].(bool); on {
			r.find("basic-auth", id, "the application allows basic authentication, which is legacy: switch it off")
		}
		if extra := r.beyond(text(row["Scope"])); len(extra) > 0 {
			r.find("over-privileged", id, "the application may have %s; the policy allows %s", strings.Join(extra, " "), strings.Join(r.cfg.Policy.Scopes, " "))
		}
	}
	if r.ours != "" && r.ourID == "" {
		r.find("no-application", r.ours, "the instance has no trusted application of this URI, or does not show it")
	}
}

// beyond gives the scopes of a list that the policy does not allow.
func (r *reconciliation) beyond(list string) (extra []string) {
	for _, s := range strings.FieldsFunc(list, func(c rune) bool { return strings.ContainsRune(" ,;[]\"", c) }) {
		if !slices.Contains(r.cfg.Policy.Scopes, s) {
			extra = append(extra, s)
		}
	}
	return extra
}

func (r *reconciliation) tokens(rows []map[string]any) {
	live, lastUse := 0, time.Time{}
	for _, row := range rows {
		application := text(row["Trusted_Application_Id"])
		if text(row["Type"]) != "reference_token" || r.ours != "" && application != r.ourID {
			continue
		}
		id := text(row["Access_Token_Id"])
		created, _ := row["Creation_Timestamp"].(time.Time)
		expires, bounded := row["Expire_Timestamp"].(time.Time)
		used, wasUsed := row["Last_Used_Timestamp"].(time.Time)
		if bounded && expires.Before(r.now) {
			continue // over already
		}
		live++
		if used.After(lastUse) {
			lastUse = used
		}
		p := r.cfg.Policy
		switch {
		case !bounded && p.RequireExpiry:
			r.find("no-expiry", id, "it never expires, and the policy requires an expiry")
		case bounded && expires.Sub(created) > time.Duration(p.MaxLifeDays)*24*time.Hour:
			r.find("long-lived", id, "it is good for %d days; the policy allows %d", int(expires.Sub(created).Hours()/24), p.MaxLifeDays)
		}
		if idle := r.now.Sub(max2(used, created)); idle > time.Duration(p.UnusedDays)*24*time.Hour {
			r.find("unused", id, "it was not used for %d days%s: revoke it", int(idle.Hours()/24), map[bool]string{true: "", false: " (never)"}[wasUsed])
		}
		if extra := r.beyond(text(row["Scopes"])); len(extra) > 0 {
			r.find("over-privileged", id, "it carries %s; the policy allows %s", strings.Join(extra, " "), strings.Join(p.Scopes, " "))
		}
		if user := text(row["User_Id"]); user != "" && r.users[application] != "" && user != r.users[application] {
			r.find("personal-token", id, "it belongs to another user than the application's system user: a service must not use a person's token")
		}
	}
	if r.ours != "" {
		r.unknown(live, lastUse)
	}
}

func max2(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// unknown compares our application's tokens with the vault and the audit log.
func (r *reconciliation) unknown(live int, lastUse time.Time) {
	kept, mine := 0, time.Time{}
	for _, v := range r.named.Versions {
		if v.State != secrets.Retired && v.State != secrets.Rejected && v.State != secrets.Deleted {
			kept++
		}
		u := r.uses[v.Fingerprint]
		mine = max2(mine, u.Last)
		if len(u.Open) > 0 {
			mine = r.now
		}
	}
	if live > kept {
		r.find("unknown-token", r.ours, "the instance has %d live token(s) of our application, the vault %d: somebody else may hold the rest", live, kept)
	}
	// Our own report has used the token just now: only what lies before it can be somebody else's.
	if lastUse.Before(r.now.Add(-clockSkew)) && lastUse.After(mine.Add(clockSkew)) {
		r.find("foreign-use", r.ours, "a token of our application was used at %s, and the last use in the audit log here is %s", lastUse.Format(time.RFC3339), stamp(mine))
	}
}

func (r *reconciliation) licenses(rows []map[string]any) {
	for _, row := range rows {
		n, _ := row["License_Count"].(int64)
		r.seats += n
	}
}

func (r *reconciliation) sessions(rows []map[string]any) {
	ours := 0
	for _, row := range rows {
		if r.ours != "" && strings.Contains(text(row["Applications"]), r.ours) {
			ours++
		}
	}
	if ours > 1 {
		r.find("sessions", r.ours, "our application holds %d sessions, each a license; one process needs one", ours)
	}
	if r.seats > 0 && int64(len(rows)) >= r.seats {
		r.find("licenses", r.instance, "%d sessions are open and there are %d licenses: the next session may be refused", len(rows), r.seats)
	}
}

var findingColumns = arrow.NewSchema([]arrow.Field{
	{Name: "time", Type: &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"}},
	{Name: "instance", Type: arrow.BinaryTypes.String}, {Name: "kind", Type: arrow.BinaryTypes.String},
	{Name: "subject", Type: arrow.BinaryTypes.String}, {Name: "detail", Type: arrow.BinaryTypes.String},
}, nil)

// writeFindings writes a Parquet file that was not there.
func writeFindings(path string, all []finding) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err == nil {
			err = os.Link(f.Name(), path)
		}
		err = errors.Join(err, os.Remove(f.Name()))
	}()
	w, err := parquet.NewWriter(f, findingColumns, parquet.Options{})
	if err != nil {
		return err
	}
	rows := array.NewRecordBuilder(memory.DefaultAllocator, findingColumns)
	defer rows.Release()
	for _, one := range all {
		rows.Field(0).(*array.TimestampBuilder).Append(arrow.Timestamp(one.Time.UnixMicro()))
		for i, s := range []string{one.Instance, one.Kind, one.Subject, one.Detail} {
			rows.Field(i + 1).(*array.StringBuilder).Append(s)
		}
	}
	rec := rows.NewRecord()
	defer rec.Release()
	if err := w.Write(rec); err != nil {
		return err
	}
	if _, err := w.Close(); err != nil {
		return err
	}
	return f.Sync()
}
