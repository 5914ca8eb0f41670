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
	shortTurns = 3
	shortTries = 4

	shortRecords = 7
)

// checked are the ratios that CI looks at: each of them between two things that are slowed down alike when the machine is busy.
// What takes long is the measure: what takes a fraction of a second is measured several times in each round, and yet varies more.
var checked = []string{"encode/naive", "run/naive", "scan/naive", "valid/decode"}

// shortPrograms, in the order of a round.
var shortPrograms = []string{"scan", "run", "scan", "encode", "scan", "naive", "scan", "run"}

// short measures those, small enough for a minute. Every program has one processor, because two that are the threads of one core make each other slower, which
// is measured as processor seconds of whoever uses both.
func (t tools) short(ctx context.Context, rounds int) (map[string]float64, error) {
	t.single = true
	c, err := t.compare(ctx, 20, shortRows, 10_000, rounds, shortPrograms)
	if err != nil {
		return nil, err
	}
	times, err := decodeRatio(ctx, 4*rounds)
	if err != nil {
		return nil, err
	}
	c.Ratios["valid/decode"] = 1 / times
	maps.DeleteFunc(c.Ratios, func(name string, _ float64) bool { return !slices.Contains(checked, name) })
	return c.Ratios, nil
}

// recordShort is the median of several measurements: one alone may be better than what can be had again.
func (t tools) recordShort(ctx context.Context) (map[string]float64, error) {
	all := map[string][]float64{}
	for range shortRecords {
		now, err := t.short(ctx, shortTurns)
		if err != nil {
			return nil, err
		}
		for _, name := range checked {
			all[name] = append(all[name], now[name])
		}
	}
	out := map[string]float64{}
	fmt.Printf("\n%-14s %9s %19s\n", "ratio", "median", "of")
	for _, name := range checked {
		out[name] = median(all[name])
		fmt.Printf("%-14s %9.3f %9.3f %9.3f\n", name, out[name], slices.Min(all[name]), slices.Max(all[name]))
	}
	return out, nil
}

// checkShort fails when a ratio is more than 15 % worse than the recorded one: in four measurements, because what others do on
// the machine can spoil one, and never makes one better than it is. Ratios of another kind of processor are shown and not judged: they
// differ by more than that from one to the next.
func (t tools) checkShort(ctx context.Context, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("%w: record the ratios first (.ci/bench.sh --record)", err)
	}
	var recorded report
	if err := json.Unmarshal(text, &recorded); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	here := describe()
	same := here.Arch == recorded.Machine.Arch && here.CPU == recorded.Machine.CPU && here.Model == recorded.Machine.Model && here.CPUs == recorded.Machine.CPUs
	best := map[string]float64{}
	for try := 1; ; try++ {
		now, err := t.short(ctx, shortTurns)
		if err != nil {
			return err
		}
		m := judgeShort(recorded.Short, now, best)
		fmt.Printf("\nmeasurement %d\n%-14s %9s %9s %9s\n", try, "ratio", "recorded", "now", "least")
		for _, name := range checked {
			fmt.Printf("%-14s %9.3f %9.3f %9.3f\n", name, recorded.Short[name], now[name], best[name])
		}
		switch {
		case !same:
			fmt.Printf("\nnot judged: recorded was on %s\n", recorded.Machine)
			return nil
		case len(m) == 0:
			fmt.Printf("\nno ratio is more than %.0f %% worse than recorded\n", 100*(worse-1))
			return nil
		case try == shortTries:
			return m
		}
	}
}

// judgeShort takes a measurement into the best of each ratio, and says which are still too bad.
func judgeShort(recorded, now, best map[string]float64) (m missed) {
	for _, name := range checked {
		if best[name] == 0 || now[name] < best[name] {
			best[name] = now[name]
		}
		switch want := recorded[name]; {
		case want == 0:
			m = append(m, name+" is not recorded: .ci/bench.sh --record")
		case best[name] > want*worse:
			m = append(m, fmt.Sprintf("%s is %.3f, recorded is %.3f: %.0f %% worse", name, best[name], want, 100*(best[name]/want-1)))
		}
	}
	return m
}
