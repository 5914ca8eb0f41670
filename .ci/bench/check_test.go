package main

import (
	"strings"
	"testing"
)

// A ratio that got worse in every measurement fails, one that was good in one of them does not, and none may be missing.
func TestJudgeShort(t *testing.T) {
	recorded := map[string]float64{}
	measured := func(factor float64, but ...string) map[string]float64 {
		now := map[string]float64{}
		for _, name := range checked {
			recorded[name] = 0.1
			now[name] = 0.1
		}
		for _, name := range but {
			now[name] *= factor
		}
		return now
	}
	best := map[string]float64{}
	if m := judgeShort(recorded, measured(1.16, "run/naive", "scan/naive"), best); len(m) != 2 || !strings.Contains(m.Error(), "run/naive is 0.116, recorded is 0.100: 16 % worse") {
		t.Errorf("two ratios are 16 %% worse: %v", m)
	}
	if m := judgeShort(recorded, measured(1.16, "run/naive"), best); len(m) != 1 {
		t.Errorf("one ratio is still 16 %% worse, the other was well: %v", m)
	}
	if m := judgeShort(recorded, measured(1.14, checked...), best); len(m) != 0 {
		t.Errorf("nothing is more than 15 %% worse: %v", m)
	}
	delete(recorded, "valid/decode")
	if m := judgeShort(recorded, map[string]float64{}, map[string]float64{}); len(m) == 0 || !strings.Contains(m.Error(), "valid/decode is not recorded") {
		t.Errorf("a ratio that nobody recorded: %v", m)
	}
}

// The least of the rounds counts, and DuckDB's with the number of threads that suits it better.
func TestRatios(t *testing.T) {
	c := comparison{Programs: map[string]*program{
		"run": {cpu: []float64{4, 2, 9}}, "scan": {cpu: []float64{1, 5}}, "naive": {cpu: []float64{50, 20}}, "duckdb-1": {cpu: []float64{12}}, "duckdb-2": {cpu: []float64{10, 30}},
	}}
	for name, want := range map[string]float64{"run/scan": 2, "run/naive": 0.1, "scan/naive": 0.05, "run/duckdb": 0.2} {
		if got := c.ratios()[name]; got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if _, ok := c.ratios()["run/fastduck"]; ok {
		t.Error("a ratio of a program that did not run")
	}
}
