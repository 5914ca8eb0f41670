package export

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/parquet"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/odata/evidence"
	"github.com/tablexport/tablexport/odata/scope"
)

// SliceSpec says what a slice replaces, and when its rows were read.
type SliceSpec struct {
	// Value of the partition column: "2024-03". "" is the whole of a table that is not partitioned, and the rows without
	// a value of one that is.
	Value  string
	Loaded time.Time // when its scan began: what it holds is no older. Zero = now
}

// Slice is the part of a refresh that one scan fills: the whole table, or one window. It is not safe for concurrent use.
//
//	begun ─► Write … ─► Done ─► published by Refresh.Commit
//	                  └► Discard ─► gone; another slice of the same value may be begun
type Slice struct {
	r        *Refresh
	spec     SliceSpec
	attempt  string // makes part names unique when a scan is repeated
	first    int    // number of the first part
	rows     int64
	open     *part
	parts    []*part
	misfits  []Misfit
	evidence []evidence.Evidence
	done     bool
	err      error // why it has ended
}

// part is one Parquet file.
type part struct {
	key    string
	upload store.Upload
	w      *parquet.Writer
	info   store.Info
	footer parquet.Footer
}

// Slice begins a slice. There is one of every value at a time.
func (r *Refresh) Slice(spec SliceSpec) (*Slice, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.err != nil:
		return nil, r.err
	case r.spec.Partition == "" && spec.Value != "":
		return nil, fmt.Errorf("export: the table is not partitioned, so it has no window %q", spec.Value)
	}
	for _, s := range r.slices {
		if s.spec.Value == spec.Value {
			return nil, fmt.Errorf("export: the window %q is being written already", spec.Value)
		}
	}
	if spec.Loaded.IsZero() {
		spec.Loaded = r.spec.Now()
	}
	var id [4]byte
	_, _ = rand.Read(id[:]) // never fails
	s := &Slice{r: r, spec: spec, attempt: hex.EncodeToString(id[:])}
	r.slices = append(r.slices, s)
	return s, nil
}

// Rows is the number of rows written so far.
func (s *Slice) Rows() int64 { return s.rows }

// Write appends rows. It takes nothing but what a scope has checked, and only from the scope that the dataset is stamped with.
// The caller may release rows at once. After an error the slice has ended, and can be discarded.
func (s *Slice) Write(ctx context.Context, rows scope.Checked) error {
	if s.err != nil {
		return s.err
	}
	if err := s.r.admit(rows); err != nil {
		return s.fail(err)
	}
	rec := rows.Record()
	if s.r.repeated != nil || rec.NumRows() == 0 {
		s.rows += rec.NumRows()
		return nil
	}
	if err := ctx.Err(); err != nil {
		return s.fail(fmt.Errorf("export: %w", context.Cause(ctx)))
	}
	if err := s.append(ctx, rec); err != nil {
		return s.fail(err)
	}
	return nil
}

func (s *Slice) append(ctx context.Context, rec arrow.Record) error {
	if s.open == nil {
		if err := s.begin(); err != nil {
			return err
		}
	}
	if err := s.open.w.Write(rec); err != nil {
		return err
	}
	s.rows += rec.NumRows()
	if s.open.w.Written() < s.r.spec.FileBytes {
		return nil
	}
	return s.finish(ctx)
}

// admit proves that rows are this refresh's: checked, by the scope of the stamp, with the columns of the schema.
func (r *Refresh) admit(rows scope.Checked) error {
	if !rows.OK() {
		return fmt.Errorf("export: %w: it is empty", ErrRefused)
	}
	if err := r.sameScope(rows.Scope()); err != nil {
		return err
	}
	got, want := rows.Record().Schema(), r.spec.Schema
	if got.NumFields() != want.NumFields() {
		return fmt.Errorf("export: the record has %d columns, the refresh %d", got.NumFields(), want.NumFields())
	}
	for i, g := range got.Fields() {
		if w := want.Field(i); g.Name != w.Name || !arrow.TypeEqual(g.Type, w.Type) {
			return fmt.Errorf("export: column %d of the record is %s %s, the refresh's is %s %s", i, g.Name, g.Type, w.Name, w.Type)
		}
	}
	return nil
}

func (r *Refresh) sameScope(by *scope.Scope) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if by == r.by {
		return nil
	}
	if !sameStamp(by.Stamp(), r.spec.Scope) {
		return fmt.Errorf("export: %w: it comes from the scope %q, the dataset's is %q", ErrRefused, by.Stamp().Name, r.spec.Scope.Name)
	}
	r.by = by
	return nil
}

func (s *Slice) fail(err error) error {
	s.err = err
	return err
}

// partKey names a part: the sweeper finds the run in it, and other engines' vacuum takes it for an ordinary data file. The files of
// a window lie in a directory of its value, as those of every engine do.
func (s *Slice) partKey(n int) string {
	name := fmt.Sprintf("part-%s-%s-%05d.zstd.parquet", s.r.spec.RunID, s.attempt, n)
	if s.r.spec.Partition == "" {
		return name
	}
	value := s.spec.Value
	if value == "" {
		value = nullDirectory
	}
	return s.r.spec.Partition + "=" + value + "/" + name
}

// nullDirectory stands for rows without a value, as in Hive.
const nullDirectory = "__HIVE_DEFAULT_PARTITION__"

// begin starts a part. A crash from here to finish leaves an upload that no one sees (the driver's to sweep), and
// after finish a part that no log entry names.
func (s *Slice) begin() error {
	p := &part{key: s.partKey(s.first + len(s.parts))}
	var err error
	if p.upload, err = s.r.d.b.Create(s.r.ctx, p.key); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	s.open = p
	if p.w, err = parquet.NewWriter(p.upload, s.r.spec.Schema, s.r.options()); err != nil {
		return err
	}
	return nil
}

// finish ends the open part and reads its footer back: a file counts only when a reader can open it.
func (s *Slice) finish(ctx context.Context) error {
	p := s.open
	var err error
	if p.footer, err = p.w.Close(); err != nil {
		return err
	}
	// From here on the part may be there, whatever the answer is.
	s.parts, s.open = append(s.parts, p), nil
	p.w = nil // its dictionaries and buffers are tens of megabytes, and the next file has its own
	if p.info, err = p.upload.Commit(ctx); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	p.upload = nil
	if p.info.Size != p.footer.Size {
		return fmt.Errorf("export: %s has %d bytes in the store, %d were written", p.key, p.info.Size, p.footer.Size)
	}
	f, err := parquet.Open(s.r.d.readerAt(ctx, p.key), p.info.Size)
	if err != nil {
		return fmt.Errorf("export: %s cannot be read back: %w", p.key, err)
	}
	if err := f.Check(p.footer); err != nil {
		return fmt.Errorf("export: %s: %w", p.key, err)
	}
	return nil
}

// Done ends the slice, if the evidence of its scan proves it complete and speaks of as many rows as were written. Its files are closed,
// and their footers read back; they are published by [Refresh.Commit]. A window that was read in pieces has as much evidence as pieces.
// The errors are *evidence.Incomplete, *RowMismatch and store errors; then the slice can be discarded.
//
// A window without rows gets a file without rows: that it was read, and when, must be as durable as rows are.
func (s *Slice) Done(ctx context.Context, proof ...evidence.Evidence) error {
	if s.err != nil {
		return s.err
	}
	if len(proof) == 0 {
		return s.fail(&evidence.Incomplete{Reason: "there is no evidence"})
	}
	for _, ev := range proof {
		if err := ev.Judge(); err != nil {
			return s.fail(err)
		}
	}
	if err := s.balanced(proof); err != nil {
		return s.fail(err)
	}
	if s.r.repeated == nil {
		if err := s.close(ctx); err != nil {
			return s.fail(err)
		}
	}
	s.evidence, s.err = proof, ErrEnded
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.done = true
	return nil
}

// close ends the last part.
func (s *Slice) close(ctx context.Context) error {
	if s.open == nil && len(s.parts) == 0 && s.r.spec.Partition != "" {
		if err := s.begin(); err != nil {
			return err
		}
	}
	if s.open == nil {
		return nil
	}
	return s.finish(ctx)
}

// settle sees that all parts are still there: a sweeper with a clock of its own could have taken a part of a run that slept for days.
func (s *Slice) settle(ctx context.Context) error {
	for _, p := range s.parts {
		info, err := s.r.d.b.Stat(ctx, p.key)
		if err != nil {
			return fmt.Errorf("export: a part of this refresh cannot be found any more: %w", err)
		}
		if info.Size != p.footer.Size {
			return fmt.Errorf("export: %s has %d bytes in the store, %d were written", p.key, info.Size, p.footer.Size)
		}
	}
	return nil
}

func (s *Slice) bytes() (sum int64) {
	for _, p := range s.parts {
		sum += p.footer.Size
	}
	return sum
}

// Discard drops what the slice has staged and takes it out of the refresh, done or not: its window stays as it is, or another slice
// reads it again. Behind a commit it does nothing.
func (s *Slice) Discard(ctx context.Context) error {
	if s.err == nil {
		s.err = ErrEnded
	}
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	if s.r.keep {
		return nil
	}
	s.r.slices = slices.DeleteFunc(s.r.slices, func(other *Slice) bool { return other == s })
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
	defer cancel()
	if err := s.drop(ctx); err != nil {
		return fmt.Errorf("export: dropping the parts of run %s: %w", s.r.spec.RunID, err)
	}
	return nil
}

// drop removes what was staged, as far as it can.
func (s *Slice) drop(ctx context.Context) error {
	var errs []error
	if s.open != nil {
		errs = append(errs, s.open.upload.Abort(ctx))
		s.open = nil
	}
	var left []*part
	for _, p := range s.parts {
		if p.upload != nil { // its end is not known: committed, it does nothing
			errs = append(errs, p.upload.Abort(ctx))
		}
		if err := s.r.d.b.Delete(ctx, p.key); err != nil {
			errs, left = append(errs, err), append(left, p)
		}
	}
	s.parts = left
	return errors.Join(errs...)
}

// adds are the slice's files as actions.
func (s *Slice) adds() ([]delta.Action, error) {
	tags, err := s.tags()
	if err != nil {
		return nil, err
	}
	var values map[string]*string
	if s.r.spec.Partition != "" {
		values = map[string]*string{s.r.spec.Partition: nil}
		if s.spec.Value != "" {
			values[s.r.spec.Partition] = &s.spec.Value
		}
	}
	var out []delta.Action
	for _, p := range s.parts {
		stats, err := statsOf(s.r.spec.Schema, p.footer).JSON()
		if err != nil {
			return nil, err
		}
		out = append(out, delta.Action{Add: &delta.Add{
			Path: delta.EncodePath(p.key), PartitionValues: values, Size: p.footer.Size, ModificationTime: p.info.Modified.UnixMilli(),
			DataChange: true, Stats: stats, Tags: tags,
		}})
	}
	return out, nil
}

// The tags of a file: where its rows come from. They are the dataset's only record of what is known of a window.
const (
	tagRun      = "tablexport.run"
	tagWindow   = "tablexport.window"
	tagLoaded   = "tablexport.loaded"   // when the scan began: RFC 3339, UTC
	tagQuery    = "tablexport.query"    // Spec.QueryID
	tagEvidence = "tablexport.evidence" // of the window's scan, or of the scans of its pieces: a JSON list
)

func (s *Slice) tags() (map[string]string, error) {
	tags := map[string]string{tagRun: s.r.spec.RunID, tagLoaded: s.spec.Loaded.UTC().Format(time.RFC3339Nano)}
	if s.r.spec.QueryID != "" {
		tags[tagQuery] = s.r.spec.QueryID
	}
	if s.r.spec.Partition == "" {
		return tags, nil
	}
	tags[tagWindow] = s.spec.Value
	text, err := json.Marshal(s.evidence)
	if err != nil {
		return nil, fmt.Errorf("export: the evidence of window %q cannot be written: %w", s.spec.Value, err)
	}
	tags[tagEvidence] = string(text)
	return tags, nil
}

// statsOf are the statistics of a file for its add action.
func statsOf(schema *arrow.Schema, f parquet.Footer) *delta.Stats {
	s := delta.NewStats(f.Rows)
	for _, fd := range schema.Fields() {
		c := f.Columns[fd.Name]
		s.Column(fd.Name, c.NullCount, statValue(c.Min), statValue(c.Max))
	}
	return s
}

func statValue(v any) any {
	if d, ok := v.(parquet.Decimal); ok {
		return jsonNumber(d)
	}
	return v
}
