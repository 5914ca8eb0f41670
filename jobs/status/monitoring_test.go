package status

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// Every number that the shipped alert rules and the dashboard ask for is one that the program gives, with the labels that they name.
func TestMonitoringFiles(t *testing.T) {
	_, m := full(t)
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]map[string]bool{}
	for _, f := range families {
		has := map[string]bool{"le": true, "datasource": true}
		for _, l := range f.GetMetric()[0].GetLabel() {
			has[l.GetName()] = true
		}
		for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
			labels[f.GetName()+suffix] = has
		}
	}
	var exprs []string
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert       string            `yaml:"alert"`
				Expr        string            `yaml:"expr"`
				For         string            `yaml:"for"`
				Labels      map[string]string `yaml:"labels"`
				Annotations map[string]string `yaml:"annotations"`
			} `yaml:"rules"`
		} `yaml:"groups"`
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "monitoring", "alerts.yaml"))
	if err == nil {
		err = yaml.Unmarshal(text, &rules)
	}
	if err != nil || len(rules.Groups) != 1 {
		t.Fatal(err, len(rules.Groups))
	}
	for _, r := range rules.Groups[0].Rules {
		if !strings.HasPrefix(r.Alert, "Tablexport") || r.Labels["severity"] == "" || r.Annotations["summary"] == "" {
			t.Errorf("%+v", r)
		}
		exprs = append(exprs, r.Expr)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	text, err = os.ReadFile(filepath.Join("..", "..", "docs", "monitoring", "dashboard.json"))
	if err == nil {
		err = json.Unmarshal(text, &board)
	}
	if err != nil || len(board.Panels) < 10 {
		t.Fatal(err)
	}
	for _, p := range board.Panels {
		if p.Title == "" || len(p.Targets) == 0 {
			t.Errorf("%+v", p)
		}
		for _, target := range p.Targets {
			exprs = append(exprs, target.Expr)
		}
	}
	name := regexp.MustCompile(`\b(tablexport|process|go)_[a-z_]+\b`)
	label := regexp.MustCompile(`([a-z_]+)=~?"|by \(([a-z_, ]+)\)`)
	for _, e := range exprs {
		names := name.FindAllString(e, -1)
		if len(names) == 0 {
			t.Errorf("%s asks for nothing", e)
		}
		for _, n := range names {
			if labels[n] == nil {
				t.Errorf("%s asks for %s, which there is not", e, n)
				continue
			}
			for _, found := range label.FindAllStringSubmatch(e, -1) {
				for l := range strings.SplitSeq(found[1]+found[2], ", ") {
					if !labels[n][l] {
						t.Errorf("%s: %s has no label %s", e, n, l)
					}
				}
			}
		}
	}
}
