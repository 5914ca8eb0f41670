package main

import (
	"encoding/pem"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/google/go-cmp/cmp"

	"github.com/tablexport/tablexport/export/exporttest/judge"
	"github.com/tablexport/tablexport/export/store/storetest/s3server"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/simulator"
	"github.com/tablexport/tablexport/secrets/secretstest/vaultserver"
)

// coveringTables chooses tables of the model that together have every type of column.
func coveringTables(t *testing.T) []string {
	t.Helper()
	model := edm.Embedded()
	kinds := func(name string) []edm.Kind {
		table, _ := model.Table(name)
		var all []edm.Kind
		for _, column := range table.DefaultSelect() {
			c, _ := table.Column(column)
			all = append(all, c.Type.Kind)
		}
		return all
	}
	covered := map[edm.Kind]bool{}
	var chosen []string
	for {
		best, most := "", 0
		for _, name := range model.Tables() {
			fresh := map[edm.Kind]bool{}
			for _, k := range kinds(name) {
				if !covered[k] {
					fresh[k] = true
				}
			}
			if len(fresh) > most {
				best, most = name, len(fresh)
			}
		}
		if best == "" {
			break
		}
		chosen = append(chosen, best)
		for _, k := range kinds(best) {
			covered[k] = true
		}
	}
	for _, k := range []edm.Kind{edm.Guid, edm.String, edm.MultiLanguage, edm.Boolean, edm.Byte, edm.Int16, edm.Int32, edm.Int64, edm.Decimal,
		edm.Double, edm.Date, edm.DateTime, edm.TimeOfDay, edm.Binary} {
		if !covered[k] {
			t.Fatalf("no table of the model has a column of type %v", k)
		}
	}
	return chosen
}

// real is a world of real servers: Vault with an AppRole for people and one for runs, S3, and the simulator behind TLS, in production.
type real struct {
	*world
	server   *simulator.Server
	tables   []string
	bucket   string
	s3       s3server.Server
	secretID []string
	people   string // the configuration of those who may stage tokens
}

func newReal(t *testing.T) *real {
	t.Helper()
	vault := vaultserver.Start(t)
	r := &real{s3: s3server.Start(t), tables: coveringTables(t)}
	r.bucket = r.s3.NewBucket(t)
	t.Setenv("AWS_ACCESS_KEY_ID", r.s3.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", r.s3.SecretKey)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")

	rows := map[string]int64{}
	for _, table := range r.tables {
		rows[table] = 300
	}
	var err error
	if r.server, err = simulator.New(simulator.Options{Rows: rows, Tokens: []simulator.Token{{Value: canaryToken}}, Behavior: simulator.Behavior{Count: simulator.InlineCount}}); err != nil {
		t.Fatal(err)
	}
	front := httptest.NewTLSServer(r.server)
	t.Cleanup(front.Close)
	r.world = &world{t: t, dir: t.TempDir(), server: r.server, address: front.URL}
	ca := r.write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})))

	// The policies of the documentation are those that suffice.
	data, err := os.ReadFile(filepath.Join(moduleRoot(t), "docs", "vault-policy.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	mount := vault.NewMount(t)
	runs, people, ok := strings.Cut(strings.ReplaceAll(string(data), `"secret/`, `"`+mount+`/`), "# ---- tablexport-rotate")
	if !ok {
		t.Fatal("docs/vault-policy.hcl has changed its form: this test cuts it where the second policy begins")
	}
	logins := t.TempDir() // not below the directory that is searched for secrets
	configure := func(name, policy string) string {
		role, secret := vault.NewAppRole(t, policy, nil)
		r.secretID = append(r.secretID, secret)
		for file, value := range map[string]string{"role": role, "secret": secret} {
			if err := os.WriteFile(filepath.Join(logins, name+"-"+file), []byte(value+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return r.write(name+".yaml", fmt.Sprintf(`environment: production
secrets:
  vault: {address: %q, mount: %s, auth: {approle: {role_id_file: %s, secret_id_file: %s}}}
instances: {acme: {url: %q, token: bi/reader, ca_file: %s, requests_per_minute: 60000}}
stores: {lake: {s3: {bucket: %s, prefix: erp, region: %s, endpoint: %q, path_style: true}}}
scopes: {all: {unrestricted: true}}
jobs:
%s`, vault.Address, mount, filepath.Join(logins, name+"-role"), filepath.Join(logins, name+"-secret"), front.URL, ca,
			r.bucket, r.s3.Region, r.s3.Endpoint, r.jobs()))
	}
	r.people = configure("people", people[strings.Index(people, "\n"):])
	r.config = configure("runs", runs)
	return r
}

func (r *real) jobs() string {
	var text strings.Builder
	for _, table := range r.tables {
		fmt.Fprintf(&text, "  %s: {instance: acme, table: %s, scope: all, store: lake, path: %[1]s, paging: {page_size: 100}}\n", strings.ToLower(table), table)
	}
	return text.String()
}

// download copies a dataset down, for readers that read directories.
func (r *real) download(job string) string {
	r.t.Helper()
	dir := r.t.TempDir()
	prefix := "erp/" + job + "/"
	pages := s3.NewListObjectsV2Paginator(r.s3.Client(), &s3.ListObjectsV2Input{Bucket: &r.bucket, Prefix: &prefix})
	for pages.HasMorePages() {
		page, err := pages.NextPage(r.t.Context())
		if err != nil {
			r.t.Fatal(err)
		}
		for _, o := range page.Contents {
			object, err := r.s3.Client().GetObject(r.t.Context(), &s3.GetObjectInput{Bucket: &r.bucket, Key: o.Key})
			if err != nil {
				r.t.Fatal(err)
			}
			data, err := io.ReadAll(object.Body)
			_ = object.Body.Close()
			path := filepath.Join(dir, filepath.FromSlash(strings.TrimPrefix(*o.Key, prefix)))
			if err == nil {
				err = os.MkdirAll(filepath.Dir(path), 0o700)
			}
			if err == nil {
				err = os.WriteFile(path, data, 0o600)
			}
			if err != nil {
				r.t.Fatal(err)
			}
		}
	}
	return dir
}

// Tables with every type go from an instance behind TLS, with a token lent by a real Vault, to a real S3 server, and two readers
// that are not ours find there what the simulator knows, cell by cell.
func TestRealServers(t *testing.T) {
	r := newReal(t)
	if got := r.do("run", strings.ToLower(r.tables[0])); got.code == exitOK {
		t.Fatalf("without a token: %s", got)
	}
	// Who runs jobs may not stage tokens; who stages may.
	if got := r.mustWith(exitCredential, canaryToken, "tokens", "stage", "bi/reader", "--activate"); !strings.Contains(got.err, "what the vault grants this login") {
		t.Errorf("stage without the right: %s", got)
	}
	r.mustWith(exitOK, canaryToken, "tokens", "stage", "bi/reader", "--activate", "-c", r.people, "-v")
	contains(t, r.must(exitOK, "tokens", "list", "-v").out, "bi/reader", "active", "production")
	contains(t, r.must(exitOK, "check", "--online", "-v").out, "ok      instance acme", "ok      store lake", "s3://"+r.bucket+"/erp")
	r.must(exitOK, "run", "--all", "-v")
	r.server.Update(r.tables[0], 40)
	r.server.Delete(r.tables[0], 7)
	r.server.Insert(r.tables[0], 9)
	contains(t, r.must(exitOK, "run", strings.ToLower(r.tables[0])).out, "version 1, 302 rows")
	contains(t, r.must(exitOK, "datasets", "verify").out, "version 1, ", "as the log says")
	contains(t, r.must(exitOK, "datasets", "sql", strings.ToLower(r.tables[0])).out, "s3://"+r.bucket+"/erp/")
	r.must(exitOK, "audit", "verify")

	dirs := map[string]string{}
	for _, table := range r.tables {
		dirs[table] = r.download(strings.ToLower(table))
		if files := filesWith(t, dirs[table], append(r.secretID, canaryToken, r.s3.SecretKey)...); len(files) > 0 {
			t.Errorf("published files hold a secret: %v", files)
		}
	}
	r.holdsNo(append(r.secretID, canaryToken, r.s3.SecretKey)...)
	if got := r.mustWith(exitCredential, canaryOther, "tokens", "stage", "bi/reader", "-c", r.people); got.out != "" {
		t.Errorf("a wrong token: %s", got)
	}
	for _, table := range r.tables {
		t.Run(table, func(t *testing.T) { r.judge(t, table, dirs[table]) })
	}
}

// judge compares what foreign readers find with what the simulator knows.
func (r *real) judge(t *testing.T, table, dir string) {
	described, _ := edm.Embedded().Table(table)
	columns := described.DefaultSelect()
	rows, err := r.server.Oracle().Rows(table, "", columns)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for row := range rows {
		want = append(want, strings.Join(row, "\x1f"))
	}
	slices.Sort(want)
	report := judge.Check(t, dir)
	if report.Rows != len(want) || len(report.Schema) != len(columns) {
		t.Errorf("%d rows of %d columns; want %d of %d", report.Rows, len(report.Schema), len(want), len(columns))
	}
	for reader, found := range map[string][]judge.Row{"delta-rs": judge.Rows(t, dir), "DuckDB": judge.DuckDBRows(t, dir)} {
		var got []string
		for _, row := range found {
			cells := make([]string, len(columns))
			for i, name := range columns {
				cells[i] = canonical(t, described, name, row)
			}
			got = append(got, strings.Join(cells, "\x1f"))
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s finds something else (- the simulator, + the copy):\n%.4000s", reader, diff)
		}
	}
}

// canonical gives a value that a judge found the form in which the simulator knows it.
func canonical(t *testing.T, table *edm.Table, name string, row judge.Row) string {
	t.Helper()
	value, ok := row[name]
	if !ok {
		t.Fatalf("the copy has no column %s", name)
	}
	if value == nil {
		return simulator.Null
	}
	text := fmt.Sprint(value)
	if column, _ := table.Column(name); column.Type.Kind == edm.Double {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatalf("column %s: %v", name, err)
		}
		return strconv.FormatFloat(f, 'g', -1, 64)
	}
	return text
}

// A job's store that refuses its login is a credential that is wrong, said without it.
func TestStoreLogin(t *testing.T) {
	server := s3server.Start(t)
	bucket := server.NewBucket(t)
	const secret = "CANARYwrongS3SecretKey0123456789"
	t.Setenv("AWS_ACCESS_KEY_ID", server.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	w := newWorld(t, simulator.Options{})
	w.edit("{file: {path: ./lake}}", fmt.Sprintf("{s3: {bucket: %s, region: %s, endpoint: %q, path_style: true}}", bucket, server.Region, server.Endpoint))
	w.stage()
	contains(t, w.must(exitCredential, "run", "orders", "-v").err, "look at the store's credentials")
	contains(t, w.must(exitCredential, "check", "--online").out, "FAILED  store lake")
	w.holdsNo(secret, testToken)
}
