package main

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/jobs/alert"
)

func alertsCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:     "alerts",
		Short:   "Try the channels of alerts",
		Example: "  tablexport alerts test",
	}
	c.AddCommand(&cobra.Command{
		Use:   "test [CHANNEL]...",
		Short: "Send a test alert to channels of the configuration, or to all",
		Long: `Send a test alert to channels of the configuration, or to all. Each is tried once; the command fails if one of them does.
A signed webhook's receiver sees kind "test".`,
		Example: "  tablexport alerts test\n  tablexport alerts test ops",
		RunE:    func(c *cobra.Command, args []string) error { return g.testAlerts(c.Context(), args) },
	})
	return c
}

func (g *globals) testAlerts(ctx context.Context, names []string) error {
	a, err := g.open()
	if err != nil {
		return err
	}
	defer a.close()
	channels := a.channels()
	known := slices.Sorted(maps.Keys(channels))
	if len(known) == 0 {
		return usagef("%s has no channels for alerts: write alerts.channels", g.config)
	}
	if len(names) == 0 {
		names = known
	}
	for _, name := range names {
		if channels[name] == nil {
			return usagef("there is no channel %q; the channels are: %s", name, strings.Join(known, ", "))
		}
	}
	var errs []error
	for _, name := range names {
		err := alert.Send(ctx, channels[name], alert.Alert{Key: "test", Kind: "test", Severity: alert.Info, Since: time.Now(),
			Title: "this is a test", Text: "If you can read this, alerts of tablexport reach you.", Do: "Nothing."})
		errs = append(errs, err)
		view := map[string]any{"channel": name, "ok": err == nil}
		if err != nil {
			view["error"] = err.Error()
		}
		if eerr := g.emit(view, func() {
			if err == nil {
				g.printf("%s: sent\n", name)
			} else {
				g.printf("%s: %v\n", name, err)
			}
		}); eerr != nil {
			return eerr
		}
	}
	return firstOf(errs)
}
