package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/export/parquet"
	"github.com/tablexport/tablexport/secrets/audit"
)

func auditKeygenCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "keygen FILE",
		Short: "Make the key that signs checkpoints of the audit log",
		Long: `Make the key that signs checkpoints of the audit log: an Ed25519 key in FILE (mode 0600, never replaced), and the public
half of it in FILE.pub. Give the public half to whoever verifies the log, on another machine; audit verify takes it with --public-key.`,
		Example: "  tablexport audit keygen /etc/tablexport/audit.key",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			public, err := audit.NewKey(args[0])
			if err != nil {
				return err
			}
			text, err := audit.EncodePublicKey(public)
			if err != nil {
				return err
			}
			pub := args[0] + ".pub"
			if err := os.WriteFile(pub, text, 0o640); err != nil {
				return err
			}
			return g.emit(map[string]string{"key_file": args[0], "public_key": pub, "key": audit.KeyID(public)}, func() {
				g.printf("key %s: %s signs, %s verifies\n", audit.KeyID(public), args[0], pub)
			})
		},
	}
}

func auditCheckpointCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "checkpoint",
		Short: "Sign the newest entry of the audit log, and keep that away from the log",
		Long: `Sign the newest entry of the audit log and put the checkpoint where audit.checkpoints of the configuration says. Every command
that adds to the log does this at its end; this one is for when the store was away then.`,
		Example: "  tablexport audit checkpoint",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a, log, err := g.openSigned()
			if err != nil {
				return err
			}
			defer a.close()
			signed, ok, err := a.signLog(c.Context(), log)
			if err != nil {
				return err
			}
			return g.emit(map[string]any{"signed": ok, "checkpoint": signed}, func() {
				if !ok {
					g.printf("the log has no entries yet\n")
					return
				}
				g.printf("entry #%d is signed, %s\n", signed.Seq, signed.Time.Format("2006-01-02 15:04:05Z"))
			})
		},
	}
}

// openSigned opens the configuration and its audit log, for what needs checkpoints. Close the app when done, unless there is an error.
func (g *globals) openSigned() (*app, *audit.Log, error) {
	a, err := g.open()
	if err != nil {
		return nil, nil, err
	}
	if a.cfg.Audit.Checkpoints == nil {
		return nil, nil, usagef("there are no audit.checkpoints in %s: write where they go, and make a key with: tablexport audit keygen FILE", a.config)
	}
	log, err := a.audit()
	if err != nil {
		a.close()
		return nil, nil, err
	}
	return a, log, nil
}

func auditExpireCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "expire",
		Short: "Remove files of the audit log that are older than audit.keep_days",
		Long: `Remove files of the audit log whose entries are all older than audit.keep_days of the configuration, oldest first, and never the
last one. Files are removed whole, so that some entries stay longer. An entry and a signed checkpoint say first what goes, so that audit verify
can tell retention from somebody else's doing. Export what must be kept longer with: tablexport audit export`,
		Example: "  tablexport audit expire",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a, log, err := g.openSigned()
			if err != nil {
				return err
			}
			defer a.close()
			days := a.cfg.Audit.KeepDays
			if days == 0 {
				return usagef("audit.keep_days is not set in %s: nothing is to be removed", a.config)
			}
			n, err := a.expireLog(c.Context(), log, time.Now().AddDate(0, 0, -days))
			if err != nil {
				return err
			}
			return g.emit(map[string]any{"removed_files": n, "keep_days": days}, func() { g.printf("%d file(s) removed, older than %d days\n", n, days) })
		},
	}
}

func (a *app) expireLog(ctx context.Context, log *audit.Log, before time.Time) (int, error) {
	key, err := audit.ReadKey(a.cfg.Resolve(a.cfg.Audit.Checkpoints.KeyFile))
	if err != nil {
		return 0, err
	}
	b, err := a.checkpoints(ctx)
	if err != nil {
		return 0, err
	}
	defer b.Close()
	return log.Expire(ctx, before, key, shelf(b))
}

func auditExportCommand(g *globals) *cobra.Command {
	var from, to string
	c := &cobra.Command{
		Use:   "export FILE",
		Short: "Write entries of the audit log to a Parquet file",
		Long: `Write entries of the audit log to a Parquet file, for the tools of whoever reviews them. The whole log is verified on the way, and
nothing is written if it is not sound. --from and --to are days (UTC, the first included, the last not) or RFC 3339 times.
The columns are those of an entry; detail is a JSON object. With --state no configuration is needed.`,
		Example: "  tablexport audit export october.parquet --from 2026-10-01 --to 2026-11-01\n  tablexport audit export all.parquet",
		Args:    cobra.ExactArgs(1),
		RunE:    func(_ *cobra.Command, args []string) error { return g.auditExport(args[0], from, to) },
	}
	c.Flags().StringVar(&from, "from", "", "the first `day or time` (default: the first there is)")
	c.Flags().StringVar(&to, "to", "", "the `day or time` before which to stop (default: none)")
	return c
}

// dayOrTime reads a bound of a range; "" is none.
func dayOrTime(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339Nano} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("--%s takes a day such as 2026-10-01, or a time such as 2026-10-01T12:00:00Z", flag)
}

// auditColumns is how entries look in Parquet.
var auditColumns = arrow.NewSchema([]arrow.Field{
	{Name: "seq", Type: arrow.PrimitiveTypes.Int64},
	{Name: "time", Type: &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"}},
	{Name: "actor", Type: arrow.BinaryTypes.String},
	{Name: "action", Type: arrow.BinaryTypes.String},
	{Name: "subject", Type: arrow.BinaryTypes.String},
	{Name: "outcome", Type: arrow.BinaryTypes.String},
	{Name: "fingerprint", Type: arrow.BinaryTypes.String, Nullable: true},
	{Name: "job", Type: arrow.BinaryTypes.String, Nullable: true},
	{Name: "run", Type: arrow.BinaryTypes.String, Nullable: true},
	{Name: "table", Type: arrow.BinaryTypes.String, Nullable: true},
	{Name: "rows", Type: arrow.PrimitiveTypes.Int64},
	{Name: "detail", Type: arrow.BinaryTypes.String, Nullable: true},
	{Name: "prev", Type: arrow.BinaryTypes.String},
	{Name: "hash", Type: arrow.BinaryTypes.String},
}, nil)

// auditBatch is how many entries are held before they go to the encoders.
const auditBatch = 4096

func (g *globals) auditExport(path, fromText, toText string) error {
	from, err := dayOrTime("from", fromText)
	if err != nil {
		return err
	}
	to, err := dayOrTime("to", toText)
	if err != nil {
		return err
	}
	if !from.IsZero() && !to.IsZero() && !from.Before(to) {
		return usagef("--from must be before --to")
	}
	dir, err := g.auditDirectory()
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err == nil {
		return usagef("%s exists already; name another file", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	n, err := exportEntries(f, dir, from, to)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Link(f.Name(), path) // unlike a rename, it replaces nothing
	}
	err = errors.Join(err, os.Remove(f.Name()))
	if err != nil {
		return err
	}
	return g.emit(map[string]any{"file": path, "entries": n}, func() { g.printf("%s entries in %s\n", count(n), path) })
}

// exportEntries writes entries of the log in dir to f, which is worthless after an error.
func exportEntries(f *os.File, dir string, from, to time.Time) (int64, error) {
	w, err := parquet.NewWriter(f, auditColumns, parquet.Options{Key: []string{"seq", "prev", "hash"}})
	if err != nil {
		return 0, err
	}
	rows := array.NewRecordBuilder(memory.DefaultAllocator, auditColumns)
	defer rows.Release()
	held := 0
	flush := func() error {
		rec := rows.NewRecord()
		defer rec.Release()
		held = 0
		return w.Write(rec)
	}
	report, err := audit.Range(dir, from, to, func(e audit.Entry) error {
		if err := appendEntry(rows, e); err != nil {
			return err
		}
		if held++; held < auditBatch {
			return nil
		}
		return flush()
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, usagef("there is no audit log in %s", dir)
	case err != nil:
		return 0, err
	case len(report.Problems) > 0:
		return 0, &brokenAuditError{len(report.Problems)}
	}
	if held > 0 {
		if err := flush(); err != nil {
			return 0, err
		}
	}
	footer, err := w.Close()
	return footer.Rows, err
}

func appendEntry(rows *array.RecordBuilder, e audit.Entry) error {
	var detail string
	if len(e.Detail) > 0 {
		text, err := json.Marshal(e.Detail)
		if err != nil {
			return fmt.Errorf("entry %d: %w", e.Seq, err)
		}
		detail = string(text)
	}
	for i, value := range []any{e.Seq, e.Time, e.Actor, e.Action, e.Subject, e.Outcome, e.Fingerprint, e.Job, e.Run, e.Table, e.Rows, detail, e.Prev, e.Hash} {
		switch b := rows.Field(i).(type) {
		case *array.Int64Builder:
			n, _ := value.(int64)
			b.Append(n)
		case *array.TimestampBuilder:
			t, _ := value.(time.Time)
			b.Append(arrow.Timestamp(t.UnixMicro()))
		case *array.StringBuilder:
			if s, _ := value.(string); s != "" || !auditColumns.Field(i).Nullable {
				b.Append(s)
			} else {
				b.AppendNull()
			}
		}
	}
	return nil
}
