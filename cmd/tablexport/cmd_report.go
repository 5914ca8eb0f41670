package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/parquet"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/audit"
)

func tokensReportCommand(g *globals) *cobra.Command {
	var out string
	var publish bool
	c := &cobra.Command{
		Use:   "report",
		Short: "Compare what the instances know of tokens, applications, sessions and licenses with what we know",
		Long: `Read Sec_Access_Tokens, Sec_Trusted_Applications, Dmv_Current_Sessions and Dmv_Licenses of every instance, where its token may (never the columns that hold
secrets), and report what does not fit the policy and the audit log: more tokens of our application than the vault knows, tokens that nobody uses, that carry
other scopes than policy.scopes, that never expire or live too long, personal tokens, basic authentication left on, sessions beyond the licenses, and a
use of our application's tokens that is neither in the audit log of this state directory nor told to the vault by another machine. An instance whose application is not named
(application: {uri: …}) is looked at as a whole. One that cannot be asked is a finding (failed), and the command fails behind the others.

With --out the findings are also a Parquet file; with --publish they are added to the dataset of reports.tokens in the configuration, a Delta table, beside a row of kind report with the
figures of every instance. serve makes and publishes the report by itself, at the times of reports.tokens.`,
		Example: "  tablexport tokens report\n  tablexport tokens report --json\n  tablexport tokens report --out findings.parquet\n  tablexport tokens report --publish",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return g.tokensReport(c.Context(), out, publish) },
	}
	c.Flags().BoolVar(&publish, "publish", false, "also publish the findings in the dataset of reports.tokens")
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

func (g *globals) tokensReport(ctx context.Context, out string, publish bool) error {
	if _, err := os.Stat(out); out != "" && err == nil {
		return usagef("%s exists already; name another file", out)
	}
	a, err := g.open()
	if err != nil {
		return err
	}
	defer a.close()
	if publish && a.cfg.Reports.Tokens == nil {
		return usagef("--publish needs a place in %s; write reports: {tokens: {cron: \"0 6 * * *\", zone: UTC, store: …}}", a.config)
	}
	report, err := a.reportTokens(ctx)
	if report == nil {
		return err
	}
	for _, f := range report.findings {
		if err := g.emit(f, func() { g.printf("%-18s %-16s %-38s %s\n", f.Kind, f.Instance, f.Subject, f.Detail) }); err != nil {
			return err
		}
	}
	if len(report.findings) == 0 {
		g.printf("nothing was found in %d instance(s)\n", len(a.cfg.Instances))
	}
	if out != "" {
		err = errors.Join(err, writeFindings(out, report.findings))
	}
	if publish {
		version, perr := a.publishReport(ctx, report)
		if perr == nil {
			fmt.Fprintf(g.err, "published as version %d of %s\n", version, a.cfg.Reports.Tokens.Path)
		}
		err = errors.Join(err, perr)
	}
	return err
}

// tokensReport is one report on the tokens of every instance.
type tokensReport struct {
	id       string
	at       time.Time
	findings []finding
	figures  []ledger.Figures // of the instances that could be asked
}

// reportTokens makes a report, and keeps the figures of the instances in the ledger. Instances that cannot be asked are findings, and the error; the report is
// nil where nothing could be begun.
func (a *app) reportTokens(ctx context.Context) (*tokensReport, error) {
	keeper, err := a.keeper()
	if err != nil {
		return nil, err
	}
	runs, err := a.ledger(ctx)
	if err != nil {
		return nil, err
	}
	uses, err := secrets.Uses(a.auditDir(), time.Now().Add(-usesSince)) // before our own loans for this
	if err != nil {
		return nil, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	report := &tokensReport{id: id.String(), at: time.Now().UTC()}
	var failed []error
	for _, name := range sorted(a.cfg.Instances) {
		r, err := a.reconcile(ctx, keeper, name, uses, report.at)
		if err != nil {
			report.findings = append(report.findings, finding{Time: report.at, Instance: name, Kind: "failed", Subject: name, Detail: "the instance could not be looked at: " + err.Error()})
			failed = append(failed, fmt.Errorf("instance %s: %w", name, err))
			continue
		}
		report.findings = append(report.findings, r.found...)
		r.figures.Findings = int64(len(r.found))
		report.figures = append(report.figures, r.figures)
		if err := runs.SaveFigures(ctx, r.figures); err != nil {
			return report, err
		}
	}
	if len(failed) > 0 {
		return report, &several{errs: failed}
	}
	return report, nil
}

// reportName is the publisher of the dataset of findings.
const reportName = "tokens-report"

// publishReport adds a report to its dataset: its findings, and the figures of each instance.
func (a *app) publishReport(ctx context.Context, report *tokensReport) (version int64, err error) {
	c := a.cfg.Reports.Tokens
	b, err := a.bucket(ctx, c.Store)
	if err != nil {
		return 0, err
	}
	var rows []export.Finding
	for _, f := range report.findings {
		rows = append(rows, export.Finding{Time: f.Time, Instance: f.Instance, Kind: f.Kind, Subject: f.Subject, Detail: f.Detail})
	}
	for _, f := range report.figures {
		rows = append(rows, export.Finding{Time: f.Taken, Instance: f.Instance, Kind: "report", Subject: f.Instance,
			Detail: fmt.Sprintf("%d finding(s); sessions: %s, ours: %s, licenses: %s", f.Findings, shown(f.Sessions), shown(f.Ours), shown(f.Licenses))})
	}
	d := export.Open(b, c.Path)
	version, err = d.PublishFindings(ctx, export.FindingsSpec{Report: reportName, RunID: report.id, Description: "Findings of tablexport tokens report: what the instances say of tokens, beside what we know.",
		Engine: "tablexport/" + buildVersion(), Latest: c.Keep == "latest"}, rows)
	if err != nil {
		return 0, fmt.Errorf("the report could not be published at %s: %w", c.Path, err)
	}
	log, err := a.audit()
	if err == nil {
		_, err = log.Append(context.WithoutCancel(ctx), audit.Entry{Actor: actor(), Action: "publish", Subject: reportName, Run: report.id, Rows: int64(len(rows)), Outcome: audit.OK,
			Detail: map[string]string{"dataset": d.Location(), "version": strconv.FormatInt(version, 10)}})
	}
	if err != nil {
		return version, &jobs.PublishedError{Version: version, Err: err}
	}
	// What killed reports and replaced ones have left goes by the rules of every dataset.
	if _, err := d.Sweep(ctx, 24*time.Hour, false); err != nil {
		a.logger().Warn("leftovers of reports could not be removed", "error", err)
	}
	if c.Keep == "latest" {
		if _, err := d.Vacuum(ctx, export.VacuumSpec{Engine: "tablexport/" + buildVersion()}); err != nil {
			a.logger().Warn("files of older reports could not be removed", "error", err)
		}
	}
	return version, nil
}

func shown(n int64) string {
	if n < 0 {
		return "not known"
	}
	return strconv.FormatInt(n, 10)
}

// reconcile looks at one instance.
func (a *app) reconcile(ctx context.Context, keeper *secrets.Keeper, name string, uses map[string]secrets.Use, now time.Time) (*reconciliation, error) {
	token := a.cfg.Instances[name].Token
	elsewhere, err := keeper.Uses(ctx, token) // before our own loan
	if err != nil && !errors.Is(err, secrets.ErrNotFound) {
		return nil, err
	}
	session, done, err := a.session(ctx, name, "report")
	if err != nil {
		return nil, err
	}
	defer done()
	named, err := keeper.Versions(ctx, token)
	if err != nil {
		return nil, err
	}
	r := &reconciliation{app: a, instance: name, named: named, uses: uses, elsewhere: elsewhere, now: now,
		figures: ledger.Figures{Instance: name, Taken: now, Sessions: -1, Ours: -1, Licenses: -1}}
	r.ours = a.cfg.Instances[name].Application.URI
	model, err := session.Metadata(ctx)
	if err != nil {
		return nil, err
	}
	for _, table := range r.tables() {
		rows, err := readSmall(ctx, session, model, table.name, table.columns)
		if errors.Is(err, odata.ErrForbidden) || errors.Is(err, errNoTable) {
			r.find("not-readable", table.name, "the token may not read it, or the instance does not have it: what it would show is not known")
			if table.name == "Sec_Access_Tokens" {
				r.known()
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		table.look(rows)
	}
	return r, nil
}

// reportTable is a table that a report reads, and what it does with its rows.
type reportTable struct {
	name    string
	columns []string // never one that holds a secret
	look    func(rows []map[string]any)
}

func (r *reconciliation) tables() []reportTable {
	return []reportTable{
		{"Sec_Trusted_Applications", []string{"Trusted_Application_Id", "Application_Uri", "Is_Enabled", "Scope", "Basic_Authentication_Allowed", "System_User_Id"}, r.applications},
		{"Sec_Access_Tokens", []string{"Access_Token_Id", "Type", "Scopes", "Creation_Timestamp", "Expire_Timestamp", "Last_Used_Timestamp", "Trusted_Application_Id", "User_Id"}, r.tokens},
		{"Dmv_Licenses", []string{"License_Code", "License_Count"}, r.licenses},
		{"Dmv_Current_Sessions", []string{"Session_Id", "Applications", "Start_Time", "Last_Request_Time"}, r.sessions},
	}
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
	figures  ledger.Figures

	elsewhere []secrets.PlaceUse
	now       time.Time
	found     []finding
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

// scopeList reads scopes as an instance writes them: a list in JSON, or words.
func scopeList(text string) []string {
	return strings.FieldsFunc(text, func(c rune) bool { return strings.ContainsRune(" ,;[]\"", c) })
}

// beyond gives the scopes of a list that the policy does not allow.
func (r *reconciliation) beyond(list string) (extra []string) {
	for _, s := range scopeList(list) {
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

// known holds what we know ourselves of the active token to the policy, where the instance does not show it.
func (r *reconciliation) known() {
	v, ok := r.named.Version(r.named.Active)
	if !ok {
		return
	}
	p, subject := r.cfg.Policy, fmt.Sprintf("%s version %d", r.named.Name, v.Number)
	switch {
	case v.Expires.IsZero() && p.RequireExpiry:
		r.find("no-expiry", subject, "its expiry is not known, and the policy requires one: tablexport tokens describe %s %d --expires DATE", r.named.Name, v.Number)
	case !v.Expires.IsZero() && v.Expires.Before(r.now.Add(expiryNotice)):
		r.find("expires", subject, "it expires at %s", v.Expires.Format(time.RFC3339))
	case !v.Expires.IsZero() && v.Expires.Sub(v.Created) > time.Duration(p.MaxLifeDays)*24*time.Hour:
		r.find("long-lived", subject, "it is good for %d days since it was staged; the policy allows %d", int(v.Expires.Sub(v.Created).Hours()/24), p.MaxLifeDays)
	}
	if extra := r.beyond(v.Scopes); len(extra) > 0 {
		r.find("over-privileged", subject, "it carries %s; the policy allows %s", strings.Join(extra, " "), strings.Join(p.Scopes, " "))
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
	for _, u := range r.elsewhere { // other machines of ours, to five minutes
		mine = max2(mine, u.Last.Add(secrets.UseEvery))
	}
	if live > kept {
		r.find("unknown-token", r.ours, "the instance has %d live token(s) of our application, the vault %d: somebody else may hold the rest", live, kept)
	}
	// Our own report has used the token just now: only what lies before it can be somebody else's.
	if lastUse.Before(r.now.Add(-clockSkew)) && lastUse.After(mine.Add(clockSkew)) {
		r.find("foreign-use", r.ours, "a token of our application was used at %s, and the last use that we know of, here or by another machine that tells the vault, is %s", lastUse.Format(time.RFC3339), stamp(mine))
	}
}

func (r *reconciliation) licenses(rows []map[string]any) {
	for _, row := range rows {
		n, _ := row["License_Count"].(int64)
		r.seats += n
	}
	r.figures.Licenses = r.seats
}

func (r *reconciliation) sessions(rows []map[string]any) {
	ours := 0
	for _, row := range rows {
		if r.ours != "" && strings.Contains(text(row["Applications"]), r.ours) {
			ours++
		}
	}
	r.figures.Sessions = int64(len(rows))
	if r.ours != "" {
		r.figures.Ours = int64(ours)
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
