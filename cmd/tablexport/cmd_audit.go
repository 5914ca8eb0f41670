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
		Use: "audit", Short: "Read, sign and verify the audit log: every loan, refusal, activation and publication",
		Example: "  tablexport audit tail -n 50\n  tablexport audit verify\n  tablexport audit export october.parquet --from 2026-10-01 --to 2026-11-01",
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
	c.AddCommand(tail, auditVerifyCommand(g), auditCheckpointCommand(g), auditExpireCommand(g), auditExportCommand(g), auditKeygenCommand(g))
	return c
}

func auditVerifyCommand(g *globals) *cobra.Command {
	var dir string
	var keys []string
	verify := &cobra.Command{
		Use:   "verify",
		Short: "Check the log's hash chain, and hold it to its signed checkpoints",
		Long: `Check the log's hash chain: every entry carries the hash of the one before it, so a changed, removed or reordered
line is found, with file and line.

A chain alone does not show that its tail was cut off, or that the log was rewritten with all hashes anew. Signed checkpoints,
kept away from the log, do: those of audit.checkpoints in the configuration, or a copy of them in a directory. What was
written after the newest checkpoint is vouched for by the log alone; the output says how much that is.
With --state no configuration is needed.`,
		Example: `  tablexport audit verify
  tablexport audit verify --state ./copy-of-state --checkpoints ./copy-of-checkpoints --public-key ./audit.pub`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return g.auditVerify(c.Context(), dir, keys) },
	}
	verify.Flags().StringVar(&dir, "checkpoints", "", "`directory` with a copy of the checkpoints, in place of the configured ones")
	verify.Flags().StringArrayVar(&keys, "public-key", nil, "`file` with the public key that must have signed them (repeat it for several)")
	return verify
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

func (g *globals) auditVerify(ctx context.Context, checkpoints string, keys []string) error {
	dir, err := g.auditDirectory()
	if err != nil {
		return err
	}
	held, attested, err := g.auditEvidence(ctx, checkpoints, keys) // before the log: what is signed must be in it
	if err != nil {
		return err
	}
	var result struct {
		audit.Report
		Attestation *audit.Attestation `json:"attestation,omitempty"`
	}
	if attested {
		result.Attestation = &audit.Attestation{}
		result.Report, *result.Attestation, err = audit.Attest(dir, held.envelopes, held.keys)
	} else {
		result.Report, err = audit.Verify(dir)
	}
	if errors.Is(err, fs.ErrNotExist) && len(held.envelopes) > 0 {
		result.Problems = []string{fmt.Sprintf("there is no log in %s, and %d checkpoints say that there was one", dir, len(held.envelopes))}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	result.Problems = slices.Concat([]string{}, result.Problems) // [] in JSON, not null
	if err := g.emit(result, func() { g.printVerified(result.Report, result.Attestation) }); err != nil {
		return err
	}
	switch {
	case len(result.Problems) > 0:
		return &brokenAuditError{len(result.Problems)}
	case result.Entries == 0:
		g.printf("no entries yet in %s: there is nothing to verify\n", dir)
	default:
		g.printf("the chain is sound\n")
	}
	return nil
}

func (g *globals) printVerified(report audit.Report, a *audit.Attestation) {
	for _, p := range report.Problems {
		g.printf("%s\n", p)
	}
	if report.Files > 0 {
		g.printf("%s entries in %d file(s), last #%d %s\n", count(report.Entries), report.Files, report.LastSeq, report.LastHash)
	}
	if report.FirstSeq > 1 {
		g.printf("the log begins with #%d: retention removed what came before\n", report.FirstSeq)
	}
	if a == nil {
		return
	}
	if a.Checkpoints == 0 {
		g.printf("no checkpoint vouches for this log\n")
	} else {
		g.printf("%d checkpoint(s) vouch for it up to #%d, signed %s; %s entries behind that are vouched for by the log alone\n",
			a.Checkpoints, a.Seq, a.Time.Format("2006-01-02 15:04:05Z"), count(a.Unsigned))
	}
	for _, o := range a.Others {
		g.printf("beside it lie checkpoints of another log, %.16s, up to #%d of %s: another machine's, or one that was thrown away\n",
			o.Log, o.Seq, o.Time.Format("2006-01-02 15:04:05Z"))
	}
}

// brokenAuditError says that the audit log was changed or damaged.
type brokenAuditError struct{ problems int }

func (e *brokenAuditError) Error() string {
	return fmt.Sprintf("the audit log is not sound: %d problem(s); keep a copy of it and find out who changed it", e.problems)
}
