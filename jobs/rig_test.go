package jobs_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	pq "github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/filestore"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/simulator"
	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/audit"
	"github.com/tablexport/tablexport/secrets/memvault"
)

const (
	lines     = "Crm_Sales_Order_Lines"
	balances  = "Inv_Current_Balances" // a view without a key
	links     = "Gen_Document_Links"   // a key of three columns
	linkTypes = "Gen_Link_Types"       // a key that is a text
	products  = "Gen_Products"
	tokenName = "bi/acme-reader"
)

// lineColumns are of many types, the key among them.
var lineColumns = []string{
	"Sales_Order_Line_Id", "Line_No", "Quantity", "Unit_Price", "Line_Amount", "Line_Store_Id", "Product_Description",
	"Required_Delivery_Date", "Intrastat_Apply_Date", "Notes", "Persist_Lot", "Row_Version",
}

// rig is the real road: a simulated instance on a loopback address, a vault, both logs, a store and a runner.
type rig struct {
	t       testing.TB
	server  *simulator.Server
	oracle  *simulator.Oracle
	url     string
	dir     string
	files   *filestore.Bucket // the store as readers see it
	vault   secrets.Vault
	keeper  *secrets.Keeper
	audit   *audit.Log
	ledger  *ledger.Ledger
	runner  *jobs.Runner
	logged  *buffer
	options odata.Options
}

// part changes how a rig is put together.
type part func(*parts)

type parts struct {
	odata   odata.Options
	handler func(http.Handler) http.Handler
	bucket  func(store.Bucket) store.Bucket
}

func client(change func(*odata.Options)) part { return func(p *parts) { change(&p.odata) } }

func behind(wrap func(http.Handler) http.Handler) part { return func(p *parts) { p.handler = wrap } }

func into(wrap func(store.Bucket) store.Bucket) part { return func(p *parts) { p.bucket = wrap } }

func newRig(t testing.TB, o simulator.Options, change ...part) *rig {
	t.Helper()
	if o.Rows == nil {
		o.Rows = map[string]int64{lines: 700}
	}
	o.Seed = 11
	server, err := simulator.New(o)
	must(t, err)
	p := parts{odata: odata.Options{
		Name: "acme", Sandbox: true, RequestsPerMinute: 6_000_000, HeaderTimeout: 5 * time.Second, IdleTimeout: 5 * time.Second,
		Retry:   odata.RetryPolicy{Attempts: 4, Base: time.Millisecond, Max: 4 * time.Millisecond, MaxWait: time.Second},
		Breaker: odata.BreakerPolicy{Failures: 50, OpenFor: time.Minute},
	}}
	for _, c := range change {
		c(&p)
	}
	var handler http.Handler = server
	if p.handler != nil {
		handler = p.handler(server)
	}
	ts := httptest.NewServer(handler)
	t.Cleanup(ts.Close)
	p.odata.URL = ts.URL
	r := &rig{t: t, server: server, oracle: server.Oracle(), url: ts.URL, dir: t.TempDir(), vault: memvault.New(), logged: &buffer{}, options: p.odata}
	r.open(p)
	r.activate(simulator.DemoToken)
	return r
}

// open opens what lies in the rig's directory.
func (r *rig) open(p parts) {
	r.t.Helper()
	var err error
	r.files, err = filestore.Open(filepath.Join(r.dir, "lake"))
	must(r.t, err)
	r.audit, err = audit.Open(filepath.Join(r.dir, "audit"))
	must(r.t, err)
	r.ledger, err = ledger.Open(r.t.Context(), filepath.Join(r.dir, "ledger.db"))
	must(r.t, err)
	r.t.Cleanup(func() {
		_ = r.ledger.Close() // a test may have closed it
		_ = r.audit.Close()
		_ = r.files.Close()
	})
	r.keeper = secrets.NewKeeper(r.vault, r.audit, secrets.Sandbox, "tester")
	var bucket store.Bucket = r.files
	if p.bucket != nil {
		bucket = p.bucket(bucket)
	}
	r.runner = &jobs.Runner{
		Keeper: r.keeper, Audit: r.audit, Ledger: r.ledger, Instances: map[string]jobs.Instance{},
		Bucket: func(_ context.Context, name string) (store.Bucket, error) {
			if name != "lake" {
				return nil, fmt.Errorf("no store %s", name)
			}
			return bucket, nil
		},
		Logger: slog.New(slog.NewTextHandler(r.logged, &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: untimed})), Actor: "tester", Engine: "tablexport/test",
	}
	r.anew()
}

// untimed leaves the time out of a log: today's date may be a value of a row, which must not be in it.
func untimed(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// anew gives the runner a client that has learned nothing yet.
func (r *rig) anew() {
	r.t.Helper()
	r.options.Logger = r.runner.Logger
	c, err := odata.NewClient(r.options)
	must(r.t, err)
	r.runner.Instances["acme"] = jobs.Instance{Name: "acme", Client: c, Token: tokenName}
}

// activate stages a token and makes it current.
func (r *rig) activate(value string) {
	r.t.Helper()
	ctx := r.t.Context()
	token, err := secrets.NewToken([]byte(value))
	must(r.t, err)
	active := 0
	if named, err := r.vault.Versions(ctx, tokenName); err == nil {
		active = named.Active
	}
	v, err := r.keeper.Stage(ctx, tokenName, token, secrets.Binding{Instance: "acme", Host: r.runner.Instances["acme"].Client.Host(), Environment: secrets.Sandbox})
	must(r.t, err)
	must(r.t, r.keeper.Verified(ctx, tokenName, v.Number, nil))
	must(r.t, r.keeper.Activate(ctx, tokenName, v.Number, active))
}

// job is a job on table, unrestricted.
func job(table string) jobs.Job {
	j := jobs.Job{Name: strings.ToLower(table), Instance: "acme", Table: table, ScopeName: "all", Unrestricted: true, PageSize: 120, Store: "lake", Path: "erp/" + table}
	if table == lines {
		j.Select = lineColumns
	}
	return j
}

func (r *rig) run(j jobs.Job) (jobs.Result, error) {
	return r.runner.Run(r.t.Context(), jobs.Request{Job: j})
}

// exact runs j and demands that what is published is what the oracle says.
func (r *rig) exact(j jobs.Job) jobs.Result {
	r.t.Helper()
	mark := r.oracle.Mark()
	res, err := r.run(j)
	if err != nil {
		r.t.Fatal(err)
	}
	r.correct(j, mark, res)
	return res
}

// correct demands that the dataset is a correct copy of what was there since mark, and that the result says so.
func (r *rig) correct(j jobs.Job, mark simulator.Marker, res jobs.Result) {
	r.t.Helper()
	columns, rows := r.read(j)
	if err := r.oracle.Check(mark, j.Table, r.filter(j), columns, slices.Values(rows)); err != nil {
		r.t.Fatalf("published, but wrong: %v; evidence %+v", err, res.Evidence)
	}
	if res.Rows != int64(len(rows)) || res.Version < 0 || res.Evidence.Rows != res.Rows {
		r.t.Errorf("the result speaks of %d rows in version %d (evidence %d), %d were read", res.Rows, res.Version, res.Evidence.Rows, len(rows))
	}
	line := r.line(res.RunID)
	if line.State != ledger.Succeeded || line.Version != res.Version || line.Rows != res.Rows || line.Class != "" || line.Fingerprint == "" {
		r.t.Errorf("ledger %+v", line)
	}
}

// filter is what a job's rows must fulfil.
func (r *rig) filter(j jobs.Job) string {
	r.t.Helper()
	p, err := jobs.NewPlan(j, edm.Embedded())
	must(r.t, err)
	return p.Filter.Render()
}

func (r *rig) dataset(j jobs.Job) *export.Dataset { return export.Open(r.files, j.Path) }

func (r *rig) version(j jobs.Job) int64 {
	r.t.Helper()
	s, err := r.dataset(j).Snapshot(r.t.Context())
	must(r.t, err)
	return s.Version
}

// standing remembers a dataset as it is, and gives the check that it has stayed so, with nothing left beside it.
func (r *rig) standing(j jobs.Job) (stands func()) {
	r.t.Helper()
	version := r.version(j)
	columns, rows := r.read(j)
	keys := r.keys()
	return func() {
		r.t.Helper()
		if got := r.version(j); got != version {
			r.t.Fatalf("version %d was published over version %d", got, version)
		}
		gotColumns, got := r.read(j)
		if !slices.Equal(gotColumns, columns) || !slices.EqualFunc(got, rows, slices.Equal[simulator.Row]) {
			r.t.Fatal("the previous version has changed")
		}
		if left := r.keys(); !slices.Equal(left, keys) {
			r.t.Errorf("files were left behind: %v, before %v", left, keys)
		}
	}
}

// keys are the objects in the store.
func (r *rig) keys() (keys []string) {
	r.t.Helper()
	for info, err := range r.files.List(r.t.Context(), "", "") {
		must(r.t, err)
		keys = append(keys, info.Key)
	}
	return keys
}

func (r *rig) line(id string) ledger.Run {
	r.t.Helper()
	line, err := r.ledger.Get(r.t.Context(), id)
	must(r.t, err)
	return line
}

// failed demands that a run failed with a class, that both logs know it, and that nobody said what must not be said.
func (r *rig) failed(j jobs.Job, err error, class jobs.Class) ledger.Run {
	r.t.Helper()
	var at *jobs.RunError
	if !errors.As(err, &at) || at.Job != j.Name {
		r.t.Fatalf("got %v, want a *RunError of class %s", err, class)
	}
	if got := jobs.Classify(err); got != class {
		r.t.Fatalf("class %s, want %s: %v", got, class, err)
	}
	line := r.line(at.RunID)
	want := ledger.Failed
	if class == jobs.Canceled {
		want = ledger.Canceled
	}
	if line.State != want || line.Class != string(class) || line.Version != -1 || line.Error == "" || line.Ended.IsZero() {
		r.t.Errorf("ledger %+v", line)
	}
	r.discreet(j.Table, err.Error()+line.Error+r.logged.String())
	r.returned(at.RunID)
	return line
}

// stamp is when a log line was written.
var stamp = regexp.MustCompile(`time=\S+`)

// discreet demands that a text holds no token, no stack trace and no value of a row.
func (r *rig) discreet(table, text string) {
	r.t.Helper()
	for _, secret := range []string{simulator.DemoToken, "enrt_", "CANARY", "Bearer"} {
		if strings.Contains(text, secret) {
			r.t.Errorf("%q is in: %s", secret, text)
		}
	}
	rows, err := r.oracle.Rows(table, "", nil)
	must(r.t, err)
	text = stamp.ReplaceAllString(text, "") // some row may be dated today
	for row := range rows {
		for _, cell := range row {
			if len(cell) >= 8 && strings.Contains(text, cell) {
				r.t.Fatalf("a value is in: %s", text)
			}
		}
	}
}

// entries are the audit entries of a run.
func (r *rig) entries(run string) (entries []audit.Entry) {
	r.t.Helper()
	all, err := audit.Tail(filepath.Join(r.dir, "audit"), 10_000)
	must(r.t, err)
	for _, e := range all {
		if e.Run == run {
			entries = append(entries, e)
		}
	}
	return entries
}

// actions are what a run's audit entries say in short: "lease ok".
func (r *rig) actions(run string) (actions []string) {
	r.t.Helper()
	for _, e := range r.entries(run) {
		actions = append(actions, e.Action+" "+e.Outcome)
	}
	return actions
}

// returned demands that the token of a run was given back, if it was lent.
func (r *rig) returned(run string) {
	r.t.Helper()
	actions := r.actions(run)
	if slices.Contains(actions, "lease ok") && actions[len(actions)-1] != "release ok" {
		r.t.Errorf("the token was not given back: %v", actions)
	}
	report, err := audit.Verify(filepath.Join(r.dir, "audit"))
	if err != nil || len(report.Problems) > 0 {
		r.t.Errorf("audit log: %v %v", err, report.Problems)
	}
}

// read reads the live files of a dataset with parquet-go, a reader that is not ours, into canonical cells.
func (r *rig) read(j jobs.Job) (columns []string, rows []simulator.Row) {
	r.t.Helper()
	columns, rows, err := readBack(r.t.Context(), r.files, j.Path)
	must(r.t, err)
	return columns, rows
}

func readBack(ctx context.Context, b store.Bucket, path string) (columns []string, rows []simulator.Row, err error) {
	d := export.Open(b, path)
	schema, err := d.Schema(ctx)
	if err != nil {
		return nil, nil, err
	}
	snapshot, err := d.Snapshot(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, f := range schema.Fields() {
		if !slices.Contains(snapshot.Metadata.PartitionColumns, f.Name) { // those are not in the files
			columns = append(columns, f.Name)
		}
	}
	files, err := d.Files(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, f := range files {
		body, info, err := b.Open(ctx, path+"/"+f.Key)
		if err != nil {
			return nil, nil, err
		}
		data, err := io.ReadAll(body)
		if err = errors.Join(err, body.Close()); err != nil {
			return nil, nil, err
		}
		if info.Size != f.Size || int64(len(data)) != f.Size {
			return nil, nil, fmt.Errorf("%s: %d bytes, the log says %d", f.Key, len(data), f.Size)
		}
		of, err := readFile(data, columns)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", f.Key, err)
		}
		if f.Rows != int64(len(of)) {
			return nil, nil, fmt.Errorf("%s: %d rows, the log says %d", f.Key, len(of), f.Rows)
		}
		rows = append(rows, of...)
	}
	return columns, rows, nil
}

func readFile(data []byte, columns []string) ([]simulator.Row, error) {
	f, err := pq.OpenFile(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, err
	}
	rows := make([]simulator.Row, f.NumRows())
	for i := range rows {
		rows[i] = make(simulator.Row, len(columns))
		for k := range rows[i] {
			rows[i][k] = simulator.Null // as readers of Delta fill in columns that an older file lacks
		}
	}
	for _, column := range f.Root().Columns() {
		at := slices.Index(columns, column.Name())
		if at < 0 {
			return nil, fmt.Errorf("column %s is not in the table's schema", column.Name())
		}
		n := 0
		for _, group := range f.RowGroups() {
			pages := group.ColumnChunks()[column.Index()].Pages()
			for {
				page, err := pages.ReadPage()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					return nil, err
				}
				values := make([]pq.Value, page.NumValues())
				if got, err := page.Values().ReadValues(values); got != len(values) || err != nil && !errors.Is(err, io.EOF) {
					return nil, fmt.Errorf("%d of %d values: %w", got, len(values), err)
				}
				for _, v := range values {
					rows[n][at] = canonical(v, column.Type())
					n++
				}
			}
			_ = pages.Close()
		}
		if n != len(rows) {
			return nil, fmt.Errorf("column %s has %d values, the file %d rows", column.Name(), n, len(rows))
		}
	}
	return rows, nil
}

// canonical writes a value as the oracle does, by what the Parquet file says of its type.
func canonical(v pq.Value, t pq.Type) string {
	if v.IsNull() {
		return simulator.Null
	}
	if logical := t.LogicalType(); logical != nil {
		switch l := logical.Value.(type) {
		case *format.DecimalType:
			return decimal(unscaled(v), int(l.Scale))
		case *format.DateType:
			return time.Unix(int64(v.Int32())*86_400, 0).UTC().Format(time.DateOnly)
		case *format.TimestampType:
			return time.UnixMicro(v.Int64()).UTC().Format("2006-01-02T15:04:05.000000Z")
		case *format.StringType:
			return string(v.ByteArray())
		}
	}
	switch v.Kind() {
	case pq.Boolean:
		return strconv.FormatBool(v.Boolean())
	case pq.Int32:
		return strconv.Itoa(int(v.Int32()))
	case pq.Int64:
		return strconv.FormatInt(v.Int64(), 10)
	case pq.Double:
		return strconv.FormatFloat(v.Double(), 'g', -1, 64)
	}
	return hex.EncodeToString(v.ByteArray())
}

// unscaled is the number in a decimal.
func unscaled(v pq.Value) *big.Int {
	switch v.Kind() {
	case pq.Int32:
		return big.NewInt(int64(v.Int32()))
	case pq.Int64:
		return big.NewInt(v.Int64())
	}
	raw := v.ByteArray()
	n := new(big.Int).SetBytes(raw)
	if len(raw) > 0 && raw[0] >= 0x80 { // two's complement, big-endian
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(raw))))
	}
	return n
}

func decimal(n *big.Int, scale int) string {
	text := new(big.Int).Abs(n).String()
	if scale > 0 {
		if len(text) <= scale {
			text = strings.Repeat("0", scale+1-len(text)) + text
		}
		text = text[:len(text)-scale] + "." + text[len(text)-scale:]
	}
	if n.Sign() < 0 {
		text = "-" + text
	}
	return text
}

// buffer is a log that several goroutines write.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newServer serves h on a loopback address.
func newServer(t testing.TB, h http.Handler) string {
	ts := httptest.NewServer(h)
	t.Cleanup(ts.Close)
	return ts.URL
}
