package configs_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tablexport/tablexport/configs"
)

const refreshFile = `environment: production
secrets: {file: {path: ./s.age}}
instances: {acme: {url: "https://acme.my.erp.net", token: bi/reader}}
stores: {lake: {file: {path: /lake}}}
scopes: {all: {unrestricted: true}}
sets: {sales: [a, b]}
jobs:
  a: {instance: acme, table: T, scope: all, store: lake, path: a, refresh: REFRESH, schedule: {cron: "15 5 * * *", zone: Europe/Sofia}}
  b: {instance: acme, table: T, scope: all, store: lake, path: b, schema: freeze}
`

func TestRefreshAccepted(t *testing.T) {
	for text, check := range map[string]func(configs.Refresh) bool{
		"{by: Document_Reference/Document_Date, every: month, keep: 60, reload: 2}": func(r configs.Refresh) bool {
			return r.Keep == 60 && r.Reload == 2 && r.Zone == "Europe/Sofia" && r.Commit == "run" && r.Split.Rows == 5_000_000 && r.Overlap == 0
		},
		"{by: D, every: week, from: 2023-Q2, to: 2024-03, late_days: 0, zone: UTC, commit: window, undated: leave_out}": func(r configs.Refresh) bool {
			return r.Reload == 1 && r.Zone == "UTC" && r.Commit == "window" && r.Undated == "leave_out"
		},
		"{by: D, every: day, keep: 90, from: 2023, ahead: 30, split: {rows: 100000, after: 5m}}": func(r configs.Refresh) bool {
			return r.Split.Rows == 100_000 && r.Split.After.Or(0) == 5*time.Minute && r.Split.Megabytes == 8192
		},
		"{by: changes}":                   func(r configs.Refresh) bool { return r.By == configs.ByChanges && r.Split == nil && r.Overlap == 0 },
		"{by: Update_Time}":               func(r configs.Refresh) bool { return r.Overlap.Or(0) == 5*time.Minute },
		"{by: Update_Time, overlap: 15m}": func(r configs.Refresh) bool { return r.Overlap.Or(0) == 15*time.Minute },
	} {
		c, err := configs.Parse("t.yaml", []byte(strings.Replace(refreshFile, "REFRESH", text, 1)), checks)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if r := c.Jobs["a"].Refresh; !check(*r) {
			t.Errorf("%s: %+v", text, *r)
		}
		if c.Jobs["a"].Schema != "evolve" || c.Jobs["b"].Schema != "freeze" || c.Jobs["b"].Refresh != nil || len(c.Sets["sales"]) != 2 {
			t.Errorf("%s: schema, sets or an absent refresh are wrong: %+v", text, c.Jobs)
		}
	}
}

// The example of the design, as it stands.
func TestDesignExampleLoads(t *testing.T) {
	_, err := configs.Parse("t.yaml", []byte(`environment: production            # or sandbox; a token is bound to one of them
secrets:                           # exactly one of vault, file
  vault: {address: https://vault.acme.example:8200, mount: secret, auth: {approle: {role_id_file: …, secret_id_file: …}}}
instances:
  acme: {url: https://acme.my.erp.net, token: bi/acme-reader, concurrency: 2, requests_per_minute: 600}
stores:
  lake: {s3: {bucket: acme-bi, prefix: erp, region: eu-central-1}}      # or file: {path: ./lake}
scopes:
  oslo: {where: "Line_Store_Id in (5a…,6b…)"}
  all:  {unrestricted: true}
jobs:
  order-lines:
    instance: acme
    table: Crm_Sales_Order_Lines
    select: [Sales_Order_Line_Id, Sales_Order_Id, Line_No, Product_Id, Quantity, Unit_Price, Line_Amount, Line_Store_Id]
    filter: "Sales_Order_Reference/Document_Reference/Void eq false and Sales_Order_Reference/Document_Reference/State ge 30"
    scope: oslo
    refresh: {by: Sales_Order_Reference/Document_Reference/Document_Date, every: month, keep: 60, reload: 2}   # absent: whole table
    schedule: {cron: "15 5 * * 1-5", zone: Europe/Sofia, late: once, overlap: skip}
    store: lake
    path: sales/order_lines
`), checks)
	if err != nil {
		t.Error(err)
	}
}
