package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/secrets/audit"
)

func auditCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "audit", Short: "Read and verify the audit log: every loan, refusal, activation and publication",
		Example: "  tablexport audit tail -n 50\n  tablexport audit verify",
	}
	var n int
	var follow bool
	tail := &cobra.Command{
		Use:     "tail",
		Short:   "Show the newest entries",
		Long:    "Show the newest entries. With --state no configuration is needed.",
		Example: "  tablexport audit tail -n 50\n  tablexport audit tail --follow --json\n  tablexport audit tail -n 0 -f     # only what is new",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return g.auditTail(c.Context(), n, follow) },
	}
	tail.Flags().IntVarP(&n, "lines", "n", 20, "how many `entries`")
	tail.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new entries as they come")
	c.AddCommand(tail, &cobra.Command{
		Use:   "verify",
		Short: "Check the log's hash chain",
		Long: `Check the log's hash chain: every entry carries the hash of the one before it, so a changed, removed or reordered
line is found, with file and line. Note the last hash somewhere else, to find a tail that was cut off as well.
With --state no configuration is needed.`,
		Example: "  tablexport audit verify",
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return g.auditVerify() },
	})
	return c
}

// auditDirectory is where the audit log is. With --state it is known without a configuration, which whoever looks into a log,
// or into a copy of one, need not have.
func (g *globals) auditDirectory() (string, error) {
	if g.state == "" {
		a, err := g.open()
		if err != nil {
			return "", err
		}
		g.warnState(a.stateDir())
		return a.auditDir(), nil
	}
	g.warnState(g.state)
	return filepath.Join(g.state, "audit"), nil
}

func (g *globals) auditTail(ctx context.Context, n int, follow bool) error {
	if err := atLeastNone("lines", n); err != nil {
		return err
	}
	dir, err := g.auditDirectory()
	if err != nil {
		return err
	}
	entries, err := audit.Tail(dir, n)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	absent := err != nil
	if absent || len(entries) == 0 && n > 0 {
		g.printf("no entries yet in %s\n", dir)
	}
	for _, e := range entries {
		g.printEntry(e)
	}
	if !follow {
		return nil
	}
	var last int64 // of a log that has no entries yet, all are new
	switch {
	case len(entries) > 0:
		last = entries[len(entries)-1].Seq
	case n == 0 && !absent:
		last = -1
	}
	return audit.Follow(ctx, dir, last, func(e audit.Entry) error {
		g.printEntry(e)
		return nil
	})
}

func (g *globals) printEntry(e audit.Entry) {
	_ = g.emit(e, func() {
		var detail []string
		for k, v := range e.Detail {
			detail = append(detail, k+"="+v)
		}
		slices.Sort(detail)
		text := fmt.Sprintf("%s #%d %-16s %-8s %s", e.Time.Local().Format("2006-01-02 15:04:05"), e.Seq, e.Action, e.Outcome, e.Subject)
		for _, part := range []string{e.Fingerprint, e.Table, e.Run, e.Actor} {
			if part != "" {
				text += "  " + part
			}
		}
		if e.Rows != 0 {
			text += fmt.Sprintf("  %s rows", count(e.Rows))
		}
		g.printf("%s\n", strings.TrimRight(text+"  "+strings.Join(detail, " "), " "))
	})
}

func (g *globals) auditVerify() error {
	dir, err := g.auditDirectory()
	if err != nil {
		return err
	}
	report, err := audit.Verify(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	report.Problems = slices.Concat([]string{}, report.Problems) // [] in JSON, not null
	if err := g.emit(report, func() {
		for _, p := range report.Problems {
			g.printf("%s\n", p)
		}
		if report.Files > 0 {
			g.printf("%s entries in %d file(s), last #%d %s\n", count(report.Entries), report.Files, report.LastSeq, report.LastHash)
		}
	}); err != nil {
		return err
	}
	switch {
	case len(report.Problems) > 0:
		return &brokenAuditError{len(report.Problems)}
	case report.Entries == 0:
		g.printf("no entries yet in %s: there is nothing to verify\n", dir)
	default:
		g.printf("the chain is sound\n")
	}
	return nil
}

// brokenAuditError says that the audit log was changed or damaged.
type brokenAuditError struct{ problems int }

func (e *brokenAuditError) Error() string {
	return fmt.Sprintf("the audit log is not sound: %d problem(s); keep a copy of it and find out who changed it", e.problems)
}
