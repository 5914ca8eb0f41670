package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/tablexport/tablexport/odata/simulator"
)

func TestSchedule(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Options{}, `  sofia: {instance: sim, table: Gen_Products, scope: all, store: lake, path: sofia, schedule: {cron: "30 3 * * *", zone: Europe/Sofia}}`)
	got := objects(t, w.must(exitOK, "schedule", "next", "sofia", "--count", "20", "--json").out)
	if len(got) != 20 || got[0]["zone"] != "Europe/Sofia" || !strings.Contains(got[0]["at"].(string), "T03:30:00+0") {
		t.Errorf("%v", got)
	}
	contains(t, w.must(exitOK, "schedule", "next").out, "lines", "sofia", "Europe/Sofia", " 03:30 +0")
	contains(t, w.must(exitUsage, "schedule", "next", "orders").err, "has no schedule")
	contains(t, w.must(exitUsage, "schedule", "next", "nope").err, "no job")
	contains(t, w.must(exitUsage, "schedule", "next", "--count", "0").err, "1 to 1000")
	contains(t, w.must(exitOK, "schedule", "ticks").out, "no ticks yet")
	w.must(exitUsage, "schedule", "ticks", "nope")

	contains(t, w.must(exitOK, "schedule", "pause", "lines", "--why", "stocktaking").out, "lines is paused")
	contains(t, w.must(exitOK, "schedule", "resume", "lines").out, "lines is resumed")
	w.must(exitUsage, "schedule", "pause", "nope")
	log := w.must(exitOK, "audit", "tail", "--json").out
	var steered []string
	for _, e := range objects(t, log) {
		if e["subject"] == "lines" && e["actor"] != "" {
			steered = append(steered, e["action"].(string))
		}
	}
	if !slices.Equal(steered, []string{"pause", "resume"}) {
		t.Errorf("%s", log)
	}
}

// Old history is counted and removed from the command line; weeks that others need are not.
func TestPruneCommand(t *testing.T) {
	w := newWorld(t, simulator.Options{})
	w.mustWith(exitOK, testToken, "tokens", "stage", "bi/reader", "--activate")
	w.must(exitOK, "run", "orders")
	contains(t, w.must(exitOK, "schedule", "prune", "--dry-run").out, "0 run(s) and 0 tick(s) from before", "would be removed; the ledger takes")
	contains(t, w.must(exitOK, "schedule", "prune", "--older-than", "90d", "--json").out, `"runs":0`, `"dryRun":false`)
	contains(t, w.must(exitUsage, "schedule", "prune", "--older-than", "30d").err, "35d is the least")
	contains(t, w.must(exitUsage, "schedule", "prune", "--older-than", "long ago").err, "write it like 90d")
	contains(t, w.must(exitOK, "runs").out, "orders")
}
