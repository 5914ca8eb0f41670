package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
)

const (
	worse      = 1.15 // times the recorded ratio
	shortRows  = 200_000
	shortTries = 3
)

// short are the ratios that CI looks at: small enough to be measured in a minute, and each of them between two things that are
// slowed down alike when the machine is busy.
func (t tools) short(ctx context.Context, rounds int) (map[string]float64, error) {
	names := []string{"scan", "encode", "run", "naive"}
	if t.python != "" {
		names = append(names, "duckdb-1")
	}
	c, err := t.compare(ctx, 20, shortRows, 10_000, rounds, names)
	if err != nil {
		return nil, err
	}
	times, err := decodeRatio(ctx, 4*rounds)
	if err != nil {
		return nil, err
	}
	c.Ratios["valid/decode"] = 1 / times
	return c.Ratios, nil
}

// checkShort fails when a ratio is more than 15 % worse than the recorded one: in three measurements, because what others do on
// the machine can spoil one, and never makes one better than it is.
func (t tools) checkShort(ctx context.Context, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("%w: record the ratios first (.ci/bench.sh --record)", err)
	}
	var recorded report
	if err := json.Unmarshal(text, &recorded); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	best := map[string]float64{}
	for try := 1; ; try++ {
		now, err := t.short(ctx, 3)
		if err != nil {
			return err
		}
		var m missed
		fmt.Printf("\nmeasurement %d\n%-14s %9s %9s %7s\n", try, "ratio", "recorded", "now", "")
		for _, name := range slices.Sorted(maps.Keys(now)) {
			if best[name] == 0 || now[name] < best[name] {
				best[name] = now[name]
			}
			want, verdict := recorded.Short[name], "ok"
			switch {
			case want == 0:
				verdict = "not recorded"
			case best[name] > want*worse:
				verdict = "WORSE"
				m = append(m, fmt.Sprintf("%s is %.3f, recorded is %.3f: %.0f %% worse", name, best[name], want, 100*(best[name]/want-1)))
			}
			fmt.Printf("%-14s %9.3f %9.3f  %s\n", name, want, now[name], verdict)
		}
		if len(m) == 0 {
			return nil
		}
		if try == shortTries {
			return m
		}
	}
}
